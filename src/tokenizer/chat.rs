//! Chat templates: messages to the one text that the model was trained on.
//!
//! A template is a Jinja program that comes with the checkpoint. What it sees, and what it may call, is
//! what transformers gives it (5.23, `utils/chat_template_utils.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use stairwell_jinja::{self as template, Failure};

use super::class::Class;
use super::special::SpecialTokens;
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
    /// By name.
    sources: BTreeMap<String, String>,
    special: SpecialTokens,
}

impl ChatTemplate {
    /// Reads the template; `tokenizer.json` is not needed for it.
    pub fn new(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        let config = files.config()?;
        let class = Class::choose(&config, files, files.tokenizer_json.as_deref().unwrap_or_default());
        let (file, sources) = sources(files, &config)?;
        for source in sources.values() {
            template::check(source).map_err(|failure| {
                let (Failure::Refused(reason) | Failure::Failed(reason)) = failure;
                TokenizerError::BadChatTemplate { file: file.clone(), reason }
            })?;
        }
        Ok(Self { file, sources, special: SpecialTokens::of(&config, class) })
    }

    /// The text of the chat, byte for byte what `apply_chat_template(messages, tokenize=False, …)` gives.
    pub fn render(&self, messages: &[Value], options: &ChatOptions) -> Result<String, TokenizerError> {
        if messages.is_empty() {
            let reason = "there are no messages; give at least one".into();
            return Err(TokenizerError::BadChat { reason });
        }
        if let Some(index) = options.tools.iter().flatten().position(|tool| !tool.is_object()) {
            let reason = format!("tool {index} is not a JSON object (a function's schema)");
            return Err(TokenizerError::BadChat { reason });
        }
        let source = self.choose(options)?;
        let takes_parts = template::takes_parts(source);
        let messages = messages.iter().enumerate().map(|(i, m)| message(i, m, takes_parts));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let mut variables: Map<String, Value> =
            self.special.iter().map(|(name, token)| (name.to_string(), token.into())).collect();
        variables.insert("documents".into(), Value::Null);
        variables.extend(options.extra.clone());
        variables.insert("messages".into(), messages.into());
        variables.insert("tools".into(), json!(options.tools));
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());

        template::render(source, &variables.into()).map_err(|failure| {
            let file = self.file.clone();
            match failure {
                Failure::Refused(message) => TokenizerError::ChatRefused { file, message },
                Failure::Failed(reason) => TokenizerError::ChatFailed { file, reason },
            }
        })
    }

    /// With tools the template named `tool_use`, if there is one.
    fn choose(&self, options: &ChatOptions) -> Result<&str, TokenizerError> {
        let named = |name: &str| self.sources.get(name).map(String::as_str);
        let with_tools = options.tools.as_ref().and_then(|_| named("tool_use"));
        with_tools.or_else(|| named("default")).ok_or_else(|| TokenizerError::NoDefaultChatTemplate {
            file: self.file.clone(),
            names: self.sources.keys().cloned().collect(),
        })
    }
}

/// The templates' sources by name, and the file that they are from.
fn sources(
    files: &TokenizerFiles,
    config: &Map<String, Value>,
) -> Result<(PathBuf, BTreeMap<String, String>), TokenizerError> {
    let config_file = files.origin.join("tokenizer_config.json");
    let default = files.chat_template.iter().map(|bytes| ("default", "chat_template.jinja".into(), bytes));
    let named = files.additional_chat_templates.iter();
    let named =
        named.map(|(name, bytes)| (name.as_str(), format!("additional_chat_templates/{name}.jinja"), bytes));
    let mut sources = BTreeMap::new();
    for (name, file, bytes) in default.chain(named) {
        let source = String::from_utf8(bytes.clone()).map_err(|error| TokenizerError::BadChatTemplate {
            file: files.origin.join(file),
            reason: format!("it is not UTF-8: {error}"),
        })?;
        sources.insert(name.to_owned(), source);
    }
    if !sources.is_empty() {
        return Ok((files.origin.join("chat_template.jinja"), sources));
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
fn message(index: usize, message: &Value, takes_parts: bool) -> Result<Value, TokenizerError> {
    let Value::Object(fields) = message else {
        let reason = format!(
            "message {index} is not a JSON object such as {{\"role\": \"user\", \"content\": \"Hi\"}}"
        );
        return Err(TokenizerError::BadChat { reason });
    };
    let mut fields: Map<String, Value> =
        fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let (Some(Value::Array(parts)), false) = (fields.get("content"), takes_parts) {
        let text = flattened(index, parts)?;
        fields.insert("content".into(), text.into());
    }
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

/// The text of `[{"type": "text", "text": "Hi"}, …]`, a line a part, for templates that expect a text. vLLM does the same.
fn flattened(index: usize, parts: &[Value]) -> Result<String, TokenizerError> {
    let text = |part: &Value| match (part.as_str(), part["text"].as_str(), part["type"].as_str()) {
        (Some(text), ..) | (_, Some(text), None | Some("text")) => Ok(text.to_owned()),
        (.., kind) => Err(TokenizerError::BadChat {
            reason: format!(
                "message {index} has a content part of type '{}', and this model's chat template takes nothing but text",
                kind.unwrap_or("unknown")
            ),
        }),
    };
    Ok(parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
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
        let seen = |given| message(0, &given, false).expect("a message");
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
    fn additional_templates_come_before_the_config() {
        let mut given = files(json!({"chat_template": "C"}), Some("D"));
        given.additional_chat_templates =
            BTreeMap::from([("tool_use".into(), b"{{ tools | length }}T".to_vec())]);
        let template = ChatTemplate::new(&given).expect("templates");
        let tools = ChatOptions { tools: Some(vec![json!({})]), ..Default::default() };
        assert_eq!(template.render(&[user("")], &tools).expect("text"), "1T");
        assert_eq!(template.render(&[user("")], &ChatOptions::default()).expect("text"), "D");
    }

    /// vLLM gives a template parts if it loops over them, and else their texts, a line each.
    #[test]
    fn parts_are_flattened_where_a_text_is_expected() {
        let parts = [
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        ];
        let image = [json!({"role": "user", "content": [{"type": "image"}]})];
        let render = |jinja, messages: &[Value]| {
            ChatTemplate::new(&files(json!({}), Some(jinja)))
                .expect("a template")
                .render(messages, &ChatOptions::default())
        };
        let expects_text = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}";
        assert_eq!(render(expects_text, &parts).expect("text"), "A\nB");
        let error = render(expects_text, &image).expect_err("no text").to_string();
        assert!(error.contains("message 0") && error.contains("'image'"), "{error}");
        for takes_parts in [
            "{% for p in messages[0].content %}{{ p.type }}{% endfor %}",
            "{% for m in messages %}{% set c = m['content'] %}{% for p in c %}{{ p.type }}{% endfor %}{% endfor %}",
        ] {
            assert_eq!(render(takes_parts, &parts).expect("text"), "texttext");
            assert_eq!(render(takes_parts, &image).expect("text"), "image");
        }
    }

    #[test]
    fn integers_of_any_size_stay_integers() {
        let jinja = "{{ messages[0].n | tojson }} {{ messages[0].n }} {{ {'n': 340282366920938463463374607431768211456} }}";
        let template = ChatTemplate::new(&files(json!({}), Some(jinja))).expect("a template");
        let message =
            crate::json::exact(b"{\"n\": [340282366920938463463374607431768211456, 1.5, -0]}").expect("JSON");
        let text = template.render(&[message], &ChatOptions::default()).expect("text");
        let wide = "340282366920938463463374607431768211456";
        assert_eq!(text, format!("[{wide}, 1.5, 0] [{wide}, 1.5, 0] {{'n': {wide}}}"));
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
