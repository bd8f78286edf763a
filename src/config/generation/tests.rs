use super::*;

fn parse(json: &str) -> Result<GenerationConfig, String> {
    GenerationConfig::parse(json.as_bytes(), Path::new("dir/g.json")).map_err(|e| e.to_string())
}

fn resolve(flags: &Knobs, json: &str) -> Result<SamplingDefaults, String> {
    SamplingDefaults::resolve(flags, Some(&parse(json)?)).map_err(|e| e.to_string())
}

/// Shaped as Qwen3's.
const CHAT: &str = r#"{"bos_token_id": 7, "do_sample": true, "eos_token_id": [9, 7], "pad_token_id": 7, "temperature": 0.6,
    "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0", "cache_implementation": "hybrid"}"#;

#[test]
fn reads_what_is_there_and_ignores_the_rest() {
    let config = parse(CHAT).unwrap();
    assert_eq!(config.eos_token_id, [9, 7]);
    assert_eq!(config.do_sample, Some(true));
    let knobs = Knobs { temperature: Some(0.6), top_k: Some(20), top_p: Some(0.95), ..Knobs::default() };
    assert_eq!(config.knobs, knobs);

    let json = r#"{"eos_token_id": -1, "pad_token_id": NaN, "top_k": -1, "temperature": 1, "top_p": null}"#;
    let config = parse(json).unwrap();
    assert!(config.eos_token_id.is_empty());
    assert_eq!(config.knobs, Knobs { temperature: Some(1.0), top_k: Some(0), ..Knobs::default() });
    assert_eq!(parse(r#"{"eos_token_id": null}"#).unwrap(), parse("{}").unwrap());
}

#[test]
fn wrong_types_name_the_file_and_the_field() {
    let cases = [
        (r#"{"temperature": "hot"}"#, "'temperature': expected a number, found \"hot\""),
        (r#"{"top_k": 2.5}"#, "'top_k': expected a size"),
        (r#"{"top_k": -2}"#, "'top_k': expected a size"),
        (r#"{"do_sample": 1}"#, "'do_sample': expected true or false"),
        (r#"{"eos_token_id": [1, "two"]}"#, "'eos_token_id': expected a token id or a list"),
        (r#"{"eos_token_id": 4294967296}"#, "'eos_token_id': expected a token id"),
        (r#"{"max_new_tokens": []}"#, "'max_new_tokens': expected a size"),
        ("[1]", "not a JSON object"),
        (r#"{"temperature": NaN}"#, "'temperature': expected a number, found \"NaN\""),
        (r#"{"temperature": nan}"#, "not JSON"),
        ("", "not JSON"),
    ];
    for (json, expected) in cases {
        let message = parse(json).unwrap_err();
        assert!(message.starts_with(&format!("dir/g.json: {expected}")), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn the_command_line_wins_over_the_file_and_the_file_over_the_default() {
    let flags = Knobs { temperature: Some(0.0), max_tokens: Some(5), ..Knobs::default() };
    let resolved = resolve(&flags, CHAT).unwrap();
    let lines = resolved.describe().into_iter().map(|(name, value)| format!("{name} {value}"));
    let expected = [
        "temperature 0 (command line)",
        "top_k 20 (generation_config.json)",
        "top_p 0.95 (generation_config.json)",
        "min_p 0 (default)",
        "repetition_penalty 1 (default)",
        "max_tokens 5 (command line)",
    ];
    assert!(lines.eq(expected), "{resolved:?}");
    let params = SamplingParams { temperature: 0.0, top_k: 20, top_p: 0.95, ..SamplingParams::default() };
    assert_eq!(resolved.params(), params);
}

#[test]
fn every_knob_is_taken_from_the_file_and_from_the_flags() {
    let json = r#"{"temperature": 0.5, "top_k": 3, "top_p": 0.7, "min_p": 0.1, "repetition_penalty": 1.2, "max_new_tokens": 9}"#;
    let file = resolve(&Knobs::default(), json).unwrap();
    let flags = parse(json).unwrap().knobs;
    let given = SamplingDefaults::resolve(&flags, None).unwrap();
    let values = ["0.5", "3", "0.7", "0.1", "1.2", "9"];
    for (resolved, source) in [(file, "generation_config.json"), (given, "command line")] {
        let lines = resolved.describe().into_iter().map(|(_, value)| value);
        assert!(lines.eq(values.map(|value| format!("{value} ({source})"))), "{resolved:?}");
        let p = resolved.params();
        let floats = [p.temperature, p.top_p, p.min_p, p.repetition_penalty];
        assert_eq!((floats, p.top_k), ([0.5, 0.7, 0.1, 1.2], 3));
    }
}

#[test]
fn no_file_is_temperature_one_and_no_filter() {
    let resolved = SamplingDefaults::resolve(&Knobs::default(), None).unwrap();
    assert_eq!(resolved.params(), SamplingParams::default());
    assert_eq!(resolved.describe()[0], ("temperature", "1 (default)".into()));
    assert!(resolved.max_tokens.is_none() && resolved.note.is_none());
}

#[test]
fn do_sample_false_is_only_a_note() {
    let json = r#"{"do_sample": false, "temperature": 0.6}"#;
    let note = resolve(&Knobs::default(), json).unwrap().note.unwrap();
    assert!(note.contains("sampling at temperature 0.6"), "{note}");
    for temperature in [0.0, 0.8] {
        let flags = Knobs { temperature: Some(temperature), ..Knobs::default() };
        assert_eq!(resolve(&flags, json).unwrap().note, None);
    }
    assert_eq!(resolve(&Knobs::default(), CHAT).unwrap().note, None);
}

#[test]
fn a_value_out_of_range_is_refused_unless_a_flag_replaces_it() {
    let json = r#"{"repetition_penalty": 0}"#;
    let message = resolve(&Knobs::default(), json).unwrap_err();
    let expected = "dir/g.json: 'repetition_penalty': it is 0; it must be above 0 and finite (1 is off); \
                    repetition_penalty overrides it";
    assert_eq!(message, expected);
    let flags = Knobs { repetition_penalty: Some(1.1), ..Knobs::default() };
    assert_eq!(resolve(&flags, json).unwrap().params().repetition_penalty, 1.1);
    for (field, value) in [("temperature", "-1"), ("top_p", "0"), ("min_p", "1e300"), ("max_new_tokens", "0")]
    {
        let json = format!("{{\"{field}\": {value}}}");
        let message = resolve(&Knobs::default(), &json).unwrap_err();
        assert!(message.contains(&format!("'{field}': it is ")), "{message}");
    }
}

#[test]
fn bytes_of_any_kind_do_not_panic() {
    let mut state = 1u64;
    for _ in 0..20_000 {
        let mut bytes = CHAT.as_bytes().to_vec();
        for _ in 0..3 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 24) as u8;
        }
        let config = GenerationConfig::parse(&bytes, Path::new("x")).unwrap_or_default();
        let _ = SamplingDefaults::resolve(&Knobs::default(), Some(&config));
    }
}
