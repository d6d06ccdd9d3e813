"""Compares the twin with Hugging Face transformers on random small configs: check_twin.py [SEED]"""

import random
import sys

import torch
import transformers
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from twin import Twin

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def random_config(rng, v2=False):
    """A small config.json of either type, as finback and Hugging Face read it."""
    groups = rng.choice([1, 2, 4])
    heads, rope = rng.choice([2, 3, 4]), rng.choice([4, 8, 16])
    c = dict(model_type="deepseek_v2" if v2 else "deepseek_v3", vocab_size=rng.choice([67, 128]), hidden_size=16 * heads,
             intermediate_size=rng.choice([40, 96]), moe_intermediate_size=rng.choice([16, 24]), num_hidden_layers=rng.choice([2, 3]),
             first_k_dense_replace=rng.choice([0, 1]), num_attention_heads=heads, num_key_value_heads=heads,
             q_lora_rank=rng.choice([None, 24]), kv_lora_rank=rng.choice([16, 32]), qk_nope_head_dim=rng.choice([8, 12]), qk_rope_head_dim=rope,
             v_head_dim=rng.choice([8, 16]), n_routed_experts=8, n_shared_experts=rng.choice([1, 2]), num_experts_per_tok=rng.choice([2, 3]),
             n_group=groups, topk_group=max(1, groups // 2) if groups < 4 else rng.choice([2, 3]), norm_topk_prob=rng.choice([True, False]),
             scoring_func="softmax" if v2 else "sigmoid", routed_scaling_factor=rng.choice([1.0, 2.5]), rms_norm_eps=rng.choice([1e-6, 1e-5]),
             rope_theta=rng.choice([10000.0, 50000.0]), rope_scaling=None, max_position_embeddings=256, tie_word_embeddings=False,
             attention_bias=False, hidden_act="silu", initializer_range=0.1, num_nextn_predict_layers=0, bos_token_id=0, eos_token_id=1)
    c["topk_method"] = "noaux_tc" if not v2 else "greedy" if groups == 1 else "group_limited_greedy"
    if v2:
        c["norm_topk_prob"] = False
    # The choice must fit into the groups that are kept.
    c["num_experts_per_tok"] = min(c["num_experts_per_tok"], 8 // groups * c["topk_group"])
    if rng.random() < 0.5:
        m = rng.choice([0.707, 1.0])
        c["rope_scaling"] = dict(type="yarn", factor=rng.choice([4.0, 40.0]), original_max_position_embeddings=64, beta_fast=32, beta_slow=1,
                                 mscale=m, mscale_all_dim=m)
    return c


def hugging_face(config):
    """Its model, with the eps of the norms inside attention set to rms_norm_eps (it fixes 1e-6 there)."""
    v2 = config["model_type"] == "deepseek_v2"
    kind, model = (DeepseekV2Config, DeepseekV2ForCausalLM) if v2 else (DeepseekV3Config, DeepseekV3ForCausalLM)
    hf = model._from_config(kind(**{k: v for k, v in config.items() if k != "model_type"}), attn_implementation="eager").eval()
    set_latent_eps(hf, config["rms_norm_eps"])
    return hf


def set_latent_eps(hf, eps):
    for name, module in hf.named_modules():
        if name.endswith(("q_a_layernorm", "kv_a_layernorm")):
            module.variance_epsilon = eps


def to_named(hf):
    """Its parameters under the names of a checkpoint."""
    from tempfile import TemporaryDirectory

    from safetensors.torch import load_file

    with TemporaryDirectory() as folder:
        hf.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    worst = 0.0
    for case in range(16):
        config = random_config(rng, v2=case % 4 == 3)
        hf = hugging_face(config)
        with torch.no_grad():
            for name, p in [*hf.named_parameters(), *hf.named_buffers()]:
                if "e_score_correction_bias" in name:
                    p.normal_(std=0.1)
                elif p.dim() == 1 and "norm" in name:
                    p.uniform_(0.5, 1.5)
                elif p.dim() > 1:
                    p.normal_(std=0.1)
            twin = Twin(config)
            twin.load_named(to_named(hf))
            ids = torch.randint(0, config["vocab_size"], (2, 40))
            want, got = hf(ids).logits, twin(ids)
        error = ((got - want).abs().max() / want.abs().max()).item()
        worst = max(worst, error)
        print(f"{config['model_type']} q_lora {config['q_lora_rank']} groups {config['n_group']} yarn {bool(config['rope_scaling'])}: {error:.1e}")
    print(f"seed {seed}: largest difference {worst:.1e} of the largest logit")
    sys.exit(worst > 1e-5)


if __name__ == "__main__":
    main()
