#!/usr/bin/env bash
# The simulator in its other builds: by clang, with the portable switch between fibers, and for aarch64 (under qemu). What is not on this
# machine is skipped aloud. Debian, Ubuntu: apt install clang g++-aarch64-linux-gnu qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/simulator-builds
mkdir -p "$out"
flags=(-std=c++20 -O2 -Wall -Wextra -Wno-unknown-pragmas -Wno-unused-function -fno-strict-aliasing -pthread)
sources=(kernels/simulator/check.cpp kernels/simulator/counters.cpp)

# check NAME RUNNER COMPILER FLAGS…
check() {
    local name=$1 runner=$2 compiler=$3
    shift 3
    if ! command -v "$compiler" >/dev/null || { [ -n "$runner" ] && ! command -v "${runner%% *}" >/dev/null; }; then
        echo "skipped: $name ($compiler${runner:+ and ${runner%% *}} needed)"
        return
    fi
    "$compiler" "${flags[@]}" "$@" "${sources[@]}" -o "$out/$name"
    echo "$name: $($runner "$out/$name")"
}

check g++ "" g++
check clang++ "" clang++
check g++-ucontext "" g++ -DSIMULATOR_UCONTEXT
check aarch64 "qemu-aarch64 -L /usr/aarch64-linux-gnu" aarch64-linux-gnu-g++
check aarch64-ucontext "qemu-aarch64 -L /usr/aarch64-linux-gnu" aarch64-linux-gnu-g++ -DSIMULATOR_UCONTEXT

if command -v clang++ >/dev/null; then
    echo "== the tests, with kernels by clang++"
    CXX=clang++ CARGO_TARGET_DIR=target/clang cargo test --quiet --features step5 --test suite -- simulator:: probes:: profile:: step5::
fi
