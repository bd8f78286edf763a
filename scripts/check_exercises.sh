#!/usr/bin/env bash
# The book's exercises as a reader meets them: every test of a stub fails with its sentence, every solution passes. Each with the feature of its
# step, or with the one named in FEATURES, which is faster where that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

# With one set of features all are built at once, on all cores.
if [ -n "${FEATURES:-}" ]; then
    targets=$(grep -oE '"(exercise|solution)[0-9]+"' Cargo.toml | tr -d '"' | sed 's/^/--test /')
    # shellcheck disable=SC2086 # words
    cargo test --quiet --features "$FEATURES" --no-run $targets
fi

for file in steps/step*/exercise.rs; do
    step=$(basename "$(dirname "$file")")
    n=${step#step}
    n=${n%%-*}
    features=${FEATURES:-step$n}
    tests=$(grep -c '^#\[test\]' "$file")

    if output=$(RUST_BACKTRACE=0 cargo test --features "$features" --test "exercise$n" 2>&1); then
        echo "$file passes: an exercise is committed without its stub" >&2
        exit 1
    fi
    failed=$(grep -c '^test .*FAILED$' <<<"$output" || true)
    said=$(grep -cE '^not (written|mended) yet: ' <<<"$output" || true)
    if [ "$failed" -ne "$tests" ] || [ "$said" -ne "$tests" ]; then
        echo "$output"
        echo "$file: of $tests tests $failed failed, and $said said what to write" >&2
        exit 1
    fi
    echo "$file: $tests tests, each says what to write"
    cargo test --quiet --features "$features" --test "solution$n"
done
