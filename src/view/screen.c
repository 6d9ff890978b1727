#define _GNU_SOURCE
#include "view/screen.h"

#include "view/utf8.h"

#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

static int terminal_width(int fd) {
    const char *columns = getenv("COLUMNS");
    if (columns && *columns) {
        char *end;
        long n = strtol(columns, &end, 10);
        if (!*end && n > 0 && n < 100000) return (int)n;
    }
    struct winsize w;
    if (ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
    return SCREEN_WIDTH_UNKNOWN;
}

void screen_init(screen_t *s, FILE *file, int fd) {
    int width = terminal_width(fd);
    if (width < SCREEN_WIDTH_MIN) width = SCREEN_WIDTH_MIN;
    if (width > SCREEN_WIDTH_MAX) width = SCREEN_WIDTH_MAX;
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    bool terminal = isatty(fd) == 1;
    *s = (screen_t){
        .file = file,
        .width = width,
        .utf8 = strcasecmp(nl_langinfo(CODESET), "UTF-8") == 0,
        .terminal = terminal,
        .color = terminal && term && strcmp(term, "dumb") != 0 && !(no_color && *no_color),
    };
}

void screen_style(const screen_t *s, enum screen_style style) {
    static const char *const sgr[] = {"0", "1", "2", "32", "33", "36"};
    if (s->color) fprintf(s->file, "\033[%sm", sgr[style]);
}

const char *screen_symbol(const screen_t *s, const char *utf8, const char *ascii) {
    return s->utf8 ? utf8 : ascii;
}

/* One character as the reader sees it: what is printed for it and how many cells that takes. */
typedef struct glyph {
    char text[16];
    int bytes, cells;
} glyph_t;

/* Marks that join, split or turn the text around them without being seen. */
static bool invisible(uint32_t c) {
    return (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2060 && c <= 0x206f) || c == 0x061c || c == 0xfeff || c == 0xad || c == 0x180e ||
           (c >= 0xfff9 && c <= 0xfffb) || c >= 0xe0000;
}

static void glyph_escaped(glyph_t *g, uint32_t c) {
    const char *letter = c == '\n' ? "n" : c == '\t' ? "t" : c == '\r' ? "r" : NULL;
    /* lowtide's own, in a terminal that has ASCII alone */
    if (c == 0x2026 || c == 0xd7)
        g->bytes = snprintf(g->text, sizeof g->text, "%s", c == 0xd7 ? "x" : "...");
    else if (letter)
        g->bytes = snprintf(g->text, sizeof g->text, "\\%s", letter);
    else if (c < 0x100)
        g->bytes = snprintf(g->text, sizeof g->text, "\\x%02x", (unsigned)c);
    else if (c < 0x10000)
        g->bytes = snprintf(g->text, sizeof g->text, "\\u%04x", (unsigned)c);
    else
        g->bytes = snprintf(g->text, sizeof g->text, "\\U%08x", (unsigned)c);
    g->cells = g->bytes;
}

static int cells_of(const screen_t *s, uint32_t c) {
    if (c < 0x20 || (c >= 0x7f && c < 0xa0) || invisible(c)) return -1;
    if (c < 0x7f) return 1;
    return s->utf8 ? wcwidth((wchar_t)c) : -1;
}

/* `marks` counts the combining marks since the last base character: a pile of them would run over
 * other lines. */
static const char *glyph_next(const screen_t *s, const char *at, const char *end, int *marks,
                              glyph_t *g) {
    uint32_t c;
    const char *next = utf8_next(at, end, &c);
    if (!next) {
        glyph_escaped(g, (unsigned char)*at);
        *marks = 0;
        return at + 1;
    }
    int cells = cells_of(s, c);
    *marks = cells == 0 ? *marks + 1 : 0;
    if (cells < 0 || *marks > 3) {
        glyph_escaped(g, c);
        return next;
    }
    g->bytes = (int)(next - at);
    g->cells = cells;
    memcpy(g->text, at, (size_t)g->bytes);
    return next;
}

int screen_cells(const screen_t *s, const char *text, size_t n) {
    const char *end = text + n;
    glyph_t g;
    int marks = 0;
    int64_t cells = 0;
    while (text < end) {
        text = glyph_next(s, text, end, &marks, &g);
        cells += g.cells;
    }
    return cells > INT32_MAX ? INT32_MAX : (int)cells;
}

int screen_text(const screen_t *s, const char *text, size_t n, int cells) {
    const char *end = text + n, *dots = screen_symbol(s, "…", "...");
    int whole = screen_cells(s, text, n), marks = 0, used = 0, at = 0;
    int dot_cells = s->utf8 ? 1 : 3;
    if (cells < dot_cells) return 0;
    /* What is printed are the glyphs that end at or before `head` and those that begin at or behind
     * `tail`. */
    int head = cells, tail = 0;
    if (whole > cells) {
        head = (cells - dot_cells + 1) / 2;
        tail = whole - (cells - dot_cells - head);
    }
    bool cut = false;
    glyph_t g;
    while (text < end) {
        text = glyph_next(s, text, end, &marks, &g);
        bool shown = whole <= cells || (!cut && at + g.cells <= head) || (cut && at >= tail);
        if (!shown && !cut) {
            fputs(dots, s->file);
            used += dot_cells;
            cut = true;
            shown = at >= tail;
        }
        at += g.cells;
        if (!shown) continue;
        fwrite(g.text, 1, (size_t)g.bytes, s->file);
        used += g.cells;
    }
    return used;
}

void screen_gap(const screen_t *s, int cells) {
    if (cells > 0) fprintf(s->file, "%*s", cells, "");
}

int screen_dim(const screen_t *s, const char *text, int cells) {
    screen_style(s, STYLE_DIM);
    int used = screen_text(s, text, strlen(text), cells);
    screen_style(s, STYLE_PLAIN);
    return used;
}

void screen_end(const screen_t *s) {
    fputc('\n', s->file);
}

void screen_padded(const screen_t *s, const char *text, int cells) {
    screen_gap(s, cells - screen_text(s, text, strlen(text), cells));
}

/* Bytes up to where a line may break: a figure keeps its unit. */
static size_t word_bytes(const char *text) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB",
                                        "%", "ms",  "s",   "min", "h"};
    size_t n = strcspn(text, " ");
    if (!n || text[n - 1] < '0' || text[n - 1] > '9') return n;
    const char *next = text + n + strspn(text + n, " ");
    size_t unit = strspn(next, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz%");
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strlen(units[i]) == unit && memcmp(next, units[i], unit) == 0)
            return (size_t)(next - text) + strcspn(next, " ");
    return n;
}

void screen_wrapped(const screen_t *s, const char *text, int indent, int cells) {
    int used = 0;
    while (*text) {
        size_t n = word_bytes(text);
        int word = screen_cells(s, text, n);
        if (word > cells) word = cells;
        if (used && used + 1 + word > cells) {
            screen_end(s);
            screen_gap(s, indent);
            used = 0;
        }
        if (used) {
            fputc(' ', s->file);
            used++;
        }
        used += screen_text(s, text, n, cells);
        text += n;
        while (*text == ' ') text++;
    }
    screen_end(s);
}
