//! Filters that clients install and poll.
//!
//! A filter is a cursor: polling returns what lies between it and the head and moves it there. It lives in
//! memory only, so after a restart clients get "filter not found" and install it again, as with public
//! clients. Ids are random, so that an id from before a restart meets no other client's filter.

use std::collections::BTreeMap;

use alloy_primitives::U256;
use alloy_rpc_types_eth::Filter;

use super::error::RpcError;
use super::limits::{FILTER_EXPIRY_MS, MAX_FILTERS};

/// What a filter reports, and from where on.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Logs {
        filter: Box<Filter>,
        next_block: u64,
    },
    Blocks {
        next_block: u64,
    },
    Pending {
        next: u64,
    },
}

#[derive(Debug)]
struct Installed {
    kind: Kind,
    polled_ms: u64,
}

/// All installed filters.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    installed: BTreeMap<U256, Installed>,
}

impl Filters {
    /// Installs a filter under `id`, first forgetting those that nobody polls.
    pub(crate) fn install(&mut self, id: U256, kind: Kind, now_ms: u64) -> Result<(), RpcError> {
        self.installed
            .retain(|_, installed| now_ms.saturating_sub(installed.polled_ms) < FILTER_EXPIRY_MS);
        if self.installed.len() >= MAX_FILTERS {
            return Err(RpcError::limit_exceeded(format!(
                "{MAX_FILTERS} filters are installed; uninstall some with eth_uninstallFilter"
            )));
        }
        self.installed.insert(
            id,
            Installed {
                kind,
                polled_ms: now_ms,
            },
        );
        Ok(())
    }

    /// The filter as it stands, which counts as a poll.
    pub(crate) fn poll(&mut self, id: U256, now_ms: u64) -> Result<Kind, RpcError> {
        let installed = self.installed.get_mut(&id);
        let installed = installed
            .filter(|installed| now_ms.saturating_sub(installed.polled_ms) < FILTER_EXPIRY_MS);
        let installed = installed.ok_or_else(not_found)?;
        installed.polled_ms = now_ms;
        Ok(installed.kind.clone())
    }

    /// Moves a filter's cursor after a poll; nothing if it was uninstalled meanwhile.
    pub(crate) fn advance(&mut self, id: U256, kind: Kind) {
        if let Some(installed) = self.installed.get_mut(&id) {
            installed.kind = kind;
        }
    }

    /// Whether there was such a filter.
    pub(crate) fn uninstall(&mut self, id: U256) -> bool {
        self.installed.remove(&id).is_some()
    }
}

fn not_found() -> RpcError {
    RpcError::rejected("filter not found: it expired, or the chain was restarted; install it again")
}
