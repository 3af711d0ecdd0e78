//! What lanes compute alone: from bits to bits.

use half::bf16;

/// Up to four operands to a result.
pub type Pure = fn([u64; 4]) -> u64;

/// Bytes of a type.
pub fn bytes(kind: &str) -> Result<usize, String> {
    let bits = kind.trim_start_matches(|c: char| !c.is_ascii_digit());
    bits.parse::<usize>().map(|bits| bits / 8).map_err(|_| format!("`{kind}` is no type"))
}

/// A number as PTX writes it.
pub fn literal(text: &str) -> Option<u64> {
    if let Some(bits) = text.strip_prefix("0f") {
        return u64::from_str_radix(bits, 16).ok();
    }
    if let Some(bits) = text.strip_prefix("0d") {
        return u64::from_str_radix(bits, 16).ok();
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits.trim_end_matches('U'), 16).ok();
    }
    text.parse::<i64>().map(|n| n as u64).ok().or_else(|| text.parse().ok())
}

pub fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn unordered(a: u64, b: u64) -> bool {
    single(a).is_nan() || single(b).is_nan()
}

pub fn bits(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// The result of arithmetic: of all that are no number a GPU makes one.
fn made(x: f32) -> u64 {
    if x.is_nan() { 0x7FFF_FFFF } else { bits(x) }
}

/// To the nearest of ten bits behind the point, ties away from zero; what is no number stays none.
fn tf32([x, ..]: [u64; 4]) -> u64 {
    if single(x).is_nan() { 0x7FFF_FFFF } else { low(x).wrapping_add(0x1000) & !0x1FFF }
}

fn double(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn low(x: u64) -> u64 {
    x & 0xFFFF_FFFF
}

fn s(x: u64) -> i32 {
    x as u32 as i32
}

fn of(x: i32) -> u64 {
    u64::from(x as u32)
}

/// Bits `from` to `from + count`.
fn field([x, from, count, _]: [u64; 4]) -> u64 {
    x.checked_shr(from as u32).unwrap_or(0) & if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The same of 32 bits, the highest of them as the sign.
fn signed_field([x, from, count, _]: [u64; 4]) -> u64 {
    let (count, own) = (count.min(32) as u32, field([low(x), from, count, 0]));
    if count == 0 { 0 } else { of((own << (32 - count)) as i32 >> (32 - count)) }
}

/// The same of two words.
fn signed_wide_field([x, from, count, _]: [u64; 4]) -> u64 {
    let (count, own) = (count.min(64) as u32, field([x, from, count, 0]));
    if count == 0 { 0 } else { ((own << (64 - count)) as i64 >> (64 - count)) as u64 }
}

/// Four bytes of the eight of two words, each picked by four bits, of which the highest asks for its sign alone.
fn picked([a, b, picks, _]: [u64; 4]) -> u64 {
    let bytes = (low(a) | low(b) << 32).to_le_bytes();
    let byte = |at: u64| {
        let pick = picks >> (4 * at) & 15;
        let byte = bytes[(pick & 7) as usize];
        u64::from(if pick & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte })
    };
    (0..4).fold(0, |word, at| word | byte(at) << (8 * at))
}

/// Two halves of a word times two bytes, added to a sum.
fn dotted(a: u64, b: u64, c: u64) -> u64 {
    let product = |at: u32| i32::from((a >> (16 * at)) as i16) * i32::from((b >> (8 * at)) as i8);
    of(s(c).wrapping_add(product(0)).wrapping_add(product(1)))
}

macro_rules! float {
    ($op:expr) => {
        |[a, b, c, _]| {
            let f: fn(f32, f32, f32) -> f32 = $op;
            made(f(single(a), single(b), single(c)))
        }
    };
}

macro_rules! wide {
    ($op:expr) => {
        |[a, b, c, _]| {
            let f: fn(f64, f64, f64) -> f64 = $op;
            f(double(a), double(b), double(c)).to_bits()
        }
    };
}

/// The function of an opcode.
pub fn find(opcode: &str) -> Option<Pure> {
    let parts: Vec<&str> = opcode.split('.').collect();
    match parts[0] {
        "setp" => compared(parts[1], parts[2]),
        "cvt" => converted(opcode),
        "cvta" => Some(|[a, ..]| a),
        "selp" => Some(|[a, b, p, _]| if p != 0 { a } else { b }),
        _ => integer(opcode).or_else(|| real(opcode)),
    }
}

fn integer(opcode: &str) -> Option<Pure> {
    Some(match opcode {
        "mov.b64" | "mov.u64" | "mov.pred" => |[a, ..]| a,
        "mov.b32" | "mov.u32" => |[a, ..]| low(a),
        "mov.b16" | "mov.u16" => |[a, ..]| a & 0xFFFF,
        "add.s64" | "add.u64" => |[a, b, ..]| a.wrapping_add(b),
        "add.s32" | "add.u32" => |[a, b, ..]| low(a.wrapping_add(b)),
        "add.s16" | "add.u16" => |[a, b, ..]| a.wrapping_add(b) & 0xFFFF,
        "sub.s64" | "sub.u64" => |[a, b, ..]| a.wrapping_sub(b),
        "sub.s32" | "sub.u32" => |[a, b, ..]| low(a.wrapping_sub(b)),
        "sub.s16" | "sub.u16" => |[a, b, ..]| a.wrapping_sub(b) & 0xFFFF,
        "mul.lo.s64" | "mul.lo.u64" => |[a, b, ..]| a.wrapping_mul(b),
        "mul.lo.s32" | "mul.lo.u32" => |[a, b, ..]| low(a.wrapping_mul(b)),
        "div.u16" => |[a, b, ..]| (a & 0xFFFF).checked_div(b & 0xFFFF).unwrap_or(0xFFFF),
        "rem.u16" => |[a, b, ..]| (a & 0xFFFF).checked_rem(b & 0xFFFF).unwrap_or(a & 0xFFFF),
        "mad.lo.s16" | "mad.lo.u16" => |[a, b, c, _]| a.wrapping_mul(b).wrapping_add(c) & 0xFFFF,
        "mul.lo.s16" | "mul.lo.u16" => |[a, b, ..]| a.wrapping_mul(b) & 0xFFFF,
        "mul.hi.s64" => |[a, b, ..]| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64,
        "mul.hi.u64" => |[a, b, ..]| ((u128::from(a) * u128::from(b)) >> 64) as u64,
        "mul.hi.u32" => |[a, b, ..]| (low(a) * low(b)) >> 32,
        "mul.hi.s32" => |[a, b, ..]| low(((i64::from(s(a)) * i64::from(s(b))) >> 32) as u64),
        "mul.hi.u16" => |[a, b, ..]| ((a & 0xFFFF) * (b & 0xFFFF)) >> 16,
        "mul.wide.u32" => |[a, b, ..]| low(a) * low(b),
        "mul.wide.s32" => |[a, b, ..]| (i64::from(s(a)) * i64::from(s(b))) as u64,
        "mul.wide.u16" => |[a, b, ..]| (a & 0xFFFF) * (b & 0xFFFF),
        "mul.wide.s16" => |[a, b, ..]| of(i32::from(a as i16) * i32::from(b as i16)),
        "mad.lo.s64" | "mad.lo.u64" => |[a, b, c, _]| a.wrapping_mul(b).wrapping_add(c),
        "mad.lo.s32" | "mad.lo.u32" => |[a, b, c, _]| low(a.wrapping_mul(b).wrapping_add(c)),
        "mad.wide.u32" => |[a, b, c, _]| (low(a) * low(b)).wrapping_add(c),
        "mad.wide.s32" => |[a, b, c, _]| ((i64::from(s(a)) * i64::from(s(b))) as u64).wrapping_add(c),
        "div.s64" => |[a, b, ..]| (a as i64).checked_div(b as i64).unwrap_or(-1) as u64,
        "div.u64" => |[a, b, ..]| a.checked_div(b).unwrap_or(u64::MAX),
        "div.s32" => |[a, b, ..]| of(s(a).checked_div(s(b)).unwrap_or(-1)),
        "div.u32" => |[a, b, ..]| low(low(a).checked_div(low(b)).unwrap_or(u64::MAX)),
        "rem.s64" => |[a, b, ..]| (a as i64).checked_rem(b as i64).unwrap_or(a as i64) as u64,
        "rem.u64" => |[a, b, ..]| a.checked_rem(b).unwrap_or(a),
        "rem.s32" => |[a, b, ..]| of(s(a).checked_rem(s(b)).unwrap_or(s(a))),
        "rem.u32" => |[a, b, ..]| low(a).checked_rem(low(b)).unwrap_or(low(a)),
        "shl.b64" => |[a, b, ..]| a.checked_shl(low(b) as u32).unwrap_or(0),
        "shl.b32" => |[a, b, ..]| low(low(a).checked_shl(low(b) as u32).unwrap_or(0)),
        "shl.b16" => |[a, b, ..]| (a & 0xFFFF).checked_shl(low(b) as u32).unwrap_or(0) & 0xFFFF,
        // The upper word of two, the second of which is the upper one.
        "shf.l.wrap.b32" => |[a, b, count, _]| low(((low(b) << 32 | low(a)) << (count & 31)) >> 32),
        "shr.u64" => |[a, b, ..]| a.checked_shr(low(b) as u32).unwrap_or(0),
        "shr.u32" => |[a, b, ..]| low(a).checked_shr(low(b) as u32).unwrap_or(0),
        "shr.u16" => |[a, b, ..]| (a & 0xFFFF).checked_shr(low(b) as u32).unwrap_or(0),
        "shr.s64" => |[a, b, ..]| ((a as i64) >> low(b).min(63)) as u64,
        "shr.s32" => |[a, b, ..]| of(s(a) >> low(b).min(31)),
        "shr.s16" => |[a, b, ..]| u64::from(((a as i16) >> low(b).min(15)) as u16),
        "and.b64" | "and.pred" => |[a, b, ..]| a & b,
        "and.b32" | "and.b16" => |[a, b, ..]| low(a & b),
        "or.b64" | "or.pred" => |[a, b, ..]| a | b,
        "or.b32" | "or.b16" => |[a, b, ..]| low(a | b),
        "xor.b64" | "xor.pred" => |[a, b, ..]| a ^ b,
        "xor.b32" | "xor.b16" => |[a, b, ..]| low(a ^ b),
        "not.pred" => |[a, ..]| u64::from(a == 0),
        "not.b32" => |[a, ..]| low(!a),
        "not.b64" => |[a, ..]| !a,
        "neg.s64" => |[a, ..]| (a as i64).wrapping_neg() as u64,
        "neg.s32" => |[a, ..]| of(s(a).wrapping_neg()),
        "abs.s32" => |[a, ..]| of(s(a).wrapping_abs()),
        "min.s64" => |[a, b, ..]| (a as i64).min(b as i64) as u64,
        "max.s64" => |[a, b, ..]| (a as i64).max(b as i64) as u64,
        "min.u64" => |[a, b, ..]| a.min(b),
        "max.u64" => |[a, b, ..]| a.max(b),
        "min.s32" => |[a, b, ..]| of(s(a).min(s(b))),
        "max.s32" => |[a, b, ..]| of(s(a).max(s(b))),
        "min.relu.s32" => |[a, b, ..]| of(s(a).min(s(b)).max(0)),
        "max.relu.s32" => |[a, b, ..]| of(s(a).max(s(b)).max(0)),
        "min.u32" => |[a, b, ..]| low(a).min(low(b)),
        "max.u32" => |[a, b, ..]| low(a).max(low(b)),
        "bfe.u32" => |[a, from, count, _]| field([low(a), from, count, 0]),
        "bfe.u64" => field,
        // A field that ends inside of the word.
        "bfe.s32" => signed_field,
        "bfe.s64" => signed_wide_field,
        "prmt.b32" => picked,
        "dp2a.lo.s32.s32" => |[a, b, c, _]| dotted(a, b, c),
        "dp2a.hi.s32.s32" => |[a, b, c, _]| dotted(a, b >> 16, c),
        _ => return None,
    })
}

fn real(opcode: &str) -> Option<Pure> {
    Some(match opcode {
        "add.f32" | "add.rn.f32" => float!(|a, b, _| a + b),
        "sub.f32" | "sub.rn.f32" => float!(|a, b, _| a - b),
        "mul.f32" | "mul.rn.f32" => float!(|a, b, _| a * b),
        "fma.rn.f32" => float!(f32::mul_add),
        "div.rn.f32" | "div.full.f32" => float!(|a, b, _| a / b),
        "sqrt.rn.f32" => float!(|a, _, _| a.sqrt()),
        "rcp.rn.f32" | "rcp.approx.ftz.f32" => float!(|a, _, _| 1.0 / a),
        "rsqrt.approx.f32" => float!(|a, _, _| 1.0 / a.sqrt()),
        "ex2.approx.f32" | "ex2.approx.ftz.f32" => float!(|a, _, _| a.exp2()),
        "lg2.approx.f32" | "lg2.approx.ftz.f32" => float!(|a, _, _| a.log2()),
        "copysign.f32" => float!(|sign, a, _| a.copysign(sign)),
        "neg.f32" => |[a, ..]| low(a) ^ 0x8000_0000,
        "abs.f32" => |[a, ..]| a & 0x7FFF_FFFF,
        "min.f32" => float!(|a, b, _| a.min(b)),
        "max.f32" => float!(|a, b, _| a.max(b)),
        "add.f64" | "add.rn.f64" => wide!(|a, b, _| a + b),
        "sub.f64" | "sub.rn.f64" => wide!(|a, b, _| a - b),
        "mul.f64" | "mul.rn.f64" => wide!(|a, b, _| a * b),
        "fma.rn.f64" => wide!(f64::mul_add),
        "div.rn.f64" => wide!(|a, b, _| a / b),
        "neg.f64" => wide!(|a, _, _| -a),
        "abs.f64" => wide!(|a, _, _| a.abs()),
        _ => return None,
    })
}

fn converted(opcode: &str) -> Option<Pure> {
    Some(match opcode {
        "cvt.u64.u32" | "cvt.u32.u64" | "cvt.s64.u32" | "cvt.s32.s64" | "cvt.s32.u64" | "cvt.u32.s64" => |[a, ..]| low(a),
        "cvt.s64.s32" => |[a, ..]| i64::from(s(a)) as u64,
        "cvt.u64.u16" | "cvt.u32.u16" | "cvt.u16.u32" | "cvt.u16.u64" | "cvt.s32.u16" => |[a, ..]| a & 0xFFFF,
        "cvt.u32.u8" | "cvt.u16.u8" | "cvt.u64.u8" | "cvt.s32.u8" => |[a, ..]| a & 0xFF,
        "cvt.s64.s16" => |[a, ..]| i64::from(a as i16) as u64,
        "cvt.s32.s16" => |[a, ..]| of(i32::from(a as i16)),
        "cvt.s64.s8" => |[a, ..]| i64::from(a as i8) as u64,
        "cvt.s32.s8" => |[a, ..]| of(i32::from(a as i8)),
        // A register has at least 16 bits.
        "cvt.s16.s8" | "cvt.s8.s64" | "cvt.s8.s32" => |[a, ..]| u64::from(i16::from(a as i8) as u16),
        "cvt.rn.f32.s32" => |[a, ..]| bits(s(a) as f32),
        "cvt.rn.f32.u32" => |[a, ..]| bits(low(a) as f32),
        "cvt.rn.f32.s64" => |[a, ..]| bits(a as i64 as f32),
        "cvt.rn.f32.s16" => |[a, ..]| bits(f32::from(a as i16)),
        "cvt.rn.f32.u16" => |[a, ..]| bits(f32::from(a as u16)),
        "cvt.rn.f32.s8" => |[a, ..]| bits(f32::from(a as i8)),
        "cvt.rn.f32.u8" => |[a, ..]| bits(f32::from(a as u8)),
        "cvt.f32.f16" => |[a, ..]| bits(half::f16::from_bits(a as u16).to_f32()),
        "cvt.f32.bf16" => |[a, ..]| bits(bf16::from_bits(a as u16).to_f32()),
        "cvt.rn.f16.f32" => |[a, ..]| u64::from(half::f16::from_f32(single(a)).to_bits()),
        "cvt.rn.bf16.f32" => |[a, ..]| u64::from(bf16::from_f32(single(a)).to_bits()),
        "cvt.rn.f32.f64" => |[a, ..]| bits(double(a) as f32),
        "cvt.f64.f32" => |[a, ..]| f64::from(single(a)).to_bits(),
        "cvt.rn.f64.u32" => |[a, ..]| (low(a) as f64).to_bits(),
        "cvt.rn.f64.s32" => |[a, ..]| f64::from(s(a)).to_bits(),
        "cvt.rn.f64.s64" => |[a, ..]| (a as i64 as f64).to_bits(),
        "cvt.rn.f64.u64" => |[a, ..]| (a as f64).to_bits(),
        "cvt.rzi.s32.f32" => |[a, ..]| of(single(a) as i32),
        "cvt.rzi.s64.f32" => |[a, ..]| (single(a) as i64) as u64,
        "cvt.rni.s32.f32" => |[a, ..]| of(single(a).round_ties_even() as i32),
        "cvt.rna.tf32.f32" => tf32,
        "cvt.rmi.f32.f32" => float!(|a, _, _| a.floor()),
        "cvt.rpi.f32.f32" => float!(|a, _, _| a.ceil()),
        "cvt.rni.f32.f32" => float!(|a, _, _| a.round_ties_even()),
        "cvt.rzi.f32.f32" => float!(|a, _, _| a.trunc()),
        // The first operand is the upper half.
        "cvt.rn.bf16x2.f32" => {
            |[a, b, ..]| u64::from(bf16::from_f32(single(a)).to_bits()) << 16 | u64::from(bf16::from_f32(single(b)).to_bits())
        }
        _ => return None,
    })
}

macro_rules! order {
    ($how:expr, $read:expr) => {
        match $how {
            "eq" => |[a, b, ..]| u64::from($read(a) == $read(b)),
            "ne" => |[a, b, ..]| u64::from($read(a) != $read(b)),
            "lt" | "lo" => |[a, b, ..]| u64::from($read(a) < $read(b)),
            "le" | "ls" => |[a, b, ..]| u64::from($read(a) <= $read(b)),
            "gt" | "hi" => |[a, b, ..]| u64::from($read(a) > $read(b)),
            "ge" | "hs" => |[a, b, ..]| u64::from($read(a) >= $read(b)),
            _ => return None,
        }
    };
}

fn compared(how: &str, kind: &str) -> Option<Pure> {
    Some(match (how, kind) {
        // True also where one is no number.
        ("neu", "f32") => |[a, b, ..]| u64::from(single(a) != single(b)),
        ("ne", "f32") => |[a, b, ..]| u64::from(single(a) < single(b) || single(a) > single(b)),
        ("leu", "f32") => |[a, b, ..]| u64::from(single(a) <= single(b) || unordered(a, b)),
        ("ltu", "f32") => |[a, b, ..]| u64::from(single(a) < single(b) || unordered(a, b)),
        ("geu", "f32") => |[a, b, ..]| u64::from(single(a) >= single(b) || unordered(a, b)),
        ("gtu", "f32") => |[a, b, ..]| u64::from(single(a) > single(b) || unordered(a, b)),
        ("nan", "f32") => |[a, b, ..]| u64::from(unordered(a, b)),
        ("num", "f32") => |[a, b, ..]| u64::from(!unordered(a, b)),
        (_, "f32") => order!(how, single),
        (_, "f64") => order!(how, double),
        (_, "s32") => order!(how, s),
        (_, "b32" | "u32") => order!(how, low),
        (_, "s64") => order!(how, |x| x as i64),
        (_, "b64" | "u64") => order!(how, |x: u64| x),
        (_, "b16" | "u16") => order!(how, |x: u64| x & 0xFFFF),
        (_, "s16") => order!(how, |x| x as i16),
        _ => return None,
    })
}
