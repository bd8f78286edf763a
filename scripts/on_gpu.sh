#!/usr/bin/env bash
# Everything of step 5 on an NVIDIA GPU, by one command: builds, then every kernel against f64, the fixtures against Hugging Face, and
# tokens drawn on the device. Needs a driver for CUDA 12 or newer, NVRTC and cuBLAS (the CUDA toolkit, or pip's nvidia-cuda-nvrtc,
# nvidia-cuda-runtime and nvidia-cublas with their lib folders in LD_LIBRARY_PATH). It has not run on a GPU yet: please tell us.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v nvidia-smi >/dev/null || { echo "there is no NVIDIA GPU here: nvidia-smi was not found" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
cargo build --release --features step5

echo "== kernels against f64, the engine against Hugging Face (f32)"
STAIRWELL_TEST_DEVICE=cuda cargo test --features step5 --test step5 --test step5_kernels --test device_sampling -- --test-threads 1

echo "== the demo story, on the CPU and on the GPU"
story() { target/release/stairwell generate --prompt "Once upon a time" --temperature 0 --max-tokens 40 "$@" 2>/dev/null; }
diff <(story --device cpu) <(story --device cuda --dtype f32)
story --device cuda --json | grep -o '"device":"[a-z]*"\|"dtype":"[a-z0-9]*"\|"kernel_launches":[0-9]*\|"graph_replays":[0-9]*\|"decode_tokens_per_second":[0-9.]*'
echo "on the GPU: all as it should be"
