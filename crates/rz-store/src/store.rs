//! The folder of fetched models: finding, fetching, listing and removing them.
//!
//! ```text
//! root/models/ID/FILE            a model; other shards lie beside it
//! root/models/ID/manifest.json   written last: without it, the model is not there
//! root/models/ID/packed-1-DIGEST.rzpack   a copy in packed layout 1, made of the files with that digest
//! root/locks/ID.lock             held while ID is fetched or removed; never deleted
//! ```

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Artifact, Config, Fetched, HfFile, ModelRef, OnProgress, Source, StoreError, fetch,
    lock::Lock,
    part::{hexadecimal, sync_folder_of, with_suffix},
    progress::Reporter,
};

const MANIFEST: &str = "manifest.json";
const PACKED: &str = "packed-";
const MOST_SHARDS: u32 = 999;

/// A store in a folder. It holds no open files; make as many as you like.
#[derive(Debug, Clone)]
pub struct Store {
    config: Config,
}

/// A model in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The reference it was fetched by.
    pub reference: String,
    /// Its file; of a model in shards, the first.
    pub path: PathBuf,
    /// Size of all its files.
    pub bytes: u64,
    /// SHA-256 of its file; of a model in shards, of the first.
    pub sha256: String,
    /// The source that gave it.
    pub source: String,
    /// Licence, when the catalogue states one.
    pub licence: Option<String>,
    /// Size of its packed copies, of which there is mostly one.
    pub packed_bytes: u64,
}

/// A model in the store that is to be packed.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Unpacked<'a> {
    /// Its file; of a model in shards, the first.
    pub path: &'a Path,
    /// SHA-256 of its file; of a model in shards, of their digests.
    pub digest: &'a str,
    /// Where the packed copy is to be written.
    pub target: &'a Path,
}

/// What is recorded of a fetched model.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    reference: String,
    licence: Option<String>,
    files: Vec<FileRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileRecord {
    file: String,
    bytes: u64,
    sha256: String,
    source: String,
}

impl Store {
    /// A store with these settings. Nothing is read or made yet.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file of a model that is on this machine, or nothing: no network, no hashing.
    ///
    /// A path that leads to no file is an error.
    pub fn resolve(&self, model: &ModelRef) -> Result<Option<PathBuf>, StoreError> {
        if let ModelRef::Path(path) = model {
            return match path.is_file() {
                true => Ok(Some(path.clone())),
                false => Err(StoreError::NoSuchFile { path: path.clone() }),
            };
        }
        let folder = self.folder(model);
        Ok(read_manifest(&folder)?.filter(|m| m.is_complete(&folder)).map(|m| folder.join(&m.files[0].file)))
    }

    /// The file of a model, fetched if it is not on this machine yet.
    ///
    /// Waits while another process fetches the same model. An interrupted or cancelled fetch leaves a part that
    /// the next one resumes. Of a model in shards (`-00001-of-000NN.gguf`), all are fetched.
    pub fn fetch(&self, model: &ModelRef, on_progress: &mut OnProgress<'_>) -> Result<PathBuf, StoreError> {
        if let Some(path) = self.resolve(model)? {
            return Ok(path);
        }
        if self.config.offline {
            return Err(StoreError::Offline { reference: model.to_string() });
        }
        let artifacts = artifacts(model)?;
        let mut report = Reporter::new(on_progress, &artifacts[0].file);
        report.set_source(&artifacts[0].sources[0].to_string());
        let _lock = Lock::acquire(&self.lock_path(&id(model)), &mut report)?;
        if let Some(path) = self.resolve(model)? {
            return Ok(path);
        }
        let folder = self.folder(model);
        let made = self.fill(&folder, model, &artifacts, &mut report);
        if made.is_err() {
            // Fails when there is something worth keeping.
            let _ = fs::remove_dir(&folder);
        }
        made
    }

    /// Fetches an artifact to a path of the caller's choice, outside of the store's own folders.
    ///
    /// What is there already is replaced; whether that is needed, the caller decides. Only the locks lie in the
    /// store.
    pub fn fetch_to(
        &self,
        artifact: &Artifact,
        target: &Path,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Fetched, StoreError> {
        let target = std::path::absolute(target).map_err(|e| StoreError::io("find", target, e))?;
        let mut report = Reporter::new(on_progress, &artifact.file);
        let name = format!("file-{}", short_hash(&target.to_string_lossy()));
        let _lock = Lock::acquire(&self.lock_path(&name), &mut report)?;
        fetch::fetch(&self.config, artifact, &target, &mut report)
    }

    /// The packed copy of a model in this layout, if there is one. What is in it is not looked at.
    pub fn packed(&self, model: &ModelRef, layout: u32) -> Result<Option<PathBuf>, StoreError> {
        if let ModelRef::Path(_) = model {
            return Ok(None);
        }
        let folder = self.folder(model);
        let manifest = read_manifest(&folder)?.filter(|manifest| manifest.is_complete(&folder));
        let path = manifest.map(|manifest| folder.join(packed_name(layout, &manifest.digest())));
        Ok(path.filter(|path| path.is_file()))
    }

    /// Whether a model has packed copies, of whatever layout.
    pub fn has_packed(&self, model: &ModelRef) -> bool {
        !packed_files(&self.folder(model)).is_empty()
    }

    /// Has the packed copy of a model made, by `make`, and removes those of other layouts and of other files.
    ///
    /// Waits while another process fetches or packs the same model; a copy that it has made is taken, unless
    /// `again` asks for a new one. `make` writes the target whole or not at all.
    pub fn pack<E: From<StoreError>>(
        &self,
        model: &ModelRef,
        layout: u32,
        again: bool,
        on_progress: &mut OnProgress<'_>,
        make: &mut dyn FnMut(Unpacked<'_>) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let mut report = Reporter::new(on_progress, "the packed copy");
        let _lock = Lock::acquire(&self.lock_path(&id(model)), &mut report)?;
        if let Some(path) = self.packed(model, layout)?.filter(|_| !again) {
            return Ok(path);
        }
        let folder = self.folder(model);
        let manifest = read_manifest(&folder)?.filter(|manifest| manifest.is_complete(&folder));
        let manifest = manifest.ok_or_else(|| StoreError::NotStored { reference: model.to_string() })?;
        // Also what a process left that was ended in the middle.
        for path in packed_files(&folder) {
            fs::remove_file(&path).map_err(|e| StoreError::io("delete", path, e))?;
        }
        let digest = manifest.digest();
        let target = folder.join(packed_name(layout, &digest));
        make(Unpacked { path: &folder.join(&manifest.files[0].file), digest: &digest, target: &target })?;
        sync_folder_of(&target);
        Ok(target)
    }

    /// The models in the store, by reference. Folders that hold no complete model are left out.
    pub fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let folder = self.config.root.join("models");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::io("read", folder, e)),
        };
        let mut models = Vec::new();
        for entry in entries {
            let folder = entry.map_err(|e| StoreError::io("read", &folder, e))?.path();
            if let Some(manifest) = read_manifest(&folder)?.filter(|m| m.is_complete(&folder)) {
                let first = &manifest.files[0];
                models.push(Stored {
                    path: folder.join(&first.file),
                    bytes: manifest.files.iter().map(|f| f.bytes).sum(),
                    sha256: first.sha256.clone(),
                    source: first.source.clone(),
                    reference: manifest.reference,
                    licence: manifest.licence,
                    packed_bytes: packed_files(&folder)
                        .iter()
                        .filter_map(|path| fs::metadata(path).ok())
                        .map(|meta| meta.len())
                        .sum(),
                });
            }
        }
        models.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(models)
    }

    /// Removes a model, or what an interrupted fetch left of it, and tells how many bytes that frees.
    pub fn remove(&self, model: &ModelRef) -> Result<u64, StoreError> {
        if let ModelRef::Path(path) = model {
            return Err(StoreError::NotManaged { path: path.clone() });
        }
        let reference = || model.to_string();
        let folder = self.folder(model);
        if !folder.is_dir() {
            return Err(StoreError::NotStored { reference: reference() });
        }
        let lock = Lock::attempt(&self.lock_path(&id(model)))?;
        let _lock = lock.ok_or_else(|| StoreError::Busy { reference: reference() })?;
        let freed = size_of(&folder, 6);
        // The manifest goes first: a removal that is interrupted leaves no model that looks whole.
        match fs::remove_file(folder.join(MANIFEST)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("delete", folder.join(MANIFEST), e));
            }
            _ => {}
        }
        fs::remove_dir_all(&folder).map_err(|e| StoreError::io("delete", &folder, e))?;
        Ok(freed)
    }

    /// Fetches the files of a model into its folder and records them.
    fn fill(
        &self,
        folder: &Path,
        model: &ModelRef,
        artifacts: &[Artifact],
        report: &mut Reporter<'_, '_>,
    ) -> Result<PathBuf, StoreError> {
        let mut files = Vec::new();
        for artifact in artifacts {
            let target = folder.join(&artifact.file);
            if let Some(record) = shard_record(&target) {
                files.push(record);
                continue;
            }
            report.set_file(&artifact.file);
            let fetched = fetch::fetch(&self.config, artifact, &target, report)?;
            let record = FileRecord::new(&artifact.file, fetched);
            if artifacts.len() > 1 {
                write_json(&with_suffix(&target, ".json"), &record)?;
            }
            files.push(record);
        }
        let licence = match model {
            ModelRef::Named(entry) => Some(entry.licence.to_owned()),
            _ => None,
        };
        write_json(&folder.join(MANIFEST), &Manifest { reference: model.to_string(), licence, files })?;
        Ok(folder.join(&artifacts[0].file))
    }

    fn folder(&self, model: &ModelRef) -> PathBuf {
        self.config.root.join("models").join(id(model))
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.config.root.join("locks").join(format!("{name}.lock"))
    }
}

impl Manifest {
    /// What tells the files apart from all others.
    fn digest(&self) -> String {
        match self.files.as_slice() {
            [only] => only.sha256.clone(),
            files => {
                let all: String = files.iter().map(|file| file.sha256.as_str()).collect();
                hexadecimal(&Sha256::digest(all.as_bytes()))
            }
        }
    }

    /// Whether the recorded files are there with the recorded sizes, under plain names.
    fn is_complete(&self, folder: &Path) -> bool {
        !self.files.is_empty() && self.files.iter().all(|record| record.is_present(folder))
    }
}

impl FileRecord {
    fn new(file: &str, fetched: Fetched) -> Self {
        Self { file: file.into(), bytes: fetched.bytes, sha256: fetched.sha256, source: fetched.source }
    }

    fn is_present(&self, folder: &Path) -> bool {
        let plain = Path::new(&self.file).file_name().is_some_and(|name| name == self.file.as_str());
        plain
            && fs::metadata(folder.join(&self.file))
                .is_ok_and(|meta| meta.is_file() && meta.len() == self.bytes)
    }
}

/// The name of a packed copy.
fn packed_name(layout: u32, digest: &str) -> String {
    format!("{PACKED}{layout}-{}.rzpack", digest.get(..16).unwrap_or(digest))
}

/// The packed copies in a folder, and the beginnings of some that were never finished.
fn packed_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_packed = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix('.').unwrap_or(name).starts_with(PACKED) && name.contains(".rzpack")
    };
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_packed).collect()
}

/// Name of a model's folder: readable, and different for different references on every file system.
fn id(model: &ModelRef) -> String {
    let reference = model.to_string();
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    match model {
        ModelRef::Named(entry) => entry.name.chars().map(plain).collect(),
        _ => {
            let mut slug: String = reference.chars().map(plain).collect();
            slug.truncate(80);
            format!("{slug}-{}", short_hash(&reference))
        }
    }
}

fn short_hash(text: &str) -> String {
    hexadecimal(&Sha256::digest(text.as_bytes())[..6])
}

/// What has to be fetched for a model: several files if it is in shards.
fn artifacts(model: &ModelRef) -> Result<Vec<Artifact>, StoreError> {
    let unknown = |name: String, file: &str, source: Source| Artifact {
        name,
        file: file.into(),
        bytes: None,
        sha256: None,
        sources: vec![source],
    };
    Ok(match model {
        ModelRef::Path(path) => return Err(StoreError::NoSuchFile { path: path.clone() }),
        ModelRef::Named(entry) => vec![entry.artifact()],
        ModelRef::Pip(member) => {
            vec![unknown(model.to_string(), member.file_name(), Source::Pip(vec![member.clone()]))]
        }
        ModelRef::Hf(file) => shard_names(file.file_name())
            .map_err(|problem| StoreError::BadReference { reference: model.to_string(), problem })?
            .iter()
            .map(|name| {
                let shard: HfFile = file.sibling(name);
                unknown(shard.to_string(), name, Source::Hf(shard))
            })
            .collect(),
    })
}

/// The names of all shards, the first one first, if `name` is one of several; else `name` alone.
fn shard_names(name: &str) -> Result<Vec<String>, String> {
    let parse = || {
        let (stem, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, index) = stem.rsplit_once('-')?;
        let number = |digits: &str| {
            (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()))
                .then(|| digits.parse::<u32>().ok())?
        };
        Some((stem, number(index)?, number(count)?))
    };
    match parse() {
        None => Ok(vec![name.to_owned()]),
        Some((_, index, count)) if index == 0 || index > count || count > MOST_SHARDS => {
            Err(format!("shard {index} of {count} makes no sense"))
        }
        Some((stem, _, count)) => {
            Ok((1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}.gguf")).collect())
        }
    }
}

/// The record of a shard that an interrupted fetch completed.
fn shard_record(target: &Path) -> Option<FileRecord> {
    let text = fs::read(with_suffix(target, ".json")).ok()?;
    let record: FileRecord = serde_json::from_slice(&text).ok()?;
    let same = target.file_name().is_some_and(|name| name == record.file.as_str());
    (same && record.is_present(target.parent()?)).then_some(record)
}

/// The manifest in `folder`; nothing if there is none or it is not readable as one, so that a fetch mends it.
fn read_manifest(folder: &Path) -> Result<Option<Manifest>, StoreError> {
    let path = folder.join(MANIFEST);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(StoreError::io("open", path, e)),
    };
    let mut text = Vec::new();
    file.take(1 << 20).read_to_end(&mut text).map_err(|e| StoreError::io("read", path, e))?;
    Ok(serde_json::from_slice(&text).ok())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let text = serde_json::to_string_pretty(value).expect("records are plain text and numbers");
    let new = with_suffix(path, ".new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)
    };
    write().map_err(|e| StoreError::io("write", path, e))?;
    sync_folder_of(path);
    Ok(())
}

fn size_of(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth > 0 => size_of(&entry.path(), depth - 1),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_enumerated() {
        assert_eq!(shard_names("m.gguf").unwrap(), ["m.gguf"]);
        assert_eq!(shard_names("m-of-x.gguf").unwrap(), ["m-of-x.gguf"]);
        assert_eq!(
            shard_names("a-q4-00002-of-00002.gguf").unwrap(),
            ["a-q4-00001-of-00002.gguf", "a-q4-00002-of-00002.gguf"]
        );
        assert!(shard_names("a-00003-of-00002.gguf").is_err());
        assert!(shard_names("a-00001-of-99999.gguf").is_err());
    }

    #[test]
    fn folders_differ_when_references_do() {
        let id = |text: &str| id(&ModelRef::parse(text).unwrap());
        assert_eq!(id("smollm2"), "smollm2-135m");
        assert_ne!(id("hf:o/r/A.gguf"), id("hf:o/r/a.gguf"));
        assert_ne!(id("hf:o/r/a/b.gguf"), id("hf:o/r/a-b.gguf"));
        assert!(id(&format!("hf:o/r/{}.gguf", "x".repeat(190))).len() < 100);
    }
}
