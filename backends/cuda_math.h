/* The mathematics that emitted CUDA C brings along, where it is not that of c_math.h and c_exact.h. The layout
   matters: see definitions.py. Single precision is CUDA's own where nothing is said: its functions are at most 2 units
   in the last place off (erf, log1p, tanh, expm1: 2; exp: 2; log: 1), see the CUDA Math API. */

/* Division, roots, and quotients of integers are spelled without the calls that compilers make of them for rare cases:
   where there may be a call, registers are saved to memory. */

/* The quotient, corrected by what it leaves, so that exact quotients are exact; where the correction is no number
   (zeros, infinities, the smallest numbers) the quotient is right already or as good as can be. */
SSMC_INLINE float ssmc_div_f32(float a, float b) {
    float q = ssmc_quotient_quickly(a, b);
    float more = SSMC_FMA(-q, b, a) * ssmc_reciprocal_quickly(b);
    return fabsf(more) < INFINITY ? q + more : q;
}

/* The same of roots, whose correction is half of what is left, times 1 / sqrt(x). */
SSMC_INLINE float ssmc_sqrt_f32(float x) {
    float root = ssmc_root_quickly(x);
    float more = 0.5f * SSMC_FMA(-root, root, x) * ssmc_inverse_root_quickly(x);
    return fabsf(more) < INFINITY ? root + more : root;
}

SSMC_INLINE float ssmc_rsqrt_f32(float x) {
    return ssmc_inverse_root_quickly(x);
}

/* A row of `count` numbers, `stride` apart, into registers: sixteen bytes at a time where they lie side by side. */
template <typename Number, int count>
SSMC_INLINE void ssmc_read_row(const Number *__restrict__ from, int64_t stride, Number (&row)[count]) {
    constexpr int together = 16 / (int)sizeof(Number);
    struct alignas(16) Fetched {
        Number numbers[together];
    };
    if (stride == 1 && ((uint64_t)from & 15) == 0) {
#pragma unroll
        for (int i = 0; i + together <= count; i += together) {
            const Fetched fetched = *(const Fetched *)(from + i);
#pragma unroll
            for (int j = 0; j < together; ++j) row[i + j] = fetched.numbers[j];
        }
#pragma unroll
        for (int i = count / together * together; i < count; ++i) row[i] = from[i];
    } else {
#pragma unroll
        for (int i = 0; i < count; ++i) row[i] = from[i * stride];
    }
}

/* A row of a tile in shared memory into registers, sixteen bytes at a time: there, rows fill whole accesses. */
template <typename Number, int count>
SSMC_INLINE void ssmc_read_tile(const Number *from, Number (&row)[count]) {
    constexpr int together = 16 / (int)sizeof(Number);
    struct alignas(16) Fetched {
        Number numbers[together];
    };
#pragma unroll
    for (int i = 0; i < count; i += together) {
        const Fetched fetched = *(const Fetched *)(from + i);
#pragma unroll
        for (int j = 0; j < together && i + j < count; ++j) row[i + j] = fetched.numbers[j];
    }
}

/* The index from 0 up to `size` that is nearest. */
SSMC_INLINE int64_t ssmc_inside(int64_t index, int64_t size) {
    return index < 0 ? 0 : index < size ? index : size - 1;
}

/* A piece of a row, `count` numbers that lie `stride` apart, into a tile in shared memory: it is there once this thread
   has waited for what it sent. Sixteen bytes that lie side by side nobody waits for here. */
template <typename Number>
SSMC_INLINE void ssmc_fetch(Number *to, const Number *__restrict__ from, int64_t stride, int count) {
    constexpr int together = 16 / (int)sizeof(Number);
    if (count == together && stride == 1 && ((uint64_t)from & 15) == 0) {
        ssmc_send(to, from);
    } else {
#pragma unroll
        for (int i = 0; i < together; ++i)
            if (i < count) to[i] = from[i * stride];
    }
}

/* a / b and a % b of numbers without sign, b > 0: in 32 bits where both fit, else bit by bit. */
SSMC_INLINE uint64_t ssmc_divided(uint64_t a, uint64_t b, uint64_t *rest) {
    if ((a | b) >> 32 == 0) {
        *rest = (uint32_t)a % (uint32_t)b;
        return (uint32_t)a / (uint32_t)b;
    }
    uint64_t quotient = 0, left = 0;
#pragma unroll 1
    for (int bit = 63; bit >= 0; --bit) {
        uint64_t over = left >> 63;
        left = left << 1 | (a >> bit & 1);
        uint64_t fits = over | (left >= b);
        left -= fits ? b : 0;
        quotient = quotient << 1 | fits;
    }
    *rest = left;
    return quotient;
}

SSMC_INLINE uint64_t ssmc_magnitude(int64_t a) {
    return a < 0 ? 0u - (uint64_t)a : (uint64_t)a;
}

/* Division is towards minus infinity, and by 0 gives 0. */
SSMC_INLINE int64_t ssmc_floordiv_i64(int64_t a, int64_t b) {
    if (b == 0) return 0;
    uint64_t rest, quotient = ssmc_divided(ssmc_magnitude(a), ssmc_magnitude(b), &rest);
    return (a < 0) == (b < 0) ? (int64_t)quotient : (int64_t)(0u - quotient - (rest != 0));
}

SSMC_INLINE int64_t ssmc_mod_i64(int64_t a, int64_t b) {
    if (b == 0) return 0;
    uint64_t rest, size = ssmc_magnitude(b);
    ssmc_divided(ssmc_magnitude(a), size, &rest);
    rest = rest != 0 && (a < 0) != (b < 0) ? size - rest : rest;
    return b < 0 ? (int64_t)(0u - rest) : (int64_t)rest;
}

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

SSMC_INLINE float ssmc_silu_f32(float x) {
    return ssmc_quotient_quickly(x, 1.0f + expf(-x));
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

/* The sum over the lanes of a warp, in each of them: pairs, then pairs of pairs, always in the same order. */
template <typename Number>
SSMC_INLINE Number ssmc_warp_sum(Number x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x += ssmc_exchanged(x, bits);
    return x;
}

/* The lanes of a warp one after the other: x becomes factor * x + addend. `left` is x before the first lane and, after
   the call, after the last; `found` is x before each. */
template <typename Number>
SSMC_INLINE void ssmc_warp_scan(Number factor, Number addend, Number *left, Number *found) {
    const int lane = SSMC_THREAD % 32;
#pragma unroll
    for (int far = 1; far < 32; far <<= 1) {
        const Number f = ssmc_from_before(factor, far), a = ssmc_from_before(addend, far);
        if (lane >= far) {
            addend = factor * a + addend;
            factor = factor * f;
        }
    }
    const Number after = factor * *left + addend, before = ssmc_from_before(after, 1);
    *found = lane ? before : *left;
    *left = ssmc_from_last(after);
}

/* The same of complex numbers: real parts, then imaginary ones. */
template <typename Number>
SSMC_INLINE void ssmc_warp_scan_complex(
    Number factor, Number factor_im, Number addend, Number addend_im, Number *left, Number *left_im, Number *found,
    Number *found_im) {
    const int lane = SSMC_THREAD % 32;
#pragma unroll
    for (int far = 1; far < 32; far <<= 1) {
        const Number f = ssmc_from_before(factor, far), g = ssmc_from_before(factor_im, far);
        const Number a = ssmc_from_before(addend, far), b = ssmc_from_before(addend_im, far);
        if (lane >= far) {
            addend = factor * a - factor_im * b + addend;
            addend_im = factor * b + factor_im * a + addend_im;
            const Number real = factor * f - factor_im * g;
            factor_im = factor * g + factor_im * f;
            factor = real;
        }
    }
    const Number after = factor * *left - factor_im * *left_im + addend;
    const Number after_im = factor * *left_im + factor_im * *left + addend_im;
    const Number before = ssmc_from_before(after, 1), before_im = ssmc_from_before(after_im, 1);
    *found = lane ? before : *left;
    *found_im = lane ? before_im : *left_im;
    *left = ssmc_from_last(after);
    *left_im = ssmc_from_last(after_im);
}
