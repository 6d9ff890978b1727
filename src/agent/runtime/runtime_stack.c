#include "agent/runtime/opcode_tables.h"
#include "agent/runtime/runtime_internal.h"
#include "base/mem.h"

#include <limits.h>

/* The height of an evaluation stack, from the bytecode.
 *
 * Up to 3.13 a frame that calls C does not say how high its stack is, and what a loop iterates over
 * is often held by nothing else. CPython's compiler has made sure that each instruction is reached
 * with one height only; we find it as the compiler did, by following the code from its start and
 * from its exception handlers. */

enum { UNKNOWN = -1, CO_GENERATORS = 0x20 | 0x80 | 0x200 };

typedef struct flow {
    const rt_t *rt;
    const opcode_table_t *ops;
    const uint8_t *code;
    int64_t units;
    int16_t *height; /* of the stack before each unit */
    bool changed;
} flow_t;

static void set_height(flow_t *f, int64_t unit, int height) {
    if (unit < 0 || unit >= f->units || height < 0 || height > INT16_MAX) return;
    if (f->height[unit] != UNKNOWN) return;
    f->height[unit] = (int16_t)height;
    f->changed = true;
}

static uint32_t read_varint(const uint8_t **p, const uint8_t *end) {
    uint32_t v = 0;
    while (*p < end) {
        uint8_t b = *(*p)++;
        v = v << 6 | (b & 63);
        if (!(b & 64)) break;
    }
    return v;
}

/* A handler begins with what its entry says, the exception, and perhaps an instruction's offset. */
static void seed_handlers(flow_t *f, rt_addr_t code) {
    const layout_t *l = f->rt->layout;
    rt_addr_t table = rt_ptr(code, l->code_exceptiontable);
    const uint8_t *p = (const uint8_t *)table + l->bytes_data;
    const uint8_t *end = p + rt_i64(table, l->var_size);
    while (p < end) {
        read_varint(&p, end); /* start */
        read_varint(&p, end); /* length */
        uint32_t target = read_varint(&p, end), depth = read_varint(&p, end);
        set_height(f, target, (int)(depth >> 1) + (int)(depth & 1) + 1);
    }
}

static int effect(const flow_t *f, int op, int argument, int jump) {
    return f->rt->PyCompile_OpcodeStackEffectWithJump(op, argument, jump);
}

/* One instruction at `unit`: passes its height on. Returns the unit behind it; −1 when it cannot be
 * understood. */
static int64_t flow_step(flow_t *f, int64_t unit, int *argument) {
    int raw = f->code[2 * unit], low = f->code[2 * unit + 1];
    if (raw >= f->ops->instrumented) return -1;
    int op = f->ops->base[raw], after = f->ops->after[op], height = f->height[unit];
    int64_t next = unit + 1 + (after & OPCODE_CACHES);
    *argument = *argument << 8 | low;
    if (op == f->ops->extended_arg) {
        if (height != UNKNOWN) set_height(f, next, height);
        return next;
    }
    if (height != UNKNOWN) {
        int goes = effect(f, op, *argument, 0), jumps = effect(f, op, *argument, 1);
        if (goes == INT_MAX || jumps == INT_MAX) return -1;
        if (!(after & OPCODE_ENDS)) set_height(f, next, height + goes);
        if (after & OPCODE_FORWARD) set_height(f, next + *argument, height + jumps);
        if (after & OPCODE_BACKWARD) set_height(f, next - *argument, height + jumps);
    }
    *argument = 0;
    return next;
}

/* The compiler of 3.11 takes a call's arguments off at PRECALL, the interpreter at the CALL behind
 * it. */
static int true_height(const flow_t *f, int64_t unit) {
    int op = f->ops->base[f->code[2 * unit]];
    bool late = f->rt->minor == 11 && op == f->ops->call;
    return f->height[unit] == UNKNOWN ? UNKNOWN
                                      : f->height[unit] + (late ? f->code[2 * unit + 1] : 0);
}

static int32_t flow_run(flow_t *f, int64_t wanted) {
    for (int pass = 0; pass < 64 && f->changed; pass++) {
        int argument = 0;
        f->changed = false;
        for (int64_t unit = 0, next; unit < f->units; unit = next) {
            next = flow_step(f, unit, &argument);
            if (next < 0) return UNKNOWN;
            if (wanted >= unit && wanted < next && true_height(f, unit) != UNKNOWN)
                return true_height(f, unit);
        }
    }
    return UNKNOWN;
}

int32_t rt_stack_height(const rt_t *rt, rt_addr_t code, int64_t unit) {
    const layout_t *l = rt->layout;
    flow_t f = {.rt = rt, .code = (const uint8_t *)code + l->code_adaptive};
    for (size_t i = 0; i < opcode_table_count; i++)
        if (opcode_tables[i].minor == rt->minor) f.ops = &opcode_tables[i];
    f.units = rt_i64(code, l->var_size);
    if (!f.ops || unit < 0 || unit >= f.units) return UNKNOWN;
    size_t bytes = (size_t)f.units * sizeof *f.height;
    f.height = mem_map(bytes);
    if (!f.height) return UNKNOWN;
    memset(f.height, 0xff, bytes);
    bool generator = rt_i32(code, l->code_flags) & CO_GENERATORS;
    set_height(&f, 0, generator && effect(&f, f.ops->return_generator, 0, 0) == 0);
    seed_handlers(&f, code);
    int32_t height = flow_run(&f, unit);
    mem_unmap(f.height, bytes);
    return height;
}
