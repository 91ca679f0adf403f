"""The mathematics that emitted Triton brings along: a text takes from here the functions that it calls.

Definitions stand between blank lines and have none inside. Built of what ``triton.language`` itself has, so that the
interpreter runs all of it. The arguments are of one precision; so are results. Where nothing is said, errors are those
of the functions called, plus a few roundings.
"""

import triton
import triton.language as tl


@triton.jit
def ssmc_product(a, b):
    return a * b


# h -> f h + a, first with f1 and a1, then with f2 and a2
@triton.jit
def ssmc_affine(f1, a1, f2, a2):
    return f1 * f2, f2 * a1 + a2


# the same, and once more without the last of the steps, of which g and b are 1 and 0
@triton.jit
def ssmc_affine_both(f1, a1, g1, b1, f2, a2, g2, b2):
    return f1 * f2, f2 * a1 + a2, f1 * g2, g2 * a1 + b2


# both of complex numbers: real parts, then imaginary ones
@triton.jit
def ssmc_affine_complex(f1, fi1, a1, ai1, f2, fi2, a2, ai2):
    return f1 * f2 - fi1 * fi2, f1 * fi2 + fi1 * f2, f2 * a1 - fi2 * ai1 + a2, f2 * ai1 + fi2 * a1 + ai2


@triton.jit
def ssmc_affine_complex_both(f1, fi1, a1, ai1, g1, gi1, b1, bi1, f2, fi2, a2, ai2, g2, gi2, b2, bi2):
    f, fi, a, ai = f1 * f2 - fi1 * fi2, f1 * fi2 + fi1 * f2, f2 * a1 - fi2 * ai1 + a2, f2 * ai1 + fi2 * a1 + ai2
    g, gi, b, bi = f1 * g2 - fi1 * gi2, f1 * gi2 + fi1 * g2, g2 * a1 - gi2 * ai1 + b2, g2 * ai1 + gi2 * a1 + bi2
    return f, fi, a, ai, g, gi, b, bi


# e^x - 1 = x (u - 1) / log(u), where u is e^x as rounded: the errors of u cancel
@triton.jit
def ssmc_expm1(x):
    u = tl.exp(x)
    near = (u - 1.0) * x / tl.log(tl.where((u == 1.0) | (u <= 0.0), 2.0, u))
    far = (x > 40.0) | (x < -40.0)
    return tl.where(u == 1.0, x, tl.where(far | (x != x), u - 1.0, near))


# log(1 + x) = x log(u) / (u - 1), where u is 1 + x as rounded
@triton.jit
def ssmc_log1p(x):
    u = 1.0 + x
    near = tl.log(u) * x / tl.where(u == 1.0, 1.0, u - 1.0)
    return tl.where(u == 1.0, x, tl.where(u == float("inf"), u, near))


@triton.jit
def ssmc_sigmoid(x):
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0 + 0.0 * small) / (1.0 + small)


@triton.jit
def ssmc_silu(x):
    return x * ssmc_sigmoid(x)


@triton.jit
def ssmc_softplus(x):
    return tl.where(x > 20.0, x, ssmc_log1p(tl.exp(tl.minimum(x, 20.0, propagate_nan=tl.PropagateNan.ALL))))


@triton.jit
def ssmc_tanh(x):
    q = ssmc_expm1(2.0 * tl.minimum(tl.abs(x), 20.0))
    size = q / (q + 2.0)
    return tl.where(x != x, x, tl.where(x < 0.0, -size, size))


@triton.jit
def ssmc_sinh(x):
    q = ssmc_expm1(tl.abs(x))
    size = tl.where(q == float("inf"), q, 0.5 * (q + q / (q + 1.0)))
    return tl.where(x < 0.0, -size, size)


@triton.jit
def ssmc_cosh(x):
    e = tl.exp(tl.abs(x))
    return 0.5 * (e + 1.0 / e)


@triton.jit
def ssmc_gelu(x):
    return 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))


@triton.jit
def ssmc_gelu_tanh(x):
    return x * ssmc_sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def ssmc_relu(x):
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def ssmc_sign(x):
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x))


@triton.jit
def ssmc_minimum(a, b):
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def ssmc_maximum(a, b):
    return tl.where((a > b) | (a != a), a, b)


# to the nearest integer, ties to even
@triton.jit
def ssmc_round(x):
    low = tl.floor(x)
    rest = x - low
    odd = low - 2.0 * tl.floor(0.5 * low) > 0.5
    up = (rest > 0.5) | ((rest == 0.5) & odd)
    return tl.where(up, low + 1.0, tl.where(rest == rest, low, x))


@triton.jit
def ssmc_tan(x):
    return tl.sin(x) / tl.cos(x)


# For 0 <= x <= 1: a rough angle, then what the addition theorem says is missing.
@triton.jit
def ssmc_arctan_inside(x):
    rough = x * (0.7853981633974483 + 0.273 * (1.0 - x))
    s = tl.sin(rough)
    c = tl.cos(rough)
    missing = (x * c - s) / (c + x * s)
    square = missing * missing
    return rough + missing * (1.0 - square * (0.3333333333333333 - 0.2 * square))


@triton.jit
def ssmc_arctan(x):
    size = tl.abs(x)
    turned = 1.5707963267948966 - ssmc_arctan_inside(1.0 / tl.where(size > 1.0, size, 1.0))
    angle = tl.where(size > 1.0, turned, ssmc_arctan_inside(tl.where(size > 1.0, 0.0, size)))
    return tl.where(x != x, x, tl.where(x < 0.0, -angle, angle))


@triton.jit
def ssmc_arcsin(x):
    return ssmc_arctan(x / tl.sqrt((1.0 - x) * (1.0 + x)))


@triton.jit
def ssmc_arccos(x):
    return 2.0 * ssmc_arctan(tl.sqrt((1.0 - x) / (1.0 + x)))


@triton.jit
def ssmc_arctan2(y, x):
    steep = tl.abs(y) > tl.abs(x)
    above = tl.where(steep, tl.abs(x), tl.abs(y))
    below = tl.where(steep, tl.abs(y), tl.abs(x))
    ratio = above / tl.where(below == 0.0, 1.0, below)
    ratio = tl.where((above == below) & (below > 0.0), 1.0, ratio)
    angle = ssmc_arctan_inside(ratio)
    angle = tl.where(steep, 1.5707963267948966 - angle, angle)
    left = (x < 0.0) | ((x == 0.0) & (1.0 / x < 0.0))
    angle = tl.where(left, 3.141592653589793 - angle, angle)
    return tl.where((y < 0.0) | ((y == 0.0) & (1.0 / y < 0.0)), -angle, angle)


# By way of 2 to the y log2(x) in double precision: a large power would show the rounding of its logarithm.
@triton.jit
def ssmc_pow(x, y):
    exponent = tl.cast(y, tl.float64)
    size = tl.abs(tl.cast(x, tl.float64))
    power = tl.exp2(exponent * tl.log2(size))
    whole = tl.floor(exponent)
    odd = whole - 2.0 * tl.floor(0.5 * whole) == 1.0
    signed = tl.where(odd, -power, power)
    power = tl.where(x < 0.0, tl.where(exponent == whole, signed, float("nan")), power)
    one = (y == 0.0) | (x == 1.0)
    return tl.where(one, 1.0, power).to((x + y).dtype)


# truncated towards zero, saturating; 0 for NaN
@triton.jit
def ssmc_int(x):
    inside = (x >= -9223372036854775808.0) & (x < 9223372036854775808.0)
    whole = tl.where(inside, x, 0.0).to(tl.int64)
    whole = tl.where(x >= 9223372036854775808.0, 9223372036854775807, whole)
    return tl.where(x < -9223372036854775808.0, -9223372036854775808, whole)


# Integers of 64 bits. Division is towards minus infinity, and by 0 gives 0; that of the machine is by what is safe.
@triton.jit
def ssmc_floordiv(a, b):
    a = tl.cast(a, tl.int64)
    b = tl.cast(b, tl.int64)
    safe = tl.where((b == 0) | (b == -1), 1, b)
    whole = a // safe
    rest = a - whole * safe
    whole = tl.where((rest != 0) & ((rest < 0) != (safe < 0)), whole - 1, whole)
    return tl.where(b == 0, 0, tl.where(b == -1, -a, whole))


@triton.jit
def ssmc_mod(a, b):
    a = tl.cast(a, tl.int64)
    b = tl.cast(b, tl.int64)
    safe = tl.where((b == 0) | (b == -1), 1, b)
    rest = a - a // safe * safe
    rest = tl.where((rest != 0) & ((rest < 0) != (safe < 0)), rest + safe, rest)
    return tl.where((b == 0) | (b == -1), 0, rest)


# truncated when b < 0
@triton.jit
def ssmc_pow_int(a, b):
    square = tl.cast(a, tl.int64)
    left = tl.cast(b, tl.int64)
    negative = tl.where(square == 1, 1, tl.where(square == -1, 1 - 2 * (left & 1), 0))
    result = square * 0 + left * 0 + 1
    square = square + left * 0
    rest = left
    for _ in tl.static_range(6):
        result = result * tl.where((rest & 1) == 1, square, 1)
        square = square * square
        rest = rest >> 1
    large = tl.where((a == 0) | (a == 1), result, tl.where(a == -1, 1 - 2 * (left & 1), 0))
    return tl.where(left < 0, negative, tl.where(rest > 0, large, result))


@triton.jit
def ssmc_shift_left(a, b):
    a = tl.cast(a, tl.int64)
    b = tl.cast(b, tl.int64)
    return tl.where(b > 63, 0, a << tl.minimum(tl.maximum(b, 0), 63))


@triton.jit
def ssmc_shift_right(a, b):
    a = tl.cast(a, tl.int64)
    b = tl.cast(b, tl.int64)
    return a >> tl.minimum(tl.maximum(b, 0), 63)


@triton.jit
def ssmc_sign_int(x):
    return tl.where(x > 0, 1, tl.where(x < 0, -1, 0))


@triton.jit
def ssmc_relu_int(x):
    return tl.maximum(x, 0)
