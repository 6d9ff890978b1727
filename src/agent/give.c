#define _GNU_SOURCE
#include "agent/give.h"

#include "agent/collect_call.h"
#include "agent/free/free_steps.h"
#include "agent/ledger/ledger.h"
#include "agent/ledger/resident.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { LINE_WAIT_MS = 5000 };

static int say_line(const give_t *g, const char *name, uint64_t bytes, uint64_t returnable_bytes,
                    const char *note, err_t *e) {
    ctl_msg_t m = {.type = CTL_LINE,
                   .line = {.bytes = bytes, .returnable_bytes = returnable_bytes}};
    snprintf(m.line.name, sizeof m.line.name, "%s", name);
    snprintf(m.line.note, sizeof m.line.note, "%s", note);
    return ctl_send(g->sock, &m, -1, LINE_WAIT_MS, e);
}

static int say_pin(const give_t *g, const pins_line_t *p, err_t *e) {
    ctl_msg_t m = {.type = CTL_PIN,
                   .pin = {.objects = p->objects,
                           .bytes = p->bytes,
                           .returnable_bytes = p->returnable_bytes,
                           .arenas = p->arenas}};
    snprintf(m.pin.type, sizeof m.pin.type, "%s", p->type);
    return ctl_send(g->sock, &m, -1, LINE_WAIT_MS, e);
}

/* Takes the GIL, and proves the layout where that has not been done. */
static int hold(const give_t *g, uint32_t timeout_ms, ctl_result_t *result, err_t *e) {
    int64_t began_us = now_us();
    int status = rt_ready(g->rt, e);
    if (!status) status = gil_take(g->gil, timeout_ms, g->stop, g->arg, e);
    if (status) return status;
    result->gil_us = (uint64_t)(now_us() - began_us);
    g->rt->no_thread = true;
    if (!g->rt->proven) status = rt_prove(g->rt, e);
    if (status) gil_release(g->gil);
    return status;
}

/* What it cannot do it says in its note; only giving up is an error. */
static int collect(const give_t *g, const ctl_free_t *ask, free_step_t *out, err_t *e) {
    uint64_t before = res_rss(), after;
    err_t why;
    memset(out, 0, sizeof *out);
    out->name = "collect";
    if (!(ask->flags & CTL_COLLECT)) {
        snprintf(out->note, sizeof out->note,
                 "not asked for (--collect): it runs the program's finalizers");
        return 0;
    }
    if (ask->flags & CTL_DRY_RUN) {
        snprintf(out->note, sizeof out->note, "cannot be told beforehand");
        return 0;
    }
    int status = collect_call(ask->timeout_ms, g->stop, g->arg, &out->us, &why);
    after = res_rss();
    out->returned_bytes = before > after ? before - after : 0;
    if (!status)
        snprintf(out->note, sizeof out->note, "in the main thread, which took %.1f ms",
                 (double)out->us / 1e3);
    else
        snprintf(out->note, sizeof out->note, "%.300s", why.text);
    if (status == -ECANCELED) *e = why;
    return status == -ECANCELED ? status : 0;
}

static int serve_free(const give_t *g, const ctl_free_t *ask, ctl_result_t *result, err_t *e) {
    free_step_t collected, pools, libc;
    bool dry = ask->flags & CTL_DRY_RUN;
    int status = collect(g, ask, &collected, e);
    if (!status) status = hold(g, ask->timeout_ms, result, e);
    if (status) return status;
    int64_t began_us = now_us();
    free_pools(g->rt, dry, ask->pause_ms_max ? began_us + ask->pause_ms_max * 1000ll : 0, &pools);
    gil_release(g->gil);
    result->pause_us = (uint64_t)(now_us() - began_us);
    free_libc(dry, &libc);
    result->bytes = collected.returned_bytes + pools.returned_bytes + libc.returned_bytes;
    result->pause_us += collected.us;
    status = say_line(g, collected.name, collected.returned_bytes, 0, collected.note, e);
    if (!status) status = say_line(g, pools.name, pools.returned_bytes, 0, pools.note, e);
    if (!status) status = say_line(g, libc.name, libc.returned_bytes, 0, libc.note, e);
    return status;
}

static int serve_rss(const give_t *g, const ctl_free_t *ask, ctl_result_t *result, err_t *e) {
    ledger_t *l = mem_map(sizeof *l);
    if (!l) return err_set(e, -ENOMEM, "out of memory");
    int status = ledger_prepare(l, g->rt, e);
    if (!status) status = hold(g, ask->timeout_ms, result, e);
    if (!status) {
        int64_t began_us = now_us();
        status = ledger_read_python(l, g->rt, e);
        gil_release(g->gil);
        result->pause_us = (uint64_t)(now_us() - began_us);
    }
    if (!status) status = ledger_read_system(l, 0, e);
    for (uint32_t i = 0; !status && i < l->count; i++) {
        const ledger_line_t *line = &l->lines[i];
        status = say_line(g, line->name, line->bytes, line->returnable_bytes, line->note, e);
    }
    for (uint32_t i = 0; !status && i < l->pools.pin_count; i++)
        status = say_pin(g, &l->pools.pins[i], e);
    result->bytes = l->rss_bytes;
    result->objects =
        l->swap_bytes; /* RESULT's other figures are of a capture; these two are not */
    result->references = l->huge_bytes;
    ledger_free(l);
    mem_unmap(l, sizeof *l);
    return status;
}

int give_serve(const give_t *g, const ctl_msg_t *request, ctl_result_t *result) {
    err_t e = {{0}};
    memset(result, 0, sizeof *result);
    int status = gil_find(g->gil, g->rt, &e);
    if (!status)
        status = request->type == CTL_FREE ? serve_free(g, &request->free, result, &e)
                                           : serve_rss(g, &request->free, result, &e);
    result->status = status;
    if (status) memcpy(result->text, e.text, sizeof result->text);
    return status;
}
