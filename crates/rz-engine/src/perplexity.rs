//! How well a model predicts a text.

use std::ops::ControlFlow;

use rz_model::{Forward, ModelError};

use crate::{EngineError, Session};

/// How a text is cut into windows. Each window is computed on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PerplexityOptions {
    /// Tokens of a window. Windows follow each other without overlap, an incomplete last one is left out,
    /// and the tokens after the first of a window's second half are scored.
    pub context: usize,
    /// Windows start this many tokens apart, are half of it longer than the context, and their last
    /// `stride` tokens are scored.
    pub stride: Option<usize>,
    /// Replaces the first token of every window: the begin token of a vocabulary that wants one.
    pub begin: Option<u32>,
}

/// What was measured so far.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Perplexity {
    /// The exponential of the mean negative log-likelihood of the scored tokens.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Tokens scored.
    pub scored: usize,
    /// Windows computed.
    pub windows: usize,
    /// Windows of the whole text.
    pub total_windows: usize,
}

impl PerplexityOptions {
    /// Windows of this many tokens, without overlap or begin token.
    pub fn new(context: usize) -> Self {
        Self { context, stride: None, begin: None }
    }

    /// Tokens that the session's context must hold for a text of so many tokens.
    ///
    /// # Errors
    /// When the window is unusable or longer than the text.
    pub fn check(&self, tokens: usize) -> Result<usize, EngineError> {
        let (window, _, _) = self.window()?;
        if tokens < window {
            return Err(EngineError::TextTooShort { tokens, window });
        }
        Ok(window)
    }

    /// Tokens of a window, tokens from one window's start to the next's, and the first scored index.
    fn window(&self) -> Result<(usize, usize, usize), EngineError> {
        if self.context < 4 {
            let expected = "at least 4 tokens".into();
            return Err(EngineError::Window { what: "a context", value: self.context, expected });
        }
        let Some(stride) = self.stride else {
            return Ok((self.context, self.context, self.context / 2 + 1));
        };
        let window = self.context.saturating_add(stride / 2);
        if stride == 0 || stride >= window {
            let most = self.context.saturating_mul(2) - 3;
            let expected = format!("1 to {most} tokens for a context of {}", self.context);
            return Err(EngineError::Window { what: "a stride", value: stride, expected });
        }
        Ok((window, stride, window - stride))
    }
}

/// Measures the perplexity of the model on a text, as `llama-perplexity` does with the same context and
/// stride. The session's tokens are forgotten.
///
/// `progress` is called after each window and may end the measurement there.
///
/// # Errors
/// When the window is unusable or longer than the session's context or the text, when the model's scores
/// are no numbers, or when the back end fails.
pub fn perplexity<F: Forward>(
    session: &mut Session<F>,
    text: &[u32],
    options: &PerplexityOptions,
    mut progress: impl FnMut(&Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity, EngineError> {
    options.check(text.len())?;
    let (window, step, first) = options.window()?;
    let vocabulary = session.forward().vocabulary();
    if let Some(token) = text.iter().find(|t| **t as usize >= vocabulary) {
        let problem = format!("token {token} of the text is beyond the vocabulary of {vocabulary}");
        return Err(ModelError::Batch(problem).into());
    }
    let total_windows = match options.stride {
        None => text.len() / window,
        Some(stride) => (text.len() - window).div_ceil(stride).max(1),
    };
    let mut result = Perplexity { value: f64::NAN, error: f64::NAN, scored: 0, windows: 0, total_windows };
    let (mut sum, mut squares) = (0.0, 0.0);
    let mut tokens = Vec::with_capacity(window);
    for start in (0..total_windows).map(|i| i * step) {
        tokens.clear();
        tokens.extend_from_slice(&text[start..start + window]);
        if let Some(begin) = options.begin {
            tokens[0] = begin;
        }
        session.truncate(0);
        // The last token's logits predict what is outside the window.
        session.feed_each(&tokens[..window - 1], first - 1, |index, logits| {
            let loss = loss(logits, text[start + index + 1]);
            sum += loss;
            squares += loss * loss;
            result.scored += 1;
        })?;
        if sum.is_nan() {
            return Err(ModelError::Score { token: text[start + first], value: f32::NAN }.into());
        }
        let count = result.scored as f64;
        let mean = sum / count;
        result.windows += 1;
        result.value = mean.exp();
        result.error = result.value * ((squares / count - mean * mean).max(0.0) / (count - 1.0)).sqrt();
        if progress(&result).is_break() {
            break;
        }
    }
    Ok(result)
}

/// Negative logarithm of the probability of a token.
pub(crate) fn loss(logits: &[f32], token: u32) -> f64 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    sum_exp(logits, best).ln() - (f64::from(logits[token as usize]) - f64::from(best))
}

/// The sum of `exp(logit - best)`, for no logit above `best`; NaN if one is NaN.
fn sum_exp(logits: &[f32], best: f32) -> f64 {
    /// Logits whose sum is kept in single precision.
    const RUN: usize = 64;
    logits.chunks(RUN).map(|run| f64::from(run.iter().map(|l| exp(l - best)).sum::<f32>())).sum()
}

/// `exp(x)` for `x <= 0` to about 3 units in the last place, in a form that compilers vectorise.
fn exp(x: f32) -> f32 {
    use std::f32::consts::{LN_2, LOG2_E};
    const NEAREST: f32 = 1.5 * (1 << 23) as f32; // adding and subtracting it rounds to an integer
    const LN_2_HIGH: f32 = 0.693_359_4; // ln 2 in few bits, so that its products are exact
    const SERIES: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let clamped = if x < -87.0 { -87.0 } else { x };
    let whole = (clamped * LOG2_E + NEAREST) - NEAREST;
    let rest = (clamped - whole * LN_2_HIGH) - whole * (LN_2 - LN_2_HIGH);
    let power = f32::from_bits(((whole as i32 + 127) << 23) as u32);
    SERIES.iter().fold(0.0, |sum, term| sum * rest + term) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_exponential() {
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= exact * 6e-7, "{x}: {} for {exact}", exp(x));
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn loss_is_the_logarithm_of_the_softmax() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 40.0 - 10.0).collect();
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for token in 0..1000 {
            let exact = -(f64::from(logits[token]).exp() / total).ln();
            assert!((loss(&logits, token as u32) - exact).abs() < 1e-6);
        }
        assert!(loss(&[1.0, f32::NAN], 0).is_nan());
        assert!(loss(&[f32::INFINITY, 1.0], 0).is_nan());
    }
}
