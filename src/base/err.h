/* Errors: a status and one line for people.
 *
 * Every function that can fail returns an int: 0 = ok, else a negative errno (-EINVAL: the caller's
 * input, -EBADMSG: a file that is not what it should be, -ENOMEM, -EPERM, -ESRCH …). The line says
 * the cause first, then the mend: "cannot open app.tide: No such file or directory; name a
 * recording made by lowtide dump" A library never prints or exits; only src/cli does. No function
 * here allocates, so the agent may use them anywhere.
 */
#ifndef LOWTIDE_BASE_ERR_H
#define LOWTIDE_BASE_ERR_H

typedef struct err {
    char text[480]; /* one line, no newline at its end, never empty after a failure */
} err_t;

/* Write the message and return `code`, so that a failure is one statement: return err_set(e,
 * -EINVAL, "…", …). `e` may be NULL. Too long a message is cut and ends in "…". */
int err_set(err_t *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set, with ": " and strerror(-code) put behind the message. */
int err_sys(err_t *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
