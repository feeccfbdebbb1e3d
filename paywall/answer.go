package paywall

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// replay gives the stored answer with the same receipt.
func (v *visit) replay(w way, p purchase.Purchase) {
	v.event.Kind, v.event.Charged = Replayed, p.Charged
	h := v.w.Header()
	if p.Answer == nil {
		v.event.Status = http.StatusConflict
		copyHeader(h, v.latest(w, p).header())
		x402.WriteError(v.w, x402.Errorf("payment_used", "purchase %s was charged%s, and its answer was not kept", p.ID, because(p.Outcome)).
			WithHint("ask the seller"))
		return
	}
	copyHeader(h, p.Answer.Header)
	copyHeader(h, v.latest(w, p).header())
	if !p.Answer.Whole {
		for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Range", "Etag"} {
			h.Del(name)
		}
		v.event.Status = http.StatusConflict
		x402.WriteError(v.w, x402.Errorf("payment_used", "purchase %s was answered with status %d at %s, and the answer was too large to keep",
			p.ID, p.Answer.Status, p.DoneAt.UTC().Format("15:04:05")).WithHint("buy it again if it did not arrive"))
		return
	}
	v.event.Status = p.Answer.Status
	v.w.WriteHeader(p.Answer.Status)
	if v.r.Method != http.MethodHead && len(p.Answer.Body) > 0 {
		_, _ = v.w.Write(p.Answer.Body)
	}
}

// latest is the receipt of a purchase that is asked for again, with what was given back since.
func (v *visit) latest(w way, p purchase.Purchase) receipt {
	r := v.receiptOf(w, p)
	r.refund = v.pw.refundState(v.r.Context(), p)
	return r
}

// refuse answers with an error. A code of status 402 comes with terms, so that the buyer can pay right away.
func (v *visit) refuse(e *x402.Error) {
	v.event.Code, v.event.Message = e.Code, e.Error()
	status := e.Reason().Status
	if status >= http.StatusInternalServerError {
		v.pw.log.Warn("request not served", "route", v.name(), "code", e.Code, "error", e, "cause", e.Err)
	}
	if status == http.StatusPaymentRequired || status == http.StatusPreconditionFailed {
		other := v.demand(e)
		if other == nil {
			return
		}
		e, status = other, other.Reason().Status
	}
	if v.event.Kind != Unknown {
		v.event.Kind = Refused
	}
	v.event.Status = status
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests || e.Code == "payment_in_progress" {
		v.w.Header().Set("Retry-After", retryAfter(e))
	}
	if money := e.Reason().Money; status == http.StatusServiceUnavailable && !strings.Contains(e.Error(), "charged") {
		said := *e // whoever has paid and is not served asks this first
		said.Message = e.Error() + ". " + strings.TrimSuffix(money, ".")
		e = &said
	}
	x402.WriteError(v.w, e)
}

// retryAfter is when to ask again: as the clearing house has said, or in a second.
func retryAfter(e *x402.Error) string {
	if seconds, err := strconv.ParseUint(e.Details["retryAfter"], 10, 31); err == nil {
		return strconv.FormatUint(max(1, seconds), 10)
	}
	return "1"
}

// makePrivate keeps shared caches from giving away what was sold.
func makePrivate(h http.Header) {
	var kept []string
	private := false
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		directive = strings.TrimSpace(directive)
		name, _, _ := strings.Cut(strings.ToLower(directive), "=")
		switch name {
		case "", "public", "s-maxage":
			continue
		case "private", "no-store":
			private = true
		}
		kept = append(kept, directive)
	}
	if !private {
		kept = append(kept, "private")
	}
	h.Set("Cache-Control", strings.Join(kept, ", "))
}
