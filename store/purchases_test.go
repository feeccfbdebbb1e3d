package store

import (
	"path/filepath"
	"testing"

	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/purchase/purchasetest"
)

// fresh opens a new store that ends with the test.
func fresh(t testing.TB, opts ...Option) *Store {
	t.Helper()
	return reopen(t, filepath.Join(t.TempDir(), "book.db"), opts...)
}

func reopen(t testing.TB, path string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestPurchases(t *testing.T) {
	t.Parallel()
	purchasetest.Run(t, func(t *testing.T) purchase.Book { return fresh(t).Purchases() })
}
