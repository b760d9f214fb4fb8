//! Who may be looked at: the host that is asked for, the page that asks, and how the message is framed.
//!
//! A browser page from elsewhere must get nothing out of a node on the same machine. It can reach
//! loopback in two ways: with its own origin, which browsers then name in `Origin` and
//! `Sec-Fetch-Site`, or under a name of its own that its DNS server suddenly points at 127.0.0.1,
//! which then stands in `Host`. Both are refused before a body is read, and no reply carries a CORS
//! header. Messages that two programs could read in two ways are refused at every door.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use thiserror::Error;

/// The codings of request bodies that are understood.
pub(crate) const ACCEPTED_CODINGS: &str = "gzip, deflate";
/// What browsers put before the origin of an extension that the user installed. Pages cannot.
const EXTENSION_SCHEMES: [&str; 3] = [
    "chrome-extension://",
    "moz-extension://",
    "safari-web-extension://",
];

/// Under which names a door is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// This machine's own, and some more.
    Loopback(Vec<String>),
    /// Any address in digits, and some names.
    Addresses(Vec<String>),
    /// Any: nothing is given here for being near.
    Any,
}

/// Which pages of a browser may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// Those that came from this door.
    Own,
    /// Those, and extensions of the browser, such as wallets.
    Extensions,
    /// All of them: they find nothing here that others do not find.
    Any,
}

/// Decides which requests may be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    hosts: Hosts,
    pages: Pages,
}

/// Why a request is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// `Host` is missing, is there twice, is not a host, or differs from the request's target.
    #[error("the request does not say with one Host header for which host it is; send exactly one")]
    BadHost,
    /// The host is not one of this door's names.
    #[error(
        "this node is not known under that name; use its address, such as http://127.0.0.1, or add \
         the name to `names` of [api] in its config.toml"
    )]
    UnknownHost,
    /// A page of another origin asks.
    #[error("pages of other origins get nothing here; ask from a program, not from a page")]
    ForeignOrigin,
    /// Two programs could read the message in two ways.
    #[error("the request has both Content-Length and Transfer-Encoding; send one of them")]
    BadFraming,
    /// The body is in a transfer coding that is not understood.
    #[error(
        "only chunked is understood as Transfer-Encoding; name another coding of the body in Content-Encoding"
    )]
    TransferCoding,
    /// A method that no door takes.
    #[error("{0} is not taken here")]
    Method(Method),
    /// An expectation that is not known.
    #[error("the only expectation that is met is 100-continue; leave the Expect header out")]
    Expectation,
    /// The body is in a coding that is not understood.
    #[error(
        "the content encoding {0:?} is not understood; send the body in one of: {ACCEPTED_CODINGS}, \
         or as it is"
    )]
    Coding(String),
    /// The body is in a charset that is not understood.
    #[error("the charset {0:?} is not understood; send JSON as UTF-8")]
    Charset(String),
}

impl Refusal {
    /// The status of the reply.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadHost | Self::BadFraming => StatusCode::BAD_REQUEST,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Coding(_) | Self::Charset(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::UnknownHost => "unknown_host",
            Self::ForeignOrigin => "foreign_origin",
            Self::BadFraming => "bad_framing",
            Self::Method(_) => "wrong_method",
            Self::Expectation => "unknown_expectation",
            Self::TransferCoding => "unsupported_transfer_encoding",
            Self::Coding(_) => "unsupported_encoding",
            Self::Charset(_) => "unsupported_charset",
        }
    }
}

/// The reply to a request that is not looked at, in Hearth's own form of errors.
pub fn refusal_response(refusal: &Refusal) -> Response {
    let error = serde_json::json!({ "code": refusal.code(), "message": refusal.to_string() });
    let json = serde_json::json!({ "error": error }).to_string();
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Adds to a refusal what its status demands, whoever wrote its body.
pub(crate) fn complete(refusal: &Refusal, mut response: Response) -> Response {
    if let Refusal::Coding(_) = refusal {
        let accepted = HeaderValue::from_static(ACCEPTED_CODINGS);
        response.headers_mut().insert(ACCEPT_ENCODING, accepted);
    }
    response
}

/// A host as it is compared: an address, or a name in lower case without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// Reads a host with or without a port. `None` for what browsers never send as one: user names,
    /// zones, ports that are none.
    fn of(authority: &str) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (digits, rest) = rest.split_once(']')?;
                let address: Ipv6Addr = digits.parse().ok()?;
                let port = match rest {
                    "" => None,
                    rest => Some(rest.strip_prefix(':')?),
                };
                (Self::Address(IpAddr::V6(address).to_canonical()), port)
            }
            None => {
                let (name, port) = match authority.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (authority, None),
                };
                (Self::named(name)?, port)
            }
        };
        let is_port =
            |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        port.is_none_or(is_port).then_some(host)
    }

    fn named(name: &str) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return None;
        }
        Some(match name.parse() {
            Ok(address) => Self::Address(address),
            Err(_) => Self::Name(name),
        })
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            // No public name lies under `localhost`, and resolvers answer it with loopback.
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    fn is_named(&self, names: &[String]) -> bool {
        matches!(self, Self::Name(name) if names.iter().any(|known| known == name))
    }
}

impl Guard {
    /// For the household's own programs at `address`, which they know as `names` too.
    pub(crate) fn household(address: SocketAddr, names: &[String]) -> Self {
        let names = names
            .iter()
            .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
            .collect();
        Self {
            hosts: if address.ip().to_canonical().is_loopback() {
                Hosts::Loopback(names)
            } else {
                Hosts::Addresses(names)
            },
            pages: Pages::Own,
        }
    }

    /// For the programs and the wallets of this machine.
    pub(crate) fn wallets() -> Self {
        Self {
            hosts: Hosts::Loopback(Vec::new()),
            pages: Pages::Extensions,
        }
    }

    /// For everybody, under any name.
    pub(crate) fn public() -> Self {
        Self {
            hosts: Hosts::Any,
            pages: Pages::Any,
        }
    }

    /// Whether a request may be looked at.
    pub(crate) fn check(&self, parts: &Parts) -> Result<(), Refusal> {
        if parts.method == Method::CONNECT || parts.method == Method::TRACE {
            return Err(Refusal::Method(parts.method.clone()));
        }
        let headers = &parts.headers;
        if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
            return Err(Refusal::BadFraming);
        }
        let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !headers.get_all(TRANSFER_ENCODING).iter().all(chunked) {
            return Err(Refusal::TransferCoding);
        }
        let expected = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !headers.get_all(EXPECT).iter().all(expected) {
            return Err(Refusal::Expectation);
        }
        let host = self.check_host(parts)?;
        if self.pages == Pages::Any || self.admits_page(headers, host.unwrap_or_default()) {
            Ok(())
        } else {
            Err(Refusal::ForeignOrigin)
        }
    }

    /// Returns the `Host` header, where there is one.
    fn check_host<'a>(&self, parts: &'a Parts) -> Result<Option<&'a str>, Refusal> {
        let mut hosts = parts.headers.get_all(HOST).iter();
        let Some(first) = hosts.next() else {
            // Programs that speak HTTP/1.0 may leave it out; browsers speak no HTTP/1.0.
            return match self.hosts {
                Hosts::Any if parts.version == Version::HTTP_10 => Ok(None),
                _ => Err(Refusal::BadHost),
            };
        };
        let text = first.to_str().map_err(|_| Refusal::BadHost)?;
        let host = Host::of(text).ok_or(Refusal::BadHost)?;
        if hosts.next().is_some() {
            return Err(Refusal::BadHost);
        }
        let target = parts.uri.authority().map(http::uri::Authority::as_str);
        if let Some(target) = target
            && Host::of(target).as_ref() != Some(&host)
        {
            return Err(Refusal::BadHost);
        }
        let known = match &self.hosts {
            Hosts::Any => true,
            Hosts::Loopback(names) => host.is_loopback() || host.is_named(names),
            Hosts::Addresses(names) => match &host {
                // Browsers take the unspecified address for loopback and send no fetch metadata.
                Host::Address(address) => !address.is_unspecified(),
                Host::Name(_) => host.is_loopback() || host.is_named(names),
            },
        };
        if known {
            Ok(Some(text))
        } else {
            Err(Refusal::UnknownHost)
        }
    }

    fn admits_page(&self, headers: &HeaderMap, host: &str) -> bool {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_ascii_lowercase();
        let origins: Vec<String> = headers.get_all(ORIGIN).iter().map(text).collect();
        let is_extension = |origin: &String| {
            EXTENSION_SCHEMES
                .iter()
                .any(|scheme| origin.starts_with(scheme))
        };
        // What browsers say of an extension's requests in Sec-Fetch-Site differs; its origin does not.
        if self.pages == Pages::Extensions
            && !origins.is_empty()
            && origins.iter().all(is_extension)
        {
            return true;
        }
        let is_own = |origin: &String| {
            ["http://", "https://"].iter().any(|scheme| {
                let rest = origin.strip_prefix(scheme);
                rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
            })
        };
        let stays = |site: &HeaderValue| site == "same-origin" || site == "none";
        origins.iter().all(is_own) && headers.get_all("sec-fetch-site").iter().all(stays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn loopback() -> Guard {
        Guard::household(
            "127.0.0.1:4040".parse().unwrap(),
            &["hearth.lan".to_owned()],
        )
    }

    fn status(guard: &Guard, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        match guard.check(&parts) {
            Ok(()) => 200,
            Err(refusal) => refusal.status().as_u16(),
        }
    }

    #[test]
    fn a_loopback_door_is_known_by_its_own_names_only() {
        for host in [
            "127.0.0.1:4040",
            "localhost",
            "LocalHost:1",
            "localhost.",
            "LOCALHOST.:4040",
            "app.localhost:1",
            "[::1]:4040",
            "[::ffff:127.0.0.1]",
            "[0:0:0:0:0:0:0:1]",
            "127.8.8.8",
            "hearth.lan:80",
            "HEARTH.LAN.",
            "127.0.0.1.",
            "localhost:0",
            "localhost:00080",
            "[0:0:0:0:0:ffff:127.0.0.1]:1",
            "[::FFFF:7F00:1]",
        ] {
            assert_eq!(status(&loopback(), "/", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:4040",
            "evil-localhost",
            "192.168.1.5",
            "0.0.0.0:4040",
            "[::]:4040",
            "2130706433",
            "0x7f000001",
            "127.1",
            "lan",
            "[::127.0.0.1]",
            "[::ffff:0.0.0.0]",
            "localhost..",
            "ip6-localhost",
            "localhost-",
            "xn--localhost",
            "hearth.lan.evil.example",
        ] {
            assert_eq!(status(&loopback(), "/", &[("host", host)]), 421, "{host}");
        }
    }

    #[test]
    fn a_host_that_browsers_never_send_is_no_host() {
        for host in [
            "",
            "a b",
            "user@localhost",
            "localhost@evil.example",
            "[fe80::1%25lo]:1",
            "[fe80::1%lo]",
            "[::1",
            "[::1]x",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "localhost:80:80",
            "localhost,localhost",
            "http://localhost",
            "localhost:+80",
            "localhost:-1",
            "localhost:8\u{660}",
            "localh\u{f6}st",
            "[::1].",
            "[::1]:",
            "[127.0.0.1]",
            "::1",
            "localhost/",
            "localhost\\",
            "localhost%00",
            ".localhost",
            "..localhost",
            ".",
        ] {
            assert_eq!(status(&loopback(), "/", &[("host", host)]), 400, "{host}");
        }
    }

    #[test]
    fn a_body_is_not_read_in_a_transfer_coding_that_nobody_takes_apart() {
        let host = ("host", "localhost");
        let coded = |value| status(&loopback(), "/", &[host, ("transfer-encoding", value)]);
        assert_eq!(coded("chunked"), 200);
        assert_eq!(coded("Chunked"), 200);
        for other in [
            "gzip, chunked",
            "identity",
            "deflate",
            "chunked, chunked",
            "",
        ] {
            assert_eq!(coded(other), 501, "{other}");
        }
    }

    #[test]
    fn a_request_names_one_host_and_no_other() {
        assert_eq!(status(&loopback(), "/", &[]), 400);
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(status(&loopback(), "/", &twice), 400);
        let host = [("host", "localhost")];
        assert_eq!(status(&loopback(), "http://localhost/x", &host), 200);
        assert_eq!(status(&loopback(), "http://evil.example/x", &host), 400);
        let evil = [("host", "evil.example")];
        assert_eq!(status(&loopback(), "http://localhost/x", &evil), 400);
        assert_eq!(status(&loopback(), "http://evil.example/x", &evil), 421);
        assert_eq!(status(&Guard::public(), "http://a.example/", &evil), 400);
        assert_eq!(
            status(&Guard::public(), "/", &[("host", "anything.example")]),
            200
        );
        assert_eq!(status(&Guard::public(), "/", &[("host", "a@b")]), 400);
    }

    #[test]
    fn an_old_program_may_leave_the_host_out_where_any_will_do() {
        let (mut parts, ()) = Request::get("/").body(()).unwrap().into_parts();
        parts.version = Version::HTTP_10;
        assert_eq!(Guard::public().check(&parts), Ok(()));
        assert_eq!(loopback().check(&parts), Err(Refusal::BadHost));
    }

    #[test]
    fn a_page_of_another_origin_gets_nothing() {
        let host = ("host", "127.0.0.1:4040");
        let ask = |name, value| status(&loopback(), "/", &[host, (name, value)]);
        for origin in [
            "http://127.0.0.1:4040",
            "HTTP://127.0.0.1:4040",
            "https://127.0.0.1:4040",
        ] {
            assert_eq!(ask("origin", origin), 200, "{origin}");
        }
        for origin in [
            "http://127.0.0.1:3000",
            "http://localhost:4040",
            "https://evil.example",
            "null",
            "",
            "http://127.0.0.1:4040.evil.example",
            "http://evil.example/http://127.0.0.1:4040",
            "chrome-extension://abcdef",
            "file://",
            "http://127.0.0.1:4040/",
            "http://127.0.0.1:4040#",
            "http://127.0.0.1:4040, https://evil.example",
            "http://u@127.0.0.1:4040",
            "http://127.0.0.1:04040",
            "http:// 127.0.0.1:4040",
            "ws://127.0.0.1:4040",
            "127.0.0.1:4040",
        ] {
            assert_eq!(ask("origin", origin), 403, "{origin}");
        }
        for (site, expected) in [
            ("same-origin", 200),
            ("none", 200),
            ("cross-site", 403),
            ("same-site", 403),
            ("Cross-Site", 403),
            ("", 403),
            ("same-origin, cross-site", 403),
            ("none, cross-site", 403),
            ("Same-Origin", 403),
            ("same_origin", 403),
        ] {
            assert_eq!(ask("sec-fetch-site", site), expected, "{site}");
        }
        let two = [
            host,
            ("origin", "http://127.0.0.1:4040"),
            ("origin", "https://evil.example"),
        ];
        assert_eq!(status(&loopback(), "/", &two), 403);
        let two = [
            host,
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert_eq!(status(&loopback(), "/", &two), 403);
    }

    #[test]
    fn wallets_ask_a_chain_and_pages_do_not() {
        let ask = |origin: &str| {
            let headers = [
                ("host", "localhost:8545"),
                ("origin", origin),
                ("sec-fetch-site", "cross-site"),
            ];
            status(&Guard::wallets(), "/", &headers)
        };
        assert_eq!(
            ask("chrome-extension://nkbihfbeogaeaoehlefnkodbefgpgknn"),
            200
        );
        assert_eq!(ask("moz-extension://1"), 200);
        assert_eq!(ask("https://evil.example"), 403);
        assert_eq!(ask("https://chrome-extension://evil.example"), 403);
        assert_eq!(ask("null"), 403);
    }

    #[test]
    fn beyond_loopback_names_must_be_told() {
        let guard = Guard::household("0.0.0.0:4040".parse().unwrap(), &["hearth.lan".to_owned()]);
        for (host, expected) in [
            ("192.168.1.5:4040", 200),
            ("[fd00::1]:4040", 200),
            ("hearth.lan", 200),
            ("localhost", 200),
            ("evil.example", 421),
            ("0.0.0.0:4040", 421),
            ("tower", 421),
        ] {
            assert_eq!(status(&guard, "/", &[("host", host)]), expected, "{host}");
        }
    }

    #[test]
    fn messages_that_could_be_read_in_two_ways_are_refused_everywhere() {
        let host = ("host", "localhost");
        for guard in [Guard::public(), loopback(), Guard::wallets()] {
            let both = [
                host,
                ("content-length", "3"),
                ("transfer-encoding", "chunked"),
            ];
            assert_eq!(status(&guard, "/", &both), 400);
            assert_eq!(status(&guard, "/", &[host, ("expect", "200-ok")]), 417);
            assert_eq!(
                status(&guard, "/", &[host, ("expect", "100-Continue")]),
                200
            );
            let (mut parts, ()) = Request::get("/").body(()).unwrap().into_parts();
            parts.method = Method::TRACE;
            assert!(matches!(guard.check(&parts), Err(Refusal::Method(_))));
        }
    }
}
