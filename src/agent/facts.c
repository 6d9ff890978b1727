#define _GNU_SOURCE
#include "agent/facts.h"

#include "base/clock.h"
#include "base/proc.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NS_PER_S = 1000000000 };

/* Field 22 of /proc/self/stat is the start in clock ticks since boot; field 2, a name in parentheses, may hold anything. */
static uint64_t age_ms(const char *stat) {
    const char *at = strrchr(stat, ')');
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    if (!at) return 0;
    uint64_t started_ms = strtoull(at + 1, NULL, 10) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
    uint64_t now_ms = clock_ns(CLOCK_BOOTTIME) / 1000000;
    return now_ms > started_ms ? now_ms - started_ms : 0;
}

void facts_gather(facts_t *f, uint32_t pid) {
    char text[4096];
    memset(f, 0, sizeof *f);
    f->pid = pid ? pid : (uint32_t)getpid();
    f->captured_ns = clock_ns(CLOCK_REALTIME);
    proc_read(text, sizeof text, 0, "stat");
    f->age_ms = age_ms(text);
    f->rss_bytes = proc_status_bytes(0, "VmRSS");
    f->peak_rss_bytes = proc_status_bytes(0, "VmHWM");
    if (gethostname(f->hostname, sizeof f->hostname - 1)) f->hostname[0] = '\0';
    size_t n = proc_read(f->command, sizeof f->command, 0, "cmdline");
    for (size_t i = 0; i + 1 < n; i++)
        if (!f->command[i]) f->command[i] = '\x1f';
}

/* Days since 1970 to a date of the Gregorian calendar (H. Hinnant's civil_from_days). libc's own may take a lock and read
 * time zone files. */
void facts_iso8601(uint64_t ns, char out[32]) {
    uint64_t s = ns / NS_PER_S;
    uint32_t day_s = (uint32_t)(s % 86400);
    uint64_t z = s / 86400 + 719468, era = z / 146097, doe = z % 146097;
    uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    unsigned day = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
    unsigned month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
    unsigned year = (unsigned)(yoe + era * 400 + (month <= 2)) % 10000;
    snprintf(out, 32, "%04u-%02u-%02uT%02u:%02u:%02uZ", year, month, day, day_s / 3600,
             day_s / 60 % 60, day_s % 60);
}

void facts_meta_number(rec_writer_t *w, const char *key, uint64_t v) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, v);
    rec_meta(w, key, text);
}

void facts_meta_thousandths(rec_writer_t *w, const char *key, uint64_t v) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64 ".%03u", v / 1000, (unsigned)(v % 1000));
    rec_meta(w, key, text);
}

void facts_write(const facts_t *f, rec_writer_t *w) {
    char when[32];
    facts_meta_number(w, "pid", f->pid);
    if (f->command[0]) rec_meta(w, "command", f->command);
    if (f->hostname[0]) rec_meta(w, "hostname", f->hostname);
    facts_iso8601(f->captured_ns, when);
    rec_meta(w, "captured", when);
    if (f->age_ms) {
        facts_iso8601(f->captured_ns - f->age_ms * 1000000, when);
        rec_meta(w, "started", when);
        facts_meta_thousandths(w, "duration_s", f->age_ms);
    }
    if (f->rss_bytes) facts_meta_number(w, "rss_bytes", f->rss_bytes);
    if (f->peak_rss_bytes) facts_meta_number(w, "peak_rss_bytes", f->peak_rss_bytes);
}
