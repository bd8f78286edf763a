//! `stairwell compare`: the same text through several checkpoints, side by side.
//!
//! Every model runs in a process of its own, so that its peak memory is its own, and one that fails harms no other. The logits of the
//! first one are the reference for the quality of the others.

mod measure;
mod plot;
mod quality;

use super::divergence::Divergence;
use super::hub_args::HubArgs;
use super::model_args::Activations;
use super::terminal::{human_bytes, in_flags, json_line, print, table};
use measure::Measured;
use serde::Serialize;
use stairwell::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::{env, fs, process::Command};

/// Compare checkpoints of one model: memory, speed, and how far their logits are from the first one's
#[derive(clap::Args)]
#[command(after_help = "\
The first model is the reference. Perplexity is that of the text; KL is the mean divergence of a model's next-token
distributions from the reference's; agreement is how often the likeliest token is the same.

Example:
  stairwell compare --models Qwen3-0.6B,Qwen3-0.6B-int4,Qwen3-0.6B-fp8 --plot quality.svg")]
pub struct Args {
    /// Checkpoint directories or files, the reference first
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', required_unless_present = "measure")]
    models: Vec<String>,
    /// A text to read [default: a short story of ours]
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Tokens of the text that are read at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    tokens: usize,
    /// What packed weights are multiplied by; for int8, the distance from exact activations is printed too
    #[arg(long, value_enum, default_value_t = Activations::Auto)]
    act_dtype: Activations,
    /// Draw quality against bytes
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measures one model, for the process that compares
    #[arg(long, value_name = "MODEL", hide = true, requires = "logits")]
    measure: Option<String>,
    #[arg(long, value_name = "FILE", hide = true)]
    logits: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
}

/// One model.
#[derive(Serialize)]
struct Row {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    measured: Option<Measured>,
    #[serde(flatten)]
    quality: Option<Divergence>,
}

pub fn run(args: Args) -> Result<()> {
    if let (Some(model), Some(logits)) = (&args.measure, &args.logits) {
        let int8 = args.act_dtype == Activations::Int8;
        return print(&json_line(&measure::measure(
            model,
            args.prompts.as_deref(),
            args.tokens,
            int8,
            logits,
        )?));
    }
    if args.tokens < 2 {
        return Err(Error::Usage(
            "--tokens: two at least, since a token is predicted from those before it".into(),
        ));
    }
    let io = |error| Error::Io { path: "a temporary directory".into(), error };
    let directory = env::temp_dir().join(format!("stairwell-compare-{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(io)?;
    let rows = compare(&args, &directory);
    let _ = fs::remove_dir_all(&directory);
    let rows = rows?;
    if let Some(file) = &args.plot {
        fs::write(file, plot::svg(&rows)).map_err(|error| Error::Io { path: file.clone(), error })?;
    }
    match args.json {
        true => print(&json_line(&rows)),
        false => print(&text(&rows)),
    }
}

fn compare(args: &Args, directory: &Path) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    let reference = directory.join("0.safetensors");
    for (i, model) in args.models.iter().enumerate() {
        let logits = directory.join(format!("{i}.safetensors"));
        let mut row = Row { model: model.clone(), error: None, measured: None, quality: None };
        // The process that measures gets the folder, so that one place makes a folder of a name.
        let measured = match args.hub.locate(model, None) {
            Ok(directory) => apart(args, &directory.root(), &logits)?,
            Err(error) => Err(in_flags(&error)),
        };
        match measured {
            Err(error) => row.error = Some(error),
            Ok(measured) => {
                match rows.first().and_then(|first| first.measured.as_ref()) {
                    None if i > 0 => row.error = Some("the reference has no logits to compare with".into()),
                    Some(first) if first.text_ids != measured.text_ids => {
                        row.error = Some("its tokenizer gives other tokens than the reference's".into());
                    }
                    _ => row.quality = quality::quality(&reference, &logits)?,
                }
                row.measured = Some(measured);
            }
        }
        if i > 0 {
            let _ = fs::remove_file(&logits);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Measures a model in a process of its own: what it printed, or why it failed.
fn apart(args: &Args, model: &Path, logits: &Path) -> Result<Result<Measured, String>> {
    let program = env::current_exe().map_err(|error| Error::Io { path: "this program".into(), error })?;
    let mut command = Command::new(&program);
    command.args(["compare", "--tokens", &args.tokens.to_string(), "--measure"]).arg(model);
    command.arg("--logits").arg(logits);
    if args.act_dtype == Activations::Int8 {
        command.args(["--act-dtype", "int8"]);
    }
    if let Some(file) = &args.prompts {
        command.arg("--prompts").arg(file);
    }
    let output = command.output().map_err(|error| Error::Io { path: program, error })?;
    if output.status.success()
        && let Ok(measured) = serde_json::from_slice(&output.stdout)
    {
        return Ok(Ok(measured));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error =
        said.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it ended without an answer");
    Ok(Err(error.to_owned()))
}

fn text(rows: &[Row]) -> String {
    let heads = [
        "model",
        ">weights",
        ">peak",
        ">load s",
        ">prompt/s",
        ">decode/s",
        ">perplexity",
        ">KL",
        ">agreement",
    ];
    let cells = rows.iter().map(|row| {
        let Some(m) = &row.measured else {
            return [
                row.model.clone(),
                "failed".into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
            ]
            .map(Into::into);
        };
        let quality =
            |number: &dyn Fn(&Divergence) -> String| row.quality.as_ref().map_or(String::new(), number);
        [
            row.model.clone(),
            human_bytes(m.weight_bytes),
            m.peak_memory_bytes.map_or(String::new(), human_bytes),
            format!("{:.2}", m.load_seconds),
            format!("{:.1}", m.prompt_tokens_per_second),
            format!("{:.1}", m.decode_tokens_per_second),
            format!("{:.3}", m.perplexity),
            quality(&|q| format!("{:.5}", q.mean_kl)),
            quality(&|q| format!("{:.1} %", 100.0 * q.agreement)),
        ]
        .map(Into::into)
    });
    let mut text = table(heads, cells);
    for row in rows {
        if let Some(int8) = row.measured.as_ref().and_then(|measured| measured.int8) {
            text += &format!("{}: int8 activations, against exact ones: {}\n", row.model, int8.text());
        }
        if let Some(error) = &row.error {
            text += &format!("{}: {error}\n", row.model);
        }
    }
    text
}
