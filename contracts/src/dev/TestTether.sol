// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title TestTether
/// @notice A dollar token for development chains with the habits of USDT on Ethereum: no EIP-2612, no EIP-3009, transfer,
/// transferFrom and approve return nothing, what is refused is refused without a reason, and an allowance changes to or
/// from zero only. It can be paid with through Permit2. Anybody can mint it.
///
/// It has no constructor and no immutables. What it is called lies in storage, as in TestDollar. Storage layout:
///   slot 0  mapping(address => uint256) balanceOf     entry at keccak256(abi.encode(owner, uint256(0)))
///   slot 1  mapping(address => mapping(address => uint256)) allowance
///   slot 2  uint256 totalSupply
///   slot 3  string name      an empty slot stands for the default
///   slot 4  string symbol
///   slot 5  uint256 decimals
contract TestTether {
    mapping(address owner => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;
    uint256 public totalSupply;

    string private nameOr;
    string private symbolOr;
    uint256 private decimalsOr;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    function name() external view returns (string memory) {
        return bytes(nameOr).length > 0 ? nameOr : "Test Tether";
    }

    function symbol() external view returns (string memory) {
        return bytes(symbolOr).length > 0 ? symbolOr : "USDT";
    }

    function decimals() external view returns (uint8) {
        return decimalsOr > 0 ? uint8(decimalsOr) : 6;
    }

    /// @notice Makes money from nothing. Development only.
    function mint(address to, uint256 value) external {
        totalSupply += value;
        unchecked {
            balanceOf[to] += value; // at most totalSupply
        }
        emit Transfer(address(0), to, value);
    }

    function transfer(address to, uint256 value) external {
        _transfer(msg.sender, to, value);
    }

    function transferFrom(address from, address to, uint256 value) external {
        uint256 allowed = allowance[from][msg.sender];
        require(allowed >= value);
        if (allowed != type(uint256).max) allowance[from][msg.sender] = allowed - value;
        _transfer(from, to, value);
    }

    function approve(address spender, uint256 value) external {
        require(value == 0 || allowance[msg.sender][spender] == 0);
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
    }

    function _transfer(address from, address to, uint256 value) private {
        uint256 balance = balanceOf[from];
        require(balance >= value);
        unchecked {
            balanceOf[from] = balance - value;
            balanceOf[to] += value;
        }
        emit Transfer(from, to, value);
    }
}
