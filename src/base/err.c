#define _GNU_SOURCE
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int err_put(err_t *e, const char *fmt, va_list ap) {
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    if (n < 0) {
        memcpy(e->text, "error", sizeof "error");
        return (int)sizeof "error" - 1;
    }
    if ((size_t)n >= sizeof e->text) {
        static const char ellipsis[] = "…";
        memcpy(e->text + sizeof e->text - sizeof ellipsis, ellipsis, sizeof ellipsis);
        return (int)sizeof e->text - 1;
    }
    return n;
}

int err_set(err_t *e, int code, const char *fmt, ...) {
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        err_put(e, fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_sys(err_t *e, int code, const char *fmt, ...) {
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        int n = err_put(e, fmt, ap);
        va_end(ap);
        snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", strerrordesc_np(-code));
    }
    return code;
}
