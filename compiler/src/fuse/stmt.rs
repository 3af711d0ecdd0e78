//! Statements of a kernel: what is made of what, over which axes.

use super::expr::{Expr, KAxis, TensorId, View};
use braid_dsl::model::Reduce;

/// `target = expr`, or `target = reduce over axes of expr`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stmt {
    /// Where the value goes.
    pub target: View,
    /// The value.
    pub expr: Expr,
    /// How, and over which axes, it is reduced.
    pub reduce: Option<Reduction>,
    /// The axis along which its elements need those before (behind, if falling): it is walked outermost, in order.
    pub ordered: Option<Order>,
    /// An axis that is walked only below the index along another.
    pub below: Option<Below>,
    /// All axes that are walked, sorted.
    pub space: Vec<KAxis>,
    /// Linear systems: `expr` is their matrix, `target` holds the right sides and then the solutions; both are overwritten.
    pub system: Option<System>,
}

impl Stmt {
    /// `target = expr` over all axes of both.
    pub fn plain(target: View, expr: Expr) -> Stmt {
        let mut space = expr.axes();
        space.extend(target.strides.iter().map(|(axis, _)| *axis));
        space.sort();
        space.dedup();
        Stmt { target, expr, reduce: None, ordered: None, below: None, system: None, space }
    }

    /// Every view that is read.
    pub fn reads(&self) -> impl Iterator<Item = &View> {
        let start = self.reduce.as_ref().and_then(|reduction| reduction.start.as_ref());
        let epilogue = self.reduce.as_ref().and_then(|reduction| reduction.epilogue.as_deref());
        let own = [Some(&self.expr), start].into_iter().flatten().flat_map(Expr::views);
        let behind = epilogue.into_iter().flat_map(|(total, expr)| expr.views().into_iter().filter(move |view| *view != total));
        let beside = self.beside().flat_map(|(_, expr)| expr.views()).filter(|view| **view != self.target);
        own.chain(behind).chain(beside)
    }

    /// What else is stored of each element.
    pub fn beside(&self) -> impl Iterator<Item = &(View, Expr)> {
        self.reduce.iter().flat_map(|reduction| &reduction.beside)
    }

    /// Every view.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.reads().chain([&self.target]).chain(self.beside().map(|(view, _)| view))
    }

    /// Calls `change` for every view that is read.
    pub fn reads_mut(&mut self, change: &mut dyn FnMut(&mut View)) {
        self.expr.views_mut(change);
        let Some(reduction) = &mut self.reduce else { return };
        if let Some(start) = &mut reduction.start {
            start.views_mut(change);
        }
        if let Some(epilogue) = &mut reduction.epilogue {
            let (total, expr) = &mut **epilogue;
            change_but(expr, total, change);
        }
        reduction.beside.iter_mut().for_each(|(_, expr)| change_but(expr, &self.target, change));
    }

    /// Calls `change` for every view.
    pub fn views_mut(&mut self, change: &mut dyn FnMut(&mut View)) {
        self.reads_mut(change);
        let before = self.target.clone();
        change(&mut self.target);
        let Some(reduction) = &mut self.reduce else { return };
        for (view, expr) in &mut reduction.beside {
            change(view);
            expr.views_mut(&mut |view| {
                if *view == before {
                    *view = self.target.clone();
                }
            });
        }
    }

    /// Whether it writes a tensor.
    pub fn writes(&self, tensor: TensorId) -> bool {
        self.target.tensor == tensor || self.beside().any(|(view, _)| view.tensor == tensor)
    }

    /// Whether it reads or writes a tensor.
    pub fn touches(&self, tensor: TensorId) -> bool {
        self.views().any(|view| view.tensor == tensor)
    }
}

/// Calls `change` for every view of an expression but one.
fn change_but(expr: &mut Expr, one: &View, change: &mut dyn FnMut(&mut View)) {
    expr.views_mut(&mut |view| {
        if view != one {
            change(view);
        }
    });
}

/// Systems of linear equations, one for each index of a statement's space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct System {
    /// Equations, and unknowns; rows of the matrix lie side by side.
    pub size: usize,
    /// Right sides; those of one equation lie side by side.
    pub sides: usize,
    /// The axes inside of a system.
    pub inside: Vec<KAxis>,
}

/// How a statement is reduced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduction {
    /// How.
    pub how: Reduce,
    /// Over which axes.
    pub over: Vec<KAxis>,
    /// What a sum starts with, over the target's axes; none: 0.
    pub start: Option<Expr>,
    /// What is stored instead of the total, which loads through the view are; only of what [`super::product::Product`] finds.
    pub epilogue: Option<Box<(View, Expr)>>,
    /// What else is stored of each element, and where: what reads it through the statement's target is made of what goes there; only of such
    /// products.
    pub beside: Vec<(View, Expr)>,
}

/// An axis that is walked in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// Which.
    pub axis: KAxis,
    /// From the last index to the first.
    pub falling: bool,
    /// The statement must be done in the loops of the one before, element by element.
    pub lockstep: bool,
}

/// Indices along `axis` that are less than the one along `by`, or equal if `inclusive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Below {
    /// What is walked.
    pub axis: KAxis,
    /// By what it is bounded.
    pub by: KAxis,
    /// See the type.
    pub inclusive: bool,
}

impl Reduction {
    /// Over whole axes, from nothing.
    pub fn plain(how: Reduce, over: Vec<KAxis>) -> Reduction {
        Reduction { how, over, start: None, epilogue: None, beside: vec![] }
    }
}
