package sim

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// household is a buyer with our own payer, which keeps its own journal, asks again when answers are lost, and knows of its
// bundles. Everything that it sends can be overheard.
type household struct {
	m     *market
	payer *payer.Payer
}

// dice are a seed's random bytes, of the world's own generator.
type dice struct{ rng *rand.Rand }

func (d dice) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(d.rng.IntN(256))
	}
	return len(b), nil
}

func (m *market) openHousehold() error {
	h := &household{m: m}
	var err error
	h.payer, err = payer.New(payer.Config{
		Key: m.buyers[buyersMax], Budget: payer.Budget{PerCall: "$1", PerDay: "$100"}, PayBy: []string{"exact", "upto"}, Wallet: Purse{m.chain},
		Transport: h, Now: m.time, Rand: dice{rand.New(rand.NewPCG(m.seed, binary.BigEndian.Uint64([]byte("payer   "))))},
		Wait: func(ctx context.Context, _ time.Duration) error {
			if err := m.blockNow(); err != nil {
				m.fail(err)
			}
			return ctx.Err()
		},
	})
	m.household = h
	return err
}

// RoundTrip implements [http.RoundTripper]: the way from the payer to one of the gates.
func (h *household) RoundTrip(r *http.Request) (*http.Response, error) {
	m := h.m
	path := strings.TrimPrefix(r.URL.String(), shopURL)
	name, value := "", ""
	if p, err := x402.ReadPayment(r.Header); err == nil && p != nil {
		var ext struct{ Purchase string }
		if err := json.Unmarshal(p.Extensions[purchase.ExtensionKey], &ext); err != nil || ext.Purchase == "" {
			return nil, broken("our payer names no purchase: %v", err)
		}
		if name, value, err = p.Header(); err != nil {
			return nil, err
		}
		if m.byID[ext.Purchase] == nil {
			o := &order{n: len(m.orders), buyer: buyersMax, path: path, named: true, draw: purchase.IsDraw(p.Payload), id: ext.Purchase, name: name, value: value}
			if !o.draw {
				a, err := exact.Read(*p, *p.Accepted)
				if err != nil {
					return nil, err
				}
				o.auth, o.payment = a, a.ID()
			} else {
				d, err := purchase.ReadDraw(p.Payload)
				if err != nil {
					return nil, err
				}
				o.payment = d.Digest(m.chain.deployment.ChainID, m.seller.Address())
			}
			m.orders = append(m.orders, o)
			m.byID[o.id] = o
		}
	}
	v := m.ask(m.shop(), path, name, value)
	if !v.heard {
		return nil, errWires
	}
	return &http.Response{
		StatusCode: v.status, Status: fmt.Sprint(v.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: v.header,
		Body: io.NopCloser(strings.NewReader(v.body)), ContentLength: int64(len(v.body)), Request: r,
	}, nil
}

// errand has the household buy something, or ask once more about what it does not know the end of.
func (m *market) errand() (string, error) {
	h := m.household
	if m.rng.IntN(4) == 0 {
		return h.resume()
	}
	path := fmt.Sprintf("%s?errand=%d", counters[m.rng.IntN(len(counters))].path, len(m.orders))
	r, err := http.NewRequest(http.MethodGet, shopURL+path, nil)
	if err != nil {
		return path, err
	}
	resp, err := h.payer.RoundTrip(r)
	if err != nil {
		return fmt.Sprintf("%s: %v", path, err), nil
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return fmt.Sprintf("%s: %d", path, resp.StatusCode), err
}

// open returns the purchases that the household does not know the end of.
func (h *household) open() (list []payer.Purchase, err error) {
	all, err := h.payer.Receipts()
	for _, p := range all {
		job := strings.Contains(p.URL, "/job") && p.State == payer.Charged // until the seller is asked once more
		if p.State != payer.Charged && p.State != payer.Void || job {
			list = append(list, p)
		}
	}
	return list, err
}

func (h *household) resume() (string, error) {
	list, err := h.open()
	if err != nil || len(list) == 0 {
		return "nothing", err
	}
	return h.ask(list[h.m.rng.IntN(len(list))].ID)
}

func (h *household) ask(id string) (string, error) {
	resp, err := h.payer.Resume(context.Background(), id)
	if err != nil {
		return fmt.Sprintf("resume %s: %v", id, err), nil
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return fmt.Sprintf("resume %s: %d", id, resp.StatusCode), err
}

// reckonHousehold holds the payer's journal against the seller's book.
func (m *market) reckonHousehold() error {
	list, err := m.household.open()
	if err != nil {
		return err
	}
	for _, p := range list {
		said, err := m.household.ask(p.ID)
		m.log("%s", said)
		if err != nil {
			return err
		}
	}
	// Sellers' words may be wrong, or of another day: once a payment's time is over, the chain tells.
	m.tick(1000)
	m.chain.Mine(m.now, nil)
	if _, err := m.household.payer.Recheck(context.Background()); err != nil {
		return err
	}
	all, err := m.household.payer.Receipts()
	if err != nil {
		return err
	}
	for _, r := range all {
		m.trace("journal: %s %s %s code %q proven %v tx %s %s", r.ID, r.State, r.Charged, r.Code, r.Proven, r.Transaction, r.URL)
		p, ok, err := m.book.FindID(context.Background(), r.ID)
		if err == nil && r.State == payer.Charged && r.Charged != due(p) { // of what may cost less than was signed, only the seller tells
			if _, err := m.household.ask(r.ID); err != nil {
				return err
			}
			r, err = m.household.payer.ReceiptOf(r.ID)
		}
		switch {
		case err != nil:
			return err
		case r.State == payer.Charged && (!ok || p.State != purchase.Committed || due(p) != r.Charged):
			return broken("the payer holds purchase %s for charged with %s, the seller's book has %s of %s", r.ID, r.Charged, p.State, due(p))
		case r.State == payer.Void && ok && p.State == purchase.Committed && !due(p).IsZero():
			return broken("the payer holds purchase %s for void (%s), the seller has charged %s", r.ID, r.Code, due(p))
		case r.State != payer.Charged && r.State != payer.Void:
			return broken("the payer does not find out what became of purchase %s, which is %s", r.ID, p.State)
		}
	}
	return nil
}
