//! What it takes to ask a request a second time: its token, what is left of its time, and how far its answer has come.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use proto::frame::{Ask, Token};
use proto::reply::Reply;
use proto::request::{Job, Request};

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
        }
    }

    /// What to send, the first time and again: the time that it may still take gets shorter.
    pub fn ask(&self, now: Instant) -> Ask {
        let mut request = self.request.clone();
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

    /// A frame of its answer came. Events go on behind the last one.
    pub fn heard(&mut self, reply: &Reply) {
        self.has_begun |= !matches!(reply, Reply::Seed(_)); // nothing is printed of it
        if let (Request::Events { after, .. }, Reply::Event(event)) = (&mut self.request, reply) {
            *after = Some(event.seq);
        }
    }

    /// What to say when it must not be asked again: log lines have no numbers, and those already printed would come twice.
    pub fn cannot_repeat(&self) -> Option<Stop> {
        let is_logs = matches!(self.request, Request::Logs { .. });
        (is_logs && self.has_begun).then(|| {
            Stop::new(
                stop::UNAVAILABLE,
                "the connection to ringriftd's logger ended: there may be more lines than were printed",
            )
            .hint("the same command again shows them")
        })
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
    use super::*;

    #[test]
    fn each_run_of_a_change_has_a_token_of_its_own() {
        let one = Asked::new(1, Request::DaemonReload);
        let two = Asked::new(1, Request::DaemonReload);
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
        let asked = Asked::new(7, Request::Start(wait.clone()));
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
}
