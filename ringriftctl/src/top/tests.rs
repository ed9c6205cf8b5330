//! Keys go in, a screen comes out: the whole of `top` but its threads.

use proto::reply::{
    BreakerOpen, BreakerStatus, Edge, EdgeKind, Graph, Health, NodeStatus, State, Summary, UnitStatus,
};
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;

use super::draw::draw;
use super::model::{Line, Model};
use super::types::{Effect, News, Order, Verb};
use crate::overview::tests::{node, unit};
use crate::render::Style;
use crate::render::tests::plain;

struct Screen {
    model: Model,
    style: Style,
    width: u16,
    height: u16,
}

fn sample() -> (Box<NodeStatus>, Vec<UnitStatus>) {
    let mut broken = unit("s3_sync", State::Failed, &[]);
    broken.last_error = Some("exited with code 1\u{1b}[2J\nand a second line".into());
    broken.description = "Copies \u{1b}]0;title\u{7} games".into();
    let mut idle = unit("idle", State::Stopped, &[]);
    idle.desired_up = false;
    let mut sick = unit("sick", State::Running, &[]);
    (sick.health, sick.status_text) = (Health::Degraded, Some("slow \u{202e}disk".into()));
    let mut units = vec![
        unit("auto_sync", State::Waiting, &["s3_sync"]),
        broken,
        sick,
        idle,
    ];
    units.extend((0..20).map(|n| unit(&format!("worker_{n:02}"), State::Running, &[])));
    let summary = Summary {
        known: 24,
        wanted: 23,
        running: 21,
        waiting: 1,
        failed: 1,
        ..Summary::default()
    };
    (Box::new(node(summary)), units)
}

fn pictured(node: Box<NodeStatus>, units: Vec<UnitStatus>, taken_us: u64) -> News {
    News::Status {
        node,
        units,
        taken_us,
    }
}

impl Screen {
    fn new(width: u16, height: u16) -> Self {
        let mut screen = Self {
            model: Model::new(1_000_000),
            style: plain(None),
            width,
            height,
        };
        let edge = |from: &str, to: &str| Edge {
            from: from.into(),
            to: to.into(),
            kind: EdgeKind::Requires,
        };
        screen.model.hear(News::Edges(Graph {
            roots: vec![],
            edges: vec![edge("auto_sync", "s3_sync"), edge("s3_sync", "worker_00")],
        }));
        let (node, units) = sample();
        screen.model.hear(pictured(node, units, 1_000_000));
        screen.lines();
        screen
    }

    fn buffer(&mut self) -> Buffer {
        let area = Rect::new(0, 0, self.width, self.height);
        let mut buffer = Buffer::empty(area);
        draw(&mut self.model, &self.style, area, &mut buffer);
        buffer
    }

    fn lines(&mut self) -> Vec<String> {
        let buffer = self.buffer();
        let line = |y: u16| -> String {
            let cells = (0..self.width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_owned()
        };
        (0..self.height).map(line).collect()
    }

    fn text(&mut self) -> String {
        self.lines().join("\n")
    }

    fn press(&mut self, code: KeyCode) -> Vec<Effect> {
        self.lines();
        self.model
            .hear(News::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn keys(&mut self, keys: &str) -> Vec<Effect> {
        keys.chars().flat_map(|c| self.press(KeyCode::Char(c))).collect()
    }

    #[track_caller]
    fn shows(&mut self, words: &str) {
        let text = self.text();
        assert!(text.contains(words), "{words:?} is not on the screen:\n{text}");
    }
}

#[test]
fn what_is_wrong_is_seen_first() {
    let lines = Screen::new(100, 24).lines();
    assert!(lines[0].starts_with("✗ n: failed, 1 of 23 units down for good, 1 not healthy, 1 waiting"));
    assert!(lines[2].contains("✗ s3_sync failed"), "{}", lines[2]);
    assert!(lines[2].contains("holds up 1"), "{}", lines[2]);
    assert!(lines[3].contains("NOTE (by worst)"), "{}", lines[3]);
    assert!(lines[4].starts_with("✗ s3_sync "), "{}", lines[4]);
    assert!(lines[5].starts_with("● sick "), "{}", lines[5]);
    assert!(lines[6].starts_with("◌ auto_sync "), "{}", lines[6]);
    assert!(lines[23].starts_with("? help"), "{}", lines[23]);
}

/// Every size down to nothing is drawn, in every state, and no letter lies outside.
#[test]
fn no_size_is_too_small() {
    for (width, height) in [
        (80, 24),
        (120, 40),
        (40, 12),
        (20, 5),
        (10, 3),
        (3, 2),
        (1, 1),
        (0, 0),
        (200, 2),
        (2, 60),
    ] {
        for keys in ["", "d", "l", "dz", "t", "?", "x", "/abc", "o2aG"] {
            let mut screen = Screen::new(width, height);
            screen.keys(keys);
            let buffer = screen.buffer();
            assert_eq!(buffer.area, Rect::new(0, 0, width, height));
        }
    }
    let mut small = Screen::new(30, 5);
    small.shows("✗ n: failed");
    small.shows("✗ s3_sync");
    let mut usual = Screen::new(80, 24);
    for line in usual.lines() {
        assert!(
            unicode_width::UnicodeWidthStr::width(line.as_str()) <= 80,
            "{line}"
        );
    }
}

/// S5: what a unit wrote drives no terminal, wherever it is shown.
#[test]
fn what_units_wrote_is_escaped_everywhere() {
    let mut screen = Screen::new(160, 40);
    for keys in ["", "d", "j", "t", "Gl"] {
        screen.keys(keys);
        let lines = screen.lines();
        for line in &lines {
            let is_hostile = |c: char| c.is_control() || crate::render::deceives(c);
            assert!(!line.chars().any(is_hostile), "{line:?}");
        }
    }
    let mut screen = Screen::new(160, 40);
    screen.keys("d");
    screen.shows(r"\x1b[2J");
    screen.shows(r"slow \u{202e}disk");
    screen.style.unicode = false;
    let text = screen.text();
    assert!(text.is_ascii(), "without UTF-8 all is ASCII: {text}");
}

#[test]
fn the_selected_unit_stays_selected_wherever_its_row_goes() {
    let mut screen = Screen::new(80, 24);
    screen.keys("jj");
    assert_eq!(screen.model.selected, "auto_sync");
    screen.keys("2");
    assert_eq!(
        (screen.model.selected.as_str(), screen.model.at()),
        ("auto_sync", 0)
    );
    screen.keys("G");
    assert_eq!(screen.model.selected, "worker_19");
    screen.shows("● worker_19");
    screen.keys("g");
    screen.shows("◌ auto_sync");
    // Gone from the rows: the one that takes its place is selected.
    let (node, mut units) = sample();
    units.remove(0);
    screen.model.hear(pictured(node, units, 2_000_000));
    assert_eq!(screen.model.selected, "idle");
}

#[test]
fn a_filter_is_typed_kept_and_ended() {
    let mut screen = Screen::new(80, 24);
    screen.keys("/worker_0q");
    screen.shows("/worker_0q▏  0 found");
    screen.press(KeyCode::Backspace);
    screen.shows("10 found");
    screen.press(KeyCode::Enter);
    screen.shows("filter \"worker_0\"");
    assert_eq!(screen.model.rows.len(), 10);
    screen.press(KeyCode::Esc);
    assert_eq!(screen.model.rows.len(), 24, "Esc ends it");
    assert_eq!(
        screen.keys("a"),
        [Effect::AskForAll(true)],
        "with those that nobody wants"
    );
    assert_eq!(screen.keys("a"), [Effect::AskForAll(false)]);
}

#[test]
fn the_tree_shows_what_a_broken_unit_holds_up_below_it() {
    let mut screen = Screen::new(80, 24);
    screen.keys("t");
    let text = screen.text();
    let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words}:\n{text}"));
    assert!(at("● worker_00") < at("✗ └ s3_sync"), "{text}");
    assert!(at("✗ └ s3_sync") < at("◌   └ auto_sync"), "{text}");
}

/// Nothing is sent without a y.
#[test]
fn commands_are_confirmed() {
    for (key, verb) in [
        ('s', Verb::Start),
        ('x', Verb::Stop),
        ('r', Verb::Restart),
        ('h', Verb::Hold),
        ('u', Verb::Unhold),
    ] {
        let mut screen = Screen::new(80, 24);
        assert_eq!(screen.press(KeyCode::Char(key)), []);
        screen.shows(&format!("{} s3_sync? [y/N]", verb.word()));
        for no in [
            KeyCode::Char('n'),
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Char('q'),
            KeyCode::Down,
        ] {
            assert_eq!(screen.press(no), [], "{no:?} is no yes");
            screen.shows("not done");
            screen.press(KeyCode::Char(key));
        }
        let order = Order {
            verb,
            unit: "s3_sync".into(),
            cascade: false,
        };
        assert_eq!(screen.press(KeyCode::Char('y')), [Effect::Send(order)]);
        screen.shows("a command is under way");
    }
}

/// A stop that would take others along says which, and asks again.
#[test]
fn what_else_a_command_touches_is_asked_for() {
    let mut screen = Screen::new(80, 24);
    screen.keys("xy");
    let order = Order {
        verb: Verb::Stop,
        unit: "s3_sync".into(),
        cascade: false,
    };
    let others = vec!["auto_sync".to_owned()];
    screen.model.hear(News::Refused {
        order: order.clone(),
        others,
    });
    screen.shows("stop s3_sync, and what it touches: auto_sync? [y/N]");
    let effects = screen.keys("y");
    assert_eq!(
        effects,
        [Effect::Send(Order {
            cascade: true,
            ..order
        })]
    );
    let done = News::Done {
        is_well: true,
        text: "stop s3_sync: stopped".into(),
    };
    assert_eq!(screen.model.hear(done), [Effect::Refresh]);
    screen.shows("✓ stop s3_sync: stopped");
}

#[test]
fn a_log_is_followed_scrolled_and_left() {
    let mut screen = Screen::new(80, 24);
    assert_eq!(screen.keys("l"), [Effect::Follow(Some("s3_sync".into()))]);
    let say = |from: u64, to: u64, fresh| News::Logs {
        unit: "s3_sync".into(),
        lines: (from..to).map(|n| (n, format!("line {n}."))).collect(),
        fresh,
    };
    screen.model.hear(say(0, 100, true));
    screen.shows("line 99.");
    screen.keys("[[");
    assert!(!screen.text().contains("line 99."));
    screen.shows("line 93.");
    screen.model.hear(say(100, 105, false));
    screen.shows("line 93.");
    screen.keys("f");
    screen.shows("line 104.");
    // Of another unit: it comes too late.
    screen.keys("j");
    assert_eq!(screen.model.log.0, "sick");
    screen.model.hear(say(0, 100, true));
    assert!(screen.model.log.1.is_empty());
    assert_eq!(screen.press(KeyCode::Esc), [Effect::Follow(None)]);
}

/// An old picture is never shown as if it were true.
#[test]
fn a_lost_connection_is_told_and_so_is_its_return() {
    for width in [40, 80, 120] {
        let mut screen = Screen::new(width, 24);
        screen
            .model
            .hear(News::Lost("the manager is being replaced".into()));
        screen.model.now_us += 5_000_000;
        assert!(matches!(screen.model.line, Line::Lost(..)));
        screen.shows("✗ not connected, 5s old");
        screen.shows("✗ not connected: the manager is");
        let effects = screen.model.hear(News::Back);
        assert_eq!(effects, [Effect::Refresh]);
        screen.shows("✓ connected again");
        assert!(!screen.text().contains("not connected"));
    }
}

/// Which one, till when, why, and who waits: in one line, and in the second one where there is no room.
#[test]
fn an_open_breaker_is_drawn_until_it_closes() {
    let (mut node, units) = sample();
    node.breakers = vec![BreakerStatus {
        category: "sync".into(),
        restarts: 6,
        limit: 6,
        window_ms: 300_000,
        trips: 1,
        open: Some(BreakerOpen {
            since_us: 1_000_000,
            until_us: crate::measure::now_us() + 90_000_000_000,
            seq: 7,
            unit: "s3\u{1b}[2J_sync".into(),
        }),
        held: vec!["auto_sync".into(), "worker_01".into()],
    }];
    let mut screen = Screen::new(200, 24);
    let closed = screen.text();
    assert!(!closed.contains("breaker"), "{closed}");
    screen
        .model
        .hear(pictured(node.clone(), units.clone(), 2_000_000));
    screen.shows("◌ the breaker of category sync is open, and closes in 1d");
    screen.shows(r": 6 restarts within 5m were made, and s3\x1b[2J_sync was one too many; auto_sync and worker_01 wait for it");
    screen.shows("✗ s3_sync failed");
    screen.shows("1 breaker open");
    for (width, height) in [(80, 24), (60, 10)] {
        (screen.width, screen.height) = (width, height);
        screen.shows("1 breaker open");
    }
    (screen.width, screen.height) = (200, 24);
    node.breakers[0].open = None;
    node.breakers[0].held.clear();
    screen.model.hear(pictured(node, units, 3_000_000));
    assert_eq!(screen.text(), closed);
}

#[test]
fn why_is_told_with_its_root_cause() {
    let mut screen = Screen::new(120, 30);
    screen.keys("jjd");
    screen.shows("root cause  s3_sync failed");
    screen.shows("waits for  s3_sync (is down)");
    screen.shows("requires  s3_sync");
}

#[test]
fn help_names_every_key() {
    let mut screen = Screen::new(80, 24);
    screen.keys("?");
    for key in [
        "Enter, d",
        "Tab",
        "[ ]",
        "s x r",
        "h u",
        "1 2 3 4 5 6",
        "q, Ctrl-C",
        "Ctrl-Z",
    ] {
        screen.shows(key);
    }
    screen.keys(" ");
    screen.shows("● worker_00");
    assert_eq!(screen.keys("q"), [Effect::Quit]);
    let control = |c| News::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
    assert_eq!(screen.model.hear(control('c')), [Effect::Quit]);
    assert_eq!(screen.model.hear(control('z')), [Effect::Suspend]);
    assert_eq!(screen.model.hear(control('l')), [Effect::Repaint]);
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    use ratatui::style::Color;
    let coloured = |screen: &mut Screen| screen.buffer().content.iter().any(|c| c.fg != Color::Reset);
    let mut screen = Screen::new(80, 24);
    assert!(!coloured(&mut screen));
    screen.style.colour = true;
    assert!(coloured(&mut screen));
}

/// A share of a processor is what was used since the picture before.
#[test]
fn cpu_is_counted_between_two_pictures() {
    let mut screen = Screen::new(100, 24);
    let with = |us, taken_us| {
        let (node, mut units) = sample();
        (units[2].cpu_us, units[2].pid) = (Some(us), Some(7));
        pictured(node, units, taken_us)
    };
    // However long the loop stood still before it looked at them.
    screen.model.now_us += 60_000_000;
    screen.model.hear(with(3_000_000, 2_000_000));
    screen.model.hear(with(3_500_000, 4_000_000));
    assert_eq!(
        screen.model.cpu.get("sick").map(|s| (s * 100.0).round()),
        Some(25.0)
    );
    screen.shows("25.0");
}
