#!/usr/bin/env bash
# Brings the Pythons from 3.11 to 3.15 that this machine lacks: a Debian sid by debootstrap in $LOWTIDE_SID, from the mirror
# that this machine's own apt uses. Tests alone need it; where it cannot be made they skip those versions, and this says so.
set -euo pipefail

sid=${LOWTIDE_SID:-/opt/lowtide/sid}
# Debian removes a version now and then: what is no longer there is not asked for.
packages=()
for version in 3.13 3.14 3.15; do packages+=("python$version" "python$version-dev" "python$version-dbg" "python$version-venv"); done
# Of CPython's own tests the ones that are run here; the whole of them is 100 MB.
tests=(test_tracemalloc.py)

give_up() {
    printf '\n*** lowtide: %s.\n*** Tests go on without the Pythons of Debian sid; those versions are skipped.\n\n' "$*" >&2
    exit 0
}
in_sid() { "${as_root[@]}" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "${proxies[@]}" chroot "$sid" "$@"; }

[ "$(cat "$sid/.lowtide-complete" 2>/dev/null)" = "${packages[*]} ${tests[*]}" ] && exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null || ! sudo -v 2>/dev/null; then give_up "making a chroot needs root or sudo"; fi
    as_root=(sudo)
fi
command -v debootstrap >/dev/null || PATH=$PATH:/usr/sbin:/sbin
command -v debootstrap >/dev/null || give_up "there is no debootstrap"
mapfile -t proxies < <(env | grep -iE '^(https?|no)_proxy=' || true)
# shellcheck disable=SC2016  # apt's own placeholder
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2>/dev/null | sort -u | head -n 1)
[ -n "$mirror" ] || give_up "apt on this machine knows no Debian mirror (run apt-get update)"

log=$(mktemp)
if [ ! -e "$sid/etc/apt" ]; then
    echo "lowtide: making a Debian sid in $sid, once (a few minutes)" >&2
    "${as_root[@]}" rm -rf "$sid.new"
    "${as_root[@]}" mkdir -p "$(dirname "$sid")"
    "${as_root[@]}" debootstrap --variant=minbase --arch=amd64 sid "$sid.new" "$mirror" >"$log" 2>&1 ||
        { tail -n 5 "$log" >&2; give_up "debootstrap failed (whole log: $log)"; }
    "${as_root[@]}" mv "$sid.new" "$sid"
fi
in_sid apt-get -q -o Acquire::Check-Valid-Until=false update >>"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; give_up "apt-get update failed in $sid (whole log: $log)"; }
known=$(in_sid apt-cache pkgnames python3.)
mapfile -t wanted < <(for package in "${packages[@]}"; do grep -Fx "$package" <<<"$known" || true; done)
[ "${#wanted[@]}" -gt 0 ] || give_up "Debian sid has none of ${packages[*]}"
in_sid apt-get -q -o Acquire::Check-Valid-Until=false install -y --no-install-recommends "${wanted[@]}" >>"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; give_up "apt-get install failed in $sid (whole log: $log)"; }
in_sid apt-get clean
# shellcheck disable=SC2016  # expanded in there
in_sid sh -ec 'cd /tmp; for version in 3.13 3.14 3.15; do
    package=libpython$version-testsuite
    apt-get -q download "$package" || continue
    for file; do dpkg-deb --fsys-tarfile "$package"_*.deb | tar -xC / "./usr/lib/python$version/test/$file"; done
    rm "$package"_*.deb
done' sh "${tests[@]}" >>"$log" 2>&1 || { tail -n 5 "$log" >&2; give_up "the tests of CPython cannot be had in $sid (whole log: $log)"; }
printf '%s\n' "${packages[*]} ${tests[*]}" | in_sid tee /.lowtide-complete >/dev/null
rm -f "$log"
