package sim

import (
	"context"
	"errors"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/purchase"
)

// frailDesk is a facilitator's book as its process sees it.
type frailDesk struct {
	desk.Book
	s *settler
}

func (b frailDesk) Record(ctx context.Context, s desk.Settlement) (got desk.Settlement, fresh bool, err error) {
	err = b.s.around("record", true, func() (err error) { got, fresh, err = b.Book.Record(ctx, s); return err })
	return got, fresh, err
}

func (b frailDesk) Find(ctx context.Context, id evm.Hash) (got desk.Settlement, found bool, err error) {
	err = b.s.around("find", false, func() (err error) { got, found, err = b.Book.Find(ctx, id); return err })
	return got, found, err
}

func (b frailDesk) Open(ctx context.Context, chainID uint64) (got []desk.Settlement, err error) {
	err = b.s.around("open", false, func() (err error) { got, err = b.Book.Open(ctx, chainID); return err })
	return got, err
}

func (b frailDesk) Mined(ctx context.Context, chainID, since uint64) (got []desk.Settlement, err error) {
	err = b.s.around("mined", false, func() (err error) { got, err = b.Book.Mined(ctx, chainID, since); return err })
	return got, err
}

func (b frailDesk) Send(ctx context.Context, chainID uint64, call evm.Call, carried []desk.Settlement) error {
	return b.s.around("send", true, func() error { return b.Book.Send(ctx, chainID, call, carried) })
}

func (b frailDesk) Save(ctx context.Context, changed []desk.Settlement, spent []desk.Spending) error {
	return b.s.around("save", true, func() error { return b.Book.Save(ctx, changed, spent) })
}

// frailCalls is the outbox of its lanes.
type frailCalls struct {
	Calls
	s *settler
}

func (c frailCalls) Find(ctx context.Context, id string) (got evm.SentCall, err error) {
	err = c.s.around("find call", false, func() (err error) { got, err = c.Calls.Find(ctx, id); return err })
	return got, err
}

func (c frailCalls) Open(ctx context.Context, from evm.Address) (got []evm.SentCall, err error) {
	err = c.s.around("open calls", false, func() (err error) { got, err = c.Calls.Open(ctx, from); return err })
	return got, err
}

func (c frailCalls) RecordAttempt(ctx context.Context, id string, a evm.Attempt) error {
	return c.s.around("record attempt", true, func() error { return c.Calls.RecordAttempt(ctx, id, a) })
}

func (c frailCalls) Finish(ctx context.Context, id string, r *evm.CallReceipt, reason string) error {
	return c.s.around("finish call", true, func() error { return c.Calls.Finish(ctx, id, r, reason) })
}

func (c frailCalls) Reopen(ctx context.Context, id string) error {
	return c.s.around("reopen call", true, func() error { return c.Calls.Reopen(ctx, id) })
}

var errNode = errors.New("simulated: the node does not answer")

// frailNode is the chain as a facilitator's process sees it.
type frailNode struct {
	Node
	s *settler
}

func (n frailNode) silent() bool {
	if n.s.sure || !n.s.m.percent(n.s.m.node) {
		return n.s.dead
	}
	n.s.faults++
	return true
}

func (n frailNode) Head(ctx context.Context) (evm.BlockRef, error) {
	if n.silent() {
		return evm.BlockRef{}, errNode
	}
	return n.Node.Head(ctx)
}

func (n frailNode) Read(ctx context.Context, from, to evm.Address, data []byte) ([]byte, error) {
	return n.Simulate(ctx, evm.Call{From: from, To: to, Data: data})
}

func (n frailNode) Simulate(ctx context.Context, call evm.Call) ([]byte, error) {
	if n.silent() {
		return nil, errNode
	}
	return n.Node.Simulate(ctx, call)
}

func (n frailNode) Estimate(ctx context.Context, call evm.Call) (uint64, error) {
	if n.silent() {
		return 0, errNode
	}
	return n.Node.Estimate(ctx, call)
}

func (n frailNode) Receipt(ctx context.Context, tx evm.Hash) (*evm.TxReceipt, error) {
	if n.silent() {
		return nil, errNode
	}
	return n.Node.Receipt(ctx, tx)
}

func (n frailNode) Logs(ctx context.Context, contract evm.Address, topics []evm.Hash, first, last uint64) ([]evm.Log, error) {
	if n.silent() {
		return nil, errNode
	}
	return n.Node.Logs(ctx, contract, topics, first, last)
}

// sameSecret is a book whose secret is the same in every run, so that a world is a function of its seed.
type sameSecret struct{ purchase.Book }

func (sameSecret) Secret(context.Context) ([32]byte, error) { return [32]byte{7}, nil }
