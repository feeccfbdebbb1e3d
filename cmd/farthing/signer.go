package main

import (
	"errors"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
)

type signerCmd struct {
	Add    signerAddCmd    `cmd:"" help:"Name a key that signs notes for you; it counts at once."`
	Remove signerRemoveCmd `cmd:"" help:"Remove a key; it counts until a withdrawal's delay is over."`
	List   signerListCmd   `cmd:"" help:"Show who signs for an address."`
}

// Help says what a signer is for.
func (signerCmd) Help() string {
	return "A gate signs that you take less than you were promised. So that the key that is paid need not lie beside the gate, " +
		"it names another one for that, once. Who has the named key can let your claims go, and can neither collect nor spend."
}

type signerAddCmd struct {
	venueFlags
	Address string `arg:"" help:"Address of the key that is to sign for --key." placeholder:"0x…"`
}

type signerRemoveCmd struct {
	venueFlags
	Address string `arg:"" help:"Address of the key that is to sign no longer." placeholder:"0x…"`
}

type signerListCmd struct {
	venueFlags
	Owner string `arg:"" optional:"" help:"Who is signed for; default the key's address." placeholder:"0x…"`
}

func (c *signerAddCmd) Run(r *run) error { return r.setSigner(c.venueFlags, c.Address, true) }

func (c *signerRemoveCmd) Run(r *run) error { return r.setSigner(c.venueFlags, c.Address, false) }

func (r *run) setSigner(f venueFlags, address string, on bool) error {
	key, err := evm.ParseAddress(address)
	if err != nil || key.IsZero() {
		return misuse("%q is no address", address)
	}
	v, err := r.venue(f, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	owner, err := r.ownKey("seller")
	if err != nil {
		return err
	}
	if key == owner.Address() {
		return misuse("%s signs for itself anyway", key)
	}
	named, err := v.Reader.IsSigner(r.ctx, owner.Address(), key)
	if err != nil {
		return err
	}
	if !on && !named {
		return misuse("%s does not sign for %s", key, owner.Address()).hint("farthing signer list shows who does")
	}
	if r.cli.Dev && !r.cli.DryRun {
		if err := r.fundGas(v.Client, owner.Address()); err != nil {
			return err
		}
	}
	if err := r.send(v, owner, v.Reader.Contracts.SetSigner(key, on)); err != nil {
		return err
	}
	result := map[string]any{"owner": owner.Address(), "key": key, "on": on}
	if on {
		return r.emit(result, "%s signs for %s now\n", key, owner.Address())
	}
	delay, err := v.Reader.WithdrawalDelay(r.ctx)
	if err != nil {
		return err
	}
	until := r.Now().Add(time.Duration(delay) * time.Second)
	result["until"] = until.Unix()
	return r.emit(result, "%s signs for %s until %s\n", key, owner.Address(), until.UTC().Format(time.RFC3339))
}

func (c *signerListCmd) Run(r *run) error {
	v, err := r.venue(c.venueFlags, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	var owner evm.Address
	if c.Owner != "" {
		owner, err = evm.ParseAddress(c.Owner)
		if err != nil {
			return misuse("%q is no address", c.Owner)
		}
	} else if owner, err = r.ownAddress("seller"); err != nil {
		return err
	}
	list, err := v.House.Signers(r.ctx, owner)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		r.say("note     nobody but %s itself signs for it", owner)
	}
	for _, s := range list {
		err = errors.Join(err, r.emit(map[string]any{"owner": owner, "key": s.Key, "until": s.Until}, "%s %s\n", s.Key, untilText(s, r.Now())))
	}
	return err
}

func untilText(s client.Signer, now time.Time) string {
	until := time.Unix(int64(s.Until), 0)
	switch {
	case s.Until == 0:
		return "signs"
	case until.After(now):
		return "signs until " + until.UTC().Format(time.RFC3339)
	}
	return "signed until " + until.UTC().Format(time.RFC3339)
}
