/* What stands for cuda_prelude.h when emitted CUDA C runs on a host: blocks one after the other, the threads of a block
   taking turns, each until it waits for the others at a barrier or for a lane of its warp. */

#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS /* C's own headers: C++'s take longer than all else */
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

namespace host {

/* A kernel's threads in a block are fibers, which take turns; each runs until it waits. */
enum { NOTHING, BLOCK, WARP, DONE };

struct thread {
    jmp_buf place;
    ucontext_t context;
    char *stack;
    int waits;
    int begun;
    uint64_t given;
    int sent;
    struct {
        void *to;
        const void *from;
    } on_their_way[64];
};

const int MOST = 1024, LANES = 32, STACK = 256 << 10, PIECE = 16;

static struct thread threads[MOST];
static jmp_buf scheduler;
static int current, count, turns, in_vain;
static int64_t block;
static unsigned char *shared;

/* The kernel that runs now; the others see only its name. */
static void (*kernel)(void);

static __attribute__((noinline)) void wait(int what) {
    if (!turns) abort();
    threads[current].waits = what;
    if (!_setjmp(threads[current].place)) _longjmp(scheduler, 1);
}

static void first(void) {
    kernel();
    wait(DONE);
}

/* Let a thread go on until it waits. */
static __attribute__((noinline)) void go_on(int number) {
    current = number;
    struct thread *t = &threads[number];
    t->waits = NOTHING;
    if (_setjmp(scheduler)) return;
    if (t->begun) _longjmp(t->place, 1);
    t->begun = 1;
    getcontext(&t->context);
    if (!t->stack) t->stack = (char *)malloc(STACK);
    t->context.uc_stack.ss_sp = t->stack;
    t->context.uc_stack.ss_size = STACK;
    t->context.uc_link = NULL;
    makecontext(&t->context, first, 0);
    setcontext(&t->context);
}

/* Whether threads from `from` up to `to` wait for the same, those that are done aside. */
static int all_wait(int from, int to, int what) {
    int waiting = 0;
    for (int n = from; n < to; ++n) {
        if (threads[n].waits != what && threads[n].waits != DONE) return 0;
        waiting += threads[n].waits == what;
    }
    return waiting;
}

/* Run the threads of a block in turns; 1 if in the end they wait for each other in vain. */
static int take_turns(void) {
    turns = 1;
    for (int n = 0; n < count; ++n) threads[n].begun = threads[n].waits = 0;
    for (;;) {
        int moved = 0;
        for (int n = 0; n < count; ++n)
            if (threads[n].waits == NOTHING) go_on(n);
        for (int from = 0; from < count; from += LANES) {
            int to = from + LANES < count ? from + LANES : count;
            if (!all_wait(from, to, WARP)) continue;
            moved = 1;
            for (int n = from; n < to; ++n)
                if (threads[n].waits == WARP) go_on(n);
        }
        if (moved) continue;
        if (all_wait(0, count, DONE) == count) return 0;
        if (!all_wait(0, count, BLOCK)) return 1;
        for (int n = 0; n < count; ++n)
            if (threads[n].waits == BLOCK) threads[n].waits = NOTHING;
    }
}

/* Run blocks of `size` threads, the last one first: they may not depend on each other. `bytes` of shared memory start
   as NaN. Without `waiting`, threads run one after the other. */
static int run(void (*what)(void), int64_t blocks, int size, int64_t bytes, int waiting) {
    if (size > MOST) return 1;
    kernel = what;
    count = size;
    shared = (unsigned char *)aligned_alloc(64, (size_t)(bytes + 64) / 64 * 64);
    int failed = 0;
    in_vain = 0;
    for (block = blocks - 1; block >= 0 && !failed; --block) {
        memset(shared, 0xff, (size_t)bytes);
        turns = 0;
        if (waiting) failed = take_turns();
        else
            for (current = 0; current < size; ++current) kernel();
    }
    free(shared);
    return failed || in_vain;
}

/* What a lane of the same warp gives; none goes on before all have given theirs, nor gives anew before all have
   taken. */
template <typename Number> static Number given_by(int thread, Number mine) {
    memcpy(&threads[current].given, &mine, sizeof mine);
    wait(WARP);
    Number other;
    memcpy(&other, &threads[thread].given, sizeof other);
    wait(WARP);
    return other;
}

/* Pieces arrive no sooner than they are waited for. */
static void send(void *to, const void *from) {
    struct thread *t = &threads[current];
    const int room = sizeof t->on_their_way / sizeof t->on_their_way[0];
    if (t->sent == room || ((uintptr_t)to | (uintptr_t)from) % PIECE) abort();
    t->on_their_way[t->sent].to = to;
    t->on_their_way[t->sent++].from = from;
}

static void arrived(void) {
    struct thread *t = &threads[current];
    while (t->sent) {
        t->sent -= 1;
        memcpy(t->on_their_way[t->sent].to, t->on_their_way[t->sent].from, PIECE);
    }
}

}  // namespace host

#define SSMC_KERNEL(threads, together) static void
#define SSMC_BLOCK ((uint32_t)host::block)
#define SSMC_THREAD (host::current)
#define SSMC_THREADS (host::count)
#define SSMC_BARRIER() host::wait(host::BLOCK)
#define SSMC_SHARED(name) unsigned char *const name = host::shared
#define SSMC_INLINE static inline
#define SSMC_FMA(a, b, c) fmaf(a, b, c)

SSMC_INLINE uint32_t ssmc_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SSMC_INLINE float ssmc_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

SSMC_INLINE float ssmc_power_of_two_quickly(float x) {
    return exp2f(x);
}

SSMC_INLINE float ssmc_reciprocal_quickly(float x) {
    return 1.0f / x;
}

SSMC_INLINE float ssmc_quotient_quickly(float a, float b) {
    return a / b;
}

SSMC_INLINE float ssmc_root_quickly(float x) {
    return sqrtf(x);
}

SSMC_INLINE float ssmc_inverse_root_quickly(float x) {
    return 1.0f / sqrtf(x);
}

SSMC_INLINE void ssmc_send(void *to, const void *from) {
    host::send(to, from);
}

SSMC_INLINE void ssmc_arrived() {
    host::arrived();
}

template <typename Number>
SSMC_INLINE Number ssmc_exchanged(Number x, int bits) {
    return host::given_by(host::current ^ bits, x);
}

template <typename Number>
SSMC_INLINE Number ssmc_from_before(Number x, int lanes) {
    const int lane = host::current % host::LANES;
    return host::given_by(host::current - (lane >= lanes ? lanes : 0), x);
}

template <typename Number>
SSMC_INLINE Number ssmc_from_last(Number x) {
    return host::given_by(host::current / host::LANES * host::LANES + host::LANES - 1, x);
}

/* Blocks run one after the other: those that others wait for have to have started before them, whichever they are. */
SSMC_INLINE uint32_t ssmc_ticket(uint32_t *next, uint32_t *place) {
    if (host::current == 0) *place = (*next)++;
    host::wait(host::BLOCK);
    const uint32_t ticket = *place;
    host::wait(host::BLOCK);
    return ticket;
}

SSMC_INLINE void ssmc_await(const uint32_t *signal, uint32_t count) {
    if (*signal != count) host::in_vain = 1;
    host::wait(host::BLOCK);
}

SSMC_INLINE void ssmc_leave(uint32_t *signal, uint32_t count) {
    host::wait(host::BLOCK);
    if (host::current == 0) *signal = count;
}
