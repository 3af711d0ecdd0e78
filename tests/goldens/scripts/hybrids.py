"""Tiny random checkpoints of hybrid models as the transformers library writes them, with what it computes of them in double precision.

    python3 tests/goldens/scripts/hybrids.py [FOLDER] [NAME ...]

Python 3.11, torch 2, transformers 5.23.0, safetensors. Tests read what it wrote; they do not run it.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = dict(vocab_size=149, pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=128)
MODELS = {
    "falcon_h1": dict(
        COMMON, hidden_size=48, intermediate_size=76, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        mamba_d_ssm=56, mamba_n_heads=7, mamba_d_head=8, mamba_d_state=10, mamba_n_groups=1, mamba_d_conv=4, mamba_chunk_size=16,
        rope_theta=10000.0, lm_head_multiplier=0.7, embedding_multiplier=1.3, mlp_multipliers=[0.9, 0.6], key_multiplier=0.8,
        attention_out_multiplier=0.85, attention_in_multiplier=1.1, ssm_multipliers=[0.9, 1.2, 0.7, 1.1, 0.8], ssm_in_multiplier=1.25,
        ssm_out_multiplier=0.75, mamba_rms_norm=True, mamba_norm_before_gate=False,
    ),
    "zamba2": dict(
        COMMON, hidden_size=40, intermediate_size=60, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
        mamba_d_state=12, mamba_ngroups=2, n_mamba_heads=4, mamba_headdim=20, mamba_d_conv=4, mamba_expand=2, num_mem_blocks=2, adapter_rank=6,
        use_mem_rope=True, rope_theta=10000.0, chunk_size=16, use_mamba_kernels=False, layers_block_type=["mamba", "hybrid", "mamba", "hybrid", "hybrid", "mamba"],
        time_step_min=1e-6, time_step_floor=1e-6,
    ),
    "kimi_linear": dict(
        COMMON, hidden_size=44, intermediate_size=72, moe_intermediate_size=20, num_hidden_layers=5, num_attention_heads=3, num_key_value_heads=3,
        num_shared_experts=1, routed_scaling_factor=1.7, kv_lora_rank=20, qk_rope_head_dim=6, qk_nope_head_dim=10, v_head_dim=12,
        num_expert_group=1, topk_group=1, num_experts_per_token=2, moe_renormalize=True, num_experts=6, linear_head_dim=14, linear_num_heads=4,
        linear_conv_kernel_dim=4, layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
        mlp_layer_types=["dense", "sparse", "sparse", "sparse", "sparse"],
    ),
}


def weights(model, generator, tied):
    """Random numbers, so that no part of the model is idle; norms around 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith("A_log"):
                value = 0.4 * noise
            elif "norm" in name or name.endswith((".D", "dt_bias")):
                value = 1.0 + 0.2 * noise if parameter.dim() == 1 and "bias" not in name else 0.4 * noise
            elif parameter.dim() < 2:
                value = 0.2 * noise
            else:
                value = noise * ((0.25 if tied else 0.7) if "embed" in name else parameter.shape[-1] ** -0.5 * 1.2)
            parameter.copy_(value.to(torch.bfloat16).to(parameter.dtype))
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):
                buffer.copy_((0.1 * torch.randn(buffer.shape, generator=generator)).to(torch.bfloat16).to(buffer.dtype))


def golden(model, vocab, generator):
    ids = torch.randint(3, vocab, (2, 37), generator=generator)
    logits = model(input_ids=ids, use_cache=False).logits
    prompt = torch.randint(3, vocab, (2, 13), generator=generator)
    tokens, rows, text = [], [], prompt
    for _ in range(24):
        row = model(input_ids=text, use_cache=False).logits[:, -1]
        rows.append(row)
        tokens.append(row.argmax(-1))
        text = torch.cat([text, tokens[-1][:, None]], 1)
    found = dict(
        input_ids=ids, logits=logits.float(), prompt_ids=prompt, generated_ids=torch.stack(tokens, 1), generated_logits=torch.stack(rows, 1).float(),
    )
    return {name: tensor.contiguous() for name, tensor in found.items()}


def make(name, folder):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(len(name))
    config = AutoConfig.for_model(name, **MODELS[name])
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).double().eval()
    weights(model, generator, config.tie_word_embeddings)
    with torch.no_grad():
        tensors = golden(model, config.vocab_size, generator)
        single = model.float()(input_ids=tensors["input_ids"], use_cache=False).logits
    off = (single - tensors["logits"]).abs().max().item()
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(tensors, folder / "golden.safetensors")
    largest = tensors["logits"].abs().max().item()
    meta = {
        "name": name, "model_type": config.model_type, "transformers_version": transformers.__version__, "torch_version": torch.__version__,
        "reference_precision": "float64", "logits_std": tensors["logits"].std().item(), "fp32_vs_fp64": {"max_abs": off},
        "suggested_tolerance": {"compare_with": "logits, generated_logits", "atol": max(20 * off, 1e-5 * largest), "rtol": 0.0},
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    print(name, meta)


if __name__ == "__main__":
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    for name in sys.argv[2:] or MODELS:
        make(name, home / name)
