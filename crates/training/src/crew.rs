//! The threads of a trainer, each with room to compute in.
//!
//! Threads split outputs: a task owns the part of a result that it writes, so who computes it and when changes nothing.

use std::sync::{Mutex, PoisonError};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::arithmetic;

pub(crate) struct Crew {
    /// None with one thread, which is the caller's.
    pool: Option<ThreadPool>,
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Crew {
    pub(crate) fn new(threads: usize, scratch_floats: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = if threads > 1 {
            let named = |index| format!("training {index}");
            let builder = ThreadPoolBuilder::new().num_threads(threads);
            Some(builder.thread_name(named).build()?)
        } else {
            None
        };
        let scratch = (0..threads).map(|_| Mutex::new(vec![0.0; scratch_floats]));
        Ok(Self {
            pool,
            scratch: scratch.collect(),
        })
    }

    /// Whether this thread and all of the crew compute as IEEE 754 says.
    pub(crate) fn computes_as_standard(&self) -> bool {
        let mut all = arithmetic::is_standard();
        if let Some(pool) = &self.pool {
            all &= pool
                .broadcast(|_| arithmetic::is_standard())
                .iter()
                .all(|is| *is);
        }
        all
    }

    pub(crate) fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Runs `work` on every task, with room of the thread that runs it, and returns when all are done.
    pub(crate) fn each<T: Send>(&self, tasks: Vec<T>, work: impl Fn(T, &mut [f32]) + Sync) {
        let Some(pool) = &self.pool else {
            let mut scratch = self.scratch[0]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for task in tasks {
                work(task, &mut scratch);
            }
            return;
        };
        pool.install(|| {
            tasks.into_par_iter().with_max_len(1).for_each(|task| {
                let index = rayon::current_thread_index().expect("tasks run in the pool");
                let mut scratch = self.scratch[index]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                work(task, &mut scratch);
            });
        });
    }
}
