/* What emitted C brings along besides c_math.h: the same in double precision, integers, 16-bit storage.
   The layout matters, see there. */

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

/* Where the compiler turns vectors of these conversions into instructions, it may; gcc for x86 (12, with AVX-512
   FP16) does so one at a time. */
#if defined(__ARM_FP16_FORMAT_IEEE) || defined(__F16C__) && defined(__clang__)
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
