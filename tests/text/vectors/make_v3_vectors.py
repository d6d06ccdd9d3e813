#!/usr/bin/env python3
"""Records tests/text/vectors/v3.json: what the `tokenizers` package makes of texts of many scripts with DeepSeek-V3's vocabulary.

    FINBACK_DATA=… .venv/bin/python tests/text/vectors/make_v3_vectors.py
"""
import json
import os
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent.parent / "scripts"))
import witness_tokenizer as witness  # noqa: E402

TEXTS = [
    "", " ", "The quick brown fox jumps over the lazy dog.", "don't I'LL we've", "  leading and trailing  ", "tabs\tand\r\nline breaks\n\n\n  x",
    "1234567890 3.14159 1,000,000 ²½Ⅳ", "def f(x: int) -> str:\n    return f\"{x!r:>10}\"\n", "for (;;) { ++i; } // ok\n#include <a.h>\n",
    "Straße, Führer, façade, naïve, Ångström", "Привет, мир! Ёлка", "Γειά σου Κόσμε", "你好，世界！這是測試。", "日本語のテキスト・カタカナー゛゜", "안녕하세요 세계",
    "مرحبا بالعالم ١٢٣", "שלום עולם", "नमस्ते दुनिया १२३", "สวัสดีชาวโลก", "🌍🎉👩‍👩‍👧‍👦🏽🇩🇪", "e\u0301a\u0308\u0301\u0301", "∑∫√∞ ≠ ≤ €100 £5",
    "\u00a0\u2003\u3000x\u2028y\u0085z", "a\x00b\x01\x7f", "𝒜𝔅 𠀀𪛖 ǅ ʰʲ", "<｜User｜>hi<｜Assistant｜>", "_foo$bar-baz/qux", "!!!???...", "=====\n=====\r\n", "\ufeffBOM\u200b",
]


def main():
    tokenizer = witness.without_specials(witness.v3_tokenizer(pathlib.Path(os.environ["FINBACK_DATA"])))
    rng = random.Random(20240607)
    texts = TEXTS + [witness.random_text(rng, 60) for _ in range(60)]
    lines = [json.dumps({"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids}, ensure_ascii=True) for t in texts]
    (HERE / "v3.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
