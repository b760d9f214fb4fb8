//! Tickets that were given before the node was up: used now, and again until their devices answer.

use std::time::Duration;

use hearth_causes::WithCauses;
use hearth_net::{ExchangeError, JoinError, Network};
use tracing::{info, warn};

use super::members::{Members, MembersError};
use crate::advice::Advice;
use crate::home::Home;
use crate::shared_chain;

/// How long a device that does not answer is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Joins by the tickets that wait in the data folder, each by itself. They end with the process, or when they were of
/// use or never will be.
pub(crate) fn join_pending(home: &Home, network: &Network, members: &Members) {
    for text in shared_chain::pending(home) {
        let (home, network, members) = (home.clone(), network.clone(), members.clone());
        // Not one of the node's parts: it ends when it is done.
        tokio::spawn(async move {
            join_by(&text, &network, &members).await;
            shared_chain::forget(&home, &text);
        });
    }
}

/// Returns when a ticket was of use, or never will be.
async fn join_by(text: &str, network: &Network, members: &Members) {
    let ticket = match text.parse() {
        Ok(ticket) => ticket,
        Err(error) => {
            let error: hearth_net::TicketError = error;
            warn!(error = %error.with_causes(), "a ticket that waited is of no use");
            return;
        }
    };
    loop {
        match super::join(network, members, &ticket).await {
            Ok(()) => {
                info!("joined by a ticket that waited");
                return;
            }
            Err(error) if is_away(&error) => tokio::time::sleep(AGAIN_AFTER).await,
            Err(error) => {
                warn!(error = %error.with_causes(), next = error.next_step(), "a ticket that waited is of no use");
                return;
            }
        }
    }
}

/// Whether the device of a ticket may only be away.
fn is_away(error: &MembersError) -> bool {
    match error {
        MembersError::Network(JoinError::Exchange(ExchangeError::Connect(error))) => {
            error.is_retryable()
        }
        MembersError::Network(JoinError::Exchange(error)) => {
            !matches!(error, ExchangeError::NotAMember | ExchangeError::Garbage)
        }
        MembersError::Asked(error) => error.is_retryable(),
        _ => false,
    }
}
