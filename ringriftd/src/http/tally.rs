//! What is asked over HTTP, counted by what was asked for and how it was answered. The manager is told now and then, and
//! remembers it with all else that is counted: so these counters, too, go on over its death, and no flood of questions
//! makes it write more than once in [`limits::HTTP_TELL_PAUSE`].
//!
//! Read first: [`Tally`].

use std::sync::{Mutex, PoisonError};

use hyper::StatusCode;
use tokio::sync::{Notify, mpsc};

use crate::counts::HttpAsked;
use crate::limits;

/// What the manager has not been told yet.
#[derive(Debug, Default)]
pub struct Tally {
    counted: Mutex<HttpAsked>,
    news: Notify,
}

/// What stands for a path in the counters: there are only so many, whatever is asked for.
pub fn word(path: &str) -> &'static str {
    match path {
        "/" | "/page.css" | "/page.js" => "/",
        "/health" => "/health",
        "/ready" => "/ready",
        "/status" => "/status",
        "/metrics" => "/metrics",
        "/events" => "/events",
        "/dashboard.json" => "/dashboard.json",
        _ if path.starts_with("/status/") => "/status/UNIT",
        _ if path.starts_with("/dashboard/") => "/dashboard/UNIT.json",
        _ => "other",
    }
}

impl Tally {
    /// A question was answered.
    pub fn note(&self, path: &str, status: StatusCode) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let by_status = match counted.get_mut(word(path)) {
            Some(by_status) => by_status,
            None => counted.entry(word(path).to_owned()).or_default(),
        };
        let n = by_status.entry(status.as_u16()).or_default();
        *n = n.saturating_add(1);
        self.news.notify_one();
    }

    fn take(&self) -> HttpAsked {
        std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whoever remembers it, until that one goes.
    pub async fn tell(&self, to: mpsc::Sender<HttpAsked>) {
        loop {
            self.news.notified().await;
            let counted = self.take();
            if !counted.is_empty() && to.send(counted).await.is_err() {
                return;
            }
            tokio::time::sleep(limits::HTTP_TELL_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_there_are_few_words() {
        for (path, expected) in [
            ("/", "/"),
            ("/health", "/health"),
            ("/status/a", "/status/UNIT"),
            ("/dashboard/a.json", "/dashboard/UNIT.json"),
            ("/../etc/passwd", "other"),
            ("", "other"),
        ] {
            assert_eq!(word(path), expected, "{path}");
        }
    }
}
