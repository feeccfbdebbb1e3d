package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/store"
)

type facilitatorCmd struct {
	RPCURL []string `name:"rpc-url" help:"JSON-RPC of the chain; with several networks (--network base,arbitrum) one for each, in that order." placeholder:"URL"`
	Listen string   `default:"127.0.0.1:4030" help:"Address to serve on." placeholder:"HOST:PORT"`
	Book   string   `help:"SQLite file of settlements; default facilitator.db in farthing's folder. One process at a time." placeholder:"FILE"`

	ClearingHouse []string `name:"clearing-house" help:"Settle guarantees of this clearing house too, or alone; repeat for more." placeholder:"URL"`
	deskFlags
}

// deskFlags say how settlements are sent and what may be spent on them. The clearing house has them too.
type deskFlags struct {
	Lane        []string      `help:"Key file of one more account that sends settlements and pays their gas. Two lanes send twice at once. Each belongs to this process alone." placeholder:"FILE"`
	Token       []string      `help:"Settle only this token, by symbol or address; repeat for more. Default: every one that is known on the network." placeholder:"TOKEN"`
	APIKeys     string        `name:"api-keys" help:"File of those who may verify and settle, NAME:SECRET on each line; without it everyone may." placeholder:"FILE"`
	PerMinute   int           `default:"6000" help:"Calls to /verify and /settle taken from one key or address in a minute; 0 is no limit." placeholder:"N"`
	SettleDepth int           `default:"0" help:"Blocks on top of a settlement's block before it counts. What a reorganisation takes back is settled again." placeholder:"N"`
	SettleWait  time.Duration `default:"20s" help:"How long /settle waits for the chain before it says settlement_pending."`
	Batch       int           `default:"100" help:"Settlements that share a transaction at most; 1 sends each alone." placeholder:"N"`
	GasPerPayer uint64        `default:"50000000" help:"Gas a day for one payer's settlements, failed ones included; 0 is no limit." placeholder:"GAS"`
	SpendMax    string        `help:"Native coin a day that the lanes of one network may spend, such as 0.05; default no limit." placeholder:"AMOUNT"`
	SponsorMax  string        `help:"Native coin given at most to a payer for the gas of its own approval of Permit2, which is then broadcast for it, such as 0.0005; default: no approvals are taken." placeholder:"AMOUNT"`
	Factory     []string      `help:"Contract that may deploy a payer's account before its first payment, at the lanes' cost (ERC-6492); none is trusted unless named." placeholder:"ADDRESS"`
	Lookback    uint64        `default:"2000" help:"Blocks searched for somebody else's transaction with the same authorization. Some nodes answer for few." placeholder:"N"`
}

// Help is shown below the flags.
func (*facilitatorCmd) Help() string {
	return `Sellers of x402 and T402 send it the payments that they receive: POST /verify says whether one is good, POST
/settle brings it to the chain and answers when the money has moved. The facilitator pays the gas. It can change
neither amount nor recipient, which the payer signed.

  farthing facilitator --dev
  farthing facilitator --network base-sepolia --rpc-url URL --key lane.json
  farthing facilitator --network base,arbitrum --rpc-url URL1 --rpc-url URL2 --key lane.json --lane lane2.json
  farthing facilitator --clearing-house URL       (guarantees only: no chain, no key, no book; with a --key that the
                                                  clearing house knows as a facilitator /verify sees collateral too)

Before it serves it compares with the chain: the chain's id, each token's signing domain and methods, and that
x402's contracts are there. A token that answers differently is not offered, and it says so.

GET /supported lists what is offered; /settlements/ID what a settlement cost; /ready whether the chains answer;
/metrics is for Prometheus. A clearing house (farthing serve --lane FILE) serves the same beside its own.

Many payments that wait at the same time share one transaction, at about a half of the gas each. A seller lets its
settlements wait for company with extra.settleWithin, in seconds; farthing gate has settle: within 30 s.

What was accepted is on disk before it is sent. After a crash the next start goes on with it, and sends nothing twice.`
}

// deskSpec is a network that is to be served.
type deskSpec struct {
	On     network.Chain
	Client *chain.Client
	Lanes  []evm.Signer
}

func (c *facilitatorCmd) Run(r *run) (err error) {
	var specs []deskSpec
	defer func() {
		for _, s := range specs {
			s.Client.Close()
		}
	}()
	book := c.Book
	switch {
	case r.cli.Dev:
		own, path, spec, err := c.dev(r)
		if own != nil {
			defer own.Close()
		}
		if err != nil {
			return err
		}
		specs = append(specs, spec)
		if book == "" {
			book = path
		}
		if c.SponsorMax == "" {
			c.SponsorMax = devDesk.SponsorMax
		}
	case len(c.RPCURL) > 0 || len(c.ClearingHouse) == 0:
		if specs, err = c.chains(r, specs); err != nil {
			return err
		}
		lanes, err := r.lanes(c.Lane, true)
		if err != nil {
			return err
		}
		for i := range specs {
			specs[i].Lanes = lanes
			if !specs[i].On.Test && !r.cli.Yes {
				return misuse("%s carries real money, and the gas is yours; this software is not audited", specs[i].On).hint("try a test network first, then pass --yes")
			}
		}
	}
	houses, err := c.houses(r)
	if err != nil {
		return err
	}
	var db *store.Store
	if len(specs) > 0 {
		if book == "" {
			if book, err = r.inFolder("facilitator.db"); err != nil {
				return err
			}
		}
		if db, err = store.Open(r.ctx, book, store.Exclusive()); err != nil {
			return err
		}
		defer db.Close()
	}
	f, err := openFacilitator(r.ctx, c.deskFlags, db, specs, houses, r.Now, r.log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fail("config_invalid", "listen on %s: %v", c.Listen, err).hint("choose another with --listen")
	}
	url := "http://" + listener.Addr().String()
	if err := r.announceFacilitator(f, c.deskFlags, specs, url); err != nil {
		listener.Close()
		if r.ctx.Err() != nil {
			return nil // stopped before it began: nothing is under way
		}
		return err
	}
	if err := r.emit(map[string]any{"url": url, "networks": offered(f), "lanes": laneList(specs)}, "url         %s\n", url); err != nil {
		listener.Close()
		return err
	}
	return serveFacilitator(r.ctx, f, listener, r.log)
}

// serveFacilitator serves and settles until ctx ends, then lets open requests finish: those that wait for a settlement are
// answered that it is pending.
func serveFacilitator(ctx context.Context, f *facilitator.Facilitator, listener net.Listener, log *slog.Logger) error {
	server := &http.Server{
		Handler: f.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	working, rest := context.WithCancel(ctx)
	defer rest()
	worked := make(chan error, 1)
	go func() { worked <- f.Run(working) }()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		rest()
		return errors.Join(err, <-worked)
	case err := <-worked:
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		down := server.Shutdown(stop)
		<-served
		return errors.Join(err, down)
	}
}

// houses are the clearing houses that the flags name. Each has to answer once, since its chain and key are its word.
func (c *facilitatorCmd) houses(r *run) (houses []facilitator.House, err error) {
	var options []client.Option
	if len(c.ClearingHouse) > 0 && r.cli.Key != "" {
		key, err := r.signer()
		if err != nil {
			return nil, err
		}
		options = append(options, client.WithSigner(key))
	}
	for _, url := range c.ClearingHouse {
		house, err := client.New(url, options...)
		if err != nil {
			return nil, err
		}
		params, err := house.Params(r.ctx)
		if err != nil {
			return nil, err
		}
		r.say("guarantees  of %s on eip155:%d, certified with key %s…", house.URL(), params.Deployment.ChainID, params.Key.String()[:18])
		houses = append(houses, house)
	}
	return houses, nil
}

// chains connects to the networks that the flags name.
func (c *facilitatorCmd) chains(r *run, specs []deskSpec) ([]deskSpec, error) {
	if len(c.RPCURL) == 0 {
		return specs, misuse("which chain?").hint("--network NAME --rpc-url URL, or --dev for a chain of its own")
	}
	all, err := r.networks()
	if err != nil {
		return specs, err
	}
	var names []string
	if r.cli.Network != "" {
		names = strings.Split(r.cli.Network, ",")
		if len(names) != len(c.RPCURL) {
			return specs, misuse("%d networks and %d RPC URLs", len(names), len(c.RPCURL)).hint("one --rpc-url for each name in --network, in that order")
		}
	}
	seen := make(map[uint64]bool)
	for i, url := range c.RPCURL {
		client, err := r.dial(url)
		if err != nil {
			return specs, err
		}
		specs = append(specs, deskSpec{Client: client})
		s := &specs[len(specs)-1]
		var known bool
		if s.On, known = all.ByID(client.ChainID()); !known {
			return specs, fail("network_unknown", "%s serves eip155:%d, which farthing does not know", url, client.ChainID()).hint("add it to networks.yaml")
		}
		if names != nil {
			want, err := all.Lookup(strings.TrimSpace(names[i]))
			if err != nil {
				return specs, err
			}
			if want.ID != s.On.ID {
				return specs, fail("chain_mismatch", "%s serves %s, not %s", url, s.On, want)
			}
		}
		if seen[s.On.ID] {
			return specs, misuse("%s is there twice", s.On)
		}
		seen[s.On.ID] = true
	}
	return specs, nil
}

// lanes opens the keys of the lanes: --lane, and with own --key or the usual key before them.
func (r *run) lanes(files []string, own bool) (lanes []evm.Signer, err error) {
	if own && (r.cli.Key != "" || len(files) == 0) {
		key, err := r.signer()
		if err != nil {
			return nil, err
		}
		lanes = append(lanes, key)
	}
	for _, file := range files {
		pass, err := r.passphrase(file, false)
		if err != nil {
			return nil, err
		}
		key, err := keystore.Load(file, pass)
		if err != nil {
			return nil, keyFault(file, err)
		}
		lanes = append(lanes, key)
	}
	return lanes, nil
}

// openFacilitator makes a facilitator from flags: over a store for transfers, of which guarantees need none.
func openFacilitator(ctx context.Context, c deskFlags, db *store.Store, specs []deskSpec, houses []facilitator.House, now func() time.Time, log *slog.Logger) (*facilitator.Facilitator, error) {
	keys, err := apiKeys(c.APIKeys)
	if err != nil {
		return nil, err
	}
	var factories []evm.Address
	for _, text := range c.Factory {
		a, err := evm.ParseAddress(text)
		if err != nil {
			return nil, misuse("--factory: %v", err)
		}
		factories = append(factories, a)
	}
	most, err := coin("--spend-max", c.SpendMax)
	if err != nil {
		return nil, err
	}
	sponsor, err := coin("--sponsor-max", c.SponsorMax)
	if err != nil {
		return nil, err
	}
	if specs, err = onlyTokens(specs, c.Token); err != nil {
		return nil, err
	}
	fc := facilitator.Config{Houses: houses, Wait: c.SettleWait, Keys: keys, PerMinute: c.PerMinute, Now: now, Log: log}
	if db != nil {
		fc.Catalogue = db.Catalogue()
	}
	for _, s := range specs {
		depth := settleDepth(c.SettleDepth)
		nc := facilitator.NetworkConfig{
			Chain: s.On, Node: s.Client, Book: db.Settlements(), Depth: depth, Factories: factories, BatchMax: c.Batch,
			GasPerPayer: c.GasPerPayer, SpendMax: most, SponsorMax: sponsor, Lookback: c.Lookback, Now: now, Log: log,
		}
		for _, key := range s.Lanes {
			nc.Lanes = append(nc.Lanes, chain.NewSender(s.Client, db.OutboxOn(s.On.ID), key, chain.Policy{Depth: depth, BumpAfter: laneBump}))
		}
		n, err := facilitator.Open(ctx, nc)
		if err != nil {
			return nil, err
		}
		fc.Networks = append(fc.Networks, n)
	}
	return facilitator.New(fc)
}

// onlyTokens leaves each network the tokens that are named, of which each must be known somewhere.
func onlyTokens(specs []deskSpec, names []string) ([]deskSpec, error) {
	if len(names) == 0 {
		return specs, nil
	}
	out := slices.Clone(specs)
	for i := range out {
		out[i].On.Tokens = nil
	}
	for _, name := range names {
		var unknown error
		for i, s := range specs {
			t, err := s.On.Token(name)
			if err != nil {
				unknown = errors.Join(unknown, err)
				continue
			}
			out[i].On.Tokens = append(out[i].On.Tokens, t)
		}
		if !slices.ContainsFunc(specs, func(s deskSpec) bool { _, err := s.On.Token(name); return err == nil }) {
			return nil, unknown
		}
	}
	return out, nil
}

// coin reads an amount of a network's native coin, in wei; nothing is zero.
func coin(flag, text string) (money.Amount, error) {
	if text == "" {
		return money.Amount{}, nil
	}
	sum, err := money.ParseMoney(text + " COIN")
	if err == nil {
		var wei money.Amount
		if wei, err = sum.Atomic(18); err == nil {
			return wei, nil
		}
	}
	return money.Amount{}, misuse("%s %s: not an amount of the network's coin", flag, text).hint("such as %s 0.05", flag)
}

// laneBump is how long a settlement may wait in a pool before its fees are raised: authorizations expire in minutes.
const laneBump = 20 * time.Second

// settleDepth is how deep a settlement must lie, unless told: in the newest block, as the published facilitators have it.
// What a reorganisation takes back is settled again, and nodes that make a block only when there is something to put in
// never have a second one.
func settleDepth(told int) uint64 { return uint64(max(told, 0)) }

// apiKeys reads NAME:SECRET lines. What begins with # is a remark.
func apiKeys(path string) (keys []facilitator.Key, err error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fail("config_invalid", "%s can be read by others", path).hint("chmod 600 %s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fail("config_invalid", "API keys: %v", err)
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, secret, ok := strings.Cut(line, ":")
		if !ok || name == "" || len(secret) < 16 {
			return nil, fail("config_invalid", "%s:%d: not NAME:SECRET with a secret of at least 16 characters", path, number)
		}
		keys = append(keys, facilitator.Key{Name: name, Secret: secret})
	}
	if len(keys) == 0 {
		return nil, fail("config_invalid", "%s has no key in it, so nobody could settle", path)
	}
	return keys, nil
}

// dev finds the development chain, or starts one, and makes funded lanes for it. The book's path belongs to the chain.
func (c *facilitatorCmd) dev(r *run) (own *devchain.Chain, book string, spec deskSpec, err error) {
	err = r.withDevLock(func(path string, s *devState) error {
		live := r.alive(*s)
		if live.Chain == "" {
			live.House = "" // it cannot work without
			if own, err = devchain.Start(r.ctx, devchain.Config{Logger: r.log}); err != nil {
				return err
			}
			live.Chain = own.URL()
			if err := live.save(path); err != nil {
				return err
			}
		}
		dir, err := r.devFolder(live.Chain)
		if err != nil {
			return err
		}
		if spec.Client, err = r.dial(live.Chain); err != nil {
			return err
		}
		all, err := r.networks()
		if err != nil {
			return err
		}
		spec.On, _ = all.ByID(devchain.DefaultChainID)
		if live.House != "" && len(c.ClearingHouse) == 0 {
			c.ClearingHouse = []string{live.House}
		}
		book = filepath.Join(dir, "facilitator.db")
		spec.Lanes, err = r.devLanes(spec.Client, dir, "facilitator")
		return err
	})
	return own, book, spec, err
}

// devDesk are the settings of the facilitator in a development clearing house.
var devDesk = deskFlags{SponsorMax: "0.01", SettleWait: facilitator.DefaultWait, Batch: desk.DefaultBatchMax, Lookback: desk.DefaultLookback}

// deskChain is the chain of a deployment with every token that may be settled there: the known ones, and those that are
// cleared.
func deskChain(all network.Registry, d deployment) network.Chain {
	c := d.chain(all)
	known, _ := all.ByID(d.ChainID)
	c.Tokens = slices.Clone(known.Tokens)
	for _, asset := range d.Assets {
		if asset.Address.IsZero() {
			continue // coin moves by no signature
		}
		if !slices.ContainsFunc(c.Tokens, func(t network.Token) bool { return t.Address == asset.Address }) {
			c.Tokens = append(c.Tokens, asset)
		}
	}
	return c
}

// devLaneCount is how many lanes a development facilitator has.
const devLaneCount = 2

// devLanes are the lanes of a development process, made when first asked for and funded out of the faucet. Their nonces are
// no other's: not the operator's, the faucet's, or those of a facilitator elsewhere. The caller has the development lock.
func (r *run) devLanes(client *chain.Client, dir, owner string) (lanes []evm.Signer, err error) {
	var calls []evm.Call
	for i := range devLaneCount {
		key, _, err := keystore.LoadOrCreate(filepath.Join(dir, fmt.Sprintf("%s-lane-%d.json", owner, i+1)), nil, keystore.Light)
		if err != nil {
			return nil, err
		}
		gas, err := client.Balance(r.ctx, key.Address())
		if err != nil {
			return nil, err
		}
		if gas.Less(ethers(1)) {
			calls = append(calls, evm.Call{To: key.Address(), Value: ethers(10).Word()})
		}
		lanes = append(lanes, key)
	}
	_, err = r.sendAll(client, devFaucet(), 0, calls...)
	return lanes, err
}

// offered names the networks, tokens and ways to pay of a facilitator.
func offered(f *facilitator.Facilitator) (all []map[string]any) {
	for _, n := range f.Networks {
		var tokens []string
		for _, t := range n.Chain().Tokens {
			tokens = append(tokens, t.Symbol)
		}
		all = append(all, map[string]any{"network": n.Chain().CAIP2(), "name": n.Chain().Name, "tokens": tokens, "schemes": n.Ways(), "batches": n.Batches()})
	}
	return all
}

func laneList(specs []deskSpec) (all []evm.Address) {
	if len(specs) == 0 {
		return nil
	}
	for _, l := range specs[0].Lanes {
		all = append(all, l.Address())
	}
	return all
}

// announceFacilitator says what is offered, what is trusted, who pays, and which limits hold.
func (r *run) announceFacilitator(f *facilitator.Facilitator, c deskFlags, specs []deskSpec, url string) error {
	r.say("facilitator at %s: POST /verify, POST /settle, GET /supported", url)
	for i, n := range f.Networks {
		on, s := n.Chain(), specs[i]
		var tokens []string
		for _, t := range on.Tokens {
			tokens = append(tokens, t.Symbol)
		}
		r.say("offers      %s in %s on %s", strings.Join(n.Ways(), ", "), strings.Join(tokens, ", "), on)
		for _, refused := range n.Refused {
			r.say("warning     %s is not offered: %s", refused.Token.Symbol, refused.Reason)
		}
		how := "each settlement in a transaction of its own, since Multicall3 is not there"
		if n.Batches() && c.Batch > 1 {
			how = fmt.Sprintf("up to %d settlements that wait together share a transaction", c.Batch)
		}
		r.say("trusts      the node of %s; a settlement counts with %d blocks on top of it", on.Name, settleDepth(c.SettleDepth))
		r.say("sends       %s", how)
		for _, lane := range s.Lanes {
			balance, err := s.Client.Balance(r.ctx, lane.Address())
			if err != nil {
				return err
			}
			r.say("gas         paid by %s, which has %s", lane.Address(), money.Format(balance, 18, on.Native))
			if balance.IsZero() {
				r.say("warning     nothing can be settled from %s until it has some %s", lane.Address().Short(), on.Native)
			}
		}
	}
	spend := "without limit"
	if c.SpendMax != "" {
		spend = c.SpendMax + " a day"
	}
	payer := "without limit"
	if c.GasPerPayer > 0 {
		payer = fmt.Sprintf("%d gas a day", c.GasPerPayer)
	}
	if len(specs) > 0 {
		r.say("limits      each payer %s; each network's lanes %s; at most %d settlements open", payer, spend, desk.DefaultOpenMax)
	}
	if c.APIKeys == "" {
		r.say("open        to everyone who reaches it; --api-keys FILE asks for a key")
	}
	return nil
}
