"""Files as streams read them: compressed ones from their beginning, others wherever somebody looks."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import IO

from lowtide._keep import stream_cut
from lowtide._stream_memory import CHUNK_MIN, StreamError, text_bytes
from lowtide._stream_plan import Handle

BOM = b"\xef\xbb\xbf"
_LOOK_BYTES = 64 << 10


def why(error: OSError) -> str:
    return error.strerror or str(error)


class _Frames:
    """A file of zstd frames (RFC 8878), read as it is; one that ends within a frame is an EOFError.

    The reader of the zstandard package takes such an end for a good one. What tells is the lengths of the frames' parts:
    `_steps` says, part by part, how many bytes of it are looked at, and then how many are passed over.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self._steps = self._parts()
        self._seen = bytearray()
        self._look, self._skip = next(self._steps), 0
        self._between = True

    def read(self, count: int = -1) -> bytes:
        data = self.raw.read(count)
        if not data and (not self._between or self._seen or self._skip):
            raise EOFError
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


def _decompressor(raw: IO[bytes], compression: str, path: str) -> IO[bytes]:
    if compression == "gz":
        import gzip

        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if compression == "bz2":
        import bz2

        return bz2.BZ2File(raw)
    if compression == "xz":
        import lzma

        return lzma.LZMAFile(raw)
    if compression == "zst":
        try:
            import zstandard
        except ImportError:
            raise StreamError(f"{path} needs the package zstandard; pip install 'lowtide[stream]'") from None
        return zstandard.ZstdDecompressor().stream_reader(_Frames(raw), read_across_frames=True)  # type: ignore[arg-type]
    return raw


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

    def position(self) -> int:
        return self.raw.tell()

    def skip(self, count: int) -> None:
        if not self.compression:
            self.raw.seek(count)
            self.plain = count
        while self.plain < count:
            if not self.read(min(1 << 20, count - self.plain)):
                raise StreamError(f"{self.path} ends before the place to go on from; it is not the file it was")

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer at the end."""
        parts, missing = [], count
        while missing:
            try:
                part = self.file.read(missing)
            except EOFError:
                raise StreamError(self._broken("ends in the middle")) from None
            except (OSError, ValueError, zlib.error) as error:
                cause = why(error) if isinstance(error, OSError) and error.errno else f"is damaged ({error})"
                raise StreamError(self._broken(cause)) from None
            except Exception as error:  # lzma.LZMAError and zstandard.ZstdError are no OSErrors
                raise StreamError(self._broken(f"is damaged ({error})")) from None
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self.plain += count - missing
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _broken(self, cause: str) -> str:
        what = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}.get(self.compression)
        if not what:
            return f"cannot read {self.path}: {cause}"
        return f"cannot read {self.path}: its {what} data {cause} after {self.plain} bytes of text; get the file anew"

    def close(self) -> None:
        if self.file is not self.raw:
            self.file.close()
        self.raw.close()


class Opened(Packed):
    def __init__(self, file: IO[bytes], path: str) -> None:
        self.path, self.compression, self.plain = path, "", 0
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
