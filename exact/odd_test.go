package exact

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/internal/jsonobject"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// scripted is a chain whose contracts answer by selector; what is not in the script is refused.
type scripted map[[4]byte][]byte

func (s scripted) ChainID() uint64                                   { return 31337 }
func (s scripted) Code(context.Context, evm.Address) ([]byte, error) { return []byte{1}, nil }
func (s scripted) Read(_ context.Context, _, _ evm.Address, data []byte) ([]byte, error) {
	if reply, ok := s[[4]byte(data)]; ok {
		return reply, nil
	}
	return nil, refusal{reason: "nothing here"}
}

func words(values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		w := evm.WordUint64(v)
		b = append(b, w[:]...)
	}
	return b
}

// Some tokens tell their signing domain by its members only (EIP-5267), some by nothing.
func TestProbeTokenByMembers(t *testing.T) {
	t.Parallel()
	token := network.Token{Symbol: "USDC", Address: evm.Address{9}, Decimals: 6, Name: "Coin", Version: "3", EIP3009: true, EIP2612: true}
	domain := func(fields byte, name, version string, chain uint64, contract evm.Address) []byte {
		return evm.EncodeArgs(evm.WordArg([32]byte{fields}), evm.BytesArg([]byte(name)), evm.BytesArg([]byte(version)), numberArg(chain),
			addressArg(contract), evm.WordArg([32]byte{}), evm.ListArg())
	}
	good := domain(0x0f, "Coin", "3", 31337, token.Address)
	script := func(change func(scripted)) scripted {
		s := scripted{selDecimals: words(6), selDomain: good, selState: words(0), selNonces: words(0)}
		change(s)
		return s
	}
	for _, c := range []struct {
		name  string
		chain scripted
		words string
	}{
		{"as it is", script(func(scripted) {}), ""},
		{"another name", script(func(s scripted) { s[selDomain] = domain(0x0f, "Coins", "3", 31337, token.Address) }), `is "Coins" version "3"`},
		{"another version", script(func(s scripted) { s[selDomain] = domain(0x0f, "Coin", "2", 31337, token.Address) }), `version "2"`},
		{"another chain", script(func(s scripted) { s[selDomain] = domain(0x0f, "Coin", "3", 1, token.Address) }), "of chain 1"},
		{"another contract", script(func(s scripted) { s[selDomain] = domain(0x0f, "Coin", "3", 31337, evm.Address{8}) }), "its signing domain is"},
		{"with a salt", script(func(s scripted) { s[selDomain] = domain(0x1f, "Coin", "3", 31337, token.Address) }), "its signing domain is"},
		{"cut off", script(func(s scripted) { s[selDomain] = good[:160] }), "cannot be read"},
		{"says nothing", script(func(s scripted) { delete(s, selDomain) }), "does not say its signing domain"},
		{"another separator", script(func(s scripted) { s[selSeparator] = words(7) }), `it calls itself ""`},
		{"another separator, names in 32 bytes", script(func(s scripted) {
			s[selSeparator], s[selName] = words(7), append([]byte("Old Coin"), make([]byte, 24)...)
		}), `it calls itself "Old Coin"`},
		{"no EIP-3009", script(func(s scripted) { delete(s, selState) }), "EIP-3009"},
		{"a state that is no bool", script(func(s scripted) { s[selState] = words(2) }), "EIP-3009"},
		{"no permits", script(func(s scripted) { delete(s, selNonces) }), "EIP-2612"},
	} {
		if err := ProbeToken(t.Context(), c.chain, token); (err == nil) != (c.words == "") || err != nil && (codeOf(err) != "chain_mismatch" || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Something else at the address of Multicall3 is a fault of the chain, not of the payment.
func TestImpostorsOnTheChain(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string][]byte{
		"nothing": nil, "a word": words(1), "too few answers": evm.EncodeArgs(evm.ListArg()),
		"answers that are cut off": words(32, 3, 1<<40, 0, 0),
	} {
		chain := scripted{selTryAggregate: reply}
		if answers, err := together(t.Context(), chain, make([]call, 3)); err == nil || strings.HasPrefix(codeOf(err), "invalid") {
			t.Errorf("%s: %+v, %v", name, answers, err)
		}
	}
	// One that uses up all gas has refused every call.
	answers, err := together(t.Context(), scripted{}, make([]call, 3))
	if err != nil || len(answers) != 3 || answers[0].ok || answers[0].reason != "nothing here" {
		t.Errorf("no gas left: %+v, %v", answers, err)
	}
	for _, a := range []Authorization{{Method: EIP3009}, {Method: Permit2}} {
		for _, chain := range []scripted{{}, {selState: nil, selBitmap: nil}, {selState: words(7), selBitmap: words()}} {
			if used, err := Used(t.Context(), chain, a); err == nil || used {
				t.Errorf("nonce by %s is used: %v, %v", a.Method, used, err)
			}
		}
	}
	// The nonce's low byte is its bit, the rest its word.
	for bit := range 256 {
		var bitmap [32]byte
		bitmap[31-bit/8] = 1 << (bit % 8)
		for other, want := range map[int]bool{bit: true, (bit + 1) % 256: false, (bit + 8) % 256: false} {
			a := Authorization{Method: Permit2, Nonce: evm.Hash{31: byte(other)}}
			if used, err := Used(t.Context(), scripted{selBitmap: bitmap[:]}, a); err != nil || used != want {
				t.Fatalf("bit %d of a word with bit %d: %v, %v", other, bit, used, err)
			}
		}
	}
}

// A legacy payment that the token would refuse, or refuses by its answer as some do, is not settled.
func TestLegacySimulation(t *testing.T) {
	t.Parallel()
	spender := evm.Address{5}
	r := legacy(devchain.TestTether, spender)
	a, err := Pay(t.Context(), payerKey(t), r, evm.Hash{1}, clock)
	if err != nil {
		t.Fatal(err)
	}
	rich := scripted{selBalance: words(price), selAllowance: words(price)}
	for _, c := range []struct {
		name  string
		reply []byte
		there bool
		code  string
	}{
		{"true", words(1), true, ""}, {"nothing, as the oldest tokens", nil, true, ""}, {"false", words(0), true, "settlement_failed"},
		{"a refusal", nil, false, "settlement_failed"},
	} {
		chain := scripted{}
		for k, v := range rich {
			chain[k] = v
		}
		if c.there {
			chain[selTransferFrom] = c.reply
		}
		v := &Verifier{Chain: withoutCode{chain, a.From}, Simulate: true}
		if err := v.Judge(t.Context(), a, r, clock, true); codeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := v.Judge(t.Context(), a, r, clock, false); err != nil {
			t.Errorf("%s, not simulated: %v", c.name, err)
		}
	}
}

type withoutCode struct {
	scripted
	account evm.Address
}

func (w withoutCode) Code(_ context.Context, a evm.Address) ([]byte, error) {
	if a == w.account {
		return nil, nil
	}
	return []byte{1}, nil
}

// JSON may be written with spaces and escapes; it is the same payment.
func TestReadTakesAnyJSON(t *testing.T) {
	t.Parallel()
	for _, e := range exchanges {
		x := published(t, e.file, e.name)
		plain, err := Read(x.p, x.r)
		if err != nil {
			t.Fatal(err)
		}
		var wide bytes.Buffer
		if err := json.Indent(&wide, x.p.Payload, " \t", "\r\n "); err != nil {
			t.Fatal(err)
		}
		escaped := strings.ReplaceAll(wide.String(), "0x", `\u0030x`)
		escaped = strings.ReplaceAll(escaped, `"signature"`, `"sig\u006eature"`)
		x.p.Payload = json.RawMessage(strings.Replace(escaped, "{", `{"unknown": [1, {"from": "]}", "n": 7}, null ], "more": -1.5e3 ,`, 1))
		got, err := Read(x.p, x.r)
		if err != nil || got.Digest() != plain.Digest() || !bytes.Equal(got.Signature, plain.Signature) {
			t.Errorf("%s: %v", e.name, err)
		}
	}
	x := published(t, "x402", "exact_eip3009_v2")
	var many strings.Builder
	for i := range jsonobject.MembersMax {
		many.WriteString(`"m` + string(rune('A'+i)) + `":0,`)
	}
	x.payload(t, "{", "{"+many.String())
	if _, err := Read(x.p, x.r); codeOf(err) != "invalid_payload" {
		t.Errorf("an object of too many members: %v", err)
	}
}

// An approval does nothing else, and is of the chain that it is for.
func TestApprovalDoesNothingElse(t *testing.T) {
	t.Parallel()
	key := devchain.Accounts()[1]
	w := &world{t: t}
	a := Authorization{Scheme: Scheme, Method: Permit2, ChainID: devchain.DefaultChainID, Asset: devchain.TestDollar, From: key.Address()}
	data := evm.EncodeCall([4]byte(approveSelector), addressArg(Permit2Address), amountArg(unlimited))
	to := common.Address(devchain.TestDollar)
	for name, c := range map[string]struct {
		change func(*types.DynamicFeeTx)
		code   string
	}{
		"as it is":       {func(*types.DynamicFeeTx) {}, ""},
		"with a payment": {func(b *types.DynamicFeeTx) { b.Value = big.NewInt(1) }, "erc20_approval_tx_invalid_calldata"},
		"with more data": {func(b *types.DynamicFeeTx) { b.Data = append(bytes.Clone(data), 0) }, "erc20_approval_tx_invalid_calldata"},
		"with less data": {func(b *types.DynamicFeeTx) { b.Data = data[:36] }, "erc20_approval_tx_invalid_calldata"},
		"no data":        {func(b *types.DynamicFeeTx) { b.Data = nil }, "erc20_approval_tx_wrong_selector"},
		"a creation":     {func(b *types.DynamicFeeTx) { b.To = nil }, "erc20_approval_tx_parse_failed"},
	} {
		body := &types.DynamicFeeTx{ChainID: big.NewInt(devchain.DefaultChainID), To: &to, Gas: 70_000, GasFeeCap: big.NewInt(1e9), GasTipCap: big.NewInt(1e8), Data: data}
		c.change(body)
		raw, err := w.signed(key, body).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Approved(raw); codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	elsewhere := a
	elsewhere.ChainID = 1
	body := &types.DynamicFeeTx{ChainID: big.NewInt(devchain.DefaultChainID), To: &to, Gas: 70_000, GasFeeCap: big.NewInt(1e9), GasTipCap: big.NewInt(1e8), Data: data}
	raw, err := w.signed(key, body).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Approved(raw); codeOf(err) != "erc20_approval_tx_invalid_signature" {
		t.Errorf("an approval for another chain: %v", err)
	}
}

// Approvals are passed over by whoever does not broadcast them, even ones that cannot be read.
func TestApprovalsPassedOver(t *testing.T) {
	t.Parallel()
	x := published(t, "x402", "exact_permit2_with_erc20_approval_gas_sponsoring")
	extension(ApprovalExtension, `"amount":"1157`, `"amount":"-1157`)(t, &x)
	chain := withoutCode{scripted{}, payerKey(t).Address()}
	v := &Verifier{Chain: otherChain{chain, 84532}}
	a, err := v.Verify(t.Context(), x.p, x.r, clock)
	if err != nil {
		t.Errorf("passed over: %v", err)
	}
	if m, err := v.Move(a, a.Amount); err != nil || len(m.Before) != 0 {
		t.Errorf("settled with %+v, %v", m.Before, err)
	}
	v = &Verifier{Chain: otherChain{chain, 84532}, Approvals: true}
	if _, err := v.Verify(t.Context(), x.p, x.r, clock); codeOf(err) != "invalid_erc20_approval_extension_format" {
		t.Errorf("looked at: %v", err)
	}
}

type otherChain struct {
	withoutCode
	id uint64
}

func (o otherChain) ChainID() uint64 { return o.id }

// What a payer signed beside the payment is never lost from terms, nor put where nobody asked for it.
func TestExtensions(t *testing.T) {
	t.Parallel()
	a := Authorization{Permit: &Permit{Amount: money.Units(1), Signature: make([]byte, 65)}}
	if got, err := a.Extensions(map[string]json.RawMessage{"bazaar": json.RawMessage(`{}`)}); err != nil || len(got) != 1 {
		t.Errorf("where it is not advertised: %s, %v", got, err)
	}
	for entry, want := range map[string]string{
		`{"info":{"version":"7","x":"<y>"},"schema":{"a":1},"other":true}`: `{"info":{"version":"7","x":"\u003cy\u003e","from":"0x`,
		`{"info":{},"schema":{}}`: `{"info":{"from":"0x`,
		`{"schema":{}}`:           `{"info":{"from":"0x`,
		`{"info":null}`:           `{"info":{"from":"0x`,
	} {
		advertised := map[string]json.RawMessage{PermitExtension: json.RawMessage(entry)}
		got, err := a.Extensions(advertised)
		if err != nil || !strings.HasPrefix(string(got[PermitExtension]), want) || !json.Valid(got[PermitExtension]) {
			t.Errorf("%s becomes %s, %v", entry, got[PermitExtension], err)
		}
		if string(advertised[PermitExtension]) != entry {
			t.Errorf("the terms became %s", advertised[PermitExtension])
		}
	}
	for _, entry := range []string{`[]`, `7`, `{"info":7}`, `{`} {
		if got, err := a.Extensions(map[string]json.RawMessage{PermitExtension: json.RawMessage(entry)}); codeOf(err) != "offer_invalid" {
			t.Errorf("%s becomes %s, %v", entry, got, err)
		}
	}
}

func TestLogsShowNoSignature(t *testing.T) {
	t.Parallel()
	x := published(t, "x402", "exact_eip3009_v2")
	a, err := Read(x.p, x.r)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("payment", "authorization", a)
	if !strings.Contains(out.String(), "amount=10000") || strings.Contains(out.String(), "ce7b5d8f") {
		t.Errorf("logged as %s", out.String())
	}
}

var _ Chain = scripted{}
