//! Steps of a child between clone(2) and execve(2), under the rules of `child`: raw calls only, nothing is allocated,
//! nothing can panic. Each returns what the kernel said.

use std::ffi::{CStr, c_void};

use super::wire::Identity;

/// errno(3).
///
/// # Safety
/// The parent, which shares it, must sleep.
pub unsafe fn errno() -> i32 {
    // SAFETY: the thread's errno; the parent, which shares it, sleeps.
    unsafe { *libc::__errno_location() }
}

/// Writes /proc/self/oom_score_adj: negative when it may not, with errno(3).
///
/// # Safety
/// Only in the child.
pub unsafe fn write_oom(value: &CStr) -> libc::c_long {
    let path = c"/proc/self/oom_score_adj";
    // SAFETY: C strings that live for the calls; the descriptor is our own.
    unsafe {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0);
        if fd < 0 {
            return fd;
        }
        let wrote = libc::syscall(libc::SYS_write, fd, value.as_ptr(), value.count_bytes());
        let error = errno();
        libc::syscall(libc::SYS_close, fd);
        *libc::__errno_location() = error;
        wrote
    }
}

/// Groups, then group, then user (the other way round the rights for it would be gone); a user who is not root also
/// loses every capability that execve(2) could give back.
///
/// # Safety
/// Only in the child.
pub unsafe fn become_user(identity: &Identity) -> Result<(), i32> {
    // SAFETY: calls with integers, with the list of groups and with locals of the kernel's layout.
    unsafe {
        let is_root = identity.uid == 0;
        if !is_root {
            let mut cap = 0usize;
            while libc::syscall(
                libc::SYS_prctl,
                libc::PR_CAPBSET_READ,
                cap,
                0usize,
                0usize,
                0usize,
            ) >= 0
            {
                if libc::syscall(
                    libc::SYS_prctl,
                    libc::PR_CAPBSET_DROP,
                    cap,
                    0usize,
                    0usize,
                    0usize,
                ) < 0
                {
                    return Err(errno());
                }
                cap += 1;
            }
            let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as usize;
            if libc::syscall(
                libc::SYS_prctl,
                libc::PR_CAP_AMBIENT,
                clear,
                0usize,
                0usize,
                0usize,
            ) < 0
            {
                return Err(errno());
            }
        }
        let groups = identity.groups.as_ptr();
        if libc::syscall(libc::SYS_setgroups, identity.groups.len(), groups) < 0 {
            return Err(errno());
        }
        let (uid, gid) = (identity.uid, identity.gid);
        if libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0 {
            return Err(errno());
        }
        if libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0 {
            return Err(errno());
        }
        if !is_root {
            // _LINUX_CAPABILITY_VERSION_3; two times effective, permitted, inheritable: nothing.
            let header: [u32; 2] = [0x2008_0522, 0];
            let none: [u32; 6] = [0; 6];
            if libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) < 0 {
                return Err(errno());
            }
        }
    }
    Ok(())
}

/// Every signal to its default (execve(2) keeps ignored ones ignored), and none blocked. Raw, since the C library
/// refuses its own two real-time signals.
///
/// # Safety
/// Only in the child.
pub unsafe fn reset_signals() {
    // The kernel's struct sigaction: handler, flags, restorer, mask; all zero is SIG_DFL.
    let default: [usize; 4] = [0; 4];
    let none: u64 = 0;
    let nowhere = std::ptr::null_mut::<c_void>();
    // SAFETY: pointers to locals of the kernel's layout (64-bit), with the size of its signal set.
    unsafe {
        let mut signal = 1;
        while signal <= 64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nowhere, 8usize);
            signal += 1;
        }
        let none = &raw const none;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, none, nowhere, 8usize);
    }
}
