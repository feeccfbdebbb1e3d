package courier

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/clearing"
)

const (
	// DefaultEndpointsMax is how many endpoints a wallet may have: development, staging and production, and some more.
	DefaultEndpointsMax = 10

	workersMax     = 128 // deliveries under way in one process
	perEndpointMax = 4   // and to one endpoint, so that a slow one holds up nobody else
	pageEvents     = 256
	batchMessages  = 64 // in one write, which others may wait for

	claim = 30 * time.Second // of a delivery: longer than an attempt and its record can take
	keep  = 30 * 24 * time.Hour
)

// Config is what a [Courier] works with. Book, House, Network, Now, Random and Node must be set.
type Config struct {
	Book            Book
	House           *clearing.House
	Network         string        // CAIP-2
	WithdrawalDelay time.Duration // from request to when it can be finished
	Now             func() time.Time
	Random          io.Reader      // of secrets and names
	Jitter          func() float64 // in [0, 1), spreads what is tried again; nil: none
	Node            string         // tells this process from others
	Private         bool           // also plain HTTP, and addresses that are not public: development, or a house that stands beside its receivers
	EndpointsMax    int            // of one wallet; 0: the default
	Client          *http.Client   // nil: NewClient
	// Lead runs something while no other node runs it, with a context that ends when that is no longer sure; nil: this is
	// the only node.
	Lead func(ctx context.Context, run func(context.Context) error) error
	Log  *slog.Logger // nil: silence
}

// Courier derives and delivers. Make one with [New].
type Courier struct {
	c Config

	delivered, failed, givenUp atomic.Uint64
}

// Counts are what a courier has done since it was made.
type Counts struct {
	Delivered uint64 // attempts that were accepted
	Failed    uint64 // attempts that were not
	GivenUp   uint64 // deliveries that ended undelivered
}

// Counts returns what was done so far.
func (c *Courier) Counts() Counts {
	return Counts{c.delivered.Load(), c.failed.Load(), c.givenUp.Load()}
}

// New makes a courier.
func New(c Config) (*Courier, error) {
	if c.Book == nil || c.House == nil || c.Network == "" || c.Now == nil || c.Random == nil || c.Node == "" {
		return nil, errors.New("courier: book, house, network, clock, chance and the name of the node must be set")
	}
	if c.Jitter == nil {
		c.Jitter = func() float64 { return 0.5 }
	}
	if c.EndpointsMax == 0 {
		c.EndpointsMax = DefaultEndpointsMax
	}
	if c.Client == nil {
		c.Client = NewClient(c.Private)
	}
	if c.Lead == nil {
		c.Lead = func(ctx context.Context, run func(context.Context) error) error { return run(ctx) }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Courier{c: c}, nil
}

// How often Run looks for something new, and forgets what is old.
const (
	lookEvery  = time.Second
	pruneEvery = time.Minute
	pruneRows  = 1000 // in one write
	pruneSteps = 50   // at a time
)

// Run derives and delivers until ctx ends and the attempts under way have ended. Trouble is logged, and tried again.
func (c *Courier) Run(ctx context.Context) {
	var derived sync.WaitGroup
	derived.Go(func() {
		c.repeat(ctx, "webhooks not derived", func(ctx context.Context) error { return c.c.Lead(ctx, c.lead) })
	})
	pool := newPool(c)
	c.repeat(ctx, "webhooks not delivered", func(ctx context.Context) error { _, err := pool.fill(ctx); return err })
	pool.work.Wait()
	derived.Wait()
}

// lead derives and prunes until ctx ends: one node does, as long as it can.
func (c *Courier) lead(ctx context.Context) error {
	var pruned time.Time
	c.repeat(ctx, "webhooks not derived", func(ctx context.Context) error {
		if now := c.c.Now(); now.Sub(pruned) >= pruneEvery {
			pruned = now
			for range pruneSteps {
				if n, err := c.c.Book.Prune(ctx, now.Add(-keep), pruneRows); err != nil {
					return err
				} else if n < pruneRows {
					break
				}
			}
		}
		return c.Derive(ctx)
	})
	return nil
}
