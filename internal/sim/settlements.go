package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
)

// Settlements is a gas desk's book in memory together with the outbox that it fills. It implements [desk.Book]; what it
// sends is in [Settlements.Calls]. Make one with [NewSettlements].
type Settlements struct {
	mu    sync.Mutex
	all   map[evm.Hash]desk.Settlement // guarded by mu
	order []evm.Hash                   // guarded by mu; as they were recorded
	spent []desk.Spending              // guarded by mu
	calls map[string]*evm.SentCall     // guarded by mu
	queue []string                     // guarded by mu; as they were asked for
}

var _ desk.Book = (*Settlements)(nil)

// NewSettlements returns an empty book.
func NewSettlements() *Settlements {
	return &Settlements{all: make(map[evm.Hash]desk.Settlement), calls: make(map[string]*evm.SentCall)}
}

// Record implements [desk.Book].
func (b *Settlements) Record(_ context.Context, s desk.Settlement) (desk.Settlement, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, found := b.all[s.ID]
	if found && (old.State != desk.Failed || old.Tries != s.Tries) {
		return old, false, nil
	}
	if !found {
		b.order = append(b.order, s.ID)
	}
	b.all[s.ID] = s
	return s, true, nil
}

// Find implements [desk.Book].
func (b *Settlements) Find(_ context.Context, id evm.Hash) (desk.Settlement, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, found := b.all[id]
	return s, found, nil
}

func (b *Settlements) list(wanted func(desk.Settlement) bool) (list []desk.Settlement) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range b.order {
		if s := b.all[id]; wanted(s) {
			list = append(list, s)
		}
	}
	return list
}

// Open implements [desk.Book].
func (b *Settlements) Open(_ context.Context, chainID uint64) ([]desk.Settlement, error) {
	return b.list(func(s desk.Settlement) bool { return s.ChainID == chainID && !s.State.Final() }), nil
}

// Mined implements [desk.Book].
func (b *Settlements) Mined(_ context.Context, chainID, since uint64) ([]desk.Settlement, error) {
	return b.list(func(s desk.Settlement) bool {
		return s.ChainID == chainID && s.State.Final() && !s.Tx.IsZero() && s.Block >= since
	}), nil
}

// Send implements [desk.Book].
func (b *Settlements) Send(_ context.Context, _ uint64, call evm.Call, carried []desk.Settlement) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enqueue(call); err != nil {
		return err
	}
	return b.save(carried)
}

// Save implements [desk.Book].
func (b *Settlements) Save(_ context.Context, changed []desk.Settlement, spent []desk.Spending) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.save(changed); err != nil {
		return err
	}
	b.spent = append(b.spent, spent...)
	return nil
}

func (b *Settlements) save(changed []desk.Settlement) error {
	for _, s := range changed {
		if _, found := b.all[s.ID]; !found {
			return fmt.Errorf("settlement %s: there is none", s.ID.Short())
		}
	}
	for _, s := range changed {
		b.all[s.ID] = s
	}
	return nil
}

// Spent implements [desk.Book].
func (b *Settlements) Spent(_ context.Context, chainID uint64, day string) (sums []desk.Spending, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, sp := range b.spent {
		if sp.ChainID != chainID || sp.Day != day {
			continue
		}
		i := slices.IndexFunc(sums, func(o desk.Spending) bool { return o.Account == sp.Account && o.Lane == sp.Lane })
		if i < 0 {
			sums = append(sums, sp)
			continue
		}
		sums[i].Gas += sp.Gas
		sums[i].Wei, _ = sums[i].Wei.Add(sp.Wei)
	}
	return sums, nil
}

// Calls returns the book's outbox.
func (b *Settlements) Calls() *Outgoing { return (*Outgoing)(b) }

// Outgoing is the outbox of [Settlements]. It implements [Calls].
type Outgoing Settlements

var _ Calls = (*Outgoing)(nil)

// Enqueue asks for a call. Asking again is no error; other content under the same ID is [evm.ErrCallConflict].
func (o *Outgoing) Enqueue(_ context.Context, call evm.Call) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return (*Settlements)(o).enqueue(call)
}

func (b *Settlements) enqueue(call evm.Call) error {
	if old, there := b.calls[call.ID]; there {
		if !old.Same(call) {
			return fmt.Errorf("enqueue %v: %w", call, evm.ErrCallConflict)
		}
		return nil
	}
	b.calls[call.ID] = &evm.SentCall{Call: call, State: evm.CallQueued}
	b.queue = append(b.queue, call.ID)
	return nil
}

// Find implements [Calls].
func (o *Outgoing) Find(_ context.Context, id string) (evm.SentCall, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, there := o.calls[id]
	if !there {
		return evm.SentCall{}, evm.ErrNoCall
	}
	return copied(call), nil
}

func copied(c *evm.SentCall) evm.SentCall {
	d := *c
	d.Attempts = slices.Clone(c.Attempts)
	if c.Receipt != nil {
		r := *c.Receipt
		d.Receipt = &r
	}
	return d
}

func (o *Outgoing) list(wanted func(*evm.SentCall) bool) (list []evm.SentCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range o.queue {
		if c := o.calls[id]; wanted(c) {
			list = append(list, copied(c))
		}
	}
	return list
}

// Open implements [Calls]: those with attempts by nonce, then the others as they were asked for.
func (o *Outgoing) Open(_ context.Context, from evm.Address) ([]evm.SentCall, error) {
	list := o.list(func(c *evm.SentCall) bool { return c.From == from && !c.State.Final() })
	slices.SortStableFunc(list, func(a, b evm.SentCall) int {
		m, sentA := a.Nonce()
		n, sentB := b.Nonce()
		switch {
		case sentA && sentB:
			return cmp.Compare(m, n)
		case sentA:
			return -1
		case sentB:
			return 1
		}
		return 0
	})
	return list, nil
}

// Finished implements [Calls].
func (o *Outgoing) Finished(_ context.Context, from evm.Address, since uint64) ([]evm.SentCall, error) {
	return o.list(func(c *evm.SentCall) bool {
		return c.From == from && c.State.Final() && c.Receipt != nil && c.Receipt.BlockNumber >= since
	}), nil
}

// change changes a call that is there.
func (o *Outgoing) change(id string, fn func(*evm.SentCall) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, there := o.calls[id]
	if !there {
		return fmt.Errorf("call %q: %w", id, evm.ErrNoCall)
	}
	return fn(call)
}

// RecordAttempt implements [Calls].
func (o *Outgoing) RecordAttempt(_ context.Context, id string, attempt evm.Attempt) error {
	return o.change(id, func(call *evm.SentCall) error {
		if slices.ContainsFunc(call.Attempts, func(a evm.Attempt) bool { return a.Hash == attempt.Hash }) {
			return nil
		}
		conflict := fmt.Errorf("record attempt of %v: %w", call.Call, evm.ErrCallConflict)
		if call.State.Final() {
			return conflict
		}
		for _, other := range o.calls {
			if nonce, sent := other.Nonce(); sent && other != call && !other.State.Final() && other.From == call.From && nonce == attempt.Nonce {
				return conflict
			}
		}
		call.Attempts, call.State = append(call.Attempts, attempt), evm.CallSent
		return nil
	})
}

// Finish implements [Calls].
func (o *Outgoing) Finish(_ context.Context, id string, receipt *evm.CallReceipt, reason string) error {
	return o.change(id, func(call *evm.SentCall) error {
		call.State, call.Receipt, call.Err = evm.CallReverted, nil, reason
		if receipt != nil {
			r := *receipt
			call.Receipt = &r
			if r.OK {
				call.State, call.Err = evm.CallDone, ""
			}
		}
		return nil
	})
}

// Reopen implements [Calls].
func (o *Outgoing) Reopen(_ context.Context, id string) error {
	return o.change(id, func(call *evm.SentCall) error {
		if len(call.Attempts) > 0 && call.State.Final() {
			call.State, call.Receipt, call.Err = evm.CallSent, nil, ""
		}
		return nil
	})
}
