// Package network holds chains and tokens as data: ids, the names that people and protocols use, decimals, EIP-712
// domains, and which methods a token has.
//
// Most callers want [Lookup], [Chain.Token] and [Chain.Dollars]. A [Registry] adds a user's own entries.
package network

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/farthing402/farthing/evm"
)

// Chain is one EVM network.
type Chain struct {
	ID     uint64
	Name   string   // how farthing calls it: base-sepolia
	V1Name string   // its name in x402 version 1; empty if that version has none
	Also   []string // other names that people use
	Native string   // symbol of the native coin
	Test   bool     // money on it is not real
	// Depth is how many blocks must lie on top of one before what it says counts: 1 or 2 where nobody reorganises, more
	// on a chain whose head moves.
	Depth  uint64
	Tokens []Token
}

// Token is an ERC-20 token on a chain.
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

// Token finds a token by its symbol, in any letter case, or by its address.
func (c Chain) Token(symbolOrAddress string) (Token, error) {
	address, err := evm.ParseAddress(symbolOrAddress)
	for _, t := range c.Tokens {
		if strings.EqualFold(t.Symbol, symbolOrAddress) || err == nil && t.Address == address {
			return t, nil
		}
	}
	known := make([]string, len(c.Tokens))
	for i, t := range c.Tokens {
		known[i] = t.Symbol
	}
	return Token{}, &UnknownError{Asset: true, What: symbolOrAddress, On: c.String(), Known: known}
}

// UnknownError names a network or an asset that no entry has, and those there are.
type UnknownError struct {
	Asset bool // an asset; otherwise a network
	What  string
	On    string // the chain, for an asset
	Known []string
}

func (e *UnknownError) Error() string {
	if e.Asset {
		return fmt.Sprintf("no %s on %s", e.What, e.On)
	}
	return fmt.Sprintf("no network %q", e.What)
}

// Hint says what to do instead.
func (e *UnknownError) Hint() string {
	if e.Asset {
		if len(e.Known) == 0 {
			return "no token is known there; add its address to networks.yaml"
		}
		return strings.Join(e.Known, ", ") + " is known there; add the token's address to networks.yaml to use another"
	}
	if near := nearest(e.What, e.Known); near != "" {
		return "did you mean " + near + "? Others can be added in networks.yaml"
	}
	return "known: " + strings.Join(e.Known, ", ") + "; others can be added in networks.yaml"
}

// Registry is a set of chains. The zero value is empty; [Known] is the one that ships. It is not changed after use.
type Registry struct{ chains []Chain }

// Add puts a chain in, or merges its tokens into the one with the same id. It refuses what could be mistaken: a name that
// another chain has, a token symbol twice.
func (r *Registry) Add(c Chain) error {
	if c.ID == 0 || c.Name == "" {
		return fmt.Errorf("chain %q: id and name are needed", c.Name)
	}
	for i, old := range r.chains {
		if old.ID == c.ID {
			merged := old
			merged.Tokens = append([]Token(nil), old.Tokens...)
			for _, t := range c.Tokens {
				merged.Tokens = append(merged.Tokens, t)
			}
			if err := merged.check(); err != nil {
				return err
			}
			r.chains[i] = merged
			return nil
		}
		for _, n := range c.names() {
			if _, ok := match(old, n); ok {
				return fmt.Errorf("chain %s: the name %q is taken by %s", c, n, old)
			}
		}
	}
	if err := c.check(); err != nil {
		return err
	}
	r.chains = append(r.chains, c)
	return nil
}

func (c Chain) check() error {
	for i, t := range c.Tokens {
		if t.Symbol == "" || t.Address.IsZero() || t.Decimals > 36 {
			return fmt.Errorf("chain %s: token %q needs a symbol, an address and at most 36 decimals", c, t.Symbol)
		}
		for _, u := range c.Tokens[:i] {
			if strings.EqualFold(t.Symbol, u.Symbol) || t.Address == u.Address {
				return fmt.Errorf("chain %s: %s is there twice", c, t.Symbol)
			}
		}
	}
	return nil
}

func (c Chain) names() []string {
	return append([]string{c.Name, c.CAIP2(), strconv.FormatUint(c.ID, 10)}, c.Also...)
}

func match(c Chain, name string) (Chain, bool) {
	for _, n := range c.names() {
		if strings.EqualFold(n, name) {
			return c, true
		}
	}
	return c, c.V1Name != "" && strings.EqualFold(c.V1Name, name)
}

// Lookup finds a chain by any of its names, in any letter case: base, eip155:8453, 8453.
func (r Registry) Lookup(name string) (Chain, error) {
	known := make([]string, len(r.chains))
	for i, c := range r.chains {
		if c, ok := match(c, name); ok {
			return c, nil
		}
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
func (r Registry) Chains() []Chain { return append([]Chain(nil), r.chains...) }

// Lookup finds one of the chains that ship; see [Registry.Lookup].
func Lookup(name string) (Chain, error) { return known.Lookup(name) }

// ByID finds one of the chains that ship by its number.
func ByID(id uint64) (Chain, bool) { return known.ByID(id) }

// Known returns a copy of the registry that ships, to add to.
func Known() Registry { return Registry{known.Chains()} }

// nearest returns the candidate that a typing mistake away from word, or "".
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 1+len(word)/3
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d <= bestDistance {
			best, bestDistance = c, d-1
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
