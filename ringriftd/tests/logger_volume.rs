//! How much a logger bears: one unit that floods, many that write at once, and many that write a line each and are gone.
//! Small here; 1 GiB, ten seconds and 10 000 units by `RINGRIFT_LOG_VOLUME=full`, which is run with `--release`:
//! `RINGRIFT_LOG_VOLUME=full cargo test --release -p ringriftd --test logger_volume -- --nocapture --test-threads 1`.

mod logger_process;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Instant;

use logger_process::{Keeper, Running, pipe};
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::wire::{FromLogger, LogKeep, Output, ToLogger};
use ringriftd::logger::record;

/// Bytes of a line, its newline among them.
const LINE: usize = 100;

fn is_full() -> bool {
    std::env::var("RINGRIFT_LOG_VOLUME").as_deref() == Ok("full")
}

fn output(unit: &str, is_packed: bool) -> Output {
    Output {
        unit: unit.to_owned(),
        max_size: 16 << 20,
        max_files: 1000,
        drain_ms: 60_000,
        keep: LogKeep {
            is_packed,
            ..LogKeep::default()
        },
        read: Default::default(),
    }
}

/// Starts reading a new unit's pipe. Returns its write end.
fn open(logger: &Running, life: u64, output: Output) -> File {
    let (read, write) = pipe();
    let id = LaunchId::main(Invocation(life));
    let streams = vec![None];
    logger.tell(&ToLogger::Open { id, output, streams }, Some(&read));
    File::from(write)
}

/// Waits until so many pipes are at their ends.
fn hear_closed(logger: &Running, count: usize) {
    let mut closed = 0;
    while closed < count {
        closed += usize::from(matches!(
            logger.hear().expect("it lives"),
            FromLogger::Closed { .. }
        ));
    }
}

/// Numbered lines, made in place, so that whoever writes them is not what is measured.
struct Lines {
    text: Vec<u8>,
    next: u64,
}

impl Lines {
    /// A pipe's worth of lines at a time; the first one has this number.
    fn new(next: u64) -> Self {
        let text =
            (0..64 * 1024 / LINE).flat_map(|_| format!("{:0width$}\n", 0, width = LINE - 1).into_bytes());
        Self {
            text: text.collect(),
            next,
        }
    }

    fn write(&mut self, mut pipe: &File, mut lines: u64) {
        while lines > 0 {
            let now = lines.min((self.text.len() / LINE) as u64);
            let text = &mut self.text[..now as usize * LINE];
            for line in text.chunks_exact_mut(LINE) {
                let mut left = self.next;
                for digit in line[LINE - 11..LINE - 1].iter_mut().rev() {
                    *digit = b'0' + (left % 10) as u8;
                    left /= 10;
                }
                self.next += 1;
            }
            pipe.write_all(text).expect("written");
            lines -= now;
        }
    }
}

/// Writes numbered lines.
fn write_lines(pipe: &File, from: u64, lines: u64) {
    Lines::new(from).write(pipe, lines);
}

/// All lines of a unit stand in its files, each once, in their order, as lines of this life. Returns the files' bytes on disk.
fn check_lines(dir: &Path, unit: &str, life: u64, lines: u64) -> u64 {
    let (mut next, mut bytes) = (0, 0);
    for index in (0..1000).rev() {
        let name = match index {
            0 => dir.join(format!("{unit}.log")),
            _ => dir.join(format!("{unit}.log.{index}")),
        };
        let text: Box<dyn Read> = if let Ok(plain) = File::open(&name) {
            bytes += plain.metadata().expect("known").len();
            Box::new(plain)
        } else if let Ok(packed) = File::open(name.with_extension(format!("{index}.zst"))) {
            bytes += packed.metadata().expect("known").len();
            Box::new(zstd::Decoder::new(packed).expect("a decoder"))
        } else {
            continue;
        };
        for line in BufReader::new(text).split(b'\n') {
            let line = line.expect("read");
            let record = record::parse(&line).expect("a record");
            let number = std::str::from_utf8(record.message).expect("text").parse();
            assert_eq!((record.invocation, number), (life, Ok(next)), "{unit}");
            next += 1;
        }
    }
    assert_eq!(next, lines, "{unit}");
    bytes
}

/// The most that a logger had in memory, in KiB: what is its own (VmHWM counts pages of libraries and of the memfd too).
fn peak_kib(logger: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", logger.child.id())).expect("it lives");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("told");
    line.split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number")
}

fn ready(keeper: &Keeper) -> Running {
    let logger = keeper.start(&[]);
    assert_eq!(logger.hear(), Some(FromLogger::Ready));
    logger
}

/// What a logger may have in memory at most, whatever is written. (One that packs: its encoder.)
const PEAK_KIB: u64 = 32 << 10;

/// A9
#[test]
fn a_unit_that_floods_loses_no_line_and_costs_no_memory() {
    let lines: u64 = if is_full() {
        (1 << 30) / LINE as u64
    } else {
        200_000
    };
    for is_packed in [false, true] {
        let (keeper, _) = Keeper::new(0);
        let logger = ready(&keeper);
        let begun = Instant::now();
        let flood = open(&logger, 1, output("flood", is_packed));
        write_lines(&flood, 0, lines);
        drop(flood);
        hear_closed(&logger, 1);
        let took = begun.elapsed().as_secs_f64();
        let cpu = cpu_seconds(&format!("/proc/{}", logger.child.id()));
        let peak = peak_kib(&logger);
        assert!(peak < PEAK_KIB, "{peak} KiB");
        logger.kill();
        let bytes = check_lines(&keeper.dir(), "flood", 1, lines);
        eprintln!(
            "one unit, packed {is_packed}: {lines} lines in {took:.2} s, {:.0} MB/s, {:.0} lines/s, {:.2} CPU s a GB; {} MB on disk; peak {peak} KiB",
            (lines * LINE as u64) as f64 / took / 1e6,
            lines as f64 / took,
            cpu / ((lines * LINE as u64) as f64 / 1e9),
            bytes / 1_000_000
        );
    }
    if is_full() {
        bare_loop(lines);
    }
}

/// Seconds of CPU that a process or thread has had.
fn cpu_seconds(of: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("{of}/stat")).expect("it lives");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: f64 =
        fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number");
    ticks / 100.0
}

/// What the same lines cost that are only read and written, by a thread with a pipe of 256 KiB and 64 KiB at a time.
fn bare_loop(lines: u64) {
    let temp = tempfile::tempdir().expect("a folder");
    let (read, write) = pipe();
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETPIPE_SZ(256 << 10)).expect("room");
    let begun = Instant::now();
    let path = temp.path().join("bare");
    let copying = std::thread::spawn(move || {
        let (mut read, mut file) = (File::from(read), File::create(path).expect("made"));
        let mut buffer = vec![0; 64 << 10];
        loop {
            match read.read(&mut buffer).expect("read") {
                0 => break cpu_seconds("/proc/thread-self"),
                n => file.write_all(&buffer[..n]).expect("written"),
            }
        }
    });
    write_lines(&File::from(write), 0, lines);
    let cpu = copying.join().expect("no panic");
    let bytes = (lines * LINE as u64) as f64;
    eprintln!(
        "read and written alone: {:.0} MB/s, {:.2} CPU s a GB",
        bytes / begun.elapsed().as_secs_f64() / 1e6,
        cpu / (bytes / 1e9)
    );
}

#[test]
fn seventy_eight_units_that_write_at_once_lose_no_line() {
    const UNITS: u64 = 78;
    // Ten seconds at 10 000 lines a second each.
    let lines: u64 = if is_full() { 100_000 } else { 2_000 };
    let (keeper, _) = Keeper::new(0);
    let logger = ready(&keeper);
    let begun = Instant::now();
    let mut pipes: Vec<(File, Lines)> = (0..UNITS)
        .map(|unit| {
            let pipe = open(&logger, unit + 1, output(&format!("u{unit}"), true));
            (pipe, Lines::new(0))
        })
        .collect();
    for _ in (0..lines).step_by(100) {
        // A hundred lines of each every 10 ms, as far as the logger takes them.
        for (pipe, lines) in &mut pipes {
            lines.write(pipe, 100);
        }
    }
    drop(pipes);
    hear_closed(&logger, UNITS as usize);
    let took = begun.elapsed().as_secs_f64();
    let cpu = cpu_seconds(&format!("/proc/{}", logger.child.id()));
    let peak = peak_kib(&logger);
    assert!(peak < PEAK_KIB, "{peak} KiB");
    logger.kill();
    for unit in 0..UNITS {
        check_lines(&keeper.dir(), &format!("u{unit}"), unit + 1, lines);
    }
    eprintln!(
        "{UNITS} units: {} lines in {took:.2} s, {:.0} lines/s of each, {:.2} CPU s a GB; peak {peak} KiB",
        UNITS * lines,
        lines as f64 / took,
        cpu / ((UNITS * lines * LINE as u64) as f64 / 1e9)
    );
}

#[test]
fn units_that_write_one_line_and_end_each_have_it_in_their_own_name() {
    let units: u64 = if is_full() { 10_000 } else { 600 };
    let (keeper, _) = Keeper::new(0);
    let logger = ready(&keeper);
    let begun = Instant::now();
    for from in (0..units).step_by(100) {
        for unit in from..from + 100 {
            let mut pipe = open(&logger, unit + 1, output(&format!("u{unit}"), true));
            writeln!(pipe, "I am {unit}").expect("written");
        }
        hear_closed(&logger, 100);
    }
    let took = begun.elapsed().as_secs_f64();
    let peak = peak_kib(&logger);
    assert!(peak < PEAK_KIB, "{peak} KiB");
    logger.kill();
    for unit in 0..units {
        let text = std::fs::read(keeper.dir().join(format!("u{unit}.log"))).expect("its log");
        let record = record::parse(text.strip_suffix(b"\n").expect("a line")).expect("a record");
        assert_eq!(record.invocation, unit + 1);
        assert_eq!(record.message, format!("I am {unit}").as_bytes());
    }
    eprintln!("{units} units of one line: {took:.2} s; peak {peak} KiB");
}
