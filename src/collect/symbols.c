#define _GNU_SOURCE
#include "collect/symbols.h"

#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"
#include "collect/symbols_lines.h"
#include "format/rec_bytes.h"

#include <elf.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTIONS_MAX = 4096, SECTION_BYTES_MAX = 512 << 20, BUILD_ID_CHARS = 64, PATH_BYTES = 4096 };
/* A recording that makes hashes meet gets no names, rather than time. */
enum { SAME_HASH_MAX = 16 };

typedef struct function {
    uint64_t address, bytes;
    uint32_t name;
} function_t;

VEC_DEFINE(symbols_functions, function_t);

/* One library, under the path and build id that it was asked for. */
typedef struct library {
    char *key;
    symbols_functions_t functions; /* by address */
    char *names;
    bool all; /* static functions, too */
    symbols_lines_t lines;
} library_t;

VEC_DEFINE(symbols_libraries, library_t);

struct symbols {
    symbols_libraries_t libraries;
    map_t known; /* its place in libraries, by its key */
    symbols_tools_t tools;
    char debug_path[PATH_BYTES];
};

symbols_t *symbols_new(const char *debug_path) {
    symbols_t *s = mem_alloc(sizeof *s);
    if (!s) return NULL;
    *s = (symbols_t){0};
    if (!debug_path) debug_path = getenv("LOWTIDE_DEBUG_PATH");
    snprintf(s->debug_path, sizeof s->debug_path, "%s%s/usr/lib/debug",
             debug_path ? debug_path : "", debug_path && *debug_path ? ":" : "");
    symbols_tools_open(&s->tools);
    return s;
}

void symbols_free(symbols_t *s) {
    if (!s) return;
    for (size_t i = 0; i < s->libraries.count; i++) {
        library_t *l = s->libraries.at + i;
        symbols_lines_close(&s->tools, &l->lines);
        symbols_functions_free(&l->functions);
        mem_free(l->names);
        mem_free(l->key);
    }
    symbols_libraries_free(&s->libraries);
    map_free(&s->known);
    symbols_tools_close(&s->tools);
    mem_free(s);
}

bool symbols_have_lines(const symbols_t *s) {
    return s->tools.libdw != NULL;
}

/* ── Files ── */

static bool read_at(int fd, void *to, size_t bytes, uint64_t at) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (char *)to + done, bytes - done, (off_t)(at + done));
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

static void *read_section(int fd, const Elf64_Shdr *h) {
    if (!h->sh_size || h->sh_size > SECTION_BYTES_MAX || h->sh_type == SHT_NOBITS) return NULL;
    void *bytes = mem_alloc(h->sh_size);
    if (bytes && read_at(fd, bytes, h->sh_size, h->sh_offset)) return bytes;
    mem_free(bytes);
    return NULL;
}

static Elf64_Shdr *read_sections(int fd, size_t *count) {
    Elf64_Ehdr h;
    if (!read_at(fd, &h, sizeof h, 0) || memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 ||
        h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB ||
        h.e_shentsize != sizeof(Elf64_Shdr) || !h.e_shnum || h.e_shnum > SECTIONS_MAX)
        return NULL;
    Elf64_Shdr *sections = mem_alloc(h.e_shnum * sizeof *sections);
    *count = h.e_shnum;
    if (sections && read_at(fd, sections, *count * sizeof *sections, h.e_shoff)) return sections;
    mem_free(sections);
    return NULL;
}

static bool note_is(const uint8_t *note, size_t bytes, const char *build_id) {
    Elf64_Nhdr h;
    char text[BUILD_ID_CHARS + 1] = "";
    if (bytes < sizeof h) return false;
    memcpy(&h, note, sizeof h);
    if (h.n_type != NT_GNU_BUILD_ID || h.n_namesz != 4 || h.n_descsz > BUILD_ID_CHARS / 2 ||
        h.n_descsz > bytes - sizeof h - 4)
        return false;
    for (uint32_t i = 0; i < h.n_descsz; i++)
        snprintf(text + 2 * i, 3, "%02x", note[sizeof h + 4 + i]);
    return strcmp(text, build_id) == 0;
}

static bool built_as(int fd, const Elf64_Shdr *sections, size_t count, const char *build_id) {
    bool same = !*build_id;
    for (size_t i = 0; i < count && !same; i++) {
        uint8_t *note = sections[i].sh_type == SHT_NOTE ? read_section(fd, &sections[i]) : NULL;
        same = note && note_is(note, sections[i].sh_size, build_id);
        mem_free(note);
    }
    return same;
}

/* ── Symbols ── */

static int function_order(const void *a, const void *b) {
    const function_t *x = a, *y = b;
    if (x->address != y->address) return x->address < y->address ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static bool take_symbols(library_t *l, int fd, const Elf64_Shdr *sections, size_t count,
                         uint32_t type) {
    const Elf64_Shdr *table = NULL;
    for (size_t i = 0; i < count; i++)
        if (sections[i].sh_type == type && sections[i].sh_link < count) table = &sections[i];
    if (!table) return false;
    const Elf64_Shdr *texts = &sections[table->sh_link];
    Elf64_Sym *symbols = read_section(fd, table);
    char *names = read_section(fd, texts);
    bool taken = symbols && names && !names[texts->sh_size - 1];
    for (size_t i = 0; taken && i < table->sh_size / sizeof *symbols; i++) {
        const Elf64_Sym *s = &symbols[i];
        int kind = ELF64_ST_TYPE(s->st_info);
        if ((kind != STT_FUNC && kind != STT_GNU_IFUNC) || s->st_shndx == SHN_UNDEF ||
            s->st_name >= texts->sh_size)
            continue;
        const function_t f = {s->st_value, s->st_size, s->st_name};
        if (symbols_functions_push(&l->functions, f)) break;
    }
    mem_free(symbols);
    if (!taken || !l->functions.count) {
        mem_free(names);
        return false;
    }
    l->names = names;
    qsort(l->functions.at, l->functions.count, sizeof(function_t), function_order);
    return true;
}

/* All functions rather than those that others may call, from whichever file has them. */
static void take_functions(library_t *l, int fd, const Elf64_Shdr *sections, size_t count) {
    library_t better = {0};
    if (l->all) return;
    better.all = take_symbols(&better, fd, sections, count, SHT_SYMTAB);
    if (!better.all && (l->names || !take_symbols(&better, fd, sections, count, SHT_DYNSYM))) {
        symbols_functions_free(&better.functions);
        return;
    }
    symbols_functions_free(&l->functions);
    mem_free(l->names);
    l->functions = better.functions;
    l->names = better.names;
    l->all = better.all;
}

/* The recording said the name. A device may act when it is opened, and a pipe waits: only a file is. */
static int open_file(const char *path) {
    char file[32];
    struct stat st;
    int place = open(path, O_PATH | O_CLOEXEC), fd = -1;
    if (place < 0) return -1;
    snprintf(file, sizeof file, "/proc/self/fd/%d", place);
    if (fstat(place, &st) == 0 && S_ISREG(st.st_mode)) fd = open(file, O_RDONLY | O_CLOEXEC);
    close(place);
    return fd;
}

/* Takes what the file knows better. Returns whether more files may know more. */
static bool library_open(const symbols_t *s, library_t *l, const char *path, const char *build_id) {
    size_t count;
    int fd = open_file(path);
    if (fd < 0) return true;
    Elf64_Shdr *sections = read_sections(fd, &count);
    if (sections && built_as(fd, sections, count, build_id)) {
        take_functions(l, fd, sections, count);
        if (!l->lines.dwarf) symbols_lines_open(&s->tools, &l->lines, fd);
    }
    mem_free(sections);
    close(fd);
    return !l->all || (s->tools.libdw && !l->lines.dwarf);
}

static bool is_build_id(const char *text) {
    return strlen(text) > 2 && strspn(text, "0123456789abcdef") == strlen(text);
}

/* The directory's first n characters. */
static bool debug_directory_open(const symbols_t *s, library_t *l, const char *directory, int n,
                                 const char *path, const char *build_id) {
    char file[3 * PATH_BYTES];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *rest = build_id + 2;
    const struct {
        const char *between, *behind;
    } by_id[] = {{"/.build-id", ".debug"}, {"/.build-id", ""}, {"", ".debug"}};
    for (size_t i = 0; i < sizeof by_id / sizeof by_id[0]; i++) {
        snprintf(file, sizeof file, "%.*s%s/%.2s/%s%s", n, directory, by_id[i].between, build_id,
                 rest, by_id[i].behind);
        if (!library_open(s, l, file, build_id)) return false;
    }
    static const char *const behind[] = {".debug", ""};
    for (size_t i = 0; i < 2 && *name; i++) {
        snprintf(file, sizeof file, "%.*s/%s%s", n, directory, name, behind[i]);
        if (!library_open(s, l, file, build_id)) return false;
    }
    return true;
}

static void library_find(const symbols_t *s, library_t *l, pid_t pid, const char *path,
                         const char *build_id) {
    char inside[PATH_BYTES + 64];
    snprintf(inside, sizeof inside, "/proc/%d/root%s", (int)pid, path);
    if (path[0] == '/' && !library_open(s, l, path, build_id)) return;
    if (path[0] == '/' && pid > 0 && !library_open(s, l, inside, build_id)) return;
    if (!is_build_id(build_id)) return;
    for (const char *at = s->debug_path; *at;) {
        int n = (int)strcspn(at, ":");
        if (n > 0 && !debug_directory_open(s, l, at, n, path, build_id)) return;
        at += n + (at[n] == ':');
    }
}

static library_t *library_of(symbols_t *s, pid_t pid, const char *path, const char *build_id) {
    char key[PATH_BYTES + BUILD_ID_CHARS + 2];
    snprintf(key, sizeof key, "%s\n%s", build_id, path);
    uint64_t hash = rec_checksum(key, strlen(key)) >> 1;
    uint32_t *known = NULL;
    for (int tries = 0; tries < SAME_HASH_MAX && (known = map_get(&s->known, hash));
         tries++, hash++)
        if (strcmp(s->libraries.at[*known].key, key) == 0) return s->libraries.at + *known;
    if (known) return NULL;
    int is_new;
    library_t fresh = {.key = mem_alloc(strlen(key) + 1)};
    if (!fresh.key) return NULL;
    strcpy(fresh.key, key);
    if (symbols_libraries_push(&s->libraries, fresh)) {
        mem_free(fresh.key);
        return NULL;
    }
    /* Without memory for it the library is but looked for again. */
    if ((known = map_put(&s->known, hash, &is_new))) *known = (uint32_t)s->libraries.count - 1;
    library_t *l = s->libraries.at + s->libraries.count - 1;
    library_find(s, l, pid, path, build_id);
    return l;
}

/* Tables know aliases and functions within functions: the nearest before the address that reaches over it. */
static const function_t *function_at(const library_t *l, uint64_t address) {
    size_t low = 0, high = l->functions.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->functions.at[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    for (int back = 0; low > 0 && back < 16; back++) {
        const function_t *f = &l->functions.at[--low];
        if (address - f->address < f->bytes) return f;
    }
    return NULL;
}

uint32_t symbols_find(symbols_t *s, pid_t pid, const char *path, const char *build_id,
                      uint64_t address, symbols_place_t *out) {
    out[0] = (symbols_place_t){0};
    library_t *l = *path ? library_of(s, pid, path, build_id) : NULL;
    const function_t *f = l ? function_at(l, address) : NULL;
    uint32_t count = l ? symbols_lines_find(&s->tools, &l->lines, address, out) : 0;
    /* Debug information says "static void f" and its lines, the table what the linker made of it: "f.cold". */
    symbols_place_t *outermost = &out[count ? count - 1 : 0];
    if (!f) return count;
    symbols_demangle(&s->tools, l->names + f->name, outermost->function,
                     sizeof outermost->function);
    return count ? count : 1;
}
