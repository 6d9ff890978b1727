/* A recording with a fixed allocation profile, for the tests of what is shown of it.
 *
 *     profile_recording OUT SOURCE [MODE [INTERVAL [SHIFT [MORE [PEAK [STACKS]]]]]]    SOURCE: the file that the frames name;
 *                       SHIFT: its functions stand so many lines lower; MORE: MiB more that load keeps;
 *                       PEAK: a recording of view_recording, to be nested as the heap at the peak: parse made its rows (- none);
 *                       STACKS: so many more, and four hours of timeline
 *
 * Two processes, of which the second was killed; app.main calls load (line 3: alive), parse (line 6: only at the peak; by
 * it json.decoder, much made) and spin (line 9: much made, nothing kept), and a library has a little. MODE 1 sampled, 2 exact (default 1, 524288).
 */
#include "format/rec_table.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BEGIN(w, name, columns)                                                                    \
    rec_table_begin(w, name, columns, sizeof(columns) / sizeof((columns)[0]))

enum { MIB = 1 << 20, GIB = 1 << 30 };

static uint64_t shift, more;

static void text(rec_writer_t *w, const char *value) {
    rec_table_text(w, value, strlen(value));
}

static void numbers(rec_writer_t *w, const uint64_t *values, size_t n) {
    for (size_t i = 0; i < n; i++) rec_table_number(w, values[i]);
}
#define NUMBERS(w, ...)                                                                            \
    numbers(w, (const uint64_t[]){__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / 8)

static void processes(rec_writer_t *w, uint64_t mode, uint64_t interval) {
    static const rec_table_column_t columns[] = {
        {"process", REC_DELTA}, {"parent", REC_VARINT},  {"pid", REC_VARINT},
        {"how", REC_VARINT},    {"begin_us", REC_DELTA}, {"end_us", REC_VARINT},
        {"status", REC_VARINT}, {"mode", REC_VARINT},    {"interval_bytes", REC_VARINT},
        {"command", REC_TEXT},  {"python", REC_TEXT}};
    BEGIN(w, "processes", columns);
    NUMBERS(w, 0, 0, 4711, 1, 0, 10000000, (3 << 8) + 1, mode, interval);
    text(w, "python\x1f"
            "app.py");
    text(w, "3.13.0");
    NUMBERS(w, 1, 1, 4712, 2, 2000000, 0, 0, mode, interval);
    text(w, "python\x1f"
            "app.py");
    text(w, "3.13.0");
    NUMBERS(w, 1, 1, 4712, 2, 2000000, 9000000, 9 + 1, mode,
            interval); /* replaces the row before */
    text(w, "python\x1f"
            "app.py");
    text(w, "3.13.0");
    rec_table_end(w);
}

static void frame(rec_writer_t *w, uint64_t kind, const char *function, const char *file,
                  uint64_t line, const char *of_line) {
    rec_table_number(w, kind);
    text(w, function);
    text(w, file);
    rec_table_number(w, line ? line + shift : 0);
    text(w, of_line);
    rec_table_number(w, kind == 2 ? 0x1234 : 0);
    text(w, kind == 2 ? "c44eeda961fe793ef28f257397de598c363789b9" : "");
}

static void stacks(rec_writer_t *w, const char *source) {
    static const rec_table_column_t frames[] = {
        {"kind", REC_VARINT}, {"function", REC_TEXT}, {"file", REC_TEXT},    {"line", REC_VARINT},
        {"source", REC_TEXT}, {"offset", REC_VARINT}, {"build_id", REC_TEXT}};
    static const rec_table_column_t columns[] = {{"parent", REC_VARINT}, {"frame", REC_VARINT}};
    BEGIN(w, "frames", frames);
    frame(w, 1, "<module>", source, 11, "");
    frame(w, 1, "load", source, 3, "return [bytes(64) for _ in range(1000)]");
    frame(w, 1, "parse", source, 6, "return json.loads(text * 200)");
    frame(w, 1, "spin", source, 9, "");
    frame(w, 2, "PyBytes_FromStringAndSize", "/usr/lib/libpython3.13.so", 0, "");
    frame(w, 1, "JSONDecoder.decode", "/usr/lib/python3.13/json/decoder.py", 337, "");
    frame(w, 1, "namedtuple", "/usr/lib/python3.13/collections/__init__.py", 400, "");
    frame(w, 1, "serve", source, 42, "");
    rec_table_end(w);
    BEGIN(w, "stacks", columns);
    NUMBERS(w, 0, 0);     /* 0: <module> */
    NUMBERS(w, 1, 1);     /* 1: load */
    NUMBERS(w, 1, 2);     /* 2: parse */
    NUMBERS(w, 1, 3);     /* 3: spin */
    NUMBERS(w, 3, 4);     /* 4: parse > PyBytes_FromStringAndSize */
    NUMBERS(w, 9, 4);     /* 5: a parent that is not there: as outermost */
    NUMBERS(w, 3, 5);     /* 6: parse > decode, of a library */
    NUMBERS(w, 1, 6);     /* 7: a library's line that came by <module> */
    NUMBERS(w, 1, 7);     /* 8: serve, which made nothing */
    NUMBERS(w, 1, 99999); /* 9: a frame that is not there */
    NUMBERS(w, 10, 3);    /* 10: spin below it */
    rec_table_end(w);
}

static void allocations(rec_writer_t *w, uint64_t mode) {
    static const rec_table_column_t columns[] = {
        {"process", REC_DELTA},          {"stack", REC_DELTA},
        {"domain", REC_VARINT},          {"live_bytes", REC_VARINT},
        {"live_blocks", REC_VARINT},     {"total_bytes", REC_VARINT},
        {"total_blocks", REC_VARINT},    {"peak_bytes", REC_VARINT},
        {"peak_blocks", REC_VARINT},     {"rss_peak_bytes", REC_VARINT},
        {"rss_peak_blocks", REC_VARINT}, {"live_variance", REC_VARINT},
        {"total_variance", REC_VARINT},  {"peak_variance", REC_VARINT}};
    /* A variance of 25 MiB²: σ is 5 MiB. At the highest RSS the heap was 10 MiB below its peak. */
    uint64_t mega = mode == 1 ? 25 * MIB : 0;
    BEGIN(w, "allocations", columns);
    NUMBERS(w, 0, 1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0); /* replaced below */
    NUMBERS(w, 0, 1, 3, (64 + more) * MIB, 1000, 64 * MIB, 1000, 64 * MIB, 1000, 64 * MIB, 1000,
            mega, mega, mega);
    NUMBERS(w, 0, 1, 1, 8 * MIB, 10, 8 * MIB, 10, 8 * MIB, 10, 8 * MIB, 10, 0, 0, 0);
    NUMBERS(w, 0, 4, 1, 0, 0, 200 * MIB, 200, 200 * MIB, 200, 190 * MIB, 190, 0, mega, mega);
    NUMBERS(w, 0, 10, 3, 0, 0, UINT64_C(4096) * MIB, 1000000, MIB, 100, MIB, 100, 0, mega, 0);
    NUMBERS(w, 1, 1, 3, 16 * MIB, 250, 16 * MIB, 250, 16 * MIB, 250, 16 * MIB, 250, 0, 0, 0);
    NUMBERS(w, 0, 6, 3, 0, 0, 400 * MIB, 4000, 0, 0, 0, 0, 0, mega, 0);
    /* As little as a sample or two: the error is more than the figure. */
    NUMBERS(w, 0, 7, 3, MIB, 9, MIB, 9, MIB, 9, MIB, 9, mode == 1 ? MIB : 0, mode == 1 ? MIB : 0,
            mode == 1 ? MIB : 0);
    NUMBERS(w, 7, 1, 3, MIB, 1, MIB, 1, MIB, 1, MIB, 1, 0, 0, 0);  /* no such process */
    NUMBERS(w, 0, 99, 3, MIB, 1, MIB, 1, MIB, 1, MIB, 1, 0, 0, 0); /* no such stack */
    rec_table_end(w);
}

static void times(rec_writer_t *w) {
    static const rec_table_column_t columns[] = {{"process", REC_DELTA},
                                                 {"t_us", REC_DELTA},
                                                 {"rss_bytes", REC_VARINT},
                                                 {"heap_bytes", REC_VARINT}};
    static const rec_table_column_t events[] = {
        {"process", REC_VARINT},     {"t_us", REC_DELTA},   {"kind", REC_VARINT},
        {"duration_us", REC_VARINT}, {"value", REC_VARINT}, {"text", REC_TEXT}};
    BEGIN(w, "timeline", columns);
    for (uint64_t t = 0; t <= 100; t++) {
        /* On its way up to the peak it was looked at once. */
        uint64_t heap = t >= 60 && t < 70 ? 273 : t == 59 ? 115 : t >= 20 ? 72 : 10;
        /* The heap is at its highest half a second after the RSS. */
        NUMBERS(w, 0, t * 100000, (heap + 20) * MIB, (heap + (t == 65)) * MIB);
        if (t >= 20 && t <= 90) NUMBERS(w, 1, t * 100000, 30 * MIB, 16 * MIB);
    }
    rec_table_end(w);
    BEGIN(w, "events", events);
    NUMBERS(w, 0, 1500000, 1, 12000, 2);
    text(w, "");
    NUMBERS(w, 0, 2000000, 2, 0, 0);
    text(w, "loaded \x1b[31m");
    rec_table_end(w);
}

/* Object 17 + k of the shop is the k-th row; parse made them. */
static int nest(rec_writer_t *outer, const char *path, err_t *e) {
    static const rec_table_column_t columns[] = {{"process", REC_VARINT},
                                                 {"address", REC_DELTA},
                                                 {"bytes", REC_VARINT},
                                                 {"stack", REC_VARINT},
                                                 {"domain", REC_VARINT}};
    rec_writer_t *w;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || rec_append(&w, fd, e)) return 1;
    rec_meta(w, "t_us", "6500000");
    BEGIN(w, "samples", columns);
    for (uint64_t k = 0; k < 20; k++)
        NUMBERS(w, 0, UINT64_C(0x7f0000000000) + 64 * (18 + k), 48, 4, 3);
    NUMBERS(w, 0, UINT64_C(0x7e0000000000), 190 * MIB, 4, 3); /* in no object */
    rec_table_end(w);
    int status = rec_close(w, 0, 0, e);
    if (!status) rec_nested_file(outer, "peak", fd);
    close(fd);
    return status;
}

/* Chains of 40 frames that begin at <module>, of which the n-th has an n-th of the first's at its end. */
static void many(rec_writer_t *w, uint64_t stacks_more) {
    enum { DEPTH = 40, FRAMES = 20000, OWN_STACKS = 11, OWN_FRAMES = 8 };
    static const rec_table_column_t frames[] = {
        {"kind", REC_VARINT}, {"function", REC_TEXT}, {"file", REC_TEXT},    {"line", REC_VARINT},
        {"source", REC_TEXT}, {"offset", REC_VARINT}, {"build_id", REC_TEXT}};
    static const rec_table_column_t stacks[] = {{"parent", REC_VARINT}, {"frame", REC_VARINT}};
    static const rec_table_column_t cells[] = {
        {"process", REC_DELTA},     {"stack", REC_DELTA},        {"domain", REC_VARINT},
        {"live_bytes", REC_VARINT}, {"live_blocks", REC_VARINT}, {"peak_bytes", REC_VARINT},
        {"total_bytes", REC_VARINT}};
    static const rec_table_column_t points[] = {{"process", REC_DELTA},
                                                {"t_us", REC_DELTA},
                                                {"rss_bytes", REC_VARINT},
                                                {"heap_bytes", REC_VARINT}};
    static const rec_table_column_t events[] = {{"process", REC_VARINT},
                                                {"t_us", REC_DELTA},
                                                {"kind", REC_VARINT},
                                                {"duration_us", REC_VARINT},
                                                {"text", REC_TEXT}};
    char name[64], file[64];
    BEGIN(w, "frames", frames);
    for (uint64_t i = 0; i < FRAMES; i++) {
        snprintf(name, sizeof name, "function_%u", (unsigned)i);
        snprintf(file, sizeof file, "/srv/app/module_%u.py", (unsigned)i % 300);
        frame(w, 1, name, file, i % 1000 + 1, "return do_something_with(what, was, given)");
    }
    rec_table_end(w);
    BEGIN(w, "stacks", stacks);
    for (uint64_t i = 0; i < stacks_more; i++)
        NUMBERS(w, i % DEPTH ? OWN_STACKS + i : 1, OWN_FRAMES + i * 7919 % FRAMES);
    rec_table_end(w);
    BEGIN(w, "allocations", cells);
    for (uint64_t i = 0; i < stacks_more; i++)
        NUMBERS(w, 0, OWN_STACKS + i, 3, i % 3 * 1000, i % 3,
                (i % DEPTH == DEPTH - 1 ? GIB / (i / DEPTH + 1) : 1000), 5000);
    rec_table_end(w);
    BEGIN(w, "timeline", points);
    for (uint64_t t = 11; t < 4 * 3600; t++)
        for (uint64_t process = 0; process < 2; process++)
            NUMBERS(w, process, t * 1000000, (100 + t % 97 + process) * MIB, (t % 89 + 5) * MIB);
    rec_table_end(w);
    BEGIN(w, "events", events);
    for (uint64_t t = 11; t < 4 * 3600; t++) {
        NUMBERS(w, 0, t * 1000000, t % 60 ? 1 : 2, t % 60 ? t % 50 * 1000 : 0);
        text(w, t % 60 ? "" : "another minute");
    }
    rec_table_end(w);
}

int main(int argc, char **argv) {
    err_t e;
    rec_writer_t *w;
    if (argc < 3) {
        fputs("usage: profile_recording OUT SOURCE [MODE [INTERVAL [SHIFT [MORE [PEAK "
              "[STACKS]]]]]]\n",
              stderr);
        return 2;
    }
    uint64_t mode = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    uint64_t interval = argc > 4 ? strtoull(argv[4], NULL, 10) : mode == 1 ? 524288 : 0;
    shift = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;
    more = argc > 6 ? strtoull(argv[6], NULL, 10) : 0;
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || rec_open(&w, fd, 0, UINT64_C(1790000000123456789), &e)) return 1;
    rec_meta(w, "pid", "4711");
    rec_meta(w, "python", "3.13.0");
    rec_meta(w, "command",
             "python\x1f"
             "app.py");
    rec_meta(w, "duration_s", "10.000");
    rec_meta(w, "exit_status", "3");
    processes(w, mode, interval);
    stacks(w, argv[2]);
    allocations(w, mode);
    times(w);
    if (argc > 8) many(w, strtoull(argv[8], NULL, 10));
    int status = argc > 7 && argv[7][0] != '-' ? nest(w, argv[7], &e) : 0;
    if (!status) status = rec_close(w, 0, 0, &e);
    if (status) fprintf(stderr, "%s\n", e.text);
    close(fd);
    return status ? 1 : 0;
}
