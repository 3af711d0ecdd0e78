//! The builder: where it stands, how it appends, and constants.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use melior::dialect::llvm;
use melior::ir::attribute::{DenseElementsAttribute, DenseI64ArrayAttribute, FloatAttribute, IntegerAttribute};
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationBuilder, OperationLike};
use melior::ir::{Attribute, Block, BlockRef, Identifier, Location, Region, RegionLike, Type, Value, ValueLike};

use super::Context;
use super::lower::Module;
use super::ty::{Elem, Ty};
use crate::error::Error;

/// A value in a function that is being built. It may be used where it dominates, as in any SSA form.
#[derive(Clone, Copy)]
pub struct Val<'c> {
    pub(super) raw: Value<'c, 'c>,
    ty: Ty,
}

impl<'c> Val<'c> {
    /// Its type.
    pub fn ty(self) -> Ty {
        self.ty
    }

    /// Its lanes; 1 is a scalar.
    pub fn lanes(self) -> usize {
        self.ty.lanes
    }

    /// The type of its lanes.
    pub fn elem(self) -> Elem {
        self.ty.elem
    }

    pub(super) fn new(value: Value<'c, '_>, ty: Ty) -> Self {
        // SAFETY: only the lifetime of the parent changes. Values die with the operation or block that defines them; the emitter
        // never erases one, the module owns all of them once finished, and nothing but an emitter reads `raw`.
        Val { raw: unsafe { Value::from_raw(value.to_raw()) }, ty }
    }
}

/// A block whose owner is, or soon will be, a region of the module. See [`Val::new`] for why the lifetime may be forgotten.
pub(super) fn forget_owner<'c>(block: BlockRef<'c, '_>) -> BlockRef<'c, 'c> {
    // SAFETY: as above: blocks that the emitter made are never erased while it lives.
    unsafe { BlockRef::from_raw(BlockLike::to_raw(&block)) }
}

/// Which constant: type and bits.
type ConstantKey = (Ty, u64);

/// One function in work. Constants and stack memory go to its entry block, which jumps to the body.
struct Frame<'c> {
    entry: BlockRef<'c, 'c>,
    constants: HashMap<ConstantKey, Val<'c>>,
}

struct State<'c> {
    frames: Vec<Frame<'c>>,
    blocks: Vec<BlockRef<'c, 'c>>,
    attributes: HashMap<&'static str, Attribute<'c>>,
    faults: Vec<String>,
    shared: HashSet<String>,
}

/// Appends operations to a module. All methods take `&self`, so that calls nest: `e.add(e.mul(a, b), c)`.
pub struct Emitter<'c> {
    context: &'c Context,
    module: Module<'c>,
    state: RefCell<State<'c>>,
    device: bool,
    groups: bool,
    pub(super) scales: bool,
}

impl<'c> Emitter<'c> {
    /// An emitter of an empty module for a GPU; `groups`: its matrix units work for groups of four warps.
    pub fn for_device(context: &'c Context, groups: bool) -> Self {
        Emitter { device: true, groups, ..Emitter::new(context) }
    }

    /// Whether matrix units work for groups of four warps.
    pub fn has_groups(&self) -> bool {
        self.groups
    }

    /// Whether the code is for a GPU.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// An emitter of an empty module for a CPU, any of its kind.
    pub fn new(context: &'c Context) -> Self {
        let state = State {
            frames: Vec::new(),
            blocks: Vec::new(),
            attributes: HashMap::new(),
            faults: Vec::new(),
            shared: HashSet::new(),
        };
        Emitter { context, module: Module::new(context), state: RefCell::new(state), device: false, groups: false, scales: false }
    }

    /// The module, verified.
    pub fn finish(self) -> Result<Module<'c>, Error> {
        match self.state.into_inner().faults.first() {
            Some(what) => Err(Error::bug("mlir", what)),
            None => self.module.verified(),
        }
    }

    /// Remembers a wrong use; the first one is what [`Emitter::finish`] returns.
    pub fn fault(&self, what: impl Into<String>) {
        self.state.borrow_mut().faults.push(what.into());
    }

    /// A value that means nothing, for going on after a fault or as a vector to fill.
    pub fn poison(&self, ty: Ty) -> Val<'c> {
        self.op("llvm.mlir.poison", &[], &[], ty)
    }

    // ---- operations ---------------------------------------------------------------------------------------------

    pub(super) fn cx(&self) -> &'c melior::Context {
        self.context.raw()
    }

    pub(super) fn location(&self) -> Location<'c> {
        Location::unknown(self.cx())
    }

    /// Appends an operation with any number of results.
    pub(super) fn op_many(&self, parts: OpParts<'_, 'c>, results: &[Ty]) -> Vec<Val<'c>> {
        let block = match self.state.borrow().blocks.last() {
            Some(block) => *block,
            None => return self.outside(parts.name, results),
        };
        self.op_in(block, parts, results)
    }

    fn outside(&self, name: &str, _: &[Ty]) -> Vec<Val<'c>> {
        self.fault(format!("`{name}` stands outside of a function"));
        Vec::new()
    }

    fn op_in(&self, block: BlockRef<'c, 'c>, parts: OpParts<'_, 'c>, results: &[Ty]) -> Vec<Val<'c>> {
        let types: Vec<Type<'c>> = results.iter().map(|ty| ty.to_mlir(self.cx())).collect();
        self.op_typed(block, parts, &types, results)
    }

    /// Appends an operation whose result is a structure of scalars, and takes them out.
    pub(super) fn op_members(
        &self,
        name: &str,
        operands: &[Val<'c>],
        attributes: &[(&str, Attribute<'c>)],
        members: &[Ty],
    ) -> Vec<Val<'c>> {
        self.members(self.op_whole(name, operands, attributes, members), members)
    }

    /// The same without taking them out. A structure has no type of ours: only [`Emitter::members`] and operations that take
    /// structures may see it.
    pub(super) fn op_whole(
        &self,
        name: &str,
        operands: &[Val<'c>],
        attributes: &[(&str, Attribute<'c>)],
        members: &[Ty],
    ) -> Val<'c> {
        let types: Vec<Type<'c>> = members.iter().map(|ty| ty.to_mlir(self.cx())).collect();
        let whole = llvm::r#type::r#struct(self.cx(), &types, false);
        let parts = OpParts { name, operands, attributes, regions: Vec::new() };
        let block = self.state.borrow().blocks.last().copied();
        let made = match block {
            Some(block) => self.op_typed(block, parts, &[whole], &[Ty::I32]),
            None => self.outside(name, members),
        };
        made.first().copied().unwrap_or_else(|| self.stand_in(Ty::I32))
    }

    /// The members of a structure.
    pub(super) fn members(&self, whole: Val<'c>, members: &[Ty]) -> Vec<Val<'c>> {
        let member = |(at, ty): (usize, &Ty)| {
            let position = DenseI64ArrayAttribute::new(self.cx(), &[at as i64]).into();
            self.op("llvm.extractvalue", &[whole], &[("position", position)], *ty)
        };
        members.iter().enumerate().map(member).collect()
    }

    /// A structure of some values.
    pub(super) fn whole_of(&self, values: &[Val<'c>]) -> Val<'c> {
        let members: Vec<Ty> = values.iter().map(|value| value.ty()).collect();
        let empty = self.op_whole("llvm.mlir.poison", &[], &[], &members);
        values.iter().enumerate().fold(empty, |whole, (at, value)| {
            let position = DenseI64ArrayAttribute::new(self.cx(), &[at as i64]).into();
            self.op_whole("llvm.insertvalue", &[whole, *value], &[("position", position)], &members)
        })
    }

    fn op_typed(&self, block: BlockRef<'c, 'c>, parts: OpParts<'_, 'c>, types: &[Type<'c>], results: &[Ty]) -> Vec<Val<'c>> {
        let operands: Vec<Value<'c, 'c>> = parts.operands.iter().map(|v| v.raw).collect();
        let attributes: Vec<_> = parts.attributes.iter().map(|(name, a)| (Identifier::new(self.cx(), name), *a)).collect();
        let built = OperationBuilder::new(parts.name, self.location())
            .add_operands(&operands)
            .add_attributes(&attributes)
            .add_regions_vec(parts.regions)
            .add_results(types)
            .build();
        let Ok(operation) = built else {
            self.fault(format!("`{}` could not be built", parts.name));
            return Vec::new();
        };
        let operation = block.append_operation(operation);
        operation.results().zip(results).map(|(value, ty)| Val::new(value.into(), *ty)).collect()
    }

    /// Appends an operation with one result.
    pub(super) fn op(&self, name: &str, operands: &[Val<'c>], attributes: &[(&str, Attribute<'c>)], result: Ty) -> Val<'c> {
        let values = self.op_many(OpParts { name, operands, attributes, regions: Vec::new() }, &[result]);
        values.first().copied().unwrap_or_else(|| self.stand_in(result))
    }

    /// Appends an operation without results.
    pub(super) fn op_none(&self, name: &str, operands: &[Val<'c>], attributes: &[(&str, Attribute<'c>)]) {
        self.op_many(OpParts { name, operands, attributes, regions: Vec::new() }, &[]);
    }

    /// A value for going on after an operation failed to build; the module will not be returned.
    fn stand_in(&self, ty: Ty) -> Val<'c> {
        let block = Box::leak(Box::new(Block::new(&[(ty.to_mlir(self.cx()), self.location())])));
        // The block has the one argument just asked for; it is leaked because nothing owns it.
        let argument = block.argument(0).expect("a block has the arguments that it was made with");
        Val::new(argument.into(), ty)
    }

    /// An attribute from its text, parsed once.
    pub(super) fn attribute(&self, text: &'static str) -> Attribute<'c> {
        if let Some(found) = self.state.borrow().attributes.get(text) {
            return *found;
        }
        let parsed = Attribute::parse(self.cx(), text).unwrap_or_else(|| {
            self.fault(format!("attribute `{text}` does not parse"));
            Attribute::unit(self.cx())
        });
        self.state.borrow_mut().attributes.insert(text, parsed);
        parsed
    }

    /// An attribute from a text that is not fixed.
    pub(super) fn attribute_of(&self, text: String) -> Attribute<'c> {
        Attribute::parse(self.cx(), &text).unwrap_or_else(|| {
            self.fault(format!("attribute `{text}` does not parse"));
            Attribute::unit(self.cx())
        })
    }

    pub(super) fn i32_attribute(&self, value: i64) -> Attribute<'c> {
        IntegerAttribute::new(Ty::I32.to_mlir(self.cx()), value).into()
    }

    pub(super) fn i64_attribute(&self, value: i64) -> Attribute<'c> {
        IntegerAttribute::new(Ty::I64.to_mlir(self.cx()), value).into()
    }

    // ---- places -------------------------------------------------------------------------------------------------

    /// Builds a block with arguments by `fill` and returns the region around it.
    pub(super) fn region<R>(&self, arguments: &[Ty], fill: impl FnOnce(&[Val<'c>]) -> R) -> (Region<'c>, R) {
        let region = Region::new();
        let (block, values) = self.block(&region, arguments);
        let result = self.inside(block, || fill(&values));
        (region, result)
    }

    pub(super) fn block(&self, region: &Region<'c>, arguments: &[Ty]) -> (BlockRef<'c, 'c>, Vec<Val<'c>>) {
        let types: Vec<_> = arguments.iter().map(|ty| (ty.to_mlir(self.cx()), self.location())).collect();
        let block = forget_owner(region.append_block(Block::new(&types)));
        let values = arguments.iter().enumerate().filter_map(|(i, ty)| Some(Val::new(block.argument(i).ok()?.into(), *ty)));
        (block, values.collect())
    }

    /// Appends to `block` while `fill` runs.
    pub(super) fn inside<R>(&self, block: BlockRef<'c, 'c>, fill: impl FnOnce() -> R) -> R {
        self.state.borrow_mut().blocks.push(block);
        let result = fill();
        self.state.borrow_mut().blocks.pop();
        result
    }

    /// Starts a function whose constants live in `entry`.
    pub(super) fn in_frame<R>(&self, entry: BlockRef<'c, 'c>, fill: impl FnOnce() -> R) -> R {
        self.state.borrow_mut().frames.push(Frame { entry, constants: HashMap::new() });
        let result = fill();
        self.state.borrow_mut().frames.pop();
        result
    }

    /// Appends to the entry block of the current function.
    pub(super) fn at_entry<R>(&self, fill: impl FnOnce() -> R) -> Option<R> {
        let entry = self.state.borrow().frames.last()?.entry;
        Some(self.inside(entry, fill))
    }

    pub(super) fn module_body(&self) -> BlockRef<'c, '_> {
        self.module.body()
    }

    /// Whether this is the first request for what is shared by that name: whoever asks first defines it.
    pub fn first_time(&self, name: &str) -> bool {
        self.state.borrow_mut().shared.insert(name.to_owned())
    }

    // ---- constants ----------------------------------------------------------------------------------------------

    fn constant(&self, ty: Ty, bits: u64, attribute: impl FnOnce() -> Attribute<'c>) -> Val<'c> {
        let known = self.state.borrow().frames.last().and_then(|frame| frame.constants.get(&(ty, bits)).copied());
        if let Some(value) = known {
            return value;
        }
        let element = attribute();
        let value = match ty.lanes {
            1 => element,
            _ => DenseElementsAttribute::splat(ty.to_mlir(self.cx()), element).into(),
        };
        let made = self.at_entry(|| self.op("arith.constant", &[], &[("value", value)], ty));
        let made = made.unwrap_or_else(|| self.op("arith.constant", &[], &[("value", value)], ty));
        if let Some(frame) = self.state.borrow_mut().frames.last_mut() {
            frame.constants.insert((ty, bits), made);
        }
        made
    }

    /// An integer (any width) or its splat.
    pub fn int(&self, ty: Ty, value: i64) -> Val<'c> {
        self.constant(ty, value as u64, || IntegerAttribute::new(Ty::scalar(ty.elem).to_mlir(self.cx()), value).into())
    }

    /// A 64-bit integer.
    pub fn i64(&self, value: impl TryInto<i64>) -> Val<'c> {
        let value = value.try_into().unwrap_or_else(|_| {
            self.fault("a constant does not fit 64 bits");
            0
        });
        self.int(Ty::I64, value)
    }

    /// A 32-bit integer.
    pub fn i32(&self, value: i32) -> Val<'c> {
        self.int(Ty::I32, i64::from(value))
    }

    /// A single-precision number.
    pub fn f32(&self, value: f32) -> Val<'c> {
        self.float(Ty::F32, f64::from(value))
    }

    /// A truth value.
    pub fn bool(&self, value: bool) -> Val<'c> {
        self.int(Ty::BOOL, i64::from(value))
    }

    /// A real number of any float type, or its splat.
    pub fn float(&self, ty: Ty, value: f64) -> Val<'c> {
        let scalar = Ty::scalar(ty.elem).to_mlir(self.cx());
        self.constant(ty, value.to_bits(), || FloatAttribute::new(self.cx(), scalar, value).into())
    }

    /// `value` in the type of `x`; the way to write formulas that work on every type.
    pub fn like(&self, x: Val<'c>, value: f64) -> Val<'c> {
        self.constant_of(x.ty(), value)
    }

    /// `value` in type `ty`; truncated if that is an integer.
    pub fn constant_of(&self, ty: Ty, value: f64) -> Val<'c> {
        if ty.elem.is_float() { self.float(ty, value) } else { self.int(ty, value as i64) }
    }

    /// The null address.
    pub fn null(&self) -> Val<'c> {
        let zero = || self.op("llvm.mlir.zero", &[], &[], Ty::PTR);
        self.at_entry(zero).unwrap_or_else(zero)
    }
}

/// What an operation is made of, but its results.
pub(super) struct OpParts<'a, 'c> {
    pub(super) name: &'a str,
    pub(super) operands: &'a [Val<'c>],
    pub(super) attributes: &'a [(&'a str, Attribute<'c>)],
    pub(super) regions: Vec<Region<'c>>,
}
