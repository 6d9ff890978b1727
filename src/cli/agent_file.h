/* Where the agent's shared object is: beside the executable (build tree), in the Python package that the executable was
 * installed with (a wheel), or where $LOWTIDE_AGENT says.
 */
#ifndef LOWTIDE_CLI_AGENT_FILE_H
#define LOWTIDE_CLI_AGENT_FILE_H

#include "base/err.h"

#include <stddef.h>

int agent_file_find(char *out, size_t room, err_t *e);

#endif
