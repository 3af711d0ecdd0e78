//! Brings numbers into the order and precision of the blob.
//!
//! Every packed tensor is a list of equal *units* (a panel, or a row of the last axis), so the blob splits into disjoint tasks of
//! some hundred kilobytes each, which threads take in turn.

use super::fingerprint::fingerprint;
use super::source::{Load, Reader, Source, sources};
use super::{Origin, blob::Blob, quant};
use crate::artifact::{Dtype, GROUP, Layout, Manifest, Packed, Part};
use crate::buffer::Buffer;
use crate::checkpoint::blocks;
use crate::error::Result;
use crate::progress::Progress;
use half::bf16;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes that a thread packs at a time.
const TASK: usize = 512 << 10;
/// Bytes packed after which the checkpoint's pages are given back, so that they do not stand in memory beside what was made of them.
const RELEASE: usize = 4 << 20;
/// Rows of a panel that are filled while the source's cache lines are warm: whole blocks of every kind of checkpoint.
const BLOCK: usize = blocks::LARGEST;

/// Makes the whole blob; with the fingerprint of where it came from.
pub(super) fn pack(manifest: &Manifest, origin: &Origin, threads: usize, progress: &dyn Progress) -> Result<(Blob, u64)> {
    let sources = sources(manifest, origin)?;
    let mut blob = Buffer::new(manifest.weights_bytes, "the packed weights")?;
    progress.begin("packing weights", manifest.weights_bytes as u64);
    let plans: Vec<_> = manifest.packed.iter().map(|packed| Plan::new(packed, &sources[packed.param])).collect();
    let tasks = Mutex::new(tasks(&plans, blob.slice_mut()));
    let done = AtomicUsize::new(0);
    let work = || {
        while let Some(task) = next(&tasks) {
            let bytes = task.out.len();
            task.run();
            progress.advance(bytes as u64);
            let before = done.fetch_add(bytes, Ordering::Relaxed);
            if before / RELEASE != (before + bytes) / RELEASE {
                origin.release();
            }
        }
    };
    std::thread::scope(|scope| {
        (1..threads.max(1)).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    progress.end();
    Ok((Blob::Memory(blob), fingerprint(manifest, &sources, origin)))
}

/// Some units of one packed tensor, and where they go.
struct Task<'a> {
    plan: &'a Plan<'a>,
    first: usize,
    out: &'a mut [u8],
}

fn next<'a>(tasks: &Mutex<Vec<Task<'a>>>) -> Option<Task<'a>> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Splits the blob. `Manifest::check` promises that packed tensors rise by offset and do not overlap.
fn tasks<'a>(plans: &'a [Plan<'a>], mut blob: &'a mut [u8]) -> Vec<Task<'a>> {
    let (mut tasks, mut at) = (Vec::new(), 0);
    for plan in plans {
        let (_, rest) = blob.split_at_mut(plan.offset - at);
        let (mine, rest) = rest.split_at_mut(plan.units * plan.unit_bytes());
        (at, blob) = (plan.offset + mine.len(), rest);
        let units = (TASK / plan.unit_bytes()).max(1);
        let parts = mine.chunks_mut(units * plan.unit_bytes()).enumerate();
        tasks.extend(parts.map(|(part, out)| Task { plan, first: part * units, out }));
    }
    tasks.reverse();
    tasks
}

/// How one packed tensor is filled. A unit is `rows` rows of `width` numbers.
struct Plan<'a> {
    source: &'a Source<'a>,
    dtype: Dtype,
    offset: usize,
    units: usize,
    /// Units of one batch element.
    panels: usize,
    batch: Axes,
    rows: Axes,
    columns: Axes,
    width: usize,
    /// Whether units are columns for GPUs.
    part: Option<Part>,
}

impl<'a> Plan<'a> {
    fn new(packed: &Packed, source: &'a Source<'a>) -> Self {
        let axes = |axes: &[usize]| Axes::new(axes, source);
        let (batch, rows, columns, width) = match &packed.layout {
            Layout::Dense(order) => {
                let inner = order.len().saturating_sub(1);
                let columns = axes(&order[inner..]);
                let width = columns.count();
                (axes(&order[..inner]), axes(&[]), columns, width)
            }
            Layout::Panels { batch, k, n, width } => (axes(batch), axes(k), axes(n), *width),
            Layout::Columns { batch, k, n } => (axes(batch), axes(k), axes(n), 1),
        };
        let part = packed.dtype.part().filter(|_| matches!(packed.layout, Layout::Columns { .. }));
        let panels = columns.count().div_ceil(width);
        let units = batch.count() * panels;
        Self { source, dtype: packed.dtype, offset: packed.offset, units, panels, batch, rows, columns, width, part }
    }

    fn unit_bytes(&self) -> usize {
        if let Some(part) = self.part {
            return part.column_bytes(self.rows.count());
        }
        match self.dtype.panels_only() {
            true => self.width * self.dtype.bytes(self.rows.count()),
            false => self.rows.count() * self.width * self.dtype.bytes(1),
        }
    }
}

impl Task<'_> {
    fn run(self) {
        match self.plan.dtype {
            Dtype::F32 => self.store(f32::to_le_bytes),
            // Rounds to nearest, ties to even; NaN stays NaN.
            Dtype::Bf16 => self.store(|number| bf16::from_f32(number).to_le_bytes()),
            _ => self.encode(),
        }
    }

    fn encode(self) {
        match &self.plan.source.reader {
            Reader::F32(elements) => self.plan.encode(elements, self.first, self.out),
            Reader::F16(elements) => self.plan.encode(elements, self.first, self.out),
            Reader::Bf16(elements) => self.plan.encode(elements, self.first, self.out),
            Reader::Bytes(bytes) => self.plan.encode(bytes, self.first, self.out),
            Reader::Blocks(blocks) => self.plan.encode(blocks, self.first, self.out),
            Reader::Random(random) => self.plan.encode(random, self.first, self.out),
        }
    }

    fn store<const BYTES: usize>(self, convert: impl Fn(f32) -> [u8; BYTES] + Copy) {
        let (out, _) = self.out.as_chunks_mut();
        match &self.plan.source.reader {
            Reader::F32(elements) => self.plan.fill(elements, self.first, out, convert),
            Reader::F16(elements) => self.plan.fill(elements, self.first, out, convert),
            Reader::Bf16(elements) => self.plan.fill(elements, self.first, out, convert),
            Reader::Bytes(bytes) => self.plan.fill(bytes, self.first, out, convert),
            Reader::Blocks(blocks) => self.plan.fill(blocks, self.first, out, convert),
            Reader::Random(random) => self.plan.fill(random, self.first, out, convert),
        }
    }
}

impl Plan<'_> {
    /// Where a unit begins, and its columns.
    fn unit(&self, unit: usize) -> (Place, Vec<Place>) {
        let base = self.batch.place(unit / self.panels).add(Place { tensor: 0, index: self.source.offset });
        let start = unit % self.panels * self.width;
        (base, self.columns.places(start..(start + self.width).min(self.columns.count())))
    }

    /// Panels of groups: the numbers of a column and a group are stored together.
    fn encode<L: Load>(&self, source: &L, first: usize, out: &mut [u8]) {
        let rows = self.rows.places(0..self.rows.count());
        let mut cursor = L::Cursor::default();
        for (unit, out) in (first..).zip(out.chunks_exact_mut(self.unit_bytes())) {
            let (base, columns) = self.unit(unit);
            if let Some(part) = self.part {
                for (number, group) in rows.chunks(GROUP).enumerate() {
                    let numbers = numbers(source, &mut cursor, base.add(columns[0]), group);
                    quant::encode_part(self.dtype, part, &numbers, out, number);
                }
                continue;
            }
            let bytes = |rows: usize| self.width * self.dtype.bytes(rows);
            for (block, out) in rows.chunks(BLOCK).zip(out.chunks_mut(bytes(BLOCK))) {
                for (column, place) in columns.iter().enumerate() {
                    let place = base.add(*place);
                    for (group, out) in block.chunks(GROUP).zip(out.chunks_mut(bytes(GROUP))) {
                        let numbers = numbers(source, &mut cursor, place, group);
                        quant::encode(self.dtype, &numbers, out, column, self.width);
                    }
                }
            }
        }
    }

    fn fill<L: Load, T>(&self, source: &L, first: usize, out: &mut [T], convert: impl Fn(f32) -> T + Copy) {
        let rows = self.rows.places(0..self.rows.count());
        let mut cursor = L::Cursor::default();
        let units = out.chunks_exact_mut(self.rows.count() * self.width);
        for (unit, out) in (first..).zip(units) {
            let (base, columns) = self.unit(unit);
            for (block, out) in rows.chunks(BLOCK).zip(out.chunks_mut(BLOCK * self.width)) {
                for (column, place) in columns.iter().enumerate() {
                    let place = base.add(*place);
                    for (row, out) in block.iter().zip(out.chunks_exact_mut(self.width)) {
                        let at = place.add(*row);
                        out[column] = convert(source.load(&mut cursor, at.tensor, at.index));
                    }
                }
            }
        }
    }
}

/// The numbers of a column and a group. What is multiplied by zeros must not widen the range of the others.
fn numbers<L: Load>(source: &L, cursor: &mut L::Cursor, column: Place, group: &[Place]) -> [f32; GROUP] {
    let mut numbers = [0.0; GROUP];
    for (row, number) in group.iter().zip(&mut numbers) {
        let at = column.add(*row);
        *number = source.load(cursor, at.tensor, at.index);
    }
    let first = numbers[0];
    numbers[group.len()..].fill(first);
    numbers
}

/// An element of a source; places of several groups of axes add up.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) tensor: usize,
    pub(super) index: usize,
}

impl Place {
    #[inline(always)]
    pub(super) fn add(self, other: Self) -> Self {
        Self { tensor: self.tensor + other.tensor, index: self.index + other.index }
    }
}

/// Some axes of a parameter, slowest first: `(size, step)`.
pub(super) struct Axes(Vec<(usize, Place)>);

impl Axes {
    pub(super) fn new(axes: &[usize], source: &Source) -> Self {
        let place = |axis, index| Place { tensor: usize::from(source.stacked == Some(axis)), index };
        let steps = |axis: &usize| {
            let axis = *axis;
            source.steps[axis].iter().map(move |(size, stride)| (*size, place(axis, *stride)))
        };
        Self(axes.iter().flat_map(steps).collect())
    }

    fn count(&self) -> usize {
        self.0.iter().map(|(size, _)| size).product()
    }

    pub(super) fn place(&self, mut number: usize) -> Place {
        let mut place = Place { tensor: 0, index: 0 };
        for (size, step) in self.0.iter().rev() {
            let at = number % size;
            number /= size;
            place = place.add(Place { tensor: step.tensor * at, index: step.index * at });
        }
        place
    }

    fn places(&self, range: Range<usize>) -> Vec<Place> {
        range.map(|number| self.place(number)).collect()
    }
}
