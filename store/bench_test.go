package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/store/storetest"
)

// BenchmarkGuarantees measures what a row costs when a group of them is one transaction, as the clearing house writes
// them: cycle, accounts and keys looked up, then added. Payers and payees are many, so that every index is hit all over.
// The processors' time is apart from the clock's, which is the disk's too: ours and, on PostgreSQL, the server's.
func BenchmarkGuarantees(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		for _, group := range []int{16, 64, 256} {
			b.Run(fmt.Sprintf("%s/group=%d", kind, group), func(b *testing.B) { benchmarkGuarantees(b, kind, group) })
		}
	}
}

func benchmarkGuarantees(b *testing.B, kind string, group int) {
	name, server := sqliteFile.name(b), (*storetest.Server)(nil)
	if kind == "postgres" {
		server = storetest.Start(b)
		name = server.Database(b)
	}
	s := reopen(b, name)
	ref := promise(address(1), address(2), 1).Cycle
	if err := s.Clearing().Write(b.Context(), func(tx clearing.Tx) error {
		for n := range byte(200) {
			if err := tx.PutAccount(clearing.Account{Owner: address(n), Asset: ref.Asset}); err != nil {
				return err
			}
		}
		return tx.PutCycle(clearing.Cycle{Ref: ref, Status: clearing.Open})
	}); err != nil {
		b.Fatal(err)
	}
	rows := make([]clearing.Guarantee, group*b.N)
	for i := range rows {
		rows[i] = promise(address(byte(rand.N(200))), address(byte(201+rand.N(50))), i)
		rows[i].Evidence = rows[i].Digest
	}
	before := processors(server)
	b.ResetTimer()
	for part := range slices.Chunk(rows, group) {
		if err := s.Clearing().Write(b.Context(), func(tx clearing.Tx) error { return admitAll(tx, ref, part) }); err != nil {
			b.Fatal(err)
		}
	}
	after := processors(server)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e3/float64(len(rows)), "µs/row")
	b.ReportMetric(float64((after[0]-before[0]).Nanoseconds())/1e3/float64(len(rows)), "µs-ours/row")
	b.ReportMetric(float64((after[1]-before[1]).Nanoseconds())/1e3/float64(len(rows)), "µs-server/row")
}

// admitAll does with the book what the admission of a group does.
func admitAll(tx clearing.Tx, ref clearing.CycleRef, group []clearing.Guarantee) error {
	if _, err := tx.Schedules(ref.Asset); err != nil {
		return err
	}
	if _, _, err := tx.KeptCycle(ref); err != nil {
		return err
	}
	if _, err := tx.WalletsStamp(); err != nil {
		return err
	}
	var accounts []clearing.AccountKey
	keys := make([]guarantee.Key, len(group))
	for i, g := range group {
		accounts, keys[i] = append(accounts, clearing.AccountKey{Owner: g.Signed.Claims.Payer, Asset: ref.Asset}), g.Signed.Claims.Key()
	}
	slices.SortFunc(accounts, func(a, b clearing.AccountKey) int { return slices.Compare(a.Owner[:], b.Owner[:]) })
	rows, err := tx.Accounts(slices.Compact(accounts))
	if err != nil {
		return err
	}
	if known, err := tx.GuaranteesByKey(keys); err != nil || len(known) > 0 {
		return fmt.Errorf("%d known: %w", len(known), err)
	}
	for _, g := range group {
		if err := tx.AddGuarantee(g); err != nil {
			return err
		}
	}
	for _, a := range rows {
		a.Balance.DebitsPending, _ = a.Balance.DebitsPending.Add(money.Units(1))
		if err := tx.PutAccount(a); err != nil {
			return err
		}
	}
	return nil
}

// processors returns the processors' time that this process has used, and that a server's have.
func processors(server *storetest.Server) (spent [2]time.Duration) {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	spent[0] = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if server == nil {
		return spent
	}
	for _, pid := range server.Processes() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		nanoseconds, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(nanoseconds, 10, 64)
		spent[1] += time.Duration(n)
	}
	return spent
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
