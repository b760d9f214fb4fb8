//! Log queries and filters.
//!
//! One scan serves both. It reads only blocks that can match: those that the address index names, or, without an
//! address, those whose bloom allows it. It stops at a bound and says where it stopped; a query turns that into an error
//! which names a range that works, a filter into the place where its next poll goes on.

use std::collections::BTreeSet;

use alloy_primitives::{B256, U256};
use alloy_rpc_types_eth::{Filter, FilterBlockOption, FilterChanges, Log};
use serde_json::Value;

use super::blocks::rpc_logs;
use super::params::{Params, resolve_tag};
use super::reply;
use crate::embedded::filters::Kind;
use crate::embedded::limits::{
    MAX_FILTER_HASHES, MAX_FILTER_TERMS, MAX_LOG_BLOCKS, MAX_LOG_RESULTS,
};
use crate::embedded::store::{Snapshot, StoreError};
use crate::embedded::{Embedded, RpcError};

/// Logs of the blocks before `next_block`.
struct Page {
    logs: Vec<Log>,
    next_block: u64,
}

pub(super) fn logs(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    reply(query(chain, &filter_param(params)?)?)
}

fn filter_param(params: &Params) -> Result<Filter, RpcError> {
    let filter: Filter = params.required(0, "filter")?;
    if filter.address.len() > MAX_FILTER_TERMS
        || filter
            .topics
            .iter()
            .any(|topic| topic.len() > MAX_FILTER_TERMS)
    {
        let text = format!(
            "invalid argument 0 (filter): at most {MAX_FILTER_TERMS} addresses and values of one topic"
        );
        return Err(RpcError::invalid_params(text));
    }
    Ok(filter)
}

fn query(chain: &Embedded, filter: &Filter) -> Result<Vec<Log>, RpcError> {
    let head = chain.shared().head()?;
    let newest = head.head().number;
    let (from, to) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let number = head
                .block_number(hash)?
                .ok_or_else(|| RpcError::rejected("unknown block"))?;
            (number, number)
        }
        FilterBlockOption::Range {
            from_block,
            to_block,
        } => {
            let number = |tag: Option<_>| tag.map_or(newest, |tag| resolve_tag(newest, tag));
            (number(from_block), number(to_block))
        }
    };
    if from > to {
        return Err(RpcError::invalid_params(
            "invalid block range: fromBlock is after toBlock",
        ));
    }
    // What is not there yet has no logs yet: an empty list would say that it has none.
    if from.max(to) > newest {
        return Err(RpcError::invalid_params(format!(
            "block range extends beyond current head block {newest:#x}: ask up to \"latest\", or later"
        )));
    }
    let page = scan(&head, filter, from, to)?;
    if page.next_block <= to {
        return Err(RpcError::limit_exceeded(format!(
            "query exceeds {MAX_LOG_RESULTS} logs or {MAX_LOG_BLOCKS} blocks: ask for fromBlock {from:#x} to toBlock {:#x} \
             first, and go on from there",
            page.next_block.saturating_sub(1)
        )));
    }
    Ok(page.logs)
}

/// Matching logs of blocks `from..=to` until a bound is met; the block in which it is met is finished.
fn scan(head: &Snapshot, filter: &Filter, from: u64, to: u64) -> Result<Page, StoreError> {
    let mut page = Page {
        logs: Vec::new(),
        next_block: from,
    };
    let (candidates, end) = candidates(head, filter, from, to)?;
    for number in candidates {
        if page.logs.len() >= MAX_LOG_RESULTS {
            return Ok(page);
        }
        scan_block(head, filter, number, &mut page.logs)?;
        page.next_block = number.saturating_add(1);
    }
    page.next_block = end;
    Ok(page)
}

/// Blocks of `from..=to` that may hold a match, and the block before which they are all.
fn candidates(
    head: &Snapshot,
    filter: &Filter,
    from: u64,
    to: u64,
) -> Result<(BTreeSet<u64>, u64), StoreError> {
    let bound = MAX_LOG_BLOCKS as u64;
    if from > to {
        return Ok((BTreeSet::new(), from));
    }
    if filter.address.is_empty() {
        let end = to.saturating_add(1).min(from.saturating_add(bound));
        return Ok(((from..end).collect(), end));
    }
    let mut blocks = BTreeSet::new();
    for address in filter.address.iter() {
        blocks.extend(head.log_blocks(*address, from..=to, MAX_LOG_BLOCKS.saturating_add(1))?);
    }
    match blocks.iter().nth(MAX_LOG_BLOCKS).copied() {
        Some(first_left_out) => {
            blocks.split_off(&first_left_out);
            Ok((blocks, first_left_out))
        }
        None => Ok((blocks, to.saturating_add(1))),
    }
}

fn scan_block(
    head: &Snapshot,
    filter: &Filter,
    number: u64,
    logs: &mut Vec<Log>,
) -> Result<(), StoreError> {
    let header = head
        .header(number)?
        .ok_or(StoreError::Damaged { table: "headers" })?;
    if !filter.matches_bloom(header.logs_bloom) {
        return Ok(());
    }
    for (index, mined) in (0..).zip(head.transactions(number)?) {
        if !mined.logs.iter().any(|log| filter.matches(log)) {
            continue;
        }
        let hash = alloy_primitives::keccak256(&mined.raw);
        logs.extend(
            rpc_logs(&header, index, hash, &mined)
                .into_iter()
                .filter(|log| filter.matches(&log.inner)),
        );
    }
    Ok(())
}

pub(super) fn new_filter(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let filter = filter_param(params)?;
    let newest = chain.block_number()?;
    let next_block = match filter.block_option {
        FilterBlockOption::Range {
            from_block: Some(from),
            ..
        } => resolve_tag(newest.saturating_add(1), from).max(newest.saturating_add(1)),
        FilterBlockOption::Range { .. } => newest.saturating_add(1),
        FilterBlockOption::AtBlockHash(_) => {
            return Err(RpcError::invalid_params(
                "a filter cannot be bound to one block; use eth_getLogs",
            ));
        }
    };
    install(
        chain,
        Kind::Logs {
            filter: Box::new(filter),
            next_block,
        },
    )
}

pub(super) fn new_block_filter(chain: &Embedded) -> Result<Value, RpcError> {
    let next_block = chain.block_number()?.saturating_add(1);
    install(chain, Kind::Blocks { next_block })
}

pub(super) fn new_pending_filter(chain: &Embedded) -> Result<Value, RpcError> {
    let next = chain.shared().feed().next();
    install(chain, Kind::Pending { next })
}

fn install(chain: &Embedded, kind: Kind) -> Result<Value, RpcError> {
    let environment = chain.shared().environment();
    let id: [u8; 16] = environment
        .draw()
        .map_err(|error| RpcError::new(RpcError::INTERNAL, error.to_string()))?;
    let id = U256::from_be_slice(&id);
    chain.filters().install(id, kind, environment.now_ms())?;
    reply(id)
}

pub(super) fn uninstall(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let id = params.required(0, "filter id")?;
    reply(chain.filters().uninstall(id))
}

pub(super) fn filter_changes(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let id: U256 = params.required(0, "filter id")?;
    let kind = chain
        .filters()
        .poll(id, chain.shared().environment().now_ms())?;
    let (changes, kind) = changes(chain, kind)?;
    chain.filters().advance(id, kind);
    reply(changes)
}

/// What a filter reports now, and the filter after that.
fn changes(chain: &Embedded, kind: Kind) -> Result<(FilterChanges, Kind), RpcError> {
    let head = chain.shared().head()?;
    let newest = head.head().number;
    match kind {
        Kind::Logs { filter, next_block } => {
            let last = match filter.block_option {
                FilterBlockOption::Range {
                    to_block: Some(to), ..
                } => resolve_tag(newest, to).min(newest),
                _ => newest,
            };
            let page = scan(&head, &filter, next_block, last)?;
            Ok((
                FilterChanges::Logs(page.logs),
                Kind::Logs {
                    filter,
                    next_block: page.next_block,
                },
            ))
        }
        Kind::Blocks { next_block } => {
            let end = newest
                .saturating_add(1)
                .min(next_block.saturating_add(MAX_FILTER_HASHES));
            let hashes = block_hashes(&head, next_block, end)?;
            Ok((
                FilterChanges::Hashes(hashes),
                Kind::Blocks {
                    next_block: end.max(next_block),
                },
            ))
        }
        Kind::Pending { next } => {
            let feed = chain.shared().feed();
            Ok((
                FilterChanges::Hashes(feed.since(next)),
                Kind::Pending { next: feed.next() },
            ))
        }
    }
}

fn block_hashes(head: &Snapshot, from: u64, end: u64) -> Result<Vec<B256>, StoreError> {
    (from..end)
        .map(|number| {
            Ok(head
                .header(number)?
                .ok_or(StoreError::Damaged { table: "headers" })?
                .hash())
        })
        .collect()
}

pub(super) fn filter_logs(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let id: U256 = params.required(0, "filter id")?;
    match chain
        .filters()
        .poll(id, chain.shared().environment().now_ms())?
    {
        Kind::Logs { filter, .. } => reply(query(chain, &filter)?),
        Kind::Blocks { .. } | Kind::Pending { .. } => Err(RpcError::rejected(
            "filter not found: it is not a log filter; poll it with eth_getFilterChanges",
        )),
    }
}
