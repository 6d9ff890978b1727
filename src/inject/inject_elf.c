#define _GNU_SOURCE
#include "inject/inject_elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

int elf_read(int mem_fd, uint64_t address, void *to, size_t n) {
    char *p = to;
    while (n > 0) {
        ssize_t got = pread(mem_fd, p, n, (off_t)address);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -EFAULT;
        if (got == 0) return -ESRCH; /* this address space is gone */
        p += got;
        address += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

/* ld.so writes real addresses into most dynamic sections, and leaves offsets in read-only ones. */
static uint64_t dynamic_address(const elf_object_t *o, uint64_t value) {
    return value != 0 && value < o->base ? value + o->bias : value;
}

static void dynamic_read(int mem_fd, uint64_t at, size_t bytes, elf_object_t *o) {
    for (size_t i = 0; i < bytes / sizeof(Elf64_Dyn) && i < 1024; i++) {
        Elf64_Dyn d;
        if (elf_read(mem_fd, at + i * sizeof d, &d, sizeof d) || d.d_tag == DT_NULL) return;
        if (d.d_tag == DT_SYMTAB) o->symbols = dynamic_address(o, d.d_un.d_ptr);
        if (d.d_tag == DT_STRTAB) o->strings = dynamic_address(o, d.d_un.d_ptr);
        if (d.d_tag == DT_STRSZ) o->strings_bytes = d.d_un.d_val;
        if (d.d_tag == DT_VERSYM) o->versions = dynamic_address(o, d.d_un.d_ptr);
        if (d.d_tag == DT_GNU_HASH) o->gnu_hash = dynamic_address(o, d.d_un.d_ptr);
        if (d.d_tag == DT_HASH) o->hash = dynamic_address(o, d.d_un.d_ptr);
    }
}

static uint64_t mapped_end(const proc_maps_t *maps, const proc_map_t *first) {
    uint64_t end = first->end;
    const proc_map_t *last = maps->list.at + maps->list.count;
    for (const proc_map_t *m = first + 1; m < last; m++) {
        if (m->inode != first->inode || m->device != first->device || m->offset == 0) break;
        end = m->end;
    }
    return end;
}

int elf_object_open(int mem_fd, const proc_maps_t *maps, const proc_map_t *first,
                    elf_object_t *out) {
    Elf64_Ehdr h;
    *out = (elf_object_t){.base = first->start, .path = first->path};
    if (elf_read(mem_fd, first->start, &h, sizeof h)) return -EFAULT;
    if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0) return -ENOEXEC;
    if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64) return -ENOTSUP;
    if (h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phnum > 256) return -ENOEXEC;
    out->end = mapped_end(maps, first);
    uint64_t dynamic = 0, dynamic_bytes = 0;
    bool loads = false;
    for (unsigned i = 0; i < h.e_phnum; i++) {
        Elf64_Phdr p;
        if (elf_read(mem_fd, first->start + h.e_phoff + i * sizeof p, &p, sizeof p))
            return -ENOEXEC;
        if (p.p_type == PT_LOAD && !loads) {
            loads = true;
            out->bias = first->start - ((p.p_vaddr - p.p_offset) & ~4095ULL);
        }
        if (p.p_type == PT_INTERP) out->has_interpreter = true;
        if (p.p_type == PT_DYNAMIC) {
            dynamic = p.p_vaddr;
            dynamic_bytes = p.p_memsz;
        }
    }
    if (!dynamic || !loads) return -ENOEXEC;
    dynamic_read(mem_fd, out->bias + dynamic, dynamic_bytes, out);
    return out->symbols && out->strings && (out->gnu_hash || out->hash) ? 0 : -ENOEXEC;
}

typedef struct lookup {
    int mem_fd;
    const elf_object_t *o;
    const char *name;
    uint64_t found;
    bool is_default;
} lookup_t;

static void lookup_try(lookup_t *l, uint32_t index) {
    Elf64_Sym s;
    char name[64];
    size_t n = strlen(l->name) + 1;
    if (n > sizeof name || elf_read(l->mem_fd, l->o->symbols + index * sizeof s, &s, sizeof s))
        return;
    if (s.st_shndx == SHN_UNDEF || s.st_value == 0 || ELF64_ST_TYPE(s.st_info) == STT_GNU_IFUNC ||
        ELF64_ST_TYPE(s.st_info) == STT_TLS || s.st_name + n > l->o->strings_bytes)
        return;
    if (elf_read(l->mem_fd, l->o->strings + s.st_name, name, n) || memcmp(name, l->name, n) != 0)
        return;
    uint16_t version = 0;
    if (l->o->versions) elf_read(l->mem_fd, l->o->versions + index * 2, &version, 2);
    bool is_default = !(version & 0x8000);
    if (l->found && !(is_default && !l->is_default)) return;
    l->found = l->o->bias + s.st_value;
    l->is_default = is_default;
}

static uint32_t gnu_hash_of(const char *name) {
    uint32_t h = 5381;
    for (; *name; name++) h = h * 33 + (unsigned char)*name;
    return h;
}

static void lookup_gnu(lookup_t *l) {
    struct {
        uint32_t buckets, first, bloom_words, bloom_shift;
    } head;
    uint64_t at = l->o->gnu_hash, word;
    uint32_t h = gnu_hash_of(l->name), index, chain;
    if (elf_read(l->mem_fd, at, &head, sizeof head) || !head.buckets || !head.bloom_words) return;
    at += sizeof head;
    if (elf_read(l->mem_fd, at + h / 64 % head.bloom_words * 8, &word, 8)) return;
    if (!(word >> (h % 64) & 1) || !(word >> ((h >> (head.bloom_shift & 31)) % 64) & 1)) return;
    at += head.bloom_words * 8ULL;
    if (elf_read(l->mem_fd, at + h % head.buckets * 4ULL, &index, 4) || index < head.first) return;
    at += head.buckets * 4ULL;
    for (int steps = 0; steps < 10000; steps++, index++) {
        if (elf_read(l->mem_fd, at + (index - head.first) * 4ULL, &chain, 4)) return;
        if ((chain | 1) == (h | 1)) lookup_try(l, index);
        if (chain & 1) return;
    }
}

static uint32_t sysv_hash_of(const char *name) {
    uint32_t h = 0;
    for (; *name; name++) {
        h = (h << 4) + (unsigned char)*name;
        h = (h ^ (h >> 24 & 0xf0)) & 0x0fffffff;
    }
    return h;
}

static void lookup_sysv(lookup_t *l) {
    uint32_t head[2], index, h = sysv_hash_of(l->name);
    uint64_t at = l->o->hash;
    if (elf_read(l->mem_fd, at, head, sizeof head) || head[0] == 0) return;
    if (elf_read(l->mem_fd, at + 8 + h % head[0] * 4ULL, &index, 4)) return;
    for (int steps = 0; index != 0 && index < head[1] && steps < 10000; steps++) {
        lookup_try(l, index);
        if (elf_read(l->mem_fd, at + 8 + head[0] * 4ULL + index * 4ULL, &index, 4)) return;
    }
}

uint64_t elf_symbol(int mem_fd, const elf_object_t *o, const char *name) {
    lookup_t l = {.mem_fd = mem_fd, .o = o, .name = name};
    if (o->gnu_hash)
        lookup_gnu(&l);
    else
        lookup_sysv(&l);
    return l.found;
}
