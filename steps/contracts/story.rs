//! The demo story, written with the engine's own pieces and with someone else's.

use stairwell::{
    attention::{self, KvOptions},
    backend::{Backend, cpu::Cpu},
    demo,
    error::Result,
    generate::{GenerateParams, generate},
    model::{self, Completeness, Loading},
    runner::{LoadOptions, ModelRunner, read_config},
    sampling::SamplingParams,
    tensor::HostTensor,
    tokenizer::Tokenizer,
};
use std::ops::ControlFlow;

pub const PROMPT: &str = "Once upon a time";
/// Long enough for a mistake that shows only after twenty tokens.
pub(super) const TOKENS: usize = 40;

/// The window of each of the demo's layers.
pub(super) type Windows = [Option<usize>; 4];
pub const NO_WINDOWS: Windows = [None; 4];

/// What can write a story: a runner, and from step 7 on a worker that leads ranks.
pub(super) trait Storyteller {
    /// The ids after a prompt, greedy, and how many tokens went through the model.
    fn tell(&mut self, prompt: &[u32], params: &GenerateParams) -> Result<(Vec<u32>, u64)>;
}

impl<B: Backend> Storyteller for ModelRunner<B> {
    fn tell(&mut self, prompt: &[u32], params: &GenerateParams) -> Result<(Vec<u32>, u64)> {
        let output = generate(self, prompt, params, &mut |_| ControlFlow::Continue(()))?;
        Ok((output.ids, self.tokens_computed()))
    }
}

/// Panics unless a runner writes the story that the engine writes, token for token.
#[track_caller]
pub(super) fn check_story(mine: Result<impl Storyteller>) {
    check_story_of(NO_WINDOWS, PROMPT, mine);
}

/// The same with windows, and after another prompt. The engine writes the story by recomputing.
/// Gives the tokens of the prompt, and how many went through the reader's model.
#[track_caller]
pub(super) fn check_story_of(windows: Windows, prompt: &str, mine: Result<impl Storyteller>) -> (u64, u64) {
    let prompt_ids = tokenizer().and_then(|t| Ok(t.encode_prompt(prompt)?)).expect("the demo's tokenizer");
    let ours = recompute(windows).and_then(|mut runner| write(&mut runner, &prompt_ids));
    let (ours, _) = ours.expect("the engine's own story");
    let mine = mine.and_then(|mut runner| write(&mut runner, &prompt_ids));
    let (mine, computed) =
        mine.unwrap_or_else(|e| panic!("the engine can't write the demo story with your piece: {e}"));
    if let Some(at) = ours.iter().zip(&mine).position(|(ours, mine)| ours != mine) {
        let [ours, mine] = [ours, mine].map(|ids| text(&ids));
        panic!(
            "the demo story differs at token {at} of {TOKENS}\n  yours:    {prompt}{mine}\n  expected: {prompt}{ours}"
        );
    }
    (prompt_ids.len() as u64, computed)
}

/// The engine at its plainest.
fn recompute(windows: Windows) -> Result<ModelRunner<Cpu>> {
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    ModelRunner::load_with(Cpu::default(), &demo::directory(), options, |mut shape, kv| {
        shape.windows = windows.to_vec();
        attention::build(shape, kv)
    })
}

/// Step 1's runner, whose small operations are given.
pub(super) fn runner_on(backend: Cpu) -> Result<ModelRunner<Cpu>> {
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    ModelRunner::load_with(backend, &demo::directory(), options, attention::build)
}

/// A runner of the demo model whose weights are given by name.
pub(super) fn runner_of(tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Result<ModelRunner<Cpu>> {
    let (backend, demo) = (Cpu::default(), demo::directory());
    let config = read_config(&demo)?;
    let mut model = model::build(&backend, &config, config.context())?;
    let loading = Loading {
        architecture: config.architecture,
        quantization: None,
        rules: &Default::default(),
        completeness: Completeness::All,
        file_of: &|_| demo.root(),
        origin: demo.root(),
        events: &mut |_| {},
    };
    model::load_weights(&backend, &mut *model, tensors, loading)?;
    let attention = attention::build(model.attention_shape(), &KvOptions::recompute())?;
    ModelRunner::new(config, backend, model, attention)
}

pub(super) fn tokenizer() -> Result<Tokenizer> {
    Ok(Tokenizer::new(demo::tokenizer_files())?)
}

/// The story's ids: greedy, and on past its end.
pub(super) fn write(runner: &mut impl Storyteller, prompt: &[u32]) -> Result<(Vec<u32>, u64)> {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let params = GenerateParams { max_tokens: TOKENS, sampling, eos_token_id: Vec::new() };
    runner.tell(prompt, &params)
}

pub(super) fn text(ids: &[u32]) -> String {
    let text = tokenizer().expect("the demo's tokenizer").decode(ids, true);
    text.replace('\n', " ")
}

/// Another order of summation must not change a story: a contract would call a right solution wrong.
pub fn check_margins(windows: Windows, prompt: &str) {
    let mut runner = recompute(windows).unwrap();
    let prompt = tokenizer().unwrap().encode_prompt(prompt).unwrap();
    let (ids, _) = write(&mut runner, &prompt).unwrap();
    let mut batch = stairwell::batch::Batch::of(&[&prompt[..], &ids].concat());
    batch.logit_rows = (prompt.len() as u32 - 1..batch.tokens.len() as u32 - 1).collect();
    let logits = runner.forward(&batch, None).unwrap();
    for (at, row) in logits.data().chunks(runner.config.vocab_size).enumerate() {
        let mut sorted = row.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let gap = sorted[0] - sorted[1];
        assert!(
            gap > 1e-3,
            "token {at}: the best two logits are {gap} apart; choose another prompt or TOKENS"
        );
    }
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert!(ids.len() == TOKENS && distinct.len() > TOKENS / 4, "no story: {}", text(&ids));
}
