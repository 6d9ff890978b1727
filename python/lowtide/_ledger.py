"""Where this process's resident memory is, and giving back what nothing needs."""

from __future__ import annotations

import gc
import sys
import time

from lowtide import _core
from lowtide._record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class Line(Record):
    """A part of the resident memory."""

    name: str
    bytes: int
    """Resident."""
    returnable_bytes: int
    """What :func:`free` would give back of it now, without a collection."""
    note: str = ""
    """What it is, or what stands in the way; else empty."""


class Pin(Record):
    """What keeps arenas of Python's allocator that are less than a quarter full, by type.

    Each arena counts for the type that has most bytes in it, containers before what they hold. A recording of the heap tells more: the path to what holds them.
    """

    type: str
    objects: int
    """Of this type in such arenas; or ``(no object)`` for tables and other blocks that are none."""
    arenas: int
    bytes: int
    """Resident, of these arenas."""
    returnable_bytes: int
    """Of it, what :func:`free` gives back although the arenas stay."""
    path: str | None = None
    """What holds the objects, where it is known: with ``rss(owners=True)``."""


class Owner(Record):
    """An object that owns a large block or a mapping: an array, a buffer, a long text or list."""

    line: str
    """Name of the :class:`Line` that the memory is part of."""
    type: str
    path: str
    """To the object, as :func:`lowtide.why` tells it."""
    bytes: int
    """Resident."""


class Ledger(Record):
    """Where every resident byte of this process is. ``print`` shows it as a table."""

    rss_bytes: int
    """The sum of the lines, and of what ``/proc/self/smaps`` says."""
    swap_bytes: int
    """Swapped out: no part of the sum."""
    huge_page_bytes: int
    """In huge pages: within the sum."""
    lines: list[Line]
    """The last one is what is unexplained."""
    pins: list[Pin]
    """Most bytes first."""
    owners: list[Owner] | None = None
    """Most bytes first; None where they were not asked for."""

    def __str__(self) -> str:
        rows = []
        for line in self.lines:
            note = f" ({line.note})" if line.note else ""
            rows.append(f"{line.bytes / 2**20:10.1f} {line.returnable_bytes / 2**20:10.1f}  {line.name}{note}")
            owners = [owner for owner in self.owners or () if owner.line == line.name]
            rows += [f"{'':25}{owner.bytes / 2**20:.1f} {owner.type} {owner.path}" for owner in owners]
        return "\n".join(["       MiB returnable", *rows, f"{self.rss_bytes / 2**20:10.1f}             resident"])


def _told(row: dict[str, Any], *keys: str) -> list[Any]:
    return [row.get(key) for key in keys]


def _rss_with_owners() -> Ledger:
    from lowtide._inside import _explain

    told = _explain("rss")
    memory = told["memory"]
    return Ledger(
        memory["rss_bytes"],
        memory["swap_bytes"],
        memory["huge_page_bytes"],
        [Line(*_told(row, "name", "bytes", "returnable_bytes", "note")) for row in told["ledger"]],
        [Pin(*_told(row, "type", "objects", "arenas", "bytes", "returnable_bytes", "path")) for row in told["pins"]],
        [Owner(*_told(row, "layer", "type", "path", "bytes")) for row in told["owners"]],
    )


def rss(owners: bool = False) -> Ledger:
    """The ledger of this process, now: lines that add up to its resident memory as ``/proc/self/smaps`` has it.

    With ``owners=True`` also which objects own the large blocks and mappings, and what holds those that pin arenas: the
    process is captured as by :func:`lowtide.snapshot`, into memory, and explained by another process.

    Raises RuntimeError where this Python is none that lowtide knows, or /proc cannot be read; with owners also what
    :func:`lowtide.why` raises.
    """
    if owners:
        return _rss_with_owners()
    resident, swapped, huge, lines, pins = _core.ledger()
    return Ledger(resident, swapped, huge, [Line(*line) for line in lines], [Pin(*pin) for pin in pins])


class Layer(Record):
    """What one step of :func:`free` gave back."""

    name: str
    """``collect``, ``interpreter``, ``re``, ``linecache``, ``functools``, ``torch``, ``cupy``, ``pymalloc`` or ``malloc``."""
    returned_bytes: int
    """Resident bytes that went, as the system counts them; in a dry run, those that would."""
    note: str = ""
    """Why it could not be done, or what stays; else empty."""
    ms: float = 0.0
    """How long it took. Of what :func:`free` takes, ``collect`` is the part that ``gc.collect()`` would take as well."""


class Freed(Record):
    """What :func:`free` gave back, by layer, in the order of the steps."""

    returned_bytes: int
    layers: list[Layer]
    pause_ms: float
    """How long the steps held the GIL; the one that asks libc does not."""
    stays: list[str]
    """Why the rest stays, one line a reason."""


def _collect() -> str:
    found = gc.collect()
    return f"{found} unreachable objects" if found else ""


def _interpreter() -> str:
    for name in ("_clear_internal_caches", "_clear_type_cache"):  # the first is 3.13's, and does what the second does
        clear = getattr(sys, name, None)
        if clear is not None:
            clear()
            break
    return ""


def _re() -> str:
    module = sys.modules.get("re")
    if module is None:
        return "re is not imported"
    module.purge()
    return ""


def _linecache() -> str:
    module = sys.modules.get("linecache")
    if module is None:
        return "linecache is not imported"
    module.clearcache()
    return ""


def _functools() -> str:
    import functools

    kind = type(functools.lru_cache(lambda: None))
    cleared = 0
    for thing in gc.get_objects():
        if type(thing) is kind:
            cleared += thing.cache_info().currsize
            thing.cache_clear()
    return f"{cleared} cached results forgotten"


def _torch() -> str:
    cuda = sys.modules["torch"].cuda
    if not cuda.is_initialized():
        return "CUDA is not in use"
    before = cuda.memory_reserved()
    cuda.empty_cache()
    return f"{before - cuda.memory_reserved()} bytes of GPU memory given back"


def _cupy() -> str:
    cupy = sys.modules["cupy"]
    pool = cupy.get_default_memory_pool()
    before = pool.total_bytes()
    pool.free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
    return f"{before - pool.total_bytes()} bytes of GPU memory given back"


_CACHES: dict[str, Callable[[], str]] = {"re": _re, "linecache": _linecache, "functools": _functools}
_BLIND = "cannot be told beforehand"


def _measured(name: str, step: Callable[[], str], dry_run: bool) -> Layer:
    if dry_run:
        return Layer(name, 0, _BLIND)
    before = _core.rss_bytes()
    began = time.perf_counter()
    try:
        note = step()
    except Exception as error:  # another package's function: the ladder goes on without it
        note = f"failed: {type(error).__name__}: {error}"
    return Layer(name, max(0, before - _core.rss_bytes()), note, (time.perf_counter() - began) * 1000)


def _allocator(name: str, dry_run: bool) -> Layer:
    began = time.perf_counter()
    returned, note = _core.free_step(name, dry_run)
    return Layer(name, returned, note, (time.perf_counter() - began) * 1000)


def _steps(caches: Iterable[str]) -> list[tuple[str, Callable[[], str]]]:
    names = [caches] if isinstance(caches, str) else list(caches)
    for name in names:
        if name not in _CACHES:
            raise ValueError(f"no cache is known as {name!r}; there are {', '.join(_CACHES)}")
    steps = [(name, _CACHES[name]) for name in names]
    steps += [("collect", _collect), ("interpreter", _interpreter)]
    steps += [(name, step) for name, step in (("torch", _torch), ("cupy", _cupy)) if name in sys.modules]
    return steps


def free(dry_run: bool = False, caches: Iterable[str] = ()) -> Freed:
    """Give back to the system what nothing in this process needs, and tell what each step returned.

    In this order: the caches named in ``caches`` (``"re"``, ``"linecache"``, ``"functools"``: the results of every
    ``lru_cache``); a full collection; the interpreter's own caches; the caching allocators of torch and CuPy where they are
    in use; empty pools, and the free ends of others, in pymalloc's arenas; what the process's malloc holds free (glibc,
    jemalloc, mimalloc or tcmalloc, by that allocator's own means). Objects are not moved. What the program takes again
    costs it page faults.

    With ``dry_run=True`` nothing is done, and the layers tell what pymalloc and malloc would return; what a collection
    would return, and they after it, cannot be told beforehand.

    Raises ValueError for a cache that is not known, RuntimeError where this Python is none that lowtide knows.
    """
    steps = _steps(caches)
    began = time.perf_counter()
    before = _core.rss_bytes()
    layers = [_measured(name, step, dry_run) for name, step in steps]
    layers.append(_allocator("pymalloc", dry_run))
    pause_ms = (time.perf_counter() - began) * 1000
    layers.append(_allocator("malloc", dry_run))
    returned = sum(layer.returned_bytes for layer in layers) if dry_run else before - _core.rss_bytes()
    stays = [f"{layer.name}: {layer.note}" for layer in layers[-2:] if layer.note]
    return Freed(max(0, returned), layers, pause_ms, stays)
