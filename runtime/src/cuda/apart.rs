//! Steps of calls of many rows that are launches of their own: their entries, the rows that they round, and the maps by which the copy
//! engine finds rows and weights.

use super::gpu::{Gpu, Said};
use super::memory::Memory;
use super::program::{Entry, Module};
use crate::artifact::{self, ALIGN, Device, Lines, Multiplied};
use crate::error::Result;
use cudarc::driver::sys::{
    self, CUtensorMapDataType as Type, CUtensorMapFloatOOBfill as Fill, CUtensorMapInterleave as Interleave,
    CUtensorMapL2promotion as Promotion, CUtensorMapSwizzle as Swizzle,
};
use cudarc::driver::{CudaStream, result};
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a map.
const MAP: usize = size_of::<sys::CUtensorMap>();

/// What a program has of such steps.
pub(super) struct Apart {
    launches: Vec<Launches>,
    /// For each forward step.
    steps: Vec<Step>,
    /// Maps of all steps.
    maps: usize,
}

/// The entries of a launch of its own.
struct Launches {
    what: artifact::Apart,
    /// Sorts what rows choose, if they do.
    sort: Option<Entry>,
    round: Option<Entry>,
    multiply: Entry,
}

/// What a forward step is in calls of many rows.
struct Step {
    own: Option<Own>,
    /// Calls of at least so many rows do without it.
    until: usize,
    /// Calls of more rows have nothing for it to do.
    most: usize,
}

/// The launch that begins with a step.
struct Own {
    /// Index into [`Apart::launches`].
    launch: usize,
    /// Where the weights of each of its steps begin among all, or where keys and values lie in a slot: two numbers each.
    places: Vec<u64>,
    /// Its first map among all.
    map: usize,
    /// The launch before, if that leaves its rows where a call has it, and the one behind, if that takes what it hands on.
    handed: Option<usize>,
    taken: Option<usize>,
}

/// Rows of a call, and the sequences that they are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) segments: usize,
}

/// What a session has room for.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Rows of a call.
    pub(super) rows: usize,
    /// Sequences, positions of each, and bytes.
    pub(super) slots: usize,
    pub(super) capacity: usize,
    pub(super) slot_bytes: usize,
}

/// Where things begin on the device.
#[derive(Clone, Copy)]
pub(super) struct Begin {
    /// All weights.
    pub(super) weights: u64,
    /// The states of the first sequence.
    pub(super) states: u64,
}

/// A session's memory for them.
pub(super) struct Rounded {
    /// Two places for rows.
    places: [u64; 2],
    /// Where sorted choices are listed.
    lists: u64,
    maps: Memory,
    /// What all of them point into.
    _numbers: Memory,
}

impl Rounded {
    /// Where a launch reads its rows.
    fn rows(&self, what: &artifact::Apart) -> u64 {
        self.places[what.place.min(1)]
    }

    /// Where it leaves rows for the next one.
    fn next(&self, what: &artifact::Apart) -> u64 {
        match what.what {
            Multiplied::Products { .. } => self.places[1 - what.place.min(1)],
            Multiplied::Attention { .. } => self.rows(what),
        }
    }
}

impl Apart {
    /// Finds the entries of a device's code.
    pub(super) fn load(module: &Module, device: &Device) -> Result<Self> {
        let launches = |what: &artifact::Apart| {
            let entry = |kind, grid| module.entry(&format!("{}_{kind}", what.name), grid);
            let sort = what.chosen().map(|chosen| entry("sorts", chosen.sort)).transpose()?;
            let round = what.round.map(|grid| entry("rounds", grid)).transpose()?;
            Ok(Launches { what: what.clone(), sort, round, multiply: entry("apart", what.multiply)? })
        };
        let launches = device.apart.iter().map(launches).collect::<Result<Vec<_>>>()?;
        let (mut maps, mut from) = (0, 0);
        // Steps behind the first of a launch are done with it.
        let mut within = 0..0;
        let steps = device.steps.iter().enumerate().map(|(at, step)| {
            if let Some(launch) = step.apart {
                (within, from) = (at + 1..at + device.apart[launch].steps(), device.apart[launch].from);
            }
            let until = if within.contains(&at) { from } else { step.until.unwrap_or(usize::MAX) };
            let own = step.apart.map(|launch| {
                let places = places(&device.apart[launch], &device.steps[at..]);
                let map = maps;
                maps += count(&device.apart[launch]);
                let (what, behind) = (&device.apart[launch], &device.steps[at + 1..]);
                let own = |step: &artifact::Launch| step.apart;
                let handed = device.steps[..at].iter().rev().find_map(own).filter(|_| what.handed);
                let taken = behind.iter().find_map(own).filter(|_| what.hands.is_some());
                Own { launch, places, map, handed, taken }
            });
            Step { own, until, most: step.most.unwrap_or(usize::MAX) }
        });
        let steps = steps.collect();
        Ok(Self { launches, steps, maps })
    }

    /// How many of the steps from this one on are a launch of their own in such calls; 0: they do without the step.
    pub(super) fn takes(&self, step: usize, shape: Shape) -> Option<usize> {
        let own = self.steps.get(step)?;
        if shape.rows >= own.until {
            return Some(0);
        }
        let launch = own.own.as_ref()?.launch;
        self.is_for(launch, shape).then(|| self.launches[launch].what.steps())
    }

    /// Whether such calls have a launch.
    fn is_for(&self, launch: usize, Shape { rows, segments }: Shape) -> bool {
        self.launches[launch].what.is_for(rows, segments)
    }

    /// Some steps without those at both ends that have nothing to do in calls of so many rows: nothing is begun for them alone.
    pub(super) fn busy(&self, steps: Range<usize>, rows: usize) -> Range<usize> {
        let is_idle = |step: &usize| self.steps.get(*step).is_some_and(|step| rows > step.most);
        let begin = steps.clone().find(|step| !is_idle(step)).unwrap_or(steps.end);
        begin..(begin..steps.end).rev().find(|step| !is_idle(step)).map_or(begin, |last| last + 1)
    }

    /// Memory for calls that a session has room for, if any of them need it.
    pub(super) fn memory(&self, gpu: &Arc<Gpu>, stream: &CudaStream, begin: Begin, room: Room) -> Result<Option<Rounded>> {
        let used = || self.launches.iter().map(|launch| &launch.what).filter(|what| what.is_for(room.rows, room.rows));
        if used().next().is_none() {
            return Ok(None);
        }
        let most = |bytes: &dyn Fn(&artifact::Apart) -> usize| used().map(bytes).max().unwrap_or(0);
        let rows = most(&|what| row_bytes(what, room));
        let lists = most(&|what| what.chosen().map_or(0, |chosen| chosen.lists(room.rows, what.rows).end));
        let numbers = Memory::new(gpu, 2 * rows + lists, &format!("rounded numbers of {} rows", room.rows))?;
        let [places @ .., lists] = [0, 1, 2].map(|place| numbers.address() + (place * rows) as u64);
        let maps = Memory::new(gpu, MAP * self.maps, "maps of weights and caches")?;
        let rounded = Rounded { places, lists, maps, _numbers: numbers };
        let mut made = vec![[0; MAP]; self.maps];
        for own in self.steps.iter().filter_map(|step| step.own.as_ref()) {
            if self.is_for(own.launch, Shape { rows: room.rows, segments: room.rows }) {
                let own_maps = self.maps_of(&rounded, own, begin, room)?;
                made[own.map..own.map + own_maps.len()].copy_from_slice(&own_maps);
            }
        }
        rounded.maps.write(stream, 0, made.as_flattened())?;
        Ok(Some(rounded))
    }

    /// What a launch's multiplication reads.
    fn maps_of(&self, rounded: &Rounded, own: &Own, begin: Begin, room: Room) -> Result<Vec<[u8; MAP]>> {
        let what = &self.launches[own.launch].what;
        match &what.what {
            Multiplied::Products { depth, columns, weights: lines, chosen } => {
                let (count, elements) = chosen.map_or((1, 1), |chosen| (chosen.count, chosen.elements));
                let axes = |lines: usize| [(*depth, 0), (lines, 2 * depth)];
                let rows = map(rounded.rows(what), &axes(room.rows * count), [what.numbers, what.rows]);
                let of_step = |(lines, at): (&Lines, &u64)| {
                    map(begin.weights + at, &axes(lines.width * elements), [what.numbers, *columns])
                };
                std::iter::once(rows).chain(lines.iter().zip(&own.places).map(of_step)).collect()
            }
            Multiplied::Attention { groups, key, value, positions, ring, .. } => {
                let slots = ring.unwrap_or(room.capacity);
                let caches = own.places.chunks_exact(2).zip([*key, *value]);
                let of_cache = |(at, numbers): (&[u64], usize)| {
                    let first = begin.states + at[0] + at[1] * room.capacity as u64;
                    let (row, group) = (2 * numbers, 2 * numbers * slots);
                    let axes = [(numbers, 0), (slots, row), (*groups, group), (room.slots, room.slot_bytes)];
                    map(first, &axes, [what.numbers, *positions])
                };
                caches.map(of_cache).collect()
            }
        }
    }

    /// Begins the launches of a step that takes others with it, whose words are at `words`.
    ///
    /// # Safety
    /// As for `Program::launch`; [`Apart::takes`] gives steps for such a call, and `rounded` was made for at least so many rows.
    pub(super) unsafe fn launch(
        &self,
        stream: &CudaStream,
        (step, shape): (usize, Shape),
        (call, words): (u64, u64),
        rounded: &Rounded,
    ) -> Result<()> {
        let Some(own) = &self.steps[step].own else { return Ok(()) };
        let Shape { rows, segments } = shape;
        let has = |launch: Option<usize>| launch.is_some_and(|launch| self.is_for(launch, shape));
        let Launches { what, sort, round, multiply } = &self.launches[own.launch];
        let maps = rounded.maps.address() + (own.map * MAP) as u64;
        let lists: &[u64] = if sort.is_some() { &[rounded.lists] } else { &[] };
        // SAFETY: the parameters are those of the entries; what they point to is promised by the caller, or lives as long as `rounded`.
        unsafe {
            if let Some(round) = round.as_ref().filter(|_| !has(own.handed)) {
                if let Some(sort) = sort {
                    begin(stream, sort, 1, &[call, words, rounded.lists])?;
                }
                begin(stream, round, rows, &[&[call, words, rounded.rows(what)], lists].concat())?;
            }
            let next = if has(own.taken) { rounded.next(what) } else { 0 };
            begin(stream, multiply, what.blocks(rows, segments), &[&[call, words, maps, next], lists].concat())
        }
    }
}

/// Where the weights of a launch's steps begin, or its caches; negative offsets were refused when the artifact was read.
fn places(what: &artifact::Apart, steps: &[artifact::Launch]) -> Vec<u64> {
    match &what.what {
        Multiplied::Products { weights, .. } => {
            weights.iter().zip(steps).map(|(own, step)| step.words[own.word] as u64).collect()
        }
        Multiplied::Attention { word, .. } => steps[0].words[*word..word + 4].iter().map(|word| *word as u64).collect(),
    }
}

/// How many maps a launch has.
fn count(what: &artifact::Apart) -> usize {
    match &what.what {
        Multiplied::Products { weights, .. } => 1 + weights.len(),
        Multiplied::Attention { .. } => 2,
    }
}

/// Bytes of so many bfloat16 numbers.
fn bytes(numbers: &[usize]) -> usize {
    numbers.iter().fold(2, |all: usize, own| all.saturating_mul(*own)).next_multiple_of(ALIGN)
}

/// Bytes of the rows that a launch reads or hands on.
fn row_bytes(what: &artifact::Apart, room: Room) -> usize {
    let depth = if let Multiplied::Products { depth, .. } = what.what { depth } else { 0 };
    let count = what.chosen().map_or(1, |chosen| chosen.count);
    bytes(&[room.rows, count, depth.max(what.hands.unwrap_or(0))])
}

/// Begins a launch of at most so many blocks.
///
/// # Safety
/// The parameters are the entry's, and what they point to lives until the stream has done it.
unsafe fn begin(stream: &CudaStream, entry: &Entry, blocks: usize, parameters: &[u64]) -> Result<()> {
    let mut pointers: Vec<*mut c_void> = parameters.iter().map(|at| std::ptr::from_ref(at).cast_mut().cast()).collect();
    let (blocks, threads) = ((entry.blocks.min(blocks.max(1) as u32), 1, 1), (entry.threads, 1, 1));
    // SAFETY: promised by the caller; the driver copies the parameters before it returns.
    unsafe { result::launch_kernel(entry.function, blocks, threads, entry.shared_bytes, stream.cu_stream(), &mut pointers) }
        .said("launch")
}

/// The map of lines of bfloat16 numbers from an address on: how many numbers a line has, how many lines there are, how many matrices of them and
/// so on, and how many bytes behind each other all but numbers are. Lines come in swizzled boxes of so many numbers and lines. What is not
/// there is zero.
fn map(address: u64, axes: &[(usize, usize)], boxed: [usize; 2]) -> Result<[u8; MAP]> {
    let sizes: Vec<u64> = axes.iter().map(|(size, _)| *size as u64).collect();
    let strides: Vec<u64> = axes[1..].iter().map(|(_, bytes)| *bytes as u64).collect();
    let boxed: Vec<u32> = (0..axes.len()).map(|axis| boxed.get(axis).map_or(1, |size| *size as u32)).collect();
    let steps = vec![1; axes.len()];
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: writes the map; all tables have as many entries as there are axes, or one less.
    let made = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            axes.len() as u32,
            std::ptr::without_provenance_mut(address as usize),
            sizes.as_ptr(),
            strides.as_ptr(),
            boxed.as_ptr(),
            steps.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    made.result().said("describe weights and caches to the copy engine")?;
    let mut bytes = [0; MAP];
    bytes.chunks_exact_mut(8).zip(map.opaque).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Apart, Step};

    #[test]
    fn nothing_is_begun_for_what_one_row_alone_needs() {
        let step = |most| Step { own: None, until: usize::MAX, most };
        let steps = [1, usize::MAX, 1, usize::MAX, 1].map(step).into();
        let apart = Apart { launches: vec![], steps, maps: 0 };
        assert_eq!(apart.busy(0..5, 17), 1..4);
        assert_eq!(apart.busy(2..3, 17).len(), 0);
        assert_eq!(apart.busy(0..5, 1), 0..5);
    }
}
