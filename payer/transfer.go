package payer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// transferValid is how long a transfer outside any request is good for: a facilitator may wait for a quieter minute.
const transferValid = 10 * time.Minute

// Sender sends a token from the payer's own account in a transaction of its own, paying the gas. It sends one transaction
// for an id, however often it is asked: after a crash the same call finishes what was begun, or says how that ended.
type Sender interface {
	// Send returns when the transaction is on the chain. An error with the code settlement_pending, or of the context, says
	// that it may still get there; [ErrNotSent] that it never will.
	Send(ctx context.Context, id string, chainID uint64, token, to evm.Address, amount money.Amount) (tx evm.Hash, err error)
}

// ErrNotSent is the error of a [Sender] whose transaction did not move anything and never will.
var ErrNotSent = errors.New("nothing was sent")

// PayOption says more about a payment by [Payer.Pay].
type PayOption func(*order)

// On names the network to pay on. Without it there has to be one only on which the policy pays.
func On(name string) PayOption { return func(o *order) { o.network = name } }

// As gives a payment a name of the caller's own: one payment is made under a name, whoever asks for it how often.
func As(name string) PayOption { return func(o *order) { o.name = name } }

// order is what [Payer.Pay] is asked for, and what was found for it.
type order struct {
	to            evm.Address
	network, name string
	chain         network.Chain
	token         network.Token
	amount        money.Amount
}

// Check says what [Payer.Pay] would do, and does nothing: what it would pay in which token on which network.
func (p *Payer) Check(to evm.Address, amount, asset string, options ...PayOption) (Purchase, error) {
	o, err := p.order(to, amount, asset, options)
	if err != nil {
		return Purchase{}, err
	}
	return o.row(p).receipt(), nil
}

// Pay sends money to an address outside any HTTP request: amount is decimal, in units of the asset, "2.50" USDC. With
// [Config.Sender] the payer's account sends it and pays the gas; otherwise a transfer is signed, and [Config.Facilitator]
// brings it to the chain at its own cost. The budget holds as for purchases.
//
// The payment is in the journal before it leaves. One whose outcome is not known is a [*PendingError]: the same call with
// the same name, or [Payer.ResumePay], finishes it and never pays twice. A name that was used for another payment is
// id_reused.
func (p *Payer) Pay(ctx context.Context, to evm.Address, amount, asset string, options ...PayOption) (Purchase, error) {
	o, err := p.order(to, amount, asset, options)
	if err != nil {
		return Purchase{}, err
	}
	if p.Sender == nil && p.Facilitator == nil {
		return Purchase{}, x402.Errorf("config_invalid", "payer: nobody brings the transfer to the chain").WithHint("name a facilitator, or send it yourself")
	}
	r := o.row(p)
	leave := func() {}
	if o.name != "" {
		if leave, _, err = p.queues.enter(ctx, "name "+o.name); err != nil {
			return Purchase{}, err
		}
	}
	defer leave()
	before, err := p.journal.reserveNamed(r)
	if over := (*overBudget)(nil); errors.As(err, &over) {
		n := Need{Code: "budget_exceeded", Asked: dollars(r.promised()), Available: dollars(over.available), Payee: to}
		n.Reason = fmt.Sprintf("would pay %s, your limit %s is %s. Nothing was signed", n.Asked, over.limit, n.Available)
		if over.limit != perCall {
			n.Reason = fmt.Sprintf("would pay %s, and %s is left of your budget %s. Nothing was signed", n.Asked, n.Available, over.limit)
		}
		n.Ways = []Way{{Kind: Budgeting, Text: fmt.Sprintf("--max '%s'", n.Asked), Amount: n.Asked}}
		if !p.ask(ctx, n) {
			return Purchase{}, &NeedError{n}
		}
		err = p.journal.reserve(r, true)
	}
	if err != nil {
		return Purchase{}, errJournal(p.Journal, err)
	}
	if before != nil {
		return p.same(ctx, *before, r)
	}
	if err := p.authorize(ctx, &r, o); err != nil {
		p.void(&r, true, "not_signed")
		return Purchase{}, err
	}
	return p.bring(ctx, r, false)
}

// order reads what is to be paid, and refuses what could only be a mistake.
func (p *Payer) order(to evm.Address, amount, asset string, options []PayOption) (o order, err error) {
	o.to = to
	for _, f := range options {
		f(&o)
	}
	if o.chain, err = p.payOn(o.network, asset); err != nil {
		return o, err
	}
	if o.token, err = o.chain.Token(asset); err != nil {
		return o, tabled(err)
	}
	if !o.token.Dollar {
		return o, x402.Errorf("asset_unknown", "%s on %s is no dollar, and no budget in dollars can measure it", o.token.Symbol, o.chain.Name)
	}
	switch {
	case to.IsZero():
		return o, x402.Errorf("usage", "the zero address has no owner: what goes there is lost")
	case to == p.Key.Address():
		return o, x402.Errorf("usage", "%s is your own account", to)
	case to == o.token.Address:
		return o, x402.Errorf("usage", "%s is the token %s itself: what goes there is lost", to, o.token.Symbol)
	case len(o.name) > 200:
		return o, x402.Errorf("usage", "a name of %d bytes", len(o.name))
	}
	if strings.Trim(amount, "0123456789.") != "" || amount == "" {
		return o, x402.Errorf("price_invalid", "%q is no plain decimal amount", clip(amount)).WithHint("such as 2.50")
	}
	m, err := money.ParseMoney("$" + amount)
	if err != nil {
		return o, tabled(err)
	}
	if o.amount, err = m.Atomic(o.token.Decimals); err != nil {
		return o, x402.Errorf("price_invalid", "%s: %w", m, err).WithHint("%s has %d decimals", o.token.Symbol, o.token.Decimals)
	}
	if _, fits := inDollars(o.amount, o.token.Decimals); !fits || o.amount.IsZero() {
		return o, x402.Errorf("price_invalid", "%s is nothing that can be paid", m)
	}
	if p.Sender == nil && !o.token.EIP3009 {
		return o, x402.Errorf("config_invalid", "%s on %s has no transfer by signature", o.token.Symbol, o.chain.Name).WithHint("send it yourself (--direct)")
	}
	return o, nil
}

// payOn finds the network of a payment: the one that is named, or the only one that the policy allows.
func (p *Payer) payOn(name, asset string) (network.Chain, error) {
	l := look{Payer: p}
	if name == "" && len(p.Networks) == 1 {
		name = p.Networks[0]
	}
	if name == "" {
		return network.Chain{}, x402.Errorf("usage", "on which network is %s to be paid?", clip(asset)).WithHint("--network base")
	}
	chain, err := p.registry.Lookup(name)
	if err != nil {
		return chain, tabled(err)
	}
	if !l.onNetwork(chain) {
		return chain, x402.Errorf("network_unknown", "%s is not one of the networks on which you pay", chain.Name).WithHint("--network")
	}
	return chain, nil
}

// row is the order as the journal has it.
func (o order) row(p *Payer) row {
	return row{
		ID: p.newID(), State: Reserved, At: p.Now(), Method: "PAY", Network: o.chain.CAIP2(), Asset: o.token.Address, Symbol: o.token.Symbol,
		Decimals: o.token.Decimals, Payee: o.to, Amount: o.amount, Scheme: exact.Scheme, Payer: p.Key.Address(), ChainID: o.chain.ID, Name: o.name,
	}
}

// reserveNamed reserves a row unless there is one of its name that may be, or become, charged; then that one is returned.
func (j *journal) reserveNamed(r row) (before *row, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err = j.locked(func() error {
		j.expire(j.now())
		if old, ok := j.named[r.Name]; ok && r.Name != "" && (old.State != Void || !old.Proven) {
			before = &old
			return nil
		}
		if err := j.within(r); err != nil {
			return err
		}
		return j.append(r)
	})
	return before, err
}

// same answers a payment of a name that was used before: with what that came to, or by finishing it.
func (p *Payer) same(ctx context.Context, before, asked row) (Purchase, error) {
	if before.Payee != asked.Payee || before.Amount != asked.Amount || before.Asset != asked.Asset || before.Network != asked.Network || before.Payer != asked.Payer {
		return Purchase{}, x402.Errorf("id_reused", "%q paid %s on %s before, and is now asked for something else. Nothing was signed", clip(before.Name), before.what(), networkName(before.Network))
	}
	switch before.State {
	case Charged:
		return p.receipt(before), nil
	case Reserved:
		return Purchase{}, x402.Errorf("payment_in_progress", "%q is being paid by another process, or one that crashed before it signed", clip(before.Name)).
			WithHint("try again in %s", reserveLease)
	}
	return p.bring(ctx, before, true)
}

// ResumePay finishes a payment by [Payer.Pay] whose outcome is not known. The error is not_found for a purchase that is not
// in the journal, or no such payment.
func (p *Payer) ResumePay(ctx context.Context, id string) (Purchase, error) {
	r, ok, err := p.journal.find(id)
	switch {
	case err != nil:
		return Purchase{}, errJournal(p.Journal, err)
	case !ok || r.Seller != "" || r.State == Reserved:
		return Purchase{}, x402.Errorf("not_found", "no payment %s in the journal", clip(id))
	case r.State == Charged || r.State == Void && r.Proven:
		return p.receipt(r), nil
	}
	return p.bring(ctx, r, true)
}

// what the row pays for, for a person.
func (r row) what() string {
	if r.Seller != "" {
		return r.URL
	}
	return fmt.Sprintf("%s to %s", money.Format(r.Amount, r.Decimals, r.Symbol), r.Payee)
}

// authorize signs a transfer and writes it down; one that the account sends itself is only written down.
func (p *Payer) authorize(ctx context.Context, r *row, o order) error {
	if p.Wallet != nil {
		held, err := p.Wallet.Balance(ctx, o.chain.ID, o.token.Address, p.Key.Address())
		if err == nil && held.Less(o.amount) {
			return x402.Errorf("insufficient_funds", "%s holds %s on %s, not %s. Nothing was signed", p.Key.Address().Short(),
				money.Format(held, o.token.Decimals, o.token.Symbol), o.chain.Name, money.Format(o.amount, o.token.Decimals, o.token.Symbol)).
				WithHint("send %s to %s on %s", money.Format(less(o.amount, held), o.token.Decimals, o.token.Symbol), p.Key.Address(), o.chain.Name)
		}
	}
	if p.Sender == nil {
		requirements := x402.Requirements{
			Scheme: exact.Scheme, Network: r.Network, Amount: r.Amount.String(), Asset: r.Asset.String(), PayTo: r.Payee.String(),
			MaxTimeoutSeconds: int(transferValid / time.Second), Extra: map[string]json.RawMessage{},
		}
		for key, value := range map[string]string{"name": o.token.Name, "version": o.token.Version} {
			var err error
			if requirements.Extra[key], err = json.Marshal(value); err != nil {
				return err
			}
		}
		signing, cancel := context.WithTimeout(ctx, signTimeout)
		defer cancel()
		r.Terms = purchase.Terms{
			Purchase: r.ID, Scheme: r.Scheme, Network: r.Network, Asset: r.Asset, Payee: r.Payee, Amount: r.Amount, Method: r.Method, Expires: r.At.Unix(),
		}.Hash()
		a, err := exact.Pay(signing, p.Key, requirements, r.Terms, p.Now())
		if err != nil {
			return err
		}
		if a.Amount != r.Amount || a.To != r.Payee || a.Asset != r.Asset || a.ChainID != o.chain.ID || a.Method != exact.EIP3009 {
			return errTwoReadings
		}
		r.Transfer, r.Nonce, r.ValidBefore, r.Digest = a.Method, a.Nonce, a.ValidBefore, a.ID()
		payload, err := a.Payload()
		if err != nil {
			return err
		}
		payment, err := x402.NewPayment(x402.PaymentRequired{X402Version: 2, Accepts: []x402.Requirements{requirements}}, requirements, payload)
		if err != nil {
			return err
		}
		if r.Header, r.Payment, err = payment.Header(); err != nil {
			return err
		}
	}
	return p.mayLeave(ctx, r)
}

// bring has a payment that is written down brought to the chain, perhaps not for the first time.
func (p *Payer) bring(ctx context.Context, r row, again bool) (Purchase, error) {
	pending := func(tx string, err error) (Purchase, error) {
		p.Log.Warn("outcome of a payment is not known", "purchase", r.ID, "error", err)
		return p.receipt(r), &PendingError{Purchase: r.ID, URL: r.what(), Transaction: tx, Pay: true, Err: err}
	}
	if again {
		if changed, err := p.recheck(ctx, &r); err == nil && changed && r.State == Charged {
			return p.receipt(r), nil
		} else if err == nil && changed {
			return p.receipt(r), x402.Errorf("payment_void", "%s was never brought to the chain, and its time is over. It can not be charged any more", r.what()).
				WithHint("pay again; a new payment is safe")
		}
	}
	if r.Payment == "" {
		if p.Sender == nil {
			return Purchase{}, x402.Errorf("config_invalid", "purchase %s was sent from your own account", r.ID).WithHint("--direct")
		}
		tx, err := p.Sender.Send(ctx, r.ID, r.ChainID, r.Asset, r.Payee, r.Amount)
		switch {
		case errors.Is(err, ErrNotSent):
			p.void(&r, true, "not_sent")
			return p.receipt(r), err
		case err != nil:
			return pending("", err)
		}
		r.settle(&x402.SettleResponse{Success: true, Transaction: tx.String(), Amount: r.Amount.String(), Network: r.Network}, p.Now())
		r.Tx = tx.String()
		p.write(r)
		return p.receipt(r), nil
	}
	if p.Facilitator == nil {
		return Purchase{}, x402.Errorf("config_invalid", "purchase %s was signed for a facilitator", r.ID).WithHint("--facilitator URL")
	}
	header := make(http.Header)
	header.Set(r.Header, r.Payment)
	payment, err := x402.ReadPayment(header)
	if err != nil || payment == nil || payment.Accepted == nil {
		return Purchase{}, x402.Errorf("journal_unusable", "purchase %s has a payment that cannot be read: %v", r.ID, err)
	}
	answer, err := p.Facilitator.Settle(ctx, *payment, *payment.Accepted)
	var coded *x402.Error
	switch {
	case errors.As(err, &coded) && coded.Code == "facilitator_unreachable" && !again:
		p.void(&r, true, coded.Code) // it never left
		return p.receipt(r), err
	case errors.As(err, &coded) && coded.Code == "facilitator_fault":
		p.void(&r, false, coded.Code) // turned away, and known to it all the same
		return p.receipt(r), coded.WithHint("check the facilitator's address and key; the same payment again is safe")
	case err != nil:
		return pending("", err)
	case !answer.Success && spent[answer.ErrorReason]:
		r.settle(nil, p.Now())
	case !answer.Success && pendingReasons[answer.ErrorReason]:
		return pending(answer.Transaction, errors.New(answer.ErrorReason))
	default:
		if answer.Success {
			answer.Amount = "" // a transfer of exactly the amount
		}
		r.settle(&answer, p.Now())
	}
	p.confirm(ctx, &r)
	p.write(r)
	if r.State == Charged {
		return p.receipt(r), nil
	}
	code := answer.ErrorReason
	if _, known := x402.Lookup(code); !known {
		code = "payment_refused"
	}
	return p.receipt(r), &NeedError{Need{
		Code: code, Payee: r.Payee, Asked: dollars(r.promised()),
		Reason: fmt.Sprintf("the facilitator did not send %s: %s. It says that nothing was charged", r.what(), clip(answer.ErrorReason+" "+answer.ErrorMessage)),
	}}
}

// pendingReasons are refusals of a facilitator after which the money may still move.
var pendingReasons = map[string]bool{"settlement_pending": true, "unexpected_settle_error": true, "invalid_exact_evm_transfer_event_mismatch": true}
