#include "format/rec_bytes.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#ifdef LOWTIDE_FUZZING
int rec_checksums_ignored;
#endif

uint64_t rec_checksum(const void *bytes, size_t n) {
    return XXH3_64bits(bytes, n);
}

uint64_t rec_section_checksum_of_two(const rec_section_t *header, const void *front, size_t m,
                                     const void *rest, size_t n) {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, header, REC_CHECKED_BYTES);
    XXH3_64bits_update(&state, front, m);
    XXH3_64bits_update(&state, rest, n);
    return XXH3_64bits_digest(&state);
}

uint64_t rec_section_checksum(const rec_section_t *header, const void *payload, size_t n) {
    return rec_section_checksum_of_two(header, payload, n, "", 0);
}
