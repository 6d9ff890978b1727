/* The stub runs from a copy at another address, in this very process: it must need nothing but its context. */
#define _GNU_SOURCE
#include "inject/inject_stub.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char *region;
static inject_context_t *context;
static int opened_with_number, closed, started_with, open_in_agent;
static bool refuse_library;

enum { PATIENCE_MS = 240000 }; /* whatever a busy machine does between two steps of a test */

static void *fake_dlopen(const char *path, int mode) {
    (void)mode;
    open_in_agent = open(path, O_RDONLY);
    opened_with_number = open_in_agent >= 0;
    close(open_in_agent);
    return refuse_library ? NULL : &opened_with_number;
}
static int fake_start(int fd) {
    char byte;
    started_with = fd;
    return (int)recv(fd, &byte, 1, 0);
}
static void *fake_dlsym(void *library, const char *name) {
    void *start = NULL;
    int (*f)(int) = fake_start;
    if (library == &opened_with_number && strcmp(name, "agent_start") == 0)
        memcpy(&start, &f, sizeof start);
    return start;
}
static int fake_dlclose(void *library) {
    closed += library == &opened_with_number;
    return 0;
}
static char *fake_dlerror(void) {
    return (char *)"no such thing";
}
static int *errno_place(void) {
    return &errno;
}
static int failing_create(unsigned long *thread, const void *attr, void *(*f)(void *), void *arg) {
    (void)thread, (void)attr, (void)f, (void)arg;
    return EAGAIN;
}

static uint64_t moved(const void *code) {
    return (uint64_t)(uintptr_t)(region + ((const char *)code - inject_stub_begin));
}

static int set_up(void **state) {
    (void)state;
    region =
        mmap(NULL, INJECT_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(inject_stub_end - inject_stub_begin <= INJECT_CODE_BYTES);
    memcpy(region, inject_stub_begin, (size_t)(inject_stub_end - inject_stub_begin));
    mprotect(region, INJECT_CODE_BYTES, PROT_READ | PROT_EXEC);
    context = (inject_context_t *)(region + INJECT_CODE_BYTES);
    *context = (inject_context_t){
        .errno_location = errno_place,
        .attr_init = (int (*)(void *))pthread_attr_init,
        .attr_setdetachstate = (int (*)(void *, int))pthread_attr_setdetachstate,
        .attr_setstacksize = (int (*)(void *, size_t))pthread_attr_setstacksize,
        .thread_create =
            (int (*)(unsigned long *, const void *, void *(*)(void *), void *))pthread_create,
        .dlopen = fake_dlopen,
        .dlsym = fake_dlsym,
        .dlclose = fake_dlclose,
        .dlerror = fake_dlerror,
        .munmap = (uint64_t)(uintptr_t)munmap,
        .region = (uint64_t)(uintptr_t)region,
        .region_bytes = INJECT_REGION_BYTES,
        .fd_floor = 200,
        .patience_ms = PATIENCE_MS,
        .mxcsr = 0x1f80,
        .thread_name = "lowtide",
        .entry_name = "agent_start",
        .path = "/proc/thread-self/fd/",
        .guest_fd = -1,
        .our_fd = -1,
    };
    uint64_t guest = moved((const void *)(uintptr_t)inject_stub_guest);
    memcpy(&context->guest, &guest, sizeof guest);
    refuse_library = false;
    opened_with_number = closed = started_with = 0;
    return 0;
}

/* Enters the copy as the borrowed thread would, with this stack as the place to go back to. */
static void enter(void) {
    static const unsigned char syscall_then_ret[] = {0x0f, 0x05, 0xc3};
    static void *gadget;
    if (!gadget) {
        gadget = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memcpy(gadget, syscall_then_ret, 3);
        mprotect(gadget, 4096, PROT_READ | PROT_EXEC);
    }
    context->syscall_then_ret = (uint64_t)(uintptr_t)gadget;
    uint64_t entry = moved((const void *)(uintptr_t)inject_stub_enter);
    void *context_at = context, *stack = region + INJECT_REGION_BYTES;
    __asm__ volatile("sub $256, %%rsp\n push %%rbx\n push %%rbp\n mov %0, %%rbx\n"
                     "lea 1f(%%rip), %%rcx\n push %%rcx\n mov %%rsp, %c3(%%rbx)\n"
                     "mov %1, %%rsp\n jmp *%2\n"
                     "1: pop %%rbp\n pop %%rbx\n add $256, %%rsp\n"
                     : "+D"(context_at), "+S"(stack), "+a"(entry)
                     : "i"(offsetof(inject_context_t, return_sp))
                     : "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory",
                       "cc");
}

static bool is_mapped(const void *page) {
    unsigned char resident;
    return mincore((void *)(uintptr_t)page, 4096, &resident) == 0;
}

static void wait_until_unmapped(void) {
    while (is_mapped(region)) nanosleep(&(struct timespec){0, 1000000}, NULL);
}

static inject_word_t hear(int fd, char text[64]) {
    inject_word_t word = {0};
    struct iovec parts[2] = {{&word, sizeof word}, {text, 63}};
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = 2};
    memset(text, 0, 64);
    assert_true(recvmsg(fd, &m, 0) >= (ssize_t)sizeof word);
    return word;
}

static void send_memfd(int to) {
    int memfd = memfd_create("test", MFD_CLOEXEC);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof memfd)];
    } control = {.align = {CMSG_LEN(sizeof memfd), SOL_SOCKET, SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.align), &memfd, sizeof memfd);
    struct iovec part = {(char *)"x", 1};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    assert_int_equal(sendmsg(to, &m, 0), 1);
    close(memfd);
}

static bool is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

/* Our end, wherever the guest has it; -1 where the kernel does not let us reach a thread's table. */
static int fetch(void) {
    const volatile int32_t *ready = &context->ready;
    if (!context->own_socket) return dup(context->our_fd);
    while (!*ready) nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_true(*ready > 0);
    int pidfd = (int)syscall(SYS_pidfd_open, *ready, O_EXCL);
    int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, context->our_fd, 0);
    if (pidfd >= 0) close(pidfd);
    return fd;
}

static void serve_once(bool own_socket) {
    char text[64];
    errno = 42;
    context->own_socket = own_socket;
    enter();
    assert_int_equal(errno, 42);
    assert_int_equal(context->failed_step, 0);
    assert_true(context->left[0] || context->left[1]);
    int ours = fetch(), guest_fd = context->guest_fd, our_fd = context->our_fd;
    if (ours < 0) {
        assert_true(own_socket);
        wait_until_unmapped();
        skip();
    }
    assert_true(guest_fd >= 200 && our_fd >= 200);
    inject_word_t word = hear(ours, text);
    assert_true(word.magic == INJECT_HELLO_MAGIC && word.tid != gettid());
    send_memfd(ours);
    word = hear(ours, text);
    assert_true(word.magic == INJECT_LOADED_MAGIC && word.code == INJECT_LOADED);
    assert_true(opened_with_number);
    assert_int_equal(send(ours, "x", 1, 0), 1); /* the agent ends */
    wait_until_unmapped();
    assert_int_equal(started_with, guest_fd);
    assert_int_equal(closed, 1);
    assert_false(is_open(guest_fd) || is_open(our_fd));
    close(ours);
}

static void the_guest_loads_serves_and_takes_everything_away(void **state) {
    (void)state;
    serve_once(true);
}

static void so_it_does_where_the_socket_is_made_among_the_program_s_descriptors(void **state) {
    (void)state;
    serve_once(false);
}

static void what_the_agent_opens_takes_no_number_of_the_program(void **state) {
    (void)state;
    char text[64], byte = 0;
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    enter();
    int ours = fetch();
    hear(ours, text);
    send_memfd(ours);
    hear(ours, text);
    assert_int_equal(open_in_agent, 0); /* its table has nothing low in it */
    /* A program may close both ends, and put another file in their place: it stays. */
    while (context->closer) nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_false(is_open(context->guest_fd) || is_open(context->our_fd));
    close(pipe_ends[1]);
    assert_int_equal(read(pipe_ends[0], &byte, 1), 0); /* the guest has not kept the other end */
    close(pipe_ends[0]);
    send(ours, "x", 1, 0);
    wait_until_unmapped();
    close(ours);
}

static void a_number_that_the_program_has_reused_is_left_alone(void **state) {
    (void)state;
    context->patience_ms = 2000;
    enter();
    int ours = dup(context->our_fd), guest_fd = context->guest_fd;
    while (!context->ready) nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_int_equal(dup2(STDERR_FILENO, guest_fd), guest_fd);
    close(ours);
    wait_until_unmapped();
    assert_true(is_open(guest_fd));
    close(guest_fd);
}

static void the_loader_s_own_words_come_back(void **state) {
    (void)state;
    char text[64];
    refuse_library = true;
    enter();
    int ours = dup(context->our_fd);
    hear(ours, text);
    send_memfd(ours);
    inject_word_t word = hear(ours, text);
    assert_int_equal(word.code, INJECT_NO_LIBRARY);
    assert_string_equal(text, "no such thing");
    wait_until_unmapped();
    assert_int_equal(started_with, 0);
    assert_int_equal(closed, 0);
    close(ours);
}

static void the_guest_goes_when_no_library_comes(void **state) {
    (void)state;
    context->patience_ms = 2000;
    enter();
    int ours = context->our_fd;
    wait_until_unmapped();
    assert_false(is_open(ours));
    assert_int_equal(opened_with_number, 0);
}

static void a_thread_that_cannot_start_is_said_and_leaves_no_descriptor(void **state) {
    (void)state;
    context->thread_create = failing_create;
    enter();
    assert_int_equal(context->failed_step, INJECT_STEP_THREAD);
    assert_int_equal(context->failed_errno, EAGAIN);
    assert_int_equal(dup2(context->guest_fd, context->guest_fd), -1);
    assert_int_equal(dup2(context->our_fd, context->our_fd), -1);
    munmap(region, INJECT_REGION_BYTES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_guest_loads_serves_and_takes_everything_away, set_up),
        cmocka_unit_test_setup(so_it_does_where_the_socket_is_made_among_the_program_s_descriptors,
                               set_up),
        cmocka_unit_test_setup(what_the_agent_opens_takes_no_number_of_the_program, set_up),
        cmocka_unit_test_setup(a_number_that_the_program_has_reused_is_left_alone, set_up),
        cmocka_unit_test_setup(the_loader_s_own_words_come_back, set_up),
        cmocka_unit_test_setup(the_guest_goes_when_no_library_comes, set_up),
        cmocka_unit_test_setup(a_thread_that_cannot_start_is_said_and_leaves_no_descriptor, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
