// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title SmartWallet
/// @notice A wallet of one owner that answers by ERC-1271. An account that delegates to this code by EIP-7702 has no
/// stored owner and answers for its own key.
///
/// Storage layout:
///   slot 0  address stored
contract SmartWallet {
    address private stored;

    error Unauthorized(address caller);

    constructor(address owner_) {
        stored = owner_;
    }

    receive() external payable virtual {}

    function owner() public view returns (address) {
        return stored == address(0) ? address(this) : stored;
    }

    /// @notice Answers 0x1626ba7e if the signature is the owner's over the hash, by 65 bytes of ECDSA, else 0xffffffff.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return 0xffffffff;
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
        return signer != address(0) && signer == owner() ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    /// @notice Calls as the wallet; only for the owner.
    function execute(address to, uint256 value, bytes calldata data) external returns (bytes memory answer) {
        if (msg.sender != owner()) revert Unauthorized(msg.sender);
        bool ok;
        (ok, answer) = to.call{value: value}(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
    }
}
