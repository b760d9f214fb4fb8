//! Replies kept for requests that are asked again (extension `payment-identifier`).
//!
//! A payer that lost a reply asks again with the same identifier and the same payment, and gets the
//! same reply without paying twice. The same identifier with anything else is a conflict. Replies
//! that are streams, or longer than [`REPLY_BYTES_MAX`], are not kept; asking for one again is said
//! to be impossible rather than charged again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::{B256, keccak256};
use axum::body::{Body, Bytes};
use axum::response::Response;
use hearth_protocol::time::Timestamp;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::store::{Batch, Store, StoreError, Table};

/// The longest body that is kept, in bytes.
pub const REPLY_BYTES_MAX: usize = 256 * 1024;
/// How long a reply is kept, in milliseconds.
pub const REPLY_KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    fingerprint: B256,
    at: Timestamp,
    /// `None` where the reply was not kept.
    reply: Option<KeptReply>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KeptReply {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// The replies that are kept. Clones share them.
#[derive(Debug, Clone)]
pub struct Replies {
    store: Store,
    in_hand: Arc<Mutex<BTreeSet<B256>>>,
}

/// What is known of an identifier.
#[derive(Debug)]
pub enum Known {
    /// Nothing: the request is new, and the reply may be kept with this.
    New(Slot),
    /// The reply.
    Reply(Box<Response>),
    /// It belongs to another request.
    Conflict,
    /// The same request is still being answered.
    InHand,
    /// The same request was answered, and its reply was not kept.
    NotKept,
}

/// The place for one reply.
#[derive(Debug)]
pub struct Slot {
    replies: Replies,
    key: B256,
    fingerprint: B256,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.replies.lock().remove(&self.key);
    }
}

impl Replies {
    /// Replies kept in `store`.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            in_hand: Arc::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<B256>> {
        // A set of hashes is whole after any panic.
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up the identifier of a request on a route.
    ///
    /// # Errors
    /// When the store fails.
    pub fn look_up(
        &self,
        route: &str,
        id: &str,
        fingerprint: B256,
        now: Timestamp,
    ) -> Result<Known, StoreError> {
        let key = keccak256([keccak256(route), keccak256(id)].concat());
        if !self.lock().insert(key) {
            return Ok(Known::InHand);
        }
        let slot = Slot {
            replies: self.clone(),
            key,
            fingerprint,
        };
        let kept: Option<Kept> = self.store.get(Table::Replies, key.as_slice())?;
        Ok(
            match kept.filter(|kept| now.ms_since(kept.at) < REPLY_KEPT_MS) {
                None => Known::New(slot),
                Some(kept) if kept.fingerprint != fingerprint => Known::Conflict,
                Some(Kept { reply: None, .. }) => Known::NotKept,
                Some(Kept {
                    reply: Some(reply), ..
                }) => Known::Reply(Box::new(reply.into_response())),
            },
        )
    }

    /// Forgets replies that are older than they need be.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_old(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        self.store.each(Table::Replies, |key, kept: Kept| {
            if now.ms_since(kept.at) >= REPLY_KEPT_MS {
                batch.remove(Table::Replies, key);
            }
        })?;
        self.store.commit(batch).await
    }
}

impl Slot {
    /// What must be written to keep the reply; `body` is `None` where it is a stream or too long.
    ///
    /// # Errors
    /// When the reply does not fit into the store.
    pub fn writing(
        &self,
        head: &http::response::Parts,
        body: Option<&Bytes>,
        now: Timestamp,
    ) -> Result<Batch, StoreError> {
        let reply = body
            .filter(|body| body.len() <= REPLY_BYTES_MAX)
            .map(|body| KeptReply {
                status: head.status.as_u16(),
                headers: head
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                    .collect(),
                body: body.to_vec(),
            });
        let mut batch = Batch::default();
        let fingerprint = self.fingerprint;
        let kept = Kept {
            fingerprint,
            at: now,
            reply,
        };
        batch.put(Table::Replies, self.key.as_slice(), &kept)?;
        Ok(batch)
    }

    /// Keeps the reply; `body` is `None` where it is a stream or too long.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn keep(
        self,
        head: &http::response::Parts,
        body: Option<&Bytes>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let batch = self.writing(head, body, now)?;
        self.replies.store.commit(batch).await
    }
}

impl KeptReply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        for (name, value) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&value)) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}
