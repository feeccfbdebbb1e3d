package main

import (
	"encoding/hex"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
)

type devchainCmd struct {
	Listen  string `default:"127.0.0.1:8545" help:"Address to serve JSON-RPC on; loopback only." placeholder:"HOST:PORT"`
	ChainID uint64 `default:"31337" help:"Chain id."`
	Dir     string `help:"Folder that keeps the chain across restarts; without it the chain lives in memory." placeholder:"DIR"`
}

func (c *devchainCmd) Run(r *run) error {
	node, err := devchain.Start(r.ctx, devchain.Config{ChainID: c.ChainID, Dir: c.Dir, Listen: c.Listen, Logger: r.log})
	if err != nil {
		return fail("config_invalid", "development chain: %v", err).hint("another one may run already; choose another --listen")
	}
	defer node.Close()
	if c.ChainID == devchain.DefaultChainID { // processes with --dev find it
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
	r.say("development chain %d at %s, a block each second. Money is not real, keys are known to everyone. Ctrl-C stops", c.ChainID, node.URL())
	if err := r.emit(map[string]any{"url": node.URL(), "chainId": c.ChainID, "testDollar": devchain.TestDollar, "accounts": accounts},
		"url         %s\ntest dollar %s\naccount 1   %s, key %s\n            ten in all, of the mnemonic test test … junk; --json lists them\n",
		node.URL(), devchain.TestDollar, accounts[1].Address, accounts[1].Key); err != nil {
		return err
	}
	<-r.ctx.Done()
	fmt.Fprintln(r.Err, "stopping")
	return node.Close()
}
