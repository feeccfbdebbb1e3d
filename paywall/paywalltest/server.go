// Package paywalltest lets a seller's own tests sell: a paid server, a funded buyer, and a clearing house with its chain,
// all in memory and under a clock that only the test moves. Most callers want [NewServer], [Server.Client] and
// [Server.Settle]:
//
//	s := paywalltest.NewServer(t, func(pw *paywall.Paywall) http.Handler {
//		mux := http.NewServeMux()
//		mux.Handle("GET /quote", pw.Price("$0.0005", quote))
//		return mux
//	})
//	resp, err := s.Client.Get(s.URL + "/quote") // answered 402, paid, served
//	…
//	if got := s.Settle().Collected; got != money.Units(500) { … }
//
// The buyer pays by guarantees, which Settle turns into money. With [Transfers] it pays by transfers, which a facilitator
// settles one by one, or by bundles of calls: money is where it goes before the answer is there ([Server.Wallet]).
//
// The paywall, the buyer, the clearing house, its HTTP interface, its certificates, the facilitator and its gas desk are the
// real ones; the chain is a model of the contracts. Amounts are in millionths of the development network's dollar.
//
// # Concurrency
//
// Requests may be made from any goroutine. [Server.Settle], [Server.Crash], [Server.Restart] and [Server.Advance] are for one
// goroutine at a time; Crash may be called from inside a handler.
package paywalltest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/internal/sim"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
)

// TB is what is needed of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// The cycle's times in seconds, of a length that a test's requests fit into one cycle, and the delay of withdrawals.
const (
	start           = 1_800_000_000 // the first cycle, and the server's clock when it starts
	withdrawalDelay = 20_000
	depth           = 1 // blocks on top of one before it counts, as on the development chain
)

// DefaultCollateral is what the buyer has deposited unless [Collateral] says otherwise: $100.
var DefaultCollateral = money.Units(100_000_000)

// DefaultWallet is what the buyer holds for transfers unless [Wallet] says otherwise: $100.
var DefaultWallet = money.Units(100_000_000)

// DefaultBudget is what the buyer may spend unless [Budget] says otherwise.
var DefaultBudget = payer.Budget{PerCall: "$10", PerDay: "$100"}

type config struct {
	collateral money.Amount
	wallet     money.Amount
	accept     []string // nil: guarantees only
	budget     payer.Budget
	paywall    func(*paywall.Config)
}

// Option changes what [NewServer] makes.
type Option func(*config)

// Collateral sets what the buyer has deposited.
func Collateral(a money.Amount) Option { return func(c *config) { c.collateral = a } }

// Wallet sets what the buyer holds outside the vault, from which transfers are paid.
func Wallet(a money.Amount) Option { return func(c *config) { c.wallet = a } }

// Transfers has the seller take transfers, in place of guarantees. accept says what it takes, as in
// [paywall.Config.Accept], and may name guarantees too; nothing is exact and upto.
func Transfers(accept ...string) Option {
	if len(accept) == 0 {
		accept = []string{"exact", "upto"}
	}
	return func(c *config) { c.accept = accept }
}

// Budget sets what the buyer may spend.
func Budget(b payer.Budget) Option { return func(c *config) { c.budget = b } }

// Config changes the paywall's configuration. What makes it work here (key, network, clearing house, facilitator, book, clock) is set
// afterwards.
func Config(change func(*paywall.Config)) Option { return func(c *config) { c.paywall = change } }

// Server is a seller's server under test and everything that it takes to pay it.
type Server struct {
	URL    string       // of the seller's server
	Client *http.Client // pays as it goes
	Payer  *payer.Payer // Client's transport: receipts, and what is left of the budget
	House  *clearing.House

	Buyer, Seller evm.Address
	Token         network.Token // that is paid in

	t      TB
	config config
	routes func(*paywall.Paywall) http.Handler
	keys   struct{ operator, seller, buyer *evm.PrivateKey }
	book   purchase.Book
	chain  *sim.Chain
	sender *sim.Sender
	web    *httptest.Server
	house  *httptest.Server // its HTTP interface
	now    atomic.Int64     // unix seconds

	facilitator *sim.Facilitator
	window      *sim.Window // the seller's own look at the chain, which survives its crashes as the chain does

	settled map[clearing.CycleRef]bool // only Settle

	mu   sync.Mutex
	life *life // guarded by mu; the seller's present process
}

// NewServer starts a server that serves what routes makes of a paywall, and ends it with the test. routes is called again
// after [Server.Crash] and [Server.Restart], as a program's main would be.
func NewServer(t TB, routes func(*paywall.Paywall) http.Handler, opts ...Option) *Server {
	t.Helper()
	s := &Server{
		t: t, routes: routes, book: paywall.Memory(), settled: make(map[clearing.CycleRef]bool),
		config: config{collateral: DefaultCollateral, wallet: DefaultWallet, budget: DefaultBudget},
	}
	for _, o := range opts {
		o(&s.config)
	}
	s.now.Store(start)
	s.keys.operator, s.keys.seller, s.keys.buyer = s.key("operator"), s.key("seller"), s.key("buyer")
	s.Seller, s.Buyer = s.keys.seller.Address(), s.keys.buyer.Address()
	dev, err := network.Lookup("dev")
	s.must("look up the development network", err)
	s.Token = dev.Dollars()[0]
	s.openHouse(dev.ID)
	s.openFacilitator(dev)
	s.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.current().serve(w, r) }))
	s.URL = s.web.URL
	s.begin()
	s.openPayer()
	t.Cleanup(s.close)
	return s
}

func (s *Server) must(what string, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("paywalltest: %s: %v", what, err)
	}
}

// key makes the same key for a name each time, so that a test's addresses do not change.
func (s *Server) key(name string) *evm.PrivateKey {
	secret := evm.Keccak256([]byte("paywalltest"), []byte(name))
	key, err := evm.NewKey(secret[:])
	s.must("make a key", err)
	return key
}

// openHouse starts the chain, with a funded buyer, and a clearing house that knows of it.
func (s *Server) openHouse(chainID uint64) {
	secret := evm.Keccak256([]byte("paywalltest"), []byte("authority"))
	secret[0] = 0 // below the curve's order
	authority, err := guarantee.NewAuthority(secret[:])
	s.must("make the operator's key", err)
	vault := evm.MustAddress("0x5555555555555555555555555555555555555555")
	d := guarantee.Deployment{ChainID: chainID, Name: "4Mica " + vault.Lower(), Version: "1", Vault: vault, ClearingHouse: evm.Address{0x77}}
	s.chain, err = sim.New(d, s.keys.operator.Address(), withdrawalDelay, start, clearing.Schedule{
		Asset: s.Token.Address, From: start, Length: 3600, Cutoff: 60, Post: 300, Challenge: 120, Repost: 300, Redeem: 600,
	})
	s.must("start the chain", err)
	held, _ := s.config.collateral.Add(s.config.wallet) // a test's figures
	s.chain.Mint(s.Buyer, s.Token.Address, held)
	if !s.config.collateral.IsZero() {
		s.chain.Deposit(s.Buyer, s.Token.Address, s.config.collateral)
	}
	s.chain.SetAutoSettle(s.Buyer, true) // the buyer does not come back to pay; that is what its collateral is for
	book := clearing.NewMemory()
	s.House, err = clearing.New(clearing.Config{Book: book, Chain: s.chain, Deployment: d, Authority: authority})
	s.must("open the clearing house", err)
	s.sender = &sim.Sender{Chain: s.chain, Outbox: book, Depth: depth}
	for range depth + 1 {
		s.must("follow the chain", s.beat(1))
	}
	s.house = httptest.NewServer(api.New(api.Config{House: s.House, Tokens: []network.Token{s.Token}, Now: s.Now}))
}

// openFacilitator starts who settles transfers, and lets Permit2 move the buyer's tokens, as upto needs it.
func (s *Server) openFacilitator(on network.Chain) {
	var err error
	s.facilitator, err = sim.NewFacilitator(context.Background(), s.chain, on, s.key("facilitator").Address(), s.Now)
	s.must("open the facilitator", err)
	sent := evm.NewMemoryOutbox()
	s.window = &sim.Window{
		Chain: s.chain, Calls: sent, Lane: &sim.Lane{Chain: s.chain, Account: s.Seller, Calls: sent, Depth: depth},
		Beat: func() { s.chain.MineAt(uint64(s.now.Load()), nil) },
	}
	s.chain.Call(s.Buyer, s.Token.Address, sim.ApproveCall(exact.Permit2Address, money.MaxAmount()))
	s.must("follow the chain", s.beat(1))
}

func (s *Server) openPayer() {
	transport := &http.Transport{}
	var err error
	s.Payer, err = payer.New(payer.Config{
		Key: s.keys.buyer, Budget: s.config.budget, ClearingHouse: s.house.URL, Wallet: sim.Purse{Chain: s.chain}, Transport: transport, Now: s.Now,
		Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	s.must("make the buyer", err)
	s.Client = &http.Client{Transport: s.Payer}
	s.t.Cleanup(transport.CloseIdleConnections)
}

func (s *Server) close() {
	s.web.Close()
	_ = s.current().paywall.Close(context.Background())
	s.house.Close()
	_ = s.Payer.Close()
}

// Now is the one clock of seller, buyer and clearing house.
func (s *Server) Now() time.Time { return time.Unix(s.now.Load(), 0).UTC() }

// Advance moves the clock by whole seconds, so that quotes and payments grow old. The chain makes a block a minute, and the
// clearing house does what is due.
func (s *Server) Advance(d time.Duration) {
	s.t.Helper()
	const step = 60
	for left := int64(d / time.Second); left > 0; left -= step {
		s.must("advance", s.beat(min(left, step)))
	}
}

// beat lets some seconds pass, and then everybody do what there is to do.
func (s *Server) beat(seconds int64) error {
	ctx := context.Background()
	now := s.now.Add(seconds)
	if err := s.sender.Step(nil); err != nil {
		return err
	}
	s.chain.Mine(uint64(now), nil)
	if err := sim.Follow(ctx, s.House, clearing.Head, s.chain, 0); err != nil {
		return err
	}
	if err := sim.Follow(ctx, s.House, clearing.Confirmed, s.chain, depth); err != nil {
		return err
	}
	return s.House.CloseDue(ctx, s.Now(), s.chain.Head().Time)
}
