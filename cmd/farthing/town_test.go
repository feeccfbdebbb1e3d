package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/store"
)

// town is a chain, a clearing house and a gate, each a process of its own that can be killed and started again where it
// was. The server behind the gate and the buyers live in the test, which sees what they see. The clearing house may be
// several nodes on one database, behind a balancer.
type town struct {
	t          *testing.T
	run        *run
	dir        string
	chain      *process
	rpc        string
	deployment deployment
	authority  *guarantee.Authority
	client     *chain.Client
	token      network.Token
	shop       *upstream
	seller     *evm.PrivateKey
	book       string // file of the clearing house, or URL of its database
	nodeListen []string
	balancer   *balancer // nil: there is one node
	gateListen string

	nodes []*process
	gate  *process
}

// testRun is what verbs run in, for tests that call what a verb calls.
func testRun(t *testing.T, home string) *run {
	t.Helper()
	longest := 5 * time.Minute
	if heavy {
		longest = 30 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	t.Cleanup(cancel)
	env := map[string]string{"FARTHING_HOME": home}
	p := &program{In: &bytes.Buffer{}, Out: io.Discard, Err: io.Discard, Now: time.Now, Env: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}}
	return &run{program: p, ctx: ctx, cli: &cli{}, log: slog.New(slog.DiscardHandler)}
}

// townTimes leave a process that was killed time to come back before a deadline passes.
var townTimes = times{chain.Schedule{Length: 6, Cutoff: 6, Post: 20, Challenge: 4, Repost: 10, Redeem: 10}, 120, 0}

func newTown(t *testing.T, prices string) *town {
	t.Helper()
	return newTownOf(t, prices, "house.db", 1)
}

// newTownOf is a town whose clearing house has so many nodes on a database.
func newTownOf(t *testing.T, prices, book string, nodes int) *town {
	t.Helper()
	dir := t.TempDir()
	w := &town{t: t, dir: dir, book: book, nodes: make([]*process, nodes), run: testRun(t, filepath.Join(dir, "home")), token: mustChain("dev").Dollars()[0]}
	w.chain = w.start(nil, "devchain", "--listen", "127.0.0.1:0")
	w.rpc = w.expect(w.chain, `development chain 31337 at (http://\S+),`)
	w.client = must(chain.Dial(w.run.ctx, w.rpc))(t)
	t.Cleanup(w.client.Close)
	w.authority = must(devAuthority(filepath.Join(dir, "bls.json")))(t)
	w.deployment = must(w.run.deploy(deployPlan{
		RPC: w.rpc, File: filepath.Join(dir, "deployment.json"), Deployer: devOperator(), Operator: devOperator().Address(),
		Authority: w.authority, Chain: mustChain("dev"), Times: townTimes,
	}))(t)
	w.gateListen = must(freeAddress())(t)
	for range nodes {
		w.nodeListen = append(w.nodeListen, must(freeAddress())(t))
	}
	if nodes > 1 {
		w.balancer = newBalancer(t, w.nodeListen)
	}
	for i := range nodes {
		w.startNode(i)
	}
	w.shop = must(openUpstream("127.0.0.1:0"))(t)
	t.Cleanup(w.shop.close)
	keyFile := filepath.Join(dir, "seller.json")
	w.seller = must(keystore.Create(keyFile, nil, keystore.Light))(t)
	check(t, os.WriteFile(filepath.Join(dir, "gate.yaml"), []byte(prices), 0o600))
	w.startGate()
	return w
}

func (w *town) start(env []string, args ...string) *process {
	w.t.Helper()
	p := must(startProcess(processConfig{
		Command: "farthing", Args: args, Dir: w.dir,
		Env: append([]string{"FARTHING_HOME=" + filepath.Join(w.dir, "home"), "FARTHING_PASSPHRASE=", "PATH=" + os.Getenv("PATH"), "HOME=/no-home"}, env...),
	}))(w.t)
	w.t.Cleanup(p.kill)
	return p
}

// expect waits for a line and returns its first group, or all of it.
func (w *town) expect(p *process, pattern string) string {
	w.t.Helper()
	match, err := p.await(regexp.MustCompile("(?m)" + pattern))
	if err != nil {
		w.t.Fatal(err)
	}
	return match[len(match)-1]
}

func (w *town) startNode(i int) {
	w.t.Helper()
	p := w.start(nil, "serve", "--rpc-url", w.rpc, "--deployment", "deployment.json", "--bls", "bls.json", "--book", w.book, "--listen", w.nodeListen[i], "--public-url", w.houseURL())
	w.expect(p, `^\{"chainId":31337`)
	w.nodes[i] = p
}

func (w *town) startGate() {
	w.t.Helper()
	p := w.start(nil, "gate", "--network", "dev", "--clearing-house", w.houseURL(), "--config", "gate.yaml", "--upstream", w.shop.url,
		"--key", "seller.json", "--book", "gate.db", "--listen", w.gateListen)
	w.expect(p, `^accepts  `)
	w.gate = p
}

func (w *town) houseURL() string {
	if w.balancer != nil {
		return "http://" + w.balancer.address
	}
	return "http://" + w.nodeListen[0]
}

func (w *town) url(path string) string {
	return "http://" + w.gateListen + path
}

// customer is a buyer in the test's own process.
type customer struct {
	key   *evm.PrivateKey
	payer *payer.Payer
	http  *http.Client
}

// customers makes buyers with collateral, five dollars each, which the clearing house counts when this returns.
func (w *town) customers(n int, transport http.RoundTripper) []*customer {
	w.t.Helper()
	var fund []evm.Call
	list := make([]*customer, n)
	for i := range list {
		key := must(evm.GenerateKey())(w.t)
		p := must(payer.New(payer.Config{
			Key: key, Budget: payer.Budget{PerCall: "$0.10"}, Journal: filepath.Join(w.dir, fmt.Sprintf("buyer-%d.journal", i)),
			ClearingHouse: w.houseURL(), Transport: transport,
		}))(w.t)
		w.t.Cleanup(func() { _ = p.Close() })
		list[i] = &customer{key: key, payer: p, http: &http.Client{Transport: p, Timeout: patience}}
		mint := chain.Mint(w.token.Address, key.Address(), demoDeposit)
		mint.GasLimit = 100_000
		fund = append(fund, evm.Call{To: key.Address(), Value: ethers(1).Word(), GasLimit: 21_000}, mint)
	}
	must(w.run.sendAll(w.client, devFaucet(), 0, fund...))(w.t)
	var wg sync.WaitGroup
	for _, c := range list {
		wg.Go(func() {
			calls := depositOf(w.deployment, w.token.Address, demoDeposit)
			if _, err := w.run.sendAll(w.client, c.key, 0, calls...); err != nil {
				w.t.Error(err)
			}
		})
	}
	wg.Wait()
	house := w.api()
	for _, c := range list {
		if !poll(func() bool {
			b, err := house.Balance(w.run.ctx, c.key.Address(), w.token.Address)
			return err == nil && b.Headroom == demoDeposit
		}) {
			w.t.Fatal("the clearing house does not count the collateral")
		}
	}
	return list
}

// depositOf are the calls that put an amount into the vault and let cycles settle from it.
func depositOf(d deployment, token evm.Address, amount money.Amount) []evm.Call {
	calls := []evm.Call{chain.Approve(token, d.Vault, amount), d.Contracts.DepositStablecoin(token, amount), d.Contracts.SetAutoSettle(true)}
	for i := range calls {
		calls[i].GasLimit = 300_000 // stated, so that all of them can go into one block
	}
	return calls
}

func (w *town) api() *client.Client {
	return must(client.New(w.houseURL(), client.WithSigner(devOperator())))(w.t)
}

// open opens the clearing house's book in this process; those that serve it must have ended.
func (w *town) open() *house {
	w.t.Helper()
	book := w.book
	if !store.Served(book) {
		book = filepath.Join(w.dir, book)
	}
	h := must(openHouse(w.run.ctx, houseConfig{
		RPC: w.rpc, Deployment: w.deployment, Operator: devchain.Accounts()[0], Authority: w.authority, Book: book,
		Depth: 1, Listen: "127.0.0.1:0", Dev: true, Now: time.Now, Log: w.run.log,
	}))(w.t)
	w.t.Cleanup(h.close)
	return h
}

// must returns a function that fails the test unless there is no error, and else returns the value: must(f())(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
