//! The operators of the world: up to 64 clients that ask for anything at any time, and go away; whoever changes the files; and
//! whoever shuts the lid or pulls the plug.

use std::sync::Arc;
use std::time::Duration;

use proto::reply::{By, CauseKind, Hold};

use crate::engine::cause;
use crate::engine::hold::Held;
use crate::engine::types::{Event, Mono, Op, RequestId};
use crate::engine::unit::Foreign;
use crate::ids::Scope;
use crate::spec::UnitName;

use super::choices::{Pick, key};
use super::draw;
use super::malice::Fault;
use super::world::{Asked, World};

/// A choice of what is asked for, that is a start.
pub(super) const START: u64 = 1;
/// One that is a stop.
pub(super) const STOP: u64 = 10;
/// Clients at once.
const CLIENTS: u32 = 64;

impl World {
    fn verb(nth: u32) -> By {
        By {
            uid: 0,
            pid: 1 + nth % CLIENTS,
            verb: "sim".to_owned(),
        }
    }

    /// The units that request `nth` names: one, rarely two or three.
    fn units_of_request(&mut self, nth: u32) -> Vec<UnitName> {
        let count = self.first.len().max(1) as u64;
        let first = match self.swizzle.get(nth as usize) {
            Some(place) => u64::from(*place),
            None => self.choices.below(key(Pick::RequestUnits, nth, 0), count),
        };
        let mut places = vec![first];
        for more in 1..3 {
            let place = self
                .choices
                .chance(key(Pick::RequestUnits, nth, more), 150, count);
            if place > 0 {
                places.push(place - 1);
            }
        }
        let name = |place: u64| self.first.get(place as usize).map(|unit| unit.spec.name.clone());
        places.into_iter().filter_map(name).collect()
    }

    /// What request `nth` asks for; none: nothing.
    fn op(&mut self, nth: u32) -> Option<Op> {
        let swizzled = self.swizzle.len() as u32;
        let what = if nth < swizzled / 2 {
            STOP
        } else if nth < swizzled {
            START
        } else {
            self.choices.chance(key(Pick::Request, nth, 0), 1000, 34)
        };
        let units = self.units_of_request(nth);
        let how = self.choices.below(key(Pick::RequestHow, nth, 0), 64);
        let cascade = how & 3 != 0;
        Some(match what {
            0 => return None,
            START..=9 => Op::Start { units },
            STOP..=15 => Op::Stop { units, cascade },
            16..=20 => Op::Restart {
                units,
                only_running: how & 12 == 0,
                cascade,
            },
            21..=23 => Op::Reload { units },
            24 | 25 => Op::Kill {
                units,
                signal: [15, 9, 10, 6][(how & 3) as usize],
                scope: if how & 4 == 0 { Scope::Main } else { Scope::All },
            },
            26 | 27 => Op::ResetFailed { units },
            28 | 29 => Op::Hold {
                units,
                held: self.some_hold(nth, how),
            },
            30..=32 => Op::Unhold { units },
            _ => Op::Adopt {
                unit: units.into_iter().next()?,
                process: Foreign {
                    pid: 7,
                    start_time: 8,
                },
            },
        })
    }

    fn some_hold(&mut self, nth: u32, how: u64) -> Held {
        let is_endless = how & 1 == 0;
        Held {
            hold: Hold {
                by: Self::verb(nth),
                note: None,
                since_us: 1,
                until_us: (!is_endless).then_some(2),
            },
            until: (!is_endless).then(|| Mono(self.now).after(Duration::from_secs(how))),
        }
    }

    /// The next of the operators' deeds.
    pub(super) fn request(&mut self, nth: u32) {
        self.has_died = false;
        if nth + 1 < self.size.requests + self.swizzle.len() as u32 {
            let soon = self.choices.below(key(Pick::RequestAfter, nth, 0), 3000);
            let late = self.choices.chance(key(Pick::RequestAfter, nth, 1), 40, 90_000);
            self.request_later(self.spacing + soon + late, nth + 1);
        }
        let sleeps = self.chance(Fault::Sleeps, key(Pick::Sleeps, nth, 0), 60_000);
        if sleeps > 0 {
            self.now += sleeps * 1_000_000;
            self.note(|_| format!("the machine sleeps for {sleeps} ms"));
        }
        if self.chance(Fault::Reboot, key(Pick::Reboot, nth, 0), 1) > 0 {
            return self.reboot();
        }
        if self.chance(Fault::Shutdown, key(Pick::Shutdown, nth, 0), 1) > 0 {
            return self.ask_to_end();
        }
        let loads = self.chance(Fault::Load, key(Pick::Load, nth, 0), 4);
        // Where there is to be time between them, one thing happens at a time.
        let op = self.op(nth).filter(|_| self.spacing == 0 || loads == 0);
        if let Some(op) = op {
            self.ask_for(nth, op);
        }
        if self.violation.is_some() || self.finished.is_some() {
            return;
        }
        match loads {
            0 => {}
            1 => {
                let plan = Arc::clone(&self.plan);
                self.load(plan);
            }
            _ => {
                self.loads += 1;
                let drawn = draw::another(&mut self.choices, &self.first, self.loads);
                let node = &self.plan.node;
                let plan = draw::plan(drawn, node.max_starting, node.breaker.clone());
                self.load(plan);
            }
        }
    }

    fn ask_for(&mut self, nth: u32, op: Op) {
        let id = RequestId(u64::from(nth) + 1);
        let asked = Asked {
            op: op.clone(),
            is_forgotten: false,
        };
        self.asked.insert(id, asked);
        self.counts.requests += 1;
        let by = Self::verb(nth);
        self.tell(Event::Request { id, op, by });
        let goes = self.chance(Fault::Forgotten, key(Pick::Forgotten, nth, 0), 1) > 0;
        if goes && !self.replies.contains_key(&id) && self.finished.is_none() {
            if let Some(asked) = self.asked.get_mut(&id) {
                asked.is_forgotten = true;
            }
            self.tell(Event::Forget { id });
        }
    }

    fn load(&mut self, plan: Arc<crate::engine::types::Plan>) {
        self.tell(Event::Loaded(plan));
    }

    pub(super) fn ask_to_end(&mut self) {
        let cause = cause::own(CauseKind::Signal, 0, "SIGTERM");
        self.begin_order_of_ends();
        self.tell(Event::Shutdown { cause });
    }
}
