/* Stacks that are not as a thread's usually are, for tests of native stacks: coroutines in one piece of memory with their thread, whose
 * neighbours go, and functions that align their frames. */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define APART __attribute__((noinline, visibility("default")))
enum { KIB = 1024, MIB = 1024 * KIB, STACK = 256 * KIB, BUFFER = 64 * KIB };

static char *slab;

static void allocate(void) {
    for (int i = 0; i < 8; i++) {
        volatile char *p = malloc(8 * MIB);
        p[0] = 1;
        free((void *)p);
    }
}

static __attribute__((noinline)) int run_on(char *top, void (*what)(void)) {
    char local[400];
    memset(local, 1, sizeof local);
    __asm__ volatile("movq %%rsp, %%rbx\n\tmovq %0, %%rsp\n\tcallq *%1\n\tmovq %%rbx, %%rsp\n"
                     :
                     : "r"(top), "r"(what), "m"(local)
                     : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
                       "memory");
    return local[7];
}

static void *coroutines(void *unused) {
    char *first = slab, *second = slab + STACK;
    allocate();
    run_on(first + STACK - 64, allocate);
    munmap(first, STACK);
    munmap(second + STACK, BUFFER); /* between the second and the thread's own stack */
    run_on(second + STACK - 64, allocate);
    return unused;
}

/* 0, or an errno. */
APART int run_coroutines(void) {
    const size_t own = 2 * STACK + BUFFER;
    pthread_attr_t attributes;
    pthread_t thread;
    slab = mmap(NULL, own + MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, slab + own, MIB);
    int status = pthread_create(&thread, &attributes, coroutines, NULL);
    return status ? status : pthread_join(thread, NULL);
}

static volatile char guard;

APART void aligned(size_t room, size_t bytes) {
    _Alignas(64) volatile char local[64];
    volatile char *more = alloca(room);
    more[0] = local[1] = 1;
    volatile char *kept = malloc(bytes);
    kept[0] = guard = more[0] + local[1];
}

APART void small_path(size_t bytes) {
    volatile char local[24];
    local[16] = 0;
    aligned(16, bytes);
    guard += local[16];
}

APART void big_path(size_t bytes) {
    volatile char local[88];
    local[80] = 0;
    aligned(16, bytes);
    guard += local[80];
}

static __attribute__((noinline)) void from(size_t room, void (*path)(size_t), size_t bytes) {
    volatile char *more = alloca(room);
    more[0] = 0;
    path(bytes);
    guard += more[0];
}

/* Both at every distance: so they meet each other's stacks. */
APART void run_paths(void) {
    for (size_t a = 16; a < 160; a += 16)
        for (size_t b = 16; b < 160; b += 16) {
            from(a, small_path, 2000);
            from(b, big_path, 1000);
        }
}
