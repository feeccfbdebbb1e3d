package main

import (
	"context"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/x402"
)

type payCmd struct {
	To     string `arg:"" optional:"" help:"Address to pay."`
	Amount string `arg:"" optional:"" help:"How much: 2.50 or '$2.50'."`

	Asset       string   `default:"USDC" help:"Token, by symbol or address."`
	Facilitator string   `help:"URL of who brings the transfer to the chain, and pays its gas." env:"FARTHING_FACILITATOR" placeholder:"URL"`
	APIKey      string   `name:"api-key" help:"Key for the facilitator." env:"FARTHING_API_KEY" placeholder:"KEY"`
	Direct      bool     `help:"Send it from your own account, and pay the gas yourself."`
	ID          string   `name:"id" help:"Your own name for this payment, such as an invoice's number: it is made once." placeholder:"NAME"`
	Max         string   `default:"$10" help:"Most that one payment may come to."`
	PerDay      string   `default:"$100" help:"Most that all payments of a day (UTC) may come to."`
	Resume      string   `help:"Finish a payment whose outcome is not known." placeholder:"ID"`
	Receipt     string   `help:"Print the receipt of a payment, or of all with 'all'." placeholder:"ID"`
	Timeout     string   `default:"120s" help:"How long to wait in all."`
	RPCURL      []string `name:"rpc-url" help:"JSON-RPC of the chain, to see what you hold and what became of payments." env:"FARTHING_RPC_URL" placeholder:"URL"`
	Journal     string   `help:"File of payments; default payments.journal in farthing's folder." placeholder:"FILE"`
}

// Help is the long help.
func (*payCmd) Help() string {
	return `A facilitator brings the transfer to the chain and pays its gas; with --direct your own account does.

  farthing pay 0x… 2.50 --network base --facilitator URL
  farthing pay 0x… 2.50 --network base --direct --rpc-url URL

With --id the same payment is made once, however often it is asked for.
Exit 3: your own limit; 4: refused; 5: not known whether it counts, and --resume ID finishes it.`
}

func (c *payCmd) Run(r *run) error {
	modes := 0
	for _, given := range []string{c.To, c.Resume, c.Receipt} {
		if given != "" {
			modes++
		}
	}
	if modes != 1 || (c.To == "") != (c.Amount == "") {
		return misuse("give one of an ADDRESS with an AMOUNT, --resume ID and --receipt ID").hint("farthing pay 0x… 2.50 --network base --facilitator URL")
	}
	if c.Direct && c.Facilitator != "" && !r.cli.Dev {
		return misuse("--direct and --facilitator exclude each other: who pays the gas?")
	}
	timeout, err := time.ParseDuration(c.Timeout)
	if err != nil || timeout <= 0 {
		return misuse("--timeout %q is no duration", c.Timeout).hint("such as 30s")
	}
	ctx, cancel := context.WithTimeout(r.ctx, timeout)
	defer cancel()
	p, done, err := c.payer(r)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case c.Receipt != "":
		return printReceipts(r, p, c.Receipt)
	case c.Resume != "":
		receipt, err := p.ResumePay(ctx, c.Resume)
		return c.paid(r, p, receipt, err)
	}
	to, err := evm.ParseAddress(c.To)
	if err != nil {
		return misuse("%q is no address", c.To).hint("0x and 40 hexadecimal digits")
	}
	if err := sameLetterCases(c.To, to); err != nil {
		return err
	}
	c.Amount = strings.TrimPrefix(c.Amount, "$") // as deposit and --max are written; only dollars can be paid
	var options []payer.PayOption
	if c.ID != "" {
		options = append(options, payer.As(c.ID))
	}
	if name := c.network(r); name != "" {
		options = append(options, payer.On(name))
	}
	if r.cli.DryRun {
		would, err := p.Check(to, c.Amount, c.Asset, options...)
		if err != nil {
			return err
		}
		return r.emit(receiptJSON(would), "would pay %s %s to %s on %s, gas paid by %s\n", c.Amount, would.Asset.Symbol, to, would.Network, c.gasPayer())
	}
	receipt, err := p.Pay(ctx, to, c.Amount, c.Asset, options...)
	return c.paid(r, p, receipt, err)
}

// sameLetterCases refuses an address whose letter cases say that one of its digits is mistyped (EIP-55).
func sameLetterCases(text string, a evm.Address) error {
	digits := strings.TrimPrefix(strings.TrimPrefix(text, "0x"), "0X")
	if digits == strings.ToLower(digits) || digits == strings.ToUpper(digits) || "0x"+digits == a.String() {
		return nil
	}
	return misuse("%s: its letter cases do not fit its digits, so one of them is mistyped", text)
}

func (c *payCmd) network(r *run) string {
	if r.cli.Dev {
		return "dev"
	}
	return r.cli.Network
}

// gasPayer says who pays for the transaction.
func (c *payCmd) gasPayer() string {
	if c.Direct {
		return "your own account"
	}
	return "the facilitator " + c.Facilitator
}

func (c *payCmd) paid(r *run, p *payer.Payer, receipt payer.Purchase, err error) error {
	if err != nil {
		return err
	}
	line := receipt.String() + " · gas paid by " + c.gasPayer()
	if receipt.State != payer.Charged {
		line = receipt.String()
	}
	if left, err := p.Left(); err == nil && left.Today != nil {
		line += " · budget left " + left.Today.String() + " today"
	}
	return r.emit(receiptJSON(receipt), "%s\n", line)
}

// payer opens the account: its key, its journal, and who brings its payments to the chain.
func (c *payCmd) payer(r *run) (p *payer.Payer, done func(), err error) {
	config := payer.Config{Budget: payer.Budget{PerCall: c.Max, PerDay: c.PerDay}, Journal: c.Journal, Now: r.Now}
	if r.cli.Verbose {
		config.Log = r.log
	}
	all, err := r.networks()
	if err != nil {
		return nil, nil, err
	}
	config.Registry = &all
	if name := c.network(r); name != "" {
		config.Networks = []string{name}
	}
	key, err := r.ownKey("buyer")
	if err != nil {
		return nil, nil, err
	}
	config.Key = key
	urls := c.RPCURL
	if r.cli.Dev && c.Receipt == "" {
		live, _, err := r.devBuyer(key, &all, r.fund)
		if err != nil {
			return nil, nil, err
		}
		urls = []string{live.Chain}
		if c.Facilitator == "" {
			c.Facilitator = live.House
		}
	}
	wallet := &chainWallet{key: key}
	if c.Receipt == "" && !r.cli.DryRun {
		if wallet, err = r.wallet(key, urls); err != nil {
			return nil, nil, err
		}
	}
	if len(wallet.clients) > 0 {
		config.Wallet = wallet
	}
	switch {
	case c.Receipt != "" || r.cli.DryRun:
	case c.Direct && len(wallet.clients) == 0:
		wallet.Close()
		return nil, nil, misuse("through which node?").hint("--rpc-url URL, or FARTHING_RPC_URL")
	case c.Direct:
		config.Sender = ownSender{r, wallet}
	case c.Facilitator == "":
		wallet.Close()
		return nil, nil, misuse("who brings the transfer to the chain?").hint("--facilitator URL, which pays the gas; or --direct, and you pay it")
	default:
		header := map[string][]string{}
		if c.APIKey != "" {
			header["X-API-Key"] = []string{c.APIKey}
		}
		config.Facilitator = &x402.Client{Base: c.Facilitator, Header: header}
	}
	if config.Journal == "" {
		name := []string{"payments.journal"}
		if r.cli.Dev {
			name = []string{"dev", "payments.journal"}
		}
		if config.Journal, err = r.inFolder(name...); err != nil {
			wallet.Close()
			return nil, nil, err
		}
	}
	if p, err = payer.New(config); err != nil {
		wallet.Close()
		return nil, nil, err
	}
	return p, func() { p.Close(); wallet.Close() }, nil
}
