#!/usr/bin/env python3
"""How fast llama.cpp's own operations compute recurrences on a CPU, where it has them: another peer of Braid's figures.

    pip install numpy
    pip download llama-cpp-python==0.3.36 --no-deps --no-binary :all: && tar xf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_CURL=OFF && cmake --build build -j
    python3 tests/benches/recurrences/ggml.py --libraries build/bin --json ggml.json

f32, batch 1; 4096 positions, 16 heads with k = v = 128 (element_wise: 4096 channels with 16 states), one operation that a graph of ggml computes. Each is first
compared with the plain loop in f64 on a short sequence. `cargo bench -p braid-tests --bench recurrences -- --peer ggml.json` reads what `--json` writes.
"""

import argparse
import ctypes
import json
import pathlib
import statistics
import time

import numpy as np

HEADS, D, WIDTH, STATES = 16, 128, 4096, 16
F32, I32 = 0, 26


class Ggml:
    """The functions of ggml that are needed, from a folder of its libraries."""

    class Settings(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

    def __init__(self, folder):
        self.base = ctypes.CDLL(folder / "libggml-base.so", mode=ctypes.RTLD_GLOBAL)
        self.cpu = ctypes.CDLL(folder / "libggml-cpu.so", mode=ctypes.RTLD_GLOBAL)

    def call(self, name, result, *arguments):
        function = getattr(self.cpu if "compute" in name else self.base, name)
        function.restype = result
        kinds = {int: ctypes.c_int64, float: ctypes.c_float, ctypes.c_void_p: lambda x: x}
        return function(*[kinds.get(type(x), lambda x: x)(x) for x in arguments])

    def pointer(self, name, *arguments):
        return ctypes.c_void_p(self.call(name, ctypes.c_void_p, *arguments))


class Work:
    """One operation on some arrays; `[…]` of an array lies as numpy has it, the last axis fastest."""

    def __init__(self, ggml, op, arrays, more):
        size = sum(x.nbytes for x in arrays) * 2 + (64 << 20)
        self.ggml, self.context = ggml, ggml.pointer("ggml_init", Ggml.Settings(size, None, False))
        given = [self.tensor(x) for x in arrays]
        self.made = ggml.pointer(op, self.context, *given, *more)
        self.graph = ggml.pointer("ggml_new_graph", self.context)
        ggml.call("ggml_build_forward_expand", None, self.graph, self.made)

    def tensor(self, array):
        kind = ctypes.c_int(I32 if array.dtype == np.int32 else F32)
        sizes = (list(array.shape[::-1]) + [1] * 4)[:4]
        tensor = self.ggml.pointer("ggml_new_tensor_4d", self.context, kind, *map(int, sizes))
        place = self.ggml.call("ggml_get_data", ctypes.c_void_p, tensor)
        array = np.ascontiguousarray(array)
        ctypes.memmove(place, array.ctypes.data, array.nbytes)
        return tensor

    def run(self, threads):
        status = self.ggml.call("ggml_graph_compute_with_ctx", ctypes.c_int, self.context, self.graph, ctypes.c_int(threads))
        assert status == 0, f"ggml: status {status}"

    def result(self, count):
        place = self.ggml.call("ggml_get_data", ctypes.c_void_p, self.made)
        return np.ctypeslib.as_array(ctypes.cast(place, ctypes.POINTER(ctypes.c_float)), (count,)).copy()

    def close(self):
        self.ggml.call("ggml_free", None, self.context)


def numbers(row, t):
    """Inputs [t, heads, d] of a class, as trained models have them: unit keys, decays near 1."""
    random = np.random.default_rng(1)
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    if row == "element_wise":
        a = np.tile(-np.arange(1, STATES + 1, dtype=np.float32), (WIDTH, 1))
        return dict(x=normal(t, WIDTH), dt=normal(t, WIDTH) - 4, a=a, b=normal(t, STATES), c=normal(t, STATES))
    q, k, v = normal(t, HEADS, D), normal(t, HEADS, D), normal(t, HEADS, D)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    return dict(
        q=q, k=k, v=v, beta=sigmoid(normal(t, HEADS, 1)), decay=np.log(sigmoid(normal(t, HEADS, 1) + 3)),
        decays=np.log(sigmoid(normal(t, HEADS, D) + 2)) / 4, dt=normal(t, HEADS), rate=sigmoid(normal(t, HEADS, D)),
    )


def softplus(x):
    return np.log1p(np.exp(x))


def work(ggml, row, x):
    """The operation of a class."""
    state, ids = np.zeros((1, HEADS, D, D), np.float32), np.zeros(1, np.int32)
    one = lambda array: array[None]  # noqa: E731
    if row == "element_wise":
        t = len(x["x"])
        arrays = [np.zeros((1, WIDTH, 1, STATES), np.float32), x["x"].reshape(1, t, WIDTH, 1), one(x["dt"]), x["a"]]
        return Work(ggml, "ggml_ssm_scan", arrays + [x["b"].reshape(1, t, 1, STATES), x["c"].reshape(1, t, 1, STATES), ids], [1])
    if row == "scalar":
        a = -np.ones((HEADS, 1), np.float32)
        return Work(ggml, "ggml_ssm_scan", [state, one(x["v"]), one(x["dt"]), a, one(x["k"]), one(x["q"]), ids], [1])
    if row == "vector":
        arrays = [x["k"], x["v"], x["q"], np.exp(x["decays"]), state.reshape(1, -1)]
        return Work(ggml, "ggml_gated_linear_attn", arrays, [1.0])
    if row == "rank_one":
        arrays = [x["q"], np.exp(x["decays"]), x["k"], x["v"], -x["k"], x["k"] * x["rate"], state.reshape(1, -1)]
        return Work(ggml, "ggml_rwkv_wkv7", arrays, [])
    decay = {"delta": 0 * x["decay"], "gated_delta": x["decay"], "vector_delta": x["decays"]}[row]
    arrays = [one(x["q"]), one(x["k"]), one(x["v"]), one(decay), one(x["beta"]), state]
    return Work(ggml, "ggml_gated_delta_net", arrays, [1])


def loop(row, x):
    """The same, position by position in f64."""
    x = {name: array.astype(np.float64) for name, array in x.items()}
    made = []
    if row == "element_wise":
        state = np.zeros((WIDTH, STATES))
        for u, dt, b, c in zip(x["x"], softplus(x["dt"]), x["b"], x["c"]):
            state = np.exp(dt[:, None] * x["a"]) * state + (u * dt)[:, None] * b
            made.append(state @ c)
        return np.array(made)
    state = np.zeros((HEADS, D, D))
    read = lambda key: np.einsum("hk,hkv->hv", key, state)  # noqa: E731
    outer = lambda key, value: key[:, :, None] * value[:, None, :]  # noqa: E731
    for at in range(len(x["q"])):
        q, k, v, dt = x["q"][at], x["k"][at], x["v"][at], softplus(x["dt"][at])[:, None]
        if row == "scalar":
            state = np.exp(-dt)[:, :, None] * state + outer(k, v * dt)
        elif row == "vector":
            state = np.exp(x["decays"][at])[:, :, None] * state + outer(k, v)
        elif row == "rank_one":
            state = np.exp(x["decays"][at])[:, :, None] * state + outer(k * x["rate"][at], read(-k)) + outer(k, v)
        else:
            decay = {"delta": 0 * x["decay"], "gated_delta": x["decay"], "vector_delta": x["decays"]}[row][at]
            state = np.exp(decay)[:, :, None] * state
            state = state + outer(k, x["beta"][at] * (v - read(k)))
            q = q * D**-0.5
        made.append(read(q))
    return np.array(made)


def main():
    rows = ["scalar", "vector", "delta", "gated_delta", "vector_delta", "rank_one", "element_wise"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", type=pathlib.Path, required=True, help="the folder of libggml-base.so and libggml-cpu.so")
    parser.add_argument("--rows", default=",".join(rows), help="which classes")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="write all figures there")
    args = parser.parse_args()
    ggml, results = Ggml(args.libraries.resolve()), []
    print(f"llama.cpp's operations, {args.length} positions, medians of {args.runs}\n\n| class | threads | ms |\n| --- | --- | --- |")
    for row in args.rows.split(","):
        short = numbers(row, 24)
        own, wanted = work(ggml, row, short), loop(row, short)
        own.run(1)
        off = np.abs(own.result(wanted.size).reshape(wanted.shape) - wanted).max() / np.abs(wanted).max()
        own.close()
        assert off < 1e-4, f"{row}: off by {off:.1e}"
        own = work(ggml, row, numbers(row, args.length))
        for threads in map(int, args.threads.split(",")):
            own.run(threads)
            times = []
            for _ in range(args.runs):
                begin = time.perf_counter()
                own.run(threads)
                times.append(time.perf_counter() - begin)
            results.append({"row": row, "threads": threads, "ms": 1e3 * statistics.median(times)})
            print(f"| {row} | {threads} | {results[-1]['ms']:.1f} |", flush=True)
        own.close()
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"length": args.length, "runs": args.runs, "results": results}, indent=1))


if __name__ == "__main__":
    main()
