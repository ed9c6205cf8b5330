//! Every bound of the daemon, named, with its reason. A bound that a file can change has its default here too.

use std::time::Duration;

// --- names and files -----------------------------------------------------------------------------------------

/// The longest unit or profile name, in bytes. Fits a cgroup, a file name and a column.
pub const NAME_MAX: usize = 64;
/// The largest unit, profile or configuration file, in bytes.
pub const FILE_MAX: u64 = 1024 * 1024;
/// All files of a configuration together, in bytes: they are kept with the state. 10 000 units take some 10 MiB.
pub const FILE_SET_MAX: usize = 64 * 1024 * 1024;
/// Files in one folder of units or profiles.
pub const FILES_MAX: usize = 20_000;
/// The deepest nesting of a TOML file; deeper is refused before it is parsed.
pub const TOML_DEPTH_MAX: usize = 32;
/// Faults of one file that are reported; then "and more".
pub const FAULTS_PER_FILE_MAX: usize = 100;
/// The longest string of a unit file (a description, one argument), in bytes.
pub const TEXT_MAX: usize = 32 * 1024;
/// Entries of one list of a unit file.
pub const LIST_MAX: usize = 4096;

// --- launches ------------------------------------------------------------------------------------------------

/// Arguments and environment of one launch together, in bytes: one message to the keeper.
pub const LAUNCH_BYTES_MAX: usize = 160 * 1024;
/// The largest message between keeper, manager and logger, in bytes (below the kernel's default of 208 KiB).
pub const WIRE_MESSAGE_MAX: usize = 192 * 1024;
/// Descriptors of the keeper below this are what it works with and gives to children; what it holds for units is above.
pub const LOW_FDS: i32 = 64;
/// Descriptors in one message between the roles.
pub const WIRE_FDS_MAX: usize = 4;
/// How long environment files, user names and interpreters may take to read before a start is given up and tried again.
/// A disk that is merely busy answers within it; one that is gone does not.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest environment file, in bytes.
pub const ENV_FILE_MAX: u64 = 256 * 1024;
/// Pids that a message names at most when something could not be killed.
pub const REMAINS_MAX: usize = 64;
/// How long the keeper waits between two rounds of SIGKILL while processes refuse to go.
pub const KILL_AGAIN: Duration = Duration::from_millis(100);
/// How long the keeper runs, at most in each round of SIGKILL, after processes without a cgroup that start the next one before
/// they can be looked up.
pub const CHASE_TIME: Duration = Duration::from_millis(20);
/// Processes that one of those and what it has started may be at once; what is more is found in the next round.
pub const CHASE_FAMILY: usize = 64;
/// How long after SIGKILL a unit may take to vanish before its stop has failed (a process in the kernel's D state).
pub const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How old the machine's count of kills for want of memory may be when a launch begins.
pub const OOM_COUNT_AGE: Duration = Duration::from_secs(1);

// --- units: defaults of what files may set -------------------------------------------------------------------

/// `[ready] timeout`.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// `[exec] hook_timeout`.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// `[restart] delay`.
pub const RESTART_DELAY: Duration = Duration::from_secs(5);
/// `[restart] max_delay`.
pub const RESTART_MAX_DELAY: Duration = Duration::from_secs(300);
/// `[restart] factor`, in thousandths.
pub const RESTART_FACTOR_MILLI: u32 = 2000;
/// `[restart] jitter`, in thousandths.
pub const RESTART_JITTER_MILLI: u32 = 100;
/// `[restart] stable_after`.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);
/// `[restart] max_restarts`.
pub const MAX_RESTARTS: u32 = 5;
/// `[restart] max_restarts` at most: the window keeps one time for each.
pub const MAX_RESTARTS_MAX: u32 = 10_000;
/// `[restart] window`.
pub const RESTART_WINDOW: Duration = Duration::from_secs(3600);
/// `[restart] retry_every`.
pub const RETRY_EVERY: Duration = Duration::from_secs(4 * 3600);
/// `[restart] retry_every` of critical units.
pub const RETRY_EVERY_CRITICAL: Duration = Duration::from_secs(1800);
/// `[stop] timeout`.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// `[stop] drain_timeout`.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// `[health] interval`.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// `[health] grace`.
pub const HEALTH_GRACE: Duration = Duration::from_secs(60);
/// `[health] failures`.
pub const HEALTH_FAILURES: u32 = 3;
/// `[health] timeout`, where the interval is not shorter.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that a file may give.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// `[breaker] restarts`: automatic restarts of all units within [`BREAKER_WINDOW`].
pub const BREAKER_RESTARTS: u32 = 15;
/// What `[breaker] restarts` may be at most: the times of so many are stored.
pub const BREAKER_RESTARTS_MAX: i64 = 1000;
/// `[breaker] window`.
pub const BREAKER_WINDOW: Duration = Duration::from_secs(300);
/// `[breaker] cooldown`.
pub const BREAKER_COOLDOWN: Duration = Duration::from_secs(120);
/// `[breaker] startup_grace`.
pub const BREAKER_STARTUP_GRACE: Duration = Duration::from_secs(180);
/// `shutdown_timeout`.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(90);
/// Back-off after the host could not fork, open or allocate: first, then doubled.
pub const HOST_FAULT_DELAY: Duration = Duration::from_millis(500);
/// Back-off after host faults at most.
pub const HOST_FAULT_MAX_DELAY: Duration = Duration::from_secs(30);

// --- logs ----------------------------------------------------------------------------------------------------

/// Bytes of records that wait to be passed on (`[log] forward`); what comes while there are more is not passed on, and counted.
pub const LOG_FORWARD_QUEUE: usize = 4 << 20;

/// How long the thread that passes lines on waits for a socket that is full.
pub const LOG_FORWARD_PATIENCE: Duration = Duration::from_secs(1);

/// After a socket refused a line, those of so long are not passed on, and counted.
pub const LOG_FORWARD_AGAIN: Duration = Duration::from_secs(1);

/// How long the logger's end waits for what is still to be passed on.
pub const LOG_FORWARD_END: Duration = Duration::from_millis(500);

/// Lines of many pieces whose severity is known to the thread that passes lines on.
pub const LOG_FORWARD_BEGUN: usize = 1024;

/// Lines of many pieces that a reader of one log knows the beginnings of.
pub const LOG_BEGUN_MAX: usize = 16;

/// `[log] max_size`, in bytes.
pub const LOG_SIZE: u64 = 16 * 1024 * 1024;
/// Text of a packed log file that is one frame, in bytes: what a reader holds of each, and what is unpacked to read
/// any line of it. (128 KiB is zstd's largest block.)
pub const LOG_PACK_FRAME: usize = 128 * 1024;
/// zstd's own default: a higher level costs twice the time for some percent.
pub const LOG_PACK_LEVEL: i32 = 3;
/// A larger log file is not packed, so that its table stays small.
pub const LOG_PACK_MAX: u64 = 4 << 30;
/// The nice value of the thread that packs. Not the largest one: it holds a unit's names for a few calls, and must not be
/// starved there.
pub const LOG_PACK_NICE: i32 = 10;
/// When packing is tried again that failed.
pub const LOG_PACK_RETRY: Duration = Duration::from_secs(60);
/// How long a logger that ends waits for the thread that packs.
pub const LOG_SHELF_END: Duration = Duration::from_secs(1);
/// Units of which it is remembered at once how much was dropped; past it a unit waits, as if it said `block`.
pub const LOG_DROPS: usize = 1024;
/// How often the pipes of a log that drops are looked at while it cannot be written: a unit that fills its pipe waits for
/// no longer.
pub const LOG_DROP_LOOK: Duration = Duration::from_millis(10);
/// Bytes that may wait in such a pipe, and are written when the disk is well: a quarter of a pipe. (Room is counted in pages,
/// which may be hardly half full each; half of a pipe's bytes could be all of its pages.)
pub const LOG_DROP_KEEP: usize = 16 * 1024;
/// The longest time between two looks at the ages of log files, where `[log] max_age` bounds them.
pub const LOG_AGE_LOOK_MAX: Duration = Duration::from_secs(3600);
/// The shortest.
pub const LOG_AGE_LOOK_MIN: Duration = Duration::from_millis(100);
/// So much of `[log] max_total` may be written before the sum is looked at again, as a divisor.
pub const LOG_TOTAL_SLACK: u64 = 32;
/// `[log] max_files`, the one being written among them.
pub const LOG_FILES: u32 = 5;
/// The longest stored line, in bytes; a longer one is split and marked.
pub const LOG_LINE_MAX: usize = 16 * 1024;
/// What the logger reads from one pipe before it turns to the next, in bytes.
pub const LOG_READ: usize = 128 * 1024;
/// Where one look into a pipe brings so much, its unit is likely to wait for room, in bytes.
pub const LOG_PIPE_BUSY: usize = 32 * 1024;
/// The room of a pipe as the kernel makes it (pipe(7)), in bytes.
pub const LOG_PIPE_ROOM: usize = 64 * 1024;
/// That of a busy one: what a user without privileges may ask for.
pub const LOG_PIPE_WIDE: usize = 1024 * 1024;
/// So many pipes have it at once: 8 MiB of the kernel's memory.
pub const LOG_PIPES_WIDE: usize = 8;
/// So long a pipe keeps it at least when others are busy too.
pub const LOG_PIPE_WIDE_TIME: Duration = Duration::from_secs(1);
/// Lines in one frame of an answer at most.
pub const LOG_LINES_PER_FRAME: usize = 256;
/// Log readers (`logs`, `logs -f`) at once.
pub const LOG_QUERIES_MAX: usize = 32;
/// Queries of the manager for a unit's last lines that are read at once; more wait.
pub const LOG_TAILS_MAX: usize = 4;
/// Queries of the manager for a unit's last lines that wait; past it the answer is empty. Four answers with
/// [`TAILS_AT_ONCE`] units each.
pub const LOG_TAILS_WAITING: usize = 4 * TAILS_AT_ONCE;
/// Records of one unit that go into one write(2), in bytes.
pub const LOG_WRITE_BUFFER: usize = 256 * 1024;
/// Pipes that may hold a begun line (or one that the last logger left half moved) at the same time; past it begun lines
/// are written in pieces.
pub const LOG_CARRIES: usize = 4096;
/// Of those, how many keep their memory when their line is done.
pub const LOG_CARRIES_WARM: usize = 64;
/// Pipes of one unit that are kept past their time because its log cannot be written; past it the oldest is lost.
pub const LOG_PIPES_WAITING: usize = 4;
/// Log files that the writer holds open at once; past it the one opened first is closed (half of a usual limit of
/// descriptors goes to the pipes).
pub const LOG_FILES_OPEN_MAX: usize = 512;
/// Log files that all readers together hold open; past it they open a file for each block that they read.
pub const LOG_READERS_OPEN_MAX: usize = 512;
/// Rotated files of one unit at most, whatever its file says.
pub const LOG_FILES_MAX: u32 = 1000;
/// What a query over many units buffers in all, in bytes, when their records are short.
pub const LOG_QUERY_BUFFER: usize = 4 * 1024 * 1024;
/// The blocks in which log files are read back, in bytes.
pub const LOG_BLOCK: usize = 64 * 1024;
/// Log bytes in one frame of an answer, without its framing: well below `MAX_FRAME`.
pub const LOG_FRAME_BYTES: usize = 512 * 1024;
/// How far back from the end of a unit's log the manager's own query looks, in bytes.
pub const LOG_TAIL_SCAN: u64 = 4 * 1024 * 1024;
/// A message in the answer to the manager's own query is cut here, in bytes.
pub const LOG_TAIL_MESSAGE: usize = 1024;
/// That answer in all, in bytes: one datagram between the roles.
pub const LOG_TAIL_BYTES: usize = 128 * 1024;
/// Back-off after a log file could not be written: first, then doubled.
pub const LOG_RETRY_DELAY: Duration = Duration::from_millis(100);
/// That back-off at most.
pub const LOG_RETRY_MAX_DELAY: Duration = Duration::from_secs(5);
/// What is still read from each pipe when the daemon ends, in bytes: all that a pipe can hold by default.
pub const LOG_END_READ: usize = 1024 * 1024;
/// How often a log file that is written is compared with what has its name, so that a removed one is made anew.
pub const LOG_FILE_CHECK: Duration = Duration::from_secs(1);
/// How long after the first line the manager is told of it: what comes in that time is told together.
pub const LOG_TELL_SOON: Duration = Duration::from_millis(100);
/// Between two tellings of what the logs were given: so often the manager is woken, and writes its state, for that.
pub const LOG_TELL_PAUSE: Duration = Duration::from_secs(2);
/// A unit's output that is dropped is an event at most so often; what was dropped in between is in the next one's numbers.
pub const LOG_DROP_EVENTS: Duration = Duration::from_secs(60);
/// Units in one message of it: a hundred bytes each.
pub const LOG_TELL_UNITS: usize = 512;

// --- notifications -------------------------------------------------------------------------------------------

/// The largest datagram that a unit may send, in bytes; the rest of a longer one voids it.
pub const NOTIFY_MAX: usize = 4096;
/// The longest `STATUS=` that is kept, in bytes.
pub const STATUS_TEXT_MAX: usize = 512;
/// Datagrams a second of one unit that are looked at; more are counted and dropped.
pub const NOTIFY_RATE: u32 = 100;
/// Bytes of a readiness pipe that are looked at in one go.
pub const READY_LOOK: usize = 1024;

// --- control -------------------------------------------------------------------------------------------------

/// Connections at once.
pub const CLIENTS_MAX: usize = 256;
/// Of those, kept free for root and the owner while strangers knock.
pub const CLIENTS_RESERVED: usize = 8;
/// Requests under way on one connection.
pub const REQUESTS_PER_CLIENT: usize = 32;
/// How long a client may take for its hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take from the first to the last byte of a frame.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may lie idle with nothing under way.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to accept a frame before it is let go.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames that wait for one client.
pub const CLIENT_QUEUE: usize = 64;
/// Events that a subscriber may lag behind before it is told how many it missed.
pub const SUBSCRIBER_LAG: usize = 4096;
/// Events that the node remembers in memory.
pub const EVENTS_KEPT: usize = 8192;
/// The longest path of a socket, in bytes (`sun_path` less its NUL; unix(7)).
pub const SOCKET_PATH_MAX: usize = 107;
/// How soon the keeper is asked again for a control socket that it could not make.
pub const RELISTEN_RETRY: Duration = Duration::from_secs(2);
/// Between two times that it is made again: whoever removes it again and again gets no loop.
pub const RELISTEN_PAUSE: Duration = Duration::from_millis(500);
/// How often its name is looked for where the kernel cannot tell (no inotify instance left).
pub const SOCKET_LOOK_AGAIN: Duration = Duration::from_secs(4);
/// Requests that wait for the manager's loop.
pub const ASKS_QUEUE: usize = 256;

// --- HTTP ----------------------------------------------------------------------------------------------------

/// Back-off after the place for HTTP could not be had: first, then doubled.
pub const HTTP_RETRY_DELAY: Duration = Duration::from_secs(1);
/// That back-off at most.
pub const HTTP_RETRY_MAX_DELAY: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted.
pub const HTTP_BACKLOG: i32 = 128;
/// Connections at once; past it somebody has to give way, or ends.
pub const HTTP_CLIENTS_MAX: usize = 64;
/// A client that has taken nothing of its answer for so long gives way to a new one.
pub const HTTP_STALL: Duration = Duration::from_secs(1);
/// Of those, streams of events.
pub const HTTP_STREAMS_MAX: usize = 24;
/// How long a client may take from its connection to the end of its header.
pub const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take in all, from the connection to the last byte of its answer; a stream may that long take
/// nothing.
pub const HTTP_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest header of a request in bytes, its first line included.
pub const HTTP_HEADER_MAX: usize = 16 * 1024;
/// Fields in it.
pub const HTTP_FIELDS_MAX: usize = 64;
/// The longest path of a request with its query, in bytes.
pub const HTTP_URI_MAX: usize = 2048;
/// How often a stream with nothing to say says so.
pub const HTTP_HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two tellings of how often was asked: so often a scrape, or a flood of them, makes the manager write.
pub const HTTP_TELL_PAUSE: Duration = Duration::from_secs(5);
/// What a unit uses is measured anew after so long.
pub const USAGE_FRESH: Duration = Duration::from_secs(1);
/// How long measuring may take before an answer does without.
pub const USAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Changes of state of one unit that the dashboard shows.
pub const HTTP_HISTORY: usize = 60;
/// Events of one unit that its page shows.
pub const HTTP_UNIT_EVENTS: usize = 50;
/// How often what follows from other units (who waits for whom) is looked at again while things change.
pub const PUBLISH_PAUSE: Duration = Duration::from_millis(100);

// --- the roles -----------------------------------------------------------------------------------------------

/// How long the manager may take from its start until it serves.
pub const MANAGER_START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long after a fresh manager serves the processes that bear the node's mark and that it did not take over are named.
pub const ADOPT_WINDOW: Duration = Duration::from_secs(10);
/// How long a new keeper waits for the lock of a dead one, whose manager still holds it.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long the keeper waits for manager and logger to end after the last unit.
pub const ROLE_END_TIMEOUT: Duration = Duration::from_secs(5);
/// Back-off before a dead manager is started again, from the second death in a row on: first, then doubled. After one death
/// it is started at once.
pub const MANAGER_RESTART_DELAY: Duration = Duration::from_millis(100);
/// That back-off at most.
pub const MANAGER_RESTART_MAX_DELAY: Duration = Duration::from_secs(10);
/// A manager that served so long has proved itself: its next death is the first in a row again.
pub const MANAGER_STABLE_AFTER: Duration = Duration::from_secs(60);
/// A manager that served so long is started again at once when it dies; one that dies sooner, with a back-off.
pub const MANAGER_STEADY_AFTER: Duration = Duration::from_secs(1);
/// The back-off's largest exponent for a manager that served and was then killed by SIGKILL: 400 ms.
pub const MANAGER_MURDERED_STEPS: u32 = 3;
/// Deaths in a row after which the manager begins with the last state that held.
pub const MANAGER_SAFE_AFTER: u32 = 5;
/// A manager that said nothing for so long is asked whether it lives: the only wake-up of an idle node.
pub const MANAGER_SILENCE: Duration = Duration::from_secs(30);
/// How long it may take to answer before it is hung.
pub const MANAGER_ANSWER: Duration = Duration::from_secs(15);
/// A keeper that wakes so long after its own deadline was itself held up (stopped, or the machine was): it judges nobody.
pub const KEEPER_LATE: Duration = Duration::from_secs(1);
/// Back-off before a dead logger is started again: first, then doubled.
pub const LOGGER_RESTART_DELAY: Duration = Duration::from_millis(100);
/// That back-off at most.
pub const LOGGER_RESTART_MAX_DELAY: Duration = Duration::from_secs(10);

// --- the manager's edges -------------------------------------------------------------------------------------

/// Messages and their bytes that may wait for a keeper or logger that does not read; past it the link has failed.
/// Ten thousand launches of ordinary size fit.
pub const LINK_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Descriptors that may wait with them.
pub const LINK_QUEUE_FDS: usize = 256;
/// What a link asks the kernel to buffer, in bytes; the kernel may allow less.
pub const LINK_BUFFER: usize = 1024 * 1024;
/// How often somebody looks whether what may block has come to a stand; another thread joins then.
pub const CREW_LOOK: Duration = Duration::from_millis(10);
/// How long a piece of such work may wait behind others that go on: a few more threads join then, as for a slow disk.
pub const CREW_SLOW: Duration = Duration::from_millis(100);
/// How many threads there are at most while none hangs.
pub const CREW_USUAL: usize = 4;
/// Threads that look at the files of programs for what is kept of failures. On a dead disk they are lost, and so is what they were to tell.
pub const EYES_AT_ONCE: usize = 8;
/// Threads that prepare launches. One that hangs on a dead disk is lost until the disk answers.
pub const PREPARE_AT_ONCE: usize = 64;
/// The longest single argument or `NAME=value`, in bytes with its NUL (execve(2), MAX_ARG_STRLEN).
pub const ARGUMENT_MAX: usize = 128 * 1024;
/// Commands of `[on_event]` that run at once, unless the file says otherwise. One: in the order of the events.
pub const HOOKS_AT_ONCE: u32 = 1;
/// How many it may say at most.
pub const HOOKS_AT_ONCE_MAX: i64 = 16;
/// Events that wait for that command, unless the file says otherwise.
pub const HOOK_QUEUE: u32 = 256;
/// How many it may say at most: not more than the state remembers ([`EVENTS_REMEMBERED`]).
pub const HOOK_QUEUE_MAX: i64 = 1024;
/// How often that command is run a second, unless the file says otherwise.
pub const HOOK_RATE: u32 = 10;
/// How often it may say at most, by its own unit of time.
pub const HOOK_RATE_MAX: u32 = 1000;
/// What a launch may be given to read from its standard input, in bytes.
pub const STDIN_MAX: usize = 64 * 1024;
/// The longest name of a stored descriptor, in bytes (sd_notify(3), FDNAME).
pub const FD_NAME_MAX: usize = 255;
/// Descriptors that one unit may have stored: `[exec] fd_store_max` at most. Their names fit into one variable.
pub const FD_STORE_MAX: u32 = 256;
/// Descriptors that all units together may have stored.
pub const FDS_STORED_MAX: usize = 4096;
/// Numbers in one `X_RINGRIFT_METRICS=`.
pub const METRICS_MAX: usize = 64;
/// The longest name of one, in bytes.
pub const METRIC_NAME_MAX: usize = 64;
/// How long the end of a main process that left others waits for what the unit said before it (`MAINPID=` among it).
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// Datagrams of one unit that are thrown away in one go before other work gets its turn.
pub const NOTIFY_DRAIN: usize = 64;
/// Bytes that wait for one client; one frame always may.
pub const CLIENT_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Connections at once of one user who is neither root nor the owner.
pub const CLIENTS_PER_STRANGER: usize = 32;
/// How long no connection is accepted after the process or the host ran out of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Complaints about clients that are logged at once, and then one each [`COMPLAINT_EVERY`].
pub const COMPLAINTS_BURST: u32 = 10;
/// See [`COMPLAINTS_BURST`].
pub const COMPLAINT_EVERY: Duration = Duration::from_secs(5);
/// The longest program name in a client's hello that is kept, in bytes.
pub const PROGRAM_MAX: usize = 64;
/// Processes of the host that are looked at to find one to adopt; with more there is no answer.
pub const OUTSIDE_PROCESSES_MAX: usize = 131_072;
/// Of each command line so much is looked at, in bytes.
pub const OUTSIDE_COMMAND_MAX: usize = 16 * 1024;
/// Processes that are named when several match.
pub const OUTSIDE_NAMED: usize = 20;
/// Of each so much of its command line is shown, in characters.
pub const OUTSIDE_SHOWN: usize = 200;
/// Processes of one unit that are looked at to tell what it uses.
pub const USAGE_PROCESSES_MAX: usize = 4096;
/// Messages that wait in the keeper for the manager or the logger before it reads no more requests.
pub const KEEPER_OUTBOX: usize = 1024;
/// Reloads that wait for the one that is under way: one reading answers them all.
pub const RELOADS_WAITING: usize = 256;
/// How often the keeper looks again where the kernel would not tell: an inotify watch or a descriptor in flight that
/// could not be had, a cgroup that is still counted busy.
pub const KEEPER_LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a keeper that looks for what an earlier one left waits for a process that is on the way to its program.
pub const BIRTH_WAIT: Duration = Duration::from_millis(500);
/// How long one look at what earlier keepers left counts.
pub const LEFT_BEHIND_AGE: Duration = Duration::from_secs(1);
/// How long an orphan without any environment, which may be in the middle of execve(2), keeps launches from being called
/// empty where there is no cgroup.
pub const KEEPER_DOUBT: Duration = Duration::from_secs(2);
/// How often it looks at a busy cgroup before it leaves it in place and says so.
pub const CGROUP_REMOVE_TRIES: u32 = 50;
/// The largest picture of a keeper that another program takes over, in bytes: some 20 000 launches.
pub const HANDOVER_MAX: u64 = 64 * 1024 * 1024;
/// How long a new program may take to say what it is, before an upgrade is refused.
pub const SELF_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// What it may print meanwhile, in bytes.
pub const SELF_CHECK_BYTES: usize = 64 * 1024;
/// How long the manager of a new program may take to serve, before the old program comes back.
pub const UPGRADE_TRIAL: Duration = Duration::from_secs(4);
/// Managers of a new program that may die meanwhile.
pub const UPGRADE_DEATHS: u32 = 2;
/// Seconds after which a new program that has not even taken over what the old one left is killed; the old manager, which
/// is still there, then takes the keeper's place.
pub const UPGRADE_ALARM_SECONDS: u32 = 3;
/// How long a manager may take to stand still before an upgrade.
pub const ROLE_STOP_WAIT: Duration = Duration::from_millis(500);
/// How long a new program waits for both old roles to be dead before it starts what it can.
pub const ROLE_REPLACE_WAIT: Duration = Duration::from_secs(1);
/// How long a zygote may take from the request until its child is at the gate. A fork takes milliseconds; a stopped or
/// hung zygote is told from one on a busy machine.
pub const ZYGOTE_ANSWER: Duration = Duration::from_secs(10);
/// A logger that lived so long has proved itself: its next death is followed by the first back-off again.
pub const LOGGER_STABLE_AFTER: Duration = Duration::from_secs(60);

/// Answers that are kept for clients that ask again.
pub const ANSWERS_KEPT: usize = 256;
/// A manager that is so long past a deadline was stopped, or the machine slept: it hears first what was said meanwhile.
pub const LATE_AFTER: Duration = Duration::from_millis(500);
/// For so long.
pub const LATE_GRACE: Duration = Duration::from_millis(200);
/// Events that the state carries until they are surely in the flight recorder's files.
pub const EVENTS_REMEMBERED: usize = 2048;
/// How long an answer waits for the disk to have what it says; past it the answer says that it has not.
pub const PROMISE_TIMEOUT: Duration = Duration::from_secs(5);
/// Serials that are left out after a start from the state on disk, which may be a moment behind: none is used twice.
pub const SERIALS_SKIPPED: u64 = 1_000_000;
/// Jobs under way whose client has gone and may come again.
pub const ORPHAN_JOBS_MAX: usize = 1024;
/// Signals that are remembered, so that a new manager can send those that the keeper has not heard of.
pub const ORDERS_KEPT: usize = 4096;

// --- the manager's own tasks -----------------------------------------------------------------------------------

/// Between two looks at a pid file that is not there yet (nothing tells of it).
pub const PID_FILE_PAUSE: Duration = Duration::from_millis(50);
/// Units whose last log lines one `status` shows.
pub const TAILS_AT_ONCE: usize = 64;
/// Lines of each.
pub const TAIL_LINES: u32 = 10;

// --- failures ------------------------------------------------------------------------------------------------

/// Failures of each unit that are kept.
pub const CAPSULES_KEPT: usize = 3;
/// Last lines that a failure keeps.
pub const CAPSULE_TAIL_LINES: u32 = 20;
/// Those lines in all, in bytes: with 78 units that all failed three times, 2 MiB of the state.
pub const CAPSULE_TAIL_BYTES: usize = 8 * 1024;
/// The longest sentence of a failure that is kept, in bytes.
pub const CAPSULE_TEXT_MAX: usize = 1024;
/// Files that a command names and that are compared with what they were when it last worked.
pub const CAPSULE_FILES_MAX: usize = 8;
/// Failures whose last words, or files, are asked for at once.
pub const CAPSULES_AT_ONCE: usize = 16;
/// How long the logger waits for the end of a pipe before it reads a life's last words without.
pub const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(5);
/// Units in one frame of an answer that has the failures and last lines of each.
pub const DETAILS_PER_FRAME: usize = 4;
/// Rows of the chain that `why` tells at most.
pub const WHY_ROWS_MAX: usize = 1000;
/// Units that `why` names as blocked by one cause at most; more are counted.
pub const WHY_BLOCKS_MAX: usize = 1000;
// --- health ----------------------------------------------------------------------------------------------------

/// Probes under way at once on the node, but for commands; more wait for a place, the longest waiting first.
pub const PROBES_AT_ONCE: u32 = 128;
/// Commands of probes that run at once: each costs a process.
pub const PROBE_COMMANDS_AT_ONCE: u32 = 16;
/// The last results of a unit that are kept.
pub const CHECKS_KEPT: usize = 5;
/// A reason why a unit is not well, in bytes.
pub const HEALTH_TEXT_MAX: usize = 512;
/// Between two tries of a `[ready] probe`: first, then doubled.
pub const READY_PROBE_PAUSE: Duration = Duration::from_millis(100);
/// That pause at most.
pub const READY_PROBE_MAX_PAUSE: Duration = Duration::from_secs(2);
/// After a probe that nobody could judge (the manager was held up, or died), before it is asked again.
pub const PROBE_AGAIN: Duration = Duration::from_millis(250);
/// Between two changes of a unit's health that are told: one that flaps is told of this often.
pub const HEALTH_TELL_PAUSE: Duration = Duration::from_secs(1);
/// A probe whose time ran out and was seen to so much later was not heard in time: it is void.
pub const PROBE_LATE: Duration = Duration::from_millis(200);
/// Host names of probes that are looked up at once. One that hangs keeps its place until the resolver gives up.
pub const PROBE_LOOKUPS_AT_ONCE: usize = 16;
/// The head of an answer to an http probe, in bytes (the least that the library takes is 8 KiB).
pub const PROBE_HEAD_MAX: usize = 32 * 1024;
/// Its lines.
pub const PROBE_HEADERS_MAX: usize = 128;
/// How far back from the end of a unit's log a line is looked for, in bytes.
pub const LOG_FIND_SCAN: u64 = 16 * 1024 * 1024;
/// So many bytes of other lives end the search: what is before them is older than this life.
pub const LOG_FIND_OTHERS: u64 = 256 * 1024;
/// How much older than the last look a line may be that counts for this one.
pub const LOG_LINE_OVERLAP: Duration = Duration::from_secs(1);
/// The longest regular expression of a probe, in bytes.
pub const PATTERN_MAX: usize = 1024;
/// What one may grow to when it is compiled, in bytes.
pub const PATTERN_COMPILED_MAX: usize = 1024 * 1024;

// --- state that outlives a process -----------------------------------------------------------------------------

/// The longest payload of one record of state, in bytes. The whole state of 10 000 units with their files is some 40 MiB.
pub const STATE_RECORD_MAX: usize = 256 * 1024 * 1024;
/// The largest file of state, in bytes: a base, as much again in deltas, and one record more.
pub const STATE_FILE_MAX: u64 = 3 * STATE_RECORD_MAX as u64;
/// Deltas of a generation in bytes before a new base is worth its price, however small the base is. Past it, a new base
/// is due when the deltas outweigh the base: so each byte is written twice at most.
pub const STATE_DELTAS_MIN: u64 = 4 * 1024 * 1024;
/// Changes that wait for a slow disk, in bytes; past it they are dropped and the disk is given a whole state next.
pub const STATE_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Back-off after the folder of state could not be written: first, then doubled.
pub const STATE_RETRY_DELAY: Duration = Duration::from_millis(500);
/// That back-off at most.
pub const STATE_RETRY_MAX_DELAY: Duration = Duration::from_secs(10);
/// One of the two files of the flight recorder, in bytes: some 25 000 events.
pub const RECORDER_SEGMENT: u64 = 8 * 1024 * 1024;
/// Events that wait for a slow disk; past it they are counted and missing from the flight recorder.
pub const RECORDER_QUEUE: usize = 8192;
/// Events of the flight recorder in one piece of an answer.
pub const RECORDER_CHUNK: usize = 1024;

// --- recordings ------------------------------------------------------------------------------------------------

/// One file of a recording, in bytes: hours of a busy node. Past it the file is put aside as `FILE.1`, in the place of
/// the one there, and begun anew with the whole engine.
pub const RECORDING_MAX: u64 = 64 * 1024 * 1024;
/// Records of a recording that wait for a slow disk.
pub const RECORDING_QUEUE: usize = 8192;
/// The same in bytes. Past it steps are counted as lost, until the disk has taken all that waits.
pub const RECORDING_QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// How long the end of a manager waits for its recording to be in the file.
pub const RECORDING_FLUSH: Duration = Duration::from_secs(2);
/// The longest recording that is replayed, in bytes: a file may be as long as its bound and one record.
pub const RECORDING_READ_MAX: u64 = RECORDING_MAX + STATE_RECORD_MAX as u64;

// --- ringriftd simulate ----------------------------------------------------------------------------------------

/// What may happen in one simulation: an hour of a node of 78 units in which one is always failing is some 100 000.
pub const SIMULATE_EVENTS_MAX: u32 = 5_000_000;
/// Lines of its trace that are printed.
pub const SIMULATE_TRACE_MAX: usize = 100_000;
/// More starts than this within one second, once all are up, are a storm.
pub const SIMULATE_STORM: usize = 10;
