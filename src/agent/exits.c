#define _GNU_SOURCE
#include "agent/exits.h"

#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { VARARGS = 1, KEYWORDS = 2, NOARGS = 4, FASTCALL = 128, NAME_MOST = 16 };

/* PyMethodDef of a function that takes keywords. */
typedef struct method_def {
    const char *name;
    void *(*call)(void *self, void *args, void *keywords);
    int flags;
    const char *doc;
} method_def_t;

typedef void *call_t(void *self, void *args, void *keywords);
static call_t add, count, clear, run;

/* Functions of atexit that ours stand in for, under the same names. */
enum { REGISTER, COUNT, CLEAR, RUN, STAND_INS };
static struct stand_in {
    const char *name;
    int flags;
    call_t *ours;
    method_def_t def, before; /* ours, and atexit's own */
} stand_ins[STAND_INS] = {
    [REGISTER] = {.name = "register", .flags = VARARGS | KEYWORDS, .ours = add},
    [COUNT] = {.name = "_ncallbacks", .flags = NOARGS, .ours = count},
    [CLEAR] = {.name = "_clear", .flags = NOARGS, .ours = clear},
    [RUN] = {.name = "_run_exitfuncs", .flags = NOARGS, .ours = run},
};

static struct {
    const rt_t *rt;
    void *registers, *callback;
    bool (*wanted)(void);
    int count; /* ever registered */
    int there; /* of ours in atexit's list: those, and the one before exits_begin */
} exits;

static void *real(int which, void *self, void *args, void *keywords) {
    return stand_ins[which].before.call(self, args, keywords);
}

static void put_ours_last(void) {
    if (!exits.callback || exits.count >= EXITS_MOST || !exits.wanted()) return;
    exits.count++;
    void *again = exits.rt->PyObject_CallFunctionObjArgs(exits.registers, exits.callback, NULL);
    if (again) {
        exits.there++;
        exits.rt->Py_DecRef(again);
    } else {
        exits.rt->PyErr_Clear(); /* no memory: what is registered is called all the same */
    }
}

static void *add(void *self, void *args, void *keywords) {
    void *done = real(REGISTER, self, args, keywords);
    if (done) put_ours_last();
    return done;
}

static void *count(void *self, void *args, void *unused) {
    void *all = real(COUNT, self, args, unused), *theirs;
    if (!all) return NULL;
    theirs = exits.rt->PyLong_FromLong(exits.rt->PyLong_AsLong(all) - exits.there);
    exits.rt->Py_DecRef(all);
    return theirs;
}

static void *clear(void *self, void *args, void *unused) {
    void *done = real(CLEAR, self, args, unused);
    exits.there = 0;
    if (done) put_ours_last();
    return done;
}

static void *run(void *self, void *args, void *unused) {
    void *done = real(RUN, self, args, unused);
    exits.there = 0;
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

/* Whether it does. Else nothing has changed. */
static bool stand_in(const rt_t *rt, void *atexit, void *module, struct stand_in *s) {
    void *function = rt->PyObject_GetAttrString(atexit, s->name), *ours = NULL;
    if (function && read_own(rt, function, s->name, s->flags, &s->before)) {
        s->def = s->before;
        s->def.call = s->ours;
        ours = rt->PyCFunction_NewEx(&s->def, atexit, module);
    }
    bool done = ours && rt->PyObject_SetAttrString(atexit, s->name, ours) == 0;
    if (function) rt->Py_DecRef(function);
    if (ours) rt->Py_DecRef(ours);
    return done;
}

void exits_begin(const rt_t *rt, void *atexit, void *callback, bool (*wanted)(void)) {
    void *function = rt->PyObject_GetAttrString(atexit, "register");
    void *module = function ? rt->PyObject_GetAttrString(function, "__module__") : NULL;
    bool may = module && rt->PyObject_SetAttrString;
    if (may && stand_in(rt, atexit, module, &stand_ins[REGISTER])) {
        exits.rt = rt;
        exits.wanted = wanted;
        exits.there = 1;
        rt->Py_IncRef(exits.registers = function);
        rt->Py_IncRef(exits.callback = callback);
        bool clears = stand_in(rt, atexit, module, &stand_ins[CLEAR]) &&
                      stand_in(rt, atexit, module, &stand_ins[RUN]);
        if (clears && rt->PyLong_AsLong && rt->PyLong_FromLong)
            stand_in(rt, atexit, module, &stand_ins[COUNT]);
    }
    rt->PyErr_Clear();
    if (function) rt->Py_DecRef(function);
    if (module) rt->Py_DecRef(module);
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
