/* Products in fp32, of matrices that are small or not constant. */
#ifndef FASHIONBERT_DENSE_H
#define FASHIONBERT_DENSE_H

#include "simd.h"

#define DENSE_ROWS 6
#define DENSE_VECTORS 4

/* c [rows, 16 vectors] = a [rows, inner] times b [inner, 16 vectors], plus a bias or NULL; or added
 * to c. */
INLINE void dense_tile(int rows, int vectors, const float *a, int a_stride, const float *b,
                       int b_stride, int inner, const float *bias, int add, float *c,
                       int c_stride) {
    __m512 acc[DENSE_ROWS][DENSE_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const __m512 first = bias ? _mm512_loadu_ps(bias + v * LANES) : _mm512_setzero_ps();
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            acc[r][v] = add ? _mm512_loadu_ps(c + (size_t)r * c_stride + v * LANES) : first;
    }
    for (int k = 0; k < inner; k++) {
        __m512 of_b[DENSE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            of_b[v] = _mm512_loadu_ps(b + (size_t)k * b_stride + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const __m512 x = _mm512_set1_ps(a[(size_t)r * a_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[r][v] = _mm512_fmadd_ps(x, of_b[v], acc[r][v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(c + (size_t)r * c_stride + v * LANES, acc[r][v]);
}

#define ROWS_OF(rows, vectors)                                                                    \
    case rows:                                                                                    \
        dense_tile(rows, vectors, from, a_stride, b + column, b_stride, inner,                    \
                   bias ? bias + column : NULL, 0, to, c_stride);                                 \
        break;

#define VECTORS_OF(vectors)                                                                       \
    case vectors:                                                                                 \
        switch (count) {                                                                          \
            ROWS_OF(1, vectors)                                                                   \
            ROWS_OF(2, vectors)                                                                   \
            ROWS_OF(3, vectors)                                                                   \
            ROWS_OF(4, vectors)                                                                   \
            ROWS_OF(5, vectors)                                                                   \
            ROWS_OF(6, vectors)                                                                   \
        }                                                                                         \
        break;

/* c [rows, columns] = a [rows, inner] times b [inner, columns], plus a bias [columns] or NULL.
 * Columns are whole vectors; strides are floats from one row to the next. */
static void dense(const float *a, int a_stride, int rows, const float *b, int b_stride, int inner,
                  int columns, const float *bias, float *c, int c_stride) {
    for (int column = 0; column < columns; column += DENSE_VECTORS * LANES) {
        const int wide = smaller(DENSE_VECTORS, (columns - column) / LANES);
        for (int row = 0; row < rows; row += DENSE_ROWS) {
            const int count = smaller(DENSE_ROWS, rows - row);
            const float *from = a + (size_t)row * a_stride;
            float *to = c + (size_t)row * c_stride + column;
            switch (wide) {
                VECTORS_OF(1)
                VECTORS_OF(2)
                VECTORS_OF(3)
                VECTORS_OF(4)
            }
        }
    }
}

#undef ROWS_OF
#undef VECTORS_OF

/* 16 rows [16, 16] to columns: to[j * to_stride + i] = from[i * from_stride + j], rows from `count`
 * on being nought. */
INLINE void turn_block(const float *from, int from_stride, int count, float *to, int to_stride) {
    __m512 r[LANES], t[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        r[i] = i < count ? _mm512_loadu_ps(from + (size_t)i * from_stride) : _mm512_setzero_ps();
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
        _mm512_storeu_ps(to + (size_t)i * to_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_ps(to + (size_t)(i + 8) * to_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
        _mm512_storeu_ps(to + (size_t)(i + 4) * to_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_ps(to + (size_t)(i + 12) * to_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

/* to [width, to_stride] = from [rows, width] turned; up to the next whole vector, columns from
 * `rows` on are nought. */
static void turn(const float *from, int from_stride, int rows, int width, float *to,
                 int to_stride) {
    for (int row = 0; row < rows; row += LANES)
        for (int at = 0; at < width; at += LANES)
            turn_block(from + (size_t)row * from_stride + at, from_stride,
                       smaller(LANES, rows - row), to + (size_t)at * to_stride + row, to_stride);
}

#endif
