//! Step 9's scales of K and V and its activations of 8 bits on the simulated device, and on ranks.

use crate::common::{Checkpoint, Reference, accepted, run};
use crate::device::device;
use crate::kv_scales_case::check;
use serde_json::json;
use stairwell::attention::cuda::{FlashCuda, PagedCuda};
use stairwell::backend::cuda::Cuda;
use stairwell::tensor::HostTensor;

#[test]
fn kernels_read_what_the_scales_keep() {
    let cuda = Cuda::new(device());
    check(&cuda, |shape, kv| Box::new(PagedCuda::new(cuda.device(), shape, &kv, 1 << 30).unwrap()));
    check(&cuda, |shape, kv| Box::new(FlashCuda::new(cuda.device(), shape, &kv, 1 << 30).unwrap()));
}

/// The demo of the rank tests, with scales of K and V in its checkpoint, other ones in each layer.
fn scaled() -> Checkpoint {
    let checkpoint = Checkpoint::copy("llama2");
    checkpoint.edit_tensors(|tensors| {
        for layer in 0..2 {
            for (name, value) in [("k_scale", 0.02), ("v_scale", 0.005)] {
                let scale = HostTensor::from_f32(&[], &[value * (layer + 1) as f32]);
                tensors.insert(format!("model.layers.{layer}.self_attn.{name}"), scale);
            }
        }
    });
    checkpoint
}

/// The same tokens on one rank and on several, with scales of the checkpoint, of a file for one rank, and of a file for two.
#[test]
fn ranks_use_their_scales() {
    let (checkpoint, prompt) = (scaled(), Reference::of("llama2").prompt);
    let path = checkpoint.file("kv.json").to_str().unwrap().to_owned();
    let tokens = |flags: &[&str]| {
        accepted(
            checkpoint.path(),
            &prompt,
            &[&["--kv-dtype", "fp8-e4m3", "--device", "cpu"], flags].concat(),
        )
    };
    let file = ["--quantization-param-path", &path];
    let one = tokens(&[]);
    for cut in [&["--tp", "2"][..], &["--pp", "2"]] {
        assert_eq!(tokens(cut), one, "{cut:?}");
    }
    assert_eq!(accepted(checkpoint.path(), &prompt, &["--kv-dtype", "fp8-e4m3", "--device", "sim"]), one);

    let layers = json!({"0": 0.02, "1": 0.03});
    let of = |ranks: serde_json::Value| {
        checkpoint.write("kv.json", json!({"kv_cache": {"scaling_factor": ranks}}).to_string());
    };
    of(json!({"0": layers}));
    let from_file = tokens(&file);
    for cut in [&["--tp", "2"][..], &["--pp", "2"]] {
        assert_eq!(tokens(&[&file[..], cut].concat()), from_file, "{cut:?}");
    }
    of(json!({"0": layers, "1": layers}));
    assert_eq!(tokens(&[&file[..], &["--tp", "2"]].concat()), from_file);
    let base =
        ["generate", "--model", checkpoint.name(), "--prompt-ids", "1,2", "--max-tokens", "2", "--pp", "2"];
    let flags = [&base[..], &["--kv-dtype", "fp8-e4m3", "--device", "cpu"], &file].concat();
    run(&flags).refused(&["kv_cache.scaling_factor", "2 tensor parallel ranks, and there are 1"]);
}

/// Activations of 8 bits are the CPU's. Ranks have them too, and their columns begin at whole blocks, so that a rank rounds as the whole does.
#[test]
fn ranks_multiply_integers_and_devices_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    run(&["quantize", "--out", out, "--method", "gptq", "--bits", "4", "--group-size", "32"]).good();
    let tokens =
        |flags: &[&str]| accepted(dir.path(), &[1, 2, 3, 4], &[&["--device", "cpu"], flags].concat());
    let int8 = ["--act-dtype", "int8"];
    let whole = tokens(&int8);
    for cut in [&["--tp", "2"][..], &["--pp", "2"]] {
        assert_eq!(tokens(&[&int8[..], cut].concat()), whole, "{cut:?}");
    }
    let base = ["generate", "--model", out, "--prompt", "Once", "--max-tokens", "2", "--device", "sim"];
    run(&[&base[..], &int8].concat()).refused(&["--act-dtype int8", "only the CPU", "--device cpu"]);
}
