#!/usr/bin/env bash
# A client of one line, with curl: bash steps/step8-serve/clients/curl.sh http://127.0.0.1:8000
set -euo pipefail
url=$1
ask() { curl --silent --show-error --fail-with-body "$@"; }
json=(--header 'Content-Type: application/json')

echo "== the model's name"
ask "$url/v1/models" | grep -o '"id":"[^"]*"'

echo "== a completion"
ask "$url/v1/completions" "${json[@]}" \
    --data '{"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}' | grep -o '"text":"[^"]*"'

# -N shows each event when it comes, and not when curl's buffer is full.
echo "== the same, streamed"
ask -N "$url/v1/completions" "${json[@]}" \
    --data '{"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "stream": true}' |
    sed -nu 's/^data: //p' | grep -o '"text":"[^"]*"\|\[DONE\]'

echo "== a mistake"
curl --silent --output /dev/stdout --write-out '\n%{http_code}\n' "$url/v1/completions" "${json[@]}" \
    --data '{"prompt": "Once upon a time", "n": 0}' | grep -o '"param":"[^"]*"\|^400$'
