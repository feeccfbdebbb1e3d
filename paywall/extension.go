package paywall

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Valid lets a buyer come back: who has paid for the route may ask again without paying until so long after, by a
// sign-in-with-x that the 402 asks for. On a route that sells bundles, a bundle's own time says that instead.
func Valid(d time.Duration) Option {
	return func(rt *route) {
		if d < time.Second || d > 366*24*time.Hour {
			rt.wrong("valid: between a second and a year")
		}
		rt.valid = d
	}
}

// Listed lets facilitators put the route into their lists of what is for sale (bazaar).
func Listed() Option { return func(rt *route) { rt.listed = true } }

// extensions are what a 402 says beside its offers.
func (v *visit) extensions(offers []offer, accepts []x402.Requirements) (map[string]json.RawMessage, error) {
	out := v.advertised(offers)
	if v.pw.signs() {
		signed := make([]x402.Signed, len(accepts))
		for i, r := range accepts {
			var err error
			offer := x402.MakeOffer(v.resource, r, uint64(offers[0].quote.Expires))
			if v.pw.cfg.SignOffers == x402.FormatJWS {
				signed[i], err = x402.SignOfferJWS(v.r.Context(), v.pw.cfg.Signer, v.pw.kid(v.r.Context()), offer, i)
			} else {
				signed[i], err = x402.SignOffer(v.r.Context(), v.pw.cfg.Signer, offer, i)
			}
			if err != nil {
				return nil, err
			}
		}
		out[x402.OfferReceiptKey] = x402.DeclareOffers(signed)
	}
	if v.valid > 0 {
		networks := make([]string, 0, 1)
		for _, o := range offers {
			if name := o.chain.CAIP2(); !slices.Contains(networks, name) {
				networks = append(networks, name)
			}
		}
		entry, err := x402.DeclareSignIn(v.resource, "Return to what you have paid for.", networks, v.nonce(), v.began)
		if err != nil {
			return nil, err
		}
		out[x402.SignInKey] = entry
	}
	return out, nil
}

// signs reports whether offers and receipts are signed.
func (pw *Paywall) signs() bool { return pw.cfg.SignOffers != "" && pw.cfg.Signer != nil }

// kid names the payee's key in the form jws: as a did:key, which whoever reads it can check without asking anybody. What it
// takes for that, the public key, is in a signature. While the key is away, the account is named.
func (pw *Paywall) kid(ctx context.Context) string {
	pw.mu.Lock()
	known := pw.did
	pw.mu.Unlock()
	if known != "" {
		return known
	}
	digest := evm.Keccak256([]byte("FARTHING_KEY_V1"))
	signature, err := pw.cfg.Signer.Sign(ctx, digest)
	if err != nil {
		return x402.PKH(pw.chain.ID, pw.payee)
	}
	key, err := evm.RecoverKey(digest, signature)
	if err != nil {
		return x402.PKH(pw.chain.ID, pw.payee)
	}
	pw.mu.Lock()
	defer pw.mu.Unlock()
	pw.did = x402.KeyDID(key)
	return pw.did
}

// advertised are the extensions that are the same in every 402 of a request, and that payments have to send back as they
// were if they send them back.
func (v *visit) advertised(offers []offer) map[string]json.RawMessage {
	out := map[string]json.RawMessage{x402.PaymentIDKey: x402.DeclarePaymentID(false)}
	for _, o := range offers {
		w, ok := o.way.(*transfer)
		if !ok || !w.byPermit2(o.token) {
			continue
		}
		for key, entry := range map[string]func() json.RawMessage{exact.PermitExtension: x402.DeclareEIP2612, exact.ApprovalExtension: x402.DeclareERC20Approval} {
			if w.sponsors(o.chain.CAIP2(), key) && (key != exact.PermitExtension || o.token.EIP2612) {
				out[key] = entry()
			}
		}
	}
	if v.listed {
		if entry, err := v.sale().Declare(); err == nil {
			out[x402.BazaarKey] = entry
		} else {
			v.pw.log.Warn("route cannot be listed", "route", v.name(), "error", err)
		}
	}
	return out
}

// sponsors reports whether the facilitator of a network is known to pay for an allowance so.
func (w *transfer) sponsors(caip2, key string) bool {
	for _, f := range w.lists {
		if list, ok := f.known(); ok {
			if _, ok := list.Find(2, w.called, caip2); ok {
				return slices.Contains(list.Extensions, key)
			}
		}
	}
	return false
}

var parameter = regexp.MustCompile(`\{([A-Za-z0-9_]+)(\.\.\.|\$)?\}`)

// sale describes the route to whoever looks for something to buy.
func (v *visit) sale() x402.Sale {
	s := x402.Sale{Method: v.r.Method}
	_, path, found := strings.Cut(v.r.Pattern, " ")
	if !found {
		path = v.r.Pattern
	}
	if names := parameter.FindAllStringSubmatch(path, -1); len(names) > 0 {
		s.RouteTemplate = parameter.ReplaceAllString(path, ":$1")
		s.PathParams = make(map[string]any)
		for _, name := range names {
			s.PathParams[name[1]] = v.r.PathValue(name[1])
		}
	}
	for name, values := range v.r.URL.Query() {
		if s.Query == nil {
			s.Query = make(map[string]any)
		}
		s.Query[name] = values[0]
	}
	if s.Method == http.MethodPost || s.Method == http.MethodPut || s.Method == http.MethodPatch {
		s.BodyType, s.Body = "json", map[string]any{}
	}
	return s
}

// agreeExtensions holds a payment to the extensions that the 402 had, as far as it sends them back.
func (v *visit) agreeExtensions(p *x402.Payment, a *agreement) *x402.Error {
	if len(p.Extensions) == 0 {
		return nil
	}
	if e := x402.CheckEcho(v.advertised([]offer{a.offer}), p.Extensions); e != nil {
		return e
	}
	id, e := p.PaymentID(false)
	if e != nil {
		return e
	}
	if id != "" && a.purchase == "" {
		// The id is the payer's word for its purchase: another payment under it is a conflict.
		a.purchase = purchase.IDFromPayment(evm.Keccak256([]byte("FARTHING_PAYMENT_ID_V1"), a.facts.payer[:], []byte(id)))
		a.paymentID = id
	}
	return nil
}

// nonce is one that the paywall knows again: eight random bytes and what only it can add to them.
func (v *visit) nonce() (n [16]byte) {
	_, _ = rand.Read(n[:8]) // never fails
	copy(n[8:], v.sealed(n[:8]))
	return n
}

func (v *visit) sealed(random []byte) []byte {
	h := hmac.New(sha256.New, v.pw.secret[:])
	h.Write([]byte("FARTHING_SIGN_IN_V1"))
	h.Write(random)
	h.Write([]byte(v.name()))
	return h.Sum(nil)[:8]
}

// signedIn serves a buyer that has paid for the route before and says who it is. It reports false if the request says
// nothing of the kind.
func (v *visit) signedIn() (handled bool, refusal *x402.Error) {
	if v.valid == 0 {
		return false, nil
	}
	said, e := x402.ReadSignIn(v.r.Header)
	if said == nil && e == nil {
		return false, nil
	}
	v.event.Way = "sign-in"
	if e != nil {
		return true, e
	}
	origin, err := url.Parse(v.pw.origin(v.r))
	if err != nil {
		return true, internal(err)
	}
	ctx := v.r.Context()
	who, err := said.Check(ctx, origin, v.began, nil)
	if err != nil {
		return true, internal(err)
	}
	v.event.Payer = who
	nonce, err := hex.DecodeString(said.Nonce)
	if err != nil || len(nonce) != 16 || !hmac.Equal(nonce[8:], v.sealed(nonce[:8])) {
		return true, x402.Errorf("sign_in_invalid", "the nonce is not one of this seller's 402")
	}
	before, ok, err := v.pw.cfg.Purchases.Bought(ctx, who, v.pw.payee, v.name(), v.began.Add(-v.valid))
	switch {
	case err != nil:
		return true, bookDown(err)
	case !ok:
		return true, x402.Errorf("payment_required", "%s has not paid for this in the last %s", who, v.valid)
	}
	if e := v.useNonce(ctx, nonce, before); e != nil {
		return true, e
	}
	v.event.Kind, v.event.Status, v.event.Purchase = NotCharged, http.StatusOK, before.ID
	v.event.Code = "returned"
	makePrivate(v.w.Header())
	v.handler.ServeHTTP(v.w, v.fresh(ctx))
	return true, nil
}

// useNonce takes a nonce once, on every gate of the book and across restarts: it becomes a purchase that costs nothing.
func (v *visit) useNonce(ctx context.Context, nonce []byte, before purchase.Purchase) *x402.Error {
	ctx = context.WithoutCancel(ctx)
	id := evm.Keccak256([]byte("FARTHING_SIGN_IN_V1"), nonce)
	p := purchase.Purchase{
		ID: purchase.IDFromPayment(id), Payment: id, State: purchase.Reserved, Route: before.Route + " (returned)", Method: v.r.Method, URL: v.resource,
		Way: "sign-in", Network: before.Network, Asset: before.Asset, Payer: before.Payer, Payee: before.Payee, Unit: before.Unit, ReservedAt: v.began,
	}
	_, err := v.pw.cfg.Purchases.Reserve(ctx, p)
	switch {
	case err == nil:
	case isTaken(err):
		return x402.Errorf("sign_in_used", "the sign-in was used at this seller before")
	default:
		return bookDown(err)
	}
	p.State, p.DoneAt, p.Outcome = purchase.Void, v.began, "returned"
	if err := v.pw.cfg.Purchases.Finish(ctx, p); err != nil {
		return bookDown(err)
	}
	return nil
}
