//! What is kept of a run: where it was taken, of what, and every figure.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{build, case::Case, operators, peer::Reached, roofline, subject::Figures, table, target};
use crate::workspace;

/// A run.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) machine: Machine,
    /// The commit that was measured; a `+` says that files were changed.
    pub(super) commit: String,
    pub(super) entries: Vec<Entry>,
    pub(super) operators: Vec<operators::Row>,
}

/// Where figures were taken.
#[derive(Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) cores: usize,
    /// Bytes.
    pub(super) memory: Option<u64>,
    pub(super) system: String,
}

/// One case of one model.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) model: String,
    pub(super) case: Case,
    pub(super) figures: Figures,
    pub(super) peers: Vec<Reached>,
}

impl Record {
    /// An empty record of this machine and the working tree.
    pub(super) fn of_this_machine() -> Result<Record> {
        Ok(Record {
            machine: Machine::this(),
            commit: build::commit()?,
            entries: Vec::new(),
            operators: Vec::new(),
        })
    }

    /// Writes the figures, a table and a plot to `target/bench`; with `keep`, to `benches/record`, and the table of
    /// the models also into `docs/performance.md`.
    pub(super) fn write(&self, keep: bool) -> Result<()> {
        let (folder, name) = match keep {
            true => (workspace().join("benches/record"), slug(&self.machine.processor)),
            false => (target()?, "last".to_owned()),
        };
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = |extension: &str| folder.join(format!("{name}.{extension}"));
        write(&file("json"), &(serde_json::to_string_pretty(self)? + "\n"))?;
        write(&file("md"), &table::markdown(self))?;
        write(&file("svg"), &roofline::svg(self))?;
        if keep {
            replace_table(&workspace().join("docs/performance.md"), &table::of_models(self))?;
        }
        eprintln!("bench: the record is {}, the plot {}", file("json").display(), file("svg").display());
        Ok(())
    }
}

impl Machine {
    fn this() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let processor = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let memory = read("/proc/meminfo").lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        Machine {
            processor: processor.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory.map(|kibibytes| kibibytes * 1024),
            system: std::env::consts::OS.to_owned(),
        }
    }
}

const BEGIN: &str = "<!-- table: written by `cargo xtask bench --record` -->\n";
const END: &str = "<!-- end of the table -->\n";

/// Puts the table between its marks.
fn replace_table(path: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    write(path, &with_table(&text, table).with_context(|| format!("in {}", path.display()))?)
}

fn with_table(text: &str, table: &str) -> Result<String> {
    let Some((before, rest)) = text.split_once(BEGIN) else {
        bail!("the mark '{}' is missing", BEGIN.trim())
    };
    let Some((_, after)) = rest.split_once(END) else { bail!("the mark '{}' is missing", END.trim()) };
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A file name of a processor's name and its number of cores.
fn slug(name: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).chain([format!("{cores}-cores")]).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_put_between_its_marks() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(with_table(&text, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n\n{END}b\n"));
        assert!(with_table("a", "").is_err());
    }

    #[test]
    fn the_documentation_has_the_marks() {
        let text = fs::read_to_string(workspace().join("docs/performance.md")).unwrap();
        with_table(&text, "").unwrap();
    }

    #[test]
    fn names_of_processors_make_file_names() {
        assert!(slug("AMD EPYC (TM) 9R14").starts_with("amd-epyc-tm-9r14-"));
    }
}
