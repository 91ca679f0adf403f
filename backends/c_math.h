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

/* Hyperbolic functions, from half the exponential, which is finite where their result is. */

/* e^x / 2 for 0 <= x <= 89.5 */
SSMC_INLINE float ssmc_half_exp(float x) {
    float rounded = SSMC_FMA(x, SSMC_LOG2E, SSMC_ROUND);
    return ssmc_twice_exp(ssmc_exp_rest(x, rounded)) * ssmc_power_of_two(rounded - 1.0f);
}

SSMC_INLINE float ssmc_cosh_f32(float x) {
    float a = __builtin_fabsf(x);
    float half = ssmc_half_exp(a > 89.5f ? 89.5f : a);
    return half + 0.25f / half;
}

/* With m = e^|x| - 1 it is (m + m / (m + 1)) / 2 for small |x|, else half the exponential. */
SSMC_INLINE float ssmc_sinh_f32(float x) {
    float a = __builtin_fabsf(x);
    float half = ssmc_half_expm1(a > 20.0f ? 20.0f : a);
    float small = half + half / (half + half + 1.0f);
    float large = ssmc_half_exp(a > 89.5f ? 89.5f : a);
    return __builtin_copysignf(a > 20.0f ? large : small, x);
}

/* Angles. Any x is brought to |x| < 2^28 by the factor below, which changes x by a multiple of 2 pi: entry
   e is (2^e mod 2 pi) / 2^e, for a float that is an integer of 24 bits times 2^e. The rest of the reduction is
   in double precision too, so that it is exact enough for every float up to 2^24; above, its error is
   below 2^-26. */

static const double ssmc_unwinding[106] = {
    1.0, 1.0, -0x1.243f6a8885a31p-1, 0x1.b7812aeef4b9fp-3, -0x1.6cbe3f9990e92p-3, 0x1.2b0bad558f435p-6,
    0x1.2b0bad558f435p-6, 0x1.2b0bad558f435p-6, -0x1.9c501fbace38dp-8, 0x1.87ef4acdb76a3p-8, -0x1.460d4ed16ce9ep-13,
    -0x1.460d4ed16ce9ep-13, -0x1.460d4ed16ce9ep-13, -0x1.460d4ed16ce9ep-13, -0x1.460d4ed16ce9ep-13,
    0x1.304999cb579e8p-15, 0x1.304999cb579e8p-15, -0x1.87586de3accc3p-17, -0x1.87586de3accc3p-17,
    0x1.58e8ec12c0aa8p-22, 0x1.58e8ec12c0aa8p-22, 0x1.58e8ec12c0aa8p-22, 0x1.58e8ec12c0aa8p-22,
    0x1.58e8ec12c0aa8p-22, -0x1.c9b6498c1137fp-25, -0x1.c9b6498c1137fp-25, 0x1.5a8920fc746b2p-25,
    -0x1.bcb4a23e73336p-28, -0x1.bcb4a23e73336p-28, 0x1.678ac84a126fap-28, -0x1.54a767d1830eep-31,
    -0x1.54a767d1830eep-31, -0x1.54a767d1830eep-31, 0x1.ebc26b95fe14fp-34, 0x1.ebc26b95fe14fp-34,
    -0x1.387cfef2878e2p-34, 0x1.668ad946ed0dap-36, 0x1.668ad946ed0dap-36, -0x1.5ca6dfeaae1f6p-39,
    -0x1.5ca6dfeaae1f6p-39, -0x1.5ca6dfeaae1f6p-39, 0x1.abc6aacca5912p-42, 0x1.abc6aacca5912p-42,
    -0x1.7878bfbbe011fp-42, 0x1.9a6f58862bf99p-46, 0x1.9a6f58862bf99p-46, 0x1.9a6f58862bf99p-46,
    -0x1.89d0120259a97p-46, 0x1.09f4683d25023p-51, 0x1.09f4683d25023p-51, 0x1.09f4683d25023p-51,
    0x1.09f4683d25023p-51, 0x1.09f4683d25023p-51, -0x1.10569a0e3b9eap-52, 0x1.0392366c0e65cp-53,
    -0x1.1d1afdb068d79p-54, 0x1.d412de4f67e7ep-56, -0x1.502c8c391dbb2p-56, 0x1.07cca42c94599p-58,
    0x1.07cca42c94599p-58, -0x1.14a6222f5ceffp-59, 0x1.f5e64c5397865p-61, -0x1.2e591e34ee1cbp-61,
    0x1.8f1a5c3d52d34p-63, 0x1.8f1a5c3d52d34p-63, -0x1.82ac8377ff216p-70, -0x1.82ac8377ff216p-70,
    -0x1.82ac8377ff216p-70, -0x1.82ac8377ff216p-70, -0x1.82ac8377ff216p-70, -0x1.82ac8377ff216p-70,
    -0x1.82ac8377ff216p-70, 0x1.ee6639887604dp-75, 0x1.ee6639887604dp-75, 0x1.ee6639887604dp-75,
    0x1.ee6639887604dp-75, -0x1.35d931000f9e3p-75, 0x1.711a1110cccd4p-77, 0x1.711a1110cccd4p-77,
    -0x1.082d219bb0225p-80, -0x1.082d219bb0225p-80, -0x1.082d219bb0225p-80, 0x1.13e52751255e7p-81,
    -0x1.f8ea37cc75cc6p-83, 0x1.2b5532bc0fd6bp-83, -0x1.9b2a0a20cbeb6p-85, 0x1.89156067b9b7bp-85,
    -0x1.214a9b91233b2p-90, -0x1.214a9b91233b2p-90, -0x1.214a9b91233b2p-90, -0x1.214a9b91233b2p-90,
    -0x1.214a9b91233b2p-90, 0x1.c35466cc7e59ap-92, -0x1.60eb03bc07497p-92, 0x1.89a58c41dc40cp-95,
    0x1.89a58c41dc40cp-95, 0x1.89a58c41dc40cp-95, -0x1.0f45204cd2192p-100, -0x1.0f45204cd2192p-100,
    -0x1.0f45204cd2192p-100, -0x1.0f45204cd2192p-100, -0x1.0f45204cd2192p-100, 0x1.05b529eee170cp-101,
    -0x1.18d516aac2c18p-102, 0x1.e52a7a6600402p-104, 1.0
};

struct ssmc_angle {
    float rest; /* between -pi/4 and pi/4 */
    uint32_t quarter; /* quarter turns before it, modulo 4 in the lowest bits */
};

SSMC_INLINE struct ssmc_angle ssmc_reduce(float x) {
    int32_t exponent = (int32_t)(ssmc_bits(x) >> 23 & 0xffu) - 150;
    double y = (double)x * ssmc_unwinding[exponent < 0 ? 0 : exponent];
    double rounded = y * 0.63661977236758134308 + 6755399441055744.0; /* 1.5 * 2^52 */
    double n = rounded - 6755399441055744.0;
    uint64_t bits;
    __builtin_memcpy(&bits, &rounded, sizeof bits);
    struct ssmc_angle angle;
    angle.rest = (float)(y - n * 1.5707963109016418 - n * 1.5893254773528196e-8);
    angle.quarter = (uint32_t)bits;
    return angle;
}

SSMC_INLINE float ssmc_sin_near_zero(float x) {
    float z = x * x;
    float p = -0.000195179062f;
    p = SSMC_FMA(p, z, 0.00833218731f);
    p = SSMC_FMA(p, z, -0.166666552f);
    return SSMC_FMA(p * z, x, x);
}

SSMC_INLINE float ssmc_cos_near_zero(float x) {
    float z = x * x;
    float p = 2.44323273e-5f;
    p = SSMC_FMA(p, z, -0.00138873095f);
    p = SSMC_FMA(p, z, 0.0416666456f);
    return SSMC_FMA(p * z, z, SSMC_FMA(-0.5f, z, 1.0f));
}

SSMC_INLINE float ssmc_sin_f32(float x) {
    struct ssmc_angle a = ssmc_reduce(x);
    float y = a.quarter & 1u ? ssmc_cos_near_zero(a.rest) : ssmc_sin_near_zero(a.rest);
    return ssmc_float(ssmc_bits(y) ^ (a.quarter & 2u) << 30);
}

SSMC_INLINE float ssmc_cos_f32(float x) {
    struct ssmc_angle a = ssmc_reduce(x);
    float y = a.quarter & 1u ? ssmc_sin_near_zero(a.rest) : ssmc_cos_near_zero(a.rest);
    return ssmc_float(ssmc_bits(y) ^ ((a.quarter + 1u) & 2u) << 30);
}

SSMC_INLINE float ssmc_tan_f32(float x) {
    struct ssmc_angle a = ssmc_reduce(x);
    float s = ssmc_sin_near_zero(a.rest), c = ssmc_cos_near_zero(a.rest);
    return a.quarter & 1u ? -c / s : s / c;
}

/* arcsin of a, given z = a^2 <= 1/4 */
SSMC_INLINE float ssmc_arcsin_inside(float a, float z) {
    float p = 0.0421664044f;
    p = SSMC_FMA(p, z, 0.0241807755f);
    p = SSMC_FMA(p, z, 0.0454697721f);
    p = SSMC_FMA(p, z, 0.0749530643f);
    p = SSMC_FMA(p, z, 0.166667521f);
    return SSMC_FMA(p * z, a, a);
}

/* Beyond 1/2: arcsin(a) = pi/2 - 2 arcsin(sqrt((1 - a) / 2)) */
SSMC_INLINE float ssmc_arcsin_f32(float x) {
    float a = __builtin_fabsf(x);
    float z = a > 0.5f ? SSMC_FMA(-0.5f, a, 0.5f) : a * a;
    float y = ssmc_arcsin_inside(a > 0.5f ? __builtin_sqrtf(z) : a, z);
    return __builtin_copysignf(a > 0.5f ? SSMC_FMA(-2.0f, y, 1.57079633f) : y, x);
}

SSMC_INLINE float ssmc_arccos_f32(float x) {
    float a = __builtin_fabsf(x);
    float z = a > 0.5f ? SSMC_FMA(-0.5f, a, 0.5f) : a * a;
    float y = ssmc_arcsin_inside(a > 0.5f ? __builtin_sqrtf(z) : x, z);
    float beyond = x < 0.0f ? SSMC_FMA(-2.0f, y, 3.14159274f) : y + y;
    return a > 0.5f ? beyond : 1.57079633f - y;
}

/* arctan of 0 <= a <= 1 */
SSMC_INLINE float ssmc_arctan_inside(float a) {
    float z = a * a;
    float p = 0.00291975634f;
    p = SSMC_FMA(p, z, -0.0163642373f);
    p = SSMC_FMA(p, z, 0.0432059728f);
    p = SSMC_FMA(p, z, -0.0755172893f);
    p = SSMC_FMA(p, z, 0.106657863f);
    p = SSMC_FMA(p, z, -0.142110035f);
    p = SSMC_FMA(p, z, 0.199937671f);
    p = SSMC_FMA(p, z, -0.333331525f);
    return SSMC_FMA(p * z, a, a);
}

SSMC_INLINE float ssmc_arctan_f32(float x) {
    float a = __builtin_fabsf(x);
    float y = ssmc_arctan_inside((a > 1.0f ? 1.0f : a) / (a > 1.0f ? a : 1.0f));
    return __builtin_copysignf(a > 1.0f ? 1.57079633f - y : y, x);
}

/* The angle of the point (x, y). */
SSMC_INLINE float ssmc_arctan2_f32(float y, float x) {
    float a = __builtin_fabsf(x), b = __builtin_fabsf(y);
    float small = a < b ? a : b, large = a < b ? b : a;
    float ratio = small == large ? (large > 0.0f ? 1.0f : 0.0f) : small / large;
    float angle = ssmc_arctan_inside(ratio);
    angle = b > a ? 1.57079633f - angle : angle;
    angle = ssmc_bits(x) >> 31 ? 3.14159274f - angle : angle;
    return __builtin_copysignf(x != x || y != y ? x + y : angle, y);
}

/* Powers and roots. */

SSMC_INLINE float ssmc_pow_f32(float x, float y) {
    return powf(x, y);
}

SSMC_INLINE float ssmc_sqrt_f32(float x) {
    return __builtin_sqrtf(x);
}

SSMC_INLINE float ssmc_rsqrt_f32(float x) {
    return 1.0f / __builtin_sqrtf(x);
}

/* |x + i y| without overflow on the way */
SSMC_INLINE float ssmc_hypot_f32(float x, float y) {
    float a = __builtin_fabsf(x), b = __builtin_fabsf(y);
    float root = (float)__builtin_sqrt((double)x * x + (double)y * y);
    return a == __builtin_inff() || b == __builtin_inff() ? __builtin_inff() : root;
}

/* Signs and roundings. */

SSMC_INLINE float ssmc_abs_f32(float x) {
    return __builtin_fabsf(x);
}

SSMC_INLINE float ssmc_sign_f32(float x) {
    float negative = x < 0.0f ? -1.0f : x;
    return x > 0.0f ? 1.0f : negative;
}

SSMC_INLINE float ssmc_minimum_f32(float a, float b) {
    return a < b || a != a ? a : b;
}

SSMC_INLINE float ssmc_maximum_f32(float a, float b) {
    return a > b || a != a ? a : b;
}

SSMC_INLINE float ssmc_floor_f32(float x) {
    return __builtin_floorf(x);
}

SSMC_INLINE float ssmc_ceil_f32(float x) {
    return __builtin_ceilf(x);
}

/* to the nearest integer, ties to even */
SSMC_INLINE float ssmc_round_f32(float x) {
    return __builtin_rintf(x);
}

/* towards 0, saturating; 0 for NaN */
SSMC_INLINE int64_t ssmc_int_f32(float x) {
    float inside = x >= -9223372036854775808.0f && x < 9223372036854775808.0f ? x : 0.0f;
    int64_t whole = (int64_t)inside;
    whole = x >= 9223372036854775808.0f ? INT64_MAX : whole;
    return x < -9223372036854775808.0f ? INT64_MIN : whole;
}

/* The same in double precision, which is for checking more than for speed: from the C library. */

SSMC_INLINE double ssmc_exp_f64(double x) {
    return exp(x);
}

SSMC_INLINE double ssmc_exp2_f64(double x) {
    return exp2(x);
}

SSMC_INLINE double ssmc_expm1_f64(double x) {
    return expm1(x);
}

SSMC_INLINE double ssmc_log_f64(double x) {
    return log(x);
}

SSMC_INLINE double ssmc_log2_f64(double x) {
    return log2(x);
}

SSMC_INLINE double ssmc_log1p_f64(double x) {
    return log1p(x);
}

SSMC_INLINE double ssmc_sigmoid_f64(double x) {
    double small = exp(-fabs(x));
    return (x < 0.0 ? small : 1.0) / (1.0 + small);
}

SSMC_INLINE double ssmc_silu_f64(double x) {
    return x * ssmc_sigmoid_f64(x);
}

SSMC_INLINE double ssmc_softplus_f64(double x) {
    return x > 20.0 ? x : log1p(exp(x));
}

SSMC_INLINE double ssmc_tanh_f64(double x) {
    return tanh(x);
}

SSMC_INLINE double ssmc_sinh_f64(double x) {
    return sinh(x);
}

SSMC_INLINE double ssmc_cosh_f64(double x) {
    return cosh(x);
}

SSMC_INLINE double ssmc_erf_f64(double x) {
    return erf(x);
}

SSMC_INLINE double ssmc_gelu_f64(double x) {
    return 0.5 * x * (1.0 + erf(0.70710678118654752440 * x));
}

SSMC_INLINE double ssmc_gelu_tanh_f64(double x) {
    return x * ssmc_sigmoid_f64(1.5957691216057307117 * (x + 0.044715 * x * x * x));
}

SSMC_INLINE double ssmc_relu_f64(double x) {
    return x < 0.0 ? 0.0 : x;
}

SSMC_INLINE double ssmc_sin_f64(double x) {
    return sin(x);
}

SSMC_INLINE double ssmc_cos_f64(double x) {
    return cos(x);
}

SSMC_INLINE double ssmc_tan_f64(double x) {
    return tan(x);
}

SSMC_INLINE double ssmc_arcsin_f64(double x) {
    return asin(x);
}

SSMC_INLINE double ssmc_arccos_f64(double x) {
    return acos(x);
}

SSMC_INLINE double ssmc_arctan_f64(double x) {
    return atan(x);
}

SSMC_INLINE double ssmc_arctan2_f64(double y, double x) {
    return atan2(y, x);
}

SSMC_INLINE double ssmc_pow_f64(double x, double y) {
    return pow(x, y);
}

SSMC_INLINE double ssmc_sqrt_f64(double x) {
    return __builtin_sqrt(x);
}

SSMC_INLINE double ssmc_rsqrt_f64(double x) {
    return 1.0 / __builtin_sqrt(x);
}

SSMC_INLINE double ssmc_hypot_f64(double x, double y) {
    return hypot(x, y);
}

SSMC_INLINE double ssmc_abs_f64(double x) {
    return __builtin_fabs(x);
}

SSMC_INLINE double ssmc_sign_f64(double x) {
    double negative = x < 0.0 ? -1.0 : x;
    return x > 0.0 ? 1.0 : negative;
}

SSMC_INLINE double ssmc_minimum_f64(double a, double b) {
    return a < b || a != a ? a : b;
}

SSMC_INLINE double ssmc_maximum_f64(double a, double b) {
    return a > b || a != a ? a : b;
}

SSMC_INLINE double ssmc_floor_f64(double x) {
    return __builtin_floor(x);
}

SSMC_INLINE double ssmc_ceil_f64(double x) {
    return __builtin_ceil(x);
}

SSMC_INLINE double ssmc_round_f64(double x) {
    return __builtin_rint(x);
}

SSMC_INLINE int64_t ssmc_int_f64(double x) {
    double inside = x >= -9223372036854775808.0 && x < 9223372036854775808.0 ? x : 0.0;
    int64_t whole = (int64_t)inside;
    whole = x >= 9223372036854775808.0 ? INT64_MAX : whole;
    return x < -9223372036854775808.0 ? INT64_MIN : whole;
}

/* 64-bit integers, which wrap. Division is towards minus infinity, and by 0 gives 0. */

SSMC_INLINE int64_t ssmc_floordiv_i64(int64_t a, int64_t b) {
    if (b == 0) return 0;
    if (b == -1) return (int64_t)(0u - (uint64_t)a);
    return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

SSMC_INLINE int64_t ssmc_mod_i64(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return 0;
    int64_t rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

/* truncated when b < 0 */
SSMC_INLINE int64_t ssmc_pow_i64(int64_t a, int64_t b) {
    if (b < 0) return a == 1 ? 1 : a == -1 ? (b & 1 ? -1 : 1) : 0;
    uint64_t result = 1, square = (uint64_t)a;
    for (; b > 0; b >>= 1) {
        result *= b & 1 ? square : 1;
        square *= square;
    }
    return (int64_t)result;
}

SSMC_INLINE int64_t ssmc_shift_left_i64(int64_t a, int64_t b) {
    uint64_t shifted = (uint64_t)a << (b < 0 ? 0 : b & 63);
    return b > 63 ? 0 : (int64_t)shifted;
}

SSMC_INLINE int64_t ssmc_shift_right_i64(int64_t a, int64_t b) {
    return a >> (b < 0 ? 0 : b > 63 ? 63 : b);
}

SSMC_INLINE int64_t ssmc_abs_i64(int64_t a) {
    return a < 0 ? (int64_t)(0u - (uint64_t)a) : a;
}

SSMC_INLINE int64_t ssmc_sign_i64(int64_t a) {
    return (a > 0) - (a < 0);
}

SSMC_INLINE int64_t ssmc_relu_i64(int64_t a) {
    return a < 0 ? 0 : a;
}

SSMC_INLINE int64_t ssmc_minimum_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

SSMC_INLINE int64_t ssmc_maximum_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* A real number to an integer power, by squaring. */

SSMC_INLINE float ssmc_powi_f32(float x, int64_t n) {
    uint64_t left = n < 0 ? 0u - (uint64_t)n : (uint64_t)n;
    float result = 1.0f;
    for (; left > 0; left >>= 1) {
        result *= left & 1 ? x : 1.0f;
        x *= x;
    }
    return n < 0 ? 1.0f / result : result;
}

SSMC_INLINE double ssmc_powi_f64(double x, int64_t n) {
    uint64_t left = n < 0 ? 0u - (uint64_t)n : (uint64_t)n;
    double result = 1.0;
    for (; left > 0; left >>= 1) {
        result *= left & 1 ? x : 1.0;
        x *= x;
    }
    return n < 0 ? 1.0 / result : result;
}

/* Storage of 16 bits; rounded to nearest, ties to even; NaN stays NaN. */

SSMC_INLINE float ssmc_bf16_to_f32(uint16_t x) {
    return ssmc_float((uint32_t)x << 16);
}

SSMC_INLINE uint16_t ssmc_f32_to_bf16(float x) {
    uint32_t bits = ssmc_bits(x);
    uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return (uint16_t)((x != x ? bits | 0x400000u : rounded) >> 16);
}

/* Where the compiler turns vectors of these conversions into instructions, it may. */
#if defined(__AVX512FP16__) || defined(__ARM_FP16_FORMAT_IEEE) || defined(__F16C__) && defined(__clang__)
#define SSMC_HAS_FLOAT16 1
#else
#define SSMC_HAS_FLOAT16 0
#endif

/* By integers: the exponent is moved, infinities and NaN are moved twice, subnormals are normalised by
   subtracting what was added. */
SSMC_INLINE float ssmc_f16_to_f32(uint16_t x) {
#if SSMC_HAS_FLOAT16
    _Float16 half;
    __builtin_memcpy(&half, &x, sizeof half);
    return (float)half;
#else
    uint32_t moved = ((uint32_t)x & 0x7fffu) << 13, exponent = moved & 0x0f800000u;
    float normal = ssmc_float(moved + (exponent == 0x0f800000u ? 0x70000000u : 0x38000000u));
    float subnormal = ssmc_float(moved + 0x38800000u) - 6.10351562e-5f;
    uint32_t magnitude = ssmc_bits(exponent == 0u ? subnormal : normal);
    return ssmc_float(magnitude | ((uint32_t)x & 0x8000u) << 16);
#endif
}

SSMC_INLINE uint16_t ssmc_f32_to_f16(float x) {
#if SSMC_HAS_FLOAT16
    _Float16 half = (_Float16)x;
    uint16_t bits;
    __builtin_memcpy(&bits, &half, sizeof bits);
    return bits;
#else
    uint32_t magnitude = ssmc_bits(x) & 0x7fffffffu, sign = ssmc_bits(x) >> 16 & 0x8000u;
    uint32_t subnormal = ssmc_bits(ssmc_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude + 0xc8000fffu + (magnitude >> 13 & 1u)) >> 13;
    uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return (uint16_t)(sign | (magnitude >= 0x477ff000u ? large : finite));
#endif
}
