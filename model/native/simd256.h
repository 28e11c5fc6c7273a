/* The same in vectors of 8 floats: AVX2. */
#ifndef FASHIONBERT_SIMD256_H
#define FASHIONBERT_SIMD256_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define LANES 8
/* A tile of rows by vectors, summed in 8 of the 16 registers: more are slower, docs/EXPERIMENTS.md. */
#define DENSE_ROWS 4
#define DENSE_VECTORS 2
#define TILE_TARGET 128

typedef __m256 floats;
typedef __m256i integers;
typedef __m256i some;

INLINE floats v_load(const float *from) { return _mm256_loadu_ps(from); }
INLINE void v_store(float *to, floats x) { _mm256_storeu_ps(to, x); }
INLINE floats v_all(float x) { return _mm256_set1_ps(x); }
INLINE floats v_nought(void) { return _mm256_setzero_ps(); }
INLINE floats v_add(floats a, floats b) { return _mm256_add_ps(a, b); }
INLINE floats v_sub(floats a, floats b) { return _mm256_sub_ps(a, b); }
INLINE floats v_mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
INLINE floats v_div(floats a, floats b) { return _mm256_div_ps(a, b); }
INLINE floats v_fma(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE floats v_fms(floats a, floats b, floats c) { return _mm256_fmsub_ps(a, b, c); }
INLINE floats v_min(floats a, floats b) { return _mm256_min_ps(a, b); }
INLINE floats v_max(floats a, floats b) { return _mm256_max_ps(a, b); }
INLINE float v_sum(floats x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INLINE float v_most(floats x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
INLINE floats v_nearest(floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE floats v_scale(floats x, floats steps) {
    const floats held = _mm256_max_ps(steps, _mm256_set1_ps(-127.0f)); /* 2^-127 becomes 0 */
    const integers exponent = _mm256_add_epi32(_mm256_cvtps_epi32(held), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

INLINE some first_of(int count) {
    const integers lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
}
INLINE floats v_load_some(floats others, some there, const float *from) {
    return _mm256_blendv_ps(others, _mm256_maskload_ps(from, there), _mm256_castsi256_ps(there));
}
INLINE floats v_keep(some there, floats x) {
    return _mm256_and_ps(_mm256_castsi256_ps(there), x);
}

INLINE floats v_of_int8(const int8_t *from) {
    const __m128i eight = _mm_loadl_epi64((const __m128i *)from);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
}
INLINE floats v_of_int32(const int32_t *from) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)from));
}

/* Without VNNI, products of an unsigned byte with a signed one are summed two at a time in 16 bits,
 * which saturate. So activations are signed here, from -128 on, and their signs go over to the
 * weights, which have no -128: 2 * 128 * 127 fits. Four values lie as four absolute ones and then
 * the same four with their signs. */
typedef struct {
    uint8_t bytes[2];
} rounded;
#define LEAST (-128)
#define TOGETHER 4

INLINE void store_quantised(rounded *to, floats scaled, integers zero) {
    const floats held = v_min(scaled, v_all(1e6f));
    const integers near = _mm256_add_epi32(_mm256_cvtps_epi32(held), zero);
    const __m128i low = _mm256_castsi256_si128(near), high = _mm256_extracti128_si256(near, 1);
    const __m128i sixteen = _mm_packs_epi32(low, high);
    const __m128i eight = _mm_packs_epi16(sixteen, sixteen);
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi32(_mm_abs_epi8(eight), eight));
}

INLINE integers i_all(int32_t x) { return _mm256_set1_epi32(x); }
INLINE integers i_nought(void) { return _mm256_setzero_si256(); }
INLINE void i_store(int32_t *to, integers x) { _mm256_storeu_si256((__m256i *)to, x); }

typedef struct {
    integers sizes, signs;
} inputs;
INLINE inputs load_inputs(const rounded *from) {
    int32_t together[2];
    memcpy(together, from, sizeof together);
    return (inputs){_mm256_set1_epi32(together[0]), _mm256_set1_epi32(together[1])};
}
INLINE integers load_weights(const int8_t *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

INLINE void add_products(integers *acc, inputs x, integers b) {
    const integers pairs = _mm256_maddubs_epi16(x.sizes, _mm256_sign_epi8(b, x.signs));
    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* 8 rows [8, 8] to columns. */
INLINE void turn_block(const float *from, int from_stride, int count, float *to, int to_stride) {
    floats r[LANES], t[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i++)
        r[i] = i < count ? v_load(from + (size_t)i * from_stride) : v_nought();
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < LANES; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v_store(to + (size_t)i * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        v_store(to + (size_t)(i + 4) * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

#endif
