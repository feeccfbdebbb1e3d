package chain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/farthing402/farthing/evm"
)

// Outbox keeps calls durably: when a method returns, what it did has survived a crash. Implementations are safe for
// concurrent use. A call is open until it is finished.
type Outbox interface {
	// Enqueue asks for a call. Asking again is no error; other content under the same ID is [evm.ErrCallConflict].
	Enqueue(ctx context.Context, call evm.Call) error

	// Find returns a call, or [evm.ErrNoCall].
	Find(ctx context.Context, id string) (evm.SentCall, error)

	// Open returns an account's open calls: those with attempts by nonce, then the others in the order they were asked for.
	Open(ctx context.Context, from evm.Address) ([]evm.SentCall, error)

	// Finished returns an account's finished calls whose receipt is of a block numbered since or later, in any order.
	Finished(ctx context.Context, from evm.Address, since uint64) ([]evm.SentCall, error)

	// RecordAttempt adds an attempt to an open call, which is then sent. A nonce that another open call of the account
	// holds is [evm.ErrCallConflict], so that two senders that share a key by mistake cannot both go on. The same attempt
	// again is no error.
	RecordAttempt(ctx context.Context, id string, attempt evm.Attempt) error

	// Finish ends a call: done if the receipt says so, else reverted for the reason given. Without a receipt it never took
	// a nonce, or its nonce was never spent. Finishing again overwrites.
	Finish(ctx context.Context, id string, receipt *evm.CallReceipt, reason string) error

	// Reopen takes a finished call whose receipt a reorganisation dropped back to sent.
	Reopen(ctx context.Context, id string) error
}

// MemoryOutbox is an [Outbox] that forgets everything when the process ends: for tests, and for commands that wait for
// what they send. Make one with [NewMemoryOutbox].
type MemoryOutbox struct {
	mu    sync.Mutex
	calls map[string]*evm.SentCall // guarded by mu
	order []string                 // guarded by mu
}

// NewMemoryOutbox returns an empty outbox.
func NewMemoryOutbox() *MemoryOutbox { return &MemoryOutbox{calls: make(map[string]*evm.SentCall)} }

// Enqueue implements [Outbox].
func (o *MemoryOutbox) Enqueue(_ context.Context, call evm.Call) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old, ok := o.calls[call.ID]; ok {
		if !old.Same(call) {
			return fmt.Errorf("enqueue %v: %w", call, evm.ErrCallConflict)
		}
		return nil
	}
	call.Data = slices.Clone(call.Data)
	o.calls[call.ID] = &evm.SentCall{Call: call, State: evm.CallQueued}
	o.order = append(o.order, call.ID)
	return nil
}

// Find implements [Outbox].
func (o *MemoryOutbox) Find(_ context.Context, id string) (evm.SentCall, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return evm.SentCall{}, err
	}
	return snapshot(call), nil
}

// Open implements [Outbox].
func (o *MemoryOutbox) Open(_ context.Context, from evm.Address) ([]evm.SentCall, error) {
	open := o.selected(func(c *evm.SentCall) bool { return c.From == from && !c.State.Final() })
	slices.SortStableFunc(open, func(a, b evm.SentCall) int {
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
	return open, nil
}

// Finished implements [Outbox].
func (o *MemoryOutbox) Finished(_ context.Context, from evm.Address, since uint64) ([]evm.SentCall, error) {
	return o.selected(func(c *evm.SentCall) bool {
		return c.From == from && c.State.Final() && c.Receipt != nil && c.Receipt.BlockNumber >= since
	}), nil
}

// RecordAttempt implements [Outbox].
func (o *MemoryOutbox) RecordAttempt(_ context.Context, id string, attempt evm.Attempt) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(call.Attempts, func(a evm.Attempt) bool { return a.Hash == attempt.Hash }) {
		return nil
	}
	if call.State.Final() {
		return fmt.Errorf("record attempt of %v, which is %s: %w", call.Call, call.State, evm.ErrCallConflict)
	}
	for _, other := range o.calls {
		if nonce, sent := other.Nonce(); sent && other != call && !other.State.Final() && other.From == call.From && nonce == attempt.Nonce {
			return fmt.Errorf("record attempt of %v: nonce %d is held by %v: %w", call.Call, nonce, other.Call, evm.ErrCallConflict)
		}
	}
	call.Attempts = append(call.Attempts, attempt)
	call.State = evm.CallSent
	return nil
}

// Finish implements [Outbox].
func (o *MemoryOutbox) Finish(_ context.Context, id string, receipt *evm.CallReceipt, reason string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return err
	}
	call.State, call.Receipt, call.Err = evm.CallReverted, nil, reason
	if receipt != nil {
		kept := *receipt
		call.Receipt = &kept
		if receipt.OK {
			call.State, call.Err = evm.CallDone, ""
		}
	}
	return nil
}

// Reopen implements [Outbox].
func (o *MemoryOutbox) Reopen(_ context.Context, id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return err
	}
	if call.State.Final() && len(call.Attempts) > 0 {
		call.State, call.Receipt, call.Err = evm.CallSent, nil, ""
	}
	return nil
}

// find returns a call; mu is held.
func (o *MemoryOutbox) find(id string) (*evm.SentCall, error) {
	call, ok := o.calls[id]
	if !ok {
		return nil, fmt.Errorf("call %q: %w", id, evm.ErrNoCall)
	}
	return call, nil
}

func (o *MemoryOutbox) selected(wanted func(*evm.SentCall) bool) (calls []evm.SentCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range o.order {
		if call := o.calls[id]; wanted(call) {
			calls = append(calls, snapshot(call))
		}
	}
	return calls
}

func snapshot(call *evm.SentCall) evm.SentCall {
	c := *call
	c.Attempts = slices.Clone(c.Attempts)
	if c.Receipt != nil {
		receipt := *c.Receipt
		c.Receipt = &receipt
	}
	return c
}
