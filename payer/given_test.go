package payer

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// noChain packs no calls: no cycle ends here.
type noChain struct{ clearing.Chain }

// certifier is a clearing house, over HTTP, where the seller has collateral and has named otherKey for its notes.
func certifier(t *testing.T, seed byte) (house *clearing.House, url string) {
	t.Helper()
	secret := [32]byte{31: seed}
	authority, err := guarantee.NewAuthority(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	house, err = clearing.New(clearing.Config{Book: clearing.NewMemory(), Chain: noChain{}, Authority: authority, Deployment: deployment})
	if err != nil {
		t.Fatal(err)
	}
	dollar, from := evm.MustAddress(dollarText), uint64(noon.Unix())-1000
	schedule := clearing.Schedule{Asset: dollar, From: from, Length: 86400, Cutoff: 60, Post: 60, Challenge: 60, Repost: 60, Redeem: 60}
	events := []clearing.Event{
		{Kind: clearing.ScheduleSet, Asset: dollar, Schedule: &schedule, TxHash: evm.Hash{1}, LogIndex: 1},
		{Kind: clearing.Deposited, Account: sellerKey.Address(), Asset: dollar, Amount: money.Units(100_000), TxHash: evm.Hash{1}, LogIndex: 2},
		{Kind: clearing.Deposited, Account: otherKey.Address(), Asset: dollar, Amount: money.Units(100_000), TxHash: evm.Hash{1}, LogIndex: 3},
		{Kind: clearing.SignerSet, Account: sellerKey.Address(), Asset: otherKey.Address(), Time: clearing.Forever, TxHash: evm.Hash{1}, LogIndex: 4},
	}
	if err := house.Apply(t.Context(), clearing.Confirmed, clearing.Block{Number: 1, Hash: evm.Hash{1}, Time: from}, events); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api.New(api.Config{House: house}))
	t.Cleanup(server.Close)
	return house, server.URL
}

// What a seller says about a refund is proven by its own signature for this very purchase, and for a guarantee by the
// certificate of the payer's own clearing house. Anything else is the seller's word.
func TestWhatProvesARefund(t *testing.T) {
	t.Parallel()
	house, url := certifier(t, 7)
	foreign, _ := certifier(t, 8)
	p := newPayer(t, func(c *Config) { c.ClearingHouse = url })
	r := row{
		ID: purchase.NewID(zeros{}), Payee: sellerKey.Address(), Asset: evm.MustAddress(dollarText), Amount: money.Units(500),
		Digest: evm.Hash{9}, ChainID: deployment.ChainID, Vault: deployment.Vault,
	}
	id, _ := purchase.IDBytes(r.ID)
	proof := func(by *evm.PrivateKey, house *clearing.House, change func(*guarantee.Claims)) json.RawMessage {
		t.Helper()
		c := guarantee.Claims{
			Payer: by.Address(), Payee: buyerKey.Address(), Asset: r.Asset, ReqID: guarantee.RefundID(id), Amount: money.Units(500), Timestamp: uint64(noon.Unix()),
		}
		if change != nil {
			change(&c)
		}
		signed, err := guarantee.Sign(t.Context(), by, deployment, c)
		if err != nil {
			t.Fatal(err)
		}
		got := house.Admit(t.Context(), []clearing.Request{{Signed: signed}}, noon)[0]
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		raw, err := json.Marshal(map[string]any{"guarantee": signed, "certificate": got.Certificate})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	note := func(by *evm.PrivateKey, digest evm.Hash) json.RawMessage {
		n, err := guarantee.SignNote(t.Context(), by, deployment, guarantee.Note{Digest: digest})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := proof(sellerKey, house, nil)
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(good, &parts); err != nil {
		t.Fatal(err)
	}
	var bare, forged map[string]any
	_ = json.Unmarshal(good, &bare)
	delete(bare, "certificate")
	_ = json.Unmarshal(good, &forged)
	forged["certificate"].(map[string]any)["signature"] = json.RawMessage(nil)
	uncertified, _ := json.Marshal(bare)
	unsigned, _ := json.Marshal(forged)
	for _, c := range []struct {
		name, kind string
		proof      json.RawMessage
		proven     bool
	}{
		{"a certified guarantee", "guarantee", good, true},
		{"what was promised beyond the charge", "return", good, true},
		{"not certified", "guarantee", uncertified, false},
		{"certified by nobody", "guarantee", unsigned, false},
		{"certified by another clearing house", "guarantee", proof(sellerKey, foreign, func(c *guarantee.Claims) { c.Timestamp-- }), false},
		{"of somebody else", "guarantee", proof(otherKey, house, nil), false},
		{"to somebody else", "guarantee", proof(sellerKey, house, func(c *guarantee.Claims) { c.Payee = otherKey.Address() }), false},
		{"of less", "guarantee", proof(sellerKey, house, func(c *guarantee.Claims) { c.Amount, c.ReqID = money.Units(499), evm.Hash{1} }), false},
		{"for another purchase", "guarantee", proof(sellerKey, house, func(c *guarantee.Claims) { c.ReqID = guarantee.RefundID([16]byte{1}) }), false},
		{"nothing", "guarantee", nil, false},
		{"the payee's note", "note", note(sellerKey, r.Digest), true},
		{"the note of a key that the payee has named", "note", note(otherKey, r.Digest), true},
		{"anybody's note", "note", note(newKey("anybody"), r.Digest), false},
		{"a note on another guarantee", "note", note(sellerKey, evm.Hash{8}), false},
		{"credit", "credit", nil, false},
	} {
		raw, err := json.Marshal(map[string]any{"kind": c.kind, "state": "done", "amount": "500", "proof": c.proof})
		if err != nil {
			t.Fatal(err)
		}
		got := p.returned(t.Context(), r, raw)
		if got == nil || *got != (Returned{Kind: c.kind, Amount: money.Units(500), Done: true, Proven: c.proven}) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	for _, said := range []string{"", "null", `{"kind":"note","amount":"501"}`, `{"amount":"x"}`, `[]`} {
		if got := p.returned(t.Context(), r, json.RawMessage(said)); got != nil {
			t.Errorf("%q: %+v", said, got)
		}
	}
}
