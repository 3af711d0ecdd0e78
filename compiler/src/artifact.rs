//! From a plan to the artifact's parts: the library's code and the manifest.

use crate::error::Error;
use crate::forms::{Forms, WHOLE};
use crate::fuse::kernel::Matmul;
use crate::fuse::{Buffer, Options};
use crate::graph::{Graph, NodeId};
use crate::llvm;
use crate::mlir::common::site::Setting;
use crate::mlir::common::{Context, Emitter, Module};
use crate::mlir::{cpu, gpu};
use crate::plan::{self, BLOCKS, Order, Plan, Step};
use crate::target::Target;
use braid_dsl::model::{AxisId, Elem, Generate, Op, Remask, Type};
use braid_runtime::artifact::{
    Apart, Chosen, Device, Dtype, Grid, Input, Launch, Lines, Manifest, Multiplied, Output, Packed, Param, Source, Stream, Tiles,
    Unmask,
};

/// What LLVM made of a plan.
pub struct Compiled {
    /// Text and machine code.
    pub code: llvm::Code,
}

/// What fusion has to know about a target.
pub fn options(target: &Target, dtype: Dtype) -> Options {
    // Half of the registers are for sums, the others for operands on their way.
    let pairs = target.has("avx512bf16") || target.has("bf16");
    // On a GPU every sum stands alone, too.
    let (lanes, width, sums) = (target.lanes(), target.panel(), (target.vector_registers / 2).max(1));
    let blocks = if target.gpu.is_some() { BLOCKS } else { 0 };
    // What sums over threads need lies behind it.
    let chunk_bytes = target.shared_bytes.saturating_sub(2 << 10);
    Options { lanes, width, sums, dtype, blocks, chunk_bytes, pairs, bytes: target.row_bits == Some(8) }
}

/// What the emission of kernels has to know about a target.
pub fn setting(plan: &Plan, target: &Target) -> Setting {
    let vnni = target.has("avx512vnni");
    let unsized_setting = Setting { lanes: target.lanes(), scratch: 0, schedule: target.schedule, shared: None, vnni };
    Setting { scratch: cpu::scratch_bytes(plan, unsized_setting), ..unsized_setting }
}

/// The kernels of a plan in MLIR, before the conversion passes.
///
/// # Errors
/// A kernel that the target has no form for yet; our bugs.
pub fn mlir(plan: &Plan, target: &Target) -> Result<String, Error> {
    let context = Context::new();
    Ok(emitted(&context, plan, target)?.text())
}

/// Compiles a plan for a target.
///
/// # Errors
/// As [`mlir`]; our bugs, named by stage.
pub fn compile(plan: &Plan, target: &Target) -> Result<Compiled, Error> {
    let context = Context::new();
    let lowered = emitted(&context, plan, target)?.lower()?;
    Ok(Compiled { code: llvm::generate(&lowered, target)? })
}

fn emitted<'c>(context: &'c Context, plan: &Plan, target: &Target) -> Result<Module<'c>, Error> {
    if target.gpu.is_some() {
        let emitter = Emitter::for_device(context, target.has_groups());
        gpu::emit(&emitter, plan, target)?;
        return emitter.finish();
    }
    let emitter = Emitter::new(context).scaling(target.has("avx512f"));
    cpu::emit(&emitter, plan, setting(plan, target), &target.entries);
    emitter.finish()
}

fn tiles(tiles: &plan::Tiles) -> Tiles {
    let plan::Tiles { per, times, from, by, factor } = *tiles;
    Tiles { per: per as usize, times, from, by, factor }
}

/// How the code of a GPU is launched.
fn device(plan: &Plan, target: &Target, arch: &str) -> Device {
    let launch = |step: &Step| Launch {
        function: step.function,
        words: step.words.clone(),
        per: step.tasks.per as usize,
        times: step.tasks.times,
        by: step.tasks.by,
        factor: step.tasks.factor,
        least: step.tasks.least,
        most: (step.tasks.most < usize::MAX).then_some(step.tasks.most),
        tiles: step.tasks.tiles.iter().flatten().map(tiles).collect(),
        wait: step.order == Order::Wait,
        follows: step.order == Order::Follow,
        apart: step.apart,
        until: step.until,
        alone: (step.tasks.least <= 1).then_some(step.alone),
        stream: gpu::stream(plan, step).map(|[offset, columns, column_bytes]| Stream { offset, columns, column_bytes }),
    };
    let shared_bytes = |many| gpu::shared_bytes(plan, target, many);
    let grid = |many| Grid { threads: gpu::THREADS, shared_bytes: shared_bytes(many), blocks: gpu::BLOCKS };
    Device {
        arch: arch.to_owned(),
        functions: plan.functions.iter().map(|function| function.name.clone()).collect(),
        prefill: grid(true),
        step: grid(false),
        step_rows: gpu::STEP_ROWS,
        row_words: gpu::row_words(plan),
        prepare: plan.prepare.iter().map(launch).collect(),
        steps: plan.steps.iter().map(launch).collect(),
        apart: gpu::apart::Launch::all(plan).iter().zip(&plan.apart).map(|(launch, own)| apart(launch, own)).collect(),
    }
}

/// How a launch of its own is launched.
fn apart(launch: &gpu::apart::Launch, own: &plan::Apart) -> Apart {
    let grid = |threads, shared_bytes, blocks| Grid { threads, shared_bytes, blocks };
    let (across, what) = match &launch.what {
        gpu::apart::What::Products(group) => {
            let lines = |code: &&Matmul| Lines { width: code.sizes[3], word: code.tensors[code.weights.0].operand };
            let weights = group.codes().iter().map(lines).collect();
            let chosen = launch.sorting().map(|(choice, bytes)| {
                let (count, elements) = (choice.count, choice.elements);
                Chosen { count, elements, sort: grid(gpu::apart::SORTING_THREADS, bytes, 1) }
            });
            (group.products.across(), Multiplied::Products { depth: group.depth(), columns: plan::BOX, weights, chosen })
        }
        gpu::apart::What::Attention(code) => {
            let (groups, key, value, positions) = (code.groups, code.key, code.value, gpu::apart::positions(code));
            let ring = code.unrolled().map(|(rows, _)| rows);
            (groups * code.per, Multiplied::Attention { groups, key, value, positions, ring, word: code.caches })
        }
    };
    let few = matches!(launch.what, gpu::apart::What::Attention(_)).then_some(plan::FEW_ROWS);
    Apart {
        name: launch.name(),
        from: own.from,
        few,
        rows: plan::TILE_ROWS,
        across,
        numbers: plan::NUMBERS,
        what,
        round: launch.rounding_bytes().map(|bytes| grid(gpu::apart::ROUNDING_THREADS, bytes, gpu::apart::ROUNDING_BLOCKS)),
        multiply: grid(gpu::apart::THREADS, launch.shared_bytes(), 1),
        place: own.place,
        hands: launch.handed_numbers(),
        handed: launch.is_handed(),
    }
}

/// The rows of the smallest table that token ids are looked up in; without a table every id will do, and without ids none.
fn tokens(graph: &Graph) -> usize {
    graph.token_input().map_or(0, |input| table(graph, input).unwrap_or(i32::MAX as usize))
}

/// The rows of the smallest table that an input's numbers are looked up in.
fn table(graph: &Graph, input: usize) -> Option<usize> {
    rows_by(graph, &|op| *op == Op::Input(input))
}

/// The rows of the smallest table that is looked up by what an op gives.
fn rows_by(graph: &Graph, is_index: &dyn Fn(&Op) -> bool) -> Option<usize> {
    let found = |id: NodeId| match graph.op(id) {
        Op::Wanted => is_index(graph.op(graph.args(id)[0])),
        op => is_index(op),
    };
    let rows = |node: &NodeId| match graph.op(*node) {
        Op::Gather(axis) if found(graph.args(*node)[1]) => graph.size(*axis),
        _ => None,
    };
    graph.order().iter().filter_map(rows).min()
}

/// What the caller writes into the arena; of inputs that nothing reads there is nothing.
fn inputs(plan: &Plan, sources: &[(String, Source)]) -> Vec<Input> {
    let graph = &plan.fused.forms.graph;
    let input = |(buffer, place): (&Buffer, &usize)| {
        let Op::Input(n) = graph.op(buffer.node) else { return None };
        let (name, ty) = &graph.inputs[*n];
        let axis = |axis: &AxisId| Some((graph.axis(*axis).name.clone(), graph.size(*axis)?));
        let axes = ty.axes.iter().filter_map(axis).collect();
        let source = sources.iter().find(|(input, _)| input == name).map(|(_, source)| source.clone());
        Some((
            *n,
            Input {
                name: name.clone(),
                float: ty.elem == Elem::Float,
                axes,
                arena_row_offset: *place,
                source,
                encoded: graph.of_source(ty),
                below: table(graph, *n),
            },
        ))
    };
    let mut found: Vec<_> = plan.fused.buffers.iter().zip(&plan.memory.buffers).filter_map(input).collect();
    found.sort_by_key(|(n, _)| *n);
    found.into_iter().map(|(_, input)| input).collect()
}

/// What stands behind the logits of a row.
fn outputs(graph: &Graph) -> Vec<Output> {
    let axes = |ty: &Type| ty.axes.iter().filter_map(|axis| Some((graph.axis(*axis).name.clone(), graph.size(*axis)?))).collect();
    graph.outputs.iter().map(|(name, ty)| Output { name: name.clone(), axes: axes(ty) }).collect()
}

/// The declaration of masked diffusion, as the runtime reads it.
fn unmask(generate: &Generate) -> Option<Unmask> {
    let Generate::Unmask(how) = generate else { return None };
    let id = |id: usize| i32::try_from(id).unwrap_or(i32::MAX);
    let never = how.never.iter().map(|token| id(*token)).collect();
    let random = how.remask == Remask::Random;
    Some(Unmask { mask: id(how.mask), block: how.block, steps: how.steps, random, never, guidance: how.guidance as f32 })
}

/// Packed parameters, one behind the other as they lie.
fn in_order(packed: &[Packed]) -> Vec<Packed> {
    let mut packed = packed.to_vec();
    packed.sort_by_key(|packed| packed.offset);
    packed
}

/// Bytes of the weights that a step of one token reads; what only the source needs is not among them. A parameter that is packed for several readers is read once.
fn token_weights(forms: &Forms, packed: &[Packed]) -> usize {
    let graph = &forms.graph;
    // For each parameter: elements that one token reads.
    let mut read = vec![0; graph.params.len()];
    for node in graph.order().into_iter().filter(|node| !forms.is_encoded(*node)) {
        for (place, arg) in graph.args(node).into_iter().enumerate() {
            let Op::Param(param) = graph.op(arg) else { continue };
            let all = graph.row_elements(graph.ty(arg));
            let looked_up = place == 0 && matches!(graph.op(node), Op::Gather(_));
            let elements = if looked_up { graph.row_elements(graph.ty(node)).min(all) } else { all };
            let known: &mut usize = &mut read[param.0 as usize];
            *known = elements.max(*known);
        }
    }
    let bytes = |(at, read): (usize, &usize)| {
        let all: usize = graph.params[at].axes.iter().filter_map(|axis| graph.size(*axis)).product();
        let most = packed.iter().filter(|packed| packed.param == at).map(|packed| packed.bytes).max().unwrap_or(0);
        (most as u128 * *read as u128 / all.max(1) as u128) as usize
    };
    read.iter().enumerate().map(bytes).sum()
}

/// Everything that is known about an artifact but its code. `params`: all parameters of the graph, with their bindings; `sources`: how
/// others store inputs.
pub fn manifest(plan: &Plan, target: &Target, dtype: Dtype, params: Vec<Param>, sources: &[(String, Source)]) -> Manifest {
    let graph = &plan.fused.forms.graph;
    let memory = &plan.memory;
    let output = graph.output();
    Manifest {
        model: graph.name.clone(),
        target: target.name.clone(),
        features: target.features.clone(),
        dtype,
        vocab: graph.row_elements(graph.ty(output)),
        tokens: tokens(graph),
        outputs: outputs(graph),
        places: rows_by(graph, &|op| matches!(op, Op::Position(axis) if Some(*axis) != graph.source())),
        source_places: graph.source().and_then(|source| rows_by(graph, &|op| *op == Op::Position(source))),
        inputs: inputs(plan, sources),
        autoregressive: graph.generate == Generate::Autoregressive,
        ahead: graph.ahead,
        unmask: unmask(&graph.generate),
        max_rows: plan.fused.forms.together.max_rows(plan.fused.forms.rows),
        first_rows: Some(plan.fused.forms.together.first).filter(|first| *first != WHOLE),
        block_rows: plan.fused.forms.together.block,
        whole_prompt: plan.fused.forms.together.prompt,
        params,
        packed: in_order(&memory.packed),
        weights_bytes: memory.weights_bytes,
        token_weights_bytes: token_weights(&plan.fused.forms, &memory.packed),
        prepared_bytes: memory.prepared_bytes,
        arena_row_bytes: memory.arena_row_bytes,
        scratch_bytes: if target.gpu.is_some() { gpu::scratch_bytes(plan) } else { setting(plan, target).scratch },
        states: memory.states.clone(),
        state_fixed_bytes: memory.state_fixed_bytes,
        state_position_bytes: memory.state_position_bytes,
        work: if target.gpu.is_none() { plan.work() } else { vec![] },
        device: target.gpu.map(|arch| device(plan, target, arch)),
        entries: target.entries.clone(),
        levels: vec![],
    }
}
