// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestDollar} from "../../src/TestDollar.sol";

/// @title HostileDollar
/// @notice A test dollar that misbehaves in a way that anybody can choose. It takes authorizations, permits and allowances
/// like the honest one, and only what then moves differs. Balances are honest where the words below do not say otherwise.
///
/// Its code works under any address. Storage layout: slots 0 to 8 as TestDollar's, then
///   slot 9   uint8 mode (lowest byte), and from the second byte on the address that is called back
///   slot 10  uint256 number
///   slot 11  bytes data
contract HostileDollar is TestDollar {
    enum Mode {
        Honest,
        Fee, // number per cent of the value stay behind, and the event says what arrived
        HiddenFee, // the same, but the event says the whole value
        Silent, // nothing moves, nothing is logged, and the answer is true
        False, // nothing moves and the answer is false
        Liar, // nothing moves, but the right event is logged
        Stray, // the value goes to address number, and the event says so
        Less, // one unit less moves than was asked, and the event says so
        Burn, // uses all gas but a sixty-fourth, then reverts
        TwoFaced, // honest to whoever pays no gas price, as callers that simulate do; otherwise as Burn
        Reenter, // calls target with data once, before it moves anything; reentered says whether that call succeeded
        Twice, // logs the event twice
        Ban // reverts for address number, whether it sends or is to receive
    }

    Mode public mode;
    address public target;
    uint256 public number;
    bytes public data;
    bool public reentered;

    function set(Mode mode_, uint256 number_) external {
        (mode, number) = (mode_, number_);
    }

    function setReentry(address target_, bytes calldata data_) external {
        (mode, target, data, reentered) = (Mode.Reenter, target_, data_, false);
    }

    function _transfer(address from, address to, uint256 value) internal override returns (bool) {
        Mode m = mode;
        if (m == Mode.Fee || m == Mode.HiddenFee) {
            uint256 fee = value * number / 100;
            balanceOf[from] -= value;
            balanceOf[to] += value - fee;
            balanceOf[address(this)] += fee;
            emit Transfer(from, to, m == Mode.Fee ? value - fee : value);
            return true;
        }
        if (m == Mode.Silent) return true;
        if (m == Mode.False) return false;
        if (m == Mode.Liar) {
            emit Transfer(from, to, value);
            return true;
        }
        if (m == Mode.Stray) return super._transfer(from, address(uint160(number)), value);
        if (m == Mode.Less) return super._transfer(from, to, value - 1);
        if (m == Mode.Burn || m == Mode.TwoFaced && tx.gasprice > 0) {
            assembly {
                invalid()
            }
        }
        if (m == Mode.Ban) {
            address banned = address(uint160(number));
            require(from != banned && to != banned, "Blacklistable: account is blacklisted");
        }
        if (m == Mode.Reenter) {
            mode = Mode.Honest;
            (reentered,) = target.call(data);
        }
        if (m == Mode.Twice) emit Transfer(from, to, value);
        return super._transfer(from, to, value);
    }
}
