// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, Pos} from "./Base.sol";
import {HostileReceiver, HostileToken} from "./Hostile.sol";
import {ClearingHouse} from "../src/ClearingHouse.sol";
import {Money} from "../src/Money.sol";
import {Schedule} from "../src/Interfaces.sol";
import {Vault} from "../src/Vault.sol";

/// A cycle from posting to the last claim, and each attack on it that these two contracts stop.
contract ClearingTest is Base {
    function revertsWith(bytes memory reason) private {
        vm.expectRevert(reason);
    }

    function err(bytes4 selector, bytes32 cycleId, address who) private pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, cycleId, who);
    }

    function claim(address who, uint256 amount, bytes32[] memory proof, uint64 start) private {
        vm.prank(who);
        house.claimNetCredit(id(start), amount, proof);
    }

    function pay(address who, uint256 amount, bytes32[] memory proof) private {
        usd.mint(who, amount);
        vm.startPrank(who);
        usd.approve(address(vault), amount);
        house.payNetDebit(id(START), amount, proof);
        vm.stopPrank();
    }

    // ------------------------------------------------------------------ the plain road

    function test_post_seal_pay_claim() public {
        fund(alice, 100);
        Pos[] memory p = three();
        sealCycle(START, p);
        eq(held(alice), 30, "posting takes the debit");
        uint64 sealedAt = uint64(vm.getBlockTimestamp());
        ClearingHouse.CycleView memory v = house.getCycle(id(START));
        eq(v.status, 1, "sealed");
        eq(v.paymentFinalityDeadline, sealedAt + 4, "finality deadline");
        eq(v.paymentSubmissionDeadline, sealedAt + 4, "submission deadline");
        eq(v.totalNetDebit, 70, "debit");
        eq(v.totalNetCredit, 70, "credit");

        pay(alice, 70, prove(START, p, 0));
        eq(held(alice), 100, "paying gives it back");
        eq(house.getCycle(id(START)).totalPaidIn, 70, "paid in");

        toFinal(START);
        claim(bob, 40, prove(START, p, 1), START);
        eq(usd.balanceOf(bob), 40, "bob is paid");
        eq(house.getCycle(id(START)).status, 2, "the first claim finalizes");
        house.claimToVault(id(START), carol, 30, prove(START, p, 2));
        eq(held(carol), 30, "carol's credit is collateral");
        v = house.getCycle(id(START));
        eq(v.totalClaimedOut, 70, "claimed");
        eq(v.totalDefaultCovered, 0, "nothing was covered");
        eq(usd.balanceOf(address(vault)), 130, "what is left is alice's and carol's");
        (,, bool paid,, bool defaulted) = house.getParticipantState(id(START), alice);
        yes(paid && !defaulted, "alice paid");
        (,,, bool claimed,) = house.getParticipantState(id(START), bob);
        yes(claimed, "bob claimed");
    }

    function test_native_cycle() public {
        asset = address(0);
        vm.deal(alice, 170);
        vm.prank(alice);
        vault.deposit{value: 100}();
        Pos[] memory p = three();
        sealCycle(START, p);
        vm.prank(alice);
        revertsWith(abi.encodeWithSelector(Vault.ExactPaymentRequired.selector, 70, 69));
        house.payNetDebit{value: 69}(id(START), 70, prove(START, p, 0));
        vm.prank(alice);
        house.payNetDebit{value: 70}(id(START), 70, prove(START, p, 0));
        eq(vault.collateral(alice), 100, "native collateral");
        toFinal(START);
        claim(bob, 40, prove(START, p, 1), START);
        eq(bob.balance, 40, "native claim");
    }

    function test_claimMany_over_assets_and_cycles() public {
        address[2] memory assets = [address(usd), address(0)];
        bytes32[] memory ids = new bytes32[](3);
        uint256[] memory amounts = new uint256[](3);
        bytes32[][] memory proofs = new bytes32[][](3);
        fund(alice, 1000);
        vm.deal(alice, 1000);
        vm.prank(alice);
        vault.deposit{value: 1000}();
        Pos[] memory p = three();
        for (uint64 i; i < 3; ++i) {
            asset = assets[i / 2];
            uint64 start = START + 12 * i;
            sealCycle(start, p);
            (ids[i], amounts[i], proofs[i]) = (id(start), 40, prove(start, p, 1));
        }
        toFinal(START + 24);
        vm.startPrank(bob);
        house.claimMany(ids, amounts, proofs, carol);
        eq(usd.balanceOf(carol), 80, "two cycles in one token");
        eq(carol.balance, 40, "one in native coin");
        revertsWith(err(ClearingHouse.AlreadyClaimed.selector, ids[0], bob));
        house.claimMany(ids, amounts, proofs, carol);
    }

    function test_defect5_a_mark_moves_no_money_and_spares_those_who_chose() public {
        fund(alice, 100);
        Pos[] memory p = three();
        sealCycle(START, p);
        toFinal(START);
        bytes32[] memory proof = prove(START, p, 0);
        vm.prank(alice);
        vault.setAutoSettle(true);
        revertsWith(abi.encodeWithSelector(ClearingHouse.SettledByChoice.selector, alice));
        house.markDefaulted(id(START), alice, 70, proof);
        vm.prank(alice);
        vault.setAutoSettle(false);
        uint256 before = usd.balanceOf(address(vault));
        house.markDefaulted(id(START), alice, 70, proof);
        eq(usd.balanceOf(address(vault)), before, "no money");
        eq(held(alice), 30, "no collateral");
        revertsWith(err(ClearingHouse.AlreadyDefaulted.selector, id(START), alice));
        house.markDefaulted(id(START), alice, 70, proof);
        eq(house.getCycle(id(START)).totalDefaultCovered, 70, "covered");
    }

    function test_defect5_settleDefaultFromCollateral_never_has_anything_to_do() public {
        fund(alice, 100);
        sealCycle(START, three());
        toFinal(START);
        house.finalizeCycle(id(START));
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidCycleStatus.selector, id(START), 2));
        house.settleDefaultFromCollateral(id(START), alice, 70, "");
    }

    // --------------------------------------------------------- commit: early, late, second, stale, foreign

    function test_defect4_early_late_second_stale_or_foreign_commit() public {
        fund(alice, 1000);
        Pos[] memory p = three();
        bytes memory chunk = pack(p);
        bytes32 r = root(leaves(START, p));
        vm.warp(START + 6);
        vm.startPrank(operator);
        revertsWith(abi.encodeWithSelector(ClearingHouse.PostingNotOpen.selector, START + 7));
        house.postPositions(asset, START, 0, 0, 10, chunk); // early
        revertsWith(abi.encodeWithSelector(ClearingHouse.NoSchedule.selector, asset, START + 1));
        house.postPositions(asset, START + 1, 0, 0, 10, chunk); // no boundary
        revertsWith(abi.encodeWithSelector(ClearingHouse.NoSchedule.selector, asset, START - 6));
        house.postPositions(asset, START - 6, 0, 0, 10, chunk); // before the first schedule
        vm.warp(START + 12);
        revertsWith(abi.encodeWithSelector(ClearingHouse.PostingClosed.selector, START + 11));
        house.postPositions(asset, START, 0, 0, 10, chunk); // late
        vm.warp(START + 11);
        house.postPositions(asset, START, 0, 0, 10, chunk);
        uint64 d = uint64(vm.getBlockTimestamp());
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidDeadline.selector));
        house.commitCycle(id(START), asset, r, 70, 70, d, d + 1); // a deadline that is past
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidDeadline.selector));
        house.commitCycle(id(START), asset, r, 70, 70, d + 1, d + 9); // too far
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidDeadline.selector));
        house.commitCycle(id(START), asset, r, 70, 70, d + 2, d + 1); // finality before submission
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidProof.selector));
        house.commitCycle(id(START), asset, bytes32(uint256(r) ^ 1), 70, 70, d + 1, d + 1); // a root nobody posted
        revertsWith(abi.encodeWithSelector(ClearingHouse.TotalsDiffer.selector, 70, 70));
        house.commitCycle(id(START), asset, r, 71, 71, d + 1, d + 1); // declared totals
        revertsWith(abi.encodeWithSelector(ClearingHouse.CycleNotFound.selector, id(START)));
        house.commitCycle(id(START), address(0), r, 70, 70, d + 1, d + 1); // another asset
        revertsWith(abi.encodeWithSelector(ClearingHouse.CycleNotFound.selector, id(START + 6)));
        house.commitCycle(id(START + 6), asset, r, 70, 70, d + 1, d + 1); // another cycle
        vm.warp(START + 12);
        revertsWith(abi.encodeWithSelector(ClearingHouse.PostingClosed.selector, START + 11));
        house.commitCycle(id(START), asset, r, 70, 70, d + 2, d + 2); // sealing late
        vm.warp(START + 11);
        house.commitCycle(id(START), asset, r, 70, 70, d + 8, d + 8);
        revertsWith(abi.encodeWithSelector(ClearingHouse.CycleAlreadyCommitted.selector, id(START)));
        house.commitCycle(id(START), asset, r, 70, 70, d + 1, d + 1); // twice
        revertsWith(abi.encodeWithSelector(ClearingHouse.CycleAlreadyCommitted.selector, id(START)));
        house.postPositions(asset, START, 0, 0, 10, chunk); // and posting again
    }

    function test_defect4_unequal_sums_are_never_sealed() public {
        fund(alice, 1000);
        Pos[] memory p = three();
        p[2].amount = 31; // one more for the accomplice
        toPosting(START);
        post(START, 0, 0, 10, pack(p));
        bytes32 r = root(leaves(START, p));
        vm.startPrank(operator);
        uint64 d = uint64(vm.getBlockTimestamp()) + 1;
        revertsWith(abi.encodeWithSelector(ClearingHouse.TotalsDiffer.selector, 70, 71));
        house.commitCycle(id(START), asset, r, 71, 71, d, d);
        revertsWith(abi.encodeWithSelector(ClearingHouse.TotalsDiffer.selector, 70, 71));
        house.commitCycle(id(START), asset, r, 70, 71, d, d);
    }

    function test_attack_leaf_of_another_deployment_or_role() public {
        fund(alice, 1000);
        Pos[] memory p = three();
        sealCycle(START, p);
        toFinal(START);
        bytes32[] memory nodes = leaves(START, p);
        bytes memory bad = abi.encodeWithSelector(ClearingHouse.InvalidProof.selector);
        revertsWith(bad);
        claim(alice, 70, prove(nodes, 0), START); // a debtor claims its debit
        revertsWith(bad);
        claim(bob, 41, prove(nodes, 1), START); // more than posted
        revertsWith(bad);
        claim(carol, 40, prove(nodes, 1), START); // another's credit
        bytes32[] memory longer = new bytes32[](3);
        longer[0] = nodes[1];
        revertsWith(bad);
        claim(bob, 40, longer, START); // a proof one node too long
        sealCycle(START + 12, p);
        toFinal(START + 12);
        revertsWith(bad);
        claim(bob, 40, prove(nodes, 1), START + 12); // another cycle's proof
        revertsWith(abi.encodeWithSelector(ClearingHouse.AmountZero.selector));
        claim(bob, 0, prove(nodes, 1), START);
    }

    // ---------------------------------------------------------------- over-issue and the bond

    function test_attack_operator_over_issues_post_reverts_without_bond() public {
        fund(alice, 69);
        toPosting(START);
        bytes memory chunk = pack(three());
        vm.prank(operator);
        revertsWith(abi.encodeWithSelector(Vault.DebtUnfunded.selector, alice, 1));
        house.postPositions(asset, START, 0, 0, 10, chunk);
        eq(held(alice), 69, "nothing was taken");
    }

    function test_attack_operator_over_issues_bond_fills_and_payment_gives_back() public {
        fund(alice, 45);
        fund(bob, 5);
        fundBond(30);
        Pos[] memory p = three();
        sealCycle(START, p);
        eq(held(alice), 0, "all of her own");
        eq(vault.bond(asset), 5, "the rest from the bond");
        eq(house.fillOf(id(START), 0, alice), 25, "recorded");
        eq(held(bob), 5, "nobody else's collateral moved");
        pay(alice, 70, prove(START, p, 0));
        eq(held(alice), 45, "she has what she had");
        eq(vault.bond(asset), 30, "so has the bond");
        eq(house.fillOf(id(START), 0, alice), 0, "cleared");
        toFinal(START);
        claim(bob, 40, prove(START, p, 1), START);
        claim(carol, 30, prove(START, p, 2), START);
        eq(usd.balanceOf(address(vault)), 45 + 5 + 30, "exact");
    }

    function test_the_bond_fills_what_a_limit_withholds() public {
        fund(alice, 1000);
        fundBond(100);
        vm.prank(alice);
        vault.setLimitPerCycle(asset, 50);
        eq(vault.limitPerCycle(alice, asset, START), type(uint256).max, "the running cycle keeps its limit");
        eq(vault.limitPerCycle(alice, asset, START + 6), 50, "the next has the new one");
        sealCycle(START, three());
        eq(held(alice), 930, "no limit yet");
        sealCycle(START + 6, three());
        eq(held(alice), 880, "50 of her own");
        eq(vault.bond(asset), 80, "20 of the bond");
    }

    function test_a_limit_that_waits_for_nothing_holds_too() public {
        fund(alice, 1000);
        fundBond(100);
        vm.prank(alice);
        vault.setLimitPerCycle(asset, 50);
        uint64 later = START + 96;
        vm.warp(later);
        vm.prank(alice);
        vault.setLimitPerCycle(asset, 60); // higher, and no cycle under the old limit is left
        sealCycle(later, three());
        eq(held(alice), 940, "60 of her own");
        eq(vault.bond(asset), 90, "10 of the bond");
    }

    function test_bond_minimum_at_the_seal() public {
        fund(alice, 1000);
        vm.prank(operator);
        house.setBondRule(asset, 10, 4, 5000);
        eq(house.minimumBond(asset, 0, 0), 10, "floor");
        eq(house.minimumBond(asset, 3, 0), 12, "per participant");
        eq(house.minimumBond(asset, 3, 70), 35, "share of the total");
        toPosting(START);
        Pos[] memory p = three();
        post(START, 0, 0, 10, pack(p));
        bytes32 r = root(leaves(START, p));
        fundBond(34);
        uint64 d = uint64(vm.getBlockTimestamp()) + 1;
        vm.prank(operator);
        revertsWith(abi.encodeWithSelector(ClearingHouse.BondTooLow.selector, 35, 34));
        house.commitCycle(id(START), asset, r, 70, 70, d, d);
        fundBond(1);
        commit(START, r, 70);
        vm.prank(operator);
        house.setBondRule(asset, 0, 0, 0);
        eq(house.minimumBond(asset, 3, 70), 35, "a change waits");
        vm.warp(vm.getBlockTimestamp() + W + 6);
        eq(house.minimumBond(asset, 3, 70), 0, "a withdrawal delay and a cycle");
    }

    // --------------------------------------------------------------------- void and release

    function voidIt() private {
        vm.prank(disputes);
        house.voidCycle(id(START));
    }

    function test_attack_invented_debit_comes_back() public {
        fund(alice, 100);
        fund(bob, 50);
        fundBond(30);
        Pos[] memory p = new Pos[](3);
        p[0] = Pos(alice, DEBTOR, 100, keccak256("a"));
        p[1] = Pos(bob, DEBTOR, 60, keccak256("b")); // more than bob has: 10 from the bond
        p[2] = Pos(carol, CREDITOR, 160, keccak256("c"));
        sealCycle(START, p);
        pay(alice, 100, prove(START, p, 0));
        bytes memory chunk = pack(p);
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotReleasable.selector, id(START), 0));
        house.release(id(START), 0, 0, chunk);
        voidIt();
        revertsWith(abi.encodeWithSelector(ClearingHouse.UnknownChunk.selector));
        house.release(id(START), 0, 1, chunk);
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotReleasable.selector, id(START), 1));
        house.release(id(START), 1, 0, chunk);
        house.release(id(START), 0, 0, chunk);
        eq(held(alice), 200, "her cash became collateral");
        eq(held(bob), 50, "bob has his own back");
        eq(vault.bond(asset), 30, "the bond has its own");
        revertsWith(abi.encodeWithSelector(ClearingHouse.AlreadyReleased.selector));
        house.release(id(START), 0, 0, chunk);
        eq(usd.balanceOf(address(vault)), 200 + 50 + 30, "exact");
        vm.warp(vm.getBlockTimestamp() + 100);
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidCycleStatus.selector, id(START), 0));
        claim(carol, 160, prove(START, p, 2), START);
    }

    function test_release_pays_its_caller_from_the_bond() public {
        fund(alice, 100);
        fundBond(50);
        vm.prank(operator);
        house.setBondRule(asset, 0, 9, 0);
        Pos[] memory p = three();
        sealCycle(START, p);
        voidIt();
        vm.prank(carol);
        house.release(id(START), 0, 0, pack(p));
        eq(held(carol), 3, "a third of the rate for one debtor");
        eq(vault.bond(asset), 47, "out of the bond");
    }

    function test_attack_void_as_weapon_one_repost_then_failed() public {
        fund(alice, 1000);
        Pos[] memory p = three();
        sealCycle(START, p);
        uint64 voidedAt = uint64(vm.getBlockTimestamp()) + 2;
        vm.warp(voidedAt);
        voidIt();
        yes(house.phase(asset, START) == ClearingHouse.Status.Voided, "voided");
        bytes memory chunk = pack(p);
        vm.prank(operator);
        revertsWith(abi.encodeWithSelector(ClearingHouse.ChunkOutOfTurn.selector, 0, 0));
        house.postPositions(asset, START, 0, 0, 10, chunk);
        post(START, 1, 0, 10, chunk);
        house.release(id(START), 0, 0, chunk);
        commit(START, root(leaves(START, p)), 70);
        eq(held(alice), 930, "taken once");
        voidIt();
        yes(house.phase(asset, START) == ClearingHouse.Status.Failed, "failed");
        vm.prank(operator);
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidCycleStatus.selector, id(START), 5));
        house.postPositions(asset, START, 2, 0, 10, chunk);
        house.release(id(START), 1, 0, chunk);
        eq(held(alice), 1000, "all back");
    }

    function test_a_voided_cycle_can_be_posted_until_its_own_deadline() public {
        fund(alice, 1000);
        Pos[] memory p = three();
        sealCycle(START, p);
        vm.warp(START + 11);
        voidIt();
        vm.warp(START + 15);
        post(START, 1, 0, 10, pack(p));
        commit(START, root(leaves(START, p)), 70);
        toFinal(START + 8);
        claim(bob, 40, prove(START, p, 1), START);
        eq(usd.balanceOf(bob), 40, "paid out of the second generation");
    }

    function test_a_voided_cycle_that_stays_silent_has_failed() public {
        fund(alice, 1000);
        sealCycle(START, three());
        voidIt();
        bytes memory chunk = pack(three());
        vm.warp(vm.getBlockTimestamp() + 5);
        yes(house.phase(asset, START) == ClearingHouse.Status.Failed, "failed");
        vm.prank(operator);
        revertsWith(abi.encodeWithSelector(ClearingHouse.PostingClosed.selector, START + 11));
        house.postPositions(asset, START, 1, 0, 10, chunk);
    }

    function test_attack_unsealed_half_posted_cycle_is_released() public {
        fund(alice, 1000);
        Pos[] memory p = three();
        toPosting(START);
        bytes memory half = packRange(p, 0, 2);
        post(START, 0, 0, 1, half);
        vm.warp(START + 11);
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotReleasable.selector, id(START), 0));
        house.release(id(START), 0, 0, half);
        vm.warp(START + 12);
        yes(house.phase(asset, START) == ClearingHouse.Status.Failed, "failed");
        house.release(id(START), 0, 0, half);
        eq(held(alice), 1000, "all back");
        yes(house.phase(asset, START) == ClearingHouse.Status.Failed, "and stays so");
    }

    function test_attack_operator_silent_the_cycle_fails_and_everybody_exits() public {
        fund(alice, 1000);
        vm.prank(alice);
        vault.requestWithdrawal(asset, 1000);
        yes(house.phase(asset, START) == ClearingHouse.Status.None, "open");
        vm.warp(START + 12);
        yes(house.phase(asset, START) == ClearingHouse.Status.Failed, "nobody posted");
        vm.warp(START + W);
        vm.prank(alice);
        vault.finalizeWithdrawal(asset);
        eq(usd.balanceOf(alice), 1000, "out");
    }

    function test_attack_netted_and_redeemed_a_final_cycle_never_fails() public {
        fund(alice, 1000);
        sealCycle(START, three());
        vm.warp(START + 1000);
        yes(house.phase(asset, START) == ClearingHouse.Status.Sealed, "sealed for ever");
        house.finalizeCycle(id(START));
        yes(house.phase(asset, START) == ClearingHouse.Status.Final, "final for ever");
        vm.prank(disputes);
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidCycleStatus.selector, id(START), 3));
        house.voidCycle(id(START));
    }

    function test_voiding_ends_with_the_window_unless_a_demand_is_open() public {
        fund(alice, 1000);
        sealCycle(START, three());
        vm.prank(disputes);
        house.openDemand(id(START));
        toFinal(START);
        revertsWith(abi.encodeWithSelector(ClearingHouse.PaymentFinalityPending.selector, START + 11));
        house.finalizeCycle(id(START));
        vm.prank(disputes);
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidDeadline.selector));
        house.openDemand(id(START));
        vm.prank(disputes);
        house.closeDemand(id(START));
        vm.prank(disputes);
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidDeadline.selector));
        house.voidCycle(id(START));
        house.finalizeCycle(id(START));
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidCycleStatus.selector, id(START), 2));
        house.finalizeCycle(id(START));
    }

    // ---------------------------------------------------------------- claims and defaults

    function test_attack_claim_before_finality() public {
        fund(alice, 100);
        Pos[] memory p = three();
        sealCycle(START, p);
        vm.warp(START + 11); // the last moment of the window
        revertsWith(abi.encodeWithSelector(ClearingHouse.PaymentFinalityPending.selector, START + 11));
        claim(bob, 40, prove(START, p, 1), START);
        revertsWith(abi.encodeWithSelector(ClearingHouse.PaymentFinalityPending.selector, START + 11));
        house.claimToVault(id(START), bob, 40, prove(START, p, 1));
        revertsWith(abi.encodeWithSelector(ClearingHouse.PaymentFinalityPending.selector, START + 11));
        house.markDefaulted(id(START), alice, 70, prove(START, p, 0));
        revertsWith(abi.encodeWithSelector(ClearingHouse.CycleNotFound.selector, id(START + 6)));
        house.finalizeCycle(id(START + 6));
    }

    function test_defect6_two_defaulters_and_a_late_payer_do_not_block_each_other() public {
        fund(alice, 100);
        fund(bob, 100);
        fund(carol, 100);
        address dave = address(0x4004);
        Pos[] memory p = new Pos[](4);
        p[0] = Pos(alice, DEBTOR, 10, 0);
        p[1] = Pos(bob, DEBTOR, 20, 0);
        p[2] = Pos(carol, DEBTOR, 30, 0);
        p[3] = Pos(dave, CREDITOR, 60, 0);
        sealCycle(START, p);
        toFinal(START);
        house.markDefaulted(id(START), alice, 10, prove(START, p, 0));
        house.markDefaulted(id(START), bob, 20, prove(START, p, 1));
        pay(carol, 30, prove(START, p, 2));
        eq(held(carol), 100, "a late payment counts until the mark");
        revertsWith(err(ClearingHouse.AlreadyPaid.selector, id(START), carol));
        house.markDefaulted(id(START), carol, 30, prove(START, p, 2));
        bytes32[] memory proof = prove(START, p, 0);
        vm.prank(alice);
        revertsWith(err(ClearingHouse.AlreadyDefaulted.selector, id(START), alice));
        house.payNetDebit(id(START), 10, proof);
        claim(dave, 60, prove(START, p, 3), START);
        eq(usd.balanceOf(dave), 60, "and the creditor has everything");
        eq(house.getCycle(id(START)).totalDefaultCovered, 30, "covered");
    }

    function test_defect7_claims_race_for_a_pot_that_is_full_from_the_start() public {
        fund(alice, 70);
        Pos[] memory p = three();
        sealCycle(START, p); // alice never pays
        toFinal(START);
        claim(carol, 30, prove(START, p, 2), START);
        claim(bob, 40, prove(START, p, 1), START);
        eq(usd.balanceOf(address(vault)), 0, "both in full");
        revertsWith(err(ClearingHouse.AlreadyClaimed.selector, id(START), bob));
        claim(bob, 40, prove(START, p, 1), START);
    }

    function test_attack_payer_front_run_by_a_mark_loses_nothing() public {
        fund(alice, 70);
        Pos[] memory p = three();
        sealCycle(START, p);
        bytes32[] memory proof = prove(START, p, 0);
        revertsWith(abi.encodeWithSelector(ClearingHouse.PaymentFinalityPending.selector, START + 11));
        house.markDefaulted(id(START), alice, 70, proof);
        pay(alice, 70, proof);
        eq(held(alice), 70, "paid in the window");
    }

    function test_paying_twice_or_not_exactly() public {
        fund(alice, 100);
        Pos[] memory p = three();
        sealCycle(START, p);
        bytes32[] memory proof = prove(START, p, 0);
        pay(alice, 70, proof);
        vm.startPrank(alice);
        revertsWith(err(ClearingHouse.AlreadyPaid.selector, id(START), alice));
        house.payNetDebit(id(START), 70, proof);
        vm.stopPrank();
        vm.deal(bob, 1);
        revertsWith(abi.encodeWithSelector(ClearingHouse.InvalidProof.selector));
        vm.prank(bob);
        house.payNetDebit(id(START), 70, proof);
    }

    function test_native_coin_with_a_token_payment_is_refused() public {
        fund(alice, 100);
        Pos[] memory p = three();
        sealCycle(START, p);
        bytes32[] memory proof = prove(START, p, 0);
        vm.deal(alice, 1);
        vm.prank(alice);
        revertsWith(abi.encodeWithSelector(Vault.ExactPaymentRequired.selector, 0, 1));
        house.payNetDebit{value: 1}(id(START), 70, proof);
    }

    function test_attack_rewards_front_run_pay_the_named_party() public {
        fund(alice, 100);
        Pos[] memory p = three();
        sealCycle(START, p);
        toFinal(START);
        bytes32[] memory proof = prove(START, p, 1);
        vm.prank(address(0xbad));
        house.claimToVault(id(START), bob, 40, proof);
        eq(held(bob), 40, "bob's, whoever sends it");
        eq(vault.collateral(address(0xbad), asset), 0, "nothing for the sender");
    }

    // ------------------------------------------------------------ hostile receivers and tokens

    function nativeCredit(address creditor) private returns (Pos[] memory p) {
        asset = address(0);
        vm.deal(alice, 100);
        vm.prank(alice);
        vault.deposit{value: 100}();
        p = new Pos[](3);
        vm.deal(address(0x1), 1);
        vm.prank(address(0x1));
        vault.deposit{value: 1}();
        p[0] = Pos(address(0x1), DEBTOR, 1, 0);
        p[1] = Pos(alice, DEBTOR, 70, 0);
        p[2] = Pos(creditor, CREDITOR, 71, 0);
        sealCycle(START, p);
        toFinal(START);
    }

    function test_attack_reverting_receiver_hurts_only_itself() public {
        HostileReceiver mallory = new HostileReceiver();
        yes(address(mallory) > alice, "order");
        mallory.set(HostileReceiver.Mode.Revert, address(0), "");
        Pos[] memory p = nativeCredit(address(mallory));
        bytes32[] memory proof = prove(START, p, 2);
        bytes memory call_ = abi.encodeCall(house.claimNetCredit, (id(START), 71, proof));
        revertsWith(abi.encodeWithSelector(Money.NativeTransferFailed.selector, address(mallory), 71));
        mallory.act(address(house), 0, call_);
        bytes32[] memory ids = new bytes32[](1);
        uint256[] memory amounts = new uint256[](1);
        bytes32[][] memory proofs = new bytes32[][](1);
        (ids[0], amounts[0], proofs[0]) = (id(START), 71, proof);
        mallory.act(address(house), 0, abi.encodeCall(house.claimMany, (ids, amounts, proofs, bob)));
        eq(bob.balance, 71, "to an address it names");
    }

    function test_attack_huge_return_data_is_not_copied() public {
        HostileReceiver mallory = new HostileReceiver();
        mallory.set(HostileReceiver.Mode.Bomb, address(0), "");
        Pos[] memory p = nativeCredit(address(mallory));
        bytes memory call_ = abi.encodeCall(house.claimNetCredit, (id(START), 71, prove(START, p, 2)));
        uint256 before = gasleft();
        mallory.act(address(house), 0, call_);
        yes(before - gasleft() < 300_000, "bounded");
        eq(address(mallory).balance, 71, "paid");
    }

    function test_attack_reentering_receiver_is_refused() public {
        HostileReceiver mallory = new HostileReceiver();
        Pos[] memory p = nativeCredit(address(mallory));
        bytes memory call_ = abi.encodeCall(house.claimNetCredit, (id(START), 71, prove(START, p, 2)));
        mallory.set(HostileReceiver.Mode.Reenter, address(house), call_);
        mallory.act(address(house), 0, call_);
        yes(!mallory.succeeded(), "no second claim");
        eq(address(mallory).balance, 71, "once");
    }

    function hostile() private returns (HostileToken token) {
        token = new HostileToken();
        vm.startPrank(operator);
        vault.addStablecoinAsset(address(token));
        house.setSchedule(address(token), demo(START));
        vm.stopPrank();
        asset = address(token);
        token.mint(alice, 1000);
        vm.startPrank(alice);
        token.approve(address(vault), type(uint256).max);
        vault.depositStablecoin(address(token), 100);
        vm.stopPrank();
    }

    function test_attack_token_blacklists_a_payee() public {
        HostileToken token = hostile();
        Pos[] memory p = three();
        sealCycle(START, p);
        toFinal(START);
        token.block_(bob);
        revertsWith(abi.encodeWithSelector(Money.TokenTransferFailed.selector, asset));
        claim(bob, 40, prove(START, p, 1), START);
        claim(carol, 30, prove(START, p, 2), START);
        eq(token.balanceOf(carol), 30, "no one else's");
        house.claimToVault(id(START), bob, 40, prove(START, p, 1));
        eq(held(bob), 40, "or it stays in the vault");
    }

    function test_attack_token_pauses_and_the_books_go_on() public {
        HostileToken token = hostile();
        token.set(true, false, false, 0);
        Pos[] memory p = three();
        sealCycle(START, p);
        toFinal(START);
        house.claimToVault(id(START), bob, 40, prove(START, p, 1));
        revertsWith(abi.encodeWithSelector(Money.TokenTransferFailed.selector, asset));
        claim(carol, 30, prove(START, p, 2), START);
        token.set(false, false, false, 0);
        claim(carol, 30, prove(START, p, 2), START);
        eq(token.balanceOf(carol), 30, "when it moves again");
    }

    function test_attack_fee_switched_on_later() public {
        HostileToken token = hostile();
        token.set(false, false, false, 10);
        vm.prank(alice);
        vault.depositStablecoin(asset, 100);
        eq(held(alice), 190, "credited with what arrived");
        Pos[] memory p = three();
        sealCycle(START, p);
        bytes32[] memory proof = prove(START, p, 0);
        vm.prank(alice);
        revertsWith(abi.encodeWithSelector(Vault.ExactPaymentRequired.selector, 70, 63));
        house.payNetDebit(id(START), 70, proof);
    }

    function test_attack_token_that_returns_false_or_nothing() public {
        HostileToken token = hostile();
        token.set(false, true, false, 0);
        vm.prank(alice);
        revertsWith(abi.encodeWithSelector(Money.TokenTransferFailed.selector, asset));
        vault.depositStablecoin(asset, 100);
        token.set(false, false, true, 0);
        vm.prank(alice);
        vault.depositStablecoin(asset, 100);
        eq(held(alice), 200, "an old token without a return value works");
    }

    function test_attack_reentering_token_cannot_count_a_deposit_twice() public {
        HostileToken token = hostile();
        token.mint(address(token), 50);
        vm.prank(address(token));
        token.approve(address(vault), 50);
        token.reenter(
            address(vault), abi.encodeWithSelector(Vault.depositStablecoin.selector, asset, uint256(50))
        );
        vm.prank(alice);
        vault.depositStablecoin(asset, 100);
        yes(!token.reentered(), "refused inside");
        eq(held(alice), 200, "counted once");
        eq(vault.collateral(address(token), asset), 0, "nothing for the token");
    }

    // ------------------------------------------------------------------------ hooks and keys

    function test_only_disputes_voids_and_demands() public {
        fund(alice, 100);
        sealCycle(START, three());
        bytes memory no = abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, operator);
        vm.startPrank(operator);
        revertsWith(no);
        house.voidCycle(id(START));
        revertsWith(no);
        house.openDemand(id(START));
        revertsWith(no);
        house.closeDemand(id(START));
    }

    function test_attack_stolen_operator_key_is_replaced_within_the_challenge_window() public {
        address next = address(0x0e70);
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, address(this)));
        house.proposeOperator(next);
        vm.prank(operator);
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, operator));
        house.proposeOperator(next);
        vm.prank(recovery);
        house.proposeOperator(next);
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, address(this)));
        house.replaceOperator();
        vm.warp(START + 3);
        house.replaceOperator();
        eq(house.operator(), next, "replaced");
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, address(this)));
        house.replaceOperator();
        Schedule memory s = demo(START + 66);
        s.challenge = 3; // not longer than the recovery delay
        vm.prank(next);
        revertsWith(abi.encodeWithSelector(ClearingHouse.ScheduleInvalid.selector));
        house.setSchedule(asset, s);
        vm.prank(recovery);
        revertsWith(abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, recovery));
        house.setSchedule(asset, demo(START + 66));
    }

    function test_attack_parameter_change_traps_no_payer() public {
        vm.startPrank(operator);
        revertsWith(abi.encodeWithSelector(ClearingHouse.ScheduleInvalid.selector));
        house.setSchedule(asset, demo(START + 60)); // not later than a withdrawal
        revertsWith(abi.encodeWithSelector(ClearingHouse.ScheduleInvalid.selector));
        house.setSchedule(asset, demo(START + 67)); // in the middle of a cycle
        Schedule memory s = demo(START + 66);
        s.redeem = 16;
        revertsWith(abi.encodeWithSelector(ClearingHouse.ScheduleInvalid.selector));
        house.setSchedule(asset, s); // longer than a withdrawal delay
        s.redeem = 10;
        s.length = 7;
        s.cutoff = 0;
        s.redeem = 9;
        house.setSchedule(asset, s);
        revertsWith(abi.encodeWithSelector(ClearingHouse.ScheduleInvalid.selector));
        house.setSchedule(asset, demo(START + 66 + 70)); // one announcement at a time
        eq(house.scheduleOf(asset, START + 60).length, 6, "the old one until then");
        eq(house.scheduleOf(asset, START + 66).length, 7, "the new one from then");
        eq(house.scheduleOf(asset, START + 73).length, 7, "and on");
        revertsWith(abi.encodeWithSelector(ClearingHouse.NoSchedule.selector, asset, START + 72));
        house.scheduleOf(asset, START + 72);
        eq(house.nextStart(asset), START + 6, "next");
        vm.warp(START + 65);
        eq(house.nextStart(asset), START + 66, "across the change");
        vm.warp(START + 66);
        eq(house.nextStart(asset), START + 73, "after it");
    }
}
