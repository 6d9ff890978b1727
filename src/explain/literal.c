#include "explain/literal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LITERAL_DEPTH_MAX = 6, LITERAL_ITEMS_MAX = 16 };

static char literal_quote(const char *text, size_t n) {
    return memchr(text, '\'', n) && !memchr(text, '"', n) ? '"' : '\'';
}

/* What is above ASCII stays as it is in a str, and is escaped in bytes. */
static void literal_put_quoted(strbuf_t *out, const char *text, size_t n, bool whole, bool bytes) {
    char quote = literal_quote(text, n);
    strbuf_putc(out, quote);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == quote || c == '\\')
            strbuf_printf(out, "\\%c", c);
        else if (c == '\n')
            strbuf_puts(out, "\\n");
        else if (c == '\r')
            strbuf_puts(out, "\\r");
        else if (c == '\t')
            strbuf_puts(out, "\\t");
        else if (c < 0x20 || c == 0x7F || (bytes && c > 0x7F))
            strbuf_printf(out, "\\x%02x", c);
        else
            strbuf_putc(out, (char)c);
    }
    if (!whole) strbuf_puts(out, "…");
    strbuf_putc(out, quote);
}

void literal_put_str(strbuf_t *out, const char *text, size_t n, bool whole) {
    literal_put_quoted(out, text, n, whole, false);
}

/* The fewest digits that read back as the same number. */
static void literal_put_float(strbuf_t *out, double x) {
    char text[40];
    if (isnan(x)) {
        strbuf_puts(out, "float('nan')");
        return;
    }
    if (isinf(x)) {
        strbuf_puts(out, x > 0 ? "float('inf')" : "float('-inf')");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    strbuf_puts(out, text);
    if (!strpbrk(text, ".e")) strbuf_puts(out, ".0");
}

static bool literal_whole_text(const lowtide_value *v) {
    uint64_t points = 0;
    for (uint32_t i = 0; i < v->text_bytes; i++) {
        points += ((unsigned char)v->text[i] & 0xC0) != 0x80;
        /* What was not valid UTF-8 (lone surrogates) was replaced by U+FFFD. */
        if (v->text_bytes - i >= 3 && memcmp(v->text + i, "\xEF\xBF\xBD", 3) == 0) return false;
    }
    return points == v->length;
}

/* Everything but tuples. */
static void literal_put_value(const model_t *m, const lowtide_object *o, strbuf_t *out,
                              bool *exact) {
    const lowtide_value *v = &o->value;
    bool whole = true;
    switch (v->kind) {
    case LOWTIDE_VALUE_STR:
        whole = literal_whole_text(v);
        literal_put_str(out, v->text, v->text_bytes, v->length <= v->text_bytes);
        break;
    case LOWTIDE_VALUE_BYTES:
        whole = v->length == v->text_bytes;
        strbuf_putc(out, 'b');
        literal_put_quoted(out, v->text, v->text_bytes, whole, true);
        break;
    case LOWTIDE_VALUE_INT:
        strbuf_printf(out, "%lld", (long long)v->integer);
        break;
    case LOWTIDE_VALUE_FLOAT:
        literal_put_float(out, v->real);
        whole = !isnan(v->real);
        break;
    case LOWTIDE_VALUE_BOOL:
        strbuf_puts(out, v->integer ? "True" : "False");
        break;
    default: {
        const char *type = model_type_name(m, o->id);
        if (strcmp(type, "NoneType") == 0) {
            strbuf_puts(out, "None");
        } else if (v->kind == LOWTIDE_VALUE_NAME) {
            const char *end = memchr(v->text, 0x1F, v->text_bytes);
            strbuf_printf(out, "<%s %.*s>", type, (int)(end ? end - v->text : v->text_bytes),
                          v->text);
            whole = false;
        } else {
            strbuf_printf(out, "<%s>", type);
            whole = false;
        }
    }
    }
    if (!whole) *exact = false;
}

typedef struct literal_level {
    uint32_t id, next;
} literal_level_t;

int literal_put(const model_t *m, uint32_t id, strbuf_t *out, bool *exact, err_t *e) {
    literal_level_t stack[LITERAL_DEPTH_MAX];
    uint32_t depth = 0;
    lowtide_object o;
    if (id == LOWTIDE_NONE) { /* a value without its key */
        strbuf_puts(out, "…");
        *exact = false;
        return 0;
    }
    for (;;) {
        int status = model_read(m, id, &o, e);
        if (status) return status;
        bool tuple = strcmp(model_type_name(m, id), "tuple") == 0;
        if (tuple && depth < LITERAL_DEPTH_MAX && o.edge_count <= LITERAL_ITEMS_MAX) {
            strbuf_putc(out, '(');
            stack[depth++] = (literal_level_t){id, 0};
        } else {
            literal_put_value(m, &o, out, exact);
        }
        /* The next item of the innermost tuple that has one; those that are at their end are
         * closed. */
        for (;; depth--) {
            if (depth == 0) return 0;
            literal_level_t *level = &stack[depth - 1];
            if ((status = model_read(m, level->id, &o, e))) return status;
            uint32_t items = level->next, first = model_shape_of(m, level->id)->fixed_count;
            if (first + items < o.edge_count && o.edges[first + items] != LOWTIDE_NONE) {
                if (items) strbuf_puts(out, ", ");
                id = o.edges[first + items];
                level->next++;
                break;
            }
            strbuf_puts(out, items == 1 ? ",)" : ")");
        }
    }
}
