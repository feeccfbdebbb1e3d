package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Defect 13: no rate limits anywhere, a row for each nonce, public metrics. Here each kind of request has a limit of its own,
// refusals say when to come again, and a wait of that long is enough.
func TestDefect13EveryRouteHasALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *clearing.Config) {
		c.Limits = Limits{Login: Rate{1, 3}, Read: Rate{0.5, 4}, Post: Rate{1, 5}, Payer: Rate{1, 2}, Refused: Rate{1, 3}}
	})
	at := uint64(signed)
	for name, c := range map[string]struct {
		ask   func() (int, http.Header, []byte)
		burst int
		wait  uint64
	}{
		"login": {func() (int, http.Header, []byte) {
			return w.send("POST", "/auth/nonce", http.Header{}, map[string]string{"address": party(0).Lower()})
		}, 3, 1},
		"read": {func() (int, http.Header, []byte) { return w.send("GET", "/core/tokens", http.Header{}, nil) }, 4, 2},
	} {
		for i := range c.burst {
			if status, _, body := c.ask(); status != 200 {
				t.Fatalf("%s %d: %d %s", name, i, status, body)
			}
		}
		status, h, body := c.ask()
		if status != 429 || code(body) != "rate_limited" || h.Get("Retry-After") != strconv.FormatUint(c.wait, 10) {
			t.Errorf("%s: %d %s, %v", name, status, body, h)
		}
		at += c.wait
		w.setTime(at)
		if status, _, body := c.ask(); status != 200 {
			t.Errorf("%s after the wait: %d %s", name, status, body)
		}
	}
	post := func(payer int, n int) (out struct{ Results []struct{ Code string } }, status int, h http.Header) {
		list := make([]guarantee.Signed, n)
		for i := range list {
			list[i] = w.sign(payer, party(1), 1)
		}
		status, h, body := w.send("POST", "/core/guarantees", http.Header{}, map[string]any{"guarantees": list})
		if err := json.Unmarshal(body, &out); err != nil {
			t.Fatal(err)
		}
		return out, status, h
	}
	out, status, _ := post(0, 3) // one more than a payer may
	if status != 200 || out.Results[0].Code != "" || out.Results[1].Code != "" || out.Results[2].Code != "rate_limited" {
		t.Errorf("%d %+v", status, out)
	}
	if _, status, h := post(0, 3); status != 429 || h.Get("Retry-After") != "1" { // one more than an address may
		t.Errorf("%d %v", status, h)
	}
	w.setTime(at + 100)
	for i := range 4 { // and leave the allowance of the payer in whose name they come alone
		bad := w.sign(0, party(1), 1)
		bad.Claims.Amount = money.Units(99)
		status, h, body := w.send("POST", "/core/guarantees", http.Header{}, bad)
		if want := []int{400, 400, 400, 429}[i]; status != want || (status == 429) != (h.Get("Retry-After") != "") {
			t.Errorf("bad signature %d: %d %s", i, status, body)
		}
	}
	w.setTime(at + 101)
	if out, status, _ := post(0, 2); status != 200 || out.Results[1].Code != "" {
		t.Errorf("the payer's allowance is used up by others: %d %+v", status, out)
	}
}

// Whoever comes from many addresses makes the limits remember no more than they have room for.
func TestLimitersAreBounded(t *testing.T) {
	t.Parallel()
	l := limiter{Rate: Rate{1, 1}}
	now := time.Unix(signed, 0)
	for i := range 5 * limitedMax {
		if err := l.take(strconv.Itoa(i), 1, now); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(l.young) + len(l.old); n > 2*limitedMax {
		t.Errorf("%d are remembered", n)
	}
	if err := l.take(strconv.Itoa(5*limitedMax-1), 1, now); err == nil {
		t.Error("the last one was forgotten")
	}
}

// An address is that of the connection, unless a proxy that is trusted says for whom it asks.
func TestWhoAsks(t *testing.T) {
	t.Parallel()
	h := &handler{Config: Config{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}}
	for _, c := range []struct {
		remote string
		said   []string
		want   string
	}{
		{"192.0.2.1:5", nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.7"}, "192.0.2.1"}, // a stranger's word
		{"10.0.0.1:5", []string{"198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:5", []string{"1.1.1.1, 198.51.100.7", "10.9.9.9"}, "198.51.100.7"}, // what is before it anybody can have written
		{"10.0.0.1:5", []string{"garbage"}, "10.0.0.1"},
		{"10.0.0.1:5", nil, "10.0.0.1"},
		{"[2001:db8:1:2:3::4]:5", nil, "2001:db8:1:2::/64"},
		{"[::1]:5", []string{"2001:db8:1:2:ffff::"}, "2001:db8:1:2::/64"},
		{"[::ffff:192.0.2.1]:5", nil, "192.0.2.1"},
		{"pipe", nil, "pipe"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		for _, s := range c.said {
			r.Header.Add("X-Forwarded-For", s)
		}
		if got := h.from(r); got != c.want {
			t.Errorf("%s, %v: %s, want %s", c.remote, c.said, got, c.want)
		}
	}
}

// state is the handler's limits at work.
func (w *world) state() *limits { return w.handler.(*handler).limits }

func details(err error) map[string]string {
	var e *x402.Error
	errors.As(err, &e)
	return e.Details
}

// slowBook makes every write wait until it is let go.
type slowBook struct {
	clearing.Book
	gate chan struct{}
}

func (b slowBook) Write(ctx context.Context, fn func(clearing.Tx) error) error {
	<-b.gate
	return b.Book.Write(ctx, fn)
}

// More than can be worked on is turned away at once, before it takes memory, and told when to come again; what was taken is
// answered. A client that is told to wait does, with the same guarantee, and has one certificate for it in the end.
func TestLoadIsShedBeforeMemoryGrows(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	w := newWorld(t, func(c *Config, hc *clearing.Config) {
		c.Limits.ItemsMax, c.Limits.BodyBytesMax = 8, 1<<20
	})
	w.house.Book = slowBook{w.house.Book, gate}
	body, err := json.Marshal(w.sign(0, party(1), 1))
	if err != nil {
		t.Fatal(err)
	}
	var statuses sync.Map
	var wg sync.WaitGroup
	var answered atomic.Int32
	ask := func() {
		resp, err := w.server.Client().Post(w.server.URL+"/core/guarantees", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
			t.Error("503 without Retry-After")
		}
		n, _ := statuses.LoadOrStore(resp.StatusCode, new(atomic.Int32))
		n.(*atomic.Int32).Add(1)
		answered.Add(1)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 8 {
		wg.Go(ask)
	}
	for w.state().items.used.Load() < 8 {
		runtime.Gosched()
	}
	const more = 500
	for range 10 {
		var round sync.WaitGroup
		for range more / 10 {
			round.Go(ask)
		}
		round.Wait()
	}
	if n := answered.Load(); n != more {
		t.Errorf("%d of %d were turned away", n, more)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}

	c, err := client.New(w.server.URL, client.WithTimeout(timeoutForTests))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Certify(t.Context(), w.sign(0, party(1), 3))
		done <- err
	}()
	for n, _ := statuses.Load(503); n.(*atomic.Int32).Load() == 0; {
		runtime.Gosched()
	}
	close(gate)
	wg.Wait()
	if err := <-done; err != nil {
		t.Errorf("who waited as it was told: %v", err)
	}
	if n, _ := statuses.Load(200); n == nil || n.(*atomic.Int32).Load() != 8 {
		t.Errorf("of 8 that were taken, answered with 200: %v", n)
	}
	if l := w.state(); l.items.used.Load() != 0 || l.bytes.used.Load() != 0 {
		t.Errorf("room that is not given back: %d items, %d bytes", l.items.used.Load(), l.bytes.used.Load())
	}
	if a, err := w.house.Account(t.Context(), party(0), dollar); err != nil || a.Exposure() != money.Units(4) {
		t.Errorf("exposure %s, %v: two guarantees of 1 and 3", a.Exposure(), err)
	}
}

// A client that has no time to wait passes on when to come again.
func TestRetryAfterIsPassedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *clearing.Config) { c.Limits.Post = Rate{0.1, 1} })
	c, err := client.New(w.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Certify(t.Context(), w.sign(0, party(1), 1)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Certify(t.Context(), w.sign(0, party(1), 1))
	if codeOf(err) != "rate_limited" || !strings.Contains(fmt.Sprint(details(err)), "retryAfter:10") {
		t.Errorf("%v, %v", err, details(err))
	}
}

// Bodies take room as they are read; a promise of a long one takes none.
func TestBodiesShareABound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config, _ *clearing.Config) { c.Limits.BodyBytesMax = 4 << 10 })
	status, h, body := w.send("POST", "/core/guarantees", http.Header{}, strings.Repeat(" ", 5<<10))
	if status != 503 || code(body) != "house_busy" || h.Get("Retry-After") == "" {
		t.Errorf("%d %s", status, body)
	}
	if status, body := w.ask("POST", "/core/guarantees", w.sign(0, party(1), 1)); status != 200 {
		t.Errorf("afterwards: %d %s", status, body)
	}
	if used := w.state().bytes.used.Load(); used != 0 {
		t.Errorf("%d bytes are not given back", used)
	}
}

// /metrics is for who may see it, and says what an operator watches.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 2 {
		if status, body := w.ask("POST", "/core/guarantees", vectors.V1.RequestBody); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	w.ask("POST", "/core/guarantees", map[string]any{"guarantees": []any{w.sign(0, party(1), 1), w.sign(0, party(1), 9_999_999), "x"}})
	for _, c := range []struct {
		name   string
		status int
		got    func() (int, []byte)
	}{
		{"nobody", 401, func() (int, []byte) { return w.as(nil, "GET", "/metrics", nil) }},
		{"a wallet", 403, func() (int, []byte) { return w.as(keys[0], "GET", "/metrics", nil) }},
	} {
		if status, body := c.got(); status != c.status {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
	_, text, err := w.login.NewKey(t.Context(), "prometheus", []string{login.ScopeMetrics}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	status, h, body := w.send("GET", "/metrics", http.Header{"X-Api-Key": {text}}, nil)
	if status != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/plain") {
		t.Fatalf("%d %s", status, body)
	}
	if status, _, _ := w.send("GET", "/metrics", http.Header{"Authorization": {"Bearer " + text}}, nil); status != 200 {
		t.Errorf("the key as a bearer token: %d", status)
	}
	for _, want := range []string{
		`farthing_guarantees_total{result="certified"} 2`, `farthing_guarantees_total{result="replayed"} 1`,
		`farthing_guarantees_total{result="collateral_insufficient"} 1`, `farthing_guarantees_total{result="malformed_request"} 1`,
		`farthing_admission_seconds_count 3`, `farthing_defaults_total 0`, `farthing_cycles{asset="USDC",state="open"} 1`, `farthing_cycles_net_units{asset="USDC",state="netted"} 0`,
		`farthing_requests_total{path="/core/guarantees",status="200"} 3`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	open := newWorld(t, func(c *Config, _ *clearing.Config) { c.MetricsOpen = true })
	if status, body := open.as(nil, "GET", "/metrics", nil); status != 200 {
		t.Errorf("where they are open: %d %s", status, body)
	}
}
