//! A GPU as the program sees one: NVIDIA's libraries are loaded by name, and here tests/stand_in/driver.cpp gives what they are asked for.
//! It shows that the calls are right, not that a GPU does what the simulator does.

use crate::common::{Reference, fixture, fixtures};
use serde_json::Value;
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// NVIDIA's libraries, as their installers name them.
const DRIVER: &str = "libcuda.so.1";
const NVRTC: &str = "libnvrtc.so.13";
const CUBLAS: &str = "libcublas.so.13";

/// The library, built once.
fn stand_in() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand_in.so");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources =
            ["tests/stand_in/driver.cpp", "kernels/simulator/counters.cpp"].map(|file| root.join(file));
        let compiler = env::var("CXX").unwrap_or("c++".into());
        let flags = [
            "-std=c++20",
            "-O2",
            "-fno-strict-aliasing",
            "-pthread",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            "-DSTAIRWELL_STEP6", // all kernels, whatever the program asks for
            "-DSTAIRWELL_QUANTIZED",
        ];
        let mut build = Command::new(&compiler);
        let built = build.args(flags).arg("-o").arg(&library).args(sources).output().expect(&compiler);
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        library
    })
}

/// A machine with some of NVIDIA's libraries.
struct Machine {
    folder: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Machine {
    fn with(libraries: &[&str]) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        libraries.iter().for_each(|name| symlink(stand_in(), folder.path().join(name)).unwrap());
        fs::create_dir(folder.path().join("include")).unwrap();
        fs::write(folder.path().join("include/cuda_bf16.h"), "").unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        Machine { folder, settings: vec![("CUDA_HOME", home)] }
    }

    fn complete() -> Machine {
        Machine::with(&[DRIVER, NVRTC, CUBLAS])
    }

    fn setting(mut self, name: &'static str, value: impl ToString) -> Machine {
        self.settings.push((name, value.to_string()));
        self
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stairwell"));
        command.args(args).env("LD_LIBRARY_PATH", self.folder.path());
        command.envs(self.settings.iter().cloned()).output().unwrap()
    }

    /// Runs `generate` on a fixture's prompt, greedily.
    fn generate(&self, name: &str, more: &[&str]) -> Value {
        let reference = Reference::of(name);
        let prompt = reference.prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let (model, n) = (fixture(name), reference.greedy.len().to_string());
        let args =
            ["generate", "--model", model.to_str().unwrap(), "--prompt-ids", &prompt, "--max-tokens", &n];
        let output = self.run(&[&args[..], &["--temperature", "0", "--ignore-eos", "--json"], more].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {more:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The line with which `generate --device cuda` refuses.
    fn refused(&self, more: &[&str]) -> String {
        let args = ["generate", "--prompt", "Once", "--max-tokens", "3", "--device", "cuda"];
        let output = self.run(&[&args[..], more].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said.trim().to_owned()
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value["output_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_fixture_gives_hugging_faces_ids() {
    let machine = Machine::complete();
    for name in fixtures().iter().filter(|name| *name != "rope-dynamic-bf16") {
        let generated = machine.generate(name, &["--device", "cuda", "--dtype", "f32"]);
        assert_eq!(ids(&generated), Reference::of(name).greedy, "{name}");
        assert_eq!(generated["stats"]["device"], "cuda");
        assert_eq!(generated["stats"]["dtype"], "f32");
        assert!(generated["stats"]["kernel_launches"].as_u64().unwrap() > 100);
    }
}

#[test]
fn a_gpu_is_used_where_there_is_one_and_computes_in_the_dtype_of_the_weights() {
    let machine = Machine::complete();
    for (name, dtype) in
        [("qwen3-bf16", "bf16"), ("mistral-f16", "f16"), ("llama3", "f32"), ("gpt2-bf16", "bf16")]
    {
        let generated = machine.generate(name, &[]);
        assert_eq!(
            (&generated["stats"]["device"], &generated["stats"]["dtype"]),
            (&"cuda".into(), &dtype.into()),
            "{name}"
        );
    }
    // Logits and `verify` are compared with f32.
    let model = fixture("qwen3-bf16");
    let reference = model.join("reference.safetensors");
    let [model, reference] = [model, reference].map(|path| path.to_str().unwrap().to_owned());
    let verified = machine.run(&["verify", "--model", &model, "--reference", &reference]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    assert_eq!(machine.generate("llama3", &["--device", "cpu"])["stats"]["device"], "cpu");
    // Nothing is wrong with a machine that has no GPU, or half of a toolkit, as long as nobody asks for one.
    assert_eq!(Machine::with(&[]).generate("llama3", &[])["stats"]["device"], "cpu");
    let no_device = Machine::complete().setting("STAND_IN", "no-device");
    assert_eq!(no_device.generate("llama3", &[])["stats"]["device"], "cpu");
}

/// Ranks in threads, each with a GPU of its own: sums are NCCL's where it is installed, and go by way of the host where it is not.
#[test]
fn ranks_add_up_on_their_gpus() {
    let help = Machine::complete().run(&["generate", "--help"]);
    if !String::from_utf8_lossy(&help.stdout).contains("--tp") {
        return eprintln!("skipped: there are no ranks in this build");
    }
    let nccl = "libnccl.so";
    let two = |libraries: &[&str]| Machine::with(libraries).setting("STAND_IN_DEVICES", 2);
    for (machine, sums) in
        [(two(&[DRIVER, NVRTC, CUBLAS, nccl]), "nccl"), (two(&[DRIVER, NVRTC, CUBLAS]), "host")]
    {
        let generated = machine.generate("qwen3", &["--device", "cuda", "--dtype", "f32", "--tp", "2"]);
        assert_eq!(ids(&generated), Reference::of("qwen3").greedy, "{sums}");
        let stats = &generated["stats"];
        assert_eq!((&stats["device"], &stats["world_size"]), (&"cuda".into(), &2.into()));
        for rank in stats["ranks"].as_array().unwrap() {
            assert_eq!(rank["sums"], sums);
            assert_eq!(rank["all_reduces"], Reference::of("qwen3").greedy.len() * 5, "{rank}");
        }
    }
    let said = Machine::complete().refused(&["--tp", "2"]);
    assert!(said.contains("rank 1 failed: there is no GPU 1: the driver has 1"), "{said}");
}

#[test]
fn decode_steps_are_graphs_unless_they_are_not_wanted() {
    let machine = Machine::complete();
    let (graphs, eager) = (machine.generate("qwen3", &[]), machine.generate("qwen3", &["--enforce-eager"]));
    let steps = Reference::of("qwen3").greedy.len() as u64 - 1;
    assert_eq!(
        (&graphs["stats"]["graph_replays"], &eager["stats"]["graph_replays"]),
        (&steps.into(), &0.into())
    );
    assert_eq!(ids(&graphs), ids(&eager));
    // A pass is recorded once, and once more when the buffer of the block table has grown, and not anew at every step: each time one pass
    // is launched to grow its memory, and one is recorded.
    let launches = |value: &Value| value["stats"]["kernel_launches"].as_u64().unwrap();
    let of_a_pass = launches(&eager) / (steps + 1);
    assert!(launches(&graphs) <= launches(&eager) + 4 * of_a_pass, "{graphs} {eager}");
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    let complete = || Machine::complete();
    let says = |machine: Machine, more: &[&str], parts: &[&str]| {
        let said = machine.refused(more);
        assert!(parts.iter().all(|part| said.contains(part)) && said.lines().count() == 1, "{said}");
    };
    says(Machine::with(&[]), &[], &["--device cuda: there is no NVIDIA driver", "--device sim"]);
    says(
        complete().setting("STAND_IN", "no-device"),
        &[],
        &["the NVIDIA driver finds no GPU", "--device sim"],
    );
    says(
        complete().setting("STAND_IN", "old-driver"),
        &[],
        &["is for CUDA 11.4, and 12.0 or newer is needed"],
    );
    says(Machine::with(&[DRIVER, CUBLAS]), &[], &["NVRTC", "was not found", "pip install"]);
    says(
        complete().setting("STAND_IN", "new-nvrtc"),
        &[],
        &["is for CUDA 13.0, and NVRTC is that of CUDA 14.0"],
    );
    says(Machine::with(&[DRIVER, NVRTC]), &[], &["cuBLAS", "was not found", "pip install"]);
    says(
        complete().setting("CUDA_HOME", "/nowhere"),
        &[],
        &["cuda_bf16.h", "/nowhere/include", "set CUDA_HOME"],
    );
    let memory = complete().setting("STAND_IN_MEMORY", 33 << 20);
    says(memory, &[], &["out of memory on the GPU", "GB are wanted", "--gpu-memory-utilization"]);
    let memory = complete().setting("STAND_IN_MEMORY", 64 << 20);
    says(
        memory,
        &["--gpu-memory-utilization", "0.1"],
        &["there is no memory for K and V", "--gpu-memory-utilization"],
    );
    let said = complete().setting("STAND_IN", "does-not-compile").refused(&[]);
    assert!(said.contains("do not compile") && said.contains("kernels.cu(1): error"), "{said}");
}
