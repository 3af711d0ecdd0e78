"""Braid beside PyTorch on one NVIDIA GPU: products (cuBLAS), causal attention, and that of a token behind many (the fastest of PyTorch's), and
copies, in one run, as a Markdown table.

    for spec in products attention grouped; do
      target/release/braid build tests/benches/gpu/ops/$spec.braid --target cuda:sm_90a --dtype bf16 -o $spec.braidart
    done
    target/release/braid build tests/benches/gpu/ops/grouped.braid --set layers=1 --target cuda:sm_90a --dtype bf16 -o grouped_1.braidart
    python3 tests/benches/peers/gpu.py --braid-run target/release/braid-run --artifacts .

Needs PyTorch with CUDA. All times are by device events, medians; weights are random, and more than caches hold. Ours are sums of the steps of a
call, each alone with cold caches, so they contain the rounding of rows and of caches; theirs are CUDA graphs over as many layers. A token behind
many is what each further layer takes of a whole step, with what the layer does beside: its key is stored, its result added.
"""

import argparse
import json
import pathlib
import statistics
import subprocess

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

D, N, LAYERS, HEADS, KEY = 4096, 14336, 4, 16, 128
# Of a token behind many.
QUERIES, GROUPS, DEEP = 32, 8, 8


def ours(args, artifact, prompt, batch=1, steps=True, context=None):
    command = [args.braid_run, "bench", args.artifacts / f"{artifact}.braidart", "--weights", "random:1", "--prompt", str(prompt)]
    command += ["--tokens", "16", "--batch", str(batch), "--json"] + (["--prompt-steps"] if steps else [])
    command += ["--context", str(context)] if context else []
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def step(report, kind):
    """Median of the steps of a function, in seconds."""
    times = [step["microseconds"] for step in report["steps"] if step["function"] == kind]
    return statistics.median(times) / 1e6


def theirs(work, turns=20):
    """Median time of `work` as a CUDA graph."""
    for _ in range(3):
        work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(turns):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def numbers(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) / 64


def row(what, own, peer, unit, amount):
    print(f"| {what} | {own * 1e6:.0f} µs, {amount / own:.0f} {unit} | {peer * 1e6:.0f} µs, {amount / peer:.0f} {unit} | {peer / own:.2f} |")


def products(args):
    weights = [(numbers(N, D), numbers(D, N)) for _ in range(LAYERS)]
    for rows in args.rows:
        x = numbers(rows, D)

        def pair():
            y = x
            for up, down in weights:
                y = y + (y @ up.T) @ down.T

        peer = theirs(pair) / LAYERS
        if rows <= 16:
            report = ours(args, "products", 16, rows, steps=False)
            # The little that is beside the products counts as ours.
            row(f"there and back, {rows} rows, {D} and {N}", report["decode"]["seconds"] / LAYERS, peer, "GB/s", 4 * D * N / 1e9)
        else:
            report = ours(args, "products", rows)
            own = step(report, "matmul_0") + step(report, "matmul_1")
            row(f"there and back, {rows} rows, {D} and {N}", own, peer, "TFLOP/s", 4 * rows * D * N / 1e12)


def attention(args):
    for length in args.lengths:
        q, k, v = (numbers(1, HEADS, length, KEY) for _ in range(3))
        best = None
        for backend in [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]:
            try:
                with sdpa_kernel(backend):
                    time = theirs(lambda: [functional.scaled_dot_product_attention(q, k, v, is_causal=True) for _ in range(LAYERS)])
            except RuntimeError:
                continue
            best = min(time / LAYERS, best or time)
        own = step(ours(args, "attention", length), "attention_0")
        row(f"causal attention, {HEADS} heads of {KEY}, {length} positions", own, best, "TFLOP/s", 2 * HEADS * KEY * length**2 / 1e12)


def decoding(args):
    for batch, length in ((batch, length) for batch in args.batches for length in args.contexts):
        # More than caches hold, and no more than memory does.
        sets = max(2, min(DEEP, 2**31 // (batch * length * GROUPS * KEY * 4)))
        q = numbers(batch, QUERIES, 1, KEY)
        caches = [(numbers(batch, GROUPS, length, KEY), numbers(batch, GROUPS, length, KEY)) for _ in range(sets)]
        best = None
        for backend in [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]:
            try:
                with sdpa_kernel(backend):
                    time = theirs(lambda: [functional.scaled_dot_product_attention(q, k, v, enable_gqa=True) for k, v in caches])
            except RuntimeError:
                continue
            best = min(time / sets, best or time)
        del caches
        torch.cuda.empty_cache()
        deep, one = (ours(args, name, 16, batch, False, length)["decode"]["seconds"] for name in ["grouped", "grouped_1"])
        what = f"{QUERIES} heads on {GROUPS} of {KEY}, a token behind {length}, {batch} sequences"
        row(what, (deep - one) / (DEEP - 1), best, "GB/s", batch * length * GROUPS * KEY * 4 / 1e9)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--braid-run", type=pathlib.Path, default=pathlib.Path("target/release/braid-run"))
    parser.add_argument("--artifacts", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 2048])
    parser.add_argument("--lengths", type=lambda text: [int(part) for part in text.split(",")], default=[1024, 2048])
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--contexts", type=lambda text: [int(part) for part in text.split(",")], default=[8192, 32768])
    parser.add_argument("--only", choices=["products", "attention", "decoding"])
    args = parser.parse_args()
    copied = ours(args, "products", 16, steps=False)["memory_bytes_per_second"]
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, copies {copied / 1e9:.0f} GB/s\n")
    print("| what | Braid | PyTorch | times as fast |\n| --- | --- | --- | --- |")
    for measure in [products, attention, decoding]:
        if args.only in (None, measure.__name__):
            measure(args)


if __name__ == "__main__":
    main()
