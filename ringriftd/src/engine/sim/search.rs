//! Every state of a small system, breadth first, and the shortest way to the first that must not be.

use std::collections::BTreeMap;

use super::model::{At, Death, Model, Move, System};

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) moves: usize,
    /// The longest of all shortest ways.
    pub(super) depth: usize,
    /// What must not be, and the way to it.
    pub(super) fault: Option<String>,
}

/// FNV-1a, 128 bit (Fowler, Noll, Vo).
pub(super) fn fingerprint(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |h, b| {
            (h ^ u128::from(*b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
}

/// What was found so far, by fingerprint: the state before, and which of its choices led here.
pub(super) type Seen = BTreeMap<u128, (u128, u16)>;

/// Looks at every reachable state, or at `most` of them.
pub(super) fn search(system: &System, most: usize) -> Found {
    let mut found = Found {
        states: 0,
        moves: 0,
        depth: 0,
        fault: None,
    };
    let mut seen = Seen::new();
    let first = match Model::new(system) {
        Ok(first) => first,
        Err(fault) => {
            found.fault = Some(fault);
            return found;
        }
    };
    let root = fingerprint(&first.picture());
    seen.insert(root, (root, 0));
    let mut layer = vec![(root, first)];
    while !layer.is_empty() {
        let mut next_layer = Vec::new();
        for (print, model) in layer {
            let tell = |seen: &Seen, fault: String, last: Option<(&Move, Death)>| {
                let mut way = way_to(system, seen, root, print);
                way.extend(last.map(|(what, death)| format!("{what:?} {death:?}")));
                format!("{fault}\n  {}", way.join("\n  "))
            };
            let checked = model.converges(system).and_then(|()| model.is_neutral(system));
            if let Err(fault) = checked {
                found.fault = Some(tell(&seen, fault, None));
                return found;
            }
            for (place, (what, death)) in choices(system, &model).into_iter().enumerate() {
                found.moves += 1;
                let next = match model.go(system, &what, death) {
                    Ok((next, _)) => next,
                    Err(fault) => {
                        found.fault = Some(tell(&seen, fault, Some((&what, death))));
                        return found;
                    }
                };
                let new = fingerprint(&next.picture());
                if let std::collections::btree_map::Entry::Vacant(free) = seen.entry(new) {
                    free.insert((print, u16::try_from(place).unwrap_or(u16::MAX)));
                    next_layer.push((new, next));
                }
            }
            if seen.len() >= most {
                found.states = seen.len();
                found.fault = Some(format!("more than {most} states"));
                return found;
            }
        }
        layer = next_layer;
        found.depth += usize::from(!layer.is_empty());
    }
    found.states = seen.len();
    found
}

/// Every move, alone and with each way in which the manager may die at it.
pub(super) fn choices(system: &System, model: &Model) -> Vec<(Move, Death)> {
    let mut all = Vec::new();
    for what in model.moves(system) {
        let is_void = matches!(what, Move::Void(_));
        let mut actions = 0;
        if model.deaths > 0 && !is_void {
            actions = model
                .go(system, &what, Death::No)
                .map_or(0, |(_, actions)| actions);
        }
        all.push((what.clone(), Death::No));
        if model.deaths == 0 || is_void {
            continue;
        }
        let fates: &[bool] = if model.held.values().any(|held| held.at == At::Asked) || actions > 0 {
            &[false, true]
        } else {
            &[false]
        };
        for &asked_fail in fates {
            // What is not of a process is still to be taken when the new manager is there.
            if matches!(
                what,
                Move::Launched(_) | Move::LaunchFailed(..) | Move::Exited(..) | Move::Emptied(_)
            ) {
                all.push((what.clone(), Death::Before { asked_fail }));
            }
            for done in 0..=actions {
                all.push((what.clone(), Death::After { done, asked_fail }));
            }
        }
    }
    all
}

/// The moves from the beginning to a state.
pub(super) fn way_to(system: &System, seen: &Seen, root: u128, print: u128) -> Vec<String> {
    let mut places = Vec::new();
    let mut at = print;
    while at != root {
        let Some(&(before, place)) = seen.get(&at) else {
            break;
        };
        places.push(place);
        at = before;
    }
    let mut way = Vec::new();
    let Ok(mut model) = Model::new(system) else {
        return way;
    };
    for place in places.into_iter().rev() {
        let Some((what, death)) = choices(system, &model).into_iter().nth(usize::from(place)) else {
            break;
        };
        way.push(format!("{what:?} {death:?}"));
        match model.go(system, &what, death) {
            Ok((next, _)) => model = next,
            Err(_) => break,
        }
    }
    way
}
