#!/usr/bin/env python3
"""Holds finback's model against Hugging Face transformers and the PyTorch twin (bench/peers/twin.py) on fresh random small configs.

    .venv/bin/python scripts/witness_model.py [--binary build/release/finback] [--seed N] [--cases N]

Compared, in fp32, to within 2e-5 of the largest logit: a folder made by `finback init`, read by transformers and by the twin, with what
`finback score` says of it; and a folder made by transformers, with random norms and gate biases, read by finback.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench" / "peers"))
from check_twin import hugging_face, random_config, set_latent_eps  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from twin import Twin  # noqa: E402

transformers.utils.logging.set_verbosity_error()

LIMIT = 2e-5


def finback(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"finback {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr.strip()}")


def finback_logits(binary, folder, ids, work):
    file = work / "logits.safetensors"
    finback(binary, "score", "--model", folder, "--ids", ",".join(map(str, ids)), "--logits", file)
    return load_file(file)["logits"]


def difference(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def transformers_model(folder, config):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    if report["missing_keys"]:
        raise RuntimeError(f"transformers misses {sorted(report['missing_keys'])[:5]}")
    set_latent_eps(model, config["rms_norm_eps"])
    return model.eval()


def check_ours(binary, config, ids, work):
    """A folder of finback's, read by the two others."""
    (work / "config.json").write_text(json.dumps(config))
    finback(binary, "init", "--config", work / "config.json", "--seed", 7, "--dtype", "fp32", "--out", work / "ours")
    ours = finback_logits(binary, work / "ours", ids, work)
    with torch.no_grad():
        batch = torch.tensor([ids])
        yield "ours in transformers", difference(ours, transformers_model(work / "ours", config)(batch).logits[0])
        yield "ours in the twin", difference(ours, Twin.load(work / "ours")(batch)[0])


def check_theirs(binary, config, ids, work):
    """A folder of transformers', read by finback. Its norms and biases are not what a fresh model has, so that each must be read."""
    model = hugging_face(config)
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if "e_score_correction_bias" in name:
                p.normal_(std=0.1)
            elif "norm" in name:
                p.uniform_(0.5, 1.5)
            elif p.dim() > 1:
                p.normal_(std=0.1)
        want = model(torch.tensor([ids])).logits[0]
    model.save_pretrained(work / "theirs")
    yield "theirs in finback", difference(finback_logits(binary, work / "theirs", ids, work), want)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default=os.environ.get("FINBACK", str(ROOT / "build/release/finback")))
    p.add_argument("--seed", type=int, default=int(os.environ.get("SEED", random.randrange(10**6))))
    p.add_argument("--cases", type=int, default=16)
    a = p.parse_args()
    print(f"seed {a.seed}")
    rng = random.Random(a.seed)
    torch.manual_seed(a.seed)
    worst, failures = 0.0, 0
    for case in range(a.cases):
        config = random_config(rng, v2=case % 4 == 3)
        ids = [rng.randrange(config["vocab_size"]) for _ in range(rng.randrange(1, 60))]
        what = (f"{config['model_type']}, q_lora {config['q_lora_rank']}, {config['n_group']} groups, yarn {bool(config['rope_scaling'])}, "
                f"eps {config['rms_norm_eps']:g}, {len(ids)} tokens")
        for check in (check_ours, check_theirs):
            # finback's own folder may hold an MTP module, which transformers leaves out.
            modules = rng.choice([0, 1]) if check is check_ours and config["model_type"] == "deepseek_v3" else 0
            with tempfile.TemporaryDirectory() as work:
                try:
                    for name, error in check(a.binary, {**config, "num_nextn_predict_layers": modules}, ids, pathlib.Path(work)):
                        worst = max(worst, error)
                        if not error <= LIMIT:
                            failures += 1
                            print(f"✗ {name}: {error:.1e}; {what}")
                except RuntimeError as e:
                    failures += 1
                    print(f"✗ {e}; {what}\n  {json.dumps(config)}")
    print(f"{'✗' if failures else '✓'} {a.cases} configs, {failures} failures, largest difference {worst:.1e} of the largest logit (limit {LIMIT:g})")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
