package interop

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
)

// shop is a server that knows nothing of payments, and counts what it served by path.
type shop struct {
	*httptest.Server
	mu    sync.Mutex
	count map[string]int // guarded by mu
	slow  *holdUp        // guarded by mu
}

// holdUp is a handler that waits for the test.
type holdUp struct{ began, proceed chan struct{} }

// holdUp makes the next request to /slow wait: began is closed when the handler runs, and it goes on when the test
// closes proceed.
func (s *shop) holdUp() (began <-chan struct{}, proceed chan<- struct{}) {
	h := &holdUp{make(chan struct{}), make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = h
	return h.began, h.proceed
}

func openShop(t testing.TB) *shop {
	s := &shop{count: map[string]int{}}
	mux := http.NewServeMux()
	goods := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"goods":"weather"}`) }
	for _, path := range []string{"/weather", "/feed", "/many"} {
		mux.HandleFunc("GET "+path, goods)
	}
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("GET /metered", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Units", r.URL.Query().Get("n"))
		if charge := r.URL.Query().Get("charge"); charge != "" { // the word of the handler itself, above what was counted
			w.Header().Set("Settlement-Overrides", `{"amount":"`+charge+`"}`)
		}
		goods(w, r)
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		h := s.slow
		s.slow = nil
		s.mu.Unlock()
		if h != nil {
			close(h.began)
			<-h.proceed
		}
		goods(w, r)
	})
	mux.HandleFunc("GET /fails", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of order", http.StatusInternalServerError)
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.count[r.URL.Path]++
		s.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shop) served(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[path]
}

// gate is a running `farthing gate` with its shop.
type gate struct {
	*process
	*shop
	url   string
	payee evm.Address // somebody who has nothing else
	args  []string
	w     *world
	dir   string
}

// gateFile is what stands in a gate.yaml, besides upstream and network.
type gateFile struct {
	Facilitator string
	Routes      string      // lines under routes; what is not there is closed
	Accept      string      // default exact
	Head        string      // more lines above
	PayTo       evm.Address // default somebody who has nothing else
}

// gate starts a gate in front of a shop of its own.
func (w *world) gate(t testing.TB, facilitator, routes string) *gate {
	t.Helper()
	return w.gateOf(t, gateFile{Facilitator: facilitator, Routes: routes})
}

func (w *world) gateOf(t testing.TB, f gateFile, flags ...string) *gate {
	t.Helper()
	if f.PayTo == (evm.Address{}) {
		f.PayTo = must(evm.GenerateKey())(t).Address()
	}
	g := &gate{shop: openShop(t), payee: f.PayTo, w: w, dir: t.TempDir()}
	file := filepath.Join(g.dir, "gate.yaml")
	lines := fmt.Sprintf("upstream: %s\nnetwork: %s\npay_to: %q\nfacilitator: %s\naccept: [%s]\n%s\nroutes:\n%s",
		g.shop.URL, w.chain.Name, g.payee, f.Facilitator, cmp.Or(f.Accept, "exact"), f.Head, indent(f.Routes))
	check(t, os.WriteFile(file, []byte(lines), 0o600))
	g.args = append([]string{"gate", "--config", file, "--book", filepath.Join(g.dir, "gate.db"), "--listen", "127.0.0.1:0"}, flags...)
	g.start(t)
	t.Cleanup(func() {
		g.stop()
		if t.Failed() {
			t.Logf("the gate wrote:\n%s", g.last())
		}
	})
	return g
}

func (g *gate) start(t testing.TB) {
	t.Helper()
	g.process = must(startProcess(g.dir, g.w.env(), farthing, g.args...))(t)
	g.url = must(g.process.await(`selling  (http://\S+) `))(t)
	must(g.process.await(`^accepts `))(t)
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(text)) {
		b.WriteString("  " + strings.TrimSpace(line) + "\n")
	}
	return b.String()
}

// earned is what the payee has.
func (g *gate) earned(t testing.TB) uint64 {
	t.Helper()
	units, _ := must(g.w.client.TokenBalance(t.Context(), g.w.usdc.Address, g.payee))(t).Uint64()
	return units
}

// stock are the published buyers, each with what it needs to know besides URL and key.
func (w *world) stock() map[string]buyer {
	return map[string]buyer{
		"x402-fetch":  {"buyer-x402-v1.mjs", options{"network": w.chain.V1Name}},
		"@x402/fetch": {"buyer-x402.mjs", nil},
		"@t402/core":  {"t402.mjs", options{"role": "buyer"}},
	}
}

type buyer struct {
	script string
	more   options
}

// facilitators are the URLs that settle for a gate: farthing's own, and the published one that sellers use today.
func (w *world) facilitators(t testing.TB) map[string]string {
	t.Helper()
	return map[string]string{"farthing": w.farthingFacilitator(t), "reference": w.referenceFacilitator(t)}
}

func TestStockBuyersPayAtTheGate(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for whose, facilitator := range w.facilitators(t) {
			g := w.gate(t, facilitator, `
				GET /weather: $0.01
				POST /echo: $0.002
				GET /fails: $0.03
				GET /health: free`)
			for name, b := range w.stock() {
				if name == "@t402/core" && whose == "reference" {
					continue // which does not know T402
				}
				t.Run(name+" settled by "+whose, func(t *testing.T) {
					t.Parallel()
					p := w.payer(t)
					o := b.more.with(options{"key": secret(p.PrivateKey)})
					r := once(t, b.script, o.with(options{"url": g.url + "/weather"}))
					r.bought(t)
					if !strings.Contains(r.Body, "weather") {
						t.Errorf("got %q", r.Body)
					}
					if paid, n := p.paid(t), p.transfers(t); paid != 10_000 || n != 1 {
						t.Errorf("paid %d in %d transfers", paid, n)
					}
					if got := must(evm.ParseAddress(r.Receipt.Payer))(t); got != p.Address() {
						t.Errorf("receipt for %s, the payer is %s", got, p.Address())
					}
					hash := must(evm.ParseHash(r.Receipt.Transaction))(t)
					if receipt := must(w.client.Receipt(t.Context(), hash))(t); receipt == nil {
						t.Errorf("the receipt names transaction %s, which no block has", hash)
					}
					echo := once(t, b.script, o.with(options{"url": g.url + "/echo", "method": "POST", "body": `{"ask":"Grüße"}`, "headers": options{"content-type": "application/json"}}))
					echo.bought(t)
					if echo.Body != `{"ask":"Grüße"}` {
						t.Errorf("the body came through as %q", echo.Body)
					}
					failed := once(t, b.script, o.with(options{"url": g.url + "/fails"}))
					if failed.Status != 500 || failed.Attempts != 1 {
						t.Errorf("a failing handler: %d after %d payments", failed.Status, failed.Attempts)
					}
					if paid := p.paid(t); paid != 12_000 {
						t.Errorf("paid %d, want 12000: work that failed is not charged", paid)
					}
				})
			}
		}
	})
}

// One payment for a hundred calls, though the clients sign a new one each time.
func TestStockBuyersOfABundleAreChargedOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `GET /feed: {price: $0.0005, bundle: 100 calls, valid: 24h}`)
		for name, b := range w.stock() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := w.payer(t)
				o := b.more.with(options{"key": secret(p.PrivateKey), "url": g.url + "/feed"})
				first := once(t, b.script, o)
				first.bought(t)
				if first.Receipt.Transaction == "" {
					t.Errorf("the bundle was bought without a transaction: %+v", first.Receipt)
				}
				least := first.remaining(t)
				for _, r := range script(t, b.script, o.with(options{"times": 99, "parallel": 4})) {
					r.bought(t)
					least = min(least, r.remaining(t))
					if r.Receipt.Transaction != "" || r.Receipt.Amount != "0" {
						t.Fatalf("charged again: %+v", r.Receipt)
					}
				}
				if first.remaining(t) != 99 || least != 0 {
					t.Errorf("%d are left after the first call and %d after the hundredth", first.remaining(t), least)
				}
				if paid, n := p.paid(t), p.transfers(t); paid != 50_000 || n != 1 {
					t.Errorf("100 calls cost %d in %d transfers", paid, n)
				}
				once(t, b.script, o).bought(t) // the next bundle
				if paid, n := p.paid(t), p.transfers(t); paid != 100_000 || n != 2 {
					t.Errorf("101 calls cost %d in %d transfers", paid, n)
				}
			})
		}
	})
}

// remaining is how many calls the receipt says are left.
func (r result) remaining(t testing.TB) int {
	t.Helper()
	var extra struct {
		Bundle *struct{ Total, Remaining int }
	}
	if err := json.Unmarshal(r.Receipt.Extra, &extra); err != nil || extra.Bundle == nil || extra.Bundle.Total != 100 {
		t.Fatalf("no bundle in the receipt: %s (%v)", r.Receipt.Extra, err)
	}
	return extra.Bundle.Remaining
}

func TestStockBuyerPaysWhatWasMeasured(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for whose, facilitator := range w.facilitators(t) {
			t.Run("settled by "+whose, func(t *testing.T) {
				t.Parallel()
				g := w.gate(t, facilitator, `GET /metered: {price: $0.001 per record, up_to: $0.05, count: header X-Units, accept: [upto]}`)
				p := w.payer(t)
				p.approve(t, permit2)
				o := options{"key": secret(p.PrivateKey), "schemes": []string{"upto"}, "rpc": w.rpc}
				paid := uint64(0)
				for _, c := range []struct {
					query string
					cost  uint64
				}{{"n=3", 3000}, {"n=70", 50_000}, {"n=3&charge=777", 777}, {"n=3&charge=0", 0}} {
					r := once(t, "buyer-x402.mjs", o.with(options{"url": g.url + "/metered?" + c.query}))
					r.bought(t)
					paid += c.cost
					if got := p.paid(t); got != paid || r.Receipt.Amount != fmt.Sprint(c.cost) {
						t.Errorf("%s: %d have left the account, want %d; the receipt says %q", c.query, got, paid, r.Receipt.Amount)
					}
				}
			})
		}
	})
}

// A route that takes guarantees, upto and money on Arbitrum besides is bought from by clients that know only some of it.
func TestStockBuyersFindTheirWayAmongMany(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		g := w.gateOf(t, gateFile{
			Facilitator: w.facilitatorOfTwo(t), Head: "clearing_house: " + w.house(t),
			Routes: `GET /many: {price: $0.01, accept: [guarantee, exact, exact on arbitrum-sepolia in USDC, upto]}`,
		})
		for name, b := range w.stock() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := w.payer(t)
				r := once(t, b.script, b.more.with(options{"url": g.url + "/many", "key": secret(p.PrivateKey)}))
				r.bought(t)
				if paid := p.paid(t); paid != 10_000 {
					t.Errorf("paid %d", paid)
				}
				for _, way := range []string{`"4mica-credit"`, `"eip155:421614"`, `"upto"`, `"exact"`} {
					if !strings.Contains(string(r.Terms), way) {
						t.Errorf("the header does not offer %s: %s", way, r.Terms)
					}
				}
			})
		}
	})
}

// facilitatorOfTwo starts a facilitator that settles on this chain and on another, which calls itself arbitrum-sepolia.
func (w *world) facilitatorOfTwo(t testing.TB) string {
	t.Helper()
	start := func(args ...string) *process {
		p := must(startProcess(t.TempDir(), w.env(), farthing, args...))(t)
		t.Cleanup(func() {
			p.stop()
			if t.Failed() {
				t.Logf("%s wrote:\n%s", args[0], p.last())
			}
		})
		return p
	}
	arbitrum := start("devchain", "--network", "arbitrum-sepolia", "--listen", "127.0.0.1:0")
	rpc := must(arbitrum.await(`at (http://[^\s,]+),`))(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "key.json")
	check(t, keystore.Import(key, account(accountFarthing3), nil, keystore.Light))
	p := start("facilitator", "--network", w.chain.Name+",arbitrum-sepolia", "--rpc-url", w.rpc, "--rpc-url", rpc, "--key", key,
		"--book", filepath.Join(dir, "facilitator.db"), "--listen", "127.0.0.1:0")
	return must(p.await(`(http://127\.0\.0\.1:\d+)`))(t)
}

// What somebody tries first: a gate with --dev, and a published client that is told to pay in a token that it does not know.
func TestStockBuyersPayAtADevelopmentGate(t *testing.T) {
	real(t)
	s := openShop(t)
	home := t.TempDir()
	p := must(startProcess(home, []string{"FARTHING_HOME=" + home, "FARTHING_PASSPHRASE="}, farthing, "gate", "--dev", "--price", "$0.01",
		"--accept", "exact", "--accept", "guarantee", "--upstream", s.URL, "--listen", "127.0.0.1:0"))(t)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the gate wrote:\n%s", p.last())
		}
	})
	url := must(p.await(`selling  (http://\S+) `))(t)
	must(p.await(`^accepts `))(t)
	for n, b := range []buyer{{"buyer-x402.mjs", options{"anyAsset": true}}, {"t402.mjs", options{"role": "buyer"}}} {
		r := once(t, b.script, b.more.with(options{"url": url + "/weather", "key": secret(devchain.Accounts()[5+n])}))
		r.bought(t)
	}
	if s.served("/weather") != 2 {
		t.Errorf("served %d", s.served("/weather"))
	}
	if r := once(t, "buyer-x402.mjs", options{"url": url + "/weather", "key": secret(devchain.Accounts()[7])}); r.Attempts != 0 || !strings.Contains(r.Error, "allowedAssets") {
		t.Errorf("by default the client pays in an unknown token: %+v", r)
	}
}
