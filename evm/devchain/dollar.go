package devchain

import (
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/evm"
)

// TestDollar is where the test dollar lives: a token with six decimals that stands for one dollar in demonstrations.
// Anybody can mint it.
var TestDollar = evm.MustAddress("0xFA12000000000000000000000000000000000001")

// Dollars is the balance of test dollars that each of [Accounts] starts with, in whole dollars.
const Dollars = 1_000_000

// Storage slots of the token, as its source states them.
const (
	slotBalanceOf   = 0
	slotTotalSupply = 2
)

// dollarAccount is the token as though it had been deployed and minted for the accounts.
func dollarAccount(owners []*evm.PrivateKey) types.Account {
	const units = Dollars * 1_000_000
	storage := map[common.Hash]common.Hash{
		evm.WordUint64(slotTotalSupply): evm.WordUint64(units * uint64(len(owners))),
	}
	for _, owner := range owners {
		key, slot := owner.Address().Word(), evm.WordUint64(slotBalanceOf)
		storage[common.Hash(evm.Keccak256(key[:], slot[:]))] = evm.WordUint64(units)
	}
	return types.Account{Code: contracts.TestDollar.Deployed, Storage: storage, Balance: new(big.Int), Nonce: 1}
}
