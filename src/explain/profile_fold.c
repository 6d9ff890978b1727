#define _GNU_SOURCE
#include "explain/profile_fold.h"

#include "base/map.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

enum { DOMAINS = 6, PARTS_FIRST = 1 << 30 };

static void add_up(const profile_t *p, profile_node_t *nodes) {
    for (uint32_t i = 0; i < p->stack_count; i++) {
        uint32_t parent = p->stacks[i].parent;
        nodes[i + 1].parent = parent == LOWTIDE_NONE || parent >= i ? 0 : parent + 1;
    }
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        uint32_t at = c->stack < p->stack_count ? c->stack + 1 : 0;
        for (int f = 0; f < PROFILE_FIGURES; f++) nodes[at].bytes[f] += c->sums.bytes[f];
    }
    for (uint32_t i = p->stack_count; i > 0; i--) { /* parents stand before their children */
        for (int f = 0; f < PROFILE_FIGURES; f++)
            nodes[nodes[i].parent].bytes[f] += nodes[i].bytes[f];
    }
}

static void keep(profile_nodes_t *n, uint32_t figures) {
    n->kept = 1;
    n->at[0].kept = true;
    for (uint32_t i = 1; i < n->count; i++) {
        profile_node_t *node = &n->at[i];
        node->kept = false;
        for (int f = 0; f < PROFILE_FIGURES && !node->kept; f++)
            node->kept = figures >> f & 1 && node->bytes[f] &&
                         node->bytes[f] >= n->at[0].bytes[f] / n->parts;
        if (node->kept) node->place = n->kept++;
    }
}

int profile_nodes(const profile_t *p, const profile_fold_t *how, profile_nodes_t *out) {
    *out = (profile_nodes_t){.count = p->stack_count + 1, .parts = how->parts};
    out->at = mem_alloc(out->count * sizeof *out->at);
    if (!out->at) return -ENOMEM;
    memset(out->at, 0, out->count * sizeof *out->at);
    add_up(p, out->at);
    for (keep(out, how->figures); out->kept > how->most && out->parts > 1;) {
        out->parts /= 2;
        keep(out, how->figures);
    }
    return 0;
}

void profile_nodes_free(profile_nodes_t *nodes) {
    mem_free(nodes->at);
    *nodes = (profile_nodes_t){0};
}

/* One more frame and stack, for what has no caller. */
static int add_stack(profile_t *p) {
    profile_frame_t *frames = arena_alloc(&p->arena, (p->frame_count + 1) * sizeof *frames);
    profile_stack_t *stacks = arena_alloc(&p->arena, (p->stack_count + 1) * sizeof *stacks);
    if (!frames || !stacks) return -ENOMEM;
    memcpy(frames, p->frames, p->frame_count * sizeof *frames);
    memcpy(stacks, p->stacks, p->stack_count * sizeof *stacks);
    frames[p->frame_count] = (profile_frame_t){.kind = PROFILE_OTHER,
                                               .inlined_in = LOWTIDE_NONE,
                                               .function = "(stacks folded away)",
                                               .file = "",
                                               .module = "",
                                               .build_id = "",
                                               .source = ""};
    stacks[p->stack_count++] = (profile_stack_t){.parent = LOWTIDE_NONE,
                                                 .frame = p->frame_count++,
                                                 .site = LOWTIDE_NONE,
                                                 .line = LOWTIDE_NONE};
    p->frames = frames;
    p->stacks = stacks;
    return 0;
}

static int move_cells(profile_t *p, const profile_node_t *nodes, map_t *known) {
    uint32_t left = p->stack_count - 1, kept = 0;
    for (uint32_t i = 0; i < p->cell_count; i++) {
        profile_cell_t cell = p->cells[i];
        uint32_t node = cell.stack + 1;
        while (!nodes[node].kept) node = nodes[node].parent;
        cell.stack = node ? node - 1 : left;
        uint64_t key =
            ((uint64_t)cell.process * p->stack_count + cell.stack) * DOMAINS + cell.domain;
        int fresh;
        uint32_t *at = map_put(known, key, &fresh);
        if (!at) return -ENOMEM;
        if (fresh) {
            *at = kept;
            p->cells[kept++] = cell;
        } else {
            profile_add_sums(&p->cells[*at].sums, &cell.sums);
        }
    }
    p->cell_count = kept;
    return 0;
}

int profile_fold(profile_t *p, uint32_t most, uint64_t *parts, err_t *e) {
    const profile_fold_t how = {(1u << PROFILE_FIGURES) - 1, PARTS_FIRST, most};
    profile_nodes_t nodes = {0};
    map_t known = {0};
    *parts = 0;
    if (p->stack_count <= most) return 0;
    int status = profile_nodes(p, &how, &nodes);
    if (!status && nodes.kept < nodes.count) {
        *parts = nodes.parts;
        status = add_stack(p);
        if (!status) status = move_cells(p, nodes.at, &known);
    }
    map_free(&known);
    profile_nodes_free(&nodes);
    return status ? err_set(e, status, "no memory to fold the stacks") : 0;
}
