/* The type behind lowtide.Cache. All its functions want the GIL, as Python's own. */
#ifndef KEEP_CACHE_H
#define KEEP_CACHE_H

#include "keep/keep_store.h"

typedef struct keep_cache {
    PyObject_HEAD keep_store_t store;
    bool is_weak;       /* values are keep_value_ref_t */
    PyObject *callback; /* of those; NULL before the first */
    PyObject *flights;  /* dict: what threads compute just now; NULL before the first */
    PyObject *tasks;    /* dict: what asyncio tasks compute just now */
} keep_cache_t;

extern PyTypeObject keep_cache_type;
extern PyTypeObject keep_iter_type;
extern PyTypeObject keep_flight_type;
extern PyMethodDef keep_cache_methods[];

/* -> a new reference; NULL without an exception when the key is not there (counted as a miss) */
PyObject *keep_cache_lookup(keep_cache_t *cache, PyObject *key);
/* The same, but neither counted nor marked as used. */
PyObject *keep_cache_peek(keep_cache_t *cache, PyObject *key);
/* -> 0, or -1 with an exception */
int keep_cache_insert(keep_cache_t *cache, PyObject *key, PyObject *value);
/* Takes a key out. -> its value, NULL without an exception when it is not there */
PyObject *keep_cache_take(keep_cache_t *cache, PyObject *key);
/* The value of an entry, a new reference; NULL without an exception when it has died. */
PyObject *keep_cache_value(keep_cache_t *cache, uint32_t number);
void keep_set_key_error(PyObject *key);

/* None, an int, or text like "256MiB" -> bytes, SIZE_MAX for None. -> 0, or -1 with an exception */
int keep_parse_bytes(PyObject *given, const char *name, size_t *bytes);
int keep_parse_count(PyObject *given, const char *name, size_t *count);
int keep_parse_ttl(PyObject *given, int64_t *ttl_ns);
/* What was given, as an int or None, and seconds or None. */
PyObject *keep_bound_to_python(size_t bound);
PyObject *keep_ttl_to_python(int64_t ttl_ns);

enum keep_iter_kind { KEEP_ITER_KEYS, KEEP_ITER_VALUES, KEEP_ITER_ITEMS };
PyObject *keep_iter_new(keep_cache_t *cache, enum keep_iter_kind kind, bool backwards);

/* get_or_compute(key, f): method, by vector */
PyObject *keep_get_or_compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

#endif
