package evm

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// MemoryOutbox is evm/chain's Outbox, forgetting everything when the process ends: for tests, and for commands that wait for
// what they send. Make one with [NewMemoryOutbox].
type MemoryOutbox struct {
	mu    sync.Mutex
	calls map[string]*SentCall // guarded by mu
	order []string             // guarded by mu
}

// NewMemoryOutbox returns an empty outbox.
func NewMemoryOutbox() *MemoryOutbox { return &MemoryOutbox{calls: make(map[string]*SentCall)} }

// Enqueue implements evm/chain's Outbox.
func (o *MemoryOutbox) Enqueue(_ context.Context, call Call) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old, ok := o.calls[call.ID]; ok {
		if !old.Same(call) {
			return fmt.Errorf("enqueue %v: %w", call, ErrCallConflict)
		}
		return nil
	}
	call.Data = slices.Clone(call.Data)
	o.calls[call.ID] = &SentCall{Call: call, State: CallQueued}
	o.order = append(o.order, call.ID)
	return nil
}

// Find implements evm/chain's Outbox.
func (o *MemoryOutbox) Find(_ context.Context, id string) (SentCall, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return SentCall{}, err
	}
	return snapshot(call), nil
}

// Open implements evm/chain's Outbox.
func (o *MemoryOutbox) Open(_ context.Context, from Address) ([]SentCall, error) {
	open := o.selected(func(c *SentCall) bool { return c.From == from && !c.State.Final() })
	slices.SortStableFunc(open, func(a, b SentCall) int {
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

// Finished implements evm/chain's Outbox.
func (o *MemoryOutbox) Finished(_ context.Context, from Address, since uint64) ([]SentCall, error) {
	return o.selected(func(c *SentCall) bool {
		return c.From == from && c.State.Final() && c.Receipt != nil && c.Receipt.BlockNumber >= since
	}), nil
}

// RecordAttempt implements evm/chain's Outbox.
func (o *MemoryOutbox) RecordAttempt(_ context.Context, id string, attempt Attempt) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(call.Attempts, func(a Attempt) bool { return a.Hash == attempt.Hash }) {
		return nil
	}
	if call.State.Final() {
		return fmt.Errorf("record attempt of %v, which is %s: %w", call.Call, call.State, ErrCallConflict)
	}
	for _, other := range o.calls {
		if nonce, sent := other.Nonce(); sent && other != call && !other.State.Final() && other.From == call.From && nonce == attempt.Nonce {
			return fmt.Errorf("record attempt of %v: nonce %d is held by %v: %w", call.Call, nonce, other.Call, ErrCallConflict)
		}
	}
	call.Attempts = append(call.Attempts, attempt)
	call.State = CallSent
	return nil
}

// Finish implements evm/chain's Outbox.
func (o *MemoryOutbox) Finish(_ context.Context, id string, receipt *CallReceipt, reason string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return err
	}
	call.State, call.Receipt, call.Err = CallReverted, nil, reason
	if receipt != nil {
		kept := *receipt
		call.Receipt = &kept
		if receipt.OK {
			call.State, call.Err = CallDone, ""
		}
	}
	return nil
}

// Reopen implements evm/chain's Outbox.
func (o *MemoryOutbox) Reopen(_ context.Context, id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	call, err := o.find(id)
	if err != nil {
		return err
	}
	if call.State.Final() && len(call.Attempts) > 0 {
		call.State, call.Receipt, call.Err = CallSent, nil, ""
	}
	return nil
}

// find returns a call; mu is held.
func (o *MemoryOutbox) find(id string) (*SentCall, error) {
	call, ok := o.calls[id]
	if !ok {
		return nil, fmt.Errorf("call %q: %w", id, ErrNoCall)
	}
	return call, nil
}

func (o *MemoryOutbox) selected(wanted func(*SentCall) bool) (calls []SentCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range o.order {
		if call := o.calls[id]; wanted(call) {
			calls = append(calls, snapshot(call))
		}
	}
	return calls
}

func snapshot(call *SentCall) SentCall {
	c := *call
	c.Attempts = slices.Clone(c.Attempts)
	if c.Receipt != nil {
		receipt := *c.Receipt
		c.Receipt = &receipt
	}
	return c
}
