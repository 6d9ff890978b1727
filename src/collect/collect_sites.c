#include "collect/collect_sites.h"

#include "format/rec_bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DEPTH_MOST = 1024 };

int sites_begin(collect_sites_t *s) {
    *s = (collect_sites_t){0};
    return collect_texts_push(&s->texts, '\0');
}

void sites_free(collect_sites_t *s) {
    collect_texts_free(&s->texts);
    collect_frames_free(&s->frames);
    collect_stacks_free(&s->stacks);
    collect_stack_lines_free(&s->lines);
    map_free(&s->text_numbers);
    map_free(&s->frame_numbers);
    map_free(&s->stack_numbers);
    symbols_free(s->symbols);
}

void sites_seen_free(collect_seen_t *seen) {
    collect_numbers_free(&seen->frames);
    collect_numbers_free(&seen->stacks);
    collect_cells_free(&seen->cells);
    collect_lines_free(&seen->lines);
}

/* 64 bits of a good hash stand for the whole: with a million sites two are taken for one once in 37 million runs. */
static uint32_t *number_of(map_t *map, const void *key, size_t n, int *fresh) {
    uint64_t hash = rec_checksum(key, n);
    return map_put(map, hash == MAP_NO_KEY ? 0 : hash, fresh);
}

uint32_t sites_text(collect_sites_t *s, const char *text, size_t n) {
    int fresh;
    if (!n || s->full) return 0;
    n = strnlen(text, n);
    uint32_t *number = number_of(&s->text_numbers, text, n, &fresh);
    if (!number || (fresh && (s->texts.count + n + 1 > UINT32_MAX ||
                              collect_texts_reserve(&s->texts, n + 1)))) {
        s->full = true;
        if (number) *number = 0;
        return 0;
    }
    if (!fresh) return *number;
    *number = (uint32_t)s->texts.count;
    memcpy(s->texts.at + s->texts.count, text, n);
    s->texts.at[s->texts.count + n] = '\0';
    s->texts.count += n + 1;
    return *number;
}

const char *sites_text_at(const collect_sites_t *s, uint32_t text) {
    return text < s->texts.count ? s->texts.at + text : "";
}

/* Frame i, and behind it those that it was inlined into. Without a name it is called by its place. */
static void name_native(collect_sites_t *s, pid_t pid, uint32_t i) {
    symbols_place_t found[SYMBOLS_PLACES_MAX];
    const collect_frame_t asked = s->frames.at[i];
    const char *module = sites_text_at(s, asked.module), *slash = strrchr(module, '/');
    uint32_t count = 0;
    found[0] = (symbols_place_t){0};
    if (!s->symbols) s->symbols = symbols_new(NULL);
    if (s->symbols)
        count = symbols_find(s->symbols, pid, module, sites_text_at(s, asked.build_id),
                             asked.offset, found);
    for (uint32_t k = 0; k < (count ? count : 1); k++) {
        symbols_place_t *place = &found[k];
        if (k && collect_frames_push(&s->frames, asked)) return;
        if (k) s->frames.at[i].inlined_in = (uint32_t)s->frames.count;
        if (k) i = (uint32_t)s->frames.count - 1;
        if (!place->function[0])
            snprintf(place->function, sizeof place->function, "%.400s+0x%" PRIx64,
                     slash ? slash + 1 : module, asked.offset);
        uint32_t function = sites_text(s, place->function, strlen(place->function));
        uint32_t file =
            place->line ? sites_text(s, place->file, strlen(place->file)) : asked.module;
        s->frames.at[i].function = function;
        s->frames.at[i].file = file;
        s->frames.at[i].line = place->line;
    }
}

static uint32_t frame_number(collect_sites_t *s, pid_t pid, const collect_frame_t *frame) {
    int fresh;
    uint64_t key[5] = {
        (uint64_t)frame->kind << 32 | frame->function, (uint64_t)frame->file << 32 | frame->line,
        (uint64_t)frame->module << 32 | frame->build_id, frame->first_line, frame->offset};
    uint32_t *number = s->full ? NULL : number_of(&s->frame_numbers, key, sizeof key, &fresh);
    if (!number || (fresh && collect_frames_push(&s->frames, *frame))) {
        s->full = true;
        if (number) *number = 0;
        return 0;
    }
    if (!fresh) return *number;
    *number = (uint32_t)s->frames.count - 1;
    uint32_t ours = *number;
    if (frame->kind == REGION_FRAME_NATIVE) name_native(s, pid, ours);
    return ours;
}

static uint32_t stack_number(collect_sites_t *s, collect_stack_t stack) {
    int fresh;
    uint32_t key[2] = {stack.parent, stack.frame};
    uint32_t *number = s->full ? NULL : number_of(&s->stack_numbers, key, sizeof key, &fresh);
    if (!number || (fresh && collect_stacks_push(&s->stacks, stack))) {
        s->full = true;
        if (number) *number = 0;
        return 0;
    }
    if (fresh) *number = (uint32_t)s->stacks.count - 1;
    return *number;
}

/* Room for number i. */
static int numbers_room(collect_numbers_t *v, uint32_t i) {
    if (i < v->count) return 0;
    if (collect_numbers_reserve(v, i + 1 - v->count)) return -ENOMEM;
    v->count = i + 1; /* what lies between reads as 0: not known */
    return 0;
}

/* What a damaged region leads to. */
static uint32_t unknown_frame(collect_sites_t *s) {
    return frame_number(s, 0, &(collect_frame_t){.kind = REGION_FRAME_OTHER});
}

static uint32_t read_frame(collect_sites_t *s, pid_t pid, const observed_t *o, collect_seen_t *seen,
                           uint32_t i) {
    region_frame_t frame;
    if (!observed_frame(o, i, &frame)) return unknown_frame(s);
    if (i < seen->frames.count && seen->frames.at[i]) return seen->frames.at[i] - 1;
    observed_text_t function = observed_text(o, frame.function);
    observed_text_t file = observed_text(o, frame.file);
    collect_frame_t ours = {
        .kind = frame.kind >= REGION_FRAME_PYTHON && frame.kind <= REGION_FRAME_OTHER
                    ? frame.kind
                    : REGION_FRAME_OTHER,
        .function = sites_text(s, function.at, function.bytes),
        .file = sites_text(s, file.at, file.bytes),
        .line = frame.line,
        .first_line = frame.first_line,
        .offset = frame.offset,
    };
    if (ours.kind == REGION_FRAME_NATIVE) {
        observed_text_t build_id = observed_text(o, frame.build_id);
        ours.module = ours.file;
        ours.build_id = sites_text(s, build_id.at, build_id.bytes);
    }
    uint32_t number = frame_number(s, pid, &ours);
    if (numbers_room(&seen->frames, i) == 0) seen->frames.at[i] = number + 1;
    return number;
}

/* From the leaf outwards to a stack that is known, and back. A parent stands before its child, so that comes to an end. */
static uint32_t read_stack(collect_sites_t *s, pid_t pid, const observed_t *o, collect_seen_t *seen,
                           uint32_t leaf) {
    uint32_t path[DEPTH_MOST], frames[DEPTH_MOST], n = 0, parent = 0;
    for (uint32_t i = leaf; n < DEPTH_MOST;) {
        region_stack_t stack;
        if (i < seen->stacks.count && seen->stacks.at[i]) {
            parent = seen->stacks.at[i];
            break;
        }
        if (!observed_stack(o, i, &stack)) break;
        path[n] = i;
        frames[n++] = stack.frame;
        if (!stack.parent || stack.parent > i) break;
        i = stack.parent - 1;
    }
    while (n-- > 0) {
        collect_stack_t ours = {.parent = parent, .frame = read_frame(s, pid, o, seen, frames[n])};
        parent = stack_number(s, ours) + 1;
        if (numbers_room(&seen->stacks, path[n]) == 0) seen->stacks.at[path[n]] = parent;
    }
    return parent ? parent - 1 : stack_number(s, (collect_stack_t){.frame = unknown_frame(s)});
}

bool sites_read(collect_sites_t *s, pid_t pid, const observed_t *o, collect_seen_t *seen) {
    bool changed = false;
    if (!o->region) return false;
    uint64_t cells = observed_used(&o->cells);
    for (uint64_t i = 0; i < cells; i++) {
        observed_cell_t cell;
        if (i == seen->cells.count && collect_cells_push(&seen->cells, (collect_cell_t){0}))
            return changed;
        if (!observed_cell(o, i, &cell)) continue; /* being made */
        collect_cell_t *ours = seen->cells.at + i;
        cell.stack =
            ours->figures.domain ? ours->figures.stack : read_stack(s, pid, o, seen, cell.stack);
        if (memcmp(&ours->figures, &cell, sizeof cell) == 0) continue;
        ours->figures = cell;
        ours->changed = changed = true;
    }
    return changed;
}
