//! Blocks and warps in turns.

use super::memory::{Memory, number, put};
use super::parse::{Do, Instruction, Module, Place, Source, Space, UNPLACED};
use super::warp::{Block, Frame, LANES, Lanes, Warp, lanes};
use std::sync::Arc;

/// Instructions of a warp before it is another one's turn.
const TURN: usize = 4000;
/// Instructions of a launch, of all warps, after which it counts as endless.
const MOST: usize = 4_000_000_000;

/// Most numbers that an access to memory has side by side.
const SIDE: usize = 8;

/// A GPU: a module and memory.
pub struct Machine {
    module: Arc<Module>,
    /// Where variables of the device's memory lie.
    globals: Vec<u64>,
    /// The device's memory.
    pub memory: Memory,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks; all of them are there at once.
    pub blocks: usize,
    /// Threads of each.
    pub threads: usize,
    /// Dynamic shared memory of each, in bytes.
    pub shared: usize,
}

impl Machine {
    /// Loads a module.
    pub fn new(module: Module) -> Machine {
        let mut memory = Memory::default();
        let globals = module.globals.iter().map(|bytes| memory.add(bytes.clone())).collect();
        Machine { module: Arc::new(module), globals, memory }
    }

    /// Runs an entry to its end.
    pub fn launch(&mut self, entry: &str, parameters: &[u64], grid: Grid) -> Result<(), String> {
        let module = Arc::clone(&self.module);
        let function = module.functions.get(entry).ok_or_else(|| format!("there is no entry `{entry}`"))?;
        let parameters: Vec<Lanes> = parameters.iter().map(|value| [*value; LANES]).collect();
        let warp = |number| Warp::new(Frame::new(function, parameters.clone()), number * LANES);
        let block = |number| Block {
            number,
            shared: vec![0xA5; module.shared + grid.shared],
            warps: (0..grid.threads / LANES).map(warp).collect(),
            bulk: vec![],
        };
        let mut blocks: Vec<Block> = (0..grid.blocks).map(block).collect();
        let mut done = 0;
        while blocks.iter().any(|block| !block.is_over()) {
            let before = done;
            for block in &mut blocks {
                for warp in 0..block.warps.len() {
                    done += self.turn(&module, block, warp, grid.blocks)?;
                }
                block.meet();
            }
            let met = blocks.iter().any(Block::can_go_on);
            if done == before && !met || done > MOST {
                return Err(format!("`{entry}` does not end: {}", blocks.iter().map(Block::whereabouts).collect::<String>()));
            }
        }
        // It would arrive in the memory of another launch.
        match blocks.iter().find(|block| !block.bulk.is_empty()) {
            Some(block) => Err(format!("`{entry}` leaves copies under way in block {}", block.number)),
            None => Ok(()),
        }
    }

    fn turn(&mut self, module: &Module, block: &mut Block, at: usize, blocks: usize) -> Result<usize, String> {
        let mut warp = std::mem::take(&mut block.warps[at]);
        let mut done = 0;
        while done < TURN {
            if warp.held != 0 && warp.group().is_none() {
                warp.gather()?;
            }
            let Some((pc, group)) = warp.group() else { break };
            let frame = warp.frame();
            let function = Arc::clone(&frame.function);
            let Some(instruction) = function.code.get(pc) else { return Err(format!("`{}` has no end", function.name)) };
            if instruction.is_of_all() && group != frame.live {
                warp.held |= group;
                continue;
            }
            let mut step = Step { machine: self, block, warp: &mut warp, module, group, blocks };
            step.execute(instruction, pc).map_err(|what| format!("{}, line {}: {what}", function.name, instruction.line))?;
            done += 1;
        }
        block.warps[at] = warp;
        Ok(done)
    }
}

/// One instruction of some lanes of a warp.
pub(super) struct Step<'m> {
    pub(super) machine: &'m mut Machine,
    pub(super) block: &'m mut Block,
    pub(super) warp: &'m mut Warp,
    module: &'m Module,
    /// A bit for each lane that is here.
    pub(super) group: u32,
    blocks: usize,
}

impl Step<'_> {
    /// What a lane reads.
    pub(super) fn read(&self, source: Source, lane: usize) -> u64 {
        match source {
            Source::Register(at) => self.warp.frame_ref().registers[at][lane],
            Source::Bits(bits) if bits >= UNPLACED && bits < UNPLACED + self.machine.globals.len() as u64 => {
                self.machine.globals[(bits - UNPLACED) as usize]
            }
            Source::Bits(bits) => bits,
            Source::Thread => (self.warp.first + lane) as u64,
            Source::Block => self.block.number as u64,
            Source::Blocks => self.blocks as u64,
            Source::Lane => lane as u64,
        }
    }

    /// What all lanes read.
    fn read_all(&self, source: Source) -> Lanes {
        match source {
            Source::Register(at) => self.warp.frame_ref().registers[at],
            Source::Thread | Source::Lane => std::array::from_fn(|lane| self.read(source, lane)),
            Source::Bits(_) | Source::Block | Source::Blocks => [self.read(source, 0); LANES],
        }
    }

    pub(super) fn write(&mut self, register: usize, lane: usize, value: u64) {
        self.warp.frame().registers[register][lane] = value;
    }

    fn address(&self, place: Place, lane: usize) -> u64 {
        self.read(place.base, lane).wrapping_add(place.offset as u64)
    }

    /// Bytes of a memory.
    pub(super) fn bytes(&mut self, space: Space, address: u64, count: usize) -> Result<&mut [u8], String> {
        if !address.is_multiple_of(count as u64) {
            return Err(format!("{count} bytes at {address:#x} are not aligned"));
        }
        match space {
            Space::Global => self.machine.memory.at(address, count),
            Space::Shared => {
                let place = address as usize;
                let all = self.block.shared.len();
                let found = place.checked_add(count).and_then(|end| self.block.shared.get_mut(place..end));
                found.ok_or_else(|| format!("{count} bytes at {place} are behind the {all} of shared memory"))
            }
        }
    }

    fn execute(&mut self, instruction: &Instruction, pc: usize) -> Result<(), String> {
        let group = self.group;
        let frame = self.warp.frame();
        lanes(group).for_each(|lane| frame.pc[lane] = pc as u32 + 1);
        if let Some((guard, negated)) = instruction.guard {
            let holds = lanes(group).filter(|lane| (frame.registers[guard][*lane] != 0) != negated);
            self.group = holds.fold(0, |mask, lane| mask | 1 << lane);
        }
        match &instruction.does {
            Do::Pure(pure, into, sources) => {
                let mut read = [[0; LANES]; 4];
                sources.iter().zip(&mut read).for_each(|(source, own)| *own = self.read_all(*source));
                let [a, b, c, d] = read;
                let group = self.group;
                let into = &mut self.warp.frame().registers[*into];
                lanes(group).for_each(|lane| into[lane] = pure([a[lane], b[lane], c[lane], d[lane]]));
            }
            Do::Split(into, source, width) => {
                for lane in lanes(self.group) {
                    let whole = self.read(*source, lane);
                    let part = |at: usize| whole >> (at as u32 * width) & ((1 << width) - 1);
                    into.iter().enumerate().for_each(|(at, register)| self.write(*register, lane, part(at)));
                }
            }
            Do::Join(into, sources, width) => {
                for lane in lanes(self.group) {
                    let part = |at: usize| (self.read(sources[at], lane) & ((1 << width) - 1)) << (at as u32 * width);
                    let whole = (0..sources.len()).fold(0, |whole, at| whole | part(at));
                    self.write(*into, lane, whole);
                }
            }
            Do::Load(space, into, place, bytes, signed) => self.load(*space, into, *place, (*bytes, *signed))?,
            Do::Store(space, place, sources, bytes) => {
                for lane in lanes(self.group) {
                    let mut values = [0; SIDE];
                    sources
                        .iter()
                        .zip(&mut values[..sources.len()])
                        .for_each(|(source, value)| *value = self.read(*source, lane));
                    let to = self.bytes(*space, self.address(*place, lane), bytes * sources.len())?;
                    to.chunks_exact_mut(*bytes).zip(values).for_each(|(to, value)| put(to, value));
                }
            }
            Do::Parameter(into, at) => {
                for lane in lanes(self.group) {
                    let value = self.warp.frame().parameters[*at][lane];
                    self.write(*into, lane, value);
                }
            }
            Do::Argument(at, source) => {
                for lane in lanes(self.group) {
                    let value = self.read(*source, lane);
                    let arguments = &mut self.warp.frame().arguments;
                    arguments.resize(arguments.len().max(at + 1), [0; LANES]);
                    arguments[*at][lane] = value;
                }
            }
            Do::Call(name) => self.call(name)?,
            Do::Jump(to) => {
                let frame = self.warp.frame();
                lanes(self.group).for_each(|lane| frame.pc[lane] = *to as u32);
            }
            Do::Return => self.warp.leave(self.group),
            Do::Meet => self.warp.waiting |= self.group,
            Do::Together(what, into, sources) => self.together(*what, into, sources)?,
            Do::Nothing | Do::Gather => {}
            Do::Label(label) | Do::Unknown(label) => return Err(format!("`{label}` is not known here")),
        }
        Ok(())
    }

    fn load(&mut self, space: Space, into: &[usize], place: Place, (bytes, signed): (usize, bool)) -> Result<(), String> {
        for lane in lanes(self.group) {
            let address = self.address(place, lane);
            let from = self.bytes(space, address, bytes * into.len())?;
            let read = |bits: u64| if signed { (bits << (64 - 8 * bytes)) as i64 >> (64 - 8 * bytes) } else { bits as i64 };
            let mut values = [0; SIDE];
            from.chunks_exact(bytes).zip(&mut values[..into.len()]).for_each(|(from, value)| *value = read(number(from)) as u64);
            into.iter().zip(values).for_each(|(register, value)| self.write(*register, lane, value));
        }
        Ok(())
    }

    fn call(&mut self, name: &str) -> Result<(), String> {
        let function = self.module.functions.get(name).ok_or_else(|| format!("there is no function `{name}`"))?;
        let frame = self.warp.frame();
        let arguments = std::mem::take(&mut frame.arguments);
        if arguments.len() != function.parameters {
            return Err(format!("`{name}` has {} parameters", function.parameters));
        }
        self.warp.frames.push(Frame { live: self.group, ..Frame::new(function, arguments) });
        Ok(())
    }
}
