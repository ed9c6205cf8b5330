//! Where things are: flags beat the environment, the environment a source checkout, a checkout the fixed places
//! (the table at the end of `docs/units.md`). Finding is a function of what it is given; only [`Places::settle`] touches
//! the disk, and there it shows which of the found places can be used on this host: a container may have a root that
//! nobody can write to.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{AccessFlags, faccessat};

use crate::limits;

/// The folders of state and logs, where they must lie in the run-time folder.
const STATE_BELOW_RUNTIME: &str = "state";
/// See [`STATE_BELOW_RUNTIME`].
const LOGS_BELOW_RUNTIME: &str = "log";
/// The file that the keeper needs in the folders of state and run time.
const LOCK: Option<&str> = Some("lock");
/// The flag that names the file of a recording.
pub const RECORD: &str = "--record";

/// The flags that say where things are.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PlaceArgs {
    /// The node's own settings (ringriftd.toml)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A folder of unit files; may be given several times
    #[arg(long, value_name = "DIR")]
    pub units: Vec<PathBuf>,
    /// A folder of profile files; may be given several times
    #[arg(long, value_name = "DIR")]
    pub profiles: Vec<PathBuf>,
    /// The folder of the control socket
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// The folder of lock and state
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The folder of the units' logs
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Said by the keeper to the manager: why a folder is another than the one that was asked for
    #[arg(long, value_name = "TEXT", hide = true)]
    pub place_note: Vec<String>,
}

/// The flag that names profiles.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ProfileArgs {
    /// A profile to run; may be given several times (default: what ringriftd.toml says)
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
}

/// A folder that may hold units or profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchDir {
    /// Where.
    pub path: PathBuf,
    /// A person named it, or stands in it: it must exist, and loose permissions are warned of. Otherwise it is a
    /// fixed place: it may be absent, and loose permissions are refused.
    pub is_chosen: bool,
}

/// Where everything is. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `ringriftd.toml`; absent: there is none, and every setting has its default.
    pub config: Option<PathBuf>,
    /// A person named the file or stands beside it.
    pub config_is_chosen: bool,
    /// Folders of units; those of fixed places cover later ones file by file.
    pub units: Vec<SearchDir>,
    /// Folders of profiles, likewise.
    pub profiles: Vec<SearchDir>,
    /// The socket's folder.
    pub runtime_dir: PathBuf,
    /// Where it is put instead when that one cannot be used, best first. None when a person named it: clients look for
    /// the socket there.
    pub runtime_choices: Vec<PathBuf>,
    /// Lock and state.
    pub state_dir: PathBuf,
    /// The units' logs.
    pub log_dir: PathBuf,
    /// Neither flag nor environment names a place for the state.
    pub is_homeless: bool,
    /// Which folders are others than those asked for, and why: sentences for the operator.
    pub notes: Vec<String>,
    /// A source checkout decided something.
    pub checkout: bool,
    /// Paths below it are shown without it.
    pub cwd: PathBuf,
    /// Who runs ringriftd.
    pub uid: u32,
}

/// What is known of the world: a variable of the environment, and whether a path is a file or a folder.
pub struct World<'a> {
    /// `std::env::var_os`.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Is there a file here?
    pub is_file: &'a dyn Fn(&Path) -> bool,
    /// Is there a folder here?
    pub is_dir: &'a dyn Fn(&Path) -> bool,
    /// The working directory.
    pub cwd: &'a Path,
    /// The effective user.
    pub uid: u32,
}

/// Why a folder cannot be used.
enum Unusable {
    /// The host does not have it: it cannot be made, or not be written to. Another folder serves.
    Absent(String),
    /// It is there and looks like a trap or a mistake (a link, another's, open to others): somebody must look at it.
    Unsafe(String),
}

impl Unusable {
    fn why(self) -> String {
        match self {
            Self::Absent(why) | Self::Unsafe(why) => why,
        }
    }
}

impl Places {
    /// The places of this process.
    pub fn of_process(flags: &PlaceArgs) -> Result<Self, String> {
        let cwd = std::env::current_dir().map_err(|e| format!("cannot find the working directory: {e}"))?;
        Self::find(
            flags,
            &World {
                env: &|name| std::env::var_os(name),
                is_file: &Path::is_file,
                is_dir: &Path::is_dir,
                cwd: &cwd,
                uid: nix::unistd::geteuid().as_raw(),
            },
        )
    }

    /// The places, given flags and world. Fails when a place can be found nowhere (a user without HOME), or when the
    /// socket's path is too long for the kernel.
    pub fn find(flags: &PlaceArgs, world: &World<'_>) -> Result<Self, String> {
        let absolute = |path: &Path| world.cwd.join(path);
        let set = |name: &str| {
            (world.env)(name)
                .filter(|v| !v.is_empty())
                .map(|v| absolute(Path::new(&v)))
        };
        // The XDG specification: a relative path is invalid and ignored.
        let xdg = |name: &str| (world.env)(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || xdg("HOME");
        let is_root = world.uid == 0;
        let beside = |name: &str| world.cwd.join(name);
        let stands_in_checkout = (world.is_file)(&beside("ringriftd.toml"))
            && (world.is_dir)(&beside("units"))
            && (world.is_dir)(&beside("profiles"));

        let user_config = || {
            xdg("XDG_CONFIG_HOME")
                .or_else(|| home().map(|h| h.join(".config")))
                .map(|p| p.join("ringrift"))
        };
        let mut checkout = false;
        let (config, config_is_chosen) = if let Some(path) = flags
            .config
            .as_deref()
            .map(absolute)
            .or_else(|| set("RINGRIFT_CONFIG"))
        {
            (Some(path), true)
        } else if stands_in_checkout {
            checkout = true;
            (Some(beside("ringriftd.toml")), true)
        } else {
            let dir = if is_root {
                Some(PathBuf::from("/etc/ringrift"))
            } else {
                user_config()
            };
            (
                dir.map(|d| d.join("ringriftd.toml"))
                    .filter(|p| (world.is_file)(p)),
                false,
            )
        };
        let mut search = |given: &[PathBuf], name: &str| -> Vec<SearchDir> {
            let chosen = |path| SearchDir {
                path,
                is_chosen: true,
            };
            let fixed = |path: PathBuf| SearchDir {
                path: path.join(name),
                is_chosen: false,
            };
            if !given.is_empty() {
                given.iter().map(|p| chosen(absolute(p))).collect()
            } else if stands_in_checkout {
                checkout = true;
                vec![chosen(beside(name))]
            } else if is_root {
                vec![fixed("/etc/ringrift".into()), fixed("/usr/lib/ringrift".into())]
            } else {
                user_config().into_iter().map(fixed).collect()
            }
        };
        let units = search(&flags.units, "units");
        let profiles = search(&flags.profiles, "profiles");

        let named_runtime = flags
            .runtime_dir
            .as_deref()
            .map(absolute)
            .or_else(|| set("RINGRIFT_RUNTIME_DIR"));
        let (runtime_dir, runtime_choices) = match named_runtime {
            Some(dir) => (dir, Vec::new()),
            None => {
                let mut choices: Vec<PathBuf> = if is_root {
                    // Not XDG_RUNTIME_DIR: it may be the folder of whoever became root, and be theirs.
                    vec!["/run/ringrift".into()]
                } else {
                    let xdg = xdg("XDG_RUNTIME_DIR").filter(|p| (world.is_dir)(p));
                    xdg.into_iter().map(|dir| dir.join("ringrift")).collect()
                };
                let own = format!("ringrift-{}", world.uid);
                choices.extend([Path::new("/tmp").join(&own), Path::new("/dev/shm").join(&own)]);
                (choices.remove(0), choices)
            }
        };
        let named_state = flags
            .state_dir
            .as_deref()
            .map(absolute)
            .or_else(|| set("RINGRIFT_STATE_DIR"));
        let own_state = || xdg("XDG_STATE_HOME").or_else(|| home().map(|h| h.join(".local/state")));
        let (state_dir, is_homeless) = if let Some(dir) = named_state {
            (dir, false)
        } else if is_root {
            (PathBuf::from("/var/lib/ringrift"), false)
        } else {
            match own_state() {
                Some(dir) => (dir.join("ringrift"), false),
                None => (runtime_dir.join(STATE_BELOW_RUNTIME), true),
            }
        };
        let log_dir = match flags
            .log_dir
            .as_deref()
            .map(absolute)
            .or_else(|| set("RINGRIFT_LOG_DIR"))
        {
            Some(dir) => dir,
            None if is_root => PathBuf::from("/var/log/ringrift"),
            None => state_dir.join("log"),
        };
        let places = Self {
            config,
            config_is_chosen,
            units,
            profiles,
            runtime_dir,
            runtime_choices,
            state_dir,
            log_dir,
            is_homeless,
            notes: flags.place_note.clone(),
            checkout,
            cwd: world.cwd.to_owned(),
            uid: world.uid,
        };
        places.check_socket()?;
        Ok(places)
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }

    /// unix(7): `sun_path` has 108 bytes. A longer path would be cut, or refused with a riddle.
    fn check_socket(&self) -> Result<(), String> {
        let socket = self.socket();
        let length = socket.as_os_str().as_bytes().len();
        if length > limits::SOCKET_PATH_MAX {
            return Err(format!(
                "cannot use the socket path {}: it has {length} bytes, and the kernel allows {}; name a shorter \
                 folder with --runtime-dir",
                socket.display(),
                limits::SOCKET_PATH_MAX
            ));
        }
        Ok(())
    }

    /// A path as people call it: relative to the working directory when it lies below.
    pub fn shown(&self, path: &Path) -> String {
        match path.strip_prefix(&self.cwd) {
            Ok(rest) if !rest.as_os_str().is_empty() => rest.display().to_string(),
            _ => path.display().to_string(),
        }
    }

    /// The folder of `ringriftd.toml`, or the one where it would be.
    pub fn config_dir(&self) -> PathBuf {
        match &self.config {
            Some(file) => file.parent().map_or_else(|| self.cwd.clone(), Path::to_owned),
            None => match self.units.first().and_then(|d| d.path.parent()) {
                Some(dir) => dir.to_owned(),
                None => self.cwd.clone(),
            },
        }
    }

    /// Makes the three folders where they are missing, checks that nobody else can change what is in them, nor list the
    /// run-time folder, and returns the places as they can be used here. A run-time folder is needed. Without a writable
    /// folder for state or logs (a container with a read-only root) theirs are made in the run-time folder, and a note says so.
    pub fn settle(mut self) -> Result<Self, String> {
        self.settle_runtime()?;
        if self.is_homeless {
            let why = "neither HOME nor XDG_STATE_HOME is set; name a folder with --state-dir";
            self.notes.push(moved_note("state", why, &self.state_dir));
        }
        if let Some(why) = self.absent(&self.state_dir, "--state-dir", LOCK)? {
            self.state_dir = self.runtime_dir.join(STATE_BELOW_RUNTIME);
            self.usable(&self.state_dir, "--state-dir", false, LOCK)
                .map_err(Unusable::why)?;
            let note = moved_note("state", &why, &self.state_dir);
            self.notes.push(note);
        }
        if let Some(why) = self.absent(&self.log_dir, "--log-dir", None)? {
            self.log_dir = self.runtime_dir.join(LOGS_BELOW_RUNTIME);
            self.usable(&self.log_dir, "--log-dir", false, None)
                .map_err(Unusable::why)?;
            let note = moved_note("logs", &why, &self.log_dir);
            self.notes.push(note);
        }
        Ok(self)
    }

    /// The flags that name these places to a role, whatever flags, environment and host said before.
    pub fn flags(&self) -> Vec<OsString> {
        let mut flags = Vec::new();
        for (flag, dir) in [
            ("--runtime-dir", &self.runtime_dir),
            ("--state-dir", &self.state_dir),
            ("--log-dir", &self.log_dir),
        ] {
            flags.extend([OsString::from(flag), dir.clone().into_os_string()]);
        }
        for note in &self.notes {
            flags.extend(["--place-note".into(), OsString::from(note)]);
        }
        flags
    }

    /// What a role is called with: the arguments of this process, and the flags for these places once. A keeper that was a
    /// manager has been called with them already; said again with each death of a keeper, they would grow until nothing
    /// can be executed any more.
    pub fn arguments(&self, own: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        const SETTLED: [&str; 5] = [
            "--runtime-dir",
            "--state-dir",
            "--log-dir",
            "--place-note",
            RECORD,
        ];
        let mut arguments = Vec::new();
        let mut own = own.into_iter();
        while let Some(argument) = own.next() {
            if SETTLED.iter().any(|flag| argument == *flag) {
                // Its value.
                own.next();
            } else {
                arguments.push(argument);
            }
        }
        arguments.extend(self.flags());
        arguments
    }

    fn settle_runtime(&mut self) -> Result<(), String> {
        let mut tried = Vec::new();
        let first = self.runtime_dir.clone();
        // What was put below it for want of another place goes with it.
        let below = |dir: &Path| dir.strip_prefix(&first).map(Path::to_owned).ok();
        let (state, log) = (below(&self.state_dir), below(&self.log_dir));
        for dir in std::iter::once(first.clone()).chain(std::mem::take(&mut self.runtime_choices)) {
            match self.usable(&dir, "--runtime-dir", true, LOCK) {
                Ok(()) => {
                    for (place, rest) in [(&mut self.state_dir, &state), (&mut self.log_dir, &log)] {
                        if let Some(rest) = rest {
                            *place = dir.join(rest);
                        }
                    }
                    self.runtime_dir = dir;
                    self.check_socket()?;
                    if let Some(why) = tried.first() {
                        let note = format!("the run-time folder is {}: {why}", self.runtime_dir.display());
                        self.notes.push(note);
                    }
                    return Ok(());
                }
                Err(unusable) => tried.push(unusable.why()),
            }
        }
        match tried.as_slice() {
            [one] => Err(one.clone()),
            several => Err(format!(
                "cannot find a run-time folder, which the control socket needs (a tmpfs on one of these helps): {}",
                several.join("; ")
            )),
        }
    }

    /// Why a folder is to be replaced; `None` when it can be used.
    fn absent(&self, path: &Path, flag: &str, probe: Option<&str>) -> Result<Option<String>, String> {
        match self.usable(path, flag, false, probe) {
            Ok(()) => Ok(None),
            Err(Unusable::Absent(why)) => Ok(Some(why)),
            Err(Unusable::Unsafe(why)) => Err(why),
        }
    }

    /// Makes a folder where it is missing, and tries whether it can be used. `probe` is a file that is needed in it: it
    /// is opened, which on a full disk says more than the folder's mode.
    fn usable(&self, path: &Path, flag: &str, private: bool, probe: Option<&str>) -> Result<(), Unusable> {
        let shown = path.display();
        let absent = |what: &Path, e: &dyn std::fmt::Display| {
            Unusable::Absent(format!(
                "cannot make the folder {}: {e}; name another with {flag}",
                what.display()
            ))
        };
        let refuse = |why: String| {
            Unusable::Unsafe(format!(
                "cannot use the folder {shown}: {why}; name another with {flag}"
            ))
        };
        if let Some(parent) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(|e| absent(parent, &e))?;
        }
        // The last step is not recursive: mkdir(2) does not follow a link that somebody left here.
        match std::fs::DirBuilder::new()
            .mode(if private { 0o700 } else { 0o750 })
            .create(path)
        {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            // A folder of a read-only file system, or below a folder that is not ours, is said to be that before it is
            // said to be there.
            Err(_) if path.symlink_metadata().is_ok() => {}
            Err(e) => return Err(absent(path, &e)),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|e| match e {
            Errno::ELOOP | Errno::ENOTDIR => refuse("it is a link or no folder".to_owned()),
            e => Unusable::Absent(format!(
                "cannot open the folder {shown}: {}; name another with {flag}",
                e.desc()
            )),
        })?;
        let not_writable = |e: Errno| {
            Unusable::Absent(format!(
                "cannot write to the folder {shown}: {}; name another with {flag}",
                e.desc()
            ))
        };
        let stat = fstat(&fd).map_err(|e| refuse(e.desc().to_owned()))?;
        if stat.st_uid != self.uid {
            return Err(refuse(format!(
                "it belongs to uid {}, not to uid {}",
                stat.st_uid, self.uid
            )));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(refuse(format!(
                "others may write to it (mode {:04o}; chmod go-w mends that)",
                stat.st_mode & 0o7777
            )));
        }
        faccessat(
            &fd,
            ".",
            AccessFlags::W_OK | AccessFlags::X_OK,
            AtFlags::AT_EACCESS,
        )
        .map_err(not_writable)?;
        if let Some(name) = probe {
            let flags = OFlag::O_RDWR
                | OFlag::O_CREAT
                | OFlag::O_NOFOLLOW
                | OFlag::O_NOCTTY
                | OFlag::O_NONBLOCK
                | OFlag::O_CLOEXEC;
            openat(&fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| match e {
                Errno::ELOOP | Errno::EISDIR | Errno::ENXIO => {
                    refuse(format!("its file {name} is no regular file"))
                }
                e => not_writable(e),
            })?;
        }
        // Whether others may pass through is the running keeper's to say: it lets them when a unit of another user has
        // its notify socket there, and a second ringriftd, which comes here before it finds the lock taken, must not
        // take that away.
        if private && stat.st_mode & 0o066 != 0 {
            fchmod(&fd, Mode::S_IRWXU)
                .map_err(|e| refuse(format!("its mode cannot be set to 0700: {}", e.desc())))?;
        }
        Ok(())
    }
}

/// What the operator is told of a folder that was put into the run-time folder.
fn moved_note(what: &str, why: &str, dir: &Path) -> String {
    let lives = if what == "logs" { "live" } else { "lives" };
    format!(
        "the {what} {lives} in {} and will not outlive the machine's (or container's) end: {why}",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const XDG: [(&str, &str); 4] = [
        ("HOME", "/home/u"),
        ("XDG_CONFIG_HOME", "/c"),
        ("XDG_STATE_HOME", "/s"),
        ("XDG_RUNTIME_DIR", "/r"),
    ];

    fn find(flags: &PlaceArgs, env: &[(&str, &str)], paths: &[&str], uid: u32) -> Result<Places, String> {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        let known = |p: &Path| paths.iter().any(|known| Path::new(known) == p);
        Places::find(
            flags,
            &World {
                env: &|name| env.get(name).map(OsString::from),
                is_file: &known,
                is_dir: &known,
                cwd: Path::new("/w"),
                uid,
            },
        )
    }

    const CHECKOUT: [&str; 3] = ["/w/ringriftd.toml", "/w/units", "/w/profiles"];

    #[test]
    fn root_uses_the_fixed_places() {
        let p = find(&PlaceArgs::default(), &XDG, &["/etc/ringrift/ringriftd.toml"], 0).unwrap();
        assert_eq!(p.config, Some("/etc/ringrift/ringriftd.toml".into()));
        let units: Vec<_> = p
            .units
            .iter()
            .map(|d| (d.path.to_str().unwrap(), d.is_chosen))
            .collect();
        assert_eq!(
            units,
            [("/etc/ringrift/units", false), ("/usr/lib/ringrift/units", false)]
        );
        assert_eq!(p.runtime_dir, Path::new("/run/ringrift"));
        assert_eq!(
            p.runtime_choices,
            [Path::new("/tmp/ringrift-0"), Path::new("/dev/shm/ringrift-0")]
        );
        assert_eq!(p.state_dir, Path::new("/var/lib/ringrift"));
        assert_eq!(p.log_dir, Path::new("/var/log/ringrift"));
        assert!(!p.checkout);
    }

    #[test]
    fn a_user_uses_the_xdg_folders() {
        let p = find(&PlaceArgs::default(), &XDG, &["/r"], 7).unwrap();
        assert_eq!(p.config, None);
        assert_eq!(p.units[0].path, Path::new("/c/ringrift/units"));
        assert_eq!(p.runtime_dir, Path::new("/r/ringrift"));
        assert_eq!(p.state_dir, Path::new("/s/ringrift"));
        assert_eq!(p.log_dir, Path::new("/s/ringrift/log"));
        let p = find(&PlaceArgs::default(), &[("HOME", "/home/u")], &[], 7).unwrap();
        assert_eq!(p.units[0].path, Path::new("/home/u/.config/ringrift/units"));
        assert_eq!(p.runtime_dir, Path::new("/tmp/ringrift-7"));
        assert_eq!(p.state_dir, Path::new("/home/u/.local/state/ringrift"));
    }

    #[test]
    fn the_state_of_a_user_without_home_lies_in_the_run_time_folder() {
        let p = find(&PlaceArgs::default(), &[], &[], 7).unwrap();
        assert_eq!(p.state_dir, Path::new("/tmp/ringrift-7/state"));
        assert_eq!(p.log_dir, Path::new("/tmp/ringrift-7/state/log"));
        assert!(p.is_homeless);
    }

    #[test]
    fn a_checkout_beats_the_fixed_places_but_not_where_it_writes() {
        let p = find(&PlaceArgs::default(), &XDG, &CHECKOUT, 0).unwrap();
        assert!(p.checkout);
        assert_eq!(p.config, Some("/w/ringriftd.toml".into()));
        assert_eq!(
            p.units,
            [SearchDir {
                path: "/w/units".into(),
                is_chosen: true
            }]
        );
        assert_eq!(p.runtime_dir, Path::new("/run/ringrift"));
        // A folder that lacks one of the three is no checkout.
        let p = find(&PlaceArgs::default(), &XDG, &CHECKOUT[..2], 0).unwrap();
        assert!(!p.checkout);
    }

    #[test]
    fn flags_beat_the_environment_which_beats_a_checkout() {
        let env = [
            ("RINGRIFT_CONFIG", "/e/c.toml"),
            ("RINGRIFT_RUNTIME_DIR", "/e/run"),
            ("RINGRIFT_STATE_DIR", "/e/state"),
            ("RINGRIFT_LOG_DIR", "/e/log"),
        ];
        let p = find(&PlaceArgs::default(), &env, &CHECKOUT, 7).unwrap();
        assert_eq!(p.config, Some("/e/c.toml".into()));
        assert_eq!(
            (p.runtime_dir, p.state_dir, p.log_dir),
            ("/e/run".into(), "/e/state".into(), "/e/log".into())
        );
        let flags = PlaceArgs {
            config: Some("f.toml".into()),
            units: vec!["u1".into(), "/u2".into()],
            profiles: vec!["p".into()],
            runtime_dir: Some("run".into()),
            state_dir: Some("/f/state".into()),
            log_dir: None,
            place_note: Vec::new(),
        };
        let p = find(&flags, &env, &CHECKOUT, 7).unwrap();
        assert_eq!(p.config, Some("/w/f.toml".into()));
        assert_eq!(
            p.units
                .iter()
                .map(|d| d.path.to_str().unwrap())
                .collect::<Vec<_>>(),
            ["/w/u1", "/u2"]
        );
        assert_eq!((p.runtime_dir, p.state_dir), ("/w/run".into(), "/f/state".into()));
        assert_eq!(p.log_dir, Path::new("/e/log"));
        assert!(!p.checkout);
    }

    /// D14
    #[test]
    fn a_socket_path_of_107_bytes_is_used_and_of_108_refused_with_the_limit() {
        let with = |total: usize| {
            let dir = format!("/{}", "d".repeat(total - 1 - "/control.sock".len()));
            find(
                &PlaceArgs {
                    runtime_dir: Some(dir.into()),
                    ..Default::default()
                },
                &XDG,
                &[],
                0,
            )
        };
        assert_eq!(with(107).unwrap().socket().as_os_str().len(), 107);
        for total in [108, 200] {
            let error = with(total).unwrap_err();
            assert!(
                error.contains("107") && error.contains("--runtime-dir"),
                "{error}"
            );
        }
    }

    fn in_temp(run: impl FnOnce(&Path, Places)) {
        let temp = tempfile::tempdir().unwrap();
        let flags = PlaceArgs {
            runtime_dir: Some(temp.path().join("a/run")),
            state_dir: Some(temp.path().join("a/state")),
            log_dir: Some(temp.path().join("a/log")),
            ..Default::default()
        };
        let places = Places::of_process(&flags).unwrap();
        run(temp.path(), places);
    }

    #[test]
    fn the_folders_are_made_and_the_run_time_one_is_private() {
        use std::os::unix::fs::PermissionsExt;
        in_temp(|_, places| {
            places.clone().settle().unwrap();
            let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&places.runtime_dir), 0o700);
            std::fs::set_permissions(&places.runtime_dir, PermissionsExt::from_mode(0o755)).unwrap();
            places.clone().settle().unwrap();
            assert_eq!(mode(&places.runtime_dir), 0o700);
        });
    }

    #[test]
    fn the_way_that_a_running_keeper_opened_is_not_closed_to_its_units() {
        use std::os::unix::fs::PermissionsExt;
        in_temp(|_, places| {
            places.clone().settle().unwrap();
            std::fs::set_permissions(&places.runtime_dir, PermissionsExt::from_mode(0o711)).unwrap();
            places.clone().settle().unwrap();
            let mode = places.runtime_dir.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o711);
        });
    }

    /// A file stands where the folder would be made: as with a read-only root, it cannot be.
    #[test]
    fn state_and_logs_that_have_no_place_go_into_the_run_time_folder_with_a_note_each() {
        in_temp(|root, mut places| {
            std::fs::write(root.join("full"), "").unwrap();
            places.state_dir = root.join("full/state");
            places.log_dir = root.join("full/log");
            let settled = places.settle().unwrap();
            assert_eq!(settled.state_dir, settled.runtime_dir.join("state"));
            assert_eq!(settled.log_dir, settled.runtime_dir.join("log"));
            assert!(settled.log_dir.is_dir() && settled.state_dir.join("lock").is_file());
            for (note, words) in settled
                .notes
                .iter()
                .zip([["full", "--state-dir"], ["full", "--log-dir"]])
            {
                assert!(words.iter().all(|word| note.contains(word)), "{note}");
            }
            assert_eq!(settled.notes.len(), 2);
        });
    }

    #[test]
    fn the_run_time_folder_is_the_first_that_can_be_used_unless_it_was_named() {
        in_temp(|root, mut places| {
            std::fs::write(root.join("full"), "").unwrap();
            places.runtime_dir = root.join("full/run");
            places.state_dir = root.join("full/run/state");
            let error = places.clone().settle().unwrap_err();
            assert!(error.contains("full") && error.contains("cannot make"), "{error}");
            places.runtime_choices = vec![root.join("full/other"), root.join("third")];
            let settled = places.clone().settle().unwrap();
            assert_eq!(settled.runtime_dir, root.join("third"));
            assert_eq!(settled.state_dir, root.join("third/state"));
            assert_eq!(settled.notes.len(), 1, "{:?}", settled.notes);
            places.is_homeless = true;
            let settled = places.clone().settle().unwrap();
            let note = &settled.notes[1];
            assert!(
                note.contains("--state-dir") && note.contains("HOME") && note.contains("third"),
                "{note}"
            );
            places.runtime_choices.pop();
            let error = places.settle().unwrap_err();
            assert!(
                error.contains("--runtime-dir") && error.contains("other"),
                "{error}"
            );
        });
    }

    /// As often as a manager takes its keeper's place.
    #[test]
    fn the_arguments_of_a_role_do_not_grow() {
        let mut p = find(&PlaceArgs::default(), &XDG, &[], 0).unwrap();
        p.notes = vec!["one".to_owned(), "two".to_owned()];
        let words = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        let own = words("--state-dir state --profile a --record x --profile=b");
        let first = p.arguments(own);
        let settled = "--runtime-dir /run/ringrift --state-dir /var/lib/ringrift --log-dir /var/log/ringrift";
        let wanted = format!("--profile a --profile=b {settled} --place-note one --place-note two");
        assert_eq!(first, words(&wanted));
        let with_record = [first.clone(), words("--record /x")].concat();
        assert_eq!(p.arguments(with_record), first);
    }

    #[test]
    fn the_flags_for_the_roles_name_the_settled_places() {
        let mut p = find(&PlaceArgs::default(), &XDG, &[], 0).unwrap();
        p.notes = vec!["why".to_owned()];
        let flags: Vec<_> = p.flags().into_iter().map(|f| f.into_string().unwrap()).collect();
        assert_eq!(
            flags.join(" "),
            "--runtime-dir /run/ringrift --state-dir /var/lib/ringrift --log-dir /var/log/ringrift --place-note why"
        );
    }

    #[test]
    fn a_folder_that_others_may_write_to_and_a_link_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        in_temp(|root, places| {
            places.clone().settle().unwrap();
            std::fs::set_permissions(&places.state_dir, PermissionsExt::from_mode(0o777)).unwrap();
            let error = places.clone().settle().unwrap_err();
            assert!(error.contains("0777") && error.contains("--state-dir"), "{error}");
            std::fs::remove_dir_all(&places.state_dir).unwrap();
            std::os::unix::fs::symlink(root, &places.state_dir).unwrap();
            let error = places.clone().settle().unwrap_err();
            assert!(error.contains("link"), "{error}");
        });
    }
}
