//! A reply that was paid for, and its body.

use axum::body::Bytes;
use hearth_causes::WithCauses;
use hearth_protocol::id::ChannelId;
use hearth_protocol::x402::{PAYMENT_RESPONSE, PaymentRequirements, SettleResponse, decode_header};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use tracing::warn;

use super::channels::Channels;
use super::{PayError, statement};

/// The longest body that is read whole, in bytes.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// A reply, and what became of its payment.
#[derive(Debug)]
pub struct PaidResponse {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// What was paid by; `None` if it was free.
    pub requirements: Option<PaymentRequirements>,
    /// What the provider stated in the headers.
    pub receipt: Option<SettleResponse>,
    /// The body.
    pub body: PaidBody,
}

/// The body of a reply. At its end the provider may state the true charge of a stream.
#[derive(Debug)]
pub struct PaidBody {
    inner: reqwest::Body,
    channel: Option<(Channels, ChannelId)>,
    /// What the end stated.
    end: Option<SettleResponse>,
}

impl PaidResponse {
    fn new(
        response: reqwest::Response,
        requirements: Option<PaymentRequirements>,
        receipt: Option<SettleResponse>,
        channel: Option<(Channels, ChannelId)>,
    ) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = PaidBody {
            inner: response.into(),
            channel,
            end: None,
        };
        Self {
            status,
            headers,
            requirements,
            receipt,
            body,
        }
    }

    pub(super) fn free(response: reqwest::Response) -> Self {
        Self::new(response, None, None, None)
    }

    pub(super) fn exact(response: reqwest::Response, requirements: PaymentRequirements) -> Self {
        let receipt = super::settle_response(&response);
        Self::new(response, Some(requirements), receipt, None)
    }

    pub(super) fn batch(
        response: reqwest::Response,
        requirements: PaymentRequirements,
        receipt: Option<SettleResponse>,
        channels: Channels,
        channel: ChannelId,
    ) -> Self {
        Self::new(
            response,
            Some(requirements),
            receipt,
            Some((channels, channel)),
        )
    }

    /// Reads the whole body, and keeps the books right with what its end states.
    ///
    /// # Errors
    /// When the service breaks off, or the body has more than [`REPLY_BYTES_MAX`].
    pub async fn bytes(&mut self) -> Result<Bytes, PayError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.body.chunk().await? {
            if bytes.len().saturating_add(chunk.len()) > REPLY_BYTES_MAX {
                return Err(PayError::ReplyTooLong(REPLY_BYTES_MAX));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    /// The last word of the provider: of the end of the stream, or else of the headers.
    pub fn final_receipt(&self) -> Option<&SettleResponse> {
        self.body.end.as_ref().or(self.receipt.as_ref())
    }
}

impl PaidBody {
    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// When the service breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, reqwest::Error> {
        while let Some(frame) = self.inner.frame().await {
            match frame?.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => self.take_trailers(&frame).await,
            }
        }
        Ok(None)
    }

    async fn take_trailers(&mut self, frame: &Frame<Bytes>) {
        let stated = frame
            .trailers_ref()
            .and_then(|trailers| trailers.get(PAYMENT_RESPONSE));
        let Some(stated) = stated else { return };
        let Ok(settled) = decode_header::<SettleResponse>(stated.as_bytes()) else {
            return;
        };
        let total = statement(&settled)
            .ok()
            .and_then(|statement| statement.charged_total);
        if let (Some((channels, id)), Some(total)) = (&self.channel, total)
            && let Err(error) = channels.correct_down(*id, total).await
        {
            warn!(error = %error.with_causes(), "the true charge of a stream could not be kept");
        }
        self.end = Some(settled);
    }
}
