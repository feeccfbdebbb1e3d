package paywall_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// clock is a clock that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// house certifies with a real key whatever it is asked to, unless the test tells it otherwise.
type house struct {
	authority  *guarantee.Authority
	deployment guarantee.Deployment
	schedules  []client.Schedule
	clock      *clock

	mu        sync.Mutex
	certified map[evm.Hash]guarantee.Claims     // guarded by mu; by digest
	notes     map[evm.Hash]guarantee.SignedNote // guarded by mu
	refunded  map[evm.Hash]guarantee.Claims     // guarded by mu; by request id
	asked     int                               // guarded by mu
	alone     int                               // guarded by mu; of those, for a certificate of its own
	signers   map[evm.Address][]client.Signer   // guarded by mu
	// certify and note replace what the house does, if set. guarded by mu
	certify func(guarantee.Signed) (guarantee.Certificate, error)
	note    func(guarantee.SignedNote) error
	refund  func(guarantee.Signed, []evm.Hash) error
	params  func() (client.Params, error)
}

func (h *house) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

func (h *house) Params(context.Context) (client.Params, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.params != nil {
		return h.params()
	}
	return client.Params{Deployment: h.deployment, Key: h.authority.PublicKey(), Schedules: h.schedules}, nil
}

// cycle is the one that is open now.
func (h *house) cycle(asset evm.Address) evm.Hash {
	now := uint64(h.clock.now().Unix())
	return guarantee.CycleID(asset, now-now%3600)
}

func (h *house) sign(s guarantee.Signed) (guarantee.Certificate, error) {
	return h.authority.Certify(guarantee.EncodeClaims(h.deployment.DomainOf(s.Claims.Version()), h.cycle(s.Claims.Asset), s.Claims))
}

func (h *house) Certify(ctx context.Context, s guarantee.Signed) (guarantee.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	if h.certify != nil {
		return h.certify(s)
	}
	h.certified[s.Claims.Digest(h.deployment.ClaimsSeparator())] = s.Claims
	return h.sign(s)
}

func (h *house) CertifyAlone(ctx context.Context, s guarantee.Signed) (guarantee.Certificate, error) {
	h.mu.Lock()
	h.alone++
	h.mu.Unlock()
	return h.Certify(ctx, s)
}

func (h *house) Notes(_ context.Context, notes []guarantee.SignedNote) ([]error, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]error, len(notes))
	for i, n := range notes {
		if h.note != nil {
			if out[i] = h.note(n); out[i] != nil {
				continue
			}
		}
		c, ok := h.certified[n.Digest]
		signer, err := n.Signer(h.deployment)
		if !ok || err != nil {
			out[i] = x402.Errorf("note_invalid", "of no guarantee")
			continue
		}
		if signer != c.Payee && !slices.ContainsFunc(h.signers[c.Payee], func(s client.Signer) bool { return s.Key == signer && s.Until == 0 }) {
			out[i] = x402.Errorf("note_signer", "not of a guarantee's payee")
			continue
		}
		h.notes[n.Digest] = n
	}
	return out, nil
}

func (h *house) Refund(_ context.Context, s guarantee.Signed, cover []evm.Hash) (guarantee.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refund != nil {
		if err := h.refund(s, cover); err != nil {
			return guarantee.Certificate{}, err
		}
	}
	h.refunded[s.Claims.ReqID] = s.Claims
	return h.sign(s)
}

func (h *house) Signers(_ context.Context, owner evm.Address) ([]client.Signer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.signers[owner], nil
}

// owed is what the clearing house would net: everything certified, less what was let go.
func (h *house) owed() money.Amount {
	h.mu.Lock()
	defer h.mu.Unlock()
	var sum money.Amount
	for digest, c := range h.certified {
		amount := c.Amount
		if n, ok := h.notes[digest]; ok {
			amount = n.Amount
		}
		sum, _ = sum.Add(amount)
	}
	return sum
}

// book is a book in memory. Its fail hook runs before each change.
type book struct {
	*purchase.Memory

	mu   sync.Mutex
	ids  []string                                       // guarded by mu
	fail func(method string, p purchase.Purchase) error // guarded by mu
}

func newBook() *book { return &book{Memory: purchase.NewMemory()} }

func (b *book) check(method string, p purchase.Purchase) error {
	b.mu.Lock()
	fail := b.fail
	b.mu.Unlock()
	if fail != nil {
		return fail(method, p)
	}
	return nil
}

func (b *book) set(fail func(method string, p purchase.Purchase) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = fail
}

func (b *book) Reserve(ctx context.Context, p purchase.Purchase) (purchase.Purchase, error) {
	if err := b.check("reserve", p); err != nil {
		return purchase.Purchase{}, err
	}
	got, err := b.Memory.Reserve(ctx, p)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ids = append(b.ids, p.ID)
	}
	return got, err
}

func (b *book) Run(ctx context.Context, id string, certificate []byte, at time.Time) error {
	if err := b.check("run", purchase.Purchase{ID: id}); err != nil {
		return err
	}
	return b.Memory.Run(ctx, id, certificate, at)
}

func (b *book) Finish(ctx context.Context, p purchase.Purchase) error {
	if err := b.check("finish", p); err != nil {
		return err
	}
	return b.Memory.Finish(ctx, p)
}

func (b *book) FinishRefund(ctx context.Context, r purchase.Refund) error {
	if err := b.check("finish refund", purchase.Purchase{ID: r.Purchase}); err != nil {
		return err
	}
	return b.Memory.FinishRefund(ctx, r)
}

func (b *book) Find(ctx context.Context, payment evm.Hash) (purchase.Purchase, bool, error) {
	if err := b.check("find", purchase.Purchase{}); err != nil {
		return purchase.Purchase{}, false, err
	}
	return b.Memory.Find(ctx, payment)
}

// count returns how many purchases were ever reserved.
func (b *book) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.ids)
}

// only returns the one purchase of the book.
func (b *book) only(t *testing.T) purchase.Purchase {
	t.Helper()
	if n := b.count(); n != 1 {
		t.Fatalf("%d purchases in the book, want 1", n)
	}
	p, ok, err := b.FindID(context.Background(), b.ids[0])
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	return p
}

// world is a seller, a buyer and a clearing house in one process.
type world struct {
	t      testing.TB
	house  *house
	book   *book
	clock  *clock
	payer  *evm.PrivateKey
	seller *evm.PrivateKey
	chain  network.Chain
	pw     *paywall.Paywall
	cfg    paywall.Config
	mux    *http.ServeMux
	server *httptest.Server

	mu     sync.Mutex
	events []paywall.Event // guarded by mu
}

func key(t testing.TB) *evm.PrivateKey {
	t.Helper()
	k, err := evm.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t testing.TB, changes ...func(*paywall.Config)) *world {
	t.Helper()
	chain, err := network.Lookup("base-sepolia")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := guarantee.NewAuthority(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, chain: chain, book: newBook(), clock: &clock{t: time.Unix(1782122400, 0)}, payer: key(t), seller: key(t), mux: http.NewServeMux(),
	}
	vault := evm.MustAddress("0x1111111111111111111111111111111111111111")
	w.house = &house{
		authority: authority, clock: w.clock,
		deployment: guarantee.Deployment{ChainID: chain.ID, Name: "4Mica " + vault.Lower(), Version: "1", Vault: vault, ClearingHouse: evm.Address{9}},
		certified:  make(map[evm.Hash]guarantee.Claims), notes: make(map[evm.Hash]guarantee.SignedNote), refunded: make(map[evm.Hash]guarantee.Claims),
	}
	w.cfg = paywall.Config{
		Network: "base-sepolia", Purchases: w.book, Signer: w.seller, House: w.house, Now: w.clock.now,
		OnSale: func(e paywall.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
	for _, change := range changes {
		change(&w.cfg)
	}
	w.server = httptest.NewServer(w.mux)
	t.Cleanup(w.server.Close)
	w.pw = w.open()
	return w
}

// open makes a paywall on the world's book, as a program does that starts.
func (w *world) open() *paywall.Paywall {
	w.t.Helper()
	pw, err := paywall.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = pw.Close(ctx)
	})
	return pw
}

func (w *world) handle(pattern, price string, h http.HandlerFunc, opts ...paywall.Option) {
	w.t.Helper()
	w.mux.Handle(pattern, w.pw.Price(price, h, opts...))
	if err := w.pw.Check(); err != nil {
		w.t.Fatal(err)
	}
}

// drain waits until every note has been delivered.
func (w *world) drain() {
	w.t.Helper()
	if err := w.pw.Close(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) lastEvent() paywall.Event {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == 0 {
		w.t.Fatal("no event")
	}
	return w.events[len(w.events)-1]
}

// answer is a response that was read.
type answer struct {
	*http.Response
	body string
}

func (a answer) code() string {
	var e struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal([]byte(a.body), &e)
	return e.Code
}

// call is a request to be sent, perhaps several times.
type call struct {
	method, path, body string
	header             http.Header
}

func get(path string) call { return call{method: http.MethodGet, path: path} }

func (c call) with(name, value string) call {
	c.header = maps.Clone(c.header)
	if c.header == nil {
		c.header = make(http.Header)
	}
	c.header[http.CanonicalHeaderKey(name)] = append(slices.Clone(c.header[http.CanonicalHeaderKey(name)]), value)
	return c
}

func (w *world) try(c call) (answer, error) {
	r, err := http.NewRequest(c.method, w.server.URL+c.path, io.NopCloser(bytes.NewReader([]byte(c.body))))
	if err != nil {
		return answer{}, err
	}
	r.ContentLength = int64(len(c.body))
	if c.body == "" {
		r.Body = http.NoBody
	}
	for name, values := range c.header {
		r.Header[name] = values
	}
	resp, err := w.server.Client().Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp, string(b)}, err
}

func (w *world) do(c call) answer {
	w.t.Helper()
	a, err := w.try(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// terms asks for the price of a call.
func (w *world) terms(c call) x402.PaymentRequired {
	w.t.Helper()
	a := w.do(c)
	if a.StatusCode != http.StatusPaymentRequired {
		w.t.Fatalf("%s %s: status %d, want 402: %s", c.method, c.path, a.StatusCode, a.body)
	}
	var p x402.PaymentRequired
	if err := x402.DecodeHeader(a.Header.Get(x402.HeaderRequired), &p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// draft is a payment that can still be altered before it is signed.
type draft struct {
	terms    purchase.Terms
	claims   guarantee.Claims
	accepted x402.Requirements
	id       string
	stock    bool // the payload does not name the purchase
	v1       bool // the payload echoes nothing
	form     guarantee.Form
}

func text(r x402.Requirements, name string) string { return r.ExtraString(name) }

// draft accepts the first offer for a call.
func (w *world) draft(c call) *draft {
	w.t.Helper()
	required := w.terms(c)
	r := required.Accepts[0]
	amount, err := money.ParseAmount(r.Amount)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &draft{accepted: r, id: purchase.NewID(rand.Reader), form: guarantee.EIP712}
	var expires int64
	if err := json.Unmarshal(r.Extra["expires"], &expires); err != nil {
		w.t.Fatal(err)
	}
	d.terms = purchase.Terms{
		Purchase: d.id, Quote: text(r, "quote"), Price: text(r, "price"), Scheme: r.Scheme, Network: r.Network,
		Asset: evm.MustAddress(r.Asset), Payee: evm.MustAddress(r.PayTo), Amount: amount,
		Method: c.method, Resource: required.Resource.URL, Body: purchase.BodyDigest([]byte(c.body)),
		Completion: text(r, "completion"), Refund: text(r, "refund"), Uncaptured: text(r, "uncaptured"), Expires: expires,
	}
	d.claims = guarantee.Claims{
		Payer: w.payer.Address(), Payee: d.terms.Payee, Asset: d.terms.Asset, ReqID: d.terms.Hash(), Amount: amount,
		Timestamp: uint64(w.clock.now().Unix()),
	}
	return d
}

// sign returns the header of a draft.
func (w *world) sign(d *draft) string {
	w.t.Helper()
	s, err := guarantee.Sign(context.Background(), w.payer, w.house.deployment, d.claims)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.wrap(d, s)
}

func (w *world) wrap(d *draft, s guarantee.Signed) string {
	w.t.Helper()
	payload, err := json.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	p := x402.Payment{Version: 2, Scheme: d.accepted.Scheme, Network: d.accepted.Network, Accepted: &d.accepted, Payload: payload}
	if d.v1 {
		p.Version, p.Accepted = 1, nil
		p.NetworkSent = d.accepted.Network
	} else if !d.stock {
		p.Extensions = map[string]json.RawMessage{purchase.ExtensionKey: json.RawMessage(fmt.Sprintf(`{"purchase":%q}`, d.id))}
	}
	header, err := x402.EncodeHeader(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return header
}

// paid returns the call with a payment for it.
func (w *world) paid(c call, alter ...func(*draft)) call {
	w.t.Helper()
	d := w.draft(c)
	for _, f := range alter {
		f(d)
	}
	return c.with(x402.HeaderSignature, w.sign(d))
}

func receiptOf(t *testing.T, a answer) x402.SettleResponse {
	t.Helper()
	r, ok := x402.ReadReceipt(a.Response)
	if !ok {
		t.Fatalf("status %d without a receipt", a.StatusCode)
	}
	return r
}

func decode64(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var errBook = errors.New("disk on fire")

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func pathUnescape(s string) (string, error) { return url.PathUnescape(s) }
