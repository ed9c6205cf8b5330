//! A logger in miniature, killed before, within and after every call that changes what outlives it, and again in the
//! midst of its recovery.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::logger::journal::{Journal, Splitter, Stop};
use crate::logger::place::Shared;
use crate::logger::record::{Clock, Record};

/// Where in the call that kills.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    Before,
    Within,
    After,
}

/// Counts the calls, and is dead from one of them on.
#[derive(Debug)]
struct Mortal {
    calls: Rc<Cell<usize>>,
    last: Option<(usize, Where)>,
    is_dead: bool,
}

impl Mortal {
    /// How much of a call of `len` is done, and whether that was the last thing.
    fn call(&mut self, len: usize) -> (usize, bool) {
        if self.is_dead {
            return (0, true);
        }
        let number = self.calls.get();
        self.calls.set(number + 1);
        let Some((_, place)) = self.last.filter(|(last, _)| *last == number) else {
            return (len, false);
        };
        self.is_dead = true;
        match place {
            Where::Before => (0, true),
            Where::Within => (len / 2, true),
            Where::After => (len, true),
        }
    }

    fn end<T>(is_dead: bool, value: T) -> io::Result<T> {
        if is_dead { Err(dead()) } else { Ok(value) }
    }
}

fn dead() -> io::Error {
    io::Error::other("killed")
}

impl Kernel for Mortal {
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        let (len, is_dead) = self.call(bytes.len());
        let n = if len > 0 {
            Linux.write(file, &bytes[..len])?
        } else {
            0
        };
        Self::end(is_dead, n)
    }

    fn truncate(&mut self, file: &File, len: u64) -> io::Result<()> {
        let (done, is_dead) = self.call(1);
        if done > 0 {
            Linux.truncate(file, len)?;
        }
        Self::end(is_dead, ())
    }

    fn splice(&mut self, from: &OwnedFd, to: &OwnedFd, len: usize) -> io::Result<usize> {
        let (len, is_dead) = self.call(len);
        let n = if len > 0 { Linux.splice(from, to, len)? } else { 0 };
        Self::end(is_dead, n)
    }

    fn drain(&mut self, hold: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        let (len, is_dead) = self.call(buffer.len());
        let n = if len > 0 {
            Linux.drain(hold, &mut buffer[..len])?
        } else {
            0
        };
        Self::end(is_dead, n)
    }

    fn keep(&mut self, memory: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (len, is_dead) = self.call(bytes.len());
        Linux.keep(memory, &bytes[..len], offset)?;
        Self::end(is_dead, ())
    }

    fn store(&mut self, words: &Words, index: usize, value: u64) {
        if self.call(1).0 > 0 {
            Linux.store(words, index, value);
        }
    }
}

/// What outlives a logger.
struct World {
    temp: tempfile::TempDir,
    memory: OwnedFd,
    hold: [OwnedFd; 2],
    /// Launch, unit, both ends of the pipe.
    pipes: Vec<(LaunchId, &'static str, OwnedFd, File)>,
}

impl World {
    fn new() -> Self {
        let pipe = || {
            let (read, write) = std::io::pipe().expect("a pipe");
            (OwnedFd::from(read), OwnedFd::from(write))
        };
        let (read, write) = pipe();
        let units = [(1, "a"), (2, "b"), (3, "b")];
        let pipes = units.map(|(life, unit)| {
            let (read, write) = pipe();
            (LaunchId::main(Invocation(life)), unit, read, File::from(write))
        });
        Self {
            temp: tempfile::tempdir().expect("a folder"),
            memory: memfd_create(c"logger", MFdFlags::MFD_CLOEXEC).expect("a memfd"),
            hold: [read, write],
            pipes: pipes.into(),
        }
    }

    /// One logger's life: it takes everything that is in the pipes, unless it is killed. Returns how many calls it made.
    fn live(&self, last: Option<(usize, Where)>, is_end: bool) -> usize {
        let calls = Rc::new(Cell::new(0));
        let kernel = Mortal {
            calls: calls.clone(),
            last,
            is_dead: false,
        };
        let _ = self.try_live(kernel, is_end);
        calls.get()
    }

    fn try_live(&self, kernel: Mortal, is_end: bool) -> io::Result<()> {
        let dir = LogDir::open(&self.temp.path().join("log"))?;
        let again = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        let mut exact = Exact::new(kernel, again(&self.memory), self.hold.each_ref().map(again))?;
        exact.recover(&dir)?;
        let shared = Arc::new(Shared::new(dir));
        let mut journals: BTreeMap<&str, Journal> = ["a", "b"]
            .into_iter()
            .map(|name| {
                let mut journal = Journal::new(shared.clone(), shared.unit(name).expect("a name"));
                journal.set_bounds(9_000, 50);
                (name, journal)
            })
            .collect();
        let mut clock = Clock::new();
        let mut buffer = vec![0; LOG_READ];
        for (id, unit, read, _) in &self.pipes {
            if exact.kernel.is_dead {
                return Err(dead());
            }
            let journal = journals.get_mut(unit).expect("one of two");
            let (mut source, begun) = exact.open(*id, again(read))?;
            let mut splitter = Splitter::default();
            splitter.begin(begun);
            exact.pay(&mut source)?;
            let life = id.invocation.0;
            let mut put = |journal: &mut Journal, (invocation, end, message): (u64, LineEnd, &[u8])| {
                let record = Record {
                    at_us: 1,
                    invocation,
                    end,
                    message,
                };
                journal.put(&mut clock, record)
            };
            while let Peek::Bytes(n) = exact.peek(&source.fd, &mut buffer)? {
                let mut done = 0;
                while done < n {
                    if exact.kernel.is_dead {
                        return Err(dead());
                    }
                    let taken = splitter.split(&buffer[done..n], |end, message| {
                        put(journal, (life, end, message))
                    });
                    journal
                        .commit(&mut exact, &mut source, taken, splitter.partial())
                        .map_err(|Stop| dead())?;
                    done += taken;
                }
            }
            if is_end && !splitter.partial().is_empty() {
                put(journal, (life, LineEnd::Partial, splitter.partial())).map_err(|Stop| dead())?;
                journal
                    .commit(&mut exact, &mut source, 0, &[])
                    .map_err(|Stop| dead())?;
            }
        }
        if exact.kernel.is_dead { Err(dead()) } else { Ok(()) }
    }
}

/// Every byte that a life wrote, by all of a unit's files.
fn bytes_of(world: &World, unit: &str, life: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for index in (0..50).rev() {
        let name = match index {
            0 => format!("{unit}.log"),
            _ => format!("{unit}.log.{index}"),
        };
        let Ok(text) = std::fs::read(world.temp.path().join("log").join(name)) else {
            continue;
        };
        for line in text.split_inclusive(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\n").expect("a whole record");
            let record = record::parse(line).unwrap_or_else(|| panic!("no record: {}", line.escape_ascii()));
            if record.invocation == life {
                all.extend(record.message);
                all.extend(if record.end == LineEnd::Whole {
                    &b"\n"[..]
                } else {
                    b""
                });
            }
        }
    }
    all
}

/// Three rounds of output, a logger's life for each; the one of round `round` is killed, and so is the one after it.
fn all_is_there(round: usize, last: (usize, Where), next: (usize, Where)) -> usize {
    let mut world = World::new();
    let mut expected = vec![Vec::new(); world.pipes.len()];
    let mut calls = 0;
    for now in 0..3 {
        for (n, (_, _, _, pipe)) in world.pipes.iter_mut().enumerate() {
            let mut text = format!("{n}.{now} whole\n{}\nbegun {n}.{now}", "x".repeat(3000)).into_bytes();
            if now == n {
                // A line of two pieces and a bit, without its end.
                text.extend(vec![b'y'; 2 * LOG_LINE_MAX + 100 * n]);
            }
            pipe.write_all(&text).expect("written");
            expected[n].extend(text);
        }
        if now == round {
            calls = world.live(Some(last), false);
            world.live(Some(next), false);
        }
        world.live(None, now == 2);
    }
    for (n, (id, unit, read, _)) in world.pipes.iter().enumerate() {
        let found = bytes_of(&world, unit, id.invocation.0);
        assert!(
            found == expected[n],
            "launch {id}, killed at {last:?} of round {round}, then at {next:?}: {} bytes, not {}",
            found.len(),
            expected[n].len()
        );
        assert_eq!(waiting(read).expect("FIONREAD"), 0);
    }
    assert_eq!(waiting(&world.hold[0]).expect("FIONREAD"), 0);
    let words = Words::map(&world.memory, WORDS).expect("mapped");
    assert_eq!(State::of(words.get(at::STATE)), State::Idle);
    let used = (0..LOG_CARRIES).filter(|s| words.get(at::SLOTS + s * SLOT_WORDS + 3) != 0);
    assert_eq!(used.count(), 0, "slots that are never given back");
    calls
}

#[test]
fn no_byte_is_lost_or_doubled_at_whatever_call_a_logger_and_its_successor_are_killed() {
    let never = (usize::MAX, Where::Before);
    let mut kills = 0;
    for round in 0..3 {
        let calls = all_is_there(round, never, never);
        assert!(calls > 50, "{calls} calls are no test");
        for call in 0..calls {
            let places = [Where::Before, Where::Within, Where::After];
            // All three places in one round, in the others one after the other.
            let places = if round == 1 {
                &places[..]
            } else {
                &places[call % 3..][..1]
            };
            for place in places {
                // The successor dies in its first calls, which are its recovery's, or later.
                let next = [Where::Before, Where::Within, Where::After][kills % 3];
                all_is_there(round, (call, *place), ((kills / 3) % 17, next));
                kills += 1;
            }
        }
    }
}

#[test]
fn a_note_of_another_version_and_one_of_nonsense_are_survived() {
    for state in [u64::MAX, 1, 2 | 7 << 2] {
        let world = World::new();
        let words = Words::map(&world.memory, WORDS).expect("mapped");
        words.set(at::MAGIC, MAGIC);
        (1..WORDS).for_each(|index| words.set(index, state));
        assert!(world.live(None, true) > 0);
        words.set(at::MAGIC, MAGIC + 1);
        assert!(world.live(None, true) > 0);
        assert_eq!(words.get(at::MAGIC), MAGIC);
        assert_eq!(words.get(at::SLOTS + 3), 0);
    }
}
