package payer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Sellers of every version and dialect are paid, in theirs, for exactly what they asked.
func TestTransfersInEveryDialect(t *testing.T) {
	t.Parallel()
	on := func(chain string) func([]x402.Requirements) []x402.Requirements {
		return func([]x402.Requirements) []x402.Requirements { return []x402.Requirements{transferOffer(chain)} }
	}
	permit2 := func([]x402.Requirements) []x402.Requirements {
		o := transferOffer("dev")
		o.Extra["assetTransferMethod"] = raw("permit2")
		return []x402.Requirements{o}
	}
	for _, test := range []struct {
		name   string
		till   *till
		way    string
		method exact.Method
		header string // of the payment
		sent   string // part of its JSON
	}{
		{"x402 version 2", &till{}, "exact", exact.EIP3009, "v2", `{"x402Version":2,`},
		{"x402 version 1", &till{version: 1, offers: on("base-sepolia")}, "exact", exact.EIP3009, "v1", `{"x402Version":1,"scheme":"exact","network":"base-sepolia",`},
		{"T402", &till{dialect: x402.T402}, "exact", exact.EIP3009, "v2", `{"t402Version":2,`},
		{"T402 version 1", &till{version: 1, dialect: x402.T402, offers: on("base")}, "exact", exact.EIP3009, "v1", `{"t402Version":1,"scheme":"exact","network":"base",`},
		{"both at once", &till{dialect: x402.Both}, "exact", exact.EIP3009, "v2", `{"x402Version":2,`},
		{"Permit2", &till{offers: permit2}, "exact", exact.Permit2, "v2", `"permit2Authorization"`},
		{"upto", &till{offers: func([]x402.Requirements) []x402.Requirements { return []x402.Requirements{uptoOffer("dev")} }}, "upto", exact.Permit2, "v2", `"facilitator":`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := test.till.start(t)
			p := s.payer(t)
			body, r, err := get(p, s.url+"/quote?x=1")
			if err != nil {
				t.Fatal(err)
			}
			got := s.payments[0]
			if body != "sold by "+test.way || r.State != Charged || r.Charged != money.Units(500) || r.Way != test.way || !r.Proven || got.auth.Method != test.method {
				t.Errorf("%q, %+v, %s", body, r, got.auth.Method)
			}
			if want := evm.Keccak256([]byte("tx"), got.auth.Nonce[:]).String(); r.Transaction != want || !strings.Contains(r.String(), "by "+test.way+" · purchase "+r.ID+" · tx "+want) {
				t.Errorf("%s: transaction %s", r, r.Transaction)
			}
			sent, _ := base64.StdEncoding.DecodeString(got.header)
			if !strings.Contains(string(sent), test.sent) || (got.Version == 1) != (test.header == "v1") {
				t.Errorf("version %d: %s", got.Version, sent)
			}
			// The nonce is the hash of the terms, whose purchase the envelope names where it can.
			o := got.offer
			terms := purchase.Terms{
				Purchase: r.ID, Scheme: o.Scheme, Network: o.Network, Asset: evm.MustAddress(o.Asset), Payee: sellerKey.Address(), Amount: money.Units(500),
				Method: "GET", Resource: s.url + "/quote?x=1", Body: purchase.BodyDigest(nil),
			}
			if got.auth.Nonce != terms.Hash() || got.Version == 2 && got.id != r.ID {
				t.Errorf("nonce %s, want %s; purchase %q", got.auth.Nonce, terms.Hash(), got.id)
			}
			if got.auth.From != buyerKey.Address() || r.Digest != got.auth.ID() || today(t, p) != "$0.9995" {
				t.Errorf("%+v, %s left", got.auth, today(t, p))
			}
		})
	}
}

// No byte of a signature leaves for an offer that no token would honour, or that hands out more than was asked.
func TestTransfersThatAreNotSigned(t *testing.T) {
	t.Parallel()
	usdt := func(r *x402.Requirements) {
		r.Network, r.Asset = "eip155:1", "0xdAC17F958D2ee523a2206206994597C13D831ec7"
	}
	for name, test := range map[string]struct {
		change func(*x402.Requirements)
		says   string
	}{
		"a wrong domain name":           {func(r *x402.Requirements) { r.Extra["name"] = raw("USDC") }, `the token would refuse the signature`},
		"a wrong domain version":        {func(r *x402.Requirements) { r.Extra["version"] = raw("1") }, `the token would refuse the signature`},
		"no domain":                     {func(r *x402.Requirements) { delete(r.Extra, "name") }, "does not name the signing domain"},
		"a token without signatures":    {usdt, "USDT on ethereum does not have"},
		"a token nobody knows":          {func(r *x402.Requirements) { r.Asset = otherKey.Address().String() }, "no budget in dollars can measure"},
		"another method":                {func(r *x402.Requirements) { r.Extra["assetTransferMethod"] = raw("erc7710") }, "this payer does not sign"},
		"good for ever":                 {func(r *x402.Requirements) { r.MaxTimeoutSeconds = 1 << 30 }, "good for 1073741824 seconds"},
		"good for no time":              {func(r *x402.Requirements) { r.MaxTimeoutSeconds = 0 }, "good for 0 seconds"},
		"good for less":                 {func(r *x402.Requirements) { r.MaxTimeoutSeconds = -5 }, "good for -5 seconds"},
		"a limit without a facilitator": {func(r *x402.Requirements) { r.Scheme = exact.UptoScheme }, "facilitatorAddress"},
		"a limit for nobody": {func(r *x402.Requirements) {
			r.Scheme, r.Extra["facilitatorAddress"] = exact.UptoScheme, raw(evm.Address{})
		}, "facilitatorAddress"},
		"a limit by EIP-3009": {func(r *x402.Requirements) {
			r.Scheme, r.Extra["assetTransferMethod"] = exact.UptoScheme, raw("eip3009")
		}, "this payer does not sign"},
		"no replay protection":  {func(r *x402.Requirements) { r.Scheme = exact.LegacyScheme }, "which this payer does not"},
		"an escrow":             {func(r *x402.Requirements) { r.Extra["paymentFlow"] = raw("escrow") }, "payment flow"},
		"more than there is":    {func(r *x402.Requirements) { r.Amount = strings.Repeat("9", 78) }, "no amount"},
		"nothing":               {func(r *x402.Requirements) { r.Amount = "0" }, "no amount"},
		"the buyer itself":      {func(r *x402.Requirements) { r.PayTo = buyerKey.Address().String() }, "no payee"},
		"a bundle of nothing":   {func(r *x402.Requirements) { r.Extra["bundle"] = raw(map[string]any{"calls": 0, "valid": "24h"}) }, "bundle of nothing"},
		"a bundle that is over": {func(r *x402.Requirements) { r.Extra["bundle"] = raw(map[string]any{"calls": 10, "valid": "1s"}) }, "bundle of nothing"},
		"a bundle of both": {func(r *x402.Requirements) {
			r.Extra["bundle"] = raw(map[string]any{"calls": 10, "units": 10, "unit": "token", "valid": "1h"})
		}, "bundle of nothing"},
		"a bundle that cannot be read":  {func(r *x402.Requirements) { r.Extra["bundle"] = raw([]int{1}) }, "cannot be read"},
		"a bundle of a negative number": {func(r *x402.Requirements) { r.Extra["bundle"] = raw(map[string]any{"calls": -1, "valid": "1h"}) }, "cannot be read"},
		"a bundle of very many": {func(r *x402.Requirements) {
			r.Extra["bundle"] = raw(map[string]any{"calls": uint64(1) << 60, "valid": "1h"})
		}, "bundle of nothing"},
		"a bundle of a nameless unit":    {func(r *x402.Requirements) { r.Extra["bundle"] = raw(map[string]any{"units": 10, "valid": "1h"}) }, "bundle of nothing"},
		"a bundle without an end":        {func(r *x402.Requirements) { r.Extra["bundle"] = raw(map[string]any{"calls": 10}) }, "bundle of nothing"},
		"a bundle that began before now": {func(r *x402.Requirements) { r.Extra["bundle"] = raw(map[string]any{"calls": 10, "valid": "-1h"}) }, "bundle of nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := (&till{offers: func(list []x402.Requirements) []x402.Requirements { test.change(&list[0]); return list }}).start(t)
			p := s.payer(t)
			_, _, err := get(p, s.url)
			if n := need(err); n == nil || n.Code != "no_common_option" || !strings.Contains(n.Reason, test.says) || len(s.payments) != 0 || today(t, p) != "$1.00" {
				t.Errorf("%v, %d payments", err, len(s.payments))
			}
		})
	}
}

// Of several ways, tokens and networks the cheapest that the policy allows is paid; the seller's order breaks ties.
func TestTheCheapestWayThatThePolicyAllows(t *testing.T) {
	t.Parallel()
	promise := func(amount string) x402.Requirements { o := (&seller{}).offer(); o.Amount = amount; return o }
	at := func(o x402.Requirements, amount string) x402.Requirements { o.Amount = amount; return o }
	bundled := func(amount string, calls int) x402.Requirements {
		o := at(transferOffer("dev"), amount)
		o.Extra["bundle"] = raw(map[string]any{"calls": calls, "valid": "1h"})
		return o
	}
	house := func(c *Config) { c.Houses = append(c.Houses, deployment) }
	by := func(ways ...string) func(*Config) { return func(c *Config) { house(c); c.PayBy = ways } }
	on := func(networks ...string) func(*Config) { return func(c *Config) { house(c); c.Networks = networks } }
	for _, test := range []struct {
		name   string
		offers []x402.Requirements
		config func(*Config)
		want   string // scheme, network, amount
	}{
		{"cheaper elsewhere", []x402.Requirements{at(transferOffer("dev"), "500"), at(transferOffer("base"), "400")}, house, "exact eip155:8453 400"},
		{"a tie", []x402.Requirements{transferOffer("arbitrum"), transferOffer("base"), promise("500")}, house, "exact eip155:42161 500"},
		{"a tie, the promise first", []x402.Requirements{promise("500"), transferOffer("base")}, house, "4mica-credit eip155:31337 500"},
		{"without a clearing house", []x402.Requirements{promise("1"), transferOffer("base")}, nil, "exact eip155:8453 500"},
		{"by transfer only", []x402.Requirements{promise("1"), uptoOffer("dev"), transferOffer("base")}, by("exact"), "exact eip155:8453 500"},
		{"by promise only", []x402.Requirements{transferOffer("base"), promise("900")}, by("guarantee"), "4mica-credit eip155:31337 900"},
		{"on one network", []x402.Requirements{promise("1"), transferOffer("base"), transferOffer("arbitrum")}, on("arbitrum"), "exact eip155:42161 500"},
		{"a bundle is cheaper by the call", []x402.Requirements{at(transferOffer("dev"), "600"), bundled("5000", 10)}, house, "exact eip155:31337 5000"},
		{"a bundle that is dearer by the call", []x402.Requirements{bundled("5000", 2), at(transferOffer("base"), "600")}, house, "exact eip155:8453 600"},
		{"a bundle that the budget does not cover", []x402.Requirements{bundled("50000", 100), at(transferOffer("base"), "600")}, house, "exact eip155:8453 600"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := (&till{offers: func([]x402.Requirements) []x402.Requirements { return test.offers }}).start(t)
			s.answer = func(w writer, r *request, got paid) bool { s.demand(w, r, "no"); return true }
			p := s.payer(t, func(c *Config) {
				if test.config != nil {
					test.config(c)
				}
			})
			get(p, s.url)
			if len(s.payments) != 1 {
				t.Fatalf("%d payments", len(s.payments))
			}
			if o := s.payments[0].offer; o.Scheme+" "+o.Network+" "+o.Amount != test.want {
				t.Errorf("paid %s %s %s, want %s", o.Scheme, o.Network, o.Amount, test.want)
			}
		})
	}
}

// An account that cannot pay is known before anything is signed: another way is taken, or the ways on are said with prices.
func TestAnAccountThatCannotPay(t *testing.T) {
	t.Parallel()
	base, dev := evm.MustAddress(transferOffer("base").Asset), evm.MustAddress(dollarText)
	both := func([]x402.Requirements) []x402.Requirements {
		return []x402.Requirements{transferOffer("base"), transferOffer("dev")}
	}
	t.Run("another network does", func(t *testing.T) {
		t.Parallel()
		s := (&till{offers: both}).start(t)
		s.chain.balances[coin(8453, base)] = 499
		if _, r, err := get(s.payer(t), s.url); err != nil || r.Network != "eip155:31337" {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("neither does", func(t *testing.T) {
		t.Parallel()
		s := (&till{offers: both}).start(t)
		s.chain.balances[coin(8453, base)], s.chain.balances[coin(31337, dev)] = 320, 0
		_, _, err := get(s.payer(t), s.url)
		n := need(err)
		if n == nil || n.Code != "insufficient_funds" || n.Available.String() != "$0.00032" || n.Asked.String() != "$0.0005" || len(s.payments) != 0 {
			t.Fatalf("%+v, %v", n, err)
		}
		if len(n.Ways) != 2 || n.Ways[0].Kind != OtherWay || n.Ways[0].Amount.String() != "$0.0005" || n.Ways[1].Kind != Deposit ||
			n.Ways[1].Amount.String() != "$0.00018" || n.Ways[1].Text != "send 0.00018 USDC on base to "+buyerKey.Address().String() {
			t.Errorf("%+v", n.Ways)
		}
	})
	t.Run("the money is elsewhere", func(t *testing.T) {
		t.Parallel()
		s := (&till{offers: func([]x402.Requirements) []x402.Requirements { return []x402.Requirements{transferOffer("arbitrum")} }}).start(t)
		for _, name := range []string{"arbitrum", "dev"} {
			chain, err := network.Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, token := range chain.Dollars() {
				s.chain.balances[coin(chain.ID, token.Address)] = 0
			}
		}
		_, _, err := get(s.payer(t), s.url)
		n := need(err)
		if n == nil || n.Code != "no_common_option" || n.Reason != "seller takes USDC on arbitrum; you hold USDC on base. Nothing was signed" {
			t.Errorf("%v", err)
		}
		_, _, err = get(s.payer(t, func(c *Config) { c.Networks = []string{"base"} }), s.url)
		if n := need(err); n == nil || n.Code != "no_common_option" || n.Reason != "seller takes USDC on arbitrum; you hold USDC on base. Nothing was signed" ||
			n.Hint != "fund "+buyerKey.Address().Short()+" on arbitrum, or ask the seller to accept base" {
			t.Errorf("%v (%+v)", err, n)
		}
	})
	t.Run("a node that does not answer is no reason to stop", func(t *testing.T) {
		t.Parallel()
		s := (&till{}).start(t)
		s.chain.dead = true
		if _, r, err := get(s.payer(t), s.url); err != nil || r.State != Charged {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// What Permit2 needs beside the signature is signed too where the seller pays for it, and otherwise known beforehand.
func TestPermit2NeedsAnAllowance(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, extensions ...string) *till {
		s := &till{offers: func(list []x402.Requirements) []x402.Requirements {
			list[0].Extra["assetTransferMethod"] = raw("permit2")
			return list
		}, extensions: map[string]json.RawMessage{}}
		for _, name := range extensions {
			s.extensions[name] = raw(map[string]any{"info": map[string]any{"description": "we pay", "version": "1"}, "schema": map[string]any{}})
		}
		s.start(t)
		s.chain.allowed[coin(31337, evm.MustAddress(dollarText))] = 499
		return s
	}
	t.Run("and nobody pays for it", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		_, _, err := get(s.payer(t), s.url)
		if n := need(err); n == nil || n.Code != "permit2_allowance_required" || len(s.payments) != 0 || len(n.Ways) != 1 || n.Ways[0].Kind != Deposit {
			t.Errorf("%v", err)
		}
	})
	t.Run("by a permit", func(t *testing.T) {
		t.Parallel()
		s := start(t, exact.PermitExtension, exact.ApprovalExtension)
		if _, _, err := get(s.payer(t), s.url); err != nil {
			t.Fatal(err)
		}
		got := s.payments[0]
		if got.auth.Permit == nil || got.auth.Permit.Nonce != money.Units(7) || got.auth.Permit.Amount != money.Units(500) {
			t.Fatalf("permit %+v", got.auth.Permit)
		}
		sig := evm.Signature(got.auth.Permit.Signature)
		if who, err := evm.Recover(got.auth.Permit.Digest(got.auth), sig); err != nil || who != buyerKey.Address() {
			t.Errorf("permit is signed by %s, %v", who, err)
		}
		if !strings.Contains(string(got.Extensions[exact.PermitExtension]), `"description":"we pay"`) {
			t.Errorf("echoed as %s", got.Extensions[exact.PermitExtension])
		}
	})
	t.Run("by a transaction", func(t *testing.T) {
		t.Parallel()
		s := start(t, exact.ApprovalExtension)
		w := &approving{ledgerChain: s.chain}
		s.answer = func(_ writer, _ *request, got paid) bool {
			if got.auth.Approval == nil || len(got.auth.Approval.Raw) == 0 {
				t.Errorf("approval %+v", got.auth.Approval)
			}
			return false
		}
		if _, _, err := get(s.payer(t, func(c *Config) { c.Wallet = w }), s.url); err != nil || w.asked != evm.MustAddress(dollarText) {
			t.Errorf("%v, asked for %s", err, w.asked)
		}
		// One that would do something else is not sent on.
		w.spoil = true
		s.payments = nil
		if _, _, err := get(s.payer(t, func(c *Config) { c.Wallet = w }), s.url); code(err) != "erc20_approval_tx_wrong_target" || len(s.payments) != 0 {
			t.Errorf("%v", err)
		}
	})
	t.Run("enough of it", func(t *testing.T) {
		t.Parallel()
		s := start(t, exact.PermitExtension)
		s.chain.allowed[coin(31337, evm.MustAddress(dollarText))] = 500
		if _, _, err := get(s.payer(t), s.url); err != nil || s.payments[0].auth.Permit != nil {
			t.Errorf("%v", err)
		}
	})
	t.Run("and the seller says so", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		s.answer = func(w writer, r *request, _ paid) bool {
			header, _ := x402.EncodeHeader(x402.PaymentRequired{X402Version: 2, Error: "permit2_allowance_required", Accepts: s.list()})
			w.Header().Set(x402.HeaderRequired, header)
			w.WriteHeader(412)
			fmt.Fprint(w, "{}")
			return true
		}
		_, _, err := get(s.payer(t, func(c *Config) { c.Wallet = nil }), s.url)
		if n := need(err); n == nil || n.Code != "permit2_allowance_required" || len(s.payments) != 1 {
			t.Errorf("%v", err)
		}
	})
	t.Run("and the seller says so without its offers", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		s.answer = func(w writer, r *request, _ paid) bool {
			w.WriteHeader(412)
			fmt.Fprint(w, `{"error":"it allows Permit2 0","code":"permit2_allowance_required"}`)
			return true
		}
		_, _, err := get(s.payer(t, func(c *Config) { c.Wallet = nil }), s.url)
		if n := need(err); n == nil || n.Code != "permit2_allowance_required" || len(s.payments) != 1 || !strings.Contains(n.Hint, "--rpc-url") {
			t.Errorf("%v", err)
		}
	})
}

// A refusal by a way that cannot be afforded gives way to another way, once; nothing else is signed a second time.
func TestAWayThatIsRefusedForLackOfFunds(t *testing.T) {
	t.Parallel()
	promise := (&seller{}).offer()
	s := (&till{offers: func(list []x402.Requirements) []x402.Requirements {
		return append([]x402.Requirements{promise}, list...)
	}}).start(t)
	s.answer = func(w writer, r *request, got paid) bool {
		if got.Scheme == "4mica-credit" {
			s.demand(w, r, "collateral_insufficient")
			return true
		}
		return false
	}
	p := s.payer(t, func(c *Config) { c.Houses = append(c.Houses, deployment) })
	body, r, err := get(p, s.url)
	if err != nil || body != "sold by exact" || len(s.payments) != 2 || r.Way != "exact" {
		t.Fatalf("%q, %+v, %v", body, r, err)
	}
	if today(t, p) != "$0.9995" {
		t.Errorf("%s left", today(t, p))
	}
	// And where that is refused too, the refusals end.
	s.answer = func(w writer, r *request, got paid) bool { s.demand(w, r, "insufficient_funds"); return true }
	s.payments = nil
	_, _, err = get(p, s.url)
	if n := need(err); n == nil || n.Code != "insufficient_funds" || len(s.payments) != 2 {
		t.Errorf("%v, %d payments", err, len(s.payments))
	}
}

// Stock sellers say many things in a second 402. Each is explained with its code, and none is paid again.
func TestASecond402(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		for reason, want := range map[string]string{
			"": "payment_refused", "Payment verification failed": "payment_refused", "invalid_exact_evm_signature": "invalid_exact_evm_signature",
			"invalid_exact_evm_payload_authorization_valid_before": "invalid_exact_evm_payload_authorization_valid_before", "No matching payment requirements": "payment_refused",
			"invalid_exact_evm_transaction_failed": "invalid_exact_evm_transaction_failed", "extension_echo_mismatch": "extension_echo_mismatch",
		} {
			s := &till{version: version}
			if version == 1 {
				s.offers = func([]x402.Requirements) []x402.Requirements {
					return []x402.Requirements{transferOffer("base-sepolia")}
				}
			}
			s.answer = func(w writer, r *request, _ paid) bool { s.demand(w, r, reason); return true }
			s.start(t)
			p := s.payer(t)
			_, _, err := get(p, s.url)
			if n := need(err); n == nil || n.Code != want || len(s.payments) != 1 {
				t.Errorf("version %d, %q: %v, %d payments", version, reason, err, len(s.payments))
			}
			if list, _ := p.Receipts(); list[0].State != Void || list[0].Proven || today(t, p) != "$1.00" {
				t.Errorf("version %d, %q: %+v", version, reason, list[0])
			}
		}
	}
}

// A transfer that was sent and is not confirmed is asked about again with the same signature, then left open.
func TestASettlementThatIsPending(t *testing.T) {
	t.Parallel()
	tx := evm.Keccak256([]byte("pending")).String()
	for _, test := range []struct {
		name    string
		times   int
		arrived int
	}{{"for a while", 2, 3}, {"for ever", 99, 4}} {
		s := &till{}
		s.answer = func(w writer, r *request, got paid) bool {
			if got.try >= test.times {
				return false
			}
			text, _ := x402.EncodeHeader(x402.SettleResponse{ErrorReason: "settlement_pending", Transaction: tx})
			w.Header().Set(x402.HeaderResponse, text)
			w.WriteHeader(402)
			fmt.Fprint(w, "{}")
			return true
		}
		s.start(t)
		p := s.payer(t)
		_, _, err := get(p, s.url)
		transfers, _ := s.signed()
		if len(s.payments) != test.arrived || transfers != 1 || today(t, p) != "$0.9995" {
			t.Errorf("%s: %v, %d arrived, %d signed, %s left", test.name, err, len(s.payments), transfers, today(t, p))
		}
		if test.times == 99 && (code(err) != "settlement_pending" || !strings.Contains(err.Error(), tx)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// Of an upto the limit counts until the receipt says what was charged; what the chain shows is proof of that, and the
// seller's word is not.
func TestUpto(t *testing.T) {
	t.Parallel()
	upto := func([]x402.Requirements) []x402.Requirements { return []x402.Requirements{uptoOffer("dev")} }
	for _, test := range []struct {
		name    string
		till    *till
		wallet  bool
		charged uint64
		proven  bool
	}{
		{"less, on the chain", &till{actual: func(paid) uint64 { return 120 }}, true, 120, true},
		{"less, by word", &till{actual: func(paid) uint64 { return 120 }}, false, 120, false},
		{"more than is said", &till{actual: func(paid) uint64 { return 400 }, receipt: func(r *x402.SettleResponse, _ paid) { r.Amount = "1" }}, true, 400, true},
		{"no amount", &till{actual: func(paid) uint64 { return 120 }, receipt: func(r *x402.SettleResponse, _ paid) { r.Amount = "" }}, true, 500, true},
		{"a transaction of somebody else", &till{actual: func(paid) uint64 { return 120 }, receipt: func(r *x402.SettleResponse, _ paid) {
			r.Transaction = evm.Keccak256([]byte("other")).String()
		}}, true, 120, false},
		{"nothing", &till{answer: func(w writer, _ *request, _ paid) bool {
			text, _ := x402.EncodeHeader(x402.SettleResponse{Success: true, Amount: "0"})
			w.Header().Set(x402.HeaderResponse, text)
			return true
		}}, true, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.till.offers = upto
			s := test.till.start(t)
			p := s.payer(t, func(c *Config) {
				if !test.wallet {
					c.Wallet = nil
				}
			})
			_, r, err := get(p, s.url)
			if err != nil || r.Charged != money.Units(test.charged) || r.Proven != test.proven || r.Signed != money.Units(500) {
				t.Errorf("%+v, %v", r, err)
			}
			if want := fmt.Sprint(money.Format(less(money.Units(1_000_000), money.Units(test.charged)), 6, "$")); today(t, p) != want {
				t.Errorf("%s left, want %s", today(t, p), want)
			}
		})
	}
}

// A seller shows the transaction of an older, smaller purchase as the one that paid a larger one.
func TestATransactionIsNoProofTwice(t *testing.T) {
	t.Parallel()
	var first string
	charge := uint64(1)
	s := &till{offers: func([]x402.Requirements) []x402.Requirements { return []x402.Requirements{uptoOffer("dev")} }}
	s.actual = func(paid) uint64 { return charge }
	s.receipt = func(r *x402.SettleResponse, _ paid) {
		if first == "" {
			first = r.Transaction
		}
		r.Amount, r.Transaction = "1", first
	}
	s.start(t)
	p := s.payer(t)
	if _, r, err := get(p, s.url); err != nil || !r.Proven {
		t.Fatalf("%+v, %v", r, err)
	}
	charge = 500
	if _, r, err := get(p, s.url); err != nil || r.Proven {
		t.Errorf("%+v, %v", r, err)
	}
}

// What is signed and unknown counts until its time is over and the chain says that its nonce was never used.
func TestUnknownTransfersCountUntilTheChainSays(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := &till{chain: newLedgerChain()}
	s.chain.now = clock.now
	var settle atomic.Bool
	s.answer = func(w writer, _ *request, got paid) bool {
		if settle.Load() {
			if _, err := s.chain.settle(got.auth, got.auth.Amount); err != nil && got.try == 0 {
				t.Error(err)
			}
		}
		hangUp(t, w)
		return true
	}
	s.start(t)
	path := journalFile(t)
	open := func() *Payer {
		return s.payer(t, inFile(path), perDay("$0.0009"), func(c *Config) { c.Now = clock.now })
	}
	p := open()
	_, _, err := get(p, s.url)
	pending := pendingOf(err)
	if pending == nil || today(t, p) != "$0.0004" {
		t.Fatalf("%v, %s left", err, today(t, p))
	}
	for _, step := range []struct {
		after time.Duration
		left  string
	}{{time.Second, "$0.0004"}, {time.Minute, "$0.0004"}, {time.Minute + chainSlack, "$0.0004"}, {time.Minute + chainSlack + time.Second, "$0.0009"}} {
		clock.set(noon.Add(step.after))
		p.Close()
		p = open() // a restart forgets nothing
		if _, err := p.Recheck(t.Context()); err != nil || today(t, p) != step.left {
			t.Errorf("after %s: %s left, %v", step.after, today(t, p), err)
		}
	}
	if r, err := p.ReceiptOf(pending.Purchase); err != nil || r.State != Void || !r.Proven {
		t.Errorf("%+v, %v", r, err)
	}
	// One that was carried out counts, whoever lost the answer.
	settle.Store(true)
	_, _, err = get(p, s.url)
	pending = pendingOf(err)
	if pending == nil {
		t.Fatal(err)
	}
	if n, err := p.Recheck(t.Context()); n != 1 || err != nil || today(t, p) != "$0.0004" {
		t.Errorf("%d settled, %s left, %v", n, today(t, p), err)
	}
	if r, err := p.ReceiptOf(pending.Purchase); err != nil || r.State != Charged || !r.Proven {
		t.Errorf("%+v, %v", r, err)
	}
	// A chain that does not answer says nothing.
	settle.Store(false)
	clock.set(clock.now().Add(24 * time.Hour))
	get(p, s.url)
	clock.set(clock.now().Add(time.Hour))
	s.chain.dead = true
	if n, err := p.Recheck(t.Context()); n != 0 || err != nil || today(t, p) != "$0.0004" {
		t.Errorf("%d settled, %s left, %v", n, today(t, p), err)
	}
}

// Whoever repeats a command that crashed means the same purchase, and can find it.
func TestUnconfirmedPurchases(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := &till{chain: newLedgerChain(), answer: func(w writer, _ *request, _ paid) bool { hangUp(t, w); return true }}
	s.chain.now = clock.now
	s.start(t)
	path := journalFile(t)
	timed := func(c *Config) { c.Now = clock.now }
	p := s.payer(t, inFile(path), timed)
	find := func(p *Payer, method, address, body string) string {
		t.Helper()
		r, _, err := p.Unconfirmed(t.Context(), method, mustURL(address), []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	if got := find(p, "POST", s.url+"/a", "x"); got != "" {
		t.Errorf("found %s before anything", got)
	}
	_, err := post(p, s.url+"/a#part", "x")
	pending := pendingOf(err)
	if pending == nil {
		t.Fatal(err)
	}
	p.Close()
	p = s.payer(t, inFile(path), timed)
	if got := find(p, "POST", s.url+"/a", "x"); got != pending.Purchase {
		t.Errorf("found %q, want %s", got, pending.Purchase)
	}
	for _, other := range [][3]string{{"GET", s.url + "/a", "x"}, {"POST", s.url + "/b", "x"}, {"POST", s.url + "/a", "y"}, {"POST", s.url + "/a?q", "x"}} {
		if got := find(p, other[0], other[1], other[2]); got != "" {
			t.Errorf("%v: found %s", other, got)
		}
	}
	if other := s.payer(t, inFile(path), timed, func(c *Config) { c.Key = otherKey }); find(other, "POST", s.url+"/a", "x") != "" {
		t.Error("found another account's")
	}
	clock.set(noon.Add(time.Minute + chainSlack + time.Second))
	if got := find(p, "POST", s.url+"/a", "x"); got != "" {
		t.Errorf("found %s, which the chain never saw", got)
	}
}

// A budget that is used up by payments which can never be charged is asked about at the chain before it says no.
func TestABudgetIsCountedAnew(t *testing.T) {
	t.Parallel()
	clock := newClock()
	s := &till{chain: newLedgerChain()}
	s.chain.now = clock.now
	var lost atomic.Bool
	lost.Store(true)
	s.answer = func(w writer, r *request, _ paid) bool {
		if lost.Load() {
			s.demand(w, r, "invalid_exact_evm_transaction_failed") // says that nothing was charged, time after time
		}
		return lost.Load()
	}
	s.start(t)
	p := s.payer(t, perDay("$0.0009"), func(c *Config) { c.Now = clock.now })
	for range 3 {
		if _, _, err := get(p, s.url); code(err) != "invalid_exact_evm_transaction_failed" {
			t.Fatal(err)
		}
	}
	if _, _, err := get(p, s.url); code(err) != "budget_exceeded" {
		t.Fatalf("a seller's word is believed for ever: %v", err)
	}
	clock.set(noon.Add(10 * time.Minute))
	lost.Store(false)
	if _, r, err := get(p, s.url); err != nil || r.State != Charged {
		t.Errorf("%+v, %v", r, err)
	}
}

// A stock seller whose answer was lost says that the nonce is used: that is our own payment, and it counts.
func TestResumeAtAStockSeller(t *testing.T) {
	t.Parallel()
	s := &till{}
	s.answer = func(w writer, _ *request, got paid) bool {
		if got.try > 0 {
			return false // its facilitator finds the nonce used
		}
		if _, err := s.chain.settle(got.auth, got.auth.Amount); err != nil {
			t.Error(err)
		}
		hangUp(t, w)
		return true
	}
	s.start(t)
	p := s.payer(t, inFile(journalFile(t)))
	_, _, err := get(p, s.url)
	if n := need(err); n == nil || n.Code != "invalid_exact_evm_nonce_already_used" {
		t.Fatal(err)
	}
	if list, _ := p.Receipts(); len(list) != 1 || list[0].State != Charged || today(t, p) != "$0.9995" {
		t.Errorf("%+v, %s left", list, today(t, p))
	}
	if transfers, _ := s.signed(); transfers != 1 {
		t.Errorf("%d signed", transfers)
	}
}

// One that takes a transfer which it has settled for one that fails is not believed that nothing was charged.
func TestAStockSellerThatForgot(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name            string
		settled, wallet bool
		reason, code    string
		state           State
		left            string
	}{
		{"settled, seen on the chain", true, true, "invalid_exact_evm_transaction_failed", "invalid_exact_evm_transaction_failed", Charged, "$0.9995"},
		{"settled, and nobody looks", true, false, "invalid_exact_evm_transaction_failed", "settlement_pending", Sent, "$0.9995"},
		{"not settled, and may still be", false, true, "invalid_exact_evm_transaction_failed", "settlement_pending", Sent, "$0.9995"},
		{"not settled, in its own words", false, true, "no", "settlement_pending", Sent, "$0.9995"},
		{"ended, by a seller that keeps purchases", false, true, "payment_void", "payment_void", Void, "$1.00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &till{}
			s.answer = func(w writer, r *request, got paid) bool {
				if got.try > 0 {
					s.demand(w, r, test.reason)
					return true
				}
				if test.settled {
					if _, err := s.chain.settle(got.auth, got.auth.Amount); err != nil {
						t.Error(err)
					}
				}
				hangUp(t, w)
				return true
			}
			s.start(t)
			p := s.payer(t, func(c *Config) {
				if !test.wallet {
					c.Wallet = nil
				}
			})
			_, _, err := get(p, s.url)
			list, _ := p.Receipts()
			want := 1
			if test.code == "payment_void" {
				want = 2 // it is bought anew, once, and lost again
			}
			if transfers, _ := s.signed(); code(err) != test.code || len(list) != want || list[0].State != test.state || transfers != want || today(t, p) != test.left {
				t.Errorf("%v, %+v, %d signed, %s left", err, list, transfers, today(t, p))
			}
		})
	}
}

// A seller that changes its price, its payee or its token between the 402 and the payment gets what the 402 asked for, and
// a second 402 that asks for more is not paid.
func TestTheSecond402AsksForMore(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*x402.Requirements){
		"price": func(r *x402.Requirements) { r.Amount = "9000" },
		"payee": func(r *x402.Requirements) { r.PayTo = otherKey.Address().String() },
		"token": func(r *x402.Requirements) { r.Network, r.Asset = "eip155:8453", transferOffer("base").Asset },
	} {
		s := &till{}
		changed := false
		s.offers = func(list []x402.Requirements) []x402.Requirements {
			if changed {
				change(&list[0])
			}
			return list
		}
		s.answer = func(w writer, r *request, got paid) bool {
			changed = true
			s.demand(w, r, "No matching payment requirements")
			return true
		}
		s.start(t)
		p := s.payer(t)
		_, _, err := get(p, s.url)
		if n := need(err); n == nil || n.Code != "payment_refused" || len(s.payments) != 1 || s.payments[0].auth.Amount != money.Units(500) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The payee is pinned for every way to pay: one that was paid by promise is not paid elsewhere by transfer.
func TestThePayeeIsPinnedAcrossWays(t *testing.T) {
	t.Parallel()
	offer := (&seller{}).offer()
	s := &till{offers: func([]x402.Requirements) []x402.Requirements { return []x402.Requirements{offer} }}
	s.answer = func(w writer, r *request, got paid) bool {
		text, _ := x402.EncodeHeader(x402.SettleResponse{Success: true, Amount: got.offer.Amount})
		w.Header().Set(x402.HeaderResponse, text)
		return true
	}
	s.start(t)
	trust := false
	p := s.payer(t, func(c *Config) {
		c.Houses = append(c.Houses, deployment)
		c.Ask = func(_ ctx, n Need) Decision {
			if trust && n.Code == "payee_changed" {
				return Proceed
			}
			return Stop
		}
	})
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	offer = transferOffer("dev")
	offer.PayTo = otherKey.Address().String()
	if _, _, err := get(p, s.url); code(err) != "payee_changed" || len(s.payments) != 1 {
		t.Fatalf("%v", err)
	}
	trust = true
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	// Now each way has its payee, and changing between them is no change.
	trust = false
	for range 2 {
		offer = (&seller{}).offer()
		if _, _, err := get(p, s.url); err != nil {
			t.Error(err)
		}
		offer = transferOffer("dev")
		offer.PayTo = otherKey.Address().String()
		if _, _, err := get(p, s.url); err != nil {
			t.Error(err)
		}
	}
}

// A seller that asks for a name of the payment gets the purchase's, and its own words back.
func TestPaymentIdentifier(t *testing.T) {
	t.Parallel()
	s := (&till{extensions: map[string]json.RawMessage{
		"payment-identifier": raw(map[string]any{"info": map[string]any{"required": true, "x": 1}, "schema": map[string]any{"type": "object"}}),
		"bazaar":             raw(map[string]any{"info": map[string]any{"input": 1}}),
	}}).start(t)
	_, r, err := get(s.payer(t), s.url)
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Info struct {
			ID       string
			Required bool
			X        int
		}
		Schema map[string]string
	}
	got := s.payments[0].Extensions
	if err := json.Unmarshal(got["payment-identifier"], &e); err != nil || e.Info.ID != r.ID || !e.Info.Required || e.Info.X != 1 || e.Schema["type"] != "object" {
		t.Errorf("%s, %v", got["payment-identifier"], err)
	}
	if string(got["bazaar"]) != string(s.extensions["bazaar"]) {
		t.Errorf("bazaar as %s", got["bazaar"])
	}
}
