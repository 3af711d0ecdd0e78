//! `braid quantize`: a model whose weights are of few bits, packed, and what that costs.

use super::args::{CodeArgs, DtypeArg, QuantizeArgs};
use super::compared::{COMPARED, logits};
use super::convert::beside;
use super::failure::Failure;
use super::{build, files, say, spec};
use braid_runtime::weights::Weights;
use braid_runtime::{Artifact, progress::Hidden};

/// Writes a folder with the artifact and its packed weights, and tells how far the logits are from those of weights that are not rounded.
pub fn quantize(args: &QuantizeArgs) -> Result<(), Failure> {
    if args.output.exists() {
        return Err(Failure::hinted(format!("{} is there already", args.output.display()), "name a new folder"));
    }
    let spec = spec::load(&args.spec)?;
    if matches!(args.code.dtype, DtypeArg::F32) && spec.model.params.iter().all(|param| param.stored.is_none()) {
        let hint = "name bf16, int8, fp8, int4 or int4z, or say in the text what is stored how: `store \"layers.*\" as \"int4\"`";
        return Err(Failure::hinted("`--dtype f32` rounds nothing", hint));
    }
    let built = build::cached(spec.clone(), &args.code)?;
    let artifact = Artifact::open(&built)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let weights = Weights::open(&artifact.manifest, &args.weights, threads, &Hidden)?;
    let place = |extension: &str| args.output.join(format!("{}.{extension}", spec.model.name));
    std::fs::create_dir_all(&args.output).map_err(|e| Failure::file("make", &args.output, &e))?;
    let bytes = std::fs::read(&built).map_err(|e| Failure::file("read", &built, &e))?;
    files::write(&place("braidart"), &bytes)?;
    weights.write(&place("packed"))?;
    beside(&args.weights, &args.output)?;
    let numbers: usize = artifact.manifest.params.iter().map(|param| param.shape.iter().product::<usize>()).sum();
    let bytes = artifact.manifest.weights_bytes;
    say(&format!(
        "wrote {} and {}: {numbers} numbers in {} KiB, {:.2} bits each\n",
        place("braidart").display(),
        place("packed").display(),
        bytes.div_ceil(1024),
        8.0 * bytes as f64 / numbers.max(1) as f64
    ))?;
    let whole = CodeArgs { dtype: DtypeArg::F32, ..args.code.clone() };
    let mut plain = spec.clone();
    plain.model.params.iter_mut().for_each(|param| param.stored = None);
    let found = [logits(plain, &whole, &args.weights)?, logits(spec, &args.code, &args.weights)?];
    match found {
        [Some(before), Some(after)] => say(&cost(&before, &after)),
        _ => say("it is given more than token ids: what rounding costs is not told\n"),
    }
}

/// What rounding costs, in words: logits of a row lie behind each other.
fn cost(before: &[f32], after: &[f32]) -> String {
    let vocab = (before.len() / COMPARED).max(1);
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let apart = norm(&mut before.iter().zip(after).map(|(a, b)| a - b)) / norm(&mut before.iter().copied()).max(1e-30);
    let far = before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = before.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let rows = before.chunks(vocab).zip(after.chunks(vocab));
    let (mut same, mut lost) = (0, 0.0);
    for (a, b) in rows {
        same += usize::from(best(a) == best(b));
        lost += divergence(a, b);
    }
    format!(
        "on {COMPARED} tokens its logits differ by {:.2} % (in norm) from those with weights in f32, by at most {far:.2e} where the largest is {largest:.2e}; \
         {same} of {COMPARED} most probable tokens are the same; {:.2e} nats of divergence a token\n",
        100.0 * apart,
        lost / COMPARED as f64
    )
}

fn best(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

/// `Σ p (log p - log q)` of two rows of logits.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let total = |row: &[f32]| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(most) + row.iter().map(|x| f64::from(x - most).exp()).sum::<f64>().ln()
    };
    let (of_a, of_b) = (total(a), total(b));
    let one = |(a, b): (&f32, &f32)| {
        let (p, q) = (f64::from(*a) - of_a, f64::from(*b) - of_b);
        p.exp() * (p - q)
    };
    a.iter().zip(b).map(one).sum()
}
