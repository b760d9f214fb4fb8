//! The body of a stream that is charged when its last byte has been handed on.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use alloy_primitives::Address;
use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::future::BoxFuture;
use hearth_protocol::id::ChainId;
use http_body::{Frame, SizeHint};

use super::super::desk::{Charged, DeskStopped, Ticket};
use super::{Meter, answer};

/// What a charge needs, kept together while the reply is on its way.
pub(super) struct Charging {
    pub(super) network: ChainId,
    pub(super) payer: Address,
    pub(super) ticket: Ticket,
    pub(super) meter: Meter,
    pub(super) trailers: bool,
}

enum State {
    /// Bytes pass.
    Passing(Charging),
    /// The last byte has passed; the charge is on its way to the disk.
    Charging(
        BoxFuture<'static, Result<Charged, DeskStopped>>,
        ChainId,
        Address,
        bool,
    ),
    Done,
}

/// A body that passes its bytes on and charges at its end.
pub(super) struct MeteredBody {
    inner: Body,
    state: State,
    delivered: bool,
}

impl MeteredBody {
    pub(super) fn wrap(
        mut head: http::response::Parts,
        inner: Body,
        charging: Charging,
    ) -> Response {
        if charging.trailers {
            answer::announce_trailers(&mut head.headers);
            // Trailers need a body without a stated length.
            head.headers.remove(http::header::CONTENT_LENGTH);
        }
        let body = Self {
            inner,
            state: State::Passing(charging),
            delivered: false,
        };
        Response::from_parts(head, Body::new(body))
    }

    fn begin_to_charge(&mut self) {
        let State::Passing(charging) = std::mem::replace(&mut self.state, State::Done) else {
            return;
        };
        let Charging {
            network,
            payer,
            ticket,
            meter,
            trailers,
        } = charging;
        let amount = meter.reading().unwrap_or(meter.ceiling);
        let charge = Box::pin(ticket.charge(amount, None));
        self.state = State::Charging(charge, network, payer, trailers);
    }

    /// The service broke off: what it said it cost is charged, and nothing if it said nothing.
    fn break_off(&mut self) {
        if let State::Passing(mut charging) = std::mem::replace(&mut self.state, State::Done) {
            charging
                .ticket
                .charge_reading_on_drop(&charging.meter, false);
        }
    }
}

impl http_body::Body for MeteredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            match &mut self.state {
                State::Passing(_) => match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                    Some(Ok(frame)) => {
                        self.delivered |= frame.is_data();
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Some(Err(error)) => {
                        self.break_off();
                        return Poll::Ready(Some(Err(error)));
                    }
                    None => self.begin_to_charge(),
                },
                State::Charging(charge, network, payer, trailers) => {
                    let charged = ready!(charge.as_mut().poll(context));
                    let (network, payer, trailers) = (*network, *payer, *trailers);
                    self.state = State::Done;
                    if let (Ok(charged), true) = (charged, trailers) {
                        let trailers = answer::trailers(network, payer, &charged.statement);
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for MeteredBody {
    /// The payer went away: it is charged for what was on its way to it.
    fn drop(&mut self) {
        let delivered = self.delivered;
        if let State::Passing(charging) = &mut self.state {
            charging
                .ticket
                .charge_reading_on_drop(&charging.meter, delivered);
        }
    }
}
