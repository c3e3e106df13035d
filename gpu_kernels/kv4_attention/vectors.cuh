// A new token's vectors: rotated, quantized, stored in the cache. One warp a vector; bit for bit model.py.
#include "common/rounded.cuh"
#include "kv4_attention/cache.cuh"

#define EACH (SIZE / 32)  // consecutive elements that a lane has

__device__ __forceinline__ void rotate_pair(u16 first, u16 second, float c, float s, u16& x, u16& y) {
  float a = widened<1>(first), b = widened<1>(second);
  x = rounded<1>(__fmaf_rn(c, a, -__fmul_rn(s, b)));
  y = rounded<1>(__fmaf_rn(c, b, __fmul_rn(s, a)));
}

__device__ __forceinline__ float warp_min(float x) {
  for (int distance = 16; distance; distance /= 2) x = fminf(x, __shfl_xor_sync(~0u, x, distance));
  return x;
}

// codes of a lane's elements x, and the vector's scale and zero (accel.formats.kv4; 255 steps with 8 bits)
__device__ __forceinline__ void quantize(const float (&x)[EACH], u32 (&codes)[EACH], u16& scale, u16& zero) {
  const float steps = BITS == 4 ? 15.0f : 255.0f;
  float low = x[0], high = x[0];
  for (int i = 1; i < EACH; ++i) low = fminf(low, x[i]), high = fmaxf(high, x[i]);
  low = warp_min(low), high = -warp_min(-high);
  float span = __fsub_rn(high, low);
  scale = rounded<1>(__fdiv_rn(span, steps));
  if (scale == 0) {  // nothing to divide by
    scale = 0x3C00, zero = rounded<1>(__fsub_rn(0.0f, low));
  } else {
    float far = __fadd_rn(__fdiv_rn(-__fmul_rn(steps, low), span), 0.0f);  // +0, never -0
    zero = rounded<1>(fminf(fmaxf(far, -65504.0f), 65504.0f));
  }
  float inverse = __fdiv_rn(1.0f, widened<1>(scale)), z = widened<1>(zero);
  for (int i = 0; i < EACH; ++i) {
    float near = rintf(__fmaf_rn(x[i], inverse, z));
    codes[i] = (u32)fminf(fmaxf(near, 0.0f), 255.0f) & (BITS == 4 ? 15 : 255);
  }
}

// `bytes` of a lane's codes, at its place in a row
template <typename T>
__device__ __forceinline__ void store_row(u8* group, int r, bool value, int lane, T bytes) {
  int byte = lane * (int)sizeof(T);
  *(T*)(group + (value ? value_byte(r, byte) : key_byte(r, byte))) = bytes;
}

// a vector, EACH elements a lane, as token r of a group of the cache
__device__ __forceinline__ void store_vector(u8* group, int r, bool value, int lane, const u16 (&vector)[EACH]) {
  if (BITS == 16) {
    for (int i = 0; i < EACH; ++i) {
      int byte = (lane * EACH + i) * 2;
      *(u16*)(group + (value ? value_byte(r, byte) : key_byte(r, byte))) = vector[i];
    }
    return;
  }
  float x[EACH];
  u32 codes[EACH];
  u16 scale, zero;
  for (int i = 0; i < EACH; ++i) x[i] = widened<1>(vector[i]);
  quantize(x, codes, scale, zero);
  u64 packed = 0;
  for (int i = 0; i < EACH; ++i) packed |= (u64)codes[i] << i * BITS;
  if (EACH * BITS == 8) store_row<u8>(group, r, value, lane, (u8)packed);
  if (EACH * BITS == 16) store_row<u16>(group, r, value, lane, (u16)packed);
  if (EACH * BITS == 32) store_row<u32>(group, r, value, lane, (u32)packed);
  if (EACH * BITS == 64) store_row<u64>(group, r, value, lane, packed);
  if (lane == 0) *(u32*)(group + 32 * ROW + r * 8 + value * 4) = scale | (u32)zero << 16;
}
