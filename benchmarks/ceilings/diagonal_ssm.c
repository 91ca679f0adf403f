/* Diagonal complex SSM, one real output of 32 complex states:

       h = a h + u    y = sum of cr re(h) - ci im(h)

   `diagonal_ssm` is this recurrence, six multiply-adds per state and step: a few states at a time stay in
   registers over a tile of time, and their part of y is added up in L1. Fewer than four states would wait for
   their own last step.

   `diagonal_ssm_blocked` takes four steps at once, four and a half multiply-adds per state and step:

       h[t+3] = a^4 h[t-1] + a^3 u[t] + a^2 u[t+1] + a u[t+2] + u[t+3]
       y[t+j] = re'(c a^(j+1) h[t-1]) + sum over i <= j of re'(sum of c a^(j-i)) u[t+i]

   with re'(c h) the output of one state; the last sum does not depend on states. */
#include "vec.h"

#define STATES 32
#define HELD 4                  /* complex states in registers */
#define STEPS 128               /* steps per tile */
#define BAND 256                /* channels per band, at most */

static void tile(ptrdiff_t d, const float *u, const float *par, float *RESTRICT state, float *RESTRICT y)
{
    for (int s = 0; s < STATES; s += HELD) {
        vf re[HELD], im[HELD], ar[HELD], ai[HELD], cr[HELD], ci[HELD];
        for (int k = 0; k < HELD; k++) {
            const float *p = par + (s + k) * 4 * 16, *h = state + (s + k) * 2 * W;
            ar[k] = load(p), ai[k] = load(p + 16), cr[k] = load(p + 32), ci[k] = load(p + 48);
            re[k] = load(h), im[k] = load(h + W);
        }
        for (int t = 0; t < STEPS; t++) {
            vf x = load(u + t * d), plus = s ? load(y + t * W) : splat(0.0f), minus = splat(0.0f);
#pragma GCC unroll 8
            for (int k = 0; k < HELD; k++) {
                vf r = nmadd(ai[k], im[k], madd(ar[k], re[k], x));
                im[k] = madd(ar[k], im[k], ai[k] * re[k]);
                re[k] = r;
                plus = madd(cr[k], re[k], plus);
                minus = madd(ci[k], im[k], minus);
            }
            store(y + t * W, plus - minus);
        }
        for (int k = 0; k < HELD; k++) {
            store(state + (s + k) * 2 * W, re[k]);
            store(state + (s + k) * 2 * W + W, im[k]);
        }
    }
}

/* Channels of one band: a whole number of 16s, and as many bands as threads or a multiple of that. */
static int band_width(int d, int threads)
{
    int bands = (d + threads * BAND - 1) / (threads * BAND) * threads;
    return ((d + bands - 1) / bands + 15) / 16 * 16;
}

static void band(ptrdiff_t l, ptrdiff_t d, int n, const float *u, const float *params, float *y)
{
    float state[BAND * STATES * 2] __attribute__((aligned(64)));
    float sums[STEPS * W] __attribute__((aligned(64)));
    memset(state, 0, sizeof state);
    for (ptrdiff_t t = 0; t < l; t += STEPS)
        for (int j = 0; j < n; j += W) {
            const float *p = params + (size_t)(j / 16) * STATES * 4 * 16 + j % 16;
            tile(d, u + t * d + j, p, state + j * STATES * 2, sums);
            for (int i = 0; i < STEPS; i++) store(y + (t + i) * d + j, load(sums + i * W));
        }
}

/* u, y: (l, d); params: (d / 16, 32, 4, 16) holding re a, im a, 2 re c, 2 im c.
   d is a multiple of 16, l of 128. */
EXPORT void diagonal_ssm(int threads, int l, int d, const float *u, const float *params, float *y)
{
    int width = band_width(d, threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < d; j += width)
        band(l, d, d - j < width ? d - j : width, u + j, params + (size_t)j * STATES * 4, y + j);
}

#define STEP 4                  /* steps at once */
#define PAIR (2 * STEP)         /* two such blocks share each coefficient */
#define COEFFICIENTS (4 * STEP) /* vectors per state: a^4, a, a^2, a^3, c a, c a^2, c a^3, c a^4 */

typedef struct {
    float coefficients[STATES * COEFFICIENTS * W] __attribute__((aligned(64)));
    float taps[STEP * W] __attribute__((aligned(64)));
    float state[STATES * 2 * W] __attribute__((aligned(64)));
} Blocked;

/* Powers in double: a^4 rounded once, not four times. */
static void prepare(const float *params, Blocked *to)
{
    static const int place[STEP + 1] = {0, 1, 2, 3, 0};
    memset(to, 0, sizeof *to);
    for (int k = 0; k < STATES; k++)
        for (int v = 0; v < W; v++) {
            const float *p = params + k * 64 + v;
            float *q = to->coefficients + k * COEFFICIENTS * W + v;
            double ar = p[0], ai = p[16], cr = p[32], ci = p[48], pr = 1, pi = 0;
            for (int j = 0; j <= STEP; j++) {
                double gr = cr * pr - ci * pi, gi = cr * pi + ci * pr, next = pr * ar - pi * ai;
                if (j < STEP) to->taps[j * W + v] += (float)gr;
                if (j > 0) {
                    q[2 * place[j] * W] = (float)pr, q[(2 * place[j] + 1) * W] = (float)pi;
                    q[2 * (STEP + j - 1) * W] = (float)gr, q[(2 * (STEP + j - 1) + 1) * W] = (float)gi;
                }
                pi = pr * ai + pi * ar, pr = next;
            }
        }
}

/* Keeps two values in registers: the compiler would read them at each use, and reads are what limits. */
#if W > 4
#define HOLD(x, y) __asm__("" : "+v"(x), "+v"(y))
#else
#define HOLD(x, y) (void)0
#endif

/* Eight steps: f is the state after four of them, l after all. */
static void pair(ptrdiff_t d, const float *x, Blocked *b, float *y)
{
    float u[PAIR * W] __attribute__((aligned(64))), direct[PAIR * W] __attribute__((aligned(64)));
    vf sum[PAIR];
    for (int i = 0; i < PAIR; i++) {
        store(u + i * W, load(x + i * d));
        vf s = load(b->taps) * load(u + i * W);
        for (int j = 1; j <= i % STEP; j++) s = madd(load(b->taps + j * W), load(u + (i - j) * W), s);
        store(direct + i * W, s);
    }
#pragma GCC unroll 8
    for (int i = 0; i < PAIR; i++) sum[i] = load(direct + i * W);
    for (int k = 0; k < STATES; k++) {
        const float *q = b->coefficients + k * COEFFICIENTS * W;
        float *h = b->state + k * 2 * W;
#define K(i) load(q + (i) * W)
        vf fr = load(u + 3 * W), lr = load(u + 7 * W), fi, li;
#pragma GCC unroll 4
        for (int i = 0; i < STEP - 1; i++) {
            vf ar = K(6 - 2 * i), ai = K(7 - 2 * i);
            HOLD(ar, ai);
            fr = madd(ar, load(u + i * W), fr), fi = i ? madd(ai, load(u + i * W), fi) : ai * load(u + i * W);
            lr = madd(ar, load(u + (STEP + i) * W), lr);
            li = i ? madd(ai, load(u + (STEP + i) * W), li) : ai * load(u + (STEP + i) * W);
        }
        vf ar = K(0), ai = K(1), re = load(h), im = load(h + W);
        HOLD(re, im);
        HOLD(ar, ai);
        fr = nmadd(ai, im, madd(ar, re, fr)), fi = madd(ai, re, madd(ar, im, fi));
        lr = nmadd(ai, fi, madd(ar, fr, lr)), li = madd(ai, fr, madd(ar, fi, li));
        store(h, lr), store(h + W, li);
#pragma GCC unroll 4
        for (int j = 0; j < STEP; j++) {
            vf cr = K(2 * (STEP + j)), ci = K(2 * (STEP + j) + 1);
            HOLD(cr, ci);
            sum[j] = nmadd(ci, im, madd(cr, re, sum[j]));
            sum[STEP + j] = nmadd(ci, fi, madd(cr, fr, sum[STEP + j]));
        }
#undef K
    }
#pragma GCC unroll 8
    for (int i = 0; i < PAIR; i++) store(y + i * d, sum[i]);
}

static void blocked_band(ptrdiff_t l, ptrdiff_t d, int n, const float *u, const float *params, float *y)
{
    static __thread Blocked blocks[BAND / W];
    for (int j = 0; j < n; j += W) prepare(params + (size_t)(j / 16) * STATES * 4 * 16 + j % 16, blocks + j / W);
    for (ptrdiff_t t0 = 0; t0 < l; t0 += STEPS)
        for (int j = 0; j < n; j += W)
            for (ptrdiff_t t = t0; t < t0 + STEPS && t < l; t += PAIR) pair(d, u + t * d + j, blocks + j / W, y + t * d + j);
}

/* As diagonal_ssm; l is a multiple of 8. */
EXPORT void diagonal_ssm_blocked(int threads, int l, int d, const float *u, const float *params, float *y)
{
    int width = band_width(d, threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < d; j += width)
        blocked_band(l, d, d - j < width ? d - j : width, u + j, params + (size_t)j * STATES * 4, y + j);
}
