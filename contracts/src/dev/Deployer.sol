// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Deployer
/// @notice Creates contracts at addresses that depend on a salt and the creation code only, with the interface of the
/// deployer at 0x4e59b44847b379578588920cA78FbF26c0B4956C on public chains: the call's data is the salt's 32 bytes, then
/// the creation code; the answer is the address's 20 bytes, not a word. A creation that fails reverts.
contract Deployer {
    fallback() external payable {
        assembly ("memory-safe") {
            if lt(calldatasize(), 32) { revert(0, 0) }
            let size := sub(calldatasize(), 32)
            let code := mload(0x40)
            calldatacopy(code, 32, size)
            let created := create2(callvalue(), code, size, calldataload(0))
            if iszero(created) { revert(0, 0) }
            mstore(0x00, created)
            return(0x0c, 20)
        }
    }
}
