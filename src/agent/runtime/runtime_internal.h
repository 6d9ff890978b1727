/* Between the files of this room, and for its tests. */
#ifndef LOWTIDE_AGENT_RUNTIME_INTERNAL_H
#define LOWTIDE_AGENT_RUNTIME_INTERNAL_H

#include "agent/runtime/runtime.h"

/* How far the version that a table was measured with is from the target's; < 0: another minor
 * version or flavour. */
int rt_table_distance(const rt_t *rt, const layout_t *table);

/* Proves one table, whichever; rt stays as it is. GIL held, Python ready. Never crashes, however
 * wrong the table. */
int rt_prove_table(const rt_t *rt, const layout_t *table, err_t *e);

/* A table for a patch release that none was measured with, from one of its minor version (3.13 and
 * later): true when there is something to adapt. It is still to be proven. */
bool rt_adapt(const rt_t *rt, const layout_t *table, layout_t *out);

/* Height of the evaluation stack before the instruction at a code unit; −1: not known. 3.11 to 3.13;
 * maps memory for the while. */
int32_t rt_stack_height(const rt_t *rt, rt_addr_t code, int64_t unit);

/* Could this be a living object? Reads with rt_peek. */
bool rt_plausible(const rt_t *rt, rt_addr_t object);

/* Does the runtime say of itself (3.13 and later) what the table says? True where it says nothing.
 */
bool rt_claims_agree(const rt_t *rt, const layout_t *table);

#endif
