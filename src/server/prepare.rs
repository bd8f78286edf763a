//! From a client's request to what the engine can run: limits first, then templates and tokens.

use super::{
    error::ApiError,
    io_struct::{GenerateReqInput, PromptInput, RequestOptions},
    tokenizer_manager::TokenizerManager,
};
use crate::{
    error::Error,
    request::{Fields, Resolved},
    tokenizer::{ChatOptions, Tokenizer},
};
use serde_json::Value;

/// Samples of a prompt, at most.
pub const MAX_N: usize = 128;
/// Answers of a request, at most: samples times prompts.
pub const MAX_CHOICES: usize = 1024;

/// A request that was checked.
#[derive(Clone)]
pub struct Prepared {
    pub prompts: Vec<PreparedPrompt>,
    /// Samples of each.
    pub n: usize,
    pub options: RequestOptions,
}

/// One of its prompts.
#[derive(Clone)]
pub struct PreparedPrompt {
    pub request: Resolved,
}

impl Prepared {
    /// The prompt of an answer's choice.
    pub fn of(&self, choice: usize) -> &PreparedPrompt {
        &self.prompts[choice / self.n]
    }
}

impl TokenizerManager {
    /// What can be told before anything is worked through.
    ///
    /// # Errors
    /// 400, by the field.
    pub(super) fn check_size(&self, input: &GenerateReqInput) -> Result<(), ApiError> {
        let (n, prompts) = (input.fields.n.unwrap_or(1), input.prompts.len());
        if !(1..=MAX_N).contains(&n) {
            return Err(ApiError::invalid("n", format!("n: it must be in 1..={MAX_N}")));
        }
        if prompts == 0 || prompts > MAX_CHOICES {
            return Err(ApiError::invalid("prompt", format!("prompt: give 1 to {MAX_CHOICES} prompts")));
        }
        let (choices, most) = (n * prompts, self.limits.max_queued + self.limits.max_running);
        if choices > MAX_CHOICES {
            let message = format!("n: {n} samples of {prompts} prompts are more than {MAX_CHOICES} answers");
            return Err(ApiError::invalid("n", message));
        }
        if choices > most {
            let message = format!(
                "n: {n} samples of {prompts} prompts are more than this server's queue takes, {most}"
            );
            return Err(ApiError::invalid("n", message));
        }
        if let Some(salt) = &input.fields.cache_salt {
            let bad = |c: char| c.is_control() || "@/\\".contains(c);
            if salt.is_empty() || salt.len() > 128 || salt.contains(bad) {
                let message = "cache_salt: give 1 to 128 characters, without @, /, \\ and control characters";
                return Err(ApiError::invalid("cache_salt", message));
            }
        }
        let vocab = self.checkpoint.config.vocab_size;
        if input.options.stop_token_ids.iter().any(|id| *id as usize >= vocab) {
            let message = format!("stop_token_ids: the vocabulary has the ids 0 to {}", vocab - 1);
            return Err(ApiError::invalid("stop_token_ids", message));
        }
        input.prompts.iter().try_for_each(|prompt| self.check_bytes(prompt))
    }

    /// Whether a prompt can fit at all. A token has at most so many bytes, and normalization makes a text shorter, but not by more than 4.
    fn check_bytes(&self, prompt: &PromptInput) -> Result<(), ApiError> {
        let context = self.limits.max_model_len;
        let most = context.saturating_mul(self.longest_token).saturating_mul(4);
        match prompt {
            PromptInput::Ids(ids) if ids.len() > context => Err(too_long(ids.len(), context)),
            prompt if prompt.bytes() > most => Err(far_too_long(prompt.bytes(), context)),
            _ => Ok(()),
        }
    }

    /// Checks a request, and makes its prompts token ids.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub(super) fn prepare(&self, input: GenerateReqInput) -> Result<Prepared, ApiError> {
        let GenerateReqInput { prompts, fields, options, tenant, .. } = input;
        let n = fields.n.unwrap_or(1);
        let mut prepared = Vec::new();
        for prompt in prompts {
            let mut request = self.resolve(prompt, &fields, &options)?;
            self.fit(&mut request)?;
            let params = &mut request.params;
            params.eos_token_id.extend(&options.stop_token_ids);
            (params.sampling.min_tokens, params.sampling.ends) =
                (options.min_tokens, params.eos_token_id.clone());
            request.salt = match (&tenant, request.salt) {
                (None, salt) => salt,
                (Some(tenant), salt) => Some(format!("{tenant}/{}", salt.unwrap_or_default())),
            };
            prepared.push(PreparedPrompt { request });
        }
        Ok(Prepared { prompts: prepared, n, options })
    }

    fn resolve(
        &self,
        prompt: PromptInput,
        fields: &Fields,
        options: &RequestOptions,
    ) -> Result<Resolved, ApiError> {
        let mut fields = fields.clone();
        match prompt {
            PromptInput::Ids(ids) => fields.prompt_ids = Some(ids),
            PromptInput::Text(text) if options.add_special_tokens => fields.prompt = Some(text),
            PromptInput::Text(text) => {
                fields.prompt_ids = Some(self.tokenizer()?.encode(&text, false).map_err(Error::from)?);
                return Ok(Resolved {
                    echo: fields.echo.then_some(text),
                    ..self.checkpoint.resolve(fields)?
                });
            }
            PromptInput::Chat(messages)
                if options.add_generation_prompt && !options.continue_final_message =>
            {
                fields.messages = Some(messages);
            }
            // The answer goes on with the text of the template.
            PromptInput::Chat(messages) => {
                fields.prompt_ids = Some(self.encode_chat(&messages, &fields, options)?)
            }
        }
        Ok(self.checkpoint.resolve(fields)?)
    }

    /// The ids of a prompt, whether it fits or not.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn encode(
        &self,
        prompt: PromptInput,
        fields: &Fields,
        options: &RequestOptions,
    ) -> Result<Vec<u32>, ApiError> {
        self.check_bytes(&prompt)?;
        let (tokenizer, wrong) = (self.tokenizer()?, Error::from);
        Ok(match prompt {
            PromptInput::Ids(ids) => ids,
            PromptInput::Text(text) if options.add_special_tokens => {
                tokenizer.encode_prompt(&text).map_err(wrong)?
            }
            PromptInput::Text(text) => tokenizer.encode(&text, false).map_err(wrong)?,
            PromptInput::Chat(messages) => self.encode_chat(&messages, fields, options)?,
        })
    }

    /// The ids of a chat, which may end otherwise than with the beginning of an answer.
    fn encode_chat(
        &self,
        messages: &[Value],
        fields: &Fields,
        options: &RequestOptions,
    ) -> Result<Vec<u32>, ApiError> {
        let chat = ChatOptions {
            tools: fields.tools.clone(),
            add_generation_prompt: options.add_generation_prompt && !options.continue_final_message,
            extra: fields.chat_template_kwargs.clone().unwrap_or_default(),
        };
        let mut text = self.tokenizer()?.render_chat(messages, &chat).map_err(Error::from)?;
        if options.continue_final_message {
            let last =
                messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default().trim();
            let end = text.rfind(last).filter(|_| !last.is_empty()).map(|start| start + last.len());
            let refused =
                "continue_final_message: the chat template does not show the last message's content as it is";
            text.truncate(end.ok_or_else(|| ApiError::invalid("continue_final_message", refused))?);
        }
        Ok(self.tokenizer()?.encode(&text, false).map_err(Error::from)?)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// 400 if the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ApiError> {
        let without = |why| ApiError::invalid(None, format!("text needs a tokenizer: {why}"));
        self.checkpoint.tokenizer().map_err(without)
    }

    /// Cuts the longest output to what the context has room for.
    fn fit(&self, request: &mut Resolved) -> Result<(), ApiError> {
        let (prompt, context) = (request.prompt.len(), self.limits.max_model_len);
        let room = context.saturating_sub(prompt);
        if prompt > context || (room == 0 && request.params.max_tokens > 0) {
            return Err(too_long(prompt, context));
        }
        let unlimited = request.may_shorten && request.defaults.max_tokens.is_none();
        let asked = if unlimited { usize::MAX } else { request.params.max_tokens };
        request.params.max_tokens = asked.min(room);
        Ok(())
    }
}

impl PromptInput {
    /// Bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        match self {
            PromptInput::Text(text) => text.len(),
            PromptInput::Ids(_) => 0,
            PromptInput::Chat(messages) => messages.iter().map(bytes_of).sum(),
        }
    }
}

/// Bytes of all texts in a message.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(bytes_of).sum(),
        Value::Object(members) => members.values().map(bytes_of).sum(),
        _ => 0,
    }
}

fn too_long(prompt: usize, context: usize) -> ApiError {
    let message = format!(
        "the prompt has {prompt} tokens and the context {context}, of which the answer needs one; shorten the prompt"
    );
    ApiError::context_length(message)
}

fn far_too_long(bytes: usize, context: usize) -> ApiError {
    ApiError::context_length(format!(
        "the prompt has {bytes} bytes, far more than the context of {context} tokens can hold; shorten it"
    ))
}
