//! The prober: asks units how they are, off the manager's loop, each question within its time and with little memory,
//! whatever answers.
//!
//! Not here: commands, which are launches of the keeper's; lines of a log, which the logger looks for; and what an answer
//! means, which the engine decides.
//!
//! Read first: [`Prober::ask`].

mod http;
mod types;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use self::types::{Bad, Shown, literal};
use crate::config::probe::{absolute, address, url};
use crate::engine::types::{LaunchFailure, ProbeResult, Role};
use crate::host::prepare::Preparer;
use crate::ids::LaunchId;
use crate::limits::{PROBE_LATE, PROBE_LOOKUPS_AT_ONCE};
use crate::spec::{Probe, Template, UnitSpec};

/// Asks. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Prober {
    preparer: Preparer,
    lookups: Arc<Semaphore>,
}

impl Prober {
    /// One that knows the units' environments as `preparer` does.
    pub fn new(preparer: Preparer) -> Self {
        Self {
            preparer,
            lookups: Arc::new(Semaphore::new(PROBE_LOOKUPS_AT_ONCE)),
        }
    }

    /// Asks `probe` of the life that `launch` belongs to, within `timeout`. Never longer; an answer that this process
    /// had no time to hear is void, and one that nobody was asked for by then is no failure of the unit's. Must be called
    /// inside a tokio runtime.
    pub async fn ask(
        &self,
        spec: Arc<UnitSpec>,
        launch: LaunchId,
        role: Role,
        probe: Probe,
        timeout: Duration,
    ) -> ProbeResult {
        let is_asked = AtomicBool::new(false);
        let question = self.question(spec, launch, role, probe, &is_asked);
        within(timeout, question, &is_asked).await
    }

    async fn question(
        &self,
        spec: Arc<UnitSpec>,
        launch: LaunchId,
        role: Role,
        probe: Probe,
        is_asked: &AtomicBool,
    ) -> Result<(), Bad> {
        let fill = async |text: &Template| match literal(text) {
            Some(text) => Ok(text),
            None => self
                .preparer
                .fill_bounded(Arc::clone(&spec), launch, role, text.clone())
                .await
                .map_err(|failure: LaunchFailure| Bad::Cannot(failure.text)),
        };
        match &probe {
            Probe::Http(text) => {
                let target = fill(text).await?;
                url(&target).map_err(Bad::Cannot)?;
                let shown = Shown::of(text);
                let place = http::place(&target).map_err(|why| Bad::Cannot(format!("{shown}: {why}")))?;
                let stream = self.connect(&place, &shown.or(&place), is_asked).await?;
                http::get(stream, &target, &shown).await
            }
            Probe::Tcp(text) => {
                let target = fill(text).await?;
                address(&target).map_err(Bad::Cannot)?;
                self.connect(&target, &Shown::of(text), is_asked).await.map(drop)
            }
            Probe::File(text) => {
                let target = fill(text).await?;
                absolute(&target).map_err(Bad::Cannot)?;
                self.look(&spec, target, &Shown::of(text)).await
            }
            Probe::Command(_) | Probe::LogLine(_) => Err(Bad::Cannot(
                "it is asked elsewhere: a bug in ringriftd".to_owned(),
            )),
        }
    }

    /// A connection to `host:port`, to whichever of the host's addresses takes it.
    async fn connect(&self, target: &str, shown: &Shown, is_asked: &AtomicBool) -> Result<TcpStream, Bad> {
        let mut last = None;
        let found = self.resolve(target, shown).await?;
        is_asked.store(true, Ordering::Relaxed);
        for at in found {
            match TcpStream::connect(at).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = Some(e),
            }
        }
        let why = last.map_or_else(|| "its host has no address".to_owned(), |e| e.to_string());
        Err(Bad::Failed(format!("cannot connect to {shown}: {why}")))
    }

    /// Names are looked up on the blocking pool, since the system's resolver may hang; one that does keeps its place.
    async fn resolve(&self, target: &str, shown: &Shown) -> Result<Vec<SocketAddr>, Bad> {
        if let Ok(at) = target.parse::<SocketAddr>() {
            return Ok(vec![at]);
        }
        if let Some((host, port)) = target.rsplit_once(':')
            && let (Ok(host), Ok(port)) = (host.parse::<IpAddr>(), port.parse())
        {
            return Ok(vec![SocketAddr::new(host, port)]);
        }
        let cannot = |why: String| Bad::Cannot(format!("cannot look {shown} up: {why}"));
        let place = Arc::clone(&self.lookups).acquire_owned().await;
        let text = target.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let _place = place;
            text.to_socket_addrs().map(Iterator::collect::<Vec<_>>)
        });
        match found.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(cannot(e.to_string())),
            Err(e) => Err(cannot(e.to_string())),
        }
    }

    async fn look(&self, spec: &UnitSpec, path: String, shown: &Shown) -> Result<(), Bad> {
        let key = format!("{}'s probe", spec.name);
        let found = self
            .preparer
            .bounded(key, move || std::fs::metadata(Path::new(&path)))
            .await;
        match found {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                Err(Bad::Failed(format!("there is no {shown}")))
            }
            Ok(Err(e)) => Err(Bad::Cannot(format!("cannot look at {shown}: {e}"))),
            Err(failure) => Err(Bad::Cannot(failure.text)),
        }
    }
}

/// What comes of a question that may take so long. Where this process wakes well after the time was up, it was held up
/// itself, and what was answered meanwhile may lie in its sockets unread.
async fn within(
    timeout: Duration,
    question: impl Future<Output = Result<(), Bad>>,
    is_asked: &AtomicBool,
) -> ProbeResult {
    let began = Instant::now();
    match tokio::time::timeout(timeout, question).await {
        Ok(Ok(())) => ProbeResult::Passed,
        Ok(Err(Bad::Failed(text))) => ProbeResult::Failed(text),
        Ok(Err(Bad::Cannot(text))) => ProbeResult::Cannot(text),
        Err(_) if began.elapsed() > timeout + PROBE_LATE => ProbeResult::Void,
        Err(_) if !is_asked.load(Ordering::Relaxed) => ProbeResult::Cannot(format!(
            "nobody could be asked within {timeout:?}: its variables, its host's address or its file system took as long"
        )),
        Err(_) => ProbeResult::Failed(format!("no answer within {timeout:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::types::NodeContext;
    use crate::spec::Piece;

    fn prober() -> Prober {
        Prober::new(Preparer::new(NodeContext::default()))
    }

    async fn connected(prober: &Prober, target: &str, shown: &Shown, timeout: Duration) -> ProbeResult {
        let is_asked = AtomicBool::new(false);
        let question = async { prober.connect(target, shown, &is_asked).await.map(drop) };
        within(timeout, question, &is_asked).await
    }

    /// Other units' names that nobody can look up take all places: that says nothing of this one.
    #[tokio::test(flavor = "current_thread")]
    async fn a_resolver_that_hangs_is_no_failure_of_the_unit() {
        let prober = prober();
        let many = u32::try_from(PROBE_LOOKUPS_AT_ONCE).expect("a few");
        let _hanging = prober.lookups.acquire_many(many).await.expect("they are free");
        let shown = Shown::of(&Template::literal("localhost:1"));
        // Void: this process was held up itself.
        let said = connected(&prober, "localhost:1", &shown, Duration::from_millis(50)).await;
        assert!(
            matches!(said, ProbeResult::Cannot(_) | ProbeResult::Void),
            "{said:?}"
        );
    }

    /// S4: what a variable stands for is told to nobody.
    #[tokio::test(flavor = "current_thread")]
    async fn a_failure_names_the_variable_and_not_its_value() {
        let name = |name: &str| Piece::Variable {
            name: name.to_owned(),
            default: None,
        };
        let template = Template(vec![Piece::Text("127.0.0.1:".to_owned()), name("PORT")]);
        let said = connected(
            &prober(),
            "127.0.0.1:1",
            &Shown::of(&template),
            Duration::from_secs(30),
        )
        .await;
        let ProbeResult::Failed(text) = said else {
            panic!("nobody listens there: {said:?}")
        };
        assert!(
            text.starts_with("cannot connect to 127.0.0.1:${PORT}: "),
            "{text}"
        );
    }
}
