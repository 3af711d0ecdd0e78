//! Weight maps: which tensor of a checkpoint, and which of its elements, each parameter of a model is.
//!
//! A map names parameters by patterns of their paths (`layers.{i}.attn.wq`) and tensors by templates with the same
//! placeholders. Expressions compute with the compile-time parameters of the model, the map's own `let`s and the sizes of
//! the parameter's axes.

use super::eval::Scope;
use super::given;
use super::layout::{self, Item};
use super::value::Value;
use braid_dsl::model::{Axis, Constant, Model, Param, Size};
use braid_runtime::artifact::{Binding, Param as Bound, Source, Split};
use serde::Deserialize;

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;

/// A weight map as written.
#[derive(Clone, Debug)]
pub struct WeightMap {
    lets: Vec<(String, String)>,
    entries: Vec<(String, Entry)>,
    inputs: Vec<(String, given::Entry)>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    tensor: Option<String>,
    /// Older and newer names of one tensor: the first that a checkpoint has.
    tensors: Option<Vec<String>>,
    axes: Option<String>,
    stack: Option<String>,
    /// `k as (s=2 j)`: an axis of the parameter that the tensor holds as a product in another order; `axes` names the factors.
    split: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "let")]
    lets: serde_yaml::Mapping,
    params: serde_yaml::Mapping,
    #[serde(default)]
    inputs: serde_yaml::Mapping,
}

/// What is wrong with a weight map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// It cannot be read.
    #[error("the weight map cannot be read: {0}")]
    Yaml(String),
    /// A parameter has no entry.
    #[error("parameter `{path}` has no entry in the weight map")]
    Unmapped {
        /// The parameter.
        path: String,
    },
    /// An entry of `inputs` does not fit its input.
    #[error("input `{name}` of the weight map: {what}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// An entry does not fit its parameter.
    #[error("parameter `{path}`, weight map entry `{entry}`: {what}")]
    Misfit {
        /// The parameter.
        path: String,
        /// The entry's pattern.
        entry: String,
        /// What is wrong.
        what: String,
    },
}

impl WeightMap {
    /// Reads a map.
    ///
    /// # Errors
    /// A text that is not YAML or not a weight map.
    pub fn parse(text: &str) -> Result<WeightMap, BindError> {
        let unread = |error: serde_yaml::Error| BindError::Yaml(error.to_string());
        let file: File = serde_yaml::from_str(text).map_err(unread)?;
        let named = |key: serde_yaml::Value| serde_yaml::from_value::<String>(key).map_err(unread);
        let lets = file.lets.into_iter().map(|(key, value)| Ok((named(key)?, expression(value)?)));
        let lets = lets.collect::<Result<_, _>>()?;
        Ok(WeightMap { lets, entries: entries(file.params)?, inputs: entries(file.inputs)? })
    }

    /// Where the inputs of a model are in tensors that are not made of rows.
    ///
    /// # Errors
    /// The first entry that does not fit the model.
    pub fn sources(&self, model: &Model) -> Result<Vec<(String, Source)>, BindError> {
        given::sources(&self.inputs, model)
    }

    /// Binds every parameter; `constants` are the model's compile-time parameters.
    ///
    /// # Errors
    /// Everything that is wrong, parameter by parameter.
    pub fn bind(&self, axes: &[Axis], params: &[Param], constants: &[(String, Constant)]) -> Result<Vec<Bound>, Vec<BindError>> {
        let known = self.known(constants);
        let (mut bound, mut errors) = (Vec::new(), Vec::new());
        for mut param in unbound(axes, params) {
            match self.binding(&param, &known) {
                Ok(binding) => {
                    param.binding = Some(binding);
                    bound.push(param);
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(bound) } else { Err(errors) }
    }

    /// The map's own names, then the model's. A `let` that needs what this model lacks is left out: using it is the error.
    fn known(&self, constants: &[(String, Constant)]) -> Vec<(String, Value)> {
        let constants: Vec<_> = constants.iter().map(|(name, value)| (name.clone(), Value::Of(value.clone()))).collect();
        let config = Value::Object(constants.clone());
        let scope = Scope::new(&config, &self.lets);
        let lets = self.lets.iter().filter_map(|(name, _)| Some((name.clone(), scope.eval(name).ok()?)));
        lets.chain(constants).collect()
    }

    fn binding(&self, param: &Bound, known: &[(String, Value)]) -> Result<Binding, BindError> {
        let exact = self.entries.iter().find(|(pattern, _)| *pattern == param.path).map(|found| (found, vec![]));
        let by_pattern = || self.entries.iter().find_map(|found| Some((found, matched(&found.0, &param.path)?)));
        let Some(((pattern, entry), holes)) = exact.or_else(by_pattern) else {
            return Err(BindError::Unmapped { path: param.path.clone() });
        };
        let sizes = param.axes.iter().zip(&param.shape).map(|(axis, size)| (plain(axis).to_string(), whole(*size)));
        let names = Names(Value::Object(holes.into_iter().chain(sizes).chain(known.iter().cloned()).collect()));
        let misfit = |what| BindError::Misfit { path: param.path.clone(), entry: pattern.clone(), what };
        entry.resolve(param, &names).map_err(misfit)
    }
}

/// Entries by name.
fn entries<E: serde::de::DeserializeOwned>(mapping: serde_yaml::Mapping) -> Result<Vec<(String, E)>, BindError> {
    let one = |(key, value)| {
        let key: String = serde_yaml::from_value(key).map_err(|error| BindError::Yaml(error.to_string()))?;
        let entry = serde_yaml::from_value(value).map_err(|error| BindError::Yaml(format!("`{key}`: {error}")))?;
        Ok((key, entry))
    };
    mapping.into_iter().map(one).collect()
}

fn expression(value: serde_yaml::Value) -> Result<String, BindError> {
    match value {
        serde_yaml::Value::String(text) => Ok(text),
        serde_yaml::Value::Number(number) => Ok(number.to_string()),
        _ => Err(BindError::Yaml("a `let` is an expression".into())),
    }
}

fn whole(n: usize) -> Value {
    Value::Of(Constant::Int(n as i64))
}

/// The parameters of a model that has no weight map.
pub fn unbound(axes: &[Axis], params: &[Param]) -> Vec<Bound> {
    let size = |size| match size {
        Size::Fixed(n) => n,
        Size::Seq => 0,
    };
    let of = |param: &Param| {
        let own: Vec<&Axis> = param.axes.iter().filter_map(|id| axes.get(id.0 as usize)).collect();
        let names = own.iter().map(|axis| axis.name.clone()).collect();
        let shape = own.iter().map(|axis| size(axis.size)).collect();
        Bound { path: param.path.clone(), axes: names, shape, binding: None }
    };
    params.iter().map(of).collect()
}

/// An axis as the text spells it, without the suffix of a renamed local.
fn plain(axis: &str) -> &str {
    axis.split('\'').next().unwrap_or(axis)
}

/// The numbers for the placeholders of a pattern, if it names the path.
fn matched(pattern: &str, path: &str) -> Option<Vec<(String, Value)>> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then(Vec::new);
    };
    let (name, after) = rest.split_once('}')?;
    let tail = path.strip_prefix(before)?;
    let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    let number: i64 = tail[..end].parse().ok()?;
    let mut holes = matched(after, &tail[end..])?;
    holes.insert(0, (name.to_string(), Value::Of(Constant::Int(number))));
    Some(holes)
}

/// What expressions of one entry can name.
struct Names(Value);

impl Names {
    fn number(&self, text: &str) -> Result<usize, String> {
        let value = Scope::new(&self.0, &[]).eval(text)?;
        let whole = match value {
            Value::Of(Constant::Int(n)) => usize::try_from(n).ok(),
            Value::Missing(name) => return Err(format!("`{name}` in `{text}` is not a parameter of the model")),
            _ => None,
        };
        whole.ok_or_else(|| format!("`{text}` is {}, not a size", value.text()))
    }

    /// A template with its placeholders filled.
    fn fill(&self, template: &str) -> Result<String, String> {
        let Some((before, rest)) = template.split_once('{') else { return Ok(template.to_string()) };
        let (hole, after) = rest.split_once('}').ok_or_else(|| format!("`{{` is not closed in `{template}`"))?;
        Ok(format!("{before}{}{}", self.number(hole)?, self.fill(after)?))
    }

    fn with(&self, name: &str, number: usize) -> Names {
        let Value::Object(members) = &self.0 else { return Names(self.0.clone()) };
        let mut all = vec![(name.to_string(), whole(number))];
        all.extend(members.iter().cloned());
        Names(Value::Object(all))
    }
}

impl Entry {
    fn resolve(&self, param: &Bound, names: &Names) -> Result<Binding, String> {
        let stack = self.stack.as_deref().map(|text| stacked(text, param)).transpose()?;
        let template = match (&self.tensor, &self.tensors) {
            (Some(tensor), None) => tensor.clone(),
            (None, Some(list)) if !list.is_empty() => list.join("|"),
            _ => return Err("give either `tensor` or `tensors`".into()),
        };
        let tensors = match stack {
            Some((axis, name)) => (0..param.shape[axis]).map(|n| names.with(name, n).fill(&template)).collect(),
            None => names.fill(&template).map(|one| vec![one]),
        }?;
        let stacked = stack.map(|(axis, _)| axis);
        let dims = match &self.axes {
            Some(text) => layout::parse(text).map_err(|what| format!("axes `{text}`: {what}"))?,
            None => declared(param, stacked),
        };
        let Some(text) = &self.split else {
            let placed = Placed::new(param, &dims, names)?;
            let strides = placed.strides(param, stacked)?;
            return Ok(Binding { tensors, stacked, shape: placed.shape, offset: placed.offset, strides, splits: vec![] });
        };
        let (axis, factors) = split(text, param, names).map_err(|what| format!("split `{text}`: {what}"))?;
        let (whole, sizes): (Vec<_>, Vec<_>) = factors.iter().cloned().unzip();
        let parts = Bound { axes: spliced(&param.axes, axis, whole), shape: spliced(&param.shape, axis, sizes), ..param.clone() };
        // The places of axes behind the split one rise by the factors that it has become.
        let shifted = stacked.map(|at| if at > axis { at + factors.len() - 1 } else { at });
        let placed = Placed::new(&parts, &dims, names)?;
        let mut strides = placed.strides(&parts, shifted)?;
        let steps: Vec<_> = strides.splice(axis..axis + factors.len(), [0]).collect();
        let factors = factors.into_iter().map(|(_, size)| size).zip(steps).collect();
        let splits = vec![Split { axis, factors }];
        Ok(Binding { tensors, stacked, shape: placed.shape, offset: placed.offset, strides, splits })
    }
}

/// `experts as e`: the axis and the placeholder that counts it.
fn stacked<'a>(text: &'a str, param: &Bound) -> Result<(usize, &'a str), String> {
    let (axis, name) = text.split_once(" as ").ok_or_else(|| format!("stack `{text}` is not `AXIS as NAME`"))?;
    Ok((find(param, axis.trim())?, name.trim()))
}

/// `k as (s=2 j)`: the axis, and names and sizes of its factors, slowest first; one size is what is left.
fn split(text: &str, param: &Bound, names: &Names) -> Result<(usize, Vec<(String, usize)>), String> {
    let form = || "it is not `AXIS as (NAME=SIZE NAME)`".to_string();
    let (axis, factors) = text.split_once(" as ").ok_or_else(form)?;
    let factors = factors.trim().strip_prefix('(').and_then(|f| f.strip_suffix(')')).ok_or_else(form)?;
    let axis = find(param, axis.trim())?;
    let (mut found, mut known) = (Vec::new(), 1usize);
    for factor in factors.split_whitespace() {
        let (name, size) = match factor.split_once('=') {
            Some((name, size)) => (name, names.number(size)?),
            None => (factor, 0),
        };
        known = known.checked_mul(size.max(1)).ok_or_else(form)?;
        found.push((name.to_string(), size));
    }
    let open = found.iter_mut().filter(|(_, size)| *size == 0).map(|(_, size)| size).collect::<Vec<_>>();
    let (left, rest) = (param.shape[axis] / known, param.shape[axis] % known);
    match open.as_slice() {
        _ if rest > 0 => return Err(format!("{} is not a multiple of {known}", param.shape[axis])),
        [_] => open.into_iter().for_each(|size| *size = left),
        [] if left == 1 => {}
        _ => return Err(form()),
    }
    Ok((axis, found))
}

/// The list with one element replaced by several.
fn spliced<T: Clone>(list: &[T], at: usize, with: Vec<T>) -> Vec<T> {
    let mut list = list.to_vec();
    list.splice(at..=at, with);
    list
}

fn declared(param: &Bound, stacked: Option<usize>) -> Vec<Vec<Item>> {
    let own = param.axes.iter().enumerate().filter(|(at, _)| Some(*at) != stacked);
    own.map(|(_, axis)| vec![Item::Axis(axis.clone())]).collect()
}

/// The place of an axis among the parameter's; a renamed local answers to its plain name.
fn find(param: &Bound, name: &str) -> Result<usize, String> {
    let exact = param.axes.iter().position(|axis| axis == name);
    let renamed = || param.axes.iter().position(|axis| plain(axis) == name);
    exact.or_else(renamed).ok_or_else(|| format!("`{name}` is not an axis of [{}]", param.axes.join(", ")))
}

/// A parameter's axes, found in a tensor.
struct Placed {
    shape: Vec<usize>,
    offset: usize,
    strides: Vec<Option<usize>>,
}

impl Placed {
    fn new(param: &Bound, dims: &[Vec<Item>], names: &Names) -> Result<Placed, String> {
        let mut placed = Placed { shape: vec![], offset: 0, strides: vec![None; param.axes.len()] };
        let mut step = 1;
        for dim in dims.iter().rev() {
            let outer = dim.iter().rev().try_fold(step, |step, item| placed.item(param, item, step, names))?;
            placed.shape.insert(0, outer / step);
            step = outer;
        }
        Ok(placed)
    }

    /// Places one factor whose neighbours are `step` apart; gives the step of the next slower factor.
    fn item(&mut self, param: &Bound, item: &Item, step: usize, names: &Names) -> Result<usize, String> {
        let size = match item {
            Item::One => 1,
            Item::Axis(name) => return self.axis(param, name, step),
            Item::Fixed { index, count } => {
                let (at, count) = (names.number(index)?, names.number(count)?);
                self.start(at, 1, count, step)?
            }
            Item::Part { axes, start, total } => {
                let (at, total) = (names.number(start)?, names.number(total)?);
                let outer = axes.iter().rev().try_fold(step, |step, axis| self.axis(param, axis, step))?;
                self.start(at, outer / step, total, step)?
            }
        };
        step.checked_mul(size).ok_or_else(|| "the tensor is too large".to_string())
    }

    /// `size` of `total` from `at`.
    fn start(&mut self, at: usize, size: usize, total: usize, step: usize) -> Result<usize, String> {
        if at.checked_add(size).is_none_or(|end| end > total) {
            return Err(format!("{size} from {at} do not fit into {total}"));
        }
        let offset = at.checked_mul(step).and_then(|more| self.offset.checked_add(more));
        self.offset = offset.ok_or("the tensor is too large")?;
        Ok(total)
    }

    fn axis(&mut self, param: &Bound, name: &str, step: usize) -> Result<usize, String> {
        let at = find(param, name)?;
        if self.strides[at].replace(step).is_some() {
            return Err(format!("axis `{name}` stands twice"));
        }
        // A parameter with an empty axis has no elements; any step will do.
        step.checked_mul(param.shape[at].max(1)).ok_or_else(|| "the tensor is too large".into())
    }

    /// A stride for every axis; that of the stacked one is 0.
    fn strides(&self, param: &Bound, stacked: Option<usize>) -> Result<Vec<usize>, String> {
        let of = |(at, stride): (usize, &Option<usize>)| match (stride, Some(at) == stacked) {
            (None, true) => Ok(0),
            (Some(step), false) => Ok(*step),
            (Some(_), true) => Err(format!("axis `{}` is stacked and cannot stand in `axes`", param.axes[at])),
            (None, false) => Err(format!("`axes` lacks axis `{}`", param.axes[at])),
        };
        self.strides.iter().enumerate().map(of).collect()
    }
}
