"""Records of a chunk from its bytes, slice by slice, and the bytes of what was made of them."""

from __future__ import annotations

import copy
import csv
import functools
import io
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lowtide._keep import stream_dumps, stream_join, stream_lines, stream_loads, stream_rows
from lowtide._stream_plan import NOT_UTF8, ChunkFailed, Head, Plan, told_error
from lowtide._stream_tables import sent_table, table_of, table_to_write

_SLICE = 512  # records
_SLICE_BYTES = 64 << 10  # what comes of so much stays in the processor's cache; twice as fast as a whole chunk

Steps = list[tuple[str, Any]]


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {text[error.start]:#04x} at its position {error.start} is not UTF-8; {NOT_UTF8}"
        ) from None


def _make_row(header: tuple[str, ...], row: Any) -> Any:
    if isinstance(row, bytes):
        _decode(row)
    if isinstance(row, list):
        raise ValueError(f"the row has {len(row)} fields, the header {len(header)}")
    return row


def _make_list(row: Any) -> Any:
    return _decode(row) if isinstance(row, bytes) else row


@functools.cache
def _loads() -> Callable[[str], Any]:
    try:
        return stream_loads(json.scanner.c_make_scanner(json.JSONDecoder()), json.loads)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):  # a json without its C half
        return json.loads


@functools.cache
def dumps() -> Callable[[Any], str]:
    """As JSONEncoder(ensure_ascii=False).encode, but for one that is made once."""
    encoder = json.JSONEncoder(ensure_ascii=False)
    try:
        made = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, encoder.default, json.encoder.encode_basestring, None, ": ", ", ", False, False, True
        )
        quick = stream_dumps(made)
        sample = {"a": [1, "\u00e9\n", None, True, 1.5], "b": {}}
        return quick if quick(sample) == encoder.encode(sample) else encoder.encode
    except (AttributeError, TypeError):
        return encoder.encode


def _text_slices(plan: Plan, text: bytes, size: int) -> Iterator[tuple[list[Any], Steps]]:
    at, as_bytes, as_json = 0, plan.kind == "bytes", plan.kind == "jsonl"
    while at < len(text):
        records, at, strange, blank = stream_lines(text, at, size, as_bytes)
        steps: Steps = [("map", _make_list)] if strange else []
        if as_json:
            if strange or blank:
                steps.append(("filter", str.strip))
            steps.append(("map", _loads()))
        yield records, steps


def _row_slices(text: bytes, size: int, head: Head) -> Iterator[tuple[list[Any], Steps]]:
    at, delimiter, header = 0, head.delimiter.encode(), head.names
    while at < len(text):
        rows, at, strange = stream_rows(text, at, size, delimiter, header)
        steps: Steps = []
        if strange:
            make = _make_list if header is None else functools.partial(_make_row, header)
            steps = [("filter", None), ("map", make)]
        yield rows, steps


def slices(plan: Plan, payload: Any, head: Head | None) -> Iterator[tuple[list[Any], Steps]]:
    """Raw records, slice by slice, and what makes records of them, one by one."""
    if plan.kind in ("table", "records"):
        payload = table_of(payload) if plan.kind == "table" else payload
        step = (
            max(1, min(_SLICE, _SLICE_BYTES * len(payload) // (payload.nbytes + 1))) if plan.kind == "table" else _SLICE
        )
        for start in range(0, len(payload), step):
            part = payload[start : start + step]
            yield (part.to_pylist() if plan.kind == "table" else list(part)), []
    elif head:
        yield from _row_slices(payload, _SLICE_BYTES, head)
    else:
        yield from _text_slices(plan, payload, _SLICE_BYTES)


def _row(fields: tuple[str, ...] | None, record: Any) -> list[Any]:
    if isinstance(record, dict):
        if fields is None:
            raise TypeError("the record is a dict, the first was none")
        if len(record) > len(fields) or not record.keys() <= set(fields):
            extra = next(name for name in record if name not in fields)
            raise ValueError(f"the field {extra!r} is not among those of the first record")
        return [record.get(name, "") for name in fields]
    if isinstance(record, (list, tuple)):
        if fields:
            raise TypeError(f"CSV that began with dicts takes dicts, not {type(record).__name__}")
        return list(record)
    raise TypeError(f"CSV takes dicts or lists, not {type(record).__name__}")


def _rows(fields: tuple[str, ...] | None, records: list[Any]) -> Iterable[Any]:
    """Rows of records that csv can write; at C's speed where all have exactly the fields."""
    if fields and len(fields) > 1 and set(map(type, records)) == {dict} and set(map(len, records)) == {len(fields)}:
        try:
            return list(map(operator.itemgetter(*fields), records))
        except KeyError:
            pass
    return [_row(fields, record) for record in records]


def _as_text(record: Any) -> str:
    if not isinstance(record, str):
        raise TypeError(
            f"text takes str, not {type(record).__name__}; write to a .jsonl or .csv, say that it is one (--to jsonl), or return str"
        )
    record.encode()
    return record


def _as_bytes(record: Any) -> bytes:
    if not isinstance(record, (bytes, bytearray, memoryview)):
        raise TypeError(f"format bytes takes bytes, not {type(record).__name__}")
    return bytes(record)


def _as_record(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TypeError(f"Parquet and Arrow take dicts, not {type(record).__name__}")
    return record


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "text": _as_text,
    "bytes": _as_bytes,
    "jsonl": _as_text,
    "parquet": _as_record,
    "arrow": _as_record,
}


def compress(data: Any, how: str) -> Any:
    """A member (frame, stream) of its own; a file of several of them reads as one."""
    return pack(data, how) if data else data


def pack(data: Any, how: str) -> Any:
    """The same, of no bytes too."""
    if not how:
        return data
    if how == "gz":
        import gzip

        return gzip.compress(data, 6, mtime=0)
    if how == "bz2":
        import bz2

        return bz2.compress(data)
    if how == "xz":
        import lzma

        return lzma.compress(data)
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def write_rows(rows: Iterable[Any], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


class Encoder:
    """Takes results as they come, and has them as they are to be written in the end. here, held: as in run_chunk."""

    def __init__(self, plan: Plan, here: bool = False, held: bool = False) -> None:
        self.plan, self.here, self.held, self.fields, self.count = plan, here, held, plan.fields, 0
        self.text = bytearray()
        self.objects: list[Any] = []
        self.table: Any = None
        self.folded = copy.deepcopy(plan.initial)

    def add(self, out: Any) -> None:
        """A slice, or a table. Raises ChunkFailed where one of the records cannot be written."""
        if hasattr(out, "to_pylist"):
            if self.plan.out in ("parquet", "arrow"):
                self.table, self.count = out, len(out)
                return
            out = out.to_pylist()
        self.count += len(out)
        if not out:
            return
        try:
            self._add(out)
        except MemoryError:
            raise ChunkFailed("MemoryError", memory=True) from None
        except Exception as error:
            raise ChunkFailed(told_error(self._cause(out, error))) from None

    def _add(self, out: list[Any]) -> None:
        kind = self.plan.out
        if kind in ("text", "jsonl"):
            stream_join(out, self.text)
        elif kind == "bytes":
            self.text += b"\n".join(out)
            self.text += b"\n"
        elif kind == "csv":
            if self.fields is None and isinstance(out[0], dict):
                self.fields = tuple(map(str, out[0]))
            self.text += write_rows(_rows(self.fields, out), self.plan.out_delimiter)
        elif kind == "fold":
            self.folded = functools.reduce(self.plan.ops[-1][1], out, self.folded)
        else:
            self.objects += out

    def _cause(self, out: list[Any], error: Exception) -> Exception:
        """The error of the first record at fault, in its own words."""
        check = _CHECKS.get(self.plan.out)
        for record in out if check else ():
            try:
                assert check
                check(record)
            except Exception as cause:
                return cause
        return error

    def data(self) -> Any:
        plan = self.plan
        if plan.out == "records":
            return self.objects
        if plan.out == "fold":
            return self.folded
        try:
            if plan.out in ("parquet", "arrow"):
                table = table_to_write(self.objects if self.table is None else self.table)
                if table is None:
                    return b""
                return table if self.here and table.num_rows else sent_table(table, self.held)
            return compress(self.text, plan.compression)
        except MemoryError:
            raise ChunkFailed("MemoryError", memory=True) from None
        except Exception as error:
            raise ChunkFailed(told_error(self._cause(self.objects, error))) from None
