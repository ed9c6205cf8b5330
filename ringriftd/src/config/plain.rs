//! The unit of whose file nothing but a command is known: what the built-in defaults make of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;

use super::fileset::{Contents, FileSet, SetFile, SetFolder};
use super::load::load_from_on;
use crate::spec::UnitSpec;

const FILE: &str = "plain.toml";
const TEXT: &str = "[exec]\ncommand = [\"/\"]\n";

/// It. `None` would be a bug of the defaults, which a test excludes.
pub fn plain_unit() -> Option<Arc<UnitSpec>> {
    let file = SetFile {
        defect: None,
        text: Ok(TEXT.to_owned()),
    };
    let folder = Contents {
        names: vec![FILE.to_owned()],
        files: BTreeMap::from([(FILE.to_owned(), Ok(file))]),
        ..Contents::default()
    };
    let set = FileSet {
        units: vec![SetFolder {
            shown: "built in".to_owned(),
            is_chosen: false,
            found: Ok(folder),
        }],
        ..FileSet::default()
    };
    // No day matters to it.
    let loaded = load_from_on(Arc::new(set), &[], Date::ZERO).ok()?;
    loaded.plan.units.values().next().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_unit_can_be_had_and_has_the_defaults() {
        let plain = plain_unit().expect("the built-in defaults make a unit");
        assert_eq!(plain.name.as_str(), "plain");
        assert!(plain.requires.is_empty() && plain.exec.env.is_empty());
        assert!(!plain.ready_timeout.is_zero());
    }
}
