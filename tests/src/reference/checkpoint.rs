//! Parameters in double precision, straight from a checkpoint.

use braid_runtime::artifact::{Binding, Param};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// The tensors of one file.
pub struct Checkpoint(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Checkpoint {
    /// Reads a whole file. Panics if it cannot: a test's own mistake.
    pub fn open(path: &Path) -> Checkpoint {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let read = |(name, view): (&str, safetensors::tensor::TensorView)| {
            (name.to_string(), (view.shape().to_vec(), numbers(view.dtype(), view.data())))
        };
        Checkpoint(file.iter().map(read).collect())
    }

    /// Shape and numbers of a tensor.
    pub fn tensor(&self, name: &str) -> Option<(&[usize], &[f64])> {
        self.0.get(name).map(|(shape, data)| (shape.as_slice(), data.as_slice()))
    }

    /// All numbers of a bound parameter, row-major in declared order.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn param(&self, param: &Param) -> Result<Vec<f64>, String> {
        let binding = param.binding.as_ref().ok_or_else(|| format!("{} is not bound", param.path))?;
        let tensors: Vec<&[f64]> = binding.tensors.iter().map(|name| self.bound(name, binding)).collect::<Result<_, _>>()?;
        let mut data = vec![];
        let mut index = vec![0; param.shape.len()];
        for _ in 0..param.shape.iter().product() {
            let at = binding.offset + index.iter().zip(&binding.strides).map(|(i, step)| i * step).sum::<usize>();
            data.push(tensors[binding.stacked.map_or(0, |axis| index[axis])][at]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < param.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(data)
    }

    /// The first of the alternatives that is there.
    fn bound(&self, names: &str, binding: &Binding) -> Result<&[f64], String> {
        let (shape, data) = names.split('|').find_map(|name| self.tensor(name)).ok_or_else(|| format!("no tensor {names}"))?;
        if shape == binding.shape { Ok(data) } else { Err(format!("{names} is {shape:?}, not {:?}", binding.shape)) }
    }
}

fn numbers(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    fn of<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
    }
    match dtype {
        Dtype::F64 => of(data, f64::from_le_bytes),
        Dtype::F32 => of(data, |b| f32::from_le_bytes(b) as f64),
        Dtype::BF16 => of(data, |b| half::bf16::from_le_bytes(b).to_f64()),
        Dtype::F16 => of(data, |b| half::f16::from_le_bytes(b).to_f64()),
        Dtype::I64 => of(data, |b| i64::from_le_bytes(b) as f64),
        Dtype::I32 => of(data, |b| i32::from_le_bytes(b) as f64),
        Dtype::U8 | Dtype::BOOL => data.iter().map(|byte| *byte as f64).collect(),
        other => panic!("{other:?} in a checkpoint"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_transposed_tensor() {
        let data = (0..12).map(f64::from).collect();
        let checkpoint = Checkpoint(HashMap::from([("w".to_string(), (vec![4, 3], data))]));
        let binding = Binding {
            tensors: vec!["v|w".into()],
            stacked: None,
            shape: vec![4, 3],
            offset: 3,
            strides: vec![1, 3],
            splits: vec![],
        };
        let mut param = Param { path: "p".into(), axes: vec!["a".into(), "b".into()], shape: vec![3, 2], binding: Some(binding) };
        assert_eq!(checkpoint.param(&param), Ok(vec![3.0, 6.0, 4.0, 7.0, 5.0, 8.0]));
        param.binding.as_mut().expect("a binding").shape = vec![3, 4];
        assert_eq!(checkpoint.param(&param), Err("v|w is [4, 3], not [3, 4]".into()));
    }
}
