//! Where the inputs of a model are in tensors that are not made of rows: the `inputs` of a weight map.

use super::bind::BindError;
use super::layout::{self, Item};
use braid_dsl::model::{Model, Size};
use braid_runtime::artifact::Source;
use serde::Deserialize;

/// An entry as written: `{ tensor: pixels, axes: "c (y i) (x j)", rows: "y x", behind: 1 }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    tensor: String,
    axes: String,
    rows: String,
    #[serde(default)]
    behind: usize,
}

/// The entries by the names of their inputs, as the runtime reads them.
///
/// # Errors
/// The first entry that does not fit the model.
pub fn sources(entries: &[(String, Entry)], model: &Model) -> Result<Vec<(String, Source)>, BindError> {
    let one = |(name, entry): &(String, Entry)| {
        let source = entry.source(name, model).map_err(|what| BindError::Input { name: name.clone(), what })?;
        Ok((name.clone(), source))
    };
    entries.iter().map(one).collect()
}

impl Entry {
    fn source(&self, name: &str, model: &Model) -> Result<Source, String> {
        let (_, ty) = model.inputs.iter().find(|(input, _)| input == name).ok_or("the model has no such input")?;
        let axes = ty.axes.iter().map(|axis| &model.axes[axis.0 as usize]).filter(|axis| axis.size != Size::Seq);
        let plain = |item: Item| match item {
            Item::Axis(name) => Ok(name),
            _ => Err(format!("axes `{}`: only names stand there", self.axes)),
        };
        let dims = layout::parse(&self.axes).map_err(|what| format!("axes `{}`: {what}", self.axes))?;
        let dims = dims.into_iter().map(|dim| dim.into_iter().map(plain).collect()).collect::<Result<Vec<Vec<String>>, _>>()?;
        let rows: Vec<String> = self.rows.split_whitespace().map(str::to_string).collect();
        let named: Vec<&String> = axes.map(|axis| &axis.name).chain(&rows).collect();
        let all: Vec<&String> = dims.iter().flatten().collect();
        match named.iter().find(|name| all.iter().filter(|other| other == name).count() != 1) {
            Some(name) => Err(format!("axes `{}`: `{name}` does not stand there once", self.axes)),
            None if all.len() != named.len() => Err(format!("axes `{}`: one is neither the input's nor in `rows`", self.axes)),
            None => Ok(Source { tensor: self.tensor.clone(), dims, rows, behind: self.behind }),
        }
    }
}
