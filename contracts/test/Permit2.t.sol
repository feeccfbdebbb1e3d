// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ExactProxy} from "../src/dev/ExactProxy.sol";
import {Permit2} from "../src/dev/Permit2.sol";
import {SettlementProxy} from "../src/dev/SettlementProxy.sol";
import {ISignatureTransfer} from "../src/dev/SignatureTransfer.sol";
import {TestTether} from "../src/dev/TestTether.sol";
import {UptoProxy} from "../src/dev/UptoProxy.sol";
import {Base} from "./Base.sol";

/// What holds for all amounts, nonces and times. The rules one by one are attacked in dev_test.go, with the committed
/// bytecode and the reference's vectors.
contract Permit2Test is Base {
    uint256 private constant KEY = 0xa11ce;
    bytes32 private constant PERMISSIONS = keccak256("TokenPermissions(address token,uint256 amount)");

    Permit2 private permit2 = Permit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);
    ExactProxy private exact;
    UptoProxy private upto;
    TestTether private token;
    address private payer;

    function setUp() public override {
        vm.warp(START);
        vm.etch(address(permit2), address(new Permit2()).code);
        (exact, upto, token, payer) = (new ExactProxy(), new UptoProxy(), new TestTether(), vm.addr(KEY));
        token.mint(payer, type(uint128).max);
        vm.prank(payer);
        token.approve(address(permit2), type(uint256).max);
    }

    function sign(address spender, ISignatureTransfer.PermitTransferFrom memory p, string memory witnessType, bytes32 witness)
        private
        view
        returns (bytes memory)
    {
        bytes32 typehash = keccak256(
            abi.encodePacked(
                "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,",
                witnessType
            )
        );
        bytes32 permitted = keccak256(abi.encode(PERMISSIONS, p.permitted.token, p.permitted.amount));
        bytes32 h = keccak256(abi.encode(typehash, permitted, spender, p.nonce, p.deadline, witness));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(KEY, keccak256(abi.encodePacked(hex"1901", permit2.DOMAIN_SEPARATOR(), h)));
        return abi.encodePacked(r, s, v);
    }

    function signExact(ISignatureTransfer.PermitTransferFrom memory p, ExactProxy.Witness memory w)
        private
        view
        returns (bytes memory)
    {
        bytes32 witness = keccak256(abi.encode(exact.WITNESS_TYPEHASH(), w.to, w.validAfter));
        return sign(address(exact), p, exact.WITNESS_TYPE_STRING(), witness);
    }

    function signUpto(ISignatureTransfer.PermitTransferFrom memory p, UptoProxy.Witness memory w)
        private
        view
        returns (bytes memory)
    {
        bytes32 witness = keccak256(abi.encode(upto.WITNESS_TYPEHASH(), w.to, w.facilitator, w.validAfter));
        return sign(address(upto), p, upto.WITNESS_TYPE_STRING(), witness);
    }

    function permit(uint256 amount, uint256 nonce, uint256 deadline)
        private
        view
        returns (ISignatureTransfer.PermitTransferFrom memory)
    {
        return ISignatureTransfer.PermitTransferFrom(
            ISignatureTransfer.TokenPermissions(address(token), amount), nonce, deadline
        );
    }

    function testFuzz_exact_moves_what_was_signed_once(uint128 amount, uint256 nonce, uint64 after_, uint64 left) public {
        ISignatureTransfer.PermitTransferFrom memory p = permit(amount, nonce, uint256(START) + left);
        ExactProxy.Witness memory w = ExactProxy.Witness(bob, after_);
        bytes memory signature = signExact(p, w);
        if (amount == 0) {
            vm.expectRevert(SettlementProxy.InvalidAmount.selector);
            exact.settle(p, payer, w, signature);
            return;
        }
        if (after_ > START) {
            vm.expectRevert(SettlementProxy.PaymentTooEarly.selector);
            exact.settle(p, payer, w, signature);
            vm.warp(after_);
        }
        if (vm.getBlockTimestamp() > p.deadline) {
            vm.expectRevert(abi.encodeWithSelector(ISignatureTransfer.SignatureExpired.selector, p.deadline));
            exact.settle(p, payer, w, signature);
            return;
        }
        exact.settle(p, payer, w, signature);
        eq(token.balanceOf(bob), amount, "arrived");
        eq(token.balanceOf(payer), type(uint128).max - amount, "left");
        eq(permit2.nonceBitmap(payer, nonce >> 8), 1 << (nonce & 255), "one nonce");
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        exact.settle(p, payer, w, signature);
    }

    function testFuzz_a_changed_field_is_another_payment(uint8 which, uint256 other) public {
        ISignatureTransfer.PermitTransferFrom memory p = permit(100, 1, START + 60);
        ExactProxy.Witness memory w = ExactProxy.Witness(bob, START);
        bytes memory signature = signExact(p, w);
        which %= 5;
        if (which == 0) p.permitted.amount = other = 1 + other % type(uint128).max;
        if (which == 1) p.nonce = other;
        if (which == 2) p.deadline = other = START + other % 1 days;
        if (which == 3) w.validAfter = other = other % (START + 1);
        if (which == 4) w.to = address(uint160(other = 1 + other % type(uint160).max));
        vm.assume(other != [uint256(100), 1, START + 60, START, uint160(bob)][which]);
        vm.expectRevert(); // InvalidSigner, or InvalidSignature when the mutilated message recovers nobody
        exact.settle(p, payer, w, signature);
        eq(token.balanceOf(payer), type(uint128).max, "nothing moved");
    }

    function testFuzz_upto_takes_at_most_what_was_signed(uint128 most, uint128 amount, address other) public {
        vm.assume(most > 0 && amount > 0 && other != alice);
        ISignatureTransfer.PermitTransferFrom memory p = permit(most, 7, START);
        UptoProxy.Witness memory w = UptoProxy.Witness(bob, alice, 0);
        bytes memory signature = signUpto(p, w);
        vm.prank(other);
        vm.expectRevert(UptoProxy.UnauthorizedFacilitator.selector);
        upto.settle(p, amount, payer, w, signature);
        vm.startPrank(alice);
        if (amount > most) {
            vm.expectRevert(UptoProxy.AmountExceedsPermitted.selector);
            upto.settle(p, amount, payer, w, signature);
            amount = most;
        }
        upto.settle(p, amount, payer, w, signature);
        eq(token.balanceOf(bob), amount, "arrived");
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        upto.settle(p, 1, payer, w, signature);
    }

    function testFuzz_invalidated_nonces_are_those_of_the_mask(uint248 word, uint256 mask, uint8 bit) public {
        vm.prank(payer);
        permit2.invalidateUnorderedNonces(word, mask);
        ISignatureTransfer.PermitTransferFrom memory p = permit(5, (uint256(word) << 8) | bit, START);
        ExactProxy.Witness memory w = ExactProxy.Witness(bob, 0);
        bytes memory signature = signExact(p, w);
        bool gone = (mask >> bit) & 1 == 1;
        if (gone) vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        exact.settle(p, payer, w, signature);
        eq(token.balanceOf(bob), gone ? 0 : 5, "arrived");
    }
}
