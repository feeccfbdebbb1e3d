package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// market is a town in which money moves by transfer: a chain, a facilitator and a gate, each a process of its own.
type market struct {
	*town
	desk       *process
	deskListen string
}

// newMarket starts them.
func newMarket(t *testing.T, prices string) *market {
	t.Helper()
	m := bareMarket(t, prices, "")
	m.startDesk()
	m.openGate()
	return m
}

// bareMarket is a market without facilitator and gate, on the chain at a URL, or one of its own.
func bareMarket(t *testing.T, prices, rpc string) *market {
	t.Helper()
	dir := t.TempDir()
	w := &town{t: t, dir: dir, run: testRun(t, filepath.Join(dir, "home")), token: mustChain("dev").Dollars()[0], rpc: rpc}
	if rpc == "" {
		w.chain = w.start(nil, "devchain", "--listen", "127.0.0.1:0")
		w.rpc = w.expect(w.chain, `development chain 31337 at (http://\S+),`)
	}
	w.client = must(chain.Dial(w.run.ctx, w.rpc))(t)
	t.Cleanup(w.client.Close)
	w.shop = must(openUpstream("127.0.0.1:0"))(t)
	t.Cleanup(w.shop.close)
	m := &market{town: w, deskListen: must(freeAddress())(t)}
	w.gateListen = must(freeAddress())(t)
	var fund []evm.Call
	for _, name := range []string{"lane1.json", "lane2.json", "seller.json"} {
		key := must(keystore.Create(filepath.Join(dir, name), nil, keystore.Light))(t)
		fund = append(fund, evm.Call{To: key.Address(), Value: ethers(1).Word(), GasLimit: 21_000})
		w.seller = key
	}
	must(w.run.sendAll(w.client, devFaucet(), 0, fund...))(t)
	m.prices(prices)
	return m
}

// prices puts another price list in the place of the gate's.
func (m *market) prices(text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, "gate.yaml")
	check(m.t, os.WriteFile(path+".new", []byte(text), 0o600))
	check(m.t, os.Rename(path+".new", path))
}

func (m *market) startDesk() {
	m.t.Helper()
	p := m.start(nil, "facilitator", "--network", "dev", "--rpc-url", m.rpc, "--key", "lane1.json", "--lane", "lane2.json",
		"--book", "facilitator.db", "--listen", m.deskListen, "--settle-wait", "3s", "--per-minute", "0", "--gas-per-payer", "0")
	m.expect(p, `^\{"lanes"`)
	m.desk = p
}

// openGate starts the gate with a facilitator of the market's own, or the one at a URL.
func (m *market) openGate(facilitator ...string) {
	m.t.Helper()
	url := "http://" + m.deskListen
	if len(facilitator) > 0 {
		url = facilitator[0]
	}
	p := m.start(nil, "gate", "--network", "dev", "--facilitator", url, "--config", "gate.yaml", "--upstream", m.shop.url, "--rpc-url", m.rpc,
		"--accept", "exact", "--accept", "upto", "--key", "seller.json", "--book", "gate.db", "--listen", m.gateListen)
	m.expect(p, `^accepts  `)
	m.gate = p
}

// fund makes a key that has so many smallest units of test dollars, gas, and has allowed Permit2 to move its dollars.
func (m *market) fund(units uint64) *evm.PrivateKey {
	m.t.Helper()
	key := must(evm.GenerateKey())(m.t)
	mint := chain.Mint(m.token.Address, key.Address(), money.Units(units))
	mint.GasLimit = 100_000
	must(m.run.sendAll(m.client, devFaucet(), 0, evm.Call{To: key.Address(), Value: ethers(1).Word(), GasLimit: 21_000}, mint))(m.t)
	must(m.run.sendAll(m.client, key, 0, chain.Approve(m.token.Address, exact.Permit2Address, money.MaxAmount())))(m.t)
	return key
}

// slip is a payment that was signed, and what became of it as its buyer saw it.
type slip struct {
	key    *evm.PrivateKey
	path   string
	offer  x402.Requirements
	signed exact.Authorization
	header string
	got    answer
}

// id is the purchase of a client that names none.
func (s *slip) id() string { return purchase.IDFromPayment(s.signed.ID()) }

// offer asks for a price.
func (m *market) offer(ctx context.Context, path string) (x402.PaymentRequired, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url(path), nil)
	if err != nil {
		return x402.PaymentRequired{}, err
	}
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		return x402.PaymentRequired{}, err
	}
	defer resp.Body.Close()
	offer, _, err := x402.ParsePaymentRequired(resp)
	if err == nil && len(offer.Accepts) == 0 {
		err = errors.New("nothing is offered")
	}
	return offer, err
}

// sign answers the offer for a path as a stock client does: with a fresh nonce, and nothing of farthing's own.
func (m *market) sign(ctx context.Context, key *evm.PrivateKey, path string, alter ...func(*x402.Requirements)) (*slip, error) {
	offer, err := m.offer(ctx, path)
	if err != nil {
		return nil, err
	}
	return m.answer(ctx, key, path, offer, alter...)
}

func (m *market) answer(ctx context.Context, key *evm.PrivateKey, path string, offer x402.PaymentRequired, alter ...func(*x402.Requirements)) (*slip, error) {
	r := offer.Accepts[0]
	asked := r
	asked.Extra = maps.Clone(r.Extra)
	for _, f := range alter {
		f(&asked)
	}
	a, err := exact.Pay(ctx, key, asked, freshNonce(), time.Now())
	if err != nil {
		return nil, err
	}
	return wrap(key, path, offer, r, a)
}

// wrap puts an authorization into the header of a payment that accepts r.
func wrap(key *evm.PrivateKey, path string, offer x402.PaymentRequired, r x402.Requirements, a exact.Authorization) (*slip, error) {
	payload, err := a.Payload()
	if err != nil {
		return nil, err
	}
	p, err := x402.NewPayment(offer, r, payload)
	if err != nil {
		return nil, err
	}
	header, err := x402.EncodeHeader(p)
	return &slip{key: key, path: path, offer: r, signed: a, header: header}, err
}

func freshNonce() (nonce evm.Hash) {
	key, err := evm.GenerateKey() // as random as anything here
	if err != nil {
		panic(err)
	}
	address := key.Address()
	return evm.Keccak256(address[:])
}

// mustSign is sign for payments that have to be signed.
func (m *market) mustSign(key *evm.PrivateKey, path string, alter ...func(*x402.Requirements)) *slip {
	m.t.Helper()
	return must(m.sign(m.run.ctx, key, path, alter...))(m.t)
}

// present shows a payment once. An error says that no whole answer came.
func (m *market) present(ctx context.Context, client *http.Client, s *slip) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url(s.path), nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set(x402.HeaderSignature, s.header)
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var said struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(text, &said)
	return answer{resp.StatusCode, said.Code, string(text), resp.Header}, err
}

// unsure are the codes after which nobody knows yet: the same payment has to be shown again.
var unsure = map[string]bool{
	"settlement_pending": true, "payment_in_progress": true, "facilitator_unreachable": true, "facilitator_fault": true, "book_unavailable": true,
}

// buy presents a payment until it is known what became of it.
func (m *market) buy(ctx context.Context, client *http.Client, s *slip) error {
	for {
		got, err := m.present(ctx, client, s)
		if err == nil && !unsure[got.code] && (got.status < 500 || got.code != "") {
			s.got = got
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("payment for %s: last %d %s, %w", s.path, got.status, got.code, err)
		case <-time.After(50 * time.Millisecond): // the gate or the facilitator is away
		}
	}
}

// shoppers are buyers with farthing's payer.
func (m *market) shoppers(n int) []*customer {
	m.t.Helper()
	list := make([]*customer, n)
	for i := range list {
		key := m.fund(5_000_000)
		p := must(payer.New(payer.Config{
			Key: key, Budget: payer.Budget{PerCall: "$0.10"}, Journal: filepath.Join(m.dir, fmt.Sprintf("shopper-%d.journal", i)),
			Networks: []string{"dev"}, PayBy: []string{"exact"},
		}))(m.t)
		m.t.Cleanup(func() { _ = p.Close() })
		list[i] = &customer{key: key, payer: p, http: &http.Client{Transport: p, Timeout: patience}}
	}
	return list
}

// moves are the transfers that the chain carried out by authorization, by payer and nonce, of EIP-3009.
func (m *market) moves() map[[2]evm.Hash]evm.Hash {
	m.t.Helper()
	head := must(m.client.Head(m.run.ctx))(m.t)
	logs := must(m.client.Logs(m.run.ctx, m.token.Address, []evm.Hash{authorizationUsed}, 0, head.Number))(m.t)
	all := make(map[[2]evm.Hash]evm.Hash, len(logs))
	for _, l := range logs {
		key := [2]evm.Hash{l.Topics[1], l.Topics[2]}
		if _, twice := all[key]; twice {
			m.t.Errorf("authorization %s was carried out twice", l.Topics[2].Short())
		}
		all[key] = l.TxHash
	}
	return all
}

// moved reports whether the chain carried a payment out.
func (m *market) moved(s *slip) bool {
	m.t.Helper()
	return must(exact.Used(m.run.ctx, m.client, s.signed))(m.t)
}

func (m *market) dollars(of evm.Address) money.Amount {
	m.t.Helper()
	return must(m.client.TokenBalance(m.run.ctx, m.token.Address, of))(m.t)
}

// inBook runs f on the gate's book, beside the gate.
func (m *market) inBook(f func(purchase.Book)) {
	m.t.Helper()
	db := must(store.Open(m.run.ctx, filepath.Join(m.dir, "gate.db")))(m.t)
	defer db.Close()
	f(db.Purchases())
}

// soldAs is how the gate's book has a payment.
func (m *market) soldAs(s *slip) (p purchase.Purchase, found bool) {
	m.t.Helper()
	m.inBook(func(b purchase.Book) {
		var err error
		p, found, err = b.Find(m.run.ctx, s.signed.ID())
		check(m.t, err)
	})
	return p, found
}

// eventually waits for something that has to come.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	if !poll(f) {
		t.Fatalf("it does not come: %s", what)
	}
}

// atOnce runs f n times at the same time.
func atOnce(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}
