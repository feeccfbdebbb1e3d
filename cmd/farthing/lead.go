package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/store"
)

const (
	// beat is how often a house looks at its chain and its clock: twice a block of the development chain, and often enough
	// for any other.
	beat = 500 * time.Millisecond

	// leadTime is how long the other nodes wait for a leader that is gone without a word. Cycles have minutes to be posted in;
	// this is short so that deposits and withdrawals go on being seen.
	leadTime = 4 * time.Second
)

// lead does what must happen once on a database, for as long as this node is the one that does it, and waits for its turn
// otherwise: follow the chain, move the cycles, send transactions. It returns when ctx ends.
//
// Should two nodes believe for a moment that they lead, because one stood still and does not know that its time is over,
// then the book keeps them apart: a block is applied once, a cycle moves by comparing, a call is asked for under its name, and
// two calls never hold one nonce.
func (h *house) lead(ctx context.Context) {
	var away atomic.Pointer[string] // why there is no leader to be; health says it of the database
	for ctx.Err() == nil {
		err := h.Store.Lead(ctx, "house", leadTime, func(ctx context.Context) error {
			h.note(&away, "lead", nil)
			return h.term(ctx)
		})
		if ctx.Err() != nil {
			return
		}
		h.note(&away, "lead", err)
		select {
		case <-ctx.Done():
		case <-time.After(beat):
		}
	}
}

// term is this node's time as the leader.
func (h *house) term(ctx context.Context) error {
	h.Story("leads       %s, from %s on", h.Node, h.Now().UTC().Format(time.TimeOnly))
	h.Sender = h.newSender() // what an earlier term saw of the chain may have changed meanwhile
	h.leads.Store(true)
	defer func() {
		h.leads.Store(false)
		h.trouble.Store(nil) // it is another's now
	}()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		h.beat(ctx)
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), store.ErrLost) {
				h.Story("leads       not %s any more: %v", h.Node, context.Cause(ctx))
			}
			return nil
		case <-ticker.C:
		}
	}
}

func (h *house) newSender() *chain.Sender {
	return chain.NewSender(h.Client, h.Store.Outbox(), h.Operator, chain.Policy{Depth: h.Depth})
}

// beat is one round of the leader: look at the chain, ask validators, move the cycles, send what is queued. Trouble in one part does not keep
// the others from their turn; the next beat tries again.
func (h *house) beat(ctx context.Context) {
	err := errors.Join(h.look(ctx), h.House.AskValidators(ctx, h.Now()), h.House.CloseDue(ctx, h.Now(), h.headTime.Load()), h.Sender.Step(ctx, h.Now()))
	if ctx.Err() == nil {
		h.note(&h.trouble, "work", err)
	}
}

func (h *house) look(ctx context.Context) error {
	head, err := h.Client.Head(ctx)
	if err != nil {
		return err
	}
	h.headTime.Store(head.Time)
	for _, f := range h.followers {
		for more := true; more; {
			if more, err = f.Step(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// catchUp applies what the chain has that the book has not, before anyone is answered: a house that forgot a withdrawal
// request must not certify against that collateral. If another node leads, the book is in its care.
func (h *house) catchUp(ctx context.Context) error {
	_, err := h.Store.Alone(ctx, "house", func(ctx context.Context) error {
		for _, f := range h.followers {
			for more := true; more; {
				var err error
				if more, err = f.Step(ctx); err != nil && !errors.Is(err, chain.ErrBehind) {
					return err
				}
			}
		}
		return nil
	})
	return err
}

// watch looks every beat whether the book, which perhaps another node keeps, is up to date with the chain.
func (h *house) watch(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		h.compare(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// compare notes until when this node may certify: as long as the book lags behind the chain by no more than the slack that
// every schedule leaves in the withdrawal delay. A withdrawal that the book has not seen for longer could be paid before a
// guarantee admitted now is posted.
func (h *house) compare(ctx context.Context) {
	head, err := h.Client.Head(ctx)
	var tips []clearing.Block
	if err == nil {
		tips, err = h.House.Tips(ctx, clearing.Head, 1)
	}
	slack := h.slack()
	if err == nil && len(tips) > 0 {
		h.behind.Store(int64(head.Time) - int64(min(head.Time, tips[0].Time)))
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
	case len(tips) == 0:
		err = errors.New("the book has no block of the chain yet")
	case head.Time > tips[0].Time+uint64(slack/time.Second):
		err = fmt.Errorf("the book is at block %d, the chain at %d", tips[0].Number, head.Number)
	default:
		h.freshUntil.Store(h.Now().Add(slack).UnixNano())
	}
	h.note(&h.lag, "watch", err)
}

// slack is the eighth of the withdrawal delay that no window of a schedule takes.
func (h *house) slack() time.Duration {
	return time.Duration(h.Deployment.WithdrawalDelay) * time.Second / 8
}
