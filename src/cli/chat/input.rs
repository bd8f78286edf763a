//! Where lines come from: an editor in a terminal, or standard input as it is.

use super::{
    super::terminal::{colours, print_note, styled},
    command::{COMMANDS, goes_on, joined},
};
use rustyline::{
    Config, Context, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use stairwell::error::{Error, Result};
use std::{
    env, fs,
    io::{self, BufRead},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    thread,
};
use tokio::sync::mpsc::{Receiver, channel};

/// Lines that are remembered in the file of what was typed.
const REMEMBERED: usize = 1000;

/// Lines from somewhere.
pub enum Input {
    Terminal(Box<Terminal>),
    /// From a thread that reads standard input, so that a signal is heard meanwhile.
    Lines(Receiver<io::Result<String>>),
}

/// An editor, and the file of what was typed.
pub struct Terminal {
    editor: Editor<LineHelper, FileHistory>,
    history: Option<PathBuf>,
    prompt: (String, String),
}

/// How a wait for a line ended.
pub enum Event {
    Line(String),
    /// Ctrl-C at the prompt.
    Cleared,
    End,
}

impl Input {
    /// Opens the terminal or standard input.
    ///
    /// # Errors
    /// A terminal that can't be set up.
    pub fn open(interactive: bool, history: bool) -> Result<Input> {
        match interactive {
            true => Ok(Input::Terminal(Box::new(Terminal::open(history).map_err(no_terminal)?))),
            false => Ok(Input::Lines(lines_of_stdin())),
        }
    }
}

impl Terminal {
    fn open(history: bool) -> rustyline::Result<Terminal> {
        let config = Config::builder().max_history_size(REMEMBERED)?.history_ignore_space(true).build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(LineHelper));
        let history = if history { history_file() } else { None };
        if let Some(file) = history.as_deref().filter(|file| file.exists()) {
            editor.load_history(file).unwrap_or_else(|error| {
                print_note(&format!("'{}' was not read: {error}", file.display()));
            });
        }
        let prompt = "> ".to_owned();
        let bold = styled(&prompt, "1", colours(&io::stdout()));
        Ok(Terminal { editor, history, prompt: (prompt, bold) })
    }

    /// Waits for a line, or for several that belong together.
    ///
    /// # Errors
    /// A terminal that can't be read.
    pub fn next(&mut self) -> Result<Event> {
        match self.editor.readline(&self.prompt) {
            Ok(lines) => {
                self.remember(&lines);
                Ok(Event::Line(joined(&lines)))
            }
            Err(ReadlineError::Interrupted) => Ok(Event::Cleared),
            Err(ReadlineError::Eof) => Ok(Event::End),
            Err(error) => Err(no_terminal(error)),
        }
    }

    /// Puts a line into the history, and into its file at once: the program may be killed.
    fn remember(&mut self, lines: &str) {
        let added = self.editor.add_history_entry(lines);
        let Some(file) = &self.history else { return };
        if let Err(error) = added.and_then(|_| self.editor.append_history(file)) {
            print_note(&format!("'{}' was not written: {error}", file.display()));
            self.history = None;
        }
    }
}

/// The file of what was typed, in a folder that only its owner may read; `None` if there is no place for it.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = state.join("stairwell");
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
        Ok(()) => Some(folder.join("chat_history")),
        Err(error) => {
            print_note(&format!("what you type is not remembered: '{}': {error}", folder.display()));
            None
        }
    }
}

fn no_terminal(error: ReadlineError) -> Error {
    Error::Io { path: "the terminal".into(), error: io::Error::other(error) }
}

/// Lines of standard input, those joined that belong together.
fn lines_of_stdin() -> Receiver<io::Result<String>> {
    let (sender, lines) = channel(1);
    // It waits for input and may do so for ever; the end of the program is its end.
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let read = joined_line(&mut stdin).transpose();
            let Some(line) = read else { return };
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    lines
}

/// The next line with those that it goes on with; `None` at the end.
fn joined_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut lines = String::new();
    while input.read_line(&mut lines)? > 0 {
        if !goes_on(lines.trim_end_matches(['\r', '\n'])) {
            break;
        }
    }
    Ok((!lines.is_empty()).then(|| joined(&lines.replace("\r\n", "\n"))))
}

/// What the editor is helped with: lines that go on, and the names of commands after Tab.
struct LineHelper;

impl Helper for LineHelper {}
impl Highlighter for LineHelper {}

impl Hinter for LineHelper {
    type Hint = String;
}

impl Validator for LineHelper {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(match goes_on(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for LineHelper {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..at];
        let names = COMMANDS.iter().filter_map(|(command, _)| command.split(' ').next());
        let fits = |name: &&str| typed.starts_with('/') && name.starts_with(typed) && *name != "//";
        Ok((0, names.filter(fits).map(str::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_end_with_a_backslash_go_on() {
        let mut input = "a\\\nb\\\r\nc\nd\n\ne\\".as_bytes();
        let mut next = || joined_line(&mut input).unwrap();
        assert_eq!(next().unwrap().trim(), "a\nb\nc");
        assert_eq!(next().unwrap().trim(), "d");
        assert_eq!(next().unwrap().trim(), "");
        assert_eq!(next().unwrap().trim(), "e\\");
        assert_eq!(next(), None);
    }
}
