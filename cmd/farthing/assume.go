package main

import "github.com/farthing402/farthing/money"

// assumptions are the prices that turn gas into dollars where no live ones are asked for. Reports print them.
type assumptions struct {
	GasPriceWei     uint64 `json:"gas_price_wei"`
	NativeDollars   uint64 `json:"native_usd"`
	TokensAtPar     bool   `json:"tokens_at_par"`
	CardDollars     string `json:"card_usd"`
	TransferGas     uint64 `json:"transfer_gas"`
	TransferDollars string `json:"one_transfer_each_usd"`
}

// assumed are the figures of a rollup on an ordinary day: 0.01 gwei, 3,000 dollars an ether, and 60,000 gas for one
// transfer of a dollar token by authorization.
var assumed = assumptions{GasPriceWei: 10_000_000, NativeDollars: 3000, TokensAtPar: true, CardDollars: "0.30", TransferGas: 60_000, TransferDollars: "0.0018"}

// dollars is what gas costs, in millionths of a dollar, rounded up.
func (a assumptions) dollars(gas uint64) money.Amount {
	// gas × wei a gas × dollars an ether × 10^6 / 10^18
	millionths := (gas*a.GasPriceWei/1_000_000*a.NativeDollars + 999_999) / 1_000_000
	return money.Units(millionths)
}
