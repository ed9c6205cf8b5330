//! Taking over what an earlier keeper started, or what an operator names. A pid alone proves nothing: the main process is
//! taken by pid and start time, and it must be in its launch's cgroup or bear the launch's mark. What is not proven is
//! left alone, and named.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use proto::log::Stream;
use proto::reply::Exit;

use super::cgroup::{Leaf, Root};
use super::counted::Counted;
use super::launch::{Containment, End, Held, Origin, Pipe, is_tag, leaf_name};
use super::over::some_pids;
use super::proc::{self, BirthMark};
use super::sockets::Notify;
use super::state::{Keeper, say};
use super::sweep::Picture;
use super::types::{Proc, SharedFd};
use super::wire::{Adopt, FromKeeper};

/// What lives of a launch.
struct Found {
    /// Its main process, and how it ended if it has.
    main: Option<(Proc, Option<Exit>)>,
    /// Every other process.
    others: Vec<Proc>,
    leaf: Option<Leaf>,
}

impl Keeper {
    /// The manager's state names a launch that this keeper did not start.
    pub fn on_adopt(&mut self, adopt: &Adopt) {
        let id = adopt.id;
        if !self.launches.contains_key(&id) {
            if self.phase.is_ending() {
                return;
            }
            let found = if adopt.is_foreign {
                self.find_foreign(adopt)
            } else {
                self.find_left(adopt)
            };
            let Some(found) = found else {
                self.tell_manager(&FromKeeper::Missing { id }, Vec::new());
                return;
            };
            self.take_over(adopt, found);
        }
        self.tell_launch(id);
    }

    /// The folders in which the leaf of an earlier keeper's launch may be.
    pub fn roots(&self) -> impl Iterator<Item = &Root> {
        let own = match &self.machine.containment {
            Containment::Cgroup(root) => Some(root),
            Containment::Group { .. } => None,
        };
        own.into_iter().chain(&self.machine.left_roots)
    }

    /// What lives of an earlier keeper's launch, with proof.
    fn find_left(&mut self, adopt: &Adopt) -> Option<Found> {
        let name = leaf_name(&adopt.tag, adopt.id);
        let leaf = self
            .roots()
            .filter(|_| is_tag(&adopt.tag))
            .find_map(|root| root.find_leaf(&name));
        let is_marked = |pid: i32| {
            matches!(proc::birth_mark(pid), BirthMark::Ours { invocation, role }
                if invocation == adopt.invocation && role == adopt.role)
        };
        let left = self.look_behind()?;
        let mut all: Vec<Proc> = match &leaf {
            Some(leaf) => leaf.processes(),
            None => left.bearers(&adopt.invocation, &adopt.role),
        };
        let main = match adopt.main {
            _ if adopt.has_exited => None,
            Some((pid, start)) => {
                let named = i32::try_from(pid).ok().and_then(|pid| Proc::new(pid, start))?;
                match proc::stat(named.pid()) {
                    Ok(now) if now.process != named => None,
                    // Its number and start time are those that were noted; nothing is done to a dead process.
                    Ok(now) if now.is_dead() => proc::zombie_exit(named).map(|exit| (named, Some(exit))),
                    Ok(_) if all.contains(&named) || is_marked(named.pid()) => Some((named, None)),
                    // A program that writes its title over its environment (setproctitle(3)) loses its mark, but not the
                    // session that was made for it. The same number and start time on the same boot are the same process.
                    Ok(now) if leaf.is_none() && now.session == named.pid() => Some((named, None)),
                    Ok(_) => {
                        say(&format!(
                            "process {pid} has the number and the start time of launch {} (invocation {}) but neither its \
                             cgroup nor its mark: it is left alone",
                            adopt.id, adopt.invocation
                        ));
                        None
                    }
                    Err(_) => None,
                }
            }
            None => first_of(&all, adopt).map(|main| (main, None)),
        };
        if let (None, Some((process, None))) = (&leaf, main) {
            // What it started in its own session belongs to it too, marked or not.
            all.extend(
                left.picture
                    .in_session_of(process)
                    .into_iter()
                    .filter(|p| !all.contains(p))
                    .collect::<Vec<_>>(),
            );
        }
        all.retain(|process| main.is_none_or(|(main, _)| main != *process));
        (main.is_some() || !all.is_empty()).then_some(Found {
            main,
            others: all,
            leaf,
        })
    }

    /// A process that an operator named by pid and start time, moved into a leaf of its own with all that it started.
    fn find_foreign(&self, adopt: &Adopt) -> Option<Found> {
        let (pid, start) = adopt.main?;
        let named = Proc::new(i32::try_from(pid).ok()?, start)?;
        let is_there = proc::stat(named.pid()).is_ok_and(|now| now.process == named && !now.is_dead());
        let is_ours = named.pid() == self.own_pid || self.role_pids().contains(&named.pid());
        if !is_there || is_ours {
            return None;
        }
        let leaf = match &self.machine.containment {
            Containment::Cgroup(root) if is_tag(&adopt.tag) => {
                root.leaf(&leaf_name(&adopt.tag, adopt.id)).ok()
            }
            Containment::Cgroup(_) | Containment::Group { .. } => None,
        };
        let leaf = leaf.and_then(|leaf| match move_in(&leaf, named) {
            Ok(()) => Some(leaf),
            Err(why) => {
                say(&format!(
                    "cannot move process {pid} into a cgroup: {why}; it is held together by what it starts"
                ));
                leaf.remove();
                None
            }
        });
        Some(Found {
            main: Some((named, None)),
            others: Picture::take()
                .map(|all| all.below(named.pid(), &[]))
                .unwrap_or_default(),
            leaf,
        })
    }

    fn take_over(&mut self, adopt: &Adopt, found: Found) {
        let id = adopt.id;
        let Some(stand_in) = found
            .main
            .map(|(main, _)| main)
            .or_else(|| found.others.first().copied())
        else {
            return;
        };
        let mut exit = match found.main {
            Some((_, exit)) => exit,
            None => Some(Exit::Unknown),
        };
        if exit.is_none() && self.watch_main(id, stand_in).is_err() {
            exit = proc::zombie_exit(stand_in).or(Some(Exit::Unknown));
        }
        let living: Vec<Proc> = match exit {
            None => std::iter::once(stand_in)
                .chain(found.others.iter().copied())
                .collect(),
            Some(_) => found.others.clone(),
        };
        let ends = match (adopt.is_foreign, adopt.output.read.is_split) {
            (true, _) => Vec::new(),
            (false, false) => both_streams(&living),
            (false, true) => each_stream(&living),
        };
        let pipe = (!ends.is_empty()).then(|| Pipe {
            ends,
            output: adopt.output.clone(),
        });
        if let Some(pipe) = &pipe {
            let (open, ends) = pipe.open(id);
            self.tell_logger(&open, ends);
        } else if !adopt.is_foreign && exit.is_none() {
            say(&format!(
                "no process of launch {id} ({}) has its log pipe open any more: what it writes is not logged",
                adopt.output.unit
            ));
        }
        // A manager that took the keeper's place had these: what was said to them meanwhile is still in them.
        let ends = self.ends.remove(&id).unwrap_or_default();
        let has_lost = |is_asked: bool, left: bool| is_asked && !left;
        let is_deaf = has_lost(adopt.notify.is_some(), ends.notify.is_some())
            || has_lost(adopt.ready_fd.is_some(), ends.ready.is_some());
        let notify = adopt.notify.as_ref().and_then(|path| {
            if let Some(socket) = ends.notify {
                return Some(Notify::again(socket, path));
            }
            Notify::make(&self.machine.runtime_dir, path, adopt.identity.as_ref())
                .map_err(|e| {
                    say(&format!(
                        "cannot make the notify socket of launch {id} ({}) again: {e}; what it says is not heard",
                        adopt.output.unit
                    ));
                })
                .ok()
        });
        // Its place among the descriptors of `Launched` is kept.
        let is_asked = adopt
            .ready_fd
            .filter(|_| adopt.notify.is_none() || notify.is_some());
        let ready: Option<SharedFd> = is_asked.and_then(|number| {
            let found = || find_pipe(&living, &[number]).or_else(ended_pipe);
            ends.ready.or_else(|| found().map(Into::into))
        });
        let origin = if adopt.is_foreign {
            Origin::Foreign
        } else {
            Origin::Adopted
        };
        // While the main process lives it is what was proven once, for the sweep.
        let left = found.others;
        let has_left = exit.is_some() && !left.is_empty();
        if exit.is_none() {
            self.by_pid.insert(stand_in.pid(), id);
        }
        let held = Held {
            origin,
            invocation: adopt.invocation.clone(),
            role: adopt.role.clone(),
            leader: stand_in,
            main: stand_in,
            exit,
            told_left: if has_left { some_pids(&left) } else { Vec::new() },
            left,
            leaf: found.leaf,
            pipe,
            notify,
            ready,
            is_deaf,
            killing: None,
            is_released: false,
            counted: Counted::default(),
        };
        self.launches.insert(id, held);
        if has_left {
            self.leftover.insert(id);
            self.watch(id);
            self.look_soon();
        }
    }

    /// Says which processes bear the node's mark and are nobody's. They are left alone: the state does not know them.
    pub fn name_orphans(&mut self) {
        self.name_orphans_at = None;
        self.ends.clear();
        let Ok(picture) = Picture::take() else {
            return;
        };
        let ours = format!("{:016x}", self.seed);
        let mut held: Vec<Proc> = picture.below(self.own_pid, &[]);
        for launch in self.launches.values() {
            held.push(launch.main);
            held.extend(launch.leaf.iter().flat_map(Leaf::processes));
        }
        held.extend(self.sweep().into_values().flatten());
        let orphans: Vec<Proc> = picture
            .marked(|invocation, _| invocation.starts_with(&ours))
            .iter()
            .map(|stat| stat.process)
            .filter(|process| process.pid() != self.own_pid && !held.contains(process))
            .collect();
        if !orphans.is_empty() {
            say(&format!(
                "processes {:?} of an earlier ringriftd on this state live, and no unit in it has them: they are left alone; \
                 end them by hand if nobody needs them",
                some_pids(&orphans)
            ));
        }
    }
}

/// The main process of a launch whose answer was never heard: the leader of a session, which is not the child of
/// another one.
fn first_of(all: &[Proc], adopt: &Adopt) -> Option<Proc> {
    let is_first = |process: &&Proc| {
        let Ok(stat) = proc::stat(process.pid()) else {
            return false;
        };
        let is_below = all.iter().any(|other| other.pid() == stat.ppid);
        let has_mark = matches!(proc::birth_mark(process.pid()), BirthMark::Ours { invocation, role }
            if invocation == adopt.invocation && role == adopt.role);
        stat.session == process.pid() && !is_below && has_mark
    };
    all.iter()
        .filter(is_first)
        .min_by_key(|process| process.start())
        .copied()
}

/// The first of `numbers` that is a pipe of ringriftd's in one of these processes.
fn find_pipe(processes: &[Proc], numbers: &[u32]) -> Option<OwnedFd> {
    processes
        .iter()
        .flat_map(|process| numbers.iter().map(|number| (process.pid(), *number)))
        .find_map(|(pid, number)| proc::open_pipe(pid, number))
}

/// The pipe that has both streams of these processes.
fn both_streams(processes: &[Proc]) -> Vec<End> {
    let found = find_pipe(processes, &[1, 2]);
    let both = found.map(|fd| End {
        fd: fd.into(),
        stream: None,
    });
    both.into_iter().collect()
}

/// The pipes that these processes have for a stream each, whatever they did with their numbers: that of stderr is marked
/// (`launch`). Where no mark is left, since programs may take it away, the numbers are believed.
fn each_stream(processes: &[Proc]) -> Vec<End> {
    // By inode: the pipe, whether it is marked, and whether somebody has it as stdout.
    let mut found: BTreeMap<u64, (OwnedFd, bool, bool)> = BTreeMap::new();
    for (process, number) in processes.iter().flat_map(|p| [(p, 1), (p, 2)]) {
        let Some((fd, is_marked)) = proc::open_marked_pipe(process.pid(), number) else {
            continue;
        };
        let Ok(stat) = fstat(&fd) else { continue };
        let known = found.entry(stat.st_ino).or_insert((fd, false, false));
        known.1 |= is_marked;
        known.2 |= number == 1;
    }
    let has_mark = found.values().any(|(_, is_marked, _)| *is_marked);
    let mut ends: Vec<End> = found
        .into_values()
        .map(|(fd, is_marked, is_out)| End {
            fd: fd.into(),
            stream: Some(match if has_mark { !is_marked } else { is_out } {
                true => Stream::Stdout,
                false => Stream::Stderr,
            }),
        })
        .collect();
    ends.sort_by_key(|end| end.stream);
    ends.dedup_by_key(|end| end.stream);
    ends
}

/// The read end of a pipe that nobody will write to.
fn ended_pipe() -> Option<OwnedFd> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .ok()
        .map(|(read, _)| read)
}

/// Moves `main` and what it started. Whoever is started meanwhile is found in the next round.
fn move_in(leaf: &Leaf, main: Proc) -> std::io::Result<()> {
    leaf.take_in(main.pid())?;
    if leaf.proof(main.pid()) != Some(main) {
        return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
    }
    loop {
        let below = Picture::take()?.below(main.pid(), &[]);
        let inside = leaf.processes();
        let mut moved = 0;
        for process in below.iter().filter(|process| !inside.contains(process)) {
            moved += usize::from(leaf.take_in(process.pid()).is_ok());
        }
        if moved == 0 {
            return Ok(());
        }
    }
}
