// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vault} from "../src/Vault.sol";
import {ClearingHouse} from "../src/ClearingHouse.sol";

/// A token that its issuer can turn against its holders.
contract HostileToken {
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;
    mapping(address => bool) public blocked;
    bool public paused;
    bool public lies; // returns false and moves nothing
    bool public silent; // returns nothing, as old tokens do
    uint256 public feePercent;
    address public reenterTarget;
    bytes public reenterData;
    bool public reentered;

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        allowance[msg.sender][spender] = value;
        return true;
    }

    function set(bool paused_, bool lies_, bool silent_, uint256 fee) external {
        (paused, lies, silent, feePercent) = (paused_, lies_, silent_, fee);
    }

    function block_(address who) external {
        blocked[who] = true;
    }

    function reenter(address target, bytes calldata data) external {
        (reenterTarget, reenterData) = (target, data);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        return _move(msg.sender, to, value);
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        allowance[from][msg.sender] -= value;
        return _move(from, to, value);
    }

    function _move(address from, address to, uint256 value) private returns (bool) {
        require(!paused && !blocked[from] && !blocked[to], "frozen");
        if (lies) return false;
        if (reenterTarget != address(0)) {
            address target = reenterTarget;
            reenterTarget = address(0); // once
            (reentered,) = target.call(reenterData);
        }
        balanceOf[from] -= value;
        balanceOf[to] += value - value * feePercent / 100;
        if (silent) {
            assembly {
                return(0, 0)
            }
        }
        return true;
    }
}

/// A participant that makes trouble when it is sent native coin.
contract HostileReceiver {
    enum Mode {
        Accept,
        Revert,
        Bomb,
        Reenter
    }

    Mode public mode;
    address public target;
    bytes public data;
    bool public succeeded;

    function set(Mode mode_, address target_, bytes calldata data_) external {
        (mode, target, data) = (mode_, target_, data_);
    }

    function act(address to, uint256 value, bytes calldata call_) external returns (bool ok) {
        bytes memory reason;
        (ok, reason) = to.call{value: value}(call_);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(reason, 32), mload(reason))
            }
        }
    }

    receive() external payable {
        if (mode == Mode.Revert) revert("no");
        if (mode == Mode.Bomb) {
            assembly {
                return(0, 200000)
            }
        }
        if (mode == Mode.Reenter) (succeeded,) = target.call(data);
    }
}
