"""What a program has open, who holds it and which line opened it; and the findings that tell of too much of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Lowtide, Python, Spawn
from test_attach import Attach, attach, interrupt  # noqa: F401
from test_package_inside import inside, package  # noqa: F401

OPEN = """
import mmap, os, select, socket, sqlite3, subprocess, sys, tempfile, threading
os.chdir(sys.argv[1])
log = open("app.log", "w")                                       # 4
def accept():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    return server, client, server.accept()[0]                    # 8
sockets = accept()
class Store: pass

store = Store(); store.db = sqlite3.connect("store.db")
store.cursor = store.db.execute("select 1")
store.closed = store.db.cursor(); store.closed.close()
ended = subprocess.Popen(["true"])
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
waited = subprocess.Popen(["true"]); waited.wait()
event = threading.Event()
worker = threading.Thread(target=event.wait, name="waits", daemon=True)
worker.start()                                                   # 20
late = threading.Thread(target=event.wait)
gone = open("gone.log", "wb")
gone.write(b"x" * 50000); gone.flush(); os.unlink("gone.log")
shared = mmap.mmap(-1, 1 << 20)
poll = select.epoll()
bare = os.open("bare.txt", os.O_CREAT | os.O_WRONLY)             # 26
closed = open("closed.log", "w"); closed.close()
"""

LEAKY = """
import os, socket, sqlite3, subprocess, sys, threading
os.chdir(sys.argv[1])
class App: pass
app = App()
app.logs, app.rows, app.jobs, app.workers, app.clients = [], [], [], [], []
db = sqlite3.connect(":memory:")
def rotate(i): app.logs.append(open(f"{i}.log", "w"))             # 8
def query(): app.rows.append(db.execute("select 1"))              # 9
stop = threading.Event()
def wait(): stop.wait()
def serve():
    app.workers.append(threading.Thread(target=wait, daemon=True))
    app.workers[-1].start()                                       # 14
for i in range(150): rotate(i)
for i in range(120): query()
for i in range(70): serve()
def job():
    app.jobs.append(subprocess.Popen(["true"]))                   # 19
    os.waitid(os.P_PID, app.jobs[-1].pid, os.WEXITED | os.WNOWAIT)
for i in range(12): job()
def client():
    ours = socket.create_connection(server.getsockname())
    app.clients.append(server.accept()[0])                        # 24
    ours.close()
server = socket.create_server(("127.0.0.1", 0))
for i in range(25): client()
app.big = open("big.log", "wb")                                   # 28
app.big.write(b"x" * (20 << 20)); app.big.flush(); os.unlink("big.log")
"""

HEALTHY = """
import os, queue, socket, sqlite3, subprocess, sys, tempfile, threading
os.chdir(sys.argv[1])
logs = [open(f"{i}.log", "w") for i in range(30)]
db = sqlite3.connect(":memory:")
for i in range(500): db.execute("select 1").fetchall()
jobs = queue.Queue()
def work():
    while True: jobs.get()
workers = [threading.Thread(target=work, daemon=True) for i in range(40)]
for t in workers: t.start()
server = socket.create_server(("127.0.0.1", 0), backlog=80)
clients = []
for i in range(80):
    ours = socket.create_connection(server.getsockname())
    clients.append((ours, server.accept()[0]))
for i in range(12): subprocess.run(["true"])
spool = tempfile.TemporaryFile(); spool.write(b"x" * (20 << 20)); spool.flush()
started = [threading.Thread(target=print, args=("",), kwargs={"end": ""}) for i in range(100)]
for t in started: t.start(); t.join()
"""

DRIVER = """
apilevel, paramstyle, threadsafety = "2.0", "qmark", 1
class Connection:
    def __init__(self): self._sock = object()
    def cursor(self): return Cursor(self)
    def close(self): self._sock = None
class Cursor:
    def __init__(self, connection): self.connection, self._closed = connection, False
    def close(self): self._closed = True
"""
DRIVEN = """
import sys; sys.path.insert(0, sys.argv[1])
import fakedb
first, second = fakedb.Connection(), fakedb.Connection()
rows = [first.cursor() for i in range(5)]
second.close(); rows[0].close()
class Cursor: pass      # of no driver
mine = Cursor()
"""


@pytest.fixture
def report(lowtide: Lowtide, tmp_path: Path) -> Any:
    def run(python: Path | str, code: str, *options: str) -> dict[str, Any]:
        program, place = tmp_path / "app.py", tmp_path / "place"
        program.write_text(code)
        place.mkdir()
        done = lowtide("run", *options, "--json", "--python", python, program, place)
        assert (done.status, done.stderr) == (0, ""), done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


def only(rows: list[dict[str, Any]], kind: str, **want: Any) -> dict[str, Any]:
    found = [row for row in rows if row["kind"] == kind and all(row[key] == value for key, value in want.items())]
    assert len(found) == 1, (kind, want, found)
    return found[0]


def line(row: dict[str, Any]) -> int | None:
    return row["opened_at"] and row["opened_at"]["line"]


def test_what_is_open_is_told_with_who_holds_it_and_who_opened_it(
    local_python: Python, report: Any, tmp_path: Path
) -> None:
    rows = report(local_python.executable, OPEN)["resources"]
    place = tmp_path / "place"
    log = only(rows, "file", name=str(place / "app.log"))
    assert (log["path"], line(log), log["note"], log["bytes"]) == ("log", 4, None, 0)
    sockets = sorted((r["note"], line(r)) for r in rows if r["kind"] == "socket")
    assert sockets == [("connected", 7), ("connected", 8), ("listening", 6)]
    assert {r["path"] for r in rows if r["kind"] == "socket"} == {f"sockets[{i}]" for i in range(3)}
    connected = only(rows, "socket", path="sockets[1]")["name"].split(" ")
    assert connected[::2] == ["tcp", "to"] and connected[3] == only(rows, "socket", note="listening")["name"][4:]
    assert only(rows, "connection")["path"] == "store.db"
    assert only(rows, "cursor")["path"] == "store.cursor"
    assert only(rows, "subprocess")["path"] == "ended" and only(rows, "subprocess")["note"] == "ended, not waited for"
    thread = only(rows, "thread", name="waits")
    assert (thread["path"], thread["note"], line(thread)) == ("worker", "daemon", 20)
    assert 4096 <= thread["bytes"] <= 1 << 20
    assert [r["name"] for r in rows if r["kind"] == "thread"].count("MainThread") == 1
    gone = only(rows, "file", note="deleted")
    assert (gone["name"], gone["path"]) == (str(place / "gone.log"), "gone")
    assert 50000 <= gone["bytes"] < 70000
    assert (only(rows, "mmap")["path"], only(rows, "mmap")["bytes"]) == ("shared", 1 << 20)
    assert only(rows, "epoll")["path"] == "poll"
    bare = only(rows, "file", name=str(place / "bare.txt"))
    assert (bare["path"], line(bare)) == (None, 26)
    assert not [
        r for r in rows if "closed.log" in (r["name"] or "") or "lowtide" in (r["name"] or "").rsplit("/", 1)[-1]
    ]


def test_too_much_that_is_open_is_a_finding_with_its_holder_and_its_line(local_python: Python, report: Any) -> None:
    answer = report(local_python.executable, LEAKY)
    findings = {f["path"]: f for f in answer["findings"] if f["kind"] in ("unclosed-resource", "thread-leak")}
    got = {path: (f["objects"], f["site"] and f["site"]["line"]) for path, f in findings.items()}
    assert got.pop("app.rows[…]")[0] == 120
    assert got.pop("app.jobs[…]")[0] == 12
    assert got == {
        "app.logs[…]": (150, 8),
        "app.workers[…]": (70, 14),
        "app.clients[…]": (25, 24),
        "app.big": (1, 28),
    }
    assert findings["app.workers[…]"]["kind"] == "thread-leak"
    assert "wait" in findings["app.workers[…]"]["title"]
    assert findings["app.big"]["bytes"] == 20 << 20
    stacks = sum(r["bytes"] for r in answer["resources"] if r["kind"] == "thread" and r["path"] != "MainThread")
    assert 70 * 4096 <= findings["app.workers[…]"]["bytes"] <= stacks + 70 * 4000


def test_a_healthy_program_has_neither_finding(local_python: Python, report: Any) -> None:
    answer = report(local_python.executable, HEALTHY)
    told = [f for f in answer["findings"] if f["kind"] in ("unclosed-resource", "thread-leak")]
    assert told == []
    assert len([r for r in answer["resources"] if r["kind"] == "thread" and r["opened_at"]]) == 40


def test_where_every_allocation_is_counted_cursors_and_children_have_their_line(report: Any) -> None:
    findings = report("python3", LEAKY, "--exact")["findings"]
    got = {f["path"]: f["site"]["line"] for f in findings if f["kind"] == "unclosed-resource"}
    assert (got["app.rows[…]"], got["app.jobs[…]"]) == (9, 19)


def test_cursors_of_any_db_api_module_are_told_unless_they_say_that_they_are_closed(
    report: Any, tmp_path: Path
) -> None:
    (tmp_path / "fakedb.py").write_text(DRIVER)
    rows = report("python3", DRIVEN.replace("sys.argv[1]", repr(str(tmp_path))))["resources"]
    assert sorted(r["path"] for r in rows if r["kind"] == "cursor") == [f"rows[{i}]" for i in range(1, 5)]
    assert only(rows, "connection")["path"] == "first"


def test_sql_and_the_text_of_the_report_tell_them_too(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LEAKY)
    (tmp_path / "place").mkdir()
    recording = tmp_path / "r.tide"
    done = lowtide("run", "-o", recording, tmp_path / "app.py", tmp_path / "place")
    section = done.stdout[done.stdout.index("OPEN RESOURCES") :].splitlines()
    assert section[1].split()[:5] == ["150", "file,", "opened", "at", "app.py:8:"]
    told = lowtide(
        "sql", recording, "select kind, note, count(*) n from resources group by 1, 2 having n > 20", "--json"
    )
    rows = json.loads(told.stdout)
    assert "closed by the peer" in told.stdout and rows


def test_a_dump_tells_the_programs_descriptors_and_not_the_agents(lowtide: Lowtide, tmp_path: Path) -> None:
    code = OPEN + 'print("ready", flush=True)\ninput()\n'
    program, recording = tmp_path / "app.py", tmp_path / "r.tide"
    program.write_text(code)
    with subprocess.Popen(
        [sys.executable, program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        numbers = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
        done = lowtide("dump", process.pid, "-o", recording)
        process.communicate("\n")
    assert done.status == 0, done.stderr
    rows = json.loads(lowtide("report", recording, "--json").stdout)["resources"]
    told = [r for r in rows if r["descriptor"] is not None and r["kind"] not in ("thread", "subprocess")]
    assert {r["descriptor"] for r in told} == numbers
    assert {r["path"] for r in rows if r["kind"] == "socket"} == {f"sockets[{i}]" for i in range(3)}
    assert only(rows, "thread", name="waits")["path"] == "worker"
    assert not [r for r in rows if r["kind"] == "thread" and "lowtide" in r["name"]]


LATER = """
import os, select, socket, sys
os.chdir(sys.argv[1])
before = open("before.log", "w")
kept = []
def grow():
    kept.append([{"i": i} for i in range(5000)])
    del kept[:-20]
def opens():
    return open("later.log", "w"), socket.socket(), os.pipe()             # 9
later = None
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
    if os.path.exists("go") and not later:
        later = opens()
        gone = open("gone", "w")
        number = gone.fileno()
        gone.close()
        again = os.dup(0)  # by fcntl, which is not watched: it has the number of what is gone
        os.rename("go", "done" if again == number else "strange")
print("still", flush=True)
"""


def test_attach_tells_of_what_is_opened_while_it_watches(
    target_python: Python,
    lowtide: Lowtide,
    attach: Attach,  # noqa: F811
    spawn: Spawn,
    tmp_path: Path,
) -> None:
    program = tmp_path / "app.py"
    program.write_text(LATER)
    target = spawn(target_python, program, str(tmp_path))
    out = tmp_path / "a.tide"
    watching = attach(target, out)
    (tmp_path / "go").touch()
    while not (tmp_path / "done").exists():
        assert target.process.poll() is None and not (tmp_path / "strange").exists()
        time.sleep(0.02)
    interrupt(watching)
    assert target.finish() == (0, "still\n")
    rows = json.loads(lowtide("report", out, "--json").stdout)["resources"]
    assert line(only(rows, "file", name=str(tmp_path / "before.log"))) is None
    assert line(only(rows, "file", name=str(tmp_path / "later.log"))) == 10
    assert [line(r) for r in rows if r["kind"] == "socket" and r["path"] and "later" in r["path"]] == [10]
    assert 12 not in [line(r) for r in rows]


def test_a_profile_from_inside_tells_of_what_was_opened_since(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = """
import json, os, subprocess, threading
import lowtide
def accepts(server): kept.append(server.accept())
import socket
kept, server = [], socket.create_server(("127.0.0.1", 0))
waits = threading.Thread(target=accepts, args=(server,), daemon=True); waits.start()
early = open("early.log", "w")
lowtide.start()
later = open("later.log", "w")
lowtide.stop("inside.tide")
lowtide.start(); lowtide.stop()
asked = "report", "inside.tide", "--json"
rows = json.loads(subprocess.run([os.environ["LOWTIDE_EXE"], *asked], capture_output=True, check=True).stdout)["resources"]
print(sorted((r["path"], r["opened_at"] and r["opened_at"]["line"]) for r in rows if r["kind"] == "file" and r["name"].endswith(".log")))
"""
    assert inside(local_python, package, lowtide_exe, code, tmp_path) == [("early", None), ("later", 10)]
