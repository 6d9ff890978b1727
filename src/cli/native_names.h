/* Names of native code after the fact, from the libraries and debug files of this machine (collect/symbols.h). */
#ifndef LOWTIDE_CLI_NATIVE_NAMES_H
#define LOWTIDE_CLI_NATIVE_NAMES_H

#include "explain/namer.h"

/* What --debug-path says; before the first question. */
void native_names_debug_path(const char *directories);
/* The command's own, until native_names_close. */
const namer_t *native_names(void);
void native_names_close(void); /* harmless where nobody asked */

#endif
