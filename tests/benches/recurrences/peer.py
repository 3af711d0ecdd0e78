#!/usr/bin/env python3
"""How fast PyTorch on the CPU computes each class of recurrence: the peer of Braid's own figures.

    python3 -m venv venv && venv/bin/pip install torch numpy
    venv/bin/python tests/benches/recurrences/peer.py --json peer.json

f32, batch 1; 4096 positions, 16 heads with k = v = 128 (element_wise: 4096 channels with 16 states; gated_rnn: 2048 channels). Of each class several
forms and chunk sizes are tried, eager and compiled, and each is first compared with the plain loop in f64 on a short sequence. The
best of all counts: its median of several runs. Inputs lie as the form likes them; only the recurrence is measured, no projections.
"""

import argparse
import json
import statistics
import sys
import time

import ops
import torch
import torch.nn.functional as F

HEADS, D, WIDTH, STATES, RNN = 16, 128, 4096, 16, 2048


def inputs(row, t, dtype=torch.float32, heads=HEADS, width=WIDTH, rnn=RNN):
    """Numbers as trained models have them: unit keys, decays near 1."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    q, k, v = normal(heads, t, D) * D**-0.5, F.normalize(normal(heads, t, D), dim=-1), normal(heads, t, D)
    decay, decays = F.logsigmoid(normal(heads, t) + 3), F.logsigmoid(normal(heads, t, D) + 2) / 4
    b = torch.sigmoid(normal(heads, t))
    if row == "none":
        return q, k, v
    if row == "scalar":
        return q, k, v, decay
    if row == "vector":
        return q, k, v, decays
    if row == "delta":
        return q, k, v, b
    if row == "gated_delta":
        return q, k, v, b, decay
    if row == "vector_delta":
        return q, k, v, b, decays
    if row == "rank_one":
        # As RWKV-7 has them: a removal key, and the same scaled by a rate and of the other sign.
        return q, k, v, -k, k * torch.sigmoid(normal(heads, t, D)), -0.606531 * torch.sigmoid(normal(heads, t, D))
    if row == "stabilised":
        return q * D**0.5, k, v, F.logsigmoid(normal(heads, t) + 3), normal(heads, t)
    if row == "element_wise":
        a = -torch.arange(1, STATES + 1).to(dtype).repeat(width, 1)
        return normal(t, width), F.softplus(normal(t, width) - 4), a, normal(t, STATES), normal(t, STATES)
    return torch.sigmoid(normal(t, rnn) + 2), normal(t, rnn)


def chunked(form, sizes, **more):
    return [(f"{form.__name__} c={c}" + "".join(f" {x}" for x in more.values()), form, {"chunk": c, **more}) for c in sizes]


def solved(form, sizes):
    return [x for inverse in ops.INVERSES for x in chunked(form, sizes, inverse=inverse)]


ROWS = {
    "none": (ops.loop_linear, chunked(ops.none, [64, 128, 256]) + chunked(ops.none_walk, [64, 128, 256, 512])),
    "scalar": (ops.loop_linear, chunked(ops.scalar, [64, 128, 256]) + chunked(ops.scalar_walk, [64, 128, 256])),
    "vector": (
        ops.loop_linear,
        chunked(ops.vector, [32, 64]) + chunked(ops.vector_walk, [32, 64, 128]) + chunked(ops.vector_safe, [64, 128]),
    ),
    "delta": (ops.loop_delta, solved(ops.delta, [32, 64, 128])),
    "gated_delta": (ops.loop_delta, solved(ops.gated_delta, [32, 64, 128])),
    "vector_delta": (ops.loop_delta, solved(ops.vector_delta, [32, 64])),
    "rank_one": (ops.loop_rank_one, solved(ops.rank_one, [16, 32, 64])),
    "stabilised": (ops.loop_stabilised, chunked(ops.stabilised, [64, 128, 256])),
    "element_wise": (
        ops.loop_element_wise,
        chunked(ops.element_wise, [8, 16, 32, 64]) + chunked(ops.element_wise_state_major, [8, 16, 32, 64]),
    ),
    "gated_rnn": (ops.loop_gated_rnn, chunked(ops.gated_rnn, [64, 4096]) + chunked(ops.gated_rnn_scan, [16, 32, 64, 128])),
}

# Blocks of which the step is compiled: the step, who walks over the blocks, and their sizes.
STEPS = {
    "none": [(ops.none_step, ops.matrices, [128, 256])],
    "scalar": [(ops.scalar_step, ops.matrices, [64, 128])],
    "vector": [(ops.vector_step, ops.matrices, [64, 128])],
    "element_wise": [
        (ops.element_wise_step, ops.stepped_element_wise, [8, 16]),
        (ops.element_wise_state_major_step, ops.stepped_element_wise_state_major, [8, 16]),
    ],
    "gated_rnn": [(ops.gated_rnn_step, ops.stepped_gated_rnn, [16, 64])],
}
# A form with more blocks than this would be compiled block by block, for minutes.
UNROLLED = 64


def check(row, form, arguments):
    """Largest difference to the plain loop in f64, as a part of the largest number; on 256 positions of two heads or 64 channels."""
    small = {"heads": 2, "width": 64, "rnn": 64}
    arguments = {**arguments, "chunk": min(arguments["chunk"], 256)}
    wanted = ROWS[row][0](*inputs(row, 256, torch.float64, **small))
    found = form(*inputs(row, 256, **small), **arguments).double()
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def timed(call, runs):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fast(forms, given, runs):
    """The forms that a few runs do not show to be far behind: only those are measured with all runs."""
    first = []
    for name, form, arguments in forms:
        form(*given, **arguments)
        first.append(min(timed(lambda: form(*given, **arguments), 1) for _ in range(2)))  # noqa: B023
    return [x for x, ms in zip(forms, first) if runs < 3 or ms < 1.6 * min(first)]


def measure(row, t, runs, compiled, log):
    """Milliseconds of every form, the best first."""
    given, found = inputs(row, t), []
    right = []
    for name, form, arguments in ROWS[row][1]:
        off = check(row, form, arguments)
        if off < 1e-3:
            right.append((name, form, arguments))
        else:
            log(f"  {row}: {name} is off by {off:.1e}: left out")
    for name, form, arguments in fast(right, given, runs):
        found.append((1e3 * timed(lambda: form(*given, **arguments), runs), f"{name}, eager", form, arguments))  # noqa: B023
        log(f"  {row}: {found[-1][1]}: {found[-1][0]:.1f} ms")
    found.sort(key=lambda x: x[0])
    for name, form, arguments in candidates(row, t, found) if compiled else []:
        try:
            torch._dynamo.reset()
            call = form(given, arguments)
            start = time.perf_counter()
            call()
            call()
            took = time.perf_counter() - start
            found.append((1e3 * timed(call, runs), name, None, None))
            log(f"  {row}: {name}: {found[-1][0]:.1f} ms ({took:.0f} s to compile)")
        except Exception as error:  # what cannot be compiled stays eager
            log(f"  {row}: {name}: {str(error).splitlines()[0][:100]}")
    return sorted((ms, name) for ms, name, _, _ in found)


def candidates(row, t, eager):
    """What to compile: the two best whole forms, and steps of blocks. Each is a name, how to make the call, and arguments."""

    def whole(form):
        def make(given, arguments):
            made = torch.compile(form, dynamic=False)
            return lambda: made(*given, **arguments)

        return make

    def blocks(step, walk):
        def make(given, chunk):
            made = torch.compile(step, dynamic=False)
            small = {"heads": 2, "width": 64, "rnn": 64}
            wanted = ROWS[row][0](*inputs(row, 256, torch.float64, **small))
            off = (walk(step, inputs(row, 256, **small), chunk).double() - wanted).abs().max() / wanted.abs().max()
            if not off < 1e-3:
                raise ValueError(f"off by {off:.1e}")
            return lambda: walk(made, given, chunk)

        return make

    short = [x for x in eager if t // x[3]["chunk"] <= UNROLLED and row != "gated_rnn" and row != "element_wise"][:2]
    found = [(name.replace("eager", "compiled"), whole(form), arguments) for _, name, form, arguments in short]
    for step, walk, sizes in STEPS.get(row, []):
        found += [(f"{step.__name__} c={c}, compiled", blocks(step, walk), c) for c in sizes]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="which classes")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="eager only")
    parser.add_argument("--json", help="write all figures there")
    args = parser.parse_args()
    log = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    results = []
    torch.set_flush_denormal(True)
    with torch.inference_mode():
        for threads in map(int, args.threads.split(",")):
            torch.set_num_threads(threads)
            for row in args.rows.split(","):
                all_forms = measure(row, args.length, args.runs, not args.no_compile, log)
                forms = [{"form": name, "ms": ms} for ms, name in all_forms]
                results.append({"row": row, "threads": threads, "ms": forms[0]["ms"], "form": forms[0]["form"], "all": forms})
    report = {"torch": torch.__version__, "length": args.length, "runs": args.runs, "results": results}
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
    print(f"PyTorch {torch.__version__}, {args.length} positions, medians of {args.runs}\n")
    print("| row | threads | ms | form |\n| --- | --- | --- | --- |")
    for x in results:
        print(f"| {x['row']} | {x['threads']} | {x['ms']:.1f} | {x['form']} |")


if __name__ == "__main__":
    main()
