/* Vectors of 16 floats: AVX-512, with VNNI for products of 8 bits. */
#ifndef FASHIONBERT_SIMD512_H
#define FASHIONBERT_SIMD512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define LANES 16
/* A tile of rows by vectors, summed in 24 of the 32 registers. */
#define DENSE_ROWS 6
#define DENSE_VECTORS 4
/* Rows that go through the layers together: measured, docs/EXPERIMENTS.md. */
#define TILE_TARGET 128

typedef __m512 floats;
typedef __m512i integers;
typedef __mmask16 some;

INLINE floats v_load(const float *from) { return _mm512_loadu_ps(from); }
INLINE void v_store(float *to, floats x) { _mm512_storeu_ps(to, x); }
INLINE floats v_all(float x) { return _mm512_set1_ps(x); }
INLINE floats v_nought(void) { return _mm512_setzero_ps(); }
INLINE floats v_add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats v_sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats v_mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats v_div(floats a, floats b) { return _mm512_div_ps(a, b); }
INLINE floats v_fma(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE floats v_fms(floats a, floats b, floats c) { return _mm512_fmsub_ps(a, b, c); }
/* The second if either is NaN. */
INLINE floats v_min(floats a, floats b) { return _mm512_min_ps(a, b); }
INLINE floats v_max(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE float v_sum(floats x) { return _mm512_reduce_add_ps(x); }
INLINE float v_most(floats x) { return _mm512_reduce_max_ps(x); }
INLINE floats v_nearest(floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* x times 2^steps, which are whole numbers up to 127; 0 where that is too small for a float. */
INLINE floats v_scale(floats x, floats steps) { return _mm512_scalef_ps(x, steps); }

/* The first `count` lanes, 1 to LANES. */
INLINE some first_of(int count) { return (some)((1u << count) - 1); }
INLINE floats v_load_some(floats others, some there, const float *from) {
    return _mm512_mask_loadu_ps(others, there, from);
}
INLINE floats v_keep(some there, floats x) { return _mm512_maskz_mov_ps(there, x); }

INLINE floats v_of_int8(const int8_t *from) {
    const __m128i eight = _mm_loadu_si128((const __m128i *)from);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(eight));
}
INLINE floats v_of_int32(const int32_t *from) {
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(from));
}

/* An activation of 8 bits as it lies in memory, from LEAST on, and how many of them are multiplied
 * and summed at once for a column. */
typedef uint8_t rounded;
#define LEAST 0
#define TOGETHER 4

/* ONNX's QuantizeLinear of 16 numbers that are divided by the scale already: rounded to the nearest
 * even, shifted, and saturated. */
INLINE void store_quantised(rounded *to, floats scaled, integers zero) {
    const floats held = v_min(scaled, v_all(1e6f)); /* an int can hold it */
    const integers near = _mm512_add_epi32(_mm512_cvtps_epi32(held), zero);
    const integers positive = _mm512_max_epi32(near, _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(positive));
}

INLINE integers i_all(int32_t x) { return _mm512_set1_epi32(x); }
INLINE integers i_nought(void) { return _mm512_setzero_si512(); }
INLINE void i_store(int32_t *to, integers x) { _mm512_storeu_si512(to, x); }
/* TOGETHER activations for all lanes, and as many weights of each lane's column. */
typedef integers inputs;
INLINE inputs load_inputs(const rounded *from) {
    int32_t together;
    memcpy(&together, from, sizeof together);
    return _mm512_set1_epi32(together);
}
INLINE integers load_weights(const int8_t *from) { return _mm512_loadu_si512(from); }

/* acc += x times b, four products of 8 bits a lane. Written out because GCC (12) copies the sum
 * around the intrinsic, and then has not enough registers for a tile: three times as slow. */
INLINE void add_products(integers *acc, inputs x, integers b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(x), "v"(b));
}

/* 16 rows [16, 16] to columns: to[j * to_stride + i] = from[i * from_stride + j], rows from `count`
 * on being nought. */
INLINE void turn_block(const float *from, int from_stride, int count, float *to, int to_stride) {
    floats r[LANES], t[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        r[i] = i < count ? v_load(from + (size_t)i * from_stride) : v_nought();
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v_store(to + (size_t)i * to_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
        v_store(to + (size_t)(i + 8) * to_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
        v_store(to + (size_t)(i + 4) * to_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
        v_store(to + (size_t)(i + 12) * to_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

#endif
