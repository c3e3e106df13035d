// What the card can do at most: bytes read from DRAM, int8 products by `wgmma` and `mma.sync`. Floors follow.
//
// read_once walks a buffer once, 16 bytes a load, LOADS loads of a thread in flight. wgmma_registers, wgmma_shared do
// nothing but m64n256k32 products: two warpgroups a multiprocessor, B (and A) held in shared memory all the time.

using u32 = unsigned int;
using u64 = unsigned long long;
using s32 = int;
using s64 = long long;
using s8 = signed char;

#ifndef LOADS
#define LOADS 8
#endif

// ---- instruction wrappers ---------------------------------------------------------------------------------------

// PTX ISA, "ld.global.nc": 16 bytes through the read-only path, without a place in L1
__device__ __forceinline__ uint4 load_once(const uint4* address) {
    uint4 words;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(address));
    return words;
}

// PTX ISA, "mma.m16n8k32", s8: D[16 x 8] += A[16 x 32] B[32 x 8]
__device__ __forceinline__ void mma(s32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#if __CUDA_ARCH__ >= 900 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// PTX ISA, "wgmma.fence", "wgmma.commit_group", "wgmma.wait_group"
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// PTX ISA, "fence.proxy.async": what threads stored becomes visible to the tensor cores
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define EIGHT(i) \
    "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), \
        "+r"(d[i + 7])
#define ALL \
    EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56), EIGHT(64), EIGHT(72), \
        EIGHT(80), EIGHT(88), EIGHT(96), EIGHT(104), EIGHT(112), EIGHT(120)

// PTX ISA, "wgmma.mma_async", integer: D[64 x 256] += A[64 x 32] B[32 x 256], A in registers
__device__ __forceinline__ void wgmma(s32 (&d)[128], const u32 (&a)[4], u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
        " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
        " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
        " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
        " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
        " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"
        " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111,"
        " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "{%128, %129, %130, %131}, %132, 1;"
        : ALL
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// the same, A in shared memory
__device__ __forceinline__ void wgmma(s32 (&d)[128], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
        " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
        " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
        " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
        " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
        " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"
        " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111,"
        " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, 1;"
        : ALL
        : "l"(a), "l"(b));
}

// ---- operands in shared memory ----------------------------------------------------------------------------------

constexpr u32 DEPTH = 128;    // bytes of a row: four products of 32 along K
constexpr u32 COLUMNS = 256;  // of B, of one product
constexpr u32 ROWS = 64;      // of A, of one warpgroup
constexpr u32 STAGES = 4;     // B operands that take turns

// PTX ISA, "asynchronous warpgroup level matrix shared memory layout": rows of 128 bytes, 8 rows an atom of 1024 bytes
__device__ __forceinline__ u64 descriptor(const void* tile) {
    u32 address = u32(__cvta_generic_to_shared(tile));
    return u64((address & 0x3FFFF) >> 4) | u64(1) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
}

// rows x 128 bytes into the 128-byte swizzle: 16-byte piece p of row r lies at place p ^ (r % 8)
__device__ void place(s8* tile, const s8* rows, u32 count) {
    const uint4* from = reinterpret_cast<const uint4*>(rows);
    uint4* to = reinterpret_cast<uint4*>(tile);
#pragma unroll 8
    for (u32 i = threadIdx.x; i < count * 8; i += blockDim.x) to[(i & ~7u) | ((i ^ (i >> 3)) & 7u)] = from[i];
}

// the fragment of A: rows g and g + 8 of a warp's 16, bytes 4t .. 4t + 3 and 16 further
__device__ void fragment(u32 (&a)[4][4], const s8* rows) {
    u32 lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
    for (u32 k = 0; k < 4; ++k)
        for (u32 i = 0; i < 4; ++i)
            a[k][i] = *(const u32*)(rows + (row + i % 2 * 8) * DEPTH + k * 32 + i / 2 * 16 + lane % 4 * 4);
}

// ---- kernels ----------------------------------------------------------------------------------------------------

// a [2][64][128], b [4][256][128]; sums [2][64][256] of `passes` times the sum over b's four; cycles that products took
template <bool InRegisters>
__device__ void multiply(const s8* a, const s8* b, s32* sums, s64* cycles, s32 passes) {
    extern __shared__ __align__(1024) s8 shared[];
    s8* tiles_b = shared;
    s8* tiles_a = shared + STAGES * COLUMNS * DEPTH;
    place(tiles_b, b, STAGES * COLUMNS);
    place(tiles_a, a, 2 * ROWS);
    fence_async();
    __syncthreads();
    u32 group = threadIdx.x / 128;
    u32 held[4][4];
    fragment(held, a + group * ROWS * DEPTH);
    u64 from_a = descriptor(tiles_a + group * ROWS * DEPTH), from_b = descriptor(tiles_b);
    s32 d[128];
#pragma unroll
    for (u32 i = 0; i < 128; ++i) d[i] = 0;
    s64 begin = clock64();
    for (s32 pass = 0; pass < passes; ++pass) {
        wgmma_fence();
#pragma unroll
        for (u32 step = 0; step < STAGES * 4; ++step) {
            u64 b_now = from_b + (step / 4 * COLUMNS * DEPTH + step % 4 * 32 >> 4);
            if constexpr (InRegisters) wgmma(d, held[step % 4], b_now);
            else wgmma(d, from_a + (step % 4 * 32 >> 4), b_now);
        }
        wgmma_commit();
    }
    wgmma_wait();
    if (blockIdx.x) return;
    if (threadIdx.x == 0) *cycles = clock64() - begin;
    u32 lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (u32 i = 0; i < 128; ++i) sums[(row + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
}

extern "C" __global__ void __launch_bounds__(256, 1)
wgmma_registers(const s8* a, const s8* b, s32* sums, s64* cycles, s32 passes) {
    multiply<true>(a, b, sums, cycles, passes);
}

extern "C" __global__ void __launch_bounds__(256, 1)
wgmma_shared(const s8* a, const s8* b, s32* sums, s64* cycles, s32 passes) {
    multiply<false>(a, b, sums, cycles, passes);
}

#endif

// a [64][32], b [32][32]; sums [64][32] of `passes` times their product, which each warp holds whole in registers
extern "C" __global__ void __launch_bounds__(256) mma_sync(const u32* a, const u32* b, s32* sums, s32 passes) {
    u32 lane = threadIdx.x % 32, row = lane / 4, word = lane % 4, from_a[4][4], from_b[4][2];
    s32 d[4][4][4] = {};
    for (u32 m = 0; m < 4; ++m)
        for (u32 i = 0; i < 4; ++i) from_a[m][i] = a[(m * 16 + row + i % 2 * 8) * 8 + i / 2 * 4 + word];
    for (u32 n = 0; n < 4; ++n)
        for (u32 i = 0; i < 2; ++i) from_b[n][i] = b[(n * 8 + row) * 8 + i * 4 + word];
    for (s32 pass = 0; pass < passes; ++pass) {
#pragma unroll
        for (u32 i = 0; i < 16; ++i) mma(d[i / 4][i % 4], from_a[i / 4], from_b[i % 4]);
    }
    if (blockIdx.x || threadIdx.x >= 32) return;
#pragma unroll
    for (u32 i = 0; i < 64; ++i)
        sums[(i / 16 * 16 + row + i / 2 % 2 * 8) * 32 + i / 4 % 4 * 8 + word * 2 + i % 2] = d[i / 16][i / 4 % 4][i % 4];
}

// sum modulo 2^32 of the words that a warp read, one a warp; pieces of 16 bytes, a multiple of the block's chunk
extern "C" __global__ void __launch_bounds__(256) read_once(const uint4* data, u64 pieces, u32* sums) {
    u32 sum = 0;
    for (u64 chunk = u64(blockIdx.x) * 256 * LOADS; chunk < pieces; chunk += u64(gridDim.x) * 256 * LOADS) {
        uint4 words[LOADS];
#pragma unroll
        for (u32 i = 0; i < LOADS; ++i) words[i] = load_once(data + chunk + i * 256 + threadIdx.x);
#pragma unroll
        for (u32 i = 0; i < LOADS; ++i) sum += words[i].x + words[i].y + words[i].z + words[i].w;
    }
    sum = __reduce_add_sync(0xFFFFFFFFu, sum);
    if (threadIdx.x % 32 == 0) sums[blockIdx.x * 8 + threadIdx.x / 32] = sum;
}

// nothing, but for the wait of a dependent launch: what a launch costs
extern "C" __global__ void empty() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
