package devchain_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/ethclient"

	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/network"
)

func TestChainCarriesTheCanonicalContracts(t *testing.T) {
	t.Parallel()
	_, client := start(t, devchain.Config{Manual: true})
	for _, c := range contracts.Canonical() {
		if code, err := client.CodeAt(t.Context(), c.Address, nil); err != nil || !c.Artifact.Matches(code) {
			t.Errorf("%s is not at %x: %d bytes, %v", c.Artifact.Name, c.Address, len(code), err)
		}
	}
}

// view calls a function without arguments, or with one word, and returns what comes back.
func view(t *testing.T, client *ethclient.Client, to evm.Address, signature string, args ...[]byte) []byte {
	t.Helper()
	selector, at := evm.Keccak256([]byte(signature)), common.Address(to)
	out, err := client.CallContract(t.Context(), ethereum.CallMsg{To: &at, Data: append(selector[:4:4], bytes.Join(args, nil)...)}, nil)
	if err != nil {
		t.Fatalf("%s of %s: %v", signature, to, err)
	}
	return out
}

// text decodes a string that a function returned.
func text(t *testing.T, out []byte) string {
	t.Helper()
	if len(out) < 64 {
		t.Fatalf("%x is no string", out)
	}
	return string(out[64 : 64+new(big.Int).SetBytes(out[32:64]).Uint64()])
}

// standsIn checks that a token answers as the registry has it, with money for each account.
func standsIn(t *testing.T, client *ethclient.Client, chainID uint64, token network.Token) {
	t.Helper()
	if got := new(big.Int).SetBytes(view(t, client, token.Address, "decimals()")); got.Uint64() != uint64(token.Decimals) {
		t.Errorf("%s has %v decimals, want %d", token.Symbol, got, token.Decimals)
	}
	if got := text(t, view(t, client, token.Address, "symbol()")); got != token.Symbol {
		t.Errorf("the symbol of %s is %q", token.Symbol, got)
	}
	if token.EIP3009 || token.EIP2612 {
		if name, version := text(t, view(t, client, token.Address, "name()")), text(t, view(t, client, token.Address, "version()")); name != token.Name || version != token.Version {
			t.Errorf("%s is called %q, version %q; want %q, %q", token.Symbol, name, version, token.Name, token.Version)
		}
		if got, want := view(t, client, token.Address, "DOMAIN_SEPARATOR()"), token.Domain(chainID).Separator(); !bytes.Equal(got, want[:]) {
			t.Errorf("the domain of %s is %x, want %x", token.Symbol, got, want)
		}
	}
	want := new(big.Int).Mul(big.NewInt(devchain.Dollars), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(token.Decimals)), nil))
	for i, key := range devchain.Accounts() {
		owner := key.Address().Word()
		if got := new(big.Int).SetBytes(view(t, client, token.Address, "balanceOf(address)", owner[:])); got.Cmp(want) != 0 {
			t.Errorf("account %d has %v of %s, want %v", i, got, token.Symbol, want)
		}
	}
	if got := new(big.Int).SetBytes(view(t, client, token.Address, "totalSupply()")); got.Cmp(want.Mul(want, big.NewInt(10))) != 0 {
		t.Errorf("the supply of %s is %v, want %v", token.Symbol, got, want)
	}
}

// A chain with the id of a network that is known has money under that network's tokens.
func TestTestMoneyStandsInForRegisteredTokens(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"dev", "base-sepolia", "arbitrum-sepolia", "ethereum", "celo", "flare", "megaeth", "igra"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			on, err := network.Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			_, client := start(t, devchain.Config{Manual: true, ChainID: on.ID})
			for _, token := range on.Tokens {
				standsIn(t, client, on.ID, token)
			}
		})
	}
}

func TestTokensOfOnesOwn(t *testing.T) {
	t.Parallel()
	own := network.Token{
		Symbol: "LONG", Address: evm.MustAddress("0x00000000000000000000000000000000000a11ce"), Decimals: 18, EIP2612: true, Version: "10",
		Name: "A dollar whose name is longer than one word of thirty-two bytes, and longer than two",
	}
	_, client := start(t, devchain.Config{Manual: true, ChainID: 4242, Tokens: []network.Token{own}})
	standsIn(t, client, 4242, own)
	if _, err := devchain.Registered(4242); err == nil {
		t.Error("tokens are known for an id that nobody has")
	}
}

// fakeAnvil is a node that knows as much of anvil's methods as it is told.
type fakeAnvil struct {
	*httptest.Server
	chainID uint64
	plain   bool // knows no method of anvil's
	deaf    bool // takes code and forgets it
	refuses bool // takes no storage

	mu    sync.Mutex
	code  map[evm.Address]string                // guarded by mu
	slots map[evm.Address]map[evm.Hash]evm.Hash // guarded by mu
	calls map[string]int                        // guarded by mu
}

func newFakeAnvil(t *testing.T, f *fakeAnvil) *fakeAnvil {
	t.Helper()
	f.code, f.slots, f.calls = map[evm.Address]string{}, map[evm.Address]map[evm.Hash]evm.Hash{}, map[string]int{}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

type fakeCall struct {
	ID     json.RawMessage   `json:"id"`
	Method string            `json:"method"`
	Params []json.RawMessage `json:"params"`
}

func (f *fakeAnvil) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var batch []fakeCall
	if json.Unmarshal(raw, &batch) == nil {
		answers := []any{}
		for _, c := range batch {
			answers = append(answers, f.answer(c))
		}
		json.NewEncoder(w).Encode(answers)
		return
	}
	var one fakeCall
	json.Unmarshal(raw, &one)
	json.NewEncoder(w).Encode(f.answer(one))
}

func (f *fakeAnvil) answer(c fakeCall) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[c.Method]++
	var address evm.Address
	if len(c.Params) > 0 {
		json.Unmarshal(c.Params[0], &address)
	}
	var result any
	switch {
	case c.Method == "eth_chainId":
		result = fmt.Sprintf("0x%x", f.chainID)
	case c.Method == "eth_getCode":
		result = "0x" + f.code[address]
	case strings.HasPrefix(c.Method, "anvil_") && f.plain, c.Method == "anvil_setStorageAt" && f.refuses:
		return map[string]any{"jsonrpc": "2.0", "id": c.ID, "error": map[string]any{"code": -32601, "message": "method not found"}}
	case c.Method == "anvil_setCode":
		var code string
		json.Unmarshal(c.Params[1], &code)
		if !f.deaf {
			f.code[address] = strings.TrimPrefix(code, "0x")
		}
	case c.Method == "anvil_setStorageAt":
		var slot, word evm.Hash
		json.Unmarshal(c.Params[1], &slot)
		json.Unmarshal(c.Params[2], &word)
		if f.slots[address] == nil {
			f.slots[address] = map[evm.Hash]evm.Hash{}
		}
		f.slots[address][slot] = word
		result = true
	}
	return map[string]any{"jsonrpc": "2.0", "id": c.ID, "result": result}
}

func (f *fakeAnvil) called(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

func outcomes(done []devchain.Placement) map[evm.Address]devchain.Outcome {
	m := map[evm.Address]devchain.Outcome{}
	for _, p := range done {
		m[p.Address] = p.Outcome
	}
	return m
}

func TestOntoTouchesOnlyWhatIsNotThere(t *testing.T) {
	t.Parallel()
	usdc := evm.MustAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e")
	permit2 := evm.Address(contracts.Canonical()[0].Address)
	f := newFakeAnvil(t, &fakeAnvil{chainID: 84532})
	f.code[permit2] = "60016002" // a fork's own
	f.code[usdc] = "60036004"

	// Without tokens the registered ones are let be.
	id, done, err := devchain.Onto(t.Context(), f.URL, nil)
	if err != nil || id != 84532 {
		t.Fatal(id, err)
	}
	got := outcomes(done)
	if got[permit2] != devchain.Kept || f.code[permit2] != "60016002" {
		t.Errorf("another's Permit2 was %s", got[permit2])
	}
	if _, touched := got[usdc]; touched || f.code[usdc] != "60036004" || len(done) != len(contracts.Canonical())+2 {
		t.Errorf("done: %v", done)
	}
	if got[devchain.TestDollar] != devchain.Put || f.code[devchain.TestDollar] != common.Bytes2Hex(contracts.TestDollar.Deployed) ||
		len(f.slots[devchain.TestDollar]) != 13 {
		t.Errorf("the test dollar was %s, with %d slots", got[devchain.TestDollar], len(f.slots[devchain.TestDollar]))
	}

	// A second time changes nothing, so balances that moved stay.
	before := f.called("anvil_setStorageAt")
	if _, done, err = devchain.Onto(t.Context(), f.URL, nil); err != nil {
		t.Fatal(err)
	}
	if got := outcomes(done); got[devchain.TestDollar] != devchain.There || got[permit2] != devchain.Kept || f.called("anvil_setStorageAt") != before {
		t.Errorf("done again: %v", done)
	}

	// A token that is asked for is replaced.
	if _, done, err = devchain.Onto(t.Context(), f.URL, devchain.Registered); err != nil {
		t.Fatal(err)
	}
	if got := outcomes(done); got[usdc] != devchain.Put || f.code[usdc] != common.Bytes2Hex(contracts.TestDollar.Deployed) {
		t.Errorf("done with tokens: %v", done)
	}
}

func TestOntoRefusesWhatIsNoDevelopmentNode(t *testing.T) {
	t.Parallel()
	node, _ := start(t, devchain.Config{Manual: true})
	fault := errors.New("no tokens today")
	for name, c := range map[string]struct {
		url    string
		fake   *fakeAnvil
		tokens func(uint64) ([]network.Token, error)
		want   error  // nil: any
		text   string // in the error
	}{
		"another machine":                {url: "http://192.0.2.1:8545", want: devchain.ErrNotDevelopment, text: "not on loopback"},
		"a name":                         {url: "http://localhost.example.com:8545", want: devchain.ErrNotDevelopment, text: "not on loopback"},
		"no address":                     {url: "http://", want: devchain.ErrNotDevelopment, text: "not on loopback"},
		"garbage":                        {url: "http://127.0.0.1:x"},
		"nobody":                         {url: "http://127.0.0.1:1", text: "refused"},
		"a node without anvil's methods": {fake: &fakeAnvil{chainID: 84532, plain: true}, want: devchain.ErrNotDevelopment, text: "anvil's methods"},
		"the embedded chain":             {url: node.URL(), want: devchain.ErrNotDevelopment, text: "anvil's methods"},
		"the id of a real network":       {fake: &fakeAnvil{chainID: 8453}, want: devchain.ErrNotDevelopment, text: "money on base (eip155:8453) is real"},
		"tokens that are not known":      {fake: &fakeAnvil{chainID: 4242}, tokens: devchain.Registered, text: "4242"},
		"tokens that are refused":        {fake: &fakeAnvil{chainID: 84532}, tokens: func(uint64) ([]network.Token, error) { return nil, fault }, want: fault},
	} {
		t.Run(name, func(t *testing.T) {
			url := c.url
			if c.fake != nil {
				url = newFakeAnvil(t, c.fake).URL
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, done, err := devchain.Onto(ctx, url, c.tokens)
			if err == nil || len(done) != 0 || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("done %v, error %v", done, err)
			}
			if c.fake != nil && c.fake.called("anvil_setCode")+c.fake.called("anvil_setStorageAt") > 0 {
				t.Error("it wrote to it")
			}
		})
	}
	for name, f := range map[string]*fakeAnvil{
		"has other code there":                 {chainID: 1337, deaf: true},
		"anvil_setStorageAt: method not found": {chainID: 1337, refuses: true},
	} {
		f := newFakeAnvil(t, f)
		if _, _, err := devchain.Onto(t.Context(), f.URL, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a node that lies: %v, want %s", err, name)
		}
		if f.refuses && f.code[devchain.TestDollar] != "" {
			t.Error("code without balances says that all is done")
		}
	}
}

// The same on a real anvil, which npm puts under interop/.
func TestOntoAnvil(t *testing.T) {
	t.Parallel()
	goos := runtime.GOOS
	if goos == "windows" {
		goos = "win32" // npm's name
	}
	program := filepath.Join("..", "..", "interop", "node_modules", "@foundry-rs", fmt.Sprintf("anvil-%s-%s", goos, runtime.GOARCH), "bin", "anvil")
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("FARTHING_CI") == "1" {
			t.Fatalf("%v: npm ci in interop/ brings anvil", err)
		}
		t.Skipf("%v: npm ci in interop/ brings anvil", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--port", "0", "--chain-id", "84532")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); cmd.Wait() }()
	url := ""
	for buf, read := make([]byte, 4096), ""; url == ""; {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("anvil ended: %v\n%s", err, read)
		}
		read += string(buf[:n])
		if _, rest, found := strings.Cut(read, "Listening on "); found {
			if address, _, whole := strings.Cut(rest, "\n"); whole {
				url = "http://" + strings.TrimSpace(address)
			}
		}
	}
	id, done, err := devchain.Onto(ctx, url, devchain.Registered)
	if err != nil || id != 84532 {
		t.Fatalf("%v after %v", err, done)
	}
	client := dial(t, url)
	on, _ := network.ByID(84532)
	for _, token := range on.Tokens {
		standsIn(t, client, 84532, token)
	}
	for _, c := range contracts.Canonical() {
		code, err := client.CodeAt(ctx, c.Address, nil)
		if outcome := outcomes(done)[c.Address]; err != nil || outcome == devchain.Put && !c.Artifact.Matches(code) || len(code) == 0 {
			t.Errorf("%s was %s: %d bytes, %v", c.Artifact.Name, outcome, len(code), err)
		}
	}
}
