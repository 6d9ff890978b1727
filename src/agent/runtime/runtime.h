/* The one room that knows how a CPython lays out its memory.
 *
 * One agent serves CPython 3.11 … 3.15, release and debug builds, with the GIL. It includes no
 * Python.h and links with no libpython: functions and types are looked up in the process it finds
 * itself in, and structures are read by *layout tables* of offsets and sizes (layout.h), measured
 * by tools/layouts against each version's own headers. A table is a belief until it has been proven
 * in the target; what does not match is refused in one line that names the field.
 *
 *     rt_find(&rt, &e)        no GIL needed, even before Py_Initialize: is this a Python that we
 * know? rt.PyGILState_Ensure() rt_prove(&rt, &e)       GIL held: choose the table and prove it.
 * Once a process; cheap enough (< 5 ms) to do again. rt_refresh(&rt)         GIL held, before each
 * fork: which libraries are loaded now (takes the loader's lock) … fork …                from here
 * on nothing below allocates, locks, calls Python or touches a reference count for (i =
 * rt_interp_first(&rt); i; i = rt_interp_next(&rt, i)) …
 *
 * Addresses in the target are rt_addr_t: integers, read with rt_ptr() and its kin at an offset of
 * the layout. They are read directly (the walker lives in the process or in its forked image);
 * where an address may be wrong, rt_peek() reads without ever faulting. Everything here is for one
 * thread at a time; rt_t belongs to the caller.
 */
#ifndef LOWTIDE_AGENT_RUNTIME_H
#define LOWTIDE_AGENT_RUNTIME_H

#include "agent/runtime/layout.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uintptr_t rt_addr_t;

/* Symbols.
 *
 * RT_FUNCTIONS: F(name, result, arguments, needed). One that is not needed is NULL where the
 * version lacks it. RT_TYPES: addresses of static type objects, T(name, symbol); 0 where the
 * version lacks it or does not export it. */
#define RT_FUNCTIONS(F)                                                                            \
    F(Py_GetVersion, const char *, (void), 1)                                                      \
    F(Py_IsInitialized, int, (void), 1)                                                            \
    F(Py_IsFinalizing, int, (void), 0)  /* 3.13+ */                                                \
    F(_Py_IsFinalizing, int, (void), 0) /* before */                                               \
    F(PyGILState_Ensure, int, (void), 1)                                                           \
    F(PyGILState_Release, void, (int), 1)                                                          \
    F(PyGILState_Check, int, (void), 1)                                                            \
    F(PyGILState_GetThisThreadState, void *, (void), 1)                                            \
    F(PyEval_SaveThread, void *, (void), 1)                                                        \
    F(PyEval_RestoreThread, void, (void *), 1)                                                     \
    F(PyThreadState_Get, void *, (void), 1)                                                        \
    F(PyInterpreterState_Main, void *, (void), 1)                                                  \
    F(PySys_AddAuditHook, int, (int (*)(const char *, void *, void *), void *), 1)                 \
    F(Py_AtExit, int, (void (*)(void)), 1)                                                         \
    F(Py_AddPendingCall, int, (int (*)(void *), void *), 1)                                        \
    F(PyImport_ImportModule, void *, (const char *), 1)                                            \
    F(PyObject_GetAttrString, void *, (void *, const char *), 1)                                   \
    F(PyObject_SetAttrString, int, (void *, const char *, void *), 0)                              \
    F(PyLong_FromLong, void *, (long), 0)                                                          \
    F(PyLong_AsLong, long, (void *), 0)                                                            \
    F(PyObject_CallFunctionObjArgs, void *, (void *, ...), 1)                                      \
    F(PyCFunction_NewEx, void *, (void *, void *, void *), 1)                                      \
    F(PyErr_Clear, void, (void), 1)                                                                \
    F(PyErr_Occurred, void *, (void), 1)                                                           \
    F(PyErr_GetRaisedException, void *, (void), 0) /* 3.12+ */                                     \
    F(PyErr_SetRaisedException, void, (void *), 0)                                                 \
    F(PyErr_Fetch, void, (void **, void **, void **), 1)                                           \
    F(PyErr_Restore, void, (void *, void *, void *), 1)                                            \
    F(Py_DecRef, void, (void *), 1)                                                                \
    F(Py_IncRef, void, (void *), 1)                                                                \
    F(PyCompile_OpcodeStackEffectWithJump, int, (int, int, int), 1)                                \
    F(PyMem_GetAllocator, void, (int, void *), 0)                                                  \
    F(PyMem_SetAllocator, void, (int, void *), 0)                                                  \
    F(PyObject_GetArenaAllocator, void, (void *), 0)                                               \
    F(PyObject_SetArenaAllocator, void, (void *), 0)                                               \
    F(_PyMem_GetCurrentAllocatorName, const char *, (void), 0)                                     \
    F(PyThreadState_GetUnchecked, void *, (void), 0)  /* 3.13+ */                                  \
    F(_PyThreadState_UncheckedGet, void *, (void), 0) /* before */                                 \
    F(PyRefTracer_GetTracer, void *, (void **), 0)    /* 3.13+ */                                  \
    F(PyRefTracer_SetTracer, int, (int (*)(void *, int, void *), void *), 0)

#define RT_TYPES(T)                                                                                \
    T(object, PyBaseObject_Type)                                                                   \
    T(type, PyType_Type)                                                                           \
    T(none, _PyNone_Type)                                                                          \
    T(boolean, PyBool_Type)                                                                        \
    T(integer, PyLong_Type)                                                                        \
    T(real, PyFloat_Type)                                                                          \
    T(complex_number, PyComplex_Type)                                                              \
    T(str, PyUnicode_Type)                                                                         \
    T(bytes, PyBytes_Type)                                                                         \
    T(bytearray, PyByteArray_Type)                                                                 \
    T(memoryview, PyMemoryView_Type)                                                               \
    T(tuple, PyTuple_Type)                                                                         \
    T(list, PyList_Type)                                                                           \
    T(dict, PyDict_Type)                                                                           \
    T(ordered_dict, PyODict_Type)                                                                  \
    T(mapping_proxy, PyDictProxy_Type)                                                             \
    T(set, PySet_Type)                                                                             \
    T(frozenset, PyFrozenSet_Type)                                                                 \
    T(slice, PySlice_Type)                                                                         \
    T(range, PyRange_Type)                                                                         \
    T(module, PyModule_Type)                                                                       \
    T(function, PyFunction_Type)                                                                   \
    T(code, PyCode_Type)                                                                           \
    T(cell, PyCell_Type)                                                                           \
    T(frame, PyFrame_Type)                                                                         \
    T(traceback, PyTraceBack_Type)                                                                 \
    T(generator, PyGen_Type)                                                                       \
    T(coroutine, PyCoro_Type)                                                                      \
    T(async_generator, PyAsyncGen_Type)                                                            \
    T(method, PyMethod_Type)                                                                       \
    T(instance_method, PyInstanceMethod_Type)                                                      \
    T(cfunction, PyCFunction_Type)                                                                 \
    T(cmethod, PyCMethod_Type)                                                                     \
    T(class_method, PyClassMethod_Type)                                                            \
    T(static_method, PyStaticMethod_Type)                                                          \
    T(property, PyProperty_Type)                                                                   \
    T(super, PySuper_Type)                                                                         \
    T(member_descr, PyMemberDescr_Type)                                                            \
    T(getset_descr, PyGetSetDescr_Type)                                                            \
    T(method_descr, PyMethodDescr_Type)                                                            \
    T(class_method_descr, PyClassMethodDescr_Type)                                                 \
    T(wrapper_descr, PyWrapperDescr_Type)                                                          \
    T(method_wrapper, _PyMethodWrapper_Type)                                                       \
    T(weak_reference, _PyWeakref_RefType)                                                          \
    T(weak_proxy, _PyWeakref_ProxyType)                                                            \
    T(weak_callable_proxy, _PyWeakref_CallableProxyType)                                           \
    T(capsule, PyCapsule_Type)                                                                     \
    T(context, PyContext_Type)                                                                     \
    T(context_var, PyContextVar_Type)                                                              \
    T(context_token, PyContextToken_Type)                                                          \
    T(generic_alias, Py_GenericAliasType)                                                          \
    T(base_exception, PyExc_BaseException)

#define RT_SYMBOL_FUNCTION(name, result, arguments, needed) result(*name) arguments;
#define RT_SYMBOL_TYPE(name, symbol)                        rt_addr_t name;

typedef struct rt_range {
    rt_addr_t begin, end;
    uint32_t kind; /* rt_range_kind */
} rt_range_t;

enum rt_range_kind {
    RT_RANGE_CORE_TEXT = 1, /* code of the object that is Python, or of a lib-dynload extension */
    RT_RANGE_DATA = 2,      /* static data of any loaded object */
};

#define RT_RANGES_MAX 8192

typedef struct rt {
    const layout_t *layout; /* NULL until rt_find has chosen one; proven after rt_prove */
    uint32_t version;       /* PY_VERSION_HEX of the target */
    int minor;              /* 11 … 15 */
    bool debug;
    bool proven;
    bool
        exact; /* by the very table of its version; else roots are looked at before they are told */
    bool no_thread; /* set by the caller: it holds the GIL without a thread state (agent/gil.h) */
    char version_text[32]; /* "3.13.0", "3.14.10 (debug)" */

    rt_addr_t runtime; /* _PyRuntime */
    rt_addr_t py_none; /* _Py_NoneStruct */
    rt_addr_t py_true, py_false;
    RT_FUNCTIONS(RT_SYMBOL_FUNCTION)
    struct {
        RT_TYPES(RT_SYMBOL_TYPE)
    } types;

    rt_range_t *ranges; /* sorted by begin; mapped, of RT_RANGES_MAX */
    uint32_t range_count;
} rt_t;

/* Finds Python among the loaded objects and chooses the table nearest to its version. Refuses with
 * one line and -ENOSYS: not a Python process; a version, free-threaded or otherwise unknown build
 * that no table is for. */
int rt_find(rt_t *rt, err_t *e);

/* 0 when Python runs; -EAGAIN with a line when it is not initialised yet or is shutting down. */
int rt_ready(const rt_t *rt, err_t *e);

/* The caller holds the GIL. Reads known objects through the table, every pointer with rt_peek, and
 * refuses with -EBADMSG and a line that names the field that does not match. Where several tables
 * are for this minor version each is tried, nearest first. */
int rt_prove(rt_t *rt, err_t *e);

/* Looks at the loaded objects again. Takes the dynamic loader's lock: before the fork, never in the
 * child. */
int rt_refresh(rt_t *rt, err_t *e);

void rt_close(rt_t *rt);

/* Reading */

/* Copies n bytes from an address that may not be mapped: 0, or -EFAULT. One system call; never a
 * signal. */
int rt_peek(rt_addr_t from, void *to, size_t n);

static inline bool rt_has(int32_t offset) {
    return offset != LAYOUT_ABSENT;
}

static inline rt_addr_t rt_ptr(rt_addr_t base, int32_t offset) {
    rt_addr_t v;
    memcpy(&v, (const char *)base + offset, sizeof v);
    return v;
}
static inline int64_t rt_i64(rt_addr_t base, int32_t offset) {
    int64_t v;
    memcpy(&v, (const char *)base + offset, sizeof v);
    return v;
}
static inline int32_t rt_i32(rt_addr_t base, int32_t offset) {
    int32_t v;
    memcpy(&v, (const char *)base + offset, sizeof v);
    return v;
}
static inline uint8_t rt_u8(rt_addr_t base, int32_t offset) {
    return *((const uint8_t *)base + offset);
}
/* A bit field measured with LAYOUT_BITS: the offset of its first bit in the structure and its
 * width. */
static inline uint32_t rt_bits(rt_addr_t base, int32_t field) {
    uint32_t bit = (uint32_t)field & 0xffffff, width = (uint32_t)field >> 24;
    uint64_t v;
    memcpy(&v, (const char *)base + bit / 32 * 4, sizeof v);
    return (uint32_t)(v >> bit % 32 & ((1ull << width) - 1));
}

/* Objects */

static inline rt_addr_t rt_type(const rt_t *rt, rt_addr_t object) {
    return rt_ptr(object, rt->layout->object_type);
}
static inline uint64_t rt_type_flags(const rt_t *rt, rt_addr_t type) {
    return (uint64_t)rt_i64(type, rt->layout->type_flags);
}
#define RT_TPFLAGS_INLINE_VALUES   (1ull << 2) /* 3.13+ */
#define RT_TPFLAGS_MANAGED_WEAKREF (1ull << 3) /* 3.12+ */
#define RT_TPFLAGS_MANAGED_DICT    (1ull << 4)
#define RT_TPFLAGS_HEAPTYPE        (1ull << 9)
#define RT_TPFLAGS_HAVE_GC         (1ull << 14)
#define RT_TPFLAGS_LONG_SUBCLASS   (1ull << 24)
#define RT_TPFLAGS_LIST_SUBCLASS   (1ull << 25)
#define RT_TPFLAGS_TUPLE_SUBCLASS  (1ull << 26)
#define RT_TPFLAGS_BYTES_SUBCLASS  (1ull << 27)
#define RT_TPFLAGS_STR_SUBCLASS    (1ull << 28)
#define RT_TPFLAGS_DICT_SUBCLASS   (1ull << 29)
#define RT_TPFLAGS_EXC_SUBCLASS    (1ull << 30)
#define RT_TPFLAGS_TYPE_SUBCLASS   (1ull << 31)

/* The reference count; 0 for an immortal object. */
static inline uint64_t rt_refcount(const rt_t *rt, rt_addr_t object) {
    int64_t v = rt_i64(object, rt->layout->object_refcnt);
    if (rt->minor < 12) return (uint64_t)v;
    if ((int32_t)v < 0) return 0;
    return rt->minor < 14 ? (uint64_t)v : (uint64_t)(uint32_t)v;
}

/* Is there a GC head in front of this object? (Calls tp_is_gc where a type other than `type` has
 * its own: C code that the collector itself calls during a collection.) */
bool rt_has_gc_head(const rt_t *rt, rt_addr_t object, rt_addr_t type);

/* Bytes in front of the object that belong to its block: GC head, managed dict and weakref slots.
 * (The debug allocator's fences are the allocator's.) The block begins at object − this. */
static inline size_t rt_pre_header(const rt_t *rt, rt_addr_t object, rt_addr_t type) {
    uint64_t flags = rt_type_flags(rt, type);
    uint64_t pre = RT_TPFLAGS_MANAGED_DICT | (rt->minor >= 12 ? RT_TPFLAGS_MANAGED_WEAKREF : 0);
    return (rt_has_gc_head(rt, object, type) ? (size_t)rt->layout->gc_head_size : 0) +
           (flags & pre ? 2 * sizeof(void *) : 0);
}

/* The three dicts that 3.12 and later keep on the interpreter for static builtin types: tp_dict,
 * tp_subclasses, tp_weaklist of a type in an interpreter; 0 where there is none. For other types,
 * and on 3.11, they are read from the type itself. */
rt_addr_t rt_type_dict(const rt_t *rt, rt_addr_t interp, rt_addr_t type);
rt_addr_t rt_type_subclasses(const rt_t *rt, rt_addr_t interp, rt_addr_t type);
rt_addr_t rt_type_weaklist(const rt_t *rt, rt_addr_t interp, rt_addr_t type);

/* Does an address lie in the code of the python executable, libpython or a lib-dynload extension?
 * Only such C functions are called. */
bool rt_symbol_in_core(const rt_t *rt, rt_addr_t address);
/* Does it lie in the static data of a loaded object (so it owns no heap block)? */
bool rt_is_static(const rt_t *rt, rt_addr_t address);

/* Are pymalloc's arenas MAP_HUGETLB pages (3.15, PYTHON_PYMALLOC_HUGEPAGES)? Then a forked child
 * may die of SIGBUS: walk in place. */
bool rt_arenas_huge(const rt_t *rt);

/* The collector's lists.
 *
 * Each interpreter has RT_GC_LISTS rings of PyGC_Head: generations 0, 1, 2 (young, old, old on an
 * incremental collector) and the permanent one (gc.freeze()). The ring's own head is no object.
 *
 *     rt_addr_t head = rt_gc_list(rt, interp, n);
 *     for (g = rt_gc_next(rt, head); g != head; g = rt_gc_next(rt, g)) object = rt_from_gc(rt, g);
 *
 * Objects that a running collection has moved to its own lists on the C stack are in no ring: the
 * collector runs to its end with the GIL except where it calls finalizers, weakref callbacks and
 * gc.callbacks; see rt_gc_collecting. */
enum { RT_GC_FROZEN = 3, RT_GC_LISTS = 4 };
rt_addr_t rt_gc_list(const rt_t *rt, rt_addr_t interp, int n);
bool rt_gc_collecting(const rt_t *rt, rt_addr_t interp);
/* Where it says so, and where it counts its collections: three 64-bit counts for each of three generations, the first of them of
 * collections; 0 where that is kept otherwise (3.15). */
void rt_gc_watch(const rt_t *rt, rt_addr_t interp, rt_addr_t *collecting, rt_addr_t *counts);

static inline rt_addr_t rt_gc_next(const rt_t *rt, rt_addr_t gc) {
    return rt_ptr(gc, rt->layout->gc_head_next) & ~(rt_addr_t)3;
}
static inline rt_addr_t rt_gc_prev(const rt_t *rt, rt_addr_t gc) {
    return rt_ptr(gc, rt->layout->gc_head_prev) & ~(rt_addr_t)3;
}
static inline rt_addr_t rt_from_gc(const rt_t *rt, rt_addr_t gc) {
    return gc + (rt_addr_t)rt->layout->gc_head_size;
}
/* For objects with a GC head only. */
static inline rt_addr_t rt_as_gc(const rt_t *rt, rt_addr_t object) {
    return object - (rt_addr_t)rt->layout->gc_head_size;
}
static inline bool rt_gc_tracked(const rt_t *rt, rt_addr_t object) {
    return rt_ptr(rt_as_gc(rt, object), rt->layout->gc_head_next) != 0;
}
/* Has tp_finalize run? */
static inline bool rt_gc_finalized(const rt_t *rt, rt_addr_t object) {
    return rt_ptr(rt_as_gc(rt, object), rt->layout->gc_head_prev) & 1;
}

/* Interpreters */

rt_addr_t rt_interp_first(const rt_t *rt); /* newest first, as CPython links them */
rt_addr_t rt_interp_next(const rt_t *rt, rt_addr_t interp);
int64_t rt_interp_id(const rt_t *rt, rt_addr_t interp); /* 0: the main one */

/* Tells one reference that a C structure holds. name: a C string that lives as long as the program
 * ("modules", "atexit callback", "tp_dict"). index: place in an array, or -1. borrowed: counts in
 * no reference count. */
typedef void (*rt_root_fn)(void *arg, const char *name, int64_t index, rt_addr_t object,
                           bool borrowed);

/* The dict of interned strings is told under this name (3.12 and later; 3.11 has no way to find
 * it). Of what it holds neither key nor value counts in a mortal string's reference count: its
 * references are borrowed. */
#define RT_ROOT_INTERNED "interned strings"

/* What the interpreter holds: sys.modules, builtins, sysdict, importlib, codec registries, atexit
 * callbacks, interned strings, type cache, per-interpreter dicts of static types, warnings, fork
 * hooks, monitoring, gc.garbage, cached objects … NULLs are not told. */
void rt_interp_roots(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg);
/* What the whole process holds outside any interpreter (signal handlers, caches of _PyRuntime). */
void rt_runtime_roots(const rt_t *rt, rt_root_fn tell, void *arg);
/* Objects that lie inside _PyRuntime and that nothing need refer to: small ints, single characters
 * and bytes, empty tuple and bytes. Told as borrowed. Static builtin types (rt_types_roots tells
 * those of an interpreter: name "static type", index). */
void rt_static_objects(const rt_t *rt, rt_root_fn tell, void *arg);
void rt_static_types(const rt_t *rt, rt_addr_t interp, rt_root_fn tell, void *arg);

/* Threads */

typedef struct rt_thread {
    rt_addr_t address; /* PyThreadState; 0: no more */
    rt_addr_t interp;
    uint64_t id;        /* unique in its interpreter, in order of creation */
    uint64_t ident;     /* threading.get_ident(); 0 when not bound yet */
    uint64_t native_id; /* Linux TID */
    rt_addr_t frame;    /* current frame, for rt_frame_read; 0: none */
    bool is_main;       /* runs the interpreter's main thread */
} rt_thread_t;

/* Newest first. The agent's own thread is among them: tell it by native_id. */
void rt_thread_first(const rt_t *rt, rt_addr_t interp, rt_thread_t *out);
void rt_thread_next(const rt_t *rt, rt_thread_t *thread);
/* What the thread state holds: dict, exception being raised and handled, context, trace and profile
 * functions, async generator hooks, running loop and task … Frames are not among them. */
void rt_thread_roots(const rt_t *rt, const rt_thread_t *thread, rt_root_fn tell, void *arg);

/* Frames.
 *
 *     _PyInterpreterFrame   specials │ localsplus[0 … nlocalsplus) │ evaluation stack, stack_count live
 *                                      locals, cells, free vars
 *
 * Sits on the thread's data stack, inside a generator (gi_iframe) or inside a frame object. In 3.14
 * and later slots are _PyStackRef: the low bits of a slot say whether it owns its reference.
 * rt_frame_slot() takes that apart. */

enum rt_frame_owner { RT_FRAME_THREAD, RT_FRAME_GENERATOR, RT_FRAME_OBJECT };

typedef struct rt_frame {
    rt_addr_t address;      /* 0: no more */
    rt_addr_t previous;     /* caller's frame (any kind), or 0 */
    rt_addr_t code;         /* PyCodeObject */
    rt_addr_t function;     /* PyFunctionObject, or 0 */
    rt_addr_t globals;      /* always borrowed (from the function) */
    rt_addr_t builtins;     /* always borrowed */
    rt_addr_t locals;       /* the dict of class bodies and module level; owned; or 0 */
    rt_addr_t frame_object; /* owned; or 0 */
    rt_addr_t localsplus;   /* address of slot 0 */
    int32_t nlocalsplus;
    int32_t stack_count; /* live values on the evaluation stack; −1: not known */
    bool stack_derived;  /* stack_count comes from the bytecode: slots that hold no object are 0 */
    uint8_t owner;       /* rt_frame_owner */
    bool code_borrowed, function_borrowed;
    bool complete; /* false: still being set up */
} rt_frame_t;

typedef struct rt_slot {
    rt_addr_t object; /* 0: empty (or a tagged integer) */
    bool borrowed;
} rt_slot_t;

/* Reads the first Python frame at or below `address`: entry shims between C and Python are passed
 * over. Sets out->address to 0 when there is none. */
void rt_frame_read(const rt_t *rt, rt_addr_t address, rt_frame_t *out);
static inline void rt_frame_next(const rt_t *rt, rt_frame_t *frame) {
    rt_frame_read(rt, frame->previous, frame);
}
/* n in 0 … nlocalsplus + stack_count − 1. */
rt_slot_t rt_frame_slot(const rt_t *rt, const rt_frame_t *frame, int32_t n);
/* Line being executed; the function's first line when it cannot be told. */
int32_t rt_frame_line(const rt_t *rt, const rt_frame_t *frame);
/* Line of the unit-th code unit (2 bytes) of a code object; its first line where the unit has none. */
int32_t rt_code_line(const rt_t *rt, rt_addr_t code, int64_t unit);
/* The same, but `none` where the unit has none. */
int32_t rt_code_line_or(const rt_t *rt, rt_addr_t code, int64_t unit, int32_t none);

/* Name (a str) of slot n of a code object's localsplus, or 0. */
rt_addr_t rt_code_local_name(const rt_t *rt, rt_addr_t code, int32_t n);
/* CO_FAST_LOCAL 0x20, CO_FAST_CELL 0x40, CO_FAST_FREE 0x80, CO_FAST_HIDDEN 0x10. */
uint8_t rt_code_local_kind(const rt_t *rt, rt_addr_t code, int32_t n);
enum { RT_LOCAL_HIDDEN = 0x10, RT_LOCAL_PLAIN = 0x20, RT_LOCAL_CELL = 0x40, RT_LOCAL_FREE = 0x80 };

/* The frame inside a generator, coroutine or async generator: 1 and *out, or 0 when it has
 * finished. A running one's frame is also on its thread's chain (owner RT_FRAME_GENERATOR): it owns
 * its references once, here. */
int rt_generator_frame(const rt_t *rt, rt_addr_t generator, rt_frame_t *out);
bool rt_generator_running(const rt_t *rt, rt_addr_t generator);
/* The generator that a frame lies in (owner RT_FRAME_GENERATOR). */
static inline rt_addr_t rt_frame_generator(const rt_t *rt, const rt_frame_t *frame) {
    return frame->address - (rt_addr_t)rt->layout->gen_iframe;
}
/* The frame inside or behind a frame object: 1, or 0 when it has been cleared. *owned says whether
 * the frame object itself owns it (else a thread or a generator does). */
int rt_frame_object_frame(const rt_t *rt, rt_addr_t frame_object, rt_frame_t *out, bool *owned);

#endif
