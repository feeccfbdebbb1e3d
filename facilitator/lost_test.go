package facilitator_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/facilitator/desk"
)

// mute is a book that writes the first settlement down and says that it did not.
type mute struct {
	desk.Book
	said atomic.Bool
}

func (b *mute) Record(ctx context.Context, s desk.Settlement) (desk.Settlement, bool, error) {
	got, fresh, err := b.Book.Record(ctx, s)
	if err == nil && !b.said.Swap(true) {
		err = errors.New("connection to the database is lost")
	}
	return got, fresh, err
}

// A settlement that is recorded, with the answer of the book lost, is carried out when it is asked for again, and not only
// after a restart.
func TestASettlementWhoseRecordingWasNotConfirmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{network: func(c *facilitator.NetworkConfig) { c.Book = &mute{Book: c.Book} }})
	r := terms(500)
	p := w.pay(payer(0), r)
	if s, err := w.http.Settle(t.Context(), p, r); err == nil && s.Success {
		t.Fatalf("settled: %+v", s)
	}
	if s := w.settle(p, r); !s.Success || w.dollars(payee) != 500 {
		t.Errorf("asked again: %+v, payee has %d", s, w.dollars(payee))
	}
}
