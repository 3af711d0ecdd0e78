//! Policies on the cache of an attention, against golden results of the papers' procedures, and against plain loops where these go on.

mod prompts;

use crate::inspecting::reported_is_allocated;
use crate::native::check_under;
use crate::properties::compiled::{Compiled, agree, feed, made_up};
use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;
use braid_compiler::forms::Chunks;

const QKV: &str = "q[heads, c] kk=k[heads, c] vv=v[heads, e]";

/// One attention under a policy.
fn under(golden: &str, policy: &str) {
    let text = format!("o = attend[c](q, kk, vv) {{ score: s * c ^ -0.5   policy: {policy} }}");
    Case { golden, columns: QKV, text: &text, outputs: "o[heads, e]", ..Case::default() }.check();
}

#[test]
fn heavy_hitters() {
    // The golden's budget counts what is left after a step, ours what a query sees.
    under("h2o", "heavy_hitters(budget: 13, recent: 7)");
}

/// What the attention's block does with positions is done again for the first keys.
#[test]
fn sinks_with_places_in_the_cache() {
    let head = "block turned(c: dim, heads: dim, half: dim = c / 2)(x: [t, heads, c]) -> [t, heads, c] {
  angle = position[t] * 10000.0 ^ (-index[half] / half)
  a = x[c: 0..half as half]
  b = x[c: half..c as half]
  return concat[half, half as c](a * cos(angle) - b * sin(angle), b * cos(angle) + a * sin(angle))
}
";
    let text = "o = attend[c](turned(q), turned(kk), vv) { score: s * c ^ -0.5   policy: streaming(sinks: 4, window: 8) }";
    Case { golden: "streaming_llm", columns: QKV, head, text, outputs: "o[heads, e]", ..Case::default() }.check();
}

/// A prompt of 50 positions is compressed at its end, and one more query sees what was kept; its own key is out of the way.
#[test]
fn votes_of_the_last_window() {
    let golden = Golden::open("snapkv");
    for (sequence, wanted) in golden.all("out.o").chunks(48).enumerate() {
        let rows = |name: &str, new: Vec<f64>| [golden.sequence(name, sequence), &new].concat();
        let query = golden.sequence("in.q_new", sequence);
        let text = Text { rows: 51, groups: 3, per: 1, c: 16, e: 16, slope: 0.0 };
        let tables = Tables {
            q: rows("in.q", query.to_vec()),
            k: rows("in.k", query.iter().map(|x| -1e3 * x).collect()),
            v: rows("in.v", vec![0.0; 48]),
            text,
        };
        let found = tables.compiled("voting(budget: 68, every: 50, window: 8)");
        for (how, rows) in found.ways(&[&[51], &[1], &[20, 30, 1]]) {
            agree(&how, &rows[50 * 48..], wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Sizes of an attention whose queries, keys and values are looked up, each by its position.
#[derive(Clone, Copy)]
struct Text {
    rows: usize,
    groups: usize,
    per: usize,
    c: usize,
    e: usize,
    /// What a score loses with each position of distance.
    slope: f64,
}

/// Such an attention with its numbers.
struct Tables {
    text: Text,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

/// The same under a policy.
struct Under {
    text: Text,
    compiled: Compiled,
    spec: String,
}

impl Tables {
    /// Made-up numbers; queries are long, so that weights differ.
    fn made(text: Text) -> Tables {
        let Text { rows, groups, per, c, e, .. } = text;
        let some = |name: &str, width: usize, scale: f64| -> Vec<f64> {
            made_up(name, &[rows, width, c.min(3)]).chunks(c.min(3)).map(|x| scale * f64::from(x[0])).collect()
        };
        Tables { q: some("q", groups * per * c, 4.0), k: some("k", groups * c, 1.0), v: some("v", groups * e, 1.0), text }
    }

    fn spec(&self, policy: &str) -> String {
        let Text { rows, groups, per, c, e, slope } = self.text;
        let (part, out) = (groups * per * e, groups * per * e + rows);
        format!(
            "model m(
  places: dim = {rows}, groups: dim = {groups}, per: dim = {per}, c: dim = {c}, e: dim = {e}, part: dim = {part}, out: dim = {out},
)(tokens: [t]) -> [t, out] {{
  param q: [places, groups, per, c]   param k: [places, groups, c]   param v: [places, groups, e]
  o = attend[c](q[places: tokens], k[places: tokens], v[places: tokens]) {{
    score: s * c ^ -0.5 - {slope:?} * (query - key)
    policy: {policy}
  }}
  generate autoregressive
  return concat[part, places as out](o[(groups, per, e) as part], index[places] * 0.0)
}}
"
        )
    }

    fn compiled(&self, policy: &str) -> Under {
        let numbers = |path: &str, _: &[usize]| {
            let of = match path {
                "q" => &self.q,
                "k" => &self.k,
                _ => &self.v,
            };
            of.iter().map(|x| *x as f32).collect()
        };
        let spec = self.spec(policy);
        Under { text: self.text, compiled: Compiled::with(&spec, Chunks::Auto, numbers), spec }
    }

    /// Softmax weights of the queries of a group at position `t` over some keys, one list for each query.
    fn weights(&self, group: usize, t: usize, keys: &[usize]) -> Vec<Vec<f64>> {
        let Text { groups, per, c, slope, .. } = self.text;
        let query = |n: usize| &self.q[((t * groups + group) * per + n) * c..][..c];
        let score = |n: usize, key: usize| {
            let dot: f64 = query(n).iter().zip(&self.k[(key * groups + group) * c..]).map(|(a, b)| a * b).sum();
            dot / (c as f64).sqrt() - slope * (t - key) as f64
        };
        let softmax = |n: usize| {
            let scores: Vec<f64> = keys.iter().map(|key| score(n, *key)).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            scores.iter().map(|s| (s - most).exp() / total).collect()
        };
        (0..per).map(softmax).collect()
    }

    /// The attention where each group keeps a list of keys: `step` is told the position, that list with the new key, and what the queries of the
    /// group together give to each of them, and takes out of it what goes.
    fn kept<K: Default>(
        &self,
        before: impl Fn(usize, &mut Vec<usize>, &mut K),
        after: impl Fn(usize, &mut Vec<usize>, &[f64], &mut K),
    ) -> Vec<f64> {
        let Text { rows, groups, per, e, .. } = self.text;
        let mut out = vec![0.0; rows * groups * per * e];
        for group in 0..groups {
            let (mut keys, mut known) = (Vec::new(), K::default());
            for t in 0..rows {
                before(t, &mut keys, &mut known);
                keys.push(t);
                let weights = self.weights(group, t, &keys);
                for (n, of_query) in weights.iter().enumerate() {
                    for (weight, key) in of_query.iter().zip(&keys) {
                        let values = &self.v[(key * groups + group) * e..][..e];
                        let row = &mut out[((t * groups + group) * per + n) * e..][..e];
                        row.iter_mut().zip(values).for_each(|(o, v)| *o += weight * v);
                    }
                }
                let given: Vec<f64> = (0..keys.len()).map(|at| weights.iter().map(|w| w[at]).sum()).collect();
                after(t, &mut keys, &given, &mut known);
            }
        }
        out
    }

    /// Whoever was given least, but for the last ones, makes room.
    fn heavy(&self, budget: usize, recent: usize, fading: f64) -> Vec<f64> {
        let makes_room = |t: usize, keys: &mut Vec<usize>, mass: &mut Vec<f64>| {
            mass.resize(self.text.rows, 0.0);
            if keys.len() == budget {
                let old = keys.iter().filter(|key| t - **key >= recent);
                let least = *old.min_by(|a, b| mass[**a].total_cmp(&mass[**b])).expect("an old key");
                keys.retain(|key| *key != least);
            }
        };
        self.kept(makes_room, |_, keys, given, mass| {
            keys.iter().zip(given).for_each(|(key, given)| mass[*key] = fading * mass[*key] + given);
        })
    }

    /// Each query sees its own block, the first positions, and the earlier blocks that score highest.
    fn blocks(&self, span: usize, top: usize, sinks: usize) -> Vec<f64> {
        let Text { rows, groups, per, c, e, slope } = self.text;
        let mut out = Vec::new();
        for (t, group, n) in (0..rows).flat_map(|t| (0..groups).flat_map(move |g| (0..per).map(move |n| (t, g, n)))) {
            let query = &self.q[((t * groups + group) * per + n) * c..][..c];
            let score = |block: &usize| {
                let middle = |at: usize| {
                    (0..span).map(|j| self.k[((block * span + j) * groups + group) * c + at]).sum::<f64>() / span as f64
                };
                let dot: f64 = query.iter().enumerate().map(|(at, x)| x * middle(at)).sum();
                dot / (c as f64).sqrt() - slope * (t - (block * span + span - 1)) as f64
            };
            let mut order: Vec<usize> = (0..t / span).collect();
            order.sort_by(|a, b| score(b).total_cmp(&score(a)));
            order.truncate(top);
            let seen = |key: &usize| *key >= t - t % span || *key < sinks || order.contains(&(key / span));
            let keys: Vec<usize> = (0..=t).filter(seen).collect();
            let weights = &self.weights(group, t, &keys)[n];
            let value =
                |at: usize| keys.iter().zip(weights).map(|(key, w)| w * self.v[(key * groups + group) * e + at]).sum::<f64>();
            out.extend((0..e).map(value));
        }
        out
    }

    /// At the end of every stretch the keys before its window are judged by the votes of that window, smoothed.
    fn voted(&self, (budget, every, window): (usize, usize, usize), pool: usize) -> Vec<f64> {
        let vote = |t: usize, keys: &mut Vec<usize>, given: &[f64], votes: &mut Vec<f64>| {
            votes.resize(self.text.rows, 0.0);
            let end = t - t % every + every - 1;
            let old = |key: usize| key + window <= end;
            keys.iter().zip(given).filter(|(key, _)| t + window > end && old(**key)).for_each(|(key, x)| votes[*key] += x);
            if t < end {
                return;
            }
            let judged: Vec<usize> = keys.iter().copied().filter(|key| old(*key)).collect();
            let beside = |at: usize| at.saturating_sub(pool / 2)..(at + pool / 2 + 1).min(judged.len());
            let mut order: Vec<(f64, usize)> =
                (0..judged.len()).map(|at| (judged[beside(at)].iter().map(|key| votes[*key]).sum(), judged[at])).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0));
            let stay: Vec<usize> = order.iter().take(budget - every - window).map(|(_, key)| *key).collect();
            keys.retain(|key| !old(*key) || stay.contains(key));
            votes.fill(0.0);
        };
        self.kept(|_, _, _| (), vote)
    }
}

impl Under {
    /// All results as the evaluator has them and as native code has them, in calls of these lengths.
    fn ways(&self, cuts: &[&[usize]]) -> Vec<(String, Vec<f32>)> {
        self.ways_behind(0, cuts)
    }

    /// The same behind a first call of so many positions.
    fn ways_behind(&self, first: usize, cuts: &[&[usize]]) -> Vec<(String, Vec<f32>)> {
        let Text { rows, groups, per, e, .. } = self.text;
        let (part, out) = (groups * per * e, groups * per * e + rows);
        let tokens: Vec<i32> = (0..rows as i32).collect();
        let cut = |all: Vec<f32>| all.chunks(out).flat_map(|row| row[..part].to_vec()).collect::<Vec<f32>>();
        let calls = [first, rows - first].into_iter().filter(|call| *call > 0).collect::<Vec<_>>();
        let evaluated = self.compiled.evaluated_in(&tokens, &calls).iter().map(|x| *x as f32).collect();
        let mut found = vec![("evaluated".to_owned(), cut(evaluated))];
        for lengths in cuts {
            let (mut session, mut all, mut at) = (self.compiled.session(1, 1), Vec::new(), 0);
            for length in (first > 0).then_some(&first).into_iter().chain(lengths.iter().cycle()) {
                let end = (at + length).min(rows);
                all.extend(feed(&mut session, 0, &tokens[at..end]));
                at = end;
                if at == rows {
                    break;
                }
            }
            found.push((format!("in parts of {lengths:?}"), cut(all)));
        }
        found
    }

    /// That all ways give what is wanted.
    #[track_caller]
    fn gives(&self, wanted: &[f64]) {
        for (how, found) in self.ways(&[&[self.text.rows], &[1], &[3, 40, 1, 1, 29]]) {
            agree(&how, &found, wanted, 1e-5).unwrap_or_else(|error| panic!("{error}\n{}", self.spec));
        }
    }
}

/// Far past their budgets, with several queries for a key and scores that fall with the distance.
const LONG: Text = Text { rows: 150, groups: 2, per: 2, c: 8, e: 6, slope: 0.02 };

#[test]
fn budgets_over_a_long_text() {
    let tables = Tables::made(LONG);
    tables.compiled("heavy_hitters(budget: 14, recent: 5)").gives(&tables.heavy(14, 5, 1.0));
    tables.compiled("heavy_hitters(budget: 9, recent: 1, fading: 0.0)").gives(&tables.heavy(9, 1, 0.0));
    tables.compiled("heavy_hitters(budget: 12, recent: 11, fading: 0.5)").gives(&tables.heavy(12, 11, 0.5));
}

#[test]
fn votes_over_a_long_text() {
    let tables = Tables::made(LONG);
    tables.compiled("voting(budget: 15, every: 9, window: 3)").gives(&tables.voted((15, 9, 3), 5));
    tables.compiled("voting(budget: 40, every: 13, window: 13, pool: 1)").gives(&tables.voted((40, 13, 13), 1));
    tables.compiled("voting(budget: 33, every: 5, window: 2, pool: 7)").gives(&tables.voted((33, 5, 2), 7));
}

/// Everything, as far as the policy's room goes.
#[test]
fn a_shape() {
    let tables = Tables::made(LONG);
    let seen = |t: usize, keys: &mut Vec<usize>, _: &mut ()| keys.retain(|key| *key < 3 || t - *key < 10);
    tables.compiled("a_shape(sinks: 3, window: 10)").gives(&tables.kept(seen, |_, _, _, _| ()));
    let all = tables.kept::<()>(|_, _, _| (), |_, _, _, _| ());
    for policy in ["a_shape(window: 147)", "heavy_hitters(budget: 150, recent: 1)", "voting(budget: 301, every: 150)"] {
        tables.compiled(policy).gives(&all);
    }
}

/// The blocks whose mean keys score highest, by loops over every query.
#[test]
fn blocks_by_their_mean_keys() {
    for (span, top, sinks) in [(8, 3, 2), (16, 2, 1), (5, 4, 6)] {
        let tables = Tables::made(LONG);
        let policy = format!("block_sparse(span: {span}, top: {top}, sinks: {sinks})");
        tables.compiled(&policy).gives(&tables.blocks(span, top, sinks));
    }
    let all = Tables::made(LONG);
    all.compiled("block_sparse(span: 16, top: 10)").gives(&all.kept::<()>(|_, _, _| (), |_, _, _, _| ()));
}

/// What `inspect` says is what is allocated, and does not grow with the text.
#[test]
fn memory_is_what_is_said() {
    let tables = Tables::made(LONG);
    for (policy, floats) in [
        ("heavy_hitters(budget: 14)", 2 * 14 * (8 + 6 + 2)),
        ("voting(budget: 15, every: 9, window: 3)", 2 * 15 * (8 + 6 + 2)),
        ("a_shape(window: 10)", 2 * 14 * (8 + 6)),
        ("streaming(window: 10)", 2 * 14 * (16 + 6)),
    ] {
        let bytes = reported_is_allocated(&tables.spec(policy), 1 << 15);
        assert_eq!(bytes, 4 * floats, "{policy}");
        assert_eq!(tables.compiled(policy).compiled.session(1, 1).manifest().state_position_bytes, 0, "{policy}");
    }
}

/// Golden models under policies with room for everything give what they give without: keys that heads share, biases, turns, latents,
/// hybrids and experts.
#[test]
fn golden_models_with_room_for_everything() {
    for (name, policy) in [
        ("llama", "heavy_hitters(budget: 64)"),
        ("gpt2", "streaming(window: 64)"),
        ("gemma2", "voting(budget: 80, every: 70, window: 4)"),
        ("deepseek_v2", "heavy_hitters(budget: 64)"),
        ("jamba", "a_shape(window: 64)"),
    ] {
        check_under(name, Some(policy));
    }
}
