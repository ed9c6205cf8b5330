//! A node made of words: serves the dashboard's own files with the answers that a test wants the page to have, and can
//! say what happens, go away and come back.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::programs;

/// What the node says.
#[derive(Debug, Default)]
struct Says {
    node: Value,
    units: BTreeMap<String, Value>,
    details: BTreeMap<String, Value>,
    streams: Vec<TcpStream>,
    is_away: bool,
    seq: u64,
}

/// A node made of words.
#[derive(Debug)]
pub struct Page {
    /// Where it is: `http://127.0.0.1:PORT`.
    pub origin: String,
    says: Arc<Mutex<Says>>,
}

/// Now, in s since 1970.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_secs_f64()
}

/// A unit in this state, for `minutes`, that requires these.
pub fn unit(name: &str, state: &str, minutes: f64, requires: &[&str]) -> Value {
    let is_up = state == "running";
    let since = now() - minutes * 60.0;
    json!({
        "name": name, "key": name.to_uppercase(), "description": format!("The {name} daemon"), "state": state,
        "health": if is_up { "healthy" } else { "unknown" }, "health_text": null, "uptime_seconds": if is_up { minutes * 60.0 } else { 0.0 },
        "restart_count": 0, "starts": 1, "auto_restart": true, "last_error": null, "pid": if is_up { json!(4711) } else { Value::Null },
        "ready": is_up, "depends_on": requires.iter().map(|r| json!({ "unit": r, "kind": "requires" })).collect::<Vec<_>>(),
        "category": "sync", "critical": false, "metrics": {}, "since_s": since, "ready_s": null, "next_try_s": null,
        "next_try": null, "last_exit": null, "blocked_by": [], "desired": "up", "profile": "coordinator", "added_by": null,
        "lifecycle": "active", "deprecated": null, "note": null, "status_text": null, "needs_restart": false, "held": null,
        "invocation": null, "history": [[now() - 7200.0, "running"], [since, state]],
    })
}

impl Page {
    /// Serves these units.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub fn serve(units: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        let name = |unit: &Value| unit["name"].as_str().expect("a name").to_owned();
        let says = Says {
            node: json!({
                "node": "ring-1", "version": "0.1.0", "profiles": ["coordinator"], "uptime_seconds": 11520.0, "containment": "cgroup",
                "settled": true, "stopping": false, "notices": [], "status": "healthy", "score": 1.0, "shows_logs": true,
            }),
            units: units.into_iter().map(|u| (name(&u), u)).collect(),
            ..Says::default()
        };
        let says = Arc::new(Mutex::new(says));
        let shared = Arc::clone(&says);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &says));
            }
        });
        Self { origin, says }
    }

    fn says(&self) -> MutexGuard<'_, Says> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a unit, and says so on every stream.
    pub fn change(&self, unit: Value) {
        let mut says = self.says();
        let name = unit["name"].as_str().expect("a name").to_owned();
        says.units.insert(name.clone(), unit);
        says.seq += 1;
        let event = json!({ "seq": says.seq, "unit": name });
        let piece = format!("id: {}\ndata: {event}\n\n", says.seq);
        says.streams.retain_mut(|s| s.write_all(piece.as_bytes()).is_ok());
    }

    /// What one unit's page shows besides.
    pub fn detail(&self, name: &str, more: Value) {
        self.says().details.insert(name.to_owned(), more);
    }

    /// Changes what is said of the node.
    pub fn node(&self, key: &str, value: Value) {
        self.says().node[key] = value;
    }

    /// Goes away: every stream ends, and nothing is answered; or comes back.
    pub fn be_away(&self, is_away: bool) {
        let mut says = self.says();
        says.is_away = is_away;
        if is_away {
            for stream in says.streams.drain(..) {
                // One that has ended already is as good.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }

    /// How many listen to what happens.
    pub fn listeners(&self) -> usize {
        self.says().streams.len()
    }
}

fn answer(stream: TcpStream, says: &Mutex<Says>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    for _ in lines.by_ref().take_while(|line| !line.is_empty()) {}
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    assert!(matches!(method, "GET" | "HEAD"), "a page only reads: {first}");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut says = says.lock().unwrap_or_else(PoisonError::into_inner);
    if says.is_away {
        return;
    }
    let mut stream = &stream;
    let mut reply = |kind: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\ncache-control: no-store\r\n\
             x-content-type-options: nosniff\r\ncontent-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; \
             img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\r\n",
            body.len()
        );
        // A browser that went elsewhere needs no answer.
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body));
    };
    let file = |name: &str| {
        let path = programs::checkout().join("ringriftd/src/http/page").join(name);
        std::fs::read(path).expect("a file of the page")
    };
    match path {
        "/" => reply("text/html; charset=utf-8", &file("index.html")),
        "/page.css" => reply("text/css; charset=utf-8", &file("page.css")),
        "/page.js" => reply("text/javascript; charset=utf-8", &file("page.js")),
        "/dashboard.json" => {
            let only: Option<Vec<&str>> = query
                .strip_prefix("unit=")
                .map(|names| names.split(',').collect());
            let is_asked = |name: &String| only.as_ref().is_none_or(|only| only.contains(&name.as_str()));
            let mut body = says.node.clone();
            body["units"] = says
                .units
                .iter()
                .filter(|(n, _)| is_asked(n))
                .map(|(_, u)| u.clone())
                .collect();
            (body["known"], body["seq"], body["timestamp"]) =
                (json!(says.units.len() + 46), json!(says.seq), json!(now()));
            reply("application/json", body.to_string().as_bytes());
        }
        "/events" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\nretry: 200\n\n";
            if stream.write_all(head.as_bytes()).is_ok() {
                says.streams.push(stream.try_clone().expect("a descriptor"));
            }
        }
        _ => {
            let name = path
                .strip_prefix("/dashboard/")
                .and_then(|p| p.strip_suffix(".json"))
                .unwrap_or_default();
            let Some(mut body) = says.units.get(name).cloned() else {
                let head = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"error\":\"no such unit\",\"nearest\":[]}";
                let _ = stream.write_all(head.as_bytes());
                return;
            };
            if let (Value::Object(body), Some(Value::Object(more))) = (&mut body, says.details.get(name)) {
                body.extend(more.clone());
            }
            body["timestamp"] = json!(now());
            reply("application/json", body.to_string().as_bytes());
        }
    }
}
