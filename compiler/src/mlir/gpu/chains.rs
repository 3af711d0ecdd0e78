//! Elements that each need the one before: a thread walks its own from the first to the last.

use super::THREADS;
use super::nest::{Loops, parallel};
use crate::fuse::expr::View;
use crate::fuse::kernel::{Order, Stmt};
use crate::mlir::common::site::{Site, for_each};
use crate::mlir::common::{Ty, Val};

/// Elements of a chain whose factors are loaded together.
const CHAINED: usize = 16;

/// Each thread walks elements of its own in order: none needs what another thread made.
pub fn walk<'c>(own: &Loops<'_, 'c>, site: &mut Site<'_, 'c>, order: Order) {
    let e = site.e;
    let axes = parallel(own.code, own.nest);
    let results = axes.iter().map(|(_, size)| size).product::<usize>();
    let size = own.code.sizes[order.axis.0];
    for_each(e, e.to_i64(e.thread()), e.i64(results), e.i64(THREADS), |number| {
        own.place(site, &axes, (number, results, true));
        let links: Vec<(View, usize)> =
            own.nest.stmts.iter().enumerate().filter_map(|(at, stmt)| Some((link(stmt)?.clone(), at))).collect();
        let at = |index| if order.falling { e.sub(e.i64(size - 1), index) } else { index };
        site.index.insert(order.axis, at(e.i64(0)));
        let start: Vec<Val> = links.iter().map(|(before, _)| e.load(site.address(before), Ty::F32)).collect();
        let together = (1..=CHAINED).rev().find(|n| size.is_multiple_of(*n)).unwrap_or(1);
        e.for_loop(e.i64(0), e.i64(size), e.i64(together), &start, |first, carried| {
            let (mut carried, mut stores) = (carried.to_vec(), Vec::new());
            for step in 0..together {
                site.index.insert(order.axis, at(e.add(first, e.i64(step))));
                let known: Vec<(View, Val)> = links.iter().map(|(view, _)| view.clone()).zip(carried.iter().copied()).collect();
                let made = own.statements_with(site, known, &mut vec![]);
                for ((_, stmt), carried) in links.iter().zip(&mut carried) {
                    *carried = made[*stmt].value;
                }
                stores.extend(made);
            }
            stores.into_iter().for_each(|put| put.done(e));
            carried
        });
    });
}

/// The element before the one that a statement makes, if it reads it.
fn link(stmt: &Stmt) -> Option<&View> {
    let same = |view: &&View| view.tensor == stmt.target.tensor && view.strides == stmt.target.strides && **view != stmt.target;
    stmt.expr.views().into_iter().find(same)
}
