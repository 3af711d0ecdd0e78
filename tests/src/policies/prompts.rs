//! Policies that look at a whole prompt, against loops over its queries and keys.

use super::{LONG, Tables, Text, Under};
use crate::inspecting::reported_is_allocated;
use crate::properties::compiled::{Compiled, agree, feed, together};
use crate::recurrences::golden::Golden;
use braid_runtime::session::Settings;

impl Tables {
    /// What the last queries of a prompt give to each key, and at each distance, for one head.
    fn given(&self, prompt: usize, queries: usize, (group, n): (usize, usize)) -> (Vec<f64>, Vec<f64>) {
        let (mut keys, mut distances) = (vec![0.0; prompt], vec![0.0; prompt]);
        for t in prompt.saturating_sub(queries)..prompt {
            let all: Vec<usize> = (0..=t).collect();
            for (key, weight) in self.weights(group, t, &all)[n].iter().enumerate() {
                keys[key] += weight;
                distances[t - key] += weight;
            }
        }
        (keys, distances)
    }

    /// The attention where `sees` says for each head which keys a query looks at.
    fn seen(&self, sees: impl Fn(usize, usize, usize, usize) -> bool) -> Vec<f64> {
        let Text { rows, groups, per, e, .. } = self.text;
        let mut out = Vec::new();
        for (t, group, n) in (0..rows).flat_map(|t| (0..groups).flat_map(move |g| (0..per).map(move |n| (t, g, n)))) {
            let keys: Vec<usize> = (0..=t).filter(|key| sees(group, n, t, *key)).collect();
            let weights = &self.weights(group, t, &keys)[n];
            let value =
                |at: usize| keys.iter().zip(weights).map(|(key, w)| w * self.v[(key * groups + group) * e + at]).sum::<f64>();
            out.extend((0..e).map(value));
        }
        out
    }

    /// Lines and slashes of a prompt.
    fn lines(
        &self,
        prompt: usize,
        (vertical, slash, queries): (usize, usize, usize),
        (sinks, window): (usize, usize),
    ) -> Vec<f64> {
        let Text { groups, per, .. } = self.text;
        let chosen: Vec<[Vec<usize>; 2]> = (0..groups * per)
            .map(|head| {
                let (keys, distances) = self.given(prompt, queries, (head / per, head % per));
                [best(&keys, sinks, vertical), best(&distances, window, slash)]
            })
            .collect();
        self.seen(|group, n, t, key| {
            let [tall, slanted] = &chosen[group * per + n];
            t >= prompt || tall.contains(&key) || slanted.contains(&(t - key))
        })
    }

    /// What is left of a prompt, for each group, as its last queries vote.
    fn voted_at_the_end(&self, prompt: usize, (budget, window, pool): (usize, usize, usize)) -> Vec<f64> {
        let Text { groups, per, .. } = self.text;
        let judged = prompt.saturating_sub(window);
        let stays: Vec<Vec<usize>> = (0..groups)
            .map(|group| {
                let heads: Vec<Vec<f64>> = (0..per).map(|n| self.given(prompt, window, (group, n)).0).collect();
                let votes: Vec<f64> = (0..judged).map(|key| heads.iter().map(|of| of[key]).sum()).collect();
                let near = |at: usize| at.saturating_sub(pool / 2)..(at + pool / 2 + 1).min(judged);
                let pooled: Vec<f64> = (0..judged).map(|at| votes[near(at)].iter().sum()).collect();
                best(&pooled, 0, budget - window)
            })
            .collect();
        self.seen(|group, _, t, key| t < prompt || key >= judged || stays[group].contains(&key))
    }
}

/// The places of the largest, the first `always` before all others.
fn best(all: &[f64], always: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    let value = |at: usize| if at < always { f64::INFINITY } else { all[at] };
    order.sort_by(|a, b| value(*b).total_cmp(&value(*a)));
    order.truncate(count);
    order
}

impl Under {
    /// That a prompt of that length gives what is wanted, whatever comes behind it in which calls.
    #[track_caller]
    fn behind(&self, prompt: usize, wanted: &[f64]) {
        for (how, found) in self.ways_behind(prompt, &[&[1], &[7, 1, 30]]) {
            agree(&how, &found, wanted, 1e-5).unwrap_or_else(|error| panic!("{error}\n{}", self.spec));
        }
    }
}

#[test]
fn lines_and_slashes_of_a_prompt() {
    let tables = Tables::made(LONG);
    for (prompt, (vertical, slash, queries), (sinks, window)) in
        [(150, (12, 20, 16), (2, 4)), (97, (5, 9, 64), (1, 1)), (40, (3, 60, 5), (3, 7)), (1, (4, 4, 2), (1, 1))]
    {
        let policy =
            format!("vertical_slash(vertical: {vertical}, slash: {slash}, queries: {queries}, sinks: {sinks}, window: {window})");
        tables.compiled(&policy).behind(prompt, &tables.lines(prompt, (vertical, slash, queries), (sinks, window)));
    }
}

#[test]
fn votes_of_the_end_of_a_prompt() {
    let tables = Tables::made(LONG);
    for (prompt, (budget, window, pool)) in [(120, (20, 6, 5)), (61, (17, 16, 1)), (30, (40, 3, 7)), (4, (9, 8, 3))] {
        let policy = format!("prompt_voting(budget: {budget}, window: {window}, pool: {pool})");
        tables.compiled(&policy).behind(prompt, &tables.voted_at_the_end(prompt, (budget, window, pool)));
    }
}

/// The paper's compression of a prompt, and one more query that sees what was kept; its own key is out of the way.
#[test]
fn the_golden_vote() {
    let golden = Golden::open("snapkv");
    for (sequence, wanted) in golden.all("out.o").chunks(48).enumerate() {
        let rows = |name: &str, new: Vec<f64>| [golden.sequence(name, sequence), &new].concat();
        let query = golden.sequence("in.q_new", sequence);
        let tables = Tables {
            q: rows("in.q", query.to_vec()),
            k: rows("in.k", query.iter().map(|x| -1e3 * x).collect()),
            v: rows("in.v", vec![0.0; 48]),
            text: Text { rows: 51, groups: 3, per: 1, c: 16, e: 16, slope: 0.0 },
        };
        for (how, rows) in tables.compiled("prompt_voting(budget: 18, window: 8)").ways_behind(50, &[&[1]]) {
            agree(&how, &rows[50 * 48..], wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// A call that holds more than a ring has room for finds all keys of a window, whatever asks for so long a call.
#[test]
fn windows_beside_whole_prompts() {
    let spec = |more: &str, ends: &str| {
        format!(
            "model m(c: dim = 8, heads: dim = 2, vocab: dim = 16)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, c]   param wq, wk: [heads, c]
  x = embed[vocab: tokens]
  q = x * wq
  kk = x * wk
  near = attend[c](q, kk, q + kk) {{ keep: causal() && within(9)   score: s }}
  sunk = attend[c](q, kk, q - kk) {{ keep: causal() && (within(5) || first(2))   score: s }}
  more = {more}
  {ends}
  return sum[c] (x + sum[heads] (near + sunk + more)) * embed
}}
"
        )
    };
    let voted = "attend[c](q, kk, q) { score: s   policy: prompt_voting(budget: 9, window: 3) }";
    for spec in [spec(voted, "generate autoregressive"), spec("q * float(length[t])", "")] {
        let compiled = Compiled::new(&spec);
        let tokens: Vec<i32> = (0..700).map(|n| n * 7 % 16).collect();
        let mut session = compiled.sized(Settings { threads: 1, capacity: 800, slots: 1 });
        let wanted: Vec<f64> = compiled.evaluated(&tokens);
        agree("a long call", &feed(&mut session, 0, &tokens), &wanted, 1e-4).unwrap_or_else(|error| panic!("{error}"));
        reported_is_allocated(&spec, 1 << 10);
    }
}

/// Several sequences in one call, prompts beside steps.
#[test]
fn prompts_and_steps_in_one_call() {
    let under = Tables::made(LONG).compiled("vertical_slash(vertical: 5, slash: 9, queries: 8, sinks: 2, window: 3)");
    let tokens: Vec<i32> = (0..150).collect();
    let mut alone = under.compiled.session(1, 1);
    let wanted: Vec<Vec<f32>> = [&tokens[..70], &tokens[70..75], &tokens[75..76]].map(|part| feed(&mut alone, 0, part)).into();
    let other = under.compiled.whole(&tokens[..33]);
    let mut both = under.compiled.session(2, 2);
    assert_eq!(together(&mut both, &[(1, &tokens[..70])])[0], wanted[0]);
    assert_eq!(together(&mut both, &[(1, &tokens[70..75]), (0, &tokens[..33])]), [wanted[1].clone(), other]);
    assert_eq!(together(&mut both, &[(1, &tokens[75..76])])[0], wanted[2]);
}

/// Keys that truth values name: by the key, by the distance, by both, beside windows; in one call and in several, dealt to threads.
#[test]
fn keys_that_are_named_one_by_one() {
    let keeps = [
        ("tall[t: key] && key <= query", true),
        ("causal() && (within(3) || tall[t: key] || flat[t: key])", true),
        ("causal() && (tall[t: key] && behind[t: query] || within(2))", true),
        ("causal() && (slanted[prompt: query - key] || key == query)", false),
        ("causal() && (behind[t: query] || tall[t: key] || slanted[prompt: query - key])", false),
        ("causal() && (tall[t: key] && slanted[prompt: query - key] || first(2))", false),
    ];
    for (keep, cuts) in keeps {
        let compiled = Compiled::new(&format!(
            "model m(d: dim = 12, groups: dim = 2, per: dim = 3, k: dim = 8, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d]   param wq, wo: [groups, per, k, d]   param wk, wv: [groups, k, d]   param wt, ws: [groups, per, d]   param wf: [groups, d]
  x = embed[vocab: tokens]
  tall = sum[d] x * wt > 0.8
  slanted = sum[d] x * ws > 0.7
  flat = sum[d] x * wf > 1.0
  behind = sum[d] x * ws > 1.4
  o = attend[k](sum[d] x * wq, sum[d] x * wk, sum[d] x * wv) {{ keep: {keep}   score: s * k ^ -0.5 }}
  generate autoregressive
  return sum[d] (x + sum[groups, per, k] o * wo) * embed
}}
"
        ));
        let text: Vec<i32> = (0..190).map(|at| (at * at + at / 7) % 20).collect();
        let wanted = compiled.evaluated(&text);
        let cuts: &[usize] = if cuts { &[190, 37, 1] } else { &[190] };
        for (threads, cut) in [1, 3].into_iter().flat_map(|threads| cuts.iter().map(move |cut| (threads, *cut))) {
            let mut session = compiled.sized(Settings { threads, capacity: 200, slots: 1 });
            let found: Vec<f32> = text.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
            agree(keep, &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{threads} threads, {cut} rows: {error}"));
        }
    }
}

/// More than a list has room for is what all keys give.
#[test]
fn more_keys_than_a_list_has_room_for() {
    let given = |policy: &str| {
        let compiled = Compiled::new(&format!(
            "model m(d: dim = 4, heads: dim = 1, vocab: dim = 8)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d]   param wq, wk: [heads, d]
  x = embed[vocab: tokens]
  o = attend[d](x * wq, x * wk, x * wk) {{ keep: causal()   score: s{policy} }}
  generate autoregressive
  return sum[d] (x + sum[heads] o) * embed
}}
"
        ));
        let tokens: Vec<i32> = (0..16600).map(|at| (at * 7 + at / 64 * 5) % 8).collect();
        let mut session = compiled.sized(Settings { threads: 2, capacity: 16600, slots: 1 });
        feed(&mut session, 0, &tokens)
    };
    let policy = "   policy: vertical_slash(vertical: 16600, slash: 9, queries: 1, sinks: 1, window: 1)";
    let wanted: Vec<f64> = given("").into_iter().map(f64::from).collect();
    agree("all keys", &given(policy), &wanted, 1e-4).unwrap_or_else(|error| panic!("{error}"));
}
