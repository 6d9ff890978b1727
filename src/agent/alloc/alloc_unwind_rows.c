#include "agent/alloc/alloc_unwind_rows.h"

#include <stdbool.h>
#include <string.h>

enum { REG_RBP = 6, REG_RSP = 7, REG_RETURN = 16, REMEMBERED_MAX = 8 };
enum { BREG_RBP = 0x76, DEREF = 0x06 };

/* ── Reading: what would leave the library reads as 0, and the cursor is bad from there on ── */

typedef struct cursor {
    const uint8_t *at, *end;
    bool bad;
} cursor_t;

static uint64_t take(cursor_t *c, size_t bytes) {
    uint64_t v = 0;
    if (c->bad || (size_t)(c->end - c->at) < bytes) {
        c->bad = true;
        return 0;
    }
    memcpy(&v, c->at, bytes);
    c->at += bytes;
    return v;
}

static void skip(cursor_t *c, uint64_t bytes) {
    if (c->bad || (uint64_t)(c->end - c->at) < bytes)
        c->bad = true;
    else
        c->at += bytes;
}

static uint64_t take_leb(cursor_t *c, bool is_signed) {
    uint64_t v = 0;
    int shift = 0;
    for (;;) {
        uint8_t byte = (uint8_t)take(c, 1);
        if (shift < 64) v |= (uint64_t)(byte & 127) << shift;
        shift += 7;
        if (byte & 128) continue;
        if (is_signed && byte & 64 && shift < 64) v |= ~0ull << shift;
        return v;
    }
}

static uint64_t take_uleb(cursor_t *c) {
    return take_leb(c, false);
}
static int64_t take_sleb(cursor_t *c) {
    return (int64_t)take_leb(c, true);
}

/* A pointer in one of the encodings that linkers write: absolute, or relative to its own place. */
static uintptr_t take_pointer(cursor_t *c, uint8_t encoding) {
    uintptr_t here = (uintptr_t)c->at, v = 0;
    switch (encoding & 15) {
    case 0x00:
    case 0x04:
    case 0x0c:
        v = take(c, 8);
        break;
    case 0x02:
        v = take(c, 2);
        break;
    case 0x03:
        v = take(c, 4);
        break;
    case 0x0a:
        v = (uintptr_t)(int16_t)take(c, 2);
        break;
    case 0x0b:
        v = (uintptr_t)(int32_t)take(c, 4);
        break;
    default:
        c->bad = true;
    }
    uint8_t applied = encoding & 0x70;
    if (applied && applied != 0x10) c->bad = true;
    return applied == 0x10 ? v + here : v;
}

/* ── Entries ── */

typedef struct entry {
    uint64_t code_align;
    int64_t data_align;
    uint8_t pointer_encoding;
    bool augmented, is_signal;
    cursor_t initial, program;
    uintptr_t begin;
} entry_t;

/* The contents behind a length; *body is where they begin. */
static cursor_t entry_open(const unwind_table_t *t, const uint8_t *at) {
    cursor_t c = {at, t->end, at < t->begin || at >= t->end};
    uint64_t bytes = take(&c, 4);
    if (bytes >= 0xfffffff0u || c.bad || bytes > (uint64_t)(c.end - c.at))
        c.bad = true;
    else
        c.end = c.at + bytes;
    return c;
}

static bool cie_read(const unwind_table_t *t, const uint8_t *at, entry_t *f) {
    cursor_t c = entry_open(t, at);
    char what[8] = "";
    size_t n = 0;
    if (take(&c, 4) != 0) return false;
    uint8_t version = (uint8_t)take(&c, 1), letter;
    while ((letter = (uint8_t)take(&c, 1)) != 0)
        if (n < sizeof what - 1) what[n++] = (char)letter;
    f->code_align = take_uleb(&c);
    f->data_align = take_sleb(&c);
    uint64_t return_register = version == 1 ? take(&c, 1) : take_uleb(&c);
    if (return_register != REG_RETURN || (version != 1 && version != 3)) return false;
    f->augmented = what[0] == 'z';
    if (what[0] && !f->augmented) return false;
    if (f->augmented) {
        uint64_t bytes = take_uleb(&c);
        cursor_t inner = c;
        skip(&c, bytes);
        for (size_t i = 1; i < n; i++) {
            if (what[i] == 'R') f->pointer_encoding = (uint8_t)take(&inner, 1);
            if (what[i] == 'L') take(&inner, 1);
            if (what[i] == 'P') {
                uint8_t encoding = (uint8_t)take(&inner, 1);
                take_pointer(&inner, encoding & 15);
            }
            if (what[i] == 'S') f->is_signal = true;
        }
        if (inner.bad) return false;
    }
    f->initial = c;
    return !c.bad;
}

static bool fde_read(const unwind_table_t *t, const uint8_t *at, uintptr_t pc, entry_t *f) {
    memset(f, 0, sizeof *f);
    cursor_t c = entry_open(t, at);
    const uint8_t *pointer_at = c.at;
    uint64_t distance = take(&c, 4);
    if (c.bad || !distance || distance > (uint64_t)(pointer_at - t->begin) ||
        !cie_read(t, pointer_at - distance, f))
        return false;
    f->begin = take_pointer(&c, f->pointer_encoding);
    uintptr_t bytes = take_pointer(&c, f->pointer_encoding & 15);
    if (c.bad || pc - f->begin >= bytes) return false;
    if (f->augmented) skip(&c, take_uleb(&c));
    f->program = c;
    return !c.bad;
}

/* The table of .eh_frame_hdr: {begin, FDE} in order, both relative to the header. */
static const uint8_t *fde_find(const unwind_table_t *t, uintptr_t pc) {
    cursor_t c = {t->header, t->end, t->header < t->begin || t->header >= t->end};
    uint8_t version = (uint8_t)take(&c, 1), pointer = (uint8_t)take(&c, 1);
    uint8_t count_encoding = (uint8_t)take(&c, 1), table_encoding = (uint8_t)take(&c, 1);
    take_pointer(&c, pointer);
    if (version != 1 || table_encoding != 0x3b) return NULL;
    uint64_t count = take_pointer(&c, count_encoding), low = 0;
    if (c.bad || count > (uint64_t)(c.end - c.at) / 8) return NULL;
    const int64_t wanted = (int64_t)(pc - (uintptr_t)t->header);
    int32_t row[2];
    for (uint64_t high = count; low < high;) {
        uint64_t middle = low + (high - low) / 2;
        memcpy(row, c.at + 8 * middle, sizeof row);
        if (row[0] <= wanted)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low) return NULL;
    memcpy(row, c.at + 8 * (low - 1), sizeof row);
    return t->header + row[1];
}

/* ── Programs ── */

/* What a program says of the registers that matter. */
typedef struct rules {
    uint64_t cfa_register;
    int64_t cfa_offset;
    bool computed, unknown; /* the CFA: by an expression; by one that is not understood */
    bool returns;           /* the return address lies at CFA − 8 */
    enum unwind_rbp rbp;
    int64_t rbp_offset;
} rules_t;

typedef struct machine {
    rules_t now, initial, remembered[REMEMBERED_MAX];
    unsigned depth;
    const entry_t *entry;
    uintptr_t place;
    bool bad;
} machine_t;

static void rule_at_cfa(machine_t *m, uint64_t reg, int64_t offset) {
    if (reg == REG_RETURN) m->now.returns = offset == -8;
    if (reg != REG_RBP) return;
    m->now.rbp = UNWIND_AT_CFA;
    m->now.rbp_offset = offset;
}

static void rule_restore(machine_t *m, uint64_t reg) {
    if (reg == REG_RETURN) m->now.returns = m->initial.returns;
    if (reg != REG_RBP) return;
    m->now.rbp = m->initial.rbp;
    m->now.rbp_offset = m->initial.rbp_offset;
}

/* rbp + offset, and where `deref` what lies there. */
static bool expression_is(cursor_t *c, bool deref, int64_t *offset) {
    uint64_t bytes = take_uleb(c);
    cursor_t inner = *c;
    skip(c, bytes);
    if (c->bad) return false;
    inner.end = c->at;
    bool is = take(&inner, 1) == BREG_RBP;
    *offset = take_sleb(&inner);
    if (deref && take(&inner, 1) != DEREF) is = false;
    return is && !inner.bad && inner.at == inner.end;
}

static void cfa_is(machine_t *m, uint64_t reg, int64_t offset) {
    m->now.cfa_register = reg;
    m->now.cfa_offset = offset;
    m->now.computed = m->now.unknown = false;
}

static void cfa_computed(machine_t *m, cursor_t *c) {
    m->now.computed = true;
    m->now.unknown = !expression_is(c, true, &m->now.cfa_offset);
}

static void rule_computed(machine_t *m, cursor_t *c) {
    uint64_t reg = take_uleb(c);
    int64_t offset;
    bool understood = expression_is(c, false, &offset);
    if (reg == REG_RETURN) m->now.returns = false;
    if (reg != REG_RBP) return;
    m->now.rbp = UNWIND_RELATIVE_TO_BP;
    m->now.rbp_offset = offset;
    if (!understood) m->bad = true;
}

static void remember(machine_t *m) {
    if (m->depth < REMEMBERED_MAX)
        m->remembered[m->depth++] = m->now;
    else
        m->bad = true;
}

static void recall(machine_t *m) {
    if (m->depth)
        m->now = m->remembered[--m->depth];
    else
        m->bad = true;
}

/* Those with a number of their own. */
static void step_extended(machine_t *m, cursor_t *c, uint8_t code) {
    const int64_t scale = m->entry->data_align;
    uint64_t reg;
    switch (code) {
    case 0x00: /* nop */
        break;
    case 0x01: /* set_loc */
        m->place = take_pointer(c, m->entry->pointer_encoding);
        break;
    case 0x02: /* advance_loc1, 2, 4 */
    case 0x03:
    case 0x04:
        m->place += take(c, 1u << (code - 2)) * m->entry->code_align;
        break;
    case 0x05: /* offset_extended */
        reg = take_uleb(c);
        rule_at_cfa(m, reg, (int64_t)take_uleb(c) * scale);
        break;
    case 0x06: /* restore_extended */
        rule_restore(m, take_uleb(c));
        break;
    case 0x07: /* undefined */
        if (take_uleb(c) == REG_RETURN) m->now.returns = false;
        break;
    case 0x08: /* same_value */
        if (take_uleb(c) == REG_RBP) m->now.rbp = UNWIND_SAME;
        break;
    case 0x0a:
        remember(m);
        break;
    case 0x0b:
        recall(m);
        break;
    case 0x0c: /* def_cfa, _sf */
        reg = take_uleb(c);
        cfa_is(m, reg, (int64_t)take_uleb(c));
        break;
    case 0x12:
        reg = take_uleb(c);
        cfa_is(m, reg, take_sleb(c) * scale);
        break;
    case 0x0d: /* def_cfa_register */
        cfa_is(m, take_uleb(c), m->now.cfa_offset);
        break;
    case 0x0e: /* def_cfa_offset, _sf */
        m->now.cfa_offset = (int64_t)take_uleb(c);
        break;
    case 0x13:
        m->now.cfa_offset = take_sleb(c) * scale;
        break;
    case 0x0f: /* def_cfa_expression */
        cfa_computed(m, c);
        break;
    case 0x10: /* expression */
        rule_computed(m, c);
        break;
    case 0x11: /* offset_extended_sf */
        reg = take_uleb(c);
        rule_at_cfa(m, reg, take_sleb(c) * scale);
        break;
    case 0x2e: /* GNU_args_size */
        take_uleb(c);
        break;
    default: /* a register in another, values: compilers write none of them for these registers */
        m->bad = true;
    }
}

/* Runs up to `pc`. */
static void run(machine_t *m, cursor_t c, uintptr_t pc) {
    while (c.at < c.end && !c.bad && !m->bad && m->place <= pc) {
        uint8_t code = (uint8_t)take(&c, 1), low = code & 63;
        switch (code >> 6) {
        case 1:
            m->place += low * m->entry->code_align;
            break;
        case 2:
            rule_at_cfa(m, low, (int64_t)take_uleb(&c) * m->entry->data_align);
            break;
        case 3:
            rule_restore(m, low);
            break;
        default:
            step_extended(m, &c, code);
        }
    }
    m->bad |= c.bad;
}

static bool fits(int64_t v, int bits) {
    return v >= -(1ll << (bits - 1)) && v < 1ll << (bits - 1);
}

unwind_row_t unwind_row_find(const unwind_table_t *t, uintptr_t pc) {
    const unwind_row_t end = {.cfa = UNWIND_END};
    const uint8_t *fde = fde_find(t, pc);
    entry_t f;
    if (!fde || !fde_read(t, fde, pc, &f) || f.is_signal) return end;
    machine_t m = {.entry = &f, .place = f.begin};
    run(&m, f.initial, UINTPTR_MAX);
    m.initial = m.now;
    m.place = f.begin;
    run(&m, f.program, pc);
    const rules_t *r = &m.now;
    if (m.bad || r->unknown || !r->returns || !fits(r->cfa_offset, 27) || !fits(r->rbp_offset, 32))
        return end;
    unwind_row_t row = {.cfa = UNWIND_END,
                        .rbp = r->rbp,
                        .cfa_offset = (int32_t)r->cfa_offset,
                        .rbp_offset = (int32_t)r->rbp_offset};
    if (r->computed)
        row.cfa = UNWIND_AT_BP;
    else if (r->cfa_register == REG_RSP)
        row.cfa = UNWIND_SP;
    else if (r->cfa_register == REG_RBP)
        row.cfa = UNWIND_BP;
    return row;
}
