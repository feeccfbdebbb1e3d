// Package network holds chains and tokens as data: ids, the names that people and protocols use, decimals, EIP-712
// domains, and which methods a token has.
//
// Most callers want [Lookup], [Chain.Token] and [Chain.Dollars]. A [Registry] adds a user's own entries.
//
// # Concurrency
//
// Chains, tokens and a registry that is not being added to may be read by any number of goroutines. What they return is
// shared: do not change it.
package network

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Chain is one EVM network.
type Chain struct {
	ID      uint64
	Name    string   // how farthing calls it: base-sepolia
	V1Name  string   // its name in x402 version 1; empty if that version has none
	V1First bool     // the first packages of version 1 know the name too; they refuse a whole list for one that they do not
	Also    []string // other names that people use
	Native  string   // symbol of the native coin, which has 18 decimals; empty if not known
	Test    bool     // money on it is not real
	// BlockTime is about how long a block takes; 0 if not known.
	BlockTime time.Duration
	// Depth is how many blocks must lie on top of one before what it says counts: 1 or 2 where nobody reorganises, more
	// on a chain whose head moves. It is a starting point for whoever runs something, not a promise of the chain.
	Depth  uint64
	Tokens []Token
}

// Token is an ERC-20 token on a chain. One that has neither EIP-3009 nor EIP-2612 can be paid with only through Permit2
// and an approval that costs its owner gas.
type Token struct {
	Symbol   string
	Address  evm.Address
	Decimals uint8
	// Name and Version are the token's EIP-712 domain. They differ between main and test networks, and a wrong one gives
	// a wrong signature rather than an error: compare with the chain before use.
	Name, Version string
	EIP3009       bool // transferWithAuthorization and receiveWithAuthorization
	EIP2612       bool // permit
	Dollar        bool // stands for one dollar, at par
}

// Asset returns what prices and people need of the token.
func (t Token) Asset() money.Asset {
	return money.Asset{Symbol: t.Symbol, Decimals: t.Decimals, Dollar: t.Dollar}
}

// Domain returns the token's EIP-712 domain on a chain.
func (t Token) Domain(chainID uint64) evm.Domain {
	return evm.Domain{Name: t.Name, Version: t.Version, ChainID: chainID, VerifyingContract: &t.Address}
}

// CAIP2 returns the chain's name in x402 version 2: eip155:8453.
func (c Chain) CAIP2() string { return "eip155:" + strconv.FormatUint(c.ID, 10) }

// String returns both names: base (eip155:8453).
func (c Chain) String() string { return c.Name + " (" + c.CAIP2() + ")" }

// Dollars returns the tokens that a price in dollars is paid in, in order of preference.
func (c Chain) Dollars() []Token {
	var ds []Token
	for _, t := range c.Tokens {
		if t.Dollar {
			ds = append(ds, t)
		}
	}
	return ds
}

// Token finds a token by its symbol, in any letter case, or by its address. The error is an [*UnknownError].
func (c Chain) Token(symbolOrAddress string) (Token, error) {
	address, err := evm.ParseAddress(symbolOrAddress)
	known := make([]string, len(c.Tokens))
	for i, t := range c.Tokens {
		if strings.EqualFold(t.Symbol, symbolOrAddress) || err == nil && t.Address == address {
			return t, nil
		}
		known[i] = t.Symbol
	}
	return Token{}, &UnknownError{Asset: true, What: symbolOrAddress, On: c.String(), Known: known}
}

// names returns every name that finds the chain.
func (c Chain) names() []string {
	names := append([]string{c.Name, c.CAIP2(), strconv.FormatUint(c.ID, 10)}, c.Also...)
	if c.V1Name != "" {
		names = append(names, c.V1Name)
	}
	return names
}

func (c Chain) has(name string) bool {
	if id, ok := number(name); ok {
		return id == c.ID
	}
	return name != "" && (strings.EqualFold(c.Name, name) || strings.EqualFold(c.V1Name, name) ||
		slices.ContainsFunc(c.Also, func(n string) bool { return strings.EqualFold(n, name) }))
}

// number reads 8453 or eip155:8453. A second spelling, such as 08453, is none.
func number(name string) (id uint64, ok bool) {
	const prefix = "eip155:"
	if len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
		name = name[len(prefix):]
	}
	id, err := strconv.ParseUint(name, 10, 64)
	return id, err == nil && id > 0 && name[0] != '0'
}

func (c Chain) check() error {
	for _, n := range append([]string{c.Name}, c.Also...) {
		if n == "" || strings.ContainsAny(n, ": \t\r\n") || strings.Trim(n, "0123456789") == "" {
			return fmt.Errorf("chain %s: %q is no name: it needs a letter, and no colon or space", c, n)
		}
	}
	for i, t := range c.Tokens {
		switch {
		case t.Symbol == "" || strings.ContainsAny(t.Symbol, " \t\r\n$") || strings.HasPrefix(t.Symbol, "0x"):
			return fmt.Errorf("chain %s: %q is no symbol of a token", c, t.Symbol)
		case t.Address.IsZero():
			return fmt.Errorf("chain %s: token %s needs an address", c, t.Symbol)
		case t.Decimals > 36:
			return fmt.Errorf("chain %s: token %s has %d decimals, at most 36 are counted", c, t.Symbol, t.Decimals)
		case (t.EIP3009 || t.EIP2612) && (t.Name == "" || t.Version == ""):
			return fmt.Errorf("chain %s: token %s needs the name and version that its signatures carry", c, t.Symbol)
		}
		for _, u := range c.Tokens[:i] {
			if strings.EqualFold(t.Symbol, u.Symbol) || t.Address == u.Address {
				return fmt.Errorf("chain %s: %s (%s) is there already, as %s (%s)", c, t.Symbol, t.Address, u.Symbol, u.Address)
			}
		}
	}
	return nil
}

// Registry is a set of chains. The zero value is empty; [Known] is the one that ships.
type Registry struct{ chains []Chain }

// Add puts a chain in. If its id is there already, its tokens join that chain's, and depth and block time replace that
// chain's unless they are 0. What could be mistaken is refused and changes nothing: a name that another chain has, a
// token's symbol or address twice, a second name or nature for one id.
func (r *Registry) Add(c Chain) error {
	if c.ID == 0 {
		return fmt.Errorf("chain %q: an id is needed", c.Name)
	}
	at := -1
	for i, old := range r.chains {
		if old.ID == c.ID {
			at = i
			continue
		}
		for _, n := range c.names() {
			if n != "" && old.has(n) {
				return fmt.Errorf("chain %s: the name %q is taken by %s", c, n, old)
			}
		}
	}
	if at < 0 {
		c.Tokens, c.Also = slices.Clone(c.Tokens), slices.Clone(c.Also)
		if err := c.check(); err != nil {
			return err
		}
		r.chains = append(slices.Clip(r.chains), c) // a copy of this registry keeps its own
		return nil
	}
	merged := r.chains[at]
	if c.Name != "" && !merged.has(c.Name) {
		return fmt.Errorf("chain %s: its id is that of %s", c, merged)
	}
	if c.Test && !merged.Test {
		return fmt.Errorf("chain %s: money on %s is real", c, merged)
	}
	merged.Tokens = slices.Concat(merged.Tokens, c.Tokens)
	if c.Depth != 0 {
		merged.Depth = c.Depth
	}
	if c.BlockTime != 0 {
		merged.BlockTime = c.BlockTime
	}
	if err := merged.check(); err != nil {
		return err
	}
	r.chains = slices.Clone(r.chains)
	r.chains[at] = merged
	return nil
}

// Lookup finds a chain by any of its names, in any letter case: base, eip155:8453, 8453. The error is an [*UnknownError].
func (r Registry) Lookup(name string) (Chain, error) {
	for _, c := range r.chains {
		if c.has(name) {
			return c, nil
		}
	}
	known := make([]string, len(r.chains))
	for i, c := range r.chains {
		known[i] = c.Name
	}
	return Chain{}, &UnknownError{What: name, Known: known}
}

// ByID finds a chain by its number.
func (r Registry) ByID(id uint64) (Chain, bool) {
	for _, c := range r.chains {
		if c.ID == id {
			return c, true
		}
	}
	return Chain{}, false
}

// Chains returns all chains in the order in which they were added.
func (r Registry) Chains() []Chain { return slices.Clone(r.chains) }

// known is the registry that ships.
var known = func() Registry {
	var r Registry
	for _, c := range shipped {
		if err := r.Add(c); err != nil {
			panic(err) // the table is wrong, and a test says so first
		}
	}
	return r
}()

// Known returns a copy of the registry that ships, to add to.
func Known() Registry { return Registry{known.Chains()} }

// Lookup finds one of the chains that ship; see [Registry.Lookup].
func Lookup(name string) (Chain, error) { return known.Lookup(name) }

// ByID finds one of the chains that ship by its number.
func ByID(id uint64) (Chain, bool) { return known.ByID(id) }

// FromV1 returns the CAIP-2 name of a network that x402 version 1, or a person, names: base-sepolia, arbitrum, solana.
func FromV1(name string) (caip2 string, ok bool) {
	if caip2, ok = elsewhere[name]; ok {
		return caip2, true
	}
	if c, err := known.Lookup(name); err == nil {
		return c.CAIP2(), true
	}
	return "", false
}

// ToV1 returns the name that x402 version 1 has for a CAIP-2 name.
func ToV1(caip2 string) (name string, ok bool) {
	if id, ok := number(caip2); ok {
		c, _ := known.ByID(id)
		return c.V1Name, c.V1Name != ""
	}
	for name, other := range elsewhere {
		if other == caip2 {
			return name, true
		}
	}
	return "", false
}
