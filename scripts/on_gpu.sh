#!/usr/bin/env bash
# Everything of steps 5 and 6 on an NVIDIA GPU, by one command: builds, then every kernel against f64, the fixtures against Hugging Face, and
# tokens drawn on the device. Needs a driver for CUDA 12 or newer, NVRTC and cuBLAS (the CUDA toolkit, or pip's nvidia-cuda-nvrtc,
# nvidia-cuda-runtime and nvidia-cublas with their lib folders in LD_LIBRARY_PATH). It has not run on a GPU yet: please tell us.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v nvidia-smi >/dev/null || { echo "there is no NVIDIA GPU here: nvidia-smi was not found" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
cargo build --release --features step6

echo "== kernels against f64, the engine against Hugging Face (f32)"
STAIRWELL_TEST_DEVICE=cuda cargo test --features step6 --test suite -- --test-threads 1 \
    step5:: step5_kernels:: step5_attention:: device_dtypes:: device_sampling::
STAIRWELL_TEST_DEVICE=cuda cargo test --features step6 --test suite -- --test-threads 1 step6::every_version step6::mixed step6::the_widths step6::chunks step6::the_log

echo "== the demo story, on the CPU and on the GPU"
story() { target/release/stairwell generate --prompt "Once upon a time" --temperature 0 --max-tokens 40 "$@" 2>/dev/null; }
diff <(story --device cpu) <(story --device cuda --dtype f32)
story --device cuda --json | grep -o '"device":"[a-z]*"\|"dtype":"[a-z0-9]*"\|"kernel_launches":[0-9]*\|"graph_replays":[0-9]*\|"decode_tokens_per_second":[0-9.]*'

echo "== every version of attention, validated and timed; and torch's attention on gathered K and V"
cargo bench --features step6 --bench step5
cargo bench --features step6 --bench kernels
if python3 -c "import torch; assert torch.cuda.is_available()" 2>/dev/null; then
    python3 scripts/torch_sdpa.py
else
    echo "skipped: there is no torch with CUDA"
fi

echo "== a decode step at the shapes of Qwen3-0.6B, random weights: with graphs, and launch by launch"
model=$(mktemp -d)
trap 'rm -r "$model"' EXIT
cat >"$model/config.json" <<'CONFIG'
{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "vocab_size": 151936, "hidden_size": 1024,
 "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
 "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000, "hidden_act": "silu", "attention_bias": false,
 "tie_word_embeddings": true}
CONFIG
for eager in "" --enforce-eager; do
    for batch in 1 64; do
        target/release/stairwell bench latency --model "$model" --load-format dummy --device cuda --kv-dtype bf16 --batch-size $batch \
            --max-num-seqs $batch --input-len 128 --output-len 128 $eager
    done
done
echo "on the GPU: all as it should be"
