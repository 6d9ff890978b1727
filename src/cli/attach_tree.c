#define _GNU_SOURCE
#include "cli/attach_tree.h"

#include "cli/command.h"
#include "cli/process_tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_US = 20000, PART_OF_TIME = 20, LOOKS_BEFORE = 2, UNKNOWN_LOOKS = 50 };
enum { CALL_LOOKS = 50, CALLS_AT_ONCE = 1 << 10 };
/* What a process becomes shows while its loader is at work: before that one may seem to be no Python, and the agent not be let in. */
enum { AGAIN_US = 50000, TRIES_MOST = 10, TRIES_US = 3000000, UNSHAPED_US = 500000 };
enum { BRING_MS = 3000, LEAVE_ROUNDS = 4 };
/* How many regions and copies of the agent look like in /proc/PID/maps. */
static const char region_file[] = "memfd:lowtide-profile", agent_file[] = "memfd:lowtide";

void attach_tree_close(attach_tree_t *t) {
    for (size_t i = 0; i < t->members.count; i++) agent_talk_close(&t->members.at[i].talk);
    attach_members_free(&t->members);
    run_listen_close(&t->listen);
}

/* ── One process ── */

static attach_member_t *member_of(attach_tree_t *t, const tree_process_t *p) {
    for (size_t i = 0; i < t->members.count; i++)
        if (t->members.at[i].pid == p->pid) return &t->members.at[i];
    attach_member_t m = {
        .pid = p->pid, .parent = p->parent, .image = p->image, .talk = {.sock = -1}};
    return attach_members_push(&t->members, m) ? NULL : &t->members.at[t->members.count - 1];
}

static void refuse(attach_tree_t *t, attach_member_t *m, const char *why) {
    collect_refused(&t->record->collect, why);
    m->settled = true;
}

static void refuse_unknown(attach_tree_t *t, attach_member_t *m, const char *name) {
    char line[160];
    snprintf(line, sizeof line,
             "process %d (%s) may have its parent's memory: this system does not say (kcmp)",
             (int)m->pid, name);
    refuse(t, m, line);
}

static bool may_pass(const attach_member_t *m, int status, uint64_t age_us) {
    if (status == -ENOTSUP) return age_us < UNSHAPED_US;
    if (status != -EAGAIN && status != -EALREADY && status != -ETIMEDOUT && status != -EBUSY)
        return false;
    return m->tries < TRIES_MOST || age_us < TRIES_US;
}

/* Once more a little later, or never. */
static void failed(attach_tree_t *t, attach_member_t *m, int status, const err_t *e) {
    uint64_t now = collect_now_us(&t->record->collect);
    agent_talk_close(&m->talk);
    m->settled = status == -ESRCH;
    m->tries++;
    m->due_us = now + AGAIN_US;
    if (!m->settled && !may_pass(m, status, now - m->since_us)) refuse(t, m, e->text);
}

static void bring_in(attach_tree_t *t, attach_member_t *m) {
    ctl_msg_t ask = {.type = CTL_PROFILE, .profile = t->listen.profile};
    err_t e;
    int status = agent_talk_open(&m->talk, m->pid, t->agent, BRING_MS, &e);
    if (!status) status = ctl_send(m->talk.sock, &ask, -1, BRING_MS, &e);
    if (status == -EINTR) return;
    if (status) failed(t, m, status, &e);
}

/* Has it answered PROFILE? */
static void hear(attach_tree_t *t, attach_member_t *m) {
    ctl_msg_t got;
    err_t e;
    int fd = -1, status = ctl_recv(m->talk.sock, &got, &fd, 0, &e);
    if (status == -ETIMEDOUT || status == -EINTR) return;
    if (status == -EPIPE) status = -ESRCH;
    if (!status && got.type == CTL_RESULT)
        status = err_set(&e, got.result.status, "%s", got.result.text);
    if (!status && got.type == CTL_REGION) {
        status = collect_add(&t->record->collect, m->pid, m->parent, COLLECT_ATTACHED, fd,
                             got.region.python, &e);
        m->settled = status >= 0;
    }
    if (fd >= 0) close(fd);
    if (status < 0) failed(t, m, status, &e);
}

/* What was known of it is of another program. */
static void became_another(attach_tree_t *t, attach_member_t *m) {
    collect_process_t *p = collect_find(&t->record->collect, m->pid);
    agent_talk_close(&m->talk);
    m->settled = m->before = false;
    m->looks = m->tries = 0;
    m->due_us = 0;
    if (p && p->mode) collect_add(&t->record->collect, m->pid, 0, COLLECT_EXECED, -1, "", NULL);
}

static void hear_callers(attach_tree_t *t) {
    for (int i = 0; i < CALLS_AT_ONCE && run_listen_wait(&t->listen, -1, 0); i++) {
    }
}

static bool has_called(const attach_tree_t *t, pid_t pid) {
    const collect_process_t *p = collect_find(&t->record->collect, pid);
    bool called = p && p->mode;
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++)
        called |= t->listen.callers[i].sock >= 0 && t->listen.callers[i].pid == pid;
    return called;
}

/* Forked with our hooks it has its parent's region until it calls, the first that it does. A few do not: without libc's fork, or in
 * another network namespace. */
static bool is_to_call(attach_tree_t *t, attach_member_t *m, const tree_process_t *p) {
    if (m->before) return false;
    if (tree_maps(m->pid, region_file) == 1) {
        if (p->state == 'T') m->looks = LOOKS_BEFORE; /* its time begins when it goes on */
        if (m->looks <= CALL_LOOKS) return true;
    }
    hear_callers(t);
    return has_called(t, m->pid);
}

static void look_at(attach_tree_t *t, const tree_process_t *p) {
    if (p->exit_signal == 0 || strchr("ZXx", p->state)) return;
    attach_member_t *m = member_of(t, p);
    if (!m) return;
    const collect_process_t *known = collect_find(&t->record->collect, m->pid);
    bool calls = known && known->mode && m->talk.sock < 0;
    if (!p->image && m->image) return; /* it ends */
    if (m->image != p->image || (calls && !m->looks && tree_maps(m->pid, region_file) == 0))
        became_another(t, m);
    else if (calls)
        m->settled = true;
    /* Where the processor is wanted by many, one of them may stand still for seconds. */
    bool has_run = p->state != 'R' || p->cpu_ticks > m->cpu_ticks;
    m->image = p->image;
    m->cpu_ticks = p->cpu_ticks;
    if (!m->looks) m->since_us = collect_now_us(&t->record->collect);
    m->looks += has_run || !m->looks;
    if (m->settled || m->talk.sock >= 0 || m->looks < LOOKS_BEFORE) return;
    if (collect_now_us(&t->record->collect) < m->due_us) return;
    int shares = tree_shares_memory(p);
    if (shares == 0 && !is_to_call(t, m, p))
        bring_in(t, m);
    else if (shares < 0 && m->looks > UNKNOWN_LOOKS)
        refuse_unknown(t, m, p->name);
}

/* ── All of them ── */

static bool is_among(const tree_processes_t *all, pid_t pid) {
    for (size_t i = 0; i < all->count; i++)
        if (all->at[i].pid == pid) return true;
    return false;
}

/* Below the root, and below those that we know: a daemon's parent may have ended. */
static void list(const attach_tree_t *t, tree_processes_t *out) {
    const collect_processes_t *known = &t->record->collect.processes;
    tree_below(out, t->root);
    for (size_t i = 0; i < known->count; i++) {
        const collect_process_t *p = known->at[i];
        tree_process_t one;
        if (p->ended || p->pid == t->root || is_among(out, p->pid)) continue;
        if (!tree_read(&one, p->pid) || tree_processes_push(out, one)) continue;
        tree_below(out, p->pid);
    }
}

static void note_those_before(attach_tree_t *t) {
    tree_processes_t all = {0};
    tree_below(&all, t->root);
    for (size_t i = 0; i < all.count; i++) {
        attach_member_t *m = member_of(t, &all.at[i]);
        if (m) m->before = true;
    }
    tree_processes_free(&all);
}

int attach_tree_open(attach_tree_t *t, pid_t root, record_t *record, const char *agent,
                     ctl_profile_t *profile, err_t *e) {
    *t = (attach_tree_t){.agent = agent,
                         .record = record,
                         .root = root,
                         .follow = profile->flags & CTL_PROFILE_CHILDREN};
    t->listen.began = true; /* nobody who calls is the program */
    int status = run_listen_open(&t->listen, record, e);
    if (status) return status;
    note_those_before(t);
    snprintf(profile->key, sizeof profile->key, "%s", t->listen.key);
    snprintf(profile->name, sizeof profile->name, "%s", t->listen.name);
    t->listen.profile = *profile;
    return 0;
}

static void forget_the_gone(attach_tree_t *t, const tree_processes_t *all) {
    size_t kept = 0;
    for (size_t i = 0; i < t->members.count; i++) {
        attach_member_t *m = &t->members.at[i];
        if (is_among(all, m->pid))
            t->members.at[kept++] = *m;
        else
            agent_talk_close(&m->talk);
    }
    t->members.count = kept;
}

static void look(attach_tree_t *t) {
    tree_processes_t all = {0};
    uint64_t begin = collect_now_us(&t->record->collect);
    list(t, &all);
    forget_the_gone(t, &all);
    for (size_t i = 0; i < all.count && !interrupt_signal(); i++) look_at(t, &all.at[i]);
    tree_processes_free(&all);
    uint64_t end = collect_now_us(&t->record->collect), rest = (end - begin) * PART_OF_TIME;
    t->look_us = end + (rest > LOOK_US ? rest : LOOK_US);
}

void attach_tree_wait(attach_tree_t *t, int also, int timeout_ms) {
    int look_ms = LOOK_US / 1000;
    run_listen_wait(&t->listen, also, t->follow && timeout_ms > look_ms ? look_ms : timeout_ms);
    if (!t->follow) return;
    for (size_t i = 0; i < t->members.count; i++)
        if (t->members.at[i].talk.sock >= 0 && !t->members.at[i].settled)
            hear(t, &t->members.at[i]);
    if (collect_now_us(&t->record->collect) >= t->look_us) look(t);
}

/* ── Leaving ── */

static void dismiss(attach_tree_t *t, pid_t pid) {
    collect_process_t *p = collect_find(&t->record->collect, pid);
    if (p) observed_dismiss(&p->observed);
}

/* Those that have an inherited copy of the agent. Returns how many. */
static size_t take_copies_out(attach_tree_t *t) {
    tree_processes_t all = {0};
    size_t found = 0;
    list(t, &all);
    for (size_t i = 0; i < all.count; i++) {
        tree_process_t *p = &all.at[i];
        attach_member_t *m = member_of(t, p);
        bool passed = !m || m->left;
        if (passed || p->exit_signal == 0 || strchr("ZXx", p->state)) continue;
        if (tree_maps(p->pid, agent_file) != 1 || tree_shares_memory(p) == 1) continue;
        agent_talk_t talk;
        err_t e;
        found++;
        m->settled = m->left = true; /* once */
        dismiss(t, p->pid);
        int status = agent_talk_open(&talk, p->pid, t->agent, BRING_MS, &e);
        if (!status) {
            agent_talk_stop(&talk);
            agent_talk_close(&talk);
        } else if (status != -ESRCH)
            command_fail("hooks stay in process %d, and count nothing: %s", (int)p->pid, e.text);
    }
    tree_processes_free(&all);
    return found;
}

void attach_tree_leave(attach_tree_t *t) {
    /* All at once: each may take seconds where its process keeps the GIL. */
    for (size_t i = 0; i < t->members.count; i++) {
        attach_member_t *m = &t->members.at[i];
        if (m->talk.sock >= 0 && m->settled) agent_talk_stop_ask(&m->talk);
    }
    for (size_t i = 0; i < t->members.count; i++) {
        attach_member_t *m = &t->members.at[i];
        if (m->talk.sock >= 0 && m->settled) agent_talk_stop(&m->talk);
        agent_talk_close(
            &m->talk); /* of the others the agent leaves when it has the GIL, or gives up */
    }
    run_listen_last(&t->listen);
    for (int round = 0; round < LEAVE_ROUNDS && take_copies_out(t); round++)
        run_listen_last(&t->listen);
}
