//! What every manifest promises. Checked when an artifact is written and when it is read, so that the rest may rely on it:
//!
//! - sizes multiply without overflow; no axis is empty
//! - a binding has one stride, or factors that multiply to its size, for each axis and stays inside the checkpoint's tensors
//! - a packed tensor names an existing parameter, lists each of its axes once, and holds as many bytes as its layout needs
//! - packed tensors rise by offset, do not overlap, are aligned, and end inside the blob
//! - outputs leave room for a result in a row
//! - inputs are aligned and lie inside the arena
//! - further levels are of the same model, with entries of their own, and keep all of this
//! - states do not leave the slot, at any capacity; rows, parts and blocks fill them; those that grow stand behind all others

use super::{ALIGN, Binding, Input, Layout, Manifest, POSITIONS, Packed, Param, State, Truncate};

/// No count or size may exceed this: 2^46 bytes, so that products of two checked numbers fit.
const LIMIT: usize = 1 << 46;

type Checked = Result<(), String>;

impl Manifest {
    /// All rules above; the first one that is broken, as a sentence.
    pub fn check(&self) -> Checked {
        ensure(self.vocab > 0 && self.vocab <= i32::MAX as usize, || "`vocab` is out of range".into())?;
        let sizes = self.outputs.iter().flat_map(|output| output.axes.iter().map(|(_, size)| *size).chain([1]));
        ensure(sizes.into_iter().all(|size| size > 0 && size <= self.vocab), || "an output without numbers".into())?;
        let behind = self.outputs.iter().try_fold(0usize, |sum, output| {
            let elements = output.axes.iter().try_fold(1usize, |product, (_, size)| product.checked_mul(*size));
            sum.checked_add(elements?)
        });
        ensure(behind.is_some_and(|behind| behind < self.vocab), || "`outputs` do not fit a row".into())?;
        ensure(self.tokens <= i32::MAX as usize, || "`tokens` is out of range".into())?;
        ensure(self.tokens > 0 || !self.inputs.is_empty(), || "the model is given nothing".into())?;
        ensure(self.max_rows > 0 && self.max_rows <= 1 << 24, || "`max_rows` is out of range".into())?;
        ensure(self.first_rows.is_none_or(|rows| rows <= self.max_rows), || "`first_rows` do not fit a call".into())?;
        ensure(self.block_rows > 0 && self.block_rows <= self.max_rows, || "`block_rows` is out of range".into())?;
        self.unmask.as_ref().map_or(Ok(()), |how| ensure(how.block > 0 && how.steps > 0, || "`unmask` has no steps".into()))?;
        let sizes = [
            ("weights_bytes", self.weights_bytes),
            ("token_weights_bytes", self.token_weights_bytes),
            ("prepared_bytes", self.prepared_bytes),
            ("arena_row_bytes", self.arena_row_bytes),
            ("scratch_bytes", self.scratch_bytes),
            ("state_fixed_bytes", self.state_fixed_bytes),
            ("state_position_bytes", self.state_position_bytes),
        ];
        sizes.iter().try_for_each(|(name, size)| ensure(*size <= LIMIT, || format!("`{name}` is out of range")))?;
        self.params.iter().try_for_each(|param| param.check().map_err(|what| format!("parameter `{}`: {what}", param.path)))?;
        self.inputs
            .iter()
            .try_for_each(|input| self.check_input(input).map_err(|what| format!("input `{}`: {what}", input.name)))?;
        self.check_packed()?;
        self.device.as_ref().map_or(Ok(()), |device| device.check().map_err(|what| format!("device: {what}")))?;
        self.states
            .iter()
            .try_for_each(|state| self.check_state(state).map_err(|what| format!("state `{}`: {what}", state.name)))?;
        self.check_levels()
    }

    fn check_input(&self, input: &Input) -> Checked {
        let elements = input.axes.iter().try_fold(1usize, |product, (_, size)| product.checked_mul(*size));
        let bytes = elements.filter(|elements| *elements > 0 && *elements <= LIMIT).ok_or("its sizes are out of range")? * 4;
        ensure(input.source.as_ref().is_none_or(|source| source.names(input)), || "its tensor has other axes".into())?;
        ensure(input.source.as_ref().is_none_or(|source| source.behind <= LIMIT), || "too many positions".into())?;
        let end = input.arena_row_offset.checked_add(bytes);
        ensure(end.is_some_and(|end| end <= self.arena_row_bytes), || "leaves the arena".into())?;
        ensure(input.arena_row_offset.is_multiple_of(ALIGN), || "is not aligned".into())
    }

    fn check_packed(&self) -> Checked {
        let mut end = 0;
        for packed in &self.packed {
            let param = self.params.get(packed.param).ok_or("a packed tensor of no parameter")?;
            let here = |what: String| format!("packed `{}`: {what}", param.path);
            packed.check(param).map_err(here)?;
            ensure(packed.offset >= end, || here("overlaps the one before".into()))?;
            end = packed.offset.checked_add(packed.bytes).ok_or_else(|| here("size overflow".into()))?;
            ensure(end <= self.weights_bytes, || here("leaves the blob".into()))?;
        }
        Ok(())
    }

    fn check_state(&self, state: &State) -> Checked {
        ensure(matches!(state.element_bytes, 1 | 2 | 4), || format!("elements of {} bytes", state.element_bytes))?;
        // A capacity is a multiple of `POSITIONS`: what lies behind odd values begins at a whole element all the same.
        let first = state.position_offset.saturating_mul(POSITIONS);
        let whole = [state.fixed_offset, first, state.fixed_bytes, state.position_bytes];
        ensure(whole.iter().all(|bytes| *bytes <= LIMIT && bytes % state.element_bytes == 0), || "broken elements".into())?;
        let fixed = state.fixed_offset + state.fixed_bytes;
        let position = state.position_offset + state.position_bytes;
        ensure(fixed <= self.state_fixed_bytes && position <= self.state_position_bytes, || "leaves the slot".into())?;
        // A slot is then its fixed bytes, and behind them pieces that differ between capacities in their length only.
        let behind = state.fixed_offset == self.state_fixed_bytes && state.fixed_bytes == 0;
        ensure(if state.grows() { behind } else { state.position_offset == 0 }, || "fixed and growing states are mixed".into())?;
        ensure(state.has_rows(), || "its rows do not fill it".into())
    }
}

impl State {
    /// Whether rows, parts and blocks make sense.
    fn has_rows(&self) -> bool {
        let parts = self.parts > 0 && self.parts <= LIMIT && self.block > 0 && POSITIONS.is_multiple_of(self.block);
        let divides = |size: usize, of: Option<usize>| of.is_some_and(|of| of > 0 && size.is_multiple_of(of));
        let of_parts = self.parts.checked_mul(self.element_bytes);
        let fits = match self.truncate {
            Truncate::Rows | Truncate::Keep if self.grows() => self.rows == 0 && divides(self.position_bytes, of_parts),
            Truncate::Ring { first, back } => {
                let rows = first < self.rows && back < self.rows - first && self.rows.is_multiple_of(self.block);
                rows && !self.grows() && divides(self.fixed_bytes, of_parts.and_then(|bytes| bytes.checked_mul(self.rows)))
            }
            Truncate::Rows => false,
            Truncate::Replay | Truncate::Keep => {
                let sizes = self.axes.iter().map(|(_, size)| *size).chain([self.rows]);
                let bytes = sizes.into_iter().try_fold(self.element_bytes, usize::checked_mul);
                !self.grows() && self.parts == 1 && self.block == 1 && bytes.is_some_and(|bytes| bytes <= self.fixed_bytes)
            }
        };
        parts && fits
    }
}

impl Param {
    /// How many numbers it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    fn check(&self) -> Checked {
        ensure(self.axes.len() == self.shape.len(), || "axes and shape differ in length".into())?;
        product(&self.shape)?;
        self.binding.as_ref().map_or(Ok(()), |binding| binding.check(&self.shape))
    }
}

impl Binding {
    fn check(&self, shape: &[usize]) -> Checked {
        ensure(self.strides.len() == shape.len(), || "one stride for each axis is needed".into())?;
        let tensors = match self.stacked {
            None => 1,
            Some(axis) => *shape.get(axis).ok_or("stacked along no axis")?,
        };
        ensure(self.tensors.len() == tensors, || format!("{} tensors where {tensors} are needed", self.tensors.len()))?;
        ensure(self.stacked.is_none_or(|axis| self.strides[axis] == 0), || "the stacked axis has a stride".into())?;
        for split in &self.splits {
            let size = shape.get(split.axis).filter(|_| self.stacked != Some(split.axis) && self.strides[split.axis] == 0);
            let factors: Vec<_> = split.factors.iter().map(|(size, _)| *size).collect();
            ensure(size.is_some_and(|size| product(&factors) == Ok(*size)), || {
                "an axis is not the product of its factors".into()
            })?;
        }
        let axes: Vec<_> = self.splits.iter().map(|split| split.axis).collect();
        ensure((1..axes.len()).all(|at| !axes[..at].contains(&axes[at])), || "an axis is split twice".into())?;
        let count = product(&self.shape)?;
        let mut steps = shape.iter().enumerate().flat_map(|(axis, size)| self.steps(axis, *size));
        let steps = steps.try_fold(self.offset, |last, (size, stride)| {
            stride.checked_mul(size.checked_sub(1)?).and_then(|step| last.checked_add(step))
        });
        ensure(steps.is_some_and(|last| last < count), || "reads past the checkpoint's tensor".into())
    }
}

impl Packed {
    fn check(&self, param: &Param) -> Checked {
        ensure(self.offset.is_multiple_of(ALIGN), || "not aligned".into())?;
        let mut axes = self.layout.axes();
        axes.sort_unstable();
        ensure(axes.iter().copied().eq(0..param.shape.len()), || "the layout must list each axis once".into())?;
        let needed = self.layout.bytes(&param.shape, self.dtype);
        ensure(needed.is_some_and(|needed| needed <= self.bytes), || format!("{} bytes are too few", self.bytes))
    }
}

impl Layout {
    /// All axes, slowest first.
    pub fn axes(&self) -> Vec<usize> {
        match self {
            Self::Dense(order) => order.clone(),
            Self::Panels { batch, k, n, .. } | Self::Columns { batch, k, n } => [&batch[..], n, k].concat(),
        }
    }
}

fn product(shape: &[usize]) -> Result<usize, String> {
    let count = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size)).filter(|count| *count <= LIMIT);
    count.filter(|count| *count > 0).ok_or_else(|| format!("shape {shape:?} is empty or too large"))
}

pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}
