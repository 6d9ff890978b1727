#define _GNU_SOURCE
#include "agent/alloc/alloc_libc.h"

#include "agent/alloc/alloc_count.h"
#include "agent/alloc/alloc_got.h"
#include "agent/alloc/alloc_opens.h"
#include "agent/alloc/alloc_unwind.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

enum real {
    MALLOC,
    CALLOC,
    REALLOC,
    FREE,
    REALLOCARRAY,
    POSIX_MEMALIGN,
    ALIGNED_ALLOC,
    MEMALIGN,
    VALLOC,
    PVALLOC,
    MMAP,
    MMAP64,
    MUNMAP,
    MREMAP,
    MPROTECT,
    DLOPEN,
    DLSYM,
    DLCLOSE,
    REALS
};

static got_hook_t hooks[REALS + OPENS_HOOKS];
static got_t got;
static _Atomic uint32_t inside;
/* Since the last patching: by whomever, and by this thread. Where another one patches while a library is being loaded, it is that
 * thread alone that knows when it is there. */
static _Atomic bool something_loaded;
static __thread bool loaded_here __attribute__((tls_model("initial-exec")));
static atomic_flag patching = ATOMIC_FLAG_INIT;
static _Atomic bool exact;
/* Exact mode's shadow has a word for each 16 bytes. jemalloc, mimalloc and tcmalloc lay blocks of up to 8 bytes more closely: of those
 * they are asked for a little more. 0: this malloc does not. */
static _Atomic size_t least_bytes;

#define REAL(type, which) ((type)got_real(&hooks[which]))
typedef void *(*malloc_t)(size_t);
typedef void *(*calloc_t)(size_t, size_t);
typedef void *(*realloc_t)(void *, size_t);
typedef void (*free_t)(void *);
typedef int (*posix_memalign_t)(void **, size_t, size_t);
typedef void *(*aligned_t)(size_t, size_t);
typedef void *(*mmap_t)(void *, size_t, int, int, int, off_t);
typedef int (*munmap_t)(void *, size_t);
typedef void *(*mremap_t)(void *, size_t, size_t, int, ...);
typedef int (*mprotect_t)(void *, size_t, int);
typedef void *(*dlopen_t)(const char *, int);
typedef void *(*dlsym_t)(void *, const char *);
typedef int (*dlclose_t)(void *);

void libc_enter(void) {
    atomic_fetch_add(&inside, 1);
}

void libc_leave(void) {
    atomic_fetch_sub(&inside, 1);
}

uint32_t libc_inside(void) {
    return atomic_load(&inside);
}

void libc_fork_child(void) {
    atomic_store(&inside, 0);
    atomic_flag_clear(&patching);
}

/* Where nothing is to be counted each hook ends in a jump to the real function, so that no thread is in a hook while it waits
 * in libc, and what looks at its caller (dlopen, dlsym) sees the program. */

/* ── Sampled ── */

static __attribute__((noinline)) void *sampled_malloc_slow(size_t bytes) {
    libc_enter();
    void *p = REAL(malloc_t, MALLOC)(bytes);
    count_sample(p, bytes, REGION_LIBC);
    libc_leave();
    return p;
}

static void *sampled_malloc(size_t bytes) {
    if (count_absurd(bytes) || !count_reaches(bytes)) return REAL(malloc_t, MALLOC)(bytes);
    return sampled_malloc_slow(bytes);
}

static __attribute__((noinline)) void *sampled_calloc_slow(size_t n, size_t each) {
    libc_enter();
    void *p = REAL(calloc_t, CALLOC)(n, each);
    count_sample(p, n * each, REGION_LIBC);
    libc_leave();
    return p;
}

static void *sampled_calloc(size_t n, size_t each) {
    size_t bytes;
    if (__builtin_mul_overflow(n, each, &bytes) || count_absurd(bytes) || !count_reaches(bytes))
        return REAL(calloc_t, CALLOC)(n, each);
    return sampled_calloc_slow(n, each);
}

static __attribute__((noinline)) void *sampled_realloc_slow(void *old, size_t bytes) {
    libc_enter();
    count_taken_t taken = count_take(old);
    void *p = REAL(realloc_t, REALLOC)(old, bytes);
    if (!p && bytes) count_put_back(old, &taken, false);
    if (count_me.left < 0) count_sample(p, bytes, REGION_LIBC);
    libc_leave();
    return p;
}

static void *sampled_realloc(void *old, size_t bytes) {
    if (count_absurd(bytes)) return REAL(realloc_t, REALLOC)(old, bytes);
    bool reaches = count_reaches(bytes);
    if (reaches || count_may_have(old)) return sampled_realloc_slow(old, bytes);
    return REAL(realloc_t, REALLOC)(old, bytes);
}

static __attribute__((noinline)) void sampled_free_slow(void *p) {
    libc_enter();
    count_take(p);
    libc_leave();
    REAL(free_t, FREE)(p);
}

static void sampled_free(void *p) {
    if (count_may_have(p))
        sampled_free_slow(p);
    else
        REAL(free_t, FREE)(p);
}

/* ── Exact ── */

static inline size_t asked(size_t bytes) {
    const size_t least = atomic_load_explicit(&least_bytes, memory_order_relaxed);
    return bytes < least ? least : bytes;
}

static void *exact_malloc(size_t bytes) {
    if (count_muted()) return REAL(malloc_t, MALLOC)(asked(bytes));
    libc_enter();
    void *p = REAL(malloc_t, MALLOC)(asked(bytes));
    count_born(p, bytes, REGION_LIBC, false);
    libc_leave();
    return p;
}

static void *exact_calloc(size_t n, size_t each) {
    size_t bytes;
    if (!__builtin_mul_overflow(n, each, &bytes) && bytes < least_bytes) n = least_bytes, each = 1;
    if (count_muted()) return REAL(calloc_t, CALLOC)(n, each);
    libc_enter();
    void *p = REAL(calloc_t, CALLOC)(n, each);
    count_born(p, bytes, REGION_LIBC, false);
    libc_leave();
    return p;
}

static void *exact_realloc(void *old, size_t bytes) {
    const size_t ask = bytes || !old ? asked(bytes) : 0; /* 0: a free */
    if (count_muted()) return REAL(realloc_t, REALLOC)(old, ask);
    libc_enter();
    count_taken_t taken = count_died(old, false);
    void *p = REAL(realloc_t, REALLOC)(old, ask);
    if (p)
        count_born(p, bytes, REGION_LIBC, false);
    else if (bytes)
        count_put_back(old, &taken, false);
    libc_leave();
    return p;
}

static __attribute__((noinline)) void exact_free_slow(void *p) {
    libc_enter();
    count_died(p, false);
    libc_leave();
}

static void exact_free(void *p) {
    exact_free_slow(p);
    REAL(free_t, FREE)(p);
}

/* ── Both: seldom called ── */

static void aligned_born(void *p, size_t bytes) {
    if (count_muted() || count_absurd(bytes)) return;
    if (exact)
        count_born(p, bytes, REGION_LIBC, false);
    else if (count_reaches(bytes))
        count_sample(p, bytes, REGION_LIBC);
}

static int hook_posix_memalign(void **out, size_t alignment, size_t bytes) {
    libc_enter();
    int status = REAL(posix_memalign_t, POSIX_MEMALIGN)(out, alignment, bytes);
    if (!status) aligned_born(*out, bytes);
    libc_leave();
    return status;
}

static void *hook_aligned_alloc(size_t alignment, size_t bytes) {
    libc_enter();
    void *p = REAL(aligned_t, ALIGNED_ALLOC)(alignment, bytes);
    aligned_born(p, bytes);
    libc_leave();
    return p;
}

static void *hook_memalign(size_t alignment, size_t bytes) {
    libc_enter();
    void *p = REAL(aligned_t, MEMALIGN)(alignment, bytes);
    aligned_born(p, bytes);
    libc_leave();
    return p;
}

static void *hook_valloc(size_t bytes) {
    libc_enter();
    void *p = REAL(malloc_t, VALLOC)(bytes);
    aligned_born(p, bytes);
    libc_leave();
    return p;
}

static void *hook_pvalloc(size_t bytes) {
    libc_enter();
    void *p = REAL(malloc_t, PVALLOC)(bytes);
    aligned_born(p, bytes);
    libc_leave();
    return p;
}

static void *hook_reallocarray(void *old, size_t n, size_t each) {
    size_t bytes;
    if (__builtin_mul_overflow(n, each, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return exact ? exact_realloc(old, bytes) : sampled_realloc(old, bytes);
}

/* What only mirrors a file is no memory of the program's. */
static void *hook_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset) {
    bool anonymous = flags & MAP_ANONYMOUS && !count_muted();
    if (!anonymous && !(flags & MAP_FIXED))
        return REAL(mmap_t, MMAP)(at, bytes, protection, flags, fd, offset);
    libc_enter();
    void *p = REAL(mmap_t, MMAP)(at, bytes, protection, flags, fd, offset);
    if (flags & MAP_FIXED) unwind_unmaps();
    if (p != MAP_FAILED && !anonymous)
        count_unmapped(p, bytes);
    else if (p != MAP_FAILED && protection == PROT_NONE)
        count_reserved(p, bytes);
    else if (p != MAP_FAILED)
        count_mapped(p, bytes);
    libc_leave();
    return p;
}

/* Memory that is forbidden again stays what it was: only its pages' going would tell that it is none any more. */
static int hook_mprotect(void *at, size_t bytes, int protection) {
    const bool counts = protection != PROT_NONE && count_reserves() && !count_muted();
    const bool readable = protection & PROT_READ;
    if (readable && !counts) return REAL(mprotect_t, MPROTECT)(at, bytes, protection);
    libc_enter();
    int status = REAL(mprotect_t, MPROTECT)(at, bytes, protection);
    if (!readable) unwind_unmaps();
    if (!status && counts) count_committed(at, bytes);
    libc_leave();
    return status;
}

static int hook_munmap(void *at, size_t bytes) {
    libc_enter();
    if (!count_muted()) count_unmapped(at, bytes);
    int status = REAL(munmap_t, MUNMAP)(at, bytes);
    unwind_unmaps();
    libc_leave();
    return status;
}

static void *hook_mremap(void *old, size_t old_bytes, size_t bytes, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(rest, void *) : NULL;
    va_end(rest);
    libc_enter();
    void *p = REAL(mremap_t, MREMAP)(old, old_bytes, bytes, flags, to);
    unwind_unmaps();
    if (p != MAP_FAILED) {
        count_unmapped(old, old_bytes);
        count_mapped(p, bytes);
    }
    libc_leave();
    return p;
}

/* What dlopen brings is patched when something is looked up in it, since nothing is to run behind the real dlopen: it looks at who
 * calls it. */
static void *hook_dlopen(const char *name, int flags) {
    loaded_here = true;
    unwind_forget(); /* it may come to lie where one was whose last functions ran after hook_dlclose */
    atomic_store_explicit(&something_loaded, true, memory_order_relaxed);
    return REAL(dlopen_t, DLOPEN)(name, flags);
}

/* Nobody waits for who is patching, who may wait for the loader: that one looks again when it is done. */
static void patch_new(void) {
    while (atomic_load(&something_loaded) && !atomic_flag_test_and_set(&patching)) {
        atomic_store(&something_loaded, false);
        got_patch(&got);
        atomic_flag_clear(&patching);
    }
}

static __attribute__((noinline)) void patch_loaded(void) {
    libc_enter();
    int error = errno;
    loaded_here = false;
    atomic_store(&something_loaded, true);
    patch_new();
    errno = error;
    libc_leave();
}

static void *hook_dlsym(void *handle, const char *name) {
    if (loaded_here || atomic_load_explicit(&something_loaded, memory_order_relaxed))
        patch_loaded();
    return REAL(dlsym_t, DLSYM)(handle, name);
}

static int hook_dlclose(void *handle) {
    unwind_forget();
    return REAL(dlclose_t, DLCLOSE)(handle);
}

/* ── In and out ── */

static bool aligns_to_16(size_t bytes) {
    uintptr_t all = 0;
    void *blocks[8];
    for (size_t i = 0; i < 8; i++) all |= (uintptr_t)(blocks[i] = malloc(bytes));
    for (size_t i = 0; i < 8; i++) free(blocks[i]);
    return !(all & 15);
}

static int check_alignment(err_t *e) {
    least_bytes = aligns_to_16(1) && aligns_to_16(8) ? 0 : 16;
    return aligns_to_16(16) && aligns_to_16(24) && aligns_to_16(40)
               ? 0
               : err_set(e, -ENOSYS,
                         "this malloc does not align to 16 bytes, which exact needs; leave "
                         "--exact out");
}

int libc_hook(enum region_mode mode, bool stays, err_t *e) {
    exact = mode == REGION_EXACT;
    const got_hook_t all[REALS] = {
        [MALLOC] = {"malloc", exact ? (got_function_t)exact_malloc : (got_function_t)sampled_malloc,
                    NULL},
        [CALLOC] = {"calloc", exact ? (got_function_t)exact_calloc : (got_function_t)sampled_calloc,
                    NULL},
        [REALLOC] = {"realloc",
                     exact ? (got_function_t)exact_realloc : (got_function_t)sampled_realloc, NULL},
        [FREE] = {"free", exact ? (got_function_t)exact_free : (got_function_t)sampled_free, NULL},
        [REALLOCARRAY] = {"reallocarray", (got_function_t)hook_reallocarray, NULL},
        [POSIX_MEMALIGN] = {"posix_memalign", (got_function_t)hook_posix_memalign, NULL},
        [ALIGNED_ALLOC] = {"aligned_alloc", (got_function_t)hook_aligned_alloc, NULL},
        [MEMALIGN] = {"memalign", (got_function_t)hook_memalign, NULL},
        [VALLOC] = {"valloc", (got_function_t)hook_valloc, NULL},
        [PVALLOC] = {"pvalloc", (got_function_t)hook_pvalloc, NULL},
        [MMAP] = {"mmap", (got_function_t)hook_mmap, NULL},
        [MMAP64] = {"mmap64", (got_function_t)hook_mmap, NULL},
        [MUNMAP] = {"munmap", (got_function_t)hook_munmap, NULL},
        [MREMAP] = {"mremap", (got_function_t)hook_mremap, NULL},
        [MPROTECT] = {"mprotect", (got_function_t)hook_mprotect, NULL},
        [DLOPEN] = {"dlopen", (got_function_t)hook_dlopen, NULL},
        [DLSYM] = {"dlsym", (got_function_t)hook_dlsym, NULL},
        [DLCLOSE] = {"dlclose", (got_function_t)hook_dlclose, NULL},
    };
    int status = exact ? check_alignment(e) : 0;
    if (status) return status;
    for (int i = 0; i < REALS; i++) hooks[i] = all[i];
    atomic_flag_test_and_set(&patching); /* nobody has since the last libc_unhook */
    size_t count = REALS + opens_hooks(hooks + REALS, stays);
    got = (got_t){.hooks = hooks, .count = count, .left = "malloc"};
    status = got_open(&got, e);
    if (status) return status;
    got_patch(&got);
    atomic_flag_clear(&patching);
    patch_new();
    return 0;
}

void libc_unhook(void) {
    while (atomic_flag_test_and_set(&patching)) {
    }
    got_restore(&got);
}
