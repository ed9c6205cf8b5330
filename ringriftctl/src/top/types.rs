//! What the parts of `top` say to each other: news that come in, and what is to be done about them.

use proto::reply::{Event, Graph, NodeStatus, UnitStatus};
use ratatui::crossterm::event::KeyEvent;

/// Something came in.
#[derive(Debug)]
pub enum News {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// The terminal cannot be read any more.
    NoTerminal(String),
    /// SIGTERM, SIGINT or SIGHUP.
    Signalled,
    /// The node and its units.
    Status {
        /// The node.
        node: Box<NodeStatus>,
        /// The units that were asked for.
        units: Vec<UnitStatus>,
        /// When the answer came, in µs since 1970: it may have waited since.
        taken_us: u64,
    },
    /// Who needs whom.
    Edges(Graph),
    /// Something happened to a unit.
    Event(Box<Event>),
    /// The connection is lost, and why; it is made again.
    Lost(String),
    /// The connection is back.
    Back,
    /// One unit with its last lines.
    Detail(Box<UnitStatus>),
    /// Lines of a unit's log, cleaned. `fresh`: these are all, whatever came before.
    Logs {
        /// Whose.
        unit: String,
        /// When, and what.
        lines: Vec<(u64, String)>,
        /// The first of a new answer.
        fresh: bool,
    },
    /// What came of a command.
    Done {
        /// It did what was asked.
        is_well: bool,
        /// In a sentence, cleaned.
        text: String,
    },
    /// A command was refused because it touches more than the unit: to be asked about.
    Refused {
        /// The command.
        order: Order,
        /// What else it touches.
        others: Vec<String>,
    },
}

/// What an operator may order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Bring it up.
    Start,
    /// Bring it down.
    Stop,
    /// Down, then up.
    Restart,
    /// Keep it down.
    Hold,
    /// Let it be started again.
    Unhold,
}

impl Verb {
    /// The word, which is ringriftctl's verb too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Hold => "hold",
            Self::Unhold => "unhold",
        }
    }
}

/// A command for one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub verb: Verb,
    /// Of which unit.
    pub unit: String,
    /// Also do what touches other units.
    pub cascade: bool,
}

/// Something to do, decided by the model and done by the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Leave.
    Quit,
    /// Stop this program until its shell brings it back.
    Suspend,
    /// Draw everything anew.
    Repaint,
    /// Send a command.
    Send(Order),
    /// Follow this unit's log; none: follow none.
    Follow(Option<String>),
    /// Ask for this unit's last lines.
    Ask(String),
    /// From now on ask for all units that are known, or no longer.
    AskForAll(bool),
    /// Ask for everything now.
    Refresh,
}
