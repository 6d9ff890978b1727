/* The page that web/ is built to, as it lies in the executable: one HTML file with a gap for its data. */
#ifndef LOWTIDE_VIEW_HTML_PAGE_H
#define LOWTIDE_VIEW_HTML_PAGE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct html_page {
    const char *before, *after; /* the gap; not ended by zeros */
    size_t before_bytes, after_bytes;
} html_page_t;

/* false: this build has no page, as there was no Node.js. */
bool html_page_get(html_page_t *out);

#endif
