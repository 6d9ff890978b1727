#define _GNU_SOURCE
#include "agent/runtime/runtime_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

/* Proof of a layout table: what we know of this process must be where the table says. Everything is
 * read with rt_peek, since the table may be wrong; the first thing that does not fit is named. */

typedef struct proof {
    const rt_t *rt; /* with the table to prove */
    const layout_t *l;
    err_t *e;
    int status;
} proof_t;

static bool fail(proof_t *p, const char *field, const char *why) {
    if (!p->status)
        p->status = err_set(
            p->e, -EBADMSG,
            "layout table %s does not fit CPython %s: %s (%s); lowtide has no table for this build",
            p->l->label, p->rt->version_text, field, why);
    return false;
}

static bool expect(proof_t *p, bool holds, const char *field, const char *why) {
    return holds || fail(p, field, why);
}

/* Reads; a failure to read is a failure of the proof. */
static bool get(proof_t *p, rt_addr_t base, int32_t offset, void *to, size_t n, const char *field) {
    if (!rt_has(offset)) return fail(p, field, "the table lacks it");
    return expect(p, rt_peek(base + (rt_addr_t)(int64_t)offset, to, n) == 0, field,
                  "points outside memory");
}
static bool get_ptr(proof_t *p, rt_addr_t base, int32_t offset, rt_addr_t *to, const char *field) {
    return get(p, base, offset, to, sizeof *to, field);
}
#define GET_PTR(p, base, field, to) get_ptr(p, base, (p)->l->field, to, #field)
#define GET(p, base, field, to)     get(p, base, (p)->l->field, to, sizeof *(to), #field)

static bool is_type(proof_t *p, rt_addr_t object, rt_addr_t type, const char *field) {
    rt_addr_t t = 0;
    if (!expect(p, object && !(object & 7), field, "is no pointer")) return false;
    return GET_PTR(p, object, object_type, &t) && expect(p, t == type, field, "is of another type");
}

/* Any object: its type's type is a kind of type. */
static bool is_object(proof_t *p, rt_addr_t object, const char *field) {
    rt_addr_t type = 0, meta = 0;
    uint64_t flags = 0;
    if (!expect(p, object && !(object & 7), field, "is no pointer")) return false;
    bool read = !rt_peek(object + (rt_addr_t)p->l->object_type, &type, 8) && type && !(type & 7) &&
                !rt_peek(type + (rt_addr_t)p->l->object_type, &meta, 8) && meta && !(meta & 7) &&
                !rt_peek(meta + (rt_addr_t)p->l->type_flags, &flags, 8);
    return expect(p, read && flags & RT_TPFLAGS_TYPE_SUBCLASS, field, "is no object");
}

/* What the runtime says of itself (3.13 and later) */

static const struct claim {
    const char *name;
    size_t said, believed; /* offsets in layout_t */
} claims[] = {
#define CLAIM(field)                                                                               \
    { #field, offsetof(layout_t, debug_##field), offsetof(layout_t, field) }
    CLAIM(runtime_size),
    CLAIM(runtime_interpreters_head),
    CLAIM(interp_size),
    CLAIM(interp_id),
    CLAIM(interp_next),
    CLAIM(interp_threads_head),
    CLAIM(interp_gc),
    CLAIM(interp_modules),
    CLAIM(interp_sysdict),
    CLAIM(interp_builtins),
    CLAIM(thread_size),
    CLAIM(thread_prev),
    CLAIM(thread_next),
    CLAIM(thread_interp),
    CLAIM(thread_current_frame),
    CLAIM(thread_ident),
    CLAIM(thread_native_id),
    CLAIM(iframe_size),
    CLAIM(iframe_previous),
    CLAIM(iframe_code),
    CLAIM(iframe_instruction),
    CLAIM(iframe_localsplus),
    CLAIM(iframe_owner),
    CLAIM(iframe_stackpointer),
    CLAIM(code_size),
    CLAIM(code_filename),
    CLAIM(code_qualname),
    CLAIM(code_linetable),
    CLAIM(code_firstlineno),
    CLAIM(code_localsplusnames),
    CLAIM(code_localspluskinds),
    CLAIM(code_adaptive),
    CLAIM(object_size),
    CLAIM(object_type),
    CLAIM(type_size),
    CLAIM(type_name),
    CLAIM(type_flags),
    CLAIM(tuple_items),
    CLAIM(list_items),
    CLAIM(dict_keys),
    CLAIM(dict_values),
    CLAIM(float_value),
    CLAIM(bytes_data),
    CLAIM(str_state),
    CLAIM(str_length),
    CLAIM(gc_collecting),
    CLAIM(gen_size),
    CLAIM(gen_iframe),
    CLAIM(gen_frame_state),
#undef CLAIM
};

static bool prove_debug_offsets(proof_t *p) {
    const layout_t *l = p->l;
    char cookie[8];
    uint64_t version = 0, free_threaded = 0;
    if (!rt_has(l->runtime_debug_offsets)) return true;
    rt_addr_t base = p->rt->runtime + (rt_addr_t)l->runtime_debug_offsets;
    if (rt_peek(base, cookie, sizeof cookie))
        return fail(p, "debug_offsets", "points outside memory");
    if (!expect(p, !memcmp(cookie, "xdebugpy", 8), "debug_offsets", "no cookie")) return false;
    if (!GET(p, base, debug_version, &version) ||
        !GET(p, base, debug_free_threaded, &free_threaded))
        return false;
    if (!expect(p, version == p->rt->version, "debug_offsets.version", "is another version"))
        return false;
    if (free_threaded) return fail(p, "debug_offsets.free_threaded", "a free-threaded build");
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        int32_t said, believed;
        uint64_t value;
        memcpy(&said, (const char *)l + claims[i].said, sizeof said);
        memcpy(&believed, (const char *)l + claims[i].believed, sizeof believed);
        if (!rt_has(said)) continue;
        if (!get(p, base, said, &value, sizeof value, claims[i].name)) return false;
        if (value != (uint64_t)believed) {
            char why[96];
            snprintf(why, sizeof why, "the table says %d, the runtime %llu", believed,
                     (unsigned long long)value);
            return fail(p, claims[i].name, why);
        }
    }
    return true;
}

bool rt_claims_agree(const rt_t *rt, const layout_t *table) {
    proof_t p = {.rt = rt, .l = table};
    return prove_debug_offsets(&p);
}

/* Types: name, size and flags of those we know */

typedef struct known_type {
    rt_addr_t address;
    const char *name;
    int64_t basicsize; /* < 0: not compared */
    uint64_t flags;    /* that must be set */
} known_type_t;

static bool prove_type(proof_t *p, const known_type_t *k) {
    char name[64] = {0};
    rt_addr_t type = 0, text = 0, bases = 0, mro = 0;
    int64_t size = 0;
    uint64_t flags = 0;
    if (!k->address) return true;
    if (!is_type(p, k->address, p->rt->types.type, "object_type")) return false;
    if (!GET_PTR(p, k->address, type_name, &text) || !GET(p, k->address, type_basicsize, &size))
        return false;
    if (rt_peek(text, name, strlen(k->name) + 1) || strcmp(name, k->name))
        return fail(p, "type_name", k->name);
    if (k->basicsize >= 0 && size != k->basicsize) {
        char why[96];
        snprintf(why, sizeof why, "the table says %lld, the type %lld", (long long)k->basicsize,
                 (long long)size);
        char what[48];
        snprintf(what, sizeof what, "size of %s", k->name);
        return fail(p, what, why);
    }
    if (!GET(p, k->address, type_flags, &flags) ||
        !expect(p, (flags & k->flags) == k->flags, "type_flags", k->name))
        return false;
    return GET_PTR(p, k->address, type_bases, &bases) && GET_PTR(p, k->address, type_mro, &mro) &&
           is_type(p, bases, p->rt->types.tuple, "type_bases") &&
           is_type(p, mro, p->rt->types.tuple, "type_mro") &&
           GET_PTR(p, k->address, object_type, &type);
}

static bool prove_types(proof_t *p) {
    const layout_t *l = p->l;
    const rt_t *rt = p->rt;
    const known_type_t known[] = {
        {rt->types.type, "type", l->heap_type_size, RT_TPFLAGS_TYPE_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.object, "object", l->object_size, 0},
        {rt->types.integer, "int", l->int_digits, RT_TPFLAGS_LONG_SUBCLASS},
        {rt->types.real, "float", l->float_value + 8, 0},
        {rt->types.str, "str", l->str_size, RT_TPFLAGS_STR_SUBCLASS},
        {rt->types.bytes, "bytes", l->bytes_data + 1, RT_TPFLAGS_BYTES_SUBCLASS},
        {rt->types.tuple, "tuple", l->tuple_items, RT_TPFLAGS_TUPLE_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.list, "list", l->list_size, RT_TPFLAGS_LIST_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.dict, "dict", l->dict_size, RT_TPFLAGS_DICT_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.set, "set", l->set_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.frozenset, "frozenset", l->set_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.module, "module", l->module_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.function, "function", l->function_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.code, "code", l->code_adaptive, 0},
        {rt->types.cell, "cell", l->cell_ref + 8, RT_TPFLAGS_HAVE_GC},
        {rt->types.frame, "frame", l->frame_data + l->iframe_localsplus, RT_TPFLAGS_HAVE_GC},
        {rt->types.generator, "generator", l->gen_iframe + l->iframe_localsplus,
         RT_TPFLAGS_HAVE_GC},
        {rt->types.coroutine, "coroutine", l->gen_iframe + l->iframe_localsplus,
         RT_TPFLAGS_HAVE_GC},
        {rt->types.async_generator, "async_generator", l->gen_iframe + l->iframe_localsplus,
         RT_TPFLAGS_HAVE_GC},
        {rt->types.weak_reference, "weakref.ReferenceType", l->weakref_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.method, "method", l->method_size, RT_TPFLAGS_HAVE_GC},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!prove_type(p, &known[i])) return false;
    rt_addr_t base = 0, is_gc = 0, traverse = 0;
    if (!GET_PTR(p, rt->types.boolean, type_base, &base) ||
        !expect(p, base == rt->types.integer, "type_base", "of bool"))
        return false;
    return GET_PTR(p, rt->types.type, type_is_gc, &is_gc) &&
           GET_PTR(p, rt->types.dict, type_traverse, &traverse) &&
           expect(p, is_gc && traverse && is_gc != traverse, "type_traverse", "is missing");
}

/* A dict, by its tables */

typedef struct dict_view {
    rt_addr_t entries;
    int64_t n;
    int32_t size, key, value;
    rt_addr_t values; /* split table; 0: combined */
} dict_view_t;

static bool view_dict(proof_t *p, rt_addr_t dict, dict_view_t *v, const char *field) {
    const layout_t *l = p->l;
    rt_addr_t keys = 0;
    uint8_t index_bytes = 0, size = 0, kind = 0;
    int64_t used = 0;
    if (!is_type(p, dict, p->rt->types.dict, field) || !GET(p, dict, dict_used, &used) ||
        !GET_PTR(p, dict, dict_keys, &keys) || !GET_PTR(p, dict, dict_values, &v->values))
        return false;
    if (!GET(p, keys, dict_keys_log2_index_bytes, &index_bytes) ||
        !GET(p, keys, dict_keys_log2_size, &size) || !GET(p, keys, dict_keys_kind, &kind) ||
        !GET(p, keys, dict_keys_nentries, &v->n))
        return false;
    if (!expect(p, index_bytes < 40 && size < 40 && index_bytes >= size,
                "dict_keys_log2_index_bytes", "out of range"))
        return false;
    if (!expect(p, v->n >= used && v->n >= 0 && v->n <= 1ll << size, "dict_keys_nentries",
                "out of range"))
        return false;
    if (!expect(p,
                used >= 0 && (kind == l->dict_keys_general || kind == l->dict_keys_unicode ||
                              kind == l->dict_keys_split),
                "dict_keys_kind", "out of range"))
        return false;
    bool general = kind == l->dict_keys_general;
    v->size = general ? l->dict_entry_size : l->dict_unicode_entry_size;
    v->key = general ? l->dict_entry_key : l->dict_unicode_entry_key;
    v->value = general ? l->dict_entry_value : l->dict_unicode_entry_value;
    v->entries = keys + (rt_addr_t)l->dict_keys_indices + ((rt_addr_t)1 << index_bytes);
    return true;
}

/* Is this the ASCII str `text` (or does it begin with it)? */
static bool str_is(proof_t *p, rt_addr_t object, const char *text, bool prefix) {
    char buffer[64] = {0};
    int64_t length = 0;
    size_t n = strlen(text);
    if (!is_type(p, object, p->rt->types.str, "str") || !GET(p, object, str_length, &length))
        return false;
    if (length < (int64_t)n || (!prefix && length != (int64_t)n)) return false;
    return get(p, object, p->l->str_ascii_size, buffer, n, "str_ascii_size") &&
           !memcmp(buffer, text, n);
}

/* The value of a str key; 0 and a failure when it is not there. */
static rt_addr_t dict_find(proof_t *p, rt_addr_t dict, const char *key, const char *field) {
    dict_view_t v;
    if (!view_dict(p, dict, &v, field)) return 0;
    for (int64_t i = 0; i < v.n && !p->status; i++) {
        rt_addr_t entry = v.entries + (rt_addr_t)(i * v.size), k = 0, value = 0;
        if (!get_ptr(p, entry, v.key, &k, "dict_entry_key") ||
            !get_ptr(p, entry, v.value, &value, "dict_entry_value"))
            return 0;
        if (!k || !value) continue;
        if (!is_object(p, k, "dict_entry_key") || !is_object(p, value, "dict_entry_value"))
            return 0;
        rt_addr_t type = 0;
        if (GET_PTR(p, k, object_type, &type) && type == p->rt->types.str &&
            str_is(p, k, key, false))
            return value;
    }
    fail(p, field, key);
    return 0;
}

/* Interpreters and what the main one holds */

static bool prove_int(proof_t *p, rt_addr_t object, uint64_t want) {
    uint32_t digits[3] = {0};
    uint64_t tag = 0;
    if (!is_type(p, object, p->rt->types.integer, "sys.maxsize") ||
        !GET(p, object, int_digits, &digits))
        return false;
    int32_t count = rt_has(p->l->int_tag) ? p->l->int_tag : p->l->var_size;
    if (!get(p, object, count, &tag, sizeof tag, "int_tag")) return false;
    if (rt_has(p->l->int_tag)) tag >>= 3;
    uint64_t value = digits[0] | (uint64_t)digits[1] << 30 | (uint64_t)digits[2] << 60;
    return expect(p, tag == 3 && value == want, "int_digits", "sys.maxsize reads otherwise");
}

static bool prove_bits(proof_t *p, rt_addr_t object, int32_t field, uint32_t want,
                       const char *name) {
    uint32_t word[2]; /* of 64 bits, the field in the lower 32 */
    int32_t at = (int32_t)(((uint32_t)field & 0xffffff) / 32 * 4),
            in_word = (int32_t)(((uint32_t)field & 0xff00001f));
    return get(p, object, at, word, sizeof word, name) &&
           expect(p, rt_bits((rt_addr_t)word, in_word) == want, name,
                  "of sys.version reads otherwise");
}

static bool prove_sys(proof_t *p, rt_addr_t sysdict, rt_addr_t modules) {
    const rt_t *rt = p->rt;
    char version[16];
    rt_addr_t value = dict_find(p, sysdict, "maxsize", "interp_sysdict");
    if (!value || !prove_int(p, value, INT64_MAX)) return false;
    value = dict_find(p, sysdict, "version", "interp_sysdict");
    snprintf(version, sizeof version, "3.%d.%u", rt->minor, rt->version >> 8 & 255);
    if (!value || !expect(p, str_is(p, value, version, true), "str_ascii_size",
                          "sys.version reads otherwise"))
        return false;
    if (!prove_bits(p, value, p->l->str_ascii, 1, "str_ascii") ||
        !prove_bits(p, value, p->l->str_compact, 1, "str_compact") ||
        !prove_bits(p, value, p->l->str_kind, 1, "str_kind"))
        return false;
    value = dict_find(p, sysdict, "path", "interp_sysdict");
    if (!value || !is_object(p, value, "sys.path")) return false;
    value = dict_find(p, sysdict, "modules", "interp_sysdict");
    return value && is_object(p, modules, "interp_modules");
}

static bool prove_interpreter(proof_t *p, rt_addr_t interp) {
    rt_addr_t runtime = 0, modules = 0, sysdict = 0, builtins = 0, dict = 0;
    int64_t id = -1;
    if (!GET_PTR(p, interp, interp_runtime, &runtime) ||
        !expect(p, runtime == p->rt->runtime, "interp_runtime", "is not _PyRuntime"))
        return false;
    if (!GET(p, interp, interp_id, &id) ||
        !expect(p, id == 0, "interp_id", "of the main interpreter is not 0"))
        return false;
    if (!GET_PTR(p, interp, interp_modules, &modules) ||
        !GET_PTR(p, interp, interp_sysdict, &sysdict) ||
        !GET_PTR(p, interp, interp_builtins, &builtins))
        return false;
    rt_addr_t sys = dict_find(p, modules, "sys", "interp_modules");
    if (!sys || !is_type(p, sys, p->rt->types.module, "sys.modules['sys']") ||
        !GET_PTR(p, sys, module_dict, &dict) ||
        !expect(p, dict == sysdict, "module_dict", "of sys is not the interpreter's sysdict"))
        return false;
    if (!prove_sys(p, sysdict, modules)) return false;
    rt_addr_t object = dict_find(p, builtins, "BaseException", "interp_builtins");
    return object && is_object(p, object, "interp_builtins");
}

static bool prove_interpreters(proof_t *p, rt_addr_t *main_interp) {
    rt_addr_t head = 0, main_ = 0;
    if (!GET_PTR(p, p->rt->runtime, runtime_interpreters_main, &main_) ||
        !GET_PTR(p, p->rt->runtime, runtime_interpreters_head, &head))
        return false;
    if (!expect(p, main_ == (rt_addr_t)p->rt->PyInterpreterState_Main(),
                "runtime_interpreters_main", "is not the main interpreter"))
        return false;
    bool found = false;
    for (int i = 0; head && i < 100000; i++) {
        found |= head == main_;
        if (!GET_PTR(p, head, interp_next, &head)) return false;
    }
    *main_interp = main_;
    return expect(p, found && !head, "interp_next", "the list lacks the main interpreter");
}

/* The collector */

static bool prove_ring(proof_t *p, rt_addr_t head, const char *field, bool collecting) {
    rt_addr_t at = head, next = 0, prev = 0;
    for (int i = 0; i < 64; i++) {
        if (!GET_PTR(p, at, gc_head_next, &next)) return false;
        next &= ~(rt_addr_t)3;
        if (!GET_PTR(p, next, gc_head_prev, &prev)) return false;
        if (!expect(p, (prev & ~(rt_addr_t)3) == at || collecting, field, "its links do not meet"))
            return false;
        if (next == head) return true;
        if (!is_object(p, next + (rt_addr_t)p->l->gc_head_size, field)) return false;
        at = next;
    }
    return true;
}

static bool prove_collector(proof_t *p, rt_addr_t interp) {
    const layout_t *l = p->l;
    rt_addr_t gc = interp + (rt_addr_t)l->interp_gc, first = 0, garbage = 0, callbacks = 0;
    int32_t collecting = 0, enabled = 0;
    if (!GET(p, gc, gc_collecting, &collecting) || !GET(p, gc, gc_enabled, &enabled)) return false;
    if (!expect(p, (collecting | 1) == 1, "gc_collecting", "is neither 0 nor 1")) return false;
    if (!expect(p, (enabled | 1) == 1, "gc_enabled", "is neither 0 nor 1")) return false;
    if (rt_has(l->gc_generation_0_pointer) && p->l->version >> 16 != 0x030e) {
        if (!GET_PTR(p, gc, gc_generation_0_pointer, &first) ||
            !expect(p, first == gc + (rt_addr_t)l->gc_generation_0, "gc_generation_0",
                    "is not generation 0"))
            return false;
    }
    if (!GET_PTR(p, gc, gc_garbage, &garbage) ||
        (garbage && !is_type(p, garbage, p->rt->types.list, "gc_garbage")))
        return false;
    if (!GET_PTR(p, gc, gc_callbacks, &callbacks) ||
        (callbacks && !is_type(p, callbacks, p->rt->types.list, "gc_callbacks")))
        return false;
    return prove_ring(p, gc + (rt_addr_t)l->gc_generation_0, "gc_generation_0", collecting) &&
           prove_ring(p, gc + (rt_addr_t)l->gc_generation_1, "gc_generation_1", collecting) &&
           prove_ring(p, gc + (rt_addr_t)l->gc_generation_2, "gc_generation_2", collecting) &&
           prove_ring(p, gc + (rt_addr_t)l->gc_permanent, "gc_permanent", collecting);
}

/* Threads and their frames */

static bool prove_code(proof_t *p, rt_addr_t code) {
    const rt_t *rt = p->rt;
    rt_addr_t v = 0;
    int64_t names = -1, kinds = -2;
    int32_t nlocalsplus = 0, stacksize = -1, traceable = -1;
    if (!GET_PTR(p, code, code_filename, &v) || !is_type(p, v, rt->types.str, "code_filename"))
        return false;
    if (!GET_PTR(p, code, code_qualname, &v) || !is_type(p, v, rt->types.str, "code_qualname"))
        return false;
    if (!GET_PTR(p, code, code_name, &v) || !is_type(p, v, rt->types.str, "code_name"))
        return false;
    if (!GET_PTR(p, code, code_consts, &v) || !is_type(p, v, rt->types.tuple, "code_consts"))
        return false;
    if (!GET_PTR(p, code, code_names, &v) || !is_type(p, v, rt->types.tuple, "code_names"))
        return false;
    if (!GET_PTR(p, code, code_linetable, &v) || !is_type(p, v, rt->types.bytes, "code_linetable"))
        return false;
    if (!GET_PTR(p, code, code_exceptiontable, &v) ||
        !is_type(p, v, rt->types.bytes, "code_exceptiontable"))
        return false;
    if (!GET_PTR(p, code, code_localspluskinds, &v) ||
        !is_type(p, v, rt->types.bytes, "code_localspluskinds") || !GET(p, v, var_size, &kinds))
        return false;
    if (!GET_PTR(p, code, code_localsplusnames, &v) ||
        !is_type(p, v, rt->types.tuple, "code_localsplusnames") || !GET(p, v, var_size, &names))
        return false;
    if (!GET(p, code, code_nlocalsplus, &nlocalsplus) ||
        !GET(p, code, code_stacksize, &stacksize) ||
        !GET(p, code, code_first_traceable, &traceable))
        return false;
    return expect(p, names == kinds && names == nlocalsplus, "code_nlocalsplus",
                  "does not count the names") &&
           expect(p, stacksize >= 0 && stacksize < 1 << 20, "code_stacksize", "out of range") &&
           expect(p, traceable >= 0 && traceable < 1 << 20, "code_first_traceable", "out of range");
}

/* The function of a frame and what it shares with it. */
static bool prove_frame_function(proof_t *p, rt_addr_t frame, rt_addr_t function) {
    const rt_t *rt = p->rt;
    rt_addr_t globals = 0, builtins = 0, v = 0;
    if (!GET_PTR(p, frame, iframe_globals, &globals) ||
        !GET_PTR(p, frame, iframe_builtins, &builtins))
        return false;
    if (!is_object(p, globals, "iframe_globals") || !is_object(p, builtins, "iframe_builtins"))
        return false;
    if (!GET_PTR(p, function, function_globals, &v) ||
        !expect(p, v == globals, "function_globals", "are not the frame's") ||
        !GET_PTR(p, function, function_builtins, &v) ||
        !expect(p, v == builtins, "function_builtins", "are not the frame's"))
        return false;
    if (!GET_PTR(p, function, function_code, &v) || !is_type(p, v, rt->types.code, "function_code"))
        return false;
    if (!GET_PTR(p, function, function_closure, &v) ||
        (v && !is_type(p, v, rt->types.tuple, "function_closure")))
        return false;
    if (!GET_PTR(p, function, function_dict, &v) ||
        (v && !is_type(p, v, rt->types.dict, "function_dict")))
        return false;
    return GET_PTR(p, function, function_qualname, &v) && is_object(p, v, "function_qualname");
}

static bool prove_frame(proof_t *p, rt_addr_t frame) {
    const layout_t *l = p->l;
    const rt_t *rt = p->rt;
    rt_addr_t code = 0, at = 0, function = 0, type = 0;
    uint8_t owner = 255;
    if (!GET(p, frame, iframe_owner, &owner) ||
        !expect(p, owner <= 4, "iframe_owner", "out of range"))
        return false;
    if (rt_has(l->frame_owned_by_c) && owner >= l->frame_owned_by_c) return true;
    if (!GET_PTR(p, frame, iframe_code, &code)) return false;
    code &= ~(rt_addr_t)3;
    if (!is_type(p, code, rt->types.code, "iframe_code") || !prove_code(p, code)) return false;
    if (!GET_PTR(p, frame, iframe_instruction, &at) ||
        !expect(p, at - (code + (rt_addr_t)l->code_adaptive - 2) < 1 << 28 && !(at & 1),
                "iframe_instruction", "is not in its code"))
        return false;
    if (!GET_PTR(p, frame, iframe_function, &function)) return false;
    function &= ~(rt_addr_t)3;
    if (function == rt->py_none) return true; /* see frame_read_one */
    return GET_PTR(p, function, object_type, &type) &&
           expect(p, type == rt->types.function, "iframe_function", "is no function") &&
           prove_frame_function(p, frame, function);
}

static bool prove_frames(proof_t *p, rt_addr_t thread) {
    const layout_t *l = p->l;
    rt_addr_t frame = 0;
    if (rt_has(l->thread_current_frame)) {
        if (!GET_PTR(p, thread, thread_current_frame, &frame)) return false;
    } else {
        if (!GET_PTR(p, thread, thread_cframe, &frame)) return false;
        if (frame && !GET_PTR(p, frame, cframe_current_frame, &frame)) return false;
    }
    for (int i = 0; frame && i < 64; i++) {
        if (!prove_frame(p, frame)) return false;
        if (!GET_PTR(p, frame, iframe_previous, &frame)) return false;
    }
    return true;
}

static bool prove_thread(proof_t *p, rt_addr_t interp, rt_addr_t thread, rt_addr_t next) {
    rt_addr_t v = 0, exc_info = 0;
    if (!GET_PTR(p, thread, thread_interp, &v) ||
        !expect(p, v == interp, "thread_interp", "is another"))
        return false;
    if (next && (!GET_PTR(p, next, thread_prev, &v) ||
                 !expect(p, v == thread, "thread_prev", "does not lead back")))
        return false;
    if (!GET_PTR(p, thread, thread_exc_info, &exc_info) ||
        !GET_PTR(p, exc_info, exc_item_value, &v))
        return false;
    if (v && !is_object(p, v, "exc_item_value")) return false;
    if (!GET_PTR(p, thread, thread_dict, &v)) return false;
    if (v && !is_type(p, v, p->rt->types.dict, "thread_dict")) return false;
    if (!GET_PTR(p, thread, thread_context, &v)) return false;
    return !v || is_type(p, v, p->rt->types.context, "thread_context");
}

/* The native id is not compared with this thread's: after os.fork() some versions keep the
 * parent's. */
static bool prove_ids(proof_t *p, rt_addr_t thread) {
    uint64_t ident = 0, native = 0;
    if (!GET(p, thread, thread_ident, &ident) || !GET(p, thread, thread_native_id, &native))
        return false;
    return expect(p, native < 1 << 23, "thread_native_id", "is no thread id") &&
           expect(p, ident == 0 || ident > 4096, "thread_ident", "is no pthread_t");
}

/* The calling thread's own state, where it has one. */
static bool prove_self(proof_t *p, rt_addr_t *self) {
    uint64_t ident = 0;
    *self = (rt_addr_t)p->rt->PyThreadState_Get();
    return GET(p, *self, thread_ident, &ident) &&
           expect(p, ident == (uint64_t)pthread_self(), "thread_ident", "is not this thread's");
}

static bool prove_threads(proof_t *p, rt_addr_t interp) {
    rt_addr_t self = 0, thread = 0, next = 0, own = interp;
    if (!p->rt->no_thread && (!prove_self(p, &self) || !GET_PTR(p, self, thread_interp, &own)))
        return false;
    if (!GET_PTR(p, interp, interp_threads_head, &thread)) return false;
    /* A thread of a subinterpreter is in that one's list. */
    bool found = p->rt->no_thread || own != interp;
    for (int i = 0; thread && i < 100000; i++, thread = next) {
        found |= thread == self;
        if (!GET_PTR(p, thread, thread_next, &next)) return false;
        if (i < 64 && (!prove_thread(p, interp, thread, next) || !prove_ids(p, thread) ||
                       !prove_frames(p, thread)))
            return false;
    }
    return expect(p, found && !thread, "interp_threads_head", "the list lacks this thread");
}

int rt_prove_table(const rt_t *rt, const layout_t *table, err_t *e) {
    proof_t p = {.rt = rt, .l = table, .e = e};
    rt_addr_t interp = 0;
    if (prove_debug_offsets(&p) && prove_types(&p) && prove_interpreters(&p, &interp) &&
        prove_interpreter(&p, interp) && prove_collector(&p, interp) && prove_threads(&p, interp))
        return 0;
    return p.status ? p.status : err_set(e, -EBADMSG, "layout table %s does not fit", table->label);
}

/* Types that some versions do not export are found by their names among the interpreter's static
 * types. */
static void adopt_type(void *arg, const char *name, int64_t index, rt_addr_t type, bool borrowed) {
    (void)name, (void)index, (void)borrowed;
    rt_t *rt = arg;
    const char *text = (const char *)rt_ptr(type, rt->layout->type_name);
    if (!rt->types.method_wrapper && !strcmp(text, "method-wrapper"))
        rt->types.method_wrapper = type;
}

int rt_prove(rt_t *rt, err_t *e) {
    int err = rt_ready(rt, e);
    if (err) return err;
    if (!rt->no_thread && !rt->PyGILState_Check())
        return err_set(e, -EPERM, "rt_prove: the caller does not hold the GIL");
    err_t other;
    const layout_t *nearest = rt->layout, *fits = NULL;
    err = rt_prove_table(rt, nearest, e);
    if (!err) fits = nearest;
    for (size_t i = 0; i < layout_table_count && !fits; i++)
        if (&layout_tables[i] != nearest && rt_table_distance(rt, &layout_tables[i]) >= 0 &&
            !rt_prove_table(rt, &layout_tables[i], &other))
            fits = &layout_tables[i];
    if (!fits) return err;
    rt->layout = fits;
    rt->proven = true;
    rt->types.none = rt_type(rt, rt->py_none);
    rt_static_types(rt, (rt_addr_t)rt->PyInterpreterState_Main(), adopt_type, rt);
    return 0;
}
