package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/farthing402/farthing/evm"
)

// A copy made while others write holds whole transactions: everything that was on disk before it began, and no half of
// anything. It never takes the place of a file that is there.
func TestBackupOfADatabaseInUse(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	path, to := filepath.Join(dir, "book.db"), filepath.Join(dir, "copy.db")
	s, err := Open(ctx, path, Exclusive())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask := func(i int) error {
		return s.Outbox().Enqueue(context.Background(), evm.Call{ID: fmt.Sprint(i), From: evm.Address{1}, To: evm.Address{2}, Data: make([]byte, 2000)})
	}
	const before, after = 50, 200
	for i := range before {
		if err := ask(i); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range after {
			if err := ask(before + i); err != nil {
				t.Error(err)
			}
		}
	})
	err = Backup(ctx, path, to)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := Backup(ctx, path, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
	if err := Backup(ctx, filepath.Join(dir, "none.db"), filepath.Join(dir, "other.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a file that is not there: %v", err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	copied, err := Open(ctx, to, Exclusive())
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	calls, err := copied.Outbox().Open(ctx, evm.Address{1})
	if err != nil || len(calls) < before || len(calls) > before+after {
		t.Fatalf("%d calls, %v", len(calls), err)
	}
	for i, c := range calls {
		if c.ID != fmt.Sprint(i) {
			t.Fatalf("call %d is %s: one before it is missing", i, c.ID)
		}
	}
}
