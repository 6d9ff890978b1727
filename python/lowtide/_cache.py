"""Caches that are bounded in bytes, items and time: :class:`Cache` and the decorator :func:`cache`."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import (
    Callable,
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from lowtide import _keep

_K = TypeVar("_K")
_V = TypeVar("_V")
_T = TypeVar("_T")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
_UNSET: Any = object()


class CacheStats(NamedTuple):
    """What a cache did so far, and what it holds now."""

    hits: int
    misses: int
    evictions: int  #: entries that went to make room
    expirations: int  #: entries that went because their time was over
    rejections: int  #: values that were larger than the whole cache, and not kept
    items: int
    bytes: int


class CacheInfo(NamedTuple):
    """As ``functools.lru_cache`` has it."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class _Keys(KeysView[_K]):
    _mapping: Cache[_K, Any]

    @property
    def mapping(self) -> Mapping[_K, Any]:
        return MappingProxyType(self._mapping)

    def __reversed__(self) -> Iterator[_K]:
        return reversed(self._mapping)


class _Values(ValuesView[_V]):
    _mapping: Cache[Any, _V]
    mapping = _Keys.mapping

    def __contains__(self, value: object) -> bool:
        return any(each is value or each == value for each in self)

    def __iter__(self) -> Iterator[_V]:
        return self._mapping._iter_values(False)

    def __reversed__(self) -> Iterator[_V]:
        return self._mapping._iter_values(True)


class _Items(ItemsView[_K, _V]):
    _mapping: Cache[_K, _V]
    mapping = _Keys.mapping

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2):
            return False
        value = self._mapping.peek(item[0], _UNSET)
        return value is item[1] or (value is not _UNSET and value == item[1])

    def __iter__(self) -> Iterator[tuple[_K, _V]]:
        return self._mapping._iter_items(False)

    def __reversed__(self) -> Iterator[tuple[_K, _V]]:
        return self._mapping._iter_items(True)


class Cache(_keep.Cache[_K, _V], MutableMapping[_K, _V]):
    """A dict that stays below its bounds; what is worth least goes first (S3-FIFO).

    max_bytes: bytes of keys and values with all that they alone lead to, measured once, at insert, and the table's own
        share; an int, or text like ``"256MiB"``. A value larger than that is not kept.
    max_items: entries.
    ttl: seconds after its insert that an entry lives.
    weak: hold values weakly, so that the cache keeps none alive. A value that cannot be referenced weakly is a TypeError.
    getsizeof: ``getsizeof(value)`` gives the bytes that count, instead of the measure.
    on_evict: ``on_evict(key, value)`` is called for each entry that the cache itself takes out, for want of room or of
        time; not for what the program deletes or replaces. What it raises goes to ``sys.unraisablehook``.

    Threads may share it. Iteration goes in the order of inserts over the entries of the moment when it began.
    """

    __slots__ = ("__weakref__",)

    @classmethod
    def fromkeys(cls, keys: Iterable[_K], value: Any = None, /, **bounds: Any) -> Cache[_K, Any]:
        """A cache with these bounds, and with the same value under each key."""
        fresh = cls(**bounds)
        for key in keys:
            fresh[key] = value
        return fresh

    def keys(self) -> KeysView[_K]:
        return _Keys(self)

    def values(self) -> ValuesView[_V]:
        return _Values(self)

    def items(self) -> ItemsView[_K, _V]:
        return _Items(self)

    def update(self, other: Any = (), /, **more: _V) -> None:
        """As a dict's; what fails while it is read inserts nothing."""
        given = other.items() if isinstance(other, Cache) else other  # reading is no use of what is in it
        for key, value in dict(given, **more).items():
            self[key] = value

    def stats(self) -> CacheStats:
        """Counts so far; ``bytes`` is 0 in a cache without a bound in bytes (``cache.bytes`` measures it)."""
        return CacheStats(*self._counts())

    def copy(self) -> Cache[_K, _V]:
        """A cache with the same bounds and entries."""
        return copy.copy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache[_K, _V]:
        fresh = _rebuild(type(self), copy.deepcopy(self._settings(), memo))
        memo[id(self)] = fresh
        for key, value in self.items():
            fresh[copy.deepcopy(key, memo)] = value if self.weak else copy.deepcopy(value, memo)
        return fresh

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._settings()), getattr(self, "__dict__", None), None, self._iter_items(False)

    def __or__(self, other: Mapping[_K, _V]) -> Cache[_K, _V]:
        if not isinstance(other, Mapping):
            return NotImplemented
        fresh = self.copy()
        fresh.update(other)
        return fresh

    def __ror__(self, other: Mapping[_K, _V]) -> Cache[_K, _V]:
        if not isinstance(other, Mapping):
            return NotImplemented
        fresh = _rebuild(type(self), self._settings())
        fresh.update(other)
        fresh.update(self)
        return fresh

    def __ior__(self, other: Mapping[_K, _V] | Iterable[tuple[_K, _V]]) -> Cache[_K, _V]:
        self.update(other)
        return self

    def __repr__(self) -> str:
        bounds = ", ".join(
            f"{name}={value!r}" for name, value in self._settings().items() if value not in (None, False)
        )
        return f"<{type(self).__name__}({bounds}) of {len(self)} items>"


def _rebuild(kind: type[Cache[_K, _V]], settings: dict[str, Any]) -> Cache[_K, _V]:
    fresh = kind.__new__(kind)
    _keep.Cache.__init__(fresh, **settings)
    return fresh


class CachedFunction(Protocol[_P, _R_co]):
    """What :func:`cache` makes of a function."""

    @property
    def __wrapped__(self) -> Callable[_P, _R_co]: ...
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> CachedFunction[_P, _R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., _R_co]: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_clear(self) -> None: ...
    def cache_bytes(self) -> int: ...
    def cache_parameters(self) -> dict[str, Any]: ...


@overload
def cache(maxsize: Callable[_P, _R], typed: bool = False) -> CachedFunction[_P, _R]: ...
@overload
def cache(
    maxsize: int | None = ...,
    typed: bool = False,
    *,
    max_bytes: int | str | None = None,
    ttl: float | None = None,
) -> Callable[[Callable[_P, _R]], CachedFunction[_P, _R]]: ...
def cache(
    maxsize: Any = _UNSET, typed: bool = False, *, max_bytes: int | str | None = None, ttl: float | None = None
) -> Any:
    """``functools.lru_cache``, bounded in bytes and time too, for async functions too, and for methods that let go.

    maxsize: entries; None: no bound in entries. 128 unless max_bytes is given.
    typed: whether ``f(3)`` and ``f(3.0)`` are kept apart.
    max_bytes: bytes of arguments and results, measured once when they are kept; an int, or text like ``"256MiB"``.
    ttl: seconds that a result is good for.

    A method is known by its place in a class, or by a first parameter named ``self`` or ``cls``. Its entries belong to the instance, known by identity, and go with it; an instance that cannot be referenced weakly is held as
    ``lru_cache`` holds it. Concurrent awaits of an async function with equal arguments compute once.

    >>> @cache(max_bytes="64MiB", ttl=60)
    ... def load(name):
    ...     return name.upper()
    >>> load("a"), load("a"), load.cache_info().hits
    ('A', 'A', 1)
    """
    function: Callable[..., Any] | None = None
    if callable(maxsize) and isinstance(typed, bool):
        function, maxsize = maxsize, _UNSET
    if maxsize is _UNSET:
        maxsize = 128 if max_bytes is None else None
    if isinstance(maxsize, int):
        maxsize = max(maxsize, 0)
    elif isinstance(maxsize, str):
        raise TypeError(f"maxsize takes a number of entries; for bytes write max_bytes={maxsize!r}")
    elif maxsize is not None:
        raise TypeError("Expected first argument to be an integer, a callable, or None")

    def decorate(function: Callable[..., Any]) -> Any:
        arguments = (maxsize, typed, CacheInfo, max_bytes, ttl, _is_method(function))
        kept = _keep.CachedFunction(function, *arguments)
        wrapper: Any = _async_function(function, kept) if inspect.iscoroutinefunction(function) else kept
        parameters = {"maxsize": maxsize, "typed": typed}
        if max_bytes is not None:
            parameters["max_bytes"] = max_bytes
        if ttl is not None:
            parameters["ttl"] = ttl
        wrapper.cache_parameters = lambda: dict(parameters)
        return functools.update_wrapper(wrapper, function)

    return decorate(function) if function else decorate


def _is_method(function: Callable[..., Any]) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_argcount > 0 and code.co_varnames[0] in ("self", "cls")


def _stands_in(kind: type, wrapper: Callable[..., Any]) -> bool:
    return any(vars(each).get(wrapper.__name__) is wrapper for each in kind.__mro__)


def _async_function(function: Callable[..., Any], kept: _keep.CachedFunction) -> Any:
    from lowtide import _cache_tasks  # asyncio takes long to import

    flights: dict[Hashable, Any] = {}
    is_method = _is_method(function)

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_method
        if not is_method and args and type(args[0]).__weakrefoffset__ and _stands_in(type(args[0]), wrapper):
            is_method = True
            kept.__set_name__(type(args[0]), wrapper.__name__)
        key = kept._key(*args, **kwargs)
        return await _cache_tasks.compute_once(
            flights,
            key,
            lambda: kept._lookup(key, _cache_tasks.MISSING),
            lambda value: kept._insert(key, value),
            lambda: function(*args, **kwargs),
        )

    shown: Any = wrapper
    shown.cache_info, shown.cache_clear, shown.cache_bytes = kept.cache_info, kept.cache_clear, kept.cache_bytes
    return wrapper
