// float32 and 16-bit floats with their rounding in the name. "Flushed": subnormals are zero, as operand and as result.
#include "common/types.cuh"

__device__ __forceinline__ float multiply_flushed(float a, float b) {
  float r;
  asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

__device__ __forceinline__ float fma_flushed(float a, float b, float c) {
  float r;
  asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c));
  return r;
}

__device__ __forceinline__ float add_kept(float a, float b) {
  float r;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

// one 16-bit float: float16 if HALF, else bfloat16
template <int HALF>
__device__ __forceinline__ float widened(u16 bits) {
  float r;
  if (HALF) {
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(bits));
  } else {
    r = __uint_as_float((u32)bits << 16);
  }
  return r;
}

template <int HALF>
__device__ __forceinline__ u16 rounded(float x) {
  u16 r;
  if (HALF) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
  } else {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
  }
  return r;
}

// two of them in a word, the first in the low half
template <int HALF>
__device__ __forceinline__ u32 rounded_pair(float low, float high) {
  u32 r;
  if (HALF) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  }
  return r;
}
