/* Values of a recording as Python writes them: 'u17', b'\x00', 17, 1e+16, (1, 'a'), None.
 */
#ifndef LOWTIDE_EXPLAIN_LITERAL_H
#define LOWTIDE_EXPLAIN_LITERAL_H

#include "base/strbuf.h"
#include "explain/model_data.h"

/* *exact is set to false when the text is not a Python literal equal to the object: a prefix
 * ('abc…'), a type's name (<app.Key>), a value that the recording leaves out. It is left alone
 * otherwise. Status of reading. */
int literal_put(const model_t *m, uint32_t id, strbuf_t *out, bool *exact, err_t *e);

/* As Python's repr of a str, from UTF-8. */
void literal_put_str(strbuf_t *out, const char *text, size_t n, bool whole);

#endif
