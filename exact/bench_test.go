package exact

import (
	"encoding/json"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

// What a payment costs to be judged without a chain, beside the one recovery in it that nobody can do without.

func BenchmarkRecover(b *testing.B) {
	x := published(b, "x402", "exact_eip3009_v2")
	a, err := Read(x.p, x.r)
	if err != nil {
		b.Fatal(err)
	}
	sig, _ := plain(a.Signature)
	digest := a.Digest()
	for b.Loop() {
		if _, err := evm.Recover(digest, sig); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkAccept(b *testing.B, file, name string) {
	x := published(b, file, name)
	for b.Loop() {
		a, err := Read(x.p, x.r)
		if err != nil {
			b.Fatal(err)
		}
		if err := a.Accept(x.r, clock); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAcceptEIP3009(b *testing.B) { benchmarkAccept(b, "x402", "exact_eip3009_v2") }
func BenchmarkAcceptPermit2(b *testing.B) { benchmarkAccept(b, "x402", "exact_permit2_v2") }
func BenchmarkAcceptUpto(b *testing.B)    { benchmarkAccept(b, "x402", "upto_permit2_v2") }
func BenchmarkAcceptLegacy(b *testing.B)  { benchmarkAccept(b, "t402", "exact_legacy_v2") }

// From the text of the payment, as a facilitator gets it.
func BenchmarkAcceptText(b *testing.B) {
	v := load(b, "x402", "exact_eip3009_v2")
	text, r := []byte(v.Payment.JSON), v.terms(b).Accepts[0]
	for b.Loop() {
		var p x402.Payment
		if err := json.Unmarshal(text, &p); err != nil {
			b.Fatal(err)
		}
		a, err := Read(p, r)
		if err != nil {
			b.Fatal(err)
		}
		if err := a.Accept(r, clock); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	x := published(b, "x402", "exact_eip3009_v2")
	for b.Loop() {
		if _, err := Read(x.p, x.r); err != nil {
			b.Fatal(err)
		}
	}
}
