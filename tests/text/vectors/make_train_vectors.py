#!/usr/bin/env python3
"""Records tests/text/vectors/train.json: the merges that the `tokenizers` package's BpeTrainer learns from a random text.

    .venv/bin/python tests/text/vectors/make_train_vectors.py
"""
import json
import pathlib
import random
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent.parent / "scripts"))
import witness_tokenizer as witness  # noqa: E402


def main():
    rng = random.Random(20240609)
    text = "".join(witness.random_text(rng, 150) + rng.choice(["the cat's mat ", "It isn't 1999\n", "aaaa aa", "中文字符"]) * 3 for _ in range(40))
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        first = ["<a>", "<b>", "<c>"]
        twin = json.loads(witness.train_twin([file.name], 3 + 256 + 400, first, witness.chain(witness.V3_SPLITS)).to_str())
    (HERE / "train.json").write_text(json.dumps({"text": text, "merges": twin["model"]["merges"]}) + "\n")


if __name__ == "__main__":
    main()
