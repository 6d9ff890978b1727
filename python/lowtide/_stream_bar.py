"""The line that a person at a terminal sees while a stream runs."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from lowtide._stream_engine import Progress
from lowtide._stream_memory import text_bytes

_PARTS = " ▏▎▍▌▋▊▉"
_WINDOW_S = 5.0
_BAR_MIN = 8  # columns; below, words go before it does


def text_time(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def text_of(part: float, whole: float) -> str:
    """``50.6 of 256 MiB``."""
    first, second = text_bytes(part), text_bytes(whole)
    number, _, unit = first.partition(" ")
    return f"{number if second.endswith(' ' + unit) else first} of {second}"


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
        # The cursor goes back to the begin: what the terminal echoes of a key (^C) is drawn over, and wraps no line.
        self.file.write("\r" + self.line(now, columns - 1) + "\x1b[K\r")
        self.file.flush()

    def line(self, now: Progress, width: int) -> str:
        """As much as `width` columns hold: what is cut off first is what the rest lets guess."""
        (t0, b0), (t1, b1) = self._past[0], self._past[-1]
        rate = (b1 - b0) / (t1 - t0) if t1 > t0 else 0.0
        memory = text_of(now.memory_bytes, now.ceiling_bytes)
        speed = [f"{text_bytes(rate)}/s"] if now.position_bytes else []
        aside = [f"{now.aside} set aside"] if now.aside else []
        dot = " | " if self.plain else " · "
        if not now.total_bytes:
            return dot.join([f"{now.records_in} records", *speed, f"memory {memory}", *aside])[:width]
        if rate:
            speed.append(f"{text_time((now.total_bytes - now.position_bytes) / rate)} left")
        position = text_of(now.position_bytes, now.total_bytes)
        share = now.position_bytes / now.total_bytes
        texts = [
            [position, *speed, f"memory {memory}", *aside],
            [text_bytes(now.position_bytes), *speed, f"memory {memory}", *aside],
            [text_bytes(now.position_bytes), *speed, memory, *aside],
            [*speed, memory, *aside],
        ]
        room, text = next(
            ((room, text) for text in map(dot.join, texts) if (room := width - len(text) - 7) >= _BAR_MIN),
            (0, dot.join(texts[-1])),
        )
        bar = f"{draw_bar(share, min(30, room), self.plain)} " if room else ""
        return f"{bar}{int(share * 100):3d} % {text}"[:width]

    def close(self) -> None:
        if self.shown:
            self.file.write("\r\x1b[K")
            self.file.flush()
            self.shown = False
