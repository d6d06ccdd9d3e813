#!/usr/bin/env python3
"""Holds finback's readers and writers of files against the `safetensors` package and a few lines of numpy.

    .venv/bin/python scripts/witness_safetensors.py [--binary build/release/finback] [--seed N] [--cases N]
    .venv/bin/python scripts/witness_safetensors.py --record      writes tests/formats/recorded again

Compared: names, types, shapes and bytes of random files that the package wrote; whether both accept or both refuse the same
hundreds of damaged files; a model folder that finback wrote, loaded by the package; token files written by numpy.
"""
import argparse
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}


def finback(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)


def inspect(path):
    result = finback("inspect", path, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def random_file(path, rng):
    tensors = {}
    for i in range(rng.randrange(1, 8)):
        shape = [rng.randrange(0, 6) for _ in range(rng.randrange(0, 4))]
        dtype = rng.choice(list(DTYPES.values()))
        tensors[f"t{i}.é" if rng.random() < 0.1 else f"layer.{i}.weight"] = torch.randint(0, 2, shape).to(dtype)
    save_file(tensors, path, metadata={"format": "pt", "note": "\"quoted\""} if rng.random() < 0.5 else None)
    return tensors


def check_random_files(folder, rng, cases):
    for _ in range(cases):
        path = folder / "random.safetensors"
        tensors = random_file(path, rng)
        found = {t["name"]: t for t in inspect(path)["tensors"]}
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert DTYPES[found[name]["dtype"]] == tensor.dtype, name
            assert found[name]["shape"] == list(tensor.shape), name
            assert found[name]["bytes"] == tensor.numel() * tensor.element_size(), name
    print(f"  {cases} files of the package: names, types, shapes and bytes agree")


def damaged(whole, rng):
    """A file with one fault: in the header's JSON, its length, or the file's end."""
    n = struct.unpack("<Q", whole[:8])[0]
    header, data = whole[8:8 + n], whole[8 + n:]
    kind = rng.randrange(6)
    if kind == 0:  # another byte in the header
        at = rng.randrange(n)
        return whole[:8 + at] + bytes([rng.choice(b"0123456789{}[],:\" abcFUI\x00\xff\n")]) + whole[9 + at:]
    if kind == 1:  # another length
        return struct.pack("<Q", max(0, n + rng.randrange(-9, 10))) + whole[8:]
    if kind == 2:  # cut or longer
        end = rng.randrange(-12, 12)
        return whole[:end] if end < 0 else whole + bytes(end)
    parsed = json.loads(header)
    name = rng.choice([k for k in parsed if k != "__metadata__"])
    entry = parsed[name]
    if kind == 3:
        entry["data_offsets"][rng.randrange(2)] += rng.choice([-8, -1, 1, 8])
    elif kind == 4:
        entry["shape"] = entry["shape"] + [rng.choice([0, 1, 2, 1 << 63, -1, 1.0])]
    else:
        entry[rng.choice(["dtype", "shape", "data_offsets", "more"])] = rng.choice(["F32", "F99", [0], [], 3, None, {}])
    text = json.dumps(parsed).encode()
    return struct.pack("<Q", len(text)) + text + data


# Where finback refuses what the package accepts, on purpose: unknown fields of a tensor, any JSON space after the header (only spaces
# pad it), keys given twice, dimensions that no signed 64-bit number holds (beside a 0, which makes the tensor empty).
STRICTER = ("has an unknown field", "ends with something else than", "duplicate key", "has a dimension 9223372036854775808")


def check_damaged_files(folder, rng, cases):
    refused = accepted = stricter = 0
    for case in range(cases):
        path = folder / "damaged.safetensors"
        if case % 40 == 0:
            random_file(path, rng)
            whole = path.read_bytes()
        path.write_bytes(damaged(whole, rng))
        try:
            with safetensors.safe_open(path, "pt") as f:
                {k: f.get_slice(k).get_shape() for k in f.keys()}
            theirs = True
        except Exception:
            theirs = False
        result = finback("verify", path)
        assert result.returncode in (0, 3), (result.returncode, result.stderr)
        ours = result.returncode == 0
        if ours != theirs:
            kept = folder.parent / "finback-damaged.safetensors"
            kept.write_bytes(path.read_bytes())
            assert theirs and any(s in result.stdout for s in STRICTER), f"finback {'accepts' if ours else 'refuses'} {kept}: {result.stdout}"
            stricter += 1
        refused, accepted = refused + (not ours), accepted + ours
    print(f"  {cases} damaged files: {refused} refused, {accepted} accepted, as the package does; {stricter} of them refused by finback alone, on purpose")


def check_written_folder(folder):
    for dtype in ("fp32", "bf16"):
        out = folder / dtype
        result = finback("init", "--config", ROOT / "configs/models/tiny.json", "--seed", 1, "--dtype", dtype, "--out", out)
        assert result.returncode == 0, result.stderr
        tensors = {}
        for file in out.glob("*.safetensors"):
            tensors.update(load_file(file))
        assert {t["name"] for t in inspect(out)["tensors"]} == set(tensors)
        for name, tensor in tensors.items():
            wide = dtype == "fp32" or name.endswith("e_score_correction_bias")
            assert tensor.dtype == (torch.float32 if wide else torch.bfloat16), name
            assert torch.isfinite(tensor).all(), name
        assert torch.equal(tensors["model.layers.6.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
        assert abs(tensors["lm_head.weight"].float().std().item() - 0.02) < 1e-3
    a, b = load_file(folder / "fp32/model.safetensors"), load_file(folder / "bf16/model.safetensors")
    for name in a:
        assert torch.equal(a[name].to(b[name].dtype), b[name]), name
    print(f"  a folder of finback's: {len(a)} tensors load, BF16 is FP32 rounded as PyTorch rounds")


def check_token_files(folder, rng, cases):
    for _ in range(cases):
        dtype, code = rng.choice([(np.uint16, 8), (np.int32, 4)])
        lengths = [rng.randrange(0, 50) for _ in range(rng.randrange(1, 20))]
        cuts = sorted({0, len(lengths), *(rng.randrange(len(lengths) + 1) for _ in range(5))})
        np.random.randint(0, 60000, sum(lengths)).astype(dtype).tofile(folder / "t.bin")
        pointers = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * np.dtype(dtype).itemsize
        with open(folder / "t.idx", "wb") as f:
            f.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(lengths), len(cuts)))
            f.write(np.array(lengths, np.int32).tobytes() + pointers.astype(np.int64).tobytes() + np.array(cuts, np.int64).tobytes())
        assert inspect(folder / "t")["tokens"] == {"tokens": sum(lengths), "documents": len(cuts) - 1, "sequences": len(lengths),
                                                   "dtype": "u16" if code == 8 else "i32"}
    print(f"  {cases} token files written by numpy: counts agree")


def record():
    """A small file of the package for tests/formats: element i of a tensor is i / 4 - 1."""
    folder = ROOT / "tests/formats/recorded"
    folder.mkdir(exist_ok=True)
    tensors = {name: (torch.arange(n) / 4 - 1).to(dtype) for name, n, dtype in
               [("f64", 3, torch.float64), ("f32", 5, torch.float32), ("f16", 7, torch.float16), ("bf16", 6, torch.bfloat16)]}
    tensors["bf16"] = tensors["bf16"].reshape(2, 3)
    save_file(tensors, folder / "package.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.environ.get("FINBACK", str(ROOT / "build/release/finback")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", random.randrange(1 << 31))))
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    if arguments.record:
        sys.exit(record())
    BINARY = arguments.binary
    print(f"safetensors {safetensors.__version__}, torch {torch.__version__}, seed {arguments.seed}")
    generator = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    np.random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        check_random_files(work, generator, arguments.cases // 20)
        check_damaged_files(work, generator, arguments.cases)
        check_token_files(work, generator, arguments.cases // 20)
        if finback("init", "--help").returncode == 0:
            check_written_folder(work)
    print("all agree")
