//! What each call of a plan does: operations and bytes.

use super::tasks::nest_cost;
use super::{Plan, Step};
use crate::forms::{Beside, Reach};
use crate::fuse::Operand;
use crate::fuse::kernel::{Attention, Chosen, Code, Matmul, Nests, Part, Rows, Walk};
use crate::graph::{NodeId, op_text, scope_path};
use braid_dsl::model::Op;
use braid_runtime::artifact::{ALIGN, Amount, Work};

impl Plan {
    /// The work of every step of a call, in order.
    pub fn work(&self) -> Vec<Work> {
        self.steps.iter().map(|step| self.work_of(step)).collect()
    }

    fn work_of(&self, step: &Step) -> Work {
        let kernel = &self.fused.kernels[step.kernel()];
        let function = &self.functions[step.function];
        let (flops, reach) = match &kernel.code {
            Code::Nests(nests) => (of_nests(nests), 0),
            Code::Matmul(product) => (once_a_row(2 * product.sizes.iter().product::<usize>()), 0),
            Code::Along(along) => (once_a_row(2 * along.channels * along.taps), 0),
            Code::Top(top) => (once_a_row(top.outer * top.size * top.count), 0),
            Code::Largest(largest) => (once_a_row(64 * largest.columns), 0),
            Code::Attention(attention) if let Some(tally) = attention.tally => {
                (once_a_row(4 * tally.queries * attention.groups * attention.per * attention.key), 0)
            }
            Code::Attention(attention) if function.stores_keys => (once_a_row(0), reach(attention)),
            Code::Attention(attention) => {
                let pair = 2 * attention.groups * attention.per * (attention.key + attention.value) / attention.reach.every();
                (Amount { key: pair, ..Amount::default() }, reach(attention))
            }
        };
        let (part, ops) = self.names(&kernel.nodes);
        let (function, wanted) = (function.name.clone(), kernel.rows == Rows::Wanted);
        let mut work = Work { function, part, ops, wanted, flops, bytes: Amount::default(), looked_up: 0, table: 0, reach };
        self.bytes(step, &mut work);
        work
    }

    /// Activations of every row, weights and states of fixed size once a call, caches for each position.
    fn bytes(&self, step: &Step, work: &mut Work) {
        let kernel = &self.fused.kernels[step.kernel()];
        if let Code::Attention(attention) = &kernel.code {
            let cached = attention.groups * (attention.channels() + attention.value);
            let kept = cached * attention.kept_bytes();
            if attention.tally.is_some() {
                let row = attention.groups * attention.key * 4;
                work.bytes = Amount { row, ..Amount::default() };
                return;
            }
            let queries = attention.groups * attention.per * attention.key * 4;
            work.bytes = match self.functions[step.function].stores_keys {
                // Read where they were made, written where they stay.
                true => Amount { row: 4 * cached + kept, ..Amount::default() },
                false => Amount { row: 2 * queries, key: kept / attention.reach.every(), ..Amount::default() },
            };
            return;
        }
        // Rows are made once, by whoever makes them in a call of several.
        let (operands, reads) = match &kernel.code {
            Code::Matmul(Matmul { prologue: Some(own), .. }) => (own.operands, own.reads),
            _ => (kernel.operands.len(), kernel.reads.len()),
        };
        for buffer in kernel.reads[..reads].iter().chain(&kernel.writes) {
            let buffer = &self.fused.buffers[*buffer];
            let size = buffer.elements * buffer.store.bytes();
            if buffer.rows == Rows::Once { work.bytes.once += size } else { work.bytes.row += size }
        }
        for operand in &kernel.operands[..operands] {
            match operand {
                Operand::Packed(at) => self.weights(&kernel.code, *at, work),
                Operand::State(at) => work.bytes.once += 2 * self.memory.states[*at].fixed_bytes,
                Operand::Buffer(_) | Operand::StatePerPosition(_) | Operand::Workspace => {}
            }
        }
    }

    /// All of a tensor once a call; of a table, or of the experts, what a row looks up.
    fn weights(&self, code: &Code, at: usize, work: &mut Work) {
        let packed = &self.memory.packed[at];
        let row = match code {
            Code::Matmul(Matmul { chosen: Some((_, experts)), sizes, .. }) => packed.bytes / experts.max(&1) * sizes[0],
            Code::Nests(nests) if matches!(nests.walk, Walk::Rows(_)) => packed.dtype.bytes(largest(nests)),
            _ => packed.bytes,
        };
        if row.next_multiple_of(ALIGN) < packed.bytes {
            work.looked_up += row;
            work.table += packed.bytes;
        } else {
            work.bytes.once += packed.bytes;
        }
    }

    /// The part of the model that the last node belongs to, and the ops without views and constants.
    fn names(&self, nodes: &[NodeId]) -> (String, String) {
        let graph = &self.fused.forms.graph;
        let part = nodes.last().map_or(String::new(), |node| scope_path(&graph.scopes, graph.node(*node).scope));
        let mut ops: Vec<String> = Vec::new();
        for node in nodes.iter().filter(|node| !matches!(graph.op(**node), Op::Const(_) | Op::Param(_))) {
            let text = op_text(graph.op(*node), &graph.axes, &graph.params, &[]);
            let text = text.trim_end_matches("()").trim().to_string();
            if !ops.contains(&text) {
                ops.push(text);
            }
        }
        (if part.is_empty() { graph.name.clone() } else { part }, ops.join(", "))
    }
}

fn once_a_row(row: usize) -> Amount {
    Amount { row, ..Amount::default() }
}

/// Elements of the largest statement.
fn largest(nests: &Nests) -> usize {
    let spaces = nests.nests.iter().flat_map(|nest| &nest.stmts);
    spaces.map(|stmt| stmt.space.iter().map(|axis| nests.sizes[axis.0]).product::<usize>()).max().unwrap_or(1)
}

fn of_nests(nests: &Nests) -> Amount {
    let all = nests.nests.iter().map(|nest| nest_cost(nest, &nests.sizes)).sum::<usize>();
    // A chunk does so many rows at once.
    let rows = match nests.walk {
        Walk::Segments { part: Part::Chunks(rows) | Part::Intra(rows) | Part::Batches(rows), .. } => rows,
        _ => 1,
    };
    once_a_row(all / rows)
}

/// Most positions that a row sees; 0: all.
fn reach(attention: &Attention) -> usize {
    if let Some(Chosen { count, block, beside, .. }) = attention.chosen {
        return match beside {
            Beside::Anything => 0,
            Beside::Nothing => count * block,
            Beside::Near { window, first } => window + first + count * block,
        };
    }
    match attention.reach {
        Reach::Full | Reach::Every { .. } => 0,
        Reach::Window { window, .. } => window,
        Reach::SinksAndWindow { first, window, .. } => first + window,
    }
}
