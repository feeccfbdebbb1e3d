package paywall_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// counting returns a handler that counts how often it ran.
func counting(n *atomic.Int32) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) { n.Add(1); hello(rw, r) }
}

func TestAPaymentThatDoesNotFitIsRefusedUnserved(t *testing.T) {
	t.Parallel()
	stranger := key(t)
	for _, c := range []struct {
		name  string
		alter func(*draft)
		code  string
	}{
		{"less than asked", func(d *draft) { d.claims.Amount = money.Units(499) }, "payment_mismatch"},
		{"more than asked", func(d *draft) { d.claims.Amount = money.Units(501) }, "payment_mismatch"},
		{"a lower price in the echo and the signature", func(d *draft) { d.accepted.Amount = "1"; d.claims.Amount = money.Units(1) }, "payment_mismatch"},
		{"a lower price without a quote", func(d *draft) {
			d.stock, d.accepted.Extra, d.accepted.Amount, d.claims.Amount = true, nil, "1", money.Units(1)
		}, "payment_mismatch"},
		{"nothing, in version 1", func(d *draft) { d.v1 = true; d.claims.Amount = money.Amount{} }, "payment_mismatch"},
		{"to another payee", func(d *draft) { d.claims.Payee = stranger.Address() }, "payment_mismatch"},
		{"to another payee in the echo too", func(d *draft) { d.accepted.PayTo = stranger.Address().String(); d.claims.Payee = stranger.Address() }, "payment_mismatch"},
		{"in another asset", func(d *draft) { d.claims.Asset = evm.Address{5} }, "payment_mismatch"},
		{"in another asset, version 1", func(d *draft) { d.v1 = true; d.claims.Asset = evm.Address{5} }, "payment_mismatch"},
		{"on another chain", func(d *draft) { d.accepted.Network = "eip155:8453" }, "payment_mismatch"},
		{"on another chain, version 1", func(d *draft) { d.v1 = true; d.accepted.Network = "base" }, "payment_mismatch"},
		{"by another scheme", func(d *draft) { d.accepted.Scheme = "exact" }, "payment_mismatch"},
		{"softer rules in the echo", func(d *draft) { d.accepted.Extra["refund"] = []byte(`"double"`) }, "payment_mismatch"},
		{"a longer quote in the echo", func(d *draft) { d.accepted.Extra["expires"] = []byte(`9999999999`) }, "payment_mismatch"},
		{"a forged quote", func(d *draft) { d.accepted.Extra["quote"] = []byte(`"` + strings.Repeat("A", 43) + `"`) }, "payment_mismatch"},
		{"terms of another request", func(d *draft) { d.terms.Resource += "?cheap"; d.claims.ReqID = d.terms.Hash() }, "payment_mismatch"},
		{"terms of another purchase", func(d *draft) { d.id = purchase.IDFromPayment(evm.Hash{1}) }, "payment_mismatch"},
		{"a purchase id that is none", func(d *draft) { d.id = "p_short" }, "payment_mismatch"},
		{"signed too long ago", func(d *draft) { d.claims.Timestamp -= 301 }, "timestamp_skew"},
		{"signed in the future", func(d *draft) { d.claims.Timestamp += 31 }, "timestamp_skew"},
		{"signed at the end of time", func(d *draft) { d.claims.Timestamp = 1<<64 - 1 }, "timestamp_skew"},
		{"on condition of a validator's answer", func(d *draft) {
			d.stock = true
			d.claims = d.claims.Bind(guarantee.Policy{Registry: evm.Address{1}, ChainID: 84532, Validator: evm.Address{2}, MinScore: 80, JobHash: evm.Hash{3}})
		}, "payment_mismatch"},
		{"in the name of somebody else", func(d *draft) { d.claims.Payer = stranger.Address() }, "payer_signature_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var ran atomic.Int32
			w.handle("GET /x", "$0.0005", counting(&ran))
			d := w.draft(get("/x"))
			c.alter(d)
			sig, err := w.payer.Sign(context.Background(), d.claims.Digest(w.house.deployment.ClaimsSeparator()))
			if err != nil {
				t.Fatal(err)
			}
			a := w.do(get("/x").with(x402.HeaderSignature, w.wrap(d, guarantee.Signed{Claims: d.claims, Signature: sig, Form: guarantee.EIP712})))
			if a.StatusCode != 402 || a.code() != c.code || a.Header.Get(x402.HeaderRequired) == "" || !strings.Contains(a.body, "Nothing has been charged") {
				t.Errorf("status %d: %s", a.StatusCode, a.body)
			}
			if ran.Load() != 0 || w.house.asked != 0 || w.book.count() != 0 {
				t.Errorf("ran %d, house asked %d, booked %d", ran.Load(), w.house.asked, w.book.count())
			}
		})
	}
}

func TestTimestampsAtTheEdgeAreTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	for _, alter := range []func(*draft){
		func(d *draft) { d.claims.Timestamp -= 300 },
		func(d *draft) { d.claims.Timestamp += 30 },
	} {
		if a := w.do(w.paid(get("/x"), alter)); a.StatusCode != 200 {
			t.Errorf("status %d: %s", a.StatusCode, a.body)
		}
	}
}

func TestHeadersThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	good := w.paid(get("/x"))
	value := good.header.Get(x402.HeaderSignature)
	highS := func() string {
		d := w.draft(get("/x"))
		s, err := guarantee.Sign(context.Background(), w.payer, w.house.deployment, d.claims)
		if err != nil {
			t.Fatal(err)
		}
		for i := 32; i < 64; i++ {
			s.Signature[i] = 0xfe
		}
		return w.wrap(d, s)
	}()
	for _, c := range []struct {
		name   string
		call   call
		status int
		code   string
	}{
		{"twice", good.with(x402.HeaderSignature, value), 400, "payment_header_duplicate"},
		{"in both versions", good.with(x402.HeaderPayment, value), 400, "payment_header_duplicate"},
		{"too large", get("/x").with(x402.HeaderSignature, strings.Repeat("A", x402.HeaderBytesMax+1)), 400, "payment_header_oversized"},
		{"not base64", get("/x").with(x402.HeaderSignature, "!!!"), 402, "payment_undecodable"},
		{"base64 of nothing useful", get("/x").with(x402.HeaderSignature, base64.StdEncoding.EncodeToString([]byte("hello"))), 402, "payment_undecodable"},
		{"a payload of another kind", get("/x").with(x402.HeaderSignature, base64.StdEncoding.EncodeToString(
			[]byte(strings.Replace(decode64(t, value), `"user_address"`, `"user"`, 1)))), 402, "payment_undecodable"},
		{"a member twice", get("/x").with(x402.HeaderSignature, base64.StdEncoding.EncodeToString(
			[]byte(strings.Replace(decode64(t, value), `"amount":"0x1f4"`, `"amount":"0x1f4","amount":"0x0"`, 1)))), 402, "payment_undecodable"},
		{"high s", get("/x").with(x402.HeaderSignature, highS), 402, "high_s"},
	} {
		if a := w.do(c.call); a.StatusCode != c.status || a.code() != c.code {
			t.Errorf("%s: status %d, code %s: %s", c.name, a.StatusCode, a.code(), a.body)
		}
	}
	if ran.Load() != 0 {
		t.Errorf("handler ran %d times", ran.Load())
	}
	if a := w.do(good); a.StatusCode != 200 {
		t.Errorf("the good one: %d %s", a.StatusCode, a.body)
	}
}

func TestAPaymentBuysOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	for _, pattern := range []string{"GET /a/{x}", "GET /b", "POST /b"} {
		w.handle(pattern, "$0.0005", counting(&ran))
	}
	stock := func(d *draft) { d.stock, d.accepted.Extra = true, nil } // nothing ties it to a request but the reservation
	paid := w.paid(get("/a/1"), stock)
	if a := w.do(paid); a.StatusCode != 200 {
		t.Fatalf("status %d: %s", a.StatusCode, a.body)
	}
	for _, other := range []call{
		{method: "GET", path: "/a/2"}, {method: "GET", path: "/a/1?x"}, {method: "GET", path: "/b"},
		{method: "POST", path: "/b"}, {method: "GET", path: "/a/1", body: "x"},
	} {
		other.header = paid.header
		a := w.do(other)
		if a.StatusCode != 409 || a.code() != "payment_used" {
			t.Errorf("%s %s: %d %s", other.method, other.path, a.StatusCode, a.body)
		}
	}
	if ran.Load() != 1 {
		t.Errorf("handler ran %d times", ran.Load())
	}
	// The same header in the other version's envelope is the same payment.
	d := w.draft(get("/b"))
	s, err := guarantee.Sign(context.Background(), w.payer, w.house.deployment, d.claims)
	if err != nil {
		t.Fatal(err)
	}
	d.stock = true
	v2 := get("/b").with(x402.HeaderSignature, w.wrap(d, s))
	d.v1 = true
	v1 := get("/b").with(x402.HeaderPayment, w.wrap(d, s))
	if a, b := w.do(v2), w.do(v1); a.StatusCode != 200 || b.StatusCode != 200 || ran.Load() != 2 {
		t.Errorf("statuses %d and %d, ran %d times", a.StatusCode, b.StatusCode, ran.Load())
	}
}

func TestCopiesAtOnceRunOnce(t *testing.T) {
	t.Parallel()
	const copies = 64
	w := newWorld(t, func(c *paywall.Config) { c.Wait = time.Minute })
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	paid := w.paid(get("/x"))
	var served atomic.Int32
	var all sync.WaitGroup
	for range copies {
		all.Go(func() {
			if a, err := w.try(paid); err == nil && a.StatusCode == 200 && a.body == "hello" {
				served.Add(1)
			}
		})
	}
	all.Wait()
	if ran.Load() != 1 || served.Load() != copies {
		t.Errorf("ran %d times, served %d of %d", ran.Load(), served.Load(), copies)
	}
	if got := w.house.owed(); got != money.Units(500) {
		t.Errorf("owed %s", got)
	}
}

// Two gates on one book cannot both run one purchase.
func TestCopiesAtTwoGatesRunOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.Abandoned = time.Hour })
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	other := http.NewServeMux()
	other.Handle("GET /x", w.open().Price("$0.0005", counting(&ran)))
	for range 8 {
		paid := w.paid(get("/x"))
		before := ran.Load()
		var all sync.WaitGroup
		for i := range 8 {
			handler := http.Handler(w.mux)
			if i%2 == 1 {
				handler = other
			}
			all.Go(func() {
				r, err := http.NewRequest("GET", w.server.URL+"/x", nil)
				if err != nil {
					t.Error(err)
					return
				}
				r.Header, r.RequestURI = paid.header.Clone(), "/x"
				handler.ServeHTTP(&discard{header: http.Header{}}, r)
			})
		}
		all.Wait()
		if got := ran.Load() - before; got != 1 {
			t.Fatalf("ran %d times", got)
		}
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func TestACopyDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.Wait = time.Millisecond })
	started, release := make(chan struct{}), make(chan struct{})
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) { close(started); <-release; hello(rw, r) })
	paid := w.paid(get("/x"))
	done := make(chan answer)
	go func() {
		a, err := w.try(paid)
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	<-started
	if a := w.do(paid); a.StatusCode != 409 || a.code() != "payment_in_progress" || a.Header.Get("Retry-After") == "" {
		t.Errorf("copy: %d %s", a.StatusCode, a.body)
	}
	close(release)
	if a := <-done; a.StatusCode != 200 {
		t.Errorf("first: %d", a.StatusCode)
	}
}

func TestAHouseThatLies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lie  func(w *world, s guarantee.Signed) (guarantee.Certificate, error)
		code string
	}{
		{"a certificate for less", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			s.Claims.Amount = money.Units(1)
			return w.house.sign(s)
		}, "certificate_mismatch"},
		{"for another payer", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			s.Claims.Payer = evm.Address{1}
			return w.house.sign(s)
		}, "certificate_mismatch"},
		{"of another vault", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			d := w.house.deployment
			d.Vault = evm.Address{3}
			return w.house.authority.Certify(guarantee.EncodeClaims(d.CertificateDomain(), w.house.cycle(s.Claims.Asset), s.Claims))
		}, "certificate_mismatch"},
		{"by another key", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			other, err := guarantee.NewAuthority(bytes.Repeat([]byte{8}, 32))
			if err != nil {
				return guarantee.Certificate{}, err
			}
			return other.Certify(guarantee.EncodeClaims(w.house.deployment.CertificateDomain(), w.house.cycle(s.Claims.Asset), s.Claims))
		}, "certificate_invalid"},
		{"no signature", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			cert, err := w.house.sign(s)
			cert.Signature = [96]byte{}
			return cert, err
		}, "certificate_invalid"},
		{"nothing at all", func(*world, guarantee.Signed) (guarantee.Certificate, error) { return guarantee.Certificate{}, nil }, "certificate_invalid"},
		{"the proof of another in the batch", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			domain, cycle := w.house.deployment.CertificateDomain(), w.house.cycle(s.Claims.Asset)
			other := s.Claims
			other.ReqID[0] ^= 1
			certs, err := w.house.authority.CertifyBatch(domain, cycle, [][]byte{guarantee.EncodeClaims(domain, cycle, s.Claims), guarantee.EncodeClaims(domain, cycle, other)})
			if err != nil {
				return guarantee.Certificate{}, err
			}
			certs[0].Batch = certs[1].Batch
			return certs[0], nil
		}, "certificate_invalid"},
		{"a cycle long netted", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			start := uint64(w.clock.now().Unix()) - 4*3600
			return w.house.authority.Certify(guarantee.EncodeClaims(w.house.deployment.CertificateDomain(), guarantee.CycleID(s.Claims.Asset, start), s.Claims))
		}, "certificate_mismatch"},
		{"a cycle yet to come", func(w *world, s guarantee.Signed) (guarantee.Certificate, error) {
			start := uint64(w.clock.now().Unix()) + 3600
			return w.house.authority.Certify(guarantee.EncodeClaims(w.house.deployment.CertificateDomain(), guarantee.CycleID(s.Claims.Asset, start), s.Claims))
		}, "certificate_mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.schedule()
			w.house.certify = func(s guarantee.Signed) (guarantee.Certificate, error) { return c.lie(w, s) }
			var ran atomic.Int32
			w.handle("GET /x", "$0.0005", counting(&ran))
			paid := w.paid(get("/x"))
			if a := w.do(paid); a.StatusCode != 503 || a.code() != c.code {
				t.Errorf("status %d: %s", a.StatusCode, a.body)
			}
			if ran.Load() != 0 {
				t.Error("served on a false certificate")
			}
			w.house.set(func() { w.house.certify = nil })
			if a := w.do(paid); a.StatusCode != 200 || ran.Load() != 1 {
				t.Errorf("with a true one: status %d, ran %d times", a.StatusCode, ran.Load())
			}
		})
	}
}

// schedule gives the house a cycle an hour.
func (w *world) schedule() {
	w.house.schedules = []client.Schedule{{
		Asset: w.chain.Dollars()[0].Address, From: 1782122400 - 1782122400%3600 - 48*3600, Length: time.Hour, Cutoff: 10 * time.Minute,
	}}
}

func TestAHouseThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		err    error
		code   string
		status int
		after  string // when to ask again
	}{
		{"in time", x402.Errorf("house_unreachable", "clearing house timed out after 2s"), "house_unreachable", 503, "1"},
		{"in words that anyone knows", errors.New("connection refused"), "house_unreachable", 503, "1"},
		{"for want of room", &x402.Error{Code: "house_busy", Details: map[string]string{"retryAfter": "7"}}, "house_busy", 503, "7"},
		{"as it is asked too much", &x402.Error{Code: "rate_limited", Details: map[string]string{"retryAfter": "x\r\ny"}}, "rate_limited", 429, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var ran atomic.Int32
			w.handle("GET /x", "$0.0005", counting(&ran))
			paid := w.paid(get("/x"))
			w.house.set(func() {
				w.house.certify = func(s guarantee.Signed) (guarantee.Certificate, error) {
					// It did its work and the answer got lost, which is the worse case.
					w.house.certified[s.Claims.Digest(w.house.deployment.ClaimsSeparator())] = s.Claims
					return guarantee.Certificate{}, c.err
				}
			})
			if a := w.do(paid); a.StatusCode != c.status || a.code() != c.code || a.Header.Get("Retry-After") != c.after || ran.Load() != 0 {
				t.Errorf("status %d, after %s, ran %d: %s", a.StatusCode, a.Header.Get("Retry-After"), ran.Load(), a.body)
			}
			// Later than the quote and the timestamp allow, the same payment still buys what it was reserved for.
			w.clock.advance(5 * time.Minute)
			w.house.set(func() { w.house.certify = nil })
			if a := w.do(paid); a.StatusCode != 200 || ran.Load() != 1 {
				t.Errorf("same payment again: status %d: %s", a.StatusCode, a.body)
			}
		})
	}
	t.Run("at all", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(c *paywall.Config) {
			c.House.(*house).params = func() (client.Params, error) {
				return client.Params{}, x402.Errorf("house_unreachable", "clearing house did not answer")
			}
		})
		w.handle("GET /x", "$0.0005", hello)
		paid := w.paid(get("/x")) // prices are given all the same
		if a := w.do(paid); a.StatusCode != 503 || a.code() != "house_unreachable" {
			t.Errorf("status %d: %s", a.StatusCode, a.body)
		}
		w.house.set(func() { w.house.params = nil })
		if a := w.do(paid); a.StatusCode != 200 {
			t.Errorf("when it is back: %d: %s", a.StatusCode, a.body)
		}
	})
	t.Run("for our chain", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(c *paywall.Config) { c.House.(*house).deployment.ChainID = 1 })
		w.handle("GET /x", "$0.0005", hello)
		if a := w.do(w.paid(get("/x"))); a.StatusCode != 503 || a.code() != "house_refused" {
			t.Errorf("status %d: %s", a.StatusCode, a.body)
		}
		if err := w.pw.Ready(context.Background()); !errors.Is(err, &x402.Error{Code: "house_refused"}) {
			t.Errorf("ready: %v", err)
		}
	})
}

// What the clearing house may have certified without our hearing of it must not stay owed.
func TestAReservationThatNobodyComesBackForIsLetGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	paid := w.paid(get("/x"))
	w.house.set(func() {
		w.house.certify = func(s guarantee.Signed) (guarantee.Certificate, error) {
			w.house.certified[s.Claims.Digest(w.house.deployment.ClaimsSeparator())] = s.Claims
			return guarantee.Certificate{}, x402.Errorf("house_unreachable", "lost")
		}
	})
	w.do(paid)
	w.clock.advance(5 * time.Minute)
	if err := w.pw.Recover(context.Background()); err != nil || w.book.only(t).State != purchase.Reserved {
		t.Fatalf("too early: %v, %s", err, w.book.only(t).State)
	}
	w.clock.advance(5 * time.Minute)
	if err := w.pw.Recover(context.Background()); err != nil || w.book.only(t).State != purchase.Void {
		t.Fatalf("%v, %s", err, w.book.only(t).State)
	}
	if a := w.do(paid); a.code() != "payment_void" {
		t.Errorf("status %d: %s", a.StatusCode, a.body)
	}
	w.drain()
	if got := w.house.owed(); !got.IsZero() {
		t.Errorf("owed %s", got)
	}
}

func TestTheHousesRefusalIsPassedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.house.certify = func(guarantee.Signed) (guarantee.Certificate, error) {
		e := x402.Errorf("collateral_insufficient", "guarantee of $0.50 needs $0.50 free, you have $0.32")
		e.Details = map[string]string{"asked": "500000", "available": "320000"}
		return guarantee.Certificate{}, e
	}
	var ran atomic.Int32
	w.handle("GET /x", "$0.50", counting(&ran), paywall.Alternative("/small"))
	paid := w.paid(get("/x"))
	a := w.do(paid)
	if a.StatusCode != 402 || a.code() != "collateral_insufficient" || !strings.Contains(a.body, `"available":"320000"`) || !strings.Contains(a.body, `"alternative":"/small"`) {
		t.Errorf("status %d: %s", a.StatusCode, a.body)
	}
	w.house.set(func() { w.house.certify = nil }) // a deposit arrived
	if a := w.do(paid); a.StatusCode != 200 || ran.Load() != 1 {
		t.Errorf("after the remedy: %d: %s", a.StatusCode, a.body)
	}
}

func TestPathTricks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.mux.Handle("/", w.pw.Price("$0.0005", counting(&ran)))
	for _, path := range []string{
		"//quote", "/quote//ACME", "/./quote", "/free/../quote", "/quote/..", "/free/%2e%2e/quote", "/quote%2fACME", "/quote%2FACME",
		"/quote%5cACME", "/free/..;/quote", "/%2e/quote", "/quote%252fACME", "/free/%252e%252e/quote", "/quote/%00", "/quote/%0d%0a",
	} {
		r, err := http.NewRequest("GET", "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.URL, err = r.URL.Parse("http://x/"); err != nil {
			t.Fatal(err)
		}
		r.URL.RawPath = path
		if r.URL.Path, err = pathUnescape(path); err != nil {
			t.Fatal(err)
		}
		r.RequestURI = path
		for name, handler := range map[string]http.Handler{"priced": w.pw.Price("$0.0005", counting(&ran)), "free": w.pw.Price("free", counting(&ran))} {
			rec := &recorded{discard: discard{header: http.Header{}}}
			handler.ServeHTTP(rec, r)
			if rec.status != 400 {
				t.Errorf("%s %s: status %d", name, path, rec.status)
			}
		}
	}
	for _, path := range []string{"/", "/quote/ACME", "/quote/ACME/", "/a.b/..c", "/quote/%41CME", "/100%25", "/q/a;b", "/q/ü", "/...", "/%C3%BC"} {
		if a := w.do(get(path)); a.StatusCode != 402 {
			t.Errorf("%s: status %d", path, a.StatusCode)
		}
	}
	if ran.Load() != 0 {
		t.Errorf("handler ran %d times", ran.Load())
	}
}

type recorded struct {
	discard
	status int
}

func (r *recorded) WriteHeader(status int) { r.status = status }

func TestABodyThatIsTooLarge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.BodyBytes = 10 })
	var ran atomic.Int32
	w.handle("POST /x", "$0.0005", counting(&ran))
	paid := w.paid(call{method: "POST", path: "/x", body: "01234567890"})
	if a := w.do(paid); a.StatusCode != 413 || a.code() != "body_too_large" || ran.Load() != 0 {
		t.Errorf("status %d: %s", a.StatusCode, a.body)
	}
	if a := w.do(w.paid(call{method: "POST", path: "/x", body: "0123456789"})); a.StatusCode != 200 {
		t.Errorf("just right: %d", a.StatusCode)
	}
}
