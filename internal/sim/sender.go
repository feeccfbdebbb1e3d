package sim

import (
	"errors"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/evm"
)

// Outbox is what a [Sender] needs of the book whose calls it sends. [clearing.Memory] is one.
type Outbox interface {
	// Queued returns the calls that nobody has taken yet, in the order in which they were asked for.
	Queued() []evm.Call
	// Finish sets how far a call has come.
	Finish(id string, state evm.CallState) error
}

// Delivery is what becomes of a transaction between the sender and the chain's pool.
type Delivery int

// The fates of a transaction.
const (
	Delivered Delivery = iota
	Lost               // the sender does not know, and sends it again later
	Twice              // delivered, and once more under another nonce, as two senders with one key would
)

// Sender drains an outbox into a chain the way evm/chain does: a call that would be refused is reverted before it is sent,
// unless what is in flight may change that, for which it and those behind it wait; one that names its gas does not wait;
// every other takes the next nonce; a transaction that is lost or reorganised away is sent again; a call is done, or
// reverted, when its block is deep enough, and sent again when that block is no more. What it remembers stands for what
// the real sender keeps in the outbox, so it survives a crash of the house.
type Sender struct {
	Chain  *Chain
	Outbox Outbox
	Depth  uint64

	flights []*flight
	nonce   uint64
}

type flight struct {
	call  evm.Call
	tx    Tx
	state evm.CallState
	twin  bool // of another flight, which alone says how the call ended
}

// Step takes new calls, sends again what is not mined, and records what is. fate says what becomes of each transaction
// that is sent; nil delivers all.
func (s *Sender) Step(fate func(evm.Call) Delivery) error {
	for _, f := range slices.Clone(s.flights) {
		if err := s.track(f, fate); err != nil {
			return err
		}
	}
	for _, call := range s.Outbox.Queued() {
		o, err := unpack(call)
		if err != nil {
			return err
		}
		if idle := s.idle(); (idle || call.GasLimit == 0) && s.Chain.refuses(o) {
			if !idle {
				return nil // perhaps it needs what is in flight; those behind it wait too
			}
			if err := s.Outbox.Finish(call.ID, evm.CallReverted); err != nil {
				return err
			}
			continue
		}
		f := &flight{call: call, tx: s.transaction(o), state: evm.CallSent}
		if err := s.Outbox.Finish(call.ID, evm.CallSent); err != nil {
			return err
		}
		s.flights = append(s.flights, f)
		s.deliver(f, fate)
	}
	return nil
}

// Idle reports whether every call that was taken is finished.
func (s *Sender) Idle() bool {
	for _, f := range s.flights {
		if !f.state.Final() {
			return false
		}
	}
	return true
}

// idle reports whether everything that was sent is mined.
func (s *Sender) idle() bool {
	s.Chain.mu.Lock()
	defer s.Chain.mu.Unlock()
	for _, f := range s.flights {
		if _, mined := s.Chain.receipt(f.tx.Hash); !mined {
			return false
		}
	}
	return true
}

func (s *Sender) transaction(o op) Tx {
	s.Chain.mu.Lock()
	defer s.Chain.mu.Unlock()
	tx := Tx{Hash: s.Chain.newHash("transaction"), From: s.Chain.operator, op: o, laned: true, nonce: s.nonce}
	s.nonce++
	return tx
}

func (s *Sender) deliver(f *flight, fate func(evm.Call) Delivery) {
	d := Delivered
	if fate != nil {
		d = fate(f.call)
	}
	if d == Lost {
		return
	}
	s.Chain.Resend(f.tx)
	if d == Twice && !f.twin {
		twin := &flight{call: f.call, tx: s.transaction(f.tx.op), state: evm.CallSent, twin: true}
		s.flights = append(s.flights, twin)
		s.Chain.Resend(twin.tx)
	}
}

func (s *Sender) track(f *flight, fate func(evm.Call) Delivery) error {
	s.Chain.mu.Lock()
	b, mined := s.Chain.receipt(f.tx.Hash)
	head := s.Chain.head().Number
	s.Chain.mu.Unlock()
	state := evm.CallSent
	switch {
	case !mined:
		s.deliver(f, fate)
	case head-b.Number >= s.Depth && b.outcomes[f.tx.Hash] == nil:
		state = evm.CallDone
	case head-b.Number >= s.Depth:
		state = evm.CallReverted
	}
	if state == f.state {
		return nil
	}
	f.state = state
	if f.twin {
		return nil
	}
	if err := s.Outbox.Finish(f.call.ID, state); err != nil {
		return fmt.Errorf("finish %v: %w", f.call, err)
	}
	return nil
}

// refuses simulates a call on top of what waits in the pool.
func (c *Chain) refuses(o op) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, now := c.head().state, c.head().Time+1
	for _, tx := range c.pool {
		x, _ := c.run(s, now, tx)
		s = x.state
	}
	_, err := c.run(s, now, Tx{From: c.operator, op: o})
	return errors.Is(err, ErrRefused)
}
