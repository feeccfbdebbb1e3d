package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// BenchmarkGuarantees measures what a row costs when a group of them is one transaction, as the clearing house writes
// them: looked up by key, then added. Payers and payees are many, so that every index is hit all over. The time of the
// commits is apart because it is the disk's.
func BenchmarkGuarantees(b *testing.B) {
	for _, group := range []int{16, 256} {
		b.Run(fmt.Sprintf("group=%d", group), func(b *testing.B) {
			s := sqliteFile.fresh(b)
			n := 0
			work := time.Duration(0)
			for b.Loop() {
				b.StopTimer()
				rows := make([]clearing.Guarantee, group)
				for i := range rows {
					n++
					rows[i] = promise(address(byte(rand.N(200))), address(byte(201+rand.N(50))), n)
				}
				b.StartTimer()
				if err := s.Clearing().Write(b.Context(), func(tx clearing.Tx) error {
					began := time.Now()
					defer func() { work += time.Since(began) }()
					for _, g := range rows {
						if _, found, err := tx.GuaranteeByKey(g.Signed.Claims.Key()); err != nil || found {
							return fmt.Errorf("found %v: %w", found, err)
						}
						if err := tx.AddGuarantee(g); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(work.Nanoseconds())/1e3/float64(n), "µs/row")
			b.ReportMetric(float64((b.Elapsed()-work).Nanoseconds())/1e3/float64(n), "µs-commit/row")
		})
	}
}

// BenchmarkReserve compares purchases reserved by many requests at once, whose writes share commits, with the same one
// after another, each with a commit of its own.
func BenchmarkReserve(b *testing.B) {
	for _, requests := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("at-once=%d", requests), func(b *testing.B) {
			book := sqliteFile.fresh(b).Purchases()
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range requests {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						text := strconv.FormatInt(n, 10)
						if _, err := book.Reserve(context.Background(), reservation("p_"+text, evm.Keccak256([]byte(text)))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "purchases/s")
		})
	}
}

// BenchmarkCall compares what a request of 64 at once costs the book from its reservation to its end, when its payment is its
// own and when it draws from a bundle.
func BenchmarkCall(b *testing.B) {
	for _, bundled := range []bool{false, true} {
		b.Run(fmt.Sprintf("bundle=%v", bundled), func(b *testing.B) {
			book, ctx := sqliteFile.fresh(b).Purchases(), context.Background()
			if err := bundleOf(ctx, book, 1<<40); err != nil {
				b.Fatal(err)
			}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range 64 {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						p, err := callOf(strconv.FormatInt(n, 10)), error(nil)
						if bundled {
							p, _, err = book.ReserveCall(ctx, p, purchase.BundleAsk{Draw: 1})
						} else {
							p, err = book.Reserve(ctx, p)
						}
						p.State, p.DoneAt = purchase.Committed, noon
						if err = errors.Join(err, book.Run(ctx, p.ID, nil, noon)); err == nil {
							err = book.Finish(ctx, p)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkSavepoint measures what it costs that one failing write does not take its neighbours along.
func BenchmarkSavepoint(b *testing.B) {
	for _, query := range [][]string{{"INSERT INTO letter VALUES (?)"}, {"SAVEPOINT one", "INSERT INTO letter VALUES (?)", "RELEASE one"}} {
		b.Run(fmt.Sprintf("statements=%d", len(query)), func(b *testing.B) {
			s := sqliteFile.fresh(b)
			letters(b, s)
			if err := s.write(b.Context(), func(s *session) error {
				for n := range b.N {
					for _, q := range query {
						var args []any
						if len(q) > 20 {
							args = []any{strconv.Itoa(n)}
						}
						if _, err := s.exec(q, args...); err != nil {
							return err
						}
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkAmountColumn compares the forms in which an amount can be a column: what it costs to write one and read it.
func BenchmarkAmountColumn(b *testing.B) {
	for _, amount := range []string{"100", "5192296858534827628530496329220095"} { // one hundredth of a cent; the contracts' largest
		a, err := money.ParseAmount(amount)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("text/"+amount, func(b *testing.B) {
			for b.Loop() {
				v, err := a.Value()
				if err != nil {
					b.Fatal(err)
				}
				var back money.Amount
				if err := back.Scan(v); err != nil || back != a {
					b.Fatal(err)
				}
			}
		})
		b.Run("blob/"+amount, func(b *testing.B) {
			for b.Loop() {
				w := a.Word()
				back, err := money.AmountFromBytes(append([]byte(nil), w[:]...))
				if err != nil || back != a {
					b.Fatal(err)
				}
			}
		})
	}
}
