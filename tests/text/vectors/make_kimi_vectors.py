#!/usr/bin/env python3
"""Records tests/text/vectors/kimi: a small tiktoken.model with Kimi-K2's pattern and what tiktoken makes of random texts.

    pip install tiktoken && python tests/text/vectors/make_kimi_vectors.py
"""
import base64
import json
import pathlib
import random
import sys

import tiktoken

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent.parent / "scripts"))
import witness_tokenizer as witness  # noqa: E402


def main():
    rng = random.Random(20240608)
    corpus = "".join(witness.random_text(rng, 400) for _ in range(60)) + "The cat sat on the mat. It's THE cat's mat, don't we've. " * 9
    trained = witness.Tokenizer(witness.models.BPE())
    trained.pre_tokenizer = witness.chain([witness.KIMI_PATTERN])
    trainer = witness.trainers.BpeTrainer(vocab_size=600, initial_alphabet=witness.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    trained.train_from_iterator([corpus], trainer)
    back = {c: b for b, c in witness.byte_letters().items()}
    tokens = [bytes(back[c] for c in t) for t, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    n = len(tokens)
    named = {n: "[BOS]", n + 1: "[EOS]", n + 2: "<|im_end|>", n + 257: "[PAD]"}
    folder = HERE / "kimi"
    folder.mkdir(exist_ok=True)
    (folder / "tiktoken.model").write_text("".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens)))
    config = {"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]",
              "added_tokens_decoder": {str(i): {"content": t, "special": True} for i, t in named.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    special = {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(n, n + 258)}
    kimi = tiktoken.Encoding("kimi", pat_str=witness.KIMI_PATTERN, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens=special)
    lines = []
    for i in range(80):
        text = witness.random_text(rng, 50)
        if i % 4 == 0:
            text = rng.choice(list(special)) + text + "<|im_end|>"
            lines.append({"text": text, "special": True, "ids": kimi.encode(text, allowed_special="all")})
        lines.append({"text": text, "special": False, "ids": kimi.encode(text, disallowed_special=())})
    (folder / "vectors.json").write_text("[\n" + ",\n".join(json.dumps(x) for x in lines) + "\n]\n")


if __name__ == "__main__":
    main()
