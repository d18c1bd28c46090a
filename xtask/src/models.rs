//! Models of the usual shapes with made-up weights, for measuring speed: what they say is nonsense, what they cost
//! is what the real ones cost. Written once, into `fixtures/cache/models` unless told otherwise.

mod random;
mod shape;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use rz_formats::{Gguf, GgufWriter, Metadata};
use rz_quant::DType;

use crate::workspace;
use random::normal;
use shape::{MIXES, Mix, SHAPES, Shape, Tensor};

/// Raised when the same name gets other contents: files of another version are written anew.
const VERSION: &str = "1";
const VERSION_KEY: &str = "general.version";

/// A model that can be made: a shape and how its tensors are stored.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    shape: &'static Shape,
    mix: &'static Mix,
}

impl Model {
    /// Every model.
    pub(crate) fn all() -> impl Iterator<Item = Model> {
        SHAPES.iter().flat_map(|shape| MIXES.iter().map(move |mix| Model { shape, mix }))
    }

    /// The model called `name`, such as `tinyllama-1.1b-Q4_K_M`; upper and lower case are the same.
    pub(crate) fn find(name: &str) -> Result<Model> {
        match Model::all().find(|model| model.name().eq_ignore_ascii_case(name)) {
            Some(model) => Ok(model),
            None => bail!(
                "there is no model '{name}' to make; there are: {}",
                Model::all().map(|model| model.name()).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// The name, which is also that of its file.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.shape.name, self.mix.name)
    }

    /// Where the model lies in `folder`.
    pub(crate) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.gguf", self.name()))
    }

    /// Makes the file be there.
    pub(crate) fn ensure(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = self.path(folder);
        if !self.is_there(&path) {
            let start = Instant::now();
            self.writer()?.write(&path)?;
            let bytes = fs::metadata(&path)?.len();
            eprintln!(
                "models: {}: {:.2} GB in {:.0} s",
                path.display(),
                bytes as f64 / 1e9,
                start.elapsed().as_secs_f64()
            );
        }
        Ok(path)
    }

    /// Whether the file is there and of this version. Files appear whole or not at all.
    fn is_there(&self, path: &Path) -> bool {
        path.exists()
            && Gguf::open(path).is_ok_and(|file| {
                let text = |key| file.metadata().require_str(key).ok();
                text("general.name") == Some(&*self.title()) && text(VERSION_KEY) == Some(VERSION)
            })
    }

    fn title(&self) -> String {
        format!("{}: the shape only, with random weights", self.name())
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = self.shape.metadata();
        metadata.insert("general.name", self.title());
        metadata.insert(VERSION_KEY, VERSION);
        metadata.insert("general.file_type", self.mix.file_type);
        metadata.insert("general.quantization_version", 2u32);
        for (key, value) in rz_testkit::gguf::spm_tokenizer(self.shape.vocabulary).iter() {
            metadata.insert(key, value.clone());
        }
        metadata
    }

    fn writer(&self) -> Result<GgufWriter<'static>> {
        let mut writer = GgufWriter::new(self.metadata());
        for tensor in self.shape.tensors() {
            let dtype = self.mix.dtype(&tensor, self.shape.layers);
            let (name, dims) = (tensor.name.clone(), tensor.dims());
            writer.tensor_from(name, &dims, dtype, move |out| write_tensor(&tensor, dtype, out))?;
        }
        Ok(writer)
    }
}

/// Writes the models of these names, or those that `cargo xtask bench` measures by default.
pub(crate) fn run(folder: Option<PathBuf>, names: &[String]) -> Result<()> {
    let folder = folder.unwrap_or_else(folder_of_models);
    let models: Vec<Model> = match names {
        [] => Model::all().filter(|model| model.mix.usual && model.shape.usual).collect(),
        names => names.iter().map(|name| Model::find(name)).collect::<Result<_>>()?,
    };
    for model in models {
        println!("{}", model.ensure(&folder)?.display());
    }
    Ok(())
}

/// Where the models lie unless told otherwise.
pub(crate) fn folder_of_models() -> PathBuf {
    workspace().join("fixtures/cache/models")
}

/// Writes a tensor a few rows at a time, each row from a seed of its own, on all cores.
fn write_tensor(tensor: &Tensor, dtype: DType, out: &mut dyn Write) -> io::Result<()> {
    const ROWS: u64 = 64;
    let Some(sigma) = tensor.sigma else {
        let mut ones = Vec::new();
        dtype.encode(&vec![1.0; tensor.columns as usize], &mut ones);
        return out.write_all(&ones);
    };
    let groups: Vec<u64> = (0..tensor.rows).step_by(ROWS as usize).collect();
    // As many at once as keep the cores busy; the model as a whole is never in memory.
    for groups in groups.chunks(4 * rayon::current_num_threads()) {
        let encode = |first: &u64| {
            let (mut row, mut bytes) = (vec![0.0; tensor.columns as usize], Vec::new());
            for index in *first..(first + ROWS).min(tensor.rows) {
                normal(&tensor.name, index, sigma, &mut row);
                dtype.encode(&row, &mut bytes);
            }
            bytes
        };
        let encoded: Vec<Vec<u8>> = groups.par_iter().map(encode).collect();
        encoded.iter().try_for_each(|bytes| out.write_all(bytes))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small shape with everything that the large ones have.
    const TINY: Shape = Shape {
        name: "tiny",
        family: "phi2",
        layers: 8,
        width: 256,
        feed_forward: 512,
        heads: 4,
        kv_heads: 4,
        rotary: 32,
        vocabulary: 300,
        context: 128,
        usual: false,
    };

    #[test]
    fn names_are_unique_and_found() {
        let names: Vec<String> = Model::all().map(|model| model.name()).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name));
            assert_eq!(Model::find(&name.to_lowercase()).unwrap().name(), *name);
        }
        assert!(Model::find("x").err().unwrap().to_string().contains("tinyllama-1.1b-Q4_0"));
    }

    #[test]
    fn a_file_is_whole_the_same_each_time_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        for mix in ["Q4_0", "Q4_K_M", "F16"] {
            let mix = MIXES.iter().find(|known| known.name == mix).unwrap();
            let model = Model { shape: &TINY, mix };
            let path = model.ensure(folder.path()).unwrap();
            let (bytes, written) =
                (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
            assert_eq!(bytes, model.writer().unwrap().to_bytes().unwrap());
            assert_eq!(model.ensure(folder.path()).unwrap(), path);
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written, "written once");
            let file = Gguf::open(&path).unwrap();
            assert_eq!(file.tensors().len(), TINY.tensors().len());

            fs::write(&path, b"something else").unwrap();
            model.ensure(folder.path()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes, "replaced");
        }
    }

    #[test]
    fn weights_are_normal_and_norms_one() {
        let model = Model { shape: &TINY, mix: &MIXES[0] };
        let file = Gguf::from_bytes("memory", model.writer().unwrap().to_bytes().unwrap()).unwrap();
        let values = |name: &str| {
            let tensor = file.tensor(name).unwrap();
            let mut values = vec![0.0; tensor.shape().iter().product::<u64>() as usize];
            tensor.tensor_type().dtype().unwrap().decode(tensor.bytes(), &mut values);
            values
        };
        assert!(values("blk.3.attn_norm.weight").iter().all(|&x| x == 1.0));
        let (up, other) = (values("blk.3.ffn_up.weight"), values("blk.4.ffn_up.weight"));
        let mean = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / up.len() as f64;
        let moment = |n| mean(&mut up.iter().map(|&x| f64::from(x).powi(n)));
        let sigma = moment(2).sqrt();
        assert!(moment(1).abs() < 4.0 * 0.02 / (up.len() as f64).sqrt());
        assert!((sigma / 0.02 - 1.0).abs() < 0.01, "{sigma}");
        assert!((moment(4) / sigma.powi(4) - 3.0).abs() < 0.2, "as flat as the bell curve");
        let shared = mean(&mut up.iter().zip(&other).map(|(&a, &b)| f64::from(a) * f64::from(b)));
        assert!(shared.abs() < 0.01 * sigma * sigma, "layers differ");
    }
}
