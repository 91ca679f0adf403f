/* Whole vectors of the machine, for loops over lanes that a compiler is not to vectorise by itself: gcc does not
   keep arrays that it has vectorised in registers, and knows neither the instructions that make an exponential
   cheap nor the estimate of 1 / x. c_math.py copies from here as it does from c_math.h. REAL is the type that is
   computed in; functions with f32 in their name, and all mathematics, are there for single precision only.

   Functions mean what those of the same name in c_math.h mean, NaN and infinities included. A result below the
   normal numbers is 0: arithmetic on such numbers is a hundred times as slow. */

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define SSMC_AVX512
#define SSMC_VECTOR_BYTES 64
#elif defined(__AVX__)
#include <immintrin.h>
#define SSMC_VECTOR_BYTES 32
#else
#define SSMC_VECTOR_BYTES 16
#endif
#define SSMC_VECTOR_LANES (SSMC_VECTOR_BYTES / (int64_t)sizeof(REAL))

typedef REAL ssmc_vector __attribute__((vector_size(SSMC_VECTOR_BYTES), may_alias));

typedef REAL ssmc_vector_anywhere __attribute__((vector_size(SSMC_VECTOR_BYTES), may_alias, aligned(sizeof(REAL))));

#define SSMC_VECTOR(row) (*(ssmc_vector *)&(row)[o])

typedef int32_t ssmc_vector_bits __attribute__((vector_size(SSMC_VECTOR_BYTES)));

typedef uint32_t ssmc_vector_word __attribute__((vector_size(SSMC_VECTOR_BYTES)));

typedef uint16_t ssmc_vector_half __attribute__((vector_size(SSMC_VECTOR_BYTES / 2), may_alias, aligned(2)));

/* a number in all lanes */
SSMC_INLINE ssmc_vector ssmc_spread_vector(REAL x) {
    return x - (ssmc_vector){0};
}

/* Memory: `w` lanes, one every `stride` numbers. The other lanes are 0, and left alone in memory. */

#if defined(SSMC_AVX512)
/* the first w lanes */
SSMC_INLINE __mmask16 ssmc_first_lanes(int64_t w) {
    return (__mmask16)(w >= 16 ? 0xffff : w <= 0 ? 0 : (1 << w) - 1);
}
/* for each lane, `first` and its number times `stride` */
SSMC_INLINE __m512i ssmc_places(int32_t first, int32_t stride) {
    const ssmc_vector_bits lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (__m512i)(lanes * stride + first);
}
#define SSMC_NEAR(stride) ((stride) < (1 << 26) && (stride) > -(1 << 26))
#endif

SSMC_INLINE ssmc_vector ssmc_load_f32_vector(const float *from, int64_t stride, int64_t w) {
    ssmc_vector x = {0};
    if (stride == 1 && w >= SSMC_VECTOR_LANES) return *(const ssmc_vector_anywhere *)from;
#if defined(SSMC_AVX512)
    if (stride == 1) return (ssmc_vector)_mm512_maskz_loadu_ps(ssmc_first_lanes(w), from);
    if (SSMC_NEAR(stride)) {
        __m512i offsets = ssmc_places(0, (int32_t)stride);
        return (ssmc_vector)_mm512_mask_i32gather_ps((__m512)x, ssmc_first_lanes(w), offsets, from, 4);
    }
#endif
    for (int64_t j = 0; j < SSMC_VECTOR_LANES && j < w; ++j) x[j] = from[j * stride];
    return x;
}

SSMC_INLINE void ssmc_store_f32_vector(float *to, int64_t stride, int64_t w, ssmc_vector x) {
    if (stride == 1 && w >= SSMC_VECTOR_LANES) {
        *(ssmc_vector_anywhere *)to = x;
        return;
    }
#if defined(SSMC_AVX512)
    if (stride == 1) {
        _mm512_mask_storeu_ps(to, ssmc_first_lanes(w), (__m512)x);
        return;
    }
    if (SSMC_NEAR(stride)) {
        _mm512_mask_i32scatter_ps(to, ssmc_first_lanes(w), ssmc_places(0, (int32_t)stride), (__m512)x, 4);
        return;
    }
#endif
    for (int64_t j = 0; j < SSMC_VECTOR_LANES && j < w; ++j) to[j * stride] = x[j];
}

/* sixteen-bit numbers as they lie in memory */
SSMC_INLINE ssmc_vector_half ssmc_load_half(const uint16_t *from, int64_t stride, int64_t w) {
    ssmc_vector_half x = {0};
    if (stride == 1 && w >= SSMC_VECTOR_LANES) return *(const ssmc_vector_half *)from;
#if defined(SSMC_AVX512)
    if (stride == 1) return (ssmc_vector_half)_mm256_maskz_loadu_epi16(ssmc_first_lanes(w), from);
#endif
    for (int64_t j = 0; j < SSMC_VECTOR_LANES && j < w; ++j) x[j] = from[j * stride];
    return x;
}

SSMC_INLINE void ssmc_store_half(uint16_t *to, int64_t stride, int64_t w, ssmc_vector_half x) {
    if (stride == 1 && w >= SSMC_VECTOR_LANES) {
        *(ssmc_vector_half *)to = x;
        return;
    }
#if defined(SSMC_AVX512)
    if (stride == 1) {
        _mm256_mask_storeu_epi16(to, ssmc_first_lanes(w), (__m256i)x);
        return;
    }
#endif
    for (int64_t j = 0; j < SSMC_VECTOR_LANES && j < w; ++j) to[j * stride] = x[j];
}

/* Rows that nobody reads soon go past the caches: to write to a cache, its line is read first. They start at a whole
   line. */

SSMC_INLINE void ssmc_stream_f32_vector(float *to, ssmc_vector x) {
#if defined(SSMC_AVX512)
    _mm512_stream_ps(to, (__m512)x);
#elif defined(__AVX__)
    _mm256_stream_ps(to, (__m256)x);
#else
    *(ssmc_vector *)to = x;
#endif
}

SSMC_INLINE void ssmc_stream_half(uint16_t *to, ssmc_vector_half x) {
#if defined(SSMC_AVX512)
    _mm256_stream_si256((__m256i *)to, (__m256i)x);
#elif defined(__AVX__)
    _mm_stream_si128((__m128i *)to, (__m128i)x);
#else
    *(ssmc_vector_half *)to = x;
#endif
}

/* before anybody else reads what was written so */
SSMC_INLINE void ssmc_stream_end(void) {
#if defined(SSMC_AVX512) || defined(__AVX__)
    _mm_sfence();
#endif
}

/* brain floats are the upper halves of floats */
SSMC_INLINE ssmc_vector ssmc_load_bf16_vector(const uint16_t *from, int64_t stride, int64_t w) {
    ssmc_vector_half x = ssmc_load_half(from, stride, w);
#if defined(SSMC_AVX512)
    const __m512i halves = ssmc_places(0, 0x10000);
    return (ssmc_vector)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, halves, _mm512_castsi256_si512((__m256i)x));
#else
    return (ssmc_vector)(__builtin_convertvector(x, ssmc_vector_word) << 16);
#endif
}

SSMC_INLINE ssmc_vector_half ssmc_bf16_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    const __m512i one = _mm512_set1_epi32(1), bit = _mm512_set1_epi32(0x10000), nans = _mm512_set1_epi32(0x22);
    __m512i rounded = _mm512_add_epi32((__m512i)x, _mm512_set1_epi32(0x7fff));
    rounded = _mm512_mask_add_epi32(rounded, _mm512_test_epi32_mask((__m512i)x, bit), rounded, one);
    rounded = (__m512i)_mm512_fixupimm_ps((__m512)rounded, (__m512)x, nans, 0);
    const __m512i halves = ssmc_places(0x30001, 0x40004);
    return (ssmc_vector_half)_mm512_castsi512_si256(_mm512_permutexvar_epi16(halves, rounded));
#else
    ssmc_vector_word bits = (ssmc_vector_word)x, nan = (ssmc_vector_word)(x != x);
    ssmc_vector_word rounded = bits + (bits >> 16 & 1u) + 0x7fffu;
    rounded = (rounded & ~nan) | ((bits | 0x400000u) & nan);
    return __builtin_convertvector(rounded >> 16, ssmc_vector_half);
#endif
}

SSMC_INLINE void ssmc_store_bf16_vector(uint16_t *to, int64_t stride, int64_t w, ssmc_vector x) {
    ssmc_store_half(to, stride, w, ssmc_bf16_vector(x));
}

SSMC_INLINE void ssmc_stream_bf16_vector(uint16_t *to, ssmc_vector x) {
    ssmc_stream_half(to, ssmc_bf16_vector(x));
}

SSMC_INLINE ssmc_vector ssmc_load_f16_vector(const uint16_t *from, int64_t stride, int64_t w) {
    ssmc_vector_half x = ssmc_load_half(from, stride, w);
#if defined(SSMC_AVX512)
    return (ssmc_vector)_mm512_cvtph_ps((__m256i)x);
#elif defined(__AVX__) && defined(__F16C__)
    return (ssmc_vector)_mm256_cvtph_ps((__m128i)x);
#else
    ssmc_vector y;
    for (int64_t j = 0; j < SSMC_VECTOR_LANES; ++j) y[j] = ssmc_f16_to_f32(x[j]);
    return y;
#endif
}

SSMC_INLINE ssmc_vector_half ssmc_f16_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    return (ssmc_vector_half)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX__) && defined(__F16C__)
    return (ssmc_vector_half)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
    ssmc_vector_half y;
    for (int64_t j = 0; j < SSMC_VECTOR_LANES; ++j) y[j] = ssmc_f32_to_f16(x[j]);
    return y;
#endif
}

SSMC_INLINE void ssmc_store_f16_vector(uint16_t *to, int64_t stride, int64_t w, ssmc_vector x) {
    ssmc_store_half(to, stride, w, ssmc_f16_vector(x));
}

SSMC_INLINE void ssmc_stream_f16_vector(uint16_t *to, ssmc_vector x) {
    ssmc_stream_half(to, ssmc_f16_vector(x));
}

/* x in the first w lanes, else 0 */
SSMC_INLINE ssmc_vector ssmc_within_vector(ssmc_vector x, int64_t w) {
    if (w >= SSMC_VECTOR_LANES) return x;
    for (int64_t j = 0; j < SSMC_VECTOR_LANES; ++j) x[j] = j < w ? x[j] : 0;
    return x;
}

/* the sum of all lanes, halves first */
SSMC_INLINE REAL ssmc_total_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    return _mm512_reduce_add_ps((__m512)x);
#else
    for (int64_t n = SSMC_VECTOR_LANES / 2; n > 0; n /= 2)
        for (int64_t j = 0; j < n; ++j) x[j] += x[j + n];
    return x[0];
#endif
}

/* Signs, choices and roots. A condition has all bits of a lane set where it holds. */

SSMC_INLINE ssmc_vector ssmc_choose_vector(ssmc_vector_bits condition, ssmc_vector then, ssmc_vector otherwise) {
    return (ssmc_vector)((condition & (ssmc_vector_bits)then) | (~condition & (ssmc_vector_bits)otherwise));
}

SSMC_INLINE ssmc_vector ssmc_abs_vector(ssmc_vector x) {
    return (ssmc_vector)((ssmc_vector_word)x & 0x7fffffffu);
}

SSMC_INLINE ssmc_vector ssmc_with_sign_vector(ssmc_vector size, ssmc_vector sign) {
    return (ssmc_vector)(((ssmc_vector_word)size & 0x7fffffffu) | ((ssmc_vector_word)sign & 0x80000000u));
}

/* the instructions give b if either is NaN */
SSMC_INLINE ssmc_vector ssmc_minimum_vector(ssmc_vector a, ssmc_vector b) {
#if defined(SSMC_AVX512)
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q);
    return (ssmc_vector)_mm512_mask_mov_ps(_mm512_min_ps((__m512)a, (__m512)b), nan, (__m512)a);
#else
    return ssmc_choose_vector((a < b) | (a != a), a, b);
#endif
}

SSMC_INLINE ssmc_vector ssmc_maximum_vector(ssmc_vector a, ssmc_vector b) {
#if defined(SSMC_AVX512)
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q);
    return (ssmc_vector)_mm512_mask_mov_ps(_mm512_max_ps((__m512)a, (__m512)b), nan, (__m512)a);
#else
    return ssmc_choose_vector((a > b) | (a != a), a, b);
#endif
}

/* the larger of x and a number; NaN stays */
SSMC_INLINE ssmc_vector ssmc_at_least_vector(ssmc_vector x, float least) {
#if defined(SSMC_AVX512)
    return (ssmc_vector)_mm512_max_ps(_mm512_set1_ps(least), (__m512)x);
#elif defined(__AVX__)
    return (ssmc_vector)_mm256_max_ps(_mm256_set1_ps(least), (__m256)x);
#else
    return ssmc_choose_vector(x < least, ssmc_spread_vector(least), x);
#endif
}

/* the smaller of x and a number; NaN stays */
SSMC_INLINE ssmc_vector ssmc_at_most_vector(ssmc_vector x, float most) {
#if defined(SSMC_AVX512)
    return (ssmc_vector)_mm512_min_ps(_mm512_set1_ps(most), (__m512)x);
#elif defined(__AVX__)
    return (ssmc_vector)_mm256_min_ps(_mm256_set1_ps(most), (__m256)x);
#else
    return ssmc_choose_vector(x > most, ssmc_spread_vector(most), x);
#endif
}

SSMC_INLINE ssmc_vector ssmc_relu_vector(ssmc_vector x) {
    return ssmc_at_least_vector(x, 0.0f);
}

/* With AVX-512 an estimate of 1 / sqrt(x) and one step of Newton's, a third of the time of the exact instruction;
   zeros and infinity are their own roots. */
SSMC_INLINE ssmc_vector ssmc_sqrt_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    ssmc_vector inverse = (ssmc_vector)_mm512_rsqrt14_ps((__m512)x), half = 0.5f * inverse, root = x * inverse;
    root = (x - root * root) * half + root;
    __mmask16 itself = _mm512_fpclass_ps_mask((__m512)x, 0x0e);
    return (ssmc_vector)_mm512_mask_mov_ps((__m512)root, itself, (__m512)x);
#elif defined(__AVX__)
    return (ssmc_vector)_mm256_sqrt_ps((__m256)x);
#else
    for (int64_t j = 0; j < SSMC_VECTOR_LANES; ++j) x[j] = __builtin_sqrtf(x[j]);
    return x;
#endif
}

/* The estimate is exact where x is 0 or infinite; where it is not a number there is none. */
SSMC_INLINE ssmc_vector ssmc_rsqrt_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    ssmc_vector inverse = (ssmc_vector)_mm512_rsqrt14_ps((__m512)x), rest = 1.0f - x * inverse * inverse;
    __mmask16 itself = _mm512_fpclass_ps_mask((__m512)x, 0x0e);
    return (ssmc_vector)_mm512_mask_mov_ps((__m512)(rest * (0.5f * inverse) + inverse), itself, (__m512)inverse);
#else
    return 1.0f / ssmc_sqrt_vector(x);
#endif
}

/* as it is estimated; see ssmc_sigmoid_rough_vector */
SSMC_INLINE ssmc_vector ssmc_sqrt_rough_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    ssmc_vector root = x * (ssmc_vector)_mm512_rsqrt14_ps((__m512)x);
    __mmask16 itself = _mm512_fpclass_ps_mask((__m512)x, 0x0e);
    return (ssmc_vector)_mm512_mask_mov_ps((__m512)root, itself, (__m512)x);
#else
    return ssmc_sqrt_vector(x);
#endif
}

/* 1 / x for 1 <= x: an estimate and one step of Newton's, where there is an estimate */
SSMC_INLINE ssmc_vector ssmc_reciprocal_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    __m512 r = _mm512_rcp14_ps((__m512)x);
    __m512 rest = _mm512_fnmadd_ps((__m512)x, r, _mm512_set1_ps(2.0f));
    __mmask16 finite = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(__builtin_inff()), _CMP_NEQ_UQ);
    return (ssmc_vector)_mm512_maskz_mul_ps(finite, r, rest);
#else
    return 1.0f / x;
#endif
}

/* Exponentials, as in c_math.h; where one instruction multiplies by 2^n for every n, some are shorter. */

/* 2^x. With AVX-512, x is its floor and a rest from 0 to 1: the polynomial is exactly 1 and 2 at the ends, so
   that x next to 0 gives 1. Elsewhere it is twice 2^f for |f| <= 1/2. */
SSMC_INLINE ssmc_vector ssmc_exp2_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    ssmc_vector f = (ssmc_vector)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    ssmc_vector p = f * 0.000215657870f + 0.00124823267f;
    p = p * f + 0.00967377331f;
    p = p * f + 0.0554861836f;
    p = p * f + 0.240229085f;
    p = p * f + 0.693147063f;
    p = p * f + 1.0f;
    __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    return (ssmc_vector)_mm512_maskz_scalef_ps(normal, (__m512)p, (__m512)x);
#else
    x = ssmc_at_most_vector(ssmc_at_least_vector(x, -126.0f), 128.0f);
    ssmc_vector rounded = x + SSMC_ROUND;
    ssmc_vector f = x - (rounded - SSMC_ROUND);
    ssmc_vector p = f * 0.000306535623f + 0.00267820503f;
    p = p * f + 0.0192370117f;
    p = p * f + 0.111007191f;
    p = p * f + 0.480452955f;
    p = p * f + 1.38629436f;
    p = p * f + 2.0f;
    return p * (ssmc_vector)((ssmc_vector_word)rounded << 23);
#endif
}

/* x = n log(2) + f for -87.33 <= x <= 89: 2^(n-1), which is 0 at n = -126, and e^f - 1; what
   needs both e^x and e^x - 1 of one number shares them. */
struct ssmc_exp_parts {
    ssmc_vector scale, rest;
};

SSMC_INLINE ssmc_vector ssmc_expm1_rest_vector(ssmc_vector f) {
    ssmc_vector p = f * 0.0013868435f + 0.00836643204f;
    p = p * f + 0.0416674614f;
    p = p * f + 0.16666545f;
    p = p * f + 0.49999997f;
    return (p * f) * f + f;
}

/* x - n log(2), with log(2) in two parts where n times one of them would be rounded. Instructions by name: a
   compiler that does not optimise makes none that rounds once. */
SSMC_INLINE ssmc_vector ssmc_exp_rest_vector(ssmc_vector x, ssmc_vector n) {
#if defined(SSMC_AVX512)
    return (ssmc_vector)_mm512_fnmadd_ps((__m512)n, _mm512_set1_ps(SSMC_LN2), (__m512)x);
#elif defined(__AVX__) && defined(__FMA__)
    return (ssmc_vector)_mm256_fnmadd_ps((__m256)n, _mm256_set1_ps(SSMC_LN2), (__m256)x);
#else
    return n * -SSMC_LN2_LOW + (n * -SSMC_LN2_HIGH + x);
#endif
}

SSMC_INLINE struct ssmc_exp_parts ssmc_exp_parts_vector(ssmc_vector x) {
    struct ssmc_exp_parts parts;
    ssmc_vector rounded = x * SSMC_LOG2E + SSMC_ROUND;
    parts.scale = (ssmc_vector)((ssmc_vector_word)rounded << 23);
    parts.rest = ssmc_expm1_rest_vector(ssmc_exp_rest_vector(x, rounded - SSMC_ROUND));
    return parts;
}

SSMC_INLINE ssmc_vector ssmc_exp_clamp_vector(ssmc_vector x) {
    return ssmc_at_most_vector(ssmc_at_least_vector(x, -87.33f), 89.0f);
}

SSMC_INLINE ssmc_vector ssmc_exp_vector(ssmc_vector x) {
    struct ssmc_exp_parts parts = ssmc_exp_parts_vector(ssmc_exp_clamp_vector(x));
    ssmc_vector half = parts.scale * parts.rest + parts.scale;
    return half + half;
}

SSMC_INLINE ssmc_vector ssmc_expm1_vector(ssmc_vector x) {
    struct ssmc_exp_parts parts = ssmc_exp_parts_vector(ssmc_exp_clamp_vector(x));
    ssmc_vector half = parts.scale * parts.rest + (parts.scale - 0.5f);
    return half + half;
}

/* e^-x inside other functions: fewer operations where 2^n takes every n, and two units in the last place are
   good enough */
SSMC_INLINE ssmc_vector ssmc_exp_minus_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    x = ssmc_at_least_vector(x, -100.0f);
    ssmc_vector n = (SSMC_ROUND - x * SSMC_LOG2E) - SSMC_ROUND;
    ssmc_vector f = ssmc_exp_rest_vector(-x, n);
    ssmc_vector e = f * 0.008289715f + 0.04189784f;
    e = e * f + 0.16667648f;
    e = e * f + 0.4999915f;
    e = e * f + 0.9999997f;
    e = e * f + 1.0f;
    __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(87.33f), _CMP_NGT_UQ);
    return (ssmc_vector)_mm512_maskz_scalef_ps(normal, (__m512)e, (__m512)n);
#else
    return ssmc_exp_vector(-x);
#endif
}

/* Activations. */

SSMC_INLINE ssmc_vector ssmc_sigmoid_vector(ssmc_vector x) {
    return ssmc_reciprocal_vector(1.0f + ssmc_exp_minus_vector(x));
}

SSMC_INLINE ssmc_vector ssmc_silu_vector(ssmc_vector x) {
    return x * ssmc_sigmoid_vector(x);
}

/* The same for kernels whose sequences are stored in sixteen bits: 2^t by degree 4. The short forms are right to
   fourteen bits of their distance from 1 too, and never beyond it. In the rough ones 1 / x is as it is estimated. */

/* 1 + e^-x */
SSMC_INLINE ssmc_vector ssmc_sigmoid_below_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    ssmc_vector t = x * -SSMC_LOG2E;
    ssmc_vector f = (ssmc_vector)_mm512_reduce_ps((__m512)t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    ssmc_vector p = f * 0.01355565f + 0.05203257f;
    p = p * f + 0.24137963f;
    p = p * f + 0.69303215f;
    p = p * f + 1.0f;
    return 1.0f + (ssmc_vector)_mm512_scalef_ps((__m512)p, (__m512)t);
#else
    return 1.0f + ssmc_exp_minus_vector(x);
#endif
}

SSMC_INLINE ssmc_vector ssmc_sigmoid_short_vector(ssmc_vector x) {
    return ssmc_reciprocal_vector(ssmc_sigmoid_below_vector(x));
}

SSMC_INLINE ssmc_vector ssmc_silu_short_vector(ssmc_vector x) {
    return x * ssmc_sigmoid_short_vector(x);
}

SSMC_INLINE ssmc_vector ssmc_sigmoid_rough_vector(ssmc_vector x) {
#if defined(SSMC_AVX512)
    return (ssmc_vector)_mm512_rcp14_ps((__m512)ssmc_sigmoid_below_vector(x));
#else
    return ssmc_sigmoid_short_vector(x);
#endif
}

SSMC_INLINE ssmc_vector ssmc_silu_rough_vector(ssmc_vector x) {
    return x * ssmc_sigmoid_rough_vector(x);
}

/* The rest e^f - 1 is right to fourteen bits of itself, so that a decay next to 1 is closer by far. */
SSMC_INLINE struct ssmc_exp_parts ssmc_exp_parts_short_vector(ssmc_vector x) {
    struct ssmc_exp_parts parts;
    ssmc_vector rounded = x * SSMC_LOG2E + SSMC_ROUND;
    parts.scale = (ssmc_vector)((ssmc_vector_word)rounded << 23);
    ssmc_vector f = ssmc_exp_rest_vector(x, rounded - SSMC_ROUND);
    ssmc_vector p = f * 0.0416096900f + 0.167496160f;
    p = p * f + 0.500016540f;
    parts.rest = (p * f) * f + f;
    return parts;
}

SSMC_INLINE ssmc_vector ssmc_exp_short_vector(ssmc_vector x) {
    struct ssmc_exp_parts parts = ssmc_exp_parts_short_vector(ssmc_exp_clamp_vector(x));
    ssmc_vector half = parts.scale * parts.rest + parts.scale;
    return half + half;
}

SSMC_INLINE ssmc_vector ssmc_expm1_short_vector(ssmc_vector x) {
    struct ssmc_exp_parts parts = ssmc_exp_parts_short_vector(ssmc_exp_clamp_vector(x));
    ssmc_vector half = parts.scale * parts.rest + (parts.scale - 0.5f);
    return half + half;
}

/* log(1 + e^x) as max(x, 0) + log(1 + e) with e = e^-|x|, as in c_math.h */
SSMC_INLINE ssmc_vector ssmc_softplus_vector(ssmc_vector x) {
    ssmc_vector e = ssmc_exp_minus_vector(ssmc_abs_vector(x));
    ssmc_vector z = e * e;
    ssmc_vector odd = z * -0.00320985401f - 0.0566661134f;
    ssmc_vector even = z * 0.0196964275f + 0.105736651f;
    odd = odd * z - 0.152876958f;
    even = even * z + 0.19669652f;
    odd = odd * z - 0.249528885f;
    even = even * z + 0.333298385f;
    odd = odd * z - 0.499998987f;
    even = even * z + 1.0f;
    return (odd * e + even) * e + ssmc_at_least_vector(x, 0.0f);
}

/* With m = e^(2|x|) - 1 it is m / (m + 2); beyond 10 it is 1. */
SSMC_INLINE ssmc_vector ssmc_tanh_vector(ssmc_vector x) {
    ssmc_vector a = ssmc_at_most_vector(ssmc_abs_vector(x), 10.0f);
    struct ssmc_exp_parts parts = ssmc_exp_parts_vector(a + a);
    ssmc_vector half = parts.scale * parts.rest + (parts.scale - 0.5f);
    return ssmc_with_sign_vector(half * ssmc_reciprocal_vector(half + 1.0f), x);
}
