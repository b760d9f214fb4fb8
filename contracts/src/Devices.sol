// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {Device, IDevices, Stake} from "./interfaces/IDevices.sol";
import {Statements} from "./libraries/Statements.sol";

/// @title Devices
/// @notice See `IDevices`. No constructor and no immutable: right wherever a genesis places it.
/// @dev Slashing never calls a token, so that no token can stand in its way.
contract Devices is IDevices, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint64 public constant UNBONDING_S = 21 days;
    uint64 public constant BAR_S = 180 days;

    /// @dev A verdict takes at most one part in this many of a stake.
    uint256 private constant VERDICT_PARTS = 4;
    /// @dev A device that convicts itself loses one part in this many.
    uint256 private constant EXPULSION_PARTS = 2;
    uint256 private constant SIGNATURE_BYTES = 65;

    mapping(address sessionKey => Device) private _devices;
    mapping(address device => mapping(address court => mapping(address token => Stake))) private _stakes;
    /// @inheritdoc IDevices
    mapping(address household => uint64) public barredUntil;
    /// @inheritdoc IDevices
    mapping(address token => uint256) public burnt;

    /// @inheritdoc IDevices
    function register(
        bytes32 endpointKey,
        address household,
        address sessionKey,
        bytes calldata householdSignature,
        bytes calldata sessionSignature
    ) external {
        if (_devices[sessionKey].household != address(0)) revert DeviceExists(sessionKey);
        bytes32 digest = Statements.registration(address(this), endpointKey, household, sessionKey);
        if (household == address(0)) revert InvalidSignature(household);
        if (!SignatureChecker.isValidSignatureNowCalldata(household, digest, householdSignature)) {
            revert InvalidSignature(household);
        }
        if (ECDSA.recoverCalldata(digest, sessionSignature) != sessionKey) revert InvalidSignature(sessionKey);
        _devices[sessionKey] = Device(household, false, false, endpointKey);
        emit Registered(sessionKey, household, endpointKey);
    }

    /// @inheritdoc IDevices
    function retire(address sessionKey) external {
        Device storage found = _known(sessionKey);
        if (msg.sender != sessionKey && msg.sender != found.household) revert NotOfDevice(msg.sender);
        found.isRetired = true;
        emit Retired(sessionKey);
    }

    /// @inheritdoc IDevices
    function bond(address device, address court, address token, uint256 amount) external nonReentrant {
        _active(device);
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received == 0) revert InvalidAmount(received);
        Stake storage found = _stakes[device][court][token];
        // Both halves of a stake together fit in 128 bits, so that no later sum of them overflows.
        found.bonded = SafeCast.toUint128(found.bonded + received + found.leaving) - found.leaving;
        emit Bonded(device, court, token, received);
    }

    /// @inheritdoc IDevices
    function unbond(address device, address court, address token, uint256 amount) external {
        if (msg.sender != _known(device).household) revert NotOfDevice(msg.sender);
        Stake storage found = _seize(device, court, token);
        if (amount == 0 || amount > found.bonded) revert InvalidAmount(amount);
        uint64 leavesAt = uint64(block.timestamp) + UNBONDING_S;
        found.bonded -= uint128(amount);
        found.leaving += uint128(amount);
        found.leavesAt = leavesAt;
        emit UnbondingStarted(device, court, token, amount, leavesAt);
    }

    /// @inheritdoc IDevices
    function withdraw(address device, address court, address token) external nonReentrant {
        address household = _known(device).household;
        Stake storage found = _seize(device, court, token);
        uint256 amount = found.leaving;
        if (amount == 0 || block.timestamp < found.leavesAt) revert BondLeavesAt(found.leavesAt);
        found.leaving = 0;
        found.leavesAt = 0;
        emit BondWithdrawn(device, court, token, amount);
        IERC20(token).safeTransfer(household, amount);
    }

    /// @inheritdoc IDevices
    function slash(address device, address token, uint256 amount) external {
        Stake storage found = _stakes[device][msg.sender][token];
        uint256 most = (uint256(found.bonded) + found.leaving) / VERDICT_PARTS;
        if (amount == 0 || amount > most) revert ExcessiveSlash(amount, most);
        _burn(found, device, msg.sender, token, amount);
    }

    /// @inheritdoc IDevices
    function expel(
        address device,
        bytes32 subject,
        uint64 sequence,
        bytes32[2] calldata contents,
        bytes calldata firstSignature,
        bytes calldata secondSignature
    ) external {
        if (contents[0] == contents[1]) revert SameStatement();
        if (_known(device).isExpelled) revert DeviceInactive(device);
        bytes32 first = Statements.statement(address(this), subject, sequence, contents[0]);
        bytes32 second = Statements.statement(address(this), subject, sequence, contents[1]);
        if (ECDSA.recoverCalldata(first, firstSignature) != device) revert InvalidSignature(device);
        if (ECDSA.recoverCalldata(second, secondSignature) != device) revert InvalidSignature(device);
        _expel(device, address(this), subject);
    }

    /// @inheritdoc IDevices
    function convict(bytes32 topic, uint64 sequence, bytes32 content, bytes calldata signatures) external {
        bytes32 subject = Statements.subject(msg.sender, topic);
        bytes32 digest = Statements.statement(address(this), subject, sequence, content);
        for (uint256 i = 0; i + SIGNATURE_BYTES <= signatures.length; i += SIGNATURE_BYTES) {
            (address signer, ECDSA.RecoverError problem,) =
                ECDSA.tryRecoverCalldata(digest, signatures[i:i + SIGNATURE_BYTES]);
            if (problem != ECDSA.RecoverError.NoError) continue;
            Device storage found = _devices[signer];
            if (found.household != address(0) && !found.isExpelled) _expel(signer, msg.sender, subject);
        }
    }

    /// @inheritdoc IDevices
    function seize(address device, address court, address token) external {
        if (!_known(device).isExpelled) revert InvalidAmount(0);
        _seize(device, court, token);
    }

    /// @inheritdoc IDevices
    function deviceOf(address sessionKey) external view returns (Device memory) {
        return _devices[sessionKey];
    }

    /// @inheritdoc IDevices
    function stakeOf(address device, address court, address token) external view returns (Stake memory) {
        return _stakes[device][court][token];
    }

    /// @inheritdoc IDevices
    function validatorOf(address device) external view returns (address household) {
        household = _active(device).household;
        if (block.timestamp < barredUntil[household]) revert DeviceInactive(device);
    }

    /// @inheritdoc IDevices
    function statementDigest(address court, bytes32 topic, uint64 sequence, bytes32 content)
        external
        view
        returns (bytes32)
    {
        return Statements.statement(address(this), court, topic, sequence, content);
    }

    /// @inheritdoc IDevices
    function registrationDigest(bytes32 endpointKey, address household, address sessionKey)
        external
        view
        returns (bytes32)
    {
        return Statements.registration(address(this), endpointKey, household, sessionKey);
    }

    function _expel(address device, address court, bytes32 subject) private {
        Device storage found = _devices[device];
        found.isExpelled = true;
        barredUntil[found.household] = uint64(block.timestamp) + BAR_S;
        emit Expelled(device, found.household, court, subject);
    }

    /// @dev Takes an expelled device's share from a stake, the first time that the stake is looked at.
    function _seize(address device, address court, address token) private returns (Stake storage found) {
        found = _stakes[device][court][token];
        if (!_devices[device].isExpelled || found.isSeized) return found;
        found.isSeized = true;
        uint256 amount = (uint256(found.bonded) + found.leaving) / EXPULSION_PARTS;
        if (amount != 0) _burn(found, device, court, token, amount);
    }

    /// @dev `amount` is at most the stake. What is bonded goes first.
    function _burn(Stake storage found, address device, address court, address token, uint256 amount) private {
        uint128 fromBonded = amount < found.bonded ? uint128(amount) : found.bonded;
        found.bonded -= fromBonded;
        found.leaving -= uint128(amount) - fromBonded;
        burnt[token] += amount;
        emit Slashed(device, court, token, amount);
    }

    function _known(address sessionKey) private view returns (Device storage found) {
        found = _devices[sessionKey];
        if (found.household == address(0)) revert DeviceUnknown(sessionKey);
    }

    function _active(address sessionKey) private view returns (Device storage found) {
        found = _known(sessionKey);
        if (found.isRetired || found.isExpelled) revert DeviceInactive(sessionKey);
    }
}
