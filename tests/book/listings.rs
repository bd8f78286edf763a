//! Listings: a fence equals the region of the source that the comment before it names.
//!
//! `<!-- src/model/rope.rs#rotate -->` names the lines between `// ANCHOR: rotate` and `// ANCHOR_END: rotate`.

use super::page::fences;
use crate::Checked;

/// Compares the listings of a page with their sources, which `read` gives by path.
pub fn check(text: &str, read: &dyn Fn(&str) -> Option<String>) -> Checked {
    let lines: Vec<&str> = text.lines().collect();
    let mut checked = Checked::default();
    let mut at = 0;
    for fence in fences(&lines) {
        if fence.tag.is_empty() {
            checked.wrong(
                fence.open,
                "this fence has no tag; write `rust`, `console`, `text`, … after the backticks",
            );
        }
        let specs: Vec<(&str, &str)> = fence.notes.iter().filter_map(|n| n.split_once('#')).collect();
        let Some((path, anchor)) = specs.first() else {
            let reason = fence.notes.iter().any(|n| n.starts_with("not from the source: "));
            if fence.tag.starts_with("rust") && !reason {
                let way = "write `<!-- path#anchor -->` on the line before it, or `<!-- not from the source: why -->`";
                checked.wrong(fence.open, format!("this listing names no source; {way}"));
            }
            continue;
        };
        let source = read(path).ok_or_else(|| format!("there is no file '{path}'"));
        match source.and_then(|source| region(&source, anchor).map_err(|e| format!("{path}: {e}"))) {
            Err(e) => checked.wrong(fence.open, e),
            Ok(region) => {
                let indented = |line: &str| format!("{}{line}", fence.indent).trim_end().to_owned();
                let want: Vec<String> = region.iter().map(|line| indented(line)).collect();
                if lines[fence.open + 1..fence.close] != want {
                    checked.stale(fence.open, format!("this listing differs from {path}, anchor '{anchor}'"));
                }
                checked.keep(&lines[at..=fence.open]);
                checked.keep(&want);
                at = fence.close;
            }
        }
    }
    checked.keep(&lines[at..]);
    checked
}

/// The lines of an anchor, without anchor lines, moved to the left.
fn region(source: &str, anchor: &str) -> Result<Vec<String>, String> {
    let marks =
        |line: &str, mark: &str| line.trim().split_once(mark).is_some_and(|(_, name)| name.trim() == anchor);
    let lines: Vec<&str> = source.lines().collect();
    let positions = |mark| (0..lines.len()).filter(|&i| marks(lines[i], mark)).collect::<Vec<_>>();
    let (start, end) = match (&positions(START)[..], &positions(END)[..]) {
        (&[start], &[end]) if start < end => (start + 1, end),
        ([], _) => return Err(format!("there is no anchor '{anchor}' in it")),
        _ => return Err(format!("anchor '{anchor}' needs one {START} and, after it, one {END}")),
    };
    let inner = lines[start..end].iter().copied().filter(|l| !l.contains(START) && !l.contains(END));
    let mut region: Vec<&str> = inner.skip_while(|l| l.trim().is_empty()).collect();
    while region.last().is_some_and(|l| l.trim().is_empty()) {
        region.pop();
    }
    let indent = |l: &&str| l.len() - l.trim_start().len();
    let shared = region.iter().filter(|l| !l.trim().is_empty()).map(indent).min().unwrap_or(0);
    Ok(region.iter().map(|l| l.get(shared..).unwrap_or("").to_owned()).collect())
}

const START: &str = "ANCHOR:";
const END: &str = "ANCHOR_END:";

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn f() {\n    // ANCHOR: inner\n    if a {\n        // ANCHOR: b\n        b();\n        // ANCHOR_END: b\n    }\n    // ANCHOR_END: inner\n}\n";
    const PAGE: &str = "Text\n\n<!-- src/f.rs#inner -->\n```rust\nif a {\n    b();\n}\n```\n";

    fn check(text: &str) -> Checked {
        super::check(text, &|path| (path == "src/f.rs").then(|| SOURCE.to_owned()))
    }

    #[test]
    fn a_true_listing_passes() {
        assert_eq!(check(PAGE), Checked { text: PAGE.into(), ..Checked::default() });
    }

    #[test]
    fn a_changed_listing_is_named_and_mended() {
        for stale in
            [PAGE.replace("b();", "c();"), PAGE.replace("    b();\n", ""), PAGE.replace("}\n`", "}\n\n`")]
        {
            let checked = check(&stale);
            assert_eq!(checked.stale, ["4: this listing differs from src/f.rs, anchor 'inner'"], "{stale}");
            assert_eq!(checked.text, PAGE);
        }
    }

    #[test]
    fn a_listing_in_a_list_keeps_its_indent() {
        let page = "- Text\n\n  <!-- src/f.rs#b -->\n  ```rust\n  b();\n  ```\n";
        assert_eq!(check(page), Checked { text: page.into(), ..Checked::default() });
        assert_eq!(check(&page.replace("b();", "b()")).text, page);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let cases = [
            (PAGE.replace("#inner", "#other"), "there is no anchor 'other' in it"),
            (PAGE.replace("f.rs", "g.rs"), "there is no file 'src/g.rs'"),
            (PAGE.replace("<!-- src/f.rs#inner -->\n", ""), "names no source"),
            ("```\nx\n```\n".into(), "no tag"),
        ];
        for (page, want) in cases {
            let checked = check(&page);
            assert!(checked.wrong.len() == 1 && checked.wrong[0].contains(want), "{checked:?}");
        }
        let stated = PAGE.replace("src/f.rs#inner", "not from the source: a sketch");
        assert_eq!(check(&stated), Checked { text: stated.clone(), ..Checked::default() });
    }

    #[test]
    fn anchors_must_be_pairs() {
        for source in [
            "// ANCHOR: x\na\n",
            "// ANCHOR_END: x\n// ANCHOR: x\n",
            "// ANCHOR: x\n// ANCHOR: x\n// ANCHOR_END: x\n",
        ] {
            assert!(region(source, "x").is_err(), "{source}");
        }
        assert!(region("// ANCHOR: xy\na\n// ANCHOR_END: xy\n", "x").is_err());
    }
}
