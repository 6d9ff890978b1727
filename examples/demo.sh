#!/bin/sh
# A web service with three leaks, some traffic, and the question who holds its memory.
# usage: demo.sh PYTHON LOWTIDE    (make demo sets both up and calls this)
set -eu
python=$1
lowtide=$2
here=$(cd "$(dirname "$0")" && pwd)
room=$(mktemp -d)
mkfifo "$room/stdin"
"$python" "$here/notes_service.py" <"$room/stdin" >"$room/stdout" 2>"$room/stderr" &
service=$!
exec 3>"$room/stdin"
trap 'exec 3>&-; wait "$service" 2>/dev/null || true; rm -rf "$room"' EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n$ %s\n' "$*"; }

tries=0
until grep -q ready "$room/stdout"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ] || ! kill -0 "$service" 2>/dev/null; then
        echo "demo: the service did not start:" >&2
        cat "$room/stderr" >&2
        exit 1
    fi
    sleep 0.1
done
port=$(sed -n 's/ready on port //p' "$room/stdout")
echo "A notes service (Flask, process $service) gets 1,625 requests …"
"$python" "$here/traffic.py" "$port"

say "lowtide dump $service"
"$lowtide" dump "$service" -o "$room/service.tide"
say "lowtide report service.tide"
"$lowtide" report "$room/service.tide"
say "lowtide why service.tide Render"
"$lowtide" why "$room/service.tide" Render
