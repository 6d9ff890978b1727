#include "base/limit_size.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    double bytes;
} UNITS[] = {
    {"", 1},
    {"B", 1},
    {"kB", 1e3},
    {"MB", 1e6},
    {"GB", 1e9},
    {"TB", 1e12},
    {"K", 1024},
    {"M", 1048576},
    {"G", 1073741824},
    {"T", 1099511627776.0},
    {"KiB", 1024},
    {"MiB", 1048576},
    {"GiB", 1073741824},
    {"TiB", 1099511627776.0},
};
enum { DIGITS_MAX = 19 };

static int refuse(const char *text, err_t *e) {
    return err_set(
        e, -EINVAL,
        "\"%.80s\" is no amount of memory: write \"2GiB\", \"80%%\" or \"-2GiB\" (all but)", text);
}

/* Not strtod, which minds the program's locale. */
static const char *read_number(const char *p, double *number) {
    int digits = 0;
    double scale = 1;
    *number = 0;
    for (; *p >= '0' && *p <= '9'; p++, digits++) *number = *number * 10 + (*p - '0');
    if (*p == '.') {
        for (p++; *p >= '0' && *p <= '9'; p++, digits++) *number += (*p - '0') * (scale /= 10);
    }
    return digits && digits <= DIGITS_MAX ? p : NULL;
}

static double unit_bytes(const char *unit, double total) {
    if (unit[0] == '%' && !unit[1 + strspn(unit + 1, " ")]) return total / 100;
    for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++) {
        size_t n = strlen(UNITS[i].name);
        if (strncasecmp(unit, UNITS[i].name, n) == 0 && !unit[n + strspn(unit + n, " ")])
            return UNITS[i].bytes;
    }
    return 0;
}

int limit_size_parse(const char *text, uint64_t total_bytes, uint64_t *bytes, err_t *e) {
    const char *p = text;
    double number, unit, total = (double)total_bytes;
    while (*p == ' ') p++;
    bool all_but = *p == '-';
    if (all_but) p++;
    p = read_number(p, &number);
    if (!p) return refuse(text, e);
    while (*p == ' ') p++;
    unit = unit_bytes(p, total);
    if (unit == 0) return refuse(text, e);
    number *= unit;
    if (all_but) {
        if (number >= total)
            return err_set(e, -EINVAL, "\"%.80s\" leaves nothing of the %llu bytes that are there",
                           text, (unsigned long long)total_bytes);
        number = total - number;
    }
    if (number < 1) return err_set(e, -EINVAL, "\"%.80s\" is no memory at all", text);
    if (number >= 9e18) return refuse(text, e);
    *bytes = (uint64_t)number;
    return 0;
}
