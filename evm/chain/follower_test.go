package chain

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
)

// ledgerSink remembers blocks and the logs that it was given with them, and refuses what breaks the follower's promises.
type ledgerSink struct {
	t      *testing.T
	blocks []evm.BlockRef // oldest first
	logs   [][]evm.Log
	keep   int // cursor length; 0 means all
	failAt uint64
}

func (s *ledgerSink) Cursor(context.Context) ([]evm.BlockRef, error) {
	cursor := slices.Clone(s.blocks)
	slices.Reverse(cursor)
	if s.keep > 0 && len(cursor) > s.keep {
		cursor = cursor[:s.keep]
	}
	return cursor, nil
}

func (s *ledgerSink) Apply(_ context.Context, block evm.BlockRef, logs []evm.Log) error {
	if block.Number == s.failAt {
		return errors.New("the disk is full")
	}
	if n := len(s.blocks); n > 0 && block.Number <= s.blocks[n-1].Number {
		s.t.Errorf("block %d after block %d", block.Number, s.blocks[n-1].Number)
	}
	s.blocks, s.logs = append(s.blocks, block), append(s.logs, logs)
	return nil
}

func (s *ledgerSink) Unwind(_ context.Context, to uint64) error {
	for len(s.blocks) > 0 && s.blocks[len(s.blocks)-1].Number > to {
		s.blocks, s.logs = s.blocks[:len(s.blocks)-1], s.logs[:len(s.logs)-1]
	}
	return nil
}

func (s *ledgerSink) all() (logs []evm.Log) {
	for _, l := range s.logs {
		logs = append(logs, l...)
	}
	return logs
}

func (w world) follower(depth uint64) (*Follower, *ledgerSink) {
	sink := &ledgerSink{t: w.T}
	return &Follower{Client: w.client, Addresses: []evm.Address{devchain.TestDollar}, Start: 1, Depth: depth, Sink: sink}, sink
}

// catchUp steps until there is nothing to do.
func (w world) catchUp(f *Follower) {
	w.Helper()
	for range 100 {
		progress, err := f.Step(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		if !progress {
			return
		}
	}
	w.Fatal("no end of progress")
}

// agrees fails unless the sink holds exactly the logs of the canonical chain.
func (w world) agrees(sink *ledgerSink, upTo uint64) {
	w.Helper()
	var want []evm.Log
	for n := uint64(1); n <= upTo; n++ {
		block, err := w.client.Block(w.Context(), n)
		if err != nil {
			w.Fatal(err)
		}
		logs, err := w.client.logsOf(w.Context(), block, []evm.Address{devchain.TestDollar})
		if err != nil {
			w.Fatal(err)
		}
		want = append(want, logs...)
	}
	got := sink.all()
	if !slices.EqualFunc(got, want, func(a, b evm.Log) bool { return a.TxHash == b.TxHash && a.Index == b.Index }) {
		w.Errorf("the sink holds %d logs, the chain %d up to block %d", len(got), len(want), upTo)
	}
	if n := len(sink.blocks); n > 0 && sink.blocks[n-1].Number != upTo {
		w.Errorf("the cursor is at block %d, want %d", sink.blocks[n-1].Number, upTo)
	}
}

func TestFollowerAppliesLogsAtItsDepth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f, sink := w.follower(2)
	w.catchUp(f) // an empty chain
	w.send(key(0), give(key(1).Address(), 5))
	mined := w.chain.Height()
	w.catchUp(f)
	if len(sink.all()) != 0 {
		t.Fatalf("a log of block %d was applied at height %d", mined, w.chain.Height())
	}
	w.mine(2)
	w.catchUp(f)
	if len(sink.all()) != 1 {
		t.Fatalf("%d logs at full depth, want 1", len(sink.all()))
	}
	w.agrees(sink, w.chain.Height()-2)
}

func TestFollowerCatchesUpOverManyBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mine(150)
	w.send(key(0), give(key(1).Address(), 1), give(key(1).Address(), 2))
	w.mine(300)
	w.send(key(0), give(key(1).Address(), 3))
	f, sink := w.follower(0)
	w.catchUp(f)
	w.agrees(sink, w.chain.Height())
	if len(sink.all()) != 3 || len(sink.blocks) > 10 {
		t.Errorf("%d logs in %d applied blocks", len(sink.all()), len(sink.blocks))
	}
}

func TestFollowerUnwindsReorganisations(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{1, 3, 20} {
		for _, fate := range []devchain.Fate{devchain.Requeue, devchain.Include, devchain.Forget} {
			w := newWorld(t)
			f, sink := w.follower(0)
			w.mine(3)
			w.send(key(0), give(key(1).Address(), 1))
			w.mine(4)
			w.catchUp(f)
			w.send(key(0), give(key(1).Address(), 2))
			w.mine(depth - 1)
			w.catchUp(f)
			w.agrees(sink, w.chain.Height())
			if len(sink.all()) != 2 {
				t.Fatalf("%d logs before the reorganisation", len(sink.all()))
			}
			w.reorg(min(depth, int(w.chain.Height())), fate)
			w.catchUp(f)
			w.agrees(sink, w.chain.Height())
			w.mine(2)
			w.catchUp(f)
			w.agrees(sink, w.chain.Height())
		}
	}
}

func TestFollowerSurvivesTheLossOfTheWholeChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f, sink := w.follower(0)
	w.send(key(0), give(key(1).Address(), 1))
	w.mine(3)
	w.catchUp(f)
	w.reorg(int(w.chain.Height()), devchain.Forget)
	w.catchUp(f)
	w.agrees(sink, w.chain.Height())
	if len(sink.all()) != 0 {
		t.Error("a log of a forgotten chain stays")
	}
}

// A node that lost its last blocks answers as if they had never been: first it is behind, then it has others.
func TestFollowerMeetsANodeThatLostBlocks(t *testing.T) {
	t.Parallel()
	dir, copied := t.TempDir(), t.TempDir()
	w := worldOf(t, devchain.Config{Dir: dir})
	f, sink := w.follower(0)
	w.mine(2)
	w.send(key(0), give(key(1).Address(), 1))
	w.catchUp(f)
	common := w.chain.Height()
	if err := w.chain.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}

	w = worldOf(t, devchain.Config{Dir: dir})
	f.Client = w.client
	for range 4 {
		w.send(key(0), give(key(1).Address(), 2))
		w.catchUp(f)
	}
	height := w.chain.Height()

	w = worldOf(t, devchain.Config{Dir: copied})
	f.Client = w.client
	if _, err := f.Step(t.Context()); !errors.Is(err, ErrBehind) {
		t.Fatalf("a node at block %d, with %d applied, gave %v", w.chain.Height(), height, err)
	}
	if n := len(sink.all()); n != 5 {
		t.Fatalf("%d logs while the node is behind, want all 5", n)
	}
	w.send(key(2), give(key(3).Address(), 7))
	w.catchUp(f)
	w.agrees(sink, w.chain.Height())
	if n := len(sink.all()); n != 2 || w.chain.Height() >= height {
		t.Errorf("%d logs at block %d of the other branch (common up to %d), want 2 before block %d", n, w.chain.Height(), common, height)
	}
}

func TestFollowerStopsWhereTheSinkForgot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f, sink := w.follower(0)
	for range 10 {
		w.mine(1)
		w.catchUp(f)
	}
	sink.keep = 3
	w.reorg(5, devchain.Requeue)
	if _, err := f.Step(t.Context()); !errors.Is(err, ErrTooDeep) {
		t.Fatalf("a reorganisation past the cursor gave %v", err)
	}
	if len(sink.blocks) != 10 {
		t.Error("something was unwound")
	}
}

func TestFollowerGoesOnAfterAFailedApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f, sink := w.follower(0)
	w.send(key(0), give(key(1).Address(), 1))
	w.mine(2)
	w.send(key(0), give(key(1).Address(), 2))
	sink.failAt = w.chain.Height()
	if _, err := f.Step(t.Context()); err == nil {
		t.Fatal("the failure was swallowed")
	}
	sink.failAt = 0
	w.catchUp(f)
	w.agrees(sink, w.chain.Height())
}
