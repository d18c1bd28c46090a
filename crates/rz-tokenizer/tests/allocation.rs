//! Templates that would take all time, memory or stack are stopped; broken ones are
//! refused where they are loaded.
//!
//! The one test of this program, because it counts what the whole program allocates.

use rz_testkit::memory::{self, Counting};
use rz_tokenizer::{ChatTemplate, Message, TokenizerError};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Most bytes that a hostile template may make us hold at once.
const MOST: usize = 400 << 20;

fn run(source: &str) -> Result<String, TokenizerError> {
    let messages = [Message::new("user", "hello")];
    let (result, peak) = memory::peak(|| {
        ChatTemplate::new("test", source, Some("<s>"), None)
            .and_then(|template| template.render(&messages, true))
    });
    let shown: String = source.chars().take(100).collect();
    assert!(peak < MOST, "{shown}: {peak} bytes");
    if let Err(error) = &result {
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.starts_with("test: chat template"), "{message}");
        assert!(message.len() < 500, "{message}");
    }
    result
}

#[test]
fn no_template_takes_all_time_or_memory() {
    let doubled = |what: &str| format!("{{% set ns = namespace(x={what}) %}}{{% for i in range(200) %}}");
    let stopped = [
        // Without end, or nearly.
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for i in range(10**9) %}{% endfor %}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% macro f() %}{% for i in range(1000) %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}".to_owned(),
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}".to_owned(),
        // Texts that grow.
        "{{ 'x' * 10**10 }}".to_owned(),
        "{{ 'x' * 99999999 }}".to_owned(),
        "{% set n = 99999999 %}{{ 'x' * n }}".to_owned(),
        "{% set n = 999999999999 %}{{ [1] * n }}".to_owned(),
        "{% set n = 99999 %}{% set l = [1] * n %}{{ (l * n)|length }}".to_owned(),
        doubled("'x'") + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
        doubled("'x'") + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
        doubled("'x'") + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        doubled("'x'") + "{% set ns.x = '{}{}'.format(ns.x, ns.x) %}{% endfor %}",
        doubled("'x'") + "{% set ns.x = '%s%s'|format(ns.x, ns.x) %}{% endfor %}",
        doubled("'x'") + "{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
        doubled("'x'") + "{% set ns.x = ns.x|replace('x', 'xx') %}{% endfor %}",
        doubled("'x'") + "{% set ns.x = ns.x.replace('x', 'xx') %}{% endfor %}",
        doubled("[1]") + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
        "{% set s = 'a' * 60000 %}{{ s|replace('a', s)|replace('a', s) }}".to_owned(),
        "{% set s = 'a' * 60000 %}{{ s.replace('', s) }}".to_owned(),
        "{% set s = 'a' * 60000 %}{{ [s]|map('replace', 'a', s)|list|length }}".to_owned(),
        "{% set s = 'a' * 60000 %}{{ s|list|join(s) }}".to_owned(),
        "{% set s = 'a' * 60000 %}{{ s|list|join(d=s) }}".to_owned(),
        "{% set s = 'a' * 60000 %}{{ s.join(s|list) }}".to_owned(),
        "{{ 'a'|indent(9223372036854775807) }}".to_owned(),
        "{{ 'a'|indent(width=99999999999) }}".to_owned(),
        "{{ '%99999999999d'|format(1) }}".to_owned(),
        "{{ '%*d'|format(99999999999, 1) }}".to_owned(),
        "{{ '{:>99999999999}'.format(1) }}".to_owned(),
        "{{ '{:>{0}}'.format(99999999999) }}".to_owned(),
        "{{ [1]|batch(99999999999, 'x')|list|length }}".to_owned(),
        "{{ [1]|slice(99999999999)|list|length }}".to_owned(),
        "{{ [1]|tojson(indent=99999999999) }}".to_owned(),
        "{% for i in range(99999) %}{% for j in range(99) %}".to_owned()
            + &"x".repeat(10_000)
            + "{% endfor %}{% endfor %}",
        "{% set y %}{% for i in range(99999) %}".to_owned() + &"x".repeat(100_000) + "{% endfor %}{% endset %}",
        // Few values that show as many, or hold themselves.
        doubled("[1]") + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        doubled("{}") + "{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}{{ ns.x|tojson }}",
        doubled("[1]") + "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == [1] }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x|string }}".to_owned(),
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a }}".to_owned(),
        // Each step looks through much.
        "{% set s = 'a' * 60000 %}{% set t = 'a' * 60000 %}{% for i in range(99999) %}{{ s == t }}{% endfor %}".to_owned(),
        "{% set s = 'a' * 60000 %}{% for i in range(99999) %}{{ 'b' in s }}{% endfor %}".to_owned(),
        "{% set s = 'a' * 60000 %}{% for i in range(99999) %}{% set t = s|upper %}{% endfor %}".to_owned(),
        // Deep or long expressions.
        format!("{{{{ {}1 }}}}", "-".repeat(500_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(2000), "]".repeat(2000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(100_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(100_000)),
        "{% if 1 %}".repeat(50_000),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(50_000)),
        "{% set x = 'x' * 99999999 %}".repeat(1000),
        "x".repeat(2 << 20),
    ];
    for source in &stopped {
        let result = run(source);
        let shown: String = source.chars().take(200).collect();
        assert!(result.is_err(), "{shown}");
    }

    // As long as they may be: these pass, or are refused, but nothing overflows.
    for source in [
        format!("{{{{ {}1 }}}}", "-".repeat(4000)),
        format!("{{{{ {}true }}}}", "not ".repeat(4000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(2000)),
        format!("{{{{ 'a'{} }}}}", "~'a'".repeat(1300)),
        format!("{{{{ x{} }}}}", "|trim".repeat(2000)),
        format!("{{{{ x{} }}}}", ".y".repeat(2000)),
        format!("{{{{ x{} }}}}", "[0]".repeat(1300)),
        format!("{{{{ x{} }}}}", "()".repeat(2000)),
        format!("{{{{ 1{} }}}}", " if x else 1".repeat(1000)),
        format!("{{{{ 1{} }}}}", " and 1".repeat(2000)),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(8000)),
        "{% if 1 %}".repeat(140) + &"{% endif %}".repeat(140),
        "{{ 1 }}".repeat(8000),
    ] {
        let _ = run(&source);
    }

    for source in
        ["{% if %}", "{{ 1 +", "{% endfor %}", "{{ 'open }}", "{% nonsense %}", "{{ a b }}", "{% set x %}"]
    {
        assert!(matches!(run(source), Err(TokenizerError::TemplateSyntax { .. })), "{source}");
    }
    for source in [
        "{{ none.x.y }}",
        "{{ 1 + 'x' }}",
        "{{ x.y.z }}",
        "{{ nothing() }}",
        "{{ 1|nothing }}",
        "{{ 1 is nothing }}",
    ] {
        assert!(matches!(run(source), Err(TokenizerError::TemplateRun { .. })), "{source}");
    }
    let refused = run("{{ raise_exception('say\nplease') }}").unwrap_err();
    assert!(matches!(&refused, TokenizerError::TemplateRefused { message, .. } if message == "say please"));
    assert_eq!(run("{{ bos_token }}{{ messages[0].content }}").unwrap(), "<s>hello");
}
