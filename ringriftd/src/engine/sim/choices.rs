//! Where chance comes from: every draw is a *choice* with a name, and 0 is always the calm one.
//!
//! A choice is named by what it decides, of whom, and the how-manieth it is ([`Key`]), and its value follows from that name and
//! the seed alone: not from how many were drawn before it. So a life's third word to the supervisor is the same whatever
//! the operators did meanwhile, a run with a choice less is the same run but for that, and whoever shrinks a failure can leave
//! choices out one by one. A list of choices ([`Choices::listed`]) replays a run without its seed; what it does not name is calm.

use std::collections::BTreeMap;

use crate::engine::restart::mix;

macro_rules! picks {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What is decided.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Pick {
            $($(#[$doc])* $name,)*
        }

        impl Pick {
            /// The word in a list of choices.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// What this word means.
            pub fn read(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

picks! {
    /// A unit is there.
    Unit = "unit",
    /// It requires an earlier one; how it is related otherwise.
    Edge = "edge",
    /// Its kind.
    Kind = "kind",
    /// Its hooks, as bits.
    Hooks = "hooks",
    /// What it does about dependencies, as digits of base 2.
    Dependency = "dependency",
    /// Its restarts.
    Restarts = "restarts",
    /// Its signals.
    Ladder = "ladder",
    /// Its `[ready] probe`.
    ReadyProbe = "ready-probe",
    /// Its `[health]`.
    Health = "health",
    /// The numbers of its `[health]`.
    HealthNumbers = "health-numbers",
    /// It is essential.
    Essential = "essential",
    /// Its place in the start.
    Position = "position",
    /// How many units may start at once.
    MaxStarting = "max-starting",
    /// A launch fails.
    LaunchFails = "launch-fails",
    /// How long the keeper takes for a launch.
    LaunchTakes = "launch-takes",
    /// When a process is ready.
    ReadyAfter = "ready-after",
    /// Whether it never is, or only much later.
    ReadyLate = "ready-late",
    /// It ends by itself.
    Ends = "ends",
    /// When.
    EndsAfter = "ends-after",
    /// It ignores SIGTERM.
    IgnoresTerm = "ignores-term",
    /// It does not go by SIGKILL for so many reports.
    IgnoresKill = "ignores-kill",
    /// It leaves others behind.
    Leaves = "leaves",
    /// How long they stay.
    LeavesFor = "leaves-for",
    /// It hangs from then on.
    Hangs = "hangs",
    /// How long it takes to die.
    DiesAfter = "dies-after",
    /// A hook fails, or takes too long.
    HookEnds = "hook-ends",
    /// A hook's time.
    HookTakes = "hook-takes",
    /// It says something of itself.
    Speaks = "speaks",
    /// When.
    SpeaksAfter = "speaks-after",
    /// An answer to a probe.
    Answer = "answer",
    /// When it comes.
    AnswerAfter = "answer-after",
    /// What it says of its health.
    Report = "report",
    /// A forking unit's main process.
    FindMain = "find-main",
    /// What an outside process does when it is taken over.
    Foreign = "foreign",
    /// News of the keeper's is late.
    NewsLate = "news-late",
    /// News is told twice.
    NewsTwice = "news-twice",
    /// The kernel's word on memory.
    Used = "used",
    /// A request comes, and what it asks for.
    Request = "request",
    /// How long after the one before.
    RequestAfter = "request-after",
    /// For which units.
    RequestUnits = "request-units",
    /// Its remaining words.
    RequestHow = "request-how",
    /// Its client goes away.
    Forgotten = "forgotten",
    /// The files are read again after a request.
    Load = "load",
    /// What they say of a unit then.
    LoadUnit = "load-unit",
    /// The manager is killed at this piece of news of a unit.
    Dies = "manager-dies",
    /// And at which of its actions.
    DiesAt = "manager-dies-at",
    /// The keeper dies too.
    KeeperDies = "keeper-dies",
    /// A process is not there any more after that.
    Missing = "missing",
    /// The machine is started anew.
    Reboot = "reboot",
    /// Time that nobody noticed passes.
    Sleeps = "sleeps",
    /// The engine is told an earlier time.
    ClockBack = "clock-back",
    /// It is told that a deadline may have passed, and none has.
    Spurious = "spurious",
    /// News of what is over.
    Stale = "stale",
    /// The daemon is asked to end.
    Shutdown = "shutdown",
    /// A twin of the engine goes along from here.
    Twin = "twin",
    /// The order of a swizzle.
    Swizzle = "swizzle",
    /// The limits of `[breaker]`.
    Breaker = "breaker",
    /// A unit's category.
    Category = "category",
    /// A unit is critical.
    Critical = "critical",
}

/// A choice's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What it decides.
    pub what: Pick,
    /// Of whom: the number of a unit, a request or an event.
    pub who: u32,
    /// The how-manieth of these: mostly the number of a life.
    pub nth: u32,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}.{}", self.what.word(), self.who, self.nth)
    }
}

/// The name of a choice.
pub fn key(what: Pick, who: u32, nth: u32) -> Key {
    Key { what, who, nth }
}

/// Choices that were made, the calm ones left out.
pub type List = BTreeMap<Key, u64>;

#[derive(Debug, Clone)]
enum Source {
    Seed(u64),
    List(List),
}

/// Makes choices.
#[derive(Debug, Clone)]
pub struct Choices {
    source: Source,
    log: Option<List>,
}

impl Choices {
    /// By a seed.
    pub fn seeded(seed: u64) -> Self {
        Self {
            source: Source::Seed(mix(seed)),
            log: None,
        }
    }

    /// By a list; calm where it says nothing.
    pub fn listed(list: List) -> Self {
        Self {
            source: Source::List(list),
            log: None,
        }
    }

    /// From here on the choices are written down.
    pub fn record(mut self) -> Self {
        self.log = Some(List::new());
        self
    }

    /// What was written down.
    pub fn into_log(self) -> List {
        self.log.unwrap_or_default()
    }

    fn note(&mut self, key: Key, value: u64) -> u64 {
        if let Some(log) = &mut self.log
            && value != 0
        {
            log.insert(key, value);
        }
        value
    }

    fn hash(seed: u64, key: Key) -> u64 {
        let name = (key.what as u64) << 56 | u64::from(key.who & 0xff_ffff) << 32 | u64::from(key.nth);
        mix(seed ^ mix(name))
    }

    /// One of 0..n, all alike.
    pub fn below(&mut self, key: Key, n: u64) -> u64 {
        let last = n.max(1) - 1;
        let value = match &self.source {
            Source::Seed(seed) => Self::hash(*seed, key) % (last + 1),
            Source::List(list) => list.get(&key).copied().unwrap_or(0).min(last),
        };
        self.note(key, value)
    }

    /// 0, or in so many of a thousand cases one of 1..=n.
    pub fn chance(&mut self, key: Key, permille: u32, n: u64) -> u64 {
        let value = match &self.source {
            // Nor by a list: once all faults have ceased, nothing happens any more.
            _ if permille == 0 => 0,
            Source::Seed(seed) => {
                let hash = Self::hash(*seed, key);
                if hash % 1000 < u64::from(permille) {
                    1 + (hash >> 20) % n.max(1)
                } else {
                    0
                }
            }
            Source::List(list) => list.get(&key).copied().unwrap_or(0).min(n),
        };
        self.note(key, value)
    }
}

/// A list as text, a choice a line.
pub fn print(list: &List) -> String {
    list.iter()
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect()
}

/// The list that was printed so, or what is wrong with which line.
pub fn parse(text: &str) -> Result<List, String> {
    let mut list = List::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let choice = || {
            let (name, value) = line.split_once('=')?;
            let (word, place) = name.trim().split_once(' ')?;
            let (who, nth) = place.trim().split_once('.')?;
            let key = key(Pick::read(word)?, who.parse().ok()?, nth.parse().ok()?);
            Some((key, value.trim().parse().ok()?))
        };
        let (key, value) =
            choice().ok_or_else(|| format!("line {}: cannot read the choice: {line}", n + 1))?;
        list.insert(key, value);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_depends_on_its_name_and_on_no_other_choice() {
        let mut one = Choices::seeded(7);
        let mut other = Choices::seeded(7);
        let wanted = key(Pick::Ends, 3, 2);
        other.below(key(Pick::Ends, 3, 1), 1000);
        other.chance(key(Pick::Leaves, 0, 1), 500, 9);
        assert_eq!(one.below(wanted, 1 << 40), other.below(wanted, 1 << 40));
        let distinct: std::collections::BTreeSet<u64> = (0..1000)
            .map(|n| one.below(key(Pick::Ends, n, 0), 1 << 40))
            .collect();
        assert_eq!(distinct.len(), 1000);
    }

    #[test]
    fn what_was_recorded_replays_and_reads_back_from_text() {
        let draw = |choices: &mut Choices| -> Vec<u64> {
            (0..200)
                .map(|n| {
                    choices.chance(key(Pick::Speaks, n % 7, n), 300, 50)
                        + choices.below(key(Pick::Kind, n, 1), 3)
                })
                .collect()
        };
        let mut first = Choices::seeded(5).record();
        let drawn = draw(&mut first);
        let list = first.into_log();
        assert!(list.values().all(|value| *value != 0));
        let read = parse(&print(&list)).expect("it was printed so");
        assert_eq!(read, list);
        assert_eq!(draw(&mut Choices::listed(read)), drawn);
    }

    #[test]
    fn a_chance_is_as_frequent_as_it_says() {
        let mut choices = Choices::seeded(11);
        let hits = (0..10_000)
            .filter(|n| choices.chance(key(Pick::Leaves, *n, 0), 200, 3) > 0)
            .count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
        assert!((0..100).all(|n| choices.chance(key(Pick::Leaves, n, 0), 0, 3) == 0));
    }

    #[test]
    fn a_list_that_cannot_be_read_is_refused_with_its_line() {
        let told = parse("# none\nends 1.2 = 3\nwhat 1.2 = 3\n").expect_err("no such choice");
        assert_eq!(told, "line 3: cannot read the choice: what 1.2 = 3");
    }
}
