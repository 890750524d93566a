#pragma once
// What the vector kernels of inference are compiled for, function by function: the instruction set
// is chosen at run time. Tests compile them with literal stand-ins for the instructions
// (tests/isa_emulator), which need no target.

#if defined(POMONA_EMULATED_ISA)
#define POMONA_TARGET(...)
#define POMONA_HOLD(vector)
#else
#define POMONA_TARGET(...) __attribute__((target(__VA_ARGS__)))
// Keeps a loaded vector in its register: else GCC folds the load into every instruction that uses
// it, and the loop is bound by loads.
#define POMONA_HOLD(vector) asm("" : "+v"(vector))
#endif
#define POMONA_AVX2 POMONA_TARGET("avx2,fma")
#define POMONA_AVX512 POMONA_TARGET("avx512f,avx512bw,avx512vl,avx512dq")
#define POMONA_BFLOAT16 POMONA_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#define POMONA_VNNI POMONA_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")
#define POMONA_INLINE __attribute__((always_inline)) inline
