package clearing

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// BenchmarkAdmit admits guarantees into a book in memory, in requests of 1 and of 64, from many callers at once, and tells
// how many a second that makes; "recover" is the bare recovery of their signatures in the same run, on as many
// processors.
func BenchmarkAdmit(b *testing.B) {
	b.Run("recover", func(b *testing.B) {
		w := newWorld(b)
		b.RunParallel(func(pb *testing.PB) {
			s := w.signOther(1)
			digest := s.Signed.Claims.Digest(deployment.ClaimsSeparator())
			for pb.Next() {
				if _, err := evm.Recover(digest, s.Signed.Signature); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "guarantees/s")
	})
	for _, size := range []int{1, 64} {
		for _, batch := range []bool{true, false} {
			form := "single"
			if batch {
				form = "batch"
			}
			b.Run(fmt.Sprintf("%s/requests of %d", form, size), func(b *testing.B) {
				w := newWorld(b)
				for i := range 4 {
					w.deposit(i, 1<<60)
				}
				groups := make([][]Request, b.N)
				for i := range groups {
					for range size {
						r := w.signOther(i % 4)
						r.Batch = batch
						groups[i] = append(groups[i], r)
					}
				}
				var next atomic.Int64
				b.SetParallelism(64 / size) // the same number of guarantees is under way
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						for _, r := range w.Admit(context.Background(), groups[next.Add(1)-1], at(start)) {
							if r.Err != nil {
								b.Error(r.Err)
							}
						}
					}
				})
				b.StopTimer()
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "guarantees/s")
			})
		}
	}
}

func (w *world) signOther(payer int) Request {
	return Request{Signed: w.sign(payer, payer+1, 1, start)}
}

// BenchmarkNet nets cycles of many guarantees.
func BenchmarkNet(b *testing.B) {
	const n = 2_000
	w := newWorld(b)
	c := schedule.at(start)
	err := w.memory.Write(context.Background(), func(tx Tx) error {
		for i := range uint64(n) {
			s := w.sign(0, 1, 1, start)
			s.Claims.Payer, s.Claims.Payee = evm.Address{byte(i), byte(i >> 8), 1}, evm.Address{byte(i * 7), 2}
			digest := s.Claims.Digest(deployment.ClaimsSeparator())
			g := Guarantee{Signed: s, Digest: digest, Cycle: c.Ref, Payable: money.Units(i + 1)}
			g.Evidence = w.evidence(g)
			if err := tx.AddGuarantee(g); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_ = w.memory.Read(context.Background(), func(tx Tx) error {
			if _, err := w.computeNet(tx, c); err != nil {
				b.Fatal(err)
			}
			return nil
		})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/guarantee")
}
