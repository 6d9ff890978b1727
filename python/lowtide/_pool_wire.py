"""How calls and results become messages: pickles whose large buffers stay outside (protocol 5), over :mod:`lowtide._keep`."""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from lowtide import _keep

#: Buffers that large stay outside of the pickle.
OUTSIDE_BYTES = 64 << 10

CALL, RESULT, ERROR, READY, END = range(1, 6)
#: Added to a kind: the pickle refers to bytes and bytearrays outside of it.
BLOBS = 16

Message = tuple[bytes | memoryview, list[pickle.PickleBuffer], int]


def _view(buffer: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer)
    return view if view.format == form and view.shape == shape else view.cast("B").cast(form, shape)  # type: ignore[call-overload]


def _reduce_view(view: memoryview) -> tuple[Any, ...]:
    if not view.c_contiguous:
        return memoryview, (view.tobytes(),) if view.ndim == 1 and view.itemsize == 1 else (_copied(view),)
    return _view, (pickle.PickleBuffer(view), view.format, view.shape)


def _copied(view: memoryview) -> memoryview:
    return memoryview(view.tobytes()).cast(view.format, view.shape)  # type: ignore[call-overload,no-any-return]


class _Blobs:
    """Lets large bytes and bytearrays stay outside too, which pickle itself never does."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.kept: list[object] = []

    def persistent_id(self, value: object) -> object:
        if type(value) not in (bytes, bytearray) or len(value) < OUTSIDE_BYTES:  # type: ignore[arg-type]
            return None
        if (number := self.seen.get(id(value))) is not None:
            return number
        self.seen[id(value)] = len(self.kept)
        self.kept.append(value)
        return pickle.PickleBuffer(value)  # type: ignore[arg-type]


class _Loader(pickle.Unpickler):
    def __init__(self, body: Any, buffers: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self.blobs: list[Any] = []

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, int):
            return self.blobs[pid]
        self.blobs.append(pid)
        return pid


@functools.cache
def cloudpickle() -> Any:
    """The cloudpickle package, or None where it is not installed."""
    try:
        import cloudpickle  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        return None
    return cloudpickle


def _dump_with(kind: Any, value: object, blobs: bool, callback: Callable[[pickle.PickleBuffer], bool]) -> memoryview:
    # The C pickler reads both names once, when it is made, from its class: set on the instance they would hide behind
    # a class that has its own (CloudPickler's table makes bytes of views).
    known = copyreg.dispatch_table if kind is _ByReference else kind.dispatch_table
    ours: dict[str, Any] = {"dispatch_table": {**known, memoryview: _reduce_view}}
    if blobs:
        keeper = _Blobs()
        ours["persistent_id"] = lambda _pickler, value: keeper.persistent_id(value)
    file = io.BytesIO()
    pickler: Any = type("_Pickler", (kind,), ours)(file, 5, buffer_callback=callback)
    pickler.dump(value)
    return file.getbuffer()


def dump(value: object, by_value: bool = False) -> Message:
    """The pickle of a value, its large buffers, and what to add to its kind.

    by_value: functions and classes of ``__main__`` travel whole, for processes that have another ``__main__``;
    that needs cloudpickle, which otherwise comes in only for what pickle refuses.
    """
    buffers: list[pickle.PickleBuffer] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < OUTSIDE_BYTES:
            return True
        buffers.append(buffer)
        return False

    blobs = _keep.has_blob(value, OUTSIDE_BYTES)
    cloud = cloudpickle() if by_value else None
    # Somebody may have taught pickle to make bytes of views (dask's cloudpickle does): then ours is named instead.
    if not blobs and cloud is None and memoryview not in copyreg.dispatch_table:
        try:
            return pickle.dumps(value, 5, buffer_callback=keep_inside), buffers, 0
        except Exception:
            buffers.clear()
    try:
        kind = cloud.CloudPickler if cloud else _ByReference
        return _dump_with(kind, value, blobs, keep_inside), buffers, BLOBS * blobs
    except Exception:
        cloud = None if cloud else cloudpickle()
        if cloud is None:
            raise
        buffers.clear()
    return _dump_with(cloud.CloudPickler, value, blobs, keep_inside), buffers, BLOBS * blobs


class _ByReference(pickle.Pickler):
    """pickle's own."""


class _InParts(pickle.Pickler):
    """Takes exceptions apart whose class has an ``__init__`` of its own: pickle would call it with what the exception
    has as ``args``, mostly the one message that ``super().__init__`` was given. What says itself how it is pickled is not
    touched."""

    def reducer_override(self, value: object) -> Any:
        kind = type(value)
        if (
            not isinstance(value, BaseException)
            or not isinstance(kind.__init__, types.FunctionType)
            or not isinstance(kind.__reduce__, types.MethodDescriptorType)
            or kind.__reduce_ex__ is not object.__reduce_ex__
            or kind in copyreg.dispatch_table
        ):
            return NotImplemented
        reduced: Any = value.__reduce__()  # with what an OSError has beside its args
        _, args, *more = reduced
        state = dict(more[0] or {}) if more else {}
        if isinstance(getattr(kind, "__setstate__", None), types.FunctionType):
            return rebuilt_error, (kind, args), state
        if isinstance(value, OSError):
            for name in ("errno", "strerror", "filename", "filename2"):
                if (found := getattr(value, name, None)) is not None:  # None would be said in its message
                    state[name] = found
        for name in copyreg._slotnames(kind):  # type: ignore[attr-defined]
            if hasattr(value, name):
                state[name] = getattr(value, name)
        return rebuilt_error, (kind, args), state or None, None, None, _fill


def _first(kind: type, name: str, of: type) -> Any:
    return next(found for base in kind.__mro__ if isinstance(found := vars(base).get(name), of))


def rebuilt_error(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception of this type without its own ``__new__`` and ``__init__`` being called; those of its first base in C are."""
    error: BaseException = _first(kind, "__new__", types.BuiltinFunctionType)(kind, *args)
    _first(kind, "__init__", types.WrapperDescriptorType)(error, *args)
    return error


def _fill(error: BaseException, state: dict[str, Any]) -> None:
    for name, value in state.items():
        object.__setattr__(error, name, value)  # as frozen dataclasses set theirs


def dump_error(error: BaseException, text: str) -> bytes:
    """The pickle of an exception and its traceback's text; raises when what was pickled would not come out again."""
    try:
        file = io.BytesIO()
        _InParts(file, 5).dump((error, text))
        pickle.loads(file.getbuffer())
        return file.getvalue()
    except Exception:
        body = pickle.dumps((error, text), 5)
        pickle.loads(body)
        return body


def load(kind: int, body: Any, buffers: Sequence[Any]) -> Any:
    if kind & BLOBS:
        return _Loader(body, buffers).load()
    return pickle.loads(body, buffers=buffers)


def send(socket: int, kind: int, message: Message) -> None:
    body, buffers, extra = message
    _keep.send(socket, kind + extra, body, buffers)


def why_not(value: object, what: str, error: BaseException) -> pickle.PicklingError:
    """An error that says what about a value cannot be pickled, and what to do about it."""
    return pickle.PicklingError(f"{what} cannot be pickled: {_reason(value, error)}")


def _reason(value: object, error: BaseException) -> str:
    install = "" if cloudpickle() else ", or install cloudpickle"
    if isinstance(value, types.FunctionType):
        if value.__name__ == "<lambda>":
            return f"it is a lambda; make it a function at the top level of a module{install}"
        if "<locals>" in value.__qualname__:
            return f"it is defined inside a function; move it to the top level of a module{install}"
        found = getattr(sys.modules.get(value.__module__), value.__name__, None)
        if found is not None and found is not value:
            return f"{value.__module__}.{value.__qualname__} is now something else (decorated, or defined twice)"
    if isinstance(value, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        return "it lives in its process; make a list of it"
    return str(error) or type(error).__name__
