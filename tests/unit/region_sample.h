/* A small region (control/region.h) as an agent would make it: two frames, two stacks, two cells, a block and an event. */
#ifndef TESTS_REGION_SAMPLE_H
#define TESTS_REGION_SAMPLE_H

#include "control/region.h"

#include <stddef.h>
#include <string.h>

typedef struct region_sample {
    region_t head;
    char texts[64];
    region_frame_t frames[4];
    region_stack_t stacks[4];
    region_cell_t cells[4];
    region_block_t blocks[8];
    region_event_t events[4];
} region_sample_t;

static uint32_t region_sample_text(region_sample_t *r, const char *text) {
    uint32_t at = (uint32_t)r->head.texts.used, n = (uint32_t)strlen(text);
    memcpy(r->texts + at, &n, sizeof n);
    memcpy(r->texts + at + sizeof n, text, n);
    r->head.texts.used = (at + sizeof n + n + 3) & ~3u;
    return at;
}

static void region_sample_part(region_part_t *part, size_t offset, size_t room, size_t used) {
    part->offset = offset;
    part->room = room;
    part->used = used;
}

static void region_sample(region_sample_t *r) {
    memset((void *)r, 0, sizeof *r);
    region_t *h = &r->head;
    h->magic = REGION_MAGIC;
    h->version = REGION_VERSION;
    h->mode = REGION_SAMPLED;
    h->bytes = sizeof *r;
    h->interval_bytes = 512 << 10;
    h->heap_epoch = 2;
    h->rss_epoch = 1;
    h->heap_bytes = 3000;
    h->snapshot_above = INT64_MAX;
    region_sample_part(&h->texts, offsetof(region_sample_t, texts), sizeof r->texts, 4);
    region_sample_part(&h->frames, offsetof(region_sample_t, frames), 4, 2);
    region_sample_part(&h->stacks, offsetof(region_sample_t, stacks), 4, 2);
    region_sample_part(&h->cells, offsetof(region_sample_t, cells), 4, 2);
    region_sample_part(&h->blocks, offsetof(region_sample_t, blocks), 8, 8);
    region_sample_part(&h->events, offsetof(region_sample_t, events), 4, 1);
    uint32_t file = region_sample_text(r, "app.py");
    r->frames[0] = (region_frame_t){
        .function = region_sample_text(r, "main"), .file = file, .line = 7, .kind = 1};
    r->frames[1] = (region_frame_t){
        .function = region_sample_text(r, "build"), .file = file, .line = 3, .kind = 1};
    r->stacks[0] = (region_stack_t){0, 0};
    r->stacks[1] = (region_stack_t){1, 1};
    for (uint32_t i = 0; i < 2; i++) {
        r->cells[i].stack = i;
        r->cells[i].live.bytes = r->cells[i].total.bytes = 1000 * (i + 1);
        r->cells[i].live.blocks = r->cells[i].total.blocks = i + 1;
        r->cells[i].domain = REGION_OBJECT;
    }
    r->blocks[5].address = 0x7000;
    r->blocks[5].bytes = 100;
    r->blocks[5].cell = 1;
    r->events[0] = (region_event_t){
        .t_ns = 1, .kind = REGION_EVENT_MARK, .text = region_sample_text(r, "loaded")};
}

#endif
