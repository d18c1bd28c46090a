//! What can be wrong with a model file, said in one line.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::shown::{cut, hint, path, text, whereabouts};

/// Where in which file something was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Bytes from its start; `None` in a file that is yet to be written.
    pub offset: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        path(&self.file).fmt(f)?;
        self.offset.map_or(Ok(()), |offset| write!(f, ", byte {offset}"))
    }
}

/// Why a model file cannot be read or written.
///
/// Each message is one line that names the file and, where there is one, the
/// offset, what was found there and what was expected. Text that comes from the
/// file is shown with its control characters escaped, and cut when it is long.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused something.
    #[error("{}: cannot {action}: {cause}", path(.file))]
    Io {
        /// The file.
        file: PathBuf,
        /// What was tried, such as `open`.
        action: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The path names something that is not a regular file.
    #[error("{}: is {found}, but a model is a regular file{}", path(.file), if *.found == "a folder" { ": name a file in it" } else { "" })]
    NotAFile {
        /// The path.
        file: PathBuf,
        /// What it is, such as `a folder`.
        found: &'static str,
    },
    /// The path names something that is not a folder.
    #[error("{}: is not a folder, but the files of such a model lie in one: name the folder", path(.file))]
    NotAFolder {
        /// The path.
        file: PathBuf,
    },
    /// The file has no bytes.
    #[error("{}: the file is empty: fetch it again", path(.file))]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The file changed while it was in use.
    #[error("{}: the file was changed while in use ({change}): load it again", path(.file))]
    Changed {
        /// The file.
        file: PathBuf,
        /// What changed, such as its size.
        change: String,
    },
    /// The file does not start as this kind of file does.
    #[error("{place}: not a GGUF file: it starts with {}{}, expected \"GGUF\"", text(.found), hint(.looks_like))]
    Magic {
        /// Where.
        place: Place,
        /// The first bytes, as text.
        found: String,
        /// What the file looks like instead, when that can be told.
        looks_like: Option<&'static str>,
    },
    /// A big-endian file.
    #[error(
        "{place}: a big-endian GGUF file (version {version}); only little-endian files are supported: convert it to little-endian"
    )]
    BigEndian {
        /// Where.
        place: Place,
        /// The version read in that byte order.
        version: u32,
    },
    /// A version that this reader does not know.
    #[error(
        "{place}: GGUF version {found} is not supported, expected 2 or 3: convert the model again with a current tool"
    )]
    Version {
        /// Where.
        place: Place,
        /// The version.
        found: u32,
    },
    /// The file ends before something that must be there.
    #[error(
        "{place}: {what} needs {expected} bytes, but only {found} are left: the file is truncated or damaged, fetch it again"
    )]
    Truncated {
        /// Where.
        place: Place,
        /// What was being read.
        what: &'static str,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that the file still has.
        found: u64,
    },
    /// A count that the rest of the file cannot hold.
    #[error(
        "{place}: {what} is {found}, but the rest of the file can hold at most {limit}: the file is damaged, fetch it again"
    )]
    Count {
        /// Where.
        place: Place,
        /// What is counted.
        what: &'static str,
        /// The count.
        found: u64,
        /// The most that the remaining bytes can hold, or that is accepted.
        limit: u64,
    },
    /// An empty or overlong name.
    #[error("{place}: a {what} of {found} bytes, expected 1 to {limit}")]
    NameLength {
        /// Where.
        place: Place,
        /// What is named.
        what: &'static str,
        /// Bytes of the name.
        found: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// Bytes that should be UTF-8 and are not.
    #[error("{place}: {what} is not valid UTF-8")]
    Utf8 {
        /// Where.
        place: Place,
        /// What was being read.
        what: String,
    },
    /// A metadata type that does not exist.
    #[error("{place}: key {} has the unknown value type {found}, expected 0 to 12", text(.key))]
    ValueType {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// A bool that is neither 0 nor 1.
    #[error("{place}: key {} holds the bool {found}, expected 0 or 1", text(.key))]
    Bool {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// Arrays inside arrays, deeper than is accepted.
    #[error("{place}: key {} nests arrays deeper than {limit}", text(.key))]
    Nesting {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The deepest that is accepted.
        limit: u32,
    },
    /// A key that occurs twice.
    #[error("{place}: the key {} occurs twice", text(.key))]
    DuplicateKey {
        /// Where the second one is.
        place: Place,
        /// The key.
        key: String,
    },
    /// A key that is required and absent.
    #[error("{}: the key {} is missing", path(.file), text(.key))]
    MissingKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// A key whose value has the wrong type, or does not fit the expected one.
    #[error("{}: the key {} is {found}, expected {expected}", path(.file), text(.key))]
    WrongType {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The type that was asked for.
        expected: &'static str,
        /// The type, and for a number that does not fit the value.
        found: String,
    },
    /// An alignment that cannot be.
    #[error("{}: general.alignment is {found}, expected a power of two from {min} to {max}", path(.file))]
    Alignment {
        /// The file.
        file: PathBuf,
        /// The alignment.
        found: u64,
        /// The smallest that is accepted.
        min: u64,
        /// The largest that is accepted.
        max: u64,
    },
    /// A tensor name that occurs twice.
    #[error("{place}: the tensor {} occurs twice", text(.tensor))]
    DuplicateTensor {
        /// Where the second one is.
        place: Place,
        /// The tensor.
        tensor: String,
    },
    /// A number of dimensions that is not accepted.
    #[error("{place}: tensor {} has {found} dimensions, expected 1 to {limit}", text(.tensor))]
    Dimensions {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        found: u64,
        /// The most that are accepted.
        limit: u64,
    },
    /// A dimension of zero.
    #[error("{place}: tensor {} has the shape {shape:?}, expected no dimension to be 0", text(.tensor))]
    ZeroDimension {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A shape whose size in elements or bytes does not fit 63 bits.
    #[error("{place}: tensor {} has the shape {shape:?}, whose size overflows", text(.tensor))]
    ShapeOverflow {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A tensor type that does not exist.
    #[error("{place}: tensor {} has the unknown type {found}", text(.tensor))]
    TensorType {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// The type's number.
        found: u32,
    },
    /// A tensor type that files may no longer use.
    #[error("{place}: tensor {} has type {found} ({name}), which was removed from the format: convert the model again", text(.tensor))]
    RemovedTensorType {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// The type's number.
        found: u32,
        /// The name that it had.
        name: &'static str,
    },
    /// A row that does not fill whole blocks.
    #[error("{place}: tensor {} has rows of {found} elements, expected a multiple of {expected} for its type", text(.tensor))]
    PartialBlock {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// Elements of a row.
        found: u64,
        /// Elements of a block.
        expected: u64,
    },
    /// Data that does not start at a multiple of the alignment.
    #[error("{place}: tensor {} has its data at offset {found}, expected a multiple of {expected}", text(.tensor))]
    Misaligned {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// Offset from the start of the data.
        found: u64,
        /// The alignment.
        expected: u64,
    },
    /// Data that does not lie inside the file.
    #[error("{place}: tensor {} needs {expected} bytes at offset {start} of the data, which has {found} bytes: the file is truncated or damaged, fetch it again", text(.tensor))]
    OutOfFile {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// Offset from the start of the data.
        start: u64,
        /// Bytes of the tensor.
        expected: u64,
        /// Bytes of the data.
        found: u64,
    },
    /// Two tensors that share bytes.
    #[error("{}: the data of the tensors {} and {} overlap", path(.file), text(.tensor), text(.other))]
    Overlap {
        /// The file.
        file: PathBuf,
        /// The tensor that starts first.
        tensor: String,
        /// The one that starts before it ends.
        other: String,
    },
    /// A packed file of another layout than this program's.
    #[error("{}: packed in layout {found}, expected layout {expected}: pack the model again (rz pack)", path(.file))]
    PackedLayout {
        /// The file.
        file: PathBuf,
        /// Its layout.
        found: u32,
        /// The one that is known.
        expected: u32,
    },
    /// A packed file without its seal, or with one that does not fit it.
    #[error("{place}: {what}: the packed file is truncated or damaged, pack the model again (rz pack)")]
    Seal {
        /// Where.
        place: Place,
        /// What is wrong.
        what: &'static str,
    },
    /// A file of a set of shards that is not there.
    #[error("{}: shard {number} of {count} is missing: put all files of the model into one folder", path(.file))]
    MissingShard {
        /// The file that was looked for.
        file: PathBuf,
        /// Its number, from 1.
        number: u32,
        /// Files of the set.
        count: u32,
    },
    /// A shard that was renamed, so that the others cannot be found.
    #[error("{}: one of {count} shards, expected a name that ends in -00001-of-{count:05}.gguf (with its own number): restore the names of the set", path(.file))]
    ShardName {
        /// The file.
        file: PathBuf,
        /// Files of the set, as its metadata says.
        count: u64,
    },
    /// A shard that contradicts its name or its set.
    #[error("{}: {key} is {found}, expected {expected}: the shards do not belong together", path(.file))]
    ShardMismatch {
        /// The file.
        file: PathBuf,
        /// The key that says so.
        key: &'static str,
        /// What the file says.
        found: u64,
        /// What the names or the other shards say.
        expected: u64,
    },
    /// A header that cannot have the length that the file gives.
    #[error("{place}: the length of the header is {found}{}, expected at least 2 and at most the {limit} bytes that can follow: the file is damaged or no safetensors file", hint(.looks_like))]
    HeaderLength {
        /// Where.
        place: Place,
        /// The length.
        found: u64,
        /// The most that the file can hold, or that is accepted.
        limit: u64,
        /// What the file looks like instead, when that can be told.
        looks_like: Option<&'static str>,
    },
    /// JSON that is broken, or that is not what stands in such a place.
    #[error("{place}: malformed JSON: {}", cut(.what))]
    Json {
        /// Where.
        place: Place,
        /// What is wrong.
        what: String,
    },
    /// Arrays and objects inside each other, deeper than is accepted.
    #[error("{place}: JSON nested deeper than {limit}")]
    JsonDepth {
        /// Where.
        place: Place,
        /// The deepest that is accepted.
        limit: u32,
    },
    /// A file that is read into memory and larger than such a file may be.
    #[error("{}: the file has {found} bytes, expected at most {limit}", path(.file))]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its bytes.
        found: u64,
        /// The most that are accepted.
        limit: u64,
    },
    /// A tensor type that does not exist in safetensors files.
    #[error("{place}: tensor {} has the unknown dtype {}", text(.tensor), text(.found))]
    UnknownDtype {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// The name of the type.
        found: String,
    },
    /// A tensor type that the file to write cannot have.
    #[error("{place}: tensor {} has the type {found}, which {container} does not have", text(.tensor))]
    ForeignType {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// The name of the type.
        found: &'static str,
        /// The kind of file.
        container: &'static str,
    },
    /// A tensor whose data ends before it starts.
    #[error("{place}: tensor {} has the data offsets [{begin}, {end}], expected the second not to be smaller", text(.tensor))]
    DataOffsets {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// Where its data starts.
        begin: u64,
        /// Where it ends.
        end: u64,
    },
    /// A tensor whose data is not as long as its shape and type want it.
    #[error("{place}: tensor {} has {found} bytes of data, expected {expected} for {dtype} of the shape {shape:?}", text(.tensor))]
    DataSize {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// The name of its type.
        dtype: &'static str,
        /// Its shape, as the file has it.
        shape: Vec<u64>,
        /// Bytes of its data.
        found: u64,
        /// Bytes of the shape and type.
        expected: u64,
    },
    /// Data that no tensor has, in a file that may have none.
    #[error("{place}: {found} bytes of the data belong to no tensor: the file is damaged, fetch it again")]
    Unclaimed {
        /// Where they start.
        place: Place,
        /// How many they are.
        found: u64,
    },
    /// A tensor of a name that means something else.
    #[error("{place}: a tensor cannot have the name {}", text(.tensor))]
    ReservedName {
        /// Where.
        place: Place,
        /// The name.
        tensor: String,
    },
    /// An index that names something else than a file beside it.
    #[error("{place}: tensor {} is in {}, expected the name of a file in the same folder", text(.tensor), text(.found))]
    ShardPath {
        /// Where.
        place: Place,
        /// The tensor.
        tensor: String,
        /// What stands for the file.
        found: String,
    },
    /// An index that does not agree with its files.
    #[error("{}: tensor {} {}: the files do not belong together", path(.file), text(.tensor), whereabouts(.listed, .found))]
    IndexMismatch {
        /// The index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file in which the index lists the tensor, if it does.
        listed: Option<String>,
        /// The file that has the tensor, if one does.
        found: Option<String>,
    },
    /// A folder that is no model.
    #[error("{}: the folder has no {expected}{}: name a folder with all files of the model", path(.folder), hint(.found))]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// What it must have.
        expected: &'static str,
        /// What it has instead, when that can be told.
        found: Option<&'static str>,
    },
    /// Data handed to a writer whose length is not that of its shape and type.
    #[error("{}: tensor {} was given {found} bytes, expected {expected} for its shape and type", path(.file), text(.tensor))]
    DataLength {
        /// The file to write.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes that were given.
        found: u64,
        /// Bytes of the shape and type.
        expected: u64,
    },
}
