//! Every bound of the embedded chain in one place.
//!
//! A bound is here, rather than beside its use, so that the tables of `docs/spec/05-embedded-chain.md`
//! can be checked against one file. Nothing else in `embedded` may grow without one of these.

/// Gas that all transactions of one block may use together, and so the largest gas limit of a transaction.
pub const BLOCK_GAS_LIMIT: u64 = 100_000_000;
/// Gas that one `eth_call` or `eth_estimateGas` may use; a larger request is lowered to it.
pub const CALL_GAS_CAP: u64 = 50_000_000;
/// Transactions in one block, whatever their gas.
pub const MAX_BLOCK_TRANSACTIONS: usize = 4_096;

/// Bytes of one signed transaction as it arrives (the bound that public clients use).
pub const MAX_TRANSACTION_BYTES: usize = 128 * 1024;
/// Transactions that wait in the pool, of all senders.
pub const MAX_POOL_TRANSACTIONS: usize = 8_192;
/// Bytes of all transactions that wait in the pool.
pub const MAX_POOL_BYTES: usize = 64 * 1024 * 1024;
/// Of those, transactions of senders that the chain does not know: without balance and without a transaction that was
/// mined. Keys cost nothing, so they leave room for the others.
pub const MAX_UNKNOWN_TRANSACTIONS: usize = 4_096;
/// Bytes of the same.
pub const MAX_UNKNOWN_BYTES: usize = 32 * 1024 * 1024;
/// Of all that wait, transactions that wait for a missing nonce; one more takes the place of another.
pub const MAX_GAPPED_TRANSACTIONS: usize = 1_024;
/// Bytes of the same.
pub const MAX_GAPPED_BYTES: usize = 8 * 1024 * 1024;
/// Of those, transactions of one sender.
pub const MAX_SENDER_GAPPED: usize = 16;
/// Time after which a transaction is dropped that waits for a missing nonce.
pub const GAP_EXPIRY_MS: u64 = 10 * 60 * 1_000;
/// How far a nonce may lie ahead of its account's, and so how many transactions of one sender can wait.
pub const MAX_NONCE_AHEAD: u64 = 1_024;
/// Bytes of the transactions of one sender that wait.
pub const MAX_SENDER_BYTES: usize = 8 * 1024 * 1024;
/// Percent by which a replacement must raise both fees of the transaction it replaces.
pub const REPLACEMENT_BUMP_PERCENT: u128 = 10;

/// Commands that wait for the sequencer; a caller beyond it waits in turn.
pub const MAX_QUEUED_COMMANDS: usize = 1_024;
/// Blocks that one `evm_mine` (or `hardhat_mine`, `anvil_mine`) may ask for.
pub const MAX_MINED_BLOCKS: u64 = 1_000;

/// Bytes of one HTTP request body.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Requests in one JSON-RPC batch.
pub const MAX_BATCH_REQUESTS: usize = 100;
/// Bytes of replies in one batch, after which the rest of it is refused.
pub const MAX_BATCH_REPLY_BYTES: usize = 25 * 1024 * 1024;
/// HTTP requests worked on at once; others wait before their body is read.
pub const MAX_CONCURRENT_REQUESTS: usize = 128;
/// Time that a client has to send the body of a request.
pub const BODY_DEADLINE_MS: u64 = 30_000;

/// The longest reply to one call of a visitor, and bytes of replies to a batch of its, after which the rest is refused.
/// Both together are the longest reply that a visitor gets, but for a few bytes.
pub const MAX_VISITOR_REPLY_BYTES: usize = 2 * 1024 * 1024;
/// Gas that one transaction of a visitor may ask for: what a claim of the largest kind takes, and not what fills a disk.
pub const MAX_VISITOR_TRANSACTION_GAS: u64 = 15_000_000;
/// Gas that transactions of visitors may ask for at once, all together.
pub const VISITOR_GAS_BURST: u64 = 600_000_000;
/// Gas that they may ask for each second after that. Each is some bytes of the disk, for good: a few hundred megabytes a
/// day at most.
pub const VISITOR_GAS_PER_S: u64 = 50_000;
/// Time after which no further call of a visitor's batch is begun.
pub const VISITOR_TIME_MS: u64 = 5_000;

/// Logs after which a log query stops (it always finishes the block it is in).
pub const MAX_LOG_RESULTS: usize = 10_000;
/// Blocks that one log query reads or, without an address, passes over.
pub const MAX_LOG_BLOCKS: usize = 10_000;
/// Addresses, and values of one topic position, in one log filter.
pub const MAX_FILTER_TERMS: usize = 256;
/// Filters installed at once.
pub const MAX_FILTERS: usize = 256;
/// Time after which a filter that nobody polls is forgotten.
pub const FILTER_EXPIRY_MS: u64 = 5 * 60 * 1_000;
/// Newest pending transaction hashes kept for filters; a slower poller misses older ones.
pub const MAX_PENDING_FEED: usize = 4_096;
/// Hashes that one poll of a block filter returns; the next poll goes on from there.
pub const MAX_FILTER_HASHES: u64 = 10_000;
/// Blocks that one `eth_feeHistory` describes, as in public clients.
pub const MAX_FEE_HISTORY_BLOCKS: u64 = 1_024;
/// Percentiles that one `eth_feeHistory` may ask for.
pub const MAX_FEE_PERCENTILES: usize = 100;
/// Accounts that one state override may change, and slots of each.
pub const MAX_OVERRIDE_ACCOUNTS: usize = 256;
/// Contracts whose analysed code is kept in memory.
pub const MAX_CACHED_CODES: usize = 1_024;
