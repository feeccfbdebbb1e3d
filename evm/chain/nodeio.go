package chain

import (
	"context"
	"fmt"
	"math"
	"math/big"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"github.com/farthing402/farthing/evm"
)

// What a sender asks of a node.

// suggestedTip returns what the node would give a proposer, in wei. A node that will not say is taken to say nothing: an
// attempt that offers too little is replaced later.
func (c *Client) suggestedTip(ctx context.Context) uint64 {
	var tip hexutil.Big
	if err := c.ask(ctx, &tip, "eth_maxPriorityFeePerGas"); err != nil {
		return 0
	}
	return weiOf(&tip)
}

// estimate returns the gas that a call needs on the state that tag names.
func (c *Client) estimate(ctx context.Context, call evm.Call, tag string) (uint64, error) {
	var gas hexutil.Uint64
	err := c.ask(ctx, &gas, "eth_estimateGas", messageOf(call), tag)
	return uint64(gas), err
}

// simulate runs a call on the state that tag names and throws the result away.
func (c *Client) simulate(ctx context.Context, call evm.Call, tag string) error {
	var out hexutil.Bytes
	return c.ask(ctx, &out, "eth_call", messageOf(call), tag)
}

// broadcast gives a signed transaction to the node.
func (c *Client) broadcast(ctx context.Context, raw []byte) error {
	var hash evm.Hash
	return c.ask(ctx, &hash, "eth_sendRawTransaction", hexutil.Bytes(raw))
}

// receipt returns where a transaction was mined, or nil.
func (c *Client) receipt(ctx context.Context, tx evm.Hash) (*evm.CallReceipt, error) {
	var r *struct {
		Hash      evm.Hash       `json:"transactionHash"`
		Block     hexutil.Uint64 `json:"blockNumber"`
		BlockHash evm.Hash       `json:"blockHash"`
		GasUsed   hexutil.Uint64 `json:"gasUsed"`
		Price     *hexutil.Big   `json:"effectiveGasPrice"`
		Status    hexutil.Uint64 `json:"status"`
	}
	if err := c.ask(ctx, &r, "eth_getTransactionReceipt", tx); err != nil || r == nil {
		return nil, err
	}
	if r.Hash != tx {
		return nil, fmt.Errorf("receipt of %v: %w: it is of %v", tx, ErrInconsistent, r.Hash)
	}
	return &evm.CallReceipt{
		TxHash: tx, BlockNumber: uint64(r.Block), BlockHash: r.BlockHash,
		GasUsed: uint64(r.GasUsed), FeeWei: weiOf(r.Price), OK: r.Status == 1,
	}, nil
}

func messageOf(call evm.Call) message {
	m := message{From: call.From, Gas: hexutil.Uint64(call.GasLimit), Value: (*hexutil.Big)(new(big.Int).SetBytes(call.Value[:])), Data: call.Data}
	if !call.To.IsZero() {
		m.To = &call.To
	}
	return m
}

// weiOf returns a price per gas, at most 2^64 − 1: no ceiling comes near it.
func weiOf(v *hexutil.Big) uint64 {
	switch {
	case v == nil || v.ToInt().Sign() < 0:
		return 0
	case !v.ToInt().IsUint64():
		return math.MaxUint64
	}
	return v.ToInt().Uint64()
}
