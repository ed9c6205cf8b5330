//! clone3(2) for a child that shares the keeper's memory and is born in its leaf (CLONE_INTO_CGROUP, Linux 5.7).
//!
//! Moving a process into a group instead, by a write to `cgroup.procs`, waits until every CPU has been seen outside the
//! kernel's critical sections: 10 to 40 ms for each restart, measured on two CPUs with Linux 6.18; being born there costs
//! nothing. The C library has no call for it that takes a stack, hence the few instructions here; they are written for
//! x86-64, and [`IS_HERE`] says whether there are any. Elsewhere, and where a container forbids the call, children move.
//!
//! Linux 6.18 compares the *spawner's* count of `cgroup.kill` with the leaf's, and kills such a child before its first
//! instruction when they differ: when this keeper's own group was emptied by `cgroup.kill` before the keeper came into
//! it. The keeper tries it out when it starts, and whoever uses this sees by himself whether the child has begun.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::RawFd;

/// What a child runs first. It must never return to who called it.
pub type Enter = extern "C" fn(*mut c_void) -> c_int;

/// There are instructions for this processor.
pub const IS_HERE: bool = cfg!(target_arch = "x86_64");

/// `struct clone_args` of linux/sched.h, in its third size (Linux 5.7).
#[repr(C, align(8))]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// CLONE_INTO_CGROUP, which does not fit into the `c_int` of libc's other flags.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts a child with these flags of clone(2), which say that it shares this process's memory and that the caller sleeps
/// until it has executed a program or ended, in the group whose folder `group` is. The child runs `enter(argument)` on the stack of `size` bytes from
/// `base`. Returns its pid.
///
/// # Safety
/// `flags` must have CLONE_VM and CLONE_VFORK. The stack must be mapped, a multiple of 16 bytes, and used by nobody else until this returns; `argument` must live as
/// long; `enter` must be fit to run in shared memory with this thread asleep; no signal handler may run meanwhile.
pub unsafe fn clone_into(
    group: RawFd,
    flags: c_int,
    base: *mut c_void,
    size: usize,
    enter: Enter,
    argument: *mut c_void,
) -> io::Result<i32> {
    let number = |n: c_int| u64::from(n.unsigned_abs());
    let args = CloneArgs {
        flags: number(flags) | CLONE_INTO_CGROUP,
        exit_signal: number(libc::SIGCHLD),
        stack: base.addr() as u64,
        stack_size: size as u64,
        cgroup: number(group),
        ..CloneArgs::default()
    };
    // SAFETY: the caller's promises, passed on.
    let result = unsafe { clone3(&raw const args, enter, argument) };
    if result < 0 {
        let error = i32::try_from(-result).unwrap_or(libc::EINVAL);
        return Err(io::Error::from_raw_os_error(error));
    }
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: *const CloneArgs, enter: Enter, argument: *mut c_void) -> i64 {
    let result: i64;
    // SAFETY: the parent's side is one system call that changes rax, rcx and r11 and reads `args`. The child comes back from
    // it with rax 0 on the stack that `args` names, whose top is aligned as the psABI wants it before a call, and never
    // comes to the code behind.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "mov edi, 127",
            "mov eax, {exit_group}",
            "syscall",
            "ud2",
            "2:",
            exit_group = const libc::SYS_exit_group,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") enter,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3(_: *const CloneArgs, _: Enter, _: *mut c_void) -> i64 {
    -i64::from(libc::ENOSYS)
}
