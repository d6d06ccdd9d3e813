"""A plain PyTorch model of DeepSeek-V3's architecture: finback's independent witness for logits, losses and gradients, and the peer that
its training speed is measured beside (bench_train.py). Written from the published report and config fields, not from finback's code.

    model = Twin.load("folder")                      # config.json and safetensors, by finback or Hugging Face
    logits = model(ids)                              # [B, T, vocab]
    losses = model.losses(inputs, targets)           # main, mtp, balance; targets -1 are not scored

Everything runs in the dtype of the parameters (float64, float32, bfloat16) or under autocast; norms, gate scores, softmax and losses are
formed in float32 at least. Shapes: B sequences, T tokens, D hidden, H heads, E experts, K chosen, F expert width.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


def wide(x):
    """float64 stays, all else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x, weight, eps):
    y = wide(x)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return weight * y.to(x.dtype)  # rounded before the weight is applied, as Hugging Face does


def swiglu(gate, up):
    return F.silu(gate) * up


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def yarn_mscale(factor, mscale):
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 and mscale else 1.0


def rope_table(c, positions):
    """cos and sin of each adjacent pair at each position [positions, R / 2], float64. YaRN: report §4.3."""
    R = c.qk_rope_head_dim
    frequency = c.rope_theta ** (-torch.arange(0, R, 2, dtype=torch.float64) / R)
    amplitude = 1.0
    if c.rope_scaling:
        y = c.rope_scaling
        pair = lambda rotations: R * math.log(y["original_max_position_embeddings"] / (2 * math.pi * rotations)) / (2 * math.log(c.rope_theta))
        low = max(math.floor(pair(y.get("beta_fast", 32))), 0)
        high = min(math.ceil(pair(y.get("beta_slow", 1))), R - 1)
        ramp = ((torch.arange(R // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
        frequency = frequency * (1 - ramp) + frequency / y["factor"] * ramp
        amplitude = yarn_mscale(y["factor"], y.get("mscale", 1)) / yarn_mscale(y["factor"], y.get("mscale_all_dim", 0))
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency
    return angle.cos() * amplitude, angle.sin() * amplitude


def rotate(x, cos, sin):
    """Adjacent pairs (2i, 2i + 1) of the last dimension; x [B, heads, T, R]."""
    a, b = wide(x[..., 0::2]), wide(x[..., 1::2])
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """MLA. report §2.1.1"""

    def __init__(self, c):
        super().__init__()
        self.c, D, H = c, c.hidden_size, c.num_attention_heads
        qk = c.qk_nope_head_dim + c.qk_rope_head_dim
        if c.q_lora_rank:
            self.q_a_proj = linear(D, c.q_lora_rank)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.latent_norm_eps)
            self.q_b_proj = linear(c.q_lora_rank, H * qk)
        else:
            self.q_proj = linear(D, H * qk)
        self.kv_a_proj_with_mqa = linear(D, c.kv_lora_rank + c.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.latent_norm_eps)
        self.kv_b_proj = linear(c.kv_lora_rank, H * (c.qk_nope_head_dim + c.v_head_dim))
        self.o_proj = linear(H * c.v_head_dim, D)
        m = yarn_mscale(c.rope_scaling["factor"], c.rope_scaling.get("mscale_all_dim", 0)) if c.rope_scaling else 1.0
        self.scale = qk**-0.5 * m * m

    def forward(self, x, cos, sin):
        c, (B, T, _), H = self.c, x.shape, self.c.num_attention_heads
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if c.q_lora_rank else self.q_proj(x)
        q = q.view(B, T, H, -1).transpose(1, 2)
        q_nope, q_rope = q.split([c.qk_nope_head_dim, c.qk_rope_head_dim], -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([c.kv_lora_rank, c.qk_rope_head_dim], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(B, T, H, -1).transpose(1, 2)
        k_nope, v = kv.split([c.qk_nope_head_dim, c.v_head_dim], -1)
        k_rope = rotate(k_rope[:, None], cos, sin).expand(-1, H, -1, -1)  # one key for all heads
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), -1)
        k = torch.cat((k_nope, k_rope), -1)
        if c.pad_values:  # the fused kernel wants keys and values of one width
            v = F.pad(v, (0, q.shape[-1] - c.v_head_dim))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)[..., : c.v_head_dim]
        return self.o_proj(out.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, D, width):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(D, width), linear(D, width), linear(width, D)

    def forward(self, x):
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Gate(nn.Module):
    """Scores, choice and weights of experts. report §2.1.2"""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.weight = nn.Parameter(torch.empty(c.n_routed_experts, c.hidden_size))
        if c.topk_method == "noaux_tc":
            self.register_buffer("e_score_correction_bias", torch.zeros(c.n_routed_experts))

    def forward(self, x):
        c, E, G = self.c, self.c.n_routed_experts, self.c.n_group
        with torch.autocast("cpu", enabled=False):
            logits = F.linear(wide(x), wide(self.weight))
        score = logits.sigmoid() if c.scoring_func == "sigmoid" else logits.softmax(-1)
        choice = score.detach()
        if c.topk_method == "noaux_tc":
            choice = choice + self.e_score_correction_bias
        if G > 1 and c.topk_method != "greedy":
            groups = choice.view(-1, G, E // G)
            strength = groups.topk(2, -1).values.sum(-1) if c.topk_method == "noaux_tc" else groups.amax(-1)
            kept = torch.zeros_like(strength).scatter(1, strength.topk(c.topk_group, -1).indices, 1.0)
            choice = groups.masked_fill(kept[..., None] == 0, -torch.inf).view(-1, E)
        ids = choice.topk(c.num_experts_per_tok, -1).indices
        weight = score.gather(1, ids)
        if c.norm_topk_prob:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return score, ids, weight * c.routed_scaling_factor

    def balance(self, score, B):
        """Sum over experts of f_i P_i, mean over sequences. report Eq. 17-20: f counts the top K of the scores without bias."""
        c, E, K = self.c, self.c.n_routed_experts, self.c.num_experts_per_tok
        score = score.view(B, -1, E)
        chosen = torch.zeros_like(score).scatter(-1, score.detach().topk(K, -1).indices, 1.0)
        f = chosen.mean(1) * E / K
        P = (score / score.sum(-1, keepdim=True)).mean(1)
        return (f * P).sum(-1).mean()


class Experts(nn.Module):
    """All routed experts of a layer, stacked: gate_up [E, 2F, D] (gate above up), down [E, D, F]."""

    def __init__(self, c):
        super().__init__()
        E, Fe, D = c.n_routed_experts, c.moe_intermediate_size, c.hidden_size
        self.gate_up = nn.Parameter(torch.empty(E, 2 * Fe, D))
        self.down = nn.Parameter(torch.empty(E, D, Fe))

    def forward(self, x, ids, weight):
        K = ids.shape[1]
        order = ids.flatten().argsort(stable=True)
        counts = ids.flatten().bincount(minlength=len(self.gate_up)).tolist()
        parts = []
        for rows, gate_up, down in zip(x[order // K].split(counts), self.gate_up, self.down):
            if len(rows):
                gate, up = F.linear(rows, gate_up).chunk(2, -1)
                parts.append(F.linear(swiglu(gate, up), down))
        y = wide(torch.cat(parts)) * weight.flatten()[order, None]
        return torch.zeros(x.shape, dtype=y.dtype).index_add(0, order // K, y).to(x.dtype)


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate, self.experts = Gate(c), Experts(c)
        self.shared_experts = MLP(c.hidden_size, c.n_shared_experts * c.moe_intermediate_size) if c.n_shared_experts else None
        self.last_balance = None

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        score, ids, weight = self.gate(rows)
        self.last_balance = self.gate.balance(score, len(x))
        y = self.experts(rows, ids, weight)
        if self.shared_experts:
            y = y + self.shared_experts(rows)
        return y.view_as(x)


class Block(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        moe = c.n_routed_experts and layer >= c.first_k_dense_replace
        self.mlp = MoE(c) if moe else MLP(c.hidden_size, c.intermediate_size)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class MTPBlock(Block):
    """One multi-token prediction module. report §2.2; halves as in the released weights: [embedding, hidden]."""

    def __init__(self, c, layer):
        super().__init__(c, layer)
        self.enorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.hnorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.eh_proj = linear(2 * c.hidden_size, c.hidden_size)
        self.shared_head = nn.ModuleDict({"norm": RMSNorm(c.hidden_size, c.rms_norm_eps)})

    def forward(self, embedding, hidden, cos, sin):
        x = self.eh_proj(torch.cat((self.enorm(embedding), self.hnorm(hidden)), -1))
        return super().forward(x, cos, sin)


DEFAULTS = dict(q_lora_rank=None, n_routed_experts=0, n_shared_experts=0, num_experts_per_tok=0, moe_intermediate_size=0, first_k_dense_replace=0,
                n_group=1, topk_group=1, scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True, routed_scaling_factor=1.0,
                rms_norm_eps=1e-6, rope_theta=10000.0, rope_scaling=None, num_nextn_predict_layers=0, mtp_hidden="post_norm",
                initializer_range=0.02, pad_values=False)


class Twin(nn.Module):
    def __init__(self, config, **changes):
        """config: the dictionary of a config.json. changes: fields set otherwise; latent_norm_eps is the eps of the norms inside attention
        (Hugging Face: always 1e-6; finback and vLLM: rms_norm_eps)."""
        super().__init__()
        fields = {**DEFAULTS, **config, **changes}
        fields.setdefault("latent_norm_eps", fields["rms_norm_eps"])
        c = self.c = SimpleNamespace(**fields)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        layers, mtp = c.num_hidden_layers, c.num_nextn_predict_layers
        self.model.layers = nn.ModuleList([Block(c, l) if l < layers else MTPBlock(c, l) for l in range(layers + mtp)])
        self.model.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = linear(c.hidden_size, c.vocab_size)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=c.initializer_range)

    @classmethod
    def load(cls, folder, dtype=torch.float32, **changes):
        from safetensors.torch import load_file

        folder = Path(folder)
        twin = cls(json.loads((folder / "config.json").read_text()), **changes).to(dtype)
        tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors.update(load_file(file))
        twin.load_named(tensors)
        return twin

    def named(self, pick=lambda p: p):
        """Hugging Face name -> view of the parameter (or of pick(parameter): its gradient, say)."""
        out = {}
        for name, p in [*self.named_parameters(), *self.named_buffers()]:
            p = pick(p)
            if p is None:
                continue
            stem = name.rsplit(".", 1)[0]
            if name.endswith("experts.gate_up"):
                for e, both in enumerate(p):
                    out[f"{stem}.{e}.gate_proj.weight"], out[f"{stem}.{e}.up_proj.weight"] = both.chunk(2)
            elif name.endswith("experts.down"):
                out.update({f"{stem}.{e}.down_proj.weight": w for e, w in enumerate(p)})
            else:
                out[name] = p
        return out

    @torch.no_grad()
    def load_named(self, tensors):
        """Every parameter must be there; names beyond them (the copies of embedding and head in MTP layers) are left out."""
        mine = self.named()
        missing = [n for n in mine if n not in tensors]
        if missing:
            raise KeyError(f"not in the folder: {missing[:5]} and {max(0, len(missing) - 5)} more")
        for name, p in mine.items():
            p.copy_(tensors[name])

    def hidden(self, ids):
        """The last block's output [B, T, D] and the rope tables."""
        cos, sin = (t.to(wide(self.lm_head.weight).dtype) for t in rope_table(self.c, ids.shape[1]))
        x = self.model.embed_tokens(ids)
        for block in self.model.layers[: self.c.num_hidden_layers]:
            x = block(x, cos, sin)
        return x, cos, sin

    def forward(self, ids):
        return self.lm_head(self.model.norm(self.hidden(ids)[0]))

    def losses(self, inputs, targets, with_mtp=True):
        """Token sums over the number of scored tokens, as tensors: main (nats), mtp (a list, one a depth, over the same number), balance (sum of
        f P over MoE layers, mean over sequences), tokens."""
        c, (B, T) = self.c, inputs.shape
        x, cos, sin = self.hidden(inputs)
        normed = self.model.norm(x)
        scored = (targets >= 0).sum()
        cross_entropy = lambda h, t: F.cross_entropy(wide(self.lm_head(h)).flatten(0, 1), t.flatten(), ignore_index=-1, reduction="sum") / scored
        main, mtp = cross_entropy(normed, targets), []
        blocks = list(self.model.layers[: c.num_hidden_layers])
        known = torch.cat((inputs, targets[:, -1:]), 1).clamp(min=0)  # tokens 0 … T
        hidden = normed if c.mtp_hidden == "post_norm" else x
        for k, block in enumerate(self.model.layers[c.num_hidden_layers :] if with_mtp else [], 1):
            ids = F.pad(known[:, k:], (0, max(0, T - (T + 1 - k))))[:, :T]
            block_out = block(self.model.embed_tokens(ids), hidden, cos, sin)
            block_normed = block.shared_head["norm"](block_out)
            mtp.append(cross_entropy(block_normed, F.pad(targets[:, k:], (0, min(k, T)), value=-1)))
            hidden = block_normed if c.mtp_hidden == "post_norm" else block_out
            blocks.append(block)
        balance = sum((b.mlp.last_balance for b in blocks if isinstance(b.mlp, MoE)), torch.zeros(()))
        return SimpleNamespace(main=main, mtp=mtp, balance=balance, tokens=scored)

    def total(self, losses, mtp_weight, balance_alpha):
        """report Eq. 24-25 and 17: main + weight / D * sum of MTP losses + alpha * balance."""
        mtp = mtp_weight / len(losses.mtp) * sum(losses.mtp) if losses.mtp else 0
        return losses.main + mtp + balance_alpha * losses.balance
