//! Refunds from devices of the network, over a stream like that of an answer.

use std::time::Duration;

use hearth_causes::WithCauses;
use hearth_net::PayerStream;
use hearth_payments::purse::{Beginning, PayError, Purse, Refund, Refunded};
use hearth_protocol::answer::{PayerFrame, ProviderFrame};
use hearth_protocol::id::ChannelId;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::x402::HeaderError;
use tokio::time::timeout;

use super::Payer;

/// How long a provider may take: a transaction has to become final.
const REFUND_TIME_MAX: Duration = Duration::from_secs(120);
/// What the list of channels writes before the device of a provider.
const DEVICE_PREFIX: &str = "hearth:";

/// What the list of channels calls a provider of the network.
pub(crate) fn provider_name(device: &DeviceId) -> String {
    format!("{DEVICE_PREFIX}{device}")
}

/// The device that the list of channels calls so.
pub(crate) fn device_named(name: &str) -> Option<DeviceId> {
    name.strip_prefix(DEVICE_PREFIX)?.parse().ok()
}

impl Payer {
    /// What it pays from, where it can pay.
    pub fn purse(&self) -> Option<&Purse> {
        self.parts().purse.as_ref()
    }

    /// Asks the device that a channel is with to return what is left in it.
    ///
    /// # Errors
    /// When nothing is left, the device cannot be reached, or it refuses. A channel whose refund
    /// was on its way pays nothing until the chain shows what became of it.
    pub async fn refund(&self, device: DeviceId, channel: ChannelId) -> Result<Refunded, PayError> {
        let parts = self.parts();
        let purse = self.purse().ok_or(PayError::NoChannel)?;
        let network = parts.network.as_ref().ok_or(PayError::NeedsNode)?;
        // Connected first: a device that is away leaves the channel as it is.
        let connect = Duration::from_millis(parts.patience.connect_ms);
        let stream = timeout(connect, network.ask(device, None)).await;
        let stream = stream.map_err(|_| PayError::Unreached("it does not answer".to_owned()))?;
        let stream =
            stream.map_err(|error| PayError::Unreached(error.with_causes().to_string()))?;
        match purse.begin_refund(channel).await? {
            Beginning::Done(done) => Ok(*done),
            Beginning::ToCarry(refund) => carry(stream, *refund).await,
        }
    }
}

async fn carry(mut stream: PayerStream, mut refund: Refund) -> Result<Refunded, PayError> {
    let unreached = |reason: &dyn std::fmt::Display| PayError::Unreached(reason.to_string());
    let unreadable = |error| PayError::Unreadable(HeaderError::Json(error));
    let mut liveness = stream.liveness();
    loop {
        let frame = PayerFrame::Refund(refund.payment());
        let sent = stream.send(&frame).await;
        sent.map_err(|error| unreached(&error.with_causes()))?;
        let answered = tokio::select! {
            answered = timeout(REFUND_TIME_MAX, stream.recv()) => answered,
            () = liveness.lost() => return Err(unreached(&"it fell silent")),
        };
        let frame = answered.map_err(|_| unreached(&"it gave no answer in time"))?;
        match frame.map_err(|error| unreached(&error.with_causes()))? {
            Some(ProviderFrame::PaymentRequired(correction)) => {
                let correction = correction.read().map_err(unreadable)?;
                refund = refund.correct(&correction).await?;
            }
            Some(ProviderFrame::Refunded(settlement)) => {
                let settled = settlement.read().map_err(unreadable)?;
                return refund.settle(settled).await;
            }
            Some(ProviderFrame::Refused(refusal)) => return refund.refused(refusal.message).await,
            Some(_) => return Err(unreached(&"it spoke out of turn")),
            None => return Err(unreached(&"it ended without an answer")),
        }
    }
}
