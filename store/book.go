package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/farthing402/farthing/clearing"
)

// book is the clearing house's view. It implements [clearing.Book].
type book struct{ s *Store }

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
	stop func() error        // why to stop a long read
	sums map[payerCycle]*sum // what the payers touched so far have guaranteed; see guarantees.go
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

// put runs a statement that inserts or replaces the row with the key.
func (t *tx) put(table string, key any, query string, args ...any) error {
	if _, err := t.exec(query, args...); err != nil {
		return fmt.Errorf("table %s, key %v: %w", table, key, err)
	}
	return nil
}
