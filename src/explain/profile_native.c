#define _GNU_SOURCE
#include "explain/profile_native.h"

#include "base/mem.h"
#include "base/vec.h"

#include <errno.h>
#include <string.h>

VEC_DEFINE(native_frames, profile_frame_t);

uint32_t profile_native_chain(const profile_t *p, uint32_t frame, uint32_t *out) {
    uint32_t count = 0;
    for (; frame != LOWTIDE_NONE && count < NAMER_PLACES_MAX; frame = p->frames[frame].inlined_in)
        out[count++] = frame;
    return count;
}

static const char *keep_text(profile_t *p, const char *text) {
    size_t n = strlen(text) + 1;
    char *kept = arena_alloc(&p->arena, n);
    return kept ? memcpy(kept, text, n) : NULL;
}

static int take_place(profile_t *p, const namer_place_t *place, profile_frame_t *out) {
    if (*place->function && !(out->function = keep_text(p, place->function))) return -ENOMEM;
    if (!place->line) return 0;
    out->line = place->line;
    out->file = keep_text(p, place->file);
    return out->file ? 0 : -ENOMEM;
}

static int name_frame(profile_t *p, uint32_t i, const namer_t *namer, native_frames_t *more) {
    namer_place_t places[NAMER_PLACES_MAX];
    const profile_frame_t asked = p->frames[i];
    uint32_t count = namer->name(namer->self, asked.module, asked.build_id, asked.offset, places);
    for (uint32_t k = 0; k < count; k++) {
        profile_frame_t *frame = &p->frames[i];
        if (k) {
            if (native_frames_push(more, asked)) return -ENOMEM;
            profile_frame_t *inner = k == 1 ? frame : &more->at[more->count - 2];
            inner->inlined_in = p->frame_count + (uint32_t)more->count - 1;
            frame = &more->at[more->count - 1];
        }
        if (take_place(p, &places[k], frame)) return -ENOMEM;
    }
    return 0;
}

/* What another was inlined into was named with it. */
static bool *outer_frames(const profile_t *p) {
    bool *outer = mem_alloc(p->frame_count + 1);
    if (!outer) return NULL;
    memset(outer, 0, p->frame_count + 1);
    for (uint32_t i = 0; i < p->frame_count; i++)
        if (p->frames[i].inlined_in != LOWTIDE_NONE) outer[p->frames[i].inlined_in] = true;
    return outer;
}

int profile_native_name(profile_t *p, const namer_t *namer) {
    if (!namer) return 0;
    native_frames_t more = {0};
    bool *outer = outer_frames(p);
    int status = outer ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < p->frame_count && !status; i++) {
        const profile_frame_t *f = &p->frames[i];
        if (f->kind == PROFILE_NATIVE && !f->line && *f->build_id && !outer[i] &&
            f->inlined_in == LOWTIDE_NONE)
            status = name_frame(p, i, namer, &more);
    }
    if (!status && more.count) {
        size_t count = p->frame_count + more.count;
        profile_frame_t *all = arena_alloc(&p->arena, count * sizeof *all);
        if (all) {
            memcpy(all, p->frames, p->frame_count * sizeof *all);
            memcpy(all + p->frame_count, more.at, more.count * sizeof *all);
            p->frames = all;
            p->frame_count = (uint32_t)count;
        } else {
            status = -ENOMEM;
        }
    }
    native_frames_free(&more);
    mem_free(outer);
    return status;
}
