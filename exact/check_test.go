package exact

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// codeOf returns the code of a refusal, and what else an error is.
func codeOf(err error) string {
	var e *x402.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return "no refusal: " + err.Error()
}

// paid is a published payment with its terms, to be altered.
type paid struct {
	p x402.Payment
	r x402.Requirements
}

func published(t testing.TB, file, name string) paid {
	t.Helper()
	v := load(t, file, name)
	return paid{payment(t, v.Payment.JSON), v.terms(t).Accepts[0]}
}

// payload replaces text in the payload, which has to be there.
func (x *paid) payload(t testing.TB, old, to string) {
	t.Helper()
	if !strings.Contains(string(x.p.Payload), old) {
		t.Fatalf("payload has no %s: %s", old, x.p.Payload)
	}
	x.p.Payload = json.RawMessage(strings.Replace(string(x.p.Payload), old, to, 1))
}

func (x *paid) extra(key string, value any) {
	extra := map[string]json.RawMessage{}
	for k, v := range x.r.Extra {
		extra[k] = v
	}
	if extra[key], _ = json.Marshal(value); value == nil {
		delete(extra, key)
	}
	x.r.Extra = extra
}

// sign signs the payment as it now is.
func (x *paid) sign(t testing.TB) {
	t.Helper()
	a, err := Read(x.p, x.r)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := payerKey(t).Sign(t.Context(), a.Digest())
	if err != nil {
		t.Fatal(err)
	}
	x.resign(t, sig.String())
}

func (x *paid) resign(t testing.TB, signature string) {
	t.Helper()
	re := regexp.MustCompile(`"signature":"[^"]*"`)
	if !re.Match(x.p.Payload) {
		t.Fatal("payload has no signature")
	}
	x.p.Payload = re.ReplaceAll(x.p.Payload, []byte(`"signature":"`+signature+`"`))
}

func (x *paid) signature(t testing.TB) []byte {
	t.Helper()
	a, err := Read(x.p, x.r)
	if err != nil {
		t.Fatal(err)
	}
	return a.Signature
}

func (x paid) accept(now time.Time) error {
	a, err := Read(x.p, x.r)
	if err != nil {
		return err
	}
	return a.Accept(x.r, now)
}

const (
	seller   = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
	stranger = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
)

// Every refusal that needs no chain, each by one change to a payment that is good. Later faults are put in as well where
// the order has to show.
func TestRefusals(t *testing.T) {
	t.Parallel()
	type change func(t *testing.T, x *paid)
	replace := func(old, to string) change { return func(t *testing.T, x *paid) { x.payload(t, old, to) } }
	all := func(changes ...change) change {
		return func(t *testing.T, x *paid) {
			for _, c := range changes {
				c(t, x)
			}
		}
	}
	signed := func(t *testing.T, x *paid) { x.sign(t) }
	network := func(t *testing.T, x *paid) { x.r.Network = "eip155:1337" }
	payTo := func(t *testing.T, x *paid) { x.r.PayTo = stranger }
	amount := func(t *testing.T, x *paid) { x.r.Amount = "10001" }
	noDomain := func(t *testing.T, x *paid) { x.extra("version", nil) }
	scheme := func(to string) change { return func(t *testing.T, x *paid) { x.r.Scheme = to } }
	forged := func(t *testing.T, x *paid) {
		sig := x.signature(t)
		sig[5] ^= 1
		x.resign(t, "0x"+hex.EncodeToString(sig))
	}
	expired := replace(`"validBefore":"1767225660"`, `"validBefore":"1767225605"`)
	early := replace(`"validAfter":"0"`, `"validAfter":"1767225601"`)

	const (
		e = "invalid_exact_evm_"
		p = "exact_permit2_v2"
		u = "upto_permit2_v2"
	)
	for _, c := range []struct {
		what, file, name string
		change           change
		code             string
	}{
		{"scheme", "x402", "exact_eip3009_v2", all(scheme("upto"), noDomain, network), "invalid_upto_evm_scheme"},
		{"scheme of the payment", "x402", "exact_eip3009_v2", all(func(t *testing.T, x *paid) { x.p.Scheme = "upto" }, noDomain), e + "scheme"},
		{"scheme nobody serves", "x402", "exact_eip3009_v2", func(t *testing.T, x *paid) { x.p.Scheme, x.r.Scheme = "deferred", "deferred" }, "unsupported_scheme"},
		{"no signing domain", "x402", "exact_eip3009_v2", all(noDomain, network), e + "missing_eip712_domain"},
		{"signing domain without a name", "x402", "exact_eip3009_v2", func(t *testing.T, x *paid) { x.extra("name", "") }, e + "missing_eip712_domain"},
		{"network", "x402", "exact_eip3009_v2", all(forged, network), e + "network_mismatch"},
		{"network of another kind", "x402", "exact_eip3009_v2", func(t *testing.T, x *paid) { x.p.Network = "solana:x" }, e + "network_mismatch"},
		{"no EVM network at all", "x402", "exact_eip3009_v2", func(t *testing.T, x *paid) { x.p.Network, x.r.Network = "solana:x", "solana:x" }, "invalid_network"},
		{"signature", "x402", "exact_eip3009_v2", all(forged, payTo), e + "signature"},
		{"signature over another domain", "x402", "exact_eip3009_v2", func(t *testing.T, x *paid) { x.extra("name", "USD Coin") }, e + "signature"},
		{"signature for another token", "x402", "exact_eip3009_v2", func(t *testing.T, x *paid) { x.r.Asset = stranger }, e + "signature"},
		{"amount lowered after signing", "x402", "exact_eip3009_v2", replace(`"value":"10000"`, `"value":"9999"`), e + "signature"},
		{"payer altered", "x402", "exact_eip3009_v2", replace(`0x70997970C51812dc3A010C7d01b50e0d17dc79C8`, stranger), e + "signature"},
		{"nonce altered", "x402", "exact_eip3009_v2", replace(`"nonce":"0x1`, `"nonce":"0x2`), e + "signature"},
		{"recipient", "x402", "exact_eip3009_v2", all(payTo, amount), e + "recipient_mismatch"},
		{"expired", "x402", "exact_eip3009_v2", all(expired, signed, amount), e + "payload_authorization_valid_before"},
		{"early", "x402", "exact_eip3009_v2", all(early, signed, amount), e + "payload_authorization_valid_after"},
		{"amount", "x402", "exact_eip3009_v2", amount, e + "payload_authorization_value_mismatch"},
		{"amount above the price", "x402", "exact_eip3009_v2", func(t *testing.T, x *paid) { x.r.Amount = "9999" }, e + "payload_authorization_value_mismatch"},
		{"amount above the price in version 1", "x402", "exact_eip3009_v1", func(t *testing.T, x *paid) { x.r.Amount = "9999" }, e + "payload_authorization_value_mismatch"},

		{"scheme", "x402", p, all(scheme("upto"), network), "invalid_upto_evm_scheme"},
		{"scheme of the payment", "x402", p, func(t *testing.T, x *paid) { x.p.Scheme = "upto" }, "unsupported_payload_type"},
		{"network", "x402", p, all(network, payTo), e + "network_mismatch"},
		{"spender", "x402", p, all(replace(ExactProxy.String(), UptoProxy.String()), payTo), "invalid_permit2_spender"},
		{"recipient", "x402", p, all(payTo, amount), "invalid_permit2_recipient_mismatch"},
		{"expired", "x402", p, all(replace(`"deadline":"1767225660"`, `"deadline":"1767225605"`), early), "permit2_deadline_expired"},
		{"early", "x402", p, all(early, amount), "permit2_not_yet_valid"},
		{"amount", "x402", p, all(amount, func(t *testing.T, x *paid) { x.r.Asset = stranger }), "permit2_amount_mismatch"},
		{"token", "x402", p, all(func(t *testing.T, x *paid) { x.r.Asset = stranger }, forged), "permit2_token_mismatch"},
		{"signature", "x402", p, forged, "invalid_permit2_signature"},
		{"payer altered", "x402", p, replace(`0x70997970C51812dc3A010C7d01b50e0d17dc79C8`, stranger), "invalid_permit2_signature"},

		{"scheme", "x402", u, all(scheme("exact"), network), "unsupported_payload_type"},
		{"scheme of the payment", "x402", u, all(func(t *testing.T, x *paid) { x.p.Scheme = "exact" }, network), "invalid_upto_evm_scheme"},
		{"network", "x402", u, all(network, payTo), "invalid_upto_evm_network_mismatch"},
		{"spender", "x402", u, replace(UptoProxy.String(), ExactProxy.String()), "invalid_permit2_spender"},
		{"recipient", "x402", u, all(payTo, func(t *testing.T, x *paid) { x.extra("facilitatorAddress", seller) }), "invalid_permit2_recipient_mismatch"},
		{"facilitator", "x402", u, all(func(t *testing.T, x *paid) { x.extra("facilitatorAddress", seller) }, amount), "upto_facilitator_mismatch"},
		{"no facilitator", "x402", u, func(t *testing.T, x *paid) { x.extra("facilitatorAddress", nil) }, "upto_facilitator_mismatch"},
		{"expired", "x402", u, all(replace(`"deadline":"1767225660"`, `"deadline":"1767225605"`), early), "permit2_deadline_expired"},
		{"early", "x402", u, early, "permit2_not_yet_valid"},
		{"amount", "x402", u, amount, "permit2_amount_mismatch"},
		{"token", "x402", u, func(t *testing.T, x *paid) { x.r.Asset = stranger }, "permit2_token_mismatch"},
		{"signature", "x402", u, forged, "invalid_permit2_signature"},

		{"scheme", "t402", "exact_legacy_v2", func(t *testing.T, x *paid) { x.r.Scheme = "exact" }, "invalid_exact_evm_scheme"},
		{"network", "t402", "exact_legacy_v2", network, "invalid_network"},
		{"spender", "t402", "exact_legacy_v2", all(func(t *testing.T, x *paid) { x.extra("spender", seller) }, forged), "invalid_spender"},
		{"signature", "t402", "exact_legacy_v2", all(forged, payTo), "invalid_exact_evm_payload_signature"},
		{"spender altered", "t402", "exact_legacy_v2", all(replace(stranger, seller), func(t *testing.T, x *paid) { x.extra("spender", seller) }), "invalid_exact_evm_payload_signature"},
		{"recipient", "t402", "exact_legacy_v2", payTo, "invalid_exact_evm_payload_recipient_mismatch"},
		{"expired", "t402", "exact_legacy_v2", all(expired, signed), "authorization_expired"},
		{"early", "t402", "exact_legacy_v2", all(replace(`"validAfter":"1767225000"`, `"validAfter":"1767225601"`), signed), "authorization_not_yet_valid"},
		{"amount above the price", "t402", "exact_legacy_v2", func(t *testing.T, x *paid) { x.r.Amount = "9999" }, "invalid_exact_evm_payload_authorization_value"},

		{"permit of another", "x402", "exact_permit2_with_eip2612_gas_sponsoring", extension(PermitExtension, `"from":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8"`, `"from":"`+stranger+`"`), "eip2612_from_mismatch"},
		{"permit for another token", "x402", "exact_permit2_with_eip2612_gas_sponsoring", extension(PermitExtension, `"asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e"`, `"asset":"`+stranger+`"`), "eip2612_asset_mismatch"},
		{"permit for another spender", "x402", "exact_permit2_with_eip2612_gas_sponsoring", extension(PermitExtension, Permit2Address.String(), stranger), "eip2612_spender_not_permit2"},
		{"permit that ends", "x402", "exact_permit2_with_eip2612_gas_sponsoring", extension(PermitExtension, `"deadline":"1767225660"`, `"deadline":"1767225605"`), "eip2612_deadline_expired"},
		{"permit of another amount", "x402", "exact_permit2_with_eip2612_gas_sponsoring", extension(PermitExtension, `"amount":"10000"`, `"amount":"10001"`), "permit2_2612_amount_mismatch"},
		{"permit that cannot be read", "x402", "exact_permit2_with_eip2612_gas_sponsoring", extension(PermitExtension, `"nonce":"7"`, `"nonce":"0x7"`), "invalid_eip2612_extension_format"},
		{"permit with half a signature", "x402", "exact_permit2_with_eip2612_gas_sponsoring", extension(PermitExtension, `4201c"`, `"`), "invalid_eip2612_extension_format"},
		{"approval of another", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `"from":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8"`, `"from":"`+stranger+`"`), "erc20_approval_from_mismatch"},
		{"approval for another token", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `"asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e"`, `"asset":"`+stranger+`"`), "erc20_approval_asset_mismatch"},
		{"approval for another spender", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, Permit2Address.String(), stranger), "erc20_approval_spender_not_permit2"},
		{"approval that cannot be read", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `"amount":"1157`, `"amount":"-1157`), "invalid_erc20_approval_extension_format"},
		{"approval that is no transaction", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `0x02f8b3`, `0x01f8b3`), "erc20_approval_tx_parse_failed"},
		{"approval that is cut off", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `192666"`, `1926"`), "erc20_approval_tx_parse_failed"},
		{"approval of another contract", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `94036cbd53842c`, `94036cbd53842d`), "erc20_approval_tx_wrong_target"},
		{"approval that transfers", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `095ea7b3`, `a9059cbb`), "erc20_approval_tx_wrong_selector"},
		{"approval of a thief", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `000000000022d473`, `000000000022d474`), "erc20_approval_tx_wrong_spender"},
		{"approval with dirt in its words", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `095ea7b300000000`, `095ea7b300000001`), "erc20_approval_tx_invalid_calldata"},
		{"approval with another fee", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `8405f5e100`, `8405f5e101`), "erc20_approval_tx_signer_mismatch"},
		{"approval with a high s", "x402", "exact_permit2_with_erc20_approval_gas_sponsoring", extension(ApprovalExtension, `a0296aa4c69f`, `a0f96aa4c69f`), "erc20_approval_tx_invalid_signature"},
	} {
		t.Run(c.name+" "+c.what, func(t *testing.T) {
			t.Parallel()
			x := published(t, c.file, c.name)
			if err := x.accept(clock); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			c.change(t, &x)
			if got := codeOf(x.accept(clock)); got != c.code {
				t.Errorf("code %q, want %q", got, c.code)
			}
		})
	}
}

func extension(key, old, to string) func(*testing.T, *paid) {
	return func(t *testing.T, x *paid) {
		t.Helper()
		text := string(x.p.Extensions[key])
		if !strings.Contains(text, old) {
			t.Fatalf("extension has no %s: %s", old, text)
		}
		x.p.Extensions = map[string]json.RawMessage{key: json.RawMessage(strings.Replace(text, old, to, 1))}
	}
}

// Whatever is not spelled in the one way, or is not there, is no payment.
func TestReadIsStrict(t *testing.T) {
	t.Parallel()
	const sig = "invalid_exact_evm_signature"
	for _, c := range []struct{ name, old, to, code string }{
		{"exact_eip3009_v2", `"value":"10000"`, `"value":10000`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"+10000"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"-10000"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"010000"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"1e4"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"10000.0"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"0x2710"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":" 10000"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":""`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":null`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000",`, ``, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"` + strings.Repeat("9", 78) + `"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"10000","value":"10000"`, "invalid_payload"},
		{"exact_eip3009_v2", `"value":"10000"`, `"value":"10000","Value":"1"`, "invalid_payload"},
		{"exact_eip3009_v2", `"validAfter":"0"`, `"validAfter":"18446744073709551616"`, "invalid_payload"},
		{"exact_eip3009_v2", `"validAfter":"0"`, `"validAfter":"00"`, "invalid_payload"},
		{"exact_eip3009_v2", `"validBefore":"1767225660"`, `"validBefore":"115792089237316195423570985008687907853269984665640564039457584007913129639935"`, "invalid_payload"},
		{"exact_eip3009_v2", `"nonce":"0x11`, `"nonce":"0x`, "invalid_payload"},
		{"exact_eip3009_v2", `"nonce":"0x`, `"nonce":"`, "invalid_payload"},
		{"exact_eip3009_v2", `"nonce":"0x11`, `"nonce":"0xzz`, "invalid_payload"},
		{"exact_eip3009_v2", `"from":"0x`, `"from":"`, "invalid_payload"},
		{"exact_eip3009_v2", `"to":"0x2096`, `"to":"0x20`, "invalid_payload"},
		{"exact_eip3009_v2", `{"authorization":`, `{"permit2Authorization":{},"authorization":`, "invalid_payload"},
		{"exact_eip3009_v2", `{"authorization":{`, `{"authorization":[{`, "invalid_payload"},
		{"exact_eip3009_v2", `"authorization":`, `"authorisation":`, "unsupported_payload_type"},
		{"exact_eip3009_v2", `{"authorization":`, `{"delegationManager":"x","x":`, "unsupported_payload_type"},
		{"exact_eip3009_v2", `"signature":"0x`, `"signature":"`, sig},
		{"exact_eip3009_v2", `"signature":"0xce`, `"signature":"0xc`, sig},
		{"exact_eip3009_v2", `"signature":"0x`, `"signature":"0xzz`, sig},
		{"exact_eip3009_v2", `"signature":"`, `"sig":"`, "invalid_payload"},
		{"exact_eip3009_v2", `"signature":"`, `"signature":null,"sig":"`, "invalid_payload"},
		{"exact_eip3009_v2", `"signature":"0x`, `"signature":"","sig":"`, sig},
		{"exact_permit2_v2", `"nonce":"1543`, `"nonce":"0x1543`, "invalid_payload"},
		{"exact_permit2_v2", `"nonce":"1543`, `"nonce":"91543`, "invalid_payload"},
		{"exact_permit2_v2", `"permitted":{`, `"permitted":"x","p":{`, "invalid_payload"},
		{"exact_permit2_v2", `"witness":{`, `"w":{`, "invalid_payload"},
		{"exact_permit2_v2", `"signature":"0x`, `"signature":"0xz`, "invalid_permit2_signature"},
		{"upto_permit2_v2", `"facilitator":"0x`, `"facilitator":"`, "invalid_payload"},
		{"upto_permit2_v2", `"facilitator":`, `"f":`, "invalid_payload"},
	} {
		x := published(t, "x402", c.name)
		x.payload(t, c.old, c.to)
		if _, err := Read(x.p, x.r); codeOf(err) != c.code {
			t.Errorf("%s for %s: %q, want %q", c.to, c.old, codeOf(err), c.code)
		} else if len(err.Error()) > 400 {
			t.Errorf("%s for %s: an error of %d bytes", c.to, c.old, len(err.Error()))
		}
	}
	x := published(t, "x402", "exact_eip3009_v2")
	for _, payload := range []string{"", "null", "[]", `"x"`, "{", "{}", strings.Repeat("[", 100_000), `{"authorization":{},"signature":"0x` + strings.Repeat("00", 20_000) + `"}`} {
		x.p.Payload = json.RawMessage(payload)
		if a, err := Read(x.p, x.r); err == nil {
			t.Errorf("payload %.40q is read as %+v", payload, a)
		}
	}
	// What is spelled in another way that means the same to everybody is the same payment.
	y := published(t, "x402", "exact_eip3009_v2")
	y.payload(t, "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "0X70997970c51812DC3A010C7d01b50e0d17dc79C8")
	x = published(t, "x402", "exact_eip3009_v2")
	one, err1 := Read(x.p, x.r)
	two, err2 := Read(y.p, y.r)
	if err1 != nil || err2 != nil || one.ID() != two.ID() || one.Digest() != two.Digest() {
		t.Errorf("letter case makes another payment: %v, %v", err1, err2)
	}
}

// Terms that nobody can be paid by are the seller's fault, not the buyer's.
func TestTermsThatCannotBeMet(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*x402.Requirements){
		"asset":          func(r *x402.Requirements) { r.Asset = "USDC" },
		"payTo":          func(r *x402.Requirements) { r.PayTo = "alice" },
		"nobody":         func(r *x402.Requirements) { r.PayTo = evm.Address{}.String() },
		"amount":         func(r *x402.Requirements) { r.Amount = "0x2710" },
		"empty amount":   func(r *x402.Requirements) { r.Amount = "" },
		"signed amount":  func(r *x402.Requirements) { r.Amount = "+1" },
		"decimal amount": func(r *x402.Requirements) { r.Amount = "0.1" },
	} {
		x := published(t, "x402", "exact_eip3009_v2")
		change(&x.r)
		if got := codeOf(x.accept(clock)); got != "invalid_payment_requirements" {
			t.Errorf("%s: accepted with %q", what, got)
		}
		if _, err := Pay(t.Context(), payerKey(t), x.r, evm.Hash{1}, clock); codeOf(err) != "invalid_payment_requirements" {
			t.Errorf("%s: paid with %v", what, err)
		}
	}
}

func TestPayRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, file, name string
		change           func(*paid)
		code             string
	}{
		{"a scheme of others", "x402", "exact_eip3009_v2", func(x *paid) { x.r.Scheme = "batch-settlement" }, "unsupported_scheme"},
		{"another kind of chain", "x402", "exact_eip3009_v2", func(x *paid) { x.r.Network = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp" }, "invalid_network"},
		{"a chain spelled twice", "x402", "exact_eip3009_v2", func(x *paid) { x.r.Network = "eip155:084532" }, "invalid_network"},
		{"a method of others", "x402", "exact_eip3009_v2", func(x *paid) { x.extra("assetTransferMethod", "erc7710") }, "unsupported_payload_type"},
		{"no signing domain", "x402", "exact_eip3009_v2", func(x *paid) { x.extra("name", nil) }, "invalid_exact_evm_missing_eip712_domain"},
		{"no time", "x402", "exact_eip3009_v2", func(x *paid) { x.r.MaxTimeoutSeconds = 0 }, "invalid_payment_requirements"},
		{"negative time", "x402", "exact_eip3009_v2", func(x *paid) { x.r.MaxTimeoutSeconds = -1 }, "invalid_payment_requirements"},
		{"nothing through Permit2", "x402", "exact_permit2_v2", func(x *paid) { x.r.Amount = "0" }, "invalid_payment_requirements"},
		{"upto without a facilitator", "x402", "upto_permit2_v2", func(x *paid) { x.extra("facilitatorAddress", nil) }, "invalid_payment_requirements"},
		{"upto by EIP-3009", "x402", "upto_permit2_v2", func(x *paid) { x.extra("assetTransferMethod", "eip3009") }, "unsupported_payload_type"},
		{"T402's own upto", "x402", "upto_permit2_v2", func(x *paid) { x.r.Amount = ""; x.extra("facilitatorAddress", nil) }, "invalid_payment_requirements"},
		{"legacy without a spender", "t402", "exact_legacy_v2", func(x *paid) { x.extra("spender", nil) }, "invalid_spender"},
	} {
		x := published(t, c.file, c.name)
		c.change(&x)
		if _, err := Pay(t.Context(), payerKey(t), x.r, evm.Hash{1}, clock); codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", c.what, err, c.code)
		}
	}
	x := published(t, "x402", "exact_eip3009_v2")
	if _, err := Pay(t.Context(), payerKey(t), x.r, evm.Hash{1}, time.Unix(-1, 0)); err == nil {
		t.Error("paid before there was time")
	}
}

func TestWindowIncludesItsBounds(t *testing.T) {
	t.Parallel()
	x := published(t, "x402", "exact_eip3009_v1") // 1767225000 to 1767225660
	for at, code := range map[int64]string{
		1767224999: "invalid_exact_evm_payload_authorization_valid_after",
		1767225000: "",
		1767225654: "",
		1767225655: "invalid_exact_evm_payload_authorization_valid_before",
		-1:         "invalid_exact_evm_payload_authorization_valid_after",
	} {
		if got := codeOf(x.accept(time.Unix(at, 0))); got != code {
			t.Errorf("at %d: %q, want %q", at, got, code)
		}
	}
}

func TestSignedForms(t *testing.T) {
	t.Parallel()
	x := published(t, "x402", "exact_eip3009_v2")
	a, err := Read(x.p, x.r)
	if err != nil {
		t.Fatal(err)
	}
	order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	good := a.Signature
	with := func(change func([]byte) []byte) error {
		b := a
		b.Signature = change(append([]byte(nil), good...))
		return b.Signed()
	}
	for what, change := range map[string]func([]byte) []byte{
		"as sent":            func(s []byte) []byte { return s },
		"v of a recovery id": func(s []byte) []byte { s[64] -= 27; return s },
	} {
		if err := with(change); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func([]byte) []byte{
		"v 29":        func(s []byte) []byte { s[64] = 29; return s },
		"the other v": func(s []byte) []byte { s[64] ^= 27 ^ 28; return s },
		"high s": func(s []byte) []byte {
			new(big.Int).Sub(order, new(big.Int).SetBytes(s[32:64])).FillBytes(s[32:64])
			s[64] ^= 27 ^ 28
			return s
		},
		"compact, of EIP-2098":       func(s []byte) []byte { s[32] |= (s[64] - 27) << 7; return s[:64] },
		"a byte more":                func(s []byte) []byte { return append(s, 0) },
		"nothing":                    func(s []byte) []byte { return nil },
		"nothing but the right size": func(s []byte) []byte { return make([]byte, 65) },
		"wrapped by ERC-6492": func(s []byte) []byte {
			return append(evm.EncodeArgs(evm.WordArg(evm.Address{1}.Word()), evm.BytesArg(nil), evm.BytesArg(s)), wrapSuffix...)
		},
	} {
		err := with(change)
		if codeOf(err) != "invalid_exact_evm_signature" || !errors.Is(err, ErrContractSignature) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The vector that the published library made.
func TestUnwrap(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/x402.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Wrapping struct {
			Factory evm.Address
			Data    string `json:"factory_calldata"`
			Inner   string `json:"inner_signature"`
			Wrapped string
		} `json:"erc6492"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	wrapped, err := readHex(file.Wrapping.Wrapped)
	if err != nil {
		t.Fatal(err)
	}
	w, ok := unwrap(wrapped)
	if !ok || w.factory != file.Wrapping.Factory || "0x"+hex.EncodeToString(w.data) != file.Wrapping.Data || "0x"+hex.EncodeToString(w.signature) != file.Wrapping.Inner {
		t.Errorf("unwrapped to %+v", w)
	}
	for cut := range len(wrapped) {
		if w, ok := unwrap(append(append([]byte(nil), wrapped[:cut]...), wrapSuffix...)); ok && cut < len(wrapped)-64 {
			t.Errorf("cut off at %d: %+v", cut, w)
		}
	}
}

// Every code of this package has its row, its remedy and its status.
func TestEveryCodeHasARow(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	code, n := regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)+$`), 0
	look := func(node ast.Node) bool {
		if l, ok := node.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if text, _ := strconv.Unquote(l.Value); code.MatchString(text) {
				if n++; !hasRow(text) {
					t.Errorf("%s has no row in package x402", text)
				}
			}
		}
		return true
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, look)
	}
	if n < 60 {
		t.Errorf("found %d codes only", n)
	}
}

func hasRow(code string) bool { _, ok := x402.Lookup(code); return ok }

func FuzzRead(f *testing.F) {
	for _, e := range exchanges {
		x := published(f, e.file, e.name)
		f.Add([]byte(x.p.Payload), e.scheme, x.p.Network)
	}
	terms := map[string]x402.Requirements{}
	for _, name := range []string{"exact_eip3009_v2", "upto_permit2_v2"} {
		x := published(f, "x402", name)
		terms[x.r.Scheme] = x.r
	}
	legacy := published(f, "t402", "exact_legacy_v2")
	terms[LegacyScheme] = legacy.r
	f.Fuzz(func(t *testing.T, payload []byte, scheme, network string) {
		r, ok := terms[scheme]
		if !ok {
			r = terms[Scheme]
		}
		r.Network = network
		a, err := Read(x402.Payment{Version: 2, Scheme: scheme, Network: network, Payload: payload}, r)
		if err != nil {
			if strings.HasPrefix(codeOf(err), "no refusal") {
				t.Errorf("%v", err)
			}
			return
		}
		// What is read means the same when it is written and read again.
		text, err := a.Payload()
		if err != nil {
			t.Fatal(err)
		}
		b, err := Read(x402.Payment{Version: 2, Scheme: scheme, Network: network, Payload: text}, r)
		if err != nil || b.Digest() != a.Digest() || b.ID() != a.ID() || string(b.Signature) != string(a.Signature) {
			t.Errorf("%s is written as %s (%v)", payload, text, err)
		}
		_ = a.Accept(r, clock)
		if _, err := (&Verifier{}).Move(a, a.Amount); err != nil && !(a.Method == Permit2 && a.Amount == money.Amount{}) {
			t.Errorf("%s cannot be settled: %v", payload, err)
		}
	})
}

// What was recovered once is not believed of anything else: neither of another payment, nor of another signature.
func TestARecoveredSignatureCountsForNothingElse(t *testing.T) {
	x := published(t, "x402", "exact_eip3009_v2")
	a, err := Read(x.p, x.r)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Signed(); err != nil {
		t.Fatal(err)
	}
	for what, alter := range map[string]func(*Authorization){
		"amount":  func(a *Authorization) { a.Amount = money.Units(1) },
		"payee":   func(a *Authorization) { a.To[0]++ },
		"payer":   func(a *Authorization) { a.From[0]++ },
		"nonce":   func(a *Authorization) { a.Nonce[0]++ },
		"expiry":  func(a *Authorization) { a.ValidBefore++ },
		"token":   func(a *Authorization) { a.Asset[0]++ },
		"chain":   func(a *Authorization) { a.ChainID++ },
		"signing": func(a *Authorization) { a.Signature = append([]byte(nil), a.Signature...); a.Signature[5]++ },
	} {
		b := a
		alter(&b)
		if b.Signed() == nil {
			t.Errorf("with another %s it counts as signed", what)
		}
		if _, byKey := b.onChain(b.Signature); byKey {
			t.Errorf("with another %s it counts as made by the payer's key", what)
		}
	}
	if err := a.Signed(); err != nil {
		t.Errorf("unaltered: %v", err)
	}
}
