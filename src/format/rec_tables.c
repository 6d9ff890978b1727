#include "base/mem.h"
#include "base/varint.h"
#include "format/rec_reader.h"
#include "format/rec_utf8.h"

#include <errno.h>
#include <string.h>

static int rec_bad(const char **why, const char *reason) {
    *why = reason;
    return -EBADMSG;
}

/* A text: its offset in rec->texts. NUL is refused, since the texts are handed out ending in it. */
int rec_text_take(lowtide_recording *rec, const uint8_t **p, const uint8_t *end, uint32_t *offset,
                  const char **why) {
    uint64_t n;
    const uint8_t *text = varint_get(*p, end, &n);
    if (!text || n > (size_t)(end - text)) return rec_bad(why, "a text goes beyond its section");
    if (!utf8_is_valid((const char *)text, n) || memchr(text, 0, n)) {
        return rec_bad(why, "a text is not UTF-8");
    }
    if (rec_texts_reserve(&rec->texts, n + 1)) return -ENOMEM;
    *offset = (uint32_t)rec->texts.count;
    memcpy(rec->texts.at + *offset, text, n);
    rec->texts.at[*offset + n] = '\0';
    rec->texts.count += n + 1;
    *p = text + n;
    return 0;
}

int rec_meta_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end, const char **why) {
    while (p < end) {
        rec_pair_t pair;
        int status = rec_text_take(rec, &p, end, &pair.key, why);
        if (!status) status = rec_text_take(rec, &p, end, &pair.value, why);
        if (status) return status;
        size_t i = 0;
        const char *texts = rec->texts.at;
        while (i < rec->meta.count && strcmp(texts + rec->meta.at[i].key, texts + pair.key)) i++;
        if (i < rec->meta.count) {
            rec->meta.at[i].value = pair.value;
        } else if (i >= REC_META_MOST) {
            return rec_bad(why, "there are too many meta keys");
        } else if (rec_pairs_push(&rec->meta, pair)) {
            return -ENOMEM;
        }
    }
    return 0;
}

int rec_strings_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end,
                     const char **why) {
    while (p < end) {
        uint32_t offset;
        if (rec->strings.count == REC_STRINGS_MOST)
            return rec_bad(why, "there are too many strings");
        int status = rec_text_take(rec, &p, end, &offset, why);
        if (status) return status;
        if (rec_offsets_push(&rec->strings, offset)) return -ENOMEM;
    }
    return 0;
}

typedef struct rec_cursor {
    const uint8_t *p, *end;
    uint32_t strings; /* how many there are */
    int bad;
} rec_cursor_t;

static uint64_t rec_take(rec_cursor_t *c, uint64_t most) {
    uint64_t v = 0;
    const uint8_t *p = c->bad ? NULL : varint_get(c->p, c->end, &v);
    if (!p || v > most) {
        c->bad = 1;
        return 0;
    }
    c->p = p;
    return v;
}

static uint32_t rec_take_string(rec_cursor_t *c) {
    uint64_t string = rec_take(c, UINT32_MAX - 1);
    if (string >= c->strings) c->bad = 1;
    return (uint32_t)string;
}

static lowtide_label rec_take_label(rec_cursor_t *c) {
    uint64_t head = rec_take(c, UINT64_MAX);
    lowtide_label label = {.kind = (uint8_t)(head & REC_LABEL_KIND),
                           .borrowed = (head & REC_LABEL_BORROWED) != 0,
                           .name = LOWTIDE_NONE};
    if (label.kind < LOWTIDE_CLASS || label.kind > LOWTIDE_ROOT) label.kind = LOWTIDE_REFERENCE;
    if (head & REC_LABEL_NAMED) label.name = rec_take_string(c);
    return label;
}

static int rec_shape_take(lowtide_recording *rec, rec_cursor_t *c) {
    lowtide_shape shape = {0};
    uint64_t type = rec_take(c, UINT32_MAX);
    uint64_t kind = rec_take(c, UINT64_MAX);
    shape.type = type ? (uint32_t)type - 1 : LOWTIDE_NONE;
    shape.kind = kind > LOWTIDE_SHAPE_OTHER ? LOWTIDE_SHAPE_OTHER : (uint8_t)kind;
    shape.flags = (uint32_t)rec_take(c, UINT64_MAX);
    shape.name = rec_take_string(c);
    uint64_t module = rec_take(c, c->strings);
    shape.module = module ? (uint32_t)module - 1 : LOWTIDE_NONE;
    /* Each label takes a byte at least, so the count asks for no more than the file can pay. */
    shape.fixed_count = (uint32_t)rec_take(c, (uint64_t)(c->end - c->p));
    lowtide_label *fixed = NULL;
    if (shape.fixed_count) {
        fixed = arena_alloc(&rec->arena, shape.fixed_count * sizeof *fixed);
        if (!fixed) return -ENOMEM;
    }
    for (uint32_t i = 0; i < shape.fixed_count && !c->bad; i++) fixed[i] = rec_take_label(c);
    shape.fixed = fixed;
    shape.repeat_count = (uint32_t)rec_take(c, 2);
    for (uint32_t i = 0; i < shape.repeat_count; i++) shape.repeat[i] = rec_take_label(c);
    if (c->bad) return -EBADMSG;

    rec_code_t code = {.fixed = shape.fixed_count,
                       .type = shape.type,
                       .has_repeat = shape.repeat_count > 0,
                       .class_hidden = shape.type != LOWTIDE_NONE && shape.fixed_count &&
                                       fixed[0].kind == LOWTIDE_CLASS};
    if (rec_shapes_push(&rec->shapes, shape)) return -ENOMEM;
    return rec_codes_push(&rec->codes, code);
}

int rec_shapes_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end,
                    const char **why) {
    rec_cursor_t c = {.p = p, .end = end, .strings = (uint32_t)rec->strings.count};
    while (c.p < end) {
        if (rec->shapes.count == REC_SHAPES_MOST) return rec_bad(why, "there are too many shapes");
        int status = rec_shape_take(rec, &c);
        if (status == -EBADMSG) return rec_bad(why, "a shape makes no sense");
        if (status) return status;
    }
    return 0;
}

const char *lowtide_meta(const lowtide_recording *rec, const char *key) {
    for (size_t i = 0; i < rec->meta.count; i++) {
        if (!strcmp(rec->texts.at + rec->meta.at[i].key, key)) {
            return rec->texts.at + rec->meta.at[i].value;
        }
    }
    return NULL;
}

int lowtide_meta_at(const lowtide_recording *rec, uint32_t i, const char **key,
                    const char **value) {
    if (i >= rec->meta.count) return 0;
    *key = rec->texts.at + rec->meta.at[i].key;
    *value = rec->texts.at + rec->meta.at[i].value;
    return 1;
}

const char *lowtide_string(const lowtide_recording *rec, uint32_t string) {
    return string < rec->strings.count ? rec->texts.at + rec->strings.at[string] : "";
}

uint32_t lowtide_shapes(const lowtide_recording *rec) {
    return (uint32_t)rec->shapes.count;
}

const lowtide_shape *lowtide_shape_at(const lowtide_recording *rec, uint32_t shape) {
    return shape < rec->shapes.count ? rec->shapes.at + shape : NULL;
}

lowtide_label lowtide_label_at(const lowtide_shape *shape, uint32_t k, uint32_t *index) {
    *index = 0;
    if (k < shape->fixed_count) return shape->fixed[k];
    if (!shape->repeat_count)
        return (lowtide_label){.kind = LOWTIDE_REFERENCE, .name = LOWTIDE_NONE};
    k -= shape->fixed_count;
    *index = k / shape->repeat_count;
    return shape->repeat[k % shape->repeat_count];
}
