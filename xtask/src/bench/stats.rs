//! Figures of several runs: the median, and how far they are spread.

use serde::{Deserialize, Serialize};

/// Figures of one thing, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Samples(pub(super) Vec<f64>);

impl Samples {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The median, or NaN of none.
    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The lower and the upper quartile.
    pub(super) fn quartiles(&self) -> [f64; 2] {
        [self.quantile(0.25), self.quantile(0.75)]
    }

    /// Half the distance of the quartiles, as a share of the median.
    pub(super) fn spread(&self) -> f64 {
        let [low, high] = self.quartiles();
        (high - low) / 2.0 / self.median()
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        let at = share * last as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Samples {
        Samples(figures.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles() {
        let samples = |figures: &[f64]| Samples(figures.to_vec());
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(samples(&[4.0, 1.0, 3.0, 2.0]).median(), 2.5);
        assert_eq!(samples(&[5.0, 1.0, 4.0, 2.0, 3.0]).quartiles(), [2.0, 4.0]);
        assert_eq!(samples(&[5.0, 1.0, 4.0, 2.0, 3.0]).spread(), 1.0 / 3.0);
        assert_eq!(samples(&[7.0]).spread(), 0.0);
        assert!(samples(&[]).median().is_nan());
    }
}
