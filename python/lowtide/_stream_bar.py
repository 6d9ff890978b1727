"""The line that a person at a terminal sees while a stream runs."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from lowtide._stream_engine import Progress
from lowtide._stream_memory import text_bytes

_PARTS = " ▏▎▍▌▋▊▉"
_WINDOW_S = 5.0


def text_time(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def draw_bar(share: float, width: int, plain: bool) -> str:
    filled = max(0.0, min(1.0, share)) * width
    if plain:
        return ("#" * int(filled)).ljust(width, ".")
    bar = "█" * int(filled)
    if int(filled) < width:
        bar += _PARTS[int(filled % 1 * 8)]
    return bar.ljust(width)


class Bar:
    """Draws what it is called with; `close` wipes it."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.plain = "utf" not in (file.encoding or "").lower()
        self.begun = time.monotonic()
        self.shown = False
        self._past: list[tuple[float, int]] = []

    def __call__(self, now: Progress) -> None:
        clock = time.monotonic()
        self._past.append((clock, now.position_bytes))
        while len(self._past) > 2 and clock - self._past[0][0] > _WINDOW_S:
            self._past.pop(0)
        if clock - self.begun < 0.5:
            return  # what is over at once needs no bar
        self.shown = True
        columns = shutil.get_terminal_size().columns
        self.file.write("\r" + self.line(now, columns - 1) + "\x1b[K")
        self.file.flush()

    def line(self, now: Progress, width: int) -> str:
        (t0, b0), (t1, b1) = self._past[0], self._past[-1]
        rate = (b1 - b0) / (t1 - t0) if t1 > t0 else 0.0
        dot = " | " if self.plain else " · "
        memory = f"memory {text_bytes(now.memory_bytes)} of {text_bytes(now.ceiling_bytes)}"
        words = [f"{text_bytes(rate)}/s"]
        if now.total_bytes:
            words.insert(0, f"{text_bytes(now.position_bytes)} of {text_bytes(now.total_bytes)}")
            if rate:
                words.append(f"{text_time((now.total_bytes - now.position_bytes) / rate)} left")
        else:
            words.insert(0, f"{now.records_in} records")
            if not now.position_bytes:
                words.pop()
        words.append(memory)
        if now.aside:
            words.append(f"{now.aside} set aside")
        text = dot.join(words)
        if not now.total_bytes:
            return text[:width]
        share = now.position_bytes / now.total_bytes
        room = width - len(text) - 7
        bar = f"{draw_bar(share, min(30, room), self.plain)} " if room >= 8 else ""
        return f"{bar}{int(share * 100):3d} % {text}"[:width]

    def close(self) -> None:
        if self.shown:
            self.file.write("\r\x1b[K")
            self.file.flush()
            self.shown = False
