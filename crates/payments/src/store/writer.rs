//! How a store writes: commits become durable in the journal, and a thread brings their rows into the database.
//!
//! Batches queue ([`Queue`]), and are committed in the order in which they came, in groups, by a thread of their own or
//! by a caller that has nobody beside it ([`Queue::write_here`]): to wake a thread and to be woken by it takes as long
//! as half a sync. A reader sees everything that was answered before: a read waits until the database has it
//! ([`Progress`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadableTable};

use super::journal::{BODY_BYTES_MAX, Journal, Place, Record, StoreId};
use super::table::Definition;
use super::{Done, JOURNAL_STATE, JOURNAL_STATE_KEY, Row, StoreError, encode};

/// Batches that share one commit at most.
const GROUP_BATCHES_MAX: usize = 1_024;
/// How long rows may gather before the database takes them, where nobody wants to read.
const GATHERING: Duration = Duration::from_millis(5);
/// How many records gather at most.
const GATHERED_RECORDS_MAX: usize = 256;
/// A disk that takes no longer than this may be waited for where other work could go on.
const QUICK: Duration = Duration::from_millis(1);
/// How long a group may grow where several batches came at once.
const SHARING: Duration = Duration::from_micros(300);
/// After how long without a commit the database is synced.
const REST: Duration = Duration::from_secs(1);

/// A batch that is to be made durable.
pub(super) struct Job {
    pub(super) rows: Vec<Row>,
    pub(super) done: Done,
}

/// Where rows are that go straight into the database.
#[derive(Debug, Default)]
enum Straight {
    #[default]
    Written,
    Waiting(Vec<Row>),
    Taken,
}

/// What the database is to take.
#[derive(Debug, Default)]
struct State {
    /// Records that are durable in the journal, oldest first. Their bytes are bounded by the journal's halves.
    gathered: Vec<Record>,
    /// Rows that no record can hold: they go straight into the database, after what is gathered.
    straight: Straight,
    /// The last number that is durable in the journal.
    journaled: u64,
    /// The last number whose rows can be read.
    applied: u64,
    /// The last number whose rows are durable in the database.
    durable: u64,
    /// The last number that somebody waits to read.
    wanted: u64,
    /// Whether the database is to be synced, because half of the journal is full.
    is_sync_due: bool,
    /// Whether nobody can write any more.
    is_closing: bool,
    /// Why the database takes nothing any more.
    failure: Option<StoreError>,
}

impl State {
    /// Whether the database's thread must not let rows gather any longer.
    fn is_pressing(&self) -> bool {
        let is_wanted = self.wanted > self.applied && !self.gathered.is_empty();
        is_wanted
            || self.is_sync_due
            || self.is_closing
            || matches!(self.straight, Straight::Waiting(_))
            || self.gathered.len() >= GATHERED_RECORDS_MAX
    }
}

/// What lies between the journal and the database.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    /// For the database's thread: there is something to take.
    work: Condvar,
    /// For all others: the database is further.
    further: Condvar,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the database is as far as `is_reached` wants it.
    fn wait_until(
        &self,
        mut state: MutexGuard<'_, State>,
        is_reached: impl Fn(&State) -> bool,
    ) -> Result<(), StoreError> {
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if is_reached(&state) {
                return Ok(());
            }
            let waited = self.further.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until everything that was answered can be read.
    ///
    /// # Errors
    /// When the database takes nothing any more.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        let journaled = state.journaled;
        if state.applied < journaled {
            state.wanted = journaled;
            self.work.notify_one();
        }
        self.wait_until(state, |state| state.applied >= journaled)
    }

    /// Tells the database's thread what it has to do.
    fn ask(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.work.notify_one();
    }

    /// Adds a record that is durable in the journal: from now on, readers wait for it. Returns whether the
    /// database's thread has to be woken for it.
    fn gather(&self, record: Record) -> bool {
        let mut state = self.lock();
        let was_empty = state.gathered.is_empty();
        state.journaled = record.number;
        state.gathered.push(record);
        was_empty || state.is_pressing()
    }
}

/// The database, as its thread writes it.
pub(super) struct Applier {
    pub(super) database: Arc<Database>,
    /// The store that its journal belongs to.
    pub(super) id: StoreId,
    /// The last number that it has.
    pub(super) applied: u64,
    pub(super) progress: Arc<Progress>,
}

impl Applier {
    /// Writes rows in one transaction, and how far the journal is with it.
    pub(super) fn write<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Row> + Clone,
        last: Option<u64>,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(durability)?;
        // Each table is opened once, because to open one costs more than to write a row.
        let names: BTreeSet<&str> = rows.clone().map(|row| &*row.table).collect();
        for name in names {
            let mut table = write.open_table(Definition::new(name))?;
            for row in rows.clone().filter(|row| row.table == name) {
                let key = row.key.as_slice();
                if row.is_new_only && table.get(key)?.is_some() {
                    continue;
                }
                match &row.value {
                    Some(value) => table.insert(key, value.as_slice())?,
                    None => table.remove(key)?,
                };
            }
        }
        let applied = last.unwrap_or(self.applied);
        let state = encode(&(self.id, applied))?;
        write
            .open_table(JOURNAL_STATE)?
            .insert(JOURNAL_STATE_KEY, state.as_slice())?;
        write.commit()?;
        self.applied = applied;
        Ok(())
    }

    /// Takes what gathers until nobody can write any more, and leaves everything durable.
    fn run(mut self) {
        let progress = Arc::clone(&self.progress);
        let _ended = Ended(Arc::clone(&progress));
        let mut is_synced = true;
        loop {
            let taken = next(&progress, is_synced);
            let outcome = self.take(&taken);
            is_synced = matches!(taken.durability, Durability::Immediate);
            let mut state = progress.lock();
            if let Err(failure) = outcome {
                state.failure = Some(failure);
            } else {
                state.applied = self.applied;
                if is_synced {
                    state.durable = self.applied;
                }
                if matches!(state.straight, Straight::Taken) {
                    state.straight = Straight::Written;
                }
            }
            let ends = taken.is_last || state.failure.is_some();
            drop(state);
            progress.further.notify_all();
            if ends {
                return;
            }
        }
    }

    fn take(&mut self, taken: &Taken) -> Result<(), StoreError> {
        let last = taken.records.last().map(|record| record.number);
        let rows = taken.records.iter().flat_map(|record| &record.rows);
        self.write(rows.chain(&taken.straight), last, taken.durability)
    }
}

/// Tells those who wait that the database's thread has ended, even if it panicked.
struct Ended(Arc<Progress>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().failure.get_or_insert(StoreError::Stopped);
        self.0.further.notify_all();
    }
}

/// What the database takes in one transaction.
struct Taken {
    records: Vec<Record>,
    straight: Vec<Row>,
    durability: Durability,
    is_last: bool,
}

/// Waits until the database has something to take, or, if it is not `is_synced`, to be synced.
fn next(progress: &Progress, is_synced: bool) -> Taken {
    let mut state = progress.lock();
    let mut has_rested = false;
    while !state.is_pressing() && state.gathered.is_empty() && !has_rested {
        state = if is_synced {
            let woken = progress.work.wait(state);
            woken.unwrap_or_else(PoisonError::into_inner)
        } else {
            let woken = progress.work.wait_timeout(state, REST);
            let (state, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
            has_rested = timeout.timed_out();
            state
        };
    }
    if !has_rested {
        let gathering = progress
            .work
            .wait_timeout_while(state, GATHERING, |state| !state.is_pressing());
        (state, _) = gathering.unwrap_or_else(PoisonError::into_inner);
    }
    let straight = match std::mem::take(&mut state.straight) {
        Straight::Waiting(rows) => {
            state.straight = Straight::Taken;
            rows
        }
        Straight::Written | Straight::Taken => Vec::new(),
    };
    let is_sync_due = has_rested || state.is_sync_due || state.is_closing || !straight.is_empty();
    state.is_sync_due = false;
    Taken {
        records: std::mem::take(&mut state.gathered),
        straight,
        durability: if is_sync_due {
            Durability::Immediate
        } else {
            Durability::None
        },
        is_last: state.is_closing,
    }
}

/// Makes commits durable, group by group, in the order in which they came.
pub(super) struct Writer {
    to: To,
    progress: Arc<Progress>,
    /// How long the last write took.
    last_append: Duration,
}

enum To {
    /// The journal, with the number of its last record. The database has a thread of its own.
    Journal(Journal, u64),
    /// The database, which is synced at each commit.
    Database(Applier),
}

impl Writer {
    /// A writer that syncs the database at each commit.
    pub(super) fn without_journal(applier: Applier) -> Self {
        Self {
            progress: Arc::clone(&applier.progress),
            to: To::Database(applier),
            last_append: Duration::ZERO,
        }
    }

    /// A writer that syncs `journal`, and the database from time to time, from a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn with_journal(journal: Journal, applier: Applier) -> std::io::Result<Self> {
        let progress = Arc::clone(&applier.progress);
        let last_number = applier.applied;
        let mut state = progress.lock();
        state.journaled = last_number;
        state.applied = last_number;
        state.durable = last_number;
        drop(state);
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || applier.run())?;
        Ok(Self {
            to: To::Journal(journal, last_number),
            progress,
            last_append: Duration::ZERO,
        })
    }

    /// How far the database is.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Makes rows durable and answers those who wait for it.
    fn commit(&mut self, rows: Vec<Row>, answers: Vec<Done>) -> Result<(), StoreError> {
        let answer = |outcome: Result<(), StoreError>| {
            for done in answers {
                done(outcome.clone());
            }
            outcome
        };
        if rows.is_empty() {
            return answer(Ok(()));
        }
        match &mut self.to {
            To::Database(applier) => {
                answer(applier.write(rows.iter(), None, Durability::Immediate))
            }
            To::Journal(journal, last_number) => {
                let number = *last_number + 1;
                let started = Instant::now();
                let appended = append(journal, number, &rows, &self.progress);
                self.last_append = started.elapsed();
                match appended {
                    Ok(true) => {
                        *last_number = number;
                        let is_work = self.progress.gather(Record { number, rows });
                        // Those who wait go on before the database's thread wants a core for it.
                        let outcome = answer(Ok(()));
                        if is_work {
                            self.progress.work.notify_one();
                        }
                        outcome
                    }
                    Ok(false) => answer(write_straight(rows, &self.progress)),
                    Err(error) => answer(Err(error)),
                }
            }
        }
    }
}

/// Makes `rows` durable in the journal; `false` if no record can hold them.
fn append(
    journal: &mut Journal,
    number: u64,
    rows: &[Row],
    progress: &Progress,
) -> Result<bool, StoreError> {
    let Some(place) = journal
        .prepare(number, rows)
        .map_err(|_| StoreError::Format)?
    else {
        return Ok(false);
    };
    if let Place::OtherHalf { after } = place {
        progress.wait_until(progress.lock(), |state| state.durable >= after)?;
        journal.turn_over();
        progress.ask(|state| state.is_sync_due = true);
    } else if let Some(failure) = &progress.lock().failure {
        return Err(failure.clone());
    }
    journal.append(number)?;
    Ok(true)
}

/// Makes `rows` durable in the database, after everything that is gathered.
fn write_straight(rows: Vec<Row>, progress: &Progress) -> Result<(), StoreError> {
    progress.ask(|state| state.straight = Straight::Waiting(rows));
    progress.wait_until(progress.lock(), |state| {
        matches!(state.straight, Straight::Written)
    })
}

/// Takes the jobs that go into one record: as many as fit, one at least.
fn next_group(waiting: &mut VecDeque<Job>) -> (Vec<Row>, Vec<Done>) {
    let (mut rows, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some(job) = waiting.front() {
        bytes += job.rows.iter().map(Row::bytes_max).sum::<usize>();
        let is_full = bytes > BODY_BYTES_MAX || answers.len() == GROUP_BATCHES_MAX;
        if is_full && !answers.is_empty() {
            break;
        }
        if let Some(job) = waiting.pop_front() {
            rows.extend(job.rows);
            answers.push(job.done);
        }
    }
    (rows, answers)
}

/// Batches that wait to be committed, and the writer that commits them.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// For the queue's thread: there is something to commit.
    work: Condvar,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Whether nobody can add any more.
    is_closed: bool,
    /// Whether the disk failed.
    is_stopped: bool,
}

/// Tells those who wait that the queue's thread has ended, even if it panicked.
struct Stopped<'a>(&'a Queue);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Queue {
    /// A queue in front of `writer`, with its thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(writer: Writer) -> std::io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            waiting: Mutex::default(),
            work: Condvar::new(),
            writer: Mutex::new(writer),
        });
        let committing = Arc::clone(&queue);
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                let stopped = Stopped(&committing);
                committing.run();
                drop(stopped);
            })?;
        Ok(queue)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs while the lock is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job, which is committed when the queue is next told to.
    ///
    /// # Errors
    /// Gives the job's `done` back when the disk has failed.
    pub(super) fn add(&self, job: Job) -> Result<(), Done> {
        let mut waiting = self.waiting();
        if waiting.is_stopped {
            return Err(job.done);
        }
        waiting.jobs.push_back(job);
        Ok(())
    }

    /// Has the queue's thread commit what waits.
    pub(super) fn wake(&self) {
        self.work.notify_one();
    }

    /// Commits what waits on this thread, where nobody else does and the disk is quick.
    pub(super) fn write_here(&self) {
        match self.writer.try_lock() {
            Ok(writer) if writer.last_append < QUICK => {
                self.write_all(writer);
            }
            _ => self.wake(),
        }
    }

    /// Takes nothing any more; what waits is still committed.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.wake();
    }

    fn run(&self) {
        let mut largest = 0;
        loop {
            let waiting = self.work.wait_while(self.waiting(), |waiting| {
                waiting.jobs.is_empty() && !waiting.is_closed
            });
            let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            if waiting.jobs.is_empty() {
                break;
            }
            drop(waiting);
            if largest > 1 {
                // Where several came at once, several more are about to, and share this sync.
                thread::sleep(SHARING);
            }
            match self.writer.lock() {
                Ok(writer) => largest = self.write_all(writer),
                // A caller panicked in the middle of a commit, so nothing is certain any more.
                Err(_) => self.stop(),
            }
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.progress.ask(|state| state.is_closing = true);
    }

    /// Commits what waits. Returns how many batches the largest group had.
    fn write_all(&self, mut writer: MutexGuard<'_, Writer>) -> usize {
        let mut largest = 0;
        loop {
            let (rows, answers) = next_group(&mut self.waiting().jobs);
            if answers.is_empty() {
                return largest;
            }
            largest = largest.max(answers.len());
            if writer.commit(rows, answers).is_err() {
                drop(writer);
                self.stop();
                return largest;
            }
        }
    }

    /// Tells those who wait that nothing is promised any more.
    fn stop(&self) {
        let forsaken = {
            let mut waiting = self.waiting();
            waiting.is_stopped = true;
            std::mem::take(&mut waiting.jobs)
        };
        for job in forsaken {
            (job.done)(Err(StoreError::Stopped));
        }
    }
}
