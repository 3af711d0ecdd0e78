"""Braid against llama.cpp on one CPU: the same shape of model with random weights, both sides in turns, medians as a Markdown table.

    pip install gguf numpy
    python3 tests/benches/peers/llama_cpp.py --llama BIN --braid target/release/braid --threads 1,2 --turns 3

BIN is the folder with `llama-bench` and `llama-quantize`: cmake and ninja build them from `vendor/llama.cpp` in the source distribution of
`llama-cpp-python`. The file of the peer is written with the package `gguf` (shapes.py) and quantised by its own tool.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

from shapes import SHAPES, spec, write_gguf

# Storage here, and what the peer calls the same bits.
KINDS = {"f32": None, "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0", "int4z": "Q4_1"}


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
        write_gguf(plain, shape)
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
