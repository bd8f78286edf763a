//! A [`BlockHistory`] as a picture: a row a block, a column a step, and in each place who had the block then.
//!
//! The look is that of `drawing`. The page has the same picture, and a control to go through the steps.

use super::{
    BlockHistory,
    block_history::{Changes, Owner},
    canvas::Canvas,
};
use serde_json::json;
use std::{collections::BTreeMap, ops::Range};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 746.0;
/// The first row, under the legend.
const TOP: f64 = 54.0;
const STRIP: f64 = 50.0;
/// Requests take these colours in turn.
const COLOURS: u64 = 8;

/// The looks of the picture and of the page: light, and dark.
const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Arial,sans-serif;font-size:12px;fill:#1c2430}\
.m{fill:#59636f}.s{font-size:11px}text.n{font-size:10px;fill:#fff}text.on{font-size:10px;fill:#fff}\
.grid{stroke:#e3e7ec}.axis{stroke:#59636f}.free{fill:#f4f6f8}.cached{fill:#cfd6de}.shared{fill:#1c2430}.gone{fill:#bd2430}\
.o0{fill:#2f6fb8}.o1{fill:#b85a0e}.o2{fill:#2b7a45}.o3{fill:#7748bd}.o4{fill:#b53367}.o5{fill:#0f7a7c}.o6{fill:#8a6114}.o7{fill:#5a6878}\
@media(prefers-color-scheme:dark){text{fill:#e5eaf0}.m{fill:#9aa5b1}text.n{fill:#12161b}text.on{fill:#12161b}.grid{stroke:#2c343e}\
.axis{stroke:#9aa5b1}.free{fill:#1d242d}.cached{fill:#414c59}.shared{fill:#e5eaf0}.gone{fill:#ff8f8f}\
.o0{fill:#62a8f5}.o1{fill:#f5a55c}.o2{fill:#5fbf7f}.o3{fill:#b28df5}.o4{fill:#f082ab}.o5{fill:#4cc3c5}.o6{fill:#d5ab58}.o7{fill:#98a8b9}}";

/// Steps, blocks, and their picture under way.
struct Drawing<'a> {
    history: &'a BlockHistory,
    steps: Range<usize>,
    /// The blocks that get a row.
    rows: &'a [u32],
    pitch: f64,
    canvas: Canvas,
}

impl BlockHistory {
    /// The SVG of some steps and blocks.
    ///
    /// # Panics
    /// If there are no such steps or blocks.
    pub fn svg(&self, steps: Range<usize>, rows: &[u32]) -> String {
        let pitch = (460.0 / rows.len().max(1) as f64).clamp(2.0, 18.0);
        let mut drawing = Drawing { history: self, steps, rows, pitch, canvas: Canvas::default() };
        let bottom = TOP + pitch * rows.len() as f64;
        drawing.legend();
        drawing.labels(bottom);
        drawing.map();
        drawing.preemptions();
        drawing.strip(bottom + 44.0);
        drawing.document(bottom + 44.0 + STRIP + 14.0)
    }

    /// A page with the picture, and a control to go through the steps: the pool, and each request's block table.
    ///
    /// # Panics
    /// If there are no such steps or blocks.
    pub fn html(&self, steps: Range<usize>, rows: &[u32]) -> String {
        let changes: Vec<&Changes> = self.changes.iter().collect();
        let preempted: Vec<&Vec<u64>> = self.steps.iter().map(|state| &state.preempted).collect();
        let data = json!({
            "block_size": self.block_size, "total": self.total, "first": steps.start, "end": steps.end,
            "left": LEFT, "right": RIGHT, "changes": changes, "preempted": preempted,
        });
        include_str!("blocks.html")
            .replacen("/*STYLE*/", STYLE, 1)
            .replacen("<!--PICTURE-->", &self.svg(steps, rows), 1)
            .replacen("/*DATA*/", &data.to_string(), 1)
    }
}

impl Drawing<'_> {
    /// The left edge of a step's column.
    fn x(&self, step: usize) -> f64 {
        LEFT + (step - self.steps.start) as f64 / self.steps.len() as f64 * (RIGHT - LEFT)
    }

    fn y(&self, row: usize) -> f64 {
        TOP + self.pitch * row as f64
    }

    fn legend(&mut self) {
        let y = 16.0;
        for (at, (class, label)) in
            [("o0", "a request's"), ("shared", "shared by several"), ("cached", "cached"), ("free", "free")]
                .into_iter()
                .enumerate()
        {
            let x = LEFT + [0.0, 128.0, 274.0, 356.0][at];
            if class == "o0" {
                (0..3).for_each(|i| {
                    self.canvas.rect(&format!("o{i}"), x + 10.0 * f64::from(i), y - 10.0, 9.0, 11.0)
                });
            } else {
                self.canvas.rect(class, x + 12.0, y - 10.0, 17.0, 11.0);
            }
            self.canvas.text("", x + 35.0, y, "start", label);
        }
        self.mark(LEFT + 452.0, y - 8.0);
        self.canvas.text("", LEFT + 461.0, y, "start", "preempted: blocks are taken away");
    }

    /// A triangle that points down.
    fn mark(&mut self, x: f64, y: f64) {
        let (left, right, tip) = (x - 4.0, x + 4.0, y + 7.0);
        self.canvas.add(format_args!(
            r#"<path class="gone" d="M{left:.1} {y:.1}L{right:.1} {y:.1}L{x:.1} {tip:.1}z"/>"#
        ));
    }

    /// Block numbers to the left, step numbers below.
    fn labels(&mut self, bottom: f64) {
        let every = (13.0 / self.pitch).ceil().max(1.0) as usize;
        for row in (0..self.rows.len()).step_by(every) {
            let middle = self.y(row) + self.pitch / 2.0;
            self.canvas.text("s m", LEFT - 6.0, middle + 4.0, "end", &self.rows[row].to_string());
        }
        self.canvas.text("s", LEFT - 6.0, TOP - 8.0, "end", "block");
        let every = round_step(self.steps.len());
        for step in self.steps.clone().filter(|step| step % every == 0) {
            let x = (self.x(step) + self.x(step + 1)) / 2.0;
            self.canvas.text("s m", x, bottom + 15.0, "middle", &step.to_string());
        }
        self.canvas.text("s", LEFT - 6.0, bottom + 15.0, "end", "step");
    }

    /// Boxes of equal owners, merged along a row.
    fn map(&mut self) {
        let columns = self.columns();
        let owners: Vec<Vec<Owner>> = columns.iter().map(|step| self.owners(*step)).collect();
        let row_of = |row: usize| owners.iter().map(|column| column[row]).collect::<Vec<_>>();
        let edge = |column: usize| columns.get(column).map_or(RIGHT, |step| self.x(*step));
        let edges: Vec<f64> = (0..=columns.len()).map(edge).collect();
        let gap = if self.pitch >= 6.0 { 1.0 } else { 0.0 };
        let height = self.pitch - gap;
        let mut boxes: BTreeMap<String, Vec<[f64; 4]>> = BTreeMap::new();
        let mut labels = Vec::new();
        for row in 0..self.rows.len() {
            let (y, mut from) = (self.y(row), 0);
            for run in row_of(row).chunk_by(|a, b| a == b) {
                let (owner, to) = (run[0], from + run.len());
                let (x0, x1) = (edges[from], edges[to]);
                let width = (x1 - x0 - if x1 - x0 > 4.0 { gap } else { 0.0 }).max(0.5);
                boxes.entry(class(owner)).or_default().push([x0, y, width, height]);
                if height >= 11.0 {
                    labels.push((owner, x0, width, y + self.pitch / 2.0));
                }
                from = to;
            }
        }
        boxes.iter().for_each(|(class, boxes)| self.canvas.boxes(class, boxes));
        labels.into_iter().for_each(|(owner, x, width, middle)| self.label(owner, x, width, middle));
    }

    /// Who has the blocks of the rows.
    fn owners(&self, step: usize) -> Vec<Owner> {
        let all = self.history.steps[step].owners(self.history.total);
        self.rows.iter().map(|block| all[*block as usize]).collect()
    }

    /// Whose it is, where there is room to write it.
    fn label(&mut self, owner: Owner, x: f64, width: f64, middle: f64) {
        let (class, label) = match owner {
            Owner::One(request) => ("n", request.to_string()),
            Owner::Shared(holders) => ("on", format!("×{holders}")),
            Owner::Free | Owner::Cached => return,
        };
        if width > 6.5 * label.chars().count() as f64 + 3.0 {
            self.canvas.text(class, x + width / 2.0, middle + 3.2, "middle", &label);
        }
    }

    /// One step for each column that can be seen: half a pixel.
    fn columns(&self) -> Vec<usize> {
        let most = 2.0 * (RIGHT - LEFT);
        let every = (self.steps.len() as f64 / most).ceil().max(1.0) as usize;
        self.steps.clone().step_by(every).collect()
    }

    fn preemptions(&mut self) {
        let mut last = f64::NEG_INFINITY;
        for step in self.steps.clone() {
            let x = self.x(step);
            if !self.history.steps[step].preempted.is_empty() && x - last > 3.0 {
                self.mark(x, TOP - 10.0);
                last = x;
            }
        }
    }

    /// How many blocks are held, and how many cached.
    fn strip(&mut self, top: f64) {
        let (total, columns) = (self.history.total as f64, self.columns());
        self.canvas.text("s", 6.0, top + 22.0, "start", "blocks");
        self.canvas.text("s", 6.0, top + 35.0, "start", "in use");
        self.canvas.text("s m", LEFT - 6.0, top + 6.0, "end", &self.history.total.to_string());
        self.canvas.rect("free", LEFT, top, RIGHT - LEFT, STRIP);
        let mut paths = [String::new(), String::new()];
        for (at, step) in columns.iter().enumerate() {
            let state = &self.history.steps[*step];
            let owners = state.owners(self.history.total);
            let held = owners.iter().filter(|o| matches!(o, Owner::One(_) | Owner::Shared(_))).count();
            let next = columns.get(at + 1).map_or(RIGHT, |step| self.x(*step));
            for (path, blocks) in paths.iter_mut().zip([held + state.cached.len(), held]) {
                let y = top + STRIP * (1.0 - blocks as f64 / total);
                path.push_str(&format!("V{y:.1}H{next:.1}"));
            }
        }
        let bottom = top + STRIP;
        for (class, path) in ["cached", "o7"].into_iter().zip(paths) {
            self.canvas.add(format_args!(
                r#"<path class="{class}" d="M{LEFT:.1} {bottom:.1}{path}V{bottom:.1}z"/>"#
            ));
        }
        self.canvas.line("axis", LEFT, bottom, RIGHT, bottom);
        self.canvas.text("s m", RIGHT, top - 6.0, "end", "held by requests, and cached for requests to come");
    }

    fn document(self, height: f64) -> String {
        let (steps, blocks, size) = (self.steps, self.rows.len(), self.history.block_size);
        let total = self.history.total;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             role=\"img\" aria-labelledby=\"title\">\n<title id=\"title\">Who has which block in steps {} to {}: {blocks} of {total} \
             blocks of {size} tokens</title>\n<style>{STYLE}</style>\n{}</svg>\n",
            steps.start,
            steps.end - 1,
            self.canvas.svg
        )
    }
}

fn class(owner: Owner) -> String {
    match owner {
        Owner::Free => "free".into(),
        Owner::Cached => "cached".into(),
        Owner::One(request) => format!("o{}", request % COLOURS),
        Owner::Shared(_) => "shared".into(),
    }
}

/// From one labelled step to the next: 1, 2 or 5 times a power of ten, so that there are at most 16.
fn round_step(steps: usize) -> usize {
    let powers = (0..9).map(|n| 10usize.pow(n));
    powers.flat_map(|p| [p, 2 * p, 5 * p]).find(|step| steps / step <= 16).unwrap_or(steps)
}
