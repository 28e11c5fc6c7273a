/* Softmax attention of one pair, head by head, in fp32. */
#ifndef FASHIONBERT_ATTENTION_H
#define FASHIONBERT_ATTENTION_H

#include <float.h>
#include <string.h>

#include "products.h"

/* Rows of queries, keys and values: [3, heads, capacity, width], of which `count` from `first`. */
typedef struct {
    const float *heads;
    int capacity, first, count;
} Projected;

/* What an attention of at most `length` rows needs besides: see attention_room. */
typedef struct {
    float *keys;   /* [width, whole(length) + LANES] */
    float *values; /* [length, width] */
    float *scores; /* [DENSE_ROWS, whole(length)] */
    float *mixed;  /* [DENSE_ROWS, width] */
} AttentionRoom;

/* row [whole(length)] becomes 2^(factor (row - max)), nought from `length` on. Gives 1 / its sum. */
INLINE float soften(float *row, int length, float factor) {
    const int last = (length - 1) / LANES * LANES;
    const __mmask16 there = (__mmask16)((1u << (length - last)) - 1);
    __m512 most = _mm512_mask_loadu_ps(_mm512_set1_ps(-FLT_MAX), there, row + last);
    for (int at = 0; at < last; at += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(row + at));
    const __m512 by = _mm512_set1_ps(factor);
    const __m512 less = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    __m512 sum = _mm512_setzero_ps();
    for (int at = 0; at < last; at += LANES) {
        const __m512 below = _mm512_sub_ps(_mm512_loadu_ps(row + at), less);
        const __m512 share = exp2_of(_mm512_mul_ps(below, by));
        _mm512_storeu_ps(row + at, share);
        sum = _mm512_add_ps(sum, share);
    }
    const __m512 end = _mm512_sub_ps(_mm512_mask_loadu_ps(less, there, row + last), less);
    const __m512 share = _mm512_maskz_mov_ps(there, exp2_of(_mm512_mul_ps(end, by)));
    _mm512_storeu_ps(row + last, share);
    return 1.0f / _mm512_reduce_add_ps(_mm512_add_ps(sum, share));
}

/* Attention of all rows of the sides to all of them, as the input of `next`.
 *
 * scale: of the scores; out: [rows of all sides, heads * width], of the type that `next` takes. */
static void attend(const Projected *sides, int side_count, int heads, int width, float scale,
                   const AttentionRoom *room, const Product *next, void *out) {
    int length = 0;
    for (int s = 0; s < side_count; s++) length += sides[s].count;
    const int columns = whole(length), stride = columns + LANES;
    for (int head = 0; head < heads; head++) {
        const float *queries[2];
        for (int s = 0, row = 0; s < side_count; row += sides[s++].count) {
            const size_t part = (size_t)heads * sides[s].capacity * width;
            const float *from =
                sides[s].heads + ((size_t)head * sides[s].capacity + sides[s].first) * width;
            queries[s] = from;
            turn(from + part, width, sides[s].count, width, room->keys + row, stride);
            memcpy(room->values + (size_t)row * width, from + 2 * part,
                   (size_t)sides[s].count * width * sizeof(float));
        }
        for (int s = 0, first = 0; s < side_count; first += sides[s++].count) {
            for (int row = 0; row < sides[s].count; row += DENSE_ROWS) {
                const int rows = smaller(DENSE_ROWS, sides[s].count - row);
                float inverse[DENSE_ROWS];
                dense(queries[s] + (size_t)row * width, width, rows, room->keys, stride, width,
                      columns, NULL, room->scores, columns);
                for (int r = 0; r < rows; r++)
                    inverse[r] = soften(room->scores + (size_t)r * columns, length, scale * LOG2_E);
                dense(room->scores, columns, rows, room->values, width, length, width, NULL,
                      room->mixed, width);
                for (int r = 0; r < rows; r++) {
                    void *to = input_row(next, out, first + row + r);
                    for (int at = 0; at < width; at += LANES)
                        store_input(next, to, head * width + at,
                                    _mm512_mul_ps(_mm512_loadu_ps(room->mixed + r * width + at),
                                                  _mm512_set1_ps(inverse[r])));
                }
            }
        }
    }
}

#endif
