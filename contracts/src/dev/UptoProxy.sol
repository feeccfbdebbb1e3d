// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "./SignatureTransfer.sol";
import {SettlementProxy} from "./SettlementProxy.sol";

/// @title UptoProxy
/// @notice x402's proxy for the scheme "upto": the facilitator that the payer named says how much of the signed amount
/// moves. Whatever it says, the signature is used up. On public chains it is at
/// 0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002.
contract UptoProxy is SettlementProxy {
    struct Witness {
        address to;
        address facilitator; // the only one that may submit
        uint256 validAfter; // unix time from which it counts, inclusive
    }

    string public constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)";
    bytes32 public constant WITNESS_TYPEHASH =
        keccak256("Witness(address to,address facilitator,uint256 validAfter)");

    error UnauthorizedFacilitator();
    error AmountExceedsPermitted();

    function settle(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external once {
        _upto(permit, amount, owner, witness, signature);
        emit Settled();
    }

    /// @notice Like settle, after an EIP-2612 permit for the whole signed amount.
    function settleWithPermit(
        EIP2612Permit calldata permit2612,
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external once {
        _approve(permit2612, permit.permitted, owner);
        _upto(permit, amount, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _upto(
        ISignatureTransfer.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) private {
        if (msg.sender != witness.facilitator) revert UnauthorizedFacilitator();
        if (amount > permit.permitted.amount) revert AmountExceedsPermitted();
        bytes32 hash = keccak256(abi.encode(WITNESS_TYPEHASH, witness.to, witness.facilitator, witness.validAfter));
        _settle(permit, amount, owner, witness.to, witness.validAfter, hash, WITNESS_TYPE_STRING, signature);
    }
}
