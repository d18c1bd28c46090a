//! Storage of keys and values: blocks of positions, one region of memory for the keys
//! and one for the values of each layer. Which block holds what is the caller's business.

use std::ops::Range;

use half::f16;
use rz_kernels::{Arena, KV_BLOCK, KvElement, KvView, LANES, Team, key_block, value_block};

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
}

impl KvType {
    /// Every type, by the name that users give.
    pub const ALL: &'static [(&'static str, KvType)] = &[("f16", KvType::F16), ("f32", KvType::F32)];

    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

pub(crate) struct KvStorage {
    kv_type: KvType,
    groups: Vec<KvGroup>,
    layers: Vec<LayerKv>,
}

struct LayerKv {
    keys: Arena,
    values: Arena,
    heads: usize,
    key_size: usize,
    value_size: usize,
    group: usize,
}

/// One layer's storage, typed.
pub(crate) struct LayerView<'a, E> {
    keys: &'a [E],
    values: &'a [E],
    heads: usize,
    key_size: usize,
    value_size: usize,
    group: usize,
    groups: usize,
    score_cap: Option<f32>,
}

impl KvStorage {
    /// Reserves the blocks of the groups, which are those of `spec`. Memory is taken when they
    /// are written.
    pub(crate) fn new(
        spec: &ModelSpec,
        kv_type: KvType,
        groups: Vec<KvGroup>,
    ) -> Result<KvStorage, ModelError> {
        let reserve = |elements: usize, blocks: usize| {
            // More blocks than ids cannot be named, and no memory holds them.
            let nameable = (blocks <= NO_BLOCK as usize).then_some(blocks);
            let bytes =
                nameable.and_then(|n| n.checked_mul(elements)).and_then(|n| n.checked_mul(kv_type.bytes()));
            let purpose = "the keys and values: choose a smaller context";
            let memory = |cause| ModelError::Memory { bytes: bytes.unwrap_or(usize::MAX), purpose, cause };
            let bytes = bytes.ok_or_else(|| memory(std::io::ErrorKind::OutOfMemory.into()))?;
            Arena::sparse(bytes).map_err(memory)
        };
        let layers = spec
            .layers
            .iter()
            .map(|layer| {
                let AttentionSpec { kv_heads, key_size, value_size, window, .. } = layer.attention;
                let group = groups.iter().position(|group| group.window == window);
                let group = group.expect("a group for each window");
                Ok(LayerKv {
                    keys: reserve(kv_heads * key_block(key_size), groups[group].blocks)?,
                    values: reserve(kv_heads * value_block(value_size), groups[group].blocks)?,
                    heads: kv_heads,
                    key_size,
                    value_size,
                    group,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(KvStorage { kv_type, groups, layers })
    }

    pub(crate) fn groups(&self) -> &[KvGroup] {
        &self.groups
    }

    pub(crate) fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// See [`Forward::copy_block`](crate::Forward::copy_block).
    pub(crate) fn copy_block(&mut self, group: usize, from: u32, to: u32) {
        let kv_type = self.kv_type;
        for layer in self.layers_of(group, [from, to]) {
            let [keys, values] = layer.places(kv_type, from);
            let [to_keys, to_values] = layer.places(kv_type, to);
            layer.keys.copy_within(keys, to_keys.start);
            layer.values.copy_within(values, to_values.start);
        }
    }

    /// See [`Forward::read_block`](crate::Forward::read_block).
    pub(crate) fn read_block(&self, group: usize, block: u32, bytes: &mut Vec<u8>) {
        assert!((block as usize) < self.groups[group].blocks, "block {block} of group {group}");
        for layer in self.layers.iter().filter(|layer| layer.group == group) {
            let [keys, values] = layer.places(self.kv_type, block);
            bytes.extend_from_slice(&layer.keys[keys]);
            bytes.extend_from_slice(&layer.values[values]);
        }
    }

    /// See [`Forward::write_block`](crate::Forward::write_block).
    pub(crate) fn write_block(&mut self, group: usize, block: u32, bytes: &[u8]) -> Result<(), ModelError> {
        let (kv_type, expected) = (self.kv_type, self.groups[group].block_bytes);
        if bytes.len() != expected {
            return Err(ModelError::KvBlock { found: bytes.len(), expected });
        }
        let mut rest = bytes;
        for layer in self.layers_of(group, [block; 2]) {
            let [keys, values] = layer.places(kv_type, block);
            let (now, after) = rest.split_at(keys.len());
            layer.keys[keys].copy_from_slice(now);
            let (now, after) = after.split_at(values.len());
            layer.values[values].copy_from_slice(now);
            rest = after;
        }
        Ok(())
    }

    fn layers_of(&mut self, group: usize, blocks: [u32; 2]) -> impl Iterator<Item = &mut LayerKv> {
        let known = blocks.into_iter().all(|block| (block as usize) < self.groups[group].blocks);
        assert!(known, "blocks {blocks:?} of group {group}");
        self.layers.iter_mut().filter(move |layer| layer.group == group)
    }

    /// Writes the keys and values of a batch, rows of all KV heads, to a layer's blocks.
    pub(crate) fn write(
        &mut self,
        team: &Team<'_>,
        layer: usize,
        batch: &Batch<'_>,
        keys: &[f32],
        values: &[f32],
    ) {
        let layer = &mut self.layers[layer];
        match self.kv_type {
            KvType::F16 => layer.write::<f16>(team, &self.groups, batch, keys, values),
            KvType::F32 => layer.write::<f32>(team, &self.groups, batch, keys, values),
        }
    }

    /// A layer's storage; `E` must be the type that it was made with.
    pub(crate) fn layer<E: KvElement>(&self, layer: usize, spec: &AttentionSpec) -> LayerView<'_, E> {
        debug_assert_eq!(size_of::<E>(), self.kv_type.bytes());
        let LayerKv { keys, values, heads, key_size, value_size, group } = &self.layers[layer];
        LayerView {
            keys: elements(keys),
            values: elements(values),
            heads: *heads,
            key_size: *key_size,
            value_size: *value_size,
            group: *group,
            groups: self.groups.len(),
            score_cap: spec.score_cap,
        }
    }
}

impl LayerKv {
    // Where a block's keys and values lie.
    fn places(&self, kv_type: KvType, block: u32) -> [Range<usize>; 2] {
        [key_block(self.key_size), value_block(self.value_size)].map(|elements| {
            let bytes = self.heads * elements * kv_type.bytes();
            block as usize * bytes..(block as usize + 1) * bytes
        })
    }

    // Each task owns a range of blocks and writes the tokens that lie in it.
    fn write<E: KvElement>(
        &mut self,
        team: &Team<'_>,
        groups: &[KvGroup],
        batch: &Batch<'_>,
        keys: &[f32],
        values: &[f32],
    ) {
        let (key_size, value_size, heads) = (self.key_size, self.value_size, self.heads);
        let places = Places { batch, group: self.group, groups };
        let stride = value_size.next_multiple_of(LANES);
        scatter::<E>(
            team,
            &mut self.keys,
            heads * key_block(key_size),
            &places,
            |token, slot, block: &mut [E]| {
                let row = &keys[token * heads * key_size..][..heads * key_size];
                for (key, block) in
                    row.chunks_exact(key_size).zip(block.chunks_exact_mut(key_block(key_size)))
                {
                    for (x, lane) in key.iter().zip(block.chunks_exact_mut(KV_BLOCK)) {
                        lane[slot] = E::from_f32(*x);
                    }
                }
            },
        );
        scatter::<E>(
            team,
            &mut self.values,
            heads * value_block(value_size),
            &places,
            |token, slot, block: &mut [E]| {
                let row = &values[token * heads * value_size..][..heads * value_size];
                let block = block.chunks_exact_mut(value_block(value_size));
                for (value, block) in row.chunks_exact(value_size).zip(block) {
                    for (x, out) in value.iter().zip(&mut block[slot * stride..]) {
                        *out = E::from_f32(*x);
                    }
                }
            },
        );
    }
}

// Where the tokens of a batch lie in a group.
struct Places<'a> {
    batch: &'a Batch<'a>,
    group: usize,
    groups: &'a [KvGroup],
}

impl Places<'_> {
    // The token's block and its slot there.
    fn of(&self, token: usize) -> (usize, usize) {
        let position = self.batch.positions[token] as usize;
        let table = self.batch.tables[self.batch.sequences[token] as usize * self.groups.len() + self.group];
        (table[position / KV_BLOCK] as usize, position % KV_BLOCK)
    }
}

// Hands each token of the batch its block, as `write(token, slot in the block, block)`.
fn scatter<E: KvElement>(
    team: &Team<'_>,
    arena: &mut Arena,
    size: usize,
    places: &Places<'_>,
    write: impl Fn(usize, usize, &mut [E]) + Sync,
) {
    let blocks = places.groups[places.group].blocks;
    let storage: &mut [E] = bytemuck::cast_slice_mut(&mut arena[..blocks * size * size_of::<E>()]);
    // A few tokens are not worth waking anybody for.
    const FEW: usize = 8;
    let tokens = places.batch.tokens.len();
    if tokens <= FEW {
        for token in 0..tokens {
            let (block, slot) = places.of(token);
            write(token, slot, &mut storage[block * size..][..size]);
        }
        return;
    }
    team.rows(storage, size, |first, rows| {
        let here = first..first + rows.len() / size;
        for token in 0..tokens {
            let (block, slot) = places.of(token);
            if here.contains(&block) {
                write(token, slot, &mut rows[(block - first) * size..][..size]);
            }
        }
    });
}

impl<'a, E> LayerView<'a, E> {
    /// The blocks of one head that a sequence's tables name.
    pub(crate) fn head(&self, head: usize, sequence: u32, batch: &Batch<'a>) -> KvView<'a, E> {
        KvView {
            keys: self.keys,
            values: self.values,
            table: batch.tables[sequence as usize * self.groups + self.group],
            heads: self.heads,
            head,
            key_size: self.key_size,
            value_size: self.value_size,
            score_cap: self.score_cap,
        }
    }
}

fn elements<E: KvElement>(arena: &Arena) -> &[E] {
    bytemuck::cast_slice(&arena[..arena.len() / size_of::<E>() * size_of::<E>()])
}
