//! Tasks in another order: those of a group side by side, so that what belongs to a group, or is shared by its rows, is made once for many of them.

use super::walk::Task;
use super::{Head, Work};
use crate::mlir::common::{Cmp, Field, Val};

/// Tasks of one group and one sequence that follow each other. They count the heads of a row, then the rows.
#[derive(Clone, Copy)]
pub struct Run<'c> {
    /// The group.
    pub group: Val<'c>,
    /// The number of its first task in the group.
    pub first: Val<'c>,
    /// How many there are.
    pub count: Val<'c>,
}

impl<'c> Work<'_, 'c> {
    /// Visits the tasks of the call in runs, of at most so many.
    pub(super) fn runs(&mut self, most: Option<usize>, visit: impl FnOnce(&mut Self, Run<'c>)) {
        let e = self.e;
        let parts = self.parts();
        let of_group = e.mul(e.call_field(self.args.call, Field::Rows), parts);
        let end = self.args.end;
        e.while_loop(
            &[self.args.begin],
            |at| e.cmp(Cmp::Lt, at[0], end),
            |at| {
                let (group, first) = (e.div(at[0], of_group), e.rem(at[0], of_group));
                let own = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, e.div(first, parts)));
                let sequence = e.sub(e.mul(e.add(own.row, own.rows), parts), first);
                let count = e.min(sequence, e.sub(end, at[0]));
                let count = most.map_or(count, |most| e.min(count, e.i64(most)));
                visit(self, Run { group, first, count });
                vec![e.add(at[0], count)]
            },
        );
    }

    /// Row and part of a task of a run.
    pub(super) fn place(&self, run: Run<'c>, number: Val<'c>) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        let task = e.add(run.first, number);
        (e.div(task, self.parts()), e.rem(task, self.parts()))
    }

    /// The heads of some tasks of a run, in their order, and what they look at together. Who is not there looks as the last one does.
    pub(super) fn looking(&mut self, run: Run<'c>, numbers: &[Val<'c>]) -> (Task<'c>, Vec<Head<'c>>) {
        let e = self.e;
        let mut tasks = Vec::new();
        let mut heads = Vec::new();
        for number in numbers {
            let (row, part) = self.place(run, e.min(*number, e.sub(run.count, e.i64(1))));
            let (task, first) = self.task_at(row, run.group, part);
            for head in self.heads(&task, first, self.code.heads_of_a_task()) {
                heads.push(Head { row: Some(row), ..head });
            }
            tasks.push(task);
        }
        (Task { until: tasks[tasks.len() - 1].query, ..tasks[0] }, heads)
    }

    /// Tasks of a row and group.
    pub(super) fn parts(&self) -> Val<'c> {
        self.e.i64(self.code.per / self.code.heads_of_a_task())
    }
}
