//! The entries. Each walks a table of steps with all blocks of one launch; blocks wait for each other where a step needs what others
//! wrote. A deeper model has a longer table, not more code.

use super::{BLOCKS, THREADS};
use crate::mlir::common::{Cmp, Emitter, Field, Ty, Val};
use crate::plan::Plan;
use braid_runtime::artifact::STEP_WORDS;

/// Emits `braid_prepare`, `braid_prefill` and `braid_step`.
pub fn emit(e: &Emitter, plan: &Plan) {
    let used = |steps: &[crate::plan::Step]| -> Vec<usize> {
        (0..plan.functions.len()).filter(|at| steps.iter().any(|step| step.function == *at)).collect()
    };
    let (prepare, steps) = (used(&plan.prepare), used(&plan.steps));
    entry(e, "braid_prepare", plan, &prepare);
    entry(e, "braid_prefill", plan, &steps);
    entry(e, "braid_step", plan, &steps);
}

fn entry(e: &Emitter, name: &str, plan: &Plan, functions: &[usize]) {
    e.device_entry(name, (THREADS, BLOCKS), &[Ty::PTR, Ty::PTR, Ty::PTR, Ty::I64, Ty::PTR], |values| {
        let [call, steps, words, count, barrier] = *values else { return };
        let (call, steps, words, barrier) =
            (e.device_memory(call), e.device_memory(steps), e.device_memory(words), e.device_memory(barrier));
        let walk = Walk { e, plan, functions, call, words, barrier, block: e.block_number(), blocks: e.blocks() };
        // How often blocks have waited; since then, how many tasks were dealt before the last step, and with it.
        e.for_loop(e.i64(0), count, e.i64(1), &[e.i64(0), e.i64(0), e.i64(0)], |at, state| {
            let row = e.offset(steps, e.mul(at, e.i64(8 * STEP_WORDS)));
            walk.step(row, [state[0], state[1], state[2]])
        });
        walk.leave();
    });
}

struct Walk<'k, 'c> {
    e: &'k Emitter<'c>,
    plan: &'k Plan,
    functions: &'k [usize],
    call: Val<'c>,
    words: Val<'c>,
    barrier: Val<'c>,
    block: Val<'c>,
    blocks: Val<'c>,
}

impl<'c> Walk<'_, 'c> {
    /// One step; gives the loop's state after it.
    fn step(&self, row: Val<'c>, [waits, before, dealt]: [Val<'c>; 3]) -> Vec<Val<'c>> {
        let e = self.e;
        let word = |n: usize| e.load_constant(e.offset_by(row, 8 * n), Ty::I64);
        let [function, first, per, times, _, factor, least, order] = std::array::from_fn(word);
        let (waiting, following) = (e.cmp(Cmp::Eq, order, e.i64(1)), e.cmp(Cmp::Eq, order, e.i64(2)));
        let tasks = self.tasks([per, times, factor, least]);
        let waits = e.add(waits, e.select(waiting, e.i64(1), e.i64(0)));
        e.if_then(waiting, || self.wait(waits));
        // Blocks that had nothing to do in the steps before begin with this one's tasks.
        let from = e.select(following, before, e.select(waiting, e.i64(0), dealt));
        let turn = e.sub(self.block, from);
        let begin = e.add(turn, e.select(e.cmp(Cmp::Lt, turn, e.i64(0)), self.blocks, e.i64(0)));
        let operands = e.offset(self.words, e.mul(first, e.i64(8)));
        let arguments = [self.call, operands, begin, tasks, self.block];
        e.if_then(e.cmp(Cmp::Lt, begin, tasks), || self.dispatch(self.functions, function, &arguments));
        let dealt = e.rem(e.to_i32(e.add(from, tasks)), e.to_i32(self.blocks));
        vec![waits, from, e.to_i64(dealt)]
    }

    fn tasks(&self, [per, times, factor, least]: [Val<'c>; 4]) -> Val<'c> {
        let e = self.e;
        let is = |n: i64| e.cmp(Cmp::Eq, per, e.i64(n));
        let segments = e.select(is(3), e.call_field(self.call, Field::Segments), e.i64(1));
        let wanted = e.select(is(2), e.call_field(self.call, Field::Wanted), segments);
        let rows = e.call_field(self.call, Field::Rows);
        let counted = e.select(is(1), rows, wanted);
        // On a GPU no task has several of what is counted: `by` is 1.
        let tasks = e.mul(factor, e.mul(counted, times));
        e.select(e.cmp(Cmp::Ge, rows, least), tasks, e.i64(0))
    }

    fn dispatch(&self, functions: &[usize], function: Val<'c>, arguments: &[Val<'c>]) {
        let Some((first, others)) = functions.split_first() else { return };
        let e = self.e;
        let call = || {
            e.call(&self.plan.functions[*first].name, arguments, None);
        };
        if others.is_empty() {
            return call();
        }
        let chosen = e.cmp(Cmp::Eq, function, e.i64(*first));
        let rest = || {
            self.dispatch(others, function, arguments);
            vec![]
        };
        let own = || {
            call();
            vec![]
        };
        e.if_else(chosen, own, rest);
    }

    /// All blocks come here for the `waits`-th time before any goes on.
    fn wait(&self, waits: Val<'c>) {
        let e = self.e;
        e.sync();
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            e.count_up(self.barrier, e.i32(1));
            let all = e.to_i32(e.mul(waits, self.blocks));
            e.until(|| e.cmp(Cmp::Ge, e.watch(self.barrier), all));
        });
        e.sync();
    }

    /// The last block to leave makes the barrier ready for the next launch.
    fn leave(&self) {
        let e = self.e;
        e.sync();
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            let left = e.offset_by(self.barrier, 4);
            let before = e.count_up(left, e.i32(1));
            let last = e.cmp(Cmp::Eq, e.to_i64(before), e.sub(self.blocks, e.i64(1)));
            e.if_then(last, || {
                e.store(self.barrier, e.i32(0));
                e.store(left, e.i32(0));
            });
        });
    }
}
