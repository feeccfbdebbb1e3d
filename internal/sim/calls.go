package sim

import (
	"encoding/json"
	"fmt"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

func (c *Chain) pack(o op) (evm.Call, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return evm.Call{}, err
	}
	return evm.Call{From: c.operator, To: c.deployment.ClearingHouse, Data: data}, nil
}

func unpack(call evm.Call) (o op, err error) {
	if err = json.Unmarshal(call.Data, &o); err != nil {
		err = fmt.Errorf("unpack %v: %w", call, err)
	}
	return o, err
}

// Post implements [clearing.Chain].
func (c *Chain) Post(ref clearing.CycleRef, generation, chunk uint64, height uint8, positions []byte) (evm.Call, error) {
	return c.pack(op{Kind: opPost, Asset: ref.Asset, Start: ref.Start, Generation: generation, Chunk: chunk, Height: height, Positions: positions})
}

// Commit implements [clearing.Chain]. It names its gas, so that it can be sent before the posting is mined.
func (c *Chain) Commit(ref clearing.CycleRef, root evm.Hash, total money.Amount, deadline uint64, chunks int) (evm.Call, error) {
	call, err := c.pack(op{Kind: opCommit, Cycle: ref.ID(), Asset: ref.Asset, Root: root, Amount: total, Deadline: deadline})
	call.GasLimit = 250_000 + 10_000*uint64(chunks)
	return call, err
}

// MarkDefaulted implements [clearing.Chain].
func (c *Chain) MarkDefaulted(cycle evm.Hash, debtor evm.Address, amount money.Amount, proof []evm.Hash) (evm.Call, error) {
	return c.pack(op{Kind: opMark, Cycle: cycle, Account: debtor, Amount: amount, Proof: proof})
}

// Finalize implements [clearing.Chain].
func (c *Chain) Finalize(cycle evm.Hash) (evm.Call, error) {
	return c.pack(op{Kind: opFinalize, Cycle: cycle})
}

// Release implements [clearing.Chain].
func (c *Chain) Release(ref clearing.CycleRef, generation, chunk uint64, positions []byte) (evm.Call, error) {
	return c.pack(op{Kind: opRelease, Cycle: ref.ID(), Generation: generation, Chunk: chunk, Positions: positions})
}
