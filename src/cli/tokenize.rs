//! `stairwell tokenize`: text to ids and pieces.

use super::{model_args::ModelArgs, terminal::print};
use serde_json::json;
use stairwell::error::{Error, Result};
use std::io;

/// Show the token ids and pieces of a text
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell tokenize \"Once upon a time\"
  stairwell tokenize --model Qwen3-0.6B --json < story.txt")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; standard input if it is left out
    text: Option<String>,
    /// The text, as a flag
    #[arg(long = "text", visible_alias = "prompt", value_name = "TEXT", conflicts_with = "text")]
    text_flag: Option<String>,
    /// Leave out tokens that the tokenizer adds around a text, such as BOS
    #[arg(long)]
    no_special_tokens: bool,
    /// Print {"ids": [...], "pieces": [...]}
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let tokenizer = args.model.tokenizer()?;
    let text = match args.text.or(args.text_flag) {
        Some(text) => text,
        None => io::read_to_string(io::stdin()).map_err(|error| Error::Io { path: "stdin".into(), error })?,
    };
    let ids = tokenizer.encode(&text, !args.no_special_tokens)?;
    let piece = |id: &u32| tokenizer.piece(*id).unwrap_or_default();
    if args.json {
        let pieces: Vec<String> = ids.iter().map(piece).collect();
        return print(&format!("{}\n", json!({"ids": ids, "pieces": pieces})));
    }
    let lines: Vec<String> = ids.iter().map(|id| format!("{id:>7}  {:?}\n", piece(id))).collect();
    print(&lines.concat())
}
