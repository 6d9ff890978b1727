#include "agent/runtime/runtime_internal.h"

/* Frames, the generators that hold some, and line numbers. */

/* In 3.14 and later a slot is a _PyStackRef. Its low bits: 0 owns a reference, 1 does not
 * (borrowed, deferred, or immortal; NULL is 1 alone), 3 is an integer. Before, a slot is a pointer
 * that owns its reference. */
static rt_slot_t slot_of(const rt_t *rt, rt_addr_t bits) {
    if (!rt_has(rt->layout->iframe_stackpointer)) return (rt_slot_t){bits, false};
    if ((bits & 3) > 1) return (rt_slot_t){0, false};
    return (rt_slot_t){bits & ~(rt_addr_t)3, bits & 1};
}

/* Code units (2 bytes) from the code's first instruction to the frame's; may be −1 in 3.11 and 3.12
 * (the one before). */
static int64_t frame_lasti(const rt_t *rt, const rt_frame_t *f) {
    rt_addr_t at = rt_ptr(f->address, rt->layout->iframe_instruction);
    return ((int64_t)at - (int64_t)(f->code + (rt_addr_t)rt->layout->code_adaptive)) / 2;
}

/* Up to 3.13 a frame in the evaluation loop has −1 for its stack's height while it calls C. */
static void frame_read_stack(const rt_t *rt, rt_frame_t *f) {
    const layout_t *l = rt->layout;
    int64_t height = -1;
    if (rt_has(l->iframe_stackpointer)) {
        rt_addr_t pointer = rt_ptr(f->address, l->iframe_stackpointer);
        if (pointer) height = (int64_t)(pointer - f->localsplus) / 8 - f->nlocalsplus;
    } else if (rt_i32(f->address, l->iframe_stacktop) >= 0) {
        height = rt_i32(f->address, l->iframe_stacktop) - f->nlocalsplus;
    } else {
        height = rt_stack_height(rt, f->code, frame_lasti(rt, f));
        f->stack_derived = true;
    }
    bool fits = height >= 0 && height <= rt_i32(f->code, l->code_stacksize);
    f->stack_count = fits ? (int32_t)height : -1;
}

static bool frame_is_shim(const rt_t *rt, rt_addr_t frame) {
    int32_t c = rt->layout->frame_owned_by_c;
    return rt_has(c) && rt_u8(frame, rt->layout->iframe_owner) >= c;
}

static bool frame_read_one(const rt_t *rt, rt_addr_t address, rt_frame_t *out) {
    const layout_t *l = rt->layout;
    rt_slot_t code = slot_of(rt, rt_ptr(address, l->iframe_code));
    rt_slot_t function = slot_of(rt, rt_ptr(address, l->iframe_function));
    if (!code.object || rt_type(rt, code.object) != rt->types.code) return false;
    *out = (rt_frame_t){
        .address = address,
        .previous = rt_ptr(address, l->iframe_previous),
        .code = code.object,
        .code_borrowed = code.borrowed,
        .function = function.object,
        .function_borrowed = function.borrowed,
        .globals = rt_ptr(address, l->iframe_globals),
        .builtins = rt_ptr(address, l->iframe_builtins),
        .locals = rt_ptr(address, l->iframe_locals),
        .frame_object = rt_ptr(address, l->iframe_frame_object),
        .localsplus = address + (rt_addr_t)l->iframe_localsplus,
        .nlocalsplus = rt_i32(code.object, l->code_nlocalsplus),
        .owner = rt_u8(address, l->iframe_owner),
    };
    /* The frame behind the __init__ of a class that is being called runs no function, and its other
     * fields are not set. It holds the new object on its stack. */
    if (!function.object || rt_type(rt, function.object) != rt->types.function)
        out->function = out->globals = out->builtins = out->locals = 0;
    frame_read_stack(rt, out);
    /* The function of a frame is not always one: None or NULL once a frame object has taken it
     * over. */
    out->complete = out->owner == RT_FRAME_GENERATOR ||
                    frame_lasti(rt, out) >= rt_i32(out->code, l->code_first_traceable);
    return true;
}

void rt_frame_read(const rt_t *rt, rt_addr_t address, rt_frame_t *out) {
    while (address) {
        if (!frame_is_shim(rt, address) && frame_read_one(rt, address, out)) return;
        address = rt_ptr(address, rt->layout->iframe_previous);
    }
    *out = (rt_frame_t){0};
}

rt_slot_t rt_frame_slot(const rt_t *rt, const rt_frame_t *frame, int32_t n) {
    rt_slot_t slot = slot_of(rt, rt_ptr(frame->localsplus + 8 * (rt_addr_t)n, 0));
    /* The instruction may have let go of some of its operands already. */
    if (frame->stack_derived && n >= frame->nlocalsplus && !rt_plausible(rt, slot.object))
        slot.object = 0;
    return slot;
}

/* Generators and frame objects */

static int8_t generator_state(const rt_t *rt, rt_addr_t generator) {
    return (int8_t)rt_u8(generator, rt->layout->gen_frame_state);
}

bool rt_generator_running(const rt_t *rt, rt_addr_t generator) {
    return generator_state(rt, generator) == rt->layout->gen_state_executing;
}

int rt_generator_frame(const rt_t *rt, rt_addr_t generator, rt_frame_t *out) {
    *out = (rt_frame_t){0};
    if (generator_state(rt, generator) >= rt->layout->gen_state_completed) return 0;
    if (!frame_read_one(rt, generator + (rt_addr_t)rt->layout->gen_iframe, out)) return 0;
    /* A suspended frame may still say who called it last. */
    if (!rt_generator_running(rt, generator)) out->previous = 0;
    return 1;
}

int rt_frame_object_frame(const rt_t *rt, rt_addr_t frame_object, rt_frame_t *out, bool *owned) {
    *out = (rt_frame_t){0};
    rt_addr_t address = rt_ptr(frame_object, rt->layout->frame_iframe);
    *owned = address == frame_object + (rt_addr_t)rt->layout->frame_data;
    if (!address || frame_is_shim(rt, address)) return 0;
    if (!frame_read_one(rt, address, out)) return 0;
    if (*owned) out->previous = 0;
    return 1;
}

/* Code */

rt_addr_t rt_code_local_name(const rt_t *rt, rt_addr_t code, int32_t n) {
    rt_addr_t names = rt_ptr(code, rt->layout->code_localsplusnames);
    if (n < 0 || n >= rt_i64(names, rt->layout->var_size)) return 0;
    return rt_ptr(names + 8 * (rt_addr_t)n, rt->layout->tuple_items);
}

uint8_t rt_code_local_kind(const rt_t *rt, rt_addr_t code, int32_t n) {
    rt_addr_t kinds = rt_ptr(code, rt->layout->code_localspluskinds);
    if (n < 0 || n >= rt_i64(kinds, rt->layout->var_size)) return 0;
    return rt_u8(kinds + (rt_addr_t)n, rt->layout->bytes_data);
}

/* CPython's variable-length integers: 6 bits a byte, least significant first, bit 6 says that more
 * follow. */
static uint32_t read_varint(const uint8_t **p, const uint8_t *end) {
    uint32_t v = 0;
    for (int shift = 0; *p < end && shift < 32; shift += 6) {
        uint8_t b = *(*p)++;
        v |= (uint32_t)(b & 63) << shift;
        if (!(b & 64)) break;
    }
    return v;
}
static int32_t read_svarint(const uint8_t **p, const uint8_t *end) {
    uint32_t v = read_varint(p, end);
    return v & 1 ? -(int32_t)(v >> 1) : (int32_t)(v >> 1);
}

/* co_linetable: entries that begin with a byte ≥ 128: a kind (4 bits) and how many code units it is
 * for (3 bits, plus one); InternalDocs/code_objects.md of CPython describes them. */
int32_t rt_code_line_or(const rt_t *rt, rt_addr_t code, int64_t unit, int32_t none) {
    enum { ONE_LINE_0 = 10, NO_COLUMNS = 13, LONG = 14, NONE = 15 };
    int32_t line = rt_i32(code, rt->layout->code_firstlineno);
    rt_addr_t table = rt_ptr(code, rt->layout->code_linetable);
    const uint8_t *p = (const uint8_t *)table + rt->layout->bytes_data;
    const uint8_t *end = p + rt_i64(table, rt->layout->var_size);
    for (int64_t at = 0; p < end && unit >= 0;) {
        uint8_t head = *p++;
        int kind = head >> 3 & 15;
        at += (head & 7) + 1;
        if (kind == LONG || kind == NO_COLUMNS)
            line += read_svarint(&p, end);
        else if (kind >= ONE_LINE_0 && kind < NO_COLUMNS)
            line += kind - ONE_LINE_0;
        while (p < end && *p < 128) p++; /* columns */
        if (at > unit) return kind == NONE ? none : line;
    }
    return none;
}

int32_t rt_code_line(const rt_t *rt, rt_addr_t code, int64_t unit) {
    return rt_code_line_or(rt, code, unit, rt_i32(code, rt->layout->code_firstlineno));
}

int32_t rt_frame_line(const rt_t *rt, const rt_frame_t *frame) {
    return rt_code_line(rt, frame->code, frame_lasti(rt, frame));
}
