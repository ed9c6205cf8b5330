//! From a request to a running process: everything is made here, and taken away again when any of it fails.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use proto::log::Stream;
use proto::reply::Exit;
use serde::{Deserialize, Serialize};

use super::birth;
use super::cgroup::{Leaf, Root};
use super::child::{self, ChildSpec, Failure, Stack, WayIn};
use super::counted::{Counted, Kills};
use super::signal;
use super::sockets::Notify;
use super::store::{Store, Stored};
use super::sweep::{Claim, Reach};
use super::sys;
use super::types::{Proc, SharedFd};
use super::wire::{Launch, Output, Stage, ToLogger};
use crate::ids::LaunchId;
use crate::limits;

/// How launches are held together here.
#[derive(Debug)]
pub enum Containment {
    /// By a leaf cgroup each.
    Cgroup(Root),
    /// By session, group and sweep, because of this.
    Group {
        /// The reason why there is no cgroup.
        why: String,
    },
}

impl Containment {
    /// For `Hello`.
    pub fn text(&self) -> String {
        match self {
            Self::Cgroup(root) => format!("cgroup {}", root.path().display()),
            Self::Group { why } => format!("process group ({why})"),
        }
    }
}

/// What every launch needs of this machine.
#[derive(Debug)]
pub struct Machine {
    /// How launches are held together.
    pub containment: Containment,
    /// Children are born in their leaves; otherwise they move.
    pub can_be_born_inside: bool,
    /// Folders of leaves that earlier keepers left, because somebody lives there.
    pub left_roots: Vec<Root>,
    /// /dev/null.
    pub null: OwnedFd,
    /// Where children run until they execute.
    pub stack: Stack,
    /// How often the kernel has killed for want of memory.
    pub kills: Kills,
    /// Their name until then.
    pub marker: CString,
    /// The descriptor limit that ringriftd was started with: its own is raised, its children's is not.
    pub nofile: libc::rlimit64,
    /// The oom_score_adj that ringriftd was started with.
    pub oom_score_adj: i32,
    /// Notify sockets are below it.
    pub runtime_dir: PathBuf,
}

/// The read ends of a launch's log pipes; the logger has duplicates.
#[derive(Debug, Clone)]
pub struct Pipe {
    /// One for both streams, or one for each that is told apart.
    pub ends: Vec<End>,
    /// What the logger is told about them.
    pub output: Output,
}

/// A read end.
#[derive(Debug, Clone)]
pub struct End {
    /// It.
    pub fd: SharedFd,
    /// What is written to it; absent: both streams.
    pub stream: Option<Stream>,
}

impl Pipe {
    /// What gives them to the logger, and what is attached to it.
    pub fn open(&self, id: LaunchId) -> (ToLogger, Vec<SharedFd>) {
        let open = ToLogger::Open {
            id,
            output: self.output.clone(),
            streams: self.ends.iter().map(|end| end.stream).collect(),
        };
        (open, self.ends.iter().map(|end| end.fd.clone()).collect())
    }
}

/// When a launch that is being destroyed is looked at again.
#[derive(Debug, Clone, Copy)]
pub struct Killing {
    /// SIGKILL again.
    pub again: Instant,
    /// Say that it does not help.
    pub complain: Instant,
}

impl Killing {
    /// From `now` on.
    pub fn begin(now: Instant) -> Self {
        Self {
            again: now + limits::KILL_AGAIN,
            complain: now + limits::KILL_TIMEOUT,
        }
    }
}

/// How a launch came to this keeper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It started it: the processes are its descendants.
    #[default]
    Launched,
    /// It took it over from another keeper: another process is the parent of its orphans.
    Adopted,
    /// It took it over from somebody else, on an operator's word: it bears no mark and is in somebody's session.
    Foreign,
}

/// A launch that lives, or whose end has not been acknowledged.
#[derive(Debug)]
pub struct Held {
    /// How it came here.
    pub origin: Origin,
    /// RINGRIFT_INVOCATION_ID.
    pub invocation: String,
    /// RINGRIFT_ROLE.
    pub role: String,
    /// The process that was launched: the leader of the session.
    pub leader: Proc,
    /// The main process: the leader, until `FindMain` finds another.
    pub main: Proc,
    /// How the main process ended.
    pub exit: Option<Exit>,
    /// What was left when it ended, or what a sweep proved later; empty: nothing is.
    pub left: Vec<Proc>,
    /// What the manager was told that is left when it ended; if that was anything, `Emptied` is told too.
    pub told_left: Vec<u32>,
    /// Its cgroup.
    pub leaf: Option<Leaf>,
    /// Its output, until the logger has closed it.
    pub pipe: Option<Pipe>,
    /// Its notify socket.
    pub notify: Option<Notify>,
    /// The read end of its readiness pipe.
    pub ready: Option<SharedFd>,
    /// Its socket or readiness pipe had to be made again when it was taken over: what it said before is lost.
    pub is_deaf: bool,
    /// It is being destroyed.
    pub killing: Option<Killing>,
    /// It is to be forgotten as soon as nothing of it is left.
    pub is_released: bool,
    /// What the kernel counted of it.
    pub counted: Counted,
}

impl Held {
    /// Nothing of it runs.
    pub fn is_over(&self) -> bool {
        self.exit.is_some() && self.left.is_empty()
    }

    /// For the sweep.
    pub fn claim(&self, id: LaunchId) -> Claim<'_> {
        Claim {
            id,
            invocation: &self.invocation,
            role: &self.role,
            leader: self.leader,
            main: self.main,
            known: &self.left,
            reach: match (self.origin, &self.leaf) {
                (Origin::Launched, _) | (_, Some(_)) => Reach::Below,
                (Origin::Adopted, None) => Reach::Everywhere,
                (Origin::Foreign, None) => Reach::ByParent,
            },
        }
    }

    /// What `Launched` carries, in the wire's order.
    pub fn attached(&self) -> Vec<SharedFd> {
        if self.is_over() {
            return Vec::new();
        }
        let notify = self.notify.as_ref().map(|n| n.socket.clone());
        notify.into_iter().chain(self.ready.clone()).collect()
    }
}

fn descriptors(e: impl Into<io::Error>) -> Failure {
    Failure::new(Stage::Descriptors, &e.into())
}

/// A process to be, with all that it leaves to others made: who reads its output and hears what it says can be told
/// before it runs, so that nothing of it is lost when the keeper dies the moment after.
#[derive(Debug)]
pub struct Made {
    spec: ChildSpec,
    leaf: Option<Leaf>,
    pipe: Pipe,
    notify: Option<Notify>,
    ready: Option<SharedFd>,
    /// The child's ends, which `spec` names by number.
    theirs: Vec<OwnedFd>,
    /// The keeper's end of a zygote's socket pair.
    zygote: Option<OwnedFd>,
}

impl Made {
    /// The read end of its log pipe.
    pub fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// Where it says that it is ready, in the wire's order.
    pub fn ears(&self) -> Vec<SharedFd> {
        let notify = self.notify.as_ref().map(|n| n.socket.clone());
        notify.into_iter().chain(self.ready.clone()).collect()
    }

    /// What the child is to be.
    pub fn wish(&self) -> &ChildSpec {
        &self.spec
    }

    /// Its cgroup.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// The keeper's end, where it is to be a zygote.
    pub fn take_zygote(&mut self) -> Option<OwnedFd> {
        self.zygote.take()
    }

    /// It came of it by other means than [`Machine::start`]: this process.
    pub fn forked(self, launch: &Launch, leader: Proc, kills: &mut Kills) -> Held {
        let counted = Counted::begin(self.leaf.as_ref().map(Leaf::path), kills);
        held(
            launch,
            leader,
            (self.leaf, self.pipe, self.notify, self.ready),
            counted,
        )
    }

    /// Nothing comes of it.
    pub fn discard(self) {
        if let Some(leaf) = self.leaf {
            leaf.remove();
        }
    }
}

fn held(
    launch: &Launch,
    leader: Proc,
    (leaf, pipe, notify, ready): (Option<Leaf>, Pipe, Option<Notify>, Option<SharedFd>),
    counted: Counted,
) -> Held {
    Held {
        origin: Origin::Launched,
        invocation: launch.invocation.clone(),
        role: launch.role.clone(),
        leader,
        main: leader,
        exit: None,
        left: Vec::new(),
        told_left: Vec::new(),
        leaf,
        pipe: Some(pipe),
        notify,
        ready,
        is_deaf: false,
        killing: None,
        is_released: false,
        counted,
    }
}

impl Machine {
    /// Makes everything for a process. On failure nothing of it is left.
    pub fn make(&self, launch: &Launch, store: &Store) -> Result<Made, Failure> {
        let mut spec = check(launch).ok_or(Failure {
            stage: Stage::Request,
            errno: 0,
        })?;
        // setresuid(2) and setresgid(2) take this number for "leave it as it is": the program would run as root.
        if launch
            .identity
            .as_ref()
            .is_some_and(|i| i.uid == u32::MAX || i.gid == u32::MAX)
        {
            return Err(Failure {
                stage: Stage::Identity,
                errno: libc::EINVAL,
            });
        }
        spec.rlimits.insert(0, (libc::RLIMIT_NOFILE, self.nofile));
        spec.oom_score_adj = self.oom_values(launch.oom_score_adj);

        let (pipe, pipe_in) = make_pipe()?;
        let (err, err_in) = match launch.output.read.is_split {
            false => (None, None),
            true => make_marked_pipe().map(|(read, write)| (Some(read), Some(write)))?,
        };
        let (ready, ready_in) = match launch.ready_fd {
            None => (None, None),
            Some(_) => make_pipe().map(|(read, write)| (Some(read), Some(write)))?,
        };
        let notify = match &launch.notify {
            None => None,
            Some(path) => {
                Some(Notify::make(&self.runtime_dir, path, launch.identity.as_ref()).map_err(descriptors)?)
            }
        };
        if let Some(identity) = &launch.identity {
            // So that the user may open /dev/stdout, which is the pipe by its name. Best effort.
            let (uid, gid) = (Some(identity.uid.into()), Some(identity.gid.into()));
            for end in std::iter::once(&pipe_in).chain(&err_in) {
                let _ = nix::unistd::fchown(end, uid, gid);
            }
        }
        let stdin = launch
            .stdin
            .as_deref()
            .map(text_to_read)
            .transpose()
            .map_err(descriptors)?;
        spec.fds = vec![
            (stdin.as_ref().unwrap_or(&self.null).as_raw_fd(), 0),
            (pipe_in.as_raw_fd(), 1),
            (err_in.as_ref().unwrap_or(&pipe_in).as_raw_fd(), 2),
        ];
        if let (Some(end), Some(target)) = (&ready_in, launch.ready_fd) {
            let target = i32::try_from(target).map_err(|_| Failure {
                stage: Stage::Request,
                errno: 0,
            })?;
            spec.fds.push((end.as_raw_fd(), target));
        }
        if launch.is_given_stored {
            give_stored(&mut spec, store.of(&launch.tag))?;
        }
        let mut theirs = vec![pipe_in];
        let zygote = match launch.is_zygote {
            false => None,
            true => Some(give_zygote(&mut spec, &mut theirs)?),
        };
        theirs.extend(err_in);
        theirs.extend(ready_in);
        theirs.extend(stdin);

        let leaf = match &self.containment {
            Containment::Group { .. } => None,
            Containment::Cgroup(root) => {
                let name = leaf_name(&launch.tag, launch.id);
                Some(root.leaf(&name).map_err(|e| Failure::new(Stage::Cgroup, &e))?)
            }
        };
        Ok(Made {
            spec,
            leaf,
            pipe: Pipe {
                ends: match err {
                    None => vec![End {
                        fd: pipe.into(),
                        stream: None,
                    }],
                    Some(err) => [(pipe, Stream::Stdout), (err, Stream::Stderr)]
                        .map(|(fd, stream)| End {
                            fd: fd.into(),
                            stream: Some(stream),
                        })
                        .into(),
                },
                output: launch.output.clone(),
            },
            notify,
            ready: ready.map(Into::into),
            theirs,
            zygote,
        })
    }

    /// Starts a process. On failure nothing of it is left.
    pub fn start(&mut self, launch: &Launch, made: Made) -> Result<Held, Failure> {
        let Made {
            mut spec,
            leaf,
            pipe,
            notify,
            ready,
            theirs,
            zygote: _,
        } = made;
        let counted = Counted::begin(leaf.as_ref().map(Leaf::path), &mut self.kills);
        let spawned = match &leaf {
            None => child::spawn(&mut self.stack, &spec, &self.marker),
            Some(leaf) => self.spawn_in(leaf, &mut spec),
        };
        drop(theirs);
        let leader = match spawned {
            Ok(leader) => leader,
            Err(failure) => {
                if let Some(leaf) = leaf {
                    leaf.remove();
                }
                return Err(failure);
            }
        };
        Ok(held(launch, leader, (leaf, pipe, notify, ready), counted))
    }

    /// Starts a child in `leaf`, by the way that works here.
    fn spawn_in(&mut self, leaf: &Leaf, spec: &mut ChildSpec) -> Result<Proc, Failure> {
        let cannot = |e: io::Error| Failure::new(Stage::Cgroup, &e);
        if self.can_be_born_inside {
            let folder = leaf.folder().map_err(cannot)?;
            spec.way_in = Some(WayIn::Birth(folder.as_raw_fd()));
            match child::spawn(&mut self.stack, spec, &self.marker) {
                Err(failure) if is_barred(failure) => {
                    // Somebody has moved this process into another group, where it does not work.
                    self.can_be_born_inside = false;
                }
                spawned => return spawned,
            }
        }
        let door = leaf.door().map_err(cannot)?;
        spec.way_in = Some(WayIn::Door(door.as_raw_fd()));
        child::spawn(&mut self.stack, spec, &self.marker)
    }

    /// 0, the default, is not worth a failure where ringriftd itself was started with another value and may not
    /// lower it: then that one applies. What a file asks for must work.
    fn oom_values(&self, wanted: i32) -> Option<(CString, Option<CString>)> {
        let text = |value: i32| CString::new(value.to_string()).ok();
        let other = if wanted == 0 {
            text(self.oom_score_adj)
        } else {
            None
        };
        Some((text(wanted)?, other))
    }

    /// Sees whether a child can be moved into a leaf, found and killed there. Answers with what does not work.
    pub fn test_cgroup(&mut self, root: &Root) -> Result<(), String> {
        let leaf = root
            .leaf("self-test")
            .map_err(|e| format!("cannot make a leaf: {e}"))?;
        let verdict = self.test_leaf(&leaf);
        if !leaf.remove() && verdict.is_ok() {
            return Err("a leaf cannot be removed".to_owned());
        }
        verdict
    }

    fn test_leaf(&mut self, leaf: &Leaf) -> Result<(), String> {
        let mut spec = ChildSpec {
            program: None,
            argv: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            way_in: None,
            oom_score_adj: None,
            nice: None,
            rlimits: Vec::new(),
            umask: 0o077,
            identity: None,
            no_new_privs: false,
            wakes_at_death: false,
            fds: Vec::new(),
            own_pid: Vec::new(),
        };
        self.can_be_born_inside = birth::IS_HERE;
        let child = self.spawn_in(leaf, &mut spec).map_err(|failure| {
            let why = io::Error::from_raw_os_error(failure.errno);
            format!("a child cannot be put into a leaf: {why}")
        })?;
        match sys::reap(child.pid()) {
            Ok(Exit::Code(0)) => Ok(()),
            Ok(exit) => Err(format!("a child in a leaf ended by itself: {exit:?}")),
            Err(e) => Err(format!("a child in a leaf cannot be reaped: {e}")),
        }
    }
}

/// A child may not be born in a leaf, or is killed before its first instruction.
fn is_barred(failure: Failure) -> bool {
    failure.stage == Stage::Fork && !matches!(failure.errno, libc::EAGAIN | libc::ENOMEM)
}

/// Kills without asking again: for launches at the keeper's end and processes outside any.
pub fn kill_each(processes: &[Proc]) {
    // What cannot be signalled is still there in the next round, and named then.
    let _ = signal::send_all(processes, None, libc::SIGKILL);
}

/// Descriptors from 3 on, and the three variables that tell of them (sd_listen_fds(3)). The pid is known to the child
/// alone, which writes it in.
fn give_stored<'a>(spec: &mut ChildSpec, stored: impl Iterator<Item = &'a Stored>) -> Result<(), Failure> {
    let mut names = Vec::new();
    for (stored, target) in stored.zip(FIRST_LISTEN_FD..) {
        spec.fds.push((stored.fd.as_raw_fd(), target));
        names.push(stored.name.as_str());
    }
    let is_ours = |entry: &CString| {
        LISTEN_VARIABLES
            .iter()
            .any(|name| entry.as_bytes().starts_with(name))
    };
    spec.env.retain(|entry| !is_ours(entry));
    if names.is_empty() {
        return Ok(());
    }
    let wrong = |_| Failure {
        stage: Stage::Request,
        errno: 0,
    };
    spec.env
        .push(CString::new(format!("LISTEN_FDS={}", names.len())).map_err(wrong)?);
    spec.env
        .push(CString::new(format!("LISTEN_FDNAMES={}", names.join(":"))).map_err(wrong)?);
    spec.own_pid.push(child::PidVariable::new("LISTEN_PID="));
    Ok(())
}

/// A zygote's end of a socket pair, and the variable that tells of it: the keeper's end.
fn give_zygote(spec: &mut ChildSpec, theirs: &mut Vec<OwnedFd>) -> Result<OwnedFd, Failure> {
    let (ours, end) = super::links::pair().map_err(descriptors)?;
    let name = "RINGRIFT_ZYGOTE_FD";
    spec.env
        .retain(|entry| !entry.as_bytes().starts_with(name.as_bytes()));
    let entry = CString::new(format!("{name}={FIRST_LISTEN_FD}")).map_err(|_| Failure {
        stage: Stage::Request,
        errno: 0,
    })?;
    spec.env.push(entry);
    spec.fds.push((end.as_raw_fd(), FIRST_LISTEN_FD));
    theirs.push(end);
    Ok(ours)
}

/// SD_LISTEN_FDS_START.
const FIRST_LISTEN_FD: i32 = 3;
const LISTEN_VARIABLES: [&[u8]; 3] = [b"LISTEN_FDS=", b"LISTEN_FDNAMES=", b"LISTEN_PID="];

/// A file of memory with this text, at its beginning, that can only be read.
pub fn text_to_read(text: &[u8]) -> io::Result<OwnedFd> {
    let mut memory = File::from(memfd_create(c"ringrift-stdin", MFdFlags::MFD_CLOEXEC)?);
    memory.write_all(text)?;
    let again = File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))?;
    Ok(again.into())
}

/// The keeper's end, to read, and the unit's. That one is opened for both: so the unit counts as a reader itself, gets
/// no SIGPIPE when all of ringriftd is dead, and a later ringriftd can open the pipe again through /proc/PID/fd. The end
/// of the pipe is seen as ever, when nobody is left who could write.
///
/// O_NONBLOCK on the keeper's end only: the two have open file descriptions of their own, and a program that finds its
/// stdout non-blocking loses output.
fn make_pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(descriptors)?;
    let both = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", write.as_raw_fd()))
        .map_err(descriptors)?;
    Ok((sys::raise(read), both.into()))
}

/// A pipe for stderr alone. O_APPEND means nothing for a pipe, stays on it under whatever number a process has it, and
/// can be seen in /proc: so another keeper knows which of a process's two pipes it is (`adopt`).
fn make_marked_pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (read, write) = make_pipe()?;
    let flags = fcntl(&write, FcntlArg::F_GETFL).map_err(descriptors)?;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_APPEND;
    fcntl(&write, FcntlArg::F_SETFL(flags)).map_err(descriptors)?;
    Ok((read, write))
}

/// It can be part of a folder's name, and of no other path.
pub fn is_tag(tag: &str) -> bool {
    let is_tag_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
    let tag = tag.as_bytes();
    !tag.is_empty()
        && tag.len() <= limits::NAME_MAX
        && !tag.starts_with(b".")
        && tag.iter().all(|b| is_tag_byte(*b))
}

/// The name of a launch's leaf.
pub fn leaf_name(tag: &str, id: LaunchId) -> String {
    format!("{tag}.{id}")
}

/// The request as the child needs it; `None` when it is wrong, which is a bug of the manager.
fn check(launch: &Launch) -> Option<ChildSpec> {
    let text = |bytes: &Vec<u8>| CString::new(bytes.clone()).ok();
    let is_good = is_tag(&launch.tag)
        && launch.program.contains(&b'/')
        && !launch.argv.is_empty()
        && launch.working_dir.starts_with(b"/")
        && launch.umask <= 0o777
        && launch.ready_fd.is_none_or(|fd| fd > 2)
        && !(launch.is_zygote && (launch.is_given_stored || launch.ready_fd.is_some()))
        && launch
            .stdin
            .as_ref()
            .is_none_or(|text| text.len() <= limits::STDIN_MAX);
    if !is_good {
        return None;
    }
    let limit = |value: Option<u64>| value.unwrap_or(libc::RLIM64_INFINITY);
    // Whoever is told to feed a watchdog is told that it is the one (sd_watchdog_enabled(3)).
    let has_watchdog = launch
        .env
        .iter()
        .any(|entry| entry.starts_with(b"WATCHDOG_USEC="));
    Some(ChildSpec {
        program: Some(text(&launch.program)?),
        argv: launch.argv.iter().map(text).collect::<Option<_>>()?,
        env: launch.env.iter().map(text).collect::<Option<_>>()?,
        working_dir: Some(text(&launch.working_dir)?),
        way_in: None,
        oom_score_adj: None,
        nice: launch.nice,
        rlimits: launch
            .rlimits
            .iter()
            .map(|r| {
                (
                    r.resource,
                    libc::rlimit64 {
                        rlim_cur: limit(r.soft),
                        rlim_max: limit(r.hard),
                    },
                )
            })
            .collect(),
        umask: launch.umask,
        identity: launch.identity.clone(),
        no_new_privs: launch.no_new_privs,
        wakes_at_death: false,
        fds: Vec::new(),
        own_pid: has_watchdog
            .then(|| child::PidVariable::new("WATCHDOG_PID="))
            .into_iter()
            .collect(),
    })
}
