//! Requests that can't be served, and command lines that make no sense: each is refused with one line that names the flag or
//! the number, and has a good neighbour that is served.

use crate::common::{Checkpoint, fixture, run};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Tokens in the vocabulary of the fixture `gpt2-hub`, and its context.
const VOCAB: usize = 166;
const CONTEXT: usize = 40;

fn args<'a>(prompt_ids: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    static MODEL: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let model = MODEL.get_or_init(|| fixture("gpt2-hub").to_str().unwrap().into());
    [&["generate", "--model", model, "--prompt-ids", prompt_ids, "--json"], more].concat()
}

/// The request is refused with one line that holds these parts.
fn refused(prompt_ids: &str, flags: &[&str], parts: &[&str]) {
    run(&args(prompt_ids, flags)).refused(parts);
}

/// The request is served; returns what the program printed.
fn served(prompt_ids: &str, flags: &[&str]) -> Value {
    let short: &[&str] = if flags.join(" ").contains("--max-tokens") { &[] } else { &["--max-tokens", "2"] };
    run(&args(prompt_ids, &[short, flags].concat())).json()
}

#[test]
fn a_token_outside_the_vocabulary() {
    refused("5,166,3", &[], &["166", "number 2", "vocabulary of 166"]);
    refused("4294967295", &[], &["4294967295", "vocabulary"]);
    refused("4294967296", &[], &["--prompt-ids", "4294967296"]);
    served(&(VOCAB - 1).to_string(), &[]);
    served("0", &[]);
}

#[test]
fn ids_that_are_no_numbers() {
    for ids in ["5,x", "5,,3", "5,", "-1", "1.5"] {
        refused(ids, &[], &["--prompt-ids", "5,17,3"]);
    }
    assert_eq!(served(" 5, 17 ,3 ", &[])["prompt_ids"], json!([5, 17, 3]));
}

#[test]
fn a_prompt_longer_than_the_context() {
    let ids = |n: usize| vec!["7"; n].join(",");
    refused(&ids(CONTEXT + 1), &[], &["41 tokens", "context of 40", "shorten"]);
    // Exactly the context leaves room for one more token.
    let object = served(&ids(CONTEXT), &["--max-tokens", "9"]);
    assert_eq!(
        (object["output_ids"].as_array().unwrap().len(), &object["finish_reason"]),
        (1, &json!("length"))
    );
    // The same for the other commands that take a prompt.
    let (model, out) = (fixture("gpt2-hub"), tempfile::tempdir().unwrap());
    let out = out.path().join("logits.safetensors");
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let logits = |ids: &str| run(&["logits", "--model", model, "--prompt-ids", ids, "--out", out]);
    logits(&ids(CONTEXT + 1)).refused(&["context of 40"]);
    assert!(!Path::new(out).exists());
    logits("166").refused(&["166", "vocabulary"]);
    logits(&ids(CONTEXT)).good();
}

#[test]
fn an_empty_prompt() {
    refused("", &[], &["prompt is empty", "at least one token"]);
    run(&["generate", "--prompt", ""]).refused(&["--prompt", "empty"]);
    run(&["generate"]).refused(&["--prompt", "--prompt-ids", "--chat"]);
    run(&["generate", "--prompt", " ", "--max-tokens", "1"]).good();
}

#[test]
fn two_prompts() {
    refused("5", &["--prompt", "Hi"], &["--prompt-ids", "--prompt"]);
}

#[test]
fn nan_infinite_and_negative_sampling_values() {
    for (flag, bad, good) in [
        ("--temperature", &["nan", "-0.5", "inf", "2.1", "hot"][..], &["0", "-0", "2", "1e-30"][..]),
        ("--top-p", &["NaN", "-0.1", "0", "1.1", "inf"], &["1", "0.001"]),
        ("--min-p", &["nan", "-0.1", "1.1"], &["0", "1"]),
        ("--top-k", &["-2", "nan", "1.5"], &["-1", "0", "1", "9223372036854775807"]),
        ("--repetition-penalty", &["nan", "0", "-1", "inf"], &["1", "0.5", "30"]),
        ("--presence-penalty", &["nan", "-2.1", "2.1"], &["-2", "2"]),
        ("--frequency-penalty", &["nan", "inf", "3"], &["-2", "2"]),
        ("--logit-bias", &["5=nan", "5=101", "166=1", "5", "5=1,5=2", "x=1"], &["5=-100,7=100", "165=0"]),
        ("--logprobs", &["-1", "167"], &["0", "166"]),
        ("--seed", &["-1", "1.5"], &["0", "18446744073709551615"]),
        ("--max-tokens", &["0", "-1", "x"], &["1"]),
    ] {
        bad.iter().for_each(|value| refused("5", &[&format!("{flag}={value}")], &[flag]));
        // As two arguments too: a value that begins with a minus is a value.
        bad.iter().for_each(|value| refused("5", &[flag, value], &[flag]));
        good.iter().for_each(|value| drop(served("5", &[&format!("{flag}={value}")])));
    }
}

#[test]
fn temperature_zero_and_top_p_one_are_the_ends_of_their_ranges() {
    let greedy = &served("5", &["--temperature", "0"])["output_ids"];
    assert_eq!(&served("5", &["--temperature", "1.5", "--top-k", "1"])["output_ids"], greedy);
    let sampled = |flags: &[&str]| {
        served("5", &[&["--temperature", "1.5", "--seed", "3"], flags].concat())["output_ids"].clone()
    };
    assert_eq!(sampled(&["--top-p", "1"]), sampled(&[]));
}

#[test]
fn a_generation_config_out_of_range() {
    let checkpoint = Checkpoint::copy("gpt2-hub");
    let refuse = |json: &str, flags: &[&str], parts: &[&str]| {
        checkpoint.write("generation_config.json", json);
        let args =
            ["generate", "--model", checkpoint.name(), "--prompt-ids", "5", "--max-tokens", "1", "--json"];
        run(&[&args, flags].concat()).refused(&[&["generation_config.json"], parts].concat());
    };
    refuse("{", &[], &["JSON"]);
    refuse(r#"{"temperature": -1}"#, &[], &["temperature", "-1", "--temperature"]);
    refuse(r#"{"top_p": 0}"#, &[], &["top_p", "--top-p"]);
    refuse(r#"{"eos_token_id": "two"}"#, &[], &["eos_token_id"]);
    checkpoint.write("generation_config.json", r#"{"temperature": -1, "eos_token_id": [2, 3]}"#);
    let args = ["generate", "--model", checkpoint.name(), "--prompt-ids", "5", "--max-tokens", "1", "--json"];
    run(&[&args[..], &["--temperature", "0"]].concat()).good(); // the flag wins over the bad value
}

#[test]
fn flags_and_commands_that_are_not_there() {
    run(&["generate", "--promt", "Hi"]).refused(&["--promt", "--prompt"]);
    run(&["generte"]).refused(&["generte", "generate"]);
    run(&["generate", "--prompt", "Hi", "--load-format", "ggml"]).refused(&[
        "--load-format",
        "ggml",
        "safetensors",
        "dummy",
    ]);
    run(&["generate", "--prompt", "Hi", "--dtype", "f16"]).refused(&["--dtype f16", "f32"]);
    run(&["generate", "--prompt", "Hi", "--revision", "main"]).refused(&["--model"]);
    for help in [&["--help"][..], &["generate", "--help"], &["--version"]] {
        assert!(!run(help).good().is_empty());
    }
    assert!(run(&["generate", "--help"]).good().contains("Examples:"));
}

#[test]
fn a_length_that_is_none() {
    for length in ["0", "-1", "18446744073709551615", "many"] {
        run(&["inspect", "--max-model-len", length]).refused(&["--max-model-len", length]);
    }
    run(&["inspect", "--max-model-len", "4294967295"]).good();
}

#[test]
fn files_that_can_not_be_written_or_read() {
    let model = fixture("gpt2");
    let model = model.to_str().unwrap();
    let out = "/no/such/place/logits.safetensors";
    run(&["logits", "--model", model, "--prompt-ids", "5", "--out", out]).refused(&[out]);
    run(&["verify", "--model", model, "--reference", "/no/such.safetensors"])
        .refused(&["/no/such.safetensors"]);
    run(&["render-chat", "--messages", "/no/such.json"]).refused(&["/no/such.json"]);
}

#[test]
fn a_reference_that_is_none() {
    let model = fixture("gpt2");
    let model = model.to_str().unwrap();
    let weights = fixture("gpt2").join("model.safetensors");
    let refuse = |file: &Path, parts: &[&str]| {
        let file = file.to_str().unwrap();
        run(&["verify", "--model", model, "--reference", file])
            .refused(&[&["--reference", file], parts].concat());
    };
    refuse(&weights, &["prompt_ids", "dump_hf_reference.py"]);
    // Another model's reference: other widths.
    refuse(&fixture("gpt2-hub").join("reference.safetensors"), &["transformer.wte", "dump_hf_reference.py"]);
}

#[test]
fn messages_that_are_no_chat() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chat.json");
    for text in ["", "{\"messages\"", "3", "{}", "[3]", "[{\"role\": \"user\"}"] {
        fs::write(&file, text).unwrap();
        run(&["render-chat", "--messages", file.to_str().unwrap()]).refused(&[]);
    }
    fs::write(&file, r#"[{"role": "user", "content": "Hi"}]"#).unwrap();
    let arguments = ["render-chat", "--messages", file.to_str().unwrap(), "--chat-template-kwargs", "[1]"];
    run(&arguments).refused(&["--chat-template-kwargs", "[1]", "JSON object"]);
    let no_template = fixture("gpt2");
    run(&["render-chat", "--messages", file.to_str().unwrap(), "--model", no_template.to_str().unwrap()])
        .refused(&[no_template.to_str().unwrap(), "no chat template"]);
}
