"""lowtide.limit below a real cgroup of version 2, in a virtual machine: for machines whose memory controller is bound to version 1.

    python tests/cgroup2_vm.py KERNEL [--qemu qemu-system-x86_64]

KERNEL: a Linux with CONFIG_MEMCG and PSI, such as /boot/vmlinuz-…-cloud-amd64 of Debian's linux-image-cloud-amd64. Run it with a
Python that has lowtide installed. No part of `make test`: it takes some minutes, and a machine with qemu. Expect of `plain` that it
is killed (status -9, oom_kill 1), of the others status 0, `max 0`, and a `top` near 0.9.
"""

from __future__ import annotations

import argparse
import os
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

MIB = 1 << 20
APP = """
import json, sys, time
import lowtide
limited, top = sys.argv[1] == 'limited', 0
limit = lowtide.limit('100%') if limited else None
cache = lowtide.Cache(max_bytes='64GiB') if limited else {}
for i in range(20000):
    cache[i] = bytes([i % 255 + 1]) * 8000
    if i % 200 == 0:
        time.sleep(0.005)
        if limit: top = max(top, limit.state.used_bytes / limit.state.limit_bytes)
print(json.dumps({'kept': len(cache), 'top': round(top, 3), 'by': limit and limit.state.source, 'stats': limit and limit.stats}))
"""
INIT = """
import ctypes, os, subprocess, traceback
libc = ctypes.CDLL(None)
def put(path, text): open(path, 'w').write(text)
def go(name, files, mode):
    group = f'/sys/fs/cgroup/{name}'
    os.mkdir(group)
    for file, text in files.items(): put(f'{group}/{file}', text)
    enter = lambda: put(f'{group}/cgroup.procs', str(os.getpid()))
    done = subprocess.run([PYTHON, '/app.py', mode], preexec_fn=enter, capture_output=True, text=True)
    print(name, files, 'status', done.returncode, done.stdout.strip(), done.stderr.strip()[-500:])
    for file in ('memory.peak', 'memory.events', 'memory.pressure'):
        print('   ', file, ' '.join(open(f'{group}/{file}').read().split()), flush=True)
try:
    for kind, at in (('proc', '/proc'), ('sysfs', '/sys'), ('tmpfs', '/tmp'), ('cgroup2', '/sys/fs/cgroup')):
        libc.mount(kind.encode(), at.encode(), kind.encode(), 0, None)
    put('/sys/fs/cgroup/cgroup.subtree_control', '+memory')
    most, high = {'memory.max': str(120 << 20)}, {'memory.high': str(100 << 20)}
    go('plain', most, 'plain')
    go('limited', most, 'limited')
    go('high', high | most, 'limited')
    os.mkdir('/sys/fs/cgroup/above')
    put('/sys/fs/cgroup/above/memory.max', most['memory.max'])
    put('/sys/fs/cgroup/above/cgroup.subtree_control', '+memory')
    go('above/below', {}, 'limited')
except BaseException:
    traceback.print_exc()
libc.reboot(0x4321FEDC)
"""


class Archive:
    """The first file system, as the kernel unpacks it (cpio, newc)."""

    def __init__(self) -> None:
        self.data, self.names = bytearray(), set[str]()

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        if name in self.names:
            return
        if os.path.dirname(name):
            self.add(os.path.dirname(name), stat.S_IFDIR | 0o755)
        self.names.add(name)
        path = name.encode() + b"\0"
        fields = (len(self.names), mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        self.data += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self.data += b"\0" * (-len(self.data) % 4) + content
        self.data += b"\0" * (-len(self.data) % 4)

    def add_file(self, path: Path) -> None:
        self.add(str(path).lstrip("/"), stat.S_IFREG | 0o755, path.read_bytes())

    def add_program(self, path: Path) -> None:
        self.add_file(path)
        for word in subprocess.run(["ldd", path], capture_output=True, text=True).stdout.split():
            if word.startswith("/") and os.path.exists(word):
                self.add_file(Path(word))


def build() -> bytes:
    archive, python = Archive(), Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    archive.add_program(python.resolve())
    archive.add(
        "init", stat.S_IFREG | 0o755, f"#!{python.resolve()}\nPYTHON = {str(python.resolve())!r}\n{INIT}".encode()
    )
    app = f"import sys; sys.path.append({sysconfig.get_path('platlib')!r})\n{APP}"
    archive.add("app.py", stat.S_IFREG | 0o644, app.encode())
    library, package = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platlib")) / "lowtide"
    for root in (library, package):
        for path in root.rglob("*"):
            if {"site-packages", "test", "idlelib", "ensurepip"}.intersection(path.relative_to(root).parts):
                continue
            if path.is_file() and (root == package or path.suffix in (".py", ".so")):
                (archive.add_program if path.suffix == ".so" else archive.add_file)(path)
    for name in ("proc", "sys", "tmp"):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("TRAILER!!!", 0)
    return bytes(archive.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel")
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="command, with words of its own after spaces")
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile() as first:
        first.write(build())
        first.flush()
        machine = ["-accel", "tcg", "-cpu", "max", "-m", "1536", "-nographic", "-no-reboot", "-nic", "none"]
        words = ["-append", "console=ttyS0 psi=1 quiet panic=-1", "-kernel", options.kernel, "-initrd", first.name]
        raise SystemExit(subprocess.run([*options.qemu.split(), *machine, *words], stdin=subprocess.DEVNULL).returncode)


if __name__ == "__main__":
    main()
