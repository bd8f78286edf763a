//! The elements of an SVG picture, as text.

use std::fmt::Write;

/// A picture's elements so far. Their looks are classes of the picture's style sheet.
#[derive(Default)]
pub struct Canvas {
    pub svg: String,
}

impl Canvas {
    pub fn add(&mut self, element: std::fmt::Arguments) {
        let _ = self.svg.write_fmt(element);
        self.svg.push('\n');
    }

    pub fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        self.add(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#
        ));
    }

    pub fn line(&mut self, class: &str, x: f64, y: f64, to_x: f64, to_y: f64) {
        self.add(format_args!(r#"<path class="{class}" d="M{x:.1} {y:.1}L{to_x:.1} {to_y:.1}"/>"#));
    }

    /// `anchor` is SVG's: start, middle, end.
    pub fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let text = text
            .replace(char::is_control, " ")
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        self.add(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// Boxes, given as x, y, width and height, as one element.
    pub fn boxes(&mut self, class: &str, boxes: &[[f64; 4]]) {
        let draw = |[x, y, w, h]: &[f64; 4]| format!("M{x:.1} {y:.1}h{w:.1}v{h:.1}h-{w:.1}z");
        let path: String = boxes.iter().map(draw).collect();
        if !path.is_empty() {
            self.add(format_args!(r#"<path class="{class}" d="{path}"/>"#));
        }
    }
}
