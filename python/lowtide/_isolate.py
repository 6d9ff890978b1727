"""``lowtide.isolate``: a function whose calls run in a process of their own, which takes all its memory with it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from lowtide import _pool_child, _pool_worker
from lowtide._pool import check_options

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)


class Isolated(Generic[_P, _R_co]):
    """A function that runs in a child process, once for each call; ``__wrapped__`` is the function itself."""

    __wrapped__: Callable[_P, _R_co]

    def __init__(
        self, function: Callable[_P, _R_co], memory: int | None, timeout: float | None, start_method: str | None
    ) -> None:
        functools.update_wrapper(self, function)
        self.memory, self.timeout, self.start_method = memory, timeout, start_method

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        return cast(_R_co, _Call(self).run(args, kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        method: Any = self
        return self if instance is None else functools.partial(method, instance)

    def __repr__(self) -> str:
        return f"<isolated {_pool_worker.describe(self.__wrapped__)}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        if _by_name(self) is self:
            return cast(str, self.__qualname__)  # type: ignore[attr-defined]
        return _isolated, (type(self), self.__wrapped__, self.memory, self.timeout, self.start_method)


class IsolatedAsync(Isolated[_P, Any]):
    """The same for an async function: a call is awaited, and the child ends when the task is cancelled."""

    def __init__(self, function: Any, *options: Any) -> None:
        super().__init__(function, *options)
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)
        else:
            import asyncio.coroutines as coroutines

            self._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self

        async def method(*args: Any, **kwargs: Any) -> Any:
            return await self(instance, *args, **kwargs)

        return functools.update_wrapper(method, self.__wrapped__)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import asyncio

        call, future = _Call(self), Future[Any]()

        def body() -> None:
            try:
                value = call.run(args, kwargs)
            except BaseException as error:
                _settle(future.set_exception, error)
            else:
                _settle(future.set_result, value)

        threading.Thread(target=body, name="lowtide-isolate", daemon=True).start()
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            call.cancel()
            raise


def _settle(settle: Callable[[Any], None], value: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
        settle(value)


class _Call:
    """One call, in one child."""

    def __init__(self, isolated: Isolated[..., Any]) -> None:
        self.isolated = isolated
        self.child: _pool_child.Child | None = None
        self.cancelled = False

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _pool_child.refuse_while_importing()
        isolated = self.isolated
        function: Any = isolated.__wrapped__
        if _by_name(isolated) is isolated:
            function = _Undecorated(isolated)
        message = _pool_child.pack_call(function, args, kwargs, isolated.start_method)
        what = _pool_worker.describe(isolated.__wrapped__)
        setup = _pool_worker.Setup(isolated.memory)
        source = _pool_child.Source(fork=True) if isolated.start_method == "fork" else None
        try:
            modules = [isolated.__wrapped__.__module__]
            self.child = child = _pool_child.Child(isolated.start_method, setup, modules, source)
            if self.cancelled:
                child.kill()
            done, value = child.call(message, what, isolated.timeout)
            del message
        finally:
            if self.child is not None:
                self.child.close(kill=True)
            if source is not None:
                source.close()
        if done:
            return value
        try:
            raise value
        finally:
            del value

    def cancel(self) -> None:
        self.cancelled = True
        if self.child is not None:
            self.child.kill()


class _Undecorated:
    """Means, in a message, the function behind a decorated one: its name leads to the decorated one."""

    def __init__(self, isolated: Isolated[..., Any]) -> None:
        self.isolated = isolated
        self.__qualname__ = _pool_worker.describe(isolated.__wrapped__)
        self.__module__ = isolated.__wrapped__.__module__

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.isolated, "__wrapped__")


def _isolated(kind: type[Isolated[..., Any]], *given: Any) -> Any:
    return kind(*given)


def _by_name(isolated: Any) -> object:
    """What the function's own name leads to."""
    found: Any = sys.modules.get(isolated.__module__)
    for name in isolated.__qualname__.split("."):
        found = getattr(found, name, None)
    return found


@overload
def isolate(function: Callable[_P, _R], /) -> Isolated[_P, _R]: ...
@overload
def isolate(
    function: Callable[_P, _R],
    /,
    *,
    memory: int | str | None = None,
    timeout: float | None = None,
    start_method: str | None = None,
) -> Isolated[_P, _R]: ...
@overload
def isolate(
    *, memory: int | str | None = None, timeout: float | None = None, start_method: str | None = None
) -> Callable[[Callable[_P, _R]], Isolated[_P, _R]]: ...
def isolate(
    function: Callable[..., Any] | None = None,
    /,
    *,
    memory: int | str | None = None,
    timeout: float | None = None,
    start_method: str | None = None,
) -> Any:
    """Makes each call of a function run in a child process of its own, so that all its memory comes back.

    memory: bytes that the child may have resident, an int or text like ``"4GiB"``; past them IsolatedMemoryError.
    timeout: seconds that a call may take; past them the child is killed: IsolatedTimeout.
    start_method: as for :class:`lowtide.Pool`.

    Arguments, results and exceptions are pickled, without copies of large buffers. Of an async function calls are
    awaited. A child that is killed raises WorkerDied.

    >>> @isolate(memory="4GiB", timeout=60)
    ... def summarize(path):
    ...     return pandas.read_csv(path).describe()
    """
    limit, seconds = check_options(memory, timeout, start_method)

    def decorate(function: Callable[..., Any]) -> Any:
        if not callable(function):
            raise TypeError(f"isolate makes a function run in a child process, and {function!r} is none")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{_pool_worker.describe(function)} is a generator function, and a generator cannot leave its process: "
                "let it return a list"
            )
        kind = IsolatedAsync if inspect.iscoroutinefunction(function) else Isolated
        return kind(function, limit, seconds, start_method)

    return decorate if function is None else decorate(function)
