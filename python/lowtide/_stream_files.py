"""Files as streams read them: compressed ones from their beginning, others wherever somebody looks."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from lowtide._keep import stream_cut
from lowtide._stream_memory import CHUNK_MIN, StreamError, StreamWarning, text_bytes
from lowtide._stream_plan import Handle

BOM = b"\xef\xbb\xbf"
_LOOK_BYTES = 64 << 10
_PACKED_BYTES = 16 << 10


def why(error: OSError) -> str:
    return error.strerror or str(error)


class _Frames:
    """A file of zstd frames (RFC 8878), read as it is; one that ends within a frame is `torn`.

    The reader of the zstandard package takes such an end for a good one. What tells is the lengths of the frames' parts:
    `_steps` says, part by part, how many bytes of it are looked at, and then how many are passed over.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self._steps = self._parts()
        self._seen = bytearray()
        self._look, self._skip = next(self._steps), 0
        self._between = self._empty = True
        self.torn = False

    def read(self, count: int = -1) -> bytes:
        data = self.raw.read(count)
        self.torn = not data and bool(not self._between or self._seen or self._skip or self._empty)
        self._empty = self._empty and not data
        at = 0
        while at < len(data):
            skipped = min(self._skip, len(data) - at)
            self._skip -= skipped
            at += skipped
            if self._skip:
                break
            wanted = self._look - len(self._seen)
            self._seen += data[at : at + wanted]
            at = min(len(data), at + wanted)
            while not self._skip and len(self._seen) == self._look:
                self._look = next(self._steps)
                self._seen.clear()
        return data

    def _parts(self) -> Iterator[int]:
        while True:
            self._between = True
            yield 4
            self._between = False
            magic = int.from_bytes(self._seen, "little")
            if magic >> 4 == 0x184D2A5:  # a skippable frame
                yield 4
                self._skip = int.from_bytes(self._seen, "little")
                continue
            yield 1
            flags = self._seen[0]
            single, checksum = flags >> 5 & 1, flags >> 2 & 1
            self._skip = (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6] + (not single)
            last = 0
            while not last:
                yield 3
                header = int.from_bytes(self._seen, "little")
                last = header & 1
                self._skip = 1 if header >> 1 & 3 == 1 else header >> 3
            self._skip += 4 * checksum


class _Zstd:
    def __init__(self, raw: IO[bytes], path: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise StreamError(f"{path} needs the package zstandard; pip install 'lowtide[stream]'") from None
        self.frames = _Frames(raw)
        self.file = zstandard.ZstdDecompressor().stream_reader(self.frames, read_across_frames=True)  # type: ignore[arg-type]

    def read(self, count: int) -> bytes:
        part = self.file.read(count)
        if not part and self.frames.torn:
            raise EOFError
        return part


class _Gzip:
    """One member; as the decompressors of bz2 and lzma are used."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(31)

    def decompress(self, data: bytes, count: int) -> bytes:
        return self.inner.decompress(self.inner.unconsumed_tail + data, count)

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data


class _Members:
    """A file of gzip, bzip2 or xz, whose members follow each other; what follows the last and begins as none is passed over.

    The library's own readers take damage within the first kilobytes of a further member for such junk, or lose what they
    have read when a member is cut off: here that is an error, and comes behind the data.
    """

    def __init__(self, raw: IO[bytes], path: str, magic: bytes, make: Callable[[], Any]) -> None:
        self.raw, self.path, self.magic, self.make = raw, path, magic, make
        self.member: Any = None
        self.given, self.ended = b"", False  # read, and not yet handed to the member

    def read(self, count: int) -> bytes:
        if self.member is None:
            self._begin()
        while not self.ended:
            if self.member.eof:
                self._next(self.member.unused_data)
                continue
            data = b""
            if self.member.needs_input:
                data = self.given or self.raw.read(_PACKED_BYTES)
                self.given = b""
            last = self.member.needs_input and not data
            part: bytes = self.member.decompress(data, count)
            if part:
                return part
            if last:
                raise EOFError
        return b""

    def _begin(self) -> None:
        self.member, self.given = self.make(), self.raw.read(_PACKED_BYTES)
        if not self.given:
            raise EOFError
        if self.make is _Gzip and not self.magic.startswith(self.given[:2]):
            raise OSError(f"Not a gzipped file ({self.given[:2]!r})")

    def _next(self, rest: bytes) -> None:
        """Begins the next member, if there is one behind this."""
        rest = rest.lstrip(b"\0")
        while len(rest) < len(self.magic) and (more := self.raw.read(_PACKED_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        if rest and self.magic.startswith(rest[: len(self.magic)]):
            self.member, self.given = self.make(), rest
            return
        self.ended = True
        if rest:
            text = f"{self.path} goes on behind its compressed data with what is none of it; that is not read"
            warnings.warn(StreamWarning(text), stacklevel=2)


def _decompressor(raw: IO[bytes], compression: str, path: str) -> Any:
    if compression == "gz":
        return _Members(raw, path, b"\x1f\x8b", _Gzip)
    if compression == "bz2":
        import bz2

        return _Members(raw, path, b"BZh", bz2.BZ2Decompressor)
    if compression == "xz":
        import lzma

        return _Members(raw, path, b"\xfd7zXZ\0", lzma.LZMADecompressor)
    return _Zstd(raw, path) if compression == "zst" else raw


class Packed:
    """A file's plain bytes, with errors in our words."""

    def __init__(self, path: str, compression: str) -> None:
        self.path, self.compression = path, compression
        try:
            self.raw = open(path, "rb", buffering=0 if not compression else -1)  # noqa: SIM115
        except OSError as error:
            raise StreamError(f"cannot read {path}: {why(error)}") from None
        self.file = _decompressor(self.raw, compression, path)
        self.plain = 0  # bytes given out
        self.failed: StreamError | None = None  # behind them

    def position(self) -> int:
        return self.raw.tell()

    def skip(self, count: int) -> None:
        if not self.compression:
            self.raw.seek(count)
            self.plain = count
        while self.plain < count:
            if not self.read(min(1 << 20, count - self.plain)):
                self.check()
                raise StreamError(f"{self.path} ends before the place to go on from; it is not the file it was")

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer at the end, or where it can be read no further: check() tells."""
        parts, missing = [], count
        while missing and not self.failed:
            try:
                part = self.file.read(missing)
            except EOFError:
                self.failed = self._broken("ends in the middle", count - missing)
                break
            except (OSError, ValueError, zlib.error) as error:
                cause = why(error) if isinstance(error, OSError) and error.errno else f"is damaged ({error})"
                self.failed = self._broken(cause, count - missing)
                break
            except Exception as error:  # lzma.LZMAError and zstandard.ZstdError are no OSErrors
                self.failed = self._broken(f"is damaged ({error})", count - missing)
                break
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self.plain += count - missing
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def check(self) -> None:
        if self.failed:
            raise self.failed

    def _broken(self, cause: str, more: int) -> StreamError:
        what = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}.get(self.compression)
        if not what:
            return StreamError(f"cannot read {self.path}: {cause}")
        after = f"after {self.plain + more} bytes of text"
        return StreamError(f"cannot read {self.path}: its {what} data {cause} {after}; get the file anew")

    def close(self) -> None:
        self.raw.close()


class Opened(Packed):
    def __init__(self, file: IO[bytes], path: str) -> None:
        self.path, self.compression, self.plain, self.failed = path, "", 0, None
        self.raw = self.file = file  # type: ignore[assignment]

    def position(self) -> int:
        return self.plain

    def close(self) -> None:
        pass  # not ours


def too_long(path: str, start: int, longest: int) -> StreamError:
    return StreamError(
        f"the record at byte {start} of {path} is longer than the {text_bytes(longest)} that the ceiling leaves for one; "
        "raise memory"
    )


class Plain:
    """A file that is not compressed: cut between records without being read, as far as that can be."""

    def __init__(self, path: str, delimiter: bytes | None) -> None:
        self.path, self.delimiter = path, delimiter
        try:
            self.handle = Handle(path)
        except OSError as error:
            raise StreamError(f"cannot read {path}: {why(error)}") from None
        self.size = os.fstat(self.handle.fd).st_size

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes."""
        try:
            return os.pread(self.handle.fd, min(size, self.size - start), start)
        except OSError as error:
            raise StreamError(f"cannot read {self.path}: {why(error)}") from None

    def text_start(self) -> int:
        return 3 if self.read(0, 3) == BOM else 0

    def cut(self, start: int, size: int, longest: int) -> int:
        """Where the whole records that fit into `size` bytes from `start` on end; the first one's end, if it is longer."""
        end = start + size
        if end >= self.size:
            return self.size
        if self.delimiter is not None:
            return self._cut_csv(start, size, longest)
        for back in (max(start, end - _LOOK_BYTES), start):
            newline = self.read(back, end - back).rfind(b"\n")
            if newline >= 0:
                return back + newline + 1
        while end < self.size:
            if end - start >= longest:
                raise too_long(self.path, start, longest)
            more = self.read(end, _LOOK_BYTES)
            newline = more.find(b"\n")
            if newline >= 0:
                return end + newline + 1
            if not more:
                break  # it was made shorter meanwhile; whoever reads it will say so
            end += len(more)
        return self.size

    def _cut_csv(self, start: int, want: int, longest: int) -> int:
        """Which newlines end a record only the quotes before them say."""
        size = max(want, CHUNK_MIN)
        while True:
            data = self.read(start, size)
            end, _ = stream_cut(data, want, self.delimiter)
            if end:
                return start + end
            if start + size >= self.size:
                return self.size
            if size >= longest:
                raise too_long(self.path, start, longest)
            size = min(2 * size, longest)
