// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @notice What a run promises to those who fund it. Its hash names the run on this chain.
/// @param manifest BLAKE3 of the run's manifest.
/// @param state Hash of the weights that the first round starts from.
/// @param token ERC-20 of the pledges; zero where the run takes none.
/// @param softCap Atomic units under which all pledges go back. Zero where the run takes none.
/// @param deadline Unix seconds until which pledges are made and withdrawn. Then they are final, or refunded.
/// @param end Unix seconds after which what no checkpoint released goes back to the funders.
/// @param checkpoints How many parts the pledges are released in.
/// @param roundsPerCheckpoint Accepted rounds that a checkpoint takes.
struct RunTerms {
    bytes32 manifest;
    bytes32 state;
    address token;
    uint128 softCap;
    uint64 deadline;
    uint64 end;
    uint32 checkpoints;
    uint32 roundsPerCheckpoint;
}

/// @notice How far a run has come.
/// @param state Hash of the weights after the last accepted round; zero before the first.
/// @param rounds Accepted rounds.
/// @param nextRound The lowest number that the next round can have.
/// @param released Checkpoints whose part was released.
/// @param pledged Atomic units that count: what arrived less what went back before the deadline.
/// @param unreleased Atomic units of those that are here and were not paid back after the end.
struct RunState {
    bytes32 state;
    uint64 rounds;
    uint64 nextRound;
    uint32 released;
    uint128 pledged;
    uint128 unreleased;
}

/// @title Runs: what is trained, who funds it, and how far it came
/// @notice A run is named by the hash of its terms, which nobody has to announce. Validators drawn for it state one record
/// per round; the first valid one counts. Records take the same bytes however many trainers there were.
/// @dev Pledges go to `Rewards`, to be earned by those who worked, one part per accepted checkpoint; tokens move in a call
/// of their own, so that no token can stand in the way of a round.
interface IRuns {
    event Pledged(bytes32 indexed run, address indexed funder, uint256 amount);
    /// @notice A pledge went back: before the deadline, under the soft cap, or as the rest after the end.
    event PledgeReturned(bytes32 indexed run, address indexed funder, uint256 amount);
    event RoundRecorded(
        bytes32 indexed run,
        uint64 indexed round,
        bytes32 parent,
        bytes32 contributions,
        bytes32 next,
        uint64 epoch,
        uint32 mask
    );
    event Released(bytes32 indexed run, uint32 checkpoint, uint256 amount);

    /// @notice Terms that no run can have.
    error InvalidTerms();
    /// @notice The run takes no pledges, or none any more.
    error PledgesClosed(bytes32 run);
    /// @notice Nothing arrived, nothing is to go back, or more than was pledged.
    error InvalidAmount(uint256 amount);
    /// @notice The pledges are bound: the soft cap was reached and the run has not ended.
    error PledgesBound(bytes32 run);
    /// @notice The round is over, or its number leaps.
    error InvalidRound(uint64 round, uint64 nextRound);
    /// @notice The round does not start from the state that the run has.
    error InvalidParent(bytes32 parent, bytes32 state);
    /// @notice The set that signed is not in office.
    error NotInOffice(uint64 epoch, uint64 inOffice);
    /// @notice No checkpoint waits for its part.
    error NothingToRelease(bytes32 run);

    /// @notice Pledges what arrives of `amount`, until the deadline.
    function pledge(RunTerms calldata terms, uint256 amount) external;

    /// @notice Takes `amount` of the sender's pledge back, until the deadline.
    function withdraw(RunTerms calldata terms, uint256 amount) external;

    /// @notice Pays a funder back: everything where the soft cap was missed, and the share of what no checkpoint released
    /// after the end. Anyone may send it.
    function refund(RunTerms calldata terms, address funder) external;

    /// @notice Accepts a round, on the signatures of two thirds of the set of (`epoch`, run), which is in office or was
    /// before: a statement under the topic (`ROUND_TOPIC`, run) with the round as sequence.
    /// @dev Numbers may leap by up to `ROUND_LEAP`, past rounds on which validators could not agree.
    function recordRound(
        RunTerms calldata terms,
        uint64 round,
        bytes32 parent,
        bytes32 contributions,
        bytes32 next,
        uint64 epoch,
        uint32 mask,
        bytes calldata signatures
    ) external;

    /// @notice Sends the parts of all accepted checkpoints to `Rewards`. Anyone may send it.
    function release(RunTerms calldata terms) external;

    /// @notice The most that a round's number can be above the lowest possible.
    function ROUND_LEAP() external view returns (uint64);
    /// @notice Name of the run of these terms.
    function runOf(RunTerms calldata terms) external pure returns (bytes32);
    /// @notice How far a run has come.
    function stateOf(bytes32 run) external view returns (RunState memory);
    /// @notice What a funder has pledged and not got back.
    function pledgeOf(bytes32 run, address funder) external view returns (uint256);
    /// @notice The topic of a run's rounds.
    function topicOf(bytes32 run) external pure returns (bytes32);
    /// @notice The content that validators sign for a round.
    function contentOf(bytes32 run, uint64 round, bytes32 parent, bytes32 contributions, bytes32 next)
        external
        pure
        returns (bytes32);
}
