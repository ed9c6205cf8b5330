//! Selectors become units: what a person types (`AUTO-SYNC`, `s3_*`, `@sync`, `%coordinator`, `state:failed`) is
//! looked up among what is known. Pure.
//!
//! Read first: [`resolve`].

use std::collections::BTreeSet;

use proto::reply::{Failure, State};

use crate::spec::UnitName;

/// How many near names an error offers.
const NEAREST: usize = 3;

/// What is known of one unit.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a UnitName,
    /// Its category.
    pub category: &'a str,
    /// Where it stands.
    pub state: State,
}

/// What is known.
pub trait Known {
    /// Every unit, in the order in which a result is to be.
    fn units(&self) -> Vec<Candidate<'_>>;
    /// The names of all profiles.
    fn profiles(&self) -> Vec<String>;
    /// The members of a profile, or `None` when there is no such profile.
    fn members(&self, profile: &str) -> Option<Vec<UnitName>>;
}

/// The units that `selectors` mean, each once, in [`Known::units`]' order; or why one of them means nothing (exit code
/// 4, with the nearest names; 2 when it is no selector at all).
///
/// No selectors give no units: what *none* means is the caller's business, and it must ask that of the selectors,
/// since `state:failed` rightly gives no units when none has failed.
pub fn resolve(selectors: &[String], known: &impl Known) -> Result<Vec<UnitName>, Failure> {
    let units = known.units();
    let folded: Vec<String> = units.iter().map(|unit| fold(unit.name.as_str())).collect();
    let mut chosen = vec![false; units.len()];
    for selector in selectors {
        if let Some(category) = selector.strip_prefix('@') {
            let wanted = fold(category);
            let is_of = |unit: &Candidate<'_>| fold(unit.category) == wanted;
            if !mark(&mut chosen, |i| is_of(&units[i])) {
                let all: BTreeSet<&str> = units.iter().map(|unit| unit.category).collect();
                return Err(unknown("category", selector, category, "@", all));
            }
        } else if let Some(profile) = selector.strip_prefix('%') {
            let profiles = known.profiles();
            let wanted = fold(profile);
            let found = profiles.iter().find(|name| fold(name) == wanted);
            let Some(members) = found.and_then(|name| known.members(name)) else {
                let all = profiles.iter().map(String::as_str);
                return Err(unknown("profile", selector, profile, "%", all));
            };
            let members: BTreeSet<UnitName> = members.into_iter().collect();
            mark(&mut chosen, |i| members.contains(units[i].name));
        } else if let Some(word) = selector.strip_prefix("state:") {
            let Some(state) = state(word) else {
                return Err(failure(
                    2,
                    format!("{word:?} is no state"),
                    format!("states are {}", STATES.map(|(word, _)| word).join(", ")),
                ));
            };
            mark(&mut chosen, |i| units[i].state == state);
        } else if selector.contains(['*', '?', '[', ']']) {
            let glob = Glob::new(selector).ok_or_else(|| {
                failure(
                    2,
                    format!("the glob {selector:?} has a [ without its ]"),
                    "write [a-c] or [!a-c]".to_owned(),
                )
            })?;
            if !mark(&mut chosen, |i| glob.matches(&folded[i])) {
                return Err(failure(
                    4,
                    format!("no unit matches {selector:?}"),
                    "see `ringriftctl list --all`".to_owned(),
                ));
            }
        } else {
            let wanted = fold(selector);
            if !mark(&mut chosen, |i| folded[i] == wanted) {
                let all = units.iter().map(|unit| unit.name.as_str());
                return Err(unknown("unit", selector, selector, "", all));
            }
        }
    }
    let taken = units.iter().zip(chosen).filter(|(_, is_chosen)| *is_chosen);
    Ok(taken.map(|(unit, _)| unit.name.clone()).collect())
}

/// Wherever a person types a name, case and `-`/`_` do not matter and a `.service` ending is dropped.
pub fn fold(text: &str) -> String {
    let folded = text.to_ascii_lowercase().replace('-', "_");
    match folded.strip_suffix(".service") {
        Some(stem) if !stem.is_empty() => stem.to_owned(),
        _ => folded,
    }
}

fn mark(chosen: &mut [bool], is_meant: impl Fn(usize) -> bool) -> bool {
    let mut any = false;
    for (i, slot) in chosen.iter_mut().enumerate() {
        if is_meant(i) {
            *slot = true;
            any = true;
        }
    }
    any
}

/// The words of states, as the command line has them.
const STATES: [(&str, State); 10] = [
    ("stopped", State::Stopped),
    ("waiting", State::Waiting),
    ("starting", State::Starting),
    ("running", State::Running),
    ("reloading", State::Reloading),
    ("stopping", State::Stopping),
    ("backoff", State::Backoff),
    ("failed", State::Failed),
    ("completed", State::Completed),
    ("held", State::Held),
];

fn state(word: &str) -> Option<State> {
    let wanted = word.to_ascii_lowercase();
    STATES
        .into_iter()
        .find_map(|(word, state)| (word == wanted).then_some(state))
}

fn unknown<'a>(
    what: &str,
    selector: &str,
    typed: &str,
    mark: &str,
    all: impl IntoIterator<Item = &'a str>,
) -> Failure {
    let near = nearest(typed, all);
    let hint = match near.as_slice() {
        [] => format!("there is no {what} at all"),
        near => format!(
            "the nearest: {}",
            near.iter()
                .map(|name| format!("{mark}{name}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    let mut failure = failure(4, format!("there is no {what} {:?}", typed), hint);
    failure.unit = (what == "unit").then(|| selector.to_owned());
    failure
}

/// The names nearest to what was typed, nearest first.
pub fn nearest<'a>(typed: &str, all: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let typed = fold(typed);
    let mut ranked: Vec<(usize, &str)> = all
        .into_iter()
        .map(|name| {
            let folded = fold(name);
            // Who types half a name means it more than one that is as many letters away.
            let is_part = typed.len() > 2 && (folded.contains(&typed) || typed.contains(&folded));
            let distance = strsim::damerau_levenshtein(&typed, &folded);
            (if is_part { distance.min(1) } else { distance }, name)
        })
        .collect();
    ranked.sort();
    ranked.into_iter().take(NEAREST).map(|(_, name)| name).collect()
}

fn failure(code: u8, message: String, hint: String) -> Failure {
    Failure {
        code,
        message,
        unit: None,
        hint: Some(hint),
        details: Vec::new(),
    }
}

/// A glob: `*`, `?`, `[a-c]`, `[!a-c]`. Linear in the text for each star (no backtracking but to the last one).
struct Glob(Vec<Token>);

enum Token {
    One(u8),
    Any,
    Star,
    Class { not: bool, ranges: Vec<(u8, u8)> },
}

impl Glob {
    fn new(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let text = match text.strip_suffix(".service") {
            Some(stem) if !stem.is_empty() => stem,
            _ => &text,
        };
        let fold = |b: u8| if b == b'-' { b'_' } else { b };
        let mut tokens = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            tokens.push(match first {
                b'*' => Token::Star,
                b'?' => Token::Any,
                b']' => return None,
                b'[' => {
                    let end = tail.iter().position(|&b| b == b']').filter(|&end| end > 0)?;
                    let (mut inside, after) = (&tail[..end], &tail[end + 1..]);
                    rest = after;
                    let not = matches!(inside.first(), Some(b'!' | b'^'));
                    if not {
                        inside = &inside[1..];
                    }
                    let mut ranges = Vec::new();
                    while let Some(&low) = inside.first() {
                        if let [_, b'-', high, ..] = *inside {
                            ranges.push((low, high));
                            inside = &inside[3..];
                        } else {
                            ranges.push((fold(low), fold(low)));
                            inside = &inside[1..];
                        }
                    }
                    Token::Class { not, ranges }
                }
                other => Token::One(fold(other)),
            });
        }
        Some(Self(tokens))
    }

    fn matches(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let (mut t, mut g) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match self.0.get(g) {
                Some(Token::Star) => {
                    star = Some((g, t));
                    g += 1;
                    continue;
                }
                Some(token) if token.takes(text[t]) => {
                    t += 1;
                    g += 1;
                    continue;
                }
                _ => {}
            }
            let Some((at, from)) = star else {
                return false;
            };
            star = Some((at, from + 1));
            t = from + 1;
            g = at + 1;
        }
        self.0[g..].iter().all(|token| matches!(token, Token::Star))
    }
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::One(b) => *b == byte,
            Self::Any | Self::Star => true,
            Self::Class { not, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&byte)) != *not
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fleet(Vec<(UnitName, &'static str, State)>);

    impl Known for Fleet {
        fn units(&self) -> Vec<Candidate<'_>> {
            self.0
                .iter()
                .map(|(name, category, state)| Candidate {
                    name,
                    category,
                    state: *state,
                })
                .collect()
        }

        fn profiles(&self) -> Vec<String> {
            vec!["coordinator".to_owned(), "empty".to_owned()]
        }

        fn members(&self, profile: &str) -> Option<Vec<UnitName>> {
            match profile {
                "coordinator" => Some(vec![name("event_router"), name("auto_sync")]),
                "empty" => Some(Vec::new()),
                _ => None,
            }
        }
    }

    fn name(text: &str) -> UnitName {
        UnitName::new(text).expect("a name")
    }

    fn fleet() -> Fleet {
        Fleet(vec![
            (name("auto_sync"), "sync", State::Running),
            (name("event_router"), "event", State::Failed),
            (name("idle-resource"), "resource", State::Stopped),
            (name("s3_backup"), "sync", State::Running),
            (name("s3_push"), "sync", State::Backoff),
        ])
    }

    fn ok(selectors: &[&str], expected: &str) {
        let selectors: Vec<String> = selectors.iter().map(|&s| s.to_owned()).collect();
        let found = resolve(&selectors, &fleet()).expect("known");
        let found: Vec<&str> = found.iter().map(UnitName::as_str).collect();
        assert_eq!(found.join(" "), expected, "{selectors:?}");
    }

    fn bad(selector: &str, code: u8, words: &str) {
        let failure = resolve(&[selector.to_owned()], &fleet()).expect_err("unknown");
        let hint = failure.hint.clone().unwrap_or_default();
        assert_eq!(failure.code, code, "{failure:?}");
        assert!(
            format!("{} {hint}", failure.message).contains(words),
            "{failure:?}"
        );
    }

    #[test]
    fn names_are_folded() {
        ok(&["auto_sync"], "auto_sync");
        ok(&["AUTO-SYNC"], "auto_sync");
        ok(&["Auto_Sync.service"], "auto_sync");
        ok(&["idle_resource"], "idle-resource");
        ok(&["IDLE-RESOURCE"], "idle-resource");
    }

    #[test]
    fn result_has_each_unit_once_in_the_fleets_order() {
        ok(&["s3_push", "@sync", "auto_sync"], "auto_sync s3_backup s3_push");
        ok(&[], "");
    }

    #[test]
    fn globs_categories_profiles_states() {
        ok(&["s3_*"], "s3_backup s3_push");
        ok(&["S3-*.service"], "s3_backup s3_push");
        ok(&["*"], "auto_sync event_router idle-resource s3_backup s3_push");
        ok(&["s3_p???"], "s3_push");
        ok(&["[a-e]*"], "auto_sync event_router");
        ok(&["[!a-e]*"], "idle-resource s3_backup s3_push");
        ok(&["idle-r*"], "idle-resource");
        ok(&["@SYNC"], "auto_sync s3_backup s3_push");
        ok(&["%coordinator"], "auto_sync event_router");
        ok(&["%empty"], "");
        ok(&["state:running"], "auto_sync s3_backup");
        ok(&["state:held"], "");
    }

    #[test]
    fn unknown_ones_name_the_nearest() {
        bad("auto_snyc", 4, "nearest: auto_sync, ");
        bad("sync", 4, "nearest: auto_sync, ");
        bad("router", 4, "nearest: event_router, ");
        bad("@snyc", 4, "nearest: @sync, ");
        bad("%cordinator", 4, "nearest: %coordinator, %empty");
        bad("zzz*", 4, "no unit matches");
        bad("state:sick", 2, "states are stopped, waiting");
        bad("[a-c", 2, "without its ]");
        bad("[]", 2, "without its ]");
        bad("a]", 2, "without its ]");
    }

    #[test]
    fn three_names_are_offered() {
        let all = ["a1", "a2", "a3", "a4", "b"];
        assert_eq!(nearest("a1", all), ["a1", "a2", "a3"]);
        assert_eq!(nearest("x", []), Vec::<&str>::new());
    }

    #[test]
    fn glob_of_many_stars_is_fast() {
        let glob = Glob::new(&"*a".repeat(128)).expect("a glob");
        assert!(!glob.matches(&"a".repeat(64)));
    }

    proptest! {
        #[test]
        fn any_selector_is_survived(selector in "[a-z0-9_.@%:*?\\[\\]!^-]{0,40}") {
            let _ = resolve(&[selector], &fleet());
        }

        #[test]
        fn name_is_a_glob_of_itself(text in "[a-z0-9][a-z0-9_.]{0,20}") {
            prop_assume!(!text.ends_with(".service"));
            prop_assert!(Glob::new(&text).expect("a glob").matches(&text));
            let stars = format!("*{}*", &text[1..]);
            prop_assert!(Glob::new(&stars).expect("a glob").matches(&text));
        }
    }
}
