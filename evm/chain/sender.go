package chain

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/farthing402/farthing/evm"
)

// ErrReverted is the error of waiting for a call that was refused.
var ErrReverted = errors.New("call was refused")

// node is what a sender needs of a [Client].
type node interface {
	ChainID() uint64
	Block(ctx context.Context, number uint64) (evm.BlockRef, error)
	header(ctx context.Context, tag string) (header, error)
	nonceAt(ctx context.Context, account evm.Address, tag string) (uint64, error)
	suggestedTip(ctx context.Context) uint64
	estimate(ctx context.Context, call evm.Call, tag string) (uint64, error)
	simulate(ctx context.Context, call evm.Call, tag string) error
	broadcast(ctx context.Context, raw []byte) error
	receipt(ctx context.Context, tx evm.Hash) (*evm.CallReceipt, error)
}

// Sender sends the calls of one account, in the order they were asked for, each under a nonce of its own, until each is
// as deep as its policy wants. Everything that a restart must know is in the [Outbox]: a new Sender over the same outbox
// goes on where the old one stopped, with the same bytes.
//
// A call is simulated first. One that would be refused is finished as reverted and spends no nonce, so that the calls
// behind it go on. While others are in flight, on which it may depend, it waits for them instead; a call that names its
// own gas limit does not wait and is then not simulated.
//
// The account must belong to one Sender alone. Should another program spend one of its nonces, the call under it goes on
// under the next, once [Policy.LostAfter] has passed.
//
// A Sender is safe for concurrent use.
type Sender struct {
	node   node
	outbox Outbox
	signer evm.Signer
	policy Policy

	mu      sync.Mutex           // one pass at a time
	seen    evm.BlockRef         // guarded by mu: the head of the last pass
	missing map[string]time.Time // guarded by mu: since when a call's nonce is spent but none of its attempts is found
}

// NewSender returns a sender for the signer's account. It waits for as many blocks as the client says can come: see
// [Client.Depth].
func NewSender(client *Client, outbox Outbox, signer evm.Signer, policy Policy) *Sender {
	policy.Depth = client.Depth(policy.Depth)
	return newSender(client, outbox, signer, policy)
}

func newSender(n node, outbox Outbox, signer evm.Signer, policy Policy) *Sender {
	return &Sender{node: n, outbox: outbox, signer: signer, policy: policy.withDefaults(), missing: make(map[string]time.Time)}
}

// Address returns the account that the sender sends from.
func (s *Sender) Address() evm.Address { return s.signer.Address() }

// Find returns one of the sender's calls as its outbox has it, or [evm.ErrNoCall].
func (s *Sender) Find(ctx context.Context, id string) (evm.SentCall, error) {
	return s.outbox.Find(ctx, id)
}

// Step makes one pass over the lane: it finishes what is deep enough, broadcasts again what the node has lost, replaces
// what has waited too long, and launches what is queued. Call it about once a block. An error says what could not be
// done in this pass; nothing is lost by it, and the next pass tries again. When ctx ends in the middle, a transaction
// may still be mined.
func (s *Sender) Step(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step(ctx, now); err != nil {
		return fmt.Errorf("send from %s: %w", s.Address().Short(), err)
	}
	return nil
}

func (s *Sender) step(ctx context.Context, now time.Time) error {
	head, err := s.node.header(ctx, "latest")
	if err != nil {
		return err
	}
	if err := s.recheck(ctx, head.ref()); err != nil {
		return err
	}
	open, err := s.outbox.Open(ctx, s.Address())
	if err != nil || len(open) == 0 {
		return err
	}
	pass := pass{Sender: s, now: now, head: head.ref(), market: fees{fee: weiOf(head.BaseFee), tip: s.node.suggestedTip(ctx)}, open: open}
	if pass.mined, err = s.node.nonceAt(ctx, s.Address(), "latest"); err != nil {
		return err
	}
	if pass.pending, err = s.node.nonceAt(ctx, s.Address(), "pending"); err != nil {
		return err
	}
	return pass.run(ctx)
}

// recheck reopens finished calls whose block is no longer canonical. It asks about blocks only when the head of the last
// pass is gone, and in a sender's first pass.
func (s *Sender) recheck(ctx context.Context, head evm.BlockRef) error {
	if s.seen != (evm.BlockRef{}) && head.Number >= s.seen.Number {
		if now, err := s.node.Block(ctx, s.seen.Number); err != nil {
			return err
		} else if now.Hash == s.seen.Hash {
			s.seen = head
			return nil
		}
	}
	lowest := head.Number - min(head.Number, s.policy.Depth+RecheckBlocks)
	finished, err := s.outbox.Finished(ctx, s.Address(), lowest)
	if err != nil {
		return err
	}
	canonical := make(map[uint64]evm.Hash)
	for _, call := range finished {
		number := call.Receipt.BlockNumber
		if _, asked := canonical[number]; !asked && number <= head.Number {
			block, err := s.node.Block(ctx, number)
			if err != nil {
				return err
			}
			canonical[number] = block.Hash
		}
		if canonical[number] != call.Receipt.BlockHash {
			if err := s.outbox.Reopen(ctx, call.ID); err != nil {
				return err
			}
		}
	}
	s.seen = head
	return nil
}

// pass is one look at the lane.
type pass struct {
	*Sender
	now            time.Time
	head           evm.BlockRef
	market         fees
	mined, pending uint64 // nonces that the chain and the node's pool count
	open           []evm.SentCall
}

func (p *pass) run(ctx context.Context) error {
	var failed []error
	for i := range p.open {
		call := &p.open[i]
		if len(call.Attempts) == 0 {
			continue
		}
		if err := p.follow(ctx, call); err != nil {
			failed = append(failed, fmt.Errorf("%v: %w", call.Call, err))
		}
	}
	for i := range p.open {
		call := &p.open[i]
		if len(call.Attempts) > 0 || call.State.Final() {
			continue
		}
		if inFlight(p.mined, p.stillOpen()) >= p.policy.InFlightMax {
			break
		}
		launched, err := p.launch(ctx, call)
		if err != nil {
			failed = append(failed, fmt.Errorf("%v: %w", call.Call, err))
		}
		if !launched {
			break // calls go in order
		}
	}
	return errors.Join(failed...)
}

func (p *pass) stillOpen() (open []evm.SentCall) {
	for _, call := range p.open {
		if !call.State.Final() {
			open = append(open, call)
		}
	}
	return open
}

// follow does what a sent call needs next.
func (p *pass) follow(ctx context.Context, call *evm.SentCall) error {
	switch p.policy.next(*call, p.mined, p.pending, p.now) {
	case stepSeek:
		return p.seek(ctx, call)
	case stepReplace:
		last := call.Attempts[len(call.Attempts)-1]
		if raised, ok := p.policy.raise(fees{tip: last.TipWei, fee: last.FeeWei}, p.market); ok {
			return p.attempt(ctx, call, last.Nonce, last.Gas, raised)
		}
		return p.again(ctx, call)
	case stepBroadcast:
		return p.again(ctx, call)
	}
	return nil
}

// again broadcasts the newest attempt, for the first time or once more: the same bytes.
func (p *pass) again(ctx context.Context, call *evm.SentCall) error {
	err := p.node.broadcast(ctx, call.Attempts[len(call.Attempts)-1].Raw)
	switch {
	case errors.Is(err, errKnown), errors.Is(err, errNonceSpent):
		return nil // it waits, or the next pass finds its receipt
	case errors.Is(err, errInvalid) && len(call.Attempts) == 1:
		// No node takes it, so its nonce is free for the next call.
		return p.finish(ctx, call, nil, err.Error())
	}
	return err
}

// seek looks for the receipt of a call whose nonce is spent.
func (p *pass) seek(ctx context.Context, call *evm.SentCall) error {
	for i := len(call.Attempts) - 1; i >= 0; i-- {
		receipt, err := p.node.receipt(ctx, call.Attempts[i].Hash)
		if err != nil {
			return err
		}
		if receipt == nil {
			continue
		}
		delete(p.missing, call.ID)
		if receipt.BlockNumber+p.policy.Depth > p.head.Number {
			return nil // not deep enough
		}
		block, err := p.node.Block(ctx, receipt.BlockNumber)
		if err != nil {
			return err
		}
		if block.Hash != receipt.BlockHash {
			return fmt.Errorf("receipt is of block %d %v: %w", receipt.BlockNumber, receipt.BlockHash, ErrInconsistent)
		}
		var reason string
		if !receipt.OK {
			reason = p.whyReverted(ctx, call.Call, *receipt)
		}
		return p.finish(ctx, call, receipt, reason)
	}
	return p.lost(ctx, call)
}

// lost gives a call a new nonce when another program has spent the old one for good.
func (p *pass) lost(ctx context.Context, call *evm.SentCall) error {
	since, known := p.missing[call.ID]
	if !known {
		p.missing[call.ID] = p.now
		return nil
	}
	if p.now.Sub(since) < p.policy.LostAfter || p.head.Number < p.policy.Depth {
		return nil
	}
	settled, err := p.node.nonceAt(ctx, p.Address(), hexutil.EncodeUint64(p.head.Number-p.policy.Depth))
	if err != nil {
		return err
	}
	if nonce, _ := call.Nonce(); nonce >= settled {
		return nil
	}
	launched, err := p.launch(ctx, call)
	if launched {
		delete(p.missing, call.ID)
	}
	return err
}

// launch simulates a call and sends its first attempt under the next nonce. It reports false if the call must wait, and
// with it those behind it.
func (p *pass) launch(ctx context.Context, call *evm.SentCall) (bool, error) {
	idle := inFlight(p.mined, p.stillOpen()) == 0
	gas, err := p.gas(ctx, call.Call, idle)
	var refused *RevertError
	switch {
	case errors.As(err, &refused):
		if !idle {
			return false, nil // perhaps it needs what is in flight
		}
		return true, p.finish(ctx, call, nil, refused.Reason)
	case errors.Is(err, errTooMuchGas), errors.Is(err, errInvalid):
		if !idle {
			return false, nil
		}
		return true, p.finish(ctx, call, nil, err.Error())
	case err != nil:
		return false, err
	}
	offered, err := p.policy.offer(p.market)
	if err != nil {
		return false, err
	}
	err = p.attempt(ctx, call, nextNonce(p.mined, p.stillOpen()), gas, offered)
	return err == nil, err
}

// gas returns the gas limit of a call that would succeed.
func (p *pass) gas(ctx context.Context, call evm.Call, idle bool) (uint64, error) {
	if call.GasLimit > GasMax {
		return 0, errTooMuchGas
	}
	if call.GasLimit != 0 {
		if !idle {
			return call.GasLimit, nil
		}
		return call.GasLimit, p.node.simulate(ctx, call, "latest")
	}
	tag := "latest"
	if !idle {
		tag = "pending"
	}
	estimate, err := p.node.estimate(ctx, call, tag)
	if err != nil {
		return 0, err
	}
	return gasFor(estimate)
}

// attempt signs a transaction, records it, and then broadcasts it.
func (p *pass) attempt(ctx context.Context, call *evm.SentCall, nonce, gas uint64, f fees) error {
	attempt, err := sign(ctx, p.signer, p.node.ChainID(), call.Call, nonce, gas, f)
	if err != nil {
		return err
	}
	if len(attempt.Raw) > transactionBytesMax {
		return p.finish(ctx, call, nil, fmt.Sprintf("transaction of %d bytes is larger than nodes take", len(attempt.Raw)))
	}
	attempt.SentAt = p.now.UnixMilli()
	if err := p.outbox.RecordAttempt(ctx, call.ID, attempt); err != nil {
		return err
	}
	call.Attempts = append(call.Attempts, attempt)
	call.State = evm.CallSent
	return p.again(ctx, call)
}

func (p *pass) finish(ctx context.Context, call *evm.SentCall, receipt *evm.CallReceipt, reason string) error {
	if err := p.outbox.Finish(ctx, call.ID, receipt, reason); err != nil {
		return err
	}
	delete(p.missing, call.ID)
	call.State = evm.CallReverted
	if receipt != nil && receipt.OK {
		call.State = evm.CallDone
	}
	return nil
}

// whyReverted runs a call again on the state before its block. Transactions before it in the block are missed, so the
// answer is a help for people, not a fact.
func (p *pass) whyReverted(ctx context.Context, call evm.Call, receipt evm.CallReceipt) string {
	var refused *RevertError
	err := p.node.simulate(ctx, call, hexutil.EncodeUint64(receipt.BlockNumber-1))
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return fmt.Sprintf("refused in block %d", receipt.BlockNumber)
}

// SendAndWait enqueues a call and waits for it; see [Sender.Wait].
func (s *Sender) SendAndWait(ctx context.Context, call evm.Call, pause func(context.Context) (time.Time, error)) (evm.SentCall, error) {
	if err := s.outbox.Enqueue(ctx, call); err != nil {
		return evm.SentCall{Call: call}, err
	}
	return s.Wait(ctx, call.ID, pause)
}

// Wait makes passes until a call is final. Before each it calls pause, which returns the time of the pass, or an error
// to stop. A refused call is returned with [ErrReverted]. When Wait ends early for a call that is sent, the transaction
// may still be mined: the outcome is unknown, not failed.
func (s *Sender) Wait(ctx context.Context, id string, pause func(context.Context) (time.Time, error)) (evm.SentCall, error) {
	var failed error // of the last pass
	for {
		call, err := s.outbox.Find(context.WithoutCancel(ctx), id)
		switch {
		case err != nil:
			return call, errors.Join(err, failed)
		case call.State == evm.CallReverted:
			return call, fmt.Errorf("%v: %w: %s", call.Call, ErrReverted, call.Err)
		case call.State == evm.CallDone:
			return call, nil
		case call.State == evm.CallQueued && failed != nil:
			return call, failed // nothing is signed, so giving up is safe
		}
		now, err := pause(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return call, errors.Join(err, failed)
		}
		failed = s.Step(ctx, now)
	}
}

// Every returns a pause for [Sender.Wait] that lasts d, except before the first pass.
func Every(d time.Duration) func(context.Context) (time.Time, error) {
	first := true
	return func(ctx context.Context) (time.Time, error) {
		if first {
			first = false
			return time.Now(), nil
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case now := <-timer.C:
			return now, nil
		}
	}
}

// sign makes an attempt of a call: an EIP-1559 transaction.
func sign(ctx context.Context, signer evm.Signer, chainID uint64, call evm.Call, nonce, gas uint64, f fees) (evm.Attempt, error) {
	if signer.Address() != call.From {
		return evm.Attempt{}, fmt.Errorf("sign: the key is of %v", signer.Address())
	}
	body := &types.DynamicFeeTx{
		ChainID:   new(big.Int).SetUint64(chainID),
		Nonce:     nonce,
		GasTipCap: new(big.Int).SetUint64(f.tip),
		GasFeeCap: new(big.Int).SetUint64(f.fee),
		Gas:       gas,
		Value:     new(big.Int).SetBytes(call.Value[:]),
		Data:      call.Data,
	}
	if !call.To.IsZero() {
		to := common.Address(call.To)
		body.To = &to
	}
	form := types.LatestSignerForChainID(body.ChainID)
	unsigned := types.NewTx(body)
	digest := evm.Hash(form.Hash(unsigned))
	signature, err := signer.Sign(ctx, digest)
	if err != nil {
		return evm.Attempt{}, fmt.Errorf("sign: %w", err)
	}
	if who, err := evm.Recover(digest, signature); err != nil || who != call.From {
		return evm.Attempt{}, fmt.Errorf("sign: the signature is not of %v", call.From)
	}
	signature[64] -= 27 // typed transactions carry the parity alone
	signed, err := unsigned.WithSignature(form, signature[:])
	if err != nil {
		return evm.Attempt{}, fmt.Errorf("sign: %w", err)
	}
	raw, err := signed.MarshalBinary()
	if err != nil {
		return evm.Attempt{}, fmt.Errorf("sign: %w", err)
	}
	return evm.Attempt{Hash: evm.Hash(signed.Hash()), Raw: raw, Nonce: nonce, TipWei: f.tip, FeeWei: f.fee, Gas: gas}, nil
}
