//! Numbers of an operator's golden file, and how far a result may be from them.

use crate::reference::checkpoint::Checkpoint;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::Path;

/// Inputs and outputs of one operator.
pub struct Golden {
    tensors: Checkpoint,
    errors: HashMap<String, f64>,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub times: usize,
}

impl Golden {
    /// Reads the file of an operator with so many tokens. Panics if it cannot: a test's own mistake.
    pub fn sized(name: &str, times: usize) -> Golden {
        Golden { times, ..Golden::open(name) }
    }

    /// Reads the file of an operator of one sequence.
    pub fn single(name: &str, times: usize) -> Golden {
        Golden { times, batch: 1, ..Golden::open(name) }
    }

    /// Reads the file. Panics if it cannot: a test's own mistake.
    pub fn open(name: &str) -> Golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("goldens/ops/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a header");
        let errors = metadata.metadata().as_ref().and_then(|all| all.get("fp32_max_abs_error").cloned()).expect("errors");
        // Nearly all operators have 50 tokens of 2 sequences.
        Golden { tensors: Checkpoint::open(&path), errors: serde_json::from_str(&errors).expect("JSON"), batch: 2, times: 50 }
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> &[usize] {
        self.tensors.tensor(name).unwrap_or_else(|| panic!("no {name}")).0
    }

    /// All numbers of a tensor.
    pub fn all(&self, name: &str) -> &[f64] {
        self.tensors.tensor(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// The shape of a token's part; one axis for tensors side by side, and none for a number, which has the shape that is wanted.
    pub fn row_shape(&self, source: &str) -> Vec<usize> {
        match source {
            beside if beside.contains('|') => vec![self.table(beside).len() / (self.batch * self.times)],
            number if number.parse::<f64>().is_ok() => vec![],
            name => self.shape(name)[if self.batch > 1 { 2 } else { 1 }..].to_vec(),
        }
    }

    /// The rows of all tokens, of one tensor or of several (`in.a|in.b`) side by side; a number stands for a column of it.
    pub fn table(&self, source: &str) -> Vec<f64> {
        let rows = self.batch * self.times;
        let part = |name: &str| name.parse().map_or_else(|_| self.all(name).to_vec(), |number: f64| vec![number; rows]);
        let parts: Vec<Vec<f64>> = source.split('|').map(part).collect();
        let row = |at: usize| parts.iter().flat_map(move |part| &part[at * part.len() / rows..(at + 1) * part.len() / rows]);
        (0..rows).flat_map(row).copied().collect()
    }

    /// One sequence's part of a tensor.
    pub fn sequence(&self, name: &str, sequence: usize) -> &[f64] {
        let all = self.all(name);
        let size = all.len() / self.batch;
        &all[sequence * size..(sequence + 1) * size]
    }

    /// Twenty times what the plain loop loses in f32, and at least 1e-5 of the largest number.
    pub fn tolerance(&self, name: &str) -> f64 {
        let largest = self.all(name).iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let error =
            name.strip_prefix("out.").and_then(|name| self.errors.get(name)).unwrap_or_else(|| panic!("no error of {name}"));
        (20.0 * error).max(1e-5 * largest)
    }
}
