//! `completion`: a script for the shell. Verbs and flags come from the same definitions as `--help`; names of units
//! are asked of the running daemon at the moment of the key press, and are simply missing when there is none.

use clap::{Args as ClapArgs, Command};
use clap_complete::aot::{Shell as Generator, generate};

use crate::session::Session;
use crate::stop::{self, Stop};

/// The shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// bash, 4.4 or later
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Flags of `completion`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Whose script
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// How a script asks for the names; quiet when nobody answers.
const ASK: &str = "ringriftctl list -o name -q --all 2>/dev/null";

const BASH: &str = r#"
# Live unit names, asked only where a unit may stand.
_ringriftctl_live() {
    local cur="${COMP_WORDS[COMP_CWORD]}" verb="" word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$word" in
            -*) ;;
            *) verb="$word"; break ;;
        esac
    done
    _ringriftctl "$@"
    case "$cur:$verb" in
        -*) ;;
        *:@VERBS@)
            case "${COMP_WORDS[COMP_CWORD-1]}" in
                --socket|--color|--timeout|--sort|--state|--category|--output|-o|--for|--since|--lines|-n|-s|--signal|--whom|-p|--property) ;;
                *) COMPREPLY=($(compgen -W "$(@ASK@)" -- "$cur")) ;;
            esac ;;
    esac
}
complete -F _ringriftctl_live ringriftctl
"#;

const ZSH: &str = r#"
# Live unit names, asked only where a unit may stand.
_ringriftctl_units() {
    local -a units
    units=(${(f)"$(@ASK@)"})
    compadd -a units
}
"#;

const FISH: &str = r#"
# Live unit names, asked only where a unit may stand.
complete -c ringriftctl -n "__fish_seen_subcommand_from @VERBS@" -f -a "(@ASK@)"
"#;

/// Prints the script for the whole of the command line.
pub fn run(session: &mut Session, args: &Args, whole: Command) -> Result<u8, Stop> {
    session.out.bytes(script(args.shell, whole).as_bytes())?;
    Ok(stop::OK)
}

/// Every word that may stand before a unit: verbs and their aliases that take units.
fn verbs(whole: &Command) -> Vec<String> {
    let mut verbs = Vec::new();
    for verb in whole.get_subcommands() {
        if verb
            .get_positionals()
            .any(|p| p.get_value_hint() == clap::ValueHint::Hostname)
        {
            verbs.push(verb.get_name().to_owned());
            verbs.extend(verb.get_all_aliases().map(str::to_owned));
        }
    }
    verbs
}

fn script(shell: Shell, mut whole: Command) -> String {
    let verbs = verbs(&whole);
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut bytes = Vec::new();
    generate(generator, &mut whole, "ringriftctl", &mut bytes);
    let script = String::from_utf8_lossy(&bytes).into_owned();
    match shell {
        Shell::Bash => {
            let patterns = verbs.join("|*:");
            script + &BASH.replace("@VERBS@", &patterns).replace("@ASK@", ASK)
        }
        // Units carry the hint of host names, which nothing else here does: its function becomes ours.
        Shell::Zsh => {
            let own = script.replace(":_hosts", ":_ringriftctl_units");
            let head = "#compdef ringriftctl\n";
            let body = own.strip_prefix(head).unwrap_or(&own);
            format!("{head}{}{body}", ZSH.replace("@ASK@", ASK))
        }
        Shell::Fish => script + &FISH.replace("@VERBS@", &verbs.join(" ")).replace("@ASK@", ASK),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_script_asks_for_live_units() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell, Cli::command());
            assert!(script.contains(ASK), "{shell:?}");
            assert!(
                !script.contains("@ASK@") && !script.contains("@VERBS@"),
                "{shell:?}"
            );
        }
        let zsh = script(Shell::Zsh, Cli::command());
        assert!(zsh.starts_with("#compdef ringriftctl\n"));
        assert!(
            zsh.contains(":_ringriftctl_units'") && !zsh.contains("_hosts"),
            "{zsh}"
        );
    }

    #[test]
    fn units_are_completed_where_they_may_stand() {
        let verbs = verbs(&Cli::command());
        for verb in [
            "start",
            "stop",
            "status",
            "logs",
            "ls",
            "is-active",
            "kill",
            "wait",
            "deps",
            "show",
        ] {
            assert!(verbs.iter().any(|v| v == verb), "{verb}");
        }
        for verb in ["profile", "version", "completion", "shutdown"] {
            assert!(!verbs.iter().any(|v| v == verb), "{verb}");
        }
    }
}
