//! From clone(2) to execve(2). The child shares the keeper's memory and the keeper sleeps meanwhile (CLONE_VM and
//! CLONE_VFORK: 30 µs however large the keeper is), so the child may neither allocate nor panic nor touch a lock:
//! all it needs is prepared before, and it makes raw calls only. What fails there stands in [`Verdict`], in the
//! shared memory, when the keeper wakes.
//!
//! Read first: [`ChildSpec`], then [`run`] for the order of things.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

use super::birth;
use super::child_steps::{become_user, errno, reset_signals, write_oom};
use super::types::Proc;
use super::wire::{Identity, Stage};
use super::{proc, signal, sys};
use crate::limits;

/// Everything of a process to be, ready for the child.
#[derive(Debug)]
pub struct ChildSpec {
    /// A path with a slash; `None` joins the cgroup and exits with 0, as the self-test of the containment.
    pub program: Option<CString>,
    /// Its arguments, the first one included.
    pub argv: Vec<CString>,
    /// Its environment.
    pub env: Vec<CString>,
    /// Where; the keeper's own folder when absent.
    pub working_dir: Option<CString>,
    /// How it comes into its leaf; absent: it has none.
    pub way_in: Option<WayIn>,
    /// For /proc/self/oom_score_adj: the value, and another one for when that may not be written.
    pub oom_score_adj: Option<(CString, Option<CString>)>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// Number, soft and hard limit, in this order.
    pub rlimits: Vec<(u32, libc::rlimit64)>,
    /// 0 to 0o777.
    pub umask: u32,
    /// Whose process; the keeper's own when absent.
    pub identity: Option<Identity>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// It is sent SIGCONT when the keeper dies: the keeper may have made it stand still.
    pub wakes_at_death: bool,
    /// Descriptors of the keeper, and where the child has them. All others are closed.
    pub fds: Vec<(RawFd, RawFd)>,
    /// More variables of its environment: its own pid.
    pub own_pid: Vec<PidVariable>,
}

/// How a child comes into its leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayIn {
    /// It is born there: the leaf's folder.
    Birth(RawFd),
    /// It writes itself into `cgroup.procs`.
    Door(RawFd),
}

/// `NAME=` and room for a pid, which the child writes in when it knows its own. Left-aligned and ended by a NUL: who parses
/// it may take leading zeros for another base.
#[derive(Debug)]
pub struct PidVariable {
    text: Vec<AtomicU8>,
    digits_at: usize,
}

/// The longest pid in digits (PID_MAX_LIMIT has 7; an int 10), and a NUL.
const PID_ROOM: usize = 11;

impl PidVariable {
    /// `name` ends with `=`.
    pub fn new(name: &str) -> Self {
        let room = std::iter::repeat_n(0, PID_ROOM);
        Self {
            text: name.bytes().chain(room).map(AtomicU8::new).collect(),
            digits_at: name.len(),
        }
    }

    /// Its name, without `=`.
    pub fn name(&self) -> String {
        let name = self.text.iter().take(self.digits_at.saturating_sub(1));
        name.map(|byte| char::from(byte.load(Ordering::Relaxed)))
            .collect()
    }

    fn as_ptr(&self) -> *const c_char {
        self.text.as_ptr().cast()
    }

    /// Allocates nothing and cannot panic: the child calls it.
    fn write(&self, pid: c_long) {
        let rest = pid.unsigned_abs();
        let mut count = 1;
        let mut power: u64 = 1;
        while rest / power >= 10 && count < PID_ROOM - 1 {
            power *= 10;
            count += 1;
        }
        for slot in self.text.iter().skip(self.digits_at).take(count) {
            slot.store(b'0' + (rest / power % 10) as u8, Ordering::Relaxed);
            power = (power / 10).max(1);
        }
    }
}

/// Why there is no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Which step.
    pub stage: Stage,
    /// errno(3), or 0.
    pub errno: i32,
}

impl Failure {
    /// The step and what the kernel said.
    pub fn new(stage: Stage, e: &std::io::Error) -> Self {
        Self {
            stage,
            errno: e.raw_os_error().unwrap_or(0),
        }
    }
}

/// Where children run until they execute something. One for all: they never overlap, since the parent sleeps.
#[derive(Debug)]
pub struct Stack {
    base: *mut c_void,
}

const STACK_BYTES: usize = 256 * 1024;
const GUARD_BYTES: usize = 4096;

impl Stack {
    /// Maps one, with a page below it that faults, so that an overflow hits nothing of the keeper.
    pub fn map() -> std::io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                STACK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let stack = Self { base };
        // SAFETY: the first page of our own mapping.
        if unsafe { libc::mprotect(base, GUARD_BYTES, libc::PROT_NONE) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(stack)
    }

    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(STACK_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no child runs on it: each has left it before `spawn` returned.
        unsafe { libc::munmap(self.base, STACK_BYTES) };
    }
}

struct Verdict {
    has_begun: AtomicBool,
    stage: AtomicI32,
    errno: AtomicI32,
}

struct Prepared<'a> {
    spec: &'a ChildSpec,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    marker: &'a CStr,
    high: RawFd,
    /// It begins with the keeper's own table of descriptors, and takes the low part of it along.
    shares_fds: bool,
    /// `spec.fds` again, at descriptors above all targets: the child fills it.
    moved: Vec<AtomicI32>,
    verdict: Verdict,
}

/// The steps that can fail in the child, by their number in [`Verdict`].
const STAGES: [Stage; 7] = [
    Stage::Session,
    Stage::JoinCgroup,
    Stage::Limits,
    Stage::Identity,
    Stage::WorkingDir,
    Stage::Stdio,
    Stage::Exec,
];

/// Starts a process, and returns when it runs its program (or has already ended: then it stays to be reaped), or
/// when it cannot: then nothing of it is left. `marker` (at most 15 bytes) is its name until execve(2), by which a
/// process that was killed before is told from one that ran and ended.
pub fn spawn(stack: &mut Stack, spec: &ChildSpec, marker: &CStr) -> Result<Proc, Failure> {
    let pointers = |texts: &[CString], more: &[PidVariable]| {
        texts
            .iter()
            .map(|t| t.as_ptr())
            .chain(more.iter().map(PidVariable::as_ptr))
            .chain([std::ptr::null()])
            .collect::<Vec<*const c_char>>()
    };
    let way_in = spec.way_in.map(|(WayIn::Birth(fd) | WayIn::Door(fd))| fd);
    let mut needed = spec.fds.iter().map(|(source, _)| *source).chain(way_in);
    let prepared = Prepared {
        spec,
        shares_fds: needed.all(|fd| fd < limits::LOW_FDS),
        argv: pointers(&spec.argv, &[]),
        env: pointers(&spec.env, &spec.own_pid),
        marker,
        high: spec
            .fds
            .iter()
            .map(|(_, target)| *target)
            .max()
            .unwrap_or(2)
            .saturating_add(1),
        moved: spec.fds.iter().map(|_| AtomicI32::new(-1)).collect(),
        verdict: Verdict {
            has_begun: AtomicBool::new(false),
            stage: AtomicI32::new(0),
            errno: AtomicI32::new(0),
        },
    };
    let pid = clone(stack, &prepared).map_err(|e| Failure::new(Stage::Fork, &e))?;
    if !prepared.verdict.has_begun.load(Ordering::SeqCst) {
        let _ = sys::reap(pid);
        let stage = match spec.way_in {
            // As good as if there were none: another way in may be tried.
            Some(WayIn::Birth(_)) => Stage::Fork,
            Some(WayIn::Door(_)) | None => Stage::DiedBeforeExec,
        };
        return Err(Failure { stage, errno: 0 });
    }
    let said = prepared.verdict.stage.load(Ordering::SeqCst);
    if let Some(stage) = usize::try_from(said - 1).ok().and_then(|n| STAGES.get(n)) {
        let _ = sys::reap(pid);
        return Err(Failure {
            stage: *stage,
            errno: prepared.verdict.errno.load(Ordering::SeqCst),
        });
    }
    let stat = match proc::stat(pid) {
        Ok(stat) => stat,
        Err(e) => {
            // Without a start time it could never be signalled: it must not stay. It is our own unreaped child, so
            // the number is still its. Not by a pidfd: where descriptors have run out, as they may have for /proc, there
            // would be none, and the wait for a child that was not killed would be one for as long as it runs.
            signal::end_unreaped(pid);
            let _ = sys::reap(pid);
            // Not a failed fork: its program may have run, so that no other way to start it may be tried.
            return Err(Failure::new(Stage::DiedBeforeExec, &e));
        }
    };
    // The parent wakes while a killed child is still on its way out, hence "exiting" besides "dead".
    if stat.comm == marker.to_bytes() && (stat.is_dead() || stat.exiting) && spec.program.is_some() {
        let _ = sys::reap(pid);
        return Err(Failure {
            stage: Stage::DiedBeforeExec,
            errno: 0,
        });
    }
    Ok(stat.process)
}

fn clone(stack: &mut Stack, prepared: &Prepared<'_>) -> std::io::Result<i32> {
    let argument = std::ptr::from_ref(prepared).cast_mut().cast::<c_void>();
    // SAFETY: all-zero signal sets are valid; both are ours. Every signal is blocked around the call, so that no
    // handler runs in the child on shared memory.
    let old = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        old
    };
    // A copy of the table would cost as much as the keeper holds descriptors: with ten thousand units, a millisecond each time.
    let files = if prepared.shares_fds { libc::CLONE_FILES } else { 0 };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | files;
    // SAFETY: the stack is a live mapping that nobody else uses, since this thread is the only one that spawns and
    // sleeps until the child executes or ends (CLONE_VFORK); `prepared` outlives that sleep. A shared table of descriptors
    // is left before anything is done to it.
    let pid = unsafe {
        match prepared.spec.way_in {
            Some(WayIn::Birth(group)) => {
                birth::clone_into(group, flags, stack.base, STACK_BYTES, enter, argument)
            }
            Some(WayIn::Door(_)) | None => {
                let flags = flags | libc::SIGCHLD;
                match libc::clone(enter, stack.top(), flags, argument) {
                    pid if pid < 0 => Err(std::io::Error::last_os_error()),
                    pid => Ok(pid),
                }
            }
        }
    };
    // SAFETY: sets back the mask that was read above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
    pid
}

extern "C" fn enter(argument: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a `Prepared` that lives until this child executes or ends.
    let prepared = unsafe { &*argument.cast::<Prepared<'_>>() };
    prepared.verdict.has_begun.store(true, Ordering::SeqCst);
    // SAFETY: this is the child, alone on its stack, with the parent asleep.
    let (stage, errno) = unsafe { run(prepared) };
    prepared.verdict.errno.store(errno, Ordering::SeqCst);
    prepared.verdict.stage.store(stage, Ordering::SeqCst);
    // SAFETY: ends this process only, without any handlers of the shared memory.
    unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    127
}

/// A raw call, within `unsafe`; on failure the step and errno go to the parent.
macro_rules! must {
    ($stage:expr, $call:expr) => {
        if libc::c_long::from($call) < 0 {
            return ($stage, errno());
        }
    };
}

// Their numbers in the verdict: one more than their place in STAGES.
const SESSION: i32 = 1;
const JOIN: i32 = 2;
const LIMITS: i32 = 3;
const IDENTITY: i32 = 4;
const WORKING_DIR: i32 = 5;
const STDIO: i32 = 6;
const EXEC: i32 = 7;

/// keyctl(2): another user's process does not possess the keys of ringriftd's own session (session-keyring(7)).
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// The child's whole life. Returns only with what failed.
///
/// The order: the cgroup before anything that costs; descriptors before the limits that could forbid them; limits
/// before the identity that could not raise them; the working folder after it, because it must be reachable for the
/// user; signals last, because from there on they may end it.
unsafe fn run(p: &Prepared<'_>) -> (i32, i32) {
    let spec = p.spec;
    // SAFETY: raw calls with integers, with C strings and arrays that `Prepared` keeps alive, and with locals.
    unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_SET_NAME,
            p.marker.as_ptr(),
            0usize,
            0usize,
            0usize,
        );
        if p.shares_fds {
            // A table of its own with the low ones, and none of the others (Linux 5.9).
            let low = limits::LOW_FDS as libc::c_uint;
            must!(
                STDIO,
                libc::syscall(libc::SYS_close_range, low, u32::MAX, libc::CLOSE_RANGE_UNSHARE)
            );
        }
        must!(SESSION, libc::syscall(libc::SYS_setsid));
        if spec.wakes_at_death {
            must!(
                SESSION,
                libc::syscall(
                    libc::SYS_prctl,
                    libc::PR_SET_PDEATHSIG,
                    libc::SIGCONT,
                    0usize,
                    0usize,
                    0usize
                )
            );
        }
        if let Some(WayIn::Door(door)) = spec.way_in {
            must!(JOIN, libc::syscall(libc::SYS_write, door, c"0".as_ptr(), 1usize));
        }
        let Some(program) = &spec.program else {
            libc::syscall(libc::SYS_exit_group, 0);
            return (0, 0);
        };
        if let Some((value, other)) = &spec.oom_score_adj
            && write_oom(value) < 0
        {
            let error = errno();
            match other {
                Some(other) if write_oom(other) >= 0 => {}
                _ => return (LIMITS, error),
            }
        }
        if let Some(nice) = spec.nice {
            must!(
                LIMITS,
                libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice)
            );
        }
        if let Err(error) = arrange_fds(p) {
            return (STDIO, error);
        }
        for (resource, limit) in &spec.rlimits {
            let none = std::ptr::null_mut::<libc::rlimit64>();
            let limit = std::ptr::from_ref(limit);
            must!(
                LIMITS,
                libc::syscall(libc::SYS_prlimit64, 0, *resource, limit, none)
            );
        }
        libc::syscall(libc::SYS_umask, spec.umask);
        if let Some(identity) = &spec.identity
            && let Err(error) = become_user(identity)
        {
            return (IDENTITY, error);
        }
        if spec.identity.is_some() && libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) < 0
        {
            // Without keys in the kernel, or where a container forbids them, there is no keyring to share either.
            let error = errno();
            if !matches!(error, libc::ENOSYS | libc::EPERM) {
                return (IDENTITY, error);
            }
        }
        if spec.no_new_privs {
            must!(
                IDENTITY,
                libc::syscall(
                    libc::SYS_prctl,
                    libc::PR_SET_NO_NEW_PRIVS,
                    1usize,
                    0usize,
                    0usize,
                    0usize
                )
            );
        }
        if let Some(folder) = &spec.working_dir {
            must!(WORKING_DIR, libc::syscall(libc::SYS_chdir, folder.as_ptr()));
        }
        for variable in &spec.own_pid {
            variable.write(libc::syscall(libc::SYS_getpid));
        }
        reset_signals();
        libc::syscall(
            libc::SYS_execve,
            program.as_ptr(),
            p.argv.as_ptr(),
            p.env.as_ptr(),
        );
        (EXEC, errno())
    }
}

/// Puts `spec.fds` in their places and marks all others to be closed by execve(2). They are moved above all targets
/// first, since one's target may be another's source.
unsafe fn arrange_fds(p: &Prepared<'_>) -> Result<(), i32> {
    // SAFETY: calls with integers; this table of descriptors is the child's own.
    unsafe {
        for ((source, _), slot) in p.spec.fds.iter().zip(&p.moved) {
            let fd = libc::syscall(libc::SYS_fcntl, *source, libc::F_DUPFD_CLOEXEC, p.high);
            if fd < 0 {
                return Err(errno());
            }
            slot.store(fd as i32, Ordering::Relaxed);
        }
        if libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            return Err(errno());
        }
        for ((_, target), slot) in p.spec.fds.iter().zip(&p.moved) {
            if libc::syscall(libc::SYS_dup3, slot.load(Ordering::Relaxed), *target, 0) < 0 {
                return Err(errno());
            }
        }
    }
    Ok(())
}
