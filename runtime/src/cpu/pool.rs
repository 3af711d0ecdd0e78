//! Threads that wait for kernels: a few hundred nanoseconds from dispatch to work while hot, asleep when nothing comes.
//!
//! One job at a time. The dispatching thread writes the job, opens the *gate*, works on the tasks itself, closes the gate and waits
//! only for the workers that came in: a worker that sleeps or was descheduled never holds a job up. The gate is one atomic word,
//! `epoch · open bit · number of workers inside`, so that "is this job still open" and "I am in" are one step.

use crate::artifact::{Call, Kernel};
use crate::error::{Error, Result};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker spins for the next job before it sleeps: longer than the gaps between the kernels of one call.
const SPIN: Duration = Duration::from_micros(100);
/// Chunks that each thread gets on average, so that a slow thread does not hold the last ones.
const CHUNKS: i64 = 4;
/// Most threads of a pool.
pub const MOST: usize = 1024;

/// The low bits of the gate: workers inside.
const INSIDE: u64 = 0xffff;
/// Workers may enter.
const OPEN: u64 = 1 << 16;
/// Added for each job.
const EPOCH: u64 = 1 << 17;

/// What the workers run.
#[derive(Clone, Copy)]
struct Job {
    kernel: Kernel,
    call: *const Call,
    operands: *const i64,
    tasks: i64,
    chunk: i64,
}

/// A value alone on its cache lines (two, as the prefetcher fetches pairs).
#[repr(align(128))]
struct Alone<T>(T);

struct Shared {
    gate: Alone<AtomicU64>,
    next: Alone<AtomicI64>,
    job: Alone<UnsafeCell<Option<Job>>>,
    sleeping: Alone<AtomicUsize>,
    quit: AtomicBool,
}

// SAFETY: `job` is the only field that is not Sync. It is written by the dispatching thread while the gate is closed and nobody
// is inside, and read only by threads that are inside. Its pointers stay valid until `run` returns, which waits for all inside.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

/// A pool of threads; the thread that dispatches is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Set while a job runs: dispatching from two threads, or from inside a kernel, runs the second job on one thread.
    busy: AtomicBool,
}

/// As many threads as this process may use cores.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl Pool {
    /// Starts `threads - 1` workers.
    pub fn new(threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            gate: Alone(AtomicU64::new(0)),
            next: Alone(AtomicI64::new(0)),
            job: Alone(UnsafeCell::new(None)),
            sleeping: Alone(AtomicUsize::new(0)),
            quit: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new(), busy: AtomicBool::new(false) };
        for thread in 1..threads.clamp(1, MOST) {
            let shared = Arc::clone(&pool.shared);
            let builder = thread::Builder::new().name(format!("braid-{thread}"));
            let worker = builder.spawn(move || work(&shared, thread as i64));
            pool.workers.push(
                worker
                    .map_err(|error| Error::input(format!("cannot start thread {thread}: {error}"), "use fewer `--threads`"))?,
            );
        }
        Ok(pool)
    }

    /// Threads that run tasks, the dispatching one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs all tasks of a kernel and returns when they are done.
    ///
    /// # Safety
    /// `kernel` may be called with `call` and `operands` from any thread, for any part of `0..tasks`, concurrently.
    pub unsafe fn run(&self, kernel: Kernel, call: *const Call, operands: *const i64, tasks: i64) {
        if tasks <= 0 {
            return;
        }
        let alone = tasks == 1 || self.workers.is_empty() || self.busy.swap(true, Ordering::Acquire);
        if alone {
            // SAFETY: handed on to the caller.
            return unsafe { kernel(call, operands, 0, tasks, 0) };
        }
        let chunk = (tasks / (self.threads() as i64 * CHUNKS)).max(1);
        let job = Job { kernel, call, operands, tasks, chunk };
        let shared = &*self.shared;
        // SAFETY: the gate is closed, nobody is inside (the end of the last `run` waited for that), and `busy` keeps others out.
        unsafe { *shared.job.0.get() = Some(job) };
        shared.next.0.store(0, Ordering::Relaxed);
        shared.gate.0.fetch_add(EPOCH | OPEN, Ordering::SeqCst);
        self.wake();
        shared.take(job, 0);
        shared.gate.0.fetch_and(!OPEN, Ordering::Relaxed);
        wait(|| shared.gate.0.load(Ordering::Acquire) & INSIDE == 0);
        self.busy.store(false, Ordering::Release);
    }

    fn wake(&self) {
        if self.shared.sleeping.0.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        self.workers.drain(..).for_each(|worker| drop(worker.join()));
    }
}

impl Shared {
    /// Does chunks of a job until none is left.
    fn take(&self, job: Job, thread: i64) {
        loop {
            let begin = self.next.0.fetch_add(job.chunk, Ordering::Relaxed);
            if begin >= job.tasks {
                return;
            }
            let end = (begin + job.chunk).min(job.tasks);
            // SAFETY: promised by the caller of `run`, who is still waiting for this thread.
            unsafe { (job.kernel)(job.call, job.operands, begin, end, thread) };
        }
    }

    /// Enters the open job, if it is not the one of `seen`; returns its epoch.
    fn enter(&self, seen: u64) -> Option<u64> {
        let mut gate = self.gate.0.load(Ordering::Relaxed);
        loop {
            if gate & OPEN == 0 || gate / EPOCH == seen {
                return None;
            }
            match self.gate.0.compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(gate / EPOCH),
                Err(now) => gate = now,
            }
        }
    }
}

/// The life of a worker.
fn work(shared: &Shared, thread: i64) {
    let mut seen = 0;
    let mut since = Instant::now();
    while !shared.quit.load(Ordering::Relaxed) {
        if let Some(epoch) = shared.enter(seen) {
            seen = epoch;
            // SAFETY: inside, hence nobody writes; the Acquire of `enter` saw the write before the gate opened.
            if let Some(job) = unsafe { *shared.job.0.get() } {
                shared.take(job, thread);
            }
            shared.gate.0.fetch_sub(1, Ordering::Release);
            since = Instant::now();
        } else if since.elapsed() < SPIN {
            (0..16).for_each(|_| std::hint::spin_loop());
        } else {
            sleep(shared, seen);
            since = Instant::now();
        }
    }
}

/// Sleeps until the next dispatch. Announces itself first and looks again, so that no dispatch is missed.
fn sleep(shared: &Shared, seen: u64) {
    shared.sleeping.0.fetch_add(1, Ordering::SeqCst);
    let gate = shared.gate.0.load(Ordering::SeqCst);
    let missed = gate & OPEN != 0 && gate / EPOCH != seen;
    if !missed && !shared.quit.load(Ordering::SeqCst) {
        thread::park();
    }
    shared.sleeping.0.fetch_sub(1, Ordering::SeqCst);
}

/// Spins; after a while lets others run, as the one waited for may need this core.
fn wait(done: impl Fn() -> bool) {
    let mut turns = 0u32;
    while !done() {
        turns = turns.saturating_add(1);
        if turns < 4096 { std::hint::spin_loop() } else { thread::yield_now() }
    }
}

/// `Call::parallel` for calls whose `pool` is a [`Pool`].
///
/// # Safety
/// `(*call).pool` points to a living [`Pool`]; for the rest see [`Pool::run`].
pub unsafe extern "C" fn parallel(call: *const Call, kernel: Kernel, operands: *const i64, tasks: i64) {
    // SAFETY: promised by the caller.
    unsafe { (*(*call).pool.cast::<Pool>()).run(kernel, call, operands, tasks) }
}

/// What to put in `Call::pool`.
pub fn handle(pool: &Pool) -> *mut c_void {
    std::ptr::from_ref(pool).cast_mut().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds one to each task's cell and notes which threads came by.
    unsafe extern "C" fn count(_: *const Call, operands: *const i64, begin: i64, end: i64, thread: i64) {
        // SAFETY: the tests pass the address of a slice with a cell for each task, and one for the threads behind.
        unsafe {
            let cells = *operands as *const AtomicI64;
            (begin..end).for_each(|task| {
                (*cells.add(task as usize)).fetch_add(1, Ordering::Relaxed);
            });
            (*(*operands.add(1) as *const AtomicI64)).fetch_or(1 << thread, Ordering::Relaxed);
        }
    }

    fn dispatch(pool: &Pool, tasks: usize) -> i64 {
        let cells: Vec<AtomicI64> = (0..tasks).map(|_| AtomicI64::new(0)).collect();
        let seen = AtomicI64::new(0);
        let operands = [cells.as_ptr() as i64, &raw const seen as i64];
        // SAFETY: `count` is given what it wants.
        unsafe { pool.run(count, std::ptr::null(), operands.as_ptr(), tasks as i64) };
        assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 1), "a task was lost or done twice");
        seen.load(Ordering::Relaxed)
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..300 {
                let seen = dispatch(&pool, round % 67);
                assert!(seen < 1 << threads);
                if round % 100 == 99 {
                    thread::sleep(Duration::from_millis(1)); // past SPIN: the workers go to sleep and must come back
                }
            }
        }
    }

    #[test]
    fn dispatching_from_many_threads_is_safe() {
        let pool = Pool::new(4).unwrap();
        thread::scope(|scope| {
            (0..4).for_each(|_| {
                drop(scope.spawn(|| {
                    (0..200).for_each(|n| {
                        dispatch(&pool, n);
                    })
                }))
            })
        });
    }
}
