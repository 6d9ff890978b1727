"""CPython's own tests of lru_cache and of WeakValueDictionary, run with lowtide's cache in their place.

They come from the running interpreter's ``test`` package. What is left out stands below, each with its reason.
"""

from __future__ import annotations

import functools
import importlib.util
import types
import unittest
import weakref
from collections.abc import Iterator
from typing import Any

import lowtide
import pytest

if importlib.util.find_spec("test.test_functools") is None:
    pytest.skip("this Python comes without its test package", allow_module_level=True)

from test import test_functools, test_weakref  # noqa: E402

LRU_LEFT_OUT = {
    "test_lru_method": "counts the misses of exactly LRU with room for two; lowtide evicts otherwise, and misses less there",
}
WEAK_LEFT_OUT = {
    "test_remove_closure": "asks for an attribute inside WeakValueDictionary",
    "test_weak_valued_consistency": "looks into WeakValueDictionary.data (3.13 and later)",
    "test_make_weak_valued_dict_repr": "asks for the name WeakValueDictionary; Cache's repr shows its bounds",
}


functools_by_lowtide = types.SimpleNamespace(
    **{name: getattr(functools, name) for name in dir(functools) if not name.startswith("__")}
)
functools_by_lowtide.lru_cache = lowtide.cache
functools_by_lowtide.cache = lowtide.cache(maxsize=None)
functools_by_lowtide._CacheInfo = functools._CacheInfo  # type: ignore[attr-defined]


@lowtide.cache
def py_cached_func(x: object, y: object) -> Any:
    return 3 * x + y


class TestLRUByLowtide(test_functools.TestLRU, unittest.TestCase):
    module = functools_by_lowtide
    cached_func = (py_cached_func,)

    @lowtide.cache
    def cached_meth(self, x: object, y: object) -> Any:
        return 3 * x + y

    @staticmethod
    @lowtide.cache
    def cached_staticmeth(x: object, y: object) -> Any:
        return 3 * x + y


class WeakValues(lowtide.Cache[Any, Any]):
    """A weak cache with what WeakValueDictionary has and a dict has not: its constructor, iterators for views, references."""

    __slots__ = ()

    def __init__(self, other: Any = (), /, **more: Any) -> None:
        super().__init__(weak=True)
        self.update(other, **more)

    def items(self) -> Any:
        return iter(super().items())

    def values(self) -> Any:
        return iter(super().values())

    def keys(self) -> Any:
        return iter(super().keys())

    def itervaluerefs(self) -> Iterator[Any]:
        return map(weakref.ref, self.values())

    def valuerefs(self) -> list[Any]:
        return list(self.itervaluerefs())


class TestWeakValuesByLowtide(test_weakref.MappingTestCase):
    @pytest.fixture(autouse=True)
    def lowtide_in_its_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weakref, "WeakValueDictionary", WeakValues)


class TestWeakMappingByLowtide(test_weakref.WeakValueDictionaryTestCase):
    type2test = WeakValues


for _case, _left_out in (
    (TestLRUByLowtide, LRU_LEFT_OUT),
    (TestWeakValuesByLowtide, WEAK_LEFT_OUT),
    (TestWeakMappingByLowtide, WEAK_LEFT_OUT),
):
    for _name, _reason in _left_out.items():
        if hasattr(_case, _name):
            setattr(_case, _name, unittest.skip(_reason)(getattr(_case, _name)))
