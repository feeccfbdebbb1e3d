package chain

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/farthing402/farthing/evm"
)

// followBlocksMax is how many blocks one step looks at. A hundred headers are one round trip of 0.2 MB, and every
// provider answers a log query over so few.
const followBlocksMax = 100

// Sink takes what a follower reads. It keeps the cursor itself, in the same transaction as what a block's logs change,
// so that a crash never separates the two.
type Sink interface {
	// Cursor returns the newest blocks that were applied and not unwound, the newest first; none before the first. The more
	// it remembers, the deeper a reorganisation it survives: 256 are plenty.
	Cursor(ctx context.Context) ([]evm.BlockRef, error)

	// Apply applies a block's logs, which may be none, and moves the cursor to it. Blocks between the cursor and this one
	// held no logs. A block is applied entirely or not at all.
	Apply(ctx context.Context, block evm.BlockRef, logs []evm.Log) error

	// Unwind undoes every applied block with a number above to, and takes them off the cursor.
	Unwind(ctx context.Context, to uint64) error
}

// Follower hands the logs of contracts to a sink, block by block, and has the sink unwind what a reorganisation dropped.
// One goroutine at a time may use it; everything it must remember is the sink's.
type Follower struct {
	Client    *Client
	Addresses []evm.Address // whose logs; at least one
	Start     uint64        // the first block that can hold logs; at least 1
	Depth     uint64        // blocks on top of a block before it is applied; 0 applies the head at once
	Sink      Sink
}

// Step makes the next move: unwinds, or applies up to a hundred blocks. It reports whether there may be more to do at once.
//
// [ErrBehind], [ErrInconsistent] and [ErrNotFound] pass by themselves when the node recovers. [ErrTooDeep] does not: the chain has
// replaced every block that the sink remembers.
func (f *Follower) Step(ctx context.Context) (progress bool, err error) {
	if progress, err = f.step(ctx); err != nil {
		return false, fmt.Errorf("follow logs: %w", err)
	}
	return progress, nil
}

func (f *Follower) step(ctx context.Context) (bool, error) {
	cursor, err := f.Sink.Cursor(ctx)
	if err != nil {
		return false, err
	}
	head, err := f.Client.Head(ctx)
	if err != nil {
		return false, err
	}
	if unwound, err := f.unwind(ctx, cursor, head); unwound || err != nil {
		return unwound, err
	}
	first := max(f.Start, 1)
	if len(cursor) > 0 {
		first = cursor[0].Number + 1
	}
	if head.Number < f.Depth || head.Number-f.Depth < first {
		return false, nil
	}
	last := min(head.Number-f.Depth, first+followBlocksMax-1)
	if err := f.apply(ctx, cursor, first, last); err != nil {
		return false, err
	}
	return last < head.Number-f.Depth, nil
}

// unwind compares the applied blocks with the node's, the newest first, and unwinds to the newest that is still
// canonical.
func (f *Follower) unwind(ctx context.Context, cursor []evm.BlockRef, head evm.BlockRef) (bool, error) {
	if len(cursor) == 0 {
		return false, nil
	}
	replaced := false
	for _, applied := range cursor {
		if applied.Number > head.Number {
			continue // the node cannot say anything about it
		}
		block, err := f.Client.Block(ctx, applied.Number)
		switch {
		case errors.Is(err, ErrNotFound):
			return false, fmt.Errorf("block %d: %w: the head was block %d", applied.Number, ErrInconsistent, head.Number)
		case err != nil:
			return false, err
		case block.Hash != applied.Hash:
			replaced = true
			continue
		case replaced:
			return true, f.Sink.Unwind(ctx, applied.Number)
		case applied != cursor[0]:
			return false, fmt.Errorf("%w: its head is block %d, block %d was applied", ErrBehind, head.Number, cursor[0].Number)
		}
		return false, nil
	}
	oldest, start := cursor[len(cursor)-1].Number, max(f.Start, 1)
	switch {
	case !replaced:
		return false, fmt.Errorf("%w: its head is block %d, block %d was applied", ErrBehind, head.Number, cursor[0].Number)
	case oldest == start: // the very first block was replaced, and nothing lies below it
		return true, f.Sink.Unwind(ctx, start-1)
	}
	return false, fmt.Errorf("%w: block %d, the oldest of %d, is not in the chain any more", ErrTooDeep, oldest, len(cursor))
}

// apply hands over the blocks from first to last that hold logs, and the last one in any case.
func (f *Follower) apply(ctx context.Context, cursor []evm.BlockRef, first, last uint64) error {
	headers, err := f.Client.headers(ctx, first, last)
	if err != nil {
		return err
	}
	if len(cursor) > 0 && headers[0].Parent != cursor[0].Hash {
		return fmt.Errorf("block %d: %w: it does not follow what was applied", first, ErrInconsistent)
	}
	// Which blocks to ask about is found in two ways, since either may fail alone: a query over a range can be answered in
	// the middle of a reorganisation, and some networks do not fill the bloom filter.
	listed := make(map[evm.Hash]bool)
	if last > first {
		if listed, err = f.Client.blocksWithLogs(ctx, first, last, f.Addresses); err != nil {
			return err
		}
	}
	for i, h := range headers {
		// The newest moves the cursor. The very first shows later that nothing lies below the oldest block remembered.
		mark := i == len(headers)-1 || i == 0 && len(cursor) == 0
		var logs []evm.Log
		if mark || listed[h.Hash] || f.mayHold(h) {
			if logs, err = f.Client.logsOf(ctx, h.ref(), f.Addresses); err != nil {
				return err
			}
		}
		if mark || len(logs) > 0 {
			if err := f.Sink.Apply(ctx, h.ref(), logs); err != nil {
				return fmt.Errorf("apply block %d: %w", uint64(h.Number), err)
			}
		}
	}
	return nil
}

// mayHold reports whether a block's bloom filter admits logs of the addresses.
func (f *Follower) mayHold(h header) bool {
	if len(h.Bloom) != types.BloomByteLength {
		return true
	}
	bloom := types.BytesToBloom(h.Bloom)
	for _, a := range f.Addresses {
		if types.BloomLookup(bloom, common.Address(a)) {
			return true
		}
	}
	return false
}
