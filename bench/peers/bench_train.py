"""Training speed of the PyTorch twin, as one JSON line: the peer of `finback bench train`. Run the two in turn and compare the best.

    python bench_train.py ../../configs/models/small.json --precision bf16 [--no-mtp] [--batch 8] [--seq 512] [--steps 5] [--mode MODE]

Modes of bf16: `autocast` (parameters float32), `pure` (parameters and activations bfloat16, AdamW on float32 masters). `best` tries both,
each with and without padding the values for the fused attention, and reports the fastest. --compile compiles the element-wise parts (needs g++).
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads fight each other on few cores

import torch

import twin as twin_module
from twin import Twin


def flops_per_token(c, seq):
    """6 x active matrix parameters (gate and head with them) + 3 x the causal half of attention; forward and backward, nothing recomputed."""
    D, H, qk = c.hidden_size, c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
    q = D * c.q_lora_rank + c.q_lora_rank * H * qk if c.q_lora_rank else D * H * qk
    attention = q + D * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank * H * (c.qk_nope_head_dim + c.v_head_dim) + H * c.v_head_dim * D
    dense = 3 * D * c.intermediate_size
    moe = 3 * D * c.moe_intermediate_size * (c.num_experts_per_tok + c.n_shared_experts) + D * c.n_routed_experts
    layers, modules = c.num_hidden_layers, c.num_nextn_predict_layers
    n_dense = min(layers, c.first_k_dense_replace)
    active = (layers + modules) * attention + n_dense * dense + (layers + modules - n_dense) * moe + (1 + modules) * D * c.vocab_size
    active += modules * 2 * D * D
    return 6 * active + 3 * (layers + modules) * H * (qk + c.v_head_dim) * 2 * seq / 2


class Masters:
    """AdamW on float32 copies of bfloat16 parameters."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.masters = [p.detach().float() for p in self.parameters]
        for m in self.masters:
            m.grad = torch.zeros_like(m)
        self.adamw = adamw(self.masters)

    @torch.no_grad()
    def step(self):
        torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in self.parameters])
        self.adamw.step()
        torch._foreach_copy_(self.parameters, self.masters)

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def measure(config, a, precision, pad_values):
    """Seconds of each step; precision: fp32, autocast or pure."""
    torch.manual_seed(0)
    model = Twin(config, pad_values=pad_values)
    if precision == "pure":
        model = model.bfloat16()
    optimizer = Masters(model.parameters()) if precision == "pure" else adamw(model.parameters())
    seconds = []
    for step in range(a.steps + a.warmup):
        tokens = torch.randint(0, config["vocab_size"], (a.batch, a.seq + 1))
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
            losses = model.losses(tokens[:, :-1], tokens[:, 1:])
        model.total(losses, mtp_weight=0.3, balance_alpha=1e-4).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= a.warmup:
            seconds.append(time.perf_counter() - start)
    return seconds, losses.main.item(), flops_per_token(model.c, a.seq)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    p.add_argument("--mode", choices=["best", "autocast", "pure", "autocast-padded", "pure-padded", "plain", "padded"], default="best")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--seq", type=int, default=512)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--no-mtp", action="store_true")
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.compile:
        for name in ("rms_norm", "swiglu", "rotate"):
            setattr(twin_module, name, torch.compile(getattr(twin_module, name), dynamic=True))
    with open(a.config) as f:
        config = json.load(f)
    if a.no_mtp:
        config["num_nextn_predict_layers"] = 0

    modes = {"fp32": ["plain", "padded"], "bf16": ["autocast", "pure", "autocast-padded", "pure-padded"]}[a.precision]
    results = {}
    for mode in modes if a.mode == "best" else [a.mode]:
        precision = "fp32" if a.precision == "fp32" else mode.split("-")[0]
        results[mode] = measure(config, a, precision, pad_values=mode.endswith("padded"))
    mode = min(results, key=lambda m: min(results[m][0]))
    seconds, loss, flops = results[mode]
    tokens = a.batch * a.seq
    print(json.dumps(dict(
        tokens_per_s=round(tokens / min(seconds), 1), tokens_per_s_median=round(tokens / statistics.median(seconds), 1), mode=mode,
        model_flops_per_token=flops, gflops=round(flops * tokens / min(seconds) / 1e9, 1), loss=round(loss, 3), precision=a.precision,
        mtp=not a.no_mtp, compile=a.compile, torch=torch.__version__, threads=a.threads,
        tokens_per_s_by_mode={m: round(tokens / min(r[0]), 1) for m, r in results.items()})))


if __name__ == "__main__":
    main()
