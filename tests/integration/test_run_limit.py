"""`lowtide run --limit`: a program that knows nothing of it stays below, or leaves word of what held its memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python
from tide_decoder import Recording, read_recording

CYCLES = f"""
import gc, time
class Node:
    def __init__(self): self.me, self.data = self, bytearray(200_000)
def rss(): return int(open('/proc/self/statm').read().split()[1]) * 4096
gc.disable()
top = 0
for i in range(1200):
    Node()
    if i % 10 == 0:
        time.sleep(0.01)
        top = max(top, rss())
        deadline = time.monotonic() + {PATIENCE_S / 2}  # on a busy machine the watch may wait for its turn
        while rss() > 130 << 20:
            assert time.monotonic() < deadline, "the watch does not collect"
            time.sleep(0.01)
print(top)
"""
GROWS = """
import os, time
kept = []
while not os.path.exists('near.tide') and len(kept) < 3000:
    kept.append(bytes(100_000)); time.sleep(0.002)
deadline = time.monotonic() + 60
while os.path.getsize('near.tide') == 0 and time.monotonic() < deadline: time.sleep(0.01)
"""
FORKS = """
import os, subprocess, sys, threading, warnings
warnings.simplefilter('error')
for i in range(3):
    child = os.fork()
    if not child: os._exit(0)
    os.waitpid(child, 0)
code = 'import os; print([k for k in os.environ if k.startswith("LOWTIDE_RUN_L")])'
told = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip()
print(told, threading.active_count(), 'LOWTIDE_RUN_LIMIT' in os.environ)
"""
FORKS_IN_A_THREAD = """
import glob, os, threading, time, warnings
warnings.simplefilter('ignore')
def ours():
    names = []
    for path in glob.glob('/proc/self/task/*/comm'):
        with open(path) as f: names.append(f.read().strip())
    return names.count('lowtide')
def works():
    for _ in range(40):
        child = os.fork()
        if not child: os._exit(0)
        os.waitpid(child, 0)
    deadline = time.monotonic() + 60
    while not ours() and time.monotonic() < deadline: time.sleep(0.01)
    print(ours())
waits = threading.Thread(target=works)
waits.start()
waits.join()
"""
FORKS_AT_ONCE = """
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *n) {
    for (long i = 0; i < (long)n; i++) {
        pid_t child = fork();
        if (!child) _exit(0);
        waitpid(child, 0, 0);
    }
    return 0;
}
void forks(long threads, long each) {
    pthread_t all[16];
    for (long i = 0; i < threads; i++) pthread_create(&all[i], 0, work, (void *)each);
    for (long i = 0; i < threads; i++) pthread_join(all[i], 0);
}
"""
FORKS_WITHOUT_THE_GIL = (
    FORKS_IN_A_THREAD.partition("def works")[0]
    + """
import ctypes
ctypes.CDLL('./forks.so').forks(ctypes.c_long(4), ctypes.c_long(40))
deadline = time.monotonic() + 60
while ours() != 2 and time.monotonic() < deadline: time.sleep(0.01)
print(ours())
"""
)
TREE = """
import gc, multiprocessing, os, sys, time
class Node:
    def __init__(self): self.me, self.data = self, bytearray(200_000)
def own(pid):
    with open(f'/proc/{pid}/smaps_rollup') as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith('Pss:'))
def works(n):
    gc.disable()
    for i in range(n):
        Node()
        if i % 10 == 0: time.sleep(0.01)
def main(method):
    children = [multiprocessing.get_context(method).Process(target=works, args=(700,)) for _ in range(3)]
    for c in children: c.start()
    top = 0
    while any(c.is_alive() for c in children):
        try: top = max(top, sum(own(c.pid) for c in children))
        except (OSError, StopIteration): pass  # one has just ended
        time.sleep(0.02)
    print(top, [c.exitcode for c in children])
if __name__ == '__main__':
    main(sys.argv[1])
"""
# Once it is told that all have been seen, those that share end, and others come, in the midst of the recorder's looks.
SHARES = """
import os, signal, sys, time
shared = bytearray(b'x') * (60 << 20)
def fork():
    child = os.fork()
    if not child: signal.pause()
    return child
children = [fork() for _ in range(4)]
sys.stdin.readline()
for _ in range(6):
    for child in children: os.kill(child, signal.SIGTERM)
    for child in children: os.waitpid(child, 0)
    children = [fork() for _ in range(4)]
    time.sleep(0.1)
for child in children:
    os.kill(child, signal.SIGTERM); os.waitpid(child, 0)
"""
CHILD_GROWS = """
import subprocess, sys
grows = '''
import glob, os, time
kept = []
while not glob.glob('near.*.tide') and len(kept) < 3000:
    kept.append(bytes(100_000)); time.sleep(0.002)
deadline = time.monotonic() + 60
while not any(os.path.getsize(f) for f in glob.glob('near.*.tide')) and time.monotonic() < deadline: time.sleep(0.01)
print(os.getpid())
'''
subprocess.run([sys.executable, '-c', grows], env={})
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "app.py"


def test_garbage_goes_before_the_limit_and_the_recording_tells_when(
    local_python: Python, lowtide: Lowtide, write: Path
) -> None:
    write.write_text(CYCLES)
    done = lowtide(
        "run", "--limit", "120MiB", "-o", "r.tide", "--no-report", "--python", local_python.executable, write
    )
    assert (done.status, done.stderr) == (0, "")
    assert int(done.stdout) < 150 << 20 < 1200 * 200_000
    events = read_recording(Path("r.tide").read_bytes()).tables["events"]
    assert [e for e in events if str(e["text"]).startswith("near the memory limit")]


def test_near_the_limit_a_recording_says_what_holds_the_memory(
    local_python: Python, lowtide: Lowtide, write: Path
) -> None:
    write.write_text(GROWS)
    done = lowtide(
        "run", "--limit=80MiB", "--dump-near-limit=near.tide", "--no-report", "--python", local_python.executable, write
    )
    assert done.status == 0
    near = Path("near.tide").absolute()
    assert done.stderr.startswith("lowtide: ") and f"what holds them is in {near}: lowtide report {near}" in done.stderr
    told = json.loads(lowtide("report", "near.tide", "--json").stdout)
    assert told["heap"]["dominators"][0]["path"] == "kept"


def test_forks_warn_of_nothing_and_children_know_of_nothing(
    local_python: Python, lowtide: Lowtide, write: Path
) -> None:
    write.write_text(FORKS)
    python = local_python.executable
    done = lowtide("run", "--limit", "90%", "--dump-near-limit", "--no-report", "--python", python, write)
    assert (done.status, done.stdout, done.stderr) == (0, "[] 1 False\n", "")


def test_a_limit_holds_while_a_thread_forks_and_the_main_one_waits_for_it(
    local_python: Python, lowtide: Lowtide, write: Path
) -> None:
    write.write_text(FORKS_IN_A_THREAD)
    done = lowtide("run", "--limit", "90%", "--no-report", "--python", local_python.executable, write)
    assert (done.status, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_limit_holds_while_threads_without_the_gil_fork_at_once(
    local_python: Python, lowtide: Lowtide, write: Path
) -> None:
    cc = shutil.which("cc") or pytest.skip("no C compiler")
    (write.parent / "forks.c").write_text(FORKS_AT_ONCE)
    subprocess.run([cc, "-shared", "-fPIC", "-pthread", "-o", "forks.so", "forks.c"], check=True)
    write.write_text(FORKS_WITHOUT_THE_GIL)
    options = ["--limit", "90%", "--dump-near-limit", "--no-report", "--python", local_python.executable]
    done = lowtide("run", *options, write)
    assert (done.status, done.stdout, done.stderr) == (0, "2\n", "")


@pytest.mark.parametrize(
    "options, status, line",
    [
        (["--limit", "12 pounds"], 2, 'lowtide: "12 pounds" is no amount of memory'),
        (["--limit", "0"], 2, 'lowtide: "0" is no memory at all'),
        (["--limit=1GiB", "--dump-near-limit=no/such.tide"], 2, "lowtide: --dump-near-limit cannot write no/such.tide"),
        (["--dump-near-limit"], 2, "lowtide: --dump-near-limit needs a limit: add --limit SIZE"),
        (["--limit", "900TiB"], 0, "lowtide: no limit: a limit of 989560464998400 bytes is above the "),
    ],
)
def test_what_is_no_limit_is_said_in_one_line(
    options: list[str], status: int, line: str, lowtide: Lowtide, write: Path
) -> None:
    write.write_text("print('ran')")
    done = lowtide("run", *options, "--no-report", write)
    assert (done.status, done.stdout) == (status, "" if status else "ran\n")
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_a_program_have_the_limit_together(
    local_python: Python, lowtide: Lowtide, write: Path, method: str
) -> None:
    write.write_text(TREE)
    done = lowtide(
        "run", "--limit", "180MiB", "-o", "r.tide", "--no-report", "--python", local_python.executable, write, method
    )
    assert (done.status, done.stderr) == (0, "")
    top, _, statuses = done.stdout.partition(" ")
    assert statuses.strip() == "[0, 0, 0]"
    assert int(top) < 300 << 20 < 3 * 700 * 200_000
    events = read_recording(Path("r.tide").read_bytes()).tables["events"]
    acted = {e["process"] for e in events if "(all processes)" in str(e["text"])}
    assert len(acted) >= 3


def highest_rss(recording: Recording) -> dict[object, int]:
    tops: dict[object, int] = {}
    for row in recording.tables.get("timeline", []):
        tops[row["process"]] = max(tops.get(row["process"], 0), int(row["rss_bytes"]))
    return tops


def test_memory_that_forked_processes_share_counts_once(local_python: Python, lowtide_exe: Path, write: Path) -> None:
    write.write_text(SHARES)
    words = ["--limit", "200MiB", "-o", "r.tide", "--no-report", "--python", local_python.executable, write]
    run = subprocess.Popen([lowtide_exe, "run", *words], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and run.poll() is None:
        with contextlib.suppress(OSError, ValueError):  # not there yet, or in the midst of being written
            if len(highest_rss(read_recording(Path("r.tide.partial").read_bytes()))) == 5:
                break
        time.sleep(0.1)
    _, stderr = run.communicate(b"seen\n", timeout=PATIENCE_S)
    assert (run.returncode, stderr) == (0, b"")
    recording = read_recording(Path("r.tide").read_bytes())
    tops = highest_rss(recording)
    assert len(tops) >= 5 and sum(tops.values()) > 300 << 20
    assert not [e for e in recording.tables.get("events", []) if str(e["text"]).startswith("near the memory limit")]


def test_near_the_limit_the_largest_of_the_processes_leaves_word(
    local_python: Python, lowtide: Lowtide, write: Path
) -> None:
    write.write_text(CHILD_GROWS)
    done = lowtide(
        "run",
        "--limit=100MiB",
        "--dump-near-limit=near.tide",
        "--no-report",
        "--python",
        local_python.executable,
        write,
    )
    assert done.status == 0
    near = Path(f"near.{int(done.stdout)}.tide").absolute()
    assert f"(all processes) are in use; what holds them is in {near}" in done.stderr
    assert json.loads(lowtide("report", near, "--json").stdout)["heap"]["dominators"][0]["path"] == "kept"
    assert not Path("near.tide").exists()


def test_a_file_in_a_folder_that_takes_no_other_is_refused(lowtide_exe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "near.tide").touch()
    folder.chmod(0o555)
    # Root may write everywhere, but for this.
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    command = [*bound, lowtide_exe, "run", "--limit=1GiB", f"--dump-near-limit={folder}/near.tide", "true.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"lowtide: --dump-near-limit cannot write {folder}/near.tide: ")
