//! What `top` knows and how it stands: news come in, effects go out, and [`super::draw`] makes a screen of it. Pure: no
//! clock, no terminal, no daemon.

use std::collections::{BTreeMap, VecDeque};

use proto::reply::{Event, Graph, NodeStatus, UnitStatus};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::rows::{Choice, Row, Sort, rows};
use super::types::{Effect, News, Order, Verb};

/// Log lines that are kept of the followed unit.
const LOG_MAX: usize = 5000;
/// Events that are kept.
const EVENTS_MAX: usize = 500;
/// The longest filter, in characters.
const FILTER_MAX: usize = 64;
/// How long a message stays, in µs.
pub const MESSAGE_US: u64 = 8_000_000;

/// Whether what is shown is true now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Nothing was heard yet.
    Waiting,
    /// It is.
    Live,
    /// It was, until then: the time in µs, and why.
    Lost(u64, String),
}

/// What is shown below the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    /// Nothing.
    None,
    /// Everything known of the selected unit.
    Detail,
    /// Its log.
    Logs,
}

/// A question that waits for y or n.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What a yes does.
    pub order: Order,
    /// The units besides the named one that it touches.
    pub others: Vec<String>,
}

/// The whole state.
#[derive(Debug)]
pub struct Model {
    /// Now, in µs since 1970: told by the loop.
    pub now_us: u64,
    /// Whether the picture is true.
    pub line: Line,
    /// The node.
    pub node: Option<Box<NodeStatus>>,
    /// The units that are asked for: those that the node is for, or all.
    pub units: Vec<UnitStatus>,
    /// Who needs whom.
    pub edges: Graph,
    /// Each unit's share of a processor since the picture before.
    pub cpu: BTreeMap<String, f64>,
    /// When the picture was taken.
    pub taken_us: u64,
    /// Also the units that nobody wants here.
    pub asks_for_all: bool,
    /// Which rows, and how.
    pub choice: Choice,
    /// The rows.
    pub rows: Vec<Row>,
    /// The selected unit, by name: it stays selected wherever its row goes.
    pub selected: String,
    /// Rows above the screen.
    pub scroll: usize,
    /// How many rows the screen last had room for.
    pub page: usize,
    /// A filter is being typed.
    pub is_typing: bool,
    /// Below the rows.
    pub pane: Pane,
    /// The pane has the whole screen.
    pub is_zoomed: bool,
    /// Lines between the end of the pane and the last one shown; 0 follows.
    pub back: usize,
    /// The help is shown.
    pub is_helping: bool,
    /// Waits for y or n.
    pub question: Option<Question>,
    /// What came of the last command: well or not, in words, when.
    pub message: Option<(bool, String, u64)>,
    /// Commands under way.
    pub under_way: usize,
    /// The selected unit's last lines and what else only a question for one unit tells.
    pub detail: Option<Box<UnitStatus>>,
    /// Whose log, and its lines.
    pub log: (String, VecDeque<(u64, String)>),
    /// The latest events, the newest last.
    pub events: VecDeque<Box<Event>>,
}

impl Model {
    /// Nothing known yet.
    pub fn new(now_us: u64) -> Self {
        Self {
            now_us,
            line: Line::Waiting,
            node: None,
            units: Vec::new(),
            edges: Graph {
                roots: Vec::new(),
                edges: Vec::new(),
            },
            cpu: BTreeMap::new(),
            taken_us: now_us,
            asks_for_all: false,
            choice: Choice {
                sort: Sort::Worst,
                is_reversed: false,
                is_tree: false,
                filter: String::new(),
            },
            rows: Vec::new(),
            selected: String::new(),
            scroll: 0,
            page: 1,
            is_typing: false,
            pane: Pane::None,
            is_zoomed: false,
            back: 0,
            is_helping: false,
            question: None,
            message: None,
            under_way: 0,
            detail: None,
            log: (String::new(), VecDeque::new()),
            events: VecDeque::new(),
        }
    }

    /// The place of the selected row.
    pub fn at(&self) -> usize {
        let is_it = |row: &Row| self.units[row.at].name == self.selected;
        self.rows.iter().position(is_it).unwrap_or(0)
    }

    /// The selected unit.
    pub fn unit(&self) -> Option<&UnitStatus> {
        self.rows.get(self.at()).map(|row| &self.units[row.at])
    }

    /// Takes something in.
    pub fn hear(&mut self, news: News) -> Vec<Effect> {
        match news {
            News::Key(key) if key.kind == KeyEventKind::Release => Vec::new(),
            News::Key(key) => self.key(key),
            News::Resized => Vec::new(),
            News::NoTerminal(_) | News::Signalled => vec![Effect::Quit],
            News::Status {
                node,
                units,
                taken_us,
            } => {
                self.take(node, units, taken_us);
                match self.pane {
                    Pane::Detail => self
                        .unit()
                        .map(|u| Effect::Ask(u.name.clone()))
                        .into_iter()
                        .collect(),
                    Pane::None | Pane::Logs => Vec::new(),
                }
            }
            News::Edges(edges) => {
                self.edges = edges;
                self.arrange(self.at());
                Vec::new()
            }
            News::Event(event) => {
                self.events.push_back(event);
                if self.events.len() > EVENTS_MAX {
                    self.events.pop_front();
                }
                Vec::new()
            }
            News::Lost(why) => {
                if !matches!(self.line, Line::Lost(..)) {
                    self.line = Line::Lost(self.now_us, why);
                }
                Vec::new()
            }
            News::Back => {
                if matches!(self.line, Line::Lost(..)) {
                    self.say(true, "connected again".to_owned());
                }
                self.line = Line::Live;
                vec![Effect::Refresh]
            }
            News::Detail(unit) => {
                self.detail = Some(unit);
                Vec::new()
            }
            News::Logs { unit, lines, fresh } => {
                if unit == self.log.0 {
                    if fresh {
                        self.log.1.clear();
                    }
                    let more = lines.len();
                    self.log.1.extend(lines);
                    let over = self.log.1.len().saturating_sub(LOG_MAX);
                    self.log.1.drain(..over);
                    if self.back > 0 && !fresh && self.pane == Pane::Logs {
                        // Who reads older lines keeps them in sight.
                        self.back = (self.back + more).min(self.log.1.len());
                    }
                }
                Vec::new()
            }
            News::Done { is_well, text } => {
                self.under_way = self.under_way.saturating_sub(1);
                self.say(is_well, text);
                vec![Effect::Refresh]
            }
            News::Refused { order, others } => {
                self.under_way = self.under_way.saturating_sub(1);
                self.question = Some(Question { order, others });
                Vec::new()
            }
        }
    }

    fn say(&mut self, is_well: bool, text: String) {
        self.message = Some((is_well, text, self.now_us));
    }

    fn take(&mut self, node: Box<NodeStatus>, units: Vec<UnitStatus>, taken_us: u64) {
        let passed = taken_us.saturating_sub(self.taken_us);
        if passed > 0 {
            let before: BTreeMap<&str, u64> = self
                .units
                .iter()
                .filter_map(|u| Some((u.name.as_str(), u.cpu_us?)))
                .collect();
            let share = |u: &UnitStatus| {
                let used = u.cpu_us?.saturating_sub(*before.get(u.name.as_str())?);
                Some((u.name.clone(), used as f64 / passed as f64))
            };
            self.cpu = units.iter().filter_map(share).collect();
        }
        if matches!(self.line, Line::Lost(..)) {
            self.say(true, "connected again".to_owned());
        }
        self.line = Line::Live;
        self.taken_us = taken_us;
        self.node = Some(node);
        // The rows are of the old list.
        let at = self.at();
        self.units = units;
        self.arrange(at);
    }

    /// Chooses the rows anew; the selected unit's was at `at`.
    fn arrange(&mut self, at: usize) {
        self.rows = rows(&self.choice, &self.units, &self.cpu, &self.edges);
        let is_there = self.rows.iter().any(|r| self.units[r.at].name == self.selected);
        if !is_there {
            self.select(at);
        }
        self.show_selected();
    }

    fn select(&mut self, at: usize) {
        let at = at.min(self.rows.len().saturating_sub(1));
        self.selected = self
            .rows
            .get(at)
            .map(|r| self.units[r.at].name.clone())
            .unwrap_or_default();
        self.show_selected();
    }

    /// Scrolls so that the selected row is on the screen.
    pub fn show_selected(&mut self) {
        let (at, page) = (self.at(), self.page.max(1));
        self.scroll = self.scroll.clamp(at.saturating_sub(page - 1), at);
        self.scroll = self.scroll.min(self.rows.len().saturating_sub(page));
    }

    /// The selected unit or the pane has changed.
    fn turned(&mut self) -> Vec<Effect> {
        self.back = 0;
        let name = self.unit().map(|u| u.name.clone());
        match (self.pane, name) {
            (Pane::Logs, Some(name)) if self.log.0 != name => {
                self.log = (name.clone(), VecDeque::new());
                vec![Effect::Follow(Some(name))]
            }
            (Pane::Logs, _) => Vec::new(),
            (Pane::Detail, name) => {
                let stop = self.unfollow();
                let ask = name.filter(|n| self.detail.as_ref().is_none_or(|d| d.name != *n));
                stop.into_iter().chain(ask.map(Effect::Ask)).collect()
            }
            (Pane::None, _) => self.unfollow().into_iter().collect(),
        }
    }

    fn unfollow(&mut self) -> Option<Effect> {
        if self.log.0.is_empty() {
            return None;
        }
        self.log = (String::new(), VecDeque::new());
        Some(Effect::Follow(None))
    }

    fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return vec![Effect::Quit],
            KeyCode::Char('z') if is_control => return vec![Effect::Suspend],
            KeyCode::Char('l') if is_control => return vec![Effect::Repaint],
            _ => {}
        }
        if let Some(question) = self.question.take() {
            return self.answer(question, key);
        }
        if self.is_typing {
            return self.type_filter(key, is_control);
        }
        if self.is_helping {
            self.is_helping = false;
            return match key.code {
                KeyCode::Char('q') => vec![Effect::Quit],
                _ => Vec::new(),
            };
        }
        if is_control {
            return match key.code {
                KeyCode::Char('u' | 'b') => self.scroll_pane(10),
                KeyCode::Char('d' | 'f') => self.scroll_pane(-10),
                _ => Vec::new(),
            };
        }
        match key.code {
            KeyCode::Char('q') => vec![Effect::Quit],
            KeyCode::Char('?') | KeyCode::F(1) => {
                self.is_helping = true;
                Vec::new()
            }
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-(self.page as isize)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(self.page as isize),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN / 2),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX / 2),
            KeyCode::Char('K' | '[') => self.scroll_pane(3),
            KeyCode::Char('J' | ']') => self.scroll_pane(-3),
            KeyCode::Char('f') => {
                self.back = 0;
                Vec::new()
            }
            KeyCode::Enter | KeyCode::Char('d') => self.show(Pane::Detail),
            KeyCode::Char('l') => self.show(Pane::Logs),
            KeyCode::Tab => {
                let next = match self.pane {
                    Pane::None => Pane::Detail,
                    Pane::Detail => Pane::Logs,
                    Pane::Logs => Pane::None,
                };
                self.pane = next;
                self.turned()
            }
            KeyCode::Char('z') => {
                self.is_zoomed = !self.is_zoomed && self.pane != Pane::None;
                Vec::new()
            }
            KeyCode::Esc => self.escape(),
            KeyCode::Char('/') => {
                self.is_typing = true;
                Vec::new()
            }
            KeyCode::Char('t') => self.choose(|c| c.is_tree = !c.is_tree),
            KeyCode::Char('a') => {
                self.asks_for_all = !self.asks_for_all;
                vec![Effect::AskForAll(self.asks_for_all)]
            }
            KeyCode::Char('o') => self.choose(|c| c.sort = c.sort.next()),
            KeyCode::Char('O') => self.choose(|c| c.is_reversed = !c.is_reversed),
            KeyCode::Char(n @ '1'..='6') => {
                let sort = Sort::ALL[n as usize - '1' as usize];
                self.choose(|c| (c.sort, c.is_reversed) = (sort, false))
            }
            KeyCode::Char('s') => self.order(Verb::Start),
            KeyCode::Char('x') => self.order(Verb::Stop),
            KeyCode::Char('r') => self.order(Verb::Restart),
            KeyCode::Char('h') => self.order(Verb::Hold),
            KeyCode::Char('u') => self.order(Verb::Unhold),
            _ => Vec::new(),
        }
    }

    fn go(&mut self, by: isize) -> Vec<Effect> {
        let before = self.selected.clone();
        self.select(self.at().saturating_add_signed(by));
        if self.selected == before {
            return Vec::new();
        }
        self.turned()
    }

    fn choose(&mut self, change: impl FnOnce(&mut Choice)) -> Vec<Effect> {
        let before = self.selected.clone();
        change(&mut self.choice);
        self.arrange(self.at());
        if self.selected == before {
            Vec::new()
        } else {
            self.turned()
        }
    }

    fn show(&mut self, pane: Pane) -> Vec<Effect> {
        self.pane = if self.pane == pane { Pane::None } else { pane };
        self.is_zoomed &= self.pane != Pane::None;
        self.turned()
    }

    fn escape(&mut self) -> Vec<Effect> {
        if self.is_zoomed {
            self.is_zoomed = false;
            Vec::new()
        } else if self.pane != Pane::None {
            self.pane = Pane::None;
            self.turned()
        } else if self.choice.filter.is_empty() {
            self.message = None;
            Vec::new()
        } else {
            self.choose(|c| c.filter.clear())
        }
    }

    fn scroll_pane(&mut self, by: isize) -> Vec<Effect> {
        let most = match self.pane {
            Pane::Logs => self.log.1.len().saturating_sub(1),
            Pane::Detail => usize::from(u8::MAX),
            Pane::None => 0,
        };
        // The log ends below, what is known of a unit begins above.
        let by = if self.pane == Pane::Detail { -by } else { by };
        self.back = self.back.saturating_add_signed(by).min(most);
        Vec::new()
    }

    fn type_filter(&mut self, key: KeyEvent, is_control: bool) -> Vec<Effect> {
        match key.code {
            KeyCode::Enter => {
                self.is_typing = false;
                Vec::new()
            }
            KeyCode::Esc => {
                self.is_typing = false;
                self.choose(|c| c.filter.clear())
            }
            KeyCode::Char('u') if is_control => self.choose(|c| c.filter.clear()),
            KeyCode::Backspace => self.choose(|c| {
                c.filter.pop();
            }),
            KeyCode::Char(typed) if !is_control && !typed.is_control() => {
                if self.choice.filter.chars().count() >= FILTER_MAX {
                    return Vec::new();
                }
                self.choose(|c| c.filter.push(typed))
            }
            _ => Vec::new(),
        }
    }

    fn order(&mut self, verb: Verb) -> Vec<Effect> {
        if let Some(unit) = self.unit() {
            let order = Order {
                verb,
                unit: unit.name.clone(),
                cascade: false,
            };
            self.question = Some(Question {
                order,
                others: Vec::new(),
            });
        }
        Vec::new()
    }

    /// Only y is yes.
    fn answer(&mut self, question: Question, key: KeyEvent) -> Vec<Effect> {
        if !matches!(key.code, KeyCode::Char('y' | 'Y')) {
            let order = question.order;
            self.say(true, format!("{} {}: not done", order.verb.word(), order.unit));
            return Vec::new();
        }
        let mut order = question.order;
        order.cascade = !question.others.is_empty();
        self.under_way += 1;
        vec![Effect::Send(order)]
    }
}
