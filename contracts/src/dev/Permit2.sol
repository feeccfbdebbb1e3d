// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "./SignatureTransfer.sol";

/// @title Permit2
/// @notice The signature half of Permit2's interface, for development chains: whoever approved this contract signs a
/// message, and the spender that the message names moves the token once. Approvals with an expiry, which are the other half
/// of that interface, are not here: x402 does not use them.
///
/// It has no constructor and no immutables, so its runtime code works wherever it is put. The EIP-712 domain has a name but
/// no version, and is computed at each call from the chain and the address.
///
/// Storage layout:
///   slot 0  mapping(address => mapping(uint256 => uint256)) nonceBitmap
contract Permit2 is ISignatureTransfer {
    mapping(address owner => mapping(uint256 word => uint256)) public nonceBitmap;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("Permit2");
    bytes32 private constant PERMISSIONS_TYPEHASH = keccak256("TokenPermissions(address token,uint256 amount)");
    bytes32 private constant SINGLE_TYPEHASH = keccak256(
        "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)"
    );
    bytes32 private constant BATCH_TYPEHASH = keccak256(
        "PermitBatchTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)"
    );
    // A witness type string continues these: its own member first, then the definitions of all types in alphabetical order.
    string private constant SINGLE_WITNESS_BEGINNING =
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,";
    string private constant BATCH_WITNESS_BEGINNING =
        "PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline,";

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, block.chainid, address(this)));
    }

    /// @notice Spends the caller's nonces wordPos × 256 + i for every bit i of mask, so that no signature can use them.
    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external {
        nonceBitmap[msg.sender][wordPos] |= mask;
        emit UnorderedNonceInvalidation(msg.sender, wordPos, mask);
    }

    function permitTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external {
        bytes32 permissions = _hash(permit.permitted);
        bytes32 structHash =
            keccak256(abi.encode(SINGLE_TYPEHASH, permissions, msg.sender, permit.nonce, permit.deadline));
        _one(permit, transferDetails, owner, structHash, signature);
    }

    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        bytes32 typehash = keccak256(abi.encodePacked(SINGLE_WITNESS_BEGINNING, witnessTypeString));
        bytes32 permissions = _hash(permit.permitted);
        bytes32 structHash =
            keccak256(abi.encode(typehash, permissions, msg.sender, permit.nonce, permit.deadline, witness));
        _one(permit, transferDetails, owner, structHash, signature);
    }

    function permitTransferFrom(
        PermitBatchTransferFrom calldata permit,
        SignatureTransferDetails[] calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external {
        bytes32 permissions = _hash(permit.permitted);
        bytes32 structHash =
            keccak256(abi.encode(BATCH_TYPEHASH, permissions, msg.sender, permit.nonce, permit.deadline));
        _many(permit, transferDetails, owner, structHash, signature);
    }

    function permitWitnessTransferFrom(
        PermitBatchTransferFrom calldata permit,
        SignatureTransferDetails[] calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        bytes32 typehash = keccak256(abi.encodePacked(BATCH_WITNESS_BEGINNING, witnessTypeString));
        bytes32 permissions = _hash(permit.permitted);
        bytes32 structHash =
            keccak256(abi.encode(typehash, permissions, msg.sender, permit.nonce, permit.deadline, witness));
        _many(permit, transferDetails, owner, structHash, signature);
    }

    function _one(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata details,
        address owner,
        bytes32 structHash,
        bytes calldata signature
    ) private {
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        if (details.requestedAmount > permit.permitted.amount) revert InvalidAmount(permit.permitted.amount);
        _spend(owner, permit.nonce);
        _authenticate(owner, structHash, signature);
        _move(permit.permitted.token, owner, details.to, details.requestedAmount);
    }

    function _many(
        PermitBatchTransferFrom calldata permit,
        SignatureTransferDetails[] calldata details,
        address owner,
        bytes32 structHash,
        bytes calldata signature
    ) private {
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        uint256 n = permit.permitted.length;
        if (n != details.length) revert LengthMismatch();
        _spend(owner, permit.nonce);
        _authenticate(owner, structHash, signature);
        for (uint256 i = 0; i < n; i++) {
            TokenPermissions calldata permitted = permit.permitted[i];
            if (details[i].requestedAmount > permitted.amount) revert InvalidAmount(permitted.amount);
            // A part of nothing is how a spender leaves a token of the batch out.
            if (details[i].requestedAmount == 0) continue;
            _move(permitted.token, owner, details[i].to, details[i].requestedAmount);
        }
    }

    /// Marks a nonce as used. The bit is set before the token is called, so a token that calls back finds it taken.
    function _spend(address owner, uint256 nonce) private {
        uint256 bit = 1 << (nonce & 0xff);
        uint256 word = nonceBitmap[owner][nonce >> 8];
        if (word & bit != 0) revert InvalidNonce();
        nonceBitmap[owner][nonce >> 8] = word | bit;
    }

    /// An owner with code answers for itself, which includes accounts that delegated by EIP-7702. The two ECDSA encodings,
    /// and both of the values that s can take, stand for one signature here: the nonce is what makes it single.
    function _authenticate(address owner, bytes32 structHash, bytes calldata signature) private view {
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", DOMAIN_SEPARATOR(), structHash));
        if (owner.code.length > 0) {
            // isValidSignature(bytes32,bytes), whose selector is also the answer for yes
            (bool ok, bytes memory answer) = owner.staticcall(abi.encodeWithSelector(0x1626ba7e, digest, signature));
            if (!ok || answer.length < 32 || bytes32(answer) != bytes32(bytes4(0x1626ba7e))) {
                revert InvalidContractSignature();
            }
            return;
        }
        bytes32 s;
        uint8 v;
        if (signature.length == 65) {
            (s, v) = (bytes32(signature[32:64]), uint8(signature[64]));
        } else if (signature.length == 64) {
            // EIP-2098: the top bit of s, which is free, holds the parity.
            uint256 packed = uint256(bytes32(signature[32:64]));
            (s, v) = (bytes32(packed & (type(uint256).max >> 1)), uint8(27 + (packed >> 255)));
        } else {
            revert InvalidSignatureLength();
        }
        address signer = ecrecover(digest, v, bytes32(signature[:32]), s);
        if (signer == address(0)) revert InvalidSignature();
        if (signer != owner) revert InvalidSigner();
    }

    /// Moves a token that returns true or, as old ones do, nothing.
    function _move(address token, address from, address to, uint256 amount) private {
        // transferFrom(address,address,uint256)
        bytes memory data = abi.encodeWithSelector(0x23b872dd, from, to, amount);
        bool ok;
        assembly ("memory-safe") {
            mstore(0x00, 0)
            ok := call(gas(), token, 0, add(data, 32), mload(data), 0x00, 0x20)
            switch returndatasize()
            case 0 { ok := and(ok, gt(extcodesize(token), 0)) }
            default { ok := and(ok, and(gt(returndatasize(), 31), eq(mload(0x00), 1))) }
        }
        require(ok, "TRANSFER_FROM_FAILED");
    }

    function _hash(TokenPermissions calldata permitted) private pure returns (bytes32) {
        return keccak256(abi.encode(PERMISSIONS_TYPEHASH, permitted.token, permitted.amount));
    }

    function _hash(TokenPermissions[] calldata permitted) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](permitted.length);
        for (uint256 i = 0; i < hashes.length; i++) {
            hashes[i] = _hash(permitted[i]);
        }
        return keccak256(abi.encodePacked(hashes));
    }
}
