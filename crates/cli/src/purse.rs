//! Whoever pays for the commands: the node that is up, or where none is, this program with the books of the data folder.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_api::money::Money;
use hearth_api::payments::{
    Agreement, ChannelTerms, Channels, OpenAsked, Opened, PayAsked, PayReply, PriceQuoted, Refunds,
    Returned, WhichChannels,
};
use hearth_node::home::Home;
use hearth_node::household::client::{Client, get_if_up};
use hearth_node::keys::Keystore;
use hearth_node::trade::{self, Answer, Payer, Request};

use crate::confirm::confirm;
use crate::failure::Failure;
use crate::global::Global;
use crate::{secrets, wait};

/// Prices that a person is asked about for one request, when the service names another each time.
const QUOTES_MAX: usize = 3;

/// Whoever pays.
pub(crate) enum Purse {
    /// The node that is up: it has the books and the keys.
    Node(Box<Client>),
    /// This program.
    Here { home: Home, payer: Box<Payer> },
}

impl Purse {
    /// Finds the node, or opens the books.
    pub(crate) async fn open(global: &Global) -> Result<Self, Failure> {
        let home = global.open_home()?;
        let health: Option<serde_json::Value> = get_if_up(&home, "/health").await?;
        if health.is_some() {
            return Ok(Self::Node(Box::new(Client::of(&home)?)));
        }
        let keystore = Keystore::read(&home.keystore_path())?;
        let config = home.config()?;
        let keys = secrets::unlock(global, &keystore)?;
        let _spinner = wait::spinner(global.json, "asking the chains");
        let payer = Payer::open(&home, config, &keys).await?;
        let payer = Box::new(payer);
        Ok(Self::Here { home, payer })
    }

    /// Brings the books up to date with the chains, and shows them.
    pub(crate) async fn look(&self) -> Result<Channels, Failure> {
        match self {
            Self::Node(node) => Ok(node.post("/hearth/channels/look", &nothing()).await?),
            Self::Here { home, payer } => {
                let unread = payer.look().await?;
                let mut channels = trade::list_with(home, &home.config()?, payer)?;
                let problem =
                    |channel| format!("the chain of channel {channel} could not be asked");
                channels.problems.extend(unread.iter().map(problem));
                Ok(channels)
            }
        }
    }

    /// Opens a channel on terms to which `agree` says yes.
    pub(crate) async fn open_channel(
        &self,
        url: &str,
        deposit: &str,
        agree: impl FnOnce(&ChannelTerms) -> Result<(), Failure>,
        json: bool,
    ) -> Result<Opened, Failure> {
        let waiting = || wait::spinner(json, "depositing, until it is final");
        match self {
            Self::Node(node) => {
                let mut asked = OpenAsked {
                    url: url.to_owned(),
                    deposit: deposit.to_owned(),
                    agreed: None,
                };
                let terms: ChannelTerms = node.post("/hearth/channels/terms", &asked).await?;
                agree(&terms)?;
                let _spinner = waiting();
                asked.agreed = Some(terms);
                Ok(node.post("/hearth/channels/open", &asked).await?)
            }
            Self::Here { payer, .. } => {
                let offer = payer.channel_offer(url, deposit).await?;
                agree(&offer.terms)?;
                let _spinner = waiting();
                Ok(payer.open_channel(&offer).await?)
            }
        }
    }

    /// Asks for what is left to be returned.
    pub(crate) async fn refund(&self, with: &str) -> Result<Refunds, Failure> {
        match self {
            Self::Node(node) => Ok(node.post("/hearth/channels/refund", &which(with)).await?),
            Self::Here { payer, .. } => Ok(payer.refund(with).await?),
        }
    }

    /// Takes back what is left without the other side.
    pub(crate) async fn close(&self, channel: &str) -> Result<Returned, Failure> {
        match self {
            Self::Node(node) => Ok(node.post("/hearth/channels/close", &which(channel)).await?),
            Self::Here { payer, .. } => Ok(payer.close(channel).await?),
        }
    }

    /// Makes a request; pays once the person agreed, or `yes` says so for all within the limits.
    pub(crate) async fn buy(&self, request: &Request, yes: bool) -> Result<Answer, Failure> {
        match self {
            Self::Node(node) => buy_by(node, request, yes).await,
            Self::Here { payer, .. } => buy_here(payer, request, yes).await,
        }
    }
}

async fn buy_here(payer: &Payer, request: &Request, yes: bool) -> Result<Answer, Failure> {
    let refusal = std::sync::Mutex::new(None);
    let held = || {
        refusal
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let approve = |price: &Money, deposit: Option<&Money>| {
        let said = confirm(yes, &question(price, deposit));
        said.map_err(|failure| *held() = Some(failure)).is_ok()
    };
    let outcome = payer.buy(request, &approve).await;
    match held().take() {
        Some(failure) => Err(failure),
        None => Ok(outcome?),
    }
}

async fn buy_by(node: &Client, request: &Request, yes: bool) -> Result<Answer, Failure> {
    let mut asked = PayAsked {
        method: request.method.clone(),
        url: request.url.clone(),
        headers: request.headers.clone(),
        body: STANDARD.encode(&request.body),
        patience_s: request.patience_s,
        agreed: if yes {
            Agreement::Limits
        } else {
            Agreement::Nothing
        },
    };
    for _ in 0..QUOTES_MAX {
        match node.post("/hearth/pay", &asked).await? {
            PayReply::Price(quote) => {
                let PriceQuoted { price, deposit } = &quote;
                confirm(yes, &question(price, deposit.as_ref()))?;
                asked.agreed = Agreement::To(Box::new(quote));
            }
            PayReply::Answered {
                status,
                payment,
                body,
            } => {
                let body = STANDARD.decode(body).map_err(|error| {
                    let message = format!("what the node said cannot be read: {error}");
                    let next = "See that the node and this program are of the same version";
                    Failure::new("unreadable", message, next)
                })?;
                return Ok(Answer {
                    status,
                    payment,
                    body: body.into(),
                });
            }
        }
    }
    Err(Failure::new(
        "price_changes",
        "the service names another price each time it is asked",
        "Ask again later, or agree to what is within your limits with --yes",
    ))
}

fn question(price: &Money, deposit: Option<&Money>) -> String {
    let price = format!("It costs at most {} {}", price.amount, price.symbol);
    match deposit {
        Some(deposit) => format!(
            "{price}, and {} {} go into a channel first. Pay?",
            deposit.amount, deposit.symbol
        ),
        None => format!("{price}. Pay?"),
    }
}

fn which(with: &str) -> WhichChannels {
    WhichChannels {
        with: with.to_owned(),
    }
}

fn nothing() -> serde_json::Value {
    serde_json::json!({})
}
