//! Weights of one model as those of another: copied into experts, dealt out to them, and averaged. What a parameter becomes follows from
//! the paths and shapes on both sides.

use braid_runtime::artifact::Param;

/// How a parameter comes from one of the other model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is that one.
    Same(usize),
    /// Each expert, along the first axis, has all of it.
    Copied(usize),
    /// Each expert, along the first axis, has its part of an axis of the other one.
    Dealt(usize, usize),
    /// The mean over that one's first axis.
    Averaged(usize),
    /// From nowhere: a router.
    New,
}

/// What becomes of every parameter, by the index of the other model's.
///
/// # Errors
/// The first parameter whose shape follows in no way.
pub fn changes(before: &[Param], after: &[Param]) -> Result<Vec<Change>, String> {
    after.iter().map(|param| change(before, param)).collect()
}

fn change(before: &[Param], after: &Param) -> Result<Change, String> {
    if let Some(at) = before.iter().position(|param| param.path == after.path) {
        return match before[at].shape == after.shape {
            true => Ok(Change::Same(at)),
            false => Err(format!("`{}` is {:?} in one model and {:?} in the other", after.path, before[at].shape, after.shape)),
        };
    }
    let related = |at: &usize| shorter(&after.path, &before[*at].path) || shorter(&before[*at].path, &after.path);
    let found: Vec<usize> = (0..before.len()).filter(related).collect();
    let [at] = found[..] else {
        return match found.is_empty() {
            true => Ok(Change::New),
            false => Err(format!("`{}` could be any of {} parameters of the other model", after.path, found.len())),
        };
    };
    let (old, new) = (&before[at].shape, &after.shape);
    let misfit = || format!("`{}` is {new:?}, which follows from no {old:?}", after.path);
    if new.len() == old.len() + 1 {
        let (experts, own) = (new[0], &new[1..]);
        let other: Vec<usize> = (0..own.len()).filter(|axis| own[*axis] != old[*axis]).collect();
        return match other[..] {
            [] => Ok(Change::Copied(at)),
            [axis] if own[axis] * experts == old[axis] => Ok(Change::Dealt(at, axis)),
            _ => Err(misfit()),
        };
    }
    if old.len() == new.len() + 1 && old[1..] == new[..] { Ok(Change::Averaged(at)) } else { Err(misfit()) }
}

/// Whether a path is another one without one of its parts.
fn shorter(long: &str, short: &str) -> bool {
    let (long, short): (Vec<&str>, Vec<&str>) = (long.split('.').collect(), short.split('.').collect());
    let same = long.iter().zip(&short).take_while(|(a, b)| a == b).count();
    long.len() == short.len() + 1 && long[same + 1..] == short[same..]
}

/// The instance that a parameter belongs to.
pub fn instance(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(instance, _)| instance)
}

/// In which order neurons are dealt out: as they stand, or shuffled, for each instance in its own way.
pub fn order(neurons: usize, seed: Option<u64>, instance: &str) -> Vec<usize> {
    let mut order: Vec<usize> = (0..neurons).collect();
    if let Some(seed) = seed {
        let mut random = Random::new(seed, instance);
        (1..neurons).rev().for_each(|last| order.swap(last, random.below(last + 1)));
    }
    order
}

/// An axis of a tensor dealt out: expert `e` has the places `order[e n] … order[e n + n - 1]` of it.
pub fn dealt(numbers: &[f32], shape: &[usize], axis: usize, experts: usize, order: &[usize]) -> Vec<f32> {
    let (outer, inner): (usize, usize) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
    let part = shape[axis] / experts;
    let mut out = Vec::with_capacity(numbers.len());
    for expert in 0..experts {
        for before in 0..outer {
            for place in &order[expert * part..(expert + 1) * part] {
                out.extend_from_slice(&numbers[(before * shape[axis] + place) * inner..][..inner]);
            }
        }
    }
    out
}

/// The mean of several tensors, each with its part.
pub fn mean(tensors: &[&[f32]], parts: &[f64]) -> Vec<f32> {
    let whole: f64 = parts.iter().sum();
    let at = |n: usize| tensors.iter().zip(parts).map(|(tensor, part)| f64::from(tensor[n]) * part).sum::<f64>() / whole;
    (0..tensors.first().map_or(0, |tensor| tensor.len())).map(|n| at(n) as f32).collect()
}

/// Small numbers for a parameter that comes from nowhere.
pub fn fresh(elements: usize, seed: u64, path: &str) -> Vec<f32> {
    let mut random = Random::new(seed, path);
    (0..elements).map(|_| 0.02 * (random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0)).collect()
}

/// SplitMix64, begun by a seed and a name.
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Random {
        Random(name.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |key, byte| (key ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(bits ^ bits >> 31) * n as u128) >> 64) as usize
    }
}
