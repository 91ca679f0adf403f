/* The mathematics that emitted C brings along. c_math.py copies from here the definitions that a kernel
   uses, so the layout matters: definitions stand between blank lines, each with the comment above it, and
   none of them has a blank line inside. Larger definitions come after those they use.

   All but pow and the integer functions is branch-free, so that gcc and clang vectorise loops around it without
   -ffast-math. NaN gives NaN, infinities give what they give in the formula, a result too large gives
   infinity, a result below the normal numbers may be 0. The largest errors that were measured stand in c_math.py.
   Polynomials are minimax fits (of the relative error of the function, coefficients rounded to single precision
   one after another). */

#define SSMC_INLINE static inline __attribute__((always_inline))

/* a * b + c with one rounding where that is one instruction */
#if defined(__FMA__) || defined(__aarch64__)
#define SSMC_HAS_FMA
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

/* The next three spare the compiler selects on floating point. gcc 12 has no minimum and maximum instructions
   for those, and takes combinations of their outcomes apart, which spoils the loop. */

/* the smaller of a and a positive number; NaN becomes the latter */
SSMC_INLINE float ssmc_at_most(float a, float positive) {
    int32_t bits = (int32_t)ssmc_bits(a), most = (int32_t)ssmc_bits(positive);
    return ssmc_float((uint32_t)(bits < most ? bits : most));
}

SSMC_INLINE float ssmc_zero_if(int condition, float otherwise) {
    return ssmc_float(ssmc_bits(otherwise) & (0u - (uint32_t)!condition));
}

SSMC_INLINE float ssmc_nan_if(int condition, float otherwise) {
    return ssmc_float(ssmc_bits(otherwise) | (0u - (uint32_t)condition));
}

/* Exponentials. Adding SSMC_ROUND rounds to an integer n and leaves n + 126 in the lowest bits of the sum,
   which, shifted into the exponent, are 2^(n-1); a polynomial that is twice the exponential makes up for
   the half, and 2^128 is never formed. n is kept below 130; n = 129 gives infinity. Below the normal numbers
   n is of no use, and the result is masked. */

#define SSMC_ROUND 12583038.0f /* 1.5 * 2^23 + 126 */

#define SSMC_LOG2E 1.44269504f

#define SSMC_LN2 0.693147182f

/* log(2) in two parts; the first has 16 bits, so that its product with n is exact. */
#define SSMC_LN2_HIGH 0.693145752f
#define SSMC_LN2_LOW 1.42860677e-6f

/* where e^x leaves the normal numbers */
#define SSMC_EXP_LEAST -87.33f

/* n + SSMC_ROUND for the integer n next to x / log(2), at most 128 */
SSMC_INLINE float ssmc_exp_round(float x) {
    return ssmc_at_most(SSMC_FMA(x, SSMC_LOG2E, SSMC_ROUND), SSMC_ROUND + 128.0f);
}

/* 2^(n-1) from n + SSMC_ROUND */
SSMC_INLINE float ssmc_power_of_two(float rounded) {
    return ssmc_float(ssmc_bits(rounded) << 23);
}

/* 2 e^f for |f| <= log(2) / 2; positive beyond */
SSMC_INLINE float ssmc_twice_exp(float f) {
    float p = 0.00276378775f;
    p = SSMC_FMA(p, f, 0.0167374071f);
    p = SSMC_FMA(p, f, 0.0833365768f);
    p = SSMC_FMA(p, f, 0.333330423f);
    p = SSMC_FMA(p, f, 0.999999881f);
    p = SSMC_FMA(p, f, 2.0f);
    return SSMC_FMA(p, f, 2.0f);
}

/* x - n log(2), given n + SSMC_ROUND. Where the product is exact, log(2) is rounded once and as good as one part
   in twenty of a rounding of x. */
SSMC_INLINE float ssmc_exp_rest(float x, float rounded) {
    float n = rounded - SSMC_ROUND;
#ifdef SSMC_HAS_FMA
    return SSMC_FMA(n, -SSMC_LN2, x);
#else
    return SSMC_FMA(n, -SSMC_LN2_LOW, SSMC_FMA(n, -SSMC_LN2_HIGH, x));
#endif
}

/* e^f - 1 for |f| <= log(2) / 2 */
SSMC_INLINE float ssmc_expm1_rest(float f) {
    float p = 0.0013868435f;
    p = SSMC_FMA(p, f, 0.00836643204f);
    p = SSMC_FMA(p, f, 0.0416674614f);
    p = SSMC_FMA(p, f, 0.16666545f);
    p = SSMC_FMA(p, f, 0.49999997f);
    return SSMC_FMA(p * f, f, f);
}

/* e^x for x >= SSMC_EXP_LEAST: with e^f = 1 + q it is 2^(n-1) (1 + q), twice. e^x - 1 is made of the same n and
   q, so a compiler that is asked for both makes them once. */
SSMC_INLINE float ssmc_exp_inside(float x) {
    float rounded = ssmc_exp_round(x);
    float half = (1.0f + ssmc_expm1_rest(ssmc_exp_rest(x, rounded))) * ssmc_power_of_two(rounded);
    return half + half;
}

SSMC_INLINE float ssmc_exp_f32(float x) {
    return ssmc_zero_if(x < SSMC_EXP_LEAST, ssmc_exp_inside(x));
}

SSMC_INLINE float ssmc_exp2_f32(float x) {
    float rounded = ssmc_at_most(x + SSMC_ROUND, SSMC_ROUND + 129.0f);
    float f = x - (rounded - SSMC_ROUND);
    float p = 0.000306535623f;
    p = SSMC_FMA(p, f, 0.00267820503f);
    p = SSMC_FMA(p, f, 0.0192370117f);
    p = SSMC_FMA(p, f, 0.111007191f);
    p = SSMC_FMA(p, f, 0.480452955f);
    p = SSMC_FMA(p, f, 1.38629436f);
    p = SSMC_FMA(p, f, 2.0f);
    return ssmc_zero_if(x < -125.99f, p * ssmc_power_of_two(rounded));
}

/* (e^x - 1) / 2 for x >= -80: with e^f = 1 + q it is 2^(n-1) q + (2^(n-1) - 1/2), where 2^(n-1) is finite */
SSMC_INLINE float ssmc_half_expm1(float x) {
    float rounded = ssmc_exp_round(x);
    float scale = ssmc_power_of_two(rounded);
    return SSMC_FMA(scale, ssmc_expm1_rest(ssmc_exp_rest(x, rounded)), scale - 0.5f);
}

SSMC_INLINE float ssmc_expm1_f32(float x) {
    float half = ssmc_half_expm1(x);
    return x < -80.0f ? -1.0f : half + half;
}

/* Logarithms. x = 2^e (1 + f) with 2/3 <= 1 + f < 4/3. */

#define SSMC_TWO_THIRDS 0x3f2aaaabu /* the bits of 2/3 */

/* log(1 + f) for |f| <= 1/3; two halves of the polynomial side by side make a shorter chain of operations */
SSMC_INLINE float ssmc_log_near_one(float f) {
    float z = f * f;
    float odd = 0.140203938f, even = -0.153835982f;
    odd = SSMC_FMA(odd, z, 0.139971688f);
    even = SSMC_FMA(even, z, -0.164170295f);
    odd = SSMC_FMA(odd, z, 0.200110719f);
    even = SSMC_FMA(even, z, -0.250077486f);
    odd = SSMC_FMA(odd, z, 0.333332002f);
    even = SSMC_FMA(even, z, -0.499999374f);
    return SSMC_FMA(SSMC_FMA(odd, f, even), z, f);
}

/* What a logarithm gives for x = 0, for infinity, for negative x and NaN, and `inside` elsewhere. */
SSMC_INLINE float ssmc_log_edges(float x, float inside) {
    inside = x == 0.0f ? -__builtin_inff() : inside;
    inside = x == __builtin_inff() ? x : inside;
    return ssmc_nan_if(!(x >= 0.0f), inside);
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
    float y = x == -1.0f ? -__builtin_inff() : ssmc_log1p_inside(x);
    y = x == __builtin_inff() ? x : y;
    return ssmc_nan_if(!(x >= -1.0f), y);
}

/* Activations. */

SSMC_INLINE float ssmc_sigmoid_f32(float x) {
    return 1.0f / (1.0f + ssmc_exp_f32(-x));
}

SSMC_INLINE float ssmc_silu_f32(float x) {
    return x / (1.0f + ssmc_exp_f32(-x));
}

/* log(1 + e^x) as max(x, 0) + log(1 + e) with e = e^-|x| between 0 and 1, where a polynomial serves; above 20 the
   second term is less than half a unit of the first. Even and odd powers side by side make a shorter chain. */
SSMC_INLINE float ssmc_softplus_f32(float x) {
    float e = ssmc_exp_f32(-__builtin_fabsf(x));
    float z = e * e;
    float odd = -0.00320985401f, even = 0.0196964275f;
    odd = SSMC_FMA(odd, z, -0.0566661134f);
    even = SSMC_FMA(even, z, 0.105736651f);
    odd = SSMC_FMA(odd, z, -0.152876958f);
    even = SSMC_FMA(even, z, 0.19669652f);
    odd = SSMC_FMA(odd, z, -0.249528885f);
    even = SSMC_FMA(even, z, 0.333298385f);
    odd = SSMC_FMA(odd, z, -0.499998987f);
    even = SSMC_FMA(even, z, 1.0f);
    return SSMC_FMA(SSMC_FMA(odd, e, even), e, x > 0.0f ? x : 0.0f);
}

/* With m = e^(2|x|) - 1 it is m / (m + 2); beyond 10 it is 1. */
SSMC_INLINE float ssmc_tanh_f32(float x) {
    float a = __builtin_fabsf(x);
    float half = ssmc_half_expm1(a + a);
    return __builtin_copysignf(a > 10.0f ? 1.0f : half / (half + 1.0f), x);
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
    float odd = 0.00021365477f, even = -0.00321221421f;
    odd = SSMC_FMA(odd, z, 0.0228811093f);
    even = SSMC_FMA(even, z, -0.105247930f);
    odd = SSMC_FMA(odd, z, -0.635728955f);
    even = SSMC_FMA(even, z, -1.12851119f);
    float far = SSMC_FMA(odd, a, even);
    far = 1.0f - ssmc_zero_if(a > 3.95f, ssmc_exp_inside(far * a));
    return a < 0.94f ? SSMC_FMA(near, x, x) : __builtin_copysignf(far, x);
}

SSMC_INLINE float ssmc_gelu_f32(float x) {
    return 0.5f * x * (1.0f + ssmc_erf_f32(0.707106781f * x));
}

/* Hyperbolic functions, from half the exponential, which is finite where their result is. */

/* e^x / 2 for x >= 0 */
SSMC_INLINE float ssmc_half_exp(float x) {
    float rounded = ssmc_at_most(SSMC_FMA(x, SSMC_LOG2E, SSMC_ROUND), SSMC_ROUND + 129.0f);
    return ssmc_twice_exp(ssmc_exp_rest(x, rounded)) * ssmc_power_of_two(rounded - 1.0f);
}

SSMC_INLINE float ssmc_cosh_f32(float x) {
    float half = ssmc_half_exp(__builtin_fabsf(x));
    return half + 0.25f / half;
}

/* With m = e^|x| - 1 it is (m + m / (m + 1)) / 2 for small |x|, else half the exponential. */
SSMC_INLINE float ssmc_sinh_f32(float x) {
    float a = __builtin_fabsf(x);
    float half = ssmc_half_expm1(a);
    float small = half + half / (half + half + 1.0f);
    return __builtin_copysignf(a > 20.0f ? ssmc_half_exp(a) : small, x);
}

/* Angles. The exact functions are the C library's, which no compiler vectorises; the bounded ones it does, about
   four times as fast, but beyond 2^27, where floats are multiples of 16 and hardly angles, they give NaN. */

SSMC_INLINE float ssmc_sin_f32(float x) {
    return sinf(x);
}

SSMC_INLINE float ssmc_cos_f32(float x) {
    return cosf(x);
}

SSMC_INLINE float ssmc_tan_f32(float x) {
    return tanf(x);
}

/* x = (quarter turns) pi / 2 + rest, in double precision; the first part of pi / 2 is short, for exact products */
struct ssmc_angle {
    float rest;
    uint32_t quarter;
};

SSMC_INLINE struct ssmc_angle ssmc_reduce(float x) {
    double rounded = x * 0.63661977236758134308 + 0x1.8p52;
    double n = rounded - 0x1.8p52;
    uint64_t bits;
    __builtin_memcpy(&bits, &rounded, sizeof bits);
    struct ssmc_angle angle;
    angle.rest = (float)(x - n * 1.5707963109016418 - n * 1.5893254773528196e-8);
    angle.rest = ssmc_nan_if(!(__builtin_fabsf(x) < 0x1p27f), angle.rest);
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

SSMC_INLINE float ssmc_sin_bounded_f32(float x) {
    struct ssmc_angle a = ssmc_reduce(x);
    float y = a.quarter & 1u ? ssmc_cos_near_zero(a.rest) : ssmc_sin_near_zero(a.rest);
    return ssmc_float(ssmc_bits(y) ^ (a.quarter & 2u) << 30);
}

SSMC_INLINE float ssmc_cos_bounded_f32(float x) {
    struct ssmc_angle a = ssmc_reduce(x);
    float y = a.quarter & 1u ? ssmc_sin_near_zero(a.rest) : ssmc_cos_near_zero(a.rest);
    return ssmc_float(ssmc_bits(y) ^ ((a.quarter + 1u) & 2u) << 30);
}

SSMC_INLINE float ssmc_tan_bounded_f32(float x) {
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
