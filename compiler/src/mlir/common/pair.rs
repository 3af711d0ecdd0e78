//! The bodies of an attention, `keep` and `score`, for a query and some keys.

use super::expr::{binary, constant, to_float, unary};
use super::site::Site;
use super::{Cmp, Elem, Ty, Val};
use crate::fuse::kernel::{Attention, BATCH, Store};
use braid_dsl::model::{self, Body, Op, ValueId};

/// A query and some keys, one a lane.
#[derive(Clone, Copy)]
pub struct Pair<'c> {
    /// The query's position.
    pub query: Val<'c>,
    /// The keys' positions.
    pub key: Val<'c>,
    /// Where the channels of the block of keys are, which is as long as there are lanes: what is asked of the keys' positions lies among them.
    pub channels: Option<Val<'c>>,
    /// Their dot products.
    pub score: Option<Val<'c>>,
}

/// A captured value at the site's indices.
pub fn capture<'c>(site: &Site<'_, 'c>, code: &Attention, number: usize) -> Val<'c> {
    site.e.load(site.address(&code.views.captures[number]), Ty::scalar(stored(site, code, number)))
}

fn stored(site: &Site, code: &Attention, number: usize) -> Elem {
    match site.store_of(&code.views.captures[number]) {
        Store::I32 => Elem::I32,
        _ => Elem::F32,
    }
}

/// A captured value of the query, or of each key, for the site's head.
fn captured<'c>(site: &Site<'_, 'c>, code: &Attention, number: usize, pair: Pair<'c>) -> Val<'c> {
    let (Some((first, count)), Some(channels)) = (code.channel(number), pair.channels) else {
        return capture(site, code, number);
    };
    let (e, lanes) = (site.e, pair.key.lanes());
    let head = site.index.get(&BATCH).copied().filter(|_| count > 1).unwrap_or(e.i64(0));
    let channel = e.mul(e.add(head, e.i64(first)), e.i64(4 * lanes));
    e.load(e.offset(channels, channel), Ty::vector(stored(site, code, number), lanes))
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
            Op::Capture(n) => {
                let x = captured(site, code, *n, pair);
                if value.ty.elem == model::Elem::Bool { e.cmp(Cmp::Ne, x, e.splat(e.i32(0), x.lanes())) } else { x }
            }
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
