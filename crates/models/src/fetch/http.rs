//! Downloads by HTTP that are taken up where they broke off.
//!
//! Beside `NAME.part` lies `NAME.part.json`, which says from where the bytes came and what the server called that
//! version of its file. Only where both still hold are more bytes appended; otherwise it begins anew. Redirects are
//! followed by hand, because a hub states the file's hash in the first answer and the bytes come from the last.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LOCATION, RANGE};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use url::Url;

use super::sum::{self, Summing};
use super::{
    Fetcher, PAUSE_GROWTH_MAX, Progress, RESUMES_MAX, SourceError, Stage, Watch, blocking, empty,
};
use crate::catalogue::Model;
use crate::digest::Digest;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How many redirects are followed.
const REDIRECTS_MAX: usize = 5;
/// How often a server is tried that was never there: a device that is offline shall not be kept waiting.
const UNREACHED_MAX: u32 = 3;

/// In which header a hub states the SHA-256 of a large file.
const LINKED_ETAG: &str = "x-linked-etag";

/// The largest state file, in bytes.
const STATE_BYTES_MAX: u64 = 64 << 10;

pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    // A second installation is refused and changes nothing.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What is known of the bytes that came so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    url: String,
    etag: Option<String>,
}

fn state_path(part: &Path) -> PathBuf {
    let mut path = part.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

/// Removes the state of a download that is whole or void.
pub(super) fn forget(part: &Path) {
    // Without its state a part is begun anew, and one that is left behind is overwritten.
    drop(fs::remove_file(state_path(part)));
}

fn read_state(part: &Path) -> Option<State> {
    let path = state_path(part);
    if fs::metadata(&path).ok()?.len() > STATE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// How one connection ended.
enum End {
    /// The file is whole.
    Whole,
    /// It broke off; more can be had.
    Broken(String),
}

/// One download, over as many connections as it takes.
struct Download<'a> {
    fetcher: &'a Fetcher,
    url: Url,
    expected_bytes: u64,
    part: &'a Path,
    summing: Summing,
    state: State,
    stated: Option<Digest>,
    /// Whether the server was ever there.
    reached: bool,
}

impl Fetcher {
    /// Fills `part` from `url`. Returns the hash, and whether it was the server that stated it, which only a hub may.
    pub(super) async fn download(
        &self,
        url: Url,
        model: &Model,
        hub: bool,
        part: &Path,
        watch: &Watch,
    ) -> Result<(Digest, bool), SourceError> {
        let mut download = Download::begin(self, url, model.file_bytes, part, watch).await?;
        download.run(watch).await?;
        let stated = download.stated.filter(|_| hub);
        let expected = model.sha256.or(stated);
        let found = download.summing.finish().sha256;
        let Some(expected) = expected else {
            empty(part)?;
            return Err(SourceError::NoHash);
        };
        if found != expected {
            empty(part)?;
            return Err(SourceError::Hash { expected, found });
        }
        Ok((found, model.sha256.is_none()))
    }
}

impl<'a> Download<'a> {
    /// Looks at what an earlier run has left.
    async fn begin(
        fetcher: &'a Fetcher,
        url: Url,
        expected_bytes: u64,
        part: &'a Path,
        watch: &Watch,
    ) -> Result<Self, SourceError> {
        let kept = read_state(part).filter(|state| state.url == url.as_str());
        let present = fs::metadata(part).map_or(0, |metadata| metadata.len());
        let kept = kept.filter(|_| present <= expected_bytes);
        let summing = if kept.is_some() {
            let (part, watch) = (part.to_path_buf(), Arc::clone(watch));
            blocking(move || Ok(sum::begin(&part, &watch)?)).await?
        } else {
            empty(part)?;
            Summing::default()
        };
        Ok(Self {
            fetcher,
            expected_bytes,
            part,
            summing,
            state: kept.unwrap_or(State {
                url: url.to_string(),
                etag: None,
            }),
            url,
            stated: None,
            reached: false,
        })
    }

    async fn run(&mut self, watch: &Watch) -> Result<(), SourceError> {
        let mut pause = self.fetcher.pause;
        let mut reason = String::new();
        for resumes in 0..=RESUMES_MAX {
            let before = self.summing.bytes();
            match self.connection(watch).await? {
                End::Whole => return Ok(()),
                End::Broken(why) => reason = why,
            }
            if !self.reached && resumes + 1 >= UNREACHED_MAX {
                break;
            }
            if self.summing.bytes() > before {
                pause = self.fetcher.pause;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.fetcher.pause * PAUSE_GROWTH_MAX);
        }
        Err(SourceError::Unreachable(reason))
    }

    /// Takes what one connection gives.
    async fn connection(&mut self, watch: &Watch) -> Result<End, SourceError> {
        let mut response = match self.ask().await? {
            Ok(response) => response,
            Err(broken) => return Ok(End::Broken(broken)),
        };
        if let Err(end) = self.place(&response)? {
            return Ok(end);
        }
        let mut file = OpenOptions::new().append(true).open(self.part)?;
        loop {
            let piece = tokio::time::timeout(self.fetcher.stall_timeout, response.chunk()).await;
            let piece = match piece {
                Err(_) => return Ok(End::Broken("nothing comes any more".to_owned())),
                Ok(Err(error)) => return Ok(End::Broken(plain(&error))),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(piece))) => piece,
            };
            let total = self.summing.bytes() + piece.len() as u64;
            if total > self.expected_bytes {
                empty(self.part)?;
                let (expected, found) = (self.expected_bytes, total);
                return Err(SourceError::Length { expected, found });
            }
            file.write_all(&piece)?;
            self.summing.update(&piece);
            watch(Progress {
                stage: Stage::Downloading,
                done_bytes: total,
                total_bytes: Some(self.expected_bytes),
            });
        }
        if self.summing.bytes() < self.expected_bytes {
            return Ok(End::Broken("the connection ended early".to_owned()));
        }
        file.sync_all()?;
        Ok(End::Whole)
    }

    /// Asks for what is missing, and follows redirects. The inner error is one that trying again may mend.
    async fn ask(&mut self) -> Result<Result<Response, String>, SourceError> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.fetcher.client.get(url.clone());
            let present = self.summing.bytes();
            if present > 0 {
                request = request.header(RANGE, format!("bytes={present}-"));
                if let Some(etag) = &self.state.etag {
                    request = request.header(IF_RANGE, etag);
                }
            }
            let sent = tokio::time::timeout(self.fetcher.stall_timeout, request.send()).await;
            let response = match sent {
                Err(_) => return Ok(Err("the server does not answer".to_owned())),
                Ok(Err(error)) => {
                    self.reached |= !error.is_connect();
                    return Ok(Err(plain(&error)));
                }
                Ok(Ok(response)) => response,
            };
            self.reached = true;
            if let Some(stated) = linked_etag(response.headers()) {
                self.stated.get_or_insert(stated);
            }
            let status = response.status();
            if !status.is_redirection() {
                return judge(status).map(|again| match again {
                    Some(broken) => Err(broken),
                    None => Ok(response),
                });
            }
            url = redirect(&url, response.headers())?;
        }
        Err(SourceError::Nonsense(format!(
            "more than {REDIRECTS_MAX} redirects"
        )))
    }

    /// Decides whether the answer goes on where the part ends, or begins anew. The inner error ends this connection.
    fn place(&mut self, response: &Response) -> Result<Result<(), End>, SourceError> {
        let etag = response.headers().get(ETAG);
        // A weak one does not promise the same bytes.
        let etag = etag
            .and_then(|etag| etag.to_str().ok())
            .filter(|etag| !etag.starts_with("W/"));
        let etag = etag.map(str::to_owned);
        let present = self.summing.bytes();
        let whole = response.status() == StatusCode::OK;
        let stated = if whole {
            response.content_length()
        } else {
            Some(self.continues(response.headers(), present)?)
        };
        let changed = self.state.etag.is_some() && self.state.etag != etag;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE || (!whole && changed) {
            self.begin_anew()?;
            return Ok(Err(End::Broken("the server's file has changed".to_owned())));
        }
        if let Some(found) = stated
            && found != self.expected_bytes
        {
            let expected = self.expected_bytes;
            return Err(SourceError::Length { expected, found });
        }
        if whole && present > 0 {
            self.begin_anew()?;
        }
        self.state.etag = etag;
        self.write_state()?;
        Ok(Ok(()))
    }

    /// The length of the whole file, out of an answer that must go on at byte `present`.
    fn continues(&self, headers: &HeaderMap, present: u64) -> Result<u64, SourceError> {
        let text = headers
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        let text = text.unwrap_or_default();
        let parsed = text.strip_prefix("bytes ").and_then(|rest| {
            let (range, total) = rest.split_once('/')?;
            let total: u64 = total.parse().ok()?;
            if range == "*" {
                return Some((present, total));
            }
            let first = range.split_once('-')?.0.parse().ok()?;
            Some((first, total))
        });
        match parsed {
            Some((first, total)) if first == present => Ok(total),
            _ => Err(SourceError::Nonsense(format!(
                "it was asked for the bytes from {present} on and answers with the range {text:?}"
            ))),
        }
    }

    fn begin_anew(&mut self) -> Result<(), SourceError> {
        empty(self.part)?;
        self.summing = Summing::default();
        self.state.etag = None;
        Ok(())
    }

    fn write_state(&self) -> Result<(), SourceError> {
        let text = serde_json::to_vec(&self.state).expect("two texts can be written as JSON");
        Ok(fs::write(state_path(self.part), text)?)
    }
}

/// Whether the status is an answer, something that may pass (then why), or final.
fn judge(status: StatusCode) -> Result<Option<String>, SourceError> {
    let advice = match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            return Ok(None);
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            return Ok(Some(format!("the server answers {status}")));
        }
        _ if status.is_server_error() => return Ok(Some(format!("the server answers {status}"))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "it wants an account; fetch the file with a browser and `hearth models import` it"
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            "the file is not there any more; use another source"
        }
        _ => "use another source",
    };
    let status = status.as_u16();
    Err(SourceError::Refused { status, advice })
}

fn redirect(from: &Url, headers: &HeaderMap) -> Result<Url, SourceError> {
    let to = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let to = to.and_then(|to| from.join(to).ok());
    let to = to.ok_or_else(|| SourceError::Nonsense("a redirect to nowhere".to_owned()))?;
    let fine = to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http");
    if !fine {
        let reason = format!("a redirect from {} to {}", from.scheme(), to.scheme());
        return Err(SourceError::Nonsense(reason));
    }
    Ok(to)
}

fn linked_etag(headers: &HeaderMap) -> Option<Digest> {
    let text = headers.get(LINKED_ETAG)?.to_str().ok()?;
    text.trim_matches('"').parse().ok()
}

/// The innermost reason, without the address, which may carry a signature.
fn plain(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
