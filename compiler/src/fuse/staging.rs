//! What a GPU's kernel of chunks copies to a block's shared memory, where its work is done: states for as long as it walks, rows that
//! products read chunk by chunk.

use super::expr::{Expr, KAxis, TensorId, View};
use super::kernel::{Base, COPIED, Nest, Staged, Staging, Stmt, Store, Tensor};
use super::scratch::Life;
use super::{loops, product, scratch};
use braid_dsl::model::Elem;
use std::collections::BTreeSet;

/// Chunks whose rows a walk has in shared memory, or on their way there: the first that there is room for. With one, places are filled again as
/// they become free.
const PLACES: [usize; 2] = [3, 2];

/// Rows that are no factor are read where they are by so many nests, where chunks are side by side.
const ONCE_AGAIN: usize = 1;

/// A kernel of chunks in work.
pub struct Chunks<'a> {
    /// Its nests.
    pub nests: Vec<Nest>,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
    /// What its loops depend on.
    pub setting: loops::Setting<'a>,
    /// Axes that are one index for a whole task.
    pub single: &'a [KAxis],
    /// Axes that count rows of a chunk.
    pub rows: &'a [KAxis],
    /// Whether a task does one chunk after the other.
    pub walks: bool,
    /// Whether factors of products may be rounded.
    pub rounded: bool,
    /// Most bytes of a block's shared memory.
    pub most: usize,
}

/// A kernel of chunks with everything in its place.
pub struct Placed {
    /// Its nests.
    pub nests: Vec<Nest>,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
    /// What is copied.
    pub staging: Staging,
    /// Bytes of scratch.
    pub scratch: usize,
}

impl<'a> Chunks<'a> {
    /// Copies as much as there is room for: several chunks ahead, or one as places become free.
    pub fn placed(self) -> Placed {
        let most = self.candidates().len();
        let deep = PLACES.into_iter().filter(|_| self.walks && most > 0).map(|places| (true, most, places));
        let tries = deep.chain((0..=most).rev().map(|count| (true, count, 1))).chain([(false, 0, 1)]);
        let mut made = tries.map(|(states, count, places)| self.with(states, count, places));
        let first = made.find(|placed| placed.staging.shared);
        first.unwrap_or_else(|| self.with(false, 0, 1))
    }

    /// Copies all that can be, if there is room.
    pub fn whole(&self) -> Option<Placed> {
        let placed = self.with(true, self.candidates().len(), 1);
        placed.staging.shared.then_some(placed)
    }

    /// With or without states, and with the rows of so many buffers in so many places.
    fn with(&self, states: bool, count: usize, places: usize) -> Placed {
        let mut placed =
            Placed { nests: self.nests.clone(), tensors: self.tensors.clone(), staging: Staging::default(), scratch: 0 };
        let mut lasting = vec![];
        if states {
            lasting = self.bring_states(&mut placed);
            let rounded: Vec<usize> = lasting.iter().filter_map(|state| self.round_state(&mut placed, *state)).collect();
            lasting.extend(rounded);
        }
        let staged = self.stage(&mut placed, count);
        let kept: Vec<usize> = lasting.iter().copied().chain(staged.iter().map(|(_, tensor)| *tensor)).collect();
        self.narrow(&mut placed, &kept);
        let Staging { before, after, .. } = std::mem::take(&mut placed.staging);
        let (head, body) = (before.len(), placed.nests.len());
        let mut all: Vec<Nest> = before.into_iter().chain(std::mem::take(&mut placed.nests)).chain(after).collect();
        let end = all.len() - 1;
        let mut lives: Vec<Life> = lasting.into_iter().map(|tensor| Life { tensor, first: 0, last: end, places: 1 }).collect();
        for (_, tensor) in &staged {
            let last = all.iter().rposition(|nest| nest.stmts.iter().any(|stmt| stmt.touches(TensorId(*tensor)))).unwrap_or(end);
            lives.push(Life { tensor: *tensor, first: 0, last: if self.walks { end } else { last }, places });
        }
        placed.scratch = scratch::place(&mut all, &mut placed.tensors, self.setting.sizes, self.setting.blocked, (&lives, true));
        let after = all.split_off(head + body);
        placed.nests = all.split_off(head);
        let mut staged: Vec<Staged> = staged.into_iter().filter_map(|(from, to)| self.staged(&placed, from, to)).collect();
        staged.sort_by_key(|staged| staged.used[usize::from(self.walks)]);
        let shared = placed.scratch <= self.most;
        placed.staging = Staging { before: all, after, staged, rounded: self.rounded, shared, places };
        placed
    }

    /// Lets products read a rounded copy of a state, made as a chunk begins, that lies side by side along what they sum over; gives the copy.
    fn round_state(&self, placed: &mut Placed, state: usize) -> Option<usize> {
        let of = |nest: &Nest, tensors: &[Tensor]| -> Option<(View, KAxis)> {
            let own = product::Product::of(nest, tensors, self.setting.sizes, self.setting.blocked)?;
            let view = [own.left, own.right].into_iter().find(|view| view.tensor.0 == state)?;
            let once = nest.stmts[0].reads().filter(|view| view.tensor.0 == state).count() == 1;
            (self.rounded && once && own.stmt.target.tensor.0 != state).then(|| (view.clone(), own.axes[2]))
        };
        let (view, deep) = placed.nests.iter().find_map(|nest| of(nest, &placed.tensors))?;
        // What is summed over first, and the others as they were.
        let order = view.strides.iter().map(|(axis, stride)| (*axis, if *axis == deep { 0 } else { *stride })).collect();
        let copy = self.dense(placed, &View { strides: order, ..view.clone() }, &[], Store::Bf16);
        for at in 0..placed.nests.len() {
            if of(&placed.nests[at], &placed.tensors).is_some_and(|(own, _)| own == view) {
                placed.nests[at].stmts[0].expr.views_mut(&mut |own| {
                    if *own == view {
                        *own = copy.clone();
                    }
                });
            }
        }
        let tensor = copy.tensor.0;
        let made = loops::nests(vec![Stmt::plain(copy, Expr::Load(view, Elem::Float))], &self.setting);
        placed.nests.splice(0..0, made);
        Some(tensor)
    }

    /// On a processor: what was made of the weights is copied to where the temporaries are, of a task's block alone, so that all that a chunk
    /// reads again and again lies side by side.
    pub fn beside(self) -> Placed {
        let mut placed =
            Placed { nests: self.nests.clone(), tensors: self.tensors.clone(), staging: Staging::default(), scratch: 0 };
        let lasting = self.bring(&mut placed, Base::Prepared);
        let before = std::mem::take(&mut placed.staging.before);
        let head = before.len();
        let mut all: Vec<Nest> = before.into_iter().chain(std::mem::take(&mut placed.nests)).collect();
        let last = all.len() - 1;
        let lives: Vec<Life> = lasting.into_iter().map(|tensor| Life { tensor, first: 0, last, places: 1 }).collect();
        placed.scratch = scratch::place(&mut all, &mut placed.tensors, self.setting.sizes, self.setting.blocked, (&lives, false));
        placed.nests = all.split_off(head);
        placed.staging = Staging { before: all, shared: true, ..Staging::default() };
        placed
    }

    /// Lets the work go on in copies of the states; gives these.
    fn bring_states(&self, placed: &mut Placed) -> Vec<usize> {
        if self.walks { self.bring(placed, Base::State) } else { vec![] }
    }

    /// Lets the work go on in copies of what lies somewhere; gives these.
    fn bring(&self, placed: &mut Placed, base: Base) -> Vec<usize> {
        let mut made = vec![];
        let (mut before, mut after) = (vec![], vec![]);
        for at in 0..self.tensors.len() {
            if self.tensors[at].base != base {
                continue;
            }
            let all = self.nests.iter().flat_map(|nest| &nest.stmts).flat_map(Stmt::views);
            let own: Vec<&View> = all.filter(|view| view.tensor.0 == at).collect();
            let Some(first) = own.first().filter(|first| own.iter().all(|view| view == *first)) else { continue };
            let (far, near) = ((*first).clone(), self.dense(placed, first, &[], Store::F32));
            for stmt in placed.nests.iter_mut().flat_map(|nest| &mut nest.stmts) {
                stmt.views_mut(&mut |view| {
                    if *view == far {
                        *view = near.clone();
                    }
                });
            }
            before.push(Stmt::plain(near.clone(), Expr::Load(far.clone(), Elem::Float)));
            made.push(near.tensor.0);
            after.push(Stmt::plain(far, Expr::Load(near, Elem::Float)));
        }
        placed.staging.before = loops::nests(before, &self.setting);
        placed.staging.after = loops::nests(after, &self.setting);
        made
    }

    /// A temporary for what a view has in a task, laid down as it is there; `rows`: the axis of rows is slowest.
    fn dense(&self, placed: &mut Placed, view: &View, rows: &[KAxis], store: Store) -> View {
        placed.tensors.push(Tensor { base: Base::Scratch(0), operand: 0, row: 0, store, through_wanted: false });
        let tensor = TensorId(placed.tensors.len() - 1);
        let mut axes: Vec<(KAxis, usize)> =
            view.strides.iter().copied().filter(|(axis, _)| !self.single.contains(axis)).collect();
        axes.sort_by_key(|(axis, stride)| (rows.contains(axis), *stride, *axis));
        let (mut strides, mut elements) = (vec![], 1);
        for (axis, _) in axes {
            strides.push((axis, elements));
            elements *= self.setting.sizes[axis.0];
        }
        strides.sort();
        View { tensor, offset: 0, strides }
    }

    /// Views of buffers that are read, rows along the first of the axes that count them; the smallest first. What is read again behind a
    /// statement that writes it has to be read where it is; rows that are no factor are, where chunks are side by side.
    fn candidates(&self) -> Vec<View> {
        let stmts: Vec<&Stmt> = self.nests.iter().flat_map(|nest| &nest.stmts).collect();
        let stale = |view: &View| {
            let first = stmts.iter().position(|stmt| stmt.writes(view.tensor));
            first.is_some_and(|first| stmts[first + 1..].iter().any(|stmt| stmt.reads().any(|own| own.tensor == view.tensor)))
        };
        let again = |view: &View| {
            let reads = |nest: &&Nest| nest.stmts.iter().any(|stmt| stmt.reads().any(|own| own.tensor == view.tensor));
            self.nests.iter().filter(reads).count() > ONCE_AGAIN
        };
        let passing =
            |view: &View| !self.walks && !self.contents(view).is_empty() && !self.is_multiplied(view.tensor) && !again(view);
        let mut found: Vec<View> = vec![];
        for view in stmts.iter().flat_map(|stmt| stmt.reads()).map(|view| self.by_row(view)) {
            if self.is_staged(&view) && !found.contains(&view) && !stale(&view) && !passing(&view) {
                found.push(view);
            }
        }
        found.sort_by_key(|view| view.strides.iter().map(|(axis, _)| self.walked(*axis)).product::<usize>());
        found
    }

    /// The view of all rows of which a view has some, counted by the first axis that counts rows.
    fn by_row(&self, view: &View) -> View {
        let row = self.tensors[view.tensor.0].row;
        let all = self.nests.iter().flat_map(|nest| &nest.stmts).flat_map(Stmt::reads);
        let counted =
            all.filter(|own| own.tensor == view.tensor).any(|own| self.rows.iter().any(|axis| own.stride(*axis) == row));
        if row == 0 || !counted {
            return view.by_row(self.rows).0;
        }
        let within =
            view.strides.iter().copied().filter(|(axis, stride)| self.single.contains(axis) || !self.counts_rows(*stride, row));
        let within: Vec<(KAxis, usize)> = within.collect();
        let rows = (within.len() < view.strides.len()).then_some((self.rows[0], row));
        let mut strides: Vec<(KAxis, usize)> = within.into_iter().chain(rows).collect();
        strides.sort();
        View { strides, offset: if rows.is_some() { view.offset % row } else { view.offset }, ..view.clone() }
    }

    fn counts_rows(&self, stride: usize, row: usize) -> bool {
        stride > 0 && stride.is_multiple_of(row)
    }

    /// What a view has of all rows, where these are copied to.
    fn in_place_of(&self, view: &View, to: &View) -> View {
        let (row, step) = (self.tensors[view.tensor.0].row, to.stride(self.rows[0]));
        if row == 0 || step == 0 {
            return to.clone();
        }
        let counts = |(axis, stride): &(KAxis, usize)| !self.single.contains(axis) && self.counts_rows(*stride, row);
        let rows = view.strides.iter().copied().filter(counts).map(|(axis, stride)| (axis, stride / row * step));
        let within = to.strides.iter().copied().filter(|(axis, _)| *axis != self.rows[0]);
        let mut strides: Vec<(KAxis, usize)> = within.chain(rows).collect();
        strides.sort();
        View { strides, offset: to.offset + view.offset / row * step, ..to.clone() }
    }

    /// How many indices of an axis temporaries have room for.
    fn room(&self, axis: KAxis) -> usize {
        self.setting.blocked.filter(|(cut, _)| *cut == axis).map_or(self.setting.sizes[axis.0], |(_, width)| width)
    }

    /// How many indices of an axis a task walks.
    fn walked(&self, axis: KAxis) -> usize {
        match self.setting.blocked {
            Some((cut, width)) if cut == axis => width,
            _ if self.single.contains(&axis) => 1,
            _ => self.setting.sizes[axis.0],
        }
    }

    /// Single numbers, or rows of whole pieces that lie at multiples of them: those of the chunk, or of a matrix that it has.
    fn is_staged(&self, view: &View) -> bool {
        let tensor = self.tensors[view.tensor.0];
        let rows = view.stride(self.rows[0]);
        let is_float = matches!(tensor.store, Store::F32 | Store::Bf16);
        if tensor.base != Base::Arena || !is_float || tensor.through_wanted || (rows > 0 && rows != tensor.row) {
            return false;
        }
        let whole = |elements: usize| elements.is_multiple_of(COPIED / tensor.store.bytes());
        match self.contents(view)[..] {
            [] => tensor.store == Store::F32,
            [(axis, 1)] | [(axis, 1), _] if rows == 0 || self.contents(view).len() == 1 => {
                let others = view.strides.iter().filter(|(own, _)| *own != axis).all(|(_, stride)| whole(*stride));
                let size = self.walked(axis);
                whole(view.offset)
                    && whole(tensor.row)
                    && whole(size)
                    && others
                    && self.setting.sizes[axis.0].is_multiple_of(size)
            }
            _ => false,
        }
    }

    /// Axes of a row's numbers, with their strides, the smallest first.
    fn contents(&self, view: &View) -> Vec<(KAxis, usize)> {
        let own = |(axis, _): &(KAxis, usize)| *axis != self.rows[0] && !self.single.contains(axis);
        let mut axes: Vec<(KAxis, usize)> = view.strides.iter().copied().filter(own).collect();
        axes.sort_by_key(|(_, stride)| *stride);
        axes
    }

    /// Whether a product has a tensor as a factor.
    fn is_multiplied(&self, tensor: TensorId) -> bool {
        let product = |nest| product::Product::of(nest, &self.tensors, self.setting.sizes, self.setting.blocked);
        let has = |own: product::Product| own.left.tensor == tensor || own.right.tensor == tensor;
        self.nests.iter().any(|nest| product(nest).is_some_and(has))
    }

    /// Stores temporaries, but for those that are `kept` as they are, in bfloat16 where only products read them, and what is handed on rounded:
    /// none that meet what systems of equations are made of, or what these give, in which errors grow.
    fn narrow(&self, placed: &mut Placed, kept: &[usize]) {
        if !self.rounded {
            return;
        }
        let (sizes, cut) = (self.setting.sizes, self.setting.blocked);
        let solved = solved(&placed.nests);
        for at in (0..placed.tensors.len()).filter(|at| !kept.contains(at)) {
            let (own, tensor) = (placed.tensors[at], TensorId(at));
            let wide = matches!(own.base, Base::Scratch(_)) && own.store == Store::F32;
            let stmts = placed.nests.iter().flat_map(|nest| &nest.stmts);
            let mut readers = stmts.filter(|stmt| stmt.reads().any(|view| view.tensor == tensor));
            let meets = readers.any(|stmt| stmt.views().any(|view| solved.contains(&view.tensor)));
            if wide && !meets && product::is_factor(tensor, &placed.nests, &placed.tensors, sizes, cut) {
                placed.tensors[at].store = Store::Bf16;
            }
        }
    }

    /// Lets the nests read copies of rows; gives what is copied and into which tensors.
    fn stage(&self, placed: &mut Placed, count: usize) -> Vec<(View, usize)> {
        let mut staged = vec![];
        for from in self.candidates().into_iter().take(count) {
            let to = self.dense(placed, &from, &self.rows[..1], self.tensors[from.tensor.0].store);
            for stmt in placed.nests.iter_mut().flat_map(|nest| &mut nest.stmts) {
                stmt.reads_mut(&mut |view| {
                    if view.tensor == from.tensor && self.by_row(view) == from {
                        *view = self.in_place_of(view, &to);
                    }
                });
            }
            staged.push((from, to.tensor.0));
        }
        staged
    }

    fn staged(&self, placed: &Placed, from: View, tensor: usize) -> Option<Staged> {
        let (nests, bytes) = (&placed.nests, placed.tensors[tensor].store.bytes());
        let reads = |nest: &Nest| nest.stmts.iter().any(|stmt| stmt.touches(TensorId(tensor)));
        let used = [nests.iter().position(reads)?, nests.iter().rposition(reads)?];
        let stmts = nests.iter().flat_map(|nest| &nest.stmts);
        let views: Vec<&View> = stmts.flat_map(Stmt::views).filter(|view| view.tensor.0 == tensor).collect();
        let whole = |view: &&&View| view.by_row(self.rows).1.is_some();
        let to = views.iter().find(whole).or(views.first())?.by_row(self.rows).0;
        let contents = self.contents(&from);
        let lines = contents.get(1).map(|(axis, _)| *axis);
        let rows = from.strides.iter().map(|(axis, _)| *axis).find(|axis| *axis == self.rows[0]);
        let axes = [rows.or(lines), contents.first().map(|(axis, _)| *axis)];
        let apart = scratch::bytes_of(nests, tensor, bytes, &|axis| self.room(axis)) / bytes;
        Some(Staged { from, to, axes, used, apart })
    }
}

/// Temporaries that systems of equations are made of, and the unknowns.
fn solved(nests: &[Nest]) -> BTreeSet<TensorId> {
    let stmts = || nests.iter().flat_map(|nest| &nest.stmts);
    let systems = stmts().filter(|stmt| stmt.system.is_some() || stmt.ordered.is_some() && stmt.reduce.is_some());
    let mut found: BTreeSet<TensorId> = systems.flat_map(|stmt| stmt.views()).map(|view| view.tensor).collect();
    loop {
        let makers = stmts().filter(|stmt| found.iter().any(|own| stmt.writes(*own)));
        let more: Vec<TensorId> =
            makers.flat_map(Stmt::reads).map(|view| view.tensor).filter(|own| !found.contains(own)).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}
