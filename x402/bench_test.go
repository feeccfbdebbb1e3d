package x402

import "testing"

func BenchmarkReadPayment(b *testing.B) {
	h := with(HeaderSignature, readVectors(b).Payment["exact_eip3009_v2"].Header)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadPayment(h); err != nil {
			b.Fatal(err)
		}
	}
}
