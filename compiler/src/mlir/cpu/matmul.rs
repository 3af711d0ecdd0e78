//! Matrix products with packed weights: a register tile of `m` rows times one panel, then the epilogue while the tile is warm.
//!
//! The tile's functions are shared by all products of an artifact ([`Tiles`]). They take row pointers, so that plain rows, several
//! inner rows of a row, and rows that chose the same expert are one case.

use super::{bytes, dot};
use crate::fuse::expr::View;
use crate::fuse::kernel::{BATCH, COLUMN, DEPTH, Matmul, Rows, Store};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each, scratch, stream};
use crate::mlir::common::{Cmp, Elem, Emitter, Field, KernelArgs, Linkage, Ty, Val};
use braid_runtime::artifact::Dtype;

/// The functions that multiply one tile, for one storage of weights and one panel width.
#[derive(Clone, Debug)]
pub struct Tiles {
    weights: Store,
    width: usize,
    /// Row counts, falling; the last is 1.
    rows: Vec<usize>,
}

/// Scratch bytes that a product needs: a tile, its row pointers, a list of chosen rows, and prepared rows: those of a task, or where experts are
/// chosen those of a tile, or all of the call if they are as few as those of a task.
pub fn scratch_bytes(product: &Matmul, setting: Setting) -> usize {
    let prepared = product.prepared().map_or(0, |dtype| setting.schedule.task_rows * dot::row_bytes(product.sizes[2], dtype));
    prepared_at(product.width, setting) + prepared
}

/// Where prepared rows begin in the scratch.
fn prepared_at(width: usize, setting: Setting) -> usize {
    (setting.schedule.tile_rows * (width * 4 + 16)).next_multiple_of(64)
}

impl Tiles {
    /// Those that a product needs.
    pub fn new(product: &Matmul, setting: Setting) -> Tiles {
        let (weights, width) = (product.tensors[product.weights.0].store, product.width);
        let most = match weights {
            Store::Panels(dtype) => dot::most_rows(dtype, width / setting.lanes).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let largest = setting.schedule.tile_rows.min(most);
        let powers = [16, 8, 4, 2, 1].into_iter().filter(|r| *r < largest);
        Tiles { weights, width, rows: std::iter::once(largest).chain(powers).collect() }
    }

    /// Emits the functions.
    pub fn emit(&self, e: &Emitter, setting: Setting) {
        let (weights, width) = (self.weights, self.width);
        if let Store::Panels(dtype) = weights
            && dtype != Dtype::Fp8
        {
            dot::prepare_function(e, dtype, setting.lanes);
        }
        for rows in &self.rows {
            match weights {
                Store::Panels(Dtype::Fp8) => bytes::tile_function(e, &tile_name(*rows, weights, width), *rows, width, setting),
                Store::Panels(dtype) => {
                    dot::tile_function(e, &tile_name(*rows, weights, width), *rows, dtype, width, setting);
                }
                _ => tile_function(e, *rows, weights, width, setting.schedule.ahead),
            }
        }
    }

    /// Does `count` rows (a value), largest tiles first; `tile(rows, first)` does one.
    fn cover<'c>(&self, e: &Emitter<'c>, count: Val<'c>, tile: &mut dyn FnMut(&Emitter<'c>, usize, Val<'c>)) {
        let largest = self.rows[0];
        let whole = e.mul(e.div(count, e.i64(largest)), e.i64(largest));
        for_each(e, e.i64(0), whole, e.i64(largest), |first| tile(e, largest, first));
        let mut done = whole;
        for rows in &self.rows[1..] {
            let fits = e.cmp(Cmp::Ge, e.sub(count, done), e.i64(*rows));
            e.if_then(fits, || tile(e, *rows, done));
            done = e.add(done, e.select(fits, e.i64(*rows), e.i64(0)));
        }
    }
}

fn tile_name(rows: usize, weights: Store, width: usize) -> String {
    let kind = match weights {
        Store::Panels(dtype) => format!("{dtype:?}").to_lowercase(),
        Store::Bf16 => "bf16".to_string(),
        _ => "f32".to_string(),
    };
    format!("tile_{rows}x{width}_{kind}")
}

/// `tile[i][w] = Σ_k row_i[k] · panel[k][w]`. Few rows walk several `k` at once, so that enough sums are under way.
fn tile_function(e: &Emitter, rows: usize, weights: Store, width: usize, ahead: usize) {
    let together = (4 / rows).max(1);
    let name = tile_name(rows, weights, width);
    let parameters = [Ty::PTR, Ty::PTR, Ty::I64, Ty::PTR];
    e.function(&name, Linkage::Private, &parameters, None, |values| {
        let [pointers, panel, depth, tile] = *values else { return None };
        let starts: Vec<Val> = (0..rows).map(|i| e.load(e.offset_by(pointers, 8 * i), Ty::PTR)).collect();
        let panel_row = width * weights.bytes();
        let sums = vec![e.float(Ty::f32(width), 0.0); rows * together];
        let whole = e.mul(e.div(depth, e.i64(together)), e.i64(together));
        let sums = e.for_loop(e.i64(0), whole, e.i64(together), &sums, |k, sums| {
            let mut sums = sums.to_vec();
            for part in 0..together {
                let k = e.add(k, e.i64(part));
                stream(e, e.element(panel, k, panel_row), panel_row, ahead);
                let weight = panel_at(e, panel, k, panel_row, weights, width);
                for (i, start) in starts.iter().enumerate() {
                    let left = e.load(e.offset(*start, e.mul(k, e.i64(4))), Ty::F32);
                    let sum = &mut sums[part * rows + i];
                    *sum = e.fma(e.splat(left, width), weight, *sum);
                }
            }
            sums
        });
        let mut totals: Vec<Val> = sums[..rows].to_vec();
        for part in 1..together {
            for (i, total) in totals.iter_mut().enumerate() {
                *total = e.add(*total, sums[part * rows + i]);
            }
        }
        if together > 1 {
            totals = e.for_loop(whole, depth, e.i64(1), &totals, |k, totals| {
                let weight = panel_at(e, panel, k, panel_row, weights, width);
                let lefts = starts.iter().map(|s| e.load(e.offset(*s, e.mul(k, e.i64(4))), Ty::F32));
                lefts.zip(totals).map(|(left, total)| e.fma(e.splat(left, width), weight, *total)).collect()
            });
        }
        for (i, total) in totals.into_iter().enumerate() {
            e.store(e.offset_by(tile, i * width * 4), total);
        }
        None
    });
}

fn panel_at<'c>(e: &Emitter<'c>, panel: Val<'c>, k: Val<'c>, row: usize, weights: Store, width: usize) -> Val<'c> {
    let place = e.offset(panel, e.mul(k, e.i64(row)));
    match weights {
        Store::Bf16 => e.load_bf16(place, width),
        _ => e.load(place, Ty::f32(width)),
    }
}

/// Emits the kernel of a product.
pub fn emit(e: &Emitter, name: &str, code: &Matmul, setting: Setting) {
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let tiles = Tiles::new(code, setting);
        let mut product = Product { code, tiles, site, setting };
        match &code.chosen {
            // The rows that are prepared are carried from task to task.
            None => {
                e.for_loop(args.begin, args.end, e.i64(1), &[e.i64(-1)], |task, last| {
                    vec![product.plain(e, task, args, last[0])]
                });
            }
            Some((ids, experts)) => {
                let count = product.count(e, args);
                product.prepare_all(e, args, (count, *experts));
                for_each(e, args.begin, args.end, e.i64(1), |task| product.chosen(e, task, args, ids, (count, *experts)));
            }
        }
    });
}

struct Product<'k, 'c> {
    code: &'k Matmul,
    tiles: Tiles,
    site: Site<'k, 'c>,
    setting: Setting,
}

impl<'c> Product<'_, 'c> {
    fn panels(&self) -> usize {
        self.code.sizes[3].div_ceil(self.code.width)
    }

    fn panel_bytes(&self) -> usize {
        match self.site_store() {
            Store::Panels(dtype) => self.code.width * dtype.bytes(self.code.sizes[2]),
            store => self.code.sizes[2] * self.code.width * store.bytes(),
        }
    }

    fn site_store(&self) -> Store {
        self.code.tensors[self.code.weights.0].store
    }

    /// All rows of the call (inner rows counted).
    fn count(&self, e: &Emitter<'c>, args: KernelArgs<'c>) -> Val<'c> {
        let rows = match self.code.rows {
            Rows::Once => e.i64(1),
            Rows::Source | Rows::All => e.call_field(args.call, Field::Rows),
            Rows::Wanted => e.call_field(args.call, Field::Wanted),
        };
        e.mul(rows, e.i64(self.code.sizes[0]))
    }

    fn panel(&self, e: &Emitter<'c>, number: Val<'c>) -> Val<'c> {
        let view = View { tensor: self.code.weights, offset: 0, strides: vec![] };
        e.offset(self.site.address(&view), e.mul(number, e.i64(self.panel_bytes())))
    }

    /// Where row `at` of the prepared ones is.
    fn prepared(&self, e: &Emitter<'c>, args: KernelArgs<'c>, dtype: Dtype, at: Val<'c>) -> Val<'c> {
        let first = scratch(e, args, self.setting, prepared_at(self.code.width, self.setting));
        e.element(first, at, dot::row_bytes(self.code.sizes[2], dtype))
    }

    /// Prepares row number `row` as the one of place `at`.
    fn prepare(&mut self, e: &Emitter<'c>, args: KernelArgs<'c>, dtype: Dtype, (row, at): (Val<'c>, Val<'c>)) {
        self.site.set_product_row(self.code, row);
        self.site.index.insert(DEPTH, e.i64(0));
        let (left, place) = (self.site.address(&self.code.left), self.prepared(e, args, dtype, at));
        e.call(&dot::prepare_name(dtype), &[left, e.i64(self.code.sizes[2]), place], None);
    }

    /// A task is a chunk of rows, a batch element and a panel; rows and element are what is prepared. Gives their number.
    fn plain(&mut self, e: &Emitter<'c>, task: Val<'c>, args: KernelArgs<'c>, last: Val<'c>) -> Val<'c> {
        let (batch, panels) = (self.code.sizes[1], self.panels());
        let number = e.rem(task, e.i64(batch * panels));
        let first = e.mul(e.div(task, e.i64(batch * panels)), e.i64(self.setting.schedule.task_rows));
        let (element, panel) = (e.div(number, e.i64(panels)), e.rem(number, e.i64(panels)));
        let count = e.min(e.sub(self.count(e, args), first), e.i64(self.setting.schedule.task_rows));
        self.site.index.insert(BATCH, element);
        self.site.index.insert(COLUMN, e.mul(panel, e.i64(self.code.width)));
        let rows_and_element = e.div(task, e.i64(panels));
        if let Some(dtype) = self.code.prepared() {
            e.if_then(e.cmp(Cmp::Ne, rows_and_element, last), || {
                for_each(e, e.i64(0), count, e.i64(1), |at| self.prepare(e, args, dtype, (e.add(first, at), at)));
            });
        }
        let weights = self.panel(e, number);
        let tiles = self.tiles.clone();
        tiles.cover(e, count, &mut |e, rows, at| {
            let from = e.add(first, at);
            let numbers: Vec<Val> = (0..rows).map(|i| e.add(from, e.i64(i))).collect();
            self.tile(e, args, weights, (&numbers, Some(at)));
        });
        rows_and_element
    }

    /// Whether each row fetches its own expert: there are no more of them than experts, and room to prepare all of them once for all panels.
    fn few(&self, e: &Emitter<'c>, count: Val<'c>, experts: usize) -> Val<'c> {
        let room = self.code.prepared().map_or(experts, |_| self.setting.schedule.task_rows);
        e.cmp(Cmp::Le, count, e.i64(experts.min(room)))
    }

    /// Prepares all rows, if they are few.
    fn prepare_all(&mut self, e: &Emitter<'c>, args: KernelArgs<'c>, (count, experts): (Val<'c>, usize)) {
        let Some(dtype) = self.code.prepared() else { return };
        let begins = e.cmp(Cmp::Lt, args.begin, args.end);
        e.if_then(e.and(self.few(e, count, experts), begins), || {
            for_each(e, e.i64(0), count, e.i64(1), |at| self.prepare(e, args, dtype, (at, at)));
        });
    }

    /// A task is a panel, of all experts: with few rows each row fetches its own, with many each expert collects its rows.
    fn chosen(&mut self, e: &Emitter<'c>, panel: Val<'c>, args: KernelArgs<'c>, ids: &View, (count, experts): (Val<'c>, usize)) {
        let panels = self.panels();
        self.site.index.insert(BATCH, e.i64(0));
        self.site.index.insert(COLUMN, e.mul(panel, e.i64(self.code.width)));
        let few = self.few(e, count, experts);
        e.if_then(few, || {
            for_each(e, e.i64(0), count, e.i64(1), |m| {
                let id = self.id(e, ids, m);
                let weights = self.panel(e, e.add(e.mul(id, e.i64(panels)), panel));
                self.tile(e, args, weights, (&[m], Some(m)));
            });
        });
        e.if_then(e.not(few), || {
            for_each(e, e.i64(0), e.i64(experts), e.i64(1), |expert| {
                let weights = self.panel(e, e.add(e.mul(expert, e.i64(panels)), panel));
                self.collect(e, args, ids, count, expert, weights);
            });
        });
    }

    /// Walks all rows, multiplies those of one expert in full tiles and what is left in smaller ones.
    fn collect(&mut self, e: &Emitter<'c>, args: KernelArgs<'c>, ids: &View, count: Val<'c>, expert: Val<'c>, weights: Val<'c>) {
        let most = self.tiles.rows[0];
        let list = scratch(e, args, self.setting, self.setting.schedule.tile_rows * (self.code.width * 4 + 8));
        let number = |e: &Emitter<'c>, at: Val<'c>| e.load(e.offset(list, e.mul(at, e.i64(8))), Ty::I64);
        let held = e.for_loop(e.i64(0), count, e.i64(1), &[e.i64(0)], |m, held| {
            let id = self.id(e, ids, m);
            let mine = e.cmp(Cmp::Eq, id, expert);
            e.if_then(mine, || e.store(e.offset(list, e.mul(held[0], e.i64(8))), m));
            let held = e.add(held[0], e.select(mine, e.i64(1), e.i64(0)));
            let full = e.cmp(Cmp::Eq, held, e.i64(most));
            e.if_then(full, || {
                let numbers: Vec<Val> = (0..most).map(|i| number(e, e.i64(i))).collect();
                self.tile(e, args, weights, (&numbers, None));
            });
            vec![e.select(full, e.i64(0), held)]
        });
        let tiles = self.tiles.clone();
        tiles.cover(e, held[0], &mut |e, rows, at| {
            let numbers: Vec<Val> = (0..rows).map(|i| number(e, e.add(at, e.i64(i)))).collect();
            self.tile(e, args, weights, (&numbers, None));
        });
    }

    fn id(&mut self, e: &Emitter<'c>, ids: &View, m: Val<'c>) -> Val<'c> {
        self.site.set_product_row(self.code, m);
        e.convert(e.load(self.site.address(ids), Ty::I32), Elem::I64)
    }

    /// Multiplies the rows of those numbers with a panel and stores the epilogue's values. `prepared`: the place of the first of them,
    /// if they are prepared already.
    fn tile(
        &mut self,
        e: &Emitter<'c>,
        args: KernelArgs<'c>,
        weights: Val<'c>,
        (numbers, prepared): (&[Val<'c>], Option<Val<'c>>),
    ) {
        let width = self.code.width;
        let tile = scratch(e, args, self.setting, 0);
        let pointers = scratch(e, args, self.setting, self.setting.schedule.tile_rows * width * 4);
        self.site.index.insert(DEPTH, e.i64(0));
        for (i, number) in numbers.iter().enumerate() {
            let place = e.offset_by(pointers, 8 * i);
            let Some(dtype) = self.code.prepared() else {
                self.site.set_product_row(self.code, *number);
                e.store(place, self.site.address(&self.code.left));
                continue;
            };
            let at = e.add(prepared.unwrap_or(e.i64(0)), e.i64(i));
            if prepared.is_none() {
                self.prepare(e, args, dtype, (*number, at));
            }
            e.store(place, self.prepared(e, args, dtype, at));
        }
        let depth = e.i64(self.code.sizes[2]);
        e.call(&tile_name(numbers.len(), self.site_store(), width), &[pointers, weights, depth, tile], None);
        let column = self.site.index[&COLUMN];
        self.site.vector = Some(COLUMN);
        self.site.lanes = width;
        let columns = self.code.sizes[3];
        self.site.mask = (!columns.is_multiple_of(width)).then(|| e.mask(width, e.sub(e.i64(columns), column)));
        let back = e.sub(e.i64(0), e.mul(column, e.i64(4)));
        for (i, number) in numbers.iter().enumerate() {
            self.site.set_product_row(self.code, *number);
            self.site.set_base(0, e.offset(e.offset_by(tile, i * width * 4), back));
            let made = value(&self.site, &self.code.epilogue);
            store(&self.site, &self.code.out, made);
        }
        self.site.vector = None;
        self.site.lanes = 1;
        self.site.mask = None;
    }
}
