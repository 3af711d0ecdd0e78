//! Walks along a sequence: step by step, or chunk by chunk, with states and the rows that products read in shared memory.

use super::held::Held;
use super::resident::Resident;
use super::{THREADS, lanes, nest};
use crate::fuse::expr::{KAxis, View};
use crate::fuse::kernel::{CHUNKS_AT_ONCE, COPIED, Nest, Nests, Part, Staged, Staging, Walk};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::segment::{own_block, place_in_grid, rows};
use crate::mlir::common::site::{Site, for_each};
use crate::mlir::common::{Cmp, KernelArgs, Val};
use crate::plan::by_warps;

const _: () = assert!(COPIED == COPY);

/// Whether calls of many rows have code of their own: what walks ahead keeps more in registers than a step should save and bring back;
/// rows that warps do are many, and so are long ones, which need memory that is for what steps read ahead.
pub fn is_split(code: &Nests, groups: bool) -> bool {
    by_warps(code)
        || Held::of_long_rows(code, groups).is_some()
        || matches!(code.walk, Walk::Segments { .. })
            && code.staging == Staging::default()
            && lanes::Walk::of(code, groups).is_some()
}

/// One sequence at one place of the grid; of chunks side by side, some of them. `scratch`: the address of a byte of scratch. `many`: its
/// rows may be many.
pub fn task_of<'c>(
    site: &mut Site<'_, 'c>,
    code: &Nests,
    task: Val<'c>,
    (args, scratch): (KernelArgs<'c>, &dyn Fn(usize) -> Val<'c>),
    many: bool,
) {
    let Walk::Segments { grid, blocked: cut, part } = &code.walk else { return };
    let e = site.e;
    let (side, task) = match part {
        Part::Intra(_) => (Some(e.rem(task, e.i64(CHUNKS_AT_ONCE))), e.div(task, e.i64(CHUNKS_AT_ONCE))),
        _ => (None, task),
    };
    let rest = place_in_grid(site, grid, *cut, (&code.sizes, task));
    let block = cut.map(|(axis, width)| (axis, site.index[&axis], width));
    if let (Some((axis, first, _)), Part::Chunks(_) | Part::Intra(_)) = (block, part) {
        own_block(site, code, (axis, first), scratch);
    }
    let own = e.segment(args.call, rest);
    site.set_slot(own.slot);
    let (from, to, step) = rows(e, *part, own);
    let (from, step) = match side {
        Some(side) => (e.add(from, e.mul(side, e.i64(step))), step * CHUNKS_AT_ONCE),
        None => (from, step),
    };
    let chunks = Chunks { code, block, to, step, walks: side.is_none() };
    e.sync();
    if chunks.walks && code.staging.places > 1 {
        return e.if_then(e.cmp(Cmp::Lt, from, to), || chunks.walk_ahead(site, from));
    }
    if code.staging == Staging::default() {
        let mut steps = |from| for_each(e, from, to, e.i64(step), |row| chunks.all(site, row));
        return match lanes::Walk::of(code, e.has_groups()).filter(|_| many) {
            None => steps(from),
            Some(walk) => {
                let many = e.cmp(Cmp::Ge, e.sub(to, from), e.i64(lanes::FEWEST));
                steps(e.select(many, to, from));
                if let Some((_, first, _)) = block {
                    e.if_then(many, || walk.emit(site, first, (from, to)));
                }
            }
        };
    }
    e.if_then(e.cmp(Cmp::Lt, from, to), || {
        if chunks.walks {
            chunks.copy_all(site, from);
        }
        chunks.each(site, &code.staging.before);
        for_each(e, from, to, e.i64(step), |row| {
            if !chunks.walks {
                chunks.copy_all(site, row);
            }
            chunks.all(site, row);
        });
        e.wait_copies(0);
        chunks.each(site, &code.staging.after);
    });
}

/// A task's walk.
struct Chunks<'n, 'c> {
    code: &'n Nests,
    /// The axis that is cut into blocks, where the task's begins, and how wide it is.
    block: Option<(KAxis, Val<'c>, usize)>,
    /// Past the last row.
    to: Val<'c>,
    /// Rows from one turn to the next.
    step: usize,
    /// Whether each chunk follows the one before.
    walks: bool,
}

impl<'c> Chunks<'_, 'c> {
    fn each(&self, site: &mut Site<'_, 'c>, nests: &[Nest]) {
        for nest in nests {
            self.one(site, nest);
            site.e.sync();
        }
    }

    fn one(&self, site: &mut Site<'_, 'c>, nest: &Nest) {
        let first = self.stand(site);
        nest::one(site, self.code, nest, first);
    }

    /// Stands where the task's block begins, and tells where that is.
    fn stand(&self, site: &mut Site<'_, 'c>) -> Option<Val<'c>> {
        let (axis, first, _) = self.block?;
        site.index.insert(axis, first);
        Some(first)
    }

    /// A walk of which several chunks' rows are there or under way. Threads meet as a turn begins: what it reads has come then, and nobody
    /// reads what the turn before had, whose place is filled again.
    fn walk_ahead(&self, site: &mut Site<'_, 'c>, from: Val<'c>) {
        let e = site.e;
        let Staging { places, staged, before, after, .. } = &self.code.staging;
        let resident = Resident::of(self.code, self.block.map(|(axis, _, width)| (axis, width)));
        let crew = resident.as_ref().and_then(Resident::idle).unwrap_or(0);
        let ahead = Ahead { chunks: self, homes: staged.iter().map(|own| site.base(own.to.tensor.0)).collect(), crew };
        for turn in 0..places - 1 {
            ahead.at_place(site, e.i32(turn as i32));
            ahead.copy(site, e.add(from, e.i64(turn * self.step)));
        }
        self.each(site, before);
        let begin = |site: &mut Site<'_, 'c>, row: Val<'c>, place: Val<'c>| {
            e.wait_copies((places - 2) * staged.len());
            e.sync();
            ahead.at_place(site, place);
            site.set_row(row, false);
        };
        let last = e.i32(*places as i32 - 1);
        let copies = |site: &mut Site<'_, 'c>, row: Val<'c>, place: Val<'c>| {
            let none = e.cmp(Cmp::Eq, place, e.i32(0));
            ahead.at_place(site, e.select(none, last, e.sub(place, e.i32(1))));
            ahead.copy(site, e.add(row, e.i64((places - 1) * self.step)));
            ahead.at_place(site, place);
            site.set_row(row, false);
        };
        let next = |place: Val<'c>| e.select(e.cmp(Cmp::Eq, place, last), e.i32(0), e.add(place, e.i32(1)));
        let first = |axis| self.block.filter(|(cut, ..)| *cut == axis).map(|(_, first, _)| first);
        let held = resident.as_ref().map(|resident| {
            let spot = resident.spot(site, &first);
            let numbers = resident.begin(site, &spot);
            (resident, spot, numbers)
        });
        let numbers = held.iter().flat_map(|(.., numbers)| numbers.iter().copied());
        let start: Vec<Val> = [e.i32(0)].into_iter().chain(numbers).collect();
        let made = e.for_loop(from, self.to, e.i64(self.step), &start, |row, carried| {
            let place = carried[0];
            begin(site, row, place);
            let copies = |site: &mut Site<'_, 'c>| copies(site, row, place);
            let numbers = match &held {
                Some((resident, spot, _)) => {
                    resident.turn(site, (spot, &first, &carried[1..]), &|site, nest| self.one(site, nest), &copies)
                }
                None => {
                    copies(site);
                    for (at, nest) in self.code.nests.iter().enumerate() {
                        if at > 0 {
                            e.sync();
                        }
                        self.one(site, nest);
                    }
                    vec![]
                }
            };
            [next(place)].into_iter().chain(numbers).collect()
        });
        if let Some((resident, spot, _)) = &held {
            resident.end(site, spot, &made[1..]);
        }
        e.wait_copies(0);
        e.sync();
        self.each(site, after);
    }

    /// All nests for a row, or for a chunk that begins there. Threads meet ahead of each nest but the first, and behind the last; ahead of
    /// the first if it waits for copies. A product that goes on with the sums of the one before waits for nobody.
    fn all(&self, site: &mut Site<'_, 'c>, row: Val<'c>) {
        let e = site.e;
        site.set_row(row, false);
        let (nests, staged) = (&self.code.nests, &self.code.staging.staged);
        let mut at = 0;
        while at < nests.len() {
            let count = if !self.walks && nest::goes_on(self.code, at) { 2 } else { 1 };
            let first = |staged: &&Staged| (at..at + count).contains(&staged.used[0]);
            let under_way = staged.iter().filter(first).map(|own| self.under_way(own, at)).min();
            if let Some(under_way) = under_way {
                e.wait_copies(under_way);
            }
            if at > 0 || under_way.is_some() {
                e.sync();
            }
            self.copy_behind(site, row, at.wrapping_sub(1));
            if count == 2 {
                self.both(site, at)
            } else {
                self.one(site, &nests[at])
            }
            at += count;
        }
        e.sync();
        self.copy_behind(site, row, nests.len() - 1);
    }

    /// A product and the one that goes on with its sums.
    fn both(&self, site: &mut Site<'_, 'c>, at: usize) {
        let first = self.stand(site);
        nest::two(site, self.code, at, first);
    }

    /// Begins to copy the next chunk's rows of what nobody reads behind nest `at`.
    fn copy_behind(&self, site: &mut Site<'_, 'c>, row: Val<'c>, at: usize) {
        let e = site.e;
        for own in self.code.staging.staged.iter().filter(|own| self.walks && own.used[1] == at) {
            // Behind the last chunk the last one is copied again.
            let next = e.add(row, e.i64(self.step));
            self.copy(site, own, e.min(next, e.sub(self.to, e.i64(self.step))), 0);
            site.set_row(row, false);
        }
    }

    /// Copies that were begun after this one's, and before threads meet ahead of nest `at`.
    fn under_way(&self, own: &Staged, at: usize) -> usize {
        let staged = &self.code.staging.staged;
        let place = staged.iter().position(|other| other == own).unwrap_or(0);
        let behind = staged.len() - 1 - place;
        let again = staged.iter().filter(|other| self.walks && other.used[1] + 1 < at).count();
        behind + again
    }

    fn copy_all(&self, site: &mut Site<'_, 'c>, row: Val<'c>) {
        for staged in &self.code.staging.staged {
            self.copy(site, staged, row, 0);
        }
    }

    /// Begins to copy the rows of the chunk at `row`, as a group of its own: the threads from warp `crew` on.
    fn copy(&self, site: &mut Site<'_, 'c>, staged: &Staged, row: Val<'c>, crew: usize) {
        let e = site.e;
        let threads = THREADS - crew * WARP;
        let thread = if crew == 0 { e.thread() } else { e.sub(e.thread(), e.i32((crew * WARP) as i32)) };
        let [rows, content] = staged.axes;
        let own = self.block.filter(|(axis, ..)| Some(*axis) == content);
        let lines = self.block.filter(|(axis, ..)| Some(*axis) == rows);
        let count = rows.map_or(1, |rows| lines.map_or(self.code.sizes[rows.0], |(.., width)| width));
        let width = content.map(|content| own.map_or(self.code.sizes[content.0], |(.., width)| width));
        let bytes = site.store_of(&staged.to).bytes();
        let numbers = COPIED / bytes;
        let pieces = width.map_or(1, |width| width / numbers);
        site.set_row(row, false);
        let mut places = |piece: Val<'c>| {
            let (line, part) = (e.div(piece, e.i32(pieces as i32)), e.rem(piece, e.i32(pieces as i32)));
            let number = e.to_i64(e.mul(part, e.i32(numbers as i32)));
            let line = e.to_i64(line);
            rows.map(|rows| site.index.insert(rows, lines.map_or(line, |(_, first, _)| e.add(first, line))));
            content.map(|content| site.index.insert(content, own.map_or(number, |(_, first, _)| e.add(first, number))));
            (site.address(&staged.to), site.address(&staged.from))
        };
        let first = places(thread);
        // The next piece of a thread stands so many lines further, if whole lines have threads of their own.
        let apart = threads.is_multiple_of(pieces).then_some(threads / pieces);
        for turn in 0..(count * pieces).div_ceil(threads) {
            let piece = e.add(thread, e.i32((turn * threads) as i32));
            let (to, from) = match (apart, rows) {
                (Some(apart), Some(rows)) => {
                    let behind = |place, view: &View| e.offset_by(place, turn * apart * view.stride(rows) * bytes);
                    (behind(first.0, &staged.to), behind(first.1, &staged.from))
                }
                _ if turn == 0 => first,
                _ => places(piece),
            };
            let one = || match content {
                Some(_) => e.begin_copy(to, from, e.i32(COPY as i32)),
                None => e.begin_small_copy(to, from),
            };
            if (turn + 1) * threads <= count * pieces {
                one();
            } else {
                e.if_then(e.cmp(Cmp::Lt, piece, e.i32((count * pieces) as i32)), one);
            }
        }
        e.close_copies();
        self.stand(site);
    }
}

/// Copies of a walk that are begun several chunks ahead.
struct Ahead<'w, 'n, 'c> {
    chunks: &'w Chunks<'n, 'c>,
    /// Where the first place of each is.
    homes: Vec<Option<Val<'c>>>,
    /// The first warp that copies.
    crew: usize,
}

impl<'c> Ahead<'_, '_, 'c> {
    /// Lets copies be at a place.
    fn at_place(&self, site: &mut Site<'_, 'c>, place: Val<'c>) {
        let e = site.e;
        for (own, home) in self.chunks.code.staging.staged.iter().zip(&self.homes) {
            let Some(home) = home else { continue };
            let bytes = own.apart * site.store_of(&own.to).bytes();
            site.set_base(own.to.tensor.0, e.offset(*home, e.to_i64(e.mul(place, e.i32(bytes as i32)))));
        }
    }

    /// Begins to copy the rows of a chunk; behind the last chunk the last one is copied again.
    fn copy(&self, site: &mut Site<'_, 'c>, row: Val<'c>) {
        let (e, chunks) = (site.e, self.chunks);
        let row = e.min(row, e.sub(chunks.to, e.i64(chunks.step)));
        let mut all = || chunks.code.staging.staged.iter().for_each(|own| chunks.copy(site, own, row, self.crew));
        match self.crew {
            0 => all(),
            crew => e.if_then(e.cmp(Cmp::Ge, e.thread(), e.i32((crew * WARP) as i32)), all),
        }
    }
}
