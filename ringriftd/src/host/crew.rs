//! Threads for what may block: disks, user directories. One does all of it, piece after piece, as long as that goes on; while
//! a piece hangs, others join, up to a bound, so that nobody waits behind a dead disk who does not need it. A few join where
//! pieces go on but wait long: a slow disk answers several at once.
//!
//! A thread for each piece would start as many threads as there are units, at the one moment when a node has the least time
//! for it.
//!
//! Read first: [`Crew::run`], then [`Work::look`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::limits::{CREW_LOOK, CREW_SLOW, CREW_USUAL, PREPARE_AT_ONCE};

/// Why a piece of work has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It hangs. Its thread is lost until it returns.
    Hangs,
    /// It was never begun: every thread hangs.
    NotBegun,
    /// It panicked.
    Panicked,
}

/// The threads, and what waits for them. Cloning it is cheap, and gives the same ones.
#[derive(Debug, Clone)]
pub struct Crew(Arc<Mutex<Work>>);

#[derive(Default)]
struct Work {
    /// Threads that there may be.
    most: usize,
    waiting: VecDeque<Piece>,
    under_way: BTreeMap<u64, UnderWay>,
    threads: usize,
    last: u64,
    /// When a piece was begun or ended last.
    moved: Option<Instant>,
    is_watched: bool,
}

struct Piece {
    work: Box<dyn FnOnce() + Send>,
    lost: oneshot::Sender<Lost>,
    timeout: Duration,
    since: Instant,
}

struct UnderWay {
    /// Taken when it was told that it hangs.
    lost: Option<oneshot::Sender<Lost>>,
    timeout: Duration,
    since: Instant,
}

/// What is to be done about what was seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Join,
    Wait,
    Done,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("waiting", &self.waiting.len())
            .field("under_way", &self.under_way.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Default for Crew {
    fn default() -> Self {
        Self::of(PREPARE_AT_ONCE)
    }
}

impl Crew {
    /// Of so many threads at most.
    pub fn of(most: usize) -> Self {
        let work = Work {
            most,
            ..Work::default()
        };
        Self(Arc::new(Mutex::new(work)))
    }

    /// Does `work` on a thread and gives what it gives. It counts as hanging `timeout` after its begin, and is given up
    /// unbegun when every thread hangs for as long. Must be called inside a tokio runtime. Whoever no longer waits is not
    /// worked for, unless it has begun.
    pub async fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let (done_tx, mut done) = oneshot::channel();
        let (lost_tx, mut lost) = oneshot::channel();
        let piece = Piece {
            work: Box::new(move || {
                // Nobody may wait any more.
                let _ = done_tx.send(work());
            }),
            lost: lost_tx,
            timeout,
            since: Instant::now(),
        };
        self.take(piece);
        tokio::select! {
            biased;
            done = &mut done => match done {
                Ok(done) => Ok(done),
                // Dropped: by a panic, or unbegun, which is told.
                Err(_) => Err(lost.try_recv().unwrap_or(Lost::Panicked)),
            },
            Ok(lost) = &mut lost => Err(lost),
        }
    }

    /// How many threads there are, those that hang included.
    #[cfg(test)]
    pub fn threads(&self) -> usize {
        self.lock().threads
    }

    fn take(&self, piece: Piece) {
        let (is_alone, is_watched) = {
            let mut work = self.lock();
            work.waiting.push_back(piece);
            let is_alone = work.threads == 0;
            work.threads += usize::from(is_alone);
            (is_alone, std::mem::replace(&mut work.is_watched, true))
        };
        if is_alone {
            self.join();
        }
        if !is_watched {
            tokio::spawn(self.clone().watch());
        }
    }

    /// Another thread, which has been counted.
    fn join(&self) {
        let mut hand = Hand {
            crew: self.clone(),
            at: None,
            is_counted: true,
        };
        tokio::task::spawn_blocking(move || while hand.work() {});
    }

    async fn watch(self) {
        loop {
            tokio::time::sleep(CREW_LOOK).await;
            let seen = self.lock().look(Instant::now());
            match seen {
                Seen::Join => self.join(),
                Seen::Wait => {}
                Seen::Done => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // No piece runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// A piece is begun now: its number.
    fn begin(&mut self, lost: oneshot::Sender<Lost>, timeout: Duration) -> u64 {
        let now = Instant::now();
        self.moved = Some(now);
        self.last += 1;
        let under_way = UnderWay {
            lost: Some(lost),
            timeout,
            since: now,
        };
        self.under_way.insert(self.last, under_way);
        self.last
    }

    /// Gives up what hangs; says whether a thread is to join, which is counted then.
    fn look(&mut self, now: Instant) -> Seen {
        let since = |at: Instant| now.saturating_duration_since(at);
        for piece in self.under_way.values_mut() {
            if since(piece.since) >= piece.timeout
                && let Some(lost) = piece.lost.take()
            {
                // Nobody may wait any more.
                let _ = lost.send(Lost::Hangs);
            }
        }
        self.waiting.retain(|piece| !piece.lost.is_closed());
        if self.waiting.is_empty() {
            let is_done = self.under_way.values().all(|piece| piece.lost.is_none());
            self.is_watched = !is_done;
            return if is_done { Seen::Done } else { Seen::Wait };
        }
        let still = self.moved.map_or(Duration::MAX, since);
        let waits = self
            .waiting
            .front()
            .map_or(Duration::ZERO, |piece| since(piece.since));
        let is_slow = waits >= CREW_SLOW && self.threads < CREW_USUAL;
        if (still >= CREW_LOOK || is_slow) && self.threads < self.most {
            self.threads += 1;
            return Seen::Join;
        }
        let is_hopeless = |piece: &Piece| still.min(since(piece.since)) >= piece.timeout;
        let (hopeless, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(is_hopeless);
        self.waiting = waiting;
        for piece in hopeless {
            let _ = piece.lost.send(Lost::NotBegun);
        }
        Seen::Wait
    }
}

/// A thread at work.
struct Hand {
    crew: Crew,
    /// The piece that it has begun.
    at: Option<u64>,
    /// It counts as a thread.
    is_counted: bool,
}

impl Hand {
    /// Does one piece. False when there is none.
    fn work(&mut self) -> bool {
        let crew = self.crew.clone();
        let piece = {
            let mut work = crew.lock();
            self.end(&mut work);
            let next = std::iter::from_fn(|| work.waiting.pop_front()).find(|piece| !piece.lost.is_closed());
            let Some(piece) = next else {
                // Under the same lock: whoever brings the next piece is to see that nobody is here for it.
                self.leave(&mut work);
                return false;
            };
            self.at = Some(work.begin(piece.lost, piece.timeout));
            piece.work
        };
        piece();
        true
    }

    fn end(&mut self, work: &mut Work) {
        if let Some(nr) = self.at.take() {
            work.under_way.remove(&nr);
            work.moved = Some(Instant::now());
        }
    }

    fn leave(&mut self, work: &mut Work) {
        if std::mem::take(&mut self.is_counted) {
            work.threads -= 1;
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let crew = self.crew.clone();
        let mut work = crew.lock();
        self.end(&mut work);
        self.leave(&mut work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(30);

    #[tokio::test(flavor = "current_thread")]
    async fn one_thread_does_what_does_not_hang() {
        let crew = Crew::default();
        let all = (0..500).map(|n| {
            let crew = crew.clone();
            tokio::spawn(async move { crew.run(LONG, move || (n, std::thread::current().id())).await })
        });
        let mut threads = std::collections::BTreeSet::new();
        for (n, task) in all.collect::<Vec<_>>().into_iter().enumerate() {
            let (done, thread) = task.await.expect("no panic").expect("done");
            assert_eq!(done, n);
            threads.insert(format!("{thread:?}"));
        }
        // More than one only where the machine held one up for long.
        assert!(threads.len() < 50, "{}", threads.len());
    }

    /// Work that goes on, the oldest piece of which waits for so long, with so many threads.
    fn seen(waits: Duration, threads: usize, most: usize) -> Seen {
        let begun = Instant::now();
        let (lost, _waits_for_it) = oneshot::channel();
        let piece = Piece {
            work: Box::new(|| ()),
            lost,
            timeout: LONG,
            since: begun,
        };
        let mut work = Work {
            most,
            waiting: VecDeque::from([piece]),
            threads,
            moved: Some(begun + waits),
            ..Work::default()
        };
        work.look(begun + waits)
    }

    #[test]
    fn a_few_join_where_work_goes_on_slowly() {
        assert_eq!(seen(CREW_SLOW / 2, 1, PREPARE_AT_ONCE), Seen::Wait);
        assert_eq!(seen(CREW_SLOW, 1, PREPARE_AT_ONCE), Seen::Join);
        assert_eq!(seen(CREW_SLOW, CREW_USUAL, PREPARE_AT_ONCE), Seen::Wait);
        assert_eq!(seen(CREW_SLOW, 2, 2), Seen::Wait);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_more_are_lost_than_there_may_be() {
        let crew = Crew::of(2);
        let (mut releases, mut hanging) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let (release, hang) = mpsc::channel::<()>();
            releases.push(release);
            hanging.push(tokio::spawn({
                let crew = crew.clone();
                async move { crew.run(SHORT, move || hang.recv().is_err()).await }
            }));
        }
        for (n, task) in hanging.into_iter().enumerate() {
            let lost = if n < 2 { Lost::Hangs } else { Lost::NotBegun };
            assert_eq!(task.await.expect("no panic"), Err(lost));
        }
        assert_eq!(crew.threads(), 2);
        drop(releases);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn others_are_done_while_one_hangs_and_it_comes_back() {
        let crew = Crew::default();
        let (release, hang) = mpsc::channel::<()>();
        let hanging = crew.run(SHORT, move || hang.recv().is_ok()).await;
        assert_eq!(hanging, Err(Lost::Hangs));
        assert_eq!(crew.threads(), 1);
        assert_eq!(crew.run(LONG, || 7).await, Ok(7));
        release.send(()).expect("it listens");
        while crew.threads() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn when_every_thread_hangs_the_others_are_told() {
        let crew = Crew::default();
        let mut releases = Vec::new();
        let mut hanging = Vec::new();
        for _ in 0..PREPARE_AT_ONCE {
            let (release, hang) = mpsc::channel::<()>();
            releases.push(release);
            let crew = crew.clone();
            hanging.push(tokio::spawn(async move {
                crew.run(LONG, move || hang.recv().is_err()).await
            }));
        }
        while crew.lock().under_way.len() < PREPARE_AT_ONCE {
            tokio::time::sleep(CREW_LOOK).await;
        }
        assert_eq!(crew.run(SHORT, || ()).await, Err(Lost::NotBegun));
        drop(releases);
        for task in hanging {
            assert_eq!(task.await.expect("no panic"), Ok(true));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_panic_is_told_and_the_next_is_done() {
        let crew = Crew::default();
        let lost = crew.run(LONG, || panic!("as a test wants it")).await;
        assert_eq!(lost, Err::<(), _>(Lost::Panicked));
        assert_eq!(crew.run(LONG, || 7).await, Ok(7));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_works_for_who_no_longer_waits() {
        let crew = Crew::default();
        let (release, hang) = mpsc::channel::<()>();
        let first = {
            let crew = crew.clone();
            tokio::spawn(async move { crew.run(LONG, move || hang.recv().is_err()).await })
        };
        while crew.lock().under_way.is_empty() {
            tokio::task::yield_now().await;
        }
        let (said, heard) = mpsc::channel::<()>();
        let impatient = crew.run(LONG, move || said.send(()));
        assert!(tokio::time::timeout(Duration::ZERO, impatient).await.is_err());
        drop(release);
        assert_eq!(first.await.expect("no panic"), Ok(true));
        assert!(heard.recv().is_err(), "it was dropped unbegun");
    }
}
