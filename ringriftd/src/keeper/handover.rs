//! What a keeper leaves to the program that goes on in its process: a picture of all that it knows, and the numbers of the
//! descriptors that stay open over execve(2). It is JSON in a sealed memfd whose number stands in [`VARIABLE`], so that
//! another version of ringriftd can read it: fields are only ever added, and have defaults.
//!
//! Three write one: a keeper that is upgraded, one that goes back to its old program (both to itself, by `rebuild`), and a
//! manager that takes a dead keeper's place (`manager::takeover`).
//!
//! It does not know what the keeper does with any of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use proto::log::Stream;
use proto::reply::Exit;
use serde::{Deserialize, Serialize};

use super::counted::Counted;
use super::gate::ZygoteLeft;
use super::launch::Origin;
use super::wire::Output;
use crate::door::HttpPlace;
use crate::ids::LaunchId;
use crate::limits;

/// The version that is written.
pub const VERSION: u32 = 4;
/// The versions that are read.
pub const READS: RangeInclusive<u32> = 1..=VERSION;
/// The environment variable with the memfd's number. It is read once, and no role and no unit gets it.
pub const VARIABLE: &str = "RINGRIFT_HANDOVER";

/// Why there is a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The keeper goes on with a newer program, which has still to prove itself.
    Upgrade,
    /// It goes back to the program before.
    Return,
    /// The manager takes a dead keeper's place.
    TakeOver,
}

/// A process: pid and start time.
pub type Process = (i32, u64);

/// Everything. Numbers of descriptors are those of `descriptors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Why.
    pub kind: Kind,
    /// The process that it is for: whoever finds it in its environment and is another one leaves it alone.
    pub pid: i32,
    /// The writer's program version.
    pub program: String,
    /// The node's random number.
    pub seed: u64,
    /// The limits of descriptors that ringriftd was started with, soft and hard.
    pub nofile: (u64, u64),
    /// The oom_score_adj that it was started with.
    pub oom_score_adj: i32,
    /// The folder of its leaf cgroups.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// Folders of leaves that keepers before left.
    #[serde(default)]
    pub left_cgroups: Vec<String>,
    /// Why there is none.
    #[serde(default)]
    pub why_no_cgroup: String,
    /// For the next `Hello`.
    #[serde(default)]
    pub note: Option<String>,
    /// Every descriptor that stays open.
    pub descriptors: Vec<RawFd>,
    /// The control socket's listener.
    pub control: RawFd,
    /// The listener for HTTP.
    #[serde(default)]
    pub http: Option<DoorLeft>,
    /// The locks of state and run-time folder; twice the same lock where they are one folder.
    pub locks: [RawFd; 2],
    /// The manager's state.
    pub state: [RawFd; 2],
    /// The logger's state.
    pub buffer: RawFd,
    /// The logger's pipe.
    pub hold: [RawFd; 2],
    /// The program to go back to.
    #[serde(default)]
    pub old_program: Option<RawFd>,
    /// For that one, the manager's state as it was: it could not read what the new one's manager writes.
    #[serde(default)]
    pub old_state: Option<[RawFd; 2]>,
    /// The manager, to be replaced.
    #[serde(default)]
    pub manager: RoleLeft,
    /// The logger, to be replaced.
    #[serde(default)]
    pub logger: RoleLeft,
    /// After a take-over: the link between manager and logger.
    #[serde(default)]
    pub peer: Option<RawFd>,
    /// After a take-over: what the manager had of launches that are still to be adopted.
    #[serde(default)]
    pub ends: Vec<Ends>,
    /// The launches.
    #[serde(default)]
    pub launches: Vec<LaunchLeft>,
    /// Pipes of released launches that the logger still reads.
    #[serde(default)]
    pub draining: Vec<Draining>,
    /// Leaves that could not be removed yet.
    #[serde(default)]
    pub graves: Vec<String>,
    /// Descriptors that units have kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stored: Vec<StoredLeft>,
    /// Launches from which others are forked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zygotes: Vec<ZygoteLeft>,
    /// The highest order of a signal that was carried out.
    #[serde(default)]
    pub last_order: u64,
    /// Signals to the daemon that no manager has taken, by number.
    #[serde(default)]
    pub untaken_signals: Vec<(u64, i32)>,
    /// The last of those numbers.
    #[serde(default)]
    pub last_signal: u64,
    /// How often a manager died.
    #[serde(default)]
    pub manager_deaths: u32,
    /// How often the logger was started again.
    #[serde(default)]
    pub logger_restarts: u32,
}

/// Manager or logger of the keeper before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleLeft {
    /// The keeper's end of its link.
    #[serde(default)]
    pub link: Option<RawFd>,
    /// Its process.
    #[serde(default)]
    pub process: Option<Process>,
}

/// The listener for HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorLeft {
    /// Where.
    pub place: HttpPlace,
    /// The listener.
    pub listener: RawFd,
}

/// Descriptors of a launch that the manager holds too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Which.
    pub id: LaunchId,
    /// Its notify socket.
    #[serde(default)]
    pub notify: Option<RawFd>,
    /// The read end of its readiness pipe.
    #[serde(default)]
    pub ready: Option<RawFd>,
}

/// A launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchLeft {
    /// Which.
    pub id: LaunchId,
    /// How it came to this keeper.
    #[serde(default)]
    pub origin: Origin,
    /// RINGRIFT_INVOCATION_ID.
    pub invocation: String,
    /// RINGRIFT_ROLE.
    pub role: String,
    /// The process that was launched.
    pub leader: Process,
    /// The main process.
    pub main: Process,
    /// How that one ended.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// What is left of it.
    #[serde(default)]
    pub left: Vec<Process>,
    /// What the manager was told that is left.
    #[serde(default)]
    pub told_left: Vec<u32>,
    /// Its cgroup.
    #[serde(default)]
    pub leaf: Option<String>,
    /// Its output.
    #[serde(default)]
    pub pipe: Option<PipeLeft>,
    /// Its notify socket.
    #[serde(default)]
    pub notify: Option<NotifyLeft>,
    /// The read end of its readiness pipe.
    #[serde(default)]
    pub ready: Option<RawFd>,
    /// A pidfd of the main process, which is another process's child.
    #[serde(default)]
    pub foreign: Option<RawFd>,
    /// It is being destroyed.
    #[serde(default)]
    pub is_destroyed: bool,
    /// It is to be forgotten when nothing of it is left.
    #[serde(default)]
    pub is_released: bool,
    /// What the kernel counted of it.
    #[serde(default)]
    pub counted: Counted,
}

/// The log pipes of a launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipeLeft {
    /// The first read end.
    pub fd: Option<RawFd>,
    /// What is written to it; absent: both streams.
    #[serde(default)]
    pub stream: Option<Stream>,
    /// The others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<EndLeft>,
    /// Where it goes.
    pub output: Output,
}

/// A read end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLeft {
    /// It.
    pub fd: RawFd,
    /// What is written to it.
    #[serde(default)]
    pub stream: Option<Stream>,
}

/// A log pipe of a launch that was released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draining {
    /// Which.
    pub id: LaunchId,
    /// Its pipe.
    pub pipe: PipeLeft,
}

/// A notify socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotifyLeft {
    /// The socket.
    pub fd: RawFd,
    /// Its path; bytes, since a path may be any.
    pub path: Vec<u8>,
}

/// A descriptor that a unit has kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLeft {
    /// For launches of this tag.
    pub tag: String,
    /// What it is called.
    pub name: String,
    /// It is dropped when its other end hangs up.
    #[serde(default)]
    pub is_polled: bool,
    /// It.
    pub fd: RawFd,
}

/// What is read first, whatever the version.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

impl Handover {
    /// The bytes of the memfd.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|e| format!("cannot write down what the keeper holds: {e}"))
    }

    /// Reads what [`Handover::encode`] wrote, here or in another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let unreadable = |e: serde_json::Error| format!("the handover cannot be understood: {e}");
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        if !READS.contains(&head.version) {
            return Err(format!(
                "the handover has version {}, and this ringriftd reads {} to {}",
                head.version,
                READS.start(),
                READS.end()
            ));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }

    /// In memory that nobody can change any more, not inherited yet.
    pub fn seal(&self) -> Result<OwnedFd, String> {
        let bytes = self.encode()?;
        let failed = |e: std::io::Error| format!("cannot keep what the keeper holds in memory: {e}");
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(c"ringrift-handover", flags).map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        file.write_all(&bytes).map_err(failed)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals())).map_err(|e| failed(e.into()))?;
        Ok(file.into())
    }
}

/// Reads a sealed one.
pub fn open(fd: OwnedFd) -> Result<Handover, String> {
    let found = fcntl(&fd, FcntlArg::F_GET_SEALS).unwrap_or_default();
    if found & seals().bits() != seals().bits() {
        return Err("it is no sealed memory: somebody else may have written it".to_owned());
    }
    let mut file = File::from(fd);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.take(limits::HANDOVER_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| format!("it cannot be read: {e}"))?;
    if bytes.len() as u64 > limits::HANDOVER_MAX {
        return Err(format!("it is longer than {} bytes", limits::HANDOVER_MAX));
    }
    Handover::decode(&bytes)
}

/// Collects the descriptors that a handover names.
#[derive(Debug, Default)]
pub struct Numbers(Vec<RawFd>);

impl Numbers {
    /// `fd` stays open: its number.
    pub fn keep(&mut self, fd: impl AsFd) -> RawFd {
        let number = fd.as_fd().as_raw_fd();
        if !self.0.contains(&number) {
            self.0.push(number);
        }
        number
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<RawFd> {
        self.0
    }
}

/// Lets `fd` through execve(2), or not.
pub fn set_inherited(fd: RawFd, is_inherited: bool) -> Result<(), String> {
    let flags = if is_inherited {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    // SAFETY: used for this call only, and a number that is not open is answered with EBADF.
    #[allow(unsafe_code)]
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(flags))
        .map(|_| ())
        .map_err(|e| format!("descriptor {fd}: {e}"))
}

/// A handover that was received, with its descriptors, none of which is inherited any further.
#[derive(Debug)]
pub struct Received {
    /// The picture.
    pub picture: Handover,
    open: BTreeMap<RawFd, OwnedFd>,
}

impl Received {
    /// Takes what the environment of this process names, and takes the name away; `None` where nothing is named, or
    /// what is named is for another process.
    ///
    /// Called once, at the start, while there is one thread.
    pub fn take() -> Result<Option<Self>, String> {
        let Some(text) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        // SAFETY: no other thread of this process reads the environment yet.
        #[allow(unsafe_code)]
        unsafe {
            std::env::remove_var(VARIABLE);
        }
        let refused = |why: String| {
            format!(
                "{VARIABLE} is {}, and nothing can be taken over: {why}",
                text.display()
            )
        };
        let number: RawFd = text
            .to_str()
            .and_then(|text| text.parse().ok())
            .filter(|number| *number > 2)
            .ok_or_else(|| refused("it is no descriptor".to_owned()))?;
        set_inherited(number, false).map_err(refused)?;
        // SAFETY: it is open (see above), was left for this process, and nothing else here has it.
        #[allow(unsafe_code)]
        let memory = unsafe { OwnedFd::from_raw_fd(number) };
        let picture = open(memory).map_err(refused)?;
        if picture.pid != std::process::id().cast_signed() {
            return Ok(None);
        }
        let is_good = |fd: &RawFd| *fd > 2 && *fd != number;
        if let Some(bad) = picture.descriptors.iter().find(|fd| !is_good(fd)) {
            return Err(refused(format!(
                "it names descriptor {bad}, which is not one of its own"
            )));
        }
        for fd in &picture.descriptors {
            set_inherited(*fd, false).map_err(refused)?;
        }
        let numbers: BTreeSet<RawFd> = picture.descriptors.iter().copied().collect();
        let open = numbers
            .into_iter()
            .map(|fd| {
                // SAFETY: open (see above), left for this process, and each is taken once: a set has none twice.
                #[allow(unsafe_code)]
                let owned = unsafe { OwnedFd::from_raw_fd(fd) };
                (fd, owned)
            })
            .collect();
        Ok(Some(Self { picture, open }))
    }

    /// The descriptor `number`, which must be one of those that were left, and is given once.
    pub fn fd(&mut self, number: RawFd) -> Result<OwnedFd, String> {
        self.open
            .remove(&number)
            .ok_or_else(|| format!("the handover names descriptor {number}, which was not left, or twice"))
    }

    /// Likewise, where there is one.
    pub fn maybe(&mut self, number: Option<RawFd>) -> Result<Option<OwnedFd>, String> {
        number.map(|number| self.fd(number)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Invocation;
    use crate::keeper::wire::{LogKeep, LogRead};
    use crate::spec::{Forward, Parse};

    fn whole() -> Handover {
        let id = LaunchId::main(Invocation(5));
        Handover {
            version: VERSION,
            kind: Kind::Upgrade,
            pid: 4711,
            program: "0.1.0".to_owned(),
            seed: u64::MAX,
            nofile: (1024, u64::MAX),
            oom_score_adj: -3,
            cgroup: Some("/sys/fs/cgroup/ringriftd-00".to_owned()),
            left_cgroups: vec!["/sys/fs/cgroup/ringriftd-01".to_owned()],
            why_no_cgroup: String::new(),
            note: Some("upgraded".to_owned()),
            descriptors: vec![
                5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
            ],
            control: 5,
            http: Some(DoorLeft {
                place: HttpPlace::Tcp(crate::door::HTTP_DEFAULT),
                listener: 24,
            }),
            locks: [6, 7],
            state: [8, 9],
            buffer: 10,
            hold: [11, 12],
            old_program: Some(13),
            old_state: Some([22, 23]),
            manager: RoleLeft {
                link: Some(14),
                process: Some((100, 200)),
            },
            logger: RoleLeft::default(),
            peer: Some(15),
            ends: vec![Ends {
                id,
                notify: Some(16),
                ready: None,
            }],
            launches: vec![LaunchLeft {
                id,
                origin: Origin::Adopted,
                invocation: "ab".to_owned(),
                role: "main".to_owned(),
                leader: (300, 400),
                main: (301, 401),
                exit: Some(Exit::Signal {
                    signal: 9,
                    core: true,
                }),
                left: vec![(302, 402)],
                told_left: vec![302],
                leaf: Some("/sys/fs/cgroup/ringriftd-00/web.5.0".to_owned()),
                pipe: Some(PipeLeft {
                    fd: Some(17),
                    stream: Some(Stream::Stdout),
                    others: vec![EndLeft {
                        fd: 25,
                        stream: Some(Stream::Stderr),
                    }],
                    output: output(),
                }),
                notify: Some(NotifyLeft {
                    fd: 18,
                    path: b"/run/n/\xff".to_vec(),
                }),
                ready: Some(19),
                foreign: Some(20),
                is_destroyed: true,
                is_released: true,
                counted: Counted {
                    oom_kills_before: Some(3),
                    ..Counted::default()
                },
            }],
            draining: vec![Draining {
                id: LaunchId {
                    invocation: Invocation(4),
                    step: 2,
                },
                pipe: PipeLeft {
                    fd: Some(21),
                    stream: None,
                    others: Vec::new(),
                    output: output(),
                },
            }],
            graves: vec!["/sys/fs/cgroup/ringriftd-00/old.3.0".to_owned()],
            stored: Vec::new(),
            zygotes: Vec::new(),
            last_order: 12,
            untaken_signals: vec![(3, 15)],
            last_signal: 3,
            manager_deaths: 2,
            logger_restarts: 1,
        }
    }

    fn output() -> Output {
        Output {
            unit: "web".to_owned(),
            max_size: 1 << 20,
            max_files: 5,
            drain_ms: 2000,
            keep: LogKeep {
                max_age_ms: 86_400_000,
                is_packed: true,
                is_dropped: true,
            },
            read: LogRead {
                is_split: true,
                max_line: 4096,
                forward: Some(Forward::Journald),
                forward_to: Some("/run/other".to_owned()),
                parse: Parse::Json,
                seed: 9,
            },
        }
    }

    #[test]
    fn stored_descriptors_go_along_and_who_knows_none_is_read_too() {
        let with = Handover {
            stored: vec![StoredLeft {
                tag: "a".to_owned(),
                name: "state".to_owned(),
                is_polled: true,
                fd: 24,
            }],
            ..whole()
        };
        assert_eq!(Handover::decode(&with.encode().unwrap()).unwrap(), with);
        assert!(
            !String::from_utf8(whole().encode().unwrap())
                .unwrap()
                .contains("stored")
        );
    }

    /// As a version wrote it that knew no streams, and (`keeps` of none) nothing of how logs are kept.
    fn of_version(version: u32, keeps: bool) -> Handover {
        let mut of_then = whole();
        of_then.version = version;
        of_then.descriptors.retain(|fd| *fd != 25);
        let launches = of_then.launches.iter_mut().filter_map(|l| l.pipe.as_mut());
        for pipe in launches.chain(of_then.draining.iter_mut().map(|d| &mut d.pipe)) {
            pipe.stream = None;
            pipe.others.clear();
            pipe.output.read = LogRead::default();
            if !keeps {
                pipe.output.keep = LogKeep::default();
            }
        }
        of_then
    }

    /// B12: what version 1 wrote is read for ever. It knew no HTTP listener, and counted nothing of launches.
    #[test]
    fn version_1_is_read_as_it_was_written() {
        let golden = include_str!("../../tests/golden/handover-1.json");
        let mut of_then = of_version(1, false);
        of_then.http = None;
        of_then.descriptors.retain(|fd| *fd != 24);
        of_then
            .launches
            .iter_mut()
            .for_each(|launch| launch.counted = Counted::default());
        assert_eq!(Handover::decode(golden.as_bytes()).unwrap(), of_then);
    }

    /// B12
    #[test]
    fn versions_2_and_3_are_read_as_they_were_written() {
        let golden = include_str!("../../tests/golden/handover-2.json");
        assert_eq!(Handover::decode(golden.as_bytes()).unwrap(), of_version(2, false));
        let golden = include_str!("../../tests/golden/handover-3.json");
        assert_eq!(Handover::decode(golden.as_bytes()).unwrap(), of_version(3, true));
    }

    /// B12
    #[test]
    fn version_4_is_read_as_it_was_written() {
        let golden = include_str!("../../tests/golden/handover-4.json");
        assert_eq!(Handover::decode(golden.as_bytes()).unwrap(), whole());
        if VERSION == 4 {
            let now = String::from_utf8(whole().encode().unwrap()).unwrap();
            assert_eq!(now, golden.trim_end(), "a changed format is a new version");
        }
    }

    #[test]
    fn fields_that_are_absent_have_defaults_and_others_are_not_minded() {
        let text = r#"{"version":1,"kind":"take_over","pid":2,"program":"9","seed":1,"nofile":[1,2],"oom_score_adj":0,
            "descriptors":[],"control":5,"locks":[6,6],"state":[7,8],"buffer":9,"hold":[10,11],"later":{"x":1}}"#;
        let read = Handover::decode(text.as_bytes()).unwrap();
        assert_eq!(
            (read.kind, read.launches.len(), read.peer),
            (Kind::TakeOver, 0, None)
        );
    }

    /// B12
    #[test]
    fn another_version_is_refused_whatever_else_it_holds() {
        for version in [0, VERSION + 1, VERSION + 7] {
            let text = format!(r#"{{"version":{version},"what":"nobody knows"}}"#);
            let why = Handover::decode(text.as_bytes()).unwrap_err();
            assert!(why.contains(&format!("version {version}")), "{why}");
        }
    }

    #[test]
    fn no_damage_makes_the_reader_panic() {
        let bytes = whole().encode().unwrap();
        for end in 0..bytes.len() {
            assert!(Handover::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn only_sealed_memory_is_believed() {
        let sealed = whole().seal().unwrap();
        assert!(nix::unistd::write(&sealed, b"x").is_err());
        assert_eq!(open(sealed).unwrap(), whole());
        let loose = memfd_create(c"loose", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::write(&loose, &whole().encode().unwrap()).unwrap();
        assert!(open(loose).unwrap_err().contains("sealed"));
        assert!(open(File::open("/dev/null").unwrap().into()).is_err());
    }
}
