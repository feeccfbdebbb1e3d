package courier_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/webhook/courier"
	"github.com/farthing402/farthing/x402"
)

const patience = 30 * time.Second // a loaded machine is slow; no test waits for it

// only returns the one delivery to an endpoint, with its attempts.
func (w *world) only(c *courier.Courier, e courier.Endpoint) courier.Delivery {
	w.Helper()
	list, err := c.Deliveries(w.Context(), e.Owner, e.ID, "", "", 10)
	if err != nil || len(list) != 1 {
		w.Fatalf("deliveries: %+v, %v", list, err)
	}
	d, err := c.Delivery(w.Context(), e.Owner, e.ID, list[0].Event)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (w *world) endpoint(c *courier.Courier, e courier.Endpoint) courier.Endpoint {
	w.Helper()
	e, err := c.Endpoint(w.Context(), e.Owner, e.ID)
	if err != nil {
		w.Fatal(err)
	}
	return e
}

// Whatever a receiver does other than to accept is tried again, and said in words that its owner understands.
func TestWhatReceiversDo(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect is followed") }))
	t.Cleanup(elsewhere.Close)
	for name, c := range map[string]struct {
		answer  func(http.ResponseWriter, *http.Request)
		state   courier.State
		status  int
		trouble string
	}{
		"accepts":                  {status(204), courier.Delivered, 204, ""},
		"accepts with another 2xx": {status(299), courier.Delivered, 299, ""},
		"fails":                    {status(500), courier.Pending, 500, "it answered 500"},
		"does not know the path":   {status(404), courier.Pending, 404, "it answered 404"},
		"is gone":                  {status(410), courier.Failed, 410, "it answered 410"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, courier.Pending, 307, "it redirects, and redirects are not followed"},
		"hangs up":                   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, courier.Pending, 0, "no answer that is HTTP"},
		"never answers":              {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, courier.Pending, 0, "no answer in 15s"},
		"accepts and talks for ever": {func(w http.ResponseWriter, r *http.Request) { flood(w, r) }, courier.Delivered, 200, ""},
		"accepts and lies of a length": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("x"))
		}, courier.Delivered, 200, ""},
		"has a header without end": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, courier.Pending, 0, "no answer that is HTTP"},
		"speaks no HTTP":           {func(w http.ResponseWriter, _ *http.Request) { garbage(w) }, courier.Pending, 0, "no answer that is HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, onFile(t))
			w.started()
			client := courier.NewClient(true)
			client.Timeout = 2 * time.Second
			cour := w.courier(func(c *courier.Config) { c.Client = client })
			r, e := w.listen(cour, w.party(0), nil, c.answer)
			w.deposit(w.party(0), 1)
			begun := time.Now()
			w.run(cour)
			if took := time.Since(begun); took > patience {
				t.Errorf("it held up the courier for %s", took)
			}
			d := w.only(cour, e)
			if len(d.Attempts) != 1 || d.State != c.state || d.Attempts[0].Status != c.status || d.Attempts[0].Trouble != c.trouble {
				t.Errorf("delivery is %s after %+v", d.State, d.Attempts)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.bad) > 0 {
				t.Errorf("the receiver could not verify: %v", r.bad)
			}
		})
	}
}

// flood writes until nobody listens.
func flood(w http.ResponseWriter, r *http.Request) {
	for block := bytes.Repeat([]byte("x"), 1<<16); r.Context().Err() == nil; {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func garbage(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Write([]byte("hello\r\n\r\n"))
		conn.Close()
	}
}

// Tried again after 5 s, then four times as long each time, give or take a fifth, at most 12 h; given up after three days.
func TestRetries(t *testing.T) {
	t.Parallel()
	for name, jitter := range map[string]float64{"the soonest": 0, "the latest": 0.9999, "between": 0.5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, onFile(t))
			w.started()
			c := w.courier(func(c *courier.Config) { c.Jitter = func() float64 { return jitter } })
			r, e := w.listen(c, w.party(0), nil, status(503))
			w.deposit(w.party(0), 1)
			w.run(c)
			begun := w.clock()
			var ids []string
			var gaps []time.Duration
			for tries := 1; ; tries++ {
				for _, e := range r.events() {
					ids = append(ids, e.ID)
				}
				d := w.only(c, e)
				if d.Tries != tries || len(d.Attempts) != tries || len(ids) != tries || ids[0] != ids[tries-1] {
					t.Fatalf("after %d tries: %+v, received %v", tries, d, ids)
				}
				if d.State == courier.Failed {
					break
				}
				gap := d.DueAt.Sub(w.clock())
				gaps = append(gaps, gap)
				w.wait(gap - time.Second)
				w.deliver(c)
				if got := r.events(); len(got) > 0 {
					t.Fatal("tried too soon")
				}
				w.wait(time.Second)
				w.deliver(c)
			}
			for i, want := range []time.Duration{5 * time.Second, 20 * time.Second, 80 * time.Second, 320 * time.Second} {
				if low, high := want*8/10, want*12/10; gaps[i] < low || gaps[i] > high {
					t.Errorf("gap %d is %s, want about %s", i, gaps[i], want)
				}
			}
			for _, gap := range gaps {
				if gap > 12*time.Hour*12/10 {
					t.Errorf("a gap is %s", gap)
				}
			}
			if took := w.clock().Sub(begun); took < 48*time.Hour || took > 72*time.Hour {
				t.Errorf("given up after %s", took)
			}
			if got := w.endpoint(c, e); got.Status != courier.Failing || !strings.Contains(got.Reason, "503") || got.FailingSince.IsZero() {
				t.Errorf("the endpoint is %+v", got)
			}
			// It is told of what happens now, and what arrives makes it well.
			r.mu.Lock()
			r.answer = nil
			r.mu.Unlock()
			w.deposit(w.party(0), 2)
			w.run(c)
			if got := r.types(); got != "[collateral.deposited]" {
				t.Errorf("a failing endpoint is told %s", got)
			}
			if got := w.endpoint(c, e); got.Status != courier.Enabled || got.Reason != "" || !got.FailingSince.IsZero() {
				t.Errorf("after a delivery the endpoint is %+v", got)
			}
			// And what was given up can be asked for, under its old name.
			if _, err := c.Redeliver(t.Context(), e.Owner, e.ID, ids[0]); err != nil {
				t.Fatal(err)
			}
			w.deliver(c)
			if got := r.events(); len(got) != 1 || got[0].ID != ids[0] {
				t.Errorf("asked for again, %s comes as %+v", ids[0], got)
			}
		})
	}
}

// Who says when to come again is believed.
func TestRetryAfter(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		_, e := w.listen(c, w.party(0), nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "600")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		w.deposit(w.party(0), 1)
		w.run(c)
		if gap := w.only(c, e).DueAt.Sub(w.clock()); gap < 600*time.Second || gap > 601*time.Second {
			t.Errorf("tried again after %s", gap)
		}
	})
}

// After weeks without one arrival nothing is sent any more; 410 has that at once. Whoever enables it is sent what happens from then on.
func TestDisabling(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, e := w.listen(c, w.party(0), nil, status(500))
		for range 40 {
			w.deposit(w.party(0), 1)
			for range 8 {
				w.run(c)
				w.wait(15 * time.Hour)
			}
			if w.endpoint(c, e).Status == courier.Disabled {
				break
			}
		}
		if got := w.endpoint(c, e); got.Status != courier.Disabled || got.Reason == "" {
			t.Fatalf("the endpoint is %+v", got)
		}
		r.events()
		w.deposit(w.party(0), 1)
		w.run(c)
		if got := r.events(); len(got) != 0 {
			t.Errorf("a disabled endpoint is told %+v", got)
		}
		var refused *x402.Error
		if _, err := c.Test(t.Context(), e.Owner, e.ID); !errors.As(err, &refused) || refused.Code != "webhook_disabled" {
			t.Errorf("testing it: %v", err)
		}
		on := true
		if _, err := c.Change(t.Context(), e.Owner, e.ID, courier.Change{Enabled: &on}); err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		r.answer = status(410)
		r.mu.Unlock()
		w.deposit(w.party(0), 1)
		w.run(c)
		if got := w.endpoint(c, e); got.Status != courier.Disabled || !strings.Contains(got.Reason, "410") {
			t.Errorf("after 410 the endpoint is %+v", got)
		}
	})
}

// A receiver may go over to the new secret at any time while both sign, and one that does not is refused afterwards.
func TestRotation(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, e := w.listen(c, w.party(0), nil, nil)
		fresh, err := c.Rotate(t.Context(), e.Owner, e.ID, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if fresh.Secret == e.Secret || fresh.Before != e.Secret || !fresh.BeforeUntil.Equal(w.clock().Add(time.Hour)) {
			t.Fatalf("after rotation the endpoint is %+v", fresh)
		}
		for _, step := range []struct {
			wait     time.Duration
			secret   webhook.Secret
			verified int
		}{{0, e.Secret, 1}, {0, fresh.Secret, 1}, {59 * time.Minute, e.Secret, 1}, {time.Minute, fresh.Secret, 1}, {0, e.Secret, 0}} {
			w.wait(step.wait)
			r.know(step.secret)
			w.deposit(w.party(0), 1)
			w.run(c)
			if got := len(r.events()); got != step.verified {
				t.Errorf("at %s with one of the secrets: %d verified, want %d", w.clock(), got, step.verified)
			}
		}
		if _, err := c.Rotate(t.Context(), e.Owner, e.ID, 8*24*time.Hour); err == nil {
			t.Error("an overlap without end is taken")
		}
	})
}

// Between a delivery and its record a process is killed: the event is delivered again, by another, under the same name, and not
// before the claim has run out.
func TestKilledBetweenDeliveryAndRecord(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.started()
		mortal := w.courier(func(c *courier.Config) { c.Book = deaf{c.Book}; c.Node = "mortal" })
		r, e := w.listen(mortal, w.party(0), nil, nil)
		w.deposit(w.party(0), 1)
		w.run(mortal)
		first := r.events()
		if len(first) != 1 {
			t.Fatalf("received %+v", first)
		}
		other := w.courier()
		w.wait(29 * time.Second)
		w.run(other)
		if got := r.events(); len(got) != 0 {
			t.Errorf("delivered again while it may still be under way: %+v", got)
		}
		w.wait(time.Second)
		w.run(other)
		again := r.events()
		if len(again) != 1 || again[0].ID != first[0].ID {
			t.Fatalf("after the claim ran out: %+v, want %s", again, first[0].ID)
		}
		if d := w.only(other, e); d.State != courier.Delivered || d.Tries != 1 {
			t.Errorf("the delivery is %+v", d)
		}
		w.wait(time.Hour)
		w.run(other)
		if got := r.events(); len(got) != 0 {
			t.Errorf("and once more: %+v", got)
		}
	})
}

// deaf is the book of a process that dies before it records an outcome.
type deaf struct{ courier.Book }

func (deaf) Report(context.Context, courier.Outcome) error { return nil }

// Two nodes share the work, and in the ordinary case each event arrives once.
func TestTwoNodes(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		var seen sync.Map
		var twice atomic.Int32
		r, _ := w.listen(c, w.party(0), nil, func(rw http.ResponseWriter, req *http.Request) {
			if _, loaded := seen.LoadOrStore(req.Header.Get(webhook.HeaderID), true); loaded {
				twice.Add(1)
			}
			rw.WriteHeader(http.StatusOK)
		})
		const n = 40
		for i := range n {
			w.deposit(w.party(0), uint64(i+1))
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var nodes sync.WaitGroup
		for _, name := range []string{"one", "two"} {
			node := w.courier(func(c *courier.Config) { c.Node, c.Now = name, time.Now })
			nodes.Go(func() { node.Run(ctx) })
		}
		r.now = time.Now
		deadline := time.After(patience)
		for count := 0; count < n; {
			count += len(r.events())
			select {
			case <-deadline:
				t.Fatalf("%d of %d arrived", count, n)
			case <-time.After(10 * time.Millisecond):
			}
		}
		stop()
		nodes.Wait()
		if twice.Load() > 0 {
			t.Errorf("%d came twice", twice.Load())
		}
	})
}

// One receiver that never answers takes as many deliveries as one endpoint may, and nobody else waits for it.
func TestASlowReceiverBlocksNobody(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.started()
		c := w.courier(func(c *courier.Config) { c.Now = time.Now })
		release := make(chan struct{})
		var under, most atomic.Int32
		slow, _ := w.listen(c, w.party(0), nil, func(rw http.ResponseWriter, _ *http.Request) {
			most.Store(max(most.Load(), under.Add(1)))
			<-release
			under.Add(-1)
		})
		fast, _ := w.listen(c, w.party(1), nil, nil)
		slow.now, fast.now = time.Now, time.Now
		for range 20 {
			w.deposit(w.party(0), 1)
			w.deposit(w.party(1), 1)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		deadline := time.After(patience)
		for count := 0; count < 20; {
			count += len(fast.events())
			select {
			case <-deadline:
				t.Fatalf("%d of 20 arrived beside a slow receiver", count)
			case <-time.After(10 * time.Millisecond):
			}
		}
		close(release)
		stop()
		running.Wait()
		if most.Load() > 4 {
			t.Errorf("%d deliveries at once to one endpoint", most.Load())
		}
	})
}

// No name and no number leads a courier inside.
func TestDestinationsInside(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	t.Cleanup(inside.Close)
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	client := courier.NewClient(false)
	// localhost stands for any name that resolves inside: what is connected to is looked at, not what it is called.
	for _, host := range []string{
		"localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0.0.0.0", "[::]", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
		"[fe80::1]", "[fd00::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "198.18.0.1", "255.255.255.255", "224.0.0.1", "240.0.0.1",
	} {
		for _, scheme := range []string{"http", "https"} {
			resp, err := client.Post(scheme+"://"+net.JoinHostPort(strings.Trim(host, "[]"), port), "application/json", strings.NewReader("{}"))
			if err == nil {
				resp.Body.Close()
				t.Errorf("%s is connected to", host)
			} else if !strings.Contains(err.Error(), "the address is not public") && host != "127.1" { // no address to Go: a name that does not resolve
				t.Errorf("%s: %v", host, err)
			}
		}
	}
	if reached.Load() {
		t.Error("a server inside was reached")
	}
}

// Proxies of the environment would be told where to connect, and nobody would look at it.
func TestNoProxyIsUsed(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9")
	if courier.NewClient(false).Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy is used")
	}
}

func TestEndpointsThatCannotBe(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.started()
		c := w.courier(func(c *courier.Config) { c.Private = false; c.EndpointsMax = 2 })
		long := strings.Repeat("x", 3000)
		for _, bad := range []string{
			"", "example.org", "ftp://example.org", "http://example.org/", "https://", "https://:443/", "https://user:pass@example.org/", "https://example.org/#x",
			"https://127.0.0.1/", "https://[::1]/", "https://10.1.2.3/x", "https://169.254.169.254/latest", "https://example.org/" + long, "https://exa mple.org/", "javascript:x",
		} {
			var refused *x402.Error
			if _, err := c.Add(t.Context(), w.party(0), courier.Change{URL: &bad}); !errors.As(err, &refused) || refused.Code != "webhook_url_invalid" {
				t.Errorf("%q: %v", bad, err)
			}
		}
		good := "https://example.org/hook?x=1"
		for _, change := range []courier.Change{
			{URL: &good, Types: &[]webhook.Type{"collateral.Deposited"}},
			{URL: &good, Types: &[]webhook.Type{webhook.Test}},
			{URL: &good, Description: &long},
		} {
			if _, err := c.Add(t.Context(), w.party(0), change); err == nil {
				t.Errorf("%+v is taken", change)
			}
		}
		// Two that are added at once never take the last place both.
		var full atomic.Int32
		var adds sync.WaitGroup
		for range 8 {
			adds.Go(func() {
				if _, err := c.Add(t.Context(), w.party(0), courier.Change{URL: &good}); errors.Is(err, courier.ErrFull) {
					full.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		adds.Wait()
		if list, err := c.Endpoints(t.Context(), w.party(0)); err != nil || len(list) != 2 || full.Load() != 6 {
			t.Errorf("there are %d endpoints, %d refused, %v", len(list), full.Load(), err)
		}
		if _, err := c.Add(t.Context(), w.party(1), courier.Change{URL: &good}); err != nil {
			t.Errorf("somebody else may have none: %v", err)
		}
	})
}

// Nobody reads, changes, tests or deletes another's endpoint or deliveries, though the id is known.
func TestEndpointsAreTheirOwners(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		_, e := w.listen(c, w.party(0), nil, nil)
		w.deposit(w.party(0), 1)
		w.run(c)
		event := w.only(c, e).Event
		ctx := t.Context()
		on := true
		for _, thief := range []evm.Address{w.party(1), operator} {
			for what, do := range map[string]func() error{
				"read":       func() error { _, err := c.Endpoint(ctx, thief, e.ID); return err },
				"change":     func() error { _, err := c.Change(ctx, thief, e.ID, courier.Change{Enabled: &on}); return err },
				"rotate":     func() error { _, err := c.Rotate(ctx, thief, e.ID, 0); return err },
				"test":       func() error { _, err := c.Test(ctx, thief, e.ID); return err },
				"deliveries": func() error { _, err := c.Deliveries(ctx, thief, e.ID, "", "", 10); return err },
				"delivery":   func() error { _, err := c.Delivery(ctx, thief, e.ID, event); return err },
				"redeliver":  func() error { _, err := c.Redeliver(ctx, thief, e.ID, event); return err },
				"delete":     func() error { return c.Drop(ctx, thief, e.ID) },
			} {
				if err := do(); !errors.Is(err, courier.ErrNotFound) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if list, err := c.Endpoints(ctx, thief); err != nil || len(list) != 0 {
				t.Errorf("list: %+v, %v", list, err)
			}
		}
		// Nor does an endpoint lead to a delivery of another.
		_, mine := w.listen(c, w.party(1), nil, nil)
		if _, err := c.Delivery(ctx, w.party(1), mine.ID, event); !errors.Is(err, courier.ErrNotFound) {
			t.Errorf("a delivery through another's endpoint: %v", err)
		}
		if err := c.Drop(ctx, w.party(0), e.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Delivery(ctx, w.party(0), e.ID, event); !errors.Is(err, courier.ErrNotFound) {
			t.Errorf("a delivery of an endpoint that is gone: %v", err)
		}
	})
}

func TestTestEvent(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, e := w.listen(c, w.party(0), []webhook.Type{webhook.GuaranteeSettled}, nil)
		for range 2 {
			if _, err := c.Test(t.Context(), e.Owner, e.ID); err != nil {
				t.Fatal(err)
			}
		}
		w.deliver(c)
		if got := r.types(); got != "[webhook.test webhook.test]" {
			t.Errorf("received %s", got)
		}
	})
}

// What is old is forgotten step by step, and what is told is not told again after that.
func TestPruning(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		r, e := w.listen(c, w.party(0), nil, nil)
		for range 10 {
			w.deposit(w.party(0), 1)
		}
		w.run(c)
		r.events()
		book := w.store.Webhooks()
		if n, err := book.Prune(t.Context(), w.clock(), 4); err != nil || n != 0 {
			t.Errorf("what is not old: %d, %v", n, err)
		}
		w.wait(time.Hour)
		for _, want := range []int{4, 4, 2, 0} {
			if n, err := book.Prune(t.Context(), w.clock(), 4); err != nil || n != want {
				t.Errorf("pruned %d, want %d: %v", n, want, err)
			}
		}
		if list, err := c.Deliveries(t.Context(), e.Owner, e.ID, "", "", 10); err != nil || len(list) != 0 {
			t.Errorf("left are %+v, %v", list, err)
		}
		w.run(c)
		if got := r.events(); len(got) != 0 {
			t.Errorf("told again: %+v", got)
		}
	})
}

// A list goes on where it ended.
func TestDeliveriesPageByPage(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c := w.started()
		_, e := w.listen(c, w.party(0), nil, nil)
		for range 5 {
			w.deposit(w.party(0), 1)
			w.wait(time.Second)
			w.run(c)
		}
		seen := make(map[string]bool)
		before := ""
		for pages := 0; pages < 4; pages++ {
			list, err := c.Deliveries(t.Context(), e.Owner, e.ID, courier.Delivered, before, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range list {
				seen[d.Event], before = true, d.Event
			}
		}
		if len(seen) != 5 {
			t.Errorf("%d of 5 are listed", len(seen))
		}
		if list, err := c.Deliveries(t.Context(), e.Owner, e.ID, courier.Failed, "", 2); err != nil || len(list) != 0 {
			t.Errorf("failed are %+v, %v", list, err)
		}
	})
}
