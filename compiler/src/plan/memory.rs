//! Where everything lies: the arena by lifetimes, prepared values, weights, and the states of a slot.

use super::tasks::STEP_ROWS;
use crate::forms::{BLOCK, Extent, Reach, StateDecl, StateKind};
use crate::fuse::kernel::{Code, Rows};
use crate::fuse::{Fused, Operand};
use braid_dsl::model::Size;
use braid_runtime::artifact::{ALIGN, Packed, State, Truncate};

/// Offsets of everything that kernels touch.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// For each buffer: bytes per row of capacity (arena), or bytes (prepared); 0 for the output.
    pub buffers: Vec<usize>,
    /// For each buffer the first and last kernel that touches it.
    pub lifetimes: Vec<(usize, usize)>,
    /// Arena bytes for each row of capacity.
    pub arena_row_bytes: usize,
    /// Bytes of prepared values, and of the workspace behind them.
    pub prepared_bytes: usize,
    /// Where the workspace begins.
    pub workspace: usize,
    /// The weights blob.
    pub packed: Vec<Packed>,
    /// Its bytes.
    pub weights_bytes: usize,
    /// A slot's states.
    pub states: Vec<State>,
    /// Bytes of a slot that do not depend on the capacity.
    pub state_fixed_bytes: usize,
    /// Bytes of a slot for each position.
    pub state_position_bytes: usize,
}

impl Memory {
    /// Places everything of a fused model.
    /// `lasting`: buffers, and a kernel at which each is to have its place. `matrices`: whether weights that are vectors lie behind all matrices, so that
    /// nothing is between those of products of the same rows.
    pub fn place(fused: &Fused, lasting: &[(usize, usize)], matrices: bool) -> Memory {
        let mut memory = Memory { lifetimes: lifetimes(fused), ..Memory::default() };
        for (buffer, kernel) in lasting {
            let life = &mut memory.lifetimes[*buffer];
            *life = (life.0.min(*kernel), life.1.max(*kernel));
        }
        memory.place_buffers(fused);
        memory.place_workspace(fused);
        memory.place_weights(fused, matrices);
        memory.place_states(fused);
        memory
    }

    /// The word that a kernel gets for an operand.
    pub fn word(&self, operand: Operand) -> i64 {
        let word = match operand {
            Operand::Buffer(at) => self.buffers[at],
            Operand::Packed(at) => self.packed[at].offset,
            Operand::State(at) => self.states[at].fixed_offset,
            Operand::StatePerPosition(at) => self.states[at].position_offset,
            Operand::Workspace => self.workspace,
        };
        word as i64
    }

    /// First fit, in order of birth; a buffer's place is free again after its last reader.
    fn place_buffers(&mut self, fused: &Fused) {
        self.buffers = vec![0; fused.buffers.len()];
        let mut alive: Vec<(usize, usize, usize)> = Vec::new();
        let mut order: Vec<usize> = (0..fused.buffers.len()).collect();
        order.sort_by_key(|at| (self.lifetimes[*at].0, *at));
        for at in order {
            let buffer = &fused.buffers[at];
            let bytes = (buffer.elements * buffer.store.bytes()).next_multiple_of(ALIGN);
            if buffer.output {
                continue;
            }
            if buffer.rows == Rows::Once {
                self.buffers[at] = self.prepared_bytes;
                self.prepared_bytes += bytes;
                continue;
            }
            let (born, dies) = self.lifetimes[at];
            alive.retain(|(_, _, until)| *until >= born);
            alive.sort();
            let mut place = 0;
            for (start, end, _) in &alive {
                if place + bytes <= *start {
                    break;
                }
                place = place.max(*end);
            }
            alive.push((place, place + bytes, dies));
            self.buffers[at] = place;
            self.arena_row_bytes = self.arena_row_bytes.max(place + bytes);
        }
    }

    /// One workspace for all kernels, which do not use it at the same time.
    fn place_workspace(&mut self, fused: &Fused) {
        self.workspace = self.prepared_bytes;
        let bytes = fused.kernels.iter().map(|kernel| match &kernel.code {
            Code::Attention(attention) => attention.workspace_bytes(STEP_ROWS),
            _ => 0,
        });
        self.prepared_bytes += bytes.max().unwrap_or(0).next_multiple_of(ALIGN);
    }

    fn place_weights(&mut self, fused: &Fused, matrices: bool) {
        let graph = &fused.forms.graph;
        let mut vectors = Vec::new();
        for packed in &fused.packed {
            let axes = &graph.params[packed.param.0 as usize].axes;
            let shape: Vec<usize> = axes.iter().map(|axis| graph.size(*axis).unwrap_or(1)).collect();
            // A model whose weights have no size has failed long before.
            let bytes = packed.layout.bytes(&shape, packed.dtype).unwrap_or(0).next_multiple_of(ALIGN);
            let param = packed.param.0 as usize;
            let is_vector = matrices && shape.iter().filter(|size| **size > 1).count() < 2;
            vectors.push(is_vector);
            self.packed.push(Packed { param, offset: 0, bytes, dtype: packed.dtype, layout: packed.layout.clone() });
        }
        for last in [false, true] {
            for (packed, _) in self.packed.iter_mut().zip(&vectors).filter(|(_, vector)| **vector == last) {
                packed.offset = self.weights_bytes;
                self.weights_bytes += packed.bytes;
            }
        }
    }

    fn place_states(&mut self, fused: &Fused) {
        for state in &fused.forms.states {
            let (fixed, position) = match state.extent {
                Extent::Fixed { elements } => (elements, 0),
                Extent::Ring { rows, elements } => (rows * elements, 0),
                Extent::PerPosition { elements } => (0, elements),
            };
            let axes = axes(fused, state);
            let row = axes.iter().map(|(_, size)| size).product::<usize>().max(1);
            let rows = match state.extent {
                Extent::Fixed { elements } => elements / row,
                Extent::Ring { rows, .. } => rows,
                Extent::PerPosition { .. } => 0,
            };
            let Pieces { parts, block, element_bytes } = pieces(fused, state);
            let (fixed_bytes, position_bytes) = ((fixed * element_bytes).next_multiple_of(ALIGN), position * element_bytes);
            let init_bits = match state.kind {
                StateKind::Positions => u32::MAX,
                _ => (state.init as f32).to_bits(),
            };
            self.states.push(State {
                name: state.name.clone(),
                kind: state.kind.name().to_string(),
                axes,
                element_bytes,
                fixed_offset: self.state_fixed_bytes,
                position_offset: self.state_position_bytes,
                fixed_bytes,
                position_bytes,
                init_bits,
                rows,
                parts,
                block,
                truncate: truncate(fused, state),
            });
            self.state_fixed_bytes += fixed_bytes;
            self.state_position_bytes += position_bytes;
        }
        // Fixed states come first; what grows with the capacity stands behind all of them.
        for state in &mut self.states {
            match state.position_bytes {
                0 => state.position_offset = 0,
                _ => state.fixed_offset = self.state_fixed_bytes,
            }
        }
    }
}

/// Names and sizes of a state's axes.
fn axes(fused: &Fused, state: &StateDecl) -> Vec<(String, usize)> {
    let axes = state.axes.iter().map(|a| {
        let axis = fused.forms.graph.axis(*a);
        let size = if let Size::Fixed(n) = axis.size { n } else { 0 };
        (axis.name.clone(), size)
    });
    axes.collect()
}

/// How a state's numbers lie.
struct Pieces {
    parts: usize,
    block: usize,
    element_bytes: usize,
}

/// Parts, block and numbers of a cache as the attention's kernels store it; one part and block of any other state.
fn pieces(fused: &Fused, state: &StateDecl) -> Pieces {
    let own = fused.kernels.iter().find_map(|kernel| match &kernel.code {
        Code::Attention(code) if kernel.nodes.contains(&state.node) => Some(code),
        _ => None,
    });
    match (state.kind, own) {
        (StateKind::Keys | StateKind::Values, Some(code)) => {
            let block = if state.kind == StateKind::Keys && !code.by_row() { BLOCK } else { 1 };
            Pieces { parts: code.groups, block, element_bytes: code.kept_bytes() }
        }
        _ => Pieces { parts: 1, block: 1, element_bytes: 4 },
    }
}

/// What a state still knows of earlier positions. A ring has rows for a whole call beside its window, and a window is all that
/// a query needs; every other state of fixed size forgets.
fn truncate(fused: &Fused, state: &StateDecl) -> Truncate {
    if fused.forms.holds_source(state) {
        return Truncate::Keep;
    }
    match (state.extent, fused.forms.reach(state.node)) {
        (Extent::PerPosition { .. }, _) => Truncate::Rows,
        (Extent::Ring { .. }, Reach::Window { rows, window }) => Truncate::Ring { first: 0, back: rows - window },
        (Extent::Ring { .. }, Reach::SinksAndWindow { first, rows, window }) => {
            Truncate::Ring { first, back: rows - first - window }
        }
        _ => Truncate::Replay,
    }
}

fn lifetimes(fused: &Fused) -> Vec<(usize, usize)> {
    let mut lives = vec![(usize::MAX, 0); fused.buffers.len()];
    for (at, kernel) in fused.kernels.iter().enumerate() {
        for buffer in kernel.reads.iter().chain(&kernel.writes) {
            lives[*buffer] = (lives[*buffer].0.min(at), lives[*buffer].1.max(at));
        }
    }
    // The caller writes inputs before the first kernel.
    let inputs = lives.iter_mut().zip(&fused.buffers).filter(|(_, buffer)| fused.is_input(buffer));
    inputs.for_each(|(life, _)| life.0 = 0);
    lives
}
