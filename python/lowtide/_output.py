"""A file that appears under its name when it is whole, written as the command line does (src/cli/output.h)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

_Made = TypeVar("_Made")
_STEM_BYTES_MOST = 100  # with what is put behind it, a name that fits on any file system
_NAMES_MOST = 100


class Output:
    """A new file in the folder of ``name``, open for reading and writing as ``fd``; gone at the end of the ``with``.

    It has no name until :meth:`publish`, so that a process that is killed leaves nothing; where the file system has no
    such files (NFS, overlayfs before Linux 6.1) it is ``NAME.PID.part`` meanwhile. Raises OSError.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        place, self._own = os.path.split(name)
        self._part: str | None = None
        with self._errors():
            with contextlib.suppress(FileNotFoundError):
                os.stat(name)  # too long, or below what is no folder
            self._folder = os.open(place or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.fd = self._open()
            except BaseException:
                os.close(self._folder)
                raise

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if self._part:
            with contextlib.suppress(OSError):
                os.unlink(self._part, dir_fd=self._folder)
        os.close(self._folder)

    def publish(self, own: str | None = None) -> None:
        """Put it under its name, or another one in the same folder; what was there is replaced. Once."""
        with self._errors():
            if not self._part:
                self._named(lambda part: os.link(self._link, part, dst_dir_fd=self._folder, follow_symlinks=True))
            assert self._part
            os.rename(self._part, own or self._own, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._part = None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), self._name) from None

    @property
    def _link(self) -> str:
        return f"/proc/self/fd/{self.fd}"

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(".", flags | os.O_TMPFILE, 0o666, dir_fd=self._folder)
            if os.path.exists(self._link):
                return self.fd
            os.close(self.fd)  # without /proc it would never get a name
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        return self._named(lambda part: os.open(part, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder))

    def _named(self, make: Callable[[str], _Made]) -> _Made:
        """In a container a process that was killed and the next one have the same PID."""
        stem = self._own if len(os.fsencode(self._own)) <= _STEM_BYTES_MOST else "lowtide"
        for number in range(1, _NAMES_MOST + 1):
            part = f"{stem}.{os.getpid()}{f'.{number}' if number > 1 else ''}.part"
            with contextlib.suppress(FileExistsError):
                made = make(part)
                self._part = part
                return made
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), part)
