//! Accuracy of the elementary functions, in units of the last place of the result.

use super::{apply, build, map, targets};
use braid_compiler::mlir::common::{Emitter, Val};

/// Distance in units of the last place of `expected`; equal specials are 0 apart.
fn ulps(got: f32, expected: f64) -> f64 {
    let rounded = expected as f32;
    if rounded.is_nan() || got.is_nan() {
        return if rounded.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if rounded.is_infinite() || got.is_infinite() {
        return if rounded == got { 0.0 } else { f64::INFINITY };
    }
    let exponent = (rounded.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127;
    (f64::from(got) - expected).abs() / 2f64.powi(exponent - 23)
}

fn samples() -> Vec<f32> {
    let mut x = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN, 1e-45, -1e-45, 1e30, -1e30];
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for i in 0..200_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 32) as u32;
        // A third each: any number, everyday numbers, a range where results are finite.
        x.push(match i % 3 {
            0 => f32::from_bits(bits),
            1 => (bits as f32 / u32::MAX as f32 - 0.5) * 8.0,
            _ => (bits as f32 / u32::MAX as f32 - 0.5) * 220.0,
        });
    }
    x.resize(x.len().next_multiple_of(64), 1.0);
    x
}

type Built = for<'c> fn(&Emitter<'c>, Val<'c>) -> Val<'c>;

/// Abramowitz and Stegun's series and continued fraction.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let t = x.abs();
    let value = if t < 3.0 {
        let mut term = t;
        let mut sum = t;
        for n in 1..200 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else if t < 7.0 {
        let mut f = 0.0;
        for n in (1..200).rev() {
            f = f64::from(n) / 2.0 / (t + f);
        }
        1.0 - (-t * t).exp() / (t + f) / std::f64::consts::PI.sqrt()
    } else {
        1.0
    };
    value.copysign(x)
}

/// Name, what is built, what it should give, and by how much it may be off.
type Case = (&'static str, Built, fn(f64) -> f64, f64);

fn cases() -> Vec<Case> {
    vec![
        ("exp", |e, x| e.exp(x), f64::exp, 2.0),
        ("log", |e, x| e.log(x), f64::ln, 2.0),
        ("tanh", |e, x| e.tanh(x), f64::tanh, 3.0),
        ("sigmoid", |e, x| e.sigmoid(x), |x| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }, 3.0),
        ("softplus", |e, x| e.softplus(x), |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 3.0),
        ("erf", |e, x| e.erf(x), erf, 2.0),
        ("sin", |e, x| e.sin(x), f64::sin, 2.0),
        ("cos", |e, x| e.cos(x), f64::cos, 2.0),
        ("sqrt", |e, x| e.sqrt(x), f64::sqrt, 0.5001),
        ("rsqrt", |e, x| e.rsqrt(x), |x| 1.0 / x.sqrt(), 2.0),
        ("floor", |e, x| e.floor(x), f64::floor, 0.0),
        ("round", |e, x| e.round(x), f64::round_ties_even, 0.0),
        ("abs", |e, x| e.abs(x), f64::abs, 0.0),
    ]
}

#[test]
fn functions_are_accurate() {
    let x = samples();
    for target in targets() {
        let shapes = [1, 8, 16, 32];
        let code = build(&target, |e| {
            for (name, f, _, _) in cases() {
                for lanes in shapes {
                    map(e, &format!("{name}{lanes}"), lanes, |x| f(e, x));
                }
            }
        });
        for (name, _, exact, bound) in cases() {
            let mut worst = (0.0, 0.0, 0.0);
            for lanes in shapes {
                let y = apply(&code, &format!("{name}{lanes}"), &x);
                for (x, y) in x.iter().zip(&y) {
                    let mut expected = exact(f64::from(*x));
                    if name == "softplus" && x.is_nan() {
                        expected = f64::NAN;
                    }
                    if name == "sigmoid" && *x == f32::NEG_INFINITY {
                        expected = 0.0;
                    }
                    let off = ulps(*y, expected);
                    if off > worst.0 {
                        worst = (off, *x, *y);
                    }
                }
            }
            println!("{} {name}: {:.3} ulp at {:e} ({:e})", target.name, worst.0, worst.1, worst.2);
            assert!(worst.0 <= bound, "{name}: {} ulp at {:e}, got {:e}", worst.0, worst.1, worst.2);
        }
    }
}

#[test]
fn powers_are_accurate() {
    let x = samples();
    let exponents =
        [-0.0, 0.5, -0.5, 2.0, 3.0, -1.0, 0.25, 1.0 / 3.0, 11.0, 1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 2.4];
    for target in targets() {
        let code = build(&target, |e| {
            for (i, y) in exponents.iter().enumerate() {
                map(e, &format!("pow{i}"), 16, |x| e.pow(x, e.f32(*y)));
                map(e, &format!("scaled{i}"), 1, |x| e.pow(e.f32(*y), x));
            }
        });
        for (i, y) in exponents.iter().enumerate() {
            for (name, swapped) in [("pow", false), ("scaled", true)] {
                let got = apply(&code, &format!("{name}{i}"), &x);
                for (x, got) in x.iter().zip(&got) {
                    let (a, b) = if swapped { (*y, *x) } else { (*x, *y) };
                    let off = ulps(*got, f64::from(a).powf(f64::from(b)));
                    assert!(off <= 1.0, "{a:e} ^ {b:e} gives {got:e}, {off} ulp");
                }
            }
        }
    }
}

#[test]
fn wide_vectors_stay_vectors() {
    use braid_compiler::llvm;
    use braid_compiler::mlir::common::Context;
    use braid_compiler::target::Target;
    let target = Target::parse("cpu:x86-64-v4").expect("known");
    let context = Context::new();
    let e = Emitter::new(&context).scaling(target.has("avx512f"));
    for (name, f, _, _) in cases() {
        map(&e, name, 16, |x| f(&e, x));
    }
    map(&e, "pow", 16, |x| e.pow(x, e.f32(1.5)));
    let lowered = e.finish().expect("verified").lower().expect("lowered");
    let code = llvm::generate(&lowered, &target).expect("generated");
    assert!(code.assembly.contains("zmm"), "512-bit registers are used");
    for scalar in ["vmulss", "vmulsd", "vfmadd213ss", "vfmadd231ss", "vfmadd213sd", "vdivss", "vdivsd", "vroundss", "call"] {
        assert!(!code.assembly.contains(scalar), "{scalar} in vector code");
    }
}
