//! How the owner's commands reach the network's chain: through the node that is up, through `hearth chain run`, or by
//! opening the file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use hearth_chain::client::{Carrier, CarryError, ChainClient, HttpOptions, SystemEnvironment};
use http::header::CONTENT_TYPE;
use url::Url;

use super::host::HostedChain;
use crate::chains::AccessError;
use crate::home::{Home, NetworkChain, Part};
use crate::household::NodeFile;
use crate::local_chain::LocalChainError;

/// Where a node answers its owner's commands about the network's chain.
pub(crate) const CHAIN_ROUTE: &str = "/hearth/chain";
/// The file in which `hearth chain run` says where it answers.
const URL_FILE: &str = "chain.url";
/// The longest such file, in bytes.
const URL_BYTES_MAX: u64 = 256;
/// The longest reply that is read, in bytes: a batch of the longest replies of the embedded chain.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// How long one request may take.
const TIME_MAX: Duration = Duration::from_secs(30);

/// The door of a node that is up.
#[derive(Debug)]
struct NodeDoor {
    node: NodeFile,
    http: reqwest::Client,
}

impl NodeDoor {
    async fn ask(&self, request: Vec<u8>) -> Result<Vec<u8>, CarryError> {
        let away = |error: reqwest::Error| CarryError::Away(error.to_string());
        let asked = self
            .http
            .post(format!("{}{CHAIN_ROUTE}", self.node.url))
            .bearer_auth(&self.node.token)
            .header(CONTENT_TYPE, "application/json")
            .timeout(TIME_MAX)
            .body(request);
        let response = asked.send().await.map_err(away)?;
        let status = response.status();
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(away)?;
            if body.len() + chunk.len() > REPLY_BYTES_MAX {
                return Err(CarryError::Refused("the reply is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(body);
        }
        let words = format!("the node says {status}");
        Err(if status.is_server_error() {
            CarryError::Away(words)
        } else {
            CarryError::Refused(words)
        })
    }
}

impl Carrier for NodeDoor {
    fn carry(&self, request: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, CarryError>> {
        Box::pin(self.ask(request))
    }
}

/// A way to the network's chain, and in words where it is.
pub(crate) struct Door {
    pub(crate) client: ChainClient,
    pub(crate) place: String,
}

/// Finds the way to the network's chain.
///
/// # Errors
/// [`AccessError`] where no process has the chain and this one cannot open it.
pub(crate) async fn open(
    network: &NetworkChain,
    options: HttpOptions,
) -> Result<Door, AccessError> {
    let home = Home::open(network.root()).map_err(AccessError::Home)?;
    if let Some(door) = of_node(&home, network, options).await {
        return Ok(door);
    }
    if network.joined().is_some() {
        return Err(AccessError::NodeNeeded(network.id()));
    }
    if let Some(url) = running_at(&home) {
        let client = ChainClient::http(url.clone(), network.id(), options);
        if let Ok(client) = client
            && client.connect().await.is_ok()
        {
            let place = url.to_string();
            return Ok(Door { client, place });
        }
    }
    let path = home.store_path(Part::Chain);
    if !path.exists() {
        return Err(AccessError::NotMade);
    }
    let hosted = HostedChain::open(&home, network);
    let hosted = hosted.map_err(|error: LocalChainError| AccessError::Own(Box::new(error)))?;
    let carrier: Arc<dyn Carrier> = Arc::new(hosted);
    Ok(Door {
        client: carried(carrier, network, options),
        place: path.display().to_string(),
    })
}

async fn of_node(home: &Home, network: &NetworkChain, options: HttpOptions) -> Option<Door> {
    let node = NodeFile::read(home)?;
    let place = format!("{} (hearth up)", node.url);
    let http = crate::http::client().ok()?;
    let door = NodeDoor { node, http };
    // A node that was killed has left its file behind; it does not answer at all.
    let probe = br#"{"jsonrpc":"2.0","id":0,"method":"eth_chainId"}"#;
    match door.ask(probe.to_vec()).await {
        // Another node may have begun before the chain was configured otherwise.
        Err(CarryError::Refused(_)) => None,
        Err(_) if !is_up(&door).await => None,
        _ => Some(Door {
            client: carried(Arc::new(door), network, options),
            place,
        }),
    }
}

/// Whether anything listens where the node should.
async fn is_up(door: &NodeDoor) -> bool {
    let Ok(url) = Url::parse(&door.node.url) else {
        return false;
    };
    let Ok(addresses) = url.socket_addrs(|| None) else {
        return false;
    };
    tokio::net::TcpStream::connect(&*addresses).await.is_ok()
}

pub(crate) fn carried(
    carrier: Arc<dyn Carrier>,
    network: &NetworkChain,
    options: HttpOptions,
) -> ChainClient {
    ChainClient::carried(carrier, network.id(), options, Arc::new(SystemEnvironment))
}

fn url_path(home: &Home) -> PathBuf {
    home.root().join(URL_FILE)
}

/// Where `hearth chain run` says that it answers.
fn running_at(home: &Home) -> Option<Url> {
    let path = url_path(home);
    if std::fs::metadata(&path).ok()?.len() > URL_BYTES_MAX {
        return None;
    }
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Says where `hearth chain run` answers, for the other commands of its data folder. They look whether it is true.
pub(crate) fn say_running_at(home: &Home, url: &str) {
    if let Err(error) = std::fs::write(url_path(home), url) {
        tracing::warn!(%error, "other commands do not find this chain by themselves");
    }
}

/// Takes that back.
pub(crate) fn unsay(home: &Home) {
    // One that stays behind is looked at and not believed.
    drop(std::fs::remove_file(url_path(home)));
}
