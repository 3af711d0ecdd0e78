//! The matrix units of groups of four warps (sm_90a): products that go on while the group does something else.

use melior::ir::attribute::StringAttribute;

use super::copies::COPY;
use super::emitter::{Emitter, Val};
use super::ty::Ty;

impl<'c> Emitter<'c> {
    /// What describes a matrix at an address in shared memory, a multiple of 1024, to the matrix units: rows of 128 bytes, one behind the
    /// other, whose pieces of 16 bytes are exchanged: piece `p` of row `r` lies where `p ^ (r % 8)` would.
    pub fn matrix_at(&self, address: Val<'c>) -> Val<'c> {
        self.turned_matrix_at(address, COPY)
    }

    /// The same of one whose columns lie as such lines: 64 of a column are a line, and the next 64 of all columns so many bytes behind.
    pub fn turned_matrix_at(&self, address: Val<'c>, part: usize) -> Val<'c> {
        let number = self.op("llvm.ptrtoint", &[address], &[], Ty::I64);
        let place = self.shift_right(self.and(number, self.i64(0x3FFFF)), 4);
        // In units of 16 bytes: eight rows take 1024; the two highest bits say how pieces are exchanged.
        self.or(place, self.i64((1_usize << 62) | (64_usize << 32) | ((part / COPY) << 16)))
    }

    /// The matrix that begins so many bytes (an `i64`, a multiple of 16) behind.
    pub fn matrix_behind(&self, matrix: Val<'c>, bytes: Val<'c>) -> Val<'c> {
        self.add(matrix, self.shift_right(bytes, 4))
    }

    /// Begins to add products of bfloat16 matrices, 64 rows and 16 columns by 16 rows and some columns (which lie as rows), to sums:
    /// a lane of warp `w` of the group has columns `8 j + 2 (l % 4)` and the next of rows `16 w + l / 4` and of that plus 8.
    pub fn begin_products(&self, pairs: &[(Val<'c>, Val<'c>)], sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let [one, bf16] = [self.attribute("#nvvm.wgmma_scale_in<one>"), self.attribute("#nvvm.wgmma_type<bf16>")];
        let shape = self.attribute_of(format!("#nvvm.shape<m = 64, n = {}, k = 16>", 2 * sums.len()));
        let attributes = [
            ("shape", shape),
            ("typeA", bf16),
            ("typeB", bf16),
            ("typeD", self.attribute("#nvvm.wgmma_type<f32>")),
            ("scaleD", self.attribute("#nvvm.wgmma_scale_out<one>")),
            ("scaleA", one),
            ("scaleB", one),
            ("layoutA", self.attribute("#nvvm.mma_layout<row>")),
            ("layoutB", self.attribute("#nvvm.mma_layout<col>")),
        ];
        self.op_none("nvvm.wgmma.fence.aligned", &[], &[]);
        let members = vec![Ty::F32; sums.len()];
        let mut all = self.whole_of(sums);
        for (left, right) in pairs {
            all = self.op_whole("nvvm.wgmma.mma_async", &[all, *left, *right], &attributes, &members);
        }
        self.op_none("nvvm.wgmma.commit.group.sync.aligned", &[], &[]);
        self.members(all, &members)
    }

    /// The same with the left matrices in registers, four pairs of bfloat16 numbers of a lane for each right one, which is turned: of its two
    /// rows columns `2 (l % 4)` and the next, then of both rows those eight behind. Sums of scores lie so, rounded and packed by two. No
    /// register of theirs may change before the products are there.
    pub fn begin_products_of(&self, left: &[Val<'c>], right: &[Val<'c>], sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let count = sums.len();
        let list = |numbers: std::ops::Range<usize>| numbers.map(|at| format!("${at}")).collect::<Vec<_>>().join(", ");
        let one = |at: usize| {
            let (own, matrix) = (2 * count + 4 * at, 2 * count + left.len() + at);
            format!(
                "wgmma.mma_async.sync.aligned.m64n{}k16.f32.bf16.bf16 {{{}}}, {{{}}}, ${matrix}, adds, 1, 1, 1;\n\t",
                2 * count,
                list(0..count),
                list(own..own + 4)
            )
        };
        let all: String = (0..right.len()).map(one).collect();
        let adds = ".reg .pred adds;\n\tsetp.eq.b32 adds, 0, 0;\n\t";
        let text = format!("{{\n\t{adds}wgmma.fence.sync.aligned;\n\t{all}wgmma.commit_group.sync.aligned;\n\t}}");
        self.changing(&text, sums, &[(left, "r"), (right, "l")])
    }

    /// Waits until of what was begun, one [`Emitter::begin_products`] after the other, at most the last `begun` are not there yet.
    pub fn await_products(&self, begun: usize) {
        self.op_none("nvvm.wgmma.wait.group.sync.aligned", &[], &[("group", self.i64_attribute(begun as i64))]);
    }

    /// The same, with the sums that are there then: they are nothing before.
    pub fn await_products_of(&self, begun: usize, values: &[Val<'c>]) -> Vec<Val<'c>> {
        self.changing(&format!("wgmma.wait_group.sync.aligned {begun};"), values, &[])
    }

    /// Instructions that change sums, and read some values of a kind of register each.
    fn changing(&self, text: &str, values: &[Val<'c>], others: &[(&[Val<'c>], &str)]) -> Vec<Val<'c>> {
        let made = values.iter().map(|_| "=f".to_owned());
        let changed = (0..values.len()).map(|at| at.to_string());
        let read = others.iter().flat_map(|(values, kind)| values.iter().map(|_| (*kind).to_owned()));
        let all: Vec<String> = made.chain(changed).chain(read).chain(std::iter::once("~{memory}".to_owned())).collect();
        let attributes = [
            ("asm_string", StringAttribute::new(self.cx(), text).into()),
            ("constraints", StringAttribute::new(self.cx(), &all.join(",")).into()),
            ("has_side_effects", self.attribute("unit")),
        ];
        let operands: Vec<Val> = values.iter().chain(others.iter().flat_map(|(values, _)| values.iter())).copied().collect();
        self.op_members("llvm.inline_asm", &operands, &attributes, &vec![Ty::F32; values.len()])
    }

    /// By all threads of a group of four warps: from here on each has so many registers, fewer than before.
    pub fn give_registers(&self, count: usize) {
        self.set_registers(count, "#nvvm<action decrease>");
    }

    /// The same with more of them, which others gave.
    pub fn take_registers(&self, count: usize) {
        self.set_registers(count, "#nvvm<action increase>");
    }

    fn set_registers(&self, count: usize, action: &'static str) {
        let attributes = [("regCount", self.i32_attribute(count as i64)), ("action", self.attribute(action))];
        self.op_none("nvvm.setmaxregister", &[], &attributes);
    }
}
