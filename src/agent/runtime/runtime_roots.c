#include "agent/runtime/runtime_proof.h"

/* Interpreters, threads, and what their structures hold. */

bool rt_plausible(const rt_t *rt, rt_addr_t object) {
    const layout_t *l = rt->layout;
    rt_addr_t type, metatype;
    uint64_t count, flags;
    if (object & 7 || object < 4096) return false;
    /* The first word of a freed block is the address of another, or 0. */
    if (rt_peek(object + (rt_addr_t)l->object_refcnt, &count, sizeof count) || !count) return false;
    if (rt->minor < 14 && count >> 40) return false;
    if (rt_peek(object + (rt_addr_t)l->object_type, &type, sizeof type) || type & 7) return false;
    if (!type || rt_peek(type + (rt_addr_t)l->object_type, &metatype, sizeof metatype))
        return false;
    return metatype && !(metatype & 7) &&
           !rt_peek(metatype + (rt_addr_t)l->type_flags, &flags, sizeof flags) &&
           flags & RT_TPFLAGS_TYPE_SUBCLASS;
}

/* A structure of the runtime may be read by the table of a near patch release. */
static bool looks_like_object(const rt_t *rt, rt_addr_t object) {
    if (object & 7 || object < 4096) return false;
    return rt->exact || rt_plausible(rt, object);
}

static void tell_object(const rt_t *rt, rt_root_fn tell, void *arg, const char *name, int64_t index,
                        rt_addr_t object, bool borrowed) {
    if (object && looks_like_object(rt, object)) tell(arg, name, index, object, borrowed);
}

/* An array of `count` pointers, `stride` bytes apart. */
static void tell_array(const rt_t *rt, rt_root_fn tell, void *arg, const char *name,
                       rt_addr_t first, int64_t count, int32_t stride) {
    for (int64_t i = 0; i < count; i++)
        tell_object(rt, tell, arg, name, i, rt_ptr(first + (rt_addr_t)(i * stride), 0), false);
}

typedef struct root_field {
    const char *name;
    size_t offset; /* of the field in layout_t */
} root_field_t;

#define ROOT(name, field)                                                                          \
    { name, offsetof(layout_t, field) }

static int32_t root_offset(const rt_t *rt, const root_field_t *f) {
    int32_t v;
    memcpy(&v, (const char *)rt->layout + f->offset, sizeof v);
    return v;
}

static void tell_fields(const rt_t *rt, rt_addr_t base, const root_field_t *fields, size_t n,
                        rt_root_fn tell, void *arg) {
    for (size_t i = 0; i < n; i++) {
        int32_t offset = root_offset(rt, &fields[i]);
        if (rt_has(offset))
            tell_object(rt, tell, arg, fields[i].name, -1, rt_ptr(base, offset), false);
    }
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const root_field_t interp_fields[] = {
    ROOT("modules", interp_modules),
    ROOT("modules_by_index", interp_modules_by_index),
    ROOT("sysdict", interp_sysdict),
    ROOT("builtins", interp_builtins),
    ROOT("importlib", interp_importlib),
    ROOT("import_func", interp_import_func),
    ROOT("lazy_import_func", interp_lazy_import_func),
    ROOT("lazy_imports_filter", interp_lazy_imports_filter),
    ROOT("lazy_modules", interp_lazy_modules),
    ROOT("lazy_pending_submodules", interp_lazy_pending),
    ROOT("dict", interp_dict),
    ROOT("sysdict_copy", interp_sysdict_copy),
    ROOT("builtins_copy", interp_builtins_copy),
    ROOT("codec_search_path", interp_codec_search_path),
    ROOT("codec_search_cache", interp_codec_search_cache),
    ROOT("codec_error_registry", interp_codec_error_registry),
    ROOT("before_forkers", interp_before_forkers),
    ROOT("after_forkers_parent", interp_after_forkers_parent),
    ROOT("after_forkers_child", interp_after_forkers_child),
    ROOT("warnings.filters", interp_warnings_filters),
    ROOT("warnings.once_registry", interp_warnings_once_registry),
    ROOT("warnings.default_action", interp_warnings_default_action),
    ROOT("warnings.context", interp_warnings_context),
    ROOT("audit_hooks", interp_audit_hooks),
    ROOT("errnomap", interp_errnomap),
    ROOT("ExceptionGroup", interp_exception_group),
    ROOT("interpreter_trampoline", interp_trampoline),
    ROOT(RT_ROOT_INTERNED, interp_interned),
    ROOT("str_replace_inf", interp_str_replace_inf),
    ROOT("objreduce", interp_objreduce),
    ROOT("type_slots_pname", interp_type_slots_pname),
    ROOT("generic_type", interp_generic_type),
    ROOT("typevar_type", interp_typevar_type),
    ROOT("typevartuple_type", interp_typevartuple_type),
    ROOT("paramspec_type", interp_paramspec_type),
    ROOT("paramspecargs_type", interp_paramspecargs_type),
    ROOT("paramspeckwargs_type", interp_paramspeckwargs_type),
    ROOT("constevaluator_type", interp_constevaluator_type),
    ROOT("dict_descriptor", interp_dict_descriptor),
    ROOT("weakref_descriptor", interp_weakref_descriptor),
    ROOT("NotShareableError", interp_not_shareable_error),
    ROOT("pickle.dumps", interp_xi_dumps),
    ROOT("pickle.loads", interp_xi_loads),
};

static const root_field_t gc_fields[] = {
    ROOT("gc.garbage", gc_garbage),
    ROOT("gc.callbacks", gc_callbacks),
};

static const root_field_t thread_fields[] = {
    ROOT("dict", thread_dict),
    ROOT("exception being raised", thread_current_exception),
    ROOT("type being raised", thread_current_exception_type),
    ROOT("traceback being raised", thread_current_exception_traceback),
    ROOT("exception being handled", thread_exc_state_value),
    ROOT("profile function", thread_profile_object),
    ROOT("trace function", thread_trace_object),
    ROOT("asynchronous exception", thread_async_exc),
    ROOT("async generator firstiter", thread_async_gen_firstiter),
    ROOT("async generator finalizer", thread_async_gen_finalizer),
    ROOT("context", thread_context),
    ROOT("thread-local key", thread_local_key),
    ROOT("thread-local sentinel", thread_local_sentinel),
    ROOT("running loop", thread_running_loop),
    ROOT("running task", thread_running_task),
    ROOT("lazy imports", thread_lazy_imports),
};

/* Interpreters */

rt_addr_t rt_interp_first(const rt_t *rt) {
    return rt_ptr(rt->runtime, rt->layout->runtime_interpreters_head);
}
rt_addr_t rt_interp_next(const rt_t *rt, rt_addr_t interp) {
    return rt_ptr(interp, rt->layout->interp_next);
}
int64_t rt_interp_id(const rt_t *rt, rt_addr_t interp) {
    return rt_i64(interp, rt->layout->interp_id);
}

static rt_addr_t member(rt_addr_t base, int32_t offset) {
    return base + (rt_addr_t)offset;
}

/* 3.11 to 3.13 keep an array of callbacks; later versions a list of tuples. */
static void tell_atexit(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg) {
    const layout_t *l = rt->layout;
    rt_addr_t callbacks = rt_ptr(interp, l->interp_atexit_callbacks);
    if (!callbacks) return;
    if (!rt_has(l->interp_atexit_count)) {
        tell_object(rt, tell, arg, "atexit callbacks", -1, callbacks, false);
        return;
    }
    int32_t n = rt_i32(interp, l->interp_atexit_count);
    for (int32_t i = 0; i < n; i++) {
        rt_addr_t c = rt_ptr(callbacks + 8 * (rt_addr_t)i, 0);
        if (!c) continue;
        tell_object(rt, tell, arg, "atexit callback", i, rt_ptr(c, l->atexit_func), false);
        tell_object(rt, tell, arg, "atexit arguments", i, rt_ptr(c, l->atexit_args), false);
        tell_object(rt, tell, arg, "atexit keywords", i, rt_ptr(c, l->atexit_kwargs), false);
    }
}

static void tell_unicode_ids(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg) {
    rt_addr_t ids = rt_ptr(interp, rt->layout->interp_unicode_ids_array);
    int64_t n = rt_i64(interp, rt->layout->interp_unicode_ids_size);
    if (ids && n > 0) tell_array(rt, tell, arg, "identifier", ids, n, sizeof(void *));
}

/* One state of a static type: its dict, the dict of its subclasses, its weak references. */
static void tell_static_state(const rt_t *rt, rt_addr_t state, int64_t i, rt_root_fn tell,
                              void *arg) {
    const layout_t *l = rt->layout;
    tell_object(rt, tell, arg, "static type dict", i, rt_ptr(state, l->static_type_dict), false);
    tell_object(rt, tell, arg, "static type subclasses", i,
                rt_ptr(state, l->static_type_subclasses), false);
    tell_object(rt, tell, arg, "static type weak references", i,
                rt_ptr(state, l->static_type_weaklist), true);
}

static void tell_static_states(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg) {
    const layout_t *l = rt->layout;
    if (!rt_has(l->interp_static_types)) return;
    rt_addr_t states = member(interp, l->interp_static_types);
    int64_t n = rt_i64(interp, l->interp_static_types_count);
    for (int64_t i = 0; i < n && i < l->static_types_max; i++)
        tell_static_state(rt, member(states, (int32_t)i * l->static_type_size), i, tell, arg);
    if (!rt_has(l->interp_static_ext_types)) return;
    states = member(interp, l->interp_static_ext_types);
    for (int64_t i = 0; i < l->static_ext_types_max; i++)
        tell_static_state(rt, member(states, (int32_t)i * l->static_type_size), n + i, tell, arg);
}

static void tell_interp_arrays(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg) {
    const layout_t *l = rt->layout;
    int32_t pointer = sizeof(void *);
    if (rt_has(l->interp_monitoring_callables)) {
        tell_array(rt, tell, arg, "monitoring callable",
                   member(interp, l->interp_monitoring_callables),
                   l->interp_monitoring_callables_count, pointer);
        tell_array(rt, tell, arg, "monitoring tool",
                   member(interp, l->interp_monitoring_tool_names),
                   l->interp_monitoring_tool_names_count, pointer);
    }
    if (rt_has(l->interp_common_consts))
        tell_array(rt, tell, arg, "common constant", member(interp, l->interp_common_consts),
                   l->interp_common_consts_count, pointer);
    tell_array(rt, tell, arg, "ast", member(interp, l->interp_ast_types), l->interp_ast_types_count,
               pointer);
    tell_array(rt, tell, arg, "type cache name", member(interp, l->interp_type_cache),
               l->interp_type_cache_count, l->interp_type_cache_stride);
    tell_unicode_ids(rt, interp, tell, arg);
}

void rt_interp_roots(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg) {
    const layout_t *l = rt->layout;
    tell_fields(rt, interp, interp_fields, COUNT(interp_fields), tell, arg);
    tell_fields(rt, member(interp, l->interp_gc), gc_fields, COUNT(gc_fields), tell, arg);
    tell_atexit(rt, interp, tell, arg);
    tell_interp_arrays(rt, interp, tell, arg);
    tell_static_states(rt, interp, tell, arg);
    if (rt_has(l->interp_hamt_empty)) {
        tell_object(rt, tell, arg, "hamt_empty", -1, member(interp, l->interp_hamt_empty), true);
        tell_object(rt, tell, arg, "last_resort_memory_error", -1,
                    member(interp, l->interp_last_resort_memory_error), true);
    }
}

void rt_runtime_roots(const rt_t *rt, rt_root_fn tell, void *arg) {
    const layout_t *l = rt->layout;
    if (!rt_has(l->runtime_signal_handlers)) return;
    tell_array(rt, tell, arg, "signal handler", member(rt->runtime, l->runtime_signal_handlers),
               l->runtime_signal_handlers_count, l->runtime_signal_handlers_stride);
    tell_object(rt, tell, arg, "signal default", -1, rt_ptr(rt->runtime, l->runtime_signal_default),
                false);
    tell_object(rt, tell, arg, "signal ignore", -1, rt_ptr(rt->runtime, l->runtime_signal_ignore),
                false);
}

static void tell_inside(const rt_t *rt, rt_root_fn tell, void *arg, const char *name, int32_t first,
                        int32_t stride, int count) {
    for (int i = 0; i < count; i++)
        tell_object(rt, tell, arg, name, i, member(rt->runtime, first + i * stride), true);
}

void rt_static_objects(const rt_t *rt, rt_root_fn tell, void *arg) {
    const layout_t *l = rt->layout;
    tell_inside(rt, tell, arg, "small int", l->runtime_small_ints, l->runtime_small_ints_stride,
                l->runtime_small_ints_count);
    tell_inside(rt, tell, arg, "empty bytes", l->runtime_bytes_empty, 0, 1);
    tell_inside(rt, tell, arg, "byte", l->runtime_bytes_characters,
                l->runtime_bytes_characters_stride, 256);
    tell_inside(rt, tell, arg, "ASCII character", l->runtime_strings_ascii,
                l->runtime_strings_ascii_stride, 128);
    tell_inside(rt, tell, arg, "Latin-1 character", l->runtime_strings_latin1,
                l->runtime_strings_latin1_stride, 128);
    tell_inside(rt, tell, arg, "empty tuple", l->runtime_tuple_empty, 0, 1);
}

/* Static types */

void rt_static_types(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg) {
    const layout_t *l = rt->layout;
    if (rt_has(l->static_type_type)) {
        int64_t n = rt_i64(interp, l->interp_static_types_count);
        rt_addr_t first = member(interp, l->interp_static_types + l->static_type_type);
        for (int64_t i = 0; i < n && i < l->static_types_max; i++)
            tell_object(rt, tell, arg, "static type", i,
                        rt_ptr(member(first, (int32_t)i * l->static_type_size), 0), true);
        return;
    }
    const rt_addr_t *known = (const rt_addr_t *)&rt->types;
    for (size_t i = 0; i < sizeof rt->types / sizeof *known; i++)
        tell_object(rt, tell, arg, "static type", (int64_t)i, known[i], true);
}

/* Where an interpreter keeps what 3.12 and later moved out of a static type; 0 when the type keeps
 * it itself. */
static rt_addr_t static_state(const rt_t *rt, rt_addr_t interp, rt_addr_t type) {
    const layout_t *l = rt->layout;
    if (!rt_has(l->interp_static_types) ||
        !(rt_type_flags(rt, type) & (uint64_t)l->managed_static_builtin_flag))
        return 0;
    uint64_t index = rt_ptr(type, l->type_subclasses) - 1;
    if (index >= (uint64_t)l->static_types_max) return 0;
    rt_addr_t state = member(interp, l->interp_static_types + (int32_t)index * l->static_type_size);
    if (!rt_has(l->static_type_type) || rt_ptr(state, l->static_type_type) == type) return state;
    if (!rt_has(l->interp_static_ext_types) || index >= (uint64_t)l->static_ext_types_max) return 0;
    state = member(interp, l->interp_static_ext_types + (int32_t)index * l->static_type_size);
    return rt_ptr(state, l->static_type_type) == type ? state : 0;
}

rt_addr_t rt_type_dict(const rt_t *rt, rt_addr_t interp, rt_addr_t type) {
    rt_addr_t state = static_state(rt, interp, type);
    return state ? rt_ptr(state, rt->layout->static_type_dict)
                 : rt_ptr(type, rt->layout->type_dict);
}
/* A static type whose state is not this interpreter's has an index where others have the dict. */
rt_addr_t rt_type_subclasses(const rt_t *rt, rt_addr_t interp, rt_addr_t type) {
    rt_addr_t state = static_state(rt, interp, type);
    if (state) return rt_ptr(state, rt->layout->static_type_subclasses);
    rt_addr_t v = rt_ptr(type, rt->layout->type_subclasses);
    return v < 4096 ? 0 : v;
}
rt_addr_t rt_type_weaklist(const rt_t *rt, rt_addr_t interp, rt_addr_t type) {
    rt_addr_t state = static_state(rt, interp, type);
    return state ? rt_ptr(state, rt->layout->static_type_weaklist)
                 : rt_ptr(type, rt->layout->type_weaklist);
}

/* Objects and the collector */

bool rt_has_gc_head(const rt_t *rt, rt_addr_t object, rt_addr_t type) {
    uint64_t flags = rt_type_flags(rt, type);
    if (!(flags & RT_TPFLAGS_HAVE_GC)) return false;
    if (flags & RT_TPFLAGS_TYPE_SUBCLASS) return rt_type_flags(rt, object) & RT_TPFLAGS_HEAPTYPE;
    rt_addr_t is_gc = rt_ptr(type, rt->layout->type_is_gc);
    return !is_gc || ((int (*)(void *))is_gc)((void *)object);
}

rt_addr_t rt_gc_list(const rt_t *rt, rt_addr_t interp, int n) {
    const layout_t *l = rt->layout;
    const int32_t heads[RT_GC_LISTS] = {l->gc_generation_0, l->gc_generation_1, l->gc_generation_2,
                                        l->gc_permanent};
    return member(interp, l->interp_gc + heads[n]);
}
bool rt_gc_collecting(const rt_t *rt, rt_addr_t interp) {
    return rt_i32(member(interp, rt->layout->interp_gc), rt->layout->gc_collecting) != 0;
}

void rt_gc_watch(const rt_t *rt, rt_addr_t interp, rt_addr_t *collecting, rt_addr_t *counts) {
    rt_addr_t gc = member(interp, rt->layout->interp_gc);
    *collecting = member(gc, rt->layout->gc_collecting);
    *counts = rt->minor < 15 ? member(gc, rt->layout->gc_generation_stats) : 0;
}

bool rt_arenas_huge(const rt_t *rt) {
    int32_t offset = rt->layout->runtime_use_hugepages;
    return rt_has(offset) && rt_i32(rt->runtime, offset) != 0;
}

/* Threads */

static void thread_read(const rt_t *rt, rt_addr_t address, rt_addr_t interp, rt_thread_t *out) {
    const layout_t *l = rt->layout;
    *out = (rt_thread_t){.address = address, .interp = interp};
    if (!address) return;
    out->id = rt_ptr(address, l->thread_unique_id);
    out->ident = rt_ptr(address, l->thread_ident);
    out->native_id = rt_ptr(address, l->thread_native_id);
    out->is_main =
        out->ident == rt_ptr(rt->runtime, l->runtime_main_thread) && rt_interp_id(rt, interp) == 0;
    if (rt_has(l->thread_current_frame)) {
        out->frame = rt_ptr(address, l->thread_current_frame);
        return;
    }
    rt_addr_t cframe = rt_ptr(address, l->thread_cframe);
    out->frame = cframe ? rt_ptr(cframe, l->cframe_current_frame) : 0;
}

void rt_thread_first(const rt_t *rt, rt_addr_t interp, rt_thread_t *out) {
    thread_read(rt, rt_ptr(interp, rt->layout->interp_threads_head), interp, out);
}
void rt_thread_next(const rt_t *rt, rt_thread_t *thread) {
    thread_read(rt, rt_ptr(thread->address, rt->layout->thread_next), thread->interp, thread);
}
void rt_thread_roots(const rt_t *rt, const rt_thread_t *thread, rt_root_fn tell, void *arg) {
    tell_fields(rt, thread->address, thread_fields, COUNT(thread_fields), tell, arg);
}

/* Proof */

static bool prove_fields(proof_t *p, rt_addr_t base, const root_field_t *fields, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int32_t offset;
        rt_addr_t v = 0;
        memcpy(&offset, (const char *)p->l + fields[i].offset, sizeof offset);
        if (!rt_has(offset)) continue;
        if (!proof_get(p, base, offset, &v, sizeof v, fields[i].name)) return false;
        if (v && !proof_is_object(p, v, fields[i].name)) return false;
    }
    return true;
}

static bool prove_array(proof_t *p, rt_addr_t first, int64_t count, int32_t stride,
                        const char *field) {
    if (!proof_expect(p, count > 0 && count <= 1 << 16 && stride > 0, field, "out of range"))
        return false;
    for (int64_t i = 0; i<count; i += count> 512 ? 61 : 1) {
        rt_addr_t v = 0;
        if (!proof_get(p, first + (rt_addr_t)(i * stride), 0, &v, sizeof v, field)) return false;
        if (v && !proof_is_object(p, v, field)) return false;
    }
    return true;
}

/* 3.12 and later: int's state in this interpreter is a dict that has bit_length. */
static bool prove_static_state(proof_t *p, rt_addr_t interp) {
    const layout_t *l = p->l;
    rt_addr_t type = p->rt->types.integer, index = 0, v = 0;
    if (!rt_has(l->interp_static_types)) return true;
    if (!PROOF_GET(p, type, type_subclasses, &index)) return false;
    if (!proof_expect(p, index > 0 && index <= (rt_addr_t)l->static_types_max, "type_subclasses",
                      "of int is no index"))
        return false;
    rt_addr_t state =
        interp + (rt_addr_t)l->interp_static_types + (index - 1) * (rt_addr_t)l->static_type_size;
    return PROOF_GET(p, state, static_type_type, &v) &&
           proof_expect(p, v == type, "interp_static_types", "int is not in its place") &&
           PROOF_GET(p, state, static_type_dict, &v) &&
           proof_dict_find(p, v, "bit_length", "static_type_dict") != 0;
}

bool proof_interp_roots(proof_t *p, rt_addr_t interp) {
    const layout_t *l = p->l;
    if (!prove_fields(p, interp, interp_fields, COUNT(interp_fields))) return false;
    if (!prove_array(p, interp + (rt_addr_t)l->interp_ast_types, l->interp_ast_types_count, 8,
                     "interp_ast_types") ||
        !prove_array(p, interp + (rt_addr_t)l->interp_type_cache, l->interp_type_cache_count,
                     l->interp_type_cache_stride, "interp_type_cache"))
        return false;
    if (rt_has(l->interp_monitoring_callables) &&
        !prove_array(p, interp + (rt_addr_t)l->interp_monitoring_callables,
                     l->interp_monitoring_callables_count, 8, "interp_monitoring_callables"))
        return false;
    if (rt_has(l->runtime_signal_handlers) &&
        !prove_array(p, p->rt->runtime + (rt_addr_t)l->runtime_signal_handlers,
                     l->runtime_signal_handlers_count, l->runtime_signal_handlers_stride,
                     "runtime_signal_handlers"))
        return false;
    return prove_static_state(p, interp);
}

bool proof_thread_roots(proof_t *p, rt_addr_t thread) {
    return prove_fields(p, thread, thread_fields, COUNT(thread_fields));
}
