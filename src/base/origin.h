/* Whose code a Python file is, by its path alone: so it holds on any machine, in an agent and in a recording. No allocation. */
#ifndef LOWTIDE_BASE_ORIGIN_H
#define LOWTIDE_BASE_ORIGIN_H

/* In rising order of how much it is the program's own. */
typedef enum origin {
    ORIGIN_STANDARD, /* the standard library, "<frozen os>" with it */
    ORIGIN_PACKAGE,  /* below site-packages or dist-packages */
    ORIGIN_NO_FILE,  /* "<string>", "": typed by somebody, or made by a library */
    ORIGIN_OWN       /* any other file, and "<stdin>" */
} origin_t;

/* below: what stands behind the directory that all of a library are in; else the file itself. May be NULL. */
origin_t origin_of(const char *file, const char **below);

#endif
