package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

var update = flag.Bool("update", false, "write docs/errors.md")

func TestTheTableIsWhole(t *testing.T) {
	t.Parallel()
	snake := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, r := range All() {
		switch {
		case seen[r.Code]:
			t.Errorf("%s is there twice", r.Code)
		case !snake.MatchString(r.Code):
			t.Errorf("%s is not written as codes are", r.Code)
		case r.Code == "not_charged": // the one outcome that is no refusal: it stands in the receipt of a served answer
			if r.Status != 200 || r.Exit != 0 {
				t.Errorf("%s has status %d and exit %d", r.Code, r.Status, r.Exit)
			}
		case r.Status < 400 || r.Status > 599:
			t.Errorf("%s has status %d", r.Code, r.Status)
		case r.Exit < 1 || r.Exit > 5:
			t.Errorf("%s has exit %d", r.Code, r.Exit)
		case r.Retry != "never" && r.Retry != "same payment" && r.Retry != "new payment" && r.Retry != "after":
			t.Errorf("%s is retried %q", r.Code, r.Retry)
		}
		for _, sentence := range []string{r.What, r.Money, r.Remedy} {
			if !strings.HasSuffix(sentence, ".") || strings.Contains(sentence, "|") {
				t.Errorf("%s: no sentence: %q", r.Code, sentence)
			}
		}
		// Who may have paid must not be told to pay again.
		if r.Exit == 5 && r.Retry != "same payment" {
			t.Errorf("%s leaves the outcome open, and is retried with %q", r.Code, r.Retry)
		}
		seen[r.Code] = true
		if found, ok := Lookup(r.Code); !ok || found != r {
			t.Errorf("%s is looked up as %+v", r.Code, found)
		}
	}
	if _, ok := Lookup("no_such_code"); ok {
		t.Error("a code that is not there was found")
	}
}

// The codes, statuses and exits that people were promised.
func TestPromisedCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[string][2]int{
		"upstream_unreachable": {502, 1}, "house_unreachable": {503, 4}, "budget_exceeded": {402, 3}, "collateral_insufficient": {402, 4},
		"no_common_option": {402, 4}, "asset_unknown": {400, 2}, "price_invalid": {500, 2}, "below_break_even": {500, 1}, "fee_unknown": {400, 2}, "payment_used": {409, 4},
		"settlement_pending": {503, 5}, "payee_changed": {402, 3}, "timestamp_skew": {402, 4},
		"payment_required": {402, 4}, "payment_undecodable": {402, 4}, "payment_header_duplicate": {400, 4}, "payment_header_oversized": {400, 4},
		"payment_mismatch": {402, 4}, "quote_expired": {402, 4}, "payment_in_progress": {409, 4}, "payment_void": {402, 4},
		"payer_signature_invalid": {402, 4}, "certificate_invalid": {503, 4}, "certificate_mismatch": {503, 4}, "house_refused": {503, 4},
		"guarantee_conflict": {409, 4}, "guarantee_expired": {402, 4}, "limit_per_cycle_exceeded": {402, 4}, "asset_unsupported": {402, 4},
		"cycle_closed": {409, 4}, "note_invalid": {400, 1}, "note_signer": {403, 1}, "note_pledged": {409, 1}, "note_too_late": {409, 1}, "note_not_lower": {409, 1}, "eip191_off": {402, 4}, "validation_invalid": {402, 4}, "registry_untrusted": {402, 4},
		"high_s": {402, 4}, "route_unlisted": {404, 4}, "body_too_large": {413, 1}, "malformed_request": {400, 1}, "not_found": {404, 1},
		"unauthorized": {401, 1}, "internal": {500, 1}, "seller_not_allowed": {402, 3}, "config_invalid": {500, 2}, "meter_missing": {502, 1},
		"chain_mismatch": {500, 1}, "keystore_passphrase": {500, 2},
	} {
		r, ok := Lookup(code)
		if !ok || r.Status != want[0] || r.Exit != want[1] {
			t.Errorf("%s: %+v, want status %d and exit %d", code, r, want[0], want[1])
		}
	}
}

func TestNearestCode(t *testing.T) {
	t.Parallel()
	for asked, want := range map[string]string{
		"payment_usd": "payment_used", "PAYMENT_USED": "payment_used", "colateral_insuficient": "collateral_insufficient",
		"skew": "timestamp_skew", "xyzzy": "", "": "",
	} {
		if got := Nearest(asked); got != want {
			t.Errorf("%q is nearest to %q, want %q", asked, got, want)
		}
	}
}

// docs/errors.md is the table for people; -update writes it.
func TestErrorsPage(t *testing.T) {
	t.Parallel()
	const path = "../docs/errors.md"
	var b bytes.Buffer
	b.WriteString("# Error codes\n\nMade from the table in package x402 (`go test ./x402 -update`); `farthing explain CODE` prints a row. Codes are part of the\n" +
		"protocol: they are only ever added. *Exit* is the command's: 1 failed, 2 misused, 3 own budget or policy, 4 payment refused,\n" +
		"5 outcome unknown. *Ask again* says what with: the same payment (which cannot pay twice), a new one, after the remedy, or never.\n")
	for _, part := range []struct {
		title string
		rows  []Reason
	}{{"Farthing's", reasons}, {"The x402 protocol's", protocolReasons}} {
		fmt.Fprintf(&b, "\n## %s\n\n| Code | HTTP | Exit | Ask again | Cause | Money | Remedy |\n|---|---|---|---|---|---|---|\n", part.title)
		for _, r := range part.rows {
			fmt.Fprintf(&b, "| `%s` | %d | %d | %s | %s | %s | %s |\n", r.Code, r.Status, r.Exit, r.Retry, r.What, r.Money, r.Remedy)
		}
	}
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%s is not what the table says; run go test ./x402 -update", path)
	}
}

func TestErrorsAsJSON(t *testing.T) {
	t.Parallel()
	e := Errorf("collateral_insufficient", "guarantee of $0.50 needs $0.50 free, you have $0.32").WithHint("farthing deposit '$0.18'")
	e.Details = map[string]string{"asked": "500000", "available": "320000"}
	b, err := json.Marshal(e)
	const want = `{"error":"guarantee of $0.50 needs $0.50 free, you have $0.32","code":"collateral_insufficient","hint":"farthing deposit '$0.18'","details":{"asked":"500000","available":"320000"}}`
	if err != nil || string(b) != want {
		t.Errorf("%s (%v), want %s", b, err, want)
	}
	var back Error
	if err := json.Unmarshal(b, &back); err != nil || back.Code != e.Code || back.Message != e.Message || back.Hint != e.Hint || back.Details["asked"] != "500000" {
		t.Errorf("reads back as %+v (%v)", back, err)
	}
	if err := json.Unmarshal([]byte(`{"error":"request failed, please retry"}`), &back); err != nil || back.Code != "" || back.Message != "request failed, please retry" {
		t.Errorf("another server's error: %+v (%v)", back, err)
	}
	if json.Unmarshal([]byte(`{"error":1}`), &back) == nil {
		t.Error("a number was read as an error")
	}
}

func TestErrorsInGo(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection refused")
	e := Errorf("upstream_unreachable", "upstream http://localhost:3000: %w", cause)
	wrapped := fmt.Errorf("serve: %w", e)
	if !errors.Is(wrapped, cause) || !errors.Is(wrapped, &Error{Code: "upstream_unreachable"}) || errors.Is(wrapped, &Error{Code: "internal"}) {
		t.Errorf("%v does not compare as it should", wrapped)
	}
	if errors.Is(wrapped, &Error{Code: "upstream_unreachable", Message: "another"}) {
		t.Error("two messages of one code are the same error")
	}
	if got, ok := AsError(wrapped); !ok || got != e {
		t.Errorf("found %v", got)
	}
	if e.Remedy() != "Start it, or pass --upstream." || e.WithHint("wait").Remedy() != "wait" || e.Hint != "" {
		t.Errorf("remedy %q, hint %q", e.Remedy(), e.Hint)
	}
	if bare := (&Error{Code: "payment_void"}); bare.Error() != "The payment's purchase ended without a charge." {
		t.Errorf("without a message: %q", bare.Error())
	}
	if strange := (&Error{Code: "strange", Message: "m"}); strange.Reason().Code != "internal" || strange.Error() != "m" {
		t.Errorf("a code without a row: %+v", strange.Reason())
	}
}

func TestErrorsOfTheLayersBelow(t *testing.T) {
	t.Parallel()
	_, price := money.ParsePrice("$1e3")
	_, chain := network.Lookup("bsae")
	base, err := network.Lookup("base")
	if err != nil {
		t.Fatal(err)
	}
	_, token := base.Token("USDT")
	for _, tt := range []struct {
		err        error
		code, hint string
	}{
		{price, "price_invalid", "write digits"},
		{chain, "network_unknown", "did you mean base?"},
		{token, "asset_unknown", "USDC is known there"},
	} {
		e, ok := AsError(fmt.Errorf("gate.yaml:3: %w", tt.err))
		if !ok || e.Code != tt.code || !strings.HasPrefix(e.Message, "gate.yaml:3: ") || !strings.Contains(e.Hint, tt.hint) || !errors.Is(e, tt.err) {
			t.Errorf("%v: %+v", tt.err, e)
		}
	}
	if e, ok := AsError(errors.New("secret")); ok || e != nil {
		t.Errorf("an unknown error is shown: %v", e)
	}
}

func TestWriteErrorHidesTheCause(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	e := &Error{Code: "house_unreachable", Message: "cannot certify payments", Err: errors.New("dial 10.0.0.7: secret")}
	WriteError(w, e)
	if w.Code != 503 || strings.Contains(w.Body.String(), "secret") || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("status %d, %v, %s", w.Code, w.Header(), w.Body)
	}
	var back Error
	if err := json.Unmarshal(w.Body.Bytes(), &back); err != nil || back.Code != e.Code || back.Hint != "Retry with the same payment." {
		t.Errorf("%+v (%v)", back, err)
	}
}
