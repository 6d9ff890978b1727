#!/usr/bin/env python3
"""Measure CPython's structures and write src/agent/runtime/layout_tables.c and opcode_tables.c.

    python3 tools/layouts/measure.py            measure with every set of headers at hand, keep the columns of others
    python3 tools/layouts/measure.py --check    compare the committed tables with the headers at hand; exit 1 on a difference

The list of what to measure is src/agent/runtime/layout_fields.h. For each version and flavour a probe is compiled against that
version's own internal headers and run; nothing of Python itself is run or linked. Headers come from pyenv, from the system and
from a chroot (--chroot DIR, by default $LOWTIDE_SID or /opt/lowtide/sid). Where a version's debug headers are not to be had,
its release headers with Py_DEBUG defined serve: in pyconfig.h the two differ in that macro alone. From 3.15 on a build with
the JIT compiler is laid out otherwise; that is a matter of the compiler's command line, so both are measured.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ROOT / "src/agent/runtime/layout_fields.h"
TABLES = ROOT / "src/agent/runtime/layout_tables.c"
OPCODES = ROOT / "src/agent/runtime/opcode_tables.c"
SUPPORTED = range(11, 16)
ABSENT = "NONE"

INTERNAL = """
ast_state atexit call ceval code context descrobject dict dict_state exceptions floatobject frame function gc genobject
global_objects import instruments interp interpframe interpframe_structs interp_structs list long lock memoryobject
moduleobject namespace object obmalloc pyerrors pylifecycle pymem pystate runtime runtime_structs setobject signal
sliceobject stackref structs structseq tstate tuple typeobject typevarobject unicodeobject unionobject warnings weakref
debug_offsets gil hamt initconfig opcode opcode_metadata optimizer llist interpolation template lazyimportobject
""".split()

# Types that were renamed; a field's line names the later one.
ALIASES = (
    "#if PY_VERSION_HEX < 0x030c0000",
    "typedef atexit_callback atexit_py_callback;",
    "#elif PY_VERSION_HEX < 0x030d0000",
    "typedef static_builtin_state managed_static_type_state;",
    "#endif",
)


@dataclass(frozen=True)
class Headers:
    """One version and flavour: the folder of Python.h and what the compiler needs besides."""

    include: Path
    flags: tuple[str, ...]
    hex: int
    debug: bool
    jit: bool = False

    @property
    def label(self) -> str:
        h = self.hex
        level = {0xA: "a", 0xB: "b", 0xC: "rc"}.get(h >> 4 & 15, "")
        text = f"{h >> 24}.{h >> 16 & 255}.{h >> 8 & 255}" + (f"{level}{h & 15}" if level else "")
        return text + ("d" if self.debug else "") + ("+jit" if self.jit else "")


@dataclass(frozen=True)
class Field:
    kind: str  # FIELD, SIZE, CONST, BITS
    name: str
    type: str
    choices: tuple[str, ...]

    def bodies(self) -> list[str]:
        """One C function body for each thing to try."""
        if self.kind == "FIELD":
            return [f"return (long long)offsetof({self.type}, {m});" for m in self.choices]
        if self.kind == "SIZE":
            return [f"return (long long)sizeof({t});" for t in (self.type, *self.choices)]
        if self.kind == "CONST":
            return [f"return (long long)({e});" for e in (self.type, *self.choices)]
        return [
            f"{self.type} v; memset(&v, 0, sizeof v); v.{m} = ~v.{m}; return bits((unsigned char *)&v, sizeof v);"
            for m in self.choices
        ]


def split_arguments(text: str) -> list[str]:
    parts, depth, last = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(text[last:i].strip())
            last = i + 1
    return [*parts, text[last:].strip()]


def read_fields() -> list[Field]:
    text = re.sub(r"/\*.*?\*/", " ", FIELDS.read_text(), flags=re.S)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    fields = []
    for m in re.finditer(r"LAYOUT_(FIELD|SIZE|CONST|BITS)\s*\(", text):
        depth, end = 1, m.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        name, first, *rest = split_arguments(" ".join(text[m.end() : end - 1].split()))
        fields.append(Field(m[1], name, first, tuple(rest)))
    names = [f.name for f in fields]
    if twice := {n for n in names if names.count(n) > 1}:
        sys.exit(f"error: {FIELDS.name} names twice: {', '.join(sorted(twice))}")
    return fields


def macro(include: Path, flags: tuple[str, ...], *names: str) -> list[str]:
    source = "#include <patchlevel.h>\n#include <pyconfig.h>\n" + "\n".join(f"@{i} {n}" for i, n in enumerate(names))
    out = subprocess.run(
        ["gcc", "-E", "-P", f"-I{include}", *flags, "-"], input=source, text=True, capture_output=True, check=True
    ).stdout
    return [re.search(rf"^@{i} (.*)$", out, re.M)[1].strip() for i in range(len(names))]  # type: ignore[index]


def find_headers(chroot: Path) -> list[Headers]:
    places: list[tuple[Path, tuple[str, ...]]] = []
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for minor in SUPPORTED:
        places += [(p, ()) for p in sorted(pyenv.glob(f"versions/3.{minor}.*/include/python3.{minor}*"))]
        for base in (Path("/usr"), Path("/usr/local"), chroot / "usr"):
            # Debian's pyconfig.h includes one from the folder of the architecture.
            extra = ("-idirafter", str(base / "include")) if base != Path("/usr") else ()
            places += [(p, extra) for p in sorted(base.glob(f"include/python3.{minor}*"))]
    found: dict[tuple[int, bool], Headers] = {}
    for include, flags in places:
        if not (include / "internal/pycore_interp.h").exists():
            continue
        *parts, debug_macro, no_gil = macro(
            include, flags, "PY_MAJOR_VERSION", "PY_MINOR_VERSION", "PY_MICRO_VERSION", "PY_RELEASE_LEVEL",
            "PY_RELEASE_SERIAL", "Py_DEBUG", "Py_GIL_DISABLED",
        )  # fmt: skip
        if no_gil == "1":
            continue
        major, minor_, micro, level, serial = (int(p, 0) for p in parts)
        version, debug = major << 24 | minor_ << 16 | micro << 8 | level << 4 | serial, debug_macro != "Py_DEBUG"
        found.setdefault((version, debug), Headers(include, flags, version, debug))
    for version, _ in list(found):
        if (version, True) not in found:
            h = found[version, False]
            found[version, True] = Headers(h.include, (*h.flags, "-DPy_DEBUG=1"), version, True)
    jit = [
        Headers(h.include, (*h.flags, "-D_Py_TIER2=3", "-D_Py_JIT"), h.hex, h.debug, True)
        for h in found.values()
        if h.hex >> 16 & 255 >= 15
    ]
    return sorted([*found.values(), *jit], key=lambda h: (h.hex, h.debug, h.jit))


def probe_source(
    headers: Headers, fields: list[Field], dropped: set[tuple[int, int]]
) -> tuple[str, dict[int, tuple[int, int]]]:
    lines = ["#define Py_BUILD_CORE 1", "#define _GNU_SOURCE 1", "#include <Python.h>", "#include <frameobject.h>"]
    lines += [
        f'#include "internal/pycore_{n}.h"' for n in INTERNAL if (headers.include / f"internal/pycore_{n}.h").exists()
    ]
    lines += [
        "#include <structmember.h>",
        "#include <stddef.h>",
        "#include <stdio.h>",
        "#include <string.h>",
        *ALIASES,
        "static long long bits(const unsigned char *p, size_t n) {",
        "    long long first = -1, width = 0;",
        "    for (size_t i = 0; i < 8 * n; i++)",
        "        if (p[i / 8] >> i % 8 & 1) { if (first < 0) first = (long long)i; width++; }",
        "    return first | width << 24;",
        "}",
    ]
    where: dict[int, tuple[int, int]] = {}
    calls = []
    for i, field in enumerate(fields):
        for j, body in enumerate(field.bodies()):
            if (i, j) in dropped:
                continue
            lines.append(f"static long long f_{i}_{j}(void) {{ {body} }}")
            where[len(lines)] = (i, j)
            calls.append(f'    printf("{i} {j} %lld\\n", f_{i}_{j}());')
    return "\n".join([*lines, "int main(void) {", *calls, "    return 0;", "}", ""]), where


def measure(headers: Headers, fields: list[Field], folder: Path) -> list[str]:
    """The value of each field, as text of C, or NONE."""
    compile_ = ["gcc", "-std=gnu11", "-w", "-fmax-errors=0", f"-I{headers.include}", f"-I{headers.include}/internal"]
    source, program = folder / "probe.c", folder / "probe"
    dropped: set[tuple[int, int]] = set()
    while True:
        text, where = probe_source(headers, fields, dropped)
        source.write_text(text)
        # Nothing is linked with Python: inline functions of its headers that need it are thrown away.
        run = subprocess.run(
            [*compile_, *headers.flags, "-O1", "-ffunction-sections", "-Wl,--gc-sections",
             "-Wl,--unresolved-symbols=ignore-all", str(source), "-o", str(program)],
            text=True, capture_output=True,
        )  # fmt: skip
        if run.returncode == 0:
            break
        bad = {where.get(int(m[1])) for m in re.finditer(r"probe\.c:(\d+):\d+: error:", run.stderr)}
        if None in bad or not bad or bad <= dropped:
            sys.exit(f"error: the probe for {headers.label} does not compile:\n{run.stderr[:4000]}")
        dropped |= {b for b in bad if b}
    values = [ABSENT] * len(fields)
    taken: dict[int, int] = {}
    for line in subprocess.run([program], text=True, capture_output=True, check=True).stdout.splitlines():
        i, j, value = map(int, line.split())
        if i in taken:
            continue
        if not -(2**31) < value < 2**31:
            sys.exit(f"error: {fields[i].name} is {value} in {headers.label}: does not fit int32_t")
        taken[i], values[i] = j, str(value)
    return values


# Bits of opcode_tables.c beside the number of cache units (opcode_tables.h says the same).
FORWARD, BACKWARD, ENDS = 0x10, 0x20, 0x40
LAST_WITHOUT_STACK_POINTER = 13  # later versions write a frame's stack pointer whenever they leave the loop


def opcode_flags(name: str) -> int:
    flags = BACKWARD if "JUMP_BACKWARD" in name else FORWARD if "JUMP" in name or name in ("FOR_ITER", "SEND") else 0
    ends = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "INTERPRETER_EXIT"}
    return flags | (ENDS if name in ends or re.fullmatch(r"JUMP_(FORWARD|BACKWARD\w*)", name) else 0)


def measure_opcodes(headers: Headers, folder: Path) -> str:
    """The rows of one version: for each opcode what it is when not specialised, and what follows it."""
    names = "".join(
        (headers.include / f).read_text() for f in ("opcode.h", "opcode_ids.h") if (headers.include / f).exists()
    )
    number = {m[1]: int(m[2]) for m in re.finditer(r"^#\s*define ([A-Z]\w+)\s+(\d+)$", names, re.M)}
    name_of = {v: k for k, v in number.items() if v < 256 and k not in ("HAVE_ARGUMENT", "MIN_INSTRUMENTED_OPCODE")}
    source, program = folder / "opcodes.c", folder / "opcodes"
    included = [f for f in ("opcode", "opcode_metadata") if (headers.include / f"internal/pycore_{f}.h").exists()]
    source.write_text(
        "#define Py_BUILD_CORE 1\n#define NEED_OPCODE_TABLES\n#define NEED_OPCODE_METADATA\n#include <Python.h>\n"
        + "".join(f'#include "internal/pycore_{f}.h"\n' for f in included)
        + "int main(void) { for (int i = 0; i < 256; i++)\n"
        '    printf("%d %d\\n", _PyOpcode_Deopt[i], _PyOpcode_Caches[_PyOpcode_Deopt[i]]); }\n'
    )
    flags = [f"-I{headers.include}", f"-I{headers.include}/internal", *headers.flags]
    link = ["-O1", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Wl,--unresolved-symbols=ignore-all"]
    subprocess.run(["gcc", "-w", *flags, *link, source, "-o", program], check=True)
    out = subprocess.run([program], text=True, capture_output=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in out.splitlines()]
    base = [d for d, _ in pairs]
    after = [caches | opcode_flags(name_of.get(d, "")) for d, caches in pairs]
    rows = [f"    {{.minor = {headers.hex >> 16 & 255},"]
    for member, values in (("base", base), ("after", after)):
        lines = ["        " + ", ".join(f"{v:3}" for v in values[i : i + 16]) + "," for i in range(0, 256, 16)]
        rows += [f"     .{member} = {{", *lines, "     },"]
    return "\n".join(
        [
            *rows,
            f"     .return_generator = {number['RETURN_GENERATOR']},",
            f"     .extended_arg = {number['EXTENDED_ARG']},",
            f"     .call = {number['CALL']},",
            f"     .instrumented = {number.get('MIN_INSTRUMENTED_OPCODE', 256)}}},",
        ]
    )


def opcode_source(at_hand: list[Headers], folder: Path) -> str | None:
    """opcode_tables.c, or None where a version's headers are missing."""
    newest = {h.hex >> 16 & 255: h for h in at_hand if not h.debug and not h.jit}
    minors = range(SUPPORTED.start, LAST_WITHOUT_STACK_POINTER + 1)
    if any(m not in newest for m in minors):
        return None
    head = [
        "/* Written by tools/layouts/measure.py from each version's own headers: do not edit. */",
        '#include "agent/runtime/opcode_tables.h"',
        "",
        "/* clang-format off */",
        "const opcode_table_t opcode_tables[] = {",
    ]
    tables = [measure_opcodes(newest[m], folder) for m in minors]
    return "\n".join(
        [*head, *tables, "};", "const size_t opcode_table_count = sizeof opcode_tables / sizeof *opcode_tables;", ""]
    )


Column = tuple[int, bool, str]  # hex, debug, label


def read_tables() -> tuple[list[Column], dict[str, list[str]]]:
    """The committed columns, and the row of each field."""
    if not TABLES.exists():
        return [], {}
    text = TABLES.read_text()
    columns = [(int(m[1], 16), m[2] == "1", m[3]) for m in re.finditer(r"TABLE\((0x\w+), (\d), \"(\S+)\"", text)]
    rows = {m[1]: m[2].replace(" ", "").split(",") for m in re.finditer(r"^    V\((\w+),(.*)\) \\$", text, re.M)}
    return columns, rows


def write_tables(columns: list[Column], rows: dict[str, list[str]]) -> None:
    n = len(columns)
    name_width = max(len(name) for name in rows) + 1
    widths = [max(len(c[2]), *(len(r[i]) for r in rows.values())) for i, c in enumerate(columns)]
    out = [
        "/* Written by tools/layouts/measure.py from layout_fields.h and each version's own headers: do not edit. */",
        '#include "agent/runtime/layout.h"',
        "",
        "/* clang-format off */",
        "#define NONE LAYOUT_ABSENT",
        "#define ROWS(V) \\",
        "    /* " + "".ljust(name_width - 1) + "  ".join(c[2].rjust(w) for c, w in zip(columns, widths)) + " */ \\",
    ]
    for name, row in rows.items():
        cells = ", ".join(v.rjust(w) for v, w in zip(row, widths))
        out.append(f"    V({(name + ',').ljust(name_width)} {cells}) \\")
    out += ["    /* end */", ""]
    letters = [f"v{i}" for i in range(n)]
    out += [f"#define PICK_{i}(name, {', '.join(letters)}) .name = v{i}," for i in range(n)]
    out += [
        "#define TABLE(hex, is_debug, text, pick) {.version = hex, .debug = is_debug, .label = text, ROWS(pick)},",
        "",
        "const layout_t layout_tables[] = {",
        *(f'    TABLE({c[0]:#010x}, {int(c[1])}, "{c[2]}", PICK_{i})' for i, c in enumerate(columns)),
        "};",
        "const size_t layout_table_count = sizeof layout_tables / sizeof layout_tables[0];",
        "",
    ]
    TABLES.write_text("\n".join(out))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--chroot", type=Path, default=Path(os.environ.get("LOWTIDE_SID", "/opt/lowtide/sid")))
    options = parser.parse_args()
    fields = read_fields()
    old_columns, old_rows = read_tables()
    at_hand = find_headers(options.chroot)
    if not at_hand:
        print("no internal headers of CPython 3.11 to 3.15 at hand: nothing measured")
        return 0
    measured: dict[Column, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for h in at_hand:
            measured[h.hex, h.debug, h.label] = measure(h, fields, Path(folder))
        opcodes = opcode_source(at_hand, Path(folder))

    columns = sorted({*old_columns, *measured} if not options.check else {*old_columns})
    problems = []
    rows: dict[str, list[str]] = {}
    for i, f in enumerate(fields):
        row = []
        for c in columns:
            old = old_rows[f.name][old_columns.index(c)] if f.name in old_rows and c in old_columns else None
            new = measured[c][i] if c in measured else None
            if options.check and new != old and new is not None:
                problems.append(f"{f.name} of {c[2]}: the table says {old}, the headers {new}")
            if new is None and old is None:
                problems.append(f"{f.name}: no headers of {c[2]} at hand to measure it with")
            row.append(new or old or ABSENT)
        rows[f.name] = row
        if all(v == ABSENT for v in row):
            problems.append(f"{f.name}: no version has it; a mistyped line of {FIELDS.name}?")
    if opcodes is None:
        print("headers of 3.11, 3.12 or 3.13 are missing: opcode_tables.c is kept as it is")
    elif options.check and opcodes != OPCODES.read_text():
        problems.append(f"{OPCODES.name} is not what the headers give")
    for c in columns:
        if c not in measured:
            print(f"no headers of {c[2]} at hand: its column is kept as it is")
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    if not options.check:
        write_tables(columns, rows)
        if opcodes:
            OPCODES.write_text(opcodes)
    verdict = ": as committed" if options.check else ""
    print(f"{len(fields)} fields of {', '.join(c[2] for c in sorted(measured))}{verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
