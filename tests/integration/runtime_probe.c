/* The runtime room, to be called by ctypes in a Python that it looks at (test_runtime.py,
 * runtime_target.py). */
#include "agent/runtime/opcode_tables.h"
#include "agent/runtime/runtime_internal.h"

#include <stdarg.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))

static rt_t rt;
static char text[8 << 20];
static size_t length;

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text + length, sizeof text - length, format, ap);
    va_end(ap);
    if (n > 0 && length + (size_t)n < sizeof text) length += (size_t)n;
}

static const char *answer(void) {
    return text;
}
static void begin(void) {
    length = 0;
    text[0] = 0;
}

/* "" or the line of refusal. */
EXPORT const char *probe_open(void) {
    err_t e = {0};
    begin();
    if (rt_find(&rt, &e) || rt_prove(&rt, &e) || rt_refresh(&rt, &e)) say("%s", e.text);
    return answer();
}

EXPORT const char *probe_find(void) {
    err_t e = {0};
    begin();
    if (rt_find(&rt, &e)) say("%s", e.text);
    return answer();
}

EXPORT const char *probe_facts(void) {
    begin();
    say("%s %s %d %d %d", rt.layout->label, rt.version_text, rt.debug, rt.proven,
        rt_arenas_huge(&rt));
    return answer();
}

EXPORT const char *probe_interps(void) {
    begin();
    for (rt_addr_t i = rt_interp_first(&rt); i; i = rt_interp_next(&rt, i))
        say("%lld ", (long long)rt_interp_id(&rt, i));
    return answer();
}

static rt_addr_t interp_of(int64_t id) {
    rt_addr_t i = rt_interp_first(&rt);
    while (i && rt_interp_id(&rt, i) != id) i = rt_interp_next(&rt, i);
    return i;
}

EXPORT const char *probe_threads(int64_t interp) {
    rt_thread_t t;
    begin();
    for (rt_thread_first(&rt, interp_of(interp), &t); t.address; rt_thread_next(&rt, &t))
        say("%llu %llu %d\n", (unsigned long long)t.ident, (unsigned long long)t.native_id,
            t.is_main);
    return answer();
}

/* The object a local stands for: cells are looked through, as in f_locals. */
static rt_addr_t local_value(const rt_frame_t *f, int32_t n) {
    rt_addr_t object = rt_frame_slot(&rt, f, n).object;
    bool cell = rt_code_local_kind(&rt, f->code, n) & (RT_LOCAL_CELL | RT_LOCAL_FREE);
    if (object && cell && rt_type(&rt, object) == rt.types.cell)
        object = rt_ptr(object, rt.layout->cell_ref);
    return object;
}

static void say_frame(const rt_frame_t *f) {
    say("frame %llu %d %d %d %d %llu\n", (unsigned long long)f->code, rt_frame_line(&rt, f),
        f->owner, f->stack_count, f->complete, (unsigned long long)f->locals);
    for (int32_t n = 0; n < f->nlocalsplus; n++) {
        rt_addr_t v = local_value(f, n);
        if (v)
            say("local %s %llu\n",
                (const char *)rt_code_local_name(&rt, f->code, n) + rt.layout->str_ascii_size,
                (unsigned long long)v);
    }
    for (int32_t n = 0; n < f->stack_count; n++)
        say("stack %llu %d\n", (unsigned long long)rt_frame_slot(&rt, f, f->nlocalsplus + n).object,
            rt_frame_slot(&rt, f, f->nlocalsplus + n).borrowed);
}

EXPORT const char *probe_frames(int64_t interp, uint64_t ident) {
    rt_thread_t t;
    rt_frame_t f;
    begin();
    for (rt_thread_first(&rt, interp_of(interp), &t); t.address; rt_thread_next(&rt, &t))
        if (t.ident == ident)
            for (rt_frame_read(&rt, t.frame, &f); f.address; rt_frame_next(&rt, &f)) say_frame(&f);
    return answer();
}

/* A frame that said how high its stack is, against what the bytecode says: the instruction that
 * calls has taken its operands, and will put one value. */
static void say_height(const rt_frame_t *f) {
    const opcode_table_t *ops = opcode_tables;
    while (ops->minor != rt.minor) ops++;
    const uint8_t *code = (const uint8_t *)f->code + rt.layout->code_adaptive;
    rt_addr_t at = rt_ptr(f->address, rt.layout->iframe_instruction);
    int64_t wanted = (int64_t)(at - (rt_addr_t)code) / 2, unit = 0, next = 0;
    int32_t height = rt_stack_height(&rt, f->code, wanted);
    for (; next <= wanted; next += 1 + (ops->after[ops->base[code[2 * next]]] & OPCODE_CACHES))
        unit = next;
    int op = ops->base[code[2 * unit]], argument = code[2 * unit + 1];
    if (unit > 0 && ops->base[code[2 * unit - 2]] == ops->extended_arg) return;
    if (rt.minor == 11 && op == ops->call) height -= argument;
    int effect = rt.PyCompile_OpcodeStackEffectWithJump(op, argument, 0);
    say("%d %d op %d line %d unit %d height %d %s\n", f->stack_count, height + effect - 1, op,
        rt_frame_line(&rt, f), (int)unit, height,
        (const char *)rt_ptr(f->code, rt.layout->code_qualname) + rt.layout->str_ascii_size);
}

EXPORT const char *probe_heights(uint64_t ident) {
    rt_thread_t t;
    rt_frame_t f;
    begin();
    for (rt_thread_first(&rt, rt_interp_first(&rt), &t); t.address; rt_thread_next(&rt, &t))
        if (t.ident == ident)
            for (rt_frame_read(&rt, t.frame, &f); f.address; rt_frame_next(&rt, &f))
                if (!f.stack_derived && f.complete) say_height(&f);
    return answer();
}

EXPORT const char *probe_generator(uintptr_t generator) {
    rt_frame_t f;
    begin();
    if (rt_generator_frame(&rt, generator, &f)) {
        say("running %d\n", rt_generator_running(&rt, generator));
        if (rt_frame_generator(&rt, &f) == generator) say_frame(&f);
    }
    return answer();
}

EXPORT const char *probe_generator_height(uintptr_t generator) {
    rt_frame_t f;
    begin();
    if (rt_generator_frame(&rt, generator, &f)) {
        say_height(&f);
    }
    return answer();
}

EXPORT const char *probe_frame_object(uintptr_t object) {
    rt_frame_t f;
    bool owned;
    begin();
    if (rt_frame_object_frame(&rt, object, &f, &owned)) {
        say("owned %d\n", owned);
        say_frame(&f);
    }
    return answer();
}

/* Fills out with the objects of list n, returns how many there are. */
EXPORT int64_t probe_gc(int64_t interp, int n, uint64_t *out, int64_t most) {
    int64_t count = 0;
    rt_addr_t head = rt_gc_list(&rt, interp_of(interp), n);
    for (rt_addr_t g = rt_gc_next(&rt, head); g != head; g = rt_gc_next(&rt, g), count++)
        if (count < most) out[count] = rt_from_gc(&rt, g);
    return count;
}

EXPORT int probe_object(uintptr_t object) {
    rt_addr_t type = rt_type(&rt, object);
    if (!rt_has_gc_head(&rt, object, type)) return 0;
    return 1 | rt_gc_tracked(&rt, object) << 1 | rt_gc_finalized(&rt, object) << 2;
}
EXPORT uint64_t probe_refcount(uintptr_t object) {
    return rt_refcount(&rt, object);
}
EXPORT int64_t probe_pre_header(uintptr_t object) {
    return (int64_t)rt_pre_header(&rt, object, rt_type(&rt, object));
}
EXPORT uint64_t probe_type_dict(int64_t interp, uintptr_t type) {
    return rt_type_dict(&rt, interp_of(interp), type);
}
EXPORT int probe_core(uintptr_t address) {
    return rt_symbol_in_core(&rt, address);
}
EXPORT int probe_static(uintptr_t address) {
    return rt_is_static(&rt, address);
}
EXPORT uintptr_t probe_slot(uintptr_t object, int offset) {
    return rt_ptr(object, offset);
}
EXPORT uintptr_t probe_traverse_of(uintptr_t type) {
    return rt_ptr(type, rt.layout->type_traverse);
}

static void say_root(void *arg, const char *name, int64_t index, rt_addr_t object, bool borrowed) {
    const char *type = (const char *)rt_ptr(rt_type(&rt, object), rt.layout->type_name);
    say("%s|%lld|%llu|%d|%s|%s\n", (const char *)arg, (long long)index, (unsigned long long)object,
        borrowed, name, type);
}

EXPORT const char *probe_roots(int64_t interp) {
    rt_thread_t t;
    begin();
    rt_interp_roots(&rt, interp_of(interp), say_root, "interp");
    rt_runtime_roots(&rt, say_root, "runtime");
    rt_static_objects(&rt, say_root, "static");
    rt_static_types(&rt, interp_of(interp), say_root, "types");
    for (rt_thread_first(&rt, interp_of(interp), &t); t.address; rt_thread_next(&rt, &t))
        rt_thread_roots(&rt, &t, say_root, "thread");
    return answer();
}

static const struct {
    const char *name;
    size_t offset;
} fields[] = {
#define LAYOUT_FIELD(name, ...) {#name, offsetof(layout_t, name)},
#define LAYOUT_SIZE(name, ...)  {#name, offsetof(layout_t, name)},
#define LAYOUT_CONST(name, ...) {#name, offsetof(layout_t, name)},
#define LAYOUT_BITS(name, ...)  {#name, offsetof(layout_t, name)},
#include "agent/runtime/layout_fields.h"
};

/* Moves one field of the table after the other and proves: "name refusal" a line, the last one got.
 */
EXPORT const char *probe_corrupt(void) {
    static const int32_t moves[] = {8, -8, 16, 4096, 1 << 28};
    begin();
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        int refused = 0, tried = 0;
        err_t e = {0};
        for (size_t m = 0; m < sizeof moves / sizeof *moves; m++) {
            layout_t wrong = *rt.layout;
            int32_t *v = (int32_t *)((char *)&wrong + fields[i].offset);
            if (*v == LAYOUT_ABSENT) continue;
            *v += moves[m];
            tried++;
            refused += rt_prove_table(&rt, &wrong, &e) != 0;
        }
        if (tried) say("%s|%d|%d|%s\n", fields[i].name, tried, refused, e.text);
    }
    return answer();
}

/* The table as if the collector's state were 24 bytes longer in the headers at hand: it does not
 * fit, and what is made of it does. */
EXPORT const char *probe_adapt(void) {
    layout_t wrong = *rt.layout, adapted;
    err_t e = {0};
    begin();
    int32_t *const behind[] = {
#define LAYOUT_FIELD(name, type, ...)                                                              \
    !__builtin_strcmp(#type, "PyInterpreterState") ? &wrong.name : NULL,
#include "agent/runtime/layout_fields.h"
    };
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++)
        if (behind[i] && *behind[i] != LAYOUT_ABSENT && *behind[i] > rt.layout->interp_gc)
            *behind[i] += 24;
    say("%d ", rt_prove_table(&rt, &wrong, &e) != 0);
    if (!rt_adapt(&rt, &wrong, &adapted)) return answer();
    say("%d %d", adapted.interp_audit_hooks == rt.layout->interp_audit_hooks,
        rt_prove_table(&rt, &adapted, &e));
    return answer();
}

/* Proves with each table of any version: the labels of those that fit. */
EXPORT const char *probe_all_tables(void) {
    begin();
    for (size_t i = 0; i < layout_table_count; i++)
        if (!rt_prove_table(&rt, &layout_tables[i], NULL)) say("%s ", layout_tables[i].label);
    return answer();
}
