/* What a text view prints on: a stream, and what the reader's terminal can show.
 *
 * Texts of a recording are a stranger's: names and values may hold control characters, escape
 * sequences, direction overrides or broken UTF-8. Everything of that kind goes through screen_text,
 * which shows it as \x1b, \u202e or \xff, counts terminal cells (wide and combining characters),
 * and leaves out the middle of what is too long. The stream's errors stick to it (ferror); nothing
 * here reports them. One thread.
 */
#ifndef LOWTIDE_VIEW_SCREEN_H
#define LOWTIDE_VIEW_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { SCREEN_WIDTH_MIN = 40, SCREEN_WIDTH_MAX = 250, SCREEN_WIDTH_UNKNOWN = 100 };

typedef struct screen {
    FILE *file;
    int width;
    bool utf8;     /* else plain ASCII: \u00e9 for é, "..." for … */
    bool terminal; /* somebody reads it there */
    bool color;    /* SGR sequences */
} screen_t;

/* Fits the descriptor behind the stream: width from COLUMNS, else the terminal's, else 100; UTF-8 when the locale's
 * character set is; colour only on a terminal, when NO_COLOR is unset or empty and TERM is not
 * "dumb". */
void screen_init(screen_t *s, FILE *file, int fd);

enum screen_style { STYLE_PLAIN, STYLE_BOLD, STYLE_DIM, STYLE_GOOD, STYLE_WARN, STYLE_ACCENT };
void screen_style(const screen_t *s, enum screen_style style); /* STYLE_PLAIN ends another */

/* Cells that the whole text takes. */
int screen_cells(const screen_t *s, const char *text, size_t n);
/* Prints the text in at most `cells` cells, the middle left out where it is longer; returns the
 * cells used. */
int screen_text(const screen_t *s, const char *text, size_t n, int cells);
/* As screen_text, then spaces up to `cells`. */
void screen_padded(const screen_t *s, const char *text, int cells);
/* As screen_text, dim. */
int screen_dim(const screen_t *s, const char *text, int cells);
void screen_end(const screen_t *s); /* of a line */
/* Spaces. */
void screen_gap(const screen_t *s, int cells);
/* Breaks the text at spaces into lines of at most `cells` cells, each behind `indent` spaces (the
 * first line stands where the cursor is), and ends the last line. A word too long for a line loses
 * its middle. */
void screen_wrapped(const screen_t *s, const char *text, int indent, int cells);
/* "…" or "...", "·" or "|" and so on. */
const char *screen_symbol(const screen_t *s, const char *utf8, const char *ascii);

#endif
