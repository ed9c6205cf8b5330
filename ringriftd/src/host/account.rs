//! Whose process a launch will be: users and groups looked up. What cannot be had is a failure, never somebody else.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User};

use crate::host::explain;
use crate::host::types::Fault;
use crate::keeper::wire::Identity;
use crate::spec::UnitSpec;

/// Whose process it will be.
pub(super) struct Account {
    pub(super) identity: Option<Identity>,
    pub(super) name: Option<String>,
    pub(super) home: String,
    pub(super) shell: String,
}

impl Account {
    /// As the unit says; blocks as long as the user directory does.
    pub(super) fn of(spec: &UnitSpec) -> Result<Self, Fault> {
        let exec = &spec.exec;
        let (uid, user) = match &exec.user {
            None => {
                let uid = Uid::effective();
                // Our own entry is for HOME and USER only: without one (a container) the unit runs all the same.
                (uid, User::from_uid(uid).unwrap_or(None))
            }
            Some(text) => find_user(text)?,
        };
        let gid = match (&exec.group, &user, &exec.user) {
            (Some(text), _, _) => find_group(text)?,
            (None, Some(user), Some(_)) => user.gid,
            (None, None, Some(text)) => {
                return Err(Fault::unit(format!(
                    "user {text} has no entry in the user directory, so no group is known: give `group`"
                )));
            }
            (None, _, None) => Gid::effective(),
        };
        let groups = match (&exec.supplementary_groups, &user, &exec.user) {
            (Some(names), _, _) => names
                .iter()
                .map(|text| find_group(text))
                .collect::<Result<Vec<Gid>, Fault>>()?,
            (None, Some(user), Some(_)) => member_of(user, gid)?,
            (None, None, Some(_)) => vec![gid],
            (None, _, None) => nix::unistd::getgroups().unwrap_or_default(),
        };
        let says_nothing = exec.user.is_none() && exec.group.is_none() && exec.supplementary_groups.is_none();
        let is_own =
            uid == Uid::effective() && gid == Gid::effective() && exec.supplementary_groups.is_none();
        let identity = if says_nothing || (is_own && !Uid::effective().is_root()) {
            // An ordinary user may not call setgroups(2), not even to stay who it is.
            None
        } else if Uid::effective().is_root() {
            Some(Identity {
                uid: uid.as_raw(),
                gid: gid.as_raw(),
                groups: groups.into_iter().map(Gid::as_raw).collect(),
            })
        } else {
            return Err(Fault::unit(format!(
                "cannot run as user {uid} with group {gid}: ringriftd runs as user {} and only root may change that",
                Uid::effective()
            )));
        };
        let text = |path: PathBuf, other: &str| match path.into_os_string().into_string() {
            Ok(text) if !text.is_empty() => text,
            _ => other.to_owned(),
        };
        Ok(match user {
            Some(user) => Self {
                identity,
                name: Some(user.name),
                home: text(user.dir, "/"),
                shell: text(user.shell, "/bin/sh"),
            },
            None => Self {
                identity,
                name: None,
                home: "/".to_owned(),
                shell: "/bin/sh".to_owned(),
            },
        })
    }
}

/// A number is one, whatever names exist; -1 is the kernel's word for "leave it as it is" (setresuid(2)).
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number
        .then(|| text.parse().ok())
        .flatten()
        .filter(|&n| n != u32::MAX)
}

fn find_user(text: &str) -> Result<(Uid, Option<User>), Fault> {
    if let Some(n) = number(text) {
        let uid = Uid::from_raw(n);
        let user = User::from_uid(uid).map_err(|e| lookup("user", text, e))?;
        return Ok((uid, user));
    }
    match User::from_name(text).map_err(|e| lookup("user", text, e))? {
        Some(user) => Ok((user.uid, Some(user))),
        None => Err(Fault::unit(format!(
            "there is no user {}: make it, or mend `user`",
            explain::shown(text.as_bytes())
        ))),
    }
}

fn find_group(text: &str) -> Result<Gid, Fault> {
    if let Some(n) = number(text) {
        return Ok(Gid::from_raw(n));
    }
    match Group::from_name(text).map_err(|e| lookup("group", text, e))? {
        Some(group) => Ok(group.gid),
        None => Err(Fault::unit(format!(
            "there is no group {}: make it, or mend `group` or `supplementary_groups`",
            explain::shown(text.as_bytes())
        ))),
    }
}

fn member_of(user: &User, gid: Gid) -> Result<Vec<Gid>, Fault> {
    let name = CString::new(user.name.as_bytes())
        .map_err(|_| Fault::unit("the user's name contains a NUL byte".to_owned()))?;
    nix::unistd::getgrouplist(&name, gid).map_err(|e| lookup("the groups of user", &user.name, e))
}

fn lookup(what: &str, text: &str, e: nix::errno::Errno) -> Fault {
    Fault {
        text: format!(
            "cannot look up {what} {}: {}",
            explain::shown(text.as_bytes()),
            explain::errno_text(e as i32)
        ),
        host: explain::is_host_fault(e as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_number_leave_out_the_kernels_minus_one() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("4294967294"), Some(4_294_967_294));
        assert_eq!(number("4294967295"), None);
        assert_eq!(number("+1"), None);
        assert_eq!(number(""), None);
    }
}
