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
    floats sum = v_nought();
    for (int at = 0; at < hidden; at += LANES) sum = v_add(sum, v_load(x + at));
    const floats mean = v_all(v_sum(sum) / (float)hidden);
    floats squares = v_nought();
    for (int at = 0; at < hidden; at += LANES) {
        const floats from = v_sub(v_load(x + at), mean);
        squares = v_fma(from, from, squares);
    }
    const float variance = v_sum(squares) / (float)hidden;
    const floats by = v_all(1.0f / sqrtf(variance + (float)norm->epsilon));
    for (int at = 0; at < hidden; at += LANES) {
        const floats from = v_sub(v_load(x + at), mean);
        const floats y = v_fma(v_mul(from, by), v_load(norm->weight + at),
                                         v_load(norm->bias + at));
        v_store(out + at, y);
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
            const floats value = v_all(room->apart[row * MOST_APART + i]);
            const float *by = layer->output.apart_rows + (size_t)i * hidden;
            for (int at = 0; at < hidden; at += LANES)
                v_store(x + at, v_fma(value, v_load(by + at),
                                                         v_load(x + at)));
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
