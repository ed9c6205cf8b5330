//! Where things are: flags beat the environment, the environment a source checkout, a checkout the fixed places
//! (the table at the end of `docs/units.md`). Finding is a function of what it is given; only [`Places::make`] touches
//! the disk.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fchmod, fstat};

use crate::limits;

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
    /// Lock and state.
    pub state_dir: PathBuf,
    /// The units' logs.
    pub log_dir: PathBuf,
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

/// The three folders, opened and checked.
#[derive(Debug)]
pub struct MadeDirs {
    /// `runtime_dir`, mode 0700.
    pub runtime: OwnedFd,
    /// `state_dir`.
    pub state: OwnedFd,
    /// `log_dir`.
    pub log: OwnedFd,
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

        let runtime_dir = flags
            .runtime_dir
            .as_deref()
            .map(absolute)
            .or_else(|| set("RINGRIFT_RUNTIME_DIR"))
            .unwrap_or_else(|| {
                if is_root {
                    return PathBuf::from("/run/ringrift");
                }
                match xdg("XDG_RUNTIME_DIR").filter(|p| (world.is_dir)(p)) {
                    Some(dir) => dir.join("ringrift"),
                    None => PathBuf::from(format!("/tmp/ringrift-{}", world.uid)),
                }
            });
        let state_dir = match flags.state_dir.as_deref().map(absolute).or_else(|| set("RINGRIFT_STATE_DIR")) {
            Some(dir) => dir,
            None if is_root => PathBuf::from("/var/lib/ringrift"),
            None => xdg("XDG_STATE_HOME")
                .or_else(|| home().map(|h| h.join(".local/state")))
                .ok_or(
                    "cannot find a folder for the state: neither HOME nor XDG_STATE_HOME is set; name one with --state-dir",
                )?
                .join("ringrift"),
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
            state_dir,
            log_dir,
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

    /// Makes the three folders where they are missing, and checks that nobody else can change what is in them, nor
    /// list the run-time folder.
    pub fn make(&self) -> Result<MadeDirs, String> {
        Ok(MadeDirs {
            runtime: self.make_one(&self.runtime_dir, "--runtime-dir", true)?,
            state: self.make_one(&self.state_dir, "--state-dir", false)?,
            log: self.make_one(&self.log_dir, "--log-dir", false)?,
        })
    }

    fn make_one(&self, path: &Path, flag: &str, private: bool) -> Result<OwnedFd, String> {
        let shown = path.display();
        let refuse = |why: String| format!("cannot use the folder {shown}: {why}; name another with {flag}");
        if let Some(parent) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(|e| {
                    format!(
                        "cannot make the folder {}: {e}; name another with {flag}",
                        parent.display()
                    )
                })?;
        }
        // The last step is not recursive: mkdir(2) does not follow a link that somebody left here.
        match std::fs::DirBuilder::new()
            .mode(if private { 0o700 } else { 0o750 })
            .create(path)
        {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(format!(
                    "cannot make the folder {shown}: {e}; name another with {flag}"
                ));
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|e| {
            refuse(match e {
                Errno::ELOOP | Errno::ENOTDIR => "it is a link or no folder".to_owned(),
                e => e.desc().to_owned(),
            })
        })?;
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
        // Whether others may pass through is the running keeper's to say: it lets them when a unit of another user has
        // its notify socket there, and a second ringriftd, which comes here before it finds the lock taken, must not
        // take that away.
        if private && stat.st_mode & 0o066 != 0 {
            fchmod(&fd, Mode::S_IRWXU)
                .map_err(|e| refuse(format!("its mode cannot be set to 0700: {}", e.desc())))?;
        }
        Ok(fd)
    }
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
    fn a_user_without_home_is_told_which_flag_helps() {
        let error = find(&PlaceArgs::default(), &[], &[], 7).unwrap_err();
        assert!(error.contains("--state-dir"), "{error}");
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
            places.make().unwrap();
            let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&places.runtime_dir), 0o700);
            std::fs::set_permissions(&places.runtime_dir, PermissionsExt::from_mode(0o755)).unwrap();
            places.make().unwrap();
            assert_eq!(mode(&places.runtime_dir), 0o700);
        });
    }

    #[test]
    fn the_way_that_a_running_keeper_opened_is_not_closed_to_its_units() {
        use std::os::unix::fs::PermissionsExt;
        in_temp(|_, places| {
            places.make().unwrap();
            std::fs::set_permissions(&places.runtime_dir, PermissionsExt::from_mode(0o711)).unwrap();
            places.make().unwrap();
            let mode = places.runtime_dir.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o711);
        });
    }

    #[test]
    fn a_folder_that_others_may_write_to_and_a_link_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        in_temp(|root, places| {
            places.make().unwrap();
            std::fs::set_permissions(&places.state_dir, PermissionsExt::from_mode(0o777)).unwrap();
            let error = places.make().unwrap_err();
            assert!(error.contains("0777") && error.contains("--state-dir"), "{error}");
            std::fs::remove_dir(&places.state_dir).unwrap();
            std::os::unix::fs::symlink(root, &places.state_dir).unwrap();
            let error = places.make().unwrap_err();
            assert!(error.contains("link"), "{error}");
        });
    }
}
