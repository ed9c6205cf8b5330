//! What the allocator keeps for itself (glibc's; another one is left as it is). A supervisor allocates most while it begins and
//! reads its files, and then lives for months with a small part of that.
#![cfg_attr(target_env = "gnu", allow(unsafe_code))] // two calls of the C library

/// One heap for all threads (mallopt(3), `M_ARENA_MAX`): each of its own would keep 100 KiB and more, for threads of which only one
/// ever has much to do. Called before there is a second thread.
pub fn share_between_threads() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes integers, and touches nothing but the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the pages back that nothing lies in any more (malloc_trim(3)): a few milliseconds for a heap of 100 MiB.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
