//! What goes ahead of products whose rows choose their weights: choices are sorted, and rows rounded to their places.

use super::memory::{number, put};
use super::{Grid, Machine, Module};
use crate::apart::{EXPERTS, built_of};
use braid_runtime::artifact::{self, Apart, Call, Dtype, Launch, Lists, Multiplied};
use std::mem::offset_of;

/// Rows of the call, and those that the arena has room for.
const ROWS: usize = 150;
const CAPACITY: usize = 160;
/// Which of the words of a product that chooses are rows and choices.
const LEFT: usize = 0;
const CHOICES: usize = 2;

/// A machine with a call of rows and choices that are made up.
struct Played {
    machine: Machine,
    arena: u64,
    call: u64,
}

impl Played {
    fn new(ptx: &str, arena_row_bytes: usize) -> Played {
        let mut machine = Machine::new(Module::parse(ptx).expect("PTX"));
        let arena = machine.memory.add(vec![0; arena_row_bytes * CAPACITY]);
        let mut call = vec![0; size_of::<Call>()];
        let fields = [
            (offset_of!(Call, rows), ROWS as u64),
            (offset_of!(Call, rows_capacity), CAPACITY as u64),
            (offset_of!(Call, arena), arena),
        ];
        fields.into_iter().for_each(|(at, field)| put(&mut call[at..at + 8], field));
        let call = machine.memory.add(call);
        Played { machine, arena, call }
    }

    /// Numbers of four bytes in the arena, of which each row has `elements`.
    fn fill(&mut self, word: i64, elements: usize, of: impl Fn(usize) -> u32) {
        let place = self.arena + (word as usize * CAPACITY) as u64;
        let bytes = self.machine.memory.at(place, 4 * ROWS * elements).expect("the arena");
        bytes.chunks_exact_mut(4).enumerate().for_each(|(at, to)| put(to, u64::from(of(at))));
    }

    fn numbers(&mut self, from: u64, bytes: usize, count: usize) -> Vec<usize> {
        let all = self.machine.memory.at(from, bytes * count).expect("what was written");
        all.chunks_exact(bytes).map(|own| number(own) as usize).collect()
    }

    fn launch(&mut self, entry: &str, grid: artifact::Grid, blocks: usize, parameters: &[u64]) {
        let grid = Grid { blocks, threads: grid.threads, shared: grid.shared_bytes };
        self.machine.launch(entry, parameters, grid).unwrap_or_else(|error| panic!("{entry}: {error}"));
    }
}

/// Some choice of a row, of which some things are chosen never.
fn chosen(at: usize, elements: usize) -> usize {
    let mixed = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    mixed as usize % elements / 2 * 2
}

/// A number that bfloat16 holds.
fn left(at: usize) -> f32 {
    (at % 251) as f32 - 100.0
}

fn play(ptx: &str, apart: &Apart, launch: &Launch, arena_row_bytes: usize) {
    let Multiplied::Products { depth, chosen: Some(choice), .. } = &apart.what else { return };
    let (depth, count, elements) = (*depth, choice.count, choice.elements);
    let mut played = Played::new(ptx, arena_row_bytes);
    // Rows that each choice has for itself, or all choices of a row together.
    let each = if apart.handed || apart.hands.is_none() && apart.name == OWN_ROWS { count } else { 1 };
    played.fill(launch.words[CHOICES], count, |at| chosen(at, elements) as u32);
    played.fill(launch.words[LEFT], each * depth, |at| left(at).to_bits());
    let lists: Lists = choice.lists(ROWS, apart.rows);
    let words = launch.words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let [words, to, at] =
        [words, vec![0xA5; 2 * ROWS * count * depth], vec![0xA5; lists.end]].map(|own| played.machine.memory.add(own));
    played.launch(&format!("{}_sorts", apart.name), choice.sort, 1, &[played.call, words, at]);
    played.launch(&format!("{}_rounds", apart.name), apart.round.expect("rows are rounded"), 3, &[played.call, words, to, at]);

    let choices = ROWS * count;
    let order = played.numbers(at + lists.order as u64, 4, choices);
    let places = played.numbers(at + lists.places as u64, 4, choices);
    assert!((0..choices).all(|own| order[places[own]] == own), "{}", apart.name);
    let sorted: Vec<usize> = order.iter().map(|own| chosen(*own, elements)).collect();
    assert!(sorted.is_sorted(), "{}", apart.name);
    let mut expected = vec![];
    for element in 0..elements {
        let (start, end) = (sorted.partition_point(|own| *own < element), sorted.partition_point(|own| *own <= element));
        let first = expected.len();
        expected.extend((start..end).step_by(apart.rows).map(|_| [element, first, start, end]));
    }
    assert_eq!(played.numbers(at, 4, 1), [expected.len()], "{}", apart.name);
    assert!(expected.len() <= choice.down(choices, apart.rows));
    assert_eq!(played.numbers(at + lists.tiles as u64, 4, 4 * expected.len()), expected.concat(), "{}", apart.name);
    let rows = played.numbers(to, 2, choices * depth);
    for (place, own) in order.iter().enumerate() {
        let from = if each == 1 { own / count } else { *own };
        let made = (0..depth).map(|at| (left(from * depth + at).to_bits() >> 16) as usize);
        assert!(made.eq(rows[place * depth..(place + 1) * depth].iter().copied()), "{}: choice {own}", apart.name);
    }
}

/// The launch whose rows the launch before could not hand on.
const OWN_ROWS: &str = "products_5";

#[test]
fn choices_are_sorted_and_rows_go_to_their_places() {
    let (ptx, manifest) = built_of(EXPERTS, "cuda:sm_90a", Dtype::Bf16);
    let device = manifest.device.as_ref().expect("a GPU's manifest");
    let own = |step: &Launch| step.apart.map(|at| (device.apart[at].clone(), step.clone()));
    let all: Vec<(Apart, Launch)> = device.steps.iter().filter_map(own).filter(|(apart, _)| apart.chosen().is_some()).collect();
    assert_eq!(all.len(), 8);
    for (apart, launch) in all {
        play(&ptx, &apart, &launch, manifest.arena_row_bytes);
    }
}
