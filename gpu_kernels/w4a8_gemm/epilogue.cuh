// Sums to outputs, in the order of rounding of model.py. Needs the constants of kernel.cu.
struct Epilogue {
  const u16 *scale, *scaled_zero, *bias, *token_scale, *token_sum;
  u16* y;
};

struct ChannelFacts {
  float scale, scaled_zero;
};

struct TokenFacts {
  float scale, sum;
};

// The order of rounding is that of model.py; what a cluster does not compute is not read.
__device__ __forceinline__ float scaled(Sum acc, const ChannelFacts& c, float token_scale, float token_sum) {
#if KIND == 3
  return acc;
#else
  const float sum = __int2float_rn(acc);
  if (KIND != CHANNEL) return multiply_flushed(multiply_flushed(c.scale, token_scale), sum);
  return fma_flushed(token_scale, multiply_flushed(c.scale, sum), -multiply_flushed(c.scaled_zero, token_sum));
#endif
}

typedef ChannelFacts Channels[BLOCKS][2];  // of a thread: rows g and g + 8 of its warp

__device__ __forceinline__ void read_channels(Channels& c, const Epilogue& e, Shape shape, int channel) {
  const int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
  for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int n = min(channel + b * 64 + row + h * 8, shape.channels - 1);
      c[b][h].scale = KIND == A16 ? 0.0f : widened<FLOAT16>(e.scale[n]);
      c[b][h].scaled_zero = KIND == CHANNEL ? widened<FLOAT16>(e.scaled_zero[n]) : 0.0f;
    }
  }
}

// The warpgroup's copy of what the tokens bring: coalesced here, so that the epilogue reads no global memory.
__device__ __forceinline__ void stage_tokens(u32 facts, const Epilogue& e, Shape shape, int token) {
  for (int i = threadIdx.x % 128; i < (KIND == A16 ? 0 : OWN); i += 128) {
    const int m = min(token + i, shape.tokens - 1);
    const float scale = widened<FLOAT16>(e.token_scale[m]);
    const float sum = KIND == CHANNEL ? widened<FLOAT16>(e.token_sum[m]) : 0.0f;
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(facts + i * 8), "f"(scale), "f"(sum) : "memory");
  }
}

// Eight 16-bit results plus their biases: a 16-bit addition of its own.
__device__ __forceinline__ uint4 biased(uint4 y, uint4 bias) {
  u32 v[4] = {y.x, y.y, y.z, y.w};
  const u32 b[4] = {bias.x, bias.y, bias.z, bias.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float low = add_kept(widened<FLOAT16>((u16)v[i]), widened<FLOAT16>((u16)b[i]));
    const float high = add_kept(widened<FLOAT16>((u16)(v[i] >> 16)), widened<FLOAT16>((u16)(b[i] >> 16)));
    v[i] = rounded_pair<FLOAT16>(low, high);
  }
  return make_uint4(v[0], v[1], v[2], v[3]);
}

// 16 bytes are 8 channels; chunk c of row r lies at c ^ (r % 8), so that neither side has bank conflicts.
__device__ __forceinline__ u32 staged(u32 base, int row, int chunk) { return base + row * 128 + ((chunk ^ (row & 7)) << 4); }

// Writes 64 channels of the tokens owned; facts and staging are the warpgroup's own shared memory.
__device__ __forceinline__ void write_block(const Sum (&d)[OWN / 2], const ChannelFacts (&c)[2], const Epilogue& e, Shape shape,
                                            Place place, u32 facts, u32 staging, int group) {
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const bool inside = place.channel < shape.channels;
  const int n = place.channel + thread % 8 * 8;
  uint4 bias = {};
  if (e.bias && inside) bias = *(const uint4*)(e.bias + n);
#pragma unroll
  for (int pass = 0; pass < OWN / PASS; ++pass) {
    if (place.token + pass * PASS >= shape.tokens) break;
    constexpr int TILES = PASS / 8;
    u32 packed[TILES][2];
#pragma unroll
    for (int j = 0; j < TILES; ++j) {
      float4 t = {};  // scale and sum of two neighbouring tokens
      if (KIND != A16) {
        const uint4 v = load16(facts + (pass * PASS + j * 8 + lane % 4 * 2) * 8);
        t = make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const Sum* sum = d + (pass * TILES + j) * 4 + h * 2;
        packed[j][h] = rounded_pair<FLOAT16>(scaled(sum[0], c[h], t.x, t.y), scaled(sum[1], c[h], t.z, t.w));
      }
    }
    named_barrier(1 + group, 128);  // the pass before has been read
#pragma unroll
    for (int j = 0; j < TILES; j += 2) {
      const int row = (TILES > 1 ? j + lane / 16 : j) * 8 + lane % 8;
      const u32 to = staged(staging, row, warp * 2 + lane / 8 % 2);
      if (TILES > 1) {
        store_columns4(to, packed[j][0], packed[j][1], packed[(j + 1) % TILES][0], packed[(j + 1) % TILES][1]);
      } else {
        store_columns2(to, packed[j][0], packed[j][1]);
      }
    }
    named_barrier(1 + group, 128);
    for (int row = thread / 8; row < PASS; row += 16) {
      const int m = place.token + pass * PASS + row;
      if (m >= shape.tokens || !inside) break;
      const uint4 v = load16(staged(staging, row, thread % 8));
      *(uint4*)(e.y + (u64)m * shape.channels + n) = e.bias ? biased(v, bias) : v;
    }
  }
}
