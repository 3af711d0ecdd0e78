//! Random hybrids: residual stacks of the library's mixers and feed-forward networks.

use proptest::prelude::*;

/// Blocks of one input around mixers that take two.
const AROUND: &str = "block bounded(d: dim, heads: dim, k: dim, v: dim, conv: bool)(x: [t, d]) -> [t, d] {
  param low: [heads, k]
  inner = hgrn2(heads: heads, k: k, v: v, conv: conv)
  return inner(x, sigmoid(low))
}

block seventh(d: dim, heads: dim, k: dim, first: bool)(x: [t, d]) -> [t, d] {
  dim v = k
  param w: [heads, v, d]
  inner = rwkv7(heads: heads, k: k, v: v, rank_w: 2, rank_a: 3, rank_v: 2, rank_g: 3, first: first)
  (y, values) = inner(x, sum[d] x * w)
  return y
}

";

/// A stack of layers.
#[derive(Clone, Debug)]
pub struct Hybrid {
    layers: Vec<(String, String)>,
}

/// One to three layers of any mixer and any feed-forward network.
pub fn hybrid() -> impl Strategy<Value = Hybrid> {
    prop::collection::vec((mixer(), ffn()), 1..4).prop_map(|layers| Hybrid { layers })
}

/// Stacks that have every recurrent mixer and both of their feed-forward networks.
pub fn memories() -> Vec<Hybrid> {
    let ffns = ["rwkv4_channel(hidden: 9)", "rwkv7_channel(hidden: 9)"];
    let layers: Vec<_> = (0..MEMORIES).map(|kind| (memory(kind, 2, 4, 5 + kind % 2), ffns[kind % 2].to_owned())).collect();
    layers.chunks(4).map(|layers| Hybrid { layers: layers.to_vec() }).collect()
}

impl Hybrid {
    /// The spec.
    pub fn text(&self) -> String {
        let mut body = String::new();
        for (n, (mixer, ffn)) in self.layers.iter().enumerate() {
            body += &format!("  na{n} = rmsnorm()\n  mixer{n} = {mixer}\n  nb{n} = rmsnorm()\n  ffn{n} = {ffn}\n");
            body += &format!("  x = x + mixer{n}(na{n}(x))\n  x = x + ffn{n}(nb{n}(x))\n");
        }
        format!(
            "{AROUND}model test(vocab: dim = 23, d: dim = 24)(tokens: [t]) -> [t, vocab] {{\n  embed = embedding(vocab: vocab, d: d)\n  last = \
             rmsnorm()\n  head = unembedding(vocab: vocab)\n  x = embed(tokens)\n{body}  generate autoregressive\n  return head(last(x))\n}}\n"
        )
    }
}

fn attention() -> impl Strategy<Value = String> {
    let extras = prop::sample::subsequence(
        vec![
            ", qk_norm: \"head\"",
            ", cap: 5.0",
            ", sink_logit: true",
            ", bias: true",
            ", gate: true",
            ", rope: rotary(part: 0.5)",
        ],
        0..4,
    );
    (1usize..4, 1usize..4, prop_oneof![Just(4), Just(8)], prop_oneof![Just(0), 1usize..20], 0usize..3, extras).prop_map(
        |(groups, per, k, window, sinks, extras)| {
            let heads = groups * per;
            let extras = extras.concat();
            format!("attention(heads: {heads}, groups: {groups}, k: {k}, window: {window}, sinks: {sinks}{extras})")
        },
    )
}

/// How many [`memory`]s there are.
const MEMORIES: usize = 16;

fn recurrent() -> impl Strategy<Value = String> {
    (0..MEMORIES, 1usize..4, prop_oneof![Just(4usize), Just(5), Just(8)], 2usize..9)
        .prop_map(|(kind, heads, k, v)| memory(kind, heads, k, v))
}

/// A recurrent mixer of the library, with options.
fn memory(kind: usize, heads: usize, k: usize, v: usize) -> String {
    match kind {
        0 => format!("mamba(inner: {}, n: {k}, rank: 2)", 4 * v),
        1 => format!("mamba2(heads: {}, p: {v}, n: {k}, groups: {heads})", 2 * heads),
        2 => format!("gated_delta(heads: {}, groups: {heads}, k: {k}, v: {v})", 2 * heads),
        3 => format!("delta_rule(heads: {heads}, k: {k}, v: {v}, width: 3)"),
        4 => format!("linear_attention(heads: {heads}, k: {k}, v: {v})"),
        5 => format!("gated_linear_attention(heads: {heads}, k: {k}, v: {v}, rank: 3)"),
        6 => format!("retention(heads: {heads}, k: {}, v: {v})", 2 * (k / 2)),
        7 => format!(
            "gated_linear_attention(heads: {}, groups: {heads}, k: {k}, v: {v}, map: \"silu\", conv: true, width: 3, least: -0.1)",
            2 * heads
        ),
        8 => format!("retention(heads: {}, groups: {heads}, k: {}, v: {v}, conv: true, gate: false)", 2 * heads, 2 * (k / 2)),
        9 => format!(
            "delta_rule(heads: {heads}, k: {k}, v: {v}, conv: false, map: \"elu1\", unit: \"sum\", strength: 0.5, gate: true)"
        ),
        10 => format!("gated_delta(heads: {heads}, k: {k}, v: {v}, conv: false, gate: \"none\", strength: 2.0)"),
        11 => format!("mlstm(heads: {heads}, k: {k}, v: {v})"),
        12 => format!("rwkv4(n: {})", k * v),
        13 => format!("bounded(heads: {heads}, k: {k}, v: {v}, conv: {})", v.is_multiple_of(2)),
        14 => format!("seventh(heads: {heads}, k: {k}, first: {})", v.is_multiple_of(2)),
        _ => format!("gated_linear_rnn(n: {})", k * v),
    }
}

fn single() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => attention(),
        4 => recurrent(),
        1 => (2usize..5).prop_map(|width| format!("short_conv(width: {width})")),
        1 => (1usize..3, 1usize..3, 0usize..9)
            .prop_map(|(near, far, window)| format!("split_heads(near: {near}, far: {far}, k: 4, window: {window})")),
    ]
}

fn mixer() -> impl Strategy<Value = String> {
    let both = (single(), single()).prop_map(|(left, right)| format!("parallel_mixers(left: {left}, right: {right})"));
    prop_oneof![5 => single(), 1 => both]
}

fn ffn() -> impl Strategy<Value = String> {
    prop_oneof![
        (3usize..20).prop_map(|hidden| format!("swiglu(hidden: {hidden})")),
        (3usize..20).prop_map(|hidden| format!("mlp(hidden: {hidden}, bias: true)")),
        (3usize..20).prop_map(|hidden| format!("rwkv4_channel(hidden: {hidden})")),
        (3usize..20).prop_map(|hidden| format!("rwkv7_channel(hidden: {hidden})")),
        (2usize..6, 1usize..3, 3usize..10).prop_map(|(experts, active, hidden)| {
            format!("moe(experts: {experts}, active: {active}, expert: swiglu(hidden: {hidden}))")
        }),
    ]
}
