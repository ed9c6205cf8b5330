//! The words of sd_notify(3), and ringriftd's own beside them: what one datagram says. Who sent it, and whether that one may, is
//! not known here.
//!
//! Read first: [`Notice`] and [`parse`].

use std::fmt;
use std::time::Duration;

use crate::limits::{DURATION_MAX, FD_NAME_MAX, METRIC_NAME_MAX, METRICS_MAX, NOTIFY_MAX, STATUS_TEXT_MAX};
use crate::spec::NotifyAccess;
use proto::reply::Health;

/// One thing that a unit said.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// `READY=1`.
    Ready,
    /// `STATUS=`, one line without control characters, at most [`STATUS_TEXT_MAX`] bytes; empty takes it back.
    Status(String),
    /// `STOPPING=1`.
    Stopping,
    /// `RELOADING=1`. `MONOTONIC_USEC=` beside it says when that was, in µs of CLOCK_MONOTONIC.
    Reloading {
        /// That time.
        at_us: Option<u64>,
    },
    /// `WATCHDOG=1`: it is alive.
    Watchdog,
    /// `WATCHDOG=trigger`: it wants to be treated as hung.
    WatchdogTrigger,
    /// `WATCHDOG_USEC=`: it will say `WATCHDOG=1` this often; zero: no more.
    WatchdogEvery(Duration),
    /// `EXTEND_TIMEOUT_USEC=`, at most [`DURATION_MAX`].
    Extend(Duration),
    /// `X_RINGRIFT_HEALTH=`; never `Unknown`.
    Health(Health),
    /// `X_RINGRIFT_METRICS=`: a JSON object of at most [`METRICS_MAX`] finite numbers with plain names, by name.
    Metrics(Vec<(String, f64)>),
    /// `MAINPID=`: another process of the unit is the main one from now on. Above 1; whether it is the unit's is still to
    /// be seen.
    MainPid(u32),
    /// `ERRNO=`: an errno(3) that explains what it has said; 0 takes it back.
    Errno(i32),
    /// `NOTIFYACCESS=`: who may notify for the rest of this life. systemd's `none` and `exec` have no counterpart.
    Access(NotifyAccess),
    /// `FDSTORE=1`: its descriptors are to be kept for the unit's next life. They are in the datagram's [`Consumed`].
    Store {
        /// `FDNAME=`; `stored` without one, or with one that is no name.
        name: String,
        /// Not `FDPOLL=0`: it is dropped when its other end hangs up.
        is_polled: bool,
    },
    /// `FDSTOREREMOVE=1`: those of this name are not kept any more.
    Unstore {
        /// `FDNAME=`.
        name: String,
    },
    /// `BARRIER=1`: the sender waits until its descriptor is closed, which happens when the datagram is taken, and so after
    /// everything said before. [`listen`] keeps it to itself when the datagram says nothing else.
    Barrier,
    /// A key that means nothing here (`BUSERROR`, any unknown one), or a value that its key does not have.
    Ignored {
        /// The key, at most 64 bytes and without control characters.
        key: String,
    },
    /// A datagram that was not believed. Never made by [`parse`].
    Rejected {
        /// Who sent it; 0 when the kernel could not say.
        pid: u32,
        /// In words.
        why: String,
    },
    /// So many datagrams came too fast and were not looked at. Never made by [`parse`].
    Dropped(u64),
}

/// Why a datagram says nothing at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// It has no bytes.
    Empty,
    /// It is longer than [`NOTIFY_MAX`].
    TooLong,
    /// It has a NUL byte elsewhere than at its end.
    Nul,
    /// It is not UTF-8.
    NotUtf8,
    /// A line is not `KEY=value`.
    NotAVariable,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the datagram is empty"),
            Self::TooLong => write!(f, "the datagram is longer than the {NOTIFY_MAX} bytes allowed"),
            Self::Nul => f.write_str("the datagram contains a NUL byte"),
            Self::NotUtf8 => f.write_str("the datagram is not valid UTF-8"),
            Self::NotAVariable => f.write_str("a line of the datagram is not KEY=value"),
        }
    }
}

/// What a datagram says, in its order. All of it or nothing: a datagram with one bad line is rubbish, and rubbish is
/// not half believed.
pub fn parse(datagram: &[u8]) -> Result<Vec<Notice>, Bad> {
    if datagram.len() > NOTIFY_MAX {
        return Err(Bad::TooLong);
    }
    // C programs send the NUL that ends their string along; systemd lets them, too.
    let datagram = datagram.strip_suffix(b"\0").unwrap_or(datagram);
    if datagram.is_empty() {
        return Err(Bad::Empty);
    }
    if datagram.contains(&0) {
        return Err(Bad::Nul);
    }
    let text = std::str::from_utf8(datagram).map_err(|_| Bad::NotUtf8)?;
    let mut pairs = Vec::new();
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            None | Some(("", _)) => return Err(Bad::NotAVariable),
            Some(pair) => pairs.push(pair),
        }
    }
    let beside = Beside::of(&pairs);
    Ok(pairs
        .into_iter()
        .filter(|(key, _)| !Beside::KEYS.contains(key))
        .map(|(key, value)| one(key, value, &beside))
        .collect())
}

/// Variables that mean something only beside another of the same datagram, wherever in it they stand.
struct Beside<'a> {
    fd_name: Option<&'a str>,
    is_polled: bool,
    at_us: Option<u64>,
}

impl<'a> Beside<'a> {
    const KEYS: [&'static str; 3] = ["FDNAME", "FDPOLL", "MONOTONIC_USEC"];

    fn of(pairs: &[(&'a str, &'a str)]) -> Self {
        let value = |wanted: &str| {
            pairs
                .iter()
                .find(|(key, _)| *key == wanted)
                .map(|(_, value)| *value)
        };
        Self {
            fd_name: value("FDNAME").filter(|name| is_fd_name(name)),
            is_polled: value("FDPOLL") != Some("0"),
            at_us: value("MONOTONIC_USEC").and_then(number),
        }
    }
}

/// As systemd has it: printable ASCII without the colon that LISTEN_FDNAMES puts between names.
fn is_fd_name(name: &str) -> bool {
    (1..=FD_NAME_MAX).contains(&name.len()) && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b':')
}

/// The name of a stored descriptor that was given none.
const NAMELESS: &str = "stored";

fn one(key: &str, value: &str, beside: &Beside<'_>) -> Notice {
    let known = match (key, value) {
        ("READY", "1") => Some(Notice::Ready),
        ("STOPPING", "1") => Some(Notice::Stopping),
        ("RELOADING", "1") => Some(Notice::Reloading { at_us: beside.at_us }),
        ("WATCHDOG", "1") => Some(Notice::Watchdog),
        ("WATCHDOG", "trigger") => Some(Notice::WatchdogTrigger),
        ("WATCHDOG_USEC", n) => micros(n).map(Notice::WatchdogEvery),
        ("BARRIER", "1") => Some(Notice::Barrier),
        ("STATUS", text) => Some(Notice::Status(clean(text, STATUS_TEXT_MAX))),
        ("EXTEND_TIMEOUT_USEC", n) => micros(n).map(Notice::Extend),
        ("X_RINGRIFT_HEALTH", "healthy") => Some(Notice::Health(Health::Healthy)),
        ("X_RINGRIFT_HEALTH", "degraded") => Some(Notice::Health(Health::Degraded)),
        ("X_RINGRIFT_HEALTH", "unhealthy") => Some(Notice::Health(Health::Unhealthy)),
        ("X_RINGRIFT_METRICS", text) => metrics(text).map(Notice::Metrics),
        ("MAINPID", n) => number(n)
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 1 && i32::try_from(*pid).is_ok())
            .map(Notice::MainPid),
        ("ERRNO", n) => number(n)
            .and_then(|errno| i32::try_from(errno).ok())
            .filter(|errno| *errno <= ERRNO_MAX)
            .map(Notice::Errno),
        ("NOTIFYACCESS", "main") => Some(Notice::Access(NotifyAccess::Main)),
        ("NOTIFYACCESS", "all") => Some(Notice::Access(NotifyAccess::All)),
        ("FDSTORE", "1") => Some(Notice::Store {
            name: beside.fd_name.unwrap_or(NAMELESS).to_owned(),
            is_polled: beside.is_polled,
        }),
        ("FDSTOREREMOVE", "1") => beside.fd_name.map(|name| Notice::Unstore {
            name: name.to_owned(),
        }),
        _ => None,
    };
    known.unwrap_or_else(|| Notice::Ignored { key: clean(key, 64) })
}

fn micros(text: &str) -> Option<Duration> {
    Some(Duration::from_micros(number(text)?).min(DURATION_MAX))
}

fn number(text: &str) -> Option<u64> {
    // Not `u64::from_str` alone: it takes a sign.
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The largest errno(3) that the kernel has (MAX_ERRNO).
const ERRNO_MAX: i32 = 4095;

/// All of the object or nothing: half of a set of numbers would be taken for the whole. Of a name that is there twice the
/// last number counts, as everywhere in JSON.
fn metrics(text: &str) -> Option<Vec<(String, f64)>> {
    let found: std::collections::BTreeMap<String, f64> = serde_json::from_str(text).ok()?;
    let is_name = |name: &String| {
        (1..=METRIC_NAME_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.:".contains(&b))
    };
    let is_good = found.len() <= METRICS_MAX && found.iter().all(|(name, n)| is_name(name) && n.is_finite());
    is_good.then(|| found.into_iter().collect())
}

/// `text` without what could move a terminal's cursor or turn its text round, cut to `max` bytes between characters.
fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let is_bidi =
            matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        let c = if c.is_control() || is_bidi || matches!(c, '\u{2028}' | '\u{2029}') {
            '\u{fffd}'
        } else {
            c
        };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn says(datagram: &str, expected: &[Notice]) {
        assert_eq!(
            parse(datagram.as_bytes()).as_deref(),
            Ok(expected),
            "{datagram:?}"
        );
    }

    fn ignored(key: &str) -> Notice {
        Notice::Ignored { key: key.to_owned() }
    }

    #[test]
    fn words_of_sd_notify() {
        says("READY=1", &[Notice::Ready]);
        says(
            "READY=1\nSTATUS=up\n",
            &[Notice::Ready, Notice::Status("up".to_owned())],
        );
        says("READY=1\0", &[Notice::Ready]);
        says("STOPPING=1", &[Notice::Stopping]);
        says("RELOADING=1", &[Notice::Reloading { at_us: None }]);
        let at_us = Some(5_000_000);
        says(
            "RELOADING=1\nMONOTONIC_USEC=5000000",
            &[Notice::Reloading { at_us }],
        );
        says(
            "MONOTONIC_USEC=5000000\nRELOADING=1",
            &[Notice::Reloading { at_us }],
        );
        says("MAINPID=4711", &[Notice::MainPid(4711)]);
        says(
            "ERRNO=2\nBUSERROR=org.x",
            &[Notice::Errno(2), ignored("BUSERROR")],
        );
        says("NOTIFYACCESS=all", &[Notice::Access(NotifyAccess::All)]);
        says("WATCHDOG=1", &[Notice::Watchdog]);
        says("WATCHDOG=trigger", &[Notice::WatchdogTrigger]);
        says("BARRIER=1", &[Notice::Barrier]);
        says("STATUS=", &[Notice::Status(String::new())]);
        says("STATUS=a=b", &[Notice::Status("a=b".to_owned())]);
        says(
            "EXTEND_TIMEOUT_USEC=5000000",
            &[Notice::Extend(Duration::from_secs(5))],
        );
        says("X_RINGRIFT_HEALTH=degraded", &[Notice::Health(Health::Degraded)]);
        says(
            "X_RINGRIFT_METRICS={\"a\": 1}",
            &[Notice::Metrics(vec![("a".to_owned(), 1.0)])],
        );
    }

    #[test]
    fn descriptors_are_stored_under_a_name() {
        let store = |name: &str, is_polled| Notice::Store {
            name: name.to_owned(),
            is_polled,
        };
        says("FDSTORE=1", &[store("stored", true)]);
        says("FDSTORE=1\nFDNAME=state", &[store("state", true)]);
        says("FDPOLL=0\nFDNAME=state\nFDSTORE=1", &[store("state", false)]);
        // What could not stand in LISTEN_FDNAMES is no name.
        for bad in ["a:b", "é", "", &"x".repeat(FD_NAME_MAX + 1)] {
            says(&format!("FDSTORE=1\nFDNAME={bad}"), &[store("stored", true)]);
            says(
                &format!("FDSTOREREMOVE=1\nFDNAME={bad}"),
                &[ignored("FDSTOREREMOVE")],
            );
        }
        let name = "state".to_owned();
        says("FDSTOREREMOVE=1\nFDNAME=state", &[Notice::Unstore { name }]);
        says("FDNAME=state\nFDPOLL=0", &[]);
    }

    #[test]
    fn metrics_are_a_bounded_object_of_numbers_or_nothing() {
        let at_most: Vec<String> = (0..METRICS_MAX).map(|n| format!("\"n{n}\":{n}")).collect();
        let full = metrics(&format!("{{{}}}", at_most.join(","))).expect("as many as may be");
        assert_eq!(full.len(), METRICS_MAX);
        assert_eq!(
            metrics("{\"b.c:d_E9\":-1.5e3,\"a\":18446744073709551615}"),
            Some(vec![
                ("a".to_owned(), 1.844_674_407_370_955_2e19),
                ("b.c:d_E9".to_owned(), -1500.0)
            ])
        );
        assert_eq!(metrics("{\"a\":1,\"a\":2}"), Some(vec![("a".to_owned(), 2.0)]));
        assert_eq!(metrics("{}"), Some(Vec::new()));
        let too_many = format!("{{{},\"more\":1}}", at_most.join(","));
        let long_name = format!("{{\"{}\":1}}", "x".repeat(METRIC_NAME_MAX + 1));
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(1000), "]".repeat(1000));
        for bad in [
            too_many.as_str(),
            long_name.as_str(),
            deep.as_str(),
            "",
            "1",
            "[1]",
            "{\"a\":true}",
            "{\"a\":\"1\"}",
            "{\"a\":null}",
            "{\"a\":1e999}",
            "{\"a\":NaN}",
            "{\"\":1}",
            "{\"a b\":1}",
            "{\"a\":1}x",
            "{\"a\":{}}",
        ] {
            assert_eq!(metrics(bad), None, "{bad}");
        }
    }

    #[test]
    fn other_keys_and_values_are_ignored_one_by_one() {
        // The machine's first process, everybody, and no number of a process at all.
        for pid in ["1", "0", "-1", "2147483648", "x", ""] {
            says(
                &format!("MAINPID={pid}\nREADY=1"),
                &[ignored("MAINPID"), Notice::Ready],
            );
        }
        says("ERRNO=4096", &[ignored("ERRNO")]);
        says("FDSTORE=2", &[ignored("FDSTORE")]);
        says("FDSTOREREMOVE=1", &[ignored("FDSTOREREMOVE")]);
        says("NOTIFYACCESS=none", &[ignored("NOTIFYACCESS")]);
        says("READY=yes", &[ignored("READY")]);
        says("EXTEND_TIMEOUT_USEC=+5", &[ignored("EXTEND_TIMEOUT_USEC")]);
        says(
            "EXTEND_TIMEOUT_USEC=99999999999999999999",
            &[ignored("EXTEND_TIMEOUT_USEC")],
        );
        says("X_RINGRIFT_HEALTH=unknown", &[ignored("X_RINGRIFT_HEALTH")]);
        says("SHELL=/bin/sh", &[ignored("SHELL")]);
    }

    #[test]
    fn rubbish_says_nothing() {
        assert_eq!(parse(b""), Err(Bad::Empty));
        assert_eq!(parse(b"\0"), Err(Bad::Empty));
        assert_eq!(parse(b"READY=1\0\0"), Err(Bad::Nul));
        assert_eq!(parse(b"\0READY=1"), Err(Bad::Nul));
        assert_eq!(parse(b"READY"), Err(Bad::NotAVariable));
        assert_eq!(parse(b"READY=1\nrubbish"), Err(Bad::NotAVariable));
        assert_eq!(parse(b"=1"), Err(Bad::NotAVariable));
        assert_eq!(parse(b"STATUS=\xff"), Err(Bad::NotUtf8));
        assert_eq!(parse(&vec![b'A'; NOTIFY_MAX + 1]), Err(Bad::TooLong));
    }

    #[test]
    fn status_is_cut_between_characters_and_cannot_draw() {
        let long = format!("STATUS={}", "é".repeat(400));
        match parse(long.as_bytes()).as_deref() {
            Ok([Notice::Status(text)]) => assert_eq!(text, &"é".repeat(STATUS_TEXT_MAX / 2)),
            other => panic!("{other:?}"),
        }
        says(
            "STATUS=\u{1b}]0;pwn\u{7}",
            &[Notice::Status("\u{fffd}]0;pwn\u{fffd}".to_owned())],
        );
        says("STATUS=a\rb", &[Notice::Status("a\u{fffd}b".to_owned())]);
    }

    #[test]
    fn a_time_for_ever_is_bounded() {
        says(
            "EXTEND_TIMEOUT_USEC=18446744073709551615",
            &[Notice::Extend(DURATION_MAX)],
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(notices) = parse(&bytes) {
                for notice in notices {
                    if let Notice::Status(text) | Notice::Ignored { key: text } = notice {
                        prop_assert!(text.len() <= STATUS_TEXT_MAX && !text.contains(char::is_control));
                    }
                }
            }
        }

        #[test]
        fn any_text_is_clean(text in "\\PC{0,600}|.{0,600}") {
            let clean = clean(&text, STATUS_TEXT_MAX);
            prop_assert!(clean.len() <= STATUS_TEXT_MAX && !clean.contains(char::is_control));
        }

        #[test]
        fn lines_are_read_one_by_one(n in 1..40_usize) {
            let datagram = "WATCHDOG=1\n".repeat(n);
            prop_assert_eq!(parse(datagram.as_bytes()), Ok(vec![Notice::Watchdog; n]));
        }
    }
}
