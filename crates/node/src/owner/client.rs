//! How the owner's commands speak with the node of a data folder.

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use hearth_api::error::ErrorBody;
use hearth_causes::WithCauses;
use hearth_payments::purse;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::advice::Advice;
use crate::home::Home;
use crate::node_file::NodeFile;

/// The longest answer of a node that is read, in bytes: a body that was paid for, in base64, and what is around it.
const REPLY_BYTES_MAX: usize = purse::REPLY_BYTES_MAX / 3 * 4 + (1 << 20);
/// The longest line of a stream, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Why a node did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No node runs.
    #[error("no node runs with this data folder")]
    NotUp,
    /// The one that is said to run does not answer.
    #[error("the node at {url} does not answer")]
    Silent {
        /// Where it should be.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It said no.
    #[error("{message}")]
    Refused {
        /// The code of the error.
        code: String,
        /// What it said.
        message: String,
        /// What it says to do now.
        next: Option<String>,
    },
    /// What it said cannot be read.
    #[error("what the node said cannot be read: {0}")]
    Unreadable(String),
}

impl Advice for ClientError {
    fn code(&self) -> &str {
        match self {
            Self::NotUp => "not_up",
            Self::Silent { .. } => "node_silent",
            Self::Refused { code, .. } => code,
            Self::Unreadable(_) => "unreadable",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::NotUp | Self::Silent { .. } => {
                "Start it with `hearth up` in another terminal".to_owned()
            }
            Self::Refused { next, .. } => next
                .clone()
                .unwrap_or_else(|| "Mend what it says, and ask again".to_owned()),
            Self::Unreadable(_) => {
                "See that the node and this program are of the same version".to_owned()
            }
        }
    }
}

/// A way to the node of a data folder.
#[derive(Debug, Clone)]
pub struct Client {
    node: NodeFile,
    http: reqwest::Client,
}

impl Client {
    /// The way to the node that uses `home`.
    ///
    /// # Errors
    /// When none runs.
    pub fn of(home: &Home) -> Result<Self, ClientError> {
        let node = NodeFile::read(home).ok_or(ClientError::NotUp)?;
        let http = hearth_payments::http::client().map_err(|source| ClientError::Silent {
            url: node.url.clone(),
            source,
        })?;
        Ok(Self { node, http })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let request = self.http.get(format!("{}{path}", self.node.url));
        understood(&self.done(request).await?)
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let request = self.http.post(format!("{}{path}", self.node.url));
        understood(&self.done(request.json(body)).await?)
    }

    /// Posts, and hands on the data of each server-sent event as it comes, until `taken` says
    /// that it is enough or the stream ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn events<'a>(
        &'a self,
        path: &str,
        body: &impl Serialize,
        taken: &'a mut (dyn FnMut(&str) -> bool + Send),
    ) -> BoxFuture<'a, Result<(), ClientError>> {
        let request = self.http.post(format!("{}{path}", self.node.url));
        let request = request.json(body);
        Box::pin(async move {
            let response = self.send(request).await?;
            if !response.status().is_success() {
                return read(response).await.map(|_| ());
            }
            let mut stream = response.bytes_stream();
            let mut lines = Lines::default();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|source| self.silent(source))?;
                for line in lines.push(&chunk)? {
                    if let Some(data) = line.strip_prefix("data: ")
                        && !taken(data)
                    {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// Sends, and reads the whole answer of something that was done.
    fn done(
        &self,
        request: reqwest::RequestBuilder,
    ) -> BoxFuture<'_, Result<Vec<u8>, ClientError>> {
        Box::pin(async move { read(self.send(request).await?).await })
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let sent = request.bearer_auth(&self.node.token).send().await;
        sent.map_err(|source| self.silent(source))
    }

    fn silent(&self, source: reqwest::Error) -> ClientError {
        ClientError::Silent {
            url: self.node.url.clone(),
            source,
        }
    }
}

/// Asks the node that uses `home` for something; `None` where none runs.
///
/// # Errors
/// When it runs and does not say it.
pub async fn get_if_up<T: DeserializeOwned>(
    home: &Home,
    path: &str,
) -> Result<Option<T>, ClientError> {
    match Client::of(home) {
        Ok(client) => unless_down(client.get(path).await),
        Err(error) => unless_down(Err(error)),
    }
}

/// Asks the node that uses `home` for something to be done; `None` where none runs.
///
/// # Errors
/// When it runs and does not do it.
pub async fn post_if_up<T: DeserializeOwned>(
    home: &Home,
    path: &str,
    body: &impl Serialize,
) -> Result<Option<T>, ClientError> {
    match Client::of(home) {
        Ok(client) => unless_down(client.post(path, body).await),
        Err(error) => unless_down(Err(error)),
    }
}

/// A node that was killed has left its file behind, and does not answer.
fn unless_down<T>(said: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match said {
        Ok(said) => Ok(Some(said)),
        Err(ClientError::NotUp | ClientError::Silent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error as the surfaces write it: of our own, or in OpenAI's form.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Refusal {
    Own(ErrorBody),
    OpenAi { error: OpenAiError },
}

#[derive(serde::Deserialize)]
struct OpenAiError {
    message: String,
    code: Option<String>,
}

fn unreadable(reason: &dyn std::fmt::Display) -> ClientError {
    ClientError::Unreadable(reason.to_string())
}

fn understood<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error.with_causes()))
}

/// The body of an answer, or the error that it says.
async fn read(response: reqwest::Response) -> Result<Vec<u8>, ClientError> {
    let status = response.status();
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| unreadable(&error.with_causes()))?;
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(unreadable(&"it is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice(&body) {
        Ok(Refusal::Own(error)) => Err(ClientError::Refused {
            code: error.error.code,
            message: error.error.message,
            next: error.error.next,
        }),
        Ok(Refusal::OpenAi { error }) => Err(ClientError::Refused {
            code: error.code.unwrap_or_default(),
            message: error.message,
            next: None,
        }),
        Err(_) => Err(unreadable(&format_args!("status {status}"))),
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, chunk: &Bytes) -> Result<Vec<String>, ClientError> {
        self.0.extend_from_slice(chunk);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            lines.push(line.trim_end_matches(['\r', '\n']).to_owned());
        }
        if self.0.len() > LINE_BYTES_MAX {
            return Err(ClientError::Unreadable("a line has no end".to_owned()));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_the_stream_is_cut() {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for piece in ["da", "ta: 1\r", "\n\ndata", ": 2\n", "rest"] {
            all.extend(lines.push(&Bytes::from_static(piece.as_bytes())).unwrap());
        }
        assert_eq!(all, ["data: 1", "", "data: 2"]);
        let endless = Bytes::from(vec![b'x'; LINE_BYTES_MAX + 1]);
        assert!(lines.push(&endless).is_err());
    }
}
