#define _GNU_SOURCE
#include "control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void pair_open(int s[2]) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
}

static void pair_close(int s[2]) {
    close(s[0]);
    close(s[1]);
}

static ctl_msg_t a_result(void) {
    ctl_msg_t m = {.type = CTL_RESULT};
    m.result = (ctl_result_t){.status = -EIO,
                              .mode = CTL_MODE_FORK,
                              .gil_us = 1,
                              .pause_us = 2,
                              .walk_us = 3,
                              .objects = UINT64_MAX,
                              .references = 5,
                              .skipped = 6,
                              .bytes = 7};
    strcpy(m.result.text, "no, because");
    return m;
}

static void a_result_arrives_as_it_was_sent(void **state) {
    (void)state;
    int s[2], fd;
    err_t e;
    pair_open(s);
    ctl_msg_t m = a_result(), got;
    assert_int_equal(ctl_send(s[0], &m, -1, 0, &e), 0);
    assert_int_equal(ctl_recv(s[1], &got, &fd, 0, &e), 0);
    assert_int_equal(fd, -1);
    assert_int_equal(got.type, CTL_RESULT);
    assert_memory_equal(&got.result, &m.result, sizeof got.result);
    pair_close(s);
}

static void a_capture_brings_its_descriptor_closed_on_exec(void **state) {
    (void)state;
    int s[2], fd, out = open("/dev/null", O_WRONLY);
    err_t e;
    struct stat a, b;
    pair_open(s);
    ctl_msg_t m = {.type = CTL_CAPTURE, .capture = {CTL_NO_VALUES, 30000, 4711}}, got;
    assert_int_equal(ctl_send(s[0], &m, out, 0, &e), 0);
    assert_int_equal(ctl_recv(s[1], &got, &fd, 0, &e), 0);
    assert_int_equal(got.capture.flags, CTL_NO_VALUES);
    assert_int_equal(got.capture.timeout_ms, 30000);
    assert_int_equal(got.capture.pid, 4711);
    assert_int_equal(fstat(out, &a) | fstat(fd, &b), 0);
    assert_int_equal(a.st_rdev, b.st_rdev);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    close(out);
    pair_close(s);
}

static void a_capture_without_a_descriptor_is_refused_on_both_sides(void **state) {
    (void)state;
    int s[2], fd;
    err_t e;
    pair_open(s);
    ctl_msg_t m = {.type = CTL_CAPTURE}, got;
    assert_int_equal(ctl_send(s[0], &m, -1, 0, &e), -EINVAL);
    unsigned char packet[CTL_PACKET_MAX];
    int n = ctl_encode(&m, packet, &e);
    assert_int_equal(send(s[0], packet, (size_t)n, 0), n);
    assert_int_equal(ctl_recv(s[1], &got, &fd, 0, &e), -EBADMSG);
    pair_close(s);
}

static void silence_and_a_closed_socket_are_told_apart(void **state) {
    (void)state;
    int s[2], fd;
    err_t e;
    ctl_msg_t m = {.type = CTL_BYE};
    pair_open(s);
    assert_int_equal(ctl_recv(s[1], &m, &fd, 0, &e), -ETIMEDOUT);
    close(s[0]);
    assert_int_equal(ctl_recv(s[1], &m, &fd, 1000, &e), -EPIPE);
    assert_int_equal(ctl_send(s[1], &(ctl_msg_t){.type = CTL_BYE}, -1, 0, &e), -EPIPE);
    close(s[1]);
}

static int descriptors(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void a_capture_can_be_looked_at_and_dropped_without_its_descriptor(void **state) {
    (void)state;
    int s[2], fd;
    err_t e;
    pair_open(s);
    ctl_msg_t m = {.type = CTL_CAPTURE, .capture = {0, 30000, 4711}}, got;
    assert_int_equal(ctl_send(s[0], &m, 1, 0, &e), 0);
    int before = descriptors();
    assert_int_equal(ctl_peek(s[1], &got, 0, &e), 0);
    assert_int_equal(got.capture.pid, 4711);
    assert_false(ctl_more(s[1], &got));
    assert_int_equal(ctl_send(s[0], &(ctl_msg_t){.type = CTL_CANCEL}, -1, 0, &e), 0);
    assert_true(ctl_more(s[1], &got));
    ctl_drop(s[1]);
    assert_int_equal(descriptors(), before);
    assert_int_equal(ctl_recv(s[1], &got, &fd, 0, &e), 0);
    assert_int_equal(got.type, CTL_CANCEL);
    assert_int_equal(ctl_send(s[0], &m, 1, 0, &e), 0);
    assert_int_equal(ctl_peek(s[1], &got, 0, &e), 0);
    close(s[0]);
    assert_true(ctl_more(s[1], &got));
    close(s[1]);
}

static void every_cut_and_every_changed_header_is_refused(void **state) {
    (void)state;
    err_t e;
    unsigned char packet[CTL_PACKET_MAX];
    ctl_msg_t m = a_result(), got;
    int n = ctl_encode(&m, packet, &e);
    for (int cut = 0; cut < n; cut++)
        assert_int_equal(ctl_decode(packet, (unsigned long)cut, &got, &e), -EBADMSG);
    for (int at = 0; at < CTL_HEADER_BYTES; at++) {
        packet[at] ^= 0x40;
        assert_true(ctl_decode(packet, (unsigned long)n, &got, &e) < 0);
        packet[at] ^= 0x40;
    }
    assert_int_equal(ctl_decode(packet, (unsigned long)n, &got, &e), 0);
}

static void another_version_is_refused_by_name(void **state) {
    (void)state;
    err_t e;
    unsigned char packet[CTL_PACKET_MAX];
    ctl_msg_t m = {.type = CTL_BYE}, got;
    int n = ctl_encode(&m, packet, &e);
    packet[4] = 9;
    assert_int_equal(ctl_decode(packet, (unsigned long)n, &got, &e), -EPROTONOSUPPORT);
    assert_non_null(strstr(e.text, "version 9"));
}

static void values_without_a_meaning_are_refused(void **state) {
    (void)state;
    err_t e;
    unsigned char packet[CTL_PACKET_MAX];
    const ctl_msg_t bad[] = {{.type = CTL_HELLO, .hello = {.what = CTL_PROGRAM_EXITS + 1}},
                             {.type = CTL_PROFILE, .profile = {.mode = 3}},
                             {.type = CTL_CAPTURE, .capture = {.flags = 64}},
                             {.type = CTL_PROGRESS, .progress = {.phase = 0}},
                             {.type = CTL_PROGRESS, .progress = {.phase = 3}},
                             {.type = CTL_RESULT, .result = {.status = 1}},
                             {.type = CTL_RESULT, .result = {.mode = 3}}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ctl_msg_t got;
        int n = ctl_encode(&bad[i], packet, &e);
        assert_int_equal(ctl_decode(packet, (unsigned long)n, &got, &e), -EBADMSG);
    }
    assert_int_equal(ctl_encode(&(ctl_msg_t){.type = 99}, packet, &e), -EINVAL);
}

static void
a_body_that_a_later_minor_version_made_longer_is_read_as_far_as_it_is_known(void **state) {
    (void)state;
    err_t e;
    unsigned char packet[CTL_PACKET_MAX] = {0};
    ctl_msg_t m = {.type = CTL_PROGRESS, .progress = {CTL_PHASE_WALK}}, got;
    int n = ctl_encode(&m, packet, &e) + 8;
    packet[8] = (unsigned char)(n - CTL_HEADER_BYTES);
    assert_int_equal(ctl_decode(packet, (unsigned long)n, &got, &e), 0);
    assert_int_equal(got.progress.phase, CTL_PHASE_WALK);
}

static void text_without_an_end_is_ended(void **state) {
    (void)state;
    err_t e;
    unsigned char packet[CTL_PACKET_MAX];
    ctl_msg_t m = {.type = CTL_HELLO}, got;
    int n = ctl_encode(&m, packet, &e);
    memset(packet + CTL_HEADER_BYTES + 8, 'x', sizeof m.hello.key);
    assert_int_equal(ctl_decode(packet, (unsigned long)n, &got, &e), 0);
    assert_int_equal(strlen(got.hello.key), sizeof m.hello.key - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_result_arrives_as_it_was_sent),
        cmocka_unit_test(a_capture_brings_its_descriptor_closed_on_exec),
        cmocka_unit_test(a_capture_without_a_descriptor_is_refused_on_both_sides),
        cmocka_unit_test(silence_and_a_closed_socket_are_told_apart),
        cmocka_unit_test(a_capture_can_be_looked_at_and_dropped_without_its_descriptor),
        cmocka_unit_test(every_cut_and_every_changed_header_is_refused),
        cmocka_unit_test(another_version_is_refused_by_name),
        cmocka_unit_test(values_without_a_meaning_are_refused),
        cmocka_unit_test(
            a_body_that_a_later_minor_version_made_longer_is_read_as_far_as_it_is_known),
        cmocka_unit_test(text_without_an_end_is_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
