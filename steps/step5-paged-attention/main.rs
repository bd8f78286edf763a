//! Kernels without a GPU: `cargo run --release --features step5 --example step5`.

use anyhow::Result;
use stairwell::{
    backend::cuda::{Arg, Cuda, Device, Grid, KernelShape, Profile, Schedule, Simulated, profile_kernel},
    demo,
    generate::{GenerateParams, generate},
    machine::Machine,
    runner::{LoadOptions, ModelRunner},
    sampling::SamplingParams,
    tokenizer::Tokenizer,
};
use std::{ops::ControlFlow, sync::Arc};

fn main() -> Result<()> {
    println!("1. A grid of 3 blocks of 4 threads: block · 100 + thread");
    println!("   {:?}", run("lesson::who", grid(3, 4), 12, Schedule::Forward)?);

    println!("\n2. A warp reads 32 floats, each so many places behind the one before");
    println!("   stride  global: sectors of 32 bytes  shared: turns of the banks");
    for stride in [1, 2, 4, 8, 16, 32, 33] {
        let (global, shared) =
            (strided("lesson::strided", stride)?, strided("lesson::strided_shared", stride)?);
        let turns = shared.sites.iter().filter(|s| s.shared && !s.writes).map(|s| s.turns).max().unwrap_or(0);
        println!("   {stride:6} {:29} {turns:27}", global.sectors(false));
    }

    println!("\n3. A kernel with a race: y[i] = 2 · (i + 1), in two orders of threads");
    for schedule in [Schedule::Forward, Schedule::Reverse] {
        let y: Vec<f32> =
            run("lesson::race", grid(1, 64), 64, schedule)?.into_iter().map(f32::from_bits).collect();
        println!("   {:8} {:?} …", format!("{schedule:?}"), &y[..10]);
    }

    println!("\n4. RMSNorm of 8 rows of 1,024 numbers, three versions");
    println!("   kernel        requests  sectors read  times what it must  barriers");
    for kernel in ["rms_norm_v0", "rms_norm_v1", "rms_norm_v2"] {
        let profile = profile_kernel(kernel, &KernelShape::parse(kernel, "rows=8,width=1024")?)?;
        let requests: u64 = profile.sites.iter().filter(|site| !site.shared).map(|site| site.requests).sum();
        let sectors = profile.sectors(false);
        let times = (32 * sectors) as f64 / profile.least_read as f64;
        println!("   {kernel:12} {requests:9} {sectors:13} {times:19.2} {:9}", profile.barriers);
    }

    println!("\n5. The demo model on the simulated device");
    let device: Arc<dyn Device> = Arc::new(Simulated::default());
    let mut runner = ModelRunner::load_on(Cuda::new(device), &demo::directory(), LoadOptions::default())?;
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let prompt = tokenizer.encode_prompt("Once upon a time")?;
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let params = GenerateParams { max_tokens: 12, sampling, eos_token_id: Vec::new() };
    let story = generate(&mut runner, &prompt, &params, &mut |_| ControlFlow::Continue(()))?;
    let report = runner.backend.report();
    println!("   Once upon a time{}", tokenizer.decode(&story.ids, true));
    println!(
        "   device {}, kernels launched {}, passes replayed {}",
        report.device,
        report.kernel_launches.unwrap_or(0),
        report.graph_replays.unwrap_or(0)
    );
    Ok(())
}

fn grid(blocks: u32, threads: u32) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads, shared_bytes: 0 }
}

// ANCHOR: run
/// Launches a kernel that writes `n` numbers of 32 bits.
fn run(kernel: &str, grid: Grid, n: usize, schedule: Schedule) -> Result<Vec<u32>> {
    let device = Simulated::with_schedule(schedule);
    let y = device.allocate(4 * n)?;
    device.launch(kernel, grid, &[Arg::At(y)])?;
    let mut bytes = vec![0; 4 * n];
    device.download(y, &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
}
// ANCHOR_END: run

/// What one warp's read with a stride costs.
fn strided(kernel: &str, stride: u32) -> Result<Profile> {
    let device = Simulated::default();
    let mut arguments = vec![Arg::At(device.allocate(4 * 32)?)];
    if kernel == "lesson::strided" {
        arguments.push(Arg::At(device.allocate(4 * 32 * 33)?));
    }
    arguments.push(Arg::U32(stride));
    Ok(device.profile(kernel, grid(1, 32), &arguments)?)
}
