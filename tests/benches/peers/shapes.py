"""Models with random weights, of the same shape on both sides: a GGUF file in f32 for llama.cpp, a spec for Braid."""

import gguf
import numpy


def llama(d, layers, heads, groups, k, hidden, vocab):
    """Attention and SwiGLU."""
    q, kv = heads * k, groups * k
    block = {"attn_norm.weight": (d,), "ffn_norm.weight": (d,)}
    block |= {"attn_q.weight": (q, d), "attn_k.weight": (kv, d), "attn_v.weight": (kv, d), "attn_output.weight": (d, q)}
    block |= {"ffn_gate.weight": (hidden, d), "ffn_up.weight": (hidden, d), "ffn_down.weight": (d, hidden)}
    keys = {"feed_forward_length": hidden, "head_count": heads, "head_count_kv": groups, "key_length": k, "value_length": k}
    keys |= {"layer_norm_rms_eps": 1e-5, "rope_dimension_count": k}
    whole = {"output_norm.weight": (d,), "output.weight": (vocab, d)}
    spec = f"transformer(layers: {layers}, d: {d}, vocab: {vocab}, heads: {heads}, groups: {groups}, k: {k}, hidden: {hidden})"
    return dict(arch="llama", d=d, layers=layers, vocab=vocab, keys=keys, block=block, whole=whole, module="transformer", spec=spec)


def mamba(d, layers, n, rank, vocab):
    """Mamba-1."""
    inner = 2 * d
    block = {"attn_norm.weight": (d,), "ssm_in.weight": (2 * inner, d), "ssm_conv1d.weight": (inner, 4), "ssm_conv1d.bias": (inner,)}
    block |= {"ssm_x.weight": (rank + 2 * n, inner), "ssm_dt.weight": (inner, rank), "ssm_dt.bias": (inner,)}
    block |= {"ssm_a": (inner, n), "ssm_d": (inner,), "ssm_out.weight": (d, inner)}
    keys = {"feed_forward_length": 0, "head_count": 0, "layer_norm_rms_eps": 1e-5}
    keys |= {"ssm_conv_kernel": 4, "ssm_inner_size": inner, "ssm_state_size": n, "ssm_time_step_rank": rank}
    whole = {"output_norm.weight": (d,)}
    spec = f"mamba_lm(layers: {layers}, d: {d}, vocab: {vocab}, inner: {inner}, n: {n}, rank: {rank}, tied: true)"
    return dict(arch="mamba", d=d, layers=layers, vocab=vocab, keys=keys, block=block, whole=whole, module="mamba", spec=spec)


def mamba2(d, layers, n, p, vocab):
    """Mamba-2."""
    inner = 2 * d
    heads, channels = inner // p, inner + 2 * n
    block = {"attn_norm.weight": (d,), "ssm_in.weight": (inner + channels + heads, d)}
    block |= {"ssm_conv1d.weight": (channels, 4), "ssm_conv1d.bias": (channels,), "ssm_dt.bias": (heads,)}
    block |= {"ssm_a": (heads, 1), "ssm_d": (heads, 1), "ssm_norm.weight": (1, inner), "ssm_out.weight": (d, inner)}
    keys = {"feed_forward_length": 0, "head_count": 0, "layer_norm_rms_eps": 1e-5}
    keys |= {"ssm_conv_kernel": 4, "ssm_inner_size": inner, "ssm_state_size": n, "ssm_time_step_rank": heads, "ssm_group_count": 1}
    whole = {"output_norm.weight": (d,)}
    spec = f"mamba2_lm(layers: {layers}, d: {d}, vocab: {vocab}, heads: {heads}, p: {p}, n: {n}, tied: true)"
    return dict(arch="mamba2", d=d, layers=layers, vocab=vocab, keys=keys, block=block, whole=whole, module="mamba2", spec=spec)


def rwkv7(d, layers, k, hidden, ranks, vocab):
    """RWKV-7."""
    w, a, v, g = ranks
    vectors = ["attn_norm.weight", "attn_norm.bias", "attn_norm_2.weight", "attn_norm_2.bias", "time_mix_ln.weight", "time_mix_ln.bias"]
    vectors += [f"time_mix_{name}.weight" for name in ["w0", "a0", "v0", "k_k", "k_a", "r_k"]]
    block = {name: (d,) for name in vectors}
    for name, rank in {"w": w, "a": a, "v": v, "g": g}.items():
        block |= {f"time_mix_{name}1.weight": (rank, d), f"time_mix_{name}2.weight": (d, rank)}
    block |= {f"time_mix_{name}.weight": (d, d) for name in ["key", "value", "receptance", "output"]}
    block |= {"time_mix_lerp_fused.weight": (6, 1, 1, d), "channel_mix_lerp_k.weight": (1, 1, d)}
    block |= {"channel_mix_key.weight": (hidden, d), "channel_mix_value.weight": (d, hidden)}
    keys = {"feed_forward_length": hidden, "head_count": 0, "layer_norm_eps": 1e-5, "wkv_head_size": k, "token_shift_count": 2}
    keys |= {"decay_lora_rank": w, "iclr_lora_rank": a, "value_residual_mix_lora_rank": v, "gate_lora_rank": g}
    whole = {"token_embd_norm.weight": (d,), "token_embd_norm.bias": (d,), "output_norm.weight": (d,), "output_norm.bias": (d,)}
    whole |= {"output.weight": (vocab, d)}
    # The first layer's values have no rank of their own, but the peer wants tensors of the other one's size.
    first = {"time_mix_v1.weight": (a, d), "time_mix_v2.weight": (d, a)}
    sizes = f"layers: {layers}, d: {d}, vocab: {vocab}, heads: {d // k}, k: {k}, hidden: {hidden}"
    spec = f"rwkv7_lm({sizes}, rank_w: {w}, rank_a: {a}, rank_v: {v}, rank_g: {g})"
    made = dict(arch="rwkv7", d=d, layers=layers, vocab=vocab, keys=keys, block=block, whole=whole, module="rwkv", spec=spec)
    return made | dict(first=first)


SHAPES = {
    "125m": llama(d=768, layers=12, heads=12, groups=4, k=64, hidden=2048, vocab=32000),
    "1b": llama(d=2048, layers=16, heads=32, groups=8, k=64, hidden=5632, vocab=32000),
    "mamba": mamba(d=768, layers=24, n=16, rank=48, vocab=50280),
    "mamba2": mamba2(d=768, layers=24, n=128, p=64, vocab=50288),
    "rwkv7": rwkv7(d=768, layers=12, k=64, hidden=3072, ranks=(64, 64, 32, 128), vocab=65536),
}


def write_gguf(path, shape):
    """The model in f32. Matrices keep the size of what they multiply; decays are between 0 and 1."""
    writer = gguf.GGUFWriter(path, shape["arch"])
    writer.add_context_length(4096)
    writer.add_embedding_length(shape["d"])
    writer.add_block_count(shape["layers"])
    writer.add_vocab_size(shape["vocab"])
    writer.add_tokenizer_model("no_vocab")
    for key, value in shape["keys"].items():
        getattr(writer, f"add_{key}")(value)
    rng = numpy.random.default_rng(1)

    def add(name, size):
        numbers = rng.standard_normal(size, numpy.float32) / numpy.float32(max(size[-1], 2) ** 0.5)
        if name.endswith("norm.weight") or name.endswith("ln.weight"):
            numbers = numpy.ones(size, numpy.float32)
        if name.endswith("ssm_a"):
            numbers = -numpy.abs(numbers) - 0.1
        writer.add_tensor(name, numbers.astype(numpy.float32))

    add("token_embd.weight", (shape["vocab"], shape["d"]))
    for layer in range(shape["layers"]):
        block = shape["block"] | (shape.get("first", {}) if layer == 0 else {})
        for name, size in block.items():
            add(f"blk.{layer}.{name}", size)
    for name, size in shape["whole"].items():
        add(name, size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def spec(shape):
    """The same model for Braid."""
    return f"use models.{shape['module']}\nmodel bench = {shape['spec']}\n"
