package api

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/farthing402/farthing/x402"
)

// Rate is how much comes in the long run, and how much at once. The zero value is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Limits protect the house from being asked for more than it can do. Rates are kept by each node for itself. The zero
// value of a member stands for its default, where it has one.
type Limits struct {
	Login   Rate // requests to /auth from one address; default [DefaultLoginRate]
	Read    Rate // other requests from one address, or of one login; default [DefaultReadRate]
	Post    Rate // guarantees and notes from one address; by default no limit, as a gate posts for all its buyers
	Payer   Rate // guarantees of one payer; by default no limit, as collateral is one
	Refused Rate // guarantees and notes from one address that cannot be read or are not signed as they say; default [DefaultRefusedRate]

	ItemsMax     int // guarantees and notes that are worked on; default [DefaultItems]
	BodyBytesMax int // of bodies that are being read or worked on; default [DefaultBodyBytes]
}

// Defaults of [Limits].
var (
	DefaultLoginRate   = Rate{20, 200}
	DefaultReadRate    = Rate{100, 1000}
	DefaultRefusedRate = Rate{20, 1000}
)

// More defaults of [Limits].
const (
	DefaultItems     = 8192     // half a second's work of a small machine: whoever waits longer is not waited for
	DefaultBodyBytes = 64 << 20 // bounds what clients can make the process hold
)

// statementsMax is how many statements are made at once: each is as large as its participant's cycle.
const statementsMax = 2

// limits are [Limits] at work.
type limits struct {
	login, read, post, payer, refused limiter
	items, bytes, statements          room
}

func (c Limits) start() *limits {
	or := func(r, d Rate) Rate {
		if r == (Rate{}) {
			return d
		}
		return r
	}
	l := &limits{
		login: limiter{Rate: or(c.Login, DefaultLoginRate)}, read: limiter{Rate: or(c.Read, DefaultReadRate)},
		post: limiter{Rate: c.Post}, payer: limiter{Rate: c.Payer}, refused: limiter{Rate: or(c.Refused, DefaultRefusedRate)},
		items: room{max: DefaultItems}, bytes: room{max: DefaultBodyBytes}, statements: room{max: statementsMax},
	}
	if c.ItemsMax > 0 {
		l.items.max = int64(c.ItemsMax)
	}
	if c.BodyBytesMax > 0 {
		l.bytes.max = int64(c.BodyBytesMax)
	}
	return l
}

// limitedMax bounds the memory of a limiter: so many callers are told apart at least, and twice as many at most.
const limitedMax = 20_000

// limiter keeps a rate for each of many callers. Those that were not seen while limitedMax others came are forgotten, and
// begin anew.
type limiter struct {
	Rate

	mu         sync.Mutex
	young, old map[string]*rate.Limiter // guarded by mu
}

// take takes n of a caller's allowance, or says how long to wait for it. More than can be had at once counts as that.
func (l *limiter) take(who string, n int, now time.Time) error { return l.reserve(who, n, now, true) }

// has says how long to wait until n of a caller's allowance can be taken, and takes nothing.
func (l *limiter) has(who string, n int, now time.Time) error { return l.reserve(who, n, now, false) }

func (l *limiter) reserve(who string, n int, now time.Time, keep bool) error {
	if l.PerSecond <= 0 {
		return nil
	}
	l.mu.Lock()
	one := l.young[who]
	if one == nil {
		if one = l.old[who]; one == nil {
			one = rate.NewLimiter(rate.Limit(l.PerSecond), max(1, l.Burst))
		}
		if l.young == nil || len(l.young) >= limitedMax {
			l.young, l.old = make(map[string]*rate.Limiter), l.young
		}
		l.young[who] = one
	}
	l.mu.Unlock()
	r := one.ReserveN(now, min(n, one.Burst()))
	wait := r.DelayFrom(now)
	if !keep || wait > 0 {
		r.CancelAt(now)
	}
	if over := n - one.Burst(); over > 0 && !keep {
		wait = max(wait, time.Duration(float64(over)/l.PerSecond*float64(time.Second)))
	}
	if wait == 0 {
		return nil
	}
	return later(wait, x402.Errorf("rate_limited", "more than %v a second", l.PerSecond))
}

// room is how much may be there at once.
type room struct {
	max  int64
	used atomic.Int64
}

// take takes n, to be given back, or says that there is no room for them.
func (r *room) take(n int64, what string) error {
	if r.used.Add(n) > r.max {
		r.used.Add(-n)
		return later(time.Second, x402.Errorf("house_busy", "%d %s are worked on already", r.max, what))
	}
	return nil
}

func (r *room) give(n int64) { r.used.Add(-n) }

// laterError is a refusal that says when to come again.
type laterError struct {
	refusal *x402.Error
	wait    time.Duration
}

// Error implements error.
func (e *laterError) Error() string { return e.refusal.Error() }

func later(wait time.Duration, e *x402.Error) error { return &laterError{e, wait} }

// Unwrap returns the refusal.
func (e *laterError) Unwrap() error { return e.refusal }

// retryAfter is how long a client is asked to wait before it repeats a request that was refused with a status; 0 if it is not.
func retryAfter(err error, status int) int {
	var e *laterError
	switch {
	case errors.As(err, &e):
		return max(1, int(math.Ceil(e.wait.Seconds())))
	case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
		return 1
	}
	return 0
}

// meteredBody takes room for what is read of a body, as it is read: a promise of a long one costs nothing.
type meteredBody struct {
	io.ReadCloser
	room  *room
	taken int64
}

// Read implements io.Reader.
func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		if full := b.room.take(int64(n), "bytes"); full != nil {
			return 0, full
		}
		b.taken += int64(n)
	}
	return n, err
}

func (b *meteredBody) free() { b.room.give(b.taken) }

// from names where a request comes from: an IPv4 address, or the network of an IPv6 one, as whoever has one address of it has
// them all. Proxies that are trusted name whom they speak for; the last name that none of ours wrote counts.
func (h *handler) from(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	at, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	at = at.Unmap().WithZone("")
	said := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(said) - 1; i >= 0 && h.trusts(at); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(said[i]))
		if err != nil {
			break
		}
		at = next.Unmap().WithZone("")
	}
	if at.Is6() {
		network, _ := at.Prefix(64) // 64 is within an IPv6 address
		return network.String()
	}
	return at.String()
}

func (h *handler) trusts(a netip.Addr) bool {
	for _, p := range h.Proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
