//! Step 9: packed weights. What `quantize` writes is read twice: by the engine, and by the small reader below, which makes dense f32 weights of it.
//! The second is written from the layouts' descriptions, and shares nothing with the engine's.

use crate::common::{bits, distance, load, load_on, load_with, logits, read_tensors, run};
use half::f16;
use serde_json::{Value, json};
use stairwell::{
    backend::cpu::{Cpu, Isa},
    checkpoint::write_safetensors,
    runner::{LoadFormat, LoadOptions},
    tensor::{DType, HostTensor},
};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

type Tensors = BTreeMap<String, HostTensor>;

/// Logits of packed weights differ from those of the same numbers, dense, by rounding alone.
const TOLERANCE: f32 = 1e-4;

/// The demo model, packed.
fn packed(flags: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    run(&[&["quantize", "--out", out], flags].concat()).good();
    dir
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

/// Field number `at` of a stream of `bits` bits, whose words are `stride` apart from number `first` on.
fn field(words: &HostTensor, first: usize, stride: usize, bits: usize, at: usize) -> u32 {
    (0..bits).fold(0, |field, bit| {
        let place = at * bits + bit;
        let byte = 4 * (first + place / 32 * stride) + place % 32 / 8;
        field | ((words.data[byte] >> (place % 8) & 1) as u32) << bit
    })
}

fn half(tensor: &HostTensor, at: usize) -> f32 {
    f16::from_le_bytes([tensor.data[2 * at], tensor.data[2 * at + 1]]).to_f32()
}

fn single(tensor: &HostTensor, at: usize) -> f32 {
    f32::from_le_bytes(tensor.data[4 * at..4 * at + 4].try_into().unwrap())
}

/// The number of an output and an input.
type Number<'a> = Box<dyn Fn(usize, usize) -> f32 + 'a>;

/// The numbers of one packed module, [outputs, inputs].
fn numbers(module: &str, tensors: &Tensors, q: &Value) -> HostTensor {
    let get = |part: &str| &tensors[&format!("{module}.{part}")];
    let group = q["group_size"].as_u64().unwrap_or(1) as usize;
    let (shape, number): ([usize; 2], Number) = match q["quant_method"].as_str().unwrap() {
        "gptq" => {
            let (b, qweight, qzeros, scales) =
                (q["bits"].as_u64().unwrap() as usize, get("qweight"), get("qzeros"), get("scales"));
            let n = qweight.shape[1];
            let number = move |o: usize, k: usize| {
                let code = field(qweight, o, n, b, k) as f32;
                let zero = field(qzeros, k / group * qzeros.shape[1], 1, b, o) as f32 + 1.0;
                (code - zero) * half(scales, k / group * n + o)
            };
            ([n, qweight.shape[0] * 32 / b], Box::new(number))
        }
        "awq" => {
            let (qweight, qzeros, scales) = (get("qweight"), get("qzeros"), get("scales"));
            let place = |o: usize| o / 8 * 8 + [0, 4, 1, 5, 2, 6, 3, 7][o % 8];
            let (words, n) = (qweight.shape[1], qweight.shape[1] * 8);
            let number = move |o: usize, k: usize| {
                let code = field(qweight, k * words, 1, 4, place(o)) as f32;
                let zero = field(qzeros, k / group * words, 1, 4, place(o)) as f32;
                (code - zero) * half(scales, k / group * n + o)
            };
            ([n, qweight.shape[0]], Box::new(number))
        }
        "compressed-tensors" => {
            let (codes, scales) = (get("weight_packed"), get("weight_scale"));
            let inputs = 4 * codes.shape[1];
            let number =
                move |o: usize, k: usize| (codes.data[o * inputs + k] as f32 - 128.0) * single(scales, o);
            ([codes.shape[0], inputs], Box::new(number))
        }
        "fp8" => {
            let (codes, scales) = (get("weight"), get("weight_scale_inv"));
            let (inputs, blocks) = (codes.shape[1], scales.shape[1]);
            let number = move |o: usize, k: usize| {
                let code = float8::F8E4M3::from_bits(codes.data[o * inputs + k]).to_f32();
                code * single(scales, o / 128 * blocks + k / 128)
            };
            ([codes.shape[0], inputs], Box::new(number))
        }
        other => panic!("{other}"),
    };
    let [outputs, inputs] = shape;
    let all: Vec<f32> = (0..outputs * inputs).map(|at| number(at / inputs, at % inputs)).collect();
    HostTensor::from_f32(&shape, &all)
}

/// A checkpoint of the same numbers, dense.
fn dense(from: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, tensors) = (config(from), read_tensors(&from.join("model.safetensors")));
    let q = config.as_object_mut().unwrap().remove("quantization_config").unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let first = |name: &str| {
        let parts = [".qweight", ".weight_packed", ".weight_scale_inv"];
        parts.iter().find_map(|part| name.strip_suffix(part)).map(String::from)
    };
    let modules: Vec<String> = tensors.keys().filter_map(|name| first(name)).collect();
    assert_eq!(modules.len(), 4 * 7, "all matrices of the demo's layers");
    let mut all: Vec<(String, HostTensor)> =
        modules.iter().map(|module| (format!("{module}.weight"), numbers(module, &tensors, &q))).collect();
    let is_packed = |name: &String| modules.iter().any(|module| name.starts_with(&format!("{module}.")));
    all.extend(tensors.clone().into_iter().filter(|(name, _)| !is_packed(name)));
    write_safetensors(&dir.path().join("model.safetensors"), &all).unwrap();
    dir
}

const PROMPT: [u32; 21] =
    [5, 1999, 300, 7, 7, 1024, 90, 511, 3, 1500, 42, 64, 8, 999, 2, 77, 640, 1, 1300, 13, 200];

/// Every method, on every instruction set.
#[test]
fn logits_are_those_of_the_same_numbers() {
    for flags in [
        &["--method", "gptq", "--group-size", "32"][..],
        &["--method", "gptq", "--group-size", "64", "--asymmetric"],
        &["--method", "gptq", "--group-size", "128", "--bits", "8"],
        &["--method", "gptq", "--group-size", "32", "--bits", "3", "--asymmetric"],
        &["--method", "gptq", "--group-size", "128", "--bits", "2", "--asymmetric"],
        &["--method", "awq-rtn", "--group-size", "64"],
        &["--method", "int8"],
        &["--method", "fp8"],
    ] {
        let packed = packed(flags);
        let want = logits(&mut load(dense(packed.path()).path()), &PROMPT);
        for isa in Isa::supported() {
            let mut runner = load_on(Cpu::with_isa(isa), packed.path());
            let got = logits(&mut runner, &PROMPT);
            let error = distance(&got, &want);
            assert!(error <= TOLERANCE, "{flags:?} on {isa:?}: {error:.1e}");
            // A few rows are multiplied in place, more of them by blocks; no bit tells which.
            let vocabulary = got.len() / PROMPT.len();
            for n in [1, 2, 3, 4, 5, 9] {
                let few = logits(&mut runner, &PROMPT[..n]);
                assert_eq!(bits(&few), bits(&got[..n * vocabulary]), "{flags:?} on {isa:?}: {n} rows");
            }
        }
    }
}

/// Faults that a reader of the layouts might make: each is far outside the tolerance.
#[test]
fn planted_faults_are_seen() {
    let dir = packed(&["--method", "gptq", "--group-size", "32", "--asymmetric"]);
    let file = dir.path().join("model.safetensors");
    let (whole, want) = (read_tensors(&file), logits(&mut load(dir.path()), &PROMPT));
    let with = |part: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let changed = whole.iter().map(|(name, tensor)| {
            let mut bytes = tensor.data.to_vec();
            if name.ends_with(part) {
                change(&mut bytes);
            }
            (name.clone(), HostTensor::from_bytes(tensor.dtype, &tensor.shape, bytes))
        });
        write_safetensors(&file, &changed.collect::<Vec<_>>()).unwrap();
        distance(&logits(&mut load(dir.path()), &PROMPT), &want)
    };
    let swapped = with("qweight", &|bytes| bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4)));
    let off_by_one = with("qzeros", &|bytes| bytes[0] ^= 1);
    let of_another_group = with(".scales", &|bytes| bytes.rotate_left(2));
    let another_order = with("g_idx", &|bytes| bytes.rotate_left(4 * 32));
    for (fault, error) in [
        ("swapped nibbles", swapped),
        ("zero off by one", off_by_one),
        ("scale of another group", of_another_group),
        ("g_idx of another group", another_order),
    ] {
        assert!(error > 20.0 * TOLERANCE, "{fault}: {error:.1e}");
    }
}

/// GPTQ's act-order: groups are anywhere among the inputs. A checkpoint whose inputs are renumbered says so by g_idx, and is the same model.
#[test]
fn groups_may_be_anywhere() {
    let dir = packed(&["--method", "gptq", "--group-size", "32", "--bits", "8", "--asymmetric"]);
    let file = dir.path().join("model.safetensors");
    let (mut tensors, want) = (read_tensors(&file), logits(&mut load(dir.path()), &PROMPT));
    // Every input is in a group of its own order: scales and zeros of the groups are reversed, and so is g_idx.
    let names: Vec<String> = tensors.keys().filter(|name| name.ends_with(".g_idx")).cloned().collect();
    for name in names {
        let module = name.strip_suffix(".g_idx").unwrap();
        let groups = tensors[&format!("{module}.scales")].shape[0];
        for part in ["scales", "qzeros"] {
            let tensor = tensors.get_mut(&format!("{module}.{part}")).unwrap();
            let row = tensor.data.len() / groups;
            let rows: Vec<u8> = tensor.data.chunks(row).rev().flatten().copied().collect();
            *tensor = HostTensor::from_bytes(tensor.dtype, &tensor.shape, rows);
        }
        let g_idx = tensors.get_mut(&name).unwrap();
        let reversed: Vec<u8> =
            (0..g_idx.shape[0]).flat_map(|k| ((groups - 1 - k / 32) as u32).to_le_bytes()).collect();
        *g_idx = HostTensor::from_bytes(DType::I32, &g_idx.shape, reversed);
    }
    write_safetensors(&file, &tensors.into_iter().collect::<Vec<_>>()).unwrap();
    let error = distance(&logits(&mut load(dir.path()), &PROMPT), &want);
    assert!(error <= TOLERANCE, "{error:.1e}");
}

#[test]
fn a_set_that_is_not_whole_is_refused_and_changes_nothing() {
    let dir = packed(&["--method", "awq-rtn", "--group-size", "64"]);
    let mut runner = load(dir.path());
    let before = bits(&logits(&mut runner, &PROMPT));
    let module = "model.layers.1.mlp.up_proj";
    let tensors = read_tensors(&dir.path().join("model.safetensors"));
    let of = |part: &str| (format!("{module}.{part}"), tensors[&format!("{module}.{part}")].clone());
    let error = runner.update_weights([of("qweight"), of("scales")]).unwrap_err().to_string();
    assert!(error.contains("qzeros") && error.contains(module), "{error}");
    assert_eq!(bits(&logits(&mut runner, &PROMPT)), before);

    // A whole set is one parameter.
    let doubled: Vec<u8> = {
        let scales = of("scales").1;
        (0..scales.len()).flat_map(|at| f16::from_f32(2.0 * half(&scales, at)).to_le_bytes()).collect()
    };
    let scales = HostTensor::from_bytes(DType::F16, &of("scales").1.shape, doubled);
    let set = [of("qweight"), of("qzeros"), (format!("{module}.scales"), scales)];
    runner.update_weights(set.clone()).unwrap();
    let updated = bits(&logits(&mut runner, &PROMPT));
    assert_ne!(updated, before);
    let mut changed = tensors.clone();
    changed.extend(set);
    write_safetensors(&dir.path().join("model.safetensors"), &changed.into_iter().collect::<Vec<_>>())
        .unwrap();
    assert_eq!(bits(&logits(&mut load(dir.path()), &PROMPT)), updated);
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = packed(&["--method", "gptq", "--group-size", "32"]);
    let file = dir.path().join("model.safetensors");
    let whole = read_tensors(&file);
    let refused = |change: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        write_safetensors(&file, &tensors.into_iter().collect::<Vec<_>>()).unwrap();
        let error = load_with(Cpu::default(), dir.path(), LoadOptions::default()).map(drop).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{parts:?}: {error}");
    };
    let module = "model.layers.0.mlp.down_proj";
    let name = |part: &str| format!("{module}.{part}");
    refused(&|t| drop(t.remove(&name("scales"))), &[&name("scales"), "missing"]);
    refused(
        &|t| t.get_mut(&name("scales")).unwrap().shape = vec![128, 12],
        &["scales", "expected [12, 128]"],
    );
    let far = |t: &mut Tensors| {
        let words = [9_u32.to_le_bytes(), (-1_i32).to_le_bytes()].repeat(192).concat();
        t.insert(name("g_idx"), HostTensor::from_bytes(DType::I32, &[384], words));
    };
    refused(&far, &["g_idx", "-1"]);
    refused(&|t| drop(t.insert(name("lookup_table"), HostTensor::from_f32(&[1], &[0.0]))), &["lookup_table"]);

    for (config, part) in [
        (json!({"quant_method": "gptq", "bits": 5, "group_size": 32}), "bits"),
        (
            json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "marlin"}),
            "marlin",
        ),
        (json!({"quant_method": "mxfp4"}), "mxfp4"),
        (json!({"quant_method": "awq", "bits": 4, "version": "llm-awq"}), "llm-awq"),
        (
            json!({"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {"a": {}}}),
            "marlin-24",
        ),
    ] {
        let mut json = self::config(dir.path());
        json["quantization_config"] = config;
        fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
        let error = load_with(Cpu::default(), dir.path(), LoadOptions::default()).map(drop).unwrap_err();
        assert!(error.contains("quantization_config") && error.contains(part), "{part}: {error}");
    }
}

#[test]
fn quantize_says_what_it_lost_and_refuses_what_it_can_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let (out, text) = (dir.path().join("out"), dir.path().join("text.txt"));
    let out = out.to_str().unwrap();
    fs::write(&text, "Once upon a time there was a little cat. ".repeat(60)).unwrap();
    let calibrated = ["--method", "gptq", "--group-size", "128", "--bits", "3"];
    let calibration = ["--calibration", text.to_str().unwrap()];
    let said = run(&[&["quantize", "--out", out], &calibrated[..], &calibration].concat()).good();
    let error = |said: &str| -> f64 {
        let lines = said.lines().filter_map(|line| line.split(": error ").nth(1)?.parse::<f64>().ok());
        lines.sum::<f64>() / 28.0
    };
    assert!(error(&said) > 0.0 && error(&said) < 0.2 && said.contains("it loads"), "{said}");
    // The same, without looking at inputs, is farther off where it counts.
    run(&["quantize", "--out", out, "--method", "fp8"]).refused(&["--out", "not empty"]);
    run(&["quantize", "--model", out, "--out", "x", "--method", "fp8"]).refused(&["packed already"]);
    let other = dir.path().join("other");
    let other = other.to_str().unwrap();
    run(&["quantize", "--out", other, "--method", "awq-rtn", "--bits", "8"]).refused(&["--bits 8"]);
    run(&["quantize", "--out", other, "--method", "gptq", "--group-size", "96"])
        .refused(&["--group-size 96"]);
    run(&["quantize", "--out", other, "--method", "fp8", "--group-size", "96"]).refused(&["--group-size"]);
    run(&["quantize", "--out", other, "--method", "int8", "--calibration", "x"]).refused(&["--calibration"]);
    assert!(!Path::new(other).exists());
}

#[test]
fn dummy_weights_are_packed_too() {
    for q in [
        json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true}),
        json!({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemv_fast"}),
        json!({"quant_method": "fp8", "weight_block_size": [128, 128]}),
        json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
        json!({"quant_method": "squeezellm", "wbits": 4}),
    ] {
        let dir = packed(&["--method", "int8"]);
        let mut config = config(dir.path());
        config["quantization_config"] = q.clone();
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let options = LoadOptions { format: LoadFormat::Dummy, ..LoadOptions::default() };
        let mut runner = load_with(Cpu::default(), dir.path(), options).unwrap();
        assert!(logits(&mut runner, &PROMPT).iter().all(|logit| logit.is_finite()), "{q}");
        let dense = 2 * 4 * (128 * (2 * 128 + 2 * 64) + 3 * 128 * 384);
        let table = 2 * 2048 * 128;
        assert!(runner.weights.held - table < dense * 3 / 5, "{q}: {:?}", runner.weights);
    }
}

#[test]
fn compare_orders_models_by_what_they_lost() {
    let (int8, two) =
        (packed(&["--method", "int8"]), packed(&["--method", "gptq", "--bits", "2", "--group-size", "128"]));
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    let [int8, two] = [&int8, &two].map(|dir| dir.path().to_str().unwrap().to_owned());
    let models = [demo, &int8, &two, "no-such-model"].join(",");
    let plot = tempfile::tempdir().unwrap();
    let plot = plot.path().join("quality.svg");
    // Stories of the kind that the demo knows.
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/steps/step9-quantized/unseen.txt");
    let flags = ["compare", "--models", &models, "--prompts", text, "--tokens", "64", "--json", "--plot"];
    let rows = run(&[&flags[..], &[plot.to_str().unwrap()]].concat()).json();
    let number =
        |row: usize, key: &str| rows[row][key].as_f64().unwrap_or_else(|| panic!("{key} of {rows:#}"));
    assert!(number(0, "mean_kl") == 0.0 && number(0, "agreement") == 1.0);
    assert!(number(1, "mean_kl") < 1e-3 && number(2, "mean_kl") > 20.0 * number(1, "mean_kl"), "{rows:#}");
    assert!(number(2, "perplexity") > number(0, "perplexity"), "{rows:#}");
    assert!(number(1, "weight_bytes") < 0.7 * number(0, "weight_bytes"), "{rows:#}");
    assert!(rows[3]["error"].as_str().unwrap().contains("no-such-model"), "{rows:#}");
    let svg = fs::read_to_string(plot).unwrap();
    assert_eq!(svg.matches("<circle").count(), 3);
    let text = run(&["compare", "--models", &[demo, &two].join(","), "--tokens", "16"]).good();
    assert!(text.contains("perplexity") && text.lines().count() == 3, "{text}");
}
