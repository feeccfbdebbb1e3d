package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
)

// Calls is an outbox as a [Lane] works through it: [Settlements] and the real store have one.
type Calls interface {
	Find(ctx context.Context, id string) (evm.SentCall, error)
	Open(ctx context.Context, from evm.Address) ([]evm.SentCall, error)
	Finished(ctx context.Context, from evm.Address, since uint64) ([]evm.SentCall, error)
	RecordAttempt(ctx context.Context, id string, attempt evm.Attempt) error
	Finish(ctx context.Context, id string, receipt *evm.CallReceipt, reason string) error
	Reopen(ctx context.Context, id string) error
}

// Lane sends the calls of one account into a chain the way evm/chain's sender does: in order, each under a nonce of its own
// that is written down before it is sent; what the chain would refuse is not sent; what is lost is sent again, the same
// bytes or others with a higher fee; what is deep enough is finished, and taken back when its block is no more. All that it
// remembers is in the outbox. It implements the gas desk's lane.
type Lane struct {
	Chain   *Chain
	Account evm.Address
	Calls   Calls
	Depth   uint64
	// Fate says what becomes of each transaction that is sent; nil delivers all. Of [Twice] the second has a higher fee and
	// the same nonce.
	Fate func(evm.Call) Delivery

	mu sync.Mutex // one pass at a time
}

// Address returns the account that the lane sends from.
func (l *Lane) Address() evm.Address { return l.Account }

// Find returns one of the lane's calls.
func (l *Lane) Find(ctx context.Context, id string) (evm.SentCall, error) {
	return l.Calls.Find(ctx, id)
}

// Step makes one pass. The time does not matter: fees do not rise here.
func (l *Lane) Step(ctx context.Context, _ time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.recheck(ctx); err != nil {
		return fmt.Errorf("send from %s: %w", l.Account.Short(), err)
	}
	open, err := l.Calls.Open(ctx, l.Account)
	if err != nil {
		return fmt.Errorf("send from %s: %w", l.Account.Short(), err)
	}
	next, inFlight := l.Chain.nonceOf(l.Account), false
	for i := range open {
		if len(open[i].Attempts) == 0 {
			continue
		}
		if err := l.follow(ctx, open[i]); err != nil {
			return fmt.Errorf("%v: %w", open[i].Call, err)
		}
		nonce, _ := open[i].Nonce()
		next, inFlight = max(next, nonce+1), inFlight || nonce >= l.Chain.nonceOf(l.Account)
	}
	for _, call := range open {
		if len(call.Attempts) > 0 {
			continue
		}
		if !inFlight {
			_, err := l.Chain.Node().Read(ctx, call.From, call.To, call.Data)
			if refused := (*Refusal)(nil); errors.As(err, &refused) {
				if err := l.Calls.Finish(ctx, call.ID, nil, refused.reason); err != nil {
					return fmt.Errorf("%v: %w", call.Call, err)
				}
				continue
			}
		}
		if err := l.attempt(ctx, call, next); err != nil {
			return fmt.Errorf("%v: %w", call.Call, err)
		}
		next, inFlight = next+1, true
	}
	return nil
}

// recheck reopens calls whose block is no more.
func (l *Lane) recheck(ctx context.Context) error {
	finished, err := l.Calls.Finished(ctx, l.Account, 0)
	if err != nil {
		return err
	}
	for _, call := range finished {
		b, err := l.Chain.Node().Block(ctx, call.Receipt.BlockNumber)
		if err == nil && b.Hash == call.Receipt.BlockHash {
			continue
		}
		if err := l.Calls.Reopen(ctx, call.ID); err != nil {
			return err
		}
	}
	return nil
}

// follow finishes a call that is mined and deep enough, and sends one again that is not mined.
func (l *Lane) follow(ctx context.Context, call evm.SentCall) error {
	head := l.Chain.Head().Number
	for _, a := range call.Attempts {
		r, err := l.Chain.Node().Receipt(ctx, a.Hash)
		switch {
		case err != nil:
			return err
		case r == nil:
			continue
		case r.BlockNumber+l.Depth > head:
			return nil
		}
		reason := ""
		if !r.OK {
			_, why := l.Chain.Outcome(a.Hash)
			if refused := (*Refusal)(nil); errors.As(why, &refused) {
				reason = refused.reason
			}
		}
		return l.Calls.Finish(ctx, call.ID, &r.CallReceipt, reason)
	}
	last := call.Attempts[len(call.Attempts)-1]
	switch l.fate(call) {
	case Lost:
		return nil
	case Twice:
		return l.replace(ctx, call, last)
	}
	return l.Chain.send(last.Raw)
}

func (l *Lane) fate(call evm.SentCall) Delivery {
	if l.Fate == nil {
		return Delivered
	}
	return l.Fate(call.Call)
}

func (l *Lane) attempt(ctx context.Context, call evm.SentCall, nonce uint64) error {
	return l.record(ctx, call, wire{From: l.Account, To: call.To, Data: call.Data, Nonce: nonce})
}

func (l *Lane) replace(ctx context.Context, call evm.SentCall, last evm.Attempt) error {
	return l.record(ctx, call, wire{From: l.Account, To: call.To, Data: call.Data, Nonce: last.Nonce, Tip: last.TipWei + 1})
}

// record writes an attempt down, and then sends it.
func (l *Lane) record(ctx context.Context, call evm.SentCall, w wire) error {
	raw, hash := w.encode()
	err := l.Calls.RecordAttempt(ctx, call.ID, evm.Attempt{Hash: hash, Raw: raw, Nonce: w.Nonce, TipWei: w.Tip, FeeWei: w.Tip + 1, Gas: call.GasLimit})
	if err != nil || l.fate(call) == Lost {
		return err
	}
	return l.Chain.send(raw)
}
