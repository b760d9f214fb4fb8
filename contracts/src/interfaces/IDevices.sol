// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @notice A registered device, named by its session key.
/// @param household The account that it works for; zero where no device of that key is registered.
/// @param isRetired Its household took it out of service.
/// @param isExpelled It was proved to have said two things, or to have signed what a court found false.
/// @param endpointKey The Ed25519 key by which the network knows it.
struct Device {
    address household;
    bool isRetired;
    bool isExpelled;
    bytes32 endpointKey;
}

/// @notice What stands behind a device in one token, before one court.
/// @param bonded Atomic units that stay until they are asked back.
/// @param leaving Atomic units that were asked back, and can still be slashed.
/// @param leavesAt Unix seconds from which on what leaves can be taken.
/// @param isSeized The device was expelled and its share of the stake burnt.
struct Stake {
    uint128 bonded;
    uint128 leaving;
    uint64 leavesAt;
    bool isSeized;
}

/// @title Devices and what they have at stake
/// @notice A household and a session key both sign that they belong together. Anyone may put up a bond in any ERC-20 for
/// a device, before one court: the contract that may slash it. What is asked back leaves after a delay longer than
/// every challenge window. What is slashed is burnt: it stays here, and nobody gains by a verdict.
/// @dev A court is any contract. It can do nothing to a device that neither put up a bond before it nor signed a
/// statement that names it. Statements are EIP-712 typed data in the domain of this contract.
interface IDevices {
    event Registered(address indexed sessionKey, address indexed household, bytes32 indexed endpointKey);
    event Retired(address indexed sessionKey);
    event Bonded(address indexed device, address indexed court, address indexed token, uint256 amount);
    event UnbondingStarted(
        address indexed device, address indexed court, address indexed token, uint256 amount, uint64 leavesAt
    );
    event BondWithdrawn(address indexed device, address indexed court, address indexed token, uint256 amount);
    event Slashed(address indexed device, address indexed court, address indexed token, uint256 amount);
    /// @notice The device signed two statements of one subject and sequence, or one that `court` found false.
    event Expelled(address indexed device, address indexed household, address indexed court, bytes32 subject);

    /// @notice The session key is registered, and stays so.
    error DeviceExists(address sessionKey);
    /// @notice No device of that key is registered.
    error DeviceUnknown(address sessionKey);
    /// @notice The device was retired or expelled.
    error DeviceInactive(address sessionKey);
    /// @notice The sender is neither the device nor its household.
    error NotOfDevice(address account);
    /// @notice The signature is not `signer`'s.
    error InvalidSignature(address signer);
    /// @notice The amount is zero, or more than there is.
    error InvalidAmount(uint256 amount);
    /// @notice What leaves can be taken from that time on; zero where nothing leaves.
    error BondLeavesAt(uint64 leavesAt);
    /// @notice A verdict takes at most a quarter of the stake.
    error ExcessiveSlash(uint256 amount, uint256 most);
    /// @notice Two equal statements, which prove nothing.
    error SameStatement();

    /// @notice Registers a device. Anyone may send it; both sign `Registration`, the household by ERC-1271 where it is
    /// a contract. A session key is registered once and for all.
    function register(
        bytes32 endpointKey,
        address household,
        address sessionKey,
        bytes calldata householdSignature,
        bytes calldata sessionSignature
    ) external;

    /// @notice Takes a device out of service for good. For the device and its household. Bonds stay until asked back.
    function retire(address sessionKey) external;

    /// @notice Puts up what arrives of `amount` for a device. Anyone may; only the household gets it back.
    function bond(address device, address court, address token, uint256 amount) external;

    /// @notice Asks `amount` back, for the household alone. All that leaves waits for the whole delay again.
    function unbond(address device, address court, address token, uint256 amount) external;

    /// @notice Pays what waited long enough to the household. Anyone may send it.
    function withdraw(address device, address court, address token) external;

    /// @notice Burns `amount`, at most a quarter, of what a device has at stake before the sender.
    function slash(address device, address token, uint256 amount) external;

    /// @notice Expels the device that signed two contents under one subject and sequence. Anyone who has both may.
    function expel(
        address device,
        bytes32 subject,
        uint64 sequence,
        bytes32[2] calldata contents,
        bytes calldata firstSignature,
        bytes calldata secondSignature
    ) external;

    /// @notice Expels all devices that signed a statement for the sender, which found it to be false. `signatures` are
    /// 65 bytes each; those of other keys are skipped.
    function convict(bytes32 topic, uint64 sequence, bytes32 content, bytes calldata signatures) external;

    /// @notice Burns half of what an expelled device has at stake, once. Anyone may send it; taking anything out does
    /// it too.
    function seize(address device, address court, address token) external;

    /// @notice Seconds that a bond needs to leave; no challenge window and no epoch is longer than a third of it.
    function UNBONDING_S() external view returns (uint64);
    /// @notice Seconds for which no device of a household can validate after one of them was expelled.
    function BAR_S() external view returns (uint64);
    /// @notice A registered device.
    function deviceOf(address sessionKey) external view returns (Device memory);
    /// @notice Stake of a device.
    function stakeOf(address device, address court, address token) external view returns (Stake memory);
    /// @notice Unix seconds until which no device of the household can validate.
    function barredUntil(address household) external view returns (uint64);
    /// @notice Atomic units that were slashed.
    function burnt(address token) external view returns (uint256);
    /// @notice The household of a device that may validate now; reverts for any other.
    function validatorOf(address device) external view returns (address household);
    /// @notice Digest that a device signs to state `content` for `court` under `topic` and `sequence`.
    function statementDigest(address court, bytes32 topic, uint64 sequence, bytes32 content)
        external
        view
        returns (bytes32);
    /// @notice Digest that household and session key sign.
    function registrationDigest(bytes32 endpointKey, address household, address sessionKey)
        external
        view
        returns (bytes32);
}
