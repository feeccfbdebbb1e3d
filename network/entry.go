package network

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
)

// Entry is a chain as a person writes it in networks.yaml. One that only names a network which is known adds tokens to it.
type Entry struct {
	Network   string        `yaml:"network" json:"network"`     // a known network's name, or the new one's
	ID        uint64        `yaml:"id" json:"id"`               // of the chain; may be left out for a known one
	Native    string        `yaml:"native" json:"native"`       // symbol of the coin that pays gas
	Test      bool          `yaml:"test" json:"test"`           // money on it is not real
	BlockTime time.Duration `yaml:"blockTime" json:"blockTime"` // such as 2s
	Depth     uint64        `yaml:"depth" json:"depth"`         // blocks until something counts; needed for a new network
	Tokens    []TokenEntry  `yaml:"tokens" json:"tokens"`
}

// TokenEntry is a token as a person writes it.
type TokenEntry struct {
	Symbol   string `yaml:"symbol" json:"symbol"`
	Address  string `yaml:"address" json:"address"`   // with the checksum of EIP-55, or in one letter case
	Decimals *uint8 `yaml:"decimals" json:"decimals"` // has no default: a wrong one is off by powers of ten
	Name     string `yaml:"name" json:"name"`         // of the EIP-712 domain, as the token's name() says
	Version  string `yaml:"version" json:"version"`   // of the EIP-712 domain
	EIP3009  bool   `yaml:"eip3009" json:"eip3009"`
	EIP2612  bool   `yaml:"eip2612" json:"eip2612"`
	Dollar   bool   `yaml:"dollar" json:"dollar"` // prices in $ are paid in it, at par
}

// AddEntries adds what a person wrote, all or nothing. The error joins every fault that was found.
func (r *Registry) AddEntries(entries []Entry) error {
	next := Registry{r.Chains()}
	var faults []error
	for i, e := range entries {
		c, err := e.chain(next)
		if err == nil {
			err = next.Add(c)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("network %d: %w", i+1, err))
		}
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	*r = next
	return nil
}

func (e Entry) chain(known Registry) (Chain, error) {
	c := Chain{ID: e.ID, Name: e.Network, Native: e.Native, Test: e.Test, BlockTime: e.BlockTime, Depth: e.Depth}
	if c.BlockTime < 0 {
		return Chain{}, fmt.Errorf("%s: a block cannot take %s", e.Network, e.BlockTime)
	}
	old, err := known.Lookup(e.Network)
	switch {
	case err == nil && (e.ID == 0 || e.ID == old.ID):
		c.ID, c.Name = old.ID, old.Name
	case e.ID == 0:
		return Chain{}, fmt.Errorf("%w, and a new one needs an id", err)
	case err != nil && e.Depth == 0:
		if _, ok := known.ByID(e.ID); !ok {
			return Chain{}, fmt.Errorf("%s: a new network needs a depth: how many blocks until something counts", e.Network)
		}
	}
	for _, t := range e.Tokens {
		token, err := t.token()
		if err != nil {
			return Chain{}, fmt.Errorf("%s: token %s: %w", e.Network, t.Symbol, err)
		}
		c.Tokens = append(c.Tokens, token)
	}
	return c, nil
}

func (t TokenEntry) token() (Token, error) {
	address, err := evm.ParseAddress(t.Address)
	if err != nil {
		return Token{}, err
	}
	digits := strings.TrimPrefix(strings.TrimPrefix(t.Address, "0x"), "0X")
	oneCase := digits == strings.ToLower(digits) || digits == strings.ToUpper(digits)
	if !oneCase && "0x"+digits != address.String() {
		return Token{}, fmt.Errorf("address %s: its letter cases do not fit its digits, so one of them is mistyped", t.Address)
	}
	if t.Decimals == nil {
		return Token{}, errors.New("decimals are needed")
	}
	return Token{
		Symbol: t.Symbol, Address: address, Decimals: *t.Decimals, Name: t.Name, Version: t.Version,
		EIP3009: t.EIP3009, EIP2612: t.EIP2612, Dollar: t.Dollar,
	}, nil
}
