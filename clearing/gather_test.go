package clearing

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// blocking returns a gather whose runs wait for a word on the channel, and record what they ran.
func blocking(most int) (g *gather[int], proceed chan struct{}, runs *[][]int) {
	proceed, runs = make(chan struct{}), new([][]int)
	var mu sync.Mutex
	g = &gather[int]{max: most, run: func(_ context.Context, items []int) {
		<-proceed
		mu.Lock()
		*runs = append(*runs, slices.Clone(items))
		mu.Unlock()
	}}
	return g, proceed, runs
}

// Whoever comes while a group runs goes with the next one, in the order of arrival, up to the most that one may have.
func TestGatherGroupsWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, proceed, runs := blocking(4)
		var wg sync.WaitGroup
		for _, items := range [][]int{{1}, {2, 3}, {4}, {5, 6}, {7, 8, 9, 10}, {11}} {
			wg.Go(func() {
				if err := g.do(t.Context(), items); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(proceed)
		wg.Wait()
		want := [][]int{{1}, {2, 3, 4}, {5, 6}, {7, 8, 9, 10}, {11}}
		if len(*runs) != len(want) {
			t.Fatalf("runs %v, want %v", *runs, want)
		}
		for i := range want {
			if !slices.Equal((*runs)[i], want[i]) {
				t.Errorf("runs %v, want %v", *runs, want)
			}
		}
		if g.running || len(g.queue) != 0 {
			t.Error("somebody is said to run")
		}
	})
}

// A caller that goes away says truly what happened, and leaves nobody behind.
func TestGatherCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, proceed, runs := blocking(2)
		type caller struct {
			cancel context.CancelFunc
			err    chan error
		}
		start := func(items ...int) caller {
			ctx, cancel := context.WithCancel(t.Context())
			c := caller{cancel, make(chan error, 1)}
			go func() { c.err <- g.do(ctx, items) }()
			synctest.Wait()
			return c
		}
		leader := start(1)
		queued, alsoQueued := start(2), start(3)
		queued.cancel()
		if err := <-queued.err; !errors.Is(err, ErrNotAdmitted) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled in the queue: %v", err)
		}
		leader.cancel() // a leader sees its run through
		synctest.Wait()
		proceed <- struct{}{}
		if err := <-leader.err; err != nil {
			t.Errorf("leader: %v", err)
		}
		synctest.Wait() // the other one leads now
		follower, second := start(4), start(5)
		proceed <- struct{}{}
		if err := <-alsoQueued.err; err != nil {
			t.Error(err)
		}
		synctest.Wait() // 4 leads, 5 is in its group
		second.cancel()
		if err := <-second.err; !errors.Is(err, ErrUnfinished) {
			t.Errorf("cancelled while running: %v", err)
		}
		proceed <- struct{}{}
		if err := <-follower.err; err != nil {
			t.Error(err)
		}
		if want := [][]int{{1}, {3}, {4, 5}}; len(*runs) != 3 || !slices.Equal((*runs)[2], want[2]) {
			t.Errorf("runs %v, want %v", *runs, want)
		}
		if g.running || len(g.queue) != 0 {
			t.Error("somebody is said to run")
		}
	})
}

// A run that panics does not hang those who wait.
func TestGatherPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		g := &gather[int]{max: 8}
		g.run = func(_ context.Context, items []int) {
			<-proceed
			if items[0] == 2 {
				panic("broken")
			}
		}
		var wg sync.WaitGroup
		for i := 1; i <= 4; i++ {
			wg.Go(func() {
				defer func() { _ = recover() }()
				_ = g.do(t.Context(), []int{i})
			})
			synctest.Wait()
		}
		close(proceed)
		wg.Wait()
		if err := g.do(t.Context(), []int{5}); err != nil {
			t.Error(err)
		}
	})
}

// A request whose caller has gone before it starts is not admitted, and says so.
func TestAdmitCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := w.sign(0, 1, 10, start)
	r := w.Admit(ctx, []Request{{Signed: s}}, at(start))[0]
	if !errors.Is(r.Err, ErrNotAdmitted) || !errors.Is(r.Err, context.Canceled) || r.Digest.IsZero() {
		t.Errorf("%+v", r)
	}
	if a := w.account(0); !a.Exposure().IsZero() {
		t.Errorf("exposure %s", a.Exposure())
	}
	if r := w.admitOne(s, start); r.Err != nil || r.Replayed {
		t.Errorf("again: %+v", r)
	}
}

// sides is a book that wants three groups of admissions at once.
type sides struct{ *Memory }

func (sides) SideBySide() int { return 3 }

// A call whose payers are in several groups is answered in its order, and each payer's guarantees are decided in theirs.
func TestAdmissionsOfSeveralPayersSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Book, c.BatchMax = sides{c.Book.(*Memory)}, 4 })
	v := verifier(t)
	const payers, each, covered = 6, 10, 7
	var reqs []Request
	for i := range payers {
		w.deposit(i, covered)
	}
	for range each {
		for i := range payers {
			reqs = append(reqs, Request{Signed: w.sign(i, 7, 1, start), Batch: true})
		}
	}
	for n, r := range w.Admit(t.Context(), reqs, at(start)) {
		round := n / payers
		if admitted := r.Err == nil; admitted != (round < covered) || !admitted && !errors.Is(r.Err, ErrExposure) {
			t.Errorf("round %d of payer %d: %v", round, n%payers, r.Err)
		}
		if want := reqs[n].Signed.Claims.Digest(deployment.ClaimsSeparator()); r.Digest != want {
			t.Errorf("result %d is that of another request", n)
		}
		if r.Err == nil {
			if _, err := v.Verify(r.Certificate, reqs[n].Signed.Claims); err != nil {
				t.Errorf("certificate %d: %v", n, err)
			}
		}
	}
}
