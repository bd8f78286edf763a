#!/usr/bin/env bash
# Runs the kernels on the simulator under ThreadSanitizer (races, with both lines) and AddressSanitizer (reads and writes outside of shared
# and global memory), and makes sure that each finds the bugs that were planted for it. Linux with g++; about four minutes.
#
#   scripts/sanitize_kernels.sh            both
#   scripts/sanitize_kernels.sh thread     one of them
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A planted=(
    [thread]="planted_missing_barrier planted_missing_second_barrier planted_missing_syncwarp"
    [address]="planted_outside_static planted_outside_dynamic planted_outside_global planted_past_the_table"
)
declare -A library=([thread]=libtsan.so [address]=libasan.so)
export ASAN_OPTIONS="detect_leaks=0 detect_stack_use_after_return=0"

# run SANITIZER BINARY ARGUMENTS…: which lines of kernel files a report names, in $found. Rust's own code is not built for a sanitizer,
# and what is said of it means nothing.
run() {
    local preload
    preload=$(g++ -print-file-name="${library[$1]}")
    shift
    set +e
    output=$(LD_PRELOAD=$preload setarch -R "$@" 2>&1)
    set -e
    found=$(grep -E '^ +#[0-9]+ .* [^ ]*kernels/[^ ]*\.cuh?:[0-9]+' <<<"$output" | grep -oE '[a-z_]+\.cuh?:[0-9]+' | sort -u || true)
}

# The line of the body of a planted kernel: a report must name one within it.
body() {
    awk -v kernel="$1(" 'index($0, kernel) { from = NR } from && /^}|} *$/ { print from ":" NR; exit }' kernels/simulator/planted.cu
}

export CARGO_TARGET_DIR=${SANITIZE_TARGET:-target/sanitize} # dependencies are built once for both

# build SANITIZER: the tests, put aside, since the next build has the same name.
build() {
    echo "== $1: builds"
    export STAIRWELL_SANITIZE=$1
    local built
    # The kernels are C++ and built at -O2 in any case; the engine around them needs no optimisation here.
    local plain=profile.dev.package.stairwell.opt-level=1
    mkdir -p "$CARGO_TARGET_DIR/sanitized/$1"
    built=$(cargo test --quiet --config "$plain" --features step6 --test suite --no-run --message-format json | grep -o '"executable":"[^"]*"' | cut -d'"' -f4)
    cp "$(grep "/deps/suite-[0-9a-f]*$" <<<"$built")" "$CARGO_TARGET_DIR/sanitized/$1/suite"
}

# check SANITIZER: it finds what was planted for it, and nothing else.
check() {
    local sanitizer=$1 folder=$CARGO_TARGET_DIR/sanitized/$1
    for kernel in ${planted[$sanitizer]}; do
        IFS=: read -r from to <<<"$(body "$kernel")"
        for block in 0 1 2; do # a checker that goes blind after the first block would be worth little
            STAIRWELL_KERNEL=$kernel STAIRWELL_BLOCK=$block run "$sanitizer" "$folder/suite" --ignored --exact simulator::one_kernel --test-threads 1
            lines=$(grep '^planted.cu:' <<<"$found" | cut -d: -f2 | sort -n | awk -v a="$from" -v b="$to" '$1 >= a && $1 <= b' || true)
            if [ -z "$lines" ]; then
                echo "$output"
                echo "$sanitizer did not find the bug of $kernel in block $block (lines $from to $to)"
                return 1
            fi
        done
        echo "$kernel: found in each of 3 blocks, planted.cu lines" $lines
    done

    STAIRWELL_KERNEL=planted_nothing run "$sanitizer" "$folder/suite" --ignored --exact simulator::one_kernel --test-threads 1
    [ -z "$found" ] || { echo "$output"; echo "$sanitizer reports a bug in planted_nothing"; return 1; }
    run "$sanitizer" "$folder/suite" --test-threads 1 step5::every_kernel step5::paged_attention step5::logits_on_the_device \
        step5_kernels::every_version_of_the_matrix_product step6::every_version
    grep -q "test result: ok" <<<"$output" || { echo "$output" | tail -50; echo "the tests failed under $sanitizer"; return 1; }
    [ -z "$found" ] || { echo "$output" | head -80; echo "$sanitizer reports:" $found; return 1; }
    echo "every kernel, and every version of attention and of the matrix product: nothing found"
}

sanitizers=("$@")
[ $# -gt 0 ] || sanitizers=(thread address)
for sanitizer in "${sanitizers[@]}"; do build "$sanitizer"; done
# Each runs one test at a time: several run side by side.
running=()
for sanitizer in "${sanitizers[@]}"; do
    check "$sanitizer" > "$CARGO_TARGET_DIR/sanitized/$sanitizer.log" 2>&1 &
    running+=("$!")
done
failed=0
for i in "${!sanitizers[@]}"; do
    wait "${running[$i]}" || failed=1
    echo "== ${sanitizers[$i]}"
    cat "$CARGO_TARGET_DIR/sanitized/${sanitizers[$i]}.log"
done
exit "$failed"
