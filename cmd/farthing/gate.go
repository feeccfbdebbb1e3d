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

	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

type gateCmd struct {
	sellerFlags
	Upstream  string `help:"Server to sell, such as http://localhost:3000." placeholder:"URL"`
	Price     string `help:"Price of every request, such as '$0.0005'; use --config for more than one." placeholder:"PRICE"`
	Bundle    string `help:"Sell so many at once to buyers who pay by transfer, such as '100 calls'; with --price." placeholder:"N calls"`
	Listen    string `default:"127.0.0.1:4020" help:"Address to sell on." placeholder:"HOST:PORT"`
	AllowLoss bool   `help:"Sell also where a way to pay costs more than it brings in."`
}

// Help is the long help.
func (*gateCmd) Help() string {
	return `A request without payment gets 402 and the price; a paid one goes to your server, and is charged when that answers 2xx.

  farthing gate --dev --upstream http://localhost:3000 --price '$0.0005'
  farthing gate --network base-sepolia --facilitator URL --upstream http://localhost:3000 --price '$0.01'
  farthing gate --config gate.yaml    (farthing init writes one)

Your server gets a purchase's id in the header Farthing-Purchase; farthing refund takes it. What was sold is on disk (--book); after a crash the next start finishes it. Where money is real it does not start while a way to pay loses.`
}

func (c *gateCmd) Run(r *run) error {
	file, err := c.read(r)
	if err != nil {
		return err
	}
	s, err := c.open(r, file)
	if err != nil {
		return err
	}
	defer s.Close()
	what, err := c.gateConfig(file)
	if err != nil {
		return err
	}
	gate, err := paywall.NewGate(s.Paywall, what)
	if err != nil {
		return c.place(err, file)
	}
	if r.cli.DryRun {
		return r.emit(map[string]any{"routes": len(what.Routes), "payTo": s.Paywall.Payee()}, "%d routes can be sold, paid to %s\n", len(what.Routes), s.Paywall.Payee())
	}
	if err := c.recover(r, s); err != nil {
		r.say("warning  %v; what is open is looked at again every few seconds", err)
	}
	if err := s.Paywall.Ready(r.ctx); err != nil {
		r.say("warning  %v; what cannot be taken is not offered, or refused, until that is mended", err)
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fail("config_invalid", "listen on %s: %v", c.Listen, err).hint("choose another with --listen")
	}
	c.announce(r, s, listener.Addr().String())
	if c.Config != "" {
		go c.watch(r, gate)
	}
	return serveUntil(r.ctx, listener, gate, r.log)
}

// recover looks at what is open before the gate opens, but waits for nobody who hangs.
func (c *gateCmd) recover(r *run, s *counter) error {
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	return s.Paywall.Recover(ctx)
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
		file = gateFile{Routes: []gateRoute{{Pattern: located{Text: "/"}, Price: located{Text: c.Price}, Free: c.Price == "free", Bundle: located{Text: c.Bundle}}}}
	default:
		return file, misuse("what does it cost?").hint("--price '$0.0005' for every request, or --config gate.yaml (farthing init writes one)")
	}
	file.Upstream = cmp.Or(c.Upstream, file.Upstream)
	if file.Upstream == "" {
		return file, misuse("which server?").hint("--upstream http://localhost:3000")
	}
	if file, err = c.above(r, file); err != nil {
		return file, err
	}
	return file, c.guard(r, file)
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
			{line.Refund.Text, paywall.Refund}, {line.Alternative.Text, paywall.Alternative}, {cmp.Or(line.Body.Text, file.Body.Text), paywall.Body},
			{line.Description.Text, func(text string) paywall.Option { return paywall.Describe(text, "") }},
		} {
			if o.text != "" {
				route.Options = append(route.Options, o.option(o.text))
			}
		}
		timed, err := c.timed(line)
		if err != nil {
			return g, err
		}
		route.Options = append(route.Options, timed...)
		if line.Validation != nil {
			route.Options = append(route.Options, paywall.Validation(*line.Validation))
		}
		if len(line.Accept) > 0 {
			route.Options = append(route.Options, paywall.Accept(plain(line.Accept)...))
		}
		if len(line.Stages) > 0 {
			route.Options = append(route.Options, paywall.Stages(plain(line.Stages)...))
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

// timed are the options of a route that last.
func (c *gateCmd) timed(line gateRoute) (options []paywall.Option, err error) {
	span := func(l located) (d time.Duration) {
		if l.Text == "" || err != nil {
			return 0
		}
		var wrong error
		if d, wrong = l.span(); wrong != nil {
			err = fail("config_invalid", "%s:%d:%d: %v", filepath.Base(c.Config), l.Line, l.Column, wrong)
		}
		return d
	}
	if line.Bundle.Text != "" {
		valid := span(line.Valid)
		if line.Valid.Text == "" {
			valid = bundleValid
		}
		options = append(options, paywall.Bundle(line.Bundle.Text, valid))
	}
	if within, gather := strings.CutPrefix(line.Settle.Text, "within "); gather {
		options = append(options, paywall.Settle(span(located{within, line.Settle.Line, line.Settle.Column})))
	} else if line.Settle.Text != "" && line.Settle.Text != "now" {
		return nil, fail("config_invalid", "%s:%d:%d: settle: %q", filepath.Base(c.Config), line.Settle.Line, line.Settle.Column, line.Settle.Text).
			hint("now, or within 30 s")
	}
	if line.Valid.Text != "" && line.Bundle.Text == "" {
		options = append(options, paywall.Valid(span(line.Valid)))
	}
	if line.Listed {
		options = append(options, paywall.Listed())
	}
	if line.Job.Text != "" {
		options = append(options, paywall.Job(span(line.Job)))
	}
	return options, err
}

// bundleValid is how long a bundle lasts unless its route says.
const bundleValid = 24 * time.Hour

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

func (c *gateCmd) announce(r *run, s *counter, address string) {
	file, payee := s.file, s.Paywall.Payee()
	began := time.Now()
	probe := &http.Client{Timeout: 2 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answers := "does not answer yet"
	if resp, err := probe.Get(file.Upstream); err == nil {
		resp.Body.Close()
		answers = fmt.Sprintf("answers, %d ms", max(1, time.Since(began).Milliseconds()))
	}
	r.say("selling  http://%s → %s (%s)", address, file.Upstream, answers)
	which := ""
	if s.created {
		which = " (new key, development only)"
	} else if s.note != "" {
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
	ways := make([]string, 0, 2)
	for _, way := range s.Paywall.Ways() {
		switch {
		case s.note != "" && way == "guarantee":
			way = "guarantee (dev clearing house)"
		case s.note != "":
			way += " (test USDC)"
		case way == "guarantee":
			way = fmt.Sprintf("guarantee (%s)", file.ClearingHouse)
		default:
			way = fmt.Sprintf("%s (%s settles)", way, file.Facilitator)
		}
		ways = append(ways, way)
	}
	if s.note != "" {
		r.say("accepts  %s   money is not real", strings.Join(ways, ", "))
		r.say("try      farthing get --dev http://%s/", address)
	} else {
		r.say("accepts  %s on %s", strings.Join(ways, ", "), file.Network)
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
			line = fmt.Sprintf("%s paid     %s %s %s %s %s %d  %.1f ms", at, e.Price(), e.Way, e.Payment.Short(), e.Method, e.Path, e.Status, float64(e.Elapsed.Microseconds())/1000)
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
accept: [guarantee]                  # and exact, upto, exact on arbitrum in USDC; a transfer needs a facilitator
# facilitator: https://clear.example.org   # who settles transfers; default: the clearing house
# body: 4mica                        # list guarantees in the 402's body for clients of 4Mica; x402's of version 1 are left out then
routes:                              # Go ServeMux patterns; what is not listed is closed
  GET /health: free
  GET /quote/{symbol}: $0.0005
  # GET /records: {price: $0.01 per 100 records, up_to: $0.10, count: header X-Record-Count}
  # POST /generate:
  #   price: $0.00001 per token
  #   minimum: $0.0002
  #   up_to: $0.02                   # signed by the buyer before work; never charged beyond
  #   count: json usage.total_tokens
  # GET /feed: {price: $0.0005, bundle: 100 calls, valid: 24h}            # what a transfer each would cost is shared by 100
  # GET /report: {price: $0.05, stages: [outline 20%%, draft 30%%, final 50%%]}
  # POST /job: {price: $1, validation: {registry: 0x…, validator: 0x…, agent: 42, score: 80}}   # guarantees are payable once it answers so
`
