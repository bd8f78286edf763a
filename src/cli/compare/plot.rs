//! Quality against bytes, as an SVG picture.

use super::Row;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// Room for the axes' words.
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 50.0;
const MARGIN: f64 = 30.0;

/// A point for each model that has a distance from the reference: its bytes along, the mean KL up, on a logarithmic scale.
pub fn svg(rows: &[Row]) -> String {
    let points: Vec<(&str, f64, f64)> = rows
        .iter()
        .filter_map(|row| {
            let (measured, quality) = (row.measured.as_ref()?, row.quality.as_ref()?);
            let name = row.model.trim_end_matches('/').rsplit('/').next()?;
            // The reference has a distance of 0, which a logarithm has not.
            Some((name, measured.weight_bytes as f64, quality.mean_kl.max(1e-9).log10()))
        })
        .collect();
    let most = points.iter().map(|(_, bytes, _)| *bytes).fold(1.0, f64::max);
    let low = points.iter().map(|(.., kl)| kl.floor()).fold(0.0, f64::min);
    let high = points.iter().map(|(.., kl)| kl.ceil()).fold(low + 1.0, f64::max);
    let x = |bytes: f64| LEFT + bytes / most * (WIDTH - LEFT - 4.0 * MARGIN);
    let y = |kl: f64| MARGIN + (high - kl) / (high - low) * (HEIGHT - MARGIN - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let (end, floor) = (WIDTH - MARGIN, HEIGHT - BOTTOM);
    let _ = writeln!(svg, "<path d=\"M{LEFT} {MARGIN}V{floor}H{end}\" fill=\"none\" stroke=\"#444\"/>");
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"18\">mean KL from the first model (logarithmic)</text>");
    let _ = writeln!(
        svg,
        "<text x=\"{end}\" y=\"{}\" text-anchor=\"end\">bytes of weights</text>",
        HEIGHT - 12.0
    );
    for power in low as i32..=high as i32 {
        let at = y(power as f64);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{end}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">1e{power}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (name, bytes, kl) in points {
        let (x, y, size) = (x(bytes), y(kl), super::human_bytes(bytes as u64));
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"#2a6fbb\"/>");
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{name}, {size}</text>", x + 9.0, y + 4.0);
    }
    svg + "</svg>\n"
}
