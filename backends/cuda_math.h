/* The mathematics that emitted CUDA C brings along, where it is not that of c_math.h and c_exact.h. The layout
   matters: see definitions.py. Single precision is CUDA's own where nothing is said: its functions are at most 2 units
   in the last place off (erf, log1p, tanh, expm1: 2; exp: 2; log: 1), see the CUDA Math API. */

SSMC_INLINE float ssmc_exp_f32(float x) {
    return expf(x);
}

SSMC_INLINE float ssmc_exp2_f32(float x) {
    return ssmc_power_of_two_quickly(x);
}

SSMC_INLINE float ssmc_expm1_f32(float x) {
    return expm1f(x);
}

SSMC_INLINE float ssmc_log_f32(float x) {
    return logf(x);
}

SSMC_INLINE float ssmc_log2_f32(float x) {
    return log2f(x);
}

SSMC_INLINE float ssmc_log1p_f32(float x) {
    return log1pf(x);
}

/* Where e^-x is infinite its reciprocal is 0. */
SSMC_INLINE float ssmc_sigmoid_f32(float x) {
    return ssmc_reciprocal_quickly(1.0f + expf(-x));
}

/* x sigmoid(x), which is 0 where the second factor is 0, infinities included */
SSMC_INLINE float ssmc_silu_f32(float x) {
    return x / (1.0f + expf(-x));
}

SSMC_INLINE float ssmc_softplus_f32(float x) {
    float above = x < 0.0f ? 0.0f : x;
    return above + log1pf(expf(-fabsf(x)));
}

SSMC_INLINE float ssmc_tanh_f32(float x) {
    return tanhf(x);
}

SSMC_INLINE float ssmc_sinh_f32(float x) {
    return sinhf(x);
}

SSMC_INLINE float ssmc_cosh_f32(float x) {
    return coshf(x);
}

SSMC_INLINE float ssmc_erf_f32(float x) {
    return erff(x);
}

SSMC_INLINE float ssmc_arcsin_f32(float x) {
    return asinf(x);
}

SSMC_INLINE float ssmc_arccos_f32(float x) {
    return acosf(x);
}

SSMC_INLINE float ssmc_arctan_f32(float x) {
    return atanf(x);
}

SSMC_INLINE float ssmc_arctan2_f32(float y, float x) {
    return atan2f(y, x);
}

SSMC_INLINE float ssmc_rsqrt_f32(float x) {
    return 1.0f / sqrtf(x);
}

/* The sum over the lanes of a warp, in each of them: pairs, then pairs of pairs, always in the same order. */

SSMC_INLINE float ssmc_warp_sum_f32(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x += ssmc_exchanged_f32(x, bits);
    return x;
}

SSMC_INLINE double ssmc_warp_sum_f64(double x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x += ssmc_exchanged_f64(x, bits);
    return x;
}

SSMC_INLINE int64_t ssmc_warp_sum_i64(int64_t x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x += ssmc_exchanged_i64(x, bits);
    return x;
}
