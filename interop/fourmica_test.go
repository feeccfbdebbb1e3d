package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/money"
)

// A development clearing house as its users have it: farthing serve --dev, and processes that find it.
type town struct {
	*testing.T
	world *world
	core  string

	registry evm.Address // that it trusts
}

// accountBank pays for the town's users. The operator's and the faucet's nonces are farthing's own.
const accountBank = 8

func newTown(t *testing.T, flags ...string) *town {
	w := &world{kind: "town", dir: t.TempDir()}
	t.Cleanup(w.close)
	p := must(w.start(farthing, append([]string{"serve", "--dev", "--listen", "127.0.0.1:0"}, flags...)...))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serve wrote:\n%s", p.last())
		}
	})
	town := &town{T: t, world: w, core: must(p.await(`clearing house at (http://[^\s,]+),`))(t)}
	params := must(must(client.New(town.core))(t).Params(t.Context()))(t)
	w.rpc, town.registry = params.RPCURL, params.Registries[0]
	w.client = must(chain.Dial(t.Context(), w.rpc))(t)
	return town
}

// keys makes users with coin for gas and $100 of test money.
func (o *town) keys(t *testing.T, n int) (keys []string) {
	t.Helper()
	var calls []evm.Call
	for range n {
		key := must(evm.GenerateKey())(t)
		mint := chain.Mint(devchain.TestDollar, key.Address(), money.Units(100_000_000))
		mint.GasLimit = 200_000
		calls = append(calls, mint, evm.Call{To: key.Address(), Value: money.Units(1_000_000_000_000_000_000).Word(), GasLimit: 21_000})
		keys = append(keys, secret(key))
	}
	o.world.faucet.Lock()
	defer o.world.faucet.Unlock()
	o.world.send(t, account(accountBank), calls...)
	return keys
}

// run runs a scenario to its end and returns what it did, in that order.
func (o *town) run(t *testing.T, scenario string, more options) (did []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "fourmica-run.mjs", options{"scenario": scenario, "core": o.core}.with(more).json())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	t.Logf("%s", bytes.TrimSpace(out))
	if err != nil {
		t.Fatalf("%s: %v\n%s", scenario, err, stderr.String())
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var fact struct{ Did string }
		check(t, json.Unmarshal(lines.Bytes(), &fact))
		did = append(did, fact.Did)
	}
	return did
}

func (o *town) does(t *testing.T, scenario string, more options, want ...string) {
	t.Helper()
	if did := o.run(t, scenario, more); strings.Join(did, ", ") != strings.Join(want, ", ") {
		t.Errorf("%s did %q, want %q", scenario, did, want)
	}
}

// What a client of 4Mica does from its login to the end of a cycle, unchanged, against farthing.
func TestClientOf4Mica(t *testing.T) {
	real(t)
	town := newTown(t)
	t.Run("published bytes", func(t *testing.T) {
		t.Parallel()
		town.does(t, "vectors", nil, "vectors")
	})
	t.Run("core", func(t *testing.T) {
		t.Parallel()
		town.does(t, "core", options{"keys": town.keys(t, 2)},
			"params", "login", "refresh", "deposit", "guarantee v1", "refusals", "eip191", "reads", "logout")
	})
	t.Run("guarantees that depend on a validator", func(t *testing.T) {
		t.Parallel()
		town.does(t, "guarantee2", options{"keys": town.keys(t, 3)}, "guarantee v2", "refusals v2", "waits", "validated", "netted")
	})
	t.Run("cycle", func(t *testing.T) {
		t.Parallel()
		town.does(t, "cycle", options{"keys": town.keys(t, 3)},
			"withdrawal requested", "guarantees", "proofs", "payNetDebit", "markDefaulted", "finalizeCycle", "claimNetCredit", "locks released", "withdrawn")
	})
	t.Run("cycle in the chain's coin", func(t *testing.T) {
		t.Parallel()
		town.does(t, "cycle", options{"keys": town.keys(t, 3), "coin": true},
			"withdrawal requested", "guarantees", "proofs", "payNetDebit", "markDefaulted", "finalizeCycle", "claimNetCredit", "locks released", "withdrawn")
	})
	t.Run("buys at a gate", func(t *testing.T) {
		t.Parallel()
		upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"path":%q}`, r.URL.Path) }))
		t.Cleanup(upstream.Close)
		file := filepath.Join(t.TempDir(), "gate.yaml")
		check(t, os.WriteFile(file, fmt.Appendf(nil, "upstream: %s\nbody: 4mica\nroutes:\n  GET /quote/{symbol}: $0.0005\n  GET /dear: $0.01\n"+
			"  GET /judged: {price: $0.02, validation: {registry: %s, validator: %s, agent: 42, score: 80}}\n",
			upstream.URL, town.registry, account(accountPayee).Address()), 0o600))
		gate := must(town.world.start(farthing, "gate", "--dev", "--config", file, "--listen", "127.0.0.1:0"))(t)
		town.does(t, "gate", options{"keys": town.keys(t, 2), "gate": must(gate.await(`selling  (http://\S+) `))(t)},
			"bought", "attacks", "bought", "attacks", "bought on condition", "ids")
	})
	t.Run("settles through the core", func(t *testing.T) {
		t.Parallel()
		town.does(t, "facilitator", options{"keys": town.keys(t, 2), "facilitator": town.core, "sees": true}, "supported", "settled", "settled", "settled", "settled")
	})
	t.Run("settles through a front", func(t *testing.T) {
		t.Parallel()
		front := must(town.world.start(farthing, "facilitator", "--clearing-house", town.core, "--listen", "127.0.0.1:0"))(t)
		town.does(t, "facilitator", options{"keys": town.keys(t, 2), "facilitator": must(front.await(`facilitator at (http://[^\s:]+:\d+):`))(t)},
			"supported", "settled", "settled", "settled", "settled")
	})
	t.Run("settles through a front that signs in", func(t *testing.T) {
		t.Parallel()
		key, file := must(evm.GenerateKey())(t), filepath.Join(t.TempDir(), "front.json")
		check(t, keystore.Import(file, key, nil, keystore.Light))
		if out, err := town.world.command("member", "add", "front", key.Address().String(), "--role", "facilitator", "--dev").CombinedOutput(); err != nil {
			t.Fatalf("farthing member add: %v\n%s", err, out)
		}
		front := must(town.world.start(farthing, "facilitator", "--clearing-house", town.core, "--key", file, "--listen", "127.0.0.1:0"))(t)
		town.does(t, "facilitator", options{"keys": town.keys(t, 2), "facilitator": must(front.await(`facilitator at (http://[^\s:]+:\d+):`))(t), "sees": true},
			"supported", "settled", "settled", "settled", "settled")
	})
	for _, scheme := range []string{"4mica-credit", "4mica"} {
		t.Run("sells by its own paywall as "+scheme, func(t *testing.T) {
			t.Parallel()
			shop := serve(t, "fourmica-run.mjs", options{"scenario": "shop", "core": town.core, "keys": town.keys(t, 1), "scheme": scheme})
			town.does(t, "buyer", options{"keys": town.keys(t, 1), "shop": shop.url + "/stock"}, "bought")
			get := town.world.command("get", "--dev", "--max", "$0.01", shop.url+"/ours")
			if out, err := get.CombinedOutput(); err != nil || !strings.Contains(string(out), `{"symbol":"ACME"}`) || !strings.Contains(string(out), "paid $0.0025") {
				t.Errorf("farthing get: %v\n%s", err, out)
			}
			for _, path := range []string{"/stock", "/ours"} {
				if n := shop.served(path); n != 1 {
					t.Errorf("%s was sold %d times", path, n)
				}
			}
		})
	}
}

// Both forms of text signature are taken where the operator says so, and nowhere else.
func TestTextSignaturesOf4Mica(t *testing.T) {
	real(t)
	town := newTown(t, "--eip191")
	town.does(t, "core", options{"keys": town.keys(t, 2), "eip191": true},
		"params", "login", "refresh", "deposit", "guarantee v1", "refusals", "eip191", "reads", "logout")
}
