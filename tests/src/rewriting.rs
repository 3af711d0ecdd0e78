//! The golden models through the evaluator, as written and as rewritten: both give the golden logits, in one pass over the sequence and
//! as a prompt followed by single steps.

use crate::reference::Reference;
use crate::reference::checkpoint::Checkpoint;
use braid_compiler::graph::{Graph, Verified};
use braid_compiler::import::bind::WeightMap;
use braid_compiler::{import, rewrite};
use braid_dsl::source::Sources;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

struct Library(String);

impl Sources for Library {
    fn read(&self, path: &str) -> Option<String> {
        if path == "spec.braid" { Some(self.0.clone()) } else { braid_stdlib::file(path).map(str::to_string) }
    }
    fn prelude(&self) -> Vec<String> {
        let modules = braid_stdlib::files().iter().map(|(path, _)| path.to_string());
        modules.filter(|path| path.ends_with(".braid") && !path.starts_with("models/")).collect()
    }
}

struct Golden {
    folder: PathBuf,
    graph: Graph,
    params: HashMap<String, Vec<f64>>,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name);
        let config = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
        let imported = import::import(&config, name, braid_stdlib::files()).unwrap_or_else(|error| panic!("{error}"));
        let (model, map) = braid_dsl::check(&Library(imported.spec), "spec.braid", &[]);
        let model = model.unwrap_or_else(|errors| panic!("{}", errors.iter().map(|e| e.render(&map)).collect::<String>()));
        let weights = WeightMap::parse(&imported.weights).unwrap_or_else(|error| panic!("{error}"));
        let bound = weights.bind(&model.axes, &model.params, &model.constants);
        let bound = bound.unwrap_or_else(|errors| panic!("{}", errors.iter().map(|e| format!("{e}\n")).collect::<String>()));
        let checkpoint = Checkpoint::open(&folder.join("model.safetensors"));
        let read = |param: &braid_runtime::artifact::Param| {
            (param.path.clone(), checkpoint.param(param).unwrap_or_else(|error| panic!("{}: {error}", param.path)))
        };
        Golden { folder, graph: Graph::build(&model), params: bound.iter().map(read).collect() }
    }

    /// The largest distance of a graph's logits from the golden ones: of the whole sequences, and of all steps.
    fn distance(&self, graph: &Graph) -> f64 {
        let golden = Checkpoint::open(&self.folder.join("golden.safetensors"));
        let (whole, steps) = (golden.tensor("input_ids").expect("ids"), golden.tensor("generated_ids").expect("ids"));
        let prompt = golden.tensor("prompt_ids").expect("ids");
        let row = |(shape, data): (&[usize], &[f64]), n: usize| -> Vec<i64> {
            data[n * shape[1]..(n + 1) * shape[1]].iter().map(|id| *id as i64).collect()
        };
        let mut reference = Reference::new(graph, |path| self.params[path].clone());
        let mut most: f64 = 0.0;
        for n in 0..2 {
            let (shape, logits) = golden.tensor("logits").expect("logits");
            let count = shape[1] * shape[2];
            reference.reset();
            most = most.max(far(&reference.run(&row(whole, n)).data, &logits[n * count..(n + 1) * count]));
            let (shape, logits) = golden.tensor("generated_logits").expect("logits");
            reference.reset();
            let mut last = reference.run(&row(prompt, n)).data;
            for (step, id) in row(steps, n).into_iter().enumerate() {
                let at = (n * shape[1] + step) * shape[2];
                most = most.max(far(&last[last.len() - shape[2]..], &logits[at..at + shape[2]]));
                last = reference.run(&[id]).data;
            }
        }
        most
    }

    fn tolerance(&self) -> f64 {
        let meta = std::fs::read_to_string(self.folder.join("meta.json")).expect("a description");
        let meta: serde_json::Value = serde_json::from_str(&meta).expect("JSON");
        meta["suggested_tolerance"]["atol"].as_f64().expect("a tolerance")
    }
}

fn far(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    // A NaN is as far as can be.
    a.iter().zip(b).map(|(a, b)| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() }).fold(0.0, f64::max)
}

fn check(name: &str) {
    let golden = Golden::open(name);
    let rewritten = rewrite::apply(&golden.graph);
    Verified::check(rewritten.clone()).unwrap_or_else(|faults| panic!("{name}: {}", faults[0]));
    assert!(rewritten.len() <= golden.graph.len(), "{name}: {} nodes became {}", golden.graph.len(), rewritten.len());
    for (kind, graph) in [("as written", &golden.graph), ("rewritten", &rewritten)] {
        let (distance, tolerance) = (golden.distance(graph), golden.tolerance());
        assert!(distance <= tolerance, "{name} {kind}: {distance:e} from the golden logits, {tolerance:e} allowed");
    }
}

macro_rules! goldens {
    ($($name:ident)*) => { $(#[test] fn $name() { check(stringify!($name)) })* };
}

goldens! {
    llama llama3_scaled_rope qwen3 mistral_sliding gemma2 gemma3 gpt2 gpt_neox mixtral qwen2_moe phimoe mamba falcon_mamba mamba2 bamba
    granitemoehybrid jamba zamba zamba2 falcon_h1 kimi_linear nemotron_h lfm2 olmo_hybrid
}
