package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// letters is a table to write to that has nothing to do with money.
func letters(t testing.TB, s *Store) {
	t.Helper()
	if err := s.write(t.Context(), func(s *session) error { return s.control("CREATE TABLE letter (name TEXT PRIMARY KEY)") }); err != nil {
		t.Fatal(err)
	}
}

func post(name string) func(*session) error {
	return func(s *session) error {
		_, err := s.exec("INSERT INTO letter VALUES (?)", name)
		return err
	}
}

func posted(t testing.TB, s *Store, name string) bool {
	t.Helper()
	var n int
	if err := s.read(context.Background(), func(s *session) error {
		_, err := s.one("SELECT count(*) FROM letter WHERE name = ?", []any{name}, &n)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// waitingIn returns how many writes wait for their leader.
func waitingIn(s *Store) int {
	g := s.writer.(*group)
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

// outcomes holds what became of writes that were made to share one transaction.
type outcomes map[string]error

// together makes writes run in one transaction: the first one of all leads alone and does not end before all others wait.
func together(t *testing.T, s *Store, ctxs map[string]context.Context, fns map[string]func(*session) error) outcomes {
	t.Helper()
	entered, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.write(t.Context(), func(*session) error { close(entered); <-leave; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-entered
	got := make(outcomes)
	var mu sync.Mutex
	names := make([]string, 0, len(fns))
	for name := range fns {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		ctx := t.Context()
		if c, ok := ctxs[name]; ok {
			ctx = c
		}
		wg.Go(func() {
			var err error
			func() {
				defer func() {
					if r := recover(); r != nil {
						err = fmt.Errorf("panic: %v", r)
					}
				}()
				err = s.write(ctx, fns[name])
			}()
			mu.Lock()
			got[name] = err
			mu.Unlock()
		})
		for waiting := 0; waiting <= i; { // they are let in one by one, so that the order is the names'
			runtime.Gosched()
			waiting = waitingIn(s)
		}
	}
	close(leave)
	wg.Wait()
	return got
}

func TestOneFailureInAGroupIsItsOwn(t *testing.T) {
	t.Parallel()
	s := sqliteFile.fresh(t)
	letters(t, s)
	refused := errors.New("refused")
	var sessions []*session
	got := together(t, s, nil, map[string]func(*session) error{
		"a fine": post("a"),
		"b fails": func(s *session) error {
			return errors.Join(post("b")(s), refused)
		},
		"c panics": func(s *session) error {
			_ = post("c")(s)
			panic("at the disco")
		},
		"d breaks a rule of the database": func(s *session) error { return errors.Join(post("d")(s), post("a")(s)) },
		"e recovers from breaking it": func(s *session) error {
			if err := post("a")(s); err == nil {
				return errors.New("a is not there")
			}
			return post("e")(s)
		},
		"f is no SQL": func(s *session) error { sessions = append(sessions, s); return s.control("FNORD") },
		"g fine":      post("g"),
	})
	for name, err := range got {
		switch name[0] {
		case 'a', 'e', 'g':
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case 'b':
			if !errors.Is(err, refused) {
				t.Errorf("%s: %v, want %v", name, err, refused)
			}
		case 'c':
			if err == nil || err.Error() != "panic: at the disco" {
				t.Errorf("%s: %v", name, err)
			}
		default:
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
	for name, want := range map[string]bool{"a": true, "b": false, "c": false, "d": false, "e": true, "g": true} {
		if posted(t, s, name) != want {
			t.Errorf("%s: %v, want %v", name, !want, want)
		}
	}
	if len(sessions) != 1 {
		t.Errorf("ran %d times", len(sessions))
	}
}

// When the commit itself fails, nobody may believe to have written.
func TestWhenTheCommitFailsAllFail(t *testing.T) {
	t.Parallel()
	s := sqliteFile.fresh(t)
	letters(t, s)
	if err := s.write(t.Context(), func(s *session) error {
		return s.control("CREATE TABLE reply (letter TEXT REFERENCES letter (name) DEFERRABLE INITIALLY DEFERRED)")
	}); err != nil {
		t.Fatal(err)
	}
	got := together(t, s, nil, map[string]func(*session) error{
		"a": post("a"),
		"b": func(s *session) error { return s.control("INSERT INTO reply VALUES ('nobody')") }, // refused by COMMIT
		"c": post("c"),
	})
	for name, err := range got {
		if err == nil || posted(t, s, name) {
			t.Errorf("%s: %v, posted: %v", name, err, posted(t, s, name))
		}
	}
	if err := s.write(t.Context(), post("a")); err != nil || !posted(t, s, "a") {
		t.Errorf("the next write: %v", err)
	}
}

// An error that ends the whole transaction takes the savepoints with it, and so everybody's work.
func TestWhenTheTransactionIsLostAllFail(t *testing.T) {
	t.Parallel()
	s := sqliteFile.fresh(t)
	letters(t, s)
	got := together(t, s, nil, map[string]func(*session) error{
		"a": post("a"),
		"b": func(s *session) error { return errors.Join(s.control("ROLLBACK"), errors.New("disk full")) },
		"c": post("c"),
	})
	for name, err := range got {
		if err == nil || posted(t, s, name) {
			t.Errorf("%s: %v, posted: %v", name, err, posted(t, s, name))
		}
	}
	if err := s.write(t.Context(), post("a")); err != nil || !posted(t, s, "a") {
		t.Errorf("the next write: %v", err)
	}
}

func TestACancelledWriteIsWithdrawnAloneAndOnlyBeforeItBegins(t *testing.T) {
	t.Parallel()
	s := sqliteFile.fresh(t)
	letters(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	got := together(t, s, map[string]context.Context{"b": ctx, "c": ctx}, map[string]func(*session) error{
		"a": func(s *session) error { cancel(); return post("a")(s) },
		"b": post("b"),
		"c": post("c"),
		"d": post("d"),
	})
	for name, err := range got {
		if want := name == "a" || name == "d"; (err == nil) != want || posted(t, s, name) != want {
			t.Errorf("%s: %v, posted: %v", name, err, posted(t, s, name))
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want %v", name, err, context.Canceled)
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	if err := s.write(ctx, func(s *session) error { cancel(); return post("e")(s) }); err != nil || !posted(t, s, "e") {
		t.Errorf("cancelled while it ran: %v, posted: %v", err, posted(t, s, "e"))
	}
}

// A write that waits behind a busy leader goes away when its caller does.
func TestAWaitingWriteCanBeWithdrawn(t *testing.T) {
	t.Parallel()
	s := sqliteFile.fresh(t)
	letters(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.write(t.Context(), func(*session) error {
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.write(ctx, post("a")); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want %v", err, context.Canceled)
			}
		})
		for waiting := 0; waiting == 0; runtime.Gosched() {
			waiting = waitingIn(s)
		}
		cancel()
		wg.Wait() // while this one still leads
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if posted(t, s, "a") {
		t.Error("written all the same")
	}
}

// A closure that ends its goroutine (as a test's Fatal does) leaves nobody waiting.
func TestAGoroutineThatEndsInAWriteLeavesNobodyBehind(t *testing.T) {
	onEach(t, testAGoroutineThatEndsInAWriteLeavesNobodyBehind)
}

func testAGoroutineThatEndsInAWriteLeavesNobodyBehind(t *testing.T, db database) {
	s := db.fresh(t)
	letters(t, s)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.write(t.Context(), func(s *session) error {
			_ = post("a")(s)
			runtime.Goexit()
			return nil
		})
	})
	wg.Wait()
	if err := s.write(t.Context(), post("b")); err != nil {
		t.Error(err)
	}
	if posted(t, s, "a") || !posted(t, s, "b") {
		t.Error("a was written, or b was not")
	}
}

func TestCloseLetsWritesFinishAndLeavesNothingBehind(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent()) // not parallel: other tests' goroutines come and go
	path := filepath.Join(t.TempDir(), "book.db")
	s, err := Open(t.Context(), path, Exclusive())
	if err != nil {
		t.Fatal(err)
	}
	letters(t, s)
	entered, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.write(t.Context(), func(s *session) error { close(entered); <-leave; return post("a")(s) }); err != nil {
			t.Error(err)
		}
	})
	<-entered
	wg.Go(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	<-s.closed
	for { // the writer is closed, as far as new writes go
		g := s.writer.(*group)
		g.mu.Lock()
		closed := g.closed
		g.mu.Unlock()
		if closed {
			break
		}
		runtime.Gosched()
	}
	if err := s.write(t.Context(), post("b")); !errors.Is(err, ErrClosed) {
		t.Errorf("write: %v, want %v", err, ErrClosed)
	}
	if err := s.read(t.Context(), func(*session) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v, want %v", err, ErrClosed)
	}
	close(leave)
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	s, err = Open(t.Context(), path, Exclusive())
	if err != nil {
		t.Fatal(err)
	}
	if !posted(t, s, "a") {
		t.Error("the write that had begun is lost")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestReadsSeeASnapshotAndNeitherWaitNorWrite(t *testing.T) {
	onEach(t, testReadsSeeASnapshotAndNeitherWaitNorWrite)
}

func testReadsSeeASnapshotAndNeitherWaitNorWrite(t *testing.T, db database) {
	s := db.fresh(t)
	letters(t, s)
	if err := s.read(t.Context(), func(r *session) error {
		var before, after int
		if _, err := r.one("SELECT count(*) FROM letter", nil, &before); err != nil {
			return err
		}
		if err := s.write(t.Context(), post("a")); err != nil { // it does not wait for this read
			return err
		}
		if _, err := r.one("SELECT count(*) FROM letter", nil, &after); err != nil {
			return err
		}
		if before != 0 || after != 0 {
			t.Errorf("saw %d, then %d", before, after)
		}
		if err := post("b")(r); err == nil {
			t.Error("a read wrote")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !posted(t, s, "a") || posted(t, s, "b") {
		t.Error("a was not written, or b was")
	}
	if err := s.write(t.Context(), func(*session) error {
		if posted(t, s, "a") { // nor does a read wait for a write
			return nil
		}
		return errors.New("not there")
	}); err != nil {
		t.Error(err)
	}
}
