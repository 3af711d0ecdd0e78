//! Expressions to values: scalars, or vectors along the site's vector axis.

use super::site::Site;
use super::{Cmp, Elem, Emitter, Field, SegmentFields, Ty, Val};
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::Store;
use braid_dsl::model::{self, Binary, Unary};

/// The value of an expression at the site's indices.
pub fn value<'c>(site: &Site<'_, 'c>, expr: &Expr) -> Val<'c> {
    let e = site.e;
    if let Some((_, known)) = site.held.iter().find(|(held, _)| held == expr) {
        return *known;
    }
    match expr {
        Expr::Load(view, elem) => load(site, view, *elem),
        Expr::Gather { view, stride, index, elem } => gather(site, view, *stride, index, *elem),
        Expr::Const(bits, elem) => constant(e, f64::from_bits(*bits), *elem),
        Expr::Index(axis) => index(site, *axis),
        Expr::Position => position(site),
        Expr::Length => e.convert(rows_of_prompt(site), Elem::I32),
        Expr::Row { view, at, elem } => other_row(site, view, at, *elem),
        Expr::Unary(op, of) => unary(e, *op, value(site, of)),
        // One instruction: neither a logarithm, nor a special case of signs.
        Expr::Binary(Binary::Pow, _, a, b) if e.is_device() && **a == Expr::number(2.0) => {
            e.power_of_two_of(to_float(e, value(site, b)))
        }
        Expr::Binary(op, elem, a, b) => binary(e, *op, *elem, value(site, a), value(site, b)),
        Expr::Select(_, parts) => {
            let [c, a, b] = [&parts[0], &parts[1], &parts[2]].map(|p| value(site, p));
            e.select(c, a, b)
        }
        Expr::ToFloat(of) => to_float(e, value(site, of)),
    }
}

/// The value of an expression that is rounded to bfloat16, and nothing else: a division need not be right to the last bit.
pub fn value_to_round<'c>(site: &Site<'_, 'c>, expr: &Expr) -> Val<'c> {
    match expr {
        Expr::Binary(Binary::Div, model::Elem::Float, a, b) if site.e.is_device() => {
            site.e.quotient(value(site, a), value(site, b))
        }
        _ => value(site, expr),
    }
}

/// Stores a value through a view; only lanes of the mask.
pub fn store<'c>(site: &Site<'_, 'c>, view: &View, value: Val<'c>) {
    let e = site.e;
    let bits = match value.elem() {
        Elem::I1 => e.select(value, constant_int(e, value, 1), constant_int(e, value, 0)),
        Elem::F32 if site.store_of(view) == Store::Bf16 => e.convert(value, Elem::Bf16),
        _ => value,
    };
    let place = site.address(view);
    match (site.vector_stride(view), site.mask) {
        (0, _) => e.store(place, if bits.lanes() > 1 { e.extract(bits, 0) } else { bits }),
        (1, None) if site.whole => e.store_aligned(place, e.splat(bits, site.lanes)),
        (1, None) => e.store(place, e.splat(bits, site.lanes)),
        (1, Some(mask)) => e.store_masked(place, mask, e.splat(bits, site.lanes)),
        (stride, mask) => {
            let bytes = stride * site.store_of(view).bytes();
            let bits = e.splat(bits, site.lanes);
            for lane in 0..site.lanes {
                let one = || e.store(e.offset_by(place, lane * bytes), e.extract(bits, lane));
                match mask {
                    Some(mask) => e.if_then(e.extract(mask, lane), one),
                    None => one(),
                }
            }
        }
    }
}

fn constant_int<'c>(e: &Emitter<'c>, like: Val<'c>, number: i64) -> Val<'c> {
    e.int(Ty::vector(Elem::I32, like.lanes()), number)
}

/// A constant of the language.
pub fn constant<'c>(e: &Emitter<'c>, number: f64, elem: model::Elem) -> Val<'c> {
    match elem {
        model::Elem::Float => e.f32(number as f32),
        model::Elem::Int => e.i32(number as i32),
        model::Elem::Bool => e.bool(number != 0.0),
    }
}

fn load<'c>(site: &Site<'_, 'c>, view: &View, elem: model::Elem) -> Val<'c> {
    if let Some((_, known)) = site.fresh.iter().rev().find(|(v, _)| v == view) {
        return *known;
    }
    load_at(site, view, site.address(view), elem)
}

fn load_at<'c>(site: &Site<'_, 'c>, view: &View, place: Val<'c>, elem: model::Elem) -> Val<'c> {
    let e = site.e;
    let stride = site.vector_stride(view);
    let lanes = if stride == 0 { 1 } else { site.lanes };
    let loaded = match (site.store_of(view), stride, site.mask) {
        (Store::Bf16, 1, None) if site.whole => e.load_bf16_aligned(place, lanes),
        (Store::Bf16, 0 | 1, None) => e.load_bf16(place, lanes),
        (Store::Bf16, 0, _) => e.load_bf16(place, 1),
        (Store::Bf16, 1, Some(mask)) => e.load_bf16_masked(place, mask, lanes),
        (Store::Bf16, ..) => {
            let (offsets, mask) = strided(site, stride * 2);
            e.gather_bf16(place, offsets, mask, lanes)
        }
        (store, 0, _) => e.load(place, Ty::scalar(elem_of(store))),
        (store, 1, None) if site.whole => e.load_aligned(place, Ty::vector(elem_of(store), lanes)),
        (store, 1, None) => e.load(place, Ty::vector(elem_of(store), lanes)),
        (store, 1, Some(mask)) => e.load_masked(place, mask, Ty::vector(elem_of(store), lanes)),
        (store, ..) => {
            let (offsets, mask) = strided(site, stride * 4);
            e.gather(place, offsets, mask, Ty::vector(elem_of(store), lanes))
        }
    };
    match elem {
        model::Elem::Bool => e.cmp(Cmp::Ne, loaded, constant_int(e, loaded, 0)),
        _ => loaded,
    }
}

fn scalar_at<'c>(site: &Site<'_, 'c>, view: &View, place: Val<'c>, elem: model::Elem) -> Val<'c> {
    let e = site.e;
    let loaded = match site.store_of(view) {
        Store::Bf16 => e.load_bf16(place, 1),
        store => e.load(place, Ty::scalar(elem_of(store))),
    };
    match elem {
        model::Elem::Bool => e.cmp(Cmp::Ne, loaded, e.i32(0)),
        _ => loaded,
    }
}

/// Byte offsets of the lanes and which of them count.
fn strided<'c>(site: &Site<'_, 'c>, bytes: usize) -> (Val<'c>, Val<'c>) {
    let e = site.e;
    let offsets = e.mul(e.to_i64(e.iota(site.lanes)), e.i64(bytes));
    (offsets, site.mask.unwrap_or_else(|| e.splat(e.bool(true), site.lanes)))
}

fn elem_of(store: Store) -> Elem {
    match store {
        Store::F32 | Store::Bf16 => Elem::F32,
        Store::I32 => Elem::I32,
        // Only matrix products read panels.
        Store::Panels(_) => Elem::I8,
    }
}

fn gather<'c>(site: &Site<'_, 'c>, view: &View, stride: usize, ids: &Expr, elem: model::Elem) -> Val<'c> {
    let e = site.e;
    let ids = e.convert(value(site, ids), Elem::I64);
    let bytes = stride * site.store_of(view).bytes();
    let place = site.address(view);
    if ids.lanes() == 1 {
        return load_at(site, view, e.offset(place, e.mul(ids, e.i64(bytes))), elem);
    }
    let along = site.vector_stride(view) * site.store_of(view).bytes();
    let lanes: Vec<Val<'c>> = (0..ids.lanes())
        .map(|lane| {
            let at = e.add(e.mul(e.extract(ids, lane), e.i64(bytes)), e.i64(lane * along));
            // Lanes past the end hold id 0 of a masked load: they stay inside the table only without the lane's own offset.
            let at = match site.mask {
                Some(mask) => e.select(e.extract(mask, lane), at, e.i64(0)),
                None => at,
            };
            let own = e.offset(place, at);
            scalar_at(site, view, own, elem)
        })
        .collect();
    let mut whole = e.poison(Ty::vector(lanes[0].elem(), lanes.len()));
    for (lane, one) in lanes.into_iter().enumerate() {
        whole = e.insert(whole, lane, one);
    }
    whole
}

/// The sequence that the row belongs to.
fn sequence<'c>(site: &Site<'_, 'c>) -> SegmentFields<'c> {
    let e = site.e;
    let row = site.row.unwrap_or_else(|| {
        e.fault("a sequence where there is no row");
        e.i64(0)
    });
    e.segment(site.args.call, e.table_entry(site.args.call, Field::RowSegments, row))
}

/// Rows of the sequence if this is its first call, which holds all that may be looked at; none in a later one.
fn rows_of_prompt<'c>(site: &Site<'_, 'c>) -> Val<'c> {
    let (e, own) = (site.e, sequence(site));
    e.select(e.cmp(Cmp::Eq, own.position, e.i64(0)), own.rows, e.i64(0))
}

fn other_row<'c>(site: &Site<'_, 'c>, view: &View, at: &Expr, elem: model::Elem) -> Val<'c> {
    let e = site.e;
    let own = sequence(site);
    let at = e.convert(value(site, at), Elem::I64);
    let inside = e.and(e.cmp(Cmp::Ge, at, e.i64(0)), e.cmp(Cmp::Lt, at, rows_of_prompt(site)));
    let row = e.add(own.row, e.select(inside, at, e.i64(0)));
    let loaded = load_at(site, view, site.address_in_row(view, row), elem);
    let (inside, zero) = (e.splat(inside, loaded.lanes()), e.splat(constant(e, 0.0, elem), loaded.lanes()));
    e.select(inside, loaded, zero)
}

fn index<'c>(site: &Site<'_, 'c>, axis: KAxis) -> Val<'c> {
    let e = site.e;
    let Some(first) = site.index.get(&axis) else {
        e.fault("an index outside of its loop");
        return e.i32(0);
    };
    let first = e.convert(*first, Elem::I32);
    if site.vector == Some(axis) { e.add(e.splat(first, site.lanes), e.iota(site.lanes)) } else { first }
}

fn position<'c>(site: &Site<'_, 'c>) -> Val<'c> {
    let e = site.e;
    let Some(row) = site.row else {
        e.fault("a position where there is no row");
        return e.i32(0);
    };
    e.to_i32(e.table_entry(site.args.call, Field::Positions, row))
}

/// A number from an Int or Bool.
pub fn to_float<'c>(e: &Emitter<'c>, x: Val<'c>) -> Val<'c> {
    match x.elem() {
        Elem::I1 => {
            let number = |v: f64| e.float(Ty::f32(x.lanes()), v);
            e.select(x, number(1.0), number(0.0))
        }
        Elem::F32 => x,
        _ => e.convert(x, Elem::F32),
    }
}

/// A pointwise function of one operand.
pub fn unary<'c>(e: &Emitter<'c>, op: Unary, x: Val<'c>) -> Val<'c> {
    match op {
        Unary::Neg => e.neg(x),
        Unary::Exp => e.exp(x),
        Unary::Log => e.log(x),
        Unary::Sqrt => e.sqrt(x),
        Unary::Rsqrt => e.rsqrt(x),
        Unary::Sigmoid => e.sigmoid(x),
        Unary::Tanh => e.tanh(x),
        Unary::Softplus => e.softplus(x),
        Unary::Erf => e.erf(x),
        Unary::Sin => e.sin(x),
        Unary::Cos => e.cos(x),
        Unary::Abs if x.elem().is_float() => e.abs(x),
        Unary::Abs => e.max(x, e.neg(x)),
        Unary::Floor if x.elem().is_float() => e.floor(x),
        Unary::Round if x.elem().is_float() => e.round(x),
        Unary::Floor | Unary::Round => x,
        Unary::Not => e.not(x),
    }
}

/// A pointwise function of two operands of type `elem`.
pub fn binary<'c>(e: &Emitter<'c>, op: Binary, elem: model::Elem, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    match op {
        Binary::Add => e.add(a, b),
        Binary::Sub => e.sub(a, b),
        Binary::Mul => e.mul(a, b),
        Binary::Div => e.div(a, b),
        Binary::Rem => e.rem(a, b),
        Binary::Pow => e.pow(to_float(e, a), to_float(e, b)),
        Binary::Min => e.min(a, b),
        Binary::Max => e.max(a, b),
        Binary::And => e.and(a, b),
        Binary::Or => e.or(a, b),
        Binary::Eq if elem == model::Elem::Bool => e.not(e.xor(a, b)),
        Binary::Ne if elem == model::Elem::Bool => e.xor(a, b),
        Binary::Lt => e.cmp(Cmp::Lt, a, b),
        Binary::Le => e.cmp(Cmp::Le, a, b),
        Binary::Gt => e.cmp(Cmp::Gt, a, b),
        Binary::Ge => e.cmp(Cmp::Ge, a, b),
        Binary::Eq => e.cmp(Cmp::Eq, a, b),
        Binary::Ne => e.cmp(Cmp::Ne, a, b),
    }
}
