// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Leaf, Node, Path} from "../libraries/SumTree.sol";

/// @notice What the validators of an epoch stated about one asset.
/// @param root Root of the sum tree of (account, asset, cumulative), sorted by account; zero where nothing was stated.
/// @param total Sum of the tree: all that was ever earned in this asset.
/// @param used What of all that arrived in this asset was needed for this total and those it builds upon: by how much they grew
/// beyond the emission.
/// @param recordedAt Unix seconds.
/// @param base Epoch of the final record that it builds upon, or `NO_BASE`.
/// @param isRevoked It was proved false.
struct EpochRecord {
    bytes32 root;
    uint128 total;
    uint128 used;
    uint64 recordedAt;
    uint64 base;
    bool isRevoked;
}

/// @notice All payments in one asset.
/// @param funded Atomic units that arrived to be earned.
/// @param paid Atomic units that were claimed.
/// @param payable_ Highest total of any final record that was claimed from; `paid` never passes it.
/// @param held Atomic units that are here.
struct Account {
    uint128 funded;
    uint128 paid;
    uint128 payable_;
    uint128 held;
}

/// @title Rewards for checked work
/// @notice Once an epoch and asset, two thirds of the validators state a Merkle-sum tree of what every account has earned
/// in all. The total may grow by the emission of the epochs since a final record and by what arrived and no record used.
/// During the challenge window anyone may prove a record false, at no cost but gas: a proof is checked at once and puts
/// nothing at stake. After it, anyone may send a claim, which pays what is new to the account.
/// @dev The assets are Ember, which only this contract mints; Voice, which it mints beside Ember; and any ERC-20 that
/// funders sent here. Records are kept by epoch, so that a false or missing one holds up no other.
interface IRewards {
    event Recorded(
        address indexed asset, uint64 indexed epoch, bytes32 root, uint256 total, bytes32 data, uint32 mask
    );
    event Revoked(address indexed asset, uint64 indexed epoch);
    event Claimed(address indexed asset, address indexed account, uint256 amount, uint256 cumulative);
    event Funded(address indexed asset, uint256 amount);

    /// @notice The challenge window is zero or longer than `WINDOW_MAX_S`.
    error InvalidWindow(uint64 window_s);
    /// @notice The epoch has not ended.
    error EpochNotOver(uint64 epoch);
    /// @notice There is a record, or a revoked one, for this epoch and asset.
    error RecordExists(uint64 epoch);
    /// @notice No record stands there.
    error RecordMissing(uint64 epoch);
    /// @notice The record can be challenged still, or is revoked.
    error NotFinal(uint64 epoch);
    /// @notice The record can be challenged no more, or is revoked.
    error NotChallengeable(uint64 epoch);
    /// @notice The record that is built upon is not an earlier one, or there is none.
    error InvalidBase(uint64 base);
    /// @notice The total is below that of the base, or above what may have been earned.
    error InvalidTotal(uint256 total, uint256 least, uint256 most);
    /// @notice The leaf or node is not where it is said to be.
    error InvalidProof();
    /// @notice What was proved is not a fault of the record.
    error NoFault();
    /// @notice The records that can be claimed from do not allow it.
    error ExcessiveClaim(uint256 amount);
    /// @notice Nothing arrived, or Voice, which nobody can send.
    error InvalidFunding();

    /// @notice States the record of an epoch that is over. Signed by the set of the epoch after it, as a statement under
    /// the topic (`EPOCH_TOPIC`, asset) with the epoch as sequence.
    /// @param base A final record of the asset to count from, or `NO_BASE`.
    /// @param data Hash by which the tree's leaves can be fetched.
    /// @param mask Seats that signed, and `signatures` of 65 bytes each.
    function record(
        address asset,
        uint64 epoch,
        uint64 base,
        bytes32 root,
        uint256 total,
        bytes32 data,
        uint32 mask,
        bytes calldata signatures
    ) external;

    /// @notice Pays what `leaf` of a final record is above what the account claimed. Does nothing where it is not above.
    function claim(address asset, uint64 epoch, Leaf calldata leaf) external returns (uint256 amount);

    /// @notice Revokes a record in whose tree the sum of `node` is not that of its children.
    function challengeSum(
        address asset,
        uint64 epoch,
        Node calldata node,
        Path calldata path,
        Node calldata left,
        Node calldata right
    ) external;

    /// @notice Revokes a record in whose tree `leaf` stands with another `sum` than its cumulative amount, or padding with
    /// any sum: the account could not claim it.
    function challengeLeaf(address asset, uint64 epoch, Leaf calldata leaf, uint256 sum) external;

    /// @notice Revokes a record whose leaves are not sorted strictly by account: one account twice, for example.
    function challengeOrder(address asset, uint64 epoch, Leaf calldata first, Leaf calldata second) external;

    /// @notice Revokes a record that has less for an account than its base.
    /// @dev The base alone counts: of a record whose leaves are withheld nobody could know what to keep.
    function challengeLower(address asset, uint64 epoch, Leaf calldata earlier, Leaf calldata later) external;

    /// @notice Revokes a record that has no leaf for an account of its base. The neighbors show it: two leaves side by
    /// side around where it would be; `hasBefore` and `hasAfter` are false at the ends of the tree.
    function challengeAbsence(
        address asset,
        uint64 epoch,
        Leaf calldata earlier,
        bool hasBefore,
        Leaf calldata before,
        bool hasAfter,
        Leaf calldata after_
    ) external;

    /// @notice Has all devices expelled that signed a revoked record; `data` and `signatures` are those it came with.
    function convict(address asset, uint64 epoch, bytes32 data, bytes calldata signatures) external;

    /// @notice Counts what arrived of `asset` since it was last counted. Anyone may send tokens here for others to earn.
    function fund(address asset) external returns (uint256 amount);

    /// @notice Longest challenge window in seconds.
    function WINDOW_MAX_S() external view returns (uint64);
    /// @notice Seconds in which a record can be challenged.
    function WINDOW_S() external view returns (uint64);
    /// @notice Epochs since the base whose emission counts at most.
    function CARRIED_EPOCHS() external view returns (uint64);
    /// @notice Stands for no record.
    function NO_BASE() external view returns (uint64);
    /// @notice The most of `asset` that one epoch gives; zero but for Ember and Voice.
    function capOf(address asset, uint64 epoch) external view returns (uint256);
    /// @notice A record.
    function recordOf(address asset, uint64 epoch) external view returns (EpochRecord memory);
    /// @notice All payments of an asset.
    function accountOf(address asset) external view returns (Account memory);
    /// @notice What an account claimed of an asset in all.
    function claimed(address asset, address account) external view returns (uint256);
    /// @notice The topic of records of an asset.
    function topicOf(address asset) external pure returns (bytes32);
    /// @notice The content that validators sign for a record.
    function contentOf(address asset, uint64 epoch, bytes32 root, uint256 total, bytes32 data)
        external
        pure
        returns (bytes32);
}
