package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/store"
)

// sellerFlags say who sells, what is taken in payment and where the book is: the same for everything a seller does.
type sellerFlags struct {
	Config        string   `help:"gate.yaml; saving it changes prices at once." placeholder:"FILE" type:"path"`
	Accept        []string `help:"Ways to pay, in order of preference: guarantee, exact, upto, 'exact on arbitrum in USDC'." placeholder:"WAY"`
	ClearingHouse string   `name:"clearing-house" help:"URL of the clearing house, for guarantees." env:"FARTHING_CLEARING_HOUSE" placeholder:"URL"`
	Facilitator   string   `help:"URL of who settles transfers; default the clearing house." env:"FARTHING_FACILITATOR" placeholder:"URL"`
	RPCURL        string   `name:"rpc-url" help:"JSON-RPC of the chain: the seller looks for itself whether money moved, and can pay refunds." placeholder:"URL"`
	Book          string   `help:"SQLite file of purchases; default gate.db in farthing's folder." placeholder:"FILE"`
	BaseURL       string   `name:"base-url" help:"Origin under which buyers reach the gate, if something stands in front of it." placeholder:"URL"`
	PayTo         string   `help:"Address that is paid; default the key's." placeholder:"0x…"`
	pays          bool     // money is to be sent from the payee's key
	Shared        bool     `help:"Other gates use the same book: what they serve is not taken for lost."`
}

// sharedAbandoned is how long a purchase of another process on the same book may run before it counts as lost.
const sharedAbandoned = 10 * time.Minute

// counter is where a seller takes money: a paywall, and what it stands on.
type counter struct {
	Paywall *paywall.Paywall
	file    gateFile
	created bool   // its key was made just now
	note    string // of development money
	closers []func()
}

func (s *counter) Close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

// above puts the flags above the file, and asks for what is missing.
func (c *sellerFlags) above(r *run, file gateFile) (gateFile, error) {
	file.ClearingHouse = cmp.Or(c.ClearingHouse, file.ClearingHouse)
	file.Facilitator = cmp.Or(c.Facilitator, file.Facilitator)
	file.PayTo = cmp.Or(c.PayTo, file.PayTo)
	file.Network = cmp.Or(r.cli.Network, file.Network)
	file.RPCURL = cmp.Or(c.RPCURL, file.RPCURL)
	if len(c.Accept) > 0 {
		file.Accept = nil
		for _, way := range c.Accept {
			file.Accept = append(file.Accept, located{Text: way})
		}
	}
	if r.cli.Dev {
		return file, nil
	}
	if file.Network == "" {
		return file, misuse("which network?").hint("--network base-sepolia, or --dev for test money on this machine")
	}
	if file.ClearingHouse == "" && file.Facilitator == "" {
		return file, misuse("who takes the money?").hint("--clearing-house URL for guarantees, --facilitator URL for transfers, or --dev")
	}
	if len(file.Accept) > 0 && file.Facilitator == "" {
		file.Facilitator = file.ClearingHouse // which is one, unless it says otherwise
	}
	return file, nil
}

func (c *sellerFlags) load(r *run) (gateFile, error) {
	text, err := os.ReadFile(c.Config)
	if err != nil {
		return gateFile{}, fail("config_invalid", "%v", err).hint("farthing init writes one")
	}
	return parseGate(filepath.Base(c.Config), text, r.Env)
}

// open makes the paywall. Close the counter when done.
func (c *sellerFlags) open(r *run, file gateFile) (_ *counter, err error) {
	s := &counter{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	var key evm.Signer
	var book string
	if r.cli.Dev {
		dev, err := r.startDev("127.0.0.1:0", houseFront{})
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, dev.Close)
		file.Network, file.ClearingHouse, file.Facilitator, file.RPCURL = "dev", dev.House, dev.House, dev.Chain
		s.note = "Development money, not real."
		k, fresh, err := r.devKey("seller")
		if err != nil {
			return nil, err
		}
		key, s.created = k, fresh
		if book, err = r.devBook(dev.Chain, "gate.db"); err != nil {
			return nil, err
		}
	} else if key, err = c.seller(r, file); err != nil {
		return nil, err
	}
	if c.Book != "" {
		book = c.Book
	} else if book == "" {
		if book, err = r.inFolder("gate.db"); err != nil {
			return nil, err
		}
	}
	var alone []store.Option
	if !c.Shared { // two services on one book would take each other's prices, and each other's purchases for lost
		alone = append(alone, store.Exclusive())
	}
	db, err := store.Open(r.ctx, book, alone...)
	if used := (*store.InUseError)(nil); errors.As(err, &used) {
		return nil, fail("config_invalid", "%v", err).hint("--book FILE for another service, or --shared on every gate of the same one")
	}
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() { db.Close() })
	networks, err := c.networks(r, file)
	if err != nil {
		return nil, err
	}
	config := paywall.Config{
		Networks: networks, PayTo: file.PayTo, Network: file.Network, ClearingHouse: file.ClearingHouse, Facilitator: file.Facilitator,
		Purchases: db.Purchases(), Signer: key, Accept: plain(file.Accept), BaseURL: c.BaseURL, TabPath: paywall.DefaultTabPath, SignOffers: file.SignOffers, LateRefunds: file.LateRefunds, Now: r.Now, Log: r.log, OnSale: r.saleLines(), DevNote: s.note,
	}
	if c.Shared {
		config.Abandoned = sharedAbandoned
	}
	if file.RPCURL != "" {
		w, err := r.openWindow(file.RPCURL, networks, file.Network, db, key)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, w.Close)
		if c.pays && r.cli.Dev && !r.cli.DryRun {
			if err := r.fundGas(w.client, key.Address()); err != nil {
				return nil, err
			}
		}
		config.Witness = w
		payTo, err := evm.ParseAddress(file.PayTo)
		if key != nil && (err != nil || payTo == key.Address()) { // one that only signs for the payee has nothing to pay with
			config.Cashier = w
		}
	}
	if s.Paywall, err = paywall.New(config); err != nil {
		return nil, err
	}
	if w, ok := config.Witness.(*window); ok {
		// A wrong signing domain would make every payment look forged.
		for _, token := range s.Paywall.Tokens(w.on.ID) {
			if err := exact.ProbeToken(r.ctx, w.client, token); err != nil {
				return nil, err
			}
		}
	}
	s.file = file
	s.closers = append(s.closers, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 5*time.Second)
		defer cancel()
		if err := s.Paywall.Close(ctx); err != nil {
			r.say("some refusals to charge have not reached the clearing house yet; the next start delivers them (%v)", err)
		}
	})
	return s, nil
}

// networks are the chains and tokens that prices can be paid in: with a clearing house on the development chain, the
// tokens that it clears.
func (c *sellerFlags) networks(r *run, file gateFile) (*network.Registry, error) {
	all, err := r.networks()
	if err != nil || file.ClearingHouse == "" {
		return &all, err
	}
	house, err := client.New(file.ClearingHouse)
	if err != nil {
		return nil, err
	}
	params, err := house.Params(r.ctx)
	if err != nil || params.Deployment.ChainID != mustChain("dev").ID {
		return &all, nil // the house need not be up yet
	}
	tokens, err := house.Tokens(r.ctx)
	if err != nil {
		return &all, nil
	}
	all, err = clearedOn(all, houseChain(all, params.Deployment.ChainID, tokens))
	return &all, err
}

// seller is the key of the payee, which lowers what buyers owe and pays refunds. A seller that is paid at another address
// has none here: then guarantees are charged before work.
func (c *sellerFlags) seller(r *run, file gateFile) (evm.Signer, error) {
	path, err := r.keyPath(r.cli.Key)
	if err != nil {
		return nil, err
	}
	payTo := file.PayTo
	if payTo != "" && r.cli.Key == "" {
		address, err := evm.ParseAddress(payTo)
		if err != nil {
			return nil, misuse("pay_to: %v", err)
		}
		if own, err := r.ownAddress("seller"); err != nil || own != address {
			if file.ClearingHouse != "" {
				r.say("note     %s is paid and its key is not here: of guarantees nothing can be taken back, so they are charged before work (--key names one that may sign for it: farthing signer)", payTo)
			}
			return nil, nil
		}
	}
	if _, err := os.Stat(path); err != nil && payTo == "" {
		return nil, misuse("who is paid?").hint("farthing key new, or pay_to: ADDRESS")
	}
	return r.signer()
}
