/* RG-LRU with its gates fused:

       r = sigmoid(ra)   i = sigmoid(ia)   a = 2^(c r)   h = a h + sqrt(1 - a^2) i x

   One element is a chain of three exponentials, longer than a processor looks ahead. So a tile is done in two
   passes, gates first, then the rest; each is a short chain, many of them in flight. A thread owns a band of
   channels and walks time in tiles, so that rows are read some hundred bytes at a time. */
#include "vec.h"

#define STEPS 16                /* steps per tile */
#define BLOCK 32                /* channels per tile */
#define BAND 1024               /* channels per band, at most */
#define V 2                     /* vectors of the second pass */

/* r and i x of one tile. */
static void gates(ptrdiff_t d, int steps, ptrdiff_t ahead, const float *x, const float *ra, const float *ia,
                  float *RESTRICT r, float *RESTRICT g)
{
    const vf table = exp2_table();
    for (int t = 0; t < steps; t++)
        for (int j = 0; j < BLOCK; j += W) {
            ptrdiff_t o = t * d + j;
            if (j % 16 == 0) {
                __builtin_prefetch(x + o + ahead);
                __builtin_prefetch(ra + o + ahead);
                __builtin_prefetch(ia + o + ahead);
            }
            store(r + t * BLOCK + j, sigmoid(load(ra + o), table));
            store(g + t * BLOCK + j, sigmoid(load(ia + o), table) * load(x + o));
        }
}

/* h over one tile, its last value in held. */
static void scan(ptrdiff_t d, int steps, const float *c, const float *r, const float *g, float *RESTRICT held,
                 float *RESTRICT h)
{
    const vf table = exp2_table();
    for (int j = 0; j < BLOCK; j += V * W) {
        vf s[V], k[V];
        for (int v = 0; v < V; v++) s[v] = load(held + j + v * W), k[v] = load(c + j + v * W);
        for (int t = 0; t < steps; t++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                int o = t * BLOCK + j + v * W;
                vf a = exp2_product(k[v], load(r + o), table);
                vf m = vsqrt(vmax(nmadd(a, a, splat(1.0f)), splat(0.0f)));
                s[v] = madd(a, s[v], m * load(g + o));
                stream(h + t * d + j + v * W, s[v]);
            }
        for (int v = 0; v < V; v++) store(held + j + v * W, s[v]);
    }
}

static void band(ptrdiff_t l, ptrdiff_t d, int n, const float *x, const float *ra, const float *ia, const float *c,
                 float *h)
{
    float r[STEPS * BLOCK] __attribute__((aligned(64))), g[STEPS * BLOCK] __attribute__((aligned(64)));
    float held[BAND] __attribute__((aligned(64))) = {0}, rate[BAND] __attribute__((aligned(64)));
    for (int j = 0; j < n; j++) rate[j] = c[j] < -126.0f ? -126.0f : c[j];
    for (ptrdiff_t t = 0; t < l; t += STEPS) {
        int steps = l - t < STEPS ? (int)(l - t) : STEPS;
        for (int j = 0; j < n; j += BLOCK) {
            ptrdiff_t o = t * d + j, ahead = j + BLOCK < n ? BLOCK : t + STEPS < l ? STEPS * d - j : 0;
            gates(d, steps, ahead, x + o, ra + o, ia + o, r, g);
            scan(d, steps, rate + j, r, g, held + j, h + o);
        }
    }
    stream_end();
}

/* x, ra, ia, h: (l, d); c: (d). d is a multiple of 64; h is aligned to 64 bytes. */
EXPORT void rg_lru(int threads, int l, int d, const float *x, const float *ra, const float *ia, const float *c,
                   float *h)
{
    int bands = (d + threads * BAND - 1) / (threads * BAND) * threads;
    int width = ((d + bands - 1) / bands + 63) / 64 * 64;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < d; j += width)
        band(l, d, d - j < width ? d - j : width, x + j, ra + j, ia + j, c + j, h + j);
}
