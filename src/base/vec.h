/* Growable arrays over mapped memory, from a few elements to hundreds of megabytes: growing moves
 * pages, not bytes, and room that was never touched costs nothing. Each vector takes at least one
 * page, so many tiny ones belong in an arena instead. Elements beyond `count` read as zero until
 * they are first used.
 *
 *     VEC_DEFINE(u32_vec, uint32_t)
 *     u32_vec_t v = {0};
 *     if (u32_vec_push(&v, 7)) return -ENOMEM;       0 or -ENOMEM; the vector stays as it was
 *     v.at[0], v.count
 *     u32_vec_free(&v);                               empty again, ready for use
 */
#ifndef LOWTIDE_BASE_VEC_H
#define LOWTIDE_BASE_VEC_H

#include <stddef.h>

/* Makes room for at least `need` elements of `size` bytes; *room is in elements. 0 or -ENOMEM. */
int vec_grow(void **at, size_t *room, size_t size, size_t need);
void vec_release(void **at, size_t *room, size_t size);

#define VEC_DEFINE(name, T)                                                                        \
    typedef struct name {                                                                          \
        T *at;                                                                                     \
        size_t count, room;                                                                        \
    } name##_t;                                                                                    \
    __attribute__((unused)) static inline int name##_reserve(name##_t *v, size_t more) {           \
        if (more <= v->room - v->count) return 0;                                                  \
        void *at = v->at;                                                                          \
        int status = vec_grow(&at, &v->room, sizeof(T), v->count + more);                          \
        v->at = (T *)at;                                                                           \
        return status;                                                                             \
    }                                                                                              \
    __attribute__((unused)) static inline int name##_push(name##_t *v, T x) {                      \
        if (v->count == v->room) {                                                                 \
            int status = name##_reserve(v, 1);                                                     \
            if (status) return status;                                                             \
        }                                                                                          \
        v->at[v->count++] = x;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    __attribute__((unused)) static inline void name##_free(name##_t *v) {                          \
        void *at = v->at;                                                                          \
        vec_release(&at, &v->room, sizeof(T));                                                     \
        v->at = NULL;                                                                              \
        v->count = 0;                                                                              \
    }                                                                                              \
    struct name /* so that the macro takes a semicolon or none */

#endif
