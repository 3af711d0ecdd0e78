//! Classes of recurrences, and that the way in which the equations are written plays no part.

mod maker;

use braid_dsl::model::*;
use maker::*;

/// The classes of an explanation, one a group.
fn classes(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("class: ")).collect()
}

const MATRIX: &[(&str, &[AxisId])] = &[("S", &[H, K, V])];

/// `S' = decay · S + k v`, `o = sum[k] q S'`.
fn decaying(decay: impl Fn(&mut Maker) -> Id) -> String {
    let mut m = Maker::new(MATRIX);
    let (q, k, v) = (m.input(&[H, K]), m.input(&[H, K]), m.input(&[H, V]));
    let (decay, s) = (decay(&mut m), m.state(0));
    let (kept, new) = (m.mul(decay, s), m.mul(k, v));
    let s = m.add(kept, new);
    let o = m.dot(K, q, s);
    m.explain(&[s], &[o])
}

#[test]
fn decays_by_their_axes() {
    let of = |text: String| classes(&text)[0].to_string();
    let exp_of = |axes: &'static [AxisId]| {
        move |m: &mut Maker| {
            let a = m.input(axes);
            m.exp(a)
        }
    };
    assert_eq!(of(decaying(|m| m.number(1.0))), "no decay");
    assert_eq!(of(decaying(|m| m.number(0.9))), "scalar decay, the same at every step");
    assert_eq!(of(decaying(|m| m.param(&[H]))), "scalar decay, the same at every step");
    assert_eq!(of(decaying(exp_of(&[H]))), "scalar decay");
    assert_eq!(of(decaying(exp_of(&[H, K]))), "diagonal decay over [k]");
    assert_eq!(of(decaying(exp_of(&[H, V]))), "diagonal decay over [v]");
    assert_eq!(of(decaying(exp_of(&[H, K, V]))), "element-wise decay");
}

#[test]
fn the_same_decay_written_in_other_ways() {
    let ways: [fn(&mut Maker) -> Id; 4] = [
        |m| {
            // exp(a) exp(b)
            let (a, b) = (m.input(&[H]), m.input(&[H]));
            let (a, b) = (m.exp(a), m.exp(b));
            m.mul(a, b)
        },
        |m| {
            // 1 - (1 - a)
            let (one, a) = (m.number(1.0), m.input(&[H]));
            let rest = m.sub(one, a);
            m.sub(one, rest)
        },
        |m| {
            // a over k, but k cancels
            let (a, b) = (m.input(&[H, K]), m.input(&[H]));
            let both = m.mul(a, b);
            m.op(Op::Binary(Binary::Div), &[both, a])
        },
        |m| {
            // 0.5 ^ a
            let (base, a) = (m.number(0.5), m.input(&[H]));
            m.op(Op::Binary(Binary::Pow), &[base, a])
        },
    ];
    for way in ways {
        assert_eq!(classes(&decaying(way)), ["scalar decay"]);
    }
    let keep = decaying(|m| {
        let a = m.input(&[H, K]);
        let (up, minus) = (m.exp(a), m.un(Unary::Neg, a));
        let down = m.exp(minus);
        m.mul(up, down)
    });
    assert_eq!(classes(&keep), ["no decay"]);
}

/// A memory that corrects what it reads, with a decay over `axes`, written in one of several ways.
fn correcting(axes: &'static [AxisId], way: usize) -> String {
    let mut m = Maker::new(MATRIX);
    let (q, k, v) = (m.input(&[H, K]), m.input(&[H, K]), m.input(&[H, V]));
    let (b, a, s) = (m.input(&[H]), m.input(axes), m.state(0));
    let a = m.exp(a);
    let s = match way {
        // S = a S; S = S + k (b (v - sum[k] k S))
        0 => {
            let s = m.mul(a, s);
            let read = m.dot(K, k, s);
            let error = m.sub(v, read);
            let error = m.mul(b, error);
            let write = m.mul(k, error);
            m.add(s, write)
        }
        // S = a S - b k (sum[k] k a S) + b k v, the factors elsewhere
        1 => {
            let (kept, ka) = (m.mul(a, s), m.mul(k, a));
            let read = m.dot(K, ka, s);
            let (bk, kv) = (m.mul(b, k), m.mul(k, v));
            let (gone, new) = (m.mul(read, bk), m.mul(kv, b));
            let all = m.sub(new, gone);
            m.add(all, kept)
        }
        // The read of the undecayed state: S = a S + b k (v - sum[k] k S)
        2 => {
            let (kept, read) = (m.mul(a, s), m.dot(K, k, s));
            let error = m.sub(v, read);
            let bk = m.mul(b, k);
            let write = m.mul(bk, error);
            m.add(kept, write)
        }
        // Two reads by k that are one: k (sum k S) / 2 twice
        _ => {
            let s = m.mul(a, s);
            let half = m.number(0.5);
            let (hk, w) = (m.mul(half, k), m.mul(b, k));
            let (one, two) = (m.dot(K, hk, s), m.dot(K, k, s));
            let two = m.mul(half, two);
            let (one, two) = (m.mul(w, one), m.mul(w, two));
            let s = m.sub(s, one);
            let s = m.sub(s, two);
            let new = m.mul(w, v);
            m.add(s, new)
        }
    };
    let o = m.dot(K, q, s);
    m.explain(&[s], &[o])
}

#[test]
fn corrections_by_what_they_read() {
    for way in [0, 1, 3] {
        assert_eq!(
            classes(&correcting(&[H], way)),
            ["scalar decay plus rank 1 over [k] (reads of the decayed state)"],
            "way {way}"
        );
        let vector = "diagonal decay over [k] plus rank 1 over [k] (reads of the decayed state)";
        assert_eq!(classes(&correcting(&[H, K], way)), [vector], "way {way}");
    }
    assert_eq!(classes(&correcting(&[H], 2)), ["scalar decay plus rank 1 over [k] (reads of the undecayed state)"]);
}

#[test]
fn independent_reads_add_to_the_rank() {
    let mut m = Maker::new(MATRIX);
    let (q, s) = (m.input(&[H, K]), m.state(0));
    let mut next = s;
    for _ in 0..3 {
        let (a, b) = (m.input(&[H, K]), m.input(&[H, K]));
        let read = m.dot(K, a, s);
        let term = m.mul(b, read);
        next = m.add(next, term);
    }
    let o = m.dot(K, q, s);
    let text = m.explain(&[next], &[o]);
    assert_eq!(classes(&text), ["no decay plus rank 3 over [k]"]);
    assert!(text.contains("read before the update"));
}

#[test]
fn a_selective_scan_is_element_wise() {
    let mut m = Maker::new(&[("S", &[H, K])]);
    let (dt, x, b, c) = (m.input(&[H]), m.input(&[H]), m.input(&[K]), m.input(&[K]));
    let (a, s) = (m.param(&[H, K]), m.state(0));
    let rate = m.mul(dt, a);
    let decay = m.exp(rate);
    let (kept, bx) = (m.mul(decay, s), m.mul(b, x));
    let new = m.mul(dt, bx);
    let s = m.add(kept, new);
    let o = m.dot(K, c, s);
    assert_eq!(classes(&m.explain(&[s], &[o])), ["element-wise decay"]);
}

#[test]
fn fixed_coefficients_make_a_convolution() {
    let mut m = Maker::new(&[("S", &[H, K])]);
    let (x, a, b, c, s) = (m.input(&[H]), m.param(&[H, K]), m.param(&[H, K]), m.param(&[H, K]), m.state(0));
    let (kept, new) = (m.mul(a, s), m.mul(b, x));
    let s = m.add(kept, new);
    let o = m.dot(K, c, s);
    let expected = "element-wise decay, the same at every step, a convolution of the input";
    assert_eq!(classes(&m.explain(&[s], &[o])), [expected]);
}

/// `m' = max(m + f, i)`, `S' = exp(m + f - m') S + exp(i - m') k v`, `z` alike, `o = sum[k] q S / sum[k] q z`.
fn stabilised(other_way: bool) -> String {
    let mut m = Maker::new(&[("S", &[H, K, V]), ("z", &[H, K]), ("m", &[H])]);
    let (q, k, v) = (m.input(&[H, K]), m.input(&[H, K]), m.input(&[H, V]));
    let (f, i) = (m.input(&[H]), m.input(&[H]));
    let (s, z, most) = (m.state(0), m.state(1), m.state(2));
    let next = if other_way {
        // f + max(m, i - f)
        let rest = m.sub(i, f);
        let larger = m.max(most, rest);
        m.add(f, larger)
    } else {
        let old = m.add(most, f);
        m.max(old, i)
    };
    let (old, new) = (m.sub(most, next), m.sub(i, next));
    let forget = if other_way {
        let (a, b) = (m.exp(old), m.exp(f));
        m.mul(a, b)
    } else {
        let old = m.add(old, f);
        m.exp(old)
    };
    let write = m.exp(new);
    let (kept, kv) = (m.mul(forget, s), m.mul(k, v));
    let kv = m.mul(write, kv);
    let s = m.add(kept, kv);
    let (kept, wk) = (m.mul(forget, z), m.mul(write, k));
    let z = m.add(kept, wk);
    let (num, den) = (m.dot(K, q, s), m.dot(K, q, z));
    let o = m.op(Op::Binary(Binary::Div), &[num, den]);
    m.explain(&[s, z, next], &[o])
}

#[test]
fn stabilised_exponentials_are_seen_through() {
    let expected = "scalar decay, exponentials stabilised by the running maximum `m`";
    for other_way in [false, true] {
        assert_eq!(classes(&stabilised(other_way)), ["running maximum", expected, expected]);
    }
}

#[test]
fn states_that_need_one_another() {
    let mut m = Maker::new(&[("M", &[K, V]), ("P", &[K, V])]);
    let (a, b, k, q) = (m.input(&[]), m.input(&[]), m.input(&[K]), m.input(&[K]));
    let (memory, momentum) = (m.state(0), m.state(1));
    let read = m.dot(K, k, memory);
    let (kept, slope) = (m.mul(b, momentum), m.mul(k, read));
    let momentum = m.sub(kept, slope);
    let kept = m.mul(a, memory);
    let memory = m.add(kept, momentum);
    let o = m.dot(K, q, memory);
    assert_eq!(
        classes(&m.explain(&[memory, momentum], &[o])),
        ["coupled states plus rank 1 over [k] (reads of the undecayed state)"]
    );

    let mut m = Maker::new(&[("re", &[K]), ("im", &[K])]);
    let (c, s, x) = (m.input(&[K]), m.input(&[K]), m.input(&[K]));
    let (re, im) = (m.state(0), m.state(1));
    let (a, b) = (m.mul(c, re), m.mul(s, im));
    let (d, e) = (m.mul(s, re), m.mul(c, im));
    let turned = m.sub(a, b);
    let next = [m.add(turned, x), m.add(d, e)];
    assert_eq!(classes(&m.explain(&next, &[next[0]])), ["complex decay of real and imaginary part"]);
}

#[test]
fn what_is_not_linear_says_why() {
    let mut m = Maker::new(&[("h", &[K])]);
    let (x, w, h) = (m.input(&[K]), m.param(&[K, J]), m.state(0));
    let other = m.op(Op::Rename(K, J), &[h]);
    let mixed = m.dot(J, w, other);
    let sum = m.add(mixed, x);
    let next = m.un(Unary::Tanh, sum);
    assert_eq!(classes(&m.explain(&[next], &[next])), ["not linear: `tanh` of `h` stands in the way"]);

    let mut m = Maker::new(&[("h", &[K])]);
    let h = m.state(0);
    let next = m.mul(h, h);
    assert_eq!(classes(&m.explain(&[next], &[next])), ["not linear: a product of two reads of `h` stands in the way"]);
}

#[test]
fn a_full_matrix_and_a_register() {
    let mut m = Maker::new(&[("h", &[K]), ("last", &[K])]);
    let (x, w, h, last) = (m.input(&[K]), m.param(&[K, J]), m.state(0), m.state(1));
    let other = m.op(Op::Rename(K, J), &[h]);
    let mixed = m.dot(J, w, other);
    let next = m.add(mixed, x);
    let o = m.add(next, last);
    let text = m.explain(&[next, x], &[o]);
    let dense = "a full matrix over [k], the same at every step, a convolution of the input";
    assert_eq!(classes(&text), [dense, "replaced at every step, a convolution of the input"]);
}

#[test]
fn the_explanation_reads_like_a_proof() {
    let text = correcting(&[H], 0);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "  state S: [h, k, v], starts with 0");
    assert!(lines[3].trim().starts_with("S' = "), "{text}");
    assert_eq!(lines[4], "    read after the update");
}
