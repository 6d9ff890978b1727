/* Weak references that know their place in a store.
 *
 * Whoever they belong to may go first, while somebody else still holds such a reference (weakref.getweakrefs):
 * their callback reaches the store by a tether, which the owner cuts when it goes. */
#ifndef KEEP_REFS_H
#define KEEP_REFS_H

#include "keep/keep_store.h"

/* A value of a weak cache. */
typedef struct keep_value_ref {
    PyWeakReference ref;
    uint32_t number; /* of the entry whose value this is */
} keep_value_ref_t;

/* The instance of a cached method: stands for it in keys, alike only to itself. */
typedef struct keep_instance_ref {
    PyWeakReference ref;
    void *address;     /* of the instance */
    uint32_t *numbers; /* of the entries whose keys hold this; some may be others' by now */
    uint32_t count, max;
} keep_instance_ref_t;

extern PyTypeObject keep_value_ref_type;
extern PyTypeObject keep_instance_ref_type;

int keep_refs_ready(void);

/* A callback for weak references that calls `gone(store, ref)`; keep_callback_cut makes it do nothing. */
typedef void (*keep_gone_t)(keep_store_t *store, PyObject *ref);
PyObject *keep_callback_new(keep_store_t *store, keep_gone_t gone);
void keep_callback_cut(PyObject *callback);

PyObject *keep_value_ref_new(PyObject *value, PyObject *callback);
PyObject *keep_instance_ref_new(PyObject *instance, PyObject *callback);
/* Remembers that an entry's key holds this. -> 0, or -1 with an exception */
int keep_instance_ref_add(keep_instance_ref_t *ref, keep_store_t *store, uint32_t number);
/* Whether an entry is there whose key is this reference, or a tuple that begins with it. */
bool keep_entry_is_of(const keep_store_t *store, uint32_t number, PyObject *ref);

/* instances by address: open addressing, a pointer to the reference in each slot */
typedef struct keep_instances {
    keep_instance_ref_t **slots; /* owned references */
    size_t slots_count, count;
} keep_instances_t;

keep_instance_ref_t *keep_instances_find(const keep_instances_t *map, void *address);
int keep_instances_add(keep_instances_t *map, keep_instance_ref_t *ref);
/* Takes it out without giving the map's reference back: the caller has it then. */
bool keep_instances_remove(keep_instances_t *map, keep_instance_ref_t *ref);
void keep_instances_clear(keep_instances_t *map);

#endif
