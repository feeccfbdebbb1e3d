package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/network"
)

type devchainCmd struct {
	Listen  string `default:"127.0.0.1:8545" help:"Address to serve JSON-RPC on; loopback only." placeholder:"HOST:PORT"`
	ChainID uint64 `help:"Chain id; default that of --network, or 31337. With a test network's id its tokens are on the chain, as test money." placeholder:"ID"`
	Dir     string `help:"Folder that keeps the chain across restarts; without it the chain lives in memory." placeholder:"DIR"`
	Onto    string `help:"Run no chain: put the same contracts and test money on this anvil, then end." placeholder:"URL"`
	USDC    bool   `name:"usdc" help:"With --onto: also the tokens of the anvil's chain id; --network implies it."`
}

func (c *devchainCmd) Run(r *run) error {
	if c.Onto != "" {
		return c.onto(r)
	}
	if c.USDC {
		return misuse("--usdc goes with --onto").hint("farthing's own chain has the tokens of its chain id anyway")
	}
	on, err := c.network(r)
	if err != nil {
		return err
	}
	node, err := devchain.Start(r.ctx, devchain.Config{ChainID: on.ID, Dir: c.Dir, Listen: c.Listen, Logger: r.log, Tokens: on.Tokens})
	if err != nil {
		return fail("config_invalid", "development chain: %v", err).hint("another one may run already; choose another --listen")
	}
	defer node.Close()
	if on.ID == devchain.DefaultChainID { // processes with --dev find it
		if err := r.withDevLock(func(path string, s *devState) error {
			s.Chain, s.House = node.URL(), ""
			return s.save(path)
		}); err != nil {
			return err
		}
	}
	type account struct {
		Address evm.Address `json:"address"`
		Key     string      `json:"key"` // everyone knows it
	}
	var accounts []account
	for _, key := range devchain.Accounts() {
		accounts = append(accounts, account{key.Address(), hex.EncodeToString(key.Bytes())})
	}
	tokens := map[string]evm.Address{}
	var lines strings.Builder
	for _, t := range on.Tokens {
		tokens[t.Symbol] = t.Address
		fmt.Fprintf(&lines, "%-11s %s\n", t.Symbol, t.Address)
	}
	r.say("development chain %d at %s, a block each second. Money is not real, keys are known to everyone. Ctrl-C stops", on.ID, node.URL())
	if err := r.emit(map[string]any{
		"url": node.URL(), "chainId": on.ID, "network": on.Name, "testDollar": devchain.TestDollar, "testTether": devchain.TestTether,
		"tokens": tokens, "accounts": accounts,
	}, "url         %s\nnetwork     %s\n%stest dollar %s\ntest tether %s\naccount 1   %s, key %s\n            ten in all, of the mnemonic test test … junk; --json lists them\n",
		node.URL(), on, lines.String(), devchain.TestDollar, devchain.TestTether, accounts[1].Address, accounts[1].Key); err != nil {
		return err
	}
	<-r.ctx.Done()
	fmt.Fprintln(r.Err, "stopping")
	return node.Close()
}

// network is what --network and --chain-id ask for: a test network, the development chain, or an id that is not known.
func (c *devchainCmd) network(r *run) (network.Chain, error) {
	all, err := r.networks()
	if err != nil {
		return network.Chain{}, err
	}
	on, known := all.ByID(cmp.Or(c.ChainID, devchain.DefaultChainID))
	if !known {
		on = network.Chain{ID: c.ChainID, Test: true}
		on.Name = on.CAIP2()
	}
	if name := r.cli.Network; name != "" {
		if on, err = all.Lookup(name); err != nil {
			return network.Chain{}, err
		}
		if c.ChainID != 0 && c.ChainID != on.ID {
			return network.Chain{}, misuse("--network %s and --chain-id %d exclude each other", name, c.ChainID)
		}
	}
	if !on.Test {
		return network.Chain{}, misuse("money on %s is real, and what is signed for its id is good there too", on).
			hint("take a test network, such as --network base-sepolia, or another --chain-id")
	}
	return on, nil
}

// onto puts what the development chain carries on an anvil that runs.
func (c *devchainCmd) onto(r *run) error {
	if c.Dir != "" || r.cli.DryRun {
		return misuse("--onto writes to another's node at once: --dir and --dry-run have no meaning there")
	}
	on, err := c.network(r)
	if err != nil {
		return err
	}
	all, err := r.networks()
	if err != nil {
		return err
	}
	asked := r.cli.Network != "" || c.ChainID != 0
	var mismatch error
	id, done, err := devchain.Onto(r.ctx, c.Onto, func(id uint64) ([]network.Token, error) {
		served, known := all.ByID(id)
		switch {
		case asked && id != on.ID:
			mismatch = fail("chain_mismatch", "the node serves eip155:%d, not %s", id, on).hint("start it with --chain-id %d", on.ID)
		case known && !served.Test:
			mismatch = misuse("money on %s is real, and what is signed for its id is good there too", served)
		case !known && c.USDC:
			mismatch = fail("network_unknown", "the node serves eip155:%d, of which farthing knows no token", id).hint("networks.yaml can name them")
		case known && (c.USDC || r.cli.Network != ""):
			return served.Tokens, nil
		}
		return nil, mismatch
	})
	switch {
	case mismatch != nil:
		return mismatch
	case errors.Is(err, devchain.ErrNotDevelopment):
		return fail("config_invalid", "%v", err).hint("start one: anvil --chain-id 84532; farthing devchain runs a chain that has everything already")
	case err != nil:
		return fail("chain_unreachable", "%v", err).hint("does anvil run there? repeat it then: what is there already is not touched")
	}
	var lines strings.Builder
	for _, p := range done {
		fmt.Fprintf(&lines, "%-6s %-11s %s\n", p.Outcome, p.Name, p.Address)
	}
	return r.emit(map[string]any{"url": c.Onto, "chainId": id, "placed": done}, "%s", lines.String())
}
