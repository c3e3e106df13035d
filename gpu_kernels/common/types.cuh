// Integer types by width; NVRTC has no <cstdint> of its own.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
