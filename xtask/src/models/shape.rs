//! What the models are made of: shapes, and which type each tensor is stored in.

use rz_formats::Metadata;
use rz_quant::DType;

/// The shape of a family's model.
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// `general.architecture`.
    pub(super) family: &'static str,
    pub(super) layers: u32,
    pub(super) width: u32,
    pub(super) feed_forward: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    /// Components of a head that turn.
    pub(super) rotary: u32,
    pub(super) vocabulary: u32,
    /// Longer than the original's, so that long contexts can be measured.
    pub(super) context: u32,
    /// Whether it is made when no name is given.
    pub(super) usual: bool,
}

pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "tinyllama-1.1b",
        family: "llama",
        layers: 22,
        width: 2048,
        feed_forward: 5632,
        heads: 32,
        kv_heads: 4,
        rotary: 64,
        vocabulary: 32000,
        context: 16384,
        usual: true,
    },
    Shape {
        name: "phi-2",
        family: "phi2",
        layers: 32,
        width: 2560,
        feed_forward: 10240,
        heads: 32,
        kv_heads: 32,
        rotary: 32,
        vocabulary: 51200,
        context: 16384,
        usual: false,
    },
];

/// Which type each tensor is stored in.
pub(super) struct Mix {
    pub(super) name: &'static str,
    /// `general.file_type`.
    pub(super) file_type: u32,
    /// Most matrices.
    base: DType,
    /// The output matrix.
    output: DType,
    /// Every `attn_v`, `attn_qkv` and `ffn_down` of the layers that get more bits.
    more: DType,
    /// Whether it is made when no name is given.
    pub(super) usual: bool,
}

const fn mix(name: &'static str, file_type: u32, [base, output, more]: [DType; 3], usual: bool) -> Mix {
    Mix { name, file_type, base, output, more, usual }
}

/// The names and mixtures under which such files are handed around: as llama.cpp's quantizer makes them.
pub(super) const MIXES: &[Mix] = &[
    mix("F16", 1, [DType::F16; 3], true),
    mix("BF16", 32, [DType::BF16; 3], false),
    mix("Q4_0", 2, [DType::Q4_0, DType::Q6_K, DType::Q4_0], true),
    mix("Q4_1", 3, [DType::Q4_1, DType::Q6_K, DType::Q4_1], false),
    mix("Q5_0", 8, [DType::Q5_0, DType::Q6_K, DType::Q5_0], false),
    mix("Q5_1", 9, [DType::Q5_1, DType::Q6_K, DType::Q5_1], false),
    mix("Q8_0", 7, [DType::Q8_0; 3], true),
    mix("Q4_K_M", 15, [DType::Q4_K, DType::Q6_K, DType::Q6_K], true),
    mix("Q5_K_M", 17, [DType::Q5_K, DType::Q6_K, DType::Q6_K], true),
    mix("Q6_K", 18, [DType::Q6_K; 3], true),
];

impl Mix {
    /// The type of a tensor of a model of so many layers.
    pub(super) fn dtype(&self, tensor: &Tensor, layers: u32) -> DType {
        match tensor.kind {
            Kind::Vector => DType::F32,
            Kind::Output => self.output,
            Kind::Sensitive(layer) if has_more_bits(layer, layers) => self.more,
            Kind::Sensitive(_) | Kind::Matrix => self.base,
        }
    }
}

/// The first and the last eighth of the layers, and every third between.
fn has_more_bits(layer: u32, layers: u32) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// A tensor to be made.
#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) columns: u64,
    pub(super) rows: u64,
    /// How far its elements are spread around 0; of those without it all are 1.
    pub(super) sigma: Option<f32>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A norm or a bias.
    Vector,
    Matrix,
    Output,
    /// A matrix that gets more bits in some layers, such as this one.
    Sensitive(u32),
}

impl Tensor {
    /// The dimensions, the contiguous one first.
    pub(super) fn dims(&self) -> Vec<u64> {
        match self.kind {
            Kind::Vector => vec![self.columns],
            _ => vec![self.columns, self.rows],
        }
    }
}

impl Shape {
    /// The keys of the model, without those of its tokenizer.
    pub(super) fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        let family = self.family;
        metadata.insert("general.architecture", family);
        for (key, value) in [
            ("context_length", self.context),
            ("embedding_length", self.width),
            ("block_count", self.layers),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("rope.dimension_count", self.rotary),
            ("vocab_size", self.vocabulary),
        ] {
            metadata.insert(format!("{family}.{key}"), value);
        }
        let epsilon =
            if self.is_phi() { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
        metadata.insert(format!("{family}.{epsilon}"), 1e-5f32);
        metadata.insert(format!("{family}.rope.freq_base"), 10_000f32);
        metadata
    }

    /// Layer norms and biases everywhere, Q, K and V in one matrix, no gate.
    fn is_phi(&self) -> bool {
        self.family == "phi2"
    }

    /// The tensors in the order in which the file has them: as they are read.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let (width, ff) = (self.width.into(), self.feed_forward.into());
        let kv = u64::from(self.width / self.heads * self.kv_heads);
        let vocabulary = self.vocabulary.into();
        let mut list = List { tensors: Vec::new(), biases: self.is_phi() };
        list.matrix("token_embd", width, vocabulary, Kind::Matrix, false);
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let sensitive = Kind::Sensitive(layer);
            list.norm(&name("attn_norm"), width);
            if self.is_phi() {
                list.matrix(&name("attn_qkv"), width, width + 2 * kv, sensitive, true);
            } else {
                list.matrix(&name("attn_q"), width, width, Kind::Matrix, true);
                list.matrix(&name("attn_k"), width, kv, Kind::Matrix, true);
                list.matrix(&name("attn_v"), width, kv, sensitive, true);
            }
            list.matrix(&name("attn_output"), width, width, Kind::Matrix, true);
            if !self.is_phi() {
                list.norm(&name("ffn_norm"), width);
                list.matrix(&name("ffn_gate"), width, ff, Kind::Matrix, true);
            }
            list.matrix(&name("ffn_up"), width, ff, Kind::Matrix, true);
            list.matrix(&name("ffn_down"), ff, width, sensitive, true);
        }
        list.norm("output_norm", width);
        list.matrix("output", width, vocabulary, Kind::Output, true);
        list.tensors
    }
}

struct List {
    tensors: Vec<Tensor>,
    biases: bool,
}

impl List {
    const SIGMA: Option<f32> = Some(0.02);

    fn matrix(&mut self, name: &str, columns: u64, rows: u64, kind: Kind, bias: bool) {
        let name_of = |part: &str| format!("{name}.{part}");
        self.tensors.push(Tensor { name: name_of("weight"), columns, rows, sigma: Self::SIGMA, kind });
        if bias {
            self.bias(name_of("bias"), rows, Self::SIGMA);
        }
    }

    fn norm(&mut self, name: &str, width: u64) {
        let weight = format!("{name}.weight");
        self.tensors.push(Tensor { name: weight, columns: width, rows: 1, sigma: None, kind: Kind::Vector });
        self.bias(format!("{name}.bias"), width, Self::SIGMA);
    }

    fn bias(&mut self, name: String, columns: u64, sigma: Option<f32>) {
        if self.biases {
            self.tensors.push(Tensor { name, columns, rows: 1, sigma, kind: Kind::Vector });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(name: &str) -> u64 {
        let shape = SHAPES.iter().find(|shape| shape.name == name).unwrap();
        shape.tensors().iter().map(|tensor| tensor.columns * tensor.rows).sum()
    }

    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        assert_eq!(parameters("tinyllama-1.1b"), 1_100_048_384);
        assert_eq!(parameters("phi-2"), 2_779_683_840);
    }

    #[test]
    fn half_of_the_layers_have_more_bits() {
        // As llama.cpp's Q4_K_M of TinyLlama has it.
        let layers: Vec<u32> = (0..22).filter(|&layer| has_more_bits(layer, 22)).collect();
        assert_eq!(layers, [0, 1, 4, 7, 10, 13, 16, 19, 20, 21]);
    }
}
