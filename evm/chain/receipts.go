package chain

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"github.com/farthing402/farthing/evm"
)

// What a settlement needs of a node besides a sender: what transactions did, whoever sent them.

// Receipt returns a transaction that a block holds, with its logs, or nil for one that none holds.
func (c *Client) Receipt(ctx context.Context, tx evm.Hash) (*evm.TxReceipt, error) {
	var r *struct {
		Hash      evm.Hash       `json:"transactionHash"`
		Block     hexutil.Uint64 `json:"blockNumber"`
		BlockHash evm.Hash       `json:"blockHash"`
		From      evm.Address    `json:"from"`
		To        *evm.Address   `json:"to"`
		GasUsed   hexutil.Uint64 `json:"gasUsed"`
		Price     *hexutil.Big   `json:"effectiveGasPrice"`
		L1Fee     *hexutil.Big   `json:"l1Fee"` // OP Stack: optimism, op-geth core/types/receipt.go
		Status    hexutil.Uint64 `json:"status"`
		Logs      []logJSON      `json:"logs"`
	}
	if err := c.ask(ctx, &r, "eth_getTransactionReceipt", tx); err != nil || r == nil {
		return nil, err
	}
	if r.Hash != tx {
		return nil, fmt.Errorf("receipt of %v: %w: it is of %v", tx, ErrInconsistent, r.Hash)
	}
	out := &evm.TxReceipt{
		CallReceipt: evm.CallReceipt{
			TxHash: tx, BlockNumber: uint64(r.Block), BlockHash: r.BlockHash,
			GasUsed: uint64(r.GasUsed), FeeWei: weiOf(r.Price), OK: r.Status == 1,
		},
		From: r.From, Logs: make([]evm.Log, len(r.Logs)),
	}
	if r.To != nil {
		out.To = *r.To
	}
	if r.L1Fee != nil && r.L1Fee.ToInt().Sign() >= 0 && r.L1Fee.ToInt().BitLen() <= 256 {
		r.L1Fee.ToInt().FillBytes(out.DataFeeWei[:])
	}
	for i, l := range r.Logs {
		if l.Removed || l.TxHash != tx || l.BlockHash != r.BlockHash {
			return nil, fmt.Errorf("receipt of %v: %w: log %d does not belong", tx, ErrInconsistent, i)
		}
		out.Logs[i] = evm.Log{Address: l.Address, Topics: l.Topics, Data: l.Data, TxHash: l.TxHash, Index: uint(l.Index)}
	}
	return out, nil
}

// Logs returns the logs of one contract from block first to last whose topics begin with those given; a zero topic stands
// for any. Nodes bound the range that one question may span: some to a few hundred blocks, most to some thousand.
func (c *Client) Logs(ctx context.Context, contract evm.Address, topics []evm.Hash, first, last uint64) ([]evm.Log, error) {
	wanted := make([]*evm.Hash, len(topics))
	for i := range topics {
		if !topics[i].IsZero() {
			wanted[i] = &topics[i]
		}
	}
	var answer []logJSON
	if err := c.ask(ctx, &answer, "eth_getLogs", map[string]any{
		"fromBlock": hexutil.EncodeUint64(first), "toBlock": hexutil.EncodeUint64(last), "address": contract, "topics": wanted,
	}); err != nil {
		return nil, err
	}
	logs := make([]evm.Log, 0, len(answer))
	for i, l := range answer {
		fits := !l.Removed && l.Address == contract && uint64(l.Block) >= first && uint64(l.Block) <= last && len(l.Topics) >= len(topics)
		for k := 0; fits && k < len(wanted); k++ {
			fits = wanted[k] == nil || l.Topics[k] == *wanted[k]
		}
		if !fits {
			return nil, fmt.Errorf("logs of %v: %w: log %d was not asked for", contract, ErrInconsistent, i)
		}
		logs = append(logs, evm.Log{Address: l.Address, Topics: l.Topics, Data: l.Data, TxHash: l.TxHash, Index: uint(l.Index)})
	}
	return logs, nil
}

// Input returns the data that a transaction called with, and nil for a transaction that the node does not know.
func (c *Client) Input(ctx context.Context, tx evm.Hash) ([]byte, error) {
	var t *struct {
		Hash  evm.Hash      `json:"hash"`
		Input hexutil.Bytes `json:"input"`
	}
	if err := c.ask(ctx, &t, "eth_getTransactionByHash", tx); err != nil || t == nil {
		return nil, err
	}
	if t.Hash != tx {
		return nil, fmt.Errorf("transaction %v: %w: it sent %v", tx, ErrInconsistent, t.Hash)
	}
	return t.Input, nil
}

// Estimate returns the gas that a call needs on the newest block. A refusal is a [*RevertError]; a call that needs more
// than one transaction may use is an error that matches [evm.ErrTooMuchGas].
func (c *Client) Estimate(ctx context.Context, call evm.Call) (uint64, error) {
	gas, err := c.estimate(ctx, call, "latest")
	if err == nil && gas > GasMax {
		return 0, fmt.Errorf("%d gas: %w", gas, errTooMuchGas)
	}
	return gas, err
}

// Relay gives somebody else's signed transaction to the node. One that the node has, or whose nonce is spent, is no
// error: its receipt tells what became of it.
func (c *Client) Relay(ctx context.Context, raw []byte) error {
	err := c.broadcast(ctx, raw)
	if errors.Is(err, errKnown) || errors.Is(err, errNonceSpent) {
		return nil
	}
	return err
}

// FeeNow returns what a unit of gas costs now, in wei: the base fee and the tip that the node proposes.
func (c *Client) FeeNow(ctx context.Context) (uint64, error) {
	price, err := c.GasPrice(ctx)
	return price.Wei(), err
}
