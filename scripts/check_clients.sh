#!/usr/bin/env bash
# Runs the book's clients (steps/step8-serve/clients) against a server of the demo model: curl, openai-python, and openai-node where node is. The libraries are
# installed under target/. STAIRWELL names a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

clients=steps/step8-serve/clients
work=target/clients
mkdir -p "$work"
if [ -z "${STAIRWELL:-}" ]; then
    cargo build --quiet --release --features full
    STAIRWELL=target/release/stairwell
fi

"$STAIRWELL" serve --port 0 > "$work/url" 2> "$work/server.log" &
server=$!
trap 'kill "$server" 2> /dev/null || true' EXIT
for _ in $(seq 100); do
    [ -s "$work/url" ] && break
    kill -0 "$server" 2> /dev/null || { cat "$work/server.log" >&2; exit 1; }
    sleep 0.1
done
url=$(head -n 1 "$work/url")
[ -n "$url" ] || { echo "the server printed no URL in 10 s" >&2; exit 1; }

echo "-- curl"
bash "$clients/curl.sh" "$url"

echo "-- openai-python"
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openai
"$work/venv/bin/python" "$clients/client.py" "$url"

echo "-- openai-node"
if command -v node > /dev/null && command -v npm > /dev/null; then
    # node looks for a library beside the file that imports it, and above.
    cp "$clients/client.mjs" "$work/client.mjs"
    npm install --silent --no-audit --no-fund --prefix "$work" openai > /dev/null
    node "$work/client.mjs" "$url"
else
    echo "SKIPPED: node and npm are not on this machine" >&2
fi

echo "-- nothing is left, and the server ends"
for _ in $(seq 50); do
    loads=$(curl --silent --fail "$url/v1/loads")
    grep -q '"num_running_reqs":0' <<< "$loads" && break
    sleep 0.1
done
grep -q '"num_running_reqs":0' <<< "$loads" || { echo "requests still run: $loads" >&2; exit 1; }
kill -TERM "$server"
trap - EXIT
wait "$server"
