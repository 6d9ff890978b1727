#define _GNU_SOURCE
#include "agent/exits.h"

#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { VARARGS = 1, KEYWORDS = 2, FASTCALL = 128, NAME_MOST = 16 };

/* PyMethodDef of a function that takes keywords. */
typedef struct method_def {
    const char *name;
    void *(*call)(void *self, void *args, void *keywords);
    int flags;
    const char *doc;
} method_def_t;

static struct {
    const rt_t *rt;
    method_def_t def, before; /* ours, and atexit's own */
    void *registers, *callback;
    bool (*wanted)(void);
    int count;
} exits;

static void *add(void *self, void *args, void *keywords) {
    void *done = exits.before.call(self, args, keywords);
    if (!done || !exits.callback || exits.count >= EXITS_MOST || !exits.wanted()) return done;
    exits.count++;
    void *again = exits.rt->PyObject_CallFunctionObjArgs(exits.registers, exits.callback, NULL);
    if (again)
        exits.rt->Py_DecRef(again);
    else
        exits.rt->PyErr_Clear(); /* no memory: what is registered is called all the same */
    return done;
}

/* Where its definition lies; 0 where it is not what it is in CPython. */
static rt_addr_t read_own(const rt_t *rt, void *function, const char *name, int flags,
                          method_def_t *out) {
    char there[NAME_MOST];
    size_t n = strlen(name) + 1;
    if (rt_type(rt, (rt_addr_t)function) != rt->types.cfunction) return 0;
    rt_addr_t def = rt_ptr((rt_addr_t)function, rt->layout->cfunction_def);
    bool same = rt_peek(def, out, sizeof *out) == 0 && out->flags == flags &&
                rt_peek((rt_addr_t)out->name, there, n) == 0 && memcmp(there, name, n) == 0;
    return same ? def : 0;
}

void exits_begin(const rt_t *rt, void *atexit, void *callback, bool (*wanted)(void)) {
    void *function = rt->PyObject_GetAttrString(atexit, "register"), *ours = NULL;
    void *module = function ? rt->PyObject_GetAttrString(function, "__module__") : NULL;
    if (module && rt->PyObject_SetAttrString &&
        read_own(rt, function, "register", VARARGS | KEYWORDS, &exits.before)) {
        exits.def = exits.before;
        exits.def.call = add;
        ours = rt->PyCFunction_NewEx(&exits.def, atexit, module);
    }
    if (ours && rt->PyObject_SetAttrString(atexit, "register", ours) == 0) {
        exits.rt = rt;
        exits.wanted = wanted;
        rt->Py_IncRef(exits.registers = function);
        rt->Py_IncRef(exits.callback = callback);
    }
    rt->PyErr_Clear();
    void *const made[] = {function, module, ours};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        if (made[i]) rt->Py_DecRef(made[i]);
}

/* Not given back: who ends the process may be in another interpreter, whose allocator does not know them. */
void exits_end(void) {
    exits.callback = NULL;
}

/* ── os._exit ── */

typedef void *leave_t(void *self, void *const *args, ptrdiff_t count, void *names);

static leave_t *real_leave;
static __thread bool leaving __attribute__((tls_model("initial-exec")));

/* It comes back where what it was given is no status. */
static void *leave(void *self, void *const *args, ptrdiff_t count, void *names) {
    leaving = true;
    void *failed = real_leave(self, args, count, names);
    leaving = false;
    return failed;
}

void exits_watch_leave(const rt_t *rt, void *posix) {
    void *function = rt->PyObject_GetAttrString(posix, "_exit");
    leave_t *ours = leave;
    method_def_t own;
    rt_addr_t def = function ? read_own(rt, function, "_exit", FASTCALL | KEYWORDS, &own) : 0;
    if (def) {
        struct iovec from = {&ours, sizeof ours},
                     to = {(char *)def + offsetof(method_def_t, call), sizeof ours};
        real_leave = (leave_t *)(void (*)(void))own.call;
        process_vm_writev(getpid(), &from, 1, &to, 1, 0); /* never faults */
    }
    if (function) rt->Py_DecRef(function);
    rt->PyErr_Clear();
}

bool exits_leaving(void) {
    return leaving;
}
