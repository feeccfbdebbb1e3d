package desk

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Step makes one pass: the lanes send what they have, what was mined comes to its end, and what is due is handed to
// lanes. Call it when [Desk.Wake] is signalled, and a few times per block while settlements are open. An error says what
// could not be done in this pass; nothing is lost by it, and the next pass tries again.
func (d *Desk) Step(ctx context.Context, now time.Time) error {
	if err := d.Load(ctx, now); err != nil {
		return err
	}
	d.pass.Lock()
	defer d.pass.Unlock()
	var failed []error
	for _, lane := range d.c.Lanes {
		if err := lane.Step(ctx, now); err != nil {
			failed = append(failed, err)
		}
	}
	head, err := d.c.Chain.Head(ctx)
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	if err := d.recheck(ctx, head); err != nil {
		return errors.Join(append(failed, err)...)
	}
	d.mu.Lock()
	d.head = head.Number
	d.mu.Unlock()
	p := &pass{Desk: d, now: now, head: head}
	failed = append(failed, p.follow(ctx), p.dispatch(ctx))
	for _, lane := range d.c.Lanes {
		if !p.handed[lane] {
			continue
		}
		if err := lane.Step(ctx, now); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(append(failed, p.note(ctx))...)
}

// recheck reopens settlements whose block is no longer canonical. It asks about blocks only when the head of the last
// pass is gone, and in the first pass.
func (d *Desk) recheck(ctx context.Context, head evm.BlockRef) error {
	if d.seen != (evm.BlockRef{}) && head.Number >= d.seen.Number {
		if now, err := d.c.Chain.Block(ctx, d.seen.Number); err != nil {
			return err
		} else if now.Hash == d.seen.Hash {
			d.seen = head
			return nil
		}
	}
	mined, err := d.c.Book.Mined(ctx, d.c.ChainID, head.Number-min(head.Number, d.c.Depth+recheckBlocks))
	if err != nil {
		return err
	}
	canonical := make(map[uint64]evm.Hash)
	var reopened []Settlement
	for _, s := range mined {
		if _, asked := canonical[s.Block]; !asked && s.Block <= head.Number {
			block, err := d.c.Chain.Block(ctx, s.Block)
			if err != nil {
				return err
			}
			canonical[s.Block] = block.Hash
		}
		if canonical[s.Block] == s.BlockHash {
			continue
		}
		d.c.Log.Warn("a reorganisation took a settlement back", "settlement", s.Ask, "state", s.State, "tx", s.Tx, "block", s.Block)
		s.State = Sent
		if s.Foreign || s.Call == "" {
			s.State, s.Foreign = Queued, false
		}
		s.Tx, s.Block, s.BlockHash, s.Code, s.Reason, s.DoneAt = evm.Hash{}, 0, evm.Hash{}, "", "", time.Time{}
		s.Gas, s.Cost = 0, money.Amount{}
		reopened = append(reopened, s)
	}
	if len(reopened) > 0 {
		// First in memory: should the book write this and not get to say so, it does not list them again.
		d.mu.Lock()
		for _, s := range reopened {
			d.put(s)
		}
		d.mu.Unlock()
		if err := d.c.Book.Save(ctx, reopened, nil); err != nil {
			return err
		}
		if d.c.Ended != nil {
			for _, s := range reopened {
				d.c.Ended(s)
			}
		}
	}
	d.seen = head
	return nil
}

// pass is one look at everything that is open.
type pass struct {
	*Desk
	now    time.Time
	head   evm.BlockRef
	handed map[Lane]bool                // lanes that got a call in this pass
	fee    uint64                       // of a unit of gas
	purse  map[evm.Address]money.Amount // what lanes have for gas, of those that have some
}

// list returns the open settlements in a state, those due first in front.
func (p *pass) list(state State) (all []Settlement) {
	p.mu.Lock()
	for _, e := range p.open {
		if e.s.State == state {
			all = append(all, e.s)
		}
	}
	p.mu.Unlock()
	slices.SortFunc(all, earlier)
	return all
}

// follow brings what is sent to its end.
func (p *pass) follow(ctx context.Context) error {
	groups := make(map[string][]Settlement)
	var order []string
	for _, s := range p.list(Sent) {
		if groups[s.Call] == nil {
			order = append(order, s.Call)
		}
		groups[s.Call] = append(groups[s.Call], s)
	}
	var failed []error
	for _, call := range order {
		if err := p.followCall(ctx, call, groups[call]); err != nil {
			failed = append(failed, fmt.Errorf("call %s: %w", call, err))
		}
	}
	return errors.Join(failed...)
}

func (p *pass) followCall(ctx context.Context, id string, group []Settlement) error {
	if step, ok := relayed(group[0]); ok {
		return p.followRelayed(ctx, group[0], step)
	}
	lane := p.lane(group[0].From)
	if lane == nil {
		return fmt.Errorf("%s is not a lane", group[0].From)
	}
	call, err := lane.Find(ctx, id)
	if err != nil {
		return err
	}
	if !call.State.Final() {
		return nil
	}
	if call.Receipt == nil { // refused before it was sent
		if len(group) > 1 {
			return p.apart(ctx, group, nil)
		}
		return p.refused(ctx, group[0], call.Err, nil)
	}
	receipt, err := p.c.Chain.Receipt(ctx, call.Receipt.TxHash)
	if err != nil {
		return err
	}
	if receipt == nil || receipt.BlockHash != call.Receipt.BlockHash {
		return errors.New("its block is being reorganised")
	}
	spent := p.share(group, *receipt)
	if !receipt.OK {
		if len(group) > 1 {
			return p.apart(ctx, group, spent)
		}
		return p.refused(ctx, mined(group[0], *receipt), call.Err, spent)
	}
	if s := group[0]; s.Stage < len(s.Steps) {
		s.Stage++
		return p.save(ctx, []Settlement{again(s, false)}, spent, p.now)
	}
	for i, said := range judge(receipt.Logs, group) {
		s := &group[i]
		switch {
		case said == moved:
			*s = mined(*s, *receipt)
			s.State = Settled
		case said == wrong || len(group) == 1:
			*s = mined(*s, *receipt)
			s.State, s.Code = Failed, codesOf(s.Scheme, s.Mark).mismatch
			s.Reason = fmt.Sprintf("transaction %s went through without the transfer of %s units to %s", receipt.TxHash, s.Amount, s.Payee)
		default:
			*s = again(*s, true)
		}
	}
	return p.save(ctx, group, spent, p.now)
}

// mined says in which block a settlement's transaction is.
func mined(s Settlement, r evm.TxReceipt) Settlement {
	s.Tx, s.Block, s.BlockHash = r.TxHash, r.BlockNumber, r.BlockHash
	return s
}

// again queues a settlement once more, for its next step or by itself.
func again(s Settlement, alone bool) Settlement {
	s.State, s.Alone, s.Call, s.From = Queued, s.Alone || alone, "", evm.Address{}
	s.GasBefore += s.Gas
	s.CostBefore, s.Gas, s.Cost = s.TotalCost(), 0, money.Amount{}
	return s
}

// apart queues what shared a transaction that failed as a whole, each by itself.
func (p *pass) apart(ctx context.Context, group []Settlement, spent []Spending) error {
	for i := range group {
		group[i] = again(group[i], true)
	}
	return p.save(ctx, group, spent, p.now)
}

// share divides what a transaction cost among what it carried; what does not divide is the first one's.
func (p *pass) share(group []Settlement, r evm.TxReceipt) []Spending {
	n := uint64(len(group))
	wei, _ := money.Units(r.GasUsed).Mul(money.Units(r.FeeWei))
	fee, err := money.AmountFromBytes(r.DataFeeWei[:])
	if sum, ok := wei.Add(fee); ok && err == nil {
		wei = sum
	}
	if s := group[0]; r.OK && s.Stage < len(s.Steps) {
		if sum, ok := wei.Add(s.Steps[s.Stage].Value); ok {
			wei = sum
		}
	}
	day := Day(p.now)
	part, rest := divide(wei, n)
	spent := []Spending{{ChainID: p.c.ChainID, Day: day, Account: group[0].From, Lane: true, Gas: r.GasUsed, Wei: wei}}
	for i := range group {
		s := &group[i]
		s.Gas, s.Cost = r.GasUsed/n, part
		if i == 0 {
			s.Gas += r.GasUsed % n
			s.Cost, _ = part.Add(rest)
		}
		spent = append(spent, Spending{ChainID: p.c.ChainID, Day: day, Account: s.Payer, Gas: s.Gas, Wei: s.Cost})
	}
	return spent
}

// divide returns a ÷ n, rounded down, and what is left.
func divide(a money.Amount, n uint64) (part, rest money.Amount) {
	w := a.Word()
	q, r := new(big.Int).QuoRem(new(big.Int).SetBytes(w[:]), new(big.Int).SetUint64(n), new(big.Int))
	part, _ = money.AmountFromBytes(q.Bytes()) // no larger than a
	rest, _ = money.AmountFromBytes(r.Bytes())
	return part, rest
}

// refused ends a settlement that the chain refuses, in simulation or in a block, unless somebody else's transaction has
// carried it out.
func (p *pass) refused(ctx context.Context, s Settlement, said string, spent []Spending) error {
	receipt, found, err := p.find(ctx, s, p.head)
	if err != nil {
		return err
	}
	codes := codesOf(s.Scheme, s.Mark)
	switch {
	case found == moved && receipt.BlockNumber+p.c.Depth > p.head.Number:
		return nil // not deep enough; the next pass finds it again
	case found == moved:
		s = mined(s, *receipt)
		s.State, s.Foreign, s.Code, s.Reason = Settled, !p.ours(s, *receipt), "", ""
		return p.save(ctx, []Settlement{s}, spent, p.now)
	case found == wrong:
		s.State, s.Code = Failed, codes.used
		s.Reason = fmt.Sprintf("transaction %s used its nonce for another transfer", receipt.TxHash)
		return p.save(ctx, []Settlement{s}, spent, p.now)
	}
	s.State = Failed
	if s.Stage < len(s.Steps) {
		s.Code, s.Reason = s.Steps[s.Stage].Code, said
		return p.save(ctx, []Settlement{s}, spent, p.now)
	}
	if p.c.Explain != nil {
		s.Code, s.Reason = p.c.Explain(ctx, s, said)
	}
	if s.Code == "" {
		if !s.Tx.IsZero() { // a node tells why a call is refused, seldom why one was
			_, err := p.c.Chain.Estimate(ctx, evm.Call{From: p.c.Lanes[0].Address(), To: s.To, Data: s.Data})
			if now, ok := refusal(err); ok {
				said = now
			}
		}
		s.Code, s.Reason = plainly(codes, said), said
		if s.Code == "" && !s.Tx.IsZero() {
			s.Code = codes.failed
		} else if s.Code == "" {
			s.Code = codes.refused
		}
	}
	return p.save(ctx, []Settlement{s}, spent, p.now)
}

// ours reports whether a transaction is of one of the lanes.
func (p *pass) ours(s Settlement, r evm.TxReceipt) bool { return p.lane(r.From) != nil }

// note remembers the newest transaction of what is on its way, for whoever asks meanwhile.
func (p *pass) note(ctx context.Context) error {
	hashes := make(map[string]evm.Hash)
	for _, s := range p.list(Sent) {
		if step, ok := relayed(s); ok {
			hashes[s.Call] = evm.Keccak256(step.Raw)
			continue
		}
		if _, asked := hashes[s.Call]; asked {
			continue
		}
		lane := p.lane(s.From)
		if lane == nil {
			continue
		}
		call, err := lane.Find(ctx, s.Call)
		if err != nil {
			return err
		}
		var tx evm.Hash
		if n := len(call.Attempts); n > 0 {
			tx = call.Attempts[n-1].Hash
		}
		hashes[s.Call] = tx
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.open {
		e.tx = evm.Hash{}
		if e.s.State == Sent {
			e.tx = hashes[e.s.Call]
		}
	}
	return nil
}
