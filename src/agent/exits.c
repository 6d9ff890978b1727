#include "agent/exits.h"

#include <string.h>

enum { VARARGS = 1, KEYWORDS = 2 };

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

static bool is_atexits_own(const rt_t *rt, void *function) {
    char name[sizeof "register"];
    if (rt_type(rt, (rt_addr_t)function) != rt->types.cfunction) return false;
    rt_addr_t def = rt_ptr((rt_addr_t)function, rt->layout->cfunction_def);
    return rt_peek(def, &exits.before, sizeof exits.before) == 0 &&
           exits.before.flags == (VARARGS | KEYWORDS) &&
           rt_peek((rt_addr_t)exits.before.name, name, sizeof name) == 0 &&
           memcmp(name, "register", sizeof name) == 0;
}

void exits_begin(const rt_t *rt, void *atexit, void *callback, bool (*wanted)(void)) {
    void *function = rt->PyObject_GetAttrString(atexit, "register"), *ours = NULL;
    void *module = function ? rt->PyObject_GetAttrString(function, "__module__") : NULL;
    if (module && rt->PyObject_SetAttrString && is_atexits_own(rt, function)) {
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
