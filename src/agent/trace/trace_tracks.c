#include "agent/trace/trace_tracks.h"

#include "base/mem.h"

enum { FIRST_BITS = 8 };

static struct {
    track_t *slots;
    size_t count;
    unsigned bits;
} tracks;

static size_t home(uint32_t domain, uintptr_t at) {
    uint64_t h = (at ^ (uint64_t)domain << 40) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(h >> (64 - tracks.bits));
}

static size_t room(void) {
    return tracks.slots ? (size_t)1 << tracks.bits : 0;
}

/* Where it is, or the empty slot where it would go. */
static size_t find(uint32_t domain, uintptr_t at) {
    size_t i = home(domain, at);
    while (tracks.slots[i].site && (tracks.slots[i].at != at || tracks.slots[i].domain != domain))
        i = (i + 1) & (room() - 1);
    return i;
}

static bool grow(void) {
    track_t *old = tracks.slots;
    size_t old_room = room();
    unsigned bits = old ? tracks.bits + 1 : FIRST_BITS;
    track_t *slots = mem_map(sizeof *slots << bits);
    if (!slots) return false;
    tracks.slots = slots;
    tracks.bits = bits;
    for (size_t i = 0; i < old_room; i++)
        if (old[i].site) slots[find(old[i].domain, old[i].at)] = old[i];
    mem_unmap(old, old_room * sizeof *old);
    return true;
}

track_t *tracks_put(uint32_t domain, uintptr_t at) {
    if (tracks.count >= room() / 2 && !grow()) return NULL;
    track_t *t = &tracks.slots[find(domain, at)];
    if (t->site) return t;
    *t = (track_t){.at = at, .domain = domain};
    tracks.count++;
    return t;
}

const track_t *tracks_get(uint32_t domain, uintptr_t at) {
    if (!tracks.slots) return NULL;
    const track_t *t = &tracks.slots[find(domain, at)];
    return t->site ? t : NULL;
}

bool tracks_take(uint32_t domain, uintptr_t at, track_t *taken) {
    if (!tracks_get(domain, at)) return false;
    const size_t mask = room() - 1;
    size_t hole = find(domain, at);
    *taken = tracks.slots[hole];
    for (size_t i = (hole + 1) & mask; tracks.slots[i].site; i = (i + 1) & mask) {
        size_t wanted = home(tracks.slots[i].domain, tracks.slots[i].at);
        if (((i - wanted) & mask) < ((i - hole) & mask))
            continue; /* it lies behind the hole by right */
        tracks.slots[hole] = tracks.slots[i];
        hole = i;
    }
    tracks.slots[hole] = (track_t){0};
    tracks.count--;
    return true;
}

void tracks_clear(void) {
    mem_unmap(tracks.slots, room() * sizeof *tracks.slots);
    tracks.slots = NULL;
    tracks.count = 0;
}

size_t tracks_count(void) {
    return tracks.count;
}

size_t tracks_own_bytes(void) {
    return room() * sizeof *tracks.slots;
}

void tracks_each(void (*tell)(void *arg, const track_t *track), void *arg) {
    for (size_t i = 0; i < room(); i++)
        if (tracks.slots[i].site) tell(arg, &tracks.slots[i]);
}
