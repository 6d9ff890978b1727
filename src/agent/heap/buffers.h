/* Memory that objects of some C types own beyond what their sizes tell: mmap, ctypes, Arrow.
 *
 * Arrow's arrays are C++ objects behind a Cython shell. Their buffers are found by the layout that Arrow has had since 11,
 * through rt_peek and with every step checked: what does not look as expected counts nothing. Several arrays may share a
 * buffer; the first that is met has it.
 *
 *     Array (Python) ─▶ Array ─▶ ArrayData ─┬─▶ Buffer, Buffer …
 *     ChunkedArray ──▶ Array …              ├─▶ children: ArrayData …
 *     Table ─▶ ChunkedArray …               └─▶ dictionary: ArrayData
 */
#ifndef LOWTIDE_HEAP_BUFFERS_H
#define LOWTIDE_HEAP_BUFFERS_H

#include "agent/heap/kinds.h"

/* How to count what objects over this C type own; NULL: nothing beyond their size. */
kind_buffer_fn buffer_find(const walk_t *k, rt_addr_t c_type);

#endif
