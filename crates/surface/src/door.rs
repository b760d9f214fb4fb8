//! Who comes in: the address that is served, and the key.
//!
//! Hosts and pages are looked at by [`hearth_doors`] before anything comes here; what it refuses is
//! said in the form that the programs of each API read.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::response::Response;
use hearth_doors::{Budget, Policy, Refusal};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::Surface;
use super::failure::{Failure, Form};
use super::keys::{ApiKey, KEY_PREFIX};

/// Who may come in without a key.
#[derive(Debug, Clone)]
pub struct Door {
    pub(super) keyless: Option<Arc<ApiKey>>,
    /// Whether everything behind it is paid for.
    is_paid: bool,
}

impl Door {
    /// A door at `address`. `keyless` is who asks where no key is shown; it counts on a loopback
    /// address only.
    pub fn new(address: SocketAddr, keyless: Option<ApiKey>) -> Self {
        let is_loopback = address.ip().is_loopback();
        Self {
            keyless: keyless.filter(|_| is_loopback).map(Arc::new),
            is_paid: false,
        }
    }

    /// A door behind which everything is paid for; `buyer` is who asks.
    pub(super) fn paid(buyer: ApiKey) -> Self {
        Self {
            keyless: Some(Arc::new(buyer)),
            is_paid: true,
        }
    }
}

/// With what the household's own address is served, which its programs also know as `names`.
pub fn own_policy(address: SocketAddr, names: &[String], budget: Budget) -> Policy {
    Policy::household(address, names, budget).refusing(refuse)
}

/// With what an address is served at which answers are sold.
pub fn sold_policy(budget: Budget) -> Policy {
    Policy::public(budget).refusing(refuse)
}

fn refuse(refusal: &Refusal, parts: &Parts) -> Response {
    let failure = Failure::new(refusal.status(), refusal.code(), refusal.to_string());
    failure.into_response_as(Form::of(parts.uri.path()))
}

fn shown_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    let other = || headers.get("x-api-key")?.to_str().ok().map(str::trim);
    bearer.or_else(other).filter(|key| !key.is_empty())
}

/// Who asks.
///
/// Programs insist on some key, so where none is needed any text will do, unless it looks like one
/// of ours: that one was taken away.
pub(super) fn caller(
    surface: &Surface,
    door: &Door,
    headers: &HeaderMap,
) -> Result<Arc<ApiKey>, Failure> {
    // Who pays needs no key, and a household's key buys nothing more there.
    if let (true, Some(buyer)) = (door.is_paid, &door.keyless) {
        return Ok(Arc::clone(buyer));
    }
    let shown = shown_key(headers);
    if let Some(key) = shown.and_then(|shown| surface.find_key(shown)) {
        return Ok(key);
    }
    let is_ours = shown.is_some_and(|shown| shown.starts_with(KEY_PREFIX));
    match (&door.keyless, shown) {
        (Some(keyless), _) if !is_ours => Ok(Arc::clone(keyless)),
        (_, None) => {
            let message = "no API key was shown; send one as `Authorization: Bearer` or \
                           `x-api-key` (`hearth keys` makes one)";
            Err(Failure::new(
                StatusCode::UNAUTHORIZED,
                "missing_api_key",
                message,
            ))
        }
        (_, Some(_)) => {
            let message = "the API key is not known here, or was taken away; `hearth keys` makes \
                           another one";
            Err(Failure::new(
                StatusCode::UNAUTHORIZED,
                "invalid_api_key",
                message,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_keys_must_be_shown() {
        let keyless = || Some(ApiKey::new("keyless", ""));
        let near: SocketAddr = "127.0.0.1:4040".parse().unwrap();
        let far: SocketAddr = "0.0.0.0:4040".parse().unwrap();
        assert!(Door::new(near, keyless()).keyless.is_some());
        assert!(Door::new(far, keyless()).keyless.is_none());
    }
}
