#define _GNU_SOURCE
#include "agent/free/libc_trim.h"

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* By the function that only this allocator has, in the very library that malloc is from: a jemalloc that some extension
 * brings for itself is not the process's. */
static const struct allocator {
    int kind;
    const char *name, *function, *tells;
} allocators[] = {
    {LIBC_GLIBC, "glibc", "malloc_trim", NULL},
    {LIBC_JEMALLOC, "jemalloc", "mallctl", "mallctl"},
    {LIBC_MIMALLOC, "mimalloc", "mi_collect", NULL},
    {LIBC_TCMALLOC, "tcmalloc", "MallocExtension_ReleaseFreeMemory",
     "MallocExtension_GetNumericProperty"},
};

/* Does this object define what it says, or only call it? An executable that takes the address of malloc has an entry for it that
 * dlsym finds first, and that is none. */
static bool defines(void *at, Dl_info *info) {
    const ElfW(Sym) *symbol = NULL;
    if (!at || !dladdr1(at, info, (void **)&symbol, RTLD_DL_SYMENT)) return false;
    return symbol && symbol->st_shndx != SHN_UNDEF;
}

/* The first object that defines the function, in the order in which the loader looks. */
static void *provider_of(const char *function, Dl_info *info) {
    void *at = dlsym(RTLD_DEFAULT, function);
    if (defines(at, info)) return at;
    for (const struct link_map *m = _r_debug.r_map; m; m = m->l_next) {
        if (!m->l_name || !m->l_name[0]) continue;
        void *handle = dlopen(m->l_name, RTLD_NOLOAD | RTLD_LAZY);
        at = handle ? dlsym(handle, function) : NULL;
        bool here = defines(at, info) && (ElfW(Addr))info->dli_fbase == m->l_addr;
        if (handle) dlclose(handle);
        if (here) return at;
    }
    return NULL;
}

void libc_find(libc_found_t *f) {
    Dl_info of_malloc, of_free, info;
    memset(f, 0, sizeof *f);
    snprintf(f->name, sizeof f->name, "malloc");
    if (!provider_of("malloc", &of_malloc) || !provider_of("free", &of_free)) return;
    snprintf(f->library, sizeof f->library, "%s", of_malloc.dli_fname ? of_malloc.dli_fname : "");
    if (of_malloc.dli_fbase != of_free.dli_fbase) return; /* half of it is wrapped */
    for (size_t i = 0; i < sizeof allocators / sizeof allocators[0]; i++) {
        void *at = provider_of(allocators[i].function, &info);
        if (!at || info.dli_fbase != of_malloc.dli_fbase) continue;
        f->kind = allocators[i].kind;
        f->release = at;
        if (allocators[i].tells) f->tell = provider_of(allocators[i].tells, &info);
        snprintf(f->name, sizeof f->name, "%s", allocators[i].name);
        return;
    }
}

static bool jemalloc_books(const libc_found_t *f, libc_books_t *out) {
    int (*mallctl)(const char *, void *, size_t *, void *, size_t);
    uint64_t epoch = 1;
    size_t values[5];
    static const char *const names[] = {"stats.allocated", "stats.resident", "arenas.page",
                                        "stats.arenas.4096.pdirty", "stats.arenas.4096.pmuzzy"};
    memcpy(&mallctl, &f->tell, sizeof mallctl);
    size_t n = sizeof epoch;
    if (mallctl("epoch", &epoch, &n, &epoch, sizeof epoch)) return false; /* figures of now */
    for (size_t i = 0; i < 5; i++) {
        n = sizeof values[i];
        if (mallctl(names[i], &values[i], &n, NULL, 0)) return false;
    }
    *out = (libc_books_t){.allocated_bytes = values[0],
                          .resident_bytes = values[1],
                          .returnable_bytes = (values[3] + values[4]) * values[2]};
    return true;
}

static bool tcmalloc_books(const libc_found_t *f, libc_books_t *out) {
    int (*property)(const char *, size_t *);
    size_t allocated, heap, unmapped, free_bytes;
    memcpy(&property, &f->tell, sizeof property);
    if (!property("generic.current_allocated_bytes", &allocated) ||
        !property("generic.heap_size", &heap) ||
        !property("tcmalloc.pageheap_unmapped_bytes", &unmapped) ||
        !property("tcmalloc.pageheap_free_bytes", &free_bytes))
        return false;
    *out = (libc_books_t){.allocated_bytes = allocated,
                          .resident_bytes = heap > unmapped ? heap - unmapped : 0,
                          .returnable_bytes = free_bytes};
    return true;
}

bool libc_read_books(const libc_found_t *f, libc_books_t *out) {
    memset(out, 0, sizeof *out);
    if (!f->tell) return false;
    if (f->kind == LIBC_JEMALLOC) return jemalloc_books(f, out);
    return f->kind == LIBC_TCMALLOC && tcmalloc_books(f, out);
}

void libc_trim(const libc_found_t *f) {
    int (*trim)(size_t);
    int (*mallctl)(const char *, void *, size_t *, void *, size_t);
    void (*collect)(_Bool);
    void (*release)(void);
    switch (f->kind) {
    case LIBC_GLIBC:
        memcpy(&trim, &f->release, sizeof trim);
        trim(0);
        break;
    case LIBC_JEMALLOC:
        memcpy(&mallctl, &f->release, sizeof mallctl);
        mallctl("arena.4096.purge", NULL, NULL, NULL, 0);
        break;
    case LIBC_MIMALLOC:
        memcpy(&collect, &f->release, sizeof collect);
        collect(1);
        break;
    case LIBC_TCMALLOC:
        memcpy(&release, &f->release, sizeof release);
        release();
        break;
    default:
        break;
    }
}
