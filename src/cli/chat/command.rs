//! What a line is: a message, or a command that begins with a slash.

/// The commands, for completion and for `/help`.
pub const COMMANDS: [(&str, &str); 8] = [
    ("/reset", "forget the conversation; the system message stays"),
    ("/system TEXT", "set the system message; without a text, have none"),
    ("/stats", "tokens, speed, and how much of the prompt came from the prefix cache"),
    ("/save FILE", "write the conversation as JSON messages"),
    ("/save! FILE", "the same, over a file that exists"),
    ("/help", "this list"),
    ("/exit", "end; so does Ctrl-D"),
    ("//", "a message that begins with a slash: //etc is sent as /etc"),
];

/// One line, or several that belong together.
#[derive(Debug, PartialEq)]
pub enum Line {
    Nothing,
    Message(String),
    Reset,
    System(Option<String>),
    Stats,
    Save { file: String, replace: bool },
    Help,
    Exit,
}

impl Line {
    /// Reads a line. A text loses the space around it, but not within.
    ///
    /// # Errors
    /// A sentence for a command that doesn't exist, or is given too little or too much.
    pub fn parse(line: &str) -> Result<Line, String> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return Ok(if line.is_empty() { Line::Nothing } else { Line::Message(line.into()) });
        };
        if command.starts_with('/') {
            return Ok(Line::Message(command.into()));
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
        let file = rest.map(str::to_owned).ok_or_else(|| format!("/{name} needs the name of a file"));
        match (name, rest) {
            ("reset", None) => Ok(Line::Reset),
            ("system", text) => Ok(Line::System(text.map(str::to_owned))),
            ("stats", None) => Ok(Line::Stats),
            ("save", _) => Ok(Line::Save { file: file?, replace: false }),
            ("save!", _) => Ok(Line::Save { file: file?, replace: true }),
            ("help", None) => Ok(Line::Help),
            ("exit", None) => Ok(Line::Exit),
            ("reset" | "stats" | "help" | "exit", Some(_)) => {
                Err(format!("/{name} takes nothing after it; write /{name} alone"))
            }
            _ => Err(format!(
                "there is no command /{name}; /help lists those that there are, and // begins a message with a slash"
            )),
        }
    }
}

/// What `/help` prints.
pub fn help() -> String {
    COMMANDS.iter().map(|(command, what)| format!("{command:13} {what}\n")).collect()
}

/// Whether a line goes on with the next one.
pub fn goes_on(line: &str) -> bool {
    line.ends_with('\\')
}

/// Takes the backslashes away that joined lines.
pub fn joined(lines: &str) -> String {
    lines.replace("\\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let message = |text: &str| Ok(Line::Message(text.into()));
        for (line, expected) in [
            ("  ", Ok(Line::Nothing)),
            (" Hi  there ", message("Hi  there")),
            ("a /reset", message("a /reset")),
            ("//etc/passwd", message("/etc/passwd")),
            ("/reset ", Ok(Line::Reset)),
            ("/system  Be brief.\nAlways.", Ok(Line::System(Some("Be brief.\nAlways.".into())))),
            ("/system", Ok(Line::System(None))),
            ("/save a b.json", Ok(Line::Save { file: "a b.json".into(), replace: false })),
            ("/save! a", Ok(Line::Save { file: "a".into(), replace: true })),
        ] {
            assert_eq!(Line::parse(line), expected, "{line}");
        }
    }

    #[test]
    fn a_wrong_command_is_a_sentence() {
        for (line, part) in [
            ("/rest", "no command /rest;"),
            ("/", "no command /;"),
            ("/save", "/save needs"),
            ("/save! ", "/save! needs"),
            ("/stats now", "write /stats alone"),
        ] {
            let sentence = Line::parse(line).unwrap_err();
            assert!(sentence.contains(part), "{sentence}");
        }
    }

    #[test]
    fn every_command_in_the_list_is_one() {
        for (command, _) in COMMANDS {
            assert!(Line::parse(command).is_ok(), "{command}");
        }
    }

    #[test]
    fn a_backslash_joins_lines() {
        assert!(goes_on("a\\") && !goes_on("a\\ ") && !goes_on(""));
        assert_eq!(joined("a\\\n b\\c\nd"), "a\n b\\c\nd");
    }
}
