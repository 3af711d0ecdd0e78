//! The bodies of an attention, `keep` and `score`, for a query and some keys.

use super::expr::{binary, constant, to_float, unary};
use super::site::Site;
use super::{Cmp, Elem, Ty, Val};
use crate::fuse::expr::View;
use crate::fuse::kernel::{Attention, Store};
use braid_dsl::model::{self, Body, Op, ValueId};

/// A query and some keys, one a lane.
#[derive(Clone, Copy)]
pub struct Pair<'c> {
    /// The query's position.
    pub query: Val<'c>,
    /// The keys' positions.
    pub key: Val<'c>,
    /// Their dot products.
    pub score: Option<Val<'c>>,
}

/// A captured value at the site's indices.
pub fn capture<'c>(site: &Site<'_, 'c>, code: &Attention, number: usize) -> Val<'c> {
    let view: &View = &code.views.captures[number];
    let elem = match site.store_of(view) {
        Store::I32 => Elem::I32,
        _ => Elem::F32,
    };
    site.e.load(site.address(view), Ty::scalar(elem))
}

/// The value of a body for the site's head.
pub fn body<'c>(site: &Site<'_, 'c>, code: &Attention, body: &Body, result: ValueId, pair: Pair<'c>) -> Val<'c> {
    let e = site.e;
    let mut made: Vec<Val<'c>> = Vec::new();
    for value in &body.values {
        let arg = |n: usize| made[value.args[n].0 as usize];
        made.push(match &value.op {
            Op::Const(number) => constant(e, *number, value.ty.elem),
            Op::Score => pair.score.unwrap_or_else(|| e.f32(0.0)),
            Op::QueryPosition => pair.query,
            Op::KeyPosition => pair.key,
            Op::Capture(n) => match value.ty.elem {
                model::Elem::Bool => e.cmp(Cmp::Ne, capture(site, code, *n), e.i32(0)),
                _ => capture(site, code, *n),
            },
            Op::Unary(op) => unary(e, *op, arg(0)),
            Op::Binary(op) => binary(e, *op, body.values[value.args[0].0 as usize].ty.elem, arg(0), arg(1)),
            Op::Select => e.select(arg(0), arg(1), arg(2)),
            Op::ToFloat => to_float(e, arg(0)),
            op => {
                e.fault(format!("`{op:?}` in the body of an attention"));
                e.f32(0.0)
            }
        });
    }
    made[result.0 as usize]
}
