package main

import (
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/money"
)

type depositCmd struct {
	venueFlags
	Amount       string `arg:"" help:"How much, such as '$5' or '2.5 USDC'."`
	NoAutoSettle bool   `help:"Count being settled from collateral as a default; then run farthing settle each cycle."`
}

func (c *depositCmd) Run(r *run) error {
	v, err := r.venue(c.venueFlags, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	amount, err := v.parse(c.Amount)
	if err != nil {
		return err
	}
	key, err := r.ownKey("buyer")
	if err != nil {
		return err
	}
	if err := r.fund(v, key); err != nil {
		return err
	}
	calls, err := depositCalls(r, v, key.Address(), amount, !c.NoAutoSettle)
	if err != nil {
		return err
	}
	if err := r.send(v, key, calls...); err != nil {
		return err
	}
	if !c.NoAutoSettle {
		r.say("what cycles take from this collateral counts as settled (autoSettle is on); --no-auto-settle leaves that to you")
	}
	now, err := v.Reader.Collateral(r.ctx, key.Address(), v.Token.Address)
	if err != nil {
		return err
	}
	return r.emit(map[string]any{"address": key.Address(), "deposited": amount, "collateral": now},
		"deposited %s; collateral of %s is %s\n", v.format(amount), key.Address(), v.format(now))
}

// depositCalls puts amount into the vault, allowing it to take the tokens if need be.
func depositCalls(r *run, v *venue, owner evm.Address, amount money.Amount, autoSettle bool) ([]evm.Call, error) {
	held, err := v.Client.TokenBalance(r.ctx, v.Token.Address, owner)
	if err != nil {
		return nil, err
	}
	if held.Less(amount) {
		return nil, fail("config_invalid", "%s holds %s, not %s", owner, v.format(held), v.format(amount)).hint("send %s on %s to it first", v.Token.Symbol, v.Chain.Name)
	}
	allow, err := approveCalls(r, v, owner, amount)
	if err != nil {
		return nil, err
	}
	calls := append(allow, v.Reader.Contracts.DepositStablecoin(v.Token.Address, amount))
	on, err := v.Reader.AutoSettle(r.ctx, owner)
	if err != nil {
		return nil, err
	}
	if autoSettle != on {
		calls = append(calls, v.Reader.Contracts.SetAutoSettle(autoSettle))
	}
	return calls, nil
}

// approveCalls lets the vault take amount, and no more, if it may not yet.
func approveCalls(r *run, v *venue, owner evm.Address, amount money.Amount) ([]evm.Call, error) {
	allowed, err := v.Client.Allowance(r.ctx, v.Token.Address, owner, v.Reader.Contracts.Vault)
	if err != nil || !allowed.Less(amount) {
		return nil, err
	}
	return []evm.Call{chain.Approve(v.Token.Address, v.Reader.Contracts.Vault, amount)}, nil
}

// parse reads what a person wrote as an amount of the venue's token.
func (v *venue) parse(text string) (money.Amount, error) {
	m, err := money.ParseMoney(text)
	if err != nil {
		return money.Amount{}, err
	}
	amount, err := m.In(money.Asset{Symbol: v.Token.Symbol, Decimals: v.Token.Decimals, Dollar: v.Token.Dollar})
	if err != nil {
		return money.Amount{}, misuse("%v", err).hint("write it in %s", v.Token.Symbol)
	}
	if amount.IsZero() {
		return money.Amount{}, misuse("%q is nothing", text)
	}
	return amount, nil
}

type withdrawCmd struct {
	venueFlags
	Amount string `arg:"" optional:"" help:"How much to ask back; without it, what is asked for already is shown, or paid out when its time has come."`
	Cancel bool   `help:"Take the request back."`
}

func (c *withdrawCmd) Run(r *run) error {
	v, err := r.venue(c.venueFlags, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	key, err := r.ownKey("buyer")
	if err != nil {
		return err
	}
	asset, contracts := v.Token.Address, v.Reader.Contracts
	delay, err := v.Reader.WithdrawalDelay(r.ctx)
	if err != nil {
		return err
	}
	if c.Amount != "" && !c.Cancel {
		amount, err := v.parse(c.Amount)
		if err != nil {
			return err
		}
		if err := r.send(v, key, contracts.RequestWithdrawal(asset, amount)); err != nil {
			return err
		}
		return r.emit(map[string]any{"requested": amount, "delaySeconds": delay},
			"asked for %s; run farthing withdraw in %s to be paid out. Until then it backs what you promised before.\n", v.format(amount), span(delay))
	}
	w, err := v.Reader.Withdrawal(r.ctx, key.Address(), asset)
	if err != nil {
		return err
	}
	if w.Amount.IsZero() {
		return r.emit(map[string]any{"requested": "0"}, "nothing is asked for\n")
	}
	if c.Cancel {
		if err := r.send(v, key, contracts.CancelWithdrawal(asset)); err != nil {
			return err
		}
		return r.emit(map[string]any{"canceled": w.Amount}, "taken back; %s stays collateral\n", v.format(w.Amount))
	}
	head, err := v.Client.Head(r.ctx)
	if err != nil {
		return err
	}
	if ready := w.When + delay; head.Time < ready {
		return r.emit(map[string]any{"requested": w.Amount, "secondsLeft": ready - head.Time},
			"%s can be paid out in %s\n", v.format(w.Amount), span(ready-head.Time))
	}
	before, err := v.Client.TokenBalance(r.ctx, asset, key.Address())
	if err != nil {
		return err
	}
	if err := r.send(v, key, contracts.FinalizeWithdrawal(asset)); err != nil {
		return err
	}
	after, err := v.Client.TokenBalance(r.ctx, asset, key.Address())
	if err != nil {
		return err
	}
	paid, _ := after.Sub(before)
	return r.emit(map[string]any{"paid": paid}, "paid out %s\n", v.format(paid))
}

// span says how long seconds are.
func span(seconds uint64) string {
	switch {
	case seconds < 120:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 2*3600:
		return fmt.Sprintf("%d min", (seconds+59)/60)
	case seconds < 48*3600:
		return fmt.Sprintf("%d h", (seconds+3599)/3600)
	}
	return fmt.Sprintf("%d days", (seconds+86399)/86400)
}
