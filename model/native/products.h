/* Products of activations with constant matrices, and what follows each at once: of uint8 with int8
 * (AVX-512 VNNI), or all in fp32.
 *
 * A matrix [K, N] lies packed: N / 64 panels of [K / 4, 64, 4] in 8 bits, so that an instruction
 * takes four values of K for 16 columns, and of [K, 64] in fp32. A tile of 6 rows by 64 columns is
 * summed in 24 of the 32 registers, and goes on in fp32 from there: what would follow in an
 * operation of its own is done before the tile is stored. */
#ifndef FASHIONBERT_PRODUCTS_H
#define FASHIONBERT_PRODUCTS_H

#include <string.h>

#include "dense.h"

#define TILE_ROWS DENSE_ROWS
#define TILE_VECTORS DENSE_VECTORS
#define TILE_COLUMNS (TILE_VECTORS * LANES)

/* Mirrored by model/native/structures.py, field by field; so are all other structures. */
typedef struct {
    const void *weight;      /* packed, int8 or float */
    const float *shift;      /* [N]: the bias, less what the activation's zero point adds */
    const float *scale;      /* 8 bits, [N]: the activation's scale times the column's */
    const float *multiplier; /* 8 bits, [K]: what an input is multiplied by to be rounded to uint8 */
    const float *apart_rows; /* [apart, N]: rows of the matrix that are multiplied in fp32 */
    const int32_t *apart;    /* [apart]: their numbers in K; in `weight` they are nought */
    int32_t inner, columns, zero, apart_count, eight_bit;
} Product;

#define MOST_APART 8

/* What a product's rows become. */
enum Ending {
    STORE_HEADS, /* fp32, a block of rows for each head: see Target */
    ADD_ROWS,    /* fp32, added to the rows they come from */
    GELU,        /* the input of the product `next` */
};

typedef struct {
    float *out;                /* STORE_HEADS [N / width, capacity, width]; ADD_ROWS [rows, N] */
    int width, capacity;       /* STORE_HEADS */
    const float *const *added; /* ADD_ROWS: a row [N] for each row */
    void *input;               /* GELU [rows, N], of the type that `next` takes */
    float *apart;              /* GELU [rows, MOST_APART]: values of the channels that are apart */
    const Product *next;       /* GELU */
} Target;

/* Bytes of each value of a product's input. */
INLINE size_t input_bytes(const Product *product) {
    return product->eight_bit ? sizeof(uint8_t) : sizeof(float);
}

/* Where row `row` of a product's input begins. */
INLINE void *input_row(const Product *product, void *input, int row) {
    return (char *)input + (size_t)row * product->inner * input_bytes(product);
}

/* 16 values of a row of a product's input, from channel `at` on: rounded, if it is of 8 bits. */
INLINE void store_input(const Product *product, void *row, int at, __m512 x) {
    if (product->eight_bit)
        store_quantised((uint8_t *)row + at,
                        _mm512_mul_ps(x, _mm512_loadu_ps(product->multiplier + at)),
                        _mm512_set1_epi32(product->zero));
    else
        _mm512_storeu_ps((float *)row + at, x);
}

/* acc += x times b, four products of 8 bits a lane. Written out because GCC (12) copies the sum
 * around the intrinsic, and then has not enough registers for a tile: three times as slow. */
INLINE void add_products(__m512i *acc, __m512i x, __m512i b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(x), "v"(b));
}

/* sums [rows, 64] = a [rows, inner] times a panel of 8 bits. */
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

/* Functions for each number of rows, so that each has all registers for itself. Those in fp32 take
 * `count` values of K, `stride` apart in a, and add to sums unless they are the `first`. */
#define TILE_OF(rows)                                                                             \
    static __attribute__((noinline)) void multiply_##rows(const uint8_t *a, const int8_t *panel,  \
                                                          int inner, int32_t *sums) {             \
        multiply_tile(rows, a, panel, inner, sums);                                               \
    }                                                                                             \
    static __attribute__((noinline)) void multiply_fp32_##rows(                                   \
        int first, const float *a, int stride, const float *panel, int count, float *sums) {      \
        dense_tile(rows, TILE_VECTORS, a, stride, panel, TILE_COLUMNS, count, NULL, !first, sums, \
                   TILE_COLUMNS);                                                                 \
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

/* The 16 values of a sum with what the product adds to it. */
INLINE __m512 finish(int eight_bit, const void *sum, __m512 scale, __m512 shift) {
    if (eight_bit)
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum)), scale, shift);
    return _mm512_add_ps(_mm512_load_ps(sum), shift);
}

/* Put a tile of rows from `row` and columns from `column` where it belongs. */
INLINE void end_tile(enum Ending ending, int eight_bit, int rows, const Product *product, int row,
                     int column, const void *summed, const Target *to) {
    const int32_t *sums = summed; /* or float, of the same size */
    const size_t columns = product->columns; /* uint8 that is written may lie anywhere, to C */
    for (int v = 0; v < TILE_VECTORS; v++, sums += LANES) {
        const int at = column + v * LANES;
        const __m512 scale =
            eight_bit ? _mm512_loadu_ps(product->scale + at) : _mm512_setzero_ps();
        const __m512 shift = _mm512_loadu_ps(product->shift + at);
        if (ending == STORE_HEADS) {
            const size_t width = to->width;
            float *out = to->out + (at / width * to->capacity + row) * width + at % width;
            for (int r = 0; r < rows; r++, out += width)
                _mm512_storeu_ps(out, finish(eight_bit, sums + r * TILE_COLUMNS, scale, shift));
        } else if (ending == ADD_ROWS) {
            const float *const *added = to->added + row;
            float *out = to->out + row * columns + at;
            for (int r = 0; r < rows; r++, out += columns) {
                const __m512 x = finish(eight_bit, sums + r * TILE_COLUMNS, scale, shift);
                _mm512_storeu_ps(out, _mm512_add_ps(x, _mm512_loadu_ps(added[r] + at)));
            }
        } else if (eight_bit) {
            const Product *next = to->next;
            const __m512 by = _mm512_loadu_ps(next->multiplier + at);
            const __m512i zero = _mm512_set1_epi32(next->zero);
            const int apart = any_apart(next, at);
            uint8_t *out = (uint8_t *)to->input + row * columns + at;
            for (int r = 0; r < rows; r++, out += columns) {
                const __m512 x = gelu_of(finish(1, sums + r * TILE_COLUMNS, scale, shift));
                store_quantised(out, _mm512_mul_ps(x, by), zero);
                if (apart) keep_apart(next, x, at, to->apart + (row + r) * MOST_APART);
            }
        } else {
            float *out = (float *)to->input + row * columns + at;
            for (int r = 0; r < rows; r++, out += columns)
                _mm512_storeu_ps(out, gelu_of(finish(0, sums + r * TILE_COLUMNS, scale, shift)));
        }
    }
}

/* a [rows, K], uint8, times a product's matrix of 8 bits. */
INLINE void multiply_eight_bit(enum Ending ending, const Product *product, const uint8_t *a,
                               int rows, const Target *to) {
    static void (*const by_rows[TILE_ROWS])(const uint8_t *, const int8_t *, int, int32_t *) = {
        multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6};
    const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int column = 0; column < product->columns; column += TILE_COLUMNS) {
        const int8_t *panel = (const int8_t *)product->weight + (size_t)column * product->inner;
        for (int tile = 0; tile < tiles; tile++) { /* of like size: one row alone is slow */
            const int row = rows * tile / tiles, count = rows * (tile + 1) / tiles - row;
            _Alignas(64) int32_t sums[TILE_ROWS * TILE_COLUMNS];
            by_rows[count - 1](a + (size_t)row * product->inner, panel, product->inner, sums);
            end_tile(ending, 1, count, product, row, column, sums, to);
        }
    }
}

/* Rows and values of K that are multiplied before the next: a panel's part stays in the core's
 * second cache while all rows go over it. */
#define BLOCK_ROWS 96
#define BLOCK_INNER 384

/* a [rows, K] times a product's matrix, in fp32. */
INLINE void multiply_fp32(enum Ending ending, const Product *product, const float *a, int rows,
                          const Target *to) {
    static void (*const by_rows[TILE_ROWS])(int, const float *, int, const float *, int, float *) = {
        multiply_fp32_1, multiply_fp32_2, multiply_fp32_3,
        multiply_fp32_4, multiply_fp32_5, multiply_fp32_6};
    const int inner = product->inner;
    _Alignas(64) float sums[BLOCK_ROWS * TILE_COLUMNS];
    for (int from = 0; from < rows; from += BLOCK_ROWS) {
        const int here = smaller(BLOCK_ROWS, rows - from);
        const int tiles = (here + TILE_ROWS - 1) / TILE_ROWS;
        for (int column = 0; column < product->columns; column += TILE_COLUMNS) {
            const float *panel = (const float *)product->weight + (size_t)column * inner;
            for (int k = 0; k < inner; k += BLOCK_INNER) {
                const int count = smaller(BLOCK_INNER, inner - k);
                for (int tile = 0; tile < tiles; tile++) {
                    const int row = here * tile / tiles, end = here * (tile + 1) / tiles;
                    by_rows[end - row - 1](!k, a + (size_t)(from + row) * inner + k, inner,
                                           panel + (size_t)k * TILE_COLUMNS, count,
                                           sums + row * TILE_COLUMNS);
                }
            }
            for (int tile = 0; tile < tiles; tile++) {
                const int row = here * tile / tiles, end = here * (tile + 1) / tiles;
                end_tile(ending, 0, end - row, product, from + row, column,
                         sums + row * TILE_COLUMNS, to);
            }
        }
    }
}

/* a [rows, K], of the type that the product takes, times its matrix; `ending` must be a constant. */
INLINE void multiply(enum Ending ending, const Product *product, const void *a, int rows,
                     const Target *to) {
    if (product->eight_bit)
        multiply_eight_bit(ending, product, a, rows, to);
    else
        multiply_fp32(ending, product, a, rows, to);
}

/* x [K] as a row of a product's input. */
INLINE void store_row(const Product *product, const float *x, void *row) {
    for (int at = 0; at < product->inner; at += LANES)
        store_input(product, row, at, _mm512_loadu_ps(x + at));
}

#endif
