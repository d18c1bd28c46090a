//! The roofline as an SVG picture: what memory and arithmetic allow, and where each kind of work lies.

use std::fmt::Write;

use super::{
    record::Record,
    stats::Samples,
    table::{self, Point},
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
/// Around the plot: left, top, right, bottom. On the right stand the names.
const MARGINS: [f64; 4] = [70.0, 40.0, 250.0, 60.0];
const COLOURS: [&str; 8] =
    ["#1b6ca8", "#c0392b", "#2e8b57", "#8e5ea2", "#d98c00", "#5f6b73", "#0f8b8d", "#b03a7a"];

/// The picture. Across: multiplications and additions for a byte of weights that is read; up: 10^9 of them a second.
pub(super) fn svg(record: &Record) -> String {
    let read = median(record, |entry| &entry.read);
    let dot = median(record, |entry| &entry.dot);
    let points: Vec<(&str, Point<'_>)> = record
        .entries
        .iter()
        .flat_map(|entry| table::points(entry).into_iter().map(|point| (&*entry.model, point)))
        .collect();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"
    );
    if points.is_empty() || !(read.is_finite() && dot.is_finite()) {
        return out + "<text x=\"20\" y=\"40\">no model was measured</text>\n</svg>\n";
    }
    let intensity = |point: &Point<'_>| point.macs / point.bytes;
    let most = points.iter().map(|(_, point)| intensity(point)).fold(dot / read, f64::max);
    let across = Axis::new(0.25, 2.0 * most, MARGINS[0], WIDTH - MARGINS[2]);
    let up = Axis::new(read * 0.1, 1.5 * dot, HEIGHT - MARGINS[3], MARGINS[1]);
    grid(&mut out, &across, &up);
    roofs(&mut out, &across, &up, read, dot);

    let mut models: Vec<&str> = Vec::new();
    for (model, point) in &points {
        let index = models.iter().position(|known| known == model).unwrap_or_else(|| {
            models.push(model);
            models.len() - 1
        });
        let (x, y) = (across.at(intensity(point)), up.at(point.samples.median() * point.macs / 1e9));
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\"><title>{} {}: {:.1} tokens/s</title></circle>",
            COLOURS[index % COLOURS.len()],
            escaped(model),
            escaped(&point.what),
            point.samples.median()
        );
    }
    for (index, model) in models.iter().enumerate() {
        let (x, y) = (WIDTH - MARGINS[2] + 20.0, MARGINS[1] + 20.0 * index as f64 + 10.0);
        let _ = writeln!(
            out,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            COLOURS[index % COLOURS.len()],
            x + 10.0,
            y + 4.0,
            escaped(model)
        );
    }
    out + "</svg>\n"
}

/// The median over all entries.
fn median(record: &Record, of: impl Fn(&super::subject::Figures) -> &Samples) -> f64 {
    record.entries.iter().flat_map(|entry| of(&entry.figures).0.iter().copied()).collect::<Samples>().median()
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn new(low: f64, high: f64, start: f64, end: f64) -> Axis {
        Axis { low, high, start, end }
    }

    fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        self.start + (value / self.low).ln() / (self.high / self.low).ln() * (self.end - self.start)
    }

    /// Powers of two on large spans.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (first, last) = (self.low.log2().ceil() as i32, self.high.log2().floor() as i32);
        (first..=last).map(|power| 2f64.powi(power))
    }
}

fn grid(out: &mut String, across: &Axis, up: &Axis) {
    for x in across.ticks() {
        let at = across.at(x);
        let (top, bottom) = (up.end, up.start);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>",
            bottom + 18.0
        );
    }
    for y in up.ticks() {
        let at = up.at(y);
        let (left, right) = (across.start, across.end);
        let _ = writeln!(
            out,
            "<line x1=\"{left:.1}\" y1=\"{at:.1}\" x2=\"{right:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{y}</text>",
            left - 8.0,
            at + 4.0
        );
    }
    let (middle, below) = ((across.start + across.end) / 2.0, HEIGHT - 16.0);
    let _ = writeln!(
        out,
        "<text x=\"{middle:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">multiplications and additions for a byte of \
         weights</text>\n<text x=\"18\" y=\"{0:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {0:.1})\">10⁹ \
         multiplications and additions a second</text>",
        (up.start + up.end) / 2.0
    );
}

fn roofs(out: &mut String, across: &Axis, up: &Axis, read: f64, dot: f64) {
    let knee = dot / read;
    let lowest = across.low.max(up.low / read);
    let corners = [(lowest, lowest * read), (knee, dot), (across.high, dot)];
    let line: Vec<String> =
        corners.iter().map(|&(x, y)| format!("{:.1},{:.1}", across.at(x), up.at(y))).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"black\" stroke-width=\"1.5\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{dot:.0} GMAC/s of 8-bit dot products</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">{read:.1} GB/s</text>",
        line.join(" "),
        across.at(across.high) - 4.0,
        up.at(dot) - 8.0,
        across.at(lowest) + 10.0,
        up.at(lowest * read * 1.9)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_logarithmic() {
        let axis = Axis::new(1.0, 100.0, 0.0, 200.0);
        assert_eq!([1.0, 10.0, 100.0, 1000.0].map(|x| axis.at(x).round()), [0.0, 100.0, 200.0, 200.0]);
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]);
    }

    #[test]
    fn points_lie_below_the_roof_and_inside_the_picture() {
        let record = super::super::table::tests::record();
        let text = svg(&record);
        assert_eq!(text.matches("<title>").count(), 2, "{text}");
        assert_eq!(text.matches('<').count(), text.matches('>').count());
        for attribute in ["cx", "cy"] {
            let start = format!("{attribute}=\"");
            for value in
                text.split(&start).skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok())
            {
                assert!((0.0..=WIDTH).contains(&value));
            }
        }
        assert_eq!(escaped("a<b&\"c\""), "a&lt;b&amp;&quot;c&quot;");
    }
}
