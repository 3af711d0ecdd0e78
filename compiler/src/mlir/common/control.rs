//! Loops, branches, functions and calls.

use melior::dialect::llvm;
use melior::ir::attribute::{DenseI32ArrayAttribute, FlatSymbolRefAttribute, StringAttribute, TypeAttribute};
use melior::ir::operation::OperationBuilder;
use melior::ir::{Attribute, BlockLike, Identifier, Region, Type};

use super::emitter::{Emitter, OpParts, Val};
use super::ty::Ty;

/// Who may see a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// The module alone.
    Private,
    /// Everyone who loads the library.
    Public,
}

impl<'c> Emitter<'c> {
    /// `for iv in (lo..hi).step_by(step)` (integers of one type) with values carried from turn to turn; returns what the last turn gave.
    pub fn for_loop(
        &self,
        lo: Val<'c>,
        hi: Val<'c>,
        step: Val<'c>,
        init: &[Val<'c>],
        body: impl FnOnce(Val<'c>, &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let carried: Vec<Ty> = init.iter().map(|v| v.ty()).collect();
        let arguments: Vec<Ty> = std::iter::once(lo.ty()).chain(carried.iter().copied()).collect();
        let (region, ()) = self.region(&arguments, |values| {
            let next = body(values[0], &values[1..]);
            self.same_types("a loop's body", &next, &carried);
            self.op_none("scf.yield", &next, &[]);
        });
        let operands: Vec<Val<'c>> = [lo, hi, step].iter().chain(init).copied().collect();
        self.op_many(OpParts { name: "scf.for", operands: &operands, attributes: &[], regions: vec![region] }, &carried)
    }

    /// `for iv in 0..count` without carried values.
    pub fn repeat(&self, count: Val<'c>, body: impl FnOnce(Val<'c>)) {
        self.for_loop(self.i64(0), count, self.i64(1), &[], |iv, _| {
            body(iv);
            Vec::new()
        });
    }

    /// Does `body` on the carried values while `go_on` holds of them; returns the last ones.
    pub fn while_loop(
        &self,
        init: &[Val<'c>],
        go_on: impl FnOnce(&[Val<'c>]) -> Val<'c>,
        body: impl FnOnce(&[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let carried: Vec<Ty> = init.iter().map(|v| v.ty()).collect();
        let (before, ()) = self.region(&carried, |values| {
            let condition = go_on(values);
            let operands: Vec<Val<'c>> = std::iter::once(condition).chain(values.iter().copied()).collect();
            self.op_none("scf.condition", &operands, &[]);
        });
        let (after, ()) = self.region(&carried, |values| {
            let next = body(values);
            self.same_types("a loop's body", &next, &carried);
            self.op_none("scf.yield", &next, &[]);
        });
        self.op_many(OpParts { name: "scf.while", operands: init, attributes: &[], regions: vec![before, after] }, &carried)
    }

    fn same_types(&self, who: &str, values: &[Val<'c>], types: &[Ty]) {
        if values.len() != types.len() || values.iter().zip(types).any(|(v, ty)| v.ty() != *ty) {
            let got: Vec<String> = values.iter().map(|v| v.ty().to_string()).collect();
            let want: Vec<String> = types.iter().map(Ty::to_string).collect();
            self.fault(format!("{who} yields ({}) where ({}) is carried", got.join(", "), want.join(", ")));
        }
    }

    /// Does `then` if `condition`.
    pub fn if_then(&self, condition: Val<'c>, then: impl FnOnce()) {
        let (region, ()) = self.region(&[], |_| {
            then();
            self.op_none("scf.yield", &[], &[]);
        });
        let regions = vec![region, Region::new()];
        self.op_many(OpParts { name: "scf.if", operands: &[condition], attributes: &[], regions }, &[]);
    }

    /// The values of `then` or of `otherwise`.
    pub fn if_else(
        &self,
        condition: Val<'c>,
        then: impl FnOnce() -> Vec<Val<'c>>,
        otherwise: impl FnOnce() -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let yielding = |values: Vec<Val<'c>>| {
            self.op_none("scf.yield", &values, &[]);
            values.iter().map(|v| v.ty()).collect::<Vec<Ty>>()
        };
        let (first, types) = self.region(&[], |_| yielding(then()));
        let (second, others) = self.region(&[], |_| yielding(otherwise()));
        if types != others {
            self.fault("the two branches yield different types");
        }
        let regions = vec![first, second];
        self.op_many(OpParts { name: "scf.if", operands: &[condition], attributes: &[], regions }, &types)
    }

    fn function_type(&self, params: &[Ty], result: Option<Ty>) -> Type<'c> {
        let params: Vec<Type<'c>> = params.iter().map(|ty| ty.to_mlir(self.cx())).collect();
        let result = match result {
            Some(ty) => ty.to_mlir(self.cx()),
            None => llvm::r#type::void(self.cx()),
        };
        llvm::r#type::function(result, &params, false)
    }

    /// Defines a function; `fill` builds its body and gives the result, if it has one.
    pub fn function(
        &self,
        name: &str,
        linkage: Linkage,
        params: &[Ty],
        result: Option<Ty>,
        fill: impl FnOnce(&[Val<'c>]) -> Option<Val<'c>>,
    ) {
        let linkage = match linkage {
            Linkage::Private => "#llvm.linkage<internal>",
            Linkage::Public => "#llvm.linkage<external>",
        };
        // A GPU's functions have two or more callers, and their code is long.
        let marks =
            if self.is_device() { "[\"nounwind\", \"no-builtins\", \"noinline\"]" } else { "[\"nounwind\", \"no-builtins\"]" };
        let attributes = [("linkage", self.attribute(linkage)), ("passthrough", self.attribute(marks))];
        self.function_with(name, &attributes, (params, result), fill);
    }

    /// Defines a function with attributes of its own.
    pub(super) fn function_with(
        &self,
        name: &str,
        attributes: &[(&str, Attribute<'c>)],
        (params, result): (&[Ty], Option<Ty>),
        fill: impl FnOnce(&[Val<'c>]) -> Option<Val<'c>>,
    ) {
        let region = Region::new();
        let (entry, arguments) = self.block(&region, params);
        let (body, _) = self.block(&region, &[]);
        self.in_frame(entry, || {
            self.inside(body, || {
                let value = fill(&arguments);
                if value.map(Val::ty) != result {
                    self.fault(format!("function `{name}` returns another type than it declares"));
                }
                self.op_none("llvm.return", value.as_slice(), &[]);
            });
        });
        // Only now: constants and stack memory had to come before the jump.
        let jump = OperationBuilder::new("llvm.br", self.location()).add_successors(&[&body]).build();
        match jump {
            Ok(jump) => drop(entry.append_operation(jump)),
            Err(_) => self.fault("a jump could not be built"),
        }
        let own = [
            ("sym_name", StringAttribute::new(self.cx(), name).into()),
            ("function_type", TypeAttribute::new(self.function_type(params, result)).into()),
        ];
        self.at_module("llvm.func", &[&own[..], attributes].concat(), region);
    }

    /// Appends an operation to the module itself.
    pub(super) fn at_module(&self, name: &str, attributes: &[(&str, Attribute<'c>)], region: Region<'c>) {
        let attributes: Vec<_> = attributes.iter().map(|(name, a)| (Identifier::new(self.cx(), name), *a)).collect();
        let built =
            OperationBuilder::new(name, self.location()).add_attributes(&attributes).add_regions_vec(vec![region]).build();
        match built {
            Ok(operation) => drop(self.module_body().append_operation(operation)),
            Err(_) => self.fault(format!("`{name}` could not be built")),
        }
    }

    fn call_parts(&self, callee: Option<&str>, operands: &[Val<'c>], result: Option<Ty>) -> Option<Val<'c>> {
        let segments = DenseI32ArrayAttribute::new(self.cx(), &[operands.len() as i32, 0]).into();
        let mut attributes = vec![("operandSegmentSizes", segments), ("op_bundle_sizes", self.attribute("array<i32>"))];
        if let Some(name) = callee {
            attributes.push(("callee", FlatSymbolRefAttribute::new(self.cx(), name).into()));
        }
        let parts = OpParts { name: "llvm.call", operands, attributes: &attributes, regions: Vec::new() };
        self.op_many(parts, result.as_slice()).first().copied()
    }

    /// Calls a function of the module; gives its result, if it has one.
    pub fn call(&self, name: &str, arguments: &[Val<'c>], result: Option<Ty>) -> Option<Val<'c>> {
        self.call_parts(Some(name), arguments, result)
    }

    /// Calls what `function` points to.
    pub fn call_indirect(&self, function: Val<'c>, arguments: &[Val<'c>], result: Option<Ty>) -> Option<Val<'c>> {
        let operands: Vec<Val<'c>> = std::iter::once(function).chain(arguments.iter().copied()).collect();
        self.call_parts(None, &operands, result)
    }
}
