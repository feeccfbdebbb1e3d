package payer

import (
	"net/http"

	"github.com/farthing402/farthing/x402"
)

// signIn asks for a resource that was bought before by saying who asks, where the seller offers that instead of another
// payment. What is signed is a message for that seller. Nil is no answer: there is nothing to say, or the seller did not
// care for it. A 402 has the terms to go on with.
func (p *Payer) signIn(req *http.Request, body []byte, t terms) (*http.Response, error) {
	if _, offered := t.Extensions[x402.SignInKey]; !offered {
		return nil, nil
	}
	bought, err := p.journal.hasBought(row{Payer: p.Key.Address(), Method: req.Method, URL: withoutFragment(req.URL)})
	if err != nil {
		return nil, errJournal(p.Journal, err)
	}
	if !bought {
		return nil, nil
	}
	header, err := t.AnswerSignIn(req.Context(), p.Key, req.URL)
	if err != nil || header == "" {
		p.Log.Debug("not signed in", "url", req.URL.Redacted(), "error", err)
		return nil, req.Context().Err()
	}
	signed := req.Clone(req.Context())
	setBody(signed, body)
	signed.Header.Set(x402.HeaderSignIn, header)
	resp, err := p.Transport.RoundTrip(signed)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		resp.Body.Close()
		return nil, nil
	}
	resp.Request = req // the caller's, without the signature
	return resp, nil
}
