//! Attention over prompts, counted: `cargo run --release --features step6 --example step6`.

use anyhow::Result;
use stairwell::{
    attention::{KvDtype, KvOptions},
    backend::cuda::{
        Cuda, CudaOptions, Device, FlashVersion, KernelShape, Profile, Simulated, profile_kernel,
    },
    demo,
    generate::{GenerateParams, generate},
    runner::{LoadOptions, ModelRunner},
    sampling::SamplingParams,
    tokenizer::Tokenizer,
};
use std::{ops::ControlFlow, sync::Arc};

const STORY: &str = "Once upon a time there was a little girl named Lily. She had a small red boat and she loved to play with it near the pond.";

fn main() -> Result<()> {
    println!("1. Bytes of all scores of a layer, 32 heads, f32: what v0 keeps in memory");
    for tokens in [1024_u64, 4096, 16384, 131_072] {
        println!("   {tokens:7} tokens {:12.3} GB", (32 * tokens * tokens * 4) as f64 / 1e9);
    }

    println!("\n2. A prompt of 256 tokens, 8 query heads on 2 of K and V, head_dim 64, bf16");
    println!("   kernel                         MB read  MB written  turns lost to banks");
    for kernel in ["v0", "v1", "v2_unswizzled", "v2", "v3", "v4"] {
        let profile =
            counted(&format!("flash_attention_{kernel}"), "tokens=256,heads=8,kv_heads=2,head_dim=64")?;
        let [read, written] = [false, true].map(|writes| 32.0 * profile.sectors(writes) as f64 / 1e6);
        println!("   flash_attention_{kernel:14} {read:7.2} {written:11.2} {:20}", profile.bank_conflicts());
    }

    println!("\n3. The demo model reads a prompt on the simulated device");
    for version in [FlashVersion::V0, FlashVersion::V1] {
        let (kernel, text) = tell(version)?;
        println!("   {kernel}: …{text}");
    }
    Ok(())
}

fn counted(kernel: &str, shape: &str) -> Result<Profile> {
    Ok(profile_kernel(kernel, &KernelShape::parse(kernel, shape)?)?)
}

/// What ran, and the first words after the prompt.
fn tell(version: FlashVersion) -> Result<(&'static str, String)> {
    let device: Arc<dyn Device> = Arc::new(Simulated::default());
    let options = CudaOptions { prefill: Some(version as usize), ..CudaOptions::default() };
    let kv = KvOptions { dtype: KvDtype::F32, max_chunk: Some(20), ..KvOptions::default() };
    let load = LoadOptions { kv, ..LoadOptions::default() };
    let mut runner = ModelRunner::load_on(Cuda::with_options(device, options), &demo::directory(), load)?;
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let prompt = tokenizer.encode_prompt(STORY)?;
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let params = GenerateParams { max_tokens: 12, sampling, eos_token_id: Vec::new() };
    let story = generate(&mut runner, &prompt, &params, &mut |_| ControlFlow::Continue(()))?;
    Ok((runner.attention.prefill_kernel().unwrap_or("none"), tokenizer.decode(&story.ids, true)))
}
