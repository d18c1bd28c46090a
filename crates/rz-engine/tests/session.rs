//! Feeding: chunks, reuse of a common prefix, limits, errors.

mod common;

use common::{Fake, VOCABULARY, toy};
use proptest::prelude::*;
use rz_engine::{EngineError, Session};

fn tokens(len: usize, salt: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i + 7 * i + salt * 13) % VOCABULARY as u32).collect()
}

#[test]
fn the_chunk_does_not_matter() {
    let prompt = tokens(200, 1);
    for chunk in [1, 7, 32, 64, 200, 500] {
        let mut session = Session::new(Fake::new(8, 256)).with_chunk(chunk);
        assert_eq!(session.feed(&prompt).unwrap(), toy(&prompt), "chunk {chunk}");
        let calls = session.into_forward().calls;
        assert_eq!(calls.len(), 200usize.div_ceil(chunk));
        assert!(calls.iter().all(|c| c.0 <= chunk));
        // Logits are computed for the last token alone.
        assert_eq!(calls.iter().map(|c| c.1).sum::<usize>(), 1);
        assert_eq!(calls.last().unwrap().1, 1);
    }
}

#[test]
fn logits_of_every_token_from_an_index() {
    let prompt = tokens(70, 2);
    for (chunk, from) in [(1, 0), (7, 0), (64, 33), (64, 69), (16, 70)] {
        let mut session = Session::new(Fake::new(8, 64)).with_chunk(chunk);
        let mut seen = vec![];
        session
            .feed_each(&prompt, from, |index, logits| {
                assert_eq!(logits, toy(&prompt[..=index]));
                seen.push(index);
            })
            .unwrap();
        assert_eq!(seen, (from..70).collect::<Vec<_>>());
        assert_eq!(session.cached(), prompt);
    }
}

#[test]
fn large_vocabularies_are_computed_few_rows_at_a_time() {
    let vocabulary = 3 << 20;
    let mut session =
        Session::new(Fake::scored(vocabulary, 2, 64, move |p| vec![p.len() as f32; vocabulary]));
    let mut seen = vec![];
    session.feed_each(&tokens(30, 0), 12, |index, logits| seen.push((index, logits[0]))).unwrap();
    assert_eq!(seen, (12..30).map(|i| (i, i as f32 + 1.0)).collect::<Vec<_>>());
    for (len, wanted) in session.into_forward().calls {
        assert!(wanted * vocabulary * 4 <= 64 << 20, "{wanted} rows in a batch of {len}");
    }
}

#[test]
fn a_common_prefix_is_not_computed_again() {
    let mut session = Session::new(Fake::new(8, 64));
    session.feed(&tokens(100, 1)).unwrap();
    let mut second = tokens(100, 1)[..60].to_vec();
    second.extend(tokens(30, 5));
    assert_eq!(session.reuse(&second), 60);
    assert_eq!(session.feed(&second[60..]).unwrap(), toy(&second));
    assert_eq!(session.into_forward().calls[2..], [(30, 1)]);
}

#[test]
fn of_the_same_prompt_the_last_token_is_computed_again() {
    let mut session = Session::new(Fake::new(8, 64));
    let prompt = tokens(33, 1);
    session.feed(&prompt).unwrap();
    assert_eq!(session.reuse(&prompt), 32);
    assert_eq!(session.feed(&prompt[32..]).unwrap(), toy(&prompt));
    // A prompt that is the beginning of what is stored.
    assert_eq!(session.reuse(&prompt[..10]), 9);
    assert_eq!(session.feed(&prompt[9..10]).unwrap(), toy(&prompt[..10]));
    assert_eq!(session.reuse(&[]), 0);
}

#[test]
fn what_does_not_fit_is_an_error_and_feeds_nothing() {
    let mut session = Session::new(Fake::new(2, 16));
    assert_eq!(session.context(), 64);
    let error = session.feed(&tokens(65, 0)).unwrap_err();
    assert!(matches!(error, EngineError::ContextFull { tokens: 65, context: 64 }), "{error}");
    assert!(session.cached().is_empty());
    session.feed(&tokens(64, 0)).unwrap();
    assert!(matches!(session.feed(&[1]), Err(EngineError::ContextFull { tokens: 65, .. })));
    session.truncate(63);
    session.feed(&[1]).unwrap();

    let mut small = Session::new(Fake::new(2, 16)).with_context(40);
    assert!(matches!(small.feed(&tokens(41, 0)), Err(EngineError::ContextFull { tokens: 41, context: 40 })));
    small.feed(&tokens(40, 0)).unwrap();
    assert_eq!(Session::new(Fake::new(2, 16)).with_context(1000).context(), 64);
    assert!(matches!(
        Session::new(Fake::new(0, 16)).feed(&[1]),
        Err(EngineError::ContextFull { context: 0, .. })
    ));
    assert!(matches!(small.feed(&[]), Err(EngineError::EmptyPrompt)));
}

#[test]
fn after_an_error_the_session_goes_on_where_it_was() {
    let prompt = tokens(100, 3);
    let mut fake = Fake::new(4, 32);
    fake.fail_at = Some(2);
    let mut session = Session::new(fake);
    assert!(matches!(session.feed(&prompt), Err(EngineError::Model(_))));
    assert_eq!(session.cached(), &prompt[..64]);
    assert_eq!(session.reuse(&prompt), 64);
    assert_eq!(session.feed(&prompt[64..]).unwrap(), toy(&prompt));

    // A token that does not exist.
    session.truncate(50);
    assert!(session.feed(&[VOCABULARY as u32]).is_err());
    assert_eq!(session.feed(&prompt[50..]).unwrap(), toy(&prompt));
}

proptest! {
    /// Any way to feed, reuse and truncate leaves what a fresh session would have.
    #[test]
    fn histories_do_not_matter(
        steps in prop::collection::vec((0usize..150, 0u32..3, any::<bool>()), 1..20),
        chunk in 1usize..80,
    ) {
        let mut session = Session::new(Fake::new(4, 64)).with_chunk(chunk);
        for (len, salt, cut) in steps {
            if cut {
                session.truncate(len);
                prop_assert!(session.cached().len() <= len);
                continue;
            }
            let prompt = tokens(len.clamp(1, 128), salt);
            let kept = session.reuse(&prompt);
            prop_assert_eq!(session.cached(), &prompt[..kept]);
            prop_assert_eq!(session.feed(&prompt[kept..]).unwrap(), toy(&prompt));
            prop_assert_eq!(session.cached(), prompt);
        }
    }
}
