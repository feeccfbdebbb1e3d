package paywalltest

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/internal/sim"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

var errDead = errors.New("the process is gone")

// life is what a seller's process holds from its start to its end. After a crash nothing that it still does reaches its
// book, the clearing house or a buyer.
type life struct {
	paywall *paywall.Paywall
	handler http.Handler
	dead    atomic.Bool
}

func (l *life) serve(w http.ResponseWriter, r *http.Request) {
	l.handler.ServeHTTP(w, r)
	if l.dead.Load() {
		panic(http.ErrAbortHandler) // the buyer hears nothing more
	}
}

func (l *life) alive() error {
	if l.dead.Load() {
		return errDead
	}
	return nil
}

// around lets a use of the book be only while the process is alive.
func (l *life) around(_ string, _ bool, use func() error) error {
	if err := l.alive(); err != nil {
		return err
	}
	return use()
}

func (s *Server) current() *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life
}

// begin starts a process of the seller's over its book.
func (s *Server) begin() {
	s.t.Helper()
	l := &life{}
	house, err := client.New(s.house.URL)
	s.must("find the clearing house", err)
	var c paywall.Config
	if s.config.paywall != nil {
		s.config.paywall(&c)
	}
	c.PayTo, c.Signer, c.Network, c.ClearingHouse, c.Now = "", s.keys.seller, "dev", "", s.Now
	c.House, c.Purchases = mortalHouse{house, l}, sim.Purchases{Book: s.book, Around: l.around}
	if s.config.accept != nil {
		c.Facilitators, c.Witness, c.Cashier = []x402.Facilitator{mortalFacilitator{s.facilitator, l}}, s.window, mortalCashier{s.window, l}
		c.Accept = s.config.accept
	}
	l.paywall, err = paywall.New(c)
	s.must("make the paywall", err)
	l.handler = s.routes(l.paywall)
	s.must("routes", l.paywall.Check())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life = l
}

// Crash ends the seller's process as a power failure would, in the middle of whatever it does: buyers see their connections
// break, and what is not in the book of purchases is lost. Another process starts at once over the same book. It may be called
// by a handler, which then works for nobody.
func (s *Server) Crash() {
	s.t.Helper()
	old := s.current()
	old.dead.Store(true)
	s.begin()
	s.web.CloseClientConnections()
	go func() { _ = old.paywall.Close(context.Background()) }() // its goroutine ends; it has nothing left to deliver with
}

// Restart ends the seller's process in order, and starts another over the same book. No request may be under way.
func (s *Server) Restart() {
	s.t.Helper()
	s.must("close the paywall", s.current().paywall.Close(context.Background()))
	s.begin()
}

// mortalHouse is the clearing house as a process sees it.
type mortalHouse struct {
	paywall.House
	life *life
}

func (h mortalHouse) Params(ctx context.Context) (client.Params, error) {
	if err := h.life.alive(); err != nil {
		return client.Params{}, err
	}
	return h.House.Params(ctx)
}

func (h mortalHouse) Certify(ctx context.Context, s guarantee.Signed) (guarantee.Certificate, error) {
	if err := h.life.alive(); err != nil {
		return guarantee.Certificate{}, err
	}
	return h.House.Certify(ctx, s)
}

func (h mortalHouse) CertifyAlone(ctx context.Context, s guarantee.Signed) (guarantee.Certificate, error) {
	if err := h.life.alive(); err != nil {
		return guarantee.Certificate{}, err
	}
	return h.House.CertifyAlone(ctx, s)
}

func (h mortalHouse) Notes(ctx context.Context, notes []guarantee.SignedNote) ([]error, error) {
	if err := h.life.alive(); err != nil {
		return nil, err
	}
	return h.House.Notes(ctx, notes)
}

func (h mortalHouse) Refund(ctx context.Context, s guarantee.Signed, cover []evm.Hash) (guarantee.Certificate, error) {
	if err := h.life.alive(); err != nil {
		return guarantee.Certificate{}, err
	}
	return h.House.Refund(ctx, s, cover)
}

// mortalFacilitator is the facilitator as a process sees it.
type mortalFacilitator struct {
	x402.Facilitator
	life *life
}

func (f mortalFacilitator) Verify(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.VerifyResponse, error) {
	if err := f.life.alive(); err != nil {
		return x402.VerifyResponse{}, err
	}
	return f.Facilitator.Verify(ctx, p, r)
}

func (f mortalFacilitator) Settle(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	if err := f.life.alive(); err != nil {
		return x402.SettleResponse{}, err
	}
	return f.Facilitator.Settle(ctx, p, r)
}

// mortalCashier is the seller's way to pay back as a process sees it.
type mortalCashier struct {
	paywall.Cashier
	life *life
}

func (c mortalCashier) Pay(ctx context.Context, id, network string, token, to evm.Address, amount money.Amount) (evm.Hash, bool, error) {
	if err := c.life.alive(); err != nil {
		return evm.Hash{}, false, err
	}
	return c.Cashier.Pay(ctx, id, network, token, to, amount)
}
