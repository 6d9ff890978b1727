/* The program's children, followed through exec: whatever environment they are given, they find in it the words that bring the
 * agent into them.
 *
 *     execve(path, argv, {"A=1"})  ─▶  real execve(path, argv, {"A=1", "LOWTIDE_RUN=…", "LD_PRELOAD=agent"})
 *
 * The preloaded agent defines the exec and posix_spawn functions of libc, and calls libc's own. A Python takes the words out of
 * its environment again before it looks at it (program.c), and other programs hand them on.
 *
 * Nothing is added for a program into which the agent could not be loaded, which the loader would complain about there: of another
 * machine or another libc, or where the agent's file is not to be seen (chroot). What it would have inherited is taken out for
 * it. Static programs get the words, since what they start may be a Python; a set-user-ID program's loader ignores them.
 *
 * Any thread, and between vfork and exec: nothing is allocated, all is on the stack; no lock, no call but open, pread, close.
 */
#ifndef LOWTIDE_AGENT_FOLLOW_H
#define LOWTIDE_AGENT_FOLLOW_H

#include <stdbool.h>
#include <stddef.h>

/* value: of CTL_RUN_VARIABLE; agent: as it stands in LD_PRELOAD; limit: of CTL_LIMIT_VARIABLE, or NULL, and what a Python starts is
 * marked a child there. All are copied; what is too long is not followed. Once. */
void follow_begin(const char *value, const char *agent, const char *limit, bool is_python);

/* Called for each program that is about to be started and will not call: static, set-user-ID, of another machine or libc, or where
 * the agent is not to be seen. Where it was not started after all, NULL follows, with what the first call returned. In a child of
 * vfork, too: no lock, no allocation. */
typedef int (*follow_silent_t)(const char *path, int told);
void follow_on_silent(follow_silent_t tell);

/* Into `out`: the list of libraries (as in LD_PRELOAD) without that one. false: it is not in it, or there is no room. */
bool follow_without(const char *libraries, const char *agent, char *out, size_t room);

#endif
