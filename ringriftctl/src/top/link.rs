//! The threads that speak with the daemon, each with a connection of its own: one that keeps the picture up to date, one
//! that follows a log, and one for each command. They clean what units wrote, and tell the loop by its [mailbox](super::mailbox).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use proto::reply::{LineEnd, Outcome, Reply, UnitStatus};
use proto::request::{Depth, Job, LogFilter, Request};

use super::mailbox::{Over, Sender};
use super::types::{News, Order, Verb};
use crate::client::{Client, Wake};
use crate::dial;
use crate::measure;
use crate::render::Style;
use crate::stop::{self, Stop};

/// How often everything is asked for when nothing happens: CPU, memory and times change without an event.
const POLL: Duration = Duration::from_secs(1);
/// How soon after an event everything is asked for; a storm of them asks no more often.
const SOON: Duration = Duration::from_millis(150);
/// How long a follower may take to see that nobody wants it any more.
const LOOK: Duration = Duration::from_millis(250);
/// The least time between two looks for nudges.
const GLANCE: Duration = Duration::from_millis(20);
/// Between two tries to reach a daemon.
const AGAIN: Duration = Duration::from_millis(500);
/// So many of a log's last lines are asked for.
const LINES: u64 = 500;

/// What every thread is given.
#[derive(Debug, Clone)]
pub struct Link {
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// Where news go.
    pub news: Sender,
    /// How foreign text is cleaned.
    pub style: Style,
    /// Counts up with every log that is followed: a follower of an older one ends.
    pub followed: Arc<AtomicU64>,
    /// Also units that nobody wants are asked for.
    pub asks_for_all: Arc<AtomicBool>,
}

/// Why a failure happened, on one clean line.
fn told(style: &Style, stop: &Stop) -> String {
    match stop {
        Stop::Failure(failure) => style.clean(&failure.message).replace('\n', " "),
        Stop::Pipe => "the connection was closed".to_owned(),
        Stop::Output(error) => error.to_string(),
    }
}

impl Link {
    fn connect(&self) -> Result<Client, Stop> {
        let mut client = Client::connect(self.socket.as_deref())?;
        client.is_quiet = true;
        client.warns = false;
        Ok(client)
    }

    fn tell(&self, news: News) -> Result<(), Over> {
        self.news.send(news)
    }

    /// Keeps the picture up to date, over every loss of the connection. `nudges` ask for it at once.
    pub fn watch(&self, first: Client, nudges: &Receiver<()>) {
        let mut client = Some(first);
        // Events are asked for from where the last connection ended.
        let mut after = None;
        loop {
            let ended = match client.take().map_or_else(|| self.connect(), Ok) {
                Ok(client) => self.picture(client, nudges, &mut after),
                Err(stop) => Ok(stop),
            };
            let Ok(stop) = ended else {
                return;
            };
            if self.tell(News::Lost(told(&self.style, &stop))).is_err() {
                return;
            }
            if let Err(RecvTimeoutError::Disconnected) = nudges.recv_timeout(AGAIN) {
                return;
            }
        }
    }

    /// Until the connection ends for good.
    fn picture(
        &self,
        mut client: Client,
        nudges: &Receiver<()>,
        after: &mut Option<u64>,
    ) -> Result<Stop, Over> {
        let since_us = after.is_none().then_some(self.style.now_us);
        let request = Request::Events {
            selectors: Vec::new(),
            follow: true,
            after: *after,
            since_us,
        };
        let edges = || Request::Deps {
            selectors: Vec::new(),
        };
        let started = client.ask(request).and_then(|id| Ok((id, client.ask(edges())?)));
        let (events, mut graph) = match started {
            Ok(ids) => ids,
            Err(stop) => return Ok(stop),
        };
        let (mut status, mut next) = (None, Instant::now());
        let (mut node, mut units): (_, Vec<UnitStatus>) = (None, Vec::new());
        let mut is_lost = false;
        loop {
            match nudges.try_recv() {
                Ok(()) => next = Instant::now(),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err(Over),
            }
            if status.is_none() && Instant::now() >= next && !is_lost {
                (node, units) = (None, Vec::new());
                match client.ask(Request::Status {
                    selectors: Vec::new(),
                    depth: Depth::Usage,
                    all: self.asks_for_all.load(Ordering::SeqCst),
                }) {
                    Ok(id) => status = Some(id),
                    Err(stop) => return Ok(stop),
                }
                next = Instant::now() + POLL;
            }
            // Nudges come by a channel, which cannot be waited for beside the socket: they are looked for this often.
            let woken = match client.wake(Some(next.clamp(Instant::now() + GLANCE, Instant::now() + LOOK))) {
                Ok(wake) => wake,
                Err(stop) => return Ok(stop),
            };
            if client.is_lost() != is_lost {
                is_lost = client.is_lost();
                self.tell(if is_lost {
                    News::Lost("the manager is being replaced".to_owned())
                } else {
                    News::Back
                })?;
            }
            match woken {
                Wake::Reply(id, reply) if Some(id) == status => match reply {
                    Reply::Node(n) => node = Some(n),
                    Reply::Units(mut more) => units.append(&mut more),
                    Reply::End => {
                        status = None;
                        if let Some(node) = node.take() {
                            self.tell(News::Status {
                                node,
                                units: std::mem::take(&mut units),
                                taken_us: measure::now_us(),
                            })?;
                        }
                    }
                    Reply::Failed(failure) => return Ok(failure.into()),
                    _ => {}
                },
                Wake::Reply(id, reply) if id == events => match reply {
                    Reply::Event(event) => {
                        *after = Some(event.seq);
                        next = next.min(Instant::now() + SOON);
                        let is_reload = event.cause.kind == proto::reply::CauseKind::Config;
                        self.tell(News::Event(event))?;
                        if is_reload {
                            match client.ask(edges()) {
                                Ok(id) => graph = id,
                                Err(stop) => return Ok(stop),
                            }
                        }
                    }
                    Reply::Failed(failure) => return Ok(failure.into()),
                    // Some were dropped: the picture itself is asked for whole.
                    _ => next = next.min(Instant::now() + SOON),
                },
                Wake::Reply(id, Reply::Graph(edges)) if id == graph => self.tell(News::Edges(edges))?,
                Wake::Again => {
                    // The answer under way begins anew. However short it was, the loss is told.
                    (node, units) = (None, Vec::new());
                    self.tell(News::Lost("the manager was replaced".to_owned()))?;
                    self.tell(News::Back)?;
                    is_lost = false;
                }
                Wake::Reply(..) | Wake::Time | Wake::Interrupted => {}
            }
        }
    }

    /// Follows a unit's log until another is followed.
    pub fn follow(&self, unit: &str, number: u64) {
        let is_wanted = || self.followed.load(Ordering::SeqCst) == number;
        while is_wanted() {
            let ended = self.connect().map(|client| self.lines(client, unit, &is_wanted));
            if matches!(ended, Ok(Err(Over))) {
                return;
            }
            // The logger's connection ends when the logger or the manager is replaced: what is shown is asked for anew.
            dial::pause(None);
            dial::wait_until(AGAIN, || !is_wanted());
        }
    }

    fn lines(&self, mut client: Client, unit: &str, is_wanted: &impl Fn() -> bool) -> Result<(), Over> {
        client.asks_for_life = false;
        let asked = client.ask(Request::Logs {
            selectors: vec![unit.to_owned()],
            follow: true,
            lines: Some(LINES),
            filter: LogFilter::default(),
        });
        let Ok(id) = asked else { return Ok(()) };
        let mut fresh = true;
        let say = |lines: Vec<(u64, String)>, fresh| {
            self.tell(News::Logs {
                unit: unit.to_owned(),
                lines,
                fresh,
            })
        };
        while is_wanted() {
            match client.wake(Some(Instant::now() + LOOK)) {
                Ok(Wake::Reply(to, reply)) if to == id => match reply {
                    Reply::Logs(lines) => {
                        let clean = |l: &proto::reply::LogLine| {
                            let mut text = self.style.clean_bytes(&l.message).replace('\t', "    ");
                            if l.end == LineEnd::Continues {
                                text.push_str(" [goes on]");
                            }
                            (l.at_us, text)
                        };
                        say(lines.iter().map(clean).collect(), fresh)?;
                        fresh = false;
                    }
                    Reply::Lagged(n) => say(
                        vec![(0, format!("[{n} frames dropped: this reader is too slow]"))],
                        fresh,
                    )?,
                    Reply::Failed(failure) => {
                        say(
                            vec![(0, format!("[{}]", self.style.clean(&failure.message)))],
                            true,
                        )?;
                        return Ok(());
                    }
                    Reply::End => return Ok(()),
                    _ => {}
                },
                Ok(Wake::Time) if fresh => {
                    // It has written nothing so far.
                    say(Vec::new(), true)?;
                    fresh = false;
                }
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Asks for one unit with its last lines.
    pub fn ask(&self, unit: &str) {
        let request = Request::Status {
            selectors: vec![unit.to_owned()],
            depth: Depth::Detail,
            all: false,
        };
        // A unit that is gone, or a daemon that is: the picture tells it.
        let replies = self.connect().and_then(|mut client| client.collect(request));
        for reply in replies.into_iter().flatten() {
            if let Reply::Units(units) = reply {
                for unit in units {
                    let _ = self.tell(News::Detail(Box::new(unit)));
                }
            }
        }
    }

    /// Sends a command, and tells what came of it.
    pub fn send(&self, order: &Order) {
        let news = match self.order(order) {
            Ok(news) => news,
            Err(Stop::Failure(f)) if f.code == stop::REFUSED && !f.details.is_empty() && !order.cascade => {
                News::Refused {
                    order: order.clone(),
                    others: f.details,
                }
            }
            Err(stop) => News::Done {
                is_well: false,
                text: format!(
                    "{} {}: {}",
                    order.verb.word(),
                    order.unit,
                    told(&self.style, &stop)
                ),
            },
        };
        let _ = self.tell(news);
    }

    fn order(&self, order: &Order) -> Result<News, Stop> {
        let job = Job {
            selectors: vec![order.unit.clone()],
            wait: true,
            timeout_ms: None,
            cascade: order.cascade,
        };
        let selectors = job.selectors.clone();
        let request = match order.verb {
            Verb::Start => Request::Start(job),
            Verb::Stop => Request::Stop(job),
            Verb::Restart => Request::Restart {
                job,
                only_running: false,
            },
            Verb::Hold => Request::Hold {
                selectors,
                note: Some("held in ringriftctl top".to_owned()),
                until_us: None,
            },
            Verb::Unhold => Request::Unhold { selectors },
        };
        let mut client = self.connect()?;
        let id = client.ask(request)?;
        let mut own = None;
        let mut others_failed = 0;
        loop {
            // However long it takes: a stop has its own ladder of time-outs.
            match client.wake(None)? {
                Wake::Reply(to, reply) if to == id => match reply {
                    Reply::Verdict(verdict) if verdict.unit == order.unit => own = Some(verdict),
                    Reply::Verdict(v) => {
                        others_failed += usize::from(!matches!(v.outcome, Outcome::Done | Outcome::Already));
                    }
                    Reply::Failed(failure) => return Err(failure.into()),
                    Reply::End => break,
                    _ => {}
                },
                _ => {}
            }
        }
        let mut text = format!("{} {}: ", order.verb.word(), order.unit);
        let is_well = match own {
            Some(verdict) => {
                text.push_str(&self.style.clean(&verdict.text));
                if verdict.took_ms > 0 {
                    text.push_str(&format!(" ({})", measure::duration(verdict.took_ms)));
                }
                matches!(verdict.outcome, Outcome::Done | Outcome::Already)
            }
            None => {
                text.push_str("done");
                true
            }
        };
        if others_failed > 0 {
            text.push_str(&format!("; it failed for {others_failed} others"));
        }
        Ok(News::Done {
            is_well: is_well && others_failed == 0,
            text,
        })
    }
}
