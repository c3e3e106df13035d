// exp(x) of a float32 x <= 0 and 1 / d of d in 1..2: `gpu_kernels/exponential.py` bit for bit, every rounding written out.
#include "common/types.cuh"

#define EXPONENT_SHIFT 12582912.f  // 1.5 x 2^23: added, it leaves the nearest integer in a float's low bits

// 2^f for |f| <= 1/2, the highest power first: ln(2)^i / i! in float32
__device__ __forceinline__ float power_of_fraction(float f) {
  float p = 1.5252733646775596e-05f;
  p = __fmaf_rn(f, p, 1.540352968731895e-04f);
  p = __fmaf_rn(f, p, 1.3333557872101665e-03f);
  p = __fmaf_rn(f, p, 9.618128649890423e-03f);
  p = __fmaf_rn(f, p, 5.550410971045494e-02f);
  p = __fmaf_rn(f, p, 2.4022650718688965e-01f);
  p = __fmaf_rn(f, p, 6.931471824645996e-01f);
  return __fmaf_rn(f, p, 1.f);
}

// t = x log2(e) >= -126, so that 2^t is normal and its exponent can be added as an integer; below it is 0
__device__ __forceinline__ float exponential(float x) {
  float t = __fmul_rn(x, 1.4426950216293335f);
  float shifted = __fadd_rn(t, EXPONENT_SHIFT);
  float f = __fsub_rn(t, __fsub_rn(shifted, EXPONENT_SHIFT));
  float power = __uint_as_float(__float_as_uint(power_of_fraction(f)) + (__float_as_uint(shifted) << 23));
  return t >= -126.f ? power : 0.f;
}

// "rcp.approx.ftz.f32" is right to one unit; one step of Newton makes it the nearest float32 (all of them were tried)
__device__ __forceinline__ float reciprocal(float d) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  return __fmaf_rn(r, __fmaf_rn(-d, r, 1.f), r);
}
