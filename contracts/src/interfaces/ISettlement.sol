// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @notice The terms of a channel, fixed for its life. Its hash names the channel.
/// @param payer Owner of the escrow: deposits are pulled from here and refunds return here.
/// @param payerAuthorizer Key that signs vouchers; zero means that `payer` itself signs (ERC-1271 allowed).
/// @param receiver Account that settled money is paid to.
/// @param receiverAuthorizer Key that may claim and refund for `receiver`, directly or by signature.
/// @param token The ERC-20 held in escrow.
/// @param withdrawDelay Seconds between asking for a withdrawal and being able to take it.
/// @param salt Makes further channels of the same terms possible.
struct ChannelConfig {
    address payer;
    address payerAuthorizer;
    address receiver;
    address receiverAuthorizer;
    address token;
    uint40 withdrawDelay;
    bytes32 salt;
}

/// @notice Money of one channel, in atomic units. `totalClaimed <= balance` always holds.
/// @param balance Deposited, less refunded and withdrawn. Claims do not lower it.
/// @param totalClaimed Cumulative amount that belongs to the receiver.
struct ChannelState {
    uint128 balance;
    uint128 totalClaimed;
}

/// @notice A withdrawal that waits for its delay.
/// @param amount Atomic units asked for; cut to what is unclaimed when it is taken.
/// @param initiatedAt Unix seconds of the request; zero means that none is pending.
struct WithdrawalState {
    uint128 amount;
    uint40 initiatedAt;
}

/// @notice What one receiver earned in one token over all its channels. `totalSettled <= totalClaimed`.
struct ReceiverState {
    uint128 totalClaimed;
    uint128 totalSettled;
}

/// @notice The payer's promise: at most `maxClaimableAmount` in total may be claimed from `channel`.
struct Voucher {
    ChannelConfig channel;
    uint128 maxClaimableAmount;
}

/// @notice A voucher, the payer's signature over it, and the cumulative total that the receiver claims.
struct VoucherClaim {
    Voucher voucher;
    bytes signature;
    uint128 totalClaimed;
}

/// @title One-way payment channels in any ERC-20, settled in batches
/// @notice A payer escrows tokens for one receiver, signs cumulative vouchers off chain, and the receiver claims
/// whenever it likes. ABI, EIP-712 domain and meaning are those of the x402 `batch-settlement` contract, so that
/// every x402 client can pay through it.
/// @dev There is no owner, fee, pause or upgrade. Amounts are atomic units of the channel's token.
interface ISettlement {
    /// @notice The first money of a channel without history arrived.
    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);

    /// @notice The escrow is empty again and nothing was ever claimed from it.
    event ChannelClosed(bytes32 indexed channelId, ChannelConfig config);

    /// @notice `amount` entered the escrow.
    event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);

    /// @notice `claimAmount` more of the escrow belongs to the receiver.
    event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed);

    /// @notice Claimed money was paid out.
    event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);

    /// @notice The receiver's side gave unclaimed money back to the payer.
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);

    /// @notice The payer's side asked for unclaimed money; it can be taken from `finalizeAfter` (Unix seconds) on.
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter);

    /// @notice A withdrawal was taken; `amount` may be less than was asked for.
    event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount);

    /// @notice Payer, receiver, receiver's authorizer or token is zero; or a stranger asks for a withdrawal.
    error InvalidChannel();
    /// @notice A deposit must be above zero.
    error ZeroDeposit();
    /// @notice The escrow would pass 2^128 - 1.
    error DepositOverflow();
    /// @notice The signature is not by the key that the channel names.
    error InvalidSignature();
    /// @notice A row of a signed batch names another authorizer than the first row.
    error NotReceiverAuthorizer();
    /// @notice The sender is neither receiver nor receiver's authorizer of each row.
    error NotAuthorizedToClaim();
    /// @notice The sender is neither receiver nor receiver's authorizer.
    error NotAuthorizedToRefund();
    /// @notice More is claimed than the voucher promises.
    error ClaimExceedsCeiling();
    /// @notice More is claimed than the escrow holds, for example after a withdrawal.
    error ClaimExceedsBalance();
    /// @notice One withdrawal at a time.
    error WithdrawalAlreadyPending();
    /// @notice No withdrawal was asked for.
    error WithdrawalNotPending();
    /// @notice The sender is neither payer nor payer's authorizer.
    error NotAuthorizedToFinalizeWithdraw();
    /// @notice The receiver still has time to claim.
    error WithdrawDelayNotElapsed();
    /// @notice A withdrawal must be above zero.
    error NothingToWithdraw();
    /// @notice More is asked for than is unclaimed.
    error WithdrawAmountExceedsAvailable();
    /// @notice The delay is outside `MIN_WITHDRAW_DELAY ..= MAX_WITHDRAW_DELAY`.
    error WithdrawDelayOutOfRange();
    /// @notice A batch needs a row.
    error EmptyBatch();
    /// @notice The collector did not deliver exactly the amount (a fee on transfer, for example).
    error DepositCollectionFailed();
    /// @notice The collector is the zero address.
    error InvalidCollector();
    /// @notice The refund was signed for another nonce; sign again for `refundNonce(channelId)`.
    error InvalidRefundNonce();
    /// @notice A refund must be above zero.
    error ZeroRefund();

    /// @notice Adds `amount` to a channel. The collector pulls it from the payer with whatever authority
    /// `collectorData` carries; the contract believes only its own token balance.
    /// @dev Anyone may send it: the payer's signature is in `collectorData`, so a payer needs no native coin.
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external;

    /// @notice Claims a batch of vouchers. The sender must be on the receiver's side of every row.
    /// @dev A row whose total is not above what was claimed already changes nothing; any other bad row reverts all.
    function claim(VoucherClaim[] calldata voucherClaims) external;

    /// @notice Claims a batch that the receivers' authorizer signed as `ClaimBatch`. Anyone may send it.
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature) external;

    /// @notice Pays what `receiver` claimed in `token` and was not yet paid. Anyone may send it; no-op when nothing is due.
    function settle(address receiver, address token) external;

    /// @notice Starts the delay after which the payer's side may take `amount` of unclaimed money.
    /// @dev Vouchers that are not claimed yet reserve nothing: a receiver must claim inside the delay.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Takes a pending withdrawal, cut to what is unclaimed now, and sends it to the payer.
    function finalizeWithdraw(ChannelConfig calldata config) external;

    /// @notice Gives unclaimed money back to the payer, at most `amount`. For the receiver's side.
    /// @dev Uses up one refund nonce, even where nothing is left to give back.
    function refund(ChannelConfig calldata config, uint128 amount) external;

    /// @notice As `refund`, on a `Refund` signed by the receiver's authorizer. Anyone may send it.
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external;

    /// @notice Shortest delay of a withdrawal, in seconds.
    function MIN_WITHDRAW_DELAY() external view returns (uint40);
    /// @notice Longest delay of a withdrawal, in seconds.
    function MAX_WITHDRAW_DELAY() external view returns (uint40);
    /// @notice EIP-712 type hash of `ChannelConfig`.
    function CHANNEL_CONFIG_TYPEHASH() external view returns (bytes32);
    /// @notice EIP-712 type hash of `Voucher`.
    function VOUCHER_TYPEHASH() external view returns (bytes32);
    /// @notice EIP-712 type hash of `Refund`.
    function REFUND_TYPEHASH() external view returns (bytes32);
    /// @notice EIP-712 type hash of `ClaimEntry`, a row of a `ClaimBatch`.
    function CLAIM_ENTRY_TYPEHASH() external view returns (bytes32);
    /// @notice EIP-712 type hash of `ClaimBatch`.
    function CLAIM_BATCH_TYPEHASH() external view returns (bytes32);

    /// @notice Money of a channel.
    function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed);
    /// @notice Number that the next signed refund of a channel must carry.
    function refundNonce(bytes32 channelId) external view returns (uint256);
    /// @notice The pending withdrawal of a channel.
    function pendingWithdrawals(bytes32 channelId) external view returns (uint128 amount, uint40 initiatedAt);
    /// @notice What a receiver claimed and was paid in a token.
    function receivers(address receiver, address token)
        external
        view
        returns (uint128 totalClaimed, uint128 totalSettled);

    /// @notice Name of a channel: the EIP-712 digest of its configuration, so that it differs per chain and contract.
    function getChannelId(ChannelConfig calldata config) external view returns (bytes32);
    /// @notice Digest that the payer's side signs for a voucher.
    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) external view returns (bytes32);
    /// @notice Digest that the receiver's authorizer signs for a refund.
    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) external view returns (bytes32);
    /// @notice Digest that the receivers' authorizer signs for a batch of claims.
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) external view returns (bytes32);
}
