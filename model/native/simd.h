/* Vectors of LANES floats: the functions that a transformer needs beside its products. */
#ifndef FASHIONBERT_SIMD_H
#define FASHIONBERT_SIMD_H

#ifdef __AVX512F__
#include "simd512.h"
#else
#include "simd256.h"
#endif

INLINE int smaller(int a, int b) { return a < b ? a : b; }

/* x rounded up to whole vectors. */
INLINE int whole(int x) { return (x + LANES - 1) / LANES * LANES; }

/* NaN stays NaN here and below: max and min give their second operand if one is. */
INLINE floats between(float least, floats x, float most) {
    return v_min(v_all(most), v_max(v_all(least), x));
}

/* 2^x, to about 2e-7 of it; 0 where that is too small for a float. */
INLINE floats exp2_of(floats x) {
    const floats steps = v_nearest(x);
    const floats rest = v_sub(x, steps); /* -0.5 to 0.5 */
    floats power = v_all(1.54035304e-4f); /* ln(2)^6 / 6!, then 5, 4, ... */
    power = v_fma(power, rest, v_all(1.33335581e-3f));
    power = v_fma(power, rest, v_all(9.61812911e-3f));
    power = v_fma(power, rest, v_all(5.55041087e-2f));
    power = v_fma(power, rest, v_all(2.40226507e-1f));
    power = v_fma(power, rest, v_all(6.93147181e-1f));
    power = v_fma(power, rest, v_all(1.0f));
    return v_scale(power, steps);
}

#define LOG2_E 1.44269504f

INLINE floats tanh_of(floats x) {
    x = v_mul(between(-20.0f, x, 20.0f), v_all(2.0f * LOG2_E));
    const floats grown = exp2_of(x);
    const floats one = v_all(1.0f);
    return v_div(v_sub(grown, one), v_add(grown, one));
}

/* x/2 (1 + erf(x / sqrt 2)), to 2e-6 between -8 and 8.
 *
 * erf(z) / z is a polynomial of degree 12 in z², fitted at Chebyshev points for |z| up to 3.6 and
 * written in 2 (z / 3.6)² - 1, where its terms do not cancel; beyond, erf is 1 to 4e-7. */
INLINE floats gelu_of(floats x) {
    const floats z = between(-3.6f, v_mul(x, v_all(0.70710678f)), 3.6f);
    const floats at = v_fms(v_mul(z, z), v_all(2.0f / (3.6f * 3.6f)),
                                      v_all(1.0f));
    floats sum = v_all(0.00217865012f);
    sum = v_fma(sum, at, v_all(-0.00576723227f));
    sum = v_fma(sum, at, v_all(0.0058275098f));
    sum = v_fma(sum, at, v_all(-0.00824517105f));
    sum = v_fma(sum, at, v_all(0.019951921f));
    sum = v_fma(sum, at, v_all(-0.0344128124f));
    sum = v_fma(sum, at, v_all(0.0489023514f));
    sum = v_fma(sum, at, v_all(-0.0675356537f));
    sum = v_fma(sum, at, v_all(0.0896837786f));
    sum = v_fma(sum, at, v_all(-0.113849431f));
    sum = v_fma(sum, at, v_all(0.143820629f));
    sum = v_fma(sum, at, v_all(-0.195488751f));
    sum = v_fma(sum, at, v_all(0.392711997f));
    const floats half = v_mul(x, v_all(0.5f));
    return v_fma(half, v_mul(z, sum), half);
}

#endif
