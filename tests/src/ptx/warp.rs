//! Warps, and what their lanes do together.

use super::machine::Step;
use super::memory::{number, put};
use super::ops::{bits, single};
use super::parse::{Function, Source, Space, Together};
use half::bf16;
use std::collections::VecDeque;
use std::sync::Arc;

/// Lanes of a warp.
pub const LANES: usize = 32;
/// A value of each lane.
pub type Lanes = [u64; LANES];

/// The lanes of a mask.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = (left != 0).then(|| left.trailing_zeros() as usize);
        left &= left.wrapping_sub(1);
        lane
    })
}

/// A function that a warp is in.
#[derive(Debug)]
pub struct Frame {
    /// Which.
    pub function: Arc<Function>,
    /// Registers of each lane.
    pub registers: Vec<Lanes>,
    /// Where each lane is.
    pub pc: [u32; LANES],
    /// Lanes that have not left it.
    pub live: u32,
    /// What it was called with, and what the next function will be.
    pub parameters: Vec<Lanes>,
    /// See above.
    pub arguments: Vec<Lanes>,
}

impl Frame {
    /// At its beginning.
    pub fn new(function: &Arc<Function>, parameters: Vec<Lanes>) -> Frame {
        // Nothing says what a register holds at first.
        let registers = vec![[0xA5A5_A5A5_A5A5_A5A5; LANES]; function.registers];
        Frame { function: Arc::clone(function), registers, pc: [0; LANES], live: u32::MAX, parameters, arguments: vec![] }
    }
}

/// A copy that a thread has begun: to shared memory, from the device's; of so many bytes, of which so many are read.
#[derive(Clone, Copy, Debug)]
struct Begun {
    to: u64,
    from: u64,
    bytes: usize,
    read: usize,
}

/// The copies of a lane: those that are not closed, and closed groups.
#[derive(Debug, Default)]
struct Copies {
    open: Vec<Begun>,
    groups: VecDeque<Vec<Begun>>,
}

/// A warp.
#[derive(Debug, Default)]
pub struct Warp {
    /// The functions that it is in, innermost last.
    pub frames: Vec<Frame>,
    /// Its first thread.
    pub first: usize,
    /// Lanes that wait for the block.
    pub waiting: u32,
    /// Lanes that are where all have to be, and not all are.
    pub held: u32,
    copies: Vec<Copies>,
}

impl Warp {
    /// At the beginning of an entry.
    pub fn new(frame: Frame, first: usize) -> Warp {
        Warp { frames: vec![frame], first, waiting: 0, held: 0, copies: (0..LANES).map(|_| Copies::default()).collect() }
    }

    /// The innermost function.
    pub fn frame(&mut self) -> &mut Frame {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// The same, to look at.
    pub fn frame_ref(&self) -> &Frame {
        &self.frames[self.frames.len() - 1]
    }

    /// The lanes whose turn it is: those that are furthest behind, so that lanes that parted meet again.
    pub fn group(&self) -> Option<(usize, u32)> {
        let frame = self.frames.last()?;
        let ready = frame.live & !self.waiting & !self.held;
        // Mostly all are at one place.
        if ready == u32::MAX && frame.pc == [frame.pc[0]; LANES] {
            return Some((frame.pc[0] as usize, ready));
        }
        let pc = lanes(ready).map(|lane| frame.pc[lane]).min()?;
        let group = lanes(ready).filter(|lane| frame.pc[*lane] == pc).fold(0, |mask, lane| mask | 1 << lane);
        Some((pc as usize, group))
    }

    /// Lets those go on that were held, if all are where they are.
    pub fn gather(&mut self) -> Result<(), String> {
        let (held, frame) = (std::mem::take(&mut self.held), self.frame_ref());
        let mut places = lanes(held).map(|lane| frame.pc[lane]);
        let first = places.next();
        let together = held == frame.live && places.all(|pc| Some(pc) == first);
        if together { Ok(()) } else { Err(format!("`{}`: lanes of a warp do not meet where they have to", frame.function.name)) }
    }

    /// Lanes leave their function.
    pub fn leave(&mut self, group: u32) {
        self.frame().live &= !group;
        if self.frame().live == 0 {
            self.frames.pop();
        }
    }

    fn waits(&self) -> bool {
        self.frames.last().is_none_or(|frame| frame.live & !self.waiting == 0)
    }
}

/// A block.
pub struct Block {
    /// Its number.
    pub number: usize,
    /// Its shared memory.
    pub shared: Vec<u8>,
    /// Its warps.
    pub warps: Vec<Warp>,
    /// Copies of the engine that have not arrived: of which barrier, to, from, bytes.
    pub bulk: Vec<(u64, u64, u64, usize)>,
}

impl Block {
    /// Whether it is done.
    pub fn is_over(&self) -> bool {
        self.warps.iter().all(|warp| warp.frames.is_empty())
    }

    /// Lets all go on if all wait.
    pub fn meet(&mut self) {
        if self.warps.iter().all(Warp::waits) {
            self.warps.iter_mut().for_each(|warp| warp.waiting = 0);
        }
    }

    /// Whether any lane has something to do.
    pub fn can_go_on(&self) -> bool {
        self.warps.iter().any(|warp| warp.held != 0 || warp.group().is_some())
    }

    /// Where it is, for an error.
    pub fn whereabouts(&self) -> String {
        let places = self.warps.iter().filter_map(|warp| warp.frames.last());
        let places = places.map(|frame| format!(" {}:{}", frame.function.name, frame.pc[0]));
        format!("block {}{}; ", self.number, places.collect::<String>())
    }
}

/// A barrier's word: phase, arrivals that it takes and that are missing, and bytes that are missing.
struct Barrier {
    phase: u64,
    count: u64,
    missing: u64,
    bytes: i32,
}

impl Barrier {
    fn of(word: u64) -> Barrier {
        Barrier { phase: word & 1, count: word >> 8 & 0xFF, missing: word >> 16 & 0xFF, bytes: (word >> 32) as i32 }
    }

    fn word(mut self) -> u64 {
        if self.missing == 0 && self.bytes == 0 {
            (self.phase, self.missing) = (self.phase ^ 1, self.count);
        }
        self.phase | self.count << 8 | self.missing << 16 | u64::from(self.bytes as u32) << 32
    }
}

impl Step<'_> {
    /// What a lane reads as number `at` of an operand list.
    fn operand(&self, sources: &[Source], at: usize, lane: usize) -> u64 {
        self.read(sources[at], lane)
    }

    /// The address that begins at operand `at`.
    fn place(&self, sources: &[Source], at: usize, lane: usize) -> u64 {
        self.operand(sources, at, lane).wrapping_add(self.operand(sources, at + 1, lane))
    }

    pub(super) fn together(&mut self, what: Together, into: &[usize], sources: &[Source]) -> Result<(), String> {
        match what {
            Together::ShuffleXor | Together::ShuffleIndex => self.shuffle(what, into[0], sources),
            Together::Any => self.any(into[0], sources),
            Together::LoadMatrices { turned } => self.load_matrices(into, sources, turned),
            Together::MultiplyBf16 | Together::MultiplyTf32 | Together::MultiplyBytes => self.multiply(what, into, sources),
            Together::Add(space) => self.add(space, into[0], sources),
            Together::Copy | Together::CloseCopies | Together::WaitCopies => self.copy(what, sources),
            Together::BulkCopy
            | Together::BulkPrefetch
            | Together::BarrierInit
            | Together::BarrierExpect
            | Together::BarrierWait => self.barrier(what, into, sources),
        }
    }

    fn whole(&self) -> Result<(), String> {
        if self.group == u32::MAX { Ok(()) } else { Err("only some lanes of a warp are here".into()) }
    }

    /// Whether a predicate holds in any lane.
    fn any(&mut self, into: usize, sources: &[Source]) -> Result<(), String> {
        self.whole()?;
        let any = (0..LANES).any(|lane| self.operand(sources, 0, lane) != 0);
        (0..LANES).for_each(|lane| self.write(into, lane, u64::from(any)));
        Ok(())
    }

    fn shuffle(&mut self, what: Together, into: usize, sources: &[Source]) -> Result<(), String> {
        self.whole()?;
        let values: Vec<u64> = (0..LANES).map(|lane| self.operand(sources, 0, lane)).collect();
        for lane in 0..LANES {
            let by = self.operand(sources, 1, lane) as usize;
            let from = if what == Together::ShuffleXor { lane ^ by } else { by };
            let value = values.get(from).ok_or("a lane that is none")?;
            self.write(into, lane, *value);
        }
        Ok(())
    }

    fn load_matrices(&mut self, into: &[usize], sources: &[Source], turned: bool) -> Result<(), String> {
        self.whole()?;
        let rows: Vec<u64> = (0..LANES).map(|lane| self.place(sources, 0, lane)).collect();
        let rows: Vec<Vec<u8>> =
            rows.iter().map(|row| self.bytes(Space::Shared, *row, 16).map(|row| row.to_vec())).collect::<Result<_, _>>()?;
        for (matrix, register) in into.iter().enumerate() {
            for lane in 0..LANES {
                let (group, within) = (lane / 4, lane % 4);
                let half = |row: usize, column: usize| number(&rows[8 * matrix + row][2 * column..2 * column + 2]);
                let pair = |at: usize| if turned { half(2 * within + at, group) } else { half(group, 2 * within + at) };
                self.write(*register, lane, pair(0) | pair(1) << 16);
            }
        }
        Ok(())
    }

    /// `mma.m16n8k16` of bfloat16 numbers, `mma.m16n8k32` of bytes with signs, or `mma.m16n8k8` of single ones, of which the unit takes the first bits.
    fn multiply(&mut self, what: Together, into: &[usize], sources: &[Source]) -> Result<(), String> {
        self.whole()?;
        let bytes = what == Together::MultiplyBytes;
        // Numbers of a register.
        let each = match what {
            Together::MultiplyBf16 => 2,
            Together::MultiplyBytes => 4,
            _ => 1,
        };
        let depth = 8 * each;
        let (mut left, mut right) = ([[0f32; 32]; 16], [[0f32; 32]; 8]);
        for lane in 0..LANES {
            let (group, within) = (lane / 4, lane % 4);
            // Where the numbers of register `at` begin along the depth.
            let along = |at: usize| each * (within + 4 * at);
            for at in 0..4 {
                let row = group + 8 * (at % 2);
                let own = numbers(self.operand(sources, at, lane), what);
                left[row][along(at / 2)..][..each].copy_from_slice(&own[..each]);
            }
            for at in 0..2 {
                let own = numbers(self.operand(sources, 4 + at, lane), what);
                right[group][along(at)..][..each].copy_from_slice(&own[..each]);
            }
        }
        for lane in 0..LANES {
            for (at, register) in into.iter().enumerate() {
                let (row, column) = (lane / 4 + 8 * (at / 2), 2 * (lane % 4) + at % 2);
                let start = self.operand(sources, 6 + at, lane);
                let start = if bytes { f64::from(start as u32 as i32) } else { f64::from(single(start)) };
                let pairs = left[row][..depth].iter().zip(&right[column]);
                let made = pairs.fold(start, |sum, (a, b)| sum + f64::from(*a) * f64::from(*b));
                self.write(*register, lane, if bytes { u64::from(made as i32 as u32) } else { bits(made as f32) });
            }
        }
        Ok(())
    }

    fn add(&mut self, space: Space, into: usize, sources: &[Source]) -> Result<(), String> {
        for lane in lanes(self.group) {
            let (address, by) = (self.place(sources, 0, lane), self.operand(sources, 2, lane));
            let word = self.bytes(space, address, 4)?;
            let before = number(word);
            put(word, u64::from((before as u32).wrapping_add(by as u32)));
            self.write(into, lane, before);
        }
        Ok(())
    }

    fn copy(&mut self, what: Together, sources: &[Source]) -> Result<(), String> {
        for lane in lanes(self.group) {
            match what {
                Together::Copy => {
                    let (to, from) = (self.place(sources, 0, lane), self.place(sources, 2, lane));
                    let bytes = self.operand(sources, 4, lane) as usize;
                    let read = sources.get(5).map_or(bytes, |source| self.read(*source, lane) as u32 as usize);
                    self.poison(to, bytes)?;
                    self.warp.copies[lane].open.push(Begun { to, from, bytes, read });
                }
                Together::CloseCopies => {
                    let own = &mut self.warp.copies[lane];
                    let closed = std::mem::take(&mut own.open);
                    own.groups.push_back(closed);
                }
                _ => {
                    let left = self.operand(sources, 0, lane) as usize;
                    while self.warp.copies[lane].groups.len() > left {
                        let group = self.warp.copies[lane].groups.pop_front().unwrap_or_default();
                        group.into_iter().try_for_each(|begun| self.arrive(begun))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A copy may come at any time from now on: what it will overwrite is no number meanwhile.
    fn poison(&mut self, to: u64, bytes: usize) -> Result<(), String> {
        (0..bytes).step_by(4).try_for_each(|at| self.bytes(Space::Shared, to + at as u64, 4).map(|word| word.fill(0xFF)))
    }

    /// A copy comes.
    fn arrive(&mut self, Begun { to, from, bytes, read }: Begun) -> Result<(), String> {
        if read > bytes || !from.is_multiple_of(bytes.min(16) as u64) {
            return Err(format!("a copy of {read} of {bytes} bytes from {from:#x}"));
        }
        let mut copied = if read > 0 { self.machine.memory.at(from, read)?.to_vec() } else { vec![] };
        copied.resize(bytes, 0);
        for (at, part) in copied.chunks(16).enumerate() {
            self.bytes(Space::Shared, to + 16 * at as u64, part.len())?.copy_from_slice(part);
        }
        Ok(())
    }

    fn barrier(&mut self, what: Together, into: &[usize], sources: &[Source]) -> Result<(), String> {
        for lane in lanes(self.group) {
            if what == Together::BulkPrefetch {
                let (from, bytes) = (self.place(sources, 0, lane), self.operand(sources, 2, lane) as u32 as usize);
                if bytes == 0 || !bytes.is_multiple_of(16) || !from.is_multiple_of(16) {
                    return Err(format!("{bytes} bytes from {from:#x} are asked for"));
                }
                self.machine.memory.at(from, bytes)?;
                continue;
            }
            if what == Together::BulkCopy {
                let (to, from) = (self.place(sources, 0, lane), self.place(sources, 2, lane));
                let bytes = self.operand(sources, 4, lane) as u32 as usize;
                let barrier = self.place(sources, 5, lane);
                if bytes == 0 || !bytes.is_multiple_of(16) || !to.is_multiple_of(16) || !from.is_multiple_of(16) {
                    return Err(format!("a copy of {bytes} bytes from {from:#x} to {to:#x}"));
                }
                self.poison(to, bytes)?;
                self.block.bulk.push((barrier, to, from, bytes));
                continue;
            }
            let (place, value) = (self.place(sources, 0, lane), self.operand(sources, 2, lane));
            let mut barrier = Barrier::of(number(self.bytes(Space::Shared, place, 8)?));
            match what {
                Together::BarrierInit => barrier = Barrier { phase: 0, count: value, missing: value, bytes: 0 },
                Together::BarrierExpect => {
                    barrier.missing = barrier.missing.checked_sub(1).ok_or("a barrier that takes no arrival now")?;
                    barrier.bytes += value as i32;
                }
                _ => {
                    while let Some(at) = self.block.bulk.iter().position(|copy| copy.0 == place) {
                        let (_, to, from, bytes) = self.block.bulk.remove(at);
                        self.arrive(Begun { to, from, bytes, read: bytes })?;
                        barrier.bytes -= bytes as i32;
                    }
                }
            }
            let word = barrier.word();
            put(self.bytes(Space::Shared, place, 8)?, word);
            if what == Together::BarrierWait {
                self.write(into[0], lane, u64::from(word & 1 != value & 1));
            }
        }
        Ok(())
    }
}

/// The numbers of a fragment's register; zeros behind them.
fn numbers(register: u64, what: Together) -> [f32; 4] {
    match what {
        Together::MultiplyBf16 => {
            let half = |at: u32| bf16::from_bits((register >> at) as u16).to_f32();
            [half(0), half(16), 0.0, 0.0]
        }
        Together::MultiplyBytes => (register as u32).to_le_bytes().map(|byte| f32::from(byte as i8)),
        _ => [f32::from_bits(register as u32 & !0x1FFF), 0.0, 0.0, 0.0],
    }
}
