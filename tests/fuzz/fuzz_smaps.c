/* The parser of /proc/PID/smaps over any bytes: every name lies in the text, and the sums are those of the entries. */
#include "agent/ledger/maps.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_need(int condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    maps_t m = {.text_bytes = size + 1};
    err_t e;
    uint64_t rss = 0, swap = 0, huge = 0;
    m.text = mem_map(m.text_bytes);
    fuzz_need(m.text != NULL);
    if (size) memcpy(m.text, data, size);
    fuzz_need(maps_parse(&m, size, &e) == 0);
    for (size_t i = 0; i < m.entries.count; i++) {
        const map_entry_t *v = &m.entries.at[i];
        if (v->name) fuzz_need(v->name >= m.text && v->name + strlen(v->name) <= m.text + size);
        rss += v->rss_bytes;
        swap += v->swap_bytes;
        huge += v->huge_bytes;
    }
    fuzz_need(rss == m.rss_bytes && swap == m.swap_bytes && huge == m.huge_bytes);
    maps_free(&m);
    return 0;
}
