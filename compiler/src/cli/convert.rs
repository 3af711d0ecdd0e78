//! `braid convert`: the weights of a model as those of another one, with a spec for them.

use super::args::{ConvertArgs, Settings, SpecArgs};
use super::compared::{COMPARED, logits};
use super::failure::Failure;
use super::linearise::{derived, plain};
use super::spec::{self, Spec};
use super::{build, files, say};
use braid_compiler::convert::{Change, changes, dealt, fresh, instance, mean, order};
use braid_compiler::import::bind::unbound;
use braid_runtime::artifact::Param;
use braid_runtime::checkpoint::{Checkpoint, Kind, stored, write_each};
use braid_runtime::weights::numbers;
use std::io::BufWriter;
use std::path::Path;

/// Writes a folder with the spec, its weight map and the weights.
pub fn convert(args: &ConvertArgs) -> Result<(), Failure> {
    let before = spec::load(&SpecArgs { spec: args.spec.spec.clone(), settings: plain(&args.spec.settings) })?;
    let (after, text) = target(args, &before)?;
    let old = build::bound(&before)?;
    let new = unbound(&after.model.axes, &after.model.params);
    let changes = changes(&old, &new).map_err(Failure::user)?;
    let open = |name: &String| Ok(Checkpoint::open(Path::new(name))?);
    let checkpoints = args.weights.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
    let neurons = args.neurons.as_deref().map(Checkpoint::open).transpose()?;
    let source =
        Converter { args, old: &old, new: &new, changes: &changes, checkpoints: &checkpoints, neurons: neurons.as_ref() };
    source.check()?;
    let (name, folder) = (args.output.join(format!("{}.braid", after.model.name)), args.output.join("weights"));
    source.written(&text, &name, &folder).inspect_err(|_| {
        // The folder is new; what is not whole is not left behind, and that it could not be removed would be a second error.
        let _ = std::fs::remove_dir_all(&args.output);
    })?;
    let counted = |is: fn(&Change) -> bool| changes.iter().filter(|change| is(change)).count();
    let told = [
        (counted(|c| matches!(c, Change::Copied(_))), "copied to experts"),
        (counted(|c| matches!(c, Change::Dealt(..))), "dealt out to experts"),
        (counted(|c| matches!(c, Change::Averaged(_))), "averaged over experts"),
        (counted(|c| matches!(c, Change::New)), "new"),
    ];
    let mut told: Vec<String> = told.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if checkpoints.len() > 1 {
        told.push(format!("what is the same, the mean of {} checkpoints", checkpoints.len()));
    }
    say(&format!("wrote {}: {} parameters; {}\n", args.output.display(), new.len(), told.join(", ")))?;
    compare(before, args, &name, &folder)
}

/// The model that the weights are to be those of, and the text for it.
fn target(args: &ConvertArgs, before: &Spec) -> Result<(Spec, String), Failure> {
    if args.output.exists() {
        return Err(Failure::hinted(format!("{} is there already", args.output.display()), "name a new folder"));
    }
    let policy = args.spec.settings.policy.as_deref().map(str::trim);
    let name = args.output.join("spec.braid");
    let (spec, text) = match (&args.to, policy) {
        (Some(_), Some(_)) => return Err(Failure::user("`--to` and `--policy` both say what the weights become")),
        (Some(to), None) => {
            let spec = SpecArgs { spec: to.clone(), settings: Settings::default() };
            let model = spec::load(&spec)?.model.name;
            let text = derived(&spec, &name, (&model, "converted"), None)?;
            (spec, text)
        }
        (None, policy) => {
            let text =
                derived(&args.spec, &name, (&before.model.name, if policy.is_some() { "experts" } else { "merged" }), policy)?;
            (args.spec.clone(), text)
        }
    };
    // What cannot be is said before anything is written.
    let loaded = spec::load(&spec)?;
    let name = text.lines().rev().find_map(|line| line.strip_prefix("model ")?.split(' ').next().map(str::to_owned));
    let model = braid_dsl::model::Model { name: name.unwrap_or(loaded.model.name), ..loaded.model };
    Ok((Spec { model, ..loaded }, text))
}

/// Both sides, and what becomes of what.
struct Converter<'a> {
    args: &'a ConvertArgs,
    old: &'a [Param],
    new: &'a [Param],
    changes: &'a [Change],
    checkpoints: &'a [Checkpoint],
    /// In which order neurons are dealt out, if a file says so.
    neurons: Option<&'a Checkpoint>,
}

impl Converter<'_> {
    /// That something changes, and that parts of a mean are as many as what it is of.
    fn check(&self) -> Result<(), Failure> {
        let mixes = self.checkpoints.len() > 1;
        if !mixes && self.changes.iter().all(|change| matches!(change, Change::Same(_))) {
            let hint = "say what stands in for its blocks (`--policy`), another model (`--to`), or several `--weights`";
            return Err(Failure::hinted("nothing would change", hint));
        }
        let experts =
            self.changes.iter().find_map(|c| if let Change::Averaged(at) = c { Some(self.old[*at].shape[0]) } else { None });
        let wanted = experts.unwrap_or(self.checkpoints.len());
        let parts = &self.args.mix;
        if !parts.is_empty()
            && (parts.len() != wanted || parts.iter().any(|x| !x.is_finite() || *x < 0.0) || parts.iter().sum::<f64>() <= 0.0)
        {
            return Err(Failure::user(format!(
                "`--mix` has {} parts for a mean of {wanted}; they are not negative",
                parts.len()
            )));
        }
        if mixes && experts.is_some() {
            return Err(Failure::user("experts are averaged within one checkpoint: name one `--weights`"));
        }
        Ok(())
    }

    /// Writes the spec, its weight map, and the weights with what lies beside them.
    fn written(&self, text: &str, name: &Path, folder: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(folder).map_err(|e| Failure::file("make", folder, &e))?;
        files::write(name, text.as_bytes())?;
        let entries = self.new.iter().map(|param| format!("  \"{0}\": {{ tensor: \"{0}\" }}\n", param.path));
        files::write(&name.with_extension("weights.yaml"), format!("params:\n{}", entries.collect::<String>()).as_bytes())?;
        self.write(&folder.join("model.safetensors"))?;
        beside(&self.args.weights[0], folder)
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        let tensors: Vec<_> = self
            .new
            .iter()
            .zip(self.changes)
            .map(|(param, change)| (param.path.clone(), self.kind(change), param.shape.clone()))
            .collect();
        let file = std::fs::File::create(path).map_err(|e| Failure::file("write", path, &e))?;
        let mut out = BufWriter::new(file);
        let mut wrong = None;
        let done = write_each(&mut out, &tensors, |at| {
            let made = self.made(&self.new[at], &self.changes[at]);
            made.map(|numbers| stored(tensors[at].1, &numbers)).map_err(|what| {
                wrong = Some(what);
                std::io::Error::other("a tensor that cannot be read")
            })
        });
        let done = done.and_then(|()| std::io::Write::flush(&mut out));
        match wrong {
            Some(what) => Err(Failure::user(what)),
            None => done.map_err(|e| Failure::file("write", path, &e)),
        }
    }

    /// As it was stored; what is computed is f32.
    fn kind(&self, change: &Change) -> Kind {
        let (Change::Same(at) | Change::Copied(at) | Change::Dealt(at, _)) = change else { return Kind::F32 };
        let stays = self.checkpoints.len() == 1 && !self.shared(change);
        let name = self.old[*at].binding.as_ref().and_then(|binding| binding.tensors.first());
        match name.and_then(|name| self.checkpoints[0].get(name)).map(|tensor| tensor.kind) {
            Some(kind @ (Kind::F16 | Kind::Bf16)) if stays => kind,
            _ => Kind::F32,
        }
    }

    /// Whether every expert of a dealt-out instance has all of it, so that each adds it: a bias behind the sum over neurons.
    fn shared(&self, change: &Change) -> bool {
        let Change::Copied(at) = change else { return false };
        let own = instance(&self.old[*at].path);
        self.changes.iter().any(|c| matches!(c, Change::Dealt(other, _) if instance(&self.old[*other].path) == own))
    }

    /// The numbers of a parameter.
    fn made(&self, param: &Param, change: &Change) -> Result<Vec<f32>, String> {
        let read = |at: usize, n: usize| numbers(&self.old[at], &self.checkpoints[n]);
        let all = |at: usize| (0..self.checkpoints.len()).map(|n| read(at, n)).collect::<Result<Vec<_>, _>>();
        let parts = |n: usize| if self.args.mix.is_empty() { vec![1.0; n] } else { self.args.mix.clone() };
        let averaged = |tensors: Vec<Vec<f32>>| match &tensors[..] {
            [_] => tensors.concat(),
            _ => mean(&tensors.iter().map(Vec::as_slice).collect::<Vec<_>>(), &parts(tensors.len())),
        };
        Ok(match change {
            Change::Same(at) => averaged(all(*at)?),
            Change::Copied(at) => {
                let tensors = all(*at)?;
                let share = if self.shared(change) { 1.0 / param.shape[0] as f32 } else { 1.0 };
                (0..param.shape[0]).flat_map(|expert| tensors[expert % tensors.len()].iter().map(|x| x * share)).collect()
            }
            Change::Dealt(at, axis) => {
                let old = &self.old[*at];
                let order = self.order(old.shape[*axis], instance(&old.path))?;
                dealt(&averaged(all(*at)?), &old.shape, *axis, param.shape[0], &order)
            }
            Change::Averaged(at) => {
                let tensor = read(*at, 0)?;
                let experts: Vec<&[f32]> = tensor.chunks(tensor.len() / self.old[*at].shape[0]).collect();
                mean(&experts, &parts(experts.len()))
            }
            Change::New => fresh(param.shape.iter().product(), self.args.seed.unwrap_or(0), &param.path),
        })
    }
}

impl Converter<'_> {
    /// The order in which the neurons of an instance are dealt out.
    fn order(&self, neurons: usize, instance: &str) -> Result<Vec<usize>, String> {
        let Some(file) = self.neurons else { return Ok(order(neurons, self.args.seed, instance)) };
        let name = if file.get(instance).is_some() { instance } else { "neurons" };
        let tensor = file.get(name).ok_or_else(|| format!("the file of neurons has neither `{instance}` nor `neurons`"))?;
        let order: Vec<usize> = match tensor.kind {
            Kind::I64 => tensor.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as usize).collect(),
            Kind::I32 => tensor.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as usize).collect(),
            other => return Err(format!("`{name}` of the file of neurons is {other}, not I32 or I64")),
        };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        match sorted.iter().copied().eq(0..neurons) {
            true => Ok(order),
            false => Err(format!("`{name}` of the file of neurons does not have each of 0 to {} once", neurons - 1)),
        }
    }
}

/// The tokenizer and what else lies with a checkpoint goes along.
pub fn beside(weights: &str, folder: &Path) -> Result<(), Failure> {
    let home = Path::new(weights);
    let home = if home.is_dir() { home } else { home.parent().unwrap_or(Path::new("")) };
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
        let (from, to) = (home.join(name), folder.join(name));
        if from.is_file() {
            std::fs::copy(&from, &to).map_err(|e| Failure::file("write", &to, &e))?;
        }
    }
    Ok(())
}

/// Says how far the new model's logits are from the old one's on some tokens.
fn compare(before: Spec, args: &ConvertArgs, name: &Path, folder: &Path) -> Result<(), Failure> {
    let ([weights], code) = (&args.weights[..], &args.code) else { return Ok(()) };
    let after = spec::load(&SpecArgs { spec: name.to_string_lossy().into_owned(), settings: Settings::default() })?;
    let (Some(old), Some(new)) = (logits(before, code, weights)?, logits(after, code, &folder.to_string_lossy())?) else {
        return Ok(());
    };
    let far = old.iter().zip(&new).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = old.iter().map(|x| x.abs()).fold(0.0, f32::max);
    say(&format!("on {COMPARED} tokens its logits differ from the old ones by at most {far:.2e}; the largest is {largest:.2e}\n"))
}
