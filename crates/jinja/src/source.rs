//! A template's source as minijinja should read it.
//!
//! Jinja2 and minijinja differ in literals: Python's escapes, integers of any size, `'a' 'b'`. So each literal text
//! becomes a variable that holds what Python would read, which also leaves nothing for minijinja to compute ahead by
//! its own rules. `{% generation %}`, which marks the assistant's text for training, becomes a block that does
//! nothing, and a macro that uses `varargs` or `kwargs` gets them as parameters.

use minijinja::Value;

use super::literal;

/// Names of literals begin with this; no template's do.
const LITERAL: &str = "__stairwell_";
/// Blocks within blocks, and operators in one tag: what is deeper would overflow a parser's stack.
const MAX_BLOCKS: usize = 200;
const MAX_OPERATORS: usize = 2000;
const MAX_TOKENS: usize = 20_000;
/// What an operand follows.
const KEYWORDS: [&str; 7] = ["if", "else", "and", "or", "not", "in", "is"];
/// Blocks that end with `end…`.
const BLOCKS: [&str; 10] =
    ["if", "for", "macro", "call", "filter", "with", "block", "autoescape", "generation", "set"];

/// The source and what is taken out of it.
#[derive(Default)]
pub(super) struct Source {
    pub(super) text: String,
    pub(super) literals: Vec<(String, Value)>,
    /// Macros that use `varargs` or `kwargs`.
    pub(super) macros: Vec<Macro>,
    /// Whether a loop goes over the parts of a message's content.
    pub(super) takes_parts: bool,
    /// Variables that hold a content.
    contents: Vec<String>,
    /// Open blocks, and which macro each one is.
    blocks: Vec<(usize, Option<Macro>)>,
}

#[derive(Debug, Clone)]
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) parameters: Vec<String>,
    pub(super) varargs: bool,
    pub(super) kwargs: bool,
    /// Where its parameters end in the text.
    end: usize,
}

/// A tag as far as it has been read.
#[derive(Default)]
struct Tag<'a> {
    is_block: bool,
    /// Its tokens without white space.
    tokens: Vec<&'a str>,
    brackets: usize,
    operators: usize,
}

impl Tag<'_> {
    /// The names of a macro's parameters: those after "(" or "," of the outermost brackets.
    ///
    /// # Errors
    /// If a default uses another parameter, which minijinja evaluates too early.
    fn parameters(&self) -> Result<Vec<String>, String> {
        let mut depth = 0;
        let mut names: Vec<String> = Vec::new();
        for pair in self.tokens.windows(2) {
            match pair[0] {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => (),
            }
            if depth == 1 && matches!(pair[0], "(" | ",") {
                names.push(pair[1].to_owned());
            } else if pair[0] != "." && names.iter().rev().skip(1).any(|name| name == pair[1]) {
                return Err(format!(
                    "a default of a macro's parameter that uses '{}' is not known here",
                    pair[1]
                ));
            }
        }
        Ok(names)
    }
}

impl Source {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub(super) fn read(source: &str) -> Result<Self, String> {
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let mut out = Self::default();
        let mut at = 0;
        while at < source.len() {
            at += out
                .part(&source[at..])
                .map_err(|what| format!("line {}: {what}", source[..at].matches('\n').count() + 1))?;
        }
        Ok(out)
    }

    /// Takes the text up to a tag, or a tag; gives its length.
    fn part(&mut self, rest: &str) -> Result<usize, String> {
        if let Some(comment) = rest.strip_prefix("{#") {
            let end = comment.find("#}").ok_or("a comment has no end ('#}')")? + 4;
            self.text.push_str(&rest[..end]);
            return Ok(end);
        }
        if let Some(start) = block_tag(rest, "raw") {
            return self.raw(rest, start);
        }
        if rest.starts_with("{{") || rest.starts_with("{%") {
            return self.tag(rest);
        }
        let end = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min().unwrap_or(rest.len());
        self.text.push_str(&rest[..end]);
        Ok(end)
    }

    /// The variable that stands for a literal, with the newlines that the literal had, so lines keep their numbers.
    fn literal(&mut self, value: Value, written: &str) {
        let name = format!("{LITERAL}{}", self.literals.len());
        self.text.push_str(&name);
        self.text.extend(written.chars().filter(|&c| c == '\n'));
        self.literals.push((name, value));
    }

    /// `{% raw %}` whose text starts at `start`. It becomes a block around a literal, which trims as `raw` does: minijinja
    /// drops a newline too many.
    fn raw(&mut self, rest: &str, start: usize) -> Result<usize, String> {
        let mut ends = rest[start..].match_indices("{%").map(|(at, _)| start + at);
        let found = ends.find_map(|at| Some((at, at + block_tag(&rest[at..], "endraw")?)));
        let (body_end, end) = found.ok_or("'{% raw %}' has no '{% endraw %}'")?;
        let (open, close) = (&rest[..start], &rest[body_end..end]);
        let mut body = &rest[start..body_end];
        if open.ends_with("-%}") {
            body = body.trim_start();
        }
        if close.starts_with("{%-") {
            body = body.trim_end();
        } else if !close.starts_with("{%+") {
            let line = body.rfind('\n').map_or(0, |at| at + 1);
            body = if body[line..].trim().is_empty() && line > 0 { &body[..line] } else { body };
        }
        let sign = |tag: &str, at: usize| {
            tag.get(at..at + 1).filter(|sign| ["-", "+"].contains(sign)).unwrap_or("").to_owned()
        };
        self.text.push_str(&format!("{{%{} with +%}}{{{{ ", sign(open, 2)));
        self.literal(body.into(), &rest[..end]);
        self.text.push_str(&format!(" }}}}{{% endwith {}%}}", sign(close, close.len() - 3)));
        Ok(end)
    }

    /// `{{ … }}` or `{% … %}`.
    fn tag(&mut self, rest: &str) -> Result<usize, String> {
        let mut tag = Tag { is_block: rest.starts_with("{%"), ..Tag::default() };
        let ends: &[&str] = if tag.is_block { &["%}", "-%}", "+%}"] } else { &["}}", "-}}"] };
        let mut at = 2;
        self.text.push_str(&rest[..2]);
        if let Some(sign @ (b'-' | b'+')) = rest.as_bytes().get(2) {
            self.text.push(char::from(*sign));
            at += 1;
        }
        loop {
            let here = &rest[at..];
            if let Some(end) = ends.iter().find(|end| tag.brackets == 0 && here.starts_with(**end)) {
                self.end_of_tag(&tag)?;
                self.text.push_str(end);
                return Ok(at + end.len());
            }
            let length = literal::token(here).ok_or("a tag, or a text in it, has no end")?;
            at += length;
            let token = &here[..length];
            if token.starts_with(char::is_whitespace) {
                self.text.push_str(token);
                continue;
            }
            self.token(token, &rest[at..], &mut tag)?;
            tag.tokens.push(token);
            if tag.tokens.len() > MAX_TOKENS {
                return Err(format!("a tag has more than {MAX_TOKENS} words"));
            }
        }
    }

    /// One token of a tag, with what comes after it.
    fn token(&mut self, token: &str, after: &str, tag: &mut Tag) -> Result<(), String> {
        let before = tag.tokens.last().copied().unwrap_or_default();
        let first = token.chars().next().unwrap_or_default();
        if first == '\'' || first == '"' {
            self.literal(literal::text(token)?.into(), token);
        } else if let Some(wide) = literal::wide_integer(token).filter(|_| before != ".") {
            self.literal(wide, token);
        } else if first.is_alphabetic() || first == '_' {
            self.name(token, after, before, tag)?;
        } else {
            tag.operators += usize::from(!matches!(token, "," | ":") && !first.is_ascii_digit());
            match token {
                "(" | "[" | "{" => tag.brackets += 1,
                ")" | "]" | "}" => tag.brackets = tag.brackets.saturating_sub(1),
                _ => (),
            }
            if let (")", 0, ["macro", name, ..]) = (token, tag.brackets, tag.tokens.as_slice()) {
                let parameters = tag.parameters()?;
                let end = self.text.len();
                let found = Macro { name: name.to_string(), parameters, varargs: false, kwargs: false, end };
                self.blocks.push((0, Some(found)));
            }
            // minijinja knows no unary plus.
            let is_unary = before.is_empty()
                || KEYWORDS.contains(&before)
                || (!before.ends_with([')', ']', '}', '"', '\''])
                    && before.ends_with(|c: char| c.is_ascii_punctuation() && c != '_'));
            self.text.push_str(if token == "+" && is_unary { "- -" } else { token });
        }
        match tag.operators > MAX_OPERATORS {
            true => Err(format!("a tag has more than {MAX_OPERATORS} operators")),
            false => Ok(()),
        }
    }

    fn name(&mut self, name: &str, after: &str, before: &str, tag: &mut Tag) -> Result<(), String> {
        let is_first = tag.is_block && tag.tokens.is_empty();
        let after = after.trim_start();
        let is_value = !matches!(before, "." | "|" | "is")
            && !tag.tokens.ends_with(&["is", "not"])
            && (!after.starts_with('=') || after.starts_with("=="));
        match name {
            "generation" if is_first => self.text.push_str("with"),
            "endgeneration" if is_first => self.text.push_str("endwith"),
            "true" | "True" if is_value => self.literal(true.into(), ""),
            "false" | "False" if is_value => self.literal(false.into(), ""),
            "none" | "None" if is_value => self.literal(().into(), ""),
            _ if name.starts_with(LITERAL) => return Err(format!("names like {name} are stairwell's own")),
            _ => self.text.push_str(name),
        }
        if let (true, Some(found)) =
            (is_value, self.blocks.iter_mut().rev().find_map(|(_, found)| found.as_mut()))
        {
            found.varargs |= name == "varargs";
            found.kwargs |= name == "kwargs";
        }
        tag.operators += usize::from(matches!(name, "not" | "if" | "and" | "or" | "is" | "in"));
        Ok(())
    }

    /// Notices `for part in message.content`, also by way of a variable.
    fn look_for_parts(&mut self, tokens: &[&str]) {
        let is_content = |token: &&str| {
            token.trim_matches(['\'', '"']) == "content" || self.contents.iter().any(|name| name == token)
        };
        match tokens {
            ["set", name, "=", value @ ..]
                if value.iter().any(is_content) && (!value.contains(&"(") || value.contains(&"get")) =>
            {
                self.contents.push(name.to_string());
            }
            ["for", _, rest @ ..] if rest.iter().any(is_content) && !rest.contains(&"split") => {
                self.takes_parts = true;
            }
            _ => (),
        }
    }

    /// Keeps count of blocks. An `elif` is parsed as a block in a block.
    fn end_of_tag(&mut self, tag: &Tag) -> Result<(), String> {
        let (true, Some(&first)) = (tag.is_block, tag.tokens.first()) else { return Ok(()) };
        self.look_for_parts(&tag.tokens);
        let is_assignment = first == "set" && tag.tokens.contains(&"=");
        if first == "elif" {
            if let Some((depth, _)) = self.blocks.last_mut() {
                *depth += 1;
            }
        } else if BLOCKS.contains(&first) && !is_assignment {
            if !(first == "macro" && matches!(self.blocks.last(), Some((0, Some(_))))) {
                self.blocks.push((0, None));
            }
            if let Some((depth, _)) = self.blocks.last_mut() {
                *depth = 1;
            }
        } else if first.strip_prefix("end").is_some_and(|name| BLOCKS.contains(&name)) {
            let found = self.blocks.pop().and_then(|(_, found)| found);
            if let Some(found) = found.filter(|found| found.varargs || found.kwargs) {
                let comma = if found.parameters.is_empty() { "" } else { ", " };
                self.text.insert_str(found.end, &format!("{comma}varargs=(), kwargs={{}}"));
                self.macros.push(found);
            }
        }
        match self.blocks.iter().map(|(depth, _)| depth).sum::<usize>() > MAX_BLOCKS {
            true => Err(format!("more than {MAX_BLOCKS} blocks lie within each other")),
            false => Ok(()),
        }
    }
}

/// The length of `{% name %}`, if it stands here.
fn block_tag(rest: &str, name: &str) -> Option<usize> {
    let inner = rest.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start().strip_prefix(name)?.trim_start();
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).strip_prefix("%}")?;
    Some(rest.len() - inner.len())
}
