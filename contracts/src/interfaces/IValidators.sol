// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @notice A place among the validators of an epoch.
/// @param device The session key that signs.
/// @param weight Weight of its household at the start of the epoch, not capped.
/// @param household The household; it has one seat at most.
/// @param time Its time in the race for seats; the shortest times have the seats.
struct Seat {
    address device;
    uint96 weight;
    address household;
    uint96 time;
}

/// @notice The validators of an epoch, or those of one run in an epoch.
/// @param mask Bit i is set where seat i belongs to it. Zero where it was not sealed yet.
/// @param cap The most that one seat counts for.
/// @param total What all its seats count for.
struct Committee {
    uint32 mask;
    uint96 cap;
    uint96 total;
}

/// @title Who validates: drawn per epoch and run by a beacon, by weight of earned votes, capped per household
/// @notice In the first quarter of an epoch registered devices enroll, each signing that it is there. Of all that do, the
/// 32 with the shortest times in a race by weight get seats. A run has 16 of them, drawn again by its own race. Then
/// the set is fixed until the end of the next epoch. A statement counts with two thirds of its set's capped weight.
/// @dev Who does not enroll is not waited for: nobody who is gone can stop an epoch. A set must have all seats taken or
/// a third of all votes behind it, so that few cannot decide while the others are kept out; that share halves for
/// every eight epochs in a row without a set, so that votes of those who left do not stop the ledger.
interface IValidators {
    /// @notice The first device enrolled, and the beacon was taken.
    event EpochOpened(uint64 indexed epoch, bytes32 beacon);
    /// @notice A device has a seat, until a quicker one takes it.
    event Seated(
        uint64 indexed epoch, uint8 seat, address indexed device, address indexed household, uint96 weight, uint96 time
    );
    /// @notice A set is fixed. `run` is zero for that of the whole epoch.
    event Sealed(uint64 indexed epoch, bytes32 indexed run, uint32 mask, uint96 cap, uint96 total);
    /// @notice Two thirds found that the device cheated. It is excluded, and `amount` of its bond was burnt.
    event Convicted(
        address indexed device, bytes32 indexed evidence, bytes32 indexed run, address token, uint256 amount
    );

    /// @notice The length of an epoch is not between 4 seconds and a week, or does not divide the time between two
    /// halvings of the emission.
    error InvalidEpochLength(uint64 epoch_s);
    /// @notice Enrollment is open in the first quarter of an epoch, after its first second.
    error EnrollmentClosed(uint64 epoch);
    /// @notice The household has or had a seat in this epoch.
    error AlreadyEnrolled(address household);
    /// @notice The household had no votes when the epoch began.
    error NoWeight(address household);
    /// @notice All seats are taken by quicker ones.
    error NotDrawn(address household);
    /// @notice The set of this epoch is not fixed yet.
    error NotSealed(uint64 epoch);
    /// @notice Too few enrolled: the epoch has no set.
    error NoQuorum(uint64 epoch, uint256 weight, uint256 due);
    /// @notice A signature of a seat that does not belong to the set, or is not the seat's.
    error NotSigned(uint256 seat);
    /// @notice The signatures are not 65 bytes for each seat of the mask.
    error InvalidSignatures(uint256 length);
    /// @notice The signers have less than two thirds of the weight.
    error TooLittleWeight(uint256 weight, uint256 total);
    /// @notice The set of that epoch is not in office.
    error NotInOffice(uint64 epoch, uint64 inOffice);
    /// @notice This evidence against this device and token was used.
    error VerdictExists(address device, bytes32 evidence);

    /// @notice Enrolls a device in the present epoch. Anyone may send it; the device signs a statement for this contract
    /// under `ENROLLMENT_TOPIC`, with the epoch as sequence and zero as content.
    function enroll(address device, bytes calldata signature) external;

    /// @notice Reverts unless two thirds of the set of (`epoch`, `run`) signed the statement for the sender.
    /// @param run Zero for the set of the whole epoch.
    /// @param mask Bit i where seat i signed.
    /// @param signatures 65 bytes each, in the order of seats.
    function check(
        uint64 epoch,
        bytes32 run,
        bytes32 topic,
        uint64 sequence,
        bytes32 content,
        uint32 mask,
        bytes calldata signatures
    ) external;

    /// @notice Excludes a device and burns `amount`, at most a quarter, of the bond that it put up before this contract.
    /// Signed by the set of (`epoch`, `run`) in office, as a statement under the verdict's own topic, with sequence zero.
    function convict(
        uint64 epoch,
        bytes32 run,
        address device,
        address token,
        uint256 amount,
        bytes32 evidence,
        uint32 mask,
        bytes calldata signatures
    ) external;

    /// @notice The set of (`epoch`, `run`), fixed now if it was not.
    function seal(uint64 epoch, bytes32 run) external returns (Committee memory);

    /// @notice Seconds of an epoch.
    function EPOCH_S() external view returns (uint64);
    /// @notice Unix seconds at which epoch 0 began.
    function ORIGIN() external view returns (uint64);
    /// @notice The epoch that `time` (Unix seconds) is in.
    function epochAt(uint256 time) external view returns (uint64);
    /// @notice The newest epoch whose enrollment has ended; reverts before the first has.
    function inOffice() external view returns (uint64);
    /// @notice What the race of an epoch is run with; zero before anyone enrolled.
    function beacon(uint64 epoch) external view returns (bytes32);
    /// @notice Seats of an epoch that are taken, in order.
    function seats(uint64 epoch) external view returns (Seat[] memory);
    /// @notice The set of (`epoch`, `run`) as it was fixed; all zero before that.
    function committee(uint64 epoch, bytes32 run) external view returns (Committee memory);
    /// @notice Whether a verdict excluded the device.
    function isExcluded(address device) external view returns (bool);
}
