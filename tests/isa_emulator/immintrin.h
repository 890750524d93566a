#pragma once
// Literal stand-ins for the AVX2 and AVX-512 intrinsics that our kernels use, so that their forms
// are tested on machines without these instructions, under sanitizers. In place of the compiler's
// header; a kernel compiled with it (and POMONA_EMULATED_ISA) computes what Intel's manual says,
// lane by lane. Only what is used is here: add what a kernel needs.

#include "avx2.h"
#include "avx512.h"
