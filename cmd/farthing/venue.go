package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
)

// venueFlags name the clearing house that a buyer's or seller's verb is about.
type venueFlags struct {
	ClearingHouse string `name:"clearing-house" help:"URL of the clearing house; with --dev the one that runs here." env:"FARTHING_CLEARING_HOUSE" placeholder:"URL"`
	RPCURL        string `name:"rpc-url" help:"JSON-RPC of the chain; default the one that the clearing house names." placeholder:"URL"`
	Asset         string `default:"USDC" help:"Token, by symbol or address."`
}

// venue is a clearing house, its contracts and one asset, as a buyer or seller meets them.
type venue struct {
	House  *client.Client
	Params client.Params
	Client *chain.Client
	Reader chain.Reader
	Chain  network.Chain
	Token  network.Token
}

func (v *venue) Close() { v.Client.Close() }

func (v *venue) format(a money.Amount) string {
	symbol := v.Token.Symbol
	if v.Token.Dollar {
		symbol = "$"
	}
	return money.Format(a, v.Token.Decimals, symbol)
}

// venue connects to what the flags name. who signs in where a login is wanted; nil reads what is public.
func (r *run) venue(f venueFlags, who evm.Signer) (v *venue, err error) {
	url := f.ClearingHouse
	if r.cli.Dev {
		s, err := r.findDev()
		if err != nil {
			return nil, err
		}
		if s.House == "" {
			return nil, fail("house_unreachable", "no process with --dev runs a clearing house").hint("start one: farthing gate --dev, or farthing serve --dev")
		}
		url = s.House
	}
	if url == "" {
		return nil, misuse("which clearing house?").hint("--clearing-house URL, or FARTHING_CLEARING_HOUSE; --dev for the one on this machine")
	}
	v = &venue{}
	var options []client.Option
	if who != nil {
		options = append(options, client.WithSigner(who))
	}
	if v.House, err = client.New(url, options...); err != nil {
		return nil, err
	}
	if v.Params, err = v.House.Params(r.ctx); err != nil {
		return nil, err
	}
	rpc := f.RPCURL
	if rpc == "" {
		rpc = v.Params.RPCURL
	}
	if rpc == "" {
		return nil, misuse("%s names no chain", url).hint("--rpc-url URL")
	}
	if v.Client, err = r.dial(rpc); err != nil {
		return nil, err
	}
	if v.Client.ChainID() != v.Params.Deployment.ChainID {
		defer v.Close()
		return nil, fail("chain_mismatch", "%s serves eip155:%d, the clearing house works on eip155:%d", rpc, v.Client.ChainID(), v.Params.Deployment.ChainID)
	}
	v.Reader = chain.Reader{Client: v.Client, Contracts: chain.Contracts{Vault: v.Params.Deployment.Vault, ClearingHouse: v.Params.Deployment.ClearingHouse}}
	tokens, err := v.House.Tokens(r.ctx)
	if err != nil {
		v.Close()
		return nil, err
	}
	all, err := r.networks()
	if err != nil {
		v.Close()
		return nil, err
	}
	v.Chain = houseChain(all, v.Params.Deployment.ChainID, tokens)
	if v.Token, err = v.Chain.Token(f.Asset); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// errDry ends a verb that was asked to send nothing, once it has said what it would send.
var errDry = errors.New("nothing was sent")

// send sends calls from one key through an outbox on disk, so that a command which is cut off is finished by the next
// one, and waits until each is as deep as the chain needs.
func (r *run) send(v *venue, key evm.Signer, calls ...evm.Call) error {
	if r.cli.DryRun {
		for _, c := range calls {
			if err := r.emit(map[string]any{"from": key.Address(), "to": c.To, "data": fmt.Sprintf("0x%x", c.Data)}, "would send from %s to %s: 0x%x\n", key.Address().Short(), c.To, c.Data); err != nil {
				return err
			}
		}
		return errDry
	}
	db, err := r.openOutbox(v.Client)
	if err != nil {
		return err
	}
	defer db.Close()
	outbox := db.Outbox()
	depth := v.Chain.Depth
	sender := chain.NewSender(v.Client, outbox, key, chain.Policy{Depth: depth})
	stamp := r.Now().UnixNano()
	for i := range calls {
		calls[i].ID, calls[i].From = fmt.Sprintf("%s/%d/%d", key.Address().Lower(), stamp, i), key.Address()
		if err := outbox.Enqueue(r.ctx, calls[i]); err != nil {
			return err
		}
	}
	for i := range calls {
		sent, err := sender.Wait(r.ctx, calls[i].ID, chain.Every(300*time.Millisecond))
		if err != nil {
			if sent.State == evm.CallSent {
				return fail("settlement_pending", "a transaction was sent and is not confirmed: %v", err).hint("run the command again later; what was sent is followed up and not sent twice")
			}
			return fail("config_invalid", "the chain refused: %v", err)
		}
	}
	return nil
}

// openOutbox opens the file that keeps what this user's own accounts send on a chain.
func (r *run) openOutbox(client *chain.Client) (*store.Store, error) {
	path, err := r.inFolder(fmt.Sprintf("wallet-%d.db", client.ChainID()))
	if err != nil {
		return nil, err
	}
	if r.cli.Dev { // a development chain is made anew, and the nonces of the old one with it
		genesis, err := client.Block(r.ctx, 0)
		if err != nil {
			return nil, err
		}
		if path, err = r.inFolder("dev", "chain-"+genesis.Hash.String()[2:14], "wallet.db"); err != nil {
			return nil, err
		}
	}
	return store.Open(r.ctx, path)
}
