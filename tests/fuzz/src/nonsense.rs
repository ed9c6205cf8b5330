//! The engine is told anything in any order: events of lives that never were, times that leap, requests, other files, and its
//! own death in between. It may ask for anything but must never fall, and after each step what must hold, holds.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::reply::{By, Cause, CauseKind, Exit, Health, Hold, Oom};
use ringriftd::config::fileset::FileSet;
use ringriftd::engine::Engine;
use ringriftd::engine::hold::Held;
use ringriftd::engine::types::{Action, Event, LaunchFailure, Mono, Op, Plan, ProbeResult, RequestId};
use ringriftd::engine::unit::Foreign;
use ringriftd::ids::{Invocation, LaunchId, Scope};
use ringriftd::spec::UnitName;
use ringriftd::used::Used;

use super::engine::ACTIONS_MAX;
use super::files;

/// Bytes as choices; at their end the first of everything is chosen.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, self.0), |(b, rest)| (*b, rest));
        self.0 = rest;
        byte
    }

    fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    fn is_true(&mut self) -> bool {
        self.byte() & 1 == 1
    }
}

/// No machine runs for 292 years; at the very end of time nothing lies in the future any more.
const LATEST: Mono = Mono(u64::MAX / 2);

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Five units of all kinds, with every edge between some of them; `variant` is another version of the files.
fn plans() -> &'static [Arc<Plan>; 3] {
    static PLANS: OnceLock<[Arc<Plan>; 3]> = OnceLock::new();
    PLANS.get_or_init(|| {
        [0, 1, 2].map(|variant| files::load(&set(variant)).expect("these files are good").plan)
    })
}

fn set(variant: u8) -> Arc<FileSet> {
    let exec = "[exec]\ncommand = [\"/bin/true\"]\n";
    let restart = "[restart]\ndelay = \"100ms\"\nmax_delay = \"2s\"\nmax_restarts = 3\nwindow = \"1m\"\n";
    let a = format!(
        "critical = true\n{exec}kind = \"notify\"\nstart_pre = [[\"/p\"]]\nstop_post = [[\"/q\"]]\nreload = [[\"/r\"]]\n{restart}[health]\nprobe \
         = {{ tcp = \"127.0.0.1:1\" }}\ninterval = \"1s\"\ntimeout = \"1s\"\nfailures = 2\nwatchdog = \"5s\"\n"
    );
    let b = format!(
        "requires = [\"a\"]\nafter = [\"c\"]\n{exec}kind = \"forking\"\nstart_post = [[\"/p\"]]\nstop_pre = [[\"/q\"]]\n{restart}\
         retry_every = \"3s\"\n[on_dependency]\nrestarted = \"restart\"\n"
    );
    let c = format!(
        "wants = [\"a\"]\n{exec}kind = \"oneshot\"\nremain = {}\n",
        variant == 1
    );
    let d = format!(
        "requires = [\"b\"]\nconflicts = [\"e\"]\n{exec}{restart}exhausted = \"give_up\"\n[health]\nprobe = {{ command = [\"/h\"] }}\ninterval \
         = \"2s\"\n[on_dependency]\nfailed = \"{}\"\nrecovered = \"stay\"\n",
        if variant == 1 { "keep" } else { "stop" }
    );
    let e = format!("{exec}kind = \"fd\"\n[ready]\nprobe = {{ file = \"/f\" }}\ntimeout = \"2s\"\n{restart}");
    let units = [
        ("a.toml", a.as_str()),
        ("b.toml", b.as_str()),
        ("c.toml", c.as_str()),
        ("d.toml", d.as_str()),
        ("e.toml", e.as_str()),
    ];
    let profile = match variant {
        0 => "units = [\"a\", \"b\", \"c\", \"d\"]",
        1 => "units = [\"a\", \"d\"]",
        _ => "units = [\"a\", \"b\", \"c\"]",
    };
    // In the last version a unit has no file any more.
    let count = if variant == 2 { 3 } else { 5 };
    let config = "shutdown_timeout = \"30s\"\nmax_starting = 2\n";
    files::set(&units[..count], &[("p.toml", profile)], Some(config))
}

struct Told<'a> {
    choices: Choices<'a>,
    engine: Engine,
    now: Mono,
    plan: Arc<Plan>,
    /// The last launches that were asked for: most of what is told is about them.
    asked: Vec<LaunchId>,
    probes: Vec<(Invocation, u64)>,
    requests: u64,
    answered: u64,
}

impl Told<'_> {
    fn launch(&mut self) -> LaunchId {
        let byte = self.choices.byte();
        let known = self.asked.len();
        if byte & 0x80 == 0 && known > 0 {
            return self.asked[known - 1 - usize::from(byte) % known.min(8)];
        }
        LaunchId {
            invocation: Invocation(u64::from(byte & 0x0f)),
            step: u32::from(byte >> 4 & 3),
        }
    }

    fn invocation(&mut self) -> Invocation {
        self.launch().invocation
    }

    fn units(&mut self) -> Vec<UnitName> {
        let set = self.choices.byte();
        let chosen = NAMES.iter().enumerate().filter(|(n, _)| set & 1 << n != 0);
        chosen.filter_map(|(_, name)| UnitName::new(name)).collect()
    }

    fn time(&mut self) -> Duration {
        match self.choices.below(6) {
            0 => Duration::ZERO,
            1 => Duration::from_millis(1),
            2 => Duration::from_millis(u64::from(self.choices.byte()) * 10),
            3 => Duration::from_secs(u64::from(self.choices.byte())),
            4 => Duration::from_secs(u64::from(self.choices.byte()) * 3600),
            _ => Duration::MAX,
        }
    }

    fn remains(&mut self) -> Vec<u32> {
        let n = self.choices.below(3);
        (0..u32::from(n)).map(|pid| pid + 2).collect()
    }

    fn exit(&mut self) -> Exit {
        match self.choices.below(5) {
            0 => Exit::Code(0),
            1 => Exit::Code(i32::from(self.choices.byte())),
            2 => Exit::Unknown,
            _ => Exit::Signal {
                signal: i32::from(self.choices.byte()),
                core: false,
            },
        }
    }

    fn op(&mut self) -> Op {
        let units = self.units();
        match self.choices.below(9) {
            0 => Op::Start { units },
            1 => Op::Stop {
                units,
                cascade: self.choices.is_true(),
            },
            2 => Op::Restart {
                units,
                only_running: self.choices.is_true(),
                cascade: self.choices.is_true(),
            },
            3 => Op::Reload { units },
            4 => Op::Kill {
                units,
                signal: i32::from(self.choices.below(70)),
                scope: if self.choices.is_true() {
                    Scope::All
                } else {
                    Scope::Main
                },
            },
            5 => Op::ResetFailed { units },
            6 => {
                let until = self.choices.is_true().then(|| self.time());
                let hold = Hold {
                    by: by(),
                    note: None,
                    since_us: 1,
                    until_us: until.map(|_| 2),
                };
                let until = until.map(|time| self.now.after(time));
                Op::Hold {
                    units,
                    held: Held { hold, until },
                }
            }
            7 => Op::Unhold { units },
            _ => Op::Adopt {
                unit: units
                    .first()
                    .cloned()
                    .unwrap_or_else(|| UnitName::new("zz").expect("a name")),
                process: Foreign {
                    pid: 77,
                    start_time: 5,
                },
            },
        }
    }

    fn event(&mut self) -> Option<Event> {
        let pid = 100 + u32::from(self.choices.below(4));
        Some(match self.choices.below(28) {
            0..3 => Event::Tick,
            3..6 => Event::Launched {
                launch: self.launch(),
                pid,
                start_time: 5,
                note: None,
            },
            6 => Event::LaunchFailed {
                launch: self.launch(),
                failure: LaunchFailure {
                    text: "no".to_owned(),
                    host: self.choices.is_true(),
                },
            },
            7..10 => Event::Exited {
                launch: self.launch(),
                exit: self.exit(),
                remains: self.remains(),
            },
            10 => Event::Emptied {
                launch: self.launch(),
            },
            11 => Event::Lost {
                launch: self.launch(),
            },
            12 => Event::Unkillable {
                launch: self.launch(),
                remains: self.remains(),
            },
            13 => Event::MainFound {
                launch: self.launch(),
                pid,
                start_time: 6,
            },
            14 => Event::MainMissing {
                launch: self.launch(),
                why: "no".to_owned(),
            },
            15 => Event::MainChanged {
                launch: self.launch(),
                pid,
                start_time: 7,
            },
            16 | 17 => Event::Ready {
                invocation: self.invocation(),
            },
            18 => match self.choices.below(6) {
                0 => Event::Stopping {
                    invocation: self.invocation(),
                },
                1 => Event::Reloading {
                    invocation: self.invocation(),
                    at: self.choices.is_true().then_some(self.now),
                },
                2 => Event::Watchdog {
                    invocation: self.invocation(),
                },
                3 => Event::WatchdogTrigger {
                    invocation: self.invocation(),
                },
                4 => Event::WatchdogEvery {
                    invocation: self.invocation(),
                    every: self.time(),
                },
                _ => Event::Extend {
                    invocation: self.invocation(),
                    by: self.time(),
                },
            },
            19 => Event::HealthSaid {
                invocation: self.invocation(),
                health: [Health::Healthy, Health::Degraded, Health::Unhealthy]
                    [usize::from(self.choices.below(3))],
                text: None,
            },
            20 | 21 => {
                let guess = self.invocation();
                let (invocation, nr) = self.probes.pop().unwrap_or((guess, 1));
                let result = match self.choices.below(4) {
                    0 => ProbeResult::Passed,
                    1 => ProbeResult::Failed("no".to_owned()),
                    2 => ProbeResult::Cannot("no".to_owned()),
                    _ => ProbeResult::Void,
                };
                Event::Probed {
                    invocation,
                    nr,
                    result,
                }
            }
            22..25 => {
                self.requests += 1;
                Event::Request {
                    id: RequestId(self.requests),
                    op: self.op(),
                    by: by(),
                }
            }
            25 => Event::Used {
                launch: self.launch(),
                used: Used {
                    cpu_us: None,
                    memory_peak: None,
                    oom: Oom::Maybe,
                },
            },
            26 => match self.choices.below(4) {
                0 => Event::Forget {
                    id: RequestId(u64::from(self.choices.byte())),
                },
                1 => Event::Shutdown {
                    cause: Cause {
                        kind: CauseKind::Signal,
                        seq: None,
                        unit: None,
                        by: None,
                        text: "no".to_owned(),
                    },
                },
                n => {
                    let variant = usize::from(self.choices.below(3)) * usize::from(n - 1) % 3;
                    self.plan = Arc::clone(&plans()[variant]);
                    Event::Loaded(Arc::clone(&self.plan))
                }
            },
            _ => return None,
        })
    }

    /// The manager dies, and another one begins with what was stored.
    fn die(&mut self) {
        let stored = self.engine.snapshot();
        self.engine = Engine::restore(stored.clone(), &self.plan);
        assert_eq!(self.engine.snapshot(), stored, "it is stored as it began");
        self.probes.clear();
        if self.choices.is_true() {
            let launch = self.launch();
            self.tell(Event::Lost { launch });
        }
        self.engine.resume(self.now);
        self.drain();
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        self.drain();
    }

    fn drain(&mut self) {
        let mut actions = 0;
        while let Some(action) = self.engine.poll_action() {
            actions += 1;
            assert!(actions < ACTIONS_MAX, "it asks for ever");
            match action {
                Action::Launch { launch, .. } | Action::AdoptForeign { launch, .. } => {
                    self.asked.push(launch)
                }
                Action::Probe { invocation, nr, .. } => self.probes.push((invocation, nr)),
                Action::Reply { .. } => self.answered += 1,
                _ => {}
            }
        }
        self.engine.take_delta();
        assert!(self.answered <= self.requests, "one request was answered twice");
        let broken = self.engine.broken_invariants();
        assert!(broken.is_empty(), "{broken:?}");
    }
}

fn by() -> By {
    By {
        uid: 0,
        pid: 9,
        verb: "start".to_owned(),
    }
}

/// Each byte is a choice of what happens next.
pub fn nonsense(data: &[u8]) -> bool {
    let plan = Arc::clone(&plans()[0]);
    let mut told = Told {
        choices: Choices(data),
        engine: Engine::new(7),
        now: Mono(1_000_000_000),
        plan: Arc::clone(&plan),
        asked: Vec::new(),
        probes: Vec::new(),
        requests: 0,
        answered: 0,
    };
    told.tell(Event::Loaded(plan));
    while !told.choices.0.is_empty() {
        told.now = match told.choices.below(4) {
            0 | 1 => told.now,
            2 => told
                .engine
                .next_deadline()
                .unwrap_or(told.now)
                .max(told.now)
                .min(LATEST),
            _ => {
                let time = told.time();
                told.now.after(time).min(LATEST)
            }
        };
        match told.event() {
            Some(event) => told.tell(event),
            None => told.die(),
        }
    }
    told.engine.last_seq() > 10
}
