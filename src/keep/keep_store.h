/* A bounded table from keys to values: what Cache and @cache both stand on.
 *
 *   index (number and tag)            entries (one array, numbered from 1)
 *   ┌─────┬─────┬─────┬─────┐        ┌─────┬───────┬───────────┬──────┬─────┬───────┐
 *   │ 0   │ 3 t │ 1 t │ 2 t │ ─────▶ │ key │ value │ prev next │ hits │ tag │ bytes │
 *   └─────┴─────┴─────┴─────┘        └─────┴───────┴───────────┴──────┴─────┴───────┘
 *
 * A tag is 32 bits of the mixed hash: its upper bits are the place in the index, so that neither a miss
 * nor a removal looks at an entry.
 *
 * Eviction is S3-FIFO (Yang et al., SOSP 2023): new entries wait in a small queue; what was asked for
 * there moves on to the main queue, the rest leaves a fingerprint among the ghosts and goes. A hit adds
 * one to a counter and moves nothing. The small queue's share of the cache is learnt, as ARC (Megiddo,
 * Modha, FAST 2003) learns its own: what comes back soon after it left the small queue says that this was
 * too short, what comes back after it left the main queue, that this was. Until the main queue is full for
 * the first time every entry moves on to it, so that a loop larger than the cache keeps most of what fits.
 * docs/cache.md has the measurements (bench/cache.py).
 *
 * Who may call: whoever holds the GIL. Comparing keys and letting objects go runs code of the user,
 * which may come back into the same store. So what leaves is first taken out of index and queues and
 * put on the trash queue, and only keep_drain, at the end of an operation when all is in order again,
 * lets it go. A number of an entry is good until the next call that can compare or drain. */
#ifndef KEEP_STORE_H
#define KEEP_STORE_H

#include "keep/keep_compat.h"
#include <stdint.h>

enum keep_queue_name { KEEP_FREE, KEEP_SMALL, KEEP_MAIN, KEEP_TRASH, KEEP_QUEUES };

/* Counted with each entry beside key and value: the entry itself, its share of index, ghosts and
 * growth. tests/test_cache_bytes.py holds it against what the allocator gave. */
enum { KEEP_ENTRY_BYTES = 88, KEEP_HITS_MAX = 3 };

typedef struct keep_entry {
    PyObject *key;
    PyObject *value;
    uint32_t tag;
    uint32_t prev, next; /* in its queue, towards the oldest and the newest */
    uint8_t queue;
    uint8_t hits;    /* since it came into its queue, KEEP_HITS_MAX at most */
    bool is_evicted; /* on the trash queue: on_evict is told */
    size_t bytes; /* of key and value, as measured at insert; 0 where the store does not measure */
    uint64_t stamp; /* rises with each insert; in a store with a time to live, in ns of the clock */
} keep_entry_t;

typedef struct keep_slot {
    uint32_t number; /* 0: empty */
    uint32_t tag;
} keep_slot_t;

typedef struct keep_queue {
    uint32_t oldest, newest, count;
    size_t bytes;
} keep_queue_t;

/* keep_ghosts.h */
typedef struct keep_ghosts {
    uint32_t *slots;
    uint32_t mask;
    uint32_t epoch[2]; /* of the small queue, of the main queue */
    uint64_t in_epoch[2];
} keep_ghosts_t;

typedef struct keep_stats {
    uint64_t hits, misses, evictions, expirations, rejections;
} keep_stats_t;

typedef struct keep_store {
    keep_slot_t *index;
    keep_entry_t *entries;
    uint32_t index_mask, index_shift;
    uint32_t count;
    uint32_t entries_max, entries_used, free_entry;
    int64_t ttl_ns; /* 0: entries do not age */
    keep_stats_t stats;
    size_t bytes;
    uint64_t version; /* rises when index or entries change: a lookup that compared begins anew */
    uint64_t last_stamp, oldest_stamp;
    uint32_t sweep_at;
    keep_queue_t queues[KEEP_QUEUES];
    keep_ghosts_t ghosts;
    size_t max_items, max_bytes;     /* as its user wants it; SIZE_MAX: no bound */
    size_t bound_bytes;              /* the same, or less while a ceiling holds it */
    double small_share;              /* of the bounds; what follows from it: */
    size_t small_items, small_bytes; /* the small queue is full with either */
    uint32_t run;                    /* ghosts in a row that told the same of the share: */
    int8_t run_direction;            /* more or less of it */
    bool was_full; /* the main queue, once: now entries must earn their place there */
    bool measures;
    bool is_held;     /* by a ceiling: measures at insert in any case */
    bool is_measured; /* no entry came unmeasured since keep_store_measure */
    uint64_t
        old_hits; /* what the store was worth lately: stats.hits beyond these; each shrink halves that */
    PyObject
        *on_evict; /* called with key and value of what the store itself takes out; NULL: nobody */
    PyObject *getsizeof; /* gives a value's bytes instead of keep_deep_size; NULL: none */
    PyObject *owner;     /* the object that this store is part of, borrowed */
    struct keep_store *registry_prev, *registry_next;
} keep_store_t;

void keep_store_init(keep_store_t *store, PyObject *owner);
void keep_store_bound(keep_store_t *store, size_t max_items, size_t max_bytes);
/* A lower bound for a while, or SIZE_MAX: the user's own. What is above it goes with the next entry that comes. */
void keep_store_hold(keep_store_t *store, size_t bytes);
/* Drops all entries and tells nobody; the store stays usable. */
void keep_store_clear(keep_store_t *store);
/* For the owner's tp_dealloc: clears, and leaves the registry. */
void keep_store_fini(keep_store_t *store);
int keep_store_traverse(keep_store_t *store, visitproc visit, void *arg);
/* Bytes of index, entries and ghosts. */
size_t keep_store_table_bytes(const keep_store_t *store);
bool keep_store_is_valid(const keep_store_t *store);

/* -> the entry's number, 0 when there is none, -1 with an exception. An entry whose time is over is there;
 * ask keep_is_expired. */
int64_t keep_find_slowly(keep_store_t *store, PyObject *key, uint32_t tag);
/* Puts key and value in, or a new value under a key that is there; makes room as the bounds ask. What is
 * larger than its bound is not kept, and an older value under its key goes. -> 0, or -1 with an exception.
 * bytes: as keep_measure gave it. */
int keep_put(keep_store_t *store, PyObject *key, Py_hash_t hash, PyObject *value, size_t bytes,
             uint32_t *number);
/* Takes an entry out, onto the trash queue. Runs no code of the user; call keep_drain soon. */
void keep_detach(keep_store_t *store, uint32_t number, bool is_evicted);
/* Lets go what is on the trash queue. Keeps a pending exception. */
void keep_drain(keep_store_t *store);
/* Evicts until the bounds hold. The caller drains. */
void keep_make_room(keep_store_t *store, size_t items, size_t bytes);
/* Takes the least valuable entry out. -> its number, 0 when the store is empty. The caller drains. */
uint32_t keep_evict_one(keep_store_t *store, bool is_shrinking);
/* Only says which that is; counts it as evicted. */
uint32_t keep_pick_victim(keep_store_t *store, bool is_shrinking);
/* Takes expired entries out: a few, or all. -> how many. The caller drains. */
size_t keep_expire(keep_store_t *store, bool all);
/* Bytes of an entry with this key and value. -> -1 with an exception */
int keep_measure(keep_store_t *store, PyObject *key, PyObject *value, size_t *bytes);

/* Now, in ns: CLOCK_MONOTONIC_COARSE, which ticks every few ms and costs next to nothing. */
int64_t keep_clock_ns(void);
/* Tests stop the clock at a time; -1 lets it go on. */
void keep_clock_stop(int64_t ns);

/* queues: KEEP_SMALL, KEEP_MAIN, KEEP_TRASH */
void keep_queue_push(keep_store_t *store, enum keep_queue_name name, uint32_t number);
void keep_queue_remove(keep_store_t *store, uint32_t number);
/* Sets the small queue's share of the bounds, within its own. */
void keep_share(keep_store_t *store, double share);

/* index */
bool keep_index_reserve(keep_store_t *store, uint32_t count);
void keep_index_insert(keep_store_t *store, uint32_t number, uint32_t tag);
void keep_index_remove(keep_store_t *store, uint32_t number, uint32_t tag);

/* registry: every store of the process */
void keep_registry_add(keep_store_t *store);
void keep_registry_remove(keep_store_t *store);
/* Evicts from all stores until `bytes` bytes are let go, least valuable first. -> bytes let go, as measured */
size_t keep_shrink(size_t bytes);
size_t keep_total_bytes(void);
/* All stores together hold no more than that from now on, each its share: as much more or less than now as all, and what is made
 * later begins with nothing. SIZE_MAX: each what its own bounds allow. */
void keep_ceiling_set(size_t bytes);
/* What a store that is made now may hold: nothing under a ceiling, where it trades for it. */
size_t keep_ceiling_first(void);
/* Before an entry comes into a store that is held and full: now and then the least valuable store gives it a part of its share.
 * May run any code. */
void keep_ceiling_trade(keep_store_t *store, size_t bytes);
/* Measures now what a store without a bound in bytes did not measure at insert. Runs no code of the user. */
void keep_store_measure(keep_store_t *store);

static inline uint32_t keep_tag(Py_hash_t hash) {
    return (uint32_t)(((uint64_t)hash * UINT64_C(0x9E3779B97F4A7C15)) >> 32);
}

/* The two slots where a tag's ghost may be. */
static inline uint32_t *keep_ghosts_pair(const keep_ghosts_t *ghosts, uint32_t tag) {
    return &ghosts
                ->slots[((tag * UINT64_C(0xFF51AFD7ED558CCD)) >> 32) & ghosts->mask & ~UINT32_C(1)];
}

static inline uint32_t keep_home(const keep_store_t *store, uint32_t tag) {
    return tag >> store->index_shift;
}

static inline bool keep_is_expired(const keep_store_t *store, uint32_t number) {
    return store->ttl_ns &&
           keep_clock_ns() - (int64_t)store->entries[number].stamp >= store->ttl_ns;
}

/* keep_find_slowly, but quick where the very same key lies at its home. */
static inline int64_t keep_find(keep_store_t *store, PyObject *key, Py_hash_t hash) {
    if (!store->count) return 0;
    uint32_t tag = keep_tag(hash);
    keep_slot_t slot = store->index[keep_home(store, tag)];
    if (!slot.number) return 0;
    if (slot.tag == tag && store->entries[slot.number].key == key) return slot.number;
    return keep_find_slowly(store, key, tag);
}

static inline void keep_touch(keep_store_t *store, uint32_t number) {
    keep_entry_t *entry = &store->entries[number];
    if (entry->hits < KEEP_HITS_MAX) entry->hits++;
    store->stats.hits++;
}

static inline Py_hash_t keep_hash(PyObject *key) {
    if (PyUnicode_CheckExact(key)) {
        Py_hash_t hash = ((PyASCIIObject *)key)->hash;
        if (hash != -1) return hash;
    }
    return PyObject_Hash(key);
}

#endif
