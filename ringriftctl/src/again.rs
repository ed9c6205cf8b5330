//! What it takes to ask a request a second time: its token, what is left of its time, and how far its answer has come.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::frame::{Ask, Token};
use proto::reply::{LogLine, Reply};
use proto::request::{Job, LogSeen, Request};

use crate::stop::{self, Stop};

/// A request under way.
#[derive(Debug)]
pub struct Asked {
    /// Its number, the same on every connection.
    pub id: u64,
    token: Option<Token>,
    request: Request,
    since: Instant,
    /// Something of its answer came.
    has_begun: bool,
    /// Of log lines that are followed, by their units: the time of the last one, and how many had it.
    seen: BTreeMap<String, (u64, usize)>,
    /// How many of those come again.
    again: BTreeMap<String, usize>,
    /// When it was asked first, in µs since 1970.
    since_us: u64,
}

impl Asked {
    /// From now on under way.
    pub fn new(id: u64, request: Request) -> Self {
        Self {
            id,
            token: verb(&request).map(|_| fresh()),
            request,
            since: Instant::now(),
            has_begun: false,
            seen: BTreeMap::new(),
            again: BTreeMap::new(),
            since_us: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    /// What to send, the first time and again: the time that it may still take gets shorter.
    pub fn ask(&mut self, now: Instant) -> Ask {
        let mut request = self.request.clone();
        if let Request::Logs {
            follow: true,
            lines,
            filter,
            ..
        } = &mut request
            && self.has_begun
        {
            // Of a unit that had no line yet each one is new, unless those before were not wished for.
            if *lines == Some(0) {
                filter.since_us = filter.since_us.max(Some(self.since_us));
            }
            *lines = None;
            let seen = |(unit, (at_us, _)): (&String, &(u64, usize))| LogSeen {
                unit: unit.clone(),
                at_us: *at_us,
            };
            filter.seen = self.seen.iter().map(seen).collect();
            self.again = self
                .seen
                .iter()
                .map(|(unit, (_, count))| (unit.clone(), *count))
                .collect();
        }
        if let Some(left) = time_out(&mut request) {
            let past = now.saturating_duration_since(self.since);
            // None would mean for ever.
            let rest = Duration::from_millis(*left).saturating_sub(past);
            let ms = rest.as_micros().div_ceil(1000);
            *left = u64::try_from(ms).unwrap_or(u64::MAX).max(1);
        }
        Ask {
            id: self.id,
            token: self.token,
            request,
        }
    }

    /// A frame of its answer came. Events go on behind the last one, and so do lines that are followed: those that were told
    /// before, and come again since others have their time, are taken out.
    pub fn heard(&mut self, reply: &mut Reply) {
        self.has_begun |= !matches!(reply, Reply::Seed(_)); // nothing is printed of it
        if let (Request::Logs { follow: true, .. }, Reply::Logs(lines)) = (&self.request, &mut *reply) {
            lines.retain(|line| self.is_new(line));
        }
        if let (Request::Events { after, .. }, Reply::Event(event)) = (&mut self.request, reply) {
            *after = Some(event.seq);
        }
    }

    /// A line that is followed was not told before.
    fn is_new(&mut self, line: &LogLine) -> bool {
        let Some((at_us, count)) = self.seen.get_mut(&line.unit) else {
            self.seen.insert(line.unit.clone(), (line.at_us, 1));
            return true;
        };
        if *at_us != line.at_us {
            (*at_us, *count) = (line.at_us, 1);
            self.again.remove(&line.unit);
            return true;
        }
        match self.again.get_mut(&line.unit).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                false
            }
            None => {
                *count += 1;
                true
            }
        }
    }

    /// What to say when it must not be asked again: those lines that were printed would come twice.
    pub fn cannot_repeat(&self) -> Option<Stop> {
        let is_logs = matches!(self.request, Request::Logs { follow: false, .. });
        (is_logs && self.has_begun).then(|| {
            Stop::new(
                stop::UNAVAILABLE,
                "the connection to ringriftd's logger ended: there may be more lines than were printed",
            )
            .hint("the same command again shows them")
        })
    }

    /// Lines that are followed.
    pub fn is_follow(&self) -> bool {
        matches!(self.request, Request::Logs { follow: true, .. })
    }

    /// It ends the daemon: one that is gone after it did as it was told.
    pub fn is_end(&self) -> bool {
        matches!(self.request, Request::Shutdown)
    }

    /// The verb, if it changes something.
    pub fn changes(&self) -> Option<&'static str> {
        verb(&self.request)
    }
}

/// Random, and different each time: the standard library seeds these hashers from the kernel's random numbers, and no two
/// alike.
fn fresh() -> Token {
    let half = || RandomState::new().build_hasher().finish().to_le_bytes();
    let mut bytes = [0; 16];
    for (byte, random) in bytes.iter_mut().zip(half().into_iter().chain(half())) {
        *byte = random;
    }
    Token(bytes)
}

/// The word for a request that changes something; asked twice it must be done once.
fn verb(request: &Request) -> Option<&'static str> {
    match request {
        Request::Start(_) => Some("start"),
        Request::Stop(_) => Some("stop"),
        Request::Restart { .. } => Some("restart"),
        Request::Reload(_) => Some("reload"),
        Request::Kill { .. } => Some("kill"),
        Request::ResetFailed { .. } => Some("reset-failed"),
        Request::DaemonReload => Some("daemon-reload"),
        Request::Shutdown => Some("shutdown"),
        Request::Hold { .. } => Some("hold"),
        Request::Unhold { .. } => Some("unhold"),
        Request::Adopt { dry_run: false, .. } => Some("adopt"),
        Request::Upgrade { .. } => Some("upgrade"),
        Request::Adopt { dry_run: true, .. }
        | Request::Status { .. }
        | Request::Events { .. }
        | Request::Logs { .. }
        | Request::Show { .. }
        | Request::Cat { .. }
        | Request::Deps { .. }
        | Request::Profiles
        | Request::Profile { .. }
        | Request::Coverage
        | Request::Deprecated
        | Request::Wait { .. }
        | Request::Version
        | Request::Names
        | Request::Why { .. } => None,
    }
}

fn time_out(request: &mut Request) -> Option<&mut u64> {
    match request {
        Request::Start(Job { timeout_ms, .. })
        | Request::Stop(Job { timeout_ms, .. })
        | Request::Restart {
            job: Job { timeout_ms, .. },
            ..
        }
        | Request::Reload(Job { timeout_ms, .. })
        | Request::Wait { timeout_ms, .. } => timeout_ms.as_mut(),
        Request::Kill { .. }
        | Request::ResetFailed { .. }
        | Request::DaemonReload
        | Request::Shutdown
        | Request::Hold { .. }
        | Request::Unhold { .. }
        | Request::Adopt { .. }
        | Request::Upgrade { .. }
        | Request::Status { .. }
        | Request::Events { .. }
        | Request::Logs { .. }
        | Request::Show { .. }
        | Request::Cat { .. }
        | Request::Deps { .. }
        | Request::Profiles
        | Request::Profile { .. }
        | Request::Coverage
        | Request::Deprecated
        | Request::Version
        | Request::Names
        | Request::Why { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::request::LogFilter;

    use super::*;

    #[test]
    fn each_run_of_a_change_has_a_token_of_its_own() {
        let mut one = Asked::new(1, Request::DaemonReload);
        let mut two = Asked::new(1, Request::DaemonReload);
        let (one, two) = (one.ask(Instant::now()), two.ask(Instant::now()));
        assert!(one.token.is_some() && one.token != two.token, "{one:?} {two:?}");
        assert_eq!(Asked::new(1, Request::Version).ask(Instant::now()).token, None);
    }

    #[test]
    fn asked_again_it_has_the_same_token_and_less_time() {
        let wait = Job {
            selectors: vec!["a".into()],
            wait: true,
            timeout_ms: Some(5000),
            cascade: false,
        };
        let mut asked = Asked::new(7, Request::Start(wait.clone()));
        let later = asked.ask(asked.since + Duration::from_secs(2));
        assert_eq!((later.id, later.token), (7, asked.token));
        let shorter = Job {
            timeout_ms: Some(3000),
            ..wait.clone()
        };
        assert_eq!(later.request, Request::Start(shorter));
        // Nothing left is not for ever.
        let last = Job {
            timeout_ms: Some(1),
            ..wait
        };
        let late = asked.ask(asked.since + Duration::from_secs(20));
        assert_eq!(late.request, Request::Start(last));
    }

    #[test]
    fn lines_that_are_followed_go_on_where_a_connection_ended() {
        let line = |unit: &str, at_us, text: &str| LogLine {
            at_us,
            unit: unit.into(),
            invocation: 1,
            message: text.into(),
            end: proto::reply::LineEnd::Whole,
            severity: None,
            stream: None,
        };
        let mut asked = Asked::new(
            3,
            Request::Logs {
                selectors: vec![],
                follow: true,
                lines: Some(50),
                filter: LogFilter::default(),
            },
        );
        let texts = |asked: &mut Asked, lines: &[LogLine]| {
            let mut reply = Reply::Logs(lines.to_vec());
            asked.heard(&mut reply);
            let Reply::Logs(lines) = reply else {
                panic!("{reply:?}")
            };
            let text = |line: LogLine| String::from_utf8(line.message).expect("text");
            lines.into_iter().map(text).collect::<Vec<_>>()
        };
        let told = [
            line("a", 1, "1"),
            line("b", 5, "2"),
            line("a", 7, "3"),
            line("a", 7, "4"),
        ];
        assert_eq!(texts(&mut asked, &told), ["1", "2", "3", "4"]);
        for _ in 0..2 {
            let Request::Logs { lines, filter, .. } = asked.ask(Instant::now()).request else {
                panic!("another request")
            };
            let seen = |unit: &str, at_us| LogSeen {
                unit: unit.into(),
                at_us,
            };
            assert_eq!((lines, filter.seen), (None, vec![seen("a", 7), seen("b", 5)]));
            // What has their times comes again, in the same order.
            let again = [line("b", 5, "2"), line("a", 7, "3"), line("a", 7, "4")];
            assert!(texts(&mut asked, &again).is_empty());
        }
        let more = [
            line("a", 7, "5"),
            line("c", 2, "new"),
            line("b", 6, "6"),
            line("a", 9, "7"),
        ];
        assert_eq!(texts(&mut asked, &more), ["5", "new", "6", "7"]);
        assert_eq!(asked.seen["a"], (9, 1));
    }
}
