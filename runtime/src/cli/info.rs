//! `info`: what an artifact says about itself.

use super::{print, print_json, size};
use crate::artifact::{Device, Dtype, Grid, Input, Launch, Manifest, Order, Output, Param, State, Truncate};
use crate::error::Result;
use crate::load;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `info`.
#[derive(Args)]
pub struct InfoArgs {
    /// The artifact; it may be one for another processor.
    pub artifact: PathBuf,
    /// List all parameters and the tensors that they are bound to.
    #[arg(long)]
    pub params: bool,
    /// List all states: size, and how far each can be taken back.
    #[arg(long)]
    pub states: bool,
    /// List what one launch of a GPU walks: functions, what is counted as tasks, waits.
    #[arg(long)]
    pub launches: bool,
    /// Print the whole manifest as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints a summary, the parameters, or the manifest; of several levels what this machine takes, or all as JSON.
pub fn info(args: &InfoArgs) -> Result<()> {
    let manifest = load::manifest(&args.artifact)?;
    if args.json {
        return print_json(&manifest);
    }
    let levels = manifest.targets().join(", ");
    let several = !manifest.levels.is_empty();
    let manifest = manifest.here();
    print(&summary(&manifest))?;
    if several {
        print(&format!("{:<14}{levels}; this machine takes {}\n", "levels", manifest.target))?;
    }
    let lines: String = (0..manifest.params.len()).filter(|_| args.params).map(|at| param(&manifest, at)).collect();
    let states: String = manifest.states.iter().filter(|_| args.states).map(state).collect();
    let launches: String = manifest.device.iter().filter(|_| args.launches).flat_map(launches).collect();
    print(&(lines + &states + &launches))
}

fn summary(manifest: &Manifest) -> String {
    let numbers: usize = manifest.params.iter().map(Param::count).sum();
    let features = if manifest.features.is_empty() { String::new() } else { format!(" ({})", manifest.features.join(" ")) };
    let mut rows = vec![
        ("model", manifest.model.clone()),
        ("target", format!("{}{features}", manifest.target)),
        ("parameters", format!("{numbers} in {} tensors", manifest.params.len())),
        (
            "weights",
            format!("{}, matrices as {:?}{}", size(manifest.weights_bytes), manifest.dtype, others(manifest)).to_lowercase(),
        ),
        ("takes", takes(manifest)),
        ("output", output(manifest)),
        ("generates", generates(manifest)),
        ("longest call", format!("{} rows of one sequence", manifest.max_rows)),
        ("arena", format!("{} for each row", size(manifest.arena_row_bytes))),
        (
            "state",
            format!(
                "{} a sequence and {} for each position",
                size(manifest.state_fixed_bytes),
                size(manifest.state_position_bytes)
            ),
        ),
        ("goes back", back(manifest)),
    ];
    rows.extend(manifest.device.iter().flat_map(device));
    rows.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}

/// What a sequence is given.
fn takes(manifest: &Manifest) -> String {
    let ids = (manifest.tokens > 0).then(|| "token ids".to_string());
    ids.into_iter().chain(manifest.inputs.iter().map(Input::shape)).collect::<Vec<_>>().join(", ")
}

/// What a row of the output holds.
fn output(manifest: &Manifest) -> String {
    let part = |output: &Output| format!(", {} of {}", output.elements(), output.name);
    let parts: String = manifest.outputs.iter().map(part).collect();
    format!("{} logits{parts} a row", manifest.result())
}

/// How tokens are made.
fn generates(manifest: &Manifest) -> String {
    match &manifest.unmask {
        Some(how) => format!("by filling masks (token {}), blocks of {} in {} passes", how.mask, how.block, how.steps),
        None if manifest.autoregressive && manifest.ahead > 0 => {
            format!("token by token, behind {} positions of its own", manifest.ahead)
        }
        None if manifest.autoregressive => "token by token".into(),
        None => "no".into(),
    }
}

/// What the code of a GPU needs and does.
fn device(device: &Device) -> Vec<(&'static str, String)> {
    let grid = |grid: &Grid| {
        let Grid { threads, shared_bytes, blocks } = grid;
        format!("{blocks} blocks of {threads} threads, {} of shared memory", size(*shared_bytes))
    };
    let waits = |steps: &[Launch]| steps.iter().filter(|step| step.wait).count();
    let (one, some) = (device.needed(1), device.needed(device.step_rows));
    vec![
        ("GPU", device.arch.clone()),
        ("functions", device.functions.len().to_string()),
        ("steps", format!("{} in one launch, {} of them wait for all before", some.len(), waits(&some))),
        ("one row", format!("{} steps, {} of them wait", one.len(), waits(&one))),
        ("decode", format!("up to {} rows, a multiprocessor has {}", device.step_rows, grid(&device.step))),
        ("prefill", format!("a multiprocessor has {}", grid(&device.prefill))),
    ]
}

/// A line for each step.
fn launches(device: &Device) -> Vec<String> {
    let step = |(number, step): (usize, &Launch)| {
        let order = if step.wait {
            ", waits"
        } else if step.follows {
            ", follows"
        } else {
            ""
        };
        let alone = match step.alone {
            Some(order) if (order == Order::Wait, order == Order::Follow) != (step.wait, step.follows) => match order {
                Order::Free => "; of one row it waits for nobody",
                Order::Wait => "; of one row it waits",
                Order::Follow => "; of one row it follows",
            },
            _ => "",
        };
        let apart =
            apart(device, number).or_else(|| Some(format!("; left out from {} rows on", step.until?))).unwrap_or_default();
        format!("{number:>4}  {}  {}{apart}{order}{alone}\n", device.functions[step.function], step.tasks())
    };
    device.steps.iter().enumerate().map(step).collect()
}

/// The launch of its own that a step is part of in calls of many rows.
fn apart(device: &Device, step: usize) -> Option<String> {
    let first = (0..=step).rev().find(|at| device.steps[*at].apart.is_some())?;
    let own = device.apart.get(device.steps[first].apart?)?;
    let with = if first == step { "a launch of its own".into() } else { format!("in that of {first}") };
    let few = own.few.map_or(String::new(), |few| format!(", or where sequences have up to {few} each"));
    (step < first + own.steps()).then(|| format!("; {with} from {} rows on{few}", own.from))
}

/// How matrices are stored of which the text of the model says so.
fn others(manifest: &Manifest) -> String {
    let mut kinds: Vec<Dtype> =
        manifest.packed.iter().map(|packed| packed.dtype.plain()).filter(|dtype| dtype.quantised()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.iter().filter(|dtype| **dtype != manifest.dtype).map(|dtype| format!(", some as {dtype:?}")).collect()
}

/// A parameter: its shape, the tensor that it is bound to, how it is stored for each kernel that reads it in another order.
fn param(manifest: &Manifest, at: usize) -> String {
    let param = &manifest.params[at];
    let packed = manifest.packed.iter().filter(|packed| packed.param == at).map(|packed| format!("{:?}", packed.dtype));
    let stored = packed.collect::<Vec<_>>().join(", ").to_lowercase();
    let axes: Vec<_> = param.axes.iter().zip(&param.shape).map(|(axis, size)| format!("{axis} {size}")).collect();
    let tensor = match &param.binding {
        None => "not bound".into(),
        Some(binding) => match &binding.tensors[..] {
            [one] => format!("{one} {:?}", binding.shape),
            many => format!("{} … {} {:?}", many[0], many[many.len() - 1], binding.shape),
        },
    };
    format!("{} [{}]  {tensor}  {stored}\n", param.path, axes.join(", "))
}

/// How a sequence is taken back, as the least of its states allows.
fn back(manifest: &Manifest) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for state in manifest.states.iter().filter(|state| state.truncate == Truncate::Replay) {
        match kinds.iter_mut().find(|(kind, _)| *kind == state.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&state.kind, 1)),
        }
    }
    let rings = manifest.states.iter().filter_map(|state| match state.truncate {
        Truncate::Ring { back, .. } => Some(back),
        _ => None,
    });
    match rings.min() {
        _ if !kinds.is_empty() => {
            let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            format!("from a snapshot: {} states forget", kinds.join(", "))
        }
        Some(back) => format!("at once, by {back} positions"),
        None => "at once, to any position".into(),
    }
}

fn state(state: &State) -> String {
    let axes: Vec<_> = state.axes.iter().map(|(axis, size)| format!("{axis} {size}")).collect();
    let bytes = if state.grows() { format!("{} a position", size(state.position_bytes)) } else { size(state.fixed_bytes) };
    let back = match state.truncate {
        Truncate::Rows => "to any position".into(),
        Truncate::Ring { back, .. } => format!("by {back} positions"),
        Truncate::Replay => "from a snapshot".into(),
        Truncate::Keep => "to any position, as it is the source's".into(),
    };
    format!("{} [{}]  {}, {bytes}, goes back {back}\n", state.name, axes.join(", "), state.kind)
}
