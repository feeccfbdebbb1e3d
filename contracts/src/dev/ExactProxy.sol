// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "./SignatureTransfer.sol";
import {SettlementProxy} from "./SettlementProxy.sol";

/// @title ExactProxy
/// @notice x402's proxy for the scheme "exact" by Permit2: anybody may submit, and exactly the signed amount moves. On
/// public chains it is at 0x402085c248EeA27D92E8b30b2C58ed07f9E20001.
contract ExactProxy is SettlementProxy {
    struct Witness {
        address to;
        uint256 validAfter; // unix time from which it counts, inclusive
    }

    string public constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)";
    bytes32 public constant WITNESS_TYPEHASH = keccak256("Witness(address to,uint256 validAfter)");

    function settle(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external once {
        _exact(permit, owner, witness, signature);
        emit Settled();
    }

    /// @notice Like settle, after an EIP-2612 permit for exactly the same amount.
    function settleWithPermit(
        EIP2612Permit calldata permit2612,
        ISignatureTransfer.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external once {
        _approve(permit2612, permit.permitted, owner);
        _exact(permit, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _exact(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) private {
        bytes32 hash = keccak256(abi.encode(WITNESS_TYPEHASH, witness.to, witness.validAfter));
        _settle(
            permit,
            permit.permitted.amount,
            owner,
            witness.to,
            witness.validAfter,
            hash,
            WITNESS_TYPE_STRING,
            signature
        );
    }
}
