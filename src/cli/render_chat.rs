//! `stairwell render-chat`: messages through the model's chat template.

use super::{model_args::ModelArgs, terminal::print};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use stairwell::{
    error::{Error, Result},
    files::read_input,
    tokenizer::{ChatOptions, ChatTemplate},
};
use std::path::{Path, PathBuf};

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

/// What --messages holds: the messages alone, or with tools.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a list of messages, or an object with 'messages' and perhaps a list of 'tools'"
)]
enum Conversation {
    List(Vec<Value>),
    Object { messages: Vec<Value>, tools: Option<Vec<Value>> },
}

fn messages_and_tools(args: &Args) -> Result<(Vec<Value>, Option<Vec<Value>>)> {
    let (messages, inner) = match read_json("--messages", &args.messages)? {
        Conversation::List(messages) => (messages, None),
        Conversation::Object { messages, tools } => (messages, tools),
    };
    let tools = args.tools.as_ref().map(|path| read_json("--tools", path)).transpose()?;
    Ok((messages, tools.or(inner)))
}

fn read_json<T: DeserializeOwned>(flag: &str, path: &Path) -> Result<T> {
    let bytes = read_input(path)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Usage(format!("{flag} {}: {e}", path.display())))
}

fn object(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Error::Usage(format!("--chat-template-kwargs: '{text}' is not a JSON object"))),
    }
}
