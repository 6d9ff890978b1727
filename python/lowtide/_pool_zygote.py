"""The clean process that children are forked from: one thread, no memory of the program's but its modules.

It is not the program's own child (so ``os.wait`` never sees it), and ends with the program: when the control socket
closes, or the program's pidfd says so. Each request brings the child's socket, a pipe on which the zygote tells the
child's pid and then its exit status, the program's standard output and error, and a file for the child's traceback.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from typing import Any

from lowtide import _pool_wire, _pool_worker

STATUS = struct.Struct("<qq")  #: pid, then (pid, wait status); pid 0: not clean any more, ask another zygote
REQUEST_BYTES = 1 << 20
main_is_loaded = False


def load_main(given: tuple[str, str] | None) -> None:
    """Imports the program's main module as ``__mp_main__``, as multiprocessing does, unless that was done."""
    global main_is_loaded
    if given is None or main_is_loaded:
        return
    from multiprocessing import spawn

    way, name = given
    with _pool_worker.main_import(name):
        getattr(spawn, f"_fixup_main_from_{way}")(name)
    main_is_loaded = True


def adopt(request: dict[str, Any]) -> None:
    """Takes over the program's import path, folder, environment and arguments, as they are now."""
    sys.path[:] = request["path"]
    sys.argv[:] = request["argv"]
    if request["environ"] != dict(os.environ):
        os.environ.clear()
        os.environ.update(request["environ"])
    with contextlib.suppress(OSError):
        os.chdir(request["cwd"])


class Zygote:
    def __init__(self, control: int, parent: int) -> None:
        self.control = socket.socket(fileno=control)
        self.parent = parent
        self.children: dict[int, int] = {}  #: pid to its status pipe
        self.wakeup, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.wakeup_write = wakeup_write
        self.libc = ctypes.CDLL(None)

    def run(self) -> None:
        with self.control:
            self.serve()

    def serve(self) -> None:
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakeup_write)
        poll = select.poll()
        for fd in (self.control.fileno(), self.wakeup, self.parent):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self.parent in ready:
                return
            if self.wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wakeup, 512)
                self.reap()
            if self.control.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self.control, REQUEST_BYTES, 8)
                if not data:
                    return
                self.fork(pickle.loads(data), fds)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            pipe = self.children.pop(pid, None)
            if pipe is not None:
                with contextlib.suppress(OSError):
                    os.write(pipe, STATUS.pack(pid, status))
                os.close(pipe)

    def preload(self, request: dict[str, Any]) -> bool:
        """Imports what the children need, once for all of them; False when that left a thread behind."""
        if not request["preload"]:
            return True
        with contextlib.suppress(BaseException):  # the child tries again, and tells its caller
            load_main(request["main"])
        for name in request["modules"]:
            if name not in sys.modules:
                with contextlib.suppress(BaseException):
                    importlib.import_module(name)
                gc.collect()
                gc.freeze()
        return threading.active_count() == 1

    def fork(self, request: dict[str, Any], fds: list[int]) -> None:
        adopt(request)
        status = fds[1]
        if not self.preload(request):
            os.write(status, STATUS.pack(0, 0))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # libraries' own threads mind a fork themselves
                pid = os.fork()
            if pid == 0:
                self.child(request, fds)
            self.children[pid] = status
            os.write(status, STATUS.pack(pid, 0))
            fds.remove(status)
        for fd in fds:
            os.close(fd)

    def child(self, request: dict[str, Any], fds: list[int]) -> None:
        try:
            zygote = os.getppid()
            self.libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the zygote has one thread
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (self.control.detach(), self.wakeup, self.wakeup_write, self.parent, *self.children.values()):
                os.close(fd)
            if os.getppid() != zygote or zygote == 1:
                os._exit(0)
            calls, status, out, err, trace = fds
            os.close(status)
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.close(out)
            os.close(err)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            faulthandler.register(_pool_worker.TRACE_SIGNAL, file=trace, all_threads=False)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
                score = max(int(file.read()), 500)  # the kernel shall pick the child before the program
                file.seek(0)
                file.write(str(score))
            _pool_worker.is_worker = True
            if random := sys.modules.get("numpy.random"):
                random.seed()
            _pool_worker.serve(calls, lambda: load_main(request["main"]))
        finally:
            _pool_worker.end()


def main(control: int, parent: int) -> None:
    """The body of a fresh interpreter that becomes a zygote."""
    if os.fork():
        os._exit(0)
    os.set_inheritable(control, False)
    os.set_inheritable(parent, False)
    _pool_wire.cloudpickle()
    gc.collect()
    gc.freeze()
    Zygote(control, parent).run()
    os._exit(0)
