package exact

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// clock is the time at which the vectors were made.
var clock = time.Unix(1767225600, 0)

// vector is one exchange in testdata, made by the published packages.
type vector struct {
	Required     struct{ JSON string }                  `json:"payment_required"`
	RequiredBody string                                 `json:"payment_required_body"`
	Payment      struct{ JSON string }                  `json:"payment_payload"`
	OldClient    struct{ JSON string }                  `json:"legacy_client"`
	TypedData    []struct{ Digest, Separator evm.Hash } `json:"typed_data"`
}

func load(t testing.TB, file, name string) vector {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	var v vector
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(all[name], &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func payerKey(t testing.TB) *evm.PrivateKey {
	t.Helper()
	secret, _ := hex.DecodeString("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
	key, err := evm.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// terms reads what a seller of the vectors asks for, in either dialect and version.
func (v vector) terms(t testing.TB) x402.PaymentRequired {
	t.Helper()
	var p x402.PaymentRequired
	if err := json.Unmarshal([]byte(dialect(v.Required.JSON+v.RequiredBody)), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func payment(t testing.TB, text string) x402.Payment {
	t.Helper()
	var p x402.Payment
	if err := json.Unmarshal([]byte(dialect(text)), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// dialect makes T402's envelope one of x402; their difference is not this package's.
func dialect(text string) string { return strings.ReplaceAll(text, `"t402Version"`, `"x402Version"`) }

var exchanges = []struct {
	file, name string
	scheme     string
	method     Method
}{
	{"x402", "exact_eip3009_v2", Scheme, EIP3009},
	{"x402", "exact_eip3009_v1", Scheme, EIP3009},
	{"x402", "exact_permit2_v2", Scheme, Permit2},
	{"x402", "upto_permit2_v2", UptoScheme, Permit2},
	{"x402", "exact_permit2_with_eip2612_gas_sponsoring", Scheme, Permit2},
	{"x402", "exact_permit2_with_erc20_approval_gas_sponsoring", Scheme, Permit2},
	{"t402", "exact_eip3009_v2", Scheme, EIP3009},
	{"t402", "exact_eip3009_v1", Scheme, EIP3009},
	{"t402", "exact_legacy_v2", LegacyScheme, Legacy},
}

func TestPublishedPaymentsAreAccepted(t *testing.T) {
	t.Parallel()
	for _, e := range exchanges {
		v := load(t, e.file, e.name)
		r := v.terms(t).Accepts[0]
		texts := []string{v.Payment.JSON}
		if v.OldClient.JSON != "" {
			texts = append(texts, v.OldClient.JSON)
		}
		for i, text := range texts {
			a, err := Read(payment(t, text), r)
			if err != nil {
				t.Errorf("%s: %v", e.name, err)
				continue
			}
			if a.Scheme != e.scheme || a.Method != e.method || a.From != payerKey(t).Address() {
				t.Errorf("%s: read as %+v", e.name, a)
			}
			if i == 0 && a.Digest() != v.TypedData[0].Digest {
				t.Errorf("%s: digest %s, want %s", e.name, a.Digest(), v.TypedData[0].Digest)
			}
			if err := a.Accept(r, clock); err != nil {
				t.Errorf("%s: %v", e.name, err)
			}
			if err := a.Check(r, clock); err != nil {
				t.Errorf("%s: %v", e.name, err)
			}
		}
	}
}

// What we sign is byte for byte what the published clients send for the same offer, nonce and clock.
func TestPayWritesWhatPublishedClientsWrite(t *testing.T) {
	t.Parallel()
	key := payerKey(t)
	for _, e := range exchanges {
		v := load(t, e.file, e.name)
		terms := v.terms(t)
		theirs, err := Read(payment(t, v.Payment.JSON), terms.Accepts[0])
		if err != nil {
			t.Fatal(err)
		}
		a, err := Pay(t.Context(), key, terms.Accepts[0], theirs.Nonce, clock)
		if err != nil {
			t.Errorf("%s: %v", e.name, err)
			continue
		}
		if theirs.Permit != nil {
			if a, err = a.Sponsored(t.Context(), key, money.Units(7)); err != nil {
				t.Fatal(err)
			}
			if got := a.Permit.Digest(a); got != v.TypedData[1].Digest {
				t.Errorf("%s: digest of the permit %s", e.name, got)
			}
		}
		if theirs.Approval != nil {
			if a, err = a.Approved(theirs.Approval.Raw); err != nil {
				t.Fatal(err)
			}
		}
		payload, err := a.Payload()
		if err != nil {
			t.Fatal(err)
		}
		want := payment(t, v.Payment.JSON)
		if string(payload) != string(want.Payload) {
			t.Errorf("%s: payload\n%s, want\n%s", e.name, payload, want.Payload)
		}
		extensions, err := a.Extensions(terms.Extensions)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range want.Extensions {
			if string(extensions[key]) != string(value) {
				t.Errorf("%s: extension\n%s, want\n%s", e.name, extensions[key], value)
			}
		}
	}
}

// Constants that the packages publish beside the exchanges.
func TestPermit2Constants(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/x402.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Permit2 struct {
			Permit2  evm.Address `json:"permit2"`
			Deployer evm.Address `json:"create2_deployer"`
			Exact    struct {
				Salt     evm.Hash
				InitCode evm.Hash    `json:"init_code_hash"`
				Address  evm.Address `json:"constant"`
				Witness  evm.Hash    `json:"witness_typehash"`
			} `json:"exact_proxy"`
			Upto struct {
				Address evm.Address `json:"constant"`
				Witness evm.Hash    `json:"witness_typehash"`
			} `json:"upto_proxy"`
			FullExact evm.Hash `json:"full_typehash_exact"`
			FullUpto  evm.Hash `json:"full_typehash_upto"`
		}
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	p := file.Permit2
	if p.Permit2 != Permit2Address || p.Deployer != Deployer || p.Exact.Address != ExactProxy || p.Upto.Address != UptoProxy {
		t.Error("an address differs")
	}
	if p.Exact.Witness != exactWitnessType || p.Upto.Witness != uptoWitnessType || p.FullExact != exactPermitType || p.FullUpto != uptoPermitType {
		t.Error("a type hash differs")
	}
	derived := evm.Keccak256([]byte{0xff}, Deployer[:], p.Exact.Salt[:], p.Exact.InitCode[:])
	if !bytes.Equal(derived[12:], ExactProxy[:]) {
		t.Errorf("the proxy's address is derived as %x", derived[12:])
	}
}

func TestIDNamesWhatTheChainAllowsOnce(t *testing.T) {
	t.Parallel()
	seen := map[evm.Hash]string{}
	ids := func(name string, a Authorization) {
		if other, ok := seen[a.ID()]; ok {
			t.Errorf("%s and %s have one ID", name, other)
		}
		seen[a.ID()] = name
	}
	base := Authorization{Method: EIP3009, Scheme: Scheme, ChainID: 1, Asset: evm.Address{1}, From: evm.Address{2}, Nonce: evm.Hash{3}}
	change := func(name string, f func(*Authorization)) {
		a := base
		f(&a)
		ids(name, a)
	}
	ids("itself", base)
	change("another chain", func(a *Authorization) { a.ChainID = 2 })
	change("another token", func(a *Authorization) { a.Asset = evm.Address{9} })
	change("another payer", func(a *Authorization) { a.From = evm.Address{9} })
	change("another nonce", func(a *Authorization) { a.Nonce = evm.Hash{9} })
	change("Permit2", func(a *Authorization) { a.Method = Permit2 })
	change("legacy", func(a *Authorization) { a.Method = Legacy })

	// A second signature over the same, another amount under the same nonce, another time: only one of them can happen.
	same := base
	same.Signature, same.Amount, same.To, same.ValidBefore, same.Name = []byte{1}, money.Units(5), evm.Address{7}, 9, "x"
	if same.ID() != base.ID() {
		t.Error("what excludes each other has two IDs")
	}
	// Permit2 keeps one set of nonces for all tokens and proxies.
	permit := base
	permit.Method = Permit2
	upto := permit
	upto.Scheme, upto.Asset = UptoScheme, evm.Address{8}
	if upto.ID() != permit.ID() {
		t.Error("one nonce of Permit2 has two IDs")
	}
}

func TestNonceOfPermit2IsItsNumber(t *testing.T) {
	t.Parallel()
	a, err := Read(payment(t, load(t, "x402", "exact_permit2_v2").Payment.JSON), load(t, "x402", "exact_permit2_v2").terms(t).Accepts[0])
	if err != nil {
		t.Fatal(err)
	}
	want, _ := new(big.Int).SetString("15438945231642159389809464667825054380435997955418741871927677867721750618658", 10)
	if !bytes.Equal(want.FillBytes(make([]byte, 32)), a.Nonce[:]) {
		t.Errorf("nonce %s", a.Nonce)
	}
}
