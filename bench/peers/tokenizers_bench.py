#!/usr/bin/env python3
"""Encoding speed side by side with the `tokenizers` package: the same vocabulary, the same lines, one thread each, in turn.

    .venv/bin/python bench/peers/tokenizers_bench.py --tokenizer runs/tokenizer --in input.txt [--rounds 5]

Prints both medians in MB/s (10^6 bytes of text a second), their ratio, and whether the ids agree; --json for one object.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json or its folder")
    parser.add_argument("--in", dest="text", required=True, help="a UTF-8 text file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--binary", default=str(ROOT / "build/release/finback"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    path = pathlib.Path(args.tokenizer)
    theirs = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
    data = pathlib.Path(args.text).read_bytes()
    lines = [line.decode() for line in data.split(b"\n")]
    lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])

    # A round is the best of three passes within each process, so that both have a warm cache and neither pays for a neighbour.
    def their_round():
        best = 0.0
        for _ in range(3):
            start = time.perf_counter()
            encodings = theirs.encode_batch_fast(lines, add_special_tokens=False)
            best = max(best, len(data) / (time.perf_counter() - start) / 1e6)
        return best, sum(len(e.ids) for e in encodings)

    def our_round():
        out = subprocess.run([args.binary, "tokenizer", "encode", "--tokenizer", args.tokenizer, "--in", args.text, "--bench", "3", "--threads", "1",
                              "--allow-special", "--json"], stdout=subprocess.PIPE, check=True).stdout
        result = json.loads(out)
        return result["mb_per_s"], result["tokens"]

    rounds = [(our_round(), their_round()) for _ in range(args.rounds)]
    ours, peer = (statistics.median(r[i][0] for r in rounds) for i in (0, 1))
    same = all(a[1] == b[1] for a, b in rounds)
    result = {"finback_mb_per_s": round(ours, 2), "tokenizers_mb_per_s": round(peer, 2), "ratio": round(ours / peer, 1), "tokens": rounds[0][0][1],
              "same_number_of_tokens": same, "tokenizers_version": tokenizers.__version__, "rounds": args.rounds}
    if args.json:
        print(json.dumps(result))
    else:
        print(f"finback {ours:.1f} MB/s, tokenizers {tokenizers.__version__} {peer:.2f} MB/s, one thread each, medians of {args.rounds}: {ours / peer:.1f} times")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
