package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// ErrRefused is the error of a transaction that the contracts' rules refuse; what it wraps says why.
var ErrRefused = errors.New("refused by the contract")

// Chain is a chain of blocks with one vault and one clearing house on it. It implements [clearing.Chain] with an encoding
// of its own. Make one with [New].
type Chain struct {
	deployment guarantee.Deployment
	operator   evm.Address
	delay      uint64                        // W, seconds
	tokens     map[evm.Address]network.Token // guarded by mu; that have methods of their own

	mu     sync.Mutex
	blocks []*block            // guarded by mu; canonical, block i has number i
	known  map[evm.Hash]*block // guarded by mu; also those that are canonical no more
	mined  map[evm.Hash]*block // guarded by mu; by transaction, the newest block that held it
	pool   []Tx                // guarded by mu; not mined, in order of arrival
	count  uint64              // guarded by mu; of everything that needs a hash of its own
}

// Tx is a transaction, to be mined or mined.
type Tx struct {
	Hash evm.Hash
	From evm.Address
	op   op
	// Transactions of the operator and of lanes have a nonce, so that one which is sent twice takes effect once. Others are
	// sent once.
	laned bool
	nonce uint64
}

// block is a block and everything as it was after it.
type block struct {
	clearing.Block
	parent   evm.Hash
	txs      []Tx
	outcomes map[evm.Hash]error
	events   []clearing.Event
	logs     []evm.Log // of tokens
	state    *state
}

// New makes a chain whose first block sets schedules, each with effect from its From on. withdrawalDelay is W in seconds.
func New(d guarantee.Deployment, operator evm.Address, withdrawalDelay, now uint64, schedules ...clearing.Schedule) (*Chain, error) {
	c := &Chain{
		deployment: d, operator: operator, delay: withdrawalDelay,
		known: make(map[evm.Hash]*block), mined: make(map[evm.Hash]*block), tokens: make(map[evm.Address]network.Token),
	}
	c.append(&block{Block: clearing.Block{Time: now - 1}, state: newState()})
	for _, s := range schedules {
		c.submit(operator, op{Kind: opSetSchedule, Asset: s.Asset, Schedule: &s})
	}
	b := c.Mine(now, nil)
	for _, err := range c.known[b.Hash].outcomes {
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Operator returns the account that posts cycles.
func (c *Chain) Operator() evm.Address { return c.operator }

// Deployment names the contracts.
func (c *Chain) Deployment() guarantee.Deployment { return c.deployment }

// Head returns the newest block.
func (c *Chain) Head() clearing.Block {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.head().Block
}

func (c *Chain) head() *block { return c.blocks[len(c.blocks)-1] }

func (c *Chain) newHash(what string) evm.Hash {
	c.count++
	return evm.Keccak256([]byte(what), c.deployment.Vault[:], binary.BigEndian.AppendUint64(nil, c.count))
}

func (c *Chain) append(b *block) {
	b.Number = uint64(len(c.blocks))
	b.Hash = c.newHash("block")
	if len(c.blocks) > 0 {
		b.parent = c.head().Hash
	}
	c.blocks = append(c.blocks, b)
	c.known[b.Hash] = b
}

// Mine adds a block at a time, or at the least later one than its parent's, with the transactions of the pool that take
// accepts; nil accepts all. Transactions that a rule refuses are in the block too, and change nothing.
func (c *Chain) Mine(now uint64, take func(Tx) bool) clearing.Block { return c.mine(now, 1, take) }

// MineAt is [Chain.Mine] on a network that makes several blocks in a second: a block may be of its parent's time.
func (c *Chain) MineAt(now uint64, take func(Tx) bool) clearing.Block { return c.mine(now, 0, take) }

func (c *Chain) mine(now, apart uint64, take func(Tx) bool) clearing.Block {
	c.mu.Lock()
	defer c.mu.Unlock()
	parent := c.head()
	b := &block{Block: clearing.Block{Time: max(now, parent.Time+apart)}, outcomes: make(map[evm.Hash]error), state: parent.state}
	var left []Tx
	for _, tx := range c.pool {
		if take != nil && !take(tx) || tx.laned && tx.nonce > b.state.nonces[tx.From] {
			left = append(left, tx)
			continue
		}
		if tx.laned && tx.nonce < b.state.nonces[tx.From] {
			continue // sent twice; or its nonce was spent by another
		}
		x, err := c.run(b.state, b.Time, tx)
		b.txs = append(b.txs, tx)
		b.outcomes[tx.Hash] = err
		b.state = x.state
		for _, e := range x.events {
			e.TxHash, e.LogIndex = tx.Hash, uint64(len(b.events))
			b.events = append(b.events, e)
		}
		for _, l := range x.logs {
			l.TxHash, l.Index = tx.Hash, uint(len(b.logs))
			b.logs = append(b.logs, l)
		}
		c.mined[tx.Hash] = b
	}
	c.pool = left
	c.append(b)
	return b.Block
}

// run executes a transaction on a copy of a state. One that is refused spends its nonce and nothing else.
func (c *Chain) run(s *state, now uint64, tx Tx) (execution, error) {
	x := execution{Chain: c, state: s.clone(), now: now, from: tx.From, tx: tx.Hash}
	err := x.do(tx.op)
	if err != nil {
		x.state, x.events, x.logs = s.clone(), nil, nil
		err = fmt.Errorf("%s: %w: %w", tx.op.Kind, ErrRefused, err)
	}
	if tx.laned {
		x.nonces[tx.From] = tx.nonce + 1
	}
	return x, err
}

// Drop takes the newest blocks away, never the first two, and returns their transactions, the oldest first: they are
// nowhere now, and [Chain.Resend] brings back those that are to be mined again.
func (c *Chain) Drop(depth int) []Tx {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := max(2, len(c.blocks)-depth)
	var txs []Tx
	for _, b := range c.blocks[keep:] {
		txs = append(txs, b.txs...)
	}
	c.blocks = slices.Clip(c.blocks[:keep])
	return txs
}

// Resend puts a transaction into the pool, unless it is there or mined.
func (c *Chain) Resend(tx Tx) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resend(tx)
}

func (c *Chain) resend(tx Tx) {
	same := func(other Tx) bool { return other.Hash == tx.Hash }
	if _, ok := c.receipt(tx.Hash); !ok && !slices.ContainsFunc(c.pool, same) {
		c.pool = append(c.pool, tx)
	}
}

// Forget takes the transactions out of the pool that lost accepts.
func (c *Chain) Forget(lost func(Tx) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pool = slices.DeleteFunc(c.pool, lost)
}

// submit puts a new transaction of a participant into the pool.
func (c *Chain) submit(from evm.Address, o op) evm.Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	tx := Tx{Hash: c.newHash("transaction"), From: from, op: o}
	c.pool = append(c.pool, tx)
	return tx.Hash
}

// receipt returns the canonical block that holds a transaction.
func (c *Chain) receipt(hash evm.Hash) (*block, bool) {
	b := c.mined[hash]
	if b == nil || b.Number >= uint64(len(c.blocks)) || c.blocks[b.Number] != b {
		return nil, false
	}
	return b, true
}

// Outcome says whether a transaction is mined in the present chain, and why it was refused if it was.
func (c *Chain) Outcome(hash evm.Hash) (mined bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.receipt(hash)
	if !ok {
		return false, nil
	}
	return true, b.outcomes[hash]
}

// Waiting returns how many transactions wait to be mined.
func (c *Chain) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pool)
}

// Wallet returns what an owner has of an asset outside the vault.
func (c *Chain) Wallet(owner, asset evm.Address) money.Amount {
	return c.at(evm.Hash{}).wallets[ownerAsset{owner, asset}]
}

// Collateral returns what an owner has in the vault at the newest block.
func (c *Chain) Collateral(owner, asset evm.Address) money.Amount {
	return c.at(evm.Hash{}).accounts[ownerAsset{owner, asset}].collateral
}

// at returns the state after a block, canonical or not; the zero hash is the head. A state is not changed any more once
// its block is there. It is nil for a hash that is no block's.
func (c *Chain) at(hash evm.Hash) *state {
	c.mu.Lock()
	defer c.mu.Unlock()
	if hash.IsZero() {
		return c.head().state
	}
	if b := c.known[hash]; b != nil {
		return b.state
	}
	return nil
}

// Check proves the newest state against the contracts' invariants.
func (c *Chain) Check() error { return c.at(evm.Hash{}).check() }
