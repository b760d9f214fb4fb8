//! The iroh endpoint of a device: its key, sockets, relays and address lookups.
//!
//! Nothing is taken from iroh's presets for public use: no relay and no lookup that the options do
//! not name. What is left of iroh's defaults is asking nobody.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use hearth_protocol::offer::DeviceId;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::address_lookup::{DnsAddressLookup, PkarrPublisher};
use iroh::endpoint::{
    Builder, IdleTimeout, PortmapperConfig, QuicTransportConfig, VarInt, presets,
};
use iroh::{Endpoint, RelayMode, RelayUrl, SecretKey};
use iroh_mainline_address_lookup::DhtAddressLookup;
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use tracing::warn;

use crate::admission::Admission;
use crate::limits::{
    CONNECTION_SILENCE_MAX, CONNECTION_STREAMS_MAX, CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL,
    STREAM_WINDOW_BYTES,
};
use crate::network::OpenError;
use crate::options::{NetworkOptions, Reach};
use crate::peers::{PeerAddress, parse_relay};

/// An endpoint, and what it was built with that others need.
pub(crate) struct Bound {
    pub(crate) endpoint: Endpoint,
    pub(crate) lookup: MemoryLookup,
    /// Devices found on the local network.
    pub(crate) discovered: BoxStream<'static, PeerAddress>,
}

/// How QUIC is spoken, with a sign of life every so often.
pub(crate) fn transport(keep_alive: Duration) -> QuicTransportConfig {
    let silence = IdleTimeout::try_from(CONNECTION_SILENCE_MAX).ok();
    QuicTransportConfig::builder()
        .max_idle_timeout(silence)
        .keep_alive_interval(keep_alive)
        .max_concurrent_bidi_streams(VarInt::from_u32(CONNECTION_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .build()
}

/// The device whose endpoint has this secret key.
pub fn device_of_key(secret_key: &[u8; 32]) -> DeviceId {
    DeviceId(*SecretKey::from_bytes(secret_key).public().as_bytes())
}

/// Binds an endpoint by the options.
pub(crate) async fn bind(
    options: &NetworkOptions,
    admission: Admission,
) -> Result<Bound, OpenError> {
    let lookup = MemoryLookup::new();
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&options.secret_key))
        .transport_config(transport(KEEP_ALIVE_INTERVAL))
        .hooks(admission)
        .clear_address_lookup()
        .address_lookup(lookup.clone())
        .relay_mode(relays(options)?)
        .portmapper_config(if options.map_ports {
            PortmapperConfig::default()
        } else {
            PortmapperConfig::Disabled
        })
        .clear_ip_transports();
    if !options.relay_only {
        builder = bind_sockets(builder, options)?;
    }
    builder = lookups(builder, options);
    let endpoint = builder
        .bind()
        .await
        .map_err(|error| OpenError::Bind(format!("{error:#}")))?;
    let discovered = match options.reach {
        Reach::Loopback => stream::pending().boxed(),
        Reach::Local | Reach::World => discover(&endpoint, &options.membership.service()).await,
    };
    Ok(Bound {
        endpoint,
        lookup,
        discovered,
    })
}

fn relays(options: &NetworkOptions) -> Result<RelayMode, OpenError> {
    if options.relays.is_empty() {
        return Ok(RelayMode::Disabled);
    }
    let checked = options.relays.iter().map(|url| {
        let url = parse_relay(url.as_str()).ok_or_else(|| OpenError::Relay(url.to_string()))?;
        Ok(RelayUrl::from(url))
    });
    let urls: Vec<RelayUrl> = checked.collect::<Result<_, OpenError>>()?;
    Ok(RelayMode::custom(urls))
}

fn bind_sockets(builder: Builder, options: &NetworkOptions) -> Result<Builder, OpenError> {
    options
        .binds()
        .into_iter()
        .try_fold(builder, |builder, address| {
            // Without IPv6 on the machine, IPv4 is enough; what the household named is required.
            let required = !options.bind.is_empty() || address.is_ipv4();
            let opts = iroh::endpoint::BindOpts::default().set_is_required(required);
            builder
                .bind_addr_with_opts(address, opts)
                .map_err(|error| OpenError::Bind(format!("{address}: {error:#}")))
        })
}

fn lookups(mut builder: Builder, options: &NetworkOptions) -> Builder {
    if options.reach != Reach::World {
        return builder;
    }
    if options.dht {
        builder = builder.address_lookup(DhtAddressLookup::builder());
    }
    if let Some(origin) = &options.dns_origin {
        builder = builder.address_lookup(DnsAddressLookup::builder(origin.clone()));
    }
    if let Some(relay) = &options.pkarr_relay {
        builder = builder.address_lookup(PkarrPublisher::builder(relay.clone()));
    }
    builder
}

/// Begins to look for devices on the local network. Where multicast is not permitted (some
/// containers), devices still find each other by ticket.
async fn discover(endpoint: &Endpoint, service: &str) -> BoxStream<'static, PeerAddress> {
    let mdns = MdnsAddressLookup::builder()
        .service_name(service)
        .build(endpoint.id());
    let (mdns, lookups) = match (mdns, endpoint.address_lookup()) {
        (Ok(mdns), Ok(lookups)) => (mdns, lookups),
        (mdns, _) => {
            let error = mdns.err().map(|error| format!("{error:#}"));
            warn!(
                ?error,
                "devices on the local network are not found by themselves"
            );
            return stream::pending().boxed();
        }
    };
    let events = mdns.subscribe().await;
    lookups.add(mdns);
    let found = events.filter_map(|event| async move {
        match event {
            DiscoveryEvent::Discovered { endpoint_info, .. } => {
                let address = PeerAddress::from_iroh(&endpoint_info.into_endpoint_addr());
                address.is_sound().then_some(address)
            }
            _ => None,
        }
    });
    found.chain(stream::pending()).boxed()
}
