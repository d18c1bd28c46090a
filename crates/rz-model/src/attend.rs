//! Attention of one layer: which thread computes which queries.

use rz_kernels::{KvElement, MAX_HEAD, QUERIES, Query, Split, attend};

use crate::kv::LayerView;
use crate::pass::{Pass, Scratch};
use crate::spec::AttentionSpec;

/// Fills `gathered`, tokens x heads of values, from the pass's queries.
pub(crate) fn attend_layer<E: KvElement>(
    pass: &mut Pass<'_, '_>,
    spec: &AttentionSpec,
    kv: &LayerView<'_, E>,
) {
    let (kernels, batch, tokens) = (pass.runtime.kernels, pass.batch, pass.tokens());
    let group = spec.heads / spec.kv_heads;
    let (query_row, out_row) = (spec.heads * spec.key_size, spec.heads * spec.value_size);
    let Scratch { queries, gathered, .. } = &mut *pass.scratch;
    let (queries, gathered) = (&queries[..tokens * query_row], &mut gathered[..tokens * out_row]);
    let query = |token: usize, head: usize| {
        let q = &queries[token * query_row + head * spec.key_size..][..spec.key_size];
        let end = batch.positions[token] as usize + 1;
        Query { q, first: spec.window.map_or(0, |window| end.saturating_sub(window)), end }
    };
    let view = |token: usize, kv_head: usize| kv.head(kv_head, batch.sequences[token], batch);

    if tokens < 2 * pass.team.threads() {
        // Few tokens: the KV heads are shared out.
        let grain = group * spec.value_size;
        pass.team.columns([Split { data: gathered, columns: out_row, grain }], |_, mut out| {
            let heads = out.columns().start / grain..out.columns().end / grain;
            for token in 0..tokens {
                for (kv_head, out) in heads.clone().zip(out.row(token).chunks_exact_mut(grain)) {
                    for (i, out) in out.chunks_mut(QUERIES * spec.value_size).enumerate() {
                        let first = kv_head * group + i * QUERIES;
                        let count = out.len() / spec.value_size;
                        let mut tile = [Query::default(); QUERIES];
                        (0..count).for_each(|j| tile[j] = query(token, first + j));
                        attend(kernels, view(token, kv_head), &tile[..count], out);
                    }
                }
            }
        });
        return;
    }

    // Many tokens are shared out themselves. Heads of a group and neighbouring tokens of
    // a sequence read the same keys and values, so they go together.
    pass.team.rows(gathered, out_row, |first, rows| {
        let last = first + rows.len() / out_row;
        let mut results = [0.0; QUERIES * MAX_HEAD];
        let mut flush = |kv_head: usize, tile: &[(usize, usize)]| {
            let Some(&(token, _)) = tile.first() else { return };
            let mut queries = [Query::default(); QUERIES];
            for (slot, &(token, head)) in queries.iter_mut().zip(tile) {
                *slot = query(token, head);
            }
            let results = &mut results[..tile.len() * spec.value_size];
            attend(kernels, view(token, kv_head), &queries[..tile.len()], results);
            for (&(token, head), result) in tile.iter().zip(results.chunks_exact(spec.value_size)) {
                let at = (token - first) * out_row + head * spec.value_size;
                rows[at..at + spec.value_size].copy_from_slice(result);
            }
        };
        for kv_head in 0..spec.kv_heads {
            let mut tile = [(0, 0); QUERIES];
            let mut count = 0;
            for token in first..last {
                for head in kv_head * group..(kv_head + 1) * group {
                    let other = count > 0 && batch.sequences[tile[0].0] != batch.sequences[token];
                    if other || count == QUERIES {
                        flush(kv_head, &tile[..count]);
                        count = 0;
                    }
                    tile[count] = (token, head);
                    count += 1;
                }
            }
            flush(kv_head, &tile[..count]);
        }
    });
}
