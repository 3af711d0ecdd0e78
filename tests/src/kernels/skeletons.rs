//! Kernels called by hand: what a test needs of the runtime's memory, and the kernels that go along rows or search them.

use super::{Loaded, build, targets};
use braid_compiler::fuse::expr::{Expr, TensorId, View};
use braid_compiler::fuse::kernel::{Along, Base, COLUMN, Code, INNER, Rows, Store, Tensor, Top};
use braid_compiler::mlir::common::{Linkage, Ty};
use braid_compiler::mlir::cpu::{Setting, emit_alone};
use braid_compiler::plan::Function;
use braid_compiler::target::Target;
use braid_dsl::model::{Binary, Elem, Unary};
use braid_runtime::artifact::{Call, Kernel, Segment};

/// Scratch bytes, more than any kernel here needs.
const SCRATCH: usize = 1 << 20;

/// Everything that a call points to; `arena`, `weights` and `states` hold 32-bit words.
#[derive(Default)]
pub struct Memory {
    /// Rows of the call, and for how many the arena was made.
    pub rows: usize,
    /// Positions of the caches.
    pub capacity: usize,
    /// The segments of the call.
    pub segments: Vec<Segment>,
    /// Activations.
    pub arena: Vec<f32>,
    /// Weights.
    pub weights: Vec<f32>,
    /// States of all slots.
    pub states: Vec<u32>,
    /// Words of a slot.
    pub slot_words: usize,
}

impl Memory {
    /// Does tasks `0..tasks` of a kernel.
    pub fn run(&mut self, code: &Loaded, operands: &[i64], tasks: usize) {
        let mut positions = vec![0; self.rows];
        let mut row_segments = vec![0; self.rows];
        for (at, segment) in self.segments.iter().enumerate() {
            for row in 0..segment.rows {
                positions[(segment.row + row) as usize] = segment.position + row;
                row_segments[(segment.row + row) as usize] = at as i32;
            }
        }
        let mut scratch = vec![0u8; SCRATCH];
        let call = Call {
            rows: self.rows as i64,
            rows_capacity: self.rows as i64,
            segments: self.segments.len() as i64,
            wanted: 0,
            capacity: self.capacity as i64,
            tokens: std::ptr::null(),
            positions: positions.as_ptr(),
            row_segments: row_segments.as_ptr(),
            segment_table: self.segments.as_ptr(),
            wanted_rows: std::ptr::null(),
            weights: self.weights.as_ptr().cast(),
            prepared: std::ptr::null_mut(),
            arena: self.arena.as_mut_ptr().cast(),
            states: self.states.as_mut_ptr().cast(),
            slot_bytes: self.slot_words as i64 * 4,
            scratch: scratch.as_mut_ptr(),
            output: std::ptr::null_mut(),
            parallel: None,
            pool: std::ptr::null_mut(),
        };
        // SAFETY: `run` is a kernel, and the call's memory is as large as the kernel was told.
        unsafe {
            let run: Kernel = std::mem::transmute(code.symbol("run"));
            // In two halves, as threads would.
            run(&call, operands.as_ptr(), 0, tasks as i64 / 2, 0);
            run(&call, operands.as_ptr(), tasks as i64 / 2, tasks as i64, 0);
        }
    }
}

/// Compiles one kernel, exported as `run`.
pub fn compile(target: &Target, code: Code, stores_keys: bool) -> Loaded {
    let vnni = target.has("avx512vnni");
    let setting = Setting { lanes: target.lanes(), scratch: SCRATCH, schedule: target.schedule, shared: None, vnni };
    build(target, |e| {
        emit_alone(e, &Function { name: "kernel".into(), code, stores_keys, alone: None, parts: 1 }, setting);
        let params = [Ty::PTR, Ty::PTR, Ty::I64, Ty::I64, Ty::I64];
        e.function("run", Linkage::Public, &params, None, |v| e.call("kernel", v, None));
    })
}

/// A tensor of single-precision numbers (or integers).
pub fn tensor(base: Base, operand: usize, row: usize, store: Store) -> Tensor {
    Tensor { base, operand, row, store, through_wanted: false }
}

/// A view from element 0.
pub fn view(tensor: usize, strides: &[(braid_compiler::fuse::expr::KAxis, usize)]) -> View {
    View { tensor: TensorId(tensor), offset: 0, strides: strides.to_vec() }
}

/// Numbers between -1 and 1, always the same ones.
pub fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Segments one after another: (slot, rows, position).
pub fn segments(list: &[(i32, i32, i32)]) -> Vec<Segment> {
    let mut row = 0;
    let place = |&(slot, rows, position): &(i32, i32, i32)| {
        let segment = Segment { slot, row, rows, position, source: 0 };
        row += rows;
        segment
    };
    list.iter().map(place).collect()
}

/// Asserts that two lists agree to some parts of their size.
pub fn close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (f64::from(*got) - expected).abs();
        assert!(off <= tolerance * (1.0 + expected.abs()), "element {at}: {got} is not {expected}");
    }
}

fn along(taps: usize, channels: usize, convolves: bool) -> Along {
    let tile = view(0, &[(COLUMN, 1)]);
    let element = || Box::new(Expr::Load(tile.clone(), Elem::Float));
    let epilogue = Expr::Binary(Binary::Mul, Elem::Float, element(), Box::new(Expr::Unary(Unary::Sigmoid, element())));
    let tensors = vec![
        tensor(Base::Tile, 0, 0, Store::F32),
        tensor(Base::Arena, 0, channels, Store::F32),
        tensor(Base::Weights, 1, 0, Store::F32),
        tensor(Base::State, 2, 0, Store::F32),
        tensor(Base::Arena, 3, channels, Store::F32),
    ];
    let (input, out) = (view(1, &[(COLUMN, 1)]), view(4, &[(COLUMN, 1)]));
    Along { taps, channels, tensors, input, weights: convolves.then_some(TensorId(2)), state: TensorId(3), out, epilogue }
}

/// One sequence's rows so far, and what the kernel should give for its last ones.
fn along_expected(history: &[Vec<f32>], weights: Option<&[f32]>, taps: usize, rows: usize) -> Vec<f64> {
    let channels = history[0].len();
    let mut made = Vec::new();
    for row in history.len() - rows..history.len() {
        for channel in 0..channels {
            let tap = |j: usize| (row + j + 1).checked_sub(taps).map_or(0.0, |at| f64::from(history[at][channel]));
            let sum = match weights {
                Some(weights) => (0..taps).map(|j| f64::from(weights[j * channels + channel]) * tap(j)).sum(),
                None => tap(0),
            };
            made.push(sum / (1.0 + (-sum).exp()));
        }
    }
    made
}

#[test]
fn convolutions_and_shifts_carry_their_window() {
    for target in targets() {
        for (taps, channels, convolves) in [(4, 37, true), (3, 256, true), (2, 16, false), (4, 130, false), (1, 5, true)] {
            let code = compile(&target, Code::Along(along(taps, channels, convolves)), false);
            let weights = noise(taps * channels, 1);
            let slot_words = taps * channels + 8;
            let states = vec![0; 3 * slot_words];
            let mut memory = Memory { weights: weights.clone(), states, slot_words, ..Memory::default() };
            let mut histories: Vec<Vec<Vec<f32>>> = vec![vec![]; 3];
            for (round, cut) in [[(2, 3), (0, 5)], [(0, 1), (2, 1)], [(2, 2), (1, 7)]].iter().enumerate() {
                let list: Vec<_> = cut.iter().map(|&(slot, rows)| (slot, rows, histories[slot as usize].len() as i32)).collect();
                memory.segments = segments(&list);
                memory.rows = cut.iter().map(|c| c.1 as usize).sum();
                let input = noise(memory.rows * channels, 2 + round as u64);
                memory.arena = [input.clone(), vec![0.0; input.len()]].concat();
                let tasks = cut.len() * channels.div_ceil(4 * target.lanes());
                memory.run(&code, &[0, 0, 16, channels as i64 * 4], tasks);
                for segment in memory.segments.clone() {
                    let history = &mut histories[segment.slot as usize];
                    let (first, rows) = (segment.row as usize, segment.rows as usize);
                    history.extend(input.chunks(channels).skip(first).take(rows).map(<[f32]>::to_vec));
                    let expected = along_expected(history, convolves.then_some(&weights), taps, rows);
                    let got = &memory.arena[input.len()..][first * channels..(first + rows) * channels];
                    close(got, &expected, 1e-6);
                }
            }
        }
    }
}

fn top_expected(x: &[f32], count: usize) -> Vec<i32> {
    let mut order: Vec<usize> = (0..x.len()).filter(|i| !x[*i].is_nan()).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
    order.iter().take(count).map(|i| *i as i32).collect()
}

#[test]
fn the_largest_are_found_in_order() {
    let (outer, size, count, rows) = (2, 50, 4, 3);
    for target in targets() {
        let tensors = vec![tensor(Base::Arena, 0, outer * size, Store::F32), tensor(Base::Arena, 1, outer * count, Store::I32)];
        let input = view(0, &[(INNER, size), (COLUMN, 1)]);
        let out = view(1, &[(INNER, count), (COLUMN, 1)]);
        let top = Top { rows: Rows::All, outer, size, count, tensors, input, out };
        let code = compile(&target, Code::Top(top), false);
        let mut x = noise(rows * outer * size, 9);
        // Ties, infinities and numbers that are none.
        (x[7], x[3], x[40]) = (2.0, 2.0, 2.0);
        (x[60], x[61], x[62]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        x[100..150].fill(f32::NEG_INFINITY);
        let mut memory = Memory { rows, segments: segments(&[(0, rows as i32, 0)]), ..Memory::default() };
        memory.arena = [x.clone(), vec![0.0; rows * outer * count]].concat();
        memory.run(&code, &[0, (outer * size * 4) as i64], rows);
        for (x, got) in x.chunks(size).zip(memory.arena[x.len()..].chunks(count)) {
            let got: Vec<i32> = got.iter().map(|v| v.to_bits() as i32).collect();
            assert_eq!(got, top_expected(x, count));
        }
    }
}

#[test]
fn ids_stay_in_range_where_nothing_compares() {
    let (size, count) = (9, 3);
    let tensors = vec![tensor(Base::Arena, 0, size, Store::F32), tensor(Base::Arena, 1, count, Store::I32)];
    let top =
        Top { rows: Rows::All, outer: 1, size, count, tensors, input: view(0, &[(COLUMN, 1)]), out: view(1, &[(COLUMN, 1)]) };
    let code = compile(&targets()[0], Code::Top(top), false);
    let mut memory = Memory { rows: 1, segments: segments(&[(0, 1, 0)]), ..Memory::default() };
    memory.arena = [vec![f32::NAN; size], vec![-1.0; count]].concat();
    memory.run(&code, &[0, (size * 4) as i64], 1);
    assert!(memory.arena[size..].iter().all(|v| v.to_bits() < size as u32));
}
