package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/ledger"
)

// book is the clearing house's view. It implements [clearing.Book].
type book struct{ s *Store }

// SideBySide tells the house what [clearing.Book] says. On PostgreSQL a group keeps one core of the server busy, and the
// house needs as many for signatures; fewer groups are larger, and a row in a large one takes half as long.
func (b book) SideBySide() int {
	if b.s.dialect.locks {
		return max(1, min(runtime.GOMAXPROCS(0)/2, writersMax/2))
	}
	return 1
}

// Read implements [clearing.Book]: fn sees one snapshot and can change nothing.
func (b book) Read(ctx context.Context, fn func(clearing.Tx) error) error {
	return b.s.read(ctx, func(s *session) error { return fn(&tx{session: s, stop: ctx.Err}) })
}

// Write implements [clearing.Book].
func (b book) Write(ctx context.Context, fn func(clearing.Tx) error) error {
	return b.s.write(ctx, func(s *session) error {
		t := &tx{session: s, stop: ctx.Err}
		if err := fn(t); err != nil {
			return err
		}
		return t.flush()
	})
}

// tx is a transaction on the book. Its methods are in the files named for what they keep.
type tx struct {
	*session
	stop func() error // why to stop a long read
	// What is to be written, many rows at a time: when somebody wants to read it, or at the end.
	added     []clearing.Guarantee
	accounts  map[[2]evm.Address]clearing.Account
	sums      map[payerCycle]*sum
	transfers []ledger.Transfer
	// What was not there when it was read, by key. It cannot be locked; putting it is inserting it, and if somebody else was
	// faster the write is run again.
	absent map[any]bool
}

// flush writes what was gathered; it ends every transaction that succeeds.
func (t *tx) flush() error {
	if len(t.added)+len(t.accounts)+len(t.sums)+len(t.transfers) == 0 {
		return nil
	}
	if err := t.insertGuarantees(); err != nil {
		return err
	}
	if err := t.putAccounts(); err != nil {
		return err
	}
	if err := t.putSums(); err != nil {
		return err
	}
	return t.insertTransfers()
}

// remember notes whether the row of a key was there when this write read it.
func (t *tx) remember(key any, found bool, err error) {
	if err != nil || found || !t.writes {
		return
	}
	if t.absent == nil {
		t.absent = make(map[any]bool)
	}
	t.absent[key] = true
}

// errMissing is the error of changing what is not there.
var errMissing = errors.New("no such row")

// change runs a statement that must change exactly the row with the key.
func (t *tx) change(table string, key any, query string, args ...any) error {
	n, err := t.exec(query, args...)
	if err == nil && n != 1 {
		err = errMissing
	}
	if err != nil {
		return fmt.Errorf("table %s, key %v: %w", table, key, err)
	}
	return nil
}

// upsert inserts the row with the key or replaces it, as conflict says. A row that was read and not there is inserted only.
func (t *tx) upsert(table string, id, key any, insert, conflict string, args ...any) error {
	if t.absent[id] {
		delete(t.absent, id)
		return t.put(table, key, insert, args...)
	}
	return t.put(table, key, insert+conflict, args...)
}

// put runs a statement that inserts or replaces the row with the key.
func (t *tx) put(table string, key any, query string, args ...any) error {
	if _, err := t.exec(query, args...); err != nil {
		return fmt.Errorf("table %s, key %v: %w", table, key, err)
	}
	return nil
}
