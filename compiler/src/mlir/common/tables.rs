//! The tables of a call: what belongs to its rows and sequences. On a GPU those of short calls are copied to shared memory before
//! the first step, as each step would wait for them again.

use std::mem::offset_of;

use braid_runtime::artifact::Segment;

use super::abi::Field;
use super::arith::Cmp;
use super::emitter::{Emitter, Val};
use super::ty::Ty;

/// Most rows of a call whose tables are copied.
pub const SHORT: usize = 16;
/// The copies: of 32-bit numbers for each row, then of segments.
const COPIES: &str = "tables";
const NUMBERS: [Field; 3] = [Field::Positions, Field::RowSegments, Field::WantedRows];
const SEGMENTS_AT: usize = 4 * SHORT * NUMBERS.len();
const BYTES: usize = SEGMENTS_AT + SHORT * size_of::<Segment>();

/// The fields of a [`Segment`], as 64-bit integers.
#[derive(Clone, Copy)]
pub struct SegmentFields<'c> {
    /// Whose states.
    pub slot: Val<'c>,
    /// First row.
    pub row: Val<'c>,
    /// How many rows.
    pub rows: Val<'c>,
    /// Absolute position of the first row.
    pub position: Val<'c>,
    /// Positions of the source that the caches hold.
    pub source: Val<'c>,
}

impl<'c> Emitter<'c> {
    /// Entry `index` (an `i64`) of the call's table of segments.
    pub fn segment(&self, call: Val<'c>, index: Val<'c>) -> SegmentFields<'c> {
        let at = self.mul(index, self.i64(size_of::<Segment>()));
        let field =
            |offset: usize| self.to_i64(self.number(call, Field::SegmentTable, self.add(at, self.i64(offset)), SEGMENTS_AT));
        SegmentFields {
            slot: field(offset_of!(Segment, slot)),
            row: field(offset_of!(Segment, row)),
            rows: field(offset_of!(Segment, rows)),
            position: field(offset_of!(Segment, position)),
            source: field(offset_of!(Segment, source)),
        }
    }

    /// Entry `index` (an `i64`) of one of the call's tables of 32-bit integers, as an `i64`.
    pub fn table_entry(&self, call: Val<'c>, table: Field, index: Val<'c>) -> Val<'c> {
        let Some(which) = NUMBERS.iter().position(|known| *known == table) else {
            self.fault("the call has no such table of numbers");
            return self.i64(0);
        };
        self.to_i64(self.number(call, table, self.mul(index, self.i64(4)), 4 * SHORT * which))
    }

    /// The 32-bit number `bytes` into a table, whose copy begins at byte `copy`.
    fn number(&self, call: Val<'c>, table: Field, bytes: Val<'c>, copy: usize) -> Val<'c> {
        let given = || self.load(self.offset(self.device_memory(self.call_field(call, table)), bytes), Ty::I32);
        if !self.is_device() {
            return given();
        }
        let copied = || self.load(self.offset(self.offset_by(self.shared_place(COPIES, BYTES), copy), bytes), Ty::I32);
        self.if_else(self.is_short(call), || vec![copied()], || vec![given()])[0]
    }

    fn is_short(&self, call: Val<'c>) -> Val<'c> {
        self.cmp(Cmp::Le, self.call_field(call, Field::Rows), self.i64(SHORT))
    }

    /// Copies the tables of a short call, a number a thread; of `threads` threads. They must meet before anyone reads them.
    pub fn copy_tables(&self, call: Val<'c>, threads: usize) {
        let copies = self.shared_place(COPIES, BYTES);
        let copy = |table: Field, count: Val<'c>, at: usize| {
            let from = self.device_memory(self.call_field(call, table));
            self.for_loop(self.to_i64(self.thread()), count, self.i64(threads), &[], |number, _| {
                let word = self.load(self.element(from, number, 4), Ty::I32);
                self.store(self.element(self.offset_by(copies, at), number, 4), word);
                vec![]
            });
        };
        self.if_then(self.is_short(call), || {
            let rows = self.call_field(call, Field::Rows);
            copy(NUMBERS[0], rows, 0);
            copy(NUMBERS[1], rows, 4 * SHORT);
            copy(NUMBERS[2], self.call_field(call, Field::Wanted), 8 * SHORT);
            let words = self.mul(self.call_field(call, Field::Segments), self.i64(size_of::<Segment>() / 4));
            copy(Field::SegmentTable, words, SEGMENTS_AT);
        });
    }
}
