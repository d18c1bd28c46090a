//! Perplexity against its definition.

mod common;

use std::ops::ControlFlow;

use common::{Fake, VOCABULARY, toy};
use rz_engine::{EngineError, PerplexityOptions, Session, perplexity};
use rz_model::ModelError;

fn text(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i * 31 + i * 5) % VOCABULARY as u32).collect()
}

/// Perplexity and standard error over windows that are given one by one: the tokens that the model sees
/// and the indices of those that are scored.
fn by_definition(windows: &[(Vec<u32>, std::ops::Range<usize>)]) -> (f64, f64) {
    let mut losses = vec![];
    for (window, scored) in windows {
        for at in scored.clone() {
            let scores = toy(&window[..at]);
            let total: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
            losses.push(-(f64::from(scores[window[at] as usize]).exp() / total).ln());
        }
    }
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let variance = losses.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / n;
    (mean.exp(), mean.exp() * (variance / (n - 1.0)).sqrt())
}

fn check(options: &PerplexityOptions, text: &[u32], windows: &[(Vec<u32>, std::ops::Range<usize>)]) {
    let (value, error) = by_definition(windows);
    for chunk in [3, 64] {
        let mut session = Session::new(Fake::new(4, 64)).with_chunk(chunk);
        let mut seen = 0;
        let result = perplexity(&mut session, text, options, |so_far| {
            seen += 1;
            assert_eq!((so_far.windows, so_far.total_windows), (seen, windows.len()));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, windows.len());
        assert_eq!(result.scored, windows.iter().map(|w| w.1.len()).sum::<usize>());
        assert!((result.value - value).abs() < 1e-5 * value, "{} for {value}", result.value);
        assert!((result.error - error).abs() < 1e-4 * error, "{} for {error}", result.error);
    }
}

#[test]
fn the_second_half_of_each_window_is_scored() {
    let text = text(107);
    let window = |i: usize| text[i * 20..i * 20 + 20].to_vec();
    // Of 20 tokens, those at 11 to 19: the scores at index 10 are the first that count. The last 7 tokens
    // fill no window.
    check(&PerplexityOptions::new(20), &text, &[0, 1, 2, 3, 4].map(|i| (window(i), 11..20)));
    let odd = |i: usize| text[i * 21..i * 21 + 21].to_vec();
    check(&PerplexityOptions::new(21), &text, &[0, 1, 2, 3, 4].map(|i| (odd(i), 11..21)));
}

#[test]
fn each_window_begins_with_the_begin_token() {
    let text = text(60);
    let mut options = PerplexityOptions::new(20);
    options.begin = Some(1);
    let windows = [0, 1, 2].map(|i| {
        let mut window = text[i * 20..i * 20 + 20].to_vec();
        window[0] = 1;
        (window, 11..20)
    });
    check(&options, &text, &windows);
}

#[test]
fn with_a_stride_windows_overlap_and_their_ends_are_scored() {
    let text = text(60);
    let mut options = PerplexityOptions::new(16);
    options.stride = Some(10);
    // Windows of 16 + 10 / 2 tokens, 10 apart, while more than a window is left.
    let windows = [0, 10, 20, 30].map(|start| (text[start..start + 21].to_vec(), 11..21));
    check(&options, &text, &windows);
    check(&options, &text[..21], &windows[..1]);
}

#[test]
fn progress_may_end_it() {
    let mut session = Session::new(Fake::new(4, 64));
    let result = perplexity(&mut session, &text(100), &PerplexityOptions::new(10), |so_far| {
        if so_far.windows == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!((result.windows, result.total_windows, result.scored), (3, 10, 12));
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let measure = |context: usize, stride: Option<usize>, text: &[u32]| {
        let mut options = PerplexityOptions::new(context);
        options.stride = stride;
        let mut session = Session::new(Fake::new(4, 64));
        perplexity(&mut session, text, &options, |_| ControlFlow::Continue(())).map(|p| p.scored)
    };
    assert!(matches!(measure(3, None, &text(50)), Err(EngineError::Window { value: 3, .. })));
    assert!(matches!(measure(20, Some(0), &text(50)), Err(EngineError::Window { value: 0, .. })));
    for stride in 1..200 {
        // Some token has to come before the first scored one.
        let works = measure(20, Some(stride), &text(300));
        assert_eq!(works.is_ok(), stride < 20 + stride / 2, "{stride}: {works:?}");
    }
    assert!(measure(20, Some(usize::MAX), &text(50)).is_err());
    assert!(matches!(
        measure(20, None, &text(19)),
        Err(EngineError::TextTooShort { tokens: 19, window: 20 })
    ));
    assert!(matches!(measure(200, None, &text(500)), Err(EngineError::ContextFull { .. })));
    let mut beyond = text(40);
    beyond[39] = VOCABULARY as u32;
    assert!(matches!(measure(20, None, &beyond), Err(EngineError::Model(ModelError::Batch(_)))));

    let mut session = Session::new(Fake::scored(VOCABULARY, 4, 64, |_| vec![f32::NAN; VOCABULARY]));
    let broken =
        perplexity(&mut session, &text(50), &PerplexityOptions::new(20), |_| ControlFlow::Continue(()));
    assert!(matches!(broken, Err(EngineError::Model(ModelError::Score { .. }))));
}
