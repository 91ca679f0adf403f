/* RG-LRU with its gates fused, time in order, h in registers:

       r = sigmoid(ra)   i = sigmoid(ia)   a = 2^(c r)   h = a h + sqrt(1 - a^2) i x

   A thread walks a band of channels tile by tile in time, so that rows are read a few hundred bytes at a
   time; h stays in the cache between tiles. */
#include "vec.h"

#define V 2                     /* vectors per inner block */
#define BLOCK (V * W)           /* channels per inner block */
#define STEPS 16                /* steps per tile */
#define BAND 256                /* channels per band, at most */

INLINE vf step(vf h, vf x, vf ra, vf ia, vf c)
{
    vf a = exp2_any(c * sigmoid(ra));
    vf m = vsqrt(vmax(nmadd(a, a, splat(1.0f)), splat(0.0f)));
    return madd(a, h, m * (sigmoid(ia) * x));
}

static void band(ptrdiff_t l, ptrdiff_t d, int n, const float *x, const float *ra, const float *ia, const float *c,
                 float *h)
{
    float held[BAND] __attribute__((aligned(64))) = {0};
    for (ptrdiff_t t0 = 0; t0 < l; t0 += STEPS) {
        ptrdiff_t end = t0 + STEPS < l ? t0 + STEPS : l;
        for (int j = 0; j < n; j += BLOCK) {
            vf s[V], k[V];
            for (int v = 0; v < V; v++) s[v] = load(held + j + v * W), k[v] = load(c + j + v * W);
            for (ptrdiff_t t = t0; t < end; t++) {
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) {
                    ptrdiff_t o = t * d + j + v * W;
                    s[v] = step(s[v], load(x + o), load(ra + o), load(ia + o), k[v]);
                    stream(h + o, s[v]);
                }
            }
            for (int v = 0; v < V; v++) store(held + j + v * W, s[v]);
        }
    }
    stream_end();
}

/* x, ra, ia, h: (l, d); c: (d). d is a multiple of 2 W; h is aligned to a vector. */
EXPORT void rg_lru(int threads, int l, int d, const float *x, const float *ra, const float *ia, const float *c,
                   float *h)
{
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < d; j += BAND)
        band(l, d, d - j < BAND ? d - j : BAND, x + j, ra + j, ia + j, c + j, h + j);
}
