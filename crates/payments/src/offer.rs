//! What a route costs, in which tokens, by which schemes.

use std::fmt;

use axum::body::Bytes;
pub use hearth_protocol::accepted::{AcceptedAsset, DEPOSIT_CEILINGS, RequestPrice as Price};
use hearth_protocol::id::AssetId;
use hearth_protocol::x402::ResourceInfo;
use http::request::Parts;

/// How a route is priced.
pub trait Pricing: fmt::Debug + Send + Sync + 'static {
    /// Whether the price depends on the request's body, so that it must be read first.
    fn needs_body(&self) -> bool {
        false
    }

    /// What a request costs in `asset`; `None` where it is not sold for that.
    ///
    /// The same request must have the same price when it comes again with the payment. `body` is
    /// empty unless [`Pricing::needs_body`].
    fn price(&self, asset: &AssetId, request: &Parts, body: &Bytes) -> Option<Price>;
}

/// One price for every request, in one token.
#[derive(Debug, Clone)]
pub struct FixedPrice(pub Vec<(AssetId, Price)>);

impl Pricing for FixedPrice {
    fn price(&self, asset: &AssetId, _request: &Parts, _body: &Bytes) -> Option<Price> {
        self.0
            .iter()
            .find(|(priced, _)| priced == asset)
            .map(|(_, price)| *price)
    }
}

/// What a 402 says of the resource.
pub fn resource(base: Option<&str>, request: &Parts, description: Option<&str>) -> ResourceInfo {
    let path = request
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let host = request
        .headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    let url = match (base, host) {
        (Some(base), _) => format!("{}{path}", base.trim_end_matches('/')),
        (None, Some(host)) => format!("http://{host}{path}"),
        (None, None) => path.to_owned(),
    };
    ResourceInfo {
        url,
        description: description.map(str::to_owned),
        mime_type: None,
    }
}
