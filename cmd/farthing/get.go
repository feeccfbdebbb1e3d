package main

import (
	"cmp"
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
	"github.com/farthing402/farthing/network"
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
	PayBy      []string `name:"pay-by" help:"Ways to pay that may be used: guarantee, exact, upto; default all, the cheapest first." placeholder:"WAY"`
	Asset      []string `help:"Tokens that may be paid in, by symbol or address; default all dollars." placeholder:"TOKEN"`
	Rebuy      bool     `help:"Buy anew where the seller denies a bundle that was paid for; the rest of it is given up."`
	Again      bool     `help:"Pay again although an earlier payment for this very request is not confirmed."`
	TrustPayee string   `name:"trust-payee" help:"Accept that the seller is now paid at this address." placeholder:"0x…"`
	Timeout    string   `default:"60s" help:"How long to wait in all."`

	ClearingHouse string   `name:"clearing-house" help:"URL of the clearing house that holds your collateral." env:"FARTHING_CLEARING_HOUSE" placeholder:"URL"`
	RPCURL        []string `name:"rpc-url" help:"JSON-RPC of a chain where your account holds money, to see before signing what it holds; one for each chain." env:"FARTHING_RPC_URL" placeholder:"URL"`
	Journal       string   `help:"File of purchases; default purchases.journal in farthing's folder." placeholder:"FILE"`
}

// devCollateral is what a development buyer has in the vault before its first purchase.
var devCollateral = money.Units(10_000_000)

// Help is the long help.
func (*getCmd) Help() string {
	return `The answer is on standard output, what it cost on the error stream. Of the seller's ways to pay it takes the cheapest
that --max, --per-day and your money allow; --dry-run shows the offers and signs nothing.

  farthing get --dev --max '$0.01' http://localhost:4020/quote/ACME
  farthing get --network base-sepolia --key buyer.json --rpc-url URL --max '$0.02' http://localhost:4020/quote/ACME

With --rpc-url it sees what your account holds before it signs, and can allow in the payment what "upto" needs.
Exit 3: your own limit; 4: the seller refused; 5: not known whether it counts, and --resume ID asks again without paying.`
}

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
	p, done, err := c.payer(r)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case c.Receipt != "":
		return printReceipts(r, p, c.Receipt)
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
	if err := c.unconfirmed(r, p, req); err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: p}).Do(req)
	if err != nil {
		return c.lost(err)
	}
	return c.answer(r, p, resp)
}

// unconfirmed stops a request that was sent before with a payment whose outcome nobody knows: whoever repeats a command
// that crashed means the same purchase.
func (c *getCmd) unconfirmed(r *run, p *payer.Payer, req *http.Request) error {
	if c.Again {
		return nil
	}
	var body []byte
	if req.GetBody != nil {
		again, err := req.GetBody()
		if err != nil {
			return err
		}
		if body, err = io.ReadAll(again); err != nil {
			return err
		}
	}
	open, ok, err := p.Unconfirmed(r.ctx, req.Method, req.URL, body)
	if err != nil || !ok {
		return err
	}
	return fail("settlement_pending", "a payment for this very request was sent at %s and is not confirmed. It may still be charged, once", open.At.UTC().Format(time.RFC3339)).
		hint("farthing get --resume %s; or --again pays a second time", open.ID)
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
	all, err := r.networks()
	if err != nil {
		return err
	}
	for _, way := range terms.Accepts {
		if err := r.emit(way, "would sign at most %s\n", wouldSign(all, way)); err != nil {
			return err
		}
	}
	return nil
}

// wouldSign says what an offer asks for: as money where the token is known.
func wouldSign(all network.Registry, way x402.Requirements) string {
	sum, where := fmt.Sprintf("%s units of %s", way.Amount, way.Asset), way.Network
	if chain, err := all.Lookup(way.Network); err == nil {
		where = chain.Name
		token, unknown := chain.Token(way.Asset)
		if amount, err := money.ParseAmount(way.Amount); err == nil && unknown == nil {
			sum = money.Format(amount, token.Decimals, token.Symbol)
		}
	}
	text := fmt.Sprintf("%s on %s for %s, by %s", sum, where, way.PayTo, way.Scheme)
	var terms []string
	for _, name := range []string{"price", "completion", "refund"} {
		if said := way.ExtraString(name); said != "" {
			terms = append(terms, said)
		}
	}
	if len(terms) > 0 {
		text += " (" + strings.Join(terms, ", ") + ")"
	}
	return text
}

// lost explains an error that carries none of our codes: then nothing was signed.
func (c *getCmd) lost(err error) error {
	if _, ok := x402.AsError(err); ok {
		return err
	}
	return fail("seller_unreachable", "%v. Nothing was signed", err)
}

// payer opens the buyer: its key, its journal, the chains that it looks at and, with --dev, its money.
func (c *getCmd) payer(r *run) (p *payer.Payer, done func(), err error) {
	config := payer.Config{
		Budget: payer.Budget{PerCall: c.Max, PerDay: c.PerDay}, ClearingHouse: c.ClearingHouse, Journal: c.Journal, Now: r.Now,
		PayBy: c.PayBy, Assets: c.Asset,
	}
	if r.cli.Verbose { // what matters is said by the error
		config.Log = r.log
	}
	var trusted evm.Address
	if c.TrustPayee != "" {
		if trusted, err = evm.ParseAddress(c.TrustPayee); err != nil {
			return nil, nil, misuse("--trust-payee: %v", err)
		}
	}
	config.Ask = func(_ context.Context, n payer.Need) payer.Decision {
		if n.Code == "payee_changed" && n.Payee == trusted || n.Code == "bundle_disputed" && c.Rebuy {
			return payer.Proceed
		}
		return payer.Stop
	}
	if names := r.cli.Network; names != "" {
		config.Networks = strings.Split(names, ",")
	}
	all, err := r.networks()
	if err != nil {
		return nil, nil, err
	}
	config.Registry = &all
	key, err := r.ownKey("buyer")
	if err != nil {
		return nil, nil, err
	}
	config.Key = key
	var wallet *chainWallet
	if offline := c.Receipt != ""; !offline {
		urls := c.RPCURL
		if r.cli.Dev {
			live, on, err := r.devBuyer(key, &all, r.devFunds)
			if err != nil {
				return nil, nil, err
			}
			config.ClearingHouse, config.Networks, urls = live.House, []string{on}, []string{live.Chain}
		}
		if wallet, err = r.wallet(key, urls); err != nil {
			return nil, nil, err
		}
		if len(wallet.clients) > 0 {
			config.Wallet = wallet
		}
	}
	release := func() {
		if wallet != nil {
			wallet.Close()
		}
	}
	if config.Journal == "" {
		name := []string{"purchases.journal"}
		if r.cli.Dev {
			name = []string{"dev", "purchases.journal"}
		}
		if config.Journal, err = r.inFolder(name...); err != nil {
			release()
			return nil, nil, err
		}
	}
	if p, err = payer.New(config); err != nil {
		release()
		return nil, nil, err
	}
	return p, func() { p.Close(); release() }, nil
}

// devBuyer gives a development buyer its money, adds the tokens that are cleared there to the networks, and returns where the
// development chain and its clearing house are, and what the network is called.
func (r *run) devBuyer(key *evm.PrivateKey, all *network.Registry, fund func(*venue, *evm.PrivateKey) error) (live devState, on string, err error) {
	v, err := r.venue(venueFlags{Asset: "USDC"}, key)
	if err != nil {
		return live, "", err
	}
	defer v.Close()
	if err := fund(v, key); err != nil {
		return live, "", err
	}
	if *all, err = paidOn(*all, v.Chain); err != nil {
		return live, "", err
	}
	live, err = r.findDev()
	return live, v.Chain.Name, err
}

// devFunds sees to it that a development buyer has collateral, and that the clearing house counts it.
func (r *run) devFunds(v *venue, key *evm.PrivateKey) error {
	free := func() (money.Amount, error) {
		b, err := v.House.Balance(r.ctx, key.Address(), v.Token.Address)
		return b.Headroom, err
	}
	held, err := v.Client.TokenBalance(r.ctx, v.Token.Address, key.Address())
	if err != nil {
		return err
	}
	if held.Less(money.Units(1_000_000)) { // for transfers
		if err := r.fund(v, key); err != nil {
			return err
		}
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
		line, open := receipt.String(), receipt.Assumed && resp.StatusCode == http.StatusAccepted
		if open {
			line = fmt.Sprintf("reserved %s for %s by %s · purchase %s", money.Format(receipt.Signed, receipt.Asset.Decimals, "$"), receipt.Payee.Short(), receipt.Way, receipt.ID)
		}
		if left, err := p.Left(); err == nil && left.Today != nil {
			line += fmt.Sprintf(" · budget left %s today", left.Today)
		}
		dev := ""
		if r.cli.Dev {
			dev = "--dev "
		}
		r.say("%s · receipt: farthing get %s--receipt %s", line, dev, receipt.ID)
		if open {
			r.say("the work goes on, and counts in full until it is known what it cost: farthing get %s--resume %s", dev, receipt.ID)
		}
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
	Credit   string      `json:"credit,omitempty"`        // that paid besides
	Digest   *evm.Hash   `json:"guarantee,omitempty"`     // of a guarantee
	Payment  *evm.Hash   `json:"authorization,omitempty"` // of a transfer, or a draw
	Tx       string      `json:"transaction,omitempty"`
	Code     string      `json:"code,omitempty"`
	Attest   string      `json:"signedReceipt,omitempty"` // attested, refuted
	Bundle   *bundleView `json:"bundle,omitempty"`

	Returned *payer.Returned `json:"returned,omitempty"`

	Proof any `json:"certificate,omitempty"`
}

// bundleView is what is left of a bundle, by our own count and by the seller's.
type bundleView struct {
	Purchase string    `json:"purchase"`
	Unit     string    `json:"unit"`
	Total    uint64    `json:"total"`
	Left     uint64    `json:"left"`
	Says     *uint64   `json:"sellerSays,omitempty"`
	Disputed bool      `json:"disputed,omitempty"`
	Expires  time.Time `json:"expires"`
}

func receiptJSON(p payer.Purchase) receiptView {
	v := receiptView{
		Purchase: p.ID, State: p.State, At: p.At, Method: p.Method, URL: p.URL, Way: p.Way, Network: p.Network, Asset: p.Address,
		Payee: p.Payee, Signed: p.Signed.String(), Charged: p.Charged.String(), Tx: p.Transaction, Code: p.Code, Attest: string(p.Attest), Returned: p.Returned,
	}
	if !p.Credit.IsZero() {
		v.Credit = p.Credit.String()
	}
	switch {
	case p.Digest.IsZero():
	case p.Way == "guarantee":
		v.Digest = &p.Digest
	default:
		v.Payment = &p.Digest
	}
	if b := p.Bundle; b != nil {
		v.Bundle = &bundleView{b.Purchase, cmp.Or(b.Unit, "call"), b.Total, b.Left, b.SellerSays, b.Disputed, b.Expires}
	}
	if p.Certificate != nil {
		v.Proof = p.Certificate
	}
	return v
}

// printReceipts prints a receipt, or all of a journal.
func printReceipts(r *run, p *payer.Payer, which string) error {
	if which != "all" {
		receipt, err := p.ReceiptOf(which)
		if err != nil {
			return err
		}
		return r.emit(receiptJSON(receipt), "%s\n%s %s %s\n%s %s\n", receipt, receipt.At.UTC().Format(time.RFC3339), receipt.Method, receipt.URL, receipt.Way, receipt.Digest)
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
