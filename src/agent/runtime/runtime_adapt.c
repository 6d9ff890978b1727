#include "agent/runtime/runtime_internal.h"

/* Tables for patch releases that nobody has measured.
 *
 * Between patch releases the collector's state has grown and shrunk (3.14.10 has another collector
 * than 3.14.0), and everything behind it in PyInterpreterState moved by as much. From 3.13 on the
 * runtime says where three of those fields are: where all three have moved alike, the others have
 * moved with them. It is a guess, and has to be proven like any table. */

static const struct moved {
    size_t field; /* in layout_t */
    bool of_interp;
} fields[] = {
#define LAYOUT_FIELD(name, type, ...)                                                              \
    {offsetof(layout_t, name), !__builtin_strcmp(#type, "PyInterpreterState")},
#include "agent/runtime/layout_fields.h"
};

/* How far a field of PyInterpreterState is from where the table has it. */
static bool moved_by(const rt_t *rt, int32_t said, int32_t believed, int32_t *by) {
    uint64_t at;
    if (!rt_has(said) || !rt_has(believed)) return false;
    if (rt_peek(rt->runtime + (rt_addr_t)said, &at, sizeof at) || at >= 1 << 24) return false;
    *by = (int32_t)at - believed;
    return true;
}

bool rt_adapt(const rt_t *rt, const layout_t *table, layout_t *out) {
    int32_t gc, modules, sysdict, builtins;
    if (!moved_by(rt, table->debug_interp_gc, table->interp_gc, &gc) ||
        !moved_by(rt, table->debug_interp_modules, table->interp_modules, &modules) ||
        !moved_by(rt, table->debug_interp_sysdict, table->interp_sysdict, &sysdict) ||
        !moved_by(rt, table->debug_interp_builtins, table->interp_builtins, &builtins))
        return false;
    if (gc || !modules || modules != sysdict || modules != builtins) return false;
    *out = *table;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        int32_t offset;
        memcpy(&offset, (const char *)table + fields[i].field, sizeof offset);
        if (!fields[i].of_interp || !rt_has(offset) || offset <= table->interp_gc) continue;
        offset += modules;
        memcpy((char *)out + fields[i].field, &offset, sizeof offset);
    }
    out->version = 0; /* measured with no version's headers */
    out->gc_generation_0_pointer = LAYOUT_ABSENT;
    return true;
}
