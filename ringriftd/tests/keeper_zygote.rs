//! Launches that are forked: what an honest zygote gives is what an executed process would be, and a zygote that lies, hangs or
//! dies at any moment is found out, with no process and no launch left that is neither one thing nor the other.

mod keeper_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use keeper_support::{Mode, Node, PATIENCE, ZYGOTE_ANSWER, is_root, modes};
use proto::reply::Exit;
use ringriftd::ids::LaunchId;
use ringriftd::keeper::wire::{Fork, FromKeeper, Identity, Launch, Stage, ToKeeper};
use ringriftd::spec::Rlimit;

/// All that the kernel shows of a process, and what it was given. What differs by nature is left out: numbers of processes.
const TELLING: &str = r#"
import os, sys
def lines(name):
    return open(f"/proc/self/{name}").read().splitlines()
wanted = ("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "SigBlk", "SigIgn", "CapEff", "CapPrm", "CapBnd", "Threads")
for line in lines("status"):
    if line.split(":")[0] in wanted:
        print(line)
for line in lines("limits"):
    print(line)
print("oom", lines("oom_score_adj"), "nice", os.nice(0), "cwd", os.getcwd(), "argv", sys.argv)
print("leads", os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), "parent", os.getppid())
own = ("RINGRIFT_INVOCATION_ID", "LC_CTYPE")
print(sorted((k, v) for k, v in os.environ.items() if k not in own and k != "WATCHDOG_PID"))
print("own pid", os.environ.get("WATCHDOG_PID") == str(os.getpid()))
places = {}
for fd in sorted(int(e) for e in os.listdir("/proc/self/fd")):
    try:
        places[fd] = os.readlink(f"/proc/self/fd/{fd}").split(":")[0]
    except OSError:
        pass  # what lists them
print(places)
print("group", open("/proc/self/cgroup").read().strip().rpartition("/")[2].split(".")[0])
print("stdin", sys.stdin.read())
sys.exit(7)
"#;

/// A zygote that does what its argument says. It has the runner's own library for what it does right.
const LIAR: &str = r#"
import ctypes, os, select, signal, socket, struct, sys, time
sys.path.insert(0, sys.argv[2])
import ringrift_fork as fork
import ringrift_zygote as zygote
mode = sys.argv[1]
link = socket.socket(fileno=int(os.environ["RINGRIFT_ZYGOTE_FD"]))

def orphan(deed):
    "A process that the keeper inherits does this; when it returns, that process ends."
    between = os.fork()
    if between == 0:
        own = os.getpid()
        if os.fork() != 0:
            os._exit(0)
        while os.getppid() == own:
            time.sleep(0)
        deed()
        os._exit(0)
    os.waitpid(between, 0)

def say(gate, text):
    try:
        socket.socket(fileno=os.dup(gate)).send(text)
    except OSError:
        pass

def wait_shut(gate):
    "Until the keeper has shut its end."
    poll = select.poll()
    poll.register(gate, 0)
    poll.poll()

def forged(gate, pid):
    "As root, one may name another process as the sender."
    sock = socket.socket(fileno=os.dup(gate))
    cred = struct.pack("iii", pid, os.geteuid(), os.getegid())
    sock.sendmsg([b"HERE"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, cred)])

def ticks():
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")

early = None
if mode == "early":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    def wait_for_gate():
        os.setsid()
        ours.close()
        data, fds, _, _ = socket.recv_fds(theirs, 10, 1)
        say(fds[0], b"HERE")
        wait_shut(fds[0])
    orphan(wait_for_gate)
    theirs.close()
    early = ours
    begun = ticks()
    while ticks() < begun + 2:
        pass

if mode == "other version":
    link.send(b"READY 2")
elif mode == "noise":
    link.send(b"\x1b[31mnoise")
elif mode != "never ready":
    link.send(b"READY 1")
if mode == "ready twice":
    link.send(b"READY 1")

def request():
    data, fds, _, _ = socket.recv_fds(link, 64, 253)
    if not fds:
        os._exit(0)
    body = os.pread(fds[0], 1 << 22, 0)
    return fork.Request(body), fds[1], fds[2:], fds

def both_at_once(gate):
    "Two words, of which the keeper reads neither before both are there."
    keeper = os.getppid()
    os.kill(keeper, signal.SIGSTOP)
    while open(f"/proc/{keeper}/stat").read().rpartition(")")[2].split()[0] != "T":
        time.sleep(0)
    say(gate, b"HERE")
    say(gate, b"HERE")
    os.kill(keeper, signal.SIGCONT)

def unmarked(gate):
    os.setsid()
    say(gate, b"HERE")
    wait_shut(gate)

def whole(asked, gate, passed, then):
    "The child as it should be, up to its word at the gate."
    os.setsid()
    fork.write_areas(asked.argv, asked.env)
    fork.libc.prctl(38, 1, 0, 0, 0)
    then()
    wait_shut(gate)

served = 0
while True:
    asked, gate, passed, fds = request()
    served += 1
    if mode == "itself":
        say(gate, b"HERE")
    elif mode == "own child":
        if os.fork() == 0:
            whole(asked, gate, passed, lambda: say(gate, b"HERE"))
            os._exit(0)
    elif mode == "unmarked":
        orphan(lambda: unmarked(gate))
    elif mode == "no session":
        orphan(lambda: (fork.write_areas(asked.argv, asked.env), say(gate, b"HERE"), wait_shut(gate)))
    elif mode == "privileged":
        orphan(lambda: (os.setsid(), fork.write_areas(asked.argv, asked.env), say(gate, b"HERE"), wait_shut(gate)))
    elif mode == "early":
        socket.send_fds(early, [b"x"], [gate])
    elif mode == "twice":
        orphan(lambda: whole(asked, gate, passed, lambda: both_at_once(gate)))
    elif mode == "noise at the gate":
        say(gate, b"\x1b[31mnoise")
    elif mode == "refuses":
        say(gate, b"REFUSED because\n\x1b[31mof me")
    elif mode == "shuts":
        pass
    elif mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "forged":
        forged(gate, int(dict(e.split(b"=", 1) for e in asked.env)[b"VICTIM"]))
    elif mode == "silent":
        # Holds everything, for as long as it lives.
        continue
    elif mode == "late":
        def late():
            wait_shut(gate)
            say(gate, b"HERE")
        orphan(late)
    for fd in fds:
        os.close(fd)
"#;

/// The runner's zygote, killed by its own hand at the moment that its argument names.
const DYING: &str = r#"
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import ringrift_fork, ringrift_zygote
moment, zygote = sys.argv[1], os.getpid()
sys.argv[1:] = ["os"]
def die():
    os.kill(zygote, signal.SIGKILL)
real = os.fork
def fork():
    if os.getpid() == zygote:
        if moment == "before it forks":
            die()
        pid = real()
        if pid != 0 and moment == "when it has forked":
            die()
        return pid
    if moment == "between its forks":
        die()
    pid = real()
    if pid != 0 and moment == "before the one between ends":
        die()
    return pid
os.fork = fork
become = ringrift_zygote.become
def dying(request, passed, gate, orphaned):
    if moment == "when the child begins":
        die()
    become(request, passed, gate, orphaned)
    if moment == "when the child runs":
        die()
ringrift_zygote.become = dying
knock = ringrift_fork.Gate.pass_through
def pass_through(self):
    if moment == "before the child is at the gate":
        die()
    if moment == "when the child is killed at the gate":
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "when the child is at the gate":
        send = self._socket.send
        class Socket:
            def send(_, data):
                send(data)
                die()
            recv, close = self._socket.recv, self._socket.close
        self._socket = Socket()
    return knock(self)
ringrift_fork.Gate.pass_through = pass_through
ringrift_zygote.whole()
"#;

const MOMENTS: [&str; 10] = [
    "never",
    "before it forks",
    "when it has forked",
    "between its forks",
    "before the one between ends",
    "when the child begins",
    "before the child is at the gate",
    "when the child is killed at the gate",
    "when the child is at the gate",
    "when the child runs",
];

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../units/runner")
}

/// The interpreter itself, not what stands for it on the PATH.
fn python() -> String {
    let told = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .expect("python3 is on the PATH");
    String::from_utf8(told.stdout).unwrap().trim().to_owned()
}

struct Cast {
    node: Node,
    python: String,
}

impl Cast {
    fn new(mode: Mode, answer_ms: u64) -> Self {
        let node = Node::start_with(mode, &[], |command| {
            command.env(ZYGOTE_ANSWER, answer_ms.to_string());
        });
        let cast = Self {
            node,
            python: python(),
        };
        for (name, text) in [("telling.py", TELLING), ("liar.py", LIAR), ("dying.py", DYING)] {
            std::fs::write(cast.node.dir.path().join(name), text).unwrap();
        }
        cast
    }

    fn script(&mut self, name: &str, words: &[&str]) -> Launch {
        let path = self.node.dir.path().join(name).display().to_string();
        let python = self.python.clone();
        let argv: Vec<&str> = [python.as_str(), &path]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        self.node.launch(&argv)
    }

    /// A zygote runs. It says itself when it takes requests; nobody is asked before.
    fn zygote(&mut self, name: &str, words: &[&str]) -> LaunchId {
        let library = library().display().to_string();
        let words: Vec<&str> = words.iter().copied().chain([library.as_str()]).collect();
        let mut zygote = self.script(name, &words);
        zygote.is_zygote = true;
        zygote.no_new_privs = false;
        let id = self.node.ask(&zygote);
        self.node.launched(id);
        id
    }

    /// The runner's own.
    fn honest(&mut self) -> LaunchId {
        let path = library().join("ringrift_zygote.py").display().to_string();
        let python = self.python.clone();
        let mut zygote = self.node.launch(&[&python, &path, "os"]);
        zygote.is_zygote = true;
        let id = self.node.ask(&zygote);
        self.node.launched(id);
        id
    }

    /// Why a launch was not forked.
    fn unforked(&mut self, id: LaunchId) -> String {
        self.node
            .wait_for(|m| match m {
                FromKeeper::Unforked { id: of, why } if *of == id => Some(why.clone()),
                FromKeeper::Launched { id: of, .. } if *of == id => panic!("it was launched"),
                _ => None,
            })
            .0
    }

    /// Nobody but these launches' processes is below the keeper, as soon as the kernel has done with who ended.
    fn nobody_else(&self, of: &[u32]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left: Vec<u32> = keeper_support::descendants(self.node.keeper.id())
                .into_iter()
                .map(|(pid, _)| pid)
                .filter(|pid| !of.contains(pid))
                .collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "processes {left:?} are left");
            std::thread::yield_now();
        }
    }
}

fn forked_from(launch: &mut Launch, zygote: LaunchId, or_executed: bool) {
    launch.fork = Some(Fork {
        zygote: Some(zygote),
        or_executed,
    });
}

#[test]
fn a_forked_process_is_given_what_an_executed_one_is_given() {
    for mode in modes() {
        let mut cast = Cast::new(mode, 60_000);
        let zygote = cast.honest();
        let mut outputs = Vec::new();
        for is_forked in [false, true] {
            let mut launch = cast.script("telling.py", &["one", "two"]);
            launch.env.push(b"WATCHDOG_USEC=5000000".to_vec());
            launch.env.push(b"WORD=two\nlines".to_vec());
            launch.stdin = Some(b"to be read".to_vec());
            launch.working_dir = b"/usr".to_vec();
            launch.umask = 0o027;
            launch.nice = Some(5);
            launch.oom_score_adj = 500;
            launch.tag = "telling".to_owned();
            launch.rlimits = vec![
                Rlimit {
                    resource: libc::RLIMIT_NOFILE,
                    soft: Some(64),
                    hard: Some(128),
                },
                Rlimit {
                    resource: libc::RLIMIT_CORE,
                    soft: Some(0),
                    hard: Some(0),
                },
            ];
            if is_forked {
                forked_from(&mut launch, zygote, false);
            }
            let (exit, output) = cast.node.run(&launch);
            assert_eq!(exit, Exit::Code(7), "{output}");
            outputs.push(output);
        }
        assert_eq!(outputs[0], outputs[1]);
        assert!(outputs[0].contains("to be read"), "{}", outputs[0]);
        cast.node.end(0);
    }
}

#[test]
fn the_order_of_launches_is_the_order_of_their_processes_and_nothing_is_left_of_many() {
    let mut cast = Cast::new(Mode::Group, 60_000);
    let zygote = cast.honest();
    let ids: Vec<LaunchId> = (0..30)
        .map(|_| {
            let mut launch = cast.script("telling.py", &[]);
            forked_from(&mut launch, zygote, false);
            cast.node.ask(&launch)
        })
        .collect();
    let pid = |cast: &mut Cast, id: LaunchId| {
        let of = |m: &FromKeeper| match m {
            FromKeeper::Launched {
                id: of, start_time, ..
            } if *of == id => Some(*start_time),
            _ => None,
        };
        cast.node.wait_for(of).0
    };
    let starts: Vec<u64> = ids.iter().map(|id| pid(&mut cast, *id)).collect();
    assert!(starts.is_sorted(), "{starts:?}");
    for id in ids {
        assert_eq!(cast.node.exited(id), (Exit::Code(7), vec![]));
        cast.node.release(id);
    }
    cast.node.end(0);
}

/// What a lying zygote does, and what is said of it.
const LIES: [(&str, &str); 14] = [
    ("itself", "which is another one of ringriftd's"),
    ("own child", "which is no living child of the keeper's"),
    ("unmarked", "which does not bear its mark"),
    ("no session", "which has no session of its own"),
    ("privileged", "which has not given up new privileges"),
    ("early", "which began before the zygote was asked"),
    ("twice", "two came to its gate"),
    ("noise at the gate", "was said at its gate"),
    ("refuses", "its zygote refused: because  [31mof me"),
    ("shuts", "has ended before it ran"),
    ("dies", "has ended"),
    ("other version", "none of the words that it has"),
    ("noise", "none of the words that it has"),
    ("ready twice", "none of the words that it has"),
];

#[test]
fn each_lie_is_found_out_and_the_launch_is_executed_or_fails() {
    for mode in modes() {
        // What a cgroup can tell besides is told of who comes to the gate.
        let is_told = |lie: &str| mode == Mode::Group || ["unmarked", "early", "twice"].contains(&lie);
        for (lie, why) in LIES.into_iter().filter(|(lie, _)| is_told(lie)) {
            let mut cast = Cast::new(mode, 60_000);
            let zygote = cast.zygote("liar.py", &[lie]);
            let mut launch = cast.script("telling.py", &[]);
            forked_from(&mut launch, zygote, true);
            let id = cast.node.ask(&launch);
            let said = cast.unforked(id);
            assert!(said.contains(why), "{lie}: {said}");
            assert!(!said.contains(char::is_control), "{lie}: {said:?}");
            cast.node.launched(id);
            assert_eq!(cast.node.exited(id), (Exit::Code(7), vec![]), "{lie}");
            cast.node.release(id);

            let mut launch = cast.script("telling.py", &[]);
            forked_from(&mut launch, zygote, false);
            let id = cast.node.ask(&launch);
            cast.unforked(id);
            assert_eq!(cast.node.failed(id), (Stage::Zygote, 0), "{lie}");
            cast.node.destroy(zygote);
            cast.node.exited(zygote);
            cast.nobody_else(&[]);
            cast.node.end(0);
        }
    }
}

#[test]
fn another_units_process_at_the_gate_is_not_taken_and_not_touched() {
    if !is_root() {
        eprintln!("skipped: only root may name another process as the sender");
        return;
    }
    for mode in modes() {
        let mut cast = Cast::new(mode, 60_000);
        let zygote = cast.zygote("liar.py", &["forged"]);
        let (victim, pid) = cast.node.launch_ready("echo >&3; exec cat /dev/zero >/dev/null");
        let mut launch = cast.script("telling.py", &[]);
        launch.env.push(format!("VICTIM={pid}").into_bytes());
        forked_from(&mut launch, zygote, true);
        let id = cast.node.ask(&launch);
        assert!(cast.unforked(id).contains("which is another one of ringriftd's"));
        cast.node.launched(id);
        assert_eq!(cast.node.exited(id), (Exit::Code(7), vec![]));
        cast.node
            .signal(victim, libc::SIGKILL, ringriftd::ids::Scope::Main);
        let killed = Exit::Signal {
            signal: libc::SIGKILL,
            core: false,
        };
        assert_eq!(cast.node.exited(victim), (killed, vec![]), "{mode:?}");
        cast.node.end(0);
    }
}

#[test]
fn a_zygote_that_does_not_answer_or_too_late_holds_up_nobody_for_long() {
    for (mode, lie) in modes()
        .into_iter()
        .flat_map(|mode| [(mode, "silent"), (mode, "late")])
    {
        let mut cast = Cast::new(mode, 100);
        let zygote = cast.zygote("liar.py", &[lie]);
        let launches: Vec<Launch> = (0..3)
            .map(|_| {
                let mut launch = cast.script("telling.py", &[]);
                forked_from(&mut launch, zygote, true);
                launch
            })
            .collect();
        for launch in &launches {
            cast.node.ask(launch);
        }
        for launch in &launches {
            let said = cast.unforked(launch.id);
            assert!(said.contains("did not answer within 100ms"), "{lie}: {said}");
            cast.node.launched(launch.id);
            let (exit, _) = cast.node.exited(launch.id);
            assert_eq!(exit, Exit::Code(7));
        }
        cast.node.destroy(zygote);
        cast.node.exited(zygote);
        cast.nobody_else(&[]);
        cast.node.end(0);
    }
}

#[test]
fn nobody_is_asked_before_it_is_ready_and_a_launch_that_waits_can_be_given_up() {
    let mut cast = Cast::new(Mode::Group, 60_000);
    let zygote = cast.zygote("liar.py", &["never ready"]);
    let mut launch = cast.script("telling.py", &[]);
    forked_from(&mut launch, zygote, true);
    let id = cast.node.ask(&launch);
    // Asked again, it is no second one.
    cast.node.ask(&launch);
    cast.node.send(&ToKeeper::Destroy { id });
    assert_eq!(cast.unforked(id), "it was given up");
    assert_eq!(cast.node.failed(id), (Stage::Zygote, 0));
    // One that ends while somebody waits for it.
    let mut launch = cast.script("telling.py", &[]);
    forked_from(&mut launch, zygote, true);
    let id = cast.node.ask(&launch);
    cast.node.destroy(zygote);
    assert_eq!(cast.unforked(id), "its zygote has ended");
    cast.node.launched(id);
    assert_eq!(cast.node.exited(id), (Exit::Code(7), vec![]));
    // The keeper ends while somebody waits.
    let zygote = cast.zygote("liar.py", &["silent"]);
    let mut launch = cast.script("telling.py", &[]);
    forked_from(&mut launch, zygote, true);
    cast.node.ask(&launch);
    cast.node.settle();
    cast.node.end(0);
}

#[test]
fn who_cannot_be_forked_is_told_why_without_asking() {
    let mut cast = Cast::new(Mode::Group, 60_000);
    let zygote = cast.honest();
    let plain = cast.node.shell("exec cat /dev/zero >/dev/null");
    let plain = cast.node.ask(&plain);
    let nobody = Identity {
        uid: 65534,
        gid: 65534,
        groups: vec![],
    };
    type Change<'a> = &'a dyn Fn(&mut Launch);
    let cases: [(&str, Change<'_>); 4] = [
        ("its zygote is not ready", &|launch| {
            launch.fork = Some(Fork {
                zygote: None,
                or_executed: false,
            });
        }),
        (
            "its zygote has ended, or was started by another keeper",
            &|launch| {
                forked_from(launch, plain, false);
            },
        ),
        ("it is another user's than its zygote", &|launch| {
            launch.identity = Some(nobody.clone());
            forked_from(launch, zygote, false);
        }),
        (
            "its zygote has no_new_privs, which it is not to have",
            &|launch| {
                launch.no_new_privs = false;
                forked_from(launch, zygote, false);
            },
        ),
    ];
    for (why, change) in cases {
        let mut launch = cast.node.shell("true");
        change(&mut launch);
        let id = cast.node.ask(&launch);
        assert_eq!(cast.unforked(id), why);
        assert_eq!(cast.node.failed(id), (Stage::Zygote, 0));
    }
    // Neither the one thing nor the other can be asked for.
    let mut both = cast.node.shell("true");
    both.is_zygote = true;
    both.ready_fd = Some(3);
    let id = cast.node.ask(&both);
    assert_eq!(cast.node.failed(id), (Stage::Request, 0));
    cast.node.end(0);
}

#[test]
fn a_zygote_killed_at_any_moment_of_a_fork_leaves_a_whole_process_or_none() {
    for mode in modes() {
        for moment in MOMENTS {
            let mut cast = Cast::new(mode, 60_000);
            let zygote = cast.zygote("dying.py", &[moment]);
            let mut launch = cast.script("telling.py", &[]);
            forked_from(&mut launch, zygote, true);
            let id = cast.node.ask(&launch);
            cast.node.launched(id);
            // Forked or executed, it does its work once, and its code is told.
            let (exit, _) = cast.node.exited(id);
            assert_eq!(exit, Exit::Code(7), "{moment}");
            let output = cast.node.release(id);
            assert_eq!(output.matches("leads True True").count(), 1, "{moment}: {output}");
            if matches!(moment, "never" | "when the child is killed at the gate") {
                cast.node.destroy(zygote);
            }
            cast.node.exited(zygote);
            cast.nobody_else(&[]);
            cast.node.end(0);
        }
    }
}
