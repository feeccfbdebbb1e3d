package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/x402"
)

// benchPurchasers is how many purchases, and how many paid requests, are under way at once.
const benchPurchasers = 64

// purchases takes purchases from their reservation to their charge on a book of their own.
func (b *bench) purchases(ctx context.Context, count, at int) (side, error) {
	db, err := b.database(ctx)
	if err != nil {
		return side{}, err
	}
	book, done := db.Purchases(), 0
	return side{count: count, close: db.Close,
		slice: func(ctx context.Context, n int) (time.Duration, error) {
			list := make([]purchase.Purchase, n)
			for i := range list {
				list[i] = b.purchase(done + i)
			}
			done += n
			certificate := bytes.Repeat([]byte("c"), 1600) // as long as one is with its guarantee, in JSON
			began := time.Now()
			err := inParallel(ctx, at, n, 1, func(i, _ int) error {
				p, err := book.Reserve(ctx, list[i])
				if err == nil {
					err = book.Run(ctx, p.ID, certificate, b.Now)
				}
				if err != nil {
					return err
				}
				p.State, p.Charged, p.DoneAt = purchase.Committed, p.Cap, b.Now
				p.Answer = &purchase.Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: benchBody, Whole: true}
				return book.Finish(ctx, p)
			})
			return time.Since(began), err
		},
		check: func(ctx context.Context) error {
			for i := range done {
				p, found, err := book.FindID(ctx, b.purchase(i).ID)
				if err != nil {
					return err
				}
				if !found || p.State != purchase.Committed || p.Charged != benchAmount {
					return fmt.Errorf("purchase %d of %d is not in the book as it ended", i, done)
				}
			}
			return nil
		},
	}, nil
}

// benchBody is what is sold.
var benchBody = []byte(`{"symbol":"ACME","price":12.5}` + "\n")

// purchase is the purchase with a number.
func (b *bench) purchase(i int) purchase.Purchase {
	payment := evm.Keccak256([]byte("purchase"), binary.BigEndian.AppendUint64(nil, uint64(i)))
	return purchase.Purchase{
		ID: purchase.IDFromPayment(payment), Payment: payment, Request: purchase.RequestDigest("GET", "http://localhost/quote", purchase.BodyDigest(nil)),
		State: purchase.Reserved, Route: "GET /quote", Method: "GET", URL: "http://localhost/quote", Way: guarantee.Scheme, Network: mustChain("dev").CAIP2(),
		Asset: b.token.Address, Payer: b.keys[0].Address(), Payee: b.keys[1].Address(), Cap: benchAmount, Unit: "call", ReservedAt: b.Now,
	}
}

// cycle fills a cycle of a fresh house ("filling") or closes the one that was filled last ("netting").
func (b *bench) cycle(name string) side {
	const key = "filled house"
	fill := func(ctx context.Context, n int) (time.Duration, error) {
		h, err := b.openHouse(ctx, houseOptions{})
		if err != nil {
			return 0, err
		}
		b.shared[key] = h
		list, err := h.next(ctx, n)
		if err != nil {
			return 0, err
		}
		return h.admit(ctx, list, benchCalls, benchCall, true)
	}
	drop := func() error {
		h, ok := b.shared[key].(*benchHouse)
		delete(b.shared, key)
		if !ok {
			return nil
		}
		return h.close()
	}
	if name == "filling" {
		return side{count: b.Sizes.Netted, slice: fill, close: drop}
	}
	return side{count: b.Sizes.Netted, slice: func(ctx context.Context, n int) (time.Duration, error) {
		h := b.shared[key].(*benchHouse) // filling is the baseline, and comes first in each round
		end := h.b.Now.Add(2 * time.Hour)
		began := time.Now()
		err := h.house.CloseDue(ctx, end, uint64(end.Unix()))
		took := time.Since(began)
		if err == nil {
			err = h.closed(ctx, n)
		}
		return took, errors.Join(err, drop())
	}}
}

// closed checks that the cycle was netted, with every guarantee in it, and that the books hold.
func (h *benchHouse) closed(ctx context.Context, n int) error {
	c, err := h.house.Cycle(ctx, h.cycle().String())
	if err != nil {
		return err
	}
	var gross money.Amount
	for range n {
		gross, _ = gross.Add(benchAmount)
	}
	if c.Status != clearing.Netted || c.Guarantees != uint64(n) || c.Gross != gross {
		return fmt.Errorf("cycle is %s with %d guarantees of %s in all, want %s with %d of %s", c.Status, c.Guarantees, c.Gross, clearing.Netted, n, gross)
	}
	return h.house.Check(ctx)
}

// shop is a seller with a paywall, in front of a clearing house that it reaches over HTTP.
type shop struct {
	b       *bench
	house   *benchHouse
	store   *store.Store
	pw      *paywall.Paywall
	server  *http.Server
	served  chan error
	url     string
	buyer   *http.Client
	pool    *http.Transport
	payer   *evm.PrivateKey
	ordered int // paid requests
	users   int // sides that have not closed it yet
}

// openShop opens the shop that the contest's sides share.
func (b *bench) openShop(ctx context.Context) (s *shop, err error) {
	const key = "shop"
	if s, ok := b.shared[key].(*shop); ok {
		s.users++
		return s, nil
	}
	s = &shop{b: b, users: 1, pool: &http.Transport{MaxIdleConnsPerHost: benchPurchasers}}
	s.buyer = &http.Client{Transport: s.pool, Timeout: benchTimeout}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.house, err = b.openHouse(ctx, houseOptions{}); err != nil {
		return s, err
	}
	house, err := s.house.serve()
	if err != nil {
		return s, err
	}
	if s.store, err = b.database(ctx); err != nil {
		return s, err
	}
	s.pw, err = paywall.New(paywall.Config{
		Network: "dev", House: house, Purchases: s.store.Purchases(), Signer: b.keys[0], Now: func() time.Time { return b.Now },
	})
	if err != nil {
		return s, err
	}
	s.payer = b.keys[1]
	quote := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(benchBody)
	})
	mux := http.NewServeMux()
	mux.Handle("GET /unpaid", quote)
	mux.Handle("GET /paid", s.pw.Price("$0.0001", quote))
	if err = s.pw.Check(); err != nil {
		return s, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return s, err
	}
	s.url = "http://" + listener.Addr().String()
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: benchTimeout}
	s.served = make(chan error, 1)
	go func() { s.served <- s.server.Serve(listener) }()
	b.shared[key] = s
	return s, nil
}

func (s *shop) close() (err error) {
	if s.users--; s.users > 0 {
		return nil
	}
	s.pool.CloseIdleConnections()
	if s.server != nil {
		err = s.server.Close()
		<-s.served
	}
	if s.pw != nil {
		ctx, cancel := context.WithTimeout(context.Background(), benchTimeout)
		defer cancel()
		err = errors.Join(err, s.pw.Close(ctx))
	}
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	if s.house != nil {
		err = errors.Join(err, s.house.close())
	}
	return err
}

// requests makes requests to the shop, paid or unpaid ones. Payments are signed before.
func (b *bench) requests(ctx context.Context, name string) (side, error) {
	s, err := b.openShop(ctx)
	if err != nil {
		return side{}, err
	}
	if name == "unpaid" {
		return side{count: b.Sizes.Unpaid, close: s.close, slice: func(ctx context.Context, n int) (time.Duration, error) {
			began := time.Now()
			err := inParallel(ctx, benchPurchasers, n, 1, func(int, int) error { return s.get(ctx, "/unpaid", "") })
			return time.Since(began), err
		}}, nil
	}
	return side{count: b.Sizes.Paid, close: s.close, check: s.check, slice: func(ctx context.Context, n int) (time.Duration, error) {
		payments, err := s.payments(ctx, n)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		err = inParallel(ctx, benchPurchasers, n, 1, func(i, _ int) error { return s.get(ctx, "/paid", payments[i]) })
		s.ordered += n
		return time.Since(began), err
	}}, nil
}

// get makes one request, with a payment if there is one, and expects what is sold.
func (s *shop) get(ctx context.Context, path, payment string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return err
	}
	if payment != "" {
		req.Header.Set(x402.HeaderSignature, payment)
	}
	resp, err := s.buyer.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(got, benchBody)) {
		err = fmt.Errorf("GET %s was answered with status %d: %s", path, resp.StatusCode, got)
	}
	return err
}

// payments accepts the shop's offer n times.
func (s *shop) payments(ctx context.Context, n int) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/paid", nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.buyer.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	offer, _, err := x402.ParsePaymentRequired(resp)
	if err != nil {
		return nil, err
	}
	if len(offer.Accepts) == 0 {
		return nil, errors.New("the shop offers nothing")
	}
	headers := make([]string, n)
	err = inParallel(ctx, runtime.GOMAXPROCS(0), n, 1, func(i, _ int) (err error) {
		headers[i], err = s.payment(ctx, offer, s.ordered+i)
		return err
	})
	return headers, err
}

// termsOf are what a payer signs for a GET without a body.
func termsOf(offer x402.PaymentRequired, r x402.Requirements, payee evm.Address, id string) (t purchase.Terms, err error) {
	t = purchase.Terms{
		Purchase: id, Quote: r.ExtraString("quote"), Price: r.ExtraString("price"), Scheme: r.Scheme, Network: r.Network,
		Payee: payee, Method: http.MethodGet, Resource: offer.Resource.URL, Body: purchase.BodyDigest(nil),
		Completion: r.ExtraString("completion"), Refund: r.ExtraString("refund"), Uncaptured: r.ExtraString("uncaptured"),
	}
	if t.Amount, err = money.ParseAmount(r.Amount); err != nil {
		return t, err
	}
	if t.Asset, err = evm.ParseAddress(r.Asset); err != nil {
		return t, err
	}
	return t, json.Unmarshal(r.Extra["expires"], &t.Expires)
}

// payment signs one purchase, as payers do, and returns its header.
func (s *shop) payment(ctx context.Context, offer x402.PaymentRequired, number int) (string, error) {
	r, id := offer.Accepts[0], s.id(number)
	terms, err := termsOf(offer, r, s.pw.Payee(), id)
	if err != nil {
		return "", err
	}
	signed, err := guarantee.Pay(ctx, s.payer, s.b.deployment, r, terms.Hash(), s.b.Now)
	if err != nil {
		return "", err
	}
	p, err := x402.NewPayment(offer, r, signed)
	if err != nil {
		return "", err
	}
	extension, err := json.Marshal(purchase.Extension{Purchase: id})
	if err != nil {
		return "", err
	}
	p.Extensions = map[string]json.RawMessage{purchase.ExtensionKey: extension}
	return x402.EncodeHeader(p)
}

// id is the id of a numbered purchase.
func (s *shop) id(number int) string {
	return purchase.IDFromPayment(evm.Keccak256([]byte("order"), binary.BigEndian.AppendUint64(nil, uint64(number))))
}

// check finds every paid request charged in the seller's book, and the payer's promises for them in the house's.
func (s *shop) check(ctx context.Context) error {
	var charged money.Amount
	book := s.store.Purchases()
	for i := range s.ordered {
		p, found, err := book.FindID(ctx, s.id(i))
		if err != nil {
			return err
		}
		if !found || p.State != purchase.Committed {
			return fmt.Errorf("paid request %d of %d is not in the seller's book as charged", i, s.ordered)
		}
		charged, _ = charged.Add(p.Charged)
	}
	a, err := s.house.house.Account(ctx, s.payer.Address(), s.b.token.Address)
	if err == nil && a.Exposure() != charged {
		err = fmt.Errorf("the seller charged %s, the clearing house holds %s against it", charged, a.Exposure())
	}
	return err
}
