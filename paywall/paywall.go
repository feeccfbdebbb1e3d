package paywall

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Defaults of [Config].
const (
	// DefaultQuoteLifetime leaves a person time to say yes, and a volatile price little time to be wrong.
	DefaultQuoteLifetime = 60 * time.Second
	// DefaultAnswerBytes is how much of an answer is held back and kept for whoever asks again.
	DefaultAnswerBytes = 1 << 20
	// DefaultHeldBytes is how large an answer may be that is held back until its payment has moved: what passes AnswerBytes
	// waits on disk.
	DefaultHeldBytes = 256 << 20
	// DefaultBodyBytes is the largest request body that is taken: it is held in memory, because the payment is for it.
	DefaultBodyBytes = 10 << 20
	// DefaultWait is how long a copy of a request waits for the first one before it is told to come back.
	DefaultWait = 2 * time.Second
)

// DefaultTabPath is where [Config].TabPath puts the handler of Tabs in programs that have no reason to put it elsewhere.
const DefaultTabPath = "/.well-known/x402/tab"

// House is a clearing house as a paywall sees it; [*client.Client] is one. Its answers are not trusted: certificates are
// verified here.
type House interface {
	Params(context.Context) (client.Params, error)
	Certify(context.Context, guarantee.Signed) (guarantee.Certificate, error)
	// CertifyAlone certifies by a signature of its own, which is what 4Mica's clients can verify.
	CertifyAlone(context.Context, guarantee.Signed) (guarantee.Certificate, error)
	Notes(context.Context, []guarantee.SignedNote) ([]error, error)
	Signers(ctx context.Context, owner evm.Address) ([]client.Signer, error)
	// Refund certifies a guarantee that gives a purchase back; cover are claims of the open cycle that may back it.
	Refund(ctx context.Context, s guarantee.Signed, cover []evm.Hash) (guarantee.Certificate, error)
}

// Config is what a [Paywall] needs to know. PayTo or Signer, Network, Purchases, and who takes the money are needed: a
// clearing house for guarantees, a facilitator for transfers.
type Config struct {
	PayTo         string        // address that is paid; empty: the Signer's
	Network       string        // base, eip155:8453, dev: any name that Networks knows
	ClearingHouse string        // its URL
	Purchases     purchase.Book // what survives a restart

	// Signer holds the payee's key, with which it signs that it takes less than it was promised; or one that the payee has
	// named for that in the vault, so that its own can stay where nobody gets at it. Without one nothing can be taken back,
	// and routes announce that they charge before work and refund nothing.
	Signer evm.Signer

	// Accept lists what is taken in payment, in order of preference: "guarantee", "exact", "upto", "exact on arbitrum in
	// USDT". Without "on" it is Network, without "in" every one of Assets. Nil: guarantee if there is a clearing house, exact
	// if there is a facilitator.
	Accept   []string
	Assets   []string          // symbols or addresses of the tokens that prices in $ are paid in; nil: the network's first dollar
	Networks *network.Registry // nil: those that ship
	House    House             // instead of ClearingHouse, for one in the same process

	// Facilitator is the URL of who verifies and settles transfers. Facilitators are asked besides, or instead, in their
	// order: the first that lists scheme and network is it.
	Facilitator  string
	Facilitators []x402.Facilitator
	// Witness looks at the chain with the seller's own eyes, where a facilitator's word is not enough. Nil: the facilitator
	// is believed about money that it says has moved.
	Witness Witness
	// Cashier pays refunds of transfers. Nil: they are given as credit, or by whoever opens the book with one.
	Cashier Cashier

	// BaseURL is the origin under which buyers reach the paywall, https://api.example.org. Empty: what the request says,
	// which is right unless something in front of the paywall changes scheme or host.
	BaseURL string
	// TabPath is where a handler made by Tabs answers, for clients of 4Mica, which ask there for a request id; empty:
	// none, and those clients do not pay.
	TabPath string

	HTTPClient    *http.Client     // to the clearing house and the facilitator; nil: a default one
	Now           func() time.Time // nil: time.Now
	Log           *slog.Logger     // nil: silence
	OnSale        func(Event)      // called once per request to a priced route, at its end; must not block
	QuoteLifetime time.Duration    // 0: DefaultQuoteLifetime
	AnswerBytes   int              // 0: DefaultAnswerBytes
	HeldBytes     int64            // 0: DefaultHeldBytes
	BodyBytes     int64            // 0: DefaultBodyBytes
	Wait          time.Duration    // 0: DefaultWait

	// Abandoned is how long another process may take over a purchase before this one counts it as lost and ends it. 0
	// says that there is no other: every purchase on the book that this paywall is not serving was left by a crash.
	// Paywalls that share a book must set it, to more than their slowest handler needs.
	Abandoned time.Duration

	// LateRefunds lets refunds and jobs go past the cutoff of their guarantee's cycle, as announced: what comes back then is a
	// guarantee the other way, for which the payee needs collateral, or what it earns in the cycle that is open. Without it
	// they end at the cutoff, except for what the seller gives back by hand.
	LateRefunds bool

	// SignOffers is the form, "eip712" or "jws", in which every offer and receipt is signed with the payee's key
	// (offer-receipt): who holds one can show what was promised. A signature costs each 402 and each sale 0.1 ms. Empty:
	// none are signed.
	SignOffers string

	DevNote string // added to every 402 where money is not real: "Development money."
	Help    string // URL of help for buyers, for the 402
}

// Paywall prices handlers. Make one with [New].
type Paywall struct {
	cfg      Config
	registry network.Registry
	chain    network.Chain // the one that prices and entries of Accept mean unless they say
	payee    evm.Address
	assets   []network.Token
	tenders  []tender // what is taken unless a route says, in order of preference
	base     *url.URL // nil: from the request
	house    House    // nil without guarantees
	transfer *transfers
	secret   [32]byte
	log      *slog.Logger
	wake     chan struct{}
	stop     context.CancelFunc
	done     chan struct{}

	mu       sync.Mutex
	flights  map[evm.Hash]chan struct{} // guarded by mu; payments being served here, closed when done
	names    map[string]*route          // guarded by mu; who was last served under a pattern
	faults   []error                    // guarded by mu; of routes
	did      string                     // guarded by mu; of the payee's key, empty until it signed
	verifier *verifier                  // guarded by mu; nil until the clearing house answered once
	namedAt  time.Time                  // guarded by mu; when the clearing house last said that Signer signs for the payee
}

// New makes a paywall and starts its goroutine. It reads the book's secret and asks nobody else: a clearing house that is
// down keeps nobody from starting. Errors are [*x402.Error] with code config_invalid, network_unknown or asset_unknown, and
// all of Config's faults are in one error.
func New(cfg Config) (*Paywall, error) {
	pw := &Paywall{
		cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), done: make(chan struct{}),
		flights: make(map[evm.Hash]chan struct{}), names: make(map[string]*route),
	}
	if pw.log == nil {
		pw.log = slog.New(slog.DiscardHandler)
	}
	if pw.cfg.Now == nil {
		pw.cfg.Now = time.Now
	}
	setDefault(&pw.cfg.QuoteLifetime, DefaultQuoteLifetime)
	setDefault(&pw.cfg.AnswerBytes, DefaultAnswerBytes)
	setDefault(&pw.cfg.HeldBytes, DefaultHeldBytes)
	setDefault(&pw.cfg.BodyBytes, DefaultBodyBytes)
	setDefault(&pw.cfg.Wait, DefaultWait)
	if err := errors.Join(pw.readPayee(), pw.readNetwork(), pw.readHouse(), pw.readFacilitators(), pw.readBase(), pw.readAccept()); err != nil {
		return nil, err
	}
	if cfg.SignOffers != "" && cfg.SignOffers != x402.FormatEIP712 && cfg.SignOffers != x402.FormatJWS {
		return nil, x402.Errorf("config_invalid", "sign_offers: no form is called %q", clip(cfg.SignOffers)).WithHint("eip712 or jws")
	}
	if cfg.Purchases == nil {
		return nil, x402.Errorf("config_invalid", "purchases: a book is needed, or one payment could buy twice").
			WithHint("store.Open(…), or paywall.Memory() in tests")
	}
	ctx, stop := context.WithCancel(context.Background())
	pw.stop = stop
	var err error
	if pw.secret, err = cfg.Purchases.Secret(ctx); err != nil {
		stop()
		return nil, x402.Errorf("config_invalid", "purchases: read the book's secret: %w", err)
	}
	go pw.work(ctx)
	return pw, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Memory returns a book that forgets everything when the process ends, for tests and development.
func Memory() purchase.Book { return purchase.NewMemory() }

func (pw *Paywall) readPayee() error {
	switch {
	case pw.cfg.PayTo == "" && pw.cfg.Signer == nil:
		return x402.Errorf("config_invalid", "pay_to: nobody to pay").WithHint("an address, or the key that holds one")
	case pw.cfg.PayTo == "":
		pw.payee = pw.cfg.Signer.Address()
		return nil
	}
	a, err := evm.ParseAddress(pw.cfg.PayTo)
	if err != nil || a.IsZero() {
		return x402.Errorf("config_invalid", "pay_to: %q is no address", clip(pw.cfg.PayTo))
	}
	pw.payee = a
	if pw.named() && pw.cfg.SignOffers != "" {
		return x402.Errorf("config_invalid", "sign_offers: offers are signed by who is paid, %s, and the key is of %s", a, pw.cfg.Signer.Address()).
			WithHint("leave sign_offers out, or give the payee's key")
	}
	return nil
}

// named reports whether notes are signed by a key that is not the payee's own.
func (pw *Paywall) named() bool { return pw.cfg.Signer != nil && pw.cfg.Signer.Address() != pw.payee }

func (pw *Paywall) readNetwork() error {
	pw.registry = network.Known()
	if pw.cfg.Networks != nil {
		pw.registry = *pw.cfg.Networks
	}
	var err error
	if pw.chain, err = pw.registry.Lookup(pw.cfg.Network); err != nil {
		return asError(err, "network_unknown")
	}
	if len(pw.cfg.Assets) == 0 {
		token, err := firstDollar(pw.chain)
		pw.assets = []network.Token{token}
		return err
	}
	for _, name := range pw.cfg.Assets {
		token, err := pw.chain.Token(name)
		if err != nil {
			return asError(err, "asset_unknown")
		}
		pw.assets = append(pw.assets, token)
	}
	return nil
}

func firstDollar(on network.Chain) (network.Token, error) {
	dollars := on.Dollars()
	if len(dollars) == 0 {
		return network.Token{}, x402.Errorf("asset_unknown", "no dollar token is known on %s", on)
	}
	return dollars[0], nil
}

func asError(err error, code string) error {
	if e, ok := x402.AsError(err); ok {
		return e
	}
	return x402.Errorf(code, "%w", err)
}

func (pw *Paywall) readHouse() error {
	if pw.house = pw.cfg.House; pw.house != nil || pw.cfg.ClearingHouse == "" {
		return nil
	}
	var opts []client.Option
	if pw.cfg.HTTPClient != nil {
		opts = append(opts, client.WithHTTPClient(pw.cfg.HTTPClient))
	}
	c, err := client.New(pw.cfg.ClearingHouse, opts...)
	if err != nil {
		return err
	}
	pw.house = c
	return nil
}

func (pw *Paywall) readFacilitators() error {
	pw.transfer = &transfers{pw: pw, asked: pw.cfg.Facilitators}
	if pw.cfg.Facilitator == "" {
		return nil
	}
	u, err := url.Parse(pw.cfg.Facilitator)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return x402.Errorf("config_invalid", "facilitator: %q is no http or https address", clip(pw.cfg.Facilitator))
	}
	pw.transfer.asked = append([]x402.Facilitator{&x402.Client{Base: pw.cfg.Facilitator, HTTP: pw.cfg.HTTPClient}}, pw.cfg.Facilitators...)
	return nil
}

func (pw *Paywall) readBase() error {
	if pw.cfg.BaseURL == "" {
		return nil
	}
	u, err := url.Parse(pw.cfg.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return x402.Errorf("config_invalid", "base_url: %q is no origin", clip(pw.cfg.BaseURL)).WithHint("scheme and host only, such as https://api.example.org")
	}
	pw.base = u
	return nil
}

// Ways returns what people call the ways to pay that are accepted, in their order.
func (pw *Paywall) Ways() (names []string) {
	for _, t := range pw.tenders {
		if name := t.way.name(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Tokens returns the tokens of a network that transfers are accepted in by signatures of their own.
func (pw *Paywall) Tokens(chainID uint64) (tokens []network.Token) {
	for _, t := range pw.tenders {
		if _, moves := t.way.(*transfer); moves && t.chain.ID == chainID && !slices.Contains(tokens, t.token) {
			tokens = append(tokens, t.token)
		}
	}
	return tokens
}

// Payee returns the address that is paid.
func (pw *Paywall) Payee() evm.Address { return pw.payee }

// Check returns every fault of the routes that were priced so far, joined, or nil. A faulty route answers 500 with code
// price_invalid; a program calls Check once all routes are set up, to find that out before its buyers do.
func (pw *Paywall) Check() error {
	pw.mu.Lock()
	defer pw.mu.Unlock()
	return errors.Join(pw.faults...)
}

// Ready asks the clearing house who it is and the facilitator what it can do, and reports whether payments could be taken
// now in every way that is accepted.
func (pw *Paywall) Ready(ctx context.Context) error {
	var errs []error
	asked := make(map[way]bool)
	for _, t := range pw.tenders {
		if !asked[t.way] {
			asked[t.way] = true
			errs = append(errs, t.way.ready(ctx))
		}
	}
	return errors.Join(errs...)
}

func (pw *Paywall) fault(err error) {
	pw.mu.Lock()
	defer pw.mu.Unlock()
	pw.faults = append(pw.faults, err)
}

// join makes the caller the one who serves a payment in this process, or returns a channel that is closed when the one
// who does is done.
func (pw *Paywall) join(payment evm.Hash) (leave func(), others <-chan struct{}) {
	pw.mu.Lock()
	defer pw.mu.Unlock()
	if flight, ok := pw.flights[payment]; ok {
		return nil, flight
	}
	flight := make(chan struct{})
	pw.flights[payment] = flight
	return func() {
		pw.mu.Lock()
		defer pw.mu.Unlock()
		delete(pw.flights, payment)
		close(flight)
	}, nil
}
