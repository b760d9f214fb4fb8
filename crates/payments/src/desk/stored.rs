//! A channel as the store has it.

use hearth_protocol::channel::provider::{ProviderRecord, Spread};
use hearth_protocol::id::ChainId;
use serde::{Deserialize, Deserializer, Serialize};

use crate::store::Table;

/// The channels on which this node is paid, by channel id.
pub const PROVIDER_CHANNELS: Table<StoredChannel> = Table::own("provider_channels");

/// A channel as it stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "WrittenChannel", into = "WrittenChannel")]
pub struct StoredChannel {
    /// The chain that the channel is on.
    pub chain: ChainId,
    /// What must not be forgotten.
    pub record: ProviderRecord,
    /// Which run of the node wrote it: one that read its own writing need not doubt it.
    pub(super) saved_by: u64,
}

/// How a channel is written: what came later than the first version stands at the end.
#[derive(Serialize, Deserialize)]
struct WrittenChannel {
    chain: ChainId,
    record: ProviderRecord,
    saved_by: u64,
    #[serde(deserialize_with = "none_at_the_end")]
    spread: Spread,
}

/// Reads what an older version did not write as nothing.
fn none_at_the_end<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spread, D::Error> {
    Ok(Spread::deserialize(deserializer).unwrap_or_default())
}

impl From<WrittenChannel> for StoredChannel {
    fn from(written: WrittenChannel) -> Self {
        let WrittenChannel {
            chain,
            mut record,
            saved_by,
            spread,
        } = written;
        record.spread = spread;
        Self {
            chain,
            record,
            saved_by,
        }
    }
}

impl From<StoredChannel> for WrittenChannel {
    fn from(stored: StoredChannel) -> Self {
        let StoredChannel {
            chain,
            mut record,
            saved_by,
        } = stored;
        let spread = std::mem::take(&mut record.spread);
        Self {
            chain,
            record,
            saved_by,
            spread,
        }
    }
}
