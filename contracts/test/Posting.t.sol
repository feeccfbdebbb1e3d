// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, Pos} from "./Base.sol";
import {ClearingHouse} from "../src/ClearingHouse.sol";
import {Positions} from "../src/Positions.sol";
import {CycleId} from "../src/CycleId.sol";
import {Schedule} from "../src/Interfaces.sol";

/// The bytes: cycle ids, positions, both roots, and what a chunk may be.
contract PostingTest is Base {
    function test_cycle_id_of_the_reference() public pure {
        eq(
            CycleId.derive(0x036CbD53842c5426634e7929541eC2318f3dCF7e, 1_782_086_400),
            0xb9a4e32f023848ab42284664c3cc7b7abe83b3b61f1b1118edb762627aa5da50,
            "id"
        );
    }

    function testFuzz_cycle_id(address a, uint64 start) public pure {
        eq(
            CycleId.derive(a, start), keccak256(bytes(string.concat(lower(a), ":", decimal(start)))), "id of any name"
        );
    }

    /// Posting in chunks of 2^h gives the same two roots as one fold over the whole list, and every stock proof holds.
    function check(uint256 n, uint8 h, uint256 seed) private {
        Pos[] memory p = new Pos[](n);
        uint256 sum;
        for (uint256 i; i < n; ++i) {
            p[i] = Pos(address(uint160((i + 1) << 64 | uint64(seed))), FLAT, 0, keccak256(abi.encode(seed, i)));
            if (n > 1 && i + 1 < n && seed >> (i % 200) & 1 == 1) {
                p[i].role = DEBTOR;
                p[i].amount = uint128(1 + i);
                sum += 1 + i;
                fund(p[i].who, 1 + i);
            }
        }
        if (sum != 0) (p[n - 1].role, p[n - 1].amount) = (CREDITOR, uint128(sum));
        toPosting(START);
        uint256 size = 1 << h;
        for (uint256 from; from < n; from += size) {
            uint256 to = from + size < n ? from + size : n;
            post(START, 0, uint64(from / size), h, packRange(p, from, to));
        }
        bytes32[] memory nodes = leaves(START, p);
        commit(START, root(nodes), sum);
        ClearingHouse.Cycle memory c = house.cycle(id(START));
        eq(c.r, root(nodes), "R");
        eq(c.q, root(statementLeaves(START, p)), "Q");
        eq(c.total, sum, "total");
        eq(c.participants, n, "participants");
        toFinal(START);
        for (uint256 i; i < n; ++i) {
            if (p[i].role == DEBTOR) house.markDefaulted(id(START), p[i].who, p[i].amount, prove(nodes, i));
            if (p[i].role == CREDITOR) house.claimToVault(id(START), p[i].who, p[i].amount, prove(nodes, i));
        }
    }

    function testFuzz_roots_do_not_depend_on_chunks(uint256 n, uint8 h, uint256 seed) public {
        h = h % 6;
        check(1 + n % (h < 2 ? 9 : 70), h, seed);
    }

    function test_roots_of_1_to_33_leaves_in_chunks_of_8() public {
        for (uint256 n = 1; n <= 33; ++n) {
            setUp();
            check(n, 3, type(uint256).max);
        }
    }

    function refused(Pos[] memory p, bytes memory reason) private {
        bytes memory chunk = pack(p);
        vm.prank(operator);
        vm.expectRevert(reason);
        house.postPositions(asset, START, 0, 0, 10, chunk);
    }

    function invalid(uint256 index) private pure returns (bytes memory) {
        return abi.encodeWithSelector(Positions.PositionInvalid.selector, index);
    }

    function test_positions_that_are_refused() public {
        fund(alice, 1000);
        toPosting(START);
        Pos[] memory p = three();
        (p[1], p[2]) = (p[2], p[1]);
        refused(p, invalid(2)); // order
        p = three();
        p[1].who = alice;
        refused(p, invalid(1)); // twice
        p = three();
        p[0].who = address(0);
        refused(p, invalid(0)); // the zero address
        p = three();
        p[2].role = 3;
        refused(p, invalid(2)); // no such role
        p = three();
        p[0].amount = 0;
        refused(p, invalid(0)); // a debtor of nothing
        p = three();
        p[1].amount = 0;
        refused(p, invalid(1)); // a creditor of nothing
        p = three();
        p[2].role = FLAT;
        refused(p, invalid(2)); // flat with an amount
        p = three();
        p[1].amount = 1 << 112;
        refused(p, invalid(1)); // too wide
        bytes memory malformed = abi.encodeWithSelector(Positions.PositionsMalformed.selector);
        refused(new Pos[](0), malformed);
        vm.prank(operator);
        vm.expectRevert(malformed);
        house.postPositions(asset, START, 0, 0, 10, new bytes(68));
    }

    function test_order_holds_across_chunks() public {
        fund(alice, 1000);
        toPosting(START);
        Pos[] memory p = three();
        post(START, 0, 0, 0, packRange(p, 1, 2));
        bytes memory first = packRange(p, 0, 1);
        bytes memory same = packRange(p, 1, 2);
        vm.startPrank(operator);
        vm.expectRevert(invalid(0));
        house.postPositions(asset, START, 0, 1, 0, first);
        vm.expectRevert(invalid(0));
        house.postPositions(asset, START, 0, 1, 0, same);
    }

    function test_a_chunk_names_its_turn() public {
        fund(alice, 1000);
        toPosting(START);
        Pos[] memory p = three();
        bytes memory first = packRange(p, 0, 2);
        bytes memory second = packRange(p, 2, 3);
        vm.startPrank(operator);
        vm.expectRevert(abi.encodeWithSelector(ClearingHouse.ChunkOutOfTurn.selector, 0, 1));
        house.postPositions(asset, START, 0, 1, 1, second);
        vm.expectRevert(abi.encodeWithSelector(ClearingHouse.ChunkOutOfTurn.selector, 1, 0));
        house.postPositions(asset, START, 1, 0, 1, first);
        vm.expectRevert(ClearingHouse.ChunkHeightInvalid.selector);
        house.postPositions(asset, START, 0, 0, 11, first);
        vm.expectRevert(ClearingHouse.ChunkHeightInvalid.selector);
        house.postPositions(asset, START, 0, 0, 0, first);
        house.postPositions(asset, START, 0, 0, 1, first);
        vm.expectRevert(abi.encodeWithSelector(ClearingHouse.ChunkOutOfTurn.selector, 0, 0));
        house.postPositions(asset, START, 0, 0, 1, first); // the same bytes again
        vm.expectRevert(ClearingHouse.ChunkHeightInvalid.selector);
        house.postPositions(asset, START, 0, 2, 0, second); // another height
        house.postPositions(asset, START, 0, 1, 1, second);
        vm.expectRevert(abi.encodeWithSelector(ClearingHouse.ChunkOutOfTurn.selector, 0, 2));
        house.postPositions(asset, START, 0, 2, 1, second); // a short chunk has closed the posting
        eq(held(alice), 1000 - 70, "taken once");
    }

    function test_posting_emits_each_chunk() public {
        fund(alice, 1000);
        toPosting(START);
        bytes memory chunk = pack(three());
        vm.recordLogs();
        post(START, 0, 0, 10, chunk);
        (bytes32[] memory topics, bytes memory data) = onlyLog();
        eq(topics[0], keccak256("PositionsPosted(bytes32,uint64,uint64,bytes32,uint256)"), "event");
        eq(topics[1], id(START), "cycle");
        eq(keccak256(data), keccak256(abi.encode(0, 0, keccak256(chunk), 3)), "data");
    }

    function onlyLog() private returns (bytes32[] memory, bytes memory) {
        Vm_Log[] memory logs = abi.decode(abi.encode(vm.getRecordedLogs()), (Vm_Log[]));
        eq(logs.length, 1, "one event");
        return (logs[0].topics, logs[0].data);
    }

    struct Vm_Log {
        bytes32[] topics;
        bytes data;
        address emitter;
    }

    function test_only_the_operator_posts_and_seals() public {
        toPosting(START);
        bytes memory chunk = pack(three());
        vm.expectRevert(abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, address(this)));
        house.postPositions(asset, START, 0, 0, 10, chunk);
        vm.expectRevert(abi.encodeWithSelector(ClearingHouse.NotAllowed.selector, address(this)));
        house.commitCycle(id(START), asset, bytes32(uint256(1)), 0, 0, START, START);
    }

    function test_a_cycle_where_all_end_flat_is_sealed() public {
        Pos[] memory p = new Pos[](2);
        p[0] = Pos(alice, FLAT, 0, keccak256("a"));
        p[1] = Pos(bob, FLAT, 0, keccak256("b"));
        sealCycle(START, p);
        toFinal(START);
        house.finalizeCycle(id(START));
        eq(house.getCycle(id(START)).status, 2, "final");
    }

}
