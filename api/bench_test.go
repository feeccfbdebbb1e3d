package api

import (
	"context"
	"testing"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// Guarantees of requests that arrive together, certified by joined calls over loopback and verified by their payee.
func BenchmarkCertifyAndVerify(b *testing.B) {
	w := newWorld(&testing.T{})
	w.chain(start, clearing.Event{Kind: clearing.Deposited, Account: party(0), Asset: dollar, Amount: money.Units(1 << 50)})
	c, err := client.New(w.server.URL, client.WithTimeout(timeoutForTests))
	if err != nil {
		b.Fatal(err)
	}
	v, err := guarantee.NewVerifier(w.house.Authority.PublicKey(), deployment)
	if err != nil {
		b.Fatal(err)
	}
	list := make(chan guarantee.Signed, b.N)
	for range b.N {
		list <- w.sign(0, party(1), 1)
	}
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s := <-list
			cert, err := c.Certify(context.Background(), s)
			if err == nil {
				_, err = v.Verify(cert, s.Claims)
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}
