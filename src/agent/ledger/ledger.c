#define _GNU_SOURCE
#include "agent/ledger/ledger.h"

#include "agent/free/libc_trim.h"
#include "agent/ledger/heaps.h"
#include "agent/ledger/maps.h"
#include "agent/ledger/stacks.h"
#include "base/mem.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    GUARD_MAX = 1 << 20, /* below a thread's stack */
    STACK_MIN = 16384,
    NAMED =
        256, /* libraries and files that are told apart before the smaller ones are put together */
    LIBRARIES_SAID = 12,
    FILES_SAID = 6,
    PINS_SAID = 3,
    DEEPER_SAID_MIN = 1 << 20,
    PRIVATE_MIN = 1 << 20, /* from here on somebody meant to map it */
    MAPPINGS_MAX = 16384
};

/* Where mimalloc asks for its memory to be, and nobody else's is. */
#define MIMALLOC_LOW  ((uintptr_t)2 << 40)
#define MIMALLOC_HIGH ((uintptr_t)30 << 40)

enum line {
    LINE_OBJECTS,
    LINE_BLOCKS,
    LINE_POOLS,
    LINE_FRAMES,
    LINE_MALLOC_USED,
    LINE_MALLOC_FREE,
    LINE_MALLOC_LARGE,
    LINE_MIMALLOC,
    LINE_STACKS,
    LINE_PYTHON,
    LINE_LOWTIDE,
    LINE_SHARED,
    LINE_PRIVATE,
    LINE_UNEXPLAINED,
    LINES
};
static const char *const line_names[LINES] = {
    [LINE_OBJECTS] = "Python objects (pymalloc)",
    [LINE_BLOCKS] = "free blocks in used pools",
    [LINE_POOLS] = "empty pools",
    [LINE_FRAMES] = "Python frames",
    [LINE_MALLOC_USED] = "malloc: in use",
    [LINE_MALLOC_FREE] = "malloc: free, but held",
    [LINE_MALLOC_LARGE] = "malloc: large blocks, each mapped",
    [LINE_MIMALLOC] = "pyarrow's memory pool (mimalloc)",
    [LINE_STACKS] = "thread stacks",
    [LINE_PYTHON] = "interpreter: code and data",
    [LINE_LOWTIDE] = "lowtide itself",
    [LINE_SHARED] = "shared memory",
    [LINE_PRIVATE] = "private mappings",
    [LINE_UNEXPLAINED] = "unexplained",
};

typedef struct named {
    char name[LEDGER_NAME_BYTES];
    uint64_t bytes;
} named_t;

typedef struct work {
    ledger_t *l;
    maps_t maps;
    res_t resident;
    stack_points_t points;
    uint64_t deeper_bytes; /* of stacks: resident, below where their threads stand */
    uint64_t bytes[LINES];
    uint64_t arena_bytes;        /* resident, of all arenas, now */
    heap_sum_t heaps, main_heap; /* of threads' arenas but for the last two fields; of the break */
    uint32_t arena_heaps, stacks, large, private_count;
    bool heap_walked;
    uint64_t heap_free; /* of the program break, not dealt out yet */
    uintptr_t block_end,
        reach; /* of a mapped block; of the mappings in a row that it may go over */
    bool glibc, has_arrow;
    const char *python; /* the file that holds the interpreter */
    const char *malloc_name;
    uint64_t anonymous_bytes; /* of an allocator that is not glibc's */
    named_t libraries[NAMED], files[NAMED];
    uint32_t library_count, file_count;
    char exe[4096];
} work_t;

/* Hands out what a mapping has left. */
static uint64_t take(work_t *w, int line, uint64_t *left, uint64_t bytes) {
    if (bytes > *left) bytes = *left;
    *left -= bytes;
    w->bytes[line] += bytes;
    return bytes;
}

static void add_named(named_t *list, uint32_t *count, const char *path, uint64_t bytes) {
    uint32_t i = 0;
    if (!bytes) return;
    while (i < *count && strncmp(list[i].name, path, sizeof list[i].name - 1) != 0) i++;
    if (i == NAMED) i = NAMED - 1;
    if (i == *count) {
        ++*count;
        snprintf(list[i].name, sizeof list[i].name, "%s", path);
    }
    list[i].bytes += bytes;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ── Anonymous memory ── */

static void note_mapping(work_t *w, int line, uintptr_t begin, uintptr_t end, uint64_t bytes) {
    ledger_mappings_t *v = &w->l->mappings;
    if (v->count >= MAPPINGS_MAX) return;
    /* One less that finds its owner, where memory is out. */
    (void)ledger_mappings_push(v, (ledger_mapping_t){begin, end, bytes, line_names[line]});
}

static uint64_t mapped_blocks(work_t *w, uintptr_t begin, uintptr_t end) {
    uint64_t bytes = 0;
    for (uintptr_t p = begin; p + RES_PAGE <= end;) {
        uintptr_t stop = w->block_end; /* of one that began in the mapping before */
        if (p >= stop) stop = res_page(&w->resident, p) ? heaps_mapped_block(p, w->reach) : p;
        if (stop > p) {
            uint64_t here = res_bytes(&w->resident, p, stop < end ? stop : end);
            if (p >= w->block_end) {
                w->large++;
                note_mapping(w, LINE_MALLOC_LARGE, p, stop, here);
            } else if (w->l->mappings.count) { /* what advice has cut off: of the same block */
                w->l->mappings.at[w->l->mappings.count - 1].resident_bytes += here;
            }
            w->block_end = stop;
            bytes += here;
            p = stop;
        } else {
            p += RES_PAGE;
        }
    }
    return bytes;
}

static void note_heap(work_t *w, const map_entry_t *v, bool main, const heap_sum_t *sum) {
    ledger_heap_t one = {.address = v->begin,
                         .main = main,
                         .bytes = v->end - v->begin,
                         .resident_bytes = res_bytes(&w->resident, v->begin, v->end),
                         .free_bytes = sum->free_bytes,
                         .top_bytes = sum->top_bytes,
                         .returnable_bytes = sum->returnable_bytes};
    (void)ledger_heaps_push(&w->l->heaps, one); /* one less to tell apart, where memory is out */
}

static void note_chunk(void *arg, uintptr_t begin, uintptr_t end) {
    work_t *w = arg;
    note_mapping(w, LINE_MALLOC_USED, begin, end, res_bytes(&w->resident, begin, end));
}

static void take_heap(work_t *w, const map_entry_t *part, uint64_t *left) {
    heap_sum_t one = {.large = note_chunk, .arg = w};
    heaps_walk(part, false, &w->resident, &one);
    uint64_t resident = res_bytes(&w->resident, part->begin, part->end);
    note_heap(w, part, false, &one);
    if (one.free_bytes > resident) one.free_bytes = resident;
    uint64_t taken = take(w, LINE_MALLOC_FREE, left, one.free_bytes);
    w->heaps.returnable_bytes += one.returnable_bytes < taken ? one.returnable_bytes : taken;
    w->heaps.free_chunks += one.free_chunks;
    w->heaps.broken |= one.broken;
    take(w, LINE_MALLOC_USED, left, resident - one.free_bytes);
}

/* A stretch of anonymous memory that is no arena of pymalloc's. */
static void take_stretch(work_t *w, const map_entry_t *v, uintptr_t begin, uintptr_t end,
                         uint64_t *left) {
    while (w->glibc && begin < end) {
        uintptr_t heap = (begin + HEAPS_ALIGN - 1) / HEAPS_ALIGN * HEAPS_ALIGN;
        map_entry_t part = *v;
        part.begin = heap;
        part.end = end;
        while (heap < end && !heaps_is_arena(&part)) part.begin = heap += HEAPS_ALIGN;
        if (heap >= end) break;
        take(w, LINE_MALLOC_LARGE, left, mapped_blocks(w, begin, heap));
        if (part.end - heap > HEAPS_ALIGN) part.end = heap + HEAPS_ALIGN;
        take_heap(w, &part, left);
        w->arena_heaps++;
        begin = part.end;
    }
    if (w->glibc && begin < end) take(w, LINE_MALLOC_LARGE, left, mapped_blocks(w, begin, end));
}

static void take_ranges(work_t *w, const map_entry_t *v, const pools_ranges_t *ranges, int line,
                        uint64_t *left) {
    for (size_t i = 0; i < ranges->count; i++) {
        const pools_range_t *r = &ranges->at[i];
        if (r->begin < v->begin || r->begin >= v->end) continue;
        take(w, line, left, res_bytes(&w->resident, r->begin, r->end < v->end ? r->end : v->end));
    }
}

static void take_anonymous(work_t *w, const map_entry_t *v, uint64_t *left) {
    const pools_ranges_t *arenas = &w->l->pools.arenas;
    uintptr_t at = v->begin;
    take_ranges(w, v, &w->l->pools.frames, LINE_FRAMES, left);
    size_t low = 0, high = arenas->count;
    while (low < high) { /* the first arena that ends behind the beginning */
        size_t mid = (low + high) / 2;
        if (arenas->at[mid].end <= v->begin)
            low = mid + 1;
        else
            high = mid;
    }
    for (size_t i = low; i < arenas->count && arenas->at[i].begin < v->end; i++) {
        const pools_range_t *a = &arenas->at[i];
        uintptr_t begin = a->begin > v->begin ? a->begin : v->begin;
        uintptr_t end = a->end < v->end ? a->end : v->end;
        if (at < begin) take_stretch(w, v, at, begin, left);
        w->arena_bytes += take(w, LINE_OBJECTS, left, res_bytes(&w->resident, begin, end));
        at = end;
    }
    if (at < v->end) take_stretch(w, v, at, v->end, left);
    if (!w->glibc) w->anonymous_bytes += take(w, LINE_MALLOC_USED, left, *left);
}

/* ── Which mapping is what ── */

static uintptr_t row_end(const work_t *w, size_t i) {
    const map_entry_t *v = &w->maps.entries.at[i], *last = v + w->maps.entries.count - 1 - i;
    while (v < last && v[1].begin == v->end && !v[1].name[0] && v[1].writable) v++;
    return v->end;
}

static bool is_stack(const work_t *w, size_t i) {
    const map_entry_t *v = &w->maps.entries.at[i], *below = v - 1;
    return i > 0 && v->writable && below->end == v->begin && !below->readable && !below->writable &&
           !below->executable && !below->name[0] && below->end - below->begin <= GUARD_MAX &&
           v->end - v->begin >= STACK_MIN;
}

static bool is_library(const char *name) {
    const char *at = strstr(name, ".so");
    while (at && at[3] && at[3] != '.' && at[3] != ' ') at = strstr(at + 1, ".so");
    return at != NULL;
}

static bool is_ours(const char *name) {
    const char *base = base_name(name);
    return strncmp(base, "_core.abi3.so", 13) == 0 || strncmp(base, "lowtide-agent.so", 16) == 0 ||
           strncmp(name, "/memfd:lowtide", 14) == 0;
}

static bool is_shared(const map_entry_t *v) {
    return v->shared && (strncmp(v->name, "/dev/", 5) == 0 || strncmp(v->name, "/memfd:", 7) == 0 ||
                         strncmp(v->name, "/SYSV", 5) == 0 || !v->inode);
}

static void take_file(work_t *w, const char *name, uint64_t bytes) {
    if (is_ours(name))
        w->bytes[LINE_LOWTIDE] += bytes;
    else if (strcmp(name, w->exe) == 0 || strcmp(name, w->python) == 0)
        w->bytes[LINE_PYTHON] += bytes;
    else if (is_library(name))
        add_named(w->libraries, &w->library_count, base_name(name), bytes);
    else
        add_named(w->files, &w->file_count, name, bytes);
}

/* Where the data of the loaded object ends in whose midst this address is. */
static uintptr_t zeroed_end(const rt_t *rt, uintptr_t begin) {
    for (uint32_t i = 0; i < rt->range_count; i++) {
        const rt_range_t *r = &rt->ranges[i];
        if (r->kind == RT_RANGE_DATA && r->begin < begin && r->end > begin)
            return (r->end + RES_PAGE - 1) / RES_PAGE * RES_PAGE;
    }
    return begin;
}

/* The beginning of anonymous memory right behind a library's data is its zeroed data; other memory may be mapped behind it. */
static map_entry_t take_zeroed(work_t *w, size_t i, uint64_t *left) {
    map_entry_t v = w->maps.entries.at[i];
    const map_entry_t *below = i > 0 ? &w->maps.entries.at[i - 1] : NULL;
    if (v.name[0] || !below || below->end != v.begin || below->name[0] != '/' || below->shared)
        return v;
    uintptr_t end = zeroed_end(w->l->rt, v.begin);
    if (end > v.end) end = v.end;
    uint64_t bytes = res_bytes(&w->resident, v.begin, end);
    if (end == v.end || bytes > *left) bytes = *left;
    *left -= bytes;
    take_file(w, below->name, bytes);
    v.begin = end;
    return v;
}

/* Advice about huge pages cuts the program break in several mappings: walked as one, dealt out in their order. */
static void take_break(work_t *w, size_t i, uint64_t *left) {
    const map_entry_t *v = &w->maps.entries.at[i];
    if (!w->heap_walked) {
        map_entry_t all = *v;
        size_t n = w->maps.entries.count;
        for (; i + 1 < n && v[1].begin == all.end && strcmp(v[1].name, "[heap]") == 0; i++, v++)
            all.end = v[1].end;
        w->main_heap = (heap_sum_t){.large = note_chunk, .arg = w};
        heaps_walk(&all, true, &w->resident, &w->main_heap);
        note_heap(w, &all, true, &w->main_heap);
        w->heaps.free_chunks += w->main_heap.free_chunks;
        w->heaps.broken |= w->main_heap.broken;
        w->heap_free = w->main_heap.free_bytes;
        w->heap_walked = true;
    }
    w->heap_free -= take(w, LINE_MALLOC_FREE, left, w->heap_free);
    take(w, LINE_MALLOC_USED, left, *left);
}

static void take_stack(work_t *w, const map_entry_t *v, uint64_t *left) {
    uintptr_t point = stacks_point(&w->points, v->begin, v->end) - STACKS_RED_ZONE;
    if (point > v->begin && point < v->end) {
        uint64_t deeper = res_bytes(&w->resident, v->begin, point / RES_PAGE * RES_PAGE);
        w->deeper_bytes += deeper < *left ? deeper : *left;
    }
    take(w, LINE_STACKS, left, *left);
    w->stacks++;
}

static void take_mapping(work_t *w, size_t i) {
    uint64_t left = w->maps.entries.at[i].rss_bytes;
    if (!left) return;
    map_entry_t v = take_zeroed(w, i, &left);
    const char *name = v.name;
    if (strcmp(name, "[heap]") == 0 && w->glibc) {
        take_break(w, i, &left);
    } else if (strncmp(name, "[stack", 6) == 0) {
        take_stack(w, &v, &left);
    } else if (is_shared(&v)) {
        note_mapping(w, LINE_SHARED, v.begin, v.end, left);
        take(w, LINE_SHARED, &left, left);
    } else if (name[0] == '/') {
        take_file(w, name, left);
        return;
    } else if (name[0] == '[' && strncmp(name, "[anon", 5) != 0 && strcmp(name, "[heap]") != 0) {
        add_named(w->libraries, &w->library_count, name, left); /* what the kernel maps: [vdso] */
        return;
    } else if (is_stack(w, i)) {
        take_stack(w, &v, &left);
    } else if (w->has_arrow && v.begin >= MIMALLOC_LOW && v.end <= MIMALLOC_HIGH) {
        note_mapping(w, LINE_MIMALLOC, v.begin, v.end, left);
        take(w, LINE_MIMALLOC, &left, left);
    } else if (v.end - v.begin < HEAPS_RESERVED_MIN) {
        w->reach = row_end(w, i);
        take_anonymous(w, &v, &left);
        if (left >= PRIVATE_MIN) {
            note_mapping(w, LINE_PRIVATE, v.begin, v.end, left);
            w->private_count++;
            take(w, LINE_PRIVATE, &left, left);
        }
    }
    take(w, LINE_UNEXPLAINED, &left, left);
}

/* ── Lines ── */

static ledger_line_t *say(ledger_t *l, const char *name, uint64_t bytes, uint64_t returnable) {
    static ledger_line_t nowhere;
    ledger_line_t *line = l->count < LEDGER_LINES ? &l->lines[l->count++] : &nowhere;
    memset(line, 0, sizeof *line);
    snprintf(line->name, sizeof line->name, "%s", name);
    line->bytes = bytes;
    line->returnable_bytes = returnable < bytes ? returnable : bytes;
    return line;
}

static ledger_line_t *say_line(work_t *w, int line, uint64_t returnable) {
    return say(w->l, line_names[line], w->bytes[line], returnable);
}

/* "1200 tuple in 400 arenas, 3 dict in 2" */
static void say_pins(const pools_t *p, char *out, size_t room) {
    size_t at = (size_t)snprintf(out, room, "%s", p->pin_count ? "" : "blocks that are no objects");
    for (uint32_t i = 0; i < p->pin_count && i < PINS_SAID && at < room; i++)
        at +=
            (size_t)snprintf(out + at, room - at, "%s%" PRIu64 " %s in %" PRIu32 "%s",
                             i ? ", " : "", p->pins[i].objects, p->pins[i].type, p->pins[i].arenas,
                             i                        ? ""
                             : p->pins[i].arenas == 1 ? " arena"
                                                      : " arenas");
}

/* What the arenas have now is dealt out as the books were when the GIL was held. */
static void say_pools(work_t *w) {
    const pools_t *p = &w->l->pools;
    uint64_t all = w->arena_bytes, rest = all;
    uint64_t empty = p->empty_pool_bytes < rest ? p->empty_pool_bytes : rest;
    rest -= empty;
    uint64_t live = p->live_bytes < rest ? p->live_bytes : rest;
    rest -= live;
    w->bytes[LINE_OBJECTS] -= all - live;
    w->bytes[LINE_BLOCKS] = rest;
    w->bytes[LINE_POOLS] = empty;
    ledger_line_t *line;
    if (live) {
        line = say_line(w, LINE_OBJECTS, 0);
        snprintf(line->note, sizeof line->note,
                 "%" PRIu32 " arenas, %" PRIu64 " pools in use; larger objects are malloc's",
                 p->arena_count, p->pool_count - p->empty_pools);
    }
    if (rest) {
        line = say_line(w, LINE_BLOCKS, p->block_returnable_bytes);
        snprintf(line->note, sizeof line->note,
                 "between blocks in use; with the pools' own headers");
    }
    if (empty) {
        line = say_line(w, LINE_POOLS, p->pool_returnable_bytes);
        char pins[240];
        say_pins(p, pins, sizeof pins);
        if (p->pinned)
            snprintf(line->note, sizeof line->note,
                     "%" PRIu32 " of %" PRIu32 " arenas are less than a quarter full, kept by %s",
                     p->pinned, p->arena_count, pins);
    }
}

static void say_malloc(work_t *w) {
    ledger_line_t *line;
    if (w->bytes[LINE_MALLOC_USED]) {
        line = say_line(w, LINE_MALLOC_USED, 0);
        if (!w->glibc)
            snprintf(line->note, sizeof line->note, "%s%s", w->malloc_name,
                     w->l->has_books ? ", by its own books"
                                     : ", which keeps no books: all anonymous memory");
        else
            snprintf(line->note, sizeof line->note,
                     "the program break and %" PRIu32 " heap%s of threads%s", w->arena_heaps,
                     w->arena_heaps == 1 ? "" : "s",
                     w->heaps.broken ? "; some changed while they were read" : "");
    }
    if (w->bytes[LINE_MALLOC_FREE] && !w->glibc) {
        line = say_line(w, LINE_MALLOC_FREE, w->l->books.returnable_bytes);
        snprintf(line->note, sizeof line->note, "%s, by its own books: its tables among it",
                 w->malloc_name);
    }
    if (w->bytes[LINE_MALLOC_FREE] && w->glibc) {
        line = say_line(w, LINE_MALLOC_FREE,
                        w->heaps.returnable_bytes + w->main_heap.returnable_bytes);
        snprintf(line->note, sizeof line->note,
                 "%" PRIu64 " free chunks; what is not returnable shares pages with blocks in use",
                 w->heaps.free_chunks);
    }
    if (w->bytes[LINE_MALLOC_LARGE]) say_line(w, LINE_MALLOC_LARGE, 0);
}

static void say_named(ledger_t *l, named_t *list, uint32_t count, uint32_t said, const char *kind,
                      const char *others) {
    uint64_t rest = 0;
    uint32_t left = 0;
    char name[LEDGER_NAME_BYTES];
    for (uint32_t n = 0; n < count; n++) {
        named_t *best = &list[0];
        for (uint32_t i = 1; i < count; i++)
            if (list[i].bytes > best->bytes) best = &list[i];
        if (n < said && best->bytes >= 256 * 1024) {
            snprintf(name, sizeof name, "%s %.*s", kind, LEDGER_NAME_BYTES - 16, best->name);
            say(l, name, best->bytes, 0);
        } else {
            rest += best->bytes;
            left++;
        }
        best->bytes = 0;
    }
    if (!rest) return;
    ledger_line_t *line = say(l, others, rest, 0);
    snprintf(line->note, sizeof line->note, "%" PRIu32 " of them", left);
}

/* Another malloc's anonymous memory by what it says of itself; what it does not know of is somebody else's. */
static void deal_out_books(work_t *w) {
    const libc_books_t *b = &w->l->books;
    uint64_t all = w->anonymous_bytes, used = b->allocated_bytes < all ? b->allocated_bytes : all;
    uint64_t held =
        b->resident_bytes > b->allocated_bytes ? b->resident_bytes - b->allocated_bytes : 0;
    if (w->glibc || !w->l->has_books) return;
    if (held > all - used) held = all - used;
    w->bytes[LINE_MALLOC_USED] -= all - used;
    w->bytes[LINE_MALLOC_FREE] += held;
    w->bytes[LINE_UNEXPLAINED] += all - used - held;
}

static void say_all(work_t *w) {
    ledger_t *l = w->l;
    l->count = 0;
    deal_out_books(w);
    say_pools(w);
    if (w->bytes[LINE_FRAMES]) say_line(w, LINE_FRAMES, 0);
    say_malloc(w);
    if (w->bytes[LINE_MIMALLOC]) say_line(w, LINE_MIMALLOC, 0);
    if (w->bytes[LINE_STACKS]) {
        ledger_line_t *line = say_line(w, LINE_STACKS, 0);
        int n = snprintf(line->note, sizeof line->note, "%" PRIu32 " stack%s", w->stacks,
                         w->stacks == 1 ? "" : "s");
        if (w->deeper_bytes >= DEEPER_SAID_MIN)
            snprintf(line->note + n, sizeof line->note - (size_t)n,
                     "; %" PRIu64 " MiB lie deeper than their threads stand now: nobody else can "
                     "give them back, and they go when the threads end",
                     w->deeper_bytes >> 20);
    }
    if (w->bytes[LINE_PYTHON]) say_line(w, LINE_PYTHON, 0);
    say_named(l, w->libraries, w->library_count, LIBRARIES_SAID, "library", "other libraries");
    say_named(l, w->files, w->file_count, FILES_SAID, "file", "other files");
    if (w->bytes[LINE_SHARED]) say_line(w, LINE_SHARED, 0);
    if (w->bytes[LINE_PRIVATE]) {
        ledger_line_t *line = say_line(w, LINE_PRIVATE, 0);
        snprintf(line->note, sizeof line->note,
                 "%" PRIu32 ", by mmap: the program's or a library's own", w->private_count);
    }
    if (w->bytes[LINE_LOWTIDE]) say_line(w, LINE_LOWTIDE, 0);
    ledger_line_t *line = say_line(w, LINE_UNEXPLAINED, 0);
    snprintf(
        line->note, sizeof line->note,
        "anonymous memory that neither Python's nor the process's own malloc has in its books");
}

int ledger_prepare(ledger_t *l, rt_t *rt, err_t *e) {
    libc_found_t found;
    Dl_info python = {0};
    libc_find(&found);
    l->rt = rt;
    l->glibc = found.kind == LIBC_GLIBC;
    l->has_books = libc_read_books(&found, &l->books);
    snprintf(l->malloc_name, sizeof l->malloc_name, "%s",
             found.kind == LIBC_OTHER ? "another library" : found.name);
    if (!dladdr((void *)rt->runtime, &python) || !python.dli_fname ||
        !realpath(python.dli_fname, l->python))
        l->python[0] = '\0';
    return rt_refresh(rt, e);
}

int ledger_read_python(ledger_t *l, rt_t *rt, err_t *e) {
    return pools_read(&l->pools, rt, e);
}

int ledger_read_system(ledger_t *l, uint32_t of, err_t *e) {
    work_t *w = mem_map(sizeof *w);
    int status = w ? maps_read(&w->maps, of, e) : err_set(e, -ENOMEM, "out of memory");
    if (!status) {
        w->l = l;
        w->glibc = l->glibc;
        w->malloc_name = l->malloc_name;
        w->python = l->python;
        ssize_t n = readlink("/proc/self/exe", w->exe, sizeof w->exe - 1);
        w->exe[n > 0 ? n : 0] = '\0';
        res_open(&w->resident);
        stacks_read(&w->points, of);
        for (size_t i = 0; i < w->maps.entries.count; i++)
            w->has_arrow |= strstr(w->maps.entries.at[i].name, "/libarrow.so") != NULL;
        for (size_t i = 0; i < w->maps.entries.count; i++) take_mapping(w, i);
        res_close(&w->resident);
        l->rss_bytes = w->maps.rss_bytes;
        l->swap_bytes = w->maps.swap_bytes;
        l->huge_bytes = w->maps.huge_bytes;
        say_all(w);
        maps_free(&w->maps);
        stack_points_free(&w->points);
    }
    mem_unmap(w, sizeof *w);
    return status;
}

bool ledger_in_mapping(const ledger_t *l, uintptr_t address) {
    size_t low = 0, high = l->mappings.count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (l->mappings.at[mid].begin <= address)
            low = mid + 1;
        else
            high = mid;
    }
    return low && address < l->mappings.at[low - 1].end;
}

void ledger_free(ledger_t *l) {
    ledger_mappings_free(&l->mappings);
    pools_free(&l->pools);
    ledger_heaps_free(&l->heaps);
}
