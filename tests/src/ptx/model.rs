//! An artifact for a GPU on the interpreter: what the runtime does with a driver, without one.

use super::memory::put;
use super::{Grid, Machine, Memory, Module};
use braid_runtime::Weights;
use braid_runtime::artifact::{Call, Device, Launch, Manifest};
use std::mem::offset_of;

/// Blocks of a launch, unless it is to have others: enough to wait for each other.
const BLOCKS: usize = 3;
/// Most blocks that there is scratch memory for.
const MOST_BLOCKS: usize = 8;

/// The addresses of a table of steps and of its streams, and their lengths.
#[derive(Clone, Copy)]
struct Table {
    steps: u64,
    count: usize,
    streams: u64,
    stream_count: usize,
}

impl Table {
    fn of(device: &Device, steps: &[Launch], memory: &mut Memory) -> Table {
        let words = device.table(steps).into_iter().flat_map(i64::to_le_bytes).collect();
        let streams = Device::streams(steps).into_iter().flat_map(u32::to_le_bytes).collect();
        let stream_count = steps.iter().filter(|step| step.stream.is_some()).count();
        Table { steps: memory.add(words), count: steps.len(), streams: memory.add(streams), stream_count }
    }
}

/// Addresses of what a call names; of its rows: tokens, positions, segments of rows, wanted rows, segments.
struct Places {
    weights: u64,
    prepared: u64,
    arena: u64,
    states: u64,
    scratch: u64,
    output: u64,
    rows: [u64; 5],
    barrier: u64,
}

/// A model with some sequences.
pub struct Played {
    machine: Machine,
    manifest: Manifest,
    device: Device,
    /// Of `braid_prepare`; for calls of one row, of few, and of many.
    tables: [Table; 4],
    places: Places,
    capacity: usize,
    slot_bytes: usize,
    rows: usize,
    blocks: usize,
    /// How many positions each sequence has seen.
    positions: Vec<usize>,
}

impl Played {
    /// Loads code; for so many sequences of at most `capacity` positions, in calls of at most `rows` rows.
    pub fn new(ptx: &str, manifest: Manifest, weights: &Weights, [slots, capacity, rows]: [usize; 3]) -> Result<Played, String> {
        let device = manifest.device.clone().ok_or("an artifact for a processor")?;
        let capacity = capacity.next_multiple_of(16);
        let slot_bytes = manifest.slot_bytes(capacity).ok_or("too many positions")?;
        let mut machine = Machine::new(Module::parse(ptx)?);
        // Counters of tasks, and of parts of tiles, begin with zero.
        let [prepared, scratch] =
            [manifest.prepared_bytes, manifest.scratch_bytes * MOST_BLOCKS].map(|bytes| machine.memory.add(vec![0; bytes]));
        // Nothing says what other memory holds at first.
        let mut add = |bytes: usize| machine.memory.add(vec![0xA5; bytes]);
        let places = Places {
            prepared,
            arena: add(manifest.arena_row_bytes * rows),
            states: add(slot_bytes * slots),
            scratch,
            output: add(manifest.vocab * 4 * rows),
            rows: [4 * rows, 4 * rows, 4 * rows, 4 * rows, SEGMENT_BYTES * slots].map(&mut add),
            barrier: machine.memory.add(vec![0; 8]),
            weights: machine.memory.add(weights.bytes().to_vec()),
        };
        let [one, few] = [1, device.step_rows].map(|rows| device.needed(rows));
        let tables = [&device.prepare, &one, &few, &device.steps].map(|steps| Table::of(&device, steps, &mut machine.memory));
        let positions = vec![0; slots];
        let mut played =
            Played { machine, manifest, device, tables, places, capacity, slot_bytes, rows, blocks: BLOCKS, positions };
        played.begin()?;
        Ok(played)
    }

    /// With so many blocks, at most [`MOST_BLOCKS`].
    pub fn with_blocks(self, blocks: usize) -> Played {
        Played { blocks: blocks.min(MOST_BLOCKS), ..self }
    }

    fn begin(&mut self) -> Result<(), String> {
        let slots = 0..self.positions.len();
        for (slot, state) in slots.flat_map(|slot| self.manifest.states.iter().map(move |state| (slot, state))) {
            let (place, first) = (state.place(self.capacity), state.first_value());
            let start = self.places.states + (slot * self.slot_bytes + place.start) as u64;
            let bytes = self.machine.memory.at(start, place.len())?;
            bytes.chunks_exact_mut(first.len()).for_each(|cell| cell.copy_from_slice(&first));
        }
        self.launch("braid_prepare", self.tables[0], [0; 3])
    }

    /// Each of the first sequences reads tokens; gives the logits of all of them, or of the last of each.
    pub fn call(&mut self, feeds: &[&[i32]], all: bool) -> Result<Vec<f32>, String> {
        let rows: usize = feeds.iter().map(|tokens| tokens.len()).sum();
        let (mut positions, mut of_rows, mut wanted, mut segments) = (vec![], vec![], vec![], vec![]);
        for (slot, tokens) in feeds.iter().enumerate() {
            let (first, count, position) = (positions.len() as i32, tokens.len() as i32, self.positions[slot] as i32);
            positions.extend(position..position + count);
            of_rows.extend(vec![slot as i32; tokens.len()]);
            wanted.extend(if all { first..first + count } else { first + count - 1..first + count });
            // States lie in another order than rows do.
            segments.extend([(self.positions.len() - 1 - slot) as i32, first, count, position, 0]);
            self.positions[slot] += tokens.len();
        }
        let lists = [&feeds.concat(), &positions, &of_rows, &wanted, &segments];
        for (place, list) in self.places.rows.into_iter().zip(lists) {
            let bytes = self.machine.memory.at(place, 4 * list.len())?;
            bytes.chunks_exact_mut(4).zip(list).for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
        }
        let (entry, table) = match rows {
            1 => ("braid_step", 1),
            _ if rows <= self.device.step_rows => ("braid_step", 2),
            _ => ("braid_prefill", 3),
        };
        self.launch(entry, self.tables[table], [rows, feeds.len(), wanted.len()])?;
        let bytes = self.machine.memory.at(self.places.output, 4 * wanted.len() * self.manifest.vocab)?;
        Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
    }

    /// A call of so many rows, segments and wanted rows.
    fn described(&self, [rows, segments, wanted]: [usize; 3]) -> Vec<u8> {
        let (places, mut call) = (&self.places, vec![0; size_of::<Call>()]);
        let [tokens, positions, row_segments, wanted_rows, segment_table] = places.rows;
        let fields = [
            (offset_of!(Call, rows), rows as u64),
            (offset_of!(Call, rows_capacity), self.rows as u64),
            (offset_of!(Call, segments), segments as u64),
            (offset_of!(Call, wanted), wanted as u64),
            (offset_of!(Call, capacity), self.capacity as u64),
            (offset_of!(Call, slot_bytes), self.slot_bytes as u64),
            (offset_of!(Call, tokens), tokens),
            (offset_of!(Call, positions), positions),
            (offset_of!(Call, row_segments), row_segments),
            (offset_of!(Call, segment_table), segment_table),
            (offset_of!(Call, wanted_rows), wanted_rows),
            (offset_of!(Call, weights), places.weights),
            (offset_of!(Call, prepared), places.prepared),
            (offset_of!(Call, arena), places.arena),
            (offset_of!(Call, states), places.states),
            (offset_of!(Call, scratch), places.scratch),
            (offset_of!(Call, output), places.output),
        ];
        fields.into_iter().for_each(|(at, field)| put(&mut call[at..at + 8], field));
        call
    }

    fn launch(&mut self, entry: &str, table: Table, counts: [usize; 3]) -> Result<(), String> {
        let Table { steps, count, streams, stream_count } = table;
        if count == 0 {
            return Ok(());
        }
        let (call, barrier) = (self.described(counts), self.places.barrier);
        let parameters = [self.machine.memory.add(call), steps, count as u64, streams, stream_count as u64, barrier];
        let grid = if entry == "braid_step" { self.device.step } else { self.device.prefill };
        let grid = Grid { blocks: self.blocks, threads: grid.threads, shared: grid.shared_bytes };
        self.machine.launch(entry, &parameters, grid)?;
        match self.machine.memory.at(barrier, 8)? {
            [0, 0, 0, 0, 0, 0, 0, 0] => Ok(()),
            _ => Err(format!("`{entry}` does not leave its barrier as it was")),
        }
    }
}

/// Bytes of an entry of the table of segments.
const SEGMENT_BYTES: usize = size_of::<braid_runtime::artifact::Segment>();
