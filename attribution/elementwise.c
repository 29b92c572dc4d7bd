/* The steps of rules that run over every activation, each in one pass over memory. `native.py` calls them; torch's own
 * operations, which take the same steps one by one, are the law that they are held to, bit for bit: no contraction to
 * fused multiply-adds (-ffp-contract=off), no other order.
 *
 * Arrays have `rows` rows of `width` numbers, which threads share by columns. `out` may be one of the inputs. The threads
 * are OpenMP's as torch has loaded it: this library brings none of its own, which would fight with torch's for the cores.
 */
#include <math.h>
#include <stddef.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

/* Goes up with every change of what a function takes: an older library beside newer code is left alone. */
const int elementwise_version = 1;

/* A block of a reference that all rows share stays in the first cache. */
enum { BLOCK = 2048 };

#define CLAMPED(a) ((a) < low ? low : (a) > high ? high : (a))

/* Whole cache lines, so that no two threads write into one. */
static size_t cut(size_t width, int thread, int threads) {
    return thread == threads ? width : width * thread / threads / 16 * 16;
}

#define EACH_THREAD _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (int t = 0; t < threads; t++)

#define COLUMNS cut(width, t, threads), cut(width, t + 1, threads)

#define ELEMENTWISE(REAL, ABS, SUFFIX)                                                                               \
    FOR_EVERY_PROCESSOR static void rescale_part_##SUFFIX(                                                           \
        REAL *out, const REAL *x, const REAL *gradient, const REAL *reference, size_t rows, size_t width,            \
        size_t row_step, size_t column_step, size_t begin, size_t end, REAL low, REAL high) {                        \
        for (size_t from = begin; from < end; from += BLOCK) {                                                       \
            size_t to = from + BLOCK < end ? from + BLOCK : end;                                                     \
            for (size_t row = 0; row < rows; row++) {                                                                \
                const REAL *x_ = x + row * width, *g = gradient + row * width, *r = reference + row * row_step;      \
                REAL *out_ = out + row * width;                                                                      \
                if (column_step) {                                                                                   \
                    INDEPENDENT for (size_t i = from; i < to; i++) out_[i] = RESCALED(x_[i], r[i]) * g[i];           \
                } else {                                                                                             \
                    const REAL at = *r;                                                                              \
                    INDEPENDENT for (size_t i = from; i < to; i++) out_[i] = RESCALED(x_[i], at) * g[i];             \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
    }                                                                                                                \
    /* scale: of each channel, which is `inner` numbers long and comes again after all others; or none.              \
       before: another output to damp by, where there is a scale; or none */                                         \
    FOR_EVERY_PROCESSOR static void damp_part_##SUFFIX(                                                              \
        REAL *out, const REAL *z, const REAL *gradient, const REAL *before, const REAL *scale, size_t channels,      \
        size_t inner, size_t rows, size_t width, size_t begin, size_t end, REAL eps) {                               \
        for (size_t row = 0; row < rows; row++) {                                                                    \
            const REAL *z_ = z + row * width, *g = gradient + row * width, *b = before ? before + row * width : z_;  \
            REAL *out_ = out + row * width;                                                                          \
            if (!scale) {                                                                                            \
                INDEPENDENT for (size_t i = begin; i < end; i++) out_[i] = KEPT(z_[i], ABS) * g[i];                  \
                continue;                                                                                            \
            }                                                                                                        \
            for (size_t from = begin, to; from < end; from = to) {                                                   \
                size_t period = inner == 1 ? channels : inner, into = from % period;                                 \
                to = from + period - into < end ? from + period - into : end;                                        \
                const REAL *s = inner == 1 ? scale + into : scale + from / inner % channels;                         \
                REAL *o = out_ + from;                                                                               \
                const REAL *zs = z_ + from, *gs = g + from, *bs = b + from;                                          \
                const size_t n = to - from;                                                                          \
                if (inner == 1 && before) {                                                                          \
                    INDEPENDENT for (size_t i = 0; i < n; i++)                                                       \
                        o[i] = KEPT(zs[i], ABS) * gs[i] * s[i] * KEPT(bs[i], ABS);                                   \
                } else if (inner == 1) {                                                                             \
                    INDEPENDENT for (size_t i = 0; i < n; i++) o[i] = KEPT(zs[i], ABS) * gs[i] * s[i];               \
                } else if (before) {                                                                                 \
                    INDEPENDENT for (size_t i = 0; i < n; i++)                                                       \
                        o[i] = KEPT(zs[i], ABS) * gs[i] * *s * KEPT(bs[i], ABS);                                     \
                } else {                                                                                             \
                    INDEPENDENT for (size_t i = 0; i < n; i++) o[i] = KEPT(zs[i], ABS) * gs[i] * *s;                 \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
    }                                                                                                                \
    FOR_EVERY_PROCESSOR static void guide_part_##SUFFIX(REAL *out, const REAL *y, const REAL *gradient, size_t rows, \
                                                        size_t width, size_t begin, size_t end, REAL high) {         \
        for (size_t row = 0; row < rows; row++) {                                                                    \
            const REAL *y_ = y + row * width, *g = gradient + row * width;                                           \
            REAL *out_ = out + row * width;                                                                          \
            INDEPENDENT for (size_t i = begin; i < end; i++)                                                         \
                out_[i] = y_[i] <= 0 || y_[i] >= high || g[i] < 0 ? 0 : g[i];                                        \
        }                                                                                                            \
    }                                                                                                                \
    void rescale_##SUFFIX(int threads, REAL *out, const REAL *x, const REAL *gradient, const REAL *reference,        \
                          size_t rows, size_t width, size_t row_step, size_t column_step, REAL low, REAL high) {     \
        EACH_THREAD rescale_part_##SUFFIX(out, x, gradient, reference, rows, width, row_step, column_step, COLUMNS,  \
                                          low, high);                                                                \
    }                                                                                                                \
    void damp_##SUFFIX(int threads, REAL *out, const REAL *z, const REAL *gradient, const REAL *before,              \
                       const REAL *scale, size_t channels, size_t inner, size_t rows, size_t width, REAL eps) {      \
        EACH_THREAD damp_part_##SUFFIX(out, z, gradient, before, scale, channels, inner, rows, width, COLUMNS, eps); \
    }                                                                                                                \
    void guide_##SUFFIX(int threads, REAL *out, const REAL *y, const REAL *gradient, size_t rows, size_t width,      \
                        REAL high) {                                                                                 \
        EACH_THREAD guide_part_##SUFFIX(out, y, gradient, rows, width, COLUMNS, high);                               \
    }

/* |z| / (|z| + eps), and 1 where z is infinite or no number */
#define KEPT(z, ABS) (ABS(z) / (ABS(z) + eps) != ABS(z) / (ABS(z) + eps) ? 1 : ABS(z) / (ABS(z) + eps))

/* (f(x) - f(r)) / (x - r) for f = clamp; at x = r its slope, 1 between the ends */
#define RESCALED(a, b) ((a) == (b) ? ((b) > low && (b) < high ? 1 : 0) : (CLAMPED(a) - CLAMPED(b)) / ((a) - (b)))

ELEMENTWISE(float, fabsf, float32)
ELEMENTWISE(double, fabs, float64)
