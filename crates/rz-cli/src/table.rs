//! Columns of text, aligned.

/// How the cells of a column stand.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Cells that are wider than this stand out of line, so that one does not make all rows long.
const WIDEST: usize = 64;

/// Rows of cells, the first of them the heading. Put text of unknown width in the last column.
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            align: columns.iter().map(|column| column.1).collect(),
            rows: vec![columns.iter().map(|column| column.0.to_owned()).collect()],
        }
    }

    /// Adds a row; it has a cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.align.len());
        self.rows.push(cells.into());
    }

    /// The lines of the table.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let widths = self.rows.iter().map(|row| row[column].chars().count());
            widths.filter(|width| *width <= WIDEST).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.align.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.align) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                line += &match align {
                    Align::Left => format!("{cell}{padding}  "),
                    Align::Right => format!("{padding}{cell}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes for people: `98.4 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.95 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    format!("{value:.1} {unit}")
}

/// Bytes as people write them: `512M`, `8GB`, `1.5GiB`. `K`, `M`, `G` and `T` are powers of 1000, with an `i`
/// of 1024.
#[cfg(any(feature = "serve", test))]
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || "expected a size such as 512M, 8G or 8GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().strip_suffix(['B', 'b']).unwrap_or(unit.trim_start());
    let (unit, base) = match unit.strip_suffix('i') {
        Some(unit) => (unit, 1024f64),
        None => (unit, 1000f64),
    };
    let power = match unit.to_ascii_uppercase().as_str() {
        "" if base == 1000.0 => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(expected()),
    };
    let bytes = number.parse::<f64>().map_err(|_| expected())? * base.powi(power);
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(&[("id", Align::Right), ("text", Align::Left)]);
        table.row(["7".into(), "é".into()]);
        table.row(["1234".into(), "a b".into()]);
        assert_eq!(table.render(), "  id  text\n   7  é\n1234  a b\n");
    }

    #[test]
    fn a_very_wide_cell_widens_no_other() {
        let mut table = Table::new(&[("a", Align::Left), ("b", Align::Left)]);
        table.row(["x".repeat(100_000), "y".into()]);
        table.row(["z".into(), "y".into()]);
        assert_eq!(table.render(), format!("a  b\n{}  y\nz  y\n", "x".repeat(100_000)));
    }

    #[test]
    fn sizes_are_read() {
        for (text, count) in [
            ("1", 1),
            ("512M", 512_000_000),
            ("8GB", 8_000_000_000),
            ("8Gi", 8 << 30),
            ("1.5KiB", 1536),
            ("2 T", 2_000_000_000_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(count), "{text}");
        }
        for text in ["", "0", "G", "8X", "8iB", "-1G", "1e9", "1.2.3M", "99999999T", "NaN", "é"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (98_362_432, "98.4 MB"),
            (999_949_999, "999.9 MB"),
            (999_999_999, "1.0 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
