package x402

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func payment(t *testing.T, name string) Payment {
	t.Helper()
	p, err := ReadPayment(with(HeaderSignature, readVectors(t).Payment[name].Header))
	if err != nil {
		t.Fatal(err)
	}
	return *p
}

// serve answers every call with a function and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &Client{Base: s.URL + "/facilitator/"}
}

func TestClientAsksInThePaymentsVersion(t *testing.T) {
	t.Parallel()
	v2 := payment(t, "exact_eip3009_v2")
	for _, tt := range []struct {
		name         string
		version      string
		network      string
		amountMember string
	}{
		{"exact_eip3009_v2", "2", "eip155:84532", "amount"},
		{"exact_eip3009_v1", "1", "base-sepolia", "maxAmountRequired"},
	} {
		var path, key string
		var got FacilitatorRequest
		var raw struct {
			X402Version         json.Number
			PaymentRequirements map[string]any
		}
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			path, key = r.Method+" "+r.URL.Path, r.Header.Get("X-Api-Key")
			b, err := io.ReadAll(r.Body)
			if err == nil {
				err = errors.Join(json.Unmarshal(b, &raw), json.Unmarshal(b, &got))
			}
			if err != nil {
				t.Error(err)
			}
			io.WriteString(w, `{"isValid":true,"payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","invalidReason":null}`)
		})
		c.Header = http.Header{"x-api-key": {"secret"}}
		p := payment(t, tt.name)
		v, err := c.Verify(t.Context(), p, *v2.Accepted)
		if err != nil || !v.IsValid || v.Payer != "0x70997970C51812dc3A010C7d01b50e0d17dc79C8" {
			t.Errorf("%s: %+v (%v)", tt.name, v, err)
		}
		if path != "POST /facilitator/verify" || key != "secret" {
			t.Errorf("%s: %s with key %q", tt.name, path, key)
		}
		if raw.X402Version.String() != tt.version || raw.PaymentRequirements["network"] != tt.network || raw.PaymentRequirements[tt.amountMember] != "10000" {
			t.Errorf("%s: asked %+v", tt.name, raw)
		}
		// Whoever serves the call reads both versions in one form.
		p.Raw = ""
		ignored := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".NetworkSent" }, cmp.Ignore())
		if diff := cmp.Diff(FacilitatorRequest{p, *v2.Accepted}, got, ignored); diff != "" {
			t.Errorf("%s: read as (-sent +read)\n%s", tt.name, diff)
		}
	}
}

func TestWhatAnAnswerMeans(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, verb string
		status     int
		body       string
		want       string // "yes", "no", or the code of an error
	}{
		{"valid", "verify", 200, `{"isValid":true}`, "yes"},
		{"refused", "verify", 200, `{"isValid":false,"invalidReason":"insufficient_funds"}`, "no"},
		{"refused outside 2xx, in the form of an answer", "verify", 400, `{"isValid":false,"invalidReason":"insufficient_funds"}`, "no"},
		{"an error without the form", "verify", 400, `{"error":"no"}`, "facilitator_fault"},
		{"a success without the member", "verify", 200, `{}`, "facilitator_fault"},
		{"null for the member", "verify", 200, `{"isValid":null}`, "facilitator_fault"},
		{"the member twice", "verify", 200, `{"isValid":false,"isValid":true}`, "facilitator_fault"},
		{"text for the member", "verify", 200, `{"isValid":"yes"}`, "facilitator_fault"},
		{"a page", "verify", 502, `<html>`, "facilitator_fault"},
		{"too much", "verify", 200, `{"isValid":true,"x":"` + strings.Repeat("x", answerBytesMax) + `"}`, "facilitator_fault"},

		{"settled", "settle", 200, `{"success":true,"transaction":"0x01","network":"base-sepolia"}`, "yes"},
		{"4Mica's refusal", "settle", 200, `{"success":false,"error":"no","txHash":null,"networkId":null}`, "no"},
		{"sent, not confirmed", "settle", 200, `{"success":false,"errorReason":"settlement_pending","transaction":"0x01"}`, "no"},
		{"a refusal outside 2xx", "settle", 500, `{"success":false,"errorReason":"unexpected_settle_error"}`, "no"},
		{"turned away before the act", "settle", 401, `{"error":"key"}`, "facilitator_fault"},
		{"busy", "settle", 429, ``, "facilitator_fault"},
		{"failed, perhaps after the act", "settle", 500, `oops`, "settlement_pending"},
		{"a conflict, perhaps with itself", "settle", 409, `{}`, "settlement_pending"},
		{"a gateway that gave up", "settle", 504, ``, "settlement_pending"},
		{"nonsense after the act", "settle", 200, `{}`, "settlement_pending"},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(tt.status)
			io.WriteString(w, tt.body)
		})
		p := payment(t, "exact_eip3009_v2")
		var yes bool
		var err error
		if tt.verb == "verify" {
			var v VerifyResponse
			v, err = c.Verify(t.Context(), p, *p.Accepted)
			yes = v.IsValid
		} else {
			var s SettleResponse
			s, err = c.Settle(t.Context(), p, *p.Accepted)
			yes = s.Success
			if yes && s.Network != "eip155:84532" {
				t.Errorf("%s: settled on %s", tt.name, s.Network)
			}
		}
		got := "no"
		var e *Error
		switch {
		case errors.As(err, &e):
			got = e.Code
		case err != nil:
			t.Fatal(err)
		case yes:
			got = "yes"
		}
		if got != tt.want || err != nil && yes {
			t.Errorf("%s: %s (%v), want %s", tt.name, got, err, tt.want)
		}
	}
}

// failing is a transport that sends nothing and returns an error.
type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// A settlement whose answer was lost is neither done nor undone; one that was never asked for is undone.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	p := payment(t, "exact_eip3009_v2")
	lost := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	})
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	slow.Timeout = 20 * time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := &Client{Base: "http://" + listener.Addr().String()}
	listener.Close()
	reset := &Client{Base: closed.Base, HTTP: &http.Client{Transport: failing{&net.OpError{Op: "read", Err: errors.New("connection reset")}}}}
	for _, tt := range []struct {
		name           string
		client         *Client
		verify, settle string
	}{
		{"connection lost after the request", lost, "facilitator_unreachable", "settlement_pending"},
		{"no answer in time", slow, "facilitator_unreachable", "settlement_pending"},
		{"connection reset after the request", reset, "facilitator_unreachable", "settlement_pending"},
		{"nobody there", closed, "facilitator_unreachable", "facilitator_unreachable"},
		{"no address", &Client{Base: "ftp://x"}, "config_invalid", "config_invalid"},
	} {
		if _, err := tt.client.Verify(t.Context(), p, *p.Accepted); !errors.Is(err, &Error{Code: tt.verify}) {
			t.Errorf("%s: verify: %v, want %s", tt.name, err, tt.verify)
		}
		_, err := tt.client.Settle(t.Context(), p, *p.Accepted)
		if !errors.Is(err, &Error{Code: tt.settle}) {
			t.Errorf("%s: settle: %v, want %s", tt.name, err, tt.settle)
		}
		if tt.client == slow && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the cause is lost: %v", tt.name, err)
		}
	}
}

func TestRedirectsKeepTheSellersKeyAtHome(t *testing.T) {
	t.Parallel()
	var key string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key = r.Header.Get("X-Api-Key")
		io.WriteString(w, `{"isValid":true}`)
	}))
	t.Cleanup(other.Close)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/facilitator/verify":
			http.Redirect(w, r, "/moved", http.StatusTemporaryRedirect)
		case "/moved":
			if r.Header.Get("X-Api-Key") != "secret" {
				t.Error("the key did not follow on its own host")
			}
			http.Redirect(w, r, other.URL, http.StatusPermanentRedirect)
		default:
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}
	})
	c.Header = http.Header{"X-Api-Key": {"secret"}}
	p := payment(t, "exact_eip3009_v2")
	if v, err := c.Verify(t.Context(), p, *p.Accepted); err != nil || !v.IsValid {
		t.Errorf("%+v (%v)", v, err)
	}
	if key != "" {
		t.Error("another host was given the key")
	}
	if _, err := c.Supported(t.Context()); err == nil || !strings.Contains(err.Error(), "too often") {
		t.Errorf("a circle of redirects: %v", err)
	}
	secure := httptest.NewTLSServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	t.Cleanup(secure.Close)
	downgraded := &Client{Base: secure.URL, HTTP: secure.Client()}
	if _, err := downgraded.Verify(t.Context(), p, *p.Accepted); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("from https to http: %v", err)
	}
}

func TestSupportedAsksABusyFacilitatorAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		busy        int
		retryAfter  string
		wantPauses  []time.Duration
		wantSuccess bool
	}{
		{"not busy", 0, "", nil, true},
		{"busy once, without a hint", 1, "", []time.Duration{time.Second}, true},
		{"busy twice, without a hint", 2, "", []time.Duration{time.Second, 2 * time.Second}, true},
		{"busy for good", 9, "5", []time.Duration{5 * time.Second, 5 * time.Second}, false},
		{"a pause that is too long", 1, "86400", []time.Duration{30 * time.Second}, true},
		{"a date that is far off", 1, "Fri, 01 Jan 2100 00:00:00 GMT", []time.Duration{30 * time.Second}, true},
		{"a date that is over", 1, "Thu, 01 Jan 1970 00:00:00 GMT", []time.Duration{time.Second}, true},
	} {
		left := tt.busy
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.URL.Path != "/facilitator/supported" {
				t.Errorf("%s: %s %s", tt.name, r.Method, r.URL.Path)
			}
			if left--; left >= 0 {
				w.Header().Set("Retry-After", tt.retryAfter)
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			io.WriteString(w, `{"kinds":[{"x402Version":2,"scheme":"exact","network":"eip155:*"},{"x402Version":1,"scheme":"exact","network":"base-sepolia","extra":{"a":1}}],"signers":null}`)
		})
		var pauses []time.Duration
		c.wait = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
		s, err := c.Supported(t.Context())
		if (err == nil) != tt.wantSuccess || !cmp.Equal(pauses, tt.wantPauses) {
			t.Errorf("%s: %v, paused %v, want %v", tt.name, err, pauses, tt.wantPauses)
		}
		if err != nil {
			continue
		}
		if s.Dialect() != X402 {
			t.Errorf("%s: taken for one that speaks %q", tt.name, s.Dialect())
		}
		if _, ok := s.Find(2, "exact", "eip155:8453"); !ok {
			t.Errorf("%s: a pattern finds nothing", tt.name)
		}
		if k, ok := s.Find(1, "exact", "eip155:84532"); !ok || string(k.Extra["a"]) != "1" {
			t.Errorf("%s: version 1 finds %+v", tt.name, k)
		}
		for _, miss := range []struct {
			version         int
			scheme, network string
		}{{1, "exact", "eip155:8453"}, {2, "upto", "eip155:1"}, {2, "exact", "solana:x"}} {
			if k, ok := s.Find(miss.version, miss.scheme, miss.network); ok {
				t.Errorf("%s: %+v finds %+v", tt.name, miss, k)
			}
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429); stop() })
	if _, err := c.Supported(stopped); err == nil {
		t.Error("a call that was given up succeeded")
	}
}

func TestSupportedHasNoNullLists(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(Supported{})
	if err != nil || string(b) != `{"kinds":[],"extensions":[],"signers":{}}` {
		t.Errorf("%s (%v)", b, err)
	}
}

func TestFacilitatorRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	const payload = `"paymentPayload":{"x402Version":1,"scheme":"exact","network":"base","payload":{}}`
	const requirements = `"paymentRequirements":{"scheme":"exact","network":"base","amount":"1"}`
	for _, tt := range []struct{ body, code string }{
		{``, "malformed_request"},
		{`{}`, "malformed_request"},
		{`null`, "malformed_request"},
		{`[]`, "malformed_request"},
		{`{` + payload + `}`, "malformed_request"},
		{`{` + requirements + `}`, "malformed_request"},
		{`{` + payload + `,"paymentRequirements":null}`, "malformed_request"},
		{`{"paymentPayload":null,` + requirements + `}`, "malformed_request"},
		{`{` + payload + `,` + requirements + `} {}`, "malformed_request"},
		{`{` + payload + `,` + payload + `,` + requirements + `}`, "malformed_request"},
		{`{` + payload + `,"paymentRequirements":{"scheme":"exact","network":"base","amount":"1","Amount":"2"}}`, "malformed_request"},
		{`{"x402Version":"1",` + payload + `,` + requirements + `}`, "malformed_request"},
		{`{"x402Version":3,` + payload + `,` + requirements + `}`, "invalid_x402_version"},
		{`{"t402Version":0,` + payload + `,` + requirements + `}`, "invalid_t402_version"},
		{`{"x402Version":2,"t402Version":1,` + payload + `,` + requirements + `}`, "invalid_x402_version"},
		{`{"x402Version":2,"paymentPayload":{"scheme":"exact","network":"base","payload":{}},` + requirements + `}`, "invalid_x402_version"},
		{`{"paymentPayload":{"t402Version":9,"scheme":"exact","network":"base","payload":{}},` + requirements + `}`, "invalid_t402_version"},
		{`{"paymentPayload":{"x402Version":1,"scheme":"exact","network":"base","payload":[]},` + requirements + `}`, "invalid_payload"},
		{`{"paymentPayload":7,` + requirements + `}`, "invalid_payload"},
		{`{"paymentPayload":{"x402Version":1,"scheme":"exact","payload":{}},` + requirements + `}`, "invalid_payload"},
		{`{` + payload + `,"paymentRequirements":{}}`, "invalid_payment_requirements"},
		{`{` + payload + `,"paymentRequirements":[1]}`, "invalid_payment_requirements"},
		{`{` + payload + `,"paymentRequirements":{"scheme":"exact","network":"base"}}`, "invalid_payment_requirements"},
		{`{` + payload + `,"paymentRequirements":{"scheme":"exact","network":"base","amount":"-1"}}`, "invalid_payment_requirements"},
		{`{` + payload + `,"paymentRequirements":{"scheme":"exact","network":"base","amount":"0x1"}}`, "invalid_payment_requirements"},
		{`{` + payload + `,"paymentRequirements":{"scheme":"exact","network":"base","amount":"1","maxAmountRequired":"2"}}`, "invalid_payment_requirements"},
		{`{` + payload + `,"x":"` + strings.Repeat("x", FacilitatorBytesMax) + `"}`, "body_too_large"},
	} {
		var q FacilitatorRequest
		if err := json.Unmarshal([]byte(tt.body), &q); err == nil {
			t.Errorf("read %s as %+v", tt.body, q)
		}
		if _, e := ReadFacilitatorRequest(strings.NewReader(tt.body)); e == nil || e.Code != tt.code {
			t.Errorf("%.200s: %v, want %s", tt.body, e, tt.code)
		}
	}
	if _, e := ReadFacilitatorRequest(brokenReader{}); e == nil || e.Code != "malformed_request" {
		t.Errorf("a body that breaks off: %v", e)
	}
	for _, body := range []string{
		`{` + payload + `,` + requirements + `}`,
		`{"x402Version":null,` + payload + `,` + requirements + `,"paymentHeader":"x"}`,
		`{"x402Version":2,` + payload + `,` + requirements + `}`,
		`{"t402Version":1,` + payload + `,` + requirements + `}`,
	} {
		if q, e := ReadFacilitatorRequest(strings.NewReader(body)); e != nil || q.Payment.Network != "eip155:8453" || q.Requirements.Network != "eip155:8453" || q.Payment.Dialect != X402 {
			t.Errorf("%s: %+v (%v)", body, q, e)
		}
	}
}

// Whoever asked is answered in words of their own version and dialect.
func TestAnswersOfAFacilitator(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		dialect Dialect
		version int
		code    string
		reason  string
		network string
	}{
		{X402, 2, "invalid_exact_evm_nonce_already_used", "invalid_exact_evm_nonce_already_used", "eip155:84532"},
		{X402, 1, "invalid_exact_evm_nonce_already_used", "duplicate_settlement", "base-sepolia"},
		{T402, 2, "invalid_exact_evm_nonce_already_used", "invalid_transaction_state", "eip155:84532"},
		{T402, 1, "settlement_pending", "unexpected_settle_error", "base-sepolia"},
		{X402, 1, "insufficient_funds", "insufficient_funds", "base-sepolia"},
		{X402, 1, "", "", "base-sepolia"},
	} {
		q := FacilitatorRequest{Payment: Payment{Version: tt.version, Dialect: tt.dialect}}
		kept := ""
		if tt.reason != tt.code {
			kept = tt.code
		}
		v := q.VerifyAnswer(VerifyResponse{InvalidReason: tt.code})
		if v.InvalidReason != tt.reason || v.InvalidMessage != kept {
			t.Errorf("%+v: %+v", tt, v)
		}
		s := q.SettleAnswer(SettleResponse{ErrorReason: tt.code, Network: "eip155:84532", Transaction: "0x01"})
		if s.ErrorReason != tt.reason || s.ErrorMessage != kept || s.Network != tt.network || s.Transaction != "0x01" {
			t.Errorf("%+v: %+v", tt, s)
		}
		if v := q.VerifyAnswer(VerifyResponse{InvalidReason: tt.code, InvalidMessage: "said"}); v.InvalidMessage != "said" {
			t.Errorf("%+v: %+v", tt, v)
		}
	}
}

func TestKindsOfAScheme(t *testing.T) {
	t.Parallel()
	for name, kinds := range map[string][]Kind{
		`[{"x402Version":2,"t402Version":2,"scheme":"exact","network":"eip155:84532"},{"x402Version":1,"t402Version":1,"scheme":"exact","network":"base-sepolia"}]`: Kinds("exact", "eip155:84532", nil),
		`[{"x402Version":2,"t402Version":2,"scheme":"exact","network":"eip155:42161"}]`:                                                                             Kinds("exact", "eip155:42161", nil),
		`[{"t402Version":2,"scheme":"exact-legacy","network":"eip155:1"}]`:                                                                                          Kinds("exact-legacy", "eip155:1", nil),
		`[{"x402Version":2,"scheme":"upto","network":"eip155:1","extra":{"facilitatorAddress":"0x01"}}]`:                                                            Kinds("upto", "eip155:1", map[string]json.RawMessage{"facilitatorAddress": json.RawMessage(`"0x01"`)}),
	} {
		if b, err := encodePlain(kinds); err != nil || string(b) != name {
			t.Errorf("%s (%v), want %s", b, err, name)
		}
	}
}

func FuzzFacilitatorRequest(f *testing.F) {
	vs := readVectors(f)
	f.Add(`{"x402Version":2,"paymentPayload":` + vs.Payment["exact_eip3009_v2"].JSON + `,"paymentRequirements":{"scheme":"exact","network":"eip155:84532","amount":"10000"}}`)
	f.Add(`{"x402Version":1,"paymentPayload":` + vs.Payment["exact_eip3009_v1"].JSON + `,"paymentRequirements":{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"10000","paymentHeader":"x"}}`)
	f.Add(readT402(f).VerifyBody.JSON)
	f.Fuzz(func(t *testing.T, text string) {
		var q FacilitatorRequest
		if err := q.UnmarshalJSON([]byte(text)); err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.Reason().Code != e.Code {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		first, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		var again FacilitatorRequest
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("cannot read what it wrote: %v\n%s", err, first)
		}
		if second, err := json.Marshal(again); err != nil || string(first) != string(second) {
			t.Fatalf("not stable (%v)\n%s\n%s", err, first, second)
		}
	})
}

// A seller's buyers are told what is wrong with its facilitator, and its address may hold a key.
func TestClientSaysNothingOfTheAddressButTheHost(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	c := &Client{Base: s.URL + "/v1/secret-key"}
	v2 := payment(t, "exact_eip3009_v2")
	_, err := c.Supported(t.Context())
	_, verifyErr := c.Verify(t.Context(), v2, *v2.Accepted)
	_, settleErr := c.Settle(t.Context(), v2, *v2.Accepted)
	for _, err := range []error{err, verifyErr, settleErr} {
		if e, ok := AsError(err); !ok || e.Code != "facilitator_unreachable" || strings.Contains(e.Error(), "secret-key") || !strings.Contains(e.Error(), "refused") {
			t.Errorf("%v", err)
		}
	}
}
