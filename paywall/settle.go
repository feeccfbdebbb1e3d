package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Witness looks at a chain with the seller's own eyes. Implementations are safe for concurrent use.
type Witness interface {
	// Moved says what became of a signed transfer on the network with a CAIP-2 name. claimed is the transaction in which
	// somebody says that it moved; zero for none. An error says that the chain cannot tell now.
	Moved(ctx context.Context, network string, a exact.Authorization, amount money.Amount, claimed evm.Hash) (Fate, evm.Hash, error)
}

// Fate is what became of a signed transfer.
type Fate int

// The fates.
const (
	Unseen  Fate = iota // the witness does not look at that network
	Unspent             // its nonce is not used: nothing moved
	Moved               // the amount went to the payee, whoever sent the transaction
	Spent               // its nonce is used, and the amount did not go to the payee
)

// settleFirst moves the money of a purchase that is Reserved and Settling.
func (w *transfer) settleFirst(ctx context.Context, p purchase.Purchase, again bool) (purchase.Purchase, *x402.Error) {
	book := w.pw.cfg.Purchases
	tx, refused, err := w.settle(ctx, p, p.Cap, again)
	switch {
	case err != nil:
		return p, pending(p, tx, err)
	case refused != nil:
		if err := book.NotSettled(ctx, p.ID); err != nil {
			return p, notWritten(p, err)
		}
		p.Settling, p.Draws = false, 0
		p.State, p.Outcome, p.DoneAt = purchase.Void, refused.Code, w.pw.cfg.Now()
		if err := book.Finish(ctx, p); err != nil {
			return p, notWritten(p, err)
		}
		return p, refused
	}
	if err := book.Settled(ctx, p.ID, tx); err != nil {
		return p, notWritten(p, err)
	}
	p.Transaction = tx
	if p.Buys > 0 {
		bought, ok, err := book.FindBundle(ctx, p.ID)
		if err == nil && ok {
			err = book.OpenBundle(ctx, p.ID, w.pw.cfg.Now().Add(bought.Valid))
		}
		if err != nil {
			return p, notWritten(p, err)
		}
	}
	return p, nil
}

// facilitatorDown is the refusal while a facilitator cannot be asked: its faults are not the buyer's.
func facilitatorDown(err error) *x402.Error {
	e := asCoded(err)
	if e.Code == "facilitator_unreachable" {
		return e
	}
	return &x402.Error{Code: "facilitator_fault", Message: "the facilitator does not answer as it should", Err: err}
}

// settle asks for the money of a purchase to be moved: as often as it takes, it moves once. again says that it was asked
// for before. It returns the transaction; or why nothing moved, for certain; or an error when that is not known, with the
// transaction if there is one to look at.
func (w *transfer) settle(ctx context.Context, p purchase.Purchase, amount money.Amount, again bool) (tx evm.Hash, refused *x402.Error, err error) {
	ctx, cancel := context.WithTimeout(ctx, x402.DefaultTimeout)
	defer cancel()
	var q x402.FacilitatorRequest
	if err := json.Unmarshal(p.Certificate, &q); err != nil {
		return tx, nil, fmt.Errorf("purchase %s: what is to be settled: %w", p.ID, err)
	}
	signed := q.Requirements // what the authorization was signed for
	q.Requirements.Amount = amount.String()
	var answer x402.SettleResponse
	f, _, unknown := w.facilitator(ctx, p.Network)
	if unknown == nil {
		answer, unknown = f.Settle(ctx, q.Payment, q.Requirements)
	}
	claimed, hashErr := evm.ParseHash(answer.Transaction)
	reason := answer.ErrorReason
	switch {
	case unknown != nil:
	case answer.Success && amount.IsZero():
		return claimed, nil, nil
	case !answer.Success && reason == "settlement_pending":
		unknown = x402.Errorf("settlement_pending", "the facilitator has sent it and does not know more")
	}
	if unknown != nil && !again {
		return claimed, nil, unknown // it may be on its way right now
	}
	fate, seen, over, err := w.look(ctx, p, q.Payment, signed, amount, claimed)
	if err != nil {
		return claimed, nil, errors.Join(unknown, err)
	}
	refused = refusal(reason, answer.ErrorMessage)
	switch {
	case fate == Moved:
		return seen, nil, nil
	case over: // it has not moved, and never will
		if unknown != nil || answer.Success {
			refused = refusal("payment_expired", "the time in which it could be settled is over, and nothing moved")
		}
		return tx, refused, nil
	case unknown != nil:
	case answer.Success && fate != Unseen:
		unknown = x402.Errorf("settlement_pending", "the facilitator says it is settled in %s, and the chain does not show it", claimed)
	case answer.Success && hashErr != nil:
		unknown = x402.Errorf("settlement_pending", "the facilitator says it is settled, and names no transaction")
	case answer.Success && (isElsewhere(answer.Network, p.Network) || isOther(answer.Payer, p.Payer) || isLess(answer.Amount, amount)):
		unknown = x402.Errorf("settlement_pending", "the facilitator says that another payment is settled: %s of %s on %s", clip(answer.Amount), clip(answer.Payer), clip(answer.Network))
	case answer.Success:
		return claimed, nil, nil
	case fate != Unseen && again, fate != Spent && hashErr != nil && perhapsSent[reason]:
		// What was sent the first time may still be waiting for a block.
		unknown = x402.Errorf("settlement_pending", "the facilitator says: %s", clip(reason))
	case fate == Unseen && (nonceUsed[reason] && (again || p.State == purchase.Pending) || again && afterwards[reason]):
		unknown = x402.Errorf("settlement_pending", "the facilitator says: %s", clip(reason))
	}
	if unknown != nil {
		return claimed, nil, unknown
	}
	return tx, refused, nil
}

// look looks at the chain with the seller's own eyes. over says that they see for certain that nothing moved, and that
// nothing can move any more.
func (w *transfer) look(ctx context.Context, p purchase.Purchase, sent x402.Payment, signed x402.Requirements, amount money.Amount, claimed evm.Hash) (fate Fate, seen evm.Hash, over bool, err error) {
	if w.pw.cfg.Witness == nil {
		return Unseen, seen, false, nil
	}
	a, err := exact.Read(sent, signed)
	if err != nil {
		return Unseen, seen, false, err
	}
	if fate, seen, err = w.pw.cfg.Witness.Moved(ctx, p.Network, a, amount, claimed); err != nil {
		return Unseen, seen, false, err
	}
	late := w.pw.cfg.Now().Unix()-int64(min(a.ValidBefore, 1<<40)) > int64(overSlack/time.Second)
	return fate, seen, late && (fate == Unspent || fate == Spent), nil
}

// overSlack is how long after an authorization has expired its last block may still be unknown to the seller's node.
const overSlack = 2 * time.Minute

// nonceUsed are the reasons of a nonce that was used before: by a settlement that was asked for, or by somebody else's.
var nonceUsed = map[string]bool{
	"invalid_exact_evm_nonce_already_used": true, "nonce_already_used": true, "permit2_invalid_nonce": true, "duplicate_settlement": true,
}

// afterwards are reasons that a second settlement may have because of the first, from facilitators that do not say what became
// of that: its money is gone, for one.
var afterwards = map[string]bool{
	"invalid_transaction_state": true, "invalid_exact_evm_transaction_failed": true, "invalid_upto_evm_transaction_failed": true,
	"invalid_exact_evm_transaction_simulation_failed": true, "permit2_simulation_failed": true,
	"insufficient_funds": true, "invalid_exact_evm_insufficient_balance": true, "permit2_insufficient_balance": true,
}

// perhapsSent are reasons of facilitators that have sent a transaction, name none, and have stopped waiting for it.
var perhapsSent = map[string]bool{
	"invalid_exact_evm_transaction_failed": true, "invalid_upto_evm_transaction_failed": true, "unexpected_settle_error": true,
}

// isOther, isElsewhere and isLess report whether a facilitator speaks of another payer, of another network, or of less. What
// it leaves out, or spells in a way of its own, says nothing.
func isOther(named string, account evm.Address) bool {
	a, err := evm.ParseAddress(named)
	return err == nil && a != account
}

func isElsewhere(named, caip2 string) bool {
	if known, ok := network.FromV1(named); ok {
		named = known
	}
	return strings.HasPrefix(named, "eip155:") && named != caip2
}

func isLess(named string, amount money.Amount) bool {
	a, err := money.ParseAmount(named)
	return err == nil && a.Less(amount)
}

// pending is the refusal of a payment that may have moved.
func pending(p purchase.Purchase, tx evm.Hash, err error) *x402.Error {
	e := &x402.Error{Code: "settlement_pending", Message: fmt.Sprintf("the payment of purchase %s is not confirmed. It may still be charged", p.ID), Err: err}
	if !tx.IsZero() {
		e.Message = fmt.Sprintf("transfer %s of purchase %s was sent and is not confirmed. It may still be charged", tx, p.ID)
		e.Details = map[string]string{"transaction": tx.String(), "purchase": p.ID}
	}
	return e
}

// end moves the money of work that is done, before its answer leaves.
func (w *transfer) end(ctx context.Context, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	book := w.pw.cfg.Purchases
	paidBefore := !p.Transaction.IsZero()
	switch {
	case paidBefore:
		// A bundle is bought whatever becomes of the request that bought it; the request itself takes a unit or none.
		failed := p.State == purchase.Void
		if p.Buys > 0 {
			p.Draws = drawnUnits(p)
		}
		p.State, p.Charged, p.Owed = purchase.Committed, p.Cap, money.Amount{}
		if err := book.Finish(ctx, p); err != nil {
			return p, notWritten(p, err)
		}
		if failed && p.Buys == 0 {
			w.pw.giveBack(ctx, p)
		}
		return p, nil
	case p.DrawsOnly():
		p.Draws = drawnUnits(p)
		if p.State == purchase.Committed {
			p.Charged = money.Amount{} // it was paid with the bundle
		}
	case p.State == purchase.Committed && p.Credit.Less(p.Charged):
		if !w.lowers() {
			p.Charged = p.Cap // it moves whole, whatever was counted
		}
		return w.settleAfter(ctx, p)
	case p.State == purchase.Working:
		if good, ok := w.goodUntil(p); ok && good.Before(p.Due) {
			p.Due = good
		}
	}
	if err := book.Finish(ctx, p); err != nil {
		return p, notWritten(p, err)
	}
	return p, nil
}

// goodUntil is until when what pays a purchase can be settled, less what settling takes.
func (w *transfer) goodUntil(p purchase.Purchase) (time.Time, bool) {
	var q x402.FacilitatorRequest
	if len(p.Certificate) == 0 || json.Unmarshal(p.Certificate, &q) != nil {
		return time.Time{}, false
	}
	a, err := exact.Read(q.Payment, q.Requirements)
	return time.Unix(int64(min(a.ValidBefore, 1<<40)), 0).Add(-settleSlack), err == nil
}

// settleSlack is left to a job's payment to be settled before it expires.
const settleSlack = 20 * time.Second

// drawnUnits is how much of a bundle a request used that is done as p says.
func drawnUnits(p purchase.Purchase) uint64 {
	switch {
	case p.State == purchase.Void:
		return 0
	case p.State == purchase.Committed:
		return min(max(p.Units, 1), p.Draws)
	}
	return p.Draws
}

// settleAfter writes down what is to be charged, together with the answer, then moves the money, and then ends the purchase:
// a crash in between leaves what is needed to go on.
func (w *transfer) settleAfter(ctx context.Context, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	p.State, p.Owed, p.Charged = purchase.Pending, p.Charged, money.Amount{}
	if err := w.pw.cfg.Purchases.Finish(ctx, p); err != nil {
		return p, &x402.Error{Code: "book_unavailable", Message: fmt.Sprintf("purchase %s is done and could not be written down", p.ID), Err: err}
	}
	p.Answer = nil // the book has it, and many may wait for a chain here
	return w.resolve(ctx, p, false)
}

// resolve moves the money of a purchase that is Pending, or finds out that it moved, and ends the purchase.
func (w *transfer) resolve(ctx context.Context, p purchase.Purchase, again bool) (purchase.Purchase, *x402.Error) {
	book := w.pw.cfg.Purchases
	tx, refused, err := w.settle(ctx, p, beyond(p.Owed, p.Credit), again)
	if err != nil {
		w.pw.log.Warn("whether a purchase is paid is not known yet", "purchase", p.ID, "transaction", tx, "error", err)
		return p, pending(p, tx, err)
	}
	owed, answer := p.Owed, p.Answer
	p.Owed, p.Transaction, p.Answer = money.Amount{}, tx, nil // the stored answer stays
	p.State, p.Charged = purchase.Committed, owed
	if refused != nil {
		p.State, p.Charged, p.Outcome, answer = purchase.Void, money.Amount{}, refused.Code, nil
	}
	if err := book.Finish(ctx, p); errors.Is(err, purchase.ErrState) && !again { // another gate was faster
		if now, ok, e := book.FindID(ctx, p.ID); e == nil && ok && now.State == p.State {
			return now, refused
		}
		return p, notWritten(p, err)
	} else if err != nil {
		return p, notWritten(p, err)
	}
	p.Answer = answer
	return p, refused
}

func (w *transfer) recover(ctx context.Context, p purchase.Purchase) (purchase.Purchase, error) {
	book := w.pw.cfg.Purchases
	p.DoneAt = w.pw.cfg.Now()
	switch {
	case p.State == purchase.Pending:
		p, refused := w.resolve(ctx, p, true)
		if refused != nil && refused.Code == "settlement_pending" {
			return p, refused
		}
		if p.State == purchase.Committed && p.Answer != nil && !p.Answer.Whole {
			// It is paid, and what was bought is gone: its answer was larger than what is kept. Work that ended early and
			// owes for its stages has none.
			w.pw.log.Error("a purchase is paid and its answer is lost; the payer gets its money back", "purchase", p.ID)
			lost := p
			lost.Outcome = "answer_lost"
			w.pw.giveBack(ctx, lost)
		}
		return p, nil
	case p.State == purchase.Reserved && p.Settling:
		p, e := w.settleFirst(ctx, p, true)
		if e != nil && p.State != purchase.Void {
			return p, e
		}
		return p, nil
	case p.State == purchase.Running && !p.Transaction.IsZero():
		// It was charged before the work, whatever became of that. Of a bundle nothing was used.
		p.State, p.Charged, p.Outcome, p.Draws = purchase.Committed, p.Cap, interrupted, 0
	case p.State == purchase.Reserved:
		p.State, p.Outcome = purchase.Void, expired
	case p.State == purchase.Working:
		p.State, p.Outcome, p.Draws, p.Answer = purchase.Void, overdue, 0, nil
	default:
		p.State, p.Outcome, p.Draws = purchase.Void, interrupted, 0
	}
	if p.State == purchase.Void && !p.Owed.IsZero() {
		// Stages were reached, and what they earn is owed.
		p.State, p.Charged, p.Owed = purchase.Committed, p.Owed, money.Amount{}
		p, refused := w.end(ctx, p)
		if refused != nil && refused.Code == "settlement_pending" {
			return p, refused
		}
		return p, nil
	}
	return p, book.Finish(ctx, p)
}

// proof: the transaction is the proof.
func (w *transfer) proof(purchase.Purchase) json.RawMessage { return nil }
