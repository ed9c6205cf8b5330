//! A daemon that says of itself what a test tells it to: `rr-say FOLDER`. It listens on a datagram socket `FOLDER/UNIT`
//! and does what each datagram asks, one after the other; the answer goes back to whoever asked. It sends nothing to
//! NOTIFY_SOCKET unasked but `READY=1` at the start, unless `--quiet` follows.
//!
//! `say TEXT` sends TEXT; `store NAME TEXT` has memory with TEXT in it stored under NAME, and `store-pipe NAME`, `store-file
//! NAME PATH` a pipe's read end (the write end is kept) or a file; `close-pipe` closes those write ends; `say-fds N TEXT`
//! attaches N descriptors; `barrier` waits until all that was said is heard; `flood N` sends N times STATUS; `random SEED N`
//! sends N datagrams of rubbish; `fork NAME` leaves a child that listens at `FOLDER/NAME`; `dies-saying TEXT` has a child say
//! TEXT and end, and answers when it is reaped; `given` answers with the descriptors that it was given; `exit CODE` ends.

use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::{ForkResult, fork};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() {
    if let Err(why) = run() {
        eprintln!("rr-say: {why}");
        std::process::exit(99);
    }
}

fn run() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.first().ok_or("FOLDER is missing")?;
    let unit = std::env::var("RINGRIFT_UNIT")?;
    let listener = listen(Path::new(folder), &unit)?;
    if args.get(1).is_none_or(|word| word != "--quiet") {
        say(b"READY=1", &[])?;
    }
    serve(folder, &listener)
}

fn listen(folder: &Path, name: &str) -> Fallible<UnixDatagram> {
    let path = folder.join(name);
    // A life before this one left it.
    let _ = std::fs::remove_file(&path);
    Ok(UnixDatagram::bind(path)?)
}

fn serve(folder: &str, listener: &UnixDatagram) -> Fallible<()> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        let (len, from) = listener.recv_from(&mut buffer)?;
        let text = String::from_utf8(buffer[..len].to_vec())?;
        let answer = match obey(folder, &text, &mut kept) {
            Ok(answer) => answer,
            Err(why) => format!("error: {why}"),
        };
        if let Some(path) = from.as_pathname() {
            listener.send_to(answer.as_bytes(), path)?;
        }
    }
}

fn obey(folder: &str, text: &str, kept: &mut Vec<OwnedFd>) -> Fallible<String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    match word {
        "say" => say(rest.as_bytes(), &[])?,
        "store" => {
            let mut memory = std::fs::File::from(memfd_create(c"rr-say", MFdFlags::empty())?);
            memory.write_all(second.as_bytes())?;
            say(
                format!("FDSTORE=1\nFDNAME={first}").as_bytes(),
                &[memory.as_raw_fd()],
            )?;
        }
        "store-pipe" => {
            let (read, write) = nix::unistd::pipe()?;
            say(
                format!("FDSTORE=1\nFDNAME={first}").as_bytes(),
                &[read.as_raw_fd()],
            )?;
            kept.push(write);
        }
        "close-pipe" => kept.clear(),
        "store-file" => {
            let file = std::fs::File::open(second)?;
            say(
                format!("FDSTORE=1\nFDNAME={first}").as_bytes(),
                &[file.as_raw_fd()],
            )?;
        }
        "say-fds" => {
            let null = std::fs::File::open("/dev/null")?;
            say(second.as_bytes(), &vec![null.as_raw_fd(); first.parse()?])?;
        }
        "barrier" => barrier()?,
        "flood" => {
            for n in 0..first.parse::<u64>()? {
                say(format!("STATUS={n}").as_bytes(), &[])?;
            }
        }
        "random" => random(first.parse()?, second.parse()?)?,
        "fork" => return leave_child(folder, first),
        "dies-saying" => {
            // SAFETY: this process has one thread, so the child may do whatever the parent may.
            match unsafe { fork() }? {
                ForkResult::Child => {
                    let said = say(rest.as_bytes(), &[]);
                    std::process::exit(i32::from(said.is_err()));
                }
                ForkResult::Parent { child } => {
                    nix::sys::wait::waitpid(child, None)?;
                    return Ok(child.to_string());
                }
            }
        }
        "given" => return given(),
        "exit" => std::process::exit(first.parse()?),
        other => return Err(format!("{other} is unknown").into()),
    }
    Ok("ok".to_owned())
}

fn leave_child(folder: &str, name: &str) -> Fallible<String> {
    let listener = listen(Path::new(folder), name)?;
    // SAFETY: as above.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.to_string()),
        ForkResult::Child => {
            let ended = serve(folder, &listener);
            std::process::exit(i32::from(ended.is_err()));
        }
    }
}

fn say(text: &[u8], fds: &[RawFd]) -> Fallible<()> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or("NOTIFY_SOCKET is not set")?;
    let socket = UnixDatagram::unbound()?;
    let address = UnixAddr::new(Path::new(&path))?;
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(text)],
        control,
        MsgFlags::empty(),
        Some(&address),
    )?;
    Ok(())
}

/// sd_notify_barrier(3): the other end of a pipe is closed when all that was said before is heard.
fn barrier() -> Fallible<()> {
    let (read, write) = nix::unistd::pipe()?;
    say(b"BARRIER=1", &[write.as_raw_fd()])?;
    drop(write);
    let ended = std::fs::File::from(read).read(&mut [0])?;
    if ended == 0 {
        Ok(())
    } else {
        Err("the barrier said something".into())
    }
}

/// The same rubbish for the same seed: any bytes, words with and without sense, descriptors.
fn random(seed: u64, count: u64) -> Fallible<()> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut dice = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    const WORDS: [&str; 18] = [
        "MAINPID=1",
        "MAINPID=99999999999",
        "FDSTORE=1",
        "FDSTOREREMOVE=1",
        "FDNAME=a:b",
        "FDPOLL=x",
        "STATUS=",
        "ERRNO=-1",
        "EXTEND_TIMEOUT_USEC=-1",
        "RELOADING=2",
        "STOPPING=yes",
        "BARRIER=2",
        "NOTIFYACCESS=none",
        "X_RINGRIFT_METRICS={",
        "X_RINGRIFT_HEALTH=?",
        "WATCHDOG=x",
        "=",
        "READY",
    ];
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(Duration::from_secs(60)))?;
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or("NOTIFY_SOCKET is not set")?;
    let address = UnixAddr::new(Path::new(&path))?;
    let null = std::fs::File::open("/dev/null")?;
    for _ in 0..count {
        let mut text = Vec::new();
        match dice(4) {
            0 => {
                for _ in 0..dice(200) {
                    text.push(dice(256) as u8);
                }
            }
            1 => text.resize(dice(70_000) as usize, b'A' + dice(26) as u8),
            2 => text.extend(b"STATUS=x\0READY=0"),
            _ => {
                for _ in 0..=dice(5) {
                    text.extend(WORDS[dice(WORDS.len() as u64) as usize].as_bytes());
                    text.push(b'\n');
                }
            }
        }
        let fds = vec![null.as_raw_fd(); [0, 0, 0, 1, 4, 253][dice(6) as usize]];
        let rights = [ControlMessage::ScmRights(&fds)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
        sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(&text)],
            control,
            MsgFlags::empty(),
            Some(&address),
        )?;
    }
    Ok(())
}

/// `PID-IS-MINE FDS NAME=CONTENT …`: what sd_listen_fds_with_names(3) would give, and what is in it.
fn given() -> Fallible<String> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_mine = variable("LISTEN_PID") == std::process::id().to_string();
    let count: RawFd = variable("LISTEN_FDS").parse().unwrap_or(0);
    let names = variable("LISTEN_FDNAMES");
    let mut out = format!("{is_mine} {count}");
    for (fd, name) in (3..3 + count).zip(names.split(':')) {
        // SAFETY: the variables say that it is open and this process's; a copy of it is taken, and it stays open.
        let file = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(fd) });
        let mut copy = file.try_clone()?;
        let mut text = String::new();
        if copy.seek(SeekFrom::Start(0)).is_ok() {
            copy.read_to_string(&mut text)?;
        }
        out.push_str(&format!(" {name}={text}"));
    }
    Ok(out)
}
