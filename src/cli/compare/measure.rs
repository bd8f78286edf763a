//! One model: what it takes, how fast it is, and its logits of the text.

use super::super::divergence::{Divergence, log_sum_exp};
use super::super::terminal::peak_memory;
use serde::{Deserialize, Serialize};
use stairwell::{
    attention,
    backend::{Backend, Shaped, cpu::Cpu},
    batch::Batch,
    checkpoint::{Directory, LoadFormat, locate, write_safetensors},
    error::{Error, Result},
    files,
    generate::{GenerateParams, generate},
    request::Checkpoint,
    runner::{LoadOptions, ModelRunner},
    sampling::SamplingParams,
    tensor::HostTensor,
};
use std::{ops::ControlFlow, path::Path, time::Instant};

/// A text of ours.
const STORY: &str = "\
A small red boat lay on the sand. Every morning Mira came to look at it, and every morning it had a little more sand inside. \
\"Whose boat are you?\" she asked. The boat said nothing, as boats do. One day Mira brought a spade. She dug until her hands hurt, \
and when she had dug out the last of the sand, she found a name on the boat's side, painted by somebody who could not paint: Patience. \
Her grandfather laughed when he heard it. \"I built her,\" he said, \"the summer before your mother was born. I thought the sea had \
taken her.\" They mended two boards and put on new paint. When the tide came in, the boat rose from the sand as if it had only been \
asleep, and Mira rowed her grandfather once around the bay. He was quiet all the way. Then he said: \"She is slower than I remember.\" \
\"No,\" said Mira. \"We are going against the wind.\"";

/// Tokens that are generated to measure decoding.
const DECODED: usize = 32;

/// What was measured.
#[derive(Serialize, Deserialize)]
pub struct Measured {
    pub weight_bytes: u64,
    pub weight_bytes_per_step: u64,
    pub peak_memory_bytes: Option<u64>,
    pub load_seconds: f64,
    pub prompt_tokens_per_second: f64,
    pub decode_tokens_per_second: f64,
    /// exp of the mean of −ln p(token), over the text's tokens from the second on.
    pub perplexity: f64,
    /// With activations of 8 bits: the distance of the logits from those of exact activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8: Option<Divergence>,
    pub text_ids: Vec<u32>,
}

/// Measures a model, and writes its logits of the text. `int8`: packed weights are multiplied by activations of 8 bits.
pub fn measure(model: &str, text: Option<&Path>, tokens: usize, int8: bool, out: &Path) -> Result<Measured> {
    let directory = locate(model, None)?;
    let ids = text_ids(&directory, text, tokens)?;
    let start = Instant::now();
    let options = LoadOptions { max_length: Some(ids.len() + DECODED), ..LoadOptions::default() };
    // A dense model among packed ones is multiplied as ever, and not refused.
    let cpu = Cpu::default().with_int8_activations(int8);
    let mut runner = ModelRunner::load_with(cpu, &directory, options, attention::build)?;
    let load_seconds = start.elapsed().as_secs_f64();
    runner.check_prompt(&ids)?;

    let mut batch = Batch::of(&ids);
    batch.want_all_logits();
    // The first pass reads the weights' pages.
    runner.forward(&Batch::of(&ids[..1]), None)?;
    let start = Instant::now();
    let logits = runner.forward(&batch, None)?;
    let prompt_seconds = start.elapsed().as_secs_f64();
    let shape = [logits.rows(), logits.cols()];
    let logits = runner.backend.download(&logits)?;
    let perplexity = perplexity(&logits, shape[1], &ids);
    write_safetensors(out, &[("logits".into(), HostTensor::from_f32(&shape, &logits))])?;
    drop(logits);
    let int8 = int8 && runner.backend.holds_int8_weights();
    let int8 = int8.then(|| Divergence::of_int8(&mut runner, &ids)).transpose()?;

    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let params = GenerateParams { max_tokens: DECODED, sampling, eos_token_id: Vec::new() };
    let decoded = generate(&mut runner, &ids[..2], &params, &mut |_| ControlFlow::Continue(()))?;
    let decode_seconds = (decoded.total_time - decoded.time_to_first_token).as_secs_f64();
    Ok(Measured {
        weight_bytes: runner.weights.held,
        weight_bytes_per_step: runner.weights.per_step,
        peak_memory_bytes: peak_memory(),
        load_seconds,
        prompt_tokens_per_second: ids.len() as f64 / prompt_seconds,
        decode_tokens_per_second: (decoded.ids.len() - 1) as f64 / decode_seconds,
        perplexity,
        int8,
        text_ids: ids,
    })
}

fn text_ids(directory: &Directory, text: Option<&Path>, tokens: usize) -> Result<Vec<u32>> {
    let text = match text {
        None => STORY.to_owned(),
        Some(file) => {
            let bytes =
                files::read(file, 64 << 20).map_err(|error| Error::Io { path: file.into(), error })?;
            String::from_utf8(bytes)
                .map_err(|_| Error::Usage(format!("--prompts {}: it is not UTF-8", file.display())))?
        }
    };
    let checkpoint = Checkpoint::open_with(directory.clone(), LoadFormat::Auto, None)?;
    let tokenizer = checkpoint.tokenizer().map_err(|why| Error::Usage(why.to_owned()))?;
    let mut ids = tokenizer.encode(&text, true)?;
    ids.truncate(tokens.min(checkpoint.config.context().saturating_sub(DECODED)));
    match ids.len() {
        0 | 1 => Err(Error::Usage("the text has fewer than two tokens".into())),
        _ => Ok(ids),
    }
}

fn perplexity(logits: &[f32], vocabulary: usize, ids: &[u32]) -> f64 {
    let rows = logits.chunks_exact(vocabulary).zip(&ids[1..]);
    let losses = rows.map(|(row, next)| log_sum_exp(row) - row[*next as usize] as f64);
    (losses.sum::<f64>() / (ids.len() - 1) as f64).exp()
}
