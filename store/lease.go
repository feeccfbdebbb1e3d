package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// leaseTime is how long a lease on PostgreSQL lasts if its holder is gone without a word.
const leaseTime = 10 * time.Second

// lease is the right to be the only one of its name on a database.
type lease struct {
	lost    chan struct{} // closed when the right has ended, or is about to
	release func() error
}

// take returns the lease of a name, or an [*InUseError] if somebody has it.
func (s *Store) take(ctx context.Context, name string, ttl time.Duration) (*lease, error) {
	if s.leases == nil {
		return takeFile(ctx, s.path, name)
	}
	return s.takeRow(ctx, name, ttl)
}

// takeFile takes a lease on SQLite: a write lock on a small database of its own, held until released. The operating
// system takes it back from a process that is gone, so it is never lost, and those who are refused can still read in it
// who has it.
func takeFile(ctx context.Context, path, name string) (_ *lease, err error) {
	file := path + "-" + name
	if err := create(file); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+urlPath(file))
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	l := &lease{lost: make(chan struct{}), release: func() error { return errors.Join(conn.Close(), db.Close()) }}
	defer func() {
		if err != nil {
			_ = l.release()
		}
	}()
	run := func(queries ...string) error {
		for _, q := range queries {
			if _, err := conn.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		return nil
	}
	err = run("BEGIN IMMEDIATE", "CREATE TABLE IF NOT EXISTS owner (pid INTEGER NOT NULL)", "DELETE FROM owner")
	if err == nil {
		_, err = conn.ExecContext(ctx, "INSERT INTO owner VALUES (?)", os.Getpid())
	}
	if err == nil {
		// Committing lets go of the lock for a moment; whoever takes it then is the owner, and this one is refused.
		err = run("COMMIT", "BEGIN IMMEDIATE")
	}
	if err == nil || !busy(err) {
		return l, err
	}
	inUse := &InUseError{Path: path}
	if err := conn.QueryRowContext(ctx, "SELECT pid FROM owner").Scan(&inUse.PID); err != nil {
		inUse.PID = 0
	}
	return nil, inUse
}

// databaseNow is the database's clock in milliseconds, the only one by which leases of several machines end.
const databaseNow = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint"

// takeRow takes a lease on PostgreSQL: a row that says who has it and until when, renewed while it is held.
func (s *Store) takeRow(ctx context.Context, name string, ttl time.Duration) (*lease, error) {
	host, _ := os.Hostname()
	holder := fmt.Sprintf("%d %s %s", os.Getpid(), host, rand.Text()[:8])
	hold := func(ctx context.Context, query string, args ...any) (held bool, err error) {
		err = s.leases.do(ctx, func(s *session) error {
			n, err := s.exec(query, args...)
			held = n == 1
			return err
		})
		return held, err
	}
	began := time.Now()
	held, err := hold(ctx, "INSERT INTO lease (name, holder, until) VALUES (?, ?, "+databaseNow+` + ?)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE lease.until < `+databaseNow,
		name, holder, ttl.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", name, err)
	}
	if !held {
		return nil, s.inUse(ctx, name)
	}
	// Who has not renewed for three quarters of the time has a quarter to stop in, by whatever clock. A timer says so, since a
	// database that does not answer would not.
	l := &lease{lost: make(chan struct{})}
	lose := sync.OnceFunc(func() { close(l.lost) })
	left := func(since time.Time) time.Duration { return ttl*3/4 - time.Since(since) }
	timer := time.AfterFunc(left(began), lose)
	over, done := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(over, ttl/8) == nil {
			asked := time.Now()
			held, err := hold(over, "UPDATE lease SET until = "+databaseNow+" + ? WHERE name = ? AND holder = ?", ttl.Milliseconds(), name, holder)
			switch {
			case err != nil:
				continue // the timer goes on
			case !held:
				lose()
				return
			case !timer.Stop():
				return // too late
			}
			timer.Reset(left(asked))
		}
	})
	l.release = func() error {
		done()
		wg.Wait()
		timer.Stop()
		_, err := hold(context.WithoutCancel(ctx), "DELETE FROM lease WHERE name = ? AND holder = ?", name, holder)
		return err
	}
	return l, nil
}

// inUse says who has a lease.
func (s *Store) inUse(ctx context.Context, name string) error {
	taken := &InUseError{Path: s.name}
	err := s.read(ctx, func(s *session) error {
		var holder string
		if _, err := s.one("SELECT holder FROM lease WHERE name = ?", []any{name}, &holder); err != nil {
			return err
		}
		pid, host, _ := strings.Cut(holder, " ")
		taken.PID, _ = strconv.Atoi(pid)
		taken.Host, _, _ = strings.Cut(host, " ")
		return nil
	})
	if err != nil {
		return fmt.Errorf("lease %s: %w", name, err)
	}
	return taken
}

// own makes the store the only one that is [Exclusive]. On PostgreSQL the one before may be gone without a word, so it is
// given the time to say one.
func (s *Store) own(ctx context.Context) (err error) {
	for deadline := time.Now().Add(leaseTime + time.Second); ; {
		if s.owner, err = s.take(ctx, "owner", leaseTime); s.leases == nil || !errors.As(err, new(*InUseError)) || time.Now().After(deadline) {
			return err
		}
		var until [2]int64
		for i := range until {
			if i > 0 {
				if err := pause(ctx, leaseTime/4); err != nil {
					return err
				}
			}
			if e := s.read(ctx, func(s *session) error {
				_, err := s.one("SELECT until FROM lease WHERE name = 'owner'", nil, &until[i])
				return err
			}); e != nil {
				return e
			}
		}
		if until[1] > until[0] {
			return err // it has renewed: it lives
		}
	}
}

// Alone runs something while nobody else on the database runs something of the same name, in this process or another. It
// reports false, and runs nothing, if somebody does. A name is part of a file's. The context that run is given ends if the
// right is lost, which happens on PostgreSQL when the database cannot be reached for a while; the error is then [ErrLost].
func (s *Store) Alone(ctx context.Context, name string, run func(context.Context) error) (ran bool, err error) {
	l, err := s.take(ctx, name, leaseTime)
	if errors.As(err, new(*InUseError)) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("be alone with %s: %w", name, err)
	}
	return true, l.while(ctx, run)
}

// Lead waits until nobody else on the database leads under the name, and then runs something with a context that ends if
// the lead is lost. It returns when run has: its error, together with [ErrLost] if it was lost, and ctx's if ctx ended
// before. On PostgreSQL ttl is how long the others wait for a leader that is gone without a word; one that returns is
// followed at once, and one whose lead ends by the clock has a quarter of ttl to stop. On SQLite the lead of a process
// ends with the process and is never lost.
func (s *Store) Lead(ctx context.Context, name string, ttl time.Duration, run func(context.Context) error) error {
	for {
		l, err := s.take(ctx, name, ttl)
		if err == nil {
			return l.while(ctx, run)
		}
		if !errors.As(err, new(*InUseError)) {
			return fmt.Errorf("lead %s: %w", name, err)
		}
		if err := pause(ctx, min(ttl/8, time.Second)); err != nil {
			return err
		}
	}
}

// while runs something as long as the lease is held, and gives it back.
func (l *lease) while(ctx context.Context, run func(context.Context) error) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-l.lost:
			cancel(ErrLost)
		case <-over:
		}
	})
	defer func() { // also when run panics
		close(over)
		wg.Wait()
		if errors.Is(context.Cause(ctx), ErrLost) {
			err = errors.Join(ErrLost, err)
		}
		cancel(nil)
		err = errors.Join(err, l.release())
	}()
	return run(ctx)
}
