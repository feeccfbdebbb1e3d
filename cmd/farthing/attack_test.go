package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/x402"
)

const attackedPrices = `routes:
  GET /health: free
  GET /quote/{symbol}: $0.0005
  GET /slow: $0.0005
  POST /generate: $0.0005
`

// answer is what an attacker gets.
type answer struct {
	status int
	code   string
	text   string
	header http.Header
}

// show asks for a path with payment headers as they are given.
func (w *town) show(method, path string, headers http.Header) answer {
	w.t.Helper()
	req := must(http.NewRequest(method, w.url(path), nil))(w.t)
	maps.Copy(req.Header, headers)
	resp := must((&http.Client{Timeout: patience}).Do(req))(w.t)
	defer resp.Body.Close()
	text := must(io.ReadAll(resp.Body))(w.t)
	var said struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(text, &said) // an answer of the server behind has no code
	return answer{resp.StatusCode, said.Code, string(text), resp.Header}
}

func paying(payment string) http.Header { return http.Header{x402.HeaderSignature: {payment}} }

// thief keeps payments instead of sending them, so that an attack begins with one that nobody has seen.
type thief struct {
	mu      sync.Mutex
	payment string // guarded by mu
}

func (t *thief) RoundTrip(r *http.Request) (*http.Response, error) {
	if p := r.Header.Get(x402.HeaderSignature); p != "" {
		t.mu.Lock()
		t.payment = p
		t.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Err: io.ErrClosedPipe} // as if it had never left
	}
	return http.DefaultTransport.RoundTrip(r)
}

// steal returns a good payment for a path that nobody has shown yet.
func (w *town) steal(c *customer, path string) string {
	w.t.Helper()
	var t thief
	p := must(payer.New(payer.Config{
		Key: c.key, Budget: payer.Budget{PerCall: "$0.10"}, ClearingHouse: w.houseURL(), Transport: &t,
		Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}))(w.t)
	defer p.Close()
	resp, err := (&http.Client{Transport: p}).Get(w.url(path))
	if err == nil {
		resp.Body.Close()
		w.t.Fatalf("%s was answered %d without a payment", path, resp.StatusCode)
	}
	if t.payment == "" {
		w.t.Fatalf("no payment was made for %s: %v", path, err)
	}
	return t.payment
}

// Whatever is sent instead of a good payment of one's own is refused with its code, and nothing is done for it.
func TestAttackedGate(t *testing.T) {
	t.Parallel()
	w := newTown(t, attackedPrices)
	buyer := w.customers(1, nil)[0]

	t.Run("a payment is shown again", func(t *testing.T) {
		payment := w.steal(buyer, "/quote/ONCE")
		first := w.show("GET", "/quote/ONCE", paying(payment))
		if first.status != http.StatusOK {
			t.Fatalf("a good payment: %d %s", first.status, first.text)
		}
		if again := w.show("GET", "/quote/ONCE", paying(payment)); again.status != http.StatusOK || again.text != first.text {
			t.Errorf("for the same request: %d %s, want the stored answer", again.status, again.text)
		}
		for _, other := range []struct{ method, path string }{
			{"GET", "/quote/OTHER"}, {"GET", "/quote/ONCE?more=1"}, {"GET", "/slow?ms=1"}, {"HEAD", "/quote/ONCE"}, {"POST", "/generate"},
		} {
			got := w.show(other.method, other.path, paying(payment))
			if got.status/100 == 2 || other.method != "HEAD" && got.code != "payment_used" {
				t.Errorf("for %s %s: %d %s", other.method, other.path, got.status, got.code)
			}
		}
		if n := w.shop.served("/quote/ONCE"); n != 1 {
			t.Errorf("served %d times", n)
		}
	})

	t.Run("a payment is shown many times at once", func(t *testing.T) {
		payment := w.steal(buyer, "/slow?ms=200")
		var wg sync.WaitGroup
		var mu sync.Mutex
		statuses := map[int]int{}
		for i := range 24 {
			wg.Go(func() {
				path := "/slow?ms=200"
				if i%3 == 0 {
					path = fmt.Sprintf("/quote/RUSH%d", i)
				}
				got := w.show("GET", path, paying(payment))
				mu.Lock()
				defer mu.Unlock()
				statuses[got.status]++
				if path != "/slow?ms=200" && got.status/100 == 2 {
					t.Errorf("%s was served for another request's payment", path)
				}
			})
		}
		wg.Wait()
		if n := w.shop.served("/slow?ms=200"); n != 1 {
			t.Errorf("served %d times: %v", n, statuses)
		}
		if statuses[http.StatusOK] == 0 {
			t.Errorf("nobody was answered: %v", statuses)
		}
	})

	t.Run("a payment for one route is shown first for another", func(t *testing.T) {
		payment := w.steal(buyer, "/quote/MINE")
		before := w.shop.all()
		for _, path := range []string{"/quote/YOURS", "/quote/MINE?x=1", "/slow?ms=1"} {
			if got := w.show("GET", path, paying(payment)); got.status != http.StatusPaymentRequired || got.code != "payment_mismatch" {
				t.Errorf("%s: %d %s", path, got.status, got.code)
			}
		}
		if w.shop.all() != before {
			t.Error("something was served")
		}
		if got := w.show("GET", "/quote/MINE", paying(payment)); got.status != http.StatusOK {
			t.Errorf("its own route afterwards: %d %s", got.status, got.text)
		}
	})

	t.Run("a payload is altered", func(t *testing.T) {
		payment := w.steal(buyer, "/quote/ALTERED")
		text := string(must(base64.StdEncoding.DecodeString(payment))(t))
		var whole struct {
			Accepted struct {
				PayTo, Amount string
				Extra         map[string]any
			}
			Payload json.RawMessage
		}
		check(t, json.Unmarshal([]byte(text), &whole))
		var members map[string]any
		check(t, json.Unmarshal(whole.Payload, &members))
		before := w.shop.all()
		stranger := "0x000000000000000000000000000000000000dEaD"
		alterations := map[string]string{
			"payer":      replaced(text, lower(buyer.key.Address().String()), lower(stranger)),
			"payee":      replaced(text, lower(whole.Accepted.PayTo), lower(stranger)),
			"price":      replaced(text, `"$0.0005"`, `"$0.0000"`),
			"amount":     replaced(text, `"amount":"500"`, `"amount":"1"`),
			"network":    replaced(text, "eip155:31337", "eip155:8453"),
			"scheme":     replaced(text, "4mica-credit", "exact"),
			"completion": replaced(text, "charged after success", "never charged"),
			"quote":      replaced(text, whole.Accepted.Extra["quote"].(string), strings.Repeat("A", 43)),
			"signature":  flipSignature(text),
			"purchase":   replaced(text, `"purchase":"p_`, `"purchase":"p_a`),
			"version":    replaced(text, `"x402Version":2`, `"x402Version":9`),
			"truncated":  text[:len(text)/2],
			"repeated":   `{"x402Version":2,` + strings.TrimPrefix(text, "{"),
			"trailing":   text + "{}",
		}
		for what, altered := range alterations {
			if altered == text {
				t.Fatalf("%s: the payload was not altered:\n%s", what, text)
			}
			got := w.show("GET", "/quote/ALTERED", paying(base64.StdEncoding.EncodeToString([]byte(altered))))
			if got.status != http.StatusPaymentRequired || got.code == "" {
				t.Errorf("%s: %d %s %s", what, got.status, got.code, got.text)
			}
			if !strings.Contains(got.text, "Nothing has been charged") {
				t.Errorf("%s: does not say that nothing is charged: %s", what, got.text)
			}
		}
		if w.shop.all() != before {
			t.Error("something was served")
		}
		// None of that has spoiled the payment itself.
		if got := w.show("GET", "/quote/ALTERED", paying(payment)); got.status != http.StatusOK {
			t.Errorf("the payment as it was: %d %s", got.status, got.text)
		}
	})

	t.Run("headers are garbage", func(t *testing.T) { w.garbage(t, w.steal(buyer, "/quote/GARBAGE")) })
	t.Run("paths are tricks", func(t *testing.T) { w.pathTricks(t) })
}

// A clearing house that is silent or gone: the refusal says so in seconds, nothing is served free, and the same payment
// serves when it is back.
func TestClearingHouseAway(t *testing.T) {
	t.Parallel()
	w := newTown(t, attackedPrices)
	buyer := w.customers(1, nil)[0]
	refuse := func(t *testing.T, payment, path string) {
		t.Helper()
		began := time.Now()
		got := w.show("GET", path, paying(payment))
		if got.status != http.StatusServiceUnavailable || got.code != "house_unreachable" {
			t.Errorf("%d %s %s", got.status, got.code, got.text)
		}
		if !strings.Contains(strings.ToLower(got.text), "not charged") && !strings.Contains(strings.ToLower(got.text), "nothing has been charged") {
			t.Errorf("does not say that nothing is charged: %s", got.text)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the refusal took %s", took)
		}
		if n := w.shop.served(path); n != 0 {
			t.Errorf("served %d times", n)
		}
	}
	serve := func(t *testing.T, payment, path string) {
		t.Helper()
		if !poll(func() bool { return w.show("GET", path, paying(payment)).status == http.StatusOK }) {
			t.Error("the same payment does not serve afterwards")
		}
		if n := w.shop.served(path); n != 1 {
			t.Errorf("served %d times", n)
		}
	}

	t.Run("silent", func(t *testing.T) {
		payment := w.steal(buyer, "/quote/SILENT")
		check(t, w.nodes[0].cmd.Process.Signal(syscall.SIGSTOP))
		refuse(t, payment, "/quote/SILENT")
		check(t, w.nodes[0].cmd.Process.Signal(syscall.SIGCONT))
		serve(t, payment, "/quote/SILENT")
	})
	t.Run("gone", func(t *testing.T) {
		payment := w.steal(buyer, "/quote/GONE")
		w.nodes[0].kill()
		refuse(t, payment, "/quote/GONE")
		if got := w.show("GET", "/health", nil); got.status != http.StatusOK {
			t.Errorf("a free route: %d", got.status)
		}
		if got := w.show("GET", "/quote/GONE", nil); got.status != http.StatusPaymentRequired {
			t.Errorf("the price: %d %s", got.status, got.text)
		}
		w.startNode(0)
		serve(t, payment, "/quote/GONE")
	})
	t.Run("gone when the gate starts", func(t *testing.T) {
		payment := w.steal(buyer, "/quote/LATE")
		check(t, w.gate.interrupt())
		w.nodes[0].kill()
		w.startGate()
		w.expect(w.gate, `^warning  .*what cannot be taken is not offered, or refused, until that is mended$`)
		refuse(t, payment, "/quote/LATE")
		w.startNode(0)
		serve(t, payment, "/quote/LATE")
	})
	t.Run("the server behind is gone", func(t *testing.T) {
		payment := w.steal(buyer, "/quote/DOWN")
		w.shop.close()
		got := w.show("GET", "/quote/DOWN", paying(payment))
		if got.status != http.StatusBadGateway || got.code != "upstream_unreachable" {
			t.Errorf("%d %s %s", got.status, got.code, got.text)
		}
		if again := w.show("GET", "/quote/DOWN", paying(payment)); again.code != "payment_void" {
			t.Errorf("the same payment again: %d %s", again.status, again.code)
		}
	})
}

// garbage shows a payment for /quote/GARBAGE that was good, in every spelling that is not.
func (w *town) garbage(t *testing.T, payment string) {
	before := w.shop.all()
	for _, c := range []struct {
		what   string
		header http.Header
		status int
		code   string
	}{
		{"text", paying("pay to the bearer"), 402, "payment_undecodable"},
		{"base64 of text", paying(base64.StdEncoding.EncodeToString([]byte("pay to the bearer"))), 402, "payment_undecodable"},
		{"base64 of an empty object", paying("e30="), 402, ""},
		{"base64 of a deep list", paying(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("[", 5000)))), 402, "payment_undecodable"},
		{"url-safe base64", paying(strings.NewReplacer("+", "-", "/", "_").Replace(payment) + "-_"), 402, "payment_undecodable"},
		{"a good payment and a blank", paying(payment + " x"), 402, "payment_undecodable"},
		{"oversized", paying(strings.Repeat("A", 8<<10+1)), 400, "payment_header_oversized"},
		{"the same header twice", http.Header{x402.HeaderSignature: {payment, payment}}, 400, "payment_header_duplicate"},
		{"both versions' headers", http.Header{x402.HeaderSignature: {payment}, x402.HeaderPayment: {payment}}, 400, "payment_header_duplicate"},
	} {
		got := w.show("GET", "/quote/GARBAGE", c.header)
		if got.status != c.status || c.code != "" && got.code != c.code {
			t.Errorf("%s: %d %s %.200s, want %d %s", c.what, got.status, got.code, got.text, c.status, c.code)
		}
	}
	if w.shop.all() != before {
		t.Error("something was served")
	}
}

// pathTricks asks for what is sold and what is closed by names that somebody could read in another way.
func (w *town) pathTricks(t *testing.T) {
	before := w.shop.all() - w.shop.served("/health")
	for _, target := range []string{
		"//quote/ACME", "/quote//ACME", "/quote/../quote/ACME", "/health/../quote/ACME", "/quote/./ACME", "/health/%2e%2e/quote/ACME",
		"/health%2f..%2fquote/ACME", "/quote%2fACME", "/QUOTE/ACME", "/quote/ACME/", "/quote/ACME;x=/health", "/quote/ACME%00",
		"/quote\\ACME", "/health/..;/quote/ACME", "/secret", "//secret", "/quote/../secret", "/health/../secret", "/health?/../quote/ACME",
		"http://elsewhere.example/secret", "http://elsewhere.example/quote/ACME", "*", "/quote/ACME#/health", "/%71uote/ACME",
	} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "GET\tX"} {
			status := w.raw(method, target)
			// What HTTP itself answers is not the server behind: OPTIONS * is about the connection.
			if status/100 == 2 && !strings.HasPrefix(target, "/health?") && method+target != "OPTIONS*" {
				t.Errorf("%s %s: %d without a payment", method, target, status)
			}
			if status/100 == 3 { // to a path that somebody else tidied up
				t.Errorf("%s %s: %d, a redirect", method, target, status)
			}
		}
	}
	for _, header := range []string{"X-HTTP-Method-Override: DELETE", "X-Original-URL: /quote/ACME", "X-Rewrite-URL: /quote/ACME", "X-Forwarded-Prefix: /quote"} {
		if status := w.raw("GET", "/quote/ACME", header); status != http.StatusPaymentRequired {
			t.Errorf("%s: %d", header, status)
		}
	}
	if now := w.shop.all() - w.shop.served("/health") - w.shop.served("/health?/../quote/ACME"); now != before {
		t.Errorf("%d requests got through: %v", now-before, w.shop.paths())
	}
}

// raw sends a request line exactly as given, which no client library would, and returns the answer's status.
func (w *town) raw(method, target string, headers ...string) int {
	w.t.Helper()
	conn := must(net.Dial("tcp", w.gateListen))(w.t)
	defer conn.Close()
	check(w.t, conn.SetDeadline(time.Now().Add(patience)))
	host := w.gateListen
	_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", method, target, host)
	check(w.t, err)
	for _, h := range headers {
		_, err := fmt.Fprintf(conn, "%s\r\n", h)
		check(w.t, err)
	}
	_, err = io.WriteString(conn, "\r\n")
	check(w.t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatalf("%s %q: %v", method, target, err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func lower(s string) string { return strings.ToLower(s) }

// replaced replaces every spelling of a text.
func replaced(text, old, with string) string {
	out := strings.ReplaceAll(text, old, with)
	for i := 0; i+len(old) <= len(out); i++ {
		if strings.EqualFold(out[i:i+len(old)], old) {
			out = out[:i] + with + out[i+len(old):]
		}
	}
	return out
}

// flipSignature changes one digit of the payer's signature.
func flipSignature(text string) string {
	i := strings.Index(text, `"signature":"0x`)
	if i < 0 {
		return text
	}
	i += len(`"signature":"0x`) + 20
	digit := "a"
	if text[i] == 'a' {
		digit = "b"
	}
	return text[:i] + digit + text[i+1:]
}

// paths lists what was asked for, for a failure's message.
func (u *upstream) paths() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Sorted(maps.Keys(u.count))
}
