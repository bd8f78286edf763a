//! Figures: a number in the text equals the recorded result that the comment after it names.
//!
//! `<!-- figures: benches/results/step1.json -->` names the page's file of results. Then
//! `takes 4.2<!-- =recompute[tokens=150].seconds --> s` is compared to as many decimals as it shows, and a
//! `<!-- table: recompute | tokens | seconds .2 -->` before a table gives the table's body.

use super::page::{comment, prose};
use crate::Checked;
use serde_json::Value;

/// Compares the figures and tables of a page with the results, which `read` gives by path.
pub fn check(text: &str, read: &dyn Fn(&str) -> Option<String>) -> Checked {
    let default = text.lines().find_map(|l| comment(l)?.strip_prefix("figures: "));
    let results = Results { read, default };
    let mut checked = Checked::default();
    let mut body = None; // the rest of a table's body, in the page, is skipped
    let prose = prose(text, false);
    for (at, line) in text.lines().enumerate() {
        if !prose.iter().any(|(i, _)| *i == at) {
            checked.keep(&[line]);
            continue;
        }
        if let Some(spec) = comment(line).and_then(|c| c.strip_prefix("table: ")) {
            let (rows, old) = (table(spec, &results), table_below(text, at));
            match rows {
                Err(e) => checked.wrong(at, e),
                Ok(rows) if old.len() < 2 => checked.wrong(
                    at,
                    format!(
                        "no table follows; write a header and a line of dashes above {} rows",
                        rows.len()
                    ),
                ),
                Ok(rows) => {
                    if old[2..] != rows {
                        checked.stale(at, format!("this table differs from the recorded '{}'", spec.trim()));
                    }
                    checked.keep(&[line]);
                    checked.keep(&old[..2]);
                    checked.keep(&rows);
                    body = Some(at + old.len());
                    continue;
                }
            }
        }
        if body.is_some_and(|end| at <= end) {
            continue;
        }
        let line = figures(line, at, &results, &mut checked);
        checked.keep(&[line]);
    }
    checked
}

/// The lines of the table that follows line `at`.
fn table_below(text: &str, at: usize) -> Vec<&str> {
    text.lines().skip(at + 1).take_while(|l| l.trim_start().starts_with('|')).collect()
}

/// Checks the numbers of one line; returns it as it should be.
fn figures(line: &str, at: usize, results: &Results, checked: &mut Checked) -> String {
    let mut fixed = String::new();
    let mut rest = line;
    while let Some(start) = rest.find("<!-- =") {
        let (before, from) = rest.split_at(start);
        let Some(end) = from.find("-->") else { break };
        let shown = last_figure(before);
        let recorded = results.value(from[6..end].trim(), None);
        let want = recorded.and_then(|value| format_like(shown, &value));
        match want {
            Err(e) => {
                checked.wrong(at, e);
                fixed += before;
            }
            Ok(want) => {
                if want != shown {
                    checked.stale(at, format!("'{shown}' is recorded as {want} ({})", from[6..end].trim()));
                }
                let (head, tail) = before.split_at(before.trim_end_matches('*').len());
                fixed += &format!("{}{want}{tail}", &head[..head.len() - shown.len()]);
            }
        }
        fixed += &from[..end + 3];
        rest = &from[end + 3..];
    }
    fixed + rest
}

/// The number or the `string` at the end of a text, emphasis aside.
fn last_figure(before: &str) -> &str {
    let text = before.trim_end_matches('*');
    if let Some(open) = text.strip_suffix('`').and_then(|t| t.rfind('`')) {
        return &text[open..];
    }
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
    let number = &text[text.trim_end_matches(is_part).len()..];
    &text[text.len() - number.trim_start_matches(['.', ',']).len()..]
}

/// A recorded value, written as the page writes it.
fn format_like(shown: &str, value: &Value) -> Result<String, String> {
    match value {
        _ if shown.is_empty() => Err("a number or a `string` must stand right before the comment".into()),
        Value::String(s) => Ok(format!("`{s}`")),
        value => {
            let number = value.as_f64().ok_or_else(|| format!("{value} is no figure"))?;
            let decimals = shown.split_once('.').map_or(0, |(_, d)| d.len());
            let plain = format!("{number:.decimals$}");
            Ok(if shown.contains(',') { with_commas(&plain) } else { plain })
        }
    }
}

fn with_commas(number: &str) -> String {
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out + fraction
}

/// The rows of `rows | column | column`.
fn table(spec: &str, results: &Results) -> Result<Vec<String>, String> {
    let mut parts = spec.split('|').map(str::trim);
    let list = results.value(parts.next().unwrap_or(""), None)?;
    let columns: Vec<&str> = parts.collect();
    let rows: Vec<Value> = match list {
        Value::Array(rows) => rows,
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, mut row)| {
                if let Some(fields) = row.as_object_mut() {
                    fields.insert("@key".into(), key.into());
                }
                row
            })
            .collect(),
        other => return Err(format!("{other} is no list of records")),
    };
    rows.iter()
        .map(|row| {
            let cells: Result<Vec<String>, String> = columns.iter().map(|c| cell(c, row, results)).collect();
            Ok(format!("| {} |", cells?.join(" | ")))
        })
        .collect()
}

/// One cell: an expression on the row, and `.2` for two decimals.
fn cell(column: &str, row: &Value, results: &Results) -> Result<String, String> {
    let (expression, decimals) = match column.rsplit_once(' ') {
        Some((e, d)) if d.starts_with('.') => (e, d[1..].parse().ok()),
        _ => (column, None),
    };
    Ok(match (results.value(expression, Some(row))?, decimals) {
        (Value::Null, _) => "–".into(),
        (Value::String(s), _) => s,
        (value, None) => value.to_string(),
        (value, Some(decimals)) => {
            let number: f64 = value.as_f64().ok_or_else(|| format!("'{column}' is {value}, no number"))?;
            with_commas(&format!("{number:.0$}", decimals))
        }
    })
}

struct Results<'a> {
    read: &'a dyn Fn(&str) -> Option<String>,
    default: Option<&'a str>,
}

impl Results<'_> {
    /// The value of `path`, `path / path` or `path * number`; paths start at `row` if there is one.
    fn value(&self, expression: &str, row: Option<&Value>) -> Result<Value, String> {
        let words: Vec<&str> = expression.split_whitespace().collect();
        let number = |word: &str| {
            let value = self.operand(word, row)?;
            value.as_f64().ok_or_else(|| format!("'{word}' is {value}, no number"))
        };
        match words[..] {
            [path] => self.operand(path, row),
            [a, "/", b] => Ok((number(a)? / number(b)?).into()),
            [a, "*", b] => Ok((number(a)? * number(b)?).into()),
            _ => Err(format!("'{expression}' is not 'path', 'a / b' or 'a * b'")),
        }
    }

    fn operand(&self, word: &str, row: Option<&Value>) -> Result<Value, String> {
        if let Ok(number) = word.parse::<f64>() {
            return Ok(number.into());
        }
        if let Some(row) = row {
            return follow(row, word).cloned().ok_or_else(|| format!("a row has no '{word}'"));
        }
        let (file, path) = match word.split_once('#') {
            Some((file, path)) => (file, path),
            None => (
                self.default
                    .ok_or("the page names no results; write <!-- figures: FILE.json --> at its top")?,
                word,
            ),
        };
        let text = (self.read)(file).ok_or_else(|| format!("there are no results '{file}'"))?;
        let root: Value = serde_json::from_str(&text).map_err(|e| format!("{file}: {e}"))?;
        follow(&root, path).cloned().ok_or_else(|| format!("{file} has no '{path}'"))
    }
}

/// `a.b.0.c`, and `list[key=value]` for the record whose field has that value.
fn follow<'a>(mut value: &'a Value, path: &str) -> Option<&'a Value> {
    for part in path.split('.') {
        let (name, selector) = part.split_once('[').map_or((part, None), |(n, s)| (n, Some(s)));
        value = match value {
            Value::Array(list) => list.get(name.parse::<usize>().ok()?)?,
            value => value.get(name)?,
        };
        if let Some(selector) = selector {
            let (key, wanted) = selector.strip_suffix(']')?.split_once('=')?;
            let shown = |field: &Value| field.as_str().map_or_else(|| field.to_string(), str::to_owned);
            value = value.as_array()?.iter().find(|record| shown(&record[key]) == wanted)?;
        }
    }
    Some(value)
}

/// Times and speeds that name no result: `12 ms`, with nothing between.
pub fn unsourced(text: &str) -> Checked {
    const UNITS: [&str; 8] = ["ms", "µs", "tok/s", "tokens/s", "GB/s", "GFLOP/s", "GFLOPS", "s"];
    let mut checked = Checked { text: text.into(), ..Checked::default() };
    let lines: Vec<&str> = text.lines().collect();
    // The body of a table that a comment fills is checked with it.
    let mut filled = false;
    for (at, line) in prose(text, true) {
        filled = (at > 0 && comment(lines[at - 1]).is_some_and(|c| c.starts_with("table: ")))
            || filled && line.starts_with('|');
        let words: Vec<&str> = line.split([' ', '\u{a0}', '(', ')', '|', ';']).collect();
        for pair in words.windows(2) {
            let unit = pair[1].trim_end_matches([',', '.', ':', '*', '?', '!']);
            if !filled && UNITS.contains(&unit) && pair[0].ends_with(|c: char| c.is_ascii_digit()) {
                checked.wrong(
                    at,
                    format!(
                        "where is '{} {unit}' from? Write <!-- =path.in.results --> right after the number",
                        pair[0]
                    ),
                );
            }
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULTS: &str = r#"{"host": {"cpu": "Xeon 8"}, "load": {"bytes": 3577920},
        "recompute": [{"tokens": 1, "ms": 2.04}, {"tokens": 64, "ms": 75.5}],
        "parts": {"head": {"ms": 0.5}, "norm": {"ms": null}}}"#;
    const PAGE: &str = "<!-- figures: r.json -->\nOn `Xeon 8`<!-- =host.cpu -->, **75.5**<!-- =recompute[tokens=64].ms --> ms, 37<!-- =recompute.1.ms / recompute.0.ms --> times\n\
        2 ms; 3,577,920<!-- =load.bytes --> bytes, 3.58<!-- =r.json#load.bytes / 1e6 --> MB.\n\n\
        <!-- table: recompute | tokens | ms .1 -->\n| n | ms |\n|--:|--:|\n| 1 | 2.0 |\n| 64 | 75.5 |\n\n\
        <!-- table: parts | @key | ms .2 -->\n| part | ms |\n|--|--|\n| head | 0.50 |\n| norm | – |\n\nend\n";

    fn check(text: &str) -> Checked {
        super::check(text, &|path| (path == "r.json").then(|| RESULTS.to_owned()))
    }

    #[test]
    fn true_figures_pass() {
        assert_eq!(check(PAGE), Checked { text: PAGE.into(), ..Checked::default() });
    }

    #[test]
    fn changed_figures_are_named_and_mended() {
        let cases = [
            ("75.5**", "75.4**", "2: '75.4' is recorded as 75.5 (recompute[tokens=64].ms)"),
            ("37<", "38<", "2: '38' is recorded as 37 (recompute.1.ms / recompute.0.ms)"),
            ("`Xeon 8`", "`Xeon 9`", "2: '`Xeon 9`' is recorded as `Xeon 8` (host.cpu)"),
            ("3,577,920", "3,577,921", "3: '3,577,921' is recorded as 3,577,920 (load.bytes)"),
            ("3.58<", "3.57<", "3: '3.57' is recorded as 3.58 (r.json#load.bytes / 1e6)"),
            (
                "| 64 | 75.5 |\n",
                "| 64 | 75.6 |\n",
                "5: this table differs from the recorded 'recompute | tokens | ms .1'",
            ),
            ("| 64 | 75.5 |\n", "", "5: this table differs from the recorded 'recompute | tokens | ms .1'"),
            (
                "| norm | – |\n",
                "| norm | – |\n| x | 1 |\n",
                "11: this table differs from the recorded 'parts | @key | ms .2'",
            ),
        ];
        for (from, to, want) in cases {
            let checked = check(&PAGE.replacen(from, to, 1));
            assert_eq!((checked.stale, checked.wrong), (vec![want.to_owned()], vec![]));
            assert_eq!(checked.text, PAGE);
        }
    }

    #[test]
    fn what_is_not_recorded_is_an_error() {
        let cases = [
            ("=host.cpu", "=host.gpu", "r.json has no 'host.gpu'"),
            ("[tokens=64]", "[tokens=65]", "r.json has no 'recompute[tokens=65].ms'"),
            ("r.json -->", "s.json -->", "there are no results 's.json'"),
            ("| ms .1", "| us .1", "a row has no 'us'"),
            ("37<", "x<", "must stand right before"),
            (" / recompute.0.ms", " - recompute.0.ms", "is not 'path'"),
        ];
        for (from, to, want) in cases {
            let checked = check(&PAGE.replacen(from, to, 1));
            assert!(checked.wrong.iter().any(|w| w.contains(want)), "{want}: {checked:?}");
        }
    }

    #[test]
    fn times_without_a_source_are_found() {
        assert_eq!(unsourced(PAGE).wrong.len(), 1);
        assert!(unsourced("| 12 ms |\n").wrong[0].starts_with("1: where is '12 ms' from?"));
        assert!(
            unsourced("`12 ms` and 12<!-- =a --> ms, within 10 items\n```text\n12 ms\n```\n")
                .wrong
                .is_empty()
        );
    }
}
