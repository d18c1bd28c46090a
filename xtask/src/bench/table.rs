//! Figures as Markdown.

use std::fmt::Write;

use super::{
    operators,
    record::{Entry, Record},
    stats::Samples,
};

/// What was reached in one kind of work, and what bounds it.
pub(super) struct Point<'a> {
    pub(super) what: String,
    /// Tokens a second.
    pub(super) samples: &'a Samples,
    /// Multiplications and additions for a token.
    pub(super) macs: f64,
    /// Bytes read for a token.
    pub(super) bytes: f64,
    /// GB/s and GMAC/s of the same run.
    pub(super) read: f64,
    pub(super) dot: f64,
    /// What others reached, in tokens a second, with which settings.
    pub(super) peers: Vec<(&'a str, &'a super::peer::Best)>,
}

impl Point<'_> {
    /// Tokens a second that memory and that arithmetic allow.
    pub(super) fn roofs(&self) -> [f64; 2] {
        [1e9 * self.read / self.bytes, 1e9 * self.dot / self.macs]
    }

    /// The share of the lower roof.
    fn share(&self) -> f64 {
        let [memory, arithmetic] = self.roofs();
        self.samples.median() / memory.min(arithmetic)
    }

    /// What the lower roof is.
    fn bound(&self) -> &'static str {
        let [memory, arithmetic] = self.roofs();
        if memory < arithmetic { "memory" } else { "arithmetic" }
    }
}

/// What an entry measured, prefill first.
pub(super) fn points(entry: &Entry) -> Vec<Point<'_>> {
    let Entry { case, figures, .. } = entry;
    let (read, dot) = (figures.read.median(), figures.dot.median());
    let mut points = Vec::new();
    if !figures.prefill.is_empty() {
        // A chunk reads the weights once.
        let chunk = case.prompt.min(512) as f64;
        points.push(Point {
            what: format!("prefill {}", case.prompt),
            samples: &figures.prefill,
            macs: figures.prefill_macs,
            bytes: figures.weight_bytes / chunk,
            read,
            dot,
            peers: entry.peers.iter().map(|peer| (&*peer.label, &peer.prefill)).collect(),
        });
    }
    if !figures.decode.is_empty() {
        let sequences = match case.sequences {
            1 => String::new(),
            n => format!(", {n} sequences"),
        };
        let after = if case.depth > 0 { format!(" after {}", case.depth) } else { String::new() };
        points.push(Point {
            what: format!("decode {}{after}{sequences}", case.generate),
            samples: &figures.decode,
            macs: figures.decode_macs,
            bytes: figures.decode_bytes / case.sequences as f64,
            read,
            dot,
            peers: entry.peers.iter().map(|peer| (&*peer.label, &peer.decode)).collect(),
        });
    }
    points
}

/// The lines of one entry, to be shown while others are still being measured.
pub(super) fn lines(entry: &Entry) -> String {
    let mut text = String::new();
    for point in points(entry) {
        let _ = write!(
            text,
            "{:<32} {:<36} {:>8.2} tokens/s ±{:>4.1}%  {:>6.2} GB/s of {:>6.2}  {:>6.1} GMAC/s of {:>6.1}  {:>3.0}% of {}",
            entry.model,
            point.what,
            point.samples.median(),
            100.0 * point.samples.spread(),
            point.samples.median() * point.bytes / 1e9,
            point.read,
            point.samples.median() * point.macs / 1e9,
            point.dot,
            100.0 * point.share(),
            point.bound(),
        );
        for (label, best) in &point.peers {
            if !best.samples.is_empty() {
                let ratio = point.samples.median() / best.samples.median();
                let _ =
                    write!(text, "  {label} {:.2} ({ratio:.2}x, {})", best.samples.median(), best.settings);
            }
        }
        text.push('\n');
    }
    if !entry.figures.process.is_empty() {
        let process = &entry.figures.process;
        let _ = writeln!(
            text,
            "{:<32} {:<36} {:>8.1} ms ±{:.1}%",
            entry.model,
            entry.case.to_string(),
            1e3 * process.median(),
            100.0 * process.spread()
        );
    }
    text
}

/// The record as tables, that of the operators last.
pub(super) fn markdown(record: &Record) -> String {
    let mut text = of_models(record);
    operators(record, &mut text);
    text
}

/// The tables of the models.
pub(super) fn of_models(record: &Record) -> String {
    let machine = &record.machine;
    let memory = machine.memory.map_or_else(String::new, |bytes| format!(", {} GiB", bytes >> 30));
    let mut text = format!(
        "{}, {} cores{memory}, {}; commit {}. Medians; ± is half the distance of the quartiles.\n",
        machine.processor, machine.cores, machine.system, record.commit
    );
    models(record, &mut text);
    processes(record, &mut text);
    text
}

fn models(record: &Record, text: &mut String) {
    let mut peers: Vec<&str> = Vec::new();
    for peer in record.entries.iter().flat_map(|entry| &entry.peers) {
        if !peers.contains(&&*peer.label) {
            peers.push(&peer.label);
        }
    }
    if record.entries.iter().all(|entry| points(entry).is_empty()) {
        return;
    }
    let others: String = peers.iter().map(|peer| format!(" {peer} |")).collect();
    let lines = "---: |".repeat(peers.len());
    let _ = write!(
        text,
        "\n| model | work | tokens/s | ± | GB/s | of | GMAC/s | of | share of the roof |{others}\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |{lines}\n"
    );
    for entry in &record.entries {
        for point in points(entry) {
            let median = point.samples.median();
            let _ = write!(
                text,
                "| {} | {} | {median:.1} | {:.1}% | {:.1} | {:.1} | {:.0} | {:.0} | {:.2} of {} |",
                entry.model,
                point.what,
                100.0 * point.samples.spread(),
                median * point.bytes / 1e9,
                point.read,
                median * point.macs / 1e9,
                point.dot,
                point.share(),
                point.bound(),
            );
            for peer in &peers {
                let best = point.peers.iter().find(|(label, _)| label == peer).map(|(_, best)| best);
                match best.filter(|best| !best.samples.is_empty()) {
                    Some(best) => {
                        let other = best.samples.median();
                        let _ = write!(text, " {other:.1} ({:.2}x) |", median / other);
                    }
                    None => text.push_str(" |"),
                }
            }
            text.push('\n');
        }
    }
}

fn processes(record: &Record, text: &mut String) {
    let mut of_processes = record.entries.iter().filter(|entry| !entry.figures.process.is_empty()).peekable();
    if of_processes.peek().is_some() {
        text.push_str("\n| model | process | ms | ± |\n| --- | --- | ---: | ---: |\n");
    }
    for entry in of_processes {
        let process = &entry.figures.process;
        let (ms, spread) = (1e3 * process.median(), 100.0 * process.spread());
        let _ = writeln!(text, "| {} | {} | {ms:.0} | {spread:.1}% |", entry.model, entry.case);
    }
    let mut with_memory = record
        .entries
        .iter()
        .filter(|entry| !entry.figures.peak_bytes.is_empty() && entry.case.prompt == 512)
        .peekable();
    if with_memory.peek().is_some() {
        text.push_str("\n| model | weights, MB | most memory of the process, MB |\n| --- | ---: | ---: |\n");
    }
    for entry in with_memory {
        let (weights, peak) = (entry.figures.weight_bytes / 1e6, entry.figures.peak_bytes.median() / 1e6);
        let _ = writeln!(text, "| {} | {weights:.0} | {peak:.0} |", entry.model);
    }
}

fn operators(record: &Record, text: &mut String) {
    if record.operators.is_empty() {
        return;
    }
    text.push_str("\n| operator | tokens | place | GB/s | of | GMAC/s | of | ± |\n");
    text.push_str("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n");
    for row in &record.operators {
        let operators::Row { name, tokens, place, seconds, bytes, macs, read_gb_s, dot_gmac_s } = row;
        let median = seconds.median();
        let per_second = |amount: f64, digits: usize| match amount {
            0.0 => String::new(),
            amount => format!("{:.digits$}", amount / median / 1e9),
        };
        let roof = |roof: f64, amount: f64| if amount == 0.0 { String::new() } else { format!("{roof:.1}") };
        let _ = writeln!(
            text,
            "| {name} | {tokens} | {place} | {} | {} | {} | {} | {:.1}% |",
            per_second(*bytes, 1),
            roof(*read_gb_s, *bytes),
            per_second(*macs, 1),
            roof(*dot_gmac_s, *macs),
            100.0 * seconds.spread(),
        );
    }
}

#[cfg(test)]
pub(in crate::bench) mod tests {
    use super::*;
    use crate::bench::{case, peer, record::Machine, subject::Figures};

    pub(in crate::bench) fn record() -> Record {
        let samples = |x: f64| Samples(vec![x]);
        let figures = Figures {
            prefill: samples(200.0),
            decode: samples(40.0),
            read: samples(40.0),
            dot: samples(400.0),
            weight_bytes: 0.6e9,
            decode_bytes: 0.61e9,
            prefill_macs: 1.0e9,
            decode_macs: 1.1e9,
            ..Figures::default()
        };
        let best = |x| peer::Best { settings: "-fa 1".into(), samples: samples(x) };
        let peers = vec![peer::Reached { label: "other".into(), prefill: best(100.0), decode: best(50.0) }];
        let case = case::named(&["standard".to_owned()], false).unwrap().cases[0];
        Record {
            machine: Machine { processor: "p".into(), cores: 2, memory: None, system: "linux".into() },
            commit: "c".into(),
            entries: vec![Entry { model: "m".into(), case, figures, peers }],
            operators: Vec::new(),
        }
    }

    #[test]
    fn shares_are_of_the_lower_roof() {
        let record = record();
        let points = points(&record.entries[0]);
        assert_eq!(points[0].roofs()[1], 400.0);
        assert_eq!((points[0].bound(), points[0].share()), ("arithmetic", 0.5));
        assert_eq!(points[1].bound(), "memory");
        assert!((points[1].share() - 0.61).abs() < 1e-9);
    }

    #[test]
    fn the_table_has_a_column_for_each_peer() {
        let text = markdown(&record());
        assert!(text.contains("| other |\n"), "{text}");
        assert!(text.contains("| m | prefill 512 | 200.0 | 0.0% |"), "{text}");
        assert!(text.contains("100.0 (2.00x) |"), "{text}");
        assert!(text.contains("50.0 (0.80x) |"), "{text}");
        let mut columns =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count());
        let first = columns.next().unwrap();
        assert!(columns.all(|count| count == first), "{text}");
    }
}
