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

#if W > 4

/* 2^x by table: x = k/4 + f with |f| <= 1/8. The table holds 2^(k/4) less the fraction bits of k where the
   exponent goes, so that one shift and one addition give 2^(k/4) for every k; 2^f by degree 4. */
#define FRACTION_BITS 2
static const float POWERS[4] = {0x1p0f, 0x1.306fe0a31b715p0f, 0x1.6a09e667f3bcdp0f, 0x1.ae89f995ad3adp0f};

INLINE vf exp2_table(void)
{
    int32_t bits[W];
    for (int i = 0; i < W; i++) {
        memcpy(bits + i, POWERS + i % 4, 4);
        bits[i] -= i % 4 << (23 - FRACTION_BITS);
    }
    vf table;
    memcpy(&table, bits, sizeof table);
    return table;
}

INLINE vf look_up(vf table, vf index)
{
#if W == 16
    return (vf)_mm512_permutevar_ps((__m512)table, (__m512i)index);
#else
    return (vf)_mm256_permutevar_ps((__m256)table, (__m256i)index);
#endif
}

/* 2^(a b) for -126 <= a b <= 126, which the caller sees to. Relative error below 1.2e-7. */
INLINE vf exp2_product(vf a, vf b, vf table)
{
    const float magic = ROUND_TO_INT / (1 << FRACTION_BITS);
    vf r = madd(a, b, splat(magic)), f = msub(a, b, r - magic);
    vf p = madd(splat(9.618129107e-3f), f, splat(5.550410866e-2f));
    p = madd(p, f, splat(2.402265070e-1f));
    p = madd(p, f, splat(6.931471806e-1f));
    p = madd(p, f, splat(1.0f));
    return p * (vf)(((vi)r << (23 - FRACTION_BITS)) + (vi)look_up(table, r));
}

#else

INLINE vf exp2_table(void) { return splat(0.0f); }

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

INLINE vf exp2_product(vf a, vf b, vf table)
{
    (void)table;
    vf x = a * b, r = x + ROUND_TO_INT;
    return (vf)((vi)exp2_fraction(x - (r - ROUND_TO_INT)) + ((vi)r << 23));
}

#endif

INLINE vf clamp(vf x, float most) { return vmin(vmax(x, splat(-most)), splat(most)); }

/* 1/x to about one unit in the last place: an estimate and one Newton step. */
INLINE vf rcp(vf x)
{
    vf r = rcp_estimate(x);
    return r * nmadd(x, r, splat(2.0f));
}

/* 1 / (1 + e^-x) */
INLINE vf sigmoid(vf x, vf table) { return rcp(exp2_product(clamp(x, 87.0f), splat(-1.44269504f), table) + 1.0f); }

#endif
