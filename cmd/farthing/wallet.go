package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
)

// chainWallet is a buyer's account on the chains whose nodes were named.
type chainWallet struct {
	key     evm.Signer
	clients []*chain.Client
}

var (
	_ payer.Wallet   = (*chainWallet)(nil)
	_ payer.Approver = (*chainWallet)(nil)
)

// wallet opens the chains behind some nodes; nil for none.
func (r *run) wallet(key evm.Signer, urls []string) (*chainWallet, error) {
	w := &chainWallet{key: key}
	for _, url := range urls {
		client, err := r.dial(url)
		if err != nil {
			w.Close()
			return nil, err
		}
		w.clients = append(w.clients, client)
	}
	return w, nil
}

func (w *chainWallet) Close() {
	for _, c := range w.clients {
		c.Close()
	}
}

func (w *chainWallet) on(id uint64) (*chain.Client, error) {
	for _, c := range w.clients {
		if c.ChainID() == id {
			return c, nil
		}
	}
	return nil, fmt.Errorf("no node of eip155:%d is named", id)
}

// Networks implements [payer.Wallet].
func (w *chainWallet) Networks() []uint64 {
	ids := make([]uint64, len(w.clients))
	for i, c := range w.clients {
		ids[i] = c.ChainID()
	}
	return ids
}

// Balance implements [payer.Wallet].
func (w *chainWallet) Balance(ctx context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error) {
	c, err := w.on(chainID)
	if err != nil {
		return money.Amount{}, err
	}
	return c.TokenBalance(ctx, token, owner)
}

// Allowance implements [payer.Wallet].
func (w *chainWallet) Allowance(ctx context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error) {
	c, err := w.on(chainID)
	if err != nil {
		return money.Amount{}, err
	}
	return c.Allowance(ctx, token, owner, exact.Permit2Address)
}

var selNonces = evm.Selector("nonces(address)")

// PermitNonce implements [payer.Wallet].
func (w *chainWallet) PermitNonce(ctx context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error) {
	c, err := w.on(chainID)
	if err != nil {
		return money.Amount{}, err
	}
	data, err := c.Read(ctx, evm.Address{}, token, evm.EncodeCall(selNonces, evm.WordArg(owner.Word())))
	if err != nil {
		return money.Amount{}, err
	}
	word, ok := evm.ABI(data).Word(0)
	if !ok {
		return money.Amount{}, fmt.Errorf("token %s does not say the nonce of %s", token, owner)
	}
	return money.AmountFromBytes(word[:])
}

// Used implements [payer.Wallet]. The time is of a block that was the newest before the nonce was asked for.
func (w *chainWallet) Used(ctx context.Context, a exact.Authorization) (used bool, asOf time.Time, err error) {
	c, err := w.on(a.ChainID)
	if err != nil {
		return false, time.Time{}, err
	}
	head, err := c.Head(ctx)
	if err != nil {
		return false, time.Time{}, err
	}
	used, err = exact.Used(ctx, c, a)
	return used, time.Unix(int64(head.Time), 0), err
}

var transferTopic = evm.Keccak256([]byte("Transfer(address,address,uint256)"))

// Moved implements [payer.Wallet].
func (w *chainWallet) Moved(ctx context.Context, chainID uint64, tx evm.Hash, token, from, to evm.Address) (sum money.Amount, err error) {
	c, err := w.on(chainID)
	if err != nil {
		return sum, err
	}
	receipt, err := c.Receipt(ctx, tx)
	if err != nil {
		return sum, err
	}
	if receipt == nil || !receipt.OK {
		return sum, fmt.Errorf("transaction %s is not on the chain, or failed", tx)
	}
	for _, l := range receipt.Logs {
		if l.Address != token || len(l.Topics) != 3 || l.Topics[0] != transferTopic || l.Topics[1] != evm.Hash(from.Word()) || l.Topics[2] != evm.Hash(to.Word()) {
			continue
		}
		word, ok := evm.ABI(l.Data).Word(0)
		amount, err := money.AmountFromBytes(word[:])
		if !ok || err != nil {
			return money.Amount{}, fmt.Errorf("transaction %s has a transfer without an amount", tx)
		}
		var fits bool
		if sum, fits = sum.Add(amount); !fits {
			return money.Amount{}, fmt.Errorf("transaction %s moves more than there is", tx)
		}
	}
	return sum, nil
}

// approvalGas is what the published clients allow for an approval.
const approvalGas = 70_000

// Approval implements [payer.Approver].
func (w *chainWallet) Approval(ctx context.Context, chainID uint64, token evm.Address) ([]byte, error) {
	c, err := w.on(chainID)
	if err != nil {
		return nil, err
	}
	call := chain.Approve(token, exact.Permit2Address, money.MaxAmount())
	call.From, call.GasLimit = w.key.Address(), approvalGas
	return c.Presign(ctx, w.key, call)
}

// ownSender sends tokens from the buyer's own account, through the outbox on disk that all verbs use.
type ownSender struct {
	run *run
	*chainWallet
}

var _ payer.Sender = ownSender{}

// Send implements [payer.Sender].
func (s ownSender) Send(ctx context.Context, id string, chainID uint64, token, to evm.Address, amount money.Amount) (evm.Hash, error) {
	c, err := s.on(chainID)
	if err != nil {
		return evm.Hash{}, fmt.Errorf("%w: %w", payer.ErrNotSent, err)
	}
	net, err := s.run.chainOf(c)
	if err != nil {
		return evm.Hash{}, fmt.Errorf("%w: %w", payer.ErrNotSent, err)
	}
	db, err := s.run.openOutbox(c)
	if err != nil {
		return evm.Hash{}, err
	}
	defer db.Close()
	outbox := db.Outbox()
	call := chain.Transfer(token, to, amount)
	call.ID, call.From = "pay/"+id, s.key.Address()
	if err := outbox.Enqueue(ctx, call); err != nil {
		return evm.Hash{}, err
	}
	sent, err := chain.NewSender(c, outbox, s.key, chain.Policy{Depth: net.Depth}).Wait(ctx, call.ID, chain.Every(300*time.Millisecond))
	switch {
	case errors.Is(err, chain.ErrReverted):
		return evm.Hash{}, fmt.Errorf("%w: the chain refused: %w", payer.ErrNotSent, err)
	case err != nil:
		return evm.Hash{}, err
	}
	return sent.Receipt.TxHash, nil
}
