/* Convolutions as products of tiles of bfloat16 (AMX): float32 as three products of halves, or rounded as one; depthwise
 * ones as sums of float32. `cores.py` calls them, and `ways.py` says how they go over an image.
 *
 * x is h + l, h its rounding to bfloat16 and l that of the rest; x x' is h h' + l h' + h l' up to 2^-16 of it (Henry et
 * al. 2019, arXiv:1904.06376). Sums are float32, in one order for each number that is written: threads and batches change
 * no bit.
 *
 * What is read lies in planes, one for each phase of the pixels that a convolution steps over: positions row behind row,
 * image behind image, with zeros between where taps reach beyond an edge. There a tap is an offset, and sixteen positions
 * by 32 channels are a tile. Positions that are no pixel of the output are computed along with the others, and dropped.
 *
 * Threads are OpenMP's as torch has loaded it, see elementwise.c.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Goes up with every change of what a function takes: an older library beside newer code is left alone. */
const int products_version = 1;

typedef struct {
    int64_t images, rows, columns, channels;           /* of what is read, channels_last */
    int64_t to_rows, to_columns, to_channels;          /* of what is written, likewise */
    int64_t step_h, step_w;                            /* between what neighbours in a plane read */
    int64_t lead_h, lead_w;                            /* zeros before an image's rows, and before a row */
    int64_t plane_rows, plane_columns;                 /* that an image takes in a plane */
    int64_t to_step_h, to_step_w;                      /* between the pixels that neighbours write */
    int64_t planes, groups, reach;                     /* reach: the largest offset of a tap */
    int64_t length;                                    /* positions that a thread takes at a time, a multiple of 32 */
    const int64_t *firsts;                             /* (planes, 2): the pixel that a plane begins with */
    const int64_t *written;                            /* (groups, 3): a group's first pixel, and how many taps it has */
    const int64_t *taps;                               /* (taps, 2): plane and offset, group by group */
} Way;

typedef struct {
    int64_t images, rows, columns, channels;   /* of what is read, channels_last; as many channels are written */
    int64_t to_rows, to_columns, down, across; /* down, across: sizes of the kernel */
    int64_t step, to_step;                     /* along a row, between what neighbours read and what they write */
    const int64_t *by_rows, *by_columns;       /* (to_rows, 1 + 2 down): how many places meet it, each with what it meets */
} Sweep;

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BY_TILES __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))
#define INLINE BY_TILES static inline __attribute__((always_inline))

typedef uint16_t bfloat16;

enum { ROWS = 16, DEPTH = 32, TILE = ROWS * DEPTH, PIECE = 2 * ROWS };

/* Numbers of what is written: half of a second cache of 2 MiB. */
enum { LARGE = 1 << 18 };

/* Of a depthwise kernel; `cores.py` knows it. */
enum { MOST_TAPS = 64 };

enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };

/* Whether this processor multiplies tiles, and Linux lets this process use them from now on. */
int products_are_there(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 22 & 1) || !(d >> 24 & 1) || !(b >> 16 & 1) || !(b >> 30 & 1) || !(b >> 31 & 1)) return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return 0;
    return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA);
}

/* A thread's own memory, which stays in its second cache. */
static void *scratch_of(size_t bytes) {
    static _Thread_local void *scratch;
    static _Thread_local size_t size;
    if (size < bytes) {
        free(scratch);
        size = (bytes + 4095) / 4096 * 4096;
        scratch = aligned_alloc(4096, size);
    }
    return scratch;
}

/* The first so many of sixteen. */
INLINE __mmask16 first_of(int64_t count) {
    return count <= 0 ? 0 : count < ROWS ? (1u << count) - 1 : 0xffff;
}

/* 32 numbers, of which the masks say which are there, as h and l. */
INLINE void split(const float *x, __mmask16 low, __mmask16 high, bfloat16 *main, bfloat16 *rest) {
    __m512 a = _mm512_maskz_loadu_ps(low, x), b = _mm512_maskz_loadu_ps(high, x + 16);
    __m512i h = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    _mm512_store_si512(main, h);
    if (!rest) return;
    __m512 ha = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(h)), 16));
    __m512 hb = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(h, 1)), 16));
    _mm512_store_si512(rest, (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(b, hb), _mm512_sub_ps(a, ha)));
}

/* Positions [from, from + span) of a plane.  -> main, rest (depths, span, 32) */
BY_TILES static void pack(const Way *w, const float *x, const int64_t *first, int64_t from, int64_t span, int64_t depths,
                          bfloat16 *main, bfloat16 *rest) {
    int64_t column = from % w->plane_columns, row = from / w->plane_columns % w->plane_rows;
    int64_t image = from / w->plane_columns / w->plane_rows;
    const int64_t tail = w->channels - (depths - 1) * DEPTH;
    const __mmask16 low = first_of(tail), high = first_of(tail - ROWS);
    const __m512i zeros = _mm512_setzero_si512();
    for (int64_t p = 0; p < span; p++) {
        const int64_t i = (row - w->lead_h) * w->step_h + first[0], j = (column - w->lead_w) * w->step_w + first[1];
        bfloat16 *to = main + p * DEPTH, *to_rest = rest ? rest + p * DEPTH : NULL;
        if (image < w->images && i >= 0 && i < w->rows && j >= 0 && j < w->columns) {
            const float *at = x + ((image * w->rows + i) * w->columns + j) * w->channels;
            int64_t d = 0;
            for (; d < depths - 1; d++, to += span * DEPTH, at += DEPTH) {
                split(at, 0xffff, 0xffff, to, to_rest);
                if (rest) to_rest += span * DEPTH;
            }
            split(at, low, high, to, to_rest);
        } else {
            for (int64_t d = 0; d < depths; d++, to += span * DEPTH) {
                _mm512_store_si512(to, zeros);
                if (!rest) continue;
                _mm512_store_si512(to_rest, zeros);
                to_rest += span * DEPTH;
            }
        }
        if (++column < w->plane_columns) continue;
        column = 0;
        if (++row < w->plane_rows) continue;
        row = 0;
        image++;
    }
}

/* The pixels that positions [from, from + length) are of one group's output, -1 where none. */
static void place(const Way *w, const int64_t *written, int64_t from, int64_t *pixels) {
    for (int64_t p = 0; p < w->length; p++) {
        const int64_t column = (from + p) % w->plane_columns, row = (from + p) / w->plane_columns % w->plane_rows;
        const int64_t image = (from + p) / w->plane_columns / w->plane_rows;
        const int64_t i = row * w->to_step_h + written[0], j = column * w->to_step_w + written[1];
        const int is_pixel = image < w->images && i < w->to_rows && j < w->to_columns;
        pixels[p] = is_pixel ? (image * w->to_rows + i) * w->to_columns + j : -1;
    }
}

#define EACH_THREAD \
    _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (int thread = 0; thread < threads; thread++)

typedef struct {
    const float *bias, *added, *gate;
    float low, high;
    float *y;
    int passes_caches;
} Rest;

#define LOAD(tile, from) _tile_loadd(tile, from, 64)

/* Sums of 32 positions by 32 (or 16) channels.  -> totals (4, 16, 16): by positions, then by channels */
INLINE void multiply(const int64_t *taps, int64_t count, int64_t depths, int64_t span, int64_t position,
                     const bfloat16 *main, const bfloat16 *rest, const bfloat16 *weight, const bfloat16 *weight_rest,
                     float *totals, const int is_exact, const int is_wide) {
    _tile_zero(0);
    _tile_zero(2);
    if (is_wide) {
        _tile_zero(1);
        _tile_zero(3);
    }
    for (int64_t t = 0; t < count; t++) {
        const int64_t at = (taps[2 * t] * depths * span + taps[2 * t + 1] + position) * DEPTH;
        const bfloat16 *h = main + at, *l = rest + at;
        for (int64_t d = 0; d < depths; d++, h += span * DEPTH, weight += 2 * TILE) {
            LOAD(6, weight);
            if (is_exact) {
                LOAD(4, l);
                _tile_dpbf16ps(0, 4, 6);
                if (is_wide) {
                    LOAD(7, weight + TILE);
                    _tile_dpbf16ps(1, 4, 7);
                }
                LOAD(5, l + TILE);
                _tile_dpbf16ps(2, 5, 6);
                if (is_wide) _tile_dpbf16ps(3, 5, 7);
                l += span * DEPTH;
            }
            LOAD(4, h);
            _tile_dpbf16ps(0, 4, 6);
            if (is_wide) {
                if (!is_exact) LOAD(7, weight + TILE);
                _tile_dpbf16ps(1, 4, 7);
            }
            LOAD(5, h + TILE);
            _tile_dpbf16ps(2, 5, 6);
            if (is_wide) _tile_dpbf16ps(3, 5, 7);
            if (is_exact) {
                LOAD(6, weight_rest);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(2, 5, 6);
                if (is_wide) {
                    LOAD(7, weight_rest + TILE);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_dpbf16ps(3, 5, 7);
                }
                weight_rest += 2 * TILE;
            }
        }
    }
    _tile_stored(0, totals, 64);
    _tile_stored(2, totals + 512, 64);
    if (is_wide) {
        _tile_stored(1, totals + 256, 64);
        _tile_stored(3, totals + 768, 64);
    }
}

INLINE __m512 bias_at(const Rest *r, int64_t channel, __mmask16 mask) {
    return r->bias ? _mm512_maskz_loadu_ps(mask, r->bias + channel) : _mm512_setzero_ps();
}

/* Sixteen channels of one pixel: bias, sum, and rectifier or gate. What is no number stays none. */
INLINE void finish(__m512 total, __m512 bias, const Rest *r, int64_t at, __mmask16 mask) {
    total = _mm512_add_ps(total, bias);
    if (r->added) total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(mask, r->added + at));
    const __m512 low = _mm512_set1_ps(r->low), high = _mm512_set1_ps(r->high);
    if (r->gate) {
        const __m512 gate = _mm512_maskz_loadu_ps(mask, r->gate + at);
        const __mmask16 shut = _mm512_cmp_ps_mask(gate, low, _CMP_LE_OQ) | _mm512_cmp_ps_mask(gate, high, _CMP_GE_OQ);
        total = _mm512_maskz_mov_ps(~shut, total);
    } else {
        total = _mm512_min_ps(high, _mm512_max_ps(low, total)); /* of two, the second where one is no number */
    }
    if (r->passes_caches)
        _mm512_stream_ps(r->y + at, total);
    else
        _mm512_mask_storeu_ps(r->y + at, mask, total);
}

/* Whole lines of what is too large for a second cache are not fetched to be written over. */
static int are_lines(const float *y, int64_t pixels, int64_t channels) {
    return pixels * channels >= LARGE && channels % ROWS == 0 && (uintptr_t)y % 64 == 0;
}

/* One block of 32 channels from `channel` on, for all positions of a band. */
INLINE void block(const Way *w, const int64_t *taps, int64_t count, int64_t depths, int64_t span, int64_t channel,
                  const int64_t *pixels, const bfloat16 *main, const bfloat16 *rest, const bfloat16 *weight,
                  const bfloat16 *weight_rest, const Rest *r, const int is_exact, const int is_wide) {
    float totals[4 * 256] __attribute__((aligned(64)));
    const int64_t left = w->to_channels - channel;
    const __mmask16 first = first_of(left), second = first_of(left - ROWS);
    const __m512 bias = bias_at(r, channel, first), bias_2 = bias_at(r, channel + ROWS, second);
    for (int64_t p = 0; p < w->length; p += PIECE) {
        int is_read = 0;
        for (int64_t i = 0; i < PIECE; i++) is_read |= pixels[p + i] >= 0;
        if (!is_read) continue;
        multiply(taps, count, depths, span, p, main, rest, weight, weight_rest, totals, is_exact, is_wide);
        for (int64_t i = 0; i < PIECE; i++) {
            if (pixels[p + i] < 0) continue;
            const int64_t at = pixels[p + i] * w->to_channels + channel;
            const float *total = totals + i / ROWS * 512 + i % ROWS * 16;
            finish(_mm512_load_ps(total), bias, r, at, first);
            if (is_wide) finish(_mm512_load_ps(total + 256), bias_2, r, at + 16, second);
        }
    }
}

BY_TILES static void block_of_three(const Way *w, const int64_t *taps, int64_t count, int64_t depths, int64_t span,
                                    int64_t channel, const int64_t *pixels, const bfloat16 *main, const bfloat16 *rest,
                                    const bfloat16 *weight, const bfloat16 *weight_rest, const Rest *r) {
    if (w->to_channels - channel > ROWS)
        block(w, taps, count, depths, span, channel, pixels, main, rest, weight, weight_rest, r, 1, 1);
    else
        block(w, taps, count, depths, span, channel, pixels, main, rest, weight, weight_rest, r, 1, 0);
}

BY_TILES static void block_of_one(const Way *w, const int64_t *taps, int64_t count, int64_t depths, int64_t span,
                                  int64_t channel, const int64_t *pixels, const bfloat16 *main, const bfloat16 *weight,
                                  const Rest *r) {
    if (w->to_channels - channel > ROWS)
        block(w, taps, count, depths, span, channel, pixels, main, main, weight, weight, r, 0, 1);
    else
        block(w, taps, count, depths, span, channel, pixels, main, main, weight, weight, r, 0, 0);
}

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} Tiles;

static const Tiles eight_tiles = {
    .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* What one thread does: of all bands of positions, and all parts of the channels, those that `next` gives it. */
BY_TILES static int work(const Way *w, const float *x, const bfloat16 *weight, const bfloat16 *weight_rest,
                         const Rest *r, int64_t bands, int64_t parts, int64_t *next) {
    const int64_t blocks = (w->to_channels + 31) / 32, depths = (w->channels + DEPTH - 1) / DEPTH;
    const int64_t span = (w->length + w->reach) | 1; /* odd, so that depths do not meet in one set of a cache */
    const int64_t plane_size = depths * span * DEPTH, size = w->planes * plane_size;
    bfloat16 *main = scratch_of(2 * size * sizeof(bfloat16) + w->length * sizeof(int64_t));
    if (!main) return 0;
    bfloat16 *rest = weight_rest ? main + size : NULL;
    int64_t *pixels = (int64_t *)(main + 2 * size);
    _tile_loadconfig(&eight_tiles);
    for (int64_t item; (item = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < bands * parts;) {
        const int64_t from = item / parts * w->length, part = item % parts;
        for (int64_t plane = 0; plane < w->planes; plane++) {
            const int64_t at = plane * plane_size;
            pack(w, x, w->firsts + 2 * plane, from, span, depths, main + at, rest ? rest + at : NULL);
        }
        __asm__ volatile("" ::: "memory"); /* tiles are loaded behind the compiler's back */
        const int64_t *taps = w->taps;
        int64_t before = 0;
        for (int64_t g = 0; g < w->groups; g++) {
            const int64_t count = w->written[3 * g + 2], each = count * depths * 2 * TILE;
            place(w, w->written + 3 * g, from, pixels);
            for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
                const bfloat16 *h = weight + before + b * each;
                if (rest) {
                    const bfloat16 *l = weight_rest + before + b * each;
                    block_of_three(w, taps, count, depths, span, 32 * b, pixels, main, rest, h, l, r);
                } else {
                    block_of_one(w, taps, count, depths, span, 32 * b, pixels, main, h, r);
                }
            }
            taps += 2 * count;
            before += blocks * each;
        }
    }
    _tile_release();
    _mm_sfence(); /* behind what has passed the caches */
    return 1;
}

/* x (images, rows, columns, channels) -> y (images, to_rows, to_columns, to_channels)
 *
 * weight, weight_rest: (group, block of 32 channels, tap, 32 of what is read, 2, 16, 16, 2), see `cores.py`; without the
 * rest, one product. bias (to_channels), added and gate like y, or none. Nothing passes where a gate is not between low
 * and high; without one the result is clamped between them. Returns whether there was memory. */
int products(int threads, const Way *w, const float *x, const bfloat16 *weight, const bfloat16 *weight_rest,
             const float *bias, const float *added, const float *gate, float low, float high, float *y) {
    const int64_t positions = w->images * w->plane_rows * w->plane_columns;
    const int64_t bands = (positions + w->length - 1) / w->length, blocks = (w->to_channels + 31) / 32;
    const int64_t parts = bands >= 2 * threads ? 1 : blocks < threads ? blocks : threads;
    const int passes_caches = are_lines(y, w->images * w->to_rows * w->to_columns, w->to_channels);
    const Rest r = {bias, added, gate, low, high, y, passes_caches};
    int64_t next = 0;
    int failed = 0;
    EACH_THREAD {
        if (!work(w, x, weight, weight_rest, &r, bands, parts, &next)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    }
    return !failed;
}

/* Pixels beside each other that the same places of a depthwise kernel meet: weights are read once for all of them. */
INLINE void beside(const Sweep *s, int64_t taps, const float *const *read, const float *const *by, int64_t at,
                   const Rest *r, const int pixels, const int vectors) {
    const int64_t next = s->step * s->channels, next_written = s->to_step * s->channels, width = 16 * vectors;
    for (int64_t c = 0; c < s->channels;) {
        const int64_t left = s->channels - c;
        __m512 total[4][4];
        for (int p = 0; p < pixels; p++)
            for (int v = 0; v < vectors; v++) total[p][v] = _mm512_setzero_ps();
        if (left >= width) {
            for (int64_t t = 0; t < taps; t++)
                for (int v = 0; v < vectors; v++) {
                    const __m512 w = _mm512_loadu_ps(by[t] + c + 16 * v);
                    for (int p = 0; p < pixels; p++)
                        total[p][v] =
                            _mm512_fmadd_ps(_mm512_loadu_ps(read[t] + p * next + c + 16 * v), w, total[p][v]);
                }
            for (int v = 0; v < vectors; v++) {
                const __m512 bias = bias_at(r, c + 16 * v, 0xffff);
                for (int p = 0; p < pixels; p++)
                    finish(total[p][v], bias, r, at + p * next_written + c + 16 * v, 0xffff);
            }
            c += width;
        } else {
            const __mmask16 mask = first_of(left);
            for (int64_t t = 0; t < taps; t++) {
                const __m512 w = _mm512_maskz_loadu_ps(mask, by[t] + c);
                for (int p = 0; p < pixels; p++)
                    total[p][0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, read[t] + p * next + c), w, total[p][0]);
            }
            const __m512 bias = bias_at(r, c, mask);
            for (int p = 0; p < pixels; p++) finish(total[p][0], bias, r, at + p * next_written + c, mask);
            c += 16;
        }
    }
}

/* Whether the same places meet both. */
static int are_met_alike(const int64_t *one, const int64_t *other) {
    int is_so = one[0] == other[0];
    for (int64_t b = 0; is_so && b < one[0]; b++) is_so = one[1 + 2 * b] == other[1 + 2 * b];
    return is_so;
}

/* One row of a depthwise convolution: sums over taps in float32. */
BY_TILES static void sweep(const Sweep *s, const float *x, const float *weight, int64_t image, int64_t row,
                           const Rest *r) {
    const float *read[MOST_TAPS], *by[MOST_TAPS];
    const int64_t *rows = s->by_rows + row * (1 + 2 * s->down), each = 1 + 2 * s->across;
    int64_t pixels = 1;
    for (int64_t phase = 0; phase < s->to_step; phase++) {
        for (int64_t column = phase; column < s->to_columns; column += pixels * s->to_step) {
            const int64_t *columns = s->by_columns + column * each;
            int64_t taps = 0;
            for (int64_t a = 0; a < rows[0]; a++)
                for (int64_t b = 0; b < columns[0]; b++, taps++) {
                    const int64_t pixel = (image * s->rows + rows[2 + 2 * a]) * s->columns + columns[2 + 2 * b];
                    read[taps] = x + pixel * s->channels;
                    by[taps] = weight + (rows[1 + 2 * a] * s->across + columns[1 + 2 * b]) * s->channels;
                }
            for (pixels = 1; pixels < 4 && column + pixels * s->to_step < s->to_columns; pixels++)
                if (!are_met_alike(columns, columns + pixels * s->to_step * each)) break;
            const int64_t at = ((image * s->to_rows + row) * s->to_columns + column) * s->channels;
            if (pixels == 4)
                beside(s, taps, read, by, at, r, 4, 2);
            else if (pixels == 3)
                beside(s, taps, read, by, at, r, 3, 2);
            else if (pixels == 2)
                beside(s, taps, read, by, at, r, 2, 2);
            else
                beside(s, taps, read, by, at, r, 1, 4);
        }
    }
}

/* The same of depthwise convolutions, exactly.  weight (down, across, channels) */
int sums(int threads, const Sweep *s, const float *x, const float *weight, const float *bias, const float *added,
         const float *gate, float low, float high, float *y) {
    const int passes_caches = are_lines(y, s->images * s->to_rows * s->to_columns, s->channels);
    const Rest r = {bias, added, gate, low, high, y, passes_caches};
    if (s->down * s->across > MOST_TAPS) return 0;
    EACH_THREAD {
        const int64_t rows = s->images * s->to_rows;
        for (int64_t row = rows * thread / threads; row < rows * (thread + 1) / threads; row++)
            sweep(s, x, weight, row / s->to_rows, row % s->to_rows, &r);
        _mm_sfence();
    }
    return 1;
}

#else

int products_are_there(void) { return 0; }

int products(int threads, const Way *w, const float *x, const uint16_t *weight, const uint16_t *weight_rest,
             const float *bias, const float *added, const float *gate, float low, float high, float *y) {
    (void)threads, (void)w, (void)x, (void)weight, (void)weight_rest, (void)bias, (void)added, (void)gate, (void)low;
    (void)high, (void)y;
    return 0;
}

int sums(int threads, const Sweep *s, const float *x, const float *weight, const float *bias, const float *added,
         const float *gate, float low, float high, float *y) {
    (void)threads, (void)s, (void)x, (void)weight, (void)bias, (void)added, (void)gate, (void)low, (void)high, (void)y;
    return 0;
}

#endif
