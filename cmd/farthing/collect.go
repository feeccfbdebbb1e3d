package main

import (
	"errors"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// cyclesLooked is how many cycles collect and settle deal with at once; the next run takes the rest.
const cyclesLooked = 1000

// claimsPerCall keeps one collecting transaction below a tenth of the gas that a transaction may use.
const claimsPerCall = 50

type collectCmd struct {
	venueFlags
	To  string `help:"Address that receives; default the key's own." placeholder:"0x…"`
	Now bool   `help:"Also when what is owed is worth less than the gas it takes."`
}

func (c *collectCmd) Run(r *run) error {
	v, err := r.venue(c.venueFlags, r.loginSigner("seller"))
	if err != nil {
		return err
	}
	defer v.Close()
	key, err := r.ownKey("seller")
	if err != nil {
		return err
	}
	to := key.Address()
	if c.To != "" {
		if to, err = evm.ParseAddress(c.To); err != nil {
			return misuse("--to: %v", err)
		}
	}
	if err := r.fund(v, key); err != nil {
		return err
	}
	owed, total, err := r.owed(v, key.Address())
	if err != nil {
		return err
	}
	if len(owed) == 0 {
		return r.emit(map[string]any{"collected": "0", "cycles": 0}, "nothing to collect yet; farthing cycle shows when a cycle is final\n")
	}
	if cost := collectCost(len(owed)); !c.Now && !v.Chain.Test && v.Token.Dollar && total.Less(cost) {
		return r.emit(map[string]any{"owed": total, "cost": cost, "cycles": len(owed)},
			"%s is owed from %d cycles and would cost about %s of gas; waiting. --now collects it anyway\n", v.format(total), len(owed), v.format(cost))
	}
	for claims := owed; len(claims) > 0; {
		n := min(len(claims), claimsPerCall)
		if err := r.send(v, key, v.Reader.Contracts.ClaimMany(claims[:n], to)); err != nil {
			return err
		}
		claims = claims[n:]
	}
	return r.emit(map[string]any{"collected": total, "cycles": len(owed), "to": to},
		"collected %s from %d cycles\n", v.format(total), len(owed))
}

// owed finds the final cycles in which an address is a creditor that has not collected.
func (r *run) owed(v *venue, creditor evm.Address) (claims []chain.Claim, total money.Amount, err error) {
	cycles, err := v.House.Unsettled(r.ctx, v.Token.Address, creditor, cyclesLooked)
	if err != nil {
		return nil, total, err
	}
	for _, cycle := range cycles {
		if cycle.State != "final" && cycle.State != "closed" || cycle.Total.IsZero() {
			continue
		}
		action, err := v.House.Action(r.ctx, cycle.Text, creditor, client.ClaimNetCredit)
		if notParty(err) {
			continue
		}
		if err != nil {
			return nil, total, err
		}
		done, err := v.Reader.Participant(r.ctx, cycle.ID, creditor)
		if err != nil {
			return nil, total, err
		}
		if done.Claimed {
			continue
		}
		claims = append(claims, chain.Claim{Cycle: cycle.ID, Amount: action.Amount, Proof: action.Proof})
		total, _ = total.Add(action.Amount) // pots hold less than 2^112 each
	}
	return claims, total, nil
}

// notParty says that a participant has nothing to do in a cycle.
func notParty(err error) bool {
	var e *x402.Error
	return errors.As(err, &e) && (e.Code == "position_unknown" || e.Code == "action_wrong" || e.Code == "not_found")
}

// collectCost is what collecting costs in dollars with six decimals, at the figures of [assumed].
func collectCost(cycles int) money.Amount {
	return assumed.dollars(uint64(74_000 + 21_000*(cycles-1)))
}

type settleCmd struct {
	venueFlags
}

func (c *settleCmd) Run(r *run) error {
	v, err := r.venue(c.venueFlags, r.loginSigner("buyer"))
	if err != nil {
		return err
	}
	defer v.Close()
	key, err := r.ownKey("buyer")
	if err != nil {
		return err
	}
	cycles, err := v.House.Unsettled(r.ctx, v.Token.Address, key.Address(), cyclesLooked)
	if err != nil {
		return err
	}
	var calls []evm.Call
	var total money.Amount
	for _, cycle := range cycles {
		if cycle.State != "committed" && cycle.State != "final" && cycle.State != "closed" || cycle.Total.IsZero() {
			continue
		}
		action, err := v.House.Action(r.ctx, cycle.Text, key.Address(), client.PayNetDebit)
		if notParty(err) {
			continue
		}
		if err != nil {
			return err
		}
		done, err := v.Reader.Participant(r.ctx, cycle.ID, key.Address())
		if err != nil {
			return err
		}
		if done.Paid || done.Defaulted {
			continue
		}
		calls = append(calls, v.Reader.Contracts.PayNetDebit(cycle.ID, v.Token.Address, action.Amount, action.Proof))
		total, _ = total.Add(action.Amount)
	}
	if len(calls) == 0 {
		return r.emit(map[string]any{"paid": "0", "cycles": 0}, "nothing to settle\n")
	}
	allow, err := approveCalls(r, v, key.Address(), total)
	if err != nil {
		return err
	}
	n := len(calls)
	if err := r.send(v, key, append(allow, calls...)...); err != nil {
		return err
	}
	return r.emit(map[string]any{"paid": total, "cycles": n}, "paid %s for %d cycles; that collateral is yours again\n", v.format(total), n)
}
