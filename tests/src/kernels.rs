//! Generated code against plain Rust: functions are built with the emitter, linked, loaded and called.

use braid_compiler::llvm;
use braid_compiler::mlir::common::{Context, Emitter, Linkage, Ty, Val};
use braid_compiler::target::Target;

pub mod attention;
mod math;
mod skeletons;

/// A loaded library; its file goes with it.
pub struct Loaded {
    library: libloading::Library,
    path: std::path::PathBuf,
}

impl Loaded {
    /// The address of an exported function.
    pub fn symbol(&self, name: &str) -> *const () {
        // SAFETY: only the address is taken; the caller says what it is.
        let symbol = unsafe { self.library.get::<*const ()>(name.as_bytes()) }.expect("the library exports the function");
        // SAFETY: functions are addresses.
        unsafe { symbol.into_raw().as_raw_ptr() as *const () }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Targets that this machine can run.
pub fn targets() -> Vec<Target> {
    let host = Target::parse("cpu").expect("the machine is supported");
    let narrow = Target::parse("cpu:x86-64-v3").expect("known");
    if host == narrow { vec![host] } else { vec![host, narrow] }
}

/// Builds, links and loads what `fill` appends.
pub fn build(target: &Target, fill: impl FnOnce(&Emitter<'_>)) -> Loaded {
    let context = Context::new();
    let emitter = Emitter::new(&context).scaling(target.has("avx512f"));
    fill(&emitter);
    let module = emitter.finish().expect("verified");
    let code = llvm::generate(&module.lower().expect("lowered"), target).expect("generated");
    let bytes = llvm::link(&[&code.object], target).expect("linked");
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("braid-kernels-{}-{count}.so", std::process::id()));
    std::fs::write(&path, bytes).expect("written");
    // SAFETY: the library has no initialisers.
    let library = unsafe { libloading::Library::new(&path) }.expect("loaded");
    Loaded { library, path }
}

/// A function `(in, out, count)` that applies `f` to vectors of `lanes`.
pub fn map<'c>(e: &Emitter<'c>, name: &str, lanes: usize, f: impl Fn(Val<'c>) -> Val<'c>) {
    e.function(name, Linkage::Public, &[Ty::PTR, Ty::PTR, Ty::I64], None, |v| {
        e.for_loop(e.i64(0), v[2], e.i64(lanes), &[], |i, _| {
            let x = e.load(e.element(v[0], i, 4), Ty::f32(lanes));
            e.store(e.element(v[1], i, 4), f(x));
            Vec::new()
        });
        None
    });
}

/// Calls a function made by [`map`].
pub fn apply(code: &Loaded, name: &str, input: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; input.len()];
    // SAFETY: the function has this type; both arrays hold `count` numbers.
    unsafe {
        let f: unsafe extern "C" fn(*const f32, *mut f32, i64) = std::mem::transmute(code.symbol(name));
        f(input.as_ptr(), output.as_mut_ptr(), input.len() as i64);
    }
    output
}

#[test]
fn tails_are_masked() {
    for target in targets() {
        let lanes = target.lanes();
        let code = build(&target, |e| {
            e.function("half", Linkage::Public, &[Ty::PTR, Ty::PTR, Ty::I64], None, |v| {
                let mask = e.mask(lanes, v[2]);
                let x = e.load_masked(v[0], mask, Ty::f32(lanes));
                e.store_masked(v[1], mask, e.mul(x, e.f32(0.5)));
                None
            });
        });
        // SAFETY: the function has this type and touches `count` numbers.
        let f: unsafe extern "C" fn(*const f32, *mut f32, i64) = unsafe { std::mem::transmute(code.symbol("half")) };
        for count in 0..=lanes {
            let input: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let mut output = vec![-1.0; lanes];
            unsafe { f(input.as_ptr(), output.as_mut_ptr(), count as i64) };
            for (i, got) in output.iter().enumerate() {
                assert_eq!(*got, if i < count { i as f32 * 0.5 } else { -1.0 });
            }
        }
    }
}

#[test]
fn tables_and_indirect_calls_work() {
    let target = &targets()[0];
    let code = build(target, |e| {
        e.table_i64("numbers", &[3, 5, 7, 11]);
        for (name, factor) in [("twice", 2), ("thrice", 3)] {
            e.function(name, Linkage::Private, &[Ty::I64], Some(Ty::I64), |v| Some(e.mul(v[0], e.i64(factor))));
        }
        e.table_functions("functions", &["twice", "thrice"]);
        e.function("run", Linkage::Public, &[Ty::I64, Ty::I64], Some(Ty::I64), |v| {
            let number = e.load(e.element(e.address_of("numbers"), v[0], 8), Ty::I64);
            let function = e.load(e.element(e.address_of("functions"), v[1], 8), Ty::PTR);
            e.call_indirect(function, &[number], Some(Ty::I64))
        });
    });
    // SAFETY: the function has this type.
    let run: unsafe extern "C" fn(i64, i64) -> i64 = unsafe { std::mem::transmute(code.symbol("run")) };
    assert_eq!(unsafe { (run(0, 0), run(3, 1), run(2, 0)) }, (6, 33, 14));
}

#[test]
fn loops_branches_gathers_and_reductions_work() {
    for target in targets() {
        let lanes = target.lanes();
        let code = build(&target, |e| {
            e.function("sum", Linkage::Public, &[Ty::PTR, Ty::I64], Some(Ty::F32), |v| {
                let zero = e.constant_of(Ty::f32(lanes), 0.0);
                let total = e.for_loop(e.i64(0), v[1], e.i64(lanes), &[zero], |i, carried| {
                    let mask = e.mask(lanes, e.sub(v[1], i));
                    // Every other number, by gather.
                    let places = e.mul(e.to_i64(e.iota(lanes)), e.i64(8));
                    let x = e.gather(e.element(v[0], i, 8), places, mask, Ty::f32(lanes));
                    vec![e.add(carried[0], x)]
                });
                let sum = e.reduce_add(total[0]);
                let big = e.cmp(braid_compiler::mlir::common::Cmp::Gt, sum, e.f32(100.0));
                Some(e.if_else(big, || vec![e.f32(100.0)], || vec![sum])[0])
            });
        });
        // SAFETY: the function has this type and reads every other one of `2 · count` numbers.
        let sum: unsafe extern "C" fn(*const f32, i64) -> f32 = unsafe { std::mem::transmute(code.symbol("sum")) };
        for count in [0, 1, 7, 12, 40] {
            let numbers: Vec<f32> = (0..2 * count).map(|i| i as f32 * 0.5).collect();
            let expected: f32 = numbers.iter().step_by(2).sum();
            assert_eq!(unsafe { sum(numbers.as_ptr(), count as i64) }, expected.min(100.0));
        }
    }
}
