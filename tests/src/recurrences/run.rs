//! Runs a case: in double precision and as native code, in one call, token by token and cut at odd places, alone and beside another sequence.

use super::case::{Case, Entry, Ready};
use crate::build;
use crate::properties::compiled::{Compiled, feed, together};
use crate::reference::Reference;
use braid_compiler::forms::{self, Chunks};
use braid_compiler::graph::Graph;
use braid_runtime::session::{Session, Snapshot};

/// How a sequence is cut: the lengths of the parts, again and again.
const CUTS: &[&[usize]] = &[&[50], &[1], &[1, 7, 16, 3, 23], &[17, 33]];

/// Whether a recurrence of a graph has a chunk form.
fn derived(graph: &Graph) -> bool {
    let forms = forms::derive(graph, Chunks::Rows(4), forms::MAX_ROWS);
    forms.chunks.values().any(Result::is_ok)
}

/// How many rows of a recurrence are done at once, if it has a form for that. Blocks, which add little to an operator, are judged in
/// one way only.
fn variants(graph: &Graph, is_block: bool) -> &'static [Chunks] {
    match (derived(graph), is_block) {
        (false, _) => &[Chunks::Auto],
        (true, true) => &[Chunks::Auto],
        (true, false) => &[Chunks::Off, Chunks::Rows(5), Chunks::Rows(16), Chunks::Rows(32)],
    }
}

impl Case<'_> {
    /// Runs the case in all ways.
    pub fn check(&self) {
        let ready = self.ready();
        let graph = Graph::build(&build::model(&ready.spec));
        for chunks in variants(&graph, !self.weights.is_empty()) {
            ready.evaluated(&graph, *chunks);
            ready.native(*chunks);
        }
        if derived(&graph) {
            [4, 7, 16].iter().for_each(|rows| ready.evaluated(&graph, Chunks::Rows(*rows)));
        }
    }
}

/// Lengths of parts that make up `times`.
fn parts(times: usize, cut: &[usize]) -> Vec<usize> {
    let mut left = times;
    let part = |length: &usize| {
        let part = (*length).min(left);
        left -= part;
        (part > 0).then_some(part)
    };
    cut.iter().cycle().map_while(part).collect()
}

impl Ready<'_> {
    /// The equations themselves: both sequences, whole and in parts.
    fn evaluated(&self, graph: &Graph, chunks: Chunks) {
        let forms = forms::derive(graph, chunks, forms::MAX_ROWS);
        for sequence in 0..self.golden.batch {
            let whole = [self.golden.times];
            let cuts = if self.whole { vec![&whole[..]] } else { vec![CUTS[0], CUTS[2]] };
            for cut in cuts {
                let mut reference = Reference::in_chunks(&forms, |path| self.numbers(path));
                for start in &self.starts {
                    let axes = reference.state(&start.name).0;
                    reference.set_state(&start.name, self.state(start, sequence, &axes));
                }
                let tokens: Vec<i64> = self.tokens(sequence).into_iter().map(i64::from).collect();
                let (mut rows, mut at) = (vec![], 0);
                for length in parts(tokens.len(), cut) {
                    rows.extend(reference.run(&tokens[at..at + length]).data);
                    at += length;
                }
                let state = |entry: &Entry| reference.state(&entry.name);
                self.judge(&format!("{chunks:?} evaluated in parts of {cut:?}"), sequence, &rows, state);
            }
        }
    }

    /// Native code: every sequence alone, then both at once.
    fn native(&self, chunks: Chunks) {
        let compiled = Compiled::with(&self.spec, chunks, |path, _| self.numbers(path).iter().map(|x| *x as f32).collect());
        let mut session = compiled.session(1, 1);
        for sequence in 0..self.golden.batch {
            let whole = [self.golden.times];
            let cuts = if self.whole { vec![&whole[..]] } else { CUTS.to_vec() };
            for cut in cuts {
                self.start(&mut session, 0, sequence);
                let (tokens, mut rows, mut at) = (self.tokens(sequence), vec![], 0);
                for length in parts(tokens.len(), cut) {
                    rows.extend(feed(&mut session, 0, &tokens[at..at + length]));
                    at += length;
                }
                self.judge_native(&format!("{chunks:?} in parts of {cut:?}"), &session, 0, sequence, &rows);
            }
        }
        if self.whole || self.golden.batch < 2 {
            return;
        }
        let mut session = compiled.session(2, self.golden.batch);
        for cuts in [[CUTS[0], CUTS[0]], [CUTS[1], CUTS[1]], [CUTS[2], CUTS[3]]] {
            self.beside(chunks, &mut session, cuts);
        }
    }

    /// All sequences of the batch in one session, each cut in its own way; a call has the next part of each that is not yet done.
    fn beside(&self, chunks: Chunks, session: &mut Session, cuts: [&[usize]; 2]) {
        let tokens: Vec<Vec<i32>> = (0..cuts.len()).map(|slot| self.tokens(slot)).collect();
        let lengths: Vec<Vec<usize>> = cuts.iter().map(|cut| parts(self.golden.times, cut)).collect();
        (0..cuts.len()).for_each(|slot| self.start(session, slot, slot));
        let (mut rows, mut at) = (vec![vec![]; cuts.len()], vec![0; cuts.len()]);
        for call in 0..lengths.iter().map(Vec::len).max().unwrap_or(0) {
            let left = |slot: usize| lengths[slot].get(call).map(|length| (slot, &tokens[slot][at[slot]..at[slot] + length]));
            let feeds: Vec<(usize, &[i32])> = (0..cuts.len()).filter_map(left).collect();
            for (found, (slot, tokens)) in together(session, &feeds).into_iter().zip(&feeds) {
                rows[*slot].extend(found);
                at[*slot] += tokens.len();
            }
        }
        let how = format!("{chunks:?} side by side in parts of {cuts:?}");
        rows.iter().enumerate().for_each(|(slot, rows)| self.judge_native(&how, session, slot, slot, rows));
    }

    /// Begins a sequence in a slot.
    fn start(&self, session: &mut Session, slot: usize, sequence: usize) {
        session.reset(slot).expect("a slot");
        if self.starts.is_empty() {
            return;
        }
        let mut bytes = session.snapshot(slot).expect("a slot").bytes().to_vec();
        for entry in &self.starts {
            let (axes, place) = place(session, entry);
            let numbers = self.state(entry, sequence, &axes);
            let cells = bytes[place..].chunks_exact_mut(4);
            cells.zip(&numbers).for_each(|(cell, x)| cell.copy_from_slice(&(*x as f32).to_le_bytes()));
        }
        let snapshot = Snapshot::new(session.manifest(), 0, bytes).expect("a snapshot of that size");
        session.restore(slot, &snapshot).expect("a snapshot that fits");
    }

    fn judge_native(&self, how: &str, session: &Session, slot: usize, sequence: usize, rows: &[f32]) {
        let rows: Vec<f64> = rows.iter().map(|x| f64::from(*x)).collect();
        let snapshot = session.snapshot(slot).expect("a slot");
        let state = |entry: &Entry| {
            let (axes, place) = place(session, entry);
            let elements = self.golden.sequence(&entry.source, sequence).len();
            let cells = snapshot.bytes()[place..place + 4 * elements].as_chunks::<4>().0;
            (axes, cells.iter().map(|cell| f64::from(f32::from_le_bytes(*cell))).collect())
        };
        self.judge(how, sequence, &rows, state);
    }
}

/// A state's axes as they are stored, and its first byte in a slot.
fn place(session: &Session, entry: &Entry) -> (Vec<String>, usize) {
    let states = &session.manifest().states;
    let known = states.iter().find(|state| state.name.rsplit('.').next() == Some(&entry.name));
    let state = known.unwrap_or_else(|| panic!("no state {} in {states:?}", entry.name));
    assert_eq!(state.position_bytes, 0, "{} grows", state.name);
    (state.axes.iter().map(|(name, _)| name.clone()).collect(), state.fixed_offset)
}
