//! A record as a page for a browser.

use serde::Serialize;
use std::ops::Range;

const VIEWER: &str = include_str!("viewer.html");
/// Stands in `viewer.html` where the two JSON documents go.
const RECORD: &str = "/*RECORD*/";
const VIEW: &str = "/*VIEW*/";

/// How the page opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    pub tab: Tab,
    /// The steps that are on the screen at first.
    pub steps: Range<usize>,
}

/// The tab that the page shows first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tab {
    /// A lane for each request.
    Schedule,
    /// The KV cache's blocks.
    Pool,
}

/// One HTML file that draws a record; it loads nothing else. `record` is the JSON text that [`Trace`](super::Trace) gives.
///
/// In JSON, `<` can stand in strings only. There it is written as `\u003c`, so no text of the record can end the script element.
pub fn page(record: &str, view: &View) -> String {
    let view = serde_json::json!(view).to_string();
    // The record goes in last and is not searched: a marker in one of its strings stays what it is.
    let viewer = VIEWER.replacen(VIEW, &view, 1);
    let (before, after) = viewer.split_once(RECORD).unwrap_or((&viewer, ""));
    [before, &record.replace('<', "\\u003c"), after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn no_text_of_a_record_breaks_the_page() {
        let view = View { tab: Tab::Schedule, steps: 2..7 };
        let empty = page("{}", &view);
        let hostile = "</script><script>alert(1)</script><!-- /*RECORD*/ /*VIEW*/ \u{2028}\"'\\";
        let record = json!({"traceEvents": [{"name": hostile}], "<b>": 1});
        let page = page(&record.to_string(), &view);

        for tag in ["<script", "</script", "<!--", "<b>"] {
            assert_eq!(page.matches(tag).count(), empty.matches(tag).count(), "{tag}");
        }
        let element = |id: &str| -> Value {
            let text = page.split_once(&format!("id=\"{id}\">")).unwrap().1;
            serde_json::from_str(text.split_once("</script>").unwrap().0).unwrap()
        };
        assert_eq!(element("record"), record, "a browser reads the record as it was");
        assert_eq!(element("view"), json!({"tab": "schedule", "steps": {"start": 2, "end": 7}}));
    }

    #[test]
    fn the_page_loads_nothing() {
        for outside in ["http:", "https:", "src=", "@import", "url(", "fetch(", "import("] {
            assert!(!VIEWER.contains(outside), "{outside}");
        }
    }
}
