// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IDevices} from "./interfaces/IDevices.sol";
import {Committee, IValidators, Seat} from "./interfaces/IValidators.sol";
import {IVoice} from "./interfaces/IVoice.sol";
import {Emission} from "./libraries/Emission.sol";
import {Race} from "./libraries/Race.sol";
import {Statements} from "./libraries/Statements.sol";

/// @title Validators
/// @notice See `IValidators`.
contract Validators is IValidators {
    /// @notice Seats of an epoch, and of one run in it.
    uint256 public constant SEATS = 32;
    uint256 public constant RUN_SEATS = 16;
    /// @notice A seat counts for at most one part in this many of the weight of its set.
    uint256 public constant CAP_PARTS = 8;
    /// @notice A set that is not full needs one part in this many of all votes.
    uint256 public constant QUORUM_PARTS = 3;
    /// @notice Epochs without a set for which the quorum halves.
    uint256 public constant QUORUM_HALVING_EPOCHS = 8;

    uint64 private constant ENROLLMENT_PARTS = 4;
    uint256 private constant SIGNATURE_BYTES = 65;

    IDevices public immutable devices;
    IVoice public immutable voice;
    /// @inheritdoc IValidators
    uint64 public immutable EPOCH_S;
    /// @inheritdoc IValidators
    uint64 public immutable ORIGIN;

    /// @inheritdoc IValidators
    mapping(uint64 epoch => bytes32) public beacon;
    /// @inheritdoc IValidators
    mapping(address device => bool) public isExcluded;
    mapping(uint64 epoch => Seat[]) private _seats;
    mapping(uint64 epoch => mapping(address household => bool)) private _hasEnrolled;
    mapping(uint64 epoch => mapping(bytes32 run => Committee)) private _committees;
    mapping(bytes32 topic => bool) private _isUsed;
    /// @dev One more than the newest epoch that has a set; zero before the first.
    uint64 private _epochsWithSet;

    constructor(IDevices devices_, IVoice voice_, uint64 epoch_s) {
        if (epoch_s < ENROLLMENT_PARTS || epoch_s > 7 days || Emission.ERA_S % epoch_s != 0) {
            revert InvalidEpochLength(epoch_s);
        }
        (devices, voice) = (devices_, voice_);
        (EPOCH_S, ORIGIN) = (epoch_s, uint64(block.timestamp));
    }

    /// @inheritdoc IValidators
    function enroll(address device, bytes calldata signature) external {
        uint64 epoch = epochAt(block.timestamp);
        uint256 start = _start(epoch);
        if (block.timestamp == start || block.timestamp >= _enrollmentEnd(epoch)) revert EnrollmentClosed(epoch);
        address household = devices.validatorOf(device);
        if (isExcluded[device]) revert IDevices.DeviceInactive(device);
        if (_hasEnrolled[epoch][household]) revert AlreadyEnrolled(household);
        bytes32 digest = Statements.statement(
            address(devices), address(this), Statements.ENROLLMENT_TOPIC, epoch, bytes32(0)
        );
        if (ECDSA.recoverCalldata(digest, signature) != device) revert IDevices.InvalidSignature(device);
        uint96 weight = voice.weightAt(household, start);
        if (weight == 0) revert NoWeight(household);

        _hasEnrolled[epoch][household] = true;
        uint96 time = Race.time(_open(epoch), bytes32(0), household, weight);
        uint256 seat = _place(epoch, Seat(device, weight, household, time));
        emit Seated(epoch, uint8(seat), device, household, weight, time);
    }

    /// @inheritdoc IValidators
    function check(
        uint64 epoch,
        bytes32 run,
        bytes32 topic,
        uint64 sequence,
        bytes32 content,
        uint32 mask,
        bytes calldata signatures
    ) external {
        bytes32 digest = Statements.statement(address(devices), msg.sender, topic, sequence, content);
        _check(epoch, run, digest, mask, signatures);
    }

    /// @inheritdoc IValidators
    function convict(
        uint64 epoch,
        bytes32 run,
        address device,
        address token,
        uint256 amount,
        bytes32 evidence,
        uint32 mask,
        bytes calldata signatures
    ) external {
        uint64 newest = inOffice();
        if (epoch > newest || epoch + 1 < newest) revert NotInOffice(epoch, newest);
        // One topic for each device, token and evidence: two verdicts of different amounts prove themselves.
        bytes32 topic = Statements.topicOf(Statements.VERDICT_TOPIC, keccak256(abi.encode(device, token, evidence)));
        if (_isUsed[topic]) revert VerdictExists(device, evidence);
        bytes32 content = keccak256(abi.encode(Statements.VERDICT_TYPEHASH, device, token, amount, evidence));
        _check(
            epoch, run, Statements.statement(address(devices), address(this), topic, 0, content), mask, signatures
        );
        _isUsed[topic] = true;
        isExcluded[device] = true;
        emit Convicted(device, evidence, run, token, amount);
        if (amount != 0) devices.slash(device, token, amount);
    }

    /// @inheritdoc IValidators
    function seal(uint64 epoch, bytes32 run) external returns (Committee memory) {
        return _seal(epoch, run);
    }

    /// @inheritdoc IValidators
    function seats(uint64 epoch) external view returns (Seat[] memory) {
        return _seats[epoch];
    }

    /// @inheritdoc IValidators
    function committee(uint64 epoch, bytes32 run) external view returns (Committee memory) {
        return _committees[epoch][run];
    }

    /// @inheritdoc IValidators
    function inOffice() public view returns (uint64) {
        uint64 epoch = epochAt(block.timestamp);
        if (block.timestamp >= _enrollmentEnd(epoch)) return epoch;
        if (epoch == 0) revert NotSealed(epoch);
        return epoch - 1;
    }

    /// @inheritdoc IValidators
    function epochAt(uint256 time) public view returns (uint64) {
        return uint64((time - ORIGIN) / EPOCH_S);
    }

    function _start(uint64 epoch) private view returns (uint256) {
        return ORIGIN + uint256(epoch) * EPOCH_S;
    }

    function _enrollmentEnd(uint64 epoch) private view returns (uint256) {
        return _start(epoch) + EPOCH_S / ENROLLMENT_PARTS;
    }

    /// @dev The beacon of an epoch is taken from the block of the first enrollment, after the weights were fixed.
    function _open(uint64 epoch) private returns (bytes32 taken) {
        taken = beacon[epoch];
        if (taken != bytes32(0)) return taken;
        taken = keccak256(abi.encode(block.prevrandao, blockhash(block.number - 1), epoch));
        beacon[epoch] = taken;
        emit EpochOpened(epoch, taken);
    }

    /// @dev Gives a free seat, or that of the slowest where the new one is quicker.
    function _place(uint64 epoch, Seat memory newcomer) private returns (uint256 seat) {
        Seat[] storage taken = _seats[epoch];
        if (taken.length < SEATS) {
            taken.push(newcomer);
            return taken.length - 1;
        }
        uint96 slowest;
        for (uint256 i = 0; i < SEATS; ++i) {
            if (taken[i].time > slowest) (seat, slowest) = (i, taken[i].time);
        }
        if (newcomer.time >= slowest) revert NotDrawn(newcomer.household);
        taken[seat] = newcomer;
    }

    function _seal(uint64 epoch, bytes32 run) private returns (Committee memory set) {
        set = _committees[epoch][run];
        if (set.mask != 0) return set;
        if (block.timestamp < _enrollmentEnd(epoch)) revert NotSealed(epoch);

        Seat[] memory taken = _seats[epoch];
        if (run == bytes32(0)) {
            _requireQuorum(epoch, taken);
            if (epoch >= _epochsWithSet) _epochsWithSet = epoch + 1;
            set.mask = uint32((uint256(1) << taken.length) - 1);
        } else {
            set.mask = _draw(_seal(epoch, bytes32(0)).mask, beacon[epoch], run, taken);
        }
        uint256 weight;
        for (uint256 i = 0; i < taken.length; ++i) {
            if (_isIn(set.mask, i)) weight += taken[i].weight;
        }
        set.cap = weight < CAP_PARTS ? 1 : uint96(weight / CAP_PARTS);
        for (uint256 i = 0; i < taken.length; ++i) {
            if (_isIn(set.mask, i)) set.total += _capped(taken[i].weight, set.cap);
        }
        _committees[epoch][run] = set;
        emit Sealed(epoch, run, set.mask, set.cap, set.total);
    }

    function _requireQuorum(uint64 epoch, Seat[] memory taken) private view {
        uint256 weight;
        for (uint256 i = 0; i < taken.length; ++i) {
            weight += taken[i].weight;
        }
        uint256 idle = epoch < _epochsWithSet ? 0 : epoch - _epochsWithSet;
        uint256 due = (voice.totalWeightAt(_start(epoch)) >> (idle / QUORUM_HALVING_EPOCHS)) / QUORUM_PARTS;
        if (weight == 0 || (taken.length < SEATS && weight < due)) revert NoQuorum(epoch, weight, due);
    }

    /// @dev The seats of a run: all, or those with the shortest times in the run's own race, the lower seat first.
    function _draw(uint32 all, bytes32 beacon_, bytes32 run, Seat[] memory taken) private pure returns (uint32 mask) {
        if (taken.length <= RUN_SEATS) return all;
        uint256[] memory times = new uint256[](taken.length);
        for (uint256 i = 0; i < taken.length; ++i) {
            times[i] = Race.time(beacon_, run, taken[i].household, taken[i].weight);
        }
        for (uint256 drawn = 0; drawn < RUN_SEATS; ++drawn) {
            uint256 quickest = type(uint256).max;
            uint256 seat;
            for (uint256 i = 0; i < times.length; ++i) {
                if (times[i] < quickest) (seat, quickest) = (i, times[i]);
            }
            times[seat] = type(uint256).max;
            mask |= uint32(1 << seat);
        }
    }

    function _check(uint64 epoch, bytes32 run, bytes32 digest, uint32 mask, bytes calldata signatures) private {
        Committee memory set = _seal(epoch, run);
        Seat[] storage taken = _seats[epoch];
        uint256 weight;
        uint256 position;
        for (uint256 i = 0; i < SEATS; ++i) {
            if (!_isIn(mask, i)) continue;
            if (!_isIn(set.mask, i)) revert NotSigned(i);
            uint256 next = position + SIGNATURE_BYTES;
            if (next > signatures.length) revert InvalidSignatures(signatures.length);
            if (ECDSA.recoverCalldata(digest, signatures[position:next]) != taken[i].device) revert NotSigned(i);
            weight += _capped(taken[i].weight, set.cap);
            position = next;
        }
        if (position != signatures.length) revert InvalidSignatures(signatures.length);
        if (weight * 3 < uint256(set.total) * 2) revert TooLittleWeight(weight, set.total);
    }

    function _isIn(uint32 mask, uint256 seat) private pure returns (bool) {
        return (mask >> seat) & 1 == 1;
    }

    function _capped(uint96 weight, uint96 cap) private pure returns (uint96) {
        return weight < cap ? weight : cap;
    }
}
