package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// temper says what may go wrong in a market. Probabilities are in percent.
type temper struct {
	name     string
	bookFail int  // a use of a book fails
	lost     int  // a request or a reply is lost, between buyer and gate or gate and facilitator
	node     int  // the node does not answer
	sending  int  // a transaction is lost, or replaced
	late     int  // a transaction waits for another block
	meddle   int  // somebody else acts in the middle of a visit
	crash    int  // weight of killing a process
	reorg    int  // weight of a reorganisation
	deepest  int  // blocks that one drops; more than depth breaks what was settled
	thieves  int  // weight of those who empty wallets, replay payments and run ahead of settlements
	eyes     bool // the seller looks at the chain itself
	hasty    bool // a transfer counts in the newest block, as facilitators have it unless told
	liar     int  // the facilitator says what is not so; only eyes see through it
}

var tempers = []temper{
	{name: "calm"},
	{name: "lossy", bookFail: 1, lost: 8, node: 3, sending: 15, late: 15, crash: 3, reorg: 2, deepest: depth},
	{name: "crowded", lost: 3, late: 30, meddle: 12, crash: 1, reorg: 1, deepest: depth, thieves: 8},
	{name: "stormy", bookFail: 2, lost: 10, node: 5, sending: 20, late: 20, meddle: 6, crash: 5, reorg: 4, deepest: depth, thieves: 6, eyes: true},
	{name: "forked", bookFail: 1, lost: 5, sending: 10, late: 20, meddle: 4, crash: 2, reorg: 6, deepest: 3 * depth, thieves: 3, eyes: true},
	{name: "hasty", bookFail: 1, lost: 5, node: 2, sending: 10, late: 20, meddle: 6, crash: 3, reorg: 5, deepest: depth, thieves: 4, eyes: true, hasty: true},
	{name: "lied to", lost: 4, late: 10, meddle: 4, crash: 2, reorg: 2, deepest: depth, thieves: 3, eyes: true, liar: 12},
}

// deep reports whether reorganisations break what was settled.
func (t temper) deep() bool { return t.deepest > depth || t.hasty && t.deepest > 0 }

const (
	buyersMax = 4
	shopURL   = "http://shop.example"
	purse     = 100_000
)

// process is what a gate or the facilitator holds from its start to its end.
type process struct {
	m      *market
	dead   bool
	armed  int  // uses of its books until it dies; 0 is never
	asleep bool // only the book's secret is given out: a paywall's own goroutine starts and is stopped
	sure   bool // nothing fails
	faults int
}

// around is one use of a book.
func (p *process) around(what string, write bool, do func() error) error {
	switch {
	case p.dead:
		return errKilled
	case p.sure:
		return do()
	case p.asleep:
		return errBefore
	}
	p.m.uses++
	f, kill := p.next(write)
	if p.m.uses == p.m.killAt {
		f, kill = p.m.killBy, true
	}
	if f == failBefore {
		p.faults, p.dead = p.faults+1, kill
		return errBefore
	}
	err := do()
	if f == failAfter && err == nil {
		p.faults, p.dead = p.faults+1, kill
		return errBehind
	}
	return err
}

func (p *process) next(write bool) (fault, bool) {
	kill := false
	if p.armed > 0 {
		p.armed--
		kill = p.armed == 0
	}
	if !kill && !p.m.percent(p.m.bookFail) {
		return noFault, false
	}
	if write && p.m.percent(50) {
		return failAfter, kill
	}
	return failBefore, kill
}

// shop is a gate of the seller's: a real paywall over the book that all of them share.
type shop struct {
	process
	pw      *paywall.Paywall
	handler http.Handler
}

// settler is the facilitator: a real one, with its gas desk and two lanes.
type settler struct {
	process
	f    *facilitator.Facilitator
	desk *desk.Desk
}

// market is everything that happens from one seed where transfers are sold for. One goroutine runs it: who acts in the
// middle of another's visit is called from there.
type market struct {
	temper
	seed  uint64
	rng   *rand.Rand
	now   uint64
	on    network.Chain
	chain *Chain
	floor uint64 // blocks up to this one are never replaced

	book      purchase.Book // the true one
	desks     desk.Book
	calls     Calls                             // of the facilitator's lanes
	reopen    func() error                      // the books as they lie on disk, after a process was killed; nil for those in memory
	mutate    func(purchase.Book) purchase.Book // a fault of the program, for tests of the checkers; nil for none
	mutant    mutations
	shops     [2]*shop
	settler   *settler
	window    *Window
	seller    *evm.PrivateKey
	buyers    []*evm.PrivateKey
	lanes     []evm.Address
	outside   int // answers of the facilitator that were lost
	uses      int // of books
	killAt    int // the use at which whoever makes it dies; 0 for none
	killBy    fault
	household *household
	visit     uint64
	depth     int // of visits in visits
	quiet     bool
	refunded  map[string]bool

	orders []*order
	byID   map[string]*order        // by purchase
	owns   map[evm.Address][]string // bundles that buyers know of
	runs   map[string]int           // of handlers, by purchase
	broke  error                    // the first rule that was broken within a visit
	checks int                      // answers that were looked at

	trace  func(format string, args ...any)
	digest []byte // of the whole trace
}

// mutations are faults of the program that stand elsewhere than between it and its book.
type mutations struct {
	settle    func(s x402.SettleResponse, err error) (x402.SettleResponse, error) // what a gate hears
	paysTwice bool                                                                // the cashier forgets names
	shallow   bool                                                                // the desk believes the newest block
	desks     func(desk.Book) desk.Book
}

// order is one payment that a buyer has signed.
type order struct {
	n       int
	buyer   int
	path    string
	named   bool // the payment is for this request only
	draw    bool
	auth    exact.Authorization
	payment evm.Hash
	id      string // of its purchase
	name    string // of the header
	value   string
	done    bool // its buyer has its answer, or knows that there is none
}

// visitor is what a request came to.
type visitor struct {
	heard  bool // by the buyer
	status int
	header http.Header
	body   string
}

func (v visitor) code() string {
	var e struct{ Code string }
	_ = json.Unmarshal([]byte(v.body), &e)
	return e.Code
}

func secretKey(name string, i int) *evm.PrivateKey {
	secret := evm.Keccak256([]byte(name), []byte{byte(i)})
	key, err := evm.NewKey(secret[:])
	if err != nil {
		panic(err)
	}
	return key
}

// memoryBooks are books that forget everything with the world.
func (m *market) memoryBooks() {
	s := NewSettlements()
	m.book, m.desks, m.calls = purchase.NewMemory(), s, s.Calls()
}

func newMarket(seed uint64, t temper, open func(*market) error) (*market, error) {
	on, err := network.Lookup("dev")
	if err != nil {
		return nil, err
	}
	m := &market{
		temper: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0xca5)), now: genesis, on: on, byID: make(map[string]*order),
		owns: make(map[evm.Address][]string), runs: make(map[string]int), refunded: make(map[string]bool), seller: secretKey("seller", 0), trace: func(string, ...any) {},
	}
	m.on.Depth = depth
	if m.chain, err = New(deployment, operator, delay, genesis); err != nil {
		return nil, err
	}
	m.chain.Deploy(on.Tokens...)
	for i := range 2 {
		m.lanes = append(m.lanes, secretKey("lane", i).Address())
	}
	m.memoryBooks()
	if open != nil {
		if err := open(m); err != nil {
			return nil, err
		}
	}
	for _, token := range on.Tokens {
		m.chain.Mint(m.seller.Address(), token.Address, money.Units(purse))
		for i := range buyersMax + 1 { // and the household
			if len(m.buyers) == i {
				m.buyers = append(m.buyers, secretKey("buyer", i))
			}
			m.chain.Mint(m.buyers[i].Address(), token.Address, money.Units(purse))
			m.chain.Call(m.buyers[i].Address(), token.Address, ApproveCall(exact.Permit2Address, money.MaxAmount()))
		}
	}
	for range depth + 1 {
		m.tick(1)
		m.chain.Mine(m.now, nil)
	}
	m.floor = m.chain.Head().Number
	sent := evm.NewMemoryOutbox()
	m.window = &Window{Chain: m.chain, Calls: sent, Depth: depth, Lane: &Lane{Chain: m.chain, Account: m.seller.Address(), Calls: sent, Depth: depth, Fate: m.fate}}
	if m.hasty {
		m.window.Depth, m.window.Lane.Depth = 0, 0
	}
	m.settler = &settler{process: process{m: m}}
	for i := range m.shops {
		m.shops[i] = &shop{process: process{m: m}}
	}
	if err := m.restart(); err != nil {
		return nil, err
	}
	return m, m.openHousehold()
}

func (m *market) percent(p int) bool { return p > 0 && !m.quiet && m.rng.IntN(100) < p }

func (m *market) time() time.Time { return time.Unix(int64(m.now), 0) }

func (m *market) tick(seconds uint64) { m.now += seconds }

func (m *market) fate(evm.Call) Delivery {
	if m.percent(m.sending) {
		return []Delivery{Lost, Twice}[m.rng.IntN(2)]
	}
	return Delivered
}

// restart starts the processes that are dead, or were never there.
func (m *market) restart() error {
	if (m.settler.dead || m.shops[0].dead || m.shops[1].dead) && m.reopen != nil {
		if err := m.reopen(); err != nil {
			return err
		}
	}
	if m.settler.dead || m.settler.f == nil {
		if err := m.openSettler(); err != nil {
			return fmt.Errorf("facilitator: %w", err)
		}
	}
	for _, s := range m.shops {
		if s.dead || s.pw == nil {
			if err := m.openShop(s); err != nil {
				return fmt.Errorf("gate: %w", err)
			}
		}
	}
	return nil
}

func (m *market) openSettler() error {
	s := m.settler
	s.dead, s.armed, s.sure = false, 0, true
	defer func() { s.sure = false }()
	deep := uint64(depth)
	if m.mutant.shallow || m.hasty {
		deep = 0
	}
	book := m.desks
	if m.mutant.desks != nil {
		book = m.mutant.desks(book)
	}
	config := facilitator.NetworkConfig{
		Chain: m.on, Node: frailNode{m.chain.Node(), s}, Book: frailDesk{book, s}, Depth: deep, Now: m.time, BatchMax: 3,
	}
	for _, account := range m.lanes {
		config.Lanes = append(config.Lanes, &Lane{Chain: m.chain, Account: account, Calls: frailCalls{m.calls, s}, Depth: deep, Fate: m.fate})
	}
	n, err := facilitator.Open(context.Background(), config)
	if err != nil {
		return err
	}
	s.desk = n.Desk()
	s.f, err = Impatient(facilitator.Config{Networks: []*facilitator.Network{n}, Now: m.time})
	return err
}

func (m *market) openShop(s *shop) (err error) {
	s.dead, s.armed, s.asleep = false, 0, true
	book := m.book
	if m.mutate != nil {
		book = m.mutate(book)
	}
	config := paywall.Config{
		Signer: m.seller, Network: "dev", Purchases: Purchases{Book: sameSecret{book}, Around: s.around2}, Facilitators: []x402.Facilitator{wiring{m, s}},
		Accept: []string{"exact", "upto"}, Cashier: till{m, s}, BaseURL: shopURL, Now: m.time, Wait: 1, Abandoned: 150 * time.Second,
	}
	if m.eyes {
		config.Witness = m.window
	}
	if s.pw, err = paywall.New(config); err != nil {
		return err
	}
	// Its own goroutine would do the housework when it likes; here the world says when.
	if err := s.pw.Close(context.Background()); err != nil {
		return err
	}
	s.asleep = false
	mux := http.NewServeMux()
	for _, r := range counters {
		mux.Handle(r.path, s.pw.Price(r.price, http.HandlerFunc(m.work), r.options...))
	}
	s.handler = mux
	return s.pw.Check()
}

// counters are the routes that are sold.
var counters = []struct {
	path, price string
	options     []paywall.Option
}{
	{"/flat", "$0.0005", nil},
	{"/first", "$0.0006", []paywall.Option{paywall.ChargeRule("before work"), paywall.Accept("exact")}},
	{"/tether", "$0.0004", []paywall.Option{paywall.Accept("exact in USDT")}},
	{"/tokens", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.002"), paywall.Accept("upto")}},
	{"/stages", "$0.001", []paywall.Option{paywall.Stages("outline 20%", "rest 80%"), paywall.Accept("upto")}},
	{"/job", "$0.0007", []paywall.Option{paywall.Job(4 * time.Minute), paywall.Accept("exact")}},
	{"/pack", "$0.0001", []paywall.Option{paywall.Bundle("4 calls", 10*time.Minute), paywall.Accept("exact")}},
	{"/soon", "$0.0003", []paywall.Option{paywall.Settle(10 * time.Second), paywall.Accept("exact")}},
}

// around2 is around with the world's say: the book's secret is always the same, a bundle that is being bought is not waited
// for, and somebody else may act first.
func (s *shop) around2(what string, write bool, do func() error) error {
	if what == "secret" {
		return do()
	}
	if !s.asleep && !s.dead {
		s.m.meddleNow()
	}
	err := s.around(what, write, do)
	if write {
		s.m.trace("  %s: %v", what, err)
	}
	if errors.Is(err, purchase.ErrBuying) {
		// A real gate waits for twenty seconds of the wall's clock, and then says this.
		return x402.Errorf("payment_in_progress", "another request is buying the bundle that this one draws from")
	}
	return err
}

// work is every handler.
func (m *market) work(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	id := paywall.PurchaseID(ctx)
	if m.runs[id]++; m.runs[id] > 1 {
		m.fail(broken("purchase %s is served a second time", id))
	}
	m.trace("  work of %s", id)
	m.meddleNow()
	if strings.HasPrefix(r.URL.Path, "/stages") {
		paywall.Stage(ctx, "outline")
	}
	switch n := m.rng.IntN(100); {
	case m.temper.name == "calm":
	case n < 8:
		http.Error(w, "sorry", http.StatusInternalServerError)
		return
	case n < 12:
		paywall.Fail(ctx, "stale")
		_, _ = io.WriteString(w, "waived")
		return
	case n < 14:
		panic("oops")
	}
	switch r.URL.Path {
	case "/tokens":
		paywall.Charge(ctx, 1+m.rng.IntN(300))
	case "/stages":
		paywall.Stage(ctx, "rest")
	case "/job":
		w.WriteHeader(http.StatusAccepted)
	}
	fmt.Fprintf(w, "answer %s to %s", id, r.URL.RequestURI())
}

func (m *market) fail(err error) {
	if m.broke == nil {
		m.broke = err
	}
}

// wiring is the network between a gate and the facilitator.
type wiring struct {
	m *market
	s *shop
}

var errWires = x402.Errorf("facilitator_unreachable", "simulated: nobody answers")

func (f wiring) Supported(ctx context.Context) (x402.Supported, error) {
	return f.m.settler.f.Supported(ctx)
}

func (f wiring) Verify(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.VerifyResponse, error) {
	m := f.m
	m.meddleNow()
	if f.s.dead || m.settler.dead || m.percent(m.lost) {
		return x402.VerifyResponse{}, errWires
	}
	v, err := m.settler.f.Verify(ctx, p, r)
	if m.settler.dead || m.percent(m.lost) {
		return x402.VerifyResponse{}, errWires
	}
	m.meddleNow()
	return v, err
}

// Settle is answered at once, or after some blocks.
func (f wiring) Settle(ctx context.Context, p x402.Payment, r x402.Requirements) (s x402.SettleResponse, err error) {
	m := f.m
	m.meddleNow()
	if f.s.dead || m.settler.dead || m.percent(m.lost) {
		return s, errWires
	}
	if m.percent(m.liar) {
		tx := evm.Keccak256([]byte("lie"), []byte(fmt.Sprint(m.now)))
		return x402.SettleResponse{Success: true, Network: r.Network, Transaction: tx.String()}, nil
	}
	patience := 3 * depth
	if !m.quiet && m.temper.name != "calm" {
		patience = m.rng.IntN(3 * depth)
	}
	for waited := 0; ; waited++ {
		s, err = m.settler.f.Settle(ctx, p, r)
		if m.settler.dead || err != nil || s.ErrorReason != "settlement_pending" || waited >= patience {
			break
		}
		if err := m.blockNow(); err != nil {
			m.fail(err)
		}
	}
	m.trace("  settle %s to %s: %v %s %s (%v)", r.Amount, p.Resource.URL, s.Success, s.ErrorReason, s.ErrorMessage, err)
	if m.mutant.settle != nil {
		s, err = m.mutant.settle(s, err)
	}
	if m.settler.dead || m.percent(m.lost) {
		m.outside++
		return x402.SettleResponse{}, errWires
	}
	if s.Success && m.percent(m.liar) {
		return x402.SettleResponse{ErrorReason: "insufficient_funds", Network: r.Network}, nil
	}
	return s, err
}

// till is the seller's way to pay back, as a gate has it.
type till struct {
	m *market
	s *shop
}

// Pay implements [paywall.Cashier].
func (t till) Pay(ctx context.Context, id, on string, token, to evm.Address, amount money.Amount) (evm.Hash, bool, error) {
	if t.s.dead || t.m.percent(t.m.lost) {
		return evm.Hash{}, false, errNode // not an [*x402.Error]: it may be paid
	}
	if t.m.mutant.paysTwice {
		id = fmt.Sprintf("%s/%d", id, t.m.now)
	}
	tx, done, err := t.m.window.Pay(ctx, id, on, token, to, amount)
	if t.s.dead || t.m.percent(t.m.lost) {
		return evm.Hash{}, false, errNode // not an [*x402.Error]: it may be paid
	}
	return tx, done, err
}

// blockNow lets some seconds pass: the facilitator makes a pass, and the chain a block.
func (m *market) blockNow() error {
	m.tick(uint64(1 + m.rng.IntN(2)))
	if err := m.passNow(); err != nil {
		return err
	}
	m.chain.Mine(m.now, func(tx Tx) bool { return !m.percent(m.late) })
	return m.passNow()
}

// passNow has the facilitator's desk make a pass. What fails in it is tried again.
func (m *market) passNow() error {
	if m.settler.dead {
		return nil
	}
	faults := m.settler.faults
	err := m.settler.desk.Step(context.Background(), m.time())
	if err != nil {
		m.trace("  desk: %v", err)
	}
	if err != nil && m.settler.faults == faults && !m.settler.dead && m.quiet {
		return fmt.Errorf("desk: %w", err)
	}
	return nil
}

// ask sends a request to a gate, and loses some of the replies.
func (m *market) ask(s *shop, path, name, value string) (v visitor) {
	if s.dead || m.percent(m.lost/2) {
		return v
	}
	r := httptest.NewRequest(http.MethodGet, shopURL+path, nil)
	if name != "" {
		r.Header.Set(name, value)
	}
	rec := httptest.NewRecorder()
	m.depth++
	if m.depth == 1 {
		m.visit = m.now
	}
	cut := func() (cut bool) {
		defer func() {
			if p := recover(); p == http.ErrAbortHandler {
				cut = true
			} else if p != nil {
				panic(p)
			}
		}()
		s.handler.ServeHTTP(rec, r)
		return false
	}()
	m.depth--
	if s.dead || cut {
		return v // the buyer's connection breaks
	}
	v = visitor{!m.percent(m.lost / 2), rec.Code, rec.Header(), rec.Body.String()}
	m.looked(path, v)
	return v
}

func (m *market) shop() *shop { return m.shops[m.rng.IntN(len(m.shops))] }

// buy has a buyer ask for a price and pay it.
func (m *market) buy() (string, error) {
	buyer := m.rng.IntN(buyersMax)
	counter := counters[m.rng.IntN(len(counters))]
	o := &order{n: len(m.orders), buyer: buyer, path: fmt.Sprintf("%s?n=%d", counter.path, len(m.orders)), named: m.rng.IntN(2) == 0}
	v := m.ask(m.shop(), o.path, "", "")
	if !v.heard {
		return o.path + " unheard", nil
	}
	var required x402.PaymentRequired
	if err := x402.DecodeHeader(v.header.Get(x402.HeaderRequired), &required); err != nil || len(required.Accepts) == 0 {
		if v.status == http.StatusPaymentRequired {
			return o.path, broken("402 without an offer: %v: %s", err, v.body)
		}
		return fmt.Sprintf("%s: %d %s", o.path, v.status, v.code()), nil
	}
	if err := m.sign(o, required); err != nil {
		return o.path, err
	}
	m.orders = append(m.orders, o)
	m.byID[o.id] = o
	return m.show(o, m.shop())
}

// sign makes the payment of an order: a stock client's with a nonce of its own, ours for its terms, or a draw.
func (m *market) sign(o *order, required x402.PaymentRequired) error {
	ctx := context.Background()
	key := m.buyers[o.buyer]
	offer := required.Accepts[m.rng.IntN(len(required.Accepts))]
	var random [16]byte
	for i := range random {
		random[i] = byte(m.rng.IntN(256))
	}
	o.id = purchase.NewID(strings.NewReader(string(random[:])))
	terms, err := termsOf(o, offer, required)
	if err != nil {
		return err
	}
	known := m.owns[key.Address()]
	o.draw = strings.HasPrefix(o.path, "/pack") && len(known) > 0 && m.rng.IntN(2) == 0
	var payload any
	if o.draw {
		o.named = true
		d, err := purchase.SignDraw(ctx, key, m.chain.deployment.ChainID, m.seller.Address(), known[len(known)-1], terms.Hash(), m.time())
		if err != nil {
			return err
		}
		o.payment, payload = d.Digest(m.chain.deployment.ChainID, m.seller.Address()), d
	} else {
		nonce := evm.Keccak256([]byte("nonce"), random[:])
		if o.named {
			nonce = terms.Hash()
		}
		if o.auth, err = exact.Pay(ctx, key, offer, nonce, m.time()); err != nil {
			return err
		}
		raw, err := o.auth.Payload()
		if err != nil {
			return err
		}
		o.payment, payload = o.auth.ID(), raw
	}
	p, err := x402.NewPayment(required, offer, payload)
	if err != nil {
		return err
	}
	p.Extensions = nil
	if o.named {
		p.Extensions = map[string]json.RawMessage{purchase.ExtensionKey: json.RawMessage(fmt.Sprintf(`{"purchase":%q}`, o.id))}
	} else {
		o.id = purchase.IDFromPayment(o.payment)
	}
	o.name, o.value, err = p.Header()
	return err
}

func termsOf(o *order, r x402.Requirements, required x402.PaymentRequired) (purchase.Terms, error) {
	amount, err := money.ParseAmount(r.Amount)
	if err != nil {
		return purchase.Terms{}, err
	}
	var expires int64
	if err := json.Unmarshal(r.Extra["expires"], &expires); err != nil {
		return purchase.Terms{}, err
	}
	return purchase.Terms{
		Purchase: o.id, Quote: r.ExtraString("quote"), Price: r.ExtraString("price"), Scheme: r.Scheme, Network: r.Network,
		Asset: evm.MustAddress(r.Asset), Payee: evm.MustAddress(r.PayTo), Amount: amount, Method: http.MethodGet, Resource: required.Resource.URL,
		Body: purchase.BodyDigest(nil), Completion: r.ExtraString("completion"), Refund: r.ExtraString("refund"), Uncaptured: r.ExtraString("uncaptured"),
		Expires: expires,
	}, nil
}

// show brings an order's payment to a gate for its own request.
func (m *market) show(o *order, s *shop) (string, error) {
	v := m.ask(s, o.path, o.name, o.value)
	said := fmt.Sprintf("%s by %d for %s: %d %s", o.id, o.buyer, o.path, v.status, v.code())
	if !v.heard {
		return said + " (lost)", nil
	}
	switch {
	case v.status == http.StatusOK || v.status == http.StatusAccepted || v.status == http.StatusInternalServerError:
		o.done = true
		var r struct {
			ID string `json:"id"`
		}
		var slip x402.SettleResponse
		if x402.DecodeHeader(v.header.Get(x402.HeaderResponse), &slip) == nil && json.Unmarshal(slip.Extra["bundle"], &r) == nil && r.ID != "" {
			who := m.buyers[o.buyer].Address()
			if !slices.Contains(m.owns[who], r.ID) {
				m.owns[who] = append(m.owns[who], r.ID)
			}
		}
	case v.code() == "bundle_exhausted":
		m.owns[m.buyers[o.buyer].Address()] = nil
		o.done = true
	case v.status == http.StatusPaymentRequired || v.code() == "payment_used":
		o.done = true
	}
	return said, nil
}

// again shows a payment once more: a buyer that heard nothing, or anybody who has seen it.
func (m *market) again() (string, error) {
	o, ok := m.known()
	if !ok {
		return "nothing", nil
	}
	return m.show(o, m.shop())
}

// known picks one of the newer orders.
func (m *market) known() (*order, bool) {
	if len(m.orders) == 0 {
		return nil, false
	}
	return m.orders[max(0, len(m.orders)-1-m.rng.IntN(12))], true
}

// steal shows somebody's payment for another request.
func (m *market) steal() (string, error) {
	o, ok := m.known()
	if !ok {
		return "nothing", nil
	}
	path, _, _ := strings.Cut(o.path, "?")
	path += fmt.Sprintf("?stolen=%d", o.n)
	v := m.ask(m.shop(), path, o.name, o.value)
	if o.named && strings.HasPrefix(v.body, "answer") {
		return path, broken("a payment that was signed for %s has bought %s", o.path, path)
	}
	return fmt.Sprintf("%s with %s: %d %s", path, o.id, v.status, v.code()), nil
}

// meddleNow lets somebody else act in the middle of a visit.
func (m *market) meddleNow() {
	if m.depth == 0 || m.depth > 2 || m.now > m.visit+60 || !m.percent(m.meddle) {
		return
	}
	var err error
	var said string
	switch m.rng.IntN(6) {
	case 0, 1:
		said, err = m.again()
	case 2:
		said, err = m.buy()
	case 3:
		said, err = m.runAhead()
	case 4:
		said, err = m.empty()
	case 5:
		err = m.blockNow()
	}
	m.log("  meanwhile %s", said)
	if err != nil {
		m.fail(err)
	}
}

// empty takes everything from a wallet, or fills it again.
func (m *market) empty() (string, error) {
	who := m.buyers[m.rng.IntN(len(m.buyers))].Address()
	token := m.on.Tokens[m.rng.IntN(len(m.on.Tokens))].Address
	held := m.chain.Wallet(who, token)
	if held.Less(money.Units(1000)) {
		m.chain.Mint(who, token, money.Units(purse/2))
		return "fill " + who.Short(), nil
	}
	m.chain.Transfer(who, token, evm.Address{0xdd}, held)
	return "empty " + who.Short(), nil
}

// runAhead copies a settlement out of the pool, and has it mined before the facilitator's own.
func (m *market) runAhead() (string, error) {
	call, ok := m.chain.overheard(m.rng.IntN)
	if !ok {
		return "nothing to run ahead of", nil
	}
	tx := m.chain.Call(evm.Address{0xad, 1}, call.To, call.Data)
	m.chain.Mine(m.now, func(t Tx) bool { return t.Hash == tx })
	m.chain.Forget(func(t Tx) bool { return t.Hash == tx })
	return "run ahead by " + tx.Short(), nil
}

// overheard returns a settlement that waits in the pool and that anybody could carry out.
func (c *Chain) overheard(pick func(int) int) (call evm.Call, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []evm.Call
	for _, tx := range c.pool {
		if !tx.laned || len(tx.op.Data) < 4 {
			continue
		}
		switch selector := [4]byte(tx.op.Data); selector {
		case selTransferParts, selSettle:
			all = append(all, evm.Call{To: tx.op.Account, Data: tx.op.Data})
		case selAggregate:
			list, n, _ := evm.ABI(tx.op.Data[4:]).List(0)
			for i := range n {
				item, _ := list.Tail(i)
				to, _ := item.Address(0)
				data, _ := item.Bytes(2)
				all = append(all, evm.Call{To: to, Data: data})
			}
		}
	}
	if len(all) == 0 {
		return call, false
	}
	return all[pick(len(all))], true
}

func (m *market) beat() (string, error) {
	err := m.blockNow()
	return fmt.Sprintf("block %d", m.chain.Head().Number), err
}

// tidy is what a gate's own goroutine does every few seconds.
func (m *market) tidy() (string, error) {
	s := m.shop()
	m.depth, m.visit = m.depth+1, m.now
	err := s.pw.Recover(context.Background())
	m.depth--
	open, _ := m.book.OpenRefunds(context.Background())
	for _, r := range open {
		_, _ = s.pw.Refunding(context.Background(), r.Purchase)
	}
	return fmt.Sprint(err), nil
}

// refund gives a purchase back.
func (m *market) refund() (string, error) {
	o, ok := m.known()
	if !ok {
		return "nothing", nil
	}
	r, err := m.shop().pw.Refund(context.Background(), o.id, paywall.Return{Credit: m.rng.IntN(3) == 0, Reason: "late"})
	return fmt.Sprintf("%s by %s: %v", o.id, r.Kind, err == nil), nil
}

// end ends a job.
func (m *market) end() (string, error) {
	for _, o := range m.orders {
		p, ok, err := m.book.FindID(context.Background(), o.id)
		if err != nil {
			return "", err
		}
		if !ok || p.State != purchase.Working {
			continue
		}
		if m.rng.IntN(3) == 0 {
			_, err = m.shop().pw.Cancel(context.Background(), o.id, "no_paper")
		} else {
			_, err = m.shop().pw.Complete(context.Background(), o.id, 0)
		}
		return fmt.Sprintf("%s: %v", o.id, err == nil), nil
	}
	return "nothing", nil
}

func (m *market) kill() (string, error) {
	uses := 1 + m.rng.IntN(12)
	if m.rng.IntN(2) == 0 {
		m.settler.armed = uses
		return fmt.Sprintf("facilitator in %d uses of its book", uses), nil
	}
	m.shop().armed = uses
	return fmt.Sprintf("gate in %d uses of its book", uses), nil
}

// reorganise replaces the newest blocks. Lanes send again what is gone; who ran ahead does not.
func (m *market) reorganise() (string, error) {
	head := m.chain.Head().Number
	n := min(1+m.rng.IntN(m.deepest), int(head-m.floor), m.deepest-int(m.chain.tallest()-head)) // one after another go no deeper
	if n <= 0 {
		return "none", nil
	}
	for _, tx := range m.chain.Drop(n) {
		if tx.laned && m.rng.IntN(2) == 0 || !tx.laned && tx.From != (evm.Address{0xad, 1}) {
			m.chain.Resend(tx)
		}
	}
	for range m.rng.IntN(n + 2) {
		m.chain.Mine(0, func(Tx) bool { return m.rng.IntN(4) > 0 })
	}
	return fmt.Sprintf("%d blocks", n), nil
}

func (m *market) wait() (string, error) {
	m.tick(uint64(10 + m.rng.IntN(120)))
	return m.beat()
}

func (m *market) actions() []struct {
	name   string
	weight int
	do     func() (string, error)
} {
	return []struct {
		name   string
		weight int
		do     func() (string, error)
	}{
		{"beat", 30, m.beat},
		{"buy", 34, m.buy},
		{"errand", 10, m.errand},
		{"again", 12, m.again},
		{"tidy", 6, m.tidy},
		{"refund", 3, m.refund},
		{"end job", 3, m.end},
		{"wait", 2, m.wait},
		{"steal", m.thieves / 2, m.steal},
		{"empty", m.thieves / 2, m.empty},
		{"run ahead", m.thieves, m.runAhead},
		{"kill", m.crash, m.kill},
		{"reorg", m.reorg, m.reorganise},
	}
}

// step does one thing and checks what can be checked at any time.
func (m *market) step() error {
	if m.settler.dead || m.shops[0].dead || m.shops[1].dead {
		if err := m.restart(); err != nil {
			return err
		}
		m.log("restart")
	}
	actions := m.actions()
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := m.rng.IntN(total)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			said, err := a.do()
			m.log("%s: %s", a.name, said)
			if err == nil {
				err = m.broke
			}
			if err == nil {
				err = m.check()
			}
			if err != nil {
				return fmt.Errorf("%s (%s): %w", a.name, said, err)
			}
			return nil
		}
	}
	return nil
}

func (m *market) log(format string, args ...any) {
	line := fmt.Sprintf("%d "+format, append([]any{m.now - genesis}, args...)...)
	m.trace("%s", line)
	sum := evm.Keccak256(m.digest, []byte(line))
	m.digest = sum[:]
}

// run runs a market to its end and returns the error of the first step that broke a rule.
func (m *market) run(steps int) error {
	for i := range steps {
		if err := m.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	if err := m.quiesce(); err != nil {
		return fmt.Errorf("after %d steps: %w", steps, err)
	}
	return nil
}
