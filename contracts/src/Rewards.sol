// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {Ember} from "./Ember.sol";
import {IDevices} from "./interfaces/IDevices.sol";
import {Account, EpochRecord, IRewards} from "./interfaces/IRewards.sol";
import {IValidators} from "./interfaces/IValidators.sol";
import {IVoice} from "./interfaces/IVoice.sol";
import {Emission} from "./libraries/Emission.sol";
import {Growth} from "./libraries/Growth.sol";
import {Statements} from "./libraries/Statements.sol";
import {Leaf, Node, Path, SumTree} from "./libraries/SumTree.sol";

/// @title Rewards
/// @notice See `IRewards`. The only minter of Ember and of Voice.
contract Rewards is IRewards, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SumTree for Node;
    using SumTree for Path;

    /// @inheritdoc IRewards
    uint64 public constant WINDOW_MAX_S = 7 days;
    /// @inheritdoc IRewards
    uint64 public constant CARRIED_EPOCHS = 7;
    /// @inheritdoc IRewards
    uint64 public constant NO_BASE = type(uint64).max;

    Ember public immutable ember;
    IVoice public immutable voice;
    IDevices public immutable devices;
    IValidators public immutable validators;
    /// @inheritdoc IRewards
    uint64 public immutable WINDOW_S;

    mapping(address asset => mapping(uint64 epoch => EpochRecord)) private _records;
    mapping(address asset => Account) private _accounts;
    /// @inheritdoc IRewards
    mapping(address asset => mapping(address account => uint256)) public claimed;

    constructor(Ember ember_, IVoice voice_, IDevices devices_, IValidators validators_, uint64 window_s) {
        if (window_s == 0 || window_s > WINDOW_MAX_S) revert InvalidWindow(window_s);
        (ember, voice, devices, validators, WINDOW_S) = (ember_, voice_, devices_, validators_, window_s);
    }

    /// @inheritdoc IRewards
    function record(
        address asset,
        uint64 epoch,
        uint64 base,
        bytes32 root,
        uint256 total,
        bytes32 data,
        uint32 mask,
        bytes calldata signatures
    ) external nonReentrant {
        if (validators.epochAt(block.timestamp) <= epoch) revert EpochNotOver(epoch);
        EpochRecord storage found = _records[asset][epoch];
        if (found.recordedAt != 0) revert RecordExists(epoch);
        uint256 used = _checkTotal(asset, epoch, base, total);

        found.root = root;
        found.total = SafeCast.toUint128(total);
        found.used = SafeCast.toUint128(used);
        (found.recordedAt, found.base) = (uint64(block.timestamp), base);
        emit Recorded(asset, epoch, root, total, data, mask);
        bytes32 content = contentOf(asset, epoch, root, total, data);
        validators.check(epoch + 1, bytes32(0), topicOf(asset), epoch, content, mask, signatures);
    }

    /// @inheritdoc IRewards
    function claim(address asset, uint64 epoch, Leaf calldata leaf) external nonReentrant returns (uint256 amount) {
        EpochRecord storage found = _final(asset, epoch);
        if (leaf.account == address(0)) revert InvalidProof();
        _requireLeaf(asset, found, leaf);
        uint256 before = claimed[asset][leaf.account];
        if (leaf.cumulative <= before) return 0;
        amount = leaf.cumulative - before;

        Account storage books = _accounts[asset];
        if (found.total > books.payable_) books.payable_ = found.total;
        uint256 paid = books.paid + amount;
        if (paid > books.payable_) revert ExcessiveClaim(amount);
        books.paid = uint128(paid);
        claimed[asset][leaf.account] = leaf.cumulative;
        emit Claimed(asset, leaf.account, amount, leaf.cumulative);
        _pay(asset, books, leaf.account, amount);
    }

    /// @inheritdoc IRewards
    function challengeSum(
        address asset,
        uint64 epoch,
        Node calldata node,
        Path calldata path,
        Node calldata left,
        Node calldata right
    ) external {
        EpochRecord storage found = _challengeable(asset, epoch);
        if (!SumTree.isBelow(node, path, found.root, found.total)) revert InvalidProof();
        if (keccak256(abi.encode(left.hash, left.sum, right.hash, right.sum)) != node.hash) revert InvalidProof();
        // No node has a sum that overflows.
        bool fits = left.sum <= type(uint256).max - right.sum;
        if (fits && left.sum + right.sum == node.sum) revert NoFault();
        _revoke(asset, epoch, found);
    }

    /// @inheritdoc IRewards
    function challengeLeaf(address asset, uint64 epoch, Leaf calldata leaf, uint256 sum) external {
        EpochRecord storage found = _challengeable(asset, epoch);
        Node memory node = SumTree.leaf(leaf.account, asset, leaf.cumulative);
        if (leaf.account == address(0)) node.sum = 0;
        if (sum == node.sum) revert NoFault();
        node.sum = sum;
        if (!node.isBelow(leaf.path, found.root, found.total)) revert InvalidProof();
        _revoke(asset, epoch, found);
    }

    /// @inheritdoc IRewards
    function challengeOrder(address asset, uint64 epoch, Leaf calldata first, Leaf calldata second) external {
        EpochRecord storage found = _challengeable(asset, epoch);
        _requireLeaf(asset, found, first);
        _requireLeaf(asset, found, second);
        if (first.path.end() > second.path.start() || second.account == address(0)) revert NoFault();
        if (first.account != address(0) && first.account < second.account) revert NoFault();
        _revoke(asset, epoch, found);
    }

    /// @inheritdoc IRewards
    function challengeLower(address asset, uint64 epoch, Leaf calldata earlier, Leaf calldata later) external {
        EpochRecord storage found = _challengeable(asset, epoch);
        _requireInBase(asset, found, earlier);
        _requireLeaf(asset, found, later);
        if (earlier.account != later.account || earlier.cumulative <= later.cumulative) revert NoFault();
        _revoke(asset, epoch, found);
    }

    /// @inheritdoc IRewards
    function challengeAbsence(
        address asset,
        uint64 epoch,
        Leaf calldata earlier,
        bool hasBefore,
        Leaf calldata before,
        bool hasAfter,
        Leaf calldata after_
    ) external {
        EpochRecord storage found = _challengeable(asset, epoch);
        _requireInBase(asset, found, earlier);
        uint256 gapStart;
        uint256 gapEnd = uint256(1) << SumTree.DEPTH_MAX;
        if (hasBefore) {
            _requireLeaf(asset, found, before);
            if (before.account == address(0) || before.account >= earlier.account) revert NoFault();
            gapStart = before.path.end();
        }
        if (hasAfter) {
            _requireLeaf(asset, found, after_);
            if (after_.account != address(0) && after_.account <= earlier.account) revert NoFault();
            gapEnd = after_.path.start();
        }
        if (gapStart != gapEnd) revert NoFault();
        _revoke(asset, epoch, found);
    }

    /// @inheritdoc IRewards
    function convict(address asset, uint64 epoch, bytes32 data, bytes calldata signatures) external {
        EpochRecord storage found = _records[asset][epoch];
        if (!found.isRevoked) revert NoFault();
        bytes32 content = contentOf(asset, epoch, found.root, found.total, data);
        devices.convict(topicOf(asset), epoch, content, signatures);
    }

    /// @inheritdoc IRewards
    function fund(address asset) external nonReentrant returns (uint256 amount) {
        Account storage books = _accounts[asset];
        uint256 balance = asset == address(voice) ? 0 : IERC20(asset).balanceOf(address(this));
        if (balance <= books.held) revert InvalidFunding();
        amount = balance - books.held;
        books.funded = SafeCast.toUint128(books.funded + amount);
        books.held = SafeCast.toUint128(balance);
        emit Funded(asset, amount);
    }

    /// @inheritdoc IRewards
    function recordOf(address asset, uint64 epoch) external view returns (EpochRecord memory) {
        return _records[asset][epoch];
    }

    /// @inheritdoc IRewards
    function accountOf(address asset) external view returns (Account memory) {
        return _accounts[asset];
    }

    /// @inheritdoc IRewards
    function capOf(address asset, uint64 epoch) public view returns (uint256) {
        uint64 epoch_s = validators.EPOCH_S();
        if (asset == address(ember)) return Emission.cap(epoch, epoch_s);
        if (asset != address(voice)) return 0;
        uint256 weight = Emission.cap(epoch, epoch_s) / Emission.EMBER_OF_VOICE;
        return Growth.scale(weight, (uint256(epoch) + 1) * epoch_s);
    }

    /// @inheritdoc IRewards
    function topicOf(address asset) public pure returns (bytes32) {
        return Statements.topicOf(Statements.EPOCH_TOPIC, bytes32(uint256(uint160(asset))));
    }

    /// @inheritdoc IRewards
    function contentOf(address asset, uint64 epoch, bytes32 root, uint256 total, bytes32 data)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(Statements.EPOCH_TYPEHASH, epoch, asset, root, total, data));
    }

    /// @dev By induction over bases, no total passes the emission of all epochs so far and all that arrived. What arrived is
    /// used up only by totals that the emission alone does not cover, so that it may be earned part by part, epochs later.
    function _checkTotal(address asset, uint64 epoch, uint64 base, uint256 total) private view returns (uint256 used) {
        uint256 least;
        uint256 epochs = uint256(epoch) + 1;
        if (base != NO_BASE) {
            if (base >= epoch) revert InvalidBase(base);
            EpochRecord storage earlier = _final(asset, base);
            (least, used) = (earlier.total, earlier.used);
            epochs = epoch - base;
        }
        if (epochs > CARRIED_EPOCHS) epochs = CARRIED_EPOCHS;
        // Each carried epoch counts with the cap of this one. That of Ember never grows, so no emission is counted twice.
        uint256 emitted = epochs * capOf(asset, epoch);
        uint256 most = least + emitted + (_accounts[asset].funded - used);
        if (total < least || total > most) revert InvalidTotal(total, least, most);
        if (total - least > emitted) used += total - least - emitted;
    }

    /// @dev What is here is paid first; Ember and Voice are minted for the rest.
    function _pay(address asset, Account storage books, address account, uint256 amount) private {
        if (asset == address(voice)) return voice.mint(account, amount);
        uint256 here = amount;
        if (asset == address(ember) && here > books.held) here = books.held;
        books.held = SafeCast.toUint128(books.held - here);
        if (here != 0) IERC20(asset).safeTransfer(account, here);
        if (here != amount) ember.mint(account, amount - here);
    }

    function _revoke(address asset, uint64 epoch, EpochRecord storage found) private {
        found.isRevoked = true;
        emit Revoked(asset, epoch);
    }

    function _requireInBase(address asset, EpochRecord storage found, Leaf calldata earlier) private view {
        if (found.base == NO_BASE || earlier.account == address(0)) revert InvalidBase(found.base);
        _requireLeaf(asset, _records[asset][found.base], earlier);
    }

    function _requireLeaf(address asset, EpochRecord storage found, Leaf calldata leaf) private view {
        Node memory node = SumTree.leaf(leaf.account, asset, leaf.cumulative);
        if (!node.isBelow(leaf.path, found.root, found.total)) revert InvalidProof();
    }

    function _final(address asset, uint64 epoch) private view returns (EpochRecord storage found) {
        found = _records[asset][epoch];
        if (found.recordedAt == 0) revert RecordMissing(epoch);
        if (found.isRevoked || block.timestamp < uint256(found.recordedAt) + WINDOW_S) revert NotFinal(epoch);
    }

    function _challengeable(address asset, uint64 epoch) private view returns (EpochRecord storage found) {
        found = _records[asset][epoch];
        if (found.recordedAt == 0) revert RecordMissing(epoch);
        if (found.isRevoked || block.timestamp >= uint256(found.recordedAt) + WINDOW_S) revert NotChallengeable(epoch);
    }
}
