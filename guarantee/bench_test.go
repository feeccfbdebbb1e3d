package guarantee

import (
	"encoding/json"
	"fmt"
	"testing"
)

func BenchmarkSign(b *testing.B) {
	key := payerKey(b)
	for b.Loop() {
		if _, err := Sign(b.Context(), key, deployment, claims); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifySigned(b *testing.B) {
	s := signed(b, vec.V1.Request)
	separator := deployment.ClaimsSeparator()
	for b.Loop() {
		if _, err := s.Verify(separator, Rules{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadSigned(b *testing.B) {
	for b.Loop() {
		var s Signed
		if err := json.Unmarshal(vec.V1.Request, &s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCertify(b *testing.B) {
	a, text := authority(b), EncodeClaims(domain, cycle, claims)
	for b.Loop() {
		if _, err := a.Certify(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCertificate(b *testing.B) {
	cert, err := authority(b).Certify(EncodeClaims(domain, cycle, claims))
	if err != nil {
		b.Fatal(err)
	}
	v := verifier(b, deployment)
	for b.Loop() {
		if _, err := v.Verify(cert, claims); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCertifyBatch(b *testing.B) {
	for _, n := range []int{64, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := authority(b)
			list := make([][]byte, n)
			for i := range list {
				list[i] = EncodeClaims(domain, cycle, numbered(i))
			}
			for b.Loop() {
				if _, err := a.CertifyBatch(domain, cycle, list); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/guarantee")
		})
	}
}

func BenchmarkVerifyBatch(b *testing.B) {
	for _, n := range []int{64, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			certs := batch(b, authority(b), n)
			for b.Loop() {
				v := verifier(b, deployment)
				for i, cert := range certs {
					if _, err := v.Verify(cert, numbered(i)); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/guarantee")
		})
	}
}
