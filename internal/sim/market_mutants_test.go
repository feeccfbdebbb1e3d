package sim

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// withBook is a book in which some methods do something else.
type withBook struct {
	purchase.Book
	reserve    func(p, got purchase.Purchase, err error) (purchase.Purchase, error)
	call       func(purchase.Purchase, purchase.BundleAsk, purchase.Purchase, error) (purchase.Purchase, error)
	finish     func(purchase.Purchase) purchase.Purchase
	settling   func() bool // whether it is written
	notSettled func() bool
	settled    func() bool
}

func (b withBook) Reserve(ctx context.Context, p purchase.Purchase) (purchase.Purchase, error) {
	got, err := b.Book.Reserve(ctx, p)
	if b.reserve != nil {
		return b.reserve(p, got, err)
	}
	return got, err
}

func (b withBook) ReserveCall(ctx context.Context, p purchase.Purchase, ask purchase.BundleAsk) (purchase.Purchase, purchase.Bundle, error) {
	got, of, err := b.Book.ReserveCall(ctx, p, ask)
	if b.call != nil {
		got, err = b.call(p, ask, got, err)
	}
	return got, of, err
}

func (b withBook) Finish(ctx context.Context, p purchase.Purchase) error {
	if b.finish != nil {
		p = b.finish(p)
	}
	return b.Book.Finish(ctx, p)
}

func (b withBook) Settling(ctx context.Context, id string, certificate []byte) error {
	if b.settling != nil && !b.settling() {
		return nil
	}
	return b.Book.Settling(ctx, id, certificate)
}

func (b withBook) NotSettled(ctx context.Context, id string) error {
	if b.notSettled != nil && !b.notSettled() {
		return nil
	}
	return b.Book.NotSettled(ctx, id)
}

func (b withBook) Settled(ctx context.Context, id string, tx evm.Hash) error {
	if b.settled != nil && !b.settled() {
		return nil
	}
	return b.Book.Settled(ctx, id, tx)
}

func never() bool { return false }

// withDesk is a gas desk's book in which some methods do something else.
type withDesk struct {
	desk.Book
	mined func([]desk.Settlement) []desk.Settlement
	save  func(desk.Settlement) (desk.Settlement, bool)
}

func (b withDesk) Mined(ctx context.Context, chainID, since uint64) ([]desk.Settlement, error) {
	list, err := b.Book.Mined(ctx, chainID, since)
	if b.mined != nil {
		list = b.mined(list)
	}
	return list, err
}

func (b withDesk) Save(ctx context.Context, changed []desk.Settlement, spent []desk.Spending) error {
	if b.save != nil {
		var kept []desk.Settlement
		for _, s := range changed {
			if s, ok := b.save(s); ok {
				kept = append(kept, s)
			}
		}
		changed = kept
	}
	return b.Book.Save(ctx, changed, spent)
}

var quietly, lossily, crowded, stormily, forked = tempers[0], tempers[1], tempers[2], tempers[3], tempers[4]

// forgetfully is lossy, and worse.
var forgetfully = temper{name: "forgetful", lost: 40, meddle: 5, reorg: 1, deepest: depth}

var marketMutants = []struct {
	name   string
	temper temper
	in     func(*market)
}{
	{"work is served before its payment is settled", lossily, func(m *market) {
		m.mutant.settle = func(s x402.SettleResponse, err error) (x402.SettleResponse, error) {
			if err == nil && s.ErrorReason == "settlement_pending" {
				s.Success, s.ErrorReason, s.Transaction = true, "", evm.Hash{1}.String()
			}
			return s, err
		}
	}},
	{"a pending settlement counts as refused", lossily, func(m *market) {
		m.mutant.settle = func(s x402.SettleResponse, err error) (x402.SettleResponse, error) {
			if s.ErrorReason == "settlement_pending" {
				s.ErrorReason = "insufficient_funds"
			}
			return s, err
		}
	}},
	{"a lost answer counts as a refusal", lossily, func(m *market) {
		m.mutant.settle = func(s x402.SettleResponse, err error) (x402.SettleResponse, error) {
			if m.rng.IntN(5) == 0 {
				return x402.SettleResponse{ErrorReason: "insufficient_funds", Network: s.Network}, nil
			}
			return s, err
		}
	}},
	{"a payment that was used is served again", crowded, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, reserve: func(p, got purchase.Purchase, err error) (purchase.Purchase, error) {
				if errors.Is(err, purchase.ErrTaken) && got.State == purchase.Committed {
					got.State, err = purchase.Reserved, nil
				}
				return got, err
			}}
		}
		m.runAnyway()
	}},
	{"a payment is good for any request", crowded, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, reserve: func(p, got purchase.Purchase, err error) (purchase.Purchase, error) {
				if errors.Is(err, purchase.ErrTaken) {
					got.Request = p.Request
				}
				return got, err
			}}
		}
	}},
	{"one payment buys under two ids", crowded, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, call: func(p purchase.Purchase, ask purchase.BundleAsk, got purchase.Purchase, err error) (purchase.Purchase, error) {
				if errors.Is(err, purchase.ErrTaken) && got.DrawsOnly() {
					p.Payment[0]++
					p.ID = purchase.IDFromPayment(p.Payment)
					got, _, err = b.ReserveCall(context.Background(), p, ask)
				}
				return got, err
			}}
		}
	}},
	{"a call that was used goes back into its bundle", quietly, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, finish: func(p purchase.Purchase) purchase.Purchase {
				if p.State == purchase.Committed {
					p.Draws = 0
				}
				return p
			}}
		}
	}},
	{"a call is taken from a bundle twice", quietly, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, call: func(p purchase.Purchase, ask purchase.BundleAsk, got purchase.Purchase, err error) (purchase.Purchase, error) {
				if err == nil && got.DrawsOnly() {
					p.ID, p.Payment = purchase.IDFromPayment(evm.Keccak256([]byte(p.ID))), evm.Keccak256(p.Payment[:])
					_, _, _ = b.ReserveCall(context.Background(), p, ask)
					_ = b.Run(context.Background(), p.ID, nil, p.ReservedAt)
					p.State, p.Draws, p.Bundle, p.DoneAt = purchase.Committed, ask.Draw, got.Bundle, p.ReservedAt
					_ = b.Finish(context.Background(), p)
				}
				return got, err
			}}
		}
	}},
	{"that nothing has moved is forgotten", crowded, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book { return withBook{Book: b, notSettled: never} }
	}},
	{"that money may move is not written down first", forgetfully, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book { return withBook{Book: b, settling: never} }
	}},
	{"that money has moved is forgotten", quietly, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book { return withBook{Book: b, settled: never} }
	}},
	{"the transaction is not kept", quietly, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, finish: func(p purchase.Purchase) purchase.Purchase {
				if p.State == purchase.Committed {
					p.Transaction = evm.Hash{}
				}
				return p
			}}
		}
	}},
	{"the answer is not kept", lossily, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, finish: func(p purchase.Purchase) purchase.Purchase {
				p.Answer = nil
				return p
			}}
		}
	}},
	{"more is charged than has moved", quietly, func(m *market) {
		m.mutate = func(b purchase.Book) purchase.Book {
			return withBook{Book: b, finish: func(p purchase.Purchase) purchase.Purchase {
				if p.State == purchase.Committed && p.Charged.Less(p.Cap) && !p.Charged.IsZero() {
					p.Charged, _ = p.Charged.Add(money.Units(1))
				}
				return p
			}}
		}
	}},
	{"a refund is sent under a new name each time", stormily, func(m *market) { m.mutant.paysTwice = true }},
	{"the desk believes the newest block", crowded, func(m *market) { m.mutant.shallow = true }},
	{"the desk does not notice a reorganisation", forked, func(m *market) {
		m.mutant.desks = func(b desk.Book) desk.Book {
			return withDesk{Book: b, mined: func([]desk.Settlement) []desk.Settlement { return nil }}
		}
	}},
	{"the desk settles in no transaction that there is", quietly, func(m *market) {
		m.mutant.desks = func(b desk.Book) desk.Book {
			return withDesk{Book: b, save: func(s desk.Settlement) (desk.Settlement, bool) {
				if s.State == desk.Settled {
					s.Tx[0]++
				}
				return s, true
			}}
		}
	}},
	{"the desk gives up what it has sent", lossily, func(m *market) {
		m.mutant.desks = func(b desk.Book) desk.Book {
			return withDesk{Book: b, save: func(s desk.Settlement) (desk.Settlement, bool) {
				if s.State == desk.Settled && m.rng.IntN(4) == 0 {
					s.State, s.Code, s.Tx, s.Block, s.BlockHash = desk.Failed, "invalid_exact_evm_transaction_failed", evm.Hash{}, 0, evm.Hash{}
				}
				return s, true
			}}
		}
	}},
}

// runAnyway lets work begin that may not: with the state in the book, a real one would refuse.
func (m *market) runAnyway() {
	inner := m.mutate
	m.mutate = func(b purchase.Book) purchase.Book {
		return runsAnyway{inner(b)}
	}
}

type runsAnyway struct{ purchase.Book }

func (b runsAnyway) Run(ctx context.Context, id string, certificate []byte, at time.Time) error {
	if err := b.Book.Run(ctx, id, certificate, at); err != nil && !errors.Is(err, purchase.ErrState) {
		return err
	}
	return nil
}

// Checkers that cannot fail prove nothing: each of these faults must be found, in one of a few markets.
func TestMarketCatchesMutants(t *testing.T) {
	t.Parallel()
	for _, mu := range marketMutants {
		t.Run(mu.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 30; seed++ {
				m, err := newMarket(seed, mu.temper, func(m *market) error { mu.in(m); return nil })
				if err != nil {
					t.Fatal(err)
				}
				if err := m.run(120); err != nil {
					if !errors.Is(err, errWorld) {
						t.Fatal(fmt.Errorf("seed %d: noticed by accident: %w", seed, err))
					}
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("no market noticed")
		})
	}
}
