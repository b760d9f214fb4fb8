//! The iroh endpoint of a device: its key, sockets, relays and address lookups.
//!
//! Nothing is taken from iroh's presets for public use: no relay and no lookup that the options do
//! not name. What is left of iroh's defaults is asking nobody.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use hearth_causes::WithCauses;
use hearth_protocol::offer::DeviceId;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::address_lookup::{AddressLookupBuilder as _, DnsAddressLookup, PkarrPublisher};
use iroh::endpoint::{
    Builder, IdleTimeout, PortmapperConfig, QuicTransportConfig, VarInt, presets,
};
use iroh::{Endpoint, RelayMode, RelayUrl, SecretKey};
use iroh_mainline_address_lookup::DhtAddressLookup;
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use tracing::warn;

use crate::admission::Admission;
use crate::dialing::{Dialing, Permitted, Teller};
use crate::limits::{
    CONNECTION_SILENCE_MAX, CONNECTION_STREAMS_MAX, CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL,
    STREAM_WINDOW_BYTES,
};
use crate::opening::OpenError;
use crate::options::{NetworkOptions, Reach};
use crate::peers::{PeerAddress, parse_relay};
use crate::ports;

/// An endpoint, and what it was built with that others need.
pub(crate) struct Bound {
    pub(crate) endpoint: Endpoint,
    pub(crate) lookup: MemoryLookup,
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

/// Binds an endpoint by the options: on the ports of the last time where the owner named none and
/// they are free.
pub(crate) async fn bind(
    options: &NetworkOptions,
    admission: Admission,
) -> Result<Bound, OpenError> {
    let wanted = options.binds();
    let last = options.ports_file.as_deref().map(ports::last);
    let again = ports::with_last(&wanted, &last.unwrap_or_default());
    let bound = match bind_at(options, admission.clone(), &again).await {
        Err(OpenError::Bind(reason)) if again != wanted => {
            warn!(%reason, "the last ports are taken: devices that know them find this one by its offers");
            bind_at(options, admission, &wanted).await
        }
        bound => bound,
    }?;
    if let Some(path) = &options.ports_file
        && let Err(error) = ports::remember(path, &bound.endpoint.bound_sockets())
    {
        warn!(error = %error.with_causes(), "the ports are not remembered");
    }
    Ok(bound)
}

async fn bind_at(
    options: &NetworkOptions,
    admission: Admission,
    addresses: &[SocketAddr],
) -> Result<Bound, OpenError> {
    let lookup = MemoryLookup::new();
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&options.secret_key))
        .transport_config(transport(KEEP_ALIVE_INTERVAL))
        .hooks(admission)
        .clear_address_lookup()
        .relay_mode(relays(options)?)
        .portmapper_config(if options.map_ports {
            PortmapperConfig::default()
        } else {
            PortmapperConfig::Disabled
        })
        .clear_ip_transports();
    if !options.relay_only {
        builder = bind_sockets(builder, options, addresses)?;
    }
    let endpoint = builder
        .bind()
        .await
        .map_err(|error| OpenError::Bind(error.with_causes().to_string()))?;
    Ok(Bound { endpoint, lookup })
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

fn bind_sockets(
    builder: Builder,
    options: &NetworkOptions,
    addresses: &[SocketAddr],
) -> Result<Builder, OpenError> {
    addresses.iter().try_fold(builder, |builder, address| {
        // Without IPv6 on the machine, IPv4 is enough; what the household named is required.
        let required = !options.bind.is_empty() || address.is_ipv4();
        let opts = iroh::endpoint::BindOpts::default().set_is_required(required);
        builder
            .bind_addr_with_opts(*address, opts)
            .map_err(|error| OpenError::Bind(format!("{address}: {}", error.with_causes())))
    })
}

/// Has the endpoint look devices up where the options say, and in nothing else: gossip adds a
/// lookup of what neighbours say of third devices, which nobody signed. Returns the devices that are
/// found on the local network.
pub(crate) async fn look_up(
    bound: &Bound,
    options: &NetworkOptions,
    dialing: &Arc<Dialing>,
) -> Result<BoxStream<'static, PeerAddress>, OpenError> {
    let endpoint = &bound.endpoint;
    let failed = |error: &dyn Error| OpenError::Bind(error.with_causes().to_string());
    let lookups = endpoint.address_lookup().map_err(|error| failed(&error))?;
    lookups.clear();
    lookups.add(bound.lookup.clone());
    if options.reach == Reach::World {
        let stranger = Teller::Stranger;
        if options.dht {
            let dht = DhtAddressLookup::builder().into_address_lookup(endpoint);
            let dht = dht.map_err(|error| failed(&error))?;
            lookups.add(permitted(dht, dialing, stranger));
        }
        if let Some(origin) = &options.dns_origin {
            let dns = DnsAddressLookup::builder(origin.clone()).into_address_lookup(endpoint);
            let dns = dns.map_err(|error| failed(&error))?;
            lookups.add(permitted(dns, dialing, stranger));
        }
        if let Some(relay) = &options.pkarr_relay {
            let pkarr = PkarrPublisher::builder(relay.clone()).into_address_lookup(endpoint);
            lookups.add(pkarr.map_err(|error| failed(&error))?);
        }
    }
    let discovered = match options.reach {
        Reach::Loopback => stream::pending().boxed(),
        Reach::Local | Reach::World => {
            discover(endpoint, &options.membership.service(), dialing).await
        }
    };
    Ok(discovered)
}

fn permitted<L>(inner: L, dialing: &Arc<Dialing>, teller: Teller) -> Permitted<L> {
    Permitted {
        inner,
        dialing: dialing.clone(),
        teller,
    }
}

/// Begins to look for devices on the local network. Where multicast is not permitted (some
/// containers), devices still find each other by ticket.
async fn discover(
    endpoint: &Endpoint,
    service: &str,
    dialing: &Arc<Dialing>,
) -> BoxStream<'static, PeerAddress> {
    let mdns = MdnsAddressLookup::builder()
        .service_name(service)
        .build(endpoint.id());
    let (mdns, lookups) = match (mdns, endpoint.address_lookup()) {
        (Ok(mdns), Ok(lookups)) => (mdns, lookups),
        (mdns, _) => {
            let reason = mdns.err().map(|error| error.with_causes().to_string());
            warn!(
                ?reason,
                "devices on the local network are not found by themselves"
            );
            return stream::pending().boxed();
        }
    };
    let events = mdns.subscribe().await;
    lookups.add(permitted(mdns, dialing, Teller::LocalNetwork));
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
