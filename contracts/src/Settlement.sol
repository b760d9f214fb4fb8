// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {
    ChannelConfig,
    ChannelState,
    ISettlement,
    ReceiverState,
    VoucherClaim,
    WithdrawalState
} from "./interfaces/ISettlement.sol";
import {IDepositCollector} from "./interfaces/IDepositCollector.sol";
import {ChannelHashing, Domain} from "./libraries/ChannelHashing.sol";
import {ChannelTerms} from "./libraries/ChannelTerms.sol";

/// @title Settlement
/// @notice See `ISettlement`. Has no owner, no immutable and no constructor: its runtime code may be placed at any
/// address by a genesis and is right there.
/// @dev Every state-changing function holds one transient lock, checks first, writes its own storage, and calls a
/// token last; `deposit` alone looks at the token again after its call. `unchecked` stands only where the
/// invariants `totalClaimed <= balance` and `totalSettled <= totalClaimed` of the stored states rule a wrap out.
contract Settlement is ISettlement, IERC5267, Multicall, ReentrancyGuardTransient {
    using ChannelTerms for ChannelConfig;
    using SafeERC20 for IERC20;

    uint40 public constant MIN_WITHDRAW_DELAY = ChannelTerms.MIN_WITHDRAW_DELAY;
    uint40 public constant MAX_WITHDRAW_DELAY = ChannelTerms.MAX_WITHDRAW_DELAY;
    bytes32 public constant CHANNEL_CONFIG_TYPEHASH = ChannelHashing.CHANNEL_CONFIG_TYPEHASH;
    bytes32 public constant VOUCHER_TYPEHASH = ChannelHashing.VOUCHER_TYPEHASH;
    bytes32 public constant REFUND_TYPEHASH = ChannelHashing.REFUND_TYPEHASH;
    bytes32 public constant CLAIM_ENTRY_TYPEHASH = ChannelHashing.CLAIM_ENTRY_TYPEHASH;
    bytes32 public constant CLAIM_BATCH_TYPEHASH = ChannelHashing.CLAIM_BATCH_TYPEHASH;

    mapping(bytes32 channelId => ChannelState) public channels;
    mapping(bytes32 channelId => uint256) public refundNonce;
    mapping(bytes32 channelId => WithdrawalState) public pendingWithdrawals;
    mapping(address receiver => mapping(address token => ReceiverState)) public receivers;

    /// @inheritdoc ISettlement
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external
        nonReentrant
    {
        config.check();
        if (amount == 0) revert ZeroDeposit();
        if (collector == address(0)) revert InvalidCollector();

        bytes32 id = ChannelHashing.current().channelId(config);
        ChannelState storage channel = channels[id];
        uint128 before = channel.balance;
        if (amount > type(uint128).max - before) revert DepositOverflow();
        uint128 newBalance = before + amount;
        channel.balance = newBalance;
        bool isNew = before == 0 && channel.totalClaimed == 0;

        _collect(config, amount, collector, id, collectorData);

        if (isNew) emit ChannelCreated(id, config);
        emit Deposited(id, msg.sender, amount, newBalance);
    }

    /// @inheritdoc ISettlement
    function claim(VoucherClaim[] calldata voucherClaims) external nonReentrant {
        uint256 count = voucherClaims.length;
        if (count == 0) revert EmptyBatch();

        Domain domain = ChannelHashing.current();
        for (uint256 i = 0; i < count; ++i) {
            ChannelConfig calldata config = voucherClaims[i].voucher.channel;
            if (!config.isReceiverSide(msg.sender)) revert NotAuthorizedToClaim();
            _claimRow(domain, domain.channelId(config), voucherClaims[i]);
        }
    }

    /// @inheritdoc ISettlement
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature)
        external
        nonReentrant
    {
        uint256 count = voucherClaims.length;
        if (count == 0) revert EmptyBatch();

        address authorizer = voucherClaims[0].voucher.channel.receiverAuthorizer;
        Domain domain = ChannelHashing.current();
        (bytes32[] memory ids, bytes32[] memory entries) = domain.rows(voucherClaims);
        _checkSignature(authorizer, domain.claimBatch(entries), authorizerSignature);

        for (uint256 i = 0; i < count; ++i) {
            if (voucherClaims[i].voucher.channel.receiverAuthorizer != authorizer) revert NotReceiverAuthorizer();
            _claimRow(domain, ids[i], voucherClaims[i]);
        }
    }

    /// @inheritdoc ISettlement
    function settle(address receiver, address token) external nonReentrant {
        ReceiverState storage earned = receivers[receiver][token];
        uint128 total = earned.totalClaimed;
        uint128 amount;
        unchecked {
            amount = total - earned.totalSettled;
        }
        if (amount == 0) return;

        earned.totalSettled = total;
        IERC20(token).safeTransfer(receiver, amount);
        emit Settled(receiver, token, msg.sender, amount);
    }

    /// @inheritdoc ISettlement
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        if (!config.isPayerSide(msg.sender)) revert InvalidChannel();
        if (amount == 0) revert NothingToWithdraw();

        bytes32 id = ChannelHashing.current().channelId(config);
        WithdrawalState storage pending = pendingWithdrawals[id];
        if (pending.initiatedAt != 0) revert WithdrawalAlreadyPending();
        if (amount > _unclaimed(channels[id])) revert WithdrawAmountExceedsAvailable();

        uint40 initiatedAt = uint40(block.timestamp);
        pending.amount = amount;
        pending.initiatedAt = initiatedAt;
        emit WithdrawInitiated(id, amount, initiatedAt + config.withdrawDelay);
    }

    /// @inheritdoc ISettlement
    function finalizeWithdraw(ChannelConfig calldata config) external nonReentrant {
        if (!config.isPayerSide(msg.sender)) revert NotAuthorizedToFinalizeWithdraw();

        bytes32 id = ChannelHashing.current().channelId(config);
        WithdrawalState storage pending = pendingWithdrawals[id];
        uint256 initiatedAt = pending.initiatedAt;
        if (initiatedAt == 0) revert WithdrawalNotPending();
        if (block.timestamp < initiatedAt + config.withdrawDelay) revert WithdrawDelayNotElapsed();

        ChannelState storage channel = channels[id];
        uint128 amount = _min(pending.amount, _unclaimed(channel));
        delete pendingWithdrawals[id];

        emit WithdrawFinalized(id, msg.sender, amount);
        _payBack(channel, id, config, amount);
    }

    /// @inheritdoc ISettlement
    function refund(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        if (!config.isReceiverSide(msg.sender)) revert NotAuthorizedToRefund();
        _refund(ChannelHashing.current().channelId(config), config, amount);
    }

    /// @inheritdoc ISettlement
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external nonReentrant {
        Domain domain = ChannelHashing.current();
        bytes32 id = domain.channelId(config);
        if (nonce != refundNonce[id]) revert InvalidRefundNonce();
        _checkSignature(config.receiverAuthorizer, domain.refund(id, nonce, amount), receiverAuthorizerSignature);
        _refund(id, config, amount);
    }

    /// @inheritdoc ISettlement
    function getChannelId(ChannelConfig calldata config) external view returns (bytes32) {
        return ChannelHashing.current().channelId(config);
    }

    /// @inheritdoc ISettlement
    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) external view returns (bytes32) {
        return ChannelHashing.current().voucher(channelId, maxClaimableAmount);
    }

    /// @inheritdoc ISettlement
    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) external view returns (bytes32) {
        return ChannelHashing.current().refund(channelId, nonce, amount);
    }

    /// @inheritdoc ISettlement
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) external view returns (bytes32) {
        Domain domain = ChannelHashing.current();
        (, bytes32[] memory entries) = domain.rows(voucherClaims);
        return domain.claimBatch(entries);
    }

    /// @inheritdoc IERC5267
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        // The first four of the possible fields of a domain are used; salt and extensions are not.
        fields = hex"0f";
        (name, version) = (ChannelHashing.NAME, ChannelHashing.VERSION);
        (chainId, verifyingContract) = (block.chainid, address(this));
        (salt, extensions) = (bytes32(0), new uint256[](0));
    }

    /// @dev Pulls a deposit and believes nothing but the token balance of this contract.
    function _collect(
        ChannelConfig calldata config,
        uint128 amount,
        address collector,
        bytes32 id,
        bytes calldata collectorData
    ) private {
        IERC20 token = IERC20(config.token);
        uint256 held = token.balanceOf(address(this));
        IDepositCollector(collector).collect(config.payer, config.token, amount, id, collectorData);
        if (token.balanceOf(address(this)) != held + amount) revert DepositCollectionFailed();
    }

    /// @dev Applies one row; a row that claims nothing new is skipped before its signature is looked at.
    function _claimRow(Domain domain, bytes32 id, VoucherClaim calldata row) private {
        ChannelState storage channel = channels[id];
        uint128 before = channel.totalClaimed;
        uint128 total = row.totalClaimed;
        uint128 ceiling = row.voucher.maxClaimableAmount;
        if (total <= before) return;
        if (total > ceiling) revert ClaimExceedsCeiling();
        if (total > channel.balance) revert ClaimExceedsBalance();

        ChannelConfig calldata config = row.voucher.channel;
        bytes32 digest = domain.voucher(id, ceiling);
        if (config.payerAuthorizer == address(0)) {
            _checkSignature(config.payer, digest, row.signature);
        } else if (ECDSA.recoverCalldata(digest, row.signature) != config.payerAuthorizer) {
            revert InvalidSignature();
        }

        uint128 added;
        unchecked {
            added = total - before;
        }
        channel.totalClaimed = total;
        receivers[config.receiver][config.token].totalClaimed += added;
        emit Claimed(id, msg.sender, added, total);
    }

    /// @dev Uses up a nonce, lowers a pending withdrawal by what is given back, and pays it to the payer.
    function _refund(bytes32 id, ChannelConfig calldata config, uint128 requested) private {
        if (requested == 0) revert ZeroRefund();
        unchecked {
            ++refundNonce[id];
        }

        ChannelState storage channel = channels[id];
        uint128 amount = _min(requested, _unclaimed(channel));
        if (amount == 0) return;

        WithdrawalState storage pending = pendingWithdrawals[id];
        if (pending.initiatedAt != 0) {
            if (amount < pending.amount) pending.amount -= amount;
            else delete pendingWithdrawals[id];
        }

        emit Refunded(id, msg.sender, amount);
        _payBack(channel, id, config, amount);
    }

    /// @dev Takes `amount`, at most what is unclaimed, out of the escrow and sends it to the payer.
    function _payBack(ChannelState storage channel, bytes32 id, ChannelConfig calldata config, uint128 amount)
        private
    {
        uint128 rest = channel.balance - amount;
        channel.balance = rest;
        if (rest == 0 && channel.totalClaimed == 0) emit ChannelClosed(id, config);
        if (amount != 0) IERC20(config.token).safeTransfer(config.payer, amount);
    }

    function _checkSignature(address signer, bytes32 digest, bytes calldata signature) private view {
        if (!SignatureChecker.isValidSignatureNowCalldata(signer, digest, signature)) revert InvalidSignature();
    }

    function _unclaimed(ChannelState storage channel) private view returns (uint128) {
        unchecked {
            return channel.balance - channel.totalClaimed;
        }
    }

    function _min(uint128 a, uint128 b) private pure returns (uint128) {
        return a < b ? a : b;
    }
}
