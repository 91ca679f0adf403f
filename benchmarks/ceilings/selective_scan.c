/* Selective scan forward with skip and gate, 16 states, time in order:

       h = 2^(dt A) h + dt u B    y = (sum of C h + D u) z sigmoid(z)

   A thread owns a band of channels and walks time in tiles; inside a tile it takes two vectors of channels
   at a time over all steps, states and their A in L1. So rows are read some hundred bytes at a time, and a
   page is visited once per tile instead of once per block.

   2^x costs most. Where table look-up is one instruction: x = k / 4 + f with |f| <= 1/8, 2^(k/4) from a
   table of four whose entries have the fraction bits of k taken off, so that one shift and one addition
   make the exponent; 2^f by degree 4. No clamp is needed while dt |A| < 126, which each tile checks. */
#include "vec.h"

#define STATES 16
#define V (W == 16 ? 1 : 2)     /* vectors per inner block */
#define BLOCK (V * W)           /* channels per inner block */
#define STEPS 16                /* steps per tile */
#define BAND 256                /* channels per band, at most */

typedef struct {
    ptrdiff_t d;                /* elements from one step to the next */
    const float *u, *dt, *z, *b, *c;
    float *y;
} Tile;

/* One tile of one block; ahead: elements to the block that comes next. */
INLINE void block(Tile p, int steps, ptrdiff_t ahead, const float *a, const float *skip, float *RESTRICT h, int safe)
{
    const vf table = exp2_table();
    for (int t = 0; t < steps; t++) {
        ptrdiff_t o = t * p.d;
        vf dt[V], du[V], y[V];
        __builtin_prefetch(p.u + o + ahead);
        __builtin_prefetch(p.dt + o + ahead);
        __builtin_prefetch(p.z + o + ahead);
        for (int v = 0; v < V; v++) {
            vf u = load(p.u + o + v * W);
            dt[v] = load(p.dt + o + v * W);
            du[v] = dt[v] * u;
            y[v] = load(skip + v * W) * u;
        }
#pragma GCC unroll 16
        for (int n = 0; n < STATES; n++) {
            vf b = splat(p.b[t * STATES + n]), c = splat(p.c[t * STATES + n]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                vf rate = load(a + (n * V + v) * W), decay;
                if (safe)
                    decay = exp2_product(clamp(dt[v] * rate, 126.0f), splat(1.0f), table);
                else
                    decay = exp2_product(dt[v], rate, table);
                vf s = madd(decay, load(h + (n * V + v) * W), du[v] * b);
                store(h + (n * V + v) * W, s);
                y[v] = madd(s, c, y[v]);
            }
        }
        for (int v = 0; v < V; v++) {
            vf z = load(p.z + o + v * W);
            store(p.y + o + v * W, y[v] * (z * sigmoid(z, table)));
        }
    }
}

static __attribute__((noinline)) void block_fast(Tile p, int steps, ptrdiff_t ahead, const float *a, const float *skip,
                                                 float *h)
{
    block(p, steps, ahead, a, skip, h, 0);
}

static __attribute__((noinline)) void block_safe(Tile p, int steps, ptrdiff_t ahead, const float *a, const float *skip,
                                                 float *h)
{
    block(p, steps, ahead, a, skip, h, 1);
}

/* Whether some dt A of this tile is outside what the exponential takes without a clamp. */
INLINE int out_of_range(Tile p, int steps, const float *limit)
{
    vf most[V];
    for (int v = 0; v < V; v++) most[v] = splat(0.0f);
    for (int t = 0; t < steps; t++)
        for (int v = 0; v < V; v++) {
            vf dt = load(p.dt + t * p.d + v * W);
            most[v] = vmax(most[v], vmax(dt, -dt));
        }
    int found = 0;
    for (int v = 0; v < V; v++) found |= any_above(most[v] * load(limit + v * W), splat(126.0f));
    return found;
}

static void band(ptrdiff_t l, ptrdiff_t d, int n, Tile p, const float *a, const float *skip)
{
    float h[STATES * BAND] __attribute__((aligned(64))) = {0};
    float rate[STATES * BAND] __attribute__((aligned(64)));
    float fastest[BAND] __attribute__((aligned(64)));
    for (int j = 0; j < n; j++) {
        int k = j / BLOCK, lane = j % BLOCK;
        fastest[j] = 0;
        for (int s = 0; s < STATES; s++) {
            float x = a[s * d + j], size = x < 0 ? -x : x;
            rate[(k * STATES + s) * BLOCK + lane] = x;
            if (!(size <= fastest[j])) fastest[j] = size;
        }
    }
    for (ptrdiff_t t = 0; t < l; t += STEPS) {
        int steps = l - t < STEPS ? (int)(l - t) : STEPS;
        for (int j = 0; j < n; j += BLOCK) {
            ptrdiff_t o = t * d + j, ahead = j + BLOCK < n ? BLOCK : t + STEPS < l ? STEPS * d - j : 0;
            Tile q = {d, p.u + o, p.dt + o, p.z + o, p.b + t * STATES, p.c + t * STATES, p.y + o};
            const float *r = rate + j * STATES;
            if (out_of_range(q, steps, fastest + j))
                block_safe(q, steps, ahead, r, skip + j, h + j * STATES);
            else
                block_fast(q, steps, ahead, r, skip + j, h + j * STATES);
        }
    }
}

/* u, dt, z, y: (batch, l, d); a: (16, d); b, c: (batch, l, 16); skip: (d). d is a multiple of 16. */
EXPORT void selective_scan(int threads, int batch, int l, int d, const float *u, const float *dt, const float *z,
                           const float *a, const float *b, const float *c, const float *skip, float *y)
{
    int bands = (d + BAND - 1) / BAND;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < batch * bands; task++) {
        int i = task / bands, j = task % bands * BAND;
        size_t o = (size_t)i * l * d + j, s = (size_t)i * l * STATES;
        Tile p = {d, u + o, dt + o, z + o, b + s, c + s, y + o};
        band(l, d, d - j < BAND ? d - j : BAND, p, a + j, skip + j);
    }
}
