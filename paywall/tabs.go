package paywall

import (
	"encoding/json"
	"net/http"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/x402"
)

// Tabs returns the handler that gives 4Mica's clients a request id before they sign. Mount it for POST at Config.TabPath.
// Ids are random, so nothing has to be remembered; it asks for no payment and promises none.
func (pw *Paywall) Tabs() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, e := pw.tab(r)
		if e != nil {
			if e.Code == "method_not_allowed" {
				w.Header().Set("Allow", http.MethodPost)
			}
			x402.WriteError(w, e)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(answer)
	})
}

func (pw *Paywall) tab(r *http.Request) (x402.Tab, *x402.Error) {
	if r.Method != http.MethodPost {
		return x402.Tab{}, x402.Errorf("method_not_allowed", "%s: post the question", r.Method)
	}
	q, e := x402.ReadTabRequest(r.Body)
	if e != nil {
		return x402.Tab{}, e
	}
	wrong := func(format string, args ...any) (x402.Tab, *x402.Error) {
		return x402.Tab{}, x402.Errorf("malformed_request", format, args...)
	}
	asset := pw.assets[0].Address
	if q.Asset != nil {
		asset = *q.Asset
	}
	if q.Terms != nil {
		if q.Terms.Scheme != guarantee.Scheme {
			return wrong("scheme %q needs no request id", clip(q.Terms.Scheme))
		}
		if payee, err := evm.ParseAddress(q.Terms.PayTo); err != nil || payee != pw.payee {
			return wrong("%s is paid here, not %s", pw.payee, clip(q.Terms.PayTo))
		}
		if asked := guarantee.VersionFor(*q.Terms); q.Version != 0 && q.Version != asked {
			return wrong("these terms want a guarantee of version %d, not %d", asked, q.Version)
		}
		var err error
		if asset, err = evm.ParseAddress(q.Terms.Asset); err != nil {
			return wrong("asset: %w", err)
		}
	}
	if q.Payee != nil && *q.Payee != pw.payee {
		return wrong("%s is paid here, not %s", pw.payee, *q.Payee)
	}
	answer, err := q.Tab(pw.payee, asset, pw.cfg.Now())
	if err != nil {
		return answer, internal(err)
	}
	return answer, nil
}
