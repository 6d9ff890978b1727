"""A second, small decoder of recordings, written from docs/format.md alone.

It is there to keep the document honest: what it reads must be what the reader in C reads. So it is
plain rather than fast, believes the file, and says what it finds with a ValueError at the first
thing that the document does not allow.

    for line in decode(Path("app.tide").read_bytes()): ...     as tests/unit/rec_print.c prints them
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

if sys.version_info >= (3, 14):
    from compression import zstd

    unfold = zstd.decompress
else:
    import zstandard

    def unfold(frame: bytes) -> bytes:
        return zstandard.ZstdDecompressor().decompress(frame)


MAGIC = b"\x8cTIDE\r\n\x1a"
META, STRINGS, SHAPES, OBJECTS, END, TABLE, NESTED = range(1, 8)
CLASS, REFERENCE, ROOT = 1, 11, 12
STR, BYTES, INT, BIG_INT, FLOAT, NAME, BOOL = range(1, 8)
Line = dict[str, Any]


def need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def unzigzag(x: int) -> int:
    return (x >> 1) ^ -(x & 1)


@dataclass
class Bytes:
    """A payload or column, read from front to back."""

    data: bytes
    at: int = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, n: int) -> bytes:
        need(self.at + n <= len(self.data), "bytes end too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        end = self.at
        while end < len(self.data) and self.data[end] >= 0x80:
            end += 1
        if end == self.at:  # as most
            return self.take(1)[0]
        (value,) = varints(self.take(end + 1 - self.at))
        return value

    def text(self) -> str:
        return self.take(self.varint()).decode()


def varints(data: bytes) -> list[int]:
    """All that stand there, one behind the other."""
    found, value, shift = [], 0, 0
    for byte in data:
        if byte >= 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            need(shift < 70, "a varint of more than 10 bytes")
        elif shift:
            value |= byte << shift
            need(value < 1 << 64, "a varint beyond 64 bits")
            found.append(value)
            value = shift = 0
        else:
            found.append(byte)
    need(not shift, "bytes end too early")
    return found


def texts(data: bytes) -> list[str]:
    b, found = Bytes(data), []
    while b:
        found.append(b.text())
    return found


@dataclass
class Shape:
    type: int | None
    kind: int
    flags: int
    name: str
    module: str | None
    fixed: list[list[Any]]
    repeat: list[list[Any]]

    @property
    def hides_class(self) -> bool:
        return self.type is not None and bool(self.fixed) and self.fixed[0][0] == CLASS


@dataclass
class Recording:
    captured_ns: int
    meta: dict[str, str] = field(default_factory=dict)
    strings: list[str] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    objects: list[Line] = field(default_factory=list)
    references: int = 0
    reached: int | None = None  # None: cut, no END was found
    skipped: int = 0
    cut: bool = False
    tables: dict[str, list[dict[str, int | str]]] = field(default_factory=dict)
    nested: list[tuple[str, bytes]] = field(default_factory=list)

    def read_label(self, b: Bytes) -> list[Any]:
        head = b.varint()
        name = self.strings[b.varint()] if head & 64 else None
        kind = head & 31
        return [kind if 1 <= kind <= ROOT else REFERENCE, head >> 5 & 1, name]

    def read_shape(self, b: Bytes) -> Shape:
        type, kind, flags = b.varint(), b.varint(), b.varint()
        name = self.strings[b.varint()]
        module = b.varint()
        fixed = [self.read_label(b) for _ in range(b.varint())]
        repeat = [self.read_label(b) for _ in range(b.varint())]
        return Shape(
            type - 1 if type else None,
            min(kind, 5),
            flags,
            name,
            self.strings[module - 1] if module else None,
            fixed,
            repeat,
        )

    def read_objects(self, payload: bytes) -> None:
        b = Bytes(payload)
        first, n, frontier, references = b.varint(), b.varint(), b.varint(), b.varint()
        need(first == len(self.objects), "ids do not follow")
        sizes = [(b.varint(), b.varint()) for _ in range(b.varint())]
        columns = []
        for raw, stored in sizes:
            column = b.take(stored)
            if stored < raw:
                column = unfold(column)
            need(len(column) == raw, "a column's size")
            columns.append(column)
        numbers = [iter(varints(column)) for column in columns[:7]]
        buffers, values = map(Bytes, columns[7:9])
        try:
            lines = self.read_lines(range(first, first + n), frontier, references, numbers)
        except StopIteration:
            raise ValueError("bytes end too early") from None
        place = 0
        while buffers:
            place += buffers.varint()
            lines[place]["buffers"] = buffers.varint()
        place = 0
        while values:
            place += values.varint()
            lines[place]["value"] = read_value(values)
        self.objects += lines

    def read_lines(self, ids: range, frontier: int, references: int, numbers: list[Iterator[int]]) -> list[Line]:
        shapes, addresses, sizes, held, flags, repeats, edges = numbers
        lines: list[Line] = []
        before: dict[int, int] = {}
        count = 0
        for id in ids:
            number = next(shapes)
            shape = self.shapes[number]
            before[number] = before.get(number, 0) + unzigzag(next(addresses)) * 8
            line: Line = {
                "id": id,
                "shape": number,
                "address": before[number],
                "size": next(sizes),
                "refcount": next(held),
                "flags": next(flags),
                "buffers": 0,
                "edges": [],
                "value": None,
            }
            left = len(shape.fixed) + (next(repeats) if shape.repeat else 0)
            frontier = max(frontier, id + 1)
            if shape.hides_class and shape.type is not None:
                line["edges"].append(shape.type)
                frontier = max(frontier, shape.type + 1)
                count += 1
                left -= 1
            for _ in range(left):
                c = next(edges)
                target: int | None
                if c == 0:
                    target = None
                elif c == 1:
                    target = frontier
                elif (c - 2) & 1:
                    target = (c - 2) >> 1
                else:
                    target = frontier - 1 - ((c - 2) >> 1)
                if target is not None:
                    count += 1
                    if target >= frontier:
                        frontier = target + 1
                line["edges"].append(target)
            lines.append(line)
        need(count == references, "a chunk's references do not add up")
        self.references += count
        need(not any(True for column in numbers for _ in column), "a column has bytes left")
        return lines

    def read_table(self, b: Bytes) -> None:
        rows = self.tables.setdefault(b.text(), [])
        n, count = b.varint(), b.varint()
        first = len(rows)
        rows += [{} for _ in range(n)]
        heads = [(b.text(), b.varint(), b.varint(), b.varint()) for _ in range(count)]
        for name, type, raw, stored in heads:
            column = b.take(stored)
            if stored < raw:
                column = unfold(column)
            need(len(column) == raw, "a column's size")
            values: list[Any] = texts(column) if type == 4 else varints(column)
            need(len(values) == n, "a column of a table has other rows")
            before = 0
            for row, value in zip(rows[first:], values):
                if type in (2, 3):
                    value = unzigzag(value) % (1 << 64)
                    if type == 3:
                        value = before = (before + value) % (1 << 64)
                row[name] = value

    def table_rows(self, name: str) -> Iterator[dict[str, int | str]]:
        """Rows with all columns that any of them has; a missing one reads as 0 or ""."""
        kinds = {column: value for row in self.tables[name] for column, value in row.items()}
        for row in self.tables[name]:
            yield {column: row.get(column, "" if isinstance(kind, str) else 0) for column, kind in kinds.items()}

    def read_section(self, kind: int, payload: bytes) -> None:
        b = Bytes(payload)
        need(self.reached is None or kind not in (STRINGS, SHAPES, OBJECTS, END), "a heap section behind END")
        if kind == META:
            while b:
                key = b.text()
                self.meta[key] = b.text()
        elif kind == STRINGS:
            while b:
                self.strings.append(b.text())
        elif kind == SHAPES:
            while b:
                self.shapes.append(self.read_shape(b))
        elif kind == OBJECTS:
            self.read_objects(payload)
        elif kind == END:
            objects, references, reached, self.skipped = (b.varint() for _ in range(4))
            need(objects == len(self.objects), "END counts other objects")
            need(references == self.references, "END counts other references")
            self.reached = reached
        elif kind == TABLE:
            self.read_table(b)
        elif kind == NESTED:
            self.nested.append((b.text(), b.data[b.at :]))

    def forget_lost(self) -> None:
        """Of a cut recording: references and types that never came to be written."""
        n = len(self.objects)
        for line in self.objects:
            line["edges"] = [None if e is None or e >= n else e for e in line["edges"]]
        for shape in self.shapes:
            shape.type = None if shape.type is None or shape.type >= n else shape.type
        self.references = sum(e is not None for line in self.objects for e in line["edges"])

    def lines(self) -> Iterator[Line]:
        n = len(self.objects)
        yield {
            "objects": n,
            "references": self.references,
            "reached": n if self.reached is None else self.reached,
            "captured_ns": self.captured_ns,
            "cut": self.cut,
        }
        for key, value in self.meta.items():
            yield {"key": key, "value": value}
        for number, shape in enumerate(self.shapes):
            yield {
                "shape": number,
                "kind": shape.kind,
                "flags": shape.flags,
                "type": shape.type,
                "name": shape.name,
                "module": shape.module,
                "fixed": shape.fixed,
                "repeat": shape.repeat,
            }
        yield from self.objects
        for name in self.tables:
            for row in self.table_rows(name):
                yield {"table": name, "row": row}
        for name, data in self.nested:
            yield {"nested": name, "bytes": len(data)}


def read_value(b: Bytes) -> list[Any] | None:
    kind = b.varint()
    if kind == STR:
        return [kind, b.varint(), b.text()]
    if kind == BYTES:
        return [kind, b.varint(), b.take(b.varint()).hex()]
    if kind == INT:
        return [kind, unzigzag(b.varint())]
    if kind in (BIG_INT, BOOL):
        return [kind, b.varint()]
    if kind == FLOAT:
        return [kind, struct.unpack("<Q", b.take(8))[0]]
    if kind == NAME:
        return [kind, b.text()]
    need(kind > BOOL, "a value of kind 0")
    b.take(b.varint())
    return None


def read_recording(data: bytes) -> Recording:
    need(data[:8] == MAGIC, "not a recording")
    need(len(data) >= 32, "cut within the header")
    major, minor, _zero, captured_ns, checksum = struct.unpack_from("<HHIQQ", data, 8)
    need(xxhash.xxh3_64_intdigest(data[:24]) == checksum, "the header is damaged")
    need(major == 1, f"format {major}")
    rec = Recording(captured_ns)
    at, sequence = 32, 0
    while (rec.reached is None or minor >= 1) and at + 32 <= len(data):
        magic, kind, flags, number, raw, stored, _zero, checksum = struct.unpack_from("<4sHHIIIIQ", data, at)
        payload = data[at + 32 : at + 32 + stored]
        if magic != b"SECT" or number != sequence or len(payload) != stored:
            break
        if xxhash.xxh3_64_intdigest(data[at : at + 24] + payload) != checksum:
            break
        if flags & 1:
            payload = unfold(payload)
        need(len(payload) == raw, "a section's size")
        rec.read_section(kind, payload)
        at += 32 + stored
        sequence += 1
    if rec.reached is None:
        rec.forget_lost()
    rec.cut = rec.reached is None or (minor >= 1 and at < len(data))
    return rec


def decode(data: bytes) -> Iterator[Line]:
    return read_recording(data).lines()


if __name__ == "__main__":
    for line in decode(Path(sys.argv[1]).read_bytes()):
        print(json.dumps(line, ensure_ascii=False))
