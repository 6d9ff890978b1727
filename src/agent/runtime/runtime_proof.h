/* Proof of a layout table: what we know of this process must be where the table says. Everything is
 * read with rt_peek, since the table may be wrong; the first thing that does not fit is named, and
 * nothing is looked at after that.
 *
 * runtime_prove.c: the runtime, interpreters, the collector, threads, frames.
 * runtime_prove_objects.c: types, and objects that every Python has. */
#ifndef LOWTIDE_AGENT_RUNTIME_PROOF_H
#define LOWTIDE_AGENT_RUNTIME_PROOF_H

#include "agent/runtime/runtime_internal.h"

/* A proof makes some ten thousand small reads: pages are read once. */
enum { PROOF_PAGE = 4096, PROOF_PAGES = 128 };
typedef struct proof_page {
    rt_addr_t address; /* 0: nothing yet */
    int status;        /* of reading it */
    char bytes[PROOF_PAGE];
} proof_page_t;

typedef struct proof {
    const rt_t *rt; /* with the table to prove in l, whatever its own */
    const layout_t *l;
    err_t *e;
    int status;
    proof_page_t *pages; /* PROOF_PAGES of them; NULL: every read by itself */
} proof_t;

/* rt_peek by way of the pages. */
int proof_peek(proof_t *p, rt_addr_t from, void *to, size_t n);

/* All return whether it holds. `field` is named in the refusal. */
bool proof_fail(proof_t *p, const char *field, const char *why);
static inline bool proof_expect(proof_t *p, bool holds, const char *field, const char *why) {
    return holds || proof_fail(p, field, why);
}
/* Reads n bytes at base + offset; a failure to read is a failure of the proof. */
bool proof_get(proof_t *p, rt_addr_t base, int32_t offset, void *to, size_t n, const char *field);
#define PROOF_GET(p, base, field, to) proof_get(p, base, (p)->l->field, to, sizeof *(to), #field)

/* Is this an object of exactly that type? */
bool proof_is(proof_t *p, rt_addr_t object, rt_addr_t type, const char *field);
/* Any object: its type's type is a kind of type. */
bool proof_is_object(proof_t *p, rt_addr_t object, const char *field);
/* The same, where there may be none. */
static inline bool proof_is_or_null(proof_t *p, rt_addr_t object, rt_addr_t type,
                                    const char *field) {
    return !object || proof_is(p, object, type, field);
}

/* The value of a str key of a dict; 0 and a failure when it is not there. */
rt_addr_t proof_dict_find(proof_t *p, rt_addr_t dict, const char *key, const char *field);

bool proof_types(proof_t *p);
/* Objects that sys has in every Python: an int, a str, a list, a frozenset, modules. */
bool proof_objects(proof_t *p, rt_addr_t sys, rt_addr_t sysdict);
/* runtime_roots.c: what these structures hold are objects, and the state of a static type is its. */
bool proof_interp_roots(proof_t *p, rt_addr_t interp);
bool proof_thread_roots(proof_t *p, rt_addr_t thread);
/* What lies inside _PyRuntime. */
bool proof_static_objects(proof_t *p);

#endif
