// What a step of decoding could take at best on one GPU: blocks stream weights through rings in shared memory, and after each share of them meet, as
// each needs the numbers that all have made.
//
//   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a tests/benches/gpu/meet.cu -o meet && ./meet
//
// One line for each share (units of 2 KiB for each warp) and way to meet: `alone`, not at all; `fence`, a counter behind a fence, as `braid_step`
// does; `told`, each number with the turn that made it, so that no fence is needed: who finds an older one looks again. Medians of nine launches.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <vector>

#define OK(call)                                                                                                                       \
  if (cudaError_t error = call; error != cudaSuccess) {                                                                                \
    fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error));                                                                     \
    exit(1);                                                                                                                           \
  }

constexpr int WARPS = 8, THREADS = 32 * WARPS, BLOCKS = 264, UNIT = 2048, SLOTS = 4, TURNS = 120, ROW = 2048, OWN = 8;
constexpr size_t WEIGHTS = size_t(4) << 30;
enum Way { ALONE, FENCE, TOLD };

struct Told {
  const char *weights;
  unsigned *counter;
  uint64_t *numbers; // [TURNS][ROW]: a number, and above it the turn of which launch made it
  float *out;
  int units, way;
  unsigned launch;
};

__device__ uint32_t shared(const void *p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ bool has_come(uint64_t *barrier, int parity) {
  uint32_t come;
  asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(come) : "r"(shared(barrier)), "r"(parity) : "memory");
  return come;
}

__global__ void __launch_bounds__(THREADS, 2) turns(Told told) {
  extern __shared__ __align__(128) char memory[];
  __shared__ uint64_t arrivals[WARPS][SLOTS];
  __shared__ float sums[WARPS];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, total = TURNS * told.units;
  float *row = reinterpret_cast<float *>(memory);
  char *ring = memory + 4 * ROW + warp * SLOTS * UNIT;
  if (threadIdx.x < WARPS * SLOTS)
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared(&arrivals[0][threadIdx.x])));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  for (int at = threadIdx.x; at < ROW; at += THREADS) row[at] = 1;
  __syncthreads();
  int begun = 0;
  auto ask = [&] {
    if (lane == 0) {
      const size_t turn = begun / told.units, unit = begun % told.units;
      const size_t from = ((turn * BLOCKS + blockIdx.x) * WARPS + warp) * told.units + unit;
      const uint32_t barrier = shared(&arrivals[warp][begun % SLOTS]);
      asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(UNIT) : "memory");
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                   ::"r"(shared(ring + begun % SLOTS * UNIT)), "l"(told.weights + from * UNIT % WEIGHTS), "r"(UNIT), "r"(barrier)
                   : "memory");
    }
    begun++;
  };
  float sum = 0;
  for (int turn = 0, at = 0; turn < TURNS; turn++) {
    for (int unit = 0; unit < told.units; unit++, at++) {
      while (begun < total && begun - at < SLOTS) ask();
      while (!has_come(&arrivals[warp][at % SLOTS], at / SLOTS & 1)) {}
      const uint4 *own = reinterpret_cast<uint4 *>(ring + at % SLOTS * UNIT);
      for (int part = 0; part < UNIT / 512; part++) {
        const uint4 w = own[32 * part + lane];
        const float4 *x = reinterpret_cast<float4 *>(row) + (64 * (unit * UNIT / 512 + part) + 2 * lane) % (ROW / 4);
        auto add = [&](uint32_t pair, float a, float b) { sum += __uint_as_float(pair << 16) * a + __uint_as_float(pair & ~0xFFFFu) * b; };
        add(w.x, x[0].x, x[0].y), add(w.y, x[0].z, x[0].w), add(w.z, x[1].x, x[1].y), add(w.w, x[1].z, x[1].w);
      }
      __syncwarp();
    }
    if (told.way == ALONE) continue;
    float of_warp = sum;
    for (int by = 16; by; by /= 2) of_warp += __shfl_xor_sync(~0u, of_warp, by);
    if (lane == 0) sums[warp] = of_warp;
    __syncthreads();
    uint64_t *numbers = told.numbers + size_t(turn) * ROW;
    const unsigned mark = told.launch * TURNS + turn + 1, column = blockIdx.x * OWN + threadIdx.x;
    if (threadIdx.x < OWN && column < ROW) {
      const uint64_t number = uint64_t(mark) << 32 | __float_as_uint(sums[threadIdx.x] * 1e-30f + 1);
      asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(numbers + column), "l"(number) : "memory");
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      if (told.way == FENCE) asm volatile("fence.acq_rel.gpu;" ::: "memory");
      asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(told.counter) : "memory");
    }
    while (begun < total && begun - at < SLOTS) ask();
    if (threadIdx.x == 0)
      for (unsigned seen = 0; int(seen - mark * BLOCKS) < 0;)
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(told.counter) : "memory");
    __syncthreads();
    ulonglong2 pairs[ROW / 2 / THREADS];
    auto look = [&](int part) {
      asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                   : "=l"(pairs[part].x), "=l"(pairs[part].y) : "l"(numbers + 2 * (part * THREADS + threadIdx.x)) : "memory");
    };
    for (int part = 0; part < ROW / 2 / THREADS; part++) look(part);
    for (int part = 0; part < ROW / 2 / THREADS; part++) {
      while (unsigned(pairs[part].x >> 32) != mark || unsigned(pairs[part].y >> 32) != mark) look(part);
      reinterpret_cast<float2 *>(row)[part * THREADS + threadIdx.x] =
          make_float2(__uint_as_float(unsigned(pairs[part].x)), __uint_as_float(unsigned(pairs[part].y)));
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) told.out[blockIdx.x] = sum + row[0];
}

int main() {
  Told told{};
  char *weights;
  OK(cudaMalloc(&weights, WEIGHTS + UNIT));
  std::vector<uint32_t> some(1 << 24);
  for (auto &word : some) word = (rand() & 0x007F007F) | 0x3F003F00;
  for (size_t at = 0; at < WEIGHTS; at += 4 * some.size()) OK(cudaMemcpy(weights + at, some.data(), 4 * some.size(), cudaMemcpyHostToDevice));
  told.weights = weights;
  OK(cudaMalloc(&told.counter, 4));
  OK(cudaMalloc(&told.numbers, size_t(TURNS) * ROW * 8));
  OK(cudaMalloc(&told.out, 4 * BLOCKS));
  const int bytes = 4 * ROW + WARPS * SLOTS * UNIT;
  OK(cudaFuncSetAttribute(turns, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  cudaEvent_t begin, end;
  OK(cudaEventCreate(&begin));
  OK(cudaEventCreate(&end));
  const char *names[] = {"alone", "fence", "told"};
  for (int units : {0, 3, 6, 12})
    for (int way : {ALONE, FENCE, TOLD}) {
      if (units == 0 && way == ALONE) continue;
      told.units = units, told.way = way;
      OK(cudaMemset(told.counter, 0, 4));
      OK(cudaMemset(told.numbers, 0, size_t(TURNS) * ROW * 8));
      std::vector<float> times;
      for (told.launch = 0; told.launch < 9; told.launch++) {
        void *arguments[] = {&told};
        OK(cudaEventRecord(begin));
        OK(cudaLaunchCooperativeKernel(reinterpret_cast<void *>(turns), BLOCKS, THREADS, arguments, bytes, 0));
        OK(cudaEventRecord(end));
        OK(cudaEventSynchronize(end));
        times.emplace_back();
        OK(cudaEventElapsedTime(&times.back(), begin, end));
      }
      std::sort(times.begin(), times.end());
      const double turn = times[4] * 1e3 / TURNS;
      printf("%2d units, %-5s %6.2f us a turn, %5.0f GB/s\n", units, names[way], turn, double(units) * UNIT * WARPS * BLOCKS / turn / 1e3);
    }
}
