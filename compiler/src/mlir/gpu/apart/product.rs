//! Products of the same rows: tiles of 128 rows by one or two boxes of 128 columns. Both boxes are of one product, or one of each of two
//! whose results meet.

use super::pipeline::Pipeline;
use super::sorts::Lists;
use super::{ALIGNED, AT_ONCE, LINE, MAP, Next, ROWS};
use crate::fuse::kernel::{Code, Matmul};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Val};
use crate::plan::{self, BOX, NUMBERS, Plan, Products, TILE_ROWS};

/// Stages under way.
const STAGES: usize = 4;
/// Bytes of a box of rows, or of weights, in a stage.
const BOX_BYTES: usize = BOX * LINE;
const _: () = assert!(TILE_ROWS == BOX);

/// The products of a launch.
pub struct Group<'p> {
    /// What they are.
    pub products: &'p Products,
    pub(super) members: Vec<Member<'p>>,
    /// Bytes from the words of a step to those of the next.
    word_bytes: usize,
}

/// A product, or two whose results meet.
pub struct Member<'p> {
    pub(super) first: &'p Matmul,
    pub(super) second: Option<(&'p Matmul, &'p plan::Second)>,
    /// The number of its first step among the launch's.
    pub(super) step: usize,
    /// Tiles side by side before it, and past its last.
    across: [usize; 2],
    /// Columns of each product in a tile.
    pub(super) columns: usize,
}

impl<'p> Group<'p> {
    /// The products of a plan; `word_bytes`: from one step's words to the next one's. None if they are no products.
    pub fn of(plan: &'p Plan, products: &'p Products, word_bytes: usize) -> Option<Group<'p>> {
        let code = |function: usize| match &plan.functions[function].code {
            Code::Matmul(code) => Some(code),
            _ => None,
        };
        let (mut step, mut before) = (0, 0);
        let member = |own: &'p plan::Member| {
            let across = own.across(products.tiling);
            let second = match &own.second {
                Some(second) => Some((code(second.function)?, second)),
                None => None,
            };
            let columns = own.tile_columns(products.tiling);
            let member = Member { first: code(own.function)?, second, step, across: [before, before + across], columns };
            (step, before) = (step + own.functions().count(), before + across);
            Some(member)
        };
        let members = products.members.iter().map(member).collect::<Option<Vec<_>>>()?;
        (!members.is_empty()).then_some(Group { products, members, word_bytes })
    }

    /// The first product.
    pub fn first(&self) -> &'p Matmul {
        self.members[0].first
    }

    /// Numbers of a row.
    pub fn depth(&self) -> usize {
        self.first().sizes[2]
    }

    /// All products, one for each step.
    pub fn codes(&self) -> Vec<&'p Matmul> {
        self.members.iter().flat_map(|own| std::iter::once(own.first).chain(own.second.map(|(code, _)| code))).collect()
    }

    fn boxes(&self) -> usize {
        self.products.tiling.columns / BOX
    }

    /// Bytes of a stage: rows, then boxes of weights.
    fn stage_bytes(&self) -> usize {
        (1 + self.boxes()) * BOX_BYTES
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> usize {
        ALIGNED + Pipeline::shared_bytes(STAGES, self.stage_bytes())
    }

    /// Emits the body of the entry that multiplies, with the maps of rounded rows and of the weights of each step; `next`: where the last
    /// results go, rounded.
    pub(super) fn emit<'c>(
        &self,
        e: &Emitter<'c>,
        setting: Setting,
        (args, lists): (KernelArgs<'c>, Option<Lists<'c>>),
        (maps, next): (Val<'c>, Option<Next<'c>>),
    ) {
        let memory = e.aligned(e.shared_memory(), ALIGNED);
        let pipeline = Pipeline { e, memory, stages: STAGES, bytes: self.stage_bytes() };
        let work = Work { e, group: self, setting, args, lists, pipeline, next };
        super::roles(e, &pipeline, || work.ask(maps), |group| work.multiply(group));
    }
}

/// One launch.
pub(super) struct Work<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) group: &'k Group<'k>,
    pub(super) setting: Setting,
    args: KernelArgs<'c>,
    /// The order of rows that choose their weights.
    pub(super) lists: Option<Lists<'c>>,
    pipeline: Pipeline<'k, 'c>,
    /// Where the last results go.
    pub(super) next: Option<Next<'c>>,
}

/// A tile: where its rows begin, where there are no more, and its number among those side by side; 32-bit.
#[derive(Clone, Copy)]
pub(super) struct Place<'c> {
    pub(super) row: Val<'c>,
    pub(super) end: Val<'c>,
    across: Val<'c>,
    /// What its rows chose.
    element: Option<Val<'c>>,
}

impl<'c> Work<'_, 'c> {
    /// Stages of a tile.
    fn stages(&self) -> Val<'c> {
        self.e.i32(self.group.depth().div_ceil(NUMBERS) as i32)
    }

    /// What the launch is told of a step.
    pub(super) fn args(&self, step: usize) -> KernelArgs<'c> {
        let operands = self.e.offset_by(self.args.operands, step * self.group.word_bytes);
        KernelArgs { operands, ..self.args }
    }

    /// Does `body` for each tile of the block, with values carried from one to the next.
    fn tiles(&self, start: &[Val<'c>], body: impl FnOnce(Place<'c>, &[Val<'c>]) -> Vec<Val<'c>>) {
        let e = self.e;
        let rows = e.to_i32(e.call_field(self.args.call, Field::Rows));
        let down = self.lists.map_or_else(|| self.down(rows), |lists| lists.count(e));
        let across = e.i32(self.group.products.across() as i32);
        let (block, blocks) = (e.to_i32(e.block_number()), e.to_i32(e.blocks()));
        e.for_loop(block, e.mul(down, across), blocks, start, |number, state| {
            let place = match self.lists {
                None => self.place(number, (down, [e.i32(0), rows]), None),
                Some(lists) => {
                    // As many tiles side by side as there are in each row of tiles.
                    let [element, first, start, end] = lists.tile(e, e.div(number, across));
                    let within = e.sub(number, e.mul(first, across));
                    self.place(within, (self.down(e.sub(end, start)), [start, end]), Some(element))
                }
            };
            body(place, state)
        });
    }

    /// Tiles of so many rows.
    fn down(&self, rows: Val<'c>) -> Val<'c> {
        let e = self.e;
        e.div(e.add(rows, e.i32(TILE_ROWS as i32 - 1)), e.i32(TILE_ROWS as i32))
    }

    /// A tile of so many, one below the other, of the rows from one on to another.
    fn place(&self, number: Val<'c>, (down, [start, end]): (Val<'c>, [Val<'c>; 2]), element: Option<Val<'c>>) -> Place<'c> {
        let e = self.e;
        // Blocks side by side have the same columns, whose weights are then read once.
        let row = e.add(start, e.mul(e.rem(number, down), e.i32(TILE_ROWS as i32)));
        Place { row, end, across: e.div(number, down), element }
    }

    /// Which map each box of a tile is of, and its first column.
    fn boxes(&self, place: Place<'c>) -> Vec<[Val<'c>; 2]> {
        let e = self.e;
        let of = |member: &Member, at: usize| {
            let own = e.mul(e.sub(place.across, e.i32(member.across[0] as i32)), e.i32(member.columns as i32));
            let behind = place.element.map(|element| e.mul(element, e.i32(member.first.sizes[3] as i32)));
            let own = behind.map_or(own, |behind| e.add(own, behind));
            // The map of rows comes first.
            match member.second {
                Some(_) => [e.i32((1 + member.step + at) as i32), own],
                None => [e.i32((1 + member.step) as i32), e.add(own, e.i32((at * BOX) as i32))],
            }
        };
        let boxed = |at: usize| {
            let mut members = self.group.members.iter().rev();
            let last = members.next().map_or([e.i32(0); 2], |member| of(member, at));
            members.fold(last, |behind, member| {
                let inside = e.cmp(Cmp::Lt, place.across, e.i32(member.across[1] as i32));
                let own = of(member, at);
                [0, 1].map(|part| e.select(inside, own[part], behind[part]))
            })
        };
        (0..self.group.boxes()).map(boxed).collect()
    }

    /// One thread asks for all stages of all tiles.
    fn ask(&self, maps: Val<'c>) {
        let e = self.e;
        self.tiles(&[e.i32(0)], |place, state| {
            let boxes = self.boxes(place).into_iter().map(|[map, column]| (e.element(maps, e.to_i64(map), MAP), column));
            let boxes: Vec<(Val, Val)> = boxes.collect();
            e.for_loop(e.i32(0), self.stages(), e.i32(1), state, |stage, state| {
                let turn = state[0];
                let barrier = self.pipeline.begin(turn, self.pipeline.bytes);
                let (to, first) = (self.pipeline.place(turn), e.mul(stage, e.i32(NUMBERS as i32)));
                e.begin_matrix_copy(to, maps, &[first, place.row], barrier);
                for (at, (map, column)) in boxes.iter().enumerate() {
                    e.begin_matrix_copy(e.offset_by(to, (1 + at) * BOX_BYTES), *map, &[first, *column], barrier);
                }
                vec![e.add(turn, e.i32(1))]
            })
        });
    }

    /// Group `group` multiplies its rows of all tiles.
    fn multiply(&self, group: Val<'c>) {
        let e = self.e;
        self.tiles(&[e.i32(0)], |place, state| {
            let turn = state[0];
            if self.lists.is_some() {
                // Few rows chose the same: as a rule its last tile is half empty.
                let there = e.cmp(Cmp::Lt, e.add(place.row, e.mul(group, e.i32(ROWS as i32))), place.end);
                e.if_then(there, || self.tile(place, group, turn));
                e.if_then(e.not(there), || self.pass(turn));
            } else {
                self.tile(place, group, turn);
            }
            vec![e.add(turn, self.stages())]
        });
    }

    /// One lane of each warp.
    fn is_first(&self) -> Val<'c> {
        let e = self.e;
        e.cmp(Cmp::Eq, e.and(e.thread(), e.i32(WARP as i32 - 1)), e.i32(0))
    }

    /// A tile's rows of a group, whose first stage comes with a turn.
    fn tile(&self, place: Place<'c>, group: Val<'c>, turn: Val<'c>) {
        let (e, tiling, first) = (self.e, self.group.products.tiling, self.is_first());
        let one = e.i32(1);
        let start: Vec<Val> = std::iter::once(turn).chain(vec![e.f32(0.0); tiling.columns / 2]).collect();
        let end = e.for_loop(e.i32(0), self.stages(), one, &start, |stage, state| {
            let (turn, sums) = (state[0], &state[1..]);
            self.pipeline.arrive(turn);
            let sums = e.begin_products(&self.operands(turn, group), sums);
            // While these go on, those before are done.
            e.await_products(1);
            e.if_then(e.and(first, e.cmp(Cmp::Gt, stage, e.i32(0))), || self.pipeline.leave(e.sub(turn, one)));
            std::iter::once(e.add(turn, one)).chain(sums).collect()
        });
        e.await_products(0);
        e.if_then(first, || self.pipeline.leave(e.sub(end[0], one)));
        for member in &self.group.members {
            let [from, to] = member.across.map(|tile| e.i32(tile as i32));
            let inside = e.and(e.cmp(Cmp::Ge, place.across, from), e.cmp(Cmp::Lt, place.across, to));
            let column = e.mul(e.sub(place.across, from), e.i32(member.columns as i32));
            e.if_then(inside, || self.finish(member, (place, column), group, &end[1..]));
        }
    }

    /// Lets the stages of a tile go by of which the group has no rows.
    fn pass(&self, turn: Val<'c>) {
        let (e, first) = (self.e, self.is_first());
        for_each(e, turn, e.add(turn, self.stages()), e.i32(1), |turn| {
            self.pipeline.arrive(turn);
            e.if_then(first, || self.pipeline.leave(turn));
        });
    }

    /// What the group's instructions multiply of the stage of a turn.
    fn operands(&self, turn: Val<'c>, group: Val<'c>) -> Vec<(Val<'c>, Val<'c>)> {
        let e = self.e;
        let place = self.pipeline.place(turn);
        let left = e.matrix_at(e.element(place, e.to_i64(group), ROWS * LINE));
        let right = e.matrix_at(e.offset_by(place, BOX_BYTES));
        let behind = |matrix: Val<'c>, at: usize| e.matrix_behind(matrix, e.i64(at * AT_ONCE * 2));
        (0..NUMBERS / AT_ONCE).map(|at| (behind(left, at), behind(right, at))).collect()
    }
}
