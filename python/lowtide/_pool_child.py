"""The program's side of one child: starting it, handing it calls, watching its memory and its time, ending it."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import util
from typing import Any

from lowtide import _keep, _pool_wire, _pool_worker, _pool_zygote
from lowtide._pool_errors import IsolatedMemoryError, IsolatedTimeout, RemoteTraceback, WorkerDied, signal_name, size

PAGE = os.sysconf("SC_PAGE_SIZE")
#: How fast a child may fill memory: it is looked at again before it could have filled what is left.
FILL_BYTES_PER_S = 4e9
STATUS_S = 30.0  # in which who forked a child that ended tells how; it does at once unless it is kept from running
POLL_S = 86400.0  # at most in one poll, which knows no more than 24 days
TRACE_S, TURN_S = 0.25, 2.0  # how long a child may take to say where it stands; the latter where it waits for its turn
START = ("forkserver", "fork", "spawn")


def main_module() -> tuple[str, str] | None:
    """How a child finds the program's main module: ("name", a module), ("path", a file), or not at all."""
    main = sys.modules["__main__"]
    name = getattr(main.__spec__, "name", None)
    if name is not None:
        return ("name", name)
    path = getattr(main, "__file__", None)
    if path and os.path.isfile(path):
        _main_files[id(main)] = os.path.abspath(path)
    known = _main_files.get(id(main))  # a script's __file__ is taken away when it has run, before threads are joined
    return ("path", known) if known else None


_main_files: dict[int, str] = {}


class Source:
    """A zygote, seen from the program."""

    def __init__(self, fork: bool = False, preload: bool = True) -> None:
        self.preload, self.forked = preload, fork
        self.lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _pool_zygote.REQUEST_BYTES)
        parent = os.pidfd_open(os.getpid())
        try:
            pid = self._fork(ours, theirs, parent) if fork else self._spawn(theirs, parent)
            with contextlib.suppress(ChildProcessError):  # a handler of the program's may have been quicker
                os.waitpid(pid, 0)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(parent)
        self.control = ours

    def _spawn(self, theirs: socket.socket, parent: int) -> int:
        # Nothing of the environment stands here: everybody on the machine can read a command line.
        code = f"from lowtide._pool_zygote import main; main({theirs.fileno()}, {parent})"
        code = f"import sys; sys.path[:] = {sys.path!r}; {code}"
        command = [sys.executable, *util._args_from_interpreter_flags(), "-c", code]  # type: ignore[attr-defined]
        fds = sorted((theirs.fileno(), parent))
        return util.spawnv_passfds(os.fsencode(sys.executable), command, fds)

    def _fork(self, ours: socket.socket, theirs: socket.socket, parent: int) -> int:
        if threading.active_count() > 1:
            raise RuntimeError(
                f"start_method='fork' needs a program with one thread, and this one has {threading.active_count()}: "
                "a forked child inherits their locks, and nobody to open them. Leave start_method out"
            )
        pid = os.fork()
        if pid:
            return pid
        try:
            if os.fork() == 0:
                ours.close()
                _pool_zygote.Zygote(theirs.detach(), parent).run()
        finally:
            os._exit(0)

    def request(self, modules: list[str], fds: list[int]) -> None:
        asked = {
            **_surroundings(),
            "main": None if self.forked else main_module(),
            "modules": [] if self.forked else modules,
            "preload": self.preload and not self.forked,
        }
        with self.lock:
            socket.send_fds(self.control, [pickle.dumps(asked)], fds)

    def close(self) -> None:
        self.control.close()


def _surroundings() -> dict[str, Any]:
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = "/"
    return {"path": list(sys.path), "argv": list(sys.argv), "environ": dict(os.environ), "cwd": cwd}


_shared: Source | None = None
_shared_lock = threading.Lock()


def shared_source(preload: bool = True, instead_of: Source | None = None) -> Source:
    """The one zygote of this process; a fresh one when ``instead_of`` is still the one."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared is instead_of:
            if _shared is not None:
                preload = preload and _shared.preload
                _shared.close()
            _shared = Source(preload=preload)
        return _shared


def _forget_after_fork() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    if _shared is not None:
        _shared.close()
        _shared = None


os.register_at_fork(after_in_child=_forget_after_fork)


@atexit.register
def _close_at_exit() -> None:
    """Pools have ended by then. An open socket would be told of at the interpreter's end (``-X dev``)."""
    global _shared
    with _shared_lock:
        if _shared is not None:
            _shared.close()
            _shared = None


def refuse_while_importing() -> None:
    if _pool_worker.importing_main is not None:
        raise RuntimeError(
            f"{_pool_worker.importing_main} makes an isolated call while it is being imported into a child process: "
            'put what the program does under `if __name__ == "__main__":`'
        )


def _standard(fd: int) -> int:
    try:
        os.fstat(fd)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return os.dup(fd)


class Child:
    """One process that answers calls. Not for two threads at once, but for ``kill`` and ``rss_bytes``."""

    def __init__(self, start_method: str | None, setup: _pool_worker.Setup, modules: list[str], source: Source | None):
        refuse_while_importing()
        self.setup, self.born = setup, time.monotonic()
        self.killed = False
        self.pid, self.pidfd, self.statm, self.status_pipe, self.trace = 0, -1, -1, -1, -1
        self.status: int | None = None
        self.socket: socket.socket | None = None
        self.own: Source | None = Source(preload=False) if start_method == "spawn" else None
        self.source = self.own or source
        self.oom_kills = _oom_kills()
        try:
            for _ in range(4):
                if self._fork(modules):
                    break
            else:
                raise WorkerDied("a child process could not be started: the process that forks them ended each time")
            self._ready()
        except BaseException:
            self.close()
            raise

    def _fork(self, modules: list[str]) -> bool:
        source = self.source or shared_source()
        ours, theirs = socket.socketpair()
        self.status_pipe, status = os.pipe()
        self.trace = os.memfd_create("lowtide-trace", os.MFD_CLOEXEC)
        fds = [theirs.fileno(), status, _standard(1), _standard(2), self.trace]
        self.socket = ours
        try:
            source.request(modules, fds)
        except OSError:
            if self.source is not None:
                raise WorkerDied("the process that this pool's children are forked from has ended") from None
        finally:
            theirs.close()
            for fd in fds[1:4]:
                os.close(fd)
        told = os.read(self.status_pipe, _pool_zygote.STATUS.size)
        pid = _pool_zygote.STATUS.unpack(told)[0] if told else 0
        if pid:
            try:
                self.pid, self.pidfd = pid, os.pidfd_open(pid)
                self.statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
                return True
            except OSError:  # it has ended already
                pass
        if self.source is None and not pid:
            shared_source(preload=not told, instead_of=source)
        self._close_fds()
        return False

    def _ready(self) -> None:
        assert self.socket is not None
        self._send(_pool_wire.READY, _pool_wire.dump(self.setup, main_module() is None))
        kind, value = self._wait(None, None, "a child process, before its first call,")
        if kind == _pool_wire.ERROR:
            raise_remote(value)
        self.ready_bytes = self.own_bytes()

    def own_bytes(self) -> int:
        """What it has resident now, without the pages of files: those are shared, and come with first uses."""
        try:
            _, resident, shared = os.pread(self.statm, 128, 0).split()[:3]
            return (int(resident) - int(shared)) * PAGE
        except (OSError, ValueError):
            return 0

    def rss_bytes(self) -> int:
        """What it has resident now; 0 when it has ended."""
        try:
            return int(os.pread(self.statm, 128, 0).split()[1]) * PAGE
        except (OSError, IndexError):
            return 0

    def is_alive(self) -> bool:
        return not select.select([self.pidfd], [], [], 0)[0] if self.pidfd < 1024 else self.rss_bytes() > 0

    def _may_run(self) -> bool:
        """Whether it runs, or waits for a processor."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].startswith(b"R")
        return False

    def kill(self) -> None:
        self.killed = True
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def call(self, message: _pool_wire.Message, what: str, timeout: float | None = None) -> tuple[bool, Any]:
        """(True, the result), or (False, an exception). Raises BrokenPipeError when it had ended before the call."""
        self._send(_pool_wire.CALL, message)
        del message
        try:
            kind, value = self._wait(timeout, self.setup.memory, what)
        except (WorkerDied, IsolatedMemoryError, IsolatedTimeout) as error:
            return False, error
        if kind == _pool_wire.RESULT:
            return True, value
        return False, self._remote_error(value, what)

    def _send(self, kind: int, message: _pool_wire.Message) -> None:
        assert self.socket is not None
        _pool_wire.send(self.socket.fileno(), kind, message)

    def _remote_error(self, value: Any, what: str) -> BaseException:
        error, trace = value
        if isinstance(error, MemoryError) and self.setup.memory is not None:
            limit = self.setup.memory
            words = f": {error}" if str(error) else ""
            error = IsolatedMemoryError(f"{what} asked for more than its {size(limit)}{words}", limit, self.rss_bytes())
        object.__setattr__(error, "__cause__", RemoteTraceback(trace))  # a frozen dataclass refuses its own
        return error  # type: ignore[no-any-return]

    def _wait(self, timeout: float | None, memory: int | None, what: str) -> tuple[int, Any]:
        """The answer. Looks after time and memory meanwhile."""
        assert self.socket is not None
        socket_fd = self.socket.fileno()
        poll = select.poll()
        poll.register(socket_fd, select.POLLIN)
        poll.register(self.status_pipe, select.POLLIN)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise self._stuck(what, timeout)
            look = None
            if memory is not None:
                rss = self.rss_bytes()
                if rss > memory:
                    self.kill()
                    text = f"{what} had {size(rss)} resident, more than its {size(memory)}, and was killed"
                    raise IsolatedMemoryError(text, memory, rss)
                look = min(max((memory - rss) / FILL_BYTES_PER_S, 0.002), 0.05)
            wait = min(t for t in (left, look, POLL_S) if t is not None)
            ready = [fd for fd, _ in poll.poll(wait * 1000 + 0.5)]
            if socket_fd in ready:
                answer = self._answer()
                if answer is not None:
                    return answer
                raise self._died(what)
            if self.status_pipe in ready:
                raise self._died(what)

    def _answer(self) -> tuple[int, Any] | None:
        """The message that came; None when the child ended instead."""
        assert self.socket is not None
        try:
            message = _keep.receive(self.socket.fileno())
        except (ConnectionError, OSError) as error:
            if isinstance(error, ConnectionError):
                return None
            raise
        if message is None:
            return None
        kind, body, buffers = message
        del message
        return kind & ~_pool_wire.BLOBS, _pool_wire.load(kind, body, buffers) if len(body) else None

    def _stuck(self, what: str, timeout: float | None) -> IsolatedTimeout:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, _pool_worker.TRACE_SIGNAL)
        trace, before, began = "", "", time.monotonic()
        # Its first line is but a heading, and it comes piece by piece.
        while trace.count("\n") < 2 or trace != before:
            if time.monotonic() - began >= (TURN_S if self._may_run() else TRACE_S):
                break
            time.sleep(0.005)
            before, trace = trace, os.pread(self.trace, 1 << 16, 0).decode(errors="replace")
        self.kill()
        error = IsolatedTimeout(f"{what} took longer than its {timeout:g} s, and was killed")
        if trace:
            error.__cause__ = RemoteTraceback(f'\n"""\nwhere it stood, latest call first:\n{trace}"""')
        return error

    def _died(self, what: str) -> WorkerDied:
        status = self.exit_status(STATUS_S)
        if status is None:
            self.kill()  # who forked it has ended, and it is about to: it shall get no other call meanwhile
            return WorkerDied(f"the process of {what} (pid {self.pid}) has ended", self.pid)
        if not os.WIFSIGNALED(status):
            code = os.waitstatus_to_exitcode(status)
            text = f"the process of {what} (pid {self.pid}) ended by itself, with exit status {code}"
            return WorkerDied(text, self.pid, exitcode=code)
        number = os.WTERMSIG(status)
        text = f"the process of {what} (pid {self.pid}) was killed by {signal_name(number)}"
        if number == signal.SIGKILL and _oom_kills() > self.oom_kills:
            text += ", most likely by the kernel for want of memory (it counts an OOM kill meanwhile)"
        if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE):
            text += ": a crash in C code"
        return WorkerDied(text, self.pid, signal=number)

    def exit_status(self, timeout: float) -> int | None:
        """Its wait status, once it has ended."""
        if self.status is None and self.status_pipe >= 0:
            poll = select.poll()
            poll.register(self.status_pipe, select.POLLIN)
            if poll.poll(timeout * 1000):
                told = os.read(self.status_pipe, _pool_zygote.STATUS.size)
                self.status = _pool_zygote.STATUS.unpack(told)[1] if told else None
        return self.status

    def _close_fds(self) -> None:
        if self.socket is not None:
            self.socket.close()
        for name in ("pidfd", "statm", "status_pipe", "trace"):
            if (fd := getattr(self, name)) >= 0:
                setattr(self, name, -1)
                os.close(fd)

    def close(self, wait: bool = True, kill: bool = False) -> None:
        """Lets it end; it has no more calls. With wait, returns when it has ended, by force after two seconds."""
        if self.socket is not None:
            self.socket.close()
        if self.pidfd >= 0:
            if kill:
                self.kill()
            if wait and self.exit_status(2) is None:
                self.kill()
                self.exit_status(5)
        self._close_fds()
        if self.own is not None:
            self.own.close()


def _oom_kills() -> int:
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def raise_remote(value: tuple[BaseException, str]) -> None:
    error, trace = value
    raise error from RemoteTraceback(trace)


def pack_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], start_method: str | None
) -> _pool_wire.Message:
    """The message of a call; what cannot be pickled is named, with what to do about it."""
    interactive = start_method != "fork" and main_module() is None
    if interactive and getattr(function, "__module__", None) == "__main__" and not _pool_wire.cloudpickle():
        raise pickle.PicklingError(
            f"{_pool_worker.describe(function)} belongs to an interactive session, which a clean child cannot import: "
            "put it into a module, install cloudpickle, or use start_method='fork'"
        )
    try:
        return _pool_wire.dump((function, args, kwargs), interactive)
    except Exception as error:
        name = _pool_worker.describe(function)
        parts = [(f"the function {name}", function)]
        parts += [(f"argument {i + 1} of {name}", value) for i, value in enumerate(args)]
        parts += [(f"argument {key!r} of {name}", value) for key, value in kwargs.items()]
        for what, value in parts:
            try:
                _pool_wire.dump(value, interactive)
            except Exception as why:
                raise _pool_wire.why_not(value, what, why) from why
        raise _pool_wire.why_not(None, f"a call of {name}", error) from error
