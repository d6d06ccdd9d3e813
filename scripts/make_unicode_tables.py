#!/usr/bin/env python3
"""Writes src/text/unicode_tables.cpp: the classes of every code point that pre-tokenizers ask for, as ranges.

Source: the Unicode Character Database 16.0 by way of the PyPI package unicodedataplus==16.0.0.post1 (general category and
script). 16.0 is the version of the regular expression engine in the `tokenizers` package that our ids are compared with;
scripts/witness_tokenizer.py holds the classes against that engine on all code points.

    pip install unicodedataplus==16.0.0.post1 && python scripts/make_unicode_tables.py
"""
import pathlib

import unicodedataplus as ucd

BITS = {"Lu": 1, "Ll": 2, "Lt": 4, "Lm": 8, "Lo": 16, "M": 32, "N": 64, "P": 128, "S": 256}
SPACE, HAN, NEWLINE = 512, 1024, 2048
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def classes(code):
    char = chr(code)
    category = ucd.category(char)
    bits = BITS.get(category, BITS.get(category[0], 0))
    if code in WHITE_SPACE:  # the property White_Space of PropList.txt, which is what \s means
        bits |= SPACE
    if code in (0x0A, 0x0D):
        bits |= NEWLINE
    if ucd.script(char) == "Han":
        bits |= HAN
    return bits


def main():
    assert ucd.unidata_version == "16.0.0", ucd.unidata_version
    ranges = []
    for code in range(0x110000):
        bits = classes(code)
        if not ranges or ranges[-1][1] != bits:
            ranges.append((code, bits))
    lines = []
    for i in range(0, len(ranges), 8):
        lines.append("    " + " ".join(f"{{0x{code:X}, 0x{bits:X}}}," for code, bits in ranges[i : i + 8]))
    out = f"""// Made by scripts/make_unicode_tables.py from the Unicode Character Database {ucd.unidata_version}. Do not edit.
#include "text/unicode.h"

namespace finback::text {{

// clang-format off
const ClassRange kClassRanges[] = {{
{chr(10).join(lines)}
}};
// clang-format on
const int kClassRangeCount = {len(ranges)};

}}  // namespace finback::text
"""
    path = pathlib.Path(__file__).resolve().parent.parent / "src/text/unicode_tables.cpp"
    path.write_text(out)
    print(f"{path}: {len(ranges)} ranges")


if __name__ == "__main__":
    main()
