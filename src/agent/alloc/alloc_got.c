#define _GNU_SOURCE
#include "agent/alloc/alloc_got.h"

#include "agent/runtime/runtime.h"
#include "base/mem.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, TRAMPOLINE_BYTES = 16, MARK_AT = 2048 };
enum { OBJECTS_BYTES = GOT_OBJECTS * sizeof(got_object_t) };
enum { DONE = 4 }; /* quiet visits; one where it is known to have been relocated */
_Static_assert(GOT_HOOKS_MAX *TRAMPOLINE_BYTES <= PAGE, "a page of trampolines");
_Static_assert(GOT_HOOKS_MAX * sizeof(got_function_t) <= MARK_AT, "and one of targets");

/* In the page of targets: whose trampolines these are, by the hooks' names in their order. */
typedef struct mark {
    uint64_t name;
    _Atomic uint32_t in_use;
} mark_t;

typedef struct object {
    got_t *got;
    uintptr_t base, begin, end;       /* where it lies */
    uintptr_t relro_begin, relro_end; /* read-only once relocated */
    const ElfW(Phdr) * segments;
    size_t segment_count;
    const ElfW(Sym) * symbols;
    const char *names;
    bool relocated; /* for certain, before it was looked through */
    bool failed;    /* a slot could not be written */
} object_t;

static uintptr_t trampoline(const got_t *g, size_t i) {
    return (uintptr_t)g->code + i * TRAMPOLINE_BYTES;
}

/* endbr64; jmp *target(%rip) */
static void trampoline_write(const got_t *g, size_t i) {
    static const unsigned char code[] = {0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25};
    unsigned char *at = g->code + i * TRAMPOLINE_BYTES;
    memcpy(at, code, sizeof code);
    int32_t distance = (int32_t)((unsigned char *)&g->targets[i] - (at + sizeof code + 4));
    memcpy(at + sizeof code, &distance, sizeof distance);
}

/* A fixed-address executable that takes a function's address stands in for it: dlsym finds an entry of its PLT, which jumps to
 * where its GOT says, to our hook. The real one is in the first object behind it that defines it. */
static bool stands_in(void *function) {
    Dl_info info;
    ElfW(Sym) *symbol = NULL;
    return dladdr1(function, &info, (void **)&symbol, RTLD_DL_SYMENT) && symbol &&
           symbol->st_shndx == SHN_UNDEF;
}

static void *find_real(const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    if (!found || !stands_in(found)) return found;
    found = NULL;
    for (struct link_map *m = _r_debug.r_map; m && !found; m = m->l_next) {
        void *handle = m->l_name[0] ? dlopen(m->l_name, RTLD_NOLOAD | RTLD_LAZY) : NULL;
        if (!handle) continue;
        Dl_info info;
        void *there = dlsym(handle, name);
        if (there && dladdr(there, &info) && (uintptr_t)info.dli_fbase == m->l_addr) found = there;
        dlclose(handle);
    }
    return found;
}

/* ── The trampolines' two pages ──
 *
 * Those of a visit before stay mapped; they are found again by what is written behind their targets. */

static uint64_t hooks_name(const got_t *g) {
    uint64_t h = 0x6c6f777469646501ull;
    for (size_t i = 0; i < g->count; i++)
        for (size_t k = 0; k <= strlen(g->hooks[i].name); k++)
            h = (h ^ (unsigned char)g->hooks[i].name[k]) * 0x100000001b3ull;
    return h;
}

static mark_t *mark_of(unsigned char *code) {
    return (mark_t *)(code + PAGE + MARK_AT);
}

/* What lies there may be unmapped at any moment, unless it is ours. */
static bool is_marked(unsigned char *code, uint64_t name) {
    uint64_t seen = 0;
    return !rt_peek((rt_addr_t)&mark_of(code)->name, &seen, sizeof seen) && seen == name;
}

/* A page of code that is no file's, and behind it one that can be written. */
static unsigned char *pages_in(const char *line, uintptr_t *code_end) {
    uintptr_t begin, end;
    char may[5] = "";
    int named = 0;
    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %*s %n", &begin, &end, may, &named) < 3)
        return NULL;
    bool behind = *code_end && begin == *code_end && strcmp(may, "rw-p") == 0;
    bool code = strcmp(may, "r-xp") == 0 && end - begin == PAGE && !line[named];
    *code_end = code ? end : 0;
    return behind ? (unsigned char *)begin - PAGE : NULL;
}

static unsigned char *pages_again(uint64_t name) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    uintptr_t code_end = 0;
    unsigned char *found = NULL;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        unsigned char *code = pages_in(line, &code_end);
        uint32_t unused = 0;
        if (code && is_marked(code, name) &&
            atomic_compare_exchange_strong(&mark_of(code)->in_use, &unused, 1))
            found = code;
    }
    if (maps) fclose(maps);
    return found;
}

static int pages_make(got_t *g, uint64_t name, err_t *e) {
    g->code = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->code == MAP_FAILED) {
        g->code = NULL;
        return err_sys(e, -errno, "no memory for the hooks");
    }
    g->targets = (_Atomic(got_function_t) *)(g->code + PAGE);
    for (size_t i = 0; i < g->count; i++) trampoline_write(g, i);
    *mark_of(g->code) = (mark_t){.name = name, .in_use = 1};
    if (mprotect(g->code, PAGE, PROT_READ | PROT_EXEC) == 0) return 0;
    int status = err_sys(e, -errno, "this system lets no program make code in memory (SELinux?)");
    munmap(g->code, 2 * PAGE);
    g->code = NULL;
    return status;
}

int got_open(got_t *g, err_t *e) {
    const uint64_t name = hooks_name(g);
    g->code = pages_again(name);
    int status = g->code ? 0 : pages_make(g, name, e);
    if (status) return status;
    g->targets = (_Atomic(got_function_t) *)(g->code + PAGE);
    for (size_t i = 0; i < g->count; i++)
        __atomic_store_n((void **)&g->hooks[i].real, find_real(g->hooks[i].name), __ATOMIC_RELEASE);
    return 0;
}

/* ── One object ── */

static bool object_holds(const object_t *o, uintptr_t address) {
    return address - o->begin < o->end - o->begin;
}

/* Code that was not compiled for a shared object has addresses in itself, in pages that are not written any more once they are relocated. */
static bool is_variable(const object_t *o, uintptr_t slot) {
    if (slot % sizeof slot) return false;
    for (size_t i = 0; i < o->segment_count; i++) {
        const ElfW(Phdr) *p = &o->segments[i];
        if (p->p_type == PT_LOAD && p->p_flags & PF_W && p->p_memsz >= sizeof slot &&
            slot - (o->base + p->p_vaddr) <= p->p_memsz - sizeof slot)
            return true;
    }
    return false;
}

/* false: *now is what another thread has put there meanwhile: the loader, or a program, whose own variable this may be. */
static bool slot_write(object_t *o, uintptr_t slot, uintptr_t *now, uintptr_t value) {
    got_t *g = o->got;
    if (slot < o->relro_begin || slot >= o->relro_end) {
        if (!atomic_compare_exchange_strong((_Atomic uintptr_t *)slot, now, value)) return false;
        g->changed++;
    } else if (pwrite(g->memory, &value, sizeof value, (off_t)slot) == sizeof value) {
        g->changed++;
    } else {
        o->failed = true;
    }
    return true;
}

/* Nearly every slot holds something that is none of what is looked for: its name, which lies far from it, need not be read. */
static bool may_change(const object_t *o, uintptr_t now) {
    const got_t *g = o->got;
    return now - g->lowest <= g->highest - g->lowest || (!g->restoring && object_holds(o, now));
}

/* What the slot should hold instead, or 0. A slot that has not been bound yet points into its own object. */
static uintptr_t slot_wanted(const object_t *o, const ElfW(Rela) * r, uintptr_t now) {
    const got_t *g = o->got;
    if (!may_change(o, now)) return 0;
    const char *name = o->names + o->symbols[ELF64_R_SYM(r->r_info)].st_name;
    if (!g->restoring && !g->initials[(unsigned char)*name]) return 0;
    for (size_t i = 0; i < g->count; i++) {
        const got_hook_t *h = &g->hooks[i];
        if (g->restoring) {
            if (now == trampoline(g, i)) return (uintptr_t)h->real;
            continue;
        }
        if (!h->real || strcmp(name, h->name) != 0) continue;
        bool unbound = ELF64_R_TYPE(r->r_info) == R_X86_64_JUMP_SLOT && object_holds(o, now);
        return now == (uintptr_t)h->real || unbound ? trampoline(g, i) : 0;
    }
    return 0;
}

/* Calls' slots are relocated last, one after the other: before that they hold an offset. */
static bool is_relocated(const object_t *o, const ElfW(Rela) * calls, size_t bytes) {
    for (size_t i = bytes / sizeof *calls; i-- > 0;)
        if (ELF64_R_TYPE(calls[i].r_info) == R_X86_64_JUMP_SLOT)
            return atomic_load((_Atomic uintptr_t *)(o->base + calls[i].r_offset)) >
                   o->end - o->base;
    return false;
}

static void table_patch(object_t *o, const ElfW(Rela) * table, size_t bytes) {
    for (size_t i = 0; i < bytes / sizeof *table; i++) {
        const ElfW(Rela) *r = &table[i];
        uint32_t type = ELF64_R_TYPE(r->r_info);
        bool table =
            type == R_X86_64_64 && r->r_addend == 0; /* `malloc` among a library's own pointers */
        if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT && !table) continue;
        uintptr_t slot = o->base + r->r_offset, wanted;
        if (table && !is_variable(o, slot)) continue;
        uintptr_t now = atomic_load((_Atomic uintptr_t *)slot);
        do wanted = slot_wanted(o, r, now);
        while (wanted && !slot_write(o, slot, &now, wanted));
    }
}

static void dynamic_patch(object_t *o, const ElfW(Dyn) * dynamic) {
    const ElfW(Rela) * tables[2] = {NULL, NULL};
    size_t bytes[2] = {0, 0}, relative = 0;
    for (const ElfW(Dyn) *d = dynamic; d->d_tag != DT_NULL; d++) {
        uintptr_t at = d->d_un.d_ptr < o->base ? o->base + d->d_un.d_ptr : d->d_un.d_ptr;
        if (d->d_tag == DT_SYMTAB) o->symbols = (const void *)at;
        if (d->d_tag == DT_STRTAB) o->names = (const char *)at;
        if (d->d_tag == DT_JMPREL) tables[0] = (const void *)at;
        if (d->d_tag == DT_PLTRELSZ) bytes[0] = d->d_un.d_val;
        if (d->d_tag == DT_RELA) tables[1] = (const void *)at;
        if (d->d_tag == DT_RELASZ) bytes[1] = d->d_un.d_val;
        if (d->d_tag == DT_RELACOUNT) relative = d->d_un.d_val * sizeof(ElfW(Rela));
    }
    if (!o->symbols || !o->names) return;
    if (tables[1] && relative <= bytes[1]) { /* they come first, and have no symbol */
        tables[1] += relative / sizeof(ElfW(Rela));
        bytes[1] -= relative;
    }
    o->relocated = tables[0] && is_relocated(o, tables[0], bytes[0]);
    for (int i = 0; i < 2; i++)
        if (tables[i]) table_patch(o, tables[i], bytes[i]);
}

static bool object_is_left(const object_t *o, const char *name) {
    if (object_holds(o, (uintptr_t)got_open) || strstr(name, "linux-vdso") ||
        object_holds(o, getauxval(AT_BASE)))
        return true;
    const got_t *g = o->got;
    for (size_t i = 0; g->left && i < g->count; i++)
        if (strcmp(g->hooks[i].name, g->left) == 0 && object_holds(o, (uintptr_t)g->hooks[i].real))
            return !object_holds(o, (uintptr_t)gnu_get_libc_version);
    return false;
}

/* The one in that place; forgotten when it is not what it was. */
static got_object_t *object_known(got_t *g, uintptr_t base, const void *segments) {
    if (!g->objects || g->seen == GOT_OBJECTS) return NULL;
    got_object_t *known = &g->objects[g->seen++];
    if (known->base != base || known->segments != segments)
        *known = (got_object_t){.base = base, .segments = segments};
    return known;
}

static int object_patch(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    got_t *g = arg;
    if (g->objects && info->dlpi_subs != g->unloaded) memset(g->objects, 0, OBJECTS_BYTES);
    g->unloaded = info->dlpi_subs;
    got_object_t *known = object_known(g, info->dlpi_addr, info->dlpi_phdr);
    if (known && known->quiet >= DONE) return 0;
    size_t changed = g->changed;
    object_t o = {.got = g,
                  .base = info->dlpi_addr,
                  .begin = UINTPTR_MAX,
                  .segments = info->dlpi_phdr,
                  .segment_count = info->dlpi_phnum};
    const ElfW(Dyn) *dynamic = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t begin = o.base + p->p_vaddr, end = begin + p->p_memsz;
        if (p->p_type == PT_LOAD && begin < o.begin) o.begin = begin & ~(uintptr_t)(PAGE - 1);
        if (p->p_type == PT_LOAD && end > o.end) o.end = end;
        if (p->p_type == PT_DYNAMIC) dynamic = (const void *)begin;
        if (p->p_type == PT_GNU_RELRO) {
            o.relro_begin = begin & ~(uintptr_t)(PAGE - 1);
            o.relro_end = end & ~(uintptr_t)(PAGE - 1);
        }
    }
    bool left = !dynamic || !o.end || object_is_left(&o, info->dlpi_name);
    if (!left) dynamic_patch(&o, dynamic);
    if (known && !o.failed && g->changed == changed) known->quiet += left || o.relocated ? DONE : 1;
    return 0;
}

/* ── All ── */

static size_t patch_all(got_t *g, bool restoring) {
    g->restoring = restoring;
    g->changed = g->seen = 0;
    g->lowest = UINTPTR_MAX, g->highest = 0;
    for (size_t i = 0; i < g->count; i++) {
        uintptr_t sought = restoring ? trampoline(g, i) : (uintptr_t)g->hooks[i].real;
        if (sought && sought < g->lowest) g->lowest = sought;
        if (sought > g->highest) g->highest = sought;
        g->initials[(unsigned char)g->hooks[i].name[0]] = true;
    }
    g->memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    dl_iterate_phdr(object_patch, g);
    if (g->memory >= 0) close(g->memory);
    return g->changed;
}

size_t got_patch(got_t *g) {
    atomic_store(&mark_of(g->code)->in_use, 1);
    for (size_t i = 0; i < g->count; i++) g->targets[i] = g->hooks[i].hook;
    if (!g->objects) g->objects = mem_map(OBJECTS_BYTES);
    return patch_all(g, false);
}

void got_restore(got_t *g) {
    mem_unmap(g->objects, OBJECTS_BYTES);
    g->objects = NULL;
    patch_all(g, true);
    for (size_t i = 0; i < g->count; i++)
        if (g->hooks[i].real) g->targets[i] = g->hooks[i].real;
    atomic_store(&mark_of(g->code)->in_use, 0);
}
