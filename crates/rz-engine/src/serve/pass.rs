//! One pass of the model over parts of several sequences.

use rz_model::{Batch, Forward, ModelError, Output, Want};

use super::sequence::Sequence;

/// The buffers of a pass, reused.
#[derive(Default)]
pub(super) struct Pass {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    sequences: Vec<u32>,
    wants: Vec<Want>,
    output: Output,
    /// Values of a row of logits, and of a hidden state.
    vocabulary: usize,
    width: usize,
}

/// Where the next rows of an output begin.
#[derive(Clone, Copy, Default)]
pub(super) struct Rows {
    logits: usize,
    hidden: usize,
}

impl Pass {
    /// Computes what is planned of the sequences at these places, in this order.
    pub(super) fn run(
        &mut self,
        model: &mut (dyn Forward + Send),
        running: &[Box<Sequence>],
        places: &[usize],
    ) -> Result<(), ModelError> {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.wants.clear();
        let groups = model.kv_groups().len();
        let mut tables: Vec<&[u32]> = Vec::with_capacity(places.len() * groups);
        for (index, sequence) in places.iter().map(|place| &running[*place]).enumerate() {
            let start = sequence.computed();
            for at in start..start + sequence.planned {
                self.tokens.push(sequence.token(at));
                self.positions.push(at as u32);
                self.sequences.push(index as u32);
                self.wants.push(sequence.wanted(at));
            }
            tables.extend(sequence.table.iter().flat_map(|table| table.groups()));
        }
        let batch = Batch {
            tokens: &self.tokens,
            positions: &self.positions,
            sequences: &self.sequences,
            tables: &tables,
            outputs: &self.wants,
        };
        let layers = 0..model.layers();
        model.forward(&batch, layers, &mut self.output)?;
        let wanted = |what| self.wants.iter().filter(|want| **want == what).count();
        self.vocabulary = model.vocabulary();
        assert_eq!(self.output.logits.len(), wanted(Want::Logits) * self.vocabulary, "the back end's logits");
        self.width = self.output.hidden.len() / wanted(Want::Hidden).max(1);
        Ok(())
    }

    /// The first `vocabulary` of the next row of logits. A model may have more than the tokenizer.
    pub(super) fn logits(&self, rows: &mut Rows, vocabulary: usize) -> &[f32] {
        rows.logits += 1;
        self.last_logits(*rows, vocabulary)
    }

    /// The same of the row before the next one.
    pub(super) fn last_logits(&self, rows: Rows, vocabulary: usize) -> &[f32] {
        &self.output.logits[(rows.logits - 1) * self.vocabulary..][..vocabulary]
    }

    /// The next hidden state.
    pub(super) fn hidden(&self, rows: &mut Rows) -> &[f32] {
        let row = &self.output.hidden[rows.hidden * self.width..][..self.width];
        rows.hidden += 1;
        row
    }
}
