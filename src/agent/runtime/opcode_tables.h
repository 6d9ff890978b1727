/* Bytecode of 3.11 to 3.13, as far as the height of the evaluation stack needs it (runtime_stack.c).
 * The tables are written by tools/layouts/measure.py. */
#ifndef LOWTIDE_AGENT_OPCODE_TABLES_H
#define LOWTIDE_AGENT_OPCODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

enum opcode_after {
    OPCODE_CACHES = 0x0f,   /* cache units behind the instruction */
    OPCODE_FORWARD = 0x10,  /* may go forward by its argument */
    OPCODE_BACKWARD = 0x20, /* may go backward by its argument */
    OPCODE_ENDS = 0x40,     /* never goes on to the next */
};

typedef struct opcode_table {
    int minor;
    uint8_t base[256];  /* what an opcode is when it is not specialised */
    uint8_t after[256]; /* opcode_after */
    int return_generator, extended_arg, call;
    int instrumented; /* opcodes from here on stand for others (sys.monitoring) */
} opcode_table_t;

extern const opcode_table_t opcode_tables[];
extern const size_t opcode_table_count;

#endif
