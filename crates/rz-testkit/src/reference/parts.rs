//! What layers are made of: norms, feed-forward networks, matrices.

use std::f64::consts::PI;

/// A norm over a vector, with a weight for each component.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// Multiplied with each component.
    pub weight: Vec<f64>,
    /// Added to each component afterwards.
    pub bias: Option<Vec<f64>>,
    /// Added to the mean square or the variance.
    pub epsilon: f64,
}

/// Kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Over the root of the mean square (Zhang and Sennrich 2019).
    Rms,
    /// Less the mean, over the standard deviation (Ba, Kiros and Hinton 2016).
    Layer,
}

/// `down(activation(gate x) * up x)` (Shazeer 2020), or without a gate
/// `down(activation(up x))`.
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// The gate.
    pub gate: Option<Linear>,
    /// To the hidden width.
    pub up: Linear,
    /// And back.
    pub down: Linear,
    /// What is between.
    pub activation: Activation,
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x` times the normal distribution's share below `x` (Hendrycks and Gimpel 2016).
    Gelu,
    /// The same paper's approximation by a hyperbolic tangent.
    GeluTanh,
}

/// A matrix, with a bias or none.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Row after row.
    pub weight: Vec<f64>,
    /// Length of a row: that of what the matrix is applied to.
    pub columns: usize,
    /// Added to the product.
    pub bias: Option<Vec<f64>>,
}

impl Norm {
    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.weight.len(), "length of what is normalised");
        let count = x.len() as f64;
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().sum::<f64>() / count,
        };
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let mut out: Vec<f64> = x
            .iter()
            .zip(&self.weight)
            .map(|(x, weight)| (x - mean) / (variance + self.epsilon).sqrt() * weight)
            .collect();
        if let Some(bias) = &self.bias {
            add(&mut out, bias);
        }
        out
    }
}

impl FeedForward {
    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        let up = self.up.apply(x);
        let hidden: Vec<f64> = match &self.gate {
            Some(gate) => gate.apply(x).iter().zip(up).map(|(g, u)| self.activation.apply(*g) * u).collect(),
            None => up.iter().map(|u| self.activation.apply(*u)).collect(),
        };
        self.down.apply(&hidden)
    }
}

impl Activation {
    pub(super) fn apply(self, x: f64) -> f64 {
        match self {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + error_function(x / 2f64.sqrt())),
            Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        }
    }
}

impl Linear {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.weight.len() / self.columns
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &[f64] {
        &self.weight[index * self.columns..][..self.columns]
    }

    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.columns, "length of what a matrix is applied to");
        let mut out: Vec<f64> = self.weight.chunks_exact(self.columns).map(|row| dot(row, x)).collect();
        if let Some(bias) = &self.bias {
            add(&mut out, bias);
        }
        out
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn add(sum: &mut [f64], x: &[f64]) {
    assert_eq!(sum.len(), x.len());
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

pub(super) fn capped(x: f64, cap: Option<f64>) -> f64 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

// erf x = 2/sqrt(pi) exp(-x^2) (x + 2x^3/3 + 4x^5/15 + ...): terms of one sign, so that
// nothing cancels. Beyond 6, it is 1 to the last digit.
fn error_function(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, 0.0);
    for n in 0..200 {
        sum += term;
        term *= 2.0 * x * x / f64::from(2 * n + 3);
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_have_their_known_values() {
        let close = |activation: Activation, x: f64, y: f64| {
            assert!((activation.apply(x) - y).abs() < 1e-9, "{activation:?}({x}) = {}", activation.apply(x));
        };
        close(Activation::Silu, 1.0, 0.731_058_578_63);
        close(Activation::Gelu, 1.0, 0.841_344_746_07);
        close(Activation::Gelu, -2.0, -0.045_500_263_9);
        close(Activation::GeluTanh, 1.0, 0.841_191_990_61);
        close(Activation::Gelu, 9.0, 9.0);
        close(Activation::Gelu, -9.0, 0.0);
    }

    #[test]
    fn norms_have_their_known_moments() {
        let x = [1.0, 5.0, -2.0, 4.0];
        let bias = Some(vec![7.0; 4]);
        let norm = Norm { kind: NormKind::Layer, weight: vec![3.0; 4], bias, epsilon: 0.0 };
        let y = norm.apply(&x);
        let mean = y.iter().sum::<f64>() / 4.0;
        let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / 4.0;
        assert!((mean - 7.0).abs() < 1e-12 && (variance - 9.0).abs() < 1e-12);
        let norm = Norm { kind: NormKind::Rms, weight: vec![1.0; 4], bias: None, epsilon: 0.0 };
        let square = norm.apply(&x).iter().map(|y| y * y).sum::<f64>() / 4.0;
        assert!((square - 1.0).abs() < 1e-12);
    }
}
