package signals

import (
	"math"
	"math/big"
	"math/bits"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// Fees are what a network charges. There is no zero value of use: a fee that is not known is not 0.
type Fees struct {
	GasPrice money.Amount // wei per gas
	Coin     Dollars      // of one native coin, which is 10^18 wei
	Data     DataFee      // what a rollup adds for the bytes of a transaction
}

// DataFee is what a rollup asks for a transaction's bytes, known for two sizes and taken for a straight line beyond the
// smaller one. The zero value is a network that asks nothing.
type DataFee struct {
	Small, Large       uint64       // bytes of the two signed transactions, Small below Large
	SmallWei, LargeWei money.Amount // what each was asked for
}

// wei is what a transaction of a size pays. None pays less than the small one did: rollups have a floor.
func (d DataFee) wei(bytes uint64) *big.Rat {
	small, large := ratOfAmount(d.SmallWei), ratOfAmount(d.LargeWei)
	if bytes <= d.Small || d.Large <= d.Small {
		return small
	}
	slope := new(big.Rat).Quo(new(big.Rat).Sub(large, small), whole(d.Large-d.Small))
	at := slope.Add(slope.Mul(slope, whole(bytes-d.Small)), small)
	if at.Cmp(small) < 0 {
		return small
	}
	return at
}

// share is what bytes pay as a part of a large transaction.
func (d DataFee) share(bytes uint64) *big.Rat {
	if d.Large == 0 {
		return zero
	}
	each := new(big.Rat).Quo(ratOfAmount(d.LargeWei), whole(d.Large))
	return each.Mul(each, whole(bytes))
}

func ratOfAmount(a money.Amount) *big.Rat {
	word := a.Word()
	return new(big.Rat).SetInt(new(big.Int).SetBytes(word[:]))
}

// Of is what a transaction costs that takes so much gas and so many bytes.
func (f Fees) Of(u Use) Dollars { return f.dollars(u.Gas, f.Data.wei(u.Bytes)) }

// PartOf is what gas and bytes cost as a part of a larger transaction.
func (f Fees) PartOf(u Use) Dollars { return f.dollars(u.Gas, f.Data.share(u.Bytes)) }

func (f Fees) dollars(gas uint64, data *big.Rat) Dollars {
	wei := new(big.Rat).Mul(whole(gas), ratOfAmount(f.GasPrice))
	wei.Add(wei, data)
	return Dollars{wei.Mul(wei, new(big.Rat).Quo(orZero(f.Coin.r), power10(18)))}
}

// Use is the gas of a transaction and the bytes of it that a rollup publishes.
type Use struct{ Gas, Bytes uint64 }

// plus is u and so many times v, at most 2^64 − 1 of either.
func (u Use) plus(v Use, times uint64) Use {
	return Use{sum(u.Gas, v.Gas, times), sum(u.Bytes, v.Bytes, times)}
}

func sum(a, b, times uint64) uint64 {
	high, low := bits.Mul64(b, times)
	all, carry := bits.Add64(a, low, 0)
	if high != 0 || carry != 0 {
		return math.MaxUint64
	}
	return all
}

// Gas is what the ways to pay need of a chain.
type Gas struct {
	Transfer            Use // one signed transfer that is settled alone
	Upto                Use // one payment of at most so much, through Permit2
	BatchFixed, Batched Use // a transaction that settles many, and each of them
	Debtor, Creditor    Use // a buyer's and a seller's posted position in a cycle
	Cycle               Use // what sealing and finalizing a cycle takes besides its positions
	Collected           Use // a further cycle of which a seller collects in one transaction
}

// DefaultGas are planning figures for a dollar token behind a proxy, to a payee that holds some already, from payers who
// each pay once.
//
// go test ./cmd/farthing -run TestPlanningFigures -v measures the plain token of the development chain: 72,900 gas for an
// EIP-3009 transfer alone, 79,400 for an upto payment whose payer has used Permit2 before, and 33,500 + 45,800 for each of
// a multicall. A token behind a proxy with a deny-list, as USDC is, takes 12,000 to 20,000 more where it is touched first,
// and 7,000 in each further transfer of a batch. The figures of a cycle are those of docs/spec/clearing.md, rounded up.
//
// Bytes are those of the signed transactions: 110 around the call, 32 a word.
var DefaultGas = Gas{
	Transfer:   Use{85_000, 410},
	Upto:       Use{100_000, 620},
	BatchFixed: Use{45_000, 210},
	Batched:    Use{53_000, 450},
	Debtor:     Use{7_400, 36},
	Creditor:   Use{2_100, 36},
	Cycle:      Use{57_400 + 39_000, 700},
	Collected:  Use{21_600, 450},
}

// GasOf is [DefaultGas] for a token. One without signed transfers of its own goes through Permit2, which takes what upto
// takes.
func GasOf(t network.Token) Gas {
	g := DefaultGas
	if !t.EIP3009 {
		g.Batched.Gas += g.Upto.Gas - g.Transfer.Gas
		g.Batched.Bytes += g.Upto.Bytes - g.Transfer.Bytes
		g.Transfer = g.Upto
	}
	return g
}
