"""GPU memory, as NVIDIA's library tells and torch's and CuPy's allocators do. No GPU is needed: stand-ins with their layouts
and names prove the reading, not the driver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Python
from test_package_inside import inside, package  # noqa: F401

GIB = 1 << 30
STANDINS = """
import sys, types
def module(name, **names):
    m = types.ModuleType(name); m.__dict__.update(names); sys.modules[name] = m
    return m
class Cuda:
    used, held = [100, 0], [900, 0]
    def is_initialized(self): return True
    def device_count(self): return 2
    def memory_allocated(self, device=0): return self.used[device]
    def memory_reserved(self, device=0): return self.held[device]
    def empty_cache(self): self.held = list(self.used)
cuda = Cuda()
torch = module('torch', cuda=cuda)
class Pool:
    def __init__(self): self.free = 50
    def used_bytes(self): return 7
    def free_bytes(self): return self.free
    def total_bytes(self): return 7 + self.free
    def free_all_blocks(self): self.free = 0
class Device:
    def __init__(self, number): pass
    def __enter__(self): return self
    def __exit__(self, *raised): pass
pool, pinned = Pool(), Pool()
cupy = module('cupy', get_default_memory_pool=lambda: pool, get_default_pinned_memory_pool=lambda: pinned,
              cuda=types.SimpleNamespace(Device=Device, runtime=types.SimpleNamespace(getDeviceCount=lambda: 1)))
import lowtide
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).parent / "fake_nvml.c"
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", place / "libnvidia-ml.so.1", source], check=True)
    return place


def test_rss_tells_what_the_driver_says_of_the_process(
    driver: Path, lowtide_exe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout and p.stdout.readline() == "ready\n"
        environment = dict(os.environ, LD_LIBRARY_PATH=str(driver), FAKE_NVML_PID=str(p.pid))

        def rss(*options: str, **more: str) -> str:
            command = [lowtide_exe, "rss", str(p.pid), *options]
            return subprocess.run(
                command, env={**environment, **more}, capture_output=True, text=True, check=True
            ).stdout

        told = json.loads(rss("--json"))["gpu"]
        text = rss()
        broken = json.loads(rss("--json", FAKE_NVML_BROKEN="1"))["gpu"]
        p.communicate("\n")
    rest = {"used_bytes": 10 * GIB, "total_bytes": 80 * GIB}
    assert told == [
        {"device": 0, "name": "Fake GPU one", "process_bytes": None, **rest},
        {"device": 1, "name": "Fake GPU two", "process_bytes": 3 * GIB, **rest},
    ]
    assert "3.0 GiB" in text and "on GPU 1, Fake GPU two: 10.0 GiB of 80.0 GiB in use by all" in text
    assert "Fake GPU one" not in text
    assert broken == []


def test_caching_allocators_are_told_where_they_are_loaded_and_emptied_by_free(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = (
        STANDINS
        + """
before = [tuple(c) for c in lowtide.gpu().caches]
lowtide.free()
print((lowtide.gpu().devices, before, [tuple(c) for c in lowtide.gpu().caches]))
"""
    )
    answer: Any = inside(local_python, package, lowtide_exe, code, tmp_path)
    assert answer[1:] == (
        [("torch", 0, 100, 800), ("cupy", 0, 7, 50)],
        [("torch", 0, 100, 0), ("cupy", 0, 7, 0)],
    )


def gpu_rows(lowtide_exe: Path, file: Path) -> list[tuple[Any, ...]]:
    done = subprocess.run([lowtide_exe, "report", file, "--json"], capture_output=True, text=True, check=True)
    rows = [row for row in json.loads(done.stdout)["resources"] if row["kind"] == "gpu"]
    return [(row["name"], row["descriptor"], row["bytes"], row["note"]) for row in rows]


def test_recordings_of_dump_attach_and_run_hold_a_row_for_each_device_in_use(
    driver: Path, lowtide_exe: Path, tmp_path: Path
) -> None:
    wanted = [("GPU 1, Fake GPU two", 1, 3 * GIB, None)]
    environment = dict(os.environ, LD_LIBRARY_PATH=str(driver), FAKE_NVML_PID=str(tmp_path / "pid"))
    code = "import os, sys; open('pid', 'w').write(str(os.getpid())); print('ready', flush=True); "
    with subprocess.Popen(
        [sys.executable, "-c", code + "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as p:
        assert p.stdout and p.stdout.readline() == "ready\n"
        for words in (["dump", str(p.pid)], ["attach", str(p.pid), "--for", "1ms"]):
            file = tmp_path / f"{words[0]}.tide"
            subprocess.run(
                [lowtide_exe, *words, "-o", file], env=environment, check=True, capture_output=True, cwd=tmp_path
            )
            assert gpu_rows(lowtide_exe, file) == wanted
        p.communicate("\n")
    command = [lowtide_exe, "run", "--no-report", "-o", tmp_path / "run.tide", "--", sys.executable, "-c", code]
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=tmp_path)
    assert gpu_rows(lowtide_exe, tmp_path / "run.tide") == wanted
    text = subprocess.run([lowtide_exe, "report", tmp_path / "run.tide"], capture_output=True, text=True).stdout
    assert "GPU 1, Fake GPU two" in text and "3.0 GiB" in text, text


def test_a_snapshot_from_inside_holds_what_the_caches_have(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = STANDINS + "print(lowtide.snapshot('a.tide').file_bytes)"
    size = inside(local_python, package, lowtide_exe, code, tmp_path)
    assert size == (tmp_path / "a.tide").stat().st_size
    assert gpu_rows(lowtide_exe, tmp_path / "a.tide") == [
        ("torch's cache on GPU 0", 0, 800, "beside 100 bytes in use"),
        ("cupy's cache on GPU 0", 0, 50, "beside 7 bytes in use"),
    ]
