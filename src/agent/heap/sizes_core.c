#include "agent/heap/sizes_core.h"

#include "agent/heap/blocks.h"
#include "agent/heap/sizes.h"

enum {
    WORD = sizeof(rt_addr_t),
    DEQUE_LEFT_BLOCK = 24,
    DEQUE_LEFT_INDEX = 40,
    DEQUE_BLOCK_ITEMS = 64,
    DEQUE_BLOCK_RIGHT = (DEQUE_BLOCK_ITEMS + 1) * WORD,
    DEQUE_BLOCK_BYTES = (DEQUE_BLOCK_ITEMS + 2) * WORD,
    ARRAY_ITEMS = 24,
    ARRAY_ALLOCATED = 32,
    ARRAY_DESCR = 40,
    ARRAY_DESCR_ITEMSIZE = 4,
    DECIMAL_FLAGS = 24,
    DECIMAL_ALLOC = 56,
    DECIMAL_DATA = 64,
    DECIMAL_NOT_DYNAMIC = 0x20 | 0x40 | 0x80,
    ELEMENT_EXTRA = 40,
    EXTRA_ALLOCATED = 16,
    EXTRA_CHILDREN = 24,
    EXTRA_STATIC_CHILDREN = 32,
    EXTRA_BYTES = 64,
    ORDER_FAST = 16, /* behind the dict */
    ORDER_FAST_SIZE = 24,
    ORDER_NODE_BYTES = 32,
};

static uint64_t size_round_up(uint64_t n) {
    return (n + WORD - 1) / WORD * WORD;
}

static uint64_t size_of_code(walk_t *k, const kind_t *t, rt_addr_t o) {
    uint64_t size = size_round_up(size_basic(k, t, o));
    rt_addr_t extra = rt_ptr(o, k->lay->code_extra);
    return size + (extra ? (1 + rt_ptr(extra, 0)) * WORD : 0);
}

static uint64_t size_of_bytearray(walk_t *k, const kind_t *t, rt_addr_t o) {
    uint64_t room = rt_ptr(o, k->lay->bytearray_alloc);
    /* Since 3.15 the bytes are those of a bytes object of its own. */
    if (room && rt_has(k->lay->bytearray_bytes_object)) {
        room += (uint64_t)k->lay->bytes_data + 1;
        blocks_note(k, rt_ptr(o, k->lay->bytearray_bytes_object), room);
    } else if (room) {
        blocks_note(k, rt_ptr(o, k->lay->bytearray_alloc + WORD), room); /* ob_bytes */
    }
    return (uint64_t)t->basicsize + room;
}

static uint64_t size_of_deque(walk_t *k, const kind_t *t, rt_addr_t o) {
    uint64_t slots = rt_ptr(o, DEQUE_LEFT_INDEX) + rt_ptr(o, k->lay->var_size);
    uint64_t blocks = (slots + DEQUE_BLOCK_ITEMS - 1) / DEQUE_BLOCK_ITEMS;
    rt_addr_t block = rt_ptr(o, DEQUE_LEFT_BLOCK);
    for (uint64_t i = 0; k->options->known && block && i < blocks; i++) {
        blocks_note_part(k, block, DEQUE_BLOCK_BYTES);
        block = rt_ptr(block, DEQUE_BLOCK_RIGHT);
    }
    return (uint64_t)t->basicsize + blocks * DEQUE_BLOCK_BYTES;
}

static uint64_t size_of_array(walk_t *k, const kind_t *t, rt_addr_t o) {
    rt_addr_t descr = rt_ptr(o, ARRAY_DESCR);
    uint64_t room = rt_ptr(o, ARRAY_ALLOCATED) * (uint64_t)rt_i32(descr, ARRAY_DESCR_ITEMSIZE);
    blocks_note(k, rt_ptr(o, ARRAY_ITEMS), room);
    return (uint64_t)t->basicsize + room;
}

static uint64_t size_of_decimal(walk_t *k, const kind_t *t, rt_addr_t o) {
    bool dynamic = !(rt_u8(o, DECIMAL_FLAGS) & DECIMAL_NOT_DYNAMIC);
    uint64_t room = dynamic ? rt_ptr(o, DECIMAL_ALLOC) * WORD : 0;
    if (dynamic) blocks_note(k, rt_ptr(o, DECIMAL_DATA), room);
    return (uint64_t)t->basicsize + room;
}

/* What getsizeof adds, the bytes inside, is an object that the heap knows. */
static uint64_t size_of_bytesio(walk_t *k, const kind_t *t, rt_addr_t o) {
    (void)k, (void)o;
    return (uint64_t)t->basicsize;
}

static uint64_t size_of_element(walk_t *k, const kind_t *t, rt_addr_t o) {
    uint64_t size = (uint64_t)t->basicsize;
    rt_addr_t extra = rt_ptr(o, ELEMENT_EXTRA);
    if (!extra) return size;
    size += EXTRA_BYTES;
    blocks_note_part(k, extra, EXTRA_BYTES);
    rt_addr_t children = rt_ptr(extra, EXTRA_CHILDREN);
    if (children != extra + EXTRA_STATIC_CHILDREN) {
        size += rt_ptr(extra, EXTRA_ALLOCATED) * WORD;
        blocks_note_part(k, children, rt_ptr(extra, EXTRA_ALLOCATED) * WORD);
    }
    return size;
}

/* Its table and its nodes; the nodes' own blocks are told where they are followed (special_order). */
static uint64_t size_of_ordered_dict(walk_t *k, const kind_t *t, rt_addr_t o) {
    uint64_t fast = rt_ptr(o, k->lay->dict_size + ORDER_FAST_SIZE) * WORD;
    size_note_dict(k, o);
    blocks_note_part(k, rt_ptr(o, k->lay->dict_size + ORDER_FAST), fast);
    return size_dict(k, t, o) + fast + rt_ptr(o, k->lay->dict_used) * ORDER_NODE_BYTES;
}

/* The room for a frame's locals and stack, behind what stands in front of them. */
static uint64_t size_of_frame(walk_t *k, rt_addr_t code, int32_t front) {
    return (uint64_t)(front + k->lay->iframe_localsplus) +
           (uint64_t)(rt_i32(code, k->lay->code_nlocalsplus) +
                      rt_i32(code, k->lay->code_stacksize)) *
               WORD;
}

static uint64_t size_of_generator(walk_t *k, const kind_t *t, rt_addr_t o) {
    rt_frame_t f;
    if (!rt_generator_frame(k->rt, o, &f)) return size_call(k, t, o);
    return size_of_frame(k, f.code, k->lay->gen_iframe);
}

static uint64_t size_of_frame_object(walk_t *k, const kind_t *t, rt_addr_t o) {
    rt_frame_t f;
    bool owned;
    if (!rt_frame_object_frame(k->rt, o, &f, &owned)) return size_call(k, t, o);
    return size_of_frame(k, f.code, k->lay->frame_data);
}

kind_measure_fn size_core_find(const walk_t *k, rt_addr_t owner) {
    const struct {
        const char *type;
        int64_t basicsize; /* at least */
        kind_measure_fn measure;
    } rows[] = {
        {"code", 0, size_of_code},
        {"bytearray", 0, size_of_bytearray},
        {"generator", 0, size_of_generator},
        {"coroutine", 0, size_of_generator},
        {"async_generator", 0, size_of_generator},
        {"frame", 0, size_of_frame_object},
        {"collections.deque", DEQUE_LEFT_INDEX + WORD, size_of_deque},
        {"array.array", ARRAY_DESCR + WORD, size_of_array},
        {"decimal.Decimal", DECIMAL_ALLOC + WORD, size_of_decimal},
        {"_io.BytesIO", 0, size_of_bytesio},
        {"xml.etree.ElementTree.Element", ELEMENT_EXTRA + WORD, size_of_element},
        {"collections.OrderedDict", 0, size_of_ordered_dict},
    };
    const char *name = (const char *)rt_ptr(owner, k->lay->type_name);
    for (size_t i = 0; name && i < sizeof rows / sizeof *rows; i++)
        if (strcmp(name, rows[i].type) == 0 &&
            rt_i64(owner, k->lay->type_basicsize) >= rows[i].basicsize)
            return rows[i].measure;
    return NULL;
}
