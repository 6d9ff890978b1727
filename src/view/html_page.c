#define _GNU_SOURCE
#include "view/html_page.h"

#include <string.h>

#ifdef LOWTIDE_PAGE
__asm__(".pushsection .rodata\n"
        ".globl lowtide_page_begin, lowtide_page_end\n"
        ".hidden lowtide_page_begin\n"
        ".hidden lowtide_page_end\n"
        "lowtide_page_begin: .incbin \"" LOWTIDE_PAGE "\"\n"
        "lowtide_page_end:\n"
        ".popsection\n");
extern const char lowtide_page_begin[], lowtide_page_end[];

bool html_page_get(html_page_t *out) {
    static const char gap[] = "/*DATA*/";
    const size_t gap_bytes = sizeof gap - 1;
    size_t n = (size_t)(lowtide_page_end - lowtide_page_begin);
    const char *at = memmem(lowtide_page_begin, n, gap, gap_bytes);
    if (!at) return false;
    *out = (html_page_t){.before = lowtide_page_begin,
                         .before_bytes = (size_t)(at - lowtide_page_begin),
                         .after = at + gap_bytes,
                         .after_bytes = (size_t)(lowtide_page_end - at) - gap_bytes};
    return true;
}
#else
bool html_page_get(html_page_t *out) {
    *out = (html_page_t){0};
    return false;
}
#endif
