//! A process's environment: its variables are gathered from all that has a say, in the order in which they lie over
//! each other, and templates are filled from them.
//!
//! It does not parse environment files ([`env_file`]), look users up, or choose and find the program
//! ([`crate::host::prepare`]). It keeps nothing: every launch gathers anew.
//! Reading environment files may block, so it belongs off the manager's loop ([`crate::host::prepare::Preparer`]).
//!
//! Read first: `Environment::of`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::engine::types::Role;
use crate::host::account::Account;
use crate::host::env_file::{self, EnvFileError};
use crate::host::types::{Fault, NodeContext, role_word};
use crate::spec::{Command, Piece, Runner, Template, UnitSpec};

/// Where programs without a slash are looked for, unless the unit says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// ringriftd's own environment as it is now; variables that are not UTF-8 cannot be passed on and are left out.
pub fn own_environment() -> BTreeMap<String, String> {
    let utf8 = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(utf8).collect()
}

/// What ringriftd itself says to the process. Nothing in a unit's files overrides it.
pub(super) fn own_variables(
    spec: &UnitSpec,
    role: Role,
    invocation: &str,
    notify: Option<&Path>,
) -> Vec<(&'static str, String)> {
    let mut own = vec![
        ("RINGRIFT_UNIT", spec.name.as_str().to_owned()),
        ("RINGRIFT_INVOCATION_ID", invocation.to_owned()),
        ("RINGRIFT_ROLE", role_word(role)),
        (
            "RINGRIFT_HEALTH_INTERVAL_USEC",
            spec.health_interval.as_micros().to_string(),
        ),
    ];
    if let Some(every) = spec.health.as_ref().and_then(|health| health.watchdog)
        && role == Role::Main
    {
        // WATCHDOG_PID beside it is the keeper's to add: the pid is not known before.
        own.push(("WATCHDOG_USEC", every.as_micros().to_string()));
    }
    if let Some(path) = notify {
        own.push(("NOTIFY_SOCKET", path.to_string_lossy().into_owned()));
    }
    own
}

/// Names that a unit may not pass in from outside: they would tell it of a supervisor that is not its own.
const NOT_INHERITED: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// A process's variables while they are gathered, and those that only templates see.
pub(super) struct Environment {
    variables: BTreeMap<String, String>,
    for_templates: BTreeMap<&'static str, String>,
}

impl Environment {
    /// Of a process of `spec`: each layer lies over those before it, `own` over all.
    pub(super) fn of(
        spec: &UnitSpec,
        node: &NodeContext,
        account: &Account,
        own: Vec<(&'static str, String)>,
    ) -> Result<Self, Fault> {
        let mut env = Self {
            variables: BTreeMap::new(),
            for_templates: BTreeMap::from([("RINGRIFTD", node.program.to_string_lossy().into_owned())]),
        };
        if let Some(dir) = &node.config_dir {
            env.for_templates
                .insert("RINGRIFT_CONFIG_DIR", dir.to_string_lossy().into_owned());
        }
        let lang = node.env.get("LANG").map_or("C.UTF-8", String::as_str);
        let mut base = vec![
            ("PATH", PATH.to_owned()),
            ("HOME", account.home.clone()),
            ("SHELL", account.shell.clone()),
            ("LANG", lang.to_owned()),
        ];
        if let Some(name) = &account.name {
            base.push(("USER", name.clone()));
            base.push(("LOGNAME", name.clone()));
        }
        // Own ones come first too, so that templates may use them.
        for (key, value) in base.into_iter().chain(own.iter().cloned()) {
            env.variables.insert(key.to_owned(), value);
        }
        let of_runner = runner(spec).map_or(&[][..], |runner| &runner.pass_env);
        for key in of_runner.iter().chain(&spec.exec.pass_env) {
            if let Some(value) = node.env.get(key)
                && !NOT_INHERITED.contains(&key.as_str())
            {
                env.variables.insert(key.clone(), value.clone());
            }
        }
        for file in &spec.exec.env_files {
            let path = env.fill(&file.path, "env_files")?;
            if !path.starts_with('/') {
                return Err(Fault::unit(format!("env_files: {path} is not an absolute path")));
            }
            match env_file::read(Path::new(&path)) {
                Ok(variables) => env.variables.extend(variables),
                Err(EnvFileError::Absent) if file.optional => {}
                Err(EnvFileError::Absent) => {
                    return Err(Fault::unit(format!(
                        "cannot read environment file {path}: there is none; a leading \"-\" lets it be absent"
                    )));
                }
                Err(EnvFileError::Unreadable { text, host }) => {
                    return Err(Fault {
                        text: format!("cannot read environment file {path}: {text}"),
                        host,
                    });
                }
                Err(EnvFileError::Line { line, text }) => {
                    return Err(Fault::unit(format!("{path}:{line}: {text}")));
                }
            }
        }
        for (key, template) in in_order_of_use(&spec.exec.env) {
            // What ringriftd itself says is not for the unit's files to change, nor what templates see of it.
            if own.iter().any(|(name, _)| name == key) {
                continue;
            }
            let value = env.fill(template, &format!("env.{key}"))?;
            env.variables.insert(key.clone(), value);
        }
        env.variables
            .retain(|key, _| !NOT_INHERITED.contains(&key.as_str()));
        for (key, value) in own {
            env.variables.insert(key.to_owned(), value);
        }
        Ok(env)
    }

    /// What `${name}` stands for.
    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.variables.get(name).or_else(|| self.for_templates.get(name))
    }

    /// Fills `template`; what a value holds is not looked at again, so no value can name a further variable.
    pub(super) fn fill(&self, template: &Template, place: &str) -> Result<String, Fault> {
        let filled = template.fill(&|name| self.get(name).cloned()).map_err(|name| {
            let mut text = format!("{place} uses ${{{name}}}, which is not set in the unit's environment");
            let _ = write!(text, "; set it in env or env_files, or give ${{{name}:-default}}");
            Fault::unit(text)
        })?;
        if filled.contains('\0') {
            return Err(Fault::unit(format!("{place} contains a NUL byte")));
        }
        Ok(filled)
    }

    /// As `execve` wants it: `NAME=value`, without what only templates see.
    pub(super) fn rendered(&self) -> Vec<Vec<u8>> {
        let join = |(key, value): (&String, &String)| format!("{key}={value}").into_bytes();
        self.variables.iter().map(join).collect()
    }
}

/// The variables of `[exec] env` so that each comes after those that its value names. One that names itself means the
/// value from below (`PATH = "${PATH}:/opt/bin"`). Rings are refused when the files are read; were there one, its
/// variables come last, in the order of their names.
fn in_order_of_use(env: &BTreeMap<String, Template>) -> Vec<(&String, &Template)> {
    let uses = |key: &String, template: &Template| -> BTreeSet<String> {
        let named = template.0.iter().filter_map(|piece| match piece {
            Piece::Variable { name, .. } => Some(name),
            Piece::Text(_) => None,
        });
        named
            .filter(|name| *name != key && env.contains_key(*name))
            .cloned()
            .collect()
    };
    let mut waiting: Vec<(&String, &Template, BTreeSet<String>)> = env
        .iter()
        .map(|(key, template)| (key, template, uses(key, template)))
        .collect();
    let mut done: BTreeSet<&String> = BTreeSet::new();
    let mut order = Vec::with_capacity(waiting.len());
    loop {
        let (free, held): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|(_, _, uses)| uses.iter().all(|name| done.contains(name)));
        let is_stuck = free.is_empty();
        order.extend(free.iter().map(|(key, template, _)| (*key, *template)));
        done.extend(free.iter().map(|(key, _, _)| *key));
        waiting = held;
        if is_stuck {
            order.extend(waiting.iter().map(|(key, template, _)| (*key, *template)));
            return order;
        }
    }
}

fn runner(spec: &UnitSpec) -> Option<&Arc<Runner>> {
    match &spec.exec.command {
        Command::Direct(_) => None,
        Command::Runner { runner, .. } => Some(runner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_after_those_that_they_name_and_one_may_name_its_own_past() {
        let variable = |name: &str| Piece::Variable {
            name: name.to_owned(),
            default: None,
        };
        let env = BTreeMap::from([
            ("A".to_owned(), Template(vec![variable("Z"), variable("PATH")])),
            (
                "PATH".to_owned(),
                Template(vec![variable("PATH"), Piece::Text(":/x".to_owned())]),
            ),
            ("Z".to_owned(), Template(vec![variable("HOME")])),
        ]);
        let order: Vec<&str> = in_order_of_use(&env)
            .into_iter()
            .map(|(key, _)| key.as_str())
            .collect();
        assert_eq!(order, ["PATH", "Z", "A"]);
    }
}
