package store

import (
	"testing"

	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/purchase/purchasetest"
)

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

func TestPurchases(t *testing.T) { onEach(t, testPurchases) }

func testPurchases(t *testing.T, db database) {
	purchasetest.Run(t, func(t *testing.T) purchase.Book { return db.fresh(t).Purchases() })
}
