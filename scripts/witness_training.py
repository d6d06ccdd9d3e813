#!/usr/bin/env python3
"""Holds finback's training against the PyTorch twin (bench/peers/twin.py) under autograd, on fresh random small configs.

    .venv/bin/python scripts/witness_training.py [--binary PROGRAM] [--seed N] [--cases N] [--steps N]
    .venv/bin/python scripts/witness_training.py --record      writes tests/train/vectors again

The twin trains in float64: forward, autograd, clipping, torch.optim.AdamW, the gate's bias by the report's rule. Each step is kept in a
case, a folder that the tests Witness.* of finback_train_test (tests/train/witness_test.cpp) replay and compare with:

    config.json            the model
    run.toml               the recipe, as a run file of finback's
    training.safetensors   inputs, targets [steps, B, T] · gradient.NAME [steps, …] before clipping · parameter.NAME [steps + 1, …] before each
                           step and after the last, the gate's bias among them · logits.main, logits.mtp.DEPTH [steps, B, T, vocab] ·
                           loss, mtp_loss, balance_loss, grad_norm [steps] · expert_load [steps, blocks, experts]

A choice of experts that lies within 3e-5 of a tie could fall either way in float32, and then all gradients behind it differ: a batch
with such a choice is drawn again.
"""
import argparse
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench" / "peers"))
from check_twin import random_config  # noqa: E402
from twin import MoE, Twin  # noqa: E402

TIE = 3e-5
RECORDED = ROOT / "tests" / "train" / "vectors"


def random_recipe(rng, steps):
    """The sections of a run file. Clipping acts in some steps and not in others; the weight of the MTP losses changes half-way.

    Rates are of the size that models are trained with. A moment that two right programs round to neighbouring FP32 values moves a weight by
    6e-8 of the rate; at 1e-2, with a weight of 0.1, twenty steps let that grow past 1e-7 of a gradient now and then (the twin against itself,
    its gradients disturbed by 1e-14: 5e-8).
    """
    return dict(
        model=dict(config="config.json"),
        data=dict(train="training.safetensors", tokenizer="none", seq_len=rng.randrange(7, 25)),
        train=dict(steps=steps, global_batch=4, micro_batch=rng.choice([1, 2, 4]), activation_storage=rng.choice(["full", "bf16"])),
        optimizer=dict(lr=rng.choice([3e-4, 1e-3]), min_lr=3e-5, warmup_steps=3, schedule="cosine", beta1=0.9, beta2=0.95, eps=1e-8,
                       weight_decay=0.1, grad_clip=rng.choice([1.0, 2.0, 3.0]), moments="fp32"),
        moe=dict(bias_update_speed=rng.choice([1e-3, 1e-2]), sequence_balance_alpha=rng.choice([1e-4, 1e-2])),
        mtp=dict(loss_weight=0.3, loss_weight_late=0.1, late_step=steps // 2),
        output=dict(dir="none"))


def to_toml(recipe):
    lines = []
    for section, keys in recipe.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


def randomise(twin, generator):
    """Parameters that a fresh model does not have, so that each of them matters."""
    with torch.no_grad():
        for name, p in [*twin.named_parameters(), *twin.named_buffers()]:
            if "e_score_correction_bias" in name:
                p.normal_(std=0.02, generator=generator)
            elif p.dim() == 1:
                p.uniform_(0.5, 1.5, generator=generator)
            else:
                p.normal_(std=0.1, generator=generator)


def random_batch(config, recipe, generator):
    """Tokens and the ones after them; one in ten is not scored."""
    B, T = recipe["train"]["global_batch"], recipe["data"]["seq_len"]
    tokens = torch.randint(0, config["vocab_size"], (B, T + 1), generator=generator)
    unscored = torch.rand(B, T, generator=generator) < 0.1
    return tokens[:, :-1], tokens[:, 1:].masked_fill(unscored, -1)


def learning_rate(recipe, step):
    o, steps = recipe["optimizer"], recipe["train"]["steps"]
    if step < o["warmup_steps"]:
        return o["lr"] * (step + 1) / o["warmup_steps"]
    part = (step - o["warmup_steps"]) / (steps - o["warmup_steps"])
    return o["min_lr"] + (o["lr"] - o["min_lr"]) * (1 + math.cos(math.pi * part)) / 2


def gap(x, k):
    """The least distance between the k-th largest and the next."""
    ordered = x.sort(-1, descending=True).values
    return (ordered[..., k - 1] - ordered[..., k]).min().item() if k < x.shape[-1] else math.inf


def nearest_tie(gate, score):
    """Of the choices that the gate made from these scores: the balance loss's, of groups, of experts. report §2.1.2"""
    c, E, G, K = gate.c, gate.c.n_routed_experts, gate.c.n_group, gate.c.num_experts_per_tok
    gaps = [gap(score, K)]
    choice = score + gate.e_score_correction_bias if c.topk_method == "noaux_tc" else score
    if G > 1:
        groups = choice.view(-1, G, E // G)
        strength = groups.topk(2, -1).values.sum(-1) if c.topk_method == "noaux_tc" else groups.amax(-1)
        gaps.append(gap(strength, c.topk_group))
        kept = strength.topk(c.topk_group, -1).indices
        choice = groups.gather(1, kept[..., None].expand(-1, -1, E // G)).flatten(1)
    return min(*gaps, gap(choice, K))


class Witness:
    """The twin in training, and what it saw."""

    def __init__(self, config, recipe, seed):
        self.config, self.recipe = config, recipe
        self.random = torch.Generator().manual_seed(seed)
        self.twin = Twin(config).double()
        randomise(self.twin, self.random)
        o, parameters = recipe["optimizer"], list(self.twin.parameters())
        self.adamw = torch.optim.AdamW([dict(params=[p for p in parameters if p.dim() > 1], weight_decay=o["weight_decay"]),
                                        dict(params=[p for p in parameters if p.dim() == 1], weight_decay=0.0)],
                                       betas=(o["beta1"], o["beta2"]), eps=o["eps"])
        self.routed = {}  # block -> what its gate returned last: score, ids, weight
        self.gates = {l: block.mlp.gate for l, block in enumerate(self.twin.model.layers) if isinstance(block.mlp, MoE)}
        for l, gate in self.gates.items():
            gate.register_forward_hook(lambda gate, _, out, l=l: self.routed.__setitem__(l, out))
        self.logits = []  # of the losses that were formed last: main, mtp 1, mtp 2 …
        self.twin.lm_head.register_forward_hook(lambda head, _, out: self.logits.append(out.detach()))

    def losses(self):
        """Of a batch whose choices are all clear."""
        for _ in range(1000):
            batch = random_batch(self.config, self.recipe, self.random)
            self.logits.clear()
            losses = self.twin.losses(*batch)
            if all(nearest_tie(gate, self.routed[l][0].detach()) > TIE for l, gate in self.gates.items()):
                return batch, losses
        raise RuntimeError("no batch without a near tie in 1000")

    def parameters(self):
        return {f"parameter.{name}": p.detach().clone() for name, p in self.twin.named().items()}

    def step(self, step):
        """One step of the recipe; returns its record."""
        c, r = self.twin.c, self.recipe
        record = self.parameters()
        (inputs, targets), losses = self.losses()
        weight = r["mtp"]["loss_weight" if step < r["mtp"]["late_step"] else "loss_weight_late"]
        self.adamw.zero_grad()
        self.twin.total(losses, weight, r["moe"]["sequence_balance_alpha"]).backward()
        record |= {f"gradient.{name}": g.clone() for name, g in self.twin.named(lambda p: p.grad).items()}

        # torch's clip_grad_norm_ divides by norm + 1e-6; the clipped norm shall be the limit itself.
        gradients = [p.grad for p in self.twin.parameters()]
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = min(1.0, r["optimizer"]["grad_clip"] / norm.item())
        for g in gradients:
            g.mul_(scale)
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate(r, step)
        self.adamw.step()
        for moments in self.adamw.state.values():  # FP32 moments: rounded where they are stored
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name].copy_(moments[name].float())

        # report §2.1.2: the bias of an overloaded expert falls, that of an underloaded one rises.
        load = torch.zeros(len(self.twin.model.layers), c.n_routed_experts, dtype=torch.int64)
        for l, gate in self.gates.items():
            load[l] = self.routed[l][1].flatten().bincount(minlength=c.n_routed_experts)
            if c.topk_method == "noaux_tc":
                gate.e_score_correction_bias.add_(r["moe"]["bias_update_speed"] * torch.sign(load[l].double().mean() - load[l]))

        record |= {"logits.main" if k == 0 else f"logits.mtp.{k}": logits for k, logits in enumerate(self.logits)}
        # The twin divides every sum by the tokens that the main loss scores; a mean is over the tokens that a module scores.
        mtp = [loss.item() * losses.tokens.item() / (targets[:, k:] >= 0).sum().item() for k, loss in enumerate(losses.mtp, 1)]
        figures = dict(loss=losses.main.item(), mtp_loss=sum(mtp) / max(1, len(mtp)),
                       balance_loss=losses.balance.item() / max(1, len(self.gates)), grad_norm=norm.item())
        record |= {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}
        return record | dict(inputs=inputs.int(), targets=targets.int(), expert_load=load), scale < 1


def write_case(folder, config, recipe, seed):
    """Trains the twin and writes its case. Returns the number of steps that were clipped."""
    witness = Witness(config, recipe, seed)
    records, clipped = zip(*(witness.step(step) for step in range(recipe["train"]["steps"])))
    tensors = {name: torch.stack([record[name] for record in records]) for name in records[0]}
    for name, last in witness.parameters().items():
        tensors[name] = torch.cat((tensors[name], last[None]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "run.toml").write_text(to_toml(recipe))
    save_file(tensors, folder / "training.safetensors")
    return sum(clipped)


def replay(binary, folder):
    """Runs the tests over a folder of cases. Returns what they measured: name -> largest relative difference."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        done = subprocess.run([binary, "--gtest_filter=Witness.*", f"--gtest_output=json:{report.name}"],
                              env={**os.environ, "FINBACK_WITNESS": str(folder)}, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stdout + done.stderr)
            return None
        tests = json.load(open(report.name))["testsuites"][0]["testsuite"]
        return {name: float(value) for test in tests for name, value in test.items() if name.startswith("worst_")}


def case_config(rng, case):
    """Every kind has its turn: both model types, the query's low rank or none, YaRN or none, 0 to 2 MTP modules."""
    wanted, found = (case % 2 == 0, case // 2 % 2 == 0), None
    while found != wanted:
        config = random_config(rng, v2=case % 5 in (1, 3))
        found = (config["q_lora_rank"] is not None, config["rope_scaling"] is not None)
    return {**config, "num_nextn_predict_layers": case % 3, "mtp_hidden": rng.choice(["post_norm", "pre_norm"])}


def describe(config, recipe):
    return (f"{config['model_type']}, {config['scoring_func']}, {config['n_group']} groups, q_lora {config['q_lora_rank']}, "
            f"yarn {config['rope_scaling'] is not None}, {config['num_nextn_predict_layers']} MTP, {config['mtp_hidden']}, "
            f"micro_batch {recipe['train']['micro_batch']}")


def record():
    """Three kinds of model as small as they can be, two steps each: what scripts/test can hold training against without PyTorch."""
    smallest = dict(vocab_size=11, hidden_size=8, intermediate_size=8, moe_intermediate_size=4, num_hidden_layers=2, first_k_dense_replace=1,
                    num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=4,
                    v_head_dim=4, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2)
    kinds = dict(v3_groups_yarn_mtp2=(0, dict(n_group=2, topk_group=1, num_nextn_predict_layers=2)),
                 v3_plain_mtp1=(7, dict(n_group=1, topk_group=1, num_nextn_predict_layers=1, num_hidden_layers=1, first_k_dense_replace=0)),
                 v2_softmax=(1, dict(n_group=2, topk_group=1, topk_method="group_limited_greedy", num_nextn_predict_layers=0)))
    for seed, (name, (case, changes)) in enumerate(kinds.items()):
        rng = random.Random(seed)
        drawn = case_config(rng, case)
        config = {**drawn, **smallest, **changes, "q_lora_rank": drawn["q_lora_rank"] and 4}
        recipe = random_recipe(rng, steps=2)
        recipe["data"]["seq_len"] = 6
        recipe["train"]["micro_batch"] = 2
        recipe["optimizer"]["grad_clip"] = 1.0
        recipe["moe"]["sequence_balance_alpha"] = 1e-2
        clipped = write_case(RECORDED / name, config, recipe, seed)
        print(f"{name}: {describe(config, recipe)}, {clipped} of 2 steps clipped")


def main():
    torch.set_num_threads(1)  # the tensors are too small for more
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    finback = pathlib.Path(os.environ.get("FINBACK", ROOT / "build/release/finback"))
    p.add_argument("--binary", default=finback.parent / "tests" / "finback_train_test")
    p.add_argument("--seed", type=int, default=int(os.environ.get("SEED", random.randrange(10**6))))
    p.add_argument("--cases", type=int, default=16)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--record", action="store_true")
    a = p.parse_args()
    if a.record:
        return record()
    print(f"seed {a.seed}")
    rng = random.Random(a.seed)
    worst, failures, clipped = {}, 0, 0
    for case in range(a.cases):
        config, recipe = case_config(rng, case), random_recipe(rng, a.steps)
        with tempfile.TemporaryDirectory() as work:
            clipped += write_case(pathlib.Path(work) / f"case_{case}", config, recipe, seed=rng.randrange(2**31))
            found = replay(a.binary, work)
        print(f"{'✓' if found else '✗'} {describe(config, recipe)}: " + ", ".join(f"{k[6:]} {v:.1e}" for k, v in sorted((found or {}).items())))
        failures += not found
        for name, value in (found or {}).items():
            worst[name] = max(worst.get(name, 0), value)
    print(f"{'✗' if failures else '✓'} {a.cases} configs of {a.steps} steps, {clipped} steps clipped, {failures} failures; largest differences: " +
          ", ".join(f"{k[6:]} {v:.1e}" for k, v in sorted(worst.items())))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
