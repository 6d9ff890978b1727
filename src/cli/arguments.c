#include "cli/arguments.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { INTERVAL_MIN = 1 << 10, INTERVAL_MAX = 1 << 30, SPAN_MS_MAX = 24 * 3600 * 1000 };

bool arguments_span(const char *text, uint32_t *ms) {
    static const struct {
        const char *unit;
        double ms;
    } units[] = {{"", 1000}, {"s", 1000}, {"ms", 1}, {"m", 60000}, {"min", 60000}, {"h", 3600000}};
    char *end;
    double n = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].unit) != 0) continue;
        double v = n * units[i].ms;
        if (!(v >= 1 && v <= SPAN_MS_MAX)) return false;
        *ms = (uint32_t)v;
        return true;
    }
    return false;
}

bool arguments_pid(const char *text, pid_t *pid) {
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    *pid = (pid_t)n;
    return !errno && end != text && !*end && n > 0 && n <= INT_MAX;
}

bool arguments_process(const command_t *self, int argc, char **argv, pid_t *pid, int *status) {
    if (optind + 1 != argc) {
        *status = command_usage(self, optind == argc ? "which process? name its PID"
                                                     : "one process at a time");
        return false;
    }
    if (arguments_pid(argv[optind], pid)) return true;
    *status = command_usage(self, "'%s' is not a PID", argv[optind]);
    return false;
}

bool arguments_size(const char *text, uint64_t *bytes) {
    static const char units[] = "KMGT";
    char *end;
    double n = strtod(text, &end), unit = 1;
    const char *at = *end ? strchr(units, *end & ~0x20) : NULL;
    if (end == text || !(n > 0)) return false;
    if (at) {
        for (ptrdiff_t i = at - units; i >= 0; i--) unit *= 1024;
        end++;
        if (*end == 'i' || *end == 'I') end++;
    }
    if (*end == 'B' || *end == 'b') end++;
    if (*end || n * unit >= 9e18) return false;
    *bytes = (uint64_t)(n * unit);
    return true;
}

bool arguments_interval(const char *text, uint64_t *bytes) {
    return arguments_size(text, bytes) && *bytes >= INTERVAL_MIN && *bytes <= INTERVAL_MAX;
}

bool arguments_mode(const command_t *self, bool exact, uint64_t interval_bytes, int *status) {
    if (!exact || !interval_bytes) return true;
    *status = command_usage(self, "--exact counts every allocation, so there is no --interval; "
                                  "leave one of the two out");
    return false;
}
