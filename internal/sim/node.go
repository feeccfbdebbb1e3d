package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Node is a [Chain] as those see it who ask a node: it has the methods of evm/chain's client that a gas desk, a facilitator
// and a verifier use.
type Node struct{ *Chain }

// Node returns the chain as a node shows it.
func (c *Chain) Node() Node { return Node{c} }

// ChainID returns the network's id.
func (n Node) ChainID() uint64 { return n.deployment.ChainID }

func (b *block) ref() evm.BlockRef {
	return evm.BlockRef{Number: b.Number, Hash: b.Hash, Parent: b.parent, Time: b.Time}
}

// Head returns the newest block.
func (n Node) Head(context.Context) (evm.BlockRef, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.head().ref(), nil
}

// Block returns the block of a number.
func (n Node) Block(_ context.Context, number uint64) (evm.BlockRef, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if number >= uint64(len(n.blocks)) {
		return evm.BlockRef{}, fmt.Errorf("block %d: there is none", number)
	}
	return n.blocks[number].ref(), nil
}

// Code returns something for an account that is a contract.
func (n Node) Code(_ context.Context, account evm.Address) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.there(account) {
		return []byte{0xfe}, nil
	}
	return nil, nil
}

// Simulate runs a call on the newest block. With less gas than it needs it is refused, as a whole.
func (n Node) Simulate(_ context.Context, call evm.Call) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if call.GasLimit != 0 && call.GasLimit < gasOf(call.Data) {
		return nil, &Refusal{}
	}
	x := execution{Chain: n.Chain, state: n.head().state.clone(), now: n.head().Time, from: call.From}
	return x.invoke(call.From, call.To, call.Data)
}

// Read runs a call on the newest block.
func (n Node) Read(ctx context.Context, from, to evm.Address, data []byte) ([]byte, error) {
	return n.Simulate(ctx, evm.Call{From: from, To: to, Data: data})
}

// gasEach is what a call costs, and what each call that Multicall3 makes costs besides.
const gasEach = 60_000

func gasOf(data []byte) uint64 {
	if len(data) > 4 && [4]byte(data) == selAggregate {
		if _, n, ok := evm.ABI(data[4:]).List(0); ok {
			return gasEach * uint64(n+1)
		}
	}
	return gasEach
}

// Estimate returns the gas that a call needs.
func (n Node) Estimate(ctx context.Context, call evm.Call) (uint64, error) {
	_, err := n.Read(ctx, call.From, call.To, call.Data)
	return gasOf(call.Data), err
}

// Receipt returns a transaction that a block holds, or nil.
func (n Node) Receipt(_ context.Context, tx evm.Hash) (*evm.TxReceipt, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.receiptOf(tx), nil
}

func (n Node) receiptOf(hash evm.Hash) *evm.TxReceipt {
	b, ok := n.receipt(hash)
	if !ok {
		return nil
	}
	r := &evm.TxReceipt{CallReceipt: evm.CallReceipt{
		TxHash: hash, BlockNumber: b.Number, BlockHash: b.Hash, GasUsed: gasEach, FeeWei: 1, OK: b.outcomes[hash] == nil,
	}}
	for _, tx := range b.txs {
		if tx.Hash == hash {
			r.From, r.To, r.GasUsed = tx.From, tx.op.Account, gasOf(tx.op.Data)
		}
	}
	for _, l := range b.logs {
		if l.TxHash == hash {
			r.Logs = append(r.Logs, l)
		}
	}
	return r
}

// Logs returns a contract's logs whose topics begin with those given, where a zero topic stands for any.
func (n Node) Logs(_ context.Context, contract evm.Address, topics []evm.Hash, first, last uint64) (found []evm.Log, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fits := func(l evm.Log) bool {
		if l.Address != contract || len(l.Topics) < len(topics) {
			return false
		}
		for i, t := range topics {
			if !t.IsZero() && t != l.Topics[i] {
				return false
			}
		}
		return true
	}
	for i := first; i <= last && i < uint64(len(n.blocks)); i++ {
		for _, l := range n.blocks[i].logs {
			if fits(l) {
				found = append(found, l)
			}
		}
	}
	return found, nil
}

// Input returns the data of a transaction.
func (n Node) Input(_ context.Context, tx evm.Hash) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b, ok := n.receipt(tx); ok {
		for _, t := range b.txs {
			if t.Hash == tx {
				return slices.Clone(t.op.Data), nil
			}
		}
	}
	return nil, fmt.Errorf("transaction %s: no block has it", tx.Short())
}

// Balance returns what an account has of the native coin: as much as it needs.
func (n Node) Balance(context.Context, evm.Address) (money.Amount, error) {
	return money.Units(1_000_000_000_000_000_000), nil
}

// FeeNow returns what a unit of gas costs.
func (n Node) FeeNow(context.Context) (uint64, error) { return 1, nil }

// Relay takes somebody else's signed transaction into the pool.
func (n Node) Relay(_ context.Context, raw []byte) error {
	t, err := evm.ParseTransaction(raw)
	if err != nil {
		return err
	}
	from, err := t.Sender()
	if err != nil {
		return err
	}
	n.Resend(Tx{Hash: t.Hash, From: from, op: op{Kind: opCall, Account: t.To, Data: t.Data}, laned: true, nonce: t.Nonce})
	return nil
}

// wire is a lane's transaction in the bytes that its outbox keeps.
type wire struct {
	From, To evm.Address
	Data     []byte
	Nonce    uint64
	Tip      uint64 // tells attempts of one call apart
}

func (w wire) encode() ([]byte, evm.Hash) {
	b, _ := json.Marshal(w) // numbers and bytes: cannot fail
	return b, evm.Keccak256([]byte("transaction"), b)
}

var errWire = errors.New("not a transaction of this chain")

func (c *Chain) send(raw []byte) error {
	var w wire
	if err := json.Unmarshal(raw, &w); err != nil {
		return fmt.Errorf("%w: %w", errWire, err)
	}
	_, hash := w.encode()
	c.Resend(Tx{Hash: hash, From: w.From, op: op{Kind: opCall, Account: w.To, Data: w.Data}, laned: true, nonce: w.Nonce})
	return nil
}

// nonceOf returns an account's next nonce after the newest block.
func (c *Chain) nonceOf(account evm.Address) uint64 { return c.at(evm.Hash{}).nonces[account] }
