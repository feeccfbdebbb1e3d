package interop

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// world is a chain that calls itself base-sepolia, with a stand-in for its USDC at the registered address and the
// canonical contracts at theirs, so that clients with their default settings pay on it.
type world struct {
	kind   string
	rpc    string
	chain  network.Chain
	usdc   network.Token
	client *chain.Client
	dir    string

	faucet sync.Mutex // one sender at a time

	mu        sync.Mutex
	processes []*process // guarded by mu
	reference string     // guarded by mu; URL of the reference facilitator
	t402      string     // guarded by mu; URL of T402's
	ours      string     // guarded by mu; URL of farthing's
	houseURL  string     // guarded by mu; URL of the clearing house
}

// Accounts of the chain, by what they pay for.
const (
	accountFaucet = iota
	accountReference
	accountT402
	accountFarthing
	accountFarthing2
	accountFarthing3
	accountPayee
	accountOperator
)

func account(n int) *evm.PrivateKey { return devchain.Accounts()[n] }

func secret(k *evm.PrivateKey) string { return "0x" + hex.EncodeToString(k.Bytes()) }

// worlds holds one world of each kind, made when a test first wants it.
var worlds = map[string]func() (*world, error){
	"anvil":    sync.OnceValues(func() (*world, error) { return newWorld("anvil") }),
	"embedded": sync.OnceValues(func() (*world, error) { return newWorld("embedded") }),
}

// opened are the worlds to close.
var opened struct {
	sync.Mutex
	list []*world
}

func closeWorlds() {
	opened.Lock()
	defer opened.Unlock()
	for _, w := range opened.list {
		w.close()
	}
}

// everywhere runs a test on each kind of chain.
func everywhere(t *testing.T, test func(t *testing.T, w *world)) {
	real(t)
	for _, kind := range []string{"anvil", "embedded"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, must(worlds[kind]())(t))
		})
	}
}

// onAnvil runs a test where blocks come as fast as they are wanted.
func onAnvil(t *testing.T, test func(t *testing.T, w *world)) {
	real(t)
	test(t, must(worlds["anvil"]())(t))
}

func newWorld(kind string) (*world, error) {
	base, err := network.Lookup("base-sepolia")
	if err != nil {
		return nil, err
	}
	usdc, err := base.Token("USDC")
	if err != nil {
		return nil, err
	}
	w := &world{kind: kind, chain: base, usdc: usdc, dir: filepath.Dir(farthing)}
	opened.Lock()
	opened.list = append(opened.list, w)
	opened.Unlock()
	if err := w.startChain(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if w.client, err = chain.Dial(ctx, w.rpc); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *world) startChain() error {
	if w.kind == "embedded" {
		p, err := w.start(farthing, "devchain", "--network", w.chain.Name, "--listen", "127.0.0.1:0")
		if err != nil {
			return err
		}
		w.rpc, err = p.await(`at (http://[^\s,]+),`)
		return err
	}
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	p, err := w.start(anvil(), "--port", port, "--chain-id", fmt.Sprint(w.chain.ID), "--order", "fifo")
	if err != nil {
		return fmt.Errorf("%w (npm ci in interop/ brings anvil)", err)
	}
	if _, err := p.await(`Listening on `); err != nil {
		return err
	}
	w.rpc = "http://" + listen
	out, err := w.command("devchain", "--network", w.chain.Name, "--onto", w.rpc).CombinedOutput()
	if err != nil {
		return fmt.Errorf("farthing devchain --onto: %w\n%s", err, out)
	}
	return nil
}

// env is what a farthing process sees besides the test's own: a folder of its own, and nothing asked.
func (w *world) env() []string {
	return []string{"FARTHING_HOME=" + filepath.Join(w.dir, "home-"+w.kind), "FARTHING_PASSPHRASE="}
}

func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(farthing, args...)
	cmd.Env = append(cmd.Environ(), w.env()...)
	return cmd
}

// start starts a process that lives as long as the world.
func (w *world) start(name string, args ...string) (*process, error) {
	p, err := startProcess("", w.env(), name, args...)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.processes = append(w.processes, p)
	return p, nil
}

func (w *world) close() {
	if w.client != nil {
		w.client.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.processes {
		p.stop()
	}
}

// referenceFacilitator returns the URL of the reference facilitator on this chain, started when it is first wanted.
func (w *world) referenceFacilitator(t testing.TB) string {
	t.Helper()
	return w.facilitator(t, &w.reference, "facilitator-x402.mjs", options{"rpc": w.rpc, "chain": w.chain.ID, "key": secret(account(accountReference))})
}

func (w *world) t402Facilitator(t testing.TB) string {
	t.Helper()
	return w.facilitator(t, &w.t402, "t402.mjs", options{"role": "facilitator", "rpc": w.rpc, "chain": w.chain.ID, "key": secret(account(accountT402))})
}

func (w *world) facilitator(t testing.TB, url *string, name string, o options) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if *url == "" {
		s := must(startServer(name, o))(t)
		w.processes, *url = append(w.processes, s.process), s.url
	}
	return *url
}

// payer is somebody with a key of their own and USDC, so that what they have says what they paid.
type payer struct {
	*evm.PrivateKey
	w    *world
	had  money.Amount
	from uint64 // block before their first payment
}

// fund makes payers with money, and coin for gas.
func (w *world) fund(t testing.TB, n int) []*payer {
	t.Helper()
	had := money.Units(10_000_000)
	var calls []evm.Call
	payers := make([]*payer, n)
	for i := range payers {
		payers[i] = &payer{PrivateKey: must(evm.GenerateKey())(t), w: w, had: had}
		mint := chain.Mint(w.usdc.Address, payers[i].Address(), had)
		mint.GasLimit = 200_000
		coin := evm.Call{To: payers[i].Address(), Value: money.Units(1_000_000_000_000_000_000).Word(), GasLimit: 21_000}
		calls = append(calls, mint, coin)
	}
	w.send(t, account(accountFaucet), calls...)
	head := must(w.client.Head(t.Context()))(t)
	for _, p := range payers {
		p.from = head.Number
	}
	return payers
}

func (w *world) payer(t testing.TB) *payer { return w.fund(t, 1)[0] }

// send sends calls from an account and waits for them; none may fail.
func (w *world) send(t testing.TB, key *evm.PrivateKey, calls ...evm.Call) {
	t.Helper()
	if key.Address() == account(accountFaucet).Address() {
		w.faucet.Lock()
		defer w.faucet.Unlock()
	}
	outbox := evm.NewMemoryOutbox()
	sender := chain.NewSender(w.client, outbox, key, chain.Policy{InFlightMax: 64})
	for i := range calls {
		calls[i].ID, calls[i].From = fmt.Sprint(i), key.Address()
		check(t, outbox.Enqueue(t.Context(), calls[i]))
	}
	for i := range calls {
		sent := must(sender.Wait(t.Context(), calls[i].ID, chain.Every(50*time.Millisecond)))(t)
		if sent.State != evm.CallDone {
			t.Fatalf("call %d: %+v", i, sent)
		}
	}
}

// paid returns what has left the payer's account.
func (p *payer) paid(t testing.TB) uint64 {
	t.Helper()
	now := must(p.w.client.TokenBalance(t.Context(), p.w.usdc.Address, p.Address()))(t)
	spent, ok := p.had.Sub(now)
	if !ok {
		t.Fatalf("has %s of %s", now, p.had)
	}
	units, ok := spent.Uint64()
	if !ok {
		t.Fatalf("paid %s", spent)
	}
	return units
}

var transferTopic = evm.Keccak256([]byte("Transfer(address,address,uint256)"))

// transfers counts the transfers of USDC that the payer's account made.
func (p *payer) transfers(t testing.TB) int {
	t.Helper()
	from := p.Address()
	var word evm.Hash
	copy(word[12:], from[:])
	head := must(p.w.client.Head(t.Context()))(t)
	return len(must(p.w.client.Logs(t.Context(), p.w.usdc.Address, []evm.Hash{transferTopic, word}, p.from, head.Number))(t))
}

var permit2 = exact.Permit2Address

// approve lets a spender move the payer's USDC. Everybody has to allow Permit2 that once who pays through it.
func (p *payer) approve(t testing.TB, spender evm.Address) {
	t.Helper()
	call := chain.Approve(p.w.usdc.Address, spender, chain.NoLimit())
	call.GasLimit = 100_000
	p.w.send(t, p.PrivateKey, call)
}

// bought fails the test unless the buyer has the goods and a receipt.
func (r result) bought(t testing.TB) {
	t.Helper()
	if r.Status != 200 || r.Receipt == nil || !r.Receipt.Success || r.Attempts != 1 {
		t.Fatalf("status %d, refusal %q, error %q, receipt %+v, %d attempts\nterms %s\nbody %s", r.Status, r.Refusal, r.Error, r.Receipt, r.Attempts, r.Terms, r.Body)
	}
}

// farthingFacilitator returns the URL of farthing's facilitator on this chain, started when it is first wanted.
func (w *world) farthingFacilitator(t testing.TB) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ours == "" {
		keys := make([]string, 2)
		for i, n := range []int{accountFarthing, accountFarthing2} {
			keys[i] = filepath.Join(w.dir, fmt.Sprintf("%s-%d.json", w.kind, n))
			check(t, keystore.Import(keys[i], account(n), nil, keystore.Light))
		}
		p := must(startProcess("", w.env(), farthing, "facilitator", "--network", w.chain.Name, "--rpc-url", w.rpc,
			"--key", keys[0], "--lane", keys[1], "--listen", "127.0.0.1:0", "--per-minute", "0"))(t)
		w.processes = append(w.processes, p)
		w.ours = must(p.await(`(http://127\.0\.0\.1:\d+)`))(t)
	}
	return w.ours
}

// house returns the URL of a clearing house with a facilitator beside it, deployed on this chain when it is first wanted.
func (w *world) house(t testing.TB) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.houseURL == "" {
		dir := t.TempDir() // read at start only
		key, bls, file := filepath.Join(dir, "operator.json"), filepath.Join(dir, "bls.json"), filepath.Join(dir, "deployment.json")
		check(t, keystore.Import(key, account(accountOperator), nil, keystore.Light))
		deploy := w.command("deploy", "--network", w.chain.Name, "--rpc-url", w.rpc, "--key", key, "--bls", bls, "--deployment", file, "--times", "small", "--yes")
		if out, err := deploy.CombinedOutput(); err != nil {
			t.Fatalf("deploy: %v\n%s", err, out)
		}
		p := must(startProcess("", w.env(), farthing, "serve", "--rpc-url", w.rpc, "--deployment", file, "--key", key, "--bls", bls,
			"--book", filepath.Join(w.dir, w.kind+"-house.db"), "--listen", "127.0.0.1:0"))(t)
		w.processes = append(w.processes, p)
		w.houseURL = must(p.await(`(http://127\.0\.0\.1:\d+)`))(t)
	}
	return w.houseURL
}
