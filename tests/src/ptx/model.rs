//! An artifact for a GPU on the interpreter: what the runtime does with a driver, without one.

use super::memory::put;
use super::{Grid, Machine, Module};
use braid_runtime::Weights;
use braid_runtime::artifact::{Device, Launch, Manifest, STEP_WORDS};

/// Blocks of a launch: enough to wait for each other.
const BLOCKS: usize = 3;

/// The addresses of a table of steps and of its streams, and their lengths.
struct Table {
    steps: u64,
    count: usize,
    streams: u64,
    stream_count: usize,
}

/// A model with one sequence.
pub struct Played {
    machine: Machine,
    manifest: Manifest,
    device: Device,
    prepare: Table,
    /// For calls of one row, of few, and of many.
    tables: [Table; 3],
    /// Addresses of weights, prepared tables, arena, states, scratch, output, row tables and the barrier.
    places: [u64; 8],
    capacity: usize,
    rows: usize,
    position: usize,
}

impl Played {
    /// Loads code; for sequences of at most `capacity` positions, in calls of at most `rows` rows.
    pub fn new(ptx: &str, manifest: Manifest, weights: &Weights, capacity: usize, rows: usize) -> Result<Played, String> {
        let device = manifest.device.clone().ok_or("an artifact for a processor")?;
        let capacity = capacity.next_multiple_of(16);
        let mut machine = Machine::new(Module::parse(ptx)?);
        let mut add = |bytes: usize| machine.memory.add(vec![0xA5; bytes]);
        let states = manifest.slot_bytes(capacity).ok_or("too many positions")?;
        let places = [
            0,
            add(manifest.prepared_bytes),
            add(manifest.arena_row_bytes * rows),
            add(states),
            add(manifest.scratch_bytes * BLOCKS),
            add(manifest.vocab * 4 * rows),
            add(20 * rows + 32),
            add(8),
        ];
        let weights = machine.memory.add(weights.bytes().to_vec());
        let [one, few] = [1, device.step_rows].map(|rows| device.needed(rows));
        let mut table = |steps: &[Launch]| {
            let words = device.table(steps).into_iter().flat_map(i64::to_le_bytes).collect();
            let streams = Device::streams(steps);
            let stream_count = steps.iter().filter(|step| step.stream.is_some()).count();
            let streams = machine.memory.add(streams.into_iter().flat_map(u32::to_le_bytes).collect());
            Table { steps: machine.memory.add(words), count: steps.len(), streams, stream_count }
        };
        let prepare = table(&device.prepare);
        let tables = [table(&one), table(&few), table(&device.steps)];
        let mut places = places;
        places[0] = weights;
        let mut played = Played { machine, manifest, device, prepare, tables, places, capacity, rows, position: 0 };
        played.begin()?;
        Ok(played)
    }

    fn begin(&mut self) -> Result<(), String> {
        for state in &self.manifest.states {
            let (place, first) = (state.place(self.capacity), state.first_value());
            let bytes = self.machine.memory.at(self.places[3] + place.start as u64, place.len())?;
            bytes.chunks_exact_mut(first.len()).for_each(|cell| cell.copy_from_slice(&first));
        }
        self.machine.memory.at(self.places[7], 8)?.fill(0);
        self.launch("braid_prepare", [0; 4], self.device.prefill.shared_bytes, None)
    }

    /// Reads tokens; gives the logits of all of them, or of the last.
    pub fn call(&mut self, tokens: &[i32], all: bool) -> Result<Vec<f32>, String> {
        let rows = tokens.len();
        let wanted: Vec<i32> = (if all { 0 } else { rows as i32 - 1 }..rows as i32).collect();
        let position = self.position as i32;
        let positions: Vec<i32> = (0..rows as i32).map(|row| position + row).collect();
        let segment = [0, 0, rows as i32, position, 0];
        let lists: [&[i32]; 5] = [tokens, &positions, &vec![0; rows], &wanted, &segment];
        for (at, list) in lists.into_iter().enumerate() {
            let place = self.table_at(at);
            let bytes = self.machine.memory.at(place, 4 * list.len())?;
            bytes.chunks_exact_mut(4).zip(list).for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
        }
        let (entry, table, shared) = match rows {
            1 => ("braid_step", 0, self.device.step.shared_bytes),
            _ if rows <= self.device.step_rows => ("braid_step", 1, self.device.step.shared_bytes),
            _ => ("braid_prefill", 2, self.device.prefill.shared_bytes),
        };
        self.launch(entry, [rows, 1, wanted.len(), rows], shared, Some(table))?;
        self.position += rows;
        let bytes = self.machine.memory.at(self.places[5], 4 * wanted.len() * self.manifest.vocab)?;
        Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
    }

    /// Where row table `at` begins: tokens, positions, segments of rows, wanted rows, segments.
    fn table_at(&self, at: usize) -> u64 {
        self.places[6] + (4 * self.rows * at) as u64
    }

    fn launch(
        &mut self,
        entry: &str,
        [rows, segments, wanted, _]: [usize; 4],
        shared: usize,
        table: Option<usize>,
    ) -> Result<(), String> {
        let [weights, prepared, arena, states, scratch, output, _, barrier] = self.places;
        let slot = self.manifest.slot_bytes(self.capacity).unwrap_or(0);
        let counts = [rows, self.rows, segments, wanted, self.capacity].map(|count| count as u64);
        let [tokens, positions, of_rows, wanted, segments] = std::array::from_fn(|at| self.table_at(at));
        let addresses = [tokens, positions, of_rows, segments, wanted, weights, prepared, arena, states];
        // The call as `braid_runtime::artifact::Call` has it.
        let words = counts.into_iter().chain(addresses).chain([slot as u64, scratch, output, 0, 0]);
        let call = self.machine.memory.add(words.flat_map(u64::to_le_bytes).collect());
        let Table { steps, count, streams, stream_count } = *table.map_or(&self.prepare, |at| &self.tables[at]);
        if count == 0 {
            return Ok(());
        }
        let parameters = [call, steps, count as u64, streams, stream_count as u64, barrier];
        self.machine.launch(entry, &parameters, Grid { blocks: BLOCKS, threads: self.device.step.threads, shared })?;
        let left = self.machine.memory.at(barrier, 8)?;
        if left != [0; 8] {
            put(left, 0);
            return Err(format!("`{entry}` leaves its barrier as it was"));
        }
        Ok(())
    }
}

/// A row of a table has its words.
const _: () = assert!(STEP_WORDS > 0);
