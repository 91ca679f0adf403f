/* Vectors of W floats for the ceilings: AVX-512, AVX2 with FMA, or whatever GCC makes of four lanes.
   Arithmetic is written with the compiler's vector operators; only what they cannot say is spelled per
   instruction set: fused multiply-add, min, max, 1/x, square root, table look-up, streaming stores. */
#ifndef CEILINGS_VEC_H
#define CEILINGS_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX2__) && defined(__FMA__)
#define W 8
#else
#define W 4
#endif
#if W > 4
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__
#define EXPORT __attribute__((visibility("default")))

typedef float vf __attribute__((vector_size(4 * W)));
typedef float vf_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W)));

INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf x) { *(vf_any *)p = x; }
INLINE vf splat(float x) { return (vf){0} + x; }

#if W == 16

INLINE vf madd(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf msub(vf a, vf b, vf c) { return (vf)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf nmadd(vf a, vf b, vf c) { return (vf)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf vsqrt(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
INLINE vf rcp_estimate(vf a) { return (vf)_mm512_rcp14_ps((__m512)a); }
INLINE int any_above(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ) != 0; }
INLINE void stream(float *p, vf x) { _mm512_stream_ps(p, (__m512)x); }

#elif W == 8

INLINE vf madd(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf msub(vf a, vf b, vf c) { return (vf)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf nmadd(vf a, vf b, vf c) { return (vf)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf vsqrt(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
INLINE vf rcp_estimate(vf a) { return (vf)_mm256_rcp_ps((__m256)a); }
INLINE int any_above(vf a, vf b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ)) != 0;
}
INLINE void stream(float *p, vf x) { _mm256_stream_ps(p, (__m256)x); }

#else

INLINE vf madd(vf a, vf b, vf c) { return a * b + c; }
INLINE vf msub(vf a, vf b, vf c) { return a * b - c; }
INLINE vf nmadd(vf a, vf b, vf c) { return c - a * b; }
INLINE vf choose(vi m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
INLINE vf vmax(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf vmin(vf a, vf b) { return choose(a < b, a, b); }
INLINE vf vsqrt(vf a)
{
    for (int i = 0; i < W; i++) a[i] = __builtin_sqrtf(a[i]);
    return a;
}
INLINE vf rcp_estimate(vf a) { return 1.0f / a; }
INLINE int any_above(vf a, vf b)
{
    vi m = ~(vi)(a <= b);
    return (m[0] | m[1] | m[2] | m[3]) != 0;
}
INLINE void stream(float *p, vf x) { store(p, x); }

#endif

/* Streaming stores are weakly ordered; what other threads read must be behind a fence. */
INLINE void stream_end(void)
{
#if W > 4
    _mm_sfence();
#endif
}

/* Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
#define ROUND_TO_INT 12582912.0f

/* 2^f for |f| <= 1/2, relative error below 7e-8: minimax, degree 6. */
INLINE vf exp2_fraction(vf f)
{
    vf p = madd(splat(1.535336188319500e-4f), f, splat(1.339887440266574e-3f));
    p = madd(p, f, splat(9.618437357674640e-3f));
    p = madd(p, f, splat(5.550332471162809e-2f));
    p = madd(p, f, splat(2.402264791363012e-1f));
    p = madd(p, f, splat(6.931472028550421e-1f));
    return madd(p, f, splat(1.0f));
}

/* 2^x for -126 <= x <= 126, which the caller sees to. */
INLINE vf exp2_in_range(vf x)
{
    vf r = x + ROUND_TO_INT;
    return (vf)((vi)exp2_fraction(x - (r - ROUND_TO_INT)) + ((vi)r << 23));
}

INLINE vf exp2_any(vf x) { return exp2_in_range(vmin(vmax(x, splat(-126.0f)), splat(126.0f))); }

/* 1/x to about one unit in the last place: an estimate and one Newton step. */
INLINE vf rcp(vf x)
{
    vf r = rcp_estimate(x);
    return r * nmadd(x, r, splat(2.0f));
}

/* 1 / (1 + e^-x) */
INLINE vf sigmoid(vf x) { return rcp(exp2_any(x * -1.44269504f) + 1.0f); }

#endif
