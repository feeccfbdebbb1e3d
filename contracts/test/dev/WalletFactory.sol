// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SmartWallet} from "./SmartWallet.sol";

/// @title WalletFactory
/// @notice Creates wallets at addresses that are known before: what ERC-6492 calls counterfactual.
contract WalletFactory {
    /// @notice Creates the wallet of an owner and a salt, or returns the one that is there.
    function createAccount(address owner, uint256 salt) external returns (address wallet) {
        wallet = getAddress(owner, salt);
        if (wallet.code.length == 0) new SmartWallet{salt: bytes32(salt)}(owner);
    }

    function getAddress(address owner, uint256 salt) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(SmartWallet).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(hex"ff", address(this), bytes32(salt), code)))));
    }
}
