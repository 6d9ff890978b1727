"""The C half of lowtide.stream, record by record, held against Python's own: lines, csv, json."""

from __future__ import annotations

import csv
import gc
import io
import json
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowtide._keep import stream_join, stream_lines, stream_pipe, stream_rows
from lowtide._stream_codec import _loads, dumps

texts = st.text(st.sampled_from('ab",\n\r é€😀\t0'), max_size=40)


def all_lines(text: bytes, want: int, as_bytes: bool = False) -> list[Any]:
    at, found = 0, []
    while at < len(text):
        records, at, _, _ = stream_lines(text, at, want, as_bytes)
        found += records
    return found


def all_rows(text: bytes, want: int, header: tuple[str, ...] | None = None) -> list[Any]:
    at, found = 0, []
    while at < len(text):
        records, at, _ = stream_rows(text, at, want, b",", header)
        found += records
    return found


@settings(deadline=None)
@given(texts, st.integers(1, 60))
def test_lines_are_those_of_python_however_they_are_sliced(text: str, want: int) -> None:
    expected = [line.removesuffix("\n").removesuffix("\r") for line in io.StringIO(text, newline="\n")]
    # Without a newline behind it a carriage return at the very end goes too.
    assert all_lines(text.encode(), want) == expected
    assert all_lines(text.encode(), want, True) == [line.encode() for line in expected]


@settings(deadline=None, max_examples=500)
@given(st.text(st.sampled_from('ab",\n é'), max_size=40), st.integers(1, 60), st.booleans())
def test_rows_are_those_of_csv_however_they_are_sliced(text: str, want: int, windows: bool) -> None:
    expected = list(csv.reader(io.StringIO(text, newline="")))
    if windows:  # a newline in quotes keeps its carriage return
        text = text.replace("\n", "\r\n")
        expected = list(csv.reader(io.StringIO(text, newline="")))
    assert all_rows(text.encode(), want) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.integers(1, 60))
def test_rows_with_a_header_are_those_of_dictreader(rows: list[tuple[str, str]], want: int) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    expected = list(csv.DictReader(io.StringIO(out.getvalue(), newline=""), fieldnames=("a", "b")))
    assert all_rows(out.getvalue().encode(), want, ("a", "b")) == expected


def test_rows_that_are_odd_are_left_for_their_error() -> None:
    rows, at, strange = stream_rows(b"1,2\n\n3\n\xff,4\n5,6", 0, 99, b",", ("a", "b"))
    assert rows == [{"a": "1", "b": "2"}, [], ["3"], b"\xff,4\n", {"a": "5", "b": "6"}]
    assert (at, strange) == (14, 3)
    assert stream_rows(b"1,2\n", 0, 99, b",", ("a", "a"))[0] == [{"a": "2"}]


def test_lines_that_are_no_utf8_stay_bytes() -> None:
    assert stream_lines(b"a\n\xff\n\n b\n", 0, 99, False) == (["a", b"\xff", "", " b"], 8, 1, 2)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_join_is_that_of_python(lines: list[str]) -> None:
    out = bytearray(b"before ")
    stream_join(lines, out)
    assert out == b"before " + "".join(line + "\n" for line in lines).encode()


@pytest.mark.parametrize("bad", [1, b"x", None, "\ud800"])
def test_what_cannot_be_joined_leaves_the_text_as_it_was(bad: Any) -> None:
    out = bytearray(b"before")
    with pytest.raises((TypeError, UnicodeEncodeError)):
        stream_join(["good", bad], out)
    assert out == b"before"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_json_is_that_of_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert dumps()(value) == text
    assert _loads()(text) == _loads()(text + "  \r") == json.loads(text)


@pytest.mark.parametrize("text", ["{} x", "{", "", "nul", '"\n"', "[1,]", "\ufeff{}", b"{}", b"\xff", 3])
def test_json_fails_as_json_does(text: Any) -> None:
    def ends(loads: Any) -> Any:
        try:
            return loads(text)
        except Exception as error:
            return type(error), str(error)

    assert ends(_loads()) == ends(json.loads)


def test_a_pipe_drops_none_spreads_generators_and_goes_on_behind_an_error() -> None:
    def f(n: int) -> Any:
        if n == 3:
            raise ValueError("this one")
        if n == 4:
            return (x for x in "ab")
        return None if n == 2 else n

    source = iter(range(1, 7))
    pipe = stream_pipe(f, source)
    assert next(pipe) == 1
    with pytest.raises(ValueError, match="this one"):
        next(pipe)
    assert list(pipe) == ["a", "b", 5, 6]


def test_a_generator_that_fails_half_way_gives_nothing() -> None:
    def f(n: int) -> Iterator[int]:
        yield n
        if n == 1:
            raise ValueError("this one")

    pipe = stream_pipe(f, iter([1, 2]))
    with pytest.raises(ValueError, match="this one"):
        next(pipe)
    assert list(pipe) == [2]


def test_no_reference_is_lost_or_kept() -> None:
    class Function:
        def __call__(self, record: Any) -> Any:
            return record

    function, rows, header = Function(), b"a,b\nc\n\xff,1\n" * 50, ("x", "y")
    lines = [line.decode("latin-1") for line in rows.split(b"\n")]
    gone = weakref.ref(function)

    def once(function: Any) -> None:
        stream_rows(rows, 0, 1 << 20, b",", header)
        stream_lines(rows, 0, 1 << 20, False)
        stream_join(lines, bytearray())
        assert sum(1 for _ in stream_pipe(function, iter(lines))) == len(lines)
        _loads()('{"a": [1]}')
        dumps()({"a": [1]})

    once(function)
    gc.collect()
    before = sys.getrefcount(header), sys.getrefcount(function), sum(map(sys.getrefcount, header))
    for _ in range(100):
        once(function)
    gc.collect()
    assert (sys.getrefcount(header), sys.getrefcount(function), sum(map(sys.getrefcount, header))) == before
    pipe: Any = stream_pipe(function, iter([]))
    function.pipe = pipe  # type: ignore[attr-defined]
    del function, pipe
    gc.collect()
    assert gone() is None
