package chain

import (
	"errors"
	"math/bits"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
)

const (
	// GasMax is the most that one transaction may use: EIP-7825 sets 2^24.
	GasMax = 1 << 24

	// RecheckBlocks is how far below the head the blocks of finished calls are compared again after a reorganisation. A
	// deeper one is beyond what a sender repairs.
	RecheckBlocks = 64

	// transactionBytesMax is what geth's pool takes: core/txpool/legacypool txMaxSize.
	transactionBytesMax = 128 << 10
)

// Policy says how eagerly and for how much a lane sends. The zero value means the defaults.
type Policy struct {
	// Depth is how many blocks must lie on top of a transaction's block before the call counts as done. 0 trusts the head.
	Depth uint64

	// BumpAfter is how long an attempt may wait before it is replaced by one with higher fees. Default 45 s: a few blocks
	// of the slowest networks.
	BumpAfter time.Duration

	// LostAfter is how long a nonce must be spent at full depth, with none of our attempts found, before the call goes on
	// under a new nonce. Default 2 minutes: longer than the parts of one provider disagree with each other.
	LostAfter time.Duration

	// MaxFeeWei is the most ever offered per gas. Default 500 gwei.
	MaxFeeWei uint64

	// MaxTipWei bounds what a node's suggestion may make a first attempt offer to the proposer. Default 3 gwei.
	MaxTipWei uint64

	// InFlightMax is how many transactions may wait in the node's pool at once. Default 16: geth's pool guarantees each
	// account that many.
	InFlightMax int
}

func (p Policy) withDefaults() Policy {
	if p.BumpAfter == 0 {
		p.BumpAfter = 45 * time.Second
	}
	if p.LostAfter == 0 {
		p.LostAfter = 2 * time.Minute
	}
	if p.MaxFeeWei == 0 {
		p.MaxFeeWei = 500e9
	}
	p.MaxFeeWei = min(p.MaxFeeWei, 1<<60) // twice of it, or a tenth more, cannot wrap
	if p.MaxTipWei == 0 {
		p.MaxTipWei = 3e9
	}
	if p.InFlightMax == 0 {
		p.InFlightMax = 16
	}
	return p
}

// fees are what a transaction offers, or what the market asks, per gas and in wei. In a market, fee is the base fee.
type fees struct{ tip, fee uint64 }

var errFeesTooHigh = errors.New("the network's fees are above the ceiling")

// offer returns the fees of a first attempt: the suggested tip, and room for the base fee to double.
func (p Policy) offer(market fees) (fees, error) {
	tip := min(market.tip, p.MaxTipWei)
	if need, over := bits.Add64(market.fee, tip, 0); over != 0 || need > p.MaxFeeWei {
		return fees{}, errFeesTooHigh
	}
	return fees{tip: tip, fee: min(2*market.fee+tip, p.MaxFeeWei)}, nil
}

// raise returns the fees of an attempt that replaces another, and false if the ceiling leaves no room for one.
func (p Policy) raise(old, market fees) (fees, bool) {
	// geth's pool accepts a replacement only if both fees rise by 10 % (core/txpool/legacypool DefaultConfig.PriceBump).
	now := fees{tip: tenth(old.tip), fee: tenth(old.fee)}
	if now.fee > p.MaxFeeWei || now.tip > p.MaxFeeWei {
		return fees{}, false
	}
	now.tip = max(now.tip, min(market.tip, p.MaxTipWei))
	if market.fee <= p.MaxFeeWei {
		now.fee = max(now.fee, min(2*market.fee+now.tip, p.MaxFeeWei))
	}
	now.fee = max(now.fee, now.tip)
	return now, true
}

// tenth returns v raised by a tenth, rounded up, and by one at least.
func tenth(v uint64) uint64 { return v + v/10 + 1 }

// step is what a sent call needs next.
type step int

const (
	stepWait      step = iota // it waits in the pool
	stepSeek                  // its nonce is spent: look for the receipt
	stepBroadcast             // the pool seems not to have it
	stepReplace               // it has waited too long
)

// next decides about a sent call from the nonces that the chain and the pool count, and the time.
func (p Policy) next(call evm.SentCall, mined, pending uint64, now time.Time) step {
	last := call.Attempts[len(call.Attempts)-1]
	switch {
	case last.Nonce < mined:
		return stepSeek
	case now.Sub(time.UnixMilli(last.SentAt)) >= p.BumpAfter:
		return stepReplace
	case last.Nonce >= pending:
		return stepBroadcast
	}
	return stepWait
}

// nextNonce returns the lowest nonce that is not spent and that no open call holds.
func nextNonce(mined uint64, open []evm.SentCall) uint64 {
	var held []uint64
	for _, call := range open {
		if nonce, sent := call.Nonce(); sent {
			held = append(held, nonce)
		}
	}
	for nonce := mined; ; nonce++ {
		if !slices.Contains(held, nonce) {
			return nonce
		}
	}
}

// inFlight counts the open calls whose nonces are not spent yet.
func inFlight(mined uint64, open []evm.SentCall) (n int) {
	for _, call := range open {
		if nonce, sent := call.Nonce(); sent && nonce >= mined {
			n++
		}
	}
	return n
}

// gasFor returns the gas limit for an estimate: a quarter more, since the state may move before the block.
func gasFor(estimate uint64) (uint64, error) {
	if estimate > GasMax {
		return 0, errTooMuchGas
	}
	return min(estimate+estimate/4, GasMax), nil
}
