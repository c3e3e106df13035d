// Packed weights of a stage to operand A of wgmma. Needs the constants of kernel.cu.
// A lane's 16 bytes hold two k-steps: words (step, k half), low nibbles of channel g, high nibbles of channel g + 8.
struct Scales {
  u32 scale[2], offset[2];  // of channels g and g + 8
};

__device__ __forceinline__ Scales group_scales(u32 word) {
  Scales found;
  for (int h = 0; h < 2; ++h) {
    const u32 pair = h ? word >> 16 : word;
    found.scale[h] = pair & 0xFF;
    found.offset[h] = (128 - (pair >> 8 & 0xFF) * found.scale[h]) * 0x01010101u;  // bytes (q - z) s + 128, no carries
  }
  return found;
}

__device__ __forceinline__ void widen_word(u32 word, const Scales& scales, u32& low, u32& high) {
  low = word & 0x0F0F0F0F;
  high = word >> 4 & 0x0F0F0F0F;
  if (KIND == GROUP) {
    low = (low * scales.scale[0] + scales.offset[0]) ^ 0x80808080u;
    high = (high * scales.scale[1] + scales.offset[1]) ^ 0x80808080u;
  }
}

#if KIND == 3
// (q - zero) scale with one rounding: q - zero is exact (1024 + q in float16, 128 + q in bfloat16)
__device__ __forceinline__ u32 widen_pair(u32 codes, u32 zero, u32 scale) {
  u32 r;
  if (FLOAT16) {
    asm("{ .reg .b32 t;\n sub.rn.f16x2 t, %1, %2;\n mul.rn.f16x2 %0, t, %3; }" : "=r"(r) : "r"(codes | 0x64006400u), "r"(zero), "r"(scale));
  } else {
    asm("{ .reg .b32 t;\n sub.rn.bf16x2 t, %1, %2;\n mul.rn.bf16x2 %0, t, %3; }" : "=r"(r) : "r"(codes | 0x43004300u), "r"(zero), "r"(scale));
  }
  return r;
}
#endif

constexpr int WORDS = KIND == INT8 ? 8 : KIND == A16 ? 2 : 4;  // packed, of two k-steps

// A thread's words of a half; `lane16` is the address of its 16 bytes of the first.
__device__ __forceinline__ void load_words(u32 (&words)[WORDS], u32 lane16, int half) {
#if KIND == 3
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "r"(lane16 + half / 2 * 2048 + half % 2 * 8));
#else
#pragma unroll
  for (int i = 0; i < WORDS / 4; ++i) {
    const uint4 v = load16(lane16 + (half * (WORDS / 4) + i) * 2048);
    words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
  }
#endif
}

// Two k-steps of operand A, complete before what follows.
__device__ __forceinline__ void operand(u32 (&a)[2][4], const u32 (&words)[WORDS], const Scales& scales) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
#if KIND == 2
#pragma unroll
    for (int i = 0; i < 4; ++i) a[step][i] = words[step * 4 + i];
#elif KIND == 3
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[step][i] = widen_pair(words[step] >> (4 * i) & 0x000F000F, scales.offset[i % 2], scales.scale[i % 2]);
    }
#else
    widen_word(words[step * 2], scales, a[step][0], a[step][1]);
    widen_word(words[step * 2 + 1], scales, a[step][2], a[step][3]);
#endif
    asm volatile("" : "+r"(a[step][0]), "+r"(a[step][1]), "+r"(a[step][2]), "+r"(a[step][3])::"memory");
  }
}

__device__ __forceinline__ Scales scales_of(u32 block, int row) {
  Scales found = {};
  if (KIND == GROUP) found = group_scales(load4(block + CODE_BYTES + row * 4));
  if (KIND == A16) {  // a word a channel: scale in the low half, 1024 or 128 plus zero in the high half
    for (int h = 0; h < 2; ++h) {
      const u32 word = load4(block + CODE_BYTES + row * 8 + h * 4);
      found.scale[h] = __byte_perm(word, 0, 0x1010), found.offset[h] = __byte_perm(word, 0, 0x3232);
    }
  }
  return found;
}
