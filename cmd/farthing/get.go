package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/x402"
)

type getCmd struct {
	URL        string   `arg:"" optional:"" help:"What to ask for."`
	Method     string   `short:"X" help:"Method; default GET, or POST with -d." placeholder:"METHOD"`
	Data       string   `short:"d" help:"Body; @FILE reads it from a file, @- from standard input." placeholder:"DATA"`
	Header     []string `short:"H" help:"Header, such as 'Accept: text/plain'; may be given more than once." placeholder:"LINE"`
	Output     string   `short:"o" help:"File for the answer's body." placeholder:"FILE"`
	Max        string   `default:"$0.01" help:"Most that this request may cost."`
	PerDay     string   `default:"$1" help:"Most that all requests of a day (UTC) may cost."`
	Resume     string   `help:"Ask again for a purchase whose answer was lost, with the same payment." placeholder:"ID"`
	Receipt    string   `help:"Print the receipt of a purchase, or of all with 'all'." placeholder:"ID"`
	TrustPayee string   `name:"trust-payee" help:"Accept that the seller is now paid at this address." placeholder:"0x…"`
	Timeout    string   `default:"60s" help:"How long to wait in all."`

	ClearingHouse string `name:"clearing-house" help:"URL of the clearing house that holds your collateral." env:"FARTHING_CLEARING_HOUSE" placeholder:"URL"`
	Journal       string `help:"File of purchases; default purchases.journal in farthing's folder." placeholder:"FILE"`
}

// devCollateral is what a development buyer has in the vault before its first purchase.
var devCollateral = money.Units(10_000_000)

func (c *getCmd) Run(r *run) error {
	modes := 0
	for _, given := range []string{c.URL, c.Resume, c.Receipt} {
		if given != "" {
			modes++
		}
	}
	if modes != 1 {
		return misuse("give one of a URL, --resume ID and --receipt ID").hint("farthing get --max '$0.01' http://localhost:4020/quote/ACME")
	}
	timeout, err := time.ParseDuration(c.Timeout)
	if err != nil || timeout <= 0 {
		return misuse("--timeout %q is no duration", c.Timeout).hint("such as 30s")
	}
	ctx, cancel := context.WithTimeout(r.ctx, timeout)
	defer cancel()
	if r.cli.DryRun {
		return c.ask(r, ctx)
	}
	p, err := c.payer(r)
	if err != nil {
		return err
	}
	defer p.Close()
	switch {
	case c.Receipt != "":
		return c.receipts(r, p)
	case c.Resume != "":
		resp, err := p.Resume(ctx, c.Resume)
		if err != nil {
			return err
		}
		return c.answer(r, p, resp)
	}
	req, err := c.request(r, ctx)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: p}).Do(req)
	if err != nil {
		return c.lost(err)
	}
	return c.answer(r, p, resp)
}

// ask requests without paying, and says what it would cost.
func (c *getCmd) ask(r *run, ctx context.Context) error {
	if c.URL == "" {
		return misuse("--dry-run asks what a URL costs; --resume and --receipt sign nothing anyway")
	}
	req, err := c.request(r, ctx)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return c.lost(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPaymentRequired {
		return r.emit(map[string]any{"status": resp.StatusCode, "accepts": []any{}}, "%s answers %s without payment\n", c.URL, resp.Status)
	}
	terms, _, err := x402.ParsePaymentRequired(resp)
	if err != nil {
		return err
	}
	for _, way := range terms.Accepts {
		if err := r.emit(way, "would sign at most %s units of %s on %s for %s, by %s (%s, %s)\n", way.Amount, way.Asset, way.Network, way.PayTo, way.Scheme,
			way.ExtraString("price"), way.ExtraString("completion")); err != nil {
			return err
		}
	}
	return nil
}

// lost explains an error that carries none of our codes: then nothing was signed.
func (c *getCmd) lost(err error) error {
	if _, ok := x402.AsError(err); ok {
		return err
	}
	return fail("seller_unreachable", "%v. Nothing was signed", err)
}

// payer opens the buyer: its key, its journal and, with --dev, its collateral.
func (c *getCmd) payer(r *run) (*payer.Payer, error) {
	config := payer.Config{
		Budget: payer.Budget{PerCall: c.Max, PerDay: c.PerDay}, ClearingHouse: c.ClearingHouse, Journal: c.Journal, Now: r.Now,
	}
	if r.cli.Verbose { // what matters is said by the error
		config.Log = r.log
	}
	if c.TrustPayee != "" {
		trusted, err := evm.ParseAddress(c.TrustPayee)
		if err != nil {
			return nil, misuse("--trust-payee: %v", err)
		}
		config.Ask = func(_ context.Context, n payer.Need) payer.Decision {
			if n.Code == "payee_changed" && n.Payee == trusted {
				return payer.Proceed
			}
			return payer.Stop
		}
	}
	if name := r.cli.Network; name != "" {
		config.Networks = []string{name}
	}
	all, err := r.networks()
	if err != nil {
		return nil, err
	}
	config.Registry = &all
	key, err := r.ownKey("buyer")
	if err != nil {
		return nil, err
	}
	config.Key = key
	offline := c.Receipt != ""
	if r.cli.Dev && !offline {
		v, err := r.venue(venueFlags{Asset: "USDC"})
		if err != nil {
			return nil, err
		}
		defer v.Close()
		if err := r.devFunds(v, key); err != nil {
			return nil, err
		}
		config.ClearingHouse, config.Networks = v.House.URL(), []string{v.Chain.Name}
		if all, err = clearedOn(all, v.Chain); err != nil {
			return nil, err
		}
	}
	if config.Journal == "" {
		name := []string{"purchases.journal"}
		if r.cli.Dev {
			name = []string{"dev", "purchases.journal"}
		}
		if config.Journal, err = r.inFolder(name...); err != nil {
			return nil, err
		}
	}
	if config.ClearingHouse == "" && offline {
		config.ClearingHouse = "http://127.0.0.1" // not asked: receipts are in the journal
	}
	if config.ClearingHouse == "" {
		return nil, misuse("which clearing house holds your collateral?").hint("--clearing-house URL, or FARTHING_CLEARING_HOUSE; --dev for the one on this machine")
	}
	return payer.New(config)
}

// devFunds sees to it that a development buyer has collateral, and that the clearing house counts it.
func (r *run) devFunds(v *venue, key *evm.PrivateKey) error {
	free := func() (money.Amount, error) {
		b, err := v.House.Balance(r.ctx, key.Address(), v.Token.Address)
		return b.Headroom, err
	}
	have, err := free()
	if err != nil || !have.Less(money.Units(1_000_000)) {
		return err
	}
	r.say("a new development buyer %s: putting %s of test money into the vault", key.Address().Short(), v.format(devCollateral))
	if err := r.fund(v, key); err != nil {
		return err
	}
	calls, err := depositCalls(r, v, key.Address(), devCollateral, true)
	if err != nil {
		return err
	}
	for i := range calls {
		calls[i].GasLimit = 300_000 // stated, so that all go into one block
	}
	if err := r.send(v, key, calls...); err != nil {
		return err
	}
	for {
		now, err := free()
		if err != nil || have.Less(now) {
			return err
		}
		if err := sleep(r.ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (c *getCmd) request(r *run, ctx context.Context) (*http.Request, error) {
	method, body := c.Method, io.Reader(nil)
	if c.Data != "" {
		if method == "" {
			method = http.MethodPost
		}
		text, err := c.data(r)
		if err != nil {
			return nil, err
		}
		body = strings.NewReader(text)
	}
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL, body)
	if err != nil || req.URL.Host == "" || req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return nil, misuse("%q is no http or https address", c.URL)
	}
	req.Header.Set("User-Agent", "farthing")
	for _, line := range c.Header {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, misuse("-H %q: want 'Name: value'", line)
		}
		req.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return req, nil
}

func (c *getCmd) data(r *run) (string, error) {
	file, ok := strings.CutPrefix(c.Data, "@")
	if !ok {
		return c.Data, nil
	}
	in := r.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", misuse("-d: %v", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(in)
	return string(text), err
}

// answer writes the body to standard output or a file, and what it cost to the error stream.
func (c *getCmd) answer(r *run, p *payer.Payer, resp *http.Response) error {
	defer resp.Body.Close()
	var copyErr error
	if c.Output != "" {
		copyErr = toFile(c.Output, resp.Body)
	} else if r.cli.JSON {
		body, err := io.ReadAll(resp.Body)
		copyErr = err
		defer func() { c.jsonAnswer(r, resp, body) }()
	} else {
		_, copyErr = io.Copy(r.Out, resp.Body)
	}
	receipt, paid := payer.Receipt(resp)
	if paid && !r.cli.JSON {
		line := receipt.String()
		if left, err := p.Left(); err == nil && left.Today != nil {
			line += fmt.Sprintf(" · budget left %s today", left.Today)
		}
		dev := ""
		if r.cli.Dev {
			dev = "--dev "
		}
		r.say("%s · receipt: farthing get %s--receipt %s", line, dev, receipt.ID)
	}
	if copyErr != nil {
		if paid && receipt.State == payer.Charged {
			return fail("settlement_pending", "the answer was cut off: %v. It was paid for", copyErr).hint("farthing get --resume %s", receipt.ID)
		}
		return fmt.Errorf("the answer was cut off: %w", copyErr)
	}
	if resp.StatusCode >= 400 {
		return fail("seller_error", "%s answered %s", resp.Request.URL.Redacted(), resp.Status).hint("see what it says above")
	}
	return nil
}

func (c *getCmd) jsonAnswer(r *run, resp *http.Response, body []byte) {
	out := map[string]any{"status": resp.StatusCode, "body": string(body)}
	if json.Valid(body) {
		out["body"] = json.RawMessage(body)
	}
	if receipt, ok := payer.Receipt(resp); ok {
		out["purchase"] = receiptJSON(receipt)
	}
	_ = json.NewEncoder(r.Out).Encode(out)
}

// toFile writes an answer to a file that is there whole or not at all.
func toFile(path string, body io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, body)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// receiptView is a receipt as JSON. Amounts are smallest units.
type receiptView struct {
	Purchase string      `json:"purchase"`
	State    payer.State `json:"state"`
	At       time.Time   `json:"at"`
	Method   string      `json:"method"`
	URL      string      `json:"url"`
	Way      string      `json:"way"`
	Network  string      `json:"network"`
	Asset    evm.Address `json:"asset"`
	Payee    evm.Address `json:"payee"`
	Signed   string      `json:"signed"`
	Charged  string      `json:"charged"`
	Digest   evm.Hash    `json:"guarantee"`
	Code     string      `json:"code,omitempty"`
	Proof    any         `json:"certificate,omitempty"`
}

func receiptJSON(p payer.Purchase) receiptView {
	v := receiptView{
		Purchase: p.ID, State: p.State, At: p.At, Method: p.Method, URL: p.URL, Way: p.Way, Network: p.Network, Asset: p.Address,
		Payee: p.Payee, Signed: p.Signed.String(), Charged: p.Charged.String(), Digest: p.Digest, Code: p.Code,
	}
	if p.Certificate != nil {
		v.Proof = p.Certificate
	}
	return v
}

func (c *getCmd) receipts(r *run, p *payer.Payer) error {
	if c.Receipt != "all" {
		receipt, err := p.ReceiptOf(c.Receipt)
		if err != nil {
			return err
		}
		return r.emit(receiptJSON(receipt), "%s\n%s %s %s\nguarantee %s\n", receipt, receipt.At.UTC().Format(time.RFC3339), receipt.Method, receipt.URL, receipt.Digest)
	}
	all, err := p.Receipts()
	if err != nil {
		return err
	}
	for _, receipt := range all {
		if err := r.emit(receiptJSON(receipt), "%s  %s %s\n", receipt, receipt.Method, receipt.URL); err != nil {
			return err
		}
	}
	return nil
}
