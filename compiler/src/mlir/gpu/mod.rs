//! Kernels to MLIR for GPUs: one file for each skeleton, and one entry (walk.rs) that does all steps of a call in one launch.
//!
//! A function does its tasks from `begin` on, every `blocks` of them, with all threads of its block: a task is what a CPU's thread
//! would do, or a part of it. Expressions are those of CPU kernels with one lane; what is different is who does which element.

mod ahead;
mod along;
pub mod apart;
mod ask;
mod attend;
mod attention;
mod chains;
mod chunk;
mod clerk;
mod columns;
mod cursor;
mod cut;
mod dot;
mod factor;
mod far;
mod few;
mod group;
mod grouped;
mod halves;
mod held;
mod held_rows;
mod integers;
mod joined;
mod keep;
mod kept;
mod lane_rows;
mod lanes;
mod left;
mod matmul;
mod nest;
mod once;
mod one_row;
mod own_key;
mod packed;
mod pairs;
mod parts;
mod ready;
mod reduce;
mod resident;
mod ring;
mod rounds;
mod row;
mod segments;
mod several;
mod sight;
mod singles;
mod slots;
mod small;
mod softmax;
mod stream;
mod substitution;
mod sums;
mod team;
mod tile;
mod tiles;
mod top;
mod units;
mod unpack;
mod walk;
mod wide;

use crate::error::Error;
use crate::fuse::kernel::{Code, Matmul, Nests, Part, Walk};
use crate::mlir::common::Emitter;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::Setting;
use crate::mlir::common::tables::SHORT;
use crate::plan::{Alone, Function, Plan, Step};
use crate::schedule::Schedule;
use crate::target::Target;
use braid_runtime::artifact::ALIGN;
use dot::Dot;
use ring::{Order, PART, Ring};
use several::Several;

pub use crate::plan::{MOST_ROWS, STEP_ROWS, THREADS};
pub use walk::row_words;

/// Warps of a block.
const WARPS: usize = THREADS / WARP;
/// Blocks that one multiprocessor holds.
pub const BLOCKS: usize = 2;
/// A step's tables are in shared memory.
const _: () = assert!(STEP_ROWS <= SHORT);
/// Most scratch bytes of a kernel of nests that lie in shared memory; more lies in the device's.
const SHARED_SCRATCH: usize = 48 * 1024;

/// Where products read ahead.
#[derive(Clone, Copy)]
struct Streams {
    /// The ring of what is read ahead, and of what is not; one for both where no call needs both.
    rings: (Ring, Ring),
    /// How several rows are multiplied: in calls that need no other ring but the second one.
    several: Option<Several>,
    /// Where the table of streams lies in shared memory.
    table: usize,
    /// Its bytes, which grow with the model's depth: it lies behind all else, whose places are in the code.
    table_bytes: usize,
    /// Bytes of a block's scratch memory.
    scratch: usize,
}

impl Streams {
    fn of(plan: &Plan, target: &Target) -> Streams {
        let products = || plan.functions.iter().filter_map(|f| if let Code::Matmul(code) = &f.code { Some(code) } else { None });
        let count = plan.steps.iter().filter(|step| stream(plan, step).is_some()).count();
        let at = work_bytes(plan);
        // An entry is read, and not used, where there is none.
        let table_bytes = (count.max(1) * ahead::STREAM_BYTES).next_multiple_of(ALIGN);
        let two = count > 0 && products().any(matmul::is_read_alone);
        // Of copies of the threads there must not be many under way: everything else that blocks read waits behind them.
        let units = products().filter(|code| matmul::has_stream(code)).all(|code| halves::are_used(Dot::of(code, 1)));
        let ways: &[(usize, [usize; 2])] = match (target.has_groups(), units) {
            (true, true) => &[(4 * PART, [2, 2]), (2 * PART, [4, 2]), (2 * PART, [2, 2])],
            (true, false) => &[(PART, [8, 8]), (PART, [8, 4]), (PART, [4, 4])],
            (false, _) => &[(PART, [4, 4])],
        };
        let ring = |at, slots, part| Ring { at, slots, part, order: Order::Groups, engine: target.has_groups() };
        let first = |(part, [slots, _]): (usize, [usize; 2])| ring(at, slots, part);
        let beside = |(part, [_, slots]): (usize, [usize; 2])| if two { ring(0, slots, part).bytes() } else { 0 };
        let limit = target.shared_bytes.saturating_sub(table_bytes);
        let fits = ways.iter().find(|way| first(**way).end() + beside(**way) <= limit);
        let way = *fits.unwrap_or(&(PART, [2, 2]));
        let several = several(plan, target, limit.saturating_sub(beside(way)));
        // The second one is for calls of one row and of several.
        let end = several.map_or(0, |several| several.ring.end()).max(first(way).end());
        let second = if two { Ring { at: end, slots: way.1[1], ..first(way) } } else { first(way) };
        let table = end + beside(way);
        let first = first(way);
        Streams { rings: (first, second), several, table, table_bytes, scratch: scratch_bytes(plan) }
    }

    /// How several rows of a product are multiplied, if on the matrix units.
    fn of_several(&self, code: &Matmul) -> Option<Several> {
        self.several.filter(|_| several::are_used(code))
    }

    fn end(&self) -> usize {
        self.table + self.table_bytes
    }
}

/// How several rows are multiplied on the matrix units, in so many bytes of shared memory; none if nothing needs it, or it does not fit.
fn several(plan: &Plan, target: &Target, limit: usize) -> Option<Several> {
    let used = |function: &&Function| {
        function.alone != Some(Alone::Ready) && matches!(&function.code, Code::Matmul(code) if several::are_used(code))
    };
    let products = plan.functions.iter().filter(used).filter_map(|function| match &function.code {
        Code::Matmul(code) => Some(code),
        _ => None,
    });
    let unit = products.clone().map(several::unit_of).min()?;
    let scales = |unit| products.clone().map(|code| several::scales_of_warp(code, unit)).max().unwrap_or(0);
    let work = plan.functions.iter().filter(|function| !used(function)).map(own_bytes).max().unwrap_or(0);
    let ahead = reads_ahead_for_several(plan);
    Several::ways(target.has_groups()).iter().find_map(|(part, slots, rows)| {
        let part = unit.min(*part);
        let scales = scales(part);
        let at = work.max(Several::shared_bytes(*rows, scales)).next_multiple_of(ALIGN);
        let ring = Ring { at, slots: *slots, part, order: Order::Parts, engine: target.has_groups() };
        (ring.end() <= limit).then_some(Several { ring, rows: *rows, scales, ahead })
    })
}

/// Whether calls of several rows read ahead: all that they would read so is read in that order, in every such call, and nothing else is done
/// where it comes to.
fn reads_ahead_for_several(plan: &Plan) -> bool {
    let orders = plan.functions.iter().all(|function| match &function.code {
        Code::Matmul(code) => !matmul::is_read_ahead(code) || several::are_used(code),
        Code::Nests(nests) => chunk(nests).is_none_or(|rows| rows > STEP_ROWS),
        _ => true,
    });
    let tasks = |step: &Step| (step.tasks.least, step.tasks.most);
    let mut streams = plan.steps.iter().filter(|step| stream(plan, step).is_some()).map(tasks);
    orders && streams.all(|(least, most)| most == 1 || (least <= 2 || least > STEP_ROWS) && most >= STEP_ROWS)
}

/// The stream of weights that a step's product reads where decoding has one row: its offset in the weights, how many columns, and
/// their bytes.
pub fn stream(plan: &Plan, step: &Step) -> Option<[usize; 3]> {
    let function = &plan.functions[step.function];
    let Code::Matmul(product) = &function.code else { return None };
    let weights = product.tensors[product.weights.0];
    let of = |at: &usize| match &plan.fused.kernels[*at].code {
        Code::Matmul(product) => product.sizes[3],
        _ => 0,
    };
    let columns = step.kernels.iter().map(of).sum();
    let offset = usize::try_from(step.words[weights.operand]).ok()?;
    let multiplies = function.alone != Some(Alone::Ready);
    (multiplies && matmul::is_read_ahead(product)).then_some([offset, columns, crate::plan::column_bytes(product)])
}

/// Dynamic shared memory of a block, in bytes; `many`: in calls of more than [`STEP_ROWS`] rows, which read nothing ahead.
pub fn shared_bytes(plan: &Plan, target: &Target, many: bool) -> usize {
    // A short chunk is in calls of few rows, too.
    let most = if many { MOST_ROWS } else { STEP_ROWS };
    let tiles = |function: &Function| match &function.code {
        Code::Matmul(product) if many => tiles::shared_bytes(product, target.has_groups()),
        Code::Attention(attention) if many => attend::shared_bytes(attention),
        Code::Nests(nests) if chunk(nests).is_some_and(|rows| rows <= most) => nest::shared_bytes(nests),
        Code::Nests(nests) if many => {
            let walk = lanes::Walk::of(nests, target.has_groups()).map_or(0, |walk| walk.shared_bytes());
            walk.max(small::shared_bytes(nests)).max(held_rows::shared_bytes(nests, target.has_groups()))
        }
        _ => 0,
    };
    let tiles = plan.functions.iter().map(tiles).max().unwrap_or(0);
    Streams::of(plan, target).end().max(tiles.next_multiple_of(ALIGN))
}

/// Shared memory that a block needs for any kernel of a plan.
fn work_bytes(plan: &Plan) -> usize {
    plan.functions.iter().map(own_bytes).max().unwrap_or(0).next_multiple_of(ALIGN)
}

/// The same for one function, where a call has one row.
fn own_bytes(function: &Function) -> usize {
    match &function.code {
        // As tiles are, chunks are done in memory that nothing read ahead needs.
        Code::Nests(nests) if chunk(nests).is_some() => 0,
        Code::Nests(nests) => nest::shared_bytes(nests),
        Code::Matmul(product) if function.alone == Some(Alone::Ready) => ready::shared_bytes(product),
        Code::Matmul(product) => matmul::shared_bytes(product),
        Code::Attention(attention) => attention::shared_bytes(attention),
        Code::Along(_) | Code::Top(_) | Code::Largest(_) => 0,
    }
}

/// Scratch in the device's memory that each block needs, in bytes.
pub fn scratch_bytes(plan: &Plan) -> usize {
    let own = |function: &Function| match &function.code {
        Code::Nests(nests) if !is_shared(nests) => nests.scratch,
        _ => 0,
    };
    let nests = plan.functions.iter().map(own).max().unwrap_or(0);
    // Behind it what parts of tiles leave.
    let parts = if plan.functions.iter().any(|function| function.parts > 1) { cut::SCRATCH.next_multiple_of(ALIGN) } else { 0 };
    nests.next_multiple_of(ALIGN) + parts
}

fn is_shared(nests: &Nests) -> bool {
    if chunk(nests).is_some() { nests.staging.shared } else { nests.scratch <= SHARED_SCRATCH }
}

/// How many rows it does at once, if it does.
fn chunk(nests: &Nests) -> Option<usize> {
    match nests.walk {
        Walk::Segments { part: Part::Intra(rows) | Part::Chunks(rows), .. } => Some(rows),
        _ => None,
    }
}

/// Emits all functions of a plan and the entries.
///
/// # Errors
/// A kernel that has no form for GPUs yet.
pub fn emit(e: &Emitter, plan: &Plan, target: &Target) -> Result<(), Error> {
    if row_words(plan) > THREADS {
        return Err(Error::limit("a kernel for GPUs has more operands than a block has threads"));
    }
    let (scratch, streams) = (scratch_bytes(plan), Streams::of(plan, target));
    for function in &plan.functions {
        emit_function(e, plan, function, (scratch, streams))?;
    }
    apart::Launch::all(plan).iter().for_each(|launch| launch.emit(e, setting(scratch)));
    walk::emit(e, plan, streams);
    Ok(())
}

fn setting(scratch: usize) -> Setting {
    Setting { lanes: 1, scratch, schedule: Schedule::GPU, shared: Some(0), vnni: false }
}

fn emit_function(e: &Emitter, plan: &Plan, function: &Function, (scratch, streams): (usize, Streams)) -> Result<(), Error> {
    let setting = setting(scratch);
    let name = &function.name;
    match &function.code {
        Code::Nests(nests) => {
            let setting = Setting { shared: is_shared(nests).then_some(0), ..setting };
            if let Some(name) = ask::name(function) {
                ask::emit(e, &name, nests, setting);
            }
            // What a call of one row does alone is in no other call.
            let split = function.alone.is_none() && segments::is_split(nests, e.has_groups());
            if split {
                nest::emit(e, &walk::name_for_many(function), nests, (setting, None), true);
            }
            nest::emit(e, name, nests, (setting, function.places()), !split);
        }
        Code::Matmul(product) => {
            if let Some(name) = ask::name(function) {
                ask::emit_weights(e, &name, (plan, function), product, setting);
            }
            match &function.alone {
                Some(Alone::Joined(all)) => joined::emit(e, name, (plan, all), setting, streams),
                Some(Alone::Rows(all)) => joined::emit_rows(e, name, (plan, all), setting, streams),
                Some(Alone::Ready) => ready::emit(e, name, product, setting, streams),
                _ => matmul::emit(e, name, product, setting, streams),
            }
            // It calls the code for few rows, which stands before it.
            if matmul::is_split(product) && function.alone.is_none() {
                matmul::emit_many(e, (&walk::name_for_many(function), name), product, setting, (streams, function.parts));
            }
        }
        Code::Along(along) => {
            if let Some(name) = ask::name(function) {
                ask::emit_channels(e, &name, along, setting);
            }
            along::emit(e, name, along, (setting, function.alone.is_some()));
        }
        Code::Top(top) => top::emit(e, name, top, (setting, function.alone.is_some())),
        Code::Largest(_) => return Err(Error::limit("the largest of all rows of a sequence on a GPU")),
        Code::Attention(attention) => attention::emit(e, function, attention, setting),
    }
    Ok(())
}
