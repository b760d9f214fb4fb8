// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IRewards} from "./interfaces/IRewards.sol";
import {IRuns, RunState, RunTerms} from "./interfaces/IRuns.sol";
import {IValidators} from "./interfaces/IValidators.sol";
import {Statements} from "./libraries/Statements.sol";

/// @title Runs
/// @notice See `IRuns`.
contract Runs is IRuns, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @inheritdoc IRuns
    uint64 public constant ROUND_LEAP = 1024;

    IValidators public immutable validators;
    IRewards public immutable rewards;

    mapping(bytes32 run => RunState) private _runs;
    /// @inheritdoc IRuns
    mapping(bytes32 run => mapping(address funder => uint256)) public pledgeOf;

    constructor(IValidators validators_, IRewards rewards_) {
        (validators, rewards) = (validators_, rewards_);
    }

    /// @inheritdoc IRuns
    function pledge(RunTerms calldata terms, uint256 amount) external nonReentrant {
        bytes32 run = _checked(terms);
        if (terms.token == address(0) || block.timestamp >= terms.deadline) revert PledgesClosed(run);
        uint256 before = IERC20(terms.token).balanceOf(address(this));
        IERC20(terms.token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(terms.token).balanceOf(address(this)) - before;
        if (received == 0) revert InvalidAmount(received);
        RunState storage found = _runs[run];
        found.pledged = SafeCast.toUint128(found.pledged + received);
        found.unreleased = found.pledged;
        pledgeOf[run][msg.sender] += received;
        emit Pledged(run, msg.sender, received);
    }

    /// @inheritdoc IRuns
    function withdraw(RunTerms calldata terms, uint256 amount) external nonReentrant {
        bytes32 run = _checked(terms);
        if (block.timestamp >= terms.deadline) revert PledgesClosed(run);
        if (amount == 0 || amount > pledgeOf[run][msg.sender]) revert InvalidAmount(amount);
        RunState storage found = _runs[run];
        found.pledged -= uint128(amount);
        found.unreleased = found.pledged;
        pledgeOf[run][msg.sender] -= amount;
        emit PledgeReturned(run, msg.sender, amount);
        IERC20(terms.token).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IRuns
    function refund(RunTerms calldata terms, address funder) external nonReentrant {
        bytes32 run = _checked(terms);
        RunState storage found = _runs[run];
        uint256 mine = pledgeOf[run][funder];
        if (mine == 0) revert InvalidAmount(mine);
        uint256 amount;
        if (block.timestamp >= terms.deadline && found.pledged < terms.softCap) {
            amount = mine;
        } else if (block.timestamp >= terms.end) {
            // All funders bear the released parts alike. What is left of rounding stays here, below one unit a funder.
            amount = mine * (found.pledged - _part(terms, found.pledged, _due(terms, found))) / found.pledged;
        } else {
            revert PledgesBound(run);
        }
        if (amount == 0) revert InvalidAmount(amount);
        pledgeOf[run][funder] = 0;
        found.unreleased -= uint128(amount);
        emit PledgeReturned(run, funder, amount);
        IERC20(terms.token).safeTransfer(funder, amount);
    }

    /// @inheritdoc IRuns
    function recordRound(
        RunTerms calldata terms,
        uint64 round,
        bytes32 parent,
        bytes32 contributions,
        bytes32 next,
        uint64 epoch,
        uint32 mask,
        bytes calldata signatures
    ) external nonReentrant {
        bytes32 run = _checked(terms);
        RunState storage found = _runs[run];
        uint64 lowest = found.nextRound;
        if (round < lowest || round - lowest > ROUND_LEAP) revert InvalidRound(round, lowest);
        bytes32 state = lowest == 0 ? terms.state : found.state;
        if (parent != state) revert InvalidParent(parent, state);
        uint64 newest = validators.inOffice();
        if (epoch > newest || epoch + 1 < newest) revert NotInOffice(epoch, newest);

        found.state = next;
        found.nextRound = round + 1;
        // After the end no further checkpoint is due: what funders get back does not change any more.
        if (block.timestamp < terms.end) found.rounds += 1;
        emit RoundRecorded(run, round, parent, contributions, next, epoch, mask);
        bytes32 content = contentOf(run, round, parent, contributions, next);
        validators.check(epoch, run, topicOf(run), round, content, mask, signatures);
    }

    /// @inheritdoc IRuns
    function release(RunTerms calldata terms) external nonReentrant {
        bytes32 run = _checked(terms);
        RunState storage found = _runs[run];
        uint32 due = _due(terms, found);
        if (block.timestamp < terms.deadline || found.pledged < terms.softCap || due == found.released) {
            revert NothingToRelease(run);
        }
        uint256 amount = _part(terms, found.pledged, due) - _part(terms, found.pledged, found.released);
        found.released = due;
        found.unreleased -= uint128(amount);
        emit Released(run, due, amount);
        IERC20(terms.token).safeTransfer(address(rewards), amount);
        rewards.fund(terms.token);
    }

    /// @inheritdoc IRuns
    function stateOf(bytes32 run) external view returns (RunState memory) {
        return _runs[run];
    }

    /// @inheritdoc IRuns
    function runOf(RunTerms calldata terms) public pure returns (bytes32) {
        return keccak256(abi.encode(terms));
    }

    /// @inheritdoc IRuns
    function topicOf(bytes32 run) public pure returns (bytes32) {
        return Statements.topicOf(Statements.ROUND_TOPIC, run);
    }

    /// @inheritdoc IRuns
    function contentOf(bytes32 run, uint64 round, bytes32 parent, bytes32 contributions, bytes32 next)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(Statements.ROUND_TYPEHASH, run, round, parent, contributions, next));
    }

    /// @dev Checkpoints that the accepted rounds make.
    function _due(RunTerms calldata terms, RunState storage found) private view returns (uint32) {
        uint64 reached = found.rounds / terms.roundsPerCheckpoint;
        return reached < terms.checkpoints ? uint32(reached) : terms.checkpoints;
    }

    /// @dev What the first `count` checkpoints release together; all of it with the last.
    function _part(RunTerms calldata terms, uint256 pledged, uint32 count) private pure returns (uint256) {
        return pledged * count / terms.checkpoints;
    }

    function _checked(RunTerms calldata terms) private pure returns (bytes32) {
        bool takesPledges = terms.token != address(0);
        if (terms.roundsPerCheckpoint == 0 || terms.checkpoints == 0) revert InvalidTerms();
        if (takesPledges != (terms.softCap != 0) || terms.end < terms.deadline) revert InvalidTerms();
        return runOf(terms);
    }
}
