//! Constant tables and addresses of symbols.

use melior::dialect::llvm;
use melior::ir::attribute::{
    DenseElementsAttribute, DenseI64ArrayAttribute, FlatSymbolRefAttribute, IntegerAttribute, StringAttribute, TypeAttribute,
};
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::RankedTensorType;
use melior::ir::{Attribute, Block, BlockLike, Identifier, Region, RegionLike, Type, Value};

use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

impl<'c> Emitter<'c> {
    /// The address of a function or table of the module.
    pub fn address_of(&self, symbol: &str) -> Val<'c> {
        let name = FlatSymbolRefAttribute::new(self.cx(), symbol).into();
        self.op("llvm.mlir.addressof", &[], &[("global_name", name)], Ty::PTR)
    }

    fn global(&self, name: &str, array: Type<'c>, value: Option<Attribute<'c>>, region: Region<'c>) {
        let mut attributes = vec![
            ("sym_name", StringAttribute::new(self.cx(), name).into()),
            ("global_type", TypeAttribute::new(array).into()),
            ("linkage", self.attribute("#llvm.linkage<internal>")),
            ("constant", self.attribute("unit")),
            ("addr_space", self.attribute("0 : i32")),
            ("alignment", IntegerAttribute::new(Ty::I64.to_mlir(self.cx()), 64).into()),
        ];
        attributes.extend(value.map(|value| ("value", value)));
        self.at_module("llvm.mlir.global", &attributes, region);
    }

    fn array_type(&self, elem: Elem, len: usize) -> Type<'c> {
        llvm::r#type::array(Ty::scalar(elem).to_mlir(self.cx()), len as u32)
    }

    fn tensor_type(&self, elem: Elem, len: usize) -> Type<'c> {
        RankedTensorType::new(&[len as u64], Ty::scalar(elem).to_mlir(self.cx()), None).into()
    }

    /// Defines a constant table of 64-bit integers.
    pub fn table_i64(&self, name: &str, values: &[i64]) {
        let dense = DenseElementsAttribute::i64_values(self.tensor_type(Elem::I64, values.len()), values);
        self.global(name, self.array_type(Elem::I64, values.len()), Some(dense.into()), Region::new());
    }

    /// Defines a constant table of 32-bit integers.
    pub fn table_i32(&self, name: &str, values: &[i32]) {
        let dense = DenseElementsAttribute::i32_values(self.tensor_type(Elem::I32, values.len()), values);
        self.global(name, self.array_type(Elem::I32, values.len()), Some(dense.into()), Region::new());
    }

    /// Defines a constant table of double-precision numbers.
    pub fn table_f64(&self, name: &str, values: &[f64]) {
        let dense = DenseElementsAttribute::f64_values(self.tensor_type(Elem::F64, values.len()), values);
        self.global(name, self.array_type(Elem::F64, values.len()), Some(dense.into()), Region::new());
    }

    /// Defines a constant table of addresses of functions.
    pub fn table_functions(&self, name: &str, functions: &[&str]) {
        let array = self.array_type(Elem::Ptr, functions.len());
        let region = Region::new();
        let block = region.append_block(Block::new(&[]));
        let append =
            |name: &str, operands: &[Value<'c, '_>], attribute: Option<(&str, Attribute<'c>)>, result: Option<Type<'c>>| {
                let attribute: Vec<_> = attribute.map(|(name, a)| (Identifier::new(self.cx(), name), a)).into_iter().collect();
                let built = OperationBuilder::new(name, self.location())
                    .add_operands(operands)
                    .add_attributes(&attribute)
                    .add_results(result.as_slice())
                    .build();
                built.ok().map(|operation| block.append_operation(operation))
            };
        let first = |op: Option<melior::ir::OperationRef<'c, '_>>| {
            let value = op.and_then(|op| op.result(0).ok()).map(|r| Val::new(r.into(), Ty::PTR).raw);
            if value.is_none() {
                self.fault("a table of functions could not be built");
            }
            value
        };
        let mut table = first(append("llvm.mlir.poison", &[], None, Some(array)));
        for (i, function) in functions.iter().enumerate() {
            let symbol = FlatSymbolRefAttribute::new(self.cx(), function).into();
            let address =
                first(append("llvm.mlir.addressof", &[], Some(("global_name", symbol)), Some(Ty::PTR.to_mlir(self.cx()))));
            let (Some(so_far), Some(address)) = (table, address) else { return };
            let position = DenseI64ArrayAttribute::new(self.cx(), &[i as i64]).into();
            table = first(append("llvm.insertvalue", &[so_far, address], Some(("position", position)), Some(array)));
        }
        if let Some(table) = table {
            append("llvm.return", &[table], None, None);
        }
        self.global(name, array, None, region);
    }
}
