"""What pip installs: the package, the agent inside it, and the executable, which finds the agent."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import Python, Spawn

EXECUTABLE = Path(sys.prefix) / "bin/lowtide"
AGENT = Path(sysconfig.get_path("platlib")) / "lowtide/lowtide-agent.so"

pytestmark = pytest.mark.skipif(not EXECUTABLE.exists(), reason="make build installs lowtide")


def test_the_installed_executable_finds_its_agent_and_dumps(spawn: Spawn, this_python: Python, tmp_path: Path) -> None:
    target = spawn(this_python, "rows = [str(i) for i in range(1000)]")
    file = tmp_path / "t.tide"
    command = [EXECUTABLE, "dump", str(target.pid), "-o", file]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert file.stat().st_size > 10_000
    assert target.finish() == (0, "")


def test_the_agent_exports_its_start_leave_mark_exec_and_exit_alone_and_needs_libc_alone() -> None:
    symbols = subprocess.check_output(["nm", "-D", "--defined-only", AGENT], text=True)
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert {name for name in names if not re.match("f?exec(l|v)|posix_spawnp?$|_[eE]xit$", name)} == {
        "agent_leave",
        "agent_start",
        "lowtide_mark",
    }
    dynamic = subprocess.check_output(["readelf", "-dW", AGENT], text=True)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
    assert needed <= {"libc.so.6", "ld-linux-x86-64.so.2"}
    undefined = subprocess.check_output(["nm", "-D", "--undefined-only", AGENT], text=True)
    assert not re.findall(r"\b_?Py\w*", undefined)


def test_the_package_is_typed_and_imports(tmp_path: Path) -> None:
    code = "import lowtide, pathlib; print((pathlib.Path(lowtide.__file__).parent / 'py.typed').exists())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_wheel_is_for_one_python_by_the_extension_behind_the_cache_alone() -> None:
    names = {path.name for path in AGENT.parent.glob("*.so")}
    assert names == {"lowtide-agent.so", "_core.abi3.so", "_keep" + sysconfig.get_config_var("EXT_SUFFIX")}
    wheel = next(AGENT.parent.parent.glob("lowtide-*.dist-info/WHEEL")).read_text()
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"Tag: {tag}-{tag}-linux_x86_64" in wheel
