// y = x W^T with mma.sync: the weights are operand A, widened in registers, the activations are operand B.
//
// A block computes CHANNELS x TOKENS outputs; STAGES stages of CHUNK inputs go through shared memory by cp.async. A warp has
// CHANNEL_BLOCKS x 16 channels and TOKEN_BLOCKS x 8 tokens; SLICES warps share them and take 128 inputs each of a chunk.
// Tiles beyond `whole` are cut along K and spread evenly over the blocks (stream-K): each leaves its part in `sums`, and who comes
// last adds them up. Sums are integers, so no order of adding shows in the bits.
//
// Macros: KIND, CHANNEL_WARPS, TOKEN_WARPS, CHANNEL_BLOCKS, TOKEN_BLOCKS, SLICES, STAGES, RESIDENT (blocks a multiprocessor),
// FLOAT16 (float16 or bfloat16 results), SHARED_BYTES (dynamic), TWIN (0, or what a timing twin leaves out).
#include "common/ampere.cuh"
#include "common/rounded.cuh"

enum Kind { CHANNEL, GROUP, INT8 };                                     // W4A8 per channel, W4A8 per group, W8A8
enum Twin { WHOLE, NO_WIDENING, NO_SCALES, NO_PRODUCTS, LOADS_ONLY };  // all but the first compute nonsense

constexpr int CHUNK = 128 * SLICES;  // inputs a stage
constexpr int CHANNELS = CHANNEL_WARPS * CHANNEL_BLOCKS * 16;
constexpr int TOKENS = TOKEN_WARPS * TOKEN_BLOCKS * 8;
constexpr int WARPS = CHANNEL_WARPS * TOKEN_WARPS * SLICES;
constexpr int THREADS = WARPS * 32;
constexpr int PARTS = KIND == INT8 ? 4 : 2;          // of 2048 bytes: 64 channels x 32 or 64 inputs
constexpr int SCALE_BYTES = KIND == GROUP ? 128 : 0;  // of 64 channels, a group
constexpr int BLOCK_BYTES = PARTS * 2048 + SCALE_BYTES;  // in global memory: 64 channels x 128 inputs
constexpr bool SCALES = KIND == GROUP && (TWIN == WHOLE || TWIN == NO_PRODUCTS);

// a slice of a stage: activations [TOKENS][128 bytes], codes [PARTS][CHANNELS / 16][lane][16 bytes], scales [CHANNELS / 16][8][4 bytes]
constexpr int ROWS16 = CHANNELS / 16;
constexpr int X_BYTES = TOKENS * 128;
constexpr int CODE_BYTES = PARTS * ROWS16 * 512;
constexpr int SLICE_BYTES = X_BYTES + CODE_BYTES + ROWS16 * SCALE_BYTES / 4;
constexpr int STAGE_BYTES = SLICES * SLICE_BYTES;
constexpr int FRAGMENT = CHANNEL_BLOCKS * TOKEN_BLOCKS * 4;     // sums a lane
constexpr int SHARED_SUMS = SLICES > 1 ? CHANNELS * TOKENS * 4 : 0;  // bytes where slices meet
constexpr int ROW_BYTES = CHANNEL_BLOCKS * 32 + 16;             // a token of a warp, waiting to be written
constexpr bool RAGGED = KIND != GROUP || SLICES > 1;  // the last chunk may not be full
static_assert(STAGES * STAGE_BYTES + SHARED_SUMS + WARPS * 8 * ROW_BYTES == SHARED_BYTES, "config.py counts otherwise");
constexpr int BAND = 8;  // token tiles that are taken together, so that weights are found in the L2

__device__ constexpr int ceiling(int a, int b) { return (a + b - 1) / b; }

// a power of two of them, so that the compiler sees the range
__device__ __forceinline__ int thread() { return threadIdx.x % THREADS; }

struct Shape {
  int tokens, channels, inputs;
};

// Tiles that are cut along K are spread over the blocks: block b takes the steps from first(b) to first(b + 1).
struct Spread {
  long long units;
  int chunks;

  __device__ Spread(int tiles, int chunks_) : units((long long)tiles * chunks_), chunks(chunks_) {}
  __device__ __forceinline__ int first(int block) const { return (int)(units * block / gridDim.x); }
};

// The steps of this block, tile by tile.
struct Walk {
  int next_whole, whole, chunks, unit, last;
  int tile, begin, end;

  __device__ Walk(Spread spread, int whole_) : next_whole(blockIdx.x), whole(whole_), chunks(spread.chunks) {
    unit = spread.first(blockIdx.x);
    last = spread.first(blockIdx.x + 1);
  }

  __device__ bool next() {
    if (next_whole < whole) {
      tile = next_whole, begin = 0, end = chunks;
      next_whole += gridDim.x;
      return true;
    }
    if (unit >= last) return false;
    tile = whole + unit / chunks;
    begin = unit % chunks;
    end = min(chunks, begin + last - unit);
    unit += end - begin;
    return true;
  }
};

struct Place {
  int token, channel;  // first of the tile

  __device__ Place(int tile, Shape shape) {
    const int token_tiles = (shape.tokens + TOKENS - 1) / TOKENS, channel_tiles = (shape.channels + CHANNELS - 1) / CHANNELS;
    const int band = tile / (BAND * channel_tiles), rest = tile % (BAND * channel_tiles);
    const int width = min(BAND, token_tiles - band * BAND);
    token = (band * BAND + rest % width) * TOKENS;
    channel = rest / width * CHANNELS;
  }
};

// ---- global to shared memory ----------------------------------------------------------------------------------------------
// Runs ahead of the arithmetic by STAGES steps.
struct Loader {
  Walk walk;
  const u8 *x_from, *w_from;  // of the tile and step
  int step, rows, tokens;     // rows: the tile's first 16 channels within their 64; tokens of the matrix from the tile on
  int channels;               // the same in channels, in sixteens
  bool more;

  __device__ Loader(Walk walk_, const u8* x, const u8* weights, Shape shape) : walk(walk_) { open(x, weights, shape); }

  __device__ __forceinline__ void open(const u8* x, const u8* weights, Shape shape) {
    more = walk.next();
    if (!more) return;
    const Place place(walk.tile, shape);
    step = walk.begin, rows = place.channel / 16 % 4;
    tokens = shape.tokens - place.token, channels = (shape.channels - place.channel) / 16;
    x_from = x + (u64)place.token * shape.inputs + (u64)step * CHUNK;
    w_from = weights + (u64)(place.channel / 64) * block_row(shape) + (u64)step * SLICES * BLOCK_BYTES;
  }

  static __device__ __forceinline__ u32 block_row(Shape shape) { return shape.inputs / 64 * (BLOCK_BYTES / 2); }  // 64 channels

  __device__ __forceinline__ void copy_weights(u32 stage, Shape shape) const {
    constexpr int PIECES = PARTS * ROWS16 * 32, WORDS = ROWS16 * 2;
#pragma unroll
    for (int i = 0; i < ceiling(SLICES * PIECES, THREADS); ++i) {
      const int p = i * THREADS + thread();
      if (SLICES * PIECES % THREADS != 0 && p >= SLICES * PIECES) continue;
      const int slice = p / PIECES, part = p % PIECES / (ROWS16 * 32), at = p / 32 % ROWS16, lane = p % 32;
      if (CHANNELS > 64 && at >= channels) continue;
      if (RAGGED && (step * SLICES + slice) * 128 + part * (128 / PARTS) >= shape.inputs) continue;
      const u32 from = (rows + at) / 4 * block_row(shape) + slice * BLOCK_BYTES + part * 2048 + (rows + at) % 4 * 512 + lane * 16;
      copy16(stage + slice * SLICE_BYTES + X_BYTES + p % PIECES * 16, w_from + from);
    }
    if (!SCALES) return;
#pragma unroll
    for (int i = 0; i < ceiling(SLICES * WORDS, THREADS); ++i) {
      const int p = i * THREADS + thread();
      if (SLICES * WORDS % THREADS != 0 && p >= SLICES * WORDS) continue;
      const int slice = p / WORDS, at = p % WORDS / 2;
      if (CHANNELS > 64 && at >= channels) continue;
      if (RAGGED && (step * SLICES + slice) * 128 >= shape.inputs) continue;
      const u32 from = (rows + at) / 4 * block_row(shape) + slice * BLOCK_BYTES + PARTS * 2048 + (rows + at) % 4 * 32 + p % 2 * 16;
      copy16(stage + slice * SLICE_BYTES + X_BYTES + CODE_BYTES + p % WORDS * 16, w_from + from);
    }
  }

  // 16-byte piece c of row r lies at c ^ (r % 8), so that ldmatrix meets no bank twice. Tokens and inputs outside are zero.
  __device__ __forceinline__ void copy_activations(u32 stage, const u8* x, Shape shape) const {
#pragma unroll
    for (int i = 0; i < ceiling(SLICES * TOKENS * 8, THREADS); ++i) {
      const int p = i * THREADS + thread();
      if (SLICES * TOKENS * 8 % THREADS != 0 && p >= SLICES * TOKENS * 8) continue;
      const int slice = p / (TOKENS * 8), row = p / 8 % TOKENS, piece = p % 8;
      const bool there = row < tokens && (!RAGGED || step * CHUNK + slice * 128 + piece * 16 < shape.inputs);
      const u8* from = there ? x_from + (u32)(row * shape.inputs + slice * 128 + piece * 16) : x;
      copy16_or_zero(stage + slice * SLICE_BYTES + row * 128 + ((piece ^ (row & 7)) << 4), from, there);
    }
  }

  template <bool WEIGHTS, bool ACTIVATIONS>
  __device__ __forceinline__ void copy(u32 stage, const u8* x, const u8* weights, Shape shape) {
    if (!more) return;
    if (WEIGHTS) copy_weights(stage, shape);
    if (ACTIVATIONS) copy_activations(stage, x, shape);
    x_from += CHUNK, w_from += SLICES * BLOCK_BYTES;
    if (++step == walk.end) open(x, weights, shape);
  }
};

// ---- operand A ----------------------------------------------------------------------------------------------------------------
// A lane's 16 bytes hold two k-steps: words (step, k half), low nibbles of channel g, high nibbles of channel g + 8.
struct Scales {
  u32 scale[2], offset[2];  // of channels g and g + 8
};

__device__ __forceinline__ Scales group_scales(u32 word) {
  Scales found;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    found.scale[h] = word >> (16 * h) & 0xFF;
    found.offset[h] = 0x80808080u - (word >> (16 * h + 8) & 0xFF) * found.scale[h] * 0x01010101u;
  }
  return found;
}

// Bytes of word * scale + offset are (q - z) s + 128, all within 0..255, so nothing carries.
__device__ __forceinline__ void widen_word(u32 word, const Scales& scales, u32& low, u32& high) {
  if (TWIN == NO_WIDENING) {
    low = high = word;
    return;
  }
  low = word & 0x0F0F0F0F;
  high = word >> 4 & 0x0F0F0F0F;
  if (!SCALES) return;
  low = (low * scales.scale[0] + scales.offset[0]) ^ 0x80808080u;
  high = (high * scales.scale[1] + scales.offset[1]) ^ 0x80808080u;
}

// One k-step of 32 inputs: 16 channels from a lane's 16 bytes, which hold two steps of 4-bit codes or one of INT8 weights.
__device__ __forceinline__ void operand(u32 (&a)[4], const uint4& v, int step, const Scales& scales) {
  if (KIND == INT8) {
    a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
  } else {
    widen_word(step % 2 ? v.z : v.x, scales, a[0], a[1]);
    widen_word(step % 2 ? v.w : v.y, scales, a[2], a[3]);
  }
}

// ---- sums -----------------------------------------------------------------------------------------------------------------------
typedef int Sums[CHANNEL_BLOCKS][TOKEN_BLOCKS][4];

struct Warp {
  int lane, channels, tokens, slice, tile;  // which of the block's warps this is, in each direction

  __device__ Warp() {
    const int warp = thread() / 32;
    lane = thread() % 32;
    channels = warp % CHANNEL_WARPS, tokens = warp / CHANNEL_WARPS % TOKEN_WARPS, slice = warp / (CHANNEL_WARPS * TOKEN_WARPS);
    tile = warp % (CHANNEL_WARPS * TOKEN_WARPS);
  }

  // after slices have met, each of them goes on with some of the token blocks
  __device__ __forceinline__ bool owns(int block) const { return SLICES == 1 || block % SLICES == slice; }
};

__device__ __forceinline__ void multiply(Sums& d, const u32 (&a)[CHANNEL_BLOCKS][4], u32 b0, u32 b1, int block) {
#pragma unroll
  for (int i = 0; i < CHANNEL_BLOCKS; ++i) {
    if (TWIN != NO_PRODUCTS) {
      multiply_s8(d[i][block], a[i], b0, b1);
    } else if (block == 0) {  // keeps each register of A alive once
      for (int r = 0; r < 4; ++r) d[i][0][r] ^= a[i][r];
    }
  }
  if (TWIN == NO_PRODUCTS) d[0][block][0] ^= b0 ^ b1;
}

// Where this warp's operands lie in a stage.
struct Source {
  u32 codes, scales, row;  // `row` is lane % 8 of the tokens

  __device__ __forceinline__ Source(u32 stage, const Warp& w) {
    const u32 slice = stage + w.slice * SLICE_BYTES;
    codes = slice + X_BYTES + w.channels * CHANNEL_BLOCKS * 512 + w.lane * 16;
    scales = slice + X_BYTES + CODE_BYTES + w.channels * CHANNEL_BLOCKS * 32 + w.lane / 4 * 4;
    row = slice + (w.tokens * TOKEN_BLOCKS * 8 + w.lane % 8) * 128;
  }
};

// What has been fetched of a stage before its first step: codes of the step and words of scales.
struct Ahead {
  uint4 codes[CHANNEL_BLOCKS];
  u32 scales[CHANNEL_BLOCKS];

  __device__ __forceinline__ void load_codes(const Source& from, int step) {
#pragma unroll
    for (int i = 0; i < CHANNEL_BLOCKS; ++i) codes[i] = shared_load16(from.codes + (step * PARTS / 4 * ROWS16 + i) * 512);
  }

  __device__ __forceinline__ void load(const Source& from) {
    if (TWIN == LOADS_ONLY) return;
    load_codes(from, 0);
#pragma unroll
    for (int i = 0; i < CHANNEL_BLOCKS; ++i) scales[i] = SCALES ? shared_load4(from.scales + i * 32) : 0;
  }
};

// Operand B of one step: ldmatrix fetches two token blocks of a step, or one block of two steps.
struct Activations {
  u32 b[TOKEN_BLOCKS][2];

  __device__ __forceinline__ void load(const Source& from, int step, const Warp& w) {
    u32 four[4];
    if (TOKEN_BLOCKS == 1) {
      load_matrices(four, from.row + ((step / 2 * 4 + w.lane / 8 ^ w.lane & 7) << 4));
      b[0][0] = four[step % 2 * 2], b[0][1] = four[step % 2 * 2 + 1];
    }
#pragma unroll
    for (int j = 0; j + 1 < TOKEN_BLOCKS; j += 2) {
      load_matrices(four, from.row + (j + w.lane / 16) * 1024 + ((step * 2 + w.lane / 8 % 2 ^ w.lane & 7) << 4));
      b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
    }
  }
};

// One chunk from `here`. `turn` is called when all of it has been fetched: it waits for the next stage and gives this one back.
template <class Turn>
__device__ __forceinline__ void accumulate(Sums& d, Ahead& ahead, const Source& here, const Source& next, const Warp& w, Turn turn) {
  if (TWIN == LOADS_ONLY) return turn();
  Scales scales[CHANNEL_BLOCKS] = {};
  if (SCALES) {
#pragma unroll
    for (int i = 0; i < CHANNEL_BLOCKS; ++i) scales[i] = group_scales(ahead.scales[i]);
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    u32 a[CHANNEL_BLOCKS][4];
    Activations x;
#pragma unroll
    for (int i = 0; i < CHANNEL_BLOCKS; ++i) operand(a[i], ahead.codes[i], step, scales[i]);
    x.load(here, step, w);
    if (step == 3) {
      turn();
      ahead.load(next);
    } else if ((step + 1) * PARTS % 4 == 0) {
      ahead.load_codes(here, step + 1);
    }
#pragma unroll
    for (int j = 0; j < TOKEN_BLOCKS; ++j) multiply(d, a, x.b[j][0], x.b[j][1], j);
  }
}

// The slices' sums, added in shared memory, which is left zero; valid in the token blocks that a warp owns.
__device__ __forceinline__ void meet(Sums& d, u32 shared_sums, const Warp& w) {
  const u32 mine = shared_sums + (w.tile * FRAGMENT * 32 + w.lane) * 4;
#pragma unroll
  for (int f = 0; f < FRAGMENT; ++f) shared_add(mine + f * 128, d[f / 4 % CHANNEL_BLOCKS][f / (4 * CHANNEL_BLOCKS)][f % 4]);
  __syncthreads();
#pragma unroll
  for (int j = 0; j < TOKEN_BLOCKS; ++j) {
    if (!w.owns(j)) continue;
#pragma unroll
    for (int f = 0; f < 4 * CHANNEL_BLOCKS; ++f) {
      d[f / 4][j][f % 4] = shared_load4(mine + (j * 4 * CHANNEL_BLOCKS + f) * 128);
      shared_store4(mine + (j * 4 * CHANNEL_BLOCKS + f) * 128, 0);
    }
  }
}

// ---- tiles that are cut along K ---------------------------------------------------------------------------------------------------
// Of each block two tiles at most are not its own alone: where its range begins, and where it ends.
__device__ __forceinline__ int4* part_of(int* sums, Spread spread, int block, int tile, const Warp& w) {
  const int slot = 2 * block + (spread.first(block) / spread.chunks != tile);
  return (int4*)(sums + (u64)slot * CHANNELS * TOKENS) + w.tile * (FRAGMENT / 4) * 32 + w.lane;
}

__device__ __forceinline__ void add_part(Sums& d, const int4* part, int tokens, const Warp& w) {
#pragma unroll
  for (int j = 0; j < TOKEN_BLOCKS; ++j) {
    if (!w.owns(j) || j * 8 >= tokens) continue;
#pragma unroll
    for (int i = 0; i < CHANNEL_BLOCKS; ++i) {
      const int4 v = __ldcg(part + (j * CHANNEL_BLOCKS + i) * 32);
      d[i][j][0] += v.x, d[i][j][1] += v.y, d[i][j][2] += v.z, d[i][j][3] += v.w;
    }
  }
}

// Leaves this block's sums for others; true for the block that comes last, whose `d` then holds the whole sums. `tile` counts
// cut tiles, `tokens` are those of the warp that exist.
__device__ __forceinline__ bool combined(Sums& d, int* sums, int* counters, Spread spread, int tile, int done, int tokens, const Warp& w) {
  __shared__ int seen;
  int4* mine = part_of(sums, spread, blockIdx.x, tile, w);
#pragma unroll
  for (int j = 0; j < TOKEN_BLOCKS; ++j) {
    if (!w.owns(j) || j * 8 >= tokens) continue;
#pragma unroll
    for (int i = 0; i < CHANNEL_BLOCKS; ++i) {
      __stcg(mine + (j * CHANNEL_BLOCKS + i) * 32, make_int4(d[i][j][0], d[i][j][1], d[i][j][2], d[i][j][3]));
    }
  }
  __threadfence();
  __syncthreads();
  if (thread() == 0) seen = atomicAdd(counters + tile, done) + done;
  __syncthreads();
  if (seen != spread.chunks) return false;
  __threadfence();
  const int first = tile * spread.chunks;
  int block = (int)((long long)first * gridDim.x / spread.units);
  while (spread.first(block + 1) <= first) ++block;
  for (; spread.first(block) < first + spread.chunks; ++block) {
    if (block != blockIdx.x) add_part(d, part_of(sums, spread, block, tile, w), tokens, w);
  }
  if (thread() == 0) counters[tile] = 0;
  return true;
}

// ---- epilogue ------------------------------------------------------------------------------------------------------------------------
struct Epilogue {
  const u16 *scale, *scaled_zero, *bias, *token_scale, *token_sum;
  u16* y;
};

// 16-bit numbers, two a word while they wait
struct ChannelFacts {
  u32 scale_bias, scaled_zero;
};

__device__ __forceinline__ ChannelFacts channel_facts(const Epilogue& e, int channel, Shape shape) {
  ChannelFacts c = {};
  if (channel >= shape.channels) return c;
  c.scale_bias = e.scale[channel] | (e.bias ? (u32)e.bias[channel] << 16 : 0);
  if (KIND == CHANNEL) c.scaled_zero = e.scaled_zero[channel];
  return c;
}

__device__ __forceinline__ u32 two_tokens(const u16* facts, int token, Shape shape) {
  return (token < shape.tokens ? facts[token] : 0) | (token + 1 < shape.tokens ? (u32)facts[token + 1] << 16 : 0);
}

// The order of rounding is that of model.py.
__device__ __forceinline__ float scaled(int acc, const ChannelFacts& c, u16 token_scale, u16 token_sum, bool has_bias) {
  const float sum = __int2float_rn(acc), s = widened<FLOAT16>((u16)c.scale_bias), a = widened<FLOAT16>(token_scale);
  float r;
  if (KIND == CHANNEL) {
    const float shift = multiply_flushed(widened<FLOAT16>((u16)c.scaled_zero), widened<FLOAT16>(token_sum));
    r = fma_flushed(a, multiply_flushed(s, sum), -shift);
  } else {
    r = multiply_flushed(multiply_flushed(s, a), sum);
  }
  return has_bias ? add_kept(widened<FLOAT16>(rounded<FLOAT16>(r)), widened<FLOAT16>((u16)(c.scale_bias >> 16))) : r;
}

// Writes the token blocks that this warp owns, 8 tokens at a time: turned in registers, put together in `rows`.
__device__ __forceinline__ void write(const Sums& d, const Epilogue& e, Shape shape, Place place, u32 rows, const Warp& w) {
  constexpr int AT_ONCE = TOKEN_BLOCKS < 8 ? TOKEN_BLOCKS : 8;  // token blocks whose scales are fetched together
  const int g = w.lane / 4, pair = w.lane % 4 * 2;
  const int channel = place.channel + w.channels * CHANNEL_BLOCKS * 16, token = place.token + w.tokens * TOKEN_BLOCKS * 8;
  const bool has_bias = e.bias != nullptr;
  ChannelFacts c[CHANNEL_BLOCKS][2];
  u32 scales[AT_ONCE], sums[AT_ONCE] = {};
#pragma unroll
  for (int i = 0; i < 2 * CHANNEL_BLOCKS; ++i) c[i / 2][i % 2] = channel_facts(e, channel + i * 8 + g, shape);
#pragma unroll
  for (int j = 0; j < TOKEN_BLOCKS; ++j) {
    if (j % AT_ONCE == 0) {
#pragma unroll
      for (int t = 0; t < AT_ONCE; ++t) {
        scales[t] = two_tokens(e.token_scale, token + (j + t) * 8 + pair, shape);
        if (KIND == CHANNEL) sums[t] = two_tokens(e.token_sum, token + (j + t) * 8 + pair, shape);
      }
    }
    if (!w.owns(j) || token + j * 8 >= shape.tokens) continue;
    const u32 a = scales[j % AT_ONCE], t = sums[j % AT_ONCE];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < CHANNEL_BLOCKS; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float low = scaled(d[i][j][2 * h], c[i][h], (u16)a, (u16)t, has_bias);
        const float high = scaled(d[i][j][2 * h + 1], c[i][h], (u16)(a >> 16), (u16)(t >> 16), has_bias);
        shared_store4(rows + g * ROW_BYTES + i * 32 + h * 16 + pair * 2, transposed(rounded_pair<FLOAT16>(low, high)));
      }
    }
    __syncwarp();
#pragma unroll
    for (int q = 0; q < ceiling(CHANNEL_BLOCKS, 2); ++q) {
      const int p = q * 32 + w.lane;
      if (CHANNEL_BLOCKS % 2 && p >= CHANNEL_BLOCKS * 16) continue;
      const int m = token + j * 8 + p / (CHANNEL_BLOCKS * 2), n = channel + p % (CHANNEL_BLOCKS * 2) * 8;
      const uint4 v = shared_load16(rows + p / (CHANNEL_BLOCKS * 2) * ROW_BYTES + p % (CHANNEL_BLOCKS * 2) * 16);
      if (m < shape.tokens && n < shape.channels) *(uint4*)(e.y + (u64)m * shape.channels + n) = v;
    }
  }
}

// ---- kernel ------------------------------------------------------------------------------------------------------------------------------
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    gemm(const u8* x, const u8* weights, const u16* scale, const u16* scaled_zero, const u16* bias, const u16* token_scale,
         const u16* token_sum, u16* y, int* sums, int* counters, int tokens, int channels, int inputs, int whole) {
  extern __shared__ __align__(128) u8 shared[];
  const u32 stages = shared_offset(shared), shared_sums = stages + STAGES * STAGE_BYTES;
  const u32 rows = shared_sums + SHARED_SUMS + thread() / 32 * 8 * ROW_BYTES;
  const Shape shape = {tokens, channels, inputs};
  const Epilogue e = {scale, scaled_zero, bias, token_scale, token_sum, y};
  const Warp w;
  dependents_may_start();
  const int tiles = (tokens + TOKENS - 1) / TOKENS * ((channels + CHANNELS - 1) / CHANNELS);
  const Spread spread(tiles - whole, (inputs + CHUNK - 1) / CHUNK);
  Walk walk(spread, whole);
  Loader loader(walk, x, weights, shape), ahead_loader = loader;
#pragma unroll 1
  for (int s = 0; s < STAGES; ++s) ahead_loader.copy<true, false>(stages + s * STAGE_BYTES, x, weights, shape);
  for (int i = thread(); i < SHARED_SUMS / 4; i += THREADS) shared_store4(shared_sums + i * 4, 0);
  dependency_wait();  // weights did not have to wait
#pragma unroll 1
  for (int s = 0; s < STAGES; ++s) {
    loader.copy<false, true>(stages + s * STAGE_BYTES, x, weights, shape);
    copies_commit();
  }
  Ahead ahead;
  u32 here = stages;
  copies_wait<STAGES - 1>();
  __syncthreads();
  ahead.load(Source(here, w));
  while (walk.next()) {
    Sums d = {};
    for (int step = walk.begin; step < walk.end; ++step) {
      const u32 next = here == stages + (STAGES - 1) * STAGE_BYTES ? stages : here + STAGE_BYTES;
      accumulate(d, ahead, Source(here, w), Source(next, w), w, [&] {
        copies_wait<STAGES - 2>();
        __syncthreads();  // everyone's copies of the next stage have arrived, everyone has read this one
        loader.copy<true, true>(here, x, weights, shape);
        copies_commit();
      });
      here = next;
    }
    if (SLICES > 1) meet(d, shared_sums, w);
    const Place place(walk.tile, shape);
    const int done = walk.end - walk.begin, left = tokens - place.token - w.tokens * TOKEN_BLOCKS * 8;
    if (done < walk.chunks && !combined(d, sums, counters, spread, walk.tile - whole, done, left, w)) continue;
    write(d, e, shape, place, rows, w);
  }
}
