/* The matcher's weights, and what a transformer's layer does after its attention. */
#ifndef FASHIONBERT_NETWORK_H
#define FASHIONBERT_NETWORK_H

#include <math.h>

#include "attention.h"

typedef struct {
    const float *weight, *bias; /* [H] */
    double epsilon;
} Norm;

/* A post-norm layer from its attention's output on. */
typedef struct {
    Product attended, intermediate, output;
    Norm attention_norm, output_norm;
} AfterAttention;

typedef struct {
    Product projections; /* [H, 3H] */
    AfterAttention after;
} Layer;

/* The last layer, of which only row 0 of a pair is needed: model.layers, EncoderLayer.first_row. */
typedef struct {
    Product query;           /* [H, H] */
    const float *keys;       /* [heads, H / heads, H] */
    const float *values;     /* [heads, H, H / heads] */
    const float *value_bias; /* [H] */
    AfterAttention after;
} LastLayer;

/* A score that is stacked on the joint layers': its projections [H, size], or size 0 for none. */
typedef struct {
    const float *text, *text_bias, *image, *image_bias;
    const float *salience; /* [H], of the alignment only */
    double weight;
    int32_t size;
} Stacked;

typedef struct {
    int32_t hidden, heads, layer_count;
    const Layer *layers; /* but the last */
    LastLayer last;
    const float *pooler;      /* [H, H] */
    const float *pooler_bias; /* [H] */
    const float *classifier;  /* [H] */
    Stacked recall, alignment;
    double shift;
} Matcher;

/* x [H] normalised to `out`, which may be x, and as a row of the input of `next` unless NULL. */
INLINE void normalise_row(const Norm *norm, int hidden, const float *x, float *out,
                          const Product *next, void *row) {
    __m512 sum = _mm512_setzero_ps();
    for (int at = 0; at < hidden; at += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + at));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)hidden);
    __m512 squares = _mm512_setzero_ps();
    for (int at = 0; at < hidden; at += LANES) {
        const __m512 from = _mm512_sub_ps(_mm512_loadu_ps(x + at), mean);
        squares = _mm512_fmadd_ps(from, from, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)hidden;
    const __m512 by = _mm512_set1_ps(1.0f / sqrtf(variance + (float)norm->epsilon));
    for (int at = 0; at < hidden; at += LANES) {
        const __m512 from = _mm512_sub_ps(_mm512_loadu_ps(x + at), mean);
        const __m512 y = _mm512_fmadd_ps(_mm512_mul_ps(from, by), _mm512_loadu_ps(norm->weight + at),
                                         _mm512_loadu_ps(norm->bias + at));
        _mm512_storeu_ps(out + at, y);
    }
    if (next) store_row(next, out, row);
}

/* What a layer's end needs for `rows` rows. */
typedef struct {
    float *middle;       /* [rows, H] */
    void *input;         /* [rows, H], of the products' type */
    void *inner;         /* [rows, intermediate], likewise */
    float *apart;        /* [rows, MOST_APART] */
    const float **added; /* [rows] */
} LayerRoom;

/* attended [rows, H], of the rows room->added, to out [rows, H], and as `input` [rows, H] of the
 * product `next` unless that is NULL. */
static void after_attention(const AfterAttention *layer, int hidden, int rows,
                            const void *attended, const LayerRoom *room, float *out,
                            const Product *next, void *input) {
    const Target middle = {.out = room->middle, .added = room->added};
    multiply(ADD_ROWS, &layer->attended, attended, rows, &middle);
    for (int row = 0; row < rows; row++) {
        float *x = room->middle + (size_t)row * hidden;
        normalise_row(&layer->attention_norm, hidden, x, x, &layer->intermediate,
                      input_row(&layer->intermediate, room->input, row));
    }
    const Target inner = {.input = room->inner, .apart = room->apart, .next = &layer->output};
    multiply(GELU, &layer->intermediate, room->input, rows, &inner);
    for (int row = 0; row < rows; row++) {
        float *x = room->middle + (size_t)row * hidden;
        room->added[row] = x;
        for (int i = 0; i < layer->output.apart_count; i++) {
            const __m512 value = _mm512_set1_ps(room->apart[row * MOST_APART + i]);
            const float *by = layer->output.apart_rows + (size_t)i * hidden;
            for (int at = 0; at < hidden; at += LANES)
                _mm512_storeu_ps(x + at, _mm512_fmadd_ps(value, _mm512_loadu_ps(by + at),
                                                         _mm512_loadu_ps(x + at)));
        }
    }
    const Target end = {.out = out, .added = room->added};
    multiply(ADD_ROWS, &layer->output, room->inner, rows, &end);
    for (int row = 0; row < rows; row++) {
        float *x = out + (size_t)row * hidden;
        normalise_row(&layer->output_norm, hidden, x, x, next,
                      next ? input_row(next, input, row) : NULL);
    }
}

#endif
