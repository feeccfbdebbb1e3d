package payer_test

import (
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/farthing402/farthing/payer"
)

// A purchase from the first request to the last byte, through the real paywall and clearing house, journal on disk.
func BenchmarkPurchase(b *testing.B) {
	for name, path := range map[string]string{"memory": "", "file": filepath.Join(b.TempDir(), "journal")} {
		b.Run(name, func(b *testing.B) {
			t := &testing.T{}
			l := newLoop(t, 1<<50)
			p := l.payer(t, func(c *payer.Config) { c.Journal, c.Budget = path, payer.Budget{PerCall: "$1"} })
			c := &http.Client{Transport: p}
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := c.Get(l.seller + "/quote/ACME")
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}
