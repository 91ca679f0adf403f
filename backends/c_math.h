/* The mathematics that emitted C brings along. c_math.py copies from here the definitions that a kernel
   uses, so the layout matters: definitions stand between blank lines, each with the comment above it, and
   none of them has a blank line inside. Larger definitions come after those they use.

   Everything is branch-free, so that gcc and clang vectorise loops around it without -ffast-math. NaN
   gives NaN, infinities give the limit, a result too large gives infinity, a result below the normal
   numbers may be 0. The largest errors that were measured stand in c_math.py. Polynomials are minimax
   fits (relative error of the function, coefficients rounded to single precision one after another). */

#define SSMC_INLINE static inline __attribute__((always_inline))

/* a * b + c with one rounding where that is one instruction; nothing here relies on it for accuracy. */
#if defined(__FMA__) || defined(__aarch64__)
#define SSMC_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define SSMC_FMA(a, b, c) ((a) * (b) + (c))
#endif

SSMC_INLINE uint32_t ssmc_bits(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

SSMC_INLINE float ssmc_float(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

/* Exponentials. Adding SSMC_ROUND rounds to an integer n and leaves n + 126 in the lowest bits of the sum,
   which, shifted into the exponent, are 2^(n-1); a polynomial that is twice the exponential makes up for
   the half, and 2^128 is never formed. n = -126 gives 0. */

#define SSMC_ROUND 12583038.0f /* 1.5 * 2^23 + 126 */

#define SSMC_LOG2E 1.44269504f

/* log(2) in two parts; the first has 16 bits, so that its product with n is exact. */
#define SSMC_LN2_HIGH 0.693145752f
#define SSMC_LN2_LOW 1.42860677e-6f

/* 2^(n-1) from n + SSMC_ROUND, for -126 <= n <= 129 */
SSMC_INLINE float ssmc_power_of_two(float rounded) {
    return ssmc_float(ssmc_bits(rounded) << 23);
}

/* 2 e^f for |f| <= log(2) / 2 */
SSMC_INLINE float ssmc_twice_exp(float f) {
    float p = 0.00276378775f;
    p = SSMC_FMA(p, f, 0.0167374071f);
    p = SSMC_FMA(p, f, 0.0833365768f);
    p = SSMC_FMA(p, f, 0.333330423f);
    p = SSMC_FMA(p, f, 0.999999881f);
    p = SSMC_FMA(p, f, 2.0f);
    return SSMC_FMA(p, f, 2.0f);
}

/* x - n log(2), given n + SSMC_ROUND */
SSMC_INLINE float ssmc_exp_rest(float x, float rounded) {
    float n = rounded - SSMC_ROUND;
    float f = SSMC_FMA(n, -SSMC_LN2_HIGH, x);
    return SSMC_FMA(n, -SSMC_LN2_LOW, f);
}

/* e^x for -87.34 <= x <= 89.4 */
SSMC_INLINE float ssmc_exp_inside(float x) {
    float rounded = SSMC_FMA(x, SSMC_LOG2E, SSMC_ROUND);
    return ssmc_twice_exp(ssmc_exp_rest(x, rounded)) * ssmc_power_of_two(rounded);
}

SSMC_INLINE float ssmc_exp_f32(float x) {
    float least = x < -87.34f ? -87.34f : x;
    return ssmc_exp_inside(least > 89.4f ? 89.4f : least);
}

SSMC_INLINE float ssmc_exp2_f32(float x) {
    float least = x < -126.0f ? -126.0f : x;
    float t = least > 129.0f ? 129.0f : least;
    float rounded = t + SSMC_ROUND;
    float f = t - (rounded - SSMC_ROUND);
    float p = 0.000306535623f;
    p = SSMC_FMA(p, f, 0.00267820503f);
    p = SSMC_FMA(p, f, 0.0192370117f);
    p = SSMC_FMA(p, f, 0.111007191f);
    p = SSMC_FMA(p, f, 0.480452955f);
    p = SSMC_FMA(p, f, 1.38629436f);
    p = SSMC_FMA(p, f, 2.0f);
    return p * ssmc_power_of_two(rounded);
}

/* (e^x - 1) / 2 for -87.34 <= x <= 89.4: with e^f = 1 + q it is 2^(n-1) q + (2^(n-1) - 1/2) */
SSMC_INLINE float ssmc_half_expm1(float x) {
    float rounded = SSMC_FMA(x, SSMC_LOG2E, SSMC_ROUND);
    float scale = ssmc_power_of_two(rounded);
    float f = ssmc_exp_rest(x, rounded);
    float p = 0.0013868435f;
    p = SSMC_FMA(p, f, 0.00836643204f);
    p = SSMC_FMA(p, f, 0.0416674614f);
    p = SSMC_FMA(p, f, 0.16666545f);
    p = SSMC_FMA(p, f, 0.49999997f);
    float q = SSMC_FMA(p * f, f, f);
    return SSMC_FMA(scale, q, scale - 0.5f);
}

SSMC_INLINE float ssmc_expm1_f32(float x) {
    float least = x < -87.34f ? -87.34f : x;
    float half = ssmc_half_expm1(least > 89.4f ? 89.4f : least);
    return half + half;
}

/* Logarithms. x = 2^e (1 + f) with 2/3 <= 1 + f < 4/3. */

#define SSMC_TWO_THIRDS 0x3f2aaaabu /* the bits of 2/3 */

/* log(1 + f) for |f| <= 1/3 */
SSMC_INLINE float ssmc_log_near_one(float f) {
    float p = 0.140203938f;
    p = SSMC_FMA(p, f, -0.153835982f);
    p = SSMC_FMA(p, f, 0.139971688f);
    p = SSMC_FMA(p, f, -0.164170295f);
    p = SSMC_FMA(p, f, 0.200110719f);
    p = SSMC_FMA(p, f, -0.250077486f);
    p = SSMC_FMA(p, f, 0.333332002f);
    p = SSMC_FMA(p, f, -0.499999374f);
    return SSMC_FMA(p * f, f, f);
}

/* What every logarithm gives at and below 0 and at infinity and NaN, and `inside` elsewhere. */
SSMC_INLINE float ssmc_log_edges(float x, float inside) {
    float below = x < 0.0f ? __builtin_nanf("") : -__builtin_inff();
    float finite = x < __builtin_inff() ? inside : x;
    return x <= 0.0f ? below : finite;
}

SSMC_INLINE float ssmc_log_f32(float x) {
    float subnormal = x < 1.17549435e-38f ? 1.0f : 0.0f;
    uint32_t bits = ssmc_bits(x < 1.17549435e-38f ? x * 33554432.0f : x) - SSMC_TWO_THIRDS;
    float e = (float)((int32_t)bits >> 23) - 25.0f * subnormal;
    float f = ssmc_float((bits & 0x7fffffu) + SSMC_TWO_THIRDS) - 1.0f;
    float y = SSMC_FMA(e, SSMC_LN2_LOW, ssmc_log_near_one(f));
    return ssmc_log_edges(x, SSMC_FMA(e, SSMC_LN2_HIGH, y));
}

SSMC_INLINE float ssmc_log2_f32(float x) {
    float subnormal = x < 1.17549435e-38f ? 1.0f : 0.0f;
    uint32_t bits = ssmc_bits(x < 1.17549435e-38f ? x * 33554432.0f : x) - SSMC_TWO_THIRDS;
    float e = (float)((int32_t)bits >> 23) - 25.0f * subnormal;
    float f = ssmc_float((bits & 0x7fffffu) + SSMC_TWO_THIRDS) - 1.0f;
    return ssmc_log_edges(x, SSMC_FMA(ssmc_log_near_one(f), SSMC_LOG2E, e));
}

/* log(1 + x) for finite x > -1: f = 2^-e x + (2^-e - 1), formed from a quarter of x so that 2^-e is normal */
SSMC_INLINE float ssmc_log1p_inside(float x) {
    uint32_t bits = ssmc_bits(1.0f + x) - SSMC_TWO_THIRDS;
    float e = (float)((int32_t)bits >> 23);
    float four = ssmc_float(0x40800000u - (bits & 0xff800000u));
    float f = SSMC_FMA(0.25f * x, four, SSMC_FMA(0.25f, four, -1.0f));
    float y = SSMC_FMA(e, SSMC_LN2_LOW, ssmc_log_near_one(f));
    return SSMC_FMA(e, SSMC_LN2_HIGH, y);
}

SSMC_INLINE float ssmc_log1p_f32(float x) {
    float finite = x < __builtin_inff() ? ssmc_log1p_inside(x) : x;
    float below = x < -1.0f ? __builtin_nanf("") : -__builtin_inff();
    return x <= -1.0f ? below : finite;
}

/* Activations. */

SSMC_INLINE float ssmc_sigmoid_f32(float x) {
    return 1.0f / (1.0f + ssmc_exp_f32(-x));
}

SSMC_INLINE float ssmc_silu_f32(float x) {
    return x / (1.0f + ssmc_exp_f32(-x));
}

/* log(1 + e^x), and x itself above 20 */
SSMC_INLINE float ssmc_softplus_f32(float x) {
    float least = x < -87.34f ? -87.34f : x;
    float y = ssmc_log1p_inside(ssmc_exp_inside(least > 20.0f ? 20.0f : least));
    return x > 20.0f ? x : y;
}

/* With m = e^(2|x|) - 1 it is m / (m + 2); beyond 10 it is 1. */
SSMC_INLINE float ssmc_tanh_f32(float x) {
    float a = __builtin_fabsf(x);
    float half = ssmc_half_expm1(a > 10.0f ? 20.0f : 2.0f * a);
    return __builtin_copysignf(half / (half + 1.0f), x);
}

/* x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) */
SSMC_INLINE float ssmc_gelu_tanh_f32(float x) {
    float u = x * SSMC_FMA(0.0713548163f * x, x, 1.59576912f);
    return x / (1.0f + ssmc_exp_f32(-u));
}

SSMC_INLINE float ssmc_relu_f32(float x) {
    return x < 0.0f ? 0.0f : x;
}

/* For |x| < 0.94 a polynomial, else 1 - e^-(polynomial). */
SSMC_INLINE float ssmc_erf_f32(float x) {
    float a = __builtin_fabsf(x);
    float z = x * x;
    float near = -0.000591566146f;
    near = SSMC_FMA(near, z, 0.00497877877f);
    near = SSMC_FMA(near, z, -0.026757244f);
    near = SSMC_FMA(near, z, 0.112815820f);
    near = SSMC_FMA(near, z, -0.376124769f);
    near = SSMC_FMA(near, z, 0.128379151f);
    float t = a > 3.95f ? 3.95f : a;
    float far = 0.00021365477f;
    far = SSMC_FMA(far, t, -0.00321221421f);
    far = SSMC_FMA(far, t, 0.0228811093f);
    far = SSMC_FMA(far, t, -0.105247930f);
    far = SSMC_FMA(far, t, -0.635728955f);
    far = SSMC_FMA(far, t, -1.12851119f);
    far = __builtin_copysignf(1.0f - ssmc_exp_inside(far * t), x);
    return a < 0.94f ? SSMC_FMA(near, x, x) : far;
}

SSMC_INLINE float ssmc_gelu_f32(float x) {
    return 0.5f * x * (1.0f + ssmc_erf_f32(0.707106781f * x));
}

/* Hyperbolic functions, from a quarter of the exponential, which is finite where their result is. */

/* e^x / 4 for -86 <= x <= 89.5 */
SSMC_INLINE float ssmc_quarter_exp(float x) {
    float rounded = SSMC_FMA(x, SSMC_LOG2E, SSMC_ROUND);
    float eighth = 0.25f * ssmc_twice_exp(ssmc_exp_rest(x, rounded));
    return eighth * ssmc_power_of_two(rounded - 1.0f) * 2.0f;
}

SSMC_INLINE float ssmc_cosh_f32(float x) {
    float a = __builtin_fabsf(x);
    float quarter = ssmc_quarter_exp(a > 89.5f ? 89.5f : a);
    return 2.0f * quarter + 0.125f / quarter;
}

/* With m = e^|x| - 1 it is (m + m / (m + 1)) / 2 for small |x|, else half the exponential. */
SSMC_INLINE float ssmc_sinh_f32(float x) {
    float a = __builtin_fabsf(x);
    float half = ssmc_half_expm1(a > 20.0f ? 20.0f : a);
    float small = half + half / (half + half + 1.0f);
    float large = 2.0f * ssmc_quarter_exp(a > 89.5f ? 89.5f : a);
    return __builtin_copysignf(a > 20.0f ? large : small, x);
}
