/* Diagonal complex SSM as a recurrence, one real output of 32 complex states:

       h = a h + u    y = sum of cr re(h) - ci im(h)

   A few states at a time stay in registers over a tile of time; their part of y is added up in L1. */
#include "vec.h"

#define STATES 32
#ifndef HELD
#define HELD 4                  /* complex states in registers */
#endif
#define STEPS 256               /* steps per tile */

static void tile(ptrdiff_t d, const float *u, const float *par, float *RESTRICT state, float *RESTRICT y)
{
    for (int s = 0; s < STATES; s += HELD) {
        vf re[HELD], im[HELD], ar[HELD], ai[HELD], cr[HELD], ci[HELD];
        for (int k = 0; k < HELD; k++) {
            const float *p = par + (s + k) * 4 * W, *h = state + (s + k) * 2 * W;
            ar[k] = load(p), ai[k] = load(p + W), cr[k] = load(p + 2 * W), ci[k] = load(p + 3 * W);
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

/* u, y: (l, d); params: (d / 16, 32, 4, 16) holding re a, im a, 2 re c, 2 im c.
   d is a multiple of 16, l of 256. */
EXPORT void diagonal_ssm(int threads, int l, int d, const float *u, const float *params, float *y)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int j = 0; j < d; j += W) {
        float par[STATES * 4 * W] __attribute__((aligned(64)));
        float state[STATES * 2 * W] __attribute__((aligned(64))) = {0};
        float sums[STEPS * W] __attribute__((aligned(64)));
        const float *p = params + (size_t)(j / 16) * STATES * 4 * 16 + j % 16;
        for (int k = 0; k < STATES * 4; k++) store(par + k * W, load(p + k * 16));
        for (int t = 0; t < l; t += STEPS) {
            tile(d, u + (size_t)t * d + j, par, state, sums);
            for (int i = 0; i < STEPS; i++) store(y + (size_t)(t + i) * d + j, load(sums + i * W));
        }
    }
}
