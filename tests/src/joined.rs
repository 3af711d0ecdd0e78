//! Products of the same rows that are one step in calls of few rows.

use crate::gpu::planned_in;
use braid_compiler::fuse::kernel::{Code, Matmul};
use braid_compiler::plan::{Alone, Joint, Order, Plan, STEP_ROWS, Step, column_bytes};
use braid_runtime::artifact::Dtype;
use std::path::Path;

/// A model of docs/benchmarks.md.
pub fn of_the_benchmarks(name: &str, dtype: Dtype) -> Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/gpu/{name}.braid"));
    planned_in(&std::fs::read_to_string(path).expect("text"), dtype)
}

fn product(plan: &Plan, kernel: usize) -> &Matmul {
    match &plan.fused.kernels[kernel].code {
        Code::Matmul(product) => product,
        _ => panic!("kernel {kernel} is no product"),
    }
}

/// The products that a step joins; none: it is not one of these.
fn members<'p>(plan: &'p Plan, step: &Step) -> &'p [Joint] {
    match &plan.functions[step.function].alone {
        Some(Alone::Joined(members)) => members,
        _ => &[],
    }
}

/// The step of a kernel in calls of many rows.
fn of_many(plan: &Plan, kernel: usize) -> &Step {
    let of_many = |step: &&Step| step.kernels == [kernel] && step.tasks.most > STEP_ROWS;
    plan.steps.iter().find(of_many).expect("a step of calls of many rows")
}

fn joined(plan: &Plan) -> Vec<&Step> {
    plan.steps.iter().filter(|step| !members(plan, step).is_empty()).collect()
}

/// The products that a step of calls of several rows joins.
fn members_of_rows<'p>(plan: &'p Plan, step: &Step) -> Option<&'p [Joint]> {
    match &plan.functions[step.function].alone {
        Some(Alone::Rows(members)) => Some(members),
        _ => None,
    }
}

/// How many there are in each layer is what the models say: queries, keys and values; all that a state space or a delta rule projects; an expert's
/// gate and what it multiplies are none, as the one reads the other.
#[test]
fn products_of_the_same_row_are_one_step() {
    for (name, dtype, counts) in [
        ("llama", Dtype::Bf16, vec![3; 24]),
        ("llama", Dtype::Int8, vec![3; 24]),
        ("mamba2", Dtype::Bf16, vec![5; 48]),
        ("jamba", Dtype::F32, (0..24).flat_map(|at| if at % 8 == 4 { vec![3] } else { vec![2, 3] }).collect()),
    ] {
        let plan = of_the_benchmarks(name, dtype);
        let joined = joined(&plan);
        let found: Vec<usize> = joined.iter().map(|step| members(&plan, step).len()).collect();
        assert_eq!(found, counts, "{name} {dtype:?}");
        for step in joined {
            is_one_stream(&plan, step);
        }
    }
}

/// Weights lie one behind the other, words are those of all products, and no product needs what another one makes.
fn is_one_stream(plan: &Plan, step: &Step) {
    let members = members(plan, step);
    let all: usize = members.iter().map(|own| own.words + own.tail.map_or(0, |(_, words)| words)).sum();
    assert_eq!(all, step.words.len());
    let (mut words, mut behind) = (&step.words[..], None);
    for (kernel, member) in step.kernels.iter().zip(members) {
        let (own, rest) = words.split_at(member.words);
        words = &rest[member.tail.map_or(0, |(_, words)| words)..];
        let code = product(plan, *kernel);
        assert_eq!(plan.functions[member.function].code, Code::Matmul(code.clone()));
        let alone = of_many(plan, *kernel);
        let several = plan.steps.iter().any(|step| members_of_rows(plan, step).is_some() && step.kernels.contains(kernel));
        assert_eq!((&alone.words[..], alone.tasks.least), (own, if several { STEP_ROWS + 1 } else { 2 }));
        let weights = own[code.tensors[code.weights.0].operand];
        assert!(behind.is_none_or(|behind| behind == weights), "{weights} is not behind the weights before");
        behind = Some(weights + (code.sizes[3] * column_bytes(code)) as i64);
        let writes = &plan.fused.kernels[*kernel].writes;
        let others = step.kernels[..members.len()].iter().filter(|other| *other != kernel);
        assert!(others.into_iter().all(|other| plan.fused.kernels[*other].reads.iter().all(|read| !writes.contains(read))));
    }
}

/// Calls of several rows have the same products as one step, without convolutions, whose state is a sequence's: unless weights are in single precision,
/// which nothing is made of rows for. The step waits if one of its products would.
#[test]
fn products_of_several_rows_are_one_step() {
    for (name, dtype) in [("llama", Dtype::Bf16), ("mamba2", Dtype::Bf16), ("mamba2", Dtype::Int8), ("jamba", Dtype::F32)] {
        let plan = of_the_benchmarks(name, dtype);
        let runs = joined(&plan).into_iter().filter(|step| members(&plan, step).len() > 1);
        let of_one: Vec<&[usize]> = runs.map(|step| &step.kernels[..members(&plan, step).len()]).collect();
        let found: Vec<&Step> = plan.steps.iter().filter(|step| members_of_rows(&plan, step).is_some()).collect();
        let kernels: Vec<&[usize]> = found.iter().map(|step| &step.kernels[..]).collect();
        assert_eq!(kernels, if dtype == Dtype::F32 { vec![] } else { of_one }, "{name} {dtype:?}");
        for step in found {
            assert_eq!((step.tasks.least, step.tasks.most), (2, STEP_ROWS));
            let alone = |kernel: &usize| of_many(&plan, *kernel);
            let words: Vec<i64> = step.kernels.iter().flat_map(|kernel| alone(kernel).words.clone()).collect();
            assert_eq!(words, step.words);
            let waits = step.kernels.iter().any(|kernel| alone(kernel).order != Order::Free);
            assert_eq!(step.order, if waits { Order::Wait } else { Order::Free }, "{name}");
        }
    }
}

/// A convolution of a product's columns goes with the product: it is told where they are among the columns that blocks share, has its own words, and
/// is a step of its own where there are more rows.
#[test]
fn convolutions_go_with_their_columns() {
    for (name, count) in [("mamba2", 3 * 48), ("jamba", 21), ("qwen3next", 3 * 9)] {
        let plan = of_the_benchmarks(name, Dtype::Bf16);
        let mut found = 0;
        for step in joined(&plan) {
            let members = members(&plan, step);
            let widths: Vec<usize> =
                step.kernels[..members.len()].iter().map(|kernel| product(&plan, *kernel).sizes[3]).collect();
            let mut tails = step.kernels[members.len()..].iter();
            let mut words = &step.words[..];
            for (at, member) in members.iter().enumerate() {
                words = &words[member.words..];
                let Some((function, count)) = member.tail else { continue };
                let kernel = *tails.next().expect("the convolution's kernel");
                let Code::Along(along) = &plan.functions[function].code else { panic!("{name}: no convolution") };
                let (own, rest) = words.split_at(count);
                let told = [widths[..at].iter().sum::<usize>() as i64, widths.iter().sum::<usize>() as i64];
                let alone = of_many(&plan, kernel);
                assert_eq!((&own[..count - 2], &own[count - 2..]), (&alone.words[..], &told[..]), "{name}");
                assert_eq!((widths[at], alone.tasks.least), (along.channels, 2), "{name}");
                assert!(plan.fused.kernels[step.kernels[at]].writes.contains(&plan.fused.kernels[kernel].reads[0]), "{name}");
                words = rest;
                found += 1;
            }
        }
        assert_eq!(found, count, "{name}");
    }
}
