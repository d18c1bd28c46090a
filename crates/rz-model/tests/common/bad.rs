//! Files that are valid containers and no models that can be run, each with what must be
//! said of it.

use rz_formats::{FormatError, Gguf, GgufWriter, Metadata, TensorType, Value};
use rz_model::ModelError;
use rz_quant::DType;
use rz_testkit::gguf::{TinyLlama, TinyTensor};

/// A file and why it must be refused.
pub(crate) struct Bad {
    pub(crate) what: String,
    pub(crate) gguf: Gguf,
    pub(crate) expected: Expected,
}

/// A kind of error, and the key or tensor that it must name.
#[derive(Debug)]
pub(crate) enum Expected {
    MissingKey(String),
    WrongType(String),
    Value(String),
    Ignored(String),
    MissingTensor(String),
    Unexpected(String),
    Shape(String),
    Type(String, &'static str),
    Architecture,
}

impl Expected {
    pub(crate) fn matches(&self, error: &ModelError) -> bool {
        match (self, error) {
            (Expected::MissingKey(name), ModelError::Format(FormatError::MissingKey { key, .. }))
            | (Expected::WrongType(name), ModelError::Format(FormatError::WrongType { key, .. }))
            | (Expected::Value(name), ModelError::Value { key, .. })
            | (Expected::Ignored(name), ModelError::Ignored { key, .. })
            | (Expected::MissingTensor(name), ModelError::MissingTensor { tensor: key, .. })
            | (Expected::Unexpected(name), ModelError::UnexpectedTensor { tensor: key, .. })
            | (Expected::Shape(name), ModelError::TensorShape { tensor: key, .. }) => name == key,
            (Expected::Type(name, kind), ModelError::TensorType { tensor, found, .. }) => {
                name == tensor && kind == found
            }
            (Expected::Architecture, ModelError::Architecture { .. }) => true,
            _ => false,
        }
    }

    /// What a message must name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Expected::MissingKey(name)
            | Expected::WrongType(name)
            | Expected::Value(name)
            | Expected::Ignored(name)
            | Expected::MissingTensor(name)
            | Expected::Unexpected(name)
            | Expected::Shape(name)
            | Expected::Type(name, _) => name,
            Expected::Architecture => "architecture",
        }
    }
}

/// The name of every file here.
pub(crate) const FILE: &str = "folder/tiny.gguf";

/// A model that is right, with two layers, rope factors and an untied output.
pub(crate) fn good() -> TinyLlama {
    let small = TinyLlama { vocab: 40, tokenizer: false, ..TinyLlama::default() };
    TinyLlama { rope_factors: true, tied: false, ..small }
}

/// The files.
pub(crate) fn files() -> Vec<Bad> {
    let mut list = List::default();
    hyper_parameters(&mut list);
    keys_that_change_results(&mut list);
    tensors(&mut list);
    types(&mut list);
    list.0
}

fn hyper_parameters(list: &mut List) {
    let key = |name: &str| format!("llama.{name}");
    for name in [
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "context_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ] {
        list.keys(format!("no {name}"), Expected::MissingKey(key(name)), |meta| {
            meta.remove(&key(name));
        });
        list.set(name, "two", Expected::WrongType(key(name)));
    }
    list.keys("no architecture", Expected::MissingKey("general.architecture".into()), |meta| {
        meta.remove("general.architecture");
    });
    for name in ["", "Llama", "llama4", "ll\nama\u{1b}[31m", &"x".repeat(100_000)] {
        let what = format!("architecture {:.20}", name.escape_debug());
        list.keys(what, Expected::Architecture, |meta| {
            meta.insert("general.architecture", name);
        });
    }

    let whole: &[(&str, &[u32])] = &[
        ("embedding_length", &[0, (1 << 20) + 1, 1 << 31, u32::MAX]),
        ("block_count", &[0, 100, 1 << 31, u32::MAX]),
        ("feed_forward_length", &[0, (1 << 24) + 1, 1 << 31, u32::MAX]),
        ("context_length", &[0, (1 << 30) + 1, u32::MAX]),
        ("attention.head_count", &[0, 1 << 17, u32::MAX]),
        ("attention.head_count_kv", &[0, 3, 8, 1 << 17, u32::MAX]),
        ("attention.key_length", &[0, 1, 15, 513, 514, 1 << 31, u32::MAX]),
        ("attention.value_length", &[0, 513, 514, 1 << 31, u32::MAX]),
        ("attention.sliding_window", &[(1 << 30) + 1, u32::MAX]),
        ("rope.dimension_count", &[0, 3, 18, 1 << 31, u32::MAX]),
    ];
    for (name, values) in whole {
        for &value in *values {
            list.set(name, value, Expected::Value(key(name)));
        }
        list.set(name, u64::MAX, Expected::Value(key(name)));
        list.set(name, -2i32, Expected::WrongType(key(name)));
        list.set(name, 2.5f32, Expected::WrongType(key(name)));
        list.set(name, vec![2u32, 2], Expected::WrongType(key(name)));
    }
    // More layers than the tensors are for, but not more than there are tensors.
    list.set("block_count", 3u32, Expected::MissingTensor("blk.2.attn_norm.weight".into()));
    list.keys("5 heads in a width of 64", Expected::Value(key("attention.head_count")), |meta| {
        meta.insert(key("attention.head_count"), 5u32);
        meta.insert(key("attention.head_count_kv"), 1u32);
        meta.remove(&key("attention.key_length"));
        meta.remove(&key("attention.value_length"));
    });

    let real: &[(&str, &[f32])] = &[
        ("attention.layer_norm_rms_epsilon", &[0.0, -0.0, -1e-5, f32::NAN, f32::INFINITY]),
        ("rope.freq_base", &[-1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ("rope.scaling.factor", &[-2.0, f32::NAN, f32::INFINITY]),
    ];
    for (name, values) in real {
        for &value in *values {
            list.set(name, value, Expected::Value(key(name)));
        }
        list.set(name, "1", Expected::WrongType(key(name)));
    }
    for kind in ["yarn", "longrope", "li\nnear", &"x".repeat(100_000)] {
        list.keys(format!("scaling {kind:.9}"), Expected::Value(key("rope.scaling.type")), |meta| {
            meta.insert(key("rope.scaling.factor"), 4f32);
            meta.insert(key("rope.scaling.type"), kind);
        });
    }
}

/// What other models have, and what would give wrong output if it were passed over.
fn keys_that_change_results(list: &mut List) {
    let keys: Vec<(&str, Value)> = vec![
        ("attention.alibi_bias_max", 8f32.into()),
        ("attention.causal", false.into()),
        ("attention.clamp_kqv", 8f32.into()),
        ("attention.key_length_mla", 192u32.into()),
        ("attention.kv_lora_rank", 512u32.into()),
        ("attention.max_alibi_bias", 8f32.into()),
        ("attention.output_scale", 0.5f32.into()),
        ("attention.q_lora_rank", 1536u32.into()),
        ("attention.scale", 0.125f32.into()),
        ("attention.temperature_length", 8192u32.into()),
        ("attention.temperature_scale", 0.1f32.into()),
        ("attention.value_scale", 2f32.into()),
        ("embedding_scale", 12f32.into()),
        ("embedding_scale", f32::NAN.into()),
        ("expert_count", 8u32.into()),
        ("expert_count", vec![0u32, 8].into()),
        ("interleave_moe_layer_step", 2u32.into()),
        ("logit_scale", 0.25f32.into()),
        ("residual_scale", 0.22f32.into()),
        ("residual_scale", "0.22\n".into()),
        ("rope.scaling.attn_factor", 1.2f32.into()),
        ("rope.scaling.yarn_log_multiplier", 0.1f32.into()),
        ("ssm.state_size", 128u32.into()),
        ("swin_norm", true.into()),
        ("use_parallel_residual", true.into()),
    ];
    for (name, value) in keys {
        list.set(name, value, Expected::Ignored(format!("llama.{name}")));
    }
}

fn tensors(list: &mut List) {
    let model = good();
    for tensor in model.tensors() {
        let name = &tensor.name;
        // These two may be absent.
        if name != "output.weight" && name != "rope_freqs.weight" {
            list.tensors(format!("no {name}"), Expected::MissingTensor(name.clone()), |tensors| {
                tensors.retain(|tensor| tensor.name != *name);
            });
        }
        let mut shapes = vec![grown(&tensor.shape, 0), grown(&tensor.shape, tensor.shape.len())];
        // The embedding itself says how many rows it has.
        if tensor.shape.len() == 2 && name != "token_embd.weight" {
            shapes.push(grown(&tensor.shape, 1));
            let mut turned = tensor.shape.clone();
            turned.reverse();
            shapes.extend((turned != tensor.shape).then_some(turned));
        }
        for shape in shapes {
            list.tensors(format!("{name} of {shape:?}"), Expected::Shape(name.clone()), |tensors| {
                let tensor = tensors.iter_mut().find(|tensor| tensor.name == *name).expect("it is there");
                tensor.values.resize(shape.iter().product::<u64>() as usize, 0.0);
                tensor.shape = shape.clone();
            });
        }
    }
    list.set("embedding_length", 128u32, Expected::Shape("token_embd.weight".into()));
    list.set("feed_forward_length", 1u32 << 24, Expected::Shape("blk.0.ffn_gate.weight".into()));
    list.set("attention.head_count", 1u32 << 16, Expected::Shape("blk.0.attn_q.weight".into()));
    list.set("attention.key_length", 512u32, Expected::Shape("blk.0.attn_q.weight".into()));
    list.set("attention.value_length", 512u32, Expected::Shape("blk.0.attn_v.weight".into()));
    list.set("rope.dimension_count", 8u32, Expected::Shape("rope_freqs.weight".into()));
    let bias = "blk.0.attn_q.bias";
    list.tensors("a bias of the wrong length", Expected::Shape(bias.into()), |tensors| {
        let (name, shape, values) = (bias.to_owned(), vec![63], vec![0.0; 63]);
        tensors.push(TinyTensor { name, shape, dtype: DType::F32, values });
    });
    // In a later layer only, beside matrices of which none or only others have one, of a norm without.
    for (name, len) in [
        ("blk.1.attn_q.bias", 64),
        ("blk.1.ffn_up.bias", 64),
        ("blk.0.ffn_down.bias", 64),
        ("blk.1.attn_norm.bias", 64),
        ("output_norm.bias", 64),
    ] {
        list.tensors(format!("only {name}"), Expected::Unexpected(name.into()), |tensors| {
            let (name, shape, values) = (name.to_owned(), vec![len], vec![0.0; len as usize]);
            tensors.push(TinyTensor { name, shape, dtype: DType::F32, values });
        });
    }
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let what = format!("a rope factor of {factor}");
        list.tensors(what, Expected::Value("rope_freqs.weight".into()), |tensors| {
            let factors = tensors.iter_mut().find(|tensor| tensor.name == "rope_freqs.weight");
            factors.expect("it is there").values[3] = factor;
        });
    }
}

/// Types that files may have and no matrix here is computed with.
fn types(list: &mut List) {
    let model = TinyLlama { dim: 256, head_size: 64, feed_forward: 256, rope_factors: false, ..good() };
    for (name, kind) in [
        ("token_embd.weight", "IQ2_XXS"),
        ("blk.1.ffn_down.weight", "IQ2_XXS"),
        ("output.weight", "TQ1_0"),
        ("blk.0.attn_k.weight", "I32"),
        ("blk.0.attn_norm.weight", "F64"),
    ] {
        let known = TensorType::all().find(|known| known.name() == kind).expect("a known type");
        let mut writer = GgufWriter::new(model.metadata());
        for tensor in model.tensors() {
            let mut bytes = Vec::new();
            let mut stored = tensor.dtype.into();
            if tensor.name == name {
                stored = known;
                let elements = tensor.shape.iter().product();
                bytes.resize(known.row_bytes(elements).expect("whole blocks") as usize, 0);
            } else {
                tensor.dtype.encode(&tensor.values, &mut bytes);
            }
            writer.tensor(&tensor.name, &tensor.shape, stored, bytes).expect("a valid tensor");
        }
        list.add(format!("{name} of {kind}"), Expected::Type(name.into(), kind), &writer);
    }
}

fn grown(shape: &[u64], dimension: usize) -> Vec<u64> {
    let mut shape = shape.to_vec();
    match shape.get_mut(dimension) {
        Some(size) => *size += 16,
        None => shape.push(2),
    }
    shape
}

#[derive(Default)]
struct List(Vec<Bad>);

impl List {
    /// The good model with one key of its family set.
    fn set(&mut self, name: &str, value: impl Into<Value>, expected: Expected) {
        let value = value.into();
        self.keys(format!("{name} = {value:?}"), expected, |meta| {
            meta.insert(format!("llama.{name}"), value);
        });
    }

    /// The good model with other keys.
    fn keys(&mut self, what: impl Into<String>, expected: Expected, change: impl FnOnce(&mut Metadata)) {
        let mut metadata = good().metadata();
        change(&mut metadata);
        self.file(what.into(), expected, metadata, &good().tensors());
    }

    /// The good model with other tensors.
    fn tensors(
        &mut self,
        what: impl Into<String>,
        expected: Expected,
        change: impl FnOnce(&mut Vec<TinyTensor>),
    ) {
        let mut tensors = good().tensors();
        change(&mut tensors);
        self.file(what.into(), expected, good().metadata(), &tensors);
    }

    fn file(&mut self, what: String, expected: Expected, metadata: Metadata, tensors: &[TinyTensor]) {
        let mut writer = GgufWriter::new(metadata);
        for tensor in tensors {
            let mut bytes = Vec::new();
            tensor.dtype.encode(&tensor.values, &mut bytes);
            writer.tensor(&tensor.name, &tensor.shape, tensor.dtype, bytes).expect("a valid tensor");
        }
        self.add(what, expected, &writer);
    }

    fn add(&mut self, what: String, expected: Expected, writer: &GgufWriter<'_>) {
        let bytes = writer.to_bytes().expect("a valid container");
        let gguf = Gguf::from_bytes(FILE, bytes).expect("a valid container");
        self.0.push(Bad { what, gguf, expected });
    }
}
