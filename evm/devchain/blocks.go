package devchain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/miner"
)

// Fate says what becomes of the transactions of blocks that a reorganisation drops.
type Fate int

const (
	// Requeue puts them back into the node's pool, as a public network would: a later block holds them again.
	Requeue Fate = iota
	// Include puts them into the first block of the new branch, in their old order.
	Include
	// Forget removes them, and everything else that waits, from the pool: the node no longer knows them.
	Forget
)

// flushEvery is how many empty blocks may pass before the state is written to disk again: at most these are lost when
// the process is killed.
const flushEvery = 16

var errTicking = errors.New("the chain makes its own blocks: start it with Manual")

// Mine makes n blocks with what waits in the pool, each dated one second after its parent. Only for manual chains.
func (c *Chain) Mine(ctx context.Context, n int) error {
	if !c.manual {
		return fmt.Errorf("mine: %w", errTicking)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		parent := c.head()
		at := parent.Time + 1 + uint64(c.advance/time.Second)
		if err := c.extend(ctx, parent, at); err != nil {
			return fmt.Errorf("mine block %d: %w", parent.Number.Uint64()+1, err)
		}
		c.advance = 0
	}
	return nil
}

// AdvanceTime dates the next block d later than it would be, in whole seconds. Only for manual chains.
func (c *Chain) AdvanceTime(d time.Duration) error {
	if !c.manual {
		return fmt.Errorf("advance time: %w", errTicking)
	}
	if d < 0 {
		return fmt.Errorf("advance time by %v: time does not go back", d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance += d
	return nil
}

// Time returns the timestamp of the newest block.
func (c *Chain) Time() time.Time { return time.Unix(int64(c.head().Time), 0).UTC() }

// Height returns the number of the newest block.
func (c *Chain) Height() uint64 { return c.head().Number.Uint64() }

// Reorg drops the newest depth blocks and makes a branch of depth + 1 other blocks in their place; fate says where the
// dropped transactions go. The depth is less than [FinalizedDepth]. Only for manual chains.
func (c *Chain) Reorg(ctx context.Context, depth int, fate Fate) error {
	if !c.manual {
		return fmt.Errorf("reorg: %w", errTicking)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.reorg(ctx, depth, fate); err != nil {
		return fmt.Errorf("reorg of %d blocks: %w", depth, err)
	}
	return nil
}

func (c *Chain) reorg(ctx context.Context, depth int, fate Fate) error {
	blockchain, head := c.backend.BlockChain(), c.head().Number.Uint64()
	if depth < 1 || depth >= FinalizedDepth || uint64(depth) > head {
		return fmt.Errorf("the chain has %d blocks, of which up to %d may go", head, FinalizedDepth-1)
	}
	var dropped types.Transactions
	for n := head - uint64(depth) + 1; n <= head; n++ {
		dropped = append(dropped, blockchain.GetBlockByNumber(n).Transactions()...)
	}
	if fate != Include {
		dropped = nil
	}
	parent := blockchain.GetHeaderByNumber(head - uint64(depth))
	for range depth + 1 {
		if err := ctx.Err(); err != nil {
			return err
		}
		block, err := c.build(parent, parent.Time+1, dropped, len(dropped) == 0)
		if err != nil {
			return err
		}
		if _, err := blockchain.InsertBlockWithoutSetHead(ctx, block, false); err != nil {
			return err
		}
		parent, dropped = block.Header(), nil
	}
	if err := c.adopt(blockchain.GetBlockByHash(parent.Hash())); err != nil {
		return err
	}
	if err := c.backend.TxPool().Sync(); err != nil {
		return err
	}
	if fate == Forget {
		c.backend.TxPool().Clear()
	}
	return nil
}

// run makes a block at the beginning of every period of the wall clock until ctx ends.
func (c *Chain) run(ctx context.Context, period time.Duration) {
	for {
		now := time.Now()
		wait := time.NewTimer(now.Truncate(period).Add(period).Sub(now))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		if err := c.tick(time.Now()); err != nil {
			c.log.Error("devchain made no block", "error", err)
		}
	}
}

// tick makes the block of the present second, unless the chain already has it: after a restart within the second, or
// when the wall clock was set back.
func (c *Chain) tick(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	parent := c.head()
	if at := uint64(now.Unix()); at > parent.Time {
		return c.extend(context.Background(), parent, at)
	}
	return nil
}

// extend makes one block on top of the head from the pool.
func (c *Chain) extend(ctx context.Context, parent *types.Header, at uint64) error {
	// The pool follows the head on its own goroutine: without waiting for it, a block could miss what it should hold.
	if err := c.backend.TxPool().Sync(); err != nil {
		return err
	}
	block, err := c.build(parent, at, nil, false)
	if err != nil {
		return err
	}
	if _, err := c.backend.BlockChain().InsertBlockWithoutSetHead(ctx, block, false); err != nil {
		return err
	}
	if err := c.adopt(block); err != nil {
		return err
	}
	if c.manual {
		return c.backend.TxPool().Sync() // whoever asks for a pending nonce next is answered from this block on
	}
	return nil
}

// build makes a block with the given transactions, or none if empty is set, or else what waits in the pool.
func (c *Chain) build(parent *types.Header, at uint64, txs types.Transactions, empty bool) (*types.Block, error) {
	c.branch++
	var random common.Hash
	if c.manual {
		random[0], random[30], random[31] = 1, byte(c.branch>>8), byte(c.branch) // repeatable, and never the same twice
	} else if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	block, _, err := c.backend.Miner().BuildTestingPayload(&miner.BuildPayloadArgs{
		Parent:      parent.Hash(),
		Timestamp:   at,
		Random:      random,
		Withdrawals: types.Withdrawals{},
		BeaconRoot:  &common.Hash{},
	}, txs, empty, nil)
	return block, err
}

// adopt makes an inserted block the head and writes its state to disk when that is due.
func (c *Chain) adopt(block *types.Block) error {
	blockchain := c.backend.BlockChain()
	if _, err := blockchain.SetCanonical(block); err != nil {
		return err
	}
	number := block.NumberU64()
	if number > FinalizedDepth {
		old := blockchain.GetHeaderByNumber(number - FinalizedDepth)
		blockchain.SetSafe(old)
		blockchain.SetFinalized(old)
	}
	if c.keep && (len(block.Transactions()) > 0 || number%flushEvery == 0) {
		return c.flush(block)
	}
	return nil
}

// flush writes a block's state to disk, and everything before it: pebble keeps the end of its log in the process until
// somebody asks for a sync.
func (c *Chain) flush(block *types.Block) error {
	if err := c.backend.BlockChain().TrieDB().Commit(block.Root(), false); err != nil {
		return err
	}
	return c.backend.ChainDb().SyncKeyValue()
}

func (c *Chain) head() *types.Header { return c.backend.BlockChain().CurrentBlock() }
