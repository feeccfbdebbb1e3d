// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice A point of G1 as EIP-2537 encodes it: x and y of 64 bytes each, the first 16 bytes of each zero.
struct G1Point {
    bytes32 x_a;
    bytes32 x_b;
    bytes32 y_a;
    bytes32 y_b;
}

/// @notice A point of G2 as EIP-2537 encodes it: x.c0, x.c1, y.c0, y.c1 of 64 bytes each.
struct G2Point {
    bytes32 x_c0_a;
    bytes32 x_c0_b;
    bytes32 x_c1_a;
    bytes32 x_c1_b;
    bytes32 y_c0_a;
    bytes32 y_c0_b;
    bytes32 y_c1_a;
    bytes32 y_c1_b;
}

/// @title Bls
/// @notice BLS12-381 signatures with keys in G1 and signatures in G2, ciphersuite
/// BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_ (RFC 9380), on the precompiles of EIP-2537.
library Bls {
    /// The domain separation tag with its length appended, as expand_message_xmd wants it.
    bytes private constant DST_PRIME = "BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_\x2b";

    bytes private constant FIELD_MODULUS =
        hex"1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab";

    address private constant MODEXP = address(0x05);
    address private constant G2_ADD = address(0x0d);
    address private constant PAIRING = address(0x0f);
    address private constant MAP_FP2_TO_G2 = address(0x11);

    /// @notice Whether sig is the signature of message under key. The pairing precompile refuses points outside the
    /// right subgroup; the caller refuses the point at infinity as a key.
    function verify(G1Point memory key, bytes memory message, G2Point memory sig) internal view returns (bool) {
        bytes memory hashed = hashToG2(message);
        if (hashed.length != 256) return false;
        (bool ok, bytes memory result) = PAIRING.staticcall(
            bytes.concat(
                // minus the generator of G1
                hex"0000000000000000000000000000000017f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb00000000000000000000000000000000114d1d6855d545a8aa7d76c8cf2e21f267816aef1db507c96655b9d5caac42364e6f38ba0ecb751bad54dcd6b939c2ca",
                abi.encode(sig),
                abi.encode(key),
                hashed
            )
        );
        return ok && result.length == 32 && uint256(bytes32(result)) == 1;
    }

    /// @notice hash_to_curve of RFC 9380; empty where a precompile is missing.
    function hashToG2(bytes memory message) internal view returns (bytes memory) {
        (bytes32[8] memory u) = expand(message);
        bytes memory left = mapToG2(reduce(u[0], u[1]), reduce(u[2], u[3]));
        bytes memory right = mapToG2(reduce(u[4], u[5]), reduce(u[6], u[7]));
        (bool ok, bytes memory sum) = G2_ADD.staticcall(bytes.concat(left, right));
        return ok ? sum : bytes("");
    }

    /// expand_message_xmd with SHA-256 to 256 bytes.
    function expand(bytes memory message) private pure returns (bytes32[8] memory out) {
        bytes32 first = sha256(bytes.concat(new bytes(64), message, hex"010000", DST_PRIME));
        bytes32 previous;
        for (uint256 i; i < 8; ++i) {
            previous = sha256(abi.encodePacked(first ^ previous, uint8(i + 1), DST_PRIME));
            out[i] = previous;
        }
    }

    /// A 64-byte integer modulo the field, as 64 bytes.
    function reduce(bytes32 high, bytes32 low) private view returns (bytes memory) {
        (bool ok, bytes memory r) = MODEXP.staticcall(
            abi.encodePacked(uint256(64), uint256(1), uint256(48), high, low, uint8(1), FIELD_MODULUS)
        );
        return ok ? bytes.concat(new bytes(16), r) : bytes("");
    }

    function mapToG2(bytes memory c0, bytes memory c1) private view returns (bytes memory) {
        (bool ok, bytes memory point) = MAP_FP2_TO_G2.staticcall(bytes.concat(c0, c1));
        return ok ? point : bytes("");
    }
}
