// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title CycleId
/// @notice The name of a cycle: keccak256 of lower(asset) ":" periodStart as text, e.g. "0x036c…cf7e:1782086400".
library CycleId {
    function derive(address asset, uint64 periodStart) internal pure returns (bytes32 id) {
        uint256 high = _hex(uint256(uint160(asset)) >> 32);
        uint256 low = _hex(uint32(uint160(asset)));
        assembly ("memory-safe") {
            let text := mload(0x40)
            mstore(text, "0x")
            mstore(add(text, 2), high) // 32 digits
            mstore(add(text, 34), shl(192, low)) // 8 digits
            mstore8(add(text, 42), 0x3a) // ":"
            let digits := 1
            for { let rest := div(periodStart, 10) } rest { rest := div(rest, 10) } { digits := add(digits, 1) }
            let rest := periodStart
            for { let i := digits } i {} {
                i := sub(i, 1)
                mstore8(add(text, add(43, i)), add(48, mod(rest, 10)))
                rest := div(rest, 10)
            }
            id := keccak256(text, add(43, digits))
        }
    }

    /// The 32 lower-case hexadecimal digits of a 16-byte value: nibbles are spread over bytes, then turned to letters
    /// all at once.
    function _hex(uint256 v) private pure returns (uint256 x) {
        unchecked {
            x = (v | (v << 64)) & 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff;
            x = (x | (x << 32)) & 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff;
            x = (x | (x << 16)) & 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff;
            x = (x | (x << 8)) & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff;
            x = (x | (x << 4)) & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
            // 1 in each byte above 9; '0' is 48 and 'a' − 10 is 39 more
            uint256 letters = ((x + 0x0606060606060606060606060606060606060606060606060606060606060606) >> 4)
                & 0x0101010101010101010101010101010101010101010101010101010101010101;
            x += 0x3030303030303030303030303030303030303030303030303030303030303030 + letters * 39;
        }
    }
}
