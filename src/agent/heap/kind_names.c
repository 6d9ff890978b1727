#include "agent/heap/kinds.h"
#include "agent/heap/py_text.h"

enum { NAME_MAX_BYTES = 256 };

/* `__module__`: in the type's dict, or what stands in front of the last dot of a static type's name. */
static size_t name_module(const walk_t *k, rt_addr_t type, char *to, size_t room) {
    const rt_t *rt = k->rt;
    if (rt_type_flags(rt, type) & RT_TPFLAGS_HEAPTYPE) {
        rt_addr_t module = py_dict_get(rt, kind_type_dict(k, type), "__module__");
        if (py_is_str(rt, module)) return py_str_utf8(rt, module, to, room);
    }
    const char *name = (const char *)rt_ptr(type, k->lay->type_name);
    const char *dot = name ? strrchr(name, '.') : NULL;
    if (!dot && rt_type_flags(rt, type) & RT_TPFLAGS_HEAPTYPE) return 0;
    size_t n = dot ? (size_t)(dot - name) : 8;
    if (n > room) n = room;
    memcpy(to, dot ? name : "builtins", n);
    return n;
}

static size_t name_qualname(const walk_t *k, rt_addr_t type, char *to, size_t room) {
    const rt_t *rt = k->rt;
    if (rt_type_flags(rt, type) & RT_TPFLAGS_HEAPTYPE) {
        rt_addr_t name = rt_ptr(type, k->lay->heap_type_qualname);
        if (py_is_str(rt, name)) return py_str_utf8(rt, name, to, room);
    }
    const char *name = (const char *)rt_ptr(type, k->lay->type_name);
    if (!name) return 0;
    const char *dot = strrchr(name, '.');
    if (dot) name = dot + 1;
    size_t n = strlen(name);
    if (n > room) n = room;
    memcpy(to, name, n);
    return n;
}

void kind_names(walk_t *k, rt_addr_t type, uint32_t *module, uint32_t *name) {
    char text[NAME_MAX_BYTES];
    size_t n = name_module(k, type, text, sizeof text);
    *module = n ? rec_string(k->w, text, n) : LOWTIDE_NONE;
    n = name_qualname(k, type, text, sizeof text);
    *name = rec_string(k->w, text, n);
}

size_t kind_full_name(const walk_t *k, rt_addr_t type, char *to, size_t room) {
    size_t n = name_module(k, type, to, room / 2);
    if (n == 8 && memcmp(to, "builtins", 8) == 0) n = 0;
    if (n) to[n++] = '.';
    return n + name_qualname(k, type, to + n, room - n);
}
