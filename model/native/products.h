/* Products of uint8 activations with int8 matrices (AVX-512 VNNI), and what follows each at once.
 *
 * A matrix [K, N] lies packed: N / 64 panels of [K / 4, 64, 4], so that an instruction takes four
 * values of K for 16 columns. A tile of 6 rows by 64 columns is summed in 24 of the 32 registers,
 * and goes on in fp32 from there: what would follow in an operation of its own is done before the
 * tile is stored. */
#ifndef FASHIONBERT_PRODUCTS_H
#define FASHIONBERT_PRODUCTS_H

#include <string.h>

#include "simd.h"

#define TILE_ROWS 6
#define TILE_VECTORS 4
#define TILE_COLUMNS (TILE_VECTORS * LANES)

/* Mirrored by model/native/structures.py, field by field; so are all other structures. */
typedef struct {
    const int8_t *weight;       /* packed */
    const float *scale;         /* [N]: the activation's scale times the column's */
    const float *shift;         /* [N]: the bias, less what the activation's zero point adds */
    const float *multiplier;    /* [K]: what an input is multiplied by to be rounded to uint8 */
    const float *apart_rows;    /* [apart, N]: rows of the matrix that are multiplied in fp32 */
    const int32_t *apart;       /* [apart]: their numbers in K; in `weight` they are nought */
    int32_t inner, columns, zero, apart_count;
} Product;

#define MOST_APART 8

/* What a product's rows become. */
enum Ending {
    STORE_HEADS, /* fp32, a block of rows for each head: see Target */
    ADD_ROWS,    /* fp32, added to the rows they come from */
    GELU,        /* uint8, the input of the product `next` */
};

typedef struct {
    float *out;                /* STORE_HEADS [N / width, capacity, width]; ADD_ROWS [rows, N] */
    int width, capacity;       /* STORE_HEADS */
    const float *const *added; /* ADD_ROWS: a row [N] for each row */
    uint8_t *quantised;        /* GELU [rows, N] */
    float *apart;              /* GELU [rows, MOST_APART]: values of the channels that are apart */
    const Product *next;       /* GELU */
} Target;

/* acc += x times b, four products of 8 bits a lane. Written out because GCC (12) copies the sum
 * around the intrinsic, and then has not enough registers for a tile: three times as slow. */
INLINE void add_products(__m512i *acc, __m512i x, __m512i b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(x), "v"(b));
}

/* sums [rows, 64] = a [rows, inner] times a panel. */
INLINE void multiply_tile(int rows, const uint8_t *a, const int8_t *panel, int inner,
                          int32_t *sums) {
    __m512i acc[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = _mm512_setzero_si512();
    for (int k = 0; k < inner; k += 4, panel += 4 * TILE_COLUMNS) {
        __m512i b[TILE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++) b[v] = _mm512_loadu_si512(panel + v * 4 * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, a + (size_t)r * inner + k, 4);
            const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECTORS; v++) add_products(&acc[r][v], x, b[v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++)
            _mm512_storeu_si512(sums + r * TILE_COLUMNS + v * LANES, acc[r][v]);
}

/* One function for each number of rows, so that each has all registers for itself. */
#define TILE_OF(rows)                                                                       \
    static __attribute__((noinline)) void multiply_##rows(const uint8_t *a, const int8_t *panel, \
                                                          int inner, int32_t *sums) {       \
        multiply_tile(rows, a, panel, inner, sums);                                         \
    }
TILE_OF(1)
TILE_OF(2)
TILE_OF(3)
TILE_OF(4)
TILE_OF(5)
TILE_OF(6)
#undef TILE_OF

/* Values of the channels that are apart, of 16 columns from `column` on of a row. */
static __attribute__((noinline)) void keep_apart(const Product *next, __m512 x, int column,
                                                 float *apart) {
    float values[LANES];
    _mm512_storeu_ps(values, x);
    for (int i = 0; i < next->apart_count; i++) {
        const int channel = next->apart[i] - column;
        if (channel >= 0 && channel < LANES) apart[i] = values[channel];
    }
}

INLINE int any_apart(const Product *next, int column) {
    for (int i = 0; i < next->apart_count; i++)
        if (next->apart[i] >= column && next->apart[i] < column + LANES) return 1;
    return 0;
}

/* Put a tile of rows from `row` and columns from `column` where it belongs. */
INLINE void end_tile(enum Ending ending, int rows, const Product *product, int row, int column,
                     const int32_t *sums, const Target *to) {
    const size_t columns = product->columns; /* uint8 that is written may lie anywhere, to C */
    for (int v = 0; v < TILE_VECTORS; v++, sums += LANES) {
        const int at = column + v * LANES;
        const __m512 scale = _mm512_loadu_ps(product->scale + at);
        const __m512 shift = _mm512_loadu_ps(product->shift + at);
        if (ending == STORE_HEADS) {
            const size_t width = to->width;
            float *out = to->out + (at / width * to->capacity + row) * width + at % width;
            for (int r = 0; r < rows; r++, out += width) {
                const __m512i sum = _mm512_load_si512(sums + r * TILE_COLUMNS);
                _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, shift));
            }
        } else if (ending == ADD_ROWS) {
            const float *const *added = to->added + row;
            float *out = to->out + row * columns + at;
            for (int r = 0; r < rows; r++, out += columns) {
                const __m512i sum = _mm512_load_si512(sums + r * TILE_COLUMNS);
                const __m512 x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, shift);
                _mm512_storeu_ps(out, _mm512_add_ps(x, _mm512_loadu_ps(added[r] + at)));
            }
        } else {
            const Product *next = to->next;
            const __m512 by = _mm512_loadu_ps(next->multiplier + at);
            const __m512i zero = _mm512_set1_epi32(next->zero);
            const int apart = any_apart(next, at);
            uint8_t *out = to->quantised + row * columns + at;
            for (int r = 0; r < rows; r++, out += columns) {
                const __m512i sum = _mm512_load_si512(sums + r * TILE_COLUMNS);
                const __m512 x =
                    gelu_of(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, shift));
                store_quantised(out, _mm512_mul_ps(x, by), zero);
                if (apart) keep_apart(next, x, at, to->apart + (row + r) * MOST_APART);
            }
        }
    }
}

/* a [rows, K], uint8, times a product's matrix; `ending` must be a constant. */
INLINE void multiply(enum Ending ending, const Product *product, const uint8_t *a, int rows,
                     const Target *to) {
    static void (*const by_rows[TILE_ROWS])(const uint8_t *, const int8_t *, int, int32_t *) = {
        multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6};
    const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int column = 0; column < product->columns; column += TILE_COLUMNS) {
        const int8_t *panel = product->weight + (size_t)column * product->inner;
        for (int tile = 0; tile < tiles; tile++) { /* of like size: one row alone is slow */
            const int row = rows * tile / tiles;
            const uint8_t *from = a + (size_t)row * product->inner;
            const int count = rows * (tile + 1) / tiles - row;
            _Alignas(64) int32_t sums[TILE_ROWS * TILE_COLUMNS];
            by_rows[count - 1](from, panel, product->inner, sums);
            end_tile(ending, count, product, row, column, sums, to);
        }
    }
}

/* x [N], multiplied and rounded to a product's input. */
INLINE void quantise_row(const Product *product, const float *x, uint8_t *to) {
    const __m512i zero = _mm512_set1_epi32(product->zero);
    for (int at = 0; at < product->inner; at += LANES)
        store_quantised(to + at,
                        _mm512_mul_ps(_mm512_loadu_ps(x + at),
                                      _mm512_loadu_ps(product->multiplier + at)),
                        zero);
}

#endif
