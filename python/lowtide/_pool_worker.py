"""What runs in the child: takes calls from its socket, one after the other, until the other side closes it."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from lowtide import _keep, _pool_wire
from lowtide._pool_errors import RemoteError

#: Why no isolated call may be made now, while ``__main__`` is being imported into a child; else None.
importing_main: str | None = None
#: Whether this process is a child that lowtide made.
is_worker = False
TRACE_SIGNAL = signal.SIGRTMAX - 3


class Setup:
    """What a child is told once, before its first call."""

    def __init__(
        self,
        memory: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self.memory, self.initializer, self.initargs = memory, initializer, initargs


def describe(function: Any) -> str:
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__qualname__", None) or type(function).__qualname__)


def _result(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = function(*args, **kwargs)
    if inspect.iscoroutine(value):
        import asyncio

        value = asyncio.run(value)
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        value.close() if inspect.isgenerator(value) else None
        raise TypeError(
            f"{describe(function)} gave a generator, which cannot leave its process: return list(...) of it"
        )
    return value


def _error_message(error: BaseException) -> _pool_wire.Message:
    """The exception and its traceback's text; one that does not survive pickling is replaced by a RemoteError."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))
    text = f'\n"""\n{text}"""'
    try:
        return _pool_wire.dump_error(error, text), [], 0
    except BaseException as why:
        plain = RemoteError(f"{type(error).__module__}.{type(error).__qualname__}: {error}")
        plain.add_note(f"(a {type(error).__qualname__} cannot be pickled: {why})")
        return pickle.dumps((plain, text), 5), [], 0


def _answer(kind: int, body: Any, buffers: Any) -> tuple[int, _pool_wire.Message]:
    try:
        function, args, kwargs = _pool_wire.load(kind, body, buffers)
        del body, buffers
        value = _result(function, args, kwargs)
    except BaseException as error:
        return _pool_wire.ERROR, _error_message(error)
    try:
        return _pool_wire.RESULT, _pool_wire.dump(value)
    except BaseException as error:
        if isinstance(error, MemoryError):
            return _pool_wire.ERROR, _error_message(error)
        what = f"the result of {describe(function)}, a {type(value).__qualname__},"
        return _pool_wire.ERROR, _error_message(_pool_wire.why_not(value, what, error))


def _data_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def _set_up(setup: Setup) -> None:
    if setup.initializer is not None:
        setup.initializer(*setup.initargs)
    if setup.memory is not None:
        wall = _data_bytes() + setup.memory
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard == resource.RLIM_INFINITY or wall < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (wall, hard))


def serve(socket: int, prepare: Callable[[], object]) -> None:
    """Answers calls until the stream ends. The first message is the Setup, which ``prepare`` comes before."""
    while (message := _keep.receive(socket)) is not None:
        kind, body, buffers = message
        del message
        if kind & ~_pool_wire.BLOBS == _pool_wire.READY:
            try:
                prepare()
                _set_up(_pool_wire.load(kind, body, buffers))
                _pool_wire.send(socket, _pool_wire.READY, (b"", [], 0))
            except BaseException as error:
                _pool_wire.send(socket, _pool_wire.ERROR, _error_message(error))
            continue
        kind, answer = _answer(kind, body, buffers)
        del body, buffers
        try:
            _pool_wire.send(socket, kind, answer)
        except BrokenPipeError:
            return
        except (OSError, MemoryError) as error:
            _pool_wire.send(socket, _pool_wire.ERROR, _error_message(error))
        del answer
        with contextlib.suppress(Exception):
            sys.stdout.flush()


@contextlib.contextmanager
def main_import(name: str) -> Iterator[None]:
    """While it is open, isolated calls are refused: the module that makes them is just being imported."""
    global importing_main
    importing_main = name
    try:
        yield
    finally:
        importing_main = None


def end() -> None:
    """Ends this process without the ceremonies of an interpreter that is not its own."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)
