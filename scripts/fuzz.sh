#!/usr/bin/env bash
# The parsers against ten million inputs that no run has tried: CI tries 10^5 that are always the same, and a minute of others.
#
#     scripts/fuzz.sh [CASES] [NAME…]       # default: 10,000,000, shared out to every parser; NAME: only tests whose name has it, such as `gguf`
#
# An input that fails is shrunk and kept in tests/fuzz/seeds. It holds if nothing panics, nothing takes more than 2 seconds, and no parser takes more
# memory than its budget in tests/fuzz says.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-10000000}
shift || true
FUZZ_CASES=$cases cargo test --features full --test fuzz -- --nocapture "$@"
