//! How weights are stored: what the text says of a parameter counts, and for all others what the whole artifact is built with.

use super::anchor::Product;
use super::build::{Fuser, LARGE};
use crate::error::Error;
use braid_dsl::model::{ParamId, Storage};
use braid_runtime::artifact::{Dtype, GROUP};

impl Fuser<'_> {
    /// How a parameter's numbers are stored where they are many.
    pub(super) fn dtype_of(&self, param: ParamId) -> Dtype {
        match self.forms.graph.params[param.0 as usize].stored {
            Some(stored) => dtype(stored.storage),
            None => self.options.dtype,
        }
    }

    /// How a product's weights are stored. Narrow matrices (gates, routers, factors of low rank) are not quantised unless the text says so, and
    /// rows that meet them are not rounded: they are sensitive, and few bytes.
    pub(super) fn matrix_dtype(&self, product: &Product) -> Result<Dtype, Error> {
        let param = &self.forms.graph.params[product.param.0 as usize];
        let count = |list: &[usize]| list.iter().map(|at| self.count(&[param.axes[*at]])).product::<usize>();
        let depth = count(&product.param_depth);
        let columns = count(&product.param_batch) * count(&product.param_columns);
        let wide = depth >= 2 * GROUP && columns >= 4 * GROUP && depth * columns >= LARGE;
        // A GPU's lanes read whole groups.
        let whole = self.options.blocks == 0 || depth.is_multiple_of(GROUP);
        let wanted = self.dtype_of(product.param);
        if let (Some(stored), true) = (param.stored, wanted.quantised()) {
            return match whole {
                true => Ok(self.laid(wanted)),
                false => Err(Error::limit(format!(
                    "`{}` as {} on a GPU: {depth} numbers along the contracted axis are no multiple of {GROUP}",
                    param.path,
                    stored.storage.name()
                ))
                .at(stored.span)),
            };
        }
        Ok(match wanted {
            quantised if quantised.quantised() && wide && whole => self.laid(quantised),
            Dtype::F32 => Dtype::F32,
            _ if self.options.pairs && wide => Dtype::Bf16Pairs,
            _ => Dtype::Bf16,
        })
    }

    /// In the order that products want where rows have eight bits.
    fn laid(&self, dtype: Dtype) -> Dtype {
        if self.options.bytes { dtype.in_quads() } else { dtype }
    }

    /// That whatever the text says of storage is so for one of the parameters at least of which it is said.
    pub(super) fn check_storage(&self) -> Result<(), Error> {
        let params = &self.forms.graph.params;
        let packed = |at: usize| self.fused.packed.iter().filter(move |packed| packed.param.0 as usize == at);
        let is_so = |at: usize, storage| packed(at).any(|packed| packed.dtype.plain() == dtype(storage));
        for (at, stored) in params.iter().enumerate().filter_map(|(at, param)| Some((at, param.stored?))) {
            let of_rule = || params.iter().enumerate().filter(|(_, param)| param.stored == Some(stored)).map(|(at, _)| at);
            let read = of_rule().any(|at| packed(at).next().is_some());
            if read && !of_rule().any(|at| is_so(at, stored.storage)) {
                let (path, name) = (&params[at].path, stored.storage.name());
                let what = format!(
                    "`{path}` as {name}: of tables, vectors and small tensors there is f32, and bf16 from {LARGE} numbers on"
                );
                return Err(Error::limit(what).at(stored.span));
            }
        }
        Ok(())
    }
}

fn dtype(storage: Storage) -> Dtype {
    match storage {
        Storage::F32 => Dtype::F32,
        Storage::Bf16 => Dtype::Bf16,
        Storage::Int8 => Dtype::Int8,
        Storage::Fp8 => Dtype::Fp8,
        Storage::Int4 => Dtype::Int4,
        Storage::Int4z => Dtype::Int4z,
    }
}
