package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/webhook/courier"
	"github.com/farthing402/farthing/x402"
)

// coded turns what the clearing house says into a row of the table. notFound is what [clearing.ErrNotFound] means where
// it was asked, signature what a wrong signature is there. It returns nil for a cause that is nobody's but ours.
func coded(err error, notFound, signature string) *x402.Error {
	var own *x402.Error
	var exposure *clearing.ExposureError
	var limit *clearing.LimitError
	say := func(code string) *x402.Error { return &x402.Error{Code: code, Message: err.Error(), Err: err} }
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &exposure):
		e := say("collateral_insufficient")
		e.Details = map[string]string{
			"asked": exposure.Asked.String(), "available": exposure.Free.String(), "asset": exposure.Asset.Lower(),
			"deposited": exposure.Deposited.String(), "inUse": exposure.InUse.String(), "held": exposure.Held.String(),
		}
		return e
	case errors.As(err, &limit):
		e := say("limit_per_cycle_exceeded")
		e.Details = map[string]string{
			"asked": limit.Asked.String(), "used": limit.Used.String(), "limit": limit.Limit.String(), "asset": limit.Asset.Lower(),
		}
		return e
	case errors.Is(err, clearing.ErrUnfinished):
		return &x402.Error{Code: "settlement_pending", Message: "the outcome is not known", Hint: "send the same request again: it is answered as the first time", Err: err}
	case errors.Is(err, clearing.ErrNotAdmitted):
		return say("house_refused")
	case errors.Is(err, clearing.ErrBroken):
		return nil
	case errors.Is(err, guarantee.ErrForm):
		return say("eip191_off").WithHint("sign typed data, and name it eip712")
	case errors.Is(err, evm.ErrHighS):
		return say("high_s")
	case errors.Is(err, guarantee.ErrSignature):
		return say(signature)
	case errors.Is(err, guarantee.ErrVersion):
		return say("malformed_request").WithHint("/core/public-params lists which versions of the claims are accepted")
	case errors.Is(err, guarantee.ErrPolicy):
		return say("validation_invalid")
	case errors.Is(err, clearing.ErrRegistry):
		return say("registry_untrusted")
	case errors.Is(err, guarantee.ErrStale), errors.Is(err, guarantee.ErrFuture):
		return say("timestamp_skew")
	case errors.Is(err, clearing.ErrAmount):
		return say("amount_invalid")
	case errors.Is(err, clearing.ErrConflict):
		return say("guarantee_conflict")
	case errors.Is(err, clearing.ErrSuspended):
		return say("suspended")
	case errors.Is(err, clearing.ErrNotMember):
		return say("not_member")
	case errors.Is(err, clearing.ErrAsset):
		return say("asset_unsupported")
	case errors.Is(err, clearing.ErrSigner):
		return say("note_signer")
	case errors.Is(err, clearing.ErrRaise):
		return say("note_not_lower")
	case errors.Is(err, clearing.ErrPledged):
		return say("note_pledged")
	case errors.Is(err, clearing.ErrCutoff):
		return say("note_too_late")
	case errors.Is(err, courier.ErrNotFound):
		return say("not_found")
	case errors.Is(err, courier.ErrFull):
		return say("webhook_limit")
	case errors.Is(err, clearing.ErrNotFound):
		return say(notFound)
	case errors.Is(err, clearing.ErrParties), errors.Is(err, guarantee.ErrMalformed):
		return say("malformed_request")
	}
	return nil
}

// public is what a client sees of err. A cause that is ours goes to the log, under a reference that the client sees too.
func (h *handler) public(r *http.Request, err error, notFound, signature string) *x402.Error {
	e := coded(err, notFound, signature)
	if e == nil {
		if r.Context().Err() != nil { // nobody is there to be told, and nothing is wrong with us
			return x402.Errorf("house_refused", "the request was given up")
		}
		var id [6]byte
		_, _ = rand.Read(id[:])
		reference := hex.EncodeToString(id[:])
		h.Log.Error("internal error", "reference", reference, "method", r.Method, "path", clip(r.URL.Path), "error", err)
		return x402.Errorf("internal", "internal error %s", reference).WithHint("give the reference %s to the operator", reference)
	}
	if e.Code == "settlement_pending" {
		h.Log.Warn("outcome unknown", "path", clip(r.URL.Path), "error", err)
	}
	return e
}

// refuse answers a request with an error, and returns what it said.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) *x402.Error {
	e := h.public(r, err, "not_found", "payer_signature_invalid")
	status := e.Reason().Status
	if status == http.StatusPaymentRequired {
		status = http.StatusBadRequest
	}
	switch status {
	case http.StatusRequestEntityTooLarge:
		w.Header().Set("Connection", "close") // what was not read must not be taken for the next request
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if seconds := retryAfter(err, status); seconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	h.write(w, r, status, e)
	return e
}

func (h *handler) write(w http.ResponseWriter, r *http.Request, status int, out any) {
	p, is := out.(page)
	if !is {
		body, err := appendJSON(nil, out)
		if err != nil {
			h.Log.Error("internal error", "path", clip(r.URL.Path), "error", err)
			status, body = http.StatusInternalServerError, []byte(`{"error":"internal error","code":"internal","hint":""}`)
		}
		p = page{status: status, kind: "application/json", body: body}
	}
	body := p.body
	header := w.Header()
	header.Set("Content-Type", p.kind)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if p.stream != nil {
		w.WriteHeader(p.status)
		if err := p.stream(w); err != nil && r.Context().Err() == nil {
			h.Log.Error("answer broken off", "path", clip(r.URL.Path), "error", err)
			panic(http.ErrAbortHandler) // an answer that ends early must not look whole
		}
		return
	}
	body = append(body, '\n')
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.status)
	if _, err := w.Write(body); err != nil && !errors.Is(err, context.Canceled) {
		h.Log.Debug("answer not delivered", "path", clip(r.URL.Path), "error", err)
	}
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
