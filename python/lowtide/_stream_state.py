"""What of a stream is done: a SQLite file that the same call goes on from, whatever killed the last one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from types import CodeType
from typing import Any

from lowtide._stream_memory import StreamError
from lowtide._stream_names import checkpoint_beside
from lowtide._stream_source import Mark


@dataclass
class State:
    """How far a stream has come: all that counts lies before `token` in the source and `written` in the output."""

    token: dict[str, int] = field(default_factory=dict)
    written: int = 0  # bytes of the unfinished output
    tail: str = ""  # hash of the last of them, by which it is known again
    position: int = 0  # bytes of the source
    records_in: int = 0
    records_out: int = 0
    aside: int = 0
    inner_aside: int = 0  # of them, by the stream below batches
    chunks: int = 0
    seconds: float = 0.0
    fields: list[str] | None = None
    folded: str | None = None  # hex of the pickle of what a reduce has so far
    begin_bytes: int = 0  # of the first chunk, where the last run had no memory for a larger one
    whole: bool = False  # the output is complete, and only its name may still be missing

    @property
    def begun(self) -> bool:
        """Whether anything was done; what a run that was refused has set aside is nothing."""
        return bool(self.chunks or self.aside or self.begin_bytes)


def _code_words(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_words(constant)
        else:
            yield repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)


def function_name(f: Callable[..., Any]) -> str:
    while hasattr(f, "func"):
        f = f.func
    return f"{getattr(f, '__module__', '?')}:{getattr(f, '__qualname__', type(f).__name__)}"


def function_hash(f: Callable[..., Any]) -> str:
    """Of what a function does, as far as its own code says; empty for what has none."""
    while hasattr(f, "func"):
        f = f.func
    code = getattr(f, "__code__", None) or getattr(getattr(f, "__call__", None), "__code__", None)  # noqa: B004
    return hashlib.sha256("\n".join(_code_words(code)).encode()).hexdigest()[:16] if code else ""


def identity(marks: list[Mark], ops: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "files": [asdict(mark) for mark in marks],
        "ops": [[name, function_name(f), function_hash(f)] for name, f in ops],
        "settings": settings,
    }


class NoCheckpoint(StreamError):
    """The file is something else."""


class Checkpoint:
    """One file, one process at a time. Without a path it lives in a temporary file of SQLite's own.

    What an earlier run has left in it stays as it is until begin() or save(); a file in which there is nothing yet goes
    when it is closed.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path and os.path.realpath(path)  # SQLite too keeps its journal beside the file, not the link
        for _ in range(100):
            if self._open(path):
                return
            self._db.close()
        raise StreamError(
            f"cannot keep {path}: it is another file each time that one looks at it; name a checkpoint on another file system"
        )

    def _open(self, path: str | None) -> bool:
        """False: the run that had the file has taken it out meanwhile."""
        before = None
        if self.path:
            with contextlib.suppress(OSError):  # SQLite says it
                os.mknod(self.path, 0o644)
            before = self._inode()
        try:
            self._db = sqlite3.connect(path or "", isolation_level=None, timeout=0.5)
            self._db.execute(f"PRAGMA synchronous={'FULL' if path else 'OFF'}")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute(
                "PRAGMA locking_mode=EXCLUSIVE"
            )  # from now on: two that begin at once would keep each other out
            others = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('kept', 'aside')"
            if self._db.execute(others).fetchone():
                self._db.close()
                raise NoCheckpoint(f"{path} is a database of something else; name another checkpoint")
            self._db.execute("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT)")
            self._db.execute("CREATE TABLE IF NOT EXISTS aside (id INTEGER PRIMARY KEY, line TEXT)")
            self.empty = not self._db.execute("SELECT 1 FROM kept WHERE name = 'state'").fetchone()
            self._db.execute("COMMIT")
            return before == self._inode()
        except sqlite3.Error as error:
            with contextlib.suppress(AttributeError):  # it could not even be opened
                self._db.close()
            if "locked" in str(error):
                raise StreamError(f"another run is using {path}; let it end") from None
            if "not a database" in str(error):
                raise NoCheckpoint(f"{path} is no checkpoint; name another") from None
            folder = os.path.dirname(os.path.abspath(path or ""))
            if not os.path.exists(path or "") and not os.access(folder, os.W_OK | os.X_OK):
                lack = "may not be written to" if os.path.isdir(folder) else "is not there"
                raise StreamError(f"cannot keep {path}: the folder {folder} {lack}") from None
            raise StreamError(f"cannot use the checkpoint {path}: {error}; remove it to begin anew") from None

    def _inode(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            status = os.stat(self.path or "")
            return status.st_dev, status.st_ino
        return None

    def load(self) -> tuple[dict[str, Any], State] | None:
        kept = dict(self._db.execute("SELECT name, value FROM kept"))
        if "state" not in kept:
            return None
        return json.loads(kept["identity"]), State(**json.loads(kept["state"]))

    def begin(self, who: dict[str, Any]) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM kept")
            self._db.execute("DELETE FROM aside")
            self._put("identity", who)
            self._put("state", asdict(State()))
        self.empty = False

    def save(self, state: State, aside: list[str]) -> None:
        with self._transaction():
            self._db.executemany("INSERT INTO aside (line) VALUES (?)", [(line,) for line in aside])
            self._put("state", asdict(state))

    def aside_lines(self) -> Iterator[str]:
        for (line,) in self._db.execute("SELECT line FROM aside ORDER BY id"):
            yield line

    def close(self, remove: bool) -> None:
        if self.path and (remove or self.empty):
            with contextlib.suppress(sqlite3.Error):
                self._db.execute(
                    "PRAGMA journal_mode=MEMORY"
                )  # or SQLite would remove one by its name, once it is closed
            for end in ("-journal", ""):  # as long as it is locked: from then on they may be another run's
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self.path + end)
            self.empty = False
        self._db.close()

    def _put(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, json.dumps(value)))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise StreamError(f"cannot write the checkpoint {self.path}: {error}") from None


def left_beside(out: str, own: str | None) -> Checkpoint | None:
    """What a stopped run keeps beside `out`, where the run that has its checkpoint at `own` would write over its output.

    Raises StreamError where that run is under way.
    """
    path = checkpoint_beside(out)
    if (
        (own and os.path.realpath(own) == os.path.realpath(path))
        or not os.path.isfile(path)
        or not os.path.getsize(path)
    ):
        return None
    try:
        return Checkpoint(path)
    except NoCheckpoint:
        return None


def check_same(old: dict[str, Any], new: dict[str, Any], accept_functions: bool) -> None:
    """Raises StreamError, in one line, where a checkpoint is of another job than this one."""
    begin = "begin anew without resume"
    old_files, new_files = ({f["path"]: f for f in who["files"]} for who in (old, new))
    for path, mark in old_files.items():
        if path not in new_files:
            raise StreamError(f"the source had {path} when it was stopped; {begin}")
        if mark != new_files[path]:
            raise StreamError(f"{path} was changed since the run that was stopped; {begin}")
    if [f["path"] for f in old["files"]] != [f["path"] for f in new["files"]]:
        raise StreamError(f"the source has other files, or in another order, than the run that was stopped; {begin}")
    if [op[:2] for op in old["ops"]] != [op[:2] for op in new["ops"]]:
        was, now = (" ".join(op[1] for op in who["ops"]) or "no function" for who in (old, new))
        raise StreamError(f"the run that was stopped had other functions ({was}, not {now}); {begin}")
    for was, now in zip(old["ops"], new["ops"]):
        if was[2] != now[2] and not accept_functions:
            raise StreamError(
                f"{now[1]} was changed since the run that was stopped; {begin}, or accept the change with resume=changed"
            )
    for name, value in new["settings"].items():
        if old["settings"].get(name) != value:
            raise StreamError(
                f"{name} was {old['settings'].get(name)!r} in the run that was stopped, not {value!r}; {begin}"
            )
