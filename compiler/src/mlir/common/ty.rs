//! Types of values in kernels.

use melior::Context;
use melior::dialect::llvm;
use melior::ir::Type;
use melior::ir::r#type::IntegerType;

/// The type of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Elem {
    I1,
    I8,
    I16,
    I32,
    I64,
    Bf16,
    F16,
    F32,
    F64,
    Ptr,
    /// An address in a GPU's memory.
    Global,
    /// An address in the shared memory of a block of threads.
    Shared,
    /// The same, as blocks that share their memory know it.
    Cluster,
}

impl Elem {
    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        match self {
            Elem::I1 | Elem::I8 => 1,
            Elem::I16 | Elem::Bf16 | Elem::F16 => 2,
            Elem::I32 | Elem::F32 => 4,
            Elem::I64 | Elem::F64 | Elem::Ptr | Elem::Global | Elem::Shared | Elem::Cluster => 8,
        }
    }

    /// Whether arithmetic on it is that of real numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Elem::Bf16 | Elem::F16 | Elem::F32 | Elem::F64)
    }

    /// Whether it is an address.
    pub fn is_address(self) -> bool {
        matches!(self, Elem::Ptr | Elem::Global | Elem::Shared | Elem::Cluster)
    }

    /// Whether arithmetic on it is that of (signed) integers.
    pub fn is_int(self) -> bool {
        matches!(self, Elem::I1 | Elem::I8 | Elem::I16 | Elem::I32 | Elem::I64)
    }

    fn to_mlir(self, context: &Context) -> Type<'_> {
        match self {
            Elem::I1 => IntegerType::new(context, 1).into(),
            Elem::I8 => IntegerType::new(context, 8).into(),
            Elem::I16 => IntegerType::new(context, 16).into(),
            Elem::I32 => IntegerType::new(context, 32).into(),
            Elem::I64 => IntegerType::new(context, 64).into(),
            Elem::Bf16 => Type::bfloat16(context),
            Elem::F16 => Type::float16(context),
            Elem::F32 => Type::float32(context),
            Elem::F64 => Type::float64(context),
            Elem::Ptr => llvm::r#type::pointer(context, 0),
            Elem::Global => llvm::r#type::pointer(context, 1),
            Elem::Shared => llvm::r#type::pointer(context, 3),
            Elem::Cluster => llvm::r#type::pointer(context, 7),
        }
    }
}

/// A scalar (`lanes == 1`) or a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ty {
    /// The type of one lane.
    pub elem: Elem,
    /// How many lanes; 1 is a scalar.
    pub lanes: usize,
}

impl Ty {
    /// A truth value.
    pub const BOOL: Ty = Ty::scalar(Elem::I1);
    /// A 32-bit integer.
    pub const I32: Ty = Ty::scalar(Elem::I32);
    /// A 64-bit integer: sizes, offsets, loop counters.
    pub const I64: Ty = Ty::scalar(Elem::I64);
    /// A single-precision number.
    pub const F32: Ty = Ty::scalar(Elem::F32);
    /// An address.
    pub const PTR: Ty = Ty::scalar(Elem::Ptr);

    /// One lane.
    pub const fn scalar(elem: Elem) -> Ty {
        Ty { elem, lanes: 1 }
    }

    /// `lanes` lanes; one lane is a scalar.
    pub const fn vector(elem: Elem, lanes: usize) -> Ty {
        Ty { elem, lanes }
    }

    /// `lanes` single-precision numbers.
    pub const fn f32(lanes: usize) -> Ty {
        Ty::vector(Elem::F32, lanes)
    }

    /// `lanes` 32-bit integers.
    pub const fn i32(lanes: usize) -> Ty {
        Ty::vector(Elem::I32, lanes)
    }

    /// `lanes` truth values.
    pub const fn bool(lanes: usize) -> Ty {
        Ty::vector(Elem::I1, lanes)
    }

    /// The same lanes of another element type.
    pub const fn with(self, elem: Elem) -> Ty {
        Ty { elem, lanes: self.lanes }
    }

    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        self.elem.bytes() * self.lanes
    }

    pub(super) fn to_mlir(self, context: &Context) -> Type<'_> {
        let elem = self.elem.to_mlir(context);
        if self.lanes == 1 { elem } else { Type::vector(&[self.lanes as u64], elem) }
    }
}

impl std::fmt::Display for Ty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let elem = format!("{:?}", self.elem).to_lowercase();
        if self.lanes == 1 { f.write_str(&elem) } else { write!(f, "{}x{elem}", self.lanes) }
    }
}
