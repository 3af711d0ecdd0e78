//! Products of the same row that are one step in a call of one row.

use crate::gpu::planned_in;
use braid_compiler::fuse::kernel::{Code, Matmul};
use braid_compiler::plan::{Alone, Plan, Step, column_bytes};
use braid_runtime::artifact::Dtype;
use std::path::Path;

/// A model of docs/benchmarks.md.
fn of_the_benchmarks(name: &str, dtype: Dtype) -> Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/gpu/{name}.braid"));
    planned_in(&std::fs::read_to_string(path).expect("text"), dtype)
}

fn product(plan: &Plan, kernel: usize) -> &Matmul {
    match &plan.fused.kernels[kernel].code {
        Code::Matmul(product) => product,
        _ => panic!("kernel {kernel} is no product"),
    }
}

fn joined(plan: &Plan) -> Vec<&Step> {
    plan.steps.iter().filter(|step| step.kernels.len() > 1).collect()
}

/// How many there are in each layer is what the models say: queries, keys and values; all that a state space or a delta rule projects; an expert's
/// gate and what it multiplies are none, as the one reads the other.
#[test]
fn products_of_the_same_row_are_one_step() {
    for (name, dtype, members) in [
        ("llama", Dtype::Bf16, vec![3; 24]),
        ("llama", Dtype::Int8, vec![3; 24]),
        ("mamba2", Dtype::Bf16, vec![5; 48]),
        ("jamba", Dtype::F32, (0..24).flat_map(|at| if at % 8 == 4 { vec![3] } else { vec![2, 3] }).collect()),
    ] {
        let plan = of_the_benchmarks(name, dtype);
        let joined = joined(&plan);
        assert_eq!(joined.iter().map(|step| step.kernels.len()).collect::<Vec<_>>(), members, "{name} {dtype:?}");
        for step in joined {
            is_one_stream(&plan, step);
        }
    }
}

/// Weights lie one behind the other, words are those of all products, and no product needs what another one makes.
fn is_one_stream(plan: &Plan, step: &Step) {
    let Some(Alone::Joined(functions)) = &plan.functions[step.function].alone else { panic!("not joined") };
    assert_eq!(functions.len(), step.kernels.len());
    assert_eq!(functions.iter().map(|(_, words)| words).sum::<usize>(), step.words.len());
    let (mut words, mut behind) = (&step.words[..], None);
    for (kernel, (function, count)) in step.kernels.iter().zip(functions) {
        let (own, rest) = words.split_at(*count);
        words = rest;
        let code = product(plan, *kernel);
        assert_eq!(plan.functions[*function].code, Code::Matmul(code.clone()));
        let alone = plan.steps.iter().find(|step| step.kernels == [*kernel]).expect("calls of several rows have it");
        assert_eq!((&alone.words[..], alone.tasks.least), (own, 2));
        let weights = own[code.tensors[code.weights.0].operand];
        assert!(behind.is_none_or(|behind| behind == weights), "{weights} is not behind the weights before");
        behind = Some(weights + (code.sizes[3] * column_bytes(code)) as i64);
        let writes = &plan.fused.kernels[*kernel].writes;
        let others = step.kernels.iter().filter(|other| *other != kernel);
        assert!(others.into_iter().all(|other| plan.fused.kernels[*other].reads.iter().all(|read| !writes.contains(read))));
    }
}

/// A convolution is told where its channels are among the columns that blocks share.
#[test]
fn convolutions_know_their_columns() {
    let mut found = 0;
    for name in ["mamba2", "jamba", "qwen3next"] {
        let plan = of_the_benchmarks(name, Dtype::Bf16);
        for step in &plan.steps {
            let function = &plan.functions[step.function];
            let (Code::Along(along), Some(_)) = (&function.code, &function.alone) else { continue };
            let read = plan.fused.kernels[step.kernel()].reads[0];
            let makes = |kernel: &usize| plan.fused.kernels[*kernel].writes.contains(&read);
            let of_one_row = plan.steps.iter().filter(|step| step.tasks.least <= 1);
            let maker = of_one_row.into_iter().find(|step| step.kernels.iter().any(makes)).expect("a product");
            let widths: Vec<usize> = maker.kernels.iter().map(|kernel| product(&plan, *kernel).sizes[3]).collect();
            let at = maker.kernels.iter().position(makes).expect("a product");
            let told = [widths[..at].iter().sum::<usize>() as i64, widths.iter().sum::<usize>() as i64];
            assert_eq!(step.words[step.words.len() - 2..], told, "{name}");
            assert_eq!(widths[at], along.channels);
            found += usize::from(widths.len() > 1);
        }
    }
    // Three of each layer of Mamba-2, one of each of Jamba's, three of each with a delta rule.
    assert_eq!(found, 3 * 48 + 21 + 3 * 9);
}
