// Limits of a GPU that the ceilings of the bench leave out. A block has 256 threads.

#include "common/types.cuh"

// reads `steps` chunks of 256 x LOADS pieces (16 bytes each) a block past the L1, of a buffer of `chunks`, round and round
extern "C" __global__ void __launch_bounds__(256) read_again(const uint4* data, u32 chunks, u32 steps, u32* sums) {
    u32 sum = 0, chunk = blockIdx.x % chunks, stride = gridDim.x % chunks;
    if (stride == 0) stride = 1 % chunks;
    for (u32 step = 0; step < steps; ++step) {
        const uint4* from = data + u64(chunk) * 256 * LOADS + threadIdx.x;
        uint4 words[LOADS];
#pragma unroll
        for (u32 i = 0; i < LOADS; ++i) words[i] = __ldcg(from + i * 256);
#pragma unroll
        for (u32 i = 0; i < LOADS; ++i) sum += words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
        chunk += stride;
        if (chunk >= chunks) chunk -= chunks;
    }
    sums[blockIdx.x * 256 + threadIdx.x] = sum;
}

// 8 chains of multiply-adds in float32, 64 a pass
extern "C" __global__ void __launch_bounds__(256) multiply_add(float* out, float a, float b, u32 passes) {
    float x[8], sum = 0;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = threadIdx.x * 0.25f + i;
    for (u32 pass = 0; pass < passes; ++pass) {
#pragma unroll
        for (u32 i = 0; i < 64; ++i) x[i % 8] = x[i % 8] * a + b;
    }
#pragma unroll
    for (u32 i = 0; i < 8; ++i) sum += x[i];
    out[blockIdx.x * 256 + threadIdx.x] = sum;
}

// 8 chains of 2^x on the special function units, 64 a pass
extern "C" __global__ void __launch_bounds__(256) exponentials(float* out, float a, float b, u32 passes) {
    float x[8], sum = 0;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = a * i - b;
    for (u32 pass = 0; pass < passes; ++pass) {
#pragma unroll
        for (u32 i = 0; i < 64; ++i) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x[i % 8]));
    }
#pragma unroll
    for (u32 i = 0; i < 8; ++i) sum += x[i];
    out[blockIdx.x * 256 + threadIdx.x] = sum;
}
