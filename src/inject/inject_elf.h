/* Symbols of the objects that another process has loaded, read from its memory alone: no path to resolve in other
 * namespaces, no file that was replaced or removed since, no guess that its libc is ours. Everything read is untrusted. */
#ifndef LOWTIDE_INJECT_INJECT_ELF_H
#define LOWTIDE_INJECT_INJECT_ELF_H

#include "inject/inject_proc.h"

typedef struct elf_object {
    uint64_t base, end; /* of its mappings */
    uint64_t bias;      /* added to the addresses in its own tables */
    uint64_t symbols, strings, versions, gnu_hash, hash;
    uint64_t strings_bytes;
    bool
        has_interpreter; /* it is a program or libc, to be started by ld.so; known also after -ENOEXEC */
    const char *path; /* of the proc_maps_t that it came from */
} elf_object_t;

/* Exactly n bytes of the process behind /proc/PID/mem. 0, -EFAULT, -ESRCH. */
int elf_read(int mem_fd, uint64_t address, void *to, size_t n);

/* The object whose first page is mapped at `first`. 0, -EFAULT (it cannot be read), -ENOEXEC (no ELF
 * object with a symbol table), -ENOTSUP (32-bit). */
int elf_object_open(int mem_fd, const proc_maps_t *maps, const proc_map_t *first,
                    elf_object_t *out);

/* Where the object defines the symbol, 0 where it does not. The default version is preferred. */
uint64_t elf_symbol(int mem_fd, const elf_object_t *o, const char *name);

#endif
