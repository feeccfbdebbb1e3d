package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/network"
)

// networks are the chains and tokens that ship, and those that networks.yaml in farthing's folder adds.
func (p *program) networks() (network.Registry, error) {
	known := network.Known()
	path, err := p.inFolder("networks.yaml")
	if err != nil {
		return known, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return known, fail("config_invalid", "%v", err)
	}
	var entries []network.Entry
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&entries); err != nil && !errors.Is(err, io.EOF) {
		return known, fail("config_invalid", "%s: %v", path, err).hint("a list of networks, each with network, id and tokens")
	}
	if err := known.AddEntries(entries); err != nil {
		return known, fail("config_invalid", "%s: %v", path, err)
	}
	return known, nil
}

// clearedOn is a registry in which one chain has exactly the tokens that a clearing house takes there. Houses on the
// development chain may clear a test dollar of their own; anywhere else the registry says what a token is.
func clearedOn(all network.Registry, chain network.Chain) (network.Registry, error) {
	if chain.ID != mustChain("dev").ID {
		return all, nil
	}
	var r network.Registry
	for _, c := range all.Chains() {
		if c.ID == chain.ID {
			c.Tokens = chain.Tokens
		}
		if err := r.Add(c); err != nil {
			return r, err
		}
	}
	return r, nil
}

// paidOn is a registry in which the development chain has a clearing house's tokens besides its own. Where both have a
// token of one name, the house's is it.
func paidOn(all network.Registry, chain network.Chain) (network.Registry, error) {
	known, ok := all.ByID(chain.ID)
	if !ok {
		return clearedOn(all, chain)
	}
	chain.Tokens = slices.Clone(chain.Tokens)
	for _, t := range known.Tokens {
		if !slices.ContainsFunc(chain.Tokens, func(c network.Token) bool { return c.Address == t.Address || strings.EqualFold(c.Symbol, t.Symbol) }) {
			chain.Tokens = append(chain.Tokens, t)
		}
	}
	return clearedOn(all, chain)
}

// houseChain is the chain that a house works on, with the tokens that it clears.
func houseChain(all network.Registry, id uint64, tokens []client.Token) network.Chain {
	c, known := all.ByID(id)
	if !known {
		c = network.Chain{ID: id, Native: "ETH", Depth: 12}
		c.Name = c.CAIP2()
	}
	cleared := make([]network.Token, len(tokens))
	for i, t := range tokens {
		cleared[i] = network.Token{Symbol: t.Symbol, Address: t.Address, Decimals: t.Decimals, Dollar: id == mustChain("dev").ID}
		if k, err := c.Token(t.Address.String()); err == nil {
			cleared[i] = k
		}
	}
	c.Tokens = cleared
	return c
}
