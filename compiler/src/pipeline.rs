//! The ordered list of stages. Each stage makes one thing, checks it, and can print it; the list stops where it is told.

use crate::artifact::{self, Compiled};
use crate::error::Error;
use crate::forms::{self, Chunks, Decaying, Forms, Together};
use crate::fuse::{self, Fused};
use crate::graph::{Check, Fault, Graph, Verified};
use crate::llvm;
use crate::plan::{self, MOST_ROWS, Plan};
use crate::rewrite;
use crate::target::Target;
use braid_dsl::model::{Model, Storage};
use braid_runtime::artifact::{Dtype, Manifest, Param, Source};

/// What a compilation is told beside the model.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine that the code is for.
    pub target: Target,
    /// Storage of the large weights.
    pub dtype: Dtype,
    /// Whether recurrences walk long sequences in chunks.
    pub chunks: Chunks,
    /// All parameters with what they are bound to.
    pub params: Vec<Param>,
    /// How others store inputs, by the names of these.
    pub sources: Vec<(String, Source)>,
}

/// Everything that the stages have made so far.
pub struct Work {
    /// The checked model.
    pub model: Model,
    /// What was asked for.
    pub options: Options,
    graph: Option<Verified<Graph>>,
    forms: Option<Forms>,
    fused: Option<Fused>,
    plan: Option<Plan>,
    compiled: Option<Compiled>,
    library: Option<(Vec<u8>, Manifest)>,
}

/// A name, a sentence, and two functions.
pub struct Stage {
    /// The flag, and the folder of its snapshots.
    pub name: &'static str,
    /// What it makes.
    pub about: &'static str,
    run: fn(&mut Work) -> Result<(), Error>,
    print: fn(&Work) -> Result<String, Error>,
}

/// From the checked model to the artifact. Before them stands `ast`, which belongs to the language.
pub const STAGES: &[Stage] = &[
    Stage { name: "graph", about: "equal values merged, contractions found, rules applied", run: graph, print: print_graph },
    Stage { name: "forms", about: "states and caches attached", run: derive, print: |w| Ok(forms::print(w.forms()?)) },
    Stage { name: "fused", about: "values grouped into kernels", run: fused, print: |w| Ok(fuse::print(w.fused()?)) },
    Stage { name: "plan", about: "calls in order, every byte placed", run: plan, print: |w| Ok(plan::print(w.plan()?)) },
    Stage { name: "mlir", about: "kernels in MLIR", run: |_| Ok(()), print: print_mlir },
    Stage { name: "llvm", about: "optimised LLVM IR", run: compile, print: |w| Ok(w.compiled()?.code.optimized.clone()) },
    Stage { name: "asm", about: "assembly of the target, if it is a CPU", run: |_| Ok(()), print: |w| assembly(w, false) },
    Stage { name: "ptx", about: "code for the target, if it is a GPU", run: |_| Ok(()), print: |w| assembly(w, true) },
    Stage { name: "artifact", about: "the library and its manifest", run: link, print: print_manifest },
];

/// The stage of that name.
pub fn stage(name: &str) -> Option<&'static Stage> {
    STAGES.iter().find(|s| s.name == name)
}

/// Runs all stages up to one; `watch` hears the name of each as it begins.
///
/// # Errors
/// Our limits, with the construct; our bugs, with the stage.
pub fn run(model: Model, options: Options, until: &Stage, watch: &dyn Fn(&'static str)) -> Result<Work, Error> {
    let (graph, forms, fused, plan, compiled, library) = Default::default();
    let mut work = Work { model, options, graph, forms, fused, plan, compiled, library };
    for stage in STAGES {
        watch(stage.name);
        (stage.run)(&mut work)?;
        if stage.name == until.name {
            break;
        }
    }
    Ok(work)
}

impl Work {
    /// A stage as text, or one kernel of it.
    ///
    /// # Errors
    /// There is no such kernel, or the stage was not reached.
    pub fn print(&self, stage: &Stage, kernel: Option<&str>) -> Result<String, Error> {
        let text = (stage.print)(self)?;
        let Some(name) = kernel else { return Ok(text) };
        section(&text, name).ok_or_else(|| self.no_kernel(stage, name))
    }

    /// The code and its description.
    ///
    /// # Errors
    /// The last stage was not reached.
    pub fn artifact(&self) -> Result<&(Vec<u8>, Manifest), Error> {
        self.library.as_ref().ok_or_else(|| early("artifact"))
    }

    /// What the graph carries from call to call.
    ///
    /// # Errors
    /// The stage was not reached.
    pub fn forms(&self) -> Result<&Forms, Error> {
        self.forms.as_ref().ok_or_else(|| early("forms"))
    }

    /// The kernels.
    ///
    /// # Errors
    /// The stage was not reached.
    pub fn fused(&self) -> Result<&Fused, Error> {
        self.fused.as_ref().ok_or_else(|| early("fused"))
    }

    /// The calls.
    ///
    /// # Errors
    /// The stage was not reached.
    pub fn plan(&self) -> Result<&Plan, Error> {
        self.plan.as_ref().ok_or_else(|| early("plan"))
    }

    fn manifest(&self) -> Result<Manifest, Error> {
        let Options { target, dtype, params, sources, .. } = &self.options;
        Ok(artifact::manifest(self.plan()?, target, *dtype, params.clone(), sources))
    }

    fn graph(&self) -> Result<&Verified<Graph>, Error> {
        self.graph.as_ref().ok_or_else(|| early("graph"))
    }

    fn compiled(&self) -> Result<&Compiled, Error> {
        self.compiled.as_ref().ok_or_else(|| early("llvm"))
    }

    fn no_kernel(&self, stage: &Stage, name: &str) -> Error {
        let known = match (&self.plan, &self.fused) {
            (Some(plan), _) => plan.functions.iter().map(|f| f.name.clone()).collect::<Vec<_>>().join(", "),
            (None, Some(fused)) => format!("0 to {}", fused.kernels.len().saturating_sub(1)),
            _ => return Error::hinted(format!("stage `{}` has no kernels", stage.name), "kernels exist from stage `fused` on"),
        };
        Error::hinted(format!("stage `{}` has no kernel `{name}`", stage.name), format!("kernels here: {known}"))
    }
}

fn early(stage: &'static str) -> Error {
    Error::bug(stage, "it was asked for before it ran")
}

fn graph(work: &mut Work) -> Result<(), Error> {
    let built = checked("graph", Graph::build(&work.model))?;
    work.graph = Some(checked("rewrite", rewrite::apply(&built))?);
    Ok(())
}

fn checked<T: Check>(stage: &'static str, made: T) -> Result<Verified<T>, Error> {
    let text = |faults: Vec<Fault>| faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ");
    Verified::check(made).map_err(|faults| Error::bug(stage, text(faults)))
}

/// Chunks for a GPU's matrix units: of fewer rows where a block has little shared memory.
fn matrix_chunks(target: &Target, dtype: Dtype) -> Chunks {
    const LITTLE: usize = 64 << 10;
    let half = forms::MATRIX_CHUNK / 2;
    let rows = if target.shared_bytes < LITTLE { half } else { forms::MATRIX_CHUNK };
    // Sums of exponents have the rounding of their largest term: docs/benchmarks.md.
    let decaying = if dtype == Dtype::F32 { Decaying::Never } else { Decaying::Powers };
    Chunks::Matrices { rows, solving: half, decaying }
}

fn derive(work: &mut Work) -> Result<(), Error> {
    let chunks = match (work.options.chunks, work.options.target.gpu) {
        (Chunks::Auto, Some(_)) => matrix_chunks(&work.options.target, work.options.dtype),
        (Chunks::Rows(rows), Some(_)) => Chunks::Matrices { rows, solving: rows, decaying: Decaying::Halves },
        (given, _) => given,
    };
    let rows = if work.options.target.gpu.is_some() { MOST_ROWS } else { forms::MAX_ROWS };
    let mut forms = forms::derive(work.graph()?, chunks, rows);
    // On a GPU reading what was made takes longer than making it: 1 % of a token of a model that decays element by element.
    if work.options.target.gpu.is_none() {
        forms.make_once();
    }
    checked("forms", forms.graph.clone())?;
    if forms.graph.ahead > 0 && forms.together != Together::ANY {
        return Err(Error::limit("positions ahead of a text whose first ones, or whose blocks, come in one call"));
    }
    work.forms = Some(forms);
    Ok(())
}

fn fused(work: &mut Work) -> Result<(), Error> {
    let given = &work.options;
    let integers = given.target.gpu.is_some() || given.target.row_bits.is_some();
    let limit = || {
        let name = &given.target.name;
        Error::limit(format!("quantised weights for `{name}`; f32 and bf16 are, and on ARM `{name}+i8mm` multiplies integers"))
    };
    if given.dtype.quantised() && !integers {
        return Err(limit());
    }
    let of_text = work
        .graph()?
        .params
        .iter()
        .filter_map(|param| param.stored)
        .find(|stored| !matches!(stored.storage, Storage::F32 | Storage::Bf16));
    if let (Some(stored), false) = (of_text, integers) {
        return Err(limit().at(stored.span));
    }
    let options = artifact::options(&work.options.target, work.options.dtype);
    work.fused = Some(fuse::fuse(work.forms()?, options)?);
    Ok(())
}

fn plan(work: &mut Work) -> Result<(), Error> {
    let plan = plan::plan(work.fused()?, &work.options.target);
    plan::verify(&plan).map_err(|what| Error::bug("plan", what))?;
    work.plan = Some(plan);
    Ok(())
}

fn compile(work: &mut Work) -> Result<(), Error> {
    work.compiled = Some(artifact::compile(work.plan()?, &work.options.target)?);
    Ok(())
}

fn link(work: &mut Work) -> Result<(), Error> {
    let options = &work.options;
    let code = &work.compiled()?.code;
    let library = match options.target.gpu {
        Some(_) => code.assembly.clone().into_bytes(),
        None => llvm::link(&[&code.object], &options.target)?,
    };
    work.library = Some((library, work.manifest()?));
    Ok(())
}

/// The artifact of several levels of one processor: what was compiled for each, in order.
///
/// # Errors
/// A linker that fails; a level that was not compiled.
pub fn joined(levels: &[Work]) -> Result<(Vec<u8>, Manifest), Error> {
    let [first, others @ ..] = levels else { return Err(early("artifact")) };
    let objects = levels.iter().map(|level| Ok(level.compiled()?.code.object.as_slice())).collect::<Result<Vec<_>, Error>>()?;
    let levels = others.iter().map(Work::manifest).collect::<Result<_, _>>()?;
    Ok((llvm::link(&objects, &first.options.target)?, Manifest { levels, ..first.manifest()? }))
}

fn assembly(work: &Work, gpu: bool) -> Result<String, Error> {
    let target = &work.options.target;
    match target.gpu.is_some() == gpu {
        true => Ok(work.compiled()?.code.assembly.clone()),
        false if gpu => Err(Error::hinted(
            format!("`{}` is no GPU: it has no PTX", target.name),
            "add `--target cuda:sm_90a`, or ask for stage `asm`",
        )),
        false => Err(Error::hinted(format!("`{}` is a GPU: its code is PTX", target.name), "ask for stage `ptx`")),
    }
}

fn print_graph(work: &Work) -> Result<String, Error> {
    let graph: &Graph = work.graph()?;
    Ok(graph.to_string())
}

fn print_mlir(work: &Work) -> Result<String, Error> {
    artifact::mlir(work.plan()?, &work.options.target)
}

fn print_manifest(work: &Work) -> Result<String, Error> {
    serde_json::to_string_pretty(&work.artifact()?.1).map_err(|e| Error::bug("artifact", e.to_string()))
}

/// The lines of one kernel: from the line that begins it to the one that ends it, in any stage's notation.
fn section(text: &str, name: &str) -> Option<String> {
    let begins = |line: &str| {
        line.starts_with(&format!("kernel {name} "))
            || line.starts_with(&format!("{name}:"))
            || (line.contains(&format!("@{name}(")) && (line.contains("func") || line.starts_with("define")))
    };
    let lines: Vec<&str> = text.lines().collect();
    let Some(first) = lines.iter().position(|l| begins(l)) else {
        // A plan has lines, not sections.
        let calls: Vec<&str> = lines.into_iter().filter(|l| l.trim_start().starts_with(&format!("{name} "))).collect();
        return (!calls.is_empty()).then(|| calls.join("\n") + "\n");
    };
    let indent = |line: &str| line.len() - line.trim_start().len();
    let after = lines[first + 1..].iter().position(|line| match () {
        () if lines[first].starts_with("kernel ") => line.starts_with("kernel "),
        () if lines[first].ends_with('{') => line.trim() == "}" && indent(line) == indent(lines[first]),
        () => line.trim_start().starts_with(".size"),
    });
    let closed = !lines[first].starts_with("kernel ");
    let end = after.map_or(lines.len(), |at| first + 1 + at + usize::from(closed));
    Some(lines[first..end].join("\n") + "\n")
}
