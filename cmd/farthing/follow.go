package main

import (
	"context"
	"fmt"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// calls packs what a cycle needs with the contracts' ABI: it is the clearing house's [clearing.Chain].
type calls struct {
	contracts chain.Contracts
	operator  evm.Address
}

func (c calls) from(call evm.Call) (evm.Call, error) {
	call.From = c.operator
	return call, nil
}

func (c calls) Post(ref clearing.CycleRef, generation, chunk uint64, height uint8, positions []byte) (evm.Call, error) {
	return c.from(c.contracts.PostPositions(ref.Asset, ref.Start, generation, chunk, height, positions))
}

// Commit names its gas, so that it need not wait for the posting to be mined before it can be estimated: both then go
// into one block. The contract takes 97k and 4.8k for each further chunk; the rest is for cold storage and bond rules.
func (c calls) Commit(ref clearing.CycleRef, root evm.Hash, total money.Amount, deadline uint64, chunks int) (evm.Call, error) {
	call := c.contracts.CommitCycle(ref.ID(), ref.Asset, root, total, deadline)
	call.GasLimit = 250_000 + 10_000*uint64(chunks)
	return c.from(call)
}

// MarkDefaulted and Finalize name their gas too (67k and 39k): they have no deadline, and must not make the postings of
// other cycles behind them wait.
func (c calls) MarkDefaulted(cycle evm.Hash, debtor evm.Address, amount money.Amount, proof []evm.Hash) (evm.Call, error) {
	call := c.contracts.MarkDefaulted(cycle, debtor, amount, proof)
	call.GasLimit = 200_000
	return c.from(call)
}

func (c calls) Finalize(cycle evm.Hash) (evm.Call, error) {
	call := c.contracts.FinalizeCycle(cycle)
	call.GasLimit = 120_000
	return c.from(call)
}

func (c calls) Release(ref clearing.CycleRef, generation, chunk uint64, positions []byte) (evm.Call, error) {
	return c.from(c.contracts.Release(ref.ID(), generation, chunk, positions))
}

// registries asks the chain's validation registries: it is the clearing house's [clearing.Registry].
type registries struct{ client *chain.Client }

func (r registries) Answers(ctx context.Context, at clearing.Block, asked []guarantee.Policy) ([]guarantee.Answer, error) {
	questions := make([]chain.Question, len(asked))
	for i, p := range asked {
		questions[i] = chain.Question{Registry: p.Registry, Request: p.Request}
	}
	said, err := r.client.Validations(ctx, at.Hash, questions)
	answers := make([]guarantee.Answer, len(said))
	for i, v := range said {
		answers[i] = guarantee.Answer{Validator: v.Validator, AgentID: v.AgentID, Response: v.Response, Tag: v.Tag, LastUpdate: v.LastUpdate}
	}
	return answers, err
}

// sink hands one stream of blocks to the house.
type sink struct {
	house     *clearing.House
	stream    clearing.Stream
	contracts chain.Contracts
}

func (s sink) Cursor(ctx context.Context) ([]evm.BlockRef, error) {
	tips, err := s.house.Tips(ctx, s.stream, 256)
	if err != nil {
		return nil, err
	}
	refs := make([]evm.BlockRef, len(tips))
	for i, b := range tips {
		refs[i] = evm.BlockRef{Number: b.Number, Hash: b.Hash, Time: b.Time}
	}
	return refs, nil
}

func (s sink) Apply(ctx context.Context, b evm.BlockRef, logs []evm.Log) error {
	events := make([]clearing.Event, 0, len(logs))
	for _, l := range logs {
		decoded, err := s.contracts.Decode(l)
		if err != nil {
			return fmt.Errorf("block %d, log %d: %w", b.Number, l.Index, err)
		}
		if e, ok := event(decoded); ok {
			e.TxHash, e.LogIndex = l.TxHash, uint64(l.Index)
			events = append(events, e)
		}
	}
	return s.house.Apply(ctx, s.stream, clearing.Block{Number: b.Number, Hash: b.Hash, Time: b.Time}, events)
}

func (s sink) Unwind(ctx context.Context, to uint64) error { return s.house.Unwind(ctx, s.stream, to) }

// event translates a log into the house's words; false for one that says nothing to it.
func event(decoded chain.Event) (clearing.Event, bool) {
	switch e := decoded.(type) {
	case chain.Deposited:
		return clearing.Event{Kind: clearing.Deposited, Account: e.Owner, Asset: e.Asset, Amount: e.Amount}, true
	case chain.Withdrawn:
		return clearing.Event{Kind: clearing.Withdrawn, Account: e.Owner, Asset: e.Asset, Amount: e.Amount}, true
	case chain.WithdrawalRequested:
		return clearing.Event{Kind: clearing.WithdrawalRequested, Account: e.Owner, Asset: e.Asset, Amount: e.Amount, Time: e.When}, true
	case chain.WithdrawalCanceled:
		return clearing.Event{Kind: clearing.WithdrawalCanceled, Account: e.Owner, Asset: e.Asset}, true
	case chain.AutoSettleSet:
		return clearing.Event{Kind: clearing.AutoSettleSet, Account: e.Owner, On: e.On}, true
	case chain.LimitPerCycleSet:
		return clearing.Event{Kind: clearing.LimitSet, Account: e.Owner, Asset: e.Asset, Amount: e.Limit, Time: e.FromStart, On: e.Limit != chain.NoLimit()}, true
	case chain.SignerSet:
		return clearing.Event{Kind: clearing.SignerSet, Account: e.Owner, Asset: e.Key, Time: min(e.Until, clearing.Forever)}, true
	case chain.PositionsPosted:
		return clearing.Event{Kind: clearing.PositionsPosted, Cycle: e.Cycle, Generation: e.Generation, Chunk: e.Chunk, Root: e.ChunkHash}, true
	case chain.CycleCommitted:
		return clearing.Event{Kind: clearing.CycleCommitted, Cycle: e.Cycle, Asset: e.Asset, Root: e.Root, Amount: e.Total, Time: e.Finality}, true
	case chain.DebtFilled:
		return clearing.Event{Kind: clearing.DebtFilled, Cycle: e.Cycle, Account: e.Debtor, Amount: e.Amount}, true
	case chain.DebtorPaid:
		return clearing.Event{Kind: clearing.DebtorPaid, Cycle: e.Cycle, Account: e.Debtor, Amount: e.Amount}, true
	case chain.DebtorDefaulted:
		return clearing.Event{Kind: clearing.DebtorDefaulted, Cycle: e.Cycle, Account: e.Debtor, Amount: e.Amount}, true
	case chain.CreditorClaimed:
		return clearing.Event{Kind: clearing.CreditorClaimed, Cycle: e.Cycle, Account: e.Creditor, Amount: e.Amount}, true
	case chain.CycleFinalized:
		return clearing.Event{Kind: clearing.CycleFinalized, Cycle: e.Cycle}, true
	case chain.CycleVoided:
		return clearing.Event{Kind: clearing.CycleVoided, Cycle: e.Cycle, Generation: e.Generation, On: e.Failed}, true
	case chain.ChunkReleased:
		return clearing.Event{Kind: clearing.ChunkReleased, Cycle: e.Cycle, Generation: e.Generation, Chunk: e.Chunk}, true
	case chain.BondDeposited:
		return clearing.Event{Kind: clearing.BondChanged, Asset: e.Asset, Amount: e.Amount, On: true}, true
	case chain.BondWithdrawn:
		return clearing.Event{Kind: clearing.BondChanged, Asset: e.Asset, Amount: e.Amount}, true
	case chain.ScheduleSet:
		s := e.Schedule
		return clearing.Event{Kind: clearing.ScheduleSet, Asset: e.Asset, Schedule: &clearing.Schedule{
			Asset: e.Asset, From: s.FromStart, Length: uint64(s.Length), Cutoff: uint64(s.Cutoff), Post: uint64(s.Post),
			Challenge: uint64(s.Challenge), Repost: uint64(s.Repost), Redeem: uint64(s.Redeem),
		}}, true
	}
	return clearing.Event{}, false
}
