// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SmartWallet} from "./SmartWallet.sol";

/// @title StubbornWallet
/// @notice A wallet that will not be sent native coin: it reverts, or answers with more bytes than anybody should copy.
contract StubbornWallet is SmartWallet {
    bool public huge;

    constructor(address owner_) SmartWallet(owner_) {}

    function setHuge(bool huge_) external {
        huge = huge_;
    }

    receive() external payable override {
        require(huge, "no coin here");
        assembly {
            return(0, 200000)
        }
    }
}
