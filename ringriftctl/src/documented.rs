//! Compares `docs/cli.md` with the definitions that clap parses by, so that the page cannot go stale.

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
const BEGIN: &str = "<!-- begin: printed from the definitions -->\n";
const END: &str = "<!-- end -->\n";

fn flag(arg: &Arg) -> String {
    let long = arg.get_long().map(|l| format!("--{l}"));
    let short = arg.get_short().map(|s| format!("-{s}"));
    let mut text = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() {
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .map(|v| v.get_name().to_owned())
            .collect();
        let name = arg.get_value_names().map(|n| n.join(" ")).unwrap_or_default();
        text.push(' ');
        text.push_str(&if values.is_empty() {
            name
        } else {
            values.join("\\|")
        });
    }
    text
}

fn rows(command: &Command, page: &mut String, global: bool) {
    for arg in command.get_arguments() {
        let skipped = matches!(arg.get_id().as_str(), "help" | "version") || arg.is_hide_set();
        if skipped || arg.is_global_set() != global {
            continue;
        }
        let what = if arg.is_positional() {
            let name = arg.get_value_names().map(|n| n.join(" ")).unwrap_or_default();
            let many = if arg.get_num_args().is_some_and(|n| n.max_values() > 1) {
                "…"
            } else {
                ""
            };
            if arg.is_required_set() {
                format!("{name}{many}")
            } else {
                format!("[{name}{many}]")
            }
        } else {
            flag(arg)
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!("| `{what}` | {help} |\n"));
    }
}

fn verb(command: &Command, before: &str, page: &mut String) {
    let name = format!("{before}{}", command.get_name());
    let mut aliases: Vec<&str> = command.get_visible_aliases().collect();
    aliases.sort_unstable();
    let also = if aliases.is_empty() {
        String::new()
    } else {
        format!(" (also `{}`)", aliases.join("`, `"))
    };
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.push_str(&format!("\n### {name}\n\n{about}{also}.\n"));
    let mut table = String::new();
    rows(command, &mut table, false);
    if !table.is_empty() {
        page.push_str(&format!("\n| | |\n|---|---|\n{table}"));
    }
    for below in command.get_subcommands() {
        verb(below, &format!("{name} "), page);
    }
}

fn printed() -> String {
    let command = Cli::command();
    let mut page = String::from("\n### Flags of every verb\n\n| | |\n|---|---|\n");
    rows(&command, &mut page, true);
    command.get_subcommands().for_each(|c| verb(c, "", &mut page));
    page.push('\n');
    page
}

/// With RINGRIFT_BLESS=1 the page is written anew.
#[test]
fn the_page_says_what_the_program_does() {
    let page = std::fs::read_to_string(PAGE).expect("docs/cli.md can be read");
    let (head, rest) = page.split_once(BEGIN).expect("docs/cli.md has the begin mark");
    let (old, tail) = rest.split_once(END).expect("docs/cli.md has the end mark");
    let new = printed();
    if std::env::var_os("RINGRIFT_BLESS").is_some() {
        std::fs::write(PAGE, format!("{head}{BEGIN}{new}{END}{tail}")).expect("docs/cli.md can be written");
        return;
    }
    assert_eq!(
        old, new,
        "docs/cli.md is stale: run this test with RINGRIFT_BLESS=1"
    );
}

#[test]
fn the_definitions_hold_together() {
    Cli::command().debug_assert();
}

/// Every code that the program names is in the page's table.
#[test]
fn the_page_has_every_exit_code() {
    let page = std::fs::read_to_string(PAGE).expect("docs/cli.md can be read");
    let source = include_str!("stop.rs");
    let codes: Vec<&str> = source
        .lines()
        .filter_map(|l| {
            l.strip_prefix("pub const ")?
                .split_once("= ")?
                .1
                .strip_suffix(';')
        })
        .collect();
    assert!(codes.len() >= 12, "{codes:?}");
    for code in codes {
        assert!(
            page.contains(&format!("\n| {code} |")),
            "exit code {code} is not in docs/cli.md"
        );
    }
}
