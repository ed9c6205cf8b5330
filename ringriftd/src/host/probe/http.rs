//! One GET, as a health check asks it: over plain http/1.1, to the end of the answer's head. Nothing is followed, and the
//! body is not waited for: it may be large, or never end.

use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::http::uri::InvalidUri;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::types::{Bad, Shown};
use crate::limits::{PROBE_HEAD_MAX, PROBE_HEADERS_MAX};

/// Ends with the question.
struct Driven(tokio::task::JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where `url` is served: `host:port`.
pub(super) fn place(url: &str) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|e: InvalidUri| e.to_string())?;
    let authority = uri.authority().ok_or("it names no host")?;
    Ok(format!(
        "{}:{}",
        authority.host(),
        authority.port_u16().unwrap_or(80)
    ))
}

/// Whether `url`, which was judged before and is called `shown`, is answered with 2xx.
pub(super) async fn get(stream: TcpStream, url: &str, shown: &Shown) -> Result<(), Bad> {
    let failed = |what: &str, why: &dyn std::fmt::Display| Bad::Failed(format!("{what} {shown}: {why}"));
    let cannot = |why: &dyn std::fmt::Display| Bad::Cannot(format!("{shown}: {why}"));
    let uri: Uri = url.parse().map_err(|e: InvalidUri| cannot(&e))?;
    let authority = uri.authority().ok_or_else(|| cannot(&"it names no host"))?;
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.as_str())
        .header(USER_AGENT, concat!("ringriftd/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(http_body_util::Empty::<hyper::body::Bytes>::new())
        .map_err(|e| cannot(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(PROBE_HEAD_MAX)
        .max_headers(PROBE_HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed("cannot ask", &e))?;
    let _driven = Driven(tokio::spawn(async move {
        // What breaks it is said to whoever waits for the answer.
        let _ = connection.await;
    }));
    let answer = sender
        .send_request(request)
        .await
        .map_err(|e| failed("no good answer from", &e))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let remark = if status.is_redirection() {
        " (redirects are not followed)"
    } else {
        ""
    };
    Err(Bad::Failed(format!("{shown} answered {status}{remark}")))
}
