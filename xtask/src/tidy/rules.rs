//! The rules themselves, as data where possible: a word, and where it may stand.

use std::collections::BTreeMap;

use super::source::Source;

/// A rule about words in code.
struct Rule {
    /// Any of these breaks the rule, unless part of a longer name.
    words: &'static [&'static str],
    /// What is wrong.
    what: &'static str,
    /// Whether the rule holds in this file at this line.
    holds: fn(&Source, usize) -> bool,
}

const RULES: &[Rule] = &[
    Rule {
        words: &["core::arch", "std::arch", "asm!", "global_asm!"],
        what: "only rz-kernels/src/arch names an instruction set",
        holds: |source, _| !in_any(source, &["crates/rz-kernels/src/arch"]),
    },
    Rule {
        words: &["unsafe"],
        what: "unsafe code belongs into rz-kernels (arch, pool and its slices, memory), the mapping of rz-formats, \
               and the counting allocator of rz-testkit",
        holds: |source, _| !in_any(source, UNSAFE),
    },
    Rule {
        words: &["allow(unsafe_code)"],
        what: "unsafe code is allowed where it lies, and for nothing else",
        holds: |source, _| {
            let parent = source.path == "crates/rz-kernels/src/lib.rs";
            !in_any(source, UNSAFE) && !parent
        },
    },
    Rule {
        words: &["env::var", "env::var_os", "env::vars", "env::vars_os", "env::set_var"],
        what: "only the main of a program reads the environment",
        holds: |source, line| is_library(source, line) && source.path != "crates/rz-cli/src/main.rs",
    },
    Rule {
        words: &["process::exit", "process::abort"],
        what: "only the main of a program ends the process",
        holds: |source, line| is_library(source, line) && source.path != "crates/rz-cli/src/main.rs",
    },
    Rule {
        words: &["println!", "print!", "eprintln!", "eprint!", "dbg!"],
        what: "libraries print nothing",
        holds: |source, line| is_library(source, line) && !in_any(source, &["crates/rz-cli/"]),
    },
    Rule {
        words: &["SystemTime", "Instant"],
        what: "the model knows no clock",
        holds: |source, line| is_library(source, line) && in_any(source, &["crates/rz-model/"]),
    },
    Rule {
        words: &["thread::sleep", "sleep"],
        what: "tests do not sleep",
        holds: |source, line| source.path.contains("/tests/") || line >= source.tests,
    },
    Rule {
        words: &["#[ignore", "todo!", "unimplemented!"],
        what: "no test is ignored and nothing is left to do",
        holds: |_, _| true,
    },
];

/// Where unsafe code lies.
const UNSAFE: &[&str] = &[
    "crates/rz-kernels/src/arch",
    "crates/rz-kernels/src/memory",
    "crates/rz-kernels/src/pool",
    "crates/rz-kernels/src/slices",
    "crates/rz-formats/src/mapping",
    "crates/rz-testkit/src/memory",
];

/// Words that no text of the repository may hold, comments included. They are split so that this file may.
const NOWHERE: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it or open an issue"),
    (concat!("FIX", "ME"), "finish it or open an issue"),
    (concat!("pypi", ".org"), "the package client knows its host"),
    (concat!("python", "hosted.org"), "the package client knows its host"),
    (concat!("npm", "js.org"), "the package client knows its host"),
    (concat!("crates", ".io/api"), "the package client knows its host"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/Us", "ers/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
];

/// Crates that may not be built, and sources they may not come from.
const BANNED: &[&str] = &["name = \"aws-lc-sys\"", "name = \"openssl-sys\"", "source = \"git+"];

/// Layers from the bottom up: a crate depends only on crates of lower layers.
const LAYERS: &[(&str, u32)] = &[
    ("rz-kernels", 0),
    ("rz-quant", 1),
    ("rz-formats", 2),
    ("rz-tokenizer", 3),
    ("rz-model", 3),
    ("rz-store", 3),
    ("rz-gpu", 4),
    ("rz-engine", 5),
    ("rz-constrain", 6),
    ("rz-server", 7),
    ("rz-cli", 8),
];

/// Crates that are used by tests only.
const FOR_TESTS: &str = "rz-testkit";

/// What breaks a rule in these files.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in numbered(&source.code) {
            for rule in RULES.iter().filter(|rule| (rule.holds)(source, number)) {
                if let Some(word) = rule.words.iter().find(|word| has_word(line, word)) {
                    findings.push(format!("{}:{number}: '{word}': {}", source.path, rule.what));
                }
            }
        }
        if source.path.ends_with("Cargo.lock") {
            for (number, line) in numbered(&source.text) {
                if BANNED.iter().any(|banned| line.starts_with(banned)) {
                    findings.push(format!("{}:{number}: {line}: such crates are banned", source.path));
                }
            }
        } else if !in_any(source, &["fixtures/"]) {
            for (number, line) in numbered(&source.text) {
                for (word, why) in NOWHERE.iter().filter(|(word, _)| line.contains(word)) {
                    findings.push(format!("{}:{number}: '{word}': {why}", source.path));
                }
            }
        }
    }
    findings
}

/// What breaks a rule about whole crates: their layers, README files and examples.
pub(super) fn check_crates(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    for manifest in
        sources.iter().filter(|s| s.path.starts_with("crates/") && s.path.ends_with("/Cargo.toml"))
    {
        let folder = manifest.path.trim_end_matches("Cargo.toml");
        let name = folder.trim_start_matches("crates/").trim_end_matches('/');
        if name == FOR_TESTS {
            continue;
        }
        let Some(layer) = layers.get(name) else {
            findings.push(format!("{}: {name} has no layer in xtask/src/tidy/rules.rs", manifest.path));
            continue;
        };
        for (number, dependency) in dependencies(&manifest.text) {
            if dependency == FOR_TESTS || layers.get(dependency).is_some_and(|below| below >= layer) {
                findings.push(format!("{}:{number}: {name} may not depend on {dependency}", manifest.path));
            }
        }
        if !sources.iter().any(|s| s.path == format!("{folder}README.md")) {
            findings.push(format!("{folder}: there is no README.md"));
        }
        let example = |s: &Source| s.path.starts_with(&format!("{folder}examples/"));
        if name != "rz-cli" && !sources.iter().any(example) {
            findings.push(format!("{folder}: there is no example"));
        }
    }
    findings
}

/// The crates of this workspace that a manifest's `[dependencies]` name.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (number, line) in numbered(manifest) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.contains("dev-dependencies");
        } else if inside && line.starts_with("rz-") {
            found.push((number, line.split(['.', ' ', '=']).next().unwrap_or(line)));
        }
    }
    found
}

/// Code of a library or of the program's modules, without unit tests, examples, benches and build tools.
fn is_library(source: &Source, line: usize) -> bool {
    let library = source.path.starts_with("crates/") && source.path.contains("/src/");
    library && !source.path.starts_with("crates/rz-testkit/") && line < source.tests
}

fn in_any(source: &Source, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| source.path.starts_with(prefix))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Whether the line holds the word, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = !word.starts_with(part) || !line[..at].ends_with(part);
        let after = !word.ends_with(part) || !line[at + word.len()..].starts_with(part);
        before && after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&[Source::new(path, text.to_owned())]).len()
    }

    #[test]
    fn words_have_their_places() {
        assert_eq!(found("crates/rz-quant/src/a.rs", "use core::arch::x86_64::*;"), 1);
        assert_eq!(found("crates/rz-kernels/src/arch/a.rs", "use core::arch::x86_64::*;\nunsafe { f() }"), 0);
        assert_eq!(found("crates/rz-model/src/a.rs", "unsafe { f() }"), 1);
        assert_eq!(
            found("crates/rz-model/src/a.rs", "// unsafe\n#![deny(unsafe_code)]\nlet x = \"unsafe\";"),
            0
        );
        assert_eq!(found("crates/rz-model/src/a.rs", "#![allow(unsafe_code)]"), 1);
        assert_eq!(found("crates/rz-store/src/a.rs", "let x = std::env::var(\"X\");"), 1);
        assert_eq!(found("crates/rz-store/src/a.rs", "let x = env!(\"X\");"), 0);
        assert_eq!(found("crates/rz-store/examples/a.rs", "std::env::var(\"X\"); println!()"), 0);
        assert_eq!(found("crates/rz-cli/src/main.rs", "std::env::var(\"X\"); println!()"), 0);
        assert_eq!(found("crates/rz-cli/src/chat.rs", "std::env::var(\"X\"); println!()"), 1);
        assert_eq!(
            found("crates/rz-model/src/a.rs", "println!();\n#[cfg(test)]\nmod tests {\nprintln!();\n}"),
            1
        );
        assert_eq!(found("crates/rz-model/src/a.rs", "#[cfg(test)]\nmod tests {\nthread::sleep(x);\n}"), 1);
        assert_eq!(found("crates/rz-store/src/a.rs", "thread::sleep(x);"), 0);
        assert_eq!(found("crates/rz-store/tests/a.rs", "#[ignore = \"slow\"]"), 1);
    }

    #[test]
    fn some_words_have_no_place() {
        assert_eq!(found("README.md", concat!("see https://pypi", ".org/")), 1);
        assert_eq!(found("a.rs", concat!("// TO", "DO: more")), 1);
        assert_eq!(found("fuzz/Cargo.lock", "name = \"openssl-sys\"\nsource = \"git+https://x\""), 2);
        assert_eq!(
            found("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\""),
            0
        );
    }

    #[test]
    fn arrows_point_downward() {
        let crates = |dependencies: &str| {
            let files = [
                ("crates/rz-model/Cargo.toml", dependencies),
                ("crates/rz-model/README.md", ""),
                ("crates/rz-model/examples/a.rs", ""),
            ];
            check_crates(&files.map(|(path, text)| Source::new(path, text.to_owned())))
        };
        assert_eq!(crates("[dependencies]\nrz-quant.workspace = true\n"), [""; 0]);
        assert_eq!(crates("[dependencies]\nrz-tokenizer.workspace = true\n").len(), 1);
        assert_eq!(crates("[target.'cfg(unix)'.dependencies]\nrz-engine = { workspace = true }\n").len(), 1);
        assert_eq!(crates("[dev-dependencies]\nrz-testkit.workspace = true\n"), [""; 0]);
        assert_eq!(crates("[dependencies]\nrz-testkit.workspace = true\n").len(), 1);
        let bare = check_crates(&[Source::new("crates/rz-new/Cargo.toml", String::new())]);
        assert!(bare[0].contains("no layer"), "{bare:?}");
    }
}
