/* Whose code a Python file is, by its path alone: so it holds on any machine, in an agent and in a recording. No allocation. */
#ifndef LOWTIDE_BASE_ORIGIN_H
#define LOWTIDE_BASE_ORIGIN_H

#include <stdbool.h>

/* In rising order of how much it is the program's own. */
typedef enum origin {
    ORIGIN_STANDARD, /* the standard library, "<frozen os>" with it */
    ORIGIN_PACKAGE,  /* below site-packages or dist-packages */
    ORIGIN_NO_FILE,  /* "<string>", "": typed by somebody, or made by a library */
    ORIGIN_OWN       /* any other file, and "<stdin>" */
} origin_t;

/* below: what stands behind the directory that all of a library are in; else the file itself. May be NULL. */
origin_t origin_of(const char *file, const char **below);

/* The script that pip writes for a command (uvicorn, celery) has no code of anybody's: all that it does is `sys.exit(main())`, above all
 * that the command does. */
enum { ORIGIN_LAUNCH_BYTES = 16 }; /* as much of the line's text is enough to tell */
/* Whether that may be one, by its name; and is, by the text of the line. */
bool origin_may_launch(const char *file, const char *function);
bool origin_is_launch(const char *file, const char *function, const char *source);

#endif
