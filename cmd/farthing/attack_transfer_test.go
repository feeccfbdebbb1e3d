package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// refused wants a payment to be refused, and the chain and the server behind untouched by it.
func (m *market) refused(t *testing.T, s *slip, status int, code string) answer {
	t.Helper()
	before := m.shop.served(s.path)
	got := must(m.present(m.run.ctx, http.DefaultClient, s))(t)
	if got.status != status || code != "" && got.code != code {
		t.Errorf("%d %s %.300s, want %d %s", got.status, got.code, got.text, status, code)
	}
	if !strings.Contains(strings.ToLower(got.text), "nothing has been charged") && !strings.Contains(got.text, "not charged") && got.status == http.StatusPaymentRequired {
		t.Errorf("does not say that nothing is charged: %.300s", got.text)
	}
	if n := m.shop.served(s.path) - before; n != 0 {
		t.Errorf("served %d times", n)
	}
	if m.moved(s) {
		t.Error("and its money moved")
	}
	return got
}

// sold wants a payment to buy its answer, by a transfer that the chain shows.
func (m *market) sold(t *testing.T, s *slip) {
	t.Helper()
	check(t, m.buy(m.run.ctx, http.DefaultClient, s))
	if s.got.status != http.StatusOK {
		t.Fatalf("%s: %d %s %.300s", s.path, s.got.status, s.got.code, s.got.text)
	}
	if !m.moved(s) {
		t.Errorf("%s was answered, and nothing moved", s.path)
	}
	if n := m.shop.served(s.path); n != 1 {
		t.Errorf("%s was served %d times", s.path, n)
	}
}

// resign signs an authorization again after it was altered, as an attacker with a key of its own does.
func resign(t *testing.T, s *slip, alter func(*exact.Authorization)) *slip {
	t.Helper()
	a := s.signed
	alter(&a)
	sig := must(s.key.Sign(t.Context(), a.Digest()))(t)
	a.Signature = sig[:]
	offer := x402.PaymentRequired{X402Version: 2, Accepts: []x402.Requirements{s.offer}}
	return must(wrap(s.key, s.path, offer, s.offer, a))(t)
}

// recoded alters a header's JSON.
func recoded(t *testing.T, s *slip, alter func(text string) string) *slip {
	t.Helper()
	text := string(must(base64.StdEncoding.DecodeString(s.header))(t))
	altered := alter(text)
	if altered == text {
		t.Fatalf("the payload was not altered:\n%s", text)
	}
	other := *s
	other.header = base64.StdEncoding.EncodeToString([]byte(altered))
	return &other
}

// What is shown instead of a good transfer of one's own is refused, and neither served nor charged, by the real gate with a
// real facilitator on a real chain.
func TestAttackedTransfers(t *testing.T) {
	t.Parallel()
	m := newMarket(t, attackedPrices)
	key := m.fund(1_000_000)

	t.Run("a payment is shown again", func(t *testing.T) {
		s := m.mustSign(key, "/quote/ONCE")
		m.sold(t, s)
		first := s.got
		again := must(m.present(m.run.ctx, http.DefaultClient, s))(t)
		if again.status != http.StatusOK || again.text != first.text || again.header.Get(x402.HeaderResponse) != first.header.Get(x402.HeaderResponse) {
			t.Errorf("for the same request: %d %s, want the stored answer and receipt", again.status, again.text)
		}
		for _, other := range []struct{ method, path string }{
			{"GET", "/quote/OTHER"}, {"GET", "/quote/ONCE?more=1"}, {"GET", "/slow?ms=1"}, {"HEAD", "/quote/ONCE"}, {"POST", "/generate"},
		} {
			got := m.show(other.method, other.path, paying(s.header))
			if got.status/100 == 2 || other.method != "HEAD" && got.code != "payment_used" {
				t.Errorf("for %s %s: %d %s", other.method, other.path, got.status, got.code)
			}
		}
		if n := m.shop.served("/quote/ONCE"); n != 1 {
			t.Errorf("served %d times", n)
		}
	})

	t.Run("sixteen copies at once", func(t *testing.T) {
		s := m.mustSign(key, "/slow?ms=200")
		before := m.dollars(m.seller.Address())
		var mu sync.Mutex
		statuses := map[int]int{}
		atOnce(16, func(i int) {
			path := s.path
			if i%4 == 3 {
				path = fmt.Sprintf("/quote/RUSH%d", i)
			}
			got := m.show("GET", path, paying(s.header))
			mu.Lock()
			defer mu.Unlock()
			statuses[got.status]++
			if path != s.path && got.status/100 == 2 && m.shop.served(s.path) > 0 {
				t.Errorf("%s was served for a payment that bought another request", path)
			}
		})
		grants := m.shop.served(s.path)
		for i := range 16 {
			grants += m.shop.served(fmt.Sprintf("/quote/RUSH%d", i))
		}
		if grants != 1 {
			t.Errorf("%d grants: %v", grants, statuses)
		}
		after := m.dollars(m.seller.Address())
		if got, _ := after.Sub(before); got != money.Units(500) {
			t.Errorf("the seller got %s for it", got)
		}
	})

	t.Run("a payload is altered", func(t *testing.T) {
		s := m.mustSign(key, "/quote/ALTERED")
		a, stranger := s.signed, "0x000000000000000000000000000000000000dEaD"
		replace := func(old, with string) func(string) string {
			return func(text string) string { return replaced(text, old, with) }
		}
		for what, alter := range map[string]func(string) string{
			"payer":       replace(a.From.String(), stranger),
			"payee":       replace(a.To.String(), stranger),
			"token":       replace(a.Asset.String(), stranger),
			"value":       replace(`"value":"500"`, `"value":"501"`),
			"amount":      replace(`"amount":"500"`, `"amount":"1"`),
			"both":        replace(`"500"`, `"1"`),
			"network":     replace("eip155:31337", "eip155:8453"),
			"scheme":      replace(`"scheme":"exact"`, `"scheme":"upto"`),
			"quote":       replace(s.offer.ExtraString("quote"), strings.Repeat("A", 43)),
			"completion":  replace("charged after success", "never charged"),
			"nonce":       replace(a.Nonce.String(), evm.Hash{1}.String()),
			"validBefore": replace(fmt.Sprint(a.ValidBefore), fmt.Sprint(a.ValidBefore+1)),
			"signature":   flipSignature,
			"version":     replace(`"x402Version":2`, `"x402Version":9`),
			"truncated":   func(text string) string { return text[:len(text)/2] },
			"repeated":    func(text string) string { return `{"x402Version":2,` + strings.TrimPrefix(text, "{") },
			"trailing":    func(text string) string { return text + "{}" },
		} {
			t.Run(what, func(t *testing.T) { m.refused(t, recoded(t, s, alter), http.StatusPaymentRequired, "") })
		}
		m.sold(t, s) // none of that has spoiled the payment itself
	})

	t.Run("it is signed for something else", func(t *testing.T) {
		now := uint64(time.Now().Unix())
		for _, c := range []struct {
			what, code string
			alter      func(*exact.Authorization)
		}{
			{"expired", "invalid_exact_evm_payload_authorization_valid_before", func(a *exact.Authorization) { a.ValidBefore = now - 1 }},
			{"about to expire", "", func(a *exact.Authorization) { a.ValidBefore = now + 3 }},
			{"not valid yet", "invalid_exact_evm_payload_authorization_valid_after", func(a *exact.Authorization) { a.ValidAfter = now + 120 }},
			{"less", "", func(a *exact.Authorization) { a.Amount = money.Units(499) }},
			{"more", "", func(a *exact.Authorization) { a.Amount = money.Units(501) }},
			{"to its own payer", "", func(a *exact.Authorization) { a.To = a.From }},
			{"another chain", "", func(a *exact.Authorization) { a.ChainID = 8453 }},
			{"another domain", "", func(a *exact.Authorization) { a.Version = "9" }},
		} {
			t.Run(c.what, func(t *testing.T) {
				s := m.mustSign(key, "/quote/ELSE")
				m.refused(t, resign(t, s, c.alter), http.StatusPaymentRequired, c.code)
			})
		}
		poor := m.fund(499)
		t.Run("with too little money", func(t *testing.T) {
			m.refused(t, m.mustSign(poor, "/quote/POOR"), http.StatusPaymentRequired, "invalid_exact_evm_insufficient_balance")
		})
	})

	t.Run("headers are garbage", func(t *testing.T) { m.garbage(t, m.mustSign(key, "/quote/GARBAGE").header) })
	t.Run("paths are tricks", func(t *testing.T) { m.pathTricks(t) })

	t.Run("the body is swapped", func(t *testing.T) {
		var stolen thief
		p := must(payer.New(payer.Config{
			Key: key, Budget: payer.Budget{PerCall: "$0.10"}, Networks: []string{"dev"}, PayBy: []string{"exact"}, Transport: &stolen,
			Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		}))(t)
		defer p.Close()
		if resp, err := (&http.Client{Transport: p}).Post(m.url("/generate"), "text/plain", strings.NewReader("one two three")); err == nil {
			resp.Body.Close()
			t.Fatalf("answered %d without a payment", resp.StatusCode)
		}
		post := func(body string) answer {
			req := must(http.NewRequest("POST", m.url("/generate"), strings.NewReader(body)))(t)
			req.Header.Set(x402.HeaderSignature, stolen.payment)
			resp := must(http.DefaultClient.Do(req))(t)
			defer resp.Body.Close()
			text := must(io.ReadAll(resp.Body))(t)
			var said struct{ Code string }
			_ = json.Unmarshal(text, &said)
			return answer{resp.StatusCode, said.Code, string(text), resp.Header}
		}
		if got := post("one two three four"); got.status != http.StatusPaymentRequired || got.code != "payment_mismatch" {
			t.Errorf("before it was used: %d %s", got.status, got.code)
		}
		if got := post("one two three"); got.status != http.StatusOK || !strings.Contains(got.text, `"total_tokens":3`) {
			t.Errorf("with its own body: %d %s", got.status, got.text)
		}
		if got := post("one two"); got.status/100 == 2 || got.code != "payment_used" {
			t.Errorf("after it was used: %d %s", got.status, got.code)
		}
	})

	t.Run("the price changes between 402 and payment", func(t *testing.T) {
		s := m.mustSign(key, "/quote/CHANGED")
		m.prices(strings.ReplaceAll(attackedPrices, "$0.0005", "$0.0009"))
		eventually(t, "the new price", func() bool {
			offer, err := m.offer(m.run.ctx, "/quote/NEW")
			return err == nil && offer.Accepts[0].Amount == "900"
		})
		m.sold(t, s) // as it was quoted
		if p, found := m.soldAs(s); !found || p.Charged != money.Units(500) {
			t.Errorf("it was charged %s", p.Charged)
		}
		late := m.mustSign(key, "/quote/LOW")
		m.refused(t, resign(t, late, func(a *exact.Authorization) { a.Amount = money.Units(500) }), http.StatusPaymentRequired, "")
		m.sold(t, late)
		m.prices(attackedPrices)
		eventually(t, "the old price", func() bool {
			offer, err := m.offer(m.run.ctx, "/quote/OLD")
			return err == nil && offer.Accepts[0].Amount == "500"
		})
	})

	t.Run("the payer is emptied between verifying and settling", func(t *testing.T) {
		poor := m.fund(500)
		s := m.mustSign(poor, "/slow?ms=3000&n=emptied")
		answered := make(chan error, 1)
		go func() { answered <- m.buy(m.run.ctx, http.DefaultClient, s) }()
		eventually(t, "the work", func() bool { return m.shop.served(s.path) == 1 })
		must(m.run.sendAll(m.client, poor, 0, chain.Transfer(m.token.Address, key.Address(), money.Units(500))))(t)
		check(t, <-answered)
		if s.got.status != http.StatusPaymentRequired || s.got.code != "invalid_exact_evm_insufficient_balance" || strings.Contains(s.got.text, "at last") {
			t.Errorf("%d %s %.300s", s.got.status, s.got.code, s.got.text)
		}
		if m.moved(s) {
			t.Error("and its money moved")
		}
		if p, found := m.soldAs(s); !found || p.State != purchase.Void {
			t.Errorf("the book has it as %s", p.State)
		}
	})

	t.Run("somebody else settles first", func(t *testing.T) {
		s := m.mustSign(key, "/slow?ms=3000&n=front")
		move := must((&exact.Verifier{}).Move(s.signed, s.signed.Amount))(t)
		answered := make(chan error, 1)
		go func() { answered <- m.buy(m.run.ctx, http.DefaultClient, s) }()
		eventually(t, "the work", func() bool { return m.shop.served(s.path) == 1 })
		sent := must(m.run.sendAll(m.client, devchain.Accounts()[7], 0, evm.Call{To: move.To, Data: move.Data}))(t)
		check(t, <-answered)
		if s.got.status != http.StatusOK {
			t.Errorf("%d %s %.300s", s.got.status, s.got.code, s.got.text)
		}
		if p, found := m.soldAs(s); !found || p.State != purchase.Committed || p.Transaction != sent[0].Receipt.TxHash {
			t.Errorf("the book has it as %s by %s, the chain by %s", p.State, p.Transaction, sent[0].Receipt.TxHash)
		}
	})
}

// meddler stands between the gate and a facilitator, and does what a facilitator should not.
type meddler struct {
	*httptest.Server
	honest string // the facilitator behind it

	mu     sync.Mutex
	how    func(w http.ResponseWriter, path string, pass func() []byte) bool // guarded by mu; false: it passes on
	calls  map[string]int                                                    // guarded by mu; by path
	closed chan struct{}
}

func newMeddler(honest string) *meddler {
	m := &meddler{honest: honest, calls: make(map[string]int), closed: make(chan struct{})}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var status int
		pass := func() []byte {
			req, err := http.NewRequest(r.Method, m.honest+r.URL.Path, bytes.NewReader(body))
			if err != nil {
				return nil
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return nil
			}
			defer resp.Body.Close()
			status = resp.StatusCode
			text, _ := io.ReadAll(resp.Body)
			return text
		}
		m.mu.Lock()
		how := m.how
		m.calls[r.URL.Path]++
		m.mu.Unlock()
		if how != nil && how(w, r.URL.Path, pass) {
			return
		}
		if text := pass(); text != nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write(text)
			return
		}
		http.Error(w, "gone", http.StatusBadGateway)
	}))
	return m
}

func (m *meddler) set(how func(w http.ResponseWriter, path string, pass func() []byte) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.how = how
}

// saying answers settlements with something instead of settling.
func saying(answer string) func(http.ResponseWriter, string, func() []byte) bool {
	return func(w http.ResponseWriter, path string, _ func() []byte) bool {
		if path != "/settle" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
		return true
	}
}

// cutOff ends the connection without an answer.
func cutOff(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		conn.Close()
	}
}

// Whatever a facilitator says, a seller who looks at the chain hands out an answer for a transfer and for nothing else, and
// what was paid is answered in the end.
func TestAFacilitatorThatLies(t *testing.T) {
	t.Parallel()
	m := bareMarket(t, attackedPrices, "")
	m.startDesk()
	between := newMeddler("http://" + m.deskListen)
	t.Cleanup(between.Close)
	m.openGate(between.URL)
	key := m.fund(1_000_000)

	for _, c := range []struct {
		what  string
		how   func(http.ResponseWriter, string, func() []byte) bool
		moved bool // by what it does
	}{
		{"says it is settled, and has sent nothing", saying(`{"success":true,"network":"eip155:31337","transaction":"0x` + strings.Repeat("ab", 32) + `"}`), false},
		{"says it is settled, and names no transaction", saying(`{"success":true,"network":"eip155:31337","transaction":""}`), false},
		{"says that it is pending", saying(`{"success":false,"errorReason":"settlement_pending","network":"eip155:31337","transaction":""}`), false},
		{"says that it is pending, with a transaction that is none", saying(`{"success":false,"errorReason":"settlement_pending","network":"eip155:31337","transaction":"0x` + strings.Repeat("cd", 32) + `"}`), false},
		{"answers something else", saying(`<html>`), false},
		{"dies before it sends", func(w http.ResponseWriter, path string, _ func() []byte) bool {
			if path == "/settle" {
				cutOff(w)
			}
			return path == "/settle"
		}, false},
		{"dies after it has sent", func(w http.ResponseWriter, path string, pass func() []byte) bool {
			if path == "/settle" {
				pass()
				cutOff(w)
			}
			return path == "/settle"
		}, true},
		{"hangs, and dies then", func(w http.ResponseWriter, path string, pass func() []byte) bool {
			if path == "/settle" {
				time.Sleep(2 * time.Second) // it is a hang: nothing comes to wait for
				cutOff(w)
			}
			return path == "/settle"
		}, false},
		{"settles, and says that it was refused", func(w http.ResponseWriter, path string, pass func() []byte) bool {
			if path == "/settle" {
				pass()
				_, _ = io.WriteString(w, `{"success":false,"errorReason":"invalid_exact_evm_transaction_failed","network":"eip155:31337","transaction":""}`)
			}
			return path == "/settle"
		}, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := m.mustSign(key, "/quote/"+fmt.Sprintf("%x", c.what))
			between.set(c.how)
			got := must(m.present(m.run.ctx, http.DefaultClient, s))(t)
			if moved := m.moved(s); moved != c.moved {
				t.Fatalf("moved: %v", moved)
			}
			switch {
			case got.status == http.StatusOK && !c.moved:
				t.Errorf("an answer was handed out for nothing")
			case got.status != http.StatusOK && !unsure[got.code]:
				t.Errorf("%d %s %.300s: nobody can know that yet", got.status, got.code, got.text)
			}
			between.set(nil)
			m.sold(t, s)
			eventually(t, "the book's end", func() bool { p, _ := m.soldAs(s); return p.State == purchase.Committed })
		})
	}

	// A refusal that is none costs nobody anything: nothing moved, and the payment can be used no more.
	t.Run("refuses what is good", func(t *testing.T) {
		s := m.mustSign(key, "/quote/REFUSED")
		between.set(saying(`{"success":false,"errorReason":"insufficient_funds","network":"eip155:31337","transaction":""}`))
		defer between.set(nil)
		got := must(m.present(m.run.ctx, http.DefaultClient, s))(t)
		if got.status != http.StatusPaymentRequired || got.code != "insufficient_funds" || m.moved(s) {
			t.Errorf("%d %s, moved %v", got.status, got.code, m.moved(s))
		}
	})

	// What it takes for good and the chain does not is served by nobody but never handed out.
	t.Run("verifies what is worth nothing", func(t *testing.T) {
		poor := m.fund(1)
		s := m.mustSign(poor, "/quote/WORTHLESS")
		between.set(func(w http.ResponseWriter, path string, _ func() []byte) bool {
			if path == "/verify" {
				_, _ = io.WriteString(w, `{"isValid":true}`)
			}
			return path == "/verify"
		})
		defer between.set(nil)
		check(t, m.buy(m.run.ctx, http.DefaultClient, s))
		if s.got.status != http.StatusPaymentRequired || strings.Contains(s.got.text, "12.5") || m.moved(s) {
			t.Errorf("%d %s %s", s.got.status, s.got.code, s.got.text)
		}
	})

	t.Run("is gone while the price is asked for", func(t *testing.T) {
		s := m.mustSign(key, "/quote/AWAY")
		m.desk.kill()
		got := must(m.present(m.run.ctx, http.DefaultClient, s))(t)
		if got.status < 500 || !unsure[got.code] || m.shop.served(s.path) != 0 {
			t.Errorf("%d %s, served %d", got.status, got.code, m.shop.served(s.path))
		}
		if offer, err := m.offer(m.run.ctx, "/quote/AWAY"); err != nil || offer.Accepts[0].Scheme != exact.Scheme {
			t.Errorf("the price: %v", err)
		}
		m.startDesk()
		m.sold(t, s)
	})
}

// A reorganisation that takes a settlement back does not take it from the seller: it is settled again, in time.
func TestASettlementIsTakenBackByItsChain(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	node := must(devchain.Start(ctx, devchain.Config{Manual: true}))(t)
	t.Cleanup(func() { _ = node.Close() })
	var still sync.Mutex // held while the chain stands
	mining, stop := context.WithCancel(context.Background())
	var miner sync.WaitGroup
	miner.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-mining.Done():
				return
			case <-tick.C:
				still.Lock()
				_ = node.Mine(mining, 1)
				still.Unlock()
			}
		}
	})
	t.Cleanup(func() { stop(); miner.Wait() })
	m := bareMarket(t, attackedPrices, node.URL())
	m.startDesk()
	m.openGate()
	key := m.fund(1_000_000)
	for _, fate := range []devchain.Fate{devchain.Forget, devchain.Requeue} {
		s := m.mustSign(key, fmt.Sprintf("/quote/REORG%d", fate))
		check(t, m.buy(ctx, http.DefaultClient, s))
		if s.got.status != http.StatusOK {
			t.Fatalf("%d %s %s", s.got.status, s.got.code, s.got.text)
		}
		func() {
			still.Lock()
			defer still.Unlock()
			receipt, head := must(m.client.Receipt(ctx, m.txOf(t, s)))(t), must(m.client.Head(ctx))(t)
			if receipt == nil {
				t.Fatal("the receipt names no transaction of the chain")
			}
			check(t, node.Reorg(ctx, int(head.Number-receipt.BlockNumber)+1, fate))
			if m.moved(s) {
				t.Errorf("fate %d: it was not taken back", fate)
			}
		}()
		eventually(t, "the money, again", func() bool { return m.moved(s) })
		if again := must(m.present(ctx, http.DefaultClient, s))(t); again.status != http.StatusOK || again.text != s.got.text {
			t.Errorf("fate %d: afterwards %d %s", fate, again.status, again.text)
		}
	}
	if got := m.dollars(m.seller.Address()); got != money.Units(1000) {
		t.Errorf("the seller has %s", got)
	}
}

// txOf is the transaction that a receipt names.
func (m *market) txOf(t *testing.T, s *slip) evm.Hash {
	t.Helper()
	var r x402.SettleResponse
	check(t, x402.DecodeHeader(s.got.header.Get(x402.HeaderResponse), &r))
	return must(evm.ParseHash(r.Transaction))(t)
}
