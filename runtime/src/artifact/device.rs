//! Code for a GPU: what the artifact's manifest says of it.
//!
//! The artifact's code is then PTX text. It has three entries `braid_prepare`, `braid_prefill` and `braid_step`, each
//! `(const BraidCall *call, const int64_t *steps, int64_t count, const uint32_t *streams, int64_t stream_count, uint32_t *barrier)`,
//! all of it in device memory. One launch walks `count` steps ([`Launch`]) with all its blocks: it is cooperative, with no more blocks than the GPU holds
//! at a time, because blocks wait for each other. `barrier` is two words that are zero before the first launch and after each.
//! [`super::Call`] is that of a CPU with device addresses; `parallel` and `pool` are null, and `scratch` has `scratch_bytes` for each
//! block.

use super::apart::Apart;
use super::check::ensure;
use serde::{Deserialize, Serialize};

/// Words of one step as the entries read it, before its operands: function, what is counted, times, by, factor, least and most rows, whether
/// it waits for all steps before (1) or its tasks are dealt as those of the step before (2); what is counted for tiles, times, and
/// twice from which count on, the logarithm of by to the base of two, factor.
pub const STEP_WORDS: usize = 16;
/// Most entries of [`Launch::tiles`].
const TILES: usize = 2;

/// Words (of 32 bits) of a stream as the entries read it: offset in the weights in [`STREAM_ALIGN`]s, columns, bytes of a column, 0.
pub const STREAM_WORDS: usize = 4;
/// What offsets and columns of streams are multiples of, in bytes.
pub const STREAM_ALIGN: usize = 16;

/// Everything that a runtime must know to launch the code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Architecture that the code is for, in the words of PTX: `sm_90a` runs on 9.0 alone, `sm_80` on 8.0 and all later ones.
    pub arch: String,
    /// Names of the functions that steps call, for reports.
    pub functions: Vec<String>,
    /// How `braid_prepare` and `braid_prefill` are launched.
    pub prefill: Grid,
    /// How `braid_step` is launched.
    pub step: Grid,
    /// `braid_step` takes calls of at most so many rows.
    pub step_rows: usize,
    /// Words of a row of the tables of steps: [`STEP_WORDS`], and the most operands of any step.
    pub row_words: usize,
    /// The steps of `braid_prepare`.
    pub prepare: Vec<Launch>,
    /// The steps of `braid_prefill` and `braid_step`.
    pub steps: Vec<Launch>,
    /// Launches of their own in calls of many rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Apart>,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
    /// Most blocks on one multiprocessor.
    pub blocks: usize,
}

impl Grid {
    pub(super) fn check(&self) -> Result<(), String> {
        let threads = self.threads.is_multiple_of(32) && (32..=1024).contains(&self.threads);
        ensure(threads && (1..=32).contains(&self.blocks), || "a grid of no or too many threads".into())?;
        ensure(self.shared_bytes <= 1 << 18, || "more shared memory than a block can have".into())
    }
}

/// One call of a function: `factor · ⌈count · times / by⌉` tasks, none if the call has fewer than `least` rows, or by long segments if none can have so many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`Device::functions`].
    pub function: usize,
    /// Its operands.
    pub words: Vec<i64>,
    /// What is counted: 0 nothing (1), 1 rows, 2 wanted rows, 3 segments, 4 blocks, 5 segments where one of them may have `least` rows.
    pub per: usize,
    /// See the type.
    pub times: usize,
    /// See the type.
    pub by: usize,
    /// See the type.
    pub factor: usize,
    /// See the type.
    pub least: usize,
    /// Calls of more rows have no task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<usize>,
    /// What it needs in a call of one row of the steps that such a call has, if it is one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<Order>,
    /// Whether it needs what earlier steps wrote, or overwrites what they read.
    pub wait: bool,
    /// Whether each of its tasks needs what the same task of the step before wrote: both have the same number of tasks, and a block
    /// that did one does the other.
    pub follows: bool,
    /// The weights that it reads once if the call is of one row whose outputs are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// The launch of its own that begins with it: an index into [`Device::apart`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<usize>,
    /// Calls of at least so many rows do without it: launches of their own make what it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<usize>,
    /// How calls of more rows than [`Device::step_rows`] are cut instead; of those that fit a call the last one counts.
    #[serde(default)]
    pub tiles: Vec<Tiles>,
}

/// What a step needs of those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Nothing of those since the last wait.
    Free,
    /// That all of them are done; see [`Launch::wait`].
    Wait,
    /// See [`Launch::follows`].
    Follow,
}

/// Columns of weights, one after the other, which blocks share evenly and read before the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Where they begin in the weights, in bytes.
    pub offset: usize,
    /// How many.
    pub columns: usize,
    /// Bytes of each.
    pub column_bytes: usize,
}

impl Stream {
    fn words(self) -> [u32; STREAM_WORDS] {
        [self.offset / STREAM_ALIGN, self.columns, self.column_bytes, 0].map(|number| number as u32)
    }

    fn check(&self) -> Result<(), String> {
        let whole = [self.offset, self.column_bytes].iter().all(|bytes| bytes.is_multiple_of(STREAM_ALIGN));
        let small =
            [self.offset / STREAM_ALIGN, self.columns, self.column_bytes].iter().all(|number| *number <= i32::MAX as usize);
        ensure(whole && small, || "a stream of weights is out of range".into())
    }
}

/// `factor · ⌈count · times / by⌉` tasks of tiles, in calls whose `count · times` is at least `from`; or, of long segments, in which one may have
/// `from` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiles {
    /// What is counted, as [`Launch::per`]; the same in all tiles of a step.
    pub per: usize,
    /// How often; the same in all tiles of a step.
    pub times: usize,
    /// See the type.
    pub from: usize,
    /// Rows of a tile, a power of two.
    pub by: usize,
    /// See the type.
    pub factor: usize,
}

impl Launch {
    /// How many tasks it has in a call of so many rows, of which `step_rows` are too few for tiles. `counts`: what [`Launch::per`]
    /// counts there.
    pub fn count(&self, counts: [usize; 5], rows: usize, step_rows: usize) -> usize {
        // All other segments have a row each, or more.
        let longest = (rows + 1).saturating_sub(counts[index(LONG)]);
        let measured = |tiles: &Tiles| match tiles.per {
            LONG => longest,
            per => counts[index(per)].saturating_mul(tiles.times),
        };
        let tiled = |tiles: &&Tiles| rows > step_rows && measured(tiles) >= tiles.from;
        if let Some(tiles) = self.tiles.iter().rev().find(tiled) {
            let counted = counts[index(tiles.per)].saturating_mul(tiles.times);
            return counted.div_ceil(tiles.by.max(1)).saturating_mul(tiles.factor);
        }
        let counted = counts[index(self.per)].saturating_mul(self.times).div_ceil(self.by.max(1));
        let long = self.per != LONG || longest >= self.least;
        if self.has(rows) && long { counted.saturating_mul(self.factor) } else { 0 }
    }

    /// Whether a call of so many rows has work for it.
    fn has(&self, rows: usize) -> bool {
        rows >= self.least && self.most.is_none_or(|most| rows <= most)
    }

    /// How many tasks it has, for people: `3 rows`, `2 ⌈rows / 8⌉, from 9 rows on`.
    pub fn tasks(&self) -> String {
        let tasks = counted(self.per, self.times, self.by, self.factor);
        let rows = if self.per == LONG { "rows of one" } else { "rows" };
        let tasks = if self.least > 1 { format!("{tasks}, from {} {rows} on", self.least) } else { tasks };
        let tasks = self.most.map_or(tasks.clone(), |most| format!("{tasks}, up to {most} rows"));
        self.tiles.iter().fold(tasks, |text, tiles| format!("{text}; {}", tiles.text()))
    }
}

impl Tiles {
    fn is_sound(&self) -> bool {
        let small = [self.times, self.from, self.by, self.factor].iter().all(|number| *number <= 1 << 31);
        (self.per <= 3 || self.per == LONG) && self.by.is_power_of_two() && small
    }

    /// What [`Tiles::by`] is where all that is counted is one.
    pub const ALL: usize = 1 << 30;

    /// For people: `512 ⌈rows / 64⌉ from 17 on`.
    fn text(&self) -> String {
        let tasks = match self.by {
            Self::ALL => self.factor.to_string(),
            _ => counted(self.per, self.times, self.by, self.factor),
        };
        let rows = if self.per == LONG { " rows of one" } else { "" };
        format!("{tasks} from {}{rows} on", self.from)
    }
}

/// `2 ⌈3 rows / 8⌉`.
fn counted(per: usize, times: usize, by: usize, factor: usize) -> String {
    let counted = ["1", "rows", "wanted rows", "segments", "blocks"][index(per)];
    let times = if times == 1 { counted.into() } else { format!("{times} {counted}") };
    let by = if by == 1 { times } else { format!("⌈{times} / {by}⌉") };
    if factor == 1 { by } else { format!("{factor} {by}") }
}

/// [`Launch::per`] and [`Tiles::per`] of segments where one of them may have [`Launch::least`] or [`Tiles::from`] rows.
const LONG: usize = 5;

/// Which of the five counts of [`Launch::count`] is meant by what is counted.
fn index(per: usize) -> usize {
    if per == LONG { 3 } else { per.min(4) }
}

impl Device {
    /// The launch of its own that begins with step `step` in calls of so many rows.
    pub fn apart(&self, step: usize, rows: usize) -> Option<&Apart> {
        let apart = self.apart.get(self.steps.get(step)?.apart?)?;
        (rows >= apart.from).then_some(apart)
    }

    /// The steps that a call of at most so many rows has work for. Who comes behind a step that is left out waits in its place.
    pub fn needed(&self, rows: usize) -> Vec<Launch> {
        let (mut needed, mut owed, mut left_out): (Vec<Launch>, bool, bool) = (vec![], false, false);
        for step in &self.steps {
            if step.most.is_some_and(|most| rows > most) {
                continue;
            }
            if let (1, Some(order)) = (rows, step.alone) {
                needed.push(Launch { wait: order == Order::Wait, follows: order == Order::Follow, ..step.clone() });
                continue;
            }
            if step.least > rows {
                (owed, left_out) = (owed || step.wait, true);
                continue;
            }
            // The one that it would follow is not there.
            let wait = step.wait || owed || (step.follows && left_out);
            needed.push(Launch { wait, follows: step.follows && !wait, ..step.clone() });
            (owed, left_out) = (false, false);
        }
        needed
    }

    /// The table of some steps, [`Device::row_words`] for each.
    pub fn table(&self, steps: &[Launch]) -> Vec<i64> {
        let row = |step: &Launch| {
            let order = if step.follows { 2 } else { usize::from(step.wait) };
            let most = step.most.unwrap_or(i64::MAX as usize);
            let own = [step.function, step.per, step.times, step.by, step.factor, step.least, most, order];
            let (per, times) = step.tiles.first().map_or((0, 0), |tiles| (tiles.per, tiles.times));
            let mut row: Vec<i64> = own.into_iter().chain([per, times]).map(|number| number as i64).collect();
            let words_of = |tiles: &Tiles| [tiles.from as i64, i64::from(tiles.by.trailing_zeros()), tiles.factor as i64];
            row.extend((0..TILES).flat_map(|at| step.tiles.get(at).map_or([i64::MAX, 0, 0], words_of)));
            row.extend(&step.words);
            row.resize(self.row_words, 0);
            row
        };
        steps.iter().flat_map(row).collect()
    }

    /// The table of the streams of some steps.
    pub fn streams(steps: &[Launch]) -> Vec<u32> {
        steps.iter().filter_map(|step| step.stream).flat_map(Stream::words).collect()
    }

    /// Whether a GPU of that compute capability runs the code.
    pub fn runs_on(&self, capability: (u32, u32)) -> bool {
        match arch(&self.arch) {
            Some((needs, false)) => capability >= needs,
            Some((needs, true)) => capability == needs,
            None => false,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        ensure(arch(&self.arch).is_some(), || format!("`{}` is no architecture", self.arch))?;
        ensure(self.step_rows > 0 && self.step_rows <= 1 << 16, || "`step_rows` is out of range".into())?;
        ensure(self.row_words <= 1 << 10, || "`row_words` is out of range".into())?;
        [self.prefill, self.step].iter().try_for_each(Grid::check)?;
        self.apart.iter().try_for_each(Apart::check)?;
        self.steps.iter().enumerate().try_for_each(|(at, step)| match step.apart {
            None => Ok(()),
            Some(apart) => {
                let own = self.apart.get(apart).ok_or("a launch apart is out of range")?;
                own.check_at(self, at)
            }
        })?;
        self.prepare.iter().chain(&self.steps).try_for_each(|step| {
            ensure(step.function < self.functions.len(), || "a step calls no function".into())?;
            ensure(STEP_WORDS + step.words.len() <= self.row_words, || "a step has more words than its row".into())?;
            let small = [step.times, step.by, step.factor, step.least].iter().all(|number| *number <= 1 << 31);
            ensure(!(step.wait && step.follows), || "a step both waits and follows".into())?;
            step.stream.iter().try_for_each(Stream::check)?;
            ensure(step.tiles.len() <= TILES && step.tiles.iter().all(Tiles::is_sound), || {
                "a step's tiles are out of range".into()
            })?;
            ensure(step.per <= LONG && step.by > 0 && small, || "a step's tasks are out of range".into())
        })
    }
}

/// The compute capability of `sm_80` or `sm_90a`, and whether no other one will do.
fn arch(name: &str) -> Option<((u32, u32), bool)> {
    let digits = name.strip_prefix("sm_")?;
    let exact = digits.ends_with('a');
    let digits = digits.strip_suffix('a').unwrap_or(digits);
    let number: u32 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(((number / 10, number % 10), exact)).filter(|_| (10..10_000).contains(&number))
}
