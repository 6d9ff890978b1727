/* What the hooks of many threads fill together (stack tables, who opened which descriptor), the hooks of libc's functions that come and go
 * meanwhile, and frames of C. Under ThreadSanitizer, too: its runtime takes no call of ours while a thread begins or ends, so none
 * does while hooks are in. */
#define _GNU_SOURCE
#include "agent/alloc/alloc_count.h"
#include "agent/alloc/alloc_index.h"
#include "agent/alloc/alloc_libc.h"
#include "agent/alloc/alloc_opens.h"
#include "agent/alloc/alloc_stack.h"
#include "agent/alloc/alloc_store.h"
#include "agent/alloc/alloc_unwind.h"

#include "alloc_calls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

/* It knows nothing of the loader's locks: a library's name that is read under them and freed under them looks like a race to it, or
 * does not, depending on how long the name is. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
    return "race:_dl_close_worker\n";
}

enum { THREADS = 6, ROUNDS = 30000, KEYS = 1500, ROOM = 60000 };

static void run_threads(void *(*what)(void *)) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, what, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        if (failed) print_error("%s\n", (char *)failed);
        assert_null(failed);
    }
}

static uint64_t next(uint64_t *random) {
    *random = *random * 6364136223846793005ull + 1442695040888963407ull;
    return *random >> 33;
}

/* ── alloc_index ── */

static alloc_index_t in;
static uint64_t elements[ROOM];
static _Atomic uint32_t element_count;

static bool element_same(uint32_t number, const void *key) {
    return elements[number] == *(const uint64_t *)key;
}

static uint32_t element_make(const void *key) {
    uint32_t at = atomic_fetch_add(&element_count, 1);
    if (at >= ROOM) return INDEX_NONE;
    elements[at] = *(const uint64_t *)key;
    return at;
}

/* Few hashes for many keys: then threads meet in the same slots. */
static uint32_t element_find(uint64_t key) {
    return index_find(&in, index_mix(0, key % 300), element_same, element_make, &key);
}

static void *find_elements(void *arg) {
    uint64_t random = (uintptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t key = next(&random) % KEYS;
        uint32_t number = element_find(key);
        if (number == INDEX_NONE || elements[number] != key || element_find(key) != number)
            return "a key has two numbers, or another's";
    }
    return NULL;
}

static void test_threads_that_look_for_the_same_find_the_same(void **state) {
    (void)state;
    assert_true(index_open(&in, INDEX_LEVELS));
    element_count = 0;
    run_threads(find_elements);
    uint32_t made = element_count;
    for (uint64_t key = 0; key < KEYS; key++) assert_int_equal(elements[element_find(key)], key);
    assert_int_equal(element_count, made);
    assert_in_range(made, KEYS, THREADS * KEYS);
    index_close(&in);
}

/* ── alloc_stack ──
 *
 * Frames as an interpreter has them: each thread's own, of code that all share. */

enum { CODES = 40, DEPTH = 12, INSTRUCTIONS = 4 };

typedef struct code {
    rt_addr_t type, filename, qualname, linetable;
    int32_t first_line, first_traceable;
    uint16_t instructions[INSTRUCTIONS];
} code_t;

typedef struct frame {
    rt_addr_t code, instruction, previous;
    uint8_t owner;
} frame_t;

typedef struct thread {
    rt_addr_t current;
    frame_t frames[DEPTH];
} thread_t;

static struct {
    rt_addr_t nothing[4]; /* an object without a type's flags, and bytes of none */
    code_t codes[CODES];
    layout_t layout;
    rt_t rt;
} python;
static __thread thread_t mine;

static void *thread_here(void) {
    return &mine;
}

static int open_python(void **state) {
    int fd;
    err_t e;
    (void)state;
    memset(&python, 0, sizeof python);
    const rt_addr_t nothing = (rt_addr_t)python.nothing;
    python.nothing[0] = nothing;
    python.layout = (layout_t){
        .thread_current_frame = offsetof(thread_t, current),
        .frame_owned_by_c = LAYOUT_ABSENT,
        .frame_owned_by_generator = 1,
        .iframe_code = offsetof(frame_t, code),
        .iframe_instruction = offsetof(frame_t, instruction),
        .iframe_previous = offsetof(frame_t, previous),
        .iframe_owner = offsetof(frame_t, owner),
        .code_filename = offsetof(code_t, filename),
        .code_qualname = offsetof(code_t, qualname),
        .code_linetable = offsetof(code_t, linetable),
        .code_firstlineno = offsetof(code_t, first_line),
        .code_first_traceable = offsetof(code_t, first_traceable),
        .code_adaptive = offsetof(code_t, instructions),
        .type_flags = sizeof(rt_addr_t),
        .var_size = sizeof(rt_addr_t),
    };
    python.rt.layout = &python.layout;
    python.rt.types.code = nothing;
    python.rt.PyGILState_GetThisThreadState = thread_here;
    for (int i = 0; i < CODES; i++)
        python.codes[i] = (code_t){.type = nothing,
                                   .filename = nothing,
                                   .qualname = nothing,
                                   .linetable = nothing,
                                   .first_line = i + 1};
    if (store_open(REGION_SAMPLED, 1 << 19, &fd, &e) || close(fd)) return -1;
    return stack_open(&python.rt, false) ? 0 : -1;
}

static int close_python(void **state) {
    (void)state;
    opens_close();
    stack_close();
    store_close();
    return 0;
}

/* Calls of some of the functions, `depth` deep. */
static void call(uint64_t *random, uint32_t depth) {
    for (uint32_t i = 0; i < depth; i++) {
        code_t *code = &python.codes[next(random) % CODES];
        uint16_t *at = &code->instructions[next(random) % INSTRUCTIONS];
        mine.frames[i] =
            (frame_t){(rt_addr_t)code, (rt_addr_t)at, i ? (rt_addr_t)&mine.frames[i - 1] : 0, 0};
    }
    mine.current = (rt_addr_t)&mine.frames[depth - 1];
}

static const void *part(const region_part_t *p) {
    return (const char *)store_region() + p->offset;
}

static bool is_told(uint32_t depth, uint32_t number) {
    const region_stack_t *stacks = part(&store_region()->stacks);
    const region_frame_t *frames = part(&store_region()->frames);
    for (uint32_t stack = number + 1; depth-- > 0; stack = stacks[stack - 1].parent) {
        const code_t *code = (const code_t *)mine.frames[depth].code;
        if (!stack || frames[stacks[stack - 1].frame].line != (uint32_t)code->first_line)
            return false;
        if (!depth) return stacks[stack - 1].parent == 0;
    }
    return false;
}

static void *take_stacks(void *arg) {
    uint64_t random = (uintptr_t)arg;
    for (int i = 0; i < ROUNDS / 6; i++) {
        uint32_t depth = 1 + (uint32_t)next(&random) % 3;
        call(&random, depth);
        uint32_t number = stack_here();
        if (!is_told(depth, number)) return "a stack is not the thread's";
        if (store_stack_of(store_cell(number, REGION_OBJECT)) != number) return "nor its cell";
    }
    return NULL;
}

static void test_each_thread_gets_the_stack_that_it_has(void **state) {
    (void)state;
    run_threads(take_stacks);
    assert_int_equal(store_region()->lost_stacks, 0);
}

/* ── alloc_opens ── */

static got_hook_t hooks[OPENS_HOOKS];
static int (*hooked_dup)(int), (*hooked_close)(int);

static void hooks_find(void) {
    size_t count = opens_hooks(hooks, false);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(hooks[i].name, "dup") == 0) {
            hooks[i].real = (got_function_t)dup;
            hooked_dup = (int (*)(int))hooks[i].hook;
        } else if (strcmp(hooks[i].name, "close") == 0) {
            hooks[i].real = (got_function_t)close;
            hooked_close = (int (*)(int))hooks[i].hook;
        }
    }
    assert_non_null(hooked_dup);
    assert_non_null(hooked_close);
}

static int kept[THREADS];
static uint32_t kept_line[THREADS];

static void *open_and_close(void *arg) {
    uint64_t random = (uintptr_t)arg;
    for (int i = 0; i < ROUNDS / 6; i++) {
        call(&random, 1);
        int descriptor = hooked_dup(1);
        if (descriptor < 0) return "no descriptor";
        if (i + 1 == ROUNDS / 6) {
            kept[(uintptr_t)arg] = descriptor;
            kept_line[(uintptr_t)arg] = (uint32_t)((code_t *)mine.frames[0].code)->first_line;
        } else if (hooked_close(descriptor)) {
            return "it is not open";
        }
    }
    return NULL;
}

static void test_of_a_descriptor_the_last_opener_is_known(void **state) {
    (void)state;
    opens_place_t place;
    hooks_find();
    run_threads(open_and_close);
    for (int i = 0; i < THREADS; i++) {
        assert_true(opens_descriptor(kept[i], &place));
        assert_int_equal(place.line, kept_line[i]);
        assert_int_equal(hooked_close(kept[i]), 0);
        assert_false(opens_descriptor(kept[i], &place));
    }
}

/* ── alloc_got, alloc_libc ── */

enum { TURNS = 20, INTERVAL_BYTES = 4096, END = -1, DONE = -2 };

static _Atomic int begun, turn, working;
static int loaded_known;
static char later[4096];

static void find_later(void) {
    Dl_info here;
    assert_true(dladdr((void *)(uintptr_t)alloc_calls, &here) != 0);
    char *directory = realpath(here.dli_fname, NULL);
    assert_non_null(directory);
    *strrchr(directory, '/') = 0;
    snprintf(later, sizeof later, "%s/liballoc-calls-later.so", directory);
    free(directory);
}

static bool known(const void *block) {
    return count_cell_at(block) != 0;
}

static bool any(const void *block) {
    (void)block;
    return true;
}

/* Thread 0 loads and unloads a library that allocates, thread 1 looks for functions, the others allocate. */
static void *allocate_in_turns(void *arg) {
    atomic_fetch_add(&begun, 1);
    for (int seen = 0, now; (now = atomic_load(&turn)) >= 0;) {
        if (now == seen) {
            sched_yield();
            continue;
        }
        seen = now;
        for (int i = 0; !arg && i < 10; i++) alloc_load(later, any);
        for (int i = 0; arg == (void *)1 && i < 1000; i++) alloc_look_up();
        if ((uintptr_t)arg > 1)
            alloc_calls((uintptr_t)arg * 0x2545f4914f6cdd1dull + (uint64_t)now, ROUNDS / 100);
        atomic_fetch_sub(&working, 1);
    }
    return NULL;
}

static int open_hooks(enum region_mode mode) {
    void *state = NULL;
    err_t e;
    int fd;
    if (open_python(&state)) return -1;
    store_close();
    if (store_open(mode, INTERVAL_BYTES, &fd, &e) || close(fd)) return -1;
    find_later();
    return count_open(mode, INTERVAL_BYTES, &e);
}

static int close_hooks(void **state) {
    count_close();
    return close_python(state);
}

static int open_sampled(void **state) {
    (void)state;
    return open_hooks(REGION_SAMPLED);
}

static int open_exact(void **state) {
    (void)state;
    return open_hooks(REGION_EXACT);
}

static void begin_threads(pthread_t threads[THREADS], void *(*what)(void *)) {
    atomic_store(&turn, 0);
    atomic_store(&begun, 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, what, (void *)i), 0);
    while (atomic_load(&begun) < THREADS) usleep(100);
}

/* come: the hooks come while the threads are at work; else before, and go when half of them have done. */
static void turn_once(enum region_mode mode, bool come) {
    err_t e;
    atomic_store(&working, THREADS);
    if (come) atomic_fetch_add(&turn, 1);
    assert_int_equal(libc_hook(mode, false, &e), 0);
    if (!come) atomic_fetch_add(&turn, 1);
    while (atomic_load(&working) > (come ? 0 : THREADS / 2)) usleep(100);
    libc_unhook();
    while (atomic_load(&working) || libc_inside()) usleep(100);
}

static void come_and_go(enum region_mode mode) {
    pthread_t threads[THREADS];
    begin_threads(threads, allocate_in_turns);
    for (int i = 0; i < TURNS; i++) turn_once(mode, i % 2);
    atomic_store(&turn, END);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    const region_t *r = store_region();
    assert_true(r->heap_peak_bytes > 0 && r->cells.used > 1);
    assert_int_equal(r->lost_blocks + r->lost_stacks, 0);
}

static void test_hooks_come_and_go_while_threads_allocate_and_load_libraries(void **state) {
    (void)state;
    come_and_go(store_region()->mode);
}

static void *load(void *arg) {
    atomic_fetch_add(&begun, 1);
    while (atomic_load(&turn) == 0) sched_yield();
    for (int i = 0; !arg && i < TURNS * 10; i++) loaded_known += alloc_load(later, known);
    if (!arg) atomic_store(&turn, DONE);
    while (atomic_load(&turn) > 0) alloc_look_up();
    while (atomic_load(&turn) == DONE) usleep(100);
    return NULL;
}

static void test_what_one_thread_loads_is_hooked_whoever_looks_for_what_meanwhile(void **state) {
    (void)state;
    err_t e;
    pthread_t threads[THREADS];
    loaded_known = 0;
    begin_threads(threads, load);
    assert_int_equal(libc_hook(REGION_EXACT, false, &e), 0);
    atomic_store(&turn, 1);
    while (atomic_load(&turn) > 0) usleep(100);
    libc_unhook();
    atomic_store(&turn, END);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    while (libc_inside()) usleep(100);
    assert_int_equal(loaded_known, TURNS * 10);
}

/* ── alloc_unwind ── */

enum { DEEP_MOST = 40 };

/* One walk after the other by what the last found, and each beside one that begins afresh. */
typedef struct seen {
    unwind_walk_t walk, afresh;
    bool same;
} seen_t;

static void look(void *arg) {
    seen_t *s = arg;
    s->afresh.count = 0;
    unwind_here(&s->afresh);
    unwind_here(&s->walk);
    const size_t n = s->walk.count;
    s->same = n == s->afresh.count &&
              memcmp(s->walk.frames, s->afresh.frames, n * sizeof *s->walk.frames) == 0;
}

static uintptr_t library_of(uintptr_t pc) {
    Dl_info info;
    return dladdr((void *)pc, &info) ? (uintptr_t)info.dli_fbase : 0;
}

/* One of them says all the while that libraries have gone. */
static void *look_from_below(void *arg) {
    uint64_t random = (uintptr_t)arg;
    const uintptr_t calls = library_of((uintptr_t)alloc_deep);
    seen_t *s = calloc(1, sizeof *s);
    const char *wrong = NULL;
    for (int i = 0; i < ROUNDS / 10 && !wrong; i++) {
        const size_t depth = 1 + next(&random) % DEEP_MOST;
        if (!arg) unwind_forget();
        alloc_deep((int)depth, look, s);
        if (s->walk.count <= depth) wrong = "frames are missing";
        if (!s->same) wrong = "other frames than afresh";
        for (size_t k = 0; k < s->walk.count; k++)
            if ((library_of(s->walk.frames[k].pc - 1) == calls) != (k < depth))
                wrong = "a frame is another's";
    }
    free(s);
    return (void *)wrong;
}

static void test_each_thread_is_told_its_own_frames_of_c(void **state) {
    err_t e;
    (void)state;
    assert_int_equal(unwind_open(&e), 0);
    run_threads(look_from_below);
    unwind_close();
}

#define HOOKED(name, how) cmocka_unit_test_setup_teardown(name, open_##how, close_hooks)
#define PYTHON(name)      cmocka_unit_test_setup_teardown(name, open_python, close_python)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_that_look_for_the_same_find_the_same),
        PYTHON(test_each_thread_gets_the_stack_that_it_has),
        PYTHON(test_of_a_descriptor_the_last_opener_is_known),
        HOOKED(test_hooks_come_and_go_while_threads_allocate_and_load_libraries, sampled),
        HOOKED(test_hooks_come_and_go_while_threads_allocate_and_load_libraries, exact),
        HOOKED(test_what_one_thread_loads_is_hooked_whoever_looks_for_what_meanwhile, exact),
        cmocka_unit_test(test_each_thread_is_told_its_own_frames_of_c),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
