/* The matcher as one function: what `matcher.onnx` computes, in the same 8-bit steps or in fp32.
 *
 * Pairs go through all layers but the last a few at a time, so that their activations stay in the
 * core's cache and only weights are read again; the last layer, which has one row a pair, and so
 * little to do with each weight, takes the pairs of a pass together. One thread; the caller runs
 * several. */
#include "network.h"

/* Rows that go through the layers together: measured, docs/EXPERIMENTS.md. */
#define TILE_TARGET 128

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

/* One side of pairs: states int8 [N, length, H] with scales [N, length], and the row of each pair,
 * or rows == NULL: row 0 for all. */
typedef struct {
    const int8_t *values;
    const float *scales;
    const int64_t *rows;
    int32_t length;
} Side;

/* States of some pairs' texts or pictures, without padding, and what is made of each alone. */
typedef struct {
    float *states;      /* [capacity, H] */
    void *input;        /* [capacity, H], of the first product's type */
    float *heads;       /* [3 heads, capacity, H / heads] */
    float *tokens;      /* [capacity, alignment size]: unit vectors */
    float *embeddings;  /* [items, recall size]: unit vectors */
    float *shares;      /* [capacity + LANES]: of texts, how much each token counts */
    float *mean;        /* [H] */
    int capacity;
} Segment;

typedef struct {
    Segment text, image;
    LayerRoom layer;
    AttentionRoom attention;
    float *heads;        /* [3 heads, tile rows, H / heads] */
    void *attended;      /* [tile rows or pairs, H], of the products' type */
    float *states;       /* [rows of all pairs, H], after all layers but the last */
    float *turned;       /* [H, whole(longest) + LANES]: states, or the alignment's patches */
    float *scores;       /* [most rows that are scored at once, whole(longest)] */
    float *query;        /* [heads, pairs, H / heads] */
    float *asked;        /* [pairs, heads, H] */
    float *mixed;        /* [heads, pairs, H] */
    float *cls;          /* [pairs, H] */
    int *first;          /* [pairs + 1]: where each pair's rows begin */
    float *stacked;      /* [pairs] */
} Room;

static void *cut(uintptr_t *at, size_t bytes) {
    const uintptr_t here = *at;
    *at = here + (bytes + 63) / 64 * 64;
    return (void *)here;
}

#define CUT(type, rows, width) ((type *)cut(&at, (size_t)(rows) * (size_t)(width) * sizeof(type)))

static int tile_pairs(int length) { return length < TILE_TARGET ? TILE_TARGET / length : 1; }

static void cut_segment(const Matcher *m, Segment *segment, int items, int length, uintptr_t *end) {
    uintptr_t at = *end;
    const int rows = items * length;
    segment->states = CUT(float, rows, m->hidden);
    segment->input = CUT(char, rows, m->hidden * input_bytes(&m->last.query));
    segment->heads = CUT(float, rows, 3 * m->hidden);
    segment->tokens = CUT(float, rows, m->alignment.size);
    segment->embeddings = CUT(float, items, m->recall.size);
    segment->shares = CUT(float, rows + LANES, 1);
    segment->mean = CUT(float, 1, m->hidden);
    segment->capacity = rows;
    *end = at;
}

/* Where everything lies in a block of memory from `at` on; gives its end. */
static uintptr_t arrange(const Matcher *m, const Side *text, const Side *image, int pairs,
                         int longest, uintptr_t at, Room *room) {
    const int hidden = m->hidden, length = longest + image->length;
    const int tile = smaller(pairs, tile_pairs(length)), rows = tile * length;
    /* Rows of the last layer are one a pair. */
    const int most = rows > pairs ? rows : pairs;
    int inner = m->last.after.intermediate.columns;
    for (int i = 0; i < m->layer_count; i++)
        if (m->layers[i].after.intermediate.columns > inner)
            inner = m->layers[i].after.intermediate.columns;
    const int scored = longest > m->heads ? longest : m->heads;
    const int width = hidden / m->heads;
    const size_t bytes = input_bytes(&m->last.query); /* all products are of one type */
    const int turned = hidden > m->alignment.size ? hidden : m->alignment.size;
    cut_segment(m, &room->text, text->rows ? tile : 1, longest, &at);
    cut_segment(m, &room->image, image->rows ? tile : 1, image->length, &at);
    room->layer.middle = CUT(float, most, hidden);
    room->layer.input = CUT(char, most, hidden * bytes);
    room->layer.inner = CUT(char, most, inner * bytes);
    room->layer.apart = CUT(float, most, MOST_APART);
    room->layer.added = CUT(const float *, most, 1);
    room->attention.keys = CUT(float, width, whole(length) + LANES);
    room->attention.values = CUT(float, length, width);
    room->attention.scores = CUT(float, DENSE_ROWS, whole(length));
    room->attention.mixed = CUT(float, DENSE_ROWS, width);
    room->heads = CUT(float, rows, 3 * hidden);
    room->attended = CUT(char, most, hidden * bytes);
    room->states = CUT(float, pairs, (size_t)length * hidden);
    room->turned = CUT(float, turned, whole(length) + LANES);
    room->scores = CUT(float, scored, whole(length));
    room->query = CUT(float, pairs, hidden);
    room->asked = CUT(float, pairs, m->heads * hidden);
    room->mixed = CUT(float, pairs, m->heads * hidden);
    room->cls = CUT(float, pairs, hidden);
    room->first = CUT(int, pairs + 1, 1);
    room->stacked = CUT(float, pairs, 1);
    return at;
}

static float dot(const float *a, const float *b, int size) {
    __m512 sum = _mm512_setzero_ps();
    for (int at = 0; at < size; at += LANES)
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(a + at), _mm512_loadu_ps(b + at), sum);
    return _mm512_reduce_add_ps(sum);
}

static void to_unit_length(float *x, int size) {
    const float length = sqrtf(dot(x, x, size));
    const __m512 by = _mm512_set1_ps(1.0f / (length > 1e-12f ? length : 1e-12f));
    for (int at = 0; at < size; at += LANES)
        _mm512_storeu_ps(x + at, _mm512_mul_ps(_mm512_loadu_ps(x + at), by));
}

/* The states of one item from row `row` of a segment on: int8 times their scales. */
static void dequantise(const Matcher *m, const Side *side, int64_t item, int count,
                       Segment *segment, int row) {
    const int8_t *values = side->values + (size_t)item * side->length * m->hidden;
    const float *scales = side->scales + (size_t)item * side->length;
    for (int i = 0; i < count; i++) {
        const __m512 scale = _mm512_set1_ps(scales[i]);
        float *to = segment->states + (size_t)(row + i) * m->hidden;
        for (int at = 0; at < m->hidden; at += LANES) {
            const __m128i eight = _mm_loadu_si128((const __m128i *)(values + at));
            _mm512_storeu_ps(
                to + at, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(eight)), scale));
        }
        values += m->hidden;
    }
}

/* What the stacked scores need of an item, whose states are a segment's from row `row` on. */
static void project_stacked(const Matcher *m, int is_text, int item, int row, int count,
                            const Segment *segment) {
    const float *states = segment->states + (size_t)row * m->hidden;
    if (m->recall.size) {
        for (int at = 0; at < m->hidden; at += LANES) {
            __m512 sum = _mm512_setzero_ps();
            for (int i = 0; i < count; i++)
                sum = _mm512_add_ps(sum, _mm512_loadu_ps(states + (size_t)i * m->hidden + at));
            _mm512_storeu_ps(segment->mean + at, _mm512_div_ps(sum, _mm512_set1_ps((float)count)));
        }
        const int size = m->recall.size;
        float *embedding = segment->embeddings + (size_t)item * size;
        dense(segment->mean, m->hidden, 1, is_text ? m->recall.text : m->recall.image, size,
              m->hidden, size, is_text ? m->recall.text_bias : m->recall.image_bias, embedding,
              size);
        to_unit_length(embedding, size);
    }
    if (m->alignment.size) {
        const int size = m->alignment.size;
        float *tokens = segment->tokens + (size_t)row * size;
        dense(states, m->hidden, count, is_text ? m->alignment.text : m->alignment.image, size,
              m->hidden, size, is_text ? m->alignment.text_bias : m->alignment.image_bias, tokens,
              size);
        for (int i = 0; i < count; i++) to_unit_length(tokens + (size_t)i * size, size);
    }
    if (m->alignment.size && is_text) {
        float *shares = segment->shares + row;
        for (int i = 0; i < count; i++)
            shares[i] = dot(states + (size_t)i * m->hidden, m->alignment.salience, m->hidden);
        /* Writes whole vectors: what lies behind belongs to the next item, which comes later. */
        const float inverse = soften(shares, count, LOG2_E);
        for (int i = 0; i < count; i++) shares[i] *= inverse;
    }
}

/* Items of one side into a segment, each behind the other: their states, projections for the first
 * layer and what the stacked scores need. `counts` rows each, or `count` if that is NULL. */
static void fill(const Matcher *m, int is_text, const Side *side, int from, int items,
                 const int32_t *counts, Segment *segment) {
    int row = 0;
    for (int item = 0; item < items; item++) {
        const int count = counts ? counts[from + item] : side->length;
        dequantise(m, side, side->rows ? side->rows[from + item] : 0, count, segment, row);
        project_stacked(m, is_text, item, row, count, segment);
        row += count;
    }
    if (!m->layer_count) return;
    const Product *projections = &m->layers[0].projections;
    for (int i = 0; i < row; i++)
        store_row(projections, segment->states + (size_t)i * m->hidden,
                  input_row(projections, segment->input, i));
    const Target heads = {
        .out = segment->heads, .width = m->hidden / m->heads, .capacity = segment->capacity};
    multiply(STORE_HEADS, projections, segment->input, row, &heads);
}

/* The stacked scores of a pair: rows `text_row` and on of one segment, `image_row` of the other. */
static float stack(const Matcher *m, const Room *room, int text_item, int text_row, int count,
                   int image_item, int image_row, int patches) {
    float score = 0.0f;
    if (m->recall.size) {
        const int size = m->recall.size;
        score += (float)m->recall.weight *
                 dot(room->text.embeddings + (size_t)text_item * size,
                     room->image.embeddings + (size_t)image_item * size, size);
    }
    if (m->alignment.size) {
        const int size = m->alignment.size, columns = whole(patches), stride = columns + LANES;
        turn(room->image.tokens + (size_t)image_row * size, size, patches, size, room->turned,
             stride);
        dense(room->text.tokens + (size_t)text_row * size, size, count, room->turned, stride, size,
              columns, NULL, room->scores, columns);
        const int last = columns - LANES;
        const __mmask16 there = (__mmask16)((1u << (patches - last)) - 1);
        float sum = 0.0f;
        for (int i = 0; i < count; i++) {
            const float *row = room->scores + (size_t)i * columns;
            __m512 most = _mm512_mask_loadu_ps(_mm512_set1_ps(-FLT_MAX), there, row + last);
            for (int at = 0; at < last; at += LANES)
                most = _mm512_max_ps(most, _mm512_loadu_ps(row + at));
            sum += room->text.shares[text_row + i] * _mm512_reduce_max_ps(most);
        }
        score += (float)m->alignment.weight * sum;
    }
    return score;
}

/* Pairs from `from` on through all layers but the last, into room->states. */
static void through_layers(const Matcher *m, const Side *text, const Side *image,
                           const int32_t *lengths, int from, int pairs, Room *room) {
    const int hidden = m->hidden, heads = m->heads, width = hidden / heads;
    const int patches = image->length;
    const float scale = 1.0f / sqrtf((float)width);
    if (text->rows) fill(m, 1, text, from, pairs, lengths, &room->text);
    if (image->rows) fill(m, 0, image, from, pairs, NULL, &room->image);
    const int *first = room->first + from;
    const int rows = first[pairs] - first[0];
    float *states = room->states + (size_t)first[0] * hidden;
    for (int i = 0, texts = 0; i < pairs; texts += lengths[from + i++]) {
        const int count = lengths[from + i];
        const int text_row = text->rows ? texts : 0, image_row = image->rows ? i * patches : 0;
        const float *of_text = room->text.states + (size_t)text_row * hidden;
        const float *of_image = room->image.states + (size_t)image_row * hidden;
        room->stacked[from + i] = stack(m, room, text->rows ? i : 0, text_row, count,
                                        image->rows ? i : 0, image_row, patches);
        const int row = first[i] - first[0];
        if (!m->layer_count) {
            float *to = states + (size_t)row * hidden;
            memcpy(to, of_text, (size_t)count * hidden * sizeof(float));
            memcpy(to + (size_t)count * hidden, of_image, (size_t)patches * hidden * sizeof(float));
            continue;
        }
        const Projected sides[2] = {{room->text.heads, room->text.capacity, text_row, count},
                                    {room->image.heads, room->image.capacity, image_row, patches}};
        const Product *next = &m->layers[0].after.attended;
        attend(sides, 2, heads, width, scale, &room->attention, next,
               input_row(next, room->attended, row));
        for (int j = 0; j < count; j++) room->layer.added[row + j] = of_text + (size_t)j * hidden;
        for (int j = 0; j < patches; j++)
            room->layer.added[row + count + j] = of_image + (size_t)j * hidden;
    }
    for (int number = 0; number < m->layer_count; number++) {
        const Layer *layer = m->layers + number;
        if (number) {
            const Target to = {.out = room->heads, .width = width, .capacity = rows};
            multiply(STORE_HEADS, &layer->projections, room->layer.input, rows, &to);
            for (int i = 0; i < pairs; i++) {
                const int row = first[i] - first[0];
                const Projected all = {room->heads, rows, row, first[i + 1] - first[i]};
                attend(&all, 1, heads, width, scale, &room->attention, &layer->after.attended,
                       input_row(&layer->after.attended, room->attended, row));
            }
            for (int row = 0; row < rows; row++)
                room->layer.added[row] = states + (size_t)row * hidden;
        }
        const Product *next = number + 1 < m->layer_count ? &layer[1].projections : NULL;
        after_attention(&layer->after, hidden, rows, room->attended, &room->layer, states, next,
                        room->layer.input);
    }
}

/* The last layer's row 0 of all pairs, into room->cls. */
static void through_last(const Matcher *m, int pairs, Room *room) {
    const LastLayer *last = &m->last;
    const int hidden = m->hidden, heads = m->heads, width = hidden / heads;
    const float scale = 1.0f / sqrtf((float)width);
    for (int i = 0; i < pairs; i++)
        store_row(&last->query, room->states + (size_t)room->first[i] * hidden,
                  input_row(&last->query, room->layer.input, i));
    const Target query = {.out = room->query, .width = width, .capacity = pairs};
    multiply(STORE_HEADS, &last->query, room->layer.input, pairs, &query);
    for (int head = 0; head < heads; head++)
        dense(room->query + (size_t)head * pairs * width, width, pairs,
              last->keys + (size_t)head * width * hidden, hidden, width, hidden, NULL,
              room->asked + (size_t)head * hidden, heads * hidden);
    for (int i = 0; i < pairs; i++) {
        const int length = room->first[i + 1] - room->first[i];
        const int columns = whole(length), stride = columns + LANES;
        const float *states = room->states + (size_t)room->first[i] * hidden;
        turn(states, hidden, length, hidden, room->turned, stride);
        dense(room->asked + (size_t)i * heads * hidden, hidden, heads, room->turned, stride, hidden,
              columns, NULL, room->scores, columns);
        for (int head = 0; head < heads; head++) {
            float *row = room->scores + (size_t)head * columns;
            const __m512 by = _mm512_set1_ps(soften(row, length, scale * LOG2_E));
            for (int at = 0; at < columns; at += LANES)
                _mm512_storeu_ps(row + at, _mm512_mul_ps(_mm512_loadu_ps(row + at), by));
        }
        dense(room->scores, columns, heads, states, hidden, length, hidden, NULL,
              room->mixed + (size_t)i * hidden, pairs * hidden);
    }
    for (int head = 0; head < heads; head++) /* `query` is not needed any more */
        dense(room->mixed + (size_t)head * pairs * hidden, hidden, pairs,
              last->values + (size_t)head * hidden * width, width, hidden, width,
              last->value_bias + head * width, room->query + (size_t)head * width, hidden);
    for (int i = 0; i < pairs; i++) {
        store_row(&last->after.attended, room->query + (size_t)i * hidden,
                  input_row(&last->after.attended, room->attended, i));
        room->layer.added[i] = room->states + (size_t)room->first[i] * hidden;
    }
    after_attention(&last->after, hidden, pairs, room->attended, &room->layer, room->cls, NULL,
                    NULL);
}

/* Bytes that `match_pairs` needs. */
PUBLIC size_t match_room(const Matcher *m, const Side *text, const Side *image, int32_t pairs,
                         int32_t longest) {
    Room room;
    return arrange(m, text, image, pairs, longest, 0, &room) + 64;
}

/* Match logits of pairs.
 *
 * lengths [pairs]: states of each pair's text that are no padding, 1 to `longest`;
 * logits [pairs]; memory: of match_room bytes, for this call alone. */
PUBLIC void match_pairs(const Matcher *m, const Side *text, const int32_t *lengths,
                        const Side *image, int32_t pairs, int32_t longest, float *logits,
                        char *memory) {
    Room room;
    arrange(m, text, image, pairs, longest, ((uintptr_t)memory + 63) / 64 * 64, &room);
    room.first[0] = 0;
    for (int i = 0; i < pairs; i++) room.first[i + 1] = room.first[i] + lengths[i] + image->length;
    if (!text->rows) fill(m, 1, text, 0, 1, lengths, &room.text);
    if (!image->rows) fill(m, 0, image, 0, 1, NULL, &room.image);
    const int tile = smaller(pairs, tile_pairs(longest + image->length));
    for (int from = 0; from < pairs; from += tile)
        through_layers(m, text, image, lengths, from, smaller(tile, pairs - from), &room);
    through_last(m, pairs, &room);
    const int hidden = m->hidden;
    /* `asked` is not needed any more, and has room for this. */
    dense(room.cls, hidden, pairs, m->pooler, hidden, hidden, hidden, m->pooler_bias, room.asked,
          hidden);
    for (int i = 0; i < pairs; i++) {
        float *pooled = room.asked + (size_t)i * hidden;
        for (int at = 0; at < hidden; at += LANES)
            _mm512_storeu_ps(pooled + at, tanh_of(_mm512_loadu_ps(pooled + at)));
        logits[i] = dot(pooled, m->classifier, hidden) + room.stacked[i] + (float)m->shift;
    }
}

/* What this was compiled from: setup.py gives a hash of the sources. */
#define TEXT_OF(name) #name
#define QUOTED(name) TEXT_OF(name)
PUBLIC const char *matcher_sources(void) { return QUOTED(SOURCES); }
