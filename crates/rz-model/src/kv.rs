//! Storage of keys and values: blocks of positions, one region of memory for the keys
//! and one for the values of each layer. Which block holds what is the caller's business.

use half::f16;
use rz_kernels::{Arena, KV_BLOCK, KvElement, KvView, LANES, Team, key_block, value_block};

use crate::spec::AttentionSpec;
use crate::{Batch, ModelError, ModelSpec};

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
    blocks: usize,
    layers: Vec<LayerKv>,
}

struct LayerKv {
    keys: Arena,
    values: Arena,
    heads: usize,
    key_size: usize,
    value_size: usize,
    /// Blocks that a sequence takes turns with, in a layer that sees a window only: the
    /// first of its table. What they held before is out of sight.
    ring: Option<usize>,
    window: Option<usize>,
}

/// One layer's storage, typed.
pub(crate) struct LayerView<'a, E> {
    keys: &'a [E],
    values: &'a [E],
    heads: usize,
    key_size: usize,
    value_size: usize,
    ring: Option<usize>,
    score_cap: Option<f32>,
}

impl KvStorage {
    /// Reserves `blocks` blocks for every layer. Memory is taken when they are written.
    ///
    /// A layer with a window keeps the window and one batch of a sequence: batches must
    /// not be longer than `max_batch`.
    pub(crate) fn new(
        spec: &ModelSpec,
        kv_type: KvType,
        blocks: usize,
        max_batch: usize,
    ) -> Result<KvStorage, ModelError> {
        let reserve = |elements: usize| {
            let bytes = elements.checked_mul(blocks).and_then(|n| n.checked_mul(kv_type.bytes()));
            let purpose = "the keys and values: choose a smaller context";
            let memory = |cause| ModelError::Memory { bytes: bytes.unwrap_or(usize::MAX), purpose, cause };
            let bytes = bytes.ok_or_else(|| memory(std::io::ErrorKind::OutOfMemory.into()))?;
            Arena::sparse(bytes).map_err(memory)
        };
        let layers = spec
            .layers
            .iter()
            .map(|layer| {
                let attention = &layer.attention;
                Ok(LayerKv {
                    keys: reserve(attention.kv_heads * key_block(attention.key_size))?,
                    values: reserve(attention.kv_heads * value_block(attention.value_size))?,
                    heads: attention.kv_heads,
                    key_size: attention.key_size,
                    value_size: attention.value_size,
                    ring: attention.window.map(|window| ring(window, max_batch)),
                    window: attention.window,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(KvStorage { kv_type, blocks, layers })
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn kv_type(&self) -> KvType {
        self.kv_type
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
            KvType::F16 => layer.write::<f16>(team, self.blocks, batch, keys, values),
            KvType::F32 => layer.write::<f32>(team, self.blocks, batch, keys, values),
        }
    }

    /// See [`Forward::resumable`](crate::Forward::resumable).
    pub(crate) fn resumable(&self, computed: usize, wanted: usize) -> usize {
        // The oldest positions that every ring still holds.
        let lost = |layer: &LayerKv| match layer.ring {
            Some(ring) => computed.div_ceil(KV_BLOCK).saturating_sub(ring) * KV_BLOCK,
            None => 0,
        };
        let windows = self.layers.iter().filter_map(|layer| Some((lost(layer), layer.window?)));
        let whole = windows.into_iter().all(|(lost, window)| (wanted + 1).saturating_sub(window) >= lost);
        if whole { wanted } else { 0 }
    }

    /// A layer's storage; `E` must be the type that it was made with.
    pub(crate) fn layer<E: KvElement>(&self, layer: usize, spec: &AttentionSpec) -> LayerView<'_, E> {
        debug_assert_eq!(size_of::<E>(), self.kv_type.bytes());
        let LayerKv { keys, values, heads, key_size, value_size, ring, .. } = &self.layers[layer];
        LayerView {
            keys: elements(keys),
            values: elements(values),
            heads: *heads,
            key_size: *key_size,
            value_size: *value_size,
            ring: *ring,
            score_cap: spec.score_cap,
        }
    }
}

impl LayerKv {
    // Each task owns a range of blocks and writes the tokens that lie in it.
    fn write<E: KvElement>(
        &mut self,
        team: &Team<'_>,
        blocks: usize,
        batch: &Batch<'_>,
        keys: &[f32],
        values: &[f32],
    ) {
        let (key_size, value_size, heads, ring) = (self.key_size, self.value_size, self.heads, self.ring);
        let stride = value_size.next_multiple_of(LANES);
        scatter::<E>(
            team,
            &mut self.keys,
            blocks,
            heads * key_block(key_size),
            batch,
            ring,
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
            blocks,
            heads * value_block(value_size),
            batch,
            ring,
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

// Hands each token of the batch its block, as `write(token, slot in the block, block)`.
fn scatter<E: KvElement>(
    team: &Team<'_>,
    arena: &mut Arena,
    blocks: usize,
    size: usize,
    batch: &Batch<'_>,
    ring: Option<usize>,
    write: impl Fn(usize, usize, &mut [E]) + Sync,
) {
    let place = |token: usize| {
        let position = batch.positions[token] as usize;
        let table = batch.tables[batch.sequences[token] as usize];
        let block = position / KV_BLOCK;
        (table[ring.map_or(block, |ring| block % ring)] as usize, position % KV_BLOCK)
    };
    let storage: &mut [E] = bytemuck::cast_slice_mut(&mut arena[..blocks * size * size_of::<E>()]);
    // A few tokens are not worth waking anybody for.
    const FEW: usize = 8;
    let tokens = batch.tokens.len();
    if tokens <= FEW {
        for token in 0..tokens {
            let (block, slot) = place(token);
            write(token, slot, &mut storage[block * size..][..size]);
        }
        return;
    }
    team.rows(storage, size, |first, rows| {
        let here = first..first + rows.len() / size;
        for token in 0..tokens {
            let (block, slot) = place(token);
            if here.contains(&block) {
                write(token, slot, &mut rows[(block - first) * size..][..size]);
            }
        }
    });
}

impl<'a, E> LayerView<'a, E> {
    /// The blocks of one head that a sequence's table names.
    pub(crate) fn head(&self, head: usize, table: &'a [u32]) -> KvView<'a, E> {
        KvView {
            keys: self.keys,
            values: self.values,
            table,
            heads: self.heads,
            head,
            key_size: self.key_size,
            value_size: self.value_size,
            ring: self.ring,
            score_cap: self.score_cap,
        }
    }
}

// The first token of a batch sees back to the window's start while the last is written:
// `window + max_batch - 1` positions, wherever the blocks begin.
fn ring(window: usize, max_batch: usize) -> usize {
    (window + max_batch).saturating_sub(2) / KV_BLOCK + 2
}

fn elements<E: KvElement>(arena: &Arena) -> &[E] {
    bytemuck::cast_slice(&arena[..arena.len() / size_of::<E>() * size_of::<E>()])
}
