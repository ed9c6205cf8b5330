//! Tells a recording to the engine again and compares what it asks for, byte for byte.
//!
//! Read first: [`replay`].

use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::differ::first_difference;
use super::types::{Beginning, From, Input, Step, TAPE_VERSION, line};
use crate::config;
use crate::engine::Engine;
use crate::engine::types::{Event, Mono};
use crate::limits;
use crate::state::record::{Kind, Record, read_through};

/// What a replay came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Sections that were replayed.
    pub sections: u64,
    /// Steps in them.
    pub steps: u64,
    /// What the engine was told.
    pub inputs: u64,
    /// What it asked for.
    pub actions: u64,
    /// What of the recording could not be replayed, and why.
    pub notes: Vec<String>,
    /// The first difference; nothing after it was replayed.
    pub difference: Option<Difference>,
}

/// Where the engine did something else than it did when it was recorded.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which section, counted from 1, and when it began.
    pub section: String,
    /// Which step of it, counted from 1; 0: the state at its beginning.
    pub step: u64,
    /// What the engine was told, one thing a line.
    pub told: Vec<String>,
    /// What it asked for then, in the recording, before the difference.
    pub same: Vec<String>,
    /// What it asked for then in the recording.
    pub recorded: Option<String>,
    /// What it asks for now.
    pub replayed: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nothing = || "nothing more".to_owned();
        match self.step {
            0 => writeln!(
                f,
                "section {}: the state that it begins with is not what the section before comes to",
                self.section
            )?,
            step => writeln!(f, "section {}, step {step}: another action", self.section)?,
        }
        for told in &self.told {
            writeln!(f, "  told      {told}")?;
        }
        for same in &self.same {
            writeln!(f, "  same      {same}")?;
        }
        if let (Some(recorded), Some(replayed)) = (&self.recorded, &self.replayed)
            && let Some((path, before, now)) = first_difference(recorded, replayed)
        {
            writeln!(f, "  differs   at {path}: recorded {before}, replayed {now}")?;
        }
        if self.step > 0 {
            writeln!(f, "  recorded  {}", self.recorded.clone().unwrap_or_else(nothing))?;
            writeln!(f, "  replayed  {}", self.replayed.clone().unwrap_or_else(nothing))?;
        }
        Ok(())
    }
}

/// Reads a recording.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    file.take(limits::RECORDING_READ_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What is told of each step: when, what the engine was told, and what it asks for.
pub type Trace<'a> = &'a mut dyn FnMut(Option<Mono>, &[Input], &[String]);

/// Replays all that is sound of `bytes`, up to the first difference. The error is for people: nothing of it can be
/// replayed.
pub fn replay(bytes: &[u8], trace: Trace<'_>) -> Result<Replayed, String> {
    let pieces = read_through(bytes);
    if let Some(version) = pieces.newer {
        return Err(format!(
            "it has format version {version}: a newer ringriftd recorded it, and can replay it"
        ));
    }
    if pieces.records.is_empty() {
        return Err(match pieces.fault {
            Some((_, fault)) => format!("it is no recording: {fault}"),
            None => "it is empty: nothing was recorded yet".to_owned(),
        });
    }
    let mut replaying = Replaying {
        trace,
        done: Replayed::default(),
        engine: None,
        section: String::new(),
        next: (0, 0),
        skipped: 0,
    };
    let mut at = 0;
    for (begins, record) in pieces.records {
        let is_behind_damage = begins != at;
        at = begins + usize::try_from(record.size()).unwrap_or(usize::MAX);
        // A manager that is killed while it writes leaves half a record, and the next one begins a section: nothing is
        // missing then but what it did not write.
        if is_behind_damage && record.kind != Kind::Base {
            replaying.engine = None;
            let note = format!("damaged before byte {begins}");
            replaying.done.notes.push(note);
        }
        replaying.record(&record)?;
        if replaying.done.difference.is_some() {
            break;
        }
    }
    replaying.tell_skipped();
    Ok(replaying.done)
}

struct Replaying<'a> {
    trace: Trace<'a>,
    done: Replayed,
    /// None: what comes cannot be replayed, up to the next section.
    engine: Option<Engine>,
    section: String,
    /// The section and the step that come next.
    next: (u64, u64),
    /// Steps that could not be replayed since the last section.
    skipped: u64,
}

impl Replaying<'_> {
    fn record(&mut self, record: &Record) -> Result<(), String> {
        match record.kind {
            Kind::Base => self.begin(record),
            Kind::Delta => {
                let is_next = self.next == (record.generation, record.number);
                if !is_next || self.engine.is_none() {
                    self.engine = None;
                    self.skipped += 1;
                    return Ok(());
                }
                self.next.1 += 1;
                self.step(record)
            }
            Kind::Event => Err("it is a flight recorder's file, no recording".to_owned()),
        }
    }

    fn tell_skipped(&mut self) {
        if self.skipped > 0 {
            let note = format!(
                "{} steps cannot be replayed, for lack of what was before them",
                self.skipped
            );
            self.done.notes.push(note);
            self.skipped = 0;
        }
    }

    fn begin(&mut self, record: &Record) -> Result<(), String> {
        self.tell_skipped();
        let number = self.done.sections + 1;
        let version = serde_json::from_slice::<Versioned>(&record.payload);
        let version = version.map_err(|e| format!("section {number} cannot be read: {e}"))?;
        if version.version != TAPE_VERSION {
            return Err(format!(
                "section {number} has version {}, and this ringriftd replays {TAPE_VERSION}: ringriftd {} recorded it, and can \
                 replay it",
                version.version, version.program
            ));
        }
        let beginning: Beginning = serde_json::from_slice(&record.payload)
            .map_err(|e| format!("section {number} cannot be read: {e}"))?;
        self.done.sections = number;
        self.section = format!("{number} (begun {})", when(beginning.at_us));
        self.next = (record.generation, 1);
        if beginning.program != env!("CARGO_PKG_VERSION") {
            self.done.notes.push(format!(
                "section {number} was recorded by ringriftd {}, and this is {}",
                beginning.program,
                env!("CARGO_PKG_VERSION")
            ));
        }
        if beginning.lost > 0 {
            let lost = beginning.lost;
            let note =
                format!("{lost} steps before section {number} were not recorded: the disk was too slow");
            self.done.notes.push(note);
        }
        if let (Some(before), From::Restored { snapshot, .. }) = (self.engine.take(), &beginning.from)
            && beginning.is_continued
        {
            self.compare_states(snapshot, &before)?;
        }
        let engine = begin(beginning).map_err(|why| format!("section {}: {why}", self.section))?;
        self.engine = Some(engine);
        Ok(())
    }

    /// The section before ended where this one begins.
    fn compare_states(
        &mut self,
        recorded: &crate::engine::snapshot::Snapshot,
        before: &Engine,
    ) -> Result<(), String> {
        let text =
            |snapshot| serde_json::to_string(snapshot).map_err(|e| format!("a state has no text: {e}"));
        let (recorded, replayed) = (text(recorded)?, text(&before.snapshot())?);
        if recorded != replayed {
            self.done.difference = Some(Difference {
                section: self.section.clone(),
                step: 0,
                told: Vec::new(),
                same: Vec::new(),
                recorded: Some(recorded),
                replayed: Some(replayed),
            });
        }
        Ok(())
    }

    fn step(&mut self, record: &Record) -> Result<(), String> {
        let Some(engine) = &mut self.engine else {
            return Ok(());
        };
        let step = Step::read(&record.payload)
            .map_err(|why| format!("section {}, step {}: {why}", self.section, record.number))?;
        let told = step
            .inputs
            .iter()
            .map(|input| serde_json::to_string(&shortened(input)).unwrap_or_default())
            .collect::<Vec<_>>();
        let now = step.inputs.iter().find_map(Input::now);
        for input in &step.inputs {
            tell(engine, input).map_err(|why| format!("section {}: {why}", self.section))?;
        }
        let mut replayed = Vec::new();
        while let Some(action) = engine.poll_action() {
            replayed.push(line(&action).map_err(|e| format!("an action has no text: {e}"))?);
        }
        // As the manager does after each step.
        engine.take_delta();
        (self.trace)(now, &step.inputs, &replayed);
        self.done.steps += 1;
        self.done.inputs += step.inputs.len() as u64;
        self.done.actions += replayed.len() as u64;
        if step.actions != replayed {
            let same = step.actions.iter().zip(&replayed).take_while(|(a, b)| a == b);
            let same: Vec<String> = same.map(|(a, _)| a.clone()).collect();
            self.done.difference = Some(Difference {
                section: self.section.clone(),
                step: record.number,
                told,
                recorded: step.actions.get(same.len()).cloned(),
                replayed: replayed.get(same.len()).cloned(),
                same,
            });
        }
        Ok(())
    }
}

/// What every version's beginning says.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
    program: String,
}

/// Files are long, and stand in the recording.
pub fn shortened(input: &Input) -> Input {
    match input {
        Input::Loaded { now, profiles, .. } => Input::Loaded {
            now: *now,
            files: std::sync::Arc::default(),
            profiles: profiles.clone(),
        },
        other => other.clone(),
    }
}

fn refused(report: &config::Report) -> String {
    format!("the files that it ran by are refused by this ringriftd:\n{report}")
}

/// The engine that a section begins with. The error is for people.
pub fn begin(beginning: Beginning) -> Result<Engine, String> {
    let mut engine = match beginning.from {
        From::New { seed } => Engine::new(seed),
        From::Restored {
            snapshot,
            files,
            profiles,
        } => {
            let loaded = config::load_from(files, &profiles).map_err(|report| refused(&report))?;
            Engine::restore(*snapshot, &loaded.plan)
        }
    };
    engine.pause_deadlines(beginning.is_paused);
    Ok(engine)
}

/// Tells the engine one thing. The error is for people.
pub fn tell(engine: &mut Engine, input: &Input) -> Result<(), String> {
    match input {
        Input::Told { now, event } => engine.handle(*now, (**event).clone()),
        Input::Loaded { now, files, profiles } => {
            let loaded = config::load_from(std::sync::Arc::clone(files), profiles)
                .map_err(|report| refused(&report))?;
            engine.handle(*now, Event::Loaded(loaded.plan));
        }
        Input::Resume { now } => engine.resume(*now),
        Input::Pause(is_paused) => engine.pause_deadlines(*is_paused),
        Input::KeepClear(serial) => engine.keep_clear_of(*serial),
        Input::StepBack { unit, told } => engine.tell_step_back(unit, *told),
    }
    Ok(())
}

/// A moment of the wall clock.
fn when(us: u64) -> String {
    let time = i64::try_from(us)
        .ok()
        .and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| format!("{us} us"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use proto::reply::{By, Exit};

    use super::*;
    use crate::config::FileSet;
    use crate::config::fileset::{Contents, SetFile, SetFolder};
    use crate::engine::restart::mix;
    use crate::engine::types::{Action, Op, RequestId};
    use crate::ids::LaunchId;
    use crate::spec::UnitName;
    use crate::state::record::HEADER;
    use crate::tape::taped::Taped;
    use crate::tape::write::Tape;

    fn folder(files: &[(&str, String)]) -> SetFolder {
        let file = |(name, text): &(&str, String)| {
            let file = SetFile {
                defect: None,
                text: Ok(text.clone()),
            };
            ((*name).to_owned(), Ok(file))
        };
        SetFolder {
            shown: "of a test".to_owned(),
            is_chosen: false,
            found: Ok(Contents {
                shown: "of a test".to_owned(),
                prefix: String::new(),
                names: files.iter().map(|(name, _)| (*name).to_owned()).collect(),
                unreadable_names: Vec::new(),
                loose: None,
                files: files.iter().map(file).collect(),
                folders: BTreeMap::new(),
            }),
        }
    }

    /// Three units in a row; `delay` tells one version of the files from another.
    fn files(delay: u32) -> Arc<FileSet> {
        let unit = |more: &str| {
            format!(
                "{more}\n[exec]\ncommand = [\"/bin/true\"]\n[restart]\ndelay = \"{delay}ms\"\nmax_delay = \"1s\"\n"
            )
        };
        Arc::new(FileSet {
            config: None,
            units: vec![folder(&[
                ("a.toml", unit("")),
                ("b.toml", unit("requires = [\"a\"]")),
                ("c.toml", unit("wants = [\"b\"]")),
            ])],
            profiles: vec![folder(&[(
                "test.toml",
                "units = [\"a\", \"b\", \"c\"]".to_owned(),
            )])],
        })
    }

    fn profiles() -> Vec<String> {
        vec!["test".to_owned()]
    }

    fn plan(files: &Arc<FileSet>) -> Arc<crate::engine::types::Plan> {
        match config::load_from(Arc::clone(files), &profiles()) {
            Ok(loaded) => loaded.plan,
            Err(report) => panic!("{report}"),
        }
    }

    /// A world for an engine that is recorded.
    struct World {
        engine: Taped,
        dice: u64,
        now: Mono,
        alive: Vec<LaunchId>,
        asked: Vec<LaunchId>,
    }

    impl World {
        fn new(tape: Tape) -> Self {
            let mut engine = Taped::new(7, profiles(), Some(Ok(tape)));
            engine.runs_by(files(20));
            Self {
                engine,
                dice: 1,
                now: Mono(1_000_000),
                alive: Vec::new(),
                asked: Vec::new(),
            }
        }

        fn dice(&mut self, n: u64) -> u64 {
            self.dice += 1;
            mix(self.dice) % n
        }

        fn load(&mut self, files: Arc<FileSet>) {
            let plan = plan(&files);
            self.engine.runs_by(files);
            self.tell(Event::Loaded(plan));
        }

        fn tell(&mut self, event: Event) {
            self.engine.handle(self.now, event);
            self.drain();
        }

        fn drain(&mut self) {
            while let Some(action) = self.engine.poll_action() {
                match action {
                    Action::Launch { launch, .. } => self.asked.push(launch),
                    Action::Signal { launch, .. } | Action::Destroy { launch } => self.asked.push(launch),
                    _ => {}
                }
            }
            self.engine.take_delta();
        }

        /// One of the things that happen to a node.
        fn turn(&mut self) {
            self.now = self.now.after(Duration::from_millis(1 + self.dice(40)));
            let dice = self.dice(12);
            if let Some(launch) = self.asked.pop() {
                if self.alive.contains(&launch) {
                    self.exit(launch, 0);
                } else {
                    self.alive.push(launch);
                    self.tell(Event::Launched {
                        launch,
                        pid: 1000 + launch.step,
                        start_time: self.now.0,
                        note: None,
                    });
                }
                return;
            }
            match dice {
                0..4 if !self.alive.is_empty() => {
                    let which = self.dice(self.alive.len() as u64);
                    let launch = self.alive[usize::try_from(which).expect("few")];
                    self.exit(launch, 3);
                }
                4 => {
                    self.engine.pause_deadlines(true);
                    self.tell(Event::Tick);
                    self.engine.pause_deadlines(false);
                }
                5 => self.load(files(20)),
                6 => self.load(files(30)),
                7..9 => self.request(dice),
                _ => self.tell(Event::Tick),
            }
        }

        fn exit(&mut self, launch: LaunchId, code: u8) {
            self.alive.retain(|alive| *alive != launch);
            self.tell(Event::Exited {
                launch,
                exit: Exit::Code(i32::from(code)),
                remains: Vec::new(),
            });
        }

        fn request(&mut self, dice: u64) {
            let units = vec![UnitName::new("b").expect("a name")];
            let op = match dice {
                7 => Op::Restart {
                    units,
                    only_running: false,
                    cascade: true,
                },
                _ => Op::ResetFailed { units },
            };
            self.tell(Event::Request {
                id: RequestId(self.dice),
                op,
                by: By {
                    uid: 0,
                    pid: 1,
                    verb: "restart".to_owned(),
                },
            });
        }

        fn restart_manager(&mut self, tape: Tape) {
            let snapshot = self.engine.snapshot();
            // A manager that is killed flushes nothing; here all of it is to be compared.
            self.engine.flush();
            let files = files(20);
            let mut engine = Taped::new(7, profiles(), Some(Ok(tape)));
            engine.runs_by(Arc::clone(&files));
            engine.replace(Engine::restore(snapshot, &plan(&files)));
            self.engine = engine;
            self.engine.keep_clear_of(500);
            self.engine.resume(self.now);
            self.drain();
        }
    }

    fn replayed(bytes: &[u8]) -> Replayed {
        replay(bytes, &mut |_, _, _| {}).expect("a recording")
    }

    fn tape(folder: &tempfile::TempDir, most: u64) -> Tape {
        Tape::open_with(&folder.path().join("rec"), most).expect("a fresh folder takes files")
    }

    fn bytes(folder: &tempfile::TempDir, name: &str) -> Vec<u8> {
        std::fs::read(folder.path().join(name)).expect("it was recorded")
    }

    /// A recording with a manager's death in its middle.
    fn recording(turns: usize) -> (Vec<u8>, usize) {
        let folder = tempfile::tempdir().expect("there is room");
        let mut world = World::new(tape(&folder, u64::MAX));
        world.load(files(20));
        (0..turns).for_each(|_| world.turn());
        world.engine.flush();
        let first = bytes(&folder, "rec").len();
        world.restart_manager(tape(&folder, u64::MAX));
        (0..turns).for_each(|_| world.turn());
        world.engine.flush();
        (bytes(&folder, "rec"), first)
    }

    #[test]
    fn what_was_recorded_happens_again_over_a_managers_death() {
        let (bytes, _) = recording(300);
        let done = replayed(&bytes);
        assert_eq!((done.difference, done.notes, done.sections), (None, vec![], 2));
        assert!(done.steps > 600 && done.actions > 600, "{} steps", done.steps);
    }

    #[test]
    fn a_file_that_is_full_is_put_aside_and_both_halves_replay() {
        let folder = tempfile::tempdir().expect("there is room");
        let mut world = World::new(tape(&folder, 30_000));
        world.load(files(20));
        let mut files_seen = 0;
        let mut sections = 0;
        for round in 0..60 {
            (0..20).for_each(|_| world.turn());
            world.engine.flush();
            let (new, old) = (bytes(&folder, "rec"), folder.path().join("rec.1"));
            assert!(new.len() < 60_000, "{} bytes in round {round}", new.len());
            for half in [Some(new), std::fs::read(old).ok()].into_iter().flatten() {
                let done = replayed(&half);
                assert_eq!(done.difference, None, "round {round}");
                assert_eq!(done.notes, Vec::<String>::new());
                sections += done.sections;
                files_seen += 1;
            }
        }
        assert!(files_seen > 100, "{files_seen}: it was never put aside");
        assert_eq!(sections, files_seen, "one section in each file");
    }

    #[test]
    fn the_two_halves_of_a_full_recording_are_one() {
        let folder = tempfile::tempdir().expect("there is room");
        let mut world = World::new(tape(&folder, 30_000));
        world.load(files(20));
        while !folder.path().join("rec.1").exists() {
            world.turn();
            world.engine.flush();
        }
        (0..20).for_each(|_| world.turn());
        world.engine.flush();
        let whole = [bytes(&folder, "rec.1"), bytes(&folder, "rec")].concat();
        let done = replayed(&whole);
        assert_eq!((done.difference, done.notes, done.sections), (None, vec![], 2));
    }

    #[test]
    fn another_action_is_told_with_its_step_and_its_difference() {
        let (bytes, _) = recording(40);
        let records = read_through(&bytes).records;
        let (_, step) = records
            .iter()
            .filter(|(_, record)| record.payload.windows(9).any(|w| w == b"\"exit\":{\"".as_slice()))
            .nth(1)
            .expect("somebody exits");
        let text = String::from_utf8(step.payload.clone()).expect("text");
        let changed = text.replacen("exited with code 3", "exited with code 4", 1);
        assert_ne!(text, changed);
        let changed =
            crate::state::record::encode(Kind::Delta, step.generation, step.number, changed.as_bytes())
                .expect("short");
        let mut forged = Vec::new();
        for (at, record) in &records {
            let end = at + HEADER + record.payload.len();
            let is_it = (record.generation, record.number) == (step.generation, step.number);
            forged.extend_from_slice(if is_it { &changed } else { &bytes[*at..end] });
        }
        let difference = replayed(&forged).difference.expect("a difference");
        assert_eq!(difference.step, step.number);
        let said = difference.to_string();
        for word in [
            "exited with code 4",
            "exited with code 3",
            "differs",
            "told      ",
            "section 1",
        ] {
            assert!(said.contains(word), "{word} is missing: {said}");
        }
    }

    #[test]
    fn damage_costs_the_steps_behind_it_up_to_the_next_section_and_is_told() {
        let (whole, first) = recording(40);
        let all = replayed(&whole).steps;
        // A manager was killed while it wrote, and the next one began its section.
        let torn = [&whole[..first - 7], &whole[first..]].concat();
        let done = replayed(&torn);
        assert_eq!((done.difference, done.notes, done.steps), (None, vec![], all - 1));
        // A bit in the middle of the first section.
        let mut damaged = whole.clone();
        damaged[first / 2] ^= 1;
        let done = replayed(&damaged);
        assert_eq!((done.difference, done.sections), (None, 2));
        assert!(done.steps < all - 1);
        assert_eq!(done.notes.len(), 2, "{:?}", done.notes);
        // Cut anywhere, it says less and nothing else.
        for cut in (HEADER..whole.len()).step_by(997) {
            if let Ok(done) = replay(&whole[..cut], &mut |_, _, _| {}) {
                assert_eq!(done.difference, None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_recording_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("rec");
        std::fs::write(&path, "precious").expect("a fresh folder takes files");
        let why = Tape::open(&path).expect_err("it is no recording");
        assert!(why.contains("is no recording"), "{why}");
        assert_eq!(bytes(&folder, "rec"), b"precious");
        assert!(replay(b"precious", &mut |_, _, _| {}).is_err());
        assert!(replay(b"", &mut |_, _, _| {}).is_err());
        let other = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &other).expect("a fresh folder takes links");
        assert!(Tape::open(&other).is_err(), "a link is not followed");
    }
}
