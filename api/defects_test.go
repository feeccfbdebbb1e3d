package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// What the existing system does wrong and can be asked over HTTP, by the numbers of its list. Defects 13, 14 and 19 stand with
// limits and logins.

// Defect 1: one signature is charged again in the next cycle, or at once in other letters.
func TestDefect1OneSignatureIsOneGuarantee(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sign(0, party(1), 500)
	first := postOK(w, s)
	for _, at := range []uint64{signed, signed + 200, start + schedule.Length + 10, start + 3*schedule.Length} {
		w.setTime(at)
		for _, spelling := range spellings(t, s) {
			if again := postOK(w, spelling.body); again["replayed"] != true || again["claims"] != first["claims"] {
				t.Errorf("at %d, %s: %v", at, spelling.name, again)
			}
		}
	}
	if a, err := w.house.Account(t.Context(), party(0), dollar); err != nil || a.Exposure() != money.Units(500) {
		t.Errorf("exposure %s, %v", a.Exposure(), err)
	}
	// The same name for other content is refused, and an old signature that was never seen as well.
	w.setTime(signed)
	other := s.Claims
	other.Amount = money.Units(501)
	again, err := guarantee.Sign(t.Context(), keys[0], deployment, other)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := w.ask("POST", "/core/guarantees", again); status != 409 || code(body) != "guarantee_conflict" {
		t.Errorf("%d %s", status, body)
	}
	old := w.sign(0, party(1), 5)
	w.setTime(signed + 301)
	if status, body := w.ask("POST", "/core/guarantees", old); status != 400 || code(body) != "timestamp_skew" {
		t.Errorf("%d %s", status, body)
	}
}

// Defect 12: a second submission is an error, and who lost the answer has lost the certificate.
func TestDefect12ALostCertificateIsFetchedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sign(0, party(1), 500)
	first := postOK(w, s)
	if again := postOK(w, s); again["signature"] != first["signature"] || again["replayed"] != true {
		t.Errorf("%v", again)
	}
	digest := s.Claims.Digest(deployment.ClaimsSeparator())
	for range 2 { // also when its cycle is over
		status, body := w.as(keys[1], "GET", "/core/guarantees/"+digest.String()+"/certificate", nil)
		var got map[string]any
		if err := json.Unmarshal(body, &got); err != nil || status != 200 || got["claims"] != first["claims"] || got["signature"] != first["signature"] {
			t.Errorf("%d %s", status, body)
		}
		w.close(true)
	}
}

// countingBook counts how often all positions of a cycle are read.
type countingBook struct {
	clearing.Book
	positions *atomic.Int32
}

type countingTx struct {
	clearing.Tx
	positions *atomic.Int32
}

func (b countingBook) Read(ctx context.Context, fn func(clearing.Tx) error) error {
	return b.Book.Read(ctx, func(tx clearing.Tx) error { return fn(countingTx{tx, b.positions}) })
}

func (tx countingTx) Positions(c clearing.CycleRef, generation uint64) ([]clearing.Position, error) {
	tx.positions.Add(1)
	return tx.Tx.Positions(c, generation)
}

// Defect 15: each request for a proof builds the whole tree.
func TestDefect15ProofsShareATree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	postOK(w, w.sign(0, party(1), 500))
	w.close(true)
	var read atomic.Int32
	w.house.Book = countingBook{w.house.Book, &read}
	for i := range 20 {
		path := "/core/cycles/" + vectors.Certificate.Text + "/participants/" + party(i%2).Lower() + "/clearing-proof"
		if status, body := w.ask("GET", path, nil); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	if n := read.Load(); n != 1 {
		t.Errorf("20 proofs read the positions %d times", n)
	}
}

// Defect 22: code, hosted values and documents differ in how they spell the same things. Here each spelling is read, and what
// clients have to know is always told.
func TestDefect22EverySpellingIsRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sign(0, party(1), 500)
	for i, spelling := range spellings(t, s) {
		if got := postOK(w, spelling.body); (got["replayed"] == true) != (i > 0) {
			t.Errorf("%s: %v", spelling.name, got)
		}
	}
	status, body := w.as(nil, "GET", "/core/public-params", nil)
	var p struct {
		URL  string `json:"ethereum_http_rpc_url"`
		Name string `json:"eip712_name"`
	}
	if err := json.Unmarshal(body, &p); err != nil || status != 200 || p.URL == "" || p.Name == "" {
		t.Errorf("%d %s", status, body)
	}
	w.close(true)
	text := vectors.Certificate.Text
	for _, id := range []string{text, strings.Replace(text, ":", "%3A", 1), strings.Replace(text, ":", "%3a", 1), vectors.Certificate.ID,
		strings.ToUpper(vectors.Certificate.ID), "0X" + strings.ToUpper(text[2:])} {
		for _, who := range []string{party(0).Lower(), party(0).String(), "0X" + strings.ToUpper(party(0).Lower()[2:])} {
			if status, body := w.as(keys[0], "GET", "/core/cycles/"+id+"/participants/"+who+"/clearing-proof", nil); status != 200 {
				t.Errorf("%s of %s: %d %s", who, id, status, body)
			}
		}
	}
}

// Defect 23: the tokens and parameters are read from the chain on each call. Here they come from memory, however often.
func TestDefect23TokensAreNotReadFromTheChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *clearing.Config) {
		c.Health.Chain = func(context.Context) error { t.Error("the chain is asked"); return nil }
	})
	w.house.Book = brokenBook{}
	for range 50 {
		if status, body := w.as(nil, "GET", "/core/tokens", nil); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
}

func postOK(w *world, body any) (out map[string]any) {
	w.Helper()
	status, _, raw := w.send("POST", "/core/guarantees", http.Header{}, body)
	if err := json.Unmarshal(raw, &out); err != nil || status != 200 {
		w.Fatalf("%d %s", status, raw)
	}
	return out
}

type spelling struct {
	name string
	body map[string]any
}

// spellings are ways in which clients and documents write the same request.
func spellings(t *testing.T, s guarantee.Signed) []spelling {
	t.Helper()
	c := s.Claims
	upper := func(a interface{ Lower() string }) string { return "0x" + strings.ToUpper(a.Lower()[2:]) }
	plain := func() map[string]any {
		return map[string]any{
			"version": "v1", "user_address": c.Payer.Lower(), "recipient_address": c.Payee.Lower(), "req_id": c.ReqID.String(), "amount": "0x1f4",
			"asset_address": c.Asset.Lower(), "timestamp": c.Timestamp,
		}
	}
	number, err := money.ParseAmount(c.ReqID.String())
	if err != nil {
		t.Fatal(err)
	}
	var list []spelling
	add := func(name string, change func(claims, body map[string]any)) {
		claims := plain()
		body := map[string]any{"claims": claims, "signature": s.Signature.String(), "scheme": "eip712"}
		change(claims, body)
		list = append(list, spelling{name, body})
	}
	add("as clients send it", func(_, _ map[string]any) {})
	add("addresses in upper case", func(claims, _ map[string]any) {
		claims["user_address"], claims["recipient_address"], claims["asset_address"] = upper(c.Payer), upper(c.Payee), upper(c.Asset)
	})
	add("addresses with checksums", func(claims, _ map[string]any) {
		claims["user_address"], claims["recipient_address"], claims["asset_address"] = c.Payer, c.Payee, c.Asset
	})
	add("decimal numbers", func(claims, _ map[string]any) { claims["amount"], claims["req_id"] = "500", number.String() })
	add("integers", func(claims, _ map[string]any) { claims["amount"], claims["req_id"] = 500, json.Number(number.String()) })
	add("a time in words", func(claims, _ map[string]any) { claims["timestamp"] = strconv.FormatUint(c.Timestamp, 10) })
	add("a version as a number", func(claims, _ map[string]any) { claims["version"] = 1 })
	add("a version as its digit", func(claims, _ map[string]any) { claims["version"] = "1" })
	add("members that nobody knows", func(claims, body map[string]any) { claims["memo"], body["client"] = "x", 1.5 })
	return list
}
