//! Links: files that they name are there, and so are headings.

use super::page::prose;
use crate::Checked;

/// What a path from the root is.
#[derive(Debug, PartialEq)]
pub enum Target {
    Absent,
    /// A page, with its text.
    Page(String),
    /// Any other file, or a directory.
    Other,
}

/// Checks the relative links and images of a page. `look` says what there is at a path from the root.
pub fn check(name: &str, text: &str, look: &dyn Fn(&str) -> Target) -> Checked {
    let mut checked = Checked { text: text.into(), ..Checked::default() };
    for (at, line) in prose(text, true) {
        for link in links(&line) {
            if let Err(e) = follow(name, text, link, look) {
                checked.wrong(at, format!("the link '{link}' leads nowhere: {e}"));
            }
        }
    }
    checked
}

fn follow(name: &str, text: &str, link: &str, look: &dyn Fn(&str) -> Target) -> Result<(), String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(());
    }
    let (path, heading) = link.split_once('#').map_or((link, None), |(p, h)| (p, Some(h)));
    let (path, target) = if path.is_empty() {
        (name.to_owned(), Target::Page(text.into()))
    } else {
        let path = resolve(name, path)?;
        let target = look(&path);
        (path, target)
    };
    match (target, heading) {
        (Target::Absent, _) => Err(format!("there is no '{path}'")),
        (_, None) => Ok(()),
        (Target::Other, Some(_)) => {
            Err("only pages have headings, and line numbers drift; link to the file".into())
        }
        (Target::Page(page), Some(heading)) => {
            let slugs = slugs(&page);
            let found = slugs.iter().any(|s| s == heading);
            found
                .then_some(())
                .ok_or_else(|| format!("'{path}' has no heading '#{heading}'; it has {}", slugs.join(", ")))
        }
    }
}

/// A link's path from the root.
fn resolve(page: &str, path: &str) -> Result<String, String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or("it leaves the repository")?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The targets in a line: `](target)`, `[name]: target`, `src="target"`, `srcset="target"`, `href="target"`.
fn links(line: &str) -> Vec<&str> {
    let mut links = Vec::new();
    for (open, close) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"'), ("href=\"", '"')] {
        for part in line.split(open).skip(1) {
            links.extend(part.split(close).next());
        }
    }
    if line.starts_with('[') && !line.starts_with("[^") {
        links.extend(line.split_once("]: ").map(|(_, target)| target));
    }
    links.into_iter().map(|l| l.split_whitespace().next().unwrap_or("").trim_matches(['<', '>'])).collect()
}

/// The anchors of a page's headings as GitHub makes them, and those of `<a id="…">`.
fn slugs(page: &str) -> Vec<String> {
    let mut slugs: Vec<String> = Vec::new();
    for (_, line) in prose(page, false) {
        slugs.extend(line.split("<a id=\"").skip(1).filter_map(|p| Some(p.split_once('"')?.0.to_owned())));
        let title = line.trim_start_matches('#');
        if line.len() == title.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let plain = without_targets(title.trim()).to_lowercase();
        let slug = plain.chars().filter(kept).collect::<String>().replace(' ', "-");
        let again = (1..).map(|n| format!("{slug}-{n}")).find(|s| !slugs.contains(s));
        let slug = if slugs.contains(&slug) { again.unwrap_or_default() } else { slug };
        slugs.push(slug);
    }
    slugs
}

/// `[text](target)` → `text`.
fn without_targets(title: &str) -> String {
    let mut parts = title.split("](");
    let first = parts.next().unwrap_or("").to_owned();
    parts.fold(first, |out, part| out + part.split_once(')').map_or(part, |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        super::check("steps/one/README.md", text, &|path| match path {
            "BOOK.md" => Target::Page(
                "# The book\n\n## How to `climb`, fast!\n## Twice\n## Twice\n```text\n# no\n```\n".into(),
            ),
            "steps/one/a.svg" | "src" => Target::Other,
            _ => Target::Absent,
        })
        .wrong
    }

    #[test]
    fn good_links_pass() {
        let good = "# Top: [x](https://x.org/y)\n[a](../../BOOK.md#how-to-climb-fast) ![b](a.svg \"t\") [c](#top-x) `[d](e)`\n\
            <img src=\"a.svg\"> [e](../../BOOK.md#twice-1) [s](../../src) <a id=\"here\"></a>[h](#here)\n[r]: ../../BOOK.md\n```text\n[x](y)\n```\n";
        assert_eq!(check(good), [""; 0]);
    }

    #[test]
    fn broken_links_are_found() {
        let cases = [
            ("[a](b.md)", "there is no 'steps/one/b.md'"),
            ("![a](b.svg)", "there is no 'steps/one/b.svg'"),
            ("<source srcset=\"b.svg\">", "there is no 'steps/one/b.svg'"),
            (
                "[a](../../BOOK.md#no)",
                "'BOOK.md' has no heading '#no'; it has the-book, how-to-climb-fast, twice, twice-1",
            ),
            ("[a](#no)", "has no heading '#no'"),
            ("[a](../../../x)", "it leaves the repository"),
            ("[a](../../src#L3)", "line numbers drift"),
            ("[r]: b.md", "there is no 'steps/one/b.md'"),
        ];
        for (text, want) in cases {
            let wrong = check(text);
            assert!(
                wrong.len() == 1 && wrong[0].starts_with("1: ") && wrong[0].contains(want),
                "{text}: {wrong:?}"
            );
        }
    }
}
