//! Attention as its papers write it, against golden results of each operator: in double precision, as native code, whole, token by token and cut
//! at odd places, where positions do not see later ones.

use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;

const QKV: &str = "q[heads, c] kk=k[heads, c] vv=v[heads, e]";

/// One attention with those clauses.
fn one(golden: &str, before: &str, clauses: &str) {
    let text = format!("{before}\n  o = attend[c](q, kk, vv) {{ {clauses} }}");
    Case { golden, columns: QKV, text: &text, outputs: "o[heads, e]", ..Case::default() }.check();
}

#[test]
fn grouped_queries_and_soft_caps() {
    let text = "o = attend[c](q, kk, vv) { score: s * c ^ -0.5 }
  capped = attend[c](q, kk, vv) { score: softcap(s * c ^ -0.5, 5.0) }";
    Case {
        golden: "attention_gqa",
        columns: "q[groups:2, per:3, c:16] kk=k[groups, c] vv=v[groups, e:24]",
        text,
        outputs: "o[groups, per, e] capped=o_softcap[groups, per, e]",
        ..Case::default()
    }
    .check();
}

#[test]
fn large_scores() {
    one("attention_large_scores", "", "score: s * c ^ -0.5");
}

#[test]
fn biases_by_distance() {
    one("alibi", "slope = 2.0 ^ (-2.0 * (index[heads] + 1.0))", "score: s * c ^ -0.5 - slope * (query - key)");
}

#[test]
fn windows() {
    one("sliding_window", "", "keep: causal() && within(9)   score: s * c ^ -0.5");
}

#[test]
fn learned_sinks() {
    let text = "o = attend[c](q, kk, vv) { keep: causal() && within(9)   score: s * c ^ -0.5   sink: sink }";
    let outputs = "o[heads, e]";
    Case { golden: "learned_sinks", columns: QKV, params: "sink[heads]", text, outputs, ..Case::default() }.check();
}

#[test]
fn static_patterns() {
    let text = "strides = attend[c](q, kk, vv) { keep: causal() && (within(7) || strided(7))   score: s * c ^ -0.5 }
  fixed = attend[c](q, kk, vv) { keep: causal() && (query - query % 7 == key - key % 7 || key % 7 >= 5)   score: s * c ^ -0.5 }
  dilated = attend[c](q, kk, vv) { keep: causal() && strided(4) && within(24)   score: s * c ^ -0.5 }
  logs = attend[c](q, kk, vv) { keep: causal() && doubled(query - key)   score: s * c ^ -0.5 }";
    let doubled = "fn doubled(n) = n == 0 || n == 1 || n == 2 || n == 4 || n == 8 || n == 16 || n == 32\n";
    let outputs = "strides=o_strided[heads, e] fixed=o_fixed[heads, e] dilated=o_dilated[heads, e] logs=o_logsparse[heads, e]";
    Case { golden: "sparse_masks", columns: QKV, head: doubled, text, outputs, ..Case::default() }.check();
}

#[test]
fn windows_to_both_sides_with_global_tokens() {
    let text = "o = attend[c](q, kk, vv) { keep: around(5) || key == 0 || key == 20 || query == 0 || query == 20   score: s * c ^ -0.5 }";
    Case { golden: "sparse_masks", columns: QKV, text, outputs: "o=o_longformer[heads, e]", whole: true, ..Case::default() }
        .check();
}

/// The equations of `longformer_attention`, which the golden model has in its layers.
#[test]
fn global_tokens_with_projections_of_their_own() {
    let text = "near = attend[c](q, kk, vv) { keep: around(5) || key == 0 || key == 20   score: s * c ^ -0.5 }
  far = attend[c](qg, kg, vg) { keep: everything()   score: s * c ^ -0.5 }
  o = select(position[t] == 0 || position[t] == 20, far, near)";
    let columns = "q[heads, c] kk=k[heads, c] vv=v[heads, e] qg[heads, c] kg[heads, c] vg[heads, e]";
    Case { golden: "longformer_global", columns, text, outputs: "o[heads, e]", whole: true, ..Case::default() }.check();
}

/// A table of random blocks is looked up by the query's place; each head has its own.
#[test]
fn random_blocks() {
    let text = "param table: [places, heads, two]
  blocks = table[places: tokens]
  a = blocks[two: 0]
  b = blocks[two: 1]
  o = attend[c](q, kk, vv) {
    keep: edge(query - query % 4) || edge(key - key % 4) || near(query - query % 4, key - key % 4)
      || 4.0 * a[t: query] == float(key - key % 4) || 4.0 * b[t: query] == float(key - key % 4)
    score: s * c ^ -0.5
  }";
    let head = "fn edge(start) = start == 0 || start == 48\nfn near(a, b) = a - b <= 4 && b - a <= 4\n";
    let golden = Golden::sized("bigbird", 52);
    let random = golden.all("in.random");
    let row = |at: usize| (0..3).flat_map(move |head| random[(head * 13 + at % 52 / 4) * 2..][..2].iter().copied());
    let weights = vec![("table".to_owned(), (0..104).flat_map(row).collect())];
    let text = &format!("dim two = 2\n  {text}");
    Case {
        golden: "bigbird",
        columns: QKV,
        head,
        text,
        outputs: "o[heads, e]",
        whole: true,
        times: 52,
        weights,
        ..Case::default()
    }
    .check();
}

#[test]
fn clusters_of_queries_and_keys() {
    let text = "dim one = 1
  cq = top[n as one](sum[c] q * centroids, one)[one: 0]
  ck = top[n as one](sum[c] kk * centroids, one)[one: 0]
  o = attend[c](q, kk, vv) { keep: causal() && (cq[t: query] == ck[t: key] || key == query)   score: s * c ^ -0.5 }";
    let params = "centroids[heads, n, c]";
    Case { golden: "kmeans_routing", columns: QKV, params, text, outputs: "o[heads, e]", ..Case::default() }.check();
}

/// Buckets by random rotations, sorted and cut into chunks: a token's place among the sorted is counted by attention to all that stand before.
#[test]
fn hashed_buckets_in_sorted_chunks() {
    let text = "dim one = 1
  kk = q * rsqrt(max(sum[c] q * q, 1e-12))
  u = sum[c] q * turns
  both = concat[cols, cols as bucket](u, -u)
  bucket_of = top[bucket as one](both, one)[one: 0]
  unit = position[t] * 0.0 + index[one] * 0.0 + 1.0
  side = concat[e, one as wide](vv, unit + 0.0 * vv[e: 0])
  (n1, d1) = round(e: e)(q, kk, side, bucket_of[rounds: 0], unit)
  (n2, d2) = round(e: e)(q, kk, side, bucket_of[rounds: 1], unit)
  o = select(d1 + d2 > 0.0, (n1 + n2) / max(d1 + d2, 1e-30), vv)";
    let head = "block round(c: dim, e: dim, heads: dim, wide: dim, one: dim)(
  q: [t, heads, c], kk: [t, heads, c], side: [t, heads, wide], bucket: int [t, heads], unit: [t, one],
) -> [t, heads, e], [t, heads] {
  place = attend[c](q, kk, unit) {
    keep: bucket[t: key] < bucket[t: query] || (bucket[t: key] == bucket[t: query] && key < query)
    weight: 1.0 + 0.0 * s
  }[one: 0]
  chunk = floor(place / 8.0)
  sums = attend[c](q, kk, side) {
    keep: causal() && bucket[t: key] == bucket[t: query] && key != query && follows(chunk[t: query] - chunk[t: key])
    weight: exp(s * c ^ -0.5)
  }
  return sums[wide: 0..e as e], sums[wide: e]
}

fn follows(n) = n == 0.0 || n == 1.0 || n == -5.0
";
    Case {
        golden: "lsh_attention",
        columns: "q=qk[heads, c] vv=v[heads, e]",
        params: "turns=rotations[heads, c, rounds, cols]",
        head,
        text,
        outputs: "o[heads, e]",
        whole: true,
        times: 48,
        ..Case::default()
    }
    .check();
}

/// A memory of keys and values beside the text: the nearest eight are weighed by a softmax, and a gate mixes both.
#[test]
fn nearest_neighbours_in_a_memory() {
    let text = "dim m = 64
  dim few = 8
  param km, vm: [places, m, heads, c]
  near = sum[c] q * km[places: tokens]
  ids = top[m as few](near, few)
  p = softmax[few](near[m: ids] * c ^ -0.5)
  o_mem = (sum[few] p * vm[places: tokens][m: ids])[c as e]
  local = attend[c](q, kk, vv) { score: s * c ^ -0.5 }
  g = sigmoid(gate)
  o = g * o_mem + (1.0 - g) * local";
    let golden = Golden::open("memorizing_knn");
    let memory = |name: &str| {
        let all = golden.all(name);
        (0..100).flat_map(|at| all[at / 50 * all.len() / 2..][..all.len() / 2].to_vec()).collect::<Vec<f64>>()
    };
    let weights = vec![("km".to_owned(), memory("in.km")), ("vm".to_owned(), memory("in.vm"))];
    let outputs = "o[heads, e] o_mem[heads, e]";
    Case { golden: "memorizing_knn", columns: QKV, params: "gate[heads]", text, outputs, weights, ..Case::default() }.check();
}

#[test]
fn a_latent_for_all_heads() {
    let golden = Golden::open("mla");
    let heads = |from: usize, to: usize| {
        let rows = golden.all("in.Wq").chunks(40);
        rows.enumerate().filter(|(at, _)| (from..to).contains(&(at % 18))).flat_map(|(_, row)| row.to_vec()).collect::<Vec<f64>>()
    };
    let of = |name: &str, source: &str| (format!("attn.{name}"), golden.all(source).to_vec());
    let weights = vec![
        of("wc", "in.Wdkv"),
        of("nc", "in.g_kv"),
        of("wr", "in.Wkr"),
        of("wk", "in.Wuk"),
        of("wv", "in.Wuv"),
        of("wo", "in.Wo"),
        ("attn.wq".into(), heads(0, 10)),
        ("attn.wqr".into(), heads(10, 18)),
    ];
    let text = "attn = latent_attention(heads: heads, latent: 12, nope: 10, k: 8, v: 14)\n  o = attn(x)";
    let params = "spare=Wuk[heads, a, b]";
    Case { golden: "mla", columns: "x[d]", params, text, outputs: "o[d]", weights, ..Case::default() }.check();
}

#[test]
fn two_softmaxes_subtracted() {
    let text = "a = attend[c](q1, k1, vv) { score: s * c ^ -0.5 }
  b = attend[c](q2, k2, vv) { score: s * c ^ -0.5 }
  lambda = exp(sum[c] lq1 * lk1) - exp(sum[c] lq2 * lk2) + 0.4
  o = 0.6 * rms[e](a - lambda * b, 1e-5) * g";
    Case {
        golden: "differential_attention",
        columns: "q1[heads, c] k1[heads, c] q2[heads, c] k2[heads, c] vv=v[heads, e]",
        params: "lq1[c] lk1[c] lq2[c] lk2[c] g[e]",
        text,
        outputs: "o[heads, e]",
        ..Case::default()
    }
    .check();
}

#[test]
fn a_pattern_for_each_head() {
    let keep = "keep: causal() && (h < 2 || (h < 4 && within(6)) || (h >= 4 && strided(5)))";
    one("mixed_patterns", "h = index[heads]", &format!("{keep}   score: s * c ^ -0.5"));
    one(
        "mixed_patterns",
        "",
        &format!("{}   score: s * c ^ -0.5", keep.replace("h <", "index[heads] <").replace("h >", "index[heads] >")),
    );
}

/// The first tokens and the last ones stay, and turn by their places in the cache: only the first ones' distance to the query is bounded.
#[test]
fn a_stream_with_sinks() {
    let text = "freq = 10000.0 ^ (-index[half] / half)
  dim both = 2 * c
  turned = turn(kk, position[t] * freq)
  far = turn(q, min(position[t], 11) * freq)
  queries = concat[c, c as both](turn(q, position[t] * freq), far)
  keys = concat[c, c as both](select(position[t] < 4, 0.0, turned), select(position[t] < 4, turned, 0.0))
  o = attend[both](queries, keys, vv) { keep: causal() && (within(8) || first(4))   score: s * c ^ -0.5 }";
    let head = "block turn(c: dim, heads: dim, half: dim = c / 2)(x: [t, heads, c], angle: [t, half]) -> [t, heads, c] {
  a = x[c: 0..half as half]
  b = x[c: half..c as half]
  return concat[half, half as c](a * cos(angle) - b * sin(angle), b * cos(angle) + a * sin(angle))
}
";
    let text = &format!("dim half = 8\n  {text}");
    Case { golden: "streaming_llm", columns: QKV, head, text, outputs: "o[heads, e]", ..Case::default() }.check();
}

/// Softmax weights of a window and linear weights of the rest share one denominator.
#[test]
fn a_window_and_linear_attention_in_one_sum() {
    let text = "dim one = 1
  dim f = 16
  fq = concat[half, half as f](softmax[half](sum[c] q * Wq), softmax[half](-(sum[c] q * Wq)))
  fk = concat[half, half as f](softmax[half](sum[c] kk * Wk), softmax[half](-(sum[c] kk * Wk)))
  side = concat[e, one as wide](vv, 0.0 * vv[e: 0] + index[one] * 0.0 + 1.0)
  gamma = sigmoid(gate)
  near = attend[c](q, kk, side) { keep: causal() && within(8)   weight: gamma * exp(s * c ^ -0.5) }
  far = attend[f](fq, fk, side) { keep: query - key >= 8   weight: s }
  sums = near + far
  o = sums[wide: 0..e as e] / sums[wide: e]";
    let params = "Wq[heads, half, c] Wk[heads, half, c] gate[heads]";
    Case { golden: "lolcats", columns: QKV, params, text, outputs: "o[heads, e]", ..Case::default() }.check();
}

/// Noised tokens see their own block and the clean blocks before, clean ones the clean blocks up to their own.
#[test]
fn blocks_of_noised_and_clean_tokens() {
    let text = "o = attend[c](q, kk, vv) {
    keep: (query < 24 && key < 24 && block_of(query) == block_of(key)) || (query < 24 && key >= 24 && block_of(key) < block_of(query))
      || (query >= 24 && key >= 24 && block_of(key) <= block_of(query))
    score: s * c ^ -0.5
  }";
    let head = "fn block_of(n) = n % 24 - n % 6\n";
    Case {
        golden: "block_diffusion_mask",
        columns: QKV,
        head,
        text,
        outputs: "o[heads, e]",
        whole: true,
        times: 48,
        ..Case::default()
    }
    .check();
}

/// Token by token, far past windows and once around their rings: what a masked evaluation of the whole text gives, in memory that does not grow.
#[test]
fn caches_far_past_their_windows() {
    use crate::properties::compiled::{Compiled, agree};
    use braid_runtime::session::Settings;
    let mixers = [
        ("attention(heads: 4, groups: 2, k: 4, window: 8)", false),
        ("attention(heads: 4, groups: 2, k: 4, window: 8, sinks: 3)", false),
        ("latent_attention(heads: 2, latent: 6, nope: 4, k: 4, v: 4)", true),
    ];
    for (mixer, grows) in mixers {
        let compiled = Compiled::new(&format!(
            "model m(d: dim = 12, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  mixer = \
             {mixer}\n  generate autoregressive\n  return sum[d] (x + mixer(x)) * embed\n}}\n"
        ));
        let text: Vec<i32> = (0..300).map(|at| (at * at + at / 7) % 20).collect();
        let mut session = compiled.sized(Settings { threads: 1, capacity: 304, slots: 1 });
        assert_eq!(session.manifest().state_position_bytes > 0, grows, "{mixer}");
        let mut found = Vec::new();
        text.iter().for_each(|token| found.extend_from_slice(session.step(&[(0, *token)]).expect("room")));
        agree(mixer, &found, &compiled.evaluated(&text), 1e-5).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Documents, forgetting by gates that add up, sigmoids, squared rectifiers, and one more in the denominator: whole, step by step and cut, as the
/// evaluator has it.
#[test]
fn what_both_positions_hold_and_other_weights() {
    use crate::properties::compiled::{Compiled, agree, feed};
    let compiled = Compiled::new(
        "model m(d: dim = 16, heads: dim = 2, k: dim = 4, vocab: dim = 24)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param wq, wk, wv: [heads, k, d]   param wf: [heads, d]   param wt: [d]   param wo: [d, heads, k]
  x = embed[vocab: tokens]
  q = sum[d] x * wq
  kk = sum[d] x * wk
  vv = sum[d] x * wv
  kind = floor(3.0 * sigmoid(4.0 * (sum[d] x * wt)))
  recur sum_f: [heads] over t {
    sum_f = sum_f + log(sigmoid(sum[d] x * wf))
    forgotten = sum_f
  }
  one = 0.0 * index[heads]
  same = attend[k](q, kk, vv) { keep: causal() && kind[t: query] == kind[t: key]   score: s }
  words = attend[k](q, kk, vv) { keep: causal() && (tokens[t: query] != tokens[t: key] || key == query)   score: s }
  fades = attend[k](q, kk, vv) { score: s + forgotten[t: query] - forgotten[t: key] }
  gated = attend[k](q, kk, vv) { keep: causal() && within(9)   weight: sigmoid(s - 1.0) }
  square = attend[k](q, kk, vv) { weight: relu2(s) * (1.0 + index[heads]) }
  more = attend[k](q, kk, vv) { score: s   sink: one }
  generate autoregressive
  return sum[d] (x + (sum[heads, k] (same + words + fades + 0.2 * gated + 0.1 * square + more) * wo)) * embed
}
",
    );
    let text: Vec<i32> = (0..61).map(|at| (at * at + at / 5) % 24).collect();
    let wanted = compiled.evaluated(&text);
    agree("whole", &compiled.whole(&text), &wanted, 2e-5).unwrap_or_else(|error| panic!("{error}"));
    for cut in [1, 7, 16] {
        let mut session = compiled.session(2, 1);
        let found: Vec<f32> = text.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("in parts", &found, &wanted, 2e-5).unwrap_or_else(|error| panic!("{error}"));
    }
}
