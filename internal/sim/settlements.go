package sim

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
)

// Settlements is a gas desk's book in memory together with the outbox that it fills. It implements [desk.Book]; what it
// sends is in [Settlements.Calls]. Make one with [NewSettlements].
type Settlements struct {
	mu    sync.Mutex
	all   map[evm.Hash]desk.Settlement // guarded by mu
	order []evm.Hash                   // guarded by mu; as they were recorded
	spent []desk.Spending              // guarded by mu
	calls *evm.MemoryOutbox
}

var _ desk.Book = (*Settlements)(nil)

// NewSettlements returns an empty book.
func NewSettlements() *Settlements {
	return &Settlements{all: make(map[evm.Hash]desk.Settlement), calls: evm.NewMemoryOutbox()}
}

// Record implements [desk.Book].
func (b *Settlements) Record(_ context.Context, s desk.Settlement) (desk.Settlement, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, found := b.all[s.ID]
	if found && (old.State != desk.Failed || old.Tries != s.Tries) {
		return old, false, nil
	}
	if !found {
		b.order = append(b.order, s.ID)
	}
	b.all[s.ID] = s
	return s, true, nil
}

// Find implements [desk.Book].
func (b *Settlements) Find(_ context.Context, id evm.Hash) (desk.Settlement, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, found := b.all[id]
	return s, found, nil
}

func (b *Settlements) list(wanted func(desk.Settlement) bool) (list []desk.Settlement) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range b.order {
		if s := b.all[id]; wanted(s) {
			list = append(list, s)
		}
	}
	return list
}

// Open implements [desk.Book].
func (b *Settlements) Open(_ context.Context, chainID uint64) ([]desk.Settlement, error) {
	return b.list(func(s desk.Settlement) bool { return s.ChainID == chainID && !s.State.Final() }), nil
}

// Mined implements [desk.Book].
func (b *Settlements) Mined(_ context.Context, chainID, since uint64) ([]desk.Settlement, error) {
	return b.list(func(s desk.Settlement) bool {
		return s.ChainID == chainID && s.State.Final() && !s.Tx.IsZero() && s.Block >= since
	}), nil
}

// Send implements [desk.Book].
func (b *Settlements) Send(ctx context.Context, _ uint64, call evm.Call, carried []desk.Settlement) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.calls.Enqueue(ctx, call); err != nil {
		return err
	}
	return b.save(carried)
}

// Save implements [desk.Book].
func (b *Settlements) Save(_ context.Context, changed []desk.Settlement, spent []desk.Spending) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.save(changed); err != nil {
		return err
	}
	b.spent = append(b.spent, spent...)
	return nil
}

func (b *Settlements) save(changed []desk.Settlement) error {
	for _, s := range changed {
		if _, found := b.all[s.ID]; !found {
			return fmt.Errorf("settlement %s: there is none", s.ID.Short())
		}
	}
	for _, s := range changed {
		b.all[s.ID] = s
	}
	return nil
}

// Spent implements [desk.Book].
func (b *Settlements) Spent(_ context.Context, chainID uint64, day string) (sums []desk.Spending, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, sp := range b.spent {
		if sp.ChainID != chainID || sp.Day != day {
			continue
		}
		i := slices.IndexFunc(sums, func(o desk.Spending) bool { return o.Account == sp.Account && o.Lane == sp.Lane })
		if i < 0 {
			sums = append(sums, sp)
			continue
		}
		sums[i].Gas += sp.Gas
		sums[i].Wei, _ = sums[i].Wei.Add(sp.Wei)
	}
	return sums, nil
}

// Prune implements [desk.Book].
func (b *Settlements) Prune(_ context.Context, chainID uint64, before time.Time, limit int) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.order = slices.DeleteFunc(b.order, func(id evm.Hash) bool {
		s := b.all[id]
		old := n < limit && s.ChainID == chainID && s.State.Final() && s.DoneAt.Before(before) && s.ValidBefore < uint64(max(0, before.Unix()))
		if old {
			delete(b.all, id)
			n++
		}
		return old
	})
	return n, nil
}

// Calls returns the book's outbox.
func (b *Settlements) Calls() *evm.MemoryOutbox { return b.calls }
