// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, Pos} from "./Base.sol";
import {ClearingHouse} from "../src/ClearingHouse.sol";
import {G1Point, G2Point} from "../src/Bls.sol";
import {TestDollar} from "../src/TestDollar.sol";
import {Vault} from "../src/Vault.sol";

/// Deposits, withdrawals, limits, keys, the bond, and who may call what.
contract VaultTest is Base {
    uint256 private constant KEY = 0xa11ce;

    function no(address who) private pure returns (bytes memory) {
        return abi.encodeWithSelector(Vault.NotAllowed.selector, who);
    }

    // ------------------------------------------------------------------------- deposits

    function test_deposits_and_views() public {
        vm.deal(alice, 5);
        vm.prank(alice);
        vault.deposit{value: 5}();
        fund(alice, 7);
        eq(vault.collateral(alice), 5, "native");
        eq(vault.guaranteeCapacity(alice, asset), 7, "token");
        eq(vault.principalBalance(alice, asset), 7, "principal");
        eq(vault.withdrawableBalance(alice, asset), 7, "withdrawable");
        vm.prank(alice);
        vault.requestWithdrawal(asset, 3);
        Vault.UserAsset[] memory all = vault.getUserAllAssets(alice);
        eq(all.length, 2, "native and one token");
        eq(all[0].asset, address(0), "native first");
        eq(all[0].collateral, 5, "its collateral");
        eq(all[1].asset, asset, "token");
        eq(all[1].withdrawalRequestAmount, 3, "request");
        eq(all[1].withdrawalRequestTimestamp, START, "its time");
        (uint256 c, uint256 when, uint256 amount) = vault.getUser(alice, asset);
        yes(c == 7 && when == START && amount == 3, "getUser");
        eq(vault.getERC20Tokens().length, 1, "tokens");
        eq(vault.guaranteeDomainSeparator(), keccak256(abi.encode("4MICA_CORE_GUARANTEE_V1", block.chainid, address(vault))), "domain");
    }

    function test_deposits_that_are_refused() public {
        vm.expectRevert(Vault.AmountZero.selector);
        vault.deposit();
        vm.expectRevert(Vault.AmountZero.selector);
        vault.depositStablecoin(asset, 0);
        vm.expectRevert(abi.encodeWithSelector(Vault.UnsupportedAsset.selector, alice));
        vault.depositStablecoin(alice, 1);
        vm.deal(address(this), 1);
        (bool ok, bytes memory reason) = address(vault).call{value: 1}("");
        yes(!ok && bytes4(reason) == Vault.DirectTransferNotAllowed.selector, "plain transfer");
    }

    function authorization(address to, uint256 value, bytes32 nonce)
        private
        view
        returns (uint8 v, bytes32 r, bytes32 s)
    {
        bytes32 structHash = keccak256(
            abi.encode(usd.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), vm.addr(KEY), to, value, 0, type(uint256).max, nonce)
        );
        return vm.sign(KEY, keccak256(abi.encodePacked(hex"1901", usd.DOMAIN_SEPARATOR(), structHash)));
    }

    function testFuzz_deposit_by_authorization_credits_its_signer(uint96 value, address sender, bytes32 nonce) public {
        vm.assume(value != 0);
        address payer = vm.addr(KEY);
        usd.mint(payer, value);
        (uint8 v, bytes32 r, bytes32 s) = authorization(address(vault), value, nonce);
        vm.prank(sender);
        vault.depositWithAuthorization(asset, payer, value, 0, type(uint256).max, nonce, v, r, s);
        eq(held(payer), value, "the signer's, whoever sends it");
        vm.expectRevert();
        vault.depositWithAuthorization(asset, payer, value, 0, type(uint256).max, nonce, v, r, s);
        // nobody else can use it, with or without the vault
        (v, r, s) = authorization(address(vault), value, keccak256(abi.encode(nonce)));
        vm.expectRevert("FiatTokenV2: caller must be the payee");
        usd.receiveWithAuthorization(
            payer, address(vault), value, 0, type(uint256).max, keccak256(abi.encode(nonce)), v, r, s
        );
    }

    function test_attack_token_without_authorizations_credits_nothing() public {
        address fake = address(new SwallowsCalls());
        vm.prank(operator);
        vault.addStablecoinAsset(fake);
        vm.expectRevert(Vault.AmountZero.selector);
        vault.depositWithAuthorization(fake, alice, 5, 0, type(uint256).max, 0, 27, 0, 0);
    }

    function test_guardian_stops_new_deposits_and_nothing_else() public {
        fund(alice, 100);
        vm.deal(alice, 10);
        vm.expectRevert(no(address(this)));
        vault.setDepositsStopped(true);
        vm.prank(guardian);
        vault.setDepositsStopped(true);
        vm.startPrank(alice);
        vm.expectRevert(Vault.EnforcedPause.selector);
        vault.deposit{value: 1}();
        vm.expectRevert(Vault.EnforcedPause.selector);
        vault.depositStablecoin(asset, 1);
        vm.expectRevert(Vault.EnforcedPause.selector);
        vault.depositWithAuthorization(asset, alice, 1, 0, 1, 0, 27, 0, 0);
        vault.requestWithdrawal(asset, 100);
        vm.stopPrank();
        Pos[] memory p = three();
        sealCycle(START, p);
        toFinal(START);
        house.claimToVault(id(START), bob, 40, prove(START, p, 1));
        eq(held(bob), 40, "credits go on");
        vm.warp(START + W);
        vm.prank(alice);
        vault.finalizeWithdrawal(asset);
        eq(usd.balanceOf(alice), 30, "withdrawals go on");
        vm.prank(guardian);
        vault.setDepositsStopped(false);
        fund(alice, 1);
    }

    function test_removing_an_asset_ends_deposits_after_the_delay() public {
        vm.startPrank(operator);
        vault.removeStablecoinAsset(asset);
        vm.expectRevert(abi.encodeWithSelector(Vault.UnsupportedAsset.selector, asset));
        vault.removeStablecoinAsset(asset);
        vm.stopPrank();
        fund(alice, 10);
        vm.warp(START + W);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(Vault.UnsupportedAsset.selector, asset));
        vault.depositStablecoin(asset, 1);
        eq(vault.getERC20Tokens().length, 0, "not listed");
        eq(vault.getUserAllAssets(alice).length, 2, "still shown to owners");
        vm.prank(operator);
        vault.addStablecoinAsset(asset);
        fund(alice, 1);
        eq(vault.getUserAllAssets(alice).length, 2, "not twice");
    }

    // ---------------------------------------------------------------------- withdrawals

    function test_withdrawal_by_both_forms() public {
        vm.deal(alice, 10);
        vm.startPrank(alice);
        vault.deposit{value: 10}();
        vm.expectRevert(Vault.NoWithdrawalRequested.selector);
        vault.finalizeWithdrawal();
        vm.expectRevert(Vault.AmountZero.selector);
        vault.requestWithdrawal(0);
        vm.expectRevert(Vault.InsufficientAvailable.selector);
        vault.requestWithdrawal(11);
        vault.requestWithdrawal(4);
        vault.cancelWithdrawal();
        vm.expectRevert(Vault.NoWithdrawalRequested.selector);
        vault.cancelWithdrawal(address(0));
        vault.requestWithdrawal(address(0), 4);
        vm.warp(START + 30);
        vault.requestWithdrawal(6); // replaces the request and its clock
        vm.warp(START + W);
        vm.expectRevert(Vault.GracePeriodNotElapsed.selector);
        vault.finalizeWithdrawal(address(0));
        vm.warp(START + 30 + W);
        vault.finalizeWithdrawalTo(address(0), carol);
        eq(carol.balance, 6, "to an address the owner names");
        eq(vault.collateral(alice), 4, "rest");
        vm.expectRevert(Vault.NoWithdrawalRequested.selector);
        vault.finalizeWithdrawal();
        vault.requestWithdrawal(4);
        vm.warp(START + 30 + 2 * W);
        vm.expectRevert(Vault.InvalidRecipient.selector);
        vault.finalizeWithdrawalTo(address(0), address(vault));
    }

    function test_attack_withdrawal_races_exposure() public {
        fund(alice, 100);
        vm.prank(alice);
        vault.requestWithdrawal(asset, 100);
        sealCycle(START, three());
        vm.warp(START + W);
        vm.prank(alice);
        vault.finalizeWithdrawal(asset);
        eq(usd.balanceOf(alice), 30, "the lesser of request and what is there");
        eq(held(alice), 0, "empty");
    }

    function test_attack_withdraw_while_in_dispute() public {
        fund(alice, 100);
        vm.prank(alice);
        vault.requestWithdrawal(asset, 100);
        Pos[] memory p = three();
        sealCycle(START, p);
        vm.prank(disputes);
        house.voidCycle(id(START));
        house.release(id(START), 0, 0, pack(p));
        post(START, 1, 0, 10, pack(p));
        commit(START, root(leaves(START, p)), 70);
        toFinal(START);
        house.finalizeCycle(id(START));
        yes(vm.getBlockTimestamp() < START + W, "the obligation's last road ends before the withdrawal");
        vm.warp(START + W);
        vm.prank(alice);
        vault.finalizeWithdrawal(asset);
        eq(usd.balanceOf(alice), 30, "paid first");
    }

    function test_a_withdrawal_of_nothing_left_ends_the_request() public {
        fund(alice, 70);
        vm.prank(alice);
        vault.requestWithdrawal(asset, 70);
        sealCycle(START, three());
        vm.warp(START + W);
        vm.startPrank(alice);
        vault.finalizeWithdrawal(asset);
        vm.expectRevert(Vault.NoWithdrawalRequested.selector);
        vault.finalizeWithdrawal(asset);
        eq(usd.balanceOf(alice), 0, "nothing");
    }

    // --------------------------------------------------------------------------- limits

    function limitAt(uint64 start) private view returns (uint256) {
        return vault.limitPerCycle(alice, asset, start);
    }

    function test_limit_lowers_from_the_next_cycle_and_rises_at_once() public {
        vm.startPrank(alice);
        vault.setLimitPerCycle(asset, 50);
        eq(limitAt(START), type(uint256).max, "not this cycle");
        eq(limitAt(START + 6), 50, "the next");
        vault.setLimitPerCycle(asset, 40);
        eq(limitAt(START + 6), 40, "changed while it waits");
        vm.warp(START + 7);
        vm.expectRevert(abi.encodeWithSelector(Vault.LimitPending.selector, START + 6));
        vault.setLimitPerCycle(asset, 30); // the first cycle may still be posted
        vault.setLimitPerCycle(asset, 60);
        eq(limitAt(START + 6), 60, "raised at once");
        eq(limitAt(START), type(uint256).max, "the one before keeps its own");
        vm.warp(START + 100);
        vault.setLimitPerCycle(asset, 30);
        eq(limitAt(START + 96), 60, "running");
        eq(limitAt(START + 102), 30, "next");
        vault.setLimitPerCycle(asset, type(uint256).max);
        eq(limitAt(START + 96), type(uint256).max, "none, at once");
        eq(limitAt(START + 102), type(uint256).max, "none");
        vm.expectRevert(Vault.AmountTooLarge.selector);
        vault.setLimitPerCycle(asset, 1 << 112);
        vault.setLimitPerCycle(asset, 0);
        eq(limitAt(START + 102), 0, "nothing at all");
    }

    function test_limit_of_an_asset_without_cycles_acts_at_once() public {
        vm.prank(alice);
        vault.setLimitPerCycle(address(0xdead), 5);
        eq(vault.limitPerCycle(alice, address(0xdead), START), 5, "at once");
    }

    // ------------------------------------------------------------------------ signer keys

    function test_attack_contract_wallet_changes_its_mind() public {
        address key = address(0x5e7);
        yes(vault.isSigner(alice, alice), "own key");
        yes(!vault.isSigner(alice, key), "not yet");
        vm.startPrank(alice);
        vm.expectRevert(abi.encodeWithSelector(Vault.UnknownSigner.selector, key));
        vault.setSigner(key, false);
        vault.setSigner(key, true);
        yes(vault.isSigner(alice, key), "at once");
        vault.setSigner(key, false);
        yes(vault.isSigner(alice, key), "removal waits");
        vm.expectRevert(abi.encodeWithSelector(Vault.UnknownSigner.selector, key));
        vault.setSigner(key, false);
        vm.warp(START + W - 1);
        yes(vault.isSigner(alice, key), "for a withdrawal delay");
        vm.warp(START + W);
        yes(!vault.isSigner(alice, key), "removed");
    }

    // ----------------------------------------------------------------------------- bond

    function test_bond_leaves_later_than_any_collateral() public {
        fundBond(100);
        vm.expectRevert(no(address(this)));
        vault.requestBondWithdrawal(asset, 1);
        vm.startPrank(operator);
        vm.expectRevert(Vault.InsufficientAvailable.selector);
        vault.requestBondWithdrawal(asset, 101);
        vm.expectRevert(Vault.NoWithdrawalRequested.selector);
        vault.cancelBondWithdrawal(asset);
        vault.requestBondWithdrawal(asset, 100);
        yes(vault.bondWithdrawalDelay() > W, "longer");
        vm.warp(START + W);
        vm.expectRevert(Vault.GracePeriodNotElapsed.selector);
        vault.finalizeBondWithdrawal(asset, operator);
        vm.stopPrank();
        vm.prank(redemption);
        eq(vault.takeBond(asset, 30), 30, "it still answers meanwhile");
        vm.prank(redemption);
        vault.giveBond(asset, 10);
        vm.warp(START + vault.bondWithdrawalDelay());
        vm.expectRevert(no(address(this)));
        vault.finalizeBondWithdrawal(asset, operator);
        vm.prank(operator);
        vault.finalizeBondWithdrawal(asset, operator);
        eq(usd.balanceOf(operator), 80, "the lesser of request and what is there");
        vm.deal(address(this), 3);
        vm.expectRevert(abi.encodeWithSelector(Vault.ExactPaymentRequired.selector, 2, 3));
        vault.depositBond{value: 3}(address(0), 2);
        vault.depositBond{value: 3}(address(0), 3);
        eq(vault.bond(address(0)), 3, "native bond");
    }

    // ---------------------------------------------------------------------------- hooks

    function test_hooks_obey_only_their_contract() public {
        fund(alice, 100);
        fundBond(100);
        address[6] memory callers = [address(house), disputes, redemption, operator, recovery, guardian];
        bytes[9] memory calls = [
            abi.encodeCall(vault.takeDebits, (asset, START, "")),
            abi.encodeCall(vault.returnDebits, (asset, "", new uint256[](0))),
            abi.encodeCall(vault.pullDebit, (asset, alice, 0, 0)),
            abi.encodeCall(vault.payOut, (asset, alice, 1)),
            abi.encodeCall(vault.credit, (asset, alice, 1)),
            abi.encodeCall(vault.reward, (asset, alice, 1)),
            abi.encodeCall(vault.takeCollateral, (asset, alice, 1)),
            abi.encodeCall(vault.takeBond, (asset, 1)),
            abi.encodeCall(vault.giveBond, (asset, 1))
        ];
        // one bit for each caller that is let in: 1 ClearingHouse, 2 Disputes, 4 Redemption
        uint8[9] memory allowed = [1, 1, 1, 5, 5, 3, 4, 4, 4];
        for (uint256 k; k < calls.length; ++k) {
            for (uint256 i; i < callers.length; ++i) {
                vm.prank(callers[i]);
                (bool ok, bytes memory reason) = address(vault).call(calls[k]);
                bool may = allowed[k] >> i & 1 == 1;
                yes(may ? ok : !ok && keccak256(reason) == keccak256(no(callers[i])), "hook");
            }
        }
    }

    function test_reward_and_takes_are_bounded_by_what_is_there() public {
        fundBond(10);
        fund(alice, 7);
        vm.prank(disputes);
        eq(vault.reward(asset, bob, 15), 10, "all of the bond");
        eq(held(bob), 10, "as collateral");
        vm.prank(redemption);
        eq(vault.takeBond(asset, 5), 0, "nothing left");
        vm.prank(redemption);
        eq(vault.takeCollateral(asset, alice, 9), 7, "all there is");
        vm.prank(redemption);
        vault.payOut(asset, carol, 7);
        eq(usd.balanceOf(carol), 7, "out of the pool");
    }

    function test_operator_functions() public {
        vm.expectRevert(no(address(this)));
        vault.addStablecoinAsset(asset);
        vm.expectRevert(no(address(this)));
        vault.removeStablecoinAsset(asset);
        G1Point memory key;
        G2Point memory proof;
        vm.expectRevert(no(address(this)));
        vault.registerKey(key, proof, 0);
        vm.expectRevert(no(address(this)));
        vault.revokeKey(0);
        vm.startPrank(operator);
        vm.expectRevert(Vault.InvalidSignature.selector);
        vault.registerKey(key, proof, 0); // the point at infinity
        vm.expectRevert(abi.encodeWithSelector(Vault.UnknownKey.selector, 0));
        vault.revokeKey(0);
        vm.expectRevert(abi.encodeWithSelector(Vault.UnsupportedAsset.selector, alice));
        vault.addStablecoinAsset(alice); // no code
        vm.expectRevert(abi.encodeWithSelector(Vault.UnknownKey.selector, 0));
        vault.certified(0, "", proof, START);
    }

    // ----------------------------------------------------------------------- test dollar

    function test_dollar_storage_layout() public {
        usd.mint(alice, 77);
        eq(uint256(vm.load(asset, keccak256(abi.encode(alice, uint256(0))))), 77, "balance slot");
        eq(uint256(vm.load(asset, bytes32(uint256(2)))), 77, "supply slot");
        yes(usd.decimals() == 6 && keccak256(bytes(usd.symbol())) == keccak256("USDC"), "metadata");
    }

    function test_dollar_permit_transfer_and_cancel() public {
        address payer = vm.addr(KEY);
        usd.mint(payer, 100);
        bytes32 h = keccak256(abi.encode(usd.PERMIT_TYPEHASH(), payer, bob, 40, 0, START));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, keccak256(abi.encodePacked(hex"1901", usd.DOMAIN_SEPARATOR(), h)));
        usd.permit(payer, bob, 40, START, v, r, s);
        vm.expectRevert("EIP2612: invalid signature");
        usd.permit(payer, bob, 40, START, v, r, s);
        vm.prank(bob);
        usd.transferFrom(payer, carol, 40);
        eq(usd.balanceOf(carol), 40, "permitted");
        h = keccak256(abi.encode(usd.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), payer, bob, 10, 0, START + 1, bytes32("n")));
        (v, r, s) = vm.sign(KEY, keccak256(abi.encodePacked(hex"1901", usd.DOMAIN_SEPARATOR(), h)));
        vm.expectRevert("FiatTokenV2: invalid signature");
        usd.transferWithAuthorization(payer, bob, 11, 0, START + 1, "n", v, r, s);
        // the same signature with a high s
        bytes32 high = bytes32(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141 - uint256(s));
        vm.expectRevert("ECRecover: invalid signature 's' value");
        usd.transferWithAuthorization(payer, bob, 10, 0, START + 1, "n", v ^ 7, r, high);
        usd.transferWithAuthorization(payer, bob, 10, 0, START + 1, "n", v, r, s);
        yes(usd.authorizationState(payer, "n"), "used");
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        usd.transferWithAuthorization(payer, bob, 10, 0, START + 1, "n", v, r, s);
        h = keccak256(abi.encode(usd.CANCEL_AUTHORIZATION_TYPEHASH(), payer, bytes32("m")));
        (v, r, s) = vm.sign(KEY, keccak256(abi.encodePacked(hex"1901", usd.DOMAIN_SEPARATOR(), h)));
        usd.cancelAuthorization(payer, "m", v, r, s);
        yes(usd.authorizationState(payer, "m"), "canceled");
        vm.warp(START + 1);
        vm.expectRevert("FiatTokenV2: authorization is expired");
        usd.transferWithAuthorization(payer, bob, 10, 0, START + 1, "o", v, r, s);
    }
}

/// Answers every call with success and does nothing, as a token without EIP-3009 but with a fallback may.
contract SwallowsCalls {
    function balanceOf(address) external pure returns (uint256) {
        return 5;
    }

    fallback() external {}
}
