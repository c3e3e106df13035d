// SiLU as `silu` of model.py, every rounding written out.
#include "common/types.cuh"

#define SHIFT 12582912.f  // 1.5 x 2^23: added to a number below 2^22, it leaves the nearest integer in the low bits
#define FURTHEST 87.f
#define MINUS_LOG2_E -1.4426950216293335f

// "max.NaN": a gate that is no number stays so
__device__ __forceinline__ float at_least(float x, float least) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(least));
  return r;
}

// 2^f, |f| <= 1/2
__device__ __forceinline__ float power_of_fraction(float f) {
  float p = 0.001326961675658822f;
  p = __fmaf_rn(f, p, 0.009671295061707497f);
  p = __fmaf_rn(f, p, 0.0555071085691452f);
  p = __fmaf_rn(f, p, 0.24022246897220612f);
  p = __fmaf_rn(f, p, 0.6931470036506653f);
  return __fmaf_rn(f, p, 1.f);
}

// The nearest float32: "rcp.approx.ftz.f32" and one step of Newton, which are what the compiler's IEEE reciprocal does where
// neither number is subnormal, on sm_80 to sm_90; without its branch for the others. check.py tries all significands.
__device__ __forceinline__ float reciprocal(float d) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  return __fmaf_rn(r, __fmaf_rn(-d, r, 1.f), r);
}

__device__ __forceinline__ float silu(float gate) {
  float held = at_least(gate, -FURTHEST), near = fminf(held, FURTHEST);
  float shifted = __fmaf_rn(near, MINUS_LOG2_E, SHIFT);
  float f = __fmaf_rn(near, MINUS_LOG2_E, -__fsub_rn(shifted, SHIFT));
  // the power and the integer's exponent: both normal, so that the sum of the bits is the product
  float power = __uint_as_float(__float_as_uint(power_of_fraction(f)) + (__float_as_uint(shifted) << 23));
  return __fmul_rn(held, reciprocal(__fadd_rn(1.f, power)));
}
