/* Products in fp32, of matrices that are small or not constant. */
#ifndef FASHIONBERT_DENSE_H
#define FASHIONBERT_DENSE_H

#include "simd.h"

/* Of a tile, in any build; what DENSE_ROWS and DENSE_VECTORS do not reach is never called. */
#define MOST_ROWS 6
#define MOST_VECTORS 4

/* c [rows, LANES vectors] = a [rows, inner] times b [inner, LANES vectors], plus a bias or NULL; or
 * added to c. */
INLINE void dense_tile(int rows, int vectors, const float *a, int a_stride, const float *b,
                       int b_stride, int inner, const float *bias, int add, float *c,
                       int c_stride) {
    floats acc[MOST_ROWS][MOST_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const floats first = bias ? v_load(bias + v * LANES) : v_nought();
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            acc[r][v] = add ? v_load(c + (size_t)r * c_stride + v * LANES) : first;
    }
    for (int k = 0; k < inner; k++) {
        floats of_b[MOST_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) of_b[v] = v_load(b + (size_t)k * b_stride + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const floats x = v_all(a[(size_t)r * a_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[r][v] = v_fma(x, of_b[v], acc[r][v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            v_store(c + (size_t)r * c_stride + v * LANES, acc[r][v]);
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
