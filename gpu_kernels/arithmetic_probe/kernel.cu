// Runs single instructions of a GPU on given operands: what they round, cut and saturate is read off the results.
// PTX ISA 9.0: "Warp-level matrix instructions: mma", "Asynchronous warpgroup level: wgmma.mma_async", "cvt", "fma".

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

// ---- products -------------------------------------------------------------------------------------------------------
// A block of 128 threads takes one tile: A [64][steps * bytes], B [8][steps * bytes], C and D [64][8], rows contiguous.
// Each warp holds 16 rows. In 32-bit words of a row all types share one layout: lane = 4 g + t holds words t and t + 4
// of rows g and g + 8 of A, words t and t + 4 of row g of B, and columns 2 t, 2 t + 1 of rows g and g + 8 of C and D.

#define MMA(SHAPE_AND_TYPES)                                                                        \
  asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

#define MMA_FLOAT(SHAPE_AND_TYPES)                                                                  \
  asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

#define PRODUCT(NAME, ROW_BYTES, ACCUMULATE)                                                        \
  extern "C" __global__ void NAME(const u32* A, const u32* B, const u32* C, u32* D, int steps) {    \
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;         \
    const int words = ROW_BYTES / 4 * steps, row = warp * 16 + g;                                   \
    const u32* left = A + ((u64)blockIdx.x * 64 + row) * words;                                     \
    const u32* right = B + ((u64)blockIdx.x * 8 + g) * words;                                       \
    const u64 place = ((u64)blockIdx.x * 64 + row) * 8 + 2 * t;                                     \
    u32 d[4] = {C[place], C[place + 1], C[place + 64], C[place + 65]};                              \
    float f[4];                                                                                     \
    for (int i = 0; i < 4; ++i) f[i] = __uint_as_float(d[i]);                                       \
    for (int step = 0; step < steps; ++step) {                                                      \
      const int w = step * (ROW_BYTES / 4) + t;                                                     \
      u32 a[4] = {left[w], left[w + 8 * words], 0, 0}, b[2] = {right[w], 0};                        \
      if (ROW_BYTES == 32) {                                                                        \
        a[2] = left[w + 4], a[3] = left[w + 4 + 8 * words], b[1] = right[w + 4];                    \
      }                                                                                             \
      ACCUMULATE;                                                                                   \
    }                                                                                               \
    D[place] = d[0], D[place + 1] = d[1], D[place + 64] = d[2], D[place + 65] = d[3];               \
  }

#define KEEP_FLOATS for (int i = 0; i < 4; ++i) d[i] = __float_as_uint(f[i])

PRODUCT(mma_float16, 32, MMA_FLOAT("m16n8k16.row.col.f32.f16.f16.f32"); KEEP_FLOATS)
PRODUCT(mma_bfloat16, 32, MMA_FLOAT("m16n8k16.row.col.f32.bf16.bf16.f32"); KEEP_FLOATS)
PRODUCT(mma_s8, 32, MMA("m16n8k32.row.col.s32.s8.s8.s32"))
PRODUCT(mma_s8_satfinite, 32, MMA("m16n8k32.row.col.satfinite.s32.s8.s8.s32"))

#define MMA_HALF_DEPTH(TYPES)                                                                       \
  asm volatile("mma.sync.aligned.m16n8k8.row.col." TYPES " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};" \
               : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])                                     \
               : "r"(a[0]), "r"(a[1]), "r"(b[0]))

PRODUCT(mma_float16_k8, 16, MMA_HALF_DEPTH("f32.f16.f16.f32"); KEEP_FLOATS)
PRODUCT(mma_bfloat16_k8, 16, MMA_HALF_DEPTH("f32.bf16.bf16.f32"); KEEP_FLOATS)

// float16 accumulators: C and D hold their bits in the low half of each word
#define MMA_FLOAT16_SUMS                                                                            \
  u32 low = d[0] | d[1] << 16, high = d[2] | d[3] << 16;                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};" \
               : "+r"(low), "+r"(high)                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                 \
  d[0] = low & 0xffff, d[1] = low >> 16, d[2] = high & 0xffff, d[3] = high >> 16
PRODUCT(mma_float16_sums, 32, MMA_FLOAT16_SUMS)

#if __CUDA_ARCH__ >= 890
PRODUCT(mma_e4m3, 32, MMA_FLOAT("m16n8k32.row.col.f32.e4m3.e4m3.f32"); KEEP_FLOATS)
PRODUCT(mma_e5m2, 32, MMA_FLOAT("m16n8k32.row.col.f32.e5m2.e5m2.f32"); KEEP_FLOATS)
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// A from registers, B from shared memory: 8 rows of 32 bytes as two core matrices of 8 rows of 16 bytes, not swizzled.
#define WGMMA(SHAPE_AND_TYPES, LAST)                                                                \
  asm volatile(                                                                                     \
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                                    \
      "wgmma.fence.sync.aligned;\n"                                                                 \
      "wgmma.mma_async.sync.aligned." SHAPE_AND_TYPES " {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, p, 1, 1" LAST ";\n" \
      "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n}"                       \
      : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])                                              \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor)                                 \
      : "memory")

#define WITH_B_SHARED(INSTRUCTION)                                                                  \
  __shared__ __align__(128) u32 shared[64];                                                         \
  __syncthreads();                                                                                  \
  if (warp == 0) shared[g * 4 + t] = b[0], shared[32 + g * 4 + t] = b[1];                           \
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");                                      \
  __syncthreads();                                                                                  \
  const u64 address = (u64)__cvta_generic_to_shared(shared);                                        \
  const u64 descriptor = (address >> 4 & 0x3fff) | (u64)(128 >> 4) << 16 | (u64)(256 >> 4) << 32;   \
  INSTRUCTION

PRODUCT(wgmma_float16, 32, WITH_B_SHARED(WGMMA("m64n8k16.f32.f16.f16", ", 0")); KEEP_FLOATS)
PRODUCT(wgmma_bfloat16, 32, WITH_B_SHARED(WGMMA("m64n8k16.f32.bf16.bf16", ", 0")); KEEP_FLOATS)
PRODUCT(wgmma_e4m3, 32, WITH_B_SHARED(WGMMA("m64n8k32.f32.e4m3.e4m3", "")); KEEP_FLOATS)
PRODUCT(wgmma_e5m2, 32, WITH_B_SHARED(WGMMA("m64n8k32.f32.e5m2.e5m2", "")); KEEP_FLOATS)
#endif

// ---- scalars --------------------------------------------------------------------------------------------------------
// Each thread computes one result from words x[i], y[i], z[i]; 16-bit operands lie in the low half.

#define SCALAR(NAME, CODE)                                                                          \
  extern "C" __global__ void NAME(const u32* X, const u32* Y, const u32* Z, u32* R, u64 count) {    \
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;                                       \
    if (i >= count) return;                                                                         \
    const u32 x = X[i], y = Y ? Y[i] : 0, z = Z ? Z[i] : 0;                                         \
    const float fx = __uint_as_float(x), fy = __uint_as_float(y), fz = __uint_as_float(z);          \
    const u16 hx = x, hy = y, hz = z;                                                               \
    u32 r = 0;                                                                                      \
    float f = 0;                                                                                    \
    u16 h = 0;                                                                                      \
    CODE;                                                                                           \
    R[i] = r;                                                                                       \
  }
#define FROM_FLOAT(PTX) asm(PTX " %0, %1;" : "=h"(h) : "f"(fx)); r = h
#define FP8_OF_FLOAT(TYPE) asm("cvt.rn.satfinite." TYPE ".f32 %0, %1, %2;" : "=h"(h) : "f"(0.f), "f"(fx)); r = h & 0xff
#define TO_WORD(PTX) asm(PTX " %0, %1;" : "=r"(r) : "f"(fx))
#define FLOAT_OF_FLOAT(PTX) asm(PTX " %0, %1;" : "=f"(f) : "f"(fx)); r = __float_as_uint(f)
#define HALVES_2(PTX) asm(PTX " %0, %1, %2;" : "=h"(h) : "h"(hx), "h"(hy)); r = h
#define HALVES_3(PTX) asm(PTX " %0, %1, %2, %3;" : "=h"(h) : "h"(hx), "h"(hy), "h"(hz)); r = h
#define PAIRS_3(PTX) asm(PTX " %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(z))

SCALAR(float16_of_float32, FROM_FLOAT("cvt.rn.f16.f32"))
SCALAR(bfloat16_of_float32, FROM_FLOAT("cvt.rn.bf16.f32"))
#if __CUDA_ARCH__ >= 890
SCALAR(e4m3_of_float32, FP8_OF_FLOAT("e4m3x2"))
SCALAR(e5m2_of_float32, FP8_OF_FLOAT("e5m2x2"))
#endif
SCALAR(s8_of_float32, TO_WORD("cvt.rni.sat.s8.f32"); r &= 0xff)
SCALAR(u8_of_float32, TO_WORD("cvt.rni.sat.u8.f32"); r &= 0xff)
SCALAR(s32_of_float32, TO_WORD("cvt.rni.s32.f32"))
SCALAR(float32_of_s32, f = (float)(int)x; r = __float_as_uint(f))
SCALAR(fma_float32, asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(fx), "f"(fy), "f"(fz)); r = __float_as_uint(f))
SCALAR(fma_ftz_float32, asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(fx), "f"(fy), "f"(fz)); r = __float_as_uint(f))
SCALAR(multiply_ftz_float32, asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(f) : "f"(fx), "f"(fy)); r = __float_as_uint(f))
SCALAR(divide_float32, asm("div.rn.f32 %0, %1, %2;" : "=f"(f) : "f"(fx), "f"(fy)); r = __float_as_uint(f))
SCALAR(fma_float16, HALVES_3("fma.rn.f16"))
SCALAR(fma_float16x2, PAIRS_3("fma.rn.f16x2"); r &= 0xffff)
SCALAR(fma_bfloat16, HALVES_3("fma.rn.bf16"))
SCALAR(fma_bfloat16x2, PAIRS_3("fma.rn.bf16x2"); r &= 0xffff)
SCALAR(multiply_float16, HALVES_2("mul.rn.f16"))
SCALAR(add_float16, HALVES_2("add.rn.f16"))
#if __CUDA_ARCH__ >= 900
SCALAR(multiply_bfloat16, HALVES_2("mul.rn.bf16"))
SCALAR(add_bfloat16, HALVES_2("add.rn.bf16"))
#endif
SCALAR(reciprocal_approximate, FLOAT_OF_FLOAT("rcp.approx.ftz.f32"))
SCALAR(exp2_approximate, FLOAT_OF_FLOAT("ex2.approx.ftz.f32"))
SCALAR(reciprocal_root_approximate, FLOAT_OF_FLOAT("rsqrt.approx.ftz.f32"))
// a float16 quotient by the approximate reciprocal, mended by the remainder where the result is a small subnormal
SCALAR(divide_float16, float a; float b; float q; asm("cvt.f32.f16 %0, %1;" : "=f"(a) : "h"(hx));
       asm("cvt.f32.f16 %0, %1;" : "=f"(b) : "h"(hy)); asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(f) : "f"(b)); q = f * a;
       asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(q)); if ((h & 0x7fff) && (h & 0x7fff) < 0x8f) {
         q = fmaf(f, fmaf(-b, q, a), q);
         asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(q));
       } r = h)
