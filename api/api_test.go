package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// The published request is answered with the published bytes.
func TestVectorIsAnsweredToTheByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for try := range 2 {
		status, body := w.ask("POST", "/core/guarantees", vectors.V1.RequestBody)
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		var got, want map[string]any
		if err := errors.Join(json.Unmarshal(body, &got), json.Unmarshal(vectors.Certificate.ResponseJSON, &want)); err != nil {
			t.Fatal(err)
		}
		if got["claims"] != want["claims"] || got["signature"] != want["signature"] {
			t.Fatalf("got %s", body)
		}
		if again := got["replayed"] == true; again != (try == 1) {
			t.Errorf("try %d: replayed is %v", try, got["replayed"])
		}
		delete(got, "replayed")
		if len(got) != 2 {
			t.Errorf("more members than the reference's: %s", body)
		}
	}
}

func TestParamsOfTheVectors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, body := w.ask("GET", "/core/public-params", nil)
	var got struct {
		Key    json.RawMessage `json:"public_key"`
		Domain evm.Hash        `json:"active_guarantee_domain_separator"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, vectors.BLS.PublicKey); err != nil {
		t.Fatal(err)
	}
	if string(got.Key) != want.String() || got.Domain != vectors.Common.CertDom {
		t.Errorf("got %s", body)
	}
}

// Every route's answer, as it stands on the wire.
func TestGolden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	get := func(name, path string) {
		t.Helper()
		status, body := w.ask("GET", path, nil)
		w.golden(name, status, body)
	}
	get("health", "/core/health")
	get("public-params", "/core/public-params")
	get("tokens", "/core/tokens")
	cycle := vectors.Certificate.ID
	get("cycle-unknown", "/core/cycles/"+cycle)
	get("user-unknown", "/core/users/"+party(3).Lower()+"/assets/"+dollar.Lower())

	payee := "0x2222222222222222222222222222222222222222" // of the vectors
	if status, body := w.ask("POST", "/core/guarantees", vectors.V1.RequestBody); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	back := w.sign(0, buyer, 30_000)
	status, body := w.ask("POST", "/core/guarantees", map[string]any{"guarantees": []any{back, w.sign(0, party(1), 2_000_000), "no guarantee"}, "certificate": "batch"})
	w.golden("guarantees-many", status, body)
	even := []guarantee.Signed{w.sign(0, party(1), 7), w.sign(1, party(0), 7)}
	if status, body := w.ask("POST", "/core/guarantees", map[string]any{"guarantees": even}); status != 200 || strings.Contains(string(body), "error") {
		t.Fatalf("%d %s", status, body)
	}

	get("cycle-current", "/core/cycles/current?asset=USDC")
	get("cycles", "/core/cycles?asset="+dollar.Lower())
	get("asset-balance", "/core/users/"+buyer.String()+"/assets/"+dollar.String())
	get("balance", "/core/users/"+buyer.String()+"/balance?asset=USDC")
	get("balances", "/core/users/"+buyer.String()+"/balance")
	digest := back.Claims.Digest(deployment.ClaimsSeparator())
	get("statement-preliminary", "/core/cycles/"+cycle+"/participants/"+payee+"/statement")
	get("proof-too-early", "/core/cycles/"+cycle+"/participants/"+payee+"/clearing-proof")

	w.close(false)
	get("action-too-early", "/core/cycles/"+cycle+"/participants/"+payee+"/clearing-action?action=claim_net_credit")
	w2 := newWorld(t) // and on, past the commit
	for _, s := range append([]guarantee.Signed{back}, even...) {
		if status, body := w2.ask("POST", "/core/guarantees", s); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	if status, body := w2.ask("POST", "/core/guarantees", vectors.V1.RequestBody); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	w2.close(true)
	w = w2
	get("cycle", "/core/cycles/"+strings.ReplaceAll(vectors.Certificate.Text, ":", "%3A"))
	for name, who := range map[string]string{"debtor": buyer.Lower(), "creditor": payee, "debtor-2": party(0).Lower(), "flat": party(1).Lower(), "stranger": party(3).Lower()} {
		get("proof-"+name, "/core/cycles/"+vectors.Certificate.Text+"/participants/"+who+"/clearing-proof")
	}
	get("action-pay", "/core/cycles/"+cycle+"/participants/"+buyer.Lower()+"/clearing-action?action=pay_net_debit")
	get("action-wrong-role", "/core/cycles/"+cycle+"/participants/"+buyer.Lower()+"/clearing-action?action=claim_net_credit")
	get("action-unknown", "/core/cycles/"+cycle+"/participants/"+buyer.Lower()+"/clearing-action?action=run")
	get("action-mark-too-early", "/core/cycles/"+cycle+"/participants/"+buyer.Lower()+"/clearing-action?action=mark_defaulted")
	w.setTime(start + schedule.Length + schedule.Cutoff + 60 + schedule.Challenge + 1)
	get("action-mark", "/core/cycles/"+cycle+"/participants/"+buyer.Lower()+"/clearing-action?action=mark_defaulted")
	get("action-claim", "/core/cycles/"+cycle+"/participants/"+payee+"/clearing-action?action=claim_net_credit")
	get("statement", "/core/cycles/"+cycle+"/participants/"+payee+"/statement")
	// Admission times are the house's clock in the test, which stands still until the cycle closes.
	get("guarantee", "/core/guarantees/"+digest.String())
	get("payments", "/core/recipients/"+payee+"/payments")
	get("guarantee-unknown", "/core/guarantees/"+evm.Hash{1}.String())
}

// The proof that a stock client is given folds to the root that the chain has.
func TestProofsFoldToTheRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 5 {
		var payee evm.Address
		payee[0], payee[19] = 0xa0, byte(i)
		if status, body := w.ask("POST", "/core/guarantees", w.sign(0, payee, uint64(10+i))); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	w.close(true)
	c, err := client.New(w.server.URL, client.WithSigner(operator))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for i := range 6 {
		who, role := party(0), "NET_DEBTOR"
		if i < 5 {
			who, role = evm.Address{0: 0xa0, 19: byte(i)}, "NET_CREDITOR"
		}
		p, err := c.Proof(ctx, vectors.Certificate.Text, who)
		if err != nil {
			t.Fatal(err)
		}
		node := p.Leaf
		for _, s := range p.Proof {
			a, b := node, s
			if bytes.Compare(a[:], b[:]) > 0 {
				a, b = b, a
			}
			node = evm.Keccak256(a[:], b[:])
		}
		if node != p.Root || p.Role != role || p.Cycle.String() != vectors.Certificate.ID || p.NetDebit != p.Amount && p.NetCredit != p.Amount {
			t.Errorf("proof of %s: %+v", who, p)
		}
	}
	a, err := c.Action(ctx, vectors.Certificate.ID, party(0), client.PayNetDebit)
	if err != nil || a.Function != "payNetDebit" || a.Amount != money.Units(60) || !a.PayableValue.IsZero() || a.Debtor != nil || a.Contract != deployment.ClearingHouse {
		t.Errorf("got %+v, %v", a, err)
	}
}

// The client reads everything that the handler writes.
func TestClientAndHandlerAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	c, err := client.New(w.server.URL, client.WithSigner(keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Params(ctx)
	if err != nil || p.Deployment != deployment || p.Key != w.house.Authority.PublicKey() || !p.Batch || p.RPCURL != "https://rpc.example.org" ||
		p.TimestampPast != clearing.DefaultPast || p.TimestampFuture != clearing.DefaultFuture || len(p.Schedules) != 1 || p.Schedules[0].Length.Seconds() != 86400 {
		t.Fatalf("params %+v, %v", p, err)
	}
	if tokens, err := c.Tokens(ctx); err != nil || !slices.Equal(tokens, []client.Token{{Symbol: "USDC", Address: dollar, Decimals: 6}}) {
		t.Errorf("tokens %v, %v", tokens, err)
	}
	if h, err := c.Health(ctx); err != nil || h.Status != "ok" {
		t.Errorf("health %v, %v", h, err)
	}
	s := w.sign(0, party(1), 500)
	cert, err := c.Certify(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	v, err := guarantee.NewVerifier(p.Key, p.Deployment)
	if err != nil {
		t.Fatal(err)
	}
	cycle, err := v.Verify(cert, s.Claims)
	if err != nil || cert.Batch == nil {
		t.Fatalf("certificate: %v", err)
	}
	if now, err := c.Current(ctx, dollar); err != nil || now.ID != cycle || now.State != "open" || now.Status != "OPEN" || now.Start != start {
		t.Errorf("current %+v, %v", now, err)
	}
	b, err := c.Balance(ctx, party(0), dollar)
	if err != nil || b.Exposure != money.Units(500) || b.Headroom != money.Units(999_500) || b.Collateral != money.Units(1_000_000) {
		t.Errorf("balance %+v, %v", b, err)
	}
	digest := s.Claims.Digest(deployment.ClaimsSeparator())
	g, err := c.Guarantee(ctx, digest)
	if err != nil || g.Signed != s || g.Status != "FINALIZED_PAYABLE" || g.Payable != money.Units(500) || g.Cycle != cycle || g.At != signed*1000 {
		t.Errorf("guarantee %+v, %v", g, err)
	}

	note := func(signer int, amount uint64) guarantee.SignedNote {
		n, err := guarantee.SignNote(ctx, keys[signer], deployment, guarantee.Note{Digest: digest, Amount: money.Units(amount)})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	errs, err := c.Notes(ctx, []guarantee.SignedNote{note(1, 200), note(0, 100), note(1, 300), {}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "note_signer", "note_not_lower", "note_invalid"} {
		var e *x402.Error
		if got := errs[i]; want == "" && got != nil || want != "" && (!errors.As(got, &e) || e.Code != want) {
			t.Errorf("note %d: %v, want %q", i, got, want)
		}
	}
	if g, err := c.Guarantee(ctx, digest); err != nil || g.Payable != money.Units(200) || g.Note == nil {
		t.Errorf("lowered guarantee %+v, %v", g, err)
	}
	// What the payee earns in the open cycle backs what it gives back of an older one; what backs it stays.
	back, err := guarantee.Sign(ctx, keys[1], deployment, guarantee.Claims{
		Payer: party(1), Payee: party(0), Asset: dollar, ReqID: guarantee.RefundID([16]byte{7}), Amount: money.Units(1_000_150), Timestamp: s.Claims.Timestamp,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c2 := range []struct {
		cover []evm.Hash
		code  string
	}{{nil, "collateral_insufficient"}, {[]evm.Hash{{1}}, "collateral_insufficient"}, {make([]evm.Hash, 257), "malformed_request"}, {[]evm.Hash{digest}, ""}} {
		cert, err := c.Refund(ctx, back, c2.cover)
		var e *x402.Error
		if c2.code == "" && err != nil || c2.code != "" && (!errors.As(err, &e) || e.Code != c2.code) {
			t.Errorf("refund with %d claims: %v, want %q", len(c2.cover), err, c2.code)
		}
		if err == nil {
			if _, _, claims, err := guarantee.DecodeClaims(cert.Claims); err != nil || claims != back.Claims {
				t.Errorf("certificate of %+v, %v", claims, err)
			}
		}
	}
	if errs, err := c.Notes(ctx, []guarantee.SignedNote{note(1, 149)}); err != nil || !errors.As(errs[0], new(*x402.Error)) || errs[0].(*x402.Error).Code != "note_pledged" {
		t.Errorf("a pledged claim is lowered: %v, %v", errs, err)
	}
	if list, err := c.Cycles(ctx, dollar, 5); err != nil || len(list) != 1 || list[0].ID != cycle {
		t.Errorf("cycles %v, %v", list, err)
	}
	if list, err := c.Unsettled(ctx, dollar, party(1), 5); err != nil || len(list) != 0 {
		t.Errorf("unsettled before netting %v, %v", list, err)
	}
	if one, err := c.Cycle(ctx, cycle.String()); err != nil || one.Text != vectors.Certificate.Text {
		t.Errorf("cycle %+v, %v", one, err)
	}
	_, err = c.Certify(ctx, w.sign(0, party(1), 5_000_000))
	var e *x402.Error
	if !errors.As(err, &e) || e.Code != "collateral_insufficient" || e.Details["available"] != "999800" || e.Details["asked"] != "5000000" {
		t.Errorf("too much: %v, %v", err, e)
	}
}

// What a wrong guarantee is called.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.sign(0, party(1), 10)
	if status, body := w.ask("POST", "/core/guarantees", good); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	resign := func(change func(*guarantee.Claims)) guarantee.Signed {
		c := good.Claims
		change(&c)
		s, err := guarantee.Sign(context.Background(), keys[0], deployment, c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	text := good
	text.Form = guarantee.EIP191
	flipped := good
	flipped.Claims.Amount = money.Units(11)
	highS := good
	highS.Signature = malleate(t, good.Signature)
	for _, test := range []struct {
		name   string
		body   any
		status int
		code   string
	}{
		{"signature over other claims", flipped, 400, "payer_signature_invalid"},
		{"high s", highS, 400, "high_s"},
		{"text signature", text, 400, "eip191_off"},
		{"same request id, other amount", resign(func(c *guarantee.Claims) { c.Amount = money.Units(12) }), 409, "guarantee_conflict"},
		{"too old", resign(func(c *guarantee.Claims) { c.ReqID[0]++; c.Timestamp -= 301 }), 400, "timestamp_skew"},
		{"from the future", resign(func(c *guarantee.Claims) { c.ReqID[0]++; c.Timestamp += 31 }), 400, "timestamp_skew"},
		{"nothing", resign(func(c *guarantee.Claims) { c.ReqID[0]++; c.Amount = money.Amount{} }), 400, "amount_invalid"},
		{"unknown asset", resign(func(c *guarantee.Claims) { c.ReqID[0]++; c.Asset = evm.Address{9} }), 400, "asset_unsupported"},
		{"to oneself", resign(func(c *guarantee.Claims) { c.ReqID[0]++; c.Payee = c.Payer }), 400, "malformed_request"},
		{"more than there is", resign(func(c *guarantee.Claims) { c.ReqID[0]++; c.Amount = money.Units(1_000_000) }), 400, "collateral_insufficient"},
	} {
		status, body := w.ask("POST", "/core/guarantees", test.body)
		if status != test.status || code(body) != test.code {
			t.Errorf("%s: %d %s, want %d %s", test.name, status, body, test.status, test.code)
		}
	}
}

// malleate returns the other signature of the same key over the same digest.
func malleate(t *testing.T, s evm.Signature) evm.Signature {
	t.Helper()
	n, _ := money.ParseAmount("0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
	low, err := money.AmountFromBytes(s[32:64])
	if err != nil {
		t.Fatal(err)
	}
	high, _ := n.Sub(low)
	word := high.Word()
	copy(s[32:64], word[:])
	s[64] = 27 + 28 - s[64]
	return s
}

// What cannot be read is refused, and nothing of it admitted.
func TestBodiesThatAreNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := string(vectors.V1.RequestBody)
	item, err := json.Marshal(w.sign(0, party(1), 1))
	if err != nil {
		t.Fatal(err)
	}
	repeat := func(n int) string {
		return `{"guarantees":[` + strings.TrimSuffix(strings.Repeat(string(item)+",", n), ",") + `]}`
	}
	for _, test := range []struct {
		name, path, body string
		status           int
		code             string
	}{
		{"nothing", "/core/guarantees", ``, 400, "malformed_request"},
		{"null", "/core/guarantees", `null`, 400, "malformed_request"},
		{"a list", "/core/guarantees", `[]`, 400, "malformed_request"},
		{"text", "/core/guarantees", `"x"`, 400, "malformed_request"},
		{"half an object", "/core/guarantees", one[:len(one)/2], 400, "malformed_request"},
		{"two objects", "/core/guarantees", one + one, 400, "malformed_request"},
		{"a claim given twice", "/core/guarantees", strings.Replace(one, `"amount"`, `"amount":"0x1","amount"`, 1), 400, "malformed_request"},
		{"a claim given in two spellings", "/core/guarantees", strings.Replace(one, `"amount"`, `"Amount":"0x1","amount"`, 1), 400, "malformed_request"},
		{"a negative amount", "/core/guarantees", strings.Replace(one, `"0x186a0"`, `"-5"`, 1), 400, "malformed_request"},
		{"a fraction", "/core/guarantees", strings.Replace(one, `"0x186a0"`, `0.5`, 1), 400, "malformed_request"},
		{"an amount of 257 bits", "/core/guarantees", strings.Replace(one, `"0x186a0"`, `"0x1`+strings.Repeat("0", 64)+`"`, 1), 400, "malformed_request"},
		{"a claim missing", "/core/guarantees", strings.Replace(one, `"amount"`, `"amont"`, 1), 400, "malformed_request"},
		{"version 2", "/core/guarantees", strings.Replace(one, `"v1"`, `"v2"`, 1), 400, "malformed_request"},
		{"nesting without end", "/core/guarantees", `{"claims":` + strings.Repeat("[", 100_000), 400, "malformed_request"},
		{"nesting with an end", "/core/guarantees", `{"claims":` + strings.Repeat("[", 50_000) + strings.Repeat("]", 50_000) + `}`, 400, "malformed_request"},
		{"an unknown certificate", "/core/guarantees", `{"guarantees":[` + string(item) + `],"certificate":"gold"}`, 400, "malformed_request"},
		{"a certificate that is a number", "/core/guarantees", `{"guarantees":[` + string(item) + `],"certificate":7}`, 400, "malformed_request"},
		{"one and many at once", "/core/guarantees", strings.Replace(one, `{`, `{"guarantees":[],`, 1), 400, "malformed_request"},
		{"guarantees that are no list", "/core/guarantees", `{"guarantees":{}}`, 400, "malformed_request"},
		{"no guarantees", "/core/guarantees", `{"guarantees":[]}`, 400, "malformed_request"},
		{"257 guarantees", "/core/guarantees", repeat(257), 400, "malformed_request"},
		{"an item too large", "/core/guarantees", strings.Replace(one, `{`, `{"x":"`+strings.Repeat("y", 5000)+`",`, 1), 413, "body_too_large"},
		{"a body too large", "/core/guarantees", `{"x":"` + strings.Repeat("y", 1<<20) + `"}`, 413, "body_too_large"},
		{"a note without a signature", "/core/notes", `{"digest":"0x` + strings.Repeat("1", 64) + `","amount":"1"}`, 400, "malformed_request"},
		{"no notes", "/core/notes", `{"notes":[]}`, 400, "malformed_request"},
	} {
		status, body := w.ask("POST", test.path, test.body)
		if status != test.status || code(body) != test.code {
			t.Errorf("%s: %d %.200s, want %d %s", test.name, status, body, test.status, test.code)
		}
	}
	a, err := w.house.Account(context.Background(), buyer, dollar)
	if err != nil || !a.Exposure().IsZero() {
		t.Errorf("something was admitted: %+v, %v", a, err)
	}
	if status, body := w.ask("POST", "/core/guarantees", repeat(256)); status != 200 || strings.Count(string(body), `"replayed":true`) != 255 {
		t.Errorf("256 times the same: %d, %d replayed", status, strings.Count(string(body), `"replayed":true`))
	}
}

// One bad member of a batch is refused in its place; the others are certified.
func TestABadMemberTouchesNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := w.sign(0, party(1), 5)
	bad.Claims.Amount = money.Units(6)
	list := []any{w.sign(0, party(1), 1), bad, 17, w.sign(0, party(1), 2), map[string]any{"claims": nil}}
	status, body := w.ask("POST", "/core/guarantees", map[string]any{"guarantees": list, "certificate": "batch"})
	var got struct {
		Results []struct {
			Claims, Error, Code string
			Batch               *guarantee.Inclusion
		}
	}
	if err := json.Unmarshal(body, &got); err != nil || status != 200 || len(got.Results) != 5 {
		t.Fatalf("%d %s", status, body)
	}
	for i, want := range []string{"", "payer_signature_invalid", "malformed_request", "", "malformed_request"} {
		r := got.Results[i]
		if r.Code != want || (want == "") != (r.Claims != "" && r.Batch != nil) {
			t.Errorf("member %d: %+v, want code %q", i, r, want)
		}
	}
}

func TestContentTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for kind, want := range map[string]int{
		"": 200, "application/json": 200, "application/json; charset=utf-8": 200, "application/vnd.x+json": 200, "text/plain": 200,
		"application/x-www-form-urlencoded": 200, "multipart/form-data; boundary=x": 400, "application/xml": 400,
		"application/json; charset=utf-16": 400, "a/b/c": 400,
	} {
		req := httptest.NewRequest("POST", "/core/guarantees", bytes.NewReader(vectors.V1.RequestBody))
		req.Header.Set("Content-Type", kind)
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, req)
		if rec.Code != want {
			t.Errorf("%q: %d %s", kind, rec.Code, rec.Body)
		}
	}
	req := httptest.NewRequest("POST", "/core/guarantees", bytes.NewReader(vectors.V1.RequestBody))
	req.Header.Set("Content-Encoding", "gzip")
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, req)
	if rec.Code != 400 {
		t.Errorf("gzip: %d", rec.Code)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"PUT", "/core/guarantees", 405, "method_not_allowed"},
		{"DELETE", "/core/notes", 405, "method_not_allowed"},
		{"POST", "/core/tokens", 405, "method_not_allowed"},
		{"POST", "/core/health", 405, "method_not_allowed"},
		{"GET", "/core", 404, "not_found"},
		{"GET", "/", 404, "not_found"},
		{"POST", "/core/guarantees/", 404, "not_found"},
		{"GET", "/core/guarantees/0x12", 400, "malformed_request"},
		{"GET", "/core/cycles", 400, "malformed_request"},
		{"GET", "/core/cycles?asset=USDC&limit=0", 400, "malformed_request"},
		{"GET", "/core/cycles?asset=USDC&limit=101", 400, "malformed_request"},
		{"GET", "/core/cycles?asset=USDC&limit=x", 400, "malformed_request"},
		{"GET", "/core/cycles/current?asset=0x01", 400, "malformed_request"},
		{"GET", "/core/cycles/current?asset=0x0000000000000000000000000000000000000000", 400, "asset_unsupported"},
		{"GET", "/core/cycles/yesterday", 404, "cycle_unknown"},
		{"GET", "/core/cycles/yesterday/participants/me/clearing-proof", 400, "malformed_request"},
		{"GET", "/core/cycles/yesterday/participants/" + buyer.Lower() + "/clearing-proof", 404, "cycle_unknown"},
		{"GET", "/core/users/me/balance?asset=USDC", 400, "malformed_request"},
		{"GET", "/core/recipients/me/payments", 400, "malformed_request"},
	} {
		status, body := w.ask(test.method, test.path, nil)
		if status != test.status || code(body) != test.code {
			t.Errorf("%s %s: %d %s, want %d %s", test.method, test.path, status, body, test.status, test.code)
		}
	}
	resp, err := http.Head(w.server.URL + "/core/health")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
}

func TestHealthSaysWhichPartFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *clearing.Config) {
		c.Health = Health{DB: func(context.Context) error { return nil }, Chain: func(context.Context) error { return errors.New("node at 10.0.0.7 is gone") }}
	})
	status, body := w.ask("GET", "/core/health", nil)
	w.golden("health-fail", status, body)
	if !strings.Contains(w.log.String(), "10.0.0.7") || strings.Contains(string(body), "10.0.0.7") {
		t.Errorf("log %s", w.log)
	}
}

// brokenBook fails in a way that nobody foresaw.
type brokenBook struct{ clearing.Book }

func (brokenBook) Read(context.Context, func(clearing.Tx) error) error {
	return errors.New("disk at /var/secret is full")
}

func (brokenBook) Write(context.Context, func(clearing.Tx) error) error {
	return errors.New("disk at /var/secret is full")
}

// A fault of our own is told to the log, and to the client only by a reference to it.
func TestOurOwnFaultsAreOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.house.Book = brokenBook{}
	status, body := w.as(nil, "GET", "/core/cycles?asset=USDC", nil)
	if status != 500 || code(body) != "internal" || strings.Contains(string(body), "secret") {
		t.Fatalf("%d %s", status, body)
	}
	var e struct{ Error string }
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	_, reference, _ := strings.Cut(e.Error, "internal error ")
	if reference == "" || !strings.Contains(w.log.String(), reference) || !strings.Contains(w.log.String(), "/var/secret") {
		t.Errorf("reference %q, log %s", reference, w.log)
	}
	status, body = w.ask("POST", "/core/guarantees", vectors.V1.RequestBody)
	if status != 503 || code(body) != "settlement_pending" || strings.Contains(string(body), "secret") {
		t.Errorf("unknown outcome: %d %s", status, body)
	}
	if !strings.Contains(w.log.String(), "outcome unknown") {
		t.Errorf("log %s", w.log)
	}
}

// A client that announces more than it sends, or less, harms only itself.
func TestLyingContentLength(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := strings.TrimPrefix(w.server.URL, "http://")
	for _, length := range []int{len(vectors.V1.RequestBody) + 100, 1 << 40} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /core/guarantees HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, vectors.V1.RequestBody)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("length %d: %v", length, err)
		}
		body, _ := io.ReadAll(resp.Body)
		conn.Close()
		if resp.StatusCode != 400 && resp.StatusCode != 413 {
			t.Errorf("length %d: %d %s", length, resp.StatusCode, body)
		}
	}
	if a, err := w.house.Account(context.Background(), buyer, dollar); err != nil || !a.Exposure().IsZero() {
		t.Errorf("half a body was admitted: %+v, %v", a, err)
	}
}

// Buyers compete for one collateral through single and joined requests: nobody gets more than there is.
func TestLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, err := client.New(w.server.URL, client.WithTimeout(timeoutForTests))
	if err != nil {
		t.Fatal(err)
	}
	const each = 9_999 // 100 of them fit into a million
	var list []guarantee.Signed
	for range 130 {
		list = append(list, w.sign(0, party(1), each))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for i, s := range list {
		wg.Go(func() {
			var err error
			if i%3 == 0 {
				var results []client.Result
				if results, err = c.CertifyMany(context.Background(), []guarantee.Signed{s, s}); err == nil {
					err = results[1].Err
				}
			} else {
				_, err = c.Certify(context.Background(), s)
			}
			mu.Lock()
			defer mu.Unlock()
			var e *x402.Error
			if err == nil {
				admitted++
			} else if !errors.As(err, &e) || e.Code != "collateral_insufficient" {
				t.Errorf("guarantee %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	a, err := w.house.Account(context.Background(), party(0), dollar)
	if err != nil || admitted != 100 || a.Exposure() != money.Units(100*each) {
		t.Errorf("%d admitted, exposure %s, %v", admitted, a.Exposure(), err)
	}
}

// Whatever is posted, the answer is JSON with a code of the table, and nothing panics.
func FuzzPost(f *testing.F) {
	f.Add([]byte(vectors.V1.RequestBody))
	f.Add([]byte(`{"guarantees":[{},null,1],"certificate":"batch"}`))
	f.Add([]byte(`{"notes":[{"digest":"0x00","amount":"1","signature":"0x00"}]}`))
	f.Add([]byte(`{"claims":{"version":"v1"}}`))
	t := &testing.T{}
	w := newWorld(t)
	f.Cleanup(w.server.Close)
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/core/guarantees", "/core/notes"} {
			rec := httptest.NewRecorder()
			w.handler.ServeHTTP(rec, httptest.NewRequest("POST", path, bytes.NewReader(body)))
			if rec.Code == 200 {
				if !json.Valid(rec.Body.Bytes()) {
					t.Fatalf("%s: %q", path, rec.Body)
				}
				continue
			}
			c := code(rec.Body.Bytes())
			if _, ok := x402.Lookup(c); !ok || c == "internal" {
				t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
			}
		}
	})
}
