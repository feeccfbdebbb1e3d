package sim

import (
	"context"
	"fmt"

	"github.com/farthing402/farthing/clearing"
)

// followBack is how many blocks of a stream are compared with the chain to find where a reorganisation began.
const followBack = 1024

// Follow brings one stream of a house to the block that has depth blocks on top of it, unwinding first what a
// reorganisation took away. As the real follower does, it hands over the blocks that have events, the first one and the
// newest. While the chain is shorter than what was applied, and otherwise the same, nothing is unwound.
func Follow(ctx context.Context, h *clearing.House, stream clearing.Stream, c *Chain, depth uint64) error {
	tips, err := h.Tips(ctx, stream, followBack)
	if err != nil {
		return err
	}
	c.mu.Lock()
	blocks := c.blocks
	c.mu.Unlock()

	next := uint64(1)
	for i, tip := range tips {
		if tip.Number >= uint64(len(blocks)) || blocks[tip.Number].Hash != tip.Hash {
			continue
		}
		switch {
		case replaced(tips[:i], blocks):
			if err := h.Unwind(ctx, stream, tip.Number); err != nil {
				return err
			}
		case i > 0:
			return nil
		}
		next = tip.Number + 1
		break
	}
	if len(tips) > 0 && next == 1 {
		return fmt.Errorf("follow %s: no block that was applied is in the chain any more", stream)
	}
	head := uint64(len(blocks)) - 1
	if head < depth {
		return nil
	}
	for _, b := range blocks[min(next, head-depth+1) : head-depth+1] {
		if len(b.events) == 0 && b.Number != head-depth && b.Number != 1 {
			continue
		}
		if err := h.Apply(ctx, stream, b.Block, b.events); err != nil {
			return err
		}
	}
	return nil
}

// replaced reports whether one of the blocks that were applied has given way to another.
func replaced(applied []clearing.Block, blocks []*block) bool {
	for _, b := range applied {
		if b.Number < uint64(len(blocks)) && blocks[b.Number].Hash != b.Hash {
			return true
		}
	}
	return false
}
