//! How the owner's commands reach the network's chain: through the node that is up, through `hearth chain run`, or by
//! opening the file.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::U64;
use futures::StreamExt;
use futures::future::BoxFuture;
use hearth_api::error::ErrorBody;
use hearth_causes::WithCauses;
use hearth_chain::client::{Carrier, CarryError, ChainClient, HttpOptions};
use hearth_protocol::id::ChainId;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use url::Url;

use super::AccessError;
use crate::home::{Home, NetworkChain, Part};
use crate::local_chain::{self, LocalChainError};
use crate::node_file::NodeFile;
use crate::shared_chain::host::HostedChain;
use crate::shared_chain::{CHAIN_ROUTE, carried};

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
        let away = |error: reqwest::Error| CarryError::Away(error.with_causes().to_string());
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
        let said = serde_json::from_slice(&body).map(|body: ErrorBody| body.error.message);
        let words = said.unwrap_or_else(|_| format!("the node says {status}"));
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
pub(super) struct Door {
    pub(super) client: ChainClient,
    pub(super) place: String,
}

/// Finds the way to the network's chain.
///
/// # Errors
/// [`AccessError`] where no process has the chain and this one cannot open it.
pub(super) async fn open(
    network: &NetworkChain,
    options: HttpOptions,
) -> Result<Door, AccessError> {
    let home = Home::open(network.root()).map_err(AccessError::Home)?;
    if let Some(door) = of_node(&home, network, options).await? {
        return Ok(door);
    }
    if network.joined().is_some() {
        return Err(AccessError::NodeNeeded(network.id()));
    }
    if let Some(url) = local_chain::running_at(&home) {
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
    let hosted = HostedChain::open(&home, network, None);
    let hosted = hosted.map_err(|error: LocalChainError| AccessError::Own(Box::new(error)))?;
    let carrier: Arc<dyn Carrier> = Arc::new(hosted);
    Ok(Door {
        client: carried(carrier, network, options),
        place: path.display().to_string(),
    })
}

/// What `eth_chainId` answers.
#[derive(Deserialize)]
struct Named {
    result: U64,
}

/// The way through the node that is up; nothing where none is.
async fn of_node(
    home: &Home,
    network: &NetworkChain,
    options: HttpOptions,
) -> Result<Option<Door>, AccessError> {
    let (Some(node), Ok(http)) = (NodeFile::read(home), hearth_payments::http::client()) else {
        return Ok(None);
    };
    let place = format!("{} (hearth up)", node.url);
    let door = NodeDoor { node, http };
    let probe = br#"{"jsonrpc":"2.0","id":0,"method":"eth_chainId","params":[]}"#;
    match door.ask(probe.to_vec()).await {
        // It belongs to another folder, or to a configuration that named chains.
        Err(CarryError::Refused(_)) => return Ok(None),
        // A node that was killed has left its file behind.
        Err(_) if !is_up(&door).await => return Ok(None),
        Err(error) => {
            return Err(AccessError::HostAway {
                chain: network.id(),
                reason: error.with_causes().to_string(),
            });
        }
        Ok(reply) => match serde_json::from_slice::<Named>(&reply) {
            Ok(named) if ChainId(named.result.to()) != network.id() => {
                return Err(AccessError::NodeBehind(network.id()));
            }
            _ => {}
        },
    }
    Ok(Some(Door {
        client: carried(Arc::new(door), network, options),
        place,
    }))
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
