//! Values that cross between kernels in bfloat16, in a model that is not in single precision on a GPU: as a rule a call of many rows is as
//! fast as it reads and writes them.
//!
//! They are what one product, convolution or recurrence makes of its operands alone, and what is read by those that do not hold more than they say:
//! convolutions, recurrences that add it to their state or read the state with it, and what products alone read, whose rows are rounded anyway.
//! Sums over layers, decays and whatever else multiplies a state, exponents, and what is chosen by stay in single precision: errors of these grow.

use super::anchor::Anchors;
use super::group::{Groups, Owner, operands};
use super::kernel::Rows;
use super::recurrence::fastest_axis;
use crate::forms::Forms;
use crate::graph::{Graph, NodeId};
use braid_dsl::model::{Binary, Body, Elem, Op, Recur, Unary, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Numbers of a row that are copied at once.
const WHOLE: usize = 8;
/// Fewest numbers of a row: fewer are little to read.
const FEWEST: usize = 8 * WHOLE;

/// The roots that cross so.
pub fn find(forms: &Forms, anchors: &Anchors, groups: &Groups) -> HashSet<NodeId> {
    let finder = Finder { forms, graph: &forms.graph, anchors, groups };
    let readers = finder.readers();
    let narrow = |root: &NodeId| {
        let read = readers.get(root).map_or(&[][..], Vec::as_slice);
        finder.is_made_so(*root) && !read.is_empty() && read.iter().all(|reader| finder.reads_so(*reader, *root))
    };
    groups.stored.iter().copied().filter(narrow).collect()
}

struct Finder<'a> {
    forms: &'a Forms,
    graph: &'a Graph,
    anchors: &'a Anchors,
    groups: &'a Groups,
}

impl Finder<'_> {
    fn root(&self, node: NodeId) -> NodeId {
        self.anchors.layouts.place(node).root
    }

    /// Who reads a stored value in another kernel.
    fn readers(&self) -> HashMap<NodeId, Vec<NodeId>> {
        let mut readers: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        for node in self.graph.order() {
            let Some(owner) = self.groups.owners.get(&node) else { continue };
            if matches!(self.graph.op(node), Op::Result(_)) {
                continue;
            }
            for arg in operands(self.graph, self.anchors, node) {
                // Another name for it reads nothing.
                if self.groups.owners.get(&arg) != Some(owner) && self.root(arg) != self.root(node) {
                    readers.entry(self.root(arg)).or_default().push(node);
                }
            }
        }
        readers
    }

    /// Whether a value is a row of numbers that one product, convolution or recurrence makes of its operands alone.
    fn is_made_so(&self, root: NodeId) -> bool {
        let Some(owner) = self.groups.owners.get(&root) else { return false };
        let (ty, first) = (self.graph.ty(root), self.groups.members[owner][0]);
        let elements = self.anchors.layouts.elements(ty);
        let row = ty.elem == Elem::Float && self.anchors.rows[&root] == Rows::All && owner.rows == Rows::All;
        let whole = elements.is_multiple_of(WHOLE) && elements >= FEWEST && self.root(self.graph.output()) != root;
        let skeleton = || match self.graph.op(first) {
            Op::Conv(_) | Op::Shift(_) => true,
            Op::Recur(_) => self.has_chunks(first),
            _ => self.anchors.products.get(&first).is_some_and(|product| product.ids.is_none()),
        };
        row && whole && (owner.rowwise || skeleton() && self.is_of_its_own(*owner, first))
    }

    /// Whether an epilogue reads nothing that has rows.
    fn is_of_its_own(&self, owner: Owner, first: NodeId) -> bool {
        let epilogue = self.groups.members[&owner].iter().filter(|node| **node != first);
        let mut args = epilogue.flat_map(|node| self.graph.args(*node));
        args.all(|arg| self.groups.owners.get(&arg) == Some(&owner) || self.anchors.rows[&arg] == Rows::Once)
    }

    fn reads_so(&self, reader: NodeId, root: NodeId) -> bool {
        let owner = self.groups.owners[&reader];
        if owner.rowwise {
            // What rows make of rows may be a sum over layers.
            return !self.groups.owners[&root].rowwise && self.is_for_products(reader, owner);
        }
        match self.graph.op(reader) {
            Op::Conv(_) | Op::Shift(_) => self.root(self.graph.args(reader)[0]) == root,
            Op::Recur(recur) => {
                let mut exact = exact(recur);
                if let Some(Ok(chunk)) = self.forms.chunks.get(&reader) {
                    exact.extend(captured(&chunk.body, above(&chunk.body, exponents(&chunk.body))));
                }
                let args = self.graph.args(reader);
                let mut own = args.iter().enumerate().filter(|(_, arg)| self.root(**arg) == root);
                own.all(|(at, arg)| !exact.contains(&at) && (self.has_chunks(reader) || !self.is_of_a_thread(recur, *arg)))
            }
            _ => false,
        }
    }

    /// Whether a recurrence goes in chunks. One that goes step by step is slower by what making other numbers of each takes.
    fn has_chunks(&self, recur: NodeId) -> bool {
        self.forms.chunks.get(&recur).is_some_and(Result::is_ok)
    }

    /// Whether each number is for one thread alone of those that share the steps of a recurrence.
    fn is_of_a_thread(&self, recur: &Recur, arg: NodeId) -> bool {
        fastest_axis(recur, &self.anchors.layouts).is_some_and(|axis| self.graph.ty(arg).axes.contains(&axis))
    }

    /// Whether all that a row-wise kernel makes of what a member reads are rows of products.
    fn is_for_products(&self, reader: NodeId, owner: Owner) -> bool {
        let (mut open, mut seen) = (vec![reader], HashSet::new());
        while let Some(node) = open.pop() {
            if node == self.graph.output() {
                return false;
            }
            for user in self.graph.users(node).iter().copied() {
                let inside = self.groups.owners.get(&user) == Some(&owner) || self.root(user) == self.root(node);
                let product = || self.anchors.products.get(&user).is_some_and(|own| self.root(own.left) == self.root(node));
                match inside {
                    true if seen.insert(user) => open.push(user),
                    false if !product() => return false,
                    _ => {}
                }
            }
        }
        true
    }
}

/// The captured values that a recurrence needs exactly: those in what multiplies a state on its way to the next one, or is compared with it, and in
/// exponents.
fn exact(recur: &Recur) -> BTreeSet<usize> {
    let values = &recur.body.values;
    let mut of_state: Vec<bool> = vec![];
    for value in values {
        let own = matches!(value.op, Op::State(_)) || value.args.iter().any(|arg| of_state[arg.0 as usize]);
        of_state.push(own);
    }
    let update = above(&recur.body, recur.next.iter().copied());
    let mut roots: Vec<ValueId> = exponents(&recur.body);
    for (at, value) in values.iter().enumerate() {
        let sum = matches!(value.op, Op::Binary(Binary::Add | Binary::Sub));
        if update.contains(&at) && of_state[at] && !sum {
            roots.extend(value.args.iter().filter(|arg| !of_state[arg.0 as usize]));
        }
    }
    captured(&recur.body, above(&recur.body, roots))
}

/// What powers of e are taken of.
fn exponents(body: &Body) -> Vec<ValueId> {
    let powers = body.values.iter().filter(|value| matches!(value.op, Op::Unary(Unary::Exp)));
    powers.flat_map(|value| value.args.iter().copied()).collect()
}

/// The numbers of the captured ones of some values.
fn captured(body: &Body, of: BTreeSet<usize>) -> BTreeSet<usize> {
    let number = |at: usize| if let Op::Capture(number) = body.values[at].op { Some(number) } else { None };
    of.into_iter().filter_map(number).collect()
}

/// Some values and all that they are made of.
fn above(body: &Body, of: impl IntoIterator<Item = ValueId>) -> BTreeSet<usize> {
    let mut open: Vec<usize> = of.into_iter().map(|id| id.0 as usize).collect();
    let mut seen = BTreeSet::new();
    while let Some(at) = open.pop() {
        if seen.insert(at) {
            open.extend(body.values[at].args.iter().map(|arg| arg.0 as usize));
        }
    }
    seen
}
