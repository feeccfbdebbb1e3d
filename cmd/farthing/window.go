package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// window is a seller's own look at its network: whether a transfer moved, and how a refund gets there. It implements
// [paywall.Witness] and [paywall.Cashier].
type window struct {
	on     network.Chain
	client *chain.Client
	book   *store.Store
	outbox *store.Outbox
	sender *chain.Sender // nil without the payee's key
	now    func() time.Time
}

// openWindow dials the node of a network.
func (r *run) openWindow(rpc string, all *network.Registry, name string, db *store.Store, key evm.Signer) (*window, error) {
	on, err := all.Lookup(name)
	if err != nil {
		return nil, err
	}
	client, err := chain.Dial(r.ctx, rpc)
	if err != nil {
		return nil, fail("chain_unreachable", "%v", err).hint("check --rpc-url")
	}
	if client.ChainID() != on.ID {
		client.Close()
		return nil, fail("chain_mismatch", "the node serves chain %d, and this sells on %s", client.ChainID(), on).hint("check --rpc-url and --network")
	}
	w := &window{on: on, client: client, book: db, outbox: db.Outbox(), now: r.Now}
	if key != nil {
		w.sender = chain.NewSender(client, w.outbox, key, chain.Policy{Depth: on.Depth})
	}
	return w, nil
}

func (w *window) Close() { w.client.Close() }

const (
	// lookBack is how many blocks are searched for a transfer that somebody else sent, before the time at which it expired:
	// an authorization is seldom signed more than some minutes before it is settled.
	lookBack = 2000
	// searchBlocks is how many blocks one question about logs spans, and searchMax how many questions are asked.
	searchBlocks, searchMax = 2000, 500
)

var (
	authorizationUsed = evm.Keccak256([]byte("AuthorizationUsed(address,bytes32)"))
	transferred       = evm.Keccak256([]byte("Transfer(address,address,uint256)"))
)

// Moved implements [paywall.Witness].
func (w *window) Moved(ctx context.Context, on string, a exact.Authorization, amount money.Amount, claimed evm.Hash) (paywall.Fate, evm.Hash, error) {
	if on != w.on.CAIP2() {
		return paywall.Unseen, evm.Hash{}, nil
	}
	move, err := (&exact.Verifier{}).Move(a, amount)
	if err != nil {
		return paywall.Unseen, evm.Hash{}, err
	}
	used, err := exact.Used(ctx, w.client, a)
	known := !errors.Is(err, exact.ErrNoNonce)
	if known && (err != nil || !used) {
		return paywall.Unspent, evm.Hash{}, err
	}
	if !claimed.IsZero() {
		if moved, err := w.shows(ctx, claimed, move, a.Nonce[:]); err != nil || moved {
			return paywall.Moved, claimed, err
		}
	}
	if !known { // only who sent it can tell
		if !claimed.IsZero() {
			err = fmt.Errorf("transaction %s does not show the transfer", claimed)
		} else {
			err = nil
		}
		return paywall.Unseen, evm.Hash{}, err
	}
	head, err := w.client.Head(ctx)
	if err != nil {
		return paywall.Spent, evm.Hash{}, err
	}
	from, to := evm.Hash(a.From.Word()), evm.Hash(a.To.Word())
	topics := []evm.Hash{transferred, from, to}
	if a.Method == exact.EIP3009 {
		topics = []evm.Hash{authorizationUsed, from, a.Nonce}
	}
	first, last := head.Number-min(head.Number, w.since(a)), head.Number
	for range searchMax {
		from := max(first, last-min(last, searchBlocks-1))
		logs, err := w.client.Logs(ctx, a.Asset, topics, from, last)
		if err != nil {
			return paywall.Spent, evm.Hash{}, err
		}
		for _, l := range slices.Backward(logs) {
			if moved, err := w.shows(ctx, l.TxHash, move, nil); err != nil || moved {
				return paywall.Moved, l.TxHash, err
			}
		}
		if from <= first {
			return paywall.Spent, evm.Hash{}, nil
		}
		last = from - 1
	}
	return paywall.Spent, evm.Hash{}, fmt.Errorf("nonce of %s is used, and its transaction is too far back to be looked for", a.From)
}

// since is how many blocks ago the transfer may have been made: a gate that was down for a day has to look a day back.
func (w *window) since(a exact.Authorization) uint64 {
	over := max(0, w.now().Unix()-int64(min(a.ValidBefore, 1<<40)))
	block := max(w.on.BlockTime, 200*time.Millisecond)
	return lookBack + uint64(time.Duration(min(over, 1<<30))*time.Second/block)*5/4
}

// shows reports whether a transaction did what a move is to do. Permit2 logs no nonces, so that an earlier payment of as much
// would look the same: a transaction that the facilitator names has to hold the nonce, and one that nobody names has to be
// the very call.
func (w *window) shows(ctx context.Context, tx evm.Hash, move exact.Move, named []byte) (bool, error) {
	receipt, err := w.client.Receipt(ctx, tx)
	if err != nil || receipt == nil || !receipt.OK || !move.Proven(receipt.Logs) {
		return false, err
	}
	if move.Method != exact.Permit2 {
		return true, nil
	}
	input, err := w.client.Input(ctx, tx)
	if named != nil {
		return bytes.Contains(input, named), err
	}
	return receipt.To == move.To && bytes.Equal(input, move.Data), err
}

// Pay implements [paywall.Cashier]. Each call makes one pass over what is to be sent, unless another process does: a gate and
// a command beside it that both saw a refund unsent would send it under a nonce each.
func (w *window) Pay(ctx context.Context, id, on string, token, to evm.Address, amount money.Amount) (evm.Hash, bool, error) {
	if w.sender == nil || on != w.on.CAIP2() {
		return evm.Hash{}, false, errors.New("refunds on " + on + " take the payee's key and a node of that network")
	}
	call := chain.Transfer(token, to, amount)
	call.ID, call.From = id, w.sender.Address()
	if err := w.outbox.Enqueue(ctx, call); err != nil {
		return evm.Hash{}, false, err
	}
	if _, err := w.book.Alone(ctx, "sender-"+w.sender.Address().Lower(), func(ctx context.Context) error { return w.sender.Step(ctx, w.now()) }); err != nil {
		if gas, asked := w.client.Balance(ctx, w.sender.Address()); asked == nil && gas.IsZero() {
			return evm.Hash{}, false, fmt.Errorf("%s pays the gas of this refund, and holds no %s", w.sender.Address(), w.on.Native)
		}
		return evm.Hash{}, false, err
	}
	sent, err := w.outbox.Find(ctx, id)
	switch {
	case err != nil:
		return evm.Hash{}, false, err
	case sent.State == evm.CallDone:
		return sent.Receipt.TxHash, true, nil
	case sent.State == evm.CallReverted:
		return evm.Hash{}, false, x402.Errorf("refund_refused", "the refund's transfer was refused: %s", sent.Err)
	}
	return evm.Hash{}, false, nil
}
