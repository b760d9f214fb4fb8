//! Who comes in: the host that is asked for, the page that asks, and the key.
//!
//! A browser page from elsewhere must get nothing out of a node on the same machine. It can reach
//! loopback in two ways: with its own origin, which browsers then name in `Origin`, or under a name
//! of its own that its DNS server suddenly points at 127.0.0.1, which then stands in `Host`. Both
//! are refused before anything is read, and no answer ever carries a CORS header.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Uri};

use super::failure::{Failure, Form};
use super::keys::{ApiKey, KEY_PREFIX};
use super::{At, Surface};

/// Where a surface is reached, and who may come in without a key.
#[derive(Debug, Clone)]
pub struct Door {
    hosts: Hosts,
    pub(super) keyless: Option<Arc<ApiKey>>,
}

/// Names under which a door is known.
#[derive(Debug, Clone)]
enum Hosts {
    /// This machine's own, and some more.
    Loopback(Vec<String>),
    /// Any address in digits, and some names.
    Addresses(Vec<String>),
    /// Any: nothing is given without payment.
    Any,
}

impl Door {
    /// A door at `address`, known to others as `names` (without ports). `keyless` is who asks where
    /// no key is shown; it counts on a loopback address only.
    pub fn new(
        address: SocketAddr,
        names: impl IntoIterator<Item = String>,
        keyless: Option<ApiKey>,
    ) -> Self {
        let names = names
            .into_iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        let is_loopback = address.ip().is_loopback();
        Self {
            hosts: if is_loopback {
                Hosts::Loopback(names)
            } else {
                Hosts::Addresses(names)
            },
            keyless: keyless.filter(|_| is_loopback).map(Arc::new),
        }
    }

    /// A door behind which everything is paid for; `buyer` is who asks.
    pub(super) fn paid(buyer: ApiKey) -> Self {
        Self {
            hosts: Hosts::Any,
            keyless: Some(Arc::new(buyer)),
        }
    }

    /// Whether `authority`, a host with or without a port, is a name of this door.
    fn is_known(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<http::uri::Authority>() else {
            return false;
        };
        let host = authority.host().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let digits = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let address = digits.unwrap_or(host).parse::<IpAddr>().ok();
        match &self.hosts {
            Hosts::Any => true,
            Hosts::Loopback(names) => {
                address.is_some_and(|address| address.is_loopback())
                    || host == "localhost"
                    || names.iter().any(|name| name == host)
            }
            Hosts::Addresses(names) => {
                address.is_some() || host == "localhost" || names.iter().any(|name| name == host)
            }
        }
    }

    /// Whether a request may be looked at.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let single = hosts.next().is_none();
        let absolute = uri
            .authority()
            .is_none_or(|host| self.is_known(host.as_str()));
        let Some(host) = host.filter(|host| single && absolute && self.is_known(host)) else {
            let message = "this node is not known under that name; use its address, such as \
                           http://127.0.0.1, or add the name to its configuration";
            let status = StatusCode::MISDIRECTED_REQUEST;
            return Err(Failure::new(status, "unknown_host", message));
        };
        let own = |origin: &str| {
            ["http://", "https://"]
                .iter()
                .any(|scheme| origin.strip_prefix(scheme) == Some(host))
        };
        let foreign_origin = headers
            .get_all(ORIGIN)
            .iter()
            .any(|origin| !origin.to_str().is_ok_and(own));
        let crosses = headers
            .get_all("sec-fetch-site")
            .iter()
            .any(|site| site == "cross-site");
        if matches!(self.hosts, Hosts::Any) || !(foreign_origin || crosses) {
            return Ok(());
        }
        let message =
            "pages of other origins get nothing here; ask from a program, not from a page";
        let status = StatusCode::FORBIDDEN;
        Err(Failure::new(status, "foreign_origin", message))
    }
}

/// Refuses what must not be looked at.
pub(super) async fn guard(State(at): State<At>, request: Request, next: Next) -> Response {
    match at.door.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response_as(Form::of(request.uri().path())),
    }
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
    if let (Hosts::Any, Some(buyer)) = (&door.hosts, &door.keyless) {
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
    use http::HeaderValue;

    fn loopback() -> Door {
        let address = "127.0.0.1:11435".parse().unwrap();
        Door::new(address, ["hearth.lan".to_owned()], None)
    }

    fn check(door: &Door, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        match door.check(&Uri::from_static("/v1/models"), &map) {
            Ok(()) => 200,
            Err(failure) => failure.status.as_u16(),
        }
    }

    #[test]
    fn a_loopback_door_is_known_by_its_own_names_only() {
        let door = loopback();
        for host in [
            "127.0.0.1:11435",
            "localhost",
            "LocalHost:1",
            "localhost.",
            "[::1]:11435",
            "127.8.8.8",
            "hearth.lan:80",
        ] {
            assert_eq!(check(&door, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:11435",
            "192.168.1.5",
            "user@evil.example",
            "",
            "a b",
        ] {
            assert_eq!(check(&door, &[("host", host)]), 421, "{host}");
        }
        assert_eq!(check(&door, &[]), 421);
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(check(&door, &twice), 421);
    }

    #[test]
    fn an_absolute_address_counts_as_a_host_too() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let uri = Uri::from_static("http://evil.example/v1/models");
        assert!(loopback().check(&uri, &headers).is_err());
    }

    #[test]
    fn a_page_of_another_origin_gets_nothing() {
        let door = loopback();
        let host = ("host", "127.0.0.1:11435");
        let ask = |name, value| check(&door, &[host, (name, value)]);
        assert_eq!(ask("origin", "http://127.0.0.1:11435"), 200);
        assert_eq!(ask("origin", "http://127.0.0.1:3000"), 403);
        assert_eq!(ask("origin", "https://evil.example"), 403);
        assert_eq!(ask("origin", "null"), 403);
        assert_eq!(ask("sec-fetch-site", "cross-site"), 403);
        assert_eq!(ask("sec-fetch-site", "same-origin"), 200);
    }

    #[test]
    fn beyond_loopback_names_must_be_told_and_keys_be_shown() {
        let address = "0.0.0.0:11435".parse().unwrap();
        let keyless = Some(ApiKey::new("keyless", ""));
        let door = Door::new(address, ["hearth.lan".to_owned()], keyless);
        assert!(door.keyless.is_none());
        assert_eq!(check(&door, &[("host", "192.168.1.5:11435")]), 200);
        assert_eq!(check(&door, &[("host", "hearth.lan")]), 200);
        assert_eq!(check(&door, &[("host", "evil.example")]), 421);
    }
}
