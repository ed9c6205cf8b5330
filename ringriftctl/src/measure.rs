//! Times, durations, sizes and signals: what people type and what they read.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// µs since 1970, now. The daemon's clock is the same: the socket is local.
pub fn now_us() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0)
}

/// The longest duration that may be typed, in ms: a year, as in unit files.
const DURATION_MAX_MS: u64 = 366 * 24 * 3600 * 1000;

/// Reads `1h30m`, `250ms`, `30s`, `2d`: whole numbers with units, the larger first. Zero is allowed.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is no duration; write for example 30s, 1h30m or 250ms");
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1u64),
    ];
    let mut rest = text.trim();
    let (mut total, mut smallest) = (0u64, u64::MAX);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let tail = &rest[digits..];
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (_, size) = units
            .iter()
            .find(|(name, _)| *name == &tail[..letters])
            .ok_or_else(wrong)?;
        if *size >= smallest {
            return Err(wrong());
        }
        smallest = *size;
        total = number
            .checked_mul(*size)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(wrong)?;
        rest = &tail[letters..];
    }
    if total > DURATION_MAX_MS {
        return Err(format!("\"{text}\" is longer than a year"));
    }
    Ok(total)
}

/// A point in time as people give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// µs since 1970.
    At(u64),
    /// The last failure.
    LastFailure,
}

/// Reads `10 min ago`, `-1h`, an ISO time (local without an offset), `boot`, `last-failure`.
pub fn parse_since(text: &str, now_us: u64, boot_us: Option<u64>, zone: &TimeZone) -> Result<Since, String> {
    let trimmed = text.trim();
    let back = |ms: u64| Since::At(now_us.saturating_sub(ms * 1000));
    match trimmed {
        "boot" => {
            return boot_us
                .map(Since::At)
                .ok_or_else(|| "cannot tell when this machine was booted".into());
        }
        "last-failure" => return Ok(Since::LastFailure),
        "now" => return Ok(Since::At(now_us)),
        _ => {}
    }
    if let Some(ago) = trimmed.strip_suffix("ago") {
        return long_duration_ms(ago.trim()).map(back);
    }
    if let Some(ago) = trimmed.strip_prefix('-') {
        return long_duration_ms(ago).map(back);
    }
    time(trimmed, zone).map(Since::At).ok_or_else(|| {
        format!(
            "\"{text}\" is no time; write for example -1h, \"10 min ago\", 2026-05-01T12:00, boot or last-failure"
        )
    })
}

/// A time to come: `2h`, `in 10 min`, an ISO time (local without an offset).
pub fn parse_until(text: &str, now_us: u64, zone: &TimeZone) -> Result<u64, String> {
    let trimmed = text.trim();
    let ahead = trimmed.strip_prefix("in ").unwrap_or(trimmed);
    if let Ok(ms) = long_duration_ms(ahead) {
        return Ok(now_us.saturating_add(ms.saturating_mul(1000)));
    }
    match time(trimmed, zone) {
        Some(at) if at > now_us => Ok(at),
        Some(_) => Err(format!("\"{text}\" has passed")),
        None => Err(format!(
            "\"{text}\" is no time to come; write for example 2h, \"in 10 min\" or 2026-05-01T12:00"
        )),
    }
}

/// An ISO time, local without an offset, in µs since 1970.
fn time(text: &str, zone: &TimeZone) -> Option<u64> {
    let at = text.parse::<Timestamp>().ok().or_else(|| {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        local.to_zoned(zone.clone()).ok().map(|z| z.timestamp())
    });
    u64::try_from(at?.as_microsecond()).ok()
}

/// `10 min`, `1 hour 30 minutes` and everything that [`parse_duration_ms`] reads.
fn long_duration_ms(text: &str) -> Result<u64, String> {
    let mut short = String::new();
    for word in text.split_whitespace() {
        let letters = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let unit = match letters {
            "sec" | "secs" | "second" | "seconds" => "s",
            "min" | "mins" | "minute" | "minutes" => "m",
            "hour" | "hours" => "h",
            "day" | "days" => "d",
            other => other,
        };
        short.push_str(&word[..word.len() - letters.len()]);
        short.push_str(unit);
    }
    parse_duration_ms(&short)
}

/// When this machine was booted, by the kernel's own count.
pub fn boot_us(now_us: u64) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(now_us.saturating_sub((seconds * 1e6) as u64))
}

/// A duration in one or two units: `850ms`, `4.2s`, `3m`, `2h 5m`, `4d 1h`.
pub fn duration(ms: u64) -> String {
    let (s, m, h, d) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    let two = |large: u64, name: &str, small: u64, small_name: &str| match small {
        0 => format!("{large}{name}"),
        _ => format!("{large}{name} {small}{small_name}"),
    };
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..10_000 => format!("{}.{}s", s, ms % 1000 / 100),
        10_000..60_000 => format!("{s}s"),
        60_000..3_600_000 => two(m, "m", s % 60, "s"),
        3_600_000..86_400_000 => two(h, "h", m % 60, "m"),
        _ => two(d, "d", h % 24, "h"),
    }
}

/// A span in one unit, for columns: `12s`, `3m`, `2h`, `4d`.
pub fn span(us: u64) -> String {
    let s = us / 1_000_000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..86_400 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// Bytes in 1024s: `812K`, `24.1M`, `1.5G`.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    for unit in ["K", "M", "G", "T"] {
        if value < 1000.0 || unit == "T" {
            return if value < 100.0 {
                format!("{value:.1}{unit}")
            } else {
                format!("{value:.0}{unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{bytes}B")
}

/// RFC 3339 in UTC with µs, for machines.
pub fn utc(us: u64) -> String {
    match i64::try_from(us)
        .ok()
        .and_then(|t| Timestamp::from_microsecond(t).ok())
    {
        Some(t) => format!("{t:.6}"),
        None => format!("@{us}"),
    }
}

/// RFC 3339 with the local offset and ms, for people who want to copy it.
pub fn iso(us: u64, zone: &TimeZone) -> String {
    local(us, zone, "%Y-%m-%dT%H:%M:%S%.3f%:z")
}

/// `Nov 22 01:54:05.123`, local.
pub fn short(us: u64, zone: &TimeZone) -> String {
    local(us, zone, "%b %d %H:%M:%S%.3f")
}

fn local(us: u64, zone: &TimeZone, format: &str) -> String {
    match i64::try_from(us)
        .ok()
        .and_then(|t| Timestamp::from_microsecond(t).ok())
    {
        Some(t) => {
            // Milliseconds: the rest is noise to a reader.
            let t = t.checked_sub(SignedDuration::from_nanos(
                i64::from(t.subsec_nanosecond()) % 1_000_000,
            ));
            t.map_or_else(
                |_| format!("@{us}"),
                |t| t.to_zoned(zone.clone()).strftime(format).to_string(),
            )
        }
        None => format!("@{us}"),
    }
}

/// The first real-time signal that programs may use, as glibc counts.
const RTMIN: i32 = 34;
/// The last signal.
const SIGNAL_MAX: i32 = 64;

/// `SIGTERM`; `SIGRTMIN+3`; a number that has no name as it is.
pub fn signal_name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number == RTMIN => "SIGRTMIN".to_owned(),
        Err(_) if (RTMIN..=SIGNAL_MAX).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        Err(_) => number.to_string(),
    }
}

/// Reads `TERM`, `sigterm`, `15`, `RTMIN+3`.
pub fn parse_signal(text: &str) -> Result<i32, String> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return if (1..=SIGNAL_MAX).contains(&number) {
            Ok(number)
        } else {
            Err(format!("signals are 1 to {SIGNAL_MAX}, not {number}"))
        };
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let add = if rest.is_empty() {
            Some(0)
        } else {
            rest.strip_prefix('+').and_then(|n| n.parse().ok())
        };
        return match add {
            Some(add) if (0..=SIGNAL_MAX - RTMIN).contains(&add) => Ok(RTMIN + add),
            _ => Err(format!(
                "\"{text}\" is no signal; real-time ones are RTMIN to RTMIN+{}",
                SIGNAL_MAX - RTMIN
            )),
        };
    }
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .map(|s| s as i32)
        .map_err(|_| format!("\"{text}\" is no signal; write for example TERM, HUP, USR1 or a number"))
}

/// How a main process ended, in words: `exit 1`, `SIGKILL`, `SIGSEGV (core dumped)`.
pub fn exit(exit: proto::reply::Exit) -> String {
    use proto::reply::Exit;
    match exit {
        Exit::Code(code) => format!("exit {code}"),
        Exit::Signal { signal, core: false } => signal_name(signal),
        Exit::Signal { signal, core: true } => format!("{} (core dumped)", signal_name(signal)),
        Exit::Unknown => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_unit_files_write_them() {
        for (text, ms) in [
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for text in [
            "",
            "10",
            "-1s",
            "1h30",
            "1m1h",
            "1s1s",
            "s",
            "1x",
            "999999999999d",
            "400d",
            "1.5s",
            "١s",
        ] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn since_knows_the_ways_in_which_people_say_it() {
        let now = 10_000_000_000;
        let read = |text: &str| parse_since(text, now, Some(77), &TimeZone::UTC);
        assert_eq!(read("-1h"), Ok(Since::At(now - 3_600_000_000)));
        assert_eq!(read("10 min ago"), Ok(Since::At(now - 600_000_000)));
        assert_eq!(read("1 hour 30 minutes ago"), Ok(Since::At(now - 5_400_000_000)));
        assert_eq!(read("boot"), Ok(Since::At(77)));
        assert_eq!(read("last-failure"), Ok(Since::LastFailure));
        assert_eq!(read("1970-01-01T00:00:01Z"), Ok(Since::At(1_000_000)));
        assert_eq!(read("1970-01-01T00:00:01+00:00"), Ok(Since::At(1_000_000)));
        assert_eq!(read("1970-01-01 00:01"), Ok(Since::At(60_000_000)));
        assert!(read("yesterday-ish").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn durations_and_sizes_are_short() {
        for (ms, text) in [
            (850, "850ms"),
            (4260, "4.2s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (3_900_000, "1h 5m"),
        ] {
            assert_eq!(duration(ms), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (1024, "1.0K"),
            (25_270_000, "24.1M"),
            (1 << 40, "1.0T"),
            (u64::MAX, "16777216T"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(
            (span(59_000_000), span(185_000_000), span(200_000_000_000)),
            ("59s".into(), "3m".into(), "2d".into())
        );
    }

    #[test]
    fn times_are_local_for_people_and_utc_for_machines() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let us = 1_700_000_000_123_456;
        assert_eq!(utc(us), "2023-11-14T22:13:20.123456Z");
        assert_eq!(iso(us, &zone), "2023-11-15T00:13:20.123+02:00");
        assert_eq!(short(us, &zone), "Nov 15 00:13:20.123");
        assert_eq!(utc(u64::MAX), format!("@{}", u64::MAX));
        assert_eq!(short(0, &TimeZone::UTC), "Jan 01 00:00:00.000");
    }

    #[test]
    fn signals_are_read_back() {
        for number in 1..=SIGNAL_MAX {
            assert_eq!(parse_signal(&signal_name(number)), Ok(number));
        }
        assert_eq!(parse_signal("term"), Ok(15));
        assert!(
            ["0", "65", "-9", "FOO", "RTMIN+31", "RTMIN-1"]
                .iter()
                .all(|s| parse_signal(s).is_err())
        );
    }
}
