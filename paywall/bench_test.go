package paywall_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// BenchmarkSale is what a paywall does for one paid request: header, quote, terms, payer's signature, reservation, one of
// 64 certificates of a batch, handler, receipt, with a book in memory. The clearing house's own work is done beforehand.
func BenchmarkSale(b *testing.B) {
	const batch = 64
	w := newWorld(b)
	w.handle("GET /x", "$0.0005", hello)
	template := w.draft(get("/x"))
	headers := make([]http.Header, 0, b.N)
	certificates := make(map[evm.Hash]guarantee.Certificate, b.N)
	domain, cycle := w.house.deployment.CertificateDomain(), w.house.cycle(template.claims.Asset)
	for len(headers) < b.N {
		encoded := make([][]byte, 0, batch)
		digests := make([]evm.Hash, 0, batch)
		for range batch {
			d := *template
			d.stock, d.claims.ReqID = true, evm.Keccak256(template.claims.ReqID[:], []byte{byte(len(headers)), byte(len(headers) >> 8), byte(len(headers) >> 16)})
			s, err := guarantee.Sign(context.Background(), w.payer, w.house.deployment, d.claims)
			if err != nil {
				b.Fatal(err)
			}
			headers = append(headers, http.Header{"Payment-Signature": {w.wrap(&d, s)}})
			encoded = append(encoded, guarantee.EncodeClaims(domain, cycle, d.claims))
			digests = append(digests, d.claims.Digest(w.house.deployment.ClaimsSeparator()))
		}
		made, err := w.house.authority.CertifyBatch(domain, cycle, encoded)
		if err != nil {
			b.Fatal(err)
		}
		for i, digest := range digests {
			certificates[digest] = made[i]
		}
	}
	separator := w.house.deployment.ClaimsSeparator()
	w.house.certify = func(s guarantee.Signed) (guarantee.Certificate, error) {
		return certificates[s.Claims.Digest(separator)], nil
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		r, err := http.NewRequest("GET", w.server.URL+"/x", nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header, r.RequestURI = headers[i], "/x"
		w.mux.ServeHTTP(&discard{header: http.Header{}}, r)
	}
	b.StopTimer()
	if n := w.book.count(); n != b.N {
		b.Fatalf("%d of %d sold", n, b.N)
	}
}
