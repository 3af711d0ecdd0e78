//! The bodies of an attention, `keep` and `score`, for a query and some keys.

use super::expr::{binary, constant, to_float, unary};
use super::site::Site;
use super::{Cmp, Elem, Emitter, Field, Ty, Val};
use crate::fuse::kernel::{Attention, BATCH, COLUMN, Store};
use braid_dsl::model::{self, Body, Op, Reduce, Value, ValueId};

/// Channels of some keys, one key a lane.
#[derive(Clone, Copy)]
pub struct Channels<'c> {
    /// Where channel 0 of the first key is.
    pub base: Val<'c>,
    /// Bytes from one channel to the next.
    pub stride: usize,
    /// How far behind `base` each key's channels begin; none: side by side.
    pub offsets: Option<Val<'c>>,
}

impl<'c> Channels<'c> {
    /// A channel of every key.
    pub fn load(&self, e: &Emitter<'c>, channel: Val<'c>, ty: Ty) -> Val<'c> {
        let at = e.offset(self.base, e.mul(channel, e.i64(self.stride)));
        self.offsets.map_or_else(|| e.load(at, ty), |offsets| e.gather(at, offsets, e.bool(true), ty))
    }
}

/// A query and some keys, one a lane.
#[derive(Clone, Copy)]
pub struct Pair<'c> {
    /// The query's position.
    pub query: Val<'c>,
    /// The keys' positions.
    pub key: Val<'c>,
    /// The keys' channels: what is asked of their positions is among them.
    pub channels: Option<Channels<'c>>,
    /// Their dot products.
    pub score: Option<Scores<'c>>,
}

/// Dot products of a query with some keys.
#[derive(Clone, Copy)]
pub enum Scores<'c> {
    /// Of the site's head.
    Here(Val<'c>),
    /// Of every head of a group, a vector each, from this place on.
    At(Val<'c>),
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
pub fn captured<'c>(site: &Site<'_, 'c>, code: &Attention, number: usize, pair: Pair<'c>) -> Val<'c> {
    if code.apart.contains(&number) {
        return by_distance(site, code, number, pair);
    }
    let (Some((first, count)), Some(channels)) = (code.channel(number), pair.channels) else {
        return capture(site, code, number);
    };
    let e = site.e;
    let head = site.index.get(&BATCH).copied().filter(|_| count > 1).unwrap_or(e.i64(0));
    channels.load(e, e.add(head, e.i64(first)), Ty::vector(stored(site, code, number), pair.key.lanes()))
}

/// A captured value of the positions of a prompt that are as far from the first as each key is from the query: so many rows before the query's own as
/// the key's position says. Zero behind the prompt, and where the key is ahead.
fn by_distance<'c>(site: &Site<'_, 'c>, code: &Attention, number: usize, pair: Pair<'c>) -> Val<'c> {
    let (e, view) = (site.e, &code.views.captures[number]);
    let (lanes, elem) = (pair.key.lanes(), stored(site, code, number));
    let row = site.row.unwrap_or(e.i64(0));
    let own = e.segment(site.args.call, e.table_entry(site.args.call, Field::RowSegments, row));
    let prompt = e.splat(e.cmp(Cmp::Eq, own.position, e.i64(0)), lanes);
    let before = e.and(e.cmp(Cmp::Le, pair.key, e.splat(pair.query, lanes)), e.cmp(Cmp::Ge, pair.key, e.splat(e.i32(0), lanes)));
    let there = e.and(prompt, before);
    let bytes = site.row_elements(view) * site.store_of(view).bytes();
    let offsets = e.mul(e.to_i64(pair.key), e.splat(e.i64(-(bytes as i64)), lanes));
    let zero = if elem == Elem::F32 { e.f32(0.0) } else { e.i32(0) };
    e.select(there, e.gather(site.address(view), offsets, there, Ty::vector(elem, lanes)), e.splat(zero, lanes))
}

/// Rows of a captured table for the site's head; an index outside of it is that of its nearest row.
fn looked_up<'c>(site: &mut Site<'_, 'c>, code: &Attention, number: usize, index: Val<'c>) -> Val<'c> {
    let (e, view) = (site.e, &code.views.captures[number]);
    let before = site.index.insert(COLUMN, site.e.i64(0));
    let base = site.address(view);
    before.map(|column| site.index.insert(COLUMN, column));
    let (lanes, last) = (index.lanes(), code.table(number).unwrap_or(1) - 1);
    let whole = |n: usize| e.splat(e.i32(i32::try_from(n).unwrap_or(i32::MAX)), lanes);
    let index = e.min(e.max(index, whole(0)), whole(last));
    let store = site.store_of(view);
    let offsets = e.convert(e.mul(index, whole(view.stride(COLUMN) * store.bytes())), Elem::I64);
    match store {
        Store::Bf16 => e.gather_bf16(base, offsets, e.bool(true), lanes),
        Store::I32 => e.gather(base, offsets, e.bool(true), Ty::vector(Elem::I32, lanes)),
        Store::F32 => e.gather(base, offsets, e.bool(true), Ty::vector(Elem::F32, lanes)),
        Store::Panels(_) => {
            e.fault("attention looks up rows of what is packed for a product");
            e.poison(Ty::vector(Elem::F32, lanes))
        }
    }
}

/// The value of a body for the site's head.
pub fn body<'c>(site: &mut Site<'_, 'c>, code: &Attention, body: &Body, result: ValueId, pair: Pair<'c>) -> Val<'c> {
    values(site, code, body, &[result], pair)[0]
}

fn values<'c>(site: &mut Site<'_, 'c>, code: &Attention, body: &Body, results: &[ValueId], pair: Pair<'c>) -> Vec<Val<'c>> {
    let e = site.e;
    let needed = needed(body, results);
    let mut made: Vec<Val<'c>> = Vec::new();
    for (value, needed) in body.values.iter().zip(needed) {
        let arg = |n: usize| made[value.args[n].0 as usize];
        made.push(match &value.op {
            _ if !needed => e.i32(0),
            Op::Const(number) => constant(e, *number, value.ty.elem),
            Op::Score => match pair.score {
                Some(Scores::Here(score)) => score,
                Some(Scores::At(all)) => {
                    let head = site.index.get(&BATCH).copied().unwrap_or(e.i64(0));
                    e.load(e.element(all, head, 4 * pair.key.lanes()), Ty::f32(pair.key.lanes()))
                }
                None => e.f32(0.0),
            },
            Op::QueryPosition => pair.query,
            Op::KeyPosition => pair.key,
            Op::Capture(n) if code.table(*n).is_some() => e.i32(0),
            Op::Gather(_) => match body.values[value.args[0].0 as usize].op {
                Op::Capture(n) => looked_up(site, code, n, e.splat(arg(1), pair.key.lanes())),
                _ => e.i32(0),
            },
            Op::Capture(n) => {
                let x = captured(site, code, *n, pair);
                if value.ty.elem == model::Elem::Bool { e.cmp(Cmp::Ne, x, e.splat(e.i32(0), x.lanes())) } else { x }
            }
            Op::Unary(op) => unary(e, *op, arg(0)),
            Op::Binary(op) => binary(e, *op, body.values[value.args[0].0 as usize].ty.elem, arg(0), arg(1)),
            Op::Select => e.select(arg(0), arg(1), arg(2)),
            Op::ToFloat => to_float(e, arg(0)),
            Op::Reduce(how, _) if value.ty.elem == model::Elem::Float => over_heads(site, code, (body, value), *how, pair),
            Op::Contract(_) => over_heads(site, code, (body, value), Reduce::Sum, pair),
            op => {
                e.fault(format!("`{op:?}` in the body of an attention"));
                e.f32(0.0)
            }
        });
    }
    results.iter().map(|result| made[result.0 as usize]).collect()
}

/// The product of a value's operands, reduced over all heads of a group.
fn over_heads<'c>(
    site: &mut Site<'_, 'c>,
    code: &Attention,
    (body, value): (&Body, &Value),
    how: Reduce,
    pair: Pair<'c>,
) -> Val<'c> {
    let (e, lanes) = (site.e, pair.key.lanes());
    let start = match how {
        Reduce::Sum => 0.0,
        Reduce::Max => f64::NEG_INFINITY,
        Reduce::Min => f64::INFINITY,
    };
    let before = site.index.get(&BATCH).copied();
    let ends = e.for_loop(e.i64(0), e.i64(code.per), e.i64(1), &[e.float(Ty::f32(lanes), start)], |head, sum| {
        site.index.insert(BATCH, head);
        let parts = values(site, code, body, &value.args, pair);
        let x = parts.into_iter().reduce(|a, b| e.mul(a, b)).map_or(sum[0], |x| e.splat(x, lanes));
        vec![match how {
            Reduce::Sum => e.add(sum[0], x),
            Reduce::Max => e.max(sum[0], x),
            Reduce::Min => e.min(sum[0], x),
        }]
    });
    before.map(|head| site.index.insert(BATCH, head));
    ends[0]
}

/// Which values the results need; what is inside of a reduction is computed there.
fn needed(body: &Body, results: &[ValueId]) -> Vec<bool> {
    let mut needed = vec![false; body.values.len()];
    results.iter().for_each(|result| needed[result.0 as usize] = true);
    for (at, value) in body.values.iter().enumerate().rev() {
        if needed[at] && !matches!(value.op, Op::Reduce(..) | Op::Contract(_)) {
            value.args.iter().for_each(|arg| needed[arg.0 as usize] = true);
        }
    }
    needed
}

/// Whether a body asks for anything but positions.
pub fn captures(body: &Body, result: ValueId) -> bool {
    let needed = needed(body, &[result]);
    let asks = |op: &Op| matches!(op, Op::Capture(_) | Op::Reduce(..) | Op::Contract(_));
    body.values.iter().zip(needed).any(|(value, needed)| needed && asks(&value.op))
}
