/* Call frame information: how to get from one frame to its caller's (DWARF 5, 6.4; the Linux Standard Base's .eh_frame). */
#ifndef LOWTIDE_ALLOC_UNWIND_ROWS_H
#define LOWTIDE_ALLOC_UNWIND_ROWS_H

#include <stdint.h>

/* How a place in code finds its frame's end, the CFA; the return address lies below it always. */
enum unwind_cfa {
    UNWIND_END = 1, /* the outermost frame, or nothing is known */
    UNWIND_SP,      /* rsp + cfa_offset */
    UNWIND_BP,      /* rbp + cfa_offset */
    UNWIND_AT_BP    /* what lies at rbp + cfa_offset: functions that align their stack */
};
enum unwind_rbp {
    UNWIND_SAME,
    UNWIND_AT_CFA,        /* the caller's rbp lies at CFA + rbp_offset */
    UNWIND_RELATIVE_TO_BP /* at rbp + rbp_offset */
};

typedef struct unwind_row {
    uint32_t cfa : 3, rbp : 2; /* cfa is never 0 */
    int32_t cfa_offset : 27;
    int32_t rbp_offset;
} unwind_row_t;

/* One library's table, as the loader knows it. */
typedef struct unwind_table {
    const uint8_t *begin, *end; /* of the library: nothing else is read */
    const uint8_t *header;      /* .eh_frame_hdr */
} unwind_table_t;

unwind_row_t unwind_row_find(const unwind_table_t *t, uintptr_t pc);

#endif
