//! Replies kept for requests that are asked again (extension `payment-identifier`).
//!
//! A payer that lost a reply asks again with the same identifier and the same payment, and gets the
//! same reply without paying twice. The same identifier with anything else is a conflict. Replies
//! that are streams, or longer than [`REPLY_BYTES_MAX`], are not kept; asking for one again is said
//! to be impossible rather than charged again.
//!
//! What was sold is nobody else's to read. A kept reply is sealed under a key made of a secret of
//! this device and of the request with its payment, which is not on disk: it takes both to open it.
//! It is dropped after [`REPLY_KEPT_MS`]; what the file still has of it then, in pages that were not
//! written over, is sealed too. What earlier versions kept in clear is written over at the next start.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{B256, keccak256};
use axum::body::{Body, Bytes};
use axum::response::Response;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hearth_causes::WithCauses;
use hearth_environment::Environment;
use hearth_protocol::time::Timestamp;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::store::{Batch, OLD_REPLIES_NAME, Store, StoreError, Table};

/// Replies kept for requests that are asked again, sealed, by route and payment identifier.
const REPLIES: Table<Sealed> = Table::own("sealed_replies");
/// When each of them was kept: the time, then its key.
const REPLY_TIMES: Table<()> = Table::own("reply_times");
/// Replies as earlier versions kept them, in clear. They are sealed or dropped, and the table with them.
const OLD_REPLIES: Table<Old> = Table::own(OLD_REPLIES_NAME);
/// The longest body that is kept, in bytes.
pub const REPLY_BYTES_MAX: usize = 256 * 1024;
/// How long a reply is kept, in milliseconds.
pub const REPLY_KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// How often replies are let go.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// How many are let go, or sealed, in one step.
const STEP_REPLIES: usize = 64;

/// A reply as it is on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sealed {
    /// Tells the request from others without saying what it was.
    check: B256,
    at: Timestamp,
    nonce: [u8; 24],
    /// An `Option<KeptReply>`: nothing where the reply was not kept.
    sealed: Vec<u8>,
}

/// A reply as earlier versions kept it, in clear.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Old {
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
    secret: Secret,
    environment: Arc<dyn Environment>,
    in_hand: Arc<Mutex<BTreeSet<B256>>>,
}

/// By what replies are sealed.
#[derive(Clone, Copy)]
struct Secret(B256);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    fn derive(self, purpose: &str, fingerprint: B256) -> B256 {
        keccak256([keccak256(purpose), self.0, fingerprint].concat())
    }

    fn cipher(self, fingerprint: B256) -> XChaCha20Poly1305 {
        let key = self.derive("key", fingerprint);
        XChaCha20Poly1305::new(key.as_slice().into())
    }

    fn seal(
        self,
        slot: B256,
        fingerprint: B256,
        at: Timestamp,
        reply: Option<&KeptReply>,
        nonce: [u8; 24],
    ) -> Result<Sealed, StoreError> {
        let plain = postcard::to_stdvec(&reply).map_err(|_| StoreError::Format)?;
        let payload = Payload {
            msg: &plain,
            aad: slot.as_slice(),
        };
        let sealed = self
            .cipher(fingerprint)
            .encrypt(&XNonce::from(nonce), payload);
        Ok(Sealed {
            check: self.derive("check", fingerprint),
            at,
            nonce,
            sealed: sealed.map_err(|_| StoreError::Format)?,
        })
    }

    fn open(
        self,
        slot: B256,
        fingerprint: B256,
        kept: &Sealed,
    ) -> Result<Option<KeptReply>, StoreError> {
        let payload = Payload {
            msg: &kept.sealed,
            aad: slot.as_slice(),
        };
        let cipher = self.cipher(fingerprint);
        let plain = cipher.decrypt(&XNonce::from(kept.nonce), payload);
        let plain = plain.map_err(|_| StoreError::Format)?;
        postcard::from_bytes(&plain).map_err(|_| StoreError::Format)
    }
}

/// The key under which it is found when a reply was kept.
fn time_key(at: Timestamp, slot: &[u8]) -> Vec<u8> {
    [&at.0.to_be_bytes(), slot].concat()
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
    /// Replies kept in `store`, sealed by what is derived from `secret`.
    pub fn new(store: Store, secret: B256, environment: Arc<dyn Environment>) -> Self {
        Self {
            store,
            secret: Secret(secret),
            environment,
            in_hand: Arc::default(),
        }
    }

    fn nonce(&self) -> Result<[u8; 24], StoreError> {
        self.environment.draw().map_err(|_| StoreError::Randomness)
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
        let kept: Option<Sealed> = self.store.get(REPLIES, key.as_slice())?;
        let Some(kept) = kept.filter(|kept| now.ms_since(kept.at) < REPLY_KEPT_MS) else {
            return Ok(Known::New(slot));
        };
        if kept.check != self.secret.derive("check", fingerprint) {
            return Ok(Known::Conflict);
        }
        Ok(match self.secret.open(key, fingerprint, &kept)? {
            None => Known::NotKept,
            Some(reply) => Known::Reply(Box::new(reply.into_response())),
        })
    }

    /// Lets replies go when their time is over, from now on until the future is dropped.
    pub async fn forget(self) {
        loop {
            let now = Timestamp(self.environment.now_ms());
            let done = match self.seal_old(now).await {
                Ok(()) => self.forget_old(now).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                warn!(error = %error.with_causes(), "kept replies could not be let go");
            }
            self.environment.sleep(FORGET_EVERY).await;
        }
    }

    /// Forgets replies that are older than they need be, step by step.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_old(&self, now: Timestamp) -> Result<(), StoreError> {
        let before = now.0.saturating_sub(REPLY_KEPT_MS).saturating_add(1);
        let end = time_key(Timestamp(before), &[]);
        loop {
            let mut times = Vec::new();
            let note = |key: &[u8], (): ()| times.push(key.to_vec());
            self.store.first(REPLY_TIMES, &end, STEP_REPLIES, note)?;
            let mut batch = Batch::default();
            for time in &times {
                batch.remove(REPLY_TIMES, time);
                let slot = &time[size_of::<u64>().min(time.len())..];
                let kept: Option<Sealed> = self.store.get(REPLIES, slot)?;
                // The same identifier may have been used anew since.
                if kept.is_some_and(|kept| now.ms_since(kept.at) >= REPLY_KEPT_MS) {
                    batch.remove(REPLIES, slot);
                }
            }
            self.store.commit(batch).await?;
            if times.len() < STEP_REPLIES {
                return Ok(());
            }
        }
    }

    /// Seals what earlier versions kept in clear, or drops it where its time is over.
    async fn seal_old(&self, now: Timestamp) -> Result<(), StoreError> {
        loop {
            let mut old = Vec::new();
            let note = |key: &[u8], kept: Old| old.push((key.to_vec(), kept));
            self.store
                .first(OLD_REPLIES, &[u8::MAX; 33], STEP_REPLIES, note)?;
            let count = old.len();
            let mut batch = Batch::default();
            for (key, kept) in old {
                batch.remove(OLD_REPLIES, &key);
                if key.len() == 32 && now.ms_since(kept.at) < REPLY_KEPT_MS {
                    let slot = B256::from_slice(&key);
                    let (at, reply) = (kept.at, kept.reply.as_ref());
                    let sealed =
                        self.secret
                            .seal(slot, kept.fingerprint, at, reply, self.nonce()?)?;
                    batch.put_new(REPLIES, &key, &sealed)?;
                    batch.put(REPLY_TIMES, &time_key(at, &key), &())?;
                }
            }
            self.store.commit(batch).await?;
            if count < STEP_REPLIES {
                return Ok(());
            }
        }
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
        let (secret, nonce) = (self.replies.secret, self.replies.nonce()?);
        let sealed = secret.seal(self.key, self.fingerprint, now, reply.as_ref(), nonce)?;
        let mut batch = Batch::default();
        batch.put(REPLIES, self.key.as_slice(), &sealed)?;
        let time = time_key(now, self.key.as_slice());
        batch.put(REPLY_TIMES, &time, &())?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hearth_environment::SystemEnvironment;

    use super::*;

    const ANSWER: &[u8] = b"what was sold is nobody else's to read";
    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn open(folder: &Path) -> Replies {
        // The writer's thread lets go of the file when it sees that the last handle is gone.
        let store = loop {
            match Store::open(&folder.join("provider.redb"), &SystemEnvironment) {
                Ok(store) => break store,
                Err(_) => std::thread::yield_now(),
            }
        };
        Replies::new(store, B256::repeat_byte(7), Arc::new(SystemEnvironment))
    }

    async fn keep(replies: &Replies, id: &str, request: u8, now: Timestamp) {
        let known = replies.look_up("/a", id, B256::repeat_byte(request), now);
        let Known::New(slot) = known.unwrap() else {
            panic!("it is known already");
        };
        let (head, ()) = http::Response::new(()).into_parts();
        let body = Bytes::from_static(ANSWER);
        slot.keep(&head, Some(&body), now).await.unwrap();
    }

    fn is_on_disk(folder: &Path, needle: &[u8]) -> bool {
        let file = std::fs::read(folder.join("provider.redb")).unwrap();
        file.windows(needle.len()).any(|window| window == needle)
    }

    /// How many replies and how many times are kept.
    fn count(replies: &Replies) -> (usize, usize) {
        let (mut kept, mut times) = (0, 0);
        let note = |_: &[u8], _: Sealed| kept += 1;
        replies.store.each(REPLIES, note).unwrap();
        let note = |_: &[u8], (): ()| times += 1;
        replies.store.each(REPLY_TIMES, note).unwrap();
        (kept, times)
    }

    #[tokio::test]
    async fn a_kept_reply_is_given_to_the_same_request_and_is_not_readable_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let replies = open(folder.path());
        keep(&replies, "id", 1, START).await;
        let fingerprint = B256::repeat_byte(1);
        assert!(!is_on_disk(folder.path(), ANSWER));
        assert!(
            !is_on_disk(folder.path(), fingerprint.as_slice()),
            "half of the key"
        );
        let other = replies.look_up("/a", "id", B256::repeat_byte(2), START);
        assert!(matches!(other.unwrap(), Known::Conflict));
        let again = replies.look_up("/a", "id", fingerprint, START).unwrap();
        let Known::Reply(reply) = again else {
            panic!("{again:?}");
        };
        let body = axum::body::to_bytes(reply.into_body(), 1_000).await;
        assert_eq!(body.unwrap(), ANSWER);
        let elsewhere = Replies::new(
            replies.store.clone(),
            B256::repeat_byte(8),
            Arc::new(SystemEnvironment),
        );
        let stolen = elsewhere.look_up("/a", "id", fingerprint, START);
        assert!(
            matches!(stolen.unwrap(), Known::Conflict),
            "without the device's secret"
        );
    }

    #[tokio::test]
    async fn nothing_is_kept_beyond_a_day_however_much_there_was() {
        let folder = tempfile::tempdir().unwrap();
        let replies = open(folder.path());
        let many = 2 * STEP_REPLIES + 1;
        for number in 0..many {
            keep(&replies, &number.to_string(), 1, START).await;
        }
        let later = START.plus_ms(REPLY_KEPT_MS / 2);
        keep(&replies, "later", 1, later).await;
        let forget = async |now| replies.forget_old(now).await.unwrap();
        forget(START.plus_ms(REPLY_KEPT_MS - 1)).await;
        assert_eq!(count(&replies), (many + 1, many + 1));
        forget(START.plus_ms(REPLY_KEPT_MS)).await;
        assert_eq!(count(&replies), (1, 1));
        forget(later.plus_ms(REPLY_KEPT_MS)).await;
        assert_eq!(count(&replies), (0, 0));
    }

    #[tokio::test]
    async fn an_identifier_that_is_used_anew_keeps_its_new_reply() {
        let folder = tempfile::tempdir().unwrap();
        let replies = open(folder.path());
        keep(&replies, "id", 1, START).await;
        let anew = START.plus_ms(REPLY_KEPT_MS);
        keep(&replies, "id", 2, anew).await;
        replies.forget_old(anew).await.unwrap();
        let known = replies.look_up("/a", "id", B256::repeat_byte(2), anew);
        assert!(matches!(known.unwrap(), Known::Reply(_)));
    }

    #[tokio::test]
    async fn what_an_earlier_version_kept_in_clear_is_sealed_or_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let slot = keccak256([keccak256("/a"), keccak256("id")].concat());
        let fingerprint = B256::repeat_byte(1);
        let old = |at, times| Old {
            fingerprint,
            at,
            reply: Some(KeptReply {
                status: 200,
                headers: Vec::new(),
                body: ANSWER.repeat(times),
            }),
        };
        let replies = open(folder.path());
        let mut batch = Batch::default();
        let long_ago = Timestamp(START.0 - REPLY_KEPT_MS);
        for (key, at) in [(slot.as_slice(), START), (&[9; 32], long_ago)] {
            batch.put(OLD_REPLIES, key, &old(at, 1)).unwrap();
        }
        // Of all lengths, so that they lie in pages of all sizes.
        for number in 0..3 * STEP_REPLIES {
            let key = keccak256(number.to_be_bytes());
            let long = old(START, number * number / 8);
            batch.put(OLD_REPLIES, key.as_slice(), &long).unwrap();
        }
        replies.store.commit(batch).await.unwrap();
        assert!(is_on_disk(folder.path(), ANSWER));
        replies.seal_old(START).await.unwrap();
        let sealed = 3 * STEP_REPLIES + 1;
        assert_eq!(count(&replies), (sealed, sealed));
        drop(replies);
        let again = open(folder.path());
        assert!(
            !is_on_disk(folder.path(), ANSWER),
            "nothing of it is left in clear, in pages that nothing uses either"
        );
        assert_eq!(count(&again), (sealed, sealed));
        let known = again.look_up("/a", "id", fingerprint, START).unwrap();
        assert!(matches!(known, Known::Reply(_)));
    }
}
