//! An engine in a world where everything works: each launch is answered at once, each signal ends its process. Only the
//! engine's own time is counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::reply::{By, Exit};
use ringriftd::engine::Engine;
use ringriftd::engine::types::{Action, Event, Mono, Op, Plan, RequestId};
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::unit_name::UnitName;

/// An engine with its world.
#[derive(Debug)]
pub struct Calm {
    engine: Engine,
    now: Mono,
    /// What the world has still to say.
    news: Vec<Event>,
    done: Vec<Action>,
    /// The units in the order of their first launch, and the life of each.
    names: Vec<UnitName>,
    lives: HashMap<UnitName, Invocation>,
    requests: u64,
    /// How many events the engine has handled.
    pub steps: u32,
    /// How long it took for them.
    pub spent: Duration,
}

impl Calm {
    /// A node that has booted.
    pub fn booted(plan: &Arc<Plan>) -> Self {
        let mut calm = Self {
            engine: Engine::new(1),
            now: Mono(1_000_000_000),
            news: Vec::new(),
            done: Vec::new(),
            names: Vec::new(),
            lives: HashMap::new(),
            requests: 0,
            steps: 0,
            spent: Duration::ZERO,
        };
        calm.tell(Event::Loaded(Arc::clone(plan)));
        calm
    }

    /// Forgets what was counted.
    pub fn reset(&mut self) {
        self.steps = 0;
        self.spent = Duration::ZERO;
    }

    /// How long a step has taken.
    pub fn per_step(&self) -> Duration {
        self.spent / self.steps.max(1)
    }

    /// How many units have run.
    pub fn units(&self) -> usize {
        self.names.len()
    }

    /// A unit's process ends, and the engine starts it again.
    pub fn die(&mut self, number: usize) {
        let life = self.names.get(number).and_then(|name| self.lives.get(name));
        if let Some(invocation) = life {
            self.tell(exited(LaunchId::main(*invocation)));
        }
    }

    /// An operator stops a unit, and starts it again.
    pub fn stop_and_start(&mut self, number: usize) {
        let Some(name) = self.names.get(number).cloned() else {
            return;
        };
        let units = vec![name];
        self.ask(Op::Stop {
            units: units.clone(),
            cascade: true,
        });
        self.ask(Op::Start { units });
    }

    /// A tick with nothing due.
    pub fn tick(&mut self) {
        self.step(Event::Tick);
    }

    fn ask(&mut self, op: Op) {
        self.requests += 1;
        self.tell(Event::Request {
            id: RequestId(self.requests),
            op,
            by: By {
                uid: 0,
                pid: 2,
                verb: "a verb".into(),
            },
        });
    }

    /// Tells the engine one thing, and then all that the world has to say to what it does, until nothing is left to do.
    fn tell(&mut self, event: Event) {
        self.news.push(event);
        while let Some(event) = self.news.pop() {
            self.step(event);
            if self.news.is_empty() && self.engine.next_deadline().is_some_and(|due| due <= self.now) {
                self.news.push(Event::Tick);
            }
        }
    }

    fn step(&mut self, event: Event) {
        self.now = Mono(self.now.0 + 1000);
        let began = Instant::now();
        self.engine.handle(self.now, event);
        while let Some(action) = self.engine.poll_action() {
            self.done.push(action);
        }
        self.spent += began.elapsed();
        self.steps += 1;
        for action in self.done.drain(..) {
            match action {
                Action::Launch { launch, spec, .. } => {
                    if self.lives.insert(spec.name.clone(), launch.invocation).is_none() {
                        self.names.push(spec.name.clone());
                    }
                    self.news.push(Event::Launched {
                        launch,
                        pid: 2,
                        start_time: 1,
                        note: None,
                    });
                }
                Action::Signal { launch, .. } | Action::Destroy { launch } => self.news.push(exited(launch)),
                _ => {}
            }
        }
    }
}

fn exited(launch: LaunchId) -> Event {
    Event::Exited {
        launch,
        exit: Exit::Code(1),
        remains: Vec::new(),
    }
}
