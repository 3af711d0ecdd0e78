//! A report for programs: every part, ungrouped.

use super::reach::Reach;
use super::report::{CONTEXTS, Layer, Report};
use super::tree::ELEMENT_BYTES;
use serde_json::{Value, json as value};

/// The report as JSON.
pub fn json(report: &Report) -> Value {
    let (cost, encode) = (&report.root.part.cost, &report.root.part.encode);
    let kept = |n: u64| report.root.part.memory.iter().map(|m| m.bytes(n)).sum::<u64>();
    let totals: Vec<Value> = CONTEXTS
        .iter()
        .map(|n| value!({ "context": n, "decode_flops": cost.at(*n), "prefill_flops": cost.total(*n) + encode.total(*n), "memory_bytes": kept(*n) }))
        .collect();
    value!({
        "model": report.model,
        "doc": report.doc,
        "autoregressive": report.autoregressive,
        "ahead": report.ahead,
        "width": { "name": report.width.name, "size": report.width.size },
        "parameters": report.root.part.params,
        "active_parameters": report.root.part.active,
        "stored": report.stored.iter().map(|(storage, paths, numbers)| value!({ "as": storage.name(), "numbers": numbers, "parameters": paths })).collect::<Vec<_>>(),
        "totals": totals,
        "layers": report.root.children.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn layer(layer: &Layer) -> Value {
    let part = &layer.part;
    let keys: Vec<Value> = part.cost.keys.iter().map(|k| value!({ "flops": k.flops, "keys": reach(k.reach) })).collect();
    let memory: Vec<Value> = part
        .memory
        .iter()
        .map(|m| value!({ "name": m.name, "bytes": m.elements * ELEMENT_BYTES, "positions": m.reach.map_or(Value::Null, reach) }))
        .collect();
    value!({
        "path": part.path,
        "block": part.block,
        "kind": part.kind.name(),
        "input": layer.input,
        "output": layer.output,
        "parameters": part.params,
        "active_parameters": part.active,
        "flops_per_token": part.cost.fixed,
        "flops_per_source_position": part.encode.fixed,
        "flops_per_token_and_key": keys,
        "memory": memory,
        "complexity": { "prefill": layer.class.prefill, "decode": layer.class.decode, "memory": layer.class.memory },
        "layers": layer.children.iter().map(self::layer).collect::<Vec<_>>(),
    })
}

fn reach(reach: Reach) -> Value {
    match reach {
        Reach::Share(share) => value!({ "share": share }),
        Reach::Bounded(most) => value!({ "at_most": most }),
    }
}
