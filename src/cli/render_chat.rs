//! `stairwell render-chat`: messages through the model's chat template.

use super::{model_args::ModelArgs, terminal::print};
use clap::ArgGroup;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use stairwell::error::{Error, Result};
use stairwell::files::read_input;
use stairwell::tokenizer::{ChatOptions, ChatTemplate, read_chat};
use std::path::{Path, PathBuf};

/// Print a conversation as the model's chat template renders it
#[derive(clap::Args)]
#[command(group = ArgGroup::new("conversation").required(true).args(["messages"]))]
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
    #[command(flatten)]
    template: TemplateArgs,
    /// End with the beginning of the assistant's answer
    #[arg(long)]
    add_generation_prompt: bool,
}

/// What a chat template is given beside the messages. A command that may have no messages says that these flags need some.
#[derive(clap::Args)]
#[command(next_help_heading = "Chat template")]
pub struct TemplateArgs {
    /// JSON file with a list of tools
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,
    /// Sets the template's variable enable_thinking
    #[arg(long, value_name = "BOOL")]
    enable_thinking: Option<bool>,
    /// More variables for the template: {"date_string": "1 Jan 2026"}
    #[arg(long, value_name = "JSON")]
    chat_template_kwargs: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let template = ChatTemplate::new(&args.model.tokenizer_files()?)?;
    let (messages, tools) = messages_and_tools(&args.messages)?;
    let (tools, extra) = (args.template.tools()?.or(tools), args.template.variables()?);
    let options = ChatOptions { tools, add_generation_prompt: args.add_generation_prompt, extra };
    print(&template.render(&messages, &options)?)
}

impl TemplateArgs {
    /// The list in --tools.
    pub fn tools(&self) -> Result<Option<Vec<Value>>> {
        self.tools.as_ref().map(|path| read_json("--tools", path)).transpose()
    }

    /// The variables that the flags set.
    pub fn variables(&self) -> Result<Map<String, Value>> {
        let mut variables = match &self.chat_template_kwargs {
            Some(text) => match read_chat(text.as_bytes()) {
                Ok(Value::Object(map)) => map,
                _ => {
                    return Err(Error::Usage(format!(
                        "--chat-template-kwargs: '{text}' is not a JSON object"
                    )));
                }
            },
            None => Map::new(),
        };
        variables.extend(self.enable_thinking.map(|thinking| ("enable_thinking".into(), thinking.into())));
        Ok(variables)
    }
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

/// The messages in a file, and the tools that may stand beside them.
pub fn messages_and_tools(path: &Path) -> Result<(Vec<Value>, Option<Vec<Value>>)> {
    Ok(match read_json("--messages", path)? {
        Conversation::List(messages) => (messages, None),
        Conversation::Object { messages, tools } => (messages, tools),
    })
}

fn read_json<T: DeserializeOwned>(flag: &str, path: &Path) -> Result<T> {
    let value = read_chat(&read_input(path)?);
    let value = value.and_then(|value| serde_json::from_value(value).map_err(|e| e.to_string()));
    value.map_err(|what| Error::Usage(format!("{flag} {}: {what}", path.display())))
}
