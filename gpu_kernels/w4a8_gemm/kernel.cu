// y = x W^T on Hopper with wgmma: the weights are operand A, widened in registers, the activations are operand B.
//
// A block computes CHANNELS x TOKENS outputs. One thread feeds a ring of STAGES shared-memory stages by the copy engine;
// WARPGROUPS warpgroups take BLOCKS x 64 output channels each. A cluster of SPLIT blocks shares a tile, each a part of K;
// their int32 sums meet in the shared memory of the block that owns the tokens.
//
// Macros: KIND, TOKENS, WARPGROUPS, BLOCKS, STAGES, SPLIT, RESIDENT (blocks a multiprocessor), FLOAT16 (float16 or
// bfloat16 results), WGMMA and WGMMA_SUMS (the instruction's text and its accumulators, see config.py).
#include "common/hopper.cuh"
#include "common/rounded.cuh"

enum Kind { CHANNEL, GROUP, INT8, A16 };  // W4A8 per channel, W4A8 per group, W8A8, W4A16

constexpr int CHUNK = 128;                              // inputs a stage
constexpr int BOXES = KIND == A16 ? 2 : 1;              // of 128 bytes a token: a chunk of activations
constexpr int HALVES = 2 * BOXES;                       // a half is two k-steps of 32 bytes
constexpr int CODE_BYTES = KIND == INT8 ? 8192 : 4096;  // 64 channels, a chunk
constexpr int SCALE_BYTES = KIND == GROUP ? 128 : KIND == A16 ? 256 : 0;
constexpr int BLOCK_BYTES = CODE_BYTES + SCALE_BYTES;
constexpr int CHANNELS = WARPGROUPS * BLOCKS * 64;
constexpr int X_BYTES = TOKENS * 128 * BOXES;
constexpr int W_BYTES = CHANNELS / 64 * BLOCK_BYTES;
constexpr int OWNERS = SPLIT < TOKENS / 8 ? SPLIT : TOKENS / 8;  // blocks of a cluster that write outputs
constexpr int OWN = TOKENS / OWNERS;                             // tokens of each
constexpr int PASS = OWN < 32 ? OWN : TOKENS > 64 && OWN > 32 ? 64 : 32;  // tokens that a warpgroup writes at once
constexpr int PART_BYTES = WARPGROUPS * BLOCKS * OWN * 256;      // sums of another block for the tokens owned
constexpr int CONSUMERS = WARPGROUPS * 128;
constexpr bool LARGE = WARPGROUPS * BLOCKS * TOKENS > 256;  // accumulators ask for more than an even share of registers
constexpr int THREADS = CONSUMERS + (LARGE ? 128 : 32);
constexpr int BAND = 8;  // token tiles that are taken together, so that weights are found in the L2

#if KIND == 3
typedef float Sum;
__device__ __forceinline__ u32 as_word(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float as_sum(u32 x) { return __uint_as_float(x); }
#else
typedef int Sum;
__device__ __forceinline__ u32 as_word(int x) { return (u32)x; }
__device__ __forceinline__ int as_sum(u32 x) { return (int)x; }
#endif

extern __shared__ __align__(1024) u8 shared[];

struct Shape {
  int tokens, channels, inputs;
};

// The tiles of this cluster, and this block's chunks of each.
struct Walk {
  int tile, tiles, begin, end;

  __device__ Walk(int tiles_, int chunks) : tile(blockIdx.x / SPLIT), tiles(tiles_) {
    const int rank = blockIdx.x % SPLIT;
    begin = chunks * rank / SPLIT;
    end = chunks * (rank + 1) / SPLIT;
  }

  __device__ bool more() const { return tile < tiles; }
  __device__ void next() { tile += gridDim.x / SPLIT; }
};

struct Place {
  int token, channel;  // first of the tile

  __device__ Place(int tile, Shape shape) {
    const int token_tiles = (shape.tokens + TOKENS - 1) / TOKENS;
    const int channel_tiles = (shape.channels + CHANNELS - 1) / CHANNELS;
    const int band = tile / (BAND * channel_tiles), rest = tile % (BAND * channel_tiles);
    const int width = min(BAND, token_tiles - band * BAND);
    token = (band * BAND + rest % width) * TOKENS;
    channel = rest / width * CHANNELS;
  }
};

struct Stages {
  u32 x, w, staging, parts, facts, full, empty;

  __device__ explicit Stages(u32 base) {
    x = base;
    w = x + STAGES * X_BYTES;
    staging = w + STAGES * W_BYTES;
    parts = staging + WARPGROUPS * PASS * 128;
    facts = parts + (SPLIT - 1) * PART_BYTES;
    full = facts + WARPGROUPS * OWN * 8;
    empty = full + STAGES * 8;
  }
};

// ---- the feeding warp -----------------------------------------------------------------------------------------------------
// One box brings the chunk's weights of all 64-channel blocks; what lies outside of the matrix arrives as zeros and counts.
constexpr int UNITS = SCALE_BYTES ? 1 : 2;  // of a chunk in the map of the weights: 64 inputs where there are no groups

__device__ __forceinline__ void feed_weights(const Stages& s, int stage, const TensorMap& weights, Place place, int chunk) {
  if (!elected()) return;
  barrier_expect(s.full + stage * 8, W_BYTES + X_BYTES);
  copy_box4(s.w + stage * W_BYTES, weights, 0, 0, chunk * UNITS, place.channel / 64, s.full + stage * 8);
}

__device__ __forceinline__ void feed_activations(const Stages& s, int stage, const TensorMap& x, Place place, int chunk) {
  if (!elected()) return;
#pragma unroll
  for (int b = 0; b < BOXES; ++b) {
    const u32 to = s.x + stage * X_BYTES + b * TOKENS * 128;
    copy_box(to, x, (chunk * BOXES + b) * 128, place.token, s.full + stage * 8);  // columns are bytes
  }
}

__device__ __forceinline__ void feed(const Stages& s, const TensorMap& x, const TensorMap& weights, Shape shape, Walk walk) {
  int filled = 0;
  for (Walk ahead = walk; filled < STAGES && ahead.more(); ahead.next()) {  // weights do not wait for the kernel before
    const Place place(ahead.tile, shape);
    for (int chunk = ahead.begin; chunk < ahead.end && filled < STAGES; ++chunk) {
      feed_weights(s, filled++, weights, place, chunk);
    }
  }
  wait_for_previous();
  int stage = 0, round = 0;
  for (; walk.more(); walk.next()) {
    const Place place(walk.tile, shape);
    for (int chunk = walk.begin; chunk < walk.end; ++chunk) {
      if (round) {
        barrier_wait(s.empty + stage * 8, (round - 1) & 1);
        feed_weights(s, stage, weights, place, chunk);
      }
      feed_activations(s, stage, x, place, chunk);
      if (++stage == STAGES) stage = 0, ++round;
    }
  }
}

#include "w4a8_gemm/operand.cuh"

// ---- sums -----------------------------------------------------------------------------------------------------------------
typedef Sum Tile[BLOCKS][TOKENS / 2];

__device__ __forceinline__ void multiply(Sum (&d)[TOKENS / 2], const u32 (&a)[4], u64 x, int accumulate) {
  asm volatile(WGMMA : WGMMA_SUMS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(x), "r"(accumulate));
}

__device__ __forceinline__ void release(const Stages& s, int stage) {
  if (threadIdx.x % 32 == 0) barrier_arrive(s.empty + stage * 8);
}

// What a thread reads of a stage ahead of its use.
struct Ahead {
  Scales scales[BLOCKS];
  u32 words[BLOCKS][WORDS];
};

__device__ __forceinline__ void read_ahead(Ahead& next, u32 w, int half) {
  const int thread = threadIdx.x % 128, row = thread / 32 * 8 + thread % 32 / 4;
#pragma unroll
  for (int b = 0; b < BLOCKS; ++b) {
    if (half == 0) next.scales[b] = scales_of(w + b * BLOCK_BYTES, row);
    if (KIND != INT8) load_words(next.words[b], w + b * BLOCK_BYTES + thread * 16, half);
  }
}

// Packed words of the next chunk are read while the tensor cores still work on this one. Only where there are no scales
// to read with them: with those it was slower (README.md).
constexpr bool READ_AHEAD = KIND == CHANNEL;

// Sums of a tile over its chunks; at the end all stages are released. Two groups of instructions are in flight, so that
// operand A has two sets of registers.
__device__ __forceinline__ void accumulate(Tile& d, const Stages& s, int& stage, u32& parity, int chunks, int group) {
  const u32 mine = s.w + group * BLOCKS * BLOCK_BYTES;
  Ahead next;
  int before = stage;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int now = stage;
    const u32 w = mine + now * W_BYTES;
    const u64 x = swizzled_rows(s.x + now * X_BYTES);
    if (!READ_AHEAD || chunk == 0) {
      barrier_wait(s.full + now * 8, parity);
      read_ahead(next, w, 0);
    }
#pragma unroll
    for (int half = 0; half < HALVES; ++half) {
      u32 a[BLOCKS][2][4];
#pragma unroll
      for (int b = 0; b < BLOCKS; ++b) {  // 8-bit weights are operand A as they are: their registers cannot be read ahead
        if (KIND == INT8) load_words(next.words[b], w + b * BLOCK_BYTES + threadIdx.x % 128 * 16, half);
        operand(a[b], next.words[b], next.scales[b]);
      }
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const int at = half * 2 + step;  // 32 bytes further in the swizzled row; a box is 4 steps
        const u64 here = x + (u64)((at % 4) * 32 + at / 4 * TOKENS * 128 >> 4);
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) multiply(d[b], a[b][step], here, chunk + at > 0);
      }
      wgmma_commit();
      if (half + 1 < HALVES) {
        read_ahead(next, w, half + 1);
      } else {
        if (++stage == STAGES) stage = 0, parity ^= 1;
        if (READ_AHEAD && chunk + 1 < chunks) {
          barrier_wait(s.full + stage * 8, parity);
          read_ahead(next, mine + stage * W_BYTES, 0);
        }
      }
      wgmma_wait<1>();
      if (half == 0 && chunk > 0) release(s, before);
    }
    before = now;
  }
  wgmma_wait<0>();
  release(s, before);
}

// ---- tiles that are cut along K -------------------------------------------------------------------------------------------
typedef Sum Owned[BLOCKS][OWN / 2];

// Sends the sums of other blocks' tokens to them, keeps those of its own, adds what the others sent.
__device__ __forceinline__ void combine(const Tile& d, Owned& own, const Stages& s, int group) {
  const u32 rank = cluster_rank(), here = (group * BLOCKS * (OWN / 8) * 128 + threadIdx.x % 128) * 16;
#pragma unroll
  for (u32 to = 0; to < OWNERS; ++to) {
    if (to == rank) {
#pragma unroll
      for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
        for (int i = 0; i < OWN / 2; ++i) own[b][i] = d[b][to * (OWN / 2) + i];
      }
    } else {
      const u32 part = s.parts + (rank - (rank > to)) * PART_BYTES + here;
#pragma unroll
      for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
        for (int j = 0; j < OWN / 8; ++j) {
          const Sum* v = d[b] + to * (OWN / 2) + j * 4;
          store16_at(part + (b * (OWN / 8) + j) * 2048, to, as_word(v[0]), as_word(v[1]), as_word(v[2]), as_word(v[3]));
        }
      }
    }
  }
  cluster_arrive();
  cluster_wait();
  if (rank >= OWNERS) return;
#pragma unroll
  for (int from = 0; from < SPLIT - 1; ++from) {
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
      for (int j = 0; j < OWN / 8; ++j) {
        const uint4 v = load16(s.parts + from * PART_BYTES + here + (b * (OWN / 8) + j) * 2048);
        own[b][j * 4] += as_sum(v.x), own[b][j * 4 + 1] += as_sum(v.y);
        own[b][j * 4 + 2] += as_sum(v.z), own[b][j * 4 + 3] += as_sum(v.w);
      }
    }
  }
}

#include "w4a8_gemm/epilogue.cuh"

// ---- kernel ---------------------------------------------------------------------------------------------------------------
__device__ __forceinline__ void consume(const Stages& s, const Epilogue& e, Shape shape, Walk walk) {
  const int group = threadIdx.x / 128;
  const u32 rank = SPLIT > 1 ? cluster_rank() : 0;
  const u32 facts = s.facts + group * OWN * 8, staging = s.staging + group * PASS * 128;
  int stage = 0;
  u32 parity = 0;
  for (bool first = true; walk.more(); walk.next(), first = false) {
    Place place(walk.tile, shape);
    place.channel += group * BLOCKS * 64;
    place.token += rank * OWN;
    Channels channels;
    read_channels(channels, e, shape, place.channel);
    if (first) wait_for_previous();
    if (rank < OWNERS) stage_tokens(facts, e, shape, place.token);
    Tile d;
    accumulate(d, s, stage, parity, walk.end - walk.begin, group);
#if SPLIT > 1
    Owned own;
    cluster_wait();  // all blocks of the cluster run: their shared memory may be written
    combine(d, own, s, group);
    if (rank >= OWNERS) return;
#else
    Owned& own = d;
#endif
    named_barrier(1 + group, 128);  // facts are staged
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) {
      write_block(own[b], channels[b], e, shape, place, facts, staging, group);
      place.channel += 64;
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    gemm(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const u16* scale, const u16* scaled_zero, const u16* bias,
         const u16* token_scale, const u16* token_sum, u16* y, int tokens, int channels, int inputs) {
  const Stages s(shared_address(shared));
  const Shape shape = {tokens, channels, inputs};
  if (threadIdx.x == 0) {
    prefetch_map(x);
    prefetch_map(weights);
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(s.full + i * 8, 1);
      barrier_init(s.empty + i * 8, WARPGROUPS * 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (SPLIT > 1) cluster_arrive();
  let_next_start();
  const int tiles = (tokens + TOKENS - 1) / TOKENS * ((channels + CHANNELS - 1) / CHANNELS);
  const Walk walk(tiles, (inputs + CHUNK - 1) / CHUNK);
  if (threadIdx.x >= CONSUMERS) {
    if (LARGE) registers_down<40>();
    if (threadIdx.x < CONSUMERS + 32) feed(s, x, weights, shape, walk);
    if (SPLIT > 1) {  // a cluster's barrier counts all threads
      cluster_wait();
      cluster_arrive();
    }
  } else {
    if (LARGE) registers_up<232>();
    const Epilogue e = {scale, scaled_zero, bias, token_scale, token_sum, y};
    consume(s, e, shape, walk);
  }
}
