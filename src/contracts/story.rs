//! The demo story, written with the engine's own pieces and with someone else's.

use crate::{
    backend::cpu::Cpu,
    demo,
    error::Result,
    generate::{GenerateParams, generate},
    kv::{self, KvOptions},
    model::{self, Completeness, Loading},
    runner::{LoadOptions, ModelRunner, read_config},
    sampling::SamplingParams,
    tensor::HostTensor,
    tokenizer::Tokenizer,
};
use std::{ops::ControlFlow, sync::OnceLock};

const PROMPT: &str = "Once upon a time";
/// Long enough for a mistake that shows only after twenty tokens.
const TOKENS: usize = 40;

/// Panics unless a runner writes the story that the engine writes, token for token.
#[track_caller]
pub(super) fn check_story(mine: Result<ModelRunner<Cpu>>) {
    static OURS: OnceLock<Vec<u32>> = OnceLock::new();
    let ours = OURS.get_or_init(|| {
        write(ModelRunner::load(&demo::directory(), LoadOptions::default())).expect("the engine's own story")
    });
    let mine =
        write(mine).unwrap_or_else(|e| panic!("the engine can't write the demo story with your piece: {e}"));
    let Some(at) = ours.iter().zip(&mine).position(|(ours, mine)| ours != mine) else { return };
    let [ours, mine] = [ours, &mine].map(|ids| text(ids));
    panic!(
        "the demo story differs at token {at} of {TOKENS}\n  yours:    {PROMPT}{mine}\n  expected: {PROMPT}{ours}"
    );
}

/// Step 1's runner, whose small operations are given.
pub(super) fn runner_on(backend: Cpu) -> Result<ModelRunner<Cpu>> {
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    ModelRunner::load_with(backend, &demo::directory(), options, kv::build)
}

/// A runner of the demo model whose weights are given by name.
pub(super) fn runner_of(tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Result<ModelRunner<Cpu>> {
    let (backend, demo) = (Cpu::default(), demo::directory());
    let config = read_config(&demo)?;
    let mut model = model::build(&backend, &config, config.context())?;
    let loading = Loading {
        architecture: config.architecture,
        rules: &Default::default(),
        completeness: Completeness::All,
        file_of: &|_| demo.root(),
        origin: demo.root(),
        events: &mut |_| {},
    };
    model::load_weights(&backend, &mut *model, tensors, loading)?;
    let attention = kv::build(model.attention_shape(), &KvOptions::recompute())?;
    ModelRunner::new(config, backend, model, attention)
}

fn tokenizer() -> Result<Tokenizer> {
    Ok(Tokenizer::new(demo::tokenizer_files())?)
}

/// The story's ids: greedy, and on past its end.
fn write(runner: Result<ModelRunner<Cpu>>) -> Result<Vec<u32>> {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let params = GenerateParams { max_tokens: TOKENS, sampling, eos_token_id: Vec::new() };
    let prompt = tokenizer()?.encode_prompt(PROMPT)?;
    Ok(generate(&mut runner?, &prompt, &params, &mut |_| ControlFlow::Continue(()))?.ids)
}

fn text(ids: &[u32]) -> String {
    let text = tokenizer().expect("the demo's tokenizer").decode(ids, true);
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;

    /// Another order of summation must not change the story: a contract would call a right solution wrong.
    #[test]
    fn no_token_of_the_story_is_a_narrow_choice() {
        let load = || ModelRunner::load(&demo::directory(), LoadOptions::default());
        let ids = write(load()).unwrap();
        let prompt = tokenizer().unwrap().encode_prompt(PROMPT).unwrap();
        let mut batch = Batch::of(&[&prompt[..], &ids].concat());
        batch.logit_rows = (prompt.len() as u32 - 1..batch.tokens.len() as u32 - 1).collect();
        let mut runner = load().unwrap();
        let logits = runner.forward(&batch, None).unwrap();
        for (at, row) in logits.data().chunks(runner.config.vocab_size).enumerate() {
            let mut sorted = row.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let gap = sorted[0] - sorted[1];
            assert!(
                gap > 1e-3,
                "token {at}: the best two logits are {gap} apart; choose another PROMPT or TOKENS"
            );
        }
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert!(ids.len() == TOKENS && distinct.len() > TOKENS / 4, "no story: {}", text(&ids));
    }
}
