//! From a keeper to its picture, and back: what [`handover`] carries, field by field. What is not carried is made again: the
//! stack, the inotify watches, the times at which something is looked at again.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use super::cgroup::{Leaf, Root};
use super::child::Stack;
use super::config::KeeperConfig;
use super::counted::Kills;
use super::door::Door;
use super::handover::{
    self, DoorLeft, Draining, EndLeft, Ends, Handover, Kind, LaunchLeft, NotifyLeft, Numbers, PipeLeft,
    Process, Received, RoleLeft,
};
use super::launch::{Containment, End, Held, Killing, Machine, Pipe};
use super::links::Link;
use super::lock::{self, Lock};
use super::sockets::Notify;
use super::state::{Grave, Keeper, Kept, Role};
use super::types::{Proc, SharedFd};
use super::upgrade::WayBack;
use super::wire::fd;
use crate::ids::LaunchId;

/// The path of a cgroup, of which `Root` has made sure that it is UTF-8 up to the names that ringriftd gave itself.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn process(of: Proc) -> Process {
    (of.pid(), of.start())
}

fn proc(of: Process) -> Result<Proc, String> {
    Proc::new(of.0, of.1).ok_or_else(|| format!("the handover names process {}", of.0))
}

impl Keeper {
    /// What any program needs to know that goes on from here, with nothing of launches and roles.
    fn sketch(&self, kind: Kind, numbers: &mut Numbers) -> Handover {
        let (cgroup, why_no_cgroup) = match &self.machine.containment {
            Containment::Cgroup(root) => (Some(text(root.path())), String::new()),
            Containment::Group { why } => (None, why.clone()),
        };
        let limit = &self.machine.nofile;
        Handover {
            version: handover::VERSION,
            kind,
            pid: self.own_pid,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            seed: self.seed,
            nofile: (limit.rlim_cur, limit.rlim_max),
            oom_score_adj: self.machine.oom_score_adj,
            cgroup,
            left_cgroups: self
                .machine
                .left_roots
                .iter()
                .map(|root| text(root.path()))
                .collect(),
            why_no_cgroup,
            note: None,
            descriptors: Vec::new(),
            control: numbers.keep(&self.control),
            http: None,
            locks: self.lock.fds().map(|lock| numbers.keep(lock)),
            state: self.kept.state.each_ref().map(|half| numbers.keep(half)),
            buffer: numbers.keep(&self.kept.buffer),
            hold: self.kept.hold.each_ref().map(|end| numbers.keep(end)),
            old_program: None,
            old_state: None,
            manager: RoleLeft::default(),
            logger: RoleLeft::default(),
            peer: None,
            ends: Vec::new(),
            launches: Vec::new(),
            draining: Vec::new(),
            graves: Vec::new(),
            stored: Vec::new(),
            zygotes: Vec::new(),
            last_order: self.last_order,
            untaken_signals: self.untaken_signals.iter().copied().collect(),
            last_signal: self.last_signal,
            manager_deaths: self.lives.deaths,
            logger_restarts: self.logger_restarts.times,
        }
    }

    /// What a manager needs to know to take this keeper's place, with the numbers that things have in the manager.
    pub fn picture_for_manager(&self) -> Handover {
        let mut picture = Handover {
            control: fd::CONTROL,
            locks: fd::LOCKS,
            state: fd::STATE,
            buffer: fd::LOG_BUFFER,
            hold: fd::LOG_HOLD,
            ..self.sketch(Kind::TakeOver, &mut Numbers::default())
        };
        picture.descriptors = [fd::CONTROL, fd::LOG_BUFFER]
            .into_iter()
            .chain(fd::LOCKS)
            .chain(fd::STATE)
            .chain(fd::LOG_HOLD)
            .collect();
        picture
    }

    /// Everything, for another program in this very process.
    pub fn picture(&self, kind: Kind, note: String, way_back: Option<&WayBack>) -> Handover {
        let mut numbers = Numbers::default();
        let n = &mut numbers;
        let mut picture = self.sketch(kind, n);
        picture.note = Some(note);
        picture.old_program = way_back.map(|way| n.keep(&way.program));
        picture.old_state = way_back
            .and_then(|way| way.state.as_ref())
            .map(|halves| halves.each_ref().map(|half| n.keep(half)));
        picture.http = self.door.listener.as_ref().map(|listener| DoorLeft {
            place: self.door.place.clone(),
            listener: n.keep(listener),
        });
        picture.manager = role_left(&self.manager, n);
        picture.logger = RoleLeft {
            process: self.logger.process.or(self.logger_elsewhere).map(process),
            ..role_left(&self.logger, n)
        };
        picture.ends = self
            .ends
            .iter()
            .map(|(id, ends)| Ends {
                id: *id,
                notify: ends.notify.as_ref().map(|fd| n.keep(fd)),
                ready: ends.ready.as_ref().map(|fd| n.keep(fd)),
            })
            .collect();
        picture.launches = self
            .launches
            .iter()
            .map(|(id, held)| LaunchLeft {
                foreign: self.foreign.get(id).map(|pidfd| n.keep(pidfd)),
                ..launch_left(*id, held, n)
            })
            .collect();
        picture.draining = self
            .draining
            .iter()
            .map(|(id, pipe)| Draining {
                id: *id,
                pipe: pipe_left(pipe, n),
            })
            .collect();
        picture.graves = self.graves.iter().map(|grave| text(grave.leaf.path())).collect();
        picture.stored = self.store.left(n);
        picture.zygotes = self.zygotes.left(n);
        picture.descriptors = numbers.into_vec();
        picture
    }

    /// Takes up all that the program before left, but its roles' processes, which are still to be replaced.
    pub fn take_up(&mut self, left: &mut Received) -> Result<(), String> {
        let picture = left.picture.clone();
        self.note = picture.note;
        self.last_order = picture.last_order;
        self.untaken_signals = picture.untaken_signals.into();
        self.last_signal = picture.last_signal;
        self.lives.deaths = picture.manager_deaths;
        self.logger_restarts.times = picture.logger_restarts;
        if let Some(door) = picture.http {
            self.door = Door {
                listener: Some(left.fd(door.listener)?.into()),
                place: door.place,
                ..Door::default()
            };
        }
        for ends in picture.ends {
            let ends_of = EndsLeft {
                notify: left.maybe(ends.notify)?.map(SharedFd::from),
                ready: left.maybe(ends.ready)?.map(SharedFd::from),
            };
            self.ends.insert(ends.id, ends_of);
        }
        self.store.take_up(picture.stored, left)?;
        self.zygotes.take_up(picture.zygotes, left)?;
        for launch in picture.launches {
            self.take_up_launch(launch, left)?;
        }
        for Draining { id, pipe } in picture.draining {
            let pipe = take_pipe(pipe, left)?;
            self.draining.insert(id, pipe);
        }
        let again = |path: &String| {
            let leaf = self.leaf_again(path)?;
            Some(Grave { leaf, tries: 1 })
        };
        self.graves = picture.graves.iter().filter_map(again).collect();
        self.manager = take_role(&picture.manager, left)?;
        self.logger = take_role(&picture.logger, left)?;
        Ok(())
    }

    fn leaf_again(&self, path: &str) -> Option<Leaf> {
        self.roots().find_map(|root| root.leaf_again(Path::new(path)))
    }

    fn take_up_launch(&mut self, launch: LaunchLeft, left: &mut Received) -> Result<(), String> {
        let id = launch.id;
        let notify = match launch.notify {
            None => None,
            Some(NotifyLeft { fd, path }) => Some(Notify::again(left.fd(fd)?.into(), &path)),
        };
        let leaf = launch.leaf.as_ref().and_then(|path| self.leaf_again(path));
        let held = Held {
            origin: launch.origin,
            invocation: launch.invocation,
            role: launch.role,
            leader: proc(launch.leader)?,
            main: proc(launch.main)?,
            exit: launch.exit,
            left: launch.left.into_iter().map(proc).collect::<Result<_, _>>()?,
            told_left: launch.told_left,
            leaf,
            pipe: launch.pipe.map(|pipe| take_pipe(pipe, left)).transpose()?,
            notify,
            ready: left.maybe(launch.ready)?.map(SharedFd::from),
            // Whoever was asked to adopt it has been told.
            is_deaf: false,
            killing: launch.is_destroyed.then(|| Killing::begin(Instant::now())),
            is_released: launch.is_released,
            counted: launch.counted,
        };
        if held.exit.is_none() {
            self.by_pid.insert(held.main.pid(), id);
        } else if !held.left.is_empty() {
            self.leftover.insert(id);
        }
        if held.killing.is_some() {
            self.killing.insert(id);
        }
        if let Some(pidfd) = left.maybe(launch.foreign)? {
            self.foreign.insert(id, pidfd);
        }
        self.launches.insert(id, held);
        Ok(())
    }
}

/// What a manager that took a dead keeper's place had of a launch that is still to be adopted.
#[derive(Debug, Default)]
pub struct EndsLeft {
    /// Its notify socket.
    pub notify: Option<SharedFd>,
    /// The read end of its readiness pipe.
    pub ready: Option<SharedFd>,
}

/// By launch.
pub type AllEnds = BTreeMap<LaunchId, EndsLeft>;

fn role_left(role: &Role, numbers: &mut Numbers) -> RoleLeft {
    RoleLeft {
        link: role.link.as_ref().map(|link| numbers.keep(link.fd())),
        process: role.process.map(process),
    }
}

fn pipe_left(pipe: &Pipe, numbers: &mut Numbers) -> PipeLeft {
    let mut ends = pipe.ends.iter().map(|end| EndLeft {
        fd: numbers.keep(&end.fd),
        stream: end.stream,
    });
    let first = ends.next();
    PipeLeft {
        fd: first.map(|end| end.fd),
        stream: first.and_then(|end| end.stream),
        others: ends.collect(),
        output: pipe.output.clone(),
    }
}

fn launch_left(id: LaunchId, held: &Held, numbers: &mut Numbers) -> LaunchLeft {
    LaunchLeft {
        id,
        origin: held.origin,
        invocation: held.invocation.clone(),
        role: held.role.clone(),
        leader: process(held.leader),
        main: process(held.main),
        exit: held.exit,
        left: held.left.iter().copied().map(process).collect(),
        told_left: held.told_left.clone(),
        leaf: held.leaf.as_ref().map(|leaf| text(leaf.path())),
        pipe: held.pipe.as_ref().map(|pipe| pipe_left(pipe, numbers)),
        notify: held.notify.as_ref().map(|notify| NotifyLeft {
            fd: numbers.keep(&notify.socket),
            path: notify.path().as_os_str().as_bytes().to_vec(),
        }),
        ready: held.ready.as_ref().map(|ready| numbers.keep(ready)),
        foreign: None,
        is_destroyed: held.killing.is_some(),
        is_released: held.is_released,
        counted: held.counted,
    }
}

fn take_pipe(pipe: PipeLeft, left: &mut Received) -> Result<Pipe, String> {
    let first = pipe.fd.map(|fd| EndLeft {
        fd,
        stream: pipe.stream,
    });
    let ends = first.into_iter().chain(pipe.others).map(|end| {
        Ok(End {
            fd: left.fd(end.fd)?.into(),
            stream: end.stream,
        })
    });
    Ok(Pipe {
        ends: ends.collect::<Result<_, String>>()?,
        output: pipe.output,
    })
}

fn take_role(role: &RoleLeft, left: &mut Received) -> Result<Role, String> {
    let link = left
        .maybe(role.link)?
        .map(Link::new)
        .transpose()
        .map_err(|e| format!("cannot go on with a role's link: {e}"))?;
    Ok(Role {
        link,
        process: role.process.map(proc).transpose()?,
        ..Role::default()
    })
}

/// What a keeper stands on, whether it begins or goes on.
pub struct Ground {
    /// The locks.
    pub lock: Lock,
    /// The control socket's listener.
    pub control: std::os::fd::OwnedFd,
    /// The node's random number.
    pub seed: u64,
    /// What launches need.
    pub machine: Machine,
    /// What manager and logger leave to their successors.
    pub kept: Kept,
    /// Processes of an earlier keeper's may live that this one does not know yet.
    pub may_have_orphans: bool,
}

/// The ground that the program before left.
pub fn ground(config: &KeeperConfig, left: &mut Received) -> Result<Ground, String> {
    let picture = left.picture.clone();
    let [state_lock, runtime_lock] = picture.locks;
    let state_lock_fd = left.fd(state_lock)?;
    let runtime_lock_fd = if runtime_lock == state_lock {
        None
    } else {
        Some(left.fd(runtime_lock)?)
    };
    let lock = lock::again(state_lock_fd, runtime_lock_fd)?;
    let containment = match picture.cgroup {
        Some(path) => {
            let root = Root::left(Path::new(&path));
            Containment::Cgroup(root.ok_or_else(|| format!("the cgroup {path} is gone"))?)
        }
        None => Containment::Group {
            why: picture.why_no_cgroup,
        },
    };
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| format!("cannot open /dev/null: {e}"))?;
    let machine = Machine {
        containment,
        kills: Kills::default(),
        can_be_born_inside: super::birth::IS_HERE,
        left_roots: picture
            .left_cgroups
            .iter()
            .filter_map(|path| Root::left(Path::new(path)))
            .collect(),
        null: null.into(),
        stack: Stack::map().map_err(|e| format!("cannot map a stack: {e}"))?,
        marker: marker(picture.seed)?,
        nofile: libc::rlimit64 {
            rlim_cur: picture.nofile.0,
            rlim_max: picture.nofile.1,
        },
        oom_score_adj: picture.oom_score_adj,
        runtime_dir: config.runtime_dir.clone(),
    };
    let [first, second] = picture.state;
    let [read, write] = picture.hold;
    Ok(Ground {
        lock,
        control: left.fd(picture.control)?,
        seed: picture.seed,
        machine,
        kept: Kept {
            state: [left.fd(first)?, left.fd(second)?],
            buffer: left.fd(picture.buffer)?,
            hold: [left.fd(read)?, left.fd(write)?],
        },
        may_have_orphans: picture.kind == Kind::TakeOver,
    })
}

/// The name of the keeper's children until they execute their program.
pub fn marker(seed: u64) -> Result<CString, String> {
    CString::new(format!("rr-{:012x}", seed & 0xffff_ffff_ffff)).map_err(|e| e.to_string())
}
