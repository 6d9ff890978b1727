#define _GNU_SOURCE
#include "agent/runtime/runtime_proof.h"
#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

int proof_peek(proof_t *p, rt_addr_t from, void *to, size_t n) {
    rt_addr_t address = from & ~(rt_addr_t)(PROOF_PAGE - 1);
    if (!p->pages || from - address + n > PROOF_PAGE) return rt_peek(from, to, n);
    proof_page_t *page = &p->pages[address / PROOF_PAGE % PROOF_PAGES];
    if (page->address != address || !address) {
        page->address = address;
        page->status = rt_peek(address, page->bytes, PROOF_PAGE);
    }
    if (!page->status) memcpy(to, page->bytes + (from - address), n);
    return page->status;
}

bool proof_fail(proof_t *p, const char *field, const char *why) {
    if (!p->status)
        p->status = err_set(p->e, -EBADMSG,
                            "layout table %s does not fit CPython %s: %s (%s); lowtide has no "
                            "table for this build",
                            p->l->label, p->rt->version_text, field, why);
    return false;
}

bool proof_get(proof_t *p, rt_addr_t base, int32_t offset, void *to, size_t n, const char *field) {
    if (p->status) return false;
    if (!rt_has(offset)) return proof_fail(p, field, "the table lacks it");
    bool read = proof_peek(p, base + (rt_addr_t)(int64_t)offset, to, n) == 0;
    return proof_expect(p, read, field, "points outside memory");
}

bool proof_is(proof_t *p, rt_addr_t object, rt_addr_t type, const char *field) {
    rt_addr_t t = 0;
    if (!proof_expect(p, object && !(object & 7), field, "is no pointer")) return false;
    return PROOF_GET(p, object, object_type, &t) &&
           proof_expect(p, t == type, field, "is of another type");
}

bool proof_is_object(proof_t *p, rt_addr_t object, const char *field) {
    rt_addr_t type = 0, meta = 0;
    uint64_t flags = 0;
    if (!proof_expect(p, object && !(object & 7), field, "is no pointer")) return false;
    bool read = !proof_peek(p, object + (rt_addr_t)p->l->object_type, &type, 8) && type &&
                !(type & 7) && !proof_peek(p, type + (rt_addr_t)p->l->object_type, &meta, 8) &&
                meta && !(meta & 7) &&
                !proof_peek(p, meta + (rt_addr_t)p->l->type_flags, &flags, 8);
    return proof_expect(p, read && flags & RT_TPFLAGS_TYPE_SUBCLASS, field, "is no object");
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

/* These two sizes tell builds apart (with and without the JIT), but grow in patch releases by fields
 * at their ends. */
static bool claim_is_size(const struct claim *c) {
    return c->believed == offsetof(layout_t, runtime_size) ||
           c->believed == offsetof(layout_t, interp_size);
}

static bool prove_debug_offsets(proof_t *p, bool with_sizes) {
    const layout_t *l = p->l;
    char cookie[8];
    uint64_t version = 0, free_threaded = 0;
    if (!rt_has(l->runtime_debug_offsets)) return true;
    rt_addr_t base = p->rt->runtime + (rt_addr_t)l->runtime_debug_offsets;
    if (proof_peek(p, base, cookie, sizeof cookie))
        return proof_fail(p, "debug_offsets", "points outside memory");
    if (!proof_expect(p, !memcmp(cookie, "xdebugpy", 8), "debug_offsets", "no cookie"))
        return false;
    if (!PROOF_GET(p, base, debug_version, &version) ||
        !PROOF_GET(p, base, debug_free_threaded, &free_threaded))
        return false;
    if (!proof_expect(p, version == p->rt->version, "debug_offsets.version", "is another version"))
        return false;
    if (free_threaded) return proof_fail(p, "debug_offsets.free_threaded", "a free-threaded build");
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        int32_t said, believed;
        uint64_t value;
        memcpy(&said, (const char *)l + claims[i].said, sizeof said);
        memcpy(&believed, (const char *)l + claims[i].believed, sizeof believed);
        if (!rt_has(said) || (!with_sizes && claim_is_size(&claims[i]))) continue;
        if (!proof_get(p, base, said, &value, sizeof value, claims[i].name)) return false;
        if (value != (uint64_t)believed) {
            char why[96];
            snprintf(why, sizeof why, "the table says %d, the runtime %llu", believed,
                     (unsigned long long)value);
            return proof_fail(p, claims[i].name, why);
        }
    }
    return true;
}

bool rt_claims_agree(const rt_t *rt, const layout_t *table) {
    proof_t p = {.rt = rt, .l = table};
    return prove_debug_offsets(&p, true);
}

/* Interpreters */

static bool prove_interpreter(proof_t *p, rt_addr_t interp) {
    rt_addr_t runtime = 0, modules = 0, sysdict = 0, builtins = 0, dict = 0;
    int64_t id = -1;
    if (!PROOF_GET(p, interp, interp_runtime, &runtime) ||
        !proof_expect(p, runtime == p->rt->runtime, "interp_runtime", "is not _PyRuntime"))
        return false;
    if (!PROOF_GET(p, interp, interp_id, &id) ||
        !proof_expect(p, id == 0, "interp_id", "of the main interpreter is not 0"))
        return false;
    if (!PROOF_GET(p, interp, interp_modules, &modules) ||
        !PROOF_GET(p, interp, interp_sysdict, &sysdict) ||
        !PROOF_GET(p, interp, interp_builtins, &builtins))
        return false;
    rt_addr_t sys = proof_dict_find(p, modules, "sys", "interp_modules");
    if (!sys || !proof_is(p, sys, p->rt->types.module, "sys.modules['sys']") ||
        !PROOF_GET(p, sys, module_dict, &dict) ||
        !proof_expect(p, dict == sysdict, "module_dict", "of sys is not the interpreter's sysdict"))
        return false;
    if (!proof_objects(p, sys, sysdict) || !proof_interp_roots(p, interp)) return false;
    rt_addr_t object = proof_dict_find(p, builtins, "BaseException", "interp_builtins");
    return object && proof_is_object(p, object, "interp_builtins");
}

static bool prove_interpreters(proof_t *p, rt_addr_t *main_interp) {
    rt_addr_t head = 0, main_ = 0;
    if (!PROOF_GET(p, p->rt->runtime, runtime_interpreters_main, &main_) ||
        !PROOF_GET(p, p->rt->runtime, runtime_interpreters_head, &head))
        return false;
    if (!proof_expect(p, main_ == (rt_addr_t)p->rt->PyInterpreterState_Main(),
                      "runtime_interpreters_main", "is not the main interpreter"))
        return false;
    bool found = false;
    for (int i = 0; head && i < 100000; i++) {
        found |= head == main_;
        if (!PROOF_GET(p, head, interp_next, &head)) return false;
    }
    *main_interp = main_;
    return proof_expect(p, found && !head, "interp_next", "the list lacks the main interpreter");
}

/* The collector */

static bool prove_ring(proof_t *p, rt_addr_t head, const char *field, bool collecting) {
    rt_addr_t at = head, next = 0, prev = 0;
    for (int i = 0; i < 64; i++) {
        if (!PROOF_GET(p, at, gc_head_next, &next)) return false;
        next &= ~(rt_addr_t)3;
        if (!PROOF_GET(p, next, gc_head_prev, &prev)) return false;
        if (!proof_expect(p, (prev & ~(rt_addr_t)3) == at || collecting, field,
                          "its links do not meet"))
            return false;
        if (next == head) return true;
        if (!proof_is_object(p, next + (rt_addr_t)p->l->gc_head_size, field)) return false;
        at = next;
    }
    return true;
}

static bool prove_collector(proof_t *p, rt_addr_t interp) {
    const layout_t *l = p->l;
    rt_addr_t gc = interp + (rt_addr_t)l->interp_gc, first = 0, garbage = 0, callbacks = 0;
    int32_t collecting = 0, enabled = 0;
    if (!PROOF_GET(p, gc, gc_collecting, &collecting) || !PROOF_GET(p, gc, gc_enabled, &enabled))
        return false;
    if (!proof_expect(p, (collecting | 1) == 1, "gc_collecting", "is neither 0 nor 1"))
        return false;
    if (!proof_expect(p, (enabled | 1) == 1, "gc_enabled", "is neither 0 nor 1")) return false;
    if (rt_has(l->gc_generation_0_pointer)) {
        if (!PROOF_GET(p, gc, gc_generation_0_pointer, &first) ||
            !proof_expect(p, first == gc + (rt_addr_t)l->gc_generation_0, "gc_generation_0",
                          "is not generation 0"))
            return false;
    }
    if (!PROOF_GET(p, gc, gc_garbage, &garbage) ||
        (garbage && !proof_is(p, garbage, p->rt->types.list, "gc_garbage")))
        return false;
    if (!PROOF_GET(p, gc, gc_callbacks, &callbacks) ||
        (callbacks && !proof_is(p, callbacks, p->rt->types.list, "gc_callbacks")))
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
    if (!PROOF_GET(p, code, code_filename, &v) || !proof_is(p, v, rt->types.str, "code_filename"))
        return false;
    if (!PROOF_GET(p, code, code_qualname, &v) || !proof_is(p, v, rt->types.str, "code_qualname"))
        return false;
    if (!PROOF_GET(p, code, code_name, &v) || !proof_is(p, v, rt->types.str, "code_name"))
        return false;
    if (!PROOF_GET(p, code, code_consts, &v) || !proof_is(p, v, rt->types.tuple, "code_consts"))
        return false;
    if (!PROOF_GET(p, code, code_names, &v) || !proof_is(p, v, rt->types.tuple, "code_names"))
        return false;
    if (!PROOF_GET(p, code, code_linetable, &v) ||
        !proof_is(p, v, rt->types.bytes, "code_linetable"))
        return false;
    if (!PROOF_GET(p, code, code_exceptiontable, &v) ||
        !proof_is(p, v, rt->types.bytes, "code_exceptiontable"))
        return false;
    if (!PROOF_GET(p, code, code_localspluskinds, &v) ||
        !proof_is(p, v, rt->types.bytes, "code_localspluskinds") ||
        !PROOF_GET(p, v, var_size, &kinds))
        return false;
    if (!PROOF_GET(p, code, code_localsplusnames, &v) ||
        !proof_is(p, v, rt->types.tuple, "code_localsplusnames") ||
        !PROOF_GET(p, v, var_size, &names))
        return false;
    if (!PROOF_GET(p, code, code_nlocalsplus, &nlocalsplus) ||
        !PROOF_GET(p, code, code_stacksize, &stacksize) ||
        !PROOF_GET(p, code, code_first_traceable, &traceable))
        return false;
    return proof_expect(p, names == kinds && names == nlocalsplus, "code_nlocalsplus",
                        "does not count the names") &&
           proof_expect(p, stacksize >= 0 && stacksize < 1 << 20, "code_stacksize",
                        "out of range") &&
           proof_expect(p, traceable >= 0 && traceable < 1 << 20, "code_first_traceable",
                        "out of range");
}

/* The function of a frame and what it shares with it. */
static bool prove_frame_function(proof_t *p, rt_addr_t frame, rt_addr_t function) {
    const rt_t *rt = p->rt;
    rt_addr_t globals = 0, builtins = 0, v = 0;
    if (!PROOF_GET(p, frame, iframe_globals, &globals) ||
        !PROOF_GET(p, frame, iframe_builtins, &builtins))
        return false;
    if (!proof_is_object(p, globals, "iframe_globals") ||
        !proof_is_object(p, builtins, "iframe_builtins"))
        return false;
    if (!PROOF_GET(p, function, function_globals, &v) ||
        !proof_expect(p, v == globals, "function_globals", "are not the frame's") ||
        !PROOF_GET(p, function, function_builtins, &v) ||
        !proof_expect(p, v == builtins, "function_builtins", "are not the frame's"))
        return false;
    if (!PROOF_GET(p, function, function_code, &v) ||
        !proof_is(p, v, rt->types.code, "function_code"))
        return false;
    if (!PROOF_GET(p, function, function_closure, &v) ||
        (v && !proof_is(p, v, rt->types.tuple, "function_closure")))
        return false;
    if (!PROOF_GET(p, function, function_dict, &v) ||
        (v && !proof_is_object(p, v, "function_dict")))
        return false;
    return PROOF_GET(p, function, function_qualname, &v) &&
           proof_is_object(p, v, "function_qualname");
}

static bool prove_frame(proof_t *p, rt_addr_t frame) {
    const layout_t *l = p->l;
    const rt_t *rt = p->rt;
    rt_addr_t code = 0, at = 0, function = 0, type = 0;
    uint8_t owner = 255;
    if (!PROOF_GET(p, frame, iframe_owner, &owner) ||
        !proof_expect(p, owner <= 4, "iframe_owner", "out of range"))
        return false;
    if (rt_has(l->frame_owned_by_c) && owner >= l->frame_owned_by_c) return true;
    if (!PROOF_GET(p, frame, iframe_code, &code)) return false;
    code &= ~(rt_addr_t)3;
    if (!proof_is(p, code, rt->types.code, "iframe_code") || !prove_code(p, code)) return false;
    if (!PROOF_GET(p, frame, iframe_instruction, &at) ||
        !proof_expect(p, at - (code + (rt_addr_t)l->code_adaptive - 2) < 1 << 28 && !(at & 1),
                      "iframe_instruction", "is not in its code"))
        return false;
    if (!PROOF_GET(p, frame, iframe_function, &function)) return false;
    function &= ~(rt_addr_t)3;
    if (function == rt->py_none) return true; /* see frame_read_one */
    return PROOF_GET(p, function, object_type, &type) &&
           proof_expect(p, type == rt->types.function, "iframe_function", "is no function") &&
           prove_frame_function(p, frame, function);
}

static bool prove_frames(proof_t *p, rt_addr_t thread) {
    const layout_t *l = p->l;
    rt_addr_t frame = 0;
    if (rt_has(l->thread_current_frame)) {
        if (!PROOF_GET(p, thread, thread_current_frame, &frame)) return false;
    } else {
        if (!PROOF_GET(p, thread, thread_cframe, &frame)) return false;
        if (frame && !PROOF_GET(p, frame, cframe_current_frame, &frame)) return false;
    }
    for (int i = 0; frame && i < 64; i++) {
        if (!prove_frame(p, frame)) return false;
        if (!PROOF_GET(p, frame, iframe_previous, &frame)) return false;
    }
    return true;
}

static bool prove_thread(proof_t *p, rt_addr_t interp, rt_addr_t thread, rt_addr_t next) {
    rt_addr_t v = 0, exc_info = 0;
    if (!PROOF_GET(p, thread, thread_interp, &v) ||
        !proof_expect(p, v == interp, "thread_interp", "is another"))
        return false;
    if (next && (!PROOF_GET(p, next, thread_prev, &v) ||
                 !proof_expect(p, v == thread, "thread_prev", "does not lead back")))
        return false;
    if (!PROOF_GET(p, thread, thread_exc_info, &exc_info) ||
        !PROOF_GET(p, exc_info, exc_item_value, &v))
        return false;
    if (v && !proof_is_object(p, v, "exc_item_value")) return false;
    if (!PROOF_GET(p, thread, thread_dict, &v) ||
        !proof_is_or_null(p, v, p->rt->types.dict, "thread_dict"))
        return false;
    if (!PROOF_GET(p, thread, thread_context, &v) ||
        !proof_is_or_null(p, v, p->rt->types.context, "thread_context"))
        return false;
    return proof_thread_roots(p, thread);
}

/* The native id is not compared with this thread's: after os.fork() some versions keep the
 * parent's. */
static bool prove_ids(proof_t *p, rt_addr_t thread) {
    uint64_t ident = 0, native = 0;
    if (!PROOF_GET(p, thread, thread_ident, &ident) ||
        !PROOF_GET(p, thread, thread_native_id, &native))
        return false;
    return proof_expect(p, native < 1 << 23, "thread_native_id", "is no thread id") &&
           proof_expect(p, ident == 0 || ident > 4096, "thread_ident", "is no pthread_t");
}

/* The calling thread's own state, where it has one. */
static bool prove_self(proof_t *p, rt_addr_t *self) {
    uint64_t ident = 0;
    *self = (rt_addr_t)p->rt->PyThreadState_Get();
    return PROOF_GET(p, *self, thread_ident, &ident) &&
           proof_expect(p, ident == (uint64_t)pthread_self(), "thread_ident",
                        "is not this thread's");
}

static bool prove_threads(proof_t *p, rt_addr_t interp) {
    rt_addr_t self = 0, thread = 0, next = 0, own = interp;
    if (!p->rt->no_thread && (!prove_self(p, &self) || !PROOF_GET(p, self, thread_interp, &own)))
        return false;
    if (!PROOF_GET(p, interp, interp_threads_head, &thread)) return false;
    /* A thread of a subinterpreter is in that one's list. */
    bool found = p->rt->no_thread || own != interp;
    for (int i = 0; thread && i < 100000; i++, thread = next) {
        found |= thread == self;
        if (!PROOF_GET(p, thread, thread_next, &next)) return false;
        if (i < 64 && (!prove_thread(p, interp, thread, next) || !prove_ids(p, thread) ||
                       !prove_frames(p, thread)))
            return false;
    }
    return proof_expect(p, found && !thread, "interp_threads_head", "the list lacks this thread");
}

int rt_prove_table(const rt_t *rt, const layout_t *table, err_t *e) {
    size_t bytes = PROOF_PAGES * sizeof(proof_page_t);
    proof_t p = {.rt = rt, .l = table, .e = e, .pages = mem_map(bytes)};
    rt_addr_t interp = 0;
    bool holds = prove_debug_offsets(&p, false) && proof_types(&p) && proof_static_objects(&p) &&
                 prove_interpreters(&p, &interp) && prove_interpreter(&p, interp) &&
                 prove_collector(&p, interp) && prove_threads(&p, interp);
    mem_unmap(p.pages, bytes);
    if (!holds && !p.status) proof_fail(&p, "table", "a part is missing");
    return p.status;
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

/* The nearest table, else another of this minor version and flavour, else one that is made to fit. */
static const layout_t *prove_tables(const rt_t *rt, err_t *e) {
    static layout_t adapted;
    if (!rt_prove_table(rt, rt->layout, e)) return rt->layout;
    for (size_t i = 0; i < layout_table_count; i++) {
        const layout_t *table = &layout_tables[i];
        if (rt_table_distance(rt, table) < 0) continue;
        if (table != rt->layout && !rt_prove_table(rt, table, NULL)) return table;
        if (rt_adapt(rt, table, &adapted) && !rt_prove_table(rt, &adapted, NULL)) return &adapted;
    }
    return NULL;
}

int rt_prove(rt_t *rt, err_t *e) {
    int err = rt_ready(rt, e);
    if (err) return err;
    if (!rt->no_thread && !rt->PyGILState_Check())
        return err_set(e, -EPERM, "rt_prove: the caller does not hold the GIL");
    const layout_t *fits = prove_tables(rt, e);
    if (!fits) return -EBADMSG;
    rt->layout = fits;
    rt->proven = true;
    rt->exact = fits->version == rt->version && rt_claims_agree(rt, fits);
    rt->types.none = rt_type(rt, rt->py_none);
    rt_static_types(rt, (rt_addr_t)rt->PyInterpreterState_Main(), adopt_type, rt);
    return 0;
}
