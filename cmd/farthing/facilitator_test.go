package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// A facilitator that is killed again and again under load settles every payment once, and says so to whoever asks.
func TestAKilledFacilitatorSettlesOnce(t *testing.T) {
	t.Parallel()
	payments, kills := 60, 4
	if heavy {
		payments, kills = 1500, 40
	}
	dir := t.TempDir()
	w := &town{t: t, dir: dir, run: testRun(t, filepath.Join(dir, "home")), token: mustChain("dev").Dollars()[0]}
	w.chain = w.start(nil, "devchain", "--listen", "127.0.0.1:0")
	w.rpc = w.expect(w.chain, `development chain 31337 at (http://\S+),`)
	w.client = must(chain.Dial(w.run.ctx, w.rpc))(t)
	t.Cleanup(w.client.Close)

	var fund []evm.Call
	for _, name := range []string{"lane1.json", "lane2.json"} {
		key := must(keystore.Create(filepath.Join(dir, name), nil, keystore.Light))(t)
		fund = append(fund, evm.Call{To: key.Address(), Value: ethers(1).Word(), GasLimit: 21_000})
	}
	must(w.run.sendAll(w.client, devFaucet(), 0, fund...))(t)
	check(t, os.WriteFile(filepath.Join(dir, "keys.txt"), []byte("test:0123456789abcdef\n"), 0o600))
	listen := must(freeAddress())(t)
	start := func() *process {
		p := w.start(nil, "facilitator", "--network", "dev", "--rpc-url", w.rpc, "--key", "lane1.json", "--lane", "lane2.json",
			"--book", "facilitator.db", "--api-keys", "keys.txt", "--listen", listen, "--settle-wait", "2s")
		w.expect(p, `^\{"lanes"`)
		return p
	}
	victim := start()

	payee := evm.MustAddress("0x00000000000000000000000000000000000000ee")
	terms := x402.Requirements{
		Scheme: exact.Scheme, Network: mustChain("dev").CAIP2(), Amount: "7", Asset: w.token.Address.String(), PayTo: payee.String(), MaxTimeoutSeconds: 3600,
		Extra: map[string]json.RawMessage{"name": json.RawMessage(`"Test Dollar"`), "version": json.RawMessage(`"2"`)},
	}
	offer := x402.PaymentRequired{X402Version: 2, Resource: x402.Resource{URL: "http://localhost/"}, Accepts: []x402.Requirements{terms}}
	client := &x402.Client{Base: "http://" + listen, Header: map[string][]string{"X-API-Key": {"0123456789abcdef"}}}
	var next, finished atomic.Int64
	var all sync.WaitGroup
	var found sync.Map // authorizations by transaction
	progress := make(chan struct{}, payments)
	for range 12 {
		all.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= payments {
					return
				}
				number := evm.WordUint64(uint64(n))
				a := must(exact.Pay(w.run.ctx, devchain.Accounts()[1+n%8], terms, evm.Keccak256(number[:]), time.Now()))(t)
				payload := must(a.Payload())(t)
				p := must(x402.NewPayment(offer, terms, payload))(t)
				for {
					s, err := client.Settle(w.run.ctx, p, terms)
					if err == nil && s.Success {
						found.Store(a.Nonce, s.Transaction)
						break
					}
					if err == nil && s.ErrorReason != "settlement_pending" {
						t.Errorf("payment %d: %s %s", n, s.ErrorReason, s.ErrorMessage)
						break
					}
					if w.run.ctx.Err() != nil {
						return
					}
					time.Sleep(20 * time.Millisecond) // it is away, or nobody knows yet
				}
				finished.Add(1)
				progress <- struct{}{}
			}
		})
	}
	killed := 0
	for range payments {
		select {
		case <-progress:
		case <-w.run.ctx.Done():
			t.Fatal("the settlements do not come to an end")
		}
		if done := int(finished.Load()); killed < kills && done >= (killed+1)*payments/(kills+1) {
			killed++
			victim.kill()
			victim = start()
		}
	}
	all.Wait()
	if killed != kills {
		t.Fatalf("%d kills, want %d", killed, kills)
	}
	got := must(w.client.TokenBalance(w.run.ctx, w.token.Address, payee))(t)
	if want := money.Units(uint64(7 * payments)); got != want {
		t.Errorf("the payee has %s, want %s", got, want)
	}
	head := must(w.client.Head(w.run.ctx))(t)
	used := evm.Keccak256([]byte("AuthorizationUsed(address,bytes32)"))
	logs := must(w.client.Logs(w.run.ctx, w.token.Address, []evm.Hash{used}, 0, head.Number))(t)
	if len(logs) != payments {
		t.Errorf("%d authorizations were carried out, want %d", len(logs), payments)
	}
	for _, l := range logs {
		if tx, _ := found.Load(l.Topics[2]); tx != l.TxHash.String() {
			t.Errorf("authorization %s was carried out by %s, and its payee was told %v", l.Topics[2].Short(), l.TxHash, tx)
		}
	}
	if err := victim.interrupt(); err != nil {
		t.Error(err)
	}
}

// What cannot work is told before anything is served.
func TestAFacilitatorStartsOnlyOnItsChain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := &town{t: t, dir: dir, run: testRun(t, filepath.Join(dir, "home"))}
	w.chain = w.start(nil, "devchain", "--listen", "127.0.0.1:0", "--chain-id", "1337")
	rpc := w.expect(w.chain, `development chain 1337 at (http://\S+)[,.]`)
	must(keystore.Create(filepath.Join(dir, "lane.json"), nil, keystore.Light))(t)
	for _, tt := range []struct {
		name string
		args []string
		said string
	}{
		{"a chain that nobody knows", []string{"--rpc-url", rpc}, `serves eip155:1337, which farthing does not know`},
		{"another chain than was named", []string{"--network", "base", "--rpc-url", rpc}, `eip155:1337`},
		{"nothing there", []string{"--network", "base", "--rpc-url", "http://127.0.0.1:1"}, `connection refused|unreachable`},
	} {
		p := w.start(nil, append([]string{"facilitator", "--key", "lane.json", "--listen", "127.0.0.1:0"}, tt.args...)...)
		<-p.ended
		if text, _ := p.written.read(); p.err == nil || !regexp.MustCompile(tt.said).MatchString(text) {
			t.Errorf("%s: %v\n%s", tt.name, p.err, text)
		}
	}
}
