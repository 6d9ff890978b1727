#!/usr/bin/env bash
# Sets up what make needs: Debian's packages where some are missing, and the virtual environment .venv.
# Anywhere but on Debian it changes nothing outside the repository: it names what is missing and stops.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(gcc libc6-dev make git cmake ninja-build clang libclang-rt-dev shellcheck binutils util-linux procps
    debootstrap ca-certificates libjemalloc2 libmimalloc2.0 libtcmalloc-minimal4 libcmocka-dev libzstd-dev libxxhash-dev libsqlite3-dev libdw1)
python_packages=(python3 python3-venv python3-dev)
requirements=tools/requirements.txt

say() { printf 'lowtide: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Prints the first Python that can make a virtual environment and has its headers: $PYTHON, the one on PATH, the system's.
find_python() {
    local python
    for python in ${PYTHON:-} python3 /usr/bin/python3; do
        if "$python" - 2>/dev/null <<'PY'
import ensurepip, os, sys, sysconfig, venv
include = sysconfig.get_path("include")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(include + "/Python.h") and not sysconfig.get_config_var("Py_GIL_DISABLED")))
PY
        then
            command -v "$python"
            return
        fi
    done
    return 1
}

missing_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

install_packages() {
    local as_root=() log
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "needs these packages, and there is no sudo: run as root: apt-get install $*"
        as_root=(sudo)
    fi
    say "installing with apt: $*"
    log=$(mktemp)
    # A frozen mirror's index has run out, and is signed all the same.
    if ! { { "${as_root[@]}" apt-get update || "${as_root[@]}" apt-get -o Acquire::Check-Valid-Until=false update; } &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get could not install them (whole log: $log): mend that, then run make again"
    fi
    rm -f "$log"
}

[ "$(uname -sm)" = "Linux x86_64" ] || die "runs on Linux on x86-64 only; this is $(uname -sm)"
if command -v apt-get >/dev/null; then
    mapfile -t missing < <(missing_packages "${packages[@]}"; find_python >/dev/null || missing_packages "${python_packages[@]}")
    # Another source's Node.js does not go together with Debian's npm.
    { command -v node && command -v npm; } >/dev/null || missing+=(nodejs npm)
    [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"
else
    missing=()
    for tool in gcc cmake ninja clang shellcheck node npm; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    for header in zstd.h xxhash.h cmocka.h sqlite3.h; do
        printf '#include <stdarg.h>\n#include <setjmp.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <%s>\n' "$header" |
            cc -E - >/dev/null 2>&1 || missing+=("$header")
    done
    find_python >/dev/null || missing+=("Python 3.11 or later with its headers, venv and pip")
    [ "${#missing[@]}" = 0 ] || die "this is not Debian; install these, with libzstd.a and libxxhash.a, and run make again: $(printf '%s, ' "${missing[@]}" | sed 's/, $//')"
fi

python=$(find_python) || die "found no Python from 3.11 with headers, venv and pip: set PYTHON to one"
if ! .venv/bin/python -c '' 2>/dev/null; then
    rm -rf .venv
    "$python" -m venv .venv
fi
if ! cmp -s "$requirements" .venv/requirements.txt; then
    say "installing the test tools into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" .venv/requirements.txt
fi
if ! cmp -s web/package-lock.json web/node_modules/.lowtide-lock; then
    say "installing what the page is built from into web/node_modules"
    npm ci --prefix web --silent --no-update-notifier >&2 || die "npm could not install what web/package-lock.json names: mend that, then run make again"
    cp web/package-lock.json web/node_modules/.lowtide-lock
fi
