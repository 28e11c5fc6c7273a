/* Vectors of 16 floats: the functions that a transformer needs beside its products. */
#ifndef FASHIONBERT_SIMD_H
#define FASHIONBERT_SIMD_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

INLINE int smaller(int a, int b) { return a < b ? a : b; }

/* x rounded up to whole vectors. */
INLINE int whole(int x) { return (x + LANES - 1) / LANES * LANES; }

/* NaN stays NaN here and below: max and min give their second operand if one is. */
INLINE __m512 between(float least, __m512 x, float most) {
    return _mm512_min_ps(_mm512_set1_ps(most), _mm512_max_ps(_mm512_set1_ps(least), x));
}

/* 2^x, to about 2e-7 of it; 0 where that is too small for a float. */
INLINE __m512 exp2_of(__m512 x) {
    const __m512 steps = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, steps); /* -0.5 to 0.5 */
    __m512 power = _mm512_set1_ps(1.54035304e-4f); /* ln(2)^6 / 6!, then 5, 4, ... */
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.33335581e-3f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(9.61812911e-3f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(5.55041087e-2f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(2.40226507e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(6.93147181e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, steps);
}

#define LOG2_E 1.44269504f

INLINE __m512 tanh_of(__m512 x) {
    x = _mm512_mul_ps(between(-20.0f, x, 20.0f), _mm512_set1_ps(2.0f * LOG2_E));
    const __m512 grown = exp2_of(x);
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(_mm512_sub_ps(grown, one), _mm512_add_ps(grown, one));
}

/* x/2 (1 + erf(x / sqrt 2)), to 2e-6 between -8 and 8.
 *
 * erf(z) / z is a polynomial of degree 12 in z², fitted at Chebyshev points for |z| up to 3.6 and
 * written in 2 (z / 3.6)² - 1, where its terms do not cancel; beyond, erf is 1 to 4e-7. */
INLINE __m512 gelu_of(__m512 x) {
    const __m512 z = between(-3.6f, _mm512_mul_ps(x, _mm512_set1_ps(0.70710678f)), 3.6f);
    const __m512 at = _mm512_fmsub_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(2.0f / (3.6f * 3.6f)),
                                      _mm512_set1_ps(1.0f));
    __m512 sum = _mm512_set1_ps(0.00217865012f);
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(-0.00576723227f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(0.0058275098f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(-0.00824517105f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(0.019951921f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(-0.0344128124f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(0.0489023514f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(-0.0675356537f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(0.0896837786f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(-0.113849431f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(0.143820629f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(-0.195488751f));
    sum = _mm512_fmadd_ps(sum, at, _mm512_set1_ps(0.392711997f));
    const __m512 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    return _mm512_fmadd_ps(half, _mm512_mul_ps(z, sum), half);
}

/* ONNX's QuantizeLinear of 16 numbers that are divided by the scale already: rounded to the nearest
 * even, shifted, and saturated to 0 to 255. */
INLINE void store_quantised(uint8_t *to, __m512 scaled, __m512i zero) {
    const __m512 held = _mm512_min_ps(scaled, _mm512_set1_ps(1e6f)); /* an int can hold it */
    const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(held), zero);
    const __m512i positive = _mm512_max_epi32(rounded, _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(positive));
}

#endif
