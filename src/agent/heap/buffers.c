#include "agent/heap/buffers.h"

#include "agent/heap/blocks.h"
#include "agent/heap/sizes.h"

#include <errno.h>
#include <semaphore.h>

enum {
    WORD = sizeof(rt_addr_t),
    MMAP_DATA = 16,
    MMAP_SIZE = 24,
    STRINGIO_CHARACTERS = 16,
    STRINGIO_ROOM = 40,
    STRINGIO_WRITER = 56,
    QUEUE_ITEMS = 40,
    QUEUE_ROOM = 48,
    QUEUE_BYTES = 72,
    LOCK_SEMAPHORE = 16,
    LOCK_BYTES = 40,
    RLOCK_BYTES = 48,
    DEQUE_FREE_COUNT = 72,
    DEQUE_FREE = 80,
    DEQUE_FREE_MAX = 16,
    DEQUE_BLOCK_BYTES = 66 * WORD,
    CDATA_POINTER = 16,
    CDATA_NEEDS_FREE = 24,
    CDATA_SIZE = 40,
    ARROW_SHARED = 32, /* of the shell: a shared_ptr … */
    ARROW_RAW = 48,    /* … and the same pointer again */
    ARRAY_DATA = 8,
    DATA_BUFFERS = 40,
    DATA_CHILDREN = 64,
    DATA_DICTIONARY = 88,
    TABLE_COLUMNS = 32,
    BUFFER_MUTABLE = 8,
    BUFFER_DATA = 16,
    BUFFER_SIZE = 24,
    BUFFER_CAPACITY = 32,
    BUFFER_PARENT = 48,
    ARROW_ALIGNMENT = 64,
    ARROW_ITEMS_MAX = 1 << 20,
    ARROW_DEPTH_MAX = 16,
    SHARED_BYTES = 2 * WORD,
};

static rt_addr_t buffer_peek(rt_addr_t at) {
    rt_addr_t v = 0;
    return rt_peek(at, &v, sizeof v) ? 0 : v;
}

static void buffer_of_mmap(walk_t *k, rt_addr_t object) {
    const heap_options_t *o = k->options;
    uint64_t bytes = (uint64_t)rt_i64(object, MMAP_SIZE);
    rt_addr_t data = rt_ptr(object, MMAP_DATA);
    uint64_t none = o->untouched && data ? o->untouched(o->untouched_arg, data, bytes, true) : 0;
    k->buffer += none < bytes ? bytes - none : 0;
    blocks_note(k, data, 0);
}

/* Small values lie in the object itself; what was made from_buffer or is a part of another is not its own. */
static void buffer_of_ctypes(walk_t *k, rt_addr_t object) {
    rt_addr_t data = rt_ptr(object, CDATA_POINTER);
    uint64_t size = (uint64_t)rt_i64(object, CDATA_SIZE);
    uint64_t own = (uint64_t)rt_i64(rt_type(k->rt, object), k->lay->type_basicsize);
    if (!data || !rt_i32(object, CDATA_NEEDS_FREE) || data - object < own) return;
    k->buffer += size;
    blocks_note(k, data, size);
}

/* Of a type that has learned to tell it in its __sizeof__ (SimpleQueue in 3.15) the size has it already. */
static void buffer_add(walk_t *k, rt_addr_t block, uint64_t bytes) {
    if (!block) return;
    if (k->kind->size_rule != SIZE_CALL) k->buffer += bytes;
    blocks_note_part(k, block, bytes);
}

/* Its room for characters of four bytes; and, while it is but written, the str that grows inside, which nobody else has. */
static void buffer_of_stringio(walk_t *k, rt_addr_t object) {
    const layout_t *l = k->lay;
    rt_addr_t characters = rt_ptr(object, STRINGIO_CHARACTERS);
    rt_addr_t text = rt_ptr(object, STRINGIO_WRITER);
    buffer_add(k, characters, rt_ptr(object, STRINGIO_ROOM) * 4);
    if (k->rt->minor < 12) return; /* lists: references */
    if (text && k->rt->minor > 13) text = buffer_peek(text);
    if (!text || buffer_peek(text + (rt_addr_t)l->object_type) != k->rt->types.str) return;
    if (rt_refcount(k->rt, text) == 1) buffer_add(k, text, size_str(k, text));
}

/* Until 3.12 it is smaller, and has its items in a list. */
static void buffer_of_queue(walk_t *k, rt_addr_t object) {
    buffer_add(k, rt_ptr(object, QUEUE_ITEMS), rt_ptr(object, QUEUE_ROOM) * WORD);
}

/* Until 3.13 a semaphore of its own. */
static void buffer_of_lock(walk_t *k, rt_addr_t object) {
    buffer_add(k, rt_ptr(object, LOCK_SEMAPHORE), sizeof(sem_t));
}

/* Blocks that it keeps for later. */
static void buffer_of_deque(walk_t *k, rt_addr_t object) {
    uint64_t n = rt_ptr(object, DEQUE_FREE_COUNT);
    for (uint64_t i = 0; i < n && n <= DEQUE_FREE_MAX; i++)
        buffer_add(k, rt_ptr(object, DEQUE_FREE + (int32_t)i * WORD), DEQUE_BLOCK_BYTES);
}

/* Buffers from Arrow's own memory pool are mutable, aligned, and rounded up. Others lie in somebody else's memory. */
static void arrow_buffer(walk_t *k, rt_addr_t buffer) {
    rt_addr_t data = buffer_peek(buffer + BUFFER_DATA);
    uint64_t size = buffer_peek(buffer + BUFFER_SIZE);
    uint64_t capacity = buffer_peek(buffer + BUFFER_CAPACITY);
    int fresh = 0;
    bool own = (buffer_peek(buffer + BUFFER_MUTABLE) & 0xff) == 1 && data &&
               data % ARROW_ALIGNMENT == 0 && capacity % ARROW_ALIGNMENT == 0 && size <= capacity &&
               capacity >> 47 == 0 && !buffer_peek(buffer + BUFFER_PARENT);
    if (!own) return;
    if (!map_put(&k->arrow_buffers, buffer, &fresh)) walk_fail(k, -ENOMEM);
    if (!fresh) return;
    k->buffer += capacity;
    blocks_note_part(k, data, capacity);
}

/* Calls what(k, pointer, depth) for each shared_ptr of a std::vector. */
static void arrow_vector(walk_t *k, rt_addr_t vector, int depth,
                         void (*what)(walk_t *k, rt_addr_t pointer, int depth)) {
    rt_addr_t begin = buffer_peek(vector), end = buffer_peek(vector + WORD);
    if (!begin || end < begin || (end - begin) % SHARED_BYTES) return;
    if ((end - begin) / SHARED_BYTES > ARROW_ITEMS_MAX || depth > ARROW_DEPTH_MAX) return;
    for (; begin < end; begin += SHARED_BYTES) {
        rt_addr_t p = buffer_peek(begin);
        if (p && p % WORD == 0) what(k, p, depth + 1);
    }
}

static void arrow_one_buffer(walk_t *k, rt_addr_t buffer, int depth) {
    (void)depth;
    arrow_buffer(k, buffer);
}

static void arrow_data(walk_t *k, rt_addr_t data, int depth) {
    arrow_vector(k, data + DATA_BUFFERS, depth, arrow_one_buffer);
    arrow_vector(k, data + DATA_CHILDREN, depth, arrow_data);
    rt_addr_t dictionary = buffer_peek(data + DATA_DICTIONARY);
    if (dictionary && depth < ARROW_DEPTH_MAX) arrow_data(k, dictionary, depth + 1);
}

static void arrow_array(walk_t *k, rt_addr_t array, int depth) {
    rt_addr_t data = buffer_peek(array + ARRAY_DATA);
    if (data) arrow_data(k, data, depth);
}

static void arrow_chunked(walk_t *k, rt_addr_t chunked, int depth) {
    arrow_vector(k, chunked, depth, arrow_array);
}

/* What a shell's shared_ptr points to, if the shell looks as it should. */
static rt_addr_t arrow_inside(rt_addr_t object) {
    rt_addr_t p = rt_ptr(object, ARROW_SHARED);
    return p == rt_ptr(object, ARROW_RAW) && p % WORD == 0 ? p : 0;
}

static void buffer_of_array(walk_t *k, rt_addr_t object) {
    rt_addr_t p = arrow_inside(object);
    if (p) arrow_array(k, p, 0);
}

static void buffer_of_chunked(walk_t *k, rt_addr_t object) {
    rt_addr_t p = arrow_inside(object);
    if (p) arrow_chunked(k, p, 0);
}

static void buffer_of_table(walk_t *k, rt_addr_t object) {
    rt_addr_t p = arrow_inside(object);
    if (p) arrow_vector(k, p + TABLE_COLUMNS, 0, arrow_chunked);
}

static void buffer_of_batch(walk_t *k, rt_addr_t object) {
    rt_addr_t p = arrow_inside(object);
    if (p) arrow_vector(k, p + TABLE_COLUMNS, 0, arrow_data);
}

static void buffer_of_buffer(walk_t *k, rt_addr_t object) {
    rt_addr_t p = rt_ptr(object, ARROW_SHARED);
    if (p && p % WORD == 0) arrow_buffer(k, p);
}

kind_buffer_fn buffer_find(const walk_t *k, rt_addr_t c_type) {
    static const struct {
        const char *type;
        int64_t basicsize; /* at least */
        kind_buffer_fn count;
    } rows[] = {{"mmap.mmap", MMAP_SIZE + WORD, buffer_of_mmap},
                {"_io.StringIO", STRINGIO_WRITER + WORD, buffer_of_stringio},
                {"_queue.SimpleQueue", QUEUE_BYTES, buffer_of_queue},
                {"_thread.lock", LOCK_BYTES, buffer_of_lock},
                {"_thread.RLock", RLOCK_BYTES, buffer_of_lock},
                {"collections.deque", DEQUE_FREE + DEQUE_FREE_MAX * WORD, buffer_of_deque},
                {"_ctypes._CData", CDATA_SIZE + WORD, buffer_of_ctypes},
                {"pyarrow.lib.Array", ARROW_RAW + WORD, buffer_of_array},
                {"pyarrow.lib.ChunkedArray", ARROW_RAW + WORD, buffer_of_chunked},
                {"pyarrow.lib.Table", ARROW_RAW + WORD, buffer_of_table},
                {"pyarrow.lib.RecordBatch", ARROW_RAW + WORD, buffer_of_batch},
                {"pyarrow.lib.Buffer", ARROW_SHARED + WORD, buffer_of_buffer}};
    const char *name = (const char *)rt_ptr(c_type, k->lay->type_name);
    for (size_t i = 0; name && i < sizeof rows / sizeof *rows; i++)
        if (strcmp(name, rows[i].type) == 0 &&
            rt_i64(c_type, k->lay->type_basicsize) >= rows[i].basicsize)
            return rows[i].count;
    return NULL;
}
