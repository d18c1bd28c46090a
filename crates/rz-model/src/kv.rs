//! Storage of keys and values: blocks of positions. Which block holds what is the caller's
//! business.
//!
//! A group of layers has one region of memory. A block of it holds its positions for all
//! layers of the group, layer by layer and head by head: so a block is copied and saved as
//! one piece, and memory is touched in the order in which a sequence grows.

use rz_kernels::{Arena, KV_BLOCK, KvFormat, KvView, MAX_HEAD, Runtime, Team, write_head};

use crate::spec::AttentionSpec;
use crate::{Batch, KvGroup, ModelError, ModelSpec, NO_BLOCK};

/// The type that keys and values are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half precision.
    #[default]
    F16,
    /// Single precision.
    F32,
    /// Bytes with a scale for each 32 components, as the type of tensors of that name. For
    /// heads whose size is a multiple of 32.
    Q8_0,
}

/// Evaluates an expression for the format that a [`KvType`] stands for, which it names `F`.
macro_rules! with_format {
    ($kv_type:expr, $F:ident => $body:expr) => {
        match $kv_type {
            $crate::KvType::F16 => {
                type $F = half::f16;
                $body
            }
            $crate::KvType::F32 => {
                type $F = f32;
                $body
            }
            $crate::KvType::Q8_0 => {
                type $F = rz_kernels::Q8_0;
                $body
            }
        }
    };
}
pub(crate) use with_format;

impl KvType {
    /// Every type, by the name that users give.
    pub const ALL: &'static [(&'static str, KvType)] =
        &[("f16", KvType::F16), ("f32", KvType::F32), ("q8_0", KvType::Q8_0)];

    /// The name that users give.
    pub fn name(self) -> &'static str {
        KvType::ALL.iter().find(|(_, kv_type)| *kv_type == self).map_or("", |(name, _)| name)
    }

    /// Bytes that so many elements take, where they fill whole vectors.
    pub const fn bytes(self, elements: usize) -> usize {
        match self {
            KvType::F16 => elements.saturating_mul(2),
            KvType::F32 => elements.saturating_mul(4),
            KvType::Q8_0 => elements.div_ceil(32).saturating_mul(34),
        }
    }

    /// Bytes of one head of a layer in a block.
    pub(crate) fn head_bytes(self, spec: &AttentionSpec) -> usize {
        with_format!(self, F => F::key_bytes(spec.key_size) + F::value_bytes(spec.value_size))
    }

    /// Whether it can store what the layers have.
    pub(crate) fn check(self, spec: &ModelSpec) -> Result<(), ModelError> {
        let multiple = with_format!(self, F => F::MULTIPLE);
        for (layer, spec) in spec.layers.iter().enumerate() {
            for size in [spec.attention.key_size, spec.attention.value_size] {
                if !size.is_multiple_of(multiple) {
                    let kv_type = self.name();
                    return Err(ModelError::KvType { kv_type, multiple, layer, size });
                }
            }
        }
        Ok(())
    }
}

pub(crate) struct KvStorage {
    kv_type: KvType,
    groups: Vec<KvGroup>,
    /// Of each group.
    blocks: Vec<Arena>,
    layers: Vec<LayerKv>,
}

/// Where a layer's keys and values lie.
struct LayerKv {
    group: usize,
    /// Bytes from the start of a block.
    offset: usize,
    heads: usize,
    head_bytes: usize,
    key_size: usize,
    value_size: usize,
    score_cap: Option<f32>,
}

/// One layer's storage.
pub(crate) struct LayerView<'a> {
    layer: &'a LayerKv,
    blocks: &'a [u8],
    stride: usize,
    groups: usize,
}

impl KvStorage {
    /// Reserves the blocks of the groups, which are those of `spec`. Memory is taken when they
    /// are written.
    pub(crate) fn new(
        spec: &ModelSpec,
        kv_type: KvType,
        groups: Vec<KvGroup>,
    ) -> Result<KvStorage, ModelError> {
        kv_type.check(spec)?;
        let reserve = |group: &KvGroup| {
            // More blocks than ids cannot be named, and no memory holds them.
            let nameable = (group.blocks <= NO_BLOCK as usize).then_some(group.blocks);
            let bytes = nameable.and_then(|blocks| blocks.checked_mul(group.block_bytes));
            let purpose = "the keys and values: choose a smaller context";
            let memory = |cause| ModelError::Memory { bytes: bytes.unwrap_or(usize::MAX), purpose, cause };
            let bytes = bytes.ok_or_else(|| memory(std::io::ErrorKind::OutOfMemory.into()))?;
            Arena::sparse(bytes).map_err(memory)
        };
        let blocks = groups.iter().map(reserve).collect::<Result<_, _>>()?;
        let mut filled = vec![0; groups.len()];
        let layer = |spec: &AttentionSpec| {
            let group = groups.iter().position(|group| group.window == spec.window);
            let group = group.expect("a group for each window");
            let (offset, head_bytes) = (filled[group], kv_type.head_bytes(spec));
            filled[group] += spec.kv_heads * head_bytes;
            let AttentionSpec { kv_heads: heads, key_size, value_size, score_cap, .. } = *spec;
            LayerKv { group, offset, heads, head_bytes, key_size, value_size, score_cap }
        };
        let layers = spec.layers.iter().map(|layer| &layer.attention).map(layer).collect();
        Ok(KvStorage { kv_type, groups, blocks, layers })
    }

    pub(crate) fn groups(&self) -> &[KvGroup] {
        &self.groups
    }

    pub(crate) fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// See [`Forward::copy_block`](crate::Forward::copy_block).
    pub(crate) fn copy_block(&mut self, group: usize, from: u32, to: u32) {
        let (from, to) = (self.place(group, from), self.place(group, to));
        self.blocks[group].copy_within(from, to.start);
    }

    /// See [`Forward::read_block`](crate::Forward::read_block).
    pub(crate) fn read_block(&self, group: usize, block: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.blocks[group][self.place(group, block)]);
    }

    /// See [`Forward::write_block`](crate::Forward::write_block).
    pub(crate) fn write_block(&mut self, group: usize, block: u32, bytes: &[u8]) -> Result<(), ModelError> {
        let place = self.place(group, block);
        if bytes.len() != place.len() {
            return Err(ModelError::KvBlock { found: bytes.len(), expected: place.len() });
        }
        self.blocks[group][place].copy_from_slice(bytes);
        Ok(())
    }

    fn place(&self, group: usize, block: u32) -> std::ops::Range<usize> {
        let KvGroup { blocks, block_bytes, .. } = self.groups[group];
        assert!((block as usize) < blocks, "block {block} of {blocks} of group {group}");
        block as usize * block_bytes..(block as usize + 1) * block_bytes
    }

    /// Writes the keys and values of a batch, rows of all KV heads, to a layer's blocks.
    /// `place(token, key)` finishes the key of one head before.
    pub(crate) fn write(
        &mut self,
        runtime: &Runtime,
        team: &Team<'_>,
        layer: usize,
        batch: &Batch<'_>,
        [keys, values]: [&[f32]; 2],
        place: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let groups = self.groups.len();
        let layer = &self.layers[layer];
        let LayerKv { heads, head_bytes, key_size, value_size, .. } = *layer;
        let KvGroup { blocks, block_bytes, .. } = self.groups[layer.group];
        let write: fn(_, &mut [u8], usize, &[f32], &[f32]) = with_format!(self.kv_type, F => write_head::<F>);
        let row_of =
            |token: usize| layer.table(groups, token, batch)[position(batch, token) / KV_BLOCK] as usize;
        let task = |token: usize, block: &mut [u8]| {
            let slot = position(batch, token) % KV_BLOCK;
            let parts = block[layer.offset..][..heads * head_bytes].chunks_exact_mut(head_bytes);
            let keys = keys[token * heads * key_size..].chunks_exact(key_size);
            let values = values[token * heads * value_size..].chunks_exact(value_size);
            for ((part, from), value) in parts.zip(keys).zip(values) {
                let mut key = [0.0; MAX_HEAD];
                let key = &mut key[..key_size];
                key.copy_from_slice(from);
                place(token, key);
                write(runtime.kernels, part, slot, key, value);
            }
        };
        let storage = &mut self.blocks[layer.group][..blocks * block_bytes];
        // A few tokens are not worth waking anybody for.
        const FEW: usize = 4;
        let tokens = batch.tokens.len();
        if tokens > FEW {
            team.scatter(storage, block_bytes, tokens, row_of, task);
            return;
        }
        for token in 0..tokens {
            task(token, &mut storage[row_of(token) * block_bytes..][..block_bytes]);
        }
    }

    /// A layer's storage.
    pub(crate) fn layer(&self, layer: usize) -> LayerView<'_> {
        let layer = &self.layers[layer];
        LayerView {
            layer,
            blocks: &self.blocks[layer.group],
            stride: self.groups[layer.group].block_bytes,
            groups: self.groups.len(),
        }
    }
}

impl LayerKv {
    fn table<'a>(&self, groups: usize, token: usize, batch: &Batch<'a>) -> &'a [u32] {
        batch.tables[batch.sequences[token] as usize * groups + self.group]
    }
}

fn position(batch: &Batch<'_>, token: usize) -> usize {
    batch.positions[token] as usize
}

impl<'a> LayerView<'a> {
    /// The blocks of one head that the tables of a token's sequence name.
    pub(crate) fn head(&self, head: usize, token: usize, batch: &Batch<'a>) -> KvView<'a> {
        let LayerKv { offset, head_bytes, key_size, value_size, score_cap, .. } = *self.layer;
        KvView {
            blocks: self.blocks,
            stride: self.stride,
            offset: offset + head * head_bytes,
            table: self.layer.table(self.groups, token, batch),
            key_size,
            value_size,
            score_cap,
        }
    }
}
