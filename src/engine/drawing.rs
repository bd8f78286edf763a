//! A [`Timeline`] as an SVG picture: a lane a request, and below them the tokens of each step and the KV cache.
//!
//! The look is that of the book's figures (scripts/figures/look.py): text in the reader's own font, a transparent background, and two
//! palettes, light and dark, of which the reader's browser takes one.

use super::{Lane, Phase, Span, Timeline, canvas::Canvas, timeline::Step};
use std::fmt::Write;

const WIDTH: f64 = 760.0;
/// Where time begins. To the left of it are the labels.
const LEFT: f64 = 92.0;
const RIGHT: f64 = 736.0;
/// The first lane, under the legend.
const TOP: f64 = 40.0;
const STRIP: f64 = 50.0;
/// Letters of a lane's label, for which there is room to the left.
const LABEL: usize = 13;
/// Steps narrower than this are drawn as one.
const NARROW: f64 = 2.5;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Arial,sans-serif;font-size:12px;fill:#1c2430}\
.m{fill:#59636f}.s{font-size:11px}.n{font-size:10px;fill:#fff}\
.grid{stroke:#e3e7ec}.axis{stroke:#59636f}.live{stroke:#c3cad2}.wait{fill:url(#hatch);stroke:#aab3bd;stroke-width:.6}\
.hatch{stroke:#aab3bd}.p{fill:#d9731a}.d{fill:#3b82cf}.d.many{fill:#92b8e4}.r{fill:#dfe4ea}.u{fill:#6d3fb4}.at{fill:#1c2430}.end{fill:#1c2430}\
.budget{stroke:#bd2430;stroke-dasharray:5 4}.over{fill:#bd2430}\
@media(prefers-color-scheme:dark){text{fill:#e5eaf0}.m{fill:#9aa5b1}.n{fill:#12161b}.grid{stroke:#2c343e}.axis{stroke:#9aa5b1}\
.live{stroke:#47515d}.wait{stroke:#5d6875}.hatch{stroke:#5d6875}.p{fill:#f5a55c}.d{fill:#62a8f5}.d.many{fill:#3d6797}.r{fill:#36404c}.u{fill:#b28df5}\
.at,.end{fill:#e5eaf0}.budget{stroke:#ff8f8f}.over{fill:#ff8f8f}}";

/// A window of time and its picture under way.
struct Drawing {
    from: f64,
    to: f64,
    canvas: Canvas,
}

impl Timeline {
    /// The SVG of what lies between two times in milliseconds; requests that were not there then get no lane.
    pub fn svg(&self, from: f64, to: f64) -> String {
        let overlaps = |start: f64, end: f64| start <= to && end >= from;
        let there = |lane: &&Lane| overlaps(lane.extent().0, lane.extent().1);
        let lanes: Vec<&Lane> = self.lanes.iter().filter(there).collect();
        let steps: Vec<&Step> = self.steps.iter().filter(|s| overlaps(s.start, s.end)).collect();
        let mut drawing = Drawing { from, to: to.max(from + 1e-6), canvas: Canvas::default() };

        let pitch = (520.0 / lanes.len().max(1) as f64).clamp(3.0, 22.0);
        let bottom = TOP + pitch * lanes.len() as f64;
        let tokens_top = bottom + 40.0;
        let kv_top = tokens_top + STRIP + 24.0;
        drawing.legend();
        drawing.axis(bottom, kv_top + STRIP);
        drawing.lanes(&lanes, pitch);
        drawing.tokens(&steps, tokens_top, self.budget);
        drawing.kv(&steps, kv_top);
        drawing.document(&lanes, kv_top + STRIP + 14.0)
    }
}

impl Drawing {
    /// The horizontal place of a time.
    fn x(&self, time: f64) -> f64 {
        LEFT + (time.clamp(self.from, self.to) - self.from) / (self.to - self.from) * (RIGHT - LEFT)
    }

    fn legend(&mut self) {
        let y = 18.0;
        self.arrival(LEFT + 4.0, y - 4.0, 12.0);
        self.canvas.text("", LEFT + 13.0, y, "start", "arrives");
        self.canvas.rect("wait", LEFT + 76.0, y - 8.0, 24.0, 6.0);
        self.canvas.text("", LEFT + 106.0, y, "start", "waits");
        self.canvas.rect("p", LEFT + 160.0, y - 10.0, 24.0, 11.0);
        self.canvas.text("", LEFT + 190.0, y, "start", "prefill chunk");
        for i in 0..3 {
            self.canvas.rect("d", LEFT + 292.0 + 9.0 * f64::from(i), y - 10.0, 8.0, 11.0);
        }
        self.canvas.text("", LEFT + 324.0, y, "start", "decode steps");
        self.canvas.rect("d many", LEFT + 424.0, y - 10.0, 20.0, 11.0);
        self.canvas.text("", LEFT + 450.0, y, "start", "many of them");
        self.finish(LEFT + 554.0, y - 4.5, 12.0);
        self.canvas.text("", LEFT + 563.0, y, "start", "has finished");
    }

    fn arrival(&mut self, x: f64, middle: f64, height: f64) {
        let (half, top) = ((height / 3.0).clamp(1.2, 4.0), middle - height / 2.0);
        self.canvas.add(format_args!(
            r#"<path class="at" d="M{:.1} {top:.1}L{:.1} {middle:.1}L{:.1} {:.1}z"/>"#,
            x - half,
            x + 0.4,
            x - half,
            middle + height / 2.0
        ));
    }

    fn finish(&mut self, x: f64, middle: f64, height: f64) {
        let radius = (height / 4.0).clamp(1.0, 3.2);
        self.canvas
            .add(format_args!(r#"<circle class="end" cx="{x:.1}" cy="{middle:.1}" r="{radius:.1}"/>"#));
    }

    /// Times under the lanes, and lines from the lanes through the strips.
    fn axis(&mut self, bottom: f64, end: f64) {
        let (divisor, unit, step) = ticks(self.to - self.from);
        let first = (self.from / step).ceil() as u64;
        let last = ((self.to + step * 1e-6) / step).floor() as u64;
        for tick in first..=last {
            let (time, x) = (tick as f64 * step, self.x(tick as f64 * step));
            self.canvas.line("grid", x, TOP - 6.0, x, end);
            let decimals = if step / divisor < 1.0 { (-(step / divisor).log10()).ceil() as usize } else { 0 };
            self.canvas.text(
                "s m",
                x.min(RIGHT),
                bottom + 16.0,
                "middle",
                &format!("{:.decimals$}", time / divisor),
            );
        }
        self.canvas.line("axis", LEFT, bottom + 3.0, RIGHT, bottom + 3.0);
        self.canvas.text("s m", LEFT - 22.0, bottom + 16.0, "end", &format!("time, {unit}"));
    }

    fn lanes(&mut self, lanes: &[&Lane], pitch: f64) {
        let every = (13.0 / pitch).ceil().max(1.0) as usize;
        for (i, lane) in lanes.iter().enumerate() {
            let middle = TOP + pitch * (i as f64 + 0.5);
            let height = (pitch - (pitch * 0.25).clamp(0.6, 5.0)).max(1.5);
            if i % every == 0 {
                let name: String = lane.name.chars().take(LABEL).collect();
                self.canvas.text("s", LEFT - 12.0, middle + 4.0, "end", &name);
            }
            self.lane(lane, middle, height);
        }
    }

    fn lane(&mut self, lane: &Lane, middle: f64, height: f64) {
        let (start, end) = lane.extent();
        let (x0, x1, top) = (self.x(start), self.x(end), middle - height / 2.0);
        self.canvas.line("live", x0, middle, x1, middle);
        let first = lane.spans.first().map_or(end, |span| span.start);
        if self.x(first) - x0 > 0.5 {
            let thin = height * 0.45;
            self.canvas.rect("wait", x0, middle - thin / 2.0, self.x(first) - x0, thin);
        }
        for (phase, alone, merged) in [(Phase::Decode, "d", "d many"), (Phase::Prefill, "p", "p")] {
            let (many, single): (Vec<_>, Vec<_>) =
                self.runs(&lane.spans, phase).into_iter().partition(|run| run.2);
            let boxes = |runs: Vec<(f64, f64, bool)>| -> Vec<[f64; 4]> {
                runs.into_iter().map(|(x, w, _)| [x, top, w, height]).collect()
            };
            self.canvas.boxes(alone, &boxes(single));
            self.canvas.boxes(merged, &boxes(many));
        }
        self.chunk_sizes(&lane.spans, middle, height);
        if (self.from..=self.to).contains(&start) {
            self.arrival(x0 - 0.6, middle, height);
        }
        if lane.finished.is_some_and(|at| at <= self.to) {
            self.finish(x1 + 3.5, middle, height);
        }
    }

    /// Left edges and widths. Decode steps that are too narrow to be told apart become one box, and are marked.
    fn runs(&self, spans: &[Span], phase: Phase) -> Vec<(f64, f64, bool)> {
        let mut runs: Vec<(f64, f64, bool)> = Vec::new();
        let inside = |span: &&Span| span.phase == phase && span.end > self.from && span.start < self.to;
        for span in spans.iter().filter(inside) {
            let (x0, x1) = (self.x(span.start), self.x(span.end));
            let narrow = x1 - x0 < NARROW;
            match runs.last_mut() {
                Some((x, w, true)) if narrow && x0 - (*x + *w) < 1.0 => *w = x1 - *x,
                _ if narrow => runs.push((x0, (x1 - x0).max(0.7), phase == Phase::Decode)),
                _ => runs.push((x0, x1 - x0 - 0.8, false)),
            }
        }
        runs
    }

    /// The tokens of a prefill chunk, where there is room to write them.
    fn chunk_sizes(&mut self, spans: &[Span], middle: f64, height: f64) {
        for span in spans.iter().filter(|s| s.phase == Phase::Prefill && height >= 12.0) {
            let (x0, x1, label) = (self.x(span.start), self.x(span.end), span.tokens.to_string());
            if x1 - x0 > 7.0 * label.len() as f64 + 4.0 {
                self.canvas.text("n", (x0 + x1) / 2.0, middle + 3.6, "middle", &label);
            }
        }
    }

    /// Tokens of each step against the budget, prefill on top of decode.
    fn tokens(&mut self, steps: &[&Step], top: f64, budget: Option<u64>) {
        let most = steps.iter().map(|s| s.prefill_tokens + s.decode_tokens).max().unwrap_or(0).max(1);
        // A budget far above what steps hold would press them flat: it is told, not drawn.
        let drawn = budget.filter(|budget| *budget <= 4 * most);
        let scale = most.max(drawn.unwrap_or(0)) as f64;
        self.strip(top, &["tokens", "of a step"], scale);
        let columns = self.columns(steps, |s| s.prefill_tokens + s.decode_tokens);
        self.area("p", top, scale, &columns, |s| s.decode_tokens + s.prefill_tokens);
        self.area("d", top, scale, &columns, |s| s.decode_tokens);
        let Some(budget) = budget else { return };
        let label = format!("budget {budget}");
        if let Some(drawn) = drawn {
            let y = top + STRIP * (1.0 - drawn as f64 / scale);
            self.canvas.line("budget", LEFT, y, RIGHT, y);
        }
        self.canvas.text("s over", RIGHT, top - 5.0, "end", &label);
    }

    /// Tokens that there is room for in the slots that requests hold, and those that are there.
    fn kv(&mut self, steps: &[&Step], top: f64) {
        let scale = steps.iter().map(|s| s.kv_reserved).max().unwrap_or(0).max(1) as f64;
        self.strip(top, &["tokens in", "KV cache"], scale);
        let columns = self.columns(steps, |s| s.kv_used);
        self.area("r", top, scale, &columns, |s| s.kv_reserved);
        self.area("u", top, scale, &columns, |s| s.kv_used);
        let y = top - 5.0;
        self.canvas.rect("r", RIGHT - 158.0, y - 8.5, 10.0, 10.0);
        self.canvas.text("s m", RIGHT - 144.0, y, "start", "reserved");
        self.canvas.rect("u", RIGHT - 86.0, y - 8.5, 10.0, 10.0);
        self.canvas.text("s m", RIGHT - 72.0, y, "start", "has a token");
    }

    /// A strip's name and its scale.
    fn strip(&mut self, top: f64, name: &[&str], scale: f64) {
        for (i, line) in name.iter().enumerate() {
            self.canvas.text("s", 6.0, top + 24.0 + 13.0 * i as f64, "start", line);
        }
        self.canvas.text("s m", LEFT - 5.0, top + 9.0, "end", &format!("{scale:.0}"));
        self.canvas.text("s m", LEFT - 5.0, top + STRIP, "end", "0");
        self.canvas.line("axis", LEFT, top + STRIP, RIGHT, top + STRIP);
    }

    /// What is under a line over the columns of a strip, as one shape: boxes side by side would show their seams.
    fn area(
        &mut self,
        class: &str,
        top: f64,
        scale: f64,
        columns: &[(f64, f64, &Step)],
        of: fn(&Step) -> u64,
    ) {
        let (bottom, mut path, mut at) = (top + STRIP, String::new(), f64::NEG_INFINITY);
        for (x, width, step) in columns {
            if x - at > 0.5 {
                let close = if path.is_empty() { String::new() } else { format!("V{bottom:.1}z") };
                let _ = write!(path, "{close}M{x:.1} {bottom:.1}");
            }
            at = x + width;
            let _ = write!(path, "V{:.1}H{at:.1}", bottom - STRIP * of(step) as f64 / scale);
        }
        if !path.is_empty() {
            self.canvas.add(format_args!(r#"<path class="{class}" d="{path}V{bottom:.1}z"/>"#));
        }
    }

    /// Left edge, width and step; of steps that share a pixel, the largest.
    fn columns<'a>(&self, steps: &[&'a Step], size: impl Fn(&Step) -> u64) -> Vec<(f64, f64, &'a Step)> {
        let mut columns: Vec<(f64, f64, &Step)> = Vec::new();
        for &step in steps {
            let (x0, x1) = (self.x(step.start), self.x(step.end));
            match columns.last_mut() {
                Some((x, w, largest)) if *w < 1.0 && x0 - *x < 1.0 => {
                    *w = x1 - *x;
                    if size(step) > size(largest) {
                        *largest = step;
                    }
                }
                _ => columns.push((x0, x1 - x0, step)),
            }
        }
        columns
    }

    fn document(self, lanes: &[&Lane], height: f64) -> String {
        let (n, from, to) = (lanes.len(), self.from, self.to);
        let waiting = r#"<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="hatch" d="M0 0V5"/></pattern>"#;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             role=\"img\" aria-labelledby=\"title\">\n<title id=\"title\">{n} requests from {from:.1} to {to:.1} ms: when each waits, \
             prefills and decodes</title>\n<style>{STYLE}</style>\n<defs>{waiting}</defs>\n{}</svg>\n",
            self.canvas.svg
        )
    }
}

/// What a tick's time is divided by, the unit, and milliseconds from one tick to the next: 1, 2 or 5 times a power of ten.
fn ticks(window: f64) -> (f64, &'static str, f64) {
    let (divisor, unit) = if window >= 10_000.0 { (1000.0, "s") } else { (1.0, "ms") };
    let rough = window / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough);
    (divisor, unit, step.unwrap_or(rough))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (window, expected) in
            [(80.0, (1.0, "ms", 10.0)), (1000.0, (1.0, "ms", 200.0)), (60_000.0, (1000.0, "s", 10_000.0))]
        {
            assert_eq!(ticks(window), expected, "{window}");
        }
        assert!(ticks(1e-6).2 > 0.0);
    }
}
