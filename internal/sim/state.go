package sim

import (
	"fmt"
	"maps"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// amountMax is the largest amount that a contract keeps, 2^112 − 1.
var amountMax = func() money.Amount {
	word := make([]byte, 14)
	for i := range word {
		word[i] = 0xff
	}
	a, _ := money.AmountFromBytes(word) // 14 bytes always fit
	return a
}()

type ownerAsset struct{ owner, asset evm.Address }

type ownerKey struct{ owner, key evm.Address }

// state is what both contracts and the tokens know after a transaction. A state that belongs to a block is shared and
// never changed: clone copies the maps, and cycles are copied when they are touched.
type state struct {
	nonces    map[evm.Address]uint64 // next of those who send by nonce
	accounts  map[ownerAsset]account
	auto      map[evm.Address]bool
	signers   map[ownerKey]uint64 // until when each counts
	bonds     map[evm.Address]money.Amount
	held      map[evm.Address]money.Amount // the vault's balance of each token
	wallets   map[ownerAsset]money.Amount
	minted    map[evm.Address]money.Amount
	schedules map[evm.Address][]clearing.Schedule // ascending by From
	cycles    map[evm.Hash]*cycle
	used      map[evm.Hash]move // authorizations that were carried out, by what the chain does once
	allowed   map[allowance]money.Amount
	answers   map[evm.Hash]guarantee.Answer // of validators, by request
}

// account has a gap instead of a limit, so that one that was never touched has no limit: limit = amountMax − gap.
type account struct {
	collateral  money.Amount
	requested   money.Amount
	requestedAt uint64 // 0 is no request
	gap         money.Amount
	pendingGap  money.Amount
	pendingFrom uint64 // start of the first cycle that pendingGap rules; 0 is none
}

type status int

const (
	none status = iota
	posting
	sealed
	final
	voided
	failed
)

func (s status) String() string {
	return [...]string{"none", "posting", "sealed", "final", "voided", "failed"}[s]
}

type cycle struct {
	ref         clearing.CycleRef
	status      status
	generation  uint64
	since       uint64 // when sealed or voided
	height      uint8
	chunks      [][]byte // of this generation
	last        evm.Address
	count       uint64 // positions of this generation
	root        evm.Hash
	total       money.Amount // Σ debits
	credits     money.Amount
	claimed     money.Amount
	pot         money.Amount // of all generations
	seals       int
	flags       map[evm.Address]clearing.PositionFlags // of this generation
	generations []generation                           // what release needs; the present one is the last
}

// generation is what one posting of a cycle took.
type generation struct {
	chunks   [][]byte
	released map[uint64]bool
	fills    map[evm.Address]money.Amount
}

func newState() *state {
	return &state{
		nonces: make(map[evm.Address]uint64), used: make(map[evm.Hash]move), allowed: make(map[allowance]money.Amount),
		accounts: make(map[ownerAsset]account), auto: make(map[evm.Address]bool), bonds: make(map[evm.Address]money.Amount),
		held: make(map[evm.Address]money.Amount), wallets: make(map[ownerAsset]money.Amount), minted: make(map[evm.Address]money.Amount),
		schedules: make(map[evm.Address][]clearing.Schedule), cycles: make(map[evm.Hash]*cycle),
		signers: make(map[ownerKey]uint64), answers: make(map[evm.Hash]guarantee.Answer),
	}
}

func (s *state) clone() *state {
	return &state{
		nonces: maps.Clone(s.nonces), used: maps.Clone(s.used), allowed: maps.Clone(s.allowed), accounts: maps.Clone(s.accounts), auto: maps.Clone(s.auto), bonds: maps.Clone(s.bonds), held: maps.Clone(s.held),
		wallets: maps.Clone(s.wallets), minted: maps.Clone(s.minted), schedules: maps.Clone(s.schedules), cycles: maps.Clone(s.cycles), signers: maps.Clone(s.signers),
		answers: maps.Clone(s.answers),
	}
}

func (c *cycle) clone() *cycle {
	d := *c
	d.chunks = append([][]byte(nil), c.chunks...)
	d.flags = maps.Clone(c.flags)
	d.generations = make([]generation, len(c.generations))
	for i, g := range c.generations {
		d.generations[i] = generation{append([][]byte(nil), g.chunks...), maps.Clone(g.released), maps.Clone(g.fills)}
	}
	return &d
}

// unsealed returns what posted positions have taken from an owner's own collateral in cycles that are not sealed: the
// chain has it in pots already, the house counts it until the seal.
func (s *state) unsealed(who ownerAsset) (sum money.Amount) {
	for _, c := range s.cycles {
		if c.ref.Asset != who.asset || c.status != posting {
			continue
		}
		g := c.generations[c.generation]
		for i, chunk := range g.chunks {
			if g.released[uint64(i)] {
				continue
			}
			for _, p := range parsePositions(chunk) {
				if p.participant == who.owner && p.role == clearing.Debtor {
					own, _ := p.amount.Sub(g.fills[who.owner])
					sum, _ = sum.Add(own)
				}
			}
		}
	}
	return sum
}

// check proves I1, and that no token came from nowhere.
func (s *state) check() error {
	for asset, minted := range s.minted {
		accounted, outside := s.bonds[asset], money.Amount{}
		for who, a := range s.accounts {
			if who.asset == asset {
				accounted, _ = accounted.Add(a.collateral)
			}
		}
		for _, c := range s.cycles {
			if c.ref.Asset != asset {
				continue
			}
			accounted, _ = accounted.Add(c.pot)
			if c.seals > 1+int(c.generation) {
				return fmt.Errorf("cycle %s was sealed %d times in generation %d", c.ref, c.seals, c.generation)
			}
			if c.status != sealed && c.status != final {
				continue
			}
			owed, ok := c.total.Sub(c.claimed)
			if !ok || c.pot.Less(owed) || c.total != c.credits {
				return fmt.Errorf("cycle %s: pot %s, total %s, claimed %s, credits %s", c.ref, c.pot, c.total, c.claimed, c.credits)
			}
		}
		for who, a := range s.wallets {
			if who.asset == asset {
				outside, _ = outside.Add(a)
			}
		}
		if s.held[asset] != accounted {
			return fmt.Errorf("asset %s: the vault holds %s, accounts come to %s", asset, s.held[asset], accounted)
		}
		if all, _ := outside.Add(accounted); all != minted {
			return fmt.Errorf("asset %s: %s was minted, %s is there", asset, minted, all)
		}
	}
	return nil
}
