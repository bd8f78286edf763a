//! `stairwell chat` through pipes: each line is a message or a command, and standard output has the answers alone.

use crate::common::{Ran, finish, program, run};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A chat with these flags, whose pipes the test holds.
fn start(flags: &[&str]) -> Child {
    let mut command = program();
    command.arg("chat").args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// A chat in which the lines are said and nothing more, greedy if no other flags are given.
fn chat(flags: &[&str], lines: &str) -> Ran {
    let mut child = start(&[&["--temperature", "0"], flags].concat());
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    ended(child)
}

/// What a chat gave whose input has ended.
fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn read(path: &Path) -> Vec<Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A path for `/save` in a folder of its own.
fn file() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("said.json");
    (dir, path)
}

/// The number after a word in a line of `/stats`.
fn number(line: &str, before: &str) -> usize {
    let rest = line.split(before).nth(1).unwrap_or_else(|| panic!("no '{before}' in {line}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after '{before}' in {line}"))
}

fn lines_with<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(part)).collect()
}

#[test]
fn turns_share_the_prefix_cache_and_answers_are_those_of_generate() {
    let (_dir, path) = file();
    let said = format!(
        "Tell me a story about a cat.\n/stats\nWhat did the cat do then?\n/stats\n/save {}\n",
        path.display()
    );
    let flags = ["--max-tokens", "40", "--system", "You tell stories."];
    let out = chat(&flags, &said).good();
    let turns = lines_with(&out, "this turn: ");
    let cached = |line| number(line, "prefix cache: ");
    let (prompt, held) = (number(turns[1], "this turn: "), number(turns[0], "this turn: "));
    assert_eq!(cached(turns[0]), 0);
    // All but the new message and the block of 16 tokens that it begins in.
    assert!(cached(turns[1]) > held && cached(turns[1]) < prompt, "{turns:?}");
    let all = lines_with(&out, "in all: ");
    assert!(all[1].starts_with("in all: 2 turns"), "{all:?}");
    assert_eq!((cached(all[0]), cached(all[1])), (0, cached(turns[1])));
    assert_eq!(lines_with(&out, "context: ").len(), 2);

    let messages = read(&path);
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    for answer in [2, 4] {
        let before = path.with_file_name("before.json");
        fs::write(&before, serde_json::to_vec(&messages[..answer]).unwrap()).unwrap();
        let flags = ["generate", "--temperature", "0", "--max-tokens", "40", "--json", "--messages"];
        let alone = run(&[&flags[..], &[before.to_str().unwrap()]].concat()).json();
        assert_eq!(messages[answer]["content"], alone["text"]);
        assert!(out.contains(&format!("{}\n", alone["text"].as_str().unwrap())));
    }
}

#[test]
fn without_a_prefix_cache_nothing_is_shared() {
    let out = chat(&["--max-tokens", "8", "--no-prefix-cache"], "One.\nTwo.\n/stats\n").good();
    assert_eq!(number(lines_with(&out, "in all: ")[0], "prefix cache: "), 0);
}

#[test]
fn reset_forgets_the_conversation_but_not_the_system_message() {
    let (_dir, path) = file();
    let flags = ["--max-tokens", "20", "--system", "Be brief."];
    let said = format!("Hello there.\n/reset\n/stats\nHello there.\n/save {}\n", path.display());
    let out = chat(&flags, &said).good();
    let (first, rest) = out.split_once("this turn: ").unwrap();
    assert!(rest.contains("context: 0 of 2048 tokens\n"), "{rest}");
    let (_, second) = rest.split_once("2048 tokens\n").unwrap();
    assert_eq!(first, second, "the same question gets the same answer");
    let answer = first.trim_end_matches('\n');
    assert_eq!(
        json!(read(&path)),
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello there."},
            {"role": "assistant", "content": answer},
        ])
    );
}

#[test]
fn the_system_message_can_be_set_and_taken_away() {
    let (_dir, path) = file();
    let save = |name: &str| path.with_file_name(name);
    let (set, gone) = (save("set.json"), save("gone.json"));
    let said = format!(
        "/system Answer in  rhymes.\nHi.\n/save {}\n/system\n/save {}\n",
        set.display(),
        gone.display()
    );
    chat(&["--max-tokens", "4"], &said).good();
    let (set, gone) = (read(&set), read(&gone));
    assert_eq!(set[0], json!({"role": "system", "content": "Answer in  rhymes."}));
    assert_eq!(set[1..], gone[..]);
    assert_eq!(gone.len(), 2);
}

#[test]
fn a_file_that_exists_is_written_over_only_when_asked() {
    let (_dir, path) = file();
    fs::write(&path, "mine").unwrap();
    let name = path.display();
    let ran = chat(&["--max-tokens", "4"], &format!("/save {name}\n"));
    ran.refused(&[&format!("'{name}' exists; /save! {name}")]);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    chat(&["--max-tokens", "4"], &format!("Hi.\n/save! {name}\n")).good();
    assert_eq!(read(&path).len(), 2);
    let nowhere = path.with_file_name("no").join("folder");
    chat(&[], &format!("/save {}\n", nowhere.display())).refused(&[nowhere.to_str().unwrap()]);
}

#[test]
fn a_wrong_command_is_a_sentence_and_the_conversation_goes_on() {
    chat(&[], "/rest\n").refused(&["there is no command /rest", "/help"]);
    chat(&[], "/save\n").refused(&["/save needs the name of a file"]);
    let ran = chat(&["--max-tokens", "4"], "/stats now\nHi.\n");
    assert_eq!(ran.code, Some(1), "a script sees that a line was refused: {ran:?}");
    assert!(ran.stderr.contains("write /stats alone") && !ran.stdout.is_empty(), "{ran:?}");
    let help = chat(&[], "/help\n/exit\n/rest\n").good();
    assert!(help.contains("/reset") && help.contains("/save! FILE"), "{help}");
}

#[test]
fn lines_without_an_end_empty_ones_and_those_that_go_on() {
    let (_dir, path) = file();
    for nothing in ["", "\n", "  \n\n"] {
        assert_eq!(chat(&[], nothing).good(), "");
    }
    // The last line has no newline.
    let said = format!("One\\\ntwo \\\n three\n/save {}\n//slash", path.display());
    let out = chat(&["--max-tokens", "4"], &said).good();
    assert_eq!(read(&path)[0]["content"], "One\ntwo \n three");
    let answer = read(&path)[1]["content"].as_str().unwrap().to_owned() + "\n";
    assert!(out.starts_with(&answer) && out.len() > answer.len(), "the last line has an answer too: {out}");
}

#[test]
fn an_interrupt_ends_the_answer_and_not_the_conversation() {
    let (_dir, path) = file();
    let mut child = start(&["--temperature", "0", "--ignore-eos", "--max-tokens", "1900"]);
    let (mut said, mut heard) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    writeln!(said, "Tell me a very long story.").unwrap();
    let mut first = [0; 1];
    heard.read_exact(&mut first).unwrap();
    interrupt(&child);
    writeln!(said, "/stats\n/save {}\n/exit", path.display()).unwrap();
    let mut out = String::from_utf8(first.into()).unwrap();
    heard.read_to_string(&mut out).unwrap();
    let ran = ended(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(out.contains("prefix cache: unknown (the answer was interrupted)"), "{out}");
    let tokens = number(lines_with(&out, "this turn: ")[0], "interrupted); ");
    assert!((1..1900).contains(&tokens), "{out}");
    // What had come is a part of the conversation.
    let messages = read(&path);
    assert_eq!(messages.len(), 2);
    assert!(out.starts_with(&format!("{}\n", messages[1]["content"].as_str().unwrap())), "{out}");
}

#[test]
fn an_interrupt_between_answers_ends_the_program() {
    let mut child = start(&["--max-tokens", "2"]);
    let (mut said, mut heard) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    said.write_all(b"Hi.\n/stats\n").unwrap();
    let mut out = String::new();
    while !out.contains("context: ") {
        let mut byte = [0; 1];
        heard.read_exact(&mut byte).unwrap();
        out.push(byte[0] as char);
    }
    // The answer is over, and the next line is waited for: soon, if not yet.
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        interrupt(&child);
        thread::sleep(Duration::from_millis(50));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "it doesn't end");
    };
    assert_eq!(status.code(), Some(130));
}

#[test]
fn a_full_context_is_a_sentence_and_reset_helps() {
    let flags = ["--max-model-len", "64", "--ignore-eos"];
    let ran = chat(&flags, "Tell me a story.\nAnd then?\n/reset\nHi.\n/stats\n");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let errors = lines_with(&ran.stderr, "error: ");
    assert!(errors.len() == 1 && errors[0].contains("the context is full: the prompt has"), "{ran:?}");
    assert!(errors[0].contains("/reset"), "{ran:?}");
    let full = lines_with(&ran.stderr, "note: the context is full, 64 tokens: /reset");
    assert_eq!(full.len(), 2, "both answers run to its end: {ran:?}");
    let all = lines_with(&ran.stdout, "in all: ");
    assert!(all[0].starts_with("in all: 2 turns"), "the refused message is no turn: {ran:?}");
    assert!(ran.stdout.ends_with("context: 64 of 64 tokens\n"), "{ran:?}");

    let far = chat(&flags, &format!("{}\n", "long ".repeat(10_000)));
    far.refused(&["the context is full", "bytes", "/reset"]);
    let cut = chat(&["--max-tokens", "3", "--ignore-eos"], "Hi.\n");
    assert!(cut.stderr.contains("cut at 3 tokens; --max-tokens allows more"), "{cut:?}");
}

#[test]
fn what_cannot_work_is_refused_before_the_first_message() {
    chat(&["--temperature", "3"], "Hi.\n").refused(&["--temperature"]);
    chat(&["--top-p", "0"], "Hi.\n").refused(&["--top-p"]);
    chat(&["--logprobs", "1"], "Hi.\n").refused(&["--logprobs"]);
    chat(&["--trace", "x.json"], "Hi.\n").refused(&["--trace"]);

    let dir = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(demo.join(name), dir.path().join(name)).unwrap();
    }
    let config = dir.path().join("tokenizer_config.json");
    let template = |template: Value| {
        let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        json["chat_template"] = template;
        fs::write(&config, json.to_string()).unwrap();
    };
    let model = ["--model", dir.path().to_str().unwrap(), "--load-format", "dummy"];
    template(Value::Null);
    chat(&model, "Hi.\n").refused(&["has no chat template"]);
    template("{{ raise_exception('no system message, please') }}".into());
    chat(&model, "Hi.\n").refused(&["no system message, please"]);
}

#[test]
fn input_that_is_no_text_ends_it_with_an_error() {
    let mut child = start(&[]);
    child.stdin.take().unwrap().write_all(b"caf\xe9\n").unwrap();
    ended(child).refused(&["stdin", "UTF-8"]);
    let mut command = program();
    finish(command.args(["chat", "--max-tokens", "0"])).refused(&["--max-tokens"]);
}

/// Reads until the text ends with `end`, or there is no more.
fn read_until(from: &mut impl Read, end: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0; 1];
    while !text.ends_with(end.as_bytes()) && from.read(&mut byte).is_ok_and(|n| n == 1) {
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into()
}

/// With the terminal of `script`, which util-linux has.
#[cfg(target_os = "linux")]
#[test]
fn in_a_terminal_ctrl_c_ends_the_answer_and_lines_are_remembered() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: there is no `script`, which makes a terminal");
        return;
    }
    let (dir, path) = file();
    let program = env!("CARGO_BIN_EXE_stairwell");
    // A shell that stayed would report its own interrupt as the status.
    let chat = format!("exec '{program}' chat --temperature 0 --ignore-eos --max-tokens 1900");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &chat, "/dev/null"]);
    command
        .env("SHELL", "/bin/sh")
        .env("XDG_STATE_HOME", dir.path())
        .env("TERM", "xterm")
        .env("NO_COLOR", "1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut typed, mut seen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // What the editor writes last when it waits for a line.
    const WAITS: &str = "\x1b[2C\x1b[?2026l";

    assert!(read_until(&mut seen, WAITS).contains("/help lists the commands"));
    typed.write_all(b"Tell me a\\\rvery long story.\r").unwrap();
    assert!(read_until(&mut seen, "story.\x1b[?2004l\r\n").ends_with('\n'));
    read_until(&mut seen, " "); // a word of the answer
    typed.write_all(b"\x03").unwrap();
    let rest = read_until(&mut seen, WAITS);
    assert!(rest.contains("^C"), "{rest}");
    // At the prompt it clears the line.
    typed.write_all(b"/exit\x03").unwrap();
    read_until(&mut seen, WAITS);
    typed.write_all(format!("/save {}\r", path.display()).as_bytes()).unwrap();
    let saved = read_until(&mut seen, WAITS);
    assert!(saved.contains("has 2 messages"), "{saved}");
    typed.write_all(b"/st\t\r").unwrap();
    let stats = read_until(&mut seen, WAITS);
    assert!(stats.contains("in all: 1 turn,"), "{stats}");
    typed.write_all(b"\x04").unwrap();
    read_until(&mut seen, "never");
    assert_eq!(child.wait().unwrap().code(), Some(0));

    assert_eq!(read(&path)[0]["content"], "Tell me a\nvery long story.");
    let history = fs::read_to_string(dir.path().join("stairwell/chat_history")).unwrap();
    assert!(history.contains("very long story.\n") && history.ends_with("/stats\n"), "{history}");
}
