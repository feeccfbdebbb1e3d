package payer

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// bundleSlack is how long before its end a bundle is drawn from no more, and how far a seller's end of it may be from
// ours: two clocks.
const bundleSlack = 30 * time.Second

// bundleOffer is what an offer sells ahead: its member extra.bundle.
type bundleOffer struct {
	Calls uint64 `json:"calls"`
	Units uint64 `json:"units"` // in place of calls, with what one is called
	Unit  string `json:"unit"`
	Valid string `json:"valid"`
	Route string `json:"route"` // the seller's name of what it may be drawn for; empty: this method and path
}

// bundle is units that a purchase bought ahead.
type bundle struct {
	Of      string        `json:"of"` // names what it may be drawn for, with whom and in what it was paid
	ID      string        `json:"id"` // the seller's name of it
	Total   uint64        `json:"total"`
	Unit    string        `json:"unit,omitempty"` // empty: calls
	Valid   time.Duration `json:"valid"`
	Expires time.Time     `json:"expires"`
	Closed  bool          `json:"closed,omitempty"` // its owner gave the rest up
}

// stock is a bundle that can be drawn from.
type stock struct {
	id     string // of the purchase that bought it
	bundle bundle
	left   uint64 // by our own count
}

// readBundle reads what an offer sells ahead, if it does.
func readBundle(o *option) string {
	raw, ok := o.Extra["bundle"]
	if !ok || string(raw) == "null" {
		return ""
	}
	var b bundleOffer
	if err := json.Unmarshal(raw, &b); err != nil || len(raw) > 1<<10 {
		return "sells a bundle that cannot be read"
	}
	valid, err := time.ParseDuration(b.Valid)
	total, unit := b.Calls, ""
	if b.Calls == 0 {
		total, unit = b.Units, strings.TrimSuffix(b.Unit, "s")
	}
	if unit == "call" {
		unit = ""
	}
	if err != nil || valid <= bundleSlack || total == 0 || total > math.MaxUint32 || b.Calls != 0 && b.Units != 0 || b.Calls == 0 && b.Unit == "" {
		return "sells a bundle of nothing"
	}
	o.bundle = &bundle{Total: total, Unit: unit, Valid: valid, Of: b.Route}
	return ""
}

// calls is by how many calls the price of an offer is shared.
func (o option) calls() uint64 {
	if o.bundle != nil && o.bundle.Unit == "" {
		return o.bundle.Total
	}
	return 1
}

// bundleOf names what bundles of an offer may be drawn for.
func (l *look) bundleOf(o option) string {
	route := o.bundle.Of
	if route == "" {
		route = l.req.Method + " " + pathOf(l.req.URL)
	}
	return fmt.Sprintf("%s %s %s %s %s %q", lowerHost(l.req.URL), l.Key.Address().Lower(), o.payee.Lower(), o.Network, o.token.Address.Lower(), route)
}

// byDraw pays with a call that a bundle has in stock. What is signed asks for it and moves nothing.
type byDraw struct{}

func (byDraw) name() string { return "bundle" }

func (byDraw) read(*look, *option) string { return "" }

func (byDraw) sign(ctx context.Context, p *Payer, o option, r *row) (any, map[string]json.RawMessage, error) {
	d, err := purchase.SignDraw(ctx, p.Key, o.chain.ID, o.payee, o.stock.bundle.ID, r.Terms, p.Now())
	if err != nil {
		return nil, nil, err
	}
	r.ChainID, r.Digest = o.chain.ID, d.Digest(o.chain.ID, o.payee)
	return d, o.extensions, nil
}

func (byDraw) prove(row, x402.SettleResponse) bool { return true } // nothing was signed that could be charged

// toldBundle is what a receipt says of a bundle.
type toldBundle struct {
	ID        string          `json:"id"`
	Total     uint64          `json:"total"`
	Remaining *uint64         `json:"remaining"`
	Expires   json.RawMessage `json:"expires"` // RFC 3339, or unix seconds
}

func (t toldBundle) expires() (time.Time, bool) {
	var seconds int64
	if json.Unmarshal(t.Expires, &seconds) == nil && seconds > 0 {
		return time.Unix(seconds, 0).UTC(), true
	}
	var at time.Time
	return at.UTC(), json.Unmarshal(t.Expires, &at) == nil && !at.IsZero()
}

// told takes in what a receipt says of the bundle that the row bought or drew from. It counts for what is ours only
// where it is in the seller's favour, and then it is remembered beside our own count.
func (r *row) told(receipt x402.SettleResponse, now time.Time) {
	if r.Bundle == nil && r.Draw == "" {
		return
	}
	var t toldBundle
	raw := receipt.Extra["bundle"]
	said := len(raw) > 0 && json.Unmarshal(raw, &t) == nil && t.ID != ""
	if said && t.Remaining != nil {
		r.Left = t.Remaining
	}
	if r.Bundle == nil {
		return
	}
	if said && t.ID != r.ID && r.State == Charged && r.Charged.IsZero() {
		// Another purchase bought a bundle at the same time: this one drew from it, and its transfer is not taken.
		if r.Bundle = nil; purchase.ValidID(t.ID) {
			r.Draw = t.ID
		}
		return
	}
	b := *r.Bundle
	if said && purchase.ValidID(t.ID) {
		b.ID = t.ID
	}
	b.Expires = now.Add(b.Valid)
	if at, ok := t.expires(); ok && at.Before(b.Expires) && at.After(b.Expires.Add(-2*time.Minute)) {
		b.Expires = at
	}
	r.Bundle = &b
}

// held is a bundle with what was drawn from it.
type held struct {
	row   row             // that bought it
	draws map[string]draw // by purchase
	told  *uint64         // the least that the seller said is left
}

type draw struct {
	void bool
	done time.Time // when it became void
}

// used is how many calls of the bundle we took: the one that bought it, and draws that are not void.
func (h *held) used() (n uint64) {
	n = 1
	for _, d := range h.draws {
		if !d.void {
			n++
		}
	}
	return n
}

// left is our own count of what is left. Of units that only the seller can measure it is the least that it said.
func (h *held) left() uint64 {
	b := h.row.Bundle
	if b == nil || b.Closed || h.row.State != Charged || h.row.Charged.IsZero() {
		return 0
	}
	if b.Unit != "" {
		if h.told != nil {
			return min(*h.told, b.Total)
		}
		return b.Total
	}
	return b.Total - min(b.Total, h.used())
}

// fewer reports whether the seller, in the answer to r, counts more as used than we can have used. Calls that were given
// back while r was under way may not have been when the seller counted.
func (h *held) fewer(r row) bool {
	b := h.row.Bundle
	if b == nil || r.Left == nil || b.Unit != "" {
		return false
	}
	most := h.used()
	for _, d := range h.draws {
		if d.void && !d.done.Before(r.At) {
			most++
		}
	}
	return *r.Left < b.Total-min(b.Total, most)
}

// applyBundle keeps the count of bundles. The caller holds mu.
func (j *journal) applyBundle(r row) {
	switch {
	case r.Bundle != nil:
		h := j.bundle(r.ID)
		h.row = r
		h.hear(r.Left)
	case r.Draw != "":
		if h, ok := j.bundles[r.ID]; ok && h.row.ID == r.ID { // it turned out to be a draw
			delete(j.bundles, r.ID)
		}
		h := j.bundle(r.Draw)
		d := draw{void: r.State == Void}
		if d.void && r.DoneAt != nil {
			d.done = *r.DoneAt
		}
		h.draws[r.ID] = d
		h.hear(r.Left)
	}
}

func (j *journal) bundle(id string) *held {
	h, ok := j.bundles[id]
	if !ok {
		h = &held{draws: make(map[string]draw)}
		j.bundles[id] = h
	}
	return h
}

func (h *held) hear(left *uint64) {
	if left != nil && (h.told == nil || *left < *h.told) {
		h.told = left
	}
}

// stock finds a bundle that can be drawn from, of several the one that ends first.
func (j *journal) stock(of string) (s *stock, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err = j.locked(func() error {
		now := j.now()
		j.expire(now)
		for id, h := range j.bundles {
			b := h.row.Bundle
			if b == nil || b.Of != of || h.left() == 0 || !now.Before(b.Expires.Add(-bundleSlack)) {
				continue
			}
			if s == nil || b.Expires.Before(s.bundle.Expires) {
				s = &stock{id, *b, h.left()}
			}
		}
		return nil
	})
	return s, err
}

// counted returns both counts of the bundle that a purchase bought or drew from, and false if there is none.
func (j *journal) counted(r row) (b Bundle, ok bool) {
	id := r.Draw
	if r.Bundle != nil {
		id = r.ID
	}
	if id == "" {
		return Bundle{}, false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	h, there := j.bundles[id]
	if !there || h.row.Bundle == nil {
		return Bundle{}, false
	}
	o := h.row.Bundle
	return Bundle{Purchase: id, Unit: o.Unit, Total: o.Total, Left: h.left(), SellerSays: r.Left, Disputed: h.fewer(r), Expires: o.Expires}, true
}

// queues let one bundle of a kind be bought at a time: whoever else wants a call of it waits, and draws.
type queues struct {
	mu sync.Mutex
	in map[string]chan struct{} // guarded by mu; closed when its buyer is done
}

// enter waits until nobody buys such a bundle. The function that it returns lets the next one in.
func (q *queues) enter(ctx context.Context, of string) (leave func(), waited bool, err error) {
	for {
		q.mu.Lock()
		before, busy := q.in[of]
		if !busy {
			if q.in == nil {
				q.in = make(map[string]chan struct{})
			}
			done := make(chan struct{})
			q.in[of] = done
			q.mu.Unlock()
			return func() { q.mu.Lock(); delete(q.in, of); q.mu.Unlock(); close(done) }, waited, nil
		}
		q.mu.Unlock()
		waited = true
		select {
		case <-before:
		case <-ctx.Done():
			return nil, waited, ctx.Err()
		}
	}
}

// giveUp closes a bundle: its owner lets the seller have its way.
func (p *Payer) giveUp(id string) error {
	r, ok, err := p.journal.find(id)
	if err != nil || !ok || r.Bundle == nil {
		return err
	}
	b := *r.Bundle
	b.Closed = true
	r.Bundle = &b
	return p.journal.record(r, true)
}

// disputed explains that a seller does not honour a bundle.
func (p *Payer) disputed(r row, refusal *x402.Error, t terms) Need {
	n := Need{Code: "bundle_disputed", Method: r.Method, URL: r.URL, Payee: r.Payee}
	b, ok := p.journal.counted(r)
	if !ok {
		return n
	}
	says := "refuses the next one"
	if b.SellerSays != nil {
		says = fmt.Sprintf("says that %d are left", *b.SellerSays)
	}
	n.Reason = fmt.Sprintf("%d of %d %s of the bundle bought with %s are left by your count, and %s %s (%s). Nothing was paid",
		b.Left, b.Total, b.units(), b.Purchase, r.Seller, says, refusal.Code)
	n.Ways = ways(n, t, nil, Way{})
	n.Ways = append(n.Ways, Way{Kind: Rebuy, Text: "buy anew with --rebuy, which gives the rest up"})
	return n
}

// Bundle is what a purchase bought ahead, or was drawn from.
type Bundle struct {
	Purchase    string // that bought it
	Unit        string // empty: calls
	Total, Left uint64 // Left is our own count
	// SellerSays is what the seller said is left, nil if nothing. Disputed: it counts more as used than can have been.
	SellerSays *uint64
	Disputed   bool
	Expires    time.Time
}

func (b Bundle) units() string {
	if b.Unit == "" {
		return "calls"
	}
	return b.Unit + "s"
}

// String is a part of a line for a person.
func (b Bundle) String() string {
	text := fmt.Sprintf("%d of %d %s left", b.Left, b.Total, b.units())
	if b.Disputed {
		text += fmt.Sprintf(" (the seller says %d)", *b.SellerSays)
	}
	return text
}
