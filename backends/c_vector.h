/* Whole vectors of the machine, for loops whose carried values must stay in registers: gcc does not keep arrays
   that it has vectorised there. REAL is the type that is computed in. */

#if defined(__AVX512F__)
#include <immintrin.h>
#define SSMC_VECTOR_BYTES 64
#elif defined(__AVX__)
#include <immintrin.h>
#define SSMC_VECTOR_BYTES 32
#else
#define SSMC_VECTOR_BYTES 16
#endif
#define SSMC_VECTOR_LANES (SSMC_VECTOR_BYTES / (int64_t)sizeof(REAL))
typedef REAL ssmc_vector __attribute__((vector_size(SSMC_VECTOR_BYTES), may_alias));
#define SSMC_VECTOR(row) (*(ssmc_vector *)&(row)[o])

/* EXPONENTIALS: single precision only */

typedef int32_t ssmc_vector_bits __attribute__((vector_size(SSMC_VECTOR_BYTES)));
typedef uint32_t ssmc_vector_word __attribute__((vector_size(SSMC_VECTOR_BYTES)));

/* x between low and high; NaN stays */
static inline __attribute__((always_inline)) ssmc_vector ssmc_clamp_vector(ssmc_vector x, float low, float high) {
#if defined(__AVX512F__)
    return (ssmc_vector)_mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), (__m512)x));
#elif defined(__AVX__)
    return (ssmc_vector)_mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), (__m256)x));
#else
    ssmc_vector lowest = x * 0.0f + low, highest = x * 0.0f + high;
    ssmc_vector_bits below = x < low, above = x > high;
    ssmc_vector_bits kept = (ssmc_vector_bits)x & ~(below | above);
    return (ssmc_vector)(kept | (below & (ssmc_vector_bits)lowest) | (above & (ssmc_vector_bits)highest));
#endif
}

/* 2^x as ssmc_exp2_f32 makes it: adding 1.5 * 2^23 + 126 rounds to n and leaves n + 126 in the lowest bits, which,
   shifted into the exponent, are 2^(n-1); at n = -126 they are 0. */
static inline __attribute__((always_inline)) ssmc_vector ssmc_exp2_vector(ssmc_vector x) {
    x = ssmc_clamp_vector(x, -126.0f, 128.0f);
    ssmc_vector rounded = x + 12583038.0f;
    ssmc_vector f = x - (rounded - 12583038.0f);
    ssmc_vector p = f * 0.000306535623f + 0.00267820503f;
    p = p * f + 0.0192370117f;
    p = p * f + 0.111007191f;
    p = p * f + 0.480452955f;
    p = p * f + 1.38629436f;
    p = p * f + 2.0f;
    return p * (ssmc_vector)((ssmc_vector_word)rounded << 23);
}

/* e^x as ssmc_exp_f32 makes it, but with x / log(2) rounded once and log(2) in one part */
static inline __attribute__((always_inline)) ssmc_vector ssmc_exp_vector(ssmc_vector x) {
    x = ssmc_clamp_vector(x, -87.33f, 88.73f);
    ssmc_vector rounded = x * 1.44269504f + 12583038.0f;
    ssmc_vector f = (rounded - 12583038.0f) * -0.693147182f + x;
    ssmc_vector p = f * 0.0013868435f + 0.00836643204f;
    p = p * f + 0.0416674614f;
    p = p * f + 0.16666545f;
    p = p * f + 0.49999997f;
    ssmc_vector q = (p * f) * f + f;
    ssmc_vector half = (1.0f + q) * (ssmc_vector)((ssmc_vector_word)rounded << 23);
    return half + half;
}
