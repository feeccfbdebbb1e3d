package devchain

import (
	"math/big"

	"github.com/ethereum/go-ethereum/core/types"

	"github.com/farthing402/farthing/evm"
)

// TestDollar is where the test dollar lives: a token with six decimals that stands for one dollar in demonstrations.
var TestDollar = evm.MustAddress("0xFA12000000000000000000000000000000000001")

// Dollars is the balance of test dollars that each of [Accounts] starts with, in whole dollars.
const Dollars = 1_000_000

func dollarAccount() types.Account {
	return types.Account{Balance: new(big.Int)}
}
