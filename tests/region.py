"""A second reader of control/region.h, for tests: the profile of this process, or of a child."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

DOMAINS = {1: "raw", 2: "mem", 3: "object", 4: "mmap", 5: "libc"}
HEADER = struct.Struct("<QIIQQQIIIIqqQQQQQQIIq4IqqQQQqIIQ")
PARTS_AT = HEADER.size
CELL = struct.Struct("<IIQQ" + "qqQ" * 4)
BLOCK = struct.Struct("<QQII")
EVENT = struct.Struct("<QIIQII")


@dataclass(frozen=True)
class Frame:
    function: str
    file: str
    line: int
    first_line: int
    kind: int
    build_id: str
    offset: int


@dataclass(frozen=True)
class Cell:
    stack: tuple[Frame, ...]  # leaf first
    domain: str
    live: tuple[int, int, int]  # bytes, blocks, variance in 2^20 bytes²
    total: tuple[int, int, int]
    peak: tuple[int, int, int]
    rss_peak: tuple[int, int, int]


class Region:
    def __init__(self, fd: int) -> None:
        self.map = mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.read_header()

    def close(self) -> None:
        self.map.close()

    def read_header(self) -> None:
        h = HEADER.unpack_from(self.map, 0)
        self.version, self.mode, self.bytes, self.interval_bytes = h[1], h[2], h[3], h[4]
        self.pid, self.ended = h[6], h[8]
        self.heap_bytes, self.heap_peak_bytes, self.heap_epoch, self.rss_epoch = h[10:14]
        self.lost_blocks, self.lost_stacks, self.lost_events = h[14:17]
        names = ("texts", "frames", "stacks", "cells", "blocks", "events")
        self.parts = {name: struct.unpack_from("<QQQ", self.map, PARTS_AT + 24 * i) for i, name in enumerate(names)}

    def text(self, at: int) -> str:
        start = self.parts["texts"][0] + at
        (n,) = struct.unpack_from("<I", self.map, start)
        return self.map[start + 4 : start + 4 + n].decode()

    def frame(self, i: int) -> Frame:
        f = struct.unpack_from("<6IQ", self.map, self.parts["frames"][0] + 32 * i)
        return Frame(self.text(f[0]), self.text(f[1]), f[2], f[3], f[4], self.text(f[5]), f[6])

    def stack(self, i: int) -> tuple[Frame, ...]:
        frames = []
        while True:
            parent, frame = struct.unpack_from("<II", self.map, self.parts["stacks"][0] + 8 * i)
            frames.append(self.frame(frame))
            if not parent:
                return tuple(frames)
            i = parent - 1

    def cells(self) -> list[Cell]:
        self.read_header()
        at, _, used = self.parts["cells"]
        found = []
        for i in range(used):
            c = CELL.unpack_from(self.map, at + CELL.size * i)
            if not c[1]:
                continue
            live = c[4:7]
            peak = c[10:13] if c[2] == self.heap_epoch else live
            rss = c[13:16] if c[3] == self.rss_epoch else live
            found.append(Cell(self.stack(c[0]), DOMAINS[c[1]], live, c[7:10], peak, rss))
        return found

    def blocks(self) -> list[tuple[int, int, int]]:
        """Address, bytes, cell of what was sampled and is alive."""
        self.read_header()
        at, _, used = self.parts["blocks"]
        raw = (BLOCK.unpack_from(self.map, at + BLOCK.size * i) for i in range(used))
        return [b[:3] for b in raw if b[0] > 15]

    def marks(self) -> list[str]:
        self.read_header()
        at, _, used = self.parts["events"]
        raw = (EVENT.unpack_from(self.map, at + EVENT.size * i) for i in range(used))
        return [self.text(e[4]) for e in raw if e[1] == 2]
