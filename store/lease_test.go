package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOnlyOneIsAlone(t *testing.T) { onEach(t, testOnlyOneIsAlone) }

func testOnlyOneIsAlone(t *testing.T, db database) {
	name := db.name(t)
	a, b := reopen(t, name), reopen(t, name)
	ran, err := a.Alone(t.Context(), "sender", func(context.Context) error {
		for _, s := range []*Store{a, b} {
			if ran, err := s.Alone(t.Context(), "sender", func(context.Context) error { return nil }); ran || err != nil {
				t.Errorf("a second one: %v, %v", ran, err)
			}
			if ran, err := s.Alone(t.Context(), "other", func(context.Context) error { return nil }); !ran || err != nil {
				t.Errorf("under another name: %v, %v", ran, err)
			}
		}
		return nil
	})
	if !ran || err != nil {
		t.Errorf("the first one: %v, %v", ran, err)
	}
	if ran, err := b.Alone(t.Context(), "sender", func(context.Context) error { return nil }); !ran || err != nil {
		t.Errorf("afterwards: %v, %v", ran, err)
	}
}

// Of many that want to lead one does at a time, and each of them in the end.
func TestLeadersFollowEachOther(t *testing.T) { onEach(t, testLeadersFollowEachOther) }

func testLeadersFollowEachOther(t *testing.T, db database) {
	name := db.name(t)
	var leading, led atomic.Int32
	var wg sync.WaitGroup
	for range 3 {
		s := reopen(t, name)
		wg.Go(func() {
			if err := s.Lead(t.Context(), "close", time.Second, func(ctx context.Context) error {
				if leading.Add(1) != 1 {
					t.Error("two lead at once")
				}
				if err := s.write(ctx, func(*session) error { return nil }); err != nil {
					t.Error(err)
				}
				leading.Add(-1)
				led.Add(1)
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if led.Load() != 3 {
		t.Errorf("%d led", led.Load())
	}
	s := reopen(t, name)
	failed := errors.New("failed")
	if err := s.Lead(t.Context(), "close", time.Second, func(context.Context) error { return failed }); !errors.Is(err, failed) || errors.Is(err, ErrLost) {
		t.Errorf("%v, want %v", err, failed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_ = s.Lead(t.Context(), "close", time.Second, func(context.Context) error {
		cancel()
		if err := s.Lead(ctx, "close", time.Second, func(context.Context) error { t.Error("led twice"); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
		return nil
	})
}

// A leader that cannot renew its lease is told before anybody else can have it.
func TestALeaderThatLosesItsLeaseIsTold(t *testing.T) {
	t.Parallel()
	name := postgresServer.name(t)
	s, other := reopen(t, name), reopen(t, name)
	spoil := func(query string) {
		t.Helper()
		if err := other.write(t.Context(), func(s *session) error { return s.control(query) }); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Lead(t.Context(), "close", 2*time.Second, func(ctx context.Context) error {
		spoil("UPDATE lease SET holder = 'thief', until = until + 1000000 WHERE name = 'close'")
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), ErrLost) {
			t.Errorf("told %v", context.Cause(ctx))
		}
		return nil
	})
	if !errors.Is(err, ErrLost) {
		t.Errorf("%v, want %v", err, ErrLost)
	}
	// Nor does it take the row of whoever has it now.
	if ran, err := s.Alone(t.Context(), "close", func(context.Context) error { return nil }); ran || err != nil {
		t.Errorf("beside the thief: %v, %v", ran, err)
	}

	spoil("DELETE FROM lease")
	began := time.Now()
	err = s.Lead(t.Context(), "close", 2*time.Second, func(ctx context.Context) error {
		return other.write(t.Context(), func(o *session) error { // the row is locked, as if the database did not answer
			if _, err := o.exec("UPDATE lease SET until = until WHERE name = 'close'"); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		})
	})
	if took := time.Since(began); !errors.Is(err, ErrLost) || took > 2*time.Second {
		t.Errorf("%v after %v, want %v before the lease was over", err, took, ErrLost)
	}

	owner := reopen(t, name, Exclusive())
	spoil("UPDATE lease SET holder = 'thief' WHERE name = 'owner'")
	<-owner.owner.lost
	if err := owner.write(t.Context(), func(*session) error { return nil }); !errors.Is(err, ErrLost) {
		t.Errorf("an owner that lost its database wrote: %v", err)
	}
}
