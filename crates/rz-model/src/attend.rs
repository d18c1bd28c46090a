//! Attention of one layer: which thread computes which queries over which positions.

use rz_kernels::{KvFormat, MAX_HEAD, QUERIES, Query, Split, attend, attend_span, merge_spans, span_row};

use crate::ModelSpec;
use crate::kv::LayerView;
use crate::pass::{Pass, Scratch};
use crate::spec::AttentionSpec;

/// Elements of [`Scratch::parts`]: what the spans of a few tokens take, each with so many
/// positions before it, within bounds. Who has less computes the same in another way.
pub(crate) fn parts_room(spec: &ModelSpec, tokens: usize, positions: usize) -> usize {
    const MOST: usize = 4 << 20;
    let of_layer = |spec: &AttentionSpec| {
        let seen = spec.window.map_or(positions, |window| positions.min(window));
        let spans = Query { q: &[], first: 1, end: seen.saturating_add(1) }.spans().len() + 1;
        spans.saturating_mul(spec.heads * span_row(spec.value_size))
    };
    let token = spec.layers.iter().map(|layer| of_layer(&layer.attention)).max().unwrap_or(0);
    token.saturating_mul(tokens).min(MOST)
}

/// Fills `gathered`, tokens x heads of values, from the pass's queries.
pub(crate) fn attend_layer<F: KvFormat>(pass: &mut Pass<'_, '_>, spec: &AttentionSpec, kv: &LayerView<'_>) {
    let (kernels, batch, tokens) = (pass.runtime.kernels, pass.batch, pass.tokens());
    let group = spec.heads / spec.kv_heads;
    let (query_row, out_row) = (spec.heads * spec.key_size, spec.heads * spec.value_size);
    let Scratch { queries, gathered, parts, .. } = &mut *pass.scratch;
    let (queries, gathered) = (&queries[..tokens * query_row], &mut gathered[..tokens * out_row]);
    let query = |token: usize, head: usize| {
        let q = &queries[token * query_row + head * spec.key_size..][..spec.key_size];
        let end = batch.positions[token] as usize + 1;
        Query { q, first: spec.window.map_or(0, |window| end.saturating_sub(window)), end }
    };
    let spans = |token: usize| query(token, 0).spans();

    if tokens < 2 * pass.team.threads() {
        // Few tokens: the KV heads are shared out, and the spans of a long sequence. One task
        // is the query heads of one KV head.
        let of_task = |token: usize, kv_head: usize, out: &mut [f32], span: Option<usize>| {
            let row = out.len() / group;
            for (i, out) in out.chunks_mut(QUERIES * row).enumerate() {
                let mut tile = [Query::default(); QUERIES];
                let tile = &mut tile[..out.len() / row];
                for (j, slot) in tile.iter_mut().enumerate() {
                    *slot = query(token, kv_head * group + i * QUERIES + j);
                }
                let kv = kv.head(kv_head, token, batch);
                match span {
                    None => attend::<F>(kernels, kv, tile, out),
                    Some(span) => attend_span::<F>(kernels, kv, tile, span, out),
                }
            }
        };
        let all_spans: usize = (0..tokens).map(|token| spans(token).len()).sum();
        let part = span_row(spec.value_size);
        let size = group * part;
        if all_spans == tokens || all_spans * spec.heads * part > parts.len() {
            let size = group * spec.value_size;
            pass.team.rows(gathered, size, |first, rows| {
                for (i, out) in rows.chunks_exact_mut(size).enumerate() {
                    of_task((first + i) / spec.kv_heads, (first + i) % spec.kv_heads, out, None);
                }
            });
            return;
        }
        let parts = &mut parts[..all_spans * spec.heads * part];
        pass.team.rows(parts, size, |first, rows| {
            for (i, out) in rows.chunks_exact_mut(size).enumerate() {
                let (mut index, kv_head) = ((first + i) / spec.kv_heads, (first + i) % spec.kv_heads);
                let mut token = 0;
                while index >= spans(token).len() {
                    index -= spans(token).len();
                    token += 1;
                }
                of_task(token, kv_head, out, Some(spans(token).start + index));
            }
        });
        let parts = &*parts;
        pass.team.rows(gathered, spec.value_size, |first, rows| {
            for (i, out) in rows.chunks_exact_mut(spec.value_size).enumerate() {
                let (token, head) = ((first + i) / spec.heads, (first + i) % spec.heads);
                let before: usize = (0..token).map(|token| spans(token).len()).sum();
                let parts = parts[before * spec.heads * part..].chunks_exact(part);
                let of_head = parts.skip(head).step_by(spec.heads).take(spans(token).len());
                merge_spans(kernels, of_head, out);
            }
        });
        return;
    }

    // Many tokens are shared out themselves. Heads of a group and neighbouring tokens of
    // a sequence read the same keys and values, so they go together: as many as fill whole tiles.
    let threads = pass.team.threads();
    let block = tokens.div_ceil(4 * threads).next_multiple_of(QUERIES).min(tokens.div_ceil(threads));
    let rows = Split { data: gathered, columns: out_row, grain: out_row };
    pass.team.blocks(block, [rows], |_, mut out| {
        let (first, last) = (out.first_row(), out.first_row() + out.rows());
        let mut results = [0.0; QUERIES * MAX_HEAD];
        let mut flush = |kv_head: usize, tile: &[(usize, usize)]| {
            let Some(&(token, _)) = tile.first() else { return };
            let mut queries = [Query::default(); QUERIES];
            for (slot, &(token, head)) in queries.iter_mut().zip(tile) {
                *slot = query(token, head);
            }
            let results = &mut results[..tile.len() * spec.value_size];
            attend::<F>(kernels, kv.head(kv_head, token, batch), &queries[..tile.len()], results);
            for (&(token, head), result) in tile.iter().zip(results.chunks_exact(spec.value_size)) {
                let at = head * spec.value_size;
                out.row(token - first)[at..at + spec.value_size].copy_from_slice(result);
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
