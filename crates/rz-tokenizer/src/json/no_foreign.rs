//! In place of the `tokenizers` crate, where the feature `hf-tokenizers` is off.

use std::convert::Infallible;

/// No tokenizer at all.
pub(crate) struct Foreign(Infallible);

/// What no tokenizer makes.
pub(crate) struct Stream(Infallible);

impl Foreign {
    pub(crate) fn encode(&self, _: &str, _: Option<u32>, _: &mut Vec<u32>) {
        match self.0 {}
    }

    pub(crate) fn encode_plain<'v>(
        &self,
        _: &str,
        _: Option<u32>,
        _: &impl Fn(u32) -> Option<&'v str>,
        _: &mut Vec<u32>,
    ) {
        match self.0 {}
    }

    pub(crate) fn decode(&self, _: &[u32]) -> String {
        match self.0 {}
    }

    pub(crate) fn stream(&self, _: Option<u32>) -> Stream {
        match self.0 {}
    }
}

impl Stream {
    pub(crate) fn push(&mut self, _: &Foreign, _: u32, _: &mut Vec<u8>) {
        match self.0 {}
    }

    pub(crate) fn finish(&mut self, _: &Foreign, _: &mut Vec<u8>) {
        match self.0 {}
    }
}
