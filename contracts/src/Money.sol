// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Money
/// @notice Moves native coin and tokens without believing what a token says. A pull counts what arrived; a push accepts
/// tokens that return nothing and refuses those that return false. Returned data is never copied beyond one word, so a
/// receiver cannot make the caller pay for it.
library Money {
    error NativeTransferFailed(address to, uint256 amount);
    error TokenTransferFailed(address token);

    /// @notice Pulls through the allowance that from gave to this contract; returns what arrived, at most amount.
    function pull(address token, address from, uint256 amount) internal returns (uint256) {
        // transferFrom(address,address,uint256)
        return _pull(token, amount, abi.encodeWithSelector(0x23b872dd, from, address(this), amount));
    }

    /// @notice Pulls by an EIP-3009 authorization; tail holds the encoded arguments from validAfter on.
    function pullAuthorized(address token, address from, uint256 value, bytes memory tail) internal returns (uint256) {
        // receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)
        return
            _pull(token, value, bytes.concat(abi.encodeWithSelector(0xef55bec6, from, address(this), value), tail));
    }

    function push(address asset, address to, uint256 amount) internal {
        if (asset == address(0)) {
            bool ok;
            assembly ("memory-safe") {
                ok := call(gas(), to, amount, 0, 0, 0, 0)
            }
            if (!ok) revert NativeTransferFailed(to, amount);
        } else {
            // transfer(address,uint256)
            _call(asset, abi.encodeWithSelector(0xa9059cbb, to, amount));
        }
    }

    function _pull(address token, uint256 amount, bytes memory data) private returns (uint256) {
        uint256 before = _balance(token);
        _call(token, data);
        uint256 afterwards = _balance(token);
        if (afterwards <= before) return 0;
        uint256 received = afterwards - before;
        return received < amount ? received : amount;
    }

    function _balance(address token) private view returns (uint256 held) {
        // balanceOf(address)
        bytes memory data = abi.encodeWithSelector(0x70a08231, address(this));
        bool ok;
        assembly ("memory-safe") {
            ok := staticcall(gas(), token, add(data, 32), mload(data), 0x00, 0x20)
            ok := and(ok, gt(returndatasize(), 31))
            held := mload(0x00)
        }
        if (!ok) revert TokenTransferFailed(token);
    }

    function _call(address token, bytes memory data) private {
        bool ok;
        assembly ("memory-safe") {
            mstore(0x00, 0)
            ok := call(gas(), token, 0, add(data, 32), mload(data), 0x00, 0x20)
            switch returndatasize()
            case 0 { ok := and(ok, gt(extcodesize(token), 0)) }
            default { ok := and(ok, and(gt(returndatasize(), 31), eq(mload(0x00), 1))) }
        }
        if (!ok) revert TokenTransferFailed(token);
    }
}
