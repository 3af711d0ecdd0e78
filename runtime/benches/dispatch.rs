//! What it costs to hand work to the pool: the time beyond the work itself, hot (back to back) and after a pause.

use braid_runtime::artifact::Call;
use braid_runtime::cpu::pool::{Pool, default_threads};
use std::time::{Duration, Instant};

/// What one task does.
const WORK: Duration = Duration::from_micros(5);

unsafe extern "C" fn spin(_: *const Call, _: *const i64, begin: i64, end: i64, _: i64) {
    let start = Instant::now();
    while start.elapsed() < WORK * (end - begin) as u32 {
        std::hint::spin_loop();
    }
}

/// The median time of a dispatch of one task for each thread, less the work.
fn excess(pool: &Pool, pause: Duration) -> f64 {
    let once = |_| {
        std::thread::sleep(pause);
        let start = Instant::now();
        // SAFETY: `spin` touches nothing.
        unsafe { pool.run(spin, std::ptr::null(), std::ptr::null(), pool.threads() as i64) };
        start.elapsed().as_secs_f64() * 1e6
    };
    let mut times: Vec<f64> = (0..if pause.is_zero() { 20_000 } else { 500 }).map(once).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2] - WORK.as_secs_f64() * 1e6
}

fn main() {
    let pool = Pool::new(default_threads()).expect("threads");
    let (hot, cold) = (excess(&pool, Duration::ZERO), excess(&pool, Duration::from_millis(1)));
    println!("{} threads: {hot:.2} µs a dispatch hot, {cold:.2} µs after a pause", pool.threads());
}
