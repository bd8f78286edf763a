//! `stairwell render-chat`: messages through the model's chat template.

use super::{model_args::ModelArgs, terminal::print};
use serde_json::{Map, Value};
use stairwell::{
    error::{Error, Result},
    tokenizer::{ChatOptions, ChatTemplate},
};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Print a conversation as the model's chat template renders it
#[derive(clap::Args)]
#[command(after_help = "\
FILE.json holds a list of messages, [{\"role\": \"user\", \"content\": \"Hi\"}], or an object with \"messages\" and
perhaps \"tools\". The text is what transformers' apply_chat_template gives, byte for byte.

Example:
  stairwell render-chat --model Qwen3-0.6B --messages chat.json --add-generation-prompt --enable-thinking false")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// JSON file of messages; - reads standard input
    #[arg(long, value_name = "FILE.json")]
    messages: PathBuf,
    /// JSON file with a list of tools
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,
    /// End with the beginning of the assistant's answer
    #[arg(long)]
    add_generation_prompt: bool,
    /// Sets the template's variable enable_thinking
    #[arg(long, value_name = "BOOL")]
    enable_thinking: Option<bool>,
    /// More variables for the template: {"date_string": "1 Jan 2026"}
    #[arg(long, value_name = "JSON")]
    chat_template_kwargs: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let template = ChatTemplate::new(&args.model.tokenizer_files()?)?;
    let (messages, tools) = messages_and_tools(&args)?;
    let mut extra = match &args.chat_template_kwargs {
        Some(text) => object(text)?,
        None => Map::new(),
    };
    if let Some(thinking) = args.enable_thinking {
        extra.insert("enable_thinking".into(), thinking.into());
    }
    let options = ChatOptions { tools, add_generation_prompt: args.add_generation_prompt, extra };
    print(&template.render(&messages, &options)?)
}

fn messages_and_tools(args: &Args) -> Result<(Vec<Value>, Option<Vec<Value>>)> {
    let bad = |path: &Path, what: &str| Error::Usage(format!("{}: {what}", path.display()));
    let list = |value: Value, path: &Path, what: &str| match value {
        Value::Array(list) => Ok(list),
        _ => Err(bad(path, what)),
    };
    let mut messages = read_json("--messages", &args.messages)?;
    let mut tools = match &args.tools {
        Some(path) => Some(list(read_json("--tools", path)?, path, "expected a list of tools")?),
        None => None,
    };
    if let Value::Object(object) = &mut messages {
        if let (None, Some(inner)) = (&tools, object.remove("tools").filter(|t| !t.is_null())) {
            tools = Some(list(inner, &args.messages, "'tools' is not a list")?);
        }
        messages = object.remove("messages").unwrap_or_default();
    }
    Ok((list(messages, &args.messages, "expected a list of messages, or an object with 'messages'")?, tools))
}

fn read_json(flag: &str, path: &Path) -> Result<Value> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().read_to_end(&mut bytes).map(|_| ()),
        false => fs::read(path).map(|content| bytes = content),
    };
    read.map_err(|error| Error::Io { path: path.into(), error })?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::Usage(format!("{flag} {}: not JSON ({e})", path.display())))
}

fn object(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Error::Usage(format!("--chat-template-kwargs: '{text}' is not a JSON object"))),
    }
}
