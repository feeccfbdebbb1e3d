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
    /// @param previousOf the last participant of the chunk before, zero for the first chunk.
    /// @param levels how many levels to fold through at least; 0 folds until one node is left.
    function fold(bytes32 cycleId, address asset, address previousOf, bytes calldata positions, uint256 levels)
        internal
        view
        returns (Folded memory folded)
    {
        uint256 n = positions.length / SIZE;
        if (n == 0 || n * SIZE != positions.length) revert PositionsMalformed();
        bool faulty;
        address previous = previousOf;
        assembly ("memory-safe") {
            // Memory past the free pointer is scratch here and is not kept: the 224 bytes of a leaf's preimage, 65 bytes
            // of the other leaf's, then both lists with a word to spare for the copy of an odd last node.
            let leaf := mload(0x40)
            let tagged := add(leaf, 0xe0)
            let r := add(leaf, 0x140)
            let q := add(r, shl(5, add(n, 1)))
            mstore(leaf, chainid())
            mstore(add(leaf, 0x20), address())
            mstore(add(leaf, 0x40), cycleId)
            mstore(add(leaf, 0x60), asset)
            mstore8(tagged, 0x02)

            // Faults are gathered without a branch and looked for once: nearly every chunk has none.
            let bad := 0
            let wide := 0
            let sum := 0
            let debit := 0
            let out := r
            let gap := sub(q, r)
            let end := add(positions.offset, positions.length)
            for { let p := positions.offset } lt(p, end) { p := add(p, 69) } {
                let amount := shr(128, calldataload(add(p, 21)))
                let head := calldataload(p)
                let role := byte(20, head)
                head := shr(96, head)
                // amount 0 is for role 2 and only for it
                bad := or(bad, or(or(iszero(gt(head, previous)), gt(role, 2)), xor(iszero(amount), eq(role, 2))))
                previous := head
                wide := or(wide, amount)
                sum := add(sum, amount)
                debit := add(debit, mul(amount, iszero(role)))
                mstore(add(leaf, 0x80), head)
                mstore(add(leaf, 0xa0), amount)
                mstore(add(leaf, 0xc0), role)
                let node := keccak256(leaf, 0xe0)
                mstore(out, node)
                mstore(add(tagged, 1), node)
                mstore(add(tagged, 33), calldataload(add(p, 37)))
                mstore(add(out, gap), keccak256(tagged, 65))
                out := add(out, 0x20)
            }
            faulty := or(bad, iszero(iszero(shr(112, wide))))
            mstore(add(folded, 0x40), debit)
            mstore(add(folded, 0x60), sub(sum, debit))
            mstore(add(folded, 0x80), previous)
            mstore(folded, r)
            mstore(add(folded, 0x20), q)
        }
        if (faulty) _blame(previousOf, positions);
        (folded.r, folded.q) = foldAt(uint256(folded.r), uint256(folded.q), n, levels);
    }

    /// Finds the first position that fold would not take.
    function _blame(address previousOf, bytes calldata positions) private pure {
        for (uint256 offset; offset < positions.length; offset += SIZE) {
            address participant = address(bytes20(positions[offset:offset + 20]));
            uint8 role = uint8(positions[offset + 20]);
            uint256 amount = uint128(bytes16(positions[offset + 21:offset + 37]));
            if (
                participant <= previousOf || role > 2 || (amount == 0) != (role == 2) || amount > type(uint112).max
            ) revert PositionInvalid(offset / SIZE);
            previousOf = participant;
        }
        assert(false); // fold saw a fault
    }

    /// @notice Folds two lists of n words in memory, in place. The word after each is overwritten.
    function foldAt(uint256 r, uint256 q, uint256 n, uint256 levels) internal pure returns (bytes32, bytes32) {
        assembly ("memory-safe") {
            let gap := sub(q, r)
            for {} or(gt(n, 1), levels) {} {
                let end := add(r, shl(5, n))
                if and(n, 1) {
                    mstore(end, mload(sub(end, 0x20)))
                    mstore(add(end, gap), mload(add(sub(end, 0x20), gap)))
                }
                let out := r
                for { let p := r } lt(p, end) { p := add(p, 0x40) } {
                    let a := mload(p)
                    let b := mload(add(p, 0x20))
                    let low := shl(5, gt(a, b))
                    mstore(low, a)
                    mstore(xor(low, 0x20), b)
                    mstore(out, keccak256(0x00, 0x40))
                    a := mload(add(p, gap))
                    b := mload(add(add(p, gap), 0x20))
                    low := shl(5, gt(a, b))
                    mstore(low, a)
                    mstore(xor(low, 0x20), b)
                    mstore(add(out, gap), keccak256(0x00, 0x40))
                    out := add(out, 0x20)
                }
                n := shr(1, add(n, 1))
                levels := sub(levels, iszero(iszero(levels)))
            }
            r := mload(r)
            q := mload(q)
        }
        return (bytes32(r), bytes32(q));
    }

    /// @notice The leaf of R for one position, without keeping its preimage in memory.
    function leafOf(bytes32 cycleId, address asset, address participant, uint256 amount, uint256 role)
        internal
        view
        returns (bytes32 leaf)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, chainid())
            mstore(add(free, 0x20), address())
            mstore(add(free, 0x40), cycleId)
            mstore(add(free, 0x60), asset)
            mstore(add(free, 0x80), participant)
            mstore(add(free, 0xa0), amount)
            mstore(add(free, 0xc0), role)
            leaf := keccak256(free, 0xe0)
        }
    }

    /// @notice keccak256 of the bytes, without keeping a copy of them in memory.
    function hash(bytes calldata positions) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, positions.offset, positions.length)
            digest := keccak256(free, positions.length)
        }
    }

    /// @notice Whether a proof leads from leaf to root.
    function verify(bytes32 root, bytes32 leaf, bytes32[] calldata proof) internal pure returns (bool) {
        assembly ("memory-safe") {
            let end := add(proof.offset, shl(5, proof.length))
            for { let p := proof.offset } lt(p, end) { p := add(p, 0x20) } {
                let sibling := calldataload(p)
                let low := shl(5, gt(leaf, sibling))
                mstore(low, leaf)
                mstore(xor(low, 0x20), sibling)
                leaf := keccak256(0x00, 0x40)
            }
        }
        return leaf == root;
    }
}
