//! What keeper, manager and logger say to each other: one value a datagram on SOCK_SEQPACKET pairs, encoded by
//! `proto::codec`, with descriptors attached where a variant says so. Types only; no behaviour, no units.
//!
//! The pairs are made by the keeper. Manager and logger find their ends at fixed descriptors ([`fd`]).
//!
//! Read first: [`ToKeeper`] and [`FromKeeper`].

use serde::{Deserialize, Serialize};

use crate::door::HttpPlace;
use crate::ids::{LaunchId, Scope};
use crate::spec::{Forward, Parse, Rlimit};
use crate::used::Used;
use proto::log::Stream;
use proto::reply::Exit;
use proto::request::LogFilter;

/// The version of this file. All roles are one binary, so it only differs across an upgrade.
pub const WIRE_VERSION: u32 = 6;

/// Where manager and logger find what the keeper gave them.
pub mod fd {
    /// Manager and logger: their link to the keeper.
    pub const KEEPER: i32 = 3;
    /// Manager and logger: their link to each other.
    pub const PEER: i32 = 4;
    /// Manager: the listening control socket.
    pub const CONTROL: i32 = 5;
    /// Manager: the two halves of its state, memory that the keeper holds (memfd_create(2)): it survives every death of
    /// the manager's.
    pub const STATE: [i32; 2] = [6, 7];
    /// Manager: the locks of the state and the run-time folder (one file twice, where they are one folder). Whoever
    /// holds them is the daemon; the manager keeps them so that it can take the keeper's place.
    pub const LOCKS: [i32; 2] = [8, 9];
    /// Manager: what a program needs to know that takes a dead keeper's place (`keeper::handover`).
    pub const HANDOVER: i32 = 10;
    /// Manager: what the logger has as [`BUFFER`] and [`HOLD`], for the same end.
    pub const LOG_BUFFER: i32 = 11;
    /// See [`LOG_BUFFER`].
    pub const LOG_HOLD: [i32; 2] = [12, 13];
    /// Logger: the state of what it is writing, memory that the keeper holds.
    pub const BUFFER: i32 = 5;
    /// Logger: both ends of a pipe that the keeper holds, read end first. Bytes on their way from a unit's pipe to its
    /// file pass through it, so that it is known how many have left.
    pub const HOLD: [i32; 2] = [6, 7];
}

/// Everything that the keeper needs to know to start a process. It knows no units: `tag` is opaque to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Which. Asking again for one that lives gives the same answer and no second process.
    pub id: LaunchId,
    /// `RINGRIFT_INVOCATION_ID`, by which the sweep finds processes where there is no cgroup.
    pub invocation: String,
    /// `RINGRIFT_ROLE`, the other half of that.
    pub role: String,
    /// Names the cgroup's folder; `[a-z0-9_.-]`, at most 64 bytes.
    pub tag: String,
    /// The program: a path with a slash.
    pub program: Vec<u8>,
    /// Its arguments, the first one included.
    pub argv: Vec<Vec<u8>>,
    /// Its environment as `NAME=value`, whole.
    pub env: Vec<Vec<u8>>,
    /// Where; absolute.
    pub working_dir: Vec<u8>,
    /// Whose process; ringriftd's own when absent.
    pub identity: Option<Identity>,
    /// 0 to 0o777.
    pub umask: u32,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Limits.
    pub rlimits: Vec<Rlimit>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// Where its output goes.
    pub output: Output,
    /// It gets a notify socket: the path that stands in its environment as NOTIFY_SOCKET. The keeper makes it there
    /// (mode 0600, owned by the identity) and attaches it to its answer.
    pub notify: Option<Vec<u8>>,
    /// It gets the write end of a pipe at this descriptor, the read end is attached to the answer.
    pub ready_fd: Option<u32>,
    /// It gets the descriptors that are stored for its tag, as sd_listen_fds(3) has it: from 3 on, with `LISTEN_PID`,
    /// `LISTEN_FDS` and `LISTEN_FDNAMES` in its environment.
    pub is_given_stored: bool,
    /// It reads this from its standard input; absent: /dev/null.
    pub stdin: Option<Vec<u8>>,
    /// It is a zygote: it gets its end of a socket pair at descriptor 3, and RINGRIFT_ZYGOTE_FD.
    pub is_zygote: bool,
    /// It is forked from a zygote.
    pub fork: Option<Fork>,
}

/// How a launch is forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The zygote's main process; absent: its unit does not run.
    pub zygote: Option<LaunchId>,
    /// Where it cannot be forked, it is executed. Else the launch fails ([`Stage::Zygote`]).
    pub or_executed: bool,
}

/// A process's user and groups, as numbers: names were looked up by the manager, off its loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Where stdout and stderr of a launch go: a pipe to the logger, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The unit, for the logger.
    pub unit: String,
    /// `[log] max_size`, bytes.
    pub max_size: u64,
    /// `[log] max_files`.
    pub max_files: u32,
    /// `[stop] drain_timeout`, ms.
    pub drain_ms: u64,
    /// How its log is kept.
    #[serde(default)]
    pub keep: LogKeep,
    /// How it is read.
    #[serde(default)]
    pub read: LogRead,
}

/// `[log]`: how a launch's output is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogRead {
    /// `split`: stdout and stderr have a pipe each.
    pub is_split: bool,
    /// `max_line`, in bytes; 0: the logger's own bound.
    pub max_line: u32,
    /// `forward`.
    pub forward: Option<Forward>,
    /// `forward_to`.
    pub forward_to: Option<String>,
    /// `parse`, for what is forwarded.
    pub parse: Parse,
    /// The node's random number, likewise; 0: not known.
    pub seed: u64,
}

/// `[log]`: how older files are kept, and what a full disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogKeep {
    /// `max_age`, ms; 0: none.
    pub max_age_ms: u64,
    /// `compress`.
    pub is_packed: bool,
    /// `on_full = "drop"`.
    pub is_dropped: bool,
}

/// A launch that another keeper started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adopt {
    /// Which.
    pub id: LaunchId,
    /// As in [`Launch`].
    pub invocation: String,
    /// As in [`Launch`].
    pub role: String,
    /// As in [`Launch`]: its cgroup's folder is found again by it.
    pub tag: String,
    /// The main process and its start time; absent when the earlier keeper's answer was never heard: then it is looked
    /// for by its mark or in its cgroup.
    pub main: Option<(u32, u64)>,
    /// The main process ended already (another keeper's manager heard of it): only what is left counts.
    pub has_exited: bool,
    /// Where its output goes. The pipe is opened again through /proc/PID/fd.
    pub output: Output,
    /// As in [`Launch`]: the socket is made again at its path.
    pub notify: Option<Vec<u8>>,
    /// Whose the notify socket is.
    pub identity: Option<Identity>,
    /// As in [`Launch`]: the pipe is opened again through /proc/PID/fd. Where that cannot be, the pipe that is attached is
    /// at its end.
    pub ready_fd: Option<u32>,
    /// It never was ringriftd's: an operator named `main`, and pid and start time are all the proof. It has no pipe.
    pub is_foreign: bool,
}

/// From the manager to the keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// The manager serves: its configuration is good, its socket answers. Before this, its end ends the keeper
    /// with the same exit code.
    Serving,
    /// Start a process.
    Launch(Box<Launch>),
    /// Send a signal to a launch's main process or to all that is proven to belong to it.
    Signal {
        /// Which.
        id: LaunchId,
        /// 1 to 64. After TERM the keeper sends CONT.
        signal: i32,
        /// To whom.
        scope: Scope,
        /// Counts the manager's signals, over its own deaths too: the keeper sends none twice.
        order: u64,
    },
    /// SIGKILL to everything of a launch, again and again until nothing is left.
    Destroy {
        /// Which.
        id: LaunchId,
    },
    /// Take over a forking launch's main process: the one named (which must belong to it), or the only one left.
    FindMain {
        /// Which.
        id: LaunchId,
        /// From its pid file.
        pid: Option<u32>,
    },
    /// Its end is known: forget it.
    Release {
        /// Which.
        id: LaunchId,
    },
    /// Say this to the service manager above (sd_notify(3)), as the process that it knows.
    Announce {
        /// `READY=1`, `STATUS=…`.
        text: String,
    },
    /// Answer with `Pong`.
    Ping {
        /// Any number.
        nonce: u64,
    },
    /// To the keeper's own `Ping`.
    Pong {
        /// The same number.
        nonce: u64,
    },
    /// `FromKeeper::Signal` with this number was taken, and what follows from it is in the manager's state.
    SignalTaken {
        /// Its number.
        number: u64,
    },
    /// Take over a process of an earlier keeper's (or nobody's), if it can be proven to be this launch. Answered like
    /// `Launch`: by `Launched`, and by `Exited` when the main process is gone and others are left or its code can still be
    /// read (where its pid was never known, `Launched` names one of those); or by `Missing`.
    Adopt(Box<Adopt>),
    /// The control socket has lost its name in the run-time folder: make it again. Answered by `Listener`, if it can be.
    Relisten,
    /// Nothing of any unit is left: end, with this exit code.
    End {
        /// The code.
        code: u8,
    },
    /// Go on as this program. Attached: the program, open for reading. Answered by `UpgradeRefused`, or by the next
    /// manager's `Hello`, whose `note` tells how it went.
    Upgrade,
    /// What the `note` of `Hello` says of an upgrade was taken, and is in the manager's state: it is not to be said again.
    NoteTaken,
    /// Another process of the launch is its main one: `pid`, by its own word. Answered by `MainFound` or `MainMissing`.
    SetMain {
        /// Which.
        id: LaunchId,
        /// The process; it must belong to the launch.
        pid: u32,
    },
    /// Keep these descriptors. Attached: one to four of them. Answered by a `Stored` for each that is not kept already, and
    /// by `NotStored`.
    Store {
        /// For launches of this tag.
        tag: String,
        /// Their name.
        name: String,
        /// Drop them when their other end hangs up.
        is_polled: bool,
        /// Of this tag at most so many.
        most: u32,
    },
    /// Keep these no longer. Answered by an `Unstored` for each.
    Unstore {
        /// For launches of this tag.
        tag: String,
        /// Those of this name; absent: all.
        name: Option<String>,
    },
    /// Listen here for HTTP, and hold that over every manager's death. Answered by `HttpListener` or `HttpFailed` (not at
    /// all for `Off`), and said again by each new manager: the same place gives the same listener.
    Http {
        /// Where.
        place: HttpPlace,
    },
}

/// Which step of a start failed. The words are for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Making its pipe or socket.
    Descriptors,
    /// Making its cgroup.
    Cgroup,
    /// clone(2).
    Fork,
    /// setsid(2).
    Session,
    /// Joining its cgroup.
    JoinCgroup,
    /// nice, oom_score_adj or a resource limit.
    Limits,
    /// Groups, group or user.
    Identity,
    /// The working folder.
    WorkingDir,
    /// Standard input, output, error.
    Stdio,
    /// execve(2).
    Exec,
    /// It was killed between fork and exec.
    DiedBeforeExec,
    /// The request itself is wrong (a bug).
    Request,
    /// Forking it from its zygote; `Unforked`, said before, tells why.
    Zygote,
}

/// From the keeper to the manager.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// First of all: what this keeper is and can do.
    Hello {
        /// [`WIRE_VERSION`].
        version: u32,
        /// Its pid.
        pid: u32,
        /// The logger's pid.
        logger_pid: u32,
        /// The logger's start time (field 22 of /proc/PID/stat).
        logger_start: u64,
        /// The node's random number, the first half of each invocation's text.
        seed: u64,
        /// `cgroup` with its folder, or `process group` with the reason why there is no cgroup.
        containment: String,
        /// This keeper has just begun and knows no launch: the manager names what its state has (`Adopt`). Else all
        /// launches follow, as `Launched` and what became of them, up to `Inventoried`.
        is_fresh: bool,
        /// A service manager starts ringriftd again when it dies.
        is_wrapped: bool,
        /// How often the manager died, or was replaced because it hung, so far.
        manager_deaths: u32,
        /// It died too often: it is to begin with the last state that held.
        is_safe: bool,
        /// The highest `order` of a `Signal` that was carried out.
        last_order: u64,
        /// What happened to the keeper itself, in words: an upgrade, one that failed, a take-over.
        note: Option<String>,
        /// Nobody has given numbers to lives with this `seed` yet: no keeper had it before this one, and no manager began
        /// before this one.
        is_first: bool,
    },
    /// Every launch was told.
    Inventoried,
    /// A launch is about to run; it has a notify socket or a readiness pipe. Attached, in this order: the notify socket
    /// if asked for, the read end of the readiness pipe if asked for.
    Launching {
        /// Which.
        id: LaunchId,
    },
    /// A launch runs its program. Attached as with `Launching`, unless that came before.
    Launched {
        /// Which.
        id: LaunchId,
        /// Its pid.
        pid: u32,
        /// Its start time (field 22 of /proc/PID/stat), which with pid and boot id is its identity.
        start_time: u64,
        /// It was taken over, and what is attached was made anew: what it said to an earlier keeper's is lost.
        is_deaf: bool,
    },
    /// The answer to `Adopt`: nothing that can be proven to be of it lives.
    Missing {
        /// Which.
        id: LaunchId,
    },
    /// A launch could not be started; nothing of it is left.
    LaunchFailed {
        /// Which.
        id: LaunchId,
        /// Where it failed.
        stage: Stage,
        /// errno(3); 0 when there is none.
        errno: i32,
    },
    /// A launch's main process ended and was reaped. Said again until `Release`.
    Exited {
        /// Which.
        id: LaunchId,
        /// How.
        exit: Exit,
        /// Some of what is left of it; empty: nothing is.
        remains: Vec<u32>,
        /// What it used so far.
        used: Used,
    },
    /// Nothing of a launch is left.
    Emptied {
        /// Which.
        id: LaunchId,
    },
    /// SIGKILL did not help for a while: these are left. The keeper goes on trying.
    Unkillable {
        /// Which.
        id: LaunchId,
        /// Some of them.
        remains: Vec<u32>,
    },
    /// The answer to `FindMain`.
    MainFound {
        /// Which.
        id: LaunchId,
        /// Its pid.
        pid: u32,
        /// Its start time.
        start_time: u64,
    },
    /// The answer to `FindMain`.
    MainMissing {
        /// Which.
        id: LaunchId,
        /// Why, in words.
        why: String,
    },
    /// The keeper got a signal that is meant for the whole daemon (TERM, INT, HUP …).
    Signal {
        /// Its number.
        signal: i32,
        /// Counts them. Said again to the next manager until `SignalTaken`.
        number: u64,
    },
    /// Answer with `Pong`: a manager that does not is hung, and replaced.
    Ping {
        /// Any number.
        nonce: u64,
    },
    /// The logger died and was started again. Attached: the manager's new end of its link to the logger.
    LoggerRestarted {
        /// Its new pid.
        pid: u32,
        /// Its start time.
        start_time: u64,
        /// How often so far.
        times: u32,
    },
    /// To `Ping`.
    Pong {
        /// The same number.
        nonce: u64,
    },
    /// To `Relisten`. Attached: the new control listener, in place of the one that has no name any more.
    Listener,
    /// The answer to `Upgrade`: everything goes on as it is.
    UpgradeRefused {
        /// Why, in words.
        why: String,
    },
    /// A descriptor is kept. Attached: it. Said of all of them to every manager.
    Stored {
        /// Its number, by which it is known.
        nr: u64,
        /// For launches of this tag.
        tag: String,
        /// Its name.
        name: String,
        /// It is dropped when its other end hangs up.
        is_polled: bool,
    },
    /// It is kept no longer.
    Unstored {
        /// Its number.
        nr: u64,
    },
    /// Descriptors were not kept.
    NotStored {
        /// Of this tag.
        tag: String,
        /// Their name.
        name: String,
        /// Why, in words.
        why: String,
    },
    /// To `Http`, at once or once it could be had. Attached: the listener.
    HttpListener {
        /// Where.
        place: HttpPlace,
    },
    /// To `Http`: it cannot be had for now, and is tried again.
    HttpFailed {
        /// Where.
        place: HttpPlace,
        /// errno(3).
        errno: i32,
    },
    /// Said before `Launched`, or `LaunchFailed`, of a launch that was to be forked: it could not be.
    Unforked {
        /// Which.
        id: LaunchId,
        /// Why, in words.
        why: String,
    },
}

/// From the keeper to the logger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToLogger {
    /// Read these pipes. Attached: the read end of each. Said again for every live one to a logger that was restarted.
    Open {
        /// Whose.
        id: LaunchId,
        /// Where it goes, and how much is kept.
        output: Output,
        /// What is written to each of them; absent: both streams.
        streams: Vec<Option<Stream>>,
    },
    /// The launch is over: read what is there, at most for its `drain_ms`, then close.
    Close {
        /// Whose.
        id: LaunchId,
    },
    /// The daemon ends: read and write what is there, then end.
    End,
    /// There is a new manager. Attached: the link to it, in place of the old one.
    Peer,
}

/// From the logger to the keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromLogger {
    /// It is ready for pipes.
    Ready,
    /// All pipes of a launch reached their end, or were closed: the keeper closes its own copies.
    Closed {
        /// Whose.
        id: LaunchId,
    },
}

/// From the manager to the logger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum LogQuery {
    /// The keeper died and there is a new one, said by it in the manager's place. Attached: the link to it.
    Keeper,
    /// Answer a client's request for lines. Attached: the client's connection, which the manager no longer uses. The
    /// logger writes [`proto::frame::Answer`] frames with this id and [`proto::reply::Reply::Logs`], then `End`, and
    /// closes.
    Serve {
        /// The request's id.
        ask: u64,
        /// Of these units.
        units: Vec<LogOf>,
        /// The node's random number, which the answer begins with.
        seed: u64,
        /// The last lines of each, at most; absent: all.
        lines: Option<u64>,
        /// Which of them. Its pattern has been seen to compile.
        filter: LogFilter,
        /// Go on as lines come, until the client closes.
        follow: bool,
    },
    /// The last lines of one unit, for the manager itself: answered by [`LogTail`] with the same number.
    Tail {
        /// Any number.
        nonce: u64,
        /// Of this unit.
        unit: String,
        /// Only this life (its serial); absent: any.
        invocation: Option<u64>,
        /// At most so many.
        lines: u32,
    },
    /// The last lines of one life that is over, for the manager itself: answered like `Tail`, as soon as its pipes are at
    /// their end, so that its last words are among them.
    LastWords {
        /// Any number.
        nonce: u64,
        /// Of this unit.
        unit: String,
        /// This life (its serial).
        invocation: u64,
        /// At most so many.
        lines: u32,
    },
    /// Whether one life wrote a line that matches, for the manager itself: answered by [`LogTail`] with the same number,
    /// which has the last such line, or none.
    Match {
        /// Any number.
        nonce: u64,
        /// Of this unit.
        unit: String,
        /// This life (its serial).
        invocation: u64,
        /// Written then or later, µs since 1970.
        since_us: u64,
        /// A regular expression.
        pattern: String,
    },
    /// How large all logs may be together.
    Total {
        /// `[log] max_total` of the node, in bytes; absent: no bound.
        max_total: Option<u64>,
    },
    /// There are other units than before: those who follow are told to ask again.
    Renew,
}

/// A unit whose lines are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOf {
    /// Its name.
    pub unit: String,
    /// The serial of its present or last life.
    pub last_life: Option<u64>,
    /// `[log] parse`, as the files have it now.
    pub parse: Parse,
    /// `[log] split`, likewise.
    pub is_split: bool,
}

/// From the logger to the manager.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum LogWord {
    /// To `Tail`, `LastWords` and `Match`.
    Tail(LogTail),
    /// What it has counted, of units of which that is news: unasked, [`crate::limits::LOG_TELL_PAUSE`] apart at least, and
    /// never while nothing is written. Said of all that it has counted anything of to every new manager.
    Counted {
        /// When this logger began, µs since 1970: another number is another logger, which counts from 0.
        logger: u64,
        /// [`crate::limits::LOG_TELL_UNITS`] at most.
        units: Vec<LogCount>,
    },
}

/// What a logger has counted of one unit since it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCount {
    /// Which.
    pub unit: String,
    /// Bytes that it took from the unit's pipes.
    pub bytes: u64,
    /// Lines that it wrote; of one that is cut at its bound, each piece.
    pub lines: u64,
    /// Bytes that could be kept nowhere.
    pub lost: u64,
    /// Lines among them, as far as they were counted.
    pub lost_lines: u64,
    /// Its log cannot be written for now.
    pub is_blocked: bool,
}

/// An answer to a query of the manager's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogTail {
    /// The query's number.
    pub nonce: u64,
    /// In the order of their times; each message cut at 1 KiB.
    pub lines: Vec<proto::reply::LogLine>,
    /// It was not looked: too many other queries wait, or the files cannot be read.
    pub is_refused: bool,
}
