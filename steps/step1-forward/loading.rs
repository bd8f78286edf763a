//! The way of a byte to a parameter, by the API: `cargo run --release --example step1_loading`

use anyhow::Result;
use stairwell::{
    attention::{self, KvOptions},
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    checkpoint::{LoadRules, StateDict},
    config::ModelConfig,
    demo,
    model::{self, Completeness, Loading, load_weights},
    runner::{ModelRunner, read_config},
    tensor::HostTensor,
    tokenizer::Tokenizer,
};

fn main() -> Result<()> {
    let directory = demo::directory();
    let (config, state_dict) = (read_config(&directory)?, StateDict::open(&directory)?);
    find(&state_dict);

    println!("\na stream with two names that the model does not have:");
    let with_norms = || {
        let norms =
            ["norm_mean", "norm_std"].map(|name| (name.to_owned(), HostTensor::from_f32(&[2], &[0.0, 1.0])));
        state_dict.tensors().chain(norms)
    };
    let refused = load(&config, with_norms(), &LoadRules::default()).map(|_| ());
    println!("  by default:  {}", refused.expect_err("two unknown names"));
    let mut runner = load(&config, with_norms(), &skip_norms())?;
    println!("  skip list:   {}", next_token(&mut runner)?);
    let from_training = with_norms().map(|(name, tensor)| (format!("actor.{name}"), tensor));
    let mut runner = load(&config, from_training, &from_actor())?;
    println!("  mapper:      {}", next_token(&mut runner)?);

    println!("\nupdating weights in place:");
    update(&mut runner, &state_dict)
}

// ANCHOR: find
/// Name to bytes: the index names the shard, the shard's header the range, and the view shows it without a copy.
fn find(state_dict: &StateDict) {
    let name = "model.layers.3.self_attn.v_proj.weight";
    let entry = state_dict.entry(name).expect("the demo has a layer 3");
    let tensor = state_dict.tensor(name).expect("an entry has a view");
    println!("{name}");
    println!(
        "  {} in bytes {:?} of {}",
        tensor.dtype,
        entry.info.range,
        state_dict.shards()[entry.shard].file
    );
    println!("  {:?}, first values {:?}", tensor.shape, &tensor.to_f32()[..3]);
}
// ANCHOR_END: find

// ANCHOR: rules
/// Leaves the two statistics out by name.
fn skip_norms() -> LoadRules {
    let mut rules = LoadRules::default();
    rules.skip_substrs.extend(["norm_mean".into(), "norm_std".into()]);
    rules
}

/// Renames what a training run called `actor.…`, and drops the two statistics by renaming them to nothing.
fn from_actor() -> LoadRules {
    let mut rules = LoadRules::default();
    rules.mapper.prefixes = vec![("actor.norm_".into(), None), ("actor.".into(), Some(String::new()))];
    rules
}
// ANCHOR_END: rules

// ANCHOR: load
/// A model from any stream of (name, tensor).
fn load(
    config: &ModelConfig,
    tensors: impl Iterator<Item = (String, HostTensor)>,
    rules: &LoadRules,
) -> Result<ModelRunner<Cpu>> {
    let cpu = Cpu::default();
    let mut model = model::build(&cpu, config, config.context())?;
    let loading = Loading {
        architecture: config.architecture,
        quantization: None,
        rules,
        completeness: Completeness::All,
        file_of: &|_| "stream".into(),
        origin: "stream".into(),
        events: &mut |_| {},
    };
    load_weights(&cpu, &mut *model, tensors, loading)?;
    let attention = attention::build(model.attention_shape(), &KvOptions::default())?;
    Ok(ModelRunner::new(config.clone(), cpu, model, attention)?)
}
// ANCHOR_END: load

// ANCHOR: update
/// New values for one parameter of a model in use, then for none because a shape is wrong, then the old ones.
fn update(runner: &mut ModelRunner<Cpu>, state_dict: &StateDict) -> Result<()> {
    let name = || "model.norm.weight".to_owned();
    let old = state_dict.tensor(&name()).expect("the demo has a last norm");
    println!("  before:      {}", next_token(runner)?);

    let negative: Vec<f32> = old.to_f32().iter().map(|v| -v).collect();
    runner.update_weights([(name(), HostTensor::from_f32(&old.shape, &negative))])?;
    println!("  negated:     {}", next_token(runner)?);

    let too_short = [(name(), old.clone()), ("lm_head.weight".into(), HostTensor::from_f32(&[1], &[0.0]))];
    println!("  refused:     {}", runner.update_weights(too_short).expect_err("a wrong shape"));
    println!("  unchanged:   {}", next_token(runner)?);

    runner.update_weights([(name(), old)])?;
    println!("  put back:    {}", next_token(runner)?);
    Ok(())
}
// ANCHOR_END: update

/// The greedy token after a short prompt, as it is written.
fn next_token(runner: &mut ModelRunner<Cpu>) -> Result<String> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let prompt = tokenizer.encode_prompt("Once upon a")?;
    let logits = runner.forward(&Batch::of(&prompt), None)?;
    let logits = runner.backend.download(&logits)?;
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or_default();
    Ok(format!("{:?}", tokenizer.piece(best as u32).unwrap_or_default()))
}
