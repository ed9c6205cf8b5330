//! From a path to an answer.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap};
use serde_json::json;

use super::reply::{self, Answer};
use super::server::{Guest, Shared};
use super::{dashboard, health, metrics, stream};
use crate::control::select;
use crate::published::{Picture, Row};

/// A request that was let in.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its path, as it was sent.
    pub path: &'a str,
    /// What follows `?`.
    pub query: &'a str,
    /// Its header.
    pub headers: &'a HeaderMap,
    /// Only the header of the answer is wanted.
    pub is_head: bool,
    /// Log lines and failure tails may be shown here.
    pub shows_logs: bool,
}

impl Asked<'_> {
    /// The value of `name` in the query.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&');
        let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        decoded(value)
    }
}

/// The answer.
pub async fn answer(asked: &Asked<'_>, shared: &Arc<Shared>, guest: Guest) -> Answer {
    let look = || shared.sources.published.look();
    match asked.path {
        "/health" => health::health(&look()),
        "/ready" => health::ready(&look()),
        "/status" => health::status(&look()),
        "/metrics" => {
            let accept = asked.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
            metrics::metrics(shared, accept.unwrap_or_default()).await
        }
        "/events" => stream::events(asked, shared, guest),
        "/dashboard.json" => dashboard::node(asked, shared).await,
        path => {
            if let Some(asset) = dashboard::asset(path) {
                return reply::whole(StatusCode::OK, asset.kind, asset.bytes);
            }
            if let Some(name) = path.strip_prefix("/status/") {
                let picture = look();
                return match find(&picture, &decoded(name).unwrap_or_default()) {
                    Ok(row) => health::one(row),
                    Err(answer) => *answer,
                };
            }
            let name = path
                .strip_prefix("/dashboard/")
                .and_then(|rest| rest.strip_suffix(".json"));
            if let Some(name) = name {
                let picture = look();
                return match find(&picture, &decoded(name).unwrap_or_default()) {
                    Ok(row) => dashboard::unit(asked, shared, row).await,
                    Err(answer) => *answer,
                };
            }
            reply::json(
                StatusCode::NOT_FOUND,
                &json!({
                    "error": "there is nothing here",
                    "paths": ["/", "/health", "/ready", "/status", "/status/UNIT", "/metrics", "/events",
                              "/dashboard.json", "/dashboard/UNIT.json"],
                }),
            )
        }
    }
}

/// What a part of a path or a query says: `%40` is `@`. `None` where that is no text.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let byte = digit(*high)? * 16 + digit(*low)?;
                (u8::try_from(byte).ok()?, after)
            }
            (b'%', _) => return None,
            (byte, after) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// The unit that a person means; or that there is none, with the nearest names.
fn find<'a>(picture: &'a Picture, text: &str) -> Result<&'a Arc<Row>, Box<Answer>> {
    let folded = select::fold(text);
    let known = picture
        .rows
        .iter()
        .find(|(name, _)| name.as_str() == text || select::fold(name.as_str()) == folded);
    if let Some((_, row)) = known {
        return Ok(row);
    }
    let near = select::nearest(text, picture.rows.keys().map(|name| name.as_str()));
    Err(Box::new(reply::json(
        StatusCode::NOT_FOUND,
        &json!({
            "error": format!("there is no unit {text:?}"),
            "nearest": near.iter().map(|name| name.to_ascii_uppercase()).collect::<Vec<_>>(),
        }),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_paths_are_decoded_or_refused() {
        assert_eq!(decoded("a%40b").as_deref(), Some("a@b"));
        assert_eq!(decoded("auto_sync").as_deref(), Some("auto_sync"));
        assert_eq!(decoded("a%2Cb%c3%a4").as_deref(), Some("a,b\u{e4}"));
        for bad in ["%", "%4", "%zz", "%ff", "%+1"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
