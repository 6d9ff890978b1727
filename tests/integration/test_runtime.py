"""The runtime room in every Python of this machine: it says what that Python says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, SID, Python

SOURCES = [
    REPOSITORY / "tests/integration/runtime_probe.c",
    *sorted((REPOSITORY / "src/agent/runtime").glob("*.c")),
    REPOSITORY / "src/base/err.c",
    REPOSITORY / "src/base/mem.c",
]
TARGET = REPOSITORY / "tests/integration/runtime_target.py"


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory, cc: str) -> Path:
    """The room as a shared object, under /tmp, where Pythons in the chroot see it too."""
    library = tmp_path_factory.mktemp("runtime") / "probe.so"
    flags = ["-std=gnu17", "-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{REPOSITORY}/src"]
    subprocess.run([cc, *flags, f"-I{REPOSITORY}/include", *SOURCES, "-o", library, "-ldl"], check=True)
    return library


def check(python: Python, probe: Path, *names: str) -> None:
    done = subprocess.run(
        python.command("-X", "faulthandler", TARGET, probe, *names), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_its_table_is_found_and_proven(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "facts", "other_tables")


def test_threads_are_those_that_threading_lists(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "threads")


def test_frames_lines_and_locals_are_those_of_current_frames(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "frames")


def test_what_only_an_evaluation_stack_holds_is_seen(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "stacks")


def test_a_class_that_is_being_called_confuses_nothing(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "constructors")


def test_heights_of_evaluation_stacks_are_those_that_frames_tell(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "heights")


def test_suspended_generators_and_coroutines_show_their_frames(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "generators")


def test_frame_objects_that_outlive_their_call_own_their_frame(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "frame_objects")


def test_the_collectors_lists_hold_what_gc_get_objects_tells(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "gc")


def test_objects_have_the_head_count_and_dict_that_python_sees(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "objects")


def test_roots_of_an_interpreter_are_found_by_name(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "roots", "handled_exception")


def test_subinterpreters_are_walked_apart(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "interpreters")


def test_a_wrong_table_is_refused_in_one_line_and_never_crashes(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "corrupted_tables")


def test_a_table_is_made_to_fit_when_the_collectors_state_has_grown(target_python: Python, probe: Path) -> None:
    check(target_python, probe, "adapted_tables")


def test_the_table_fits_in_a_forked_child(target_python: Python, probe: Path) -> None:
    code = f"import os, sys; pid = os.fork(); sys.argv = ['x', {str(probe)!r}, 'facts']"
    run = f"{code}\nif not pid: exec(open({TARGET.name!r}).read())\nelse: sys.exit(os.waitpid(pid, 0)[1])"
    folder = TARGET.parent if target_python.root is None else Path("/mnt/integration")
    done = subprocess.run(
        target_python.command("-c", f"import os; os.chdir({str(folder)!r})\n{run}"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_process_that_is_no_python_is_refused_in_one_line(tmp_path: Path, probe: Path, cc: str) -> None:
    program = tmp_path / "stranger.c"
    program.write_text(
        "#include <dlfcn.h>\n#include <stdio.h>\n"
        "int main(int n, char **v) { (void)n; void *h = dlopen(v[1], RTLD_NOW);\n"
        'const char *(*find)(void); *(void **)&find = dlsym(h, "probe_find"); puts(find()); return 0; }\n'
    )
    subprocess.run([cc, program, "-o", tmp_path / "stranger", "-ldl"], check=True)
    done = subprocess.run([tmp_path / "stranger", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "not a Python process: nothing in it defines _PyRuntime\n"


def test_a_python_in_a_library_of_its_own_is_found_and_waited_for(
    local_python: Python, tmp_path: Path, probe: Path, cc: str
) -> None:
    ask = "import sysconfig as s; print(s.get_config_var('LIBDIR') + '/' + str(s.get_config_var('INSTSONAME')))"
    library = Path(subprocess.check_output(local_python.command("-c", ask), text=True).strip())
    if ".so" not in library.name or not library.exists():
        pytest.skip(f"{local_python} has no shared library")
    program = tmp_path / "embedder.c"
    program.write_text(
        "#include <dlfcn.h>\n#include <stdio.h>\nint main(int n, char **v) { (void)n;\n"
        "void *p = dlopen(v[1], RTLD_NOW | RTLD_LOCAL), *h = dlopen(v[2], RTLD_NOW);\n"
        "const char *(*probe)(void); void (*start)(void);\n"
        '*(void **)&probe = dlsym(h, "probe_open"); *(void **)&start = dlsym(p, "Py_Initialize");\n'
        "puts(probe()); start(); puts(probe()); return 0; }\n"
    )
    subprocess.run([cc, program, "-o", tmp_path / "embedder", "-ldl"], check=True)
    done = subprocess.run([tmp_path / "embedder", library, probe], capture_output=True, text=True, check=True)
    assert done.stdout == "Python is not initialised yet; try again when it runs\n\n"


def test_a_python_that_is_too_old_is_refused_by_name(probe: Path) -> None:
    old = sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))
    if not old:
        pytest.skip("no CPython 3.10 here")
    ask = (
        "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).probe_find; f.restype = ctypes.c_char_p; print(f().decode())"
    )
    done = subprocess.run([old[0], "-c", ask, probe], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("CPython 3.10.")
    assert done.stdout.endswith("is not supported; lowtide observes 3.11 to 3.15\n")


def test_the_committed_tables_are_those_of_the_headers_at_hand() -> None:
    tool = REPOSITORY / "tools/layouts/measure.py"
    done = subprocess.run([sys.executable, tool, "--check", "--chroot", SID], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
