#include "explain/model_pins.h"

#include "base/mem.h"
#include "base/vec.h"
#include "explain/findings/findings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    NEARLY_EMPTY = 4, /* less than this part of an arena is in use */
    MOST = 7,         /* tenths of a group that a narrower holder must keep */
    DEPTH_MAX = 2000, /* of dominators looked at: a longer chain is no place to point to */
    TYPES_MAX = 16    /* right below a holder */
};

typedef struct pins_place {
    uint64_t begin, end, resident, returnable;
} pins_place_t;
VEC_DEFINE(places, pins_place_t);

/* An object in a nearly empty arena. */
typedef struct member {
    uint32_t order, place, group, bytes;
} member_t;
VEC_DEFINE(members, member_t);

typedef struct group {
    uint32_t holder, type; /* type: index into model_types; LOWTIDE_NONE: none */
    uint64_t objects, arenas, bytes, returnable;
} group_t;
VEC_DEFINE(pin_groups, group_t);

typedef struct pins_work {
    const model_t *m;
    model_pins_t *out;
    places_t places;
    members_t members;
    pin_groups_t groups;
    err_t *e;
} pins_work_t;

static int no_memory(pins_work_t *w) {
    return err_set(w->e, -ENOMEM, "no memory for what keeps arenas");
}

static int by_begin(const void *a, const void *b) {
    const pins_place_t *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static int by_order(const void *a, const void *b) {
    const member_t *x = a, *y = b;
    return (x->order > y->order) - (x->order < y->order);
}

static int by_place(const void *a, const void *b) {
    const member_t *x = a, *y = b;
    if (x->place != y->place) return x->place > y->place ? 1 : -1;
    return (x->group > y->group) - (x->group < y->group);
}

static int by_bytes(const void *a, const void *b) {
    const group_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return (x->holder > y->holder) - (x->holder < y->holder);
}

static int read_places(pins_work_t *w) {
    lowtide_table *t;
    lowtide_error error;
    int status = lowtide_table_load(model_recording(w->m), "arenas", &t, &error);
    if (status == -ENOMEM) return no_memory(w);
    if (status) return 0; /* a damaged one tells nothing */
    uint32_t at = lowtide_table_column(t, "address"), bytes = lowtide_table_column(t, "bytes");
    uint32_t resident = lowtide_table_column(t, "resident_bytes");
    uint32_t live = lowtide_table_column(t, "live_bytes");
    uint32_t back = lowtide_table_column(t, "returnable_bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(t) && !status; i++) {
        pins_place_t p = {.begin = lowtide_table_number(t, at, i),
                          .resident = lowtide_table_number(t, resident, i),
                          .returnable = lowtide_table_number(t, back, i)};
        uint64_t room = lowtide_table_number(t, bytes, i);
        uint64_t used = lowtide_table_number(t, live, i);
        p.end = p.begin + room;
        w->out->arenas++;
        if (p.end < p.begin || p.resident > room || used >= room / NEARLY_EMPTY) continue;
        w->out->nearly_empty++;
        w->out->bytes += p.resident;
        w->out->live_bytes += used;
        w->out->returnable_bytes += p.returnable;
        status = places_push(&w->places, p);
    }
    lowtide_table_free(t);
    if (status) return no_memory(w);
    if (w->places.count) qsort(w->places.at, w->places.count, sizeof *w->places.at, by_begin);
    return 0;
}

static int covers(const void *address, const void *place) {
    const pins_place_t *p = place;
    uint64_t at = *(const uint64_t *)address;
    return at < p->begin ? -1 : at >= p->end;
}

static uint32_t place_of(const pins_work_t *w, uint64_t address) {
    const places_t *v = &w->places;
    const pins_place_t *found =
        v->count ? bsearch(&address, v->at, v->count, sizeof *v->at, covers) : NULL;
    return found ? (uint32_t)(found - v->at) : LOWTIDE_NONE;
}

static int gather_chunk(pins_work_t *w, const lowtide_chunk *c) {
    const lowtide_recording *rec = model_recording(w->m);
    for (uint32_t k = 0; k < c->count; k++) {
        if (lowtide_shape_at(rec, c->shape[k])->kind != LOWTIDE_SHAPE_OBJECT) continue;
        uint32_t place = place_of(w, c->address[k]);
        if (place == LOWTIDE_NONE) continue;
        member_t one = {.order = model_order(w->m, c->first + k),
                        .place = place,
                        .bytes = c->size[k] < 512 ? (uint32_t)c->size[k] : 512};
        if (members_push(&w->members, one)) return no_memory(w);
    }
    return 0;
}

static int gather(pins_work_t *w) {
    const lowtide_recording *rec = model_recording(w->m);
    lowtide_chunk *chunk = NULL;
    int status = 0;
    for (uint32_t i = 0; i < lowtide_chunks(rec) && !status; i++) {
        lowtide_error error;
        status = lowtide_chunk_load(rec, i, LOWTIDE_COL_ADDRESS | LOWTIDE_COL_SIZE, &chunk, &error);
        if (status)
            err_set(w->e, status, "%s", error.text);
        else
            status = gather_chunk(w, chunk);
    }
    lowtide_chunk_free(chunk);
    if (w->members.count) qsort(w->members.at, w->members.count, sizeof *w->members.at, by_order);
    return status;
}

/* ---- Groups ---- */

/* The first member that is not before `order`. */
static size_t member_from(const pins_work_t *w, uint64_t order, size_t from, size_t to) {
    while (from < to) {
        size_t middle = (from + to) / 2;
        if (w->members.at[middle].order < order)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

static size_t begin_of(const pins_work_t *w, uint32_t id, size_t from, size_t to) {
    return member_from(w, model_order(w->m, id), from, to);
}

/* The first member behind all that `id` dominates. */
static size_t end_of(const pins_work_t *w, uint32_t id, size_t from) {
    uint64_t end = (uint64_t)model_order(w->m, id) + model_retained_objects(w->m, id);
    return member_from(w, end, from, w->members.count);
}

static bool is_data(const pins_work_t *w, uint32_t id) {
    return id < model_objects(w->m) && !findings_is_structure(w->m, id);
}

/* The outermost holder that is data. */
static uint32_t outermost(const pins_work_t *w, uint32_t id) {
    for (uint32_t up = model_idom(w->m, id); is_data(w, up); up = model_idom(w->m, id)) id = up;
    return id;
}

/* From the outermost holder of members [begin, end) down, while one object keeps most of them. Whoever keeps more than half keeps
 * the one in the middle. */
static uint32_t narrow(const pins_work_t *w, uint32_t top, size_t begin, size_t end) {
    uint32_t chain[DEPTH_MAX], depth = 0, holder = top;
    uint32_t middle = model_at(w->m, w->members.at[begin + (end - begin) / 2].order);
    for (uint32_t id = middle; id != top; id = model_idom(w->m, id)) {
        if (depth == DEPTH_MAX) return top;
        chain[depth++] = id;
    }
    while (depth-- > 0) {
        uint32_t id = chain[depth];
        size_t first = begin_of(w, id, begin, end), last = end_of(w, id, first);
        /* Links of one chain are no places to point to. */
        if (last - first < 2 || (last - first) * 10 < (end - begin) * MOST ||
            model_type_of(w->m, id) == model_type_of(w->m, holder))
            break;
        holder = id;
    }
    return holder;
}

/* Of which type those objects right below the holder are that have most bytes in nearly empty arenas, and how many. */
static void count_below(const pins_work_t *w, group_t *g, size_t begin, size_t end) {
    struct {
        uint32_t type;
        uint64_t count, bytes;
    } types[TYPES_MAX];
    uint32_t used = 0, at = 0, below = LOWTIDE_NONE;
    uint64_t most = 0;
    begin = begin_of(w, g->holder, begin, end);
    end = end_of(w, g->holder, begin);
    for (size_t i = begin; i < end; i++) {
        uint32_t id = model_at(w->m, w->members.at[i].order), t = 0;
        if (below != LOWTIDE_NONE && model_dominates(w->m, below, id)) {
            if (at < TYPES_MAX) types[at].bytes += w->members.at[i].bytes;
            continue;
        }
        for (int depth = 0; id != g->holder && depth < DEPTH_MAX; depth++) {
            below = id;
            id = model_idom(w->m, id);
        }
        if (below == LOWTIDE_NONE) continue; /* the holder itself */
        uint32_t type = model_type_of(w->m, below);
        while (t < used && types[t].type != type) t++;
        at = t;
        if (t == TYPES_MAX) continue;
        if (t == used) {
            types[used].type = type;
            types[used].bytes = types[used].count = 0;
            used++;
        }
        types[t].bytes += w->members.at[i].bytes;
        types[t].count++;
    }
    for (uint32_t t = 0; t < used; t++) {
        if (types[t].bytes <= most) continue;
        most = types[t].bytes;
        g->objects = types[t].count;
        g->type = types[t].type;
    }
}

/* A group by type, of what has no holder of its own. */
static int add_loose(pins_work_t *w, uint32_t type, uint32_t *loose, uint32_t *group) {
    if (loose[type] == LOWTIDE_NONE) {
        loose[type] = (uint32_t)w->groups.count;
        group_t g = {.holder = LOWTIDE_NONE, .type = type};
        if (pin_groups_push(&w->groups, g)) return no_memory(w);
    }
    *group = loose[type];
    w->groups.at[*group].objects++;
    return 0;
}

static int form_groups(pins_work_t *w) {
    uint32_t types;
    model_types(w->m, &types);
    uint32_t *loose = mem_alloc((types + 1) * sizeof *loose);
    int status = loose ? 0 : no_memory(w);
    if (loose) memset(loose, 0xff, (types + 1) * sizeof *loose);
    for (size_t i = 0, end; i < w->members.count && !status; i = end) {
        uint32_t id = model_at(w->m, w->members.at[i].order), top = outermost(w, id);
        end = is_data(w, top) ? end_of(w, top, i) : i + 1;
        uint32_t group = (uint32_t)w->groups.count;
        if (end - i < 2) {
            end = i + 1;
            status = add_loose(w, model_type_of(w->m, id), loose, &group);
        } else {
            group_t g = {.holder = narrow(w, top, i, end), .type = LOWTIDE_NONE};
            count_below(w, &g, i, end);
            if (pin_groups_push(&w->groups, g)) status = no_memory(w);
        }
        for (size_t k = i; k < end; k++) w->members.at[k].group = group;
    }
    mem_free(loose);
    return status;
}

/* Each arena to the group that has most in it; those without a known object to a group of their own. */
static int deal_out(pins_work_t *w) {
    const members_t *v = &w->members;
    group_t none = {.holder = LOWTIDE_NONE, .type = LOWTIDE_NONE};
    if (pin_groups_push(&w->groups, none)) return no_memory(w);
    if (v->count) qsort(v->at, v->count, sizeof *v->at, by_place);
    size_t i = 0;
    for (uint32_t place = 0; place < w->places.count; place++) {
        uint64_t most = 0;
        group_t *best = &w->groups.at[w->groups.count - 1];
        while (i < v->count && v->at[i].place == place) {
            uint32_t group = v->at[i].group;
            uint64_t bytes = 0;
            for (; i < v->count && v->at[i].place == place && v->at[i].group == group; i++)
                bytes += v->at[i].bytes;
            if (bytes > most) best = &w->groups.at[group];
            if (bytes > most) most = bytes;
        }
        best->arenas++;
        best->bytes += w->places.at[place].resident;
        best->returnable += w->places.at[place].returnable;
    }
    return 0;
}

static int say(pins_work_t *w, uint32_t max) {
    model_pins_t *out = w->out;
    uint32_t count = 0;
    const model_type_t *types = model_types(w->m, &count);
    qsort(w->groups.at, w->groups.count, sizeof *w->groups.at, by_bytes);
    out->pins = arena_alloc(&out->memory, (max + 1) * sizeof *out->pins);
    if (!out->pins) return no_memory(w);
    for (size_t i = 0; i < w->groups.count && out->count < max; i++) {
        const group_t *g = &w->groups.at[i];
        if (!g->arenas) break;
        model_pin_t *p = &out->pins[out->count++];
        *p = (model_pin_t){.type = g->type < count ? types[g->type].name : "(no object)",
                           .holder = g->holder,
                           .objects = g->objects,
                           .arenas = g->arenas,
                           .bytes = g->bytes,
                           .returnable_bytes = g->returnable};
        if (g->holder == LOWTIDE_NONE) continue;
        model_path_t path;
        int status = model_path_to(w->m, g->holder, &path, w->e);
        if (status) return status;
        p->path = arena_text(&out->memory, path.text, strlen(path.text));
        p->expression = path.expression;
        model_path_free(&path);
        if (!p->path) return no_memory(w);
    }
    return 0;
}

int model_pins(const model_t *m, uint32_t max, model_pins_t *out, err_t *e) {
    pins_work_t w = {.m = m, .out = out, .e = e};
    *out = (model_pins_t){0};
    int status = read_places(&w);
    if (!status && w.places.count) {
        status = gather(&w);
        if (!status) status = form_groups(&w);
        if (!status) status = deal_out(&w);
        if (!status) status = say(&w, max);
    }
    places_free(&w.places);
    members_free(&w.members);
    pin_groups_free(&w.groups);
    if (status) model_pins_free(out);
    return status;
}

void model_pins_free(model_pins_t *p) {
    arena_free(&p->memory);
    *p = (model_pins_t){0};
}
