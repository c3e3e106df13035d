// The cache: where a token's numbers lie, and how tensor-core fragments are made of them.
//
// [pages][kv heads][64 / 16 groups]; a group holds 16 tokens of one head:
//   keys [16 rows][ROW bytes], values [16 rows][ROW bytes], then, if BITS < 16, {key scale, key zero, value scale, value
//   zero} of each token as float16. A row is in natural order, of two 4-bit codes the even element in the low nibble.
// Shared memory holds the same bytes. So that no two lanes meet in a bank, token r's value row lies at row
// `value_row(r)`, and pieces of 32 or 64 bytes within rows are exchanged (`key_byte`, `value_byte`).
#include "common/types.cuh"

#define ROW (SIZE * BITS / 8)
#define META (BITS < 16 ? 128 : 0)
#define GROUP_BYTES (32 * ROW + META)
#define PAGE_BYTES (4 * GROUP_BYTES)  // of one head: 64 tokens
#define PER_WORD (32 / BITS)          // elements in a word

__device__ __forceinline__ int key_byte(int r, int byte) { return r * ROW + (ROW >= 128 ? byte ^ (r & 1) << 6 : byte); }

__device__ __forceinline__ int value_row(int r) { return (r & 8) | (r & 1) << 2 | (r & 6) >> 1; }

__device__ __forceinline__ int value_exchange(int r) {
  return ROW >= 128 ? ((r & 6) >> 1) << 5 : ROW == 64 ? ((r & 4) >> 2) << 5 : 0;
}

__device__ __forceinline__ int value_byte(int r, int byte) {
  return 16 * ROW + value_row(r) * ROW + (byte ^ value_exchange(r));
}

// ---- codes to float16: "lop3", "prmt", "add.f16x2" ---------------------------------------------------------------------
// A code in bits 0..3 under the exponent of 1024, or in bits 4..7 under that of 64, is the float16 1024 + code, 64 + code.
#define TWICE(x) ((u32)(x) << 16 | (u32)(x))
#define MINUS_960 TWICE(0xE380)
#define MINUS_1032 TWICE(0xE408)
#define MINUS_72 TWICE(0xD480)
#define MINUS_1152 TWICE(0xE480)

__device__ __forceinline__ u32 add_pairs(u32 a, u32 b) {
  u32 r;
  asm("add.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

__device__ __forceinline__ u32 choose_bits(u32 x, u32 mask, u32 exponent) {
  u32 r;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(x), "r"(mask), "r"(exponent));  // x & mask | exponent
  return r;
}

// of the nibbles in bits 0..3 and 16..19: codes + KEY_BIAS
__device__ __forceinline__ u32 low_keys(u32 x) {
  return add_pairs(choose_bits(x, 0x000F000F, 0x64006400), KEY_BIAS == 64 ? MINUS_960 : MINUS_1032);
}

// of the nibbles in bits 4..7 and 20..23
__device__ __forceinline__ u32 high_keys(u32 x) {
  u32 found = choose_bits(x, 0x00F000F0, 0x54005400);
  return KEY_BIAS == 64 ? found : add_pairs(found, MINUS_72);
}

// codes - 8
__device__ __forceinline__ u32 low_values(u32 x) { return add_pairs(choose_bits(x, 0x000F000F, 0x64006400), MINUS_1032); }
__device__ __forceinline__ u32 high_values(u32 x) { return add_pairs(choose_bits(x, 0x00F000F0, 0x54005400), MINUS_72); }

// bytes 0 and 2: codes - 128
__device__ __forceinline__ u32 bytes_of(u32 x) { return add_pairs(choose_bits(x, 0x00FF00FF, 0x64006400), MINUS_1152); }

// ---- what element of a head a fragment holds ------------------------------------------------------------------------------
#define KEY_WORDS (ROW / 16 < 4 ? ROW / 16 : 4)      // a lane's words next to each other in a key row
#define VALUE_WORDS (ROW / 32 < 4 ? ROW / 32 : 4)    // in a value row
#define WORDS (SIZE / 4 / PER_WORD)                  // a lane's words of a key row
#define SPREAD (SIZE / 8 / PER_WORD)                 // a lane's words of a value row

// element 0 of word w of lane column t in a key row; bytes of the row are 4 / PER_WORD as many
__device__ __forceinline__ int key_element(int w, int t) {
  return ((w / KEY_WORDS * 4 + t) * KEY_WORDS + w % KEY_WORDS) * PER_WORD;
}

// element 0 of word w of lane row g in a value row
__device__ __forceinline__ int value_element(int w, int g) {
  return ((w / VALUE_WORDS * 8 + g) * VALUE_WORDS + w % VALUE_WORDS) * PER_WORD;
}

// element i (0..3) of matrix product n over keys, in the order of the B fragment
__device__ __forceinline__ int query_element(int n, int t, int i) {
  if (BITS == 4) return key_element(n / 2, t) + n % 2 * 2 + (i & 1) * 4 + (i >> 1);
  if (BITS == 8) return key_element(n, t) + (i & 1) * 2 + (i >> 1);
  return key_element(n * 2, t) + i;
}

// A fragments of keys, 16 of k each: `low` and `high` are words of rows g and g + 8
__device__ __forceinline__ void key_fragment(u32 (&a)[4], const u32* low, const u32* high, int n) {
  if (BITS == 4) {
    int shift = n % 2 * 8;
    u32 x = low[n / 2] >> shift, y = high[n / 2] >> shift;
    a[0] = low_keys(x), a[1] = low_keys(y), a[2] = high_keys(x), a[3] = high_keys(y);
  } else if (BITS == 8) {
    u32 x = low[n], y = high[n];
    a[0] = bytes_of(x), a[1] = bytes_of(y), a[2] = bytes_of(x >> 8), a[3] = bytes_of(y >> 8);
  } else {
    a[0] = low[2 * n], a[1] = high[2 * n], a[2] = low[2 * n + 1], a[3] = high[2 * n + 1];
  }
}

// A fragment of transposed values: rows are the elements value_element(w, g) + 2 i (row g) and + 1 (row g + 8) of the words
// of four tokens, which are columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9
__device__ __forceinline__ void value_fragment(u32 (&a)[4], const u32 (&word)[4], int i) {
  if (BITS == 4) {
    u32 select = i < 2 ? 0x5410 : 0x7632;
    u32 x = __byte_perm(word[0], word[1], select) >> i % 2 * 8, y = __byte_perm(word[2], word[3], select) >> i % 2 * 8;
    a[0] = low_values(x), a[1] = high_values(x), a[2] = low_values(y), a[3] = high_values(y);
  } else if (BITS == 8) {
    u32 even = i ? 0x0602 : 0x0400, odd = i ? 0x0703 : 0x0501;
    a[0] = bytes_of(__byte_perm(word[0], word[1], even)), a[1] = bytes_of(__byte_perm(word[0], word[1], odd));
    a[2] = bytes_of(__byte_perm(word[2], word[3], even)), a[3] = bytes_of(__byte_perm(word[2], word[3], odd));
  } else {
    a[0] = __byte_perm(word[0], word[1], 0x5410), a[1] = __byte_perm(word[0], word[1], 0x7632);
    a[2] = __byte_perm(word[2], word[3], 0x5410), a[3] = __byte_perm(word[2], word[3], 0x7632);
  }
}
