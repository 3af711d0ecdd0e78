//! The exported entries: a short loop over a table of calls. A deeper model has a longer table, not more code.

use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Emitter, Field, Linkage, Ty, Val};
use crate::plan::{Plan, Step};
use braid_runtime::artifact::Call;

/// Words of one row of the table: function, first operand word, what is counted, times, by, factor, cost, least rows.
const ROW: usize = 8;
/// Calls with less work than this many additions stay on the calling thread.
const WORTH_THREADS: usize = 24 * 1024;

/// Emits the tables and `braid_prepare`, `braid_encode`, `braid_prefill`, `braid_step`, `braid_part`, with `behind` at the end of their names.
pub fn emit(e: &Emitter, plan: &Plan, behind: &str) {
    let names: Vec<&str> = plan.functions.iter().map(|f| f.name.as_str()).collect();
    if !names.is_empty() {
        e.table_functions("kernels", &names);
    }
    walk(e);
    table(e, "prepare", &plan.prepare);
    table(e, "encode", &plan.encode);
    table(e, "run", &plan.steps);
    let entry = |name: &str, table: &str, steps: &[Step]| entry(e, &format!("{name}{behind}"), table, steps);
    entry("braid_prepare", "prepare", &plan.prepare);
    entry("braid_encode", "encode", &plan.encode);
    // Every segment says how many rows it has, so both forms run the same calls.
    entry("braid_prefill", "run", &plan.steps);
    entry("braid_step", "run", &plan.steps);
    part(e, &format!("braid_part{behind}"));
}

/// `braid_part(call, first, count)`: some of a call's kernels, for those who measure them.
fn part(e: &Emitter, name: &str) {
    e.function(name, Linkage::Public, &[Ty::PTR, Ty::I64, Ty::I64], Some(Ty::I32), |values| {
        let [call, first, count] = *values else { return None };
        let rows = e.offset(e.address_of("run_calls"), e.mul(first, e.i64(8 * ROW)));
        e.call("walk", &[call, rows, e.address_of("run_words"), count], None);
        Some(e.i32(0))
    });
}

fn table(e: &Emitter, name: &str, steps: &[Step]) {
    let mut rows: Vec<i64> = Vec::new();
    let mut words: Vec<i64> = Vec::new();
    for step in steps {
        let tasks = step.tasks;
        let row = [step.function, words.len(), tasks.per as usize, tasks.times, tasks.by, tasks.factor, tasks.cost, tasks.least];
        rows.extend(row.map(|n| n as i64));
        words.extend(&step.words);
    }
    // A table cannot be empty.
    rows.push(0);
    words.push(0);
    e.table_i64(&format!("{name}_calls"), &rows);
    e.table_i64(&format!("{name}_words"), &words);
}

fn entry(e: &Emitter, name: &str, table: &str, steps: &[Step]) {
    e.entry(name, |call| {
        if !steps.is_empty() {
            let (rows, words) = (e.address_of(&format!("{table}_calls")), e.address_of(&format!("{table}_words")));
            e.call("walk", &[call, rows, words, e.i64(steps.len())], None);
        }
        e.i32(0)
    });
}

/// `walk(call, rows, words, count)`: does the calls of a table.
fn walk(e: &Emitter) {
    let parameters = [Ty::PTR, Ty::PTR, Ty::PTR, Ty::I64];
    e.function("walk", Linkage::Private, &parameters, None, |values| {
        let [call, rows, words, count] = *values else { return None };
        for_each(e, e.i64(0), count, e.i64(1), |at| {
            let row = e.offset(rows, e.mul(at, e.i64(8 * ROW)));
            one(e, call, row, words);
        });
        None
    });
}

fn one<'c>(e: &Emitter<'c>, call: Val<'c>, row: Val<'c>, words: Val<'c>) {
    let word = |n: usize| e.load(e.offset_by(row, 8 * n), Ty::I64);
    let [function, first, per, times, by, factor, cost, least] = std::array::from_fn(word);
    let kernel = e.load(e.offset(e.address_of("kernels"), e.mul(function, e.i64(8))), Ty::PTR);
    let operands = e.offset(words, e.mul(first, e.i64(8)));
    let is = |n: i64| e.cmp(Cmp::Eq, per, e.i64(n));
    let segments = e.select(is(3), e.call_field(call, Field::Segments), e.i64(1));
    let wanted = e.select(is(2), e.call_field(call, Field::Wanted), segments);
    let counted = e.select(is(1), e.call_field(call, Field::Rows), wanted);
    let scaled = e.mul(counted, times);
    let tasks = e.mul(factor, e.div_up(scaled, by));
    let tasks = e.select(e.cmp(Cmp::Ge, e.call_field(call, Field::Rows), least), tasks, e.i64(0));
    let place = e.offset_by(call, std::mem::offset_of!(Call, parallel));
    let (parallel, address) = (e.load(place, Ty::PTR), e.load(place, Ty::I64));
    // A task that is a sequence does all of its rows.
    let rows = e.div(e.call_field(call, Field::Rows), e.max(e.call_field(call, Field::Segments), e.i64(1)));
    let cost = e.select(is(3), e.mul(cost, rows), cost);
    let much = e.cmp(Cmp::Ge, e.mul(tasks, cost), e.i64(WORTH_THREADS));
    let several = e.cmp(Cmp::Gt, tasks, e.i64(1));
    let spread = e.and(e.and(much, several), e.cmp(Cmp::Ne, address, e.i64(0)));
    e.if_else(
        spread,
        || {
            e.call_indirect(parallel, &[call, kernel, operands, tasks], None);
            vec![]
        },
        || {
            e.call_indirect(kernel, &[call, operands, e.i64(0), tasks, e.i64(0)], None);
            vec![]
        },
    );
}
