"""Holds the direction of dependency between the rooms of src/, and a few rules beside it.

Reads #include lines and the libraries that each room's CMakeLists.txt names. Prints one line for
each break of a rule, and exits with 1 if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Whom a room may know, beside itself. `include` is the public header of the recording's reader.
MAY_KNOW = {
    "base": set[str](),
    "include": set[str](),
    "format": {"base", "include"},
    "control": {"base"},
    "collect": {"base", "include", "format", "control"},
    "inject": {"base"},
    "agent": {"base", "include", "format", "control"},
    "explain": {"base", "include", "format"},
    "view": {"base", "include", "format", "explain"},
    "cli": {"base", "include", "format", "explain", "view", "control", "collect", "inject"},
    "keep": {"base"},
    "bind": {"base", "include", "format", "control", "collect", "agent", "explain", "keep"},
}
MAY_INCLUDE_PYTHON = {"agent", "bind", "keep"}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)
LIBRARY = re.compile(r"\blt_(\w+)")
# An address to download from, in whatever file: a machine's own configuration says where packages come from.
ADDRESS = re.compile(
    r"(?:https?|ftp)://[\w.-]*\b(?:deb|pypi|pip|npm|registry|mirrors?|maven|crates|goproxy|snapshot|files?)\b[\w.-]*",
    re.IGNORECASE,
)


def tracked() -> list[Path]:
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]


def room_of(include: str) -> str | None:
    """The room that an include names; None for the system's headers."""
    first = include.split("/")[0]
    if first == "lowtide":
        return "include"
    return first if "/" in include and first in MAY_KNOW else None


def check_source(name: str, room: str, text: str) -> list[str]:
    wrong = []
    for include in INCLUDE.findall(text):
        target = room_of(include)
        if target and target != room and target not in MAY_KNOW[room]:
            wrong.append(f"{name}: {room} must not know {target} (includes {include})")
        if include == "Python.h" and room not in MAY_INCLUDE_PYTHON:
            wrong.append(f"{name}: only {', '.join(sorted(MAY_INCLUDE_PYTHON))} include Python.h")
    if "PY_VERSION_HEX" in text and not name.startswith(("src/agent/runtime/", "src/keep/keep_compat.h")):
        wrong.append(f"{name}: PY_VERSION_HEX belongs in src/agent/runtime and src/keep/keep_compat.h alone")
    return wrong


def check_libraries(name: str, room: str, text: str) -> list[str]:
    part_of = {path.name: path.parent.name for path in (ROOT / "src").glob("*/*/")}
    linked = re.sub(r"lt_unit_test\s*\([^)]*\)", "", re.sub(r"#.*", "", text))
    rooms = {part_of.get(library, library) for library in LIBRARY.findall(linked)}
    return [
        f"{name}: {room} must not link with {other}"
        for other in sorted((rooms & set(MAY_KNOW)) - {room} - MAY_KNOW[room])
    ]


def check_unique(sources: list[str]) -> list[str]:
    first: dict[str, str] = {}
    wrong = []
    for name in sources:
        other = first.setdefault(Path(name).name, name)
        if other != name:
            wrong.append(f"{name}: file names are unique in src; there is {other}")
    return wrong


def main() -> int:
    wrong: list[str] = []
    sources = []
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{name}: download address {found}" for found in ADDRESS.findall(text)]
        parts = name.split("/")
        room = parts[1] if parts[0] == "src" else parts[0]
        if parts[0] not in {"src", "include"}:
            continue
        if room not in MAY_KNOW:
            wrong.append(f"{name}: {room} is no room; design.md and tools/lint_rooms.py list them")
        elif path.suffix in {".c", ".h"}:
            sources.append(name)
            wrong += check_source(name, room, text)
        elif path.name == "CMakeLists.txt":
            wrong += check_libraries(name, room, text)
    wrong += check_unique(sources)
    print("\n".join(wrong) if wrong else f"{len(sources)} files of C in order", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
