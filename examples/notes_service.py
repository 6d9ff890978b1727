"""A small notes service with three leaks that real services have.

It serves notes rendered to HTML, imports CSV files, and parses documents into trees. Each of the three keeps memory
that it should not; the demo (examples/demo.sh) sends it traffic and asks lowtide who holds what.
"""

import gc
import sys
import threading

from flask import Flask, request
from werkzeug.serving import make_server

app = Flask(__name__)


class Render:
    """A note as HTML, with the words that the search page looks through."""

    def __init__(self, user: str, text: str) -> None:
        self.user = user
        self.html = "<article>" + "".join(f"<p>{text} {i}</p>" for i in range(120)) + "</article>"
        self.words = self.html.split()


class Node:
    """A part of a document; children know their parent."""

    def __init__(self, parent: "Node | None", text: str) -> None:
        self.parent = parent
        self.text = text
        self.children: list[Node] = []


render_cache: dict[tuple[str, str], Render] = {}
failures: list[Exception] = []


@app.get("/note/<user>")
def note(user: str) -> str:
    # The leak: the key holds the time of the request, so no entry is ever asked for again.
    key = (user, request.args.get("at", ""))
    if key not in render_cache:
        render_cache[key] = Render(user, f"A note of {user}")
    return render_cache[key].html


@app.post("/import")
def import_csv() -> tuple[str, int]:
    try:
        return str(total_of(request.get_data())), 200
    except ValueError as error:
        # The leak: an exception keeps its traceback, the traceback its frames, and a frame all the rows.
        failures.append(error)
        return "cannot read that file", 400


def total_of(data: bytes) -> int:
    rows = [line.split(b",") for line in data.splitlines()]
    return sum(int(row[1]) for row in rows)


@app.post("/outline")
def outline() -> str:
    # The leak: a tree whose nodes know their parent is a cycle, and the collector is off "for latency".
    root = Node(None, "document")
    for line in request.get_data(as_text=True).splitlines():
        root.children.append(Node(root, line))
    return str(len(root.children))


if __name__ == "__main__":
    gc.disable()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(f"ready on port {server.server_port}", flush=True)
    threading.Thread(target=server.serve_forever, name="server").start()
    sys.stdin.read()
    server.shutdown()
