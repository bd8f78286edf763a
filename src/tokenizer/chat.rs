//! Chat templates: messages to the one text that the model was trained on.
//!
//! A template is a Jinja program that comes with the checkpoint. What it sees, and what it may call, is
//! what transformers gives it (5.23, `utils/chat_template_utils.py`).

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value, json};

use super::class::Class;
use super::python;
use super::special::SpecialTokens;
use super::tojson::tojson;
use super::{TokenizerError, TokenizerFiles};

/// What a chat is rendered with, besides its messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatOptions {
    /// Functions that the model may call, each a JSON schema.
    pub tools: Option<Vec<Value>>,
    /// Whether the text ends with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Further variables of the template: `enable_thinking`, `documents`, `date_string`, …
    pub extra: Map<String, Value>,
}

/// A checkpoint's chat template, or several by name, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    /// The file that it is from.
    file: PathBuf,
    env: Environment<'static>,
    names: Vec<String>,
    special: SpecialTokens,
}

impl ChatTemplate {
    /// Reads the template; `tokenizer.json` is not needed for it.
    pub fn new(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        let config = files.config()?;
        let class = Class::choose(
            &config,
            files.model_type.as_deref(),
            files.tokenizer_json.as_deref().unwrap_or(b""),
        );
        let (file, sources) = sources(files, &config)?;
        let mut env = environment();
        let names = sources.keys().cloned().collect();
        for (name, source) in sources {
            let source = prepare(&source);
            env.add_template_owned(name, source).map_err(|error| TokenizerError::BadChatTemplate {
                file: file.clone(),
                reason: one_line(&error),
            })?;
        }
        Ok(Self { file, env, names, special: SpecialTokens::of(&config, class) })
    }

    /// The text of the chat, byte for byte what `apply_chat_template(messages, tokenize=False, …)` gives.
    pub fn render(&self, messages: &[Value], options: &ChatOptions) -> Result<String, TokenizerError> {
        if messages.is_empty() {
            return Err(TokenizerError::BadChat {
                reason: "there are no messages; give at least one".into(),
            });
        }
        if let Some(index) = options.tools.iter().flatten().position(|tool| !tool.is_object()) {
            let reason = format!("tool {index} is not a JSON object (a function's schema)");
            return Err(TokenizerError::BadChat { reason });
        }
        let messages =
            messages.iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<Vec<_>, _>>()?;
        let mut variables: Map<String, Value> =
            self.special.iter().map(|(name, token)| (name.to_string(), token.into())).collect();
        variables.insert("documents".into(), Value::Null);
        variables.extend(options.extra.clone());
        variables.insert("messages".into(), messages.into());
        variables.insert("tools".into(), json!(options.tools));
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());

        let template = self.env.get_template(self.choose(options)?).map_err(|error| self.failed(&error))?;
        template.render(python::from_json(&variables.into())).map_err(|error| self.failed(&error))
    }

    /// With tools the template named `tool_use`, if there is one.
    fn choose(&self, options: &ChatOptions) -> Result<&str, TokenizerError> {
        let has = |name: &str| self.names.iter().any(|n| n == name);
        match options.tools {
            Some(_) if has("tool_use") => Ok("tool_use"),
            _ if has("default") => Ok("default"),
            _ => Err(TokenizerError::NoDefaultChatTemplate {
                file: self.file.clone(),
                names: self.names.clone(),
            }),
        }
    }

    fn failed(&self, error: &Error) -> TokenizerError {
        let file = self.file.clone();
        match refusal(error) {
            Some(message) => TokenizerError::ChatRefused { file, message },
            None => TokenizerError::ChatFailed { file, reason: one_line(error) },
        }
    }
}

/// The templates' sources by name, and the file that they are from.
fn sources(
    files: &TokenizerFiles,
    config: &Map<String, Value>,
) -> Result<(PathBuf, BTreeMap<String, String>), TokenizerError> {
    let config_file = files.origin.join("tokenizer_config.json");
    if let Some(bytes) = &files.chat_template {
        let file = files.origin.join("chat_template.jinja");
        let source = String::from_utf8(bytes.clone()).map_err(|error| TokenizerError::BadChatTemplate {
            file: file.clone(),
            reason: format!("it is not UTF-8: {error}"),
        })?;
        return Ok((file, BTreeMap::from([("default".into(), source)])));
    }
    let sources = match config.get("chat_template") {
        None | Some(Value::Null) => {
            return Err(TokenizerError::NoChatTemplate { origin: files.origin.clone() });
        }
        Some(Value::String(source)) => BTreeMap::from([("default".into(), source.clone())]),
        Some(Value::Array(named)) => {
            named.iter().map(named_template).collect::<Option<_>>().ok_or_else(|| bad_list(&config_file))?
        }
        Some(_) => return Err(bad_list(&config_file)),
    };
    Ok((config_file, sources))
}

fn named_template(entry: &Value) -> Option<(String, String)> {
    Some((entry.get("name")?.as_str()?.into(), entry.get("template")?.as_str()?.into()))
}

fn bad_list(file: &Path) -> TokenizerError {
    TokenizerError::BadChatTemplate {
        file: file.into(),
        reason: "\"chat_template\" should be a text or a list of {\"name\": …, \"template\": …}".into(),
    }
}

/// A message as templates see it: fields that are null are left out, and the reasoning, which has had three
/// names, stands under the name that templates read.
fn message(index: usize, message: &Value) -> Result<Value, TokenizerError> {
    let Value::Object(fields) = message else {
        let reason = format!(
            "message {index} is not a JSON object such as {{\"role\": \"user\", \"content\": \"Hi\"}}"
        );
        return Err(TokenizerError::BadChat { reason });
    };
    let mut fields: Map<String, Value> =
        fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let reasoning =
        ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| fields.get(*name)).cloned();
    if let Some(reasoning) = reasoning {
        let mut aliased = Map::from_iter([("thinking".to_string(), reasoning.clone())]);
        aliased.append(&mut fields);
        aliased.insert("reasoning_content".into(), reasoning);
        fields = aliased;
    }
    Ok(fields.into())
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
    });
    env.add_function("strftime_now", strftime_now);
    python::install(&mut env);
    env.add_filter("tojson", tojson);
    env
}

/// The local time, in C's format, such as "%d %b %Y".
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
    })
}

/// The template called `raise_exception` with this text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn refusal(error: &Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

/// The line in the template and what is wrong there.
fn one_line(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), String::from);
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    error.line().map_or_else(|| what.clone(), |line| format!("line {line}: {what}"))
}

/// Makes of a template's source what minijinja reads: lines end in "\n" as Jinja2 sees to, and
/// `{% generation %}`, which marks the assistant's text for training, becomes a block that does nothing.
fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let name_at = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let (lead, name) = tag.split_at(name_at);
        let length = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        out.push_str(lead);
        out.push_str(match &name[..length] {
            "generation" => "with",
            "endgeneration" => "endwith",
            other => other,
        });
        rest = &name[length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small template of our own, with the turns that real ones take.
    const TEMPLATE: &str = r#"{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = 'Be kind.' %}
{%- endif %}
<system>{{ system }}</system>
{% if tools %}
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
{% endif %}
{% set seen = namespace(users=0) %}
{% for message in messages %}
    {% if message.role == 'user' %}
        {% set seen.users = seen.users + 1 %}
<user {{ seen.users }}>{{ message.content }}</user>
    {% elif message.role == 'assistant' %}
<bot>{% if message.reasoning_content %}({{ message.reasoning_content }}) {% endif %}
{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}

    {% else %}
        {{- raise_exception('No role ' ~ message.role ~ ', please!') }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<bot>
{%- if enable_thinking is defined and enable_thinking is false %} (no thinking){% endif %}
{% endif %}
"#;

    fn files(config: Value, jinja: Option<&str>) -> TokenizerFiles {
        TokenizerFiles {
            origin: "model".into(),
            tokenizer_config: Some(config.to_string().into_bytes()),
            chat_template: jinja.map(|jinja| jinja.as_bytes().to_vec()),
            ..Default::default()
        }
    }

    fn template() -> ChatTemplate {
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE});
        ChatTemplate::new(&files(config, None)).expect("it is a template")
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    #[test]
    fn plain_chat() {
        let messages =
            [user("Hi"), json!({"role": "assistant", "content": "Hello", "reasoning": "greet"}), user("<b>")];
        let text = template().render(&messages, &ChatOptions::default()).expect("it renders");
        assert_eq!(
            text,
            "<s><system>Be kind.</system>\n<user 1>Hi</user>\n<bot>(greet) Hello</s>\n<user 2><b></user>\n"
        );
    }

    #[test]
    fn system_tools_and_options() {
        let messages = [json!({"role": "system", "content": " S\n", "tool_calls": null}), user("Hi")];
        let mut options = ChatOptions {
            tools: Some(vec![json!({"name": "f", "x": 1.0})]),
            add_generation_prompt: true,
            ..Default::default()
        };
        options.extra.insert("enable_thinking".into(), false.into());
        let text = template().render(&messages, &options).expect("it renders");
        assert_eq!(
            text,
            "<s><system>S</system>\n{\"name\": \"f\", \"x\": 1.0}\n<user 1>Hi</user>\n<bot> (no thinking)"
        );
    }

    #[test]
    fn a_refusal_is_in_the_templates_words() {
        let error =
            template().render(&[json!({"role": "cat"})], &ChatOptions::default()).expect_err("no such role");
        assert!(
            matches!(&error, TokenizerError::ChatRefused { message, .. } if message == "No role cat, please!")
        );
        assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
    }

    #[test]
    fn messages_as_templates_see_them() {
        let seen = |given| message(0, &given).expect("a message");
        assert_eq!(seen(json!({"role": "user", "content": null})), json!({"role": "user"}));
        let both = json!({"thinking": "t", "role": "assistant", "reasoning_content": "t"});
        assert_eq!(seen(json!({"role": "assistant", "thinking": "t"})), both);
        let three = json!({"thinking": "r", "reasoning": "r", "reasoning_content": "r"});
        assert_eq!(seen(json!({"reasoning": "r"})), three);
    }

    #[test]
    fn bad_chats() {
        let none = ChatOptions::default();
        assert!(matches!(template().render(&[], &none), Err(TokenizerError::BadChat { .. })));
        assert!(matches!(template().render(&[json!("Hi")], &none), Err(TokenizerError::BadChat { .. })));
        let tools = ChatOptions { tools: Some(vec![json!("f")]), ..Default::default() };
        assert!(matches!(template().render(&[user("Hi")], &tools), Err(TokenizerError::BadChat { .. })));
    }

    #[test]
    fn no_template_and_bad_templates() {
        let new = |config, jinja| ChatTemplate::new(&files(config, jinja));
        assert!(matches!(new(json!({}), None), Err(TokenizerError::NoChatTemplate { .. })));
        assert!(matches!(
            new(json!({"chat_template": 3}), None),
            Err(TokenizerError::BadChatTemplate { .. })
        ));
        let error = new(json!({}), Some("a\n{% if %}")).expect_err("no template").to_string();
        assert!(error.contains("chat_template.jinja") && error.contains("line 2"), "{error}");
        let failing = new(json!({}), Some("{{ 1 + none }}")).expect("it parses");
        assert!(matches!(
            failing.render(&[user("")], &ChatOptions::default()),
            Err(TokenizerError::ChatFailed { .. })
        ));
        assert!(matches!(
            ChatTemplate::new(&TokenizerFiles {
                tokenizer_config: Some(b"{".to_vec()),
                ..Default::default()
            }),
            Err(TokenizerError::BadConfig { .. })
        ));
    }

    #[test]
    fn named_templates_and_the_jinja_file() {
        let list = json!({"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]});
        let named = ChatTemplate::new(&files(list.clone(), None)).expect("templates");
        let tools = ChatOptions { tools: Some(vec![]), ..Default::default() };
        assert_eq!(named.render(&[user("")], &ChatOptions::default()).expect("text"), "D");
        assert_eq!(named.render(&[user("")], &tools).expect("text"), "T");
        let file = ChatTemplate::new(&files(list, Some("J\r\n!\n"))).expect("a template");
        assert_eq!(file.render(&[user("")], &ChatOptions::default()).expect("text"), "J\n!");
        let rag =
            ChatTemplate::new(&files(json!({"chat_template": [{"name": "rag", "template": ""}]}), None));
        let error = rag.expect("a template").render(&[user("")], &ChatOptions::default());
        assert!(matches!(error, Err(TokenizerError::NoDefaultChatTemplate { .. })));
    }

    #[test]
    fn loop_controls_and_the_date() {
        let jinja = "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %} {{ strftime_now('%Y') }}";
        let template = ChatTemplate::new(&files(json!({}), Some(jinja))).expect("a template");
        let year = jiff::Zoned::now().year();
        assert_eq!(
            template.render(&[user("a"), user("b")], &ChatOptions::default()).expect("text"),
            format!("a {year}")
        );
    }
}
