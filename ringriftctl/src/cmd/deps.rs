//! `deps`: who needs whom, as a tree, or for drawing.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args as ClapArgs;
use proto::reply::{Edge, EdgeKind, Graph, Reply};
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::{Ink, Style};
use crate::session::Session;
use crate::stop::{self, Stop};

/// How edges are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// A tree; a subtree that was shown already is marked, not repeated
    #[default]
    Tree,
    /// For Graphviz
    Dot,
    /// For Mermaid
    Mermaid,
    /// One JSON document
    Json,
}

/// Flags of `deps`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile; none: every wanted unit
    #[arg(value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// Who needs these, instead of whom these need
    #[arg(long)]
    pub reverse: bool,
    /// Also mere order (after) and conflicts
    #[arg(short, long)]
    pub all: bool,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

#[derive(Serialize)]
struct Body<'a> {
    roots: &'a [String],
    edges: Vec<EdgeBody<'a>>,
}

#[derive(Serialize)]
struct EdgeBody<'a> {
    from: &'a str,
    to: &'a str,
    kind: EdgeKind,
}

/// Prints the part of the graph that can be reached from the roots.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.global.json |= args.output == Some(Format::Json);
    let mut client = session.connect()?;
    let mut graph = Graph {
        roots: Vec::new(),
        edges: Vec::new(),
    };
    for reply in client.collect(Request::Deps {
        selectors: args.units.clone(),
    })? {
        match reply {
            Reply::Graph(more) => {
                graph.roots.extend(more.roots);
                graph.edges.extend(more.edges);
            }
            _ => return Err(Stop::unexpected("a request for edges with something else")),
        }
    }
    graph
        .edges
        .retain(|e| args.all || matches!(e.kind, EdgeKind::Requires | EdgeKind::Wants));
    graph
        .edges
        .sort_by(|a, b| (&a.from, a.kind, &a.to).cmp(&(&b.from, b.kind, &b.to)));
    graph.edges.dedup();
    let reached = reach(&graph, args.reverse);
    graph
        .edges
        .retain(|e| reached.contains(if args.reverse { &e.to } else { &e.from }));
    let format = if session.global.json {
        Format::Json
    } else {
        args.output.unwrap_or_default()
    };
    match format {
        Format::Json => {
            let edges = graph
                .edges
                .iter()
                .map(|e| EdgeBody {
                    from: &e.from,
                    to: &e.to,
                    kind: e.kind,
                })
                .collect();
            json::document(
                &mut session.out,
                "deps",
                &Body {
                    roots: &graph.roots,
                    edges,
                },
            )?;
        }
        Format::Dot => session.out.bytes(dot(&graph).as_bytes())?,
        Format::Mermaid => session.out.bytes(mermaid(&graph).as_bytes())?,
        Format::Tree => {
            for line in tree(&graph, args.reverse, &session.style) {
                session.out.line(line)?;
            }
        }
    }
    Ok(stop::OK)
}

/// The other end of an edge, seen from `from` (or, reversed, from `to`).
fn ends(edge: &Edge, reverse: bool) -> (&String, &String) {
    if reverse {
        (&edge.to, &edge.from)
    } else {
        (&edge.from, &edge.to)
    }
}

fn reach(graph: &Graph, reverse: bool) -> BTreeSet<String> {
    let mut next: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for edge in &graph.edges {
        let (near, far) = ends(edge, reverse);
        next.entry(near).or_default().push(far);
    }
    let mut reached = BTreeSet::new();
    let mut todo: Vec<&String> = graph.roots.iter().collect();
    while let Some(unit) = todo.pop() {
        if reached.insert(unit.clone()) {
            todo.extend(next.get(unit.as_str()).into_iter().flatten());
        }
    }
    reached
}

fn kind_word(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Requires => "requires",
        EdgeKind::Wants => "wants",
        EdgeKind::After => "after",
        EdgeKind::Conflicts => "conflicts",
    }
}

/// The tree's lines. Walks by a stack of its own: a chain of units may be longer than a thread's stack is deep.
fn tree(graph: &Graph, reverse: bool, style: &Style) -> Vec<String> {
    let mut next: BTreeMap<&str, Vec<(&str, EdgeKind)>> = BTreeMap::new();
    for edge in &graph.edges {
        let (near, far) = ends(edge, reverse);
        next.entry(near).or_default().push((far, edge.kind));
    }
    // Two edges between the same units are one branch, named by the stronger.
    for children in next.values_mut() {
        children.sort_by_key(|(unit, kind)| (*unit, *kind));
        children.dedup_by_key(|(unit, _)| *unit);
    }
    let (branch, last_branch) = (style.pick("├─ ", "|- "), style.pick("└─ ", "`- "));
    let (bar, gap) = (style.pick("│  ", "|  "), "   ");
    // Without roots of their own, units that others show anyway need no line at the top.
    let below: BTreeSet<&str> = next.values().flatten().map(|(u, _)| *u).collect();
    let many = graph.roots.len() > 1;
    let mut tops: Vec<&str> = graph.roots.iter().map(String::as_str).collect();
    if many {
        tops.retain(|u| !below.contains(u));
        // A pure circle has no top: show it from its first unit.
        if tops.is_empty() {
            tops.extend(graph.roots.first().map(String::as_str));
        }
    }
    let mut lines = Vec::new();
    let mut shown: BTreeSet<&str> = BTreeSet::new();
    for top in tops {
        // (unit, kind, prefix, is last); pushed in reverse, so that the first comes out first.
        let mut stack = vec![(top, None::<EdgeKind>, String::new(), true)];
        while let Some((unit, kind, prefix, last)) = stack.pop() {
            let children = next.get(unit).map_or(&[][..], Vec::as_slice);
            let again = !shown.insert(unit) && !children.is_empty();
            let name = style.clean(unit);
            let mark = if again {
                style.paint(Ink::Dim, " (above)")
            } else {
                String::new()
            };
            match kind {
                None => lines.push(format!("{}{mark}", style.paint(Ink::Bold, &name))),
                Some(kind) => {
                    let twig = if last { last_branch } else { branch };
                    let kind = style.paint(Ink::Dim, &format!(" ({})", kind_word(kind)));
                    lines.push(format!("{prefix}{twig}{name}{kind}{mark}"));
                }
            }
            if again {
                continue;
            }
            let below = match kind {
                None => String::new(),
                Some(_) => format!("{prefix}{}", if last { gap } else { bar }),
            };
            for (i, (child, kind)) in children.iter().enumerate().rev() {
                stack.push((child, Some(*kind), below.clone(), i + 1 == children.len()));
            }
        }
    }
    lines
}

/// A name as a quoted word of dot and mermaid: the daemon's names need no escape, and another's must not break out.
fn quoted(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._@-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!("\"{safe}\"")
}

fn dot(graph: &Graph) -> String {
    let mut text = String::from("digraph units {\n  rankdir=LR;\n  node [shape=box];\n");
    for root in &graph.roots {
        text.push_str(&format!("  {} [style=bold];\n", quoted(root)));
    }
    for edge in &graph.edges {
        let look = match edge.kind {
            EdgeKind::Requires => "style=solid",
            EdgeKind::Wants => "style=dashed",
            EdgeKind::After => "style=dotted",
            EdgeKind::Conflicts => "style=solid color=red dir=none",
        };
        text.push_str(&format!(
            "  {} -> {} [{look}];\n",
            quoted(&edge.from),
            quoted(&edge.to)
        ));
    }
    text.push_str("}\n");
    text
}

fn mermaid(graph: &Graph) -> String {
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    let names = graph
        .roots
        .iter()
        .chain(graph.edges.iter().flat_map(|e| [&e.from, &e.to]));
    for name in names {
        let id = ids.len();
        ids.entry(name).or_insert(id);
    }
    let mut text = String::from("graph LR\n");
    let mut nodes: Vec<_> = ids.iter().collect();
    nodes.sort_by_key(|(_, id)| **id);
    for (name, id) in nodes {
        text.push_str(&format!("  u{id}[{}]\n", quoted(name)));
    }
    for edge in &graph.edges {
        let arrow = match edge.kind {
            EdgeKind::Requires => "-->",
            EdgeKind::Wants => "-.->",
            EdgeKind::After => "-.->|after|",
            EdgeKind::Conflicts => "---|conflicts|",
        };
        let id = |name: &str| ids.get(name).copied().unwrap_or(0);
        text.push_str(&format!("  u{} {arrow} u{}\n", id(&edge.from), id(&edge.to)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn style() -> Style {
        Style {
            colour: false,
            unicode: false,
            width: None,
            iso: false,
            now_us: 0,
            zone: TimeZone::UTC,
        }
    }

    fn graph(roots: &[&str], edges: &[(&str, &str)]) -> Graph {
        Graph {
            roots: roots.iter().map(|r| (*r).to_owned()).collect(),
            edges: edges
                .iter()
                .map(|(f, t)| Edge {
                    from: (*f).into(),
                    to: (*t).into(),
                    kind: EdgeKind::Requires,
                })
                .collect(),
        }
    }

    #[track_caller]
    fn check(graph: &Graph, expected: &str) {
        assert_eq!(
            tree(graph, false, &style()).join("\n").replace(" (requires)", ""),
            expected
        );
    }

    #[test]
    fn a_subtree_is_shown_once() {
        let diamond = graph(
            &["a"],
            &[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "e")],
        );
        check(&diamond, "a\n|- b\n|  `- d\n|     `- e\n`- c\n   `- d (above)");
    }

    #[test]
    fn a_circle_ends() {
        check(
            &graph(&["a", "b"], &[("a", "b"), ("b", "a")]),
            "a\n`- b\n   `- a (above)",
        );
    }

    #[test]
    fn roots_that_others_show_are_not_at_the_top() {
        check(&graph(&["a", "b", "z"], &[("a", "b")]), "a\n`- b\nz");
    }

    #[test]
    fn a_chain_longer_than_a_stack_is_walked() {
        let names: Vec<String> = (0..3000).map(|i| format!("u{i}")).collect();
        let edges: Vec<(&str, &str)> = names.windows(2).map(|w| (w[0].as_str(), w[1].as_str())).collect();
        assert_eq!(tree(&graph(&["u0"], &edges), false, &style()).len(), 3000);
    }

    #[test]
    fn names_cannot_break_out_of_a_drawing() {
        assert_eq!(quoted("a\"];\nx"), "\"a____x\"");
    }
}
