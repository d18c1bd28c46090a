//! Grammars in llama.cpp's notation, translated to Lark's.
//!
//! There, a grammar describes characters; here, it describes words, which an automaton finds, the longest that it
//! can. What does not refer to itself is regular and becomes words, which is where the speed comes from, but only
//! as far as the longest word is always a right one: where something that may follow a word could also go on in a
//! word, that word is taken apart, down to single characters if need be. So both describe the same texts.

mod parse;
mod set;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use self::parse::Node;
use self::set::Set;
use self::words::Automaton;

/// Parts that a grammar may have once what is regular is written out.
const LARGEST: usize = 10_000;
/// Words that a grammar that refers to itself may have.
const WORDS: usize = 2_000;
/// Steps that comparing words with each other may take.
const STEPS: usize = 20_000_000;

/// The same grammar in Lark's notation.
pub(crate) fn to_lark(text: &str) -> Result<String, String> {
    let rules = parse::parse(text)?;
    let recursive = recursive(&rules);
    let mut translation =
        Translation { rules: &rules, ids: BTreeMap::new(), words: Vec::new(), budget: LARGEST, steps: STEPS };
    for name in rules.keys().filter(|name| recursive[name.as_str()]) {
        let id = translation.ids.len();
        translation.ids.insert(name, id);
    }
    let root = translation.tree(&Node::Rule("root".to_owned()))?;
    if translation.ids.is_empty() {
        // One word, after which nothing follows.
        return Ok(translation.lark(&root, &[]));
    }
    let mut bodies = Vec::new();
    for name in translation.ids.keys().copied().collect::<Vec<_>>() {
        bodies.push(translation.tree(&rules[name])?);
    }
    // The names are in the order of their ids.
    while translation.take_apart(&root, &bodies)? {}
    Ok(translation.lark(&root, &bodies))
}

/// Which rules refer to themselves, also by way of others, or to rules that do.
fn recursive(rules: &BTreeMap<String, Node>) -> BTreeMap<&str, bool> {
    let mut recursive: BTreeMap<&str, bool> = rules.keys().map(|name| (name.as_str(), true)).collect();
    loop {
        let regular: Vec<&str> = rules
            .iter()
            .filter(|(name, body)| {
                recursive[name.as_str()] && body.rules().iter().all(|name| !recursive[name])
            })
            .map(|(name, _)| name.as_str())
            .collect();
        if regular.is_empty() {
            return recursive;
        }
        for name in regular {
            recursive.insert(name, false);
        }
    }
}

/// What a rule is made of.
#[derive(Clone, Debug)]
enum Tree {
    Word(usize),
    Rule(usize),
    Sequence(Vec<Tree>),
    Choice(Vec<Tree>),
    Repeat(Box<Tree>, u32, Option<u32>),
}

struct Translation<'a> {
    rules: &'a BTreeMap<String, Node>,
    /// The rules that are no words.
    ids: BTreeMap<&'a str, usize>,
    /// The words, each where it stands: of two places, different things may be true.
    words: Vec<Word>,
    /// Parts that may still be written out.
    budget: usize,
    /// Steps that may still be taken.
    steps: usize,
}

/// Something regular, but for the empty text, which is no word.
struct Word {
    node: Node,
    /// What it was taken apart into.
    parts: Option<Tree>,
}

impl Translation<'_> {
    /// A part of a rule: words as long as possible.
    fn tree(&mut self, node: &Node) -> Result<Tree, String> {
        if let Some(regular) = self.regular(node)? {
            return Ok(self.word(&regular));
        }
        Ok(match node {
            Node::Rule(name) => Tree::Rule(self.ids[name.as_str()]),
            Node::Sequence(items) => {
                let (mut trees, mut run) = (Vec::new(), Vec::new());
                for item in items {
                    match self.regular(item)? {
                        Some(regular) => run.push(regular),
                        None => {
                            self.end_run(&mut run, &mut trees);
                            trees.push(self.tree(item)?);
                        }
                    }
                }
                self.end_run(&mut run, &mut trees);
                Tree::Sequence(trees)
            }
            Node::Choice(items) => {
                let (mut trees, mut run) = (Vec::new(), Vec::new());
                for item in items {
                    match self.regular(item)? {
                        Some(regular) => run.push(regular),
                        None => trees.push(self.tree(item)?),
                    }
                }
                if !run.is_empty() {
                    trees.push(self.word(&Node::Choice(run)));
                }
                Tree::Choice(trees)
            }
            Node::Repeat(inner, least, most) => Tree::Repeat(Box::new(self.tree(inner)?), *least, *most),
            Node::Set(_) => Tree::Sequence(Vec::new()),
        })
    }

    fn end_run(&mut self, run: &mut Vec<Node>, trees: &mut Vec<Tree>) {
        if !run.is_empty() {
            let word = self.word(&Node::Sequence(std::mem::take(run)));
            trees.push(word);
        }
    }

    /// The same without references, where it is regular.
    fn regular(&mut self, node: &Node) -> Result<Option<Node>, String> {
        if node.rules().iter().any(|name| self.ids.contains_key(name)) {
            return Ok(None);
        }
        self.written_out(node).map(Some)
    }

    fn written_out(&mut self, node: &Node) -> Result<Node, String> {
        self.budget = self.budget.checked_sub(1).ok_or_else(|| {
            format!("it has more than {LARGEST} parts when its rules are written out: make it smaller")
        })?;
        let rules = self.rules;
        Ok(match node {
            Node::Rule(name) => self.written_out(&rules[name])?,
            Node::Set(set) => Node::Set(set.clone()),
            Node::Sequence(items) => {
                Node::Sequence(items.iter().map(|item| self.written_out(item)).collect::<Result<_, _>>()?)
            }
            Node::Choice(items) => {
                Node::Choice(items.iter().map(|item| self.written_out(item)).collect::<Result<_, _>>()?)
            }
            Node::Repeat(inner, least, most) => {
                Node::Repeat(Box::new(self.written_out(inner)?), *least, *most)
            }
        })
    }

    /// A word, or nothing, where it may be empty.
    fn word(&mut self, node: &Node) -> Tree {
        if node.first().is_empty() {
            return Tree::Sequence(Vec::new());
        }
        let index = self.words.len();
        self.words.push(Word { node: node.clone(), parts: None });
        let word = Tree::Word(index);
        if node.is_nullable() { Tree::Repeat(Box::new(word), 0, Some(1)) } else { word }
    }

    /// Takes words apart that could go on where another word has to end. False: there is none.
    fn take_apart(&mut self, root: &Tree, bodies: &[Tree]) -> Result<bool, String> {
        let too_large = || "it is too large: make it smaller".to_owned();
        if self.words.len() > WORDS {
            return Err(too_large());
        }
        let whole = |word: &Word| word.parts.is_none();
        let automata: Vec<Option<Automaton>> = self
            .words
            .iter()
            .map(|word| if whole(word) { Automaton::new(&word.node) } else { None })
            .collect();
        // Those that are too large to be looked at, and then those that are seen to go on.
        let mut apart: BTreeSet<usize> =
            (0..self.words.len()).filter(|at| whole(&self.words[*at]) && automata[*at].is_none()).collect();
        if apart.is_empty() {
            let (starts, next) = self.next(root, bodies);
            let follow: Vec<Set> = next.iter().map(|next| self.begins(next)).collect();
            let together = self.together(&starts, &next, &automata).ok_or_else(too_large)?;
            for (shorter, longer) in together {
                let (Some(a), Some(b)) = (&automata[shorter], &automata[longer]) else { continue };
                // A single character never goes on.
                if !matches!(self.words[longer].node, Node::Set(_))
                    && !apart.contains(&longer)
                    && words::goes_on(a, &follow[shorter], b, &mut self.steps)
                {
                    apart.insert(longer);
                }
            }
        }
        for &index in &apart {
            let parts = self.parts(&self.words[index].node.clone());
            self.words[index].parts = Some(parts);
        }
        Ok(!apart.is_empty())
    }

    /// Which pairs of words may be looked for at one place: both at the start, or behind words that are looked for at
    /// one place and have a text in common. Nothing, where there are too many.
    fn together(
        &mut self,
        starts: &Words,
        next: &[Words],
        automata: &[Option<Automaton>],
    ) -> Option<BTreeSet<(usize, usize)>> {
        let (mut pairs, mut open) = (BTreeSet::new(), vec![(starts, starts)]);
        while let Some((these, those)) = open.pop() {
            for &a in these {
                for &b in those {
                    self.steps = self.steps.checked_sub(1)?;
                    if !pairs.insert((a, b)) {
                        continue;
                    }
                    let (Some(one), Some(other)) = (&automata[a], &automata[b]) else { continue };
                    if a == b || words::share_a_text(one, other, &mut self.steps) {
                        open.push((&next[a], &next[b]));
                    }
                }
            }
        }
        Some(pairs)
    }

    /// The characters that words begin with.
    fn begins(&self, words: &Words) -> Set {
        let mut all = Set::default();
        for word in words {
            all.add(&self.words[*word].node.first());
        }
        all
    }

    /// What a word is made of, one level down.
    fn parts(&mut self, node: &Node) -> Tree {
        match node {
            Node::Sequence(items) => Tree::Sequence(items.iter().map(|item| self.word(item)).collect()),
            Node::Choice(items) => Tree::Choice(items.iter().map(|item| self.word(item)).collect()),
            Node::Repeat(inner, least, most) => Tree::Repeat(Box::new(self.word(inner)), *least, *most),
            other => self.word(other),
        }
    }

    /// The words that a text may begin with, and those that may follow each.
    fn next(&self, root: &Tree, bodies: &[Tree]) -> (Words, Vec<Words>) {
        let mut flow = Flow {
            words: &self.words,
            firsts: vec![(false, Words::new()); bodies.len()],
            after_rules: vec![Words::new(); bodies.len()],
            after_words: vec![Words::new(); self.words.len()],
            changed: true,
        };
        while std::mem::take(&mut flow.changed) {
            for (index, body) in bodies.iter().enumerate() {
                let (nullable, first) = flow.first(body);
                let known = &mut flow.firsts[index];
                flow.changed |= nullable && !known.0;
                known.0 |= nullable;
                flow.changed |= add(&mut known.1, &first);
            }
        }
        flow.changed = true;
        while std::mem::take(&mut flow.changed) {
            flow.pass(root, &Words::new());
            for (index, body) in bodies.iter().enumerate() {
                flow.pass(body, &flow.after_rules[index].clone());
            }
        }
        (flow.first(root).1, flow.after_words)
    }

    fn lark(&self, root: &Tree, bodies: &[Tree]) -> String {
        // The same words in different places have one name.
        let mut names: HashMap<&Node, usize> = HashMap::new();
        for (index, word) in self.words.iter().enumerate().filter(|(_, word)| word.parts.is_none()) {
            names.entry(&word.node).or_insert(index);
        }
        let mut text = String::from("start: ");
        self.write(root, &names, &mut text);
        for (index, body) in bodies.iter().enumerate() {
            let _ = write!(text, "\nr{index}: ");
            self.write(body, &names, &mut text);
        }
        for (index, word) in self.words.iter().enumerate() {
            if word.parts.is_some() || names[&word.node] != index {
                continue;
            }
            let _ = write!(text, "\nW{index}: /");
            word.node.write_regex(&mut text);
            text.push('/');
            if word.node.is_nullable() {
                text.push_str(" & /(?s:.+)/");
            }
        }
        text.push('\n');
        text
    }

    fn write(&self, tree: &Tree, names: &HashMap<&Node, usize>, text: &mut String) {
        match tree {
            Tree::Word(index) => match &self.words[*index].parts {
                Some(parts) => self.write(parts, names, text),
                None => drop(write!(text, "W{}", names[&self.words[*index].node])),
            },
            Tree::Rule(index) => drop(write!(text, "r{index}")),
            Tree::Sequence(items) if items.is_empty() => text.push_str("\"\""),
            Tree::Sequence(items) => self.write_joined(items, " ", names, text),
            Tree::Choice(items) => self.write_joined(items, " | ", names, text),
            Tree::Repeat(inner, least, most) => {
                text.push('(');
                self.write(inner, names, text);
                text.push(')');
                parse::write_count(*least, *most, text);
            }
        }
    }

    fn write_joined(&self, items: &[Tree], between: &str, names: &HashMap<&Node, usize>, text: &mut String) {
        text.push('(');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                text.push_str(between);
            }
            self.write(item, names, text);
        }
        text.push(')');
    }
}

/// Words by their numbers.
type Words = BTreeSet<usize>;

/// Says whether there are more now.
fn add(words: &mut Words, more: &Words) -> bool {
    let before = words.len();
    words.extend(more);
    words.len() > before
}

/// Which words may come first and next, by the textbook.
struct Flow<'a> {
    words: &'a [Word],
    /// Of each rule, whether it may be empty, and what it may begin with.
    firsts: Vec<(bool, Words)>,
    after_rules: Vec<Words>,
    after_words: Vec<Words>,
    changed: bool,
}

impl Flow<'_> {
    fn first(&self, tree: &Tree) -> (bool, Words) {
        match tree {
            Tree::Word(index) => match &self.words[*index].parts {
                Some(parts) => self.first(parts),
                None => (false, Words::from([*index])),
            },
            Tree::Rule(index) => self.firsts[*index].clone(),
            Tree::Sequence(items) => {
                let mut first = Words::new();
                for item in items {
                    let (nullable, more) = self.first(item);
                    add(&mut first, &more);
                    if !nullable {
                        return (false, first);
                    }
                }
                (true, first)
            }
            Tree::Choice(items) => {
                let (mut nullable, mut first) = (false, Words::new());
                for item in items {
                    let (item_nullable, more) = self.first(item);
                    nullable |= item_nullable;
                    add(&mut first, &more);
                }
                (nullable, first)
            }
            Tree::Repeat(inner, least, most) => {
                let (nullable, first) = self.first(inner);
                if *most == Some(0) { (true, Words::new()) } else { (nullable || *least == 0, first) }
            }
        }
    }

    /// Takes note of what follows the words and rules in a part that these words may follow.
    fn pass(&mut self, tree: &Tree, after: &Words) {
        match tree {
            Tree::Word(index) => match &self.words[*index].parts {
                Some(parts) => self.pass(parts, after),
                None => self.changed |= add(&mut self.after_words[*index], after),
            },
            Tree::Rule(index) => self.changed |= add(&mut self.after_rules[*index], after),
            Tree::Sequence(items) => {
                let mut after = after.clone();
                for item in items.iter().rev() {
                    self.pass(item, &after);
                    let (nullable, mut first) = self.first(item);
                    if nullable {
                        add(&mut first, &after);
                    }
                    after = first;
                }
            }
            Tree::Choice(items) => items.iter().for_each(|item| self.pass(item, after)),
            Tree::Repeat(inner, _, most) => {
                let mut after = after.clone();
                if most.is_none_or(|most| most > 1) {
                    add(&mut after, &self.first(inner).1);
                }
                self.pass(inner, &after);
            }
        }
    }
}
