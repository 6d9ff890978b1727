/* The walk: what its parts share.
 *
 * The queue is the list of all ids: queue[id] is the object's address. Pseudo-objects (frames, threads, …) have an address too,
 * of the structure they stand for; the low bits, always 0 in an address, say what an entry is.
 *
 * The edges of one object are gathered first (walk_edge) and written when it is complete (walk_emit), so that a fault in the
 * middle of an object leaves the recording whole: what is there is padded and the object marked skipped.
 */
#ifndef LOWTIDE_HEAP_WALK_H
#define LOWTIDE_HEAP_WALK_H

#include "agent/heap/heap.h"
#include "agent/heap/side_table.h"
#include "base/arena.h"
#include "base/map.h"
#include "base/vec.h"

enum walk_tag {
    WALK_OBJECT,
    WALK_NAMESPACE, /* an object: a dict that is the namespace of a module, type or instance */
    WALK_INTERNED,  /* an object: the dict of interned strings, which do not count its references */
    WALK_INTERPRETER, /* PyInterpreterState */
    WALK_THREAD,      /* PyThreadState */
    WALK_FRAME,       /* _PyInterpreterFrame on a thread's stack */
    WALK_HOLDER,      /* index of a holder, times 8 */
    WALK_TAG_MASK = 7
};

VEC_DEFINE(u64_vec, uint64_t);
VEC_DEFINE(u32_vec, uint32_t);

/* A pseudo-object of kind 5: an array of references that a C structure holds. */
typedef struct holder {
    const char *name;
    bool borrowed;
    size_t count;
    rt_addr_t *objects;
} holder_t;

/* A reference that a C structure holds, while a pseudo-object is put together. */
typedef struct root {
    const char *name; /* NULL: told already */
    rt_addr_t object;
    bool in_array, borrowed;
} root_t;

struct kind;
VEC_DEFINE(kind_vec, struct kind *);
VEC_DEFINE(holder_vec, holder_t *);
VEC_DEFINE(root_vec, root_t);

enum {
    WALK_REGIONS = 1024,
    WALK_KIND_CACHE = 1024,
    WALK_LABELS_MAX = 4096,
    KIND_FIELDS_MAX = 512,
    KIND_BASES_MAX = 512
};

/* A path as long as Linux takes them, a name before and a number behind it. */
enum { WALK_PATH_BYTES = 4096, WALK_TEXT_BYTES = WALK_PATH_BYTES + 1024 };

/* A reference at a fixed offset of an object. */
typedef struct kind_field {
    int32_t offset;
    bool namespace; /* what is there is a namespace dict */
    int32_t guard;  /* offset of a byte without which there is nothing there; 0: always */
    rec_label_t label;
    bool owned; /* known to be, whether or not tp_traverse tells it */
} kind_field_t;

typedef struct walk {
    const rt_t *rt;
    const layout_t *lay;
    const heap_options_t *options;
    rec_writer_t *w;
    int status; /* first error: 0, -ENOMEM or the writer's */

    side_table_t ids;
    u64_vec_t queue;
    arena_t arena;

    map_t kind_map; /* address of a type → index in kinds */
    kind_vec_t kinds;
    struct kind *kind_cache[WALK_KIND_CACHE];
    map_t code_shapes;   /* code object and variant → shape */
    map_t arrow_buffers; /* counted already */
    map_t frozen;        /* addresses on the permanent generation's list */
    holder_vec_t holders;
    rt_addr_t subtype_traverse; /* tp_traverse of every class made by a class statement */
    rt_addr_t main_interp;
    root_vec_t roots;
    bool prepared;
    uint32_t reached;
    rt_addr_t list_interp, list_at; /* where on the collector's lists */
    int list;
    uint64_t region_known[WALK_REGIONS]; /* MiB of the address space, plus 1 */
    bool region_static[WALK_REGIONS];

    /* The object at hand */
    uint32_t id;
    rt_addr_t address;
    uint64_t buffer;        /* bytes beyond its size */
    uint64_t untouched;     /* of its large blocks */
    struct kind *kind;      /* NULL until known */
    volatile bool emitting; /* the writer is at work on it */
    volatile bool looking;  /* ahead, at others */
    bool blind;             /* do not look this time: it faulted */
    u32_vec_t edges;
    u64_vec_t visited; /* what tp_traverse told */
    u64_vec_t blocks;  /* id, address and bytes, in threes (blocks.h) */
    u64_vec_t unused;  /* id and untouched bytes, in pairs */
    u64_vec_t names;   /* a bit for each id that is a key of a namespace */
    map_t paths;       /* with values on: addresses of the long names of modules' files */
    map_t name_keys;   /* with values off: addresses of all such keys, found before the walk */

    uint32_t unreadable_shape;
    uint64_t references, skipped_count, nonsense, shallow_bytes, buffer_bytes;

    /* Room to put kinds and shapes together: a thread's stack may be small. */
    rec_label_t labels[WALK_LABELS_MAX];
    kind_field_t field_room[KIND_FIELDS_MAX];
    rt_addr_t base_room[KIND_BASES_MAX];
    char text[WALK_TEXT_BYTES];
} walk_t;

int walk_fail(walk_t *k, int status);
uint32_t walk_queue_push(walk_t *k, uint64_t entry);
uint32_t walk_mention_new(walk_t *k, uint32_t *entry, uint64_t address, unsigned tag);

/* The id of an object, which is given one (a place in the queue) at its first mention. REC_NULL for NULL and for what cannot
 * be an address. */
static inline uint32_t walk_mention(walk_t *k, rt_addr_t object) {
    if (!object) return REC_NULL;
    if (__builtin_expect((object & 7) != 0 || object >> 47 != 0 || object < 4096, 0)) {
        k->nonsense++;
        return REC_NULL;
    }
    uint32_t *entry = side_entry(&k->ids, object);
    if (__builtin_expect(entry && *entry, 1)) return *entry;
    return walk_mention_new(k, entry, object, WALK_OBJECT);
}

/* As walk_mention, for a dict of which more is known: WALK_NAMESPACE or WALK_INTERNED. */
uint32_t walk_mention_dict(walk_t *k, rt_addr_t dict, unsigned tag);

static inline void walk_edge_id(walk_t *k, uint32_t id) {
    if (__builtin_expect(u32_vec_push(&k->edges, id), 0)) walk_fail(k, -12);
}
static inline void walk_edge(walk_t *k, rt_addr_t object) {
    walk_edge_id(k, walk_mention(k, object));
}
static inline void walk_edge_namespace(walk_t *k, rt_addr_t dict) {
    walk_edge_id(k, walk_mention_dict(k, dict, WALK_NAMESPACE));
}

/* Writes the object at hand with the edges gathered: `fixed` of them must be there, the rest a multiple of `repeat`. */
void walk_emit(walk_t *k, uint32_t shape, uint32_t fixed, uint32_t repeat, uint64_t size,
               uint64_t refcount, unsigned flags);

static inline uint32_t walk_text(walk_t *k, const char *text) {
    return rec_string(k->w, text, __builtin_strlen(text));
}
static inline rec_label_t walk_label(walk_t *k, int kind, const char *name, bool borrowed) {
    return (rec_label_t){(uint8_t)kind, borrowed, name ? walk_text(k, name) : LOWTIDE_NONE};
}

#endif
