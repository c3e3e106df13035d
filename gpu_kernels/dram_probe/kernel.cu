// Reads device memory in a given order of rows and sums what it read.
//
// A stream is a sequence of rows of ROW_BYTES each; row i starts at byte Stream::start(i). A thread reads pieces of
// 16 bytes; neighbouring threads read neighbouring pieces of the stream, and blocks take chunks of it in order, so
// that the chip as a whole walks through the stream from its first row to its last. patterns.py has the same
// addresses in numpy. Compiled at run time by NVRTC (C++17, no headers).

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using s64 = long long;

constexpr u32 PIECE_BYTES = 16;
constexpr u32 TOKENS = 1024;   // patterns.py: TOKENS
constexpr u32 HEADS = 16;      // patterns.py: HEADS
constexpr u32 PASS_BYTES = 256;  // patterns.py: PASS_BYTES

// ---- instruction wrappers ---------------------------------------------------------------------------------------

// PTX ISA, "ld.global.nc": 16 bytes through the read-only path, without a place in L1; read once, never again
__device__ __forceinline__ int4 load_once(const char* address) {
    int4 words;
    asm("ld.global.nc.L1::no_allocate.v4.s32 {%0, %1, %2, %3}, [%4];"
        : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
        : "l"(address));
    return words;
}

// ---- streams: the byte at which row i starts --------------------------------------------------------------------

struct Arguments {
    const u16* tokens;  // Gather: [layers][rows], the kept tokens of each layer, shared by its heads
    u64 region_bytes;   // Gather: from the first array of a head (K, MSB plane) to the second one (V, LSB plane)
    u32 seed;           // Random
};

template <u32 RowBytes>
struct Sequential {
    static constexpr u32 ROW_BYTES = RowBytes;
    static __device__ u64 start(const Arguments&, u32 row) { return u64(row) * RowBytes; }
};

// Rows of one pass lie Stride apart; each further pass starts PASS_BYTES later.
template <u32 RowBytes, u32 Stride, u32 RowsPerPass>
struct Strided {
    static constexpr u32 ROW_BYTES = RowBytes;
    static __device__ u64 start(const Arguments&, u32 row) {
        return u64(row % RowsPerPass) * Stride + (row / RowsPerPass) * PASS_BYTES;
    }
};

// A bijection of 0 .. 2^Bits-1: no row is read twice, and no list of addresses has to be read.
template <u32 RowBytes, u32 Bits>
struct Random {
    static constexpr u32 ROW_BYTES = RowBytes;
    static constexpr u32 MASK = Bits == 32 ? 0xFFFFFFFFu : (1u << Bits) - 1;
    static __device__ u64 start(const Arguments& given, u32 row) {
        u32 mixed = (row + given.seed) & MASK;
        mixed = round(mixed, 0x85EBCA6Bu);
        mixed = round(mixed, 0xC2B2AE35u);
        mixed = round(mixed, 0x9E3779B1u);
        return u64(mixed) * RowBytes;
    }
    static __device__ u32 round(u32 mixed, u32 odd) {
        mixed = (mixed * odd) & MASK;
        return mixed ^ (mixed >> ((Bits + 1) / 2));
    }
};

// Head after head, First rows of one array, then Rows - First of a second one. Arrays are [layer][head][token][row].
template <u32 RowBytes, u32 First, u32 Rows>
struct Gather {
    static constexpr u32 ROW_BYTES = RowBytes;
    static __device__ u64 start(const Arguments& given, u32 row) {
        u32 head = row / Rows, rank = row % Rows;
        u32 token = __ldg(given.tokens + head / HEADS * Rows + rank);
        return (rank < First ? 0 : given.region_bytes) + (u64(head) * TOKENS + token) * RowBytes;
    }
};

// ---- kernel -----------------------------------------------------------------------------------------------------

template <u32 Threads>
__device__ s64 sum_of_block(s64 sum) {
    __shared__ s64 of_warp[Threads / 32];
    for (u32 lane = 16; lane > 0; lane /= 2) sum += __shfl_down_sync(0xFFFFFFFFu, sum, lane);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (u32 warp = 0; warp < Threads / 32; ++warp) sum += of_warp[warp];
    return sum;
}

// sums[block] = sum of the signed 32-bit words that the block read. `pieces` is the length of the stream.
// All Loads addresses of a thread are known before its first word is used, so that Loads reads are in flight.
template <class Stream, u32 Threads, u32 Loads>
__global__ void __launch_bounds__(Threads)
dram_probe(const char* __restrict__ data, const u16* __restrict__ tokens, u64 region_bytes, u32 seed, u32 pieces,
           s64* __restrict__ sums) {
    constexpr u32 PIECES_PER_ROW = Stream::ROW_BYTES / PIECE_BYTES;
    constexpr u32 CHUNK = Threads * Loads;
    const Arguments given{tokens, region_bytes, seed};
    s64 sum = 0;
    for (u64 chunk = u64(blockIdx.x) * CHUNK; chunk < pieces; chunk += u64(gridDim.x) * CHUNK) {
        const char* address[Loads];
        int4 words[Loads];
#pragma unroll
        for (u32 load = 0; load < Loads; ++load) {
            u64 wanted = chunk + load * Threads + threadIdx.x;
            u32 piece = wanted < pieces ? u32(wanted) : pieces - 1;
            address[load] = data + Stream::start(given, piece / PIECES_PER_ROW) + piece % PIECES_PER_ROW * PIECE_BYTES;
        }
#pragma unroll
        for (u32 load = 0; load < Loads; ++load) words[load] = load_once(address[load]);
#pragma unroll
        for (u32 load = 0; load < Loads; ++load) {
            bool inside = chunk + load * Threads + threadIdx.x < pieces;
            s64 of_piece = s64(words[load].x) + words[load].y + words[load].z + words[load].w;
            sum += inside ? of_piece : 0;
        }
    }
    sum = sum_of_block<Threads>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
