//! What becomes of rotated files: they are packed, and removed when they are too old or when all logs together are too
//! large. A thread of its own with little priority does it, which the writer tells what to look at and never waits for; the
//! two share only a unit's place, and that for a few calls (a new name, a removal), never while bytes are read or written.
//!
//! It may be killed at any instruction: a file that is being packed has a name that nobody reads, until it is whole, on
//! the disk, and read back; then it gets its name in one step, and only then the plain file is removed. What is left over
//! (a file half packed, or a plain one beside a packed one) is cleared away by the next logger.
//!
//! Read first: [`Shelf`] and `Keeping::look`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::dir::Found;
use super::packed::pack;
use super::place::Shared;
use crate::limits::{
    LOG_AGE_LOOK_MAX, LOG_AGE_LOOK_MIN, LOG_PACK_MAX, LOG_PACK_NICE, LOG_PACK_RETRY, LOG_SHELF_END,
    LOG_TOTAL_SLACK,
};

/// How a unit's older files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Rotated files are packed.
    pub is_packed: bool,
    /// A rotated file whose newest line is older is removed.
    pub max_age: Option<Duration>,
}

/// What the writer and the thread share.
#[derive(Debug, Default)]
pub struct Shelf {
    orders: Mutex<Orders>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    units: BTreeMap<String, Keep>,
    /// All logs together, in bytes.
    max_total: Option<u64>,
    /// Bytes written since the sum was taken.
    grown: u64,
    /// There is something to be looked at.
    is_news: bool,
    is_over: bool,
}

impl Shelf {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, mut orders: MutexGuard<'_, Orders>) {
        orders.is_news = true;
        drop(orders);
        self.news.notify_one();
    }

    /// How a unit's files are kept from now on.
    pub fn keep(&self, unit: &str, keep: Keep) {
        let mut orders = self.orders();
        if orders.units.get(unit) != Some(&keep) {
            orders.units.insert(unit.to_owned(), keep);
            self.tell(orders);
        }
    }

    /// How large all logs may be together.
    pub fn set_total(&self, max_total: Option<u64>) {
        let mut orders = self.orders();
        if orders.max_total != max_total {
            orders.max_total = max_total;
            self.tell(orders);
        }
    }

    /// A unit's file was rotated.
    pub fn rotated(&self) {
        self.tell(self.orders());
    }

    /// So many bytes were written.
    pub fn grew(&self, bytes: u64) {
        let mut orders = self.orders();
        let Some(total) = orders.max_total else { return };
        orders.grown += bytes;
        if orders.grown > total / LOG_TOTAL_SLACK {
            orders.grown = 0;
            self.tell(orders);
        }
    }

    fn is_over(&self) -> bool {
        self.orders().is_over
    }

    /// Waits for news, at most until `due`.
    fn wait(&self, due: Option<Instant>) {
        let mut orders = self.orders();
        while !orders.is_news && !orders.is_over {
            orders = match due.map(|due| due.saturating_duration_since(Instant::now())) {
                None => self.news.wait(orders).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.news.wait_timeout(orders, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        orders.is_news = false;
    }
}

/// The thread. When this is dropped it ends with the frame that it is packing; a disk that takes longer is not waited for.
#[derive(Debug)]
pub struct Keeping {
    shared: Arc<Shared>,
    /// Disconnected when the thread has ended, and holds nothing any more.
    ended: Receiver<()>,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let mut orders = self.shared.shelf.orders();
        orders.is_over = true;
        self.shared.shelf.tell(orders);
        let _ = self.ended.recv_timeout(LOG_SHELF_END);
    }
}

/// What one look came to.
#[derive(Debug, Default)]
struct Looked {
    /// When something will be too old.
    due: Option<Instant>,
    /// Something could not be done.
    has_failed: bool,
}

impl Keeping {
    /// Starts the thread. Without one logs are written all the same, and said so.
    pub fn start(shared: Arc<Shared>) -> Self {
        let (end, ended) = channel();
        let keeping = Self {
            shared: shared.clone(),
            ended,
        };
        let thread = std::thread::Builder::new().name("log-shelf".to_owned());
        let job = move || {
            let _end = end; // dropped after all that the thread holds
            be_modest();
            let mut work = Work {
                shared,
                said: BTreeSet::new(),
            };
            if let Err(e) = work.shared.dir.remove_leftovers() {
                work.say("", &e);
            }
            work.run();
        };
        if let Err(e) = thread.spawn(job) {
            crate::say!(
                "ringriftd logger: cannot start the thread that packs logs: {e}; they stay as they are"
            );
        }
        keeping
    }
}

/// This thread runs, and reads and writes, when others leave it room.
fn be_modest() {
    // SAFETY: two numbers; 0 is the calling thread, as Linux counts (setpriority(2), "C library/kernel differences").
    #[allow(unsafe_code)]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, LOG_PACK_NICE);
    }
}

struct Work {
    shared: Arc<Shared>,
    /// Units of which a fault was said that has not gone.
    said: BTreeSet<String>,
}

impl Work {
    fn run(&mut self) {
        let mut due = None;
        loop {
            self.shared.shelf.wait(due);
            if self.shared.shelf.is_over() {
                return;
            }
            let looked = match self.look() {
                Ok(looked) => looked,
                Err(e) => {
                    self.say("", &e);
                    Looked {
                        due: None,
                        has_failed: true,
                    }
                }
            };
            let again = looked.has_failed.then(|| Instant::now() + LOG_PACK_RETRY);
            due = looked.due.into_iter().chain(again).min();
        }
    }

    /// Says once that something cannot be done with a unit's older files.
    fn say(&mut self, unit: &str, error: &io::Error) {
        if self.said.insert(unit.to_owned()) {
            let whose = match unit {
                "" => "logs".to_owned(),
                unit => format!("the older logs of {unit}"),
            };
            crate::say!(
                "ringriftd logger: cannot tidy {whose}: {error}; they stay as they are until that is mended"
            );
        }
    }

    /// Does what is to be done now.
    fn look(&mut self) -> io::Result<Looked> {
        let (units, total) = {
            let orders = self.shared.shelf.orders();
            (orders.units.clone(), orders.max_total)
        };
        let mut looked = Looked::default();
        // The oldest first: it is removed first, and waits longest for being packed.
        let mut all = self.shared.dir.list()?;
        all.sort_by(|a, b| (&a.unit, b.index, !a.is_packed).cmp(&(&b.unit, a.index, !b.is_packed)));
        let mut failed = BTreeSet::new();
        for found in all.iter().filter(|found| found.index > 0) {
            let Some(keep) = units.get(&found.unit) else {
                continue;
            };
            if self.shared.shelf.is_over() {
                return Ok(looked);
            }
            match self.tend(found, *keep) {
                Ok(due) => looked.due = looked.due.into_iter().chain(due).min(),
                Err(e) => {
                    self.say(&found.unit, &e);
                    failed.insert(found.unit.clone());
                }
            }
        }
        looked.has_failed = !failed.is_empty();
        self.said.retain(|unit| failed.contains(unit));
        if let Some(total) = total {
            self.bound(total)?;
        }
        Ok(looked)
    }

    /// One older file: removed, packed, or left alone. Returns when it will be too old.
    fn tend(&mut self, found: &Found, keep: Keep) -> io::Result<Option<Instant>> {
        let mut due = None;
        if let Some(max_age) = keep.max_age {
            match left_of(found, max_age) {
                Some(left) => due = Some(Instant::now() + left.clamp(LOG_AGE_LOOK_MIN, LOG_AGE_LOOK_MAX)),
                None => {
                    self.remove(found)?;
                    return Ok(None);
                }
            }
        }
        if found.is_packed {
            if let Some(unit) = self.shared.unit(&found.unit) {
                let _place = unit.place();
                self.shared.dir.end_half_packing(&found.unit, found.index)?;
            }
        } else if keep.is_packed && found.size <= LOG_PACK_MAX {
            self.pack(found)?;
        }
        Ok(due)
    }

    fn remove(&self, found: &Found) -> io::Result<bool> {
        let Some(unit) = self.shared.unit(&found.unit) else {
            return Ok(false);
        };
        let _place = unit.place();
        self.shared.dir.remove_oldest(found)
    }

    fn pack(&self, found: &Found) -> io::Result<()> {
        let Some(unit) = self.shared.unit(&found.unit) else {
            return Ok(());
        };
        let begun = {
            let _place = unit.place();
            self.shared.dir.begin_packing(&found.unit, found.index)?
        };
        let Some(mut packing) = begun else { return Ok(()) };
        let go_on = || !self.shared.shelf.is_over();
        if !pack(&packing.plain, packing.len(), &packing.packed, &go_on)? {
            return Ok(());
        }
        let is_published = {
            let _place = unit.place();
            !self.shared.shelf.is_over() && packing.publish()?
        };
        if is_published {
            packing.sync_name();
            let _place = unit.place();
            packing.retire()?;
        }
        // The old file's blocks are given back here, where its last descriptor is closed, and nobody waits for it.
        Ok(())
    }

    /// Removes the oldest files of all units until all logs together have some room below `total`.
    fn bound(&self, total: u64) -> io::Result<()> {
        let mut all = self.shared.dir.list()?;
        let mut sum: u64 = all.iter().map(|found| found.size).sum();
        let aim = total - total / LOG_TOTAL_SLACK;
        if sum <= aim {
            return Ok(());
        }
        // A unit's older file goes before its newer one, even where the clock was set back between them.
        all.retain(|found| found.index > 0);
        all.sort_by(|a, b| (&a.unit, b.index).cmp(&(&b.unit, a.index)));
        let mut newest: Option<(String, i64)> = None;
        for found in &mut all {
            match &mut newest {
                Some((unit, time)) if *unit == found.unit => {
                    *time = (*time).max(found.written_s);
                    found.written_s = *time;
                }
                _ => newest = Some((found.unit.clone(), found.written_s)),
            }
        }
        all.sort_by_key(|found| found.written_s); // stable
        for found in all {
            if sum <= aim {
                break;
            }
            if self.remove(&found)? {
                sum -= found.size;
            }
        }
        Ok(())
    }
}

/// How long until a file is too old; None: it is.
fn left_of(found: &Found, max_age: Duration) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let written = Duration::from_secs(u64::try_from(found.written_s).unwrap_or(0));
    // A whole second more: the time is told in seconds.
    let end = written + max_age + Duration::from_secs(1);
    end.checked_sub(now).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::path::PathBuf;

    use proto::reply::LineEnd;

    use super::*;
    use crate::limits::{LOG_BLOCK, LOG_PACK_FRAME};
    use crate::logger::dir::LogDir;
    use crate::logger::history::{Cursor, tail};
    use crate::logger::record::{self, Clock, Record};
    use crate::logger::sought::{Sieve, range};

    /// A folder of logs, and who tends it.
    struct Logs {
        _temp: tempfile::TempDir,
        path: PathBuf,
        work: Work,
    }

    impl Logs {
        /// `files` files of `lines` records of unit `a`, the oldest first; their times count up over all of them.
        fn new(files: u32, lines: u64) -> Self {
            let temp = tempfile::tempdir().expect("a folder");
            let path = temp.path().join("log");
            let shared = Arc::new(Shared::new(LogDir::open(&path).expect("opened")));
            let mut clock = Clock::new();
            for n in 0..files {
                let mut text = Vec::new();
                for i in 0..lines {
                    let at_us = u64::from(n) * lines + i;
                    let message = format!("{at_us:090}");
                    let record = Record {
                        at_us,
                        invocation: 1,
                        end: LineEnd::Whole,
                        stream: None,
                        message: message.as_bytes(),
                    };
                    record::push(&mut text, &mut clock, record);
                }
                let name = match files - 1 - n {
                    0 => "a.log".to_owned(),
                    index => format!("a.log.{index}"),
                };
                std::fs::write(path.join(name), text).expect("written");
            }
            let said = BTreeSet::new();
            Self {
                _temp: temp,
                path,
                work: Work { shared, said },
            }
        }

        /// What a new logger's thread does first.
        fn begin_anew(&mut self) {
            self.work.shared.dir.remove_leftovers().expect("removed");
            self.look();
        }

        fn look(&mut self) -> Looked {
            let looked = self.work.look().expect("looked");
            assert!(!looked.has_failed);
            looked
        }

        fn keep(&self, keep: Keep) {
            self.work.shared.shelf.keep("a", keep);
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.path).expect("listed");
            let mut names: Vec<String> = entries
                .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
                .collect();
            names.sort();
            names
        }

        fn rotate(&self) {
            let unit = self.work.shared.unit("a").expect("a name");
            let mut place = unit.place();
            self.work.shared.dir.rotate("a", 50).expect("rotated");
            place.next_file(0);
        }

        /// The times of the lines that a reader finds.
        fn read(&self, sieve: &Sieve, lines: Option<u64>) -> Vec<u64> {
            let shared = &self.work.shared;
            let unit = shared.unit("a").expect("a name");
            let (start, end) = range(shared, &unit, sieve, lines).expect("found");
            let mut cursor = Cursor::new(shared.clone(), unit, start, Some(end), LOG_BLOCK, sieve.clone());
            std::iter::from_fn(|| cursor.next().expect("read"))
                .map(|line| line.at_us)
                .collect()
        }

        fn all(&self) -> Vec<u64> {
            self.read(&Sieve::default(), None)
        }

        fn written(&self, name: &str, ago: Duration) {
            let file = std::fs::File::options().write(true).open(self.path.join(name));
            let times = FileTimes::new().set_modified(SystemTime::now() - ago);
            file.expect("opened").set_times(times).expect("set");
        }
    }

    const PACKED: Keep = Keep {
        is_packed: true,
        max_age: None,
    };

    #[test]
    fn packed_files_are_read_like_plain_ones() {
        // Three frames each.
        let lines = 3 * LOG_PACK_FRAME as u64 / 122;
        let mut logs = Logs::new(4, lines);
        let total = 4 * lines;
        logs.keep(PACKED);
        logs.look();
        assert_eq!(
            logs.names(),
            ["a.log", "a.log.1.zst", "a.log.2.zst", "a.log.3.zst"]
        );
        assert_eq!(logs.all(), (0..total).collect::<Vec<_>>());
        for last in [1, lines - 1, lines, lines + 1, 3 * lines + 7, 9 * lines] {
            let from = total.saturating_sub(last);
            assert_eq!(
                logs.read(&Sieve::default(), Some(last)),
                (from..total).collect::<Vec<_>>()
            );
        }
        for since in [0, 1, lines - 1, lines, 2 * lines + 1500, total - 1, total] {
            let sieve = Sieve {
                since_us: Some(since),
                until_us: Some(since + 20),
                ..Sieve::default()
            };
            let wanted: Vec<u64> = (since..total.min(since + 21)).collect();
            assert_eq!(logs.read(&sieve, None), wanted, "since {since}");
        }
        let unit = logs.work.shared.unit("a").expect("a name");
        let found = tail(&logs.work.shared, &unit, Some(1), 2 * lines as usize, 1 << 30).expect("read");
        assert_eq!(found.len() as u64, 2 * lines);
    }

    #[test]
    fn a_file_that_is_packed_while_it_is_read_is_read_to_its_end() {
        let mut logs = Logs::new(3, 3000);
        let shared = logs.work.shared.clone();
        let unit = shared.unit("a").expect("a name");
        let (start, end) = range(&shared, &unit, &Sieve::default(), None).expect("found");
        let mut cursor = Cursor::new(shared, unit, start, Some(end), LOG_BLOCK, Sieve::default());
        let mut seen = vec![cursor.next().expect("read").expect("a line").at_us];
        logs.keep(PACKED);
        logs.look();
        logs.rotate();
        logs.look();
        assert!(logs.names().contains(&"a.log.3.zst".to_owned()));
        seen.extend(std::iter::from_fn(|| cursor.next().expect("read")).map(|line| line.at_us));
        assert_eq!(seen, (0..9000).collect::<Vec<_>>());
    }

    /// What was done when a logger was killed.
    #[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
    enum Step {
        Begun,
        Packed,
        Published,
        Retired,
    }

    #[test]
    fn nothing_is_lost_or_doubled_wherever_packing_is_killed_and_however_it_is_rotated_meanwhile() {
        let steps = [Step::Begun, Step::Packed, Step::Published, Step::Retired];
        for last in steps {
            for rotated_after in steps.into_iter().filter(|step| *step <= last) {
                for index in [1, 2, 3] {
                    let mut logs = Logs::new(4, 1000);
                    let mut wanted: Vec<u64> = (0..4000).collect();
                    let dir = &logs.work.shared.dir;
                    let mut packing = dir
                        .begin_packing("a", index)
                        .expect("begun")
                        .expect("it is there");
                    for step in steps.into_iter().filter(|step| *step <= last) {
                        match step {
                            Step::Begun => {
                                std::os::unix::fs::FileExt::write_all_at(&packing.packed, b"half", 0)
                                    .expect("written");
                            }
                            Step::Packed => {
                                assert!(
                                    pack(&packing.plain, packing.len(), &packing.packed, &|| true)
                                        .expect("packed")
                                );
                            }
                            Step::Published => assert!(packing.publish().expect("renamed")),
                            Step::Retired => packing.retire().expect("removed"),
                        }
                        assert_eq!(logs.all(), wanted, "{step:?} of {last:?}, file {index}");
                        if step == rotated_after {
                            logs.rotate();
                            assert_eq!(
                                logs.all(),
                                wanted,
                                "rotated after {step:?} of {last:?}, file {index}"
                            );
                        }
                    }
                    std::mem::forget(packing); // it does not tidy up when it is killed
                    assert_eq!(logs.all(), wanted);
                    logs.keep(PACKED);
                    logs.begin_anew();
                    assert_eq!(logs.all(), wanted, "{last:?}, file {index}");
                    let names = logs.names();
                    let plain = ["a.log"];
                    assert!(
                        names
                            .iter()
                            .all(|name| plain.contains(&name.as_str()) || name.ends_with(".zst")),
                        "{names:?}"
                    );
                    assert_eq!(names.len(), 5, "{names:?}");
                    wanted.clear();
                }
            }
        }
    }

    #[test]
    fn a_file_that_somebody_wrote_into_while_it_was_packed_stays() {
        let logs = Logs::new(2, 100);
        let dir = &logs.work.shared.dir;
        let mut packing = dir.begin_packing("a", 1).expect("begun").expect("it is there");
        assert!(pack(&packing.plain, packing.len(), &packing.packed, &|| true).expect("packed"));
        let mut text = std::fs::read(logs.path.join("a.log.1")).expect("read");
        text.extend(b"1970-01-01T00:00:00.000099Z 1 | more\n");
        std::fs::write(logs.path.join("a.log.1"), &text).expect("written");
        assert!(!packing.publish().expect("looked"));
        drop(packing);
        assert_eq!(logs.names(), ["a.log", "a.log.1"]);
        assert_eq!(std::fs::read(logs.path.join("a.log.1")).expect("read"), text);
    }

    #[test]
    fn a_rotation_that_was_killed_half_way_is_not_packed() {
        let logs = Logs::new(1, 100);
        std::fs::hard_link(logs.path.join("a.log"), logs.path.join("a.log.1")).expect("linked");
        assert!(
            logs.work
                .shared
                .dir
                .begin_packing("a", 1)
                .expect("looked")
                .is_none()
        );
    }

    #[test]
    fn what_is_too_old_is_removed_from_its_end() {
        let mut logs = Logs::new(4, 10);
        logs.keep(Keep {
            is_packed: false,
            max_age: Some(Duration::from_secs(3600)),
        });
        assert!(logs.look().due.is_some());
        assert_eq!(logs.names().len(), 4);
        for (name, minutes) in [("a.log", 300), ("a.log.1", 10), ("a.log.2", 90), ("a.log.3", 100)] {
            logs.written(name, Duration::from_secs(minutes * 60));
        }
        let due = logs.look().due.expect("a.log.1 will be too old");
        assert!(due > Instant::now() + Duration::from_secs(3000));
        // The newest one is the writer's.
        assert_eq!(logs.names(), ["a.log", "a.log.1"]);
    }

    #[test]
    fn packing_keeps_the_time_from_which_the_age_is_counted() {
        let mut logs = Logs::new(2, 10);
        logs.written("a.log.1", Duration::from_secs(5000));
        logs.keep(PACKED);
        logs.look();
        logs.keep(Keep {
            max_age: Some(Duration::from_secs(4000)),
            ..PACKED
        });
        logs.look();
        assert_eq!(logs.names(), ["a.log"]);
    }

    #[test]
    fn the_oldest_files_of_all_units_go_when_all_are_too_large() {
        let mut logs = Logs::new(4, 1000);
        let mut minutes = 0;
        for (unit, index) in [
            ("b", 3),
            ("a", 3),
            ("b", 2),
            ("a", 2),
            ("a", 1),
            ("b", 1),
            ("b", 0),
        ] {
            minutes += 1;
            let name = match index {
                0 => format!("{unit}.log"),
                _ => format!("{unit}.log.{index}"),
            };
            if unit == "b" {
                std::fs::write(logs.path.join(&name), vec![b'x'; 100_000]).expect("written");
            }
            logs.written(&name, Duration::from_secs((100 - minutes) * 60));
        }
        std::fs::write(logs.path.join("other.txt"), vec![0; 1 << 20]).expect("written");
        logs.work.shared.shelf.set_total(Some(1_000_000));
        logs.look();
        assert_eq!(logs.names().len(), 9, "a file went though there is room");
        logs.work.shared.shelf.set_total(Some(500_000));
        logs.look();
        let left = ["a.log", "a.log.1", "b.log", "b.log.1", "other.txt"];
        assert_eq!(logs.names(), left);
        // What is being written stays, whatever is said.
        logs.work.shared.shelf.set_total(Some(1));
        logs.look();
        assert_eq!(logs.names(), ["a.log", "b.log", "other.txt"]);
    }
}
