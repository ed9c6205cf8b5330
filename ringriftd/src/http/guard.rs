//! Who may ask what: only GET and HEAD, only under a name that this host is known by, only what fits.
//!
//! A page in an operator's browser can have its name resolve to 127.0.0.1 and ask here ("DNS rebinding"); the `Host` that
//! the browser then sends is that page's, so it is refused. No answer allows other origins to read it (no CORS).

use std::net::IpAddr;

use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::{Method, StatusCode, Uri};

use crate::door::{HttpPlace, HttpSpec};
use crate::limits;

/// Why a request is not answered as it wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub status: StatusCode,
    /// In words.
    pub why: &'static str,
}

fn refuse(status: StatusCode, why: &'static str) -> Result<(), Refusal> {
    Err(Refusal { status, why })
}

/// Judges the head of a request.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap, spec: &HttpSpec) -> Result<(), Refusal> {
    if method != Method::GET && method != Method::HEAD {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "this door is for looking: GET and HEAD only",
        );
    }
    let length = uri.path_and_query().map_or(0, |path| path.as_str().len());
    if length > limits::HTTP_URI_MAX {
        return refuse(StatusCode::URI_TOO_LONG, "the path is too long");
    }
    let has_length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_length || headers.contains_key(TRANSFER_ENCODING) {
        return refuse(StatusCode::BAD_REQUEST, "a request to look has no body");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return refuse(StatusCode::BAD_REQUEST, "a request names its Host, once");
    };
    let Ok(host) = host.to_str() else {
        return refuse(StatusCode::BAD_REQUEST, "the Host is no name");
    };
    let is_allowed = |authority: &str| host_of(authority).is_some_and(|name| is_known(name, spec));
    if !is_allowed(host) || uri.authority().is_some_and(|a| !is_allowed(a.as_str())) {
        return refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "this host is not known by that name: `allowed_hosts` of [http] lists those it has besides localhost",
        );
    }
    Ok(())
}

/// The host of `host[:port]`.
fn host_of(authority: &str) -> Option<&str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return (port.is_empty() || is_port(port.strip_prefix(':')?)).then_some(address);
    }
    match authority.split_once(':') {
        None => Some(authority),
        Some((host, port)) if is_port(port) => Some(host),
        Some(_) => None,
    }
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_known(name: &str, spec: &HttpSpec) -> bool {
    let place = match &spec.listen {
        // No browser reaches it, and its mode says who may.
        HttpPlace::Unix(_) => return !name.is_empty(),
        HttpPlace::Off => return false,
        HttpPlace::Tcp(place) => place.ip(),
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    if let Ok(address) = name.parse::<IpAddr>()
        && (address.is_loopback() || (address == place && !place.is_unspecified()))
    {
        return true;
    }
    spec.allowed_hosts
        .iter()
        .any(|allowed| allowed.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(listen: &str, hosts: &[&str]) -> HttpSpec {
        HttpSpec {
            listen: HttpPlace::parse(listen).expect("a place"),
            allow_remote: true,
            allowed_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            show_logs: false,
        }
    }

    #[track_caller]
    fn judged(method: &str, uri: &str, headers: &[(&str, &str)], spec: &HttpSpec, expected: u16) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: hyper::header::HeaderName = name.parse().expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let uri: Uri = uri.parse().expect("a uri");
        let status = match check(&method, &uri, &map, spec) {
            Ok(()) => 200,
            Err(refusal) => refusal.status.as_u16(),
        };
        assert_eq!(status, expected, "{method} {uri} {headers:?}");
    }

    #[test]
    fn names_of_this_host_are_known_and_others_are_not() {
        let here = spec("127.0.0.1:8790", &["Node-1.example"]);
        for host in [
            "localhost",
            "localhost:8790",
            "LOCALHOST",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.8.9.1",
            "[::1]",
            "[::1]:8790",
            "node-1.example:8790",
        ] {
            judged("GET", "/health", &[("host", host)], &here, 200);
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost@evil.example",
            "evil.example:localhost",
            "localhost:",
            "localhost:8790:1",
            "[::1",
            "[::1]x",
            "::1",
            "10.0.0.7",
            "2130706433",
            "",
        ] {
            judged("GET", "/health", &[("host", host)], &here, 421);
        }
    }

    #[test]
    fn a_host_is_named_once() {
        let here = spec("127.0.0.1:8790", &[]);
        judged("GET", "/", &[], &here, 400);
        judged(
            "GET",
            "/",
            &[("host", "localhost"), ("host", "localhost")],
            &here,
            400,
        );
        judged(
            "GET",
            "http://evil.example/",
            &[("host", "localhost")],
            &here,
            421,
        );
        judged("GET", "http://localhost/", &[("host", "localhost")], &here, 200);
    }

    #[test]
    fn an_address_for_everybody_is_no_name() {
        let open = spec("0.0.0.0:8790", &["node-1"]);
        judged("GET", "/", &[("host", "0.0.0.0:8790")], &open, 421);
        judged("GET", "/", &[("host", "node-1:8790")], &open, 200);
        let one = spec("192.0.2.7:8790", &["node-1"]);
        judged("GET", "/", &[("host", "192.0.2.7:8790")], &one, 200);
        judged("GET", "/", &[("host", "192.0.2.8:8790")], &one, 421);
    }

    #[test]
    fn a_unix_socket_is_called_by_any_one_name() {
        let unix = spec("/run/ringrift/http.sock", &[]);
        judged("GET", "/", &[("host", "d")], &unix, 200);
        judged("GET", "/", &[], &unix, 400);
    }

    #[test]
    fn only_looking_is_allowed_and_only_without_a_body() {
        let here = spec("127.0.0.1:8790", &[]);
        let host = ("host", "localhost");
        for method in [
            "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "get", "BREW",
        ] {
            judged(method, "/health", &[host], &here, 405);
        }
        judged("HEAD", "/health", &[host], &here, 200);
        judged("GET", "/health", &[host, ("content-length", "5")], &here, 400);
        judged(
            "GET",
            "/health",
            &[host, ("transfer-encoding", "chunked")],
            &here,
            400,
        );
        judged("GET", "/health", &[host, ("content-length", "0")], &here, 200);
        let long = format!("/{}", "a".repeat(limits::HTTP_URI_MAX));
        judged("GET", &long, &[host], &here, 414);
    }
}
