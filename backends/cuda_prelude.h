/* What a GPU has and a host has not, and what NVRTC lacks without headers. This is all that has to be replaced to
   run emitted kernels elsewhere. */

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

#undef INT64_C
#undef INT64_MIN
#undef INT64_MAX
#undef INFINITY
#undef NAN
#define INT64_C(value) ((int64_t)value##LL)
#define INT64_MAX ((int64_t)0x7fffffffffffffffLL)
#define INT64_MIN (-INT64_MAX - 1)
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)

/* Threads and what they share. */
#define SSMC_KERNEL(threads, together) extern "C" __global__ void __launch_bounds__(threads, together)
#define SSMC_BLOCK (blockIdx.x)
#define SSMC_THREAD ((int)threadIdx.x)
#define SSMC_THREADS ((int)blockDim.x)
#define SSMC_BARRIER() __syncthreads()
#define SSMC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define SSMC_INLINE static __device__ __forceinline__
#define SSMC_FMA(a, b, c) fmaf(a, b, c)

/* What C compilers have built in. */
#define __builtin_fabsf fabsf
#define __builtin_fabs fabs
#define __builtin_sqrtf sqrtf
#define __builtin_sqrt sqrt
#define __builtin_floorf floorf
#define __builtin_floor floor
#define __builtin_ceilf ceilf
#define __builtin_ceil ceil
#define __builtin_rintf rintf
#define __builtin_rint rint
#define __builtin_copysignf copysignf
#define __builtin_inff() INFINITY

SSMC_INLINE uint32_t ssmc_bits(float x) {
    return __float_as_uint(x);
}

SSMC_INLINE float ssmc_float(uint32_t bits) {
    return __uint_as_float(bits);
}

/* 2^x in one instruction: at most 2 units in the last place off; results below the normal numbers are 0. */
SSMC_INLINE float ssmc_power_of_two_quickly(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / x in one instruction: at most 1 unit in the last place off; results below the normal numbers are 0. */
SSMC_INLINE float ssmc_reciprocal_quickly(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* a / b without a call for the rare cases, as IEEE division has it: at most 2 units in the last place off. */
SSMC_INLINE float ssmc_quotient_quickly(float a, float b) {
    float y;
    asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

/* sqrt(x) likewise: at most 1 unit in the last place off */
SSMC_INLINE float ssmc_root_quickly(float x) {
    float y;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / sqrt(x): at most 2 units in the last place off */
SSMC_INLINE float ssmc_inverse_root_quickly(float x) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Storage of 16 bits; rounded to nearest, ties to even; NaN stays NaN. */

SSMC_INLINE uint16_t ssmc_f32_to_bf16(float x) {
    uint16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

SSMC_INLINE float ssmc_f16_to_f32(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

SSMC_INLINE uint16_t ssmc_f32_to_f16(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

/* The value of the lane of the same warp whose number differs in these bits. */
template <typename Number>
SSMC_INLINE Number ssmc_exchanged(Number x, int bits) {
    return __shfl_xor_sync(0xffffffffu, x, bits);
}

/* The value of the lane of the same warp that comes so many before, or of the first ones their own. */
template <typename Number>
SSMC_INLINE Number ssmc_from_before(Number x, int lanes) {
    return __shfl_up_sync(0xffffffffu, x, lanes);
}

/* The value of the last lane of the same warp. */
template <typename Number>
SSMC_INLINE Number ssmc_from_last(Number x) {
    return __shfl_sync(0xffffffffu, x, 31);
}

/* Sixteen bytes on their way from memory to shared memory, past registers; both begin at multiples of sixteen. */
SSMC_INLINE void ssmc_send(void *to, const void *from) {
    const uint32_t place = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(place), "l"(from) : "memory");
}

/* Wait until all that this thread has sent is there. */
SSMC_INLINE void ssmc_arrived() {
    asm volatile("cp.async.wait_all;" : : : "memory");
}

/* Which block this is, in the order in which they start. `next` is 0 before the first; `place` is shared. */
SSMC_INLINE uint32_t ssmc_ticket(uint32_t *next, uint32_t *place) {
    if (threadIdx.x == 0) *place = atomicAdd(next, 1u);
    __syncthreads();
    const uint32_t ticket = *place;
    __syncthreads();
    return ticket;
}

/* Wait until another block has left `count`; what it had written before is then seen by all threads of this one. */
SSMC_INLINE void ssmc_await(const uint32_t *signal, uint32_t count) {
    if (threadIdx.x == 0) {
        uint32_t found;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(signal) : "memory");
        while (found < count);
    }
    __syncthreads();
}

/* Leave `count` to other blocks, after all that the threads of this one have written. */
SSMC_INLINE void ssmc_leave(uint32_t *signal, uint32_t count) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        asm volatile("st.release.gpu.global.u32 [%0], %1;" : : "l"(signal), "r"(count) : "memory");
    }
}
