// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ClearingHouse} from "../src/ClearingHouse.sol";
import {Schedule} from "../src/Interfaces.sol";
import {TestDollar} from "../src/TestDollar.sol";
import {Vault} from "../src/Vault.sol";

/// The few cheat codes these tests use.
interface Vm {
    struct Log {
        bytes32[] topics;
        bytes data;
        address emitter;
    }

    function addr(uint256 key) external pure returns (address);
    function assume(bool) external pure;
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
    function deal(address who, uint256 balance) external;
    function etch(address where, bytes calldata code) external;
    function expectRevert() external;
    function expectRevert(bytes calldata data) external;
    function expectRevert(bytes4 selector) external;
    /// block.timestamp, which the optimizer takes for a constant although warp moves it.
    function getBlockTimestamp() external view returns (uint256);
    function getNonce(address who) external view returns (uint64);
    function getRecordedLogs() external returns (Log[] memory);
    function prank(address who) external;
    function recordLogs() external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function startPrank(address who) external;
    function stopPrank() external;
    function warp(uint256 time) external;
    function cool(address target) external;
    function load(address target, bytes32 slot) external view returns (bytes32);
    function pauseGasMetering() external;
    function resumeGasMetering() external;
}

struct Pos {
    address who;
    uint8 role;
    uint128 amount;
    bytes32 statement;
}

/// Deploys everything with the times of the demonstration and builds positions, trees and proofs on its own.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint64 internal constant W = 60;
    uint64 internal constant START = 1_800_000_000;
    uint8 internal constant DEBTOR = 0;
    uint8 internal constant CREDITOR = 1;
    uint8 internal constant FLAT = 2;

    address internal operator = address(0x0b0b);
    address internal recovery = address(0x4ec0);
    address internal guardian = address(0x60a4);
    address internal disputes = address(0xd15b);
    address internal redemption = address(0x4ede);
    address internal alice = address(0x1001);
    address internal bob = address(0x2002);
    address internal carol = address(0x3003);

    Vault internal vault;
    ClearingHouse internal house;
    TestDollar internal usd;
    address internal asset;

    function setUp() public virtual {
        vm.warp(START);
        usd = new TestDollar();
        asset = address(usd);
        address[] memory tokens = new address[](1);
        tokens[0] = asset;
        address predicted = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        vault = new Vault(predicted, disputes, redemption, guardian, W, tokens);
        house = new ClearingHouse(address(vault), operator, recovery, 3);
        vm.startPrank(operator);
        house.setSchedule(asset, demo(START));
        house.setSchedule(address(0), demo(START));
        vm.stopPrank();
    }

    function demo(uint64 from) internal pure returns (Schedule memory) {
        return Schedule(from, 6, 1, 4, 4, 4, 10);
    }

    // -------------------------------------------------------------------- actions

    function fund(address who, uint256 amount) internal {
        usd.mint(who, amount);
        vm.startPrank(who);
        usd.approve(address(vault), type(uint256).max);
        vault.depositStablecoin(asset, amount);
        vm.stopPrank();
    }

    function fundBond(uint256 amount) internal {
        usd.mint(address(this), amount);
        usd.approve(address(vault), amount);
        vault.depositBond(asset, amount);
    }

    function toPosting(uint64 start) internal {
        vm.warp(start + 7);
    }

    function post(uint64 start, uint64 generation, uint64 chunk, uint8 h, bytes memory positions) internal {
        vm.prank(operator);
        house.postPositions(asset, start, generation, chunk, h, positions);
    }

    function commit(uint64 start, bytes32 computed, uint256 total) internal {
        uint64 deadline = uint64(vm.getBlockTimestamp()) + 1;
        vm.prank(operator);
        house.commitCycle(id(start), asset, computed, total, total, deadline, deadline);
    }

    /// Posts in one chunk and seals.
    function sealCycle(uint64 start, Pos[] memory positions) internal {
        toPosting(start);
        post(start, 0, 0, 10, pack(positions));
        commit(start, root(leaves(start, positions)), debits(positions));
    }

    function toFinal(uint64 start) internal {
        vm.warp(start + 7 + 5);
    }

    /// alice owes 70 to bob (40) and carol (30).
    function three() internal view returns (Pos[] memory p) {
        p = new Pos[](3);
        p[0] = Pos(alice, DEBTOR, 70, keccak256("a"));
        p[1] = Pos(bob, CREDITOR, 40, keccak256("b"));
        p[2] = Pos(carol, CREDITOR, 30, keccak256("c"));
    }

    // ---------------------------------------------------------------- bytes, written again

    function id(uint64 start) internal view returns (bytes32) {
        return keccak256(bytes(string.concat(lower(asset), ":", decimal(start))));
    }

    function lower(address a) internal pure returns (string memory) {
        bytes memory digits = "0123456789abcdef";
        bytes memory text = new bytes(42);
        text[0] = "0";
        text[1] = "x";
        for (uint256 i; i < 20; ++i) {
            uint8 b = uint8(bytes20(a)[i]);
            text[2 + 2 * i] = digits[b >> 4];
            text[3 + 2 * i] = digits[b & 15];
        }
        return string(text);
    }

    function decimal(uint256 v) internal pure returns (string memory text) {
        do {
            text = string.concat(string(abi.encodePacked(bytes1(uint8(48 + v % 10)))), text);
            v /= 10;
        } while (v != 0);
    }

    function pack(Pos[] memory p) internal pure returns (bytes memory out) {
        return packRange(p, 0, p.length);
    }

    function packRange(Pos[] memory p, uint256 from, uint256 to) internal pure returns (bytes memory out) {
        out = new bytes((to - from) * 69);
        for (uint256 i = from; i < to; ++i) {
            bytes memory one = abi.encodePacked(p[i].who, p[i].role, p[i].amount, p[i].statement);
            for (uint256 k; k < 69; ++k) {
                out[(i - from) * 69 + k] = one[k];
            }
        }
    }

    function debits(Pos[] memory p) internal pure returns (uint256 sum) {
        for (uint256 i; i < p.length; ++i) {
            if (p[i].role == DEBTOR) sum += p[i].amount;
        }
    }

    function leaves(uint64 start, Pos[] memory p) internal view returns (bytes32[] memory out) {
        out = new bytes32[](p.length);
        for (uint256 i; i < p.length; ++i) {
            out[i] = keccak256(
                abi.encode(
                    block.chainid, address(house), id(start), asset, p[i].who, uint256(p[i].amount), uint256(p[i].role)
                )
            );
        }
    }

    function statementLeaves(uint64 start, Pos[] memory p) internal view returns (bytes32[] memory out) {
        out = leaves(start, p);
        for (uint256 i; i < p.length; ++i) {
            out[i] = keccak256(abi.encodePacked(bytes1(0x02), out[i], p[i].statement));
        }
    }

    /// The reference's fold over the whole list: sorted pairs, an odd last node with itself.
    function level(bytes32[] memory nodes) internal pure returns (bytes32[] memory up) {
        up = new bytes32[]((nodes.length + 1) / 2);
        for (uint256 i; i < up.length; ++i) {
            bytes32 a = nodes[2 * i];
            bytes32 b = 2 * i + 1 < nodes.length ? nodes[2 * i + 1] : a;
            up[i] = a < b ? keccak256(abi.encodePacked(a, b)) : keccak256(abi.encodePacked(b, a));
        }
    }

    function root(bytes32[] memory nodes) internal pure returns (bytes32) {
        while (nodes.length > 1) nodes = level(nodes);
        return nodes[0];
    }

    function prove(bytes32[] memory nodes, uint256 index) internal pure returns (bytes32[] memory proof) {
        bytes32[] memory path = new bytes32[](64);
        uint256 n;
        while (nodes.length > 1) {
            uint256 sibling = index ^ 1;
            path[n++] = sibling < nodes.length ? nodes[sibling] : nodes[index];
            nodes = level(nodes);
            index >>= 1;
        }
        proof = new bytes32[](n);
        for (uint256 i; i < n; ++i) {
            proof[i] = path[i];
        }
    }

    function prove(uint64 start, Pos[] memory p, uint256 index) internal view returns (bytes32[] memory) {
        return prove(leaves(start, p), index);
    }

    // ------------------------------------------------------------------------- checks

    error Unequal(uint256 got, uint256 want, string what);

    function eq(uint256 got, uint256 want, string memory what) internal pure {
        if (got != want) revert Unequal(got, want, what);
    }

    function eq(bytes32 got, bytes32 want, string memory what) internal pure {
        if (got != want) revert Unequal(uint256(got), uint256(want), what);
    }

    function eq(address got, address want, string memory what) internal pure {
        if (got != want) revert Unequal(uint160(got), uint160(want), what);
    }

    function yes(bool ok, string memory what) internal pure {
        if (!ok) revert Unequal(0, 1, what);
    }

    function held(address who) internal view returns (uint256) {
        return vault.collateral(who, asset);
    }
}
