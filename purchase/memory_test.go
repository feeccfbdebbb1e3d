package purchase_test

import (
	"testing"

	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/purchase/purchasetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	purchasetest.Run(t, func(*testing.T) purchase.Book { return purchase.NewMemory() })
}
