package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

type gateCmd struct {
	Upstream      string `help:"Server to sell, such as http://localhost:3000." placeholder:"URL"`
	Price         string `help:"Price of every request, such as '$0.0005'; use --config for more than one." placeholder:"PRICE"`
	Config        string `help:"gate.yaml; saving it changes prices at once." placeholder:"FILE" type:"path"`
	Listen        string `default:"127.0.0.1:4020" help:"Address to sell on." placeholder:"HOST:PORT"`
	ClearingHouse string `name:"clearing-house" help:"URL of the clearing house." env:"FARTHING_CLEARING_HOUSE" placeholder:"URL"`
	Book          string `help:"SQLite file of purchases; default gate.db in farthing's folder." placeholder:"FILE"`
	BaseURL       string `name:"base-url" help:"Origin under which buyers reach the gate, if something stands in front of it." placeholder:"URL"`
	PayTo         string `help:"Address that is paid; default the key's." placeholder:"0x…"`
	AllowLoss     bool   `help:"Sell also where a way to pay costs more than it brings in."`
	Shared        bool   `help:"Other gates use the same book: what they serve is not taken for lost."`
}

// sharedAbandoned is how long a purchase of another gate on the same book may run before it counts as lost.
const sharedAbandoned = 10 * time.Minute

func (c *gateCmd) Run(r *run) error {
	file, err := c.read(r)
	if err != nil {
		return err
	}
	var note string
	var key evm.Signer
	var book string
	created := false
	if r.cli.Dev {
		dev, err := r.startDev("127.0.0.1:0")
		if err != nil {
			return err
		}
		defer dev.Close()
		file.Network, file.ClearingHouse, note = "dev", dev.House, "Development money, not real."
		k, fresh, err := r.devKey("seller")
		if err != nil {
			return err
		}
		key, created = k, fresh
		if book, err = r.devBook(dev.Chain, "gate.db"); err != nil {
			return err
		}
	} else if key, err = c.seller(r, file.PayTo); err != nil {
		return err
	}
	if c.Book != "" {
		book = c.Book
	} else if book == "" {
		if book, err = r.inFolder("gate.db"); err != nil {
			return err
		}
	}
	db, err := store.Open(r.ctx, book)
	if err != nil {
		return err
	}
	defer db.Close()
	networks, err := c.networks(r, file)
	if err != nil {
		return err
	}
	config := paywall.Config{
		Networks: networks, PayTo: file.PayTo, Network: file.Network, ClearingHouse: file.ClearingHouse, Purchases: db.Purchases(), Signer: key,
		Accept: file.Accept, BaseURL: c.BaseURL, Now: r.Now, Log: r.log, OnSale: r.saleLines(), DevNote: note,
	}
	if c.Shared {
		config.Abandoned = sharedAbandoned
	}
	pw, err := paywall.New(config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 5*time.Second)
		defer cancel()
		if err := pw.Close(ctx); err != nil {
			r.say("some refusals to charge have not reached the clearing house yet; the next start delivers them (%v)", err)
		}
	}()
	what, err := c.gateConfig(file)
	if err != nil {
		return err
	}
	gate, err := paywall.NewGate(pw, what)
	if err != nil {
		return c.place(err, file)
	}
	if r.cli.DryRun {
		return r.emit(map[string]any{"routes": len(what.Routes), "payTo": pw.Payee()}, "%d routes can be sold, paid to %s\n", len(what.Routes), pw.Payee())
	}
	if err := pw.Recover(r.ctx); err != nil {
		return err
	}
	if err := pw.Ready(r.ctx); err != nil {
		r.say("warning  %v; requests are refused until it answers", err)
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fail("config_invalid", "listen on %s: %v", c.Listen, err).hint("choose another with --listen")
	}
	c.announce(r, file, listener.Addr().String(), pw.Payee(), created, note)
	if c.Config != "" {
		go c.watch(r, gate)
	}
	return serveUntil(r.ctx, listener, gate, r.log)
}

// networks are the chains and tokens that prices can be paid in: with a clearing house on the development chain, the
// tokens that it clears.
func (c *gateCmd) networks(r *run, file gateFile) (*network.Registry, error) {
	all, err := r.networks()
	if err != nil {
		return nil, err
	}
	house, err := client.New(file.ClearingHouse)
	if err != nil {
		return nil, err
	}
	params, err := house.Params(r.ctx)
	if err != nil || params.Deployment.ChainID != mustChain("dev").ID {
		return &all, nil // the house need not be up yet
	}
	tokens, err := house.Tokens(r.ctx)
	if err != nil {
		return &all, nil
	}
	all, err = clearedOn(all, houseChain(all, params.Deployment.ChainID, tokens))
	return &all, err
}

// read makes the price list of the flags or of the file. Flags stand above the file.
func (c *gateCmd) read(r *run) (file gateFile, err error) {
	switch {
	case c.Config != "" && c.Price != "":
		return file, misuse("--price and --config exclude each other: the file has the prices")
	case c.Config != "":
		if file, err = c.load(r); err != nil {
			return file, err
		}
	case c.Price != "":
		file = gateFile{Routes: []gateRoute{{Pattern: located{Text: "/"}, Price: located{Text: c.Price}, Free: c.Price == "free"}}}
	default:
		return file, misuse("what does it cost?").hint("--price '$0.0005' for every request, or --config gate.yaml (farthing init writes one)")
	}
	file.Upstream = cmp.Or(c.Upstream, file.Upstream)
	file.ClearingHouse = cmp.Or(c.ClearingHouse, file.ClearingHouse)
	file.PayTo = cmp.Or(c.PayTo, file.PayTo)
	file.Network = cmp.Or(r.cli.Network, file.Network)
	if file.Upstream == "" {
		return file, misuse("which server?").hint("--upstream http://localhost:3000")
	}
	if r.cli.Dev {
		return file, c.guard(r, file)
	}
	if file.Network == "" {
		return file, misuse("which network?").hint("--network base-sepolia, or --dev for test money on this machine")
	}
	if file.ClearingHouse == "" {
		return file, misuse("which clearing house?").hint("--clearing-house URL, or --dev")
	}
	return file, c.guard(r, file)
}

func (c *gateCmd) load(r *run) (gateFile, error) {
	text, err := os.ReadFile(c.Config)
	if err != nil {
		return gateFile{}, fail("config_invalid", "%v", err).hint("farthing init writes one")
	}
	return parseGate(filepath.Base(c.Config), text, r.Env)
}

// seller is the key of the payee, which lowers what buyers owe. A seller that is paid at another address has none here:
// then every route charges before work.
func (c *gateCmd) seller(r *run, payTo string) (evm.Signer, error) {
	path, err := r.keyPath(r.cli.Key)
	if err != nil {
		return nil, err
	}
	if payTo != "" && r.cli.Key == "" {
		address, err := evm.ParseAddress(payTo)
		if err != nil {
			return nil, misuse("pay_to: %v", err)
		}
		if own, err := r.ownAddress("seller"); err != nil || own != address {
			r.say("note     %s is paid and its key is not here: nothing can be taken back, so buyers are charged before work", payTo)
			return nil, nil
		}
	}
	if _, err := os.Stat(path); err != nil && payTo == "" {
		return nil, misuse("who is paid?").hint("farthing key new, or pay_to: ADDRESS")
	}
	return r.signer()
}

// gateConfig makes the gate's price list.
func (c *gateCmd) gateConfig(file gateFile) (paywall.GateConfig, error) {
	upstream, err := url.Parse(file.Upstream)
	if err != nil || upstream.Scheme != "http" && upstream.Scheme != "https" || upstream.Host == "" {
		return paywall.GateConfig{}, misuse("upstream %q is no http or https address", file.Upstream).hint("--upstream http://localhost:3000")
	}
	g := paywall.GateConfig{Upstream: upstream}
	for _, line := range file.Routes {
		route := paywall.Route{Pattern: line.Pattern.Text, Price: line.Price.Text}
		if line.Free {
			route.Price = "free"
		}
		for _, o := range []struct {
			text   string
			option func(string) paywall.Option
		}{
			{line.Minimum.Text, paywall.Minimum}, {line.UpTo.Text, paywall.UpTo}, {line.Charge.Text, paywall.ChargeRule},
			{line.Refund.Text, paywall.Refund}, {line.Alternative.Text, paywall.Alternative},
		} {
			if o.text != "" {
				route.Options = append(route.Options, o.option(o.text))
			}
		}
		if line.Count.Text != "" {
			meter, err := paywall.ParseMeter(line.Count.Text)
			if err != nil {
				return g, fail("config_invalid", "%s:%d:%d: %v", filepath.Base(c.Config), line.Count.Line, line.Count.Column, err)
			}
			route.Options = append(route.Options, paywall.Count(meter))
		}
		g.Routes = append(g.Routes, route)
	}
	return g, nil
}

// place says of everything that the gate found wrong with a file where in the file it is.
func (c *gateCmd) place(err error, file gateFile) error {
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	first, ok := x402.AsError(faults[0])
	if c.Config == "" || !ok {
		return err
	}
	f := *first
	lines := make([]string, len(faults))
	for i, fault := range faults {
		at := file.find(fault)
		lines[i] = fmt.Sprintf("%s:%d:%d: %v", filepath.Base(c.Config), at.Line, at.Column, fault)
	}
	f.Message = strings.Join(lines, "\n       ")
	return &f
}

// watch swaps the price list whenever the file's content changes. What cannot be used changes nothing and says where.
func (c *gateCmd) watch(r *run, gate *paywall.Gate) {
	sum := func() (s [32]byte) {
		text, err := os.ReadFile(c.Config)
		if err != nil {
			return s
		}
		return sha256.Sum256(text)
	}
	last := sum()
	ticker := time.NewTicker(300 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-ticker.C:
		}
		now := sum()
		if now == last || now == ([32]byte{}) { // unchanged, or in the middle of being replaced
			continue
		}
		last = now
		file, err := c.read(r)
		var what paywall.GateConfig
		if err == nil {
			what, err = c.gateConfig(file)
		}
		if err == nil {
			err = c.place(gate.Swap(what), file)
		}
		if err != nil {
			r.say("%s not changed: the file cannot be used", r.Now().Format("15:04:05"))
			r.report(err, false)
			continue
		}
		r.say("%s prices changed: %d routes", r.Now().Format("15:04:05"), len(what.Routes))
	}
}

func (c *gateCmd) announce(r *run, file gateFile, address string, payee evm.Address, created bool, note string) {
	began := time.Now()
	probe := &http.Client{Timeout: 2 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answers := "does not answer yet"
	if resp, err := probe.Get(file.Upstream); err == nil {
		resp.Body.Close()
		answers = fmt.Sprintf("answers, %d ms", max(1, time.Since(began).Milliseconds()))
	}
	r.say("selling  http://%s → %s (%s)", address, file.Upstream, answers)
	which := ""
	if created {
		which = " (new key, development only)"
	} else if note != "" {
		which = " (development key)"
	}
	if len(file.Routes) == 1 && c.Price != "" {
		r.say("price    %s every request, charged after success      pays to %s%s", file.Routes[0].Price.Text, payee.Short(), which)
	} else {
		for _, route := range file.Routes {
			r.say("price    %-28s %s", route.Pattern.Text, route.Price.Text)
		}
		r.say("pays to  %s%s", payee.Short(), which)
	}
	if note != "" {
		r.say("accepts  guarantee (dev clearing house)   money is not real")
		r.say("try      farthing get --dev http://%s/", address)
	} else {
		r.say("accepts  guarantee (%s) on %s", file.ClearingHouse, file.Network)
	}
}

// saleLines prints one line a request, as it ended.
func (r *run) saleLines() func(paywall.Event) {
	var mu sync.Mutex
	return func(e paywall.Event) {
		var line string
		at := e.At.Local().Format("15:04:05")
		switch e.Kind {
		case paywall.Paid:
			line = fmt.Sprintf("%s paid     %s guarantee %s %s %s %d  %.1f ms", at, e.Price(), e.Payment.Short(), e.Method, e.Path, e.Status, float64(e.Elapsed.Microseconds())/1000)
		case paywall.Replayed:
			line = fmt.Sprintf("%s again    stored answer of %s %s %s, not charged again", at, e.Purchase, e.Method, e.Path)
		default:
			why := e.Message
			if why == "" {
				why = strings.ReplaceAll(e.Code, "_", " ")
			}
			if e.Code == "payment_required" || e.Code == "" {
				why = "no payment"
			}
			line = fmt.Sprintf("%s %-8s %d %s  %s %s   %s", at, e.Kind, e.Status, why, e.Method, e.Path, e.UserAgent)
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(r.Err, line)
	}
}

// devBook is where a development process keeps a book that belongs to one chain.
func (r *run) devBook(rpc, name string) (string, error) {
	dir, err := r.devFolder(rpc)
	return filepath.Join(dir, name), err
}

// serveUntil serves until ctx ends and lets open requests finish.
func serveUntil(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := server.Shutdown(stop)
	<-served
	return err
}

type initCmd struct {
	File     string `arg:"" optional:"" default:"gate.yaml" help:"File to write."`
	Upstream string `default:"http://localhost:3000" help:"Server to sell."`
}

func (c *initCmd) Run(r *run) error {
	if _, err := os.Lstat(c.File); err == nil {
		return misuse("%s exists and was not touched", c.File).hint("give another file name")
	}
	name := r.cli.Network
	if name == "" {
		name = "base-sepolia"
	}
	all, err := r.networks()
	if err != nil {
		return err
	}
	on, err := all.Lookup(name)
	if err != nil {
		return err
	}
	payTo := "# pay_to: ${PAY_TO}              # unset: the address of this machine's key"
	text := fmt.Sprintf(gateTemplate, c.Upstream, payTo, on.Name)
	if r.cli.DryRun {
		fmt.Fprint(r.Out, text)
		return nil
	}
	if err := writeFile(c.File, []byte(text), 0o644); err != nil {
		return err
	}
	return r.emit(map[string]any{"file": c.File}, "wrote %s; edit the routes, then: farthing gate --dev --config %s\n", c.File, c.File)
}

const gateTemplate = `# What farthing gate sells. Saving this file changes prices at once; a quote already given is honoured.
upstream: %s
%s
network: %s                # --dev uses test money whatever stands here
# clearing_house: https://clear.example.org
accept: [guarantee]
routes:                              # Go ServeMux patterns; what is not listed is closed
  GET /health: free
  GET /quote/{symbol}: $0.0005
  # GET /records: {price: $0.01 per 100 records, up_to: $0.10, count: header X-Record-Count}
  # POST /generate:
  #   price: $0.00001 per token
  #   minimum: $0.0002
  #   up_to: $0.02                   # signed by the buyer before work; never charged beyond
  #   count: json usage.total_tokens
`
