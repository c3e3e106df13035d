// Activations to INT8, a token (row) at a time: as they are, after an RMS norm, or gated. `model.py` bit for bit.
//
// Macros: MODE (0 plain, 1 norm, 2 gate), FLOAT16 (else bfloat16), RESIDUAL (MODE 1: a residual is added first and
// written back), SUMS (sums of rows are written), CLUSTER (blocks of a row), GROUPS, STEPS (see below).
//
// A row is made of pieces of 8 values. The sums of model.py take 256 threads, thread i with pieces i, i + 256, ... in
// turn. Here a block of a cluster stands for 256 / CLUSTER of them, GROUPS threads for one: each has STEPS of its pieces
// and hands the sum on to the next. So the result does not depend on CLUSTER, GROUPS and STEPS.
#include "common/ampere.cuh"
#include "activations/silu.cuh"
#include "common/rounded.cuh"

#define TREE 256
#define COLUMNS (TREE / CLUSTER)
#define THREADS (COLUMNS * GROUPS)
#define WARPS (THREADS / 32)
#define PLAIN 0
#define NORM 1
#define GATE 2
#define INFINITE 0x7F800000u

// ---- instructions -------------------------------------------------------------------------------------------------------
// "ld.global": volatile, so that it stays behind dependency_wait()
__device__ __forceinline__ uint4 load16(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

// "barrier.cluster", "mapa", "st.shared::cluster", from sm_90 on
__device__ __forceinline__ u32 block_of_cluster() {
  u32 rank = 0;
#if CLUSTER > 1
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

__device__ __forceinline__ void cluster_arrive() {
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if CLUSTER > 1
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void store_at(u32* place, u32 block, u32 value) {
#if CLUSTER > 1
  asm volatile(
      "{ .reg .b32 there;\n mapa.shared::cluster.u32 there, %0, %1;\n st.shared::cluster.u32 [there], %2; }" ::"r"(
          (u32)__cvta_generic_to_shared(place)),
      "r"(block), "r"(value)
      : "memory");
#else
  *place = value;
#endif
}

// "max.NaN": the larger of two 16-bit floats each, NaN if one is
__device__ __forceinline__ u32 larger_pair(u32 a, u32 b) {
  u32 r;
  if (FLOAT16) {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  } else {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  }
  return r;
}

// "redux.sync": of bits of floats that are not negative, or NaN, which is above all others
__device__ __forceinline__ u32 largest_of_warp(u32 bits) { return __reduce_max_sync(~0u, bits); }

// ---- pieces: 8 values of 16 bits ------------------------------------------------------------------------------------------
__device__ __forceinline__ float first(u32 pair) { return widened<FLOAT16>((u16)(pair & 0xFFFF)); }
__device__ __forceinline__ float second(u32 pair) { return widened<FLOAT16>((u16)(pair >> 16)); }

__device__ __forceinline__ u32 added(u32 a, u32 b) {
  return rounded_pair<FLOAT16>(__fadd_rn(first(a), first(b)), __fadd_rn(second(a), second(b)));
}

__device__ __forceinline__ u32 scaled(u32 h, float inverse_root, u32 weight) {
  float low = __fmul_rn(__fmul_rn(first(h), inverse_root), first(weight));
  float high = __fmul_rn(__fmul_rn(second(h), inverse_root), second(weight));
  return rounded_pair<FLOAT16>(low, high);
}

__device__ __forceinline__ u32 gated(u32 gate, u32 up) {
  float low = __fmul_rn(silu(first(gate)), first(up)), high = __fmul_rn(silu(second(gate)), second(up));
  return rounded_pair<FLOAT16>(low, high);
}

// four values to int8: below 128 in size, so the nearest integer is the low byte of the sum
__device__ __forceinline__ u32 quantized(u32 a, u32 b, float inverse) {
  u32 q0 = __float_as_uint(__fadd_rn(__fmul_rn(first(a), inverse), SHIFT));
  u32 q1 = __float_as_uint(__fadd_rn(__fmul_rn(second(a), inverse), SHIFT));
  u32 q2 = __float_as_uint(__fadd_rn(__fmul_rn(first(b), inverse), SHIFT));
  u32 q3 = __float_as_uint(__fadd_rn(__fmul_rn(second(b), inverse), SHIFT));
  return __byte_perm(__byte_perm(q0, q1, 0x0040), __byte_perm(q2, q3, 0x0040), 0x5410);
}

// ---- a row ----------------------------------------------------------------------------------------------------------------
struct Shared {
  float chain[COLUMNS];
  u32 squares[8], sums[8];      // of 32 of the 256 threads each
  u32 largest[CLUSTER * WARPS];
};

template <bool SQUARES>
__device__ __forceinline__ float continued(float sum, const uint4& piece) {
  const u32 pairs[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float a = first(pairs[i]), b = second(pairs[i]);
    sum = SQUARES ? __fmaf_rn(a, a, sum) : __fadd_rn(sum, a);
    sum = SQUARES ? __fmaf_rn(b, b, sum) : __fadd_rn(sum, b);
  }
  return sum;
}

// the sum of every 32 of the 256 threads to `totals` of all blocks; visible behind the next meeting
template <bool SQUARES>
__device__ __forceinline__ void add_up(const uint4 (&row)[STEPS], Shared& shared, u32 (&totals)[8]) {
  int group = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS;
  float sum = 0;
#pragma unroll
  for (int g = 0; g < GROUPS; ++g) {
    if (group == g) {
      if (g > 0) sum = shared.chain[column];
#pragma unroll
      for (int s = 0; s < STEPS; ++s) sum = continued<SQUARES>(sum, row[s]);
      if (g < GROUPS - 1) shared.chain[column] = sum;
    }
    if (g < GROUPS - 1) __syncthreads();
  }
  if (group < GROUPS - 1) return;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, distance));
  int lane = threadIdx.x % 32;
  u32* place = totals + block_of_cluster() * (COLUMNS / 32) + column / 32;
  if (lane < CLUSTER) store_at(place, lane, __float_as_uint(sum));
}

__device__ __forceinline__ float tree_of(const u32 (&totals)[8]) {
  float t[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) t[i] = __uint_as_float(totals[i]);
  float even = __fadd_rn(__fadd_rn(t[0], t[4]), __fadd_rn(t[2], t[6]));
  return __fadd_rn(even, __fadd_rn(__fadd_rn(t[1], t[5]), __fadd_rn(t[3], t[7])));
}

__device__ __forceinline__ void find_largest(const uint4 (&row)[STEPS], Shared& shared) {
  u32 pairs = 0;
#pragma unroll
  for (int s = 0; s < STEPS; ++s) {
    pairs = larger_pair(pairs, larger_pair(row[s].x & 0x7FFF7FFF, row[s].y & 0x7FFF7FFF));
    pairs = larger_pair(pairs, larger_pair(row[s].z & 0x7FFF7FFF, row[s].w & 0x7FFF7FFF));
  }
  u32 bits = max(__float_as_uint(first(pairs)), __float_as_uint(second(pairs)));
  bits = largest_of_warp(bits);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane < CLUSTER) store_at(&shared.largest[block_of_cluster() * WARPS + warp], lane, bits);
}

__device__ __forceinline__ float largest_of(const Shared& shared) {
  u32 bits = 0;
#pragma unroll
  for (int i = 0; i < CLUSTER * WARPS; i += 32) {
    int at = i + threadIdx.x % 32;
    if (at < CLUSTER * WARPS) bits = max(bits, shared.largest[at]);
  }
  return __uint_as_float(largest_of_warp(bits));
}

__device__ __forceinline__ void meet() {
  if (CLUSTER > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
}

// x [M, K], or [M, 2 K] with gates in front (MODE 2); residual [M, K] read and written; weight [K]; codes [M, K], scale, sums
// [M]; pieces = K / 8. A grid of M clusters.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_tokens(const uint4* x, uint4* residual, const uint4* __restrict__ weight, uint2* codes, u16* scale, u16* sums,
                    int pieces, float epsilon) {
  __shared__ Shared shared;
  dependents_may_start();
  cluster_arrive();
  int rank = block_of_cluster(), token = blockIdx.x / CLUSTER;
  int group = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS + rank * COLUMNS;
  int begin = column + group * STEPS * TREE;
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  size_t row_of = (size_t)token * pieces;

  uint4 row[STEPS], other[STEPS];
#pragma unroll
  for (int s = 0; s < STEPS; ++s) {
    int piece = begin + s * TREE;
    if (MODE == NORM) other[s] = piece < pieces ? __ldg(weight + piece) : zeros;
  }
  dependency_wait();
  const uint4* from = x + (MODE == GATE ? 2 : 1) * row_of;
  uint4 before[RESIDUAL ? STEPS : 1];
#pragma unroll
  for (int s = 0; s < STEPS; ++s) {
    int piece = begin + s * TREE;
    bool there = piece < pieces;
    row[s] = there ? load16(from + piece) : zeros;
    if (MODE == GATE) other[s] = there ? load16(from + pieces + piece) : zeros;
    if (RESIDUAL) before[s] = there ? load16(residual + row_of + piece) : zeros;
  }
  cluster_wait();  // the others of the cluster have begun: their shared memory may be written

  if (MODE == GATE) {
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      row[s] = make_uint4(gated(row[s].x, other[s].x), gated(row[s].y, other[s].y), gated(row[s].z, other[s].z),
                          gated(row[s].w, other[s].w));
    }
  }
  if (RESIDUAL) {
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      row[s] = make_uint4(added(row[s].x, before[s].x), added(row[s].y, before[s].y), added(row[s].z, before[s].z),
                          added(row[s].w, before[s].w));
      int piece = begin + s * TREE;
      if (piece < pieces) residual[row_of + piece] = row[s];
    }
  }
  if (MODE == NORM) {
    add_up<true>(row, shared, shared.squares);
    meet();
    float mean = __fdiv_rn(tree_of(shared.squares), (float)(8 * pieces));
    float inverse_root = __fdiv_rn(1.f, __fsqrt_rn(__fadd_rn(mean, epsilon)));
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      row[s] = make_uint4(scaled(row[s].x, inverse_root, other[s].x), scaled(row[s].y, inverse_root, other[s].y),
                          scaled(row[s].z, inverse_root, other[s].z), scaled(row[s].w, inverse_root, other[s].w));
    }
  }
  find_largest(row, shared);
  if (SUMS) add_up<false>(row, shared, shared.sums);
  meet();

  float largest = largest_of(shared), inverse = __fdiv_rn(127.f, largest);
  bool fine = __float_as_uint(largest) < INFINITE && __float_as_uint(inverse) < INFINITE;  // NaN is above it, too
  if (threadIdx.x == 0 && rank == 0) {
    scale[token] = rounded<FLOAT16>(__fdiv_rn(largest, 127.f));
    if (SUMS) sums[token] = rounded<FLOAT16>(__float_as_uint(largest) < INFINITE ? tree_of(shared.sums) : largest);
  }
#pragma unroll
  for (int s = 0; s < STEPS; ++s) {
    int piece = begin + s * TREE;
    uint2 eight = make_uint2(quantized(row[s].x, row[s].y, inverse), quantized(row[s].z, row[s].w, inverse));
    if (piece < pieces) codes[row_of + piece] = fine ? eight : make_uint2(0, 0);
  }
}

// every reciprocal that `silu` may ask for, by the power of two: out[i] = 1 / ((1 + i 2^-23) power), i in 0..2^23
extern "C" __global__ void reciprocals(float* out, int count, float power) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = reciprocal(__fmul_rn(__fadd_rn(1.f, __fmul_rn((float)i, 0x1p-23f)), power));
}
