// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Positions
/// @notice The bytes of posted positions and the two trees over them.
///
/// A position has 69 bytes: participant 20 ‖ role 1 ‖ amount 16 ‖ statement 32. Roles: 0 debtor, 1 creditor, 2 flat.
/// Leaf of R: keccak256(abi.encode(chainId, clearingHouse, cycleId, asset, participant, amount, role)).
/// Leaf of Q: keccak256(0x02 ‖ leaf of R ‖ statement).
/// A node is the keccak256 of its two children, the lower one first; an odd last node is paired with itself.
library Positions {
    uint256 internal constant SIZE = 69;

    error PositionsMalformed();
    /// The position with this index in the chunk is out of order, has no such role, or an amount its role cannot have.
    error PositionInvalid(uint256 index);

    struct Folded {
        bytes32 r;
        bytes32 q;
        uint256 debit;
        uint256 credit;
        address last;
    }

    /// @notice Checks a chunk and folds both trees over it.
    /// @param previous the last participant of the chunk before, zero for the first chunk.
    /// @param levels how many levels to fold through at least; 0 folds until one node is left.
    function fold(bytes32 cycleId, address asset, address previous, bytes calldata positions, uint256 levels)
        internal
        view
        returns (Folded memory folded)
    {
        uint256 n = positions.length / SIZE;
        if (n == 0 || n * SIZE != positions.length) revert PositionsMalformed();
        uint256 r;
        uint256 faulty;
        assembly ("memory-safe") {
            // scratch: the 224 bytes of a leaf's preimage, then 65 bytes of the other leaf's
            let leaf := mload(0x40)
            let tagged := add(leaf, 0xe0)
            r := add(leaf, 0x140)
            let q := add(r, shl(5, n))
            mstore(0x40, add(q, shl(5, n)))
            mstore(leaf, chainid())
            mstore(add(leaf, 0x20), address())
            mstore(add(leaf, 0x40), cycleId)
            mstore(add(leaf, 0x60), asset)
            mstore8(tagged, 0x02)

            let debit := 0
            let credit := 0
            let at := positions.offset
            let end := add(at, positions.length)
            let out := r
            for {} lt(at, end) { at := add(at, 69) } {
                let head := calldataload(at)
                let participant := shr(96, head)
                let role := byte(20, head)
                let amount := shr(128, calldataload(add(at, 21)))
                // amount 0 is for role 2 and only for it; 2^112 and more is for nobody
                if or(
                    or(iszero(gt(participant, previous)), gt(role, 2)),
                    or(iszero(eq(iszero(amount), eq(role, 2))), shr(112, amount))
                ) {
                    faulty := add(div(sub(at, positions.offset), 69), 1)
                    break
                }
                previous := participant
                switch role
                case 0 { debit := add(debit, amount) }
                default { credit := add(credit, amount) }
                mstore(add(leaf, 0x80), participant)
                mstore(add(leaf, 0xa0), amount)
                mstore(add(leaf, 0xc0), role)
                let node := keccak256(leaf, 0xe0)
                mstore(out, node)
                mstore(add(tagged, 1), node)
                mstore(add(tagged, 33), calldataload(add(at, 37)))
                mstore(add(out, shl(5, n)), keccak256(tagged, 65))
                out := add(out, 0x20)
            }
            mstore(add(folded, 0x40), debit)
            mstore(add(folded, 0x60), credit)
            mstore(add(folded, 0x80), previous)
        }
        if (faulty != 0) revert PositionInvalid(faulty - 1);
        folded.r = foldAt(r, n, levels);
        folded.q = foldAt(r + 32 * n, n, levels);
    }

    /// @notice Folds n words in memory, in place.
    function foldAt(uint256 base, uint256 n, uint256 levels) internal pure returns (bytes32 root) {
        assembly ("memory-safe") {
            for { let level := 0 } or(gt(n, 1), lt(level, levels)) { level := add(level, 1) } {
                let last := add(base, shl(5, sub(n, 1)))
                let out := base
                for { let at := base } iszero(gt(at, last)) { at := add(at, 0x40) } {
                    let a := mload(at)
                    let b := a
                    if lt(at, last) { b := mload(add(at, 0x20)) }
                    switch lt(a, b)
                    case 0 {
                        mstore(0x00, b)
                        mstore(0x20, a)
                    }
                    default {
                        mstore(0x00, a)
                        mstore(0x20, b)
                    }
                    mstore(out, keccak256(0x00, 0x40))
                    out := add(out, 0x20)
                }
                n := shr(1, add(n, 1))
            }
            root := mload(base)
        }
    }

    /// @notice Whether a proof leads from leaf to root.
    function verify(bytes32 root, bytes32 leaf, bytes32[] calldata proof) internal pure returns (bool) {
        for (uint256 i; i < proof.length; ++i) {
            bytes32 sibling = proof[i];
            (bytes32 a, bytes32 b) = leaf < sibling ? (leaf, sibling) : (sibling, leaf);
            assembly ("memory-safe") {
                mstore(0x00, a)
                mstore(0x20, b)
                leaf := keccak256(0x00, 0x40)
            }
        }
        return leaf == root;
    }
}
