//! Where two JSON texts differ first.

use serde_json::Value;

/// The path to the first difference, and what stands there in each; absent: nothing.
pub fn first_difference(one: &str, other: &str) -> Option<(String, String, String)> {
    let (Ok(a), Ok(b)) = (serde_json::from_str(one), serde_json::from_str(other)) else {
        return (one != other).then(|| (String::new(), one.to_owned(), other.to_owned()));
    };
    let mut path = String::new();
    let (a, b) = walk(Some(&a), Some(&b), &mut path)?;
    Some((path, shown(a), shown(b)))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

type Pair<'a> = (Option<&'a Value>, Option<&'a Value>);

fn walk<'a>(a: Option<&'a Value>, b: Option<&'a Value>, path: &mut String) -> Option<Pair<'a>> {
    let length = path.len();
    match (a, b) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let more = other.keys().filter(|key| !one.contains_key(*key));
            for key in one.keys().chain(more) {
                path.push('.');
                path.push_str(key);
                if let Some(found) = walk(one.get(key), other.get(key), path) {
                    return Some(found);
                }
                path.truncate(length);
            }
            None
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for i in 0..one.len().max(other.len()) {
                path.push_str(&format!("[{i}]"));
                if let Some(found) = walk(one.get(i), other.get(i), path) {
                    return Some(found);
                }
                path.truncate(length);
            }
            None
        }
        (a, b) => (a != b).then_some((a, b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_by_its_path() {
        let found = |a, b| first_difference(a, b);
        assert_eq!(found(r#"{"a":[1,{"b":2}]}"#, r#"{"a":[1,{"b":2}]}"#), None);
        let says = |path: &str, a: &str, b: &str| Some((path.to_owned(), a.to_owned(), b.to_owned()));
        assert_eq!(
            found(r#"{"a":[1,{"b":2}]}"#, r#"{"a":[1,{"b":"x"}]}"#),
            says(".a[1].b", "2", "\"x\"")
        );
        assert_eq!(
            found(r#"{"a":[1]}"#, r#"{"a":[1,2]}"#),
            says(".a[1]", "nothing", "2")
        );
        assert_eq!(
            found(r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            says(".b", "nothing", "null")
        );
        assert_eq!(found("{", "}"), says("", "{", "}"));
    }
}
