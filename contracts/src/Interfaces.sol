// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {G2Point} from "./Bls.sol";

/// @notice A version of an asset's cycle times, all in seconds. Cycles start at fromStart + k × length.
struct Schedule {
    uint64 fromStart;
    uint32 length;
    uint32 cutoff;
    uint32 post;
    uint32 challenge;
    uint32 repost;
    uint32 redeem;
}

/// @notice What the other contracts ask of the Vault. Each function that changes something names who may call it.
interface IVault {
    function clearingHouse() external view returns (address);
    function disputes() external view returns (address);
    function redemption() external view returns (address);
    function withdrawalGracePeriod() external view returns (uint64);
    function bond(address asset) external view returns (uint256);
    function autoSettle(address user) external view returns (bool);
    function isSigner(address owner, address key) external view returns (bool);
    function takeDebits(address asset, uint64 periodStart, bytes calldata positions)
        external
        returns (uint256[] memory fills);
    function returnDebits(address asset, bytes calldata positions, uint256[] calldata fills)
        external
        returns (uint256 debtors);
    function pullDebit(address asset, address debtor, uint256 amount, uint256 filled) external payable;
    function payOut(address asset, address to, uint256 amount) external;
    function credit(address asset, address owner, uint256 amount) external;
    function reward(address asset, address to, uint256 atMost) external returns (uint256 paid);
    function takeCollateral(address asset, address owner, uint256 atMost) external returns (uint256 taken);
    function takeBond(address asset, uint256 atMost) external returns (uint256 taken);
    function giveBond(address asset, uint256 amount) external;
    function certified(uint256 index, bytes calldata message, G2Point calldata signature, uint64 periodStart)
        external
        view
        returns (bool);
}

/// @notice What the Vault asks of the ClearingHouse.
interface IClearingHouse {
    function operator() external view returns (address);
    function nextStart(address asset) external view returns (uint64);
    function lastPost(address asset, uint64 before) external view returns (uint64);
}
