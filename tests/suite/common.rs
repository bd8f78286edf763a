//! What the test files share: fixtures and their references, checkpoints to damage, and the program.
#![allow(dead_code)] // each test file uses a part of it

use serde_json::{Map, Value};
use stairwell::{
    attention,
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    checkpoint::{Directory, Header, StateDict, write_safetensors},
    generate::{GenerateParams, generate},
    runner::{LoadOptions, ModelRunner},
    sampling::SamplingParams,
    tensor::{Bytes, HostTensor},
};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tempfile::TempDir;

/// The largest distance of our logits from Hugging Face's.
pub const TOLERANCE: f32 = 1e-4;

/// The directory of a fixture: see tests/fixtures/README.md.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Every fixture that is a checkpoint, by name.
pub fn fixtures() -> Vec<String> {
    let entries = fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap());
    let checkpoints = entries.filter(|e| e.path().join("reference.safetensors").is_file());
    let mut names: Vec<String> = checkpoints.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A path in `../shared`, or `None` after saying that it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !path.exists() {
        eprintln!("skipped: there is no '{}'", path.display());
        return None;
    }
    Some(path)
}

/// The model in a directory.
pub fn load(dir: impl AsRef<Path>) -> ModelRunner<Cpu> {
    load_on(Cpu::default(), dir)
}

/// The model in a directory, on a CPU backend of the test's own.
pub fn load_on(cpu: Cpu, dir: impl AsRef<Path>) -> ModelRunner<Cpu> {
    load_with(cpu, dir, LoadOptions::default()).unwrap()
}

/// The same with options.
pub fn load_with(cpu: Cpu, dir: impl AsRef<Path>, options: LoadOptions) -> Result<ModelRunner<Cpu>, String> {
    let directory = Directory::Disk(dir.as_ref().into());
    ModelRunner::load_with(cpu, &directory, options, attention::build).map_err(|e| e.to_string())
}

/// Logits of every token of a prompt, row by row.
pub fn logits(runner: &mut ModelRunner<Cpu>, prompt: &[u32]) -> Vec<f32> {
    let mut batch = Batch::of(prompt);
    batch.want_all_logits();
    let logits = runner.forward(&batch, None).unwrap();
    runner.backend.download(&logits).unwrap()
}

/// The ids that greedy decoding gives, EOS ignored.
pub fn greedy(runner: &mut ModelRunner<Cpu>, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    generate(runner, prompt, &greedy_params(max_tokens), &mut |_| ControlFlow::Continue(())).unwrap().ids
}

/// Greedy decoding, EOS ignored.
pub fn greedy_params(max_tokens: usize) -> GenerateParams {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    GenerateParams { max_tokens, sampling, eos_token_id: Vec::new() }
}

/// The largest distance between two lists of values. A NaN is infinitely far.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let apart = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(apart).fold(0.0, f32::max)
}

/// The bits, for comparisons that allow no difference at all.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// What transformers computed for a fixture.
pub struct Reference {
    pub prompt: Vec<u32>,
    pub greedy: Vec<u32>,
    /// f32 [tokens, vocabulary]
    pub logits: Vec<f32>,
    /// By Hugging Face name, f32 [tokens, width]; empty for fixtures without modules.
    pub modules: BTreeMap<String, HostTensor>,
}

impl Reference {
    pub fn of(name: &str) -> Reference {
        let path = fixture(name).join("reference.safetensors");
        let mut modules = read_tensors(&path);
        let mut take =
            |name: &str| modules.remove(name).unwrap_or_else(|| panic!("{}: no {name}", path.display()));
        let ids = |tensor: HostTensor| {
            let (ids, _) = tensor.data.as_chunks::<8>();
            ids.iter().map(|id| u32::try_from(i64::from_le_bytes(*id)).unwrap()).collect()
        };
        let (prompt, greedy, logits) =
            (ids(take("prompt_ids")), ids(take("greedy_ids")), take("logits").to_f32());
        Reference { prompt, greedy, logits, modules }
    }
}

/// All tensors of one safetensors file.
pub fn read_tensors(path: &Path) -> BTreeMap<String, HostTensor> {
    let bytes = Arc::new(fs::read(path).unwrap());
    let header = Header::parse(&bytes, path).unwrap();
    let view = |(name, info): (String, stairwell::checkpoint::TensorInfo)| {
        let data = Bytes::new(bytes.clone(), info.range);
        (name, HostTensor { dtype: info.dtype, shape: info.shape, data })
    };
    header.tensors.into_iter().map(view).collect()
}

/// A copy of a fixture that a test may change.
pub struct Checkpoint {
    dir: TempDir,
}

impl Checkpoint {
    /// Copies a fixture's files, but not what only tests read.
    pub fn copy(name: &str) -> Checkpoint {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap().map(|e| e.unwrap()) {
            let file = entry.file_name();
            if file != "reference.safetensors" && file != "module_tree.txt" {
                fs::copy(entry.path(), dir.path().join(file)).unwrap();
            }
        }
        Checkpoint { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The directory as a flag's value.
    pub fn name(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.file(file), bytes).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.file(file)).unwrap();
    }

    /// Changes a file's bytes.
    pub fn edit(&self, file: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(file)).unwrap();
        edit(&mut bytes);
        self.write(file, bytes);
    }

    /// Changes a JSON file.
    pub fn edit_json(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        self.edit(file, |bytes| {
            let mut value = serde_json::from_slice(bytes).unwrap();
            edit(&mut value);
            *bytes = serde_json::to_vec(&value).unwrap();
        });
    }

    /// Sets fields of config.json; null stays null.
    pub fn set_config(&self, fields: Value) {
        self.edit_json("config.json", |config| {
            config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        });
    }

    /// Changes a safetensors header and leaves the data as it is. The header's length gets no padding, so the data
    /// starts anywhere.
    pub fn edit_header(&self, file: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
        self.edit(file, |bytes| {
            let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let mut header = serde_json::from_slice(&bytes[8..end]).unwrap();
            edit(&mut header);
            let header = serde_json::to_vec(&header).unwrap();
            let length = (header.len() as u64).to_le_bytes();
            *bytes = [&length[..], &header[..], &bytes[end..]].concat();
        });
    }

    /// All tensors by name.
    pub fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let state_dict = StateDict::open(&Directory::Disk(self.path().into())).unwrap();
        state_dict.tensors().collect()
    }

    /// Changes the tensors, and puts all of them into one file.
    pub fn edit_tensors(&self, edit: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
        let mut tensors = self.tensors();
        edit(&mut tensors);
        for entry in fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap();
            if name.ends_with(".safetensors") || name.ends_with(".index.json") {
                fs::remove_file(&entry).unwrap();
            }
        }
        let tensors: Vec<(String, HostTensor)> = tensors.into_iter().collect();
        write_safetensors(&self.file("model.safetensors"), &tensors).unwrap();
    }
}

/// A tensor with every value changed, same shape, as f32.
pub fn changed(tensor: &HostTensor) -> HostTensor {
    let values: Vec<f32> =
        tensor.to_f32().iter().enumerate().map(|(i, v)| v * 0.75 + 0.01 * (i % 7) as f32).collect();
    HostTensor::from_f32(&tensor.shape, &values)
}

/// What a run of the program gave.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The program, with no Hugging Face cache and no network but what the test sets.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stairwell"));
    let nowhere = concat!(env!("CARGO_TARGET_TMPDIR"), "/no-such-cache");
    command
        .env("HF_HOME", nowhere)
        .env_remove("HF_HUB_CACHE")
        .env_remove("NO_COLOR")
        .env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Ran {
    finish(program().args(args))
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// Checks that it went well; returns stdout.
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Checks that it went well and printed one JSON value; returns that.
    pub fn json(self) -> Value {
        let text = self.good();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Checks that the program refused: an exit code of its own making, nothing on stdout, one line on stderr (notes
    /// aside) that holds every one of `parts`. Returns the line.
    pub fn refused(self, parts: &[&str]) -> String {
        assert!(matches!(self.code, Some(1 | 2)), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.starts_with("note:")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: ") && self.stdout.is_empty(), "{self:#?}");
        for part in parts {
            assert!(lines[0].contains(part), "there is no '{part}' in: {}", lines[0]);
        }
        lines[0].to_owned()
    }
}

/// Greedy ids by the program, which must accept the directory.
pub fn accepted(dir: &Path, prompt: &[u32], more: &[&str]) -> Vec<u32> {
    let ids = prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let dir = dir.to_str().unwrap();
    let args = [
        "generate",
        "--model",
        dir,
        "--prompt-ids",
        &ids,
        "--temperature",
        "0",
        "--max-tokens",
        "4",
        "--json",
    ];
    let object = run(&[&args[..], more].concat()).json();
    object["output_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
