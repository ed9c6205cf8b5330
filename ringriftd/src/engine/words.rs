//! How ends, signals and durations are told.

use std::time::Duration;

use proto::reply::Exit;

pub(super) fn within(timeout: Duration) -> String {
    format!("within {}", duration_text(timeout))
}

/// A duration as the unit files write it.
pub(super) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        _ if ms.is_multiple_of(3_600_000) && ms > 0 => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) && ms > 0 => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        0..1000 => format!("{ms}ms"),
        _ => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
    }
}

/// `exited with code 1`, `was killed by signal 11 (core dumped)`.
pub fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal { signal, core } => {
            let core = if core { " (core dumped)" } else { "" };
            format!("was killed by signal {}{core}", signal_name(signal))
        }
        Exit::Unknown => "ended, nobody knows how".to_owned(),
    }
}

/// `SIGKILL` for 9 (signal(7), x86-64 and arm64), `SIGRTMIN+1` for 35; otherwise the number.
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match signal {
        1..=31 => format!("SIG{}", NAMES[(signal - 1) as usize]),
        34 => "SIGRTMIN".to_owned(),
        35..=64 => format!("SIGRTMIN+{}", signal - 34),
        _ => signal.to_string(),
    }
}

pub(super) fn left_behind(remains: &[u32]) -> String {
    if remains.is_empty() {
        String::new()
    } else {
        let pids: Vec<String> = remains.iter().map(u32::to_string).collect();
        format!(", and left behind pid {}, killed now", pids.join(", "))
    }
}
