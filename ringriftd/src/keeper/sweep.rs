//! Who belongs to which launch where there is no cgroup. A picture of /proc, and proofs in the order of their
//! weight: what an earlier picture proved, the marks in the environment that the process was started with, the
//! session or group of the launch's main process, and at last the parent's launch. Only descendants of the keeper
//! are looked at; orphans among them are its children, since it is their subreaper.
//!
//! A process in the middle of execve(2), or on its way out, shows an empty environment for a moment: an orphan like that
//! belongs to somebody, and nobody knows to whom ([`Owners::doubtful`]). Until it shows more, no launch is called empty.
//!
//! What it cannot prove: a process that took a new session, emptied its environment and lost its parent between two
//! pictures. It is still killed at the keeper's end ([`Picture::below`]).

use std::collections::{BTreeMap, BTreeSet};

use super::proc::{self, BirthMark, Stat};
use super::types::Proc;
use crate::ids::LaunchId;

/// Where the processes of a launch are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Below the keeper.
    Below,
    /// On the whole machine too: another keeper started it, and its orphans have another parent.
    Everywhere,
    /// On the whole machine too, but only what is known and what that started: neither mark nor session are its own.
    ByParent,
}

/// What is known of one launch.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// Which.
    pub id: LaunchId,
    /// RINGRIFT_INVOCATION_ID of its processes.
    pub invocation: &'a str,
    /// RINGRIFT_ROLE of its processes.
    pub role: &'a str,
    /// Its first process, a session leader.
    pub leader: Proc,
    /// Its main process, when that is another one by now.
    pub main: Proc,
    /// What an earlier picture proved.
    pub known: &'a [Proc],
    /// Where they are looked for.
    pub reach: Reach,
}

/// What a picture proves.
#[derive(Debug, Default)]
pub struct Owners {
    /// The living processes of each launch; one without any is absent. Parents come before their children.
    pub found: BTreeMap<LaunchId, Vec<Proc>>,
    /// Living orphans without an owner that show no environment at all.
    pub doubtful: Vec<Proc>,
}

/// Every process of the machine at (about) one moment.
#[derive(Debug)]
pub struct Picture {
    all: BTreeMap<i32, Stat>,
}

impl Picture {
    /// Reads /proc once. Processes that vanish meanwhile are left out.
    pub fn take() -> std::io::Result<Self> {
        let all = proc::pids()?
            .into_iter()
            .filter_map(|pid| Some((pid, proc::stat(pid).ok()?)))
            .collect();
        Ok(Self { all })
    }

    /// Children of `top` that are dead and not yet reaped. Without one, no descendant is missing: whoever was made
    /// while /proc was read has an ancestor that was there before, and of those the one whose parent is `top` cannot
    /// vanish, since only `top` reaps it and `top` is reading this.
    pub fn dead_children(&self, top: i32) -> impl Iterator<Item = i32> {
        let is_dead_child = move |stat: &&Stat| stat.ppid == top && stat.is_dead();
        self.all
            .values()
            .filter(is_dead_child)
            .map(|stat| stat.process.pid())
    }

    /// The living descendants of `top`, without `except` and theirs.
    pub fn below(&self, top: i32, except: &[i32]) -> Vec<Proc> {
        self.below_stats(top, except)
            .into_iter()
            .filter(|s| !s.is_dead())
            .map(|s| s.process)
            .collect()
    }

    /// Every process, but `except` and theirs. The machine's first process is no [`Proc`] and not among them; who has no
    /// parent here, or that one, comes first.
    fn everybody(&self, except: &[i32]) -> Vec<&Stat> {
        self.below_each([0, 1].into_iter().filter(|top| !except.contains(top)), except)
    }

    fn below_stats(&self, top: i32, except: &[i32]) -> Vec<&Stat> {
        self.below_each(std::iter::once(top), except)
    }

    fn below_each(&self, tops: impl Iterator<Item = i32>, except: &[i32]) -> Vec<&Stat> {
        let mut children: BTreeMap<i32, Vec<&Stat>> = BTreeMap::new();
        for stat in self.all.values() {
            children.entry(stat.ppid).or_default().push(stat);
        }
        let mut found = Vec::new();
        let mut open: Vec<i32> = tops.collect();
        let mut seen: BTreeSet<i32> = open.iter().copied().collect();
        while let Some(parent) = open.pop() {
            for child in children.get(&parent).into_iter().flatten() {
                let pid = child.process.pid();
                if !except.contains(&pid) && seen.insert(pid) {
                    found.push(*child);
                    open.push(pid);
                }
            }
        }
        found
    }

    /// Whose the living descendants of `top` are, without `except` and theirs; and whose the other processes of the machine
    /// are, as far as a launch reaches there.
    pub fn owners(&self, top: i32, except: &[i32], claims: &[Claim<'_>]) -> Owners {
        let mut owners = Owners::default();
        let below = self.below_stats(top, except);
        Proofs::of(self, claims.iter().filter(|c| c.reach != Reach::ByParent), claims).judge(
            below,
            Some(top),
            &mut owners,
        );
        let far = |c: &&Claim<'_>| c.reach != Reach::Below;
        if claims.iter().any(|c| far(&c)) {
            let far: Vec<Claim<'_>> = claims.iter().filter(far).cloned().collect();
            // A session outlives its leader, whose number may then lead another one: below the keeper nobody else's could,
            // here it must be there.
            let led = far.iter().filter(|c| {
                c.reach == Reach::Everywhere
                    && self
                        .all
                        .get(&c.leader.pid())
                        .is_some_and(|now| now.process == c.leader)
            });
            let mut proofs = Proofs::of(self, led, &far);
            proofs.by_mark = far
                .iter()
                .filter(|c| c.reach == Reach::Everywhere)
                .map(|c| ((c.invocation, c.role), c.id))
                .collect();
            proofs.judge(self.everybody(&[top]), None, &mut owners);
        }
        owners
    }

    /// The other living processes of the session and the group that `leader` leads, if it does.
    pub fn in_session_of(&self, leader: Proc) -> Vec<Proc> {
        let pid = leader.pid();
        self.all
            .values()
            .filter(|stat| stat.process != leader && !stat.is_dead())
            .filter(|stat| stat.session == pid || stat.pgrp == pid)
            .map(|stat| stat.process)
            .collect()
    }

    /// Every living process. Parents come before their children.
    pub fn living(&self) -> impl Iterator<Item = &Stat> {
        self.everybody(&[]).into_iter().filter(|stat| !stat.is_dead())
    }

    /// Every living process that bears a mark that is meant. Parents come before their children.
    pub fn marked(&self, is_meant: impl Fn(&str, &str) -> bool) -> Vec<&Stat> {
        self.living()
            .filter(|stat| {
                matches!(proc::birth_mark(stat.process.pid()),
                    BirthMark::Ours { invocation, role } if is_meant(&invocation, &role))
            })
            .collect()
    }
}

/// What is proof of belonging to a launch.
struct Proofs<'a> {
    by_known: BTreeMap<Proc, LaunchId>,
    by_mark: BTreeMap<(&'a str, &'a str), LaunchId>,
    by_leader: BTreeMap<i32, LaunchId>,
}

impl<'a> Proofs<'a> {
    /// With the sessions and marks of `led`.
    fn of<'c>(
        picture: &Picture,
        led: impl Iterator<Item = &'c Claim<'a>> + Clone,
        claims: &[Claim<'a>],
    ) -> Self
    where
        'a: 'c,
    {
        Self {
            by_known: claims
                .iter()
                .flat_map(|c| {
                    c.known
                        .iter()
                        .chain([&c.leader, &c.main])
                        .map(|process| (*process, c.id))
                })
                .collect(),
            by_mark: led.clone().map(|c| ((c.invocation, c.role), c.id)).collect(),
            // Once the leader has gone and nobody is left in its session, its number may lead another session.
            by_leader: led
                .filter(|c| {
                    picture
                        .all
                        .get(&c.leader.pid())
                        .is_none_or(|now| now.process == c.leader)
                })
                .map(|c| (c.leader.pid(), c.id))
                .collect(),
        }
    }

    /// Adds the owners of these processes, in which parents come before their children. An orphan without any environment
    /// is a child of `orphans`.
    fn judge(&self, stats: Vec<&Stat>, orphans: Option<i32>, owners: &mut Owners) {
        let mut owner: BTreeMap<i32, LaunchId> = BTreeMap::new();
        for stat in stats {
            if stat.is_dead() {
                continue;
            }
            let pid = stat.process.pid();
            let mut is_bare = false;
            let marked = || match proc::birth_mark(pid) {
                BirthMark::Ours { invocation, role } => {
                    self.by_mark.get(&(invocation.as_str(), role.as_str())).copied()
                }
                BirthMark::Empty => {
                    is_bare = true;
                    None
                }
                BirthMark::Other => None,
            };
            let id = self
                .by_known
                .get(&stat.process)
                .copied()
                .or_else(marked)
                .or_else(|| self.by_leader.get(&stat.session).copied())
                .or_else(|| self.by_leader.get(&stat.pgrp).copied())
                .or_else(|| owner.get(&stat.ppid).copied());
            if let Some(id) = id {
                owner.insert(pid, id);
                owners.found.entry(id).or_default().push(stat.process);
            } else if is_bare && Some(stat.ppid) == orphans {
                owners.doubtful.push(stat.process);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Invocation;

    fn process(pid: i32) -> Proc {
        Proc::new(pid, 100).unwrap()
    }

    /// Numbers far above pid_max, so that no environment of a real process is read.
    fn stat(pid: i32, ppid: i32, session: i32) -> (i32, Stat) {
        let stat = Stat {
            process: process(pid),
            comm: b"x".to_vec(),
            state: b'S',
            ppid,
            pgrp: session,
            session,
            exiting: false,
            is_kernel: false,
        };
        (pid, stat)
    }

    fn claim(id: u64, leader: Proc, known: &[Proc]) -> Claim<'_> {
        Claim {
            id: LaunchId::main(Invocation(id)),
            invocation: "i",
            role: "r",
            leader,
            main: leader,
            known,
            reach: Reach::Below,
        }
    }

    const TOP: i32 = 900_000_000;

    fn pids(picture: &Picture, claims: &[Claim<'_>], id: u64) -> Vec<i32> {
        let mut owners = picture.owners(TOP, &[TOP + 9], claims);
        let procs = owners
            .found
            .remove(&LaunchId::main(Invocation(id)))
            .unwrap_or_default();
        procs.into_iter().map(Proc::pid).collect()
    }

    #[test]
    fn session_group_and_ancestry_prove_and_strangers_do_not_belong() {
        let picture = Picture {
            all: BTreeMap::from([
                stat(TOP + 1, TOP, TOP + 1),
                stat(TOP + 2, TOP + 1, TOP + 2),
                stat(TOP + 3, TOP, TOP + 1),
                stat(TOP + 4, TOP, TOP + 4),
                stat(TOP + 5, 1, TOP + 1),
                stat(TOP + 10, TOP + 9, TOP + 1),
            ]),
        };
        let claims = [claim(1, process(TOP + 1), &[])];
        let mut found = pids(&picture, &claims, 1);
        found.sort_unstable();
        assert_eq!(found, [TOP + 1, TOP + 2, TOP + 3]);
    }

    #[test]
    fn a_leaders_number_given_to_another_process_proves_nothing() {
        let picture = Picture {
            all: BTreeMap::from([stat(TOP + 1, TOP, TOP + 1)]),
        };
        let older = Proc::new(TOP + 1, 50).unwrap();
        assert_eq!(pids(&picture, &[claim(1, older, &[])], 1), Vec::<i32>::new());
    }

    #[test]
    fn what_was_proven_once_stays_proven_after_a_new_session() {
        let picture = Picture {
            all: BTreeMap::from([stat(TOP + 7, TOP, TOP + 7)]),
        };
        let leader = process(TOP + 1);
        let known = [process(TOP + 7)];
        assert_eq!(pids(&picture, &[claim(1, leader, &[])], 1), Vec::<i32>::new());
        assert_eq!(pids(&picture, &[claim(1, leader, &known)], 1), [TOP + 7]);
    }
}
