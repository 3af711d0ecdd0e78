//! How the numbers of a checkpoint's tensor are stored: one by one, or in blocks that share their scales.

/// Storage of a tensor in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Kind {
    F32,
    F16,
    Bf16,
    /// e4m3, with scales in a tensor of its own.
    F8,
    I64,
    I32,
    /// Numbers in blocks that share scales.
    Block(Block),
    /// Known to the format, but nothing here reads it: so many elements in so many bytes.
    Other(&'static str, (usize, usize)),
}

/// The block types that can be read. The names are those of the GGUF format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types, reason = "the names are the types")]
pub enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Block {
    /// Elements of one block, and its bytes.
    pub const fn size(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
        }
    }
}

impl Kind {
    /// The types of the safetensors format.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "I64" => Self::I64,
            "I32" => Self::I32,
            "F64" => Self::Other("F64", (1, 8)),
            "U64" => Self::Other("U64", (1, 8)),
            "U32" => Self::Other("U32", (1, 4)),
            "I16" => Self::Other("I16", (1, 2)),
            "U16" => Self::Other("U16", (1, 2)),
            "I8" => Self::Other("I8", (1, 1)),
            "U8" => Self::Other("U8", (1, 1)),
            "BOOL" => Self::Other("BOOL", (1, 1)),
            "F8_E4M3" => Self::F8,
            "F8_E5M2" => Self::Other("F8_E5M2", (1, 1)),
            "F8_E8M0" => Self::Other("F8_E8M0", (1, 1)),
            _ => return None,
        })
    }

    /// The types of the GGUF format, by their numbers.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        let other = |name, elements, bytes| Self::Other(name, (elements, bytes));
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Block(Block::Q4_0),
            3 => Self::Block(Block::Q4_1),
            6 => Self::Block(Block::Q5_0),
            7 => Self::Block(Block::Q5_1),
            8 => Self::Block(Block::Q8_0),
            9 => other("Q8_1", 32, 36),
            10 => other("Q2_K", 256, 84),
            11 => other("Q3_K", 256, 110),
            12 => Self::Block(Block::Q4_K),
            13 => Self::Block(Block::Q5_K),
            14 => Self::Block(Block::Q6_K),
            15 => other("Q8_K", 256, 292),
            16 => other("IQ2_XXS", 256, 66),
            17 => other("IQ2_XS", 256, 74),
            18 => other("IQ3_XXS", 256, 98),
            19 => other("IQ1_S", 256, 50),
            20 => other("IQ4_NL", 32, 18),
            21 => other("IQ3_S", 256, 110),
            22 => other("IQ2_S", 256, 82),
            23 => other("IQ4_XS", 256, 136),
            24 => other("I8", 1, 1),
            25 => other("I16", 1, 2),
            26 => Self::I32,
            27 => Self::I64,
            28 => other("F64", 1, 8),
            29 => other("IQ1_M", 256, 56),
            30 => Self::Bf16,
            34 => other("TQ1_0", 256, 54),
            35 => other("TQ2_0", 256, 66),
            39 => other("MXFP4", 32, 17),
            _ => return None,
        })
    }

    /// Elements that are stored together, and the bytes that they take.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::I64 => (1, 8),
            Self::F32 | Self::I32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::F8 => (1, 1),
            Self::Block(block) => block.size(),
            Self::Other(_, size) => size,
        }
    }

    /// Bytes of a tensor of this shape, row-major; `None` if that is no size, or if a row does not consist of whole blocks.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let (elements, bytes) = self.block();
        let whole = elements == 1 || shape.last().is_some_and(|row| row.is_multiple_of(elements));
        let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).filter(|_| whole)?;
        (count / elements).checked_mul(bytes)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::F32 => out.write_str("F32"),
            Self::F16 => out.write_str("F16"),
            Self::Bf16 => out.write_str("BF16"),
            Self::F8 => out.write_str("F8_E4M3"),
            Self::I64 => out.write_str("I64"),
            Self::I32 => out.write_str("I32"),
            Self::Block(block) => write!(out, "{block:?}"),
            Self::Other(name, _) => out.write_str(name),
        }
    }
}
