#define _GNU_SOURCE
#include "agent/alloc/alloc_unwind.h"

#include "agent/alloc/alloc_unwind_rows.h"
#include "base/mem.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROWS = 1 << 14, PAGE = 4096, PAGES_AT_ONCE = 16, LOOKS_MOST = 64 };
/* The kernel leaves that much free below the first thread's stack: what is nearer to its end is of it. */
#define FIRST_STACK_BYTES  (128u << 20)
#define THREAD_STACK_BYTES (1u << 30)

typedef int (*find_object_t)(void *pc, struct dl_find_object *out);

/* A row with its key in one: check is pc ^ row, so that halves of two do not go together. */
typedef struct slot {
    _Atomic uint64_t check, row;
} slot_t;

static struct {
    find_object_t find_object;
    slot_t *rows;
    uintptr_t begin, end; /* of this library */
    uintptr_t first_stack_end;
    _Atomic uint32_t generation, mappings;
    char executable[PAGE];
} unwind;

/* Memory that this thread has seen to be readable, as long as nothing was unmapped. */
static __thread struct {
    uintptr_t begin, end;
    uint32_t mappings;
} readable __attribute__((tls_model("initial-exec")));

int unwind_open(err_t *e) {
    struct dl_find_object own;
    memset(&unwind, 0, sizeof unwind);
    *(void **)&unwind.find_object = dlsym(RTLD_DEFAULT, "_dl_find_object");
    void **stack_end = dlsym(RTLD_DEFAULT, "__libc_stack_end");
    if (!unwind.find_object || !stack_end ||
        unwind.find_object((void *)(uintptr_t)unwind_open, &own))
        return err_set(e, -ENOSYS,
                       "frames of C need glibc 2.35 or later in the program; leave --native out");
    unwind.rows = mem_map(ROWS * sizeof(slot_t));
    if (!unwind.rows) return err_set(e, -ENOMEM, "no memory for the profile");
    unwind.begin = (uintptr_t)own.dlfo_map_start;
    unwind.end = (uintptr_t)own.dlfo_map_end;
    unwind.first_stack_end = (uintptr_t)*stack_end;
    ssize_t n = readlink("/proc/self/exe", unwind.executable, sizeof unwind.executable - 1);
    unwind.executable[n > 0 ? n : 0] = 0;
    return 0;
}

void unwind_close(void) {
    mem_unmap((void *)unwind.rows, ROWS * sizeof(slot_t));
    memset(&unwind, 0, sizeof unwind);
}

bool unwind_is_open(void) {
    return unwind.rows != NULL;
}

void unwind_forget(void) {
    atomic_fetch_add(&unwind.generation, 1);
}

void unwind_unmaps(void) {
    atomic_fetch_add(&unwind.mappings, 1);
}

uint32_t unwind_generation(void) {
    return atomic_load_explicit(&unwind.generation, memory_order_relaxed);
}

/* ── Rows ── */

static unwind_row_t row_compute(uintptr_t pc) {
    struct dl_find_object o;
    if (unwind.find_object((void *)pc, &o) || !o.dlfo_eh_frame)
        return (unwind_row_t){.cfa = UNWIND_END};
    const unwind_table_t t = {o.dlfo_map_start, o.dlfo_map_end, o.dlfo_eh_frame};
    return unwind_row_find(&t, pc);
}

/* How to go on from the call that returns to `pc`. */
static unwind_row_t row_at(uintptr_t pc) {
    _Static_assert(sizeof(unwind_row_t) == sizeof(uint64_t), "a row is one word");
    uint64_t key = pc ^ (uint64_t)unwind_generation() << 48, packed;
    slot_t *s = &unwind.rows[key * 0x9e3779b97f4a7c15ull >> 50];
    uint64_t seen = atomic_load_explicit(&s->row, memory_order_relaxed);
    unwind_row_t row;
    if (seen && (atomic_load_explicit(&s->check, memory_order_relaxed) ^ seen) == key) {
        memcpy(&row, &seen, sizeof row);
        return row;
    }
    row = row_compute(pc - 1);
    memcpy(&packed, &row, sizeof packed);
    atomic_store_explicit(&s->row, packed, memory_order_relaxed);
    atomic_store_explicit(&s->check, packed ^ key, memory_order_relaxed);
    return row;
}

/* ── The stack ── */

typedef struct place {
    uintptr_t pc, sp, bp;
    uintptr_t end; /* of the stack */
    bool first;    /* it is the first thread's, all of which is there */
    uint32_t looks;
} place_t;

static uintptr_t thread_pointer(void) {
    uintptr_t tp;
    __asm__("mov %%fs:0, %0" : "=r"(tp));
    return tp;
}

/* Where the stack ends that sp is on: that of the first thread, or one that has the thread's own data at its end. A coroutine's, below
 * that, is gone through as far as it can be read. */
static bool stack_find(place_t *w) {
    w->first = w->sp < unwind.first_stack_end && unwind.first_stack_end - w->sp < FIRST_STACK_BYTES;
    w->end = w->first ? unwind.first_stack_end : thread_pointer();
    return w->first || (w->sp < w->end && w->end - w->sp < THREAD_STACK_BYTES);
}

/* Looks whether the page at `begin` can be read, and a few behind it: no more, for a look brings in what nobody had touched. */
static bool pages_look(place_t *w, uintptr_t begin) {
    char bytes[PAGES_AT_ONCE];
    struct iovec from[PAGES_AT_ONCE], to = {bytes, 0};
    const uint32_t mappings = atomic_load(&unwind.mappings);
    if (++w->looks > LOOKS_MOST) return false;
    for (uintptr_t at = begin; at < w->end && to.iov_len < PAGES_AT_ONCE; at += PAGE)
        from[to.iov_len++] = (struct iovec){(void *)at, 1};
    /* 0L: the sixth argument lies on the stack, as a word of which an int sets one half. */
    long n = syscall(SYS_process_vm_readv, getpid(), &to, 1, from, to.iov_len, 0L);
    if (n <= 0) return false;
    const uintptr_t end = begin + (uintptr_t)n * PAGE;
    const bool beside =
        readable.mappings == mappings && begin <= readable.end && end >= readable.begin;
    readable.begin = beside && readable.begin < begin ? readable.begin : begin;
    readable.end = beside && readable.end > end ? readable.end : end;
    readable.mappings = mappings;
    return true;
}

static bool stack_word(place_t *w, uintptr_t at, uintptr_t *out) {
    if (at & 7 || at < w->sp || at > w->end - sizeof *out) return false;
    const bool known =
        at >= readable.begin && at < readable.end &&
        readable.mappings == atomic_load_explicit(&unwind.mappings, memory_order_relaxed);
    if (!w->first && !known && !pages_look(w, at & ~(uintptr_t)(PAGE - 1))) return false;
    *out = *(const uintptr_t *)at;
    return true;
}

/* ── Walking ── */

/* false: this was the outermost. */
static bool step(place_t *w, unwind_frame_t *out) {
    const unwind_row_t row = row_at(w->pc);
    uintptr_t cfa = (row.cfa == UNWIND_SP ? w->sp : w->bp) + (uintptr_t)(intptr_t)row.cfa_offset;
    *out = (unwind_frame_t){.pc = w->pc, .sp = w->sp, .cfa = w->sp, .bp = w->bp};
    if (row.cfa == UNWIND_END) return false;
    if (row.cfa == UNWIND_AT_BP) {
        out->cfa_at = cfa;
        if (!stack_word(w, cfa, &cfa)) return false;
    }
    if (cfa <= w->sp || !stack_word(w, cfa - sizeof cfa, &w->pc) || !w->pc) return false;
    uintptr_t rbp_at =
        (row.rbp == UNWIND_AT_CFA ? cfa : w->bp) + (uintptr_t)(intptr_t)row.rbp_offset;
    if (row.rbp != UNWIND_SAME) {
        if (!stack_word(w, rbp_at, &w->bp)) return false;
        out->bp_at = rbp_at;
    }
    out->cfa = w->sp = cfa;
    return true;
}

/* Is the second still the caller of the first? Both are of the last walk, and the first was met in this one, so that its words lie on the
 * stack. */
static inline bool calls_still(const unwind_frame_t *f, const unwind_frame_t *caller) {
    if (f->cfa_at && *(const uintptr_t *)f->cfa_at != f->cfa) return false;
    if (caller->sp != f->cfa || *(const uintptr_t *)(f->cfa - sizeof f->cfa) != caller->pc)
        return false;
    return (f->bp_at ? *(const uintptr_t *)f->bp_at : f->bp) == caller->bp;
}

/* Where the last walk met the same, from its frame `at` on, takes its frames as far as they still call each other, but the
 * outermost of those, from which the walk goes on. */
static size_t follow_last(const unwind_walk_t *last, size_t *at, place_t *w, unwind_frame_t *out,
                          size_t most) {
    size_t k = *at, n = 0;
    while (k < last->count && last->frames[k].sp < w->sp) k++;
    *at = k;
    if (k == last->count || last->frames[k].sp != w->sp || last->frames[k].pc != w->pc ||
        last->frames[k].bp != w->bp)
        return 0;
    const unwind_frame_t *f = last->frames + k;
    while (n < most && k + n + 1 < last->count && calls_still(f + n, f + n + 1)) n++;
    memcpy(out, f, n * sizeof *out);
    w->pc = f[n].pc;
    w->sp = f[n].sp;
    w->bp = f[n].bp;
    *at += n;
    return n;
}

__attribute__((noinline)) void unwind_here(unwind_walk_t *last) {
    const uintptr_t *frame = __builtin_frame_address(0);
    const uint32_t generation = unwind_generation(), mappings = atomic_load(&unwind.mappings);
    place_t w = {.pc = frame[1], .bp = frame[0], .sp = (uintptr_t)(frame + 2)};
    unwind_frame_t *out = last->room[last->frames == last->room[0]];
    size_t n = 0, at = 0;
    bool more = unwind.rows && stack_find(&w);
    if (last->end != w.end || last->generation != generation || last->mappings != mappings)
        last->count = 0;
    while (more && n < UNWIND_MOST) {
        n += follow_last(last, &at, &w, out + n, UNWIND_MOST - n - 1);
        more = step(&w, &out[n]);
        bool ours = out[n].pc - unwind.begin < unwind.end - unwind.begin;
        if (!ours) n++;
    }
    last->frames = out;
    last->count = n;
    last->end = w.end;
    last->generation = generation;
    last->mappings = mappings;
}

/* ── Libraries ── */

static void build_id_read(const uint8_t *note, size_t bytes, unwind_library_t *out) {
    while (bytes >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) h;
        memcpy(&h, note, sizeof h);
        size_t name = (h.n_namesz + 3u) & ~3u, content = (h.n_descsz + 3u) & ~3u;
        if (name > bytes - sizeof h || content > bytes - sizeof h - name) return;
        const uint8_t *at = note + sizeof h + name;
        if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 &&
            memcmp(note + sizeof h, "GNU", 4) == 0 && h.n_descsz <= sizeof out->build_id) {
            memcpy(out->build_id, at, h.n_descsz);
            out->build_id_bytes = h.n_descsz;
            return;
        }
        note += sizeof h + name + content;
        bytes -= sizeof h + name + content;
    }
}

/* A path that the program gave from where it stood: it is taken to stand there still (the build id tells). */
static void path_write(const char *path, unwind_library_t *out) {
    size_t n = 0;
    if (!*path) path = unwind.executable;
    if (*path != '/' && syscall(SYS_getcwd, out->path, sizeof out->path) > 0) {
        n = strlen(out->path);
        if (path[0] == '.' && path[1] == '/') path += 2;
        if (n + 1 < sizeof out->path) out->path[n++] = '/';
    }
    size_t rest = strlen(path);
    if (rest > sizeof out->path - 1 - n) rest = sizeof out->path - 1 - n;
    memcpy(out->path + n, path, rest);
    out->path[n + rest] = 0;
}

bool unwind_library(uintptr_t pc, unwind_library_t *out) {
    struct dl_find_object o;
    if (!unwind.find_object || unwind.find_object((void *)pc, &o)) return false;
    const uint8_t *begin = o.dlfo_map_start, *end = o.dlfo_map_end;
    const ElfW(Ehdr) *h = o.dlfo_map_start;
    memset(out, 0, sizeof *out);
    out->base = o.dlfo_link_map->l_addr;
    path_write(o.dlfo_link_map->l_name, out);
    if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 || h->e_phentsize != sizeof(ElfW(Phdr)) ||
        h->e_phoff > PAGE || h->e_phnum > PAGE / sizeof(ElfW(Phdr)))
        return true;
    const ElfW(Phdr) *p = (const ElfW(Phdr) *)(begin + h->e_phoff);
    for (int i = 0; i < h->e_phnum && !out->build_id_bytes; i++) {
        const uint8_t *note = (const uint8_t *)(out->base + p[i].p_vaddr);
        if (p[i].p_type == PT_NOTE && note >= begin && p[i].p_memsz <= (size_t)(end - begin) &&
            note + p[i].p_memsz <= end)
            build_id_read(note, p[i].p_memsz, out);
    }
    return true;
}
