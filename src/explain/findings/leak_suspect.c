/* leak-suspect: a container in which much of the heap has gathered.
 *
 * In the manner of Eclipse MAT: from an object that keeps a good share of the heap, down while a
 * child keeps most of it, to where it scatters into many small things. One array of a gigabyte is
 * big, but nothing gathers in it. */
#include "explain/findings/findings.h"
#include "explain/names.h"
#include "explain/task.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

enum {
    SUSPECT_SHARE = 10,
    SUSPECT_MIN_BYTES = 8 << 20,
    SUSPECT_MIN_CHILDREN = 100,
    SUSPECT_MIN_LINKS = 5000,
    SUSPECT_ALIKE_SHARE = 5,
    SUSPECT_FEW = 3, /* of so many children big ones gather, where together they are much of all */
    SUSPECT_FEW_BYTES = 16 << 20,
    SUSPECT_FEW_SHARE = 4,
    SUSPECT_UNTOUCHED_SHARE = 10
};

typedef struct suspect {
    findings_t *f;
    uint64_t floor;
    path_ids_t
        stack; /* places to look into, each with the head of the chain it is on and its place in that chain */
    path_ids_t found, through; /* places */
    uint64_t *by_type;         /* retained bytes and number of an accumulation point's children */
    path_ids_t touched;        /* entries of by_type that are not zero */
} suspect_t;

static uint64_t suspect_retained(const model_t *m, uint32_t place) {
    return m->tree.sum[place + m->tree.size[place]] - m->tree.sum[place];
}

/* Looks at what a place dominates directly; namespace dicts are looked through. What is big enough
 * to be looked into goes on the stack. */
typedef struct suspect_view {
    uint64_t children, big_bytes, biggest;
    uint32_t type;
    uint64_t type_bytes, type_count;
} suspect_view_t;

/* Adds up a child by its type; the type that has most is remembered. */
static int suspect_count(suspect_t *s, uint32_t id, uint64_t retained, suspect_view_t *view) {
    uint32_t type = model_type_of(s->f->m, id);
    int status = s->by_type[2 * type + 1] ? 0 : path_ids_push(&s->touched, type);
    s->by_type[2 * type] += retained;
    s->by_type[2 * type + 1]++;
    if (s->by_type[2 * type] <= view->type_bytes) return status;
    view->type = type;
    view->type_bytes = s->by_type[2 * type];
    return status;
}

/* Chains are followed by their type; the dict behind an instance's attributes is a link of no
 * length. */
static int suspect_push(suspect_t *s, uint32_t child, uint32_t head, uint32_t length) {
    const model_t *m = s->f->m;
    uint32_t id = m->tree.id[child], from = m->tree.id[head];
    bool inner = id < m->g.n && model_shape_of(m, id)->flags & LOWTIDE_SHAPE_IS_NAMESPACE;
    bool alike = id < m->g.n && from < m->g.n && model_type_of(m, id) == model_type_of(m, from);
    if (!inner) length = alike ? length + 1 : 0;
    if (!inner && !alike) head = child;
    return path_ids_push(&s->stack, child) || path_ids_push(&s->stack, head) ||
           path_ids_push(&s->stack, length);
}

static int suspect_look(suspect_t *s, uint32_t place, uint32_t head, uint32_t length,
                        suspect_view_t *view) {
    const model_t *m = s->f->m;
    const dom_tree_t *t = &m->tree;
    int status = path_ids_push(&s->through, place);
    *view = (suspect_view_t){.type = UINT32_MAX};
    while (s->through.count > 0 && !status) {
        uint32_t p = s->through.at[--s->through.count], end = p + t->size[p];
        for (uint32_t c = p + 1; c < end && !status; c += t->size[c]) {
            uint32_t id = t->id[c];
            uint64_t retained = suspect_retained(m, c);
            /* Those have findings of their own. */
            if (id == model_node(m, MODEL_NODE_GARBAGE) || id == model_node(m, MODEL_NODE_C))
                continue;
            bool inner = id < m->g.n && model_shape_of(m, id)->flags & LOWTIDE_SHAPE_IS_NAMESPACE;
            if (retained >= s->floor) {
                status = suspect_push(s, c, head, length);
                view->big_bytes += retained;
            } else if (inner) {
                status = path_ids_push(&s->through, c);
                continue;
            }
            if (retained > view->biggest) view->biggest = retained;
            view->children++;
            if (id < m->g.n && !status) status = suspect_count(s, id, retained, view);
        }
    }
    if (view->type != UINT32_MAX) view->type_count = s->by_type[2 * view->type + 1];
    while (s->touched.count > 0) {
        uint32_t type = s->touched.at[--s->touched.count];
        s->by_type[2 * type] = s->by_type[2 * type + 1] = 0;
    }
    return status;
}

static bool suspect_is_container(const model_t *m, uint32_t id) {
    return model_shape_of(m, id)->repeat_count > 0 && !findings_is_structure(m, id);
}

static const char *suspect_fix(const char *type) {
    if (strstr(type, "dict") || strstr(type, "Dict")) {
        return "bound %s: delete entries that are done with, or keep them in a cache with a limit "
               "(lowtide.Cache, "
               "functools.lru_cache(maxsize=…)); where others own the values, in a "
               "weakref.WeakValueDictionary";
    }
    if (strcmp(type, "list") == 0 || strstr(type, "deque")) {
        return "bound %s: take out what has been handled, or keep the last ones alone in a "
               "collections.deque(maxlen=…)";
    }
    if (strstr(type, "set"))
        return "bound %s: discard what is done with; where others own the objects, use a "
               "weakref.WeakSet";
    if (strcmp(type, "_thread._local") == 0)
        return "bound what %s has in each thread, which keeps it for as long as it lives: take out "
               "what has been handled, or del it when a task is done";
    return "bound what %s keeps: drop its references to what is done with";
}

/* What looks small and keeps something large; NULL: not known of any such type. */
static const char *suspect_small(const char *type) {
    static const struct {
        const char *type, *fix;
    } rows[] = {
        {"bs4.element.NavigableString", "str(x)"},
        {"bs4.element.Tag", "tag.get_text() or its attributes"},
        {"lxml.etree._ElementUnicodeResult", "str(x)"},
        {"re.Match", "match.group()"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(type, rows[i].type) == 0) return rows[i].fix;
    return NULL;
}

/* `_`, `_3`, `_oh[3]`: what an IPython or Jupyter session keeps of the values that its cells ended with. */
static bool suspect_is_output(const model_t *m, const char *path) {
    if (names_get(&m->names->main, "_oh", 3) == LOWTIDE_NONE) return false;
    if (strncmp(path, "_oh[", 4) == 0) return true;
    size_t lines = strspn(path, "_");
    return lines > 0 && path[lines + strspn(path + lines, "0123456789")] == '\0';
}

/* The name that the session itself gave to what a cell ended with, which keeps it, too; NULL: none. */
static const names_entry_t *suspect_named(const model_t *m, uint32_t id) {
    const names_vec_t *entries = &m->names->main.entries;
    for (size_t i = 0; i < entries->count; i++) {
        const names_entry_t *at = &entries->at[i];
        if (at->id == id && at->bytes && at->name[0] != '_') return at;
    }
    return NULL;
}

/* Of a path through a thread or task: what stands behind its functions, "rows" or "self.cache". */
static const char *suspect_local(const char *path) {
    const char *last = NULL;
    if (strncmp(path, "thread ", 7) != 0 && strncmp(path, "task ", 5) != 0) return NULL;
    for (const char *at = path; (at = strstr(at, " > ")); at += 3) last = at + 3;
    return last;
}

/* The class of the local that the path goes through: of `self` in a function of a library it says whose it is. */
static int suspect_owner(const model_t *m, uint32_t id, const char **type, err_t *e) {
    path_ids_t nodes = {0};
    int status = path_nodes(m, id, &nodes, e);
    *type = NULL;
    for (size_t i = nodes.count; !status && i-- > 1 && !*type;) {
        uint32_t from = nodes.at[i - 1];
        bool function = from < m->g.n && (model_shape_of(m, from)->kind == LOWTIDE_SHAPE_FRAME ||
                                          suspended_is(m, from));
        if (function) *type = model_type_name(m, nodes.at[i]);
    }
    path_ids_free(&nodes);
    return status;
}

/* Of "Parser.__dict__['count']" as people write it: "Parser.count". */
static const char *suspect_function(findings_t *f, const char *path, size_t length) {
    static const char dict[] = ".__dict__['";
    const char *at = strstr(path, dict), *end = path + length;
    bool whole = at && at < end && length > 2 && end[-1] == ']' && end[-2] == '\'';
    if (!whole) return findings_text(f, "%.*s", (int)length, path);
    const char *name = at + sizeof dict - 1;
    return findings_text(f, "%.*s.%.*s", (int)(at - path), path, (int)(end - 2 - name), name);
}

/* Of "F.base", the array that F is a view of, the length of "F"; 0 where it is none. */
static size_t suspect_viewer(const model_t *m, uint32_t id, const char *path) {
    static const char base[] = ".base";
    size_t length = strlen(path), of = sizeof base - 1;
    bool view = length > of && strcmp(path + length - of, base) == 0 &&
                strcmp(model_type_name(m, model_idom(m, id)), "numpy.ndarray") == 0;
    return view ? length - of : 0;
}

static int suspect_advise_cache(findings_t *f, model_finding_t *x, size_t length) {
    const char *function = suspect_function(f, x->path, length);
    if (!function) return findings_no_memory(f);
    /* Of a staticmethod it is "C.f": that one is called with no self. */
    bool method =
        strstr(x->path, ".__dict__['") && length > 2 && strncmp(x->path + length - 2, "']", 2) == 0;
    x->fix = method ? findings_text(f,
                                    "put @lowtide.cache(max_bytes=\"64MiB\") in the place of %s's "
                                    "lru_cache: as it is a method, that one keeps every self it "
                                    "was called with; or give it a bound (maxsize=1000)",
                                    function)
                    : findings_text(f,
                                    "give %s a bound, or a lower one: "
                                    "@functools.lru_cache(maxsize=1000), or in bytes: "
                                    "@lowtide.cache(max_bytes=\"64MiB\")",
                                    function);
    return x->fix ? 0 : findings_no_memory(f);
}

static int suspect_advise(suspect_t *s, model_finding_t *x, uint32_t id, const char *gathered) {
    static const char lru[] = "'s lru_cache",
                      done[] = "once it has been used, or work through the data in parts";
    findings_t *f = s->f;
    size_t length = strlen(x->path), lru_bytes = sizeof lru - 1;
    const char *local = suspect_local(x->path), *owner = NULL;
    int view = gathered ? 0 : (int)suspect_viewer(f->m, id, x->path);
    const char *small = gathered ? suspect_small(gathered) : NULL;
    if (length > lru_bytes && strcmp(x->path + length - lru_bytes, lru) == 0)
        return suspect_advise_cache(f, x, length - lru_bytes);
    if (small) {
        x->fix = findings_text(
            f, "keep %s in %s in place of each %s: that keeps the whole document it is from", small,
            local ? local : x->path, gathered);
    } else if (suspect_is_output(f->m, x->path)) {
        x->fix = findings_text(
            f,
            "%s is what a cell ended with, and IPython keeps all of those: %%reset -f out "
            "drops them; a cell that ends with ; keeps nothing",
            x->path);
    } else if (local && !strpbrk(local, ".[")) {
        x->fix = findings_text(f, "del %s %s", local, done);
    } else if (view) {
        x->fix = findings_text(f,
                               "drop %.*s, or keep a copy of the part that is used in its place, "
                               "%.*s.copy(): it is a view, and keeps the whole array",
                               view, x->path, view, x->path);
    } else if (!gathered) {
        x->fix = findings_text(f, "drop %s %s", x->path, done);
    } else {
        int status = local ? suspect_owner(f->m, id, &owner, f->e) : 0;
        if (status) return status;
        const char *name = owner ? findings_text(f, "%s (of a %s)", local, owner) : x->path;
        if (name) x->fix = findings_text(f, suspect_fix(x->type), name);
    }
    return x->fix ? 0 : findings_no_memory(f);
}

/* Of an array that is all that a frame of pandas has, the frame: nobody can drop what lies in its blocks. */
static uint32_t suspect_frame(const model_t *m, uint32_t place) {
    static const char pandas[] = "pandas.";
    uint64_t bytes = suspect_retained(m, place);
    uint32_t frame = place;
    for (uint32_t p = place; p != 0 && m->tree.id[p] < m->g.n; p = m->tree.idom[p]) {
        const char *type = model_type_name(m, m->tree.id[p]);
        if (suspect_retained(m, p) - bytes > bytes / 50) break;
        char first = strncmp(type, pandas, sizeof pandas - 1) == 0 ? type[sizeof pandas - 1] : 0;
        if (first >= 'A' && first <= 'Z') frame = p; /* DataFrame, Series: no class of its inside */
    }
    return frame;
}

/* "2,000 bytes" would be a size. */
static const char *suspect_things(const char *type) {
    return strcmp(type, "bytes") == 0 ? "bytes objects" : type;
}

/* Who knows that it is larger learns why it is less here. */
static const char *suspect_untouched(findings_t *f, uint32_t id, uint64_t bytes) {
    uint64_t untouched = model_retained_untouched(f->m, id);
    char size[32];
    if (untouched < bytes / SUSPECT_UNTOUCHED_SHARE) return "";
    return findings_text(f, "; %s more of it was never touched, and is no memory",
                         findings_bytes(untouched, size));
}

static int suspect_report(suspect_t *s, uint32_t place, const suspect_view_t *view) {
    findings_t *f = s->f;
    const model_t *m = f->m;
    bool alone = view->type == UINT32_MAX; /* an array: big by itself */
    uint32_t above = m->tree.idom[place];
    if (alone) place = suspect_frame(m, place);
    /* The dict in which the interpreter has each thread's part has no name; the thread-local object has. */
    else if (strcmp(model_type_name(m, m->tree.id[above]), "_thread._local") == 0)
        place = above;
    uint32_t id = m->tree.id[place];
    uint64_t bytes = suspect_retained(m, place);
    char number[32], size[32];
    model_finding_t *x = findings_add(f, "leak-suspect");
    if (!x) return findings_no_memory(f);
    x->bytes = bytes;
    x->objects = m->tree.size[place];
    x->type = (char *)model_type_name(m, id);
    int status = findings_name(f, x, &place, 1);
    if (!status)
        status = path_text(m, id, PATH_EXACT, &f->out->memory, &x->path, &x->expression, f->e);
    if (status) return status;
    const names_entry_t *named = suspect_is_output(m, x->path) ? suspect_named(m, id) : NULL;
    if (named && !(x->path = findings_text(f, "%.*s", (int)named->bytes, named->name)))
        return findings_no_memory(f);
    const char *last = suspect_local(x->path);
    bool local = last && !strpbrk(last, ".[");
    unsigned share = (unsigned)(bytes * 100 / (findings_heap(m) ? findings_heap(m) : 1));
    const char *more = suspect_untouched(f, id, bytes);
    if (!more) return findings_no_memory(f);
    findings_bytes(bytes, size);
    x->title = alone ? findings_text(f, "%s (%s) is %s by itself, %u %% of the heap%s", x->path,
                                     x->type, size, share, more)
                     : findings_text(f, "%s (%s) has gathered %s %s: %s, %u %% of the heap%s",
                                     x->path, x->type, findings_count(view->type_count, number),
                                     suspect_things(m->types[view->type].name), size, share, more);
    if ((status = suspect_advise(s, x, id, alone ? NULL : m->types[view->type].name)))
        return status;
    if (named)
        x->fix = findings_text(f, "%s; and %%reset -f out: a cell ended with it, too", x->fix);
    x->confidence = local || alone                                              ? "low"
                    : view->type_bytes > bytes / 2 && view->type_count >= 10000 ? "high"
                                                                                : "medium";
    return x->title && x->fix ? 0 : findings_no_memory(f);
}

static int suspect_found(suspect_t *s, uint32_t place, const suspect_view_t *view) {
    if (path_ids_push(&s->found, place)) return findings_no_memory(s->f);
    return suspect_report(s, place, view);
}

/* Where big children keep most of it, one of them is the point; and few children are no gathering. One that stands out (it
 * alone keeps what the others share) hides no gathering of the others. */
static bool suspect_is_point(const suspect_t *s, uint32_t place, const suspect_view_t *view) {
    const model_t *m = s->f->m;
    uint64_t retained = suspect_retained(m, place),
             own = m->tree.sum[place + 1] - m->tree.sum[place];
    if (findings_is_structure(m, m->tree.id[place]) || view->big_bytes > retained / 2) return false;
    /* Nobody takes entries out of sys.modules. */
    if (view->type != UINT32_MAX && strcmp(m->types[view->type].name, "module") == 0) return false;
    bool many = view->children >= SUSPECT_MIN_CHILDREN &&
                (view->biggest < retained / 4 || retained - own - view->biggest >= s->floor);
    bool few = suspect_is_container(m, m->tree.id[place]) && view->children >= SUSPECT_FEW &&
               view->type_count >= SUSPECT_FEW && view->type_bytes > retained / 2 &&
               retained >= SUSPECT_FEW_BYTES && retained >= findings_heap(m) / SUSPECT_FEW_SHARE;
    return many || few || (suspect_is_container(m, m->tree.id[place]) && own >= s->floor);
}

static int suspect_search(suspect_t *s) {
    const model_t *m = s->f->m;
    int status = suspect_push(s, 0, 0, 0) ? findings_no_memory(s->f) : 0;
    while (s->stack.count > 0 && !status) {
        uint32_t length = s->stack.at[--s->stack.count], head = s->stack.at[--s->stack.count];
        uint32_t place = s->stack.at[--s->stack.count];
        suspect_view_t view;
        if (length >= SUSPECT_MIN_LINKS) {
            /* A linked list: its head is what to name, and each link is one more of its kind. */
            uint32_t type = model_type_of(m, m->tree.id[head]);
            view = (suspect_view_t){
                .type = type, .type_count = m->types[type].count, .type_bytes = UINT64_MAX};
            status = suspect_found(s, head, &view);
            continue;
        }
        if (suspect_look(s, place, head, length, &view)) return findings_no_memory(s->f);
        if (suspect_is_point(s, place, &view)) status = suspect_found(s, place, &view);
    }
    return status;
}

/* The instances of a type that nothing but a module, class or frame keeps alone, outside of the
 * suspects found already, and what they keep; 0 when one of them keeps a good part of it. */
static int suspect_scattered(suspect_t *s, uint32_t type, path_ids_t *ids, uint64_t *bytes) {
    const model_t *m = s->f->m;
    const dom_tree_t *t = &m->tree;
    uint64_t biggest = 0;
    ids->count = 0;
    *bytes = 0;
    for (uint32_t p = 0; p < t->count;) {
        bool covered = false;
        uint32_t id = t->id[p];
        for (size_t i = 0; i < s->found.count && !covered; i++) covered = s->found.at[i] == p;
        if (covered || id == model_node(m, MODEL_NODE_GARBAGE) ||
            id == model_node(m, MODEL_NODE_C)) {
            p += t->size[p];
        } else if (id < m->g.n && model_type_of(m, id) == type) {
            uint64_t retained = suspect_retained(m, p);
            bool alone = findings_is_structure(m, t->id[t->idom[p]]);
            if (alone && path_ids_push(ids, id)) return findings_no_memory(s->f);
            if (alone) *bytes += retained;
            if (alone && retained > biggest) biggest = retained;
            p += t->size[p];
        } else {
            p++;
        }
    }
    if (biggest > *bytes / 4) *bytes = 0;
    return 0;
}

static int suspect_name_all(findings_t *f, model_finding_t *x, const path_ids_t *ids) {
    uint32_t *places = mem_alloc((ids->count + 1) * sizeof *places);
    if (!places) return findings_no_memory(f);
    for (size_t i = 0; i < ids->count; i++) places[i] = f->m->tree.place[ids->at[i]];
    int status = findings_name(f, x, places, ids->count);
    mem_free(places);
    return status;
}

/* Instances of one class that several containers share, so that none of those keeps them alone. */
static int suspect_alike(suspect_t *s, uint32_t type, const path_ids_t *ids, uint64_t bytes) {
    findings_t *f = s->f;
    const model_type_t *t = &f->m->types[type];
    model_routes_t routes;
    char number[32], size[32];
    int status = model_routes_of(f->m, ids->at, ids->count, NULL, &routes, f->e);
    if (status) return status;
    const model_route_t *r = routes.routes;
    model_finding_t *x = r && r->count > ids->count / 2 ? findings_add(f, "leak-suspect") : NULL;
    if (x) {
        x->bytes = bytes;
        x->objects = ids->count;
        x->type = (char *)t->name;
        x->path = findings_text(f, "%s", r->through);
        x->title = findings_text(
            f, "%s %s are alive, %s through %s: %s", findings_count(ids->count, number), t->name,
            r->count == ids->count ? "all" : "most", r->through, findings_bytes(bytes, size));
        x->fix = findings_text(
            f,
            "take them out of all that holds them, %s and others (lowtide why F %s shows which), "
            "or let all but one hold them by weakref",
            r->through, t->name);
        x->confidence = "medium";
        status = suspect_name_all(f, x, ids);
        if (!x->path || !x->title || !x->fix) status = findings_no_memory(f);
    } else if (r && r->count > ids->count / 2) {
        status = findings_no_memory(f);
    }
    model_routes_free(&routes);
    return status;
}

/* What the other names is from here on this one's, too. */
static int suspect_join_spans(findings_t *f, model_finding_t *one, const model_finding_t *other) {
    size_t count = one->span_count + other->span_count;
    model_span_t *spans = mem_alloc((count + 1) * sizeof *spans);
    if (!spans) return findings_no_memory(f);
    if (one->span_count) memcpy(spans, one->spans, one->span_count * sizeof *spans);
    if (other->span_count)
        memcpy(spans + one->span_count, other->spans, other->span_count * sizeof *spans);
    int status = findings_name_spans(f, one, spans, count);
    mem_free(spans);
    return status;
}

/* One command drops all that cells ended with: it is one finding, of all. */
static int suspect_join_outputs(findings_t *f, uint32_t first) {
    model_findings_t *out = f->out;
    model_finding_t *one = NULL;
    uint32_t kept = first, count = 0;
    char number[32], size[32];
    for (uint32_t i = first; i < out->count; i++) {
        model_finding_t x = out->findings[i];
        bool output = suspect_is_output(f->m, x.path);
        if (!output || !count++) {
            out->findings[kept++] = x;
            if (output) one = &out->findings[kept - 1];
            continue;
        }
        one->bytes += x.bytes;
        one->objects += x.objects;
        int status = suspect_join_spans(f, one, &x);
        if (status) return status;
    }
    out->count = kept;
    if (count < 2) return 0;
    uint64_t heap = findings_heap(f->m);
    one->title = findings_text(
        f, "%s values that cells ended with are kept in _oh (Out): %s, %u %% of the heap",
        findings_count(count, number), findings_bytes(one->bytes, size),
        (unsigned)(one->bytes * 100 / (heap ? heap : 1)));
    one->fix = findings_text(f, "%%reset -f out: IPython keeps all that cells ended with, and this "
                                "drops it; a cell that ends with ; keeps nothing");
    one->path = findings_text(f, "_oh");
    one->expression = true;
    one->type = (char *)"dict";
    return one->title && one->fix && one->path ? 0 : findings_no_memory(f);
}

int finding_leak_suspect(findings_t *f) {
    const model_t *m = f->m;
    size_t bytes = (m->type_count * (size_t)2 + 1) * sizeof(uint64_t);
    uint64_t heap = findings_heap(m);
    uint32_t first = f->out->count;
    suspect_t s = {.f = f, .floor = heap / SUSPECT_SHARE};
    if (s.floor < SUSPECT_MIN_BYTES) s.floor = SUSPECT_MIN_BYTES;
    s.by_type = mem_map(bytes);
    int status = s.by_type ? suspect_search(&s) : findings_no_memory(f);
    path_ids_t ids = {0};
    for (uint32_t i = 0; i < m->type_count && !status; i++) {
        const model_type_t *t = &m->types[i];
        const lowtide_shape *shape = lowtide_shape_at(m->rec, t->shape);
        bool class =
            shape->flags & LOWTIDE_SHAPE_HEAP_TYPE && !(shape->flags & LOWTIDE_SHAPE_IS_TYPE);
        if (!class || t->count < 1000 || t->retained_bytes < s.floor ||
            t->retained_bytes < heap / SUSPECT_ALIKE_SHARE)
            continue;
        uint64_t scattered;
        status = suspect_scattered(&s, i, &ids, &scattered);
        if (!status && scattered >= s.floor && scattered > t->retained_bytes / 2) {
            status = suspect_alike(&s, i, &ids, scattered);
        }
    }
    if (!status) status = suspect_join_outputs(f, first);
    path_ids_free(&ids);
    path_ids_free(&s.stack);
    path_ids_free(&s.found);
    path_ids_free(&s.through);
    path_ids_free(&s.touched);
    mem_unmap(s.by_type, bytes);
    return status;
}
