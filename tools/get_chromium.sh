#!/usr/bin/env bash
# Brings Chromium, in which tests look at the page of `report --html`. Tests alone need it; where it cannot be had they skip that, and this says so.
set -euo pipefail

give_up() {
    printf '\n*** lowtide: %s.\n*** Tests go on without Chromium; those of the page are skipped.\n\n' "$*" >&2
    exit 0
}
command -v chromium >/dev/null && exit 0
command -v apt-get >/dev/null || give_up "there is no chromium, and this is not Debian"
as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null || ! sudo -v 2>/dev/null; then give_up "installing chromium needs root or sudo"; fi
    as_root=(sudo)
fi
log=$(mktemp)
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium >"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; give_up "apt-get could not install chromium (whole log: $log)"; }
rm -f "$log"
