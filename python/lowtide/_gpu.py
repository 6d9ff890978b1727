"""What this process has on GPUs: by the driver, and by the caching allocators of torch and CuPy where those are loaded."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from lowtide import _core


class GpuCache(NamedTuple):
    """What an allocator of a library keeps on a device."""

    library: str
    """``torch`` or ``cupy``."""
    device: int
    used_bytes: int
    """In use by arrays."""
    cached_bytes: int
    """Held for the next arrays. :func:`lowtide.free` gives back what of it is whole blocks."""


class Gpu(NamedTuple):
    """One device, as NVIDIA's driver tells."""

    device: int
    name: str
    process_bytes: int | None
    """Of this process; None where the driver does not tell (in a container it may know other process numbers)."""
    used_bytes: int
    """By all processes."""
    total_bytes: int


class GpuMemory(NamedTuple):
    devices: list[Gpu]
    caches: list[GpuCache]


def _torch(torch: Any) -> list[GpuCache]:
    cuda = torch.cuda
    if not cuda.is_initialized():
        return []
    rows = []
    for device in range(cuda.device_count()):
        used, held = cuda.memory_allocated(device), cuda.memory_reserved(device)
        if held:
            rows.append(GpuCache("torch", device, used, held - used))
    return rows


def _cupy(cupy: Any) -> list[GpuCache]:
    rows = []
    for device in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(device):
            pool = cupy.get_default_memory_pool()
            if pool.total_bytes():
                rows.append(GpuCache("cupy", device, pool.used_bytes(), pool.free_bytes()))
    return rows


def append_to(fd: int) -> None:
    """Adds to the recording in ``fd`` what the driver and the caches tell."""
    told = gpu()
    rows = [(d.device, f"GPU {d.device}, {d.name}", "", d.process_bytes) for d in told.devices if d.process_bytes]
    rows += [
        (c.device, f"{c.library}'s cache on GPU {c.device}", f"beside {c.used_bytes} bytes in use", c.cached_bytes)
        for c in told.caches
    ]
    if rows:
        _core.gpu_append(fd, rows)


def gpu() -> GpuMemory:
    """What this process has on GPUs, now. Both lists are empty where there is no driver and none of the libraries is loaded.

    Devices are asked of the driver's library (NVML). torch and CuPy are asked where the program has imported them, and where
    CUDA is in use already: nothing is initialised for the question.
    """
    caches = []
    for name, ask in (("torch", _torch), ("cupy", _cupy)):
        if (module := sys.modules.get(name)) is not None:
            try:
                caches += ask(module)
            except Exception as error:  # another package's functions: the rest is told without it
                _core.report(error, ask)
    return GpuMemory([Gpu(*device) for device in _core.gpu()], caches)
