//! The ratios as one SVG picture: a bar for each row on a logarithmic scale, its spread, its goal.

use std::fmt::Write as _;

use crate::report::{Document, Row};

const LABELS: f64 = 520.0;
const BARS: f64 = 480.0;
const ROW: f64 = 26.0;
const TOP: f64 = 64.0;
const MARGIN: f64 = 16.0;

/// Draws a document.
#[must_use]
pub fn svg(document: &Document) -> String {
    let scale = Scale::of(&document.rows);
    let bottom = TOP + ROW * document.rows.len() as f64;
    let (width, height) = (LABELS + BARS + 5.0 * MARGIN, bottom + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let meta = &document.meta;
    let heading = format!(
        "Watershed ({}) and its peers: ratio, more is better for Watershed. {} cores, {}, sync {:.3} ms",
        meta.compared, meta.cores, meta.file_system, meta.fsync_ms
    );
    text(&mut out, MARGIN, 24.0, "start", &heading);
    for tick in scale.ticks() {
        let x = scale.x(tick);
        let (color, wide) = if tick == 1.0 {
            ("#444", 1.5)
        } else {
            ("#ddd", 1.0)
        };
        line(&mut out, (x, TOP - 8.0), (x, bottom), color, wide);
        text(&mut out, x, TOP - 14.0, "middle", &format!("{tick}"));
    }
    for (place, row) in document.rows.iter().enumerate() {
        bar(&mut out, &scale, row, TOP + ROW * place as f64);
    }
    out.push_str("</svg>\n");
    out
}

fn bar(out: &mut String, scale: &Scale, row: &Row, top: f64) {
    let middle = top + ROW / 2.0;
    let label = format!("{} vs {}", row.workload, row.peer);
    text(out, LABELS - 8.0, middle + 4.0, "end", &label);
    let color = match row.met() {
        Some(true) => "#3a8f5c",
        Some(false) => "#c0563a",
        None => "#6b87b0",
    };
    let (one, end) = (scale.x(1.0), scale.x(row.ratio_median));
    let (left, wide) = (one.min(end), (end - one).abs().max(1.0));
    let tall = ROW - 8.0;
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{tall}\" fill=\"{color}\"/>",
        top + 4.0
    );
    let spread = (scale.x(row.ratio_min), scale.x(row.ratio_max));
    line(out, (spread.0, middle), (spread.1, middle), "#222", 1.5);
    if let Some(goal) = row.goal {
        let x = scale.x(goal);
        line(out, (x, top + 1.0), (x, top + ROW - 1.0), "#000", 3.0);
    }
    let beside = spread.1.max(end).max(one) + 6.0;
    text(
        out,
        beside,
        middle + 4.0,
        "start",
        &format!("{:.2}", row.ratio_median),
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), color: &str, wide: f64) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\" stroke-width=\"{wide}\"/>",
        from.0, from.1, to.0, to.1
    );
}

/// Ratios to places, by powers of two.
struct Scale {
    /// Exponents of two at both ends.
    low: i32,
    high: i32,
}

impl Scale {
    fn of(rows: &[Row]) -> Self {
        let goals = rows.iter().filter_map(|row| row.goal);
        let ends = rows.iter().flat_map(|row| [row.ratio_min, row.ratio_max]);
        let all = goals
            .chain(ends)
            .filter(|ratio| ratio.is_finite() && *ratio > 0.0);
        let (mut low, mut high) = (-1, 1);
        for ratio in all {
            // Exponents of ratios between 2^-64 and 2^64 fit.
            low = low.min(ratio.log2().floor().max(-64.0) as i32);
            high = high.max(ratio.log2().ceil().min(64.0) as i32);
        }
        Self { low, high }
    }

    fn x(&self, ratio: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let exponent = if ratio > 0.0 {
            ratio.log2().clamp(low, high)
        } else {
            low
        };
        LABELS + BARS * (exponent - low) / (high - low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|exponent| 2f64.powi(exponent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{document, row};

    #[test]
    fn each_row_has_a_bar_and_each_goal_a_mark() {
        let picture = svg(&document(vec![row(4.0, Some(3.0)), row(0.7, None)]));
        // One more is the background.
        assert_eq!(picture.matches("<rect").count(), 3, "{picture}");
        assert_eq!(picture.matches("stroke-width=\"3\"").count(), 1);
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    }

    #[test]
    fn words_are_escaped() {
        let mut odd = row(2.0, None);
        odd.workload = "a < b & c".into();
        assert!(svg(&document(vec![odd])).contains("a &lt; b &amp; c"));
    }

    #[test]
    fn the_scale_holds_what_it_shows() {
        let scale = Scale::of(&[row(20.0, Some(50.0))]);
        assert!(scale.x(50.0) <= LABELS + BARS);
        assert!(scale.x(1.0) > LABELS);
        assert_eq!(scale.x(0.0), LABELS);
        assert_eq!(scale.ticks().last(), Some(64.0));
    }
}
