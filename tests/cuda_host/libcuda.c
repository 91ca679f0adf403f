/* The functions of the CUDA driver, and of HIP's, that shipped layers call, for a GPU that is this host.
 *
 * Machine code is the path of a shared object that tests.cuda_host.host has built; real machine code is handed to a
 * function that the test gives to fake_hook. What a real driver refuses is refused. Environment: FAKE_SHARED, bytes of
 * shared memory that a block may have; FAKE_ERROR, the name of a function that fails. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*hook_t)(const char *name, unsigned blocks, unsigned threads, unsigned shared, void *stream, void **given);
typedef struct { char name[256]; int (*run)(const void *, int64_t, int, int64_t); unsigned shared; } kernel_t;

static __thread void *context;
static hook_t hook;

void fake_hook(hook_t given) { hook = given; }

static int refused(const char *name) {
    const char *failing = getenv("FAKE_ERROR");
    return failing && !strcmp(failing, name) ? 209 : 0;
}

int cuInit(unsigned flags) { return flags ? 1 : refused("cuInit"); }
int cuCtxGetCurrent(void **found) { *found = context; return 0; }
int cuDevicePrimaryCtxRetain(void **found, int device) { *found = (void *)(intptr_t)(device + 1); return 0; }
int cuCtxSetCurrent(void *given) { context = given; return 0; }
int cuDeviceGetAttribute(int *found, int attribute, int device) {
    *found = getenv("FAKE_SHARED") ? atoi(getenv("FAKE_SHARED")) : 227 << 10;
    return attribute == 97 ? 0 : 1;
}
int cuGetErrorString(int error, const char **words) { *words = error == 209 ? "no kernel image" : "invalid context"; return 0; }

static int load(void **module, const char *code) {
    *module = memcmp(code, "\x7f" "ELF", 4) ? dlopen(code, RTLD_NOW | RTLD_LOCAL) : (void *)code;
    return *module ? 0 : 200;
}
static int get(void **function, void *module, const char *name, int is_code) {
    kernel_t *made = calloc(1, sizeof *made);
    char full[300];
    snprintf(made->name, sizeof made->name, "%s", name);
    snprintf(full, sizeof full, "host_%s", name);
    made->shared = 48 << 10;
    made->run = is_code ? NULL : (int (*)(const void *, int64_t, int, int64_t))dlsym(module, full);
    *function = made;
    return is_code || made->run ? 0 : 500;
}
static int launch(kernel_t *k, unsigned blocks, unsigned threads, unsigned shared, void *stream, void **given) {
    if (!blocks || threads > 1024 || shared > k->shared) return 1;
    return k->run ? k->run(given[0], blocks, (int)threads, shared) : hook(k->name, blocks, threads, shared, stream, given);
}

static int real; /* whether the latest module is real machine code */
int cuModuleLoadData(void **module, const char *code) {
    if (!context) return 201;
    real = !memcmp(code, "\x7f" "ELF", 4);
    return refused("cuModuleLoadData") ? 209 : load(module, code);
}
int cuModuleGetFunction(void **function, void *module, const char *name) { return get(function, module, name, real); }
int cuFuncSetAttribute(kernel_t *k, int attribute, int bytes) { k->shared = (unsigned)bytes; return attribute == 8 ? 0 : 1; }
int cuLaunchKernel(kernel_t *k, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz, unsigned shared,
                   void *stream, void **given, void **extra) {
    if (!context) return 201;
    return y != 1 || z != 1 || ty != 1 || tz != 1 || extra ? 1 : launch(k, x, tx, shared, stream, given);
}

int hipModuleLoadData(void **module, const char *code) { real = 1; return refused("hipModuleLoadData") ? 209 : load(module, code); }
int hipModuleGetFunction(void **function, void *module, const char *name) { return get(function, module, name, real); }
int hipModuleLaunchKernel(kernel_t *k, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                          unsigned shared, void *stream, void **given, void **extra) {
    return y != 1 || z != 1 || ty != 1 || tz != 1 || extra ? 1 : launch(k, x, tx, shared, stream, given);
}
const char *hipGetErrorString(int error) { return error == 209 ? "no kernel image" : "invalid value"; }
