package payer

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// Config is what a [Payer] works with. Key and Budget.PerCall must be set; the zero value of each other member is what its
// comment says.
type Config struct {
	Key    evm.Signer
	Budget Budget
	// Journal is the file in which purchases are written down. Processes that share it share the budget. Empty: in
	// memory, so that a restart forgets what was spent and what was paid for.
	Journal string
	// Ask is asked before a purchase is given up for budget_exceeded, seller_not_allowed or payee_changed; it may be
	// called concurrently. Nil: always [Stop].
	Ask func(context.Context, Need) Decision

	// ClearingHouse is the URL of the clearing house that holds the buyer's collateral. Its parameters say for which
	// vault may be signed; sellers have no say in that. Without one, and without Houses, no guarantees are given.
	ClearingHouse string
	// Houses are deployments for which may be signed besides, or instead.
	Houses []guarantee.Deployment

	Networks []string          // names of networks that may be paid on; empty: all that Registry and the houses have
	PayBy    []string          // ways to pay that may be used: guarantee, exact, upto; empty: all
	Assets   []string          // symbols or addresses of tokens that may be paid in; empty: all dollars
	Registry *network.Registry // nil: the one that ships

	// Wallet tells what the account holds, and what became of payments. Nil: nothing is checked before it is signed, and
	// what a seller says of a transfer is not compared with the chain.
	Wallet Wallet

	Facilitator x402.Facilitator // brings what Pay signs to the chain; nil: nobody does
	Sender      Sender           // sends what Pay pays from the payer's own account, in place of the facilitator

	Transport http.RoundTripper // nil: http.DefaultTransport
	Now       func() time.Time  // nil: time.Now
	// Wait waits between attempts to fetch a lost answer. Nil: a timer.
	Wait func(context.Context, time.Duration) error
	Rand io.Reader    // of purchase ids; nil: crypto/rand
	Log  *slog.Logger // nil: silence
}

// Payer answers 402 with payments. It implements [http.RoundTripper]. Make one with [New].
type Payer struct {
	Config
	limits   limits
	registry network.Registry
	journal  *journal
	house    *client.Client // nil if only Houses are trusted

	queues queues // of those who buy bundles

	randMu sync.Mutex // Rand need not be safe for concurrent use
}

var _ http.RoundTripper = (*Payer)(nil)

// New makes a payer. It reads the journal, and speaks to nobody yet. Errors have the codes config_invalid,
// network_unknown, asset_unknown and journal_unusable.
func New(c Config) (*Payer, error) {
	p := &Payer{Config: c, registry: network.Known()}
	if c.Registry != nil {
		p.registry = *c.Registry
	}
	if p.Transport == nil {
		p.Transport = http.DefaultTransport
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Wait == nil {
		p.Wait = wait
	}
	if p.Rand == nil {
		p.Rand = rand.Reader
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if c.Key == nil {
		return nil, x402.Errorf("config_invalid", "payer: no key to sign with").WithHint("farthing key new makes one")
	}
	if c.Budget.PerCall == "" {
		return nil, x402.Errorf("config_invalid", "payer: the budget has no limit per call").WithHint("say what one call may cost, such as $0.01")
	}
	var err error
	if p.limits, err = c.Budget.limits(); err != nil {
		return nil, err
	}
	for _, name := range c.Networks {
		if _, err := p.registry.Lookup(name); err != nil {
			return nil, tabled(err)
		}
	}
	for _, name := range c.PayBy {
		if !slices.Contains(waysKnown, name) {
			return nil, x402.Errorf("config_invalid", "no way to pay is called %q", clip(name)).WithHint("%s", strings.Join(waysKnown, ", "))
		}
	}
	if err := p.checkAssets(); err != nil {
		return nil, err
	}
	if c.ClearingHouse != "" {
		if p.house, err = client.New(c.ClearingHouse); err != nil {
			return nil, err
		}
	}
	if p.journal, err = openJournal(c.Journal, p.limits, p.Now, p.Log); err != nil {
		return nil, err
	}
	return p, nil
}

// waysKnown are the names that PayBy may have.
var waysKnown = []string{"guarantee", exact.Scheme, exact.UptoScheme}

// Close lets the journal go. Purchases under way can no longer be written down afterwards.
func (p *Payer) Close() error {
	p.journal.mu.Lock()
	defer p.journal.mu.Unlock()
	p.journal.close()
	return nil
}

// checkAssets refuses an asset that no network knows: it would silently never be paid in.
func (p *Payer) checkAssets() error {
	for _, name := range p.Assets {
		var last error
		known := false
		for _, chain := range p.registry.Chains() {
			if _, err := chain.Token(name); err != nil {
				last = err
			} else {
				known = true
			}
		}
		if !known && last != nil {
			return tabled(last)
		}
	}
	return nil
}

// Left is what the budget allows now. Nil is no limit.
type Left struct{ PerCall, Today, Total *money.Money }

// Left returns what is left of the budget. What may still be charged counts as spent.
func (p *Payer) Left() (Left, error) {
	r, err := p.journal.budget()
	if err != nil {
		return Left{}, errJournal(p.Journal, err)
	}
	shown := func(a *money.Amount) *money.Money {
		if a == nil {
			return nil
		}
		m := dollars(*a)
		return &m
	}
	return Left{shown(&p.limits.call), shown(r.day), shown(r.total)}, nil
}

// houses returns the deployments for which may be signed.
func (p *Payer) houses(ctx context.Context) ([]guarantee.Deployment, error) {
	if p.house == nil {
		return p.Houses, nil
	}
	params, err := p.house.Params(ctx)
	if err != nil {
		return nil, err
	}
	return append([]guarantee.Deployment{params.Deployment}, p.Houses...), nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func tabled(err error) error {
	if e, ok := x402.AsError(err); ok {
		return e
	}
	return err
}
