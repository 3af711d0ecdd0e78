//! Kernels to a program: each function once, each call with its offsets, every byte of memory placed.
//!
//! memory.rs places buffers in one arena whose offsets are in bytes *per row of capacity*, states in a slot, weights in a blob;
//! work.rs counts what each call does; verify.rs checks that nothing alive overlaps; print.rs shows it.

mod alone;
mod apart;
mod cut;
mod heads;
mod joined;
mod memory;
mod order;
mod print;
mod prologue;
mod ready;
mod tasks;
mod tiling;
mod verify;
mod work;

use crate::fuse::kernel::{Code, Part, Rows, Walk};
use crate::fuse::{Fused, Kernel};
use crate::target::Target;
use memory::Memory;

pub use alone::operands_of_convolution;
pub use apart::{Apart, BOX, Choice, FEW_ROWS, Member, NUMBERS, Products, Second, TILE_ROWS, What};
pub use braid_runtime::artifact::Order;
pub use heads::Places;
pub use joined::Joint;
pub use print::print;
pub use ready::MOST as MOST_READY;
pub use tasks::{
    ALONG_PIECES, BLOCKS, COLUMNS_AT_ONCE, MOST_TAPS_IN_PIECES, PIECE, ROWS_OF_A_BLOCK, STEP_ROWS, THREADS, VECTORS_A_TASK,
    along_in_pieces, by_warps, channels_in_pieces, column_bytes, columns_of_a_task, is_shared_by_blocks,
};
pub use tiling::{QUERIES, SMALL, Tiling, attention_tiles, chosen_tiling, tilings};
pub use verify::verify;

/// What the number of tasks of a call depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum Per {
    /// Nothing.
    Once = 0,
    /// Rows of the call.
    Row = 1,
    /// Wanted rows.
    Wanted = 2,
    /// Sequences of the call.
    Segment = 3,
    /// Blocks of the launch.
    Block = 4,
    /// Sequences of the call, if one of them may have so many rows as are worth it: where each of many has one, there is nothing to do so.
    Long = 5,
}

/// `factor · ⌈count · times / by⌉` tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tasks {
    /// What is counted.
    pub per: Per,
    /// See the type.
    pub times: usize,
    /// See the type.
    pub by: usize,
    /// See the type.
    pub factor: usize,
    /// Rough work of one task, in additions; calls with little work stay on one thread.
    pub cost: usize,
    /// Calls of fewer rows have no task; by [`Per::Long`] those in which no sequence can have so many.
    pub least: usize,
    /// Calls of more rows have no task.
    pub most: usize,
    /// How calls of many rows are cut instead on a GPU; of those that fit a call the last one counts.
    pub tiles: [Option<Tiles>; 2],
}

/// `factor · ⌈count / by⌉` tasks, where `count` is that of [`Tiles::per`], `times` for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// What is counted.
    pub per: Per,
    /// How often.
    pub times: usize,
    /// Least count of a call that is cut so, or by [`Per::Long`] least rows that a sequence may have; its rows are more than [`STEP_ROWS`].
    pub from: usize,
    /// Rows of a tile, a power of two.
    pub by: usize,
    /// See the type.
    pub factor: usize,
}

/// Most rows of one sequence in a call of a GPU: weights are read once for all of them.
pub const MOST_ROWS: usize = 4096;

/// One function of the artifact. Attention is two: it stores the call's keys and values before any row reads them.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name, the same in every stage.
    pub name: String,
    /// What it does.
    pub code: Code,
    /// Whether it is the storing part of attention.
    pub stores_keys: bool,
    /// What it does in calls of few rows alone, whose tasks are other ones then.
    pub alone: Option<Alone>,
    /// Of a product: most parts of a small tile's contracted axis (cut.rs).
    pub parts: usize,
}

impl Function {
    /// Where its tasks are, if it is one of calls of one row.
    pub fn places(&self) -> Option<&Places> {
        match &self.alone {
            Some(Alone::At(places)) => Some(places),
            _ => None,
        }
    }
}

/// What a function does in calls of one row, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Nests: where a task is, of none of whose places it makes the whole row; a search: so; a convolution: a block has its share of the
    /// channels, as of the columns of products that are named by two words behind the operands': the number of columns before the channels, and
    /// that of all; attention, whose tasks are the same: it stores the row's keys and values itself.
    At(Places),
    /// Products, one beside the other. Its code is that of the first; the words of each stand behind those of the one before.
    Joined(Vec<Joint>),
    /// The same of calls of several rows, which have no convolution in it.
    Rows(Vec<Joint>),
    /// Not the product, but integers of its rows, in calls of several.
    Ready,
}

/// One call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index into [`Plan::functions`].
    pub function: usize,
    /// Operand words.
    pub words: Vec<i64>,
    /// How many tasks.
    pub tasks: Tasks,
    /// What it needs of the steps before; blocks of a GPU do steps side by side.
    pub order: Order,
    /// The launch of its own that begins with it in calls of many rows: an index into [`Plan::apart`].
    pub apart: Option<usize>,
    /// Calls of at least so many rows do without it.
    pub until: Option<usize>,
    /// The same in a call of one row, of those that such a call has.
    pub alone: Order,
    /// Of a kernel that is cut: the kernel whose tasks it has.
    pub cut_for: Option<usize>,
    /// The kernels of the fused stage that it does: one, or of products that are joined all of them.
    pub kernels: Vec<usize>,
}

impl Step {
    /// One that does a kernel, and needs nothing.
    fn new(function: usize, words: Vec<i64>, tasks: Tasks, kernel: usize) -> Step {
        let kernels = vec![kernel];
        Step { function, words, tasks, order: Order::Free, apart: None, until: None, alone: Order::Free, cut_for: None, kernels }
    }

    /// The kernel that it does, or the first of them.
    pub fn kernel(&self) -> usize {
        self.kernels[0]
    }
}

/// A whole program.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is executed.
    pub fused: Fused,
    /// Each function once.
    pub functions: Vec<Function>,
    /// Done once, when weights are loaded.
    pub prepare: Vec<Step>,
    /// Done once for a sequence, with its source.
    pub encode: Vec<Step>,
    /// Done in every call.
    pub steps: Vec<Step>,
    /// Where everything lies.
    pub memory: Memory,
    /// Launches of their own in calls of many rows, each once.
    pub apart: Vec<Apart>,
}

/// Plans the calls of a fused model.
pub fn plan(fused: &Fused, target: &Target) -> Plan {
    let mut fused = fused.clone();
    if target.gpu.is_some() {
        prologue::add(&mut fused);
        ready::mark(&mut fused);
    }
    let cuts = if target.gpu.is_some() { heads::cuts(&fused) } else { vec![] };
    let lasting: Vec<(usize, usize)> = match target.gpu {
        Some(_) => alone::lasting(&fused).chain(cuts.iter().flat_map(|cut| cut.lasting(&fused))).collect(),
        None => vec![],
    };
    let memory = Memory::place(&fused, &lasting, target.gpu.is_some());
    let mut plan =
        Plan { fused: fused.clone(), functions: vec![], prepare: vec![], encode: vec![], steps: vec![], memory, apart: vec![] };
    for (at, kernel) in fused.kernels.iter().enumerate() {
        let parts: &[bool] = if stores(&fused.kernels[..at], kernel) { &[true, false] } else { &[false] };
        for &stores_keys in parts {
            let step = plan.step(at, stores_keys, target);
            // Keys of the source are stored where it is read.
            let encodes = kernel.rows == Rows::Source || stores_keys && plan.sees_source(kernel);
            match kernel.rows {
                Rows::Once => plan.prepare.push(step),
                _ if encodes => plan.encode.push(step),
                _ => plan.steps.push(step),
            }
        }
    }
    if target.gpu.is_some() {
        joined::add(&mut plan);
        alone::add(&mut plan, &cuts);
    }
    order::mark(&mut plan);
    if target.gpu.is_some() {
        joined::mark(&mut plan);
        ready::add(&mut plan);
        cut::mark(&mut plan);
    }
    if target.has_groups() {
        apart::find(&mut plan);
    }
    plan
}

impl Plan {
    /// Whether an attention's keys are those of the source.
    fn sees_source(&self, kernel: &Kernel) -> bool {
        let source = self.fused.forms.graph.source();
        matches!(&kernel.code, Code::Attention(code) if Some(code.attend.keys) == source)
    }

    /// The step of a kernel, or of one of the two parts of attention.
    fn step(&mut self, at: usize, stores_keys: bool, target: &Target) -> Step {
        let kernel = self.fused.kernels[at].clone();
        let words = self.words(at);
        let function = self.function(&kernel.code, stores_keys, None);
        let tasks = tasks::tasks(&kernel, stores_keys, target);
        Step::new(function, words, tasks, at)
    }

    fn words(&self, kernel: usize) -> Vec<i64> {
        self.fused.kernels[kernel].operands.iter().map(|operand| self.memory.word(*operand)).collect()
    }

    fn function(&mut self, code: &Code, stores_keys: bool, alone: Option<Alone>) -> usize {
        let same = |f: &Function| f.stores_keys == stores_keys && f.alone == alone && f.code == *code;
        if let Some(known) = self.functions.iter().position(same) {
            return known;
        }
        let kind = match &alone {
            Some(Alone::Rows(_)) => "joined_rows",
            Some(Alone::Ready) => "ready_rows",
            Some(_) => alone_kind(code),
            None => kind(code, stores_keys),
        };
        let count = self.functions.iter().filter(|f| f.name.rsplit_once('_').is_some_and(|(k, _)| k == kind)).count();
        let name = format!("{kind}_{count}");
        self.functions.push(Function { name, code: code.clone(), stores_keys, alone, parts: 1 });
        self.functions.len() - 1
    }
}

/// Whether a kernel stores keys: the first of those that have the cache in common does, for all of them.
fn stores(earlier: &[Kernel], kernel: &Kernel) -> bool {
    let cache = |kernel: &Kernel| match &kernel.code {
        Code::Attention(code) if code.has_cache() => Some(kernel.operands[code.caches]),
        _ => None,
    };
    cache(kernel).is_some_and(|own| earlier.iter().all(|kernel| cache(kernel) != Some(own)))
}

/// The name of what a call of one row does.
fn alone_kind(code: &Code) -> &'static str {
    match code {
        Code::Nests(_) => "own_rows",
        Code::Top(_) => "own_top",
        Code::Along(_) => "own_channels",
        Code::Matmul(_) => "joined",
        _ => "attention",
    }
}

fn kind(code: &Code, stores_keys: bool) -> &'static str {
    match code {
        Code::Nests(nests) => match nests.walk {
            Walk::Rows(_) => "rows",
            Walk::Segments { part: Part::Intra(_), .. } => "intra",
            Walk::Segments { part: Part::Chunks(_) | Part::Batches(_), .. } => "chunks",
            Walk::Segments { .. } => "recurrence",
        },
        Code::Matmul(product) if product.chosen.is_some() => "chosen_matmul",
        Code::Matmul(_) => "matmul",
        Code::Along(along) if along.weights.is_some() => "convolution",
        Code::Along(_) => "shift",
        Code::Top(_) => "top",
        Code::Largest(_) => "largest",
        Code::Attention(_) if stores_keys => "store_keys",
        Code::Attention(code) if code.tally.is_some() => "tally",
        Code::Attention(_) => "attention",
    }
}
