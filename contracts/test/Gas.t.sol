// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, Pos} from "./Base.sol";

/// What a call costs as a transaction of its own: intrinsic gas and calldata (4 and 16 gas a byte, floor 10 and 40 of
/// EIP-7623) plus execution with every slot cold. `.gas-snapshot` pins each; the ceilings are the design's goals.
contract GasTest is Base {
    uint256 private constant CAP = 1 << 24; // EIP-7825

    event log_named_uint(string key, uint256 value);

    function measure(string memory what, address to, bytes memory data, address from, uint256 ceiling) private {
        uint256 tokens;
        for (uint256 i; i < data.length; ++i) {
            tokens += data[i] == 0 ? 1 : 4;
        }
        vm.cool(address(vault));
        vm.cool(address(house));
        vm.cool(address(usd));
        vm.prank(from);
        uint256 before = gasleft();
        (bool ok, bytes memory reason) = to.call(data);
        uint256 executed = before - gasleft();
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(reason, 32), mload(reason))
            }
        }
        uint256 cost = 21_000 + 4 * tokens + executed;
        uint256 floor = 21_000 + 10 * tokens;
        if (cost < floor) cost = floor;
        emit log_named_uint(what, cost);
        yes(cost <= ceiling, what);
    }

    function crowd(uint256 n, uint256 debtors) private pure returns (Pos[] memory p) {
        p = new Pos[](n);
        uint256 sum;
        for (uint256 i; i < n; ++i) {
            address who = address((uint160(uint256(keccak256(abi.encode(i)))) >> 12) | (uint160(i + 1) << 148));
            bool debtor = i < debtors;
            uint128 amount = debtor ? uint128(1_000_000 + i) : uint128(0);
            sum += amount;
            p[i] = Pos(who, debtor ? DEBTOR : FLAT, amount, keccak256(abi.encode("s", i)));
        }
        if (debtors < n) {
            uint256 creditors = n - debtors;
            for (uint256 i = debtors; i < n; ++i) {
                p[i].role = CREDITOR;
                p[i].amount = uint128(i + 1 == n ? sum - sum / creditors * (creditors - 1) : sum / creditors);
            }
        }
    }

    function fundCrowd(Pos[] memory p, uint256 short) private {
        for (uint256 i; i < p.length; ++i) {
            if (p[i].role != DEBTOR) continue;
            if (i >= short) fund(p[i].who, uint256(p[i].amount) + 1000);
        }
    }

    function measurePost(string memory what, Pos[] memory p, uint256 ceiling) private {
        toPosting(START);
        measure(
            what,
            address(house),
            abi.encodeCall(house.postPositions, (asset, START, 0, 0, 10, pack(p))),
            operator,
            ceiling
        );
    }

    function test_post_1024_debtors() public {
        Pos[] memory p = crowd(1024, 1024);
        fundCrowd(p, 0);
        measurePost("post 1024 debtors", p, 1024 * 7_500);
    }

    function test_post_1024_with_400_fills() public {
        Pos[] memory p = crowd(1024, 1024);
        fundCrowd(p, 400);
        fundBond(1e18);
        measurePost("post 1024 debtors, 400 filled", p, CAP);
    }

    /// A debtor whose collateral is short but not gone costs 2.9k more: fewer of them fit.
    function test_post_1024_with_360_part_fills() public {
        Pos[] memory p = crowd(1024, 1024);
        fundCrowd(p, 360);
        for (uint256 i; i < 360; ++i) fund(p[i].who, 1);
        fundBond(1e18);
        measurePost("post 1024 debtors, 360 part filled", p, CAP);
    }

    function test_post_1024_a_tenth_debtors() public {
        Pos[] memory p = crowd(1024, 102);
        fundCrowd(p, 0);
        measurePost("post 1024, 10 % debtors", p, 2_900_000);
    }

    function test_second_chunk_and_seal() public {
        Pos[] memory p = crowd(40, 20);
        fundCrowd(p, 0);
        toPosting(START);
        post(START, 0, 0, 5, packRange(p, 0, 32));
        measure(
            "post a further chunk of 8",
            address(house),
            abi.encodeCall(house.postPositions, (asset, START, 0, 1, 5, packRange(p, 32, 40))),
            operator,
            160_000
        );
        uint64 d = uint64(vm.getBlockTimestamp()) + 1;
        bytes32 r = root(leaves(START, p));
        measure(
            "seal two chunks",
            address(house),
            abi.encodeCall(house.commitCycle, (id(START), asset, r, debits(p), debits(p), d, d)),
            operator,
            102_000
        );
    }

    function test_pay_mark_claim() public {
        fund(alice, 1000);
        usd.mint(alice, 1000);
        usd.mint(bob, 1);
        Pos[] memory p = crowd(1021, 1);
        fundCrowd(p, 0);
        Pos[] memory all = new Pos[](1024);
        Pos[] memory t = three();
        for (uint256 i; i < 3; ++i) all[i] = t[i];
        for (uint256 i; i < 1021; ++i) all[i + 3] = p[i];
        toPosting(START);
        post(START, 0, 0, 10, pack(all));
        uint64 d = uint64(vm.getBlockTimestamp()) + 1;
        bytes32[] memory nodes = leaves(START, all);
        measure(
            "seal one chunk",
            address(house),
            abi.encodeCall(house.commitCycle, (id(START), asset, root(nodes), debits(all), debits(all), d, d)),
            operator,
            97_000
        );
        measure(
            "pay, first in 256 cycles",
            address(house),
            abi.encodeCall(house.payNetDebit, (id(START), 70, prove(nodes, 0))),
            alice,
            105_000
        );
        toFinal(START);
        measure("finalize", address(house), abi.encodeCall(house.finalizeCycle, (id(START))), address(this), 40_000);
        measure(
            "mark defaulted",
            address(house),
            abi.encodeCall(house.markDefaulted, (id(START), p[0].who, p[0].amount, prove(nodes, 3))),
            address(this),
            70_000
        );
        measure(
            "claim, first in 256 cycles",
            address(house),
            abi.encodeCall(house.claimNetCredit, (id(START), 40, prove(nodes, 1))),
            bob,
            95_000
        );
    }

    /// Seals n cycles of 1024 positions in which bob earns 40 each, after one whose claim sets bob's bitmap word.
    function claims(uint256 n) private returns (bytes memory) {
        usd.mint(bob, 1);
        Pos[] memory all = new Pos[](1024);
        Pos[] memory t = three();
        for (uint256 i; i < 3; ++i) all[i] = t[i];
        for (uint256 i = 3; i < 1024; ++i) {
            all[i] = Pos(address(uint160(0x10000 + i)), FLAT, 0, bytes32(0));
        }
        fund(alice, 70 * (n + 1));
        bytes32[] memory ids = new bytes32[](n);
        uint256[] memory amounts = new uint256[](n);
        bytes32[][] memory proofs = new bytes32[][](n);
        for (uint256 k; k <= n; ++k) {
            uint64 start = START + 12 * uint64(k);
            sealCycle(start, all);
            toFinal(start);
            house.finalizeCycle(id(start));
            bytes32[] memory proof = prove(start, all, 1);
            if (k == 0) {
                vm.prank(bob);
                house.claimNetCredit(id(start), 40, proof);
            } else {
                (ids[k - 1], amounts[k - 1], proofs[k - 1]) = (id(start), 40, proof);
            }
        }
        if (n == 1) return abi.encodeCall(house.claimNetCredit, (ids[0], 40, proofs[0]));
        return abi.encodeCall(house.claimMany, (ids, amounts, proofs, bob));
    }

    function test_claim() public {
        measure("claim", address(house), claims(1), bob, 75_000);
    }

    function test_claimMany_10() public {
        measure("claimMany 10", address(house), claims(10), bob, 63_000 + 9 * 21_000); // 63k: what one claim costs
    }

    function test_release_1024_debtors() public {
        Pos[] memory p = crowd(1024, 1024);
        fundCrowd(p, 0);
        toPosting(START);
        bytes memory chunk = pack(p);
        post(START, 0, 0, 10, chunk);
        vm.warp(START + 12);
        measure(
            "release 1024 debtors",
            address(house),
            abi.encodeCall(house.release, (id(START), 0, 0, chunk)),
            address(this),
            6_900_000
        );
    }
}
