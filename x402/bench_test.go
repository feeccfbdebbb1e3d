package x402

import (
	"strings"
	"testing"
)

func BenchmarkReadPayment(b *testing.B) {
	h := with(HeaderSignature, readVectors(b).Payment["exact_eip3009_v2"].Header)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadPayment(h); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadFacilitatorRequest(b *testing.B) {
	body := readT402(b).VerifyBody.JSON
	b.ReportAllocs()
	for b.Loop() {
		if _, refusal := ReadFacilitatorRequest(strings.NewReader(body)); refusal != nil {
			b.Fatal(refusal)
		}
	}
}

func BenchmarkWritePaymentRequiredHeader(b *testing.B) {
	t := terms()
	t.Required.X402Version, t.Required.Dialect = 2, Both
	b.ReportAllocs()
	for b.Loop() {
		if _, err := EncodeHeader(t.Required); err != nil {
			b.Fatal(err)
		}
	}
}
