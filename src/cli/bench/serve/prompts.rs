//! What is sent: random prompts, or the lines of a file that `batch` reads too.

use super::{
    super::{
        run::Drawing,
        workload::{Lengths, Recipe, Workload},
    },
    client::{Client, Prepared},
    count, count_to,
};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use stairwell::{
    error::{Error, Result},
    files::read_input,
    request::Line,
};
use std::{collections::BTreeMap, path::PathBuf};

/// Requests, if no flag and no file says how many.
const NUM_PROMPTS: usize = 32;
/// A vocabulary of fewer tokens makes prompts that repeat themselves.
const FEWEST_IDS: usize = 16;

/// Common words: most tokenizers have one token for each.
const WORDS: &str = "the and was to a he she it said they his her with in big little boy girl dog cat play day mom dad happy sad went saw very of \
                     for had you so not one there then that at up on in out time friend house tree red blue sun ball good home new old hand";

/// Which of OpenAI's two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions
    Chat,
}

impl Endpoint {
    fn path(self) -> &'static str {
        match self {
            Endpoint::Completions => "/v1/completions",
            Endpoint::Chat => "/v1/chat/completions",
        }
    }
}

/// What is asked of the server.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Workload")]
pub struct Work {
    /// Requests [default: 32, or each line of --dataset once]
    #[arg(long, visible_alias = "num-requests", value_name = "N", value_parser = count())]
    pub num_prompts: Option<usize>,
    /// Lengths of random prompts in tokens
    #[arg(
        long,
        visible_alias = "input-len",
        value_name = "LENGTHS",
        allow_hyphen_values = true,
        default_value = "32..128"
    )]
    pub random_input_len: Lengths,
    /// Lengths of the outputs of random prompts in tokens
    #[arg(
        long,
        visible_alias = "output-len",
        value_name = "LENGTHS",
        allow_hyphen_values = true,
        default_value = "16..64"
    )]
    pub random_output_len: Lengths,
    /// Tokens that all random prompts begin with, before their own [default: 0]
    #[arg(long, visible_alias = "shared-prefix", value_name = "N", value_parser = count())]
    pub random_prefix_len: Option<usize>,
    /// Draw random prompts from the token ids below N [default: from ids that the server's /tokenize gives for common words; without it,
    /// prompts are common words]
    #[arg(long, value_name = "N", value_parser = count_to(1 << 24))]
    pub vocab_size: Option<usize>,
    /// Requests from a file instead, a JSON object a line, as `batch` reads them; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["random_input_len", "random_output_len", "random_prefix_len", "vocab_size"])]
    pub dataset: Option<PathBuf>,
    /// Let outputs go on after the end-of-sequence token, to their full length
    #[arg(long)]
    pub ignore_eos: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub drawing: Drawing,
}

/// An object's members, each value as it is written.
type Members = BTreeMap<String, Box<RawValue>>;

/// What random prompts are drawn from.
#[derive(Debug, PartialEq)]
pub enum Vocabulary {
    Ids(Vec<u32>),
    Words,
}

impl Vocabulary {
    /// Ids for completions, if `--vocab-size` or the server's `/tokenize` gives any. A chat has text only.
    pub async fn find(client: &Client, endpoint: Endpoint, work: &Work) -> Vocabulary {
        match (endpoint, work.vocab_size) {
            (Endpoint::Chat, _) => Vocabulary::Words,
            (_, Some(n)) => Vocabulary::Ids((0..n as u32).collect()),
            _ => Vocabulary::of_server(client).await.unwrap_or(Vocabulary::Words),
        }
    }

    async fn of_server(client: &Client) -> Option<Vocabulary> {
        // The field is `prompt` in vLLM, SGLang and stairwell, and `content` in llama.cpp.
        let body = json!({"prompt": WORDS, "content": WORDS, "add_special_tokens": false});
        let answer = client.json("/tokenize", Some(&body)).await.ok()?;
        let mut ids: Vec<u32> = serde_json::from_value(answer["tokens"].clone()).ok()?;
        ids.sort_unstable();
        ids.dedup();
        (ids.len() >= FEWEST_IDS).then_some(Vocabulary::Ids(ids))
    }

    /// How prompts are told to a person.
    pub fn name(&self) -> &'static str {
        match self {
            Vocabulary::Ids(_) => "random token ids",
            Vocabulary::Words => "random words",
        }
    }
}

impl Work {
    /// Random requests; the same seed makes the same ones.
    pub fn random(&self, endpoint: Endpoint, model: &str, vocabulary: &Vocabulary) -> Vec<Prepared> {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let size = if let Vocabulary::Ids(ids) = vocabulary { ids.len() } else { words.len() };
        let recipe = Recipe {
            num_requests: self.num_prompts.unwrap_or(NUM_PROMPTS),
            shared_prefix: self.random_prefix_len,
            input_len: self.random_input_len.clone(),
            output_len: self.random_output_len.clone(),
            request_rate: None,
            late_prompt: None,
        };
        let workload = Workload::new(&recipe, size, self.drawing.seed);
        let request = |(index, (prompt, output_len)): (u64, (Vec<u32>, usize))| {
            let (temperature, seed) = (self.drawing.temperature, self.drawing.seed.wrapping_add(index));
            let mut body = json!({"model": model, "max_tokens": output_len, "temperature": temperature});
            if temperature > 0.0 {
                body["seed"] = json!(seed);
            }
            let text = || prompt.iter().map(|&at| words[at as usize]).collect::<Vec<_>>().join(" ");
            let ids = match vocabulary {
                Vocabulary::Ids(ids) => Some(prompt.iter().map(|&at| ids[at as usize]).collect::<Vec<_>>()),
                Vocabulary::Words => None,
            };
            match (endpoint, &ids) {
                (Endpoint::Chat, _) => body["messages"] = json!([{"role": "user", "content": text()}]),
                (_, Some(ids)) => body["prompt"] = json!(ids),
                (_, None) => body["prompt"] = json!(text()),
            }
            self.stream(&mut body);
            Prepared {
                path: endpoint.path(),
                body: body.to_string().into(),
                prompt_tokens: ids.map(|ids| ids.len()),
            }
        };
        let items = workload.items.into_iter().map(|item| (item.prompt, item.output_len));
        (0..).zip(items).map(request).collect()
    }

    /// The fields that every request has.
    fn stream(&self, body: &mut Value) {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        if self.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
    }

    /// The requests of `--dataset`, from its beginning again if more are wanted than it has.
    ///
    /// # Errors
    /// If the file can't be read, has no request, or has a line that is none: with its number.
    pub fn of_dataset(&self, endpoint: Option<Endpoint>, model: &str) -> Result<Option<Vec<Prepared>>> {
        let Some(path) = &self.dataset else { return Ok(None) };
        let (bytes, name) = (read_input(path)?, path.display());
        let mut requests = Vec::new();
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line).trim_ascii();
            if !line.is_empty() {
                let request = self.line(line, endpoint, model);
                requests.push(request.map_err(|e| Error::Request(format!("{name}, line {number}: {e}")))?);
            }
        }
        if requests.is_empty() {
            return Err(Error::Request(format!("{name}: there is no request in it")));
        }
        let n = self.num_prompts.unwrap_or(requests.len());
        Ok(Some(requests.iter().cycle().take(n).cloned().collect()))
    }

    /// One line. What it says is sent as it is written; only the model, the stream and the prompt's name are ours.
    fn line(&self, line: &[u8], endpoint: Option<Endpoint>, model: &str) -> Result<Prepared> {
        let request = Line::parse(line)?;
        let wrong = |error: serde_json::Error| Error::Request(error.to_string());
        let raw = |value: &Value| to_raw_value(value).map_err(wrong);
        let mut body: Members = serde_json::from_slice(line).map_err(wrong)?;
        if let Some(inner) = body.get("body") {
            body = serde_json::from_str(inner.get()).map_err(wrong)?;
        }
        body.retain(|name, value| value.get() != "null" && !["id", "custom_id"].contains(&&**name));
        let endpoint = endpoint.unwrap_or(match request.fields.messages {
            Some(_) => Endpoint::Chat,
            None => Endpoint::Completions,
        });
        let fields = request.fields;
        match (endpoint, &fields.prompt, &fields.prompt_ids, &fields.messages) {
            (Endpoint::Completions, Some(_), None, None) | (Endpoint::Chat, None, None, Some(_)) => {}
            (Endpoint::Completions, None, Some(_), None) => {
                body.remove("prompt_ids").and_then(|ids| body.insert("prompt".into(), ids));
            }
            (Endpoint::Chat, Some(prompt), None, None) => {
                body.remove("prompt");
                let messages = json!([{"role": "user", "content": prompt}]);
                body.insert("messages".into(), raw(&messages)?);
            }
            (Endpoint::Completions, None, None, Some(_)) => {
                return Err(Error::Request("messages go to --endpoint chat".into()));
            }
            (Endpoint::Chat, None, Some(_), None) => {
                return Err(Error::Request("prompt_ids go to --endpoint completions".into()));
            }
            _ => {
                return Err(Error::Request("a request has one of prompt, messages and prompt_ids".into()));
            }
        }
        let mut ours = json!({"model": model});
        self.stream(&mut ours);
        for (name, value) in ours.as_object().into_iter().flatten() {
            body.insert(name.clone(), raw(value)?);
        }
        let text = serde_json::to_string(&body).map_err(wrong)?;
        let prompt_tokens = fields.prompt_ids.map(|ids| ids.len());
        Ok(Prepared { path: endpoint.path(), body: text.into(), prompt_tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::serve::testing::work;

    fn body(prepared: &Prepared) -> Value {
        serde_json::from_slice(&prepared.body).unwrap()
    }

    #[test]
    fn random_requests_have_the_lengths_and_stream() {
        let work =
            work(&["--num-prompts", "5", "--input-len", "7", "--random-output-len", "3..4", "--seed", "2"]);
        let ids = Vocabulary::Ids((100..200).collect());
        let requests = work.random(Endpoint::Completions, "m", &ids);
        assert_eq!(
            (requests.len(), requests[0].path, requests[0].prompt_tokens),
            (5, "/v1/completions", Some(7))
        );
        for request in &requests {
            let body = body(request);
            let prompt = body["prompt"].as_array().unwrap();
            assert!(prompt.len() == 7 && prompt.iter().all(|id| (100..200).contains(&id.as_u64().unwrap())));
            assert!((3..=4).contains(&body["max_tokens"].as_u64().unwrap()));
            assert_eq!(
                (&body["model"], &body["stream"], &body["temperature"]),
                (&json!("m"), &json!(true), &json!(0.0))
            );
            assert_eq!(body["stream_options"], json!({"include_usage": true}));
            assert!(body.get("seed").is_none() && body.get("ignore_eos").is_none());
        }
        assert_eq!(requests, work.random(Endpoint::Completions, "m", &ids));
        assert_ne!(body(&requests[0])["prompt"], body(&requests[1])["prompt"]);

        let work = testing_chat();
        let request = &work.random(Endpoint::Chat, "m", &Vocabulary::Words)[1];
        let body = body(request);
        let words = body["messages"][0]["content"].as_str().unwrap().split(' ').count();
        assert_eq!((words, request.path, request.prompt_tokens), (7, "/v1/chat/completions", None));
        assert_eq!((&body["seed"], &body["ignore_eos"]), (&json!(10), &json!(true)));
    }

    fn testing_chat() -> Work {
        work(&["--input-len", "7", "--temperature", "0.5", "--seed", "9", "--ignore-eos"])
    }

    #[test]
    fn lines_are_sent_as_they_are_written() {
        let work = work(&[]);
        let send =
            |line: &str, endpoint| work.line(line.as_bytes(), endpoint, "m").map(|p| (p.path, body(&p)));
        let streamed = |mut value: Value| {
            work.stream(&mut value);
            value["model"] = json!("m");
            value
        };
        let (path, sent) =
            send(r#"{"id": 1, "prompt_ids": [1, 2], "max_tokens": 5, "top_p": null}"#, None).unwrap();
        assert_eq!((path, sent), ("/v1/completions", streamed(json!({"prompt": [1, 2], "max_tokens": 5}))));
        let line = r#"{"custom_id": "a", "url": "/v1/chat/completions", "body": {"model": "x", "stream": false, "messages": [{"role": "user", "content": "hi"}]}}"#;
        let chat = streamed(json!({"messages": [{"role": "user", "content": "hi"}]}));
        assert_eq!(send(line, None).unwrap(), ("/v1/chat/completions", chat.clone()));
        assert_eq!(send(r#"{"prompt": "hi"}"#, Some(Endpoint::Chat)).unwrap().1, chat);
        // A number that f64 would round.
        let prepared = work
            .line(br#"{"prompt": "a", "seed": 18446744073709551615, "temperature": 0.10}"#, None, "m")
            .unwrap();
        assert!(prepared.body.windows(5).any(|text| text == b":0.10"), "{:?}", prepared.body);
        for (line, endpoint, part) in [
            (r#"{"max_tokens": 5}"#, None, "one of prompt"),
            (r#"{"prompt": "a", "prompt_ids": [1]}"#, None, "one of prompt"),
            (r#"{"prompt_ids": [1]}"#, Some(Endpoint::Chat), "completions"),
            (r#"{"messages": []}"#, Some(Endpoint::Completions), "--endpoint chat"),
            (r#"{"prompt": 3}"#, None, "prompt"),
            ("[1]", None, "map"),
        ] {
            let error = send(line, endpoint).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_file_is_read_again_if_more_is_wanted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, "\u{feff}{\"prompt\": \"a\"}\r\n\n{\"prompt\": \"b\"}\n").unwrap();
        let prompts = |flags: &[&str]| {
            let requests = work(&[&["--dataset", path], flags].concat()).of_dataset(None, "m")?.unwrap();
            Ok::<_, Error>(
                requests.iter().map(|r| body(r)["prompt"].as_str().unwrap().to_owned()).collect::<String>(),
            )
        };
        assert_eq!(prompts(&[]).unwrap(), "ab");
        assert_eq!(prompts(&["--num-prompts", "5"]).unwrap(), "ababa");
        std::fs::write(path, "{\"prompt\": \"a\"}\nnonsense\n").unwrap();
        assert!(prompts(&[]).unwrap_err().to_string().contains("line 2: not JSON"));
        std::fs::write(path, "\n").unwrap();
        assert!(prompts(&[]).unwrap_err().to_string().contains("no request"));
    }
}
