"""Braid against llama.cpp on one CPU: the same shape of model with random weights, both sides in turns, medians as a Markdown table.

    pip install gguf numpy
    python3 tests/benches/peers/llama_cpp.py --llama BIN --braid target/release/braid --threads 1,2 --turns 3

BIN is the folder with `llama-bench` and `llama-quantize`: cmake and ninja build them from `vendor/llama.cpp` in the source distribution of
`llama-cpp-python`. The file of the peer is written with the package `gguf` and quantised by its own tool.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

import gguf
import numpy

SHAPES = {
    "125m": dict(d=768, layers=12, heads=12, groups=4, k=64, hidden=2048, vocab=32000),
    "1b": dict(d=2048, layers=16, heads=32, groups=8, k=64, hidden=5632, vocab=32000),
}
# Storage here, and what the peer calls the same bits.
KINDS = {"f32": None, "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0", "int4z": "Q4_1"}


def random_gguf(path, shape):
    """A llama-shaped model in f32."""
    d, h = shape["d"], shape["hidden"]
    q, kv = shape["heads"] * shape["k"], shape["groups"] * shape["k"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(d)
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(h)
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["groups"])
    writer.add_key_length(shape["k"])
    writer.add_value_length(shape["k"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape["k"])
    writer.add_vocab_size(shape["vocab"])
    writer.add_tokenizer_model("no_vocab")
    rng = numpy.random.default_rng(1)
    matrix = lambda rows, columns: (rng.standard_normal((rows, columns), numpy.float32) / columns**0.5)
    ones = numpy.ones(d, numpy.float32)
    writer.add_tensor("token_embd.weight", matrix(shape["vocab"], d))
    for i in range(shape["layers"]):
        block = {"attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q)}
        block |= {"ffn_gate": (h, d), "ffn_up": (h, d), "ffn_down": (d, h)}
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
        for name, size in block.items():
            writer.add_tensor(f"blk.{i}.{name}.weight", matrix(*size))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", matrix(shape["vocab"], d))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def spec(shape):
    """The same model for Braid."""
    sizes = ", ".join(f"{key}: {value}" for key, value in shape.items())
    return f"use models.transformer\nmodel bench = transformer({sizes})\n"


def theirs(args, model, threads):
    command = [args.llama / "llama-bench", "-m", model, "-p", str(args.prompt), "-n", str(args.tokens), "-t", str(threads), "-r", "1"]
    rows = json.loads(subprocess.run([*command, "-o", "json"], check=True, capture_output=True).stdout)
    rate = {("decode" if row["n_gen"] else "prefill"): row["avg_ts"] for row in rows}
    return rate["prefill"], rate["decode"]


def ours(args, artifact, packed, threads):
    def run(prompt, tokens):
        ids = ",".join(str(1 + at * 7 % 1000) for at in range(prompt))
        command = [args.braid, "run", artifact, "--weights", packed, "--ids", ids, "--threads", str(threads), "--json"]
        out = subprocess.run([*command, "-n", str(tokens), "--ignore-eos"], check=True, capture_output=True).stdout
        return json.loads(out)

    # As llama-bench does: decoding from an empty cache, a prompt of its own.
    return run(args.prompt, 1)["prefill"]["tokens_per_second"], run(1, args.tokens)["decode"]["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=pathlib.Path, required=True)
    parser.add_argument("--braid", type=pathlib.Path, default="target/release/braid")
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--kinds", default="bf16,int8,int4")
    parser.add_argument("--target", default="cpu", help="of Braid")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--folder", help="where models are kept; else they are made anew")
    args = parser.parse_args()
    folder = pathlib.Path(args.folder or tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    shape = SHAPES[args.shape]
    plain = folder / f"{args.shape}-f32.gguf"
    if not plain.exists():
        random_gguf(plain, shape)
    text = folder / f"{args.shape}.braid"
    text.write_text(spec(shape))
    print("| weights, threads | prefill, tokens/s | llama.cpp | ratio | decode, tokens/s | llama.cpp | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in args.kinds.split(","):
        model = plain if KINDS[kind] is None else folder / f"{args.shape}-{KINDS[kind]}.gguf"
        if not model.exists():
            subprocess.run([args.llama / "llama-quantize", "--pure", plain, model, KINDS[kind]], check=True, capture_output=True)
        artifact, packed = folder / f"{args.shape}-{kind}.braidart", folder / f"{args.shape}-{kind}.bin"
        subprocess.run([args.braid, "build", text, "--target", args.target, "--dtype", kind, "-o", artifact], check=True, capture_output=True)
        subprocess.run([args.braid, "pack", artifact, "--weights", "random:1", "-o", packed], check=True, capture_output=True)
        for threads in map(int, args.threads.split(",")):
            turns = [(theirs(args, model, threads), ours(args, artifact, packed, threads)) for _ in range(args.turns)]
            (pp, tg), (own_pp, own_tg) = ([statistics.median(turn[side][at] for turn in turns) for at in (0, 1)] for side in (0, 1))
            cells = [own_pp, pp, own_pp / pp, own_tg, tg, own_tg / tg]
            texts = [f"{cell:.2f}" if at % 3 == 2 else f"{cell:.0f}" for at, cell in enumerate(cells)]
            print(f"| {kind}, {threads} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
