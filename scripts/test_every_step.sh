#!/usr/bin/env bash
# Runs the tests of every step by itself: the plain crate, step1 … step9, full.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test
for feature in step1 step2 step3 step4 step5 step6 step7 step8 step9 full; do
    printf '\n== %s\n' "$feature"
    cargo test --no-default-features --features "$feature"
done
