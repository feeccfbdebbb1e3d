package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

var deployment = guarantee.Deployment{
	ChainID: 31337, Name: "4Mica 0x5555555555555555555555555555555555555555", Version: "1",
	Vault: evm.MustAddress("0x5555555555555555555555555555555555555555"), ClearingHouse: evm.MustAddress("0x7777777777777777777777777777777777777777"),
}

var authority = func() *guarantee.Authority {
	secret := evm.Keccak256([]byte("authority"))
	secret[0] = 0
	a, err := guarantee.NewAuthority(secret[:])
	if err != nil {
		panic(err)
	}
	return a
}()

// signed makes a guarantee without a true signature: nobody here looks at it.
func signed(n byte) guarantee.Signed {
	return guarantee.Signed{
		Claims: guarantee.Claims{Payer: evm.Address{1}, Payee: evm.Address{2}, Asset: evm.Address{3}, ReqID: evm.Hash{31: n}, Amount: money.Units(5), Timestamp: 7},
		Form:   guarantee.EIP712, Signature: evm.Signature{64: 27},
	}
}

// house certifies what it is sent, in one batch a call.
type house struct {
	calls atomic.Int64
	sizes chan int
	gate  chan struct{} // if not nil, a call waits for a value
	in    chan struct{} // receives when a call has arrived
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Guarantees  []guarantee.Signed `json:"guarantees"`
		Certificate string             `json:"certificate"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Certificate != "batch" || r.URL.Path != "/core/guarantees" || r.Method != "POST" {
		http.Error(w, "unexpected request", http.StatusTeapot)
		return
	}
	h.calls.Add(1)
	if h.in != nil {
		h.in <- struct{}{}
	}
	if h.gate != nil {
		<-h.gate
	}
	if h.sizes != nil {
		h.sizes <- len(body.Guarantees)
	}
	cycle := guarantee.CycleID(evm.Address{3}, 100)
	results := make([]any, len(body.Guarantees))
	var claims [][]byte
	var place []int
	for i, s := range body.Guarantees {
		if s.Claims.ReqID[31] == 0xee {
			results[i] = x402.Errorf("collateral_insufficient", "not enough free collateral")
			continue
		}
		claims, place = append(claims, guarantee.EncodeClaims(deployment.CertificateDomain(), cycle, s.Claims)), append(place, i)
	}
	if len(claims) > 0 {
		certs, err := authority.CertifyBatch(deployment.CertificateDomain(), cycle, claims)
		if err != nil {
			panic(err)
		}
		for k, c := range certs {
			results[place[k]] = c
		}
	}
	json.NewEncoder(w).Encode(map[string]any{"results": results})
}

func serve(t *testing.T, h http.Handler, opts ...Option) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func code(err error) string {
	var e *x402.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprintf("no code: %v", err)
}

func TestCertificatesOfJoinedCallsAreEachOnesOwn(t *testing.T) {
	t.Parallel()
	h := &house{}
	c := serve(t, h, WithTimeout(time.Minute))
	v, err := guarantee.NewVerifier(authority.PublicKey(), deployment)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range byte(200) {
		wg.Go(func() {
			s := signed(n)
			cert, err := c.Certify(context.Background(), s)
			if err != nil {
				t.Errorf("guarantee %d: %v", n, err)
				return
			}
			if _, err := v.Verify(cert, s.Claims); err != nil {
				t.Errorf("guarantee %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	if calls := h.calls.Load(); calls > 200 {
		t.Errorf("%d calls for 200 guarantees", calls)
	}
}

// While a call is under way the others gather. A full call leaves beside it; the rest leave together when one comes back.
func TestGuaranteesGatherWhileACallIsUnderWay(t *testing.T) {
	t.Parallel()
	h := &house{gate: make(chan struct{}), in: make(chan struct{}, 100), sizes: make(chan int, 100)}
	c := serve(t, h, WithTimeout(time.Minute))
	var wg sync.WaitGroup
	certify := func(n int) {
		wg.Go(func() {
			if _, err := c.Certify(context.Background(), signed(byte(n))); err != nil {
				t.Error(err)
			}
		})
	}
	certify(0)
	<-h.in
	for n := range JoinMax {
		certify(1 + n)
	}
	<-h.in // the full one
	for n := range 10 {
		certify(100 + n)
	}
	waitQueued(c, 10)
	close(h.gate)
	wg.Wait()
	close(h.sizes)
	var sizes []int
	for n := range h.sizes {
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	if !slices.Equal(sizes, []int{1, 10, JoinMax}) {
		t.Errorf("calls of %v", sizes)
	}
}

// waitQueued returns when so many guarantees wait: nothing else can happen to them.
func waitQueued(c *Client, n int) {
	for queued := -1; queued != n; runtime.Gosched() {
		c.join.mu.Lock()
		queued = len(c.join.queue)
		c.join.mu.Unlock()
	}
}

// There are never more calls under way than allowed, however many wait.
func TestCallsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	h := &house{gate: make(chan struct{}), in: make(chan struct{}, 100)}
	c := serve(t, h, WithTimeout(time.Minute))
	var wg sync.WaitGroup
	for n := range 1 + (joinedCalls+2)*JoinMax {
		wg.Go(func() {
			if _, err := c.Certify(context.Background(), signed(byte(n%200))); err != nil {
				t.Error(err)
			}
		})
		if n == 0 {
			<-h.in
		}
	}
	for range joinedCalls - 1 {
		<-h.in
	}
	waitQueued(c, 3*JoinMax)
	if calls := h.calls.Load(); calls != joinedCalls {
		t.Errorf("%d calls under way", calls)
	}
	close(h.gate)
	go func() {
		for range h.in {
		}
	}()
	wg.Wait()
	close(h.in)
}

// Who leaves takes nobody along: neither the caller that began the call, nor one that joined it.
func TestACallerThatLeavesDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	h := &house{gate: make(chan struct{}), in: make(chan struct{}, 100)}
	c := serve(t, h, WithTimeout(time.Minute))
	leaving, leave := context.WithCancel(context.Background())
	left, stayed := make(chan error, 2), make(chan error, 1)
	go func() { _, err := c.Certify(leaving, signed(1)); left <- err }()
	<-h.in
	go func() { _, err := c.Certify(leaving, signed(20)); left <- err }() // queued, never sent
	go func() { _, err := c.Certify(context.Background(), signed(21)); stayed <- err }()
	waitQueued(c, 2)
	leave()
	for range 2 {
		if err := <-left; code(err) != "house_unreachable" || !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
	}
	close(h.gate)
	if err := <-stayed; err != nil {
		t.Errorf("who stayed got %v", err)
	}
	c.join.mu.Lock()
	defer c.join.mu.Unlock()
	if len(c.join.queue) != 0 {
		t.Errorf("%d still queued", len(c.join.queue))
	}
}

func TestARefusalIsItsOwnGuarantees(t *testing.T) {
	t.Parallel()
	c := serve(t, &house{})
	results, err := c.CertifyMany(context.Background(), []guarantee.Signed{signed(1), signed(0xee), signed(2)})
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Err != nil || results[2].Err != nil || code(results[1].Err) != "collateral_insufficient" {
		t.Errorf("got %v", results)
	}
}

func TestManyTravelInPartsThatTheHouseTakes(t *testing.T) {
	t.Parallel()
	h := &house{sizes: make(chan int, 10)}
	c := serve(t, h, WithTimeout(time.Minute))
	list := make([]guarantee.Signed, CertifyMax+3)
	for i := range list {
		list[i] = signed(byte(i % 200))
	}
	results, err := c.CertifyMany(context.Background(), list)
	if err != nil || len(results) != len(list) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	if a, b := <-h.sizes, <-h.sizes; a != CertifyMax || b != 3 {
		t.Errorf("parts of %d and %d", a, b)
	}
}

// Whatever a house answers, the caller gets a code of the table and never a certificate that is none.
func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		code   string
	}{
		{"500 with a code of its own", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			fmt.Fprint(w, `{"error":"x","code":"internal"}`)
		}, "house_unreachable"},
		{"502 of something in between", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) }, "house_unreachable"},
		{"200 with a page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hello") }, "house_unreachable"},
		{"200 with nothing", func(http.ResponseWriter, *http.Request) {}, "house_unreachable"},
		{"200 with too few results", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"results":[]}`) }, "house_unreachable"},
		{"200 with too many results", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"results":[{},{}]}`) }, "house_unreachable"},
		{"a result that is no certificate", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"results":[{"claims":"00"}]}`) }, "house_unreachable"},
		{"a result that is null", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"results":[null]}`) }, "house_unreachable"},
		{"an answer without end", func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < 5<<20 && r.Context().Err() == nil; i += 1 << 16 {
				w.Write(make([]byte, 1<<16))
			}
		}, "house_unreachable"},
		{"a connection cut short", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("{"))
			panic(http.ErrAbortHandler)
		}, "house_unreachable"},
		{"a redirect to another host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/core/guarantees", http.StatusTemporaryRedirect)
		}, "house_unreachable"},
		{"a redirect to itself", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, "house_unreachable"},
		{"400 of 4Mica's core, with text only", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"error":"Invalid signature"}`)
		}, "malformed_request"},
		{"401 of 4Mica's core", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(401)
			fmt.Fprint(w, `{"error":"missing scope"}`)
		}, "unauthorized"},
		{"429 of something in between", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(429)
			fmt.Fprint(w, `{"error":"slow down"}`)
		}, "rate_limited"},
		{"a code of the table", func(w http.ResponseWriter, _ *http.Request) {
			x402.WriteError(w, x402.Errorf("guarantee_conflict", "request id was used"))
		}, "guarantee_conflict"},
		{"a code of a later version", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"error":"x","code":"from_the_future"}`)
		}, "malformed_request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, http.HandlerFunc(test.answer))
			cert, err := c.Certify(context.Background(), signed(1))
			if got := code(err); got != test.code {
				t.Errorf("code %s (%v), want %s", got, err, test.code)
			}
			if len(cert.Claims) != 0 {
				t.Error("a certificate came out")
			}
		})
	}
}

func TestASilentHouse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts, and says nothing
	c, err := New("http://"+l.Addr().String(), WithTimeout(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Certify(context.Background(), signed(1))
	if code(err) != "house_unreachable" || !strings.Contains(err.Error(), "timed out after 20ms") {
		t.Errorf("got %v", err)
	}
}

func TestAHouseThatIsDown(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	c, err := New("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Params(context.Background()); code(err) != "house_unreachable" {
		t.Errorf("got %v", err)
	}
}

func paramsJSON(t *testing.T, change func(map[string]any)) []byte {
	t.Helper()
	m := map[string]any{
		"public_key": authority.PublicKey(), "contract_address": deployment.Vault, "clearing_house_address": deployment.ClearingHouse,
		"eip712_name": deployment.Name, "eip712_version": "1", "chain_id": 31337, "ethereum_http_rpc_url": "http://127.0.0.1:8545",
		"active_guarantee_domain_separator": deployment.CertificateDomain(), "certificate_forms": []string{"single", "batch"},
		"timestamp_window": map[string]any{"past_seconds": 300, "future_seconds": 30},
		"schedules": []any{map[string]any{"asset_address": evm.Address{3}, "from": 100, "length_seconds": 60, "cutoff_seconds": 5,
			"post_seconds": 10, "challenge_seconds": 20, "repost_seconds": 10, "redeem_seconds": uint64(1) << 63}},
		"a_later_member": []int{1},
	}
	if change != nil {
		change(m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParamsAreReadOnceTheyAreGood(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		w.Write(paramsJSON(t, nil))
	}))
	if _, err := c.Params(context.Background()); err == nil {
		t.Fatal("a failure counted as an answer")
	}
	for range 3 {
		p, err := c.Params(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if p.Deployment != deployment || p.Key != authority.PublicKey() || !p.Batch || p.TimestampPast != 5*time.Minute ||
			p.TimestampFuture != 30*time.Second || p.RPCURL != "http://127.0.0.1:8545" || p.Schedules[0].Challenge != 20*time.Second || p.Schedules[0].Redeem <= 0 {
			t.Fatalf("got %+v", p)
		}
	}
	if calls.Load() != 2 {
		t.Errorf("asked %d times", calls.Load())
	}
}

func TestParamsThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(map[string]any){
		"no chain":                func(m map[string]any) { delete(m, "chain_id") },
		"no vault":                func(m map[string]any) { delete(m, "contract_address") },
		"no domain name":          func(m map[string]any) { m["eip712_name"] = "" },
		"another vault's domain":  func(m map[string]any) { m["contract_address"] = evm.Address{9} },
		"another chain's domain":  func(m map[string]any) { m["chain_id"] = 1 },
		"no key":                  func(m map[string]any) { delete(m, "public_key") },
		"a key outside the curve": func(m map[string]any) { m["public_key"] = guarantee.PublicKey{0x80, 1} },
		"a key of two bytes":      func(m map[string]any) { m["public_key"] = []int{1, 2} },
		"a negative chain":        func(m map[string]any) { m["chain_id"] = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(paramsJSON(t, change)) }))
			if p, err := c.Params(context.Background()); code(err) != "house_unreachable" {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}

// A house of 4Mica's own make says less.
func TestParamsOfTheReference(t *testing.T) {
	t.Parallel()
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(paramsJSON(t, func(m map[string]any) {
			for _, k := range []string{"clearing_house_address", "certificate_forms", "timestamp_window", "schedules", "ethereum_http_rpc_url"} {
				delete(m, k)
			}
		}))
	}))
	p, err := c.Params(context.Background())
	if err != nil || p.Batch || p.Deployment.Vault != deployment.Vault || p.Schedules != nil {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "clear.example.org", "ftp://clear.example.org", "http://", "https://user:pass@clear.example.org", "https://x.example?y", "https://x.example#y", "http://[::1"} {
		if _, err := New(u); code(err) != "config_invalid" {
			t.Errorf("%q: %v", u, err)
		}
	}
	c, err := New(" https://clear.example.org/house/ ")
	if err != nil || c.URL() != "https://clear.example.org/house" {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestHealthOfAnIllHouseIsAnAnswer(t *testing.T) {
	t.Parallel()
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(503)
		fmt.Fprint(w, `{"status":"fail","db":"ok","chain_rpc":"fail"}`)
	}))
	h, err := c.Health(context.Background())
	if err != nil || h != (Health{"fail", "ok", "fail"}) {
		t.Errorf("got %+v, %v", h, err)
	}
	c = serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad gateway", http.StatusBadGateway) }))
	if _, err := c.Health(context.Background()); code(err) != "house_unreachable" {
		t.Errorf("got %v", err)
	}
}

func TestNotesHaveAnErrorEach(t *testing.T) {
	t.Parallel()
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Notes []guarantee.SignedNote `json:"notes"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Notes) != 2 {
			t.Errorf("house got %+v, %v", body, err)
		}
		fmt.Fprint(w, `{"results":[{"digest":"0x00"},{"error":"late","code":"note_too_late"}]}`)
	}))
	errs, err := c.Notes(context.Background(), make([]guarantee.SignedNote, 2))
	if err != nil || len(errs) != 2 || errs[0] != nil || code(errs[1]) != "note_too_late" {
		t.Errorf("got %v, %v", errs, err)
	}
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"claims":"00","signature":"00"}`))
	f.Add([]byte(`{"error":"x","code":"high_s"}`))
	f.Add([]byte(`null`))
	c, err := New("http://127.0.0.1:1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := c.result(context.Background(), raw)
		if r.Err == nil {
			if len(r.Certificate.Claims) != guarantee.ClaimsBytes {
				t.Fatalf("neither error nor certificate: %q", raw)
			}
			return
		}
		if _, ok := x402.Lookup(code(r.Err)); !ok {
			t.Fatalf("code %q is not in the table", code(r.Err))
		}
	})
}
