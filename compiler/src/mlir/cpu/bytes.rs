//! Tiles of products with weights of eight bits (e4m3): a group's numbers become single precision in registers, times the scale of their column, and
//! meet rows as they are.

use crate::mlir::common::site::{Setting, stream};
use crate::mlir::common::{Cmp, Emitter, Linkage, Ty, Val};
use braid_runtime::artifact::{Dtype, GROUP};

/// Emits the function of one tile, `(pointers to rows, panel, depth, tile)`. Few rows walk several numbers of a column at once, so that enough sums are
/// under way.
pub fn tile_function(e: &Emitter, name: &str, rows: usize, width: usize, setting: Setting) {
    e.function(name, Linkage::Private, &[Ty::PTR, Ty::PTR, Ty::I64, Ty::PTR], None, |values| {
        let [pointers, panel, depth, tile] = *values else { return None };
        let lefts = (0..rows).map(|i| e.load(e.offset_by(pointers, 8 * i), Ty::PTR)).collect();
        let own = Tile { e, width, ahead: setting.schedule.ahead, lefts, panel, together: (4 / rows).max(1) };
        let groups = e.div(depth, e.i64(GROUP));
        let zeros = vec![e.float(Ty::f32(width), 0.0); rows * own.together];
        let sums =
            e.for_loop(e.i64(0), groups, e.i64(1), &zeros, |group, sums| own.group(group, e.i64(GROUP), own.together, sums));
        let sums: Vec<Val> = (0..rows)
            .map(|row| sums.iter().skip(row).step_by(rows).copied().reduce(|a, b| e.add(a, b)).unwrap_or(zeros[0]))
            .collect();
        let rest = e.rem(depth, e.i64(GROUP));
        let sums = e.if_else(e.cmp(Cmp::Gt, rest, e.i64(0)), || own.group(groups, rest, 1, &sums), || sums.clone());
        for (i, sum) in sums.into_iter().enumerate() {
            e.store(e.offset_by(tile, 4 * width * i), sum);
        }
        None
    });
}

struct Tile<'k, 'c> {
    e: &'k Emitter<'c>,
    width: usize,
    ahead: usize,
    lefts: Vec<Val<'c>>,
    panel: Val<'c>,
    together: usize,
}

impl<'c> Tile<'_, 'c> {
    /// The sums with so many numbers of a group's columns more.
    fn group(&self, group: Val<'c>, count: Val<'c>, together: usize, sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, width) = (self.e, self.width);
        let bytes = width * Dtype::Fp8.bytes(GROUP);
        let place = e.element(self.panel, group, bytes);
        let scales = e.load_f16(place, width);
        let (numbers, first) = (e.offset_by(place, 2 * width), e.mul(group, e.i64(GROUP)));
        e.for_loop(e.i64(0), count, e.i64(together), sums, |at, sums| {
            let mut sums = sums.to_vec();
            for part in 0..together {
                let at = e.add(at, e.i64(part));
                let row = e.element(numbers, at, width);
                stream(e, row, width, self.ahead);
                let weights = e.mul(e.load_e4m3(row, width), scales);
                let depth = e.add(first, at);
                for (i, left) in self.lefts.iter().enumerate() {
                    let left = e.load(e.element(*left, depth, 4), Ty::F32);
                    let sum = &mut sums[part * self.lefts.len() + i];
                    *sum = e.fma(e.splat(left, width), weights, *sum);
                }
            }
            sums
        })
    }
}
