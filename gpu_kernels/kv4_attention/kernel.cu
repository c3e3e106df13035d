// Decode attention over the cache of cache.cuh, and the appending of new tokens.
//
// Macros: SIZE (head size), BITS (4, 8, 16), HEADS (query heads of one kv head that a block has, 1..16), NEW (a new token
// comes with the query: it is rotated, attended to as it is, and appended), KEPT (only listed tokens are read),
// TILE (tokens that a warp takes at a time), STAGES (tiles on their way to a warp), WARPS, RESIDENT (blocks a
// multiprocessor has room for), EARLY (the kernel launched before this one writes neither cache nor table nor lengths),
// KEY_BIAS (what key codes are moved by: 64 or -8; -128 with 8 bits), BULK (copy engine), CLUSTER (all splits of a
// sequence are one cluster of so many blocks; 1: they meet in the workspace), SHARED (bytes of shared memory), ROTATED
// (append turns the keys).
#include "common/hopper.cuh"
#include "kv4_attention/vectors.cuh"

#define COLUMNS ((HEADS + 7) / 8)  // sets of 8 query heads: the N of m16n8k16
#define SLABS (TILE / 16)
// The N of 8 holds the heads of as many slabs of 16 tokens as fit: columns are slab (side) x head
#define WIDTH (HEADS <= 2 && SLABS >= 4 ? 2 : HEADS <= 4 && SLABS >= 2 ? 4 : 8)
#define SIDES (8 / WIDTH)
#define PARTS (WARPS * SIDES)
#define CHAINS 2  // of matrix products, in a dot product, of which each waits for the one before it
#define TILE_BYTES (SLABS * GROUP_BYTES)
#define THREADS (WARPS * 32)
#define STRIDE (SIZE + 4)  // of a head's outputs in shared memory, in floats
#define CENTER (BITS == 4 ? 8 : BITS == 8 ? 128 : 0)
#define LOWEST __int_as_float(0xFF800000)  // minus infinity
#define HEADROOM 8  // weights stay below 2^(HEADROOM + SLACK) = 2^15, so that they fit float16
#define SLACK 7

// ---- instructions ----------------------------------------------------------------------------------------------------------
// "mma.m16n8k16": float16 operands, float32 sums
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// "movmatrix": an 8 x 8 matrix, transposed
__device__ __forceinline__ u32 transpose(u32 x) {
  u32 r;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(x));
  return r;
}

__device__ __forceinline__ float power_of_two(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

__device__ __forceinline__ float log_two(float x) {
  float r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// "cp.async"
__device__ __forceinline__ void copy16(u32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy8(u32 to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#if __CUDA_ARCH__ >= 900
#define WAIT_FOR_PREVIOUS() wait_for_previous()
#define LET_NEXT_START() let_next_start()
#else
#define WAIT_FOR_PREVIOUS()
#define LET_NEXT_START()
#endif

__device__ __forceinline__ float2 pair_of(u32 x) { return make_float2(widened<1>((u16)x), widened<1>((u16)(x >> 16))); }

template <int N>
__device__ __forceinline__ void load_words(u32* to, const u8* from) {
  if (N == 4) {
    uint4 x = *(const uint4*)from;
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
  } else if (N == 2) {
    uint2 x = *(const uint2*)from;
    to[0] = x.x, to[1] = x.y;
  } else {
    to[0] = *(const u32*)from;
  }
}

// ---- one warp's state over its tiles: lane = 4 g + t holds columns 2 t and 2 t + 1 of each set of 8 ---------------------
struct State {
  float top[COLUMNS][2];               // exponents are taken relative to it; HEADROOM below the largest weight when set
  float sum[COLUMNS][2];               // of exponentials, this lane's tokens
  float shift[COLUMNS][2];             // of weight (CENTER - zero), this lane's tokens
  float output[COLUMNS][SIZE / 16][4]; // sums of weight (code - CENTER); rows are elements
};

struct Query {
  u32 word[COLUMNS][SIZE / 16][2];  // B fragments
  float sum[COLUMNS][2];            // of a head's elements
};

struct Lane {
  int g, t, side;         // the slab of its columns
  u32 key[2], value, meta;  // where it reads in a slab: even and odd slices of key rows, values, scales
};

// kept in registers: the compiler would work it out again for every tile
__device__ __forceinline__ u32 opaque(u32 x) {
  asm("" : "+r"(x));
  return x;
}

__device__ __forceinline__ Lane lane_of(int lane) {
  int g = lane / 4, t = lane % 4, side = 2 * t / WIDTH;
  u32 key = key_byte(g, t * KEY_WORDS * 4), odd = ROW >= 128 ? key_byte(g, t * KEY_WORDS * 4 + 64) : key;
  return Lane{g, t, side, {opaque(key), opaque(odd)}, opaque(value_byte(2 * t, g * VALUE_WORDS * 4)),
              opaque(side * GROUP_BYTES + 32 * ROW + g * 8)};
}

// of a lane's tokens, rows g and g + 8 of the slab of its side
struct Scales {
  float value[2], shift[2];
};

// dot products of the keys of one slab
__device__ __forceinline__ void dots(float (&x)[COLUMNS][4], const u8* slab, const Query& query, const Lane& lane) {
  u32 low[WORDS], high[WORDS], a[4];
#pragma unroll
  for (int w = 0; w < WORDS; w += KEY_WORDS) {
    const u8* row = slab + lane.key[w / KEY_WORDS % 2] + w / KEY_WORDS / 2 * 128;
    load_words<KEY_WORDS>(low + w, row);
    load_words<KEY_WORDS>(high + w, row + 8 * ROW);
  }
  float part[CHAINS][COLUMNS][4];
#pragma unroll
  for (int i = 0; i < CHAINS * COLUMNS * 4; ++i) part[i / (COLUMNS * 4)][i / 4 % COLUMNS][i % 4] = 0;
#pragma unroll
  for (int n = 0; n < SIZE / 16; ++n) {
    key_fragment(a, low, high, n);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) multiply(part[n % CHAINS][c], a, query.word[c][n][0], query.word[c][n][1]);
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[c][i] = part[0][c][i] + part[1][c][i];
  }
}

// scores of 16 SIDES tokens in units of bits (times log2 e), x[column][row half * 2 + head]; FULL: all tokens are there
template <bool FULL>
__device__ __forceinline__ void score(float (&x)[COLUMNS][4], Scales& scales, const u8* slabs, const Query& query, float factor,
                                      const Lane& lane, int valid) {
#pragma unroll
  for (int side = 0; side < SIDES; ++side) {
    float dot[COLUMNS][4];
    dots(dot, slabs + side * GROUP_BYTES, query, lane);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[c][i] = side == 0 || lane.side == side ? dot[c][i] : x[c][i];
    }
  }
  const u8* own = slabs + lane.meta;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    bool there = FULL || lane.side * 16 + lane.g + 8 * half < valid;
    float scale = factor, bias = 0;
    scales.value[half] = 1, scales.shift[half] = 0;
    if (BITS < 16) {
      uint2 meta = *(const uint2*)(own + 64 * half);
      if (!there) meta = make_uint2(0, 0x3C00);
      float2 key = pair_of(meta.x), value = pair_of(meta.y);
      scale = factor * key.x, bias = key.y + KEY_BIAS;
      scales.value[half] = value.x, scales.shift[half] = CENTER - value.y;
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float dot = BITS < 16 ? fmaf(-bias, query.sum[c][h], x[c][2 * half + h]) : x[c][2 * half + h];
        x[c][2 * half + h] = there ? dot * scale : LOWEST;
      }
    }
  }
}

// raise `top` where a weight would leave float16; all lanes of the warp call it
__device__ __forceinline__ void raise(State& state, const float (&most)[COLUMNS][2]) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float high = most[c][h];
      for (int distance = 4; distance < 32; distance *= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, distance));
      float top = fmaxf(state.top[c][h], high - HEADROOM);
      float factor = top == state.top[c][h] ? 1 : power_of_two(state.top[c][h] - top);  // both may be LOWEST
      state.top[c][h] = top, state.sum[c][h] *= factor, state.shift[c][h] *= factor;
#pragma unroll
      for (int m = 0; m < SIZE / 16; ++m) state.output[c][m][h] *= factor, state.output[c][m][h + 2] *= factor;
    }
  }
}

// exponentials and weights of 16 SIDES tokens; gives the B fragment of the weights
template <bool FULL>
__device__ __forceinline__ void weigh(u32 (&b)[COLUMNS][2], State& state, const float (&x)[COLUMNS][4], const Scales& scales) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float weight[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float e = power_of_two(x[c][2 * half + h] - state.top[c][h]);
        if (!FULL) e = x[c][2 * half + h] == LOWEST ? 0 : e;  // a side may have no token at all yet
        state.sum[c][h] += e;
        weight[h] = BITS < 16 ? e * scales.value[half] : e;
        if (BITS < 16) state.shift[c][h] = fmaf(weight[h], scales.shift[half], state.shift[c][h]);
      }
      b[c][half] = transpose(rounded_pair<1>(weight[0], weight[1]));
    }
  }
}

// add weight (code - CENTER) of one slab
__device__ __forceinline__ void accumulate(State& state, const u8* slab, const u32 (&b)[COLUMNS][2], const Lane& lane) {
#pragma unroll
  for (int w = 0; w < SPREAD; w += VALUE_WORDS) {
    u32 word[4][VALUE_WORDS], a[4];
#pragma unroll
    for (int token = 0; token < 4; ++token) {  // rows 4 and 8 further, see value_row
      load_words<VALUE_WORDS>(word[token], slab + lane.value + (token % 2 * 4 + token / 2 * 8) * ROW + w / VALUE_WORDS * 128);
    }
#pragma unroll
    for (int v = 0; v < VALUE_WORDS; ++v) {
      const u32 four[4] = {word[0][v], word[1][v], word[2][v], word[3][v]};
#pragma unroll
      for (int i = 0; i < PER_WORD / 2; ++i) {
        value_fragment(a, four, i);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) multiply(state.output[c][(w + v) * (PER_WORD / 2) + i], a, b[c][0], b[c][1]);
      }
    }
  }
}

// a tile in shared memory, of which the first `valid` tokens count
template <bool FULL>
__device__ __forceinline__ void attend_tile(State& state, const u8* tile, const Query& query, float factor, const Lane& lane,
                                            int valid) {
  float x[SLABS / SIDES][COLUMNS][4], most[COLUMNS][2];
  Scales scales[SLABS / SIDES];
  bool over = false;
#pragma unroll
  for (int s = 0; s < SLABS / SIDES; ++s) {
    score<FULL>(x[s], scales[s], tile + s * SIDES * GROUP_BYTES, query, factor, lane, valid - 16 * SIDES * s);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float size = BITS < 16 ? log_two(scales[s].value[half]) : 0;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float own = x[s][c][2 * half + h] + size;
          most[c][h] = s + half == 0 ? own : fmaxf(most[c][h], own);
        }
      }
    }
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    over |= most[c][0] > state.top[c][0] + (HEADROOM + SLACK) || most[c][1] > state.top[c][1] + (HEADROOM + SLACK);
  }
  if (__any_sync(~0u, over)) raise(state, most);
#pragma unroll
  for (int s = 0; s < SLABS / SIDES; ++s) {
    u32 b[COLUMNS][2];
    weigh<FULL>(b, state, x[s], scales[s]);
#pragma unroll
    for (int side = 0; side < SIDES; ++side) {
      u32 own[COLUMNS][2];  // no column but this side's: g is the column of a B fragment
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        bool mine = SIDES == 1 || lane.g / WIDTH == side;
        own[c][0] = mine ? b[c][0] : 0, own[c][1] = mine ? b[c][1] : 0;
      }
      accumulate(state, tile + (s * SIDES + side) * GROUP_BYTES, own, lane);
    }
  }
}

// ---- tiles on their way -------------------------------------------------------------------------------------------------------
struct Source {
  const u8* cache;     // [pages][kv heads][PAGE_BYTES]
  const int* table;    // of this sequence
  const int* kept;     // of this sequence and kv head
  int heads, head, tokens;
};

__device__ __forceinline__ const u8* page_of(const Source& from, int page) {
  return from.cache + ((size_t)page * from.heads + from.head) * PAGE_BYTES;
}

// where a tile lies; read one tile ahead. KEPT: token lane + 32 i of the tile
struct Place {
  int page[KEPT ? (TILE + 31) / 32 : 1], position[KEPT ? (TILE + 31) / 32 : 1];
};

__device__ __forceinline__ Place find(const Source& from, int tile, int lane) {
  Place place;
  if (KEPT) {
#pragma unroll
    for (int i = 0; i < (TILE + 31) / 32; ++i) {
      int token = min(tile * TILE + lane + 32 * i, from.tokens - 1);
      place.position[i] = from.kept[token];
      place.page[i] = from.table[place.position[i] / 64];
    }
  } else {
    place.position[0] = (u32)tile * TILE % 64;
    place.page[0] = from.table[(u32)tile * TILE / 64];
  }
  return place;
}

// the first pages of a sequence, read before its length is known: entries lane + 32 i of the table
struct Near {
  int page[4];
};

__device__ __forceinline__ Near near_pages(const Source& from, int width, int lane) {
  Near near;
#pragma unroll
  for (int i = 0; i < 4; ++i) near.page[i] = !KEPT && lane + 32 * i < width ? from.table[lane + 32 * i] : 0;
  return near;
}

__device__ __forceinline__ Place find_near(const Source& from, const Near& near, int tile, int lane) {
  u32 entry = (u32)tile * TILE / 64;  // the same in all lanes
  if (KEPT || entry >= 128) return find(from, tile, lane);
  int page = entry < 64 ? (entry < 32 ? near.page[0] : near.page[1]) : (entry < 96 ? near.page[2] : near.page[3]);
  Place place;
  place.page[0] = __shfl_sync(~0u, page, entry % 32), place.position[0] = (u32)tile * TILE % 64;
  return place;
}

// start copying a tile to shared memory; every lane of the warp calls it
__device__ __forceinline__ void fetch(u8* to, u32 barrier, const Source& from, const Place& place, int tile, int lane) {
  int tokens = min(TILE, from.tokens - tile * TILE);
  u32 address = shared_address(to);
  if (KEPT) {
#pragma unroll
    for (int r = 0; r < TILE; r += 4) {  // 8 lanes a token
      int token = r + lane / 8;
      int page = __shfl_sync(~0u, place.page[r / 32], token % 32), position = __shfl_sync(~0u, place.position[r / 32], token % 32);
      if (token < tokens) {
        const u8* group = page_of(from, page) + (u32)position % 64 / 16 * GROUP_BYTES;
        u32 slab = address + token / 16 * GROUP_BYTES;
#pragma unroll
        for (int byte = lane % 8 * 16; byte < 2 * ROW; byte += 128) {
          int k = byte < ROW ? key_byte(token % 16, byte) : value_byte(token % 16, byte - ROW);
          int f = byte < ROW ? key_byte(position % 16, byte) : value_byte(position % 16, byte - ROW);
          copy16(slab + k, group + f);
        }
        if (BITS < 16 && lane % 8 == 0) copy8(slab + 32 * ROW + token % 16 * 8, group + 32 * ROW + position % 16 * 8);
      }
    }
  } else {
    const u8* source = page_of(from, place.page[0]) + (u32)place.position[0] / 16 * GROUP_BYTES;
    u32 bytes = (u32)(tokens + 15) / 16 * GROUP_BYTES;
    if (BULK) {
      if (lane == 0) {
        barrier_expect(barrier, bytes);
        copy_bytes(address, source, bytes, barrier);
      }
      return;
    }
    for (u32 byte = lane * 16; byte < bytes; byte += 512) copy16(address + byte, source + byte);
  }
}

// float16 rows of tokens that are not there may hold anything: zeros, so that no NaN meets a weight of 0
__device__ __forceinline__ void clear(u8* tile, int valid, int lane) {
  for (int r = valid; r < TILE; ++r) {
    for (int byte = lane * 4; byte < ROW; byte += 128) *(u32*)(tile + r / 16 * GROUP_BYTES + value_byte(r % 16, byte)) = 0;
  }
  __syncwarp();
}

// ---- the kernel ----------------------------------------------------------------------------------------------------------------
struct Shared {  // behind it: stages of each warp, later outputs of each warp
  u64 barrier[WARPS][STAGES];
  u16 query[COLUMNS * 8][SIZE + 8];
  u16 key[SIZE], value[SIZE];
  float top[PARTS + 1][COLUMNS * 8], sum[PARTS + 1][COLUMNS * 8];
  float joined_top[COLUMNS * 8], joined_sum[COLUMNS * 8];
  int last;
};
#define SHARED_HEAD ((sizeof(Shared) + 127) / 128 * 128)
#define OUTPUT_BYTES ((PARTS + 1) * HEADS * STRIDE * 4)
static_assert(SHARED == SHARED_HEAD + (WARPS * STAGES * TILE_BYTES > OUTPUT_BYTES ? WARPS * STAGES * TILE_BYTES : OUTPUT_BYTES),
              "config.Tile.shared_bytes");

// query, new key and new value on their way to shared memory: pairs that turn together, and their angles
#define PAIRS (((HEADS + NEW) * SIZE / 2 + THREADS - 1) / THREADS)
#define LONE ((SIZE + THREADS - 1) / THREADS)
struct Vectors {
  u16 first[PAIRS], second[PAIRS], value[LONE];
  float cosine[PAIRS], sine[PAIRS];
};

__device__ __forceinline__ void load_vectors(Vectors& found, const u16* query, const u16* key, const u16* value,
                                             const float* cosine, const float* sine, int heads) {
#pragma unroll
  for (int j = 0; j < PAIRS; ++j) {
    int i = threadIdx.x + j * THREADS, head = i / (SIZE / 2), pair = i % (SIZE / 2);
    found.first[j] = found.second[j] = 0, found.cosine[j] = 1, found.sine[j] = 0;
    if (head < heads || (NEW && head == HEADS)) {
      const u16* from = head < heads ? query + head * SIZE : key;
      found.first[j] = from[pair], found.second[j] = from[pair + SIZE / 2];
      if (NEW) found.cosine[j] = cosine[pair], found.sine[j] = sine[pair];
    }
  }
#pragma unroll
  for (int j = 0; j < LONE; ++j) {
    int i = threadIdx.x + j * THREADS;
    found.value[j] = NEW && i < SIZE ? value[i] : 0;
  }
}

// rotated, to shared memory; rows of heads that are not there are zero
__device__ __forceinline__ void store_vectors(Shared& shared, const Vectors& found) {
#pragma unroll
  for (int j = 0; j < PAIRS; ++j) {
    int i = threadIdx.x + j * THREADS, head = i / (SIZE / 2), pair = i % (SIZE / 2);
    u16 x = found.first[j], y = found.second[j];
    if (NEW) rotate_pair(x, y, found.cosine[j], found.sine[j], x, y);
    u16* to = head < HEADS ? shared.query[head] : shared.key;
    if (head < HEADS + NEW) to[pair] = x, to[pair + SIZE / 2] = y;
  }
#pragma unroll
  for (int j = 0; j < LONE; ++j) {
    int i = threadIdx.x + j * THREADS;
    if (NEW && i < SIZE) shared.value[i] = found.value[j];
  }
  for (int i = threadIdx.x; i < (COLUMNS * 8 - HEADS) * SIZE / 2; i += THREADS) {
    *(u32*)&shared.query[HEADS + i / (SIZE / 2)][i % (SIZE / 2) * 2] = 0;
  }
}

__device__ __forceinline__ void load_query(Query& query, const Shared& shared, int g, int t) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    float sum = 0;  // of head 8 c + g, this lane's elements
#pragma unroll
    for (int n = 0; n < SIZE / 16; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const u16* own = shared.query[8 * c + g % WIDTH];
        u32 low = own[query_element(n, t, 2 * j)], high = own[query_element(n, t, 2 * j + 1)];
        query.word[c][n][j] = low | high << 16;
        sum += widened<1>((u16)low) + widened<1>((u16)high);
      }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    query.sum[c][0] = __shfl_sync(~0u, sum, 8 * t), query.sum[c][1] = __shfl_sync(~0u, sum, 8 * t + 4);
  }
}

// scores of the new key, and its place in the cache; its value counts as it is
__device__ __forceinline__ void add_new(Shared& shared, u8* group, int r, float factor, int heads, int warp,
                                        int lane) {
  for (int head = warp; head < heads; head += WARPS) {
    float dot = 0;
    for (int i = 0; i < EACH; ++i) {
      dot = fmaf(widened<1>(shared.query[head][lane * EACH + i]), widened<1>(shared.key[lane * EACH + i]), dot);
    }
    for (int distance = 16; distance; distance /= 2) dot += __shfl_xor_sync(~0u, dot, distance);
    if (lane == 0) shared.top[PARTS][head] = dot * factor;
  }
  for (int which = warp; which < 2; which += WARPS) {
    u16 vector[EACH];
    for (int i = 0; i < EACH; ++i) vector[i] = (which ? shared.value : shared.key)[lane * EACH + i];
    store_vector(group, r, which, lane, vector);
  }
}

// a warp's outputs and sums to shared memory
__device__ __forceinline__ void leave(Shared& shared, float* outputs, State& state, int heads, int warp, int g, int t) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = state.sum[c][h], shift = state.shift[c][h];
      for (int distance = 4; distance < 32; distance *= 2) {
        sum += __shfl_xor_sync(~0u, sum, distance), shift += __shfl_xor_sync(~0u, shift, distance);
      }
      int head = 8 * c + (2 * t + h) % WIDTH, part = warp * SIDES + (2 * t + h) / WIDTH;
      if (head < heads) {
        if (g == 0) shared.top[part][head] = state.top[c][h], shared.sum[part][head] = sum;
#pragma unroll
        for (int m = 0; m < SIZE / 16; ++m) {
          int element = value_element(m / (PER_WORD / 2), g) + m % (PER_WORD / 2) * 2;
          float* to = outputs + (part * HEADS + head) * STRIDE + element;
          *(float2*)to = make_float2(state.output[c][m][h] + shift, state.output[c][m][h + 2] + shift);
        }
      }
    }
  }
}

struct Part {  // of a head's outputs, four elements
  float4 output;
  float top, sum;
};

__device__ __forceinline__ void join(Part& all, float4 output, float top, float sum) {
  float high = fmaxf(all.top, top);
  float mine = all.top == high ? 1 : power_of_two(all.top - high), other = top == high ? 1 : power_of_two(top - high);
  all.output.x = all.output.x * mine + output.x * other, all.output.y = all.output.y * mine + output.y * other;
  all.output.z = all.output.z * mine + output.z * other, all.output.w = all.output.w * mine + output.w * other;
  all.top = high, all.sum = all.sum * mine + sum * other;
}

__device__ __forceinline__ Part nothing() { return Part{make_float4(0, 0, 0, 0), LOWEST, 0}; }

__device__ __forceinline__ void write_output(u16* output, const Part& part) {
  float inverse = part.sum > 0 ? __fdividef(1.0f, part.sum) : 0;
  const float4& x = part.output;
  *(uint2*)output = make_uint2(rounded_pair<1>(x.x * inverse, x.y * inverse), rounded_pair<1>(x.z * inverse, x.w * inverse));
}

#if CLUSTER > 1
// "mapa", "ld.shared::cluster": of a block of the cluster
__device__ __forceinline__ float4 read4_of(u32 address, u32 rank) {
  float4 x;
  asm volatile("{ .reg .b32 there;\n mapa.shared::cluster.u32 there, %4, %5;\n ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(address), "r"(rank)
               : "memory");
  return x;
}

__device__ __forceinline__ float read_of(u32 address, u32 rank) {
  float x;
  asm volatile("{ .reg .b32 there;\n mapa.shared::cluster.u32 there, %1, %2;\n ld.shared::cluster.f32 %0, [there]; }"
               : "=f"(x)
               : "r"(address), "r"(rank)
               : "memory");
  return x;
}

// all splits of a sequence lie in one cluster: each block adds the parts of some elements, in their order
__device__ __forceinline__ void join_cluster(Shared& shared, float* outputs, u16* output, int heads) {
  cluster_arrive();
  cluster_wait();
  u32 rank = cluster_rank();
  int each = (heads * (SIZE / 4) + CLUSTER - 1) / CLUSTER, end = min(heads * (SIZE / 4), ((int)rank + 1) * each);
  for (int i = rank * each + threadIdx.x; i < end; i += THREADS) {
    int h = i / (SIZE / 4), element = i % (SIZE / 4) * 4;
    u32 values = shared_address(outputs + (PARTS * HEADS + h) * STRIDE + element);
    Part all = nothing();
#pragma unroll
    for (int s = 0; s < CLUSTER; ++s) {
      join(all, read4_of(values, s), read_of(shared_address(&shared.joined_top[h]), s),
           read_of(shared_address(&shared.joined_sum[h]), s));
    }
    write_output(output + h * SIZE + element, all);
  }
  cluster_arrive();
  cluster_wait();  // nobody leaves while its memory is read
}
#else
__device__ __forceinline__ void join_cluster(Shared&, float*, u16*, int) {}
#endif

// grid (splits, kv heads x chunks of HEADS query heads, sequences). query, output [B, query heads, SIZE], key, value [B, kv
// heads, SIZE], sequences of query `query_row`, of key and value `key_row` numbers apart; cosine, sine [B, SIZE / 2]; cache as
// above; table [B, table_width], lengths [B], kept [B, kv heads, kept_width], counts [B, kv heads]; workspace: counters u32
// [B, grid y] (zero between launches), then from `parts` on float [B, grid y, splits, HEADS, SIZE + 4]
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    attend(const u16* __restrict__ query, const u16* __restrict__ key, const u16* __restrict__ value,
           const float* __restrict__ cosine, const float* __restrict__ sine, u8* cache, const int* __restrict__ table,
           const int* __restrict__ lengths, const int* __restrict__ kept, const int* __restrict__ counts, u16* output,
           u32* counters, float* parts, int table_width, int kept_width, int kv_heads, int group, int query_row, int key_row,
           float factor) {
  extern __shared__ __align__(128) u8 memory[];
  Shared& shared = *(Shared*)memory;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int splits = gridDim.x, split = blockIdx.x, sequence = blockIdx.z;
  int chunks = gridDim.y / kv_heads, head = blockIdx.y / chunks, chunk = blockIdx.y % chunks;
  int heads = min(HEADS, group - chunk * HEADS);
  u8* stages = memory + SHARED_HEAD + warp * STAGES * TILE_BYTES;
  float* outputs = (float*)(memory + SHARED_HEAD);

  size_t own = (size_t)sequence * kv_heads + head, first_head = own * group + chunk * HEADS;
  auto vectors_of_block = [&](Vectors& found) {
    size_t of_key = (size_t)sequence * key_row + head * SIZE;
    size_t of_query = (size_t)sequence * query_row + (head * group + chunk * HEADS) * SIZE;
    load_vectors(found, query + of_query, key + of_key, value + of_key,
                 cosine + (size_t)sequence * (SIZE / 2), sine + (size_t)sequence * (SIZE / 2), heads);
  };
  Vectors vectors;
  if (!EARLY) WAIT_FOR_PREVIOUS();
  Source from{cache, table + (size_t)sequence * table_width, nullptr, kv_heads, head, 0};
  Near near = near_pages(from, table_width, lane);
  int length = lengths[sequence];
  if (!EARLY) vectors_of_block(vectors);
  from.tokens = length;
  if (KEPT) {
    from.kept = kept + ((size_t)sequence * kv_heads + head) * kept_width;
    from.tokens = counts[sequence * kv_heads + head];
  }
  int tiles = (from.tokens + TILE - 1) / TILE, each = max(1, (tiles + splits - 1) / splits);
  int active = max(1, (tiles + each - 1) / each);
  if (CLUSTER == 1 && split >= active) {
    if (EARLY) WAIT_FOR_PREVIOUS();
    return;
  }
  int first = split * each + warp, end = min(tiles, split * each + each);
  bool with_new = NEW && split == active - 1;

  if (BULK && lane == 0) {
    for (int s = 0; s < STAGES; ++s) barrier_init(shared_address(&shared.barrier[warp][s]), 1);
    barrier_init_fence();
  }
  __syncwarp();
#pragma unroll
  for (int s = 0; s < STAGES; ++s) {
    int tile = first + s * WARPS;
    if (tile < end) {
      fetch(stages + s * TILE_BYTES, shared_address(&shared.barrier[warp][s]), from, find_near(from, near, tile, lane), tile,
            lane);
    }
    if (!BULK) copies_commit();
  }
  Place ahead;
  if (first + STAGES * WARPS < end) ahead = find(from, first + STAGES * WARPS, lane);

  if (EARLY) WAIT_FOR_PREVIOUS();
  LET_NEXT_START();
  if (EARLY) vectors_of_block(vectors);
  store_vectors(shared, vectors);
  __syncthreads();
  Query q;
  load_query(q, shared, g, t);
  if (with_new) {
    u8* group_of_new = cache + ((size_t)from.table[length / 64] * kv_heads + head) * PAGE_BYTES + length % 64 / 16 * GROUP_BYTES;
    add_new(shared, group_of_new, length % 16, factor, heads, warp, lane);
  }

  const Lane place_of_lane = lane_of(lane);
  State state;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      state.top[c][h] = LOWEST, state.sum[c][h] = state.shift[c][h] = 0;
#pragma unroll
      for (int m = 0; m < SIZE / 16; ++m) state.output[c][m][h] = state.output[c][m][h + 2] = 0;
    }
  }
  u32 parity = 0;
  u8* data = stages;
  u32 barrier = shared_address(&shared.barrier[warp][0]), last_barrier = barrier + 8 * (STAGES - 1);
#pragma unroll 1
  for (int tile = first; tile < end; tile += WARPS) {
    if (BULK) {
      barrier_wait(barrier, parity);
    } else {
      copies_wait<STAGES - 1>();
      __syncwarp();
    }
    int valid = from.tokens - tile * TILE;
    if (BITS == 16 && valid < TILE) clear(data, valid, lane);
    if (valid >= TILE) {
      attend_tile<true>(state, data, q, factor, place_of_lane, valid);
    } else {
      attend_tile<false>(state, data, q, factor, place_of_lane, valid);
    }
    __syncwarp();
    int next = tile + STAGES * WARPS;
    if (next < end) {
      fetch(data, barrier, from, ahead, next, lane);
      if (next + WARPS < end) ahead = find(from, next + WARPS, lane);
    }
    if (!BULK) copies_commit();
    if (barrier == last_barrier) {
      data = stages, barrier = last_barrier - 8 * (STAGES - 1), parity ^= 1;
    } else {
      data += TILE_BYTES, barrier += 8;
    }
  }
  __syncthreads();  // no warp reads its stages any more
  leave(shared, outputs, state, heads, warp, g, t);
  __syncthreads();

  float* part_of = parts + (((size_t)sequence * gridDim.y + blockIdx.y) * splits) * (HEADS * (SIZE + 4));
  for (int i = threadIdx.x; i < heads * (SIZE / 4); i += THREADS) {
    int h = i / (SIZE / 4), element = i % (SIZE / 4) * 4;
    Part all = nothing();
    for (int w = 0; w < PARTS; ++w) {
      join(all, *(const float4*)(outputs + (w * HEADS + h) * STRIDE + element), shared.top[w][h], shared.sum[w][h]);
    }
    if (with_new) {
      const u16* v = shared.value + element;
      join(all, make_float4(widened<1>(v[0]), widened<1>(v[1]), widened<1>(v[2]), widened<1>(v[3])), shared.top[PARTS][h], 1);
    }
    if (CLUSTER > 1) {
      *(float4*)(outputs + (PARTS * HEADS + h) * STRIDE + element) = all.output;
      if (element == 0) shared.joined_top[h] = all.top, shared.joined_sum[h] = all.sum;
    } else if (active == 1) {
      write_output(output + (first_head + h) * SIZE + element, all);
    } else {
      float* to = part_of + split * (HEADS * (SIZE + 4));
      *(float4*)(to + h * SIZE + element) = all.output;
      if (element == 0) to[HEADS * SIZE + h] = all.top, to[HEADS * SIZE + HEADS + h] = all.sum;
    }
  }
  if (CLUSTER > 1) {
    join_cluster(shared, outputs, output + first_head * SIZE, heads);
    return;
  }
  if (active == 1) return;

  // the last block of this sequence and head to arrive adds all parts, in their order
  __syncthreads();
  u32* counter = counters + (size_t)sequence * gridDim.y + blockIdx.y;
  if (threadIdx.x == 0) {
    __threadfence();
    shared.last = atomicAdd(counter, 1) == (u32)active - 1;
    __threadfence();
  }
  __syncthreads();
  if (!shared.last) return;
  if (threadIdx.x == 0) *counter = 0;
  for (int i = threadIdx.x; i < heads * (SIZE / 4); i += THREADS) {
    int h = i / (SIZE / 4), element = i % (SIZE / 4) * 4;
    Part all = nothing();
#pragma unroll 16
    for (int s = 0; s < active; ++s) {
      const float* part = part_of + s * (HEADS * (SIZE + 4));
      join(all, __ldcg((const float4*)(part + h * SIZE + element)), __ldcg(part + HEADS * SIZE + h),
           __ldcg(part + HEADS * SIZE + HEADS + h));
    }
    write_output(output + (first_head + h) * SIZE + element, all);
  }
}

// Many tokens to the cache, one warp a vector: grid of blocks of 4 warps over tokens x kv heads x {key, value}. key, value
// [tokens, kv heads, SIZE], cosine, sine [tokens, SIZE / 2] (ROTATED: the keys are turned), sequence, position [tokens]
extern "C" __global__ void __launch_bounds__(128)
    append(const u16* __restrict__ key, const u16* __restrict__ value, const float* __restrict__ cosine,
           const float* __restrict__ sine, const int* __restrict__ sequence, const int* __restrict__ position,
           const int* __restrict__ table, u8* cache, int tokens, int table_width, int kv_heads) {
  __shared__ u16 turned[4][SIZE];
  WAIT_FOR_PREVIOUS();
  LET_NEXT_START();
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  long long index = (long long)blockIdx.x * 4 + warp;
  int which = index & 1, head = (index >> 1) % kv_heads;
  long long token = (index >> 1) / kv_heads;
  if (token >= tokens) return;
  const u16* from = (which ? value : key) + (token * kv_heads + head) * SIZE;
  for (int pair = lane; pair < SIZE / 2; pair += 32) {
    u16 x = from[pair], y = from[pair + SIZE / 2];
    if (ROTATED && !which) rotate_pair(x, y, cosine[token * (SIZE / 2) + pair], sine[token * (SIZE / 2) + pair], x, y);
    turned[warp][pair] = x, turned[warp][pair + SIZE / 2] = y;
  }
  __syncwarp();
  u16 vector[EACH];
  for (int i = 0; i < EACH; ++i) vector[i] = turned[warp][lane * EACH + i];
  int slot = position[token];
  size_t page = table[(long long)sequence[token] * table_width + slot / 64];
  u8* group = cache + (page * kv_heads + head) * PAGE_BYTES + slot % 64 / 16 * GROUP_BYTES;
  store_vector(group, slot % 16, which, lane, vector);
}
