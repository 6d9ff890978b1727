/* What the hooks of many threads fill together: stack tables, and who opened which descriptor. Under ThreadSanitizer, too. */
#include "agent/alloc/alloc_index.h"
#include "agent/alloc/alloc_opens.h"
#include "agent/alloc/alloc_stack.h"
#include "agent/alloc/alloc_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

enum { THREADS = 6, ROUNDS = 30000, KEYS = 1500, ROOM = 60000 };

static void run_threads(void *(*what)(void *)) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, what, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
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

#define PYTHON(name) cmocka_unit_test_setup_teardown(name, open_python, close_python)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_that_look_for_the_same_find_the_same),
        PYTHON(test_each_thread_gets_the_stack_that_it_has),
        PYTHON(test_of_a_descriptor_the_last_opener_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
