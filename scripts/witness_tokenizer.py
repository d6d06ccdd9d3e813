#!/usr/bin/env python3
"""Holds finback's tokenizer against the `tokenizers` package (and tiktoken, where it is installed) on fresh random text.

    .venv/bin/python scripts/witness_tokenizer.py [--binary build/release/finback] [--seed N] [--cases N]

Compared: every code point's classes; ids of a trained vocabulary for DeepSeek-V3's and V2's pre-tokenizers; the trainer's
merges with BpeTrainer's; V3's own vocabulary, where FINBACK_DATA holds it; that AutoTokenizer loads what finback saves.
"""
import argparse
import base64
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
V3_SPLITS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
V2_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7d"
    "ᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
V2_SPLITS = ["[\r\n]", r"\s?[" + V2_LETTERS + "]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"]
KIMI_PATTERN = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
])


def chain(splits, digits=False):
    parts = [pre_tokenizers.Split(Regex(s), "isolated") for s in splits]
    if digits:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    return pre_tokenizers.Sequence(parts + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_letters():
    """byte -> letter of byte-level text (GPT-2's table)."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(others)}}


# Alphabets that pre-tokenizers tell apart; a random text jumps between them.
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " ", "  \t", "\n", "\r\n", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "äöüßéèêñçøåÀÁõ÷", "абвгдежзийклмнопрстуфхцчшщъыьэюяАБВ", "αβγδεζηθικλμνξοπρστυφχψωάϊΐ", "中文字符编码测试世界你好々〇", "ひらがなカタカナー゙゜・゛",
    "한국어텍스트", "العربيةنصوص", "עבריתטקסט", "हिन्दीपाठक्षि", "ภาษาไทยข้อความ", "ᄀᄁᄂ", "٠١٢٣४५६七八九", "½²³ⅣⅨ①②", "😀🎉👩‍👩‍👧🏽🇩🇪♥️", "\u0301\u0308\u20d0\u0e31",
    "‘’“”…—–«»¿¡。、！？「」", "€£¥+<=>^|~±×÷∑√∞", "\u00a0\u2003\u3000\u2028\u0085", "\x00\x01\x07\x1b\x7f", "ǅǈᾈ", "ʰʲˈːⁿ", "𐐀𐐨𝒜𝔅𠀀𪛖", "\ue000\U000f0000\u0378\ufffe",
    "ꙮꚜꞏ", "\u200b\u200d\u2060\ufeff", "ſKÅ",
]
SNIPPETS = ["I'm", "don't", "WE'LL", "it'S", "he'ſ", "def f(x):\n    return x**2\n", "for (int i=0;i<n;++i) {\n\t\ta[i] += b[i];\n}\r\n", "https://a.b/c?d=1&e=%20",
            "HTTPServerError", "  \n\n  \n", "\t\t\n", "1,234,567.89", "x" * 40, " " * 50, "=" * 33, "3" * 10, "中" * 30, "\n" * 7, "\u0301" * 9, "<｜User｜>", "<|EOT|>"]


def random_text(rng, length):
    out = []
    while sum(map(len, out)) < length:
        kind = rng.random()
        if kind < 0.1:
            out.append(rng.choice(SNIPPETS))
        elif kind < 0.15:
            c = rng.randrange(1, 0x110000)
            out.append(chr(c) if not 0xD800 <= c < 0xE000 else "a")
        else:
            alphabet = rng.choice(ALPHABETS)
            out.append("".join(rng.choice(alphabet) for _ in range(rng.choice([1, 1, 1, 2, 3, 5, 8, 20]))))
    return "".join(out)


class Witness:
    def __init__(self, binary, seed, cases):
        self.binary, self.rng, self.cases, self.failures = binary, random.Random(seed), cases, 0

    def finback(self, *args, data=b""):
        return subprocess.run([self.binary, "tokenizer", *map(str, args)], input=data, stdout=subprocess.PIPE, check=True).stdout

    def check(self, name, good, detail=""):
        print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail and not good else ""), flush=True)
        self.failures += not good

    def compare_ids(self, name, tokenizer, folder, texts, allow_special=False):
        bad = ""
        for text in texts:
            ours = json.loads(self.finback("encode", "--tokenizer", folder, "--in", "-", "--json", *(["--allow-special"] if allow_special else []),
                                           data=text.encode()))
            theirs = tokenizer.encode(text, add_special_tokens=False)
            theirs = theirs if isinstance(theirs, list) else theirs.ids
            back = self.finback("decode", "--tokenizer", folder, "--in", "-", data=json.dumps(ours).encode())
            if back != text.encode():
                bad = "decoding does not give the text back"
            if ours != theirs:
                at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
                near = self.finback("decode", "--tokenizer", folder, "--in", "-", data=json.dumps(ours[max(0, at - 3) : at + 4]).encode())
                bad = f"token {at}: ours {ours[at:at+4]}, theirs {theirs[at:at+4]}, near {near!r}"
            if bad:
                break
        self.check(f"{name}: {len(texts)} texts, {sum(len(t.encode()) for t in texts)} bytes", not bad, bad)

    def texts(self, length=20000):
        return [random_text(self.rng, length) for _ in range(self.cases)]


def all_code_points():
    chars = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    return ["".join(f"{x}{c}" for c in chars[i : i + 60000]) for i in range(0, len(chars), 60000) for x in ("a", " ", "")]


def without_specials(tokenizer):
    """The same tokenizer with special tokens' texts left as text, as finback encodes unless asked otherwise."""
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(plain))


def v3_tokenizer(data):
    """V3's tokenizer.json from its vocabulary: merges are the only pair of lower ids that each token splits into."""
    letters = byte_letters()
    lines = [line.split() for line in (data / "deepseek_v3.tiktoken").read_text().splitlines()]
    vocab = {base64.b64decode(text).decode(): int(i) for text, i in lines}
    special = json.loads((data / "deepseek_base_special.json").read_text())
    special.update({"<｜fim▁hole｜>": 128800, "<｜fim▁begin｜>": 128801, "<｜fim▁end｜>": 128802, "<｜User｜>": 128803, "<｜Assistant｜>": 128804})
    tools = ["calls▁begin", "calls▁end", "call▁begin", "call▁end", "outputs▁begin", "outputs▁end", "output▁begin", "output▁end", "sep"]
    special.update({f"<｜tool▁{t}｜>": 128806 + i for i, t in enumerate(tools)})
    merges = []
    for token, i in sorted(vocab.items(), key=lambda item: item[1]):
        if token in special or len(token) < 2:
            continue
        parts = list(token)  # merge by lower ids until two parts are left
        while len(parts) > 2:
            ranks = [(vocab.get(a + b, 1 << 30), k) for k, (a, b) in enumerate(zip(parts, parts[1:]))]
            rank, k = min((r, k) for r, k in ranks if r < i)
            parts[k : k + 2] = [parts[k] + parts[k + 1]]
        merges.append((parts[0], parts[1]))
    assert set(letters.values()) <= set(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = chain(V3_SPLITS)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t, _ in sorted(special.items(), key=lambda item: item[1])])
    assert all(tokenizer.token_to_id(t) == i for t, i in special.items())
    return tokenizer


def train_twin(files, vocab_size, first, pre_tokenizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=first, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([pathlib.Path(f).read_bytes().decode() for f in files], trainer)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "build/release/finback"))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--cases", type=int, default=20, help="random texts of each comparison")
    args = parser.parse_args()
    print(f"tokenizers {tokenizers.__version__}, seed {args.seed}")
    w = Witness(args.binary, args.seed, args.cases)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        corpus = folder / "corpus.txt"
        corpus.write_text("".join(w.texts()) + "\n".join(random_text(w.rng, 200) for _ in range(100)), newline="")

        # Training: the merges of the package's trainer, and exactly the size asked for.
        trained = folder / "trained"
        w.finback("train", "--in", corpus, "--vocab-size", 3000, "--out", trained)
        ours = json.loads((trained / "tokenizer.json").read_text())
        first = [t["content"] for t in ours["added_tokens"] if t["id"] < 3]
        last = len(ours["added_tokens"]) - 3
        theirs = json.loads(train_twin([corpus], 3000 - last, first, chain(V3_SPLITS)).to_str())
        w.check("trained merges equal BpeTrainer's", [list(m) for m in ours["model"]["merges"]] == [list(m) for m in theirs["model"]["merges"]])
        same = all(ours["model"]["vocab"].get(t) == i for t, i in theirs["model"]["vocab"].items())
        w.check("trained ids equal BpeTrainer's", same)
        w.check("vocabulary of the size asked for", len(ours["model"]["vocab"]) == 3000)
        w.finback("train", "--in", corpus, "--vocab-size", 3000, "--out", folder / "again", "--threads", 7)
        w.check("any number of threads, the same file", (folder / "again/tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes())

        tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))
        w.compare_ids("trained vocabulary, V3's chain", without_specials(tokenizer), trained, w.texts())
        w.compare_ids("trained vocabulary, special tokens allowed", tokenizer, trained, w.texts(), allow_special=True)
        w.compare_ids("every code point, V3's chain", without_specials(tokenizer), trained, all_code_points())

        from transformers import AutoTokenizer
        auto = AutoTokenizer.from_pretrained(str(trained))
        text = random_text(w.rng, 5000)
        w.check("AutoTokenizer loads the folder", auto.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False).ids
                and (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (0, 1, 2))

        # The other pre-tokenizers on the same vocabulary.
        for name, pre in [("V2's chain", chain(V2_SPLITS, digits=True)), ("V3's words alone", chain(V3_SPLITS[2:])), ("Kimi's pattern", chain([KIMI_PATTERN]))]:
            other = Tokenizer.from_str(tokenizer.to_str())
            other.pre_tokenizer = pre
            file = folder / "other.json"
            other.save(str(file))
            other = without_specials(other)
            w.compare_ids(f"trained vocabulary, {name}", other, file, w.texts())
            w.compare_ids(f"every code point, {name}", other, file, all_code_points())

        try:
            import tiktoken
        except ImportError:
            print("skip tiktoken: not installed")
        else:
            compare_tiktoken(w, folder, ours, tiktoken)

        data = os.environ.get("FINBACK_DATA")
        if not data or not (pathlib.Path(data) / "deepseek_v3.tiktoken").exists():
            print("skip V3's vocabulary: FINBACK_DATA does not hold deepseek_v3.tiktoken")
        else:
            v3 = v3_tokenizer(pathlib.Path(data))
            file = folder / "v3.json"
            v3.save(str(file))
            w.compare_ids("V3's vocabulary", without_specials(v3), file, w.texts(40000))
            w.compare_ids("V3's vocabulary, special tokens allowed", v3, file, w.texts(), allow_special=True)
            w.compare_ids("V3's vocabulary, Tiny Shakespeare", v3, file, [(pathlib.Path(data) / "tinyshakespeare_input.txt").read_text()])
            w.compare_ids("V3's vocabulary, every code point", without_specials(v3), file, all_code_points())
    sys.exit(1 if w.failures else 0)


def compare_tiktoken(w, folder, trained, tiktoken):
    """A tiktoken.model folder as Kimi-K2's, with the trained vocabulary's tokens, against tiktoken itself."""
    back = {c: b for b, c in byte_letters().items()}
    special = {t["content"] for t in trained["added_tokens"]}
    tokens = [bytes(back[c] for c in t) for t, _ in sorted(trained["model"]["vocab"].items(), key=lambda item: item[1]) if t not in special]
    kimi = folder / "kimi"
    kimi.mkdir()
    (kimi / "tiktoken.model").write_text("".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens)))
    n = len(tokens)
    named = {n: "[BOS]", n + 1: "[EOS]", n + 2: "<|im_end|>"}
    (kimi / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "[BOS]", "eos_token": "[EOS]", "added_tokens_decoder": {str(i): {"content": t, "special": True} for i, t in named.items()}}))
    reserved = {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(n, n + 258)}
    theirs = tiktoken.Encoding("kimi", pat_str=KIMI_PATTERN, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens=reserved)

    class Plain:
        encode = staticmethod(lambda text, add_special_tokens: theirs.encode(text, disallowed_special=()))

    class Special:
        encode = staticmethod(lambda text, add_special_tokens: theirs.encode(text, allowed_special="all"))

    w.compare_ids("tiktoken, plain text", Plain, kimi, w.texts(8000))
    marked = [random_text(w.rng, 500) + w.rng.choice(list(reserved)) + random_text(w.rng, 500) for _ in range(w.cases)]
    w.compare_ids("tiktoken, special tokens allowed", Special, kimi, marked, allow_special=True)


if __name__ == "__main__":
    main()
