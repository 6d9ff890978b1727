#include "explain/names.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

VEC_DEFINE(names_id_vec, uint32_t);

/* FNV-1a; keys of the maps are 63 bits, so that none is MAP_NO_KEY. */
static uint64_t names_hash(uint64_t seed, const char *text, size_t bytes) {
    uint64_t h = UINT64_C(0xCBF29CE484222325) ^ seed * UINT64_C(0x9E3779B97F4A7C15);
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)text[i]) * UINT64_C(0x100000001B3);
    return h >> 1;
}

int names_text(const model_t *m, uint32_t id, const char **text, uint32_t *bytes, err_t *e) {
    lowtide_object o;
    *text = NULL;
    *bytes = 0;
    if (id == LOWTIDE_NONE) return 0;
    int status = model_read(m, id, &o, e);
    if (status || o.value.kind != LOWTIDE_VALUE_STR) return status;
    uint64_t points = 0;
    for (uint32_t i = 0; i < o.value.text_bytes; i++)
        points += ((unsigned char)o.value.text[i] & 0xC0) != 0x80;
    if (points != o.value.length) return 0;
    *text = o.value.text;
    *bytes = o.value.text_bytes;
    return 0;
}

/* The key and value ids of a dict, in turn. */
static int names_pairs(const model_t *m, uint32_t dict, names_id_vec_t *pairs, err_t *e) {
    lowtide_object o;
    int status = model_read(m, dict, &o, e);
    if (status) return status;
    const lowtide_shape *shape = lowtide_shape_at(m->rec, o.shape);
    if (shape->repeat_count != 2 || shape->repeat[0].kind != LOWTIDE_KEY) return 0;
    for (uint32_t k = shape->fixed_count; k + 1 < o.edge_count; k += 2) {
        if (o.edges[k] == LOWTIDE_NONE || o.edges[k + 1] == LOWTIDE_NONE) continue;
        if (names_id_vec_push(pairs, o.edges[k]) || names_id_vec_push(pairs, o.edges[k + 1])) {
            return err_set(e, -ENOMEM, "no memory for the names of a dict");
        }
    }
    return 0;
}

int names_lookup(const model_t *m, uint32_t dict, const char *name, size_t bytes, uint32_t *value,
                 err_t *e) {
    names_id_vec_t pairs = {0};
    *value = LOWTIDE_NONE;
    if (dict == LOWTIDE_NONE) return 0;
    int status = names_pairs(m, dict, &pairs, e);
    for (size_t i = 0; i < pairs.count && !status && *value == LOWTIDE_NONE; i += 2) {
        const char *text;
        uint32_t n;
        status = names_text(m, pairs.at[i], &text, &n, e);
        if (!status && text && n == bytes && memcmp(text, name, bytes) == 0)
            *value = pairs.at[i + 1];
    }
    names_id_vec_free(&pairs);
    return status;
}

/* A name in the table; of equal ones the first counts. */
static int names_put(model_t *m, names_table_t *t, const char *text, uint32_t bytes, uint32_t id,
                     err_t *e) {
    int fresh;
    char *copy = arena_text(&m->arena, text, bytes);
    uint32_t *at = copy ? map_put(&t->index, names_hash(0, text, bytes), &fresh) : NULL;
    if (!at || names_vec_push(&t->entries, (names_entry_t){copy, bytes, id, NULL})) {
        return err_set(e, -ENOMEM, "no memory for the names of the recording");
    }
    if (fresh) *at = (uint32_t)t->entries.count - 1;
    return 0;
}

int names_read_table(model_t *m, names_table_t *t, uint32_t dict, err_t *e) {
    names_id_vec_t pairs = {0};
    t->dict = dict;
    if (dict == LOWTIDE_NONE) return 0;
    int status = names_pairs(m, dict, &pairs, e);
    for (size_t i = 0; i < pairs.count && !status; i += 2) {
        const char *text;
        uint32_t n;
        status = names_text(m, pairs.at[i], &text, &n, e);
        if (!status && !text) {
            /* Without values, sys.modules has no keys; its modules know their names. */
            lowtide_object o;
            status = model_read(m, pairs.at[i + 1], &o, e);
            if (status || o.value.kind != LOWTIDE_VALUE_NAME) continue;
            text = o.value.text;
            n = o.value.text_bytes;
        }
        if (!status) status = names_put(m, t, text, n, pairs.at[i + 1], e);
    }
    names_id_vec_free(&pairs);
    return status;
}

uint32_t names_get(const names_table_t *t, const char *name, size_t bytes) {
    const uint32_t *at = map_get(&t->index, names_hash(0, name, bytes));
    if (!at) return LOWTIDE_NONE;
    const names_entry_t *entry = &t->entries.at[*at];
    return entry->bytes == bytes && memcmp(entry->name, name, bytes) == 0 ? entry->id
                                                                          : LOWTIDE_NONE;
}

const names_entry_t *names_entry_of(const names_table_t *t, uint32_t id) {
    for (size_t i = 0; i < t->entries.count; i++) {
        if (t->entries.at[i].id == id) return &t->entries.at[i];
    }
    return NULL;
}

int names_field(const model_t *m, uint32_t id, const char *name, size_t bytes, uint32_t *target,
                err_t *e) {
    lowtide_object o;
    *target = LOWTIDE_NONE;
    if (id == LOWTIDE_NONE) return 0;
    int status = model_read(m, id, &o, e);
    if (status) return status;
    const lowtide_shape *shape = lowtide_shape_at(m->rec, o.shape);
    for (uint32_t k = 0; k < shape->fixed_count && k < o.edge_count; k++) {
        const char *label = lowtide_string(m->rec, shape->fixed[k].name);
        if (strlen(label) != bytes || memcmp(label, name, bytes) != 0) continue;
        *target = o.edges[k];
        return 0;
    }
    return 0;
}

int names_namespace(const model_t *m, uint32_t id, uint32_t *dict, err_t *e) {
    int status = names_field(m, id, "__dict__", 8, dict, e);
    if (!status && *dict == LOWTIDE_NONE) status = names_field(m, id, "tp_dict", 7, dict, e);
    return status;
}

int names_in_class(const model_t *m, uint32_t type, const char *name, size_t bytes, uint32_t *value,
                   err_t *e) {
    uint32_t mro, dict;
    lowtide_object o;
    *value = LOWTIDE_NONE;
    int status = names_field(m, type, "__mro__", 7, &mro, e);
    if (status) return status;
    for (uint32_t k = 0;; k++) {
        uint32_t base = type;
        if (mro != LOWTIDE_NONE) {
            if ((status = model_read(m, mro, &o, e))) return status;
            uint32_t at = lowtide_shape_at(m->rec, o.shape)->fixed_count + k;
            if (at >= o.edge_count) return 0;
            base = o.edges[at];
        } else if (k > 0) {
            return 0;
        }
        if (base == LOWTIDE_NONE) continue;
        if ((status = names_namespace(m, base, &dict, e))) return status;
        if (dict == LOWTIDE_NONE) continue;
        if ((status = names_lookup(m, dict, name, bytes, value, e)) || *value != LOWTIDE_NONE)
            return status;
    }
}

/* Remembers an answer about a type and a name: two bits of a slot, "asked" and the answer. */
static int names_remember(const model_t *m, uint64_t key, bool answer, err_t *e) {
    int fresh;
    uint32_t *at = map_put(&m->names->descriptors, key, &fresh);
    if (!at) return err_set(e, -ENOMEM, "no memory for a path");
    *at = answer;
    return 0;
}

int names_overrides(const model_t *m, uint32_t type, const char *method, bool *overridden,
                    err_t *e) {
    uint64_t key = names_hash(type + UINT64_C(1) + (UINT64_C(1) << 32), method, strlen(method));
    const uint32_t *known = map_get(&m->names->descriptors, key);
    uint32_t value;
    *overridden = known && *known;
    if (known || type == LOWTIDE_NONE) return 0;
    int status = names_in_class(m, type, method, strlen(method), &value, e);
    if (status) return status;
    *overridden = value != LOWTIDE_NONE && strcmp(model_type_name(m, value), "function") == 0;
    return names_remember(m, key, *overridden, e);
}

int names_shadowed(const model_t *m, uint32_t type, const char *name, size_t bytes, bool *shadowed,
                   err_t *e) {
    uint64_t key = names_hash(type + UINT64_C(1), name, bytes);
    const uint32_t *known = map_get(&m->names->descriptors, key);
    uint32_t value, setter = LOWTIDE_NONE;
    *shadowed = known && *known;
    if (known || type == LOWTIDE_NONE) return 0;
    int status = names_in_class(m, type, name, bytes, &value, e);
    if (!status && value != LOWTIDE_NONE) {
        const char *kind = model_type_name(m, value);
        uint32_t class = model_shape_of(m, value)->type;
        *shadowed = strcmp(kind, "property") == 0;
        if (!*shadowed && strcmp(kind, "member_descriptor") && strcmp(kind, "getset_descriptor") &&
            class != LOWTIDE_NONE) {
            status = names_in_class(m, class, "__set__", 7, &setter, e);
            *shadowed = setter != LOWTIDE_NONE;
        }
    }
    return status ? status : names_remember(m, key, *shadowed, e);
}

bool names_is_identifier(const char *name, size_t bytes) {
    static const char keywords[] =
        " False None True and as assert async await break class continue def del elif else "
        "except finally for from global if import in is lambda nonlocal not or pass raise "
        "return try while with yield ";
    char padded[16];
    if (bytes == 0 || (name[0] >= '0' && name[0] <= '9')) return false;
    for (size_t i = 0; i < bytes; i++) {
        char c = name[i];
        bool ok =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        if (!ok) return false;
    }
    if (bytes > 12) return true;
    padded[0] = ' ';
    memcpy(padded + 1, name, bytes);
    memcpy(padded + 1 + bytes, " ", 2);
    return !strstr(keywords, padded);
}
