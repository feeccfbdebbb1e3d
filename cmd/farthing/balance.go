package main

import (
	"time"

	"github.com/farthing402/farthing/money"
)

type balanceCmd struct {
	venueFlags
}

// balanceView is what balance prints. Amounts are smallest units.
type balanceView struct {
	Address    string       `json:"address"`
	Asset      string       `json:"asset"`
	Symbol     string       `json:"symbol"`
	Decimals   uint8        `json:"decimals"`
	Wallet     money.Amount `json:"wallet"`
	Collateral money.Amount `json:"collateral"`
	InUse      string       `json:"inUse"`
	Free       string       `json:"free"`
	Withdrawal money.Amount `json:"withdrawal"`
	PaidOutAt  string       `json:"withdrawalReadyAt,omitempty"`
	AutoSettle bool         `json:"autoSettle"`
	Gas        money.Amount `json:"gasWei"`
}

func (c *balanceCmd) Run(r *run) error {
	v, err := r.venue(c.venueFlags, r.loginSigner("buyer"))
	if err != nil {
		return err
	}
	defer v.Close()
	key, err := r.ownAddress("buyer")
	if err != nil {
		return err
	}
	b := balanceView{Address: key.String(), Asset: v.Token.Address.String(), Symbol: v.Token.Symbol, Decimals: v.Token.Decimals}
	if b.Wallet, err = v.Client.TokenBalance(r.ctx, v.Token.Address, key); err != nil {
		return err
	}
	if b.Collateral, err = v.Reader.Collateral(r.ctx, key, v.Token.Address); err != nil {
		return err
	}
	if b.Gas, err = v.Client.Balance(r.ctx, key); err != nil {
		return err
	}
	if b.AutoSettle, err = v.Reader.AutoSettle(r.ctx, key); err != nil {
		return err
	}
	w, err := v.Reader.Withdrawal(r.ctx, key, v.Token.Address)
	if err != nil {
		return err
	}
	if b.Withdrawal = w.Amount; !w.Amount.IsZero() {
		delay, err := v.Reader.WithdrawalDelay(r.ctx)
		if err != nil {
			return err
		}
		b.PaidOutAt = time.Unix(int64(w.When+delay), 0).UTC().Format(time.RFC3339)
	}
	held, err := v.House.Balance(r.ctx, key, v.Token.Address)
	if err != nil {
		return err
	}
	b.InUse, b.Free = held.Exposure.String(), held.Headroom.String()
	use := ", " + v.format(held.Exposure) + " in use, " + v.format(held.Headroom) + " free"
	waiting := ""
	if b.PaidOutAt != "" {
		waiting = "withdrawal  " + v.format(b.Withdrawal) + ", to be paid out from " + b.PaidOutAt + "\n"
	}
	return r.emit(b, "%s on %s\ncollateral  %s%s\n%swallet      %s, gas %s\n", key, v.Chain.Name, v.format(b.Collateral), use, waiting,
		v.format(b.Wallet), money.Format(b.Gas, 18, v.Chain.Native))
}
